"""The commands around the sparse autoencoder: fit and score, show, export, import, score again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import coevo_ray as package
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column
from tests.command_line import Command
from tests.pool.pictures import png

ROWS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pool of images with vectors of its own, and targets with the same vectors."""
    vectors = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
    ids = np.arange(ROWS)
    pool, targets = Location.parse(str(tmp_path / "pool")), Location.parse(str(tmp_path / "targets"))
    columns = {"row_id": ids, "key": [f"k{i}" for i in ids], "image": [png(int(i)) for i in ids], "label": ids % 2}
    columns |= {"split": (ids % 5 == 0).astype(np.int8), "clip": vector_column(vectors)}
    summary = {"classes": 2, "modality": "image", "features": {"clip": 6}}
    finish(pool, "pool", {}, {}, [write_table(pool, "a.parquet", pa.table(columns))], summary)
    rows = pa.table({"row_id": ids, "target": vector_column(vectors)})
    finish(targets, "targets", {}, {}, [write_table(targets, "a.parquet", rows)], {})
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_model_is_fitted_shown_carried_and_scores_again(
    coevo_ray: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = ("--latents", "10", "--k", "2", "--epochs", "1")
    fitted = coevo_ray("sae", "--pool", "pool", "--targets", "targets", "--out", "sae", *options, "--json")
    assert fitted.returncode == 0, fitted.stderr
    found = json.loads(fitted.stdout)
    assert found["scores"] == str(folder / "sae" / "scores") and len(found["frequencies"]) == 10
    assert found["table"] == str(folder / "sae" / "table")

    shown = coevo_ray("sae", "show", "sae", "--pool", "pool", "--factors", "rare", "--limit", "3", "--json")
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)
    page = folder / "factors.html"
    assert result["sheet"] == str(page) and result["bytes"] == page.stat().st_size
    assert 0 < len(result["factors"]) <= 3
    for factor in result["factors"]:
        assert f"Factor {factor}<" in page.read_text()

    exported = coevo_ray("sae", "export", "sae/model", "--out", "lens", "--format", "saelens", "--json")
    assert (exported.returncode, json.loads(exported.stdout)["exported"]) == (0, str(folder / "lens"))
    assert {f.name for f in (folder / "lens").iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    imported = coevo_ray("sae", "import", "lens", "--out", "model", "--json")
    assert (imported.returncode, json.loads(imported.stdout)["model"]) == (0, str(folder / "model"))

    again = coevo_ray(
        "sae", "score", "--features", "pool", "--column", "clip", "--model", "model", "--out", "again", "--json"
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["frequencies"] == found["frequencies"]
    tables = [RowTable(Location(str(folder / n / "scores"))).scan(["row_id", "factor"]) for n in ("sae", "again")]
    assert tables[0].equals(tables[1])
    factors, others = package.load_factors("sae"), package.load_factors("again/table")
    assert factors.counts.tolist() == others.counts.tolist()
    assert np.allclose(factors.frequencies, found["frequencies"], atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_pools_own_vectors_are_as_good_as_targets(
    coevo_ray: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = ("--pool", "pool", "--latents", "10", "--k", "2", "--epochs", "1", "--json")
    results = [
        coevo_ray("sae", *source, *options)
        for source in (("--targets", "targets", "--out", "sae"), ("--column", "clip", "--out", "own"))
    ]
    assert [result.returncode for result in results] == [0, 0], results
    first, second = (json.loads(result.stdout)["frequencies"] for result in results)
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "sae without --pool, --out"),
        (("--pool", "pool", "--targets", "t"), "sae without --out"),
        (("--column", "clip", "score", "--features", "pool"), "--column before score"),
        (("--k", "3", "--json", "show", "sae", "--pool", "pool"), "--k, --json before show"),
        (("--latents", "4", "--k", "8", "--pool", "pool", "--targets", "targets", "--out", "o"), "k = 8"),
        (("fly",), "No such command"),
        (("show", "sae"), "--pool"),
        (("export", "sae", "--out", "o", "--format", "onnx"), "unknown format 'onnx'"),
        (("import", "lens", "--out", "o", "--format", "onnx"), "unknown format 'onnx'"),
        (("score", "--features", "pool", "--model", "m", "--out", "o", "--rare-quantile", "2"), "rare_quantile"),
        (("show", "sae", "--pool", "pool", "--out", "page"), "not an .html file"),
    ],
)
def test_wrong_usage_exits_2(
    coevo_ray: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    result = coevo_ray("sae", *arguments)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pool", "pool", "--targets", "empty", "--out", "o"),
        ("--pool", "pool", "--column", "blip", "--out", "o"),
        ("show", "empty", "--pool", "pool"),
        ("export", "empty", "--out", "o"),
        ("import", "empty", "--out", "o"),
        ("score", "--features", "empty", "--model", "empty", "--out", "o"),
        ("score", "--features", "pool", "--column", "blip", "--model", "empty", "--out", "o"),
    ],
)
def test_bad_input_exits_3(
    coevo_ray: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    result = coevo_ray("sae", *arguments)
    assert (result.returncode, result.stdout) == (3, ""), result.stderr
    assert "remedy: " in result.stderr
    assert not (folder / "o").exists()
