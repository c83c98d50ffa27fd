"""The passes on one shard, without Ray: a source that changes between being checked and being written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coevo_ray.config import PoolConfig, Source
from coevo_ray.errors import InputError
from coevo_ray.pipelines.ingest.passes import Rows, check_shard, write_shard
from coevo_ray.pool.entries import SourceShard
from coevo_ray.pool.sources import cut, list_source
from coevo_ray.store.location import Location
from tests.pool.pictures import png, write_images, write_tar


def checked(source: Path, out: Path) -> tuple[PoolConfig, Location, SourceShard, Rows]:
    config = PoolConfig(sources=(Source(uri=str(source)),))
    ((shard,),) = [cut(s, 100) for s in list_source(config.sources[0], 100).shards]
    found = check_shard(0, shard, config)
    count = int(found.usable.sum())
    rows = Rows("rows-000000.parquet", found.usable, 7, np.zeros(count, np.int8), found.digest)
    return config, Location(str(out)), shard, rows


def test_a_shard_is_written_as_it_was_checked(tmp_path: Path) -> None:
    write_images(tmp_path / "s", {f"x/{i}.png": png(i) if i != 2 else b"bad" for i in range(5)})
    written = write_shard(*checked(tmp_path / "s", tmp_path / "out"))
    assert (written.file.rows, written.file.first_row_id, written.file.last_row_id) == (4, 7, 10)
    assert (written.largest_label, written.labelled) == (0, 4)


def test_an_image_that_vanished_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "s", {f"{i}.png": png(i) for i in range(3)})
    work = checked(tmp_path / "s", tmp_path / "out")
    (tmp_path / "s" / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png changed while it was ingested: unreadable file"):
        write_shard(*work)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rows", [2, 4])
def test_a_compressed_tar_that_changed_is_named(tmp_path: Path, rows: int) -> None:
    write_tar(tmp_path / "a.tar.gz", [(f"{i}.png", png(i)) for i in range(3)])
    work = checked(tmp_path / "a.tar.gz", tmp_path / "out")
    write_tar(tmp_path / "a.tar.gz", [(f"{i}.png", png(i)) for i in range(rows)])
    with pytest.raises(InputError, match=rf"a\.tar\.gz .* changed while it was ingested: {rows} entries, 3 before"):
        write_shard(*work)
    assert not (tmp_path / "out").exists()
