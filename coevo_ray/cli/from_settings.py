"""Options of the command line, made from the models of settings.

A field becomes an option of its name: its description is the help, with its default, and the alternatives of a literal
stand in the place of the value. What was not given is left to the model, which also validates: a wrong value is refused
with the model's message.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coevo_ray.core.json import JsonObject

_PLAIN = (bool, int, float, str)
_GIVEN = "given"  # the parameter of a command that takes what was given of its made options


def plain_fields(model: type[BaseModel], without: Collection[str] = ()) -> list[str]:
    """Names of a model's fields that fit into an option: numbers, texts, switches and literals, or null."""
    return [name for name, field in model.model_fields.items() if _plain(field)[0] and name not in without]


def options(model: type[BaseModel], names: Iterable[str]) -> list[Parameter]:
    """One option for each field of a model that is named.

    Args:
        model: the settings.
        names: of fields; `compute.cpus` is the option `--cpus` for a field of the field `compute`.
    """
    made = []
    for path in names:
        outer, _, name = path.rpartition(".")
        if not outer:
            made.append(option(name, model.model_fields[name]))
            continue
        inside: BaseModel = model.model_fields[outer].default
        made.append(option(name, type(inside).model_fields[name], default_text(getattr(inside, name))))
    return made


def option(
    name: str,
    field: FieldInfo,
    default: str | None = None,
    *,
    prefix: str = "",
    kind: type | None = None,
    required: bool | None = None,
) -> Parameter:
    """The option for one field.

    Args:
        name: of the field; the option has dashes for its underscores.
        field: of the model.
        default: as it is shown; None for the field's own.
        prefix: before its description.
        kind: type of the value, for a field that is not plain.
        required: whether it must be given; None for what the field says.
    """
    found, choices = _plain(field)
    value: Any = kind or found
    shown = default_text(field.get_default()) if default is None else default
    told = f"{prefix}{field.description}" + (f" [{shown}]" if shown else "")
    given = typer.Option(f"--{name.replace('_', '-')}", help=told, metavar="|".join(choices) or None)
    if value is bool:
        given = typer.Option(help=told)  # has --no-NAME too
    if field.is_required() if required is None else required:
        return Parameter(name, Parameter.KEYWORD_ONLY, annotation=Annotated[value, given])
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[value | None, given])


def parameter(name: str, annotation: Any) -> Parameter:
    """An option that stands for no field: None where it is not given."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def takes(*made: Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command more options, before its keyword-only ones.

    The command has a parameter `given` for them: name -> value, without those that were left out.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != _GIVEN]
        first = [each for each in own if each.kind is not Parameter.KEYWORD_ONLY]
        last = [each for each in own if each.kind is Parameter.KEYWORD_ONLY]

        @wraps(command)
        def call(**values: Any) -> None:
            options = {each.name: values.pop(each.name) for each in made}
            command(**values, given={name: value for name, value in options.items() if value not in (None, [], ())})

        vars(call)["__signature__"] = Signature([*first, *made, *last])
        return call

    return decorate


def settings(model: type[BaseModel], names: Iterable[str], given: JsonObject) -> JsonObject:
    """Collects the given fields of a model, in the form that the model takes.

    A nested model of which a field was given keeps its other values, as its default in `model` has them.
    """
    found: JsonObject = {}
    for path in names:
        outer, _, name = path.rpartition(".")
        if name not in given:
            continue
        if outer and outer not in found:
            found[outer] = model.model_fields[outer].default.model_dump()
        (found[outer] if outer else found)[name] = given[name]
    return found


def default_text(value: object) -> str:
    """A default as help shows it; empty where there is none."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int | str) else ""


def _plain(field: FieldInfo) -> tuple[type | None, tuple[str, ...]]:
    """The type of an option for a field, and the alternatives of a literal; None where it fits into none."""
    kinds = _alternatives(field.annotation)
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return str, get_args(kinds[0])
    return (kinds[0], ()) if len(kinds) == 1 and kinds[0] in _PLAIN else (None, ())


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union without None, or the only type."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part) if kind is not type(None)]
    return [annotation]
