"""Parts of the objective `targets` (CoOpt, arXiv 2505.14117): network, loss, rows joined with their targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
import torch.distributed
from torch import nn

from coevo_ray.core.arrays import Int64Array
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.targets_of_pool import first_target
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.models import make_backbone

_TEMPERATURE = 0.1  # of the cosines between a prediction and the targets of a batch
_HIDDEN = 2  # width of the mlp head over the features' dimension


class TargetNetwork(nn.Module):
    """A backbone and a head that maps its features to targets.

    Args:
        backbone: samples -> features float[b, d], and d; see `inputs.base.backbone_for`.
        head: linear or mlp.
        dim: n of the targets.

    Attributes:
        mean: float32[n], what is taken off every target; zero unless it is set.
    """

    def __init__(self, backbone: tuple[nn.Module, int], head: str, dim: int) -> None:
        super().__init__()
        self.backbone, features = backbone
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.head: nn.Module = nn.Linear(features, dim)
        if head == "mlp":
            wide = _HIDDEN * features
            norm, active = nn.BatchNorm1d(wide), nn.ReLU(inplace=True)
            self.head = nn.Sequential(nn.Linear(features, wide, bias=False), norm, active, nn.Linear(wide, dim))

    @classmethod
    def of_images(cls, model: str, image_size: int, head: str, dim: int, stem: str = "standard") -> TargetNetwork:
        """A network for images, fresh.

        Args:
            model, image_size, stem: as in `models.make_backbone`.
            head, dim: as of the class.

        Raises:
            UsageError: there is no such network, or it cannot be used so.
        """
        return cls(make_backbone(model, image_size, stem), head, dim)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Samples -> directions float[b, n] of their targets less the mean, of any length."""
        predicted: torch.Tensor = self.head(self.backbone(samples))
        return predicted


def cosine_loss(predicted: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """1 - cos(prediction, target - mean), averaged over the views of a row.

    Features of one network share a large common part; without it, what tells rows apart fills the whole cosine.

    Args:
        predicted: float[v b, n], the views of all rows one after another.
        targets: float[b, n].
        mean: float[n], of all targets; zero leaves them as they are.

    Returns:
        float32[b] in 0..2.
    """
    views = predicted.float().view(-1, *targets.shape)
    return (1 - nn.functional.cosine_similarity(views, (targets - mean).unsqueeze(0), dim=2)).mean(dim=0)


@dataclass(frozen=True, eq=False)
class Keys:
    """The targets of a whole batch, over all workers.

    Attributes:
        targets: float[k, n].
        own: int64[b], which of them are those of this worker's rows; any for padding.
    """

    targets: torch.Tensor
    own: torch.Tensor

    @classmethod
    def gather(cls, targets: torch.Tensor, weights: torch.Tensor, rank: int, world: int) -> Keys:
        """Gathers the targets of all workers; padding, which repeats a row of another worker, is left out.

        Args:
            targets: float[b, n], of this worker's rows; b is the same on all workers.
            weights: float[b], 0 for padding.
            rank, world: this worker's place; all workers call it.
        """
        all_targets, all_weights = [targets], [weights]
        if world > 1:
            all_targets, all_weights = ([torch.empty_like(x) for _ in range(world)] for x in (targets, weights))
            torch.distributed.all_gather(all_targets, targets.contiguous())
            torch.distributed.all_gather(all_weights, weights.contiguous())
        real = torch.cat(all_weights) > 0
        places = (real.cumsum(0) - 1).clamp(min=0)
        return cls(torch.cat(all_targets)[real], places[rank * len(targets) : (rank + 1) * len(targets)])


def contrast_loss(
    predicted: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor, keys: Keys | None = None
) -> torch.Tensor:
    """Cross-entropy, in nats, of telling a row's target among those of the whole batch by their cosines.

    InfoNCE (van den Oord et al. 2018) with targets for keys. The cosine to the row's own target alone does not say
    which differences between rows matter.

    Args:
        predicted: float[v b, n], the views of all rows one after another.
        targets: float[b, n].
        mean: float[n], of all targets; zero leaves them as they are.
        keys: the targets of the whole batch, where these rows are a worker's part of it; None where they are all of it.

    Returns:
        float32[b], 0 or more.
    """
    rows = len(targets)
    keys = keys or Keys(targets, torch.arange(rows, device=targets.device))
    directions = nn.functional.normalize(keys.targets - mean, dim=1)
    cosines = nn.functional.normalize(predicted.float(), dim=1) @ directions.T
    own = keys.own.repeat(len(predicted) // rows)
    return nn.functional.cross_entropy(cosines / _TEMPERATURE, own, reduction="none").view(-1, rows).mean(dim=0)


class PoolWithTargets(Pool):
    """A pool whose rows can be read together with their targets, joined by row_id.

    Args:
        location: the pool's folder.
        targets: the target table's folder.

    Attributes:
        first_target: row_id in the targets of the pool's row 0.
        target_rows: int64 row_ids of the pool's rows that have a target, increasing.

    Raises:
        InputError: one of them is not there, or the targets were not made from this pool.
    """

    def __init__(self, location: Location, targets: Location) -> None:
        super().__init__(location)
        self.targets = RowTable(targets, "targets")
        self.first_target = first_target(self.targets, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.location, self.targets.location))

    @cached_property
    def target_rows(self) -> Int64Array:
        """See the class."""
        ids = self.targets.row_ids() - self.first_target
        return ids[(ids >= 0) & (ids < len(self))]

    def read(self, row_ids: Int64Array, columns: list[str]) -> pa.Table:
        """As `RowTable.read`; the column `target` comes from the target table."""
        rows = super().read(row_ids, [name for name in columns if name != "target"])
        if "target" not in columns:
            return rows
        return rows.append_column("target", self.targets.read(row_ids + self.first_target, ["target"]).column("target"))
