"""Parts are taken over where they are of the same things under the same name, and every bit is as it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.parts import Parts

NAMES = {"table": "part-0.parquet", "arrays": "part-0.safetensors"}
FORMS = list(NAMES)


def rows() -> pa.Table:
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(40, dtype=np.float16)), 4)
    return pa.table({"row_id": np.arange(5, 15), "feature": features, "key": [f"{i:064d}" for i in range(10)]})


def written(parts: Parts, form: str) -> str:
    name = NAMES[form]
    if form == "table":
        parts.write_table(name, rows().replace_schema_metadata({"looked": "3"}), group_rows=4)
    else:
        parts.write_arrays(name, {"row_ids": np.arange(10), "values": np.arange(6, dtype=np.float32).reshape(2, 3)})
    return name


@pytest.mark.parametrize("form", FORMS)
def test_a_part_is_found_again_by_what_it_was_made_of(form: str, tmp_path: Path) -> None:
    here = Location.parse(tmp_path)
    parts = Parts.of(here, {"dim": 4}, {"pool": "a"})
    name = written(parts, form)
    entry = parts.entries([name, "part-1.parquet"])
    assert list(entry) == [name] and entry[name].rows == (10 if form == "table" else 0)
    assert entry[name].bytes == (tmp_path / name).stat().st_size
    again = Parts.of(here, {"dim": 4}, {"pool": "a"})
    assert again.entries([name]) == entry
    for other in (Parts.of(here, {"dim": 5}, {"pool": "a"}), Parts.of(here, {"dim": 4}, {"pool": "b"})):
        assert other.entries([name]) == {}


def test_content_and_metadata_come_back(tmp_path: Path) -> None:
    parts = Parts.of(Location.parse(tmp_path), 1)
    found, entry = parts.table(written(parts, "table")) or pytest.fail("not found")
    assert found.equals(rows()) and found.schema.metadata[b"looked"] == b"3"
    assert (entry.first_row_id, entry.last_row_id, entry.group_rows) == (5, 14, 4)
    arrays, _ = parts.arrays(written(parts, "arrays")) or pytest.fail("not found")
    others = load_safetensors((tmp_path / NAMES["arrays"]).read_bytes())
    for have in (arrays, others):
        assert np.array_equal(have["row_ids"], np.arange(10)) and have["values"].shape == (2, 3)


def test_a_part_that_was_made_from_a_part_has_its_own_seal(tmp_path: Path) -> None:
    raw, parts = (Parts.of(Location.parse(tmp_path), number) for number in (1, 2))
    table, _ = raw.table(written(raw, "table")) or pytest.fail("not found")
    parts.write_table("part-1.parquet", table)
    assert list(parts.entries(["part-1.parquet"])) == ["part-1.parquet"]
    assert not raw.entries(["part-1.parquet"])


@pytest.mark.parametrize("form", FORMS)
def test_a_part_under_another_name_is_none(form: str, tmp_path: Path) -> None:
    parts = Parts.of(Location.parse(tmp_path), 1)
    name = written(parts, form)
    other = name.replace("0", "1")
    (tmp_path / name).rename(tmp_path / other)
    assert parts.entries([name, other]) == {}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 64])
@pytest.mark.parametrize("form", FORMS)
def test_files_of_others_are_none(form: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAMES[form]).write_bytes(content)
    assert Parts.of(Location.parse(tmp_path), 1).entries([NAMES[form]]) == {}


def test_a_table_without_a_seal_is_none(tmp_path: Path) -> None:
    here = Location.parse(tmp_path)
    write_table(here, NAMES["table"], rows())
    assert Parts.of(here, 1).entries([NAMES["table"]]) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(FORMS), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_wherever_it_is(form: str, place: float, bit: int, tmp_path: Path) -> None:
    parts = Parts.of(Location.parse(tmp_path), 1)
    name = written(parts, form)
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    assert parts.entries([name]) == {}
    for length in (0, int(place * len(content))):
        file.write_bytes(content[:length])
        assert parts.entries([name]) == {}


def test_the_same_part_has_the_same_bytes(tmp_path: Path) -> None:
    for form in FORMS:
        contents = []
        for folder in ("a", "b"):
            parts = Parts.of(Location.parse(tmp_path / folder), {"b": 1, "a": 2})
            contents.append((tmp_path / folder / written(parts, form)).read_bytes())
        assert contents[0] == contents[1]
