"""The user's own encoder: `callable:package.module:Class`.

Calling it (with `input_size=`, if it takes one and one is set) returns an object with `module`, `dim`, and

- for images `input_size`: the module takes float32[b, 3, s, s]. Optionally `mean` and `std` (three numbers each, in
  units of 0..255 pixels; without them pixels are scaled to 0..1);
- for texts `context` and `tokenize` (texts -> integers [b, context], padded and cut): the module takes
  int64[b, context]. `tokenize` travels to CPU tasks without the module: a function, or a small object that pickles.

The module returns float[b, dim]. `licence` is optional.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from coevo_ray.core.arrays import Int32Array
from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import (
    LoadedPrior,
    channels,
    feature_dim,
    make_prior,
    make_text_prior,
    require_modality,
)
from coevo_ray.priors.inputs import Samples

KindT = TypeVar("KindT")
RawTokenizer = Callable[[list[str]], npt.ArrayLike]
NO_LICENCE = "not stated"
_FORM = "write callable:package.module:Class; the package must be installed, or on PYTHONPATH, on every node"


@dataclass(frozen=True)
class _Tokenize:
    """The user's tokenizer, whose output is checked."""

    model: str
    context: int
    tokenize: RawTokenizer

    def __call__(self, texts: list[str]) -> Int32Array:
        """Tokens int32[b, context]."""
        tokens = np.asarray(self.tokenize(texts))
        if tokens.shape != (len(texts), self.context) or tokens.dtype.kind not in "iu":
            raise InputError(
                f"callable:{self.model} tokenizes {len(texts)} texts to {tokens.dtype}{list(tokens.shape)}, "
                f"need integers [{len(texts)}, {self.context}]",
                "pad and cut every text to context tokens",
            )
        return tokens.astype(np.int32, copy=False)


@dataclass(frozen=True)
class UserEncoder:
    """An object of the user's class with its required attributes.

    Attributes:
        made: the object, for its optional attributes.
        module: the network.
        dim: d_k, as it states it.
        size: pixels of its square input, or tokens of a text.
        modality: "text" where it has a tokenizer, else "image".
    """

    made: object
    module: nn.Module
    dim: int
    size: int
    modality: str


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    _find(model)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    return make(model, build(model, input_size), samples)


def build(model: str, input_size: int | None) -> UserEncoder:
    """Calls the user's class and checks the object that it returns.

    Args:
        model: package.module:Class.
        input_size: pixels of its square input, or tokens of a text; None for its own.

    Raises:
        UsageError: it cannot be imported, raises, lacks an attribute, or takes another input size.
    """
    made = _call(model, _find(model), input_size)
    is_text = hasattr(made, "tokenize")
    module = _attribute(model, made, "module", nn.Module)
    dim, size = (_attribute(model, made, name, int) for name in ("dim", "context" if is_text else "input_size"))
    if input_size not in (None, size):
        raise UsageError(
            f"callable:{model} takes {size} {'tokens' if is_text else 'pixels'}, {input_size} were requested",
            "leave input_size out, or let the class take it as an argument",
        )
    return UserEncoder(made, module, dim, size, "text" if is_text else "image")


def make(model: str, encoder: UserEncoder, samples: Samples) -> LoadedPrior:
    """Makes the prior of an encoder.

    Args:
        model: package.module:Class.
        encoder: as `build` returned it.
        samples: the pool's samples.

    Raises:
        UsageError: it does not encode such samples, or contradicts what it states.
    """
    name, made, module = f"callable:{model}", encoder.made, encoder.module
    dim, size, licence = encoder.dim, encoder.size, str(getattr(made, "licence", NO_LICENCE))
    require_modality(name, encoder.modality, samples)
    have = feature_dim(name, module, size, encoder.modality)
    if have != dim:
        raise UsageError(f"{name} gives features of dimension {have} and states dim {dim}", "correct one of them")
    if encoder.modality == "text":
        return make_text_prior(name, module, size, dim, _Tokenize(model, size, _picklable(name, made)), licence)
    mean = channels(getattr(made, "mean", (0.0, 0.0, 0.0)), 1.0)
    std = channels(getattr(made, "std", (255.0, 255.0, 255.0)), 1.0)
    if min(std) <= 0:
        raise UsageError(f"{name} has std {std}", "give three numbers above 0, in units of 0..255 pixels")
    return make_prior(name, module, size, dim, mean, std, licence)


def _picklable(name: str, made: object) -> RawTokenizer:
    tokenize: RawTokenizer = made.tokenize  # type: ignore[attr-defined]  # a text encoder has one, see `build`
    if getattr(tokenize, "__self__", None) is made:
        reason = "it is a method of the object that holds the module"
    else:
        try:
            pickle.dumps(tokenize)
            return tokenize
        except Exception as error:  # noqa: BLE001 - the user's object may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UsageError(
        f"the tokenize of {name} cannot travel to CPU tasks: {reason}",
        "make it a function of the module, or an object of its own that pickles",
    )


def _find(model: str) -> Callable[..., object]:
    module, _, name = model.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # the user's own module may raise anything when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"callable:{model} cannot be imported ({reason})", _FORM) from error
    if not callable(found):
        raise UsageError(f"callable:{model} is a {type(found).__name__}, which cannot be called", _FORM)
    made: Callable[..., object] = found
    return made


def _call(model: str, found: Callable[..., object], input_size: int | None) -> object:
    try:
        takes_size = "input_size" in inspect.signature(found).parameters
        return found(input_size=input_size) if takes_size and input_size is not None else found()
    except Exception as error:  # as above
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(
            f"callable:{model} raised when it was called: {reason}",
            "fix it; try it alone",
        ) from error


def _attribute(model: str, made: object, name: str, kind: type[KindT]) -> KindT:
    """An attribute that the object must have; numbers must be positive."""
    have: object = getattr(made, name, None)
    if isinstance(have, kind) and not (isinstance(have, int) and have < 1):
        return have
    shown = f"has {name} = {have!r}"[:120] if hasattr(made, name) else f"has no {name}"
    raise UsageError(
        f"callable:{model} gave a {type(made).__name__} that {shown}",
        "give it module (a torch.nn.Module), dim and input_size, or context for texts (positive integers)",
    )
