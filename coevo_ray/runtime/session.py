"""The Ray session: the current one, else the cluster at RAY_ADDRESS, else a local one; never two.

It is a guest in the process: what Ray and this package change in it for the session is as before when the last block
has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
import ray.data
from ray.job_config import JobConfig

from coevo_ray.errors import CoevoError, UsageError
from coevo_ray.logs import is_json
from coevo_ray.progress import waiting
from coevo_ray.runtime.address import check_address
from coevo_ray.runtime.alike import AlikeNodes
from coevo_ray.runtime.metrics import RayMetrics
from coevo_ray.runtime.own_sigterm import own_sigterm
from coevo_ray.store.location import LEASE, Location
from coevo_ray.store.manifest import MANIFEST
from coevo_ray.telemetry import receive

_OBJECT_STORE_BYTES = 2 << 30
# Set before the first worker of a local session starts; a user's own setting wins.
_ENVIRONMENT = {
    # Ray Train collects reports when it polls its workers; polling every 2 s would double the time of short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
# The same, where nobody else's node can be taken away: it saves every training a process.
_LOCAL_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_LEVELS = {
    "ray.data": logging.WARNING,
    "ray.train": logging.WARNING,
    # It warns that the progress bars of our datasets are off.
    "ray.data._internal.progress": logging.ERROR,
    # An error comes back to the caller as it was raised; its printed trace hides that in a page of Ray's own frames.
    "ray.data._internal.execution.streaming_executor_state": logging.CRITICAL,
    "ray.data.exceptions": logging.CRITICAL,
}


@contextmanager
def ray_session(
    reads: Sequence[Location] = (), writes: Sequence[Location] = (), sources: Sequence[Location] = ()
) -> Iterator[None]:
    """Connects to Ray for the duration of the block; closes only what it opened, after the last block of any thread.

    Args:
        reads: folders of finished artifacts that the work on every node reads.
        writes: folders that it writes to, whose leases are held.
        sources: other files and folders that it reads.

    Raises:
        UsageError: Ray cannot be started, or the cluster at RAY_ADDRESS cannot be reached; it takes two minutes at most
            to find out. Or a node of the cluster is not like this process, see `runtime.alike`.
        StoppedError: a node does not answer.
    """
    _BLOCKS.enter()
    try:
        check_nodes(reads, writes, sources)
        yield
    finally:
        _BLOCKS.leave()


def check_nodes(
    reads: Sequence[Location] = (), writes: Sequence[Location] = (), sources: Sequence[Location] = ()
) -> None:
    """Checks within a session that every node sees some folders and files.

    Args:
        reads, writes, sources: as for `ray_session`.

    Raises:
        UsageError: a node does not see one of them, or is not like this process, see `runtime.alike`.
        StoppedError: a node does not answer.
    """
    places = [folder.child(MANIFEST) for folder in reads] + [folder.child(LEASE) for folder in writes]
    _BLOCKS.check([*places, *sources])


def configure(dataset: ray.data.Dataset) -> ray.data.Dataset:
    """Sets how a dataset of this package is executed, and no dataset of the user's.

    Args:
        dataset: just made; it has its own copy of the settings.
    """
    context = dataset.context
    # Otherwise an error's type and text are lost in the wrapper when it is pickled.
    context.raise_original_map_exception = True
    # Ray Data's own progress bars flood logs that are not terminals; ours are shown instead.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_operator_progress_bars = False
    # It advises to declare the memory of workers, most of which is PyTorch's libraries, shared by all of them.
    detectors = getattr(context, "issue_detectors_config", None)  # not in the oldest versions
    if detectors is not None:
        detectors.high_memory_detector_config.detection_time_interval_s = -1
    return dataset


def end_local_node() -> None:
    """Ends the processes of a local session, as far as there is one, for a process that ends without leaving it.

    They would end with this process anyway, but Ray's agents on a node look for its raylet for a minute.
    """
    node: Any = ray._private.worker._global_node
    if node is not None and node.is_head():
        node.kill_all_processes(check_alive=False, allow_graceful=True)


class _Blocks:
    """The blocks of all threads: the first one connects, the last one puts everything back."""

    def __init__(self) -> None:
        self._lock, self._open, self._undo = threading.Lock(), 0, ExitStack()
        self._nodes: AlikeNodes | None = None  # None where all nodes are this machine and this Python

    def check(self, seen: Sequence[Location]) -> None:
        if self._nodes is not None:
            self._nodes.check(seen)

    def enter(self) -> None:
        with self._lock:
            if not self._open or not ray.is_initialized():  # the user may have closed it in another thread
                self._connect()
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                self._undo.pop_all().close()

    def _connect(self) -> None:
        with ExitStack() as undo:
            undo.enter_context(_levels_kept())
            own = not ray.is_initialized() and not os.environ.get("RAY_ADDRESS")
            self._nodes = None if own else AlikeNodes()
            if not ray.is_initialized():
                undo.enter_context(_environment_kept())
                undo.enter_context(_terminate_kept())
                undo.callback(ray.shutdown)  # after a start that failed half-way, too
                with waiting("connect to Ray" if os.environ.get("RAY_ADDRESS") else "start Ray"):
                    _start()
            undo.callback(receive, receive(RayMetrics()))
            for name, level in _LEVELS.items():
                logging.getLogger(name).setLevel(level)
            self._undo.push(undo.pop_all())


_BLOCKS = _Blocks()


def _start() -> None:
    address = os.environ.get("RAY_ADDRESS")
    for name, value in (_ENVIRONMENT if address else _ENVIRONMENT | _LOCAL_ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            check_address(address)
        with own_sigterm():
            _init(address)
    except CoevoError:
        raise  # a signal came
    except SystemExit as error:
        if error.code == signal.SIGTERM and callable(before):  # Ray's handler was in place already
            before(signal.SIGTERM, None)
        raise
    except Exception as error:  # Ray raises plain Exceptions, too
        raise _refusal(address, error) from error
    if callable(before) and threading.current_thread() is threading.main_thread():
        # Ray's handler aborts the process; ours ends it with the exit code for "resumable".
        signal.signal(signal.SIGTERM, before)


def _init(address: str | None) -> None:
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if is_json():  # in the workers' files; what this process says has a format already
        settings["job_config"] = JobConfig()
        settings["job_config"].set_py_logging_config(ray.LoggingConfig(encoding="JSON", log_level="WARNING"))
    if address:
        ray.init(address=address, **settings)
        return
    # A bounded object store: the default (30 % of memory) is far more than bounded shards need.
    store = min(_OBJECT_STORE_BYTES, int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.2))
    ray.init(address="local", include_dashboard=False, object_store_memory=store, **settings)


def _refusal(address: str | None, error: Exception) -> UsageError:
    cause = str(error).strip() or type(error).__name__
    if address:
        return UsageError(
            f"cannot reach the Ray cluster at RAY_ADDRESS={address}: {cause}",
            "start it with the same version of Ray, correct RAY_ADDRESS (host:port; with token authentication, also "
            "RAY_AUTH_MODE=token and the token), or unset it to run on this machine alone",
        )
    return UsageError(
        f"cannot start Ray on this machine: {cause}",
        "free memory, /dev/shm and the disk of Ray's folder (/tmp; RAY_TMPDIR=FOLDER names another one, with a short "
        "path), and check its logs there, ray/session_latest/logs; or set RAY_ADDRESS to a cluster",
    )


# -- the process as it was -------------------------------------------------------------------------------------------


@contextmanager
def _levels_kept() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("ray", *_LEVELS)]
    before = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Restores what starting Ray sets, which would reach later sessions and processes of the user."""
    before = dict(os.environ)
    try:
        yield
    finally:
        names = [name for name in {*before, *os.environ} if _is_of_ray(name)]
        _put_back(before, names)


def _is_of_ray(name: str) -> bool:
    return name.startswith("RAY_") or name in {*_ENVIRONMENT, "PYTHONBREAKPOINT"}


def _put_back(before: Mapping[str, str], names: list[str]) -> None:
    for name in names:
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)


@contextmanager
def _terminate_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM, which Ray replaces in the main thread."""
    before: Callable[..., Any] | int | None = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
