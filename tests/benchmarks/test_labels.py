"""The labels benchmark: its pools, its own rules against slow ones, and what its figures say."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.labels import measure as labels
from benchmarks.labels.curve import area, counts_of, curve, on_all_labels, rounds
from benchmarks.labels.data import COPIED, IMBALANCE, POOLS, SKEWED, SMALL, LabelPool, load_pool, make_pools
from benchmarks.labels.greedy import Farthest
from benchmarks.labels.method import first_rows
from benchmarks.labels.methods import GATES, SIMPLE, Gate, closeness, entropy, make_method, unsureness
from benchmarks.labels.network import ROWS as NETWORK_ROWS
from benchmarks.labels.network import TRAINING, _labels, train_row
from benchmarks.labels.semi import semi_curve
from benchmarks.labels.stop import run_to_stop
from benchmarks.labels.summary import cell, networks, stops, table_of, with_pseudo_labels
from benchmarks.labels.table import lines, verdicts
from benchmarks.policies.data import _copied_rows
from coevo_ray.config import GateSettings
from coevo_ray.core.graph.threads import torch_threads

ROWS, CLASSES, TEST, SMALL_ROWS = 1000, 4, 300, 200
DECAY = 10.0
SHARES = (0.02, 0.1, 0.3)
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `encode_images` would write, for images whose features are their classes and noise."""
    random = np.random.default_rng(0)
    of = _copied_rows(ROWS)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, rows in (("train", ROWS), ("test", TEST)):
        classes = random.integers(0, CLASSES, rows)
        arrays[f"{split}_labels"] = classes
        noise = 0.5 * random.standard_normal((rows, 24))
        arrays[f"{split}_features"] = (3 + np.eye(CLASSES, 24)[classes] + noise).astype(np.float32)
        shades = (30 + 60 * classes).astype(np.uint8)
        arrays[f"{split}_images"] = np.broadcast_to(shades[:, None, None, None], (rows, 8, 8, 3)).copy()
    arrays["copy_of"] = of
    arrays["copy_features"] = arrays["train_features"][of] + np.float32(0.01)
    place = tmp_path_factory.mktemp("labels") / "features.npz"
    np.savez(place, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of them
    return place


@pytest.fixture(scope="module")
def folder(file: Path) -> Path:
    make_pools(file, file.parent, {SMALL: SMALL_ROWS}, threads=1)
    return file.parent


@pytest.fixture(scope="module")
def pool(folder: Path) -> LabelPool:
    return load_pool(folder / "clean.npz")


def test_pools_are_what_they_are_said_to_be(folder: Path, file: Path) -> None:
    with np.load(file) as arrays:
        true, of = arrays["train_labels"], arrays["copy_of"]
        features = np.concatenate([arrays["train_features"], arrays["copy_features"]])
    of_row = np.concatenate([np.arange(ROWS), of])
    pools = {name: load_pool(folder / f"{name}.npz") for name in (*POOLS, SMALL)}
    for made in pools.values():
        assert len(np.unique(made.rows)) == len(made.rows) == len(made.labels) == len(made.features)
        assert (made.labels == true[of_row[made.rows]]).all()
        assert np.abs(made.features.mean(axis=0)).max() < 1e-4
        # All 24 directions are kept, so that distances are those of the features.
        distance = np.linalg.norm(features[made.rows[0]] - features[made.rows[1:]], axis=1)
        assert np.linalg.norm(made.features[0] - made.features[1:], axis=1) == pytest.approx(distance, rel=1e-3)
    assert (pools["clean"].rows == np.arange(ROWS)).all()
    copies = pools["copies"].rows
    assert len(copies) == ROWS
    assert (copies >= ROWS).mean() == COPIED
    assert np.isin(of_row[copies[copies >= ROWS]], copies[copies < ROWS]).all(), "originals are there"
    sizes = np.bincount(pools["long_tail"].labels)
    assert sizes[0] / sizes[-1] == pytest.approx(IMBALANCE, rel=0.3)
    assert len(pools[SMALL].rows) == SMALL_ROWS


def test_k_center_is_that_of_one_row_at_a_time(pool: LabelPool) -> None:
    start = np.array([5, 17, 3])
    x = pool.features.astype(np.float64)
    nearest = ((x[:, None] - x[start]) ** 2).sum(axis=2).min(axis=1)
    slow, taken = [], list(start)
    for _ in range(400):
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
        slow.append(taken[-1])
        nearest = np.minimum(nearest, ((x - x[taken[-1]]) ** 2).sum(axis=1))
    for block in (7, 512):
        farthest = Farthest(pool.features, start, block)
        assert (np.concatenate([farthest.take(150), farthest.take(250)]) == slow).all()
    everything = Farthest(pool.features, start).take(ROWS - 3)
    assert len(np.unique(everything)) == ROWS - 3
    assert not np.isin(start, everything).any()


def test_scores_rank_as_their_names_say() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]], dtype=np.float32)
    assert entropy(p) == pytest.approx([np.log(2), -(0.4 * np.log(0.4) + 0.6 * np.log(0.3)), 0.3944], abs=1e-3)
    assert closeness(p) == pytest.approx([1.0, 0.9, 0.15])
    assert unsureness(p) == pytest.approx([0.5, 0.6, 0.1])


@pytest.mark.parametrize("name", [*GATES, *SIMPLE])
def test_every_method_asks_for_new_rows(pool: LabelPool, name: str) -> None:
    counts = counts_of(pool, SHARES)
    assert counts == [20, 100, 300]
    found = curve(pool, name, 1, counts, DECAY)
    assert found["counts"] == counts
    assert 0.5 < found["accuracy"][-1] <= 1
    assert 0 < found["choosing_seconds"] < found["seconds"]
    assert found["accuracy"] == curve(pool, name, 1, counts, DECAY)["accuracy"]
    (first, _), *_ = rounds(pool, make_method(name, pool, 1), counts[:1], DECAY)
    assert (first.rows == first_rows(pool, 1, 20)).all()


def test_the_gate_is_asked_once_a_round_and_knows_the_labels(pool: LabelPool) -> None:
    gate = Gate(pool, 0, calibrated=True)
    *_, (now, _) = rounds(pool, gate, [40, 100, 200], DECAY)
    gate.learn(now)
    rows, given, of_round = gate.gate.labels()
    assert (rows == now.rows).all() and (given == pool.labels[rows]).all()
    assert np.bincount(of_round).tolist() == [40, 60, 100]
    assert gate.gate.stopped_by is None


def test_the_gate_runs_to_its_own_stop(pool: LabelPool) -> None:
    found = run_to_stop(pool, seed=0)
    assert found["stopped_by"] in ("gain", "tolerance")
    settings = GateSettings()
    labelled = round(found["share"] * ROWS)
    assert (labelled - round(settings.seed_fraction * ROWS)) % round(settings.round_fraction * ROWS) == 0
    assert labelled < ROWS and found["rounds"] > 1
    assert found["accuracy"] == pytest.approx(found["full_accuracy"], abs=0.03)
    assert found["enough_share"] is None or found["enough_share"] <= found["share"]


@pytest.mark.slow
def test_the_stop_rule_hears_the_loss_on_the_first_rows(pool: LabelPool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the stop by gain, which may come first: only what the rule hears can end it before the last row.
    endless = partial(GateSettings, relative_gain=0.0)
    monkeypatch.setattr("benchmarks.labels.stop.GateSettings", endless)
    assert run_to_stop(pool, seed=0)["stopped_by"] == "tolerance"
    monkeypatch.setattr("benchmarks.labels.stop.GateSettings", partial(endless, validation_share=0.0))
    assert run_to_stop(pool, seed=0)["stopped_by"] == "exhausted"  # 50 rows are too few to measure on
    monkeypatch.setattr("coevo_ray.core.probes.light_classifier._LEAST_VALIDATED", 20)
    assert run_to_stop(pool, seed=0)["stopped_by"] == "validation"


def test_pseudo_labels_are_counted(pool: LabelPool) -> None:
    found = semi_curve(pool, 0, [50, 200], DECAY)
    surer, sure = found["with_pseudo_labels"]["0.95"], found["with_pseudo_labels"]["0.8"]
    assert found["accuracy"] == curve(pool, "gate_calibrated", 0, [50, 200], DECAY)["accuracy"]
    for i in range(2):
        assert 0 <= surer["share"][i] <= sure["share"][i] <= 1
    assert sure["precision"][1] > 0.8
    assert sure["accuracy"][1] > 0.7


@pytest.mark.parametrize("row", list(NETWORK_ROWS))
def test_networks_learn_from_the_labels_that_were_asked_for(
    folder: Path, file: Path, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.labels.network.LEAST", 0.7)  # the head is not sure of so few rows
    pool = load_pool(folder / f"{SMALL}.npz")
    by, others = NETWORK_ROWS[row]
    labels, weights = _labels(pool, by, others, 0, [20, 60], DECAY)
    given = labels >= 0
    sure = (labels == pool.labels)[given & (weights == 1)]
    assert sure.all() and len(sure) == (SMALL_ROWS if by is None else 60)
    assert (given.sum() > len(sure)) == (others == "pseudo_labels")
    training = {**TRAINING, "epochs": 2, "epoch_steps": 30, "batch_rows": 16, "model": "small_cnn"}
    with torch_threads(1):  # other tests may use the other core
        found = train_row(pool, file, row, 0, [20, 60], DECAY, training)
    assert found["labels"] == (SMALL_ROWS if by is None else 60) and found["steps"] == 60
    assert found["accuracy"] > 0.5


def test_the_area_is_a_mean_over_log_labels() -> None:
    assert area([10, 100, 1000], [0.4, 0.6, 0.6]) == pytest.approx(0.55)
    assert area([10, 1000, 2000], [0.7, 0.7, 0.7]) == pytest.approx(0.7)


def test_the_figures_of_seeds_come_together(pool: LabelPool) -> None:
    done: dict[Any, Any] = {("full", "clean", "full", 0): on_all_labels(pool, DECAY)}
    counts = [20, 100, 300]
    for method in ("gate", "random"):
        for seed in range(2):
            done["curve", "clean", method, seed] = curve(pool, method, seed, counts, DECAY)
    done["stop", "clean", "stop", 0] = run_to_stop(pool, 0)
    done["semi", "clean", "semi", 0] = semi_curve(pool, 0, counts, DECAY)
    part = table_of(done, "clean", SHARES)
    for method, cells in part["table"].items():
        values = [done["curve", "clean", method, seed]["accuracy"][2] for seed in range(2)]
        assert cells["300"] == cell(values)
    assert part["areas"]["gate"]["minus_gate"] == part["areas"]["gate"]["standard_error"] == 0
    areas = [[area(counts, done["curve", "clean", m, s]["accuracy"]) for s in range(2)] for m in ("gate", "random")]
    assert part["areas"]["random"]["minus_gate"] == pytest.approx(np.mean(areas[1]) - np.mean(areas[0]), abs=1e-5)
    assert part["areas"]["random"]["standard_error"] == pytest.approx(
        abs(areas[1][0] - areas[0][0] - areas[1][1] + areas[0][1]) / 2, abs=1e-5
    )
    stop = stops(done, ("clean",))["clean"]
    assert stop["accuracy_lost"]["mean"] == pytest.approx(
        stop["full_accuracy"]["mean"] - stop["accuracy"]["mean"], abs=2e-4
    )
    assert sum(stop["stopped_by"].values()) == 1
    result = {
        "rows": ROWS,
        "repeats": 2,
        **part,
        "small_pool": part,
        "skewed_pool": part,
        "stop": stops(done, ("clean",)),
    }
    result["pseudo_labels"] = with_pseudo_labels(done, SHARES)
    assert networks(done) is None
    for row, seen in (("full", 9), ("gate", 3), ("gate_semi_supervised", 3)):
        done["network", "pictures", row, 0] = {"accuracy": 0.5, "labels": seen, "steps": 2, "seconds": 1.0}
    result["networks"] = networks(done)
    assert (result["networks"]["images"], result["networks"]["labels"]) == (9, 3)
    page = "\n".join(lines(json.loads(json.dumps(result))))
    assert f"| 30 % | {100 * result['pseudo_labels']['0.3']['labels_alone']['mean']:.1f}" in page
    assert "- the network, semi-supervised, with 30 % of the labels: 50.0 % (target 49.8 %), met" in page


def test_the_page_says_where_targets_are_missed() -> None:
    def row(*means: float) -> dict[str, Any]:
        return {str(i): {"mean": mean, "spread": 0.002} for i, mean in enumerate(means)}

    part: dict[str, Any] = {"shares": [0.01, 0.1, 0.4]}
    part["table"] = {"gate": row(0.5, 0.6, 0.7), "random": row(0.5, 0.59, 0.69), "margin": row(0.5, 0.601, 0.701)}
    part["smallest_share_at_full_accuracy"] = {"gate": 0.4}
    assert list(verdicts(part)) == [
        "within 0.2 points of all labels: at 40 % of the labels, met (target 50 %)",
        "above random at every point",
        "not below the best peer by more than the spread at any point",
    ]
    part["table"] |= {"random": row(0.5, 0.6, 0.69), "margin": row(0.5, 0.6, 0.703), "gate_compat": row(1, 1, 1)}
    part["smallest_share_at_full_accuracy"] = {"gate": None}
    assert list(verdicts(part)) == [
        "within 0.2 points of all labels: never, missed (target 50 %)",
        "above random but for 10 %",
        "not below the best peer by more than the spread but for 40 % (margin by 0.30)",
    ]


def test_tasks_have_every_method_and_pool() -> None:
    tasks = labels.tasks_of(2)
    assert len(set(tasks)) == len(tasks)
    curves = {(pool, method) for kind, pool, method, _ in tasks if kind == "curve"}
    assert {("clean", name) for name in (*GATES, *SIMPLE)} <= curves
    assert {(SMALL, "gate"), (SMALL, "random"), (SMALL, "activeml_badge")} <= curves
    assert {(SKEWED, name) for name in ("gate", "gate_not_typical", "margin", "random")} <= curves
    assert [pool for kind, pool, _, seed in tasks if kind == "stop" and seed == 1] == list(POOLS)
    assert {row for kind, _, row, _ in labels.tasks_of(1, network=True) if kind == "network"} == set(NETWORK_ROWS)


@pytest.mark.slow  # it takes seconds, but needs the extra bench
def test_peers_are_scikit_activemls_own_queries(folder: Path) -> None:
    pool = load_pool(folder / f"{SMALL}.npz")
    counts = [20, 60, 120]
    for name in labels_of_peers():
        assert curve(pool, name, 0, counts, DECAY)["accuracy"][-1] > 0.5
    ours = [make_method(name, pool, 0) for name in ("k_center", "activeml_coreset")]
    chosen = [list(rounds(pool, method, counts, DECAY))[-1][0].rows for method in ours]
    assert sorted(chosen[0]) == sorted(chosen[1])
    margins = [curve(pool, name, 0, counts, DECAY)["accuracy"] for name in ("margin", "activeml_margin")]
    assert margins[0] == pytest.approx(margins[1], abs=0.02)


def labels_of_peers() -> tuple[str, ...]:
    from benchmarks.labels.method import RANKING
    from benchmarks.labels.methods import GREEDY

    return (*RANKING, *GREEDY)


@pytest.mark.slow  # as above
def test_a_quick_run_gives_its_keys(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.labels",
        "--json",
        "--quick",
        "--rows",
        "800",
        "--network",
        "300",
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == 800 and result["repeats"] == 2
    assert result["table"].keys() == result["smallest_share_at_full_accuracy"].keys() == result["areas"].keys()
    assert result["stop"].keys() == set(POOLS)
    (tmp_path / "labels.json").write_text(done.stdout, encoding="utf-8")
    page = subprocess.run(
        [sys.executable, "-m", "benchmarks.labels.table", str(tmp_path / "labels.json")],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "| gate |" in page and "## The gate's own stop" in page
