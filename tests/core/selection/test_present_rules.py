"""Runs that the present rules began go on by them, to the row and to the weight.

A digest that has changed means that a run which is resumed would draw other rows. Where a draw has to change, `RULES`
goes up, the former draw stays for the former rules (see `test_former_rules`), and the digests here are taken again.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from coevo_ray.core.selection import class_strata
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import POLICIES, RULES
from tests.core.selection.test_former_rules import EPOCHS, ROWS, SHARES, begun

CANDIDATES = int((np.arange(ROWS) % 9 != 0).sum())

# SHA-256, cut, of the rows (int64) and weights (float32 to four places) of all epochs.
DRAWN: list[tuple[str, dict[str, Any], str]] = [
    ("full", {}, "bae44da5ac947544"),
    ("full_budget", {}, "8131da76e7d27b03"),
    ("static_random", {}, "49c17d0e8591ba37"),
    ("random", {}, "79b2c1cfaa2e80f1"),
    ("rotation", {}, "226080e194bfb34f"),
    ("scored", {}, "708918cc60cb94ae"),
    ("factors", {}, "05df642f496a294c"),
    ("infobatch", {}, "b388ccdb66866d3d"),
    ("rho_loss", {}, "ee47fc8ec5778b30"),
    ("order_dp", {}, "6e37fab3f541132f"),
    ("repb", {}, "bf2bb907b2d02e01"),
    ("rcap", {}, "ec8cb1ffbc1d4dd0"),
    ("seta", {}, "aca140c0d8c043a8"),
    ("loss", {}, "24d84ee99e742885"),
    ("entropy", {}, "2d51ddd8b1bd2858"),
    ("factors", {"quota_power": 1.0}, "c15df219b7c163b6"),
    ("factors", {"quota_power": 0.5, "unbiased": True}, "0dea3d29e39479bf"),
    ("factors", {"share_copies": False, "max_doubt": 1.0, "class_power": 0.5}, "c5c4229741c4015f"),
    ("rotation", {"class_power": 0.0}, "a5acdec397f87df1"),
    ("random", {"class_power": 0.3, "unbiased": True}, "d20c823cf8da2d15"),
    ("full_budget", {"class_power": 0.5, "unbiased": True}, "e1eb4c3fc2e29524"),
    ("scored", {"unbiased": True}, "2565dc5605d568e3"),
    ("scored", {"temperature": 0.0, "penalty": 0.1}, "25bea9f3c172532a"),
    ("infobatch", {"class_power": 0.5}, "1f49bbae6072cca7"),
    ("infobatch", {"tail": 0.4, "unbiased": True}, "e94ba71b4ccb78c1"),
    ("order_dp", {"unbiased": True}, "884e281594087c4e"),
    ("rho_loss", {"large_batch": 30}, "94e3a877b023085d"),
    ("repb", {"class_power": 0.0}, "3107412be2d28790"),
    ("seta", {"clusters": 4, "annealing": 0.0}, "20e66a04cfd5a48f"),
]


def digest(made: SelectionLedger, random: np.random.Generator) -> str:
    told = hashlib.sha256()
    for epoch in range(len(planned_visits(made.policy, SHARES, EPOCHS, CANDIDATES))):
        subset = made.select(epoch)
        told.update(subset.row_ids.astype("<i8").tobytes())
        if subset.weights is not None:
            told.update(np.round(subset.weights, 4).astype("<f4").tobytes())
        # Few values, so that many rows tie.
        losses, entropies = np.round(random.gamma(2, size=len(subset)), 1), np.round(random.random(len(subset)), 1)
        made.report_losses(epoch, subset.row_ids, losses, entropies)
        made.commit(epoch)
    return told.hexdigest()[:16]


def present(policy: str, options: dict[str, Any]) -> tuple[SelectionLedger, np.random.Generator]:
    random = np.random.default_rng(5)
    made = begun(policy, options, random, rules=RULES)
    made.set_doubt(np.where(np.arange(ROWS) % 10 == 3, 0.9, 0.1), irreducible=np.arange(ROWS) % 4 / 2)
    return made, random


@pytest.mark.parametrize(("policy", "options", "expected"), DRAWN)
def test_subsets_and_weights_stay_as_they_are(policy: str, options: dict[str, Any], expected: str) -> None:
    assert digest(*present(policy, options)) == expected


def test_every_policy_is_among_them() -> None:
    assert {policy for policy, _, _ in DRAWN} == set(POLICIES)


def test_so_do_those_of_more_strata_than_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of more strata than are sorted are random ones."""
    monkeypatch.setattr(class_strata, "_MOST_STRATA", 10)
    assert digest(*present("factors", {})) == "ff465af59a2925e7"
