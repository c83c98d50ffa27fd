"""The published score of dynamic selection (arXiv 2603.04981)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.rotation import highest, noise, stream_seed
from coevo_ray.errors import InputError, UsageError


class Scored(Policy):
    """The rows with the highest score s = (1 - a_t) R + a_t D - lambda u, as published in arXiv 2603.04981.

    See docs/design.md#policy-scored. a_t rises from 0 to 1 over the epochs as half a cosine. Gumbel noise of
    temperature tau turns the top-k into a sample without replacement (Kool et al. 2019, arXiv 1903.06059).

    With tau = 0 usage counts stay close. Let b = (1 - a_t) R + a_t D, rho the largest range of b over the candidates in
    any epoch so far (at most 1), and g = ceil(rho / lambda) + 1. Claim: u_i - u_j <= g for all rows i, j, if all began
    with equal usage. The difference grows, by 1, only in an epoch that selects i and not j. Then s_i >= s_j, that is
    lambda (u_i - u_j) <= b_i - b_j <= rho, so before the epoch u_i - u_j <= floor(rho / lambda), and after it
    u_i - u_j <= floor(rho / lambda) + 1 <= g. (The ceiling leaves room for rounding in s.)

    Args:
        penalty: lambda > 0, subtracted from the score for each use.
        temperature: tau >= 0.

    Raises:
        UsageError: a setting is out of bounds.
    """

    name = "scored"
    needs = frozenset({"representativeness", "diversity"})
    equal_visits = False

    def __init__(self, penalty: float = 0.5, temperature: float = 0.05) -> None:
        if penalty <= 0 or temperature < 0:
            raise UsageError(
                f"scored: penalty {penalty}, temperature {temperature}", "need penalty > 0, temperature >= 0"
            )
        self.penalty, self.temperature = penalty, temperature

    def score(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Computes the score, with noise, of rows int64[n]: float64[n].

        Raises:
            InputError: a score is not finite.
        """
        assert context.representativeness is not None and context.diversity is not None
        alpha = 0.5 * (1.0 - np.cos(np.pi * min(1.0, context.epoch / max(1, context.epochs - 1))))
        r, d = context.representativeness[rows].astype(np.float64), context.diversity[rows].astype(np.float64)
        s = (1.0 - alpha) * r + alpha * d - self.penalty * context.usage[rows]
        if self.temperature > 0:
            s = s - self.temperature * np.log(-np.log(noise(rows, context.seed, context.epoch + 1)))
        if not np.isfinite(s).all():
            raise InputError("scores are not finite", "score the pool again with `coevo-ray sae`")
        scores: Float64Array = s
        return scores

    def select(self, context: SelectionContext) -> Rows:
        """Selects the rows with the highest scores: int64[budget] or a set.

        Raises:
            InputError: there are no scores, or one is not finite.
        """
        require(context, self)
        # Ties are broken by a hash that changes with the epoch, so that no row loses them all.
        seed = stream_seed(context.seed, context.epoch + 1)
        return highest(context.candidates, lambda rows: self.score(context, rows), context.budget, seed)
