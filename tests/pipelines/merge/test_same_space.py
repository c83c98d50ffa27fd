"""Targets of one space, as far as their manifests tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.errors import InputError
from coevo_ray.pipelines.merge.same_space import require_same_space
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column


def prior(name: str, reference: bool, weights: str = "aa") -> dict[str, Any]:
    return {"name": name, "reference": reference, "prior": {"weights": weights, "preprocessing": "64 pixels"}}


def table(folder: Path, *priors: dict[str, Any], dim: int = 4, seed: int = 0, alignment: str = "ridge") -> RowTable:
    place = Location.parse(str(folder))
    rows = pa.table({"row_id": np.arange(3), "target": vector_column(np.ones((3, dim), np.float32))})
    summary = {"priors": list(priors), "projection_seed": seed} if priors else {}
    config = {"alignment": alignment} if priors else {}
    finish(place, "targets", config, {}, [write_table(place, "0.parquet", rows)], summary)
    return RowTable(place, "targets")


def test_spaces(tmp_path: Path) -> None:
    first, other, small = prior("a", True), prior("b", False), prior("c", False)
    gate = table(tmp_path / "gate", first, other)
    for i, fitting in enumerate(((first, other), (first, small), (first,), ())):
        require_same_space(table(tmp_path / f"fits{i}", *fitting), gate)
        require_same_space(gate, table(tmp_path / f"fits{i}"))
    refused: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any]]] = {
        "dim": ((first, other), {"dim": 8}),
        "projection_seed": ((first, other), {"seed": 1}),
        "weights bb": ((prior("a", True, "bb"), other), {}),
        r"have \{'reference': \['b": ((prior("a", False), prior("b", True)), {}),
        "have {'priors'": ((first, other), {"alignment": "none"}),
    }
    for i, (message, (priors, options)) in enumerate(refused.items()):
        with pytest.raises(InputError, match=message):
            require_same_space(table(tmp_path / f"other{i}", *priors, **options), gate)
    loose = table(tmp_path / "loose", first, other, alignment="none")
    require_same_space(table(tmp_path / "loose2", first, other, alignment="none"), loose)
    with pytest.raises(InputError, match="priors"):
        require_same_space(table(tmp_path / "loose3", first, small, alignment="none"), loose)
