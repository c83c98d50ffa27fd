"""The dimension of targets where nobody names it: by the shared rows that there can be, and by what was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.config import EncodeConfig, make_config
from coevo_ray.pipelines.encode.job import settle_form
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location


def pool_of(folder: Path, rows: int, test_rows: int = 0, features: dict[str, int] | None = None) -> Pool:
    place = Location.parse(str(folder))
    split = (np.arange(rows) < test_rows).astype(np.int8)
    columns = {"row_id": np.arange(rows), "split": split, "label": np.zeros(rows, np.int64)}
    summary = {"classes": 1, "rows": rows, "features": features or {}}
    finish(place, "pool", {}, {}, [write_table(place, "0.parquet", pa.table(columns))], summary)
    return Pool(place)


def settled(tmp_path: Path, pool: Pool, **settings: Any) -> EncodeConfig:
    config = make_config(EncodeConfig, {"priors": ["efficientnet_lite:0"], **settings}, "encode")
    return settle_form(config, Location.parse(str(tmp_path / "contribution")), pool)


@pytest.mark.parametrize(
    ("rows", "shared", "dim"),
    [
        (20_000, 0.1, 256),  # 2 000 shared rows
        (2560, 0.1, 256),  # raised to 1 024, two fifths of the pool
        (2550, 0.1, 128),
        (300, 0.1, 128),
        (1200, 0.9, 256),
        (20_000, 1024, 256),
        (20_000, 1023, 128),
    ],
)
def test_it_is_the_larger_one_where_there_are_four_shared_rows_for_each(
    tmp_path: Path, rows: int, shared: float, dim: int
) -> None:
    assert settled(tmp_path, pool_of(tmp_path / "pool", rows), shared=shared).dim == dim


def test_test_rows_are_not_shared(tmp_path: Path) -> None:
    assert settled(tmp_path, pool_of(tmp_path / "pool", 2560, test_rows=1)).dim == 128


def test_a_shared_pool_counts_its_own_rows(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", 100)
    for rows, dim in ((1024, 256), (1000, 128)):
        shared = pool_of(tmp_path / f"shared{rows}", rows).location.uri
        assert settled(tmp_path, pool, shared=shared).dim == dim


def test_what_is_named_or_was_begun_is_taken(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", 20_000)
    assert settled(tmp_path, pool, dim=64).dim == 64
    assert settled(tmp_path, pool, projection="random").dim == 128, "as published"
    place = Location.parse(str(tmp_path / "contribution"))
    begin(place, "contribution", {"dim": 128, "projection": "components"}, {})
    assert settled(tmp_path, pool).dim == 128
    assert settled(tmp_path, pool, dim=256).dim == 256


def test_vectors_of_the_pool_have_no_more_than_their_own(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", 20_000, features={"a": 16, "b": 40, "wide": 1000, "one": 1})
    for names, dim in ((["a"], 16), (["a", "b"], 56), (["wide"], 256), (["one"], 2)):
        assert settled(tmp_path, pool, priors=[f"column:{name}" for name in names]).dim == dim
    assert settled(tmp_path, pool, priors=["column:a", "efficientnet_lite:0"]).dim == 256
    assert settled(tmp_path, pool, priors=["column:a"], dim=64).dim == 64, "as asked"
    assert settled(tmp_path, pool_of(tmp_path / "small", 300, features={"a": 16}), priors=["column:a"]).dim == 16
