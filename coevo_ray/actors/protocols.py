"""The two services as their callers see them: the same calls, whether the service is here or in the actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypedDict

from coevo_ray.core.arrays import Arrays, BoolArray, Float16Array, Float32Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import Subset

# Class probabilities of some rows: row_ids int64[n] and float32[n, C].
Predictions = tuple[Int64Array, Float32Array]
Ranges = Sequence[tuple[int, int]]


class PredictedPart(Protocol):
    """Predictions of n rows that lie elsewhere, cut into blocks of classes."""

    @property
    def ranges(self) -> Ranges:
        """First class and end of each block, as `class_ranges` makes them; the same for all parts."""
        ...

    def row_ids(self) -> Int64Array:
        """Fetches the rows, int64[n]."""
        ...

    def block(self, number: int) -> Float32Array:
        """Fetches the probabilities of one range of classes, float32[n, w]."""
        ...


class Taken(NamedTuple):
    """Changes by a submission.

    Attributes:
        answers: new answers; an annotator who repeats an answer gives none.
        labels: rows that got their first label.
        unasked: of these, rows that were not requested.
        changed: labelled rows whose label changed, by the rule of `core.gate.votes`.
    """

    answers: int
    labels: int
    unasked: int
    changed: int


class OpenQuestions(TypedDict):
    """Requested rows without an answer, by increasing row_id.

    `row_ids` int64[n], `gains` float32[n], `predicted` int64[n] and `confidence` float32[n]: the model's class and its
    probability, -1 and NaN before the first predictions; `asked` int64[m], the round's rows, answered or not.
    """

    round: int
    row_ids: Int64Array
    gains: Float32Array
    predicted: Int64Array
    confidence: Float32Array
    asked: Int64Array


class AnswerColumns(TypedDict):
    """Answers: `row_id` int64[n], `label` int64[n], `round` int32[n] (-1 where it was not requested), `time` float64[n]
    in seconds since 1970, `annotator` int16[n], index into `names`.
    """

    row_id: Int64Array
    label: Int64Array
    round: IntArray
    time: FloatArray
    annotator: IntArray
    names: list[str]


class LabelColumns(AnswerColumns):
    """Labels in the order in which their rows got one; time and annotator are those of the first who says so.

    `votes` int64[n] of `annotators` int64[n] say so; `copy_id` int64[m] and `copy_label` int64[m] are unlabelled rows
    that are near-duplicates of labelled ones; `group` int64[n] is equal for labelled near-duplicates; `validation`
    bool[n], labels that the gate's model must not learn from.
    """

    votes: Int64Array
    annotators: Int64Array
    copy_id: Int64Array
    copy_label: Int64Array
    group: Int64Array
    validation: BoolArray


class PseudoLabels(TypedDict):
    """`row_id` int64[n], `label` int64[n], `confidence` float32[n], `shared` bool[n] (by a near-duplicate that has it,
    not by the model), by row; `answers`: how many there were.
    """

    row_id: Int64Array
    label: Int64Array
    confidence: Float32Array
    shared: BoolArray
    answers: int


class Gains(TypedDict):
    """`row_id` int64[n] of the rows without a label, increasing, and `gain` float32[n]."""

    row_id: Int64Array
    gain: Float32Array


class Validated(TypedDict):
    """Validation rows: `label` and `predicted`, int64[v]."""

    label: Int64Array
    predicted: Int64Array


class GateStatus(TypedDict):
    """Counts of rows, rounds, labels, open requests and answers; the stop; the latency of offers in milliseconds."""

    rows: int
    rounds: int
    labels: int
    outstanding: int
    set_aside: int
    answers: int
    annotators: list[str]
    disputed: int
    predicted: bool
    learned_answers: int | None
    mean_gain: float | None
    stopped_by: str | None
    offered: int
    offer_ms: dict[str, float] | None


class LedgerCalls(Protocol):
    """Calls of `LedgerService`."""

    def select(self, epoch: int) -> Subset:
        """See `LedgerService.select`."""
        ...

    def count(self, epoch: int) -> int:
        """See `LedgerService.count`."""
        ...

    def positions(self, epoch: int, rows: Int64Array) -> Int64Array:
        """See `LedgerService.positions`."""
        ...

    def read(self, epoch: int, spans: Int64Array) -> tuple[Int64Array, Float32Array | None]:
        """See `LedgerService.read`."""
        ...

    def commit(self, epoch: int) -> bool:
        """See `LedgerService.commit`."""
        ...

    def report_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> int:
        """See `LedgerService.report_losses`."""
        ...

    def set_scores(
        self, row_ids: Int64Array, representativeness: FloatArray, diversity: FloatArray, factor: IntArray
    ) -> None:
        """See `LedgerService.set_scores`."""
        ...

    def scores(self, row_ids: Int64Array) -> Arrays:
        """See `LedgerService.scores`."""
        ...

    def figures(self) -> dict[str, float]:
        """See `LedgerService.figures`."""
        ...

    def usage(self) -> IntArray:
        """See `LedgerService.usage`."""
        ...

    def usage_histogram(self) -> dict[int, int]:
        """See `LedgerService.usage_histogram`."""
        ...

    def policy_name(self) -> str:
        """See `LedgerService.policy_name`."""
        ...

    def snapshot(self) -> None:
        """See `LedgerService.snapshot`."""
        ...


class GateCalls(Protocol):
    """Calls of `GateService`."""

    def request(self, rows: int | None = None) -> Int64Array:
        """See `GateService.request`."""
        ...

    def questions(self) -> OpenQuestions:
        """See `GateService.questions`."""
        ...

    def submit(self, row_ids: Int64Array, labels: Int64Array, annotator: str, submission: str = "") -> Taken:
        """See `GateService.submit`."""
        ...

    def set_aside(self, round_: int) -> int:
        """See `GateService.set_aside`."""
        ...

    def update_predictions(self, *parts: Predictions | PredictedPart) -> None:
        """See `GateService.update_predictions`."""
        ...

    def note_learned(self, figures: Mapping[str, float | None]) -> JsonObject:
        """See `GateService.note_learned`."""
        ...

    def labelled(self) -> LabelColumns:
        """See `GateService.labelled`."""
        ...

    def history(self) -> list[JsonObject]:
        """See `GateService.history`."""
        ...

    def knows(self, row_ids: Int64Array) -> BoolArray:
        """See `GateService.knows`."""
        ...

    def answers(self) -> AnswerColumns:
        """See `GateService.answers`."""
        ...

    def pseudo_labels(self, least: float) -> PseudoLabels:
        """See `GateService.pseudo_labels`."""
        ...

    def gains(self) -> Gains:
        """See `GateService.gains`."""
        ...

    def forecast(self, curve: bool = False) -> JsonObject | None:
        """See `GateService.forecast`."""
        ...

    def validated(self) -> Validated:
        """See `GateService.validated`."""
        ...

    def gate_status(self) -> GateStatus:
        """See `GateService.gate_status`."""
        ...

    def offer(self, row_ids: Int64Array, features: Float16Array, probabilities: Float32Array) -> Arrays:
        """See `GateService.offer`."""
        ...

    def fresh_ids(self, count: int) -> Int64Array:
        """See `GateService.fresh_ids`."""
        ...

    def offered(self) -> Arrays:
        """See `GateService.offered`."""
        ...

    def snapshot(self) -> None:
        """See `GateService.snapshot`."""
        ...
