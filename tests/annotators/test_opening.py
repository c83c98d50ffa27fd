from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, field_validator

from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_column import LabelColumn
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import TOKEN
from coevo_ray.annotators.opening import check_annotator, open_annotator
from coevo_ray.config.annotators import AnnotatorSettings, LabelColumnSettings, annotator_from_short
from coevo_ray.config.base import Model, make_config
from coevo_ray.errors import UsageError
from tests.annotators.pools import make_pool


class Holder(Model):
    """As the gate's settings hold an annotator."""

    annotator: AnnotatorSettings = Field(LabelColumnSettings(), description="Who answers.")

    _short = field_validator("annotator", mode="before")(annotator_from_short)


def settings(value: Any) -> AnnotatorSettings:
    return make_config(Holder, {"annotator": value}, "gate").annotator


def test_the_short_form_is_the_long_one() -> None:
    assert settings("label_column") == settings({"kind": "label_column"}) == Holder().annotator
    assert settings({"kind": "label_column", "noise": 0.1, "seed": 3}).content() == {
        **{"kind": "label_column", "noise": 0.1, "seed": 3}
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nobody", "nobody"),
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
