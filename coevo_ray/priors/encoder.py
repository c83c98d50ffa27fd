"""The forward pass of a prior: prepared inputs in, features out (psi_k of CoOpt, arXiv 2505.14117)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch

from coevo_ray.core.arrays import AnyArray, Float32Array
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.priors.base import Prior
from coevo_ray.priors.inputs import ImageInput, TokenInput
from coevo_ray.priors.overlap import Overlap
from coevo_ray.priors.token_batches import encode_windows, trimmed

Precision = Literal["auto", "float32", "bfloat16", "float16"]
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_AMPERE = (8, 0)  # the first CUDA capability with bfloat16 in hardware


class Encoder:
    """A prior on a device.

    Texts that keep their lengths go through in the order of these, and come back in their own order.
    On a CUDA device the transfer of a batch overlaps with the forward pass of the one before. On a CPU, glibc keeps the
    memory of one pass for the next, in the whole process.

    Args:
        prior: the model; it is moved to the device.
        device: runs the forward passes.
        batch_rows: rows of one forward pass.
        precision: of the forward pass, by autocast; auto is float32, and on a CUDA device bfloat16 or else float16.
        compile_module: compile the module with torch.compile, which takes a minute and needs a compiler.

    Attributes:
        module: the prior's module on the device, perhaps compiled.
        precision: the settled precision.
        batch_rows: rows of one forward pass; halved each time the device runs out of memory.
        busy_seconds: seconds of forward passes so far; the rest of the time the device waited.

    Raises:
        UsageError: the device cannot compute in this precision.
    """

    def __init__(
        self,
        prior: Prior,
        device: torch.device | str,
        *,
        batch_rows: int = 64,
        precision: Precision = "auto",
        compile_module: bool = False,
    ) -> None:
        self.prior, self.device, self.batch_rows = prior, torch.device(device), batch_rows
        self.precision = settle_precision(self.device, precision)
        self.busy_seconds = 0.0
        if self.device.type == "cpu":
            _keep_freed_memory()
        module = prior.module.to(self.device).eval()
        if isinstance(prior.input, ImageInput):
            module = module.to(memory_format=torch.channels_last)
        self.module: Callable[[torch.Tensor], torch.Tensor] = torch.compile(module) if compile_module else module
        self._mean = torch.tensor(prior.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(prior.std, device=self.device).view(1, 3, 1, 1)
        self._overlap = Overlap(self.device)

    def encode(self, inputs: AnyArray) -> Float32Array:
        """Features of prepared rows.

        Args:
            inputs: [b, *shape] as the prior's `input` describes; of texts that keep their lengths at most this shape.

        Returns:
            float32[b, dim].

        Raises:
            InputError: the inputs have another shape or type, or the module raises or returns another shape.
            StoppedError: the device's memory is too small for one row.
        """
        self._check(inputs)
        if isinstance(self.prior.input, TokenInput):
            return encode_windows(inputs, self._encoded, self.prior.info.dim)
        return self._encoded(inputs)

    def _encoded(self, inputs: AnyArray) -> Float32Array:
        """Features float32[b, dim]; batches get smaller while the device runs out of memory."""
        features = np.empty((len(inputs), self.prior.info.dim), dtype=np.float32)
        done = 0
        while done < len(inputs):
            fits = True
            try:
                for part in self._batches(inputs[done:]):
                    features[done : done + len(part)] = part
                    done += len(part)
            except torch.cuda.OutOfMemoryError:
                fits = False
            if not fits:  # outside of the except block, which holds tensors in the error's traceback
                self._halve()
        return features

    def _check(self, inputs: AnyArray) -> None:
        wanted, have = self.prior.input, inputs.shape[1:]
        fits = have == wanted.shape
        if isinstance(wanted, TokenInput):
            fits = len(have) == 2 and have[0] <= wanted.windows and have[1] <= wanted.context
        if inputs.dtype != wanted.dtype or not fits:
            raise InputError(
                f"prior {self.prior.info.name} was given {inputs.dtype}{list(inputs.shape)}, needs {wanted.dtype}[b, "
                f"{', '.join(map(str, wanted.shape))}]",
                "prepare rows as the prior's input describes",
            )

    def _batches(self, inputs: AnyArray) -> Iterator[Float32Array]:
        """Features float32[b, dim], batch by batch."""
        parts = (inputs[i : i + self.batch_rows] for i in range(0, len(inputs), self.batch_rows))
        if isinstance(self.prior.input, TokenInput):
            parts = (trimmed(part) for part in parts)
        for finished, seconds in self._overlap.run(parts, self._forward):
            self.busy_seconds += seconds
            yield finished

    def _forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Features float32[b, dim] of rows on the device."""
        half = torch.float16 if self.precision == "float16" else torch.bfloat16
        autocast = torch.autocast(self.device.type, dtype=half, enabled=self.precision != "float32")
        try:
            with torch.inference_mode(), autocast:
                features = self.module(self._scaled(rows))
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise InputError(
                f"prior {self.prior.info.name} failed on a batch of {len(rows)} rows: {' '.join(str(error).split())}",
                "check its input size and its module",
            ) from error
        return self._checked(features, len(rows)).float()

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        if isinstance(self.prior.input, ImageInput):
            # The permuted view stays channels-last, the faster layout for convolutions on CPU and GPU.
            return torch.sub(rows.permute(0, 3, 1, 2), self._mean).div_(self._std)
        return rows.long() if rows.dtype == torch.int32 else rows

    def _checked(self, features: object, rows: int) -> torch.Tensor:
        info = self.prior.info
        if not isinstance(features, torch.Tensor) or features.shape != (rows, info.dim):
            have = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise InputError(
                f"prior {info.name} gave {have}, need [{rows}, {info.dim}]", "fix its module or its stated dim"
            )
        return features

    def _halve(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch_rows == 1:
            raise StoppedError(
                f"{self.device} has no memory for one row of {self.prior.info.name}",
                "free memory on it, use a device with more, or give the prior a smaller input_size",
            )
        self.batch_rows = max(1, self.batch_rows // 2)


def _keep_freed_memory() -> None:
    """Keeps glibc from returning a pass's large tensors to the system, which would hand them out again page by page.

    This saves two thirds of the time of a pass of 384 images of 64 pixels through EfficientNet-Lite0.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        _ = libc.mallopt(_M_MMAP_THRESHOLD, 2**30) or libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # 2**25 in older versions


def settle_precision(device: torch.device, precision: Precision) -> Precision:
    """Resolves `auto` for a device: float32, or on a CUDA device bfloat16 (Ampere and later) or float16.

    Raises:
        UsageError: the device cannot compute in this precision.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "float32"
        return "bfloat16" if torch.cuda.get_device_capability(device) >= _AMPERE else "float16"
    if precision == "float16" and device.type == "cpu":
        raise UsageError("float16 on a CPU", "choose float32 or bfloat16, or a GPU")
    return precision
