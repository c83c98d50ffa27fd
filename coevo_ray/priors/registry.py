"""The registry: `scheme:model` -> adapter. No scheme's library is imported before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import Prior, known
from coevo_ray.priors.inputs import IMAGES, Samples

# Scheme -> its module and how it is written.
_SCHEMES = {
    "efficientnet_lite": ("coevo_ray.priors.efficientnet_lite", "efficientnet_lite:0|1|2"),
    "open_clip": ("coevo_ray.priors.open_clip", "open_clip:MODEL/PRETRAINED"),
    "torchvision": ("coevo_ray.priors.torchvision", "torchvision:MODEL/WEIGHTS"),
    "timm": ("coevo_ray.priors.timm", "timm:MODEL[.TAG]"),
    "file": ("coevo_ray.priors.file", "file:/PATH#ARCHITECTURE"),
    "callable": ("coevo_ray.priors.user", "callable:package.module:Class"),
    "column": ("coevo_ray.priors.column", "column:NAME"),
}
FORMS = ", ".join(form for _, form in _SCHEMES.values())


class Adapter(Protocol):
    """What each scheme's module offers."""

    def check(self, model: str, input_size: int | None, samples: Samples) -> None:
        """Looks whether the model can be loaded, as far as that goes without loading it."""
        ...

    def load(self, model: str, input_size: int | None, samples: Samples) -> Prior:
        """Loads the model."""
        ...


@dataclass(frozen=True)
class PriorSpec:
    """A parsed prior.

    Attributes:
        scheme: which adapter.
        model: what the adapter is given.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
    """

    scheme: str
    model: str
    input_size: int | None

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return f"{self.scheme}:{self.model}"

    @property
    def adapter(self) -> Adapter:
        """The scheme's module."""
        return cast(Adapter, import_module(_SCHEMES[self.scheme][0]))


def parse_prior(spec: str, input_size: int | None = None) -> PriorSpec:
    """Reads `scheme:model`; whether the scheme has this model is for `check_prior`.

    Args:
        spec: what the user wrote.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.

    Raises:
        UsageError: the scheme is unknown, there is no model, or the input size is not positive.
    """
    scheme, _, model = spec.partition(":")
    known("prior", scheme, _SCHEMES, FORMS)
    if not model:
        raise UsageError(f"prior {spec!r} names no model", f"write {_SCHEMES[scheme][1]}")
    if input_size is not None and input_size < 1:
        raise UsageError(f"{spec} with an input_size of {input_size}", "give a positive input_size or none")
    return PriorSpec(scheme, model, input_size)


def check_prior(spec: str, input_size: int | None = None, samples: Samples = IMAGES) -> None:
    """Looks before any work whether a prior can be loaded: names, packages, and weights in the cache or reachable.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
        samples: what the pool offers: a model with an image and a text tower gives the one that fits.

    Raises:
        UsageError: it is unknown, is not for such samples, does not take this input size, or its package is missing.
        InputError: its weights are not there.
    """
    prior = parse_prior(spec, input_size)
    prior.adapter.check(prior.model, prior.input_size, samples)


def load_prior(spec: str, input_size: int | None = None, samples: Samples = IMAGES) -> Prior:
    """Loads a prior on the CPU, in evaluation mode, without gradients.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its square input, or tokens of a text; None for the model's own.
        samples: what the pool offers: a model with an image and a text tower gives the one that fits.

    Raises:
        UsageError: it is unknown, is not for such samples, does not take this input size, or its package is missing.
        InputError: its weights are not there, are damaged, or do not fit.
    """
    prior = parse_prior(spec, input_size)
    return prior.adapter.load(prior.model, prior.input_size, samples)
