"""What a node is asked by `runtime.alike`. It travels there as code, for the node may lack this package: so it imports
nothing but the standard library before it knows better.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Answer = dict[str, Any]


def look(packages: Iterable[str], places: dict[str, bool], settle_s: float) -> Answer:
    """Inspects the node that this runs on.

    Args:
        packages: names of distributions.
        places: path or URI of a file or folder -> whether it is a local path.
        settle_s: seconds to look again for places that are not there, until a shared volume shows what another node has
            just made.

    Returns:
        `python` ("3.12"), `coevo-ray` (its version, or None), `packages` (name -> version or None) and `unseen` (place
        -> why).
    """
    answer: Answer = {
        "python": python_version(),
        "coevo-ray": _own_version(),
        "packages": {name: installed(name) for name in packages},
        "unseen": {},
    }
    end, left = time.monotonic() + settle_s, dict(places)
    while left and answer["coevo-ray"] is not None:
        found = {uri: _unseen(uri, local) for uri, local in left.items()}
        answer["unseen"] = {uri: why for uri, why in found.items() if why is not None}
        left = {uri: places[uri] for uri in answer["unseen"]}
        if time.monotonic() > end:
            break
        if left:
            time.sleep(0.5)
    return answer


def python_version() -> str:
    """Major and minor version."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def installed(name: str) -> str | None:
    """The version of a distribution that is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _own_version() -> str | None:
    try:
        return str(import_module("coevo_ray._version").__version__)
    except ImportError:
        return None


def _unseen(uri: str, local: bool) -> str | None:
    """The reason why a place cannot be seen; None if it can."""
    if local:
        return None if os.path.exists(uri) else "it is not there"  # noqa: PTH110 - nothing of ours is imported for it
    location = import_module("coevo_ray.store.location").Location(uri)
    try:
        return None if location.exists() else "it is not there"
    except Exception as error:  # noqa: BLE001 - whatever a store raises is told
        return f"{type(error).__name__}: {error}"
