"""The seam of modalities: a third one, registered here, is ingested, and stages without an entry refuse it by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_studio_tasks import labelling_config
from coevo_ray.annotators.sample_files import SHOWN
from coevo_ray.config import PoolConfig, Source
from coevo_ray.config.pool import SAMPLE_SETTINGS, SampleSetting
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.ingest.append import content
from coevo_ray.pipelines.ingest.passes import Rows, check_shard, write_shard
from coevo_ray.pool.modality import MODALITIES, Modality, ReadSample, Sample, find_modality
from coevo_ray.pool.pool import Pool, pool_schema
from coevo_ray.pool.sources import cut, list_source, read_shard
from coevo_ray.priors.base import require_modality
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import check_prior
from coevo_ray.reporting.tiles import tiles_of
from coevo_ray.store.artifact import finish
from coevo_ray.store.location import Location
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.semi_supervised.train import train_semi_supervised
from tests.annotators.pools import make_pool
from tests.pool.pictures import write_parquet, write_tar

WAV = b"RIFF"


class AudioSource(Source):
    """As `Source` would be with one more field."""

    audio_column: str | None = None


def of_cell(value: object, column: str) -> ReadSample:
    return (value, "") if isinstance(value, bytes) and value else (None, f"no audio in column {column}")


def decoded(sample: Sample) -> str:
    return "" if isinstance(sample, bytes) and sample.startswith(WAV) else "not a WAV file"


@pytest.fixture
def audio(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Modality("audio", pa.binary(), of_cell, lambda data, extension: (data, ""), decoded, extensions=("wav",))
    monkeypatch.setitem(MODALITIES, "audio", made)
    monkeypatch.setitem(SAMPLE_SETTINGS, "audio", SampleSetting("audio_column", "audio clips"))


def write_pool(folder: Path, source: Source) -> Pool:
    """What ingest makes of a source in one shard, without Ray."""
    config, location = PoolConfig(sources=(source,)), Location.parse(str(folder))
    ((shard,),) = [cut(part, 100) for part in list_source(source, 100).shards]
    found = check_shard(0, shard, config)
    splits = np.zeros(int(found.usable.sum()), np.int8)
    written = write_shard(config, location, shard, Rows("rows-000000.parquet", found.usable, 0, splits, found.digest))
    summary = {"modality": shard.reading.modality, "classes": written.largest_label + 1}
    finish(location, "pool", {}, {}, [written.file], summary)
    return Pool(location)


@pytest.fixture
def clips(audio: None, tmp_path: Path) -> Pool:
    sounds = [WAV + b"a", b"noise", None, WAV + b"b"]
    write_parquet(tmp_path / "a.parquet", sound=sounds, label=[0, 1, 0, 1])
    return write_pool(tmp_path / "pool", AudioSource(uri=str(tmp_path / "a.parquet"), audio_column="sound"))


def test_every_modality_has_its_setting_and_every_setting_its_modality() -> None:
    assert list(MODALITIES) == list(SAMPLE_SETTINGS)
    assert all(name == made.name and made.setting in Source.model_fields for name, made in MODALITIES.items())
    assert [pool_schema(name, {"v": 2}).names for name in MODALITIES] == [
        ["row_id", "key", "image", "label", "split", "v"],
        ["row_id", "key", "text", "label", "split", "v"],
        ["row_id", "key", "label", "split", "v"],  # vectors are the first of the features
    ]


def test_a_new_modality_is_ingested(clips: Pool) -> None:
    assert (clips.modality, clips.samples.plural, len(clips)) == ("audio", "audio clips", 2)
    assert clips.schema().equals(pool_schema("audio", {}))
    table = clips.read(clips.row_ids(), ["key", "audio", "label"])
    assert table.column("audio").to_pylist() == [WAV + b"a", WAV + b"b"]
    assert table.column("key").to_pylist() == ["a.parquet:0", "a.parquet:3"]
    assert table.column("label").to_pylist() == [0, 1]


def test_why_samples_of_a_new_modality_are_rejected(audio: None, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", sound=[b"noise", None])
    source = AudioSource(uri=str(tmp_path), audio_column="sound")
    ((shard,),) = [cut(part, 100) for part in list_source(source, 100).shards]
    found = check_shard(0, shard, PoolConfig(sources=(source,)))
    assert [reject.reason for reject in found.rejects] == ["not a WAV file", "no audio in column sound"]


def test_a_new_modality_in_tars_is_found_by_its_extensions(audio: None, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.wav", WAV), ("x.cls", b"3"), ("y.txt", b"no clip")])
    source = AudioSource(uri=str(tmp_path), audio_column="wav")
    ((shard,),) = [cut(part, 100) for part in list_source(source, 100).shards]
    read = list(read_shard(shard))
    assert [(e.sample, e.label, e.error) for e in read] == [
        (WAV, 3, ""),
        (None, None, "no file .wav among its files: txt"),
    ]


def test_stages_without_an_entry_refuse_it_by_name(clips: Pool, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the report does not support audio clips") as refused:
        list(tiles_of(clips, clips.row_ids()))
    assert "images, texts" in refused.value.remedy
    with pytest.raises(UsageError, match="the file_drop annotator does not support audio clips"):
        FileDrop(Location.parse(str(tmp_path / "drop")), clips)
    drop = FileDrop(Location.parse(str(tmp_path / "drop")), make_pool(tmp_path / "images"))
    with pytest.raises(UsageError, match="the label_studio annotator does not support audio clips"):
        labelling_config(drop.label_set, "audio")
    for prior in ("efficientnet_lite:0", "open_clip:ViT-B-32/random"):
        with pytest.raises(UsageError, match=f"{prior} encodes images, and the pool holds audio clips") as unfit:
            check_prior(prior, samples=Samples("audio"))
    assert unfit.value.remedy.startswith("no prior encodes audio clips yet; use column:NAME")
    with pytest.raises(UsageError, match="x:y encodes audio clips, and the pool holds texts"):
        require_modality("x:y", "audio", Samples("text"))


def test_stages_that_know_images_alone_refuse_it_by_name(clips: Pool, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Feed.of_images cannot take audio clips: .* need images"):
        Feed.of_images(clips, lambda image: image, global_batch=2, seed=0)
    with pytest.raises(UsageError, match="train --objective semi_supervised cannot take audio clips"):
        train_semi_supervised({}, clips, str(tmp_path / "model"))


def test_an_entry_is_all_that_an_annotator_needs(clips: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHOWN, "audio", SHOWN["image"].__class__("Audio", lambda sample: "data:", lambda sample: "wav"))
    drop = FileDrop(Location.parse(str(tmp_path / "drop")), clips)
    assert '<Audio name="sample" value="$audio"' in labelling_config(drop.label_set, "audio")
    assert drop.with_images


def test_unknown_modalities_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="samples of modality 'video' are unknown to this version") as refused:
        find_modality("video")
    assert refused.value.remedy.startswith("it knows image, text")
    pool = make_pool(tmp_path / "pool")
    pool.manifest.summary["modality"] = "video"
    with pytest.raises(UsageError, match="'video'"):
        _ = pool.modality


def test_a_source_names_one_modality(audio: None) -> None:
    assert AudioSource(uri="x").modality == "image"
    assert AudioSource(uri="x", audio_column="a").data_column == "a"
    with pytest.raises(ValueError, match="text_column and audio_column are both named"):
        AudioSource(uri="x", text_column="t", audio_column="a")


def test_the_sources_of_a_pool_hold_one_modality() -> None:
    assert (Source(uri="x").modality, Source(uri="x", text_column="t").modality) == ("image", "text")
    with pytest.raises(ValueError, match=r"some sources hold texts \(text_column\) and some images \(image_column\)"):
        PoolConfig(sources=(Source(uri="x", text_column="t"), Source(uri="y")))


def test_the_columns_of_other_modalities_leave_the_identity_of_image_pools_alone() -> None:
    (source,) = content(PoolConfig(sources=(Source(uri="x"),)))["sources"]
    assert source == {
        "uri": "x",
        "format": "auto",
        "image_column": "image",
        "label_column": "label",
        "key_column": None,
        "split": None,
    }
