"""`coevo-ray start`: what it sees in data of many forms, the file that it writes, and the way to the first requests."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coevo_ray.app.start.look import look
from coevo_ray.app.start.priors import Proposed, input_size, propose
from coevo_ray.app.start.settings import Wanted, file_text, run_settings
from coevo_ray.config import RunConfig, load_config, make_config
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pipelines.gate.run_rounds import gate
from coevo_ray.pool.guess import guess_columns
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location
from tests.command_line import Command

_SENTENCES = [f"the quick brown fox number {i} jumps over a lazy dog" for i in range(40)]


def png(value: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value % 256, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def images(folder: Path, names: Sequence[str], side: int = 16) -> Path:
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i, side))
    return folder


def table(path: Path, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    folder = images(tmp_path / "pets", [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(30)], side=50)
    (folder / "notes.heic2").touch()
    found = look(str(folder), {})
    assert (found.modality, found.rows, found.classes, found.labelled) == ("image", 60, ("cat", "dog"), 1.0)
    assert found.side == 50
    assert found.lines()[:2] == ["60 images in 60 files", "2 classes: cat, dog"]
    assert any("heic2" in line for line in found.lines())
    settings = run_settings(found, propose(found), Wanted("made"))
    assert "annotator" not in settings["gate"]
    assert settings["train"]["labels"] == "pool"
    assert settings["pool"]["test_fraction"] == 0.2
    assert [p["input_size"] for p in settings["encode"]["priors"]] == [64, 64]


def test_a_folder_without_labels_needs_names_of_classes(tmp_path: Path) -> None:
    found = look(str(images(tmp_path / "shots", [f"{i}.png" for i in range(30)])), {})
    assert found.lines()[1] == "no labels"
    with pytest.raises(UsageError, match="no class names") as refused:
        run_settings(found, propose(found), Wanted("made"))
    assert "--classes" in refused.value.remedy
    settings = run_settings(found, propose(found), Wanted("made", ("cat", "dog"), budget=6))
    gate = settings["gate"]
    assert gate["annotator"] == {"kind": "file_drop", "folder": "made-labels"}
    assert gate["max_label_fraction"] == 0.2
    assert settings["pool"]["test_fraction"] == 0
    with pytest.raises(UsageError, match="--budget 31"):
        run_settings(found, propose(found), Wanted("made", ("cat", "dog"), budget=31))


def test_somebody_has_to_answer(tmp_path: Path) -> None:
    found = look(str(images(tmp_path / "shots", [f"{i}.png" for i in range(30)])), {})
    Wanted("made", ask="file_drop").check(found)
    with pytest.raises(UsageError, match="--ask phone"):
        Wanted("made", ask="phone").check(found)
    with pytest.raises(UsageError, match="0% of the rows"):
        Wanted("made", ask="label_column").check(found)


def test_splits_by_folders_are_kept(tmp_path: Path) -> None:
    names = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in "ab" for i in range(10)]
    found = look(str(images(tmp_path / "pets", names)), {})
    assert found.splits == {"train": 20, "test": 20}
    assert "splits: 20 test, 20 train" in found.lines()
    settings = run_settings(found, propose(found), Wanted("made", budget=20))
    assert settings["pool"]["test_fraction"] == 0
    assert settings["gate"]["max_label_fraction"] == 1.0


@pytest.mark.parametrize(
    ("columns", "settings"),
    [
        ({"image": [png(i) for i in range(40)], "label": [*range(2)] * 20}, {"label_column": "label"}),
        ({"picture": [png(i) for i in range(40)], "id": [*range(40)]}, {"image_column": "picture", "key_column": "id"}),
        ({"photo": [{"bytes": png(i), "path": "x"} for i in range(40)]}, {"image_column": "photo"}),
        ({"text": _SENTENCES, "category": ["a", "b"] * 20}, {"text_column": "text", "label_column": "category"}),
        ({"note": _SENTENCES, "author": ["Ann", "Bob"] * 20}, {"text_column": "note"}),
        ({"title": _SENTENCES, "body": _SENTENCES, "id": ["x"] * 40}, {"text_column": "body"}),
        ({"word": ["ja", "no"] * 20}, {"text_column": "word"}),
        ({"embedding": [[0.0, float(i)] for i in range(40)]}, {"vector_column": "embedding"}),
        ({"words": pa.array(_SENTENCES).dictionary_encode()}, {"text_column": "words"}),
    ],
)
def test_columns_that_stand_out(tmp_path: Path, columns: dict[str, Any], settings: dict[str, str]) -> None:
    assert guess_columns(table(tmp_path / "a.parquet", **columns), {}) == settings


def test_columns_that_do_not(tmp_path: Path) -> None:
    two = table(tmp_path / "two.parquet", left=_SENTENCES, right=_SENTENCES)
    with pytest.raises(InputError, match="columns left, right") as asked:
        guess_columns(two, {})
    assert "--text-column" in asked.value.remedy
    assert guess_columns(two, {"text_column": "left"}) == {"text_column": "left"}
    with pytest.raises(InputError, match="no column holds images, texts or vectors"):
        guess_columns(table(tmp_path / "no.parquet", a=[1, 2], b=[1.0, 2.0]), {})
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        guess_columns(str(tmp_path / "bad.parquet"), {})


def test_matrices_and_tars_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.ones((30, 4), np.float32))
    found = look(str(tmp_path / "X.npy"), {})
    assert (found.modality, found.rows, found.side, found.dim) == ("vector", 30, None, 4)
    assert run_settings(found, propose(found), Wanted("made", ("a", "b")))["encode"]["dim"] == 4
    assert [p.name for p in propose(found)] == ["column:vector"]
    empty = table(tmp_path / "e.parquet", text=pa.array([None] * 3, pa.string()))
    with pytest.raises(InputError, match="none of the 3 sampled rows"):
        look(empty, {"text_column": "text"})
    with pytest.raises(UsageError, match="is a sample"):
        look("sample:digits", {})
    with pytest.raises(UsageError, match="20 or more"):
        few = look(str(images(tmp_path / "few", ["a/1.png", "b/2.png"])), {})
        run_settings(few, propose(few), Wanted("made"))


@given(st.integers(1, 5000))
def test_an_input_holds_what_images_have_and_no_more_than_is_useful(side: int) -> None:
    size = input_size(side)
    assert size is not None
    assert size % 32 == 0
    assert 64 <= size <= 224
    assert size >= min(side, 224)
    assert size < side + 32 or size == 64


def test_a_named_prior_is_checked(tmp_path: Path) -> None:
    found = look(str(images(tmp_path / "shots", [f"{i}.png" for i in range(30)])), {})
    assert propose(found, ["efficientnet_lite:0"]) == [Proposed("efficientnet_lite:0", 64)]
    with pytest.raises(UsageError):
        propose(found, ["tfidf:words"])


def test_the_file_says_what_was_settled(tmp_path: Path) -> None:
    found = look(str(images(tmp_path / "shots", [f"{i}.png" for i in range(30)])), {})
    settings = run_settings(found, propose(found), Wanted("made", ("yes", "no"), budget=9))
    text = file_text(settings, "made.yaml")
    assert yaml.safe_load(text) == settings  # classes named yes and no stay names
    assert "coevo-ray run made.yaml" in text
    (tmp_path / "made.yaml").write_text(text)
    assert load_config(tmp_path / "made.yaml") == make_config(RunConfig, settings, "run")


def test_the_command_writes_a_file_once(tmp_path: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
    done = coevo_ray("start", "X.npy", "--classes", "a,b", "--out", "made")
    assert done.returncode == 0, done.stderr
    assert "30 vectors in 1 file" in done.stderr
    assert done.stdout.splitlines() == ["run file: made.yaml", "next: look at it, then coevo-ray run made.yaml"]
    before = Path("made.yaml").read_bytes()
    assert coevo_ray("start", "X.npy", "--classes", "a,b", "--out", "made").returncode == 0
    assert Path("made.yaml").read_bytes() == before
    other = coevo_ray("start", "X.npy", "--classes", "a,b,c", "--out", "made")
    assert other.returncode == 2
    assert "made.yaml already exists with other settings" in other.stderr
    assert Path("made.yaml").read_bytes() == before
    assert coevo_ray("start", "none", "--classes", "a,b").returncode == 3


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_from_vectors_to_requests_and_on_with_answers(
    tmp_path: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = np.arange(120) % 2
    np.save("X.npy", (rng.normal(size=(120, 8)) + 4 * truth[:, None]).astype(np.float32))
    Path("X.keys.txt").write_text("".join(f"row{i}\n" for i in range(120)))
    done = coevo_ray("start", "X.npy", "--classes", "low,high", "--out", "made", "--go")
    assert done.returncode == 0, done.stderr
    assert "rows wait for labels at" in done.stdout
    assert "then coevo-ray run made.yaml" in done.stdout
    [request] = Path("made-labels/requests").iterdir()
    rows = list(csv.DictReader(request.open()))
    assert len(rows) == 6
    again = coevo_ray("start", "X.npy", "--classes", "low,high", "--out", "made", "--go", "--json")
    assert again.returncode == 0, again.stderr
    assert [*Path("made-labels/requests").iterdir()] == [request]
    answers = [f"{row['key']},{('low', 'high')[int(row['key'].removeprefix('row')) % 2]}\n" for row in rows]
    Path("made-labels/answers/me.csv").write_text("key,label\n" + "".join(answers))
    config = load_config("made.yaml")
    assert config.gate is not None
    folders = RunLayout.of(Location.parse("made"))
    with pytest.raises(StoppedError, match="wait for labels"):  # `run` takes the answers and asks for the next round
        gate(config.gate, folders.pool, folders.targets, folders.gate)
    assert len([*Path("made-labels/requests").iterdir()]) == 2


def test_texts_as_people_have_them(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows(
            [["id", "review", "stars", "category"], *([i, s, i % 5, "ab"[i % 2]] for i, s in enumerate(_SENTENCES))]
        )
    found = look(str(tmp_path / "a.csv"), {})
    assert (found.modality, found.rows, found.labelled) == ("text", 40, 1.0)
    named = {"text_column": "review", "label_column": "category", "key_column": "id"}
    assert {name: value for name, value in found.source.items() if name != "uri"} == named
    assert [p.name for p in propose(found)] == ["wordllama:256", "tfidf:chars"]
    (tmp_path / "b.jsonl").write_text("".join(f'{{"content": "{s}"}}\n' for s in _SENTENCES))
    assert look(str(tmp_path / "b.jsonl"), {}).source["text_column"] == "content"
