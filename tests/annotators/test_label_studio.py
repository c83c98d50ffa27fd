"""What needs no server: words of Label Studio, and what goes wrong before one answers."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.core.unchecked_base_model import construct_type
from label_studio_sdk.types.paginated_role_based_task_list import PaginatedRoleBasedTaskList
from PIL import Image

from coevo_ray.annotators import label_studio as module
from coevo_ray.annotators.label_set import LabelSet
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import TOKEN, Connection
from coevo_ray.annotators.label_studio_tasks import classes_of, labelling_config, labels_given, make_task, person_of
from coevo_ray.annotators.sample_files import data_uri, file_ending
from coevo_ray.errors import CoevoError, InputError, StoppedError, UsageError
from tests.annotators.pools import as_dicts, make_pool, questions
from tests.pool.pictures import encoded, picture

SECRET = "0123456789abcdef-secret"
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)


@given(st.lists(names, min_size=1, max_size=40, unique=True), st.sampled_from(["image", "text"]))
def test_the_config_of_any_class_list_is_read_back(classes: list[str], modality: Any) -> None:
    label_set = LabelSet(len(classes), classes)
    config = labelling_config(label_set, modality)
    assert classes_of(config) == list(label_set.names)
    assert f'value="${modality}"' in config


@pytest.mark.parametrize(
    "config", ["", "<View", "<View/>", '<View><Choices name="other"><Choice value="a"/></Choices></View>']
)
def test_configs_of_others(config: str) -> None:
    assert classes_of(config) is None


def annotation(number: int, by: Any, choice: str | None, at: str, **fields: Any) -> dict[str, Any]:
    result = [] if choice is None else [{"from_name": "label", "type": "choices", "value": {"choices": [choice]}}]
    return {"id": number, "completed_by": by, "result": result, "updated_at": at, "was_cancelled": False, **fields}


def example_tasks() -> list[dict[str, Any]]:
    """As the interface and its exports have them: predictions and people in all their forms."""
    key = "pictures/00{}.png".format
    return [
        {
            **{"id": 1, "data": {"row_id": 0, "key": key(0)}, "predictions": [11, 12]},
            "annotations": [
                annotation(1, 7, "dog", "2026-01-01T00:00:02Z"),
                annotation(2, {"id": 7, "email": "eva@x.org"}, "cat", "2026-01-01T00:00:01Z"),
                annotation(3, 8, "bird", "2026-01-01T00:00:00Z"),
                5,
            ],
        },
        {
            **{"id": 2, "data": {"row_id": 1, "key": key(1)}, "predictions": [{"id": 13, "result": []}]},
            "annotations": [annotation(4, 7, "dog", "2026-01-01T00:00:02Z", was_cancelled=True)],
        },
        {
            "id": 3,
            "data": {"row_id": 2, "key": key(2)},
            "annotations": [annotation(5, None, None, "2026-01-01T00:00:02Z")],
        },
        {"id": 4, "data": {"image": "x"}, "annotations": [annotation(6, 7, "dog", "2026-01-01T00:00:02Z")]},
        {
            "id": 5,
            "data": {"row_id": 0, "key": key(0)},
            "annotations": [annotation(7, 8, "cat", "2026-01-01T00:00:03Z")],
        },
        {"id": 6, "data": {"row_id": 99, "key": "x"}, "annotations": [annotation(8, 8, "cat", "2026-01-01T00:00:03Z")]},
        {
            "id": 7,
            "data": {"row_id": 3, "key": key(3)},
            "annotations": [annotation(9, 8, "wolf", "2026-01-01T00:00:03Z")],
        },
        {"id": 8, "data": {"row_id": 4, "key": "y"}, "annotations": [annotation(10, 8, "cat", "2026-01-01T00:00:03Z")]},
    ]


@pytest.mark.parametrize("through_the_sdk", [False, True])
def test_labels_of_tasks_in_any_form(tmp_path: Path, through_the_sdk: bool) -> None:
    tasks: Any = example_tasks()
    if through_the_sdk:
        listed = {"tasks": json.loads(json.dumps(tasks)), "total": 7, "total_annotations": 9, "total_predictions": 3}
        tasks = construct_type(type_=PaginatedRoleBasedTaskList, object_=listed).tasks
        assert list(tasks[0].predictions) == [11, 12]
    desk = LabelStudio("http://127.0.0.1:1", "title", make_pool(tmp_path), ("cat", "dog", "bird"))
    emails = {7: "eva@x.org"}
    collected = desk._judged(list(labels_given(tasks, lambda by: person_of(by, lambda: emails))))
    assert as_dicts(collected) == {"eva@x.org": {0: 1}, "user 8": {0: 0}}
    assert [p.split(": ", 1)[1] for p in collected.problems] == [
        "'wolf' by user 8 is none of cat, dog, bird: choose one of them",
        "row 4 of this pool is not 'y': delete the task",
        "row 99 of this pool is not 'x': delete the task",
    ]


def test_a_task_without_a_prediction_says_nothing_of_one() -> None:
    task = make_task(4, "k", {"image": "i"}, 1, 0.5, "", float("nan"))
    assert task == {"data": {"row_id": 4, "key": "k", "image": "i", "round": 1, "gain": 0.5}}
    json.dumps(task, allow_nan=False)


def test_formats_that_browsers_do_not_show_become_png() -> None:
    for kind, ending in {
        "PNG": "png",
        "JPEG": "jpg",
        "GIF": "gif",
        "WEBP": "webp",
        "BMP": "bmp",
        "TIFF": "tif",
    }.items():
        data = encoded(picture(1), kind)
        assert file_ending(data) == ending
        head, content = data_uri(data).split(";base64,")
        assert head == ("data:image/png" if kind == "TIFF" else f"data:image/{kind.lower()}")
        if kind == "TIFF":
            shown = Image.open(io.BytesIO(base64.b64decode(content)))
            assert shown.tobytes() == picture(1).tobytes()
    assert file_ending(b"no image") == "bin"


# -- what goes wrong -------------------------------------------------------------------------------------------------


def fails(tmp_path: Path, url: str, kind: type[CoevoError], attempts: int = 2) -> CoevoError:
    """Opens and collects; the error, in which the token is nowhere."""
    desk = LabelStudio(
        url, "title", make_pool(tmp_path), connection=Connection(url, attempts, pause_s=0.01, timeout_s=5)
    )
    with pytest.raises(kind) as caught:
        desk.collect()
    assert SECRET not in f"{caught.value} {caught.value!r} {desk!r} {vars(desk)} {vars(desk._connection)}"
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    return caught.value


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        error = fails(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", StoppedError)
    assert "is out of reach: ConnectError" in error.cause


@contextmanager
def answering(status: int, body: str, count: list[int]) -> Iterator[str]:
    """A server that is broken in one way; counts its requests."""

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            count[0] += 1
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "requests"),
    [
        (
            401,
            json.dumps({"detail": f"Invalid token {SECRET}"}),
            UsageError,
            r"refuses the token .* Invalid token \*\*\*",
            1,
        ),
        (403, "{}", UsageError, "refuses the token", 1),
        (500, '{"detail": "no disk"}', StoppedError, r"fails \(500\): no disk", 3),
        (502, "<html>", StoppedError, r"fails \(502\)", 3),
        (429, "{}", StoppedError, r"fails \(429\)", 3),
        (404, '{"detail": "Not found."}', InputError, r"refuses the request \(404\): Not found", 1),
        (200, "<html>", InputError, "not as Label Studio does", 1),
    ],
)
def test_servers_that_are_broken(
    tmp_path: Path, status: int, body: str, kind: type[CoevoError], message: str, requests: int
) -> None:
    count = [0]
    with answering(status, body, count) as url:
        error = fails(tmp_path, url, kind, attempts=3)
    assert re.search(message, error.cause), error.cause
    assert count == [requests], "tried again where it may help, and no more often than it was told"


def test_without_a_token_or_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(tmp_path)
    monkeypatch.setenv(TOKEN, "  ")
    with pytest.raises(UsageError, match=f"{TOKEN} is not set"):
        LabelStudio("http://127.0.0.1:1", "title", pool)
    monkeypatch.setitem(sys.modules, "label_studio_sdk.client", None)
    with pytest.raises(UsageError, match="needs the package label-studio-sdk") as caught:
        LabelStudio("http://127.0.0.1:1", "title", pool)
    assert "coevo-ray[labelstudio]" in caught.value.remedy


def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    program = "import coevo_ray.annotators.opening, sys; sys.exit('label_studio_sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("template", ["https://x/1.png", "https://x/{row}", "https://x/{", "https://x/{key}/{}"])
def test_addresses_that_tell_no_rows_apart(tmp_path: Path, template: str) -> None:
    with pytest.raises(UsageError, match="url_template"):
        LabelStudio("http://127.0.0.1:1", "title", make_pool(tmp_path), url_template=template)


def test_a_chunk_is_bounded_in_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["x" * (10 if i % 5 else 100) for i in range(40)]
    desk = LabelStudio("http://127.0.0.1:1", "title", make_pool(tmp_path, 40, texts=texts))
    monkeypatch.setattr(module, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 120)
    asked = questions(range(1, 40, 1))
    chunks = list(desk._chunks(asked, (asked.row_ids - 1)[2:]))
    assert [task["data"]["row_id"] for chunk in chunks for task in chunk] == list(range(3, 40))
    for chunk in chunks:
        assert len(chunk) <= 7
        assert sum(len(task["data"]["text"]) for task in chunk) <= 120
    assert max(len(chunk) for chunk in chunks) > 1
