"""The command gate and those below it."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import default_text, option, options, parameter, settings, takes
from coevo_ray.cli.options import JsonFlag, Out, PoolPath, TargetsPath, Trust, given_only, refuse_early, spelled
from coevo_ray.cli.show import show, show_lines
from coevo_ray.config import GateSettings, read_settings
from coevo_ray.config.annotators import annotator_kinds, settings_of_kind
from coevo_ray.config.gate import TERMS
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError

gate_app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Settings that have an option; all others can be given in a file.
_SHOWN = ("seed_fraction", "round_fraction", "max_label_fraction", "max_rounds", "rule", "seed")
# What annotators cannot do without, each with its kinds.
_OF_ANNOTATORS = {
    name: [other for other, model in annotator_kinds().items() if name in model.model_fields]
    for settings_model in annotator_kinds().values()
    for name, field in settings_model.model_fields.items()
    if field.is_required()
}
Classes = Annotated[
    str | None, typer.Option(help="Class names, separated by commas, or their number; default: the pool's.")
]
SettingsFile = Annotated[
    str | None,
    typer.Option("--settings", help="YAML file of gate settings, or of a run that has them; options override it."),
]
AnnotatorKind = Annotated[
    str | None,
    typer.Option(
        help=f"Who answers the requests: {', '.join(annotator_kinds())}, or your own package.module:NAME. "
        f"[{default_text(GateSettings.model_fields['annotator'].default.kind)}]"
    ),
]
ServerAddress = Annotated[
    str | None,
    typer.Option("--url", help="The gate's Label Studio server, to allow sending your token there; once per machine."),
]
GatePath = Annotated[str, typer.Option("--gate", help="Folder of a gate made by gate open, or of a run.")]

_of_annotator = (
    parameter("annotator", AnnotatorKind),
    *(
        option(name, annotator_kinds()[kinds[0]].model_fields[name], prefix=f"{', '.join(kinds)}: ", required=False)
        for name, kinds in _OF_ANNOTATORS.items()
    ),
)
_of_settings = takes(
    parameter("classes", Classes),
    *options(GateSettings, _SHOWN),
    parameter("settings_file", SettingsFile),
    *_of_annotator,
)
_TERMS = tuple(name for name in TERMS if name != "annotator")


@gate_app.callback(invoke_without_command=True)
@_of_settings
def gate(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Folder of a pool made by ingest.")] = None,
    targets: Annotated[str | None, typer.Option(help="Folder of targets made by encode or merge.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder: local path, s3:// or gs://.")] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Ask for labels until the gate stops by itself; or, with a subcommand, run one step at a time.

    If answers are missing it ends with exit code 4; run it again to continue.
    """
    if context.invoked_subcommand is not None:
        names = ["settings" if name == "settings_file" else name for name in given]
        places = given_only(pool=pool, targets=targets, out=out)
        refuse_early("gate", context.invoked_subcommand, [*places, *names, *(["json"] if as_json else [])])
        return
    config = _settings(given)
    if pool is None or targets is None or out is None:
        missing = {"pool": pool, "targets": targets, "out": out}
        absent = spelled(name for name, value in missing.items() if value is None)
        raise UsageError(f"gate without {absent}", "give --pool, --targets and --out; see gate --help")
    from coevo_ray.app import api

    labels = api.gate(config, pool, targets, out)
    made = {"labels_table": str(labels.location), **labels.manifest.summary}
    show_lines(made, closing.of_labels(made), as_json)


@gate_app.command("open")
@_of_settings
def gate_open(
    pool: PoolPath,
    targets: TargetsPath,
    out: Out,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Open a gate: build its neighbour graph and begin its journal. Run it again to change the annotator."""
    config = _settings(given)
    from coevo_ray.app import api

    show(api.gate_open(config, pool, targets, out).status(), as_json)


@gate_app.command("next")
def gate_next(
    gate: GatePath,
    out: Annotated[str | None, typer.Option(help="Write the requests to this .csv or .parquet file.")] = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            help="Parquet file of your own model's predictions: row_id and probabilities, a list of one number per "
            "class. Do not train it on validation labels, which gate export marks."
        ),
    ] = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Close the round first; its unlabelled rows are not asked about again.")
    ] = False,
    trust: Trust = None,
    url: ServerAddress = None,
    as_json: JsonFlag = False,
) -> None:
    """Request rows to label now, from the annotator if there is one. Learns from new labels first."""
    from coevo_ray.app import api

    asked = api.gate_next(gate, predictions, out, set_aside, trust=trust or (), url=url)
    show_lines(asked, closing.of_requests(gate, asked), as_json)


@gate_app.command("submit")
def gate_submit(
    gate: GatePath,
    file: Annotated[
        list[str] | None,
        typer.Option(
            help="CSV or Parquet with row_id or key, label and optionally annotator; default: ask the annotator."
        ),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Who gave the labels, if the file does not say; default: the file's name.")
    ] = None,
    trust: Trust = None,
    url: ServerAddress = None,
    as_json: JsonFlag = False,
) -> None:
    """Take answers: from files, or from the gate's annotator. Exit code 3 if some were refused."""
    from coevo_ray.app import api

    result = api.gate_submit(gate, file, annotator, trust=trust or (), url=url)
    # Each problem was said on stderr, a line of its own.
    show(result if as_json else {**result, "problems": len(result["problems"])}, as_json)
    if result["problems"]:
        raise typer.Exit(3)


@gate_app.command("status")
def gate_status(gate: GatePath, as_json: JsonFlag = False) -> None:
    """Show labels so far, requests without an answer, and the reason of a stop."""
    from coevo_ray.app import api

    show(api.gate_status(gate), as_json)


@gate_app.command("set")
@takes(*(option(name, GateSettings.model_fields[name], default="") for name in _TERMS), *_of_annotator)
def gate_set(gate: GatePath, *, as_json: JsonFlag = False, given: JsonObject) -> None:
    """Change limits, the size of rounds, the stop or the annotator of an open gate; other terms stay."""
    from coevo_ray.app import api

    show(api.gate_set(gate, {**settings(GateSettings, _TERMS, given), **_annotator(given)}), as_json)


@gate_app.command("export")
def gate_export(
    gate: GatePath,
    out: Out,
    pseudo_labels: Annotated[
        float | None,
        typer.Option(help="Also write pseudo-labels of at least this confidence, such as 0.95, to pseudo_labels/."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the labels so far, and every answer, as a table; an earlier export of the same gate is replaced."""
    from coevo_ray.app import api

    show(api.gate_export(gate, out, pseudo_labels).summary, as_json)


@gate_app.command("report")
def gate_report(
    gate: GatePath,
    out: Annotated[str | None, typer.Option(help="Output .html file. [report.html in the gate's folder]")] = None,
    seconds_per_label: Annotated[
        float | None, typer.Option(help="Seconds per answer: shows hours spent and saved.")
    ] = None,
    cost_per_label: Annotated[
        float | None, typer.Option(help="Price per answer, in any currency: shows money spent and saved.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write an HTML page: learning curve, what labels saved, accuracy and confusions of classes, rows asked."""
    from coevo_ray.app import api

    show(api.gate_report(gate, out, seconds_per_label=seconds_per_label, cost_per_label=cost_per_label), as_json)


def _settings(given: JsonObject) -> JsonObject:
    """The settings of the file, where there is one, with what the options say instead."""
    file = given.get("settings_file")
    content = {} if file is None else read_settings(file)
    content = content.get("gate", content)
    if not isinstance(content, dict):
        raise UsageError(f"{file} has no settings under gate", "give them there, or alone")
    return {**content, **settings(GateSettings, _SHOWN, given), **_classes(given), **_annotator(given)}


def _classes(given: JsonObject) -> JsonObject:
    if "classes" not in given:
        return {}
    text = given["classes"]
    return {"classes": int(text) if text.isdecimal() else [name.strip() for name in text.split(",")]}


def _annotator(given: JsonObject) -> JsonObject:
    kind = given.get("annotator")
    chosen = {name: given[name] for name in _OF_ANNOTATORS if name in given}
    if kind is None:
        if chosen:
            name = next(iter(chosen))
            raise UsageError(f"--{name} without an annotator", f"give --annotator {' or '.join(_OF_ANNOTATORS[name])}")
        return {}
    fields = settings_of_kind(kind).model_fields
    if missing := [name for name in _OF_ANNOTATORS if name in fields and name not in chosen]:
        raise UsageError(f"--annotator {kind} without {spelled(missing)}", "give it too; see gate open --help")
    return {"annotator": {"kind": kind, **chosen}}
