"""What can be known of a submission before there is a cluster; a real one is in `tests/test_run.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from coevo_ray.app.submit import _output_of, _sent, _variables, submit
from coevo_ray.errors import UsageError
from tests.command_line import Command

RUN = """
out: {out}
pool: {{sources: ["sample:digits"]}}
encode: {{priors: [{{name: "efficientnet_lite:0", input_size: 32}}]}}
sae: {{}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(RUN.format(out="/shared/mine"))
    return tmp_path / "mine.yaml"


def test_the_output_is_that_of_the_command_or_of_its_file(file: Path) -> None:
    assert _output_of(["run", str(file)]) == "/shared/mine"
    assert _output_of(["run", str(file), "--out", "/other/../place"]) == _output_of(["encode", "--out=/place"])
    assert _output_of(["ingest", "x", "--out", "s3://bucket/pool"]) == "s3://bucket/pool"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "no command to submit"),
        (["encode", "--pool", "/p"], "encode without --out"),
        (["encode", "--out", "runs/here"], "runs/here is relative"),
        (["run", "absent.yaml"], "cannot read the configuration"),
    ],
)
def test_what_names_no_output_for_all_nodes_is_refused(command: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        submit(command, address="http://127.0.0.1:1")


def test_the_file_of_a_run_is_sent_alone_and_gone_afterwards(file: Path, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"x")
    with _sent(["run", str(file), "--out", "/o"], None) as (folder, sent):
        assert sent == ["run", "mine.yaml", "--out", "/o"]
        assert [p.name for p in Path(folder).iterdir()] == ["mine.yaml"]
        assert (Path(folder) / "mine.yaml").read_text() == file.read_text()
    assert not Path(folder).exists()
    with _sent(["run", "mine.yaml"], tmp_path) as (folder, sent):
        assert (folder, sent) == (str(tmp_path), ["run", "mine.yaml"])


def test_variables_are_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a value")
    assert _variables(["MINE"]) == {"MINE": "a value"}
    with pytest.raises(UsageError, match="not set: ABSENT_ONE"):
        _variables(["MINE", "ABSENT_ONE"])


def test_a_cluster_that_is_not_there_is_told_with_a_remedy(file: Path, coevo_ray: Command) -> None:
    ended = coevo_ray("submit", "--address", "http://127.0.0.1:1", "run", str(file), "--json")
    assert ended.returncode == 2
    assert "cannot reach the jobs of the Ray cluster at http://127.0.0.1:1" in ended.stderr
    assert "--address http://HEAD:8265" in ended.stderr and ended.stdout == ""
