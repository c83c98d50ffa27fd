"""Samples of installed packages become pools as files of a user do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import coevo_ray
from coevo_ray.pool.docstrings import LIBRARIES
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.mark.slow
def test_docstrings_are_a_pool_of_texts_with_their_libraries_as_classes(tmp_path: Path) -> None:
    source = {"uri": "sample:docstrings", "text_column": "text", "key_column": "id"}
    pool = coevo_ray.ingest({"sources": [source]}, tmp_path / "pool")
    assert pool.modality == "text"
    assert pool.summary["rejected"] == 0
    assert pool.summary["labelled"] == len(pool) >= 2000
    table = pool.read(pool.row_ids()[:2000:100], ["key", "text", "label"]).to_pydict()
    for key, text, label in zip(table["key"], table["text"], table["label"], strict=True):
        assert key.startswith(f"{LIBRARIES[label]}.")
        assert len(text.split()) >= 8
    assert np.unique(pool.labels()).tolist() == [*range(len(LIBRARIES))]
    assert load_manifest(Location.parse(str(tmp_path / "pool"))).config["sources"][0]["uri"] == "sample:docstrings"
