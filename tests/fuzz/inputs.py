"""Damaged inputs: valid files, changed by a few random operations on their bytes or on what is written in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any, TypeAlias

import yaml

# What parsers stumble over: sizes, signs, quotes, nesting, other encodings, paths that lead outside.
TOKENS = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xef\xbb\xbf",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 400,
    b"null",
    b'"',
    b"'",
    b",",
    b"\r",
    b"\n\n",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"../../../outside",
    b"/tmp/outside",
    b"file:///outside",
    b"true",
    b"2024-13-45",
    b"!!python/object/apply:os.system [exit]",
    b"&a [*a, *a]",
    b"\xe2\x80\xae",
    b"=cmd()",
    b"%s%n",
    b"\xd8\x00",
)
# Values of a wrong type, out of bounds or unsafe, in the place of any value of a JSON or YAML file.
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "0",
    "x" * 70_000,
    "a\0b\ud83d\n\u202e",
    "../../outside",
    "/tmp/outside",
    "os:system",
    "s3://nobody:secret@bucket/key",
    [],
    [[]],
    {},
    {"": None},
    [0] * 5000,
)
Files: TypeAlias = dict[str, bytes]
_MOST_OPERATIONS = 5


def damaged(seeds: Sequence[Files], chance: Random) -> Files:
    """One of the valid inputs with one file changed; where a manifest names the file, half of them fit it again.

    Otherwise a checksum would stop nearly all inputs before the code that reads the file.
    """
    files = dict(chance.choice(seeds))
    name = chance.choice(sorted(files))
    if name.endswith((".json", ".yaml")) and chance.random() < 0.5:
        files[name] = _rewritten(files[name], name, chance)
    else:
        for _ in range(chance.randint(1, _MOST_OPERATIONS)):
            files[name] = chance.choice(_OPERATIONS)(files[name], chance)
    return _resealed(files) if chance.random() < 0.5 else files


# -- bytes -----------------------------------------------------------------------------------------------------------


def _span(data: bytes, chance: Random) -> tuple[int, int]:
    low, high = sorted(int(chance.random() * (len(data) + 1)) for _ in range(2))
    return low, high


def _flip(data: bytes, chance: Random) -> bytes:
    low, _ = _span(data, chance)
    return data if low == len(data) else data[:low] + bytes([data[low] ^ (1 << chance.randrange(8))]) + data[low + 1 :]


def _set(data: bytes, chance: Random) -> bytes:
    low, _ = _span(data, chance)
    return data[:low] + chance.randbytes(1) + data[low + 1 :]


def _cut(data: bytes, chance: Random) -> bytes:
    low, high = _span(data, chance)
    return data[:low] + data[high:]


def _insert(data: bytes, chance: Random) -> bytes:
    low, _ = _span(data, chance)
    return data[:low] + chance.choice(TOKENS) + data[low:]


def _repeat(data: bytes, chance: Random) -> bytes:
    low, high = _span(data, chance)
    return data[:low] + data[low : low + min(high - low, 256)] * chance.randrange(16) + data[low:]


def _move(data: bytes, chance: Random) -> bytes:
    low, high = _span(data, chance)
    return data[:low] + data[high:] + data[low:high]


def _end(data: bytes, chance: Random) -> bytes:
    return data[: _span(data, chance)[0]]


_OPERATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (_flip, _set, _cut, _insert, _repeat, _move, _end)


# -- values ----------------------------------------------------------------------------------------------------------


def _rewritten(data: bytes, name: str, chance: Random) -> bytes:
    """The file with some of its values replaced, left out, renamed or given twice."""
    content = json.loads(data) if name.endswith(".json") else yaml.safe_load(data)
    for _ in range(chance.randint(1, 3)):
        _change_one(content, chance)
    text = json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content)
    return text.encode(errors="surrogatepass")


def _change_one(content: Any, chance: Random) -> None:
    holders = [each for each in _nested(content) if each]
    if not holders:
        return
    holder = chance.choice(holders)
    place = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = chance.randrange(4)
    if kind == 0:
        del holder[place]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(["", "x", "path", "sha256", "bytes", "__class__"])] = holder.pop(place)
    elif kind == 1:
        holder.append(deepcopy(holder[place]))
    else:
        holder[place] = deepcopy(chance.choice(VALUES))


def _nested(content: Any) -> list[Any]:
    """All objects and lists of a JSON value, itself among them."""
    below = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    own = [content] if isinstance(content, (dict, list)) else []
    return own + [each for value in below for each in _nested(value)]


def _resealed(files: Files) -> Files:
    """The same files, with the sizes and checksums that a manifest among them states made true."""
    try:
        manifest = json.loads(files["manifest.json"])
        for entry in manifest["files"]:
            data = files[entry["path"]]
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        return {**files, "manifest.json": json.dumps(manifest).encode(errors="surrogatepass")}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return files  # no manifest, or one that is damaged itself
