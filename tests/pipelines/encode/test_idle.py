"""Actors start for priors with rows to encode, and for no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray._private.state import actors  # the public list needs Ray's dashboard, which tests do not start

from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from tests.pool.pictures import encoded, picture, write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

PRIORS = [f"callable:tests.pipelines.priors_for_tests:{name}" for name in ("Pixels", "Shuffled")]
ROWS, SHARED = 48, 24
SETTINGS: dict[str, Any] = {"dim": 6, "components": 8, "shared": SHARED, "priors": PRIORS, "assign": "weights"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    file = write_parquet(folder / "a.parquet", image=[encoded(picture(i)) for i in range(ROWS)])
    return ingest({"sources": [str(file)], "test_fraction": 0}, folder / "pool")


def encoders_of(work: Callable[[], object]) -> int:
    """Number of actors that encode and are started by some work."""
    before = set(actors())
    work()
    return sum("EncodeParts" in each["ActorClassName"] for key, each in actors().items() if key not in before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_one_actor_a_prior_where_there_is_work_and_none_where_all_files_are_there(pool: Pool, tmp_path: Path) -> None:
    settings = {**SETTINGS, "compute": {"actors": 1, "cpus": 0.5, "reader_cpus": 0.5}}
    out = tmp_path / "out"
    assert encoders_of(lambda: encode(settings, pool, out)) == 4  # for the shared set, then for the rest
    before = contents(out / "contributions")
    for place in ("00", "01"):
        (out / "contributions" / place / "manifest.json").unlink()
    assert encoders_of(lambda: encode(settings, pool, out)) == 0
    for place in ("00", "01"):
        (out / "contributions" / place / "manifest.json").unlink()
    (out / "contributions" / "01" / "features-000000.parquet").unlink()
    assert encoders_of(lambda: encode(settings, pool, out)) == 1  # the other prior has all of its files
    after = contents(out / "contributions")
    assert {name for name in after if after[name] != before.get(name)} <= {"00/manifest.json", "01/manifest.json"}


def test_files_without_rows_need_no_actor(pool: Pool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every row of the pool is in the shared set."""
    compute = {"actors": 1, "cpus": 0.5, "reader_cpus": 0.5}
    settings = {**SETTINGS, "shared": ROWS, "shard_rows": 32, "compute": compute}
    out = tmp_path / "out"
    assert encoders_of(lambda: encode(settings, pool, out)) == 2  # for the shared set
    assert "no forward passes are left" in capfd.readouterr().err
    for place in ("00", "01"):
        folder = out / "contributions" / place
        whole, rest = (pq.read_table(folder / f"{name}-000001.parquet") for name in ("shared", "features"))
        assert rest.num_rows == 0 and rest.schema.equals(whole.schema)
        assert Contribution(Location(str(folder))).summary["encoded_rows"] == ROWS
    assert encoders_of(lambda: encode(settings, pool, out)) == 0
