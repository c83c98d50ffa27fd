"""Texts, vectors, tars, Hugging Face, Ray Datasets, max_side and duplicates by content, through whole ingests."""

from __future__ import annotations

import io
import json
import uuid
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
from PIL import Image

from coevo_ray import cli
from coevo_ray.config import PoolConfig
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.ingest import ingest as module
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.duplicates import digest_of
from coevo_ray.pool.max_side import limit_side
from coevo_ray.pool.pool import TEST, TRAIN, Pool, pool_schema
from coevo_ray.store.row_table import vectors
from tests.pipelines.ingest.helpers import reasons, rows, settings, snapshot
from tests.pool.pictures import encoded, picture, png, write_images, write_parquet, write_tar

pytestmark = pytest.mark.usefixtures("ray_local")


# -- the same rows however the work is cut ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One source of each format with a duplicate key, a damaged image and a bad label among its 17 entries."""
    folder = tmp_path_factory.mktemp("sources")
    samples = [(f"{i % 3}/{i:02d}", png(i), i % 3) for i in range(17)]
    samples[4] = (samples[4][0], png(4)[:60], 1)
    write_images(folder / "images", {f"{key}.png": data for key, data, _ in samples})
    samples[9] = (samples[1][0], png(9), 0)
    samples[12] = (samples[12][0], png(12), -7)
    for part, (low, high) in enumerate([(0, 6), (6, 7), (7, 17)]):
        keys, images, labels = zip(*samples[low:high], strict=True)
        file = folder / "parquet" / f"{part}.parquet"
        write_parquet(file, 3, image=list(images), label=list(labels), key=list(keys))
        members = [
            (f"{key}.{kind}", data)
            for key, image, label in samples[low:high]
            for kind, data in (("png", image), ("cls", str(label).encode()))
        ]
        write_tar(folder / "tars" / f"{part}.{'tar.gz' if part == 1 else 'tar'}", members)
    content = {"info": {"features": {"image": {"_type": "Image"}}}}
    for part, split in enumerate(("test", "train", "validation")):
        table = pq.read_table(folder / "parquet" / f"{part}.parquet")
        images = pa.array([{"bytes": b.as_py(), "path": None} for b in table.column("image")])
        table = table.set_column(0, "image", images).replace_schema_metadata({"huggingface": json.dumps(content)})
        (folder / "hub" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    return {
        "images": {"uri": str(folder / "images")},
        "parquet": {"uri": str(folder / "parquet"), "key_column": "key"},
        "webdataset": {"uri": str(folder / "tars")},
        "huggingface": {"uri": str(folder / "hub"), "key_column": "key"},
        "dataset": {"uri": "dataset:x", "key_column": "key"},
    }


FORMATS = ["images", "parquet", "webdataset", "huggingface", "dataset"]


def made_of(source: dict[str, Any], sources: dict[str, Any], place: Path, blocks: int = 0, **more: Any) -> Pool:
    dataset: ray.data.Dataset | None = None
    if source["uri"].startswith("dataset:") and blocks:  # in memory: Ray takes seconds to begin reading files
        dataset = ray.data.from_items(pq.read_table(sources["parquet"]["uri"]).to_pylist(), override_num_blocks=blocks)
    elif source["uri"].startswith("dataset:"):
        dataset = ray.data.read_parquet(sources["parquet"]["uri"])
    return ingest(settings(source, **more), place, dataset=dataset)


@pytest.fixture(scope="module")
def pools(sources: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pool]:
    return {kind: made_of(sources[kind], sources, tmp_path_factory.mktemp(kind) / "pool") for kind in FORMATS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@hypothesis_settings(max_examples=4, deadline=None)
@given(shard_rows=st.integers(1, 20), cpus=st.sampled_from([0.1, 0.5, 1.0]), blocks=st.integers(1, 7))
def test_row_ids_are_the_same_for_any_shards_and_parallelism(
    sources: dict[str, dict[str, Any]],
    pools: dict[str, Pool],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    shard_rows: int,
    cpus: float,
    blocks: int,
) -> None:
    place = tmp_path_factory.mktemp("again") / "pool"
    more = {"shard_rows": shard_rows, "compute": {"reader_cpus": cpus}}
    pool = made_of(sources[kind], sources, place, blocks, **more)
    assert rows(pool) == rows(pools[kind])
    assert reasons(pool) == reasons(pools[kind])


def test_every_format_gives_the_same_samples(pools: dict[str, Pool]) -> None:
    expected = [(f"{i % 3}/{i:02d}", png(i), i % 3) for i in range(17) if i not in (4, 9, 12)]
    for kind in ("parquet", "webdataset", "dataset"):
        assert [row[:3] for row in rows(pools[kind]).values()] == expected
        assert sorted(reasons(pools[kind]))[:2] == [
            ("0/12", "label outside the range: -7, need 0 or more"),
            ("1/01", "duplicate key"),
        ]
    assert rows(pools["parquet"]) == rows(pools["dataset"]) == rows(pools["webdataset"])
    assert {row[:3] for row in rows(pools["huggingface"]).values()} == set(expected)
    by_split = {row[0]: row[3] for row in rows(pools["huggingface"]).values()}
    assert [by_split[f"{i % 3}/{i:02d}"] for i in (0, 5, 6, 7, 16)] == [TEST, TEST, TRAIN, TRAIN, TRAIN]
    for pool in pools.values():
        assert (pool.modality, pool.features) == ("image", {})
        assert not (Path(pool.location.path) / "_samples" / "dataset" / "complete.json").exists()


# -- texts and vectors -----------------------------------------------------------------------------------------------


def test_a_pool_of_texts_with_vectors(tmp_path: Path) -> None:
    matrix = np.arange(24, dtype=np.float32).reshape(8, 3)
    matrix[6, 1] = np.nan
    for name, part in (("a", slice(0, 4)), ("b", slice(4, 8))):
        kind = pa.list_(pa.float64()) if name == "a" else pa.list_(pa.float32(), 3)
        texts = [f"text {i}" for i in range(part.start, part.stop)]
        column = pa.array(matrix[part].tolist(), pa.list_(pa.float64())).cast(kind)
        write_parquet(tmp_path / name / f"{name}.parquet", body=texts, v=column, w=pa.array([[0]] * 4))
    both = [{"uri": str(tmp_path / n), "text_column": "body", "feature_columns": ["w", "v"]} for n in "ab"]
    pool = ingest(settings(*both), tmp_path / "pool")
    assert (pool.modality, pool.features) == ("text", {"v": 3, "w": 1})
    keep = [0, 1, 2, 3, 4, 5, 7]
    assert [row[1] for row in rows(pool).values()] == [f"text {i}" for i in keep]
    assert reasons(pool) == [("b.parquet:2", "values that are not finite in float32 in column v")]
    table = pool.read(np.array([1, 6]), ["v", "w", "text"])
    assert vectors(table.column("v")).tolist() == matrix[[1, 7]].tolist()
    schema = pq.read_schema(tmp_path / "pool" / "rows-000000.parquet")
    assert schema.equals(pool_schema("text", {"v": 3, "w": 1}))
    assert schema.field("v").type == pa.list_(pa.float32(), 3)


def test_a_pool_has_one_modality_and_one_dimension(tmp_path: Path) -> None:
    for d in (2, 3):
        write_parquet(tmp_path / f"{d}.parquet", image=[png(d)], v=pa.array([[0.0] * d]))
    first, second = ({"uri": str(tmp_path / f"{d}.parquet"), "feature_columns": ["v"]} for d in (2, 3))
    with pytest.raises(InputError, match=r"2\.parquet has vectors \{'v': 2\}, .*3\.parquet \{'v': 3\}"):
        ingest(settings(first, second), tmp_path / "pool")
    for other in ({"text_column": "t"}, {}):
        with pytest.raises(UsageError, match=r"make a pool of each|different feature_columns"):
            ingest(settings(first, {"uri": "x", **other}), tmp_path / "pool")
    with pytest.raises(UsageError, match="names of the pool's own columns"):
        ingest(settings({"uri": "x", "feature_columns": ["label"]}), tmp_path / "pool")
    with pytest.raises(UsageError, match="max_side is for images"):
        ingest(settings({"uri": "x", "text_column": "t"}, max_side=8), tmp_path / "pool")


def test_a_pool_from_before_holds_images_and_is_the_same_pool(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", {f"{i}.png": png(i) for i in range(4)})
    ingest(settings(source), tmp_path / "pool")
    manifest = tmp_path / "pool" / "manifest.json"
    content = json.loads(manifest.read_text())
    for name in ("modality", "features", "parts"):
        del content["summary"][name]
    assert "max_side" not in content["config"]  # settings at their defaults do not change what a pool is
    assert "text_column" not in content["config"]["sources"][0]
    manifest.write_text(json.dumps(content))
    old = Pool.open(tmp_path / "pool")
    assert (old.modality, old.features) == ("image", {})
    more = write_images(tmp_path / "more", {"x.png": png(9)})
    assert len(ingest({"sources": [str(more)]}, tmp_path / "pool", append=True)) == 5


# -- class names -----------------------------------------------------------------------------------------------------


def test_class_names_of_all_sources_mean_the_same(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "s", {"ant/1.png": png(0), "zebra/1.png": png(1)})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["zebra", "cat", "ant"]}}
    table = pa.table({"image": [png(2), png(3), png(4)], "label": [0, 1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "h.parquet")
    pool = ingest(settings(folder, tmp_path / "h.parquet"), tmp_path / "pool")
    assert pool.manifest.summary["class_names"] == ["zebra", "cat", "ant"]
    assert [row[2] for row in rows(pool).values()] == [2, 0, 0, 1, 2]
    more = write_images(tmp_path / "more", {"cat/9.png": png(9)})
    assert ingest({"sources": [str(more)]}, tmp_path / "pool", append=True).labels().tolist() == [2, 0, 0, 1, 2, 1]
    other = write_images(tmp_path / "other", {"dog/9.png": png(10)})
    with pytest.raises(InputError, match=r"the pool has different classes: \['dog'\] are not among"):
        ingest({"sources": [str(other)]}, tmp_path / "pool", append=True)


# -- max_side --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
def test_only_images_above_max_side_are_changed(tmp_path: Path, verify: bool) -> None:
    images = {
        "big.jpg": encoded(picture(1, 64), "JPEG"),
        "big.png": encoded(picture(2, 65)),
        "broken.png": encoded(picture(3, 64))[:900],
        "small.png": encoded(picture(4, 32)),
    }
    source = write_images(tmp_path / "s", images)
    pool = ingest(settings(source, max_side=32, verify=verify), tmp_path / "pool")
    have = {key: data for key, data, *_ in rows(pool).values()}
    assert have.pop("small.png") == images["small.png"]
    if not verify:  # left to encode, which rejects it
        assert have.pop("broken.png") == images["broken.png"]
    assert have == {name: limit_side(images[name], 32) for name in ("big.jpg", "big.png")}
    assert all(max(Image.open(io.BytesIO(data)).size) == 32 for data in have.values())
    assert [key for key, _ in reasons(pool)] == (["broken.png"] if verify else [])


# -- duplicates by content -------------------------------------------------------------------------------------------


def test_equal_bytes_are_rejected_when_asked_for(tmp_path: Path) -> None:
    content = [png(0), png(1), png(0), png(2), png(1), png(0), png(3)]
    source = write_images(tmp_path / "s", {f"{i}.png": data for i, data in enumerate(content)})
    assert len(ingest(settings(source, shard_rows=2), tmp_path / "all")) == 7
    pool = ingest(settings(source, shard_rows=2, reject_duplicates="content"), tmp_path / "pool")
    assert [row[0] for row in rows(pool).values()] == ["0.png", "1.png", "3.png", "6.png"]
    assert reasons(pool) == [
        ("2.png", "duplicate content: the same as 0.png"),
        ("4.png", "duplicate content: the same as 1.png"),
        ("5.png", "duplicate content: the same as 0.png"),
    ]
    assert pool.manifest.summary["reject_reasons"] == {"duplicate content": 3}
    assert pool.column("content").to_pylist() == [digest_of(png(i)) for i in range(4)]
    more = write_images(tmp_path / "more", {"a.png": png(2), "b.png": png(8)})
    grown = ingest({"sources": [str(more)], "max_reject_fraction": 0.5}, tmp_path / "pool", append=True)
    assert [row[0] for row in rows(grown).values()][4:] == ["b.png"]
    assert reasons(grown)[-1] == ("a.png", "duplicate content: the same as 3.png")


def test_equal_texts_are_rejected_and_keys_come_first(tmp_path: Path) -> None:
    texts = ["x", "y", "x", "z"]
    write_parquet(tmp_path / "a.parquet", t=texts, k=["1", "1", "2", "3"])
    source = {"uri": str(tmp_path / "a.parquet"), "text_column": "t", "key_column": "k"}
    pool = ingest(settings(source, reject_duplicates="content"), tmp_path / "pool")
    assert [row[:2] for row in rows(pool).values()] == [("1", "x"), ("3", "z")]
    assert reasons(pool) == [("1", "duplicate key"), ("2", "duplicate content: the same as 1")]


# -- Ray Datasets ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dataset_goes_by_its_own_order_whatever_its_blocks(tmp_path: Path) -> None:
    items = [{"image": png(i), "label": i % 3, "v": np.full(2, i, np.float32)} for i in range(23)]
    config = {"sources": [{"uri": "dataset:mine", "feature_columns": ["v"]}], "shard_rows": 4}
    made = []
    for blocks in (1, 5, 23):
        dataset = ray.data.from_items(items, override_num_blocks=blocks).map(lambda row: {**row, "label": row["label"]})
        made.append(ingest(config, tmp_path / str(blocks), dataset=dataset))
        assert dataset.context.execution_options.preserve_order is False
    for pool in made:
        assert rows(pool) == rows(made[0])
        assert vectors(pool.column("v"))[:, 0].tolist() == list(range(23))
    have = rows(made[0])
    assert [row[:3] for row in have.values()] == [(f"mine:{i}", png(i), i % 3) for i in range(23)]
    assert made[0].manifest.config["sources"][0]["uri"] == "dataset:mine"


def test_a_dataset_is_run_once_and_its_rows_go_when_the_pool_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()

    def count(row: dict[str, Any]) -> dict[str, Any]:
        (runs / uuid.uuid4().hex).touch()
        return row

    bad = ray.data.from_items([{"image": b"bad"}])
    place = tmp_path / "pool"
    with pytest.raises(InputError, match="more than max_reject_fraction"):
        ingest({}, place, dataset=bad)
    # Mended: nothing of the pool had been written, so what was kept of the former one does not count.
    dataset = ray.data.from_items([{"image": png(i)} for i in range(4)]).map(count)

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish", cut)
        with pytest.raises(KeyboardInterrupt):
            ingest({}, place, dataset=dataset)
    assert list((place / "_samples" / "dataset").glob("*.parquet"))
    pool = ingest({}, place, dataset=dataset)  # goes on with what was kept
    assert [row[:2] for row in rows(pool).values()] == [(f"dataset:{i}", png(i)) for i in range(4)]
    assert len(list(runs.iterdir())) == 4
    assert not list((place / "_samples" / "dataset").iterdir())
    before = snapshot(place)
    ingest({}, place, dataset=dataset)
    assert snapshot(place) == before
    more = ray.data.from_items([{"image": png(7)}])
    grown = ingest({"sources": ["dataset:more"]}, place, dataset=more, append=True)
    assert rows(grown)[4][0] == "more:0"


def test_datasets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = ray.data.from_items([{"picture": png(0)}])
    with pytest.raises(InputError, match=r"the dataset has no column 'image'; its columns are \['picture'\]"):
        ingest({}, tmp_path / "a", dataset=dataset)
    decoded = ray.data.from_items([{"image": np.zeros((4, 4, 3), np.uint8)}])
    with pytest.raises(InputError, match="column 'image' of the dataset holds") as caught:
        ingest({}, tmp_path / "b", dataset=decoded)
    assert "read_binary_files" in caught.value.remedy
    with pytest.raises(InputError, match="the dataset holds no rows"):
        ingest({}, tmp_path / "c", dataset=ray.data.from_items([{"image": png(0)}]).filter(lambda row: False))
    with pytest.raises(UsageError, match="refers to a Ray Dataset"):
        ingest({"sources": ["dataset:x"]}, tmp_path / "d")
    with pytest.raises(UsageError, match="0 of the sources refer to one"):
        ingest({"sources": [str(tmp_path)]}, tmp_path / "e", dataset=dataset)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_prefix_of_ones_own_tells_sources_apart(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / name / "0.tar", [("x.png", png(ord(name)))])
        write_parquet(tmp_path / name / "0.parquet", image=[png(ord(name) + 5)], k=["x"])
    tars = [{"uri": str(tmp_path / n / "0.tar")} for n in "ab"]
    assert [row[0] for row in rows(ingest(settings(*tars), tmp_path / "p1")).values()] == ["a/x", "b/x"]
    own = [{**s, "key_prefix": f"{i}-"} for i, s in enumerate(tars)]
    assert [row[0] for row in rows(ingest(settings(*own), tmp_path / "p2")).values()] == ["0-x", "1-x"]
    keyed: list[dict[str, Any]] = [{"uri": str(tmp_path / n / "0.parquet"), "key_column": "k"} for n in "ab"]
    once = ingest(settings(*keyed), tmp_path / "p3")  # the user's own ids are never changed unasked
    assert ([row[0] for row in rows(once).values()], reasons(once)) == (["x"], [("x", "duplicate key")])
    keyed[1]["key_prefix"] = "b:"
    assert [row[0] for row in rows(ingest(settings(*keyed), tmp_path / "p4")).values()] == ["x", "b:x"]


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_knows_formats_and_columns(
    sources: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["one", "two", "two", ""]
    write_parquet(tmp_path / "t.parquet", body=texts, id=[*"abcd"], y=[0, 1, 1, 0], v=[[1.0]] * 4, w=[[2.0, 3.0]] * 4)
    columns = ("--text-column", "body", "--key-column", "id", "--label-column", "y", "--key-prefix", "t/")
    more = ("--feature-column", "v", "--feature-column", "w", "--reject-duplicates", "content", "--split", "train")
    ended = command(
        "ingest", str(tmp_path / "t.parquet"), *columns, *more, "--max-reject-fraction", "0.5", out=tmp_path
    )
    assert ended == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["modality"], result["features"]) == (2, "text", {"v": 1, "w": 2})
    assert rows(Pool.open(result["pool"])) == {0: ("t/a", "one", 0, TRAIN), 1: ("t/b", "two", 1, TRAIN)}
    tars = sources["webdataset"]["uri"]
    options = ("--format", "webdataset", "--max-side", "4", "--max-reject-fraction", "0.5", "--test-fraction", "0.5")
    assert command("ingest", tars, *options, out=tmp_path / "b") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["test_rows"]) == (14, 7)
    assert {Image.open(io.BytesIO(row[1])).size for row in rows(Pool.open(result["pool"])).values()} == {(4, 4)}
    assert command("ingest", tars, "--format", "zip", out=tmp_path / "c") == 2
    assert "sources.0.format" in capsys.readouterr().err


def command(*arguments: str, out: Path) -> Any:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--out", str(out / "pool"), "--json"])
    return ended.value.code


def test_the_help_states_the_defaults_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ingest", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("test_fraction", "max_reject_fraction", "reject_duplicates"):
        assert f"[{PoolConfig.model_fields[name].default}]" in text
