"""The battery's part on targets: its methods against slow, obvious versions, its figures, its page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.battery import targets
from benchmarks.battery.encoding import Features
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Limits, find_places
from benchmarks.battery.priors import WEAK
from benchmarks.battery.table import lines
from benchmarks.battery.targets import Data, Halves
from coevo_ray.core.graph.threads import torch_threads

ROWS, TEST, DIM = 160, 60, 6
Vectors = npt.NDArray[np.float32]


def _features(names: list[str]) -> tuple[list[Features], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Priors that see the same six hidden numbers through maps of their own, and noise; the weak one sees noise."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, ROWS + TEST)
    hidden = np.eye(4)[labels] @ random.normal(size=(4, 6)) + 0.7 * random.normal(size=(ROWS + TEST, 6))
    found = []
    for name in names:
        seen = np.zeros_like(hidden) if name == WEAK else hidden
        whole = (seen @ random.normal(size=(6, 20)) + random.normal(size=(ROWS + TEST, 20))).astype(np.float16)
        found.append(Features(name, whole[:ROWS], whole[ROWS:]))
    return found, labels[:ROWS], labels[ROWS:]


@pytest.fixture
def data() -> Data:
    features, labels, test_labels = _features(["a", "b", "c"])
    halves = [(f.train.astype(np.float32), f.test.astype(np.float32)) for f in features]
    return Data(halves, ["a", "b", "c"], labels, test_labels, np.arange(0, ROWS, 2), seed=0, dim=DIM)


def test_a_mixed_target_is_its_owners(data: Data) -> None:
    spaces = targets._latent(data)[1]
    weights = (0.6, 0.4, 0.0)
    made = targets._mixed(data, spaces, weights)
    for part, owners in enumerate(data.owners(weights)):
        assert 2 not in owners, "the share of the third prior is 0"
        for row, owner in enumerate(owners):
            assert np.array_equal(made.targets[part][row], spaces[owner][part][row])
    assert [share for _, share in made.apart] == [0.6, 0.4]


def test_the_cost_of_mixing_is_the_mean_of_the_priors_alone_less_the_mixed(data: Data) -> None:
    made = targets._mixed(data, targets._latent(data)[1], (0.5, 0.25, 0.25))

    def judged(halves: Halves) -> tuple[float, float]:
        for place, (alone, _) in enumerate(made.apart):
            if alone is halves:
                return (0.8, 0.6, 0.4)[place], 0.5
        return 0.6, 0.3

    cost = targets._judged(made, judged)["mixing_cost"]
    assert cost == pytest.approx({"linear": 0.5 * 0.8 + 0.25 * 0.6 + 0.25 * 0.4 - 0.6, "knn": 0.2})


def test_all_priors_are_the_weighted_mean_in_the_latent(data: Data) -> None:
    consensus, raw = targets._latent(data, unit=False)
    found = targets.coverage_all(data)
    for row in range(5):
        mean = sum(p.weight * halves[0][row] for p, halves in zip(consensus.priors, raw, strict=True))
        assert np.allclose(found.targets[0][row], mean / np.linalg.norm(mean), atol=1e-5)
    assert found.passes == 3


def test_a_prior_alone_needs_no_others(data: Data) -> None:
    found = dict(targets._methods(replace(data, features=data.features[:1], names=["a"]), None))
    assert set(found) == {"single:a", "single_published:a"}


def test_each_array_is_judged_once(data: Data) -> None:
    found = dict(targets._methods(data, None))
    times = [0]

    class Counted(Data):
        def judged(self, targets: Halves) -> tuple[float, float]:
            times[0] += 1
            return 0.5, 0.5

    targets._all_judged(Counted(**{k: getattr(data, k) for k in data.__dataclass_fields__}), found)
    arrays = {id(m.targets[0]) for m in found.values()}
    arrays |= {id(a[0][0]) for m in found.values() if len(m.apart) > 1 for a in m.apart}
    assert times[0] == len(arrays) < sum(1 + len(m.apart) for m in found.values())


@pytest.mark.parametrize(
    ("rows", "size"),
    [(40, (128, 40)), (1438, (128, 512)), (2559, (128, 512)), (2560, (256, 1024)), (15_000, (256, 1500))],
)
def test_a_pool_has_the_dimension_and_the_shared_rows_of_the_package(rows: int, size: tuple[int, int]) -> None:
    assert targets.usual(rows) == size


@pytest.mark.slow
def test_the_part_gives_its_keys_and_its_page(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = find_places()[0]
    names = ["a", "b", WEAK]

    class Loaded:
        name, modality, classes = "made", "image", tuple("0123")

        def __init__(self) -> None:
            self.features, labels, test_labels = _features(names)
            self.train, self.test = _Rows(labels), _Rows(test_labels)

    made = Loaded()
    monkeypatch.setattr(targets, "loaded", lambda places, limits: iter([made]))
    monkeypatch.setattr(targets, "available_priors", lambda modality: ([], {}))
    monkeypatch.setattr(targets, "encode_pool", lambda pool, cache, priors: pool.features)
    for name, value in (("DIM", DIM), ("SHARED", 0.5), ("SWEEP", ((4, 80), (6, 80), (6, 10_000)))):
        monkeypatch.setattr(targets, name, value)
    options = Options(tmp_path, Limits(ROWS, TEST), seeds=2, choose=True)
    with torch_threads(1):
        result = targets.measure([place], options)
    assert json.loads(json.dumps(result)) == result
    table, said = result["table"]["made"], result["verdicts"]["made"]
    singles = {f"single:{n}" for n in "ab"} | {f"single_published:{n}" for n in "ab"}
    ours = {"mixed", "mixed_by_quality", "mixed_90_5_5", "coverage_all"}
    ours |= {"mixed_by_quality_with_weak", "coverage_all_with_weak"}
    assert set(table) == singles | ours | {"mixed_published"} and set(said) == ours
    assert table["coverage_all"]["passes"] == 2 and table["mixed"]["passes"] == 1
    for method in ("mixed", "mixed_by_quality", "mixed_published"):
        assert set(table[method]["mixing_cost"]) == {"linear", "knn"}
    assert table["coverage_all"]["linear"] > 0.5 > 0.35  # of four classes
    assert [(row["dim"], row["shared"]) for row in result["sweep"]["made"]] == [(4, 80), (6, 80)], (
        "one has too few rows"
    )
    page = "\n".join(lines({**result, "part": "targets", "repeats": 2}))
    assert "| coverage_all |" in page and "| 4 | 80 |" in page and "tiny_imagenet, banking77" in page


class _Rows:
    def __init__(self, labels: npt.NDArray[np.int64]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)
