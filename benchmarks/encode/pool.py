"""The pool that the encode benchmark reads: scikit-learn's digits, enlarged to 64x64 JPEG, or a user's images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

PIXELS = 64
_SEED = 0
_QUALITY = 90


def make_pool(folder: str, rows: int, source: str | None) -> int:
    """Ingests a pool into `folder`/pool; runs in a child process.

    Args:
        folder: an empty folder.
        rows: images to generate; a user's source is taken whole.
        source: URI of images (folder or Parquet), or None to generate.

    Returns:
        Rows of the pool.
    """
    from coevo_ray.pipelines.ingest.ingest import ingest

    if source is None:
        source = str(Path(folder) / "images.parquet")
        write_digits(source, rows)
    config = {"sources": [source], "test_fraction": 0}
    return len(ingest(config, str(Path(folder) / "pool")))


def write_digits(path: str, rows: int) -> None:
    """Writes digits as a Parquet file of JPEG images.

    Args:
        path: the file.
        rows: how many.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.datasets import load_digits

    digits = (load_digits().images * 255 / 16).round().astype(np.uint8)
    random = np.random.Generator(np.random.PCG64(_SEED))
    images = [_jpeg(digits[row % len(digits)], random) for row in range(rows)]
    pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), path)


def _jpeg(digit: npt.NDArray[np.uint8], random: np.random.Generator) -> bytes:
    """Enlarges one digit; colour and grain make every row an image of its own, as large as a photograph's JPEG."""
    from PIL import Image

    grey = np.asarray(Image.fromarray(digit).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), dtype=np.float32)
    colour = random.uniform(0.5, 1.0, size=3)
    pixels = grey[:, :, None] * colour + random.normal(0, 8, size=(PIXELS, PIXELS, 3))
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, format="JPEG", quality=_QUALITY)
    return encoded.getvalue()
