"""Gathers a run's figures from its artifacts' manifests and writes `summary.json` and `report.html`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import numpy as np
import yaml

from coevo_ray._version import __version__
from coevo_ray.config import RunConfig, SettingsLike, as_run_config
from coevo_ray.core.json import JsonObject
from coevo_ray.pipelines.merge.alone import beside_priors
from coevo_ray.pool.pool import Pool
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
from coevo_ray.reporting.tiles import showing_of, tiles_of
from coevo_ray.reporting.write import render_report
from coevo_ray.store.artifact import Artifact, begin, begun_config, finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.json_text import object_of
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, Manifest, load_manifest
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing
from coevo_ray.training.supervised.train import looks_at_evidence

Summary = JsonObject
_DOUBTED_SHOWN = 24
# Later settings of sources, at the values that leave things as they were: runs that were made before them go on.
_LATER_SOURCE = {"folders": "auto", "vector_column": None}


def report(config: SettingsLike[RunConfig]) -> Artifact:
    """Writes the summary and the HTML report of a run whose stages are finished.

    Args:
        config: the run: its settings, their content, or its YAML file.

    Returns:
        The run; its summary is the content of `summary.json`.

    Raises:
        InputError: a stage is not finished.
        UsageError: settings are wrong, or the report was made with others.
        StoppedError: the store refused.
    """
    settings = as_run_config(config)
    return write_report(settings, Location.parse(settings.out))


def write_report(config: RunConfig, out: Location) -> Artifact:
    """Writes a run's summary and report, or takes those that are there.

    Args:
        config: the run's configuration.
        out: the run's folder, with finished stages.

    Returns:
        The run; its summary is the content of `summary.json`.

    Raises:
        InputError: a stage is not finished.
        UsageError: the report was made with another configuration.
        StoppedError: the store refused.
    """
    stages = _stages(config, out)
    inputs = {name: manifest.identity for name, manifest in stages.items()}
    content = _content(config, out)
    with writing(out):
        done = begin(out, "run", content, inputs)
        if done is not None:
            file = out.child("summary.json")
            return Artifact(out, done, object_of(file.read_json(), file))
        summary = summarise(config, stages, out)
        html = render_report(report_data(config, stages, summary, out))
        files = [
            write_blob(out, "report.html", html.encode()),
            write_blob(out, "summary.json", (json.dumps(summary, indent=2) + "\n").encode()),
        ]
        return Artifact(out, finish(out, "run", content, inputs, files, {"seconds": summary["seconds"]}), summary)


def unfinished(config: RunConfig, out: Location) -> list[Location]:
    """The folders of a run whose artifact is not finished, its own among them."""
    folders = [out, *(location for location, _ in _places(config, out).values())]
    return [folder for folder in folders if not folder.child(MANIFEST).is_file()]


def is_finished(config: RunConfig, out: Location) -> bool:
    """True if the report and every stage of a run are finished, with whatever settings."""
    return not unfinished(config, out)


def _content(config: RunConfig, out: Location) -> JsonObject:
    """The settings that shape results; of evidence, as it was begun."""
    exclude: Any = {
        "out": True,
        **{stage: {"compute"} for stage in ("pool", "encode", "sae", "gate", "evidence", "train")},
    }
    content: JsonObject = config.model_dump(mode="json", exclude=exclude)
    for source in content["pool"]["sources"]:
        for name, usual in _LATER_SOURCE.items():
            if source[name] == usual:
                del source[name]
    if config.about is None:  # runs that were made before it was there go on
        del content["about"]
    content["encode"] = config.encode.content()
    if config.evidence is not None:
        begun = begun_config(RunLayout.of(out).evidence) or (begun_config(out) or {}).get("evidence")
        content["evidence"] = config.evidence.settled(begun).content()
    if config.train is not None:
        # By its path: which network that was is in the manifests of the trainings.
        init = {} if config.train.init is None else {"init": config.train.init}
        content["train"] = {**config.train.content(), **init}
    return content


def _stages(config: RunConfig, out: Location) -> dict[str, Manifest]:
    return {name: load_manifest(location, kind) for name, (location, kind) in _places(config, out).items()}


def _places(config: RunConfig, out: Location) -> dict[str, tuple[Location, str]]:
    """Folder and kind of each stage's artifact."""
    folders = RunLayout.of(out)
    places = {
        "pool": (folders.pool, "pool"),
        "encode": (folders.targets, "targets"),
        "sae": (folders.factors.model, "sae"),
        "codes": (folders.factors.codes, "codes"),
        "scores": (folders.factors.scores, "scores"),
    }
    if config.gate:
        places["gate"] = (folders.gate, "labels")
        places["graph"] = (folders.graph, "graph")
    if config.train:
        if config.evidence and looks_at_evidence(config.train):
            places["evidence"] = (folders.evidence, "evidence")
        places |= {f"train.{p}": (folders.training(p), "model") for p in config.train.policies}
    return places


def _pick(manifest: Manifest, *names: str) -> Summary:
    return {name: manifest.summary[name] for name in names}


def summarise(config: RunConfig, stages: dict[str, Manifest], out: Location) -> Summary:
    """Content of `summary.json`; figures come from the manifests, so that a repeated run gives the same."""
    encode = stages["encode"].summary
    # Participants that ran side by side all state the seconds of their wave.
    encode_seconds = encode["seconds"] + sum(p["seconds"] / p["side_by_side"] for p in encode["priors"])
    prior_names = ("name", "uniformity", "alignment_r2", "rows", "rejected", "rows_per_s", "reference", "bytes_to_send")
    summary: Summary = {
        "title": config.title,
        "version": __version__,
        "pool": _pick(
            stages["pool"], "rows", "train_rows", "test_rows", "classes", "rejected", "reject_reasons", "seconds"
        ),
        "encode": {
            **_pick(stages["encode"], "reference", "dim", "shared_rows", "rejected", "warnings"),
            **({"verdict": encode["verdict"]} if "verdict" in encode else {}),
            **_beside_priors(config, out),
            "priors": [{name: p[name] for name in prior_names} for p in encode["priors"]],
            "seconds": round(encode_seconds, 3),
        },
        "sae": {
            **_pick(stages["sae"], "explained_variance", "dead_fraction", "latents", "k"),
            "seconds": round(sum(stages[name].summary["seconds"] for name in ("sae", "codes", "scores")), 3),
        },
    }
    if config.gate:
        names: tuple[str, ...] = (
            *("labels", "label_fraction", "rounds", "stopped_by"),
            *("accuracy", "random_accuracy", "full_accuracy"),
        )
        if stages["gate"].summary.get("forecast") is not None:  # gates of version 0.1.0 made none
            names = (*names, "forecast")
        summary["gate"] = _pick(stages["gate"], *names, "seconds")
    if "evidence" in stages:
        found: tuple[str, ...] = ("rows", "doubted_rows", "mistake_rates", "level", "mistakes")
        there = stages["evidence"].summary
        found = (*found, *(name for name in ("judged", "fewest_rows") if name in there), "copied_rows", "copy_groups")
        summary["evidence"] = {name: there.get(name) for name in (*found, "most_doubted", "seconds")}
    if config.train:
        trained = {policy: stages[f"train.{policy}"] for policy in config.train.policies}
        figures = ("accuracy", "seconds", "samples", "epochs", "wall_seconds")
        summary["train"] = {policy: _pick(manifest, *figures) for policy, manifest in trained.items()}
    seconds = [
        part["seconds"] for name, part in summary.items() if name in ("pool", "encode", "sae", "gate", "evidence")
    ]
    seconds += [part["wall_seconds"] for part in summary.get("train", {}).values()]
    return {**summary, "report": str(out.child("report.html")), "seconds": round(sum(seconds), 3)}


def _beside_priors(config: RunConfig, out: Location) -> Summary:
    """`beside_priors`, where targets can be compared with each prior alone."""
    folders = RunLayout.of(out)
    found = beside_priors(folders.targets, folders.pool, folders.contributions(len(config.encode.priors)))
    return {} if found is None else {"beside_priors": found}


def report_data(config: RunConfig, stages: dict[str, Manifest], summary: Summary, out: Location) -> ReportData:
    """Numbers and pictures of the HTML report."""
    return ReportData(
        title=config.title,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        summary=summary,
        config_yaml=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        encode=_encode_plots(stages["encode"]),
        sae=SaePlots(
            np.array(stages["scores"].summary["frequencies"]),
            [(n, ev) for n, ev in stages["sae"].summary["history"]],
        ),
        gate=_gate_plots(stages["gate"]) if config.gate else None,
        evidence=_evidence_plots(stages, RunLayout.of(out)) if "evidence" in stages else None,
        train=_train_plots(config, stages) if config.train else None,
        notes=[*([config.about] if config.about else []), *summary["encode"]["warnings"]],
        versions={name: version(name) for name in ("ray", "torch", "torchvision", "numpy", "pyarrow", "faiss-cpu")},
    )


def _encode_plots(manifest: Manifest) -> EncodePlots:
    names = ("name", "uniformity", "alignment_r2", "rows", "rows_per_s", "reference")
    return EncodePlots([PriorPlot(**{name: prior[name] for name in names}) for prior in manifest.summary["priors"]])


def _gate_plots(manifest: Manifest) -> GatePlots:
    curve = manifest.summary["curve"]
    return GatePlots(
        gate=[(point["labels"], point["accuracy"]) for point in curve],
        random=[(labels, accuracy) for labels, accuracy in manifest.summary["random_curve"]],
        full_accuracy=manifest.summary["full_accuracy"],
        mean_gain=[(i, point["mean_gain"]) for i, point in enumerate(curve)],
        stopped_by=manifest.summary["stopped_by"] or "",
    )


def _evidence_plots(stages: dict[str, Manifest], folders: RunLayout) -> EvidencePlots:
    """The most doubted rows with their pictures or texts."""
    doubted = stages["evidence"].summary.get("most_doubted", [])[:_DOUBTED_SHOWN]
    if not doubted:
        return EvidencePlots()
    pool, names = Pool(folders.pool), stages["pool"].summary.get("class_names") or []
    rows = np.sort(np.array([row["row_id"] for row in doubted], dtype=np.int64))
    tiles = dict(tiles_of(pool, rows))
    labels = RowTable(folders.evidence).read(rows, ["label"]).column("label").to_pylist()
    label_of = dict(zip(rows.tolist(), labels, strict=True))

    def named(label: int) -> str:
        return str(names[label]) if label < len(names) else str(label)

    shown = [(row["row_id"], row["likely"]) for row in doubted]
    rows_shown = [DoubtedRow(tiles[row], named(label_of[row]), named(likely)) for row, likely in shown]
    return EvidencePlots(rows_shown, showing_of(pool.modality).as_grid)


def _train_plots(config: RunConfig, stages: dict[str, Manifest]) -> TrainPlots:
    assert config.train is not None  # asked for only with a training stage
    plots = []
    for policy in config.train.policies:
        figures = stages[f"train.{policy}"].summary
        history = figures["history"]
        plots.append(
            PolicyPlot(
                name=policy,
                accuracy_by_samples=[(h["samples"], h["accuracy"]) for h in history],
                usage_histogram={int(k): v for k, v in figures["usage"].items()},
                accuracy=figures["accuracy"],
                seconds=figures["seconds"],
                samples=figures["samples"],
                kept_share=history[0]["samples"] / figures["candidates"],
            )
        )
    return TrainPlots(plots)
