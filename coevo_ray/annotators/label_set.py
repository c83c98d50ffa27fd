"""The classes of a pool: their display to people, and parsing of labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
        doubles = sorted({name for name in shown if shown.count(name) > 1})
        if doubles or "" in shown:
            raise InputError(f"class names {doubles or ['']} are empty or used twice", "give each class its own name")
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

        A name in other letters (`Dog` for `dog`) counts where only one class can be meant.

        Args:
            texts: string[n], without spaces round them.

        Returns:
            int64[n], -1 where the text names no class.
        """
        shown = pa.array(self.all_shown(), pa.string())
        named = pc.index_in(texts, value_set=shown).cast(pa.int64())
        named = pc.coalesce(named, _index_in_any_case(texts, shown))
        if self.by_index:
            number = pc.if_else(pc.is_null(named), whole_numbers(texts), None)
            named = pc.coalesce(named, pc.if_else(pc.less(number, self.classes), number, None))
        result: Int64Array = pc.fill_null(named, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return result

    def __str__(self) -> str:
        if not self.names:
            return f"0..{self.classes - 1}"
        more = f" and {self.classes - _SHOWN} more" if self.classes > _SHOWN else ""
        return ", ".join(self.all_shown()[:_SHOWN]) + more


def _index_in_any_case(texts: pa.Array, names: pa.Array) -> pa.Array:
    """Texts -> int64 index of the only name that differs in case alone; null where there is none, or several are."""
    lowered = pc.utf8_lower(names)
    counts = pc.value_counts(lowered)
    alone = counts.field("values").filter(pc.equal(counts.field("counts"), 1))
    place = pc.index_in(alone, value_set=lowered).cast(pa.int64())
    return pc.take(place, pc.index_in(pc.utf8_lower(texts), value_set=alone))


def whole_numbers(texts: pa.Array) -> pa.Array:
    """Texts -> int64, null where a text is no whole number >= 0; `3.0` is 3."""
    digits = pc.replace_substring_regex(texts, r"\.0*$", "")
    return pc.if_else(_is_whole(texts), digits, None).cast(pa.int64())


def _is_whole(texts: pa.Array) -> pa.Array:
    return pc.match_substring_regex(texts, _WHOLE_NUMBER)
