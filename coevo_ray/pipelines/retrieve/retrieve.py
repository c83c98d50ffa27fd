"""Retrieval: rows of an open pool near rows where a gate's gain remains (Info-Coevolution, arXiv 2506.08070).

One Ray task puts the gate's features and anchors into the object store. A task for each file of the open targets scores
it and keeps its best rows; the best of all files are compared with the gate's own rows, and one task chooses among
those that are not copies. Only row_ids and scores reach the driver. The result does not depend on the division of the
open targets into files.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from coevo_ray.config import RetrieveSettings, SettingsLike, as_settings
from coevo_ray.core.arrays import Arrays, BoolArray, Float32Array, Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.retrieval import Linear, choose_anchors, rank
from coevo_ray.errors import InputError
from coevo_ray.pipelines.gate.opening import open_gate
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pipelines.merge.same_space import require_same_space
from coevo_ray.pipelines.retrieve.copy_samples import check_folder, copy_samples
from coevo_ray.pipelines.retrieve.tasks import CompareSlice, ScoreFile, Shared, choose_rows, gate_features
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.progress import say
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors, run_each
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import read_table, write_table
from coevo_ray.store.digests import digest_array
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.opening import open_table
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing

KIND = "retrieved"
_HEAD = 4  # candidates of the choice, in budgets
_SLICE_ROWS = 8192  # rows that a task compares with the gate's own
_SCORES, _COPIES = "scores-", "copies-"


def retrieve(
    gate: GateSession | ArtifactLike,
    pool: ArtifactLike,
    targets: ArtifactLike,
    out: Place,
    config: SettingsLike[RetrieveSettings],
    copy_to: Place | None = None,
) -> RowTable:
    """Chooses rows of an open pool near rows where the gate's gain remains.

    Args:
        gate: an open gate with predictions, or its folder, or that of a run; it may have stopped. It is not changed.
        pool: the open pool, or its folder, not the gate's own; its held-out rows are skipped.
        targets: targets of its rows, or their folder, in the gate's space.
        out: folder of the result.
        config: budget, anchors, near-duplicates; a dict, or a YAML file.
        copy_to: also write the chosen samples to this folder, see `pipelines.retrieve.copy_samples`.

    Returns:
        The table `row_id` (of the open pool), `key`, `score`, `gain_row` (row_id of the nearest anchor in the gate's
        pool), `similarity` to it, by row. It has fewer rows than the budget if the open pool has only copies left.

    Raises:
        InputError: there is no such gate, it has no predictions or no gain left, the open pool is the gate's own, or
            its targets are of another space or pool.
        UsageError: settings are wrong, or they, the gate or the targets changed since an unfinished attempt.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(RetrieveSettings, config, "retrieve")
    pool = pool_for("retrieve", pool)
    opened, table = open_gate(gate), open_table(targets, "targets")
    if pool.manifest.identity == opened.pool.manifest.identity:
        raise InputError(
            f"the open pool {pool.location} is the gate's own", "give another pool; the gate asks about its own rows"
        )
    if copy_to is not None:
        check_folder(Location.parse(copy_to))
    require_alone(table, pool)
    if len(table) == 0:
        raise InputError(f"no row has a target in {table.location}", "see the rejects of its contributions")
    require_same_space(table, opened.targets)
    gain = _remaining_gain(opened, settings)
    location = Location.parse(out)
    inputs = {
        "pool": pool.manifest.identity,
        "targets": table.manifest.identity,
        "gate_targets": opened.targets.manifest.identity,
        **gain.identity,
    }
    with writing(location):
        if begin(location, KIND, settings.content(), inputs) is None:
            parts = Parts.of(location, KIND, settings.content(), inputs)
            work = _Retrieval(opened, pool, table, parts, settings, gain)
            with ray_session([pool.location, table.location], [location]), ray_errors("retrieve"):
                work.run(inputs)
    made = RowTable(location, KIND)
    if copy_to is not None:
        copy_samples(pool, made.row_ids(), Location.parse(copy_to), settings.compute.cpus)
    return made


@dataclass(frozen=True)
class _Gain:
    """The remaining gain of a gate.

    Attributes:
        anchors: int64[a], row_ids in the gate's pool of the rows with the largest gain.
        worth: float32[a], their gains.
        model: the gate's classifier, whose gain on open rows counts too; None for anchors alone.
    """

    anchors: Int64Array
    worth: Float32Array
    model: Linear | None

    @property
    def identity(self) -> dict[str, str]:
        """Hashes for the manifest's inputs."""
        model = self.model
        return {
            "anchors": digest_array(self.anchors) + digest_array(self.worth),
            "classifier": "none" if model is None else digest_array(np.concatenate([model.weight.ravel(), model.bias])),
        }


def _remaining_gain(gate: GateSession, settings: RetrieveSettings) -> _Gain:
    gains = gate.service.gains()
    anchors, worth = choose_anchors(gains["row_id"], gains["gain"], settings.anchors)
    if len(anchors) == 0:
        raise InputError(
            f"the gate has no gain left: {len(gains['row_id'])} rows without a label, none of them uncertain",
            "there is nothing to retrieve; open a gate on a larger pool",
        )
    return _Gain(anchors, worth, _classifier(gate, settings))


def _classifier(gate: GateSession, settings: RetrieveSettings) -> Linear | None:
    learned = bool(gate.service.history())
    if settings.gain == "anchors" or (settings.gain == "auto" and not learned):
        return None
    fitted = gate.classifier()
    probe = fitted.probe
    return Linear(probe.weight, probe.bias, probe.mean, probe.scale, fitted.temperature)


@dataclass(frozen=True)
class _Ranking:
    """The best open rows of all files, best first.

    Attributes:
        columns: `row_id`, `score`, `anchor`, `similarity`.
        whole: whether every usable row is included.
        looked, unusable: rows of the open targets that are not held out, and of these those that are zero or not
            finite.
    """

    columns: Arrays
    whole: bool
    looked: int
    unusable: int

    def __len__(self) -> int:
        return len(self.columns["row_id"])


class _Retrieval:
    """The driver's part of a retrieval."""

    def __init__(
        self,
        gate: GateSession,
        pool: Pool,
        targets: RowTable,
        parts: Parts,
        settings: RetrieveSettings,
        gain: _Gain,
    ) -> None:
        self.gate, self.pool, self.targets, self.settings = gate, pool, targets, settings
        self.parts, self.location, self.gain = parts, parts.folder, gain
        self.need = Need("task", settings.compute.cpus)

    def run(self, inputs: dict[str, str]) -> None:
        """Scores, compares, chooses and writes."""
        started = time.monotonic()
        shared: Shared = {
            "own": start_task(
                "features of the gate",
                gate_features,
                self.gate.targets,
                self.gate.location,
                self.gate.service.offered(),
                self.gain.anchors,
                self.settings.stray,
                need=self.need,
            ),
            "worth": ray.put(self.gain.worth),
            "near": ray.put(self.settings.near_by(self.gain.model is not None)),
            "model": ray.put(self.gain.model),
            "held": ray.put(self.pool.test_ids()),
        }
        head = min(_HEAD * self.settings.budget, max(1, len(self.targets)))
        while True:
            ranking, copy = self._head(shared, head)
            fresh = np.flatnonzero(~copy)
            everything = ranking.whole and len(copy) == len(ranking) and len(fresh) <= head
            picks = self._choose(shared, ranking, fresh[:head])
            if everything or len(picks) >= self.settings.budget:
                break
            head *= 2
        self._write(ranking, copy, picks, inputs, started)

    def _head(self, shared: Shared, head: int) -> tuple[_Ranking, BoolArray]:
        """A ranking, and bool of its first rows: copies or not, as far as needed for `head` rows that are none."""
        keep, copy = 2 * head, np.zeros(0, dtype=np.bool_)
        ranking = self._rank(shared, keep)
        while (lacking := head - int((~copy).sum())) > 0:
            if len(copy) == len(ranking):
                if ranking.whole:
                    break
                keep *= 2
                ranking = self._rank(shared, keep)
                continue
            stop = min(len(ranking), len(copy) + max(_SLICE_ROWS, lacking))
            copy = np.concatenate([copy, self._compare(shared, ranking, len(copy), stop)])
        return ranking, copy

    def _rank(self, shared: Shared, keep: int) -> _Ranking:
        """The `keep` best rows of all files, taken from the `keep` best of each."""
        names = [f"{_SCORES}{index:06d}-{keep}.parquet" for index in range(len(self.targets.files))]
        stage = ScoreFile(self.targets, self.parts, keep, shared)
        todo = [{"shard": i, "name": name} for i, name in self._missing(names)]
        for _ in run_each("score", todo, stage.make, need=self.need, total=len(self.targets)):
            pass
        best: Arrays = {}
        looked = unusable = usable = 0
        for name in names:
            part = read_table(self.location, name)
            counts = {k: int(part.schema.metadata[k.encode()]) for k in ("looked", "unusable")}
            looked, unusable = looked + counts["looked"], unusable + counts["unusable"]
            usable += counts["looked"] - counts["unusable"]
            columns = {c: part.column(c).to_numpy() for c in part.column_names}
            best = {c: np.concatenate([best[c], v]) if best else v for c, v in columns.items()}
            order = rank(best["row_id"], best["score"])[:keep]
            best = {c: v[order] for c, v in best.items()}
        if usable == 0:
            raise InputError(
                f"no row of {self.targets.location} can be used: {looked} are not held out, {unusable} of them "
                "are zero or not finite",
                "encode the open pool again",
            )
        return _Ranking(best, len(best["row_id"]) == usable, looked, unusable)

    def _compare(self, shared: Shared, ranking: _Ranking, start: int, stop: int) -> BoolArray:
        """bool[stop - start]: rows in a range of the ranking that are copies of rows of the gate."""
        rows = np.sort(ranking.columns["row_id"][start:stop])  # by row, so that each task reads its own files
        slices = [rows[i : i + _SLICE_ROWS] for i in range(0, len(rows), _SLICE_ROWS)]
        names = [f"{_COPIES}{start:012d}-{stop:012d}-{i:06d}.parquet" for i in range(len(slices))]
        stage = CompareSlice(self.targets, self.parts, self.settings.same, shared)
        todo = [{"name": name, "rows_of": slices[i]} for i, name in self._missing(names)]
        for _ in run_each("compare", todo, stage.make, need=self.need, total=len(rows)):
            pass
        parts = [read_table(self.location, name).column("copy").to_numpy(zero_copy_only=False) for name in names]
        found: BoolArray = np.concatenate(parts)
        return found[np.searchsorted(rows, ranking.columns["row_id"][start:stop])]

    def _choose(self, shared: Shared, ranking: _Ranking, fresh: Int64Array) -> Int64Array:
        """Positions in the ranking of the chosen rows, best first."""
        if len(fresh) == 0:
            return fresh
        ids = ranking.columns["row_id"][fresh]
        choosing = start_task("choose", choose_rows, self.targets, ids, self.settings, shared["own"], need=self.need)
        picks: Int64Array = task_result("choose", choosing)
        return fresh[picks]

    def _write(
        self, ranking: _Ranking, copy: BoolArray, picks: Int64Array, inputs: dict[str, str], started: float
    ) -> None:
        table = self._table(ranking, picks)
        summary = self._summary(ranking, copy, picks)
        summary["seconds"] = round(time.monotonic() - started, 3)
        if len(picks) < self.settings.budget:
            say(f"retrieve: {len(picks)} of {self.settings.budget} rows: all others in the open pool are copies")
        entry = write_table(self.location, "retrieved.parquet", table)
        finish(self.location, KIND, self.settings.content(), inputs, [entry], summary)
        for name in self.location.files():
            if name.startswith((_SCORES, _COPIES)):
                self.location.child(name).delete_file()

    def _table(self, ranking: _Ranking, picks: Int64Array) -> pa.Table:
        """The chosen rows, in the order of row_ids."""
        columns = {name: values[picks] for name, values in ranking.columns.items()}
        order = np.argsort(columns["row_id"])
        rows, anchor = columns["row_id"][order], columns["anchor"][order]
        keys = self.pool.read(rows, ["key"]).column("key")
        return pa.table(
            {
                "row_id": pa.array(rows, pa.int64()),
                "key": pa.array(keys.to_pylist(), pa.string()),
                "score": pa.array(columns["score"][order], pa.float32()),
                "gain_row": pa.array(self.gain.anchors[anchor], pa.int64()),
                "similarity": pa.array(columns["similarity"][order], pa.float32()),
            }
        )

    def _summary(self, ranking: _Ranking, copy: BoolArray, picks: Int64Array) -> JsonObject:
        end = int(picks.max(initial=-1)) + 1
        copies = int(copy[:end].sum())
        worth, similarity = self.gain.worth[ranking.columns["anchor"][picks]], ranking.columns["similarity"][picks]
        return {
            "chosen": len(picks),
            "budget": self.settings.budget,
            "looked_at": ranking.looked,
            "unusable": ranking.unusable,
            "copies": copies,
            "passed_over": end - copies - len(picks),
            "anchors": len(self.gain.anchors),
            "anchor_gain": round(float(worth.mean(dtype=np.float64)), 6) if len(picks) else None,
            "similarity": round(float(similarity.mean(dtype=np.float64)), 6) if len(picks) else None,
            "gain": "anchors" if self.gain.model is None else "classifier",
            "gate": str(self.gate.location),
        }

    def _missing(self, names: list[str]) -> list[tuple[int, str]]:
        there = self.parts.entries(names)
        return [(i, name) for i, name in enumerate(names) if name not in there]
