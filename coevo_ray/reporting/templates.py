"""The pages' templates: escaping, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from coevo_ray.pool.plain_texts import harmless
from coevo_ray.reporting.wording import integer, shorten

_LONGEST_KEY = 500  # characters of a key that show when the pointer rests on a row


def page_template(name: str, **filters: Callable[..., str]) -> Template:
    """A template of this package, such as `report.html.j2`; all values are escaped.

    Args:
        name: of the file.
        filters: the page's own.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters |= {"key": _key, "integer": integer, **filters}
    return environment.get_template(name)


def _source(name: str) -> str:
    return files("coevo_ray.reporting").joinpath(name).read_text("utf-8")


def _key(key: str) -> str:
    return shorten(harmless(key), _LONGEST_KEY)
