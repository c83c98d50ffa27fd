"""The settings of a run that data suggest, and the file that holds them, with a word on each choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from coevo_ray.app.start.look import Found
from coevo_ray.app.start.priors import Proposed
from coevo_ray.config.pool import IMAGE, VECTOR
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError

ANNOTATORS = ("file_drop", "label_column")  # that a run may begin with: others need an address
_LARGE = 20_000  # rows from which more latents are worth their time
_TEST_SHARE = 0.2
# Dimensions of the latent, and the most of them for each training row: it is fitted to shared rows.
_DIM, _OF_ROWS = 128, 0.4


@dataclass(frozen=True)
class Wanted:
    """The user's wishes for the run.

    Attributes:
        out: folder of the run.
        classes: names of the classes; empty where the data name them.
        budget: most labels to ask for; None for no limit.
        ask: who answers: `file_drop`, `label_column`, or "" for what fits the data.
    """

    out: str
    classes: tuple[str, ...] = ()
    budget: int | None = None
    ask: str = ""

    def check(self, found: Found) -> None:
        """Checks that somebody can answer.

        Raises:
            UsageError: `ask` is unknown, or the data's labels are asked where rows have none.
        """
        if self.ask not in ("", *ANNOTATORS):
            raise UsageError(f"--ask {self.ask}", f"give {' or '.join(ANNOTATORS)}")
        if self.ask == "label_column" and found.labelled < 1:
            raise UsageError(
                f"--ask label_column, and {found.labelled:.0%} of the rows that were tried have a label",
                "leave it out to ask people, or give data with a label in each row",
            )

    def annotator(self, found: Found) -> str:
        """Labels of the data answer where all rows have one, people where some have none."""
        return self.ask or ("label_column" if found.labelled == 1 else "file_drop")


def run_settings(found: Found, priors: Sequence[Proposed], wanted: Wanted) -> JsonObject:
    """The content of the run's file.

    Raises:
        UsageError: there are too few rows, or annotators are asked about unnamed classes.
    """
    if found.rows < 20:
        raise UsageError(f"{found.rows} rows", "a run needs 20 or more; label them all")
    annotator = wanted.annotator(found)
    labelled = found.labelled > 0
    fixed = any(split is not None for split in found.splits)
    gate: JsonObject = {"seed_fraction": 0.05, "round_fraction": 0.03}
    train_rows = found.rows - sum(rows for split, rows in found.splits.items() if split == "test")
    if not fixed and labelled:
        train_rows = round(found.rows * (1 - _TEST_SHARE))
    if wanted.budget is not None:
        if not 1 <= wanted.budget <= train_rows:
            raise UsageError(f"--budget {wanted.budget}", f"give a number of labels from 1 to {train_rows}")
        gate["max_label_fraction"] = round(wanted.budget / train_rows, 6)
        gate["seed_fraction"] = min(gate["seed_fraction"], gate["max_label_fraction"])
    if annotator == "file_drop":
        gate |= _asked(found, wanted)
    source = {name: value for name, value in found.source.items() if name != "uri"}
    return {
        "title": found.source["uri"].rstrip("/").rpartition("/")[2] or "coevo-ray run",
        "out": wanted.out,
        "pool": {
            "sources": [{"uri": found.source["uri"], **source}],
            "test_fraction": 0.0 if fixed or not labelled else _TEST_SHARE,
        },
        "encode": _encode(found, priors, train_rows),
        "sae": {"latents": 1024, "k": 16, "epochs": 20} if found.rows > _LARGE else {"latents": 256, "k": 16},
        "gate": gate,
        "train": {
            "model": "linear",
            "features": "targets",
            "labels": "gate" if annotator == "file_drop" else "pool",
            "policies": ["full", "random", "factors"],
            "keep": 0.5,
        },
    }


def _asked(found: Found, wanted: Wanted) -> JsonObject:
    if not found.classes and len(wanted.classes) < 2:
        raise UsageError(
            "the data have no class names, and annotators need them",
            "add the names to the command: --classes cat,dog",
        )
    names: JsonObject = {"classes": [*wanted.classes]} if wanted.classes else {}
    return {**names, "annotator": {"kind": "file_drop", "folder": f"{wanted.out.rstrip('/')}-labels"}}


def _encode(found: Found, priors: Sequence[Proposed], train_rows: int) -> JsonObject:
    settings: JsonObject = {"priors": [prior.settings for prior in priors]}
    dim = min(_DIM, 2 ** int(math.log2(max(2.0, train_rows * _OF_ROWS))))
    if found.dim is not None:
        dim = min(dim, found.dim)  # vectors have no more components
    if dim < _DIM or found.modality != IMAGE:  # texts lose neighbours with more
        settings["dim"] = dim
    if found.modality not in (IMAGE, VECTOR) and len(priors) > 1:
        settings["coverage"] = "all"
    return settings


_COMMENTS = {
    "title": "Made by coevo-ray start. Change what you like before the first run; then: coevo-ray run {file}",
    "out": "Everything that the run makes. The same command again goes on where it ended.",
    "pool": "The data. test_fraction is the share held out to measure on; 0 where nothing has a label yet.",
    "encode": "Priors: public models whose knowledge goes into the targets. One prior encodes each row unless\n"
    "coverage is a number or all. Other priors: docs, guide on priors.",
    "sae": "Factors of the targets, for policies that look at them.",
    "gate": "Which rows deserve a label. Budget: max_label_fraction, a share of the training rows. It stops by itself\n"
    "before that where more labels are not worth it. annotator: label_column lets the data's own labels answer\n"
    "(a rehearsal); file_drop and label_studio ask people.",
    "train": "Which rows deserve a step: each policy is trained on keep of the rows, `full` and `random` are what to\n"
    "compare with.",
}


def file_text(settings: JsonObject, file: str) -> str:
    """The run's file: YAML, with a comment before each section."""
    parts = []
    for name, value in settings.items():
        comment = _COMMENTS.get(name, "").format(file=file)
        parts += [f"# {line}" for line in comment.splitlines()]
        style = None if isinstance(value, dict) else False  # a dict of plain values goes on one line
        parts.append(yaml.safe_dump({name: value}, sort_keys=False, default_flow_style=style, width=110).rstrip())
        parts.append("")
    return "\n".join(parts)
