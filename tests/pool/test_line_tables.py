"""CSV and JSON Lines: shards give what one reading of the whole file gives, wherever they are cut."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.config import Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool import line_tables
from coevo_ray.pool.entries import Entry
from coevo_ray.pool.line_tables import CsvRecords
from coevo_ray.pool.sources import cut, list_source, read_keys, read_shard
from coevo_ray.store.location import Location
from tests.command_line import Command

_CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


def entries(path: Path, shard_rows: int = 4, **settings: Any) -> list[Entry]:
    source = Source(uri=str(path), **{"text_column": "text", **settings})
    shards = [part for shard in list_source(source, shard_rows).shards for part in cut(shard, shard_rows)]
    assert all(0 < shard.rows <= shard_rows for shard in shards)
    found = [entry for shard in shards for entry in read_shard(shard)]
    assert [entry.key for entry in found] == [key for shard in shards for key in read_keys(shard)]
    return found


@given(
    st.lists(st.tuples(_CELLS, _CELLS, _CELLS), min_size=1, max_size=30),
    st.integers(1, 7),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_csv_is_cut_between_records(
    rows: list[tuple[str, str, str]], shard_rows: int, delimiter: str, end: str, bom: bool
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
    writer.writerow(["id", "text", "other"])
    writer.writerows(rows)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + buffer.getvalue().encode())
        found = entries(path, shard_rows, label_column=None)
    assert [entry.key for entry in found] == [f"a.csv:{i}" for i in range(len(rows))]
    for (_, text, _), entry in zip(rows, found, strict=True):
        assert entry.sample == (text if text.strip() else None)
        assert bool(entry.error) == (not text.strip())


@given(st.lists(st.one_of(_CELLS, st.none(), st.integers()), min_size=1, max_size=30), st.integers(1, 7))
def test_json_lines_are_cut_between_lines(values: list[str | int | None], shard_rows: int) -> None:
    lines = [json.dumps({"text": value, "label": i}, ensure_ascii=i % 2 == 0) for i, value in enumerate(values)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("\n\n".join(lines), encoding="utf-8")  # without an end, and with empty lines between
        found = entries(path, shard_rows)
    assert len(found) == len(values)
    for i, (value, entry) in enumerate(zip(values, found, strict=True)):
        good = isinstance(value, str) and bool(value.strip())
        assert entry.sample == (value if good else None)
        assert (entry.label == i) or not good
        assert bool(entry.error) == (not good)


@given(
    st.lists(st.sampled_from(["a", ",", " ", "\n", "\r\n", "\n\n", '\n"b\nc",', '\n"b""c",d\n']), max_size=40),
    st.integers(1, 9),
)
def test_lines_are_counted_where_they_are_records(parts: list[str], block: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(line_tables, "_BLOCK", block)
        path = Path(folder) / "a.csv"
        path.write_bytes(("text,label\n" + "".join(parts)).encode())
        read, counted = (CsvRecords(Location.parse(str(path))) for _ in range(2))
        assert [end for ends in counted.ends() for end in ends] == [read.position for _ in read]


def test_keys_labels_and_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.csv").write_text("id,text,label\nx1,one,cat\nx2,two,\n,three,dog\n")
    source = Source(uri=str(tmp_path), text_column="text", key_column="id")
    shards = list_source(source, 10).shards
    assert sorted(str(shard.split) for shard in shards) == ["test", "train"]
    found = entries(tmp_path / "train" / "a.csv", key_column="id")
    assert [(e.key, e.text, bool(e.error)) for e in found] == [
        ("x1", "cat", False),
        ("x2", "", False),
        ("a.csv:2", "", True),
    ]


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        (b"text\nfine\n\xff\xfe bad\n", ["", "text that is not UTF-8 in column text"]),
        (b"text,label\na,b,c\nfine,1\n", ["3 fields, the header names 2", ""]),
        (b"text,label\nfine,\xff\n", ["text that is not UTF-8 in column label"]),
        (b"sep=;\ntext;label\nfine;1\n", [""]),
        (b'text\n"a\nb"\n', [""]),
    ],
)
def test_records_that_cannot_be_used_are_told(tmp_path: Path, content: bytes, errors: list[str]) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert [entry.error for entry in entries(tmp_path / "a.csv")] == errors


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "no header"),
        ("a.csv", b"text,text\na,b\n", "twice"),
        ("a.csv", b"body\na\n", "no column 'text'; its columns are"),
        ("a.jsonl", b'{"body": 1}\n', "no column 'text'"),
        ("a.jsonl", b"[1]\n{]\n", "none of its first lines is a JSON object"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        entries(tmp_path / name)


def test_an_unclosed_quote_is_named_and_does_not_take_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coevo_ray.pool.line_tables._MOST", 1 << 16)
    (tmp_path / "a.csv").write_bytes(b'text\nfine\n"open\n' + b"more\n" * 50_000)
    with pytest.raises(InputError, match="byte 10"):
        entries(tmp_path / "a.csv")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "' + b"x" * (3 << 20) + b'"}\n')
    with pytest.raises(InputError, match="a line of more than"):
        entries(tmp_path / "b.jsonl")


def test_a_nul_within_a_cell_is_kept_by_every_python(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,label\na\0b,cat\n"c,\0",dog\n')
    records = list(CsvRecords(Location(str(tmp_path / "a.csv"))))
    assert records == [{"text": "a\0b", "label": "cat"}, {"text": "c,\0", "label": "dog"}]


def test_only_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nfine\n")
    with pytest.raises(UsageError, match="only texts are read"):
        list_source(Source(uri=str(tmp_path / "a.csv"), format="csv"), 4)


def test_json_that_is_no_object_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n[1]\n{"text": \n{"text": "\\ud800"}\n' + "[" * 9999 + "\n")
    errors = [entry.error for entry in entries(tmp_path / "a.jsonl")]
    assert errors[0] == ""
    assert errors[1] == "no JSON object but list"
    assert errors[2].startswith("no JSON: ")
    assert errors[3] == "text that is not UTF-8 in column text"
    assert errors[4].startswith("no JSON")


@pytest.mark.usefixtures("ray_local")
def test_ingest_takes_csv_and_json_lines(tmp_path: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentences = [f"sentence {i}, with a comma" for i in range(40)]
    (tmp_path / "both").mkdir()
    with (tmp_path / "both" / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["body", "label"], *([text, f"c{i % 2}"] for i, text in enumerate(sentences))])
    made = coevo_ray("ingest", "both", "--text-column", "body", "--shard-rows", "16", "--out", "pool", "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["rows"], told["class_names"]) == (40, ["c0", "c1"])
    from coevo_ray.pool.pool import Pool

    pool = Pool.open("pool")
    assert pool.read(np.arange(40), ["text"]).column("text").to_pylist() == sentences
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences))
    made = coevo_ray("ingest", "a.jsonl", "--text-column", "text", "--out", "lines", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["rows"] == 40
