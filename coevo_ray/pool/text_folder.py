"""Folders of text files: one file a text; labels and splits from folders, as those of images (`folder_layout`)."""

from __future__ import annotations

from coevo_ray.config import Source
from coevo_ray.config.pool import TEXT
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Format, FoundFiles, SourceShard
from coevo_ray.pool.image_folder import file_shards, is_guessed, is_note, read_file_keys, read_files
from coevo_ray.pool.modality import MODALITIES

_NAME = "texts"
_EXTENSIONS = MODALITIES[TEXT].extensions
_SUFFIXES = tuple(f".{extension}" for extension in _EXTENSIONS)


def is_text_file(name: str) -> bool:
    """Tests a file's name for `.txt`; names without an ending may be texts too (those of news groups and mails are).

    A note on the data that lies above all folders, such as `README.txt`, is none.
    """
    base = name.lower().removesuffix(_SUFFIXES[0])
    return not is_note(base) and ("." not in base.rpartition("/")[2] or base != name.lower())


def list_texts(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    """Makes one shard of each run of names; reads no text.

    Raises:
        InputError: there are no texts, or the source is one file.
        UsageError: a setting needs columns, which text files do not have, or the folders allow two readings.
    """
    columns = {"feature_columns": source.feature_columns, "key_column": source.key_column}
    if source.text_column not in (None, *_EXTENSIONS):
        columns["text_column"] = source.text_column
    named = [setting for setting, value in columns.items() if value]
    if named:
        raise UsageError(
            f"{named[0]} is set and {source.uri} holds text files, which have no columns",
            f"leave {named[0]} out and give format: texts (--format texts), or Parquet, CSV or JSON Lines",
        )
    if not found.runs:
        raise InputError(
            f"no texts in {source.uri}: {found.seen} files, none ends in .txt",
            "give a folder of .txt files (sub-folders are classes); of Parquet, CSV, JSON Lines or tars leave format "
            "out and name the text_column",
        )
    if found.location.is_file():
        raise InputError(
            f"{source.uri} is one text", "give the folder that holds the texts; of one text a line make JSON Lines"
        )
    return file_shards(source, found, _NAME, source.label_column)


TEXTS = Format(
    _NAME,
    is_text_file,
    list_texts,
    read_files,
    read_file_keys,
    takes=lambda source: source.modality == TEXT,
    guesses=is_guessed,
)
