"""Participants that do not share a cluster: contributions made alone, merged, extended, and loaded as a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

import coevo_ray
from coevo_ray.config import MergeConfig
from coevo_ray.core.alignment.alignment import align
from coevo_ray.core.rows.hashing import assign_participants
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.encode.encode import contribute
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pipelines.merge.merge import merge
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.store.verification import verify
from tests.pool.pictures import encoded, picture, write_parquet
from tests.relist import relist

pytestmark = pytest.mark.usefixtures("ray_local")

MINE = "callable:tests.pipelines.priors_for_tests"
DIM = 8
HALF = 2.0**-10


def make_pool(folder: Path, seeds: range) -> Pool:
    file = write_parquet(folder / "a.parquet", image=[encoded(picture(i)) for i in seeds], label=[i % 3 for i in seeds])
    return ingest({"sources": [str(file)], "test_fraction": 0.1}, folder / "pool")


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pool]:
    """Pools of three people, and the few images that all of them have."""
    folder = tmp_path_factory.mktemp("people")
    seeds = {"ann": range(30), "bob": range(100, 150), "cy": range(200, 220), "shared": range(300, 340)}
    return {name: make_pool(folder / name, s) for name, s in seeds.items()}


@pytest.fixture(scope="module")
def made(pools: dict[str, Pool], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each one's contribution, made with a prior of their own."""
    folder = tmp_path_factory.mktemp("contributions")
    priors = {"ann": "Pixels", "bob": "Rotated", "cy": "Shuffled"}
    for name, prior in priors.items():
        config = {"priors": [f"{MINE}:{prior}"], "dim": DIM, "shared": str(pools["shared"].location), "shard_rows": 16}
        config["projection"] = "random"  # test_consensus.py has the default
        table = contribute(config, pools[name], folder / name)
        assert table.manifest.kind == "contribution"
    return {name: folder / name for name in priors}


def targets_of(table: RowTable) -> npt.NDArray[np.float32]:
    return vectors(table.column("target"))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in files}


# -- one participant alone -------------------------------------------------------------------------------------------


def test_a_contribution_holds_own_and_shared_features_and_no_images(
    pools: dict[str, Pool], made: dict[str, Path]
) -> None:
    table = Contribution(Location(str(made["bob"])))
    assert table.own_rows(["row_id"]).column("row_id").to_pylist() == list(range(50))
    ids, shared = table.shared_features()
    assert (ids.tolist(), shared.shape) == (list(range(40)), (40, DIM))
    names = {name for file in made["bob"].glob("*.parquet") for name in pq.read_schema(file).names}
    assert names == {"row_id", "own", "feature", "sample"}
    sizes = sum(f.stat().st_size for f in made["bob"].glob("*.parquet"))
    assert table.manifest.summary["bytes_to_send"] == sizes
    assert sizes < pools["bob"].manifest.summary["bytes"] + 40 * 2000
    assert not list(made["bob"].glob("**/card.json"))


@pytest.mark.slow
def test_parts_of_one_pool_are_disjoint_and_merge_to_what_one_call_gives(
    pools: dict[str, Pool], tmp_path: Path
) -> None:
    pool = pools["bob"]
    common = {"dim": DIM, "shared": 32, "shard_rows": 16, "assign": "weights"}
    names = [f"{MINE}:Pixels", f"{MINE}:Shuffled"]
    for index, name in enumerate(names):
        contribute({**common, "priors": [name], "part": [index, 2]}, pool, tmp_path / str(index))
    parts = [Contribution(Location(str(tmp_path / str(i)))) for i in (0, 1)]
    own = [set(p.own_rows(["row_id"]).column("row_id").to_pylist()) for p in parts]
    assert own[0] | own[1] == set(range(50))
    assert not own[0] & own[1]
    together = encode({**common, "priors": names}, pool, tmp_path / "both")
    apart = merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    assert apart.scan(["row_id", "prior"]).to_pydict() == together.scan(["row_id", "prior"]).to_pydict()
    assert np.array_equal(targets_of(apart), targets_of(together))
    # A folder of `encode` stands for the contributions in it.
    again = merge([tmp_path / "both"], tmp_path / "again")
    assert np.array_equal(targets_of(again), targets_of(together))


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0)])
def test_a_part_must_be_one_of_the_parts(pools: dict[str, Pool], tmp_path: Path, part: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="which, of how many"):
        contribute({"priors": [f"{MINE}:Pixels"], "part": part}, pools["ann"], tmp_path / "out")
    with pytest.raises(UsageError, match="which, of how many"):
        contribute({"priors": [f"{MINE}:Pixels", f"{MINE}:Shuffled"], "part": [0, 2]}, pools["ann"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_encode_and_contribute_keep_to_their_own(pools: dict[str, Pool], tmp_path: Path) -> None:
    alone = {"priors": [f"{MINE}:Pixels"], "shared": str(pools["shared"].location)}
    with pytest.raises(UsageError, match="makes a contribution, not targets"):
        encode(alone, pools["ann"], tmp_path / "out")
    with pytest.raises(UsageError, match="a contribution of 2 priors"):
        contribute({**alone, "priors": [f"{MINE}:Pixels", f"{MINE}:Shuffled"]}, pools["ann"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shared_pool_must_be_there_and_hold_a_few_rows(pools: dict[str, Pool], tmp_path: Path) -> None:
    config = {"priors": [f"{MINE}:Pixels"], "dim": DIM}
    with pytest.raises(InputError, match=f"no finished pool at {tmp_path}/none"):
        contribute({**config, "shared": str(tmp_path / "none")}, pools["ann"], tmp_path / "out")
    small = make_pool(tmp_path / "small", range(3))
    with pytest.raises(InputError, match="has 3 rows of images, the pool holds images; 4 rows are the least"):
        contribute({**config, "shared": str(small.location)}, pools["ann"], tmp_path / "out")


# -- merging people's contributions ----------------------------------------------------------------------------------


def test_merged_pools_count_their_rows_one_after_another(
    pools: dict[str, Pool], made: dict[str, Path], tmp_path: Path
) -> None:
    table = merge([made["bob"], made["ann"]], tmp_path / "targets")
    assert table.row_ids().tolist() == list(range(80))
    assert table.column("prior").to_pylist() == [0] * 50 + [1] * 30
    assert table.manifest.summary["pools"] == [
        {"identity": pools["bob"].manifest.identity, "first_row_id": 0, "rows": 50},
        {"identity": pools["ann"].manifest.identity, "first_row_id": 50, "rows": 30},
    ]
    matrices = load_file(next((tmp_path / "targets").glob("alignment-*")))
    plain = []
    for index, name in enumerate(("bob", "ann")):
        features = vectors(Contribution(Location(str(made[name]))).own_rows(["feature"]).column("feature"))
        plain += [align(row[None], matrices[f"alignment.{index}"])[0] for row in features]
    assert np.abs(targets_of(table) - np.array(plain)).max() < HALF
    assert verify(table.location, table.manifest) == []


def test_a_rotated_copy_of_a_prior_aligns_to_it(made: dict[str, Path], tmp_path: Path) -> None:
    """Rotated is Pixels turned by a random orthogonal matrix: alignment finds the turn."""
    for method in ("ridge", "procrustes"):
        table = merge([made["ann"], made["bob"]], tmp_path / method, {"alignment": method, "reference": "0"})
        assert table.manifest.summary["priors"][1]["alignment_r2"] > 0.999
    table = merge([made["ann"], made["bob"]], tmp_path / "none", {"alignment": "none", "reference": "0"})
    assert table.manifest.summary["priors"][1]["alignment_r2"] < 0.5
    own = vectors(Contribution(Location(str(made["bob"]))).own_rows(["feature"]).column("feature"))
    assert np.abs(targets_of(table)[30:] - own).max() < HALF


def test_a_participant_more_leaves_the_files_of_the_others(made: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "targets"
    fixed = MergeConfig(reference="0")
    first = merge([made["ann"], made["bob"]], out, fixed)
    before = contents(out)
    old = {f.path for f in first.files}
    longer = merge([made["ann"], made["bob"], made["cy"]], out, fixed)
    after = contents(out)
    assert {name: after[name] for name in old} == {name: before[name] for name in old}
    assert longer.row_ids().tolist() == list(range(100))
    at_once = merge([made["ann"], made["bob"], made["cy"]], tmp_path / "at-once", fixed)
    assert at_once.manifest.identity == longer.manifest.identity
    # Once more changes nothing; fewer, or others, are refused.
    assert merge([made["ann"], made["bob"], made["cy"]], out, fixed).manifest == longer.manifest
    assert contents(out) == after
    for others in ([made["ann"], made["bob"]], [made["bob"], made["ann"], made["cy"]]):
        with pytest.raises(UsageError, match=r"was made with other settings: inputs\.contribution\."):
            merge(others, out, fixed)


def test_a_new_reference_aligns_all_anew_and_a_killed_extension_harms_nothing(
    made: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "targets"
    # Uniformity chooses; the order of the three makes the last one's arrival change the reference.
    alone = {name: merge([made[name]], tmp_path / name).manifest.summary["priors"][0] for name in made}
    order = sorted(made, key=lambda name: -float(alone[name]["uniformity"]))
    first = merge([made[name] for name in order[:2]], out)
    longer = merge([made[name] for name in order], tmp_path / "longer")
    assert longer.manifest.summary["priors"][2]["reference"]
    # Killed after the new files, before the manifest: the former targets are whole.
    card = (out / "card.json").read_text()
    for file in longer.manifest.files:
        shutil.copy(tmp_path / "longer" / file.path, out / file.path)
    assert verify(first.location, first.manifest) == []
    assert merge([made[name] for name in order[:2]], out).manifest == first.manifest
    assert (out / "card.json").read_text() == card
    extended = merge([made[name] for name in order], out)
    assert extended.manifest.identity == longer.manifest.identity
    pages = {"manifest.json", "card.json", "README.md"}
    assert {f.name for f in out.iterdir()} == {f.path for f in extended.manifest.files} | pages


def test_a_card_that_a_killed_merge_did_not_write_comes_with_the_next(made: dict[str, Path], tmp_path: Path) -> None:
    out, both = tmp_path / "targets", [made["ann"], made["bob"]]
    merge(both, out)
    before = {name: content for name, (_, content) in contents(out).items()}
    (out / "card.json").unlink()
    (out / "README.md").write_text("half")
    merge(both, out)
    assert {name: content for name, (_, content) in contents(out).items()} == before


@pytest.mark.slow
def test_the_same_samples_in_two_pools_are_found_by_content(
    pools: dict[str, Pool], made: dict[str, Path], tmp_path: Path
) -> None:
    twin = make_pool(tmp_path / "twin", range(20, 45))  # ten of Ann's images
    config = {"priors": [f"{MINE}:Shuffled"], "dim": DIM, "shared": str(pools["shared"].location)}
    config["projection"] = "random"
    contribute(config, twin, tmp_path / "contribution")
    both = [made["ann"], tmp_path / "contribution"]
    with pytest.raises(InputError, match="overlap: both hold 10 samples with the same content"):
        merge(both, tmp_path / "targets")
    assert not (tmp_path / "targets").exists()
    assert len(merge(both, tmp_path / "targets", {"allow_overlap": True})) == 55


@pytest.mark.slow
def test_rows_of_one_pool_that_two_hold_are_the_first_ones(pools: dict[str, Pool], tmp_path: Path) -> None:
    for name in ("Pixels", "Shuffled"):
        config = {"priors": [f"{MINE}:{name}"], "dim": DIM, "shared": 12, "projection": "random"}
        contribute({**config, "part": [0, 1]}, pools["ann"], tmp_path / name)
    both = [tmp_path / "Pixels", tmp_path / "Shuffled"]
    with pytest.raises(InputError, match="overlap: both hold 30 rows of the same pool, such as row_id 0"):
        merge(both, tmp_path / "targets")
    table = merge(both, tmp_path / "targets", {"allow_overlap": True})
    assert table.row_ids().tolist() == list(range(30))
    assert table.column("prior").to_pylist() == [0] * 30


@pytest.mark.slow
def test_a_missing_part_is_warned_of(pools: dict[str, Pool], tmp_path: Path) -> None:
    config = {"priors": [f"{MINE}:Pixels"], "dim": DIM, "shared": 16, "part": [1, 3]}
    config["projection"] = "random"  # in a latent the shared rows have targets too
    contribute(config, pools["bob"], tmp_path / "one")
    table = merge([tmp_path / "one"], tmp_path / "targets")
    assert table.row_ids().tolist() == np.flatnonzero(assign_participants(np.arange(50), [1, 1, 1], 0) == 1).tolist()
    (warning,) = [w for w in table.manifest.summary["warnings"] if "missing" in w]
    assert warning.startswith("parts [0, 2] of 3 of pool ")


def test_damaged_contributions_are_named(made: dict[str, Path], tmp_path: Path) -> None:
    messages = {
        "features-": r"1 features that are zero or not finite, first rows \[3\]",
        "shared-": "shared rows that are not finite",
    }
    for prefix, message in messages.items():
        folder = tmp_path / prefix
        shutil.copytree(made["bob"], folder)
        file = folder / f"{prefix}000000.parquet"
        table = pq.read_table(file)
        rows = table.column("feature").to_pylist()
        rows[3] = [float("nan")] * DIM
        column = pa.array([np.array(r, np.float16) for r in rows], table.schema.field("feature").type)
        pq.write_table(table.set_column(table.column_names.index("feature"), "feature", column), file)
        relist(folder)
        with pytest.raises(InputError, match=message) as caught:
            merge([made["ann"], folder], tmp_path / f"targets-{prefix}")
        assert str(folder) in caught.value.cause
        assert not (tmp_path / f"targets-{prefix}" / "manifest.json").exists()


# -- the targets as a dataset ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "targets"
    merge([made["bob"], made["ann"]], out)
    return out


def test_targets_join_each_pool_by_row_id(pools: dict[str, Pool], merged: Path) -> None:
    whole = RowTable(Location(str(merged)), "targets")
    values = dict(zip(whole.row_ids().tolist(), targets_of(whole), strict=True))
    for name, start in (("bob", 0), ("ann", 50)):
        pool = pools[name]
        targets = coevo_ray.load_targets(merged, pool.location.path)
        assert targets.row_ids.tolist() == list(range(len(pool)))
        rows = targets.dataset().take_all()
        assert len(rows) == len(pool)
        images, keys = pool.column("image").to_pylist(), pool.column("key").to_pylist()
        for row in rows:
            i = row["row_id"]
            assert (row["image"], row["key"], row["label"]) == (images[i], keys[i], pool.labels()[i])
            assert row["target"].dtype == np.float32
            assert np.array_equal(row["target"], values[i + start])
    assert coevo_ray.load_targets(merged).dataset().count() == 80
    with pytest.raises(InputError, match="were not made from the pool at"):
        coevo_ray.load_targets(merged, pools["cy"])
    with pytest.raises(InputError, match="has no column"):
        coevo_ray.load_targets(merged, pools["ann"], columns=["colour"])


def test_stages_that_work_on_one_pool_refuse_targets_of_several(
    pools: dict[str, Pool], made: dict[str, Path], merged: Path, tmp_path: Path
) -> None:
    ann, bob = pools["ann"], pools["bob"]
    require_alone(merge([made["ann"]], tmp_path / "ann"), ann)
    for stage in (coevo_ray.sae, coevo_ray.gate):
        with pytest.raises(InputError, match="are of 2 pools; this needs only those of"):
            stage({}, bob.location.path, str(merged), str(tmp_path / "out"))
        with pytest.raises(InputError, match="were not made from the pool at"):
            stage({}, bob.location.path, str(tmp_path / "ann"), str(tmp_path / "out"))


def test_a_torch_loader_gets_whole_batches_in_its_order(pools: dict[str, Pool], merged: Path) -> None:
    dataset = coevo_ray.load_targets(merged, pools["ann"], columns=["label"]).torch()
    whole = targets_of(RowTable(Location(str(merged)), "targets"))
    torch.manual_seed(0)
    seen: list[int] = []

    def collate(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return items

    for batch in DataLoader(dataset, batch_size=7, shuffle=True, collate_fn=collate, num_workers=1):
        for item in batch:
            seen.append(item["row_id"])
            assert torch.equal(item["target"], torch.from_numpy(whole[item["row_id"] + 50]))
            assert set(item) == {"row_id", "target", "prior", "label"}
    assert sorted(seen) == list(range(30))
    assert seen != sorted(seen)
    assert [dataset[i]["row_id"] for i in (4, 2, 4)] == [4, 2, 4]
    assert [item["row_id"] for item in dataset.__getitems__([9, 1, 9])] == [9, 1, 9]


def test_the_card_says_where_targets_come_from_and_what_they_cost(merged: Path) -> None:
    targets = coevo_ray.load_targets(merged)
    text = (merged / "README.md").read_text()
    for prior in targets.card["priors"]:
        assert prior["name"] in text
        assert prior["prior"]["weights"][:16] in text
        assert prior["prior"]["licence"] in text
    stored = sum(f.stat().st_size for f in merged.glob("targets-*"))
    assert targets.card["bytes_stored"] == stored
    assert f"{stored:,} bytes, {stored / 80:.0f} for each row" in text


def test_images_are_needed_for_nothing_here(made: dict[str, Path]) -> None:
    """A merge reads contributions only: nothing in them names the pool's folder."""
    for name, folder in made.items():
        for file in folder.glob("*.json"):
            assert f"/{name}/pool" not in file.read_text()


def test_encoded_bytes_count(made: dict[str, Path], pools: dict[str, Pool]) -> None:
    summary = Contribution(Location(str(made["cy"]))).manifest.summary
    assert summary["bytes_read"] >= sum(len(b) for b in pools["cy"].column("image").to_pylist()) * 0.5
    rows = 20 + 40
    assert summary["bytes_moved"] == rows * (8 * 8 * 3 + 2 * DIM)
    assert {"read", "prepare", "encode", "project", "write", "waiting"} == summary["stage_seconds"].keys()
    assert 0 <= summary["waiting_share"] <= 1
