"""The page of results, from the files of `benchmarks/results`."""

from __future__ import annotations

import json
from typing import Any

from website import worth
from website.markdown import cell

_INTRODUCTION = """# Results

Made from `benchmarks/results` at build time. Each file was written by the benchmark that it names; `make bench` runs
them small, and [the page of benchmarks](benchmarks.md) says how each was run and what it found.

"""


def page() -> str:
    """The page, as Markdown."""
    return (
        _INTRODUCTION
        + "Accuracy in percent beside the best simple way that was measured with it:\n\n"
        + worth.table()
        + "\n## Pages\n\n"
        + "".join(f"- [{name}](results/{name}.md)\n" for name in names(".md"))
        + "\n## Files\n\n| file | benchmark | repeats | machine |\n|---|---|---|---|\n"
        + "".join(_file(name) for name in names(".json"))
    )


def names(ending: str) -> list[str]:
    """Names of the results with an ending, without it."""
    return sorted(path.stem for path in worth.RESULTS.glob(f"*{ending}"))


def _file(name: str) -> str:
    found: Any = json.loads((worth.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    told = found if isinstance(found, dict) else {}
    benchmark = " ".join(str(told[key]) for key in ("benchmark", "part") if key in told)
    hardware = told.get("hardware", "")
    machine = ", ".join(f"{key} {value}" for key, value in hardware.items()) if isinstance(hardware, dict) else hardware
    return f"| [{name}](results/{name}.json) | {cell(benchmark)} | {told.get('repeats', '')} | {cell(str(machine))} |\n"
