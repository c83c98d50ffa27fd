"""Compares results: what a command that was killed left, with what undisturbed ones left.

Data files have to be equal byte by byte, but for columns of times; JSON in all fields but times. Two undisturbed runs
tell whether anything else differs by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location

_NOT_COMPARED = ("_lease.json", "_started.json")  # who writes there
_WORKING = ("training", "journal")  # checkpoints, whose names are times; journals are compared by what they say
_TIMES = ("time",)  # columns
# Figures of the attempt and of its times, not of the result: they may be equal in undisturbed runs.
_ATTEMPT = re.compile(r"created|seconds|times|startup|waiting|per_s\b|_ms\b|resumed|attempts|bytes_read|bytes_moved")

Facts = dict[str, object]


@dataclass(frozen=True)
class Undisturbed:
    """Facts that undisturbed runs of a command share.

    Attributes:
        facts: name -> value.
        differ: names of facts that differ between them; none is a data file's.
    """

    facts: Facts
    differ: frozenset[str]

    @classmethod
    def of(cls, one: Facts, two: Facts) -> Undisturbed:
        """From the facts of two runs.

        Raises:
            AssertionError: they differ in more than figures in JSON.
        """
        differ = frozenset(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        data = [name for name in differ if ".json" not in name]
        assert not data, f"two undisturbed runs differ in {data}"
        return cls(one, differ)

    def difference(self, found: Facts) -> list[str]:
        """Names of facts that are not as they have to be."""
        names = (self.facts.keys() | found.keys()) - self.differ
        return sorted(name for name in names if self.facts.get(name) != found.get(name) and not _of_attempt(name))


def _of_attempt(name: str) -> bool:
    """A figure in JSON that is of the attempt."""
    return ".json" in name and _ATTEMPT.search(name.partition("]:")[2]) is not None


def facts_of(out: Path) -> Facts:
    """All that a result says: files by their checksum, JSON by its fields, journals by their events."""
    facts: Facts = {}
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(file.relative_to(out))
        parts = set(name.split("/")[:-1])
        if parts & set(_WORKING) or file.name in _NOT_COMPARED or ".tmp-" in name or file.name.startswith("."):
            continue
        if file.suffix in (".json", ".jsonl"):
            for i, line in enumerate(file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]):
                facts |= _flat(_listed(json.loads(line.replace(str(out.parent), ".")), file), f"{name}[{i}]")
        else:
            facts |= _file(file, name)
    for journal in sorted(path for path in out.rglob("journal") if path.is_dir()):
        facts |= _said(journal, str(journal.relative_to(out)))
    return facts


def _listed(value: Any, file: Path) -> Any:
    """A manifest with, for each file's size and checksum, whether they are right: the files are compared themselves."""
    if file.name != "manifest.json":
        return value
    for entry in value["files"]:
        data = (file.parent / entry["path"]).read_bytes()
        entry["right"] = (entry.pop("bytes"), entry.pop("sha256")) == (len(data), hashlib.sha256(data).hexdigest())
    return value


def _file(file: Path, name: str) -> Facts:
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        if dropped := [column for column in _TIMES if column in table.column_names]:
            return {name: _digest(table.drop_columns(dropped)), f"{name} once": _once(table)}
        return {name: hashlib.sha256(file.read_bytes()).hexdigest(), f"{name} once": _once(table)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()}


def _once(table: pa.Table) -> object:
    """Rows, and how many different ones there are."""
    if "row_id" not in table.column_names:
        return table.num_rows
    return [table.num_rows, len(np.unique(table.column("row_id").to_numpy()))]


def _digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _flat(value: Any, name: str) -> Facts:
    """The leaves of JSON by their path."""
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in _flat(each, f"{name}:{key}").items()}
    if isinstance(value, list):
        return {k: v for i, each in enumerate(value) for k, v in _flat(each, f"{name}:{i}").items()} or {name: []}
    return {name: value}


def _said(folder: Path, name: str) -> Facts:
    """A journal's state at its end: each epoch's rows and whether it counts, each answer by its row and annotator.

    Raises:
        InputError: it is damaged.
    """
    facts: Facts = {}
    for record in Journal(Location(str(folder))).replay():
        arrays = record.arrays
        if record.event == "snapshot" and "answered.row_id" in arrays:
            names = record.fields["annotators"]
            for row, label, who in zip(
                *(arrays[f"answered.{k}"] for k in ("row_id", "label", "annotator")), strict=True
            ):
                _add(facts, f"{name} answer {row} {names[who]}", int(label))
        elif record.event == "labels":
            for row, label in zip(arrays["row_ids"], arrays["labels"], strict=True):
                _add(facts, f"{name} answer {row} {record.fields['annotator']}", int(label))
        elif record.event == "select":
            content = [[key, array.tolist()] for key, array in sorted(arrays.items())]
            _add(facts, f"{name} rows of epoch {record.fields['epoch']}", content)
        elif record.event == "commit":
            _add(facts, f"{name} commit of epoch {record.fields['epoch']}", True)
    return facts


def _add(facts: Facts, name: str, value: object) -> None:
    """Adds what a journal says; said twice it is a fact of its own, which no undisturbed run has."""
    facts[f"{name}, again" if name in facts else name] = value
