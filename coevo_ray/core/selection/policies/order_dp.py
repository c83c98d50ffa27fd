"""OrderDP: random rows first, then those of largest loss among them."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, FloatArray, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.rotation import draw, highest, stream_seed
from coevo_ray.errors import UsageError


class OrderDP(Policy):
    """OrderDP: the q rows of largest last loss among s random ones (Jin et al. 2026, arXiv 2606.08574).

    Losses are refreshed where a row is trained on, as published ("lazy refresh"). Weights are 1: the mean gradient of
    a subset is an unbiased gradient of a surrogate loss, of which `order_chances` gives the weights (theorem 1). It is
    not one of the mean loss; `unbiased` weighs the rows by the same chances.

    q is the epoch's budget. As published q / s is 0.6, which with s / n = 0.5 keeps 0.3 of n rows. Larger kept shares
    would make s exceed n, and leave nothing to chance: s is then half way from q to n, which is near the authors'
    settings there. The paper does not say what rows without a loss do; here they come first, as they do in the authors'
    code, whose losses begin at 3 nats.

    Args:
        exploitation: q / s, in (0, 1]; 1 is `random`.

    Raises:
        UsageError: it is out of bounds.
    """

    name = "order_dp"
    needs = frozenset({"loss"})
    equal_visits = False

    def __init__(self, exploitation: float = 0.6) -> None:
        if not 0 < exploitation <= 1:
            raise UsageError(f"order_dp: exploitation {exploitation}", "need above 0, up to 1")
        self.exploitation = exploitation

    def explored(self, context: SelectionContext) -> int:
        """Returns s, the number of rows that are drawn at random: from the budget to the number of candidates."""
        budget, n = context.budget, len(context.candidates)
        return min(max(budget, round(budget / self.exploitation)), (budget + n + 1) // 2)

    def select(self, context: SelectionContext) -> Rows:
        """Selects the rows of largest loss among random ones: int64[budget] or a set.

        Raises:
            InputError: there are no losses.
        """
        require(context, self)
        losses, seed = context.loss, stream_seed(context.seed, 2 * context.epoch + 1)
        assert losses is not None
        explored = draw(context.candidates, self.explored(context), seed)
        return highest(explored, lambda rows: _keys(losses, rows), context.budget, seed + 1)

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the chances of selected rows int64[n], given all losses: float64[n].

        Rows of equal loss are in random order, and have the mean of their ranks' chances.
        """
        assert context.loss is not None
        keys = -_keys(context.loss, context.rows)
        chances = order_chances(len(keys), self.explored(context), context.budget)
        _, rank, ties = np.unique(keys, return_inverse=True, return_counts=True)
        alike = np.add.reduceat(chances, np.cumsum(ties) - ties) / ties
        of: Float64Array = alike[rank[np.searchsorted(context.rows, rows)]]
        return of


def order_chances(n: int, s: int, q: int) -> Float64Array:
    """Computes the chance gamma_j that the row of j-th largest loss is among the q largest of s random rows of n.

    gamma_j = sum_l C(j - 1, l - 1) C(n - j, s - l) / C(n, s), l from max(1, s - n + j) to min(q, j) (arXiv 2606.08574,
    section on the surrogate loss L_q = sum_j gamma_j L_(j) / q). Computed in linear time from the rank T of the q-th
    row, P(T = t) = C(t - 1, q - 1) C(n - t, s - q) / C(n, s): a row before it is drawn with probability
    (q - 1) / (t - 1).

    Args:
        n, s, q: numbers of rows, q <= s <= n, q 1 or more.

    Returns:
        float64[n], of ranks 1 to n; their sum is q.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])

    def choose(of: Int64Array, k: int) -> Float64Array:
        inside = of >= k
        some = np.where(inside, of, k)
        return np.where(inside, logs[some] - logs[k] - logs[some - k], -np.inf)

    rank = np.arange(1, n + 1)
    every = np.array([n])
    last = np.exp(choose(rank - 1, q - 1) + choose(n - rank, s - q) - choose(every, s))
    before = last * (q - 1) / np.maximum(rank - 1, 1)
    after = np.cumsum(before[::-1])[::-1] - before
    chances: Float64Array = last + after
    return chances


def _keys(losses: FloatArray, rows: Int64Array) -> Float64Array:
    own = losses[rows].astype(np.float64)
    return np.where(np.isnan(own), np.inf, own)
