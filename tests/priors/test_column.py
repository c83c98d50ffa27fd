from __future__ import annotations

import pickle

import numpy as np
import pytest

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import ColumnInput, Samples
from coevo_ray.priors.registry import check_prior, load_prior

SAMPLES = Samples(features={"dino": 5, "unknown": 0})


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_users_features_come_out_as_they_are(modality: str) -> None:
    samples = Samples(modality, SAMPLES.features)
    check_prior("column:dino", None, samples)
    prior = load_prior("column:dino", None, samples)
    assert prior.input == pickle.loads(pickle.dumps(prior.input)) == ColumnInput("dino", 5)
    rows = np.random.Generator(np.random.PCG64(0)).standard_normal((7, 5)).astype(np.float32)
    features = Encoder(prior, "cpu", batch_rows=3).encode(rows)
    assert np.array_equal(features, rows)
    assert not np.shares_memory(features, rows)
    with pytest.raises(InputError, match=r"needs float32\[b, 5\]"):
        Encoder(prior, "cpu").encode(rows[:, :4])


def test_the_card_names_the_column() -> None:
    info = load_prior("column:dino", None, SAMPLES).info
    assert (info.name, info.input_size, info.dim, info.modality) == ("column:dino", 5, 5, "features")
    assert (info.weights, info.licence) == ("column dino", "the user's own")


def test_an_unknown_dimension_passes_the_check_alone() -> None:
    check_prior("column:unknown", None, SAMPLES)
    with pytest.raises(UsageError, match="not known yet"):
        load_prior("column:unknown", None, SAMPLES)


def test_unknown_columns_and_other_dimensions_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean dino"):
        check_prior("column:Dino", None, SAMPLES)
    with pytest.raises(UsageError, match="the pool has no feature columns"):
        check_prior("column:dino")
    with pytest.raises(UsageError, match="has 5 features, input_size says 6"):
        check_prior("column:dino", 6, SAMPLES)
