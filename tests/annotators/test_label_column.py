from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.annotators.label_column import LabelColumn, with_noise
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError
from tests.annotators.pools import make_pool

seeds = st.integers(0, 2**32)


def slowly(row_id: int, label: int, classes: int, noise: float, seed: int) -> int:
    """One row at a time, by the definition."""

    def unit(salt: bytes) -> float:
        hashed = int(hash_rows(np.array([row_id]), seed ^ int.from_bytes(salt, "big"))[0])
        return (hashed // 2**11) / 2**53

    if unit(b"wrong") >= noise:
        return label
    others = [(label + step) % classes for step in range(1, classes)]
    return others[int(unit(b"which") * len(others))]


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 6)), max_size=40), st.floats(0, 1), seeds)
def test_noise_is_what_the_slow_definition_gives(rows: list[tuple[int, int]], noise: float, seed: int) -> None:
    row_ids, labels = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    noisy = with_noise(row_ids, labels, 7, noise, seed)
    assert noisy.tolist() == [slowly(row_id, label, 7, noise, seed) for row_id, label in rows]


@given(seeds, st.sampled_from([2, 3, 10]), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_the_share_and_the_classes_of_wrong_labels(seed: int, classes: int, noise: float) -> None:
    rows = 20_000
    labels = np.arange(rows) % classes
    noisy = with_noise(np.arange(rows), labels, classes, noise, seed)
    wrong = noisy != labels
    # Six standard deviations: a failure is no accident.
    assert abs(wrong.mean() - noise) <= 6 * np.sqrt(noise * (1 - noise) / rows)
    steps = np.bincount((noisy - labels)[wrong] % classes, minlength=classes)[1:]
    expected = wrong.sum() / (classes - 1)
    assert np.abs(steps - expected).max() <= 6 * np.sqrt(expected + 1)


@given(st.lists(st.integers(0, 11), unique=True, min_size=1), st.data())
def test_order_parts_and_repeats_change_nothing(pool_12: LabelColumn, row_ids: list[int], data: st.DataObject) -> None:
    whole = pool_12.answer(np.arange(12))
    asked = np.array(sorted(row_ids))
    assert pool_12.answer(asked).labels.tolist() == whole.labels[asked].tolist()
    cut = data.draw(st.integers(0, len(asked)))
    parts = [pool_12.answer(part).labels.tolist() for part in (asked[:cut], asked[cut:])]
    assert [label for part in parts for label in part] == whole.labels[asked].tolist()


@pytest.fixture(scope="module")
def pool_12(tmp_path_factory: pytest.TempPathFactory) -> LabelColumn:
    return LabelColumn(make_pool(tmp_path_factory.mktemp("pool")), noise=0.5, seed=3)


def test_another_seed_makes_other_mistakes(pool_12: LabelColumn) -> None:
    rows = np.arange(12)
    answers = [LabelColumn(pool_12.pool, 0.5, seed).answer(rows).labels.tolist() for seed in range(8)]
    assert len(set(map(tuple, answers))) == 8
    assert LabelColumn(pool_12.pool).answer(rows).labels.tolist() == (rows % 3).tolist()


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, 4, labels=[0, None, 2, None])
    answers = LabelColumn(pool, noise=1.0).answer(np.arange(4))
    assert answers.row_ids.tolist() == [0, 2]
    assert answers.labels[0] != 0 and answers.labels[1] != 2
    with pytest.raises(InputError, match="none of the 2 requested rows"):
        LabelColumn(pool).answer(np.array([1, 3]))


def test_pools_that_cannot_answer_and_shares_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no labels to answer with") as refused:
        LabelColumn(make_pool(tmp_path / "a", 2, classes=0, labels=[None, None]))
    assert "--annotator file_drop" in refused.value.remedy
    one = make_pool(tmp_path / "b", 2, classes=1)
    with pytest.raises(InputError, match="cannot be wrong"):
        LabelColumn(one, noise=0.1)
    with pytest.raises(UsageError, match=r"noise is 1\.5"):
        LabelColumn(one, noise=1.5)
