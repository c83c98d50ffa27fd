"""What a prior model is to this package."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from coevo_ray.errors import InputError


@dataclass(frozen=True)
class PriorInfo:
    """A prior model's card.

    Attributes:
        name: as the user wrote it, for instance efficientnet_lite:0.
        input_size: pixels of its square input.
        dim: d_k, dimension of its features.
        preprocessing: one line.
        weights: identity of the weights, SHA-256 (hex) over the state dict.
        licence: a note for the targets' card.
    """

    name: str
    input_size: int
    dim: int
    preprocessing: str
    weights: str
    licence: str


@dataclass(frozen=True)
class Prior:
    """A loaded prior model.

    Attributes:
        info: its card.
        module: float[b, 3, s, s], normalised -> float[b, dim].
        mean, std: per channel, in units of 0..255 pixels.
    """

    info: PriorInfo
    module: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def encode_batch(prior: Prior, images: npt.NDArray[np.uint8], device: torch.device) -> npt.NDArray[np.float32]:
    """Features of decoded images.

    Args:
        prior: the model; its module is on `device` and in evaluation mode.
        images: uint8[b, s, s, 3].
        device: where to compute.

    Returns:
        float32[b, dim].

    Raises:
        InputError: the module gives another shape, or raises.
    """
    with torch.inference_mode():
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        mean = torch.tensor(prior.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(prior.std, device=device).view(1, 3, 1, 1)
        inputs = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        try:
            features = prior.module(inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"prior {prior.info.name} failed on input {tuple(inputs.shape)}: {error}",
                "check its input size and its module",
            ) from error
    if not isinstance(features, torch.Tensor) or features.shape != (len(images), prior.info.dim):
        have = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise InputError(
            f"prior {prior.info.name} gave {have}, need {(len(images), prior.info.dim)}",
            "mend its module or its stated dim",
        )
    result: npt.NDArray[np.float32] = features.float().cpu().numpy()
    return result


def feature_dim(module: nn.Module, input_size: int) -> int:
    """Dimension of a module's features, by one forward pass."""
    was = module.training
    with torch.inference_mode():
        dim = int(module.eval()(torch.zeros(1, 3, input_size, input_size)).shape[1])
    module.train(was)
    return dim


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes and bytes of a module's state, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rgb(values: Sequence[float], scale: float = 255.0) -> tuple[float, float, float]:
    """Three channel values in units of 0..255 pixels."""
    red, green, blue = (float(v) * scale for v in values)
    return red, green, blue
