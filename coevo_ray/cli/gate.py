"""The command gate and those below it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coevo_ray.cli.options import JsonFlag, Out, PoolPath, TargetsPath, given
from coevo_ray.cli.show import show
from coevo_ray.config import read_settings
from coevo_ray.errors import UsageError

gate_app = typer.Typer(rich_markup_mode=None)
# Annotators, each with the options that it cannot do without.
_ANNOTATORS = {"label_column": (), "file_drop": ("folder",), "label_studio": ("url", "project")}

Classes = Annotated[
    str | None, typer.Option(help="Names of the classes, with commas, or how many; default: the pool's.")
]
SeedFraction = Annotated[float | None, typer.Option(help="Random first labels, as a share of the rows. [0.05]")]
RoundFraction = Annotated[float | None, typer.Option(help="Labels of a round, as a share of the rows. [0.03]")]
MaxFraction = Annotated[float | None, typer.Option(help="Never ask for more than this share of the rows. [1]")]
MaxRounds = Annotated[int | None, typer.Option(help="Never ask more often. [100]")]
Rule = Annotated[str | None, typer.Option(help="margin (ours) or compat (as published). [margin]")]
SettingsFile = Annotated[
    str | None,
    typer.Option("--settings", help="YAML of any settings of the gate, or of a run with them; options replace them."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of random requests. [0]")]
AnnotatorKind = Annotated[
    str | None, typer.Option(help="Who answers: label_column (the pool's own labels), file_drop or label_studio.")
]
Folder = Annotated[str | None, typer.Option(help="file_drop: where requests and answers lie.")]
Url = Annotated[str | None, typer.Option(help="label_studio: address; the token comes from LABEL_STUDIO_API_KEY.")]
Project = Annotated[str | None, typer.Option(help="label_studio: title of the project.")]
GatePath = Annotated[str, typer.Option("--gate", help="Folder of a gate, as gate open made it, or of a run.")]


@gate_app.callback(invoke_without_command=True)
def gate(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Folder of a pool, as ingest made it.")] = None,
    targets: Annotated[str | None, typer.Option(help="Folder of targets, as encode or merge made it.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the result: local path, s3:// or gs://.")] = None,
    classes: Classes = None,
    seed_fraction: SeedFraction = None,
    round_fraction: RoundFraction = None,
    max_label_fraction: MaxFraction = None,
    max_rounds: MaxRounds = None,
    rule: Rule = None,
    settings_file: SettingsFile = None,
    seed: Seed = None,
    annotator: AnnotatorKind = None,
    folder: Folder = None,
    url: Url = None,
    project: Project = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask for labels until the gate stops by itself; or, with a command, one step of it at a time.

    While answers are awaited it ends with exit code 4; the same command goes on with what was answered.
    """
    places = {"pool": pool, "targets": targets, "out": out}
    settings = _settings(
        settings_file,
        classes=classes,
        seed_fraction=seed_fraction,
        round_fraction=round_fraction,
        max_label_fraction=max_label_fraction,
        max_rounds=max_rounds,
        rule=rule,
        seed=seed,
        annotator=_annotator(annotator, folder, url, project),
    )
    if context.invoked_subcommand is not None:
        options = [*given(**places, settings=settings_file), *(() if settings_file else settings)]
        early = [f"--{name}" for name in [*options, *(["json"] if as_json else [])]]
        if early:
            command = context.invoked_subcommand
            raise UsageError(f"{', '.join(early)} before {command}", f"put the options behind it: gate {command} ...")
        return
    missing = [f"--{name}" for name, value in places.items() if value is None]
    if missing:
        raise UsageError(f"gate without {', '.join(missing)}", "give --pool, --targets and --out; see gate --help")
    from coevo_ray.app import api

    labels = api.gate(settings, str(pool), str(targets), str(out))
    show({"labels_table": str(labels.location), **labels.manifest.summary}, as_json)


@gate_app.command("open")
def gate_open(
    pool: PoolPath,
    targets: TargetsPath,
    out: Out,
    classes: Classes = None,
    seed_fraction: SeedFraction = None,
    round_fraction: RoundFraction = None,
    max_label_fraction: MaxFraction = None,
    max_rounds: MaxRounds = None,
    rule: Rule = None,
    settings_file: SettingsFile = None,
    seed: Seed = None,
    annotator: AnnotatorKind = None,
    folder: Folder = None,
    url: Url = None,
    project: Project = None,
    as_json: JsonFlag = False,
) -> None:
    """Open a gate: build its neighbour graph and begin its journal. Again with another annotator, it is that one's."""
    settings = _settings(
        settings_file,
        classes=classes,
        seed_fraction=seed_fraction,
        round_fraction=round_fraction,
        max_label_fraction=max_label_fraction,
        max_rounds=max_rounds,
        rule=rule,
        seed=seed,
        annotator=_annotator(annotator, folder, url, project),
    )
    from coevo_ray.app import api

    show(api.gate_open(settings, pool, targets, out).status(), as_json)


@gate_app.command("next")
def gate_next(
    gate: GatePath,
    out: Annotated[str | None, typer.Option(help="Write the requests to this .csv or .parquet file.")] = None,
    predictions: Annotated[
        str | None,
        typer.Option(help="Parquet of your own model: row_id and probabilities, a list of one number for each class."),
    ] = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Close the round first: what nobody labelled is not asked about again.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Rows to label now; sent to the annotator where there is one. Learns first from labels that came since."""
    from coevo_ray.app import api

    show(api.gate_next(gate, predictions, out, set_aside), as_json)


@gate_app.command("submit")
def gate_submit(
    gate: GatePath,
    file: Annotated[
        list[str] | None,
        typer.Option(
            help="CSV or Parquet with row_id or key, label and perhaps annotator; default: ask the annotator."
        ),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Who gave the labels, where a file does not say; default: the file's name.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Take answers: from files, or from the gate's annotator. Exit code 3 where some could not be taken."""
    from coevo_ray.app import api

    result = api.gate_submit(gate, file, annotator)
    # Each problem was said on stderr, a line of its own.
    show(result if as_json else {**result, "problems": len(result["problems"])}, as_json)
    if result["problems"]:
        raise typer.Exit(3)


@gate_app.command("status")
def gate_status(gate: GatePath, as_json: JsonFlag = False) -> None:
    """How far the gate is, what waits for an answer, and why it stopped."""
    from coevo_ray.app import api

    show(api.gate_status(gate), as_json)


@gate_app.command("export")
def gate_export(
    gate: GatePath,
    out: Out,
    pseudo_labels: Annotated[
        float | None,
        typer.Option(help="Also write labels of rows that are at least so sure, to pseudo_labels/ below, e.g. 0.95."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the labels so far, and every answer, as a table; an earlier export of the same gate is replaced."""
    from coevo_ray.app import api

    show(api.gate_export(gate, out, pseudo_labels).summary, as_json)


def _settings(
    file: str | None, *, classes: str | None, annotator: dict[str, Any] | None, **options: Any
) -> dict[str, Any]:
    names: Any = classes
    if classes is not None:
        names = int(classes) if classes.isdecimal() else [name.strip() for name in classes.split(",")]
    content: Any = {} if file is None else read_settings(file)
    content = content.get("gate", content)
    if not isinstance(content, dict):
        raise UsageError(f"{file} has no settings under gate", "give them there, or alone")
    return {**content, **given(classes=names, annotator=annotator, **options)}


def _annotator(kind: str | None, folder: str | None, url: str | None, project: str | None) -> dict[str, Any] | None:
    options, needs = given(folder=folder, url=url, project=project), _ANNOTATORS.get(kind or "", ())
    if kind is None and options:
        raise UsageError(f"--{next(iter(options))} without an annotator", "give --annotator file_drop or label_studio")
    if kind is not None and kind not in _ANNOTATORS:
        raise UsageError(f"there is no annotator {kind!r}", f"give one of {', '.join(_ANNOTATORS)}")
    if missing := [f"--{name}" for name in needs if name not in options]:
        raise UsageError(f"--annotator {kind} without {', '.join(missing)}", "give it too; see gate open --help")
    return None if kind is None else {"kind": kind, **options}
