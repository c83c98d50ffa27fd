"""The battery's parts against slow, obvious versions: pools, cached features, settings, heads, verdicts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.battery.copies import COPIES_OF_A_ROW, copied_rows, make_copies
from benchmarks.battery.encoding import available_priors, default_cache, encode_pool
from benchmarks.battery.heads import FOLDS, PENALTIES, class_mean, fit_tuned, knn, stratified_folds, tuned_linear
from benchmarks.battery.pools import Limits, Place, Pool, Rows, Samples, find_places
from benchmarks.battery.priors import TfidfPrior
from benchmarks.battery.settings import IMBALANCE, NOISE, SETTINGS, make_setting, nearest_classes
from benchmarks.battery.verdicts import cell, choose, chosen_constants, judge, verdicts
from coevo_ray.core.graph.threads import torch_threads
from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location

WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath")


def _texts(rows: int, seed: int) -> dict[str, list[str]]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    texts = [" ".join(["red", "green", "blue"][label] for _ in range(2)) for label in labels]
    texts = [f"{text} {' '.join(random.choice(WORDS, 4))}" for text in texts]
    ids = [f"{seed}-{i}" for i in range(rows)]
    return {"id": ids, "text": texts, "label": [["r", "g", "b"][label] for label in labels]}


def _folder(place: Path, name: str, **tables: dict[str, list[str]]) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    for split, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two text pools, one of which has no test rows, and something else."""
    place = tmp_path / "data"
    _folder(place, "other", train=_texts(100, 3))
    _folder(place, "banking77", train=_texts(120, 1), test=_texts(40, 2))
    (place / "notes").mkdir()
    return place


def test_pools_are_found_in_the_tables_order(data: Path, tmp_path: Path) -> None:
    assert [place.name for place in find_places()] == ["digits"]
    assert [(p.name, p.modality) for p in find_places(data)] == [
        ("digits", "image"),
        ("banking77", "text"),
        ("other", "text"),
    ]
    assert [place.name for place in find_places(data, quick=True)] == ["digits", "banking77"]
    own = _folder(tmp_path, "mine", train=_texts(30, 5))
    assert [place.name for place in find_places(data, [own], ["other"])] == ["other", "mine"]
    with pytest.raises(UsageError, match="no pool absent"):
        find_places(data, names=["absent"])
    with pytest.raises(UsageError, match="two pools are named other"):
        find_places(data, [_folder(tmp_path, "again/other", train=_texts(30, 5))])
    with pytest.raises(InputError, match="no pool at"):
        find_places(own=[data / "notes"])


def test_rows_are_capped_by_the_hash_of_their_ids(data: Path) -> None:
    place = find_places(data, names=["banking77"])[0]
    whole, part, less = (place.load(Limits(rows, rows // 3)) for rows in (1000, 60, 30))
    assert (len(whole.train), len(whole.test), whole.classes) == (120, 40, ("b", "g", "r"))
    assert (len(part.train), len(part.test)) == (60, 20)
    assert set(less.train.ids) < set(part.train.ids) < set(whole.train.ids)
    at = {row: i for i, row in enumerate(whole.train.ids)}
    for i, row in enumerate(part.train.ids):
        assert part.train.samples[i] == whole.train.samples[at[row]]
        assert part.train.labels[i] == whole.train.labels[at[row]]
    assert part.train.digest != less.train.digest
    assert part.train.digest == place.load(Limits(60, 20)).train.digest


def test_a_pool_without_test_rows_holds_a_fifth_of_each_class_out(data: Path) -> None:
    pool = find_places(data, names=["other"])[0].load()
    assert len(pool.train) + len(pool.test) == 100 and not set(pool.train.ids) & set(pool.test.ids)
    whole = np.bincount(np.concatenate([pool.train.labels, pool.test.labels]))
    assert np.bincount(pool.test.labels).tolist() == np.round(0.2 * whole).tolist()


def test_digits_are_images_with_ten_classes() -> None:
    pool = Place("digits", "image").load()
    assert (len(pool.train), len(pool.test), len(pool.classes)) == (1438, 359, 10)
    assert Image.open(io.BytesIO(pool.train.samples[0])).size == (8, 8)  # type: ignore[arg-type]  # bytes, of images


def test_rows_without_a_label_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.table({"text": [f"w{i % 5} x" for i in range(20)], "label": pa.array([None, -1, *[0, 1] * 9])})
    (tmp_path / "p").mkdir()
    pq.write_table(table, tmp_path / "p" / "train-000.parquet")
    pool = find_places(own=[tmp_path / "p"])[-1].load()
    assert len(pool.train) + len(pool.test) == 18 and pool.classes == ("0", "1")
    assert "2 rows without a label" in capsys.readouterr().err


def test_a_pool_that_was_ingested_is_taken(tmp_path: Path) -> None:
    table = pa.table(
        {
            "row_id": np.arange(6),
            "key": [f"k{i}" for i in range(6)],
            "text": [f"t{i}" for i in range(6)],
            "label": pa.array([0, 1, None, 1, 0, 1], pa.int64()),
            "split": pa.array([0, 0, 0, 1, 0, 1], pa.int8()),
        }
    )
    place = Location.parse(str(tmp_path / "mine"))
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table)], {"modality": "text", "classes": 2})
    found = find_places(own=[tmp_path / "mine"])[-1]
    pool = found.load()
    assert (found.name, pool.modality, pool.classes) == ("mine", "text", ("0", "1"))
    assert (pool.train.ids, pool.train.samples) == (["k0", "k1", "k4"], ["t0", "t1", "t4"])
    assert pool.train.labels.tolist() == [0, 1, 0] and pool.test.ids == ["k3", "k5"]


def test_features_are_encoded_once(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, prior = tmp_path / "cache", TfidfPrior("tfidf_words")
    pool = find_places(data, names=["banking77"])[0].load()
    first = encode_pool(pool, cache, [prior], with_copies=True)[0]
    assert "encoding" in capsys.readouterr().err
    again = encode_pool(pool, cache, [prior])[0]
    assert "encoding" not in capsys.readouterr().err
    assert again.copies is None and first.copies is not None and len(first.copies) == len(copied_rows(120))
    assert first.train.dtype == np.float16 and (first.train == again.train).all() and (first.test == again.test).all()
    assert np.linalg.norm(first.rows, axis=1) == pytest.approx(1.0, abs=2e-3)
    assert len(first.rows) == 120 + len(first.copies)
    # Copies are nearer to their originals than other rows are.
    near = (first.copies.astype(np.float32) * first.train[copied_rows(120)].astype(np.float32)).sum(axis=1)
    assert near.mean() > (first.train.astype(np.float32) @ first.train.astype(np.float32).T).mean() + 0.2
    assert not list(cache.glob(".tmp-*")) and len(list(cache.iterdir())) == 1
    other = find_places(data, names=["banking77"])[0].load(Limits(60, 20))
    encode_pool(other, cache, [prior])
    assert len(list(cache.iterdir())) == 2, "other rows are encoded anew"


@dataclass(frozen=True)
class _Broken:
    name: str = "broken"
    fits: bool = False

    def missing(self) -> str:
        return ""

    def settings(self) -> dict[str, object]:
        return {"prior": self.name}

    def encode(self, parts: Sequence[Samples]) -> list[npt.NDArray[np.float32]]:
        raise RuntimeError("no memory")


def test_an_encoding_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no memory"):
        encode_pool(Place("digits", "image").load(Limits(20, 10)), tmp_path, [_Broken()])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_is_the_mean(tmp_path: Path) -> None:
    pool = find_places(own=[_folder(tmp_path, "p", train=_texts(60, 1), test=_texts(9, 2))])[-1].load()
    unknown = Pool(pool.name, pool.modality, pool.classes, pool.train, Rows(["a"], ["zzz"], np.zeros(1, np.int64)))
    found = encode_pool(unknown, tmp_path / "cache", [TfidfPrior("tfidf_words")])[0]
    mean = found.train.astype(np.float32).mean(axis=0)
    assert found.test[0] == pytest.approx(mean / np.linalg.norm(mean), abs=2e-3)


def test_priors_that_are_missing_are_named() -> None:
    there, left_out = available_priors("text")
    assert [prior.name for prior in there][:2] == ["tfidf_words", "tfidf_chars"]
    assert {prior.name for prior in there} | set(left_out) == {"tfidf_words", "tfidf_chars", "static"}


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "coevo-ray" / "battery"


def test_copies_are_other_samples_with_the_same_content(data: Path) -> None:
    digits, texts = Place("digits", "image").load(Limits(80, 10)), find_places(data, names=["banking77"])[0].load()
    for pool in (digits, texts):
        copies = make_copies(pool)
        assert copies.samples == make_copies(pool).samples
        assert np.bincount(copies.of).max() == COPIES_OF_A_ROW and len(copies.of) == len(pool.train) // 2
        assert all(copy != pool.train.samples[row] for copy, row in zip(copies.samples, copies.of, strict=True))
    words = [
        set(str(copy).strip(".").split()) <= set(str(texts.train.samples[r]).split())
        for copy, r in zip(make_copies(texts).samples, make_copies(texts).of, strict=True)
    ]
    assert all(words)


@pytest.fixture(scope="module")
def labels() -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(5), 200)).astype(np.int64)


def test_settings_are_what_they_are_said_to_be(labels: npt.NDArray[np.int64]) -> None:
    features = np.random.default_rng(1).standard_normal((1000, 6)) + 3 * np.eye(5, 6)[labels]
    of = copied_rows(1000)
    made = {name: make_setting(name, labels, 5, 0, features, of) for name in SETTINGS}
    true = np.concatenate([labels, labels[of]])
    for name, setting in made.items():
        assert len(np.unique(setting.rows)) == len(setting.rows)
        assert (setting.true == true[setting.rows]).all()
        assert (setting.labels != setting.true).mean() == (NOISE if "noise" in name else 0)
    assert sorted(made["clean"].rows) == sorted(made["noise"].rows) == list(range(1000))
    pair, nearest = made["pair_noise"], nearest_classes(features, labels, 5)
    wrong = pair.labels != pair.true
    assert (pair.labels[wrong] == nearest[pair.true[wrong]]).all()
    assert len(np.unique(np.stack([made["noise"].true, made["noise"].labels]), axis=1).T) == 25
    sizes = np.sort(np.bincount(made["long_tail"].labels))
    assert sizes[-1] / sizes[0] == IMBALANCE
    assert sizes[1:] / sizes[:-1] == pytest.approx(IMBALANCE**0.25, rel=0.15)
    copies = made["copies"]
    assert (copies.rows >= 1000).mean() == 0.5
    assert np.isin(copies.groups, copies.rows).all(), "every copy's original is there"
    assert (copies.groups[copies.rows >= 1000] == of[copies.rows[copies.rows >= 1000] - 1000]).all()
    assert (copies.groups[copies.rows < 1000] == copies.rows[copies.rows < 1000]).all()


def test_a_seed_is_a_setting(labels: npt.NDArray[np.int64]) -> None:
    one, same, other = (make_setting("noise", labels, 5, seed) for seed in (0, 0, 1))
    assert (one.rows == same.rows).all() and (one.labels == same.labels).all()
    order, others = np.argsort(one.rows), np.argsort(other.rows)
    assert (one.labels[order] != other.labels[others]).any()
    for needs in ("pair_noise", "copies"):
        with pytest.raises(ValueError, match=needs):
            make_setting(needs, labels, 5, 0)


def test_the_nearest_class_has_the_nearest_mean() -> None:
    means = np.array([[5.0, 0, 0], [5.0, 1, 0], [0, 0, 4.0], [0, 1.0, 4]])
    labels = np.repeat(np.arange(4), 3)
    assert nearest_classes(means[labels], labels, 4).tolist() == [1, 0, 3, 2]
    there = labels != 2  # a class without a row is nobody's nearest
    assert nearest_classes(means[labels][there], labels[there], 4)[3] != 2


def _problem(rows: int, seed: int, noise: float = 2.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, rows)
    return (np.eye(4, 12)[y] * 2 + noise * random.standard_normal((rows, 12)) + 5).astype(np.float32), y


def test_the_tuned_head_is_scikit_learns_with_the_penalty_of_least_loss() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = _problem(240, 0)
    with torch_threads(1):
        head = fit_tuned(x, y, 4, seed=3)
    centred = x - x.mean(axis=0)
    scaled = np.column_stack([centred / np.sqrt((centred**2).mean()), np.ones(len(x))])
    folds, losses = stratified_folds(y, FOLDS, 3), {}
    for penalty in PENALTIES:
        predicted = np.empty((len(y), 4))
        for fold in range(FOLDS):
            peer = LogisticRegression(C=penalty, fit_intercept=False, max_iter=2000, tol=1e-8)
            peer.fit(scaled[folds != fold], y[folds != fold])
            predicted[folds == fold] = peer.predict_proba(scaled[folds == fold])
        losses[penalty] = -np.log(predicted[np.arange(len(y)), y]).mean()
    assert head.penalty == min(losses, key=losses.__getitem__)
    assert head.losses == pytest.approx({penalty: losses[penalty] for penalty in head.losses}, rel=0.01)
    peer = LogisticRegression(C=head.penalty, fit_intercept=False, max_iter=2000, tol=1e-8).fit(scaled, y)
    assert head.predict_proba(x) == pytest.approx(peer.predict_proba(scaled), abs=0.01)


def test_noise_asks_for_a_stronger_penalty() -> None:
    with torch_threads(1):
        penalties = [fit_tuned(*_problem(200, 0, noise), 4, seed=0).penalty for noise in (0.3, 4.0)]
    assert penalties[0] > penalties[1]


def test_a_rare_class_and_one_without_rows_are_taken() -> None:
    x, y = _problem(60, 0)
    x, y = x[(y < 2) | (np.arange(60) == np.argmax(y == 2))], y[(y < 2) | (np.arange(60) == np.argmax(y == 2))]
    with torch_threads(1):
        predicted = fit_tuned(x, y, 4, seed=0).predict_proba(x)
        assert predicted.shape == (len(y), 4) and np.isfinite(predicted).all()
        assert tuned_linear(x, y, *_problem(100, 1), seed=0) > 0.2


def test_folds_deal_every_class_out() -> None:
    y = np.repeat(np.arange(4), [9, 10, 2, 1])
    folds = stratified_folds(y, 3, 0)
    for label in range(4):
        counts = np.bincount(folds[y == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 1


def test_knn_is_the_slow_vote() -> None:
    (x, y), (x_test, y_test) = _problem(120, 0), _problem(50, 1)
    x, x_test = x - 5, x_test - 5
    right = 0
    for row, label in zip(x_test, y_test, strict=True):
        cosines = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in x]
        votes = np.zeros(4)
        for i in sorted(range(len(x)), key=lambda i: -cosines[i])[:20]:
            votes[y[i]] += np.exp(cosines[i] / 0.07)
        right += int(votes.argmax() == label)
    assert knn(x, y, x_test, y_test) == right / 50


def test_the_mean_over_classes_weighs_them_alike() -> None:
    y = np.array([0, 0, 0, 1])
    assert class_mean(np.array([True, True, True, False]), y) == 0.5


def test_verdicts_need_two_standard_errors() -> None:
    simple = {"random": [0.50, 0.60, 0.70], "margin": [0.55, 0.65, 0.75]}
    won = judge([0.56, 0.665, 0.76], simple)  # differences of 1, 1.5 and 1 points
    assert (won.verdict, won.against) == ("won", "margin")
    assert won.points == pytest.approx(7 / 6, abs=1e-3) and won.standard_error == pytest.approx(1 / 6, abs=1e-3)
    assert judge([0.54, 0.635, 0.74], simple).verdict == "lost"
    assert judge([0.56, 0.64, 0.76], simple).verdict == "even", "1, -1 and 1 points"
    assert judge(simple["margin"], simple).verdict == "even"
    for few, against in (([0.5], {"a": [0.4]}), ([0.5, 0.6], {}), ([0.5, 0.6], {"a": [0.1]})):
        with pytest.raises(ValueError, match="a verdict on"):
            judge(few, against)
    assert str(won) == "won against margin (+1.17 +- 0.17)"
    table = {**simple, "gate": [0.56, 0.665, 0.76]}
    assert verdicts(table, ["gate", "absent"], ["random", "margin"]) == {"gate": won.to_json()}


def test_a_cell_is_a_mean_and_a_spread() -> None:
    assert cell([0.5, 0.7]) == {"mean": 0.6, "spread": 0.14142, "values": [0.5, 0.7]}
    assert cell([0.5])["spread"] == 0.0


def test_constants_are_chosen_on_other_pools() -> None:
    results = {"low": {"a": 0.9, "b": 0.2, "c": 0.2}, "high": {"a": 0.1, "b": 0.5, "c": 0.6}}
    chosen = choose(results)
    assert {pool: choice.constant for pool, choice in chosen.items()} == {"a": "high", "b": "low", "c": "low"}
    assert chosen["a"].chosen_on == ("b", "c") and chosen["a"].mean == 0.55
    assert (chosen["a"].value, chosen["a"].best_here) == (0.1, "low")
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for pool in ("a", "b", "c"):
        cells = {name: {"mean": each[pool]} for name, each in results.items()}
        table[pool] = {"clean": cells, "noise": {name: {"first": each, "0.1": each} for name, each in cells.items()}}
    assert chosen_constants(table, ["low", "high"]) == {pool: choice.to_json() for pool, choice in chosen.items()}
    alone = choose({"low": {"a": 0.9}, "high": {"a": 1.0}}, default="low")["a"]
    assert (alone.constant, alone.chosen_on, alone.mean, alone.best_here) == ("low", (), None, "high")
    with pytest.raises(ValueError, match="not on the same pools"):
        choose({"low": {"a": 0.9}, "high": {"b": 1.0}})
