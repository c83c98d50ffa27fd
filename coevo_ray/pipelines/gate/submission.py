"""Answers of annotators on their way into a gate."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.actors.protocols import GateCalls, Taken
from coevo_ray.annotators.base import Answers
from coevo_ray.errors import UsageError


@dataclass(frozen=True)
class Submitted:
    """The changes of a submission, and the refused answers.

    Attributes:
        taken: see `Taken`.
        problems: each with its cause and remedy.
    """

    taken: Taken
    problems: tuple[str, ...] = ()


def submit_answers(service: GateCalls, answers: Sequence[Answers]) -> Submitted:
    """Submits answers to a gate's service; those about rows that it does not know are left aside and named.

    Raises:
        InputError: a label is outside the classes, or a row has two labels by one annotator in one submission.
        UsageError: answers name no annotator.
        StoppedError: the store failed, or another process went ahead; submit them again.
    """
    totals, problems = np.zeros(len(Taken._fields), dtype=np.int64), []
    for given in answers:
        if not given.annotator:
            raise UsageError("answers without an annotator", "say who gave them")
        known = service.knows(given.row_ids)
        if not known.all():
            problems.append(
                f"{given.annotator}: {int((~known).sum())} of {len(known)} rows are not the gate's (held out, or "
                f"without a target), first row_ids {given.row_ids[~known][:3].tolist()}; leave them out"
            )
        totals += service.submit(given.row_ids[known], given.labels[known], given.annotator, uuid.uuid4().hex)
    return Submitted(Taken(*(int(n) for n in totals)), tuple(problems))
