"""Exchange between the processes of a distributed training."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import distributed

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.errors import UsageError


def place_among_processes() -> tuple[int, int]:
    """Rank and number of the processes of torch's default group; (0, 1) where there is none.

    Raises:
        UsageError: there are several, and this process's Accelerator trains it alone, as it does where torchrun started
            them on CPUs. Each would learn from its part of the rows only.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    rank, world = distributed.get_rank(), distributed.get_world_size()
    accelerator = _accelerator()
    if world > 1 and accelerator is not None and accelerator.num_processes == 1:
        raise UsageError(
            f"there are {world} processes, and Accelerate trains each of them alone",
            "on CPUs set ACCELERATE_USE_CPU=true, or start them by `accelerate launch --cpu`",
        )
    return rank, world


def device_of_accelerator() -> torch.device | None:
    """The device of the Accelerator that this process has made, also by the Trainer of transformers; None without."""
    accelerator = _accelerator()
    device: torch.device | None = None if accelerator is None else accelerator.device
    return device


def _accelerator() -> Any:
    """The state of Accelerate; None where this process has made none."""
    accelerate: Any = sys.modules.get("accelerate")
    # Asking its public class would make the state that is to be looked for.
    if accelerate is None or not getattr(accelerate.PartialState, "_shared_state", None):
        return None
    return accelerate.PartialState()


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
