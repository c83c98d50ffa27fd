"""Settings of whoever answers requests for labels."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from coevo_ray.config.base import Model


class LabelColumnSettings(Model):
    """The pool's own labels answer: demonstrations and experiments."""

    kind: Literal["label_column"] = "label_column"
    noise: float = Field(0.0, ge=0, le=1, description="Share of wrong answers, uniform among the other classes.")
    seed: int = Field(0, ge=0, description="Seed of the noise; an answer depends on it and the row alone.")


class FileDropSettings(Model):
    """Requests and answers are files in a folder."""

    kind: Literal["file_drop"] = "file_drop"
    folder: str = Field(min_length=1, description="Where: local path, s3:// or gs://.")
    format: Literal["csv", "parquet"] = Field("csv", description="Of the request files; answers may be either.")
    images: Literal["files", "none"] = Field("files", description="Write each image beside the requests, or none.")


class LabelStudioSettings(Model):
    """Requests are tasks of a Label Studio project. The token comes from LABEL_STUDIO_API_KEY and nowhere else."""

    kind: Literal["label_studio"] = "label_studio"
    url: str = Field(description="Address of the server, such as https://label.example.org.")
    project: str = Field(min_length=3, max_length=50, description="Title of the project; made when it is not there.")
    url_template: str | None = Field(
        None, description="Where browsers find a row's image, with {row_id} or {key}; null puts images into the tasks."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc:
            # Not shown: it is written to manifests and logs.
            raise ValueError("an address with a user or password is not taken; set LABEL_STUDIO_API_KEY instead")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("need an address such as https://label.example.org")
        return value.rstrip("/")

    @field_validator("url_template")
    @classmethod
    def _check_template(cls, value: str | None) -> str | None:
        return value if value is None else image_template(value)


AnnotatorSettings = Annotated[LabelColumnSettings | FileDropSettings | LabelStudioSettings, Field(discriminator="kind")]


def annotator_from_short(value: Any) -> Any:
    """An annotator may be written as its kind alone: what to put before the validation of a field with it."""
    return {"kind": value} if isinstance(value, str) else value


def image_template(template: str) -> str:
    """Checks that a template of addresses tells rows apart.

    Raises:
        ValueError: it has neither {row_id} nor {key}, or something else in braces.
    """
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        names = []
    if not names or set(names) - {"row_id", "key"}:
        raise ValueError(f"{template!r} needs {{row_id}} or {{key}}, and nothing else in braces")
    return template
