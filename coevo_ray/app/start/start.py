"""`coevo-ray start`: from data to a run file, and with `go` to the first label requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from coevo_ray.app.run import check, run
from coevo_ray.app.start.look import Found, look
from coevo_ray.app.start.priors import Proposed, measured, propose
from coevo_ray.app.start.settings import Wanted, file_text, run_settings
from coevo_ray.app.status import noting_error
from coevo_ray.config import EncodeConfig, RunConfig, load_config, make_config
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.gate.steps import gate_next, gate_open
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location, Place
from coevo_ray.telemetry import named_run

# Seconds on two cores beside the priors' own work, measured by benchmarks.start: of a session, ingest and the gate's
# start, and of each row.
_ALWAYS_S, _ROW_S = 48.0, 0.0015
_SHARED: float = EncodeConfig.model_fields["shared"].default  # of the rows, which every prior encodes


def start(
    data: Place,
    out: Place = "coevo-run",
    file: str | PathLike[str] | None = None,
    *,
    go: bool = False,
    classes: Sequence[str] = (),
    budget: int | None = None,
    priors: Sequence[str] = (),
    ask: str = "",
    source: JsonObject | None = None,
) -> JsonObject:
    """Inspects data, proposes a run and writes its file; with `go` also runs it up to the first label requests.

    If all rows have a label the run is a rehearsal: the data's own labels answer, and it runs to its report.

    Args:
        data: a folder or file of images, texts, Parquet, CSV, JSON Lines, tars, NumPy matrices or a dataset of the Hub;
            local or on a store.
        out: folder of the run.
        file: the run's file; by default the folder's name with .yaml, here.
        go: run it too.
        classes: class names, if the data have none.
        budget: most labels to ask for.
        priors: instead of the installed ones.
        ask: `file_drop` or `label_column`: who answers, instead of the choice that fits the data.
        source: settings of the source, as of `Source`, instead of guessed ones.

    Returns:
        `file`, `out`, `found` (`modality`, `rows`, `files`, `classes`, `labelled`, `splits`, `said`), `priors` (`name`,
        `input_size`, `rows_per_s`), `estimate_s` (to the first requests), and with `go` `seconds` and `requests`
        (`requested`, `where`), or of a rehearsal `report` and the run's figures `encode`, `gate` and `train`.

    Raises:
        InputError: the data are missing or unusable.
        UsageError: the data are ambiguous, no prior for them is installed, or another file exists.
        StoppedError: the store or the cluster failed; start again to continue.
    """
    begun = time.monotonic()
    found = look(str(data), dict(source or {}))
    for line in found.lines():
        say(line)
    wanted = Wanted(str(out), tuple(classes), budget, ask)
    wanted.check(found)
    chosen = propose(found, priors)
    settings = run_settings(found, chosen, wanted)
    place = Path(file) if file is not None else Path(f"{Location.parse(out).name}.yaml")
    config = _kept(place, settings)
    check(config)
    chosen = measured(found, chosen)
    estimate = _estimate_s(found, chosen)
    result: JsonObject = {
        "file": str(place),
        "out": config.out,
        "found": _told(found),
        "priors": [{"name": p.name, "input_size": p.input_size, "rows_per_s": _rounded(p.rate)} for p in chosen],
        "annotator": wanted.annotator(found),
        "estimate_s": round(estimate),
    }
    speeds = ", ".join(p.name + (f" {p.rate:,.0f} rows/s" if p.rate else "") for p in chosen)
    rehearsed = result["annotator"] == "label_column"
    until = "the gate, which the data's own labels answer" if rehearsed else "the first requests for labels"
    say(f"priors: {speeds}; about {_minutes(estimate)} on this machine to {until}")
    if not go:
        return result
    if rehearsed:
        made = run(config)
        worth = {name: made[name] for name in ("encode", "gate", "train") if name in made}
        return {**result, **worth, "report": made["report"], "seconds": round(time.monotonic() - begun, 1)}
    return {**result, "requests": _first_requests(config), "seconds": round(time.monotonic() - begun, 1)}


def _kept(place: Path, settings: JsonObject) -> RunConfig:
    """Writes the file, unless it is there with these settings.

    Raises:
        UsageError: it is there with others, or cannot be written.
    """
    wanted = make_config(RunConfig, settings, str(place))
    if place.exists():
        if load_config(place) != wanted:
            raise UsageError(
                f"{place} already exists with other settings",
                f"run it: coevo-ray run {place}; or give another name: --file NAME.yaml (and another --out)",
            )
        return wanted
    try:
        place.write_text(file_text(settings, str(place)))
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error}", "choose another file: --file NAME.yaml") from error
    return wanted


def _first_requests(config: RunConfig) -> JsonObject:
    assert config.gate is not None
    out = Location.parse(config.out)
    folders = RunLayout.of(out)
    with named_run(out.name), noting_error(out), ray_session():
        pool = ingest(config.pool, folders.pool)
        targets = encode(config.encode, pool, folders.encode)
        gate = gate_open(config.gate, pool, targets, folders.gate)
        asked = gate_next(gate)
    return {name: asked[name] for name in ("round", "requested", "where")}


def _told(found: Found) -> JsonObject:
    return {
        "modality": found.modality,
        "rows": found.rows,
        "files": found.files,
        "classes": found.class_names,
        "labelled": round(found.labelled, 3),
        "splits": {name or "any": rows for name, rows in found.splits.items()},
        "said": found.said,
    }


def _estimate_s(found: Found, priors: Sequence[Proposed]) -> float:
    """Every prior encodes the shared set, the slowest counts for the rest: it may be the one that is chosen."""
    rates = [prior.rate for prior in priors if prior.rate]
    shared = sum(_SHARED * found.rows / rate for rate in rates)
    rest = max((found.rows / rate for rate in rates), default=0.0)
    return _ALWAYS_S + _ROW_S * found.rows + shared + rest


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
