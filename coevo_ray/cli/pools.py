"""The command ingest."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli.options import JsonFlag, Out, given
from coevo_ray.cli.show import show


def ingest(
    sources: Annotated[list[str], typer.Argument(help="Folders or files; local, s3:// or gs://; or sample:digits.")],
    out: Out,
    format: Annotated[
        str, typer.Option(help="images, parquet, huggingface or webdataset; auto looks at the files.")
    ] = "auto",
    image_column: Annotated[
        str | None, typer.Option(help="Parquet column of image bytes, or extension in tars. [image; in tars any]")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Make a pool of texts: Parquet column, or extension in tars (txt).")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Parquet column or .json field of labels. [label; in tars .cls first]")
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Parquet column or .json field of your own ids. [file:row; in tars the name]")
    ] = None,
    key_prefix: Annotated[str | None, typer.Option(help="Put before every key of these sources.")] = None,
    feature_column: Annotated[
        list[str] | None, typer.Option(help="Parquet column of vectors to keep in the pool; may be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Put all rows into train or test.")] = None,
    test_fraction: Annotated[float | None, typer.Option(help="Share of rows to hold out. [0.2]")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes; other labels are rejected.")] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Scale images with a longer side above so many pixels down to it.")
    ] = None,
    reject_duplicates: Annotated[
        str | None, typer.Option(help="key, or content: also reject equal bytes or texts. [key]")
    ] = None,
    max_reject_fraction: Annotated[
        float | None, typer.Option(help="End the job when more rows than this are rejected. [0.05]")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the finished pool at --out; its settings need not be repeated.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a pool from images or texts: row_ids, splits, rejects. Or append to one.

    Formats: image folders (class sub-folders give labels), Parquet, Parquet of Hugging Face datasets (split and class
    names are understood), WebDataset tars. What stands in square brackets is used when an option is not given.
    """
    from coevo_ray.app import api

    columns = given(
        image_column=image_column,
        text_column=text_column,
        label_column=label_column,  # only a column that was named must be there
        key_column=key_column,
        key_prefix=key_prefix,
        feature_columns=feature_column or None,
        split=split,
    )
    settings = given(
        test_fraction=test_fraction,
        classes=classes,
        max_side=max_side,
        reject_duplicates=reject_duplicates,
        max_reject_fraction=max_reject_fraction,
    )
    settings["sources"] = [{"uri": uri, "format": format, **columns} for uri in sources]
    pool = api.ingest(settings, out, append=append)
    show({"pool": str(pool.location), **pool.manifest.summary}, as_json)
