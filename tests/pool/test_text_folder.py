"""Folders of text files: labels and splits from folders, texts as they are, rejects with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coevo_ray.config import Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Entry
from coevo_ray.pool.guess import guess_columns
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.sources import list_source, read_keys, read_shard
from tests.command_line import Command
from tests.pool.pictures import png


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def entries(folder: Path, **settings: Any) -> list[tuple[Entry, str | None, str | None]]:
    """Entries with their split and the name of their class."""
    source = Source(uri=str(folder), **(settings or {"format": "texts"}))
    shards = list_source(source, 2).shards
    found = [(entry, shard.split, shard.classes) for shard in shards for entry in read_shard(shard)]
    assert [entry.key for entry, *_ in found] == [key for shard in shards for key in read_keys(shard)]
    return [(entry, split, None if entry.label is None else names[entry.label]) for entry, split, names in found]


def test_folders_are_classes_and_files_are_texts(tmp_path: Path) -> None:
    write(tmp_path, {"net/a.txt": "Grüße\n".encode(), "net/b.TXT": b"\xef\xbb\xbfof Windows", "oil/c": b"mail"})
    for settings in ({"format": "texts"}, {"text_column": "txt"}, {"format": "texts", "text_column": "txt"}):
        found = entries(tmp_path, **settings)
        assert [(e.key, e.sample, name) for e, _, name in found] == [
            ("net/a.txt", "Grüße\n", "net"),
            ("net/b.TXT", "of Windows", "net"),
            ("oil/c", "mail", "oil"),
        ]


def test_the_layout_of_the_film_reviews_that_everyone_has(tmp_path: Path) -> None:
    """Splits above classes, texts without a label beside these, and notes above all."""
    names = ["train/neg/0_3.txt", "train/pos/0_9.txt", "train/unsup/0_0.txt", "test/neg/0_2.txt", "test/pos/0_8.txt"]
    write(tmp_path, {name: name.encode() for name in [*names, "README", "README.txt", "imdb.vocab"]})
    found = {entry.key: (split, name) for entry, split, name in entries(tmp_path)}
    assert found == {
        "train/neg/0_3.txt": ("train", "neg"),
        "train/pos/0_9.txt": ("train", "pos"),
        "train/unsup/0_0.txt": ("train", None),
        "test/neg/0_2.txt": ("test", "neg"),
        "test/pos/0_8.txt": ("test", "pos"),
    }
    listed = list_source(Source(uri=str(tmp_path), format="texts"), 10)
    assert "rows of unsup have no label" in listed.said
    assert any("1 x .vocab" in line for line in listed.said)


def test_texts_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
    write(tmp_path, {"a/1.txt": b" \n", "a/2.txt": b"caf\xe9", "a/3": b"", "a/4.txt": pointer, "a/5.txt": b"\0 is one"})
    assert [(entry.key, entry.error) for entry, *_ in entries(tmp_path)] == [
        ("a/1.txt", "empty text in .txt"),
        ("a/2.txt", "text that is not UTF-8 in .txt"),
        ("a/3", "empty text in a file without an ending"),
        ("a/4.txt", "Git LFS pointer (130 bytes)"),
        ("a/5.txt", ""),
    ]


def test_tables_and_images_come_before_notes_on_them(tmp_path: Path) -> None:
    """A text file beside data of another kind does not make a source one of texts."""
    write(tmp_path / "csv", {"a.csv": b"text,label\none,x\n", "b.txt": b"a note", "LIESMICH": b"a note"})
    (shard,) = list_source(Source(uri=str(tmp_path / "csv"), text_column="text"), 10).shards
    assert shard.reading.format == "csv"
    write(tmp_path / "images", {"cat/0.png": png(0), "cat/note.txt": b"a note"})
    (shard,) = list_source(Source(uri=str(tmp_path / "images")), 10).shards
    assert (shard.reading.format, shard.rows) == ("images", 1)


def test_settings_that_do_not_fit_are_refused_with_what_does(tmp_path: Path) -> None:
    write(tmp_path, {"a/1.txt": b"one"})
    for settings, setting in (
        ({"text_column": "body"}, "text_column"),
        ({"format": "texts", "key_column": "id"}, "key_column"),
        ({"format": "texts", "feature_columns": ["v"]}, "feature_columns"),
    ):
        with pytest.raises(UsageError, match=f"{setting} is set and .* holds text files"):
            entries(tmp_path, **settings)
    with pytest.raises(InputError, match="is one text"):
        entries(tmp_path / "a" / "1.txt", format="texts")
    with pytest.raises(InputError, match=r"it has 1 x \.txt") as refused:
        list_source(Source(uri=str(tmp_path)), 10)
    assert "--format texts" in refused.value.remedy
    write(tmp_path / "pdf", {"1.pdf": b"%PDF"})
    with pytest.raises(InputError, match=r"no texts in .* 1 x \.pdf") as refused:
        entries(tmp_path / "pdf")
    assert "NAME.txt" in refused.value.remedy


def test_start_sees_a_folder_of_texts_by_itself(tmp_path: Path) -> None:
    write(tmp_path / "txt", {"net/a.txt": b"one", "oil/b.txt": b"two"})
    write(tmp_path / "bare", {"net/49960": b"From: a", "oil/49961": b"From: b"})
    write(tmp_path / "crawled", {"cat/0": png(0), "dog/1": png(1)})
    assert guess_columns(str(tmp_path / "txt"), {}) == {"format": "texts"}
    assert guess_columns(str(tmp_path / "bare"), {}) == {"format": "texts"}
    assert guess_columns(str(tmp_path / "crawled"), {}) == {}
    assert guess_columns(str(tmp_path / "txt"), {"text_column": "txt"}) == {"text_column": "txt", "format": "texts"}


def test_ingest_takes_a_folder_of_texts_and_what_it_grows_by(
    tmp_path: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "letters", {f"{'ab'[i % 2]}/{i:02}.txt": f"letter {i}".encode() for i in range(20)})
    made = coevo_ray("ingest", "letters", "--format", "texts", "--shard-rows", "8", "--out", "pool", "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["rows"], told["class_names"], told["modality"]) == (20, ["a", "b"], "text")
    write(tmp_path / "letters", {"a/99.txt": b"a later letter"})
    made = coevo_ray("ingest", "letters", "--format", "texts", "--append", "--out", "pool", "--json")
    assert made.returncode == 0, made.stderr
    pool = Pool.open("pool")
    table = pool.read(pool.row_ids(), ["key", "text", "label"]).to_pydict()
    assert (len(pool), table["key"][20:], table["text"][20:]) == (21, ["a/99.txt"], ["a later letter"])
    assert table["label"] == [*[0] * 10, *[1] * 10, 0]
