"""Rows of NumPy's `.npy` files, and lines of texts, read by their place in the file: never the whole of it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from tokenize import TokenError

import numpy as np
from numpy.lib import format as npy

from coevo_ray.core.arrays import AnyArray
from coevo_ray.errors import InputError
from coevo_ray.store.failures import is_of_a_store, reading_failed
from coevo_ray.store.location import Location

_SHOWN = 200
# A damaged header goes through Python's tokenizer and parser.
_RAISED = (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError, RecursionError, TokenError)
_DAMAGED = "it is damaged, or no .npy file: write it again with numpy.save"


@dataclass(frozen=True)
class NpyFile:
    """An array of a `.npy` file, of which the header was read.

    Attributes:
        place: the file.
        shape: of the array.
        dtype: of its values.
        offset: position of the first value.
    """

    place: Location
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int

    @classmethod
    def open(cls, place: Location) -> NpyFile:
        """Reads the header alone.

        Raises:
            InputError: it is no such file, is cut off, holds Python objects, or is stored by columns.
        """
        with _readable(place), place.file_system.open_input_file(place.path) as file:
            version = npy.read_magic(file)  # type: ignore[no-untyped-call]  # NumPy gives it no types
            if version > (2, 0):
                raise InputError(f"{place} is of version {version} of the format", "save plain numbers or texts")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, by_columns, dtype = read(file)  # type: ignore[no-untyped-call]  # NumPy gives it no types
            offset, size = file.tell(), file.size()
        if min(shape, default=0) < 0:
            raise InputError(f"{place} says that its shape is {shape}", _DAMAGED)
        if dtype.hasobject or dtype.names is not None:
            raise InputError(
                f"{place} holds Python objects or records ({dtype}), which are not read",
                "save plain numbers or texts: numpy.save(path, array.astype(str)) for texts",
            )
        if by_columns and len(shape) > 1:
            raise InputError(
                f"{place} is stored by columns (fortran_order), so that its rows cannot be read one by one",
                "save it by rows: numpy.save(path, numpy.ascontiguousarray(array))",
            )
        need = offset + math.prod(shape) * dtype.itemsize
        if size < need:
            raise InputError(f"{place} is cut off: {size} bytes, need {need}", "copy it again")
        return cls(place, shape, dtype, offset)

    def batches(self, start: int, stop: int, rows: int) -> Iterator[AnyArray]:
        """Rows start..stop-1, at most `rows` at a time: arrays [b, *shape[1:]] of `dtype`.

        Raises:
            InputError: the file cannot be read.
        """
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _readable(self.place), self.place.file_system.open_input_file(self.place.path) as file:
            file.seek(self.offset + start * width)
            for low in range(start, stop, rows):
                count = min(rows, stop - low)
                data = file.read(count * width)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


@dataclass(frozen=True)
class LineFile:
    """A file of texts, one a line.

    Attributes:
        place: the file.
    """

    place: Location

    def starts(self, every: int) -> tuple[int, list[int]]:
        """The number of lines, and the positions in the file of lines 0, `every`, 2 `every`, ...

        Raises:
            InputError: the file cannot be read.
        """
        lines, position, found = 0, 0, list[int]()
        with self._open() as file:
            for line in file:
                if lines % every == 0:
                    found.append(position)
                lines, position = lines + 1, position + len(line)
        return lines, found

    def read(self, position: int, lines: int) -> list[bytes]:
        """Lines from a position on, without their ends.

        Raises:
            InputError: the file cannot be read, or has fewer.
        """
        with self._open() as file:
            file.seek(position)
            found = [line.rstrip(b"\r\n") for line in islice(file, lines)]
        if len(found) < lines:
            raise InputError(f"{self.place} has fewer lines than before", "run it again when it no longer changes")
        if position == 0 and found:
            found[0] = found[0].removeprefix(b"\xef\xbb\xbf")  # Windows' mark of UTF-8
        return found

    @contextmanager
    def _open(self) -> Iterator[io.BufferedReader]:
        with _readable(self.place), self.place.file_system.open_input_file(self.place.path) as file:
            yield io.BufferedReader(file)


@contextmanager
def _readable(place: Location) -> Iterator[None]:
    """Turns what a damaged file raises into an `InputError`."""
    try:
        yield
    except InputError:  # a ValueError, too
        raise
    except _RAISED as error:
        if is_of_a_store(error):
            raise reading_failed(place, error) from error
        words = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        raise InputError(f"cannot read {place}: {words}", _DAMAGED) from error
