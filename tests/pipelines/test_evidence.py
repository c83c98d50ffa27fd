"""Evidence over Ray: what it writes against the whole pool at once, cut and stopped anywhere, and who sees it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from coevo_ray.actors.ledger_inputs import LedgerInputs
from coevo_ray.config import EvidenceConfig, TrainConfig, make_config
from coevo_ray.core.probes.former_doubt import former_doubt, mistake_rates
from coevo_ray.core.probes.irreducible import irreducible_loss
from coevo_ray.core.probes.label_doubt import find_mistakes, fold_of, fold_probes, most_doubted, predict_folds
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.evidence import gather_evidence
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.digests import digest_array
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.row_table import RowTable, vector_column, vectors
from coevo_ray.training.supervised.train import looks_at_evidence

ROWS, CLASSES, COPIES = 4000, 4, 600
HELD, REJECTED = np.arange(0, ROWS, 10), np.arange(7, ROWS, 400)
Matrix = npt.NDArray[np.float32]
pytestmark = pytest.mark.usefixtures("ray_local")


def content() -> tuple[Matrix, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Clouds about four corners, with an offset that all rows share; the last rows are copies of the first ones.

    Of the labels a fifth is wrong, which the last array says.
    """
    random = np.random.default_rng(0)
    true = random.integers(0, CLASSES, ROWS)
    features = np.eye(16)[true] + 0.1 * random.standard_normal((ROWS, 16)) + 2.0
    features[-COPIES:], true[-COPIES:] = features[:COPIES] + 0.001, true[:COPIES]
    wrong = random.random(ROWS) < 0.2
    labels = np.where(wrong, (true + random.integers(1, CLASSES, ROWS)) % CLASSES, true)
    return features.astype(np.float32), labels.astype(np.int64), wrong


def inputs(folder: Path, shards: int = 3) -> tuple[Pool, RowTable]:
    """A pool without images, and its targets: rejected rows have none."""
    features, labels, _ = content()
    rows, split = np.arange(ROWS), np.zeros(ROWS, np.int8)
    split[HELD] = 1
    place = Location.parse(str(folder / "pool"))
    entry = write_table(place, "0.parquet", pa.table({"row_id": rows, "label": labels, "split": split}))
    finish(place, "pool", {}, {}, [entry], {"classes": CLASSES})
    have = np.delete(rows, REJECTED)
    place = Location.parse(str(folder / f"targets{shards}"))
    entries = []
    for i, part in enumerate(np.array_split(have, shards)):
        columns = {"row_id": part, "target": vector_column(features[part])}
        entries.append(write_table(place, f"{i}.parquet", pa.table(columns), 500))
    finish(place, "targets", {}, {}, entries, {})
    return Pool(Location.parse(str(folder / "pool"))), RowTable(place, "targets")


def gather(folder: Path, labels: npt.NDArray[np.int64] | None = None, shards: int = 3, **config: Any) -> pa.Table:
    pool, targets = inputs(folder, shards)
    known = pool.labels() if labels is None else labels
    config = {"similarity": 0.99, "margin": 0.0, "neighbours": 4, **config}
    return gather_evidence(config, pool, targets, known, str(folder / "out")).scan(
        ["row_id", "label", "doubt", "likely", "group", *(["irreducible"] if config.get("doubt", True) else [])]
    )


@pytest.mark.slow
def test_evidence_is_that_of_the_whole_pool_at_once(tmp_path: Path) -> None:
    table = gather(tmp_path)
    _, labels, wrong = content()
    rows = table.column("row_id").to_numpy()
    assert rows.tolist() == np.setdiff1d(np.arange(ROWS), [*HELD, *REJECTED]).tolist()
    # By hand: the same probes on all of the rows, as targets are stored.
    _, targets = inputs(tmp_path / "again")
    features, fold = vectors(targets.read(rows, ["target"]).column("target")), fold_of(rows, 2)
    found = find_mistakes(features, labels[rows], fold, folds=2, classes=CLASSES)
    probabilities = predict_folds(found.probes, features, fold)
    doubt = table.column("doubt").to_numpy()
    assert table.column("label").to_numpy().tolist() == labels[rows].tolist()
    assert np.allclose(doubt, found.doubt(probabilities, labels[rows]), atol=2e-3)
    assert table.column("likely").to_numpy().tolist() == probabilities.argmax(axis=1).tolist()
    losses = table.column("irreducible").to_numpy()
    assert np.allclose(losses, irreducible_loss(probabilities, labels[rows]), rtol=2e-2, atol=2e-2)
    assert losses[wrong[rows]].mean() > 5 * losses[~wrong[rows]].mean()
    assert (doubt[wrong[rows]] > 0.5).mean() > 0.9
    assert (doubt[~wrong[rows]] > 0.5).mean() < 0.02
    # Copies: the later one's leader is the earlier one, if both are there.
    group = dict(zip(rows.tolist(), table.column("group").to_numpy().tolist(), strict=True))
    pairs = [(row, row + ROWS - COPIES) for row in range(COPIES)]
    both = [(a, b) for a, b in pairs if a in group and b in group]
    assert len(both) > 400
    assert all(group[b] == group[a] == a for a, b in both)
    assert sum(group[row] != row for row in group) == len(both)


@pytest.mark.parametrize("alike", [True, False])
def test_near_rows_are_copies_where_their_labels_agree(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], alike: bool
) -> None:
    """By the pool's own measure: a fifth of wrong labels does not tell copies apart, labels of their own do."""
    _, labels, _ = content()
    if not alike:
        labels[-COPIES:] = (labels[:COPIES] + 1) % CLASSES
    table = gather(tmp_path, labels, similarity=None, margin=None, neighbours=16)
    summary = RowTable(Location.parse(str(tmp_path / "out")), "evidence").manifest.summary
    rows, group = table.column("row_id").to_numpy(), table.column("group").to_numpy()
    later = (rows >= ROWS - COPIES) & np.isin(rows - (ROWS - COPIES), rows)
    if alike:
        assert (group[later] == rows[later] - (ROWS - COPIES)).mean() > 0.85  # what the measure finds
        assert summary["copy_agreement"] > 0.85 and summary["near_rows_apart"] == 0
        assert summary["copied_rows"] > 700
    else:
        assert (group == rows).all() and summary["copied_rows"] == summary["copy_groups"] == 0
        assert summary["copy_agreement"] < 0.6 and summary["near_rows_apart"] > 700
        assert "treating them as distinct rows" in capfd.readouterr().err


def test_the_summary_counts_what_the_table_has(tmp_path: Path) -> None:
    table = gather(tmp_path)
    summary = RowTable(Location.parse(str(tmp_path / "out")), "evidence").manifest.summary
    doubt, group = table.column("doubt").to_numpy(), table.column("group").to_numpy()
    _, size = np.unique(group, return_counts=True)
    assert summary["doubted_rows"] == (doubt > 0.5).sum() > 500
    assert (summary["copied_rows"], summary["copy_groups"]) == (size[size > 1].sum(), (size > 1).sum())
    most = summary["most_doubted"]
    # Of the 480 rows of the largest doubt 48, by hundredths of doubt, within which labels take turns.
    rows, labels = table.column("row_id").to_numpy(), table.column("label").to_numpy()
    first = np.argsort(-doubt.astype(np.float64), kind="stable")[:480]
    place = first[most_doubted(rows[first], doubt[first].astype(np.float64).round(4), labels[first], 48)]
    assert [row["row_id"] for row in most] == rows[place].tolist()
    assert [row["doubt"] for row in most] == pytest.approx(doubt[place].astype(float), abs=1e-4)
    assert all(a["doubt"] > b["doubt"] - 0.01 for a, b in pairwise(most))
    assert np.bincount([row["label"] for row in most], minlength=CLASSES).min() >= 6
    likely = dict(zip(table.column("row_id").to_pylist(), table.column("likely").to_pylist(), strict=True))
    assert all(type(row["likely"]) is int and row["likely"] == likely[row["row_id"]] for row in most)
    _, _, wrong = content()
    # Of all labels a class gets by mistake, those of the three others: a fifth of theirs, a third of it each.
    assert summary["mistake_rates"] == pytest.approx([0.2 / 3] * CLASSES, abs=0.03)
    assert wrong[np.array([row["row_id"] for row in most], np.int64)].mean() > 0.9
    assert summary["level"] == pytest.approx(wrong[rows].mean(), abs=0.03)
    assert summary["mistakes"] == round(summary["level"] * len(rows))
    assert summary["judged"] is True and summary["fewest_rows"] == 500


def test_files_of_targets_change_nothing_and_neither_does_a_stop(tmp_path: Path) -> None:
    whole = gather(tmp_path / "a", shards=1)
    out = tmp_path / "b" / "out"
    cut = gather(tmp_path / "b", shards=5)
    for name in whole.column_names:
        assert np.allclose(whole.column(name).to_numpy(), cut.column(name).to_numpy(), atol=2e-3), name
    # A stop before the last file and the manifest were written.
    before = (out / "3.parquet").stat().st_mtime_ns
    (out / MANIFEST).unlink()
    (out / "4.parquet").unlink()
    assert gather(tmp_path / "b", shards=5).equals(cut)
    assert (out / "3.parquet").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_sample_is_enough_and_unlabelled_rows_take_no_part(tmp_path: Path) -> None:
    _, labels, wrong = content()
    unlabelled = np.arange(ROWS) % 3 == 0
    table = gather(tmp_path, np.where(unlabelled, -1, labels), copies=False, probe_rows=1500)
    rows, doubt = table.column("row_id").to_numpy(), table.column("doubt").to_numpy()
    assert not unlabelled[rows].any()
    assert (doubt[wrong[rows]] > 0.5).mean() > 0.8
    assert (doubt[~wrong[rows]] > 0.5).mean() < 0.02
    assert (table.column("group").to_numpy() == rows).all()
    assert not (tmp_path / "out" / "graph").exists()


def test_evidence_that_version_0_1_0_began_goes_on_by_its_rule(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path, shards=3)
    settings: dict[str, Any] = {"copies": False, "similarity": 0.99, "margin": 0.0, "neighbours": 4}
    config = EvidenceConfig(**settings).content() | {"l2": 1e-3}
    labels, out = pool.labels(), Location.parse(str(tmp_path / "out"))
    known = {"pool": pool.manifest.identity, "targets": targets.manifest.identity, "labels": digest_array(labels)}
    begin(out, "evidence", config, known)
    first = pa.table(
        {
            "row_id": np.array([1]),
            "label": np.array([0]),
            "doubt": np.zeros(1, np.float16),
            "likely": np.array([0]),
            "group": np.array([1]),
        }
    )
    write_table(out, "0.parquet", first)  # one of its files: nothing tells what it was made of, so it is made again
    table = gather_evidence(settings, pool, targets, labels, str(tmp_path / "out"))
    assert table.manifest.config["l2"] == 1e-3
    whole = table.scan(["row_id", "doubt"])
    # By hand: probes on features scaled one by one, and mistakes counted where a class is least probable.
    rows = np.setdiff1d(np.arange(ROWS), [*HELD, *REJECTED])
    features, fold = vectors(targets.read(rows, ["target"]).column("target")), fold_of(rows, 2)
    probes = fold_probes(features, labels[rows], fold, folds=2, classes=CLASSES, scaling="each")
    probabilities = predict_folds(probes, features, fold)
    expected = former_doubt(probabilities, labels[rows], mistake_rates(probabilities, labels[rows]))
    assert whole.column("row_id").to_numpy().tolist() == rows.tolist()
    assert np.allclose(whole.column("doubt").to_numpy(), expected, atol=2e-3)
    # Finished, it is what the same settings give; a number that is asked for is another one.
    assert gather_evidence(settings, pool, targets, labels, str(tmp_path / "out")).manifest == table.manifest
    with pytest.raises(UsageError, match=r"l2: there 0\.001, asked for 0\.01"):
        gather_evidence({**settings, "l2": 0.01}, pool, targets, labels, str(tmp_path / "out"))


@pytest.mark.slow
def test_a_number_for_the_penalty_is_kept(tmp_path: Path) -> None:
    table = gather(tmp_path, copies=False, l2=0.003)
    _, _, wrong = content()
    assert RowTable(Location.parse(str(tmp_path / "out")), "evidence").manifest.config["l2"] == 0.003
    doubted = table.column("doubt").to_numpy() > 0.5
    assert doubted[wrong[table.column("row_id").to_numpy()]].mean() > 0.9


def test_copies_alone(tmp_path: Path) -> None:
    table = gather(tmp_path, doubt=False)
    assert not table.column("doubt").to_numpy().any()
    assert (table.column("group").to_numpy() != table.column("row_id").to_numpy()).sum() > 400


def test_the_ledger_sees_it(tmp_path: Path) -> None:
    table = gather(tmp_path)
    pool, _ = inputs(tmp_path)
    candidates = (pool.splits() == 0) & (np.arange(ROWS) < ROWS - 100)
    config = make_config(TrainConfig, {"labels": "pool"}, "train")
    assert looks_at_evidence(config)
    there = LedgerInputs(
        "factors",
        config,
        pool.labels(),
        candidates,
        None,
        Location.parse(str(tmp_path / "journal")),
        Location.parse(str(tmp_path / "out")),
    )
    rows = table.column("row_id").to_numpy()
    known = there.make_ledger().scores(np.arange(ROWS))
    assert np.array_equal(known["doubt"][rows], table.column("doubt").to_numpy())
    assert not known["doubt"][REJECTED].any()
    twice = known["copies"] == 2
    assert twice[:COPIES].sum() == twice[-COPIES:].sum() > 300
    assert not twice[-100:].any(), "rows that are no candidates are nobody's copies"
    assert (known["copy"][-COPIES:][twice[-COPIES:]] == 1).all()
    # And the doubted rows are left out of what is selected.
    used = np.zeros(ROWS, dtype=bool)
    ledger = there.make_ledger()
    for epoch in range(4):
        used[ledger.select(epoch).row_ids] = True
        ledger.commit(epoch)
    assert not used[rows[table.column("doubt").to_numpy() > 0.5]].any()


def test_whoever_does_not_look_does_not_ask() -> None:
    bare = {"max_doubt": 1.0, "share_copies": False}
    for policies, options in ((["rotation", "full"], {}), (["factors"], {"factors": bare})):
        settings = {"labels": "pool", "policies": policies, "policy_options": options}
        assert not looks_at_evidence(make_config(TrainConfig, settings, "train"))


def test_wrong_input_is_named(tmp_path: Path) -> None:
    pool, targets = inputs(tmp_path)
    with pytest.raises(InputError, match="no training row has both a label and a target"):
        gather_evidence({}, pool, targets, np.full(ROWS, -1), str(tmp_path / "none"))
    with pytest.raises(UsageError, match="similarity"):
        gather_evidence({"similarity": 1.5}, pool, targets, pool.labels(), str(tmp_path / "never"))
    gather(tmp_path)
    with pytest.raises(UsageError, match=r"similarity: there 0\.99, asked for 0\.9"):
        gather(tmp_path, similarity=0.9)
    with pytest.raises(UsageError, match=r"inputs\.labels"):
        gather(tmp_path, np.zeros(ROWS, np.int64))
    assert EvidenceConfig().content().keys().isdisjoint({"compute"})


@pytest.mark.slow
def test_copies_are_told_by_the_pools_own_measure(tmp_path: Path) -> None:
    own = gather(tmp_path / "own", doubt=False, similarity=None, margin=None, neighbours=16)
    rows, group = (own.column(name).to_numpy() for name in ("row_id", "group"))
    copies = rows[group != rows]
    pairs = [row for row in range(COPIES) if row in set(rows.tolist()) and row + ROWS - COPIES in set(rows.tolist())]
    assert set(copies.tolist()) >= {row + ROWS - COPIES for row in pairs}
    assert len(copies) <= 1.05 * len(pairs)


def test_a_folder_that_was_begun_with_numbers_goes_on_with_them(tmp_path: Path) -> None:
    """Version 0.1.0 had 0.7 and 0.2 where nothing was said; present settings say nothing, and mean the pool's own."""
    begun = gather(tmp_path, doubt=False, similarity=0.7, margin=0.2)
    manifest = load_manifest(Location.parse(str(tmp_path / "out")))
    assert (manifest.config["similarity"], manifest.config["margin"]) == (0.7, 0.2)
    assert gather(tmp_path, doubt=False, similarity=None, margin=None).equals(begun)
    with pytest.raises(UsageError, match=r"similarity: there 0\.7, asked for 0\.8"):
        gather(tmp_path, doubt=False, similarity=0.8, margin=None)
