"""The report as a page: complete, honest, well-formed, self-contained and the same for the same data."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.reporting.data import EncodePlots, GatePlots, PolicyPlot, PriorPlot, ReportData, TrainPlots
from coevo_ray.reporting.write import headlines, render_report
from tests.reporting._example import Page, example, policy, summary, without

HOSTILE = '<script>alert("1")</script>&\'"--> $\\frac{}$ \x07\n{{ 7 * 7 }} \u4e2d'


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(example())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.mark.parametrize(
    "figure",
    [
        *("1,797", "1,437", "360", "classes10", "rejected rows3"),
        *(
            "prior:a",
            "prior:b",
            "\N{MINUS SIGN}2.31",
            "\N{MINUS SIGN}2.64",
            "0.83",
            "1.00",
            "901",
            "896",
            "41.3",
            "33.9",
        ),
        *("128", "181", "48.2 s"),
        *("87.1 %", "4.5 %", "512", "(k)16", "21.4 s"),
        *("459", "31.9 %", "rounds11", "stopped byvalidation", "93.6 %", "89.0 %", "95.1 %", "8.8 s"),
        *("17 labels are more likely wrong than right (1.2 %)", "53 rows form 22 groups", "three eight", "2.1 s"),
        *("95.5 %", "93.2 %", "93.9 %", "12.3 s", "7.1 s", "7.6 s", "14,370", "7,180", "7,190", "50.0 %"),
        "2 min 15 s",
    ],
)
def test_figure_of_summary_is_shown(page: Page, figure: str) -> None:
    assert figure in page.text.replace("\N{NO-BREAK SPACE}", " ")


def test_all_figures_stand_in_the_details(html: str) -> None:
    for value in ("0.9361", "41.27", "runs/digits/report.html", "134.7", "out: runs/digits", "ray 2.60.0"):
        assert value in html


def test_ids_are_unique_and_references_stay_inside(html: str, page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert page.references
    elsewhere = [r for r in page.references if not r.startswith("data:image/")]  # pictures are in the page itself
    assert elsewhere and len(elsewhere) < len(page.references)
    assert all(reference.startswith("#") and reference[1:] in page.ids for reference in elsewhere)
    for word in ("http:", "https:", "@import", "xmlns", "javascript:"):
        assert word not in html
    assert html.count("src=") == html.count('<img src="data:image/') == page.tags.count("img")
    assert not {"script", "link", "iframe", "object", "metadata"} & set(page.tags)
    assert page.tags.count("style") == 1  # a style of a plot would apply to the whole page


def test_plots_of_all_stages_have_a_description(page: Page) -> None:
    labels = [value for key, value in page.attributes if key == "aria-label" and "plot" in value]
    labels += [value for key, value in page.attributes if key == "aria-label" and value.startswith("Histograms")]
    assert len(labels) == 8
    assert any("gate from 70.0\N{NO-BREAK SPACE}% at 72 to 93.6\N{NO-BREAK SPACE}% at 459" in label for label in labels)
    assert any("prior:a \N{MINUS SIGN}2.31; prior:b \N{MINUS SIGN}2.64" in label for label in labels)


def test_same_data_same_bytes_also_in_another_process(html: str) -> None:
    assert render_report(example()) == html
    code = (
        "import sys; from coevo_ray.reporting.write import render_report; from tests.reporting._example import example;"
        "sys.stdout.buffer.write(render_report(example()).encode()); assert 'matplotlib.pyplot' not in sys.modules"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert other.stdout.decode() == html


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (("train",), "Not part of this run: train."),
        (("gate",), "Not part of this run: gate."),
        (("sae", "gate", "train"), "Not part of this run: sae, gate and train."),
        (("encode",), "Not part of this run: encode."),
        (("pool", "encode", "sae", "gate", "train"), "Not part of this run: ingest, encode, sae, gate and train."),
    ],
)
def test_absent_stages_are_named_and_have_no_section(missing: tuple[str, ...], sentence: str) -> None:
    data = without(*missing)
    page = Page(render_report(data))
    assert sentence in page.text
    assert not set(missing) & set(page.ids)
    assert "None" not in page.text and "nan" not in page.text


def test_nothing_at_all_still_makes_a_page() -> None:
    page = Page(render_report(ReportData("empty", "", "0", {})))
    assert "empty" in page.text
    assert headlines(ReportData("empty", "", "0", {})) == []


def test_summary_without_plots_has_tables_but_no_plots() -> None:
    page = Page(render_report(ReportData("t", "", "0", summary())))
    assert "figure" not in page.tags
    for word in ("prior:b (reference)", "14,370", "of the labels were asked for"):
        assert word in page.text


def test_a_pool_without_labels_has_no_accuracies() -> None:
    figures = summary()
    assert "Accuracies are measured on the test rows" in Page(render_report(ReportData("t", "", "0", figures))).text
    figures["pool"]["classes"] = 0
    figures["gate"] |= dict.fromkeys(("accuracy", "random_accuracy", "full_accuracy"))
    page = Page(render_report(ReportData("t", "", "0", figures)))
    assert "It came without labels, so no accuracy can be measured." in page.text
    assert "Accuracies are measured" not in page.text and "linear classifier" not in page.text
    assert "forecast" not in page.text  # version 0.1.0 made none
    foretold = {"validation_rows": 46, "labels": 459, "accuracy": [0.8, 0.9, 1.0], "tolerance_labels": 900}
    figures["gate"]["forecast"] = {**foretold, "gain": [-0.001, 0.012, 0.034]}
    text = Page(render_report(ReportData("t", "", "0", figures))).text
    assert "Accuracy by 46 validation rows: 90.0 %, with nine chances in ten between 80.0 % and 100.0 %." in text
    assert "would add 1.2 points of accuracy (90 % interval \u22120.1 to 3.4)." in text
    assert "too little at about" not in text  # it has ended


@pytest.mark.parametrize(("accuracy", "apart"), [(0.85, False), (0.75, True)])
def test_the_forecast_says_on_which_rows_it_stands(accuracy: float, apart: bool) -> None:
    """Its level is that of the validation rows, which may differ from the accuracy beside it."""
    figures = summary()
    foretold = {"validation_rows": 46, "labels": 459, "accuracy": [0.8, 0.9, 1.0], "tolerance_labels": 900}
    figures["gate"] |= {"accuracy": accuracy, "forecast": {**foretold, "gain": [-0.001, 0.012, 0.034]}}
    text = Page(render_report(ReportData("t", "", "0", figures))).text
    assert "starts from the accuracy by 46 validation rows, 90.0 % (90 % interval 80.0 % to 100.0 %)" in text
    assert f"that on the held-out rows, {100 * accuracy:.1f} %" in text
    assert ("further apart than nine of ten such samples are" in text) is apart
    figures["gate"]["forecast"]["accuracy"] = None
    assert "starts from the accuracy" not in Page(render_report(ReportData("t", "", "0", figures))).text


def test_hostile_strings_are_text() -> None:
    figures = summary()
    figures["encode"]["priors"][0]["name"] = figures["encode"]["reference"] = HOSTILE
    figures["gate"]["stopped_by"] = HOSTILE
    figures["pool"]["reject_reasons"] = {HOSTILE: 3}
    figures["train"] = {HOSTILE: {"accuracy": 0.5, "seconds": 1.0, "samples": 10}}
    html = render_report(
        example(
            title=HOSTILE,
            created=HOSTILE,
            version=HOSTILE,
            config_yaml=HOSTILE,
            summary=figures,
            encode=EncodePlots([PriorPlot(HOSTILE, -1.0, 0.5, 3, 1.0), PriorPlot("_b" * 50, -2.0, 1.0, 3, 1.0, True)]),
            gate=GatePlots([(1, 0.5)], stopped_by=HOSTILE),
            train=TrainPlots([policy(HOSTILE, figures["train"][HOSTILE]), PolicyPlot("_x", [(1, 0.2)], {0: 1})]),
            notes=[HOSTILE],
            versions={HOSTILE: HOSTILE},
        )
    )
    page = Page(html)
    assert "script" not in page.tags
    assert not any(key.startswith("on") for key, _ in page.attributes)
    assert '<script>alert("1")</script>' in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_unmeasured_numbers_are_left_out_of_plots_and_named_in_tables() -> None:
    nan = float("nan")
    figures = summary()
    figures["gate"] |= {"accuracy": nan, "random_accuracy": None}
    figures["train"]["factors"] |= {"accuracy": None}
    data = example(
        summary=figures,
        encode=EncodePlots([PriorPlot("a", nan, None, None, nan, True)]),
        gate=GatePlots([(1, nan), (2, None)], [(1, nan)], nan, [(0, None)], "gain"),
        train=TrainPlots([PolicyPlot("factors", [(1, nan)], {}, nan, None, None, nan)]),
    )
    page = Page(render_report(data))
    assert "not measured" in page.text
    assert " nan" not in page.text.lower()
    assert page.tags.count("figure") == 2  # those of the autoencoder


@pytest.mark.parametrize(
    ("gate", "chance", "full", "sentence"),
    [
        (0.80, 0.84, 0.90, "4.0 points lower than with the same number of random labels (84.0 %)"),
        (0.80, 0.80, 0.90, "the same as with the same number of random labels (80.0 %)"),
        (0.91, 0.80, 0.90, "1.0 point higher than with all labels (90.0 %)"),
    ],
)
def test_gate_is_compared_honestly(gate: float, chance: float, full: float, sentence: str) -> None:
    figures = summary()
    figures["gate"] |= {"accuracy": gate, "random_accuracy": chance, "full_accuracy": full}
    text = Page(render_report(ReportData("t", "", "0", figures))).text
    assert sentence in text
    assert "On 360 test rows, differences below about" in text


@pytest.mark.parametrize(
    ("targets", "said"), [(0.85, "3.0 points higher than"), (0.8, "2.0 points lower than"), (0.82, "the same as")]
)
def test_targets_are_compared_with_the_best_prior_alone(targets: float, said: str) -> None:
    figures = summary()
    figures["encode"]["beside_priors"] = {"targets": targets, "alone": {"prior:a": 0.82, "prior:b": 0.7}}
    shown = Page(render_report(example(summary=figures))).text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{said} on the best prior's own features (prior:a 82.0 % and prior:b 70.0 %)" in shown
    assert f"{said} on the best prior alone, prior:a (82.0 %)" in shown


def test_policy_that_loses_is_said_to_lose() -> None:
    figures = summary()
    figures["train"]["factors"]["accuracy"] = 0.9
    text = Page(render_report(example(summary=figures))).text
    assert "That is 5.5 points lower than full (95.5 %, with 2.0 times the samples) and 3.2 points lower than" in text


@pytest.mark.parametrize(("word", "reason"), [("gain", "fell below its threshold"), ("odd", "It stopped by: odd.")])
def test_reason_of_the_stop(word: str, reason: str) -> None:
    figures = summary()
    figures["gate"]["stopped_by"] = word
    assert reason in Page(render_report(ReportData("t", "", "0", figures))).text


def test_reference_that_is_not_the_lowest_is_said_so() -> None:
    figures = summary()
    figures["encode"]["reference"] = "prior:a"
    text = Page(render_report(ReportData("t", "", "0", figures))).text
    assert "the space of prior:a, although prior:b has a lower uniformity" in text


LEAF = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.lists(st.floats(), max_size=2)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_summary_makes_a_well_formed_page(data: Any) -> None:
    figures = summary()
    for stage, entries in figures.items():
        if data.draw(st.booleans()):
            figures[stage] = data.draw(LEAF)
        elif isinstance(entries, dict):
            figures[stage] = {key: data.draw(st.just(value) | LEAF) for key, value in entries.items()}
    assert Page(render_report(ReportData("t", "", "0", figures))).tags
