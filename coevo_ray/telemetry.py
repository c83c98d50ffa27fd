"""Figures of a run for dashboards: their names, and the seam where a metrics system takes them.

Whatever counts already (progress, services, training loops) calls `record`. Nothing is kept here: without a receiver
the call costs a comparison. `runtime.metrics` brings the receiver for Ray, which exports to Prometheus.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

RUN_NAME = "COEVO_RAY_RUN_NAME"  # environment variable: the run's name in metrics and logs
Kind = Literal["counter", "gauge", "histogram"]
_STAGE = ("run", "stage")
PUBLISHED_EVERY_S = 1.0


@dataclass(frozen=True)
class Metric:
    """A figure, named by Prometheus' conventions.

    Attributes:
        name: with its unit: `_total` for counters, `_seconds`, `_ratio` (0 to 1).
        kind: what `record` does: a counter adds, a gauge sets, a histogram observes.
        text: shown by the metrics page.
        tags: names of its tags.
        bounds: upper bounds of a histogram's buckets, increasing.
    """

    name: str
    kind: Kind
    text: str
    tags: tuple[str, ...] = _STAGE
    bounds: tuple[float, ...] = ()


STAGE_RUNNING = Metric("coevo_ray_stage_running", "gauge", "1 while a stage runs, 0 once it has ended.")
LAST_PROGRESS = Metric(
    "coevo_ray_last_progress_timestamp_seconds", "gauge", "When a stage last moved, in seconds since 1970."
)
PROGRESS = Metric("coevo_ray_progress_ratio", "gauge", "Finished share of a stage whose total is known.")
ROWS_DONE = Metric("coevo_ray_rows_done_total", "counter", "Rows that a stage has finished, rejected ones included.")
ROWS_PER_SECOND = Metric("coevo_ray_rows_per_second", "gauge", "Rows per second since the stage's start.")
ROWS_REJECTED = Metric("coevo_ray_rows_rejected_total", "counter", "Rows that a stage has rejected.")
REJECTED = Metric("coevo_ray_rejected_ratio", "gauge", "Rejected share of the rows that a stage has looked at.")
EPOCHS_DONE = Metric("coevo_ray_epochs_done_total", "counter", "Epochs that a training has finished.")
WAITING = Metric(
    "coevo_ray_waiting_ratio",
    "gauge",
    "Share of a prior's actors' time in which they wait.",
    (*_STAGE, "prior"),
)
FEED_WAIT_SECONDS = Metric(
    "coevo_ray_feed_wait_seconds_total",
    "counter",
    "Seconds that a training worker has waited for batches.",
    (*_STAGE, "rank"),
)
FEED_WAIT = Metric(
    "coevo_ray_feed_wait_ratio", "gauge", "Share of the epoch that a worker has waited for batches.", (*_STAGE, "rank")
)
JOURNAL_SECONDS = Metric(
    "coevo_ray_journal_append_seconds",
    "histogram",
    "Seconds until a state change is in the journal.",
    (*_STAGE, "event"),
    (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
_POLICY = (*_STAGE, "policy")
KEPT = Metric("coevo_ray_kept_ratio", "gauge", "Share of the candidates in the latest selected epoch.", _POLICY)
NEVER_USED = Metric(
    "coevo_ray_never_used_ratio", "gauge", "Share of the candidates that no committed epoch used.", _POLICY
)
USAGE_SPREAD = Metric("coevo_ray_usage_spread", "gauge", "Most minus least committed uses of a candidate.", _POLICY)
SELECTION_SECONDS = Metric(
    "coevo_ray_selection_seconds", "gauge", "Seconds of the latest selection of an epoch, journal included.", _POLICY
)
GATE_LABELS = Metric("coevo_ray_gate_labels", "gauge", "Rows of the gate that have a label.")
GATE_REQUESTS = Metric("coevo_ray_gate_open_requests", "gauge", "Requested rows that wait for a label.")
GATE_ROUNDS = Metric("coevo_ray_gate_rounds", "gauge", "Rounds of the gate that are complete.")
GATE_GAIN = Metric("coevo_ray_gate_mean_gain_ratio", "gauge", "Mean expected gain of the rows without a label.")
GATE_ACCURACY = Metric("coevo_ray_gate_accuracy_ratio", "gauge", "Accuracy of the gate's model on held-out rows.")
GATE_FORECAST = Metric(
    "coevo_ray_gate_forecast_gain_ratio", "gauge", "Accuracy that all further labels would add, median forecast."
)
GATE_NEXT_GAIN = Metric(
    "coevo_ray_gate_forecast_next_gain_ratio", "gauge", "Accuracy that the next round would add, median forecast."
)
GATE_STOPPED = Metric("coevo_ray_gate_stopped", "gauge", "1 once the gate asks for no more labels.")
GATE_DECISIONS = Metric(
    "coevo_ray_gate_decisions_total",
    "counter",
    "Decisions on arriving rows: annotate, pseudo_label or skip.",
    (*_STAGE, "action"),
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Receiver(Protocol):
    """Takes figures."""

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Adds, sets or observes a value, by the metric's kind.

        Args:
            metric: one of `METRICS`.
            value: finite; of a counter above 0.
            tags: one for each of the metric's tags.
        """
        ...


class _Process:
    """State of the process: the receiver of figures, and the tags of a worker that serves one run."""

    receiver: Receiver | None = None
    run = ""
    stage = ""
    failed: tuple[str, str] | None = None  # the run and the innermost stage that an error came out of last


_NAMED: ContextVar[str] = ContextVar("coevo_ray_run", default="")
_AT: ContextVar[str] = ContextVar("coevo_ray_stage", default="")


def record(metric: Metric, value: float | None, **tags: str) -> None:
    """Hands a figure to the receiver; without one, or a value, it does nothing.

    Args:
        metric: one of `METRICS`.
        value: to add, set or observe; None and a counter's 0 are left out.
        tags: of the metric; `run` and `stage` are those of `run_name` and `stage_name` unless they are given.
    """
    receiver = _Process.receiver
    if receiver is None or value is None or (metric.kind == "counter" and value <= 0):
        return
    given = {"run": tags.pop("run", "") or run_name(), "stage": tags.pop("stage", "") or stage_name(), **tags}
    receiver.record(metric, float(value), given)


def is_received() -> bool:
    """Tests whether there is a receiver of figures."""
    return _Process.receiver is not None


def receive(receiver: Receiver | None, run: str = "", stage: str = "") -> Receiver | None:
    """Sends the figures of this process to a receiver.

    Args:
        receiver: who takes them; None for nobody.
        run, stage: of a worker process that serves one run.

    Returns:
        The receiver before.
    """
    before, _Process.receiver = _Process.receiver, receiver
    _Process.run, _Process.stage = run or _Process.run, stage or _Process.stage
    return before


def run_name() -> str:
    """The name of the run that this thread works for; "unnamed" outside of any.

    It is `COEVO_RAY_RUN_NAME`, else the name of the output folder that was opened for writing first.
    """
    return os.environ.get(RUN_NAME, "").strip() or _Process.run or _NAMED.get() or "unnamed"


@contextmanager
def named_run(name: str) -> Iterator[None]:
    """Names the run within the block; inside of another such block the outer name stays."""
    if _NAMED.get():
        yield
        return
    _Process.failed = None
    with _set(_NAMED, name):
        yield


def stage_name() -> str:
    """The stage that this thread is at: the title of its innermost bar, else the folder that it makes; "" for none."""
    return _AT.get() or _Process.stage


@contextmanager
def named_stage(name: str) -> Iterator[None]:
    """Names the stage within the block."""
    with _set(_AT, name):
        try:
            yield
        except (Exception, KeyboardInterrupt):
            _Process.failed = _Process.failed or (run_name(), name)
            raise


@contextmanager
def where_it_failed() -> Iterator[None]:
    """Names run and stage within the block as they were where the last error came from."""
    run, stage = _Process.failed or (run_name(), stage_name())
    with _set(_NAMED, run), _set(_AT, stage):
        yield


@contextmanager
def _set(variable: ContextVar[str], value: str) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that is thrown away ends in whatever thread collects it
            variable.reset(token)


class StageFigures:
    """Publishes the progress of one stage, once a second at most.

    Args:
        stage: its title.
        total: units to finish; None if unknown.
        unit: "rows" and "epochs" are counted by metrics of their own.
    """

    def __init__(self, stage: str, total: int | None, unit: str) -> None:
        self._tags = {"run": run_name(), "stage": stage}
        self._total = total
        self._counter = {"rows": ROWS_DONE, "epochs": EPOCHS_DONE}.get(unit)
        self._started = self._published = time.monotonic()
        self._done = self._rejected = self._added = self._looked = 0

    def begin(self) -> None:
        """Notes that the stage runs."""
        self._started = time.monotonic()
        self._record(STAGE_RUNNING, 1)
        self._record(LAST_PROGRESS, time.time())

    def advance(self, count: int, rejected: int = 0) -> None:
        """Adds finished units, and rows that were rejected."""
        self._done += count
        self._rejected += rejected
        self.moved()

    def moved(self) -> None:
        """Notes that the stage moves."""
        if is_received() and time.monotonic() - self._published >= PUBLISHED_EVERY_S:
            self._publish()

    def end(self) -> None:
        """Publishes what is left, and that the stage has ended."""
        if self._done > self._added:
            self._publish()
        self._record(STAGE_RUNNING, 0)

    def _publish(self) -> None:
        self._published = time.monotonic()
        new, self._added = self._done - self._added, self._done
        self._record(LAST_PROGRESS, time.time())
        if self._total:
            self._record(PROGRESS, min(1.0, self._done / self._total))
        if self._counter is not None:
            self._record(self._counter, new)
        if self._counter is ROWS_DONE:
            self._record(ROWS_PER_SECOND, self._done / max(1e-9, self._published - self._started))
        if self._rejected > self._looked:
            self._record(ROWS_REJECTED, self._rejected - self._looked)
            self._looked = self._rejected
            self._record(REJECTED, self._rejected / max(1, self._done))

    def _record(self, metric: Metric, value: float) -> None:
        record(metric, value, **self._tags)
