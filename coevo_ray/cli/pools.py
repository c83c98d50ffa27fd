"""The command ingest."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import options, plain_fields, settings, takes
from coevo_ray.cli.options import JsonFlag, Out
from coevo_ray.cli.show import show_lines
from coevo_ray.config import PoolConfig, Source
from coevo_ray.core.json import JsonObject

_OF_SOURCES = plain_fields(Source, without=("uri",))
_OF_POOL = plain_fields(PoolConfig)


@takes(*options(Source, _OF_SOURCES), *options(PoolConfig, _OF_POOL))
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Folders or files; local, s3:// or gs://; or sample:NAME.")],
    out: Out,
    *,
    feature_column: Annotated[
        list[str] | None, typer.Option(help="Parquet column of vectors to keep in the pool; may be repeated.")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the finished pool at --out; its settings need not be repeated.")
    ] = False,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Make a pool from images, texts or vectors: row_ids, splits, rejects. Or append to one.

    Formats: image folders (class sub-folders give labels), Parquet, Parquet of Hugging Face datasets (split and class
    names are understood), WebDataset tars, CSV and JSON Lines of texts (--text-column), folders of .txt files (--format
    texts), NumPy matrices of vectors (keys and labels lie beside NAME.npy as NAME.keys.txt and NAME.labels.npy).
    Defaults are in square brackets.
    """
    from coevo_ray.app import api

    columns = settings(Source, _OF_SOURCES, given)  # only a column that was named must be there
    if feature_column:
        columns["feature_columns"] = feature_column
    config = settings(PoolConfig, _OF_POOL, given) | {"sources": [{"uri": uri, **columns} for uri in sources]}
    pool = api.ingest(config, out, append=append)
    made = {"pool": str(pool.location), **pool.manifest.summary}
    show_lines(made, closing.of_pool(made), as_json)
