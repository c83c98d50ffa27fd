"""The registry: `scheme:model` -> prior. A scheme's library is imported when the scheme is used (`schemes.SCHEMES`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import Prior, known
from coevo_ray.priors.inputs import IMAGES, Samples
from coevo_ray.priors.schemes import FORMS, SCHEMES


class Adapter(Protocol):
    """The functions of each scheme's module."""

    def check(self, model: str, input_size: int | None, samples: Samples) -> None:
        """Checks whether the model can be loaded, without loading it."""
        ...

    def load(self, model: str, input_size: int | None, samples: Samples) -> Prior:
        """Loads the model."""
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


def load_prior(spec: str, input_size: int | None = None, samples: Samples = IMAGES) -> Prior:
    """Loads a prior on the CPU, in evaluation mode, without gradients.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
        samples: the pool's samples; of a model with an image and a text tower the fitting one is taken.

    Raises:
        UsageError: it is unknown, does not encode such samples or take this input size, or its package is missing.
        InputError: its weights are not there, are damaged, or do not fit.
    """
    prior = parse_prior(spec, input_size)
    return prior.adapter.load(prior.model, prior.input_size, samples)
