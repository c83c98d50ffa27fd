"""Messy samples: their faults are those that they say, and held-out rows have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.config import Source
from coevo_ray.pool.messy import HELD_OUT, SKEW, WRONG, make_messy, words_of
from coevo_ray.pool.samples import materialise_sample, write_messy_digits
from coevo_ray.pool.sources import cut, list_source, placed, read_shard
from coevo_ray.store.location import Location


@given(st.lists(st.integers(10, 60), min_size=2, max_size=6), st.integers(0, 50))
def test_a_draw_has_the_faults_and_no_others(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    # Classes on a line: 0 and 1 close to each other, further ones further apart.
    features = np.stack([np.cos(labels / 3), np.sin(labels / 3)], axis=1).astype(np.float32)
    messy = make_messy(features, labels, seed)
    assert not set(messy.train) & set(messy.test) and len({*messy.train, *messy.test}) == len(messy.train) + len(
        messy.test
    )
    assert (np.bincount(labels[messy.test]) == min(sizes) // HELD_OUT).all()
    wrong = messy.given != labels[messy.train]
    assert wrong.sum() == len(messy.train) // WRONG
    kept, held = np.bincount(labels[messy.train]), min(sizes) // HELD_OUT
    largest = max(sizes) - held
    assert kept.max() == largest and kept.min() <= max(1, round(largest / SKEW)) + 1
    assert len({(a, b) for a, b in zip(labels[messy.train][wrong], messy.given[wrong], strict=True)}) <= len(sizes)


def test_a_wrong_label_is_that_of_the_most_similar_class() -> None:
    labels = np.repeat(np.arange(4), 50)
    centres = np.array([[1, 0], [1, 0.1], [-1, 0], [-1, 0.1]], dtype=np.float32)
    messy = make_messy(centres[labels], labels)
    wrong = messy.given != labels[messy.train]
    assert (messy.given[wrong] == np.array([1, 0, 3, 2])[labels[messy.train][wrong]]).all()


def test_words_are_counted_whatever_their_case() -> None:
    found = words_of(["A b", "b a", "c", ""])
    assert (found[0] == found[1]).all() and not (found[0] == found[2]).all()
    assert np.allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0])


@pytest.mark.slow
def test_messy_digits_lie_as_a_folder_of_a_user_would(tmp_path: Path) -> None:
    place = materialise_sample(Source(uri="sample:messy-digits"), Location.parse(str(tmp_path)))
    assert materialise_sample(Source(uri="sample:messy-digits"), Location.parse(str(tmp_path))) == place
    shards = [part for shard in list_source(placed(Source(uri=str(place))), 500).shards for part in cut(shard, 500)]
    entries = [(shard.split, entry.text or entry.label) for shard in shards for entry in read_shard(shard)]
    test = [label for split, label in entries if split == "test"]
    assert {split for split, _ in entries} == {"train", "test"} and len(test) == 10 * test.count(test[0])
    other = write_messy_digits(Location.parse(str(tmp_path / "other")), seed=1)
    names = [sorted(str(f.relative_to(p.path)) for f in Path(p.path).rglob("*.png")) for p in (place, other)]
    assert names[0] != names[1]


@pytest.mark.slow
def test_messy_docstrings_are_parquet_of_both_splits(tmp_path: Path) -> None:
    source = Source(uri="sample:messy-docstrings", text_column="text", key_column="id")
    place = materialise_sample(source, Location.parse(str(tmp_path)))
    train, test = (pq.read_table(f"{place.path}/{split}/docstrings.parquet") for split in ("train", "test"))
    assert train.column_names == test.column_names == ["id", "text", "label"]
    assert not {*train.column("id").to_pylist()} & {*test.column("id").to_pylist()}
    counts = test.column("label").value_counts().to_pylist()
    assert len({each["counts"] for each in counts}) == 1 and len(counts) == 15
