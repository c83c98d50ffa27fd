"""Simulated trajectories against a slow loop over plain sets, and what is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import coevo_ray as package
from coevo_ray.core.rows.row_set import Rows, ids_of
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import KeptShares, Policy, Rotation, SelectionContext, make_policy
from coevo_ray.errors import CoevoError, InputError, UsageError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from tests.command_line import Command

ROWS, EPOCHS = 120, 8
_random = np.random.default_rng(3)
LABELS = np.minimum(_random.geometric(0.4, ROWS) - 1, 3)
UNLABELLED, HELD = np.arange(5, ROWS, 17), np.arange(0, ROWS, 6)
SCORED = np.setdiff1d(np.arange(ROWS), [10, 11, 40])  # the others were rejected
FACTOR = _random.integers(0, 9, ROWS)
FACTOR[6] = 9  # of a held-out row alone
R, D = (_random.random(ROWS).astype(np.float16) for _ in range(2))
TRAIN = np.setdiff1d(np.arange(ROWS), [*UNLABELLED, *HELD])
SEEN = np.intersect1d(TRAIN, SCORED)  # rows with evidence
DOUBT = np.where(_random.random(ROWS) < 0.15, 0.9, 0.01).astype(np.float16)
GROUP = np.where(np.arange(ROWS) % 20 == 1, 1, np.arange(ROWS))  # 1, 21, 41, ... are copies


class SecondHalf(Rotation):
    """A policy of the user's, with an option."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def select(self, context: SelectionContext) -> Rows:
        return context.rows[-max(1, round(self.share * len(context.rows))) :]


class Hoping(Rotation):
    """Looks at losses where there are some."""

    uses = frozenset({"loss"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool without images, with some labels missing; scores and evidence of parts of it."""
    root = tmp_path_factory.mktemp("plan")

    def put(kind: str, columns: dict[str, Any], summary: dict[str, Any]) -> None:
        place = Location.parse(str(root / kind))
        finish(place, kind, {}, {}, [write_table(place, "0.parquet", pa.table(columns))], summary)

    rows, split = np.arange(ROWS), np.zeros(ROWS, np.int8)
    split[HELD] = 1
    label = pa.array([None if row in UNLABELLED else int(LABELS[row]) for row in rows], pa.int64())
    put("pool", {"row_id": rows, "label": label, "split": split}, {"classes": 4})
    scores = {"row_id": SCORED, "representativeness": R[SCORED], "diversity": D[SCORED]}
    put("scores", {**scores, "factor": FACTOR[SCORED].astype(np.int32)}, {})
    likely = LABELS[SEEN]
    put("evidence", {"row_id": SEEN, "doubt": DOUBT[SEEN], "likely": likely, "group": GROUP[SEEN]}, {})
    return root


def slow(
    rule: Policy, shares: KeptShares, candidates: list[int], labels: bool, scores: bool, evidence: bool
) -> list[list[int]]:
    """The subsets, from a context that is put together anew for every epoch."""
    usage, epochs = np.zeros(ROWS, np.uint8), []
    known: dict[str, Any] = {}
    rejected = [row for row in range(ROWS) if row not in SCORED]
    if labels:
        known["label"] = np.array([-1 if row in UNLABELLED else LABELS[row] for row in range(ROWS)])
    if scores:
        known |= {"representativeness": R.copy(), "diversity": D.copy(), "factor": FACTOR.copy()}
        known["factor"][rejected] = -1
        for name in ("representativeness", "diversity"):
            known[name][rejected] = 0
    if evidence:
        members = {row: [m for m in SEEN if GROUP[m] == GROUP[row]] for row in SEEN}
        known["doubt"] = np.array([DOUBT[row] if row in SEEN else 0 for row in range(ROWS)], np.float16)
        known["copies"] = np.array([len(members.get(row, [row])) for row in range(ROWS)])
        known["copy"] = np.array([members.get(row, [row]).index(row) for row in range(ROWS)])
    for epoch in range(rule.epochs_to_run(EPOCHS, shares, len(candidates))):
        context = SelectionContext(
            epoch=epoch,
            epochs=EPOCHS,
            keep=shares.at(epoch, EPOCHS),
            seed=5,
            candidates=np.array(candidates),
            usage=usage.copy(),
            shares=shares,
            **known,
        )
        epochs.append(ids_of(rule.select(context)).tolist())
        for row in epochs[-1]:
            usage[row] += 1
    return epochs


def figures(epochs: list[list[int]], candidates: list[int], scores: bool) -> dict[str, Any]:
    """What the plan should say of them."""
    usage = Counter(row for rows in epochs for row in rows)
    times = Counter(usage[row] for row in candidates)
    seen: set[int] = set()
    sizes = Counter(int(FACTOR[row]) for row in candidates if row in SCORED)
    factors, n = set(sizes), len(candidates)
    found: dict[str, list[float]] = {name: [] for name in ("never", "covered", "at_random", "so_far")}
    for index, rows in enumerate(epochs):
        earlier = {row for part in epochs[: index + 1] for row in part}
        found["never"].append(round(1 - len(earlier) / len(candidates), 6))
        now = {int(FACTOR[row]) for row in rows if row in SCORED}
        seen |= now
        found["covered"].append(round(len(now) / len(factors), 4))
        missed = [math.comb(n - size, len(rows)) / math.comb(n, len(rows)) for size in sizes.values()]
        found["at_random"].append(round(1 - sum(missed) / len(missed), 4) if missed else 0.0)
        found["so_far"].append(round(len(seen) / len(factors), 4))
    expected = {
        "rows": len(candidates),
        "epochs": len(epochs),
        "samples": sum(map(len, epochs)),
        "usage": {str(count): times[count] for count in sorted(times)},
        "kept": [len(rows) for rows in epochs],
        "never_used_by_epoch": pytest.approx(found["never"], abs=1e-6),
        "never_used_share": pytest.approx(found["never"][-1], abs=1e-6),
    }
    covered = {
        "factors_covered": found["covered"],
        "factors_covered_at_random": pytest.approx(found["at_random"], abs=2e-4),
        "factors_covered_so_far": found["so_far"],
    }
    return {**expected, **(covered if scores else {})}


CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("rotation", {"keep_last": 0.7, "full_tail": 0.25}, set()),
    ("full_budget", {"keep_last": 0.9}, {"pool"}),
    ("random", {"class_power": 0.0}, {"pool"}),
    ("scored", {"policy_options": {"penalty": 0.2}}, {"scores"}),
    ("scored", {"class_power": 0.5}, {"pool", "scores"}),
    ("factors", {}, {"scores"}),
    ("factors", {}, {"pool", "scores"}),
    ("factors", {"keep": 0.4}, {"pool", "scores", "evidence"}),
    ("factors", {"policy_options": {"max_doubt": 1.0, "share_copies": False}}, {"pool", "scores", "evidence"}),
    ("factors", {}, {"scores", "evidence"}),
    (f"{__name__}:SecondHalf", {"policy_options": {"share": 0.3}}, {"pool"}),
    (f"{__name__}:Hoping", {}, {"pool"}),
]


@pytest.mark.parametrize(("policy", "options", "tables"), CASES)
def test_a_plan_is_what_a_slow_loop_finds(folder: Path, policy: str, options: dict[str, Any], tables: set[str]) -> None:
    options = {"keep": 0.25, **options}
    places: dict[str, Any] = {name: folder / name for name in tables}
    found = package.plan(policy, rows=None if tables else ROWS, epochs=EPOCHS, seed=5, **options, **places)
    shares = KeptShares(options["keep"], options.get("keep_last"), options.get("full_tail", 0.0))
    rule = make_policy(policy, class_power=options.get("class_power"), **options.get("policy_options", {}))
    everyone = list(range(ROWS))
    if "pool" in tables:
        candidates = TRAIN.tolist()
    else:
        given = [rows for name, rows in (("scores", SCORED), ("evidence", SEEN)) if name in tables]
        candidates = [row for row in everyone if all(row in rows for rows in given)]
    epochs = slow(rule, shares, candidates, "pool" in tables, "scores" in tables, "evidence" in tables)
    assert {name: value for name, value in found.items() if name != "policy"} == figures(
        epochs, candidates, "scores" in tables
    )
    if "evidence" in tables and not options.get("policy_options"):
        assert found["usage"]["0"] >= (DOUBT[np.intersect1d(candidates, SEEN)] > 0.5).sum() > 3


def test_weights_are_named(folder: Path) -> None:
    found = package.plan(
        "random", epochs=EPOCHS, keep=0.3, class_power=0.0, unbiased=True, pool=folder / "pool", seed=5
    )
    rule = make_policy("random", class_power=0.0, unbiased=True)
    # By hand for the first epoch: a class's rows weigh n_c / taken_c x taken / n.
    first = slow(rule, KeptShares(0.3), TRAIN.tolist(), True, False, False)[0]
    sizes, taken = Counter(LABELS[TRAIN].tolist()), Counter(LABELS[first].tolist())
    largest = max(sizes[c] / taken[c] for c in taken) * len(first) / len(TRAIN)
    assert found["largest_weight"][0] == pytest.approx(largest, abs=1e-3)
    assert len(found["largest_weight"]) == EPOCHS and largest > 1.2


@pytest.mark.parametrize("policy", ["loss", "rho_loss", "order_dp", "repb", "rcap", "seta"])
def test_of_a_policy_that_goes_by_losses_the_numbers_of_rows_are_planned(folder: Path, policy: str) -> None:
    shares = KeptShares(0.6, 0.2, 0.25)
    options: dict[str, Any] = {"keep": 0.6, "keep_last": 0.2, "full_tail": 0.25, "epochs": EPOCHS}
    options["unbiased"] = policy == "order_dp"
    found = package.plan(policy, pool=folder / "pool", **options)
    kept = [round(shares.at(epoch, EPOCHS) * len(TRAIN)) for epoch in range(EPOCHS)]
    assert found == {
        "policy": policy,
        "rows": len(TRAIN),
        "epochs": EPOCHS,
        "samples": sum(kept),
        "kept": kept,
    }
    # As many as a training takes, whatever its losses.
    ledger = SelectionLedger(
        rows=len(TRAIN),
        candidates=np.ones(len(TRAIN), dtype=bool),
        policy=make_policy(policy, unbiased=policy == "order_dp"),
        keep=shares,
        epochs=EPOCHS,
        seed=0,
    )
    ledger.set_labels(LABELS[TRAIN])
    ledger.set_doubt(np.zeros(len(TRAIN)), np.zeros(len(TRAIN)))
    taken = []
    for epoch in range(EPOCHS):
        rows = ledger.select(epoch).row_ids
        ledger.report_losses(epoch, rows, np.random.default_rng(epoch).random(len(rows)))
        ledger.commit(epoch)
        taken.append(len(rows))
    assert taken == kept


@pytest.mark.parametrize(
    ("rows", "policy", "options", "error", "message"),
    [
        (None, "rotation", {}, UsageError, "neither rows nor a table"),
        (0, "rotation", {}, UsageError, "rows 0"),
        (10, "rotation", {"pool": "pool"}, UsageError, "rows 10 with pool"),
        (10, "rotation", {"keep_last": 1.5}, UsageError, "0.5 to 1.5"),
        (10, "rotation", {"full_tail": -1}, UsageError, "full tail -1"),
        (10, "rotation", {"policy_options": {"speed": 1}}, UsageError, "options given: speed"),
        (None, "scored", {"pool": "pool"}, UsageError, "needs diversity, and there is no scores"),
        (10, "rotation", {"class_power": 0.5}, UsageError, "needs label, and there is no pool"),
        (None, "rotation", {"pool": "none"}, InputError, "none"),
        (None, "factors", {"scores": "pool"}, InputError, "scores"),
        (None, "factors", {"pool": "short", "scores": "scores"}, InputError, "there are 20 rows"),
        (None, "factors", {"pool": "short", "evidence": "evidence"}, InputError, "there are 20 rows"),
    ],
)
def test_what_cannot_be_simulated_is_named(
    folder: Path, rows: int | None, policy: str, options: dict[str, Any], error: type[CoevoError], message: str
) -> None:
    if not (folder / "short").exists():
        place = Location.parse(str(folder / "short"))
        columns = {"row_id": np.arange(20), "label": LABELS[:20], "split": np.zeros(20, np.int8)}
        finish(place, "pool", {}, {}, [write_table(place, "0.parquet", pa.table(columns))], {"classes": 4})
    for name in {"pool", "scores", "evidence"} & options.keys():
        options = {**options, name: folder / options[name]}
    with pytest.raises(error, match=message):
        package.plan(policy, rows=rows, **options)


def test_people_get_a_histogram_and_a_table(folder: Path, coevo_ray: Command) -> None:
    tables = ("--pool", str(folder / "pool"), "--scores", str(folder / "scores"))
    arguments = ("plan", "--policy", "random", *tables, "--keep", "0.2", "--epochs", "50")
    shown, raw = coevo_ray(*arguments), coevo_ray(*arguments, "--json")
    assert (shown.returncode, raw.returncode) == (0, 0), shown.stderr
    plan, lines = json.loads(raw.stdout), [line.split() for line in shown.stdout.splitlines()]
    assert lines[0][:2] == ["random:", str(len(TRAIN))]
    bars = [line for line in lines if len(line) > 2 and line[1] == "x"]
    assert {name: int(rows) for name, _, rows, *_ in bars} == {
        str(count): plan["usage"].get(str(count), 0)
        for count in range(min(map(int, plan["usage"])), max(map(int, plan["usage"])) + 1)
    }
    table = lines[lines.index(next(line for line in lines if line[:1] == ["epoch"])) + 1 : -1]
    assert len(table) == 20 and (table[0][0], table[-1][0]) == ("0", "49")
    for epoch, kept, never, covered, at_random, so_far in table:
        assert int(kept) == plan["kept"][int(epoch)]
        for name, cell in (
            ("never_used_by_epoch", never),
            ("factors_covered", covered),
            ("factors_covered_at_random", at_random),
            ("factors_covered_so_far", so_far),
        ):
            assert float(cell.strip("<%")) / 100 == pytest.approx(plan[name][int(epoch)], abs=1e-3)
    # Many different counts are grouped, and none is lost.
    wide = coevo_ray("plan", "--policy", f"{__name__}:SecondHalf", "--rows", "1000", "--epochs", "90")
    ranges = [line.split() for line in wide.stdout.splitlines() if " x " in line]
    assert len(ranges) <= 20 and sum(int(line[2].replace(",", "")) for line in ranges) == 1000
    assert (ranges[0][0], ranges[-1][0]) == ("0-4", "90-94")
