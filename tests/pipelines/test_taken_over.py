"""What lies in the folder of an unfinished artifact: damaged and foreign files are made again, at every stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coevo_ray.config import SaeConfig
from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.pipelines.evidence import gather_evidence
from coevo_ray.pipelines.factors.score import score
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, STARTED, load_manifest
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.sae_files import save_sae
from tests.pool.pictures import encoded, picture, write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

ROWS, DIM = 120, 6
MINE = "callable:tests.pipelines.priors_for_tests"
# Not adopted from an earlier attempt: written anew by each.
ALWAYS_MADE = {"rejects"}


@dataclass
class Made:
    """Artifacts of all stages below a folder, and how each is made again."""

    folder: Path
    again: dict[str, Callable[[], object]]


# Stage -> folder, what was made of it and is unfinished with it, and what makes it.
STAGES = {
    "pool": ("pool", [], "ingest"),
    "contribution": ("encoded/contributions/0", ["encoded/targets"], "encode"),
    "targets": ("encoded/targets", [], "encode"),
    "graph": ("evidence/graph", ["evidence"], "evidence"),
    "evidence": ("evidence", [], "evidence"),
    "codes": ("factors/codes", ["factors/scores"], "factors"),
    "scores": ("factors/scores", [], "factors"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    images = [encoded(picture(i)) for i in range(ROWS)]
    file = write_parquet(folder / "a.parquet", image=images, label=[i % 3 for i in range(ROWS)])
    place = Location.parse(folder / "model")
    torch.manual_seed(0)
    files = save_sae(place, TopKSAE(SAEConfig(dim=DIM, latents=32, k=4)))
    finish(place, "sae", {}, {}, files, {})
    pool, out = folder / "pool", folder / "encoded"
    targets = out / "targets"
    settings: dict[str, Any] = {"dim": DIM, "shared": 40, "shard_rows": 16, "components": 8, "assign": "weights"}
    priors = [f"{MINE}:Pixels", f"{MINE}:Rotated"]

    def judge() -> object:
        opened = Pool(Location.parse(pool))
        table = RowTable(Location.parse(targets), "targets")
        asked = {"neighbours": 4, "similarity": 0.99, "margin": 0.0}
        return gather_evidence(asked, opened, table, opened.labels(), folder / "evidence")

    def factors() -> object:
        table = RowTable(Location.parse(targets), "targets")
        return score(SaeConfig(compute={"actors": 1}), table, place, str(folder / "factors"), top_rows=4)

    again: dict[str, Callable[[], object]] = {
        "ingest": lambda: ingest({"sources": [str(file)], "shard_rows": 16, "test_fraction": 0.1}, pool),
        "encode": lambda: encode({**settings, "priors": priors}, pool, out),
        "evidence": judge,
        "factors": factors,
    }
    for make in again.values():
        make()
    first = min((out / "contributions").iterdir())
    (out / "contributions" / "0").symlink_to(first, target_is_directory=True)
    return Made(folder, again)


def unfinish(folder: Path) -> list[str]:
    """Makes a finished artifact one that was cut off before its manifest; returns its data files."""
    manifest = load_manifest(Location.parse(folder))
    begun = {"kind": manifest.kind, "config": manifest.config, "inputs": manifest.inputs}
    (folder / STARTED).write_text(json.dumps(begun))
    (folder / MANIFEST).unlink()
    return [entry.path for entry in manifest.files if not entry.path.startswith(tuple(ALWAYS_MADE))]


@pytest.mark.parametrize("stage", STAGES)
def test_damaged_and_foreign_parts_are_made_again_and_the_others_kept(made: Made, stage: str) -> None:
    place, behind, make = STAGES[stage]
    folder = made.folder / place
    whole = load_manifest(Location.parse(folder))
    for name in behind:
        unfinish(made.folder / name)
    files = unfinish(folder)
    random = np.random.default_rng(len(files))
    content = bytearray((folder / files[0]).read_bytes())
    content[random.integers(len(content))] ^= 1 << random.integers(8)
    (folder / files[0]).write_bytes(content)
    if len(files) > 2:  # a part under the name of another
        (folder / files[1]).write_bytes((folder / files[2]).read_bytes())
    kept = {name: (folder / name).stat().st_mtime_ns for name in files[2:] if name.endswith(".parquet")}
    made.again[make]()
    assert load_manifest(Location.parse(folder)).identity == whole.identity
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
