"""Finds names as people and their programs write them: with spaces, in other Unicode forms, as 3.0, in other case."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.core.arrays import Int64Array

# Zero-width characters come with names that are copied from web pages and office programs.
_ZERO_WIDTH = "\u200b\u2060\ufeff"
_MARKS = "\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_AROUND = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + _ZERO_WIDTH + _MARKS
_HARD_SPACES = "[\u00a0\u2007\u202f]"
# Spreadsheets and data frames with gaps write 3 as 3.0. More than 18 digits do not fit int64.
_FRACTION = r"^(-?[0-9]{1,18})\.0*$"
_SLICE_ROWS = 1 << 20
_LONGEST = 32_767  # characters of a spreadsheet's cell; longer texts are compared as they are


def trimmed(texts: pa.Array) -> pa.Array:
    """Strips spaces of any kind, zero-width characters and marks of direction from both ends."""
    return pc.utf8_trim(texts, characters=_AROUND)


def folded_name(name: str) -> str:
    """A column's name for comparison: `Row ID` is `row_id`."""
    plain = unicodedata.normalize("NFKC", name).strip(_AROUND).lower()
    return "_".join(plain.replace("-", " ").split())


class Spellings:
    """Known names, and the search for texts that mean one of them.

    A text means the name that is equal to it; else the only one that is equal without surrounding spaces, then in
    Unicode's form NFC, then as a whole number without `.0`, then in lower case.

    Args:
        known: string[n] or large_string[n], without nulls.
    """

    def __init__(self, known: pa.Array) -> None:
        self.known = known

    def find(self, texts: pa.Array) -> Int64Array:
        """Looks texts up.

        Args:
            texts: strings, without nulls.

        Returns:
            int64 of the same length: index of the name; -1 where none is meant, or several can be.
        """
        texts = texts.cast(self.known.type)
        found = _places(texts, self.known)
        short = pc.less_equal(pc.utf8_length(texts), _LONGEST).to_numpy(zero_copy_only=False)
        for theirs, ours in _FORMS:
            left = np.flatnonzero((found < 0) & short)
            if not len(left):
                break
            found[left] = self._only(theirs(texts.take(pa.array(left))), ours)
        return found

    def _only(self, texts: pa.Array, form: Callable[[pa.Array], pa.Array]) -> Int64Array:
        """Index of the only name with a text's form, -1 where there is none or several. Memory: as the texts'."""
        wanted = pc.unique(texts)
        forms = [self.known.slice(0, 0)]
        places: list[Int64Array] = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(self.known), _SLICE_ROWS):
            there = form(self.known.slice(start, _SLICE_ROWS))
            hit = np.flatnonzero(pc.is_in(there, value_set=wanted).to_numpy(zero_copy_only=False))
            forms.append(there.take(pa.array(hit)))
            places.append(hit.astype(np.int64) + start)
        coded = pa.chunked_array(forms).combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy(zero_copy_only=False)
        place = np.full(len(coded.dictionary), -1, dtype=np.int64)
        place[codes] = np.concatenate(places)
        place[np.bincount(codes, minlength=len(place)) > 1] = -1
        code = _places(texts, coded.dictionary)
        return np.where(code < 0, -1, place[code]) if len(place) else code


def _places(texts: pa.Array, among: pa.Array) -> Int64Array:
    found: Int64Array = pc.fill_null(pc.index_in(texts, value_set=among), -1).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def _same(texts: pa.Array) -> pa.Array:
    return texts


def _composed(texts: pa.Array) -> pa.Array:
    plain = pc.replace_substring_regex(trimmed(texts), _HARD_SPACES, " ")
    return pc.utf8_normalize(pc.replace_substring_regex(plain, f"[{_ZERO_WIDTH}]", ""), form="NFC")


def _whole(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_composed(texts), _FRACTION, r"\1")


def _lowered(texts: pa.Array) -> pa.Array:
    return pc.utf8_lower(_whole(texts))


# Of the text and of the names, from the strictest.
_FORMS = ((trimmed, _same), (trimmed, trimmed), (_composed, _composed), (_whole, _whole), (_lowered, _lowered))
