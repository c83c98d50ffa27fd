"""The base of all settings: frozen models that refuse unknown keys; reads and validates them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coevo_ray.config.yaml_file import load_yaml
from coevo_ray.errors import UsageError
from coevo_ray.store.credentials import why_secret

ModelT = TypeVar("ModelT", bound=BaseModel)
# A model, its content, or a YAML file of it.
SettingsLike: TypeAlias = ModelT | Mapping[str, Any] | str | os.PathLike[str]
OF_FOLDER = "of_folder"  # of validation: whether a folder has the settings, see `make_config`
Share = Annotated[float, Field(gt=0, le=1)]


class Model(BaseModel):
    """Settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, value: Any) -> Any:
        """Settings are written to manifests and shown in messages."""
        for name, text in _texts(value):
            if (cause := why_secret(text)) is not None:
                raise ValueError(f"{name}: an address {cause}; give it by environment variables, a profile or a role")
        return value

    def content(self) -> dict[str, Any]:
        """The settings that shape the result, JSON-able: everything but `compute`."""
        return self.model_dump(mode="json", exclude={"compute"})


class BaseCompute(Model):
    """Resources of each actor or task of a stage."""

    cpus: float = Field(0.5, gt=0, description="CPUs that each actor or task reserves; it also sets its threads.")
    gpus: float = Field(0, ge=0, description="GPUs that each actor or task reserves; 0 means CPU.")
    batch_rows: int = Field(64, ge=1, description="Rows of one forward pass.")
    reader_cpus: float = Field(0.5, gt=0, description="CPUs that each reading or decoding task reserves.")


class Compute(BaseCompute):
    """Resources of a stage; they never change its result."""

    actors: int = Field(1, ge=1, description="Number of parallel actors (or Ray Train workers).")


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML file of settings without validating them.

    Raises:
        UsageError: the file is missing, is not YAML, or holds no settings.
    """
    try:
        content = load_yaml(Path(path))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error}", "check the path") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # also of dates, numbers and bytes that are none
        raise UsageError(f"{path} is not YAML: {_problem(error)}", "fix that line") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no settings", "start from examples/digits.yaml")
    return content


def read_section(path: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Reads settings of one stage from a YAML file of them, or from that of a run, which has them under their name.

    Args:
        path: the file.
        name: "encode", "gate", ...

    Raises:
        UsageError: the file is missing, is not YAML, or holds no settings.
    """
    content = read_settings(path)
    section = content.get(name, content)
    if not isinstance(section, dict):
        raise UsageError(f"{path} has no settings under {name}", "give them there, or alone")
    return section


def as_settings(model: type[ModelT], what: SettingsLike[ModelT], where: str) -> ModelT:
    """Makes settings of what a caller gave: they themselves, their content, or a YAML file.

    Args:
        model: the model of one stage.
        what: the model, which passes through; a dict; or a file, see `read_section`.
        where: name of the stage, by which errors call it.

    Raises:
        UsageError: it is none of these, the file cannot be read, or a setting is wrong; every mistake is named.
    """
    if isinstance(what, model):
        return what
    if isinstance(what, str | os.PathLike):
        return make_config(model, read_section(what, where), f"{os.fspath(what)}: {where}")
    if isinstance(what, Mapping):
        return make_config(model, dict(what), where)
    raise UsageError(
        f"{where}: {type(what).__name__} is no {model.__name__}", "give a dict, a YAML file, or the model itself"
    )


def make_config(model: type[ModelT], content: dict[str, Any], where: str, *, of_folder: bool = False) -> ModelT:
    """Validates settings.

    Args:
        model: RunConfig or the model of one stage.
        content: the settings.
        where: what to call them in errors.
        of_folder: they were read from a folder that may be anybody's: no module that they name is imported.

    Raises:
        UsageError: naming every key that is unknown, missing or out of bounds.
    """
    for name, text in _texts(content):
        if not _is_unicode(text) or not _is_unicode(name):  # "\ud83d" of YAML and JSON; pydantic fails at it
            raise UsageError(
                f"{where}: {name!a} has half of a character: {ascii(text)[:80]}",
                "write the character itself, or both halves of its escape",
            )
    try:
        return model.model_validate(content, context={OF_FOLDER: of_folder})
    except ValidationError as error:
        raise UsageError(f"{where}: " + "; ".join(_plain(e) for e in error.errors()), _remedy(model)) from error


def _texts(value: Any, name: str = "settings") -> Iterator[tuple[str, str]]:
    """The texts in settings, each with its key."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(error: Exception) -> str:
    """Describes an error and its place, without the line itself, which may have a password."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    return f"{getattr(error, 'problem', None) or error}{where}"


def _plain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return f"unknown key {place}"
    if error["type"] == "missing":
        return f"{place} is missing"
    have = error.get("input")
    # An address that is wrong may have a password that is not told from it.
    plain = isinstance(have, str | int | float | bool) and not (isinstance(have, str) and "@" in have)
    shown = f" (have {have!r})" if plain else ""
    return f"{place}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _remedy(model: type[BaseModel]) -> str:
    return f"keys here are {', '.join(model.model_fields)}; examples/digits.yaml is a complete file"
