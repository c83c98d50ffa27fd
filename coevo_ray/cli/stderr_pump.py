"""Process between a command's stderr and the terminal: leaves out harmless lines, or makes JSON objects of lines.

It is a process of its own so that a command that crashes loses none of its last words, and so that native code which
writes while it holds Python's lock cannot wait for itself. It runs as `python -I -S stderr_pump.py text|json RUN` with
the pipe as stdin and the terminal as stdout, imports the standard library alone, and ends when nobody can write to the
pipe any more: the command and whatever processes it has started.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time

# Ray writes this as an error for every actor that may be restarted and got more than 100 kB as arguments. They are kept
# by the driver, without which there is nothing to restart for.
HARMLESS = re.compile(
    rb"^\[[\d :,-]+ E \d+ \d+\] core_worker\.cc:\d+: Actor with class name: .* has constructor arguments in the object"
    rb" store and max_restarts > 0\..*"
)
_START = re.compile(rb"^\[\d{4}-")  # of Ray's lines, which are written at once
_CHUNK, _LONGEST = 1 << 16, 1 << 20
_PATIENCE_S, _RAY_PATIENCE_S = 0.05, 1.0
_LEVELS = (
    ("CRITICAL", re.compile(r"^\[[\d :,-]+ C \d|\bCRITICAL\b|\bFatal Python error\b")),
    ("ERROR", re.compile(r"^\[[\d :,-]+ E \d|\bERROR\b|^Traceback ")),
    ("WARNING", re.compile(r"^\[[\d :,-]+ W \d|\bWARN(ING)?\b|Warning: ")),
)


class Lines:
    """Cuts a stream of bytes into lines and decides on each.

    Args:
        as_json: make JSON objects of lines that are none.
        run: name of the run, for these, until a line that is one names it.
    """

    def __init__(self, as_json: bool, run: str = "") -> None:
        self._json = as_json
        self._at = {"run": run, "stage": ""}  # of the last line that says so
        self._open = b""
        self._cut = False  # the beginning of the open line has been written

    def take(self, data: bytes) -> bytes:
        """Takes bytes; returns what is to be written of all complete lines."""
        *lines, self._open = (self._open + data).split(b"\n")
        out = b"".join(self._line(line) for line in lines)
        return out + self.flush() if len(self._open) > _LONGEST else out

    def patience_s(self) -> float | None:
        """Seconds to wait for the rest of the open line; None without one."""
        if not self._open:
            return None
        may_be_harmless = not self._cut and _START.match(self._open) is not None
        return _RAY_PATIENCE_S if self._json or may_be_harmless else _PATIENCE_S

    def flush(self) -> bytes:
        """Returns the open line as far as it goes."""
        data, self._open = self._open, b""
        if not data:
            return b""
        if self._json:
            return self._object(data)
        self._cut = True
        return data

    def _line(self, line: bytes) -> bytes:
        whole, self._cut = not self._cut, False
        if whole and HARMLESS.match(line):
            return b""
        return self._object(line) if self._json else line + b"\n"

    def _object(self, line: bytes) -> bytes:
        text = line.decode(errors="backslashreplace").strip("\r")
        if not text.strip():
            return b""
        if text.startswith("{"):
            try:
                found = json.loads(text)
            except ValueError:
                pass
            else:
                self._at |= {name: found[name] for name in self._at if isinstance(found.get(name), str)}
                return line + b"\n"
        level = next((name for name, pattern in _LEVELS if pattern.search(text)), "INFO")
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}+00:00"
        fields = {"level": level, **self._at, "logger": "stderr", "message": text, "time": stamp}
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def main() -> None:
    """Copies until the pipe has no writers left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the command ends, and this after it
    lines = Lines(sys.argv[1] == "json", sys.argv[2])
    data = b"more"
    while data:
        ready, _, _ = select.select([0], [], [], lines.patience_s())
        if not ready:
            _write(lines.flush())
            continue
        data = os.read(0, _CHUNK)
        _write(lines.take(data))
    _write(lines.flush())


def _write(data: bytes) -> None:
    """Writes all; where nobody reads any more what comes is read on, so that the command does not wait."""
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
