"""Accuracy of a classifier in training on the held-out split, over all workers."""

from __future__ import annotations

import torch
import torch.distributed
from torch import nn

from coevo_ray.core.arrays import IntArray
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.training.feed.batch import network_input
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.loop.learner import Learner


class HeldOut:
    """The labelled rows of the held-out split.

    Args:
        learner: has the network; its batch and seed are taken.
        rows: labelled rows of the held-out split.
        source: what the network takes.
        labels: int[rows of the pool].
    """

    def __init__(self, learner: Learner, rows: RowSet, source: InputSource, labels: IntArray) -> None:
        config = learner.config
        self._learner, self._labels = learner, labels
        self._column = source.column
        self._feed = source.feed(config.batch_rows, config.seed, learner.device)
        self._test = Subset(0, rows)

    def accuracy(self) -> dict[str, float | None]:
        """`accuracy` (None without held-out labels) and, with averaged weights, `ema_accuracy`; all workers call it.

        Raises:
            InputError: a sample cannot be read.
        """
        learner = self._learner
        found = {"accuracy": self._of(learner.network)}
        if learner.average is not None:
            learner.share_average()
            found["ema_accuracy"] = self._of(learner.average)
        return found

    @torch.no_grad()
    def _of(self, network: nn.Module) -> float | None:
        """Share of held-out rows that are classified rightly."""
        if len(self._test) == 0:
            return None
        learner = self._learner
        network.eval()
        right = torch.zeros(1, device=learner.device)
        for batch in self._feed.epoch(self._test, learner.rank, learner.world):
            labels = torch.from_numpy(self._labels[batch.row_ids]).to(learner.device, torch.int64)
            with learner.autocast():
                predicted = network(network_input(batch, self._column, learner.device)).argmax(dim=1)
            right += ((predicted == labels) * batch.weights.to(learner.device)).sum()
        if learner.world > 1:
            torch.distributed.all_reduce(right)
        return float(right.item() / len(self._test))


def accuracy_note(entry: JsonObject) -> str:
    """A short text on an epoch's accuracy; empty without held-out labels."""
    accuracy = entry["accuracy"]
    return "" if accuracy is None else f"accuracy {accuracy:.3f}"
