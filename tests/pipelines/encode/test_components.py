"""Contributions by components and targets in a latent, on real Ray: against plain loops, cut off, extended, damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coevo_ray.core.alignment.alignment import held_out
from coevo_ray.core.alignment.components import fit_components, to_components
from coevo_ray.core.alignment.consensus import fit_consensus, to_latent
from coevo_ray.core.alignment.moments import moments_of
from coevo_ray.core.alignment.projection import normalise, unit_features
from coevo_ray.core.rows.hashing import assign_participants, cover_rows, hash_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.encode.encode import contribute
from coevo_ray.pipelines.encode.job import shared_set
from coevo_ray.pipelines.encode.shared import read_components
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pipelines.merge.merge import merge
from coevo_ray.pipelines.merge.same_space import require_same_space
from coevo_ray.pool.pool import Pool
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import load_prior
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors
from tests.pool.pictures import encoded, picture, write_parquet
from tests.relist import relist

pytestmark = pytest.mark.usefixtures("ray_local")

MINE = "callable:tests.pipelines.priors_for_tests"
NAMES = [f"{MINE}:{name}" for name in ("Pixels", "Rotated", "Shuffled")]
ROWS, SHARED, DIM = 90, 40, 6
SETTINGS: dict[str, Any] = {"dim": DIM, "shared": SHARED, "shard_rows": 16, "components": 8}
HALF = 2.0**-9  # float16 values of up to 4


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    file = write_parquet(folder / "a.parquet", image=[encoded(picture(i)) for i in range(ROWS)])
    return ingest({"sources": [str(file)], "test_fraction": 0.1}, folder / "pool")


@pytest.fixture(scope="module")
def made(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of two priors that say the same and one that says something else."""
    out = tmp_path_factory.mktemp("made") / "out"
    encode({**SETTINGS, "priors": NAMES, "assign": "weights"}, pool, out)
    return out


def contributions(out: Path) -> list[Contribution]:
    return [Contribution(Location(str(folder))) for folder in sorted((out / "contributions").iterdir())]


def targets(table: RowTable) -> npt.NDArray[np.float32]:
    return vectors(table.column("target"))


def plain_features(pool: Pool, name: str) -> npt.NDArray[np.float32]:
    """Unit features of all rows, image by image."""
    prior = load_prior(name, None, Samples(pool.modality, pool.features))
    encoder = Encoder(prior, "cpu")
    images = [np.asarray(picture(int(seed))) for seed in order_of(pool)]
    return unit_features(np.concatenate([encoder.encode(image[None]) for image in images]))


def order_of(pool: Pool) -> npt.NDArray[np.int64]:
    """Which picture each row of the pool is."""
    known = {encoded(picture(i)): i for i in range(ROWS)}
    return np.array([known[data] for data in pool.column("image").to_pylist()])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# -- encode ----------------------------------------------------------------------------------------------------------


def test_contributions_and_targets_are_what_a_plain_loop_gives(pool: Pool, made: Path) -> None:
    shared = shared_set(pool, SHARED, 0)
    kept = []
    for name, table in zip(NAMES, contributions(made), strict=True):
        features = plain_features(pool, name)
        wanted = fit_components(moments_of(features[shared]), 8)
        there = read_components(table.location)
        assert there is not None
        np.testing.assert_allclose(there.directions, wanted.directions, atol=2e-3)
        rows = table.encoded_rows(["row_id", "feature"])
        ids = rows.column("row_id").to_numpy()
        np.testing.assert_allclose(vectors(rows.column("feature")), to_components(features[ids], there), atol=4 * HALF)
        kept.append((ids, vectors(rows.column("feature"))))
    held = held_out(hash_rows(shared, 0))
    joined = np.concatenate([values[np.searchsorted(ids, shared)] for ids, values in kept], axis=1)
    consensus = fit_consensus(moments_of(joined[~held]), moments_of(joined[held]), [8, 8, 8], DIM)
    of_row: dict[int, Any] = {}
    for (ids, values), prior in zip(kept, consensus.priors, strict=True):
        for row, value in zip(ids.tolist(), to_latent(values, prior), strict=True):
            of_row[row] = of_row.get(row, 0) + prior.weight * value
    wanted_targets = normalise(np.stack([of_row[row] for row in range(ROWS)]).astype(np.float32))
    made_table = RowTable(Location(str(made / "targets")), "targets")
    np.testing.assert_allclose(targets(made_table), wanted_targets, atol=2 * HALF)
    owner = assign_participants(np.arange(ROWS), [1, 1, 1], 0)
    assert made_table.column("prior").to_pylist() == owner.tolist()
    encoders = np.where(np.isin(np.arange(ROWS), shared), 3, 1)
    assert made_table.column("encoders").to_pylist() == encoders.tolist()


def test_the_card_and_the_summary_state_the_verdict_and_the_bytes(made: Path, tmp_path: Path) -> None:
    table = RowTable(Location(str(made / "targets")), "targets")
    summary = table.manifest.summary
    assert summary["verdict"]["kind"] == "leave_out" and summary["verdict"]["priors"] == [NAMES[2]]
    assert summary["verdict"]["text"] in summary["warnings"]
    readme = (made / "targets" / "README.md").read_text()
    assert summary["verdict"]["text"] in readme and "| `encoders` | uint8 |" in readme
    read = datasets.load_dataset(str(made / "targets"), split="train", cache_dir=str(tmp_path))  # by the card's head
    assert read.column_names == ["row_id", "target", "prior", "encoders"] and read["row_id"][:] == list(range(ROWS))
    r2 = [prior["alignment_r2"] for prior in summary["priors"]]
    assert min(r2[:2]) > 0.9 > 0.5 > r2[2]
    assert json.loads((made / "targets" / "card.json").read_text())["verdict"] == summary["verdict"]
    for table_of in contributions(made):
        assert (table_of.summary["components"], table_of.summary["bytes_per_row"]) == (8, 16)
        assert not [name for name in table_of.location.files() if name.startswith("whole-")]


@pytest.mark.slow
def test_the_prior_that_reaches_the_latent_best_encodes_the_pool(pool: Pool, made: Path, tmp_path: Path) -> None:
    table = encode({**SETTINGS, "priors": NAMES}, pool, tmp_path / "out")
    parts = contributions(tmp_path / "out")
    reached = [p["weight"] for p in RowTable(Location(str(made / "targets")), "targets").manifest.summary["priors"]]
    best = int(np.argmax(reached))
    for place, part in enumerate(parts):
        assert part.summary["rows"] == (ROWS if place == best else 0)
        assert part.summary["encoded_rows"] == (ROWS if place == best else SHARED)
        assert part.summary["weights"] == [float(other == best) for other in range(3)]
        own = [name for name in part.location.files() if name.startswith("features-")]
        assert (len(own) > 0) == (place == best), "a prior without rows does not pass over the pool"
    assert set(table.column("prior").to_pylist()) == {best}
    # The latent is that of all three, whoever encodes the rows.
    shared = shared_set(pool, SHARED, 0)
    there = targets(RowTable(Location(str(made / "targets")), "targets"))
    assert np.abs(there[shared] - targets(table)[shared]).max() < 8 * HALF
    # The settled weights are kept: a resumed job assigns the same rows, whatever it would measure.
    (tmp_path / "out" / "contributions" / "00" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "out" / "targets")
    again = encode({**SETTINGS, "priors": NAMES}, pool, tmp_path / "out")
    assert again.manifest.identity == table.manifest.identity


@pytest.mark.slow
def test_with_more_coverage_the_weak_prior_gets_no_rows(pool: Pool, tmp_path: Path) -> None:
    table = encode({**SETTINGS, "priors": NAMES, "coverage": "all"}, pool, tmp_path / "out")
    assert [part.summary["encoded_rows"] for part in contributions(tmp_path / "out")] == [ROWS, ROWS, SHARED]
    shared = np.isin(np.arange(ROWS), shared_set(pool, SHARED, 0))
    assert table.column("encoders").to_pylist() == np.where(shared, 3, 2).tolist()


@pytest.mark.slow
def test_different_weights_are_meant_to_count(pool: Pool, tmp_path: Path) -> None:
    priors = [{"name": name, "weight": weight} for name, weight in zip(NAMES, (2.0, 1.0, 1.0), strict=True)]
    table = encode({**SETTINGS, "priors": priors}, pool, tmp_path / "out")
    assert table.column("prior").to_pylist() == assign_participants(np.arange(ROWS), [2, 1, 1], 0).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("coverage", "count"), [("2", 2), ("all", 3)])
def test_several_priors_encode_a_row_where_they_are_asked_to(
    pool: Pool, made: Path, tmp_path: Path, coverage: str, count: int
) -> None:
    config = {**SETTINGS, "priors": NAMES, "assign": "weights", "coverage": coverage, "shard_rows": 32}
    table = encode(config, pool, tmp_path / "out")
    shared = np.isin(np.arange(ROWS), shared_set(pool, SHARED, 0))
    assert table.column("encoders").to_pylist() == np.where(shared, 3, count).tolist()
    covered = cover_rows(np.arange(ROWS), [1, 1, 1], 0, count)
    for place, part in enumerate(contributions(tmp_path / "out")):
        rows = part.encoded_rows(["row_id"]).column("row_id").to_numpy()
        assert rows.tolist() == np.flatnonzero(covered[:, place] | shared).tolist()
        assert part.summary["rows"] == np.sum(assign_participants(np.arange(ROWS), [1, 1, 1], 0) == place)
    # Shared rows have the same targets, whatever else is encoded, and in whatever shards.
    one = targets(RowTable(Location(str(made / "targets")), "targets"))
    assert np.abs(one[shared] - targets(table)[shared]).max() < 8 * HALF


@pytest.mark.parametrize(
    "lost",
    [
        ("manifest.json", "shared-000001.parquet", "components.safetensors"),
        *(
            pytest.param(lost, marks=pytest.mark.slow)
            for lost in (
                ("manifest.json", "features-000002.parquet"),
                ("manifest.json", "shared-000001.parquet"),
                ("manifest.json", "shared-000000.parquet", "shared-000001.parquet", "shared-000002.parquet"),
            )
        ),
    ],
)
def test_a_job_that_was_cut_off_ends_as_it_would_have(
    pool: Pool, made: Path, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shutil.rmtree(out / "targets")
    before = contents(out)
    for name in lost:
        (out / "contributions" / "01" / name).unlink()
    encode({**SETTINGS, "priors": NAMES, "assign": "weights"}, pool, out)
    after = {name: data for name, data in contents(out).items() if not name.startswith("targets")}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {"contributions/01/manifest.json"}


@pytest.mark.slow
def test_what_cannot_have_components_is_named(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Constant: the features are constant on 40 shared rows"):
        encode({**SETTINGS, "priors": [NAMES[0], f"{MINE}:Constant"]}, pool, tmp_path / "out")


@pytest.mark.slow
def test_priors_with_fewer_features_than_the_latent_has_dimensions(pool: Pool, tmp_path: Path) -> None:
    """8 and 12 features reach a latent of 14 together; one of them alone does not."""
    config = {**SETTINGS, "dim": 14, "components": None}
    table = encode(
        {**config, "priors": [NAMES[0], NAMES[2]], "coverage": "all", "assign": "weights"}, pool, tmp_path / "a"
    )
    assert targets(table).shape == (ROWS, 14)
    assert np.allclose(np.linalg.norm(targets(table), axis=1), 1, atol=2e-3)
    assert [part.summary["components"] for part in contributions(tmp_path / "a")] == [8, 12]
    with pytest.raises(InputError, match=r"a latent of 14 dimensions needs .* the priors have 8 "):
        encode({**config, "priors": [NAMES[0]]}, pool, tmp_path / "b")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"shared": 7}, "a latent of 6 dimensions needs 10 shared rows or more, there are 7"),
        ({"coverage": "some"}, "give one, a number of priors, or all"),
        ({"coverage": 0}, "give one, a number of priors, or all"),
        ({"projection": "random", "coverage": "all", "components": None}, "leave coverage and components out"),
        ({"reference": "0"}, "leave coverage and components out"),
        ({"reference": "0", "projection": "components"}, "a latent has no reference prior"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    pool: Pool, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, UsageError), match=message):
        encode({**SETTINGS, "priors": NAMES, **more}, pool, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_shared_rows_are_refused_with_the_dimension_that_they_reach(pool: Pool, tmp_path: Path) -> None:
    few = {**SETTINGS, "priors": NAMES, "shared": 7, "components": None}
    with pytest.raises(InputError, match="there are 7") as caught:
        encode(few, pool, tmp_path / "out")
    assert "lower encode.dim to 3 or less, or" in caught.value.remedy
    assert encode({**few, "dim": 3}, pool, tmp_path / "out").manifest.summary["dim"] == 3


def test_a_share_of_a_small_pool_is_raised_to_what_a_latent_needs(pool: Pool) -> None:
    assert len(shared_set(pool, 0.1, 0, least=24)) == 24
    assert len(shared_set(pool, 0.5, 0, least=24)) == 45
    assert len(shared_set(pool, 0.1, 0, least=10_000)) == len(pool.train_ids())


# -- another pool ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_pool(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Rows of the first pool and rows of its own."""
    folder = tmp_path_factory.mktemp("other")
    images = [*pool.column("image").to_pylist()[:20], *(encoded(picture(i)) for i in range(500, 530))]
    file = write_parquet(folder / "a.parquet", image=images)
    return ingest({"sources": [str(file)], "test_fraction": 0.1}, folder / "pool")


@pytest.mark.slow
def test_another_pool_comes_into_the_space_that_is_there(
    pool: Pool, made: Path, other_pool: Pool, tmp_path: Path
) -> None:
    config = {**SETTINGS, "priors": NAMES, "coverage": "all", "assign": "weights", "like": str(made)}
    table = encode(config, other_pool, tmp_path / "out")
    there = RowTable(Location(str(made / "targets")), "targets")
    require_same_space(table, there)
    assert table.summary["verdict"]["kind"] == "as_there"
    assert table.column("encoders").to_pylist() == [3] * 50
    # Rows that both pools hold, and that all priors encoded there as well, have the same targets.
    shared = shared_set(pool, SHARED, 0)
    old = {data: row for row, data in enumerate(pool.column("image").to_pylist())}
    pairs = [(old[data], row) for row, data in enumerate(other_pool.column("image").to_pylist()) if data in old]
    pairs = [(a, b) for a, b in pairs if a in shared]
    assert len(pairs) > 3
    for one, other in pairs:
        np.testing.assert_allclose(targets(there)[one], targets(table)[other], atol=4 * HALF)
    # By quality, as measured there, and by the targets of these targets.
    again = encode({**SETTINGS, "priors": NAMES, "like": str(tmp_path / "out")}, other_pool, tmp_path / "again")
    require_same_space(again, there)
    assert len(set(again.column("prior").to_pylist())) == 1
    assert again.manifest.summary["verdict"]["kind"] == "as_there"


@pytest.mark.slow
def test_a_space_that_does_not_fit_is_refused(made: Path, other_pool: Pool, tmp_path: Path) -> None:
    config = {**SETTINGS, "like": str(made)}
    with pytest.raises(UsageError, match="FailsOnBright'] are not among those of"):
        encode({**config, "priors": [f"{MINE}:FailsOnBright"]}, other_pool, tmp_path / "out")
    with pytest.raises(UsageError, match="the published form has no latent"):
        encode(
            {**SETTINGS, "components": None, "projection": "random", "priors": NAMES, "like": "x"}, other_pool, tmp_path
        )
    alone = encode({**SETTINGS, "priors": NAMES[:2]}, other_pool, tmp_path / "alone")
    with pytest.raises(InputError, match=r"(?s)in another space than .*--like TARGETS"):
        require_same_space(alone, RowTable(Location(str(made / "targets")), "targets"))


# -- merge -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Contributions of three people with pools of their own and a shared pool."""
    folder = tmp_path_factory.mktemp("apart")
    seeds = {"shared": range(300, 360), "ann": range(30), "bob": range(100, 150), "cy": range(200, 220)}
    pools = {}
    for name, span in seeds.items():
        file = write_parquet(folder / f"{name}.parquet", image=[encoded(picture(i)) for i in span])
        pools[name] = ingest({"sources": [str(file)], "test_fraction": 0.1}, folder / name)
    for name, prior in zip(("ann", "bob", "cy"), NAMES, strict=True):
        config = {**SETTINGS, "priors": [prior], "shared": str(pools["shared"].location)}
        contribute(config, pools[name], folder / f"{name}-made")
    return {name: folder / f"{name}-made" for name in ("ann", "bob", "cy")}


def consensus_file(targets_folder: Path) -> str:
    """The file of the latent: the manifest's, and the only one there."""
    manifest = RowTable(Location(str(targets_folder)), "targets").manifest
    (name,) = [f.path for f in manifest.files if f.path.startswith("consensus-")]
    assert [f.name for f in targets_folder.glob("consensus*")] == [name]
    return name


@pytest.mark.slow
def test_a_late_participant_comes_to_the_latent_and_a_refit_moves_all(apart: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "targets"
    first = merge([apart["ann"], apart["bob"]], out)
    founders = [Contribution(Location(str(apart[name]))).manifest.identity for name in ("ann", "bob")]
    assert first.summary["latent_of"] == founders
    before, files = targets(first), {f.path for f in first.files}
    latent_files = [consensus_file(out)]
    late = merge(list(apart.values()), out)
    latent_files.append(consensus_file(out))
    assert late.summary["latent_of"] == founders and len(late) == 100
    assert {f.path for f in late.files} > files
    np.testing.assert_array_equal(targets(late)[: len(before)], before)
    assert merge(list(apart.values()), out).manifest.identity == late.manifest.identity
    anew = merge(list(apart.values()), out, {"refit": True})
    assert len(anew.summary["latent_of"]) == 3 and not {f.path for f in anew.files} & files
    assert np.abs(targets(anew)[: len(before)] - before).max() > 0.01
    # Each manifest has a file of its own, so that one that was not replaced yet never meets another latent.
    assert len({*latent_files, consensus_file(out)}) == 3
    directly = merge(list(apart.values()), tmp_path / "directly")
    np.testing.assert_array_equal(targets(directly), targets(anew))


@pytest.mark.slow
def test_what_cannot_be_extended_is_refused_and_what_is_there_stays(apart: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "targets"
    merge([apart["ann"], apart["bob"]], out)
    before = contents(out)
    with pytest.raises(UsageError, match="contribution"):
        merge([apart["bob"], apart["ann"], apart["cy"]], out)
    with pytest.raises(InputError, match="gone"):
        merge([apart["ann"], tmp_path / "gone", apart["cy"]], out, {"refit": True})
    assert contents(out) == before


@pytest.mark.slow
def test_forms_do_not_mix(apart: dict[str, Path], made: Path, pool: Pool, tmp_path: Path) -> None:
    published = {"priors": [NAMES[0]], "dim": DIM, "shared": SHARED, "projection": "random", "part": [0, 1]}
    contribute(published, pool, tmp_path / "published")
    by_components = made / "contributions" / "01"
    with pytest.raises(InputError, match=r"differ in projection: components at .*, random at"):
        merge([tmp_path / "published", by_components], tmp_path / "targets")
    with pytest.raises(UsageError, match="consensus reference of contributions with projection components"):
        merge([by_components], tmp_path / "targets", {"consensus": "reference"})
    with pytest.raises(UsageError, match="consensus latent of contributions with projection random"):
        merge([tmp_path / "published"], tmp_path / "targets", {"consensus": "latent"})
    with pytest.raises(InputError, match="differ in their shared set"):
        merge([by_components, apart["ann"]], tmp_path / "targets")
    assert not (tmp_path / "targets").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "message"),
    [("features-", r"1 features that are zero or not finite, first rows \["), ("shared-", "not finite")],
)
def test_damaged_contributions_are_named(apart: dict[str, Path], tmp_path: Path, prefix: str, message: str) -> None:
    folder = tmp_path / "bob"
    shutil.copytree(apart["bob"], folder)
    file = folder / f"{prefix}000000.parquet"
    table = pq.read_table(file)
    rows = vectors(table.column("feature"))
    rows[3] = np.nan
    flat = pa.array(rows.astype(np.float16).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    pq.write_table(table.set_column(table.column_names.index("feature"), "feature", column), file)
    relist(folder)
    with pytest.raises(InputError, match=message):
        merge([apart["ann"], folder], tmp_path / "targets")
    assert not (tmp_path / "targets" / "manifest.json").exists()


@pytest.mark.slow
def test_shared_rows_that_one_rejects_are_left_out_and_said(pool: Pool, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_reject_fraction": 0.9, "shared": 60}
    table = encode({**settings, "priors": [NAMES[0], f"{MINE}:Picky"]}, pool, tmp_path / "out")
    picky = contributions(tmp_path / "out")[1]
    assert 0 < picky.summary["rejected"] < ROWS
    (warning,) = [w for w in table.summary["warnings"] if "left out" in w]
    lacking = 60 - len(picky.shared_features()[0])
    assert warning.startswith(f"{lacking} shared rows are not in every contribution")
    assert table.summary["shared_rows"] == 60 - lacking
