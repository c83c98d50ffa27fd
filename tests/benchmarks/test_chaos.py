"""The chaos harness: kill points of both journals, what its checks find, and a handful of kills on a real cluster."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.chaos.check import Undisturbed, facts_of
from benchmarks.chaos.faults import FaultyStore, possible
from benchmarks.chaos.inputs import make_inputs
from benchmarks.chaos.journals import kill_points
from benchmarks.chaos.processes import MARK, Marked
from benchmarks.chaos.services import Gate, Ledger
from coevo_ray.actors.ledger_service import LedgerService
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location

_ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("subject", [Ledger(), Gate()], ids=lambda subject: subject.name)
def test_a_service_that_dies_anywhere_keeps_what_it_acknowledged(subject: Ledger | Gate) -> None:
    found = kill_points(subject, 60, seed=0)
    assert (found["points"], found["held"], found["lost"]) == (60, 60, [])
    assert found["boundaries"] == 30 and found["possible"] > 10_000


@pytest.mark.parametrize("subject", [Ledger(), Gate()], ids=lambda subject: subject.name)
def test_the_same_work_is_as_many_units_at_any_time(subject: Ledger | Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time is written in 10 to 18 characters; a point behind the last byte of a shorter record is no kill."""
    possible = set()
    for now in (1_700_000_001.0, 1_700_000_002.123456):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        possible.add(kill_points(subject, 1, seed=0)["possible"])
    assert len(possible) == 1


class Forgetful(Ledger):
    """A ledger whose last record is gone after a restart."""

    def make(self, folder: Path) -> LedgerService:
        records = sorted(folder.glob("*.record"))
        if len(records) > 1:
            records[-1].unlink()
            (folder / "head").unlink(missing_ok=True)
        return super().make(folder)


def test_a_record_that_is_lost_is_found() -> None:
    assert kill_points(Forgetful(), 20, seed=0)["held"] < 20


def test_writes_that_are_acknowledged_before_they_are_synced_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut shows it: the names and bytes of a file may be gone."""
    monkeypatch.setattr(Location, "create_bytes", lambda place, *parts: bool(_plainly(place, b"".join(parts))))
    assert kill_points(Ledger(), 60, seed=0)["held"] < 60


def _plainly(place: Location, content: bytes) -> int:
    with Path(place.path).open("wb") as stream:
        return stream.write(content)


def test_what_differs_from_an_undisturbed_run_is_named(tmp_path: Path) -> None:
    make_inputs(tmp_path, side=16)
    journal = Journal(Location(str(tmp_path / "journal")))
    journal.append("commit", {"epoch": 0})
    known = Undisturbed.of(facts_of(tmp_path), facts_of(tmp_path))
    assert known.difference(facts_of(tmp_path)) == [] and len(known.facts) > 20
    journal.append("commit", {"epoch": 0})
    assert known.difference(facts_of(tmp_path)) == ["journal commit of epoch 0, again"]
    file = tmp_path / "targets" / "a.parquet"
    file.write_bytes((tmp_path / "thumbnails" / "a.parquet").read_bytes())
    assert "targets/a.parquet" in known.difference(facts_of(tmp_path))


def test_only_marked_processes_are_found_and_ended() -> None:
    nap = [sys.executable, "-c", "import time; time.sleep(600)"]
    mine, other = (subprocess.Popen(nap, env={**os.environ, MARK: mark}) for mark in ("mine", "another"))
    try:
        marked = Marked("mine")
        assert [process.pid for process in marked.wait(lambda found: len(found) == 1, 30)] == [mine.pid]
        marked.end()
        assert mine.wait(30) == -signal.SIGTERM and marked.all() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif("tenth_write_fails" not in possible(), reason="needs a C compiler and Linux")
def test_each_tenth_write_below_the_store_fails_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = FaultyStore(tmp_path, tmp_path / "store")
    writes = (
        "import sys\nfrom pathlib import Path\n"
        "for i in range(35):\n"
        " try: Path(sys.argv[1], str(i)).open('wb', buffering=0).write(b'x')\n"
        " except OSError as error: print(i, error.errno)"
    )

    def failed(folder: str) -> list[str]:
        command = [sys.executable, "-c", writes, str(tmp_path / folder)]
        environment = {**os.environ, **store.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    assert failed("store") == []
    store.set(every=10)
    (tmp_path / "store-beside").mkdir()
    assert failed("store") == [f"{i} {errno.EIO}" for i in (9, 19, 29)] and failed(".") == failed("store-beside") == []
    assert store.counts() == (35, 3)
    store.set()
    assert failed("store") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_handful_of_kills(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--json", "--quick", "--record", str(tmp_path / "record.json")]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == "chaos" and result["lost"] == [], done.stderr
    assert result["held"] == result["kills"] >= 4
    assert sum(target["kills"] for target in result["by_target"].values()) == result["kills"]
    assert json.loads((tmp_path / "record.json").read_text())["kills"] == result["kills"]
    for journal in ("ledger", "gate"):
        points = result["journal_kill_points"][journal]
        assert points["held"] == points["points"] == 100
