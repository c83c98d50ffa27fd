"""The card of the targets: their origin, quality and cost. JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from coevo_ray.core.alignment.alignment import Alignment, few_rows_warning
from coevo_ray.core.alignment.verdict import Verdict, judge_consensus
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.merge.check import Group, prior_label
from coevo_ray.pipelines.merge.latent import Quality
from coevo_ray.store.consensus_files import StoredConsensus
from coevo_ray.store.dataset_card import CARD, hub_head
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest

# Equal vectors have a uniformity of 0; -0.05 is a mean squared distance of about 0.025 between unit vectors.
_COLLAPSED = -0.05
# By hand: on CIFAR-10 and 40 classes of Tiny-ImageNet R^2 was 0.2, and mixed targets of the published form were worse
# than those of one prior.
_MEET = 0.3
_FROM_CONTRIBUTION = (
    "name",
    "rows",
    "encoded_rows",
    "rejected",
    "rows_per_s",
    "seconds",
    "side_by_side",
    "startup_seconds",
    "stage_seconds",
    "waiting_share",
    "bytes_read",
    "bytes_moved",
    "bytes_to_send",
    "prior",
    "precision",
    "projection_seed",
)
_OF_TOKENS = ("tokens_per_s", "cut_share")  # of priors that take tokens
# Left out of the card: they differ from run to run.
_TIMES = (
    "seconds",
    "side_by_side",
    "rows_per_s",
    "tokens_per_s",
    "startup_seconds",
    "stage_seconds",
    "waiting_share",
    "bytes_read",
    "bytes_moved",
)


class Measured(Protocol):
    """The measurements of a participant that the card states."""

    @property
    def name(self) -> str:
        """Name of its prior."""
        ...

    @property
    def table(self) -> Contribution:
        """Its contribution."""
        ...

    @property
    def shared_ids(self) -> Int64Array:
        """int64[s], encoded rows of the shared set."""
        ...

    @property
    def uniformity(self) -> float:
        """V_k (CoOpt, arXiv 2505.14117)."""
        ...


def describe_targets(
    participants: Sequence[Measured], alignments: Sequence[Alignment], reference: int, groups: Sequence[Group]
) -> JsonObject:
    """The summary of the targets, without figures that are known only after writing."""
    first = participants[0].table.manifest
    priors = [
        _describe_prior(p, a, i == reference) for i, (p, a) in enumerate(zip(participants, alignments, strict=True))
    ]
    return {
        "reference": participants[reference].name,
        "dim": int(first.config["dim"]),
        "shared_rows": len(participants[reference].shared_ids),
        "projection_seed": int(first.config["seed"]),
        "pools": [{"identity": g.pool, "first_row_id": g.first_row_id, "rows": g.rows} for g in groups],
        "priors": priors,
        "warnings": _warnings(participants, alignments, reference, groups),
        **{name: sum(p[name] for p in priors) for name in ("bytes_read", "bytes_moved", "bytes_to_send")},
    }


def describe_consensus(
    tables: Sequence[Contribution], fitted: StoredConsensus, quality: Quality | None, groups: Sequence[Group]
) -> JsonObject:
    """The summary of targets in a latent, without figures that are known only after writing."""
    names, maps = [prior_label(t) for t in tables], fitted.consensus.priors
    verdict = _judge(tables, fitted, quality)
    dim, first = maps[0].matrix.shape[1], tables[0].manifest
    priors: list[JsonObject] = [
        {
            **_figures(t.manifest.summary, without="projection_seed"),
            "name": name,
            "components": t.manifest.summary["components"],
            "explained_variance": t.manifest.summary["explained_variance"],
            "alignment_r2": round(float(prior.r2), 6),
            "alignment_ridge": prior.ridge,
            "alignment_rows": prior.rows,
            "weight": round(float(prior.weight), 6),
            "uniformity": None,
            "reference": False,
        }
        for name, t, prior in zip(names, tables, maps, strict=True)
    ]
    lacking = f"{fitted.lacking} shared rows are not in every contribution and were left out: see the rejects"
    poor = verdict.kind in ("share_more", "take_one", "leave_out")
    return {
        "consensus": "latent",
        "reference": None,
        "dim": dim,
        "shared_rows": fitted.shared_rows,
        "latent_of": list(fitted.founders),
        "contributions": len(tables),
        "projection_seed": int(first.config["seed"]),
        "space": fitted.space,
        **({} if quality is None else _measures(quality)),
        "verdict": {"kind": verdict.kind, "priors": list(verdict.priors), "text": verdict.text},
        "pools": [{"identity": g.pool, "first_row_id": g.first_row_id, "rows": g.rows} for g in groups],
        "priors": priors,
        "warnings": [
            *([verdict.text] if poor else []),
            *([lacking] if fitted.lacking else []),
            *_missing([t.manifest for t in tables], groups),
        ],
        **{name: sum(p[name] for p in priors) for name in ("bytes_read", "bytes_moved", "bytes_to_send")},
    }


def _judge(tables: Sequence[Contribution], fitted: StoredConsensus, quality: Quality | None) -> Verdict:
    if quality is None:
        text = "in the space of existing targets: their card has its verdict"
        return Verdict("as_there", (), text)
    names = [prior_label(table) for table in tables]
    apart = [t for t in tables if t.manifest.summary["rows"] > 0 and t.manifest.summary.get("coverage", 1) == 1]
    return judge_consensus(
        names,
        fitted.consensus.priors,
        fitted.shared_rows,
        quality.agreement,
        quality.recognition,
        side_by_side=len(apart) > 1,
    )


def _measures(quality: Quality) -> JsonObject:
    return {
        "agreement": np.round(quality.agreement, 4).tolist(),
        "agreement_chance": round(quality.chance, 4),
        "prior_recognition": round(quality.recognition, 4),
    }


def _figures(made: JsonObject, without: str = "") -> JsonObject:
    """The figures of a contribution's summary that targets repeat."""
    names = [*(name for name in _FROM_CONTRIBUTION if name != without), *(name for name in _OF_TOKENS if name in made)]
    return {name: made[name] for name in names}


def _describe_prior(participant: Measured, alignment: Alignment, is_reference: bool) -> JsonObject:
    made = participant.table.manifest.summary
    return {
        **_figures(made),
        "name": participant.name,
        "uniformity": round(participant.uniformity, 6),
        "alignment_r2": round(float(alignment.r2), 6),
        "alignment_ridge": float(alignment.ridge),
        "alignment_rows": alignment.rows,
        "reference": is_reference,
    }


def _warnings(
    participants: Sequence[Measured], alignments: Sequence[Alignment], reference: int, groups: Sequence[Group]
) -> list[str]:
    dim = int(participants[0].table.manifest.config["dim"])
    rows = [a.rows for i, a in enumerate(alignments) if i != reference]
    few = few_rows_warning(min(rows, default=len(participants[reference].shared_ids)), dim)
    collapsed = [
        f"{p.name} gives nearly the same features for all rows (uniformity {p.uniformity:.3f}, 0 is constant): "
        "its targets say little; check its weights and preprocessing, or leave it out"
        for p in participants
        if p.uniformity > _COLLAPSED
    ]
    apart = [
        f"{p.name} follows the reference {participants[reference].name} with R^2 {a.r2:.2f} on held-out shared rows: "
        "targets of several priors are then worth less than one prior's; encode in a latent (projection: components), "
        "or with one prior"
        for i, (p, a) in enumerate(zip(participants, alignments, strict=True))
        if i != reference and a.r2 < _MEET and p.table.manifest.summary["rows"] > 0
    ]
    missing = _missing([p.table.manifest for p in participants], groups)
    return [*([few] if few else []), *collapsed, *apart, *missing]


def _missing(manifests: Sequence[Manifest], groups: Sequence[Group]) -> list[str]:
    found = []
    for group in groups:
        configs = [manifests[k].config for k in group.contributions]
        parts = len(configs[0]["weights"])
        lacking = sorted(set(range(parts)) - {c["index"] for c in configs})
        if lacking and all(c["weights"] == configs[0]["weights"] for c in configs):
            found.append(
                f"parts {lacking} of {parts} of pool {group.pool[:12]} are missing: their rows have no target until "
                "their contributions are merged as well"
            )
    return found


def card_of(summary: JsonObject) -> JsonObject:
    """The card of targets with this summary."""
    card = {k: v for k, v in summary.items() if k not in _TIMES}
    card["priors"] = [{k: v for k, v in prior.items() if k not in _TIMES} for prior in summary.get("priors", ())]
    return card


def write_card(location: Location, manifest: Manifest) -> None:
    """Writes `card.json` and `README.md` beside finished targets, where they are not there as they should be.

    They come from the manifest and after it: until then those of former targets stay. Those of version 0.1.0 are among
    the targets' own files and stay as they are.

    Raises:
        StoppedError: the store refused.
    """
    card, own = card_of(manifest.summary), {f.path for f in manifest.files}
    pages = {"card.json": json.dumps(card, indent=2) + "\n", CARD: hub_head(manifest, "Targets") + _markdown(card)}
    for name, content in pages.items():
        file = location.child(name)
        if name not in own and (not file.is_file() or file.read_bytes() != content.encode()):
            file.write_bytes(content.encode())


def _markdown(card: JsonObject) -> str:
    lines = [*_columns_part(card), *_priors_part(card), *_making_part(card)]
    return "\n".join(lines) + "\n"


def _columns_part(card: JsonObject) -> list[str]:
    return [
        "# Targets",
        "",
        f"{card['rows']:,} rows; each is a unit vector of {card['dim']} float16 values that a public prior model gave "
        "its sample (CoOpt, arXiv 2505.14117), brought to one space.",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
        "| `row_id` | int64 | row of the pool; the only key to join by |",
        f"| `target` | fixed_size_list<float16>[{card['dim']}] | aligned target |",
        "| `prior` | uint8 | which of the priors below, from 0 |",
        *(["| `encoders` | uint8 | priors behind the target |"] if "verdict" in card else []),
        "",
        "```python",
        "import coevo_ray",
        "",
        'dataset = coevo_ray.load_targets("this folder", pool="the pool").dataset()  # a Ray Dataset',
        "```",
        "",
    ]


def _priors_part(card: JsonObject) -> list[str]:
    priors = card["priors"]
    made = _latent_rows(priors) if "verdict" in card else _reference_rows(priors)
    return [
        "## Priors",
        "",
        *made,
        "",
        *(f"- {prior['name']}: {prior['prior']['preprocessing']}" for prior in priors),
        "",
    ]


def _latent_rows(priors: list[JsonObject]) -> list[str]:
    lines = ["| | prior | rows | components | R^2 | weight | licence | weights |", "|---|---|---|---|---|---|---|---|"]
    for i, prior in enumerate(priors):
        lines.append(
            f"| {i} | {prior['name']} | {prior['rows']:,} | {prior['components']} | {prior['alignment_r2']:.3f} | "
            f"{prior['weight']:.2f} | {prior['prior']['licence']} | `{prior['prior']['weights'][:16]}` |"
        )
    note = (
        "R^2: of the map to the latent, on shared rows held out of both fits. Weight: R^2 / (1 - R^2), in a row's mean."
    )
    return [*lines, "", note]


def _reference_rows(priors: list[JsonObject]) -> list[str]:
    lines = ["| | prior | rows | uniformity | alignment R^2 | licence | weights |", "|---|---|---|---|---|---|---|"]
    for i, prior in enumerate(priors):
        r2 = "reference" if prior["reference"] else f"{prior['alignment_r2']:.3f}"
        lines.append(
            f"| {i} | {prior['name']} | {prior['rows']:,} | {prior['uniformity']:.3f} | {r2} | "
            f"{prior['prior']['licence']} | `{prior['prior']['weights'][:16]}` |"
        )
    note = "Uniformity: lower is more even over the sphere, 0 is constant. R^2: on shared rows held out of the fit."
    return [*lines, "", note]


def _making_part(card: JsonObject) -> list[str]:
    rows = max(1, card["rows"])
    return [
        "## Making",
        "",
        *([f"- verdict: {card['verdict']['text']}"] if "verdict" in card else []),
        f"- shared set: {card['shared_rows']:,} rows; seed of projection and assignment: {card['projection_seed']}",
        f"- storage: {card['bytes_stored']:,} bytes, {card['bytes_stored'] / rows:.0f} for each row",
        f"- sent by participants: {card['bytes_to_send']:,} bytes",
        f"- rejected rows: {card['rejected']:,}",
        *(f"- pool {p['identity']}: {p['rows']:,} rows, from row_id {p['first_row_id']}" for p in card["pools"]),
        *(f"- warning: {warning}" for warning in card["warnings"]),
    ]
