"""Training on a pool's own labels with targets beside them: wrong labels are found and left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.datasets import load_digits

import coevo_ray as package
from coevo_ray.actors.ledger_inputs import LedgerInputs
from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.config import TrainConfig, make_config
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from tests.command_line import Command
from tests.training import digits_pool

ROWS = 1797
SETTINGS: dict[str, Any] = {
    "image_size": 16,
    "batch_rows": 64,
    "epochs": 4,
    "keep": 0.5,
    "labels": "pool",
    "policies": ["factors"],
    "policy_options": {"factors": {"max_doubt": 0.5, "quota_power": 1.0}},
    "compute": {"cpus": 1},
}


@dataclass(frozen=True)
class Given:
    """Digits whose targets are their pixels, and which of them have a wrong label."""

    pool: Pool
    targets: str
    wrong: npt.NDArray[np.bool_]


def pixels(folder: Path, rows: int = ROWS) -> str:
    place, ids = Location.parse(str(folder)), np.arange(rows)
    columns = {"row_id": ids, "target": vector_column(load_digits().data[ids % ROWS].astype(np.float32) / 16)}
    finish(place, "targets", {}, {}, [write_table(place, "0.parquet", pa.table(columns), 500)], {})
    return str(place)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder, random = tmp_path_factory.mktemp("evidence"), np.random.default_rng(0)
    true = load_digits().target.astype(np.int64)
    wrong = (random.random(ROWS) < 0.2) & (np.arange(ROWS) % 5 > 0)  # held-out labels are right
    labels = np.where(wrong, (true + random.integers(1, 10, ROWS)) % 10, true)
    return Given(digits_pool(folder / "pool", ROWS, labels), pixels(folder / "targets"), wrong)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_rows_with_a_doubted_label_take_no_step(given: Given, tmp_path: Path) -> None:
    out = str(tmp_path / "model")
    summary = package.train_supervised(
        SETTINGS, given.pool, out, targets=given.targets, evidence_settings={"similarity": 0.99}
    )
    table = RowTable(Location.parse(out).child("evidence"), "evidence")
    rows = given.pool.train_ids()
    assert summary["evidence"] == {
        "table": str(table.location),
        "rows": len(rows),
        **{name: table.manifest.summary[name] for name in ("doubted_rows", "copied_rows", "copy_groups")},
    }
    found = table.scan(["row_id", "doubt"])
    assert found.column("row_id").to_numpy().tolist() == rows.tolist()
    doubted = rows[found.column("doubt").to_numpy() > 0.5]
    assert given.wrong[doubted].mean() > 0.8 and len(doubted) > 0.7 * given.wrong.sum()
    # What the journal counted of each row.
    config = make_config(TrainConfig, SETTINGS, "train")
    journal = Location.parse(out).child("journal")
    ledger = LedgerInputs("factors", config, given.pool.labels(), given.pool.splits() == 0, None, journal)
    used = LedgerService(journal, ledger.make_ledger()).usage()
    assert np.flatnonzero(used[rows] == 0).tolist() == np.searchsorted(rows, doubted).tolist()
    assert summary["usage"]["0"] == len(doubted) == summary["evidence"]["doubted_rows"]
    assert summary["accuracy"] > 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_options_on_the_command_line_switch_it_off(given: Given, tmp_path: Path, coevo_ray: Command) -> None:
    out = tmp_path / "model"
    places = ("--pool", str(given.pool.location), "--targets", given.targets, "--out", str(out))
    off = (
        "--policy-option",
        "max_doubt=1",
        "--policy-option",
        "share_copies=false",
        "--policy-option",
        "quota_power=1",
    )
    chosen = ("--policy", "factors", "--keep", "0.1", "--keep-last", "0.3", "--full-tail", "0.25", "--epochs", "4")
    size = ("--image-size", "16", "--unbiased", "--json")
    result = coevo_ray("train", "--objective", "supervised", *places, *chosen, *off, *size)
    assert result.returncode == 0, result.stderr
    assert "uses no evidence" in result.stderr
    assert not (out / "evidence").exists()
    summary, rows = json.loads(result.stdout), len(given.pool.train_ids())
    assert "evidence" not in summary
    kept = np.diff([0, *(epoch["samples"] for epoch in summary["history"])])
    assert kept.tolist() == [round(0.1 * rows), round(0.2 * rows), round(0.3 * rows), rows]
    # The options are part of what was made: others are refused.
    again = coevo_ray("train", "--objective", "supervised", *places, *chosen, *off[:-1], "quota_power=0.5", *size)
    assert again.returncode == 2 and "policy_options" in again.stderr


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"evidence_settings": {}}, UsageError, "evidence settings without targets"),
        ({"targets": "there", "evidence_settings": {"similarity": 2}}, UsageError, "similarity"),
        ({"targets": "no such folder"}, InputError, "no such folder"),
        ({"targets": "too long"}, InputError, "the pool .* has 1797 rows"),
    ],
)
def test_wrong_input_ends_before_any_work(
    given: Given, tmp_path: Path, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder = {"there": given.targets, "too long": pixels(tmp_path / "long", ROWS + 1)}
    if "targets" in more:
        more = {**more, "targets": folder.get(more["targets"], more["targets"])}
    with pytest.raises(error, match=message):
        package.train_supervised(SETTINGS, given.pool, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_evidence_comes_from_one_place(given: Given, tmp_path: Path) -> None:
    there = RowTable(Location.parse(given.targets))
    with pytest.raises(UsageError, match="both evidence and targets"):
        package.train_supervised(SETTINGS, given.pool, tmp_path / "out", evidence=there, targets=given.targets)
    with pytest.raises(UsageError, match="unknown model"):
        wrong = {**SETTINGS, "model": "huge_cnn"}
        package.train_supervised(wrong, given.pool, tmp_path / "out", targets=given.targets)
    assert not (tmp_path / "out").exists()
