"""Lance and Delta Lake as sources, by the readers of Ray Data and the formats' own writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from coevo_ray.errors import InputError
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.pool import Pool
from coevo_ray.store.row_table import vectors
from tests.pipelines.ingest.helpers import rows, settings
from tests.pool.pictures import png

pytestmark = pytest.mark.usefixtures("ray_local")

ROWS = 36
KEYS = [f"k{i}" for i in range(ROWS)]
VECTORS = np.random.default_rng(0).normal(size=(ROWS, 4))


def table() -> pa.Table:
    """Texts, images, vectors of several types, and labels of which every third is missing."""
    return pa.table(
        {
            "id": KEYS,
            "body": [f"letter {i}\nwith lines" for i in range(ROWS)],
            "photo": pa.array([png(i) for i in range(ROWS)], pa.large_binary()),
            "topic": [("oil", "net", None)[i % 3] for i in range(ROWS)],
            "fixed": pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.astype(np.float32).ravel()), 4),
            "listed": pa.array(VECTORS.tolist(), pa.list_(pa.float64())),
        }
    )


@pytest.fixture(scope="module")
def lance_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    lance = pytest.importorskip("lance")
    folder = str(tmp_path_factory.mktemp("lance") / "tickets.lance")
    lance.write_dataset(table(), folder, max_rows_per_file=5)
    return folder


@pytest.fixture(scope="module")
def delta_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    deltalake = pytest.importorskip("deltalake")
    folder = str(tmp_path_factory.mktemp("delta") / "tickets.delta")
    for start in range(0, ROWS, 12):
        deltalake.write_deltalake(folder, table().slice(start, 12), mode="append")
    return folder


def made(place: Path, dataset: ray.data.Dataset, **source: Any) -> Pool:
    named = {"uri": "dataset:tickets", "label_column": "topic", "key_column": "id", **source}
    return ingest(settings(named), place, dataset=dataset)


def check(pool: Pool, samples: list[Any] | None) -> None:
    """Each key has its sample and label, whatever the order."""
    assert len(pool) == ROWS
    table = pool.scan(["key", "label"] if samples is None else ["key", pool.modality, "label"]).to_pylist()
    assert pool.manifest.summary["class_names"] == ["net", "oil"]
    for row in table:
        place = KEYS.index(row["key"])
        assert row["label"] == (1, 0, None)[place % 3]
        assert samples is None or row[pool.modality] == samples[place]


@pytest.mark.slow
def test_lance_gives_texts_vectors_and_images_in_its_order(lance_folder: str, tmp_path: Path) -> None:
    texts = made(tmp_path / "t", ray.data.read_lance(lance_folder), text_column="body", feature_columns=["listed"])
    check(texts, table().column("body").to_pylist())
    assert [row[0] for row in rows(texts).values()] == KEYS
    assert np.allclose(vectors(texts.column("listed")), VECTORS)
    alone = made(tmp_path / "v", ray.data.read_lance(lance_folder), vector_column="fixed")
    check(alone, None)
    assert np.allclose(vectors(alone.column("vector")), VECTORS)
    check(made(tmp_path / "i", ray.data.read_lance(lance_folder), image_column="photo"), [png(i) for i in range(ROWS)])


@pytest.mark.slow
def test_delta_gives_texts_vectors_and_images_in_one_order(delta_folder: str, tmp_path: Path) -> None:
    texts = made(tmp_path / "t", ray.data.read_delta(delta_folder), text_column="body", feature_columns=["fixed"])
    check(texts, table().column("body").to_pylist())
    order = [KEYS.index(row[0]) for row in rows(texts).values()]
    assert np.allclose(vectors(texts.column("fixed")), VECTORS[order])
    alone = made(tmp_path / "v", ray.data.read_delta(delta_folder), vector_column="listed")
    check(alone, None)
    assert np.allclose(vectors(alone.column("vector")), VECTORS[order])  # the same order again
    images = made(tmp_path / "i", ray.data.read_delta(delta_folder), image_column="photo")
    check(images, [png(i) for i in range(ROWS)])


def test_a_delta_table_that_grew_gives_its_new_rows(delta_folder: str, tmp_path: Path) -> None:
    """Its new files come first; keys tell which rows the pool has."""
    first = ray.data.read_delta(delta_folder, version=0)
    assert len(made(tmp_path / "p", first, text_column="body")) == 12
    source = {"uri": "dataset:tickets", "label_column": "topic", "key_column": "id", "text_column": "body"}
    grown = ingest({"sources": [source]}, tmp_path / "p", dataset=ray.data.read_delta(delta_folder), append=True)
    check(grown, table().column("body").to_pylist())
    assert [row[0] for row in rows(grown).values()][:12] == KEYS[:12]


@pytest.mark.slow
def test_blobs_of_lance_are_read_as_bytes_or_refused(tmp_path: Path) -> None:
    """Images that are kept as blobs come as their places in the file unless the reader is told otherwise."""
    lance = pytest.importorskip("lance")
    blob = pa.field("photo", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    columns = table().select(["id", "topic", "photo"])
    lance.write_dataset(columns.cast(pa.schema([*list(columns.schema)[:2], blob])), str(tmp_path / "a.lance"))
    folder = str(tmp_path / "a.lance")
    with pytest.raises(InputError, match="places of Lance's blobs") as refused:
        made(tmp_path / "p", ray.data.read_lance(folder), image_column="photo")
    assert "blob_handling" in refused.value.remedy
    as_bytes = ray.data.read_lance(folder, scanner_options={"blob_handling": "all_binary"})
    check(made(tmp_path / "p", as_bytes, image_column="photo"), [png(i) for i in range(ROWS)])
