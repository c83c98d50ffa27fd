"""The user's own encoder: `callable:package.module:Class`.

Calling it without arguments gives an object with `module` (float[b, 3, s, s] -> float[b, dim]), `dim`, `input_size`, and
optionally `mean`, `std` (three numbers each, in 0..255) and `licence`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import Prior, PriorInfo, rgb, weights_hash


def check(model: str, input_size: int | None) -> None:
    """See `registry.check_prior`."""
    _find(model)


def load(model: str, input_size: int | None) -> Prior:
    """See `registry.load_prior`."""
    made = _find(model)()
    missing = [name for name in ("module", "dim", "input_size") if not hasattr(made, name)]
    if missing or not isinstance(made.module, nn.Module):
        raise UsageError(
            f"callable:{model} gave {type(made).__name__} without {missing or 'a torch.nn.Module as module'}",
            "give it module, dim and input_size (see the README, Your own data)",
        )
    info = PriorInfo(
        name=f"callable:{model}",
        input_size=int(input_size or made.input_size),
        dim=int(made.dim),
        preprocessing="RGB, shorter side to the input size, centre crop, (x - mean) / std",
        weights=weights_hash(made.module),
        licence=str(getattr(made, "licence", "not stated")),
    )
    mean, std = getattr(made, "mean", (127.5,) * 3), getattr(made, "std", (127.5,) * 3)
    return Prior(info, made.module, rgb(mean, 1.0), rgb(std, 1.0))


def _find(model: str) -> Any:
    module, colon, name = model.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"callable:{model} cannot be imported: {error}",
            "write callable:package.module:Class; the package must be installed on every node",
        ) from error
    if not colon or not callable(found):
        raise UsageError(f"callable:{model} is not callable", "name a class or a function")
    return found
