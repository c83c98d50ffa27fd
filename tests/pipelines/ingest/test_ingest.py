from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.images import ImageError, verify_image
from coevo_ray.pool.pool import TEST, TRAIN, Pool
from coevo_ray.pool.rejects import read_rejects
from coevo_ray.store.verification import verify
from tests.pool.pictures import encoded, picture, png, write_images, write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 images of 3 classes, one of them truncated and one that is no image."""
    images = {f"{CLASSES[i % 3]}/{i:02d}.png": png(i) for i in range(14)}
    images["cat/03.png"] = encoded(picture(3, 64))[:500]
    images["emu/08.png"] = b"<html>not found</html>"
    return write_images(tmp_path_factory.mktemp("source"), images)


@pytest.fixture(scope="module")
def pool(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return ingest(settings(folder), str(tmp_path_factory.mktemp("made") / "pool"))


def settings(*sources: Path | dict[str, Any], **more: Any) -> dict[str, Any]:
    written = [s if isinstance(s, dict) else {"uri": str(s)} for s in sources]
    return {"sources": written, "max_reject_fraction": 0.5, "shard_rows": 5, **more}


def rows(pool: Pool) -> dict[int, tuple[str, bytes, int | None, int]]:
    """row_id -> key, bytes, label, split: everything that a pool holds."""
    table = pool.scan(["row_id", "key", "image", "label", "split"]).to_pylist()
    assert len({r["row_id"] for r in table}) == len(table)
    return {r["row_id"]: (r["key"], r["image"], r["label"], r["split"]) for r in table}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> modification time and content of every file."""
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}


def reasons(pool: Pool) -> dict[str, str]:
    rejects = read_rejects(pool.location)
    assert {r.stage for r in rejects} <= {"ingest"}
    return {r.key: r.reason for r in rejects}


# -- what a pool holds -----------------------------------------------------------------------------------------------


def test_a_pool_holds_every_usable_image_once_in_the_order_of_the_source(pool: Pool, folder: Path) -> None:
    names = sorted(f"{CLASSES[i % 3]}/{i:02d}.png" for i in range(14) if i not in (3, 8))
    have = rows(pool)
    assert list(have) == list(range(12))
    assert [key for key, *_ in have.values()] == names
    for key, image, label, _ in have.values():
        assert image == (folder / key).read_bytes()
        assert label == CLASSES.index(key.split("/")[0])
    summary = pool.manifest.summary
    assert (summary["rows"], summary["labelled"], summary["classes"]) == (12, 12, 3)
    assert summary["class_names"] == list(CLASSES)
    assert summary["bytes"] == sum(f.stat().st_size for f in Path(pool.location.path).glob("*.parquet"))
    assert verify(pool.location, pool.manifest) == []


def test_the_test_split_is_an_exact_share_chosen_by_hash(pool: Pool) -> None:
    assert pool.test_ids().tolist() == choose_rows(np.arange(12), round(0.2 * 12), seed=0).tolist()
    assert sorted([*pool.test_ids(), *pool.train_ids()]) == list(range(12))
    assert (pool.manifest.summary["train_rows"], pool.manifest.summary["test_rows"]) == (10, 2)


@pytest.mark.parametrize(("shard_rows", "reader_cpus"), [(1, 1.0), (7, 0.1), (1000, 0.5)])
def test_row_ids_do_not_depend_on_shards_or_parallelism(
    pool: Pool, folder: Path, tmp_path: Path, shard_rows: int, reader_cpus: float
) -> None:
    config = settings(folder, shard_rows=shard_rows, compute={"reader_cpus": reader_cpus})
    other = ingest(config, str(tmp_path / "pool"))
    assert rows(other) == rows(pool)
    assert reasons(other) == reasons(pool)
    assert len(other.files) == {1: 12, 7: 2, 1000: 1}[shard_rows]


def test_splits_can_be_forced_and_classes_come_from_the_fullest_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {f"{c}/{i}.png": png(10 * i + ord(c)) for c in "abc" for i in range(2)})
    write_images(tmp_path / "test", {f"{c}/{i}.png": png(500 + 10 * i + ord(c)) for c in "ac" for i in range(2)})
    free = write_parquet(tmp_path / "free.parquet", image=[png(900 + i) for i in range(5)], label=[2] * 5)
    forced = ({"uri": str(tmp_path / name), "split": name} for name in ("train", "test"))
    made = ingest(settings(*forced, free, test_fraction=0.4), str(tmp_path / "pool"))
    have = rows(made)
    assert len(have) == 15
    assert made.manifest.summary["rejected"] == 0  # train/a/0.png and test/a/0.png are two samples
    for key, _, label, split in have.values():
        if key.startswith(f"{tmp_path.name}/free.parquet:"):
            assert label == 2
        else:
            name, class_name, _ = key.split("/")
            assert (split, label) == ({"train": TRAIN, "test": TEST}[name], "abc".index(class_name))
    held_out = [r for r, (key, *_, split) in have.items() if "free.parquet" in key and split == TEST]
    assert held_out == choose_rows(np.arange(10, 15), 2, seed=0).tolist()


def test_every_usual_kind_of_image_is_kept_as_it_came(tmp_path: Path) -> None:
    base = picture(1)
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    images = {
        "grey.png": encoded(base.convert("L")),
        "bits.png": encoded(base.convert("1")),
        "deep.png": encoded(deep),
        "deep.tif": encoded(deep, "TIFF"),
        "cmyk.jpg": encoded(base.convert("CMYK"), "JPEG"),
        "palette.png": encoded(base.quantize(8)),
        "alpha.png": encoded(base.convert("RGBA")),
        "grey_alpha.png": encoded(base.convert("LA")),
        "animated.gif": encoded(base, "GIF", save_all=True, append_images=[picture(2)]),
        "animated.webp": encoded(base, "WEBP", save_all=True, append_images=[picture(2)]),
    }
    made = ingest(settings(write_images(tmp_path / "s", images), max_reject_fraction=0), str(tmp_path / "pool"))
    assert {key: image for key, image, *_ in rows(made).values()} == images
    assert made.manifest.summary["rejected"] == 0
    assert (made.manifest.summary["classes"], made.labels().tolist()) == (0, [-1] * len(images))


# -- rejects ---------------------------------------------------------------------------------------------------------


def test_every_unusable_row_is_listed_with_its_reason_and_counted(tmp_path: Path) -> None:
    bad = {
        "truncated": (encoded(picture(1, 64))[:900], 0, "truncated or damaged: "),
        "html": (b"<html></html>", 0, "not an image that Pillow can read (13 bytes)"),
        "empty": (b"", 0, "empty: 0 bytes"),
        "missing": (None, 0, "no image bytes in column image (have nothing)"),
        "high": (png(2), 3.0, "label outside the range: 3, need 0..2"),
        "negative": (png(3), -2.0, "label outside the range: -2, need 0..2"),
        "half": (png(4), 0.5, "label is not a whole number: 0.5"),
        "huge": (png(5), 1e300, "label outside the range: 1e+300, need 64 bits or fewer"),
    }
    images = [*(image for image, *_ in bad.values()), png(6), png(7), png(8), png(9), png(9)]
    labels = [*(label for _, label, _ in bad.values()), 0.0, 2.0, float("nan"), 1.0, 1.0]
    # "empty" comes again, readable: only the first usable row of a key counts; "twice" again in another shard.
    keys = [*bad, "good", "twice", "empty", "twice", None]
    file = write_parquet(tmp_path / "a.parquet", image=images, label=labels, id=keys)
    made = ingest(settings({"uri": str(file), "key_column": "id"}, classes=3, max_reject_fraction=0.8), tmp_path / "p")
    assert rows(made).keys() == {0, 1, 2}
    assert [(key, image, label) for key, image, label, _ in rows(made).values()] == [
        ("good", png(6), 0),
        ("twice", png(7), 2),
        ("empty", png(8), None),
    ]
    have = sorted((r.key, r.reason) for r in read_rejects(made.location))
    expected = [(key, reason) for key, (_, _, reason) in bad.items()]
    expected += [("twice", "duplicate key"), ("a.parquet:12", "no key in column id")]
    assert [key for key, _ in have] == sorted(key for key, _ in expected)
    for (_, reason), (_, wanted) in zip(have, sorted(expected), strict=True):
        assert reason.startswith(wanted)
    assert made.manifest.summary["rejected"] == 10
    assert made.manifest.summary["reject_reasons"] == {
        "label outside the range": 3,
        "truncated or damaged": 1,
        "not an image that Pillow can read": 1,
        "empty": 1,
        "no image bytes in column image": 1,
        "label is not a whole number": 1,
        "duplicate key": 1,
        "no key in column id": 1,
    }


def test_a_source_given_twice_keeps_its_first_rows(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", {f"{i}.png": png(i) for i in range(4)})
    made = ingest(settings(source, source, shard_rows=3), tmp_path / "pool")
    assert [image for _, image, *_ in rows(made).values()] == [png(i) for i in range(4)]
    assert set(reasons(made).values()) == {"duplicate key"}
    assert made.manifest.summary["rejected"] == 4


def test_unverified_images_stay_in_the_pool(folder: Path, tmp_path: Path) -> None:
    made = ingest(settings(folder, verify=False), tmp_path / "pool")
    assert len(made) == 14
    assert read_rejects(made.location) == []
    broken = []
    for key, image, *_ in rows(made).values():
        try:
            verify_image(image)
        except ImageError:
            broken.append(key)
    assert broken == ["cat/03.png", "emu/08.png"]


def test_too_many_rejects_end_the_job_and_it_continues_when_the_limit_is_raised(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    with pytest.raises(InputError) as caught:
        ingest(settings(folder, max_reject_fraction=0.14), out)
    assert caught.value.exit_code == 3
    assert "2 of 14 rows were rejected, more than max_reject_fraction 0.14" in caught.value.cause
    for expected in ("1 x truncated or damaged (key cat/03.png", "1 x not an image that Pillow can read (key emu/08"):
        assert expected in caught.value.cause
    with pytest.raises(InputError, match="no finished pool"):
        Pool.open(str(out))
    assert len(ingest(settings(folder, max_reject_fraction=0.15), out)) == 12  # as the remedy says


def test_a_source_without_one_usable_image_says_why(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", {f"{i}.png": b"text" for i in range(3)})
    with pytest.raises(InputError, match=r"none of 3 entries could be used: 3 x not an image .*key 0\.png") as caught:
        ingest(settings(source, max_reject_fraction=1), tmp_path / "pool")
    assert caught.value.exit_code == 3


def test_empty_and_missing_sources_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, cause in (("empty", "no images in"), ("none", "does not exist")):
        with pytest.raises(InputError, match=cause) as caught:
            ingest(settings(tmp_path / source), tmp_path / f"pool_{source}")
        assert caught.value.exit_code == 3
    no_rows = write_parquet(tmp_path / "a.parquet", image=[], label=[])
    with pytest.raises(InputError, match="the sources hold no rows"):
        ingest(settings(no_rows), tmp_path / "pool_rows")


def test_image_folders_of_other_classes_and_an_all_test_pool_are_refused(tmp_path: Path) -> None:
    first = write_images(tmp_path / "a", {"cat/1.png": png(0), "dog/1.png": png(1)})
    second = write_images(tmp_path / "b", {"Cat/1.png": png(2)})
    with pytest.raises(InputError, match=r"\['Cat'\] are not among \['cat', 'dog'\]"):
        ingest(settings(first, second), tmp_path / "pool")
    with pytest.raises(InputError, match="all 2 rows are held out") as caught:
        ingest(settings({"uri": str(first), "split": "test"}), tmp_path / "test_pool")
    assert "test_fraction" in caught.value.remedy


# -- doing it again --------------------------------------------------------------------------------------------------


def test_a_finished_pool_is_returned_untouched_and_other_settings_are_refused(pool: Pool, folder: Path) -> None:
    place = Path(pool.location.path)
    before = snapshot(place)
    again = ingest(settings(folder, compute={"reader_cpus": 1.0}), place)
    assert again.manifest == pool.manifest
    for other in ({"seed": 1}, {"test_fraction": 0.5}, {"shard_rows": 6}, {"classes": 3}, {"verify": False}):
        name, value = next(iter(other.items()))
        with pytest.raises(UsageError, match=f"{name}: there .*, asked for {value}") as caught:
            ingest(settings(folder, **other), place)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="sources: there"):
        ingest(settings(folder / "cat"), place)
    assert snapshot(place) == before


def interrupted(pool: Path, *lost: str) -> None:
    """Leaves what a killed job leaves: some data files and no manifest."""
    for name in ("manifest.json", *lost):
        (pool / name).unlink()


def test_an_interrupted_ingest_makes_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    first = ingest(settings(folder), place).manifest
    before = snapshot(place)
    lost = "rows-000001.parquet"
    interrupted(place, lost)
    second = ingest(settings(folder), place).manifest
    assert second.identity == first.identity
    assert (second.files, second.rows) == (first.files, first.rows)
    after = snapshot(place)
    for name in ("rows-000000.parquet", "rows-000002.parquet"):
        assert after[str(place / name)] == before[str(place / name)]
    again = after[str(place / lost)]
    assert again[1] == before[str(place / lost)][1]
    assert again[0] > before[str(place / lost)][0]


def test_a_source_that_changed_before_it_was_continued_gives_the_pool_of_the_new_source(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", {f"{i:02d}.png": png(i) for i in range(10)})
    place = tmp_path / "pool"
    ingest(settings(source), place)
    interrupted(place, "rows-000001.parquet")
    (source / "02.png").write_bytes(b"damaged")  # one row fewer in the first shard, which is already written
    continued = ingest(settings(source), place)
    fresh = ingest(settings(source), tmp_path / "fresh")
    assert rows(continued) == rows(fresh)
    assert continued.row_ids().tolist() == list(range(9))


def test_an_output_that_cannot_be_written_is_found_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    os.utime(tmp_path / "file", ns=(1, 1))
    # The source is missing too: the output is looked at first.
    for source in (folder, folder / "none"):
        with pytest.raises(UsageError, match=f"cannot write to {tmp_path}/file/pool") as caught:
            ingest(settings(source), tmp_path / "file" / "pool")
        assert caught.value.exit_code == 2
    assert snapshot(tmp_path) == {str(tmp_path / "file"): (1, b"in the way")}


def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown key shards"):
        ingest({"sources": ["x"], "shards": 3}, tmp_path / "pool")
    with pytest.raises(UsageError, match="sources"):
        ingest({"sources": []}, tmp_path / "pool")
    assert list(tmp_path.iterdir()) == []


def test_the_sample_is_ingested_like_any_folder(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    made = ingest({"sources": "sample:digits", "shard_rows": 600}, tmp_path / "pool")
    assert (len(made), made.classes) == (1797, 10)
    assert np.bincount(made.labels()).tolist() == np.bincount(load_digits().target).tolist()
    row = made.read(np.array([200]), ["key", "image"]).to_pylist()[0]
    index = int(Path(row["key"]).stem)
    pixels = np.asarray(Image.open(io.BytesIO(row["image"])))
    assert np.array_equal(pixels, (load_digits().images[index] * 255 / 16).round())
    assert made.manifest.config["sources"][0]["uri"] == "sample:digits"  # not where it was written out


def test_a_relative_source_is_the_folder_of_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run elsewhere (their working directory is that of the first session), and later runs may, too."""
    for name, first in (("here", 0), ("there", 100)):
        write_images(tmp_path / name / "images", {f"{name}-{i}.png": png(first + i) for i in range(4)})
    (tmp_path / "there" / "below").mkdir()
    keys = {}
    for name, source in (("here", "images"), ("there", "images"), ("there/below", "../images")):
        monkeypatch.chdir(tmp_path / name)
        made = ingest(settings({"uri": source}), "pool")
        keys[name] = [row[0] for row in rows(made).values()]
        assert made.manifest.config["sources"][0]["uri"] == str(tmp_path / name.split("/")[0] / "images")
    assert keys["here"] == [f"here-{i}.png" for i in range(4)]
    assert keys["there"] == keys["there/below"] == [f"there-{i}.png" for i in range(4)]
    # The same words from another folder mean other images, which is said; the same place by other words is the same.
    with pytest.raises(UsageError, match="other settings"):
        ingest(settings({"uri": "../images"}), str(tmp_path / "here" / "pool"))
    monkeypatch.chdir(tmp_path)
    for same in ("here/images", "./here/../here/images/", (tmp_path / "here" / "images").as_uri()):
        assert len(ingest(settings({"uri": same}), "here/pool")) == 4
        assert len(ingest(settings({"uri": same}), "here/pool", append=True)) == 4, "it is in the pool already"


def test_sources_of_former_pools_stay_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", {f"{i}.png": png(i) for i in range(4)})
    monkeypatch.setattr("coevo_ray.pipelines.ingest.append.placed", lambda source, known: source)  # as 0.1.0 did
    before = ingest(settings({"uri": "images"}), "pool").manifest
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert before.config["sources"][0]["uri"] == "images"
    assert ingest(settings({"uri": "images"}), "pool").manifest.identity == before.identity
