"""The command line: exit codes as their page says, and nothing but JSON on stdout."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coevo_ray import __version__, cli
from coevo_ray.cli.targets import prior_settings
from tests.command_line import Command
from website import commands

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "demo",
    "ingest",
    "encode",
    "merge",
    "probe",
    "sae",
    "plan",
    "gate",
    "train",
    "retrieve",
    "run",
    "report",
    "doctor",
)


def test_help_names_every_command_and_the_page_of_commands_too(coevo_ray: Command) -> None:
    result = coevo_ray("--help")
    assert result.returncode == 0
    page = commands.page()
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}\s", result.stdout, re.MULTILINE), command
        assert f"## `{command}` {{ #{command} }}" in page, command


def test_version(coevo_ray: Command) -> None:
    assert coevo_ray("--version").stdout.strip() == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_demo_of_texts_is_another_one(coevo_ray: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    importlib.import_module("coevo_ray.app.demo")  # torch, which it imports, needs sympy itself
    monkeypatch.setitem(sys.modules, "sympy", None)  # Python's own way to make an import fail
    result = coevo_ray("demo", "--texts", "--out", str(tmp_path / "run"))
    assert result.returncode == 2
    assert "sample:docstrings needs sympy.combinatorics" in result.stderr
    assert not (tmp_path / "run").exists()


def test_plan_prints_one_json_object_and_nothing_else(coevo_ray: Command) -> None:
    result = coevo_ray("plan", "--rows", "100", "--policy", "rotation", "--keep", "0.3", "--epochs", "7", "--json")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["samples"] == 210
    assert sum(int(c) * r for c, r in plan["usage"].items()) == 210
    assert set(plan["usage"]) == {"2", "3"}


def test_doctor_finds_this_machine_well(coevo_ray: Command) -> None:
    result = coevo_ray("doctor", "--json")
    assert result.returncode == 0, result.stdout
    found = json.loads(result.stdout)
    assert found["ok"]
    assert found["versions"]["coevo-ray"] == __version__


def test_doctor_finds_a_damaged_artifact(coevo_ray: Command, tmp_path: Path) -> None:
    from coevo_ray.store.artifact import begin, finish
    from coevo_ray.store.data_files import write_blob
    from coevo_ray.store.location import Location

    place = Location.parse(str(tmp_path / "a"))
    begin(place, "x", {}, {})
    finish(place, "x", {}, {}, [write_blob(place, "data.bin", b"whole")], {})
    (tmp_path / "a" / "data.bin").write_bytes(b"half")
    result = coevo_ray("doctor", "--artifact", str(place), "--json")
    assert result.returncode == 3
    assert "data.bin differs from its checksum" in result.stdout


CONFIG = """
out: {out}
pool: {{sources: [{source}]}}
encode: {{priors: ["{prior}"]}}
{more}
"""
STUDIO = "gate: {annotator: {kind: label_studio, url: 'http://127.0.0.1:9', project: title}}"


def _yaml(folder: Path, **values: str) -> Path:
    defaults = {"out": str(folder / "run"), "source": "sample:digits", "prior": "efficientnet_lite:0", "more": ""}
    file = folder / "run.yaml"
    file.write_text(CONFIG.format(**{**defaults, **values}))
    return file


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"more": "colour: red"}, 2, "unknown key colour"),
        ({"more": "train: {keep: 2}"}, 2, "train.keep"),
        ({"prior": "efficientnet_light:0"}, 2, "efficientnet_lite"),
        ({"prior": "efficientnet_lite:9"}, 2, "unknown"),
        ({"more": "train: {model: huge_cnn}"}, 2, "unknown model"),
        ({"out": "/proc/nowhere/run"}, 2, "cannot write"),
        ({"source": "sample:letters"}, 2, "unknown sample"),
        ({"more": STUDIO}, 2, "LABEL_STUDIO_API_KEY is not set"),
        ({"source": "no/such/folder"}, 3, "does not exist"),
    ],
)
def test_a_bad_run_ends_before_any_work(
    coevo_ray: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    result = coevo_ray("run", str(_yaml(tmp_path, **values)), "--json")
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "remedy: " in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run" / "pool").exists()


SUPERVISED = ("train", "--objective", "supervised", "--pool", "p", "--out", "o")
SEMI = ("train", "--objective", "semi_supervised", "--pool", "p", "--out", "o")


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("run",),
        ("run", "x.yaml", "--no-such-option"),
        ("plan", "--rows", "many", "--policy", "full"),
        ("plan", "--rows", "10", "--policy", "best"),
        ("plan", "--policy", "full"),
        ("plan", "--rows", "10", "--policy", "scored"),
        ("plan", "--rows", "10", "--policy", "factors", "--policy-option", "max_doubt=2"),
        ("encode", "--pool", "p", "--out", "o", "--prior", "efficientnet_lite:0@big"),
        ("train",),
        ("train", "run.yaml", "--epochs", "3"),
        ("train", "run.yaml", "--targets", "t"),
        ("train", "--objective", "labels"),
        ("train", "--objective", "targets", "--pool", "p", "--out", "o"),
        ("train", "run.yaml", "--objective", "targets", "--pool", "p", "--targets", "t", "--out", "o"),
        ("train", "--objective", "targets", "--pool", "p", "--targets", "t", "--out", "o", "--policy", "full"),
        ("train", "--objective", "supervised", "--pool", "p"),
        ("train", "run.yaml", "--keep-last", "0.5"),
        ("train", "run.yaml", "--policy-option", "max_doubt=1"),
        ("train", "--objective", "targets", "--pool", "p", "--targets", "t", "--out", "o", "--unbiased"),
        (*SUPERVISED, "--keep-last", "2"),
        (*SUPERVISED, "--full-tail", "-0.1"),
        (*SUPERVISED, "--class-power", "1.5"),
        (*SUPERVISED, "--policy-option", "max_doubt=1"),  # of which policy?
        (*SUPERVISED, "--policy", "factors", "--policy-option", "max_doubt"),
        (*SUPERVISED, "--policy", "factors", "--policy-option", "max_doubt=[1]"),
        (*SUPERVISED, "--policy", "factors", "--policy-option", "max_doubt={"),
        (*SUPERVISED, "--policy", "factors", "--policy-option", "max_doubt=1", "--policy-option", "max_doubt=0"),
        (*SUPERVISED, "--policy", "factors", "--policy-option", "unbiased=true"),
        (*SUPERVISED, "--policy", "factors", "--policy-option", "most_doubt=1"),
        ("train", "--objective", "supervised", "--pool", "p", "--out", "o", "--head", "mlp"),
        (*SUPERVISED, "--pseudo-labels", "l"),
        (*SUPERVISED, "--mu", "3"),
        (*SUPERVISED, "--no-flip"),
        ("train", "run.yaml", "--labels", "l"),
        ("train", "run.yaml", "--thresholds", "class"),
        ("train", "--objective", "semi_supervised", "--pool", "p"),
        ("train", "--objective", "targets", "--pool", "p", "--targets", "t", "--out", "o", "--labels", "l"),
        (*SEMI, "--policy", "full"),
        (*SEMI, "--scores", "s"),
        (*SEMI, "--keep", "0.5"),
        (*SEMI, "--threshold", "1.5"),
        (*SEMI, "--thresholds", "none"),
        (*SEMI, "--teacher", "ema"),  # of which weights?
        ("train", "--objective", "targets", "--pool", "p", "--targets", "t", "--out", "o", "--pseudo-labels", "l"),
        ("train", "--objective", "supervised", "--pool", "p", "--out", "o", "--optimizer", "lion"),
    ],
)
def test_wrong_usage_exits_2(coevo_ray: Command, arguments: tuple[str, ...]) -> None:
    result = coevo_ray(*arguments)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr != ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "empty", "--out", "pool"),
        ("ingest", "no-such", "--out", "pool"),
        ("encode", "--pool", "empty", "--prior", "efficientnet_lite:0", "--out", "targets"),
        ("gate", "--pool", "empty", "--targets", "empty", "--out", "gate"),
        ("merge", "empty", "--out", "targets"),
        ("probe", "--pool", "empty", "--targets", "empty"),
        ("train", "--objective", "targets", "--pool", "empty", "--targets", "empty", "--out", "model"),
        ("train", "--objective", "supervised", "--pool", "empty", "--out", "model"),
        ("train", "--objective", "semi_supervised", "--pool", "empty", "--out", "model"),
        ("train", "--objective", "supervised", "--pool", "empty", "--targets", "empty", "--out", "model"),
        (*SUPERVISED[:3], "--pool", "empty", "--labels", "empty", "--out", "model"),
        ("plan", "--policy", "rotation", "--pool", "empty"),
        ("plan", "--policy", "factors", "--scores", "empty"),
    ],
)
def test_bad_input_exits_3(
    coevo_ray: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    result = coevo_ray(*arguments)
    assert result.returncode == 3, result.stderr
    assert "remedy: " in result.stderr
    assert result.stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("probe", "--pool", "empty", "--targets", "empty"), 3),
        (("--log-format", "json", "probe", "--pool", "empty", "--targets", "empty"), 3),
        (("probe",), 2),
    ],
)
def test_the_exit_code_stays_where_nothing_can_be_said(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "coevo_ray", *arguments]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(command, cwd=tmp_path, stderr=full, check=False).returncode == code
    reading, writing = os.pipe()
    os.close(reading)
    assert subprocess.run(command, cwd=tmp_path, stderr=writing, check=False).returncode == code
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_result_that_cannot_be_written_is_no_success(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coevo_ray", "plan", "--policy", "random", "--rows", "100", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert "No space left" in done.stderr


GATE_HERE = ("gate", "open", "--pool", "p", "--targets", "t", "--out", "o", "--settings", "gate.yaml")


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("gain: 3", GATE_HERE, "unknown key gain"),
        ("gate: {power: -1}", GATE_HERE, "power"),  # also out of a run's file
        ("gate: {last_power: 2}", GATE_HERE, "last_power without power"),
        ("gate: 3", GATE_HERE, "gate.yaml has no settings under gate"),
        ("[1]", GATE_HERE, "gate.yaml holds no settings"),
        ("rule: margin", (*GATE_HERE, "--rule", "best"), "rule"),  # options replace the file's
        ("rule: margin", ("gate", "--settings", "gate.yaml", "status", "--gate", "g"), "--settings before status"),
    ],
)
def test_the_gates_settings_can_lie_in_a_file(
    coevo_ray: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    result = coevo_ray(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr


def test_what_is_unforeseen_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("coevo_ray.app.api.doctor", fail)
    with pytest.raises(RuntimeError, match="a defect"):  # Python's own exit code for it is 1
        cli.main(["doctor"])


def test_the_module_is_the_command_line() -> None:
    command = [sys.executable, "-m", "coevo_ray", "plan", "--rows", "0", "--policy", "full"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "remedy: need rows >= 1" in result.stderr


def test_every_exit_code_is_documented() -> None:
    from coevo_ray import errors

    codes = {e.exit_code for e in (errors.CoevoError, errors.UsageError, errors.InputError, errors.StoppedError)}
    documented = {
        int(c) for c in re.findall(r"^\| (\d) \|", (ROOT / "docs" / "exit-codes.md").read_text(), re.MULTILINE)
    }
    assert documented == codes | {0}


@pytest.mark.parametrize(
    ("text", "name", "size"),
    [
        ("efficientnet_lite:0", "efficientnet_lite:0", None),
        ("efficientnet_lite:0@64", "efficientnet_lite:0", 64),
        ("hf:org/model#mean", "hf:org/model#mean", None),
        ("hf:org/model@main", "hf:org/model@main", None),
        ("hf:org/model@main@128", "hf:org/model@main", 128),
        ("model2vec:/data/a@b/model", "model2vec:/data/a@b/model", None),
    ],
)
def test_a_prior_may_name_a_size_and_a_revision(text: str, name: str, size: int | None) -> None:
    assert prior_settings(text) == {"name": name, "input_size": size}


def test_a_size_that_is_none_is_refused(coevo_ray: Command, tmp_path: Path) -> None:
    result = coevo_ray("encode", "--prior", "efficientnet_lite:0@64px", "--pool", str(tmp_path), "--out", str(tmp_path))
    assert result.returncode == 2 and "'64px' is not a number of pixels" in result.stderr


def test_with_json_stdout_has_the_result_alone(monkeypatch: pytest.MonkeyPatch, coevo_ray: Command) -> None:
    def loud(*_: object) -> dict[str, object]:
        sys.stdout.write("(raylet) a worker died\n")
        return {"ok": True, "problems": []}

    monkeypatch.setattr("coevo_ray.app.doctor.doctor", loud)
    told = coevo_ray("doctor", "--json")
    assert json.loads(told.stdout) == {"ok": True, "problems": []}
    assert "(raylet) a worker died" in told.stderr
    assert "(raylet) a worker died" in coevo_ray("doctor").stdout
