"""Manifests and other JSON that anybody may have written: read, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.errors import InputError
from coevo_ray.store.artifact import begin, begun_config, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.inside import inside
from coevo_ray.store.journal import Journal
from coevo_ray.store.json_text import object_of, parse_json
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest, load_manifest
from coevo_ray.store.row_table import RowTable
from tests.command_line import Command

OUTSIDE = [
    "",
    "/etc/passwd",
    "../pool/a.parquet",
    "a/../../b",
    "a//b",
    "./a",
    "a/.",
    "..",
    "s3://bucket/a",
    "file:///etc/passwd",
    "a\0b",
    "..\\b",
    "a\nb",
    "a?endpoint_override=evil.example",
    "a#b",
    "\ud800",
    None,
    7,
    ["a"],
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def table(folder: Path) -> Path:
    place = Location.parse(folder)
    begin(place, "numbers", {"a": 1}, {"pool": "id"})
    rows = pa.table({"row_id": np.arange(5), "x": np.arange(5)})
    finish(place, "numbers", {"a": 1}, {"pool": "id"}, [write_table(place, "a.parquet", rows)], {"seconds": 1.0})
    return folder


def change(folder: Path, **fields: Any) -> Path:
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    of_file = {name: fields.pop(name) for name in list(fields) if name in content["files"][0] and name != "rows"}
    content["files"][0] |= of_file
    file.write_text(json.dumps({**content, **fields}))
    return folder


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(InputError, match="manifest of test names the file"):
        inside(name, "manifest of test")
    (tmp_path / "outside.parquet").write_bytes(b"")
    folder = change(table(tmp_path / "table"), path=name)
    with pytest.raises(InputError, match=r"table/manifest\.json is no manifest of ours: files\.0\.path") as caught:
        load_manifest(Location.parse(folder))
    assert str(caught.value).isprintable() or "\n  remedy" in str(caught.value)
    with pytest.raises(InputError):
        RowTable(Location.parse(folder))


@settings(max_examples=300, derandomize=True)
@given(st.text(st.sampled_from("ab./\\:?#\0\n~%"), max_size=12))
def test_a_name_that_is_taken_stays_inside_on_any_store(name: str) -> None:
    try:
        inside(name, "x")
    except InputError:
        return
    for folder in (Location("/data/table"), Location("s3://bucket/table?region=here")):
        child = folder.child(name)
        assert child.path.startswith(f"{folder.path}/")
        assert child._root == folder._root
        assert Path(child.path).parts[: len(Path(folder.path).parts)] == Path(folder.path).parts
        assert ".." not in Path(child.path).parts


def test_links_that_a_user_made_are_followed(tmp_path: Path) -> None:
    folder = table(tmp_path / "table")
    (folder / "a.parquet").rename(tmp_path / "elsewhere.parquet")
    (folder / "a.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    assert RowTable(folder).row_ids().tolist() == [0, 1, 2, 3, 4]


def test_keys_of_a_later_version_are_left_aside(tmp_path: Path) -> None:
    folder = table(tmp_path)
    before = load_manifest(Location.parse(folder))
    content = json.loads((folder / "manifest.json").read_text())
    content["files"][0]["colour"] = "red"
    (folder / "manifest.json").write_text(json.dumps({**content, "lease": {"until": 1}}))
    assert load_manifest(Location.parse(folder)) == before


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"rows": "x"}, "rows"),
        ({"rows": -1}, "rows"),
        ({"rows": True}, "rows"),
        ({"rows": 1.5}, "rows"),
        ({"files": {}}, "files"),
        ({"files": [1]}, r"files\.0"),
        ({"files": None}, "files"),
        ({"bytes": -1}, r"files\.0\.bytes"),
        ({"bytes": 2**63}, r"files\.0\.bytes"),
        ({"first_row_id": "0"}, r"files\.0\.first_row_id"),
        ({"last_row_id": 10**30}, r"files\.0\.last_row_id"),
        ({"sha256": None}, r"files\.0\.sha256"),
        ({"config": []}, "config"),
        ({"inputs": ["pool"]}, "inputs"),
        ({"summary": "none"}, "summary"),
        ({"schema_version": "1"}, "schema_version"),
        ({"kind": 1}, "kind"),
        ({"package_version": 2}, "package_version"),
    ],
)
def test_fields_of_other_types_are_refused_by_name(tmp_path: Path, fields: dict[str, Any], where: str) -> None:
    folder = change(table(tmp_path), **fields)
    with pytest.raises(InputError, match=where) as caught:
        load_manifest(Location.parse(folder), "numbers")
    assert "manifest.json" in caught.value.cause and caught.value.remedy


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON: 'utf-8' codec"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "nests deeper"),
        (b"[" * 102 + b"]" * 102, "nests deeper"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nests deeper"),
        (b"1" * 5000, "is not JSON"),
        (b"[]", "holds a JSON list, need an object"),
        (b'"text"', "holds a JSON str, need an object"),
        (b"null", "holds a JSON NoneType, need an object"),
    ],
)
def test_a_manifest_that_is_none_exits_with_3(tmp_path: Path, coevo_ray: Command, content: bytes, cause: str) -> None:
    table(tmp_path / "table")
    (tmp_path / "table/manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=cause):
        load_manifest(Location.parse(tmp_path / "table"))
    if content:
        with pytest.raises(InputError, match=r"manifest\.json"):
            begun_config(Location.parse(tmp_path / "table"))
    result = coevo_ray("doctor", "--artifact", str(tmp_path / "table"))
    assert result.returncode == 3 and cause in result.stderr.replace("\n", " "), result.stderr
    assert "remedy: " in result.stderr and "Traceback" not in result.stderr


def test_the_mark_of_an_unfinished_artifact_is_checked_too(tmp_path: Path) -> None:
    place = Location.parse(tmp_path)
    begin(place, "numbers", {"a": 1}, {})
    write_table(place, "a.parquet", pa.table({"x": [1]}))
    for content in (b"[]", b"{}", b"\xff", b"[" * 10_000):
        (tmp_path / "_started.json").write_bytes(content)
        with pytest.raises(InputError, match=r"_started\.json"):
            begin(place, "numbers", {"a": 1}, {})


def test_numbers_that_are_none_and_repeated_keys_are_read() -> None:
    found = parse_json(b'\xef\xbb\xbf{"a": NaN, "b": 1, "b": 2}', "x")
    assert np.isnan(found["a"]) and found["b"] == 2
    with pytest.raises(InputError, match="a in x is float, need int"):
        object_of(found, "x", {"a": int})
    with pytest.raises(InputError, match="c in x is missing, need str"):
        object_of(found, "x", {"c": str})


@settings(max_examples=300, derandomize=True)
@given(JSON, st.sampled_from(["kind", "config", "inputs", "rows", "files", "summary", "schema_version", "created", ""]))
def test_any_json_is_a_manifest_or_refused(value: Any, field: str) -> None:
    content: Any = {"kind": "a", "config": {}, "inputs": {}, "rows": 0, "files": []}
    content = {**content, field: value} if field else value
    try:
        manifest = Manifest.from_json(content, "x")
    except InputError as error:
        assert error.cause.startswith("x is no manifest of ours: ")
        return
    assert isinstance(manifest.rows, int) and manifest.rows >= 0 and isinstance(manifest.files, tuple)
    assert isinstance(manifest.identity, str)


@pytest.mark.parametrize(
    "head", [b"[" * 128, b'{"next": "1", "sha256": ""}', b'{"next": true, "sha256": ""}', b"[1, 2]"]
)
def test_a_journal_with_another_head_is_refused(tmp_path: Path, head: bytes) -> None:
    journal = Journal(Location.parse(tmp_path))
    journal.append("one", {}, {})
    (tmp_path / "head").write_bytes(head)
    with pytest.raises(InputError, match="head is damaged"):
        list(Journal(Location.parse(tmp_path)).replay())


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"__metadata__": {"event": "a", "fields": "{}"}, "x": {"dtype": "", "shape": [], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"event": "a", "fields": "{}"}, "x": {"dtype": "F8", "shape": [], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"event": "a", "fields": "' + b"[" * 9_999 + b'"}}',
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "0000000000.record").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"0000000000\.record is damaged"):
        list(Journal(Location.parse(tmp_path)).replay())
