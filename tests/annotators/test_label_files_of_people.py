"""Label files as people and their programs write them: what is taken, and what is refused with its line and cause."""

from __future__ import annotations

import gzip
import io
import time
import tracemalloc
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.actors.answered import MOST_ANNOTATORS
from coevo_ray.annotators import answer_files
from coevo_ray.annotators.answer_files import read_answer_file
from coevo_ray.annotators.base import Collected
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from tests.annotators.pools import as_dicts, make_pool

KEYS = [f"café/{i}.png" for i in range(10)]
NAMES = ("cat, wild", 'said "hi"', "café", "other")
DIGITS = tuple("0123456789")


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), KEYS)


def read(
    pool: Pool, folder: Path, content: str | bytes, names: tuple[str, ...] = NAMES, file: str = "a.csv"
) -> Collected:
    path = folder / file
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_answer_file(Location.parse(str(path)), pool, len(names), names)


def check_messages(*messages: str) -> None:
    """No message has a control character, or the whole of a long text."""
    for message in messages:
        assert message.replace("\n  remedy: ", " ").isprintable() and len(message) < 2500


TAKEN: dict[str, tuple[str | bytes, tuple[str, ...], dict[int, int]]] = {
    "quotes": ('row_id,label\n0,"cat, wild"\n1,"said ""hi"""\n2,café\n', NAMES, {0: 0, 1: 1, 2: 2}),
    "a label in the other Unicode form": (f"row_id,label\n0,{nfd('café')}\n", NAMES, {0: 2}),
    "a class in the other Unicode form": ("row_id,label\n0,café\n1,CAFÉ\n", (nfd("café"), "other"), {0: 0, 1: 0}),
    "a key in the other Unicode form": (f"key,label\n{nfd('café/3.png')},other\n", NAMES, {3: 3}),
    "a key in other case": ("key,label\nCafé/3.PNG,other\n", NAMES, {3: 3}),
    "other case": ("row_id,label\n0,Other\n1,OTHER\n2,other \n", NAMES, {0: 3, 1: 3, 2: 3}),
    "UTF-16 with tabs": ("row_id\tlabel\n0\tcafé\n".encode("utf-16"), NAMES, {0: 2}),
    "UTF-16, big end first": (b"\xfe\xff" + "row_id,label\n0,café\n".encode("utf-16-be"), NAMES, {0: 2}),
    "UTF-32": ("row_id,label\n0,café\n".encode("utf-32"), NAMES, {0: 2}),
    "byte order mark": ("\ufeffrow_id,label\n0,café\n", NAMES, {0: 2}),
    "Excel's first line": ("sep=;\nrow_id;label\n0;café\n", NAMES, {0: 2}),
    "mark and Excel's first line": ("\ufeffSEP=;\r\nrow_id;label\r\n0;café\r\n", NAMES, {0: 2}),
    "Excel's first line in UTF-16": ("sep=\t\nrow_id\tlabel\n0\tcafé\n".encode("utf-16"), NAMES, {0: 2}),
    "Excel's first line saved again": ('"sep=;";\nrow_id;label\n0;café\n', NAMES, {0: 2}),
    "a strange delimiter in it": ("sep=|\nrow_id|label\n0|café\n", NAMES, {0: 2}),
    "TRUE and FALSE": ("row_id,label\n0,TRUE\n1,FALSE\n", ("false", "true"), {0: 1, 1: 0}),
    "numbers as names": ("row_id,label\n0,1\n1,2.0\n2,3.\n", ("1", "2", "3"), {0: 0, 1: 1, 2: 2}),
    "names that were floats": ("row_id,label\n0,1\n1,2.0\n2,3.00\n", ("1.0", "2.0", "3.0"), {0: 0, 1: 1, 2: 2}),
    "3 and 3.0 are two names": ("row_id,label\n0,3\n1,3.0\n", ("3", "3.0"), {0: 0, 1: 1}),
    "digits with gaps": ("row_id,label\n0,3.0\n1,\n2,7.0\n", DIGITS, {0: 3, 2: 7}),
    "negative names": ("row_id,label\n0,-1\n1,-1.0\n2,1\n", ("-1", "1"), {0: 0, 1: 0, 2: 1}),
    "no answers": ("row_id,label\n0,NaN\n1,NA\n2,\n3,null\n4,N/A\n5,#N/A\n6,<NA>\n7, \n8,other\n", NAMES, {8: 3}),
    "a class that is called NA": ("row_id,label\n0,NA\n1,na\n2,nan\n", ("NA", "other"), {0: 0, 1: 0}),
    "no row_id but a key": (f"row_id,key,label\nNaN,{KEYS[3]},other\n,{KEYS[4]},café\n", NAMES, {3: 3, 4: 2}),
    "a header with spaces and capitals": ("Row ID, Label ,\n0,other,\n", NAMES, {0: 3}),
    "a header in quotes with hyphens": ('"ROW-ID";"LABEL"\n0;other\n', NAMES, {0: 3}),
    "a header with hard spaces": ("\u200brow_id\u00a0,\u00a0label\n0,other\n", NAMES, {0: 3}),
    "delimiters at the end": ("row_id,label,,\n0,other,,\n1,café,,\n", NAMES, {0: 3, 1: 2}),
    "blank lines": ("\n\nrow_id,label\n\n0,other\n   \n,\n\n1,café\n\n", NAMES, {0: 3, 1: 2}),
    "CR alone": ("row_id,label\r0,other\r1,café\r", NAMES, {0: 3, 1: 2}),
    "all line ends": ("row_id,label\r\n0,other\n1,café\r2,other", NAMES, {0: 3, 1: 2, 2: 3}),
    "the same answer twice": ("row_id,label\n0,other\n0,Other\n", NAMES, {0: 3}),
    "hard spaces": ("row_id,label\n0,\u00a0other\u00a0\n1,\u2003other\n", NAMES, {0: 3, 1: 3}),
    "zero-width spaces": ("row_id,label\n0,\u200bother\ufeff\n1,oth\u200ber\n", NAMES, {0: 3, 1: 3}),
    "names that differ in zero width": ("row_id,label\n0,a\u200b\n1,a\n2, a\n", ("a\u200b", "a"), {0: 0, 1: 1, 2: 1}),
    "a hard space within": ("row_id,label\n0,big\u00a0bird\n", ("big bird", "x"), {0: 0}),
    "marks of direction": ("row_id,label\n0,\u200eother\u200f\n", NAMES, {0: 3}),
    "a key with spaces around": (f"key,label\n\u00a0{KEYS[1]} ,other\n", NAMES, {1: 3}),
    "apostrophes of ours": ("row_id,label\n0,'=x\n1,'-1\n2,''=x\n", ("=x", "-1", "'=x"), {0: 0, 1: 1, 2: 2}),
    "apostrophes that are not": ("row_id,label\n0,'tis\n1,'=y\n", ("'tis", "'=y"), {0: 0, 1: 1}),
    "Label Studio's CSV": (
        "annotation_id,annotator,confidence,created_at,id,image,key,label,lead_time,row_id\n"
        f"1,2,,x,5,u,{KEYS[0]},café,1.5,0\n",
        NAMES,
        {0: 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_meant_is_taken(pool: Pool, tmp_path: Path, case: str) -> None:
    content, names, expected = TAKEN[case]
    collected = read(pool, tmp_path, content, names)
    assert collected.problems == ()
    assert {row: label for labels in as_dicts(collected).values() for row, label in labels.items()} == expected


NONE_OF = 'is none of cat, wild, said "hi", café, other'
TOLD: dict[str, tuple[str | bytes, tuple[str, ...], dict[int, int], list[str]]] = {
    "zero is no False": (
        "row_id,label\n0,True\n1,0\n2,1.0\n", ("no", "yes"), {1: 0, 2: 1}, ["line 2: label 'True' is none of no, yes"],
    ),
    "zeros in front": (
        "row_id,label\n0,1\n2,01\n", ("1", "2"), {0: 0}, ["line 3: label '01' is none of 1, 2"],
    ),
    "negative numbers": (
        "row_id,label\n0,-1\n-1,other\n-0,other\n", NAMES, {},
        [f"line 2: label '-1' {NONE_OF}", "line 3: row_id '-1' is not in the pool (0..9)",
         "line 4: row_id '-0' is not in the pool (0..9)"],
    ),
    "two answers": (
        "row_id,label\n0,other\n0,café\n1,other\n", NAMES, {1: 3},
        ["row 0 has different labels by 'a': 'other' ({file}, line 2), 'café' ({file}, line 3); none is taken: leave "
         "the right one"],
    ),
    "thousands and exponents": (
        'row_id,label\n"1,000",other\n1e0,other\n0001,other\n1.5,other\n', NAMES, {1: 3},
        ["line 2: row_id '1,000' is not in the pool (0..9)", "line 3: row_id '1e0' is not in the pool (0..9)",
         "line 5: row_id '1.5' is not in the pool (0..9)"],
    ),
    "digits of full width": (
        "row_id,label\n\uff11,other\n1,\uff11\n", NAMES, {},
        ["line 2: row_id '\uff11' is not in the pool (0..9)", f"line 3: label '\uff11' {NONE_OF}"],
    ),
    "a line that is short": ("row_id,label\n0\n1,other\n", NAMES, {1: 3}, ["line 2: 1 values, the header has 2"]),
    "delimiters at the end of lines": (
        "row_id,label\n0,other,\n1,other\n", NAMES, {1: 3}, ["line 2: 3 values, the header has 2"],
    ),
    "lines behind Excel's first": (
        "sep=;\nrow_id;label\n0;wolf\n1\n", NAMES, {},
        ["line 4: 1 values, the header has 2", f"line 3: label 'wolf' {NONE_OF}"],
    ),
    "lists": (
        'row_id,label\n0,"[""café""]"\n1,"{""choices"": [""café"", ""other""]}"\n', NAMES, {},
        [f"""line 2: label '["café"]' {NONE_OF}""", f"""line 3: label '{{"choices": ["café", "other"]}}' {NONE_OF}"""],
    ),
    "NUL": ("row_id,label\n0,oth\0er\n1,other\n", NAMES, {1: 3}, [f"line 2: label 'oth\\x00er' {NONE_OF}"]),
    "a file of which zeros were written": (
        "row_id,label\n0,other\n" + "\0" * 20, NAMES, {0: 3}, ["line 3: 1 values, the header has 2"],
    ),
    "a formula": ("row_id,label\n0,=other\n", NAMES, {}, [f"line 2: label '=other' {NONE_OF}"]),
    "a number for a key": ("key,label\n3,other\n", NAMES, {}, ["line 2: key '3' is not in the pool"]),
    "names that differ in case": (
        "row_id,label\n0,us\n1,US\n2,Us\n", ("us", "US"), {0: 0, 1: 1}, ["line 4: label 'Us' is none of us, US"],
    ),
    "names that are equal in NFC": (
        "row_id,label\n0,café\n1," + nfd("café") + "\n2,CAFÉ\n", ("café", nfd("café")), {0: 0, 1: 1},
        [f"line 4: label 'CAFÉ' is none of café, {nfd('café')}"],
    ),
    "3 means 3.0 or 3.00": (
        "row_id,label\n0,3\n1,3.0\n", ("3.0", "3.00"), {1: 0}, ["line 2: label '3' is none of 3.0, 3.00"],
    ),
    "a long label": (
        f"row_id,label\n0,{'x' * 100_000}\n1,other\n", NAMES, {1: 3},
        [f"line 2: label '{'x' * 80}'... (100,000 characters) {NONE_OF}"],
    ),
    "a long annotator": (
        f"row_id,label,annotator\n0,other,{'x' * 1001}\n1,other,{'x' * 1000}\n", NAMES, {1: 3},
        [f"line 2: annotator '{'x' * 80}'... (1,001 characters) is no name"],
    ),
    "control characters": (
        "row_id,label\n\x1b[31m7,other\n0,\u202ex\x07\n", NAMES, {},
        ["line 2: row_id '\\x1b[31m7' is not in the pool (0..9)", f"line 3: label '\\u202ex\\x07' {NONE_OF}"],
    ),
    "a label of two lines": (
        'row_id,label\n0,"other\n1,other"\n', NAMES, {},
        [f"line 2: label 'other\\n1,other' {NONE_OF} (is a quote not closed?)"],
    ),
    "none is an answer": ("row_id,label\n0,none\n", NAMES, {}, [f"line 2: label 'none' {NONE_OF}"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_lines_that_cannot_be_taken_are_told_with_their_cause(pool: Pool, tmp_path: Path, case: str) -> None:
    content, names, expected, told = TOLD[case]
    collected = read(pool, tmp_path, content, names)
    assert {row: label for labels in as_dicts(collected).values() for row, label in labels.items()} == expected
    file = tmp_path / "a.csv"
    assert [p.removeprefix(f"{file}, ") for p in collected.problems] == [t.replace("{file}", str(file)) for t in told]
    check_messages(*(p.replace(nfd("é"), "é") for p in collected.problems))


REFUSED: dict[str, tuple[str, str | bytes, str, str]] = {
    "Latin-1": (
        "a.csv", "row_id;label\r\n0;café\r\n".encode("latin-1"),
        "is not UTF-8 text: line 2 has the byte 0xe9, invalid continuation byte; it may be Latin-1 or Windows-1252",
        "UTF-8",
    ),
    "UTF-16 without a mark": (
        "a.csv", "row_id,label\n0,café\n".encode("utf-16-le"), "UTF-16 or UTF-32 without a byte order mark", "UTF-8",
    ),
    "UTF-16 cut short": ("a.csv", "row_id,label\n".encode("utf-16")[:-1], "is not UTF-16 text", "UTF-8"),
    "a workbook": ("a.xlsx", b"PK\x03\x04" + bytes(200), "is an Excel workbook", "export it as CSV"),
    "a workbook called .csv": (
        "a.csv", b"PK\x03\x04" + bytes(26) + b"xl/workbook.xml", "is an Excel workbook", "export it as CSV",
    ),
    "an old workbook": (
        "a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is an Excel workbook", "export it as CSV",
    ),
    "LibreOffice": (
        "a.ods", b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet",
        "is an OpenDocument spreadsheet", "export it as CSV",
    ),
    "a ZIP": ("a.zip", b"PK\x03\x04" + bytes(26) + b"a.csv", "is a ZIP archive", "unpack it"),
    "a packed CSV": ("a.csv.gz", gzip.compress(b"row_id,label\n0,other\n"), "is a gzip file", "unpack it"),
    "gzip": ("a.csv", b"\x1f\x8b" + bytes(30), "is a gzip file", "unpack it"),
    "PDF": ("a.pdf", b"%PDF-1.7\n\xff", "is a PDF", "export it as CSV"),
    "an image": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(9), "is an image", "tables"),
    "Feather": ("a.feather", b"ARROW1\0\0" + bytes(30), "is an Arrow", "Parquet"),
    "HTML": ("a.csv", "<html><body>Please log in</body></html>", "is an HTML page", "download"),
    "HTML with a mark": ("a.csv", "\ufeff\n <!DOCTYPE html>\n<p>x</p>", "is an HTML page", "download"),
    "XML": ("a.csv", "<?xml version='1.0'?>\n<Workbook/>", "is XML", "export it as CSV"),
    "JSON": ("a.json", '[{"row_id":0,"label":"other"}]', "is JSON", "CSV"),
    "JSON lines": ("a.csv", '{"row_id": 0, "label": "other"}\n{"row_id": 1}\n', "is JSON", "CSV"),
    "zeros": ("a.csv", b"x" + bytes(1000), "UTF-16 or UTF-32", "CSV"),
    "bytes": ("a.csv", b"xy\0\x01\0z\n", "is no text", "CSV"),
    "other columns": ("a.csv", "id,label\n0,other\n", "has columns ['id', 'label'], need row_id or key", "header"),
    "columns with control characters": ("a.csv", "id,\x1b[31m\x07\n0,x\n", r"['id', '\x1b[31m\x07']", "header"),
    "a header twice": ("a.csv", "row_id,label,Row ID\n0,other,1\n", "has columns ['row_id'] twice", "header"),
    "more columns than a spreadsheet has": (
        "a.csv", "row_id,label" + ",c" * 20_000 + "\n", "has 20,002 columns, at most 16,384 are read", "row_id",
    ),
    "a million columns": (
        "a.csv", "row_id,label," + ",".join(f"c{i}" for i in range(1_000_000)) + "\n0,other" + "," * 1_000_000,
        "begins with a line of more than 1,048,576 bytes", "begin it with row_id",
    ),
    "one line": ("a.csv", "x" * 3_000_000, "begins with a line of more than 1,048,576 bytes", "begin it with"),
    "many other columns": (
        "a.csv", ",".join(f"column {i} {'x' * 200}" for i in range(500)), "and 488 more, need row_id or key", "header",
    ),
    "a quote without an end, which hides answers": (
        "a.csv", 'row_id,label,remark\n0,other,"fine\n1,other,\n2,café,x\n', "line 2: a quoted value",
        "close",
    ),
    "a quote without an end in a label": (
        "a.csv", 'row_id,label\n0,"other\n1,other\n', "line 2: a quoted value that begins here", "close",
    ),
    "a quote that another one closes": (
        "a.csv", 'row_id,label,remark\n0,other,"fine\n1,other,"ok"\n2,café,x\n', "line 2: a quoted value", "close",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_read_are_named_with_their_cause(pool: Pool, tmp_path: Path, case: str) -> None:
    file, content, cause, remedy = REFUSED[case]
    with pytest.raises(InputError) as caught:
        read(pool, tmp_path, content, file=file)
    assert str(tmp_path / file) in caught.value.cause and cause in caught.value.cause
    assert remedy in caught.value.remedy
    check_messages(str(caught.value))


def test_texts_of_several_lines_and_quotes_within_values_are_no_broken_quotes(pool: Pool, tmp_path: Path) -> None:
    content = 'row_id,text,label\n0,"two\nlines, ""quoted""",other\n1,5" disk,other\n2,"said "hi"",other\n3,"open,other'
    collected = read(pool, tmp_path, content)
    assert as_dicts(collected) == {"a": {0: 3, 1: 3, 2: 3}}
    (problem,) = collected.problems
    assert "line 6: 2 values, the header has 3" in problem


def parquet(**columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


IDS = pa.array([0, 1])
TYPES: dict[str, tuple[dict[str, pa.Array], tuple[str, ...], dict[int, int]]] = {
    "int8": ({"row_id": IDS, "label": pa.array([3, 2], pa.int8())}, NAMES, {0: 3, 1: 2}),
    "floats with a gap": ({"row_id": IDS, "label": pa.array([3.0, None])}, NAMES, {0: 3}),
    "NaN": ({"row_id": IDS, "label": pa.array([3.0, float("nan")])}, NAMES, {0: 3}),
    "float16": ({"row_id": IDS, "label": pa.array(np.array([3.0, 2.0], np.float16))}, NAMES, {0: 3, 1: 2}),
    "floats as names": ({"row_id": IDS, "label": pa.array([3.0, 7.0])}, DIGITS, {0: 3, 1: 7}),
    "decimals": ({"row_id": IDS, "label": pa.array([Decimal("3.00"), Decimal("7.00")])}, DIGITS, {0: 3, 1: 7}),
    "booleans": ({"row_id": IDS, "label": pa.array([True, False])}, ("FALSE", "TRUE"), {0: 1, 1: 0}),
    "dictionary": ({"row_id": IDS, "label": pa.array(["other", "café"]).dictionary_encode()}, NAMES, {0: 3, 1: 2}),
    "dictionary of floats": ({"row_id": IDS, "label": pa.array([3.0, 7.0]).dictionary_encode()}, DIGITS, {0: 3, 1: 7}),
    "large strings": ({"row_id": IDS, "label": pa.array(["other", "café"], pa.large_string())}, NAMES, {0: 3, 1: 2}),
    "views": ({"row_id": IDS, "label": pa.array(["other", "café"], pa.string_view())}, NAMES, {0: 3, 1: 2}),
    "bytes of UTF-8": ({"row_id": IDS, "label": pa.array([b"other", "café".encode()])}, NAMES, {0: 3, 1: 2}),
    "row_ids as floats": ({"row_id": pa.array([0.0, 1.0]), "label": pa.array(["other", "café"])}, NAMES, {0: 3, 1: 2}),
    "other form": ({"Row ID": IDS, "label": pa.array([nfd("café"), "OTHER"])}, NAMES, {0: 2, 1: 3}),
    "no answer at all": ({"row_id": IDS, "label": pa.nulls(2)}, NAMES, {}),
    "apostrophes stay": ({"row_id": IDS, "label": pa.array(["'=x", "=x"])}, ("=x", "'=x"), {0: 1, 1: 0}),
}


@pytest.mark.parametrize("case", TYPES)
def test_types_of_parquet_columns(pool: Pool, tmp_path: Path, case: str) -> None:
    columns, names, expected = TYPES[case]
    collected = read(pool, tmp_path, parquet(**columns), names, "a.parquet")
    assert collected.problems == ()
    assert as_dicts(collected).get("a", {}) == expected


@pytest.mark.parametrize(
    ("column", "cause"),
    [
        (pa.array([["other"], ["café"]]), "has list<"),
        (pa.array([{"choice": "other"}, None]), "has struct<"),
        (pa.array([0, 1], pa.timestamp("s")), "has timestamp"),
        (pa.array([b"\xff\xfe", b"x"]), "cannot be read as Parquet"),
    ],
)
def test_parquet_columns_without_texts_or_numbers(pool: Pool, tmp_path: Path, column: pa.Array, cause: str) -> None:
    with pytest.raises(InputError, match=cause) as caught:
        read(pool, tmp_path, parquet(row_id=IDS, label=column), file="a.parquet")
    assert "a.parquet" in caught.value.cause
    check_messages(str(caught.value))


@settings(max_examples=150)
@given(st.data())
def test_any_damage_to_a_parquet_file_is_told(
    pool: Pool, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(parquet(row_id=pa.array(range(10)), label=pa.array(["other", "café"] * 5)))
    for place in data.draw(st.lists(st.integers(4, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(4, len(content)))
    try:
        collected = read(pool, tmp_path_factory.getbasetemp(), bytes(content[:cut]), file="a.parquet")
    except InputError as error:
        check_messages(str(error))
    else:
        check_messages(*collected.problems)


@settings(max_examples=150)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    st.sampled_from([b"", b"row_id,label\n", b"sep=;\nkey;label\n"]),
)
def test_any_bytes_are_read_or_refused_in_words(
    pool: Pool, tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes
) -> None:
    try:
        collected = read(pool, tmp_path_factory.getbasetemp(), head + content, file="b.csv")
    except InputError as error:
        check_messages(str(error))
    else:
        check_messages(*collected.problems)


def many_annotators(rows: int) -> str:
    return "row_id,label,annotator\n" + "".join(f"{i % 10},other,p{i}\n" for i in range(rows))


LARGE: dict[str, Callable[[], str]] = {
    "a line of 20 MB": lambda: f"row_id,label,text\n0,other,{'x' * 20_000_000}\n1,wolf,\n",
    "a label of 20 MB": lambda: f"row_id,label\n0,{'x' * 20_000_000}\n1,other\n",
    "a key of 1 MB of formulas": lambda: f"key,label\n{KEYS[0]},other\n" + "'=x" * 300_000 + ",other\n",
    "2 M delimiters": lambda: f"row_id,label\n0,other{',' * 2_000_000}\n1,other\n",
    "200 000 lines that are short": lambda: "row_id,label\n0,other\n" + "1\n" * 200_000,
    "200 000 conflicts": lambda: "row_id,label\n1,other\n" + "0,other\n0,café\n" * 100_000,
    "30 000 annotators": lambda: many_annotators(30_000) + "0,wolf,p\n",
}


@pytest.mark.parametrize("case", LARGE)
def test_large_files_take_neither_ages_nor_all_memory(pool: Pool, tmp_path: Path, case: str) -> None:
    content = LARGE[case]()
    tracemalloc.start()
    before, started = pa.total_allocated_bytes(), time.monotonic()
    try:
        collected = read(pool, tmp_path, content)
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 120 and peak < 1 << 30
    assert collected.answers and collected.problems
    check_messages(*collected.problems)


@pytest.mark.parametrize("rows", [300, 3000])
def test_small_parquet_files_of_long_texts_are_refused_before_they_take_memory(
    pool: Pool, tmp_path: Path, rows: int
) -> None:
    texts = pa.array(["a" * 1_000_000])
    named = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), texts)
    table = pa.table({"row_id": np.zeros(rows, np.int64), "label": named if rows > 300 else named.cast(texts.type)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    del table, named
    content, before = (tmp_path / "a.parquet").read_bytes(), pa.total_allocated_bytes()
    assert len(content) < 10_000
    with pytest.raises(InputError, match=r"decompresses from [0-9,]+ to more than 268,435,456 bytes") as caught:
        read(pool, tmp_path, content, file="a.parquet")
    check_messages(str(caught.value))
    assert pa.total_allocated_bytes() - before < 512 << 20


def test_columns_beyond_what_arrow_joins_are_refused(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_files, "_MOST_BYTES", 1000)
    lines = [f"{KEYS[i % 10]},other" for i in range(100)]
    for content in ("\n".join(["key,label", *lines]), "\n".join(["row_id,label", *["0," + "x" * 2000]])):
        with pytest.raises(InputError, match=r"bytes in the column \w+, need 1,000 or fewer"):
            read(pool, tmp_path, content)


def test_a_pointer_of_git_lfs_is_called_so(pool: Pool, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
    for file in ("a.csv", "a.parquet"):
        with pytest.raises(InputError, match="is a Git LFS pointer, not the file"):
            read(pool, tmp_path, pointer, file=file)


def test_a_name_for_each_answer_is_refused(pool: Pool, tmp_path: Path) -> None:
    assert len(read(pool, tmp_path, many_annotators(MOST_ANNOTATORS)).answers) == MOST_ANNOTATORS
    with pytest.raises(InputError, match=r"has answers by 100,000 annotators, at most 32,767 are taken"):
        read(pool, tmp_path, many_annotators(100_000))


def test_many_classes_are_checked_and_told_quickly(pool: Pool, tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(50_000))
    started = time.monotonic()
    collected = read(pool, tmp_path, "row_id,label\n" + "0,wolf\n" * 2000 + "1,Class 49999\n", names)
    assert time.monotonic() - started < 60
    assert as_dicts(collected) == {"a": {1: 49_999}}
    assert collected.problems[0].endswith("class 10, class 11 and 49,988 more")


def test_keys_are_found_in_either_form_among_many(tmp_path: Path) -> None:
    keys = [f"é{i}" if i % 2 else f"É{i}" for i in range(3000)] + ["Same", "same", "same "]
    big = make_pool(tmp_path / "big", keys, images=[b""] * len(keys), group_rows=len(keys))
    text = io.StringIO()
    text.write("key,label\n" + "".join(f"{nfd(key).upper()},1\n" for key in keys[:3000]) + "SAME,1\nsame\u00a0,1\n")
    collected = read(big, tmp_path, text.getvalue(), ("a", "b"))
    assert as_dicts(collected) == {"a": {**dict.fromkeys(range(3000), 1), 3001: 1}}
    assert [p.rsplit(", ", 1)[1] for p in collected.problems] == ["line 3002: key 'SAME' is not in the pool"]
