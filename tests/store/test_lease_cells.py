"""One contract for all cells."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from coevo_ray.store.lease_cells import Cell, FileCell, Seen, SettledCell
from coevo_ray.store.location import Location
from tests.store.cells import Clock, MemoryCell


@pytest.fixture(params=["memory", "file", "file without links", "settled"])
def cell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    if request.param == "memory":
        return MemoryCell()
    if request.param == "settled":
        return SettledCell(Location.parse(tmp_path / "cell"), sleep=Clock().sleep)
    if request.param == "file without links":

        def refuse(*arguments: object) -> None:
            raise PermissionError(1, "Operation not permitted")  # as FAT says it

        monkeypatch.setattr(os, "link", refuse)
    return FileCell(tmp_path / "cell")


def test_a_cell_is_created_once(cell: Cell) -> None:
    assert cell.read() is None
    first = cell.create(b"one")
    assert first is not None and first.content == b"one"
    assert cell.create(b"two") is None
    assert cell.read() == first


def test_a_cell_is_replaced_only_as_it_was_seen(cell: Cell) -> None:
    first = cell.create(b"one")
    assert first is not None
    second = cell.replace(b"two", first)
    assert second is not None and cell.read() == second
    assert cell.replace(b"three", first) is None
    assert cell.read() == second


def test_a_cell_is_removed_only_as_it_was_seen(cell: Cell) -> None:
    first = cell.create(b"one")
    assert first is not None
    second = cell.replace(b"longer than one", first)
    assert second is not None
    assert not cell.remove(first)
    assert cell.remove(second)
    assert cell.read() is None
    assert not cell.remove(second)
    assert cell.replace(b"three", second) is None
    assert cell.create(b"four") is not None


def test_a_cell_leaves_no_other_file(tmp_path: Path) -> None:
    cell = FileCell(tmp_path / "cell")
    first = cell.create(b"one")
    assert first is not None
    cell.create(b"two")
    cell.replace(b"three", Seen(b"never"))
    cell.replace(b"four", first)
    assert [file.name for file in tmp_path.iterdir()] == ["cell"]


def test_of_two_settled_writers_the_last_one_has_it(tmp_path: Path) -> None:
    place = Location.parse(tmp_path / "cell")
    other: list[Seen | None] = []

    def let_the_other_write(seconds: float) -> None:
        if not other:  # it had checked before this one wrote
            other.append(None)
            place.write_bytes(b"other")

    assert SettledCell(place, sleep=let_the_other_write).create(b"mine") is None
    assert place.read_bytes() == b"other"


def _compete(path: Path, seen: Seen, start: Event, won: multiprocessing.Queue[int], name: int) -> None:
    start.wait()
    if FileCell(path).replace(f"writer {name}".encode(), seen) is not None:
        won.put(name)


def test_one_of_many_processes_replaces_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    cell = FileCell(tmp_path / "cell")
    seen = cell.create(b"expired")
    assert seen is not None
    start, won = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_compete, args=(cell.path, seen, start, won, i)) for i in range(4)]
    for process in processes:
        process.start()
    winner = won.get(timeout=120)
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert won.empty()
    assert cell.read() == Seen(f"writer {winner}".encode())
