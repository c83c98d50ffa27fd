"""One step of the objective `semi_supervised` and an epoch's figures; without Ray and without files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig
from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.core.feed.cycles import Cycle
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError
from coevo_ray.training.feed.batch import Batch
from coevo_ray.training.feed.paired import PairedBatch, Rows
from coevo_ray.training.feed.views import view_numbers
from coevo_ray.training.inputs.base import ViewPair
from coevo_ray.training.loop.descent import Descent
from coevo_ray.training.semi_supervised.consistency import PseudoTargets, Targets, step_losses

# Loss, its steps, labelled loss, consistency loss; unlabelled rows, those with a target, of these those whose label is
# known, and those whose target is that label; labelled rows with a target, and those whose target is their label.
FIGURES = 10


@dataclass(frozen=True, eq=False)
class SemiRows:
    """The rows of a training and their labels.

    Attributes:
        labels: int64[rows of the pool], those to train on; -1 where a row has none.
        weights: float32[rows of the pool] of the labelled rows.
        train: int64 row_ids of the training rows, increasing.
        known: int64[rows of the pool], true labels as far as they are known, for figures alone; -1 where not.
        classes: number of classes.
        pseudo_labelled: number of pseudo-labels among the labels.
    """

    labels: Int64Array
    weights: Float32Array
    train: Int64Array
    known: Int64Array
    classes: int
    pseudo_labelled: int = 0

    def check(self) -> None:
        """Refuses what cannot be learned from.

        Raises:
            InputError: no training row has a label, all have the same, or one is outside the classes.
        """
        found = np.unique(self.labels[self.train])
        found = found[found >= 0]
        if len(found) == 0:
            raise InputError("no training row has a label", "give labels, or ingest a source that has some")
        if found[-1] >= self.classes:
            raise InputError(
                f"a label is {found[-1]}, the pool has {self.classes} classes (0 to {self.classes - 1})",
                "give labels of this pool, or ingest it with classes set",
            )
        if len(found) == 1:
            raise InputError(f"all labels are of class {found[0]}, need two classes", "label rows of other classes")

    def plan(self, config: SemiTrainConfig) -> tuple[Rows, Rows | None, int]:
        """Rows with a label, rows for consistency, and the steps of an epoch.

        There are none for consistency where all training rows have a label or its weight is 0; in the latter case the
        steps stay as many as with them. `least_steps` is for what unlabelled rows need: with labels on all rows an
        epoch is one pass.
        """
        has = self.labels[self.train] >= 0
        ids = self.train[has]
        labelled = Rows(ids, Cycle(len(ids), config.batch_rows), self.weights[ids])
        if has.all():
            return labelled, None, config.epoch_steps or labelled.cycle.steps
        others = self.train if config.labelled_too else self.train[~has]
        cycle = Cycle(len(others), config.mu * config.batch_rows)
        steps = config.epoch_steps or max(cycle.steps, -(-config.least_steps // config.epochs))
        if config.consistency_weight == 0:
            return labelled, None, steps
        return labelled, Rows(RowSet.from_ids(others, len(self.labels)), cycle), steps

    def counts(self) -> dict[str, int]:
        """`labelled`, `pseudo_labelled` and `unlabelled` training rows."""
        labelled = int((self.labels[self.train] >= 0).sum())
        counts = {"labelled": labelled - self.pseudo_labelled, "pseudo_labelled": self.pseudo_labelled}
        return {**counts, "unlabelled": len(self.train) - labelled}


class SemiSupervisedStep:
    """Makes views of a step's rows and computes their loss (FixMatch, arXiv 2001.07685).

    Args:
        config: views, rule and weights.
        rows: labels.
        descent: the network in training.
        device: of the network.
        views: name of the samples' tensor, and how their weak and strong views are made.
        world: number of workers.
        total: adds up a tensor over all workers, in place; None for one worker.

    Attributes:
        views: weak and strong.
        rule: chooses the predictions that become targets; its running means belong to the training's state.
    """

    def __init__(
        self,
        config: SemiTrainConfig,
        rows: SemiRows,
        descent: Descent,
        device: torch.device,
        views: tuple[str, ViewPair],
        world: int = 1,
        total: Callable[[torch.Tensor], object] | None = None,
    ) -> None:
        self.config, self.rows, self.descent = config, rows, descent
        self._device, self._world = device, world
        self._column, self.views = views
        self.rule = PseudoTargets(config, rows.classes, device, total)

    def __call__(self, batch: PairedBatch, ramp: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of this worker's part of a step, and the figures of it.

        Args:
            batch: samples of the rows, as views are made of them.
            ramp: share of the consistency weight, in 0..1.

        Returns:
            The loss, whose gradient averaged over the workers is that of the global batch; float64[FIGURES], whose sum
            over workers and steps `figures` reads.
        """
        labelled, other = batch.labelled, batch.unlabelled
        weak = self.views.weak(*self._inputs(labelled, batch.passes[0], 0, labelled=True))
        labels = torch.from_numpy(self.rows.labels[labelled.row_ids]).to(self._device)
        unlabelled = None
        if other is not None:
            views = [
                make(*self._inputs(other, batch.passes[1], view, labelled=False))
                for view, make in enumerate((self.views.weak, self.views.strong))
            ]
            unlabelled = (views[0], views[1], other.weights.to(self._device))
        with self.descent.autocast():
            losses = step_losses(self.descent.network, self._teacher(), self.rule, weak, labels, unlabelled)
        of_labels = _mean(losses.labelled, labelled)
        loss, of_others = of_labels, torch.zeros_like(of_labels)
        if other is not None and losses.consistency is not None:
            of_others = _mean(losses.consistency, other)
            loss = of_labels + self.config.consistency_weight * ramp * of_others
        parts = torch.stack([loss.detach(), torch.full_like(loss, 1 / self._world), of_labels, of_others]).detach()
        return loss * self._world, torch.cat([parts.double(), self._counts(losses.targets, other)])

    def _teacher(self) -> nn.Module:
        if self.config.teacher == "ema":
            assert self.descent.average is not None
            return self.descent.average
        return self.descent.network  # with what joins the workers, which gives all of them the same statistics

    def _inputs(self, batch: Batch, number: int, view: int, *, labelled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples, and the random numbers of their views in this pass."""
        # A row may be in both feeds, in passes of the same number.
        seed = int(hash_rows(np.array([labelled], dtype=np.int64), self.config.seed)[0])
        samples = batch[self._column].to(self._device, non_blocking=True)
        numbers = view_numbers(batch.row_ids, seed, number, view, self.views.numbers(samples))
        return samples, numbers.to(self._device)

    def _counts(self, targets: Targets | None, batch: Batch | None) -> torch.Tensor:
        """float64[6]: the last of FIGURES."""
        if targets is None or batch is None:
            return torch.zeros(6, dtype=torch.float64, device=self._device)
        labels = torch.from_numpy(self.rows.labels[batch.row_ids]).to(self._device)
        known = torch.from_numpy(self.rows.known[batch.row_ids]).to(self._device)
        real = batch.weights.to(self._device) > 0
        bare, chosen = real & (labels < 0), real & targets.chosen
        told, trained = bare & chosen & (known >= 0), chosen & (labels >= 0)
        right, kept = told & (targets.classes == known), trained & (targets.classes == labels)
        return torch.stack([part.sum() for part in (bare, bare & chosen, told, right, trained, kept)]).double()


def _mean(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """This worker's part of the global batch's weighted mean."""
    return (losses * batch.weights.to(losses.device)).sum() / batch.global_rows


def ramp_factor(config: SemiTrainConfig, epoch: int, step: int, steps: int) -> float:
    """Share of the consistency weight at a step of an epoch: rises from 0 to 1 within `ramp_epochs`, in a line."""
    return min(1.0, (epoch + step / steps) / config.ramp_epochs) if config.ramp_epochs else 1.0


def figures(sums: list[float]) -> dict[str, Any]:
    """Turns an epoch's sums into figures.

    Args:
        sums: FIGURES numbers, over all its steps and workers.

    Returns:
        `labelled_loss` and `consistency_loss` (nats, mean over steps), `confident_share` of the unlabelled rows had a
        target, and `pseudo_accuracy` of these targets where labels are known; `own_accuracy`, how many of the targets
        of labelled rows are their labels, which needs no other labels: those of unlabelled rows are hardly better. None
        where there was nothing to count.
    """
    _, steps, labelled, consistency, rows, chosen, told, right, trained, kept = sums
    return {
        "labelled_loss": labelled / steps,
        "consistency_loss": consistency / steps if rows else None,
        "confident_share": chosen / rows if rows else None,
        "pseudo_accuracy": right / told if told else None,
        "own_accuracy": kept / trained if trained else None,
    }
