"""The sections of a report, in the order of the flow: sentences, plots and a table for each stage."""

from __future__ import annotations

from dataclasses import dataclass

from coevo_ray.reporting import plots
from coevo_ray.reporting.beside_priors import beside_priors_sentences
from coevo_ray.reporting.data import DoubtedRow, EvidencePlots, PriorPlot, ReportData
from coevo_ray.reporting.doubts import doubted_of_few, none_doubted, not_judged
from coevo_ray.reporting.forecasts import accuracy_now, beside_held_out, gain_to_come
from coevo_ray.reporting.policies import PolicyRow, headline_row, policy_rows
from coevo_ray.reporting.tiles import Tile
from coevo_ray.reporting.wording import (
    against,
    chance,
    count,
    decimal,
    duration,
    finite,
    integer,
    listing,
    lookup,
    number,
    percent,
)

# The words of `core.gate.Gate.stopped_by`.
STOPS = {
    "gain": "its expected gain per unlabelled row fell below its threshold",
    "tolerance": "all further labels together would hardly add to its accuracy, according to its forecast",
    "cost": "the next round's labels would cost more than they bring, according to its forecast",
    "validation": "all further labels together would hardly have improved its predictions of random rows",
    "max_labels": "its label budget was spent",
    "max_rounds": "it reached the maximum number of rounds",
    "exhausted": "no row without a label was left",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is words, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Matrix:
    """Counts of labels (rows) against predictions (columns).

    Attributes:
        names: of the classes.
        rows: for each label a cell for each prediction: its count, and its share of the label's rows.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class TileGroup:
    """Rows of a pool under a heading, each with its label.

    Attributes:
        title: the heading.
        tiles: (tile, label) of each row.
        as_grid: a grid of pictures, or a list of texts.
    """

    title: str
    tiles: tuple[tuple[Tile, str], ...]
    as_grid: bool


@dataclass(frozen=True)
class Section:
    """One part of a page: a stage of the flow, or a view of one."""

    anchor: str
    title: str
    sentences: tuple[str, ...]
    plots: tuple[plots.Plot, ...]
    table: Table | None
    doubted: tuple[DoubtedRow, ...] = ()
    doubted_as_grid: bool = True
    matrix: Matrix | None = None
    groups: tuple[TileGroup, ...] = ()


def sections(data: ReportData) -> list[Section]:
    """The stages that were run, in the order of the flow."""
    made = (pool(data), encode(data), sae(data), gate(data), evidence(data), train(data))
    return [section for section in made if section is not None]


def absent(data: ReportData) -> str | None:
    """A sentence that names the stages without a section."""
    titles = {"pool": "ingest", "encode": "encode", "sae": "sae", "gate": "gate", "train": "train"}
    there = {section.anchor for section in sections(data)}
    missing = [title for anchor, title in titles.items() if anchor not in there]
    return f"Not part of this run: {listing(missing)}." if missing else None


def pool(data: ReportData) -> Section | None:
    """The ingested data."""
    if not lookup(data.summary, "pool"):
        return None
    figures = {key: number(data.summary, "pool", key) for key in ("rows", "train_rows", "test_rows", "rejected")}
    rejected, test = figures["rejected"], figures["test_rows"]
    sentences = [f"The pool holds {count(figures['rows'], 'row')}."] if figures["rows"] is not None else []
    if rejected is not None:
        more = "1 more row was" if rejected == 1 else f"{integer(rejected)} more rows were"
        sentences.append("No row was rejected." if rejected == 0 else f"{more} rejected{_reasons(data)}.")
    if number(data.summary, "pool", "classes") == 0:
        sentences.append("It came without labels, so no accuracy can be measured.")
    elif test:
        sentences.append("Accuracies are measured on the test rows, whose labels no training sees.")
    elif test == 0:
        sentences.append("No rows are held out as test rows, so accuracies cannot be measured on them.")
    measures = [
        ("rows", integer(figures["rows"])),
        ("training rows", integer(figures["train_rows"])),
        ("test rows", integer(test)),
        ("classes", integer(number(data.summary, "pool", "classes"))),
        ("rejected rows", integer(rejected)),
        ("time", duration(number(data.summary, "pool", "seconds"))),
    ]
    return Section("pool", "Pool", tuple(sentences), (), _measures(measures))


def encode(data: ReportData) -> Section | None:
    """Prior models, their uniformity and their alignment."""
    priors = _priors(data)
    if not priors and not lookup(data.summary, "encode"):
        return None
    dim, shared = number(data.summary, "encode", "dim"), number(data.summary, "encode", "shared_rows")
    sentences = [f"{count(len(priors), 'prior model')} encoded the pool."] if priors else []
    sentences += _reference_sentence(data, priors)
    verdict = lookup(data.summary, "encode", "verdict", "text")
    if isinstance(verdict, str):
        sentences.append(f"Verdict on the targets: {verdict}.")
    sentences += beside_priors_sentences(data.summary)
    if dim is not None and shared is not None:
        sentences.append(
            f"Every prior encoded {count(shared, 'shared row')}, and targets have {integer(dim)} dimensions."
        )
    drawn: tuple[plots.Plot | None, ...] = ()
    if data.encode is not None:
        drawn = (plots.uniformity(data.encode), plots.alignment(data.encode))
    rows = tuple(
        (
            p.name + (" (reference)" if p.reference else ""),
            decimal(finite(p.uniformity)),
            decimal(finite(p.alignment_r2)),
            integer(finite(p.rows)),
            decimal(finite(p.rows_per_s), 1),
        )
        for p in priors
    )
    table = Table(("prior", "uniformity", "alignment R²", "rows", "rows/s"), rows) if rows else None
    return Section("encode", "Targets from prior models", _took(data, "encode", sentences), _shown(*drawn), table)


def sae(data: ReportData) -> Section | None:
    """Factors of the sparse autoencoder."""
    if data.sae is None and not lookup(data.summary, "sae"):
        return None
    keys = ("explained_variance", "dead_fraction", "latents", "k")
    variance, dead, latents, k = (number(data.summary, "sae", key) for key in keys)
    sentences = []
    if variance is not None and variance > 0:
        sentences.append(f"The factors explain {percent(variance)} of the targets' variance.")
    elif variance is not None:
        sentences.append("The factors reproduce the targets no better than the targets' mean does.")
    if latents is not None and k is not None:
        sentences.append(f"Each row is described by its {integer(k)} strongest of {count(latents, 'factor')}.")
    drawn: tuple[plots.Plot | None, ...] = ()
    if data.sae is not None:
        drawn = (plots.frequencies(data.sae, k), plots.explained_variance(data.sae))
    measures = [
        ("explained variance", percent(variance)),
        ("dead fraction at the end of the fit", percent(dead)),
        ("factors (latents)", integer(latents)),
        ("active factors of a row (k)", integer(k)),
    ]
    return Section("sae", "Factors", _took(data, "sae", sentences), _shown(*drawn), _measures(measures))


def gate(data: ReportData) -> Section | None:
    """Labels that were asked for, against random labels and all labels."""
    if data.gate is None and not lookup(data.summary, "gate"):
        return None
    keys = ("labels", "label_fraction", "rounds", "accuracy", "random_accuracy", "full_accuracy")
    figures = {key: number(data.summary, "gate", key) for key in keys}
    labels, accuracy = figures["labels"], figures["accuracy"]
    sentences = []
    if labels is not None:
        share = figures["label_fraction"]
        of = f", {percent(share)} of the training rows" if share is not None else ""
        rounds = figures["rounds"]
        sentences.append(
            f"The gate asked for {count(labels, 'label')}{of}"
            + (f", in {count(rounds, 'round')}." if rounds is not None else ".")
        )
    sentences += _stop_sentence(data)
    if accuracy is not None:
        others = (
            ("with the same number of random labels", figures["random_accuracy"]),
            ("with all labels", figures["full_accuracy"]),
        )
        compared = [
            f"{against(accuracy, other)} {what} ({percent(other)})" for what, other in others if other is not None
        ]
        tail = f": {listing(compared)}" if compared else ""
        sentences.append(f"A linear classifier on the targets learns {percent(accuracy)} accuracy from them{tail}.")
        sentences += [chance(number(data.summary, "pool", "test_rows"), accuracy) or ""]
    forecast = lookup(data.summary, "gate", "forecast")  # version 0.1.0 made none
    if forecast:
        now = accuracy_now(forecast) if accuracy is None else beside_held_out(forecast, accuracy)
        sentences += [*now, *gain_to_come(forecast, ended=True)]
    drawn: tuple[plots.Plot | None, ...] = ()
    if data.gate is not None:
        drawn = (plots.labels_curve(data.gate), plots.mean_gain(data.gate))
    measures = [
        ("labels asked for", integer(labels)),
        ("share of the training rows", percent(figures["label_fraction"])),
        ("rounds", integer(figures["rounds"])),
        ("stopped by", _stop_word(data) or "not stated"),
        ("accuracy with these labels", percent(accuracy)),
        ("accuracy with random labels", percent(figures["random_accuracy"])),
        ("accuracy with all labels", percent(figures["full_accuracy"])),
    ]
    return Section("gate", "Annotation gate", _took(data, "gate", sentences), _shown(*drawn), _measures(measures))


def evidence(data: ReportData) -> Section | None:
    """Labels that may be wrong, and copies, by the targets."""
    if not lookup(data.summary, "evidence"):
        return None
    names = ("rows", "doubted_rows", "copied_rows", "copy_groups")
    rows, doubted, copied, groups = (number(data.summary, "evidence", name) for name in names)
    sentences, measures = [], [("labelled training rows", integer(rows))]
    wrong = number(data.summary, "evidence", "mistakes")  # version 0.1.0 did not say
    if doubted is not None and lookup(data.summary, "evidence", "judged") is False:
        sentences.append(not_judged(number(data.summary, "evidence", "fewest_rows")))
    elif doubted is not None:
        sentences.append(_doubt_sentence(doubted, rows, wrong))
        measures.append(("rows whose label is doubted", integer(doubted)))
        if wrong is not None:
            measures.append(("labels estimated to be wrong", integer(wrong)))
    if copied is not None:
        they = (
            f"{count(copied, 'row')} form {count(groups, 'group')} of near-duplicates; a group shares one row's visits."
        )
        sentences.append(they if copied else "No row has a near-duplicate.")
        measures += [("rows with a near-duplicate", integer(copied)), ("groups of near-duplicates", integer(groups))]
    drawn = data.evidence or EvidencePlots()
    if drawn.doubted:
        sentences.append("For the most doubted rows, the label is struck out below, with the likeliest one beside it.")
    return Section(
        "evidence",
        "Labels and copies",
        _took(data, "evidence", sentences),
        (),
        _measures(measures),
        tuple(drawn.doubted),
        drawn.as_grid,
    )


def _doubt_sentence(doubted: float, rows: float | None, wrong: float | None) -> str:
    """The number of doubted labels, their treatment, and what may have been missed."""
    if doubted == 0:
        return none_doubted(wrong)
    share = f" ({percent(doubted / rows)})" if rows else ""
    labels = "label is" if doubted == 1 else "labels are"
    left_out = "policy factors leaves out these and others, according to its max_doubt"
    said = f"{integer(doubted)} {labels} more likely wrong than right{share}; {left_out}."
    if wrong is not None and wrong > doubted:
        said += f" About {integer(wrong)} are estimated to be wrong, so some are not among them."
    return said + doubted_of_few(rows)


def train(data: ReportData) -> Section | None:
    """Trainings under each policy."""
    rows = policy_rows(data)
    if not rows:
        return None
    drawn: tuple[plots.Plot | None, ...] = ()
    if data.train is not None:
        drawn = (plots.policies_curve(data.train), plots.usage(data.train))
    cells = tuple(
        (row.name, percent(row.kept_share), percent(row.accuracy), integer(row.samples), duration(row.seconds))
        for row in rows
    )
    table = Table(("policy", "kept share", "accuracy", "samples", "time"), cells)
    return Section("train", "Training on each epoch's subset", _train_sentences(data, rows), _shown(*drawn), table)


def _train_sentences(data: ReportData, rows: list[PolicyRow]) -> tuple[str, ...]:
    own = headline_row(rows)
    if own is None or own.accuracy is None:
        return ("No accuracy was measured.",)
    kept = f"kept {percent(own.kept_share)} of the labelled training rows in each epoch and " if own.kept_share else ""
    sentences = [f"Policy {own.name} {kept}reached an accuracy of {percent(own.accuracy)}."]
    compared = [
        f"{against(own.accuracy, row.accuracy)} {row.name} ({percent(row.accuracy)}{_visits(own, row)})"
        for row in rows
        if row is not own and row.accuracy is not None
    ]
    if compared:
        sentences.append(f"That is {listing(compared)}.")
        sentences.append(chance(number(data.summary, "pool", "test_rows"), own.accuracy) or "")
    return tuple(sentence for sentence in sentences if sentence)


def _visits(own: PolicyRow, other: PolicyRow) -> str:
    """The other policy's samples relative to ours, where they differ by more than one per cent."""
    if not own.samples or not other.samples or abs(other.samples / own.samples - 1) <= 0.01:
        return ""
    return f", with {decimal(other.samples / own.samples, 1)} times the samples"


def _priors(data: ReportData) -> list[PriorPlot]:
    """The priors of the plots, or else those of the summary."""
    if data.encode is not None:
        return list(data.encode.priors)
    entries = lookup(data.summary, "encode", "priors")
    reference = lookup(data.summary, "encode", "reference")
    return [
        PriorPlot(
            name=str(entry.get("name")),
            uniformity=entry.get("uniformity"),
            alignment_r2=entry.get("alignment_r2"),
            rows=entry.get("rows"),
            rows_per_s=entry.get("rows_per_s"),
            reference=entry.get("name") == reference,
        )
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]


def _reference_sentence(data: ReportData, priors: list[PriorPlot]) -> list[str]:
    named = lookup(data.summary, "encode", "reference")
    name = named if isinstance(named, str) else next((p.name for p in priors if p.reference), None)
    if name is None or len(priors) < 2:
        return []
    known = [(value, p.name) for p in priors if (value := finite(p.uniformity)) is not None]
    own = next((value for value, prior in known if prior == name), None)
    if own is None:
        return [f"The others were mapped to the space of {name}."]
    if own <= min(known)[0]:
        return [f"The others were mapped to the space of {name}, whose uniformity is the lowest."]
    return [f"The others were mapped to the space of {name}, although {min(known)[1]} has a lower uniformity."]


def _stop_word(data: ReportData) -> str:
    plotted = data.gate.stopped_by if data.gate is not None else ""
    return str(plotted or lookup(data.summary, "gate", "stopped_by") or "")


def _stop_sentence(data: ReportData) -> list[str]:
    word = _stop_word(data)
    if not word:
        return []
    return [f"It stopped because {STOPS[word]}." if word in STOPS else f"It stopped by: {word}."]


def _reasons(data: ReportData) -> str:
    """Rejected rows per reason, in brackets, where the summary has them."""
    reasons = lookup(data.summary, "pool", "reject_reasons")
    if not isinstance(reasons, dict) or not reasons:
        return ""
    return f" ({listing([f'{reason}: {integer(finite(n))}' for reason, n in sorted(reasons.items())])})"


def _took(data: ReportData, stage: str, sentences: list[str]) -> tuple[str, ...]:
    """The sentences that are there, and how long the stage took."""
    seconds = number(data.summary, stage, "seconds")
    last = [f"This stage took {duration(seconds)}."] if seconds is not None else []
    return tuple(sentence for sentence in sentences + last if sentence)


def _measures(measures: list[tuple[str, str]]) -> Table:
    return Table(("measure", "value"), tuple(measures))


def _shown(*drawn: plots.Plot | None) -> tuple[plots.Plot, ...]:
    return tuple(plot for plot in drawn if plot is not None)
