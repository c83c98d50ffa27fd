"""Trainers of others take the feed by two lines, and go on after the same batch with any number of processes."""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.pool import Pool
from tests.processes import Marked

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "trainers"
TRAINERS = ("lightning", "accelerate", "transformers")
TRAIN, TEST, BATCH = 1000, 400, 64
# Position of a batch (epoch, global samples) -> its rows over all processes.
Stream = dict[tuple[int, int], list[int]]


def code_of(script: str) -> list[str]:
    """The lines of an example's code, without its docstring and empty lines."""
    text = (SCRIPTS / script).read_text()
    docstring = ast.parse(text).body[0]
    assert isinstance(docstring, ast.Expr)
    return [line for line in text.splitlines()[docstring.end_lineno :] if line.strip()]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_lines_differ(trainer: str) -> None:
    plain, fed = code_of(f"{trainer}_plain.py"), code_of(f"{trainer}_feed.py")
    changes = [line for line in difflib.ndiff(plain, fed) if line[0] in "+-"]
    added = [line for line in changes if line[0] == "+"]
    assert len(added) == 2, changes
    assert "import Feed" in added[0]
    assert ".loader(" in added[1]
    assert len(changes) - len(added) <= 1, "more was taken away than the line that made the DataLoader"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """The digits as a folder of images by class, and the pool of those to train on."""
    folder, digits = tmp_path_factory.mktemp("digits"), load_digits()
    for i, (image, label) in enumerate(zip(digits.images[: TRAIN + TEST], digits.target, strict=False)):
        place = folder / ("train" if i < TRAIN else "test") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(image * 15.9, np.ones((2, 2))).astype(np.uint8)).save(place / f"{i:04}.png")
    ingest({"sources": [str(folder / "train")], "test_fraction": 0}, folder / "pool")
    return folder


def run(script: str, data: Path, out: Path, log: Path, *, processes: int = 1, dies_at: int = 0) -> str:
    """Runs an example to its end, or to the batch at which it dies; returns what it printed."""
    command = ["-m", "tests.examples.recorded", str(log), str(dies_at), str(SCRIPTS / script), str(data), str(out)]
    if processes > 1:
        nodes = ["--standalone", "--nproc-per-node", str(processes)]
        command = ["-m", "torch.distributed.run", *nodes, *command]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"ACCELERATE_USE_CPU": "true"}  # as `accelerate launch --cpu` has it
    example = Marked([sys.executable, *command], log.parent, environment)
    code = example.wait()
    example.assert_gone()
    assert (code == 0) == (dies_at == 0), example.err.read_text()
    return example.out.read_text()


def stream_of(log: Path) -> tuple[Stream, set[int]]:
    """The batches that a run's processes were handed, and how many processes there were."""
    parts: dict[tuple[int, int], list[int]] = {}
    worlds = set()
    for file in log.parent.glob(f"{log.name}.*"):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            worlds.add(record["world"])
            parts.setdefault((record["epoch"], record["offset"]), []).extend(record["rows"])
    return {position: sorted(rows) for position, rows in parts.items()}, worlds


def accuracy_of(printed: str) -> float:
    found = re.findall(r"accuracy (\d\.\d+)", printed)
    assert found, printed
    return float(found[-1])


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_it_goes_on_with_another_number_of_processes_after_the_same_batch(
    trainer: str, data: Path, tmp_path: Path
) -> None:
    script, out = f"{trainer}_feed.py", tmp_path / "stopped"
    printed = run(script, data, tmp_path / "whole", tmp_path / "whole.log")
    assert accuracy_of(printed) > 0.6
    whole, _ = stream_of(tmp_path / "whole.log")
    assert len(whole) == 4 * 8  # epochs of 500 of the 1000 rows
    for epoch in range(4):
        rows = [row for (of, _), part in whole.items() if of == epoch for row in part]
        assert len(set(rows)) == len(rows) == TRAIN // 2
    taken = sorted(row for (epoch, _), part in whole.items() if epoch < 2 for row in part)
    assert taken == list(range(TRAIN)), "rotation takes every row once in two epochs of a half"

    # Two processes die in the second epoch, after a checkpoint inside of it; one goes on.
    run(script, data, out, tmp_path / "two.log", processes=2, dies_at=15)
    before, worlds = stream_of(tmp_path / "two.log")
    assert worlds == {2}
    assert before == {position: whole[position] for position in before}
    assert max(before)[0] == 1
    printed = run(script, data, out, tmp_path / "one.log")
    assert accuracy_of(printed) > 0.6
    after, worlds = stream_of(tmp_path / "one.log")
    assert worlds == {1}
    first = min(after)
    # The last checkpoint was after batch 4. Accelerate has those four made again, and drops them.
    assert first == (1, BATCH if trainer == "accelerate" else 5 * BATCH)
    assert after == {position: rows for position, rows in whole.items() if position >= first}
    assert Pool.open(data / "pool").labels().shape == (TRAIN,)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["accelerate", "transformers"])
def test_processes_that_accelerate_leaves_apart_are_refused(trainer: str, data: Path, tmp_path: Path) -> None:
    """On CPUs it does, unless it is told: each process would train a network of its own on its part of the rows."""
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(SCRIPTS / f"{trainer}_feed.py"),
    ]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    example = Marked([sys.executable, *command, str(data), str(tmp_path / "out")], tmp_path, environment)
    assert example.wait() != 0
    assert "there are 2 processes, and Accelerate trains each of them alone" in example.err.read_text()
    assert "ACCELERATE_USE_CPU=true" in example.err.read_text()
    example.assert_gone()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_plain_twin_runs_too(trainer: str, data: Path, tmp_path: Path) -> None:
    assert accuracy_of(run(f"{trainer}_plain.py", data, tmp_path / "out", tmp_path / "log")) > 0.6
