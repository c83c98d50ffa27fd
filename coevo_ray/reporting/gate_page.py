"""The page of a gate's report: headline, figures, learning curve, classes, confusions and the rows asked."""

from __future__ import annotations

import numpy as np

from coevo_ray._version import __version__
from coevo_ray.core.probes.noise_matrix import fewest_rows
from coevo_ray.reporting import plots
from coevo_ray.reporting.data import DoubtedRow, GatePlots, ReportData
from coevo_ray.reporting.doubts import doubted_of_few, none_doubted, not_judged
from coevo_ray.reporting.forecasts import accuracy_now, beside_held_out, gain_to_come
from coevo_ray.reporting.gate_figures import (
    CONFUSIONS_SHOWN,
    FEW_LABELS,
    MATRIX_CLASSES,
    ClassFigures,
    GateFigures,
)
from coevo_ray.reporting.sections import STOPS, Matrix, Section, Table, TileGroup
from coevo_ray.reporting.style import value_text
from coevo_ray.reporting.wording import against, chance, count, decimal, integer, listing, percent
from coevo_ray.reporting.write import Headline, render_page

_CLASSES_SHOWN = 50
_NAMED = 12
NOT_LEARNED = "The gate has not learned yet: label its first round, then call coevo-ray gate next."
NO_HELD_OUT = "No accuracy on held-out rows: the pool has no labels of its test rows."
NO_TARGETS = "No accuracy on held-out rows: those that have a label have no target."
NOT_COMPARED = "Nothing here was compared with random rows."
_REMEDIES = {
    NO_HELD_OUT: "For accuracies, ingest the samples with a label column that names the test rows' classes, encode "
    "them and open a gate there; with the samples in the same order, gate export and gate submit transfer labels.",
    NO_TARGETS: "For accuracies, encode the whole pool, including its test rows, and open a gate there.",
    NOT_COMPARED: "A comparison with random rows needs a pool with labels of test rows, and of as many training rows "
    "as the gate has labels.",
}


def render_gate(
    figures: GateFigures,
    groups: tuple[TileGroup, ...],
    asked: str,
    doubted: tuple[DoubtedRow, ...],
    created: str,
    as_grid: bool = True,
) -> str:
    """The page as the text of a self-contained HTML file.

    Args:
        figures: of the gate.
        groups: rows asked, by round.
        asked: says which rows those are.
        doubted: rows whose labels are doubted, most first.
        created: ISO 8601 text.
        as_grid: shows doubted rows as a grid of pictures, not as a list of texts.
    """
    data = ReportData("Annotation gate", created, __version__, figures.content(), notes=_notes(figures))
    rows = Section("rows", "Rows asked, by round", (asked,), (), None, groups=groups)
    doubts = (_doubt_sentence(figures, doubted),)
    again = Section("doubted", "Labels to look at again", doubts, (), None, doubted, as_grid)
    sections = (_curve(figures), _classes(figures), _confusions(figures), again, rows)
    return render_page(data, _strip(figures), sections, lead=lead(figures), figures="gate report --json")


def lead(figures: GateFigures) -> str:
    """The headline: labels, accuracy beside random rows, and why it stopped or that it goes on."""
    status = figures.status
    far = "" if status["stopped_by"] is not None else " so far"
    labels = f"{count(status['labels'], 'label')}{far}, {percent(figures.share)} of {count(status['rows'], 'row')}."
    return " ".join([labels, *_accuracy_sentences(figures), *_forecast_sentences(figures), _state_sentence(figures)])


def _accuracy_sentences(figures: GateFigures) -> list[str]:
    accuracy, compared = figures.measured("accuracy"), figures.compared
    if not figures.history:
        return [NOT_LEARNED]
    if accuracy is None:
        return [*_validated_sentences(figures), _why_unmeasured(figures), NOT_COMPARED]
    now = f"Accuracy on {count(figures.held_out_rows, 'held-out row')}: {percent(accuracy)}"
    random, full = (compared.last, compared.full) if compared is not None else (None, None)
    others = ((random, "as many labels of random rows"), (full, "all labels of the pool"))
    parts = [
        f"{against(accuracy, other)} with {what} ({percent(other)})" for other, what in others if other is not None
    ]
    sentence = f"{now}, {listing(parts)}." if parts else f"{now}."
    if random is None:
        return [sentence, NOT_COMPARED]
    # Beside the comparison, so that nobody takes a difference within it for a win.
    return [sentence, chance(figures.held_out_rows, accuracy) or ""]


def _validated_sentences(figures: GateFigures) -> list[str]:
    """Accuracy by the validation rows, or without such rows by the random first labels."""
    if figures.forecast is not None:
        return accuracy_now(figures.forecast)
    first = figures.measured("validation_accuracy")
    return [] if first is None else [f"Accuracy on the random first labels, cross-fitted: {percent(first)}."]


def _forecast_sentences(figures: GateFigures) -> list[str]:
    ended = figures.status["stopped_by"] is not None
    return [] if figures.forecast is None else gain_to_come(figures.forecast, ended)


def _state_sentence(figures: GateFigures) -> str:
    status = figures.status
    word = status["stopped_by"]
    if word is not None:
        return f"The gate stopped because {STOPS[word]}." if word in STOPS else f"The gate stopped by: {word}."
    if status["outstanding"]:
        verb = "waits" if status["outstanding"] == 1 else "wait"
        return f"The gate continues: {count(status['outstanding'], 'requested row')} {verb} for a label."
    return "The gate continues: coevo-ray gate next asks for more."


def _notes(figures: GateFigures) -> list[str]:
    """Missing figures and how to get them, and caveats of the others."""
    text, learned = lead(figures), figures.measured("labels")
    notes = [remedy for what, remedy in _REMEDIES.items() if what in text]
    if learned is not None and figures.status["learned_answers"] != figures.status["answers"]:
        notes.append(
            f"Accuracies are those with {count(learned, 'label')}, from which the gate learned last; "
            "coevo-ray gate next learns from the newer ones."
        )
    if figures.status["disputed"]:
        notes.append(f"Annotators disagree about {count(figures.status['disputed'], 'row')}.")
    return notes


def _strip(figures: GateFigures) -> list[Headline]:
    status, effort = figures.status, figures.effort.content()
    ended = status["stopped_by"] is not None
    saved = "against labelling all rows" + ("." if ended else ", so far; the gate still asks for some of them.")
    made = [
        Headline("Labels", integer(status["labels"]), f"of {count(status['rows'], 'row')} ({percent(figures.share)})."),
        Headline("Rounds", integer(status["rounds"]), "are closed."),
        Headline("Labels saved", integer(effort["labels_saved"]), saved),
    ]
    if (hours := effort["hours_saved"]) is not None:
        spent = f"saved at {figures.effort.seconds_per_label:g} s a label"
        made.append(Headline("Hours", decimal(hours, 1), f"{spent}; {decimal(effort['hours_spent'], 1)} h spent."))
    if (money := effort["money_saved"]) is not None:
        spent = f"saved at {figures.effort.cost_per_label:g} a label"
        made.append(Headline("Money", decimal(money), f"{spent}; {decimal(effort['money_spent'])} spent."))
    return made


def _curve(figures: GateFigures) -> Section:
    """Accuracy by labels."""
    history, compared = figures.history, figures.compared
    labels = [float(point["labels"]) for point in history]
    random = compared.random if compared is not None else ()
    drawn = GatePlots(
        gate=[(n, point.get("accuracy")) for n, point in zip(labels, history, strict=True)],
        random=list(zip(labels, random, strict=False)),
        first=[(n, point.get("validation_accuracy")) for n, point in zip(labels, history, strict=True)],
        first_name="gate, on its first labels" if figures.forecast is None else "gate, on its validation rows",
        forecast=_band(figures),
        full_accuracy=compared.full if compared is not None else None,
        mean_gain=[(point["round"], point["mean_gain"]) for point in history],
        ended=figures.status["stopped_by"] is not None,
    )
    shown = tuple(plot for plot in (plots.labels_curve(drawn), plots.mean_gain(drawn)) if plot is not None)
    return Section("curve", "Learning curve", tuple(_curve_sentences(figures)), shown, None)


def _band(figures: GateFigures) -> tuple[tuple[float, float, float, float], ...]:
    if figures.forecast is None or figures.forecast["accuracy"] is None:
        return ()
    return tuple((float(n), low, middle, high) for n, low, middle, high in figures.forecast["curve"])


def _curve_sentences(figures: GateFigures) -> list[str]:
    if not figures.history:
        return [NOT_LEARNED]
    accuracy, random = figures.measured("accuracy"), figures.compared.last if figures.compared is not None else None
    sentences = [f"The gate's linear classifier learned {count(len(figures.history), 'time')}."]
    if accuracy is not None:
        sentences.append("Its accuracy is on the held-out rows, which are never asked about.")
    else:
        sentences.append(_why_unmeasured(figures))
    if random is not None:
        sentences.append("Random labels are one draw of rows from the pool, whose labels the gate never sees.")
    else:
        sentences.append(NOT_COMPARED)
    if figures.forecast is not None:
        rows = count(figures.forecast["validation_rows"], "row")
        sentences.append(
            f"Validation rows are {rows} that were drawn at random in all rounds; the classifier never learns from "
            "them. The forecast follows from them and the remaining gain."
        )
        sentences += beside_held_out(figures.forecast, accuracy) if accuracy is not None else []
    elif any(point.get("validation_accuracy") is not None for point in figures.history):
        sentences.append("First labels are the random first round's; each is predicted by a fit without it.")
    return sentences


def _classes(figures: GateFigures) -> Section:
    """Labels and accuracy of each class; of many classes those with the lowest recall."""
    found = figures.classes()
    sentences = [_few_sentence(figures)]
    if figures.judged_rows:
        sentences.append(
            f"Recall is the share of a class's {figures.judge}s that the classifier finds; precision is the share of "
            f"its predictions that are right."
        )
    else:
        sentences.append(_why_unmeasured(figures))
    if len(found) > _CLASSES_SHOWN:
        found = tuple(sorted(found, key=_worst_first)[:_CLASSES_SHOWN])
        sentences.append(f"The {_CLASSES_SHOWN} of lowest recall, of {len(figures.names)}; --json has all.")
    head: tuple[str, ...] = ("class", "labels")
    rows: tuple[tuple[str, ...], ...] = tuple((each.name, integer(each.labels)) for each in found)
    if figures.judged_rows:
        head = (*head, f"{figures.judge}s", "recall", "precision")
        rows = tuple((*row, *_measured_cells(each)) for row, each in zip(rows, found, strict=True))
    return Section("classes", "Classes", tuple(sentences), (), Table(head, rows))


def _worst_first(figures: ClassFigures) -> tuple[float, int]:
    return (1.0 if figures.recall is None else figures.recall, figures.labels)


def _measured_cells(figures: ClassFigures) -> tuple[str, ...]:
    shares = (figures.recall, figures.precision)
    return (integer(figures.held_out), *(value_text(None) if x is None else percent(x) for x in shares))


def _doubt_sentence(figures: GateFigures, shown: tuple[DoubtedRow, ...]) -> str:
    doubted = figures.doubted_labels
    if doubted is None:
        return not_judged(fewest_rows(np.flatnonzero(figures.labels_by_class)))
    if doubted == 0:
        return none_doubted()
    of = "1 label is" if doubted == 1 else f"{integer(doubted)} labels are"
    found = f"{of} more likely wrong than right, by the rows' targets and the mistakes that the others show."
    found += doubted_of_few(int(figures.labels_by_class.sum()))
    if not shown:
        return found
    return f"{found} Their label is struck out below, with the likeliest one beside it."


def _why_unmeasured(figures: GateFigures) -> str:
    """The reason why nothing is known about held-out rows; the notes say how to change that."""
    if not figures.held_out:
        return NO_HELD_OUT
    return NO_TARGETS if figures.history else NOT_LEARNED


def _few_sentence(figures: GateFigures) -> str:
    few = figures.few()
    if not few:
        return f"Every class has {FEW_LABELS} labels or more."
    counts = dict(zip(figures.names, figures.labels_by_class.tolist(), strict=True))
    named = [f"{name} ({counts[name]})" for name in few[:_NAMED]]
    more = [f"{len(few) - _NAMED} more"] if len(few) > _NAMED else []
    verb = "class has" if len(few) == 1 else "classes have"
    return (
        f"{len(few)} {verb} fewer than {FEW_LABELS} labels, so what is learned about "
        f"{'it' if len(few) == 1 else 'them'} "
        f"is uncertain: {listing([*named, *more])}."
    )


def _confusions(figures: GateFigures) -> Section:
    """The matrix of few classes, else the largest confusions."""
    anchor, title = "confusions", "Confusions"
    if not figures.judged_rows:
        return Section(anchor, title, (_why_unmeasured(figures),), (), None)
    of = f"of {count(figures.judged_rows, figures.judge)}"
    if len(figures.names) <= MATRIX_CLASSES:
        counts = figures.matrix()
        shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        cells = tuple(
            tuple(zip(row.tolist(), part.tolist(), strict=True)) for row, part in zip(counts, shares, strict=True)
        )
        text = f"Rows are labels {of}, columns the classifier's predictions; darker is a larger share of the label's "
        "rows."
        return Section(anchor, title, (text,), (), None, matrix=Matrix(figures.names, cells))
    held = {each.name: each.held_out for each in figures.classes()}
    rows = tuple(
        (f"{label} classified as {predicted}", integer(n), percent(n / held[label]))
        for label, predicted, n in figures.largest()
    )
    if not rows:
        return Section(anchor, title, (f"None {of} is classified wrongly.",), (), None)
    text = f"The largest confusions {of}, {CONFUSIONS_SHOWN} at most."
    return Section(anchor, title, (text,), (), Table(("confusion", "rows", "share of the label's"), rows))
