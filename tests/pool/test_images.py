from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tempfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coevo_ray.errors import InputError
from coevo_ray.pool import image_formats, images
from coevo_ray.pool.image_formats import EXTENSIONS
from coevo_ray.pool.images import ImageError, decode_image, decode_resized, verify_image

Pixels = npt.NDArray[np.uint8]


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 12, height: int = 8, seed: int = 0) -> Image.Image:
    random = np.random.Generator(np.random.PCG64(seed))
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(data: bytes) -> Pixels:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def with_header(width: int, height: int) -> bytes:
    """A PNG whose header states another size than its pixels have."""
    data = encode(picture())
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(pixels(encode(picture(), kind)), np.asarray(picture()))


def test_lossy_formats_are_close() -> None:
    smooth = Image.linear_gradient("L").convert("RGB")
    for kind in ("JPEG", "WEBP"):
        difference = np.asarray(smooth).astype(int) - pixels(encode(smooth, kind))
        assert np.abs(difference).mean() < 3


def test_grey_one_bit_and_palette_become_rgb() -> None:
    grey = picture().convert("L")
    assert np.array_equal(pixels(encode(grey)), np.asarray(grey.convert("RGB")))
    bits = picture().convert("1")
    assert np.array_equal(pixels(encode(bits)), np.asarray(bits.convert("RGB")))
    palette = picture().quantize(16)
    assert np.array_equal(pixels(encode(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16)
    got = pixels(encode(Image.fromarray(values), kind))
    expected = [round(int(v) * 255 / 65535) for v in values[0]]
    assert got[0, :, 0].tolist() == expected
    assert expected[0] == 0
    assert expected[-1] == 255
    assert (got[..., 0] == got[..., 1]).all()
    assert (got[..., 0] == got[..., 2]).all()


def test_32_bit_grey_is_taken_as_16_bit_or_refused() -> None:
    wide = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert pixels(encode(wide, "TIFF"))[0, :, 0].tolist() == [0, 255]
    for values in ([[0, 65536]], [[-1, 0]]):
        with pytest.raises(ImageError, match="32-bit pixels"):
            decode_image(encode(Image.fromarray(np.array(values, np.int32)), "TIFF"))
    with pytest.raises(ImageError, match="floating-point"):
        decode_image(encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_cmyk_becomes_rgb() -> None:
    colours = Image.new("RGB", (16, 16), (200, 30, 60))
    got = pixels(encode(colours.convert("CMYK"), "TIFF"))
    assert np.array_equal(got, np.asarray(colours))
    jpeg = pixels(encode(colours.convert("CMYK"), "JPEG"))
    assert np.abs(jpeg.astype(int) - np.asarray(colours)).max() < 8


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[10, 20, 30, 0], [10, 20, 30, 255], [10, 20, 30, 51]]
    expected = [[255, 255, 255], [10, 20, 30], [round(255 * 0.8 + c * 0.2) for c in (10, 20, 30)]]
    got = pixels(encode(Image.fromarray(rgba)))[0].astype(int)
    assert np.abs(got - expected).max() <= 1
    grey_alpha = np.array([[[0, 0], [0, 255]]], np.uint8)
    assert pixels(encode(Image.fromarray(grey_alpha, "LA")))[0].tolist() == [[255] * 3, [0] * 3]


def test_transparent_colours_are_laid_over_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    for kind in ("PNG", "GIF"):
        assert pixels(encode(palette, kind, transparency=0))[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (9, 9, 9))
    assert pixels(encode(keyed, transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(red, kind, save_all=True, append_images=[blue], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.array_equal(pixels(data), np.asarray(red))


def stored_as(upright: Pixels, orientation: int) -> Pixels:
    """The pixels that a camera stores with this EXIF orientation: where row 0 and column 0 of the file are seen."""
    by_orientation = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(by_orientation[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.asarray(picture(5, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(stored_as(upright, orientation)), kind, exif=exif)
    assert np.array_equal(pixels(data), upright)
    assert verify_image(data) == (5, 3)


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encode(picture(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert np.array_equal(pixels(data), np.asarray(picture()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_images_are_found_by_really_decoding(kind: str) -> None:
    data = encode(picture(64, 64), kind)
    assert verify_image(data) == (64, 64)
    with pytest.raises(ImageError) as caught:
        verify_image(data[: len(data) * 6 // 10])
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) <= 160


def test_what_is_no_image_has_a_short_reason() -> None:
    for data, reason in (
        (b"", "empty: 0 bytes"),
        (b"<html>not found</html>", r"not an image that Pillow can read \(22 bytes\)"),
        (with_header(0, 7), "zero size|not an image|damaged"),
        (with_header(20_000, 20_000), "too large: .*400000000 pixels"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            verify_image(data)
        assert "0x" not in caught.value.reason  # no memory addresses: the same image gives the same reason


def test_error_is_bad_input_and_travels_between_processes() -> None:
    error: ImageError = pickle.loads(pickle.dumps(ImageError("empty: 0 bytes")))
    assert type(error) is ImageError
    assert issubclass(ImageError, InputError)
    assert error.reason == "empty: 0 bytes"
    assert error.remedy


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_decode_or_raise_image_error(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encode(picture(16, 16), kind))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        width, height = verify_image(bytes(data))
    except ImageError:
        return
    assert width > 0
    assert height > 0


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (48, 48)])
@pytest.mark.parametrize("to", [16, 32, 96])
def test_resizing_scales_the_shorter_side_and_cuts_the_centre(size: tuple[int, int], to: int) -> None:
    image = picture(*size)
    side = min(size)
    scaled = image.resize((size[0] * to // side, size[1] * to // side), Image.Resampling.BICUBIC)
    left, top = (scaled.width - to) // 2, (scaled.height - to) // 2
    expected = np.asarray(scaled.crop((left, top, left + to, top + to)))
    got = decode_resized(encode(image), to)
    assert got.shape == (to, to, 3)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_shrinking_is_antialiased() -> None:
    # Taking every 8th pixel of this pattern would give black or white, never grey.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    got = decode_resized(encode(Image.fromarray(stripes)), 8)
    assert 100 < got.min() <= got.max() < 155


def test_squash_keeps_both_ends() -> None:
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, :8] = [255, 0, 0]
    wide[:, -8:] = [0, 0, 255]
    data = encode(Image.fromarray(wide))
    squashed = decode_resized(data, 8, crop="squash")
    assert squashed[4, 0].tolist() == [255, 0, 0]
    assert squashed[4, -1].tolist() == [0, 0, 255]
    assert decode_resized(data, 8).max() < 60  # the centre square is black but for the filter's reach


def test_same_size_is_untouched_and_result_is_writable() -> None:
    got = decode_resized(encode(picture(9, 9)), 9)
    assert np.array_equal(got, np.asarray(picture(9, 9)))
    got[0, 0] = 0


def test_very_long_images_stay_cheap() -> None:
    thin = encode(Image.new("RGB", (60_000, 1), "red"))
    assert decode_resized(thin, 64)[32, 32].tolist() == [255, 0, 0]


# -- formats, and what an image may take -----------------------------------------------------------------------------


def qoi(image: Image.Image) -> bytes:
    """A QOI file (qoiformat.org) of QOI_OP_RGB chunks alone."""
    body = b"".join(b"\xfe" + bytes(pixel) for row in np.asarray(image) for pixel in row)
    return b"qoif" + struct.pack(">II", image.width, image.height) + b"\x03\x00" + body + b"\0" * 7 + b"\1"


def test_formats_of_phones_and_cameras_are_read() -> None:
    pillow_heif.register_heif_opener()  # to write one
    for kind in ("JPEG2000", "AVIF", "HEIF", "MPO", "DIB", "SGI", "ICO"):
        assert verify_image(encode(picture(16, 16), kind)) == (16, 16), kind
    assert np.array_equal(pixels(qoi(picture())), np.asarray(picture()))


def test_formats_that_are_not_on_the_list_are_not_opened() -> None:
    """EPS would run Ghostscript on what the file says; TGA has no mark."""
    for kind in ("EPS", "TGA", "PCX", "PDF"):
        with pytest.raises(ImageError, match="not an image that Pillow can read"):
            decode_image(encode(picture(), kind))


def test_every_format_on_the_list_has_its_endings() -> None:
    for ending in ("jpg", "jfif", "jpe", "avif", "heic", "mpo", "jp2", "png", "tiff", "webp"):
        assert ending in EXTENSIONS
    assert len(set(EXTENSIONS)) == len(EXTENSIONS)


def test_heic_without_its_package_is_called_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # Python's own way to make an import fail
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    image_formats._names.cache_clear()
    try:
        with pytest.raises(ImageError, match=r"HEIC image, which needs pillow-heif \(224 bytes\)") as caught:
            decode_image(head)
        assert "coevo-ray[heif]" in caught.value.remedy
    finally:
        image_formats._names.cache_clear()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_long_texts_and_colour_profiles_do_not_cost_the_image(name: bytes) -> None:
    data = encode(picture())
    content = b"x\0\0" + zlib.compress(bytes(3 << 20))
    if name == b"iTXt":
        content = b"x\0\1\0\0\0" + zlib.compress(bytes(3 << 20))
    assert np.array_equal(pixels(data[:33] + chunk(name, content) + data[33:]), np.asarray(picture()))


def deflated(mode: str, width: int, height: int) -> bytes:
    """A PNG of one colour, a thousandth of its pixels' size."""
    kind, channels = {"RGBA": (6, 4), "RGB": (2, 3), "L": (0, 1)}[mode]
    packer = zlib.compressobj(9)
    line = bytes(1 + width * channels)
    body = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_small_files_of_huge_images_are_refused_before_they_are_decoded() -> None:
    data = deflated("RGBA", 12_000, 12_000)
    assert len(data) < 600_000
    with pytest.raises(
        ImageError, match=r"12000 x 12000 = 144000000 pixels of mode RGBA take 1152 MB, need 800 MB or less"
    ):
        decode_image(data)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "I;16"])
def test_strips_of_an_image_give_the_pixels_of_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.Generator(np.random.PCG64(1))
    if mode == "I;16":
        data = encode(Image.fromarray(random.integers(0, 65536, (23, 7), dtype=np.uint16)))
    elif mode == "P":
        data = encode(picture(7, 23).quantize(8), transparency=3)
    elif mode == "RGB":
        data = encode(Image.fromarray(random.integers(0, 2, (23, 7, 3), dtype=np.uint8)), transparency=(1, 0, 1))
    else:
        channels = {"RGBA": 4, "LA": 2}[mode]
        data = encode(Image.fromarray(random.integers(0, 256, (23, 7, channels), dtype=np.uint8), mode))
    whole = pixels(data)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 20)
    assert np.array_equal(pixels(data), whole)
    if mode in ("RGBA", "LA", "P", "RGB"):
        clear = Image.open(io.BytesIO(data)).convert("RGBA")
        expected = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
        assert np.array_equal(whole, np.asarray(expected))


@pytest.mark.slow
def test_the_largest_images_stay_below_a_gigabyte() -> None:
    """The estimate of `open_image` holds: real peaks of a process of its own."""
    for mode, side in (("RGBA", 9_900), ("RGB", 13_300), ("L", 12_600)):
        data = deflated(mode, side, side)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            code = (
                "import resource, sys; from coevo_ray.pool.images import decode_image\n"
                "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
                f"decode_image(open({file.name!r}, 'rb').read())\n"
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
            )
            grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert int(grown) < 850_000, (mode, grown)  # KiB
