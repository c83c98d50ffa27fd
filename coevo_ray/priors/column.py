"""Feature vectors that the pool already holds: `column:NAME`."""

from __future__ import annotations

from torch import nn

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import LoadedPrior, PriorInfo, known
from coevo_ray.priors.inputs import ColumnInput, Samples


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`; a dimension that is not known yet passes."""
    _dim(model, input_size, samples)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    dim = _dim(model, input_size, samples)
    if dim == 0:
        raise UsageError(f"column:{model} has a dimension that is not known yet", "ingest the pool first")
    preprocessing, weights = "float32, as they are stored", f"column {model}"
    info = PriorInfo(f"column:{model}", dim, dim, preprocessing, weights, "the user's own", modality="features")
    return LoadedPrior(info, nn.Identity(), ColumnInput(model, dim))


def _dim(model: str, input_size: int | None, samples: Samples) -> int:
    if not samples.features:
        raise UsageError(f"column:{model}: the pool has no feature columns", "name the feature columns at ingest")
    known("feature column", model, samples.features, "column:NAME")
    dim = samples.features[model]
    if input_size not in (None, dim) and dim != 0:
        raise UsageError(f"column:{model} has {dim} features, input_size says {input_size}", "leave input_size out")
    return dim
