"""One pass of encode over some shards: participants side by side, with resume (CoOpt, arXiv 2505.14117)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray

from coevo_ray.pipelines.encode.contribution import Plan, read_shard_rejects
from coevo_ray.pipelines.encode.forward import EncodeParts, Participant, empty_part
from coevo_ray.pipelines.encode.parts import to_block
from coevo_ray.pipelines.encode.prepare import Prepare
from coevo_ray.pipelines.encode.resources import strategy_of
from coevo_ray.pipelines.encode.write import WriteParts
from coevo_ray.pool.rejects import Reject
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import ray_errors, run_shards
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.parts import Parts
from coevo_ray.telemetry import WAITING, record

_COUNTED_SHARDS = 512
_WRITING_CPUS = 0.5


@dataclass
class Made:
    """Result of one participant.

    Attributes:
        files: files of its contribution.
        rejects: its rejected rows.
        resumed: rows in files of an earlier attempt.
        times: stage -> seconds of work, over all tasks and actors.
        counts: figures of the inputs of rows that are not resumed, see `parts.Part`.
        bytes_read, bytes_moved: see `parts.Part`.
        seconds: wall clock of the wave.
        startup: seconds until the first actor had loaded its model.
        side_by_side: number of participants in the wave.
    """

    files: list[FileEntry] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    resumed: int = 0
    times: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_moved: int = 0
    seconds: float = 0.0
    startup: float = 0.0
    side_by_side: int = 1

    @property
    def waiting_share(self) -> float | None:
        """Share of its actors' time in which they waited for input; None before the first part."""
        busy, waiting = self.times["encode"] + self.times["project"], self.times["waiting"]
        return waiting / (waiting + busy) if busy else None

    def add(self, later: Made) -> None:
        """Adds the result of a later pass of the same participant."""
        self.files += later.files
        self.rejects += later.rejects
        self.resumed += later.resumed
        self.times.update(later.times)
        self.counts.update(later.counts)
        self.bytes_read += later.bytes_read
        self.bytes_moved += later.bytes_moved
        self.seconds += later.seconds
        self.startup += later.startup
        self.side_by_side = max(self.side_by_side, later.side_by_side)


def encode_wave(plan: Plan, shards: Sequence[int], participants: list[Participant], title: str) -> dict[int, Made]:
    """Runs some participants side by side over one reading of some shards.

    Args:
        plan: the rows.
        shards: those to encode; the ones that an earlier attempt finished are left alone.
        participants: participants whose actors all fit into the cluster.
        title: shown during the run.

    Returns:
        Position of a participant -> its result.

    Raises:
        InputError: a prior fails.
        StoppedError: the store or the cluster failed.
    """
    started = time.time()
    made = {who.place: Made() for who in participants}
    missing = {who.place: _resume(plan, shards, who.parts, made[who.place]) for who in participants}
    reader_cpus = participants[0].compute.reader_cpus
    labels = {who.place: who.prior.label for who in participants}
    for place, files in _write_empty(plan, participants, missing).items():
        made[place].files += files
        missing[place] = set()
    working = [who for who in participants if missing[who.place]]  # actors that find nothing to do start in vain
    todo = sorted(set().union(*missing.values()))
    items = [{"shard": s, "wanted": [k for k in made if s in missing[k]]} for s in todo]

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        inputs = {who.place: who.input for who in working}
        dataset = dataset.map_batches(Prepare(plan, inputs), batch_size=None, num_cpus=reader_cpus)
        for who in working:
            dataset = dataset.map_batches(
                EncodeParts,
                fn_constructor_args=(who,),
                batch_size=None,
                batch_format="pyarrow",
                compute=strategy_of(who.compute),
                num_cpus=who.compute.cpus,
                num_gpus=who.compute.gpus,
            )
        write = WriteParts(plan, {who.place: who.parts for who in working})
        return dataset.map_batches(write, batch_size=None, batch_format="pyarrow", num_cpus=reader_cpus)

    for row in run_shards(title, items, stages, total=_rows_to_do(plan, missing)):
        mine = made[row["participant"]]
        mine.files.append(row["result"])
        mine.rejects += row["rejects"]
        # Ray Data fills keys that a row lacks with None.
        mine.times.update({name: seconds for name, seconds in row["times"].items() if seconds is not None})
        mine.counts.update({name: count for name, count in row["counts"].items() if count is not None})
        mine.bytes_read += row["bytes_read"]
        mine.bytes_moved += row["bytes_moved"]
        ready = max(0.0, row["ready"] - started)
        mine.startup = min(mine.startup, ready) if mine.startup else ready
        record(WAITING, mine.waiting_share, stage=title, prior=labels[row["participant"]])
    seconds = time.time() - started
    for one in made.values():
        one.seconds, one.side_by_side = seconds, len(made)
    return made


def _write_empty(
    plan: Plan, participants: list[Participant], missing: dict[int, set[int]]
) -> dict[int, list[FileEntry]]:
    """Writes the missing files of participants that have no row left to encode, in one task for each.

    Returns:
        Position of such a participant -> its files.
    """
    idle = {
        who.place: who
        for who in participants
        if missing[who.place] and not any(plan.row_ids(s).wanted(who.place).any() for s in missing[who.place])
    }

    title, need = "files without rows", Need("task", _WRITING_CPUS)
    waiting = {
        place: start_task(title, _empty_files, plan, who, sorted(missing[place]), need=need)
        for place, who in idle.items()
    }
    with ray_errors(title):
        return {place: task_result(title, made) for place, made in waiting.items()}


def _empty_files(plan: Plan, who: Participant, shards: list[int]) -> list[FileEntry]:
    """Ray task: writes the files of shards of which a participant encodes no row."""
    write = WriteParts(plan, {who.place: who.parts})
    return [write(to_block([empty_part(who, shard)]))["result"][0] for shard in shards]


def _rows_to_do(plan: Plan, missing: dict[int, set[int]]) -> int:
    """Rows to encode, estimated from a sample where there are many shards."""
    total = 0.0
    for place, shards in missing.items():
        sample = sorted(shards)[:: max(1, len(shards) // _COUNTED_SHARDS)]
        rows = sum(int(plan.row_ids(shard).wanted(place).sum()) for shard in sample)
        total += rows * len(shards) / max(1, len(sample))
    return round(total)


def _resume(plan: Plan, shards: Sequence[int], parts: Parts, made: Made) -> set[int]:
    """Adopts the shards of an earlier attempt; returns the missing ones."""
    names = {shard: f"{plan.name(shard)}.parquet" for shard in shards}
    entries = parts.entries(names.values())
    missing = set()
    for shard, name in names.items():
        entry = entries.get(name)
        rows = plan.row_ids(shard).ids if entry is not None and entry.rows else None
        # Another version may have cut shards differently: such a file is written again.
        if entry is None or (rows is not None and not rows[0] <= entry.first_row_id <= entry.last_row_id <= rows[-1]):
            missing.add(shard)
            continue
        made.files.append(entry)
        made.rejects += read_shard_rejects(parts.folder, plan.name(shard))
        made.resumed += entry.rows
    return missing
