"""Every command that works on artifacts, told to stop at random moments: exit code 4 in time, and no process left."""

from __future__ import annotations

import functools
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import coevo_ray
from tests.former.make import ENCODE, GATE, SAE, source
from tests.processes import Marked
from tests.processes import coevo_ray as start

pytestmark = pytest.mark.slow

TOLD_S, ROOT = 10.0, Path(__file__).parents[1]
LEARN = ["--model", "tests.former.network:tiny", "--image-size", "8", "--epochs", "40", "--cpus", "0.5"]
COLUMNS = {"key_column": "key", "feature_columns": ["pixels"]}


def run_file(data: Path, out: Path, epochs: int) -> dict[str, object]:
    return {
        "out": str(out),
        "pool": {"sources": [{"uri": str(data / "mine.parquet"), **COLUMNS}], "test_fraction": 0.2, "shard_rows": 40},
        "encode": {**ENCODE, "shard_rows": 40},
        "sae": SAE,
        "gate": {**GATE, "max_rounds": 2},
        "train": {
            "model": "tests.former.network:tiny",
            "image_size": 8,
            "epochs": epochs,
            "labels": "gate",
            "policies": ["factors"],
        },
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Inputs of the commands: a finished run, its file, an open pool with targets, answers."""
    folder = tmp_path_factory.mktemp("sigterm")
    digits = pq.read_table(source(folder))
    pq.write_table(digits.slice(0, 240), folder / "mine.parquet")
    pq.write_table(digits.slice(240), folder / "open.parquet")
    (folder / "run.yaml").write_text(yaml.safe_dump(run_file(folder, folder / "run", 1)))
    coevo_ray.run(folder / "run.yaml")
    settings = {"sources": [{"uri": str(folder / "open.parquet"), **COLUMNS}], "test_fraction": 0.2}
    other = coevo_ray.ingest(settings, folder / "open")
    coevo_ray.encode(ENCODE, other, folder / "open-encode", like=folder / "run/encode/targets")
    return folder


def in_a_copy(name: str, *arguments: str) -> Callable[[Path, Path], list[str]]:
    """A command that changes a folder of the run: `OUT` in its arguments is a copy of it."""

    def command(made: Path, out: Path) -> list[str]:
        shutil.copytree(made / "run" / name, out)
        return [word.replace("OUT", str(out)).replace("MADE", str(made)) for word in arguments]

    return command


def plainly(*arguments: str) -> Callable[[Path, Path], list[str]]:
    """A command that makes `OUT` from what is in `MADE`."""
    return lambda made, out: [word.replace("OUT", str(out)).replace("MADE", str(made)) for word in arguments]


def of_a_file(word: str, made: Path, out: Path) -> list[str]:
    """A command of a run's file whose stages are done but for its training."""
    if word == "train":
        shutil.copytree(made / "run", out, ignore=shutil.ignore_patterns("train"))
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(run_file(made, out, 40)))
    return [word, str(file)]


POOL, TARGETS = ("--pool", "MADE/run/pool"), ("--targets", "MADE/run/encode/targets")
COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "ingest": plainly("ingest", "MADE/mine.parquet", "--shard-rows", "8", "--out", "OUT"),
    "append": in_a_copy(
        *("pool", "ingest", "MADE/open.parquet", "--key-column", "key", "--feature-column", "pixels"),
        *("--append", "--key-prefix", "new/", "--out", "OUT"),
    ),
    "encode": plainly(
        *("encode", *POOL, "--prior", "column:pixels", "--dim", "16", "--shared", "60"),
        *("--shard-rows", "8", "--out", "OUT"),
    ),
    "merge": plainly("merge", "MADE/run/encode", "--out", "OUT"),
    "probe": plainly("probe", *TARGETS, *POOL),
    "plan": plainly("plan", "--policy", "factors", "--rows", "3000000", "--epochs", "30"),
    "sae": plainly("sae", *POOL, *TARGETS, "--latents", "32", "--k", "4", "--epochs", "400", "--out", "OUT"),
    "sae score": plainly(
        "sae", "score", "--features", "MADE/run/encode/targets", "--model", "MADE/run/sae/model", "--out", "OUT"
    ),
    "sae show": plainly("sae", "show", "MADE/run/sae", *POOL, "--out", "OUT.html"),
    "sae export": plainly("sae", "export", "MADE/run/sae/model", "--out", "OUT"),
    "gate": plainly("gate", *POOL, *TARGETS, "--round-fraction", "0.01", "--out", "OUT"),
    "gate open": plainly("gate", "open", *POOL, *TARGETS, "--out", "OUT"),
    "gate next": in_a_copy("gate", "gate", "next", "--gate", "OUT"),
    "gate submit": in_a_copy("gate", "gate", "submit", "--gate", "OUT"),
    "gate set": in_a_copy("gate", "gate", "set", "--gate", "OUT", "--max-rounds", "9"),
    "gate export": plainly("gate", "export", "--gate", "MADE/run/gate", "--pseudo-labels", "0.9", "--out", "OUT"),
    "gate report": plainly("gate", "report", "--gate", "MADE/run/gate", "--out", "OUT.html"),
    "train supervised": plainly(
        "train", "--objective", "supervised", *POOL, "--policy", "full", *LEARN, "--batch-rows", "4", "--out", "OUT"
    ),
    "train semi_supervised": plainly(
        "train", "--objective", "semi_supervised", *POOL, "--labels", "MADE/run/gate", *LEARN, "--out", "OUT"
    ),
    "train targets": plainly("train", "--objective", "targets", *POOL, *TARGETS, *LEARN, "--out", "OUT"),
    "train FILE": functools.partial(of_a_file, "train"),
    "run": functools.partial(of_a_file, "run"),
    "report": plainly("report", "MADE/run.yaml"),
    "retrieve": plainly(
        *("retrieve", "--gate", "MADE/run/gate", "--pool", "MADE/open", "--targets", "MADE/open-encode/targets"),
        *("--budget", "5", "--out", "OUT"),
    ),
    "dedup": plainly("dedup", *POOL, *TARGETS, "--out", "OUT"),
    "export": plainly("export", "MADE/run/encode/targets", "--out", "OUT"),
    "start": plainly(
        *("start", "MADE/mine.parquet", "--go", "--prior", "efficientnet_lite:0", "--file", "OUT.yaml", "--out", "OUT")
    ),
    "demo": plainly("demo", "--out", "OUT"),
    "doctor": plainly("doctor", "--verify", "MADE"),
    "status": plainly("status", "MADE/run"),
}


def is_ready(command: Marked) -> bool:
    """Tests whether the command handles SIGTERM: before, the interpreter itself is starting."""
    status = Path(f"/proc/{command.process.pid}/status")
    (caught,) = [line for line in status.read_text().splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.timeout(900)  # on a busy machine the start of Ray alone takes minutes
@pytest.mark.parametrize("moment", ["start-up", "work"])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_command_that_is_told_to_stop_does_so(made: Path, tmp_path: Path, name: str, moment: str) -> None:
    arguments = COMMANDS[name](made, tmp_path / "out")
    wait_s = random.Random(f"{name} {moment}").uniform(0, 1 if moment == "start-up" else 8)
    command = start(tmp_path, *arguments, environment={"PYTHONPATH": str(ROOT)})
    try:
        while command.process.poll() is None and not is_ready(command):
            time.sleep(0.01)
        if moment == "work":  # those without Ray are over before it is said
            while command.process.poll() is None and "start Ray" not in command.err.read_text():
                time.sleep(0.05)
        time.sleep(wait_s)
        command.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        code, seconds = command.wait(60), time.monotonic() - told
        said = command.err.read_text()
        # 0 says that it was done: short ones are before the signal comes, or a library drops its error.
        assert code in (0, 4), f"exit code {code} after {seconds:.1f} s\n{said}"
        assert ("stopped by SIGTERM" in said) == (code == 4)
        assert seconds < TOLD_S, f"it took {seconds:.1f} s\n{said}"
        sys.stderr.write(f"{name}, {moment}: {code} after {seconds:.1f} s{' at once' * ('not ended' in said)}\n")
        command.assert_gone(killed="not ended after" in said)
    finally:
        command.end()
