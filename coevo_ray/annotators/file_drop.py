"""An annotator by files: requests with images beside them, and answers, for spreadsheets and people's own tools.

folder/README.txt                 instructions and classes
folder/requests/round-0003.csv    rows to label; may be filled in directly
folder/images/17.png              images of the rows
folder/texts/17.txt               texts that are too long for a cell of the request file
folder/answers/anna.csv           labels; any number of files
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.annotators.answer_files import AnswerReader, stem
from coevo_ray.annotators.answer_tables import read_answer_table
from coevo_ray.annotators.base import Collected, Questions
from coevo_ray.annotators.formulas import escaped_table
from coevo_ray.annotators.label_set import LabelSet, whole_numbers
from coevo_ray.annotators.sample_files import SHOWN
from coevo_ray.annotators.settling import AnswerFile, settle
from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.modality import Sample, by_modality
from coevo_ray.pool.pool import Pool
from coevo_ray.store.csv_text import csv_text
from coevo_ray.store.location import Location

NOBODY = "file_drop"
_REQUESTS, _ANSWERS, _README = "requests", "answers", "README.txt"
# Rows read from the pool at a time, and threads that write files, each waiting for the disk or the store.
_CHUNK_ROWS, _WRITERS = 512, 16
_ROUND = re.compile(r"[-_. ]*round-\d+[-_. ]*")
_COPY = re.compile(r" *\(\d+\)$")
_NO_ROWS = np.zeros(0, dtype=np.int64)
_NOT_OURS = (".", "~")  # prefixes of lock and metadata files of office programs and file managers


class FileDrop:
    """Writes questions to a folder and reads answers from it.

    Args:
        folder: on any store.
        pool: holds the rows that are asked about.
        class_names: names of the classes; without them labels are indices.
        format: of the request files.
        images: `files` writes each image once, beside the requests; `none` writes keys only.
        classes: number of classes, where not all have names; None takes the pool's or the names'.

    Raises:
        InputError: no classes are known, or names repeat.
        UsageError: file drops do not support the pool's modality.
    """

    def __init__(
        self,
        folder: Location,
        pool: Pool,
        class_names: Sequence[str] = (),
        format: Literal["csv", "parquet"] = "csv",
        images: Literal["files", "none"] = "files",
        classes: int | None = None,
    ) -> None:
        self.folder, self.pool, self.format = folder, pool, format
        self.label_set = LabelSet(classes or max(pool.classes, len(class_names)), class_names)
        self._shown = by_modality(SHOWN, pool.modality, "the file_drop annotator")
        self._ending = self._shown.file_ending
        self.with_images = images == "files" and self._ending is not None
        self._samples = pool.samples.plural  # also the folder of their files
        self._reader = AnswerReader(pool, self.label_set)

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return str(self.folder)

    def send(self, questions: Questions) -> int:
        """Writes the request file of a round, its images first; existing files stay unchanged.

        Rows in the file of an earlier round are not requested again.

        Returns:
            Rows that were new.

        Raises:
            InputError: the round's file exists and requests rows of another gate, or a row is not in the pool.
            StoppedError: the store refused; send the questions again.
        """
        there = {location: _requested(location) for location in self._files(_REQUESTS)}
        for location, rows in there.items():
            if stem(location) == _round_name(questions.round):
                self._check_same(location, rows, questions)
                return 0
        new = np.flatnonzero(~np.isin(questions.row_ids, np.concatenate([*there.values(), _NO_ROWS])))
        if len(new) == 0:
            return 0
        self._write_readme()
        self._write_requests(questions, new)
        return len(new)

    def collect(self) -> Collected:
        """The labels in all answer files and filled-in request files.

        A record without an annotator gets the name of its file, without `round-0003`, or `file_drop` where none
        remains. Unreadable files are reported and skipped.

        Raises:
            InputError: the folder cannot be listed.
        """
        files: list[AnswerFile] = []
        problems: list[str] = []
        for location in (*self._files(_REQUESTS), *self._files(_ANSWERS)):
            try:
                files.append(self._reader.read(location, _annotator(location)))
            except InputError as error:
                problems.append(f"{error.cause}: {error.remedy}")
        collected = settle(files, self.label_set)
        return Collected(collected.answers, (*problems, *collected.problems))

    def _files(self, name: str) -> list[Location]:
        folder = self.folder.child(name)
        names = folder.files() if folder.is_folder() else []
        return [folder.child(name) for name in names if not name.startswith(_NOT_OURS)]

    def _check_same(self, location: Location, rows: Int64Array, questions: Questions) -> None:
        """Refuses a file of another gate: most of its rows are not the round's.

        Lines that a person removed or damaged do no harm: damaged ones are reported when answers are collected.
        """
        other = np.setdiff1d(rows, questions.asked)
        if 2 * len(other) > len(rows):
            raise InputError(
                f"{location} asks for {len(other)} of {len(rows)} rows that round {questions.round} does not ask for, "
                f"such as row {other[0]}",
                "it was written by another gate: give this one a folder of its own",
            )

    def _write_readme(self) -> None:
        text = _readme(self.label_set, self.format, self._place_of_samples()).encode()
        location = self.folder.child(_README)
        if not location.is_file() or location.read_bytes() != text:
            location.write_bytes(text)
        if self.folder.is_local:  # object stores have no empty folders
            self.folder.file_system.create_dir(self.folder.child(_ANSWERS).path, recursive=True)

    def _place_of_samples(self) -> str:
        name = self.pool.modality
        if self._in_table:
            cut = f" Long ones are cut there, and {self._samples}/ has them whole." if self.format == "csv" else ""
            return f"The column {name} holds what is to be labelled.{cut}"
        if self.with_images:
            return f"The column {name} names the file of each row's {name}, from this folder."
        return f"The column key says which {name} it is."

    @property
    def _in_table(self) -> bool:
        """True where samples stand in the request table itself."""
        return self._ending is None and not self._shown.by_key

    def _write_requests(self, questions: Questions, new: npt.NDArray[np.intp]) -> None:
        written = {name.rsplit(".", 1)[0] for name in self._sample_names()}
        parts = [self._part(questions, new[i : i + _CHUNK_ROWS], written) for i in range(0, len(new), _CHUNK_ROWS)]
        table = pa.concat_tables(parts)
        location = self.folder.child(_REQUESTS, f"{_round_name(questions.round)}.{self.format}")
        location.write_bytes(_csv_bytes(table) if self.format == "csv" else _parquet_bytes(table))

    def _sample_names(self) -> list[str]:
        folder = self.folder.child(self._samples)
        return folder.files() if (self.with_images or self._in_table) and folder.is_folder() else []

    def _part(self, questions: Questions, places: npt.NDArray[np.intp], written: set[str]) -> pa.Table:
        """The request lines of some questions; writes the files of their samples."""
        row_ids, name = questions.row_ids[places], self.pool.modality
        shown = self._in_table or self.with_images
        rows = self.pool.read(row_ids, ["key", *([name] if shown else [])])
        columns: dict[str, object] = {"row_id": row_ids, "key": rows.column("key")}
        if shown:
            samples = rows.column(name)
            make = self._cells if self._in_table else self._write_samples
            columns[name] = make(row_ids, samples, written)
        confidence = pa.array(questions.confidence[places], from_pandas=True)
        return pa.table(
            {
                **columns,
                "gain": questions.gains[places].astype(np.float32),
                "predicted": [self.label_set.shown(label) for label in questions.predicted[places].tolist()],
                "confidence": confidence,
                "label": pa.nulls(len(places), pa.string()),
            }
        )

    def _cells(self, row_ids: Int64Array, samples: pa.ChunkedArray, written: set[str]) -> Sequence[str]:
        """Cells of the samples in the request table; a sample that is cut there has a file, which its cell names."""
        texts: list[str] = samples.to_pylist()
        if self.format != "csv" or self._shown.cell is None:
            return texts
        cells = [self._shown.cell(text) for text in texts]
        cut = np.flatnonzero([not whole for _, whole in cells])
        paths = self._write_samples(row_ids[cut], samples.take(pa.array(cut)), written)
        path_of = dict(zip(cut.tolist(), paths, strict=True))
        return [text if whole else f"{text}\n[whole in {path_of[i]}]" for i, (text, whole) in enumerate(cells)]

    def _write_samples(self, row_ids: Int64Array, samples: pa.ChunkedArray, written: set[str]) -> list[str]:
        """Writes the files of samples that have none yet; returns the path of each, relative to the folder."""

        def write(row_id: int, sample: Sample) -> str:
            path = f"{self._samples}/{row_id}.{self._ending(sample) if self._ending is not None else 'txt'}"
            if str(row_id) not in written:
                self.folder.child(path).write_bytes(sample.encode() if isinstance(sample, str) else sample)
            return path

        with ThreadPoolExecutor(_WRITERS) as threads:
            return list(threads.map(write, row_ids.tolist(), samples.to_pylist()))


def _round_name(round: int) -> str:
    return f"round-{round:04d}"


def _annotator(location: Location) -> str:
    """The person that a file is named after."""
    name = _COPY.sub("", stem(location))  # browsers number repeated downloads
    return _ROUND.sub(" ", name).strip() or NOBODY


def _requested(location: Location) -> Int64Array:
    """row_ids in a request file; none where a person damaged it, which `collect` reports."""
    try:
        table = read_answer_table(location)
    except InputError:
        return _NO_ROWS
    if "row_id" not in table.columns.column_names:
        return _NO_ROWS
    numbers = whole_numbers(table.columns.column("row_id").combine_chunks()).drop_null()
    rows: Int64Array = numbers.to_numpy(zero_copy_only=False).astype(np.int64)
    return rows


def _csv_bytes(table: pa.Table) -> bytes:
    text = csv_text(chain([table.column_names], _lines(escaped_table(table))))
    # Without a byte order mark spreadsheets misread UTF-8 and damage the keys that they write back.
    return text.encode("utf-8" if text.isascii() else "utf-8-sig")


def _lines(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(max_chunksize=_CHUNK_ROWS):
        columns = [_rounded(column) for column in batch.columns]
        yield from zip(*columns, strict=True)


def _rounded(column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    return [None if v is None else f"{v:.4f}" for v in values] if pa.types.is_floating(column.type) else values


def _parquet_bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _readme(label_set: LabelSet, format: str, where: str) -> str:
    names = "\n".join(
        f"  {label}  {name}" if name != str(label) else f"  {name}" for label, name in enumerate(label_set.all_shown())
    )
    return f"""Labels are wanted.

Every file in requests/ lists rows that need a label. {where}
The column predicted is what a model believes, and confidence how surely; do not trust it.

Write the class of each row into the column label and save the file, either where it is or as a file of your own in
answers/, such as answers/anna.{format}. Leave label empty where you do not know.

A file in answers/ is CSV (UTF-8) or Parquet with the columns row_id (or key) and label, and perhaps annotator. Without
it, the labels are by whom the file is named after: answers/anna-round-0003.csv is by anna.
Leave row_id and key as they are. An apostrophe before = + - or @ keeps spreadsheets from running a text as a formula;
it is taken away again. Lines that cannot be taken are reported with their number, and the others are taken.

Classes{" (the name, or the number before it)" if label_set.by_index and label_set.names else ""}:
{names}
"""
