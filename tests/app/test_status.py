"""Status: from the folder alone, of work that is finished, under way, or was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coevo_ray.app.status import ERROR, noting_error, status
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.layout import METRICS
from coevo_ray.store.lease import Holder
from coevo_ray.store.location import LEASE, Location
from coevo_ray.store.process import Process
from coevo_ray.store.writing import writing
from tests.command_line import Command

ROWS = 40


def table(rows: int) -> pa.Table:
    return pa.table({"row_id": list(range(rows))})


def pool(folder: Path) -> None:
    place = Location.parse(folder / "pool")
    with writing(place):
        begin(place, "pool", {}, {})
        finish(
            place, "pool", {}, {}, [write_table(place, "rows-0.parquet", table(ROWS))], {"rejected": 3, "seconds": 2.5}
        )


def of(folder: Path, name: str) -> dict[str, Any]:
    [found] = [each for each in status(folder)["artifacts"] if each["artifact"] == name]
    assert isinstance(found, dict)
    return found


def test_work_under_way_is_told_with_its_share_rate_and_writer(tmp_path: Path) -> None:
    pool(tmp_path)
    targets = Location.parse(tmp_path / "encode" / "targets")
    with writing(targets, at_once=True):
        begin(targets, "targets", {"dim": 4}, {})
        write_table(targets, "a.parquet", table(10))
        time.sleep(0.05)
        write_table(targets, "b.parquet", table(6))
        assert status(tmp_path)["state"] == "running"
        found = of(tmp_path, "encode/targets")
    assert (found["kind"], found["state"], found["rows"], found["files"]) == ("targets", "running", 16, 2)
    assert found["share"] == 0.4 and 0 < found["rows_per_s"] < 16 / 0.05
    assert f"process {os.getpid()} on " in found["writer"]
    assert found["bytes"] == sum(p.stat().st_size for p in (tmp_path / "encode/targets").glob("*.parquet"))
    later = status(tmp_path)
    assert later["state"] == "stopped" and [each["artifact"] for each in later["artifacts"]] == [
        "pool",
        "encode/targets",
    ]
    assert later["artifacts"][0] == {
        "artifact": "pool", "kind": "pool", "state": "finished", "rows": ROWS, "rejected": 3, "seconds": 2.5,
        "created": later["artifacts"][0]["created"], "writer": None,
    }  # fmt: skip
    assert later["artifacts"][1]["writer"] is None and later["error"] is None
    assert json.loads(json.dumps(later)) == later


def test_a_training_tells_its_epochs_and_artifacts_inside_others_their_own_files(tmp_path: Path) -> None:
    for name, kind, config in (("train/full", "model", {"epochs": 8}), ("train/full/evidence", "evidence", {})):
        place = Location.parse(tmp_path / name)
        with writing(place):
            begin(place, kind, config, {})
            write_blob(place, METRICS if kind == "model" else "x.bin", b"{}\n{}\n")
    assert of(tmp_path, "train/full")["share"] == 0.25
    assert of(tmp_path, "train/full")["files"] == of(tmp_path, "train/full/evidence")["files"] == 1
    assert of(tmp_path / "train" / "full" / "evidence", ".")["share"] is None


@pytest.mark.parametrize(("seconds", "renewed", "state"), [(60.0, 0, "running"), (60.0, -300, "stopped")])
def test_a_writer_of_another_machine_counts_while_its_lease_is_young(
    tmp_path: Path, seconds: float, renewed: float, state: str
) -> None:
    from dataclasses import replace
    from datetime import datetime, timedelta

    place = Location.parse(tmp_path / "pool")
    with writing(place):
        begin(place, "pool", {}, {})
    holder = Holder.new(seconds, replace(Process.current(), space="of another machine"))
    then = (datetime.fromisoformat(holder.renewed) + timedelta(seconds=renewed)).isoformat()
    (tmp_path / "pool" / LEASE).write_bytes(replace(holder, renewed=then).to_bytes())
    assert status(tmp_path)["state"] == state


def test_the_error_that_ended_a_run_is_told_until_one_ends_well(tmp_path: Path) -> None:
    pool(tmp_path)
    place = Location.parse(tmp_path)
    for error in (StoppedError("the disk is full", "free some"), InputError("a file is damaged", "replace it")):
        with pytest.raises(type(error)), noting_error(place):
            raise error
        told = status(tmp_path)["error"]
        assert (told["cause"], told["remedy"], told["exit_code"]) == (error.cause, error.remedy, error.exit_code)
    with pytest.raises(UsageError), noting_error(place):  # nothing was done: what is there stays
        raise UsageError("wrong", "right")
    assert status(tmp_path)["error"]["cause"] == "a file is damaged"
    (tmp_path / ERROR).write_text("{")
    assert status(tmp_path)["error"] is None
    with noting_error(place):
        pass
    assert not (tmp_path / ERROR).exists()


def test_the_command_prints_it(tmp_path: Path, coevo_ray: Command) -> None:
    pool(tmp_path)
    with pytest.raises(StoppedError), noting_error(Location.parse(tmp_path)):
        raise StoppedError("the node [10.0.0.1] died", "run it again")
    shown = coevo_ray("status", str(tmp_path))
    assert shown.returncode == 0
    assert "finished" in shown.stdout and "last error" in shown.stdout and "the node [10.0.0.1] died" in shown.stdout
    asked = coevo_ray("status", str(tmp_path / "pool"), "--json")
    assert json.loads(asked.stdout)["artifacts"][0]["rows"] == ROWS
    nothing = coevo_ray("status", str(tmp_path / "absent"))
    assert nothing.returncode == 3 and "no artifact at or below" in nothing.stderr


def test_it_needs_neither_ray_nor_torch(tmp_path: Path) -> None:
    pool(tmp_path)
    code = (
        f"import sys, coevo_ray; coevo_ray.status({str(tmp_path)!r}); print(*({{'ray', 'torch'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
