"""The Ray session: the current one, else the cluster at RAY_ADDRESS, else a local one; never two."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from coevo_ray.errors import UsageError

_OBJECT_STORE_BYTES = 2 << 30
# Set before the first worker of a local session starts; a user's own setting wins.
_ENVIRONMENT = {
    # Ray Train collects reports when it polls its workers; polling every 2 s would double the time of short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def ray_session() -> Iterator[None]:
    """Connects to Ray for the duration of the block; closes only what it opened.

    Raises:
        UsageError: the cluster at RAY_ADDRESS cannot be reached.
    """
    if ray.is_initialized():
        _configure_data()
        yield
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    _connect()
    if callable(on_terminate) and threading.current_thread() is threading.main_thread():
        # ray.init installs a handler that aborts the process; ours ends it with the exit code for "resumable".
        signal.signal(signal.SIGTERM, on_terminate)
    _configure_data()
    try:
        yield
    finally:
        ray.shutdown()


def _connect() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            _check_port(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UsageError(
                f"cannot reach the Ray cluster at RAY_ADDRESS={address}: {error}",
                "start it, correct RAY_ADDRESS (with token authentication, also RAY_AUTH_MODE=token and the token), "
                "or unset it to run on this machine alone",
            ) from error
        return
    # A bounded object store: the default (30 % of memory) is far more than bounded shards need.
    store = min(_OBJECT_STORE_BYTES, int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.2))
    ray.init(
        address="local",
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=store,
    )


def _check_port(address: str) -> None:
    """Fails at once if nothing listens at the address; Ray itself would retry for minutes.

    Raises:
        OSError: no connection.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():  # "auto" and "local" name no port
        socket.create_connection((host, int(port)), timeout=10).close()


def _configure_data() -> None:
    """Configures Ray Data in this process as all pipelines need it."""
    context = ray.data.DataContext.get_current()
    # Otherwise an error's type and text are lost in the wrapper when it is pickled.
    context.raise_original_map_exception = True
    # Ray Data's own progress bars flood logs that are not terminals; ours are shown instead.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_operator_progress_bars = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that they are off
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # An error comes back to the caller as it was raised; its printed trace hides that in a page of Ray's own frames.
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)
    # It advises to declare the memory of workers, most of which is PyTorch's libraries, shared by all of them.
    detectors = getattr(context, "issue_detectors_config", None)  # not in the oldest versions
    if detectors is not None:
        detectors.high_memory_detector_config.detection_time_interval_s = -1
