"""Settings of annotators, which answer label requests; each kind is registered."""

from __future__ import annotations

from importlib import import_module
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from coevo_ray.config.base import OF_FOLDER, Model, make_config
from coevo_ray.errors import UsageError


class BaseAnnotatorSettings(Model):
    """Settings of one kind of annotator. `kind` is a literal with that kind as its default."""

    kind: str


class UnopenedSettings(BaseAnnotatorSettings):
    """Settings as a folder has them, of a kind whose module has not been imported."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def opened(self) -> BaseAnnotatorSettings:
        """The settings themselves; imports the module.

        Raises:
            UsageError: there is no such kind, or they are not its settings.
        """
        return make_config(settings_of_kind(self.kind), self.model_dump(), "annotator")


SettingsT = TypeVar("SettingsT", bound=BaseAnnotatorSettings)
_KINDS: dict[str, type[BaseAnnotatorSettings]] = {}


def register_settings(settings: type[SettingsT]) -> type[SettingsT]:
    """Makes a kind of annotator known to the settings of a gate, under the default of its field `kind`.

    `annotators.opening.register_annotator` calls it, for a kind that is new.

    Raises:
        UsageError: the model has no literal `kind`, or other settings have it.
    """
    kind = settings.model_fields["kind"].default
    if kind not in get_args(settings.model_fields["kind"].annotation):
        raise UsageError(
            f"{settings.__name__} has no kind of its own", 'give it a field such as kind: Literal["phone"] = "phone"'
        )
    if _KINDS.setdefault(kind, settings) is not settings:
        raise UsageError(f"there is an annotator {kind!r} already", "give the new kind another name")
    return settings


def annotator_kinds() -> dict[str, type[BaseAnnotatorSettings]]:
    """The settings of every kind that is registered."""
    return dict(_KINDS)


def settings_of_kind(kind: str) -> type[BaseAnnotatorSettings]:
    """The settings of a kind.

    Args:
        kind: its name; `package.module:NAME` for one that your module registers, under all of that, when imported.

    Raises:
        UsageError: there is no such kind, or the module cannot be imported.
    """
    module, _, name = kind.partition(":")
    if kind not in _KINDS and module and name:
        try:
            import_module(module)
        except ImportError as error:
            raise UsageError(f"annotator {kind!r}: {error}", "check the name and the Python path") from error
    if kind not in _KINDS:
        raise UsageError(f"there is no annotator {kind!r}", f"give one of {', '.join(_KINDS)}")
    return _KINDS[kind]


def _by_kind(value: Any, info: ValidationInfo) -> Any:
    """Validates settings by their kind; a kind alone stands for its defaults."""
    if isinstance(value, BaseAnnotatorSettings):
        return value
    content = {"kind": value} if isinstance(value, str) else value
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        raise ValueError(f"kind is missing: give one of {', '.join(_KINDS)}")
    if (info.context or {}).get(OF_FOLDER) and content["kind"] not in _KINDS and ":" in content["kind"]:
        return UnopenedSettings.model_validate(content)
    try:
        settings = settings_of_kind(content["kind"])
    except UsageError as error:
        raise ValueError(f"{error.cause}: {error.remedy}") from error
    return settings.model_validate(content)


AnnotatorSettings = Annotated[SerializeAsAny[BaseAnnotatorSettings], BeforeValidator(_by_kind)]


@register_settings
class LabelColumnSettings(BaseAnnotatorSettings):
    """The pool's own labels answer: demonstrations and experiments."""

    kind: Literal["label_column"] = "label_column"
    noise: float = Field(0.0, ge=0, le=1, description="Share of wrong answers, uniform among the other classes.")
    seed: int = Field(0, ge=0, description="Seed of the noise; an answer depends only on it and the row.")


@register_settings
class FileDropSettings(BaseAnnotatorSettings):
    """Requests and answers are files in a folder."""

    kind: Literal["file_drop"] = "file_drop"
    folder: str = Field(min_length=1, description="Folder of requests and answers: local path, s3:// or gs://.")
    format: Literal["csv", "parquet"] = Field("csv", description="Format of the request files; answers may be either.")
    images: Literal["files", "none"] = Field("files", description="Write each image beside the requests, or none.")


@register_settings
class LabelStudioSettings(BaseAnnotatorSettings):
    """Requests are tasks of a Label Studio project. The token comes from LABEL_STUDIO_API_KEY and nowhere else."""

    kind: Literal["label_studio"] = "label_studio"
    url: str = Field(description="Address of the server, such as https://label.example.org.")
    project: str = Field(min_length=3, max_length=50, description="Title of the project; created if missing.")
    url_template: str | None = Field(
        None, description="Where browsers find a row's image, with {row_id} or {key}; null embeds images in the tasks."
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


def image_template(template: str) -> str:
    """Checks that a template gives each row its own address.

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
