"""Sizes of the package's files and functions, and what its docstrings say, read from the text."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

# A shape with its dtype, such as float32[N, d].
SHAPE = re.compile(r"\b(?:u?int|float|bool)\d*\[")
_ANY = re.compile(r"\bAny\b")
_NO_CODE = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def measure_sizes(root: Path) -> dict[str, Any]:
    """Figures of `coevo_ray` in a checkout.

    Returns:
        `files` (count; lines: median, largest), `functions` (code lines: median, p90, longest and its name),
        `any_per_1000` (lines with the word `Any`), `docstrings` (shares of public functions: with one, with shapes in
        `core`, with Raises), `comments_percent` of code lines.
    """
    files = sorted((root / "coevo_ray").rglob("*.py"))
    texts = {str(file.relative_to(root)): file.read_text(encoding="utf-8") for file in files}
    lines = {name: text.count("\n") for name, text in texts.items()}
    functions = [found for name, text in texts.items() for found in _functions(name, text)]
    sizes = sorted(size for size, *_ in functions)
    longest = max(functions, key=lambda found: found[0])
    public = [(name, ast.get_docstring(node) or "") for _, name, node in functions if not node.name.startswith("_")]
    core = [text for name, text in public if name.startswith("coevo_ray/core/")]
    total = sum(lines.values())
    with_any = sum(bool(_ANY.search(line)) for text in texts.values() for line in text.splitlines())
    code, comments = (
        sum(counts) for counts in zip(*(_code_and_comments(text) for text in texts.values()), strict=True)
    )
    return {
        "files": {"count": len(files), "median": median(lines.values()), "largest": max(lines.values())},
        "functions": {
            "count": len(sizes),
            "median": median(sizes),
            "p90": sizes[int(0.9 * len(sizes))],
            "longest": longest[0],
            "longest_name": longest[1],
        },
        "any_per_1000": round(1000 * with_any / total, 2),
        "docstrings": {
            "public": len(public),
            "share": round(sum(bool(text) for _, text in public) / len(public), 3),
            "raises_share": round(sum("Raises:" in text for _, text in public) / len(public), 3),
            "core_public": len(core),
            "core_shape_share": round(sum(bool(SHAPE.search(text)) for text in core) / len(core), 3),
        },
        "comments_percent": round(100 * comments / code, 2),
    }


def _functions(name: str, text: str) -> Iterator[tuple[int, str, _Function]]:
    """Code lines (neither docstring, comment nor empty), name and node of every function, nested ones too."""
    code = _code_lines(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _Function):
            body = set(range(node.lineno, (node.end_lineno or node.lineno) + 1)) & code
            if ast.get_docstring(node, clean=False) is not None:
                body -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            yield len(body), f"{name}:{node.name}", node


def _code_lines(text: str) -> set[int]:
    return {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in (*_NO_CODE, tokenize.COMMENT)
        for line in range(token.start[0], token.end[0] + 1)
    }


def _code_and_comments(text: str) -> tuple[int, int]:
    comments = sum(t.type == tokenize.COMMENT for t in tokenize.generate_tokens(io.StringIO(text).readline))
    return len(_code_lines(text)), comments
