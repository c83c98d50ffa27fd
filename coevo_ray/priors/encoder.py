"""The forward pass of a prior: prepared inputs in, features out (psi_k of CoOpt, arXiv 2505.14117, D5.1)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.errors import InputError
from coevo_ray.priors.base import Prior
from coevo_ray.priors.inputs import ImageInput

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Encoder:
    """A prior on a device.

    Args:
        prior: the model; it is moved to the device.
        device: where to compute.
        batch_rows: rows of one forward pass.
        precision: of the forward pass; auto is float32 on a CPU.

    Attributes:
        precision: what auto came to.
        batch_rows: rows of one forward pass.
    """

    def __init__(
        self, prior: Prior, device: torch.device | str, *, batch_rows: int = 64, precision: Precision = "auto"
    ) -> None:
        self.prior, self.device, self.batch_rows = prior, torch.device(device), batch_rows
        self.precision = "float32" if precision == "auto" else precision
        prior.module.to(self.device).eval()
        self._mean = torch.tensor(prior.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(prior.std, device=self.device).view(1, 3, 1, 1)

    def encode(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of prepared rows.

        Args:
            inputs: [b, *shape] as the prior's `input` describes.

        Returns:
            float32[b, dim].

        Raises:
            InputError: the inputs have another shape or type, or the module raises or gives another shape.
        """
        info, wanted = self.prior.info, self.prior.input
        if inputs.dtype != wanted.dtype or inputs.shape[1:] != wanted.shape:
            raise InputError(
                f"prior {info.name} was given {inputs.dtype}{list(inputs.shape)}, needs {wanted.dtype}[b, "
                f"{', '.join(map(str, wanted.shape))}]",
                "prepare rows as the prior's input says",
            )
        features = np.empty((len(inputs), info.dim), dtype=np.float32)
        for start in range(0, len(inputs), self.batch_rows):
            part = inputs[start : start + self.batch_rows]
            features[start : start + len(part)] = self._forward(part).float().cpu().numpy()
        return features

    def _forward(self, inputs: npt.NDArray[Any]) -> torch.Tensor:
        owned = inputs if inputs.flags.writeable else inputs.copy()  # PyTorch warns of read-only memory
        rows = torch.from_numpy(owned).to(self.device)
        with torch.inference_mode():
            try:
                features = self.prior.module(self._scaled(rows))
            except torch.cuda.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                raise InputError(
                    f"prior {self.prior.info.name} failed on a batch of {len(inputs)} rows: "
                    f"{' '.join(str(error).split())}",
                    "check its input size and its module",
                ) from error
        return self._checked(features, len(inputs))

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        if isinstance(self.prior.input, ImageInput):
            # The permuted view stays channels-last, the faster layout for convolutions on CPU and GPU.
            return (rows.permute(0, 3, 1, 2).float() - self._mean) / self._std
        return rows.long() if rows.dtype == torch.int32 else rows

    def _checked(self, features: Any, rows: int) -> torch.Tensor:
        info = self.prior.info
        if not isinstance(features, torch.Tensor) or features.shape != (rows, info.dim):
            have = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise InputError(
                f"prior {info.name} gave {have}, need [{rows}, {info.dim}]", "mend its module or its stated dim"
            )
        return features
