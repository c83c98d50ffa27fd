from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from coevo_ray.config import MergeConfig
from coevo_ray.core.alignment.alignment import fit_alignment
from coevo_ray.core.alignment.projection import project, projection_matrix
from coevo_ray.core.alignment.uniformity import uniformity
from coevo_ray.core.rows.hashing import assign_participants, choose_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.encode.contribution import Contribution
from coevo_ray.pipelines.encode.job import shared_set
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pipelines.merge.merge import merge
from coevo_ray.pool.images import decode_resized
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.rejects import Reject, read_rejects
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.registry import load_prior
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.store.verification import verify
from tests.pool.pictures import encoded, picture, write_images, write_parquet

pytestmark = pytest.mark.usefixtures("ray_local")

LITE = ("efficientnet_lite:0", "efficientnet_lite:1")
LABELS = tuple(f"{name}@32" for name in LITE)
DIGITS = {
    "priors": [{"name": name, "input_size": 32} for name in LITE],
    "dim": 16,
    "shared": 40,
    "shard_rows": 64,
    "projection": "random",  # test_components.py has the default
}
MINE = "callable:tests.pipelines.priors_for_tests"
# float16 has 11 bits: a value below 1 is off by at most 2^-12, and rounding before it may have gone either way.
HALF = 2.0**-10


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """72 digits of scikit-learn."""
    folder = tmp_path_factory.mktemp("digits")
    images = (load_digits().images[:72] * 15.9375).astype(np.uint8)
    write_images(folder / "source", {f"{i:02d}.png": encoded(Image.fromarray(image)) for i, image in enumerate(images)})
    return ingest({"sources": str(folder / "source"), "shard_rows": 30}, folder / "pool")


@pytest.fixture(scope="module")
def made(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encode") / "out"
    encode(DIGITS, pool, out)
    return out


@pytest.fixture(scope="module")
def made_otherwise(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other shards and batches."""
    out = tmp_path_factory.mktemp("encode") / "out"
    encode({**DIGITS, "shard_rows": 16, "compute": {"batch_rows": 7, "reader_cpus": 1}}, pool, out)
    return out


def targets_at(out: Path) -> RowTable:
    return RowTable(Location(str(out / "targets")), "targets")


def contributions_at(out: Path) -> list[Contribution]:
    return [Contribution(Location(str(folder))) for folder in sorted((out / "contributions").iterdir())]


def own(part: Contribution) -> tuple[list[int], npt.NDArray[np.float32]]:
    """row_ids and features of a participant's own rows."""
    table = part.own_rows(["row_id", "feature"])
    return table.column("row_id").to_pylist(), vectors(table.column("feature"))


def everything(part: Contribution) -> dict[int, npt.NDArray[np.float32]]:
    """row_id -> feature, of its own and of the shared rows of the same pool."""
    ids, shared = part.shared_features()
    return dict(zip([*own(part)[0], *ids.tolist()], [*own(part)[1], *shared], strict=True))


def features(table: RowTable, name: str = "feature") -> npt.NDArray[np.float32]:
    return vectors(table.column(name))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Relative name -> modification time and content of every file."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in files}


# -- what is made ----------------------------------------------------------------------------------------------------


def test_targets_hold_every_row_once_at_unit_length_with_its_prior(made: Path) -> None:
    table = targets_at(made)
    assert table.row_ids().tolist() == list(range(72))
    assert table.column("prior").to_pylist() == assign_participants(np.arange(72), [1, 1], 0).tolist()
    norms = np.linalg.norm(features(table, "target").astype(np.float64), axis=1)
    assert np.abs(norms - 1).max() < HALF
    assert str(table.scan(["target"]).schema.field("target").type) == "fixed_size_list<element: halffloat>[16]"
    assert verify(table.location, table.manifest) == []


def test_contributions_are_what_a_plain_loop_gives(pool: Pool, made: Path) -> None:
    images = pool.column("image").to_pylist()
    owner = assign_participants(np.arange(72), [1, 1], 0)
    shared = choose_rows(pool.train_ids(), 40, 0)
    for index, table in enumerate(contributions_at(made)):
        prior = load_prior(LITE[index], 32)
        assert own(table)[0] == [i for i in range(72) if owner[i] == index]
        assert table.shared_features()[0].tolist() == shared.tolist()
        matrix = projection_matrix(1280, 16, seed=0)
        for row, feature in everything(table).items():
            plain = project(Encoder(prior, "cpu").encode(decode_resized(images[row], 32)[None]), matrix)[0]
            assert np.abs(feature - plain).max() < HALF


def test_the_reference_is_the_most_uniform_prior_and_keeps_its_features(made: Path) -> None:
    table, parts = targets_at(made), contributions_at(made)
    summary = table.manifest.summary
    shared = [part.shared_features()[1] for part in parts]
    measured = [uniformity(s) for s in shared]
    assert [p["uniformity"] for p in summary["priors"]] == pytest.approx(measured, abs=1e-6)
    reference = int(np.argmin(measured))
    assert summary["reference"] == LABELS[reference]
    assert [p["reference"] for p in summary["priors"]] == [i == reference for i in (0, 1)]
    have = features(table, "target")[table.column("prior").to_numpy() == reference]
    assert np.abs(have - own(parts[reference])[1]).max() < HALF


def test_the_other_priors_rows_are_aligned_by_the_stored_matrix(made: Path) -> None:
    table, parts = targets_at(made), contributions_at(made)
    reference = LABELS.index(table.manifest.summary["reference"])
    other = 1 - reference
    shared = [part.shared_features()[1] for part in parts]
    ids = parts[0].shared_features()[0]
    fitted = fit_alignment(shared[other], shared[reference], row_ids=ids)
    matrices = load_file(next((made / "targets").glob("alignment-*")))
    assert np.array_equal(matrices[f"alignment.{reference}"], np.eye(16, dtype=np.float32))
    assert np.allclose(matrices[f"alignment.{other}"], fitted.matrix, atol=1e-6)
    card = table.manifest.summary["priors"][other]
    assert (card["alignment_r2"], card["alignment_ridge"]) == (pytest.approx(fitted.r2, abs=1e-6), fitted.ridge)
    targets = features(table, "target")[table.column("prior").to_numpy() == other]
    for target, vector in zip(targets, own(parts[other])[1], strict=True):
        moved = [sum(float(t) * float(v) for t, v in zip(line, vector, strict=True)) for line in fitted.matrix]
        assert np.abs(target - np.array(moved) / np.linalg.norm(moved)).max() < HALF


def test_the_summary_is_the_card(made: Path) -> None:
    table, parts = targets_at(made), contributions_at(made)
    summary = table.manifest.summary
    written = json.loads((made / "targets" / "card.json").read_text())
    costs = {
        "seconds",
        "side_by_side",
        "rows_per_s",
        "startup_seconds",
        "stage_seconds",
        "waiting_share",
        "bytes_read",
        "bytes_moved",
    }
    assert {**{k: v for k, v in summary.items() if k not in costs}, "priors": 0} == {**written, "priors": 0}
    for card, full in zip(written["priors"], summary["priors"], strict=True):
        assert card == {k: v for k, v in full.items() if k not in costs}
    assert summary["projection_seed"] == 0
    assert (summary["dim"], summary["shared_rows"], summary["rejected"]) == (16, 40, 0)
    poor = [p for p in summary["priors"] if not p["reference"] and p["alignment_r2"] < 0.3]
    assert len(summary["warnings"]) == len(poor)
    for warning, prior in zip(summary["warnings"], poor, strict=True):
        start = f"{prior['name']} follows the reference {summary['reference']} with R^2 {prior['alignment_r2']:.2f} "
        assert warning.startswith(start) and "worth less than one prior's" in warning
    for name, card, part in zip(LITE, summary["priors"], parts, strict=True):
        assert (card["name"], card["rows"], card["rejected"]) == (f"{name}@32", len(own(part)[0]), 0)
        assert card["prior"]["weights"] == load_prior(name, 32).info.weights
        assert card["bytes_to_send"] == sum(f.stat().st_size for f in Path(part.location.path).glob("*.parquet"))
        assert card["rows_per_s"] > 0


@pytest.mark.slow
def test_values_do_not_depend_on_shards_batches_or_parallelism(
    made: Path, made_otherwise: Path, tmp_path: Path
) -> None:
    for first, second in zip(contributions_at(made), contributions_at(made_otherwise), strict=True):
        assert len(first.manifest.files) < len(second.manifest.files)
        assert own(first)[0] == own(second)[0]
        assert everything(first).keys() == everything(second).keys()
        # PyTorch computes other last bits for batches of another size.
        assert max(np.abs(everything(first)[row] - everything(second)[row]).max() for row in everything(first)) < HALF
        values = [uniformity(part.shared_features()[1]) for part in (first, second)]
        assert values[0] == pytest.approx(values[1], abs=1e-3)
    # The choice of a ridge could turn on such a bit, a rotation cannot.
    one, two = (
        merge(folders(out), tmp_path / name, config(alignment="procrustes"))
        for name, out in (("one", made), ("two", made_otherwise))
    )
    assert one.scan(["row_id", "prior"]).to_pydict() == two.scan(["row_id", "prior"]).to_pydict()
    assert np.abs(features(one, "target") - features(two, "target")).max() < 4 * HALF


def test_encoding_again_changes_nothing_and_other_settings_are_refused(pool: Pool, made: Path) -> None:
    before = snapshot(made)
    again = encode({**DIGITS, "compute": {"batch_rows": 5, "actors": 2}}, pool, made)
    assert again.manifest == targets_at(made).manifest
    for name, value in (("dim", 8), ("seed", 1), ("shard_rows", 8), ("shared", 41)):
        with pytest.raises(UsageError, match=rf"{name}: there .*, asked for {value}"):
            encode({**DIGITS, name: value}, pool, made)
    assert snapshot(made) == before


# -- a user's own priors, rejects, resume ----------------------------------------------------------------------------

# Among them: shared rows, the participants' own, and row 33, which only the participant it is shared with rejects.
BRIGHT, BLACK, BROKEN = (3, 20, 33), (7,), (8, 13, 26)
TOYS = {
    "priors": [{"name": f"{MINE}:FailsOnBright", "weight": 9}, {"name": f"{MINE}:Constant", "weight": 1}],
    "dim": 8,
    "shared": 17,
    "shard_rows": 6,
    "projection": "random",
}


@pytest.fixture(scope="module")
def toy_pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """40 images of noise, some of which are too bright, black, or (not having been verified) truncated."""
    folder = tmp_path_factory.mktemp("toys")
    images = [encoded(picture(i)) for i in range(40)]
    for i in BRIGHT:
        images[i] = encoded(picture(i).point(lambda v: 200 + v // 5))
    for i in BLACK:
        images[i] = encoded(Image.new("RGB", (8, 8), "black"))
    for i in BROKEN:
        images[i] = images[i][:60]
    file = write_parquet(folder / "a.parquet", image=images, id=[f"key-{i}" for i in range(40)])
    source = {"uri": str(file), "key_column": "id"}
    return ingest({"sources": [source], "verify": False, "test_fraction": 0.1}, folder / "pool")


@pytest.fixture(scope="module")
def refused(toy_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InputError]:
    """Where too many rows were rejected, and the error."""
    out = tmp_path_factory.mktemp("encode") / "out"
    with pytest.raises(InputError) as caught:
        encode(TOYS, toy_pool, out)
    return out, caught.value


@pytest.fixture(scope="module")
def toys(toy_pool: Pool, refused: tuple[Path, InputError]) -> tuple[Path, dict[str, tuple[int, bytes]]]:
    """Where it went on with a higher limit, and which files had been there."""
    out, _ = refused
    before = snapshot(out)
    encode({**TOYS, "max_reject_fraction": 0.5}, toy_pool, out)
    return out, before


def expected_rejects(pool: Pool) -> list[list[Reject]]:
    """What each participant cannot encode of its own and of the shared rows."""
    owner = assign_participants(np.arange(40), [9, 1], 0)
    shared = shared_set(pool, 17, 0)
    prior = f"{MINE}:FailsOnBright"
    per_prior = [dict.fromkeys(BRIGHT + BLACK, f"feature is zero or not finite: {prior}"), {}]
    broken = dict.fromkeys(BROKEN, "truncated")
    return [
        [Reject(f"key-{i}", "encode", r) for i, r in sorted({**bad, **broken}.items()) if owner[i] == k or i in shared]
        for k, bad in enumerate(per_prior)
    ]


def short(rejects: list[Reject]) -> list[tuple[str, str, str]]:
    """Pillow's words for a truncated image are its own."""
    return sorted((r.key, r.stage, "truncated" if r.reason.startswith("truncated") else r.reason) for r in rejects)


def test_the_toy_pool_holds_every_case(toy_pool: Pool) -> None:
    first, second = expected_rejects(toy_pool)
    assert len(toy_pool) == 40
    assert len(first) > len(second) > 0
    assert set(short(first)) & set(short(second))  # a shared row that neither can decode
    assert set(short(second)) - set(short(first))  # one that the second alone would have encoded
    owner = assign_participants(np.arange(40), [9, 1], 0)
    rest = (owner == 1) & ~np.isin(np.arange(40), shared_set(toy_pool, 17, 0))
    assert owner[33] == 1
    assert min(np.add.reduceat(rest, range(0, 40, 6))) == 0  # a shard without a row of the second participant


def test_too_many_rejects_end_the_job_with_their_reasons(toy_pool: Pool, refused: tuple[Path, InputError]) -> None:
    out, error = refused
    first, _ = expected_rejects(toy_pool)
    encoded_rows = len(contribution_rows(toy_pool, 0))
    assert error.exit_code == 3
    assert f"{len(first)} of {encoded_rows} rows were rejected, more than max_reject_fraction 0.05" in error.cause
    assert "x feature is zero or not finite (key key-" in error.cause
    with pytest.raises(InputError, match="no finished contribution"):
        Contribution(Location(str(out / "contributions" / "00")))


def contribution_rows(pool: Pool, index: int) -> list[int]:
    owner = assign_participants(np.arange(40), [9, 1], 0)
    shared = shared_set(pool, 17, 0)
    return [i for i in range(40) if owner[i] == index or i in shared]


def test_rejected_rows_are_listed_counted_and_left_out(
    toy_pool: Pool, toys: tuple[Path, dict[str, tuple[int, bytes]]]
) -> None:
    out, _ = toys
    expected = expected_rejects(toy_pool)
    for index, (part, rejects) in enumerate(zip(contributions_at(out), expected, strict=True)):
        assert short(read_rejects(part.location)) == short(rejects)
        assert part.manifest.summary["rejected"] == len(rejects)
        lost = {int(r.key.removeprefix("key-")) for r in rejects}
        assert sorted(everything(part)) == [i for i in contribution_rows(toy_pool, index) if i not in lost]
        assert part.manifest.summary["rows"] == len(own(part)[0])
        assert part.manifest.summary["encoded_rows"] == len(everything(part))
    table = targets_at(out)
    both = sorted({*short(expected[0]), *short(expected[1])})
    assert short(read_rejects(table.location)) == both
    assert table.manifest.summary["rejected"] == len(both)
    assert [p["rejected"] for p in table.manifest.summary["priors"]] == [len(r) for r in expected]
    owner = assign_participants(np.arange(40), [9, 1], 0)
    unusable = [{r.key for r in rejects} for rejects in expected]
    assert table.row_ids().tolist() == [i for i in range(40) if f"key-{i}" not in unusable[owner[i]]]


def test_raising_the_limit_goes_on_without_encoding_again(toys: tuple[Path, dict[str, tuple[int, bytes]]]) -> None:
    out, before = toys
    files = {name: content for name, content in before.items() if "features-" in name}
    # Both worked side by side, and the first one's rejects ended the job.
    assert len([name for name in files if name.endswith(".parquet")]) == 14
    assert len([name for name in before if "shared-" in name and name.endswith(".parquet")]) == 6
    after = snapshot(out)
    assert {name: after[name] for name in files} == files


def test_a_constant_encoder_is_warned_of(toys: tuple[Path, dict[str, tuple[int, bytes]]]) -> None:
    summary = targets_at(toys[0]).manifest.summary
    first, constant = summary["priors"]
    assert constant["uniformity"] == pytest.approx(0, abs=1e-3)
    assert first["uniformity"] < -0.5
    assert summary["reference"] == f"{MINE}:FailsOnBright"
    (warning,) = [w for w in summary["warnings"] if "uniformity" in w]
    assert warning.startswith(f"{MINE}:Constant gives nearly the same features for all rows (uniformity ")


@pytest.mark.slow
def test_a_killed_contribution_makes_only_the_missing_shard_again(
    toy_pool: Pool, toys: tuple[Path, dict[str, tuple[int, bytes]]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(toys[0], out)
    first = contributions_at(out)[0].manifest
    before = snapshot(out)
    # One with a rejected row and one without: what was rejected before the kill counts as well.
    with_rejects = {name.split("/")[-1].split(".")[0] for name in before if "00/features" in name and "json" in name}
    lost = f"contributions/00/{sorted(with_rejects)[0]}.parquet"
    for name in ("contributions/00/manifest.json", "contributions/00/rejects.parquet", lost):
        (out / name).unlink()
    encode({**TOYS, "max_reject_fraction": 0.5}, toy_pool, out)
    again = contributions_at(out)[0].manifest
    assert again.identity == first.identity
    assert again.files == first.files
    for name in ("rows", "rejected", "shared_rows", "bytes_to_send"):
        assert again.summary[name] == first.summary[name]
    after = snapshot(out)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name][1] != before[name][1]} == {"contributions/00/manifest.json"}
    changed = {name for name in after if after[name][0] != before[name][0]}
    assert changed == {
        lost,
        lost.replace(".parquet", ".rejects.json"),
        "contributions/00/manifest.json",
        "contributions/00/rejects.parquet",
    }


@pytest.mark.slow
def test_a_prior_that_gives_a_wrong_shape_is_named(toy_pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"prior {MINE}:WrongShape gave \[1, 192\], need \[\d+, 192\]") as caught:
        encode({**TOYS, "priors": [f"{MINE}:WrongShape"]}, toy_pool, tmp_path)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.rglob("*.parquet"))


# -- wrong usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priors": ["efficientnet_lite:0", "efficientnet_light:1"]}, "unknown prior 'efficientnet_light'"),
        ({"priors": [f"{MINE}:Nobody"]}, f"{MINE}:Nobody cannot be imported"),
        ({"priors": [LITE[0], LITE[0]]}, "priors are named twice"),
        ({"reference": "open_clip:x/y"}, "reference 'open_clip:x/y' is not one of the priors"),
        ({"shared": 10.5}, "give a share below 1, whole rows, or a pool's folder"),
        ({"compute": {"gpus": 1}}, "1 actor of 0.5 CPUs and 1 GPU, and the Ray cluster has no room: "),
        ({"compute": {"cpus": 1000}}, "1 actor of 1000 CPUs, and the Ray cluster has no room: "),
    ],
    ids=["prior", "class", "twice", "reference", "shared", "gpus", "cpus"],
)
def test_wrong_usage_is_refused_before_anything_is_written(
    pool: Pool, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    if "gpus" in change.get("compute", {}) and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError) as caught:
        encode({**DIGITS, **change}, pool, tmp_path)
    assert message in caught.value.cause
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shared", "count", "remedy"),
    [
        (3, 3, "raise encode.shared"),
        (59, 59, "lower encode.shared: 58 rows, 0.81 of the pool, are the most"),
        (0.02, 1, "raise encode.shared"),
        (0.9, 65, "lower encode.shared: 58 rows"),
    ],
)
def test_too_few_or_too_many_shared_rows_are_bad_input(
    pool: Pool, tmp_path: Path, shared: float, count: int, remedy: str
) -> None:
    assert len(pool.train_ids()) == 58
    with pytest.raises(InputError, match=f"would have {count} rows of 58 training rows; 4 are the least") as caught:
        encode({**DIGITS, "shared": shared}, pool, tmp_path)
    assert caught.value.exit_code == 3
    assert caught.value.remedy.startswith(remedy)


def test_the_shared_set_is_nested_and_never_holds_test_rows(pool: Pool) -> None:
    sets = [set(shared_set(pool, shared, 0).tolist()) for shared in (4, 0.25, 40, 58)]
    assert [len(s) for s in sets] == [4, 18, 40, 58]
    assert sets[0] < sets[1] < sets[2] < sets[3]
    assert not sets[-1] & set(pool.test_ids().tolist())


def test_a_pool_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no finished pool at {tmp_path}/none"):
        encode(DIGITS, tmp_path / "none", tmp_path / "out")


# -- merge -----------------------------------------------------------------------------------------------------------


def config(**more: Any) -> MergeConfig:
    return MergeConfig.model_validate(more)


def folders(out: Path) -> list[Path]:
    return sorted((out / "contributions").iterdir())


def edited(folder: Path, to: Path, **changes: dict[str, Any]) -> Path:
    """A copy of a contribution whose manifest states other settings or inputs."""
    shutil.copytree(folder, to)
    manifest = json.loads((to / "manifest.json").read_text())
    for name, values in changes.items():
        manifest[name] |= values
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_merging_alone_gives_what_encode_gave(made: Path, tmp_path: Path) -> None:
    assert merge(folders(made), tmp_path / "t", config()).manifest.identity == targets_at(made).manifest.identity


@pytest.mark.parametrize("reference", LITE)
def test_a_reference_can_be_named(made: Path, tmp_path: Path, reference: str) -> None:
    table = merge(folders(made), tmp_path / "t", config(reference=reference, alignment="procrustes"))
    index = LITE.index(reference)
    assert table.manifest.summary["reference"] == f"{reference}@32"
    have = features(table, "target")[table.column("prior").to_numpy() == index]
    assert np.abs(have - own(contributions_at(made)[index])[1]).max() < HALF
    rotation = load_file(next((tmp_path / "t").glob("alignment-*")))[f"alignment.{1 - index}"]
    assert np.allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
    assert not np.allclose(rotation, np.eye(16), atol=0.1)


def test_contributions_that_do_not_belong_together_are_refused(made: Path, tmp_path: Path) -> None:
    first, second = folders(made)
    ids = own(contributions_at(made)[0])[0]
    other_seed = edited(second, tmp_path / "seed", config={"seed": 1})
    other_pool = edited(second, tmp_path / "pool", inputs={"pool": "of someone else"})
    other_dim = edited(second, tmp_path / "dim", config={"dim": 17})
    cases: list[tuple[list[Path], str]] = [
        ([first, other_dim], f"differ in dim: 16 at {first}, 17 at {other_dim}"),
        (
            [first, other_pool],
            rf"differ in their shared set: shared 40, seed 0 of pool .* of pool of someone e at {other_pool}",
        ),
        ([first, other_seed], rf"shared 40, seed 1 of pool \w+ at {other_seed}"),
        (
            [first, first],
            rf"{first} and {first} overlap: both hold {len(ids)} rows of the same pool, such as row_id {ids[0]}",
        ),
        ([], "no contributions"),
        ([first, tmp_path / "none"], f"no finished contribution at {tmp_path}/none"),
    ]
    for parts, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            merge(parts, tmp_path / "targets", config())
        assert caught.value.exit_code == 3
    assert not (tmp_path / "targets").exists()


def test_an_unknown_reference_leaves_the_output_free(made: Path, tmp_path: Path) -> None:
    other = config(reference="open_clip:x/y")
    with pytest.raises(UsageError, match=rf"reference 'open_clip:x/y' is not among the contributions \['{LABELS[0]}'"):
        merge(folders(made), tmp_path / "t", other)
    assert not (tmp_path / "t").exists()


def test_few_shared_rows_are_warned_of(made: Path, toys: tuple[Path, dict[str, tuple[int, bytes]]]) -> None:
    # 40 rows for 16 dimensions
    assert not [w for w in targets_at(made).manifest.summary["warnings"] if "enlarge the shared set" in w]
    shared = targets_at(toys[0]).manifest.summary["shared_rows"]
    assert shared < 16
    warnings = targets_at(toys[0]).manifest.summary["warnings"]
    assert f"alignment in 8 dimensions wants 16 shared rows or more, has {shared}: enlarge the shared set" in warnings
