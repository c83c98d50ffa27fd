"""Exchange between the processes of a distributed training."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import distributed

from coevo_ray.core.arrays import Float32Array, Int64Array


def place_among_processes() -> tuple[int, int]:
    """Rank and number of the processes of torch's default group; (0, 1) where there is none."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def device_of_accelerator() -> torch.device | None:
    """The device of the Accelerator that this process has made, also by the Trainer of transformers; None without."""
    accelerate: Any = sys.modules.get("accelerate")
    # Asking its public class would make the state that is to be looked for.
    if accelerate is None or not getattr(accelerate.PartialState, "_shared_state", None):
        return None
    device: torch.device = accelerate.PartialState().device
    return device


def from_all_ranks(
    row_ids: torch.Tensor, losses: torch.Tensor, entropies: torch.Tensor | None
) -> tuple[Int64Array, Float32Array, Float32Array | None]:
    """Joins what all ranks report of a step, in the order of ranks; every rank has to call it.

    Args:
        row_ids: int64[b], the same b on all ranks, as the feed gives it.
        losses, entropies: float[b] and float[b] or None; on the device that the group communicates from.

    Returns:
        int64[W b], float32[W b], and float32[W b] or None.
    """
    reported = [losses, *([] if entropies is None else [entropies])]
    # Float64 holds row_ids up to 2^53 and all float32, so that one message is enough.
    mine = torch.stack([values.detach().to(losses.device, torch.float64) for values in (row_ids, *reported)])
    _, world = place_among_processes()
    parts = [mine]
    if world > 1:
        parts = [torch.empty_like(mine) for _ in range(world)]
        distributed.all_gather(parts, mine)
    ids, values, *others = torch.cat(parts, dim=1).cpu()
    return ids.to(torch.int64).numpy(), values.float().numpy(), others[0].float().numpy() if others else None
