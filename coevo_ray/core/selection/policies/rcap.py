"""RCAP: more rows of the classes with larger loss, and within a class rather those of large loss."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.policies.groups import divided, highest_in_groups
from coevo_ray.core.selection.policies.rho_loss import known_losses, uniform_loss
from coevo_ray.core.selection.rotation import noise, stream_seed
from coevo_ray.errors import InputError, UsageError


class RCAP(Policy):
    """RCAP: a closed-form number of rows of each class, drawn by their losses (Hassan et al. 2026, arXiv 2606.11761).

    Of class c with the share P_c of the rows and the loss L_c the epoch has

        b_c = b sqrt(L_c P_c) / sum_k sqrt(L_k P_k)

    rows, at most all of them; what a class cannot take goes to the others by the same formula. It minimises
    sum_c P_c L_c / b_c for a given sum of b_c. Within a class rows are drawn without replacement with probabilities
    softmax(loss / beta). Losses are clipped to [0, ln C] for C classes, so that wrong labels do not win by size alone,
    and ln C is the loss of a row that was never used, both as in the authors' code.

    L_c is the mean clipped loss over the class. The abstract says "class-wise aggregated loss", and the full text was
    not at hand; the authors' code puts in a number in (0, 1] that does not grow with the class's size. With the sum in
    place of the mean a rare class would get no more than its share. The code rounds each b_c up; here they sum to b.
    Weights are 1, as in the code.

    Args:
        beta: temperature of the draw within a class, in nats; the authors suggest 1/3 to 3.

    Raises:
        UsageError: it is not above 0.
    """

    name = "rcap"
    needs = frozenset({"loss", "label"})
    equal_visits = False

    def __init__(self, beta: float = 1.0) -> None:
        if not beta > 0:
            raise UsageError(f"rcap: beta {beta}", "need above 0")
        self.beta = beta

    def select(self, context: SelectionContext) -> Rows:
        """Draws the rows of every class: int64[budget].

        Raises:
            InputError: there are no losses, or a candidate has no label.
        """
        require(context, self)
        assert context.label is not None
        rows = context.rows
        labels = context.label[rows].astype(np.int64)
        if (labels < 0).any():
            have = f"rcap needs labels, {int((labels < 0).sum())} of {len(rows)} candidates have none"
            raise InputError(have, "train on labelled rows, or take order_dp")
        losses = np.clip(known_losses(context, rows), 0.0, uniform_loss(context))
        # The Gumbel-max trick: the largest sums are a draw without replacement (Kool et al. 2019, arXiv 1903.06059).
        keys = losses / self.beta - np.log(-np.log(noise(rows, context.seed, context.epoch + 1)))
        quotas = class_rows(labels, losses, context.budget)
        kept: Int64Array = rows[highest_in_groups(rows, labels, keys, quotas, stream_seed(context.seed, 0))]
        return kept


def class_rows(labels: Int64Array, losses: Float64Array, budget: int) -> Int64Array:
    """Computes the number of rows of each class, see `RCAP`: int64[classes] with sum `budget`.

    Args:
        labels: int64[n], 0 or above.
        losses: float64[n], 0 or above. If all are 0, classes get their shares.
        budget: at most n.
    """
    sizes = np.bincount(labels)
    mean = np.bincount(labels, weights=losses) / np.maximum(sizes, 1)
    return divided(budget, np.sqrt(mean * sizes / len(labels)), sizes)
