"""Imports between the files of a checkout, read from their text, and what follows from them: rooms, floors, circles.

A room is what lies directly in a folder: a file, or a folder below as one. An arrow is an import between two rooms. A
room stands one floor above the highest that it imports. Imports for type checkers alone count: a reader follows them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]


def read_imports(root: Path, packages: tuple[str, ...] = ("coevo_ray", "benchmarks")) -> Graph:
    """Each module with the modules of the checkout that it imports, wherever in its text.

    Args:
        root: folder of the checkout.
        packages: folders of it that are read.
    """
    files = {_dotted(f.relative_to(root)): f for name in packages for f in sorted((root / name).rglob("*.py"))}
    return {module: set(_imported(module, file, files)) - {module} for module, file in files.items()}


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported(module: str, file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                if deeper in known:
                    yield deeper
                elif node.module in known:
                    yield node.module


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import one another in a loop; faces (`__init__`) that lazily hand names on are none."""
    reach = {module: _reached(module, graph) for module in graph}
    found = {frozenset({m, *(o for o in reach[m] if m in reach[o])}) for m in graph if m in reach[m]}
    return sorted(sorted(group) for group in found)


def _reached(start: str, graph: Graph) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def floor_plan(graph: Graph, folder: str) -> dict[str, int]:
    """`rooms`, `floors` and `arrows` of a package, such as coevo_ray.core."""
    inside = {module for module in graph if module.startswith(f"{folder}.")}
    rooms: Graph = {_room(module, folder): set() for module in inside}
    for module in inside:
        here = _room(module, folder)
        rooms[here] |= {_room(other, folder) for other in graph[module] & inside} - {here}
    return {
        "rooms": len(rooms),
        "floors": max((_floor(room, rooms, frozenset()) for room in rooms), default=0),
        "arrows": sum(len(others) for others in rooms.values()),
    }


def _room(module: str, folder: str) -> str:
    return module.removeprefix(f"{folder}.").split(".")[0]


def _floor(room: str, rooms: Graph, below: frozenset[str]) -> int:
    others = rooms[room] - below - {room}  # in a circle nobody stands above the other
    return 1 + max((_floor(other, rooms, below | {room}) for other in others), default=0)


def with_one_importer(graph: Graph) -> list[str]:
    """Modules of the package that exactly one other module imports."""
    importers: dict[str, set[str]] = {module: set() for module in graph}
    for module, others in graph.items():
        for other in others:
            importers[other].add(module)
    package = (module for module in graph if module.startswith("coevo_ray."))
    return sorted(module for module in package if len(importers[module]) == 1)
