"""Sample data from installed packages: a first run needs no download."""

from __future__ import annotations

import io
from importlib.util import find_spec

from PIL import Image

from coevo_ray.errors import UsageError
from coevo_ray.store.location import Location

SCHEME = "sample:"


def check_sample(uri: str) -> None:
    """Checks that a sample exists and that its package is installed, without making it.

    Raises:
        UsageError: the sample is unknown, or its package is missing.
    """
    name = uri.removeprefix(SCHEME)
    if name != "digits":
        raise UsageError(f"unknown sample {uri!r}", "the one sample is sample:digits")
    if find_spec("sklearn") is None:
        raise UsageError("sample:digits needs scikit-learn", "pip install 'coevo-ray[demo]'")


def materialise_sample(uri: str, folder: Location) -> Location:
    """Writes a sample as an image folder with one sub-folder per class, and returns its location.

    sample:digits is scikit-learn's set of 1 797 handwritten digits, 8x8 grey, written as PNG.

    Raises:
        UsageError: the sample is unknown, or its package is missing.
        StoppedError: the store refused.
    """
    check_sample(uri)
    from sklearn.datasets import load_digits

    target = folder.child("digits")
    done = target.child("complete")
    if done.is_file():
        return target.child("images")
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        png = io.BytesIO()
        # scikit-learn's values are 0..16
        Image.fromarray((image * 255 / 16).round().astype("uint8")).save(png, format="PNG")
        target.child("images", str(label), f"{index:04d}.png").write_bytes(png.getvalue())
    done.write_bytes(b"")
    return target.child("images")
