"""Rows of a pool of vectors alone are asked about by their keys: numbers say nothing to people."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_studio_tasks import labelling_config
from coevo_ray.reporting.tiles import showing_of, tiles_of
from coevo_ray.store.location import Location
from tests.annotators.pools import questions
from tests.pool.test_stages import make_pool


def test_the_request_table_of_a_file_drop_has_keys_and_no_numbers(tmp_path: Path) -> None:
    drop = FileDrop(Location.parse(str(tmp_path / "drop")), make_pool(tmp_path / "pool", "vector"))
    assert drop.send(questions([1, 3], classes=2)) == 2
    assert sorted(p.name for p in (tmp_path / "drop").iterdir()) == ["README.txt", "answers", "requests"]
    (file,) = (tmp_path / "drop" / "requests").iterdir()
    with file.open() as lines:
        asked = list(csv.DictReader(lines))
    assert [row["key"] for row in asked] == ["key 1", "key 3"]
    assert "vector" not in asked[0]
    assert "The column key says which vector it is." in (tmp_path / "drop" / "README.txt").read_text()


def test_label_studio_shows_the_key(tmp_path: Path) -> None:
    drop = FileDrop(Location.parse(str(tmp_path / "drop")), make_pool(tmp_path / "pool", "vector"))
    config = labelling_config(drop.label_set, "vector")
    assert '<Text name="sample" value="$key" valueType="text" />' in config
    assert '<Header value="A vector is known to you by its key:"' in config


def test_pages_show_the_key(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", "vector")
    tiles = dict(tiles_of(pool, np.array([0, 5])))
    assert {row: (tile.key, tile.text, tile.picture) for row, tile in tiles.items()} == {
        0: ("key 0", "key 0", ""),
        5: ("key 5", "key 5", ""),
    }
    assert not showing_of("vector").as_grid
