"""What Parquet files of a Hugging Face dataset say about themselves: features in their metadata, splits in names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

_KEY = b"huggingface"
_SEPARATORS = re.compile(r"[-._ 0-9/]+")
# As the Hub documents them: a keyword between separators, in the name of a folder first, then in that of the file.
_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class HubFeatures:
    """The features that matter for a pool.

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
    """Reads the key `huggingface` of a Parquet schema's metadata; None where there is none."""
    try:
        content = json.loads((metadata or {})[_KEY])
        features: dict[str, Any] = content["info"]["features"]
        kinds = {name: str(f.get("_type")) for name, f in features.items() if isinstance(f, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    classes = {name: tuple(features[name].get("names") or ()) for name, kind in kinds.items() if kind == "ClassLabel"}
    return HubFeatures(kinds, classes)


def hub_splits(files: list[str]) -> dict[str, Literal["train", "test"] | None]:
    """The split of each file by its name, None where it names none.

    Validation is held out where there is no test split, and training data where there is one.
    """
    named = {name: _split(name) for name in files}
    has_test = "test" in named.values()
    meaning: dict[str | None, Literal["train", "test"] | None] = {
        None: None,
        "train": "train",
        "validation": "train" if has_test else "test",
        "test": "test",
    }
    return {name: meaning[split] for name, split in named.items()}


def _split(path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    for part in (folder, name):
        words = set(_SEPARATORS.split(part.lower()))
        for split, keywords in _KEYWORDS.items():
            if words.intersection(keywords):
                return split
    return None
