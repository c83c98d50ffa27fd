"""The interface of prior models, and helpers that adapters share."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Literal, Protocol

import torch
from torch import nn

from coevo_ray.config.pool import SAMPLE_SETTINGS
from coevo_ray.errors import UsageError
from coevo_ray.priors.inputs import ImageInput, PriorInput, Samples, TextInput, TokenInput, Tokenizer
from coevo_ray.priors.schemes import forms_for
from coevo_ray.priors.text_tokens import TextTokens

Channels = tuple[float, float, float]
Crop = Literal["center", "squash"]


@dataclass(frozen=True)
class PriorInfo:
    """The card of a prior model, as manifests state it.

    Attributes:
        name: as the user wrote it, for instance efficientnet_lite:0.
        input_size: pixels of its square input; tokens of a text; dimension of a feature column.
        dim: d_k, dimension of its features.
        preprocessing: one line.
        weights: identity of the weights, see `weights_hash`.
        licence: a note for the targets' card.
        modality: name of the modality that it encodes, or `features` for the user's own vectors.
    """

    name: str
    input_size: int
    dim: int
    preprocessing: str
    weights: str
    licence: str
    modality: str = "image"


class Prior(Protocol):
    """A loaded prior model."""

    @property
    def info(self) -> PriorInfo:
        """Its card."""
        ...

    @property
    def module(self) -> nn.Module:
        """Features float[b, dim] of normalised images float32[b, 3, s, s], tokens int64[b, l] or columns.

        Where texts keep their lengths, l is that of the batch's longest window, and `PAD` follows the shorter ones.
        """
        ...

    @property
    def input(self) -> PriorInput:
        """Its input, read from a row of the pool."""
        ...

    @property
    def mean(self) -> Channels:
        """Mean per channel, in units of 0..255 pixels."""
        ...

    @property
    def std(self) -> Channels:
        """Standard deviation per channel, in units of 0..255 pixels."""
        ...


@dataclass(frozen=True)
class LoadedPrior:
    """A `Prior`, as the adapters return it."""

    info: PriorInfo
    module: nn.Module
    input: PriorInput
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)


def make_prior(
    name: str,
    module: nn.Module,
    input_size: int,
    dim: int,
    mean: Channels,
    std: Channels,
    licence: str,
    crop: Crop = "center",
) -> LoadedPrior:
    """Makes an image prior: evaluation mode, no gradients, weights hashed, preprocessing described.

    Args:
        name: scheme:model.
        module: float32[b, 3, s, s] -> float[b, dim].
        input_size: s, in pixels.
        dim: d_k.
        mean, std: per channel, in units of 0..255 pixels.
        licence: a note.
        crop: the way images become square.
    """
    module.eval().requires_grad_(False)
    values = [" ".join(f"{v:g}" for v in channels) for channels in (mean, std)]
    square = f"shorter side to {input_size} (bicubic), centre crop" if crop == "center" else f"squashed to {input_size}"
    preprocessing = f"RGB 0..255, {square}, minus {values[0]}, divided by {values[1]}"
    info = PriorInfo(name, input_size, dim, preprocessing, weights_hash(module), licence)
    return LoadedPrior(info, module, ImageInput(input_size, crop), mean, std)


def make_text_prior(
    name: str, module: nn.Module, context: int, dim: int, tokenize: Tokenizer, licence: str
) -> LoadedPrior:
    """Makes a text prior, as `make_prior` does for images.

    Args:
        name: scheme:model.
        module: int64[b, context] -> float[b, dim].
        context: tokens of a text.
        dim: d_k.
        tokenize: texts -> int32[b, context]; pickles.
        licence: a note.
    """
    module.eval().requires_grad_(False)
    preprocessing = f"tokens of its own tokenizer, padded and cut to {context}"
    info = PriorInfo(name, context, dim, preprocessing, weights_hash(module), licence, modality="text")
    return LoadedPrior(info, module, TextInput(context, tokenize))


def make_token_prior(name: str, module: nn.Module, dim: int, tokenize: TextTokens, licence: str) -> LoadedPrior:
    """Makes a prior of texts that keep their lengths, as `make_prior` does for images.

    Args:
        name: scheme:model.
        module: int64[b, l] with `PAD` behind shorter texts -> float[b, dim].
        dim: d_k.
        tokenize: its tokenizer, which is part of the weights' identity.
        licence: a note.
    """
    module.eval().requires_grad_(False)
    context, windows = tokenize.context, tokenize.windows
    longer = f"cut to {context}" if windows == 1 else f"in up to {windows} windows of {context}, the mean by tokens"
    before = f"{tokenize.prefix!r} before the text, " if tokenize.prefix else ""
    made_of = [weights_hash(module), tokenize.prefix, tokenize.vocabulary]
    weights = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
    info = PriorInfo(
        name, context, dim, f"{before}tokens of its own tokenizer, longer texts {longer}", weights, licence, "text"
    )
    return LoadedPrior(info, module, TokenInput(context, windows, tokenize))


def feature_dim(name: str, module: nn.Module, input_size: int, modality: str = "image") -> int:
    """Dimension of a module's features, measured by one forward pass.

    Args:
        name: scheme:model, for the message.
        module: the module; it is put into evaluation mode.
        input_size: pixels of its input, or tokens of a text.
        modality: `image` (float32[1, 3, s, s]) or `text` (int64[1, s]).

    Raises:
        UsageError: the module cannot take this input size, or does not return float[b, dim].
    """
    is_image = modality == "image"
    example = torch.zeros(1, 3, input_size, input_size) if is_image else torch.zeros(1, input_size, dtype=torch.int64)
    try:
        with torch.inference_mode():
            features = module.eval()(example)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UsageError(
            f"{name} cannot take {input_size} {'pixels' if is_image else 'tokens'}: "
            f"{' '.join(str(error).split())[:200]}",
            "leave input_size out to use the model's own, or give a larger one",
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        have = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UsageError(
            f"{name} gives {have} for one {modality}, need [1, dim]", "write an adapter: callable:module:Class"
        )
    return int(features.shape[1])


def require_modality(name: str, takes: str, samples: Samples) -> None:
    """Refuses a prior that does not encode the pool's samples.

    Args:
        name: scheme:model.
        takes: name of the modality that it encodes.
        samples: the pool's samples.

    Raises:
        UsageError: the pool holds another modality; names the priors for it.
    """
    if samples.modality == takes:
        return
    have, forms = SAMPLE_SETTINGS[samples.modality].plural, forms_for(samples.modality)
    use = f"for {have} use {', '.join(forms)}, or" if forms else f"no prior encodes {have} yet; use"
    raise UsageError(
        f"{name} encodes {SAMPLE_SETTINGS[takes].plural}, and the pool holds {have}",
        f"{use} column:NAME for features that the pool has",
    )


def weights_hash(module: nn.Module) -> str:
    """Identity of weights: SHA-256 (hex) over names, types, shapes and bytes of the state, in the order of names.

    Args:
        module: any module, on any device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def channels(values: Sequence[float], scale: float = 255.0) -> Channels:
    """Three channel values, in units of 0..255 pixels.

    Args:
        values: one per channel.
        scale: factor that brings them to these units.

    Raises:
        UsageError: there are more or fewer than three.
    """
    if len(values) != 3:
        raise UsageError(f"{len(values)} values for the channels: {values}", "give three, for red, green and blue")
    red, green, blue = (float(v) * scale for v in values)
    return red, green, blue


def known(kind: str, name: str, names: Iterable[str], form: str) -> None:
    """Refuses an unknown name.

    Args:
        kind: the kind of thing that it names, for the message.
        name: as the user wrote it.
        names: the known names.
        form: the way to write it, for the message.

    Raises:
        UsageError: the name is unknown; suggests the nearest spellings.
    """
    every = list(names)
    if name in every:
        return
    lower = {n.lower(): n for n in every}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    shown = ", ".join(every[:12]) + (f" and {len(every) - 12} more" if len(every) > 12 else "")
    raise UsageError(f"unknown {kind} {name!r}{hint}", f"write {form}; known: {shown}")


def library(package: str, prior: str, install: str) -> ModuleType:
    """Imports a scheme's library on demand.

    Args:
        package: name to import.
        prior: scheme:model that needs it, for the message.
        install: the command that installs it.

    Raises:
        UsageError: it is missing or broken.
    """
    try:
        return import_module(package)
    except (ImportError, RuntimeError, OSError) as error:  # torchvision built for another torch gives RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{prior} needs the package {package}: {reason}", install) from error
