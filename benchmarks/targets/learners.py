"""The trainings of the targets benchmark: our objective, and plain PyTorch loops for its peers.

All use the same feed, views, backbone, optimizer and schedule, and as many threads as there are cores; each runs in a
child process. Ray runs only for our objective.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

_WARM_UP, _FIRST, _LAST = 0.1, 1 / 25, 1 / 25e4  # torch's OneCycleLR, as our objective uses it
# Views as BYOL has them, so that rows of the table differ in their objective alone; and the cosine alone, as published.
AS_BYOL = {"views": 2, "min_crop": 0.2, "colour": 1.0, "contrast": 0.0}
_BYOL_HIDDEN, _BYOL_OUT = 1024, 256


@dataclass(frozen=True)
class Training:
    """What all trainings of a run share.

    Attributes:
        pool: folder of the pool.
        model: network by name.
        image_size: pixels of its input.
        batch_rows: rows of a batch, two views each.
        learning_rate: peak, by objective.
        weight_decay: AdamW's.
        precision: float32 or bfloat16.
        threads: of PyTorch.
        gpus: 0 for CPU.
        seed: of initialisation, order and views.
    """

    pool: str
    model: str
    image_size: int
    batch_rows: int
    learning_rate: dict[str, float]
    weight_decay: float
    precision: Literal["float32", "bfloat16"]
    threads: int
    gpus: int
    seed: int

    @property
    def device(self) -> torch.device:
        """Of a peer's training."""
        return torch.device("cuda" if self.gpus else "cpu")


def train_on_targets(training: Training, targets: str, epochs: int, out: str) -> dict[str, Any]:
    """Our objective, as its command runs it."""
    from coevo_ray.training.from_targets.train import train_targets

    shared = {k: v for k, v in asdict(training).items() if k not in ("pool", "learning_rate", "threads", "gpus")}
    config = {
        **shared,
        **AS_BYOL,
        "learning_rate": training.learning_rate["targets"],
        "epochs": epochs,
        "compute": {"actors": 1, "cpus": training.threads, "gpus": training.gpus},
    }
    summary = train_targets(config, training.pool, targets, out)
    return {name: summary[name] for name in ("linear_probe", "knn", "seconds", "epochs", "loss")}


def train_peer(
    training: Training, name: Literal["byol", "supervised", "random"], epochs: int, seconds: float | None = None
) -> dict[str, Any]:
    """A peer, in a plain loop.

    Args:
        training: what all share.
        name: BYOL; cross-entropy on the labels; or the backbone as it is initialised.
        epochs: passes over the training rows.
        seconds: train for so long instead.

    Returns:
        `linear_probe`, `knn`, `seconds` of training, `epochs` (a fraction where time ended it) and the last `loss`.
    """
    from coevo_ray.pool.pool import Pool
    from coevo_ray.training.from_targets.probes import ProbeRows, evaluate
    from coevo_ray.training.inputs.choose import images_of

    pool = Pool.open(training.pool)
    backbone, made = fit_peer(training, name, pool, epochs, seconds)
    rows = ProbeRows.choose(pool, pool.row_ids(), limit=50_000, seed=0)
    assert rows is not None
    dtype: torch.dtype = getattr(torch, training.precision)
    return {**evaluate(backbone, images_of(pool, training.image_size), rows, training.device, dtype=dtype), **made}


def fit_peer(
    training: Training,
    name: Literal["byol", "supervised", "random"],
    pool: Any,
    epochs: int,
    seconds: float | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The backbone of a peer; arguments as in `train_peer`, and the pool.

    Returns:
        The backbone, and `seconds`, `epochs` and `loss`.
    """
    from coevo_ray.training.models import make_backbone

    torch.set_num_threads(training.threads if training.gpus == 0 else 1)
    device = training.device
    torch.manual_seed(training.seed)
    backbone, features = make_backbone(training.model, training.image_size)
    # torch's stubs know memory_format only together with a dtype.
    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    made: dict[str, Any] = {"seconds": 0.0, "epochs": 0.0, "loss": None}
    if name != "random":
        objective = BYOL(backbone, features) if name == "byol" else Supervised(backbone, features, pool)
        made = _fit(objective.to(device), training, name, pool, epochs, seconds, device)
    return backbone, made


class Supervised(nn.Module):
    """Cross-entropy on the labels, of both views."""

    def __init__(self, backbone: nn.Module, features: int, pool: Any) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(features, pool.classes)
        self.labels = torch.from_numpy(pool.labels())

    def forward(self, views: torch.Tensor, row_ids: torch.Tensor) -> torch.Tensor:
        """Views float[2 b, 3, s, s] of rows int64[b] -> mean loss."""
        labels = self.labels[row_ids].to(views.device).repeat(2)
        # A row without a label, or a held-out one, never comes here: see `_fit`.
        return nn.functional.cross_entropy(self.head(self.backbone(views)).float(), labels)

    def after_step(self, done: float) -> None:
        """Nothing."""


class BYOL(nn.Module):
    """BYOL (arXiv 2006.07733) of lightly's parts: two networks, of which one follows the other."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        from copy import deepcopy

        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        self.online = nn.Sequential(backbone, BYOLProjectionHead(features, _BYOL_HIDDEN, _BYOL_OUT))
        self.prediction = BYOLPredictionHead(_BYOL_OUT, _BYOL_HIDDEN, _BYOL_OUT)
        self.target = deepcopy(self.online)
        deactivate_requires_grad(self.target)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: torch.Tensor, row_ids: torch.Tensor) -> torch.Tensor:
        """Views float[2 b, 3, s, s] -> mean loss; each view predicts what the other network makes of the other one."""
        predicted = self.prediction(self.online(views)).float().chunk(2)
        with torch.no_grad():
            other = self.target(views).float().chunk(2)
        loss: torch.Tensor = 0.5 * (self.criterion(predicted[0], other[1]) + self.criterion(predicted[1], other[0]))
        return loss

    def after_step(self, done: float) -> None:
        """The target network follows; its momentum goes from 0.99 to 1 along a cosine."""
        from lightly.models.utils import update_momentum

        update_momentum(self.online, self.target, m=1 - 0.01 * (math.cos(math.pi * done) + 1) / 2)


def one_cycle(done: float) -> float:
    """The learning rate over its peak after a share of the training: torch's OneCycleLR as a function of that share."""

    def cosine(first: float, last: float, share: float) -> float:
        return last + (first - last) / 2 * (math.cos(math.pi * share) + 1)

    if done < _WARM_UP:
        return cosine(_FIRST, 1.0, done / _WARM_UP)
    return cosine(1.0, _LAST, min(1.0, (done - _WARM_UP) / (1 - _WARM_UP)))


def _fit(
    objective: Any, training: Training, name: str, pool: Any, epochs: int, seconds: float | None, device: torch.device
) -> dict[str, Any]:
    from coevo_ray.core.feed.epoch_plan import Subset
    from coevo_ray.training.feed.feed import Feed
    from coevo_ray.training.feed.views import Decode, Views, views_of

    rows = pool.train_ids()
    if name == "supervised":
        rows = rows[pool.labels()[rows] >= 0]
    feed = Feed(pool, ["image"], Decode(training.image_size), global_batch=training.batch_rows, seed=training.seed)
    peak = training.learning_rate[name]
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=training.weight_decay, fused=True)
    steps_of_epoch = -(-len(rows) // training.batch_rows)
    done = _Progress(epochs * steps_of_epoch, seconds)
    dtype: torch.dtype = getattr(torch, training.precision)
    views, total = Views(), 0.0
    objective.train()
    while not done.over():
        epoch, total = done.steps // steps_of_epoch, 0.0
        for batch in feed.epoch(Subset(epoch, rows, None)):
            for group in optimizer.param_groups:
                group["lr"] = peak * one_cycle(done.share())
            images = views_of(batch["image"].to(device), batch.row_ids, views, training.seed, epoch)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = objective(images.contiguous(memory_format=torch.channels_last), torch.from_numpy(batch.row_ids))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done.steps += 1
            objective.after_step(done.share())
            total += loss.item()
            if done.over():
                break
    last_steps = done.steps % steps_of_epoch or steps_of_epoch
    found = {"seconds": done.elapsed(), "epochs": done.steps / steps_of_epoch, "loss": total / last_steps}
    return {key: round(value, 4) for key, value in found.items()}


class _Progress:
    """How far a training is, by steps or by the clock."""

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps, self._all, self._seconds = 0, steps, seconds
        self._started = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started

    def share(self) -> float:
        """In 0..1."""
        return min(1.0, self.steps / self._all if self._seconds is None else self.elapsed() / self._seconds)

    def over(self) -> bool:
        """Whether it is at its end."""
        return self.share() >= 1.0
