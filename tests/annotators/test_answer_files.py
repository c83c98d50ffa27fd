from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.annotators import answer_files
from coevo_ray.annotators.answer_files import read_answer_file
from coevo_ray.annotators.base import Collected
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from tests.annotators.pools import as_dicts, make_pool

NAMES = ("cat", "dog", "big bird")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), ["a", "b", "c", "d,e", 'f"g', " h ", "ü", "7"], files=3)


def read(pool: Pool, folder: Path, content: str | bytes, names: tuple[str, ...] = NAMES, classes: int = 3) -> Collected:
    file = folder / "anna.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_answer_file(Location.parse(str(file)), pool, classes, names)


@pytest.mark.parametrize(
    "content",
    [
        "row_id,label\n0,dog\n2,big bird\n",
        "row_id,label\r\n0,dog\r\n2,big bird\r\n",
        "row_id,label\r0,dog\r2,big bird",
        "\ufeffrow_id,label\n0,dog\n2,big bird",
        '"row_id","label"\n"0","dog"\n" 2 "," big bird "\n',
        "Label , ROW_ID\ndog, 0\nbig bird ,2\n",
        "row_id;label\n0;dog\n2;big bird\n",
        "key\tlabel\tremark\na\tdog\t\nc\t2\tnice\n",
        "key,label\na,1\nc,2.0\nb,\nü,  \n,\n\n   \n",
        "row_id,key,label\n0,a,1\n,c,2\n",
        "row_id,label\n0.0,dog\n2,2\n0,1\n",
        "row_id,label\n0,Dog\n2,BIG Bird\n",
        "row_id,label\n0,dog\n2,big bird\n".encode("utf-16"),
    ],
)
def test_all_usual_ways_to_write_the_same(pool: Pool, tmp_path: Path, content: str | bytes) -> None:
    collected = read(pool, tmp_path, content)
    assert collected.problems == ()
    assert as_dicts(collected) == {"anna": {0: 1, 2: 2}}


def test_other_letters_count_where_one_class_can_be_meant(pool: Pool, tmp_path: Path) -> None:
    collected = read(pool, tmp_path, "row_id,label\n0,us\n1,US\n2,Us\n3,UM\n4,ÄRA\n", ("us", "US", "um", "Ära"), 4)
    assert as_dicts(collected) == {"anna": {0: 0, 1: 1, 3: 2, 4: 3}}
    (problem,) = collected.problems
    assert "line 4" in problem and "'Us'" in problem


def test_lines_that_cannot_be_taken_are_told_as_an_editor_counts_them(pool: Pool, tmp_path: Path) -> None:
    content = (
        "row_id,key,label,remark\n"  # 1
        '0,,dog,"two\nlines"\n'  # 2, 3
        "99,,dog,\n"  # 4
        "\n"  # 5
        ",nobody,dog,\n"  # 6
        "1,,wolf,\n"  # 7
        "2,,dog\n"  # 8
        ",,cat,\n"  # 9
        "3,a,cat,\n"  # 10
        "x,,cat,\n"  # 11
        "1,b,cat,\n"  # 12
        "4,,3,\n"  # 13
    )
    collected = read(pool, tmp_path, content)
    assert as_dicts(collected) == {"anna": {0: 1, 1: 0}}
    told = [problem.removeprefix(f"{tmp_path}/anna.csv, ") for problem in collected.problems]
    assert told == [
        "line 8: 3 values, the header has 4",
        "line 4: row_id '99' is not in the pool (0..7)",
        "line 6: key 'nobody' is not in the pool",
        "line 7: label 'wolf' is none of cat, dog, big bird",
        "line 9: a label without key or row_id",
        "line 10: row 3 has key 'd,e', the file says 'a': leave the right one",
        "line 11: row_id 'x' is not in the pool (0..7)",
        "line 13: label '3' is none of cat, dog, big bird",
    ]


def test_the_same_row_twice_by_one_annotator(pool: Pool, tmp_path: Path) -> None:
    collected = read(
        pool,
        tmp_path,
        "key,label,annotator\na,cat,eva\na,dog,eva\na,cat,\nb,dog,eva\nb,1, eva \na,dog,ben\na,cat,eva\n",
    )
    assert as_dicts(collected) == {"anna": {0: 0}, "ben": {0: 1}, "eva": {1: 1}}
    (problem,) = collected.problems
    assert problem.startswith("row 0 has different labels by 'eva'")
    assert [
        f"'{label}' ({tmp_path}/anna.csv, line {line})" in problem
        for label, line in (("cat", 2), ("dog", 3), ("cat", 8))
    ]
    assert problem.count("line ") == 3


def test_a_class_name_that_is_a_number_is_a_name(pool: Pool, tmp_path: Path) -> None:
    collected = read(pool, tmp_path, "row_id,label\n0,10\n1,2\n2,1\n3,0\n", ("1", "10", "2"))
    assert as_dicts(collected) == {"anna": {0: 1, 1: 2, 2: 0}}
    assert "line 5: label '0' is none of 1, 10, 2" in collected.problems[0]


def test_without_names_labels_are_indices(pool: Pool, tmp_path: Path) -> None:
    collected = read(pool, tmp_path, "row_id,label\n0,10\n1,11\n2,-1\n3,0012\n4,9999999999999999999\n", (), 12)
    assert as_dicts(collected) == {"anna": {0: 10, 1: 11}}
    assert [p.rsplit(", ", 1)[1] for p in collected.problems] == [
        "line 4: label '-1' is none of 0..11",
        "line 5: label '0012' is none of 0..11",
        "line 6: label '9999999999999999999' is none of 0..11",
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([1, None, 2]), {0: 1, 2: 2}),
        (pa.array([1.0, None, 2.0]), {0: 1, 2: 2}),
        (pa.array(["dog", "", "2"]), {0: 1, 2: 2}),
        (pa.array(["dog", None, "cat"]).dictionary_encode(), {0: 1, 2: 0}),
    ],
)
@pytest.mark.parametrize("by", ["row_id", "key"])
def test_parquet(pool: Pool, tmp_path: Path, labels: pa.Array, expected: dict[int, int], by: str) -> None:
    file = tmp_path / "no ending"
    pq.write_table(pa.table({by: [0, 1, 2] if by == "row_id" else ["a", "b", "c"], "label": labels}), file)
    collected = read_answer_file(Location.parse(str(file)), pool, 3, NAMES, annotator="ben")
    assert (as_dicts(collected), collected.problems) == ({"ben": expected}, ())


def test_parquet_records_are_numbered(pool: Pool, tmp_path: Path) -> None:
    pq.write_table(pa.table({"row_id": [0, -1], "label": [0, 1]}), tmp_path / "x.parquet")
    collected = read_answer_file(Location.parse(str(tmp_path / "x.parquet")), pool, 3)
    assert as_dicts(collected) == {"x": {0: 0}}
    assert collected.problems == (f"{tmp_path}/x.parquet, record 2: row_id '-1' is not in the pool (0..7)",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"id,label\n1,2\n", r"has columns \['id', 'label'\], need row_id or key, and label"),
        (b"row_id,class\n1,2\n", r"has columns \['row_id', 'class'\], need"),
        (b"row_id,label,Label\n1,2,3\n", r"has columns \['label'\] twice"),
        (b"row_id,label,label\n1,2,3\n", r"has columns \['label'\] twice"),
        (b"row_id,label\n1,\xff\n", "not UTF-8"),
        (b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_files_that_are_no_label_files(pool: Pool, tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(pool, tmp_path, content)
    assert str(tmp_path / "anna.csv") in caught.value.cause


def test_a_missing_file_is_named(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.csv"):
        read_answer_file(Location.parse(str(tmp_path / "none.csv")), pool, 3)


def test_keys_that_need_quotes_or_have_spaces(pool: Pool, tmp_path: Path) -> None:
    collected = read(pool, tmp_path, 'key,label\n"d,e",0\n"f""g",1\n h ,2\nü,0\n 7,1\n')
    assert (as_dicts(collected), collected.problems) == ({"anna": {3: 0, 4: 1, 5: 2, 6: 0, 7: 1}}, ())


def test_keys_that_differ_in_spaces_alone(tmp_path: Path) -> None:
    spaced = make_pool(tmp_path / "pool", ["k", " k", "m"], files=1)
    collected = read(spaced, tmp_path, "key,label\nk,0\n k,1\n m,2\n")
    assert (as_dicts(collected), collected.problems) == ({"anna": {0: 0, 1: 1, 2: 2}}, ())


def test_texts_longer_than_a_block_and_broken_quotes(pool: Pool, tmp_path: Path) -> None:
    long = "x" * 3_000_000
    collected = read(pool, tmp_path, f'row_id,text,label\n0,"{long}\n",dog\n1,5" disk,wolf\n')
    assert as_dicts(collected) == {"anna": {0: 1}}
    assert collected.problems == (f"{tmp_path}/anna.csv, line 4: label 'wolf' is none of cat, dog, big bird",)
    assert csv.field_size_limit() == 131072


def test_a_file_that_is_wrong_as_a_whole_tells_its_first_lines(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_files, "MOST_PROBLEMS", 3)
    lines = "".join(f"{row},wolf\n" for row in range(20))
    problems = read(pool, tmp_path, f"row_id,label\n{lines}").problems
    assert [p.rsplit("anna.csv", 1)[1] for p in problems] == [
        ", line 2: label 'wolf' is none of cat, dog, big bird",
        ", line 3: label 'wolf' is none of cat, dog, big bird",
        ", line 4: label 'wolf' is none of cat, dog, big bird",
        ": 17 more lines are invalid",
    ]


cells = st.tuples(
    st.sampled_from(["", "0", "1", "7", "8", " 2 ", "3.0", "no"]),
    st.sampled_from(["", "a", "b", "d,e", 'f"g', "zz", "7"]),
    st.sampled_from(["", "cat", "dog ", "2", "3", "bird\nbig", "big bird"]),
    st.sampled_from(["", "eva", "ben"]),
)


def slowly(pool: Pool, text: str) -> tuple[dict[str, dict[int, int]], list[int]]:
    """Line by line, by the definition: the labels, and the lines that cannot be taken."""
    keys = {key: i for i, key in enumerate(pool.column("key").to_pylist())}
    labels = {**{name: i for i, name in enumerate(NAMES)}, "0": 0, "1": 1, "2": 2}
    ids = {"0": 0, "1": 1, "2": 2, "3.0": 3, "7": 7}
    given: dict[tuple[str, int], set[int]] = {}
    reader, bad = csv.reader(io.StringIO(text, newline="")), []
    next(reader)
    line = reader.line_num + 1
    for row_id, key, label, annotator in reader:
        row = ids.get(row_id.strip()) if row_id.strip() else keys.get(key)
        wrong = label.strip() not in labels or row is None or (row_id.strip() and key and keys.get(key) != row)
        if label.strip() and wrong:
            bad.append(line)
        elif label.strip() and row is not None:
            given.setdefault((annotator or "anna", row), set()).add(labels[label.strip()])
        line = reader.line_num + 1
    result: dict[str, dict[int, int]] = {}
    for (name, row), taken in given.items():
        if len(taken) == 1:
            result.setdefault(name, {})[row] = taken.pop()
    return result, bad


@pytest.mark.slow
@given(st.lists(cells, max_size=25), st.sampled_from(["\n", "\r\n"]))
def test_any_file_gives_what_a_slow_reader_gives(
    pool: Pool, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]], end: str
) -> None:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator=end)
    writer.writerow(["row_id", "key", "label", "annotator"])
    writer.writerows(rows)
    collected = read(pool, tmp_path_factory.getbasetemp(), written.getvalue())
    taken, bad = slowly(pool, written.getvalue())
    assert as_dicts(collected) == taken
    told = (re.search(r"anna\.csv, line (\d+): ", problem) for problem in collected.problems)
    assert [int(found[1]) for found in told if found] == bad


def test_many_lines_are_joined_to_the_pool_by_key(tmp_path: Path) -> None:
    rows = 100_000
    big = make_pool(tmp_path / "big", [f"k{i}" for i in range(rows)], images=[b""] * rows, group_rows=rows)
    order = np.random.Generator(np.random.PCG64(0)).permutation(rows)
    pq.write_table(pa.table({"key": [f"k{i}" for i in order], "label": order % 3}), tmp_path / "x.parquet")
    (answers,) = read_answer_file(Location.parse(str(tmp_path / "x.parquet")), big, 3).answers
    assert np.array_equal(answers.row_ids, np.arange(rows))
    assert np.array_equal(answers.labels, np.arange(rows) % 3)
