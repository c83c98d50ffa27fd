"""The policies benchmark: its pools are what they are said to be, and seeds side by side are seeds alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.policies import data as data
from benchmarks.policies.data import IMBALANCE, NOISE, Setting, make_setting
from benchmarks.policies.heads import Head, cosine_rate, train_heads
from benchmarks.policies.measure import KEPT, ROWS
from benchmarks.policies.table import lines, verdict
from coevo_ray.core.selection.policies import POLICIES, KeptShares

ROWS_THERE, CLASSES, TEST = 1000, 4, 200


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `encode_images` would write, for images whose features are their classes and noise."""
    random = np.random.default_rng(0)
    of = data._copied_rows(ROWS_THERE)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, rows in (("train", ROWS_THERE), ("test", TEST)):
        labels = random.integers(0, CLASSES, rows)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_features"] = (
            np.eye(CLASSES, 24)[labels] * 2 + 0.5 * random.standard_normal((rows, 24))
        ).astype(np.float32)
        shades = (30 + 60 * labels).astype(np.uint8)
        arrays[f"{split}_images"] = np.broadcast_to(shades[:, None, None, None], (rows, 8, 8, 3)).copy()
    arrays["copy_of"] = of
    noise = 0.02 * random.standard_normal((len(of), 24)).astype(np.float32)
    arrays["copy_features"] = arrays["train_features"][of] + noise
    place = tmp_path_factory.mktemp("policies") / "features.npz"
    np.savez(place, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of them
    return place


@pytest.fixture(scope="module")
def settings(file: Path) -> dict[str, Setting]:
    patch = pytest.MonkeyPatch()
    patch.setattr(data, "SAE_STEPS", 50)
    patch.setattr(data, "LATENTS", 32)
    patch.setattr(data, "ACTIVE", 4)
    made = {name: make_setting(file, name, seed=0) for name in data.SETTINGS}
    patch.undo()
    return made


def test_pools_are_what_they_are_said_to_be(settings: dict[str, Setting], file: Path) -> None:
    with np.load(file) as arrays:
        true = np.concatenate([arrays["train_labels"], arrays["train_labels"][arrays["copy_of"]]])
        of = np.concatenate([np.arange(ROWS_THERE), arrays["copy_of"]])
    for name, setting in settings.items():
        assert len(np.unique(setting.rows)) == len(setting.rows) == len(setting.labels) == len(setting.features)
        wrong = setting.labels != true[setting.rows]
        assert wrong.mean() == (NOISE if name == "noise" else 0), name
    clean, noise, tail, copies = (settings[name] for name in data.SETTINGS)
    assert sorted(clean.rows) == sorted(noise.rows) == list(range(ROWS_THERE))
    sizes = np.bincount(tail.labels)
    assert sizes[0] / sizes[-1] == pytest.approx(IMBALANCE, rel=0.3)
    _, shown = np.unique(of[copies.rows], return_counts=True)
    assert len(copies.rows) == ROWS_THERE
    assert (shown == 9).sum() == ROWS_THERE // 10 and (shown == 1).sum() == ROWS_THERE // 10


def test_evidence_finds_what_was_made(settings: dict[str, Setting], file: Path) -> None:
    with np.load(file) as arrays:
        true = arrays["train_labels"]
    noise, copies = settings["noise"], settings["copies"]
    wrong = noise.labels != true[noise.rows]
    assert (noise.doubt[wrong] > 0.25).mean() > 0.9 > 0.2 > (noise.doubt[~wrong] > 0.25).mean()
    assert (copies.copies[copies.rows >= ROWS_THERE] > 1).mean() > 0.9
    assert (settings["clean"].copies > 1).mean() < 0.2


def test_seeds_side_by_side_are_seeds_alone(settings: dict[str, Setting]) -> None:
    head = Head(hidden=16, epochs=3)
    for policy in ("infobatch", "factors", "full_budget"):
        together = train_heads(settings["noise"], policy, {}, KeptShares(0.4), head, [0, 1])
        alone = [train_heads(settings["noise"], policy, {}, KeptShares(0.4), head, [seed]) for seed in (0, 1)]
        assert together["accuracy"] == pytest.approx([one["accuracy"][0] for one in alone], abs=0.006)
        assert together["visits"] == alone[0]["visits"]
    longer = Head(hidden=16, epochs=20)
    assert train_heads(settings["clean"], "rotation", {}, KeptShares(0.4), longer, [0])["accuracy"][0] > 0.9


def test_every_policy_is_in_the_table() -> None:
    assert {policy for policy, _ in ROWS.values()} == set(POLICIES)
    assert KEPT == (0.1, 0.3, 0.5, 0.7)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [cosine_rate(0.1, progress) for progress in np.linspace(0, 1, 101)]
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[0] < rates[5] < rates[10] > rates[50] > rates[99] > rates[100] > 0


def test_the_page_says_who_is_ahead() -> None:
    def cell(mean: float, spread: float = 0.002) -> dict[str, float]:
        return {"mean": mean, "spread": spread, "seconds": 3.2, "visits": 10}

    baselines = {"full_budget": cell(0.700), "rotation": cell(0.6985)}
    assert verdict({**baselines, "factors": cell(0.703)}) == "won, by 0.3 against full_budget"
    assert verdict({**baselines, "factors": cell(0.7015)}) == "even with full_budget (+0.2)"
    assert verdict({**baselines, "factors": cell(0.699)}) == "even with full_budget (-0.1)"
    assert verdict({**baselines, "factors": cell(0.697)}) == "lost to full_budget by 0.3"
    result = {"repeats": 5, "head": {"hidden": 8, "epochs": 2}, "rows": 1000}
    ours = {**cell(0.703), "preparation_seconds": 7.2}
    result["table"] = {"clean": {"0.1": {**baselines, "factors": ours}}}
    page = "\n".join(lines(result))
    assert "| factors | 70.3 +- 0.2 (10 x, 3 + 7 s) |" in page and "- 0.1: won, by 0.3" in page
