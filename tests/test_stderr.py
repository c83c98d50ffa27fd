"""stderr of the command line: Ray's harmless line is left out, and nothing else is lost, whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.cli.stderr_pump import Lines

NOISE = (
    b"[2026-11-30 09:46:24,571 E 14363 16465] core_worker.cc:2465: Actor with class name: "
    b"'MapWorker(MapBatches(Prepare)->MapBatches(EncodeParts))' and ID: '55bb0b2d00a1e7a9d7c473fc01000000' has "
    b"constructor arguments in the object store and max_restarts > 0. If the arguments in the object store go out of "
    b"scope or are lost, the actor restart will fail. See https://github.com/ray-project/ray/issues/53727 for more "
    b"details."
)
OTHERS = (
    b"[2026-11-30 09:46:24,571 E 14363 16465] core_worker.cc:2465: Check failed: the raylet died",
    b"[2026-11-30 09:46:24,571 E 14363 16465] task_manager.cc:1: has constructor arguments in the object store",
    b"has constructor arguments in the object store and max_restarts > 0.",
    b"  " + NOISE,
    b"\x1b[2K\rbar 50%",
    b"",
    b"\xff\x00\xfe",
)
lines = st.lists(st.sampled_from([NOISE, *OTHERS]) | st.binary(max_size=30).map(lambda b: b.replace(b"\n", b" ")))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(p, len(data)) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(lines, st.lists(st.integers(0, 2000), max_size=8), st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")))
def test_exactly_the_harmless_lines_are_left_out_however_the_bytes_come(
    given_lines: list[bytes], places: list[int], end: bytes
) -> None:
    pump = Lines(as_json=False)
    data = b"".join(line + b"\n" for line in given_lines) + end
    out = b"".join(map(pump.take, cut(data, places))) + pump.flush()
    assert out == b"".join(line + b"\n" for line in given_lines if line != NOISE) + end


@given(lines, st.lists(st.integers(0, 2000), max_size=8))
def test_what_waits_too_long_for_its_end_is_written_as_it_is(given_lines: list[bytes], places: list[int]) -> None:
    """Flushed anywhere, no byte is lost but those of a whole harmless line."""
    pump, out = Lines(as_json=False), b""
    data = b"".join(line + b"\n" for line in given_lines)
    for part in cut(data, places):
        out += pump.take(part) + pump.flush()
    assert out.replace(NOISE + b"\n", b"") == data.replace(NOISE + b"\n", b"")


@given(lines, st.lists(st.integers(0, 2000), max_size=8))
def test_json_is_an_object_a_line_whatever_comes(given_lines: list[bytes], places: list[int]) -> None:
    pump, own = Lines(as_json=True, run="r"), json.dumps({"level": "INFO", "message": "own"}).encode()
    data = b"".join(line + b"\n" + own + b"\n" for line in given_lines) + b"the last one, unfinished"
    out = b"".join(map(pump.take, cut(data, places))) + pump.flush()
    objects = [json.loads(line) for line in out.splitlines()]
    said = [each["message"] for each in objects if each["message"] != "own"]
    want = [
        text
        for line in given_lines
        if line != NOISE and (text := line.decode(errors="backslashreplace").strip("\r")).strip()
    ]
    assert said == [*want, "the last one, unfinished"]
    assert all({"level", "run", "stage", "time"} <= each.keys() for each in objects if each["message"] != "own")


def test_others_lines_are_of_the_run_and_stage_that_they_come_amid() -> None:
    pump = Lines(as_json=True, run="unnamed")
    own = json.dumps({"run": "digits", "stage": "pool", "message": "own"}).encode()
    *_, last = pump.take(b"first\n" + own + b"\nlast\n").splitlines()
    assert (json.loads(last)["run"], json.loads(last)["stage"]) == ("digits", "pool")


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (OTHERS[0].decode(), "ERROR"),
        ("[2026-11-30 09:46:24,571 C 14363 16465] x.cc:1: Check failed", "CRITICAL"),
        ("2026-11-30 09:58:44,490\tWARNING token.py:85 -- Token authentication", "WARNING"),
        ("/a/b.py:3: UserWarning: something", "WARNING"),
        ("Fatal Python error: Segmentation fault", "CRITICAL"),
        ("all is well", "INFO"),
    ],
)
def test_levels_of_others_lines(line: str, level: str) -> None:
    (made,) = Lines(as_json=True).take(line.encode() + b"\n").splitlines()
    assert json.loads(made)["level"] == level


class Terminal:
    """A process whose stderr is a terminal of its own; its output is read to the end."""

    def __init__(self, code: str, **environment: str) -> None:
        here, there = pty.openpty()
        script = (
            "import os, sys, time, subprocess, signal\n"
            "from coevo_ray.cli.clean_stderr import clean_stderr\n"
            f"NOISE = {NOISE!r}\n" + code
        )
        env = {name: value for name, value in os.environ.items() if not name.startswith("COEVO_RAY_")} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stderr=there,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        os.close(there)
        self._here = here

    def text(self, seconds: float = 60) -> str:
        """All that comes until nobody holds the terminal any more."""
        data, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                part = os.read(self._here, 1 << 16)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            data += part
        os.close(self._here)
        self.process.wait(60)
        return data.decode(errors="replace").replace("\r\n", "\n")


def test_bars_see_a_terminal_and_native_lines_pass_but_for_the_noise() -> None:
    text = Terminal(
        "with clean_stderr():\n"
        "    assert sys.stderr.isatty()\n"
        "    os.write(2, b'before\\n' + NOISE + b'\\nafter\\n')\n"
        "    print('python', file=sys.stderr)\n"
        "    os.write(2, b'no newline')\n"
    ).text()
    assert sorted(text.replace("no newline", "end\n").split()) == ["after", "before", "end", "python"]
    assert "core_worker" not in text


def test_the_filter_is_switched_off() -> None:
    text = Terminal("with clean_stderr():\n    os.write(2, NOISE + b'\\n')\n", COEVO_RAY_FILTER_STDERR="0").text()
    assert "core_worker" in text


@pytest.mark.parametrize(
    "death",
    ["os._exit(7)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()", "import ctypes; ctypes.string_at(0)"],
)
def test_last_words_survive_a_crash(death: str) -> None:
    terminal = Terminal(
        "import faulthandler; faulthandler.enable()\n"
        f"with clean_stderr():\n    os.write(2, NOISE + b'\\nlast words')\n    {death}\n"
    )
    text = terminal.text()
    assert text.startswith("last words") and terminal.process.returncode != 0
    assert ("Fatal Python error" in text) == ("abort" in death or "ctypes" in death)


def test_a_megabyte_of_native_output_neither_waits_nor_is_lost() -> None:
    """Written by C code that holds Python's lock, which a reading thread of this process would wait for."""
    text = Terminal(
        "import ctypes\n"
        "c = ctypes.PyDLL(None)\n"  # unlike CDLL it keeps the lock
        "with clean_stderr():\n"
        "    for i in range(10000):\n"
        "        line = b'%099d\\n' % i\n"
        "        assert c.write(2, line, 100) == 100\n"
    ).text()
    assert [int(line) for line in text.split()] == list(range(10_000))


@pytest.mark.slow
def test_a_child_that_lives_on_neither_holds_up_the_end_nor_loses_its_lines() -> None:
    started = time.monotonic()
    terminal = Terminal(
        "with clean_stderr():\n"
        "    subprocess.Popen([sys.executable, '-c', 'import os, time; time.sleep(4); os.write(2, b\"late\\\\n\")'])\n"
        "    os.write(2, b'early\\n')\n"
    )
    assert terminal.process.wait(60) == 0
    took = time.monotonic() - started
    assert terminal.text().split() == ["early", "late"]
    assert took < time.monotonic() - started, "the command ended before its child did"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_end_readable(number: signal.Signals) -> None:
    terminal = Terminal(
        "def stop(number, frame):\n    raise SystemExit(4)\n"
        "signal.signal(signal.SIGINT, stop); signal.signal(signal.SIGTERM, stop)\n"
        "with clean_stderr():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        os.write(2, b'stopped\\n')\n"
    )
    assert terminal.process.stdout is not None and terminal.process.stdout.readline() == b"ready\n"
    time.sleep(0.5)  # the other process is there, or the signal finds it while it starts: either is right
    os.killpg(terminal.process.pid, number)
    assert terminal.text().split() == ["stopped"] and terminal.process.returncode == 4


def test_no_process_is_started_where_nobody_looks() -> None:
    """A log or a pipe keeps its descriptor 2."""
    done = subprocess.run(
        [sys.executable, "-c", "from coevo_ray.cli.clean_stderr import clean_stderr\nimport os\nwith clean_stderr():\n"
         "    print(os.readlink('/proc/self/fd/2'))"],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if not name.startswith("COEVO_RAY_")},
    )  # fmt: skip
    assert re.fullmatch(r"pipe:\[\d+\]\n", done.stdout) and done.stderr == ""


def test_bar_and_noise_beside_each_other() -> None:
    text = Terminal(
        "from coevo_ray.progress import Ticker\n"
        "with clean_stderr(), Ticker('encode', 8000) as bar:\n"
        "    bar.advance(4000)\n"
        "    os.write(2, NOISE + b'\\n')\n"
        "    time.sleep(0.3)\n"
        "    bar.advance(4000)\n"
    ).text()
    assert "8,000/8,000 rows" in text and "core_worker" not in text


@pytest.mark.slow
@pytest.mark.parametrize("filtered", ["1", "0"])
def test_the_real_line_of_the_installed_ray(filtered: str, tmp_path: Path) -> None:
    """If another version of Ray says it in other words, or no more, the pattern has to follow."""
    terminal = Terminal(
        "import numpy as np, ray\n"
        "class Held:\n"
        "    def __init__(self, array): pass\n"
        "    def ready(self): return 1\n"
        "with clean_stderr():\n"
        "    ray.init(address='local', include_dashboard=False, num_cpus=1, object_store_memory=100 << 20)\n"
        "    actor = ray.remote(num_cpus=0, max_restarts=-1)(Held).remote(np.zeros(1 << 20))\n"
        "    assert ray.get(actor.ready.remote()) == 1\n"
        "    ray.shutdown()\n"
        "    os.write(2, b'the end\\n')\n",
        COEVO_RAY_FILTER_STDERR=filtered,
    )
    text = terminal.text(300)
    assert terminal.process.returncode == 0 and "the end" in text
    assert ("constructor arguments" in text) == (filtered == "0")
