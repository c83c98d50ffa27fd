"""Texts that people are asked about: whole where they fit, cut where a cell or a task ends, and never harmful."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_set import LabelSet
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import TOKEN
from coevo_ray.annotators.label_studio_tasks import labelling_config
from coevo_ray.annotators.sample_files import CELL_LENGTH, TASK_LENGTH
from coevo_ray.pool.plain_texts import utf_16_length
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import STAGES
from coevo_ray.store.location import Location
from tests.annotators.pools import as_dicts, make_pool, questions

NAMES = ("cat", "dog", "bird")
HUGE = "=word \N{CREDIT CARD}\n" * 110_000  # a megabyte
TEXTS = ["one", 'two "quoted",\r\nlines; a\ttab', "a\0b\x1b[31m", "=1+1", "שלום abc \u202eevil", HUGE]
SPREADSHEET_CELL = 32_767


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), len(TEXTS), texts=TEXTS, files=1)


def test_a_table_of_texts_is_one_that_spreadsheets_hold(pool: Pool, tmp_path: Path) -> None:
    desk = FileDrop(Location.parse(str(tmp_path)), pool, NAMES)
    assert desk.send(questions(range(6))) == 6
    file = tmp_path / "requests" / "round-0000.csv"
    content = file.read_bytes()
    assert b"\0" not in content and b"\x1b" not in content
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert [row["text"] for row in rows[:5]] == [
        *("one", 'two "quoted",\nlines; a\ttab', "a␀b␛[31m", "'=1+1", "שלום abc \ufffdevil")
    ]
    cut = rows[5]["text"]
    assert cut.endswith("[whole in texts/5.txt]")
    assert CELL_LENGTH // 2 < utf_16_length(cut) < SPREADSHEET_CELL
    assert (tmp_path / "texts" / "5.txt").read_bytes().decode() == HUGE
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["5.txt"], "short ones need no file"
    assert "Long ones are cut there, and texts/ has them whole." in (tmp_path / "README.txt").read_text()


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_table_of_texts_comes_back_filled_in(pool: Pool, tmp_path: Path, line_end: str) -> None:
    """As spreadsheets save it, where it is, and with lines that a person sorted."""
    desk = FileDrop(Location.parse(str(tmp_path)), pool, NAMES)
    desk.send(questions(range(6)))
    file = tmp_path / "requests" / "round-0000.csv"
    rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys(), lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({**row, "label": NAMES[int(row["row_id"]) % 3]} for row in reversed(rows))
    file.write_bytes(out.getvalue().encode("utf-8-sig"))
    collected = desk.collect()
    assert collected.problems == ()
    assert as_dicts(collected) == {"file_drop": {row: row % 3 for row in range(6)}}


def test_sending_again_writes_long_texts_once(pool: Pool, tmp_path: Path) -> None:
    desk = FileDrop(Location.parse(str(tmp_path)), pool, NAMES)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "5.txt").write_text("there already, from a call that was cut short")
    assert [desk.send(questions([5])), desk.send(questions([5]))] == [1, 0]
    assert (tmp_path / "texts" / "5.txt").read_text().startswith("there already")


def test_parquet_has_texts_as_they_are(pool: Pool, tmp_path: Path) -> None:
    FileDrop(Location.parse(str(tmp_path)), pool, NAMES, format="parquet").send(questions(range(6)))
    table = pq.read_table(tmp_path / "requests" / "round-0000.parquet")
    assert table.column("text").to_pylist() == TEXTS
    assert not (tmp_path / "texts").exists()
    assert "cut" not in (tmp_path / "README.txt").read_text()


def test_label_studio_shows_texts_as_texts() -> None:
    config = labelling_config(LabelSet(3, NAMES), "text")
    assert '<Text name="sample" value="$text" valueType="text" />' in config
    assert "Header" not in config
    assert "valueType" not in labelling_config(LabelSet(3, NAMES), "image")


def test_tasks_of_texts_are_harmless_and_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "0123456789abcdef-secret")
    desk = LabelStudio("http://127.0.0.1:1", "title", pool, NAMES)
    asked = questions(range(6))
    texts = [task["data"]["text"] for task, _ in desk._make_tasks(asked, np.arange(6))]
    assert texts[:5] == ["one", 'two "quoted",\nlines; a\ttab', "a␀b␛[31m", "=1+1", "שלום abc \ufffdevil"]
    assert texts[5].endswith(f"\n\n[the first 20,000 of {len(HUGE):,} characters]")
    assert f"the first {TASK_LENGTH:,} characters" in STAGES["label_studio"].takes["text"]
    assert TASK_LENGTH - 50 < len(texts[5]) < TASK_LENGTH + 100
