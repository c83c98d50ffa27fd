"""The report of a run: one HTML page that needs no network and no script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from coevo_ray.reporting import style
from coevo_ray.reporting.beside_priors import beside_priors
from coevo_ray.reporting.data import ReportData
from coevo_ray.reporting.policies import headline_row, policy_rows
from coevo_ray.reporting.sections import Section, absent, sections
from coevo_ray.reporting.templates import page_template
from coevo_ray.reporting.wording import against, count, duration, integer, number, percent, shorten


@dataclass(frozen=True)
class Headline:
    """One figure of the strip at the top and the sentence that explains it."""

    name: str
    value: str
    sentence: str


def render_report(data: ReportData) -> str:
    """The report as the text of a self-contained HTML page; the same data give the same text.

    Args:
        data: the figures of the run; stages that were not run are None and missing in the summary.

    Returns:
        HTML with inline SVG, without references to anything outside.
    """
    return render_page(data, headlines(data), sections(data), absent=absent(data))


def render_page(
    data: ReportData,
    headlines: Sequence[Headline],
    sections: Sequence[Section],
    *,
    lead: str = "",
    absent: str | None = None,
    figures: str = "summary.json",
) -> str:
    """Lays headlines and sections out as a self-contained HTML page; all text is escaped.

    Args:
        data: title, version, notes, and the summary that stands in full at the end.
        headlines: the strip at the top.
        sections: in their order.
        lead: the sentence before the strip.
        absent: a sentence on what is missing.
        figures: where else the summary is found.
    """
    template = page_template("report.html.j2", short=lambda name: shorten(name, 14))
    html = template.render(
        data=data,
        headlines=headlines,
        sections=sections,
        lead=lead,
        absent=absent,
        figures=figures,
        summary_json=json.dumps(data.summary, indent=2, ensure_ascii=False, default=str),
        css=style.page_css(),
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def headlines(data: ReportData) -> list[Headline]:
    """The figures that matter, in the order of the flow; those that were not measured are left out."""
    made = (_rows(data), _targets(data) or _variance(data), _labels(data), _kept(data), _seconds(data))
    return [headline for headline in made if headline is not None]


def _rows(data: ReportData) -> Headline | None:
    rows = number(data.summary, "pool", "rows")
    if rows is None:
        return None
    train, test = (number(data.summary, "pool", key) for key in ("train_rows", "test_rows"))
    split = f", {integer(train)} to learn from and {integer(test)} to test on" if None not in (train, test) else ""
    return Headline("Rows", integer(rows), f"{'is' if rows == 1 else 'are'} in the pool{split}.")


def _targets(data: ReportData) -> Headline | None:
    measured = beside_priors(data.summary)
    if measured is None:
        return None
    accuracy, alone = measured
    best = max(alone, key=alone.__getitem__)
    compared = f"{against(accuracy, alone[best])} on the best prior alone, {best} ({percent(alone[best])})"
    return Headline("Targets", percent(accuracy), f"is the accuracy of a linear classifier on them, {compared}.")


def _variance(data: ReportData) -> Headline | None:
    variance = number(data.summary, "sae", "explained_variance")
    if variance is None:
        return None
    latents = number(data.summary, "sae", "latents")
    by = f"by {count(latents, 'factor')}" if latents is not None else "by the factors"
    return Headline(
        "Explained variance", percent(variance), f"of what the prior models say about the rows is kept {by}."
    )


def _labels(data: ReportData) -> Headline | None:
    share = number(data.summary, "gate", "label_fraction")
    if share is None:
        return None
    labels, accuracy, full = (number(data.summary, "gate", key) for key in ("labels", "accuracy", "full_accuracy"))
    asked = f" ({integer(labels)})" if labels is not None else ""
    compared = _accuracy(accuracy, full, "all labels", of=" of a linear classifier")
    return Headline("Labels", percent(share), f"of the labels were asked for{asked}{compared}")


def _kept(data: ReportData) -> Headline | None:
    rows = policy_rows(data)
    own = headline_row(rows)
    if own is None or own.kept_share is None:
        return None
    full = next((row.accuracy for row in rows if row.full and row is not own), None)
    sentence = f"of the labelled training rows are used in an epoch by policy {own.name}"
    return Headline("Kept share", percent(own.kept_share), sentence + _accuracy(own.accuracy, full, "full data"))


def _accuracy(accuracy: float | None, full: float | None, everything: str, of: str = "") -> str:
    """The end of a sentence: the accuracy and how it compares."""
    if accuracy is None:
        return "; its accuracy was not measured."
    compared = f", {against(accuracy, full)} with {everything} ({percent(full)})" if full is not None else ""
    return f"; accuracy{of} {percent(accuracy)}{compared}."


def _seconds(data: ReportData) -> Headline | None:
    seconds = number(data.summary, "seconds")
    return None if seconds is None else Headline("Time", duration(seconds), "for all stages together.")
