"""Meaning of the folders of a source: splits, classes, columns, numbered shards, or nothing (docs/design.md#folders).

A layout is read from names alone. Where names allow two readings, it is refused with the options to choose by.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from coevo_ray.errors import UsageError

Split = Literal["train", "test"]
# The Hub's words for splits, and what torchvision, Keras and unpacked archives use.
SPLIT_WORDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_UNLABELLED = {"unlabeled", "unlabelled", "unsup"}
_SEPARATORS = re.compile(r"[-._ 0-9]+")
# Words beside that of a split (`train_images`), and names of a folder that holds everything.
_GENERIC = {"image", "images", "img", "imgs", "jpeg", "jpegs", "jpegimages", "jpg", "png", "pngs", "photo", "photos"}
_GENERIC |= {"pic", "pics", "picture", "pictures", "data", "dataset", "set", "split", "files", "raw", "all", "samples"}
_HEX = re.compile(r"[0-9a-f]+")
_SHARD_DIGITS = 4  # from this width on, zero-padded numbers are shards and not classes
_HEX_FOLDERS = 8  # from this number on, hexadecimal names of one width are a hash and not classes
_OPTIONS = (
    "say what they are with --folders (folders in a file): classes, splits (classes are below them) or none; "
    "or give each split's folder as a source of its own with split: train or test"
)


def split_word(name: str) -> str | None:
    """The split that a folder is named after: train, validation or test; None for other names.

    `train2017`, `val_images` and `split=test` are such names; `test drive` is not.
    """
    key, _, value = name.rpartition("=")
    if key.lower() not in ("", "split"):
        return None
    words = {word for word in _SEPARATORS.split(value.lower()) if word} - _GENERIC
    found = [split for split, names in SPLIT_WORDS.items() if words & set(names)]
    return found[0] if len(found) == 1 and len(words) == 1 else None


@lru_cache(maxsize=4096)
def stands_for_split(name: str) -> bool:
    """Tests whether a top folder of this name may hold rows of one split."""
    return name.lower() in _UNLABELLED or split_word(name) is not None


@lru_cache(maxsize=4096)
def split_folder(folder: str) -> str:
    """The part of a folder's path that may stand for a split: `images/train` of `images/train/cat`; empty without one.

    Folders above it hold everything (`images`, `data`).
    """
    parts = folder.split("/")
    for i, part in enumerate(parts):
        if stands_for_split(part):
            return "/".join(parts[: i + 1])
        if part.lower() not in _GENERIC:
            break
    return ""


def split_of(word: str | None, words: Collection[str | None]) -> Split | None:
    """The pool's split for a split's word.

    Args:
        word: as `split_word` gives it.
        words: those of the whole source: validation rows are held out unless there is a test split.
    """
    if word == "validation":
        return "train" if "test" in words else "test"
    return "test" if word == "test" else "train" if word == "train" else None


@dataclass
class Folders:
    """Names of folders that hold files of one format, as far down as a layout looks; filled file by file, in order.

    Attributes:
        paths: paths of folders, as tuples of names: each first folder, and those below folders that stand for splits,
            for everything, or for values of a column.
        inside: of the first folder of any other kind, the folders right below it (a few).
        loose: whether that folder also holds files itself.
    """

    paths: set[tuple[str, ...]] = field(default_factory=set)
    inside: set[str] = field(default_factory=set)
    loose: bool = False
    _first: tuple[str, ...] | None = None
    _last: str = ""

    def add(self, name: str) -> None:
        """Takes a file's name, relative to the source."""
        folder, slash, _ = name.rpartition("/")
        if not slash or folder == self._last:
            return
        self._last = folder
        parts = tuple(folder.split("/"))
        depth = 1
        while depth < len(parts) and _passes(parts[depth - 1]):
            depth += 1
        self.paths.update(parts[:end] for end in range(1, depth + 1))
        if _passes(parts[depth - 1]):
            return
        self._first = self._first or parts[:depth]
        if parts[:depth] == self._first:
            self.loose |= len(parts) == depth
            if len(parts) > depth and len(self.inside) < 3:
                self.inside.add(parts[depth])


@dataclass(frozen=True)
class FolderLayout:
    """Meaning of a source's folders.

    Attributes:
        splits: folder -> its split, None for rows that may be assigned freely; empty where folders are no splits.
        split_part: position in a file's path of the folder that is its split.
        class_part: position in a file's path of the folder that is its class; -1 where no folder is.
        classes: names of classes, sorted; in NFC, so that both Unicode forms of a name are one class.
        said: what people should know of it, in words.
    """

    splits: dict[str, Split | None] = field(default_factory=dict)
    class_part: int = -1
    classes: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    split_part: int = 0

    def split(self, name: str) -> Split | None:
        """The split of a file, by its name relative to the source; None where it may be assigned freely."""
        parts = name.split("/")
        return self.splits.get(parts[self.split_part]) if self.split_part < len(parts) - 1 else None


def class_of(name: str, class_part: int, classes: Collection[str] = ()) -> str | None:
    """The class of a file.

    Args:
        name: of the file, relative to the source.
        class_part: as in `FolderLayout`.
        classes: as in `FolderLayout`; a folder such as `unsup` holds rows without a label unless it is among them.

    Returns:
        The class's name, or None without one.
    """
    parts = name.split("/")
    found = class_name_of(parts[class_part]) if 0 <= class_part < len(parts) - 1 else None
    return None if found is not None and found.lower() in _UNLABELLED and found not in classes else found


def class_name_of(folder: str) -> str:
    """The name of a class, by its folder: `label=cat` is `cat`; NFC, without spaces at its ends, as labels are read."""
    return unicodedata.normalize("NFC", (folder.rpartition("=")[2] or folder).strip() or folder)


def read_layout(folders: Folders, where: str, mode: str = "auto", label: str | None = "label") -> FolderLayout:
    """Reads the meaning of a source's folders from their names.

    Args:
        folders: of a source.
        where: the source, for messages.
        mode: `auto`; or what the user says: `classes` (the top folders), `splits` (the top folders, classes below
            them), `none`.
        label: the column that holds labels, for folders such as `label=cat`; None where labels are not wanted.

    Raises:
        UsageError: names allow two readings, or a folder is no split although they were said to be.
    """
    if mode == "none":
        return FolderLayout()
    if mode == "classes":
        return _with_classes(FolderLayout(class_part=0), _level(folders, 0), label)
    above = _below_everything(folders, 0, alone=True)
    if not any(split_word(name) for name in _level(folders, above)):
        above = 0
    splits, said = _splits(folders, above, where, required=mode == "splits")
    depth = _below_everything(folders, above + 1, alone=False) if splits else _below_everything(folders, 0, alone=True)
    layout = FolderLayout(splits, said=said, split_part=above)
    names = _level(folders, depth)
    if label is None or not names:
        return layout
    meaning, why = _meaning(names, folders, label)
    if meaning == "ambiguous":
        raise UsageError(f"{where}: {why}", _OPTIONS)
    if meaning == "none":
        return replace(layout, said=(*said, *([why] if why else [])))
    labelled, why_others = _labelled(names)
    return _with_classes(replace(layout, class_part=depth, said=(*said, *why_others)), labelled, label)


def _below_everything(folders: Folders, depth: int, alone: bool) -> int:
    """The depth below folders that hold everything: `images`, `data`.

    Args:
        folders: of a source.
        depth: to begin at.
        alone: pass a level only if it has one folder; else also one whose folders are all of this kind.
    """
    names = _level(folders, depth)
    while names and all(name.lower() in _GENERIC for name in names) and (not alone or len(names) == 1):
        depth += 1
        names = _level(folders, depth)
    return depth


def _splits(
    folders: Folders, depth: int, where: str, required: bool
) -> tuple[dict[str, Split | None], tuple[str, ...]]:
    """Folder -> its split, of those at a depth, and what is said of it; empty where they are none."""
    tops = sorted(_level(folders, depth))
    words = {top: split_word(top) for top in tops}
    others = [top for top in tops if words[top] is None and top.lower() not in _UNLABELLED]
    if not any(words.values()):
        if required:
            raise UsageError(f"{where} has no folder of a split: {tops[:8]}", "name them train, val and test")
        return {}, ()
    if others:
        have = sorted(top for top in tops if words[top])
        raise UsageError(f"{where}: folders {have[:4]} are splits, or classes like {others[:4]}", _OPTIONS)
    splits = {top: split_of(word, set(words.values())) if word else "train" for top, word in words.items()}
    told = ", ".join(f"{top}: {split}" for top, split in splits.items())
    return splits, (f"splits by folders ({told})",)


def _meaning(names: Collection[str], folders: Folders, label: str) -> tuple[str, str]:
    """Classifies folders of one level: classes, none (and why), or ambiguous (and between what)."""
    shown = _shown(names)
    keys = {name.partition("=")[0] if "=" in name else "" for name in names}
    if "" not in keys:
        return ("classes", "") if keys == {label} else ("none", f"folders {shown} are columns, not classes")
    widths = {len(name) for name in names}
    if all(name.isdecimal() for name in names):
        return _numbers(sorted(names), widths, shown)
    if len(names) >= _HEX_FOLDERS and len(widths) == 1 and all(_HEX.fullmatch(name) for name in names):
        return "none", f"folders {shown} are parts of a hash, not classes (--folders classes makes each a class)"
    if folders.inside and not folders.loose and all(split_word(name) for name in folders.inside):
        inside = _shown(folders.inside)
        return "ambiguous", f"folder {shown} is a class, or holds the splits {inside} (then give it as the source)"
    if len(names) == 1 and len(folders.inside) > 1 and not folders.loose and not _alike(folders.inside):
        return "ambiguous", f"folder {shown} is one class, or holds the classes {_shown(folders.inside)}, ..."
    return "classes", ""


def _numbers(names: Sequence[str], widths: Collection[int], shown: str) -> tuple[str, str]:
    width = max(widths)
    padded = len(widths) == 1 and width > 1 and any(name.startswith("0") for name in names)
    if padded and width >= _SHARD_DIGITS:
        return "none", f"folders {shown} are numbered shards, not classes (--folders classes makes each a class)"
    if padded:
        return "ambiguous", f"folders {shown} are classes, or numbered shards"
    if len(widths) == 1 and width == 4 and all("1900" <= name < "2100" for name in names):
        return "ambiguous", f"folders {shown} are classes, or years"
    return "classes", ""


def _with_classes(layout: FolderLayout, names: Collection[str], label: str | None) -> FolderLayout:
    if label is None:
        return replace(layout, class_part=-1)
    classes = tuple(sorted({class_name_of(name) for name in names}))
    return replace(layout, class_part=layout.class_part if classes else -1, classes=classes)


def _labelled(names: Collection[str]) -> tuple[Collection[str], tuple[str, ...]]:
    """Folders that are classes, without one of rows that have no label (`train/unsup`), and what is said of that."""
    others = [name for name in names if name.lower() in _UNLABELLED]
    if not others or len(names) - len(others) < 2:
        return names, ()
    return {*names} - {*others}, (f"rows of {_shown(others)} have no label",)


def _level(folders: Folders, depth: int) -> set[str]:
    return {path[depth] for path in folders.paths if len(path) > depth}


def _passes(name: str) -> bool:
    """Tests whether the folders below one of this name may be classes."""
    return bool(split_word(name)) or name.lower() in _GENERIC or name.lower() in _UNLABELLED or "=" in name


def _alike(names: Collection[str]) -> bool:
    """Tests whether folders inside a class are of a kind that says nothing, as ImageNet's `images`."""
    return all(name.lower() in _GENERIC or name.isdecimal() for name in names)


def _shown(names: Collection[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered) if len(ordered) <= 3 else f"{ordered[0]} to {ordered[-1]} ({len(ordered)})"


def path_columns(name: str) -> Iterator[tuple[str, str]]:
    """Yields (key, value) of the folders `key=value` in a file's path, as Hive and Spark write them."""
    for part in name.split("/")[:-1]:
        key, equals, value = part.partition("=")
        if equals and key:
            yield key, value
