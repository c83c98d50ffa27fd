"""The part behind `#` in the names of text priors: a pooling, `windows`, or both with `+` between them."""

from __future__ import annotations

from collections.abc import Sequence

from coevo_ray.errors import UsageError
from coevo_ray.priors.text_tokens import WINDOWS

_WINDOWS = "windows"
WINDOWED = (_WINDOWS,)


def split_options(scheme: str, model: str, known: Sequence[str], form: str) -> tuple[str, set[str]]:
    """Splits `MODEL#OPTION+OPTION`.

    Args:
        scheme: the scheme, for the message.
        model: the part after `scheme:`.
        known: the options that it takes.
        form: the way to write it, for the message.

    Returns:
        The model, and the options, none where there is no `#`.

    Raises:
        UsageError: an option is unknown.
    """
    name, _, tail = model.partition("#")
    options = set(tail.split("+")) if tail else set()
    if unknown := sorted(options - set(known)):
        raise UsageError(f"{scheme}:{model}: unknown {' and '.join(map(repr, unknown))} behind #", f"write {form}")
    return name, options


def windows_of(options: set[str]) -> int:
    """Most windows of a text under these options; 1 where longer texts are cut."""
    return WINDOWS if _WINDOWS in options else 1
