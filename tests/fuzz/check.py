"""One property for all parsers: a damaged input is read, or refused by an error with an exit code of bad input."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import resource
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from coevo_ray.errors import CoevoError
from tests.fuzz.inputs import Files, damaged
from tests.fuzz.parsers import Parser

_EXIT_CODES = (2, 3)
_MOST_SECONDS = 20.0
_MOST_KIB = 1_000_000
_CHUNK = 500  # inputs between two looks at what lies outside
_MEMORY = Path("/dev/shm")  # where it exists, files that live for a millisecond need no disk


@dataclass
class Tried:
    """Counts of one parser's inputs.

    Attributes:
        inputs: number of them.
        distinct: how many of them differ from all others.
        read, refused: how they ended.
        slowest: seconds of the slowest.
        grown: KiB by which the process's peak memory grew.
        failures: what went wrong, the first of each kind.
    """

    inputs: int = 0
    distinct: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    grown: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def fuzz(parser: Parser, inputs: int, seed: int = 0, first: int = 0) -> Tried:
    """Tries inputs on a parser.

    Args:
        parser: what is tried.
        inputs: how many.
        seed: another one makes other inputs.
        first: number of the first one; an input depends on the parser, the seed and its number alone.

    Raises:
        AssertionError: an input ended otherwise than it may; the message has what is needed to repeat it.
    """
    tried, digests = Tried(), set[bytes]()
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as outside, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(outside) / "in" / "side"
        folder.mkdir(parents=True)
        seeds = parser.seeds(Path(outside) / "made")
        before = _names(outside)
        here, peak = Path.cwd(), _peak()
        os.chdir(folder)  # relative paths of an input would end up where they are looked for
        try:
            for start in range(first, first + inputs, _CHUNK):
                for number in range(start, min(start + _CHUNK, first + inputs)):
                    files = damaged(seeds, Random(f"{parser.name} {seed} {number}"))
                    digests.add(_digest(files))
                    _in_folder(parser, folder, files, f"--parser {parser.name!r} --seed {seed} --first {number}", tried)
                assert _names(outside) == before, f"{parser.name}: wrote outside its folder"
        finally:
            os.chdir(here)
        tried.distinct = len(digests)
        tried.grown = _peak() - peak
        assert not tried.failures, "\n".join(tried.failures.values())
        assert tried.grown <= _MOST_KIB, f"{parser.name}: memory grew by {tried.grown} KiB"
    return tried


def _in_folder(parser: Parser, folder: Path, files: Files, repeat: str, tried: Tried) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    try:
        _one(parser, folder, tried)
    except Exception as error:  # noqa: BLE001 - any but the expected one is a failure; the others are tried all the same
        *_, last = traceback.extract_tb(error.__traceback__)
        kind = f"{type(error).__name__} at {last.filename}:{last.lineno}"
        tried.failures.setdefault(kind, f"{kind}: {error!s:.500}; again: python -m tests.fuzz {repeat} --inputs 1")
    finally:
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


def _one(parser: Parser, folder: Path, tried: Tried) -> None:
    there, started = _names(folder), time.monotonic()
    tried.inputs += 1
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            parser.parse(folder)
            tried.read += 1
        except CoevoError as error:
            assert error.exit_code in _EXIT_CODES, f"{parser.name}: exit {error.exit_code}: {error}"
            assert error.remedy
            assert str(error).isprintable() or "\n" in str(error)
            tried.refused += 1
    seconds = time.monotonic() - started
    tried.slowest = max(tried.slowest, seconds)
    assert seconds <= _MOST_SECONDS, f"{parser.name}: took {seconds:.0f} s"
    assert _names(folder) == there, f"{parser.name}: wrote {_names(folder) - there}"


def _names(folder: str | Path) -> set[str]:
    """Files below a folder, but for those of the input itself."""
    root = Path(folder)
    return {
        str(file.relative_to(root)) for file in root.rglob("*") if "in/side/" not in f"{file}/" or root.name == "side"
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _digest(files: Files) -> bytes:
    return hashlib.blake2b(repr(sorted(files.items())).encode(), digest_size=16).digest()
