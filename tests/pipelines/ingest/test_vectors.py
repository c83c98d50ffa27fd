"""Pools of vectors alone, through whole ingests: Parquet, NumPy and Ray Datasets give the same pool, however cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.ingest import ingest as module
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.pool import Pool, pool_schema
from coevo_ray.store.row_table import vectors
from tests.pipelines.ingest.helpers import reasons, rows, settings, snapshot
from tests.pool.pictures import png, write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")
N, D = 17, 3
MATRIX = (np.arange(1, N * D + 1).reshape(N, D) / 8).astype(np.float32)
MATRIX[3, 1], MATRIX[6] = np.nan, 0
KEYS = [f"id {row}" for row in range(N)]
KEYS[9] = KEYS[1]
NAMES = ["cat", "dog", "emu"]
LABELS = [NAMES[row % 3] for row in range(N)]
GOOD = [row for row in range(N) if row not in (3, 6, 9)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same vectors, keys and labels in each format."""
    folder = tmp_path_factory.mktemp("sources")
    for part, (low, high) in enumerate([(0, 6), (6, 7), (7, N)]):
        columns = {"emb": MATRIX[low:high].tolist(), "id": KEYS[low:high], "label": LABELS[low:high]}
        write_parquet(folder / "parquet" / f"{part}.parquet", 3, **columns)
        (folder / "npy").mkdir(exist_ok=True)
        np.save(folder / "npy" / f"{part}.npy", MATRIX[low:high])
        np.save(folder / "npy" / f"{part}.labels.npy", np.array(LABELS[low:high]))
        (folder / "npy" / f"{part}.keys.txt").write_text("\n".join(KEYS[low:high]))
    columns_of = {"vector_column": "emb", "key_column": "id"}
    return {
        "parquet": {"uri": str(folder / "parquet"), **columns_of},
        "npy": {"uri": str(folder / "npy"), "format": "npy"},
        "dataset": {"uri": "dataset:x", **columns_of},
    }


FORMATS = ["parquet", "npy", "dataset"]


def made_of(source: dict[str, Any], place: Path, blocks: int = 3, **more: Any) -> Pool:
    dataset: ray.data.Dataset | None = None
    if source["uri"].startswith("dataset:"):
        items = [{"emb": row, "id": key, "label": label} for row, key, label in zip(MATRIX, KEYS, LABELS, strict=True)]
        dataset = ray.data.from_items(items, override_num_blocks=blocks)
    return ingest(settings(source, **more), place, dataset=dataset)


@pytest.fixture(scope="module")
def pools(sources: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pool]:
    return {kind: made_of(sources[kind], tmp_path_factory.mktemp(kind) / "pool") for kind in FORMATS}


def test_every_format_gives_the_same_pool(pools: dict[str, Pool]) -> None:
    for kind, pool in pools.items():
        assert (pool.modality, pool.features, pool.samples.plural) == ("vector", {"vector": D}, "vectors")
        assert pool.schema().equals(pool_schema("vector", {"vector": D}))
        assert pool.schema().field("vector").type == pa.list_(pa.float32(), D)
        assert pool.manifest.summary["class_names"] == NAMES
        assert [row[0] for row in rows(pool).values()] == [KEYS[row] for row in GOOD]
        assert [row[2] for row in rows(pool).values()] == [row % 3 for row in GOOD]
        assert np.array_equal(vectors(pool.read(pool.row_ids(), ["vector"]).column("vector")), MATRIX[GOOD])
        where = "0.npy" if kind == "npy" else "column emb"
        assert sorted(reasons(pool)) == [
            ("id 1", "duplicate key"),
            ("id 3", f"values that are not finite in float32 in {where}"),
            ("id 6", f"zero vector in {where.replace('0', '1')}"),
        ]
    assert rows(pools["parquet"]) == rows(pools["npy"]) == rows(pools["dataset"])


@pytest.mark.parametrize("kind", FORMATS)
@hypothesis_settings(max_examples=3, deadline=None)
@given(shard_rows=st.integers(1, 20), blocks=st.integers(1, 7))
def test_the_pool_is_the_same_for_any_shards(
    sources: dict[str, dict[str, Any]],
    pools: dict[str, Pool],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    shard_rows: int,
    blocks: int,
) -> None:
    pool = made_of(sources[kind], tmp_path_factory.mktemp("again") / "pool", blocks, shard_rows=shard_rows)
    assert rows(pool) == rows(pools[kind])
    assert reasons(pool) == reasons(pools[kind])


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_an_interrupted_ingest_goes_on_with_its_files(
    kind: str, sources: dict[str, dict[str, Any]], pools: dict[str, Pool], tmp_path: Path
) -> None:
    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "finish", dies)
        made_of(sources[kind], tmp_path / "pool")
    before = {name: at for name, (at, _) in snapshot(tmp_path / "pool").items() if name.startswith("rows-")}
    pool = made_of(sources[kind], tmp_path / "pool")
    assert rows(pool) == rows(pools[kind])
    assert before
    assert before == {n: at for n, (at, _) in snapshot(tmp_path / "pool").items() if n.startswith("rows-")}


def test_a_pool_of_vectors_grows_by_its_own_kind(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", MATRIX[GOOD] + (name == "b"))
    np.save(tmp_path / "wide.npy", np.ones((4, D + 1)))
    ingest(settings(tmp_path / "a.npy"), tmp_path / "pool")
    grown = ingest({"sources": [str(tmp_path / "b.npy")]}, tmp_path / "pool", append=True)
    assert len(grown) == 2 * len(GOOD)
    with pytest.raises(InputError, match=r"the pool keeps the vectors \{'vector': 3\}"):
        ingest({"sources": [str(tmp_path / "wide.npy")]}, tmp_path / "pool", append=True)
    write_parquet(tmp_path / "i.parquet", image=[png(1)])
    with pytest.raises(InputError, match=r"the pool holds vectors, .* images"):
        ingest({"sources": [str(tmp_path / "i.parquet")]}, tmp_path / "pool", append=True)


def test_vectors_may_have_other_vectors_beside_them_and_equal_ones_are_found(tmp_path: Path) -> None:
    twice = [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], None, [1.0]]
    write_parquet(tmp_path / "a.parquet", emb=twice, w=[[0.0]] * 5)
    source = {"uri": str(tmp_path / "a.parquet"), "vector_column": "emb", "feature_columns": ["w"]}
    pool = ingest(settings(source, reject_duplicates="content", max_reject_fraction=0.9), tmp_path / "pool")
    assert pool.features == {"vector": 2, "w": 1}
    assert pool.schema().names == ["row_id", "key", "label", "split", "content", "vector", "w"]
    assert sorted(reasons(pool)) == [
        ("a.parquet:2", "duplicate content: the same as a.parquet:0"),
        ("a.parquet:3", "no vector in column emb"),
        ("a.parquet:4", "wrong length in column emb: 1 values, need 2"),
    ]


def test_what_cannot_be_a_pool_of_vectors_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", emb=["a", "b"], v=[[1.0], [2.0]])
    with pytest.raises(InputError, match=r"column 'emb' of a\.parquet is string, no list") as refused:
        ingest(settings({"uri": str(tmp_path / "a.parquet"), "vector_column": "emb"}), tmp_path / "pool")
    assert "vector_column" in refused.value.remedy
    with pytest.raises(UsageError, match="max_side is for images, the sources hold vectors"):
        ingest(settings(tmp_path / "a.npy", max_side=8), tmp_path / "pool")
    matrices = ray.data.from_items([{"emb": np.ones((2, 2), np.float32)}] * 3)
    with pytest.raises(InputError, match="column 'emb' of the dataset holds") as flat:
        ingest(settings({"uri": "dataset:x", "vector_column": "emb"}), tmp_path / "pool", dataset=matrices)
    assert "flatten them" in flat.value.remedy


# -- labels that are texts -------------------------------------------------------------------------------------------


def test_labels_of_texts_that_are_names_become_classes(tmp_path: Path) -> None:
    count = 120
    labels = [NAMES[row % 3] for row in range(count)]
    write_parquet(tmp_path / "a.parquet", 50, text=[f"text {row}" for row in range(count)], label=labels)
    pool = ingest(settings({"uri": str(tmp_path / "a.parquet"), "text_column": "text"}, shard_rows=50), tmp_path / "p")
    assert (len(pool), pool.classes, pool.manifest.summary["class_names"]) == (count, 3, NAMES)
    assert (pool.labels() == np.arange(count) % 3).all()
    assert pool.manifest.summary["rejected"] == 0


@pytest.mark.parametrize(("kinds", "warns"), [(80, True), (41, True), (40, False), (3, False)])
def test_labels_that_are_sentences_are_told(
    kinds: int, warns: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = [f"a sentence that says {row % kinds} of something" for row in range(80)]
    table = pa.table({"text": [f"text {row}" for row in range(80)], "label": sentences})
    pq.write_table(table, tmp_path / "a.parquet")
    source = {"uri": str(tmp_path / "a.parquet"), "text_column": "text"}
    ingest(settings(source, shard_rows=100), tmp_path / "pool")
    told = capsys.readouterr().err
    assert (f"warning: {kinds} classes for 80 labelled rows, such as 'a sentence that says 0" in told) == warns
    assert ("--label-column" in told) == warns


def write_sentences(file: Path, rows: int, kinds: int) -> dict[str, Any]:
    labels = [f"a sentence that says {row % kinds} of something" for row in range(rows)]
    pq.write_table(pa.table({"text": [f"text {row}" for row in range(rows)], "label": labels}), file)
    return {"uri": str(file), "text_column": "text"}


@pytest.mark.slow
def test_sentences_in_nearly_every_row_are_refused_unless_the_user_says_that_they_are_classes(tmp_path: Path) -> None:
    source = write_sentences(tmp_path / "a.parquet", 120, 109)
    with pytest.raises(
        InputError, match=r"column 'label' of .* has 109 different texts in 120 rows, such as 'a sent"
    ) as no:
        ingest(settings(source), tmp_path / "refused")
    assert "--label-column" in no.value.remedy and "label_column: null" in no.value.remedy
    assert "confirm it with classes: 109" in no.value.remedy
    assert ingest(settings(source, classes=109), tmp_path / "stated").classes == 109
    assert ingest(settings({**source, "label_column": None}), tmp_path / "without").classes == 0


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "kinds"), [(120, 108), (99, 99), (300, 150)])
def test_many_classes_are_taken_as_long_as_some_repeat(rows: int, kinds: int, tmp_path: Path) -> None:
    source = write_sentences(tmp_path / "a.parquet", rows, kinds)
    assert ingest(settings(source), tmp_path / "pool").classes == kinds
