"""Against a real server: what people and crashes do to a project."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_studio_sdk.client import LabelStudio as Client

from coevo_ray.annotators import label_studio as module
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import TOKEN, Connection
from coevo_ray.annotators.label_studio_tasks import labels_given, row_of
from coevo_ray.annotators.sample_files import TASK_LENGTH
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pool.pool import Pool
from tests.annotators.label_studio_server import Server, User
from tests.annotators.pools import as_dicts, make_pool, questions
from tests.pool.test_stages import make_pool as make_small_pool

pytestmark = pytest.mark.labelstudio

NAMES = ('a & "b"', "<c>", "ü 3")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), 30)


Open = Callable[..., LabelStudio]


@pytest.fixture
def desk(server: Server, pool: Pool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a desk on a project of the test's own; each time as a new process would."""
    monkeypatch.setenv(TOKEN, server.anna.access_token)
    monkeypatch.setattr(module, "_CHUNK_ROWS", 4)
    monkeypatch.setattr(module, "_PAGE", 3)

    def make(rows: Pool = pool, names: tuple[str, ...] = NAMES, **options: Any) -> LabelStudio:
        return LabelStudio(server.url, request.node.name[:50], rows, names, **options)

    return make


def client(server: Server, user: User) -> Client:
    return Client(base_url=server.url, api_key=user.legacy_token)  # type: ignore[no-untyped-call]


def tasks(server: Server, of: LabelStudio) -> dict[int, Any]:
    """row_id -> task, of ours, by the server's own export; each row once."""
    got = httpx.get(
        f"{server.url}/api/projects/{of.where.rsplit('/', 1)[1]}/export",
        params={"exportType": "JSON", "download_all_tasks": "true"},
        headers={"Authorization": f"Token {server.anna.legacy_token}"},
        timeout=60,
    ).raise_for_status()
    exported = [task for task in got.json() if row_of(task)]
    counts = Counter(task["data"]["row_id"] for task in exported)
    assert set(counts.values()) <= {1}, f"rows with several tasks: {counts}"
    return {task["data"]["row_id"]: task for task in exported}


def choose(who: Client, task: int, choice: str, **options: Any) -> int:
    result = [{"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": [choice]}}]
    made = who.annotations.create(id=task, result=result, **options)
    assert made.id
    return int(made.id)


def test_tasks_hold_the_image_the_prediction_and_the_scores(server: Server, pool: Pool, desk: Open) -> None:
    asked = questions(range(10), round=2)
    mine = desk()
    assert mine.send(asked) == 10
    made = tasks(server, mine)
    assert sorted(made) == list(range(10))
    stored = pool.read(asked.row_ids, ["image", "key"])
    for row, key, image in zip(range(10), stored["key"].to_pylist(), stored["image"].to_pylist(), strict=True):
        data = made[row]["data"]
        head, content = data["image"].split(",")
        assert (head, base64.b64decode(content)) == ("data:image/png;base64", image)
        assert (data["key"], data["round"]) == (key, 2)
        assert data["gain"] == pytest.approx(float(asked.gains[row]))
        assert len(made[row]["predictions"]) == (row > 0)
        if row:
            assert data["predicted"] == NAMES[row % 3]
            assert data["confidence"] == pytest.approx(float(asked.confidence[row]))
    prediction = client(server, server.anna).predictions.get(id=made[5]["predictions"][0])
    assert prediction.score == pytest.approx(float(asked.confidence[5]))
    assert prediction.result[0]["value"] == {"choices": [NAMES[2]]}


def test_sending_again_and_more(server: Server, desk: Open) -> None:
    mine = desk()
    assert [mine.send(questions(range(7))), mine.send(questions(range(7)))] == [7, 0]
    other = desk()
    assert [other.send(questions(range(4, 11), 1)), mine.send(questions(range(11), 2))] == [4, 0]
    assert sorted(tasks(server, mine)) == list(range(11))
    assert mine.where == other.where


def test_two_people_and_what_they_do(server: Server, desk: Open) -> None:
    mine = desk()
    assert mine.collect().answers == ()
    mine.send(questions(range(8)))
    ids = {row: task["id"] for row, task in tasks(server, mine).items()}
    anna, ben = client(server, server.anna), client(server, server.ben)
    choose(anna, ids[0], NAMES[0])
    choose(ben, ids[0], NAMES[1])  # they disagree
    choose(ben, ids[1], NAMES[0])
    choose(ben, ids[1], NAMES[2])  # the latest counts
    first = choose(anna, ids[2], NAMES[0])
    choose(anna, ids[2], NAMES[1])
    late = [{"from_name": "label", "to_name": "sample", "type": "choices", "value": {"choices": [NAMES[2]]}}]
    anna.annotations.update(id=first, result=late)  # and so does a late change
    choose(anna, ids[3], NAMES[0], was_cancelled=True)  # skipped
    choose(anna, ids[4], "elsewhere")
    choose(ben, ids[5], NAMES[1])
    anna.tasks.delete(id=str(ids[5]))
    project = int(mine.where.rsplit("/", 1)[1])
    foreign = {"image": "/x.png", "row_id": 6, "key": "of another pool"}
    strangers: Any = [{"data": {"image": "/y.png"}}, {"data": foreign}]
    made: Any = anna.projects.import_tasks(project, request=strangers, return_task_ids=True)
    for task in made.task_ids:
        choose(anna, task, NAMES[0])
    expected = {server.anna.email: {0: 0, 2: 2}, server.ben.email: {0: 1, 1: 2}}
    for again in (mine, desk(), mine):
        collected = again.collect()
        assert as_dicts(collected) == expected
        elsewhere, of_others = sorted(collected.problems, key=lambda p: "not" in p)
        assert f"{mine.where}/data?task={ids[4]}: 'elsewhere' by {server.anna.email} is none of" in elsewhere
        assert "row 6 of this pool is not 'of another pool'" in of_others
    # Rows whose tasks were deleted are asked for again.
    assert [mine.send(questions(range(8))), mine.send(questions(range(8)))] == [1, 0]
    # An exported file says the same as the interface, with predictions as bare ids and people as they come.
    export = list(tasks_with_strangers(server, project))
    assert any(isinstance(p, int) for task in export for p in task["predictions"])
    emails = {1: server.anna.email, 2: server.ben.email}
    given = list(labels_given(export, lambda by: emails[by] if isinstance(by, int) else by["email"]))
    assert as_dicts(mine._judged(given)) == expected


def tasks_with_strangers(server: Server, project: int) -> Iterator[Any]:
    header = {"Authorization": f"Token {server.anna.legacy_token}"}
    url = f"{server.url}/api/projects/{project}/export"
    yield from httpx.get(url, params={"exportType": "JSON"}, headers=header, timeout=60).raise_for_status().json()


KILLED = """
import os, signal, sys
from coevo_ray.annotators import label_studio as module
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import Connection
from coevo_ray.pool.pool import Pool
from tests.annotators.pools import questions

class Deadly(Connection):
    chunks = 0
    def call(self, function, attempts=None):
        result = super().call(function, attempts)
        self.chunks += hasattr(result, "task_ids")
        if self.chunks == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

module._CHUNK_ROWS = 4
url, title, pool, *names = sys.argv[1:]
LabelStudio(url, title, Pool.open(pool), names, connection=Deadly(url)).send(questions(range(14)))
"""


def test_killed_between_chunks(
    server: Server, pool: Pool, desk: Open, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    title = request.node.name[:50]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, TOKEN: server.anna.legacy_token, "PYTHONPATH": root}
    arguments = [sys.executable, "-c", KILLED, server.url, title, str(pool.location), *NAMES]
    ended = subprocess.run(arguments, env=environment, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL
    mine = desk()
    assert mine.send(questions(range(14))) == 6
    assert sorted(tasks(server, mine)) == list(range(14))


class Lossy(Connection):
    """The server does what it is asked, and its answer is lost on the way."""

    lost = 0

    def call(self, function: Any, attempts: int | None = None) -> Any:
        result = super().call(function, attempts)
        if hasattr(result, "task_ids") and self.lost < 2:
            self.lost += 1
            raise StoppedError("the answer was lost", "again")
        return result


def test_lost_answers_make_no_doubles(server: Server, desk: Open) -> None:
    connection = Lossy(server.url, pause_s=0.01)
    mine = desk(connection=connection)
    assert mine.send(questions(range(9))) == 9
    assert connection.lost == 2
    assert sorted(tasks(server, mine)) == list(range(9))


def test_texts_and_addresses(server: Server, pool: Pool, desk: Open, tmp_path: Path) -> None:
    texts = make_pool(tmp_path, 3, texts=["one", "<two> & more", "drei: ü"], files=1)
    mine = desk(texts)
    mine.send(questions(range(3)))
    assert [task["data"]["text"] for _, task in sorted(tasks(server, mine).items())] == [
        "one",
        "<two> & more",
        "drei: ü",
    ]
    config = client(server, server.anna).projects.get(int(mine.where.rsplit("/", 1)[1])).label_config
    assert "<Text" in str(config)


HARMFUL = ["a\0b\x1b[31m", "שלום \u202eevil", "$key =1+1 https://example.org", "word \N{CREDIT CARD}\n" * 150_000]


def test_texts_that_do_harm_are_shown_bounded_and_answered(server: Server, desk: Open, tmp_path: Path) -> None:
    mine = desk(make_pool(tmp_path, 4, texts=HARMFUL, files=1))
    assert [mine.send(questions(range(4))), mine.send(questions(range(4)))] == [4, 0]
    made = tasks(server, mine)
    assert [made[row]["data"]["text"] for row in range(3)] == ["a␀b␛[31m", "שלום \ufffdevil", HARMFUL[2]]
    long = made[3]["data"]["text"]
    assert len(long) < TASK_LENGTH + 100
    assert long.endswith(f"[the first 20,000 of {len(HARMFUL[3]):,} characters]")
    anna = client(server, server.anna)
    for row in range(4):
        choose(anna, made[row]["id"], NAMES[row % 3])
    collected = mine.collect()
    assert as_dicts(collected) == {server.anna.email: {row: row % 3 for row in range(4)}}
    assert collected.problems == ()
    config = str(anna.projects.get(int(mine.where.rsplit("/", 1)[1])).label_config)
    assert '<Text name="sample" value="$text" valueType="text"' in config


def test_vectors_are_asked_about_by_key(server: Server, desk: Open, tmp_path: Path) -> None:
    mine = desk(make_small_pool(tmp_path / "pool", "vector"), names=("x", "y"))
    assert mine.send(questions(range(3), classes=2)) == 3
    made = tasks(server, mine)
    assert [made[row]["data"]["key"] for row in range(3)] == ["key 0", "key 1", "key 2"]
    assert "vector" not in made[0]["data"]
    anna = client(server, server.anna)
    config = str(anna.projects.get(int(mine.where.rsplit("/", 1)[1])).label_config)
    assert "A vector is known to you by its key:" in config and 'value="$key"' in config
    choose(anna, made[1]["id"], "y")
    assert as_dicts(mine.collect()) == {server.anna.email: {1: 1}}


def test_images_elsewhere(server: Server, desk: Open, tmp_path: Path) -> None:
    mine = desk(make_pool(tmp_path, ["a/b c.png", "ü"]), url_template="https://images.example.org/{key}?row={row_id}")
    mine.send(questions(range(2)))
    assert [task["data"]["image"] for _, task in sorted(tasks(server, mine).items())] == [
        "https://images.example.org/a/b%20c.png?row=0",
        "https://images.example.org/%C3%BC?row=1",
    ]


def test_projects_that_do_not_fit_are_left_alone(server: Server, desk: Open, request: pytest.FixtureRequest) -> None:
    with pytest.raises(InputError, match=r"has classes .*, need \['x', 'y', 'z'\]"):
        desk().send(questions([0]))
        desk(names=("x", "y", "z")).collect()
    anna = client(server, server.anna)
    anna.projects.update(int(desk_project(anna, request.node.name[:50])), description="mine now")
    with pytest.raises(InputError, match="that coevo-ray did not make"):
        desk().send(questions([0]))


def desk_project(who: Client, title: str) -> int:
    listed: list[Any] = list(who.projects.list())
    (found,) = [project for project in listed if project.title == title]
    return int(found.id or 0)


@pytest.mark.parametrize("kind", ["legacy_token", "access_token"])
def test_both_kinds_of_tokens(server: Server, desk: Open, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv(TOKEN, getattr(server.ben, kind))
    assert desk().send(questions([0])) in (0, 1)


@pytest.mark.parametrize("kind", ["legacy_token", "access_token"])
def test_a_refused_token_is_not_shown(
    server: Server, desk: Open, monkeypatch: pytest.MonkeyPatch, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    good: str = getattr(server.anna, kind)
    bad = good[:-6] + "abcdef"
    monkeypatch.setenv(TOKEN, bad)
    mine = desk()
    with caplog.at_level("DEBUG"), pytest.raises(UsageError, match=f"refuses the token in {TOKEN}") as caught:
        mine.collect()
    assert bad not in str(caught.value) + repr(caught.value) + repr(mine) + caplog.text + str(vars(mine))
    # The SDK's own error has a session cookie, a failed request the token.
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    monkeypatch.setenv(TOKEN, good)
    used = desk()
    used.send(questions([0]))
    assert good.encode() not in pickle.dumps(used)
    assert as_dicts(pickle.loads(pickle.dumps(used)).collect()) == {}
