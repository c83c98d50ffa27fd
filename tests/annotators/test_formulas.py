from __future__ import annotations

import csv
import io
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.formulas import escaped, escaped_table, unescaped, unescaped_texts
from coevo_ray.store.csv_text import csv_text
from coevo_ray.store.location import Location
from tests.annotators.pools import as_dicts, make_pool, questions

SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"
# Much of what matters, in any order, among anything else.
texts = st.text(st.sampled_from([*SIGNS, *"';,|\t\r\n\0 \"\u00a0a1"]), max_size=12) | st.text(max_size=12)


@given(texts)
def test_any_text_comes_back(text: str) -> None:
    assert unescaped(escaped(text)) == text
    assert unescaped(escaped(escaped(text))) == escaped(text)
    column = pa.array([text, None, "a", text])
    table = escaped_table(pa.table({"a": column, "b": [1, 2, 3, 4]}))
    assert unescaped_texts(table.column("a").combine_chunks()).to_pylist() == [text, None, "a", text]
    assert table.column("b").to_pylist() == [1, 2, 3, 4]


@given(texts, st.sampled_from([",", ";", "\t"]))
def test_no_cell_is_run_under_any_delimiter(text: str, delimiter: str) -> None:
    """Also by a program that reads the file with another delimiter, or that knows no quotes."""
    content = csv_text([[7, escaped(text), "x"]])
    quoted = [cell for row in csv.reader(io.StringIO(content, newline=""), delimiter=delimiter) for cell in row]
    # Commas are within quotes for programs that split at them.
    plain = [] if delimiter == "," else [cell for line in content.splitlines() for cell in line.split(delimiter)]
    for cell in (*quoted, *plain):
        assert not cell.strip().strip('"').strip().startswith(tuple(SIGNS)), cell
    assert not escaped(text).startswith((*SIGNS, "\t", "\r", "\n", "\0"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("-5", "'-5"),
        ("@sum", "'@sum"),
        ("+1-2", "'+1-2"),
        ("\t=x", "'\t'=x"),
        ("\rx", "'\rx"),
        (" =x", " '=x"),
        ('"=x"', '"\'=x"'),
        ("'=x", "''=x"),
        ("a;=x", "a;'=x"),
        ("a\n- b", "a\n'- b"),
        ("'tis", "'tis"),
        ("img-001.png", "img-001.png"),
        ("a = b", "a = b"),
        ("a, -b", "a, -b"),
        ("", ""),
    ],
)
def test_what_is_written(text: str, cell: str) -> None:
    assert escaped(text) == cell


def test_a_long_text_takes_time_in_proportion() -> None:
    started = time.monotonic()
    for text in ("\n" * 300_000 + "=", " " * 300_000 + "x", "= " * 150_000, "'" * 300_000 + "=", ";-" * 150_000):
        assert unescaped(escaped(text)) == text
    assert time.monotonic() - started < 20


# Python 3.10's csv reads no NUL. A class has no spaces around it, and a key is not of spaces alone, nor of such without
# width, which answers lose.
visible = texts.map(lambda text: text.replace("\0", "")).filter(
    lambda text: any(not sign.isspace() and sign not in "\u200b\u2060\ufeff" for sign in text)
)
keys = st.lists(visible, min_size=6, max_size=6, unique=True)
names = st.lists(visible.map(str.strip), min_size=3, max_size=3, unique=True)


@settings(max_examples=60, deadline=None)
@given(keys, names, st.sampled_from(["row_id", "nothing"]))
def test_keys_and_classes_come_back_exactly_from_a_request_file(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], names: list[str], by: str
) -> None:
    folder = tmp_path_factory.mktemp("drop")
    pool = make_pool(folder / "pool", keys, texts=keys, files=1)
    desk = FileDrop(Location.parse(str(folder)), pool, names)
    desk.send(questions(range(6)))
    request = (folder / "requests" / "round-0000.csv").read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(request, newline="")))
    written = io.StringIO()
    writer = csv.writer(written)
    # What was predicted is copied into label, as people do; row 0 has no prediction.
    writer.writerows([[by, "key", "label"], *([row["row_id"], row["key"], row["predicted"]] for row in rows)])
    (folder / "answers" / "a.csv").write_bytes(written.getvalue().encode("utf-8-sig"))
    collected = desk.collect()
    assert collected.problems == ()
    assert as_dicts(collected) == {"a": {row: row % 3 for row in range(1, 6)}}


def test_a_key_that_other_programs_wrote_with_an_apostrophe(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", ["=x", "'=x", "'=y", "b"], texts=list("abcd"), files=1)
    desk = FileDrop(Location.parse(str(tmp_path)), pool, ("c0", "c1", "c2"))
    (tmp_path / "answers").mkdir()
    # By row_id the key as it stands is right; without one ours is the reading; '=y is known in no other way.
    (tmp_path / "answers" / "a.csv").write_text("row_id,key,label\n1,'=x,c1\n,'=x,c0\n,'=y,c2\n")
    collected = desk.collect()
    assert (as_dicts(collected), collected.problems) == ({"a": {0: 0, 1: 1, 2: 2}}, ())


def test_request_files_as_parquet_are_not_escaped(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", ["=x", "b"], texts=["-a", "b"], files=1)
    FileDrop(Location.parse(str(tmp_path)), pool, ("@c", "d", "e"), format="parquet").send(questions([0, 1]))
    table = pq.read_table(tmp_path / "requests" / "round-0000.parquet")
    assert table.column("key").to_pylist() == ["=x", "b"] and table.column("text").to_pylist() == ["-a", "b"]
    assert np.array_equal(table.column("row_id").to_numpy(), [0, 1])
