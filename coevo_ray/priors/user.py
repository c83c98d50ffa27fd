"""The user's own encoder: `callable:package.module:Class`.

Calling it (with `input_size=`, if it takes one and the user gave one) returns an object with `module`
(float32[b, 3, s, s] -> float[b, dim]), `dim`, `input_size`, and optionally `mean` and `std` (three numbers each, in
units of 0..255 pixels; without them pixels are scaled to 0..1) and `licence`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import LoadedPrior, channels, feature_dim, make_prior
from coevo_ray.priors.inputs import Samples

_NEEDED: dict[str, type] = {"module": nn.Module, "dim": int, "input_size": int}
_FORM = "write callable:package.module:Class; the package must be installed, or on PYTHONPATH, on every node"


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    _find(model)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    made = _call(model, _find(model), input_size)
    _check_attributes(model, made, input_size)
    name, dim = f"callable:{model}", int(made.dim)
    mean = channels(getattr(made, "mean", (0.0, 0.0, 0.0)), 1.0)
    std = channels(getattr(made, "std", (255.0, 255.0, 255.0)), 1.0)
    if min(std) <= 0:
        raise UsageError(f"{name} has std {std}", "give three numbers above 0, in units of 0..255 pixels")
    have = feature_dim(name, made.module, made.input_size)
    if have != dim:
        raise UsageError(f"{name} gives features of dimension {have} and states dim {dim}", "mend one of them")
    licence = str(getattr(made, "licence", "not stated"))
    return make_prior(name, made.module, int(made.input_size), dim, mean, std, licence)


def _find(model: str) -> Callable[..., Any]:
    module, _, name = model.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # the user's own module may raise anything when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"callable:{model} cannot be imported ({reason})", _FORM) from error
    if not callable(found):
        raise UsageError(f"callable:{model} is a {type(found).__name__}, which cannot be called", _FORM)
    made: Callable[..., Any] = found
    return made


def _call(model: str, found: Callable[..., Any], input_size: int | None) -> Any:
    try:
        takes_size = "input_size" in inspect.signature(found).parameters
        return found(input_size=input_size) if takes_size and input_size is not None else found()
    except Exception as error:  # as above
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"callable:{model} raised when it was called: {reason}", "mend it; try it alone") from error


def _check_attributes(model: str, made: Any, input_size: int | None) -> None:
    for name, kind in _NEEDED.items():
        have: Any = getattr(made, name, None)
        if not isinstance(have, kind) or (isinstance(have, int) and have < 1):
            shown = f"has {name} = {have!r}"[:120] if hasattr(made, name) else f"has no {name}"
            raise UsageError(
                f"callable:{model} gave a {type(made).__name__} that {shown}",
                "give it module (a torch.nn.Module), dim and input_size (positive integers)",
            )
    if input_size not in (None, made.input_size):
        raise UsageError(
            f"callable:{model} takes {made.input_size} pixels, {input_size} were asked for",
            "leave input_size out, or let the class take it as an argument",
        )
