"""Decoding and augmentation of training images."""

from __future__ import annotations

import io
import random as python_random
import struct

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.image_formats import jpeg_fits
from coevo_ray.pool.images import ImageError, decode_image, decode_resized
from coevo_ray.training.feed import images as images_module
from coevo_ray.training.feed.images import (
    ImageTransform,
    PerImage,
    acts_on_pixels,
    decode_pixels,
    decode_square,
    draws_from_torch_alone,
    scale_pixels,
    shift,
)
from tests.training import png


def seeds(rows: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return hash_rows(np.arange(rows), seed)


def encoded(mode: str, kind: str, orientation: int = 1, **options: object) -> bytes:
    channels = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (19, 26, channels), np.uint8)
    image = Image.fromarray(pixels.squeeze(), mode).resize((67, 45))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{"quality": 75}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_jpeg_is_decoded_as_pillow_does(mode: str, orientation: int, options: dict[str, object]) -> None:
    data = encoded(mode, "JPEG", orientation, **options)
    expected = np.asarray(decode_image(data)).astype(int)
    assert decode_pixels(data).shape == (3, *expected.shape[:2])
    # Both are libjpeg-turbo, whose versions may round differently.
    assert np.abs(decode_pixels(data).permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2
    square = decode_square(data, 20).transpose(1, 2, 0).astype(int)
    assert np.abs(square - decode_resized(data, 20)).max() <= 2


def test_torchvision_decodes_jpeg_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """And Pillow does where it cannot."""
    data = encoded("RGB", "JPEG")
    expected = decode_pixels(data)
    with monkeypatch.context() as patch:
        patch.setattr(images_module, "decode_image", None)
        assert torch.equal(decode_pixels(data), expected)
    monkeypatch.setattr(images_module, "jpeg_decoder", lambda: None)
    assert (decode_pixels(data).int() - expected.int()).abs().max() <= 2


def test_other_formats_are_decoded_too() -> None:
    data = encoded("RGB", "PNG")
    assert np.array_equal(decode_pixels(data).permute(1, 2, 0).numpy(), np.asarray(decode_image(data)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_damaged_jpegs_are_refused_as_pillow_does(share: float) -> None:
    data = encoded("RGB", "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        decode_pixels(data[: int(len(data) * share)])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_says_it_is_huge_is_refused_before_memory_is_taken(
    progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(encoded("RGB", "JPEG", progressive=progressive))
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    assert (
        jpeg_fits(bytes(data))
        and not jpeg_fits(bytes(data[: frame + 5]))
        and not jpeg_fits(b"\xff\xd8\xff\xe0\0\0" * 9)
    )
    data[frame + 5 : frame + 9] = struct.pack(">HH", 12_000, 12_000)  # 144 million pixels in a kilobyte
    assert jpeg_fits(bytes(data)) is not progressive  # the coefficients of a progressive one stay in memory
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    monkeypatch.setattr(images_module, "jpeg_decoder", lambda: lambda _: pytest.fail("it took the memory"))
    with pytest.raises(ImageError, match="too large"):
        decode_pixels(bytes(data))


def test_jpegs_of_every_kind_say_their_size() -> None:
    for mode in ("RGB", "L", "CMYK"):
        for orientation in (1, 6):
            for options in ({}, {"progressive": True}, {"optimize": True}, {"comment": b"\xff\xc0" * 400}):
                assert jpeg_fits(encoded(mode, "JPEG", orientation, **options))


def test_images_become_scaled_tensors() -> None:
    rows = pa.table({"image": [png(np.full((8, 8), v, np.uint8)) for v in (0, 255)]})
    tensors = ImageTransform(16, "none")(rows, seeds(2))
    images = tensors["image"]
    assert tensors.keys() == {"image"}
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert torch.allclose(images[0, 0], torch.tensor(-123.7 / 58.4), atol=1e-4)
    assert torch.allclose(images[1, 0], torch.tensor((255 - 123.7) / 58.4), atol=1e-4)
    assert torch.allclose(images, scale_pixels(torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16)))


def test_shift_moves_every_image_by_at_most_its_bound() -> None:
    images = np.zeros((50, 3, 9, 9), dtype=np.uint8)
    images[:, :, 4, 4] = 255
    moved = shift(images, seeds(50), 2)
    places = np.argwhere(moved[:, 0] == 255)
    assert len(places) == 50
    assert np.array_equal(moved[:, 0], moved[:, 2])
    assert np.abs(places[:, 1:] - 4).max() == 2
    assert len(np.unique(places[:, 1:], axis=0)) > 10


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 8))
def test_augmentation_follows_from_each_rows_seed_alone(order: list[int], kept: int) -> None:
    images = [png(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)) for i in range(8)]
    transform = ImageTransform(8, "shift_flip")
    whole = transform(pa.table({"image": images}), seeds(8))["image"]
    part = transform(pa.table({"image": [images[i] for i in order[:kept]]}), seeds(8)[order[:kept]])["image"]
    assert torch.equal(part, whole[order[:kept]])
    assert not torch.equal(transform(pa.table({"image": images}), seeds(8, 1))["image"], whole)


def test_half_of_the_images_are_mirrored() -> None:
    pixels = np.tile(np.linspace(0, 255, 8).astype(np.uint8), (8, 1))
    rows = pa.table({"image": [png(pixels)] * 400})
    images = ImageTransform(8, "shift_flip")(rows, seeds(400))["image"][:, 0, 0]
    assert 160 < int((images[:, 0] > images[:, -1]).sum()) < 240


def test_a_transform_receives_what_it_asks_for() -> None:
    rows = pa.table({"image": [png(np.zeros((8, 8), np.uint8))]})
    kinds: list[type] = []

    def look(image: object) -> torch.Tensor:
        kinds.append(type(image))
        return torch.zeros(1)

    PerImage(look)(rows, seeds(1))
    PerImage(look, receives="pil")(rows, seeds(1))
    assert issubclass(kinds[0], torch.Tensor)
    assert issubclass(kinds[1], Image.Image)
    with pytest.raises(UsageError, match="numpy"):
        PerImage(look, receives="numpy")


def test_which_transforms_draw_from_torch_alone() -> None:
    own = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomApply([v2.ColorJitter(0.5)]), v2.ToDtype(torch.float32)])
    assert draws_from_torch_alone(own)
    assert not draws_from_torch_alone(v2.Compose([own, v2.Lambda(lambda x: x)]))
    assert not draws_from_torch_alone(v1.RandomChoice([v1.RandomHorizontalFlip()]))
    assert not draws_from_torch_alone(lambda x: x)
    assert not draws_from_torch_alone(None)


def test_random_transforms_of_torchvision_repeat_by_row() -> None:
    pixels = [np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8) for i in range(6)]
    rows = pa.table({"image": [png(p) for p in pixels]})
    transform = PerImage(v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip()]))
    whole = transform(rows, seeds(6))["image"]
    backwards = transform(rows.take([5, 4, 3, 2, 1, 0]), seeds(6)[::-1])["image"]
    assert torch.equal(backwards.flip(0), whole)
    assert not torch.equal(transform(rows, seeds(6, 1))["image"], whole)


def pictures(count: int) -> list[bytes]:
    return [png(np.random.default_rng(i).integers(0, 256, (16, 18), np.uint8)) for i in range(count)]


PIXELWISE = [
    v2.ToDtype(torch.float32, scale=True),
    v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.1])]),
    v2.Compose([v2.CenterCrop(12), v2.ToDtype(torch.float16, scale=True), v2.ToPureTensor()]),
    v2.CenterCrop(70),  # larger than some: a border of zeros
    None,
]


@pytest.mark.parametrize("transform", PIXELWISE)
def test_a_transform_of_pixels_gives_for_a_batch_what_it_gives_for_each_image(transform: v2.Transform | None) -> None:
    alike = pictures(5)
    mixed = [alike[0], encoded("RGB", "JPEG"), encoded("L", "PNG")]
    made = PerImage(transform)
    assert not made.global_random
    for data in (alike, mixed):
        rows = pa.table({"image": pa.array(data, pa.binary()), "label": np.arange(len(data))})
        each = [decode_pixels(image) if transform is None else transform(decode_pixels(image)) for image in data]
        if len({image.shape for image in each}) > 1:
            with pytest.raises(InputError, match="have shapes"):
                made(rows, seeds(len(data)))
            continue
        found = made(rows, seeds(len(data)))
        assert type(found["image"]) is torch.Tensor and found["image"].dtype == each[0].dtype
        assert torch.equal(found["image"], torch.stack([torch.as_tensor(image) for image in each]))
        assert found["label"].tolist() == list(range(len(data)))


def test_a_batch_of_one_size_is_transformed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    forward = v2.ToDtype.forward

    def counted(self: v2.ToDtype, image: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(image.shape))
        made: torch.Tensor = forward(self, image)
        return made

    monkeypatch.setattr(v2.ToDtype, "forward", counted)
    rows = pa.table({"image": pictures(4)})
    size = decode_pixels(pictures(1)[0]).shape
    PerImage(v2.ToDtype(torch.float32))(rows, seeds(4))
    assert calls == [(4, *size)]
    PerImage(v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)]))(rows, seeds(4))
    assert calls[1:] == [(4, *size)], "the last part of it"
    PerImage(v2.Compose([v2.ToDtype(torch.float32), v2.RandomHorizontalFlip()]))(rows, seeds(4))
    assert calls[2:] == [tuple(size)] * 4, "what may differ from image to image is called for each"


RANDOM = [
    v2.Compose([v2.RandomCrop(8, padding=2), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])]),
    v2.Compose([v2.RandomHorizontalFlip(), v2.ToPILImage(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
    v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandomErasing(1.0), v2.CenterCrop(6)]),
    v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype({tv_tensors.Image: torch.float32, "others": None})]
    ),
    v2.Compose([v2.RandomResize(5, 16), v2.CenterCrop(8)]),  # of several sizes before the last part
    v2.Compose([v2.Lambda(lambda x: x.flip(1) if python_random.random() < 0.5 else x), v2.ToDtype(torch.float32)]),
]


@pytest.mark.parametrize("transform", RANDOM)
def test_the_last_parts_of_a_transform_at_once_are_the_same(transform: v2.Compose) -> None:
    data = pictures(6)
    rows = pa.table({"image": data})
    expected = []
    for image, seed in zip(data, seeds(6).tolist(), strict=True):
        torch.manual_seed(seed)
        python_random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - what transforms of others draw from
        expected.append(torch.as_tensor(transform(decode_pixels(image))))
    found = PerImage(transform)(rows, seeds(6))["image"]
    assert type(found) is torch.Tensor and torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize(
    ("transform", "pixelwise"),
    [
        (v2.Normalize([0.5], [0.5]), True),
        (v2.Resize(8), False),  # its kernels may differ between one image and many
        (v2.RandomCrop(4), False),
        (v2.Compose([v2.ToDtype(torch.float32), v2.RandomErasing()]), False),
        (v2.RandomApply([v2.ToDtype(torch.float32)]), False),
        (v2.Lambda(lambda x: x), False),
        (lambda x: x, False),
        (v1.Normalize([0.5], [0.5]), False),
    ],
)
def test_transforms_of_pixels_are_known_by_their_names(transform: object, pixelwise: bool) -> None:
    assert acts_on_pixels(transform) == pixelwise
