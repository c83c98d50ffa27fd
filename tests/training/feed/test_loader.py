"""The feed in the place of a DataLoader: its streams, its state, and what it asks of its ledger."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.selection.policies import KeptShares
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.training.feed import loader as loader_module
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.loader import FeedLoader
from tests.training.feed.helpers import row_of, write_pool

ROWS, BATCH, EPOCHS = 240, 16, 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return write_pool(tmp_path_factory.mktemp("loader"), ROWS)


def make(pool: Location, *, policy: str = "rotation", keep: float | KeptShares = 0.5, **options: Any) -> FeedLoader:
    feed = Feed.of_images(Pool(pool), global_batch=BATCH, seed=7, window_blocks=3, prefetch=0)
    return feed.loader(EPOCHS, policy=policy, keep=keep, **options)


class Ranks:
    """Loaders of a number of processes, asked for their batches of a step one after another."""

    def __init__(self, pool: Location, world: int, patch: pytest.MonkeyPatch, **options: Any) -> None:
        self.loaders = [make(pool, **options) for _ in range(world)]
        self._world, self._patch = world, patch

    def iterate(self) -> list[Any]:
        return [self._placed(rank, iter(loader)) for rank, loader in enumerate(self.loaders)]

    def _placed(self, rank: int, batches: Any) -> Any:
        while True:
            # The place is asked for when an iterator is first advanced.
            self._patch.setattr("coevo_ray.training.feed.feed._worker_place", lambda: (rank, self._world))
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch

    def epoch(self, steps: int | None = None) -> list[list[int]]:
        """The rows of each step of an epoch, or of its first steps."""
        iterators, stream = self.iterate(), list[list[int]]()
        while steps is None or len(stream) < steps:
            parts: list[Any] = [next(batches, None) for batches in iterators]
            if parts[0] is None:
                assert parts == [None] * self._world
                break
            real = [batch["row_ids"][batch["weights"] > 0].tolist() for batch in parts]
            stream.append(sorted(row for part in real for row in part))
        return stream


def saved(loader: FeedLoader) -> dict[str, Any]:
    """The loader's state through a checkpoint's file, as trainers read them."""
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def test_epochs_follow_one_another_as_the_ledger_selects_them(pool: Location) -> None:
    loader = make(pool)
    seen: Counter[int] = Counter()
    for epoch in range(EPOCHS):
        assert loader.ledger.committed == max(0, epoch - 1) if epoch else loader.ledger.committed == 0
        batches = list(loader)
        assert len(batches) == len(loader) == 6  # half of the 192 labelled rows
        assert loader.position == (epoch, 96)
        seen.update(row for batch in batches for row in batch["row_ids"].tolist())
        assert all(row_of(batch["image"]) == batch["row_ids"].tolist() for batch in batches)
    loader.close()
    assert loader.ledger.usage().tolist() == [seen[row] for row in range(ROWS)]
    assert set(seen.values()) == {2, 3}
    assert not any(seen[row] for row in range(0, ROWS, 5))  # they have no label
    with pytest.raises(InputError, match="5 from 0 on"):
        iter(loader)


@settings(max_examples=8, deadline=None)
@given(worlds=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
@pytest.mark.parametrize("policy", ["rotation", "infobatch"])
def test_a_state_goes_on_after_the_same_batch_with_any_number_of_processes(
    pool: Location, policy: str, worlds: list[int], data: st.DataObject
) -> None:
    """Stops anywhere, several times, each time with another number of processes."""
    with pytest.MonkeyPatch.context() as patch:
        whole = Ranks(pool, 1, patch, policy=policy)
        expected = [_reported(whole.loaders[:1], step) for _ in range(3) for step in whole.epoch()]
        state, stream = None, []
        for world in worlds:
            part = Ranks(pool, world, patch, policy=policy)
            if state is not None:
                for loader in part.loaders:
                    loader.load_state_dict(state)
            for _ in range(data.draw(st.integers(0, 1))):
                stream += [_reported(part.loaders, step) for step in part.epoch()]
            steps = data.draw(st.integers(0, 6))
            stream += [_reported(part.loaders, step) for step in part.epoch(steps)]
            states = [saved(loader) for loader in part.loaders]
            assert len({repr(one) for one in states}) == 1
            state = states[-1]
        assert state is not None
        last = Ranks(pool, 1, patch, policy=policy)
        last.loaders[0].load_state_dict(state)
        while len(stream) < len(expected):
            stream += [_reported(last.loaders, step) for step in last.epoch()]
        assert stream[: len(expected)] == expected


def _reported(loaders: list[FeedLoader], rows: list[int]) -> list[int]:
    """Tells each of the loaders losses that follow from the row alone, as the exchange between processes would."""
    losses = torch.tensor([(row * 7 % 11) / 10 + 0.1 for row in rows])
    for loader in loaders:
        loader.report_losses(torch.tensor(rows), losses)
    return rows


def test_a_state_is_refused_by_a_loader_with_another_order(pool: Location) -> None:
    state = make(pool).state_dict()
    other = Feed.of_images(Pool(pool), global_batch=BATCH + 1, seed=7, window_blocks=3).loader(EPOCHS, keep=0.5)
    with pytest.raises(InputError, match="global_batch is 16, this loader's is 17"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="keep"):
        make(pool, keep=0.25).load_state_dict(state)
    with pytest.raises(InputError, match="no state"):
        make(pool).load_state_dict({"epoch": 1})


def test_an_iterator_that_gave_no_batch_has_begun_no_epoch(pool: Location) -> None:
    """Trainers call iter() to look whether they can."""
    loader = make(pool)
    iter(loader)
    first = [batch["row_ids"].tolist() for batch in loader]
    assert loader.position[0] == 0
    assert first == [batch["row_ids"].tolist() for batch in make(pool)]


def test_leaving_an_epoch_early_goes_on_with_the_next_one_and_ends_the_former_iterator(pool: Location) -> None:
    loader = make(pool)
    former = iter(loader)
    next(former)
    next(iter(loader))
    assert loader.position == (1, BATCH)
    assert next(former, None) is None
    assert loader.ledger.committed == 1


def test_set_epoch_names_the_epoch_and_keeps_a_position_inside_of_it(pool: Location) -> None:
    loader, reference = make(pool), make(pool)
    streams = [[batch["row_ids"].tolist() for batch in reference] for _ in range(EPOCHS)]
    loader.set_epoch(3)
    assert [batch["row_ids"].tolist() for batch in loader] == streams[3]
    loader.set_epoch(3)  # once more, as a sampler would
    batches = iter(loader)
    assert [next(batches)["row_ids"].tolist() for _ in range(2)] == streams[3][:2]

    resumed = make(pool)
    resumed.load_state_dict(saved(loader))
    resumed.set_epoch(3)
    assert [batch["row_ids"].tolist() for batch in resumed] == streams[3][2:]
    at_the_end = make(pool)
    at_the_end.load_state_dict(saved(resumed))
    at_the_end.set_epoch(3)
    assert list(at_the_end) == []
    assert [batch["row_ids"].tolist() for batch in at_the_end] == []
    at_the_end.set_epoch(4)
    assert [batch["row_ids"].tolist() for batch in at_the_end] == streams[4]
    with pytest.raises(InputError, match="only the last epoch"):
        at_the_end.set_epoch(1)


def test_epochs_may_differ_in_length(pool: Location) -> None:
    loader = make(pool, keep=KeptShares(0.25, full_tail=0.4))
    assert [(len(list(loader)), len(loader)) for _ in range(EPOCHS)] == [(3, 3)] * 3 + [(12, 12)] * 2
    assert [-(-rows // BATCH) for rows in loader.planned] == [3, 3, 3, 12, 12]


def test_batches_hold_what_was_asked_for(pool: Location) -> None:
    assert list(next(iter(make(pool)))) == ["image", "label", "weights", "row_ids"]
    images, labels = next(iter(make(pool, columns=["image", "label"])))
    assert images.shape == (BATCH, 3, 8, 8)
    named = next(iter(make(pool, columns={"pixel_values": "image", "labels": "label"})))
    assert torch.equal(named["pixel_values"], images)
    assert torch.equal(named["labels"], labels)
    with pytest.raises(UsageError, match="columns can be: image, label, weights, row_ids"):
        next(iter(make(pool, columns=["pixels"])))


def test_policies_that_need_losses_cannot_skip_epochs_without_them(pool: Location) -> None:
    loader = make(pool, policy="infobatch")
    with pytest.raises(InputError, match="infobatch needs the losses between"):
        loader.set_epoch(2)
    list(loader)
    loader.set_epoch(1)
    assert loader.position == (1, 0)


def test_losses_reach_the_ledger_and_are_in_the_state(pool: Location) -> None:
    loader = make(pool, policy="infobatch")
    batch = next(iter(loader))
    assert loader.report_losses(batch["row_ids"], torch.full((BATCH,), 0.5)) == BATCH
    other = make(pool, policy="infobatch")
    other.load_state_dict(saved(loader))
    _, mine = loader.ledger.state()
    _, restored = other.ledger.state()
    assert mine.keys() == restored.keys()
    assert all(np.array_equal(mine[name], restored[name], equal_nan=True) for name in mine)
    assert make(pool).report_losses(batch["row_ids"], torch.zeros(BATCH)) == 0


@pytest.mark.parametrize("loaded", [False, True])
def test_batches_that_are_done_are_not_made_again(pool: Location, loaded: bool) -> None:
    """accelerate.skip_first_batches takes the loader's data set, of which a position takes the first batches away."""
    stream = [batch["row_ids"].tolist() for batch in make(pool)]
    loader = make(pool)
    if loaded:
        loader.seek(0, 4)
    rest = [batch["row_ids"].tolist() for batch in skip_first_batches(loader, 4)]
    assert rest == stream[4:]
    assert loader.feed.rows_made == (2 if loaded else 6) * BATCH
    assert loader.position == (0, 96)


def test_rows_that_may_be_selected_can_be_named(pool: Location, tmp_path: Path) -> None:
    loader = make(pool, keep=1.0, rows=np.arange(0, 40))
    assert sorted(row for batch in loader for row in batch["row_ids"].tolist()) == list(range(40))
    with pytest.raises(InputError, match="not distinct rows"):
        make(pool, rows=np.array([3, ROWS]))


def test_the_version_of_the_state_is_checked(pool: Location) -> None:
    state = make(pool).state_dict()
    assert state["version"] == loader_module._VERSION
    with pytest.raises(InputError, match="no state"):
        make(pool).load_state_dict(state | {"version": 0})
