"""SIGTERM ends a process in time, whatever its main thread does."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import Marked

ROOT = Path(__file__).parents[1]
_BEGIN = """
import hashlib, sys, time
from coevo_ray.cli import stopping
stopping.GRACE_S = 1.0
with stopping.ends_on_sigterm():
"""
# Main threads that outlive the error which SIGTERM raises in them.
_DEAF = {
    "errors are swallowed": """
    print("here", flush=True)
    while True:
        try:
            time.sleep(0.05)
        except Exception:  # as a library may: the error of SIGTERM is lost
            pass
""",
    "native code returns late": """
    print("here", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
""",
    "threads are waited for": """
    import threading
    threading.Thread(target=time.sleep, args=(600,)).start()
    print("here", flush=True)
    time.sleep(600)
""",
}
_RAY = """
    from coevo_ray.runtime.session import ray_session
    with ray_session():
        print("here", flush=True)
        while True:
            try:
                time.sleep(0.05)
            except Exception:  # as a library may: the error of SIGTERM is lost
                pass
"""


# Ray's native start is over and the rest of it is not: its own handler of SIGTERM, if it has put one, would abort the
# process.
_STARTING = """
    import ctypes, os, signal, threading
    from ray._private import worker
    from coevo_ray.runtime.session import ray_session

    library = ctypes.CDLL(None)

    def handler():
        found = ctypes.create_string_buffer(1024)
        library.sigaction(signal.SIGTERM.value, None, found)
        return found.raw[:8]

    own = handler()

    def tell():
        while handler() == own and not hasattr(worker.global_worker, "core_worker"):
            time.sleep(0.0001)
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell, daemon=True).start()
    with ray_session():
        time.sleep(600)
"""


@contextmanager
def started(folder: Path, code: str) -> Iterator[Marked]:
    command = Marked([sys.executable, "-c", _BEGIN + code], folder, {"PYTHONPATH": str(ROOT)})
    try:
        yield command
    finally:
        command.end()


def told(command: Marked) -> tuple[int, str]:
    """Exit code and stderr of a process that has got as far as it should."""
    command.until(lambda: "here" in command.out.read_text())
    command.process.send_signal(signal.SIGTERM)
    return command.wait(60), command.err.read_text()


@pytest.mark.parametrize("what", list(_DEAF))
def test_what_the_error_does_not_end_is_ended_at_once(tmp_path: Path, what: str) -> None:
    with started(tmp_path, _DEAF[what]) as command:
        code, said = told(command)
        assert (code, "not ended after 1 s" in said) == (4, what != "threads are waited for"), said
        assert "run the same command again" in said


@pytest.mark.slow
def test_a_local_session_ends_with_it(tmp_path: Path) -> None:
    with started(tmp_path, _RAY) as command:
        code, said = told(command)
        assert (code, "not ended after 1 s" in said) == (4, True), said
        command.assert_gone()


@pytest.mark.slow
def test_while_ray_starts_the_error_comes_too(tmp_path: Path) -> None:
    with started(tmp_path, _STARTING) as command:
        code, said = command.wait(), command.err.read_text()
        assert code == 4, f"exit code {code}\n{said}"
        assert "stopped by SIGTERM" in said and "logging.cc" not in said
        command.assert_gone(killed="not ended after" in said)


def test_the_error_ends_all_else(tmp_path: Path) -> None:
    with started(tmp_path, "    print('here', flush=True)\n    time.sleep(600)\n") as command:
        code, said = told(command)
        assert code == 4 and "stopped by SIGTERM" in said and "not ended" not in said, said


_OTHERS = """
    import subprocess
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
    its_parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {deaf!r}])"
    subprocess.Popen([sys.executable, "-c", its_parent])
    time.sleep(600)
"""
_MADE_OF_IT = """
    print("here", flush=True)
    try:
        time.sleep(600)
    except Exception as error:  # as C code that imports does: what comes out is none of ours
        raise SystemError("bad call flags") from error
"""


def test_what_it_started_ends_before_it(tmp_path: Path) -> None:
    """Ray's start, broken off, leaves processes of which Ray knows nothing; some are deaf."""
    with started(tmp_path, _OTHERS) as command:
        assert told(command)[0] == 4
        assert command.gone(5), "SIGKILL takes its time"


def test_an_error_that_is_made_of_it_is_no_other_exit_code(tmp_path: Path) -> None:
    with started(tmp_path, _MADE_OF_IT) as command:
        code, said = told(command)
        assert (code, "stopped by SIGTERM" in said) == (4, True), said


def test_behind_the_block_nothing_waits_for_the_signal() -> None:
    from coevo_ray.cli.stopping import ends_on_sigterm

    before, handler = signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGTERM)
    signal.set_wakeup_fd(before)
    try:
        with ends_on_sigterm():
            pass
        assert signal.set_wakeup_fd(before) == before
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_command_that_has_just_begun_ends_alike(tmp_path: Path) -> None:
    """While it imports what it needs there is nothing to keep, but a scheduler reads the exit code."""
    command = Marked(
        [sys.executable, "-X", "importtime", "-m", "coevo_ray", "doctor"], tmp_path, {"PYTHONPATH": str(ROOT)}
    )
    try:
        # Its own first line is written once typer is there, which the handler comes before.
        command.until(lambda: "typer" in command.err.read_text())
        command.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert command.wait(60) == 4, command.err.read_text()[-2000:]
        assert time.monotonic() - begun < 10
        assert "stopped by SIGTERM" in command.err.read_text()
        command.assert_gone()
    finally:
        command.end()
