from __future__ import annotations

import csv
import io
import os
import uuid
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.annotators import file_drop
from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from tests.annotators.pools import as_dicts, make_pool, questions
from tests.pool.pictures import encoded, picture, png

NAMES = ("cat", "dog", "bird")
KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    images = [encoded(picture(i), KINDS[i % len(KINDS)]) for i in range(12)]
    return make_pool(tmp_path_factory.mktemp("pool"), images=images)


def drop(pool: Pool, folder: Path, **options: Any) -> FileDrop:
    return FileDrop(Location.parse(str(folder)), pool, NAMES, **options)


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and bytes."""
    return {
        str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()
    }


def lines(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text("utf-8-sig"), newline="")))


def fill(file: Path, labels: dict[int, str]) -> None:
    """Writes labels into a request file, as a person does."""
    rows = lines(file)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "label": labels.get(int(row["row_id"]), "")} for row in rows)


def test_a_round_as_a_person_finds_it(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    asked = questions([1, 4, 5, 11], round=3)
    assert desk.send(asked) == 4
    assert desk.where == str(tmp_path)
    rows = lines(tmp_path / "requests" / "round-0003.csv")
    assert list(rows[0]) == ["row_id", "key", "image", "gain", "predicted", "confidence", "label"]
    assert [int(r["row_id"]) for r in rows] == [1, 4, 5, 11]
    assert [r["key"] for r in rows] == [f"pictures/{i:03d}.png" for i in (1, 4, 5, 11)]
    assert [r["image"] for r in rows] == ["images/1.jpg", "images/4.bmp", "images/5.tif", "images/11.tif"]
    assert [r["predicted"] for r in rows] == ["", "dog", "bird", "bird"]
    assert [r["confidence"] for r in rows] == ["", *(f"{c:.4f}" for c in asked.confidence[1:])]
    assert [r["gain"] for r in rows] == [f"{g:.4f}" for g in asked.gains]
    assert {r["label"] for r in rows} == {""}
    stored = pool.read(asked.row_ids, ["image"]).column("image").to_pylist()
    assert [(tmp_path / r["image"]).read_bytes() for r in rows] == stored
    readme = (tmp_path / "README.txt").read_text()
    assert all(f"  {i}  {name}\n" in readme for i, name in enumerate(NAMES))
    assert (tmp_path / "answers").is_dir()


def test_sending_again_changes_nothing(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    desk.send(questions([1, 4]))
    fill(tmp_path / "requests" / "round-0000.csv", {1: "dog"})
    before = content(tmp_path)
    assert desk.send(questions([1, 4])) == 0
    assert drop(pool, tmp_path, format="parquet").send(questions([1, 4])) == 0
    assert content(tmp_path) == before
    assert as_dicts(desk.collect()) == {"file_drop": {1: 1}}


def test_rows_of_earlier_rounds_are_not_asked_for_twice(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    assert desk.send(questions([1, 4], round=0)) == 2
    assert desk.send(questions([1, 4], round=1)) == 0
    assert desk.send(questions([1, 2, 4], round=2)) == 1
    assert [p.name for p in sorted((tmp_path / "requests").iterdir())] == ["round-0000.csv", "round-0002.csv"]
    assert [r["row_id"] for r in lines(tmp_path / "requests" / "round-0002.csv")] == ["2"]


def test_a_round_of_another_gate_is_refused(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    desk.send(questions([1, 4, 6]))
    with pytest.raises(InputError, match="asks for 2 of 3 rows that round 0 does not ask for, such as row 4"):
        desk.send(questions([1, 5]))


def test_what_people_do_to_a_rounds_file_is_no_obstacle(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    desk.send(questions([1, 4, 6]))
    file = tmp_path / "requests" / "round-0000.csv"
    # Most rows are answered, and the round is sent again for the last one.
    assert desk.send(questions([6], answered=[1, 4])) == 0
    # A line is taken out, and a row_id spoilt.
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]).replace("\n4,", "\n9999,"))
    assert desk.send(questions([1, 4, 6])) == 0


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_answers_are_found_wherever_people_write_them(
    pool: Pool, tmp_path: Path, format: Literal["csv", "parquet"]
) -> None:
    desk = drop(pool, tmp_path, format=format)
    desk.send(questions(range(6)))
    file = tmp_path / "requests" / f"round-0000.{format}"
    if format == "csv":
        fill(file, {0: "cat", 1: "1"})
    else:
        table = pq.read_table(file).to_pandas()
        table.loc[table.row_id < 2, "label"] = ["cat", "1"]
        table.to_parquet(file)
    answers = tmp_path / "answers"
    (answers / "anna-round-0000.csv").write_text("row_id,label\n0,cat\n2,bird\n")
    (answers / "anna.csv").write_text("row_id,label\n2,bird\n3,wolf\n")
    (answers / "two people.csv").write_text("row_id,label,annotator\n0,dog,ben\n4,dog,\n")
    (answers / "~$anna.xlsx").write_bytes(b"\xff")
    (answers / ".hidden").write_bytes(b"\xff")
    (answers / "broken.csv").write_bytes(b"\xff\xff\xff")
    (answers / "round-0000 (1).csv").write_text("row_id,label\n1,dog\n5,cat\n")
    expected = {"anna": {0: 0, 2: 2}, "ben": {0: 1}, "file_drop": {0: 0, 1: 1, 5: 0}, "two people": {4: 1}}
    for _ in range(2):
        collected = desk.collect()
        assert as_dicts(collected) == expected
        unread, wolf = collected.problems
        assert "broken.csv is not UTF-8" in unread and "save it as" in unread
        assert wolf == f"{answers}/anna.csv, line 3: label 'wolf' is none of cat, dog, bird"


def test_bad_files_beside_good_ones(pool: Pool, tmp_path: Path) -> None:
    """Each is named with its cause; the answers of the others are taken."""
    desk = drop(pool, tmp_path)
    desk.send(questions(range(6)))
    answers = tmp_path / "answers"
    (answers / "anna.csv").write_text("row_id,label\n0,cat\n")
    pq.write_table(pa.table({"row_id": [1], "label": ["dog"]}), answers / "ben.parquet")
    whole = (answers / "ben.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    (answers / "cut.parquet").write_bytes(whole[:-20])
    (answers / "footer.parquet").write_bytes(whole[:footer] + b"\xff" * (len(whole) - 8 - footer) + whole[-8:])
    (answers / "pages.parquet").write_bytes(b"PAR1" + b"\xff" * (footer - 4) + whole[footer:])
    pq.write_table(pa.table({"row_id": [1], "label": [["dog"]]}), answers / "lists.parquet")
    (answers / "book.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    (answers / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    (answers / "folder.csv").mkdir()
    collected = desk.collect()
    assert as_dicts(collected) == {"anna": {0: 0}, "ben": {1: 1}}
    causes = {
        "book.xlsx": "is an Excel workbook, need CSV or Parquet: export it as CSV",
        "cut.parquet": "cannot be read as Parquet",
        "footer.parquet": "cannot be read as Parquet",
        "lists.parquet": "has list<element: string>, need texts or numbers",
        "pages.parquet": "cannot be read as Parquet",
    }
    assert len(collected.problems) == len(causes)
    for problem, (name, cause) in zip(collected.problems, causes.items(), strict=True):
        assert f"{answers}/{name}" in problem and cause in problem and problem.isprintable()


def test_a_file_name_that_is_not_utf_8(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    desk.send(questions([0]))
    Path(os.fsdecode(os.fsencode(tmp_path / "answers") + b"/\xff.csv")).write_text("row_id,label\n0,cat\n")
    with pytest.raises(InputError, match="not UTF-8"):
        desk.collect()


def test_one_person_with_two_labels_in_two_files(pool: Pool, tmp_path: Path) -> None:
    desk = drop(pool, tmp_path)
    desk.send(questions([0, 1]))
    (tmp_path / "answers" / "anna.csv").write_text("row_id,label\n0,cat\n1,dog\n")
    (tmp_path / "answers" / "anna round-0000.csv").write_text("row_id,label\n1,bird\n")
    collected = desk.collect()
    assert as_dicts(collected) == {"anna": {0: 0}}
    (problem,) = collected.problems
    assert "row 1 has different labels by 'anna'" in problem
    assert "'dog' (" in problem and "anna.csv, line 3)" in problem and "anna round-0000.csv, line 2)" in problem


def test_an_empty_folder_has_no_answers(pool: Pool, tmp_path: Path) -> None:
    collected = drop(pool, tmp_path / "nothing").collect()
    assert (collected.answers, collected.problems) == ((), ())


def test_no_images_and_texts(pool: Pool, tmp_path: Path) -> None:
    drop(pool, tmp_path / "a", images="none").send(questions([1]))
    assert list(lines(tmp_path / "a" / "requests" / "round-0000.csv")[0]) == [
        *("row_id", "key", "gain", "predicted", "confidence", "label")
    ]
    assert not (tmp_path / "a" / "images").exists()
    texts = ["one", 'two "quoted",\nlines', "drei: ü"]
    of_texts = make_pool(tmp_path / "pool", 3, texts=texts, files=1)
    desk = drop(of_texts, tmp_path / "b")
    desk.send(questions(range(3)))
    file = tmp_path / "b" / "requests" / "round-0000.csv"
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    assert [r["text"] for r in lines(file)] == texts
    file.write_text(file.read_text("utf-8-sig").replace("ü", "ü").rstrip("\n") + "wolf\n", "utf-8-sig")
    (problem,) = desk.collect().problems
    assert problem.startswith(f"{file}, line 5: label 'wolf'")


def test_what_was_cut_short_is_finished_and_images_are_written_once(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails at every possible write, one after the other; then sending again ends in the same folder."""
    monkeypatch.setattr(file_drop, "_CHUNK_ROWS", 2)
    monkeypatch.setattr(file_drop, "_WRITERS", 1)
    drop(pool, tmp_path / "whole").send(questions(range(5)))
    whole = {name: data for name, (_, data) in content(tmp_path / "whole").items()}
    write = Location.write_bytes
    for allowed in range(len(whole)):
        left = [allowed]

        def failing(self: Location, *parts: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise StoppedError("the disk is full", "free space")
            left[0] -= 1
            write(self, *parts)

        folder = tmp_path / f"cut-{allowed}"
        with monkeypatch.context() as patched:
            patched.setattr(Location, "write_bytes", failing)
            with pytest.raises(StoppedError):
                drop(pool, folder).send(questions(range(5)))
        assert not (folder / "requests").exists(), "the request file comes last"
        cut = content(folder)
        assert drop(pool, folder).send(questions(range(5))) == 5
        after = content(folder)
        assert {name: data for name, (_, data) in after.items()} == whole
        assert cut.items() <= after.items(), "what was written before is written again"


def test_a_store_that_is_no_disk(pool: Pool) -> None:
    """Arrow's file system in memory; it wants its folders made, as object stores do not."""
    folder = Location.parse(f"mock://store/{uuid.uuid4().hex}")
    for name in ("requests", "images", "answers"):
        folder.file_system.create_dir(folder.child(name).path, recursive=True)
    desk = FileDrop(folder, pool, NAMES)
    assert (desk.send(questions([0, 7])), desk.send(questions([0, 7]))) == (2, 0)
    assert folder.files(recursive=True) == ["README.txt", "images/0.png", "images/7.jpg", "requests/round-0000.csv"]
    folder.child("answers", "eva.csv").write_bytes(b"row_id,label\n7,dog\n")
    assert as_dicts(desk.collect()) == {"eva": {7: 1}}


@settings(max_examples=20)
@given(st.lists(st.sets(st.integers(0, 11)), max_size=4), st.randoms(use_true_random=False))
def test_any_rounds_however_often_sent_ask_for_each_row_once(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[set[int]], random: Any
) -> None:
    pool = make_pool(tmp_path_factory.mktemp("p"), images=[png(0)] * 12)
    folder = tmp_path_factory.mktemp("drop")
    asked: set[int] = set()
    for number, rows in enumerate(rounds):
        for again in range(random.randint(1, 3)):
            new = drop(pool, folder).send(questions(sorted(rows), number))
            assert new == (0 if again else len(rows - asked))
        asked |= rows
    found = [int(r["row_id"]) for f in (folder / "requests").glob("*") for r in lines(f)]
    assert sorted(found) == sorted(asked)
    for row_id in found:
        (folder / "answers" / f"{row_id % 2}.csv").open("a").write(
            ("" if (folder / "answers" / f"{row_id % 2}.csv").stat().st_size else "row_id,label\n")
            + f"{row_id},{row_id % 3}\n"
        )
    merged = {row: label for labels in as_dicts(drop(pool, folder).collect()).values() for row, label in labels.items()}
    assert merged == {row: row % 3 for row in asked}


def test_classes_without_names_and_none_at_all(pool: Pool, tmp_path: Path) -> None:
    desk = FileDrop(Location.parse(str(tmp_path)), pool)
    desk.send(questions([0, 1]))
    assert "Classes:\n  0\n  1\n  2\n" in (tmp_path / "README.txt").read_text()
    assert [r["predicted"] for r in lines(tmp_path / "requests" / "round-0000.csv")] == ["", "1"]
    unlabelled = make_pool(tmp_path / "u", 2, classes=0, labels=[None, None])
    with pytest.raises(InputError, match="no classes are known"):
        FileDrop(Location.parse(str(tmp_path)), unlabelled)
    with pytest.raises(InputError, match="used twice"):
        FileDrop(Location.parse(str(tmp_path)), pool, ["a", "a ", "b"])
    assert FileDrop(Location.parse(str(tmp_path)), unlabelled, NAMES).label_set.classes == 3


def test_rows_that_are_not_in_the_pool(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 1 of 2 wanted rows"):
        drop(pool, tmp_path).send(questions([0, 12]))
    assert not np.any([p.name == "round-0000.csv" for p in tmp_path.rglob("*")])
