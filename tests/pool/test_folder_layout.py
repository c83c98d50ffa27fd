from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.errors import UsageError
from coevo_ray.pool.folder_layout import FolderLayout, Folders, class_of, path_columns, read_layout, split_word


def layout(*names: str, mode: str = "auto", label: str | None = "label") -> FolderLayout:
    folders = Folders()
    for name in sorted(names):
        folders.add(name)
    return read_layout(folders, "SOURCE", mode, label)


def meaning(*names: str, mode: str = "auto", label: str | None = "label") -> dict[str, tuple[str | None, str | None]]:
    """File -> its split and its class."""
    read = layout(*names, mode=mode, label=label)
    classes = {name: class_of(name, read.class_part, read.classes) for name in names}
    assert {c for c in classes.values() if c is not None} <= set(read.classes)
    return {name: (read.split(name), classes[name]) for name in names}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b.png"], [(None, None), (None, None)]),
        (["cat/1.png", "dog/1.png", "loose.png"], [(None, "cat"), (None, "dog"), (None, None)]),
        (["n01/images/1.JPEG", "n02/images/2.JPEG"], [(None, "n01"), (None, "n02")]),
        (["train/1.png", "test/1.png"], [("train", None), ("test", None)]),
        (["train/cat/1.png", "test/dog/1.png"], [("train", "cat"), ("test", "dog")]),
        (["train/cat/1.png", "val/cat/1.png"], [("train", "cat"), ("test", "cat")]),
        (["train/cat/1.png", "val/1.png", "test/1.png"], [("train", "cat"), ("train", None), ("test", None)]),
        (["Train2017/1.jpg", "val_images/1.jpg"], [("train", None), ("test", None)]),
        (["train/images/1.jpg", "valid/images/1.jpg"], [("train", None), ("test", None)]),
        (["train/images/cat/1.jpg", "test/images/cat/1.jpg"], [("train", "cat"), ("test", "cat")]),
        (["images/1.jpg", "images/2.jpg"], [(None, None), (None, None)]),
        (["images/cat/1.jpg", "images/dog/1.jpg"], [(None, "cat"), (None, "dog")]),
        (["train/a/1.jpg", "unlabeled/1.jpg", "test/a/1.jpg"], [("train", "a"), ("train", None), ("test", "a")]),
        (
            ["train/neg/1.txt", "train/pos/1.txt", "train/unsup/1.txt", "train/urls.txt", "test/neg/1.txt"],
            [("train", "neg"), ("train", "pos"), ("train", None), ("train", None), ("test", "neg")],
        ),
        (["cat/1.png", "unlabeled/1.png"], [(None, "cat"), (None, "unlabeled")]),
        (["0/1.png", "9/1.png", "10/1.png"], [(None, "0"), (None, "9"), (None, "10")]),
        (["00000/1.jpg", "00001/1.jpg"], [(None, None), (None, None)]),
        (["train/00000/1.jpg", "train/00001/1.jpg"], [("train", None), ("train", None)]),
        ([f"{i:02x}/1.jpg" for i in (1, 10, 27, 99, 154, 171, 204, 255)], [(None, None)] * 8),
        (["label=cat/1.png", "label=dog/1.png"], [(None, "cat"), (None, "dog")]),
        (["year=2024/1.png", "year=2025/1.png"], [(None, None), (None, None)]),
        (["split=train/label=a/1.png", "split=test/label=a/1.png"], [("train", "a"), ("test", "a")]),
        (["cafe\u0301/1.png", "caf\u00e9/2.png"], [(None, "caf\u00e9"), (None, "caf\u00e9")]),
        (["images/train/1.png", "images/val/1.png"], [("train", None), ("test", None)]),
        (["images/train2017/1.jpg", "images/1.jpg"], [("train", None), (None, None)]),
        (["data/images/train/1.png", "data/images/test/1.png"], [("train", None), ("test", None)]),
        (["dataset/train/cat/1.png", "dataset/test/cat/1.png"], [("train", "cat"), ("test", "cat")]),
        (["data/train/images/cat/1.png", "data/val/images/cat/1.png"], [("train", "cat"), ("test", "cat")]),
        (["cat /1.png", " cat/2.png", "cat/3.png", "dog/1.png"], [(None, "cat")] * 3 + [(None, "dog")]),
        (["cat/1.png"], [(None, "cat")]),
        (["n01/images/1.JPEG"], [(None, "n01")]),
    ],
)
def test_layouts_that_people_have(names: list[str], expected: list[tuple[str | None, str | None]]) -> None:
    assert list(meaning(*names).values()) == expected


@pytest.mark.parametrize(
    ("names", "between"),
    [
        (["train/1.png", "truck/1.png"], r"folders \['train'\] are splits, or classes like \['truck'\]"),
        (["00/1.png", "01/1.png"], "00, 01 are classes, or numbered shards"),
        (["2023/1.png", "2024/1.png"], "2023, 2024 are classes, or years"),
        (
            ["flowers/rose/1.png", "flowers/tulip/1.png"],
            "folder flowers is one class, or holds the classes rose, tulip",
        ),
        (["pets/train/cat/1.png", "pets/val/cat/1.png"], r"folder pets is a class, or holds the splits train, val"),
        (["pets/train/cat/1.png"], r"folder pets is a class, or holds the splits train \(then give it as the source"),
        (["jar/train/good/1.png", "nut/train/good/1.png"], "folder jar, nut is a class, or holds the splits train"),
    ],
)
def test_two_readings_are_refused_with_the_options_to_choose_by(names: list[str], between: str) -> None:
    with pytest.raises(UsageError, match=between) as caught:
        layout(*names)
    for option in ("--folders", "classes", "splits", "none", "split: train or test"):
        assert option in caught.value.remedy
    assert set(meaning(*names, mode="classes").values()) == {(None, name.split("/")[0]) for name in names}
    assert set(meaning(*names, mode="none").values()) == {(None, None)}


def test_what_the_user_says_wins() -> None:
    assert meaning("train/a/1.png", "test/a/1.png", mode="classes") == {
        "train/a/1.png": (None, "train"),
        "test/a/1.png": (None, "test"),
    }
    assert meaning("00000/1.png", mode="classes") == {"00000/1.png": (None, "00000")}
    assert meaning("train/a/1.png", "test/a/1.png", mode="none")["test/a/1.png"] == (None, None)
    with pytest.raises(UsageError, match=r"SOURCE has no folder of a split: \['cat'\]"):
        layout("cat/1.png", mode="splits")


def test_splits_below_a_folder_that_holds_everything_may_be_said() -> None:
    names = ("images/train/1.png", "images/val/1.png")
    assert meaning(*names, mode="splits") == dict(zip(names, [("train", None), ("test", None)], strict=True))
    assert meaning(*names, mode="classes") == dict.fromkeys(names, (None, "images"))


def test_without_a_label_column_folders_are_splits_at_most() -> None:
    assert meaning("train/cat/1.png", "test/cat/1.png", label=None) == {
        "train/cat/1.png": ("train", None),
        "test/cat/1.png": ("test", None),
    }
    assert meaning("cat/1.png", "dog/1.png", label=None)["cat/1.png"] == (None, None)


def test_what_folders_were_taken_for_is_said() -> None:
    assert layout("train/a/1.png", "val/a/1.png").said == ("splits by folders (train: train, val: test)",)
    (said,) = layout("00000/1.png", "00001/1.png", "00002/1.png", "00003/1.png").said
    assert said.startswith("folders 00000 to 00003 (4) are numbered shards, not classes (--folders classes")
    assert layout("cat/1.png", "dog/1.png").said == ()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *[
            (n, "train")
            for n in ("train", "TRAIN", "training", "train2017", "train_images", "split=train", "data-train")
        ],
        *[(n, "validation") for n in ("val", "valid", "validation", "dev", "val-set")],
        *[(n, "test") for n in ("test", "testing", "eval", "evaluation", "images_test")],
        *[(n, None) for n in ("trains", "test drive", "contest", "class=train", "latest", "train_test", "")],
    ],
)
def test_words_of_splits(name: str, word: str | None) -> None:
    assert split_word(name) == word


@given(st.sets(st.tuples(st.sampled_from(["cat", "dog", "ox", "bee"]), st.integers(0, 9)), min_size=1))
def test_classes_do_not_depend_on_what_lies_deeper(files: set[tuple[str, int]]) -> None:
    shallow = sorted(f"{c}/{i}.png" for c, i in files)
    deep = sorted(f"{c}/{i}/x.png" for c, i in files)
    if len({c for c, _ in files}) > 1:
        assert layout(*shallow).classes == layout(*deep).classes == tuple(sorted({c for c, _ in files}))


def test_columns_in_paths() -> None:
    assert dict(path_columns("year=2024/label=cat/part-0.parquet")) == {"year": "2024", "label": "cat"}
    assert dict(path_columns("a/=b/c=d.parquet")) == {}
