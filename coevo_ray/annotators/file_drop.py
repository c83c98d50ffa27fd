"""Requests as files with images beside them, answers as files: for people with a spreadsheet or their own tools.

folder/README.txt                 what to do, and the classes
folder/requests/round-0003.csv    rows to label; may be filled in where it is
folder/images/17.png              the images of the rows
folder/answers/anna.csv           labels; any number of files
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.annotators.answer_files import AnswerFile, AnswerReader, settle, stem
from coevo_ray.annotators.answer_tables import read_answer_table
from coevo_ray.annotators.base import Collected, Questions
from coevo_ray.annotators.label_set import LabelSet, whole_numbers
from coevo_ray.annotators.sample_files import file_ending
from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location

NOBODY = "file_drop"
_REQUESTS, _ANSWERS, _IMAGES, _README = "requests", "answers", "images", "README.txt"
# What is read from the pool and held at a time, and files written side by side: each waits for the disk or the store.
_CHUNK_ROWS, _WRITERS = 512, 16
_ROUND = re.compile(r"[-_. ]*round-\d+[-_. ]*")
_COPY = re.compile(r" *\(\d+\)$")
_NO_ROWS = np.zeros(0, dtype=np.int64)
_NOT_OURS = (".", "~")  # how office programs and file managers begin the names of files that they keep for themselves


class FileDrop:
    """Puts questions into a folder and takes answers from it.

    Args:
        folder: where; a path or a URI of any store.
        pool: whose rows are asked about.
        class_names: names of the classes; without them labels are indices.
        format: of the request files.
        images: `files` writes each image once, beside the requests; `none` leaves people to find it by key.
        classes: number of classes, where not all have names; None takes the pool's or the names'.

    Raises:
        InputError: no classes are known, or their names cannot be told apart.
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
        self.with_images = images == "files" and pool.modality == "image"
        self._reader = AnswerReader(pool, self.label_set)

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.folder)

    def send(self, questions: Questions) -> int:
        """Writes the request file of a round, its images first; what is there already stays as it is.

        Rows that an earlier round's file still asks for are not asked for again.

        Returns:
            Rows that were new.

        Raises:
            InputError: the round's file is there and asks for the rows of another gate, or a row is not in the pool.
            StoppedError: the store refused; send them again.
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
        """The labels in all answer files and in request files that were filled in.

        A record without an annotator is by whom its file is named after, without `round-0003`; what is left without a
        name is by `file_drop`. A file that cannot be read is reported and the others are taken.

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
        """A file most of whose rows the round never asked for is of somebody else's gate.

        Lines that a person took out or spoilt do no harm: what is spoilt is reported when answers are collected.
        """
        other = np.setdiff1d(rows, questions.asked)
        if 2 * len(other) > len(rows):
            raise InputError(
                f"{location} asks for {len(other)} of {len(rows)} rows that round {questions.round} does not ask for, "
                f"such as row {other[0]}",
                "it was written by another gate: give this one a folder of its own",
            )

    def _write_readme(self) -> None:
        text = _readme(self.label_set, self.format, self.with_images, self.pool.modality).encode()
        location = self.folder.child(_README)
        if not location.is_file() or location.read_bytes() != text:
            location.write_bytes(text)
        if self.folder.is_local:  # object stores have no empty folders
            self.folder.file_system.create_dir(self.folder.child(_ANSWERS).path, recursive=True)

    def _write_requests(self, questions: Questions, new: npt.NDArray[np.intp]) -> None:
        written = {name.rsplit(".", 1)[0] for name in self._image_names()}
        parts = [self._part(questions, new[i : i + _CHUNK_ROWS], written) for i in range(0, len(new), _CHUNK_ROWS)]
        table = pa.concat_tables(parts)
        location = self.folder.child(_REQUESTS, f"{_round_name(questions.round)}.{self.format}")
        location.write_bytes(_csv_bytes(table) if self.format == "csv" else _parquet_bytes(table))

    def _image_names(self) -> list[str]:
        folder = self.folder.child(_IMAGES)
        return folder.files() if self.with_images and folder.is_folder() else []

    def _part(self, questions: Questions, places: npt.NDArray[np.intp], written: set[str]) -> pa.Table:
        """The request lines of some questions, whose images it writes."""
        row_ids, sample = questions.row_ids[places], self.pool.modality
        text = sample == "text"
        rows = self.pool.read(row_ids, ["key", *([sample] if text or self.with_images else [])])
        columns: dict[str, Any] = {"row_id": row_ids, "key": rows.column("key")}
        if text:
            columns["text"] = rows.column("text")
        elif self.with_images:
            columns["image"] = self._write_images(row_ids, rows.column("image"), written)
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

    def _write_images(self, row_ids: Int64Array, images: pa.ChunkedArray, written: set[str]) -> list[str]:
        """Writes those that are not there yet; gives the path of each, from the folder."""

        def write(row_id: int, data: bytes) -> str:
            path = f"{_IMAGES}/{row_id}.{file_ending(data)}"
            if str(row_id) not in written:
                self.folder.child(path).write_bytes(data)
            return path

        with ThreadPoolExecutor(_WRITERS) as threads:
            return list(threads.map(write, row_ids.tolist(), images.to_pylist()))


def _round_name(round: int) -> str:
    return f"round-{round:04d}"


def _annotator(location: Location) -> str:
    """Whom a file is named after."""
    name = _COPY.sub("", stem(location))  # browsers number what is downloaded twice
    return _ROUND.sub(" ", name).strip() or NOBODY


def _requested(location: Location) -> Int64Array:
    """row_ids that a request file asks for; none where a person broke it: `collect` says so."""
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(_lines(table))
    # Without a mark spreadsheets take UTF-8 for something else and spoil keys that they write back.
    return text.getvalue().encode("utf-8" if text.getvalue().isascii() else "utf-8-sig")


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


def _readme(label_set: LabelSet, format: str, images: bool, modality: str) -> str:
    where = (
        "The column text holds what is to be labelled."
        if modality == "text"
        else "The column image names the file of each row's image, from this folder."
        if images
        else "The column key says which image it is."
    )
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
Leave row_id and key as they are. Lines that cannot be taken are reported with their number, and the others are taken.

Classes{" (the name, or the number before it)" if label_set.by_index and label_set.names else ""}:
{names}
"""
