"""Made `tests/former/0.1.0.tar.gz`, with the code of version 0.1.0; it uses that version's public names alone.

    PYTHONPATH=. python tests/former/make.py FOLDER     # from the root of a checkout of 0.1.0, with this folder in it

It holds a pool with vectors, targets, sae, a gate that has learned once and whose second round is half answered, a
training that was killed in its fifth epoch or so, the same undisturbed, and a whole run. The labels are shifted
by one class in a tenth of the rows, so that evidence finds something.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml
from PIL import Image
from sklearn.datasets import load_digits

ROWS = 360
TRAIN = {"model": "tests.former.network:tiny", "image_size": 8, "epochs": 12, "batch_rows": 4, "keep": 0.5, "seed": 3}
POOL = {"test_fraction": 0.2, "shard_rows": 120}
ENCODE = {"priors": ["column:pixels"], "dim": 16, "shared": 60}
SAE = {"latents": 32, "k": 4, "epochs": 4}
GATE = {"seed_fraction": 0.1, "round_fraction": 0.1}


def source(folder: Path) -> str:
    """Writes the digits as Parquet: image, key, label, pixels."""
    digits = load_digits()
    images = []
    for pixels in digits.images[:ROWS]:
        data = io.BytesIO()
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(data, "PNG")
        images.append(data.getvalue())
    labels = digits.target[:ROWS].astype(np.int64)
    labels[::10] = (labels[::10] + 1) % 10
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(digits.data[:ROWS].astype(np.float32).reshape(-1)), 64)
    keys = [f"digit-{i}" for i in range(ROWS)]
    table = pa.table({"image": pa.array(images), "key": keys, "label": labels, "pixels": vectors})
    pq.write_table(table, folder / "digits.parquet")
    return str(folder / "digits.parquet")


def command(*arguments: str) -> None:
    """Runs a command of the command line."""
    subprocess.run([sys.executable, "-m", "coevo_ray", *arguments], check=True)


def family(pid: int) -> list[int]:
    """A process and all below it: its Ray session and the workers."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(status[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def killed_part_way(out: Path, *arguments: str) -> None:
    """Runs a training and kills it, Ray and all, once the figures of four epochs are there."""
    running = subprocess.Popen([sys.executable, "-m", "coevo_ray", *arguments])
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 4:
        time.sleep(0.02)
        assert running.poll() is None, "it ended before it could be killed"
    for pid in family(running.pid):
        os.kill(pid, signal.SIGKILL)
    running.wait()


def main(folder: Path) -> None:
    """Makes everything below `folder`."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    settings = {"sources": [{"uri": source(folder), "key_column": "key", "feature_columns": ["pixels"]}], **POOL}
    Path("run.yaml").write_text(
        yaml.safe_dump(
            {
                "title": "First version",
                "out": "run",
                "pool": settings,
                "encode": ENCODE,
                "sae": SAE,
                "gate": {**GATE, "max_rounds": 2},
                "train": {
                    **TRAIN,
                    "epochs": 3,
                    "labels": "gate",
                    "policies": ["rotation", "factors"],
                    "compute": {"actors": 1},
                },
            }
        )
    )
    command("run", "run.yaml")
    import coevo_ray

    pool = coevo_ray.ingest(settings, "pool")
    coevo_ray.encode(ENCODE, pool, "encode")
    coevo_ray.sae(SAE, "pool", "encode/targets", "sae")
    gate = coevo_ray.gate_open(GATE, "pool", "encode/targets", "gate")
    truth = pool.labels()
    for part in (1, 2):
        asked = gate.next().row_ids
        some = asked[: len(asked) // part]
        answers = pa.table({"row_id": some, "label": truth[some], "annotator": ["ann"] * len(some)})
        pacsv.write_csv(answers, f"answers-{part}.csv")
        coevo_ray.gate_submit(gate, [f"answers-{part}.csv"])
    train: tuple[str, ...] = ("train", "--objective", "supervised", "--pool", "pool", "--targets", "encode/targets")
    train += ("--scores", "sae/scores", "--policy", "factors")
    for name, value in TRAIN.items():
        train += (f"--{name.replace('_', '-')}", str(value))
    command(*train, "--out", "trained")
    killed_part_way(folder / "killed", *train, "--out", "killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
