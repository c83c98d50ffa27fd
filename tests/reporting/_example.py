"""A made-up run for the tests of the report, and a reader that checks its HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from coevo_ray.reporting.data import (
    DoubtedRow,
    EncodePlots,
    EvidencePlots,
    GatePlots,
    PolicyPlot,
    PriorPlot,
    ReportData,
    SaePlots,
    TrainPlots,
)
from coevo_ray.reporting.tiles import Tile

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
VOID = {"meta", "link", "br", "hr", "img", "input"}


def summary() -> dict[str, Any]:
    return {
        "pool": {"rows": 1797, "train_rows": 1437, "test_rows": 360, "classes": 10, "rejected": 3},
        "encode": {
            "reference": "prior:b",
            "dim": 128,
            "shared_rows": 181,
            "priors": [
                {"name": "prior:a", "uniformity": -2.314, "alignment_r2": 0.834, "rows": 901, "rows_per_s": 41.27},
                {"name": "prior:b", "uniformity": -2.642, "alignment_r2": 1.0, "rows": 896, "rows_per_s": 33.94},
            ],
            "seconds": 48.2,
        },
        "sae": {"explained_variance": 0.871, "dead_fraction": 0.045, "latents": 512, "k": 16, "seconds": 21.4},
        "gate": {
            "labels": 459,
            "label_fraction": 0.3194,
            "rounds": 11,
            "stopped_by": "validation",
            "accuracy": 0.9361,
            "random_accuracy": 0.8904,
            "full_accuracy": 0.9512,
            "seconds": 8.8,
        },
        "evidence": {
            "rows": 1436,
            "doubted_rows": 17,
            "mistake_rates": [0.01] * 10,
            "copied_rows": 53,
            "copy_groups": 22,
            "most_doubted": [{"row_id": 4, "doubt": 0.98, "likely": 7}],
            "seconds": 2.1,
        },
        "train": {
            "full": {"accuracy": 0.9551, "seconds": 12.3, "samples": 14370},
            "random": {"accuracy": 0.9322, "seconds": 7.1, "samples": 7180},
            "factors": {"accuracy": 0.9393, "seconds": 7.6, "samples": 7190},
        },
        "report": "runs/digits/report.html",
        "seconds": 134.7,
    }


def example(**changes: Any) -> ReportData:
    figures = summary()
    frequencies = np.sort(np.random.default_rng(0).random(512))
    frequencies[:23] = 0
    fields: dict[str, Any] = {
        "title": "Handwritten digits",
        "created": "2025-11-21T05:00:00+00:00",
        "version": "0.1.0",
        "summary": figures,
        "config_yaml": "title: Handwritten digits\nout: runs/digits\n",
        "encode": EncodePlots([PriorPlot(**prior) for prior in figures["encode"]["priors"]]),
        "sae": SaePlots(frequencies, [(1437, -0.6), (2874, 0.5), (4311, 0.871)]),
        "gate": GatePlots(
            gate=[(72, 0.70), (260, 0.90), (459, 0.9361)],
            random=[(72, 0.70), (260, 0.85), (459, 0.8904)],
            full_accuracy=0.9512,
            mean_gain=[(0, 0.4), (1, 0.2), (2, 0.1)],
            stopped_by="validation",
        ),
        "evidence": EvidencePlots([DoubtedRow(Tile("three.png", picture=PIXEL, size=(8, 8)), "three", "eight")]),
        "train": TrainPlots([policy(name, figures["train"][name]) for name in figures["train"]]),
        "notes": ["Only 181 shared rows."],
        "versions": {"ray": "2.60.0"},
    }
    return ReportData(**{**fields, **changes})


def policy(name: str, figures: dict[str, float]) -> PolicyPlot:
    return PolicyPlot(
        name=name,
        accuracy_by_samples=[(719, 0.3), (figures["samples"], figures["accuracy"])],
        usage_histogram={4: 12, 5: 1410, 6: 15},
        kept_share=0.5 if name != "full" else 1.0,
        **figures,
    )


def without(*stages: str) -> ReportData:
    """The example of a user who left stages out."""
    figures = {key: value for key, value in summary().items() if key not in stages}
    return example(summary=figures, **{stage: None for stage in stages if stage != "pool"})


class Page(HTMLParser):
    """Parses a page; raises AssertionError where tags do not balance."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        self.ids += [value or "" for key, value in attrs if key == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "pre"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees outside of the closed details, with plain spaces."""
        return re.sub(r"\s+", " ", "".join(self.words))

    @property
    def references(self) -> list[str]:
        """Everything that the page points to."""
        plain = [value for key, value in self.attributes if key.rpartition(":")[2] in ("href", "src", "data", "action")]
        return plain + [found for _, value in self.attributes for found in re.findall(r"url\(([^)]*)\)", value)]
