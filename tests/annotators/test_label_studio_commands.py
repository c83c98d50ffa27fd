"""A gate from the command line, with people in Label Studio: kills, a stopped server, skipped tasks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk.client import LabelStudio as Client

from coevo_ray.annotators.label_studio_connection import TOKEN
from coevo_ray.annotators.label_studio_tasks import row_of
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from tests.annotators.label_studio_server import Server, User
from tests.command_line import Command
from tests.pipelines.gate.helpers import CLASSES, NAMES, inputs, truth
from tests.processes import Marked

pytestmark = [pytest.mark.labelstudio, pytest.mark.usefixtures("ray_local")]
PROJECT = "a gate"
# The command line as it is, but for tasks that travel four at a time: so a kill can hit the middle.
SLOWLY = """
import sys
from coevo_ray import cli
from coevo_ray.annotators import label_studio
label_studio._CHUNK_ROWS = 4
cli.main(sys.argv[1:])
"""


class People:
    """Two people at work in the project."""

    def __init__(self, server: Server) -> None:
        self.anna, self.ben = (self._client(server, user) for user in (server.anna, server.ben))

    @staticmethod
    def _client(server: Server, user: User) -> Client:
        return Client(base_url=server.url, api_key=user.legacy_token)  # type: ignore[no-untyped-call]

    def tasks(self) -> dict[int, int]:
        """row_id -> task; each row has one."""
        projects: list[Any] = list(self.anna.projects.list())
        found = [p for p in projects if p.title == PROJECT]
        listed: list[Any] = []
        for project in found:
            listed += self.anna.tasks.list(project=project.id, page_size=1000)
        rows = [row for task in listed if (row := row_of(task))]
        assert len(found) <= 1 and len({row for row, _ in rows}) == len(listed)
        return {row: task.id for (row, _), task in zip(rows, listed, strict=True)}

    def choose(self, who: Client, row: int, label: int, **options: Any) -> None:
        """Labels a row, or with `was_cancelled` skips it."""
        value = {"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": [NAMES[label]]}}
        assert who.annotations.create(id=self.tasks()[row], result=[value], **options).id


@dataclass(frozen=True)
class Gate:
    """The commands of a gate whose annotator is Label Studio."""

    command: Command
    server: Server
    folder: Path

    def told(self, name: str, *arguments: str) -> dict[str, Any]:
        """What a command that ends well prints; the token is nowhere in it."""
        place = () if name == "open" else ("--gate", str(self.folder / "gate"))
        result = self.command("gate", name, *place, *arguments, "--json")
        assert result.returncode == 0, result.stderr
        assert self.server.anna.access_token not in result.stdout + result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def open(self) -> dict[str, Any]:
        """Opens it over a pool without labels."""
        inputs(self.folder, labelled=False)
        given = {name: str(self.folder / name) for name in ("pool", "targets")} | {"out": str(self.folder / "gate")}
        given |= {"annotator": "label_studio", "url": self.server.url, "project": PROJECT}
        given |= {"classes": ",".join(NAMES), "seed-fraction": "0.05"}
        return self.told("open", *(part for name, value in given.items() for part in (f"--{name}", value)))

    def killed_while_it_sends(self, people: People) -> int:
        """Tasks that there were when `next` was killed."""
        arguments = [sys.executable, "-c", SLOWLY, "gate", "next", "--gate", str(self.folder / "gate")]
        killed = Marked(arguments, self.folder)
        killed.until(lambda: len(people.tasks()) > 0, 120)
        killed.kill()
        return len(people.tasks())

    def tried_without_server(self) -> None:
        """What needs the server says so, what does not works."""
        status = self.told("status")
        self.server.stop()
        for name in ("next", "submit"):
            result = self.command("gate", name, "--gate", str(self.folder / "gate"), "--json")
            assert (result.returncode, result.stdout) == (4, ""), result.stderr
            assert f"{self.server.url} is out of reach" in result.stderr and "start the server" in result.stderr
        assert self.told("status") == status
        self.server.start()


def test_a_gate_with_people_in_label_studio(
    server: Server, coevo_ray: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, server.anna.access_token)
    gate, people, right = Gate(coevo_ray, server, tmp_path), People(server), truth()
    assert gate.open()["classes"] == list(NAMES)
    there, first = gate.killed_while_it_sends(people), gate.told("next")
    assert there <= first["requested"] - first["sent"] <= there + 4  # one chunk may have been on its way
    assert first["sent"] > 0 and gate.told("next") == {**first, "sent": 0}
    rows = sorted(people.tasks())
    assert len(rows) == first["requested"] and first["where"].startswith(f"{server.url}/projects/")

    # All but the last three are labelled; one of these is skipped, of another one they say two things.
    disputed, skipped, *late = rows[0], *rows[-3:]
    for row in rows[:-3]:
        people.choose(people.anna, row, int(right[row]))
    people.choose(people.ben, disputed, (int(right[disputed]) + 1) % CLASSES)
    people.choose(people.ben, skipped, 0, was_cancelled=True)
    taken = gate.told("submit")
    assert (taken["answers"], taken["labels"], taken["problems"]) == (len(rows) - 2, len(rows) - 3, [])
    assert gate.told("submit")["answers"] == 0
    # The round stays open for the rest, the skipped one too.
    open_rows = [f"sample-{row}" for row in sorted((skipped, *late))]
    assert gate.told("next") == {**first, "requested": 3, "sent": 0, "blocking": open_rows}
    status = gate.told("status")
    assert (status["outstanding"], status["disputed"], status["labels"]) == (3, 1, len(rows) - 3)
    assert status["annotators"] == sorted([server.anna.email, server.ben.email])
    gate.tried_without_server()

    for row in (skipped, *late):
        people.choose(people.ben, row, int(right[row]))
    assert gate.told("submit")["labels"] == 3
    second = gate.told("next")
    assert (second["round"], second["sent"]) == (1, second["requested"])
    assert gate.told("next") == {**second, "sent": 0}
    assert len(people.tasks()) == len(rows) + second["requested"]

    out = gate.told("export", "--out", str(tmp_path / "labels"))
    table = RowTable(Location.parse(str(tmp_path / "labels")), "labels")
    labels = table.scan(["row_id", "label", "annotator", "votes", "annotators"]).to_pylist()
    assert out["labels"] == len(labels) == len(rows)
    assert {entry["row_id"]: entry["label"] for entry in labels} == {row: right[row] for row in rows}
    (of_two,) = [entry for entry in labels if entry["annotators"] == 2]
    assert (of_two["row_id"], of_two["votes"], of_two["annotator"]) == (disputed, 1, server.anna.email)
