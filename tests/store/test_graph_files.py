"""Graphs, consensus and factor tables that anybody may have written: read, or refused before memory is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from coevo_ray.core.arrays import Arrays
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.near_duplicates import around_leaders
from coevo_ray.core.graph.types import over_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.dedup import nearest_of_group
from coevo_ray.store.artifact import finish
from coevo_ray.store.consensus_files import read_consensus
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.factor_files import load_factors
from coevo_ray.store.graph_files import load_graph, open_graph
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest

ROWS, K = 6, 2


def graph(folder: Path, k: Any = K, rows: Any = None, **changes: Any) -> Location:
    """A graph's folder whose one part, row_ids or k are others."""
    place = Location.parse(folder)
    part: Arrays = {
        "rows": np.arange(ROWS),
        "indices": np.full((ROWS, K), -1, np.int32),
        "similarities": np.full((ROWS, K), -1, np.float32),
    }
    part = {name: changes.get(name, array) for name, array in part.items() if changes.get(name, array) is not None}
    files = [
        write_blob(place, "rows.safetensors", save({"row_ids": np.arange(ROWS) if rows is None else rows})),
        write_blob(place, "part-0.safetensors", changes.get("data") or save(part)),
    ]
    fields = {"method": "exact", "recall": changes.get("recall", 1.0), "parameters": {"k": k}}
    finish(place, "graph", {}, {"targets": "t"}, files, {"rows": ROWS, "fields": changes.get("fields", fields)})
    return place


def test_a_graph_is_read(tmp_path: Path) -> None:
    found, row_ids = load_graph(graph(tmp_path))
    assert found.indices.shape == (ROWS, K) and row_ids.tolist() == list(range(ROWS))


def test_a_large_graph_is_read_a_part_at_a_time(tmp_path: Path) -> None:
    place, random = graph(tmp_path), np.random.default_rng(0)
    order = random.permutation(60)
    files = [write_blob(place, "rows.safetensors", save({"row_ids": np.arange(60) * 3}))]
    for number, rows in enumerate(np.array_split(order, 7)):
        part: Arrays = {"rows": rows, "indices": random.integers(0, 60, (len(rows), K), dtype=np.int32)}
        part["similarities"] = random.random((len(rows), K), dtype=np.float32)
        files.append(write_blob(place, f"part-{number}.safetensors", save(part)))
    fields = {"method": "ivf", "recall": 0.99, "parameters": {"k": K}}
    finish(place, "graph", {}, {}, files, {"rows": 60, "fields": fields})
    whole, row_ids = load_graph(place)
    assert open_graph(place)[0].parts == 1
    for part_bytes, count in ((1, 7), (8 * K * 15, 4)):
        parted, ids = open_graph(place, part_bytes=part_bytes)
        assert parted.parts == count and (parted.rows, parted.k) == (60, K) and np.array_equal(ids, row_ids)
        np.testing.assert_equal(parted.near(order), whole.near(order))
        leader = around_leaders(60, whole.indices[:, 0], np.arange(60))
        for graph_ in (whole, parted):
            assert np.array_equal(copy_groups(graph_, 0.6, 0.0), copy_groups(whole, 0.6, 0.0))
        expected = over_rows(whole, nearest_of_group, leader)
        np.testing.assert_equal(over_rows(parted, nearest_of_group, leader), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 10**12}, "neighbours of a row"),
        ({"k": 10**6}, r"1000000 neighbours of 6 rows in \d+ bytes"),
        ({"k": "2"}, "neighbours of a row"),
        ({"k": True}, "neighbours of a row"),
        ({"fields": []}, "neighbours of a row"),
        ({"recall": "all"}, "a recall of"),
        ({"rows": np.arange(ROWS, dtype=np.int32)}, "without increasing row_ids"),
        ({"rows": np.arange(ROWS)[::-1].copy()}, "without increasing row_ids"),
        ({"rows": np.arange(ROWS + 1)}, r"6 of 7 rows"),
        ({"rows": np.arange(ROWS - 1)}, "rows outside the graph"),
        ({"rows": np.arange(10**6)}, r"of 1000000 rows in \d+ bytes"),
        ({"part": None, "indices": None}, "without rows, indices and similarities"),
        ({"indices": np.zeros((ROWS, K + 1), np.int32)}, "are no neighbours of 6 rows"),
        ({"indices": np.zeros((ROWS, K), np.float32)}, "are no neighbours of 6 rows"),
        ({"indices": np.full((ROWS, K), ROWS, np.int32)}, "names rows outside it"),
        ({"data": b"half" * 100}, "which is damaged"),
        ({"data": (1 << 62).to_bytes(8, "little") + b"{}" * 100}, "which is damaged"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    part_rows = {"indices": changes.pop("indices")} if "indices" in changes else {}
    changes.pop("part", None)
    place = graph(tmp_path, **changes, **part_rows)
    with pytest.raises(InputError, match=message):
        load_graph(place)
    with pytest.raises(InputError, match=message):
        open_graph(place, part_bytes=1)


def test_parts_that_name_rows_outside_are_refused(tmp_path: Path) -> None:
    part = {"indices": np.full((2, K), -1, np.int32), "similarities": np.full((2, K), -1, np.float32)}
    for outside in (np.array([0, ROWS]), np.array([-1, 0])):
        with pytest.raises(InputError, match="rows outside the graph"):
            place = graph(tmp_path / str(outside[0]), data=save({"rows": outside, **part}) + b"", k=1)
            manifest = json.loads((tmp_path / str(outside[0]) / "manifest.json").read_text())
            manifest["summary"]["fields"]["parameters"]["k"] = K
            (tmp_path / str(outside[0]) / "manifest.json").write_text(json.dumps(manifest))
            _small(place)
            load_graph(place)


def _small(place: Location) -> None:
    """Makes it a graph of two rows, whose part may be as short as it is."""
    manifest = load_manifest(place)
    files = [e for e in manifest.files if e.path != "rows.safetensors"]
    files.append(write_blob(place, "rows.safetensors", save({"row_ids": np.arange(2)})))
    finish(place, "graph", {}, manifest.inputs, files, manifest.summary)


def test_files_of_other_sizes_are_refused(tmp_path: Path) -> None:
    place = graph(tmp_path)
    file = tmp_path / "part-0.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"part-0\.safetensors is damaged or replaced: it has \d+ bytes"):
        load_graph(place)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent.mean", np.full(4, np.nan)),
        ("latent.mean", np.zeros(5)),
        ("latent.colour", np.zeros((3, 3))),
        ("latent.rows", np.zeros(3, np.int64)),
        ("prior.0.matrix", np.zeros((4, 9), np.float32)),
        ("prior.0.about", np.zeros(2)),
        ("components.0.directions", np.zeros(5, np.float32)),
        ("components.0.mean", np.zeros(9, np.float32)),
        ("components.0.about", None),
    ],
)
def test_a_consensus_whose_arrays_do_not_fit_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    right: Arrays = {
        "latent.mean": np.zeros(4),
        "latent.matrix": np.zeros((4, 2)),
        "latent.colour": np.zeros((2, 2)),
        "latent.rows": np.array([10, 0]),
        "prior.0.matrix": np.zeros((4, 2), np.float32),
        "prior.0.offset": np.zeros(2, np.float32),
        "prior.0.about": np.ones(4),
        "components.0.mean": np.zeros(5, np.float32),
        "components.0.directions": np.zeros((5, 4), np.float32),
        "components.0.about": np.ones(2),
    }
    for case, arrays in (("right", right), ("wrong", {**right, name: value})):
        place = Location.parse(tmp_path / case)
        data = save({n: a for n, a in arrays.items() if a is not None})
        manifest = finish(place, "targets", {}, {}, [write_blob(place, "consensus-x", data)], {"latent_of": ["a"]})
        if case == "right":
            assert read_consensus(place, manifest, 1).shared_rows == 10
        else:
            with pytest.raises(InputError, match="is damaged"):
                read_consensus(place, manifest, 1)


@pytest.mark.parametrize(("top_rows", "seen"), [(10**12, 5), ("2", 5), (0, 5), (1, 5), (2, "5")])
def test_a_factor_table_that_states_other_sizes_is_refused(tmp_path: Path, top_rows: Any, seen: Any) -> None:
    columns = {"count": [2, 0], "value_sum": [1.0, 0.0], "top_rows": [[0, 1], []], "top_values": [[0.5, 0.5], []]}
    place = Location.parse(tmp_path)
    files = [write_table(place, "factors.parquet", pa.table(columns))]
    finish(place, "factors", {"top_rows": 2}, {}, files, {"rows": 5})
    assert load_factors(place).top_rows.shape == (2, 2)
    finish(place, "factors", {"top_rows": top_rows}, {}, files, {"rows": seen})
    with pytest.raises(InputError, match=r"top_rows|more top rows"):
        load_factors(place)
