"""Rows of a neighbour graph, sorted by cell over the nodes of a cluster: no process holds all targets.

Tasks read ranges of rows, which stay in Ray's object store. From a sample of them comes the plan: a task fits the
cells, tasks assign each range to them, and one sorts the rows' numbers. Then ranges are split by position and blocks of
sorted rows are gathered, each an object of its own. What is lost with a node, Ray makes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from coevo_ray.core.arrays import Float32Array
from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.rows import BlockRows
from coevo_ray.core.graph.sorting import Cut
from coevo_ray.core.graph.unit_rows import BadRows, mean_of
from coevo_ray.core.json import JsonObject
from coevo_ray.pipelines.graph_tasks import GraphSource, Ref, open_blocks
from coevo_ray.progress import Ticker
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import Row, keep_each
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.parts import Parts

TITLE = "prepare graph"


@dataclass(frozen=True, eq=False)
class SortedRows:
    """Rows sorted by cell, and the plan of their search.

    Attributes:
        cut: their blocks.
        blocks: references of the blocks, each a `Block`.
        plan: reference of the `GraphPlan`.
        parts: files that are searched by it.
        fields: method, recall and parameters.
        entries: files that are written.
    """

    cut: Cut
    blocks: list[Ref]
    plan: Ref
    parts: Parts
    fields: JsonObject
    entries: list[FileEntry]

    def open(self, cells: Cells, threads: int) -> BlockRows:
        """The rows as a search in so many threads reads them, see `open_blocks`."""
        return open_blocks(self.cut, self.blocks, cells, threads)


def sort_rows(source: GraphSource, need: Need) -> SortedRows:
    """Reads, plans and sorts the rows of a graph, in tasks.

    Args:
        source: what it is made from.
        need: of a task that compares rows; of the others without its GPUs.

    Raises:
        InputError: there are fewer than two rows, or targets are zero or not finite.
        StoppedError: the store or the cluster failed.
    """
    most = Cut.most_ranges(len(source.targets), source.cuts.range_rows)
    told, plan = None, None
    if source.was_planned:
        facts, plan = start_task(TITLE, source.kept_plan, need=need, returns=2)
        told = task_result(TITLE, facts)
    head, samples, *ranges = start_task(TITLE, source.begin, most, told is None, need=need, returns=2 + most)
    found: JsonObject = task_result(TITLE, head)
    ranges = ranges[: len(found["cut"].ranges)]
    with Ticker(TITLE, None, "parts") as ticker:
        sorting = _Sorting(source, need, ticker, found["cut"])
        return sorting.run(found, ranges, samples) if told is None else sorting.by_plan(found, ranges, told, plan)


@dataclass(frozen=True, eq=False)
class _Sorting:
    """The course of `sort_rows` behind its first task."""

    source: GraphSource
    need: Need
    ticker: Ticker
    cut: Cut

    def by_plan(self, found: JsonObject, ranges: list[Ref], told: JsonObject, plan: Ref) -> SortedRows:
        """Makes the blocks by the plan of an earlier attempt."""
        rows, _ = self._read(ranges)
        return self._finished(found, told, plan, self._blocks(rows, plan))

    def run(self, found: JsonObject, ranges: list[Ref], drawn: Ref) -> SortedRows:
        """Makes the blocks and the plan."""
        source, settled = self.source, found["settled"]
        rows, samples = self._read(ranges)
        if settled.method == "exact":
            told, plan = self._one(source.exact, self.cut)
            return self._finished(found, told, plan, self._blocks(rows, plan))
        kept = _Ranges([*rows.raw], rows.scale, rows.mean) if settled.may_fall_back else None
        parts = [*(sample for sample, _ in samples), *(halves for _, halves in samples)]
        centroids, queries = self._one(source.fit, self.cut.rows, drawn, *parts, returns=3)[1:]
        given = ((*each, centroids, queries) for each in rows.each())
        assigned = self._each(source.assign, self._items(), given, self.need, 2)[1]
        _, cells = self._one(source.sort, centroids, *(cell for cell, _ in assigned))
        blocks = self._blocks(rows, cells)
        near = [each for _, each in assigned]
        told, plan = self._one(source.tune, self.cut, blocks, settled, drawn, cells, queries, *near)
        if told is None and kept is not None:
            told, plan = self._one(source.exact, self.cut)
            blocks = self._blocks(kept, plan)
        return self._finished(found, told, plan, blocks)

    def _read(self, ranges: list[Ref]) -> tuple[_Ranges, list[list[Ref]]]:
        """Reads the ranges, and of each the rows of the samples."""
        read = self._each(self.source.read, self._items(), ((each,) for each in ranges), self._reading, 1)
        facts, raw = read[0], [each for (each,) in read[1]]
        _refuse(facts)
        mean = mean_of([each["sums"] for each in facts], self.cut.rows) if self.source.centre else None
        given = ((*each, mean) for each in zip(ranges, raw, strict=True))
        facts, measured = self._each(self.source.measure, self._items(), given, self._reading, 3)
        _refuse(facts)
        return _Ranges(raw, [scale for scale, _, _ in measured], mean), [sample for _, *sample in measured]

    def _blocks(self, rows: _Ranges, plan: Ref) -> list[Ref]:
        """Splits the ranges, which are dropped, and gathers the blocks."""
        source, cut = self.source, self.cut
        _, *positions = self._one(source.place, cut, plan, returns=1 + len(cut.ranges))
        given = ((*each, place) for each, place in zip(rows.dropped(), positions, strict=True))
        items = [{**item, "cut": cut} for item in self._items()]
        pieces = self._each(source.split, items, given, self._reading, len(cut.blocks))[1]
        blocks: list[Row] = [{"start": each.start, "stop": each.stop, "cut": cut} for each in cut.blocks]
        gathered = self._each(source.gather, blocks, _of_blocks(rows.mean, pieces), self._reading, 1)[1]
        return [block for (block,) in gathered]

    def _finished(self, found: JsonObject, told: JsonObject, plan: Ref, blocks: list[Ref]) -> SortedRows:
        entries = [found["entry"], *told["entries"]]
        return SortedRows(self.cut, blocks, plan, told["parts"], told["fields"], entries)

    @property
    def _reading(self) -> Need:
        """Of a task that compares no rows."""
        return Need("task", self.need.cpus)

    def _items(self) -> list[Row]:
        return [{"start": each.start, "stop": each.stop} for each in self.cut.ranges]

    def _each(
        self, work: Callable[..., Any], items: list[Row], given: Iterable[Sequence[Any]], need: Need, returns: int
    ) -> tuple[list[Row], list[list[Ref]]]:
        return keep_each(TITLE, items, work, given, self.ticker, need=need, returns=returns)

    def _one(self, work: Callable[..., Any], *given: Any, returns: int = 2) -> Any:
        """Runs a task: its facts, and the references of its further results."""
        facts, *results = start_task(TITLE, work, *given, need=self.need, returns=returns)
        return [task_result(TITLE, facts), *results]


@dataclass(frozen=True, eq=False)
class _Ranges:
    """Ranges of rows in the object store.

    Attributes:
        raw, scale: references, see `UnitRows`.
        mean: float32[d], or None.
    """

    raw: list[Ref]
    scale: list[Ref]
    mean: Float32Array | None

    def each(self) -> Iterator[tuple[Ref, Ref, Float32Array | None]]:
        """What `UnitRows` of each range are made of."""
        return ((raw, scale, self.mean) for raw, scale in zip(self.raw, self.scale, strict=True))

    def dropped(self) -> Iterator[tuple[Ref, Ref, Float32Array | None]]:
        """As `each`; each range's rows are forgotten as it is taken."""
        for scale in self.scale:
            yield self.raw.pop(0), scale, self.mean


def _of_blocks(mean: Float32Array | None, pieces: list[list[Ref]]) -> Iterator[list[Any]]:
    """Of each block the mean and its pieces, which are forgotten."""
    for each in pieces:
        each.reverse()
    while pieces and pieces[0]:
        yield [mean, *(each.pop() for each in pieces)]


def _refuse(facts: Sequence[Row]) -> None:
    """Refuses rows without a direction, counted over all ranges."""
    bad = BadRows()
    for each in facts:
        bad = bad.and_those(each["bad"])
    bad.refuse()
