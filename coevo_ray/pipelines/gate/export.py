"""The gate's labels as an artifact: one label a row, and beside it every answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.actors.protocols import AnswerColumns, GateCalls, PseudoLabels
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.dataset_card import write_dataset_card
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, Manifest, load_manifest
from coevo_ray.store.writing import writing


def write_labels(
    service: GateCalls, place: Location, config: JsonObject, inputs: dict[str, str], **summary: Any
) -> Manifest:
    """Writes all labels so far, and the answers that they follow from.

    An earlier export of the same gate is replaced; it stays whole until the new one is.

    Args:
        service: the gate's.
        place: folder of kind `labels`: `row_id, label, annotator, round, time, votes, annotators, validation`, by
            row (`validation`: a label that the gate's model did not learn from, so that it can measure models); beside
            it `answers-*.parquet` with `row_id, label, annotator, round, time`, in the order in which they came.
        config, inputs: of the gate.
        summary: figures for the manifest.

    Raises:
        UsageError: the folder holds something else, or labels of another gate.
        StoppedError: the store refused.
    """
    with writing(place, at_once=True):
        before = _earlier(place, "labels", config, inputs)
        labelled, said = service.labelled(), service.answers()
        order = np.argsort(labelled["row_id"])
        table = _table(labelled, order)
        for column in ("votes", "annotators"):
            table = table.append_column(column, pa.array(labelled[column][order].astype(np.int32)))
        table = table.append_column("validation", pa.array(labelled["validation"][order]))
        sink = pa.BufferOutputStream()
        pq.write_table(_table(said, slice(None)), sink)
        # More answers have other names: the earlier export stays till the manifest.
        number = f"{len(said['row_id']):010d}"
        entries = [
            write_table(place, f"labels-{number}.parquet", table),
            write_blob(place, f"answers-{number}.parquet", sink.getvalue().to_pybytes()),
        ]
        made = finish(place, "labels", config, inputs, entries, {"labels": len(table), **summary})
        _drop(place, before, made)
        write_dataset_card(place, made)
        return made


def write_pseudo_labels(place: Location, pseudo: PseudoLabels, config: JsonObject, inputs: dict[str, str]) -> Manifest:
    """Writes pseudo-labels by row: `row_id int64, label int64, confidence float32, source string`.

    `source` is `shared` for the label of a near-duplicate that somebody labelled, with the measured precision of such
    labels as its confidence, and `pseudo` for one that model and neighbours predict.

    Raises:
        UsageError: the folder holds something else.
        StoppedError: the store refused.
    """
    with writing(place, at_once=True):
        before = _earlier(place, "pseudo_labels", config, inputs)
        columns = {"row_id": pseudo["row_id"], "label": pseudo["label"], "confidence": pseudo["confidence"]}
        source = pa.array(np.where(pseudo["shared"], "shared", "pseudo").tolist(), pa.string())
        table = pa.table({**columns, "source": source})
        entry = write_table(place, f"pseudo-{pseudo['answers']:010d}.parquet", table)
        made = finish(
            place, "pseudo_labels", config, inputs, [entry], {"rows": len(table), "shared": int(pseudo["shared"].sum())}
        )
        _drop(place, before, made)
        write_dataset_card(place, made)
        return made


def _earlier(place: Location, kind: str, config: JsonObject, inputs: dict[str, str]) -> Manifest | None:
    if not place.child(MANIFEST).is_file():
        place.check_writable()
        return None
    there = load_manifest(place)
    if there.kind != kind or there.inputs != inputs or there.config != config:
        what = f"{kind} of another gate" if there.kind == kind else f"something else: {there.kind}"
        raise UsageError(f"{place} holds {what}", "choose another output with --out")
    return there


def _drop(place: Location, before: Manifest | None, now: Manifest) -> None:
    kept = {entry.path for entry in now.files}
    for entry in before.files if before is not None else ():
        if entry.path not in kept:
            place.child(entry.path).delete_file()


def _table(columns: AnswerColumns, order: Int64Array | slice) -> pa.Table:
    names = np.array(columns["names"], dtype=object)
    return pa.table(
        {
            "row_id": columns["row_id"][order],
            "label": columns["label"][order],
            "annotator": pa.array(names[columns["annotator"][order]].tolist(), pa.string()),
            "round": columns["round"][order],
            "time": pa.array((columns["time"][order] * 1e6).astype(np.int64), pa.timestamp("us", "UTC")),
        }
    )
