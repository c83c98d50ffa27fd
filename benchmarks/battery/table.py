"""The battery's result as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

_WORDS = {"won": "won against", "even": "even with", "lost": "lost to"}

# Lists of cells in a result, and what they are.
_LISTS = {
    "below_random": "Cells below random",
    "below_peer": "Cells below a peer",
    "lost": "Cells that were lost, to each policy by itself",
}

Cell = dict[str, Any]


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The page: for each pool and setting every method, and a verdict a cell.

    A part whose table is not pool -> setting -> method -> cell or share -> cell, or setting -> share -> method -> cell,
    gives `page`, lines of its own.
    """
    if "page" in result:
        yield from result["page"]
        return
    yield f"# {result['part']}"
    yield ""
    yield f"Percent on test rows, mean over {result['repeats']} seeds +- standard deviation. Verdicts: points +-"
    yield "standard error of the difference, seed by seed; won or lost beyond two of them."
    for pool, settings in result["table"].items():
        yield from ("", f"## {pool}", "", _facts(result, pool), "")
        for setting, found in settings.items():
            yield from _setting(setting, found, result["verdicts"][pool][setting])
    yield from ("## Verdicts", "")
    for pool, count in summary(result).items():
        yield f"- {pool}: " + ", ".join(f"{word} {count[word]}" for word in _WORDS)
    for pool, choice in result.get("constants", {}).items():
        yield f"- {pool}: {choice['constant']}, chosen on {', '.join(choice['chosen_on']) or 'no other pool'}: " + (
            f"{100 * choice['value']:.2f} here, where {choice['best_here']} is best"
        )
    for name, title in _LISTS.items():
        if name in result:
            yield from ("", f"## {title}: {len(result[name])}", "")
            yield from (f"- {_where(each)}" for each in result[name])
    for name, cause in left_out(result).items():
        yield f"- prior {name} is left out: {cause}"


def _setting(name: str, found: dict[str, Any], said: dict[str, Any]) -> Iterator[str]:
    """The table of a setting with its verdicts; one for each share if shares, which begin with a digit, come first."""
    if all(key[:1].isdigit() for key in found):
        for share, methods in found.items():
            yield from _setting(f"{name}, {percent(share)} kept", methods, said[share])
    else:
        yield from (*_table(name, found), "", *_said(said), "")


def _where(each: dict[str, Any]) -> str:
    """One cell of a list, with how far it is below what."""
    place = f"{each['pool']} {each['setting']} at {percent(each['share'])}"
    return f"{place}: {each['points']:+.2f} +- {each['standard_error']:.2f} against {each['method']}"


def _facts(result: dict[str, Any], pool: str) -> str:
    facts, on = result["pools"][pool], result["chosen_on"]
    chosen = "this pool among others" if pool in on else f"{' and '.join(on)}, not on this pool"
    rows = f"{facts['rows']:,} training and {facts['test_rows']:,} test rows ({facts['modality']})"
    return f"{rows}, {facts['classes']} classes, {facts['prior']}. Our constants were chosen on {chosen}."


def _table(setting: str, methods: dict[str, Any]) -> Iterator[str]:
    cells = {method: {"": found} if "mean" in found else found for method, found in methods.items()}
    columns = list(dict.fromkeys(column for found in cells.values() for column in found))
    spent = all("visits" in cell for found in cells.values() for cell in found.values())
    titles = [setting, *(percent(column) for column in columns), *(("visits", "seconds") if spent else ())]
    yield _row(titles)
    yield "|---" * len(titles) + "|"
    for method, found in cells.items():
        yield _row([method, *(_shown(found.get(column)) for column in columns), *(_spent(found[""]) if spent else ())])


def _said(said: dict[str, Any]) -> Iterator[str]:
    for place, verdict in verdicts_of(said):
        words = f"{_WORDS[verdict['verdict']]} {verdict['against']}"
        yield f"- {place}: {words} ({verdict['points']:+.2f} +- {verdict['standard_error']:.2f})"


def summary(result: dict[str, Any]) -> dict[str, Counter[str]]:
    """Pool -> verdict -> number of cells."""
    return {
        pool: Counter(verdict["verdict"] for said in settings.values() for _, verdict in verdicts_of(said))
        for pool, settings in result["verdicts"].items()
    }


def verdicts_of(said: dict[str, Any]) -> Iterator[tuple[str, Cell]]:
    """The verdicts of a setting, method -> verdict or share -> method -> verdict, each with its place in words."""
    for name, value in said.items():
        if "verdict" in value:
            yield name, value
        else:
            yield from ((f"{method} at {percent(name)}", verdict) for method, verdict in value.items())


def left_out(result: dict[str, Any]) -> dict[str, str]:
    """Prior -> the cause why it is left out."""
    return {name: cause for names in result.get("left_out", {}).values() for name, cause in names.items()}


def percent(share: str) -> str:
    """A share, as the JSON has it, in percent; words stay."""
    return f"{100 * float(share):g} %" if share[:1].isdigit() else share


def _shown(cell: Cell | None) -> str:
    return f"{100 * cell['mean']:.1f} +- {100 * cell['spread']:.1f}" if cell else ""


def _spent(cell: Cell) -> tuple[str, str]:
    """Visits, and seconds of the training + those of preparing what the policy looks at."""
    before = f" + {cell['preparation_seconds']:.1f}" if cell["preparation_seconds"] else ""
    return f"{cell['visits']:,}", f"{cell['seconds']:.1f}{before}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
