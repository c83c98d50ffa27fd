"""Pools of texts under text priors, end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from coevo_ray.core.alignment.components import to_components
from coevo_ray.core.alignment.projection import project, projection_matrix, unit_features
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

TFIDF = "tfidf:words@12"
ROWS = 60
_WORDS = ("alpha", "beta", "gamma", "delta", "one", "two", "three", "four", "five", "six")
_COMPUTE = {"actors": 1, "cpus": 0.5, "reader_cpus": 0.5}
HALF = 2.0**-9


def text_pool(folder: Path, first: int) -> Pool:
    """Texts of different lengths, one of them longer than the context."""
    texts = [" ".join(_WORDS[(i * j + i) % 10] for j in range(2 + i % 9)) for i in range(first, first + ROWS - 1)]
    file = write_parquet(folder / f"{first}.parquet", body=[*texts, "alpha beta " * 400])
    source = {"uri": str(file), "text_column": "body"}
    return ingest({"sources": [source], "test_fraction": 0}, folder / f"pool-{first}")


def contribution(out: Path) -> Contribution:
    return Contribution(Location.parse(out / "contributions" / "00"))


def features(out: Path) -> Float32Array:
    return vectors(contribution(out).encoded_rows(["feature"]).column("feature"))


@pytest.mark.slow
def test_texts_are_encoded_and_their_tokens_counted(tmp_path: Path) -> None:
    pool, out = text_pool(tmp_path, 0), tmp_path / "out"
    settings = {"priors": ["wordllama:64"], "dim": 16, "shared": 10, "projection": "random", "compute": _COMPUTE}
    targets = encode(settings, pool, out)
    prior = load_prior("wordllama:64", None, Samples("text"))
    assert isinstance(prior.input, TokenInput)
    prepared = prior.input.prepare(pool.read(np.arange(ROWS), ["text"]).column("text"))
    plain = project(Encoder(prior, "cpu").encode(prepared.data), projection_matrix(64, 16, 0))
    assert np.abs(features(out) - plain).max() < HALF
    summary = contribution(out).summary
    assert summary["cut_texts"] == 1
    assert summary["cut_share"] == pytest.approx(1 / ROWS, abs=1e-6)
    assert summary["tokens"] == prepared.counts["tokens"] > 512
    assert summary["tokens_per_s"] > 0
    (card,) = targets.manifest.summary["priors"]
    assert card["cut_share"] == summary["cut_share"]
    assert "longer texts cut to 512" in card["prior"]["preprocessing"]


def plain_tfidf(out: Path, pool: Pool) -> Float32Array:
    """Features by the stored state alone, and the components that the contribution has."""
    folder = out / "contributions" / "00"
    (state,) = folder.glob("fitted-*")
    prior = load_prior("tfidf:words", 12, Samples("text"), Location.parse(state))
    assert isinstance(prior.input, VectorInput)
    assert prior.info.weights == contribution(out).summary["prior"]["weights"]
    components = read_components(Location.parse(folder))
    assert components is not None
    cells = pool.read(np.arange(ROWS), ["text"]).column("text")
    return to_components(unit_features(prior.input.prepare(cells)), components)


@pytest.mark.slow
def test_a_fitted_prior_goes_with_its_targets(tmp_path: Path) -> None:
    pool, out, more = text_pool(tmp_path, 0), tmp_path / "out", tmp_path / "more"
    settings = {"priors": [{"name": "tfidf:words", "input_size": 12}], "dim": 4, "compute": _COMPUTE}
    encode({**settings, "shared": 40}, pool, out)
    assert np.abs(features(out) - plain_tfidf(out, pool)).max() < HALF
    assert "cut_texts" not in contribution(out).summary
    # Another pool in the same space, by the targets alone.
    shutil.move(out / "targets", tmp_path / "targets")
    other = text_pool(tmp_path, 1000)
    encode({**settings, "like": str(tmp_path / "targets")}, other, more)
    assert np.abs(features(more) - plain_tfidf(more, other)).max() < HALF
    assert contribution(out).summary["prior"]["weights"] == contribution(more).summary["prior"]["weights"]
    (state,) = (tmp_path / "targets").glob("fitted-*")
    state.unlink()
    with pytest.raises(InputError, match=f"has no state of {TFIDF}"):
        encode({**settings, "like": str(tmp_path / "targets")}, other, tmp_path / "none")


@pytest.mark.slow
def test_the_state_of_a_finished_contribution_is_never_replaced(tmp_path: Path) -> None:
    pool, out = text_pool(tmp_path, 0), tmp_path / "out"
    priors = [{"name": f"tfidf:{kind}", "input_size": 12} for kind in ("words", "chars")]
    settings = {"priors": priors, "dim": 4, "shared": 40, "compute": _COMPUTE}
    encode(settings, pool, out)
    shutil.rmtree(out / "targets")
    shutil.rmtree(out / "contributions" / "01")
    (state,) = (out / "contributions" / "00").glob("fitted-*")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(InputError, match=f"{state.name} is damaged"):
        encode(settings, pool, out)
    assert state.read_bytes() == bytes(content)
