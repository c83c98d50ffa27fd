"""Commands whose modules are imported when they are called: the list of commands needs none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

# Command -> module below `coevo_ray.cli`, and the line of the list, which is the first of the command's docstring.
COMMANDS = {
    "demo": ("run", "Run the whole loop on handwritten digits, or on texts; needs the extra `demo` and no download."),
    "start": (
        "start",
        "Inspect data, propose a run and write its file; with --go run up to the first label requests.",
    ),
    "run": ("run", "Run the whole loop that a YAML file describes, or continue it."),
    "ingest": ("pools", "Make a pool from images, texts or vectors: row_ids, splits, rejects. Or append to one."),
    "encode": ("targets", "Encode disjoint parts of a pool with prior models and align them into targets."),
    "merge": ("targets", "Align contributions of several participants into one target table."),
    "probe": ("targets", "Judge targets by the pool's labels; for evaluation only."),
    "plan": ("plan", "Simulate which rows a policy would use, without training."),
    "train": (
        "training",
        "Train on each epoch's subset after the earlier stages of a run; or on labels, few labels or targets.",
    ),
    "retrieve": (
        "retrieve",
        "Find the rows of another pool to label next: those where the gate's gain remains.",
    ),
    "dedup": ("dedup", "Find copies in a pool and between its splits: a table, a file of rows to drop, a page."),
    "export": (
        "export",
        "Write an artifact for other tools: Lance, an issues table, FiftyOne, or a Hugging Face Hub data set.",
    ),
    "report": ("run", "Write the summary and the HTML report of a run whose stages are finished."),
    "submit": ("submit", "Run a command as a job on a Ray cluster and follow it; its output identifies the job."),
    "status": ("run", "Show the progress of a run or any folder of artifacts, its writer, and the last error."),
    "doctor": (
        "run",
        "Check this machine; optionally an artifact, all below a folder, or which stages take a pool.",
    ),
    "sae": (
        "sae",
        "Fit the sparse autoencoder and score every row; or, with a subcommand, show factors and convert models.",
    ),
    "gate": ("gate", "Ask for labels until the gate stops by itself; or, with a subcommand, run one step at a time."),
}


class OnDemand(TyperCommand):
    """Stands for a command in the list of commands, until it is called or asked for help."""

    def load(self) -> Any:
        """The command or group itself, of the click that typer brings."""
        module = import_module(f"coevo_ray.cli.{COMMANDS[str(self.name)][0]}")
        group = getattr(module, f"{self.name}_app", None)
        if group is None:
            group = typer.Typer(add_completion=False, rich_markup_mode=None)
            group.command(self.name)(getattr(module, str(self.name)))
        return get_command(group)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parses the command's arguments: by the command itself."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


def add_commands(app: typer.Typer) -> None:
    """Adds every command to an application."""
    for name, (_, line) in COMMANDS.items():
        app.command(name, help=line, cls=OnDemand)(_stand_in)


def _stand_in() -> None:
    """Is never called."""
