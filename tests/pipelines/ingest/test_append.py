from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coevo_ray import cli
from coevo_ray.config import PoolConfig
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.ingest import ingest as module
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pool.pool import Pool
from coevo_ray.store.verification import verify
from tests.command_line import Command
from tests.pipelines.ingest.helpers import reasons, rows, settings, snapshot
from tests.pool.pictures import encoded, picture, png, write_images, write_parquet, write_tar
from tests.processes import coevo_ray as start

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "first"
    return write_images(
        folder, {f"{c}/{i}.png": png(ord(c) * 10 + i) for c in "ab" for i in range(6)} | {"a/x.png": b"x"}
    )


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 new images, one that has a key of the pool, one that cannot be read."""
    folder = tmp_path_factory.mktemp("more") / "more"
    images = {f"b/{i}.png": png(500 + i) for i in range(5, 17)}
    return write_images(folder, images | {"a/bad.png": b"no image"})


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pool") / "pool"
    ingest(settings(source), place)
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "pool")  # with modification times
    return tmp_path / "pool"


def append(more: Path | dict[str, Any], place: Path, **options: Any) -> Pool:
    item = more if isinstance(more, dict) else str(more)
    return ingest({"sources": [item], "max_reject_fraction": 0.5, **options}, place, append=True)


def without_manifest(files: dict[str, Any], *others: str) -> dict[str, Any]:
    return {name: content for name, content in files.items() if name not in ("manifest.json", *others)}


def test_earlier_rows_and_files_stay_and_new_ones_follow(place: Path, more: Path) -> None:
    before, old = snapshot(place), Pool.open(place)
    old_rows = rows(old)
    new = append(more, place)
    after = snapshot(place)
    assert {n: after[n] for n in before if n != "manifest.json"} == {
        n: before[n] for n in before if n != "manifest.json"
    }
    assert {i: row for i, row in rows(new).items() if i < 12} == old_rows
    added = [row for i, row in rows(new).items() if i >= 12]
    assert [row[0] for row in added] == sorted(f"b/{i}.png" for i in range(6, 17))
    assert {row[2] for row in added} == {1}  # as the pool numbers its classes
    assert sorted(reasons(new)) == sorted(
        [("a/x.png", "not an image that Pillow can read (1 bytes)"), *reasons(new)[1:]]
    )
    assert ("b/5.png", "duplicate key") in reasons(new)
    held_out = choose_rows(np.arange(12, 23), round(0.2 * 11), seed=0)
    assert new.test_ids().tolist() == [*old.test_ids(), *held_out]
    assert verify(new.location, new.manifest) == []


def test_the_manifest_tells_of_all_sources(place: Path, source: Path, more: Path) -> None:
    old, new = Pool.open(place), append(more, place)
    summary = new.manifest.summary
    assert [s["uri"] for s in new.manifest.config["sources"]] == [str(source), str(more)]
    assert new.manifest.identity != old.manifest.identity
    assert summary["parts"] == [
        {"sources": [str(source)], "first_row_id": 0, "rows": 12},
        {"sources": [str(more)], "first_row_id": 12, "rows": 11},
    ]
    assert (summary["rows"], len(new), summary["labelled"], summary["classes"]) == (23, 23, 23, 2)
    assert (summary["train_rows"], summary["test_rows"]) == (len(new.train_ids()), len(new.test_ids()))
    assert (summary["rejected"], sum(summary["reject_reasons"].values())) == (3, 3)
    assert summary["reject_reasons"] == {"not an image that Pillow can read": 2, "duplicate key": 1}
    assert summary["bytes"] == sum(f.stat().st_size for f in place.glob("*.parquet"))
    # Who names both sources means this pool.
    assert ingest(settings(source, more), place).manifest == new.manifest
    with pytest.raises(UsageError, match="made with other settings"):
        ingest(settings(source), place)


def test_appending_again_changes_nothing(place: Path, more: Path, source: Path) -> None:
    append(more, place)
    before = snapshot(place)
    append(more, place)
    append(source, place)
    assert snapshot(place) == before
    with pytest.raises(InputError, match="elsewhere does not exist"):
        ingest({"sources": [str(more), "elsewhere"]}, place, append=True)


def test_new_sources_may_be_named_beside_those_that_are_there(place: Path, source: Path, more: Path) -> None:
    pool = ingest({"sources": [str(source), str(more)], "max_reject_fraction": 0.5}, place, append=True)
    assert [s["uri"] for s in pool.manifest.config["sources"]] == [str(source), str(more)]
    assert len(pool) == 12 + 11


def test_several_appends_of_several_formats(place: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", [(f"t{i}.png", png(700 + i)) for i in range(7)])
    write_parquet(tmp_path / "q.parquet", image=[png(800 + i) for i in range(4)], label=[0, 1, 0, 1])
    first = append(tmp_path / "t.tar", place, compute={"reader_cpus": 0.1})
    middle = snapshot(place)
    second = append({"uri": str(tmp_path / "q.parquet"), "split": "test"}, place)
    after = snapshot(place)
    assert without_manifest(middle).items() <= after.items()
    assert (len(first), len(second)) == (19, 23)
    assert second.test_ids().tolist()[-4:] == [19, 20, 21, 22]
    assert second.row_ids().tolist() == list(range(23))
    assert [p["first_row_id"] for p in second.manifest.summary["parts"]] == [0, 12, 19]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write_rejects", "finish", "end_append"])
def test_an_append_that_is_cut_off_leaves_the_pool_and_is_continued(
    place: Path, more: Path, step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = snapshot(place)
    once = append(more, Path(shutil.copytree(place, tmp_path / "other")))

    class Cut(BaseException):
        pass

    def cut(*_: Any, **__: Any) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(module, step, cut)
        with pytest.raises(Cut):
            append(more, place)
    assert (place / "_append.json").exists()
    middle = snapshot(place)
    if step != "end_append":
        assert {n: middle[n] for n in old} == old
        assert len(Pool.open(place)) == 12
        assert len(reasons(Pool.open(place))) == 1
        with pytest.raises(UsageError, match=r"another append .* is unfinished: there") as caught:
            append(place.parent, place)
        assert "append" in caught.value.remedy
    lost = place / "rows-000004.parquet"
    if step == "write_rejects":
        lost.unlink()
    new = append(more, place)
    assert not (place / "_append.json").exists()
    assert rows(new) == rows(once)
    assert (new.manifest.identity, reasons(new)) == (once.manifest.identity, reasons(once))
    written = {n for n in middle if n.startswith("rows-") and n != lost.name}
    assert {n: snapshot(place)[n] for n in written} == {n: middle[n] for n in written}  # not made twice


def test_what_a_given_up_append_left_is_not_taken_for_another_ones(place: Path, more: Path, tmp_path: Path) -> None:
    images = {f"b/n{i}.png": png(900 + i) for i in range(12)}
    other = write_images(tmp_path / "other", images | {"a/bad.png": b"no image"})  # the same row_ids in each file
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    append(other, copy)
    for name in ("rows-000003.parquet", "rows-000004.parquet"):  # as if it had been cut off, then given up
        shutil.copy(copy / name, place / name)
    new = append(more, place)
    assert [row[0] for i, row in rows(new).items() if i >= 12] == sorted(f"b/{i}.png" for i in range(6, 17))


def test_settings_are_the_pools_own(place: Path, more: Path) -> None:
    before = snapshot(place)
    for changed in ({"seed": 1}, {"test_fraction": 0.5}, {"max_side": 16}, {"reject_duplicates": "content"}):
        name, value = next(iter(changed.items()))
        with pytest.raises(UsageError, match=f"{name}: there .*, asked for {value!r}"):
            append(more, place, **changed)
    assert snapshot(place) == before
    given = PoolConfig.model_validate({"sources": [str(more)], "seed": 0, "max_reject_fraction": 0.5})
    assert len(ingest(given, place, append=True)) == 23
    with pytest.raises(InputError, match="no finished pool"):
        append(more, place / "none")


def test_samples_of_another_kind_are_refused(place: Path, tmp_path: Path) -> None:
    before = snapshot(place)
    write_parquet(tmp_path / "t.parquet", t=["x"], image=[png(0)], v=[[1.0]])
    text = {"uri": str(tmp_path / "t.parquet"), "text_column": "t"}
    with pytest.raises(InputError, match=r"the pool holds images, .* texts"):
        append(text, place)
    with pytest.raises(InputError, match=r"the pool keeps the vectors \{\}, .* gives \{'v': 1\}"):
        append({"uri": str(tmp_path / "t.parquet"), "feature_columns": ["v"]}, place)
    after = snapshot(place)
    assert without_manifest(after, "_append.json") == without_manifest(before)
    assert after["manifest.json"] == before["manifest.json"]


def test_too_many_rejects_end_an_append_and_nothing_is_added(place: Path, source: Path, tmp_path: Path) -> None:
    before = rows(Pool.open(place))
    again = Path(shutil.copytree(source, tmp_path / "again"))
    with pytest.raises(InputError, match=r"13 of 13 rows were rejected, .*12 x duplicate key"):
        append(again, place, max_reject_fraction=0.5)
    assert rows(Pool.open(place)) == before
    other = write_images(tmp_path / "other", {"b/n.png": png(950)})
    assert len(append(other, place)) == 13  # what failed before its first file binds nobody


def test_the_command_line_appends(
    place: Path, more: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["ingest", str(more), "--out", str(place), "--append", "--max-reject-fraction", "0.5", "--json"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 23
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--test-fraction", "0.5"])
    assert ended.value.code == 2
    assert "test_fraction: there 0.2, asked for 0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_append_leaves_the_pool_and_is_continued(place: Path, tmp_path: Path) -> None:
    many = write_images(tmp_path / "many", {f"a/{i:03d}.png": encoded(picture(i, 200)) for i in range(300)})
    before = snapshot(place)
    command = ("ingest", str(many), "--out", str(place), "--append", "--json")
    running = start(tmp_path, *command)
    try:
        running.until(lambda: (place / "rows-000010.parquet").exists())
        running.kill()
        running.assert_gone(killed=True)
    finally:
        running.end()
    middle = snapshot(place)
    assert {name: middle[name] for name in before} == before
    assert len(Pool.open(place)) == 12
    new = append(many, place)
    after = snapshot(place)
    assert len(new) == 312
    assert [row[0] for i, row in rows(new).items() if i >= 12] == [f"a/{i:03d}.png" for i in range(300)]
    kept = without_manifest(middle, "_append.json", "_lease.json")
    assert {name: content for name, content in kept.items() if ".tmp-" not in name}.items() <= after.items()
    assert verify(new.location, new.manifest) == []


def test_of_two_appends_at_once_the_second_is_refused(
    place: Path, more: Path, tmp_path: Path, coevo_ray: Command
) -> None:
    many = write_images(tmp_path / "many", {f"a/{i:03d}.png": png(1000 + i) for i in range(40)})
    first = start(tmp_path, "ingest", str(many), "--out", str(place), "--append", "--json")
    try:
        first.until(lambda: (place / "_append.json").is_file())
        before = snapshot(place)
        refused = coevo_ray("ingest", str(more), "--out", str(place), "--append", "--max-reject-fraction", "0.5")
        lease = "_lease.json"  # renewed meanwhile
        after = snapshot(place)
        assert without_manifest(after, lease).items() >= without_manifest(before, lease).items()
        assert after["manifest.json"] == before["manifest.json"]
        assert refused.returncode == 2, refused.stderr
        assert f"is being written: process {first.process.pid} on " in refused.stderr and "remedy: " in refused.stderr
        assert first.wait() == 0, first.err.read_text()
        first.assert_gone()
    finally:
        first.end()
    pool = Pool.open(place)
    assert [part["rows"] for part in pool.summary["parts"]] == [12, 40]
    assert [row[0] for i, row in rows(pool).items() if i >= 12] == [f"a/{i:03d}.png" for i in range(40)]
    assert not (place / lease).exists()
    assert len(append(more, place)) == 12 + 40 + 11
