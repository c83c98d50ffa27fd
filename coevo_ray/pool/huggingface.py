"""Features and splits of a Hugging Face dataset, from the metadata and names of its Parquet files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from coevo_ray.pool.folder_layout import SPLIT_WORDS, Split, split_of

_KEY = b"huggingface"
_SEPARATORS = re.compile(r"[-._ 0-9/]+")


@dataclass(frozen=True)
class HubFeatures:
    """Features of a dataset that a pool uses.

    Attributes:
        kinds: column -> its feature type, such as Image or Value.
        classes: columns of type ClassLabel with their names, in the order of their numbers.
    """

    kinds: dict[str, str]
    classes: dict[str, tuple[str, ...]]

    def columns(self, kind: str) -> list[str]:
        """The columns of a feature type."""
        return [name for name, have in self.kinds.items() if have == kind]


def hub_features(metadata: dict[bytes, bytes] | None) -> HubFeatures | None:
    """Reads the key `huggingface` of a Parquet schema's metadata; None without it."""
    try:
        content = json.loads((metadata or {})[_KEY])
        features: dict[str, Any] = content["info"]["features"]
        kinds = {name: str(f.get("_type")) for name, f in features.items() if isinstance(f, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    classes = {name: tuple(features[name].get("names") or ()) for name, kind in kinds.items() if kind == "ClassLabel"}
    return HubFeatures(kinds, classes)


def hub_splits(files: list[str]) -> dict[str, Split | None]:
    """Returns the split of each file by its name, None if the name has none.

    Validation files are held out if there is no test split; otherwise they count as training data.
    """
    named = {name: _split(name) for name in files}
    words = set(named.values())
    return {name: split_of(word, words) for name, word in named.items()}


def _split(path: str) -> str | None:
    """The Hub's rule: a word of a split between separators, in the folder's name first, then in the file's."""
    folder, _, name = path.rpartition("/")
    for part in (folder, name):
        words = set(_SEPARATORS.split(part.lower()))
        for split, keywords in SPLIT_WORDS.items():
            if words.intersection(keywords):
                return split
    return None
