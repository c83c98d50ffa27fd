from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.errors import InputError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column, vectors


def make_table(folder: Path, ids: list[list[int]], group_rows: int = 3) -> RowTable:
    place = Location.parse(str(folder))
    files = []
    for i, row_ids in enumerate(ids):
        row_id = np.array(row_ids, dtype=np.int64)
        columns = {"row_id": row_id, "x": row_id * 10, "v": vector_column(np.stack([row_id, -row_id], axis=1))}
        files.append(write_table(place, f"f{i}.parquet", pa.table(columns), group_rows))
    finish(place, "numbers", {}, {}, files, {})
    return RowTable(place, "numbers")


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=1), st.data(), st.integers(1, 9), st.integers(1, 4))
def test_reads_any_rows_by_id(ids: set[int], data: st.DataObject, group_rows: int, files: int) -> None:
    row_ids = sorted(ids)
    wanted = sorted(data.draw(st.sets(st.sampled_from(row_ids))))
    parts = [part.tolist() for part in np.array_split(row_ids, files)]
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(Path(folder) / "t", parts, group_rows)
        rows = table.read(np.array(wanted, dtype=np.int64), ["x"])
        assert rows.column("row_id").to_pylist() == wanted
        assert rows.column("x").to_pylist() == [i * 10 for i in wanted]
        assert table.row_ids().tolist() == row_ids


def test_missing_rows_and_columns_are_named(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", [[0, 1], [4, 5]])
    with pytest.raises(InputError, match="has 1 of 2 wanted rows"):
        table.read(np.array([1, 2]), ["x"])
    with pytest.raises(InputError, match="has 0 of 1 wanted rows"):
        table.read(np.array([99]), ["x"])
    with pytest.raises(InputError, match=r"no column \['y'\]"):
        table.read(np.array([1]), ["y"])


def test_row_groups_without_a_wanted_row_are_not_read(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", [list(range(12))], group_rows=3)
    whole = RowTable(table.location)
    whole.read(np.arange(12), ["x"])
    table.read(np.array([1, 10]), ["x"])
    assert (whole.groups_read, table.groups_read) == (4, 2)
    # All groups take about the same bytes, and those of the column that nobody wanted do not count.
    assert table.bytes_read == pytest.approx(whole.bytes_read / 2, rel=0.1)
    table.read(np.array([1]), ["x", "v"])
    assert table.bytes_read > 0.8 * whole.bytes_read


def test_overlapping_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="overlap"):
        make_table(tmp_path / "t", [[0, 5], [3, 9]])


def test_vectors_round_trip() -> None:
    matrix = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float16)
    assert np.array_equal(vectors(pa.chunked_array([vector_column(matrix)]), np.float16), matrix)
    part = vector_column(matrix).slice(2, 3)
    assert np.array_equal(vectors(part, np.float16), matrix[2:5])


def test_block_starts_are_row_groups(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", [list(range(7)), list(range(7, 12))], group_rows=3)
    assert table.block_starts().tolist() == [0, 3, 6, 7, 10]
    gaps = make_table(tmp_path / "gaps", [list(range(0, 40, 4)), [50]], group_rows=5)
    assert gaps.block_starts().tolist() == [0, 18, 36, 50]
