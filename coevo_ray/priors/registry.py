"""The registry: `scheme:model` -> adapter. No scheme's library is imported before it is used."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Protocol, cast

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import Prior

_SCHEMES = {
    "callable": "coevo_ray.priors.user",
    "efficientnet_lite": "coevo_ray.priors.efficientnet_lite",
    "open_clip": "coevo_ray.priors.open_clip",
    "torchvision": "coevo_ray.priors.torchvision",
}


class Adapter(Protocol):
    """What each scheme's module offers."""

    def check(self, model: str, input_size: int | None) -> None:
        """Looks whether the model can be loaded, as far as that goes without loading it."""
        ...

    def load(self, model: str, input_size: int | None) -> Prior:
        """Loads the model."""
        ...


def _adapter(spec: str) -> tuple[Adapter, str]:
    scheme, colon, model = spec.partition(":")
    if scheme not in _SCHEMES or not colon or not model:
        near = difflib.get_close_matches(scheme, _SCHEMES, n=1)
        hint = f"; did you mean {near[0]}:{model or 'MODEL'}?" if near else ""
        raise UsageError(
            f"unknown prior {spec!r}{hint}",
            "use efficientnet_lite:0|1|2, open_clip:MODEL/PRETRAINED, torchvision:MODEL/WEIGHTS "
            "or callable:package.module:Class",
        )
    return cast(Adapter, import_module(_SCHEMES[scheme])), model


def check_prior(spec: str, input_size: int | None = None) -> None:
    """Looks whether a prior can be loaded, before any work starts.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its input, or None for the model's own.

    Raises:
        UsageError: it is unknown, or its package is missing.
        InputError: its weights are not there.
    """
    adapter, model = _adapter(spec)
    adapter.check(model, input_size)


def load_prior(spec: str, input_size: int | None = None) -> Prior:
    """Loads a prior on the CPU, in evaluation mode.

    Args:
        spec: `scheme:model`.
        input_size: pixels of its input, or None for the model's own.

    Raises:
        UsageError: it is unknown, or its package is missing.
        InputError: its weights are not there or do not fit.
    """
    adapter, model = _adapter(spec)
    prior = adapter.load(model, input_size)
    prior.module.eval().requires_grad_(False)
    return prior


def known(kind: str, name: str, names: list[str], where: str) -> None:
    """Refuses a name that is not among those known, with the nearest spelling.

    Raises:
        UsageError: it is not known.
    """
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; near: {', '.join(near)}" if near else ""
    shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    raise UsageError(f"unknown {kind} {name!r}{hint}", f"known ones are {shown} ({where})")
