"""Tries many inputs on each parser: `python -m tests.fuzz --inputs 1000000` shares them out and prints the counts."""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.fuzz.check import fuzz
from tests.fuzz.parsers import PARSERS


def main() -> int:
    """Runs each parser in a process of its own, so that its memory is its own; the exit code is 1 on a failure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=1_000_000, help="in all")
    options.add_argument("--seed", type=int, default=0, help="another seed tries other inputs")
    options.add_argument("--first", type=int, default=0, help="number of the first input, with --parser")
    options.add_argument("--parser", choices=sorted(PARSERS), help="this one alone, in this process")
    given = options.parse_args()
    if given.parser:
        tried = fuzz(PARSERS[given.parser], given.inputs, given.seed, given.first)
        print(
            f"{given.parser}: {tried.inputs:,} inputs ({tried.distinct:,} distinct), "
            f"{tried.read:,} read, {tried.refused:,} refused, 0 failures, "
            f"slowest {tried.slowest:.2f} s, memory +{tried.grown // 1024} MB",
            flush=True,
        )
        return 0
    share = -(-given.inputs // len(PARSERS))
    failed = []
    for name in sorted(PARSERS):
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--parser",
            name,
            "--inputs",
            str(share),
            "--seed",
            str(given.seed),
        ]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"{share * len(PARSERS):,} inputs; failures in {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
