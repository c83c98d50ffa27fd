from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import describe, write_blob, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest, load_manifest
from coevo_ray.store.verification import verify


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "artifact"))


def _table(start: int, rows: int) -> pa.Table:
    return pa.table({"row_id": np.arange(start, start + rows), "x": np.arange(rows)})


def _make(place: Location) -> Manifest:
    assert begin(place, "numbers", {"a": 1, "deep": {"b": [1, 2]}}, {"pool": "id"}) is None
    files = [write_table(place, "one.parquet", _table(0, 5)), write_table(place, "two.parquet", _table(5, 3))]
    return finish(place, "numbers", {"a": 1, "deep": {"b": [1, 2]}}, {"pool": "id"}, files, {"seconds": 1.0})


def test_a_finished_artifact_reads_back(place: Location) -> None:
    manifest = _make(place)
    assert manifest == load_manifest(place, "numbers")
    assert manifest.rows == 8
    assert [(f.first_row_id, f.last_row_id) for f in manifest.files] == [(0, 4), (5, 7)]
    assert verify(place, manifest) == []


def test_a_second_begin_finds_it_done(place: Location) -> None:
    manifest = _make(place)
    assert begin(place, "numbers", {"a": 1, "deep": {"b": [1, 2]}}, {"pool": "id"}) == manifest


def test_without_manifest_it_does_not_exist(place: Location) -> None:
    begin(place, "numbers", {"a": 1}, {})
    write_table(place, "one.parquet", _table(0, 5))
    with pytest.raises(InputError, match="started and not completed"):
        load_manifest(place)


@pytest.mark.parametrize("finished", [False, True])
def test_changed_config_is_refused_with_both_values(place: Location, finished: bool) -> None:
    if finished:
        _make(place)
    else:
        begin(place, "numbers", {"a": 1, "deep": {"b": [1, 2]}}, {"pool": "id"})
        write_table(place, "one.parquet", _table(0, 5))
    with pytest.raises(UsageError) as caught:
        begin(place, "numbers", {"a": 2, "deep": {"b": [1, 2]}}, {"pool": "other"})
    text = str(caught.value)
    assert "config.a: there 1, asked for 2" in text
    assert "inputs.pool: there 'id', asked for 'other'" in text


def test_an_attempt_that_wrote_nothing_binds_nobody(place: Location) -> None:
    begin(place, "numbers", {"a": 1}, {})
    assert begin(place, "numbers", {"a": 2}, {}) is None
    write_table(place, "one.parquet", _table(0, 5))
    with pytest.raises(UsageError, match="a: there 2, asked for 3"):
        begin(place, "numbers", {"a": 3}, {})


def test_wrong_kind_and_newer_schema_are_refused(place: Location) -> None:
    _make(place)
    with pytest.raises(InputError, match="holds a numbers, a pool is needed"):
        load_manifest(place, "pool")
    content = place.child("manifest.json").read_json()
    place.child("manifest.json").write_json({**content, "schema_version": 99})
    with pytest.raises(InputError, match="schema version 99"):
        load_manifest(place)


def test_identity_follows_content_not_time(tmp_path: Path) -> None:
    one = _make(Location.parse(str(tmp_path / "1")))
    two = _make(Location.parse(str(tmp_path / "2")))
    assert one.identity == two.identity
    other = Location.parse(str(tmp_path / "3"))
    entry = write_table(other, "one.parquet", _table(0, 6))
    assert finish(other, "numbers", one.config, one.inputs, [entry], {}).identity != one.identity


def test_describe_agrees_with_write(place: Location) -> None:
    table = write_table(place, "one.parquet", _table(7, 5), group_rows=2)
    assert describe(place, "one.parquet") == table
    blob = write_blob(place, "x.bin", b"abc")
    assert describe(place, "x.bin") == blob


def test_unsorted_row_ids_are_refused(place: Location) -> None:
    with pytest.raises(InputError, match="do not increase"):
        write_table(place, "x.parquet", pa.table({"row_id": np.array([1, 1])}))


def test_damage_is_found(place: Location) -> None:
    manifest = _make(place)
    Path(place.child("one.parquet").path).write_bytes(b"damaged")
    Path(place.child("two.parquet").path).unlink()
    assert verify(place, manifest) == ["one.parquet", "two.parquet"]
