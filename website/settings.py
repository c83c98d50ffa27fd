"""The page of settings, from the models that check a run's file."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from coevo_ray.config.annotators import FileDropSettings, LabelColumnSettings, LabelStudioSettings
from coevo_ray.config.dedup import DedupConfig
from coevo_ray.config.retrieve import RetrieveSettings
from coevo_ray.config.run import RunConfig
from coevo_ray.config.training import SemiTrainConfig, TargetTrainConfig
from website.markdown import cell

_INTRODUCTION = """# Settings

Made from the models at build time. A run's file is a [`RunConfig`](#runconfig); unknown keys are refused before any
work, and every mistake is named. Most fields are options of the [commands](commands.md) too.
"""
_ROOTS: tuple[type[BaseModel], ...] = (
    RunConfig,
    LabelColumnSettings,
    FileDropSettings,
    LabelStudioSettings,
    TargetTrainConfig,
    SemiTrainConfig,
    RetrieveSettings,
    DedupConfig,
)


def page() -> str:
    """The page, as Markdown."""
    return _INTRODUCTION + "".join(_model(model) for model in models())


def models() -> list[type[BaseModel]]:
    """Every model that has a section: the roots, each followed by those that its fields name."""
    found: list[type[BaseModel]] = []

    def add(model: type[BaseModel]) -> None:
        if model in found:
            return
        found.append(model)
        for field in model.model_fields.values():
            for inner in _inside(field.annotation):
                add(inner)

    for root in _ROOTS:
        add(root)
    return found


def _model(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_type(f.annotation)}{_bounds(f)} | {_default(f)} | {cell(f.description or '')} |"
        for name, f in model.model_fields.items()
    ]
    about = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    name = model.__name__
    head = f"\n## {name} {{ #{name.lower()} }}\n\n{about}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _inside(part)]


def _type(annotation: Any) -> str:
    """A type for readers: names of models lead to their sections."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_type(part) for part in parts if part is not Ellipsis)}"
    if annotation is type(None):
        return "null"
    name = getattr(annotation, "__name__", str(annotation))
    return f"[{name}](#{name.lower()})" if _inside(annotation) else cell(name)


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    told = [f"{signs[key]} {getattr(each, key):g}" for each in field.metadata for key in signs if hasattr(each, key)]
    return cell(", " + ", ".join(told)) if told else ""


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else "empty"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    if field.default is None:
        return "null"
    shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    return f"`{cell(shown)}`"
