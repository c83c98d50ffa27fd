"""Sample data from installed packages: a first run needs no download."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from coevo_ray.config import Source
from coevo_ray.config.pool import IMAGE, SAMPLE_SETTINGS
from coevo_ray.errors import UsageError
from coevo_ray.pool.docstrings import LIBRARIES, check_libraries, docstrings_of
from coevo_ray.pool.messy import make_messy, words_of
from coevo_ray.store.location import Location

SCHEME = "sample:"


@dataclass(frozen=True)
class _Sample:
    """A set of samples that an installation can make.

    Attributes:
        modality: of its samples.
        check: raises UsageError if a package is missing.
        write: makes it below a folder, and returns the location of the source.
    """

    modality: str
    check: Callable[[], None]
    write: Callable[[Location], Location]


def check_sample(source: Source) -> None:
    """Checks that a sample exists and that its package is installed, without making it.

    Raises:
        UsageError: the sample is unknown, its package is missing, or it holds samples of another modality.
    """
    sample = _sample(source.uri)
    if source.modality != sample.modality:
        setting = SAMPLE_SETTINGS[sample.modality]
        raise UsageError(
            f"{source.uri} holds {setting.plural}, the source says {SAMPLE_SETTINGS[source.modality].plural}",
            f"set {setting.column}: {sample.modality}" if sample.modality != IMAGE else "leave its column out",
        )
    sample.check()


def materialise_sample(source: Source, folder: Location) -> Location:
    """Writes a sample as files of a user would be, and returns their location.

    Args:
        source: the sample.
        folder: to write below; what is there already is not made again.

    Raises:
        UsageError: as in `check_sample`.
        StoppedError: the store refused.
    """
    check_sample(source)
    return _sample(source.uri).write(folder)


def _sample(uri: str) -> _Sample:
    name = uri.removeprefix(SCHEME)
    if name not in _SAMPLES:
        known = ", ".join(f"{SCHEME}{name}" for name in _SAMPLES)
        raise UsageError(f"unknown sample {uri!r}", f"samples are {known}")
    return _SAMPLES[name]


def _check_digits() -> None:
    if find_spec("sklearn") is None:
        raise UsageError("sample:digits needs scikit-learn", "pip install 'coevo-ray[demo]'")


def _write_digits(folder: Location) -> Location:
    """scikit-learn's 1 797 handwritten digits, 8x8 grey, as PNG in one sub-folder per class."""
    from sklearn.datasets import load_digits

    target = folder.child("digits")
    done = target.child("complete")
    if done.is_file():
        return target.child("images")
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target.child("images", str(label), f"{index:04d}.png").write_bytes(_png(image))
    done.write_bytes(b"")
    return target.child("images")


def _png(image: npt.NDArray[np.float64]) -> bytes:
    """A digit of scikit-learn's, whose values are 0..16, as a grey PNG."""
    png = io.BytesIO()
    Image.fromarray((image * 255 / 16).round().astype("uint8")).save(png, format="PNG")
    return png.getvalue()


def write_messy_digits(folder: Location, seed: int = 0) -> Location:
    """The digits with faults (see `make_messy`), as PNG in `train/LABEL` and `test/LABEL`.

    Raises:
        StoppedError: the store refused.
    """
    from sklearn.datasets import load_digits

    target = folder.child("messy-digits")
    done = target.child("complete")
    if done.is_file():
        return target.child("images")
    digits = load_digits()
    labels = digits.target.astype(np.int64)
    messy = make_messy(digits.data.astype(np.float32), labels, seed)
    for split, rows, given in (("train", messy.train, messy.given), ("test", messy.test, labels[messy.test])):
        for row, label in zip(rows, given, strict=True):
            target.child("images", split, str(label), f"{row:04d}.png").write_bytes(_png(digits.images[row]))
    done.write_bytes(b"")
    return target.child("images")


def _write_docstrings(folder: Location) -> Location:
    """Docstrings of installed libraries as Parquet of `id`, `text` and `label`, the library; equal texts once."""
    file = folder.child("docstrings", "docstrings.parquet")
    if not file.is_file():
        file.write_bytes(_parquet(_docstrings()))
    return file


def write_messy_docstrings(folder: Location, seed: int = 0) -> Location:
    """The docstrings with faults (see `make_messy`), as Parquet in `train` and `test`.

    Raises:
        StoppedError: the store refused.
    """
    target = folder.child("messy-docstrings")
    files = {split: target.child(split, "docstrings.parquet") for split in ("train", "test")}
    if not files["test"].is_file():
        table = _docstrings()
        labels = np.array([LIBRARIES.index(name) for name in table.column("label").to_pylist()], dtype=np.int64)
        messy = make_messy(words_of(table.column("text").to_pylist()), labels, seed)
        given = pa.array([LIBRARIES[label] for label in messy.given])
        train = table.take(messy.train)
        files["train"].write_bytes(_parquet(train.set_column(train.column_names.index("label"), "label", given)))
        files["test"].write_bytes(_parquet(table.take(messy.test)))
    return target


def _docstrings() -> pa.Table:
    rows: dict[str, tuple[str, str]] = {}
    texts: set[str] = set()
    for library in LIBRARIES:
        for key, text in docstrings_of(library):
            if key not in rows and text not in texts:
                rows[key] = (text, library)
                texts.add(text)
    values = rows.values()
    columns = {"id": [*rows], "text": [text for text, _ in values], "label": [library for _, library in values]}
    return pa.table(columns)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


_SAMPLES = {
    "digits": _Sample(IMAGE, _check_digits, _write_digits),
    "messy-digits": _Sample(IMAGE, _check_digits, write_messy_digits),
    "docstrings": _Sample("text", check_libraries, _write_docstrings),
    "messy-docstrings": _Sample("text", check_libraries, write_messy_docstrings),
}
