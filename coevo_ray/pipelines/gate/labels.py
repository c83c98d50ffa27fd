"""The labels of a gate for a training: those of a finished or exported one, or of an open one so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from coevo_ray.pipelines.gate.opened import find_gate
from coevo_ray.pipelines.gate.opening import open_gate
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.store.digests import digest_array
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import MANIFEST, Manifest
from coevo_ray.store.opening import locate, open_table
from coevo_ray.training.label_tables import LabelTable


@dataclass(frozen=True)
class GateLabels:
    """The labels of an open gate so far, as a table that is in memory alone.

    Attributes:
        location: folder of the gate.
        manifest: of kind `labels`; its identity changes with every label.
        rows: `row_id int64`, `label int64`, by row.
    """

    location: Location
    manifest: Manifest
    rows: pa.Table

    def scan(self, columns: list[str]) -> pa.Table:
        """Returns some columns of all rows in row_id order."""
        return self.rows.select(columns)


def gate_labels(what: GateSession | ArtifactLike) -> LabelTable:
    """Opens the labels of a gate.

    Args:
        what: a label table, or its folder; a gate, or its folder, or that of a run. Of a finished gate it is the table,
            of any other the labels so far.

    Raises:
        InputError: there are neither labels nor a gate.
    """
    location = locate(what, "labels")
    if not location.child(MANIFEST).is_file() and find_gate(location) is not None:
        return _labels_so_far(open_gate(what))
    return open_table(location if isinstance(what, GateSession) else what, "labels")


def _labels_so_far(gate: GateSession) -> GateLabels:
    labelled = gate.service.labelled()
    order = np.argsort(labelled["row_id"])
    row_ids, labels = (labelled[name][order].astype(np.int64) for name in ("row_id", "label"))
    content = {
        "gate": gate.settings.content(),
        "classes": list(gate.classes),
        "labels": [digest_array(row_ids), digest_array(labels)],
    }
    manifest = Manifest("labels", content, gate.inputs, len(row_ids), (), {"labels": len(row_ids)})
    return GateLabels(gate.location, manifest, pa.table({"row_id": row_ids, "label": labels}))
