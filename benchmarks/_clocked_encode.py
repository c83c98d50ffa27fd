"""The encoding of shards with clocks; the actors are handed these classes instead of the package's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._clock import clock
from coevo_ray.pipelines import encode as encode_module
from coevo_ray.pipelines.encode import Decode, EncodeShard

# Part -> name under which the stage finds the function that does it.
_FUNCTIONS = {"project": "project", "write": "write_table"}


class ClockedDecode(Decode):
    """`Decode` with a clock."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """See `Decode`."""
        with clock("read_decode"):
            return super().__call__(batch)


class ClockedEncodeShard(EncodeShard):
    """`EncodeShard` with clocks."""

    def __init__(self, *arguments: Any) -> None:
        # Here, as this runs once in each actor's process.
        for part, name in _FUNCTIONS.items():
            setattr(encode_module, name, _clocked(part, getattr(encode_module, name)))
        with clock("load_model"):
            super().__init__(*arguments)


def install() -> None:
    """Puts them in place, in the driver."""
    for clocked in (ClockedDecode, ClockedEncodeShard):
        setattr(encode_module, clocked.__name__.removeprefix("Clocked"), clocked)


def _clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        with clock(part):
            return function(*arguments, **options)

    return call
