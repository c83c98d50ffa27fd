"""The retrieval benchmark: its pools, its methods against slow rules and the pipeline, and what its figures say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.labels.data import LabelPool
from benchmarks.policies.data import _copied_rows
from benchmarks.retrieval import measure as benchmark
from benchmarks.retrieval.data import FOREIGN, SETTINGS, Case, make_case
from benchmarks.retrieval.methods import DEFAULT, OPTIONS, OWN, RANDOM, RULES, State, learned, own_rows, rows_by
from benchmarks.retrieval.summary import SHARES, difference, run_case, setting_of, shares_of, with_rows
from coevo_ray.core.probes.probe import LinearProbe

ROWS, CLASSES, TEST, DIM, LABELS = 1000, 5, 300, 24, [20, 35, 50]
DECAY = 10.0
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What `encode_images` and `encode_foreign` would write, for images whose features are their classes and noise."""
    random = np.random.default_rng(0)
    of = _copied_rows(ROWS)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, rows in (("train", ROWS), ("test", TEST)):
        classes = random.integers(0, CLASSES, rows)
        arrays[f"{split}_labels"] = classes
        noise = 0.5 * random.standard_normal((rows, DIM))
        arrays[f"{split}_features"] = (3 + np.eye(CLASSES, DIM)[classes] + noise).astype(np.float32)
    arrays["copy_of"] = of
    arrays["copy_features"] = arrays["train_features"][of] + np.float32(0.01)
    folder = tmp_path_factory.mktemp("retrieval")
    np.savez(folder / "features.npz", **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one
    np.savez(folder / "foreign.npz", features=np.full((ROWS // 10, DIM), -3, np.float32))
    return folder / "features.npz", folder / "foreign.npz"


@pytest.fixture(scope="module")
def cases(files: tuple[Path, Path]) -> dict[str, Case]:
    return {setting: make_case(*files, setting, 3) for setting in SETTINGS}


@pytest.fixture(scope="module")
def states(cases: dict[str, Case]) -> dict[str, State]:
    return {setting: learned(case, 3, LABELS, DECAY) for setting, case in cases.items()}


def test_pools_are_what_they_are_said_to_be(files: tuple[Path, Path], cases: dict[str, Case]) -> None:
    with np.load(files[0]) as arrays:
        true, features = arrays["train_labels"], arrays["train_features"]
    for setting, case in cases.items():
        own = case.own
        assert (len(own.rows), len(case.features), len(case.labels), len(case.origin)) == (200, 400, 400, 400)
        assert len(np.unique(own.rows)) == 200 and (own.labels == true[own.rows]).all()
        shown = case.origin != FOREIGN
        assert (case.labels[shown] == true[case.origin[shown]]).all() and (case.labels[~shown] == FOREIGN).all()
        # All directions are kept, so that distances between the pools are those of the features.
        near = np.linalg.norm(features[own.rows[0]] - features[case.origin[shown]], axis=1)
        made = np.linalg.norm(own.features[0] - case.features[shown], axis=1)
        assert made == pytest.approx(near, abs=0.06)
        if setting != "noisy":
            assert len(np.unique([*own.rows, *case.origin])) == 600 and shown.all()
    counts = np.bincount(cases["skewed"].own.labels, minlength=CLASSES)
    lacking, *few = cases["skewed"].rare
    assert counts[lacking] == 0 and (counts[few] == 2).all() and (counts[counts > 2] > 50).all()
    assert np.bincount(cases["skewed"].labels).min() > 50
    noisy = cases["noisy"]
    of_own = np.isin(noisy.origin, noisy.own.rows)
    repeated = (np.bincount(noisy.origin[noisy.origin != FOREIGN]) - 1).clip(0)
    others = np.unique(noisy.origin[~of_own], return_counts=True)
    assert (noisy.labels == FOREIGN).sum() == 100 and of_own.sum() == 50 and repeated.sum() > 50
    assert others[1][others[0] != FOREIGN].max() == 8 and (others[1] == 1).sum() == 200


def test_a_seed_gives_its_case_again(files: tuple[Path, Path], cases: dict[str, Case]) -> None:
    again, other = make_case(*files, "noisy", 3), make_case(*files, "noisy", 4)
    assert np.array_equal(again.features, cases["noisy"].features)
    assert not np.array_equal(again.own.rows, other.own.rows)


@pytest.mark.parametrize("setting", SETTINGS)
def test_methods_take_rows_of_their_own_right(states: dict[str, State], setting: str) -> None:
    state = states[setting]
    case, gains = state.case, state.gains
    for name in (*RULES, *OPTIONS):
        rows = rows_by(name, state, 40)
        assert len(np.unique(rows)) == len(rows) == 40, name
        assert np.array_equal(rows, rows_by(name, state, 40))
    assert gains[rows_by("top_gain", state, 40)].min() >= np.sort(gains)[-40]
    unit = np.concatenate([case.own.features, case.features]).astype(np.float64)
    unit -= case.own.features.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = (unit[200:] @ unit[:200].T).max(axis=1)
    assert similarity[rows_by("nearest", state, 40)].min() >= np.sort(similarity)[-40] - 1e-3
    for name in ("knows_useful", "knows_wrong", "knows_balanced"):
        assert shares_of(case, rows_by(name, state, 40)) | {"rare": 0} == dict.fromkeys(SHARES, 0)
    wrong = rows_by("knows_wrong", state, 10)
    assert (state.now.probe.predict_proba(case.features[wrong]).argmax(axis=1) != case.labels[wrong]).all()
    have = np.bincount(state.now.labels, minlength=CLASSES)
    after = have + np.bincount(case.labels[rows_by("knows_balanced", state, 40)], minlength=CLASSES)
    raised = after > have
    assert after[raised].max() - after[raised].min() <= 1 and (after[~raised] >= after[raised].max() - 1).all()


def test_the_gate_goes_on_in_its_own_pool(states: dict[str, State]) -> None:
    state = states["same"]
    rows = own_rows(state, 30)
    assert len(np.unique(rows)) == 30 and not np.isin(rows, state.now.rows).any()
    assert np.array_equal(rows, own_rows(state, 30))  # asking changes nothing


def test_copies_and_foreign_rows_are_counted(files: tuple[Path, Path]) -> None:
    own = LabelPool(*(np.zeros(0),) * 4, None, 3, np.array([4, 7]))  # type: ignore[arg-type]  # only its rows matter
    labels, origin = np.array([0, 1, 1, 2, FOREIGN, FOREIGN]), np.array([4, 8, 8, 9, FOREIGN, FOREIGN])
    case = Case(own, np.zeros((6, 2), np.float32), labels, origin, (2,))
    assert shares_of(case, np.arange(6)) == {"near_copies": 2 / 6, "foreign": 2 / 6, "rare": 1 / 6}
    assert shares_of(case, np.array([2, 3])) == {"near_copies": 0, "foreign": 0, "rare": 0.5}


def test_foreign_rows_teach_nothing(states: dict[str, State]) -> None:
    state = states["noisy"]
    case, own = state.case, state.case.own
    useful = case.labels != FOREIGN
    x = np.concatenate([own.features[state.now.rows], case.features[useful]])
    y = np.concatenate([own.labels[state.now.rows], case.labels[useful]])
    probe = LinearProbe.fit(x, y, CLASSES, DECAY / len(y))
    accuracy = float((probe.predict_proba(own.test_features).argmax(axis=1) == own.test_labels).mean())
    assert with_rows(state, case.features, case.labels, DECAY) == accuracy


def test_what_the_seeds_say_together(cases: dict[str, Case]) -> None:
    runs = [run_case(cases["noisy"], seed, LABELS, [20, 60], DECAY) for seed in (0, 1)]
    made = setting_of(runs)
    assert made["table"].keys() == {OWN, *RULES, *OPTIONS} and made["table"][DEFAULT].keys() == {"20", "60"}
    assert made["all_open"]["mean"] > made["before"]["mean"]
    cell = made["table"][DEFAULT]["60"]
    assert cell["minus_random"] == difference(
        [run["methods"][DEFAULT][60]["accuracy"] for run in runs],
        [run["methods"][RANDOM][60]["accuracy"] for run in runs],
    )
    assert cell["rows"] == 60 and 0.2 < made["table"][RANDOM]["60"]["foreign"] < 0.3
    # In this easy case a retrieval sees what copies and foreign rows are; top gain and nearest rows do not.
    assert cell["near_copies"] == 0 and cell["foreign"] < 0.05
    assert made["table"]["nearest"]["60"]["near_copies"] > 0.5
    assert "foreign" not in made["table"][OWN]["60"]
    assert difference([0.5, 0.6], [0.4, 0.4]) == {"points": 15.0, "standard_error": 5.0}
    assert difference([0.5], [0.4]) == {"points": 10.0, "standard_error": 0.0}


def test_shares_of_the_images() -> None:
    assert benchmark.counts_of(50_000) == [500, 1000, 1500, 2000, 2500]


@pytest.mark.slow  # it encodes images, in processes of their own
def test_a_quick_run_gives_its_keys() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.retrieval",
        "--json",
        "--quick",
        "--rows",
        "500",
        "--seeds",
        "1",
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["benchmark"], result["rows"], result["repeats"], result["first_seed"]) == ("retrieval", 500, 1, 10)
    assert {"hardware", "versions", "busy_before", "workers"} <= result.keys()
    assert result["settings"].keys() == set(SETTINGS)
    for made in result["settings"].values():
        assert made["table"].keys() == {OWN, *RULES, *OPTIONS} and made["table"][DEFAULT].keys() == {"5", "20"}
