"""Texts that every installation has: what the docstrings of the libraries beneath this package say, by library."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from coevo_ray.errors import UsageError

# Classes of the texts: packages, or sub-packages. All of them are dependencies, or come with the extras demo and text.
LIBRARIES = (
    "matplotlib",
    "networkx.algorithms",
    "pandas.io",
    "ray.data",
    "ray.serve",
    "ray.tune",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.stats",
    "sklearn",
    "sympy.combinatorics",
    "sympy.geometry",
    "sympy.physics",
    "torch.nn",
)
_LEAST_WORDS = 8
_LEFT_OUT = {"tests", "testing", "externals", "_vendor", "conftest.py", "setup.py"}
# Prose ends where a table of parameters, an example, a directive or a heading begins, in the styles of NumPy, Google
# and Sphinx.
_END = re.compile(
    r"^\s*(?:\S[^\n]*\n\s*[-=~^]{3,}\s*$|\.\. |:\w+|>>> |!!!|@|(?:Args?|Arguments|Attributes|Examples?|Inputs?|Keyword"
    r"|Notes?|Outputs?|Parameters|Raises|References|Returns?|Shape|Usage|Warnings?|Yields?)\b[^\n]*:\s*$)",
    re.MULTILINE,
)
# Sphinx's names and links: :class:`~ray.data.Dataset`, `a page <address>`_, ``code``.
_MARKUP = re.compile(r"(?::[\w:]*\w:)?`+([~!]?)\.?([^`<]*[^`<\s])(?:\s*<[^`>]*>)?`+_{0,2}")


class Documented(NamedTuple):
    """A class or a function, and its docstring's prose.

    Attributes:
        key: its full name.
        text: the prose.
    """

    key: str
    text: str


def check_libraries(names: Sequence[str] = LIBRARIES) -> None:
    """Checks that libraries are installed, without importing them.

    Raises:
        UsageError: one is missing.
    """
    for name in names:
        folder_of(name)


def folder_of(name: str) -> Path:
    """The folder of an installed library's sources; nothing is imported.

    Raises:
        UsageError: it is not installed.
    """
    package, _, rest = name.partition(".")
    try:
        found = find_spec(package)
    except ValueError:  # a module that something put there without a spec
        found = None
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        folder = Path(place, *rest.split(".")) if rest else Path(place)
        if folder.is_dir():
            return folder
    raise UsageError(f"sample:docstrings needs {name}", "pip install 'coevo-ray[demo]'")


def docstrings_of(name: str) -> Iterator[Documented]:
    """Yields what a library's public classes, functions and methods say of themselves, in the order of its files.

    Args:
        name: a package or sub-package, as `scipy.stats`.

    Raises:
        UsageError: it is not installed.
    """
    folder = folder_of(name)
    for file in sorted(folder.rglob("*.py")):
        path = file.relative_to(folder)
        if _LEFT_OUT.isdisjoint(path.parts):
            module = ".".join([name, *path.with_suffix("").parts]).removesuffix(".__init__")
            yield from _documented(_parsed(file), module)


def _parsed(file: Path) -> ast.Module:
    """The syntax of a file; that of an empty one if it is for another Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their own code: it is only read
            return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _documented(of: ast.Module | ast.ClassDef, name: str) -> Iterator[Documented]:
    for node in of.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        key = f"{name}.{node.name}"
        text = prose(ast.get_docstring(node, clean=False) or "")
        if len(text.split()) >= _LEAST_WORDS:
            yield Documented(key, text)
        if isinstance(node, ast.ClassDef):
            yield from _documented(node, key)


def prose(docstring: str) -> str:
    """The sentences with which a docstring begins, before parameters, examples and the like, without markup."""
    text = inspect.cleandoc(docstring)
    end = _END.search(text)
    text = _MARKUP.sub(_shown, text if end is None else text[: end.start()])
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _shown(markup: re.Match[str]) -> str:
    """Its text as Sphinx shows it: of a name with a tilde, the last part."""
    tilde, name = markup.groups()
    return name.rpartition(".")[2] if tilde == "~" else name
