"""Runs functions over shards with Ray Data: one shard is one block from the first stage to the last.

Shards are ranges of rows, fixed by the configuration and not by Ray's parallelism, so that results and resuming do not
depend on it. Stages return small rows; they write data to the store themselves.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from coevo_ray.errors import CoevoError, StoppedError
from coevo_ray.progress import Ticker
from coevo_ray.runtime.at_work import at_work
from coevo_ray.runtime.causes import cause_of
from coevo_ray.runtime.resources import TASK, Need, require
from coevo_ray.runtime.session import configure
from coevo_ray.runtime.watchdog import Patience, watched
from coevo_ray.store.writing import check_leases

Row = dict[str, Any]
_IN_FLIGHT = 256  # tasks, so that the results of many items do not pile up
_IN_ORDER = 16
_NAMES = frozenset({"shard", "name", "start", "stop", "at", "index"})  # of items, that tell one from another
_RAY_ADVICE = "\nFailed to apply UDF transform"


def run_shards(
    title: str,
    shards: Sequence[int] | Sequence[Row],
    stages: Callable[[ray.data.Dataset], ray.data.Dataset],
    *,
    total: int | None = None,
    unit: str = "rows",
    needs: Sequence[Need] = (TASK,),
) -> Iterator[Row]:
    """Runs stages over some shards and yields their result rows as they come, in any order.

    Args:
        title: shown while it runs.
        shards: indices of shards, or rows that describe them; without any, nothing is started.
        stages: adds map stages to a dataset of rows {"shard": int}, or of those rows.
        total: sum of the result rows' "rows", for progress; "rejected" says how many of them are rejected.
        unit: name of a unit, for progress.
        needs: what of the stages runs at the same time at least.

    Raises:
        CoevoError: an error of a stage, as it was raised there.
        UsageError: the cluster has no room for what it needs, see `runtime.resources.require`.
        StoppedError: Ray failed (a lost node, a killed worker that could not be replaced), nothing moved for too long,
            or another process has taken over what is written.
    """
    if not shards:
        return
    require(title, *needs)
    items = [shard if isinstance(shard, dict) else {"shard": shard} for shard in shards]
    dataset = stages(configure(ray.data.from_items(items, override_num_blocks=len(items))))
    with Ticker(title, total, unit) as ticker, ray_errors(title):
        for row in watched(title, dataset.iter_rows, lambda: _end(dataset)):
            check_leases()
            _advance(ticker, row)
            yield dict(row)


def run_each(
    title: str,
    items: Sequence[int] | Sequence[Row],
    work: Callable[[Row], Row],
    *,
    need: Need = TASK,
    total: int | None = None,
    unit: str = "rows",
) -> Iterator[Row]:
    """`run_shards` with a single stage, of one task for each item.

    Args:
        title, items, total, unit: as there.
        work: item -> result row.
        need: of each task.
    """
    noted = _noted(title, work)
    return run_shards(title, items, lambda d: d.map(noted, **need.options), total=total, unit=unit, needs=[need])


def run_tasks(
    title: str,
    items: Sequence[Row],
    work: Callable[[Row], Row],
    *,
    total: int | None = None,
    num_cpus: float = 0.5,
    in_order: bool = False,
    at_once: int | None = None,
) -> Iterator[Row]:
    """Runs a function on some items as plain Ray tasks, which start at once, and yields the results as they come.

    For work of seconds, where the start of a Ray Data execution would be most of it.

    Args:
        title: shown while it runs.
        items: descriptions of the work; without any, nothing is started.
        work: item -> result row, with "rows" for progress.
        total: sum of the result rows' "rows", for progress.
        num_cpus: of a task.
        in_order: yield the results in the order of the items; few of them wait at a time, so they may be large.
        at_once: most tasks at a time. Each takes a process, which imports for two seconds what the work needs unless an
            earlier stage's is idle: a few tasks of less work than that are done sooner in one. None for many.

    Raises:
        CoevoError: an error of a task, as it was raised there.
        UsageError: the cluster has no room for one, see `runtime.resources.require`.
        StoppedError: Ray failed, nothing moved for too long, or another process has taken over what is written.
    """
    if not items:
        return
    require(title, Need("task", num_cpus))
    task = ray.remote(num_cpus=num_cpus)(_noted(title, work))
    starts = (functools.partial(task.remote, item) for item in items)
    most = at_once or (_IN_ORDER if in_order else _IN_FLIGHT)
    with (
        Ticker(title, total, "rows") as ticker,
        ray_errors(title),
        closing(_results(title, starts, most, in_order)) as results,
    ):
        for row in results:
            _advance(ticker, row)
            yield row


def keep_each(
    title: str,
    items: Sequence[Row],
    work: Callable[..., Any],
    arguments: Iterable[Sequence[Any]],
    ticker: Ticker,
    *,
    need: Need = TASK,
    returns: int = 0,
) -> tuple[list[Row], list[list[ray.ObjectRef[Any]]]]:
    """Runs a function on some items as plain Ray tasks whose results stay in the object store.

    What is lost with a node, Ray makes again from what it was made of.

    Args:
        title: of the work, for errors.
        items: descriptions of the work.
        work: item, arguments -> a small row, and before further results, if there are any, that row in one list with
            them.
        arguments: of each item, references or values; taken when its task starts, so that the caller need not hold
            what no other task needs.
        ticker: advanced by one for each item.
        need: of each task.
        returns: number of further results.

    Returns:
        The rows, and the references of each item's further results.

    Raises:
        CoevoError: an error of a task, as it was raised there.
        UsageError, StoppedError: as `run_tasks`.
    """
    require(title, need)
    task: Any = ray.remote(_noted(title, _at_the_back(work, returns)))
    name = getattr(work, "__name__", "work")
    task = task.options(**need.options, num_returns=1 + returns, name=f"{title}: {name}")
    rows: list[Row] = [{} for _ in items]
    kept: list[list[ray.ObjectRef[Any]]] = [[] for _ in items]

    def starts() -> Iterator[Callable[[], ray.ObjectRef[Row]]]:
        for at, (item, given) in enumerate(zip(items, arguments, strict=True)):
            yield functools.partial(start, at, item, given)

    def start(at: int, item: Row, given: Sequence[Any]) -> Any:
        made = task.remote({**item, "at": at}, *given)
        first, *kept[at] = made if returns else [made]
        return first

    with ray_errors(title), closing(_results(title, starts(), _IN_FLIGHT)) as results:
        for row in results:
            rows[row["at"]] = row
            ticker.advance()
    return rows, kept


def _at_the_back(work: Callable[..., Any], returns: int) -> Callable[..., Any]:
    """The function, with the item's place in its row."""

    def placed(item: Row, *given: Any) -> Any:
        row, *rest = work(item, *given) if returns else [work(item, *given)]
        row = {**row, "at": item["at"]}
        return [row, *rest] if returns else row

    return placed


def _results(
    title: str, starts: Iterable[Callable[[], ray.ObjectRef[Row]]], most: int, in_order: bool = False
) -> Generator[Row, None, None]:
    """Starts tasks, so many at a time at most, and yields their results."""
    todo, more = iter(starts), True
    running: list[ray.ObjectRef[Row]] = []
    patience = Patience(title)
    with _cancelled_on_error(running):
        while more or running:
            while more and len(running) < most:
                start = next(todo, None)
                more = start is not None
                if start is not None:
                    running.append(start())
            if not running:
                return
            start = None  # and what it holds
            done, _ = ray.wait(running[:1] if in_order else running, num_returns=1, timeout=patience.wait_s())
            if not done:
                patience.check()
                continue
            running.remove(done[0])
            row = ray.get(done[0])
            check_leases()
            yield row
            patience.moved()


def _advance(ticker: Ticker, row: Row) -> None:
    ticker.advance(int(row.get("rows", 1)), rejected=int(row.get("rejected") or 0))


def _noted(title: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a note of what it is at; see `runtime.at_work`."""

    def noted(row: Row, *given: Any) -> Any:
        plain = (f"{name} {value}" for name, value in row.items() if isinstance(value, int | str) and name in _NAMES)
        with at_work(f"{title}, {', '.join(plain) or 'a part'}"):
            return work(row, *given)

    return noted


def _end(dataset: ray.data.Dataset) -> None:
    """Ends an execution whose iterator hangs in another thread; for this Ray has no public way."""
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


@contextmanager
def _cancelled_on_error(running: list[ray.ObjectRef[Row]]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for reference in running:
            ray.cancel(reference, force=True)
        raise


class ray_errors:  # noqa: N801 - used like a function, in a with statement
    """Re-raises the error of a worker without the wrappers that Ray adds."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or (isinstance(error, CoevoError) and not isinstance(error, RayError)):
            return
        del trace  # see `_without_frames`; this frame will be part of the new error's
        inner = unwrap(error)
        if inner is not None:
            raise inner from _without_frames(error)
        if isinstance(error, RayError):
            raise StoppedError(
                f"{self.title}: Ray stopped the work: {cause_of(error)}",
                "see the Ray logs for the cause, then run the same command again: finished shards are kept",
            ) from _without_frames(error)


def _without_frames(error: BaseException) -> BaseException:
    """Drops the frames that an error of Ray and its causes came through; its text keeps the worker's trace.

    Ray Data ends an actor when nothing refers to it any more. Those frames do, for as long as somebody keeps the error
    (a notebook does), and cycles of theirs until Python next looks for some: the actors would keep their CPUs, and
    later work would wait for them without an end.
    """
    for one in _chain(error):
        one.__traceback__ = None
    gc.collect()
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes and those of Ray's wrappers, each once."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        item = todo.pop()
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        todo += [item.__cause__, item.__context__, getattr(item, "cause", None)]
        todo.append(getattr(item, "controller_failure", None))
        todo += getattr(item, "args", ())
        failures = getattr(item, "worker_failures", None)
        todo += list(failures.values()) if isinstance(failures, dict) else []


def unwrap(error: BaseException) -> CoevoError | None:
    """Returns the CoevoError in a chain of Ray errors, or None."""
    for item in _chain(error):
        if isinstance(item, CoevoError) and not isinstance(item, RayError):
            # Ray Data appends advice on its own retries to the first argument.
            return type(item)(item.cause.split(_RAY_ADVICE)[0], item.remedy)
    return None
