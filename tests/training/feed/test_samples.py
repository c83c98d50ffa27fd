"""Feeds of texts and vectors: the order, the resumption and the batches of a feed of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.row_table import vector_column
from coevo_ray.training.feed.feed import Feed
from tests.training.inputs import DIM, ROWS, clouds, pool_of, targets_of

CHOSEN = Subset(3, np.arange(0, ROWS, 3, dtype=np.int64), None)


def lengths(texts: list[str]) -> dict[str, Any]:
    """What a tokenizer gives: arrays and tensors by name."""
    return {"ids": np.array([[len(text), hash_of(text)] for text in texts]), "mask": torch.ones(len(texts), 2)}


def hash_of(text: str) -> int:
    return sum(map(ord, text))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    _, labels = clouds()
    made = pa.array([f"text {row} {'é' * (row % 5)}" for row in range(ROWS)])
    return pool_of(tmp_path_factory.mktemp("texts") / "pool", "text", labels, text=made)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    matrix, labels = clouds()
    columns = {"vector": vector_column(matrix, np.float32)}
    return pool_of(tmp_path_factory.mktemp("vectors") / "pool", "vector", labels, **columns)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_texts_come_as_a_tokenizer_makes_them(texts: Pool, workers: int) -> None:
    feed = Feed.of_texts(texts, lengths, global_batch=16, seed=5, workers=workers)
    known = texts.scan(["text", "label"])
    seen = []
    for batch in feed.epoch(CHOSEN):
        wanted = [known.column("text")[int(row)].as_py() for row in batch.row_ids]
        assert batch["ids"].tolist() == [[len(text), hash_of(text)] for text in wanted]
        assert batch["label"].tolist() == [known.column("label")[int(row)].as_py() for row in batch.row_ids]
        assert batch["mask"].shape == (len(wanted), 2) and batch.texts is None
        seen.extend(batch.row_ids[batch.weights.numpy() > 0].tolist())
    feed.close()
    assert sorted(seen) == CHOSEN.row_ids.tolist()
    assert feed.rows_made == 80


def test_texts_without_a_tokenizer_are_there_themselves_and_only_selected_ones(texts: Pool) -> None:
    feed, known = Feed.of_texts(texts, global_batch=16, seed=5), texts.scan(["text"]).column("text")
    batches = list(feed.epoch(CHOSEN))
    for batch in batches:
        assert batch.texts == [known[int(row)].as_py() for row in batch.row_ids]
    # The order is that of any feed with the seed; a restart and another number of workers change nothing.
    plain = Feed.of_texts(texts, lengths, global_batch=16, seed=5)
    assert [b.row_ids.tolist() for b in batches] == [b.row_ids.tolist() for b in plain.epoch(CHOSEN)]
    rest = list(feed.epoch(CHOSEN, start=batches[1].offset))
    assert [b.texts for b in rest] == [b.texts for b in batches[2:]]
    parts = [list(feed.epoch(CHOSEN, rank, 3)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    for step, whole in enumerate(batches):
        real = [
            (int(row), text)
            for part in parts
            for row, text, weight in zip(
                part[step].row_ids, part[step].texts or [], part[step].weights.tolist(), strict=True
            )
            if weight > 0
        ]
        assert sorted(real) == sorted(zip(whole.row_ids.tolist(), whole.texts or [], strict=True))


def test_what_a_tokenizer_may_return(texts: Pool) -> None:
    made = Feed.of_texts(texts, lambda found: np.zeros((len(found), 4), np.float32), global_batch=16)
    assert next(iter(made.epoch(CHOSEN)))["text"].shape == (16, 4)
    for wrong, message in (
        (lambda found: [[1]] * len(found), r"returned list as text, not a tensor"),
        (lambda found: torch.zeros(1, 2), r"returned \[1, 2\] as text for 16 texts"),
        (lambda found: {"ids": torch.tensor(1.0)}, r"returned \[\] as ids for 16 texts"),
    ):
        with pytest.raises(UsageError, match=message):
            next(iter(Feed.of_texts(texts, wrong, global_batch=16).epoch(CHOSEN)))


def test_vectors_come_from_pools_and_targets(pool: Pool, tmp_path: Path) -> None:
    matrix, labels = clouds()
    for batch in Feed.of_vectors(pool, global_batch=16, seed=1).epoch(CHOSEN):
        assert np.array_equal(batch["vector"].numpy(), matrix[batch.row_ids])
        assert batch["label"].tolist() == labels[batch.row_ids].tolist()
    targets = targets_of(tmp_path / "targets", pool, matrix, np.arange(ROWS))
    for batch in Feed.of_vectors(targets.location.path, global_batch=16).epoch(CHOSEN):
        assert np.allclose(batch["target"].numpy(), matrix[batch.row_ids], atol=0.05)
        assert set(batch.tensors) == {"target"} and batch["target"].shape[1] == DIM


def test_pools_of_other_samples_are_refused(pool: Pool, texts: Pool) -> None:
    with pytest.raises(UsageError, match=r"Feed.of_texts cannot take vectors"):
        Feed.of_texts(pool, global_batch=4)
    with pytest.raises(InputError, match=r"has vectors \(fixed_size_list\) in \[\]"):
        Feed.of_vectors(texts, global_batch=4)
