"""The command line: each command is a thin call of the function of the same name.

Progress and errors go to stderr, with `--json` one JSON object to stdout at the end. Exit codes: 0 done, 2 wrong usage
or configuration, 3 bad input, 4 stopped part-way and resumable, 1 anything else.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from coevo_ray._version import __version__
from coevo_ray.errors import CoevoError, StoppedError, UsageError

if TYPE_CHECKING:
    from coevo_ray.store.row_table import RowTable

app = typer.Typer(
    name="coevo-ray",
    help="Decide what data is worth: targets from public priors, per-epoch selection, an annotation gate; on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout at the end.")]
Out = Annotated[str, typer.Option("--out", help="Folder of the result: local path, s3:// or gs://.")]
PoolPath = Annotated[str, typer.Option("--pool", help="Folder of a pool, as ingest made it.")]
TargetsPath = Annotated[str, typer.Option("--targets", help="Folder of targets, as encode or merge made it.")]


@app.command()
def demo(out: Out = "coevo-demo", as_json: JsonFlag = False) -> None:
    """Run the whole loop on handwritten digits; needs the extra `demo` and no download."""
    from coevo_ray import commands

    _show(commands.demo(out), as_json)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="YAML file of the run, such as examples/digits.yaml.")],
    out: Annotated[str | None, typer.Option("--out", help="Overrides `out` of the file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole loop that a YAML file describes, or continue it."""
    from coevo_ray.config import load_config

    config = load_config(file, **({} if out is None else {"out": out}))  # a mistake shows before the slow imports
    from coevo_ray import commands

    _show(commands.run(config), as_json)


@app.command()
def ingest(
    sources: Annotated[list[str], typer.Argument(help="Folders or files; local, s3:// or gs://; or sample:digits.")],
    out: Out,
    format: Annotated[
        str, typer.Option(help="images, parquet, huggingface or webdataset; auto looks at the files.")
    ] = "auto",
    image_column: Annotated[
        str | None, typer.Option(help="Parquet column of image bytes, or extension in tars. [image; in tars any]")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Make a pool of texts: Parquet column, or extension in tars (txt).")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Parquet column or .json field of labels. [label; in tars .cls first]")
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(help="Parquet column or .json field of your own ids. [file:row; in tars the name]")
    ] = None,
    key_prefix: Annotated[str | None, typer.Option(help="Put before every key of these sources.")] = None,
    feature_column: Annotated[
        list[str] | None, typer.Option(help="Parquet column of vectors to keep in the pool; may be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Put all rows into train or test.")] = None,
    test_fraction: Annotated[float | None, typer.Option(help="Share of rows to hold out. [0.2]")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes; other labels are rejected.")] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Scale images with a longer side above so many pixels down to it.")
    ] = None,
    reject_duplicates: Annotated[
        str | None, typer.Option(help="key, or content: also reject equal bytes or texts. [key]")
    ] = None,
    max_reject_fraction: Annotated[
        float | None, typer.Option(help="End the job when more rows than this are rejected. [0.05]")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the finished pool at --out; its settings need not be repeated.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a pool from images or texts: row_ids, splits, rejects. Or append to one.

    Formats: image folders (class sub-folders give labels), Parquet, Parquet of Hugging Face datasets (split and class
    names are understood), WebDataset tars. What stands in square brackets is used when an option is not given.
    """
    from coevo_ray import commands

    columns = _given(
        image_column=image_column,
        text_column=text_column,
        label_column=label_column,  # only a column that was named must be there
        key_column=key_column,
        key_prefix=key_prefix,
        feature_columns=feature_column or None,
        split=split,
    )
    settings = _given(
        test_fraction=test_fraction,
        classes=classes,
        max_side=max_side,
        reject_duplicates=reject_duplicates,
        max_reject_fraction=max_reject_fraction,
    )
    settings["sources"] = [{"uri": uri, "format": format, **columns} for uri in sources]
    pool = commands.ingest(settings, out, append=append)
    _show({"pool": str(pool.location), **pool.manifest.summary}, as_json)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def encode(
    pool: PoolPath,
    prior: Annotated[list[str], typer.Option("--prior", help="scheme:model[@pixels]; give it once per participant.")],
    out: Out,
    shared: Annotated[str, typer.Option(help="Shared set: share below 1, rows, or a pool's folder.")] = "0.1",
    part: Annotated[str | None, typer.Option(help="WHICH/PARTS from 0: encode one part of the pool alone.")] = None,
    dim: Annotated[int, typer.Option(help="Dimension of the targets.")] = 128,
    weight: Annotated[list[float] | None, typer.Option(help="Share of the pool, once for each --prior.")] = None,
    reference: Annotated[str | None, typer.Option(help="Reference prior; default: lowest uniformity.")] = None,
    alignment: Annotated[str, typer.Option(help="ridge, procrustes or none.")] = "ridge",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    compile_priors: Annotated[bool, typer.Option("--compile", help="Compile the priors; for long jobs.")] = False,
    gpus: Annotated[float, typer.Option(help="GPUs for each actor.")] = 0,
    cpus: Annotated[float, typer.Option(help="CPUs for each actor; it also sets its threads.")] = 0.5,
    actors: Annotated[int | None, typer.Option(help="Actors for each prior; default: all there is room for.")] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows of a forward pass.")] = 64,
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a shard, the unit of resume.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of projection, shared set and assignment.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Encode disjoint parts of a pool with prior models and align them into targets.

    With one --prior and a pool as --shared, or with --part, OUT is this participant's contribution, for `merge`.
    """
    from coevo_ray import commands
    from coevo_ray.config import EncodeConfig, make_config

    priors = [_prior(text) for text in prior]
    if weight:
        if len(weight) != len(prior):
            raise UsageError(f"{len(weight)} --weight for {len(prior)} --prior", "give one for each, in their order")
        priors = [{**p, "weight": w} for p, w in zip(priors, weight, strict=True)]
    settings = {
        "priors": priors,
        "dim": dim,
        "shared": _number_or_text(shared),
        "part": _part(part),
        "reference": reference,
        "alignment": alignment,
        "precision": precision,
        "compile": compile_priors,
        "shard_rows": shard_rows,
        "seed": seed,
        "compute": {"gpus": gpus, "cpus": cpus, "actors": actors, "batch_rows": batch_rows},
    }
    config = make_config(EncodeConfig, settings, "encode")
    made = commands.contribute(config, pool, out) if config.alone else commands.encode(config, pool, out)
    _show({made.manifest.kind: str(made.location), **made.manifest.summary}, as_json)


def _prior(text: str) -> dict[str, Any]:
    name, at, pixels = text.rpartition("@")
    if not at:
        return {"name": text, "input_size": None}
    if not pixels.isdigit():
        raise UsageError(f"--prior {text}: {pixels!r} is not a number of pixels", "write it as scheme:model@64")
    return {"name": name, "input_size": int(pixels)}


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    which, _, parts = text.partition("/")
    if not (which.isdigit() and parts.isdigit()):
        raise UsageError(f"--part {text} is not WHICH/PARTS", "write 0/3, 1/3 and 2/3 for three participants")
    return int(which), int(parts)


@app.command()
def merge(
    contributions: Annotated[list[str], typer.Argument(help="Folders of contributions, or of `encode` with several.")],
    out: Out,
    reference: Annotated[str | None, typer.Option(help="Reference prior; default: lowest uniformity.")] = None,
    alignment: Annotated[str, typer.Option(help="ridge, procrustes or none.")] = "ridge",
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", help="Take a doubled row from the first.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the shared rows that are held out.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Align contributions of several participants into one target table.

    Targets that are there are extended when further contributions follow those that they were made of.
    """
    from coevo_ray import commands

    config = {"reference": reference, "alignment": alignment, "allow_overlap": allow_overlap, "seed": seed}
    targets = commands.merge(contributions, out, config)
    _show({"targets": str(targets.location), **targets.manifest.summary}, as_json)


sae_app = typer.Typer(rich_markup_mode=None)
app.add_typer(sae_app, name="sae")


@sae_app.callback(invoke_without_command=True)
def sae(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Folder of a pool, as ingest made it.")] = None,
    targets: Annotated[str | None, typer.Option(help="Folder of targets, as encode or merge made it.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the result: local path, s3:// or gs://.")] = None,
    latents: Annotated[int | None, typer.Option(help="Number of factors. [512]")] = None,
    k: Annotated[int | None, typer.Option(help="Active factors of a row. [16]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows. [40]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit the sparse autoencoder and score every row; or, with a command, look at factors and carry models."""
    places = {"pool": pool, "targets": targets, "out": out}
    settings = _given(latents=latents, k=k, epochs=epochs)
    if context.invoked_subcommand is not None:
        given = [f"--{name}" for name in [*_given(**places), *settings, *(["json"] if as_json else [])]]
        if given:
            command = context.invoked_subcommand
            raise UsageError(f"{', '.join(given)} before {command}", f"put the options behind it: sae {command} ...")
        return
    missing = [f"--{name}" for name, value in places.items() if value is None]
    if missing:
        raise UsageError(f"sae without {', '.join(missing)}", "give --pool, --targets and --out; see sae --help")
    from coevo_ray import commands

    _show_scores(commands.sae(settings, str(pool), str(targets), str(out)), str(out), as_json)


@sae_app.command("score")
def sae_score(
    features: Annotated[str, typer.Option(help="Folder of targets, or of a pool with vectors.")],
    model: Annotated[str, typer.Option(help="Folder of a model, as sae or sae import made it.")],
    out: Out,
    column: Annotated[str | None, typer.Option(help="Column with the vectors; default: the only one.")] = None,
    rare_quantile: Annotated[float | None, typer.Option(help="Factors up to it are rare. [0.5]")] = None,
    actors: Annotated[int | None, typer.Option(help="Actors that encode side by side. [1]")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs for each of them. [1]")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs for each of them. [0]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score every row of any table with vectors, with a model that is there."""
    from coevo_ray import commands

    compute = {"actors": 1, "cpus": 1, **_given(actors=actors, cpus=cpus, gpus=gpus)}
    config = {**_given(rare_quantile=rare_quantile), "compute": compute}
    _show_scores(commands.sae_score(config, features, model, out, column), out, as_json)


def _show_scores(scores: RowTable, out: str, as_json: bool) -> None:
    from coevo_ray.store.factor_files import find_factors

    _show({"scores": str(scores.location), "table": str(find_factors(out)), **scores.manifest.summary}, as_json)


@sae_app.command("show")
def sae_show(
    folder: Annotated[str, typer.Argument(help="Folder that sae or sae score made, or factors/ of a run.")],
    pool: PoolPath,
    out: Annotated[str, typer.Option("--out", help="The page, an .html file.")] = "factors.html",
    factors: Annotated[str, typer.Option(help="frequent, rare, all, or numbers such as 3,17.")] = "frequent",
    limit: Annotated[int, typer.Option(help="Most factors of a group.")] = 24,
    rows: Annotated[int, typer.Option(help="Most rows of each factor.")] = 12,
    as_json: JsonFlag = False,
) -> None:
    """Write an HTML page with the images or texts that activate chosen factors most."""
    from coevo_ray import commands

    _show(commands.sae_show(folder, pool, out, choose=factors, limit=limit, rows=rows), as_json)


ModelFormat = Annotated[str, typer.Option("--format", help="saelens.")]


@sae_app.command("export")
def sae_export(
    model: Annotated[str, typer.Argument(help="Folder of a model.")],
    out: Out,
    format: ModelFormat = "saelens",
    as_json: JsonFlag = False,
) -> None:
    """Write a model in SAELens' format."""
    from coevo_ray import commands

    _show({"exported": commands.sae_export(model, out, format), "format": format}, as_json)


@sae_app.command("import")
def sae_import(
    source: Annotated[str, typer.Argument(help="Folder with cfg.json and sae_weights.safetensors.")],
    out: Out,
    format: ModelFormat = "saelens",
    as_json: JsonFlag = False,
) -> None:
    """Make a model from one of SAELens, TopK architecture."""
    from coevo_ray import commands

    _show({"model": commands.sae_import(source, out, format), "format": format}, as_json)


@app.command()
def plan(
    rows: Annotated[int, typer.Option(help="Rows of the training split.")],
    policy: Annotated[str, typer.Option(help="full, full_budget, static_random, random, rotation or factors.")],
    keep: Annotated[float, typer.Option(help="Kept share.")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    scores: Annotated[str | None, typer.Option(help="Folder of a score table, for factors and scored.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Simulate which rows a policy would use, without training."""
    from coevo_ray import commands

    _show(commands.plan(rows, policy, keep=keep, epochs=epochs, seed=seed, scores=scores), as_json)


@app.command()
def gate(pool: PoolPath, targets: TargetsPath, out: Out, as_json: JsonFlag = False) -> None:
    """Ask for labels until the gate stops by itself."""
    from coevo_ray import commands

    labels = commands.gate({}, pool, targets, out)
    _show({"labels_table": str(labels.location), **labels.manifest.summary}, as_json)


@app.command()
def train(
    file: Annotated[Path | None, typer.Argument(help="YAML file of a run whose earlier stages are finished.")] = None,
    policy: Annotated[str | None, typer.Option(help="One policy; with FILE instead of those of the file.")] = None,
    objective: Annotated[str | None, typer.Option(help="supervised or targets: train without a FILE.")] = None,
    pool: Annotated[str | None, typer.Option(help="With --objective: folder of the pool.")] = None,
    targets: Annotated[str | None, typer.Option(help="With --objective targets: their folder.")] = None,
    scores: Annotated[str | None, typer.Option(help="With --objective supervised: folder of scores.")] = None,
    out: Annotated[str | None, typer.Option(help="With --objective: folder of the result.")] = None,
    model: Annotated[
        str | None, typer.Option(help="small_cnn, torchvision:NAME, timm:NAME or package.module:function.")
    ] = None,
    stem: Annotated[str | None, typer.Option(help="standard, or small for images of about 32 pixels.")] = None,
    head: Annotated[str | None, typer.Option(help="Of targets: linear or mlp, from features to targets.")] = None,
    augment: Annotated[str | None, typer.Option(help="Supervised: none, shift or shift_flip.")] = None,
    keep: Annotated[float | None, typer.Option(help="Supervised: kept share of an epoch.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Supervised: share that all classes divide.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="onecycle, cosine or constant.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 on the weights; with adamw decoupled.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay per step of averaged weights.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Rows of a global batch.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels of the network input.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32; bfloat16 or (GPU) float16 for autocast.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, order and augmentation.")] = None,
    actors: Annotated[int | None, typer.Option(help="Ray Train workers.")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs for each of them.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs for each of them.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train on each epoch's subset after the earlier stages of a run; or on a pool's labels, or on stored targets."""
    settings: dict[str, Any] = {
        "model": model,
        "stem": stem,
        "optimizer": optimizer,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "ema": ema,
        "epochs": epochs,
        "batch_rows": batch_rows,
        "image_size": image_size,
    }
    settings |= {"learning_rate": learning_rate, "precision": precision, "seed": seed}
    compute = {"actors": actors, "cpus": cpus, "gpus": gpus}
    places = {"pool": pool, "out": out}
    of_targets = {"targets": targets, "head": head}
    of_labels = {"scores": scores, "augment": augment, "keep": keep, "label_smoothing": label_smoothing}
    if objective is None:
        _show(_train_file(file, policy, {**places, **of_targets, **of_labels, **settings, **compute}), as_json)
        return
    chosen = {**settings, "compute": {"cpus": 1, **_named(compute)}}
    if objective == "targets":
        _check_objective(objective, {"FILE": file, "policy": policy, **of_labels}, {**places, "targets": targets})
        from coevo_ray import commands

        summary = commands.train_targets(_named({**chosen, "head": head}), str(pool), str(targets), str(out))
    else:
        _check_objective(objective, {"FILE": file, **of_targets}, places)
        from coevo_ray import commands

        chosen |= {**of_labels, "policies": None if policy is None else [policy], "labels": "pool"}
        del chosen["scores"]
        summary = commands.train_supervised(_named(chosen), str(pool), str(out), scores)
    _show({"model": str(out), **summary}, as_json)


def _train_file(file: Path | None, policy: str | None, others: dict[str, Any]) -> dict[str, Any]:
    if file is None:
        raise UsageError("train was given neither a FILE nor --objective", "give the YAML, or --objective")
    if _named(others):
        raise UsageError(
            f"{_options(_named(others))} with FILE, which has its own settings",
            "edit FILE, or give --objective instead",
        )
    from coevo_ray.config import load_config

    config = load_config(file)  # a mistake shows before the slow imports
    from coevo_ray import commands

    return commands.train(config, policy)


def _check_objective(objective: str, not_with_it: dict[str, Any], places: dict[str, str | None]) -> None:
    if objective not in ("supervised", "targets"):
        raise UsageError(f"unknown objective {objective!r}", "it can be: supervised, targets")
    if _named(not_with_it):
        raise UsageError(f"--objective {objective} with {_options(_named(not_with_it))}", "leave one of them out")
    missing = [name for name, value in places.items() if value is None]
    if missing:
        raise UsageError(f"--objective {objective} without {_options(missing)}", f"give {_options(places)}")


def _options(names: Iterable[str]) -> str:
    return ", ".join(name if name.isupper() else "--" + name.replace("_", "-") for name in names)


def _named(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="YAML file of a finished run.")],
    out: Annotated[str | None, typer.Option("--out", help="Overrides `out` of the file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the summary and the HTML report of a run whose stages are finished."""
    from coevo_ray import commands
    from coevo_ray.config import load_config

    _show(commands.report(load_config(file, **({} if out is None else {"out": out}))), as_json)


@app.command()
def doctor(
    artifact: Annotated[str | None, typer.Option(help="Also verify this artifact's checksums.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check this machine, and optionally an artifact."""
    from coevo_ray import commands

    result = commands.doctor(artifact)
    _show(result, as_json)
    if not result["ok"]:
        raise typer.Exit(1 if artifact is None else 3)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit(0)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _lines(result):
        table.add_row(key, value)
    Console().print(table)


def _lines(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested summary as lines of dotted keys; long lists (curves) are left to `--json` and the report."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _lines(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        if any(isinstance(item, dict) for item in value) and len(value) <= 8:
            return [line for i, item in enumerate(value) for line in _lines(item, f"{prefix}[{i}]")]
        return [(prefix, ", ".join(str(v) for v in value[:8]))] if len(value) <= 8 else []
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else str(value))]


def _fail(error: CoevoError) -> NoReturn:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {error.cause}", markup=False, style="bold red")
    console.print(f"remedy: {error.remedy}", markup=False)
    _end(error.exit_code)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(
        f"stopped by {signal.Signals(number).name}", "run the same command again: finished parts are kept"
    )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command and exits with a documented code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(args=arguments, standalone_mode=False)
    except CoevoError as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail(StoppedError("stopped by Ctrl-C", "run the same command again: finished parts are kept"))
    except OSError as error:
        if error.errno is None:
            raise
        _fail(StoppedError(f"{error}", "mend the store, then run the same command again: finished parts are kept"))
    except Exception as error:  # usage errors of whichever click typer brings; all others go on
        show: Callable[[], None] | None = getattr(error, "show", None)
        if show is None or not hasattr(error, "exit_code"):
            raise
        show()
        _end(2)
    _end(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
