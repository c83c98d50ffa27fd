"""Memory that training workers hold of an epoch: all its rows and weights, or a window of them at a time.

    python -m benchmarks.epoch_memory --json [--rows N] [--quick]

A ledger selects 30 % of N rows, with weights, in the actor that hosts it in a training. Two workers, processes of
Ray's, then go through their parts of the epoch's order, without reading samples. `parts` is what trainings do;
`whole` hands the epoch over as the workers of earlier versions held it: row_ids of 8 bytes and weights of 4. Bytes
are a worker's largest memory less that before the epoch: its own, and what it has mapped of the node's object store.
"""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import busiest, finish, in_child, note, parser, rows_of

KEEP, WORKERS, BATCH, GROUP_ROWS, WINDOW = 0.3, 2, 256, 2048, 32
_LOOK_EVERY = 100  # steps


def main() -> None:
    """Runs the benchmark."""
    arguments = parser(__doc__.split("\n")[0], 10_000_000, 200_000).parse_args()
    rows, found, children = rows_of(arguments), {}, []
    for way in ("whole", "parts"):
        child = in_child(measure, way, rows)
        children.append(child)
        found[way] = child.result
        note(f"{way}: {child.result}")
    if found["whole"]["digest"] != found["parts"]["digest"]:
        raise RuntimeError("the two ways hand out other batches")
    result = {"rows": rows, "kept": KEEP, "workers": WORKERS, "ways": found, "repeats": 1}
    finish("epoch_memory", {**result, "busy_before": busiest(children)}, arguments.json)


def measure(way: str, rows: int) -> dict[str, Any]:
    """One way, with a Ray session of its own."""
    import ray

    from benchmarks import epoch_memory as named  # workers do not have what this process calls __main__
    from coevo_ray.actors.actor import start_selection
    from coevo_ray.runtime.session import ray_session

    with tempfile.TemporaryDirectory(prefix="coevo-epoch-") as folder, ray_session():
        selection = start_selection(f"epoch-memory-{way}", named.Make(folder, rows))
        selection.ledger.select(0)
        selection.ledger.report_losses(0, *_losses(rows))
        selection.ledger.commit(0)
        started = time.perf_counter()
        selection.ledger.select(1)
        selected = time.perf_counter() - started
        task = ray.remote(named.go_through).options(num_cpus=0.5)
        started = time.perf_counter()
        parts = ray.get([task.remote(selection, way, rows, rank) for rank in range(WORKERS)])
        seconds = time.perf_counter() - started
        selection.stop()
    return {
        "select_seconds": round(selected, 3),
        "seconds": round(seconds, 3),
        "bytes_per_row": {
            name: round(max(part["bytes"][name] for part in parts) / rows, 3) for name in parts[0]["bytes"]
        },
        "steps": parts[0]["steps"],
        "digest": [part["digest"] for part in parts],
    }


class Make:
    """Builds the service in the actor.

    Args:
        folder: of the journal.
        rows: of the pool.
    """

    def __init__(self, folder: str, rows: int) -> None:
        self.folder, self.rows = folder, rows

    def __call__(self) -> Any:
        """The service of a ledger under InfoBatch, which weighs rows."""
        from coevo_ray.actors.actor import Services
        from coevo_ray.actors.ledger_service import LedgerService
        from coevo_ray.core.rows.row_set import RowSet
        from coevo_ray.core.selection.ledger import SelectionLedger
        from coevo_ray.core.selection.policies import make_policy
        from coevo_ray.store.location import Location

        policy = make_policy("infobatch", least=0.05)
        ledger = SelectionLedger(
            rows=self.rows, candidates=RowSet.full(self.rows), policy=policy, keep=KEEP, epochs=10, seed=0
        )
        return Services(LedgerService(Location.parse(Path(self.folder) / "journal"), ledger))


def _losses(rows: int) -> tuple[Any, Any]:
    """Losses of some rows, so that weights differ."""
    some = np.arange(0, rows, 100)
    return some, 1 + np.sin(some)


def go_through(selection: Any, way: str, rows: int, rank: int) -> dict[str, Any]:
    """Goes through a worker's part of the epoch; on a worker."""
    import hashlib

    from coevo_ray.core.feed.epoch_plan import plan_epoch
    from coevo_ray.core.rows.row_set import Subset
    from coevo_ray.training.supervised.selected_rows import SelectedRows

    starts = np.arange(0, rows, GROUP_ROWS)
    gc.collect()
    before = _memory()
    if way == "whole":
        subset = selection.ledger.select(1)
        chosen: Any = Subset(1, subset.row_ids, subset.weights)
    else:
        chosen = SelectedRows(selection.ledger, 1)
    plan = plan_epoch(chosen, seed=0, global_batch=BATCH, block_starts=starts, window_blocks=WINDOW)
    most, digest, steps = _memory(), hashlib.sha256(), 0
    for batch in plan.rank_batches(rank, WORKERS):
        digest.update(batch.row_ids.tobytes() + batch.weights.tobytes())
        if steps % _LOOK_EVERY == 0:
            most = {name: max(most[name], now) for name, now in _memory().items()}
        steps += 1
    more = {name: most[name] - before[name] for name in most}
    return {"bytes": more, "steps": steps, "digest": digest.hexdigest()}


def _memory() -> dict[str, int]:
    """Resident bytes of this process: its `own`, and `mapped` ones of the object store."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if "Rss" in name
    }
    return {"own": found["RssAnon"], "mapped": found["RssShmem"]}


if __name__ == "__main__":
    main()
