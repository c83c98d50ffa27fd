"""Puts the tables about a pool's rows into a ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.config import TrainConfig
from coevo_ray.core.arrays import AnyArray, Arrays, BoolArray, Int64Array
from coevo_ray.core.graph.near_duplicates import copies_of
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import RULES
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable

if TYPE_CHECKING:
    from coevo_ray.actors.actor import Services


def set_known(
    ledger: SelectionLedger,
    candidates: BoolArray,
    labels: Int64Array | None,
    scores: Location | None,
    evidence: Location | None,
) -> None:
    """Gives a ledger all inputs that its policy may use; missing ones are skipped.

    Args:
        ledger: of N rows.
        candidates: bool[N], rows that may be selected; the others are nobody's copies.
        labels: int64[N], -1 where a row has none.
        scores: score table.
        evidence: evidence on labels and copies.

    Raises:
        InputError: a table is not there, or is of more rows.
    """
    rows = len(candidates)
    if labels is not None:
        ledger.set_labels(labels)
    if scores is not None:
        # Rows that were rejected have no score: they come last, and belong to no factor.
        columns: Arrays = {name: np.zeros(rows, np.float16) for name in ("representativeness", "diversity")}
        columns["factor"] = np.full(rows, -1, np.int32)
        _fill(columns, RowTable(scores, "scores"))
        ledger.set_scores(**columns)
    if evidence is not None:
        columns = {"doubt": np.zeros(rows, np.float16), "group": np.arange(rows, dtype=np.int64)}
        table = RowTable(evidence, "evidence")
        asked = "irreducible" in ledger.policy.needs | ledger.policy.uses
        if asked and "irreducible" in table.schema().names:
            columns["irreducible"] = np.full(rows, np.nan, np.float16)
        _fill(columns, table)
        ledger.set_doubt(columns["doubt"], _with_mean(columns.get("irreducible")))
        ledger.set_copies(*copies_of(columns["group"], among=candidates))


def _with_mean(losses: AnyArray | None) -> AnyArray | None:
    """Losses float16[N] with the mean of the known ones in place of NaN: no evidence speaks for or against a row."""
    if losses is None:
        return None
    unknown = np.isnan(losses)
    mean = losses[~unknown].mean(dtype=np.float64) if not unknown.all() else 0.0
    return np.where(unknown, np.float16(mean), losses)


def _fill(columns: Arrays, table: RowTable) -> None:
    """Writes a table's columns over those of N rows; rows that are not in it keep theirs."""
    found = table.scan(["row_id", *columns])
    row_ids = found.column("row_id").to_numpy()
    for name, column in columns.items():
        if len(row_ids) and row_ids.max() >= len(column):
            raise InputError(
                f"{table.manifest.kind} at {table.location}: row_ids up to {row_ids.max()}, "
                f"there are {len(column)} rows",
                "give what was made from this pool",
            )
        column[row_ids] = found.column(name).to_numpy()


@dataclass(frozen=True)
class LedgerInputs:
    """Inputs from which the selection actor builds its ledger.

    Attributes:
        policy: name of the policy.
        config: kept share, epochs, seed.
        labels: int64[rows], -1 where a row has none; rows with a label and not held out may be selected.
        candidates: bool[rows].
        scores: score table, or None for policies that need none.
        journal: folder of the journal.
        evidence: evidence on labels and copies, or None.
        rules: version of the rules that draw subsets.
    """

    policy: str
    config: TrainConfig
    labels: Int64Array
    candidates: BoolArray
    scores: Location | None
    journal: Location
    evidence: Location | None = None
    rules: int = RULES

    def make(self) -> Services:
        """Builds the ledger's service; runs inside the actor."""
        from coevo_ray.actors.actor import Services  # here, so that `plan` does not load Ray

        return Services(ledger=LedgerService(self.journal, self.make_ledger()))

    def make_ledger(self) -> SelectionLedger:
        """A fresh ledger with all that its policy may look at."""
        ledger = SelectionLedger(
            rows=len(self.labels),
            candidates=self.candidates,
            policy=self.config.make_policy(self.policy),
            keep=self.config.shares,
            epochs=self.config.epochs,
            seed=self.config.seed,
            rules=self.rules,
        )
        set_known(ledger, self.candidates, self.labels, self.scores, self.evidence)
        return ledger
