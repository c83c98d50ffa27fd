"""What a table of evidence tells a ledger of irreducible losses, and what a policy says without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.actors.ledger_inputs import LedgerInputs
from coevo_ray.config import TrainConfig
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.errors import InputError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.training.supervised.train import looks_at_evidence

ROWS, KNOWN = 40, np.arange(4, 40)
LOSSES = np.linspace(0, 4, len(KNOWN)).astype(np.float16)


def ledger(folder: Path, policy: str = "rho_loss", columns: dict[str, Any] | None = None) -> SelectionLedger:
    place = Location.parse(str(folder / "evidence"))
    table = {"row_id": KNOWN, "doubt": np.zeros(len(KNOWN), np.float16), "group": KNOWN, **(columns or {})}
    finish(place, "evidence", {}, {}, [write_table(place, "0.parquet", pa.table(table))], {})
    config = TrainConfig.model_validate({"policies": [policy], "keep": 0.25, "epochs": 3})
    assert looks_at_evidence(config) == (policy in ("rho_loss", "factors"))
    everyone, journal = np.ones(ROWS, dtype=bool), Location.parse(str(folder / "journal"))
    return LedgerInputs(policy, config, np.arange(ROWS) % 2, everyone, None, journal, place).make_ledger()


def test_rows_have_their_irreducible_loss_and_others_the_mean(tmp_path: Path) -> None:
    made = ledger(tmp_path, columns={"irreducible": LOSSES})
    known = made.scores(np.arange(ROWS))["irreducible"]
    assert known[KNOWN].tolist() == LOSSES.tolist()
    assert known[:4] == pytest.approx(2.0, abs=1e-3)
    # All losses are unknown yet, and there is one large batch: the smallest irreducible ones come first.
    assert made.select(0).row_ids.tolist() == list(range(4, 14))


def test_without_them_the_policy_refuses_and_says_what_helps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rho_loss needs irreducible") as refused:
        ledger(tmp_path).select(0)
    assert "targets and evidence of doubt" in str(refused.value)


def test_other_policies_do_not_keep_them(tmp_path: Path) -> None:
    known = ledger(tmp_path, "factors", {"irreducible": LOSSES}).scores(np.arange(ROWS))
    assert "doubt" in known and "irreducible" not in known
