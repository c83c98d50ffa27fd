"""Dynamic selection: time and memory of an epoch's `select` and `commit`, and of a restart.

    python -m benchmarks.selection --json [--quick] [--rows N]

Every policy runs in a process of its own, through the plain `LedgerService` with a journal on the local disk. A
snapshot is followed by as many epochs as fit before the service makes the next one; each is timed, and the restart
then reads that snapshot and replays all of them: the worst case.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import busiest, finish, in_child, middle, note, parser, peak_bytes, rows_of, spread, timed

if TYPE_CHECKING:
    from coevo_ray.actors.ledger_service import LedgerService
    from coevo_ray.core.selection.ledger import SelectionLedger

# Row of the result -> policy. `factors` takes its turns by factors alone, `factors_all` also looks at classes, at doubt
# about labels and at copies.
POLICIES = {
    "factors": "factors",
    "factors_all": "factors",
    "rotation": "rotation",
    "random": "random",
    "scored": "scored",
}
FACTORS, CLASSES = 1000, 100
KEEP = 0.3
# The service makes a snapshot with every 16th commit.
EPOCHS = 15
SEED = 0
_CHUNK = 1 << 20
_HEADLINE = ("seconds", "cpu_seconds", "peak_bytes", "restore_seconds", "bytes_per_row")
_AS_MEASURED = (
    "cpu_seconds",
    "snapshot_seconds",
    "restore_seconds",
    "idle_bytes",
    "peak_bytes",
    "restore_peak_bytes",
    "journal_bytes",
)


def main() -> None:
    """Runs the benchmark."""
    arguments = parser(__doc__.split("\n")[0], 10_000_000, 1_000_000).parse_args()
    rows = rows_of(arguments)
    by_policy, children = {}, []
    for policy in POLICIES:
        children.append(in_child(measure, policy, rows))
        by_policy[policy] = _summary(rows, children[-1].result)
        note(f"{policy}: {rows:,} rows, {by_policy[policy]['seconds']} s an epoch")
    headline = by_policy["factors"]
    result = {
        "rows": rows,
        "policy": "factors",
        "factors": FACTORS,
        "classes": CLASSES,
        "keep": KEEP,
        "repeats": EPOCHS,
        "threads": children[0].result["threads"],
        **{name: headline[name] for name in _HEADLINE},
        "by_policy": by_policy,
        "busy_before": busiest(children),
    }
    finish("selection", result, arguments.json)


def _summary(rows: int, measured: dict[str, Any]) -> dict[str, Any]:
    select, commit = measured["select_seconds"], measured["commit_seconds"]
    both = [s + c for s, c in zip(select, commit, strict=True)]
    return {
        "seconds": middle(both),
        "epochs": spread(both),
        "select_seconds": middle(select),
        "commit_seconds": middle(commit),
        **{name: measured[name] for name in _AS_MEASURED},
        "restored_epochs": EPOCHS,
        "bytes_per_row": round(measured["ledger_bytes"] / rows, 3),
        "peak_bytes_per_row": round((measured["peak_bytes"] - measured["idle_bytes"]) / rows, 1),
    }


def measure(policy: str, rows: int) -> dict[str, Any]:
    """Times one policy in this process.

    Returns:
        `select_seconds`, `commit_seconds` of each epoch; `cpu_seconds`: processor time of an epoch, over all threads,
        which other work on the machine hardly changes; `snapshot_seconds`, `restore_seconds`;
        `idle_bytes`: memory with the libraries loaded, before there are rows; `peak_bytes`: up to the last epoch;
        `restore_peak_bytes`: up to the end;
        `ledger_bytes`: what the ledger keeps; `journal_bytes`: what is on the disk at the end; `threads`.
    """
    from coevo_ray.actors.ledger_service import LedgerService
    from coevo_ray.core.rows.chunks import threads
    from coevo_ray.store.location import Location

    idle = peak_bytes()
    with tempfile.TemporaryDirectory(prefix="coevo-selection-") as folder:
        journal = Location.parse(Path(folder) / "journal")
        service = LedgerService(journal, _ledger(policy, rows))
        _, snapshot = timed(service.snapshot)
        before = time.process_time()
        times = [_epoch(service, epoch) for epoch in range(EPOCHS)]
        work = (time.process_time() - before) / EPOCHS
        peak = peak_bytes()
        journal_bytes = sum(path.stat().st_size for path in Path(journal.path).iterdir())
        usage = service.usage()
        kept = _kept_bytes(service)
        del service
        ledger = _ledger(policy, rows)  # a run has the scores in tables: reading them again is not the journal's work
        restored, restore = timed(lambda: LedgerService(journal, ledger))
        if not np.array_equal(restored.usage(), usage):
            raise RuntimeError(f"policy {policy}: the restored usage counts differ")
    return {
        "select_seconds": [select for select, _ in times],
        "commit_seconds": [commit for _, commit in times],
        "cpu_seconds": round(work, 4),
        "snapshot_seconds": round(snapshot, 4),
        "restore_seconds": round(restore, 4),
        "idle_bytes": idle,
        "peak_bytes": peak,
        "restore_peak_bytes": peak_bytes(),
        "ledger_bytes": kept,
        "journal_bytes": journal_bytes,
        "threads": threads(),
    }


def _epoch(service: LedgerService, epoch: int) -> tuple[float, float]:
    subset, select = timed(lambda: service.select(epoch))
    committed, commit = timed(lambda: service.commit(epoch))
    if not committed or len(subset) == 0:
        raise RuntimeError(f"epoch {epoch} was not counted")
    return select, commit


def _kept_bytes(service: LedgerService) -> int:
    """Bytes of all arrays of the ledger, at its fullest: with an open epoch beside the last one."""
    if service.ledger is None:
        raise RuntimeError("the service lost its ledger")
    service.ledger.select(EPOCHS)  # not by the service, which would journal it
    return sum(array.nbytes for array in service.ledger.state(scores=True)[1].values())


def _ledger(policy: str, rows: int) -> SelectionLedger:
    """A ledger over rows with random scores; a third of the factors hold most rows, as in a real pool."""
    from coevo_ray.core.rows.row_set import RowSet
    from coevo_ray.core.selection.ledger import SelectionLedger
    from coevo_ray.core.selection.policies import make_policy

    ledger = SelectionLedger(
        rows=rows,
        candidates=RowSet.full(rows),
        policy=make_policy(POLICIES[policy]),
        keep=KEEP,
        epochs=100,
        seed=SEED,
    )
    random = np.random.Generator(np.random.PCG64(SEED))
    scores = [np.empty(rows, dtype=np.float16) for _ in range(2)]
    factor: npt.NDArray[np.int16] = np.empty(rows, dtype=np.int16)
    # In chunks, so that making the data does not set the peak of memory.
    for start in range(0, rows, _CHUNK):
        part = slice(start, min(rows, start + _CHUNK))
        count = part.stop - start
        for column in scores:
            column[part] = random.random(count, dtype=np.float32)
        factor[part] = (FACTORS * random.random(count) ** 2).astype(np.int16)
    ledger.set_scores(scores[0], scores[1], factor)
    del scores, column  # a policy that does not look at scores does not keep them
    if policy == "factors_all":
        _judge(ledger, rows)
    return ledger


def _judge(ledger: SelectionLedger, rows: int) -> None:
    """Skewed classes, a tenth of the labels doubted, and every other row with a copy."""
    random = np.random.Generator(np.random.PCG64(SEED + 1))
    label, doubt = np.empty(rows, dtype=np.int8), np.empty(rows, dtype=np.float16)
    copies, copy = np.empty(rows, dtype=np.int8), np.empty(rows, dtype=np.int8)
    for start in range(0, rows, _CHUNK):
        part = slice(start, min(rows, start + _CHUNK))
        draws = random.random((2, part.stop - start), dtype=np.float32)
        label[part] = (CLASSES * draws[0] ** 3).astype(np.int8)
        doubt[part] = draws[1] * 0.28
        four = np.arange(part.start, part.stop) % 4  # of four rows the first two are copies
        copies[part], copy[part] = 1 + (four < 2), four == 1
    ledger.set_labels(label)
    ledger.set_doubt(doubt)
    ledger.set_copies(copies, copy)


if __name__ == "__main__":
    main()
