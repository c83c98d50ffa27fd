"""Figures of a gate's report: effort, accuracy, and what each class has, as one object that the page is made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.actors.protocols import GateStatus
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.pipelines.gate.learning import Confusions, Doubted

FEW_LABELS = 10  # a class of fewer labels is named
MATRIX_CLASSES = 20  # of more classes only the largest confusions are shown
CONFUSIONS_SHOWN = 20


@dataclass(frozen=True)
class Effort:
    """Cost and savings of labels, against labelling every row once.

    Attributes:
        answers: given so far, second opinions included.
        saved: rows without a label.
        seconds_per_label, cost_per_label: of one answer; None where they were not given.
    """

    answers: int
    saved: int
    seconds_per_label: float | None
    cost_per_label: float | None

    def content(self) -> JsonObject:
        """`labels_saved`, and hours and money spent and saved, None where the price of a label is not known."""
        hour = None if self.seconds_per_label is None else self.seconds_per_label / 3600
        return {
            "labels_saved": self.saved,
            "hours_spent": _times(self.answers, hour),
            "hours_saved": _times(self.saved, hour),
            "money_spent": _times(self.answers, self.cost_per_label),
            "money_saved": _times(self.saved, self.cost_per_label),
        }


@dataclass(frozen=True)
class Compared:
    """Accuracy of the same classifier on the pool's own labels; see `Learning.compare`.

    Attributes:
        random: for each point of the gate's history, with as many labels of random rows.
        full: with all labels of the pool.
    """

    random: tuple[float | None, ...]
    full: float | None

    @property
    def last(self) -> float | None:
        """Accuracy with as many random labels as the gate last learned from."""
        return self.random[-1] if self.random else None


@dataclass(frozen=True)
class ClassFigures:
    """One class.

    Attributes:
        name: of the class.
        labels: rows that have its label.
        held_out: rows that judge the classifier (held-out ones, or else validation rows) and have its label.
        recall: share of those that are classified so; None without any.
        precision: share that is right of the judging rows that are classified so; None without any.
    """

    name: str
    labels: int
    held_out: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True, eq=False)
class GateFigures:
    """All that the report of a gate shows, but its rows.

    Attributes:
        gate: its folder.
        names: of the C classes.
        status: see `GateService.gate_status`.
        history: what was measured after each round, see `GateSession.learn`.
        effort: what labels cost and save.
        compared: None where the pool has too few labels to compare with, or nothing was learned.
        held_out: whether the pool has labels of held-out rows.
        confusions: of the classifier as it was fitted last, on the held-out rows, or where the pool has no labels of
            such, on the validation rows; empty where both are missing.
        labels_by_class: int64[C].
        forecast: see `core.gate.readings.forecast`, with its curve; None where there is none.
        doubted_labels: labels that are more likely wrong than right; None where there are too few labels to tell.
        most_doubted: the rows of those that are doubted most.
    """

    gate: str
    names: tuple[str, ...]
    status: GateStatus
    history: tuple[JsonObject, ...]
    effort: Effort
    compared: Compared | None
    held_out: bool
    confusions: Confusions
    labels_by_class: Int64Array
    forecast: JsonObject | None = None
    doubted_labels: int | None = None
    most_doubted: Doubted | None = None

    @property
    def judge(self) -> str:
        """Name of the rows that judge the classifier, in the singular."""
        return "held-out row" if self.held_out else "validation row"

    @property
    def share(self) -> float:
        """Labels over the gate's rows."""
        return self.status["labels"] / self.status["rows"]

    @property
    def judged_rows(self) -> int:
        """Held-out rows with a label and a target, or validation rows in their place."""
        return int(self.confusions.rows.sum())

    @property
    def held_out_rows(self) -> int:
        """Held-out rows with a label and a target."""
        return self.judged_rows if self.held_out else 0

    def measured(self, name: str) -> float | None:
        """Returns a figure of the last round that the gate learned from; None before the first."""
        value = self.history[-1].get(name) if self.history else None
        return None if value is None else float(value)

    def classes(self) -> tuple[ClassFigures, ...]:
        """Figures of each class, in the gate's order."""
        found, size = self.confusions, len(self.names)
        right = found.label == found.predicted
        of = np.bincount(found.label, found.rows, size)
        said = np.bincount(found.predicted, found.rows, size)
        hits = np.bincount(found.label[right], found.rows[right], size)
        return tuple(
            ClassFigures(
                name, int(self.labels_by_class[i]), int(of[i]), _share(hits[i], of[i]), _share(hits[i], said[i])
            )
            for i, name in enumerate(self.names)
        )

    def few(self) -> list[str]:
        """Names of the classes with fewer than `FEW_LABELS` labels, fewest first."""
        order = np.argsort(self.labels_by_class, kind="stable")
        return [self.names[i] for i in order.tolist() if self.labels_by_class[i] < FEW_LABELS]

    def matrix(self) -> Int64Array:
        """Judging rows by label and prediction, int64[C, C]; for few classes."""
        counts = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        counts[self.confusions.label, self.confusions.predicted] = self.confusions.rows
        return counts

    def largest(self) -> list[tuple[str, str, int]]:
        """Label, wrong prediction and judging rows of the largest confusions, largest first."""
        wrong = np.flatnonzero(self.confusions.label != self.confusions.predicted)
        order = wrong[np.argsort(-self.confusions.rows[wrong], kind="stable")][:CONFUSIONS_SHOWN].tolist()
        label, predicted, rows = (
            column.tolist() for column in (self.confusions.label, self.confusions.predicted, self.confusions.rows)
        )
        return [(self.names[label[i]], self.names[predicted[i]], rows[i]) for i in order]

    def content(self) -> JsonObject:
        """The figures as JSON."""
        status, compared = self.status, self.compared
        random = compared.random if compared is not None else (None,) * len(self.history)
        names = ("labels", "round", "accuracy", "validation_accuracy", "mean_gain")
        return {
            "gate": self.gate,
            "labels": status["labels"],
            "rows": status["rows"],
            "label_fraction": round(self.share, 6),
            "answers": status["answers"],
            "rounds": status["rounds"],
            "outstanding": status["outstanding"],
            "stopped_by": status["stopped_by"],
            "learned_labels": self.history[-1]["labels"] if self.history else None,
            "accuracy": self.measured("accuracy"),
            "validation_accuracy": self.measured("validation_accuracy"),
            "random_accuracy": compared.last if compared is not None else None,
            "full_accuracy": compared.full if compared is not None else None,
            "held_out_rows": self.held_out_rows,
            "forecast": self.forecast,
            "doubted_labels": self.doubted_labels,
            "most_doubted": [] if self.most_doubted is None else self._most_doubted(self.most_doubted),
            **self.effort.content(),
            "few_labels": self.few(),
            "classes": [vars(each) for each in self.classes()],
            "confusions": [{"label": a, "predicted": b, "rows": rows} for a, b, rows in self.largest()],
            "curve": [
                {**{name: point.get(name) for name in names}, "random_accuracy": accuracy}
                for point, accuracy in zip(self.history, random, strict=True)
            ],
        }

    def _most_doubted(self, found: Doubted) -> list[JsonObject]:
        return [
            {"row_id": row, "label": self.names[label], "likely": self.names[likely], "doubt": round(doubt, 4)}
            for row, label, likely, doubt in zip(*(column.tolist() for column in found), strict=True)
        ]


def _times(count: int, each: float | None) -> float | None:
    return None if each is None else round(count * each, 6)


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
