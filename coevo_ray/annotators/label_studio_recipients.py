"""Servers that the token of Label Studio may go to: those that somebody on this machine named, not a folder alone.

A gate's folder names a server, and may be anybody's. An address counts as named here once it was in the settings of a
gate that was opened or changed on this machine, was given again (`--url`), or is in the variable LABEL_STUDIO_URL.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from coevo_ray.errors import UsageError

ADDRESS = "LABEL_STUDIO_URL"
_PORTS = {"http": 80, "https": 443}
_named: set[str] = set()  # in this process, where the file cannot be written


def allow(url: str) -> None:
    """Notes, for later processes too, that somebody here named a server.

    Args:
        url: its address.
    """
    address = _normal(url)
    if address in _known():
        return
    _named.add(address)
    file = _file()
    if file is None:
        return
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as stream:
            stream.write(f"{address}\n")
    except OSError:  # a home that is read-only: this process knows, the next is told again
        return


def require(url: str, given: str | None, origin: object) -> None:
    """Refuses to send the token to a server that nobody on this machine named.

    Args:
        url: the server's address, as a folder has it.
        given: the address that the caller gives again, or None.
        origin: the folder, for errors.

    Raises:
        UsageError: the caller gives another one, or gives none and it was not named here before.
    """
    if given is not None and _normal(given) != _normal(url):
        raise UsageError(
            f"the gate {origin} has its project at {url}, not at {given}",
            "give that address, or another annotator: coevo-ray gate set --annotator label_studio --url ...",
        )
    if given is not None:
        allow(url)
    elif _normal(url) not in _known():
        raise UsageError(
            f"the gate {origin} names the Label Studio server {url}, which was not named on this machine: the token "
            "is not sent",
            f"if the token is for that server, give it again: --url {url}, or export {ADDRESS}={url}",
        )


def _known() -> set[str]:
    known = set(_named)
    if os.environ.get(ADDRESS, "").strip():
        known.add(_normal(os.environ[ADDRESS].strip()))
    file = _file()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known |= set(file.read_text(encoding="utf-8").split("\n")) if file is not None else set()
    return known


def _file() -> Path | None:
    """The folder of the user's settings on this machine; None without a home."""
    try:
        folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        return Path(folder).expanduser() / "coevo-ray" / "label_studio_servers"
    except RuntimeError:
        return None


def same_server(url: str, other: str) -> bool:
    """True if two addresses are of one server, or of one that turns from http to https."""
    (scheme, host, port), (other_scheme, other_host, other_port) = _origin(url), _origin(other)
    if host != other_host:
        return False
    safer = (scheme, port, other_scheme, other_port) == ("http", 80, "https", 443)
    return safer or (scheme, port) == (other_scheme, other_port)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme)


def _normal(url: str) -> str:
    try:
        scheme, host, port = _origin(url.strip())
        path = urlsplit(url.strip()).path.rstrip("/")
    except ValueError:
        return url
    return f"{scheme}://{host}:{port}{path}"
