"""The pool and the target tables of the targets benchmark. Everything that starts Ray runs in a child process."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import note

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

PIXELS, LOW_PIXELS = 64, 32
GOOD = tuple(f"efficientnet_lite:{i}" for i in (0, 1, 2))
UNTRAINED = "torchvision:resnet18/random"
# Name -> participants: (prior, pixels of its input).
PARTICIPANTS: dict[str, list[tuple[str, int]]] = {
    "single_best": [(GOOD[0], PIXELS)],
    "collaborative": [(name, PIXELS) for name in GOOD],
    "weak": [(GOOD[0], PIXELS), (GOOD[1], PIXELS), (GOOD[1], LOW_PIXELS), (UNTRAINED, PIXELS)],
}
_WIDE = "wide"
WIDE_DIM = 1280  # of EfficientNet-Lite's features: this projection is a rotation and loses nothing


def digest_of(settings: dict[str, Any]) -> str:
    """A short name for some settings."""
    from coevo_ray.store.digests import digest

    return digest(settings)[:12]


def make_pool(folder: str, source: str | None, rows: int, test_rows: int) -> dict[str, int]:
    """Ingests some rows of a data set; runs in a child process.

    Args:
        folder: gets `pool/`; one that is there is kept.
        source: folder of Parquet files with columns image (encoded bytes) and label, those named test-* held out; None
            takes scikit-learn's digits, the last of which are held out.
        rows, test_rows: most rows of each split, chosen by hash.

    Returns:
        Rows of the pool's splits.
    """
    from coevo_ray.core.rows.hashing import choose_rows
    from coevo_ray.pipelines.ingest.ingest import ingest

    splits = digits_images() if source is None else parquet_images(source)
    sources = []
    for (split, table), most in zip(splits.items(), (rows, test_rows), strict=True):
        file = Path(folder) / f"{split}.parquet"
        kept = choose_rows(np.arange(len(table)), min(most, len(table)), seed=0)
        pq.write_table(table.take(kept), file)
        sources.append({"uri": str(file), "split": split})
    pool = ingest({"sources": sources}, str(Path(folder) / "pool"))
    return {"train": len(pool.train_ids()), "test": len(pool.test_ids())}


def digits_images() -> dict[str, pa.Table]:
    """scikit-learn's digits as PNG images with labels, the last fifth as `test`."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    images = []
    for image in pixels:
        data = io.BytesIO()
        Image.fromarray(image).save(data, "PNG")
        images.append(data.getvalue())
    table = pa.table({"image": pa.array(images, pa.binary()), "label": digits.target.astype(np.int64)})
    held_out = len(table) // 5
    return {"train": table.slice(0, len(table) - held_out), "test": table.slice(len(table) - held_out)}


def parquet_images(source: str) -> dict[str, pa.Table]:
    """Images and labels of a folder of train-*.parquet and test-*.parquet.

    Raises:
        InputError: one of them is missing.
    """
    from coevo_ray.errors import InputError
    from coevo_ray.store.location import Location

    folder = Location.parse(source)
    parts: dict[str, list[pa.Table]] = {"train": [], "test": []}
    for name in sorted(n for n in folder.files() if n.endswith(".parquet")):
        file = folder.child(name)
        table = pq.read_table(file.path, filesystem=file.file_system, columns=["image", "label"])
        parts["test" if name.startswith("test") else "train"].append(table)
    if not all(parts.values()):
        found = {split: len(tables) for split, tables in parts.items()}
        raise InputError(f"Parquet files at {source}: {found}", "give a folder of train-*.parquet and test-*.parquet")
    return {split: pa.concat_tables(tables) for split, tables in parts.items()}


def encode_table(folder: str, name: str, dim: int, shared: int, compute: dict[str, Any]) -> dict[str, Any]:
    """Encodes the pool with the participants of that name, or continues; runs in a child process.

    Args:
        folder: holds `pool/`; gets `encode/NAME/`.
        name: a key of PARTICIPANTS, or "wide" for what the sweep starts from.
        dim: n.
        shared: rows of the shared set.
        compute: actors, cpus, gpus.

    Returns:
        `seconds` of the call, and of the table's card `reference` and `priors` with uniformity and R^2.
    """
    from coevo_ray.pipelines.make_targets import encode
    from coevo_ray.runtime.session import ray_session

    with ray_session():
        started = time.perf_counter()
        targets = encode(_config(name, dim, shared, compute), f"{folder}/pool", f"{folder}/encode/{name}")
        seconds = time.perf_counter() - started
    return {"seconds": seconds, **_card(targets.manifest.summary)}


def _config(name: str, dim: int, shared: int, compute: dict[str, Any]) -> dict[str, Any]:
    participants = PARTICIPANTS["collaborative" if name == _WIDE else name]
    priors = [{"name": prior, "input_size": pixels} for prior, pixels in participants]
    settings = {"priors": priors, "dim": dim, "shared": shared, "shard_rows": 512, "compute": compute}
    return {**settings, "projection": "random"}  # the rows compare forms of alignment


def _card(summary: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "rows", "uniformity", "alignment_r2")
    return {"reference": summary["reference"], "priors": [{k: p.get(k) for k in kept} for p in summary["priors"]]}


def merge_again(folder: str, name: str, out: str, config: dict[str, Any]) -> dict[str, Any]:
    """Merges the contributions of a table with other settings; runs in a child process.

    Args:
        folder: with `encode/NAME/`; gets `variants/OUT/`.
        name: a key of PARTICIPANTS.
        out: name of the new table.
        config: settings of merge, such as another reference, or no alignment.

    Returns:
        Reference and priors of the new table's card.
    """
    from coevo_ray.pipelines.merge.merge import merge

    return _card(merge(_contributions(folder, name), f"{folder}/variants/{out}", config).manifest.summary)


def table_path(folder: str, name: str) -> str:
    """Where the target table of that name is."""
    encoded = Path(folder) / "encode" / name / "targets"
    return str(encoded if encoded.is_dir() else Path(folder) / "variants" / name)


def judge_table(folder: str, name: str) -> dict[str, float]:
    """Linear probe and kNN on the targets themselves; runs in a child process."""
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import RowTable, vectors

    table = RowTable(Location.parse(table_path(folder, name)), "targets")
    rows = _probe_rows(folder, table.row_ids())
    read = [vectors(table.read(ids, ["target"]).column("target")) for ids in (rows.train, rows.test)]
    found: dict[str, float] = rows.judge(*read)
    return found


def sweep(folder: str, dims: Sequence[int], shared: Sequence[int], dim: int, middle: int) -> list[dict[str, Any]]:
    """Targets of the three good priors for several n and sizes of the shared set; runs in a child process.

    Args:
        folder: with `encode/wide/`.
        dims: values of n, each with `middle` shared rows.
        shared: numbers of shared rows, each with `dim` dimensions; those beyond what was encoded are left out.
        dim, middle: see above.

    Returns:
        For each setting `dim`, `shared_rows`, mean held-out `alignment_r2` of the aligned priors, and `aligned` and
        `unaligned`: linear probe and kNN on the targets themselves.
    """
    tables = [_rows_of(place) for place in _contributions(folder, _WIDE)]
    settings = dict.fromkeys([*((n, middle) for n in dims), *((dim, s) for s in shared)])
    found = []
    for n, size in settings:
        if size <= len(tables[0].shared):
            found.append(_setting(folder, tables, n, size))
            note(f"sweep: n = {n}, {size} shared rows")
    return found


class _Rows:
    """One participant's features in full width.

    Args:
        ids: int64[r] of all its rows, increasing.
        features: float32[r, d].
        own, shared: bool[r].
    """

    def __init__(self, ids: Ids, features: Vectors, own: npt.NDArray[np.bool_], shared: npt.NDArray[np.bool_]) -> None:
        self.ids, self.features = ids, features
        self.own, self.shared = ids[own], ids[shared]

    def vectors_of(self, ids: Ids) -> Vectors:
        """float32[len(ids), d]."""
        return self.features[np.searchsorted(self.ids, ids)]


def _setting(folder: str, tables: list[_Rows], n: int, size: int) -> dict[str, Any]:
    ids, aligned, unaligned, r2 = targets_of(tables, n, size)
    rows = _probe_rows(folder, ids)

    def judge(targets: Vectors) -> dict[str, float]:
        found: dict[str, float] = rows.judge(*(targets[np.searchsorted(ids, w)] for w in (rows.train, rows.test)))
        return found

    return {
        "dim": n,
        "shared_rows": size,
        "alignment_r2": r2,
        "aligned": judge(aligned),
        "unaligned": judge(unaligned),
    }


def targets_of(tables: list[_Rows], n: int, size: int) -> tuple[Ids, Vectors, Vectors, float]:
    """What a merge of the participants makes with other settings, with the package's own functions.

    Args:
        tables: the participants' features, full width.
        n: common dimension.
        size: rows of the shared set to use.

    Returns:
        int64[rows] row_ids, increasing; float32[rows, n] targets with and without alignment; mean held-out R^2.
    """
    from coevo_ray.core.alignment.alignment import align, fit_alignment
    from coevo_ray.core.alignment.projection import project, projection_matrix
    from coevo_ray.core.alignment.uniformity import uniformity
    from coevo_ray.core.rows.hashing import choose_rows

    matrix = projection_matrix(tables[0].features.shape[1], n, 0)
    chosen = choose_rows(tables[0].shared, size, seed=0)
    shared = [project(t.vectors_of(chosen), matrix) for t in tables]
    own = [project(t.vectors_of(t.own), matrix) for t in tables]
    best = int(np.argmin([uniformity(u[:4096]) for u in shared]))
    fits = {i: fit_alignment(u, shared[best], row_ids=chosen) for i, u in enumerate(shared) if i != best}
    aligned = [align(u, fits[i].matrix) if i in fits else u for i, u in enumerate(own)]
    ids = np.concatenate([t.own for t in tables])
    order = np.argsort(ids)
    r2 = float(np.mean([f.r2 for f in fits.values()]))
    return ids[order], np.concatenate(aligned)[order], np.concatenate(own)[order], r2


def _probe_rows(folder: str, usable: Ids) -> Any:
    from coevo_ray.pool.pool import Pool
    from coevo_ray.training.from_targets.probes import ProbeRows

    rows = ProbeRows.choose(Pool.open(f"{folder}/pool"), usable, limit=50_000, seed=0)
    if rows is None:
        raise RuntimeError("the benchmark's pool has no labels to judge by")
    return rows


def _contributions(folder: str, name: str) -> list[str]:
    return [str(place) for place in sorted((Path(folder) / "encode" / name / "contributions").iterdir())]


def _rows_of(contribution: str) -> _Rows:
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import RowTable, vectors

    opened = RowTable(Location.parse(contribution), "contribution")
    table = opened.scan(["row_id", "own", "shared", "feature"])
    own, shared = (table.column(name).to_numpy().astype(bool) for name in ("own", "shared"))
    return _Rows(table.column("row_id").to_numpy(), vectors(table.column("feature")), own, shared)
