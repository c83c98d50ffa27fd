"""A verdict on a consensus, from measures that need no labels (docs/design.md#consensus)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coevo_ray.core.alignment.consensus import PriorMap, prior_worth
from coevo_ray.core.arrays import Float64Array

Kind = Literal["one_prior", "keep_all", "leave_out", "take_one", "share_more", "as_there"]

# By hand, not by a sweep: priors worth mixing had an R^2 of 0.7 or more; below this most of a target is noise.
_MEET = 0.3
# Shared rows for each dimension of the latent, below which the latent itself moves with the rows that are shared.
_ROWS = 3
_TOLD = 1.5  # times chance: priors are told apart by their targets


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    Attributes:
        kind: keep all priors, leave some out, take one, share more rows, nothing to compare, or
            made for a consensus that was judged before.
        priors: names of the priors to leave out, or the one to take.
        text: the verdict and its reason in a sentence.
    """

    kind: Kind
    priors: tuple[str, ...]
    text: str


def judge_consensus(
    names: Sequence[str],
    priors: Sequence[PriorMap],
    shared_rows: int,
    agreement: Float64Array,
    recognition: float,
    side_by_side: bool = False,
) -> Verdict:
    """Judges whether the priors' targets may be mixed.

    Args:
        names: of the priors.
        priors: their maps to the latent.
        shared_rows: rows of the shared set.
        agreement: float64[priors, priors], from `neighbour_agreement`.
        recognition: from `prior_recognition`.
        side_by_side: whether rows with targets of one prior stand beside rows with targets of another.

    Returns:
        The verdict. The first that holds of: share more, take one, leave out, keep all.
    """
    dim = priors[0].matrix.shape[1]
    best = int(np.argmax([p.weight for p in priors]))
    if len(priors) == 1:
        return Verdict("one_prior", (), f"{names[0]} is the only prior: nothing to compare")
    r2 = ", ".join(f"{name} {prior.r2:.2f}" for name, prior in zip(names, priors, strict=True))
    if shared_rows < _ROWS * dim:
        return Verdict(
            "share_more",
            (),
            f"share more rows: {shared_rows} are too few for a latent of {dim} dimensions, {_ROWS * dim} or more are "
            f"wanted (R^2 on held-out rows: {r2})",
        )
    if priors[best].r2 < _MEET:
        return Verdict(
            "take_one",
            (names[best],),
            f"take one prior, {names[best]}: the priors do not meet (R^2 on held-out rows: {r2})",
        )
    worth = prior_worth([p.weight for p in priors])
    weak = tuple(name for name, each in zip(names, worth, strict=True) if each == 0)
    if weak:
        kept = "take one prior" if len(weak) == len(names) - 1 else "leave some out"
        return Verdict(
            "leave_out",
            weak,
            f"{kept}: without {', '.join(weak)} the targets lose little, with coverage one they gain (R^2 on held-out "
            f"rows: {r2})",
        )
    others = agreement[~np.eye(len(priors), dtype=bool)].mean()
    told = f"; targets tell their prior in {recognition:.0%} of rows, chance is {1 / len(priors):.0%}"
    note = told if recognition > _TOLD / len(priors) else ""
    if side_by_side:
        note += f"; rows have one prior each: {names[best]} on all of them, or several priors a row, is worth more"
    return Verdict(
        "keep_all",
        (),
        f"keep all: R^2 on held-out rows {r2}; two priors share {others:.0%} of a row's neighbours{note}",
    )
