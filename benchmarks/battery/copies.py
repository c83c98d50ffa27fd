"""Near-copies of a pool's training rows: slightly changed images, and texts with a word or two changed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from benchmarks.battery.pools import Ids, Pool, Samples

COPIES_OF_A_ROW = 4
MOST = 4_000  # copies of a pool; they are encoded, too
VERSION = 1  # of the changes; encoded copies are cached under it
_SHIFT = 16  # images move by up to a sixteenth of their shorter side; those of 8 pixels stay where they are


@dataclass(frozen=True, eq=False)
class Copies:
    """Near-copies of some training rows.

    Attributes:
        of: int64[m], the training row that each is a copy of.
        samples: encoded images, or texts.
    """

    of: Ids
    samples: Samples


def copied_rows(rows: int) -> Ids:
    """Training row of each near-copy, int64[m]: of an eighth of the rows four copies each, `MOST` copies at most.

    Args:
        rows: training rows of the pool.
    """
    originals = min(rows // (2 * COPIES_OF_A_ROW), MOST // COPIES_OF_A_ROW)
    chosen = np.random.default_rng(0).permutation(rows)[:originals]
    return np.repeat(np.sort(chosen), COPIES_OF_A_ROW).astype(np.int64)


def make_copies(pool: Pool) -> Copies:
    """Makes the near-copies of a pool, the same ones each time."""
    of, random = copied_rows(len(pool.train)), np.random.default_rng(1)
    change = cast(Callable[[Any, np.random.Generator], Any], _image if pool.modality == "image" else _text)
    samples = [change(pool.train.samples[row], random) for row in of]
    return Copies(of, cast(Samples, samples))


def _image(data: bytes, random: np.random.Generator) -> bytes:
    """Moves the image a little, makes it up to a tenth brighter or darker, and saves it as JPEG."""
    from PIL import Image, ImageEnhance

    from coevo_ray.pool.images import decode_image

    image = decode_image(data)
    most = min(image.size) // _SHIFT
    x, y = (int(v) for v in random.integers(-most, most + 1, 2))
    padded = np.pad(np.asarray(image), ((most, most), (most, most), (0, 0)), mode="edge")
    moved = Image.fromarray(padded[most + y : most + y + image.height, most + x : most + x + image.width])
    out = io.BytesIO()
    ImageEnhance.Brightness(moved).enhance(float(random.uniform(0.9, 1.1))).save(
        out, "JPEG", quality=int(random.integers(70, 96))
    )
    return out.getvalue()


def _text(text: str, random: np.random.Generator) -> str:
    """Drops a word, or swaps two neighbouring ones, once or twice; where that changes nothing, adds a full stop."""
    words = text.split()
    for _ in range(int(random.integers(1, 3)) if len(words) > 1 else 0):
        at = int(random.integers(len(words) - 1))
        if random.random() < 0.5 and len(words) > 3:
            del words[at]
        else:
            words[at], words[at + 1] = words[at + 1], words[at]
    changed = " ".join(words)
    return changed if changed != text else f"{text}."
