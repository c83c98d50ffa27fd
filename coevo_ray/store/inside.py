"""Names of files that a file gives: they stay in the folder of that file."""

from __future__ import annotations

from coevo_ray.errors import InputError

_MOST_SHOWN = 80


def inside(name: object, origin: object) -> str:
    """Checks that a name that was read from a file leads nowhere but below its folder, on any store.

    Symbolic links below the folder are followed: whoever has the disk may make them.

    Args:
        name: relative, with `/` between folders.
        origin: the file that gives the name, for errors.

    Returns:
        The name.

    Raises:
        InputError: it is no text, empty, absolute or a URI, or has `..` or characters that a store may read otherwise.
    """
    cause = why_outside(name)
    if cause is not None:
        raise InputError(
            f"{origin} names the file {ascii(name)[:_MOST_SHOWN]}, which {cause}",
            "the file is damaged or was made to reach elsewhere: ask its author, or make it again",
        )
    return str(name)


def why_outside(name: object) -> str | None:
    """The reason for which a name could leave its folder; None for one that stays."""
    if not isinstance(name, str) or not name:
        return "is no name"
    if name.startswith("/"):
        return "is absolute"
    if "://" in name:
        return "is a URI"
    # A query or fragment would become part of the store's address, a backslash a separator.
    if not name.isprintable() or any(character in name for character in "\\?#"):
        return "has characters that are not taken in names"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "has empty, . or .. parts"
    return None
