"""Lines on stderr: text for people, or JSON objects with run and stage; stdout stays for the result."""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coevo_ray.logs import LOG_FORMAT, json_lines, say
from coevo_ray.progress import Ticker, waiting
from coevo_ray.telemetry import RUN_NAME, named_run, named_stage
from tests.command_line import Command

_ROOT = Path(__file__).parents[1]


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG_FORMAT, "json")


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coevo_ray", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=_ROOT,
        env={**os.environ, **environment},
    )


@pytest.mark.usefixtures("as_json")
def test_a_line_has_time_level_run_stage_message_and_counters(capfd: pytest.CaptureFixture[str]) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    with named_run("digits"), named_stage("pool"):
        say("10 classes; ä", rows=1797, where=None)
        say("few rows", level=logging.WARNING)
    out, err = capfd.readouterr()
    first, second = objects(err)
    at = datetime.datetime.fromisoformat(first.pop("time"))
    assert out == "" and at.utcoffset() == datetime.timedelta(0)
    assert before <= at <= datetime.datetime.now(datetime.timezone.utc)
    assert first == {
        "level": "INFO",
        "run": "digits",
        "stage": "pool",
        "logger": "coevo_ray",
        "message": "10 classes; ä",
        "rows": 1797,
        "where": None,
    }
    assert second["level"] == "WARNING" and second["message"] == "few rows" and second["stage"] == "pool"


def test_text_is_as_it_was(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_FORMAT, raising=False)
    say("10 classes", rows=3)
    say("few rows", level=logging.WARNING)
    with Ticker("score", 10) as bar:
        bar.advance(10)
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == ["10 classes", "warning: few rows"] and lines[2].startswith("score: 10 rows in ")


@pytest.mark.usefixtures("as_json")
def test_progress_in_json_has_counters_and_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with named_run("r"), named_stage("targets"), Ticker("encode lite:0", 10, "rows") as bar:
        with waiting("load"):
            say("inside")
        bar.advance(7)
    first, inside, last = objects(capfd.readouterr().err)
    assert (first["message"], first["stage"], first["total"], first["unit"]) == ("begins", "encode lite:0", 10, "rows")
    assert inside["stage"] == "load"
    assert (last["done"], last["total"], last["stage"], last["run"]) == (7, 10, "encode lite:0", "r")
    assert last["seconds"] >= 0


@pytest.mark.usefixtures("as_json")
def test_other_loggers_and_warnings_are_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level, hook = list(root.handlers), root.level, sys.excepthook
    with json_lines(), named_run("r"):
        logging.getLogger("somebody").warning("take %s", "care")
        logging.getLogger("somebody").info("not shown")
        try:
            raise RuntimeError("boom")
        except RuntimeError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    warned, died = objects(capfd.readouterr().err)
    assert (warned["logger"], warned["message"], warned["level"], warned["run"]) == (
        "somebody",
        "take care",
        "WARNING",
        "r",
    )
    assert died["level"] == "CRITICAL" and "RuntimeError: boom" in died["exc_info"]
    assert (root.handlers, root.level, sys.excepthook) == (before, level, hook), "the process is as before"


@pytest.mark.parametrize("where", ["before", "behind", "environment"])
def test_a_command_in_json(where: str, tmp_path: Path) -> None:
    """Errors, what click says, and the exit code, with the option before or behind the command."""
    option = [] if where == "environment" else ["--log-format=json", "--run-name", "mine"]
    command = ["status", str(tmp_path / "nothing")]
    environment = {LOG_FORMAT: "json", RUN_NAME: "mine"} if where == "environment" else {}
    done = run_command(*(option + command if where == "before" else command + option), **environment)
    (line,) = objects(done.stderr)
    assert done.returncode == 3 and done.stdout == ""
    assert line["level"] == "ERROR" and "nothing" in line["message"] and line["remedy"] and line["run"] == "mine"
    assert line["exit_code"] == 3


def test_an_error_names_the_run_and_stage_that_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    out = tmp_path / "digits"
    done = run_command("ingest", str(tmp_path / "source"), "--out", str(out), "--log-format", "json")
    *_, line = objects(done.stderr)
    assert done.returncode == 3 and line["level"] == "ERROR"
    assert (line["run"], line["stage"]) == ("digits", "digits")


def test_answers_are_submitted_in_json_too(tmp_path: Path) -> None:
    """`gate submit` is no job, whose options would be its own."""
    done = run_command("gate", "submit", "--gate", str(tmp_path / "none"), "--log-format", "json")
    assert done.returncode == 3 and objects(done.stderr)[-1]["level"] == "ERROR"


def test_usage_errors_are_json_too() -> None:
    done = run_command("no-such-command", "--log-format", "json")
    assert done.returncode == 2 and any("no-such-command" in line["message"] for line in objects(done.stderr))


def test_another_format_is_refused(coevo_ray: Command) -> None:
    refused = coevo_ray("doctor", "--log-format", "xml")
    assert refused.returncode == 2 and "xml" in refused.stderr and "text or json" in refused.stderr
    assert LOG_FORMAT not in os.environ, "an option holds for its command"


def test_an_option_without_its_value_is_refused(coevo_ray: Command) -> None:
    assert coevo_ray("doctor", "--run-name").returncode == 2


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("total", [None, 8_000, 123_456_789])
def test_numbers_stay_whole_in_any_window(width: int, total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_FORMAT, raising=False)
    drawn = io.StringIO()
    monkeypatch.setattr(
        "coevo_ray.progress.Console",
        lambda file: Console(file=drawn, width=width, force_terminal=True, _environ={"TERM": "xterm"}),
    )
    with Ticker("shared set efficientnet_lite:0@64, efficientnet_lite:1@64", total) as bar:
        bar.advance(1_024, "held-out accuracy 0.922")
    count = "1,024 rows" if total is None else f"1,024/{total:,} rows"
    assert count in drawn.getvalue() and "/?" not in drawn.getvalue()
    assert "0:00:00" in drawn.getvalue()
