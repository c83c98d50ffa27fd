"""An annotator by Label Studio: questions become tasks of a project, and its annotations answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from coevo_ray.annotators.base import Answers, Collected, Questions
from coevo_ray.annotators.label_set import LabelSet
from coevo_ray.annotators.label_studio_connection import Connection
from coevo_ray.annotators.label_studio_tasks import (
    Given,
    classes_of,
    labelling_config,
    labels_given,
    make_task,
    person_of,
    row_of,
)
from coevo_ray.annotators.quoting import listed, printable, quoted
from coevo_ray.annotators.sample_files import SHOWN
from coevo_ray.config.annotators import image_template
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pool.modality import Sample, by_modality
from coevo_ray.pool.pool import Pool

MARK = "[coevo-ray]"
_DESCRIPTION = (
    f"{MARK} Rows whose labels are worth most. The project is found again by its title and this mark: leave both."
)
# Limits of a request: the server takes 200 MB, but blocks other requests meanwhile.
_CHUNK_ROWS, _CHUNK_BYTES = 100, 16 << 20
_PAGE = 100


class LabelStudio:
    """Sends questions to a Label Studio project and collects its annotations.

    Args:
        url: of the server.
        project: title of the project, which is created when it does not exist; 3 to 50 characters.
        pool: holds the rows that are asked about.
        class_names: names of the classes; without them labels are indices.
        url_template: address of a row's image for browsers, with {row_id} or {key}; None puts the images into the
            tasks.
        classes: number of classes, where not all have names; None takes the pool's or the names'.
        connection: replaces the default connection to `url`.

    Raises:
        InputError: no classes are known, or names repeat.
        UsageError: the SDK or the token is missing, the template has neither {row_id} nor {key}, or Label Studio does
            not support the pool's modality here.
    """

    def __init__(
        self,
        url: str,
        project: str,
        pool: Pool,
        class_names: Sequence[str] = (),
        url_template: str | None = None,
        classes: int | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.title, self.pool, self.url_template = project, pool, url_template
        self._shown = by_modality(SHOWN, pool.modality, "the label_studio annotator")
        self.label_set = LabelSet(classes or max(pool.classes, len(class_names)), class_names)
        if url_template is not None:
            _check_template(url_template)
        self._connection = connection or Connection(url)
        self._project: int | None = None
        self._rows: dict[int, int | None] = {}  # task -> row_id; None for tasks of others

    @property
    def where(self) -> str:
        """The page of the project; before it is known, of the server."""
        return self._connection.url + (f"/projects/{self._project}" if self._project else "")

    def send(self, questions: Questions) -> int:
        """Creates tasks, with the model's predictions, for rows without one, in chunks.

        Existing tasks are found by row_id, so that the next call finishes an interrupted one.

        Returns:
            Rows that were new.

        Raises:
            InputError: a project with this title is not ours or has other classes, or the server refused the tasks.
            UsageError: the token was refused.
            StoppedError: the server is out of reach; send the questions again.
        """
        self._find(make=True)
        there = self._rows_there()
        new = np.flatnonzero(~np.isin(questions.row_ids, np.fromiter(there, dtype=np.int64, count=len(there))))
        for chunk in self._chunks(questions, new):
            self._push(chunk)
        return len(new)

    def collect(self) -> Collected:
        """All labels so far; of one person's annotations of a row the latest counts, and a skip removes the label.

        Raises:
            InputError: a project with this title is not ours or has other classes.
            UsageError: the token was refused.
            StoppedError: the server is out of reach.
        """
        if self._find(make=False) is None:
            return Collected(())
        users = _Users(self._connection)
        annotated = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
        given = labels_given(self._tasks(extra=(annotated,)), lambda by: person_of(by, users.emails))
        return self._judged(list(given))

    def _judged(self, given: list[Given]) -> Collected:
        """The latest annotation of each person and row, with a report of unknown classes and rows."""
        latest: dict[tuple[str, int], Given] = {}
        for item in sorted(given, key=lambda item: item.order):
            latest[item.annotator, item.row_id] = item
        taken = [item for _, item in sorted(latest.items()) if item.choice is not None]
        keys = self._keys(sorted({item.row_id for item in taken if item.row_id < len(self.pool)}))
        labels = self.label_set.read(pa.array([item.choice for item in taken], pa.string())).tolist()
        problems, answers = [], dict[str, list[tuple[int, int]]]()
        for item, label in zip(taken, labels, strict=True):
            place = f"{self.where}/data?task={item.task}"
            if keys.get(item.row_id) != item.key:
                problems.append(f"{place}: row {item.row_id} of this pool is not {quoted(item.key)}: delete the task")
            elif label < 0:
                said = f"{quoted(str(item.choice))} by {printable(item.annotator)}"
                problems.append(f"{place}: {said} is none of {self.label_set}: choose one of them")
            else:
                answers.setdefault(item.annotator, []).append((item.row_id, label))
        columns = {who: np.array(rows, dtype=np.int64).T for who, rows in answers.items()}
        return Collected(tuple(Answers(ids, labels, who) for who, (ids, labels) in columns.items()), tuple(problems))

    def _keys(self, row_ids: list[int]) -> Mapping[int, str]:
        table = self.pool.read(np.array(row_ids, dtype=np.int64), ["key"])
        return dict(zip(row_ids, table.column("key").to_pylist(), strict=True))

    # -- the project ---------------------------------------------------------------------------------------------

    def _find(self, make: bool) -> int | None:
        """The project's number; the first, where two processes created it at the same time."""
        if self._project is None:
            found: list[Any] = self._connection.call(lambda c: list(c.projects.list(title=self.title)))
            found = [project for project in found if project.title == self.title]  # the server matches parts of titles
            ours = sorted((p for p in found if MARK in (p.description or "")), key=lambda p: int(p.id or 0))
            if found and not ours:
                raise InputError(
                    f"Label Studio at {self._connection.url} has a project {self.title!r} that coevo-ray did not make",
                    "choose another project title for the annotator",
                )
            if ours:
                self._check_classes(str(ours[0].label_config or ""))
                self._project = int(ours[0].id or 0)
            elif make:
                self._make()
        return self._project

    def _make(self) -> None:
        config = labelling_config(self.label_set, self.pool.modality)
        made = self._connection.call(
            lambda c: c.projects.create(
                title=self.title, description=_DESCRIPTION, label_config=config, show_collab_predictions=True
            ),
            attempts=1,  # a repeated call might create it twice
        )
        self._project = int(made.id or 0)

    def _check_classes(self, config: str) -> None:
        have, need = classes_of(config), self.label_set.all_shown()
        if have is None or set(have) != set(need):
            have_text = "no choices named label" if have is None else f"classes {listed(sorted(have))}"
            raise InputError(
                f"the project {self.title!r} at {self._connection.url} has {have_text}, need {listed(sorted(need))}",
                "give the project these classes, or choose another project title",
            )

    # -- tasks ---------------------------------------------------------------------------------------------------

    def _tasks(self, after: int = 0, extra: tuple[JsonObject, ...] = ()) -> Iterator[Any]:
        """Tasks in order of their numbers. Pages begin after a task, so that deleted tasks make none be skipped."""
        while True:
            last = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
            filters = {"conjunction": "and", "items": [last, *extra]}
            query = json.dumps({"filters": filters, "ordering": ["tasks:id"]})
            page = self._page(query, "all" if extra else "task_only")
            yield from page
            if not page:
                return
            after = max(int(task.id) for task in page)

    def _page(self, query: str, fields: str) -> list[Any]:
        def ask(client: Any) -> list[Any]:
            listed = client.tasks.list(
                project=self._project, query=query, fields=fields, page_size=_PAGE, resolve_uri=False
            )
            return listed.items or []

        return self._connection.call(ask)

    def _rows_there(self) -> set[int]:
        """row_ids with a task. Only new tasks are read, unless some have been deleted meanwhile."""
        self._read_tasks(max(self._rows, default=0))
        if self._connection.call(lambda c: c.projects.get(int(self._project or 0)).task_number) != len(self._rows):
            self._rows.clear()
            self._read_tasks(0)
        return {row for row in self._rows.values() if row is not None}

    def _read_tasks(self, after: int) -> None:
        for task in self._tasks(after):
            row = row_of(task)
            self._rows[int(task.id)] = None if row is None else row[0]

    def _chunks(self, questions: Questions, places: Int64Array) -> Iterator[list[JsonObject]]:
        chunk: list[JsonObject] = []
        size = 0
        for start in range(0, len(places), _CHUNK_ROWS):
            for task, length in self._make_tasks(questions, places[start : start + _CHUNK_ROWS]):
                if chunk and (len(chunk) == _CHUNK_ROWS or size + length > _CHUNK_BYTES):
                    yield chunk
                    chunk, size = [], 0
                chunk.append(task)
                size += length
        if chunk:
            yield chunk

    def _make_tasks(self, questions: Questions, places: Int64Array) -> Iterator[tuple[JsonObject, int]]:
        """Tasks, each with the length of its sample."""
        row_ids, name = questions.row_ids[places], self.pool.modality
        by_key = self._shown.by_key
        read = not by_key and (self._shown.file_ending is None or self.url_template is None)
        table = self.pool.read(row_ids, ["key", *([name] if read else [])])
        samples = table.column(name).to_pylist() if read else [None] * len(row_ids)
        for place, row_id, key, sample in zip(
            places.tolist(), row_ids.tolist(), table.column("key").to_pylist(), samples, strict=True
        ):
            value = key if by_key else self._value(row_id, key, sample)
            predicted = self.label_set.shown(int(questions.predicted[place]))
            gain, confidence = float(questions.gains[place]), float(questions.confidence[place])
            shown = {} if by_key else {name: value}
            yield make_task(row_id, key, shown, questions.round, gain, predicted, confidence), len(value)

    def _value(self, row_id: int, key: str, sample: Sample | None) -> str:
        if sample is not None:
            return self._shown.value(sample)
        return str(self.url_template).format(row_id=row_id, key=quote(key))

    def _import(self, tasks: list[JsonObject]) -> Any:
        """Sends tasks to the server, once."""

        def ask(client: Any) -> Any:
            return client.projects.import_tasks(int(self._project or 0), request=tasks, return_task_ids=True)

        return self._connection.call(ask, attempts=1)

    def _push(self, chunk: list[JsonObject]) -> None:
        """Creates tasks. After an unclear answer the server's tasks are read before the next attempt."""
        left = chunk
        for attempt in range(1, self._connection.attempts + 1):
            try:
                made = self._import(left)
                if made.task_ids and len(made.task_ids) == len(left):
                    self._rows.update(zip(made.task_ids, (task["data"]["row_id"] for task in left), strict=True))
                    return
            except StoppedError:
                if attempt == self._connection.attempts:
                    raise
            # The server may import later, or its answer was lost.
            self._connection.pause(attempt)
            there = self._rows_there()
            left = [task for task in left if task["data"]["row_id"] not in there]
            if not left:
                return
        raise StoppedError(
            f"Label Studio at {self._connection.url} took {len(left)} tasks but does not list them",
            "see the server's log, then run the same command again: existing tasks are kept",
        )


class _Users:
    """E-mail addresses of the server's users, looked up once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._emails: dict[int, str] | None = None

    def emails(self) -> Mapping[int, str]:
        """id -> address; empty where the token's user may not see others."""
        if self._emails is None:
            try:
                users = self._connection.call(lambda c: list(c.users.list()))
            except UsageError:  # people are shown by number then
                users = []
            self._emails = {int(user.id): str(user.email) for user in users if user.id and user.email}
        return self._emails


def _check_template(template: str) -> None:
    try:
        image_template(template)
    except ValueError as error:
        raise UsageError(f"url_template {error}", "such as https://images.example.org/{key}") from error
