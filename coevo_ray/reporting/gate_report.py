"""The report of an open or ended gate: one HTML page, and its figures."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import numpy as np

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.probes.noise_matrix import fewest_rows
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.gate.learning import Confusions, Doubted
from coevo_ray.pipelines.gate.opening import open_gate
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pool.stages import require_stages
from coevo_ray.reporting.data import DoubtedRow
from coevo_ray.reporting.gate_figures import Compared, Effort, GateFigures
from coevo_ray.reporting.gate_page import render_gate
from coevo_ray.reporting.sections import TileGroup
from coevo_ray.reporting.tiles import showing_of, tiles_of
from coevo_ray.reporting.wording import count
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import MANIFEST, load_manifest

_ROUNDS_SHOWN = 8
_ROWS_SHOWN = 8  # of a round
_DOUBTED_SHOWN = 24


def gate_report(
    gate: GateSession | ArtifactLike,
    out: Place | None = None,
    *,
    seconds_per_label: float | None = None,
    cost_per_label: float | None = None,
) -> JsonObject:
    """Writes an HTML page about a gate, open or ended, without changing it.

    Held-out rows, and random rows to compare with, come from the pool's labels, which the gate never sees.

    Args:
        gate: the gate, its folder, or that of a run.
        out: the page, an .html file; None writes `report.html` into the gate's folder.
        seconds_per_label: time per answer; gives hours spent and saved.
        cost_per_label: price of one answer, in any currency; gives money spent and saved. None takes the gate's own.

    Returns:
        `report` (where the page is), and the figures on it, see `GateFigures.content`.

    Raises:
        InputError: there is no such gate.
        UsageError: the page is not an .html file, or a time or price is not above 0.
        StoppedError: the store or the cluster failed; ask again.
    """
    _check_prices(seconds_per_label=seconds_per_label, cost_per_label=cost_per_label)
    page = None if out is None else Location.parse(out)
    if page is not None and not page.name.endswith((".html", ".htm")):
        raise UsageError(f"the report {page} is not an .html file", "name the page, for instance report.html")
    gate = open_gate(gate)
    require_stages(["gate_report"], gate.pool.modality, f"the pool at {gate.pool.location}")
    page = page or gate.location.child("report.html")
    cost = gate.settings.cost_per_label if cost_per_label is None else cost_per_label
    figures = _figures(gate, seconds_per_label, cost or None)
    groups, asked = _rows_asked(gate)
    html = render_gate(
        figures,
        groups,
        asked,
        _doubted_rows(gate, figures.most_doubted),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        showing_of(gate.pool.modality).as_grid,
    )
    page.write_bytes(html.encode())
    return {"report": str(page), **figures.content()}


def _check_prices(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}", "give a number above 0, or leave it out")


def _figures(gate: GateSession, seconds: float | None, cost: float | None) -> GateFigures:
    status, history = gate.service.gate_status(), gate.service.history()
    labels, known = gate.service.labelled()["label"], gate.pool.labels()
    held_out = bool((known[gate.pool.test_ids()] >= 0).any())
    compared, nothing = None, np.zeros(0, dtype=np.int64)
    confusions = Confusions(nothing, nothing, nothing)
    if history and held_out:
        with ray_session([gate.pool.location, gate.targets.location]), ray_errors("gate report"):
            confusions = gate.learning().confusions(gate.classifier())
            compared = _compared(gate, history)
    elif history:
        validated = gate.service.validated()
        confusions = Confusions.count(validated["label"], validated["predicted"])
    doubted, most = _doubted(gate)
    return GateFigures(
        gate=str(gate.location),
        names=gate.classes,
        status=status,
        history=tuple(history),
        effort=Effort(status["answers"], status["rows"] - status["labels"], seconds, cost),
        compared=compared,
        held_out=held_out,
        confusions=confusions,
        labels_by_class=np.bincount(labels, minlength=len(gate.classes)).astype(np.int64),
        forecast=gate.service.forecast(curve=True),
        doubted_labels=doubted,
        most_doubted=most,
    )


def _doubted(gate: GateSession) -> tuple[int | None, Doubted | None]:
    """Number of labels that are likely wrong, and the most doubted; None where labels are too few to tell."""
    labelled = gate.service.labelled()
    if len(labelled["row_id"]) < fewest_rows(labelled["label"]):
        return None, None
    with ray_session([gate.pool.location, gate.targets.location]), ray_errors("gate report"):
        return gate.learning().doubted(labelled, gate.service.offered(), _DOUBTED_SHOWN)


def _compared(gate: GateSession, history: list[JsonObject]) -> Compared | None:
    """Figures that a finished gate has written, or else measured now: fits on as many random labels, and on all.

    None where the pool has fewer labels than the gate: "all" of them are no yardstick then either.
    """
    if gate.location.child(MANIFEST).is_file():
        done = load_manifest(gate.location, "labels").summary
        if done.get("curve") == history:
            return _unless_fewer([accuracy for _, accuracy in done["random_curve"]], done["full_accuracy"])
    points = [(point["labels"], point["decay_rows"]) for point in history]
    others = gate.learning().compare(points)
    return _unless_fewer(others["random"], others["full"])


def _unless_fewer(random: list[float | None], full: float | None) -> Compared | None:
    return None if random[-1] is None else Compared(tuple(random), full)


def _rows_asked(gate: GateSession) -> tuple[tuple[TileGroup, ...], str]:
    """Some labelled rows of some rounds with their pictures or texts, and a sentence that says which."""
    labelled, as_grid = gate.service.labelled(), showing_of(gate.pool.modality).as_grid
    rows, rounds = labelled["row_id"], labelled["round"]
    label_of = dict(zip(rows.tolist(), labelled["label"].tolist(), strict=True))
    there = np.unique(rounds[rounds >= 0])
    if len(there) == 0:
        return (), "No requested row has a label yet."
    spread = there[np.unique(np.linspace(0, len(there) - 1, _ROUNDS_SHOWN).round().astype(int))]
    in_pool = rows < len(gate.pool)  # rows that arrived have a vector alone
    chosen = {int(r): _some(rows[(rounds == r) & in_pool], gate.settings.seed) for r in spread}
    shown = np.sort(np.concatenate(list(chosen.values())))
    tiles = dict(tiles_of(gate.pool, shown))
    groups = tuple(
        TileGroup(
            f"Round {round_}, {count(int((rounds == round_).sum()), 'label')}",
            tuple((tiles[row], gate.classes[label_of[row]]) for row in some.tolist()),
            as_grid,
        )
        for round_, some in chosen.items()
    )
    return groups, _asked_sentence(len(there), len(spread), int((~in_pool).sum()), int((rounds < 0).sum()))


def _doubted_rows(gate: GateSession, most: Doubted | None) -> tuple[DoubtedRow, ...]:
    """Rows of doubted labels with their pictures or texts; those that arrived have none in the pool."""
    if most is None:
        return ()
    there = most.row_ids < len(gate.pool)
    tiles = dict(tiles_of(gate.pool, np.sort(most.row_ids[there])))
    return tuple(
        DoubtedRow(tiles[row], gate.classes[label], gate.classes[likely])
        for row, label, likely in zip(*(column[there].tolist() for column in most[:3]), strict=True)
    )


def _some(rows: Int64Array, seed: int) -> Int64Array:
    """A few rows of a round, drawn evenly."""
    return np.sort(choose_rows(rows, min(_ROWS_SHOWN, len(rows)), seed))


def _asked_sentence(rounds: int, shown: int, arrived: int, unasked: int) -> str:
    which = f"{shown} of {rounds} rounds" if shown < rounds else f"{count(rounds, 'round')}"
    sentences = [f"Up to {_ROWS_SHOWN} rows of {which}, drawn at random, each with its label."]
    if arrived:
        sentences.append(f"Rows that arrived ({arrived}) have no sample in the pool and are not shown.")
    if unasked:
        sentences.append(f"{count(unasked, 'label')} came unasked.")
    return " ".join(sentences)
