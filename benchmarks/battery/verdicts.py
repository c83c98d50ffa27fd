"""Results over the seeds: means, verdicts against the best simple alternative, and constants chosen elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Said = Literal["won", "even", "lost"]
ERRORS = 2.0  # standard errors that a difference must exceed


@dataclass(frozen=True)
class Verdict:
    """One method against the best simple alternative of a cell.

    Attributes:
        verdict: `won` or `lost` where the mean difference, seed by seed, is above 2 of its standard errors (the
            standard deviation of the differences over seeds, divided by the square root of their number); else `even`.
        against: the alternative with the highest mean.
        points: the mean difference to it, in percentage points.
        standard_error: of the mean difference, in points.
    """

    verdict: Said
    against: str
    points: float
    standard_error: float

    def to_json(self) -> dict[str, str | float]:
        """Its attributes."""
        return asdict(self)

    def __str__(self) -> str:
        words = {"won": "won against", "even": "even with", "lost": "lost to"}
        return f"{words[self.verdict]} {self.against} ({self.points:+.2f} +- {self.standard_error:.2f})"


@dataclass(frozen=True)
class Choice:
    """A constant for one pool.

    Attributes:
        constant: its name.
        chosen_on: the pools that it was chosen on, never the pool itself; empty where there was no other, so that the
            constant is the default.
        mean: over the results on those pools; None where there was none.
        value: the result on the pool itself.
        best_here: the constant that would have been best on the pool itself, for comparison.
    """

    constant: str
    chosen_on: tuple[str, ...]
    mean: float | None
    value: float
    best_here: str

    def to_json(self) -> dict[str, object]:
        """Its attributes."""
        return {**asdict(self), "chosen_on": list(self.chosen_on)}


def cell(values: Sequence[float]) -> dict[str, float | list[float]]:
    """`mean`, `spread` (standard deviation over seeds, 0 for one seed) and the `values`, in the order of the seeds."""
    return {
        "mean": round(statistics.fmean(values), 5),
        "spread": round(statistics.stdev(values), 5) if len(values) > 1 else 0.0,
        "values": [round(value, 5) for value in values],
    }


def judge(ours: Sequence[float], alternatives: Mapping[str, Sequence[float]]) -> Verdict:
    """Compares a method with the best of some alternatives.

    Args:
        ours: result of each seed, a share from 0 to 1.
        alternatives: name -> the same for the same seeds.

    Raises:
        ValueError: there are fewer than two seeds, no alternatives, or other numbers of seeds.
    """
    if len(ours) < 2 or not alternatives or any(len(values) != len(ours) for values in alternatives.values()):
        raise ValueError(f"a verdict on {len(ours)} seeds against {len(alternatives)} alternatives")
    best = max(alternatives, key=lambda name: statistics.fmean(alternatives[name]))
    differences = [100 * (a - b) for a, b in zip(ours, alternatives[best], strict=True)]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    said: Said = "won" if mean > ERRORS * error else "lost" if mean < -ERRORS * error else "even"
    return Verdict(said, best, round(mean, 3), round(error, 3))


def verdicts(
    table: Mapping[str, Sequence[float]], ours: Sequence[str], simple: Sequence[str]
) -> dict[str, dict[str, str | float]]:
    """Judges each of our methods in one cell against the simple ones.

    Args:
        table: method -> result of each seed.
        ours: methods to judge.
        simple: methods to judge them against.
    """
    alternatives = {name: table[name] for name in simple if name in table}
    return {name: judge(table[name], alternatives).to_json() for name in ours if name in table}


def lost_to(table: Mapping[str, Sequence[float]], ours: str, others: Sequence[str]) -> Iterator[dict[str, str | float]]:
    """The methods of one cell that one method lost to, each by itself.

    Args:
        table: method -> result of each seed.
        ours: the method.
        others: methods that it is compared with; those that the table lacks are passed over.

    Returns:
        Of each: `method`, `points` (negative) and their `standard_error`.
    """
    for other in others:
        if other in table:
            said = judge(table[ours], {other: table[other]})
            if said.verdict == "lost":
                yield {"method": other, "points": said.points, "standard_error": said.standard_error}


def lost_cells(table: Mapping[str, Any], rivals: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Cells in which a method of ours is below another one by more than two standard errors, seed by seed.

    Args:
        table: pool -> setting -> kept share -> method -> cell.
        rivals: our method -> those that it is compared with, each by itself.

    Returns:
        Of each: `pool`, `setting`, `share` and what `lost_to` gives.
    """
    found = []
    for pool, settings in table.items():
        for setting, shares in settings.items():
            for share, methods in shares.items():
                values = {name: each["values"] for name, each in methods.items()}
                said = (one for ours, others in rivals.items() for one in lost_to(values, ours, others))
                found += [{"pool": pool, "setting": setting, "share": share, **one} for one in said]
    return found


def cells_of(found: Mapping[str, Any], method: str) -> list[Mapping[str, Any]]:
    """All cells of one method in a setting: method -> cell, method -> share -> cell, or share -> method -> cell."""
    if method not in found:
        return [cell for methods in found.values() for cell in cells_of(methods, method)]
    return [found[method]] if "mean" in found[method] else list(found[method].values())


def chosen_constants(table: Mapping[str, Mapping[str, Mapping[str, Any]]], ours: Sequence[str]) -> dict[str, Any]:
    """Chooses one of our methods for each pool by their means on the other pools, over all settings.

    Args:
        table: pool -> setting -> see `cells_of`.
        ours: one method with different constants; the first has the defaults.

    Returns:
        Pool -> `Choice`, as JSON.
    """

    def mean(pool: str, method: str) -> float:
        cells = [each for found in table[pool].values() for each in cells_of(found, method)]
        return statistics.fmean(each["mean"] for each in cells)

    results = {method: {pool: round(mean(pool, method), 5) for pool in table} for method in ours}
    return {pool: choice.to_json() for pool, choice in choose(results, default=ours[0]).items()}


def choose(results: Mapping[str, Mapping[str, float]], default: str | None = None) -> dict[str, Choice]:
    """Chooses a constant for each pool on the other pools alone (leave one pool out).

    Args:
        results: name of the constant -> pool -> result; every constant has the same pools. Of equals the first counts.
        default: the constant for a single pool; None takes the first.

    Raises:
        ValueError: there are no constants, or their pools differ.
    """
    pools = list(next(iter(results.values()), {}))
    if not pools or any(set(each) != set(pools) for each in results.values()):
        raise ValueError(f"results of {len(results)} constants that are not on the same pools")
    chosen = {}
    for pool in pools:
        others = tuple(other for other in pools if other != pool)
        means = {
            constant: statistics.fmean(each[other] for other in others) if others else 0.0
            for constant, each in results.items()
        }
        best = max(means, key=means.__getitem__) if others else default or next(iter(results))
        chosen[pool] = Choice(
            constant=best,
            chosen_on=others,
            mean=round(means[best], 5) if others else None,
            value=results[best][pool],
            best_here=max(results, key=lambda constant: results[constant][pool]),
        )
    return chosen
