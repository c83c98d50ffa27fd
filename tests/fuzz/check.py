"""One property for all parsers: a damaged input is read, or refused by an error with an exit code of bad input."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from coevo_ray.errors import CoevoError
from tests.fuzz.inputs import CHANGES, Files, Operation, damaged
from tests.fuzz.parsers import Parser

_EXIT_CODES = (2, 3)
_MOST_SECONDS = 20.0
_MOST_KIB = 1_000_000
_CHUNK = 500  # inputs of one test of Hypothesis, which remembers all that it tried


@dataclass
class Tried:
    """Counts of one parser's inputs.

    Attributes:
        inputs: number of them.
        read, refused: how they ended.
        slowest: seconds of the slowest.
        grown: KiB by which the process's peak memory grew.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    grown: int = 0


def fuzz(parser: Parser, inputs: int, first_seed: int = 0) -> Tried:
    """Tries inputs on a parser.

    Raises:
        AssertionError: an input ended otherwise than it may; the message has what is needed to repeat it.
    """
    tried = Tried()
    with tempfile.TemporaryDirectory() as outside, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(outside) / "in" / "side"
        folder.mkdir(parents=True)
        seeds = parser.seeds(Path(outside) / "made")
        before = _names(outside)
        here, peak = Path.cwd(), _peak()
        os.chdir(folder)  # relative paths of an input would end up where they are looked for
        try:
            for number, start in enumerate(range(0, inputs, _CHUNK)):
                _chunk(parser, seeds, folder, min(_CHUNK, inputs - start), first_seed + number, tried)
                assert _names(outside) == before, f"{parser.name}: wrote outside its folder"
        finally:
            os.chdir(here)
        tried.grown = _peak() - peak
        assert tried.grown <= _MOST_KIB, f"{parser.name}: memory grew by {tried.grown} KiB"
    return tried


def _chunk(parser: Parser, seeds: list[Files], folder: Path, inputs: int, start: int, tried: Tried) -> None:
    @seed(start)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(CHANGES)
    def test(change: tuple[int, int, list[Operation]]) -> None:
        files = damaged(seeds, change)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        try:
            _one(parser, folder, tried)
        finally:
            for file in sorted(folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()

    test()


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
