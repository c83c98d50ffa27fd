"""Static token embeddings: the features of a text are the mean of its tokens' vectors (wordllama, model2vec)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class MeanOfTokens(nn.Module):
    """Means of tokens' vectors.

    Args:
        table: float[v, dim].
        rows: int64[tokens], the row of the table of each token; None where token i has row i.
        weights: float[tokens], factor of each token's vector; None for 1.
        normalize: whether means are scaled to length 1.
    """

    table: torch.Tensor
    rows: torch.Tensor | None
    weights: torch.Tensor | None

    def __init__(
        self, table: torch.Tensor, rows: torch.Tensor | None, weights: torch.Tensor | None, *, normalize: bool
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("table", table.float().contiguous())
        self.register_buffer("rows", None if rows is None else rows.long())
        self.register_buffer("weights", None if weights is None else weights.float())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """float32[b, dim] of tokens int64[b, l] with -1 behind shorter texts; 0 for a text without tokens."""
        there = tokens >= 0
        ids, counts = tokens[there], there.sum(dim=1)
        sums = functional.embedding_bag(
            ids if self.rows is None else self.rows[ids],
            self.table,
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=None if self.weights is None else self.weights[ids],
        )
        means = sums / counts.clamp(min=1).unsqueeze(1)
        return functional.normalize(means, dim=1) if self.normalize else means
