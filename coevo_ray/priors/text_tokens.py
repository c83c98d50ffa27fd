"""Tokens of texts by a tokenizer of the `tokenizers` library, cut or in windows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from coevo_ray.core.arrays import Int32Array
from coevo_ray.priors.inputs import PAD, Tokens

WINDOWS = 16  # most windows of a text
# A text is cut before it is tokenized to so many characters a token: the longest texts cost no more than others.
_CHARACTERS = 64
_KEPT = 8  # tokenizers in a process


class _Encoding(Protocol):
    """One window of a text."""

    ids: list[int]
    overflowing: list[_Encoding]


class _Tokenizer(Protocol):
    """The methods of the library's tokenizers that are used."""

    def enable_truncation(self, max_length: int) -> None: ...
    def no_padding(self) -> None: ...
    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[_Encoding]: ...


@dataclass(frozen=True)
class TextTokens:
    """A tokenizer and what it does with long texts; it pickles, and reads its vocabulary on first use.

    Attributes:
        vocabulary: the tokenizer, as the library writes it in JSON.
        context: most tokens of a window, special ones among them.
        windows: most windows of a text; of a longer one the rest is left out.
        special: whether the tokenizer's special tokens are put around each window.
        prefix: put before each text.
        dropped: tokens that are left out after a text is cut, such as the unknown one.
        characters: most characters of a text; 0 for as many as the windows can hold at 64 a token.
    """

    vocabulary: str
    context: int
    windows: int = 1
    special: bool = True
    prefix: str = ""
    dropped: tuple[int, ...] = ()
    characters: int = 0

    def __call__(self, texts: list[str]) -> Tokens:
        """Tokens int32[b, w, l] of b texts, as wide as these need."""
        most = self.characters or _CHARACTERS * self.context * self.windows
        shortened = [self.prefix + text[:most] for text in texts]
        encodings = _tokenizer(self.vocabulary, self.context).encode_batch_fast(
            shortened, add_special_tokens=self.special
        )
        windows = [list(self._windows(encoding)) for encoding in encodings]
        cut = [
            len(text) > most or len(encoding.overflowing) >= self.windows
            for text, encoding in zip(texts, encodings, strict=True)
        ]
        return Tokens(_padded(windows), np.array(cut, dtype=bool))

    def _windows(self, encoding: _Encoding) -> Iterator[list[int]]:
        for window in [encoding, *encoding.overflowing][: self.windows]:
            ids = [i for i in window.ids if i not in self.dropped] if self.dropped else window.ids
            if ids:
                yield ids


def _padded(texts: list[list[list[int]]]) -> Int32Array:
    """int32[b, w, l] of b texts' windows."""
    widest = max((len(window) for windows in texts for window in windows), default=0)
    padded = np.full((len(texts), max(1, *map(len, texts), 1), widest), PAD, dtype=np.int32)
    for row, windows in enumerate(texts):
        for place, window in enumerate(windows):
            padded[row, place, : len(window)] = window
    return padded


@lru_cache(_KEPT)
def _tokenizer(vocabulary: str, context: int) -> _Tokenizer:
    # Ray runs a reading task for every core or two: threads of each would slow one another down.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    made = cast(_Tokenizer, import_module("tokenizers").Tokenizer.from_str(vocabulary))
    made.no_padding()
    made.enable_truncation(context)
    return made
