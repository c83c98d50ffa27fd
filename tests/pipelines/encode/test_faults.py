"""What happens to encode when something goes wrong while it runs: nothing is lost or doubled, and it can go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coevo_ray.errors import InputError, StoppedError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.encode.encode import contribute
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vectors
from tests.pipelines.priors_for_tests import FLAG
from tests.pool.pictures import encoded, picture, write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

MINE = "callable:tests.pipelines.priors_for_tests"
ROWS = 96
SETTINGS: dict[str, Any] = {"dim": 8, "shared": 16, "shard_rows": 8, "part": [0, 1], "compute": {"actors": 2}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("faults")
    file = write_parquet(folder / "a.parquet", image=[encoded(picture(i)) for i in range(ROWS)])
    return ingest({"sources": [str(file)]}, folder / "pool")


@pytest.fixture(scope="module")
def undisturbed(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    contribute({**SETTINGS, "priors": [f"{MINE}:Faulty"]}, pool, out)
    return out


@pytest.fixture
def fault() -> Iterator[Path]:
    yield FLAG
    FLAG.unlink(missing_ok=True)


def check_same(out: Path, undisturbed: Path) -> None:
    one, two = (Contribution(Location(str(folder))) for folder in (out, undisturbed))
    rows = [part.own_rows(["row_id", "feature"]) for part in (one, two)]
    assert rows[0].column("row_id").to_pylist() == list(range(ROWS))
    features = [vectors(table.column("feature")) for table in rows]
    assert np.array_equal(features[0], features[1])
    assert one.manifest.identity == two.manifest.identity


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced(pool: Pool, undisturbed: Path, fault: Path, tmp_path: Path) -> None:
    fault.write_text("die")
    contribute({**SETTINGS, "priors": [f"{MINE}:Faulty"]}, pool, tmp_path / "out")
    assert not fault.exists()
    check_same(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_a_store_that_is_lost_stops_the_job_and_the_rest_is_done_when_it_is_back(
    pool: Pool, undisturbed: Path, fault: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store" / "out"
    settings = {**SETTINGS, "priors": [f"{MINE}:Faulty"]}
    fault.write_text(f"lose {tmp_path / 'store'}")
    with pytest.raises(StoppedError) as caught:
        contribute(settings, pool, out)
    assert caught.value.exit_code == 4
    assert str(out) in caught.value.cause
    (tmp_path / "store").unlink()
    (tmp_path / "store.gone").rename(tmp_path / "store")
    before = {f.name: f.stat().st_mtime_ns for f in out.glob("*.parquet")}
    contribute(settings, pool, out)
    after = {f.name: f.stat().st_mtime_ns for f in out.glob("*.parquet")}
    assert {name: after[name] for name in before} == before
    check_same(out, undisturbed)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("Raises", r"Raises failed on a batch of \d+ rows: no such kernel \(rows with keys a\.parquet:\d+ to "),
        pytest.param(
            "WrongShape",
            r"WrongShape gave \[1, 192\], need \[\d+, 192\] \(rows with keys a\.parquet:\d+ to ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_prior_that_fails_is_named_with_its_rows(pool: Pool, tmp_path: Path, prior: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        contribute({**SETTINGS, "priors": [f"{MINE}:{prior}"]}, pool, tmp_path / "out")
    assert caught.value.exit_code == 3
