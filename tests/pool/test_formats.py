"""The seam of formats: one more, registered here, is listed, cut and read like those of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from coevo_ray.config import PoolConfig, Source
from coevo_ray.errors import InputError
from coevo_ray.pipelines.ingest.passes import check_shard
from coevo_ray.pool.entries import Entry, Format, FoundFiles, Reading, SourceShard, pack_names
from coevo_ray.pool.sources import FORMATS, cut, list_source, read_keys, read_shard
from coevo_ray.store.location import Location
from tests.pool.pictures import png, write_images

SUFFIX = ".jsonl"


def shards(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    if not found.runs:
        raise InputError(f"no JSON lines among {found.seen} files", "give some")
    reading = Reading(source.uri, "jsonl", source.data_column, source.modality)
    return [SourceShard(reading, pack_names([name]), 0, -1) for name in found.names]


def lines(shard: SourceShard) -> list[str]:
    location = Location.parse(shard.reading.uri)
    return location.child(shard.files[0]).read_bytes().decode().splitlines()


def cut_lines(shard: SourceShard, shard_rows: int) -> list[SourceShard]:
    count = len(lines(shard))
    starts = range(0, count, shard_rows)
    return [SourceShard(shard.reading, shard.names, s, min(shard_rows, count - s)) for s in starts]


def read(shard: SourceShard) -> Iterator[Entry]:
    for key, line in zip(keys(shard), lines(shard)[shard.start :][: shard.rows], strict=True):
        yield Entry(key, json.loads(line)[shard.reading.data_column], None)


def keys(shard: SourceShard) -> Iterator[str]:
    return (f"{shard.files[0]}:{shard.start + i}" for i in range(shard.rows))


@pytest.fixture
def jsonl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    made = Format("jsonl", lambda name: name.endswith(SUFFIX), shards, read, keys, cut_lines)
    monkeypatch.setitem(FORMATS, made.name, made)
    for name, count in (("a", 3), ("b", 1)):
        text = "".join(json.dumps({"body": f"{name}{i}"}) + "\n" for i in range(count))
        (tmp_path / f"{name}{SUFFIX}").write_text(text)
    return tmp_path


def test_a_new_format_is_found_cut_and_read(jsonl: Path) -> None:
    source = Source(uri=str(jsonl), text_column="body")  # format: auto
    whole = list_source(source, 2).shards
    assert [(s.files, s.rows) for s in whole] == [(["a.jsonl"], -1), (["b.jsonl"], -1)]
    parts = [part for shard in whole for part in cut(shard, 2)]
    assert [e.sample for part in parts for e in read_shard(part)] == ["a0", "a1", "a2", "b0"]
    assert [key for part in parts for key in read_keys(part)] == ["a.jsonl:0", "a.jsonl:1", "a.jsonl:2", "b.jsonl:0"]
    found = check_shard(0, parts[0], PoolConfig(sources=(source,)))
    assert found.usable.tolist() == [True, True]


def test_formats_that_stand_before_it_are_preferred(jsonl: Path) -> None:
    write_images(jsonl, {"c.png": png(0)})
    (shard,) = list_source(Source(uri=str(jsonl)), 2).shards
    assert (shard.reading.format, shard.files) == ("images", ["c.png"])


def test_the_settings_name_the_formats_of_the_registry() -> None:
    named = get_args(Source.model_fields["format"].annotation)
    assert named == ("auto", *FORMATS)
    assert all(name == made.name for name, made in FORMATS.items())


def test_a_source_with_no_known_file_gets_the_error_of_the_format_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    for name, message in (
        ("auto", "no images in .*: 1 files"),
        ("images", "no images in .*: 1 files"),
        ("parquet", "no Parquet files"),
        ("huggingface", "no Parquet files"),
        ("webdataset", "no tars"),
    ):
        with pytest.raises(InputError, match=message):
            list_source(Source.model_validate({"uri": str(tmp_path), "format": name}), 2)
