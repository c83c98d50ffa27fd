"""The classes of a pool: their display to people, and parsing of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.annotators.quoting import listed, printable
from coevo_ray.annotators.spellings import Spellings, trimmed
from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError

# Spreadsheets and data frames with gaps write 3 as 3.0. More than 18 digits do not fit int64.
_WHOLE_NUMBER = r"^[0-9]{1,18}(\.0*)?$"
_SHOWN = 12


class LabelSet:
    """Class indices with their names, where they have any.

    Args:
        classes: number of classes; labels are 0..classes-1.
        names: a name for each of the first classes; the others are shown as their index. Names beyond are ignored.

    Raises:
        InputError: there is no class, or names repeat.
    """

    def __init__(self, classes: int, names: Sequence[str] = ()) -> None:
        if classes < 1:
            raise InputError(
                "no classes are known, so no label can be given or checked", "set pool.classes, or give class names"
            )
        self.classes = classes
        self.names = tuple(str(name).strip() for name in names[:classes])
        shown = self.all_shown()
        doubles = sorted(name for name, count in Counter(shown).items() if count > 1 or not name)
        if doubles:
            raise InputError(f"class names {listed(doubles)} are empty or used twice", "give each class its own name")
        self._spellings = Spellings(pa.array(shown, pa.string()))
        more = f" and {classes - _SHOWN:,} more" if classes > _SHOWN else ""
        self._told = ", ".join(map(printable, shown[:_SHOWN])) + more if self.names else f"0..{classes - 1}"
        # Where names are numbers themselves, a number in a file is a name: as an index it might mean another class.
        self.by_index = not pc.any(_is_whole(pa.array(self.names, pa.string()))).as_py()

    def shown(self, label: int) -> str:
        """A class as people see it: its name, else its index; empty for -1."""
        return "" if label < 0 else self.names[label] if label < len(self.names) else str(label)

    def all_shown(self) -> list[str]:
        """All classes as people see them, by index."""
        return [self.shown(label) for label in range(self.classes)]

    def read(self, texts: pa.Array) -> Int64Array:
        """Parses texts: a class name, or an index where no class name is a number.

        A name may be written otherwise (`Dog` for `dog`, `3.0` for `3`, see `Spellings`) where only one class can be
        meant.

        Args:
            texts: string[n].

        Returns:
            int64[n], -1 where the text names no class.
        """
        coded = texts.dictionary_encode()
        distinct = coded.dictionary
        found = self._spellings.find(distinct)
        if self.by_index:
            numbers = pc.fill_null(whole_numbers(trimmed(distinct)), -1).to_numpy(zero_copy_only=False)
            found = np.where((found < 0) & (numbers < self.classes), numbers, found)
        result: Int64Array = np.append(found, -1)[pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)]
        return result

    def __str__(self) -> str:
        return self._told


def whole_numbers(texts: pa.Array) -> pa.Array:
    """Texts -> int64, null where a text is no whole number >= 0; `3.0` is 3."""
    digits = pc.replace_substring_regex(texts, r"\.0*$", "")
    return pc.if_else(_is_whole(texts), digits, None).cast(pa.int64())


def _is_whole(texts: pa.Array) -> pa.Array:
    return pc.match_substring_regex(texts, _WHOLE_NUMBER)
