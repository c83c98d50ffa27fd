"""The assignment of rows to priors by what each prior turned out to be worth on the shared set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coevo_ray.core.alignment.consensus import quality_shares
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import Plan
from coevo_ray.pipelines.encode.joined import SharedFit, fit_shared
from coevo_ray.pipelines.encode.shared_files import SharedFiles
from coevo_ray.progress import say
from coevo_ray.store.location import Location

_WEIGHTS = "weights.json"


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def settle_weights(
    plan: Plan, locations: Sequence[Location], labels: Sequence[str], dim: int, seed: int
) -> tuple[tuple[float, ...], SharedFit | None]:
    """The participants' weights times their shares by quality; written down, so that a resumed job has the same.

    Args:
        plan: with the weights that the user gave, and the number of priors that encode a row.
        locations: folders of the contributions, their shared sets finished.
        labels: names of the priors.
        dim: n of the targets.
        seed: of the rows held out to measure.

    Returns:
        Weights, 0 for a prior that gets no rows but the shared ones; and the consensus that they follow from, or None
        where an earlier attempt settled them.

    Raises:
        InputError: the shared set is too small for n dimensions.
        StoppedError: the store or the cluster failed.
    """
    file = locations[0].child(_WEIGHTS)
    if file.is_file():
        there = file.read_json()
        if not isinstance(there, list) or not all(_is_weight(weight) for weight in there):
            raise InputError(f"{file} holds no weights", "delete the folder and encode again")
        if len(there) != len(plan.weights):
            raise InputError(
                f"{file} has weights of {len(there)} priors, the job {len(plan.weights)}", "encode elsewhere"
            )
        return tuple(float(weight) for weight in there), None
    fitted = fit_shared([SharedFiles(at) for at in locations], dim, seed)
    priors = fitted.consensus.priors
    shares = quality_shares([prior.weight for prior in priors], plan.coverage)
    settled = tuple(weight * share for weight, share in zip(plan.weights, shares, strict=True))
    for label, prior, weight in zip(labels, priors, settled, strict=True):
        share = f"{weight / sum(settled):.0%} of the rows" if plan.coverage == 1 else "rows"
        part = share if weight else "no rows but the shared ones, for another says more"
        say(f"{label}: reaches the consensus with R^2 {prior.r2:.2f}, gets {part}")
    file.write_json(list(settled))
    return settled, fitted
