"""Pools of texts under text priors, end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from coevo_ray.core.alignment.components import to_components
from coevo_ray.core.alignment.projection import unit_features
from coevo_ray.core.arrays import Float32Array
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.encode.shared import read_components
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pool.pool import Pool
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples, TokenInput, VectorInput
from coevo_ray.priors.registry import load_prior
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vectors
from tests.pool.pictures import write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

PRIORS = ("wordllama:64", "tfidf:words@12")
ROWS = 60
_WORDS = ("alpha", "beta", "gamma", "delta", "one", "two", "three", "four", "five", "six")
HALF = 2.0**-9


def text_pool(folder: Path, first: int) -> Pool:
    """Texts of different lengths, one of them longer than the context."""
    texts = [" ".join(_WORDS[(i * j + i) % 10] for j in range(2 + i % 9)) for i in range(first, first + ROWS - 1)]
    file = write_parquet(folder / f"{first}.parquet", body=[*texts, "alpha beta " * 400])
    source = {"uri": str(file), "text_column": "body"}
    return ingest({"sources": [source], "test_fraction": 0}, folder / f"pool-{first}")


def settings(**more: object) -> dict[str, object]:
    priors = [{"name": "wordllama:64"}, {"name": "tfidf:words", "input_size": 12}]
    compute = {"actors": 1, "cpus": 0.5, "reader_cpus": 0.5}
    return {"priors": priors, "coverage": "all", "dim": 4, "compute": compute, **more}


def plain(folder: Path, name: str, pool: Pool) -> Float32Array:
    """Features by the prior alone, and the components that the contribution has."""
    states = [file.name for file in folder.glob("fitted-*")]
    scheme, _, size = name.partition("@")
    state = Location.parse(folder / states[0]) if states else None
    prior = load_prior(scheme, int(size) if size else None, Samples("text"), state)
    cells = pool.read(np.arange(ROWS), ["text"]).column("text")
    if isinstance(prior.input, TokenInput):
        features = Encoder(prior, "cpu").encode(prior.input.prepare(cells).data)
    else:
        assert isinstance(prior.input, VectorInput)
        features = prior.input.prepare(cells)
    components = read_components(Location.parse(folder))
    assert components is not None
    return to_components(unit_features(features), components)


def test_texts_are_encoded_and_a_fitted_prior_goes_with_its_targets(tmp_path: Path) -> None:
    pool, out = text_pool(tmp_path, 0), tmp_path / "out"
    targets = encode(settings(shared=40), pool, out)
    for place, name in enumerate(PRIORS):
        folder = out / "contributions" / f"{place:02d}"
        table = Contribution(Location.parse(folder)).encoded_rows(["row_id", "feature"])
        assert table.column("row_id").to_pylist() == list(range(ROWS))
        assert np.abs(vectors(table.column("feature")) - plain(folder, name, pool)).max() < HALF
    first, second = (Contribution(Location.parse(out / "contributions" / name)).summary for name in ("00", "01"))
    assert first["cut_texts"] == 1
    assert first["cut_share"] == pytest.approx(1 / ROWS, abs=1e-6)
    assert first["tokens"] > 512
    assert first["tokens_per_s"] > 0
    assert "cut_texts" not in second
    card = {prior["name"]: prior for prior in targets.manifest.summary["priors"]}
    assert card["wordllama:64"]["cut_share"] == first["cut_share"]
    assert "longer texts cut to 512" in card["wordllama:64"]["prior"]["preprocessing"]
    # Another pool in the same space, by the targets alone.
    shutil.move(out / "targets", tmp_path / "targets")
    other = text_pool(tmp_path, 1000)
    encode(settings(like=str(tmp_path / "targets")), other, tmp_path / "more")
    folder = tmp_path / "more" / "contributions" / "01"
    assert np.abs(_features(folder) - plain(folder, PRIORS[1], other)).max() < HALF
    state = next((tmp_path / "targets").glob("fitted-*"))
    assert state.name == next(folder.glob("fitted-*")).name
    assert second["prior"]["weights"] == Contribution(Location.parse(folder)).summary["prior"]["weights"]
    state.unlink()
    with pytest.raises(InputError, match="has no state of tfidf:words@12"):
        encode(settings(like=str(tmp_path / "targets")), other, tmp_path / "none")


def _features(folder: Path) -> Float32Array:
    return vectors(Contribution(Location.parse(folder)).encoded_rows(["feature"]).column("feature"))
