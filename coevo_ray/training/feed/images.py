"""Image batches for training: decode, resize, scale, augment."""

from __future__ import annotations

import random as python_random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from coevo_ray.core.arrays import Float64Array, UInt8Array, UInt64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.image_formats import jpeg_fits
from coevo_ray.pool.images import decode_image, resized
from coevo_ray.store.row_table import vectors
from coevo_ray.training.feed.batch import new_tensor

# ImageNet's statistics in 0..255 units; a fixed choice, so that nothing has to be measured before training.
MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
_MEAN, _STD = (torch.tensor(channels).view(1, 3, 1, 1) for channels in (MEAN, STD))
_JPEG = b"\xff\xd8\xff"


class ImageTransform:
    """Feed transform: encoded images -> {"image": float32[b, 3, s, s]}, and int64[b] "label" where rows have them.

    Args:
        size: pixels of the square output.
        augment: `shift` moves by up to an eighth of the size, `shift_flip` also mirrors half of the images. What
            happens to an image follows from its seed alone.

    Raises:
        ImageError: an image cannot be decoded (when called).
    """

    def __init__(self, size: int, augment: Literal["none", "shift", "shift_flip"]) -> None:
        self.size, self.augment = size, augment

    def __call__(self, rows: pa.Table, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        images = np.stack([decode_square(data.as_py(), self.size) for data in rows.column("image")])
        if self.augment != "none":
            images = shift(images, seeds, max(1, self.size // 8))
        if self.augment == "shift_flip":
            mirrored = _uniform(seeds, 2) < 0.5
            images[mirrored] = images[mirrored, ..., ::-1]
        # As `scale_pixels`, by numpy: torch's threads would take the cores from the training loop's.
        scaled = new_tensor(images.shape, torch.float32)
        np.subtract(images, _MEAN.numpy(), out=scaled.numpy())
        np.divide(scaled.numpy(), _STD.numpy(), out=scaled.numpy())
        return {"image": scaled, **labels_of(rows)}


class PerImage:
    """Feed transform from a map-style one: a function of one image that returns a tensor.

    Before each image the generators of torch, Python's `random` and numpy are seeded from the row's seed, so that what
    happens to a row in an epoch depends neither on the batch nor on the number of workers. Without worker processes it
    runs in the training loop's thread, and these generators are put back as they were after each batch.

    The last parts of a transform of torchvision's v2 that do the same to each image, pixel by pixel (`ToDtype`,
    `Normalize`, ...), are called once for a batch of images of one size, which gives the same values in less time.

    Args:
        transform: for instance from torchvision.transforms.v2; None gives the pixels.
        receives: "tensor": it gets uint8[3, h, w]; "pil": an RGB image of Pillow.

    Attributes:
        global_random: whether the transform may draw from the generators of the process.

    Raises:
        UsageError: `receives` is neither.
        ImageError: an image cannot be decoded (when called).
        InputError: images of a batch differ in shape (when called).
    """

    def __init__(self, transform: Callable[[Any], Any] | None, *, receives: str = "tensor") -> None:
        if receives not in ("tensor", "pil"):
            raise UsageError(f"a transform cannot receive {receives!r}", 'use "tensor" or "pil"')
        self.receives = receives
        # What is called for each image, and what for all of a batch together.
        self._each: Any
        self._batch: Any
        self._each, self._batch = pixels_last(transform) if receives == "tensor" else (transform, None)
        self.global_random = self._each is not None and not draws_nothing(self._each)
        self._torch_alone = draws_from_torch_alone(self._each)

    def __call__(self, rows: pa.Table, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        encoded = rows.column("image").to_pylist()
        with _generators_put_back() if self.global_random else nullcontext():
            images = [self._image(data, seed) for data, seed in zip(encoded, seeds.tolist(), strict=True)]
        if self._batch is None:
            made = _stacked([_checked(image) for image in images])
        elif _are_alike(images):
            whole = _checked(self._batch(_whole(images)))
            made = new_tensor(tuple(whole.shape), whole.dtype).copy_(whole)
        else:
            made = _stacked([_checked(self._batch(image)) for image in images])
        return {"image": made, **labels_of(rows)}

    def _image(self, data: bytes, seed: int) -> Any:
        """An image, decoded and brought through the part of the transform that is called for each."""
        if self._each is None:
            return decode_pixels(data)
        image = decode_image(data) if self.receives == "pil" else decode_pixels(data)
        if self.global_random:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also look after GPUs: a hundredfold
            if not self._torch_alone:  # a tenth of the time of a small image
                python_random.seed(seed)
                np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - what transforms of others draw from
        return self._each(image)


def _checked(made: Any) -> torch.Tensor:
    """Checks the result of a transform.

    Raises:
        UsageError: it is no tensor.
    """
    if not isinstance(made, torch.Tensor):
        raise UsageError(
            f"the transform returned {type(made).__name__}, not a tensor", "end it with v2.ToImage() and v2.ToDtype"
        )
    return made


def _are_alike(images: list[Any]) -> bool:
    """Tests whether these are tensors of one kind, shape and dtype."""
    if not all(isinstance(image, torch.Tensor) for image in images):
        return False
    return len({(type(image), image.shape, image.dtype) for image in images}) == 1


def _whole(images: list[torch.Tensor]) -> torch.Tensor:
    """Images as one tensor of their kind: transforms may ask for it (`tv_tensors.Image`)."""
    whole = torch.stack(images)
    kinds = sys.modules.get("torchvision.tv_tensors")  # where nobody imported it, nobody made one
    if kinds is not None and isinstance(images[0], kinds.TVTensor):
        wrapped: torch.Tensor = kinds.wrap(whole, like=images[0])
        return wrapped
    return whole


def _stacked(images: list[torch.Tensor]) -> torch.Tensor:
    """Images of one shape as a batch.

    Raises:
        InputError: their shapes differ.
    """
    made = new_tensor((len(images), *images[0].shape), images[0].dtype)
    try:
        return torch.stack(images, out=made)
    except RuntimeError:
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) == 1:
            raise
        found = " and ".join(map(str, sorted(shapes)[:2]))
        raise InputError(
            f"images of a batch have shapes {found}", "let the transform resize or crop to one size"
        ) from None


_TORCHVISION = "torchvision.transforms.v2."
# Of torchvision.transforms.v2: they do the same to every image.
_FIXED = frozenset(
    {"ToDtype", "ToImage", "ToPureTensor", "Normalize", "Resize", "CenterCrop", "Pad", "Grayscale", "RGB"}
)
# Of these: each value of the result follows from one pixel, so that a batch gives what its images give one by one.
_OF_PIXELS = frozenset({"ToDtype", "ToImage", "ToPureTensor", "Normalize", "CenterCrop"})


def draws_nothing(transform: Any) -> bool:
    """True for a transform made of torchvision's v2 transforms that use no random numbers."""
    return _of_torchvision(transform, lambda name: name in _FIXED)


def acts_on_pixels(transform: Any) -> bool:
    """True for a transform made of torchvision's v2 transforms that treat each pixel by itself, all images alike."""
    return _of_torchvision(transform, lambda name: name in _OF_PIXELS)


def pixels_last(transform: Any) -> tuple[Any, Any]:
    """Splits a transform into what is to be called for each image, and its last parts for which `acts_on_pixels`.

    Returns:
        Both, one after the other as the whole; None for one that has no part.
    """
    if transform is None or acts_on_pixels(transform):
        return None, transform
    kind = type(transform)
    if kind.__name__ != "Compose" or not kind.__module__.startswith(_TORCHVISION):
        return transform, None
    parts = list(transform.transforms)
    cut = len(parts)
    while cut and acts_on_pixels(parts[cut - 1]):
        cut -= 1
    return (transform, None) if cut == len(parts) else (kind(parts[:cut]), kind(parts[cut:]))


def draws_from_torch_alone(transform: Any) -> bool:
    """True for a transform made of torchvision's v2 transforms alone, which use torch's generator and no other."""
    return _of_torchvision(transform, lambda name: name != "Lambda")


def _of_torchvision(transform: Any, holds: Callable[[str], bool]) -> bool:
    """True where all parts are of torchvision's v2 and `holds` of their names."""
    kind = type(transform)
    if not kind.__module__.startswith(_TORCHVISION):
        return False
    if kind.__name__ == "Compose":
        return all(_of_torchvision(part, holds) for part in transform.transforms)
    return holds(kind.__name__) and all(_of_torchvision(part, holds) for part in getattr(transform, "transforms", []))


@cache
def jpeg_decoder() -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Decodes a JPEG to uint8[channels, h, w], upright as EXIF says; None where torchvision cannot.

    torchvision is imported when the first JPEG comes: it takes seconds of every process, and trainings on vectors and
    texts need none of it.
    """
    from torchvision import io

    # The operator below `decode_jpeg`: torchvision 0.29 warns at each call of that function that it will go. A build or
    # version without it leaves JPEG to Pillow, with the same pixels.
    decode: Any = getattr(torch.ops.image, "decode_jpeg", None)
    unchanged: int = io.ImageReadMode.UNCHANGED.value
    return None if decode is None else lambda encoded: decode(encoded, unchanged, True)


def decode_pixels(data: bytes) -> torch.Tensor:
    """Decodes an image to the pixels of `decode_image`, JPEG about twice as fast.

    Returns:
        uint8[3, h, w].

    Raises:
        ImageError: it cannot be decoded.
    """
    if data[:3] == _JPEG and jpeg_fits(data) and (decode := jpeg_decoder()) is not None:
        try:
            encoded = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())  # torch warns of read-only memory
            pixels = decode(encoded)
            if len(pixels) == 3:
                return pixels
        except RuntimeError:
            pass  # Pillow can do more, and says what is wrong
    return torch.from_numpy(np.array(decode_image(data))).permute(2, 0, 1)


def decode_square(data: bytes, size: int) -> UInt8Array:
    """Decodes an image and makes it square, as `pool.images.resized` does.

    Returns:
        uint8[3, size, size].

    Raises:
        ImageError: it cannot be decoded.
    """
    pixels = decode_pixels(data)
    if pixels.shape[1:] != (size, size):
        return resized(Image.fromarray(pixels.permute(1, 2, 0).numpy()), size).transpose(2, 0, 1)
    square: UInt8Array = pixels.numpy()
    return square


def labels_of(rows: pa.Table) -> dict[str, torch.Tensor]:
    """`label` int64[b], -1 where there is none; nothing where the column was not read."""
    if "label" not in rows.column_names:
        return {}
    return {"label": torch.from_numpy(rows.column("label").fill_null(-1).to_numpy().astype(np.int64))}


def targets_of(rows: pa.Table) -> dict[str, torch.Tensor]:
    """`target` float32[b, n]; nothing where the column was not read."""
    return {"target": torch.from_numpy(vectors(rows.column("target")))} if "target" in rows.column_names else {}


def scale_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels float[b, 3, s, s] of 0..255 as networks see them: about zero, about unit spread."""
    return (pixels - _MEAN.to(pixels.device)) / _STD.to(pixels.device)


def shift(images: UInt8Array, seeds: UInt64Array, by: int) -> UInt8Array:
    """Moves each image by up to `by` pixels in both directions, as its seed says; the border is reflected.

    Args:
        images: uint8[b, 3, s, s].
        seeds: uint64[b].
        by: pixels, below s.
    """
    rows, size = len(images), images.shape[-1]
    padded = np.pad(images, ((0, 0), (0, 0), (by, by), (by, by)), mode="reflect")
    down, right = ((_uniform(seeds, draw) * (2 * by + 1)).astype(np.int64) for draw in (0, 1))
    y = (down[:, None] + np.arange(size))[:, None, :, None]
    x = (right[:, None] + np.arange(size))[:, None, None, :]
    moved: UInt8Array = padded[np.arange(rows)[:, None, None, None], np.arange(3)[None, :, None, None], y, x]
    return moved


def _uniform(seeds: UInt64Array, draw: int) -> Float64Array:
    """float64[rows] in [0, 1): one of the random numbers of each row, by `draw`."""
    return (hash_rows(seeds.view(np.int64), draw) >> np.uint64(11)) / 2.0**53


@contextmanager
def _generators_put_back() -> Iterator[None]:
    states = torch.get_rng_state(), python_random.getstate(), np.random.get_state()  # noqa: NPY002 - see above
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        python_random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002 - see above
