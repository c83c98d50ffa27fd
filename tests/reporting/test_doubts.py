"""What a report says of wrong labels, above all where none was found."""

from __future__ import annotations

from typing import Any

import pytest

from coevo_ray.reporting.data import ReportData
from coevo_ray.reporting.write import render_report
from tests.reporting._example import Page, summary

CHECK = "check the labels of some rows drawn at random."


def text_of(**evidence: Any) -> str:
    figures = summary()
    figures["evidence"] |= {"most_doubted": [], **evidence}
    return Page(render_report(ReportData("t", "", "0", figures))).text.replace("\N{NO-BREAK SPACE}", " ")


def test_labels_that_are_too_few_to_judge_are_not_called_right() -> None:
    text = text_of(rows=430, doubted_rows=0, level=0.0, mistakes=0, judged=False, fewest_rows=3080)
    assert "Labels were not judged: of fewer than 3,080 with these classes" in text
    assert f"Some may be wrong; to learn how many, {CHECK}" in text
    assert "rows whose label is doubted" not in text and "labels estimated to be wrong" not in text


@pytest.mark.parametrize("known", [{}, {"level": 0.0, "mistakes": 0, "judged": True, "fewest_rows": 500}])
def test_none_found_is_not_none_there(known: dict[str, Any]) -> None:
    """Also of evidence that an earlier version made."""
    text = text_of(doubted_rows=0, **known)
    assert "No wrong labels were found. Those of hard rows, and a few of some classes alone, do not show" in text
    assert f"to rule them out, {CHECK}" in text
    assert "more likely wrong than right" not in text


def test_an_estimate_without_rows_is_said() -> None:
    text = text_of(doubted_rows=0, level=0.03, mistakes=43, judged=True, fewest_rows=500)
    assert "About 43 labels are estimated to be wrong, but the targets do not show which" in text
    assert f"To learn more, {CHECK}" in text


@pytest.mark.parametrize("mistakes", [17, 60, None])
def test_what_was_missed_stands_beside_what_was_found(mistakes: int | None) -> None:
    text = text_of(doubted_rows=17, mistakes=mistakes)
    assert "17 labels are more likely wrong than right (1.2 %); policy factors leaves out these and others" in text
    assert ("About 60 are estimated to be wrong, so some are not among them." in text) == (mistakes == 60)


@pytest.mark.parametrize(("rows", "few"), [(608, True), (1000, True), (1001, False), (1438, False)])
def test_doubts_of_few_rows_are_to_be_looked_at(rows: int, few: bool) -> None:
    text = text_of(rows=rows, doubted_rows=17, mistakes=60)
    assert ("half of them or more may be right: look before you change one." in text) == few
