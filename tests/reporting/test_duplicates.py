"""Duplicates of a pool: groups, leaks, the file of rows to leave out, and the page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import coevo_ray
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.reporting.duplicates import DROPPED, PAGE, chosen_groups, dropped_file
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from tests.command_line import Command
from tests.reporting._example import Page

pytestmark = pytest.mark.usefixtures("ray_local")
ROWS, COPIES, HELD = 900, 60, 20
NAMES = ("cat", "dog & <b>co</b>")
ALL = ["row_id", "key", "group", "split", "label", "similarity", "kept", "leak", "kept_row"]


def picture(row: int, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (row % 250, row // 250 * 40, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def make(folder: Path, texts: bool = False, shards: int = 2) -> tuple[Pool, RowTable]:
    """The last 60 rows are copies of the first ones; of these the first 20 are held out.

    Copies of even rows have a larger picture; those of every fifth row lack a label.
    """
    random = np.random.default_rng(0)
    features = random.standard_normal((ROWS, 24)).astype(np.float32)
    features[-COPIES:] = features[:COPIES] + 1e-3 * random.standard_normal((COPIES, 24))
    rows, split, label = np.arange(ROWS), np.zeros(ROWS, np.int8), random.integers(0, 2, ROWS)
    split[:HELD] = 1
    label[-COPIES:] = label[:COPIES]
    label[-COPIES::5] = -1
    label[-1] = 1 - label[COPIES - 1]
    sides = np.where((rows >= ROWS - COPIES) & (rows % 2 == 0), 64, 8)
    column = (
        {"text": [f"row <i>{r}</i>" * int(s) for r, s in zip(rows, sides, strict=True)]}
        if texts
        else {"image": pa.array([picture(int(r), int(s)) for r, s in zip(rows, sides, strict=True)], pa.binary())}
    )
    table = pa.table(
        {
            "row_id": rows,
            "key": [f"k{r}" for r in rows],
            **column,
            "label": pa.array([None if v < 0 else int(v) for v in label], pa.int64()),
            "split": split,
        }
    )
    place, entries = Location.parse(folder / "pool"), []
    for i, part in enumerate(np.array_split(rows, shards)):
        entries.append(write_table(place, f"{i}.parquet", table.slice(int(part[0]), len(part))))
    about = {"classes": 2, "class_names": list(NAMES), "modality": "text" if texts else "image"}
    finish(place, "pool", {}, {}, entries, about)
    pool = Pool(place)
    place = Location.parse(folder / "targets")
    entry = write_table(place, "0.parquet", pa.table({"row_id": rows, "target": vector_column(features)}))
    about = {"pools": [{"identity": pool.manifest.identity, "first_row_id": 0, "rows": ROWS}]}
    return pool, RowTable(finish_at(place, entry, about), "targets")


def finish_at(place: Location, entry: Any, about: dict[str, Any]) -> Location:
    finish(place, "targets", {}, {}, [entry], about)
    return place


def test_copies_are_found_and_one_of_each_group_is_kept(tmp_path: Path) -> None:
    pool, targets = make(tmp_path)
    found = coevo_ray.dedup(pool, targets, tmp_path / "out")
    table = found.scan(ALL)
    read = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["kept"][:] == table.column("kept").to_pylist()
    rows = table.column("row_id").to_pylist()
    assert rows == [*range(COPIES), *range(ROWS - COPIES, ROWS)]
    assert table.column("group").to_pylist() == [*range(COPIES), *range(COPIES)]
    kept = dict(zip(rows, table.column("kept").to_pylist(), strict=True))
    leak = dict(zip(rows, table.column("leak").to_pylist(), strict=True))
    stands = dict(zip(rows, table.column("kept_row").to_pylist(), strict=True))
    labels = pool.labels()
    for first in range(COPIES):
        second = first + ROWS - COPIES
        if first < HELD:
            expected = first
        else:
            worth = {r: (labels[r] >= 0, 64 if r >= ROWS - COPIES and r % 2 == 0 else 8, -r) for r in (first, second)}
            expected = max(worth, key=lambda r: worth[r])
        assert (kept[first], kept[second]) == (expected == first, expected == second)
        assert (leak[first], leak[second]) == (False, first < HELD)
        assert stands[first] == stands[second] == expected
    assert np.nanmin(table.column("similarity").to_numpy()) > 0.99
    figures = found.summary
    assert (figures["rows"], figures["duplicates"], figures["groups"]) == (ROWS, 2 * COPIES, COPIES)
    assert (figures["dropped"], figures["leaks"], figures["held_out_with_leaks"]) == (COPIES, HELD, HELD)
    assert figures["groups_with_several_labels"] == 1
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / DROPPED).read_text())))
    assert {int(line["row_id"]): int(line["kept_row"]) for line in lines} == {
        row: stands[row] for row in rows if not kept[row]
    }
    assert {line["reason"] for line in lines if int(line["kept_row"]) < HELD} == {"leak"}
    assert all((line["key"], line["kept_key"]) == (f"k{line['row_id']}", f"k{line['kept_row']}") for line in lines)


def test_the_first_rows_stay_and_leaks_too_where_that_is_asked_for(tmp_path: Path) -> None:
    pool, targets = make(tmp_path, shards=5)
    found = coevo_ray.dedup(pool, targets, tmp_path / "out", {"keep": "first", "leaks": "keep"})
    table = found.scan(ALL)
    dropped = table.filter(pa.compute.invert(table.column("kept"))).column("row_id").to_pylist()
    assert dropped == list(range(ROWS - COPIES + HELD, ROWS))
    assert found.summary["leaks"] == HELD
    with pytest.raises(UsageError, match="keep"):
        coevo_ray.dedup(pool, targets, tmp_path / "out")


@pytest.mark.parametrize("texts", [False, True])
def test_the_page_shows_groups_in_their_order_and_escapes_them(tmp_path: Path, texts: bool) -> None:
    pool, targets = make(tmp_path, texts)
    found = coevo_ray.dedup(pool, targets, tmp_path / "out", groups=25)
    html = (tmp_path / "out" / PAGE).read_text()
    page = Page(html)
    assert all(each.startswith("data:image/") for each in page.references), "the page needs no network"
    table = found.scan(ALL)
    shown = chosen_groups(table, 25)
    assert shown[:HELD] == list(range(HELD)), "leaks come first"
    assert shown[HELD] == COPIES - 1, "then groups of several labels"
    assert [int(part.split('"')[0]) for part in html.split('id="group-')[1:]] == shown
    assert "25 of 60 groups" in page.text and "dog & <b>co</b>, " in page.text
    assert page.text.count("dropped, a leak") == HELD and "held out" in page.text
    assert html.count("data:image/") == (0 if texts else 2 * 25)
    assert "<i>" not in html and "<b>co" not in html


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    pool, targets = make(tmp_path)
    other, _ = make(tmp_path / "other", texts=True)
    with pytest.raises(InputError, match="pool"):
        coevo_ray.dedup(other, targets, tmp_path / "no")
    with pytest.raises(UsageError, match="0 groups"):
        coevo_ray.dedup(pool, targets, tmp_path / "no", groups=0)
    with pytest.raises(UsageError, match="neighbours"):
        coevo_ray.dedup(pool, targets, tmp_path / "no", {"neighbours": 0})


def test_a_pool_without_copies_has_an_empty_table(tmp_path: Path) -> None:
    pool, targets = make(tmp_path)
    rows = np.arange(ROWS - COPIES)
    features = targets.read(rows, ["target"])
    place = Location.parse(tmp_path / "few")
    about = targets.manifest.summary
    few = RowTable(finish_at(place, write_table(place, "0.parquet", features), about), "targets")
    found = coevo_ray.dedup(pool, few, tmp_path / "out")
    assert len(found) == 0 and found.summary["groups"] == 0
    assert "No row is a copy" in (tmp_path / "out" / PAGE).read_text()
    assert (tmp_path / "out" / DROPPED).read_text() == "row_id,key,kept_row,kept_key,reason\n"


def test_command(coevo_ray: Command, tmp_path: Path) -> None:
    make(tmp_path)
    places = ["--pool", str(tmp_path / "pool"), "--targets", str(tmp_path / "targets"), "--out", str(tmp_path / "out")]
    done = coevo_ray("dedup", *places, "--keep", "first", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["groups"], told["leaks"], told["dropped"]) == (COPIES, HELD, COPIES)
    assert Path(told["page"]).is_file() and Path(told["dropped_file"]).is_file()


def test_dropped_rows_have_their_keys_as_they_are() -> None:
    """Programs leave rows out by them: a key that is escaped for spreadsheets, or cut in two, would be no row's."""
    keys = ["=a", "b\rc", "'-d"]
    kept = {"kept": [False, False, True], "leak": [False, True, False], "kept_row": [2, 2, 2]}
    written = dropped_file(pa.table({"row_id": [0, 1, 2], "key": keys, **kept})).decode()
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[1:] == [["0", "=a", "2", "'-d", "copy"], ["1", "b\rc", "2", "'-d", "leak"]]
