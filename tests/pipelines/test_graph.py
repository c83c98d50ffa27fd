"""The graph artifact over Ray: the same from any parts, after a stop, and only for the features it was built on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.plan import Method, Settled
from coevo_ray.core.graph.search import block_rows
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pipelines.graph import build_graph_artifact
from coevo_ray.pipelines.graph_rows import _Sorting
from coevo_ray.pipelines.graph_tasks import Cuts, GraphSource
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import Ticker
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.graph_files import load_graph, read_half
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable, vector_column
from coevo_ray.store.verification import verify

ROWS, DIM = 3000, 16
HELD, REJECTED = np.arange(0, ROWS, 10), np.arange(7, ROWS, 400)
TRAIN = np.setdiff1d(np.arange(ROWS), [*HELD, *REJECTED])
Half = npt.NDArray[np.float16]
pytestmark = pytest.mark.usefixtures("ray_local")


def content(seed: int = 0) -> Half:
    random = np.random.default_rng(seed)
    features = random.standard_normal((ROWS, 6)) @ random.standard_normal((6, DIM))
    return (features + 0.1 * random.standard_normal((ROWS, DIM)) + 1.0).astype(np.float16)


def inputs(folder: Path, features: Half, files: int = 3) -> tuple[Pool, RowTable]:
    """A pool without images, and its targets: rejected rows have none."""
    place = Location.parse(str(folder / "pool"))
    split = np.zeros(ROWS, np.int8)
    split[HELD] = 1
    columns: dict[str, Any] = {"row_id": np.arange(ROWS), "label": np.zeros(ROWS, np.int64), "split": split}
    entry = write_table(place, "0.parquet", pa.table(columns))
    finish(place, "pool", {}, {}, [entry], {"classes": 2})
    pool = Pool(place)
    place = Location.parse(str(folder / "targets"))
    entries = []
    for i, part in enumerate(np.array_split(np.delete(np.arange(ROWS), REJECTED), files)):
        columns = {"row_id": part, "target": vector_column(features[part])}
        entries.append(write_table(place, f"{i}.parquet", pa.table(columns), 500))
    finish(place, "targets", {}, {}, entries, {})
    return pool, RowTable(place, "targets")


def build(
    folder: Path, features: Half | None = None, files: int = 3, name: str = "graph", **options: Any
) -> tuple[NeighbourGraph, npt.NDArray[np.int64]]:
    pool, targets = inputs(folder, content() if features is None else features, files)
    out = Location.parse(str(folder / name))
    options = {"neighbours": 5, "seed": 0, "cpus": 1, **options}
    manifest = build_graph_artifact(pool, targets, out, **options)
    assert verify(out, manifest) == []
    assert manifest.summary["rows"] == len(TRAIN)
    return load_graph(out, targets)


def same(a: NeighbourGraph, b: NeighbourGraph) -> None:
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.similarities, b.similarities)
    assert (a.method, a.recall, a.parameters) == (b.method, b.recall, b.parameters)


@pytest.mark.parametrize("method", ["auto", "ivf"])
@pytest.mark.parametrize("centre", [False, True])
def test_the_artifact_is_the_graph_of_the_training_rows(tmp_path: Path, method: Method, centre: bool) -> None:
    graph, row_ids = build(tmp_path, method=method, centre=centre)
    assert row_ids.tolist() == TRAIN.tolist()
    expected = build_graph(content()[TRAIN], 5, method, centre=centre, threads=1)
    assert graph.method == {"auto": "exact"}.get(method, method)
    same(graph, expected)


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_parts_and_files_change_nothing(tmp_path: Path, method: str) -> None:
    whole, _ = build(tmp_path / "a", files=1, method=method, part_rows=ROWS)
    size = block_rows(len(TRAIN))
    parts, _ = build(tmp_path / "b", files=4, method=method, part_rows=1)
    assert len(list((tmp_path / "a" / "graph").glob("part-*"))) == 1
    assert len(list((tmp_path / "b" / "graph").glob("part-*"))) == -(-len(TRAIN) // size) > 10
    same(whole, parts)


@pytest.mark.parametrize(("method", "centre"), [("ivf", True), ("exact", False)])
def test_ranges_and_blocks_change_nothing(tmp_path: Path, method: Method, centre: bool) -> None:
    """All files are the same, though no process holds all rows."""
    expected = build_graph(content()[TRAIN], 5, method, centre=centre, threads=1)
    made = {}
    for name, cuts in (("whole", Cuts()), ("cut", Cuts(range_rows=700, block_rows=400)), ("one", Cuts(block_rows=999))):
        graph, _ = build(tmp_path, name=name, cuts=cuts, method=method, centre=centre, part_rows=1024)
        same(graph, expected)
        files = load_manifest(Location.parse(str(tmp_path / name))).files
        made[name] = [(entry.path, entry.sha256) for entry in files]
    assert made["whole"] == made["cut"] == made["one"]


def test_a_search_by_cells_that_misses_the_goal_is_given_up(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((ROWS, 64)).astype(np.float16)
    pool, targets = inputs(tmp_path, noise)
    parts = Parts.of(Location.parse(str(tmp_path / "graph")), "graph")
    source = GraphSource(pool.location, targets, parts, 5, 0, False, "ivf", 1, False, Cuts(900, 800))
    need = Need("task", 1)
    head, drawn, *ranges = start_task("begin", source.begin, 3, True, need=need, returns=5)
    found = task_result("begin", head)
    assert found["settled"] == Settled("ivf", False)
    for may_fall_back, method in ((False, "ivf"), (True, "exact")):
        settled = {**found, "settled": Settled("ivf", may_fall_back)}
        with Ticker("sort", None) as ticker:
            rows = _Sorting(source, need, ticker, found["cut"]).run(settled, ranges, drawn)
        assert rows.fields["method"] == method
        assert rows.fields["parameters"].get("goal_reached") in (False, None)
        assert parts.folder.child("plan.json").read_json()["method"] == method
    cells = Cells.one(len(TRAIN), 64)
    whole = UnitRows.of(noise[TRAIN]).read(slice(None))
    np.testing.assert_array_equal(rows.open(cells, 1).read(slice(0, ROWS)), whole)
    cells.order[[5, 1000]] = cells.order[[1000, 5]]  # another order than that of the blocks
    read = rows.open(cells, 1)
    np.testing.assert_array_equal(read.read(slice(1700, 1800)), whole[1700:1800])
    with pytest.raises(StoppedError, match=r"block 1 .*sorted otherwise"):
        read.read(slice(900, 1100))


def test_a_stopped_build_goes_on_with_what_is_there(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "ivf", "part_rows": 300}
    whole, _ = build(tmp_path, **options)
    folder = tmp_path / "graph"
    started = {"kind": "graph", "config": {"neighbours": 5, "seed": 0, "centre": False, "method": "ivf"}}
    pool, targets = inputs(tmp_path, content())
    (folder / MANIFEST).unlink()
    identities = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    Location.parse(str(folder / "_started.json")).write_json({**started, "inputs": identities})
    files = sorted(folder.glob("part-*"))
    for file in files[3:]:
        file.unlink()
    kept = [file.stat().st_mtime_ns for file in (*files[:3], folder / "plan.json")]
    again, _ = build(tmp_path, cuts=Cuts(range_rows=1000, block_rows=700), **options)
    assert [file.stat().st_mtime_ns for file in (*files[:3], folder / "plan.json")] == kept
    assert sorted(folder.glob("part-*")) == files
    same(whole, again)
    # And before the plan, and with all parts but the manifest.
    for gone in (["plan.json", *(f.name for f in files)], []):
        for name in [*gone, MANIFEST]:
            (folder / name).unlink()
        Location.parse(str(folder / "_started.json")).write_json({**started, "inputs": identities})
        same(whole, build(tmp_path, **options)[0])


def test_other_features_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "a")
    pool, others = inputs(tmp_path / "b", content(seed=1))
    place = Location.parse(str(tmp_path / "a" / "graph"))
    with pytest.raises(InputError, match=f"built on features .*are {others.manifest.identity}"):
        load_graph(place, others)
    with pytest.raises(UsageError, match=r"inputs\.targets"):
        build_graph_artifact(pool, others, place, neighbours=5, seed=0, cpus=1)
    with pytest.raises(UsageError, match="neighbours: there 5, asked for 6"):
        build(tmp_path / "a", neighbours=6)


def test_a_part_that_is_lost_is_noticed(tmp_path: Path) -> None:
    build(tmp_path, part_rows=300)
    place = Location.parse(str(tmp_path / "graph"))
    manifest = place.child(MANIFEST).read_json()
    manifest["files"] = [f for f in manifest["files"] if not f["path"].startswith("part-000000000000")]
    place.child(MANIFEST).write_json(manifest)
    with pytest.raises(InputError, match=f"of {len(TRAIN)} rows"):
        load_graph(place)


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_bad_targets_are_named_by_row_id(tmp_path: Path, bad: float) -> None:
    features = content()
    features[[11, 2999]] = bad
    with pytest.raises(InputError, match=rf"2 of {len(TRAIN)} .*first rows \[11, 2999\]"):
        build(tmp_path, features, centre=bool(np.isnan(bad)), cuts=Cuts(range_rows=500))


def test_targets_are_read_as_half_precision_in_order(tmp_path: Path) -> None:
    _, targets = inputs(tmp_path, content(), files=5)
    some = TRAIN[::7]
    made = read_half(targets, some)
    assert made.dtype == np.float16
    np.testing.assert_array_equal(made, content()[some])


@pytest.mark.slow
def test_a_graph_that_is_there_is_copied_and_any_other_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, ids = build(tmp_path, part_rows=1)
    known = Location.parse(str(tmp_path / "graph"))
    files = {entry.path: entry.sha256 for entry in load_manifest(known).files}
    assert len(files) > 3

    def built(name: str, **options: Any) -> bool:
        """Whether it was built, and not copied; the graph and its files are the same either way."""
        capsys.readouterr()
        graph, found = build(tmp_path, name=name, known=known, part_rows=1, **options)
        if not options:
            same(graph, first)
            np.testing.assert_array_equal(found, ids)
            made = load_manifest(Location.parse(str(tmp_path / name)))
            assert {entry.path: entry.sha256 for entry in made.files} == files
        return "copy graph:" not in (told := capsys.readouterr().err) or "\ngraph:" in told

    assert not built("copied")
    assert built("other settings", seed=1)
    assert built("other targets", features=content(1))
    part = next(name for name in sorted(files) if name.startswith("part-"))
    damaged = bytearray(known.child(part).read_bytes())
    damaged[-1] ^= 1
    known.child(part).write_bytes(bytes(damaged))
    assert built("damaged")
    known.child(MANIFEST).delete_file()
    assert built("unfinished")
