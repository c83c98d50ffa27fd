from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field

from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_column import LabelColumn
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import TOKEN
from coevo_ray.annotators.opening import check_annotator, open_annotator, register_annotator
from coevo_ray.config.annotators import AnnotatorSettings, BaseAnnotatorSettings, LabelColumnSettings, annotator_kinds
from coevo_ray.config.base import Model, make_config
from coevo_ray.config.gate import GateSettings
from coevo_ray.errors import UsageError
from tests.annotators.all_ones import AllOnes
from tests.annotators.pools import make_pool

PHONE = "tests.annotators.phone:Phone"  # registered when it is first named


class Holder(Model):
    """As the gate's settings hold an annotator."""

    annotator: AnnotatorSettings = Field(LabelColumnSettings(), description="Who answers.")


def settings(value: Any) -> BaseAnnotatorSettings:
    return make_config(Holder, {"annotator": value}, "gate").annotator


def test_the_short_form_is_the_long_one() -> None:
    assert settings("label_column") == settings({"kind": "label_column"}) == Holder().annotator
    assert settings({"kind": "label_column", "noise": 0.1, "seed": 3}).content() == {
        **{"kind": "label_column", "noise": 0.1, "seed": 3}
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nobody", "no annotator 'nobody': give one of label_column, file_drop, label_studio"),
        ("tests.annotators.nowhere:Phone", "No module named 'tests.annotators.nowhere'"),
        ("tests.annotators.pools:Phone", "no annotator 'tests.annotators.pools:Phone': give one of label_column"),
        (7, "kind"),
        ({"kind": 7}, "kind"),
        ({"noise": 0.1}, "kind"),
        ({"kind": "label_column", "noise": 1.1}, "noise"),
        ({"kind": "label_column", "folder": "x"}, "unknown key"),
        ("file_drop", "folder is missing"),
        ({"kind": "file_drop", "folder": ""}, "folder"),
        ({"kind": "file_drop", "folder": "x", "format": "xlsx"}, "format"),
        ({"kind": "label_studio", "url": "http://x"}, "project is missing"),
        ({"kind": "label_studio", "url": "x", "project": "pro"}, "need an address"),
        ({"kind": "label_studio", "url": "ftp://x", "project": "pro"}, "need an address"),
        ({"kind": "label_studio", "url": "http://x", "project": "p"}, "project"),
        ({"kind": "label_studio", "url": "http://x", "project": "pro", "token": "x"}, "unknown key"),
        ({"kind": "label_studio", "url": "http://x", "project": "pro", "url_template": "http://x"}, "url_template"),
    ],
)
def test_settings_that_are_refused(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(value)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        settings({"kind": "label_studio", "url": "http://eva:hunter2@x.org", "project": "pro"})
    assert "user or password" in caught.value.cause
    assert "hunter2" not in str(caught.value)


def test_what_is_missing_shows_before_there_is_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = settings({"kind": "label_studio", "url": "http://127.0.0.1:9", "project": "title"})
    monkeypatch.setenv(TOKEN, "x" * 40)
    check_annotator(studio)  # the server is not asked
    check_annotator(settings("label_column"))
    check_annotator(settings({"kind": "file_drop", "folder": str(tmp_path / "drop")}))
    monkeypatch.delenv(TOKEN)
    with pytest.raises(UsageError, match=f"{TOKEN} is not set"):
        check_annotator(studio)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        check_annotator(settings({"kind": "file_drop", "folder": str(tmp_path / "file" / "drop")}))


def test_each_kind_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "x" * 40)
    pool = make_pool(tmp_path / "pool")
    column = open_annotator(settings({"kind": "label_column", "noise": 0.25, "seed": 7}), pool)
    assert isinstance(column, LabelColumn) and (column.noise, column.seed) == (0.25, 7)
    folder = {"kind": "file_drop", "folder": str(tmp_path / "drop"), "format": "parquet", "images": "none"}
    drop = open_annotator(settings(folder), pool, ("a", "b", "c"))
    assert isinstance(drop, FileDrop) and (drop.where, drop.format, drop.with_images) == (
        folder["folder"],
        "parquet",
        False,
    )
    assert drop.label_set.all_shown() == ["a", "b", "c"]
    page = {"kind": "label_studio", "url": "http://x.org/", "project": "title", "url_template": "http://x/{key}"}
    studio = open_annotator(settings(page), pool)
    assert isinstance(studio, LabelStudio)
    assert (studio.where, studio.title, studio.url_template) == ("http://x.org", "title", "http://x/{key}")
    assert studio.label_set.all_shown() == ["0", "1", "2"]


class AllOnesSettings(BaseAnnotatorSettings):
    """Of a kind that this file registers."""

    kind: Literal["all_ones"] = "all_ones"
    patience: int = Field(3, ge=1, description="Not used.")


@pytest.mark.parametrize("kind", ["all_ones", PHONE])
def test_a_new_kind_is_registered_in_one_call_and_a_gate_opens_it(tmp_path: Path, kind: str) -> None:
    if kind == "all_ones":
        register_annotator(AllOnesSettings, lambda settings, pool, names: AllOnes())
    gate = make_config(GateSettings, {"annotator": {"kind": kind, "patience": 5}}, "gate")
    assert (gate.annotator.kind, kind in annotator_kinds()) == (kind, True)
    written = gate.model_dump(mode="json")
    assert written["annotator"] == {"kind": kind, "patience": 5}  # what gate.json holds
    assert make_config(GateSettings, written, "gate") == gate
    check_annotator(gate.annotator)
    answers = open_annotator(gate.annotator, make_pool(tmp_path / "pool")).answer(np.arange(2))  # type: ignore[union-attr]
    assert (answers.labels.tolist(), answers.annotator) == ([1, 1], "all ones")
    with pytest.raises(UsageError, match="patience"):
        make_config(GateSettings, {"annotator": {"kind": kind, "patience": 0}}, "gate")


def test_a_kind_is_taken_once_and_needs_a_name() -> None:
    class Other(BaseAnnotatorSettings):
        kind: Literal["label_column"] = "label_column"

    class Nameless(BaseAnnotatorSettings):
        pass

    with pytest.raises(UsageError, match="annotator 'label_column' already"):
        register_annotator(Other, lambda settings, pool, names: AllOnes())
    with pytest.raises(UsageError, match="no kind of its own"):
        register_annotator(Nameless, lambda settings, pool, names: AllOnes())
    with pytest.raises(UsageError, match="nothing opens an annotator 'label_column'"):
        check_annotator(Other())
