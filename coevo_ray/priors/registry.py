"""The registry: `scheme:model` -> prior. A scheme's library is imported when the scheme is used (`schemes.SCHEMES`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from coevo_ray.core.arrays import Arrays
from coevo_ray.errors import UsageError
from coevo_ray.priors.base import Prior, known
from coevo_ray.priors.inputs import IMAGES, Samples
from coevo_ray.priors.schemes import FORMS, SCHEMES
from coevo_ray.store.location import Location


class Adapter(Protocol):
    """The functions of each scheme's module."""

    def check(self, model: str, input_size: int | None, samples: Samples) -> None:
        """Checks whether the model can be loaded, without loading it."""
        ...

    def load(self, model: str, input_size: int | None, samples: Samples) -> Prior:
        """Loads the model."""
        ...


class FittedAdapter(Adapter, Protocol):
    """The functions of a scheme's module whose priors are fitted to the shared set before they encode."""

    def fit(self, model: str, input_size: int | None, samples: Samples, texts: Sequence[str]) -> Arrays:
        """Fits the model to samples; its state is determined by these and by the arguments."""
        ...

    def load_fitted(self, model: str, input_size: int | None, samples: Samples, state: Location) -> Prior:
        """Loads the model with its state."""
        ...


@dataclass(frozen=True)
class PriorSpec:
    """A parsed prior.

    Attributes:
        scheme: a key of `SCHEMES`.
        model: the rest of the name, for the adapter.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
    """

    scheme: str
    model: str
    input_size: int | None

    @property
    def name(self) -> str:
        """As the user wrote it, with the scheme's own model where none is named."""
        return f"{self.scheme}:{self.model}"

    @property
    def adapter(self) -> Adapter:
        """The scheme's module."""
        return cast(Adapter, import_module(SCHEMES[self.scheme].module))


def parse_prior(spec: str, input_size: int | None = None) -> PriorSpec:
    """Parses `scheme:model`; `check_prior` checks whether the scheme has this model.

    Args:
        spec: as the user wrote it.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.

    Raises:
        UsageError: the scheme is unknown, there is no model, or the input size is not positive.
    """
    scheme, _, model = spec.partition(":")
    known("prior", scheme, SCHEMES, FORMS)
    model = model or SCHEMES[scheme].model
    if not model:
        raise UsageError(f"prior {spec!r} names no model", f"write {SCHEMES[scheme].form}")
    if input_size is not None and input_size < 1:
        raise UsageError(f"{spec} with an input_size of {input_size}", "give a positive input_size or none")
    return PriorSpec(scheme, model, input_size)


def check_prior(spec: str, input_size: int | None = None, samples: Samples = IMAGES) -> None:
    """Checks before any work that a prior can be loaded: names, packages, and weights in the cache or reachable.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
        samples: the pool's samples; of a model with an image and a text tower the fitting one is taken.

    Raises:
        UsageError: it is unknown, does not encode such samples or take this input size, or its package is missing.
        InputError: its weights are not there.
    """
    prior = parse_prior(spec, input_size)
    prior.adapter.check(prior.model, prior.input_size, samples)


def is_fitted(spec: str) -> bool:
    """Tests whether a prior is fitted to the shared set before it encodes.

    Raises:
        UsageError: its scheme is unknown.
    """
    return SCHEMES[parse_prior(spec).scheme].fitted


def fit_prior(spec: str, input_size: int | None, samples: Samples, texts: Sequence[str]) -> Arrays:
    """Fits a prior, see `is_fitted`, to the samples of a shared set.

    Args:
        spec: `scheme:model`.
        input_size: dimension of its features; None for the model's own.
        samples: the pool's samples.
        texts: of the shared set, in the order of their row_ids.

    Returns:
        Its state: arrays by name, the same for the same arguments.

    Raises:
        UsageError: it is unknown, does not encode such samples, or its package is missing.
        InputError: the samples are too few.
    """
    prior = parse_prior(spec, input_size)
    return cast(FittedAdapter, prior.adapter).fit(prior.model, prior.input_size, samples, texts)


def load_prior(
    spec: str, input_size: int | None = None, samples: Samples = IMAGES, state: Location | None = None
) -> Prior:
    """Loads a prior on the CPU, in evaluation mode, without gradients.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
        samples: the pool's samples; of a model with an image and a text tower the fitting one is taken.
        state: file of the state of a prior that was fitted, see `fit_prior`.

    Raises:
        UsageError: it is unknown, does not encode such samples or take this input size, or its package is missing.
        InputError: its weights are not there, are damaged, or do not fit.
    """
    prior = parse_prior(spec, input_size)
    if state is not None:
        return cast(FittedAdapter, prior.adapter).load_fitted(prior.model, prior.input_size, samples, state)
    return prior.adapter.load(prior.model, prior.input_size, samples)
