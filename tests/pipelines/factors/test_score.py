"""Scoring over Ray Data: what it writes against the whole table at once, cut and stopped anywhere."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from coevo_ray.config import SaeConfig
from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.core.factors.scores import diversity, rank_normalise, representativeness, strongest_factor
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pipelines.factors.codes import read_codes
from coevo_ray.pipelines.factors.score import score
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.factor_files import load_factors
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from coevo_ray.store.sae_files import save_sae
from coevo_ray.store.verification import verify

ROWS, DIM, LATENTS, K, TOP = 230, 5, 12, 3, 4
CONFIG = SaeConfig.model_validate({"latents": 2, "k": 1, "rare_quantile": 0.4})  # the model's sizes count, not these
Matrix = npt.NDArray[np.float32]


def features() -> Matrix:
    """Multiples of 1/8: products with the model's weights are exact, so that codes do not depend on the shards."""
    matrix: Matrix = (np.random.default_rng(0).integers(-20, 20, (ROWS, DIM)) / 8).astype(np.float32)
    return matrix


def row_ids() -> npt.NDArray[np.int64]:
    """Not dense: some rows were rejected."""
    return np.delete(np.arange(ROWS + 7), [0, 3, 50, 51, 52, 99, 200]).astype(np.int64)


def model(folder: Path, seed: int = 0, dim: int = DIM) -> Location:
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(SAEConfig(dim, LATENTS, K))
    with torch.no_grad():
        sae.encoder.copy_(torch.randint(-9, 9, sae.encoder.shape, generator=generator) / 16)
        sae.encoder_bias.copy_(torch.randint(-99, 99, sae.encoder_bias.shape, generator=generator) / 128)
    place = Location.parse(str(folder / f"model{seed}-{dim}"))
    finish(place, "sae", {}, {}, save_sae(place, sae), {})
    return place


def table(folder: Path, shards: int, kind: str = "targets", **columns: Matrix) -> RowTable:
    place = Location.parse(str(folder / f"{kind}{shards}"))
    data = {"row_id": row_ids(), **{n: vector_column(c) for n, c in (columns or {"target": features()}).items()}}
    whole = pa.table(data)
    cuts = np.linspace(0, ROWS, shards + 1).astype(int)
    parts = [whole.slice(a, b - a) for a, b in pairwise(cuts.tolist())]
    files = [write_table(place, f"part-{i:03d}.parquet", part, group_rows=30) for i, part in enumerate(parts)]
    finish(place, kind, {}, {}, files, {})
    return RowTable(place, kind)


def everything(scores: RowTable) -> dict[str, Any]:
    """All that scoring wrote, as it is read."""
    folder = Location(scores.location.uri.rpartition("/")[0])
    codes, factors = RowTable(folder.child("codes"), "codes"), load_factors(folder)
    return {
        "codes": codes.scan(["row_id", "factor", "value"]).combine_chunks(),
        "scores": scores.scan(["row_id", "representativeness", "diversity", "factor"]).combine_chunks(),
        "counts": factors.counts.tolist(),
        "sums": factors.sums.tolist(),
        "top_rows": factors.top_rows.tolist(),
        "top_values": factors.top_values.tolist(),
        "summary": {n: v for n, v in scores.manifest.summary.items() if n != "seconds"},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> dict[str, Any]:
    """The result over a single shard."""
    folder = tmp_path_factory.mktemp("whole")
    return everything(score(CONFIG, table(folder, 1), model(folder), str(folder / "out"), top_rows=TOP))


def test_codes_scores_and_factors_are_those_of_the_whole_table(whole: dict[str, Any]) -> None:
    x = features()
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randint(-9, 9, (LATENTS, DIM), generator=generator).numpy() / 16
    bias = torch.randint(-99, 99, (LATENTS,), generator=generator).numpy() / 128
    dense = np.maximum(x @ encoder.T + bias, 0).astype(np.float32)
    indices = np.argsort(-dense, axis=1, kind="stable")[:, :K].astype(np.int32)
    values = np.take_along_axis(dense, indices, axis=1)
    active = np.zeros_like(dense)
    np.put_along_axis(active, indices, values, axis=1)
    p = (active > 0).mean(axis=0)
    assert np.allclose(whole["summary"]["frequencies"], p, atol=1e-8)
    assert np.allclose(whole["sums"], active.sum(axis=0))
    scores = whole["scores"]
    assert scores.column("row_id").to_numpy().tolist() == row_ids().tolist()
    rank_error = whole["summary"]["rank_error"]
    assert max(rank_error.values()) < 0.03
    exact = representativeness(indices, values, p), diversity(indices, values, p, 0.4)
    for name, values_of in zip(("representativeness", "diversity"), exact, strict=True):
        have = scores.column(name).to_numpy()
        assert have.dtype == np.float32
        assert np.abs(have - rank_normalise(values_of)).max() <= rank_error[name] + 1e-6, name
    assert scores.column("factor").to_numpy().tolist() == strongest_factor(indices, values).tolist()
    for factor in range(LATENTS):
        order = sorted(np.flatnonzero(active[:, factor]), key=lambda i: (-active[i, factor], i))[:TOP]
        rows = [r for r in whole["top_rows"][factor] if r >= 0]
        assert rows == row_ids()[order].tolist()
        assert whole["top_values"][factor][: len(rows)] == active[order, factor].tolist()


def times(folder: Path) -> dict[str, int]:
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in folder.rglob("*.parquet") if f.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_shards_change_nothing_and_a_lost_factor_table_is_counted_again(tmp_path: Path, whole: dict[str, Any]) -> None:
    source, sae, out = table(tmp_path, 7), model(tmp_path), tmp_path / "out"
    config = CONFIG.model_copy(update={"compute": CONFIG.compute.model_copy(update={"actors": 2, "cpus": 0.5})})
    scores = score(config, source, sae, str(out), top_rows=TOP)
    assert everything(scores) == whole
    assert len(scores.files) == 7
    assert not (out / "scores" / "_raw").exists()
    for name in ("codes", "table", "scores"):
        place = Location(str(out)).child(name)
        assert verify(place, RowTable(place).manifest) == []
    ids, factors, values = read_codes(Location(str(out / "codes")), "part-000.parquet")
    assert (len(ids), factors.shape, values.shape) == (ROWS // 7, (ROWS // 7, K), (ROWS // 7, K))
    assert [str(array.dtype) for array in (ids, factors, values)] == ["int64", "int32", "float32"]
    before = times(out)
    for file in (out / "table").iterdir():
        file.unlink()
    assert everything(score(CONFIG, source, sae, str(out), top_rows=TOP)) == whole
    assert {n for n, t in times(out).items() if t != before[n]} == {"table/factors.parquet"}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_stopped_while_encoding_it_goes_on(tmp_path: Path, whole: dict[str, Any]) -> None:
    source, sae, out = table(tmp_path, 4), model(tmp_path), tmp_path / "out"
    hole = Path(source.location.path) / "part-002.parquet"
    content = hole.read_bytes()
    hole.write_bytes(b"damaged")
    with pytest.raises(InputError, match="part-002"):
        score(CONFIG, source, sae, str(out), top_rows=TOP)
    made = times(out)
    assert made and "codes/part-002.parquet" not in made and not list(out.rglob("manifest.json"))
    hole.write_bytes(content)
    with pytest.raises(UsageError, match="made with other settings"):
        score(CONFIG, source, model(tmp_path, seed=1), str(out), top_rows=TOP)
    assert everything(score(CONFIG, RowTable(source.location), sae, str(out), top_rows=TOP)) == whole
    assert {name: times(out)[name] for name in made} == made


def changed(rated: pa.Table, factor: int) -> pa.Table:
    return rated.set_column(3, "factor", pa.array(np.full(len(rated), factor, np.int32)))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_stopped_while_rating_or_ranking_it_goes_on(tmp_path: Path, whole: dict[str, Any]) -> None:
    source, sae, out = table(tmp_path, 4), model(tmp_path), tmp_path / "out"
    names = [f"scores/part-00{i}.parquet" for i in range(4)]
    raw = [f"scores/_raw/part-00{i}.parquet" for i in range(4)]
    (out / raw[1]).mkdir(parents=True)  # where a file cannot be written
    with pytest.raises(StoppedError, match="part-001"):
        score(CONFIG, source, sae, str(out), top_rows=TOP)
    (out / raw[1]).rmdir()
    (out / names[2]).mkdir()
    with pytest.raises(StoppedError, match="part-002"):
        score(CONFIG, source, sae, str(out), top_rows=TOP)
    made = times(out)
    assert set(raw) < set(made)  # rated once, and kept until the ranks are there
    marked = changed(pq.read_table(out / raw[2]), 77)
    made_of = marked.schema.metadata[b"coevo_ray.made_of"].decode()
    write_table(Location.parse(out), raw[2], marked, made_of=made_of)  # as if it had been rated so
    pq.write_table(changed(pq.read_table(out / raw[3]), 78), out / raw[3])  # a file of others
    (out / names[2]).rmdir()
    scores = score(CONFIG, source, sae, str(out), top_rows=TOP)
    assert {n: times(out)[n] for n in made if n not in raw} == {n: t for n, t in made.items() if n not in raw}
    result = everything(scores)
    factor = result["scores"].column("factor").to_numpy()
    expected = whole["scores"].column("factor").to_numpy().copy()
    first, last = scores.files[2].first_row_id, scores.files[2].last_row_id
    expected[(row_ids() >= first) & (row_ids() <= last)] = (
        77  # what was rated before was not rated again; the file of others was
    )
    assert factor.tolist() == expected.tolist()
    for name in ("row_id", "representativeness", "diversity"):
        assert result["scores"].column(name) == whole["scores"].column(name)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_any_table_with_a_column_of_vectors(tmp_path: Path, whole: dict[str, Any]) -> None:
    pool = table(tmp_path, 2, "pool", clip=features(), other=np.ones((ROWS, 2), np.float32))
    scores = score(CONFIG, pool, model(tmp_path), str(tmp_path / "out"), column="clip", top_rows=TOP)
    assert everything(scores) == whole
    summary = RowTable(Location(str(tmp_path / "out" / "table"))).manifest.summary
    assert summary["pools"] == [{"identity": pool.manifest.identity, "first_row_id": 0}]
    with pytest.raises(InputError, match=r"\['clip', 'other'\]; one column"):
        score(CONFIG, pool, model(tmp_path), str(tmp_path / "b"))
    with pytest.raises(InputError, match="'image' is asked for"):
        score(CONFIG, pool, model(tmp_path), str(tmp_path / "b"), column="image")
    with pytest.raises(InputError, match="dimension 2 for an SAE of dimension 5"):
        score(CONFIG, pool, model(tmp_path), str(tmp_path / "b"), column="other")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = features()
    broken[100, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        score(CONFIG, table(tmp_path, 2, target=broken), model(tmp_path), str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_no_top_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="top_rows = 0"):
        score(CONFIG, table(tmp_path, 1), model(tmp_path), str(tmp_path / "out"), top_rows=0)
