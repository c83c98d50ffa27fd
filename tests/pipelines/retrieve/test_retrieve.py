"""Retrieval from an open pool: what is chosen, whatever the files; what is dropped; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coevo_ray.annotators.base import Answers
from coevo_ray.core.retrieval import Linear
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.retrieve import retrieve as pipeline
from coevo_ray.pipelines.retrieve.copy_samples import copy_samples
from coevo_ray.pipelines.retrieve.retrieve import retrieve
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from tests.command_line import Command
from tests.pipelines.gate.helpers import CLASSES, DIM, HELD, NAMES, ROWS, inputs, truth

pytestmark = pytest.mark.usefixtures("ray_local")
OPEN = 900
SAME, APART, STRAY = 0.95, 0.65, 0.02
Float16Array = npt.NDArray[np.float16]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> GateSession:
    """A gate that has learned from one round."""
    folder = tmp_path_factory.mktemp("gate")
    pool, targets = inputs(folder)
    settings = {"classes": NAMES, "seed_fraction": 0.1, "round_fraction": 0.1}
    gate = GateSession.open(settings, pool, targets, str(folder / "gate"))
    with gate.hosted():
        rows = gate.next().row_ids
        gate.submit(Answers(rows, truth()[rows], "ann"))
        gate.next()
    return gate


def open_features(seed: int = 7) -> Float16Array:
    random = np.random.default_rng(seed)
    true = random.integers(0, CLASSES, OPEN)
    return (np.eye(DIM)[true] + 0.35 * random.standard_normal((OPEN, DIM)) + 1.0).astype(np.float16)


def open_pool(
    folder: Path, features: Float16Array, files: int = 3, held: tuple[int, ...] = (), **summary: Any
) -> tuple[Pool, RowTable]:
    """An open pool of texts, and its targets in some files."""
    rows = np.arange(len(features))
    place = Location.parse(str(folder / "open"))
    split = np.isin(rows, held).astype(np.int8)
    keys, texts = [f"open-{row}" for row in rows], [f"words {row}" for row in rows]
    columns = {"row_id": rows, "key": keys, "text": texts, "label": pa.nulls(len(rows), pa.int64()), "split": split}
    entry = write_table(place, "0.parquet", pa.table(columns))
    finish(place, "pool", {}, {}, [entry], {"classes": 0, "modality": "text"})
    there, entries = Location.parse(str(folder / "open-targets")), []
    for i, part in enumerate(np.array_split(rows, files)):
        table = pa.table({"row_id": part, "target": vector_column(features[part])})
        entries.append(write_table(there, f"{i}.parquet", table, 50 + 13 * files))
    finish(there, "targets", {}, {}, entries, summary)
    return Pool(place), RowTable(there, "targets")


def expected(gate: GateSession, features: Float16Array, budget: int, near: float, gain: str = "auto") -> list[int]:
    """One row after another, in double precision."""
    own = np.concatenate(
        [t.column("target").to_pylist() for i in range(3) for t in gate.targets.iter_file(i, ["target"])]
    )
    row_ids = gate.targets.row_ids()
    mean = own[~np.isin(row_ids, HELD)].mean(axis=0)

    def unit(rows: Any) -> npt.NDArray[np.float64]:
        away = np.asarray(rows, np.float64) - mean
        return np.asarray(away / np.linalg.norm(away, axis=1, keepdims=True))

    gains = gate.service.gains()
    worthwhile = gains["gain"] > 0
    anchors = own[np.searchsorted(row_ids, gains["row_id"][worthwhile])]
    similar = unit(features) @ unit(anchors).T
    fitted = gate.classifier()
    model = Linear(fitted.probe.weight, fitted.probe.bias, fitted.probe.mean, fitted.probe.scale, fitted.temperature)
    worth = model.gain(features) if gain == "auto" else gains["gain"][worthwhile][similar.argmax(axis=1)]
    score = worth * np.maximum(similar.max(axis=1), 0) ** near
    to_own = np.sort(unit(features) @ unit(own).T, axis=1)
    train = unit(own[~np.isin(row_ids, HELD)])
    among = np.sort(train @ train.T, axis=1)  # the last is the row itself
    margin = np.quantile(among[:, -2] - among[:, -17], 1 - STRAY)
    copy = (to_own[:, -1] > SAME) | (to_own[:, -1] - to_own[:, -16] > margin)
    ranked = [int(i) for i in np.argsort(-score, kind="stable") if not copy[i]]
    mine = unit(features) @ unit(features).T
    head = 4 * budget
    while True:
        picks: list[int] = []
        for i in ranked[:head]:
            if len(picks) < budget and all(mine[i, p] <= APART for p in picks):
                picks.append(i)
        for i in ranked[:head]:
            if len(picks) < budget and i not in picks and all(mine[i, p] <= SAME for p in picks):
                picks.append(i)
        if len(picks) == budget or head >= len(ranked):
            return sorted(picks)
        head *= 2


@pytest.mark.parametrize(("budget", "near", "gain"), [(40, 0.5, "auto"), (150, 0.0, "auto"), (40, 1.0, "anchors")])
def test_what_is_chosen(gate: GateSession, tmp_path: Path, budget: int, near: float, gain: str) -> None:
    pool, targets = open_pool(tmp_path, open_features())
    settings = {"budget": budget, "near": near, "gain": gain}
    made = retrieve(gate, pool, targets, str(tmp_path / "out"), settings)
    table = made.scan(["row_id", "key", "score", "gain_row", "similarity"])
    assert made.row_ids().tolist() == expected(gate, open_features(), budget, near, gain)
    assert table.column("key").to_pylist() == [f"open-{row}" for row in made.row_ids()]
    left = gate.service.gains()
    place = np.searchsorted(left["row_id"], table.column("gain_row").to_numpy())
    assert (left["row_id"][place] == table.column("gain_row").to_numpy()).all()
    summary = made.manifest.summary
    assert summary["anchor_gain"] == pytest.approx(float(left["gain"][place].mean()), abs=1e-5)
    assert (summary["chosen"], summary["looked_at"], summary["unusable"]) == (budget, OPEN, 0)
    assert summary["gain"] == ("classifier" if gain == "auto" else "anchors")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "retrieved.parquet"]


def test_files_do_not_matter(gate: GateSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = open_features()
    features[100:400] = features[400:700] + np.random.default_rng(0).normal(0, 0.01, (300, DIM)).astype(np.float16)
    results = []
    for files, slice_rows in ((1, 8192), (2, 100), (7, 33)):
        monkeypatch.setattr(pipeline, "_SLICE_ROWS", slice_rows)
        pool, targets = open_pool(tmp_path / str(files), features, files)
        made = retrieve(gate, pool, targets, str(tmp_path / str(files) / "out"), {"budget": 12})
        results.append((made.scan(made.schema().names), made.manifest.summary))
    for table, summary in results[1:]:
        assert table.equals(results[0][0])
        assert {k: v for k, v in summary.items() if k != "seconds"} == {
            k: v for k, v in results[0][1].items() if k != "seconds"
        }


def test_order_does_not_matter(gate: GateSession, tmp_path: Path) -> None:
    features, order = open_features(), np.random.default_rng(3).permutation(OPEN)
    first = retrieve(gate, *open_pool(tmp_path / "a", features), str(tmp_path / "a" / "out"), {"budget": 60})
    other = retrieve(gate, *open_pool(tmp_path / "b", features[order]), str(tmp_path / "b" / "out"), {"budget": 60})
    assert sorted(order[other.row_ids()]) == first.row_ids().tolist()


def test_copies_unusable_and_held_out_rows_are_left_aside(gate: GateSession, tmp_path: Path) -> None:
    features = open_features()
    own = gate.targets.read(gate.targets.row_ids()[:600:2], ["target"]).column("target").to_pylist()
    features[300:500] = np.array(own[:200], np.float16)  # of the gate's pool, its held-out rows among them
    features[500:800] = features[0:300]  # copies of one another
    features[800], features[801, 3], features[802, 1] = 0, np.nan, np.inf
    pool, targets = open_pool(tmp_path, features, held=tuple(range(250, 300)))
    made = retrieve(gate, pool, targets, str(tmp_path / "out"), {"budget": 10_000})
    rows, summary = set(made.row_ids().tolist()), made.manifest.summary
    assert not rows & {*range(250, 500), 800, 801, 802}
    assert not any(row in rows and row + 500 in rows for row in range(250))
    assert any(row in rows or row + 500 in rows for row in range(250))
    assert (summary["looked_at"], summary["unusable"]) == (OPEN - 50, 3)
    assert summary["copies"] >= 200 and summary["chosen"] == len(rows) < summary["budget"]
    assert summary["chosen"] + summary["copies"] + summary["passed_over"] <= OPEN - 53


def test_many_copies_are_dug_through(gate: GateSession, tmp_path: Path) -> None:
    """The best rows of all are copies of the gate's own: more is asked of the files than was at first."""
    features = open_features()
    left = gate.service.gains()
    best = np.sort(left["row_id"][np.argsort(-left["gain"])[:120]])
    features[:120] = np.array(gate.targets.read(best, ["target"]).column("target").to_pylist(), np.float16)
    pool, targets = open_pool(tmp_path, features)
    made = retrieve(gate, pool, targets, str(tmp_path / "out"), {"budget": 5, "near": 4.0})
    assert made.row_ids().tolist() == expected(gate, features, 5, 4.0)
    assert made.manifest.summary["copies"] >= 40


def test_a_retrieval_that_was_stopped_goes_on(
    gate: GateSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, targets = open_pool(tmp_path, open_features())
    out = str(tmp_path / "out")
    whole = retrieve(gate, pool, targets, str(tmp_path / "whole"), {"budget": 50})
    with monkeypatch.context() as patch:
        patch.setattr(pipeline._Retrieval, "_choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            retrieve(gate, pool, targets, out, {"budget": 50})
    parts = {p.name: p.stat().st_mtime_ns for p in Path(out).glob("*-*.parquet")}
    assert len([name for name in parts if name.startswith("scores-")]) == 3
    assert any(name.startswith("copies-") for name in parts)
    with pytest.raises(UsageError, match="budget"):
        retrieve(gate, pool, targets, out, {"budget": 51})
    done: list[Any] = []
    original: Any = vars(pipeline)["run_each"]

    def counted(title: str, todo: list[Any], *rest: Any, **more: Any) -> Any:
        done.extend(todo)
        return original(title, todo, *rest, **more)

    monkeypatch.setattr(pipeline, "run_each", counted)
    made = retrieve(gate, pool, targets, out, {"budget": 50})
    assert done == [] and made.scan(made.schema().names).equals(whole.scan(whole.schema().names))
    before = (Path(out) / "manifest.json").read_bytes()
    retrieve(gate, pool, targets, out, {"budget": 50})
    assert (Path(out) / "manifest.json").read_bytes() == before
    with pytest.raises(UsageError, match="other settings"):
        retrieve(gate, pool, targets, out, {"budget": 50, "near": 1.0})


def test_chosen_samples_are_ingested_further(gate: GateSession, tmp_path: Path) -> None:
    pool, targets = open_pool(tmp_path, open_features())
    copy = tmp_path / "copy"
    for _ in range(2):
        made = retrieve(gate, pool, targets, str(tmp_path / "out"), {"budget": 30}, str(copy))
    (file,) = copy.glob("*.parquet")
    assert pq.read_table(file).column("text").to_pylist() == [f"words {row}" for row in made.row_ids()]
    source = {"uri": str(copy), "text_column": "text", "key_column": "key"}
    again = ingest({"sources": [source]}, str(tmp_path / "again"))
    assert sorted(again.column("key").to_pylist()) == sorted(f"open-{row}" for row in made.row_ids())
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no copy of samples wrote"):
        retrieve(gate, pool, targets, str(tmp_path / "out"), {"budget": 30}, str(copy))


def test_what_cannot_be_compared_is_refused(gate: GateSession, tmp_path: Path) -> None:
    pool, targets = open_pool(tmp_path, open_features())
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match="is the gate's own"):
        retrieve(gate, gate.pool, targets, out, {"budget": 5})
    with pytest.raises(UsageError, match="budget"):
        retrieve(gate, pool, targets, out, {"budget": 0})
    with pytest.raises(UsageError, match="above same"):
        retrieve(gate, pool, targets, out, {"budget": 5, "same": 0.5})
    with pytest.raises(InputError, match="no gate was opened"):
        retrieve(str(tmp_path), pool, targets, out, {"budget": 5})
    narrow = open_pool(tmp_path / "narrow", open_features()[:, :8])
    with pytest.raises(InputError, match=r"have \{'dim': 8\}, need \{'dim': 16\}"):
        retrieve(gate, *narrow, out, {"budget": 5})
    zero = open_pool(tmp_path / "zero", np.zeros((20, DIM), np.float16))
    with pytest.raises(InputError, match="20 of them are zero"):
        retrieve(gate, *zero, out, {"budget": 5})
    empty = open_pool(tmp_path / "empty", open_features()[:1], files=0 + 1)
    place = Location.parse(str(tmp_path / "empty" / "nothing"))
    finish(place, "targets", {}, {}, [], {})
    with pytest.raises(InputError, match="no row has a target"):
        retrieve(gate, empty[0], RowTable(place, "targets"), out, {"budget": 5})


def test_a_gate_that_knows_nothing_or_everything(tmp_path: Path) -> None:
    own, features = inputs(tmp_path), open_pool(tmp_path, open_features())
    fresh = GateSession.open({"classes": NAMES, "seed_fraction": 1.0}, *own, str(tmp_path / "gate"))
    with pytest.raises(InputError, match="before its first predictions"):
        retrieve(fresh, *features, str(tmp_path / "out"), {"budget": 5})
    rows = fresh.next().row_ids
    fresh.submit(Answers(rows, truth()[rows], "ann"))
    fresh.learn()
    with pytest.raises(InputError, match="no gain left"):
        retrieve(fresh, *features, str(tmp_path / "out"), {"budget": 5})


def test_gains_of_the_users_own_model_and_of_rows_that_arrived(tmp_path: Path) -> None:
    own, features = inputs(tmp_path), open_features()
    gate = GateSession.open({"classes": NAMES, "seed_fraction": 0.1}, *own, str(tmp_path / "gate"))
    rows = gate.next().row_ids
    gate.submit(Answers(rows, truth()[rows], "ann"))
    everyone = np.setdiff1d(gate.targets.row_ids(), HELD)
    gate.service.update_predictions((everyone, np.full((len(everyone), CLASSES), 1 / CLASSES, np.float32)))
    gate.offer(features[:50], np.full((50, CLASSES), 1 / CLASSES, np.float32), np.arange(50) + ROWS)
    pool, targets = open_pool(tmp_path, features)
    made = retrieve(gate, pool, targets, str(tmp_path / "out"), {"budget": 2000})
    assert made.manifest.summary["gain"] == "anchors"
    assert made.row_ids().min() >= 50  # what arrived at the gate already is a copy
    with pytest.raises(InputError, match="learned nothing yet"):
        retrieve(gate, pool, targets, str(tmp_path / "other"), {"budget": 5, "gain": "classifier"})


def test_copies_of_samples_replace_no_file_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coevo_ray.pipelines.retrieve.copy_samples._FILE_ROWS", 10)
    pool, _ = open_pool(tmp_path, open_features())
    mine = Location.parse(str(tmp_path / "copy"))
    copy_samples(pool, np.arange(25), mine, 0.5)
    names = ["samples-000000.parquet", "samples-000001.parquet", "samples-000002.parquet"]
    assert mine.files() == ["_samples.json", *names]
    copy_samples(pool, np.arange(100, 112), mine, 0.5)  # fewer files, other rows
    assert mine.files() == ["_samples.json", *names[:2]]
    tables = [pq.read_table(mine.child(name).path) for name in names[:2]]
    assert (
        pa.concat_tables(tables).column("key").to_pylist() == pool.read(np.arange(100, 112), ["key"])["key"].to_pylist()
    )
    source = {"uri": mine.uri, "text_column": "text", "key_column": "key"}
    assert len(ingest({"sources": [source]}, str(tmp_path / "second"))) == 12
    # Files that look like ours, but are not: in a folder of their own, or beside a copy.
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for folder, name in (
        (theirs, "samples-000000.parquet"),
        (theirs, "samples-summer.jpg"),
        (Path(mine.path), names[2]),
    ):
        for file in theirs.iterdir():
            file.unlink()
        (folder / name).write_bytes(b"mine")
        with pytest.raises(UsageError, match="no copy of samples wrote") as refused:
            copy_samples(pool, np.arange(5), Location.parse(str(folder)), 0.5)
        assert name in str(refused.value) and (folder / name).read_bytes() == b"mine"
    for forged in ('{"files": ["../copy/samples-000000.parquet"]}', "[]", "{", '{"files": [1]}'):
        (theirs / "_samples.json").write_text(forged)
        with pytest.raises(UsageError, match="was not written by coevo-ray"):
            copy_samples(pool, np.arange(5), Location.parse(str(theirs)), 0.5)


def test_command(coevo_ray: Command, gate: GateSession, tmp_path: Path) -> None:
    open_pool(tmp_path, open_features())
    places = [
        "--gate",
        str(gate.location),
        "--pool",
        str(tmp_path / "open"),
        "--targets",
        str(tmp_path / "open-targets"),
    ]
    out, copy = str(tmp_path / "out"), str(tmp_path / "copy")
    result = coevo_ray("retrieve", *places, "--budget", "25", "--out", out, "--copy-to", copy, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["chosen"], told["retrieved"], told["copied_to"]) == (25, out, copy)
    assert len(RowTable(Location.parse(out), "retrieved")) == 25
    for arguments, code, message in (
        (("--budget", "26", "--out", out), 2, "other settings"),
        (("--budget", "0", "--out", str(tmp_path / "x")), 2, "budget"),
        (("--out", out), 2, "budget"),
        (("--budget", "3", "--out", str(tmp_path / "x"), "--gate", str(tmp_path)), 3, "no gate was opened"),
    ):
        result = coevo_ray("retrieve", *places, *arguments)
        assert result.returncode == code and message in result.stderr.lower(), result.stderr
