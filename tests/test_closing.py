"""The last lines of commands: few, true, and with a next command that the command line takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.main import get_command

from coevo_ray.cli import app, closing
from coevo_ray.core.json import JsonObject
from tests.command_line import Command


def check_next(line: str) -> None:
    """Each command that a line names is there and has the options that it is named with."""
    for found in re.findall(r"coevo-ray ([^;,(]+)", line):
        words = found.split()
        top = command = get_command(app)
        context = typer.Context(command)
        while words and hasattr(command, "get_command") and (inner := command.get_command(context, words[0])):
            command = inner.load() if hasattr(inner, "load") else inner
            words = words[1:]
        options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        named = {word for word in words if word.startswith("--")}
        assert command is not top and named <= options, (line, named - options)


_GATE: JsonObject = {
    "labels_table": "g",
    "labels": 504,
    "label_fraction": 0.35,
    "rounds": 1,
    "stopped_by": "tolerance",
    "accuracy": 0.9192,
    "random_accuracy": 0.9164,
    "full_accuracy": None,
}
_NEXT: JsonObject = {"round": 2, "requested": 40, "where": None, "file": None, "stopped_by": None, "blocking": []}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (closing.of_labels(_GATE), "504 labels (35% of the rows) in 1 round, stopped by tolerance"),
        (closing.of_labels(_GATE), "held-out accuracy 91.9% against 91.6% of as many random labels"),
        (closing.of_labels({**_GATE, "accuracy": None}), "504 labels"),
        (closing.of_requests("g", _NEXT), "round 2: 40 rows to label; --out FILE.csv writes them"),
        (closing.of_requests("g", {**_NEXT, "where": "drop", "blocking": list("abcd")}), "waits for a, b, c, ..."),
        (closing.of_requests("g", {**_NEXT, "requested": 0, "stopped_by": "budget"}), "the gate has stopped: budget"),
        (closing.of_model({"model": "m", "accuracy": None}), "model: m"),
        (closing.of_model({"model": "m", "accuracy": 0.5, "samples": 1000}), "accuracy 50.0% on held-out rows, 1,000"),
        (
            closing.of_run({"report": "r", "gate": _GATE, "train": {"full": {"accuracy": 0.99, "samples": 14380}}}),
            "trained: full 99.0% (14,380 rows)",
        ),
        (closing.of_run({"report": "r", "gate": None}), "report: r"),
        (
            closing.of_run(
                {"report": "r", "encode": {"beside_priors": {"targets": 0.9, "alone": {"a": 0.5, "b": 0.8}}}}
            ),
            "targets: held-out accuracy 90.0% against 80.0% of the best prior alone, b",
        ),
        (
            closing.of_copies(
                {
                    "duplicates_at": "d",
                    "rows": 100,
                    "duplicates": 10,
                    "groups": 4,
                    "dropped": 6,
                    "leaks": 1,
                    "page": "p",
                    "dropped_file": "f",
                }
            ),
            "10 of 100 rows in 4 groups, 6 to drop, 1 leaks",
        ),
        (closing.of_retrieved({"retrieved": "r", "chosen": 5, "looked_at": 50}), "5 of 50 rows"),
        (closing.of_retrieved({"retrieved": "r", "chosen": 5, "looked_at": 50, "copied_to": "c"}), "ingest c --append"),
        (closing.of_targets("p", {"contribution": "c", "rows": 7, "rows_per_s": 3.2}), "7 rows, 3 rows/s"),
        (closing.of_targets("", {"targets": "t", "dim": 8, "priors": [1, 2]}), "8 dimensions of 2 priors"),
        (
            closing.of_factors({"scores": "s"}, {"explained_variance": 0.876, "dead_fraction": 0.0, "latents": 256}),
            "256 factors explain 88% of the variance",
        ),
        (closing.of_factors({"scores": "s"}, None), "scores: s"),
    ],
)
def test_three_lines_at_most_say_what_was_made_and_what_comes_next(lines: list[str], said: str) -> None:
    assert said in "\n".join(lines)
    assert len(lines) <= 3
    for line in lines:
        check_next(line)


def test_one_of_anything_has_its_singular() -> None:
    made = {"pool": "p", "rows": 1, "modality": "text", "classes": 1, "train_rows": 1, "test_rows": 0, "rejected": 0}
    assert "p, 1 text of 1 class; 1 to train on" in closing.of_pool(made)[0]
    assert "p, 1,200 texts of 3 classes;" in closing.of_pool({**made, "rows": 1200, "classes": 3})[0]


def test_rows_without_a_target_are_told() -> None:
    """A text of which a vocabulary has nothing is a reject, and few of these end no command."""
    made = {"targets": "t", "dim": 8, "priors": [1]}
    assert closing.of_targets("p", made)[0] == "targets: t, 8 dimensions of 1 prior"
    for rejected, words in ((1, "1 row without a target"), (1200, "1,200 rows without a target")):
        assert words in closing.of_targets("p", {**made, "rejected": rejected})[0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_ingest_ends_with_its_lines(tmp_path: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.ones((30, 4), np.float32))
    np.save("X.labels.npy", np.arange(30) % 3)
    made = coevo_ray("ingest", "X.npy", "--format", "npy", "--out", "pool")
    assert made.returncode == 0, made.stderr
    first, then = made.stdout.splitlines()
    assert "30 vectors of 3 classes; 24 to train on, 6 held out, 0 rejected" in first
    check_next(then)


def test_a_rehearsal_of_start_ends_with_its_figures_and_the_way_to_people() -> None:
    from coevo_ray.cli.start import _lines

    made = {"file": "run.yaml", "report": "r.html", "gate": _GATE, "train": {"full": {"accuracy": 0.9, "samples": 100}}}
    said = _lines(made)
    assert said[:-1] == closing.of_run(made) and said[-2] == "report: r.html"
    assert said[0].startswith("gate: ") and said[1] == "trained: full 90.0% (100 rows)"
    assert "--ask file_drop" in said[-1]
