"""Image formats: the fixed list that is opened, the endings of their files, and the memory that an image may take.

Pillow would try every plugin it has, one of which runs Ghostscript on what a file says. Only the formats named here are
opened, wherever a sample is decoded. TGA and PCX are not among them: their files have no mark, so noise may pass for
them.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache

from PIL import Image, UnidentifiedImageError

from coevo_ray.errors import InputError
from coevo_ray.pool.unread import FETCH_LFS, LFS, is_lfs_pointer

_HEIF = "HEIF"  # opened by pillow-heif, where it is installed
# Pillow's name of a format -> the usual endings of its files, in lower case.
_FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif"),
    "MPO": ("mpo",),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "DIB": ("dib",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k", "jpx", "jpc", "j2c", "jpf"),
    "AVIF": ("avif", "avifs"),
    _HEIF: ("heic", "heif", "hif"),
    "ICO": ("ico",),
    "QOI": ("qoi",),
    "SGI": ("sgi",),
}
EXTENSIONS = tuple(ending for endings in _FORMATS.values() for ending in endings)
MAX_BYTES = 800_000_000  # of memory that decoding one image may take
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_ONE_BYTE = {"1", "L", "P"}
# Bytes a pixel that a decoder takes beside the image: planes of samples, or all coefficients.
_DECODER_BYTES = {"JPEG2000": 12, "WEBP": 4, "AVIF": 4, _HEIF: 4}
_PROGRESSIVE_BYTES = 6
# JPEG's frame headers hold the size (ITU-T T.81, table B.1); three codes of their range are other segments.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks that say nothing about the pixels, and of which Pillow reads no more than a megabyte.
_TEXTS_AND_PROFILES = {b"iCCP", b"iTXt", b"tEXt", b"zTXt"}
_REASON_LENGTH = 160


class ImageError(InputError):
    """An image that cannot be used.

    Args:
        reason: one line, as it appears in the rejects table.
        remedy: what to do about it.
    """

    def __init__(self, reason: str, remedy: str = "replace the image, or leave it in the rejects") -> None:
        super().__init__(reason, remedy)
        self.reason = reason


def open_image(data: bytes) -> Image.Image:
    """Reads an image's header; its pixels are read by `load`.

    Args:
        data: the encoded bytes.

    Raises:
        ImageError: there is no image of a known format, it has no size, or it would take more than `MAX_BYTES`.
    """
    if not data:
        raise ImageError("empty: 0 bytes")
    try:
        image = _opened(data)
    except Image.DecompressionBombError as error:
        raise ImageError(one_line("too large", error)) from error
    except UnidentifiedImageError as error:  # its text holds a memory address
        raise _unknown(data) from error
    except Exception as error:  # damaged bytes make Pillow's plugins raise almost anything
        raise ImageError(one_line("truncated or damaged", error)) from error
    if 0 in image.size:
        raise ImageError(f"zero size: {image.width} x {image.height}")
    _check_memory(image)
    return image


def jpeg_fits(data: bytes) -> bool:
    """Tests by its header alone whether a JPEG takes no more than `MAX_BYTES` to decode, without `open_image`.

    Args:
        data: the encoded bytes; False where they are not laid out as usual, and have to be opened.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if kind in _FRAMES:
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            each = 4 + (_PROGRESSIVE_BYTES if kind in _PROGRESSIVE else 0)
            return 0 < height * width * each <= MAX_BYTES
        place += 2 + length
    return False


def one_line(what: str, error: Exception) -> str:
    """A reason of bounded length: what is wrong, and the error's own words."""
    words = " ".join(str(error).split())
    return f"{what}: {words or type(error).__name__}"[:_REASON_LENGTH]


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    """The formats that this installation opens."""
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_names())
    except ValueError as error:
        # Pillow refuses PNG files with long texts or colour profiles, neither of which is used here.
        if data.startswith(_PNG) and "Decompressed data too large" in str(error):
            return Image.open(io.BytesIO(_without_texts(data)), formats=_names())
        raise


def _without_texts(png: bytes) -> bytes:
    """A PNG file without its texts and colour profiles (PNG specification, 5.3: length, type, data, CRC)."""
    parts, position = [_PNG], len(_PNG)
    while position + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, position)
        end = position + 12 + length
        if png[position + 4 : position + 8] not in _TEXTS_AND_PROFILES:
            parts.append(png[position:end])
        position = end
    return b"".join(parts)


def _unknown(data: bytes) -> ImageError:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and _HEIF not in _names():
        return ImageError(
            f"HEIC image, which needs pillow-heif ({len(data)} bytes)", "pip install 'coevo-ray[heif]', or convert it"
        )
    if is_lfs_pointer(data):
        return ImageError(f"{LFS} ({len(data)} bytes)", FETCH_LFS)
    return ImageError(f"not an image that Pillow can read ({len(data)} bytes)")


def _check_memory(image: Image.Image) -> None:
    """Refuses images whose pixels, in the modes that decoding goes through, take too much memory.

    Raises:
        ImageError: they do.
    """
    own = 1 if image.mode in _ONE_BYTE else 2 if image.mode.startswith("I;16") else 4
    rgb = 0 if image.mode == "RGB" and "transparency" not in image.info else 4
    extra = _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive") or image.info.get("progression"):
        extra += _PROGRESSIVE_BYTES
    needed = image.width * image.height * (own + rgb + extra)
    if needed > MAX_BYTES:
        size = f"{image.width} x {image.height} = {image.width * image.height} pixels of mode {image.mode}"
        raise ImageError(
            f"too large: {size} take {needed // 1_000_000} MB, need {MAX_BYTES // 1_000_000} MB or less",
            "scale the image down",
        )
