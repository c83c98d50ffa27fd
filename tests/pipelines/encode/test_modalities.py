"""Pools of texts, and features that the user already has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import coevo_ray
from coevo_ray.core.alignment.projection import project, projection_matrix
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pool.pool import Pool
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples, TextInput
from coevo_ray.priors.registry import load_prior
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vectors
from tests.pool.pictures import write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

TEXT = "open_clip:ViT-B-32/random"
COLUMN = "column:mine"
HALF = 2.0**-10


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """24 texts with a vector each; one vector is zero and has no direction."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    mine = random.normal(size=(24, 12)).astype(np.float32)
    mine[5] = 0
    file = write_parquet(
        folder / "a.parquet", body=[f"text number {i}, {'long ' * i}" for i in range(24)], mine=mine.tolist()
    )
    source = {"uri": str(file), "text_column": "body", "feature_columns": ["mine"]}
    return ingest({"sources": [source], "test_fraction": 0}, folder / "pool")


@pytest.mark.slow
def test_texts_and_feature_columns_are_encoded_side_by_side(pool: Pool, tmp_path: Path) -> None:
    settings = {"priors": [COLUMN, TEXT], "dim": 8, "shared": 10, "max_reject_fraction": 0.2, "projection": "random"}
    table = encode(settings, pool, tmp_path / "out")
    parts = [Contribution(Location(str(tmp_path / "out" / "contributions" / name))) for name in ("00", "01")]
    samples = Samples(pool.modality, pool.features)
    assert samples == Samples("text", {"mine": 12})
    for name, part in zip((COLUMN, TEXT), parts, strict=True):
        prior = load_prior(name, None, samples)
        own = part.own_rows(["row_id", "feature"])
        column = pool.read(own.column("row_id").to_numpy(), [prior.input.column]).column(prior.input.column)
        # Of the two priors, the one that is not a column's takes texts.
        inputs = prior.input.tokenize(column.to_pylist()) if isinstance(prior.input, TextInput) else vectors(column)
        plain = project(Encoder(prior, "cpu").encode(inputs), projection_matrix(prior.info.dim, 8, 0))
        assert np.abs(vectors(own.column("feature")) - plain).max() < HALF
    missing = set(range(24)) - set(table.row_ids().tolist())
    assert missing <= {5}
    assert 5 not in parts[0].own_rows(["row_id"]).column("row_id").to_pylist()
    assert {p["prior"]["modality"] for p in table.manifest.summary["priors"]} == {"text", "features"}
    row = coevo_ray.load_targets(tmp_path / "out", pool).torch()[3]
    assert row["text"].startswith("text number 3")


def test_priors_must_fit_the_pool(pool: Pool, tmp_path: Path) -> None:
    for prior, message in (("efficientnet_lite:0", "text"), ("column:yours", "yours")):
        with pytest.raises(UsageError, match=message):
            encode({"priors": [prior], "dim": 8}, pool, tmp_path / "out")
    assert not (tmp_path / "out").exists()
