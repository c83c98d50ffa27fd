"""Text batches for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from coevo_ray.core.arrays import UInt64Array
from coevo_ray.errors import UsageError
from coevo_ray.training.feed.images import labels_of, targets_of

# Texts -> an array or tensor with a row for each, or several by name, as tokenizers give them.
Tokenize = Callable[[list[str]], Any]


@dataclass(frozen=True)
class TextTransform:
    """Feed transform: texts -> what a function makes of them, and `label` and `target` where rows have them.

    Attributes:
        tokenize: function of a list of texts; what it returns is called `text`, a mapping keeps its names. None makes
            nothing of the texts.
        column: name of the texts' column.

    Raises:
        UsageError: it returns something else, or not a row for each text (when called).
    """

    tokenize: Tokenize | None
    column: str = "text"

    def __call__(self, rows: pa.Table, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        others = {**labels_of(rows), **targets_of(rows)}
        if self.tokenize is None:
            return others
        made = self.tokenize(rows.column(self.column).to_pylist())
        parts = made if isinstance(made, Mapping) else {self.column: made}
        return {**{str(name): _tensor(name, value, len(rows)) for name, value in parts.items()}, **others}


def _tensor(name: object, value: object, rows: int) -> torch.Tensor:
    """Checks the result of a tokenizer and makes it a tensor."""
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    if not isinstance(tensor, torch.Tensor):
        raise UsageError(
            f"the tokenizer returned {type(value).__name__} as {name}, not a tensor",
            'pad to one length and return tensors (return_tensors="pt", padding=True)',
        )
    if tensor.dim() == 0 or len(tensor) != rows:
        raise UsageError(
            f"the tokenizer returned {list(tensor.shape)} as {name} for {rows} texts", "return a row for each text"
        )
    return tensor
