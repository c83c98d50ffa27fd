"""RHO-LOSS: rows that are learnable and not yet learnt, by a reference that never saw them."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.policies.groups import divided, highest_in_groups
from coevo_ray.core.selection.rotation import stream_seed
from coevo_ray.errors import UsageError


class RhoLoss(Policy):
    """RHO-LOSS: the rows of largest reducible loss (Mindermann et al. 2022, arXiv 2206.07137, equation 3, algorithm 1).

    The reducible loss of a row is its loss less its irreducible loss, that of a reference model which was not trained
    on it. It is small for rows that are learnt, and for rows whose label the reference cannot predict either: wrong
    labels, and what cannot be learnt. As published, the rows are shuffled into large batches, and the same share of
    each is trained on, those of its largest reducible loss; here the share is the kept share.

    Differences from the paper:

    - The reference is a linear probe on the prior's targets. Of each row it is the probe that was fitted without the
      row's fold (cross-fitting), in place of a model of a held-out set: evidence has its loss (`irreducible`).
    - The paper computes the losses of a large batch when it is its turn. Here a row's loss is the last that training
      reported, since rows that are not selected are not read. A row without one has that of an untrained network, ln C
      for C classes, as all rows have at the paper's first step.

    Weights are 1, as published.

    Args:
        large_batch: rows of a large batch; 320 as published.

    Raises:
        UsageError: there are fewer than 1.
    """

    name = "rho_loss"
    needs = frozenset({"loss", "irreducible", "label"})
    uses = frozenset({"irreducible"})
    equal_visits = False

    def __init__(self, large_batch: int = 320) -> None:
        if large_batch < 1:
            raise UsageError(f"rho_loss: large_batch {large_batch}", "need 1 row or more")
        self.large_batch = large_batch

    def select(self, context: SelectionContext) -> Rows:
        """Selects the rows of largest reducible loss of each large batch: int64[budget].

        Raises:
            InputError: there are no losses, no labels or no irreducible losses.
        """
        require(context, self)
        rows = context.rows
        order = np.argsort(hash_rows(rows, stream_seed(context.seed, 2 * context.epoch + 1)))
        batch = np.empty(len(rows), dtype=np.int64)
        batch[order] = np.arange(len(rows)) // self.large_batch
        sizes = np.bincount(batch)
        quotas = divided(context.budget, sizes.astype(np.float64), sizes)
        tie_seed = stream_seed(context.seed, 2 * context.epoch + 2)
        kept: Int64Array = rows[highest_in_groups(rows, batch, self.reducible(context, rows), quotas, tie_seed)]
        return kept

    def reducible(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Computes the reducible losses, in nats, of rows int64[n]: float64[n]."""
        assert context.irreducible is not None
        return known_losses(context, rows) - context.irreducible[rows]


def known_losses(context: SelectionContext, rows: Int64Array) -> Float64Array:
    """Returns the last losses of rows int64[n], or ln C for C classes where there is none: float64[n].

    A network that predicts all classes alike has that loss. C counts the labels of the pool; it is 2 or more.
    """
    assert context.loss is not None and context.label is not None
    losses = context.loss[rows].astype(np.float64)
    losses[np.isnan(losses)] = uniform_loss(context)
    return losses


def uniform_loss(context: SelectionContext) -> float:
    """Returns ln C, the loss of a prediction of C classes alike."""
    assert context.label is not None
    return float(np.log(max(2, int(context.label.max(initial=0)) + 1)))
