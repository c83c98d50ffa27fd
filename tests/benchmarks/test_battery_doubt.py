"""The battery's part on doubt: its noise at hard rows, its figures, its peers and its page."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.battery import doubt, doubt_rows
from benchmarks.battery.heads import fit_tuned, stratified_folds
from benchmarks.battery.join import join
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Limits, find_places
from benchmarks.battery.table import lines
from coevo_ray.core.graph.threads import torch_threads
from coevo_ray.core.probes.label_doubt import cross_fitted, label_doubt
from coevo_ray.errors import InputError
from tests.core.probes.test_label_doubt import clouds

ROWS, CLASSES = 1200, 4


@pytest.mark.slow
def test_hard_rows_get_the_likeliest_other_class() -> None:
    features, labels = clouds([100] * 3)
    rows = features.astype(np.float32)
    made = doubt.hard_noise(rows, labels, 3, seed=1)
    fold, margins, other = stratified_folds(labels, 2, 1), np.zeros(300), np.zeros(300, dtype=np.int64)
    for part in range(2):
        head = fit_tuned(rows[fold != part], labels[fold != part], 3, 1)
        for row in np.flatnonzero(fold == part):
            chances = head.predict_proba(rows[row : row + 1])[0].astype(np.float64)
            rest = [(chances[c], c) for c in range(3) if c != labels[row]]
            margins[row], other[row] = chances[labels[row]] - max(rest)[0], max(rest)[1]
    hardest = np.sort(np.argsort(margins)[:60])
    assert np.flatnonzero(made.labels != made.true).tolist() == hardest.tolist()
    assert (made.labels[hardest] == other[hardest]).all() and (made.true == labels).all()


def test_figures_are_counted_row_by_row() -> None:
    random = np.random.default_rng(0)
    flagged, wrong = random.random(200) < 0.3, random.random(200) < 0.2
    hits = sum(bool(f and w) for f, w in zip(flagged, wrong, strict=True))
    expected = {"flagged": sum(flagged) / 200, "recall": hits / sum(wrong), "precision": hits / sum(flagged)}
    assert doubt.quality(flagged, wrong) == pytest.approx(expected)
    assert doubt.quality(flagged, np.zeros(200, dtype=bool)) == {"flagged": pytest.approx(sum(flagged) / 200)}
    assert doubt.quality(np.zeros(200, dtype=bool), wrong)["precision"] == 0


@pytest.mark.slow
def test_every_method_judges_the_same_rows() -> None:
    features, true = clouds([ROWS // CLASSES] * CLASSES, 0.3)
    random = np.random.default_rng(0)
    labels = np.where(random.random(ROWS) < 0.2, (true + 1) % CLASSES, true)
    found = doubt.flags(features.astype(np.float32), labels, seed=2)
    assert all(flagged.shape == (ROWS,) and flagged.dtype == bool for flagged in found.values())
    rows = features.astype(np.float32)
    assert (found["evidence"] == (label_doubt(rows, labels, seed=2) > 0.5)).all()
    assert (found["not_the_likeliest"] == (cross_fitted(rows, labels, seed=2).argmax(axis=1) != labels)).all()
    assert (set(doubt.CLEANLAB) <= set(found)) == (find_spec("cleanlab") is not None)
    # On labels of the next class the former rule finds little, which is why there is another one.
    wrong = labels != true
    recall = {method: doubt.quality(flagged, wrong)["recall"] for method, flagged in found.items()}
    assert recall["evidence"] > 0.8 > recall["version_0_1_0"]


def write_words(folder: Path) -> Path:
    """A pool of texts, most of whose words tell the class."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for split, rows in (("train", ROWS), ("test", 60)):
        labels = random.integers(0, CLASSES, rows)
        texts = [
            f"{'abcd'[c]}{random.integers(4)} {'abcd'[c]}{random.integers(4)} x{random.integers(30)}" for c in labels
        ]
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
def test_the_part_gives_a_table_and_a_page(tmp_path: Path) -> None:
    folder = write_words(tmp_path / "words")
    options = Options(tmp_path / "cache", Limits(ROWS, 60), settings=("noise", "long_tail", "clean"), seeds=2)
    with torch_threads(1):
        result = doubt.measure([find_places(own=[folder])[-1]], options)
    assert json.loads(json.dumps(result)) == result
    settings = result["table"]["words"]
    assert list(settings) == ["clean", "noise", "hard_noise"]
    assert (
        set(settings["clean"]["evidence"]) == {"flagged"}
        and len(settings["noise"]["evidence"]["recall"]["values"]) == 2
    )
    assert settings["clean"]["evidence"]["flagged"]["mean"] <= 0.01
    assert settings["noise"]["evidence"]["recall"]["mean"] > 0.5
    assert "words" not in result["chosen_on"]
    page = "\n".join(lines({**result, "part": "doubt", "repeats": 2}))
    assert "## words" in page and "| noise | evidence | " in page and "were not chosen on this pool" in page


@pytest.mark.slow
def test_the_part_on_few_rows_looks_for_mistakes_in_however_few(tmp_path: Path) -> None:
    options = Options(tmp_path / "cache", Limits(ROWS, 60), seeds=2, quick=True)
    with torch_threads(1):
        result = doubt_rows.measure([find_places(own=[write_words(tmp_path / "words")])[-1]], options)
    assert json.loads(json.dumps(result)) == result
    table = result["table"]["words"]
    assert list(table) == ["200", "300"] and {found["fewest"] for found in table.values()} == {500.0}
    for found in table.values():
        assert all(0 <= found[name] <= 1 for name in ("alarms", "clean", "recall", "precision"))
        assert found["clean"] <= found["alarms"]
    assert table["300"]["recall"] > 0  # below the product's least
    whole = {**result, "part": "doubt_rows", "repeats": 2}
    page = "\n".join(lines(whole))
    assert "| 200 | no | " in page and "over 2 draws" in page
    other = {**whole, "pools": {"more": result["pools"]["words"]}, "table": {"more": table}}
    both = join([whole, other])
    assert list(both["table"]) == ["words", "more"] and "## words" in both["page"] and "## more" in both["page"]
    with pytest.raises(InputError, match="two results with words"):
        join([whole, whole])
