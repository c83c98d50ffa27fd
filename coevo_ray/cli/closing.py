"""The last lines of a command, for people: what was made, whether it is good, what comes next. All figures are in
`--json` and in the artifact's manifest.
"""

from __future__ import annotations

from coevo_ray.core.json import JsonObject

_POLICIES_SHOWN = 6


def of_pool(made: JsonObject) -> list[str]:
    """After ingest."""
    classes = f" of {_number(made['classes'], 'class')}" if made.get("classes") else " without labels"
    held, gone = made["test_rows"], made["rejected"]
    told = f"{made['train_rows']:,} to train on, {held:,} held out, {gone:,} rejected"
    return [
        f"pool: {made['pool']}, {_number(made['rows'], made['modality'])}{classes}; {told}",
        f"next: coevo-ray encode --pool {made['pool']} --prior PRIOR --out FOLDER (a prior: doctor {made['pool']})",
    ]


def _number(value: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{value:,} {noun if value == 1 else plural}"


def of_targets(pool: str, made: JsonObject) -> list[str]:
    """After encode or merge; of a contribution alone there is less to say."""
    if "contribution" in made:
        rate = made.get("rows_per_s")
        return [
            f"contribution: {made['contribution']}, {made['rows']:,} rows" + (f", {rate:,.0f} rows/s" if rate else ""),
            f"next: coevo-ray merge {made['contribution']} OTHERS --out FOLDER",
        ]
    gone = made.get("rejected") or 0
    without = f"; {_number(gone, 'row')} without a target, see its rejects*.parquet" if gone else ""
    priors = _number(len(made["priors"]), "prior")
    said = [f"targets: {made['targets']}, {_number(made['dim'], 'dimension')} of {priors}{without}"]
    verdict = (made.get("verdict") or {}).get("text")
    said += [verdict] if verdict else []
    ahead = f"--pool {pool or 'POOL'} --targets {made['targets']} --out FOLDER"
    return [*said, f"next: coevo-ray gate {ahead}; or, with labels, coevo-ray probe"]


def of_factors(made: JsonObject, model: JsonObject | None) -> list[str]:
    """After sae."""
    told = ""
    if model is not None:
        explained, dead = model["explained_variance"], model["dead_fraction"]
        told = f": {model['latents']} factors explain {explained:.0%} of the variance, {dead:.0%} are dead"
    return [
        f"scores: {made['scores']}{told}",
        "next: coevo-ray plan --scores "
        f"{made['scores']} --pool POOL shows what a policy would use; coevo-ray sae show what a factor means",
    ]


def of_labels(made: JsonObject) -> list[str]:
    """After a gate that stopped."""
    place = made["labels_table"]
    said = [f"labels: {place}, {_labels(made)}"]
    said += _worth(made)
    return [*said, f"next: coevo-ray gate report --gate {place}"]


def of_requests(gate: str, made: JsonObject) -> list[str]:
    """After gate next."""
    if made["stopped_by"] is not None and not made["requested"]:
        return [
            f"the gate has stopped: {made['stopped_by']}",
            f"next: coevo-ray gate report --gate {gate}; coevo-ray gate export --gate {gate} --out FILE",
        ]
    where = made["where"] or made["file"]
    place = f" at {where}" if where else "; --out FILE.csv writes them"
    said = [f"round {made['round']}: {made['requested']:,} rows to label{place}"]
    blocking = made["blocking"]
    said += [f"waits for {', '.join(blocking[:3])}" + (", ..." if len(blocking) > 3 else "")] if blocking else []
    how = f"coevo-ray gate submit --gate {gate}" + ("" if made["where"] else " --file ANSWERS.csv")
    return [*said, f"next: label them, then {how}"]


def of_model(made: JsonObject) -> list[str]:
    """After a training."""
    accuracy = made.get("accuracy")
    told = f": accuracy {accuracy:.1%} on held-out rows" if isinstance(accuracy, float) else ""
    rows = made.get("samples")
    seen = f", {rows:,} rows seen" if isinstance(rows, int) else ""
    return [f"model: {made['model']}{told}{seen}"]


def of_run(made: JsonObject) -> list[str]:
    """After run, demo or report."""
    said = _mixed(made)
    gate = made.get("gate")
    if gate:
        said.append("; ".join([f"gate: {_labels(gate)}", *_worth(gate)]))
    trained = made.get("train") or {}
    shown = [
        f"{policy} {each['accuracy']:.1%} ({each['samples']:,} rows)"
        for policy, each in list(trained.items())[:_POLICIES_SHOWN]
        if isinstance(each.get("accuracy"), float)
    ]
    if shown:
        said.append(f"trained: {', '.join(shown)}")
    return [*said, f"report: {made['report']}"]


def _mixed(made: JsonObject) -> list[str]:
    """The targets' accuracy beside that of the best prior alone, where it was measured."""
    found = (made.get("encode") or {}).get("beside_priors")
    if not found:
        return []
    best, accuracy = max(found["alone"].items(), key=lambda item: item[1])
    told = f"{found['targets']:.1%} against {accuracy:.1%} of the best prior alone, {best}"
    return [f"targets: held-out accuracy {told}"]


def of_copies(made: JsonObject) -> list[str]:
    """After dedup."""
    told = f"{made['duplicates']:,} of {made['rows']:,} rows in {made['groups']:,} groups"
    return [
        f"copies: {made['duplicates_at']}; {told}, {made['dropped']:,} to drop, {made['leaks']:,} leaks",
        f"next: look at {made['page']}; {made['dropped_file']} names the rows to drop",
    ]


def of_retrieved(made: JsonObject) -> list[str]:
    """After retrieve."""
    copied = f"coevo-ray ingest {made['copied_to']} --append --out POOL" if "copied_to" in made else ""
    return [
        f"retrieved: {made['retrieved']}, {made['chosen']:,} of {made['looked_at']:,} rows examined",
        f"next: {copied or 'label these rows, or take their samples along with --copy-to FOLDER'}",
    ]


def _labels(made: JsonObject) -> str:
    rounds = made["rounds"]
    return (
        f"{made['labels']:,} labels ({made['label_fraction']:.0%} of the rows) in {rounds} "
        f"round{'' if rounds == 1 else 's'}, stopped by {made['stopped_by']}"
    )


def _worth(made: JsonObject) -> list[str]:
    """The gate's accuracy beside the alternatives, where it was measured."""
    if made.get("accuracy") is None:
        return []
    others = [
        f"{made[key]:.1%} of {name}"
        for key, name in (("random_accuracy", "as many random labels"), ("full_accuracy", "all labels"))
        if made.get(key) is not None
    ]
    return [f"held-out accuracy {made['accuracy']:.1%}" + (f" against {' and '.join(others)}" if others else "")]
