"""Changes the terms of an open gate: limits, the size of a round, when it stops, who answers (arXiv 2506.08070).

Labels and requests stay: requests are in the journal with their rows, and the stop follows from the current terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coevo_ray.annotators.opening import check_annotator, note_given
from coevo_ray.config import GateSettings, make_config
from coevo_ray.config.gate import TERMS
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.gate.opening import open_gate
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.progress import say
from coevo_ray.store.artifact import begin_with
from coevo_ray.store.location import ArtifactLike

_BY_FORECAST = {"tolerance", "cost_per_label", "worth_per_point"}


def gate_set(gate: GateSession | ArtifactLike, terms: Mapping[str, Any]) -> JsonObject:
    """Changes terms of an open gate; one that a former limit had stopped continues with its next round.

    A process that holds the gate open keeps the former terms until it opens the gate again.

    Args:
        gate: the gate, its folder, or that of a run.
        terms: name -> value of some of `config.gate.TERMS`, as in the gate's settings.

    Returns:
        `changed`: name -> [former value, value]; and the gate's status under the new terms, see `GateSession.status`.

    Raises:
        InputError: there is no such gate.
        UsageError: a value is wrong, a setting is not a term, the annotator lacks a token or package, or another
            process is changing the gate.
        StoppedError: the store refused; run it again.
    """
    gate = open_gate(gate)
    with gate.changing():
        return _set(
            GateSession(gate.location), terms
        )  # the one that is held may have terms of before an earlier change


def _set(gate: GateSession, terms: Mapping[str, Any]) -> JsonObject:
    fixed = sorted(set(terms) - set(TERMS))
    if fixed or not terms:
        raise UsageError(
            f"gate set of {', '.join(fixed) or 'nothing'}",
            f"an open gate changes {', '.join(TERMS)}; for other settings open a new gate and submit this one's labels "
            "to it (gate export, gate submit)",
        )
    forecast = sorted(_BY_FORECAST & set(terms))
    if forecast and gate.rule.validated_share == 0:
        raise UsageError(
            f"gate set of {', '.join(forecast)} for a gate without validation rows, which makes no forecast",
            "set loss_tolerance, or open a new gate with validation_share and submit this one's labels to it",
        )
    former = gate.settings
    settings = make_config(GateSettings, {**former.model_dump(), "annotator": former.annotator, **terms}, "gate set")
    if "annotator" in terms:
        check_annotator(settings.annotator)
        note_given(settings.annotator)
    before, after = former.model_dump(mode="json"), settings.model_dump(mode="json")
    changed = {name: [before[name], after[name]] for name in TERMS if before[name] != after[name]}
    if changed:
        gate.write_settings(settings)
        begin_with(gate.location, "labels", settings.content(), gate.inputs)
        for name, (was, now) in changed.items():
            say(f"gate: {name} {now}, was {was}")
    return {"changed": changed, **GateSession(gate.location).status()}
