from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coevo_ray.annotators.answer_parquet import read_parquet
from coevo_ray.config import Source
from coevo_ray.errors import InputError
from coevo_ray.pool.sources import cut, list_source, read_keys
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.parquet_chunks import OpenParquet
from coevo_ray.store.row_table import RowTable

# Of the footer, in Thrift's compact protocol: an INT64 column that may be null, and one that may not.
_OPTIONAL, _REQUIRED = b"\x15\x04\x25\x02\x18\x06", b"\x15\x04\x25\x00\x18\x06"


def _written(**columns: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=2)
    return sink.getvalue()


def _damaged() -> bytes:
    """A column that was written with nulls in mind is not null by its schema: its size statistics do not fit."""
    data = _written(row_id=[0, 1, 2], label=["a", "b", "c"])
    assert data.count(_OPTIONAL + b"row_id") == 1
    return data.replace(_OPTIONAL + b"row_id", _REQUIRED + b"row_id")


def test_metadata_of_columns_is_that_of_pyarrow() -> None:
    data = _written(row_id=[0, 1, 2], nested=[{"a": 1, "b": "x"}] * 3, label=["a", "b", "c"])
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    with OpenParquet(pa.BufferReader(data)) as opened:
        assert [opened.rows(group) for group in (0, 1)] == [2, 1]
        for group in (0, 1):
            chunks = list(opened.chunks(group, ["nested", "label"]))
            assert chunks == [metadata.row_group(group).column(i) for i in (1, 2, 3)]
            assert list(opened.chunks(group, [])) == []


def test_asking_reads_nothing_but_the_footer() -> None:
    data = bytearray(_written(row_id=list(range(3)), label=["a", "b", "c"]))
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    data[4:-footer] = bytes(len(data) - footer - 4)
    with OpenParquet(pa.BufferReader(bytes(data))) as opened:
        assert [chunk.path_in_schema for chunk in opened.chunks(0, ["label"])] == ["label"]


def test_a_damaged_footer_raises_where_pyarrow_ends_the_process() -> None:
    with OpenParquet(pa.BufferReader(_damaged())) as opened:
        assert [chunk.path_in_schema for chunk in opened.chunks(0, ["label"])] == ["label"]
        with pytest.raises(OSError, match="histogram"):
            list(opened.chunks(0, ["row_id"]))


def test_a_column_chunk_of_another_type_than_its_schema_raises() -> None:
    """In Thrift's compact protocol the metadata of a chunk begin with their type, INT64; encodings follow."""
    data = _written(row_id=[0, 1, 2], label=["a", "b", "c"])
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    place = data.index(b"\x1c\x15\x04\x19", footer) + 1
    damaged = data[:place] + b"\x15\x02" + data[place + 2 :]
    with (
        OpenParquet(pa.BufferReader(damaged)) as opened,
        pytest.raises(OSError, match="INT32, by the schema INT64"),
    ):
        list(opened.chunks(0, ["row_id"]))


def test_label_files_sources_and_artifacts_with_one_are_refused(tmp_path: Path) -> None:
    place = Location.parse(tmp_path)
    with pytest.raises(InputError, match="histogram"):
        read_parquet(place.child("a.parquet"), _damaged())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_bytes(_damaged())
    source = Source(uri=str(tmp_path / "in"), text_column="label", key_column="row_id")
    (whole,) = list_source(source, 10).shards
    with pytest.raises(InputError, match=r"a\.parquet.*histogram"):
        [list(read_keys(shard)) for shard in cut(whole, 10)]
    artifact = place.child("table")
    finish(artifact, "codes", {}, {}, [_entry(write_blob(artifact, "a.parquet", _damaged()))], {})
    with pytest.raises(InputError, match=r"a\.parquet"):
        RowTable(artifact).read(np.array([0]), ["label"])


def _entry(file: FileEntry) -> FileEntry:
    return replace(file, rows=3, first_row_id=0, last_row_id=2, group_rows=2)
