"""Networks trained on a pool's images under a policy, from random weights or from a network of the pool's targets."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.policies.data import Setting
from benchmarks.policies.heads import Head, cosine_rate, make_ledger, per_class
from coevo_ray.config import TargetTrainConfig
from coevo_ray.core.arrays import BoolArray
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import KeptShares
from coevo_ray.training.feed.images import shift
from coevo_ray.training.from_targets.network import TargetNetwork, contrast_loss, cosine_loss
from coevo_ray.training.models import make_backbone

Images = npt.NDArray[np.uint8]
_SHIFT = 8  # images move by up to an eighth of their side
_TARGETS = TargetTrainConfig()


@dataclass(frozen=True)
class Pictures:
    """The images of a setting.

    Attributes:
        train, test: uint8[n, 3, s, s].
    """

    train: Images
    test: Images


@dataclass(frozen=True)
class Network:
    """A network and where it is trained.

    Attributes:
        model: name, see `make_model`.
        device: of torch.
        batch_rows: of a step on labels.
    """

    model: str = "benchmarks.networks:small_resnet"
    device: str = "cpu"
    batch_rows: int = 256


def learn_targets(
    pictures: Pictures, targets: npt.NDArray[np.float32], network: Network, epochs: int, seed: int
) -> TargetNetwork:
    """A network that learned to tell the targets of the training images, without labels, as `train` does by default.

    Args:
        pictures: the images.
        targets: float32[n, d], one of each training image.
        network: what is trained.
        epochs: passes over the images.
        seed: of initialisation, order and augmentation.
    """
    torch.manual_seed(seed)
    rows, size = len(targets), pictures.train.shape[-1]
    student = TargetNetwork.of_images(network.model, size, "linear", targets.shape[1]).to(torch.device(network.device))
    student.to(memory_format=torch.channels_last)
    goals = torch.from_numpy(targets).to(network.device)
    mean = goals.mean(dim=0)
    optimizer = torch.optim.AdamW(student.parameters(), _TARGETS.learning_rate, weight_decay=_TARGETS.weight_decay)
    order, batch = np.random.default_rng([seed, 2]), min(_TARGETS.batch_rows, rows)
    for epoch in range(epochs):
        mixed = order.permutation(rows)
        for first in range(0, rows - batch + 1, batch):
            ids = mixed[first : first + batch]
            optimizer.param_groups[0]["lr"] = cosine_rate(_TARGETS.learning_rate, (epoch + first / rows) / epochs)
            x = _augmented(pictures.train[ids], hash_rows(ids, seed * 1013 + epoch))
            predicted = student(_scaled(x, network.device))
            losses = cosine_loss(predicted, goals[ids], mean)
            losses = losses + _TARGETS.contrast * contrast_loss(predicted, goals[ids], mean)
            optimizer.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    return student


def train_network(
    setting: Setting,
    pictures: Pictures,
    policy: tuple[str, dict[str, Any]],
    keep: KeptShares,
    head: Head,
    seed: int,
    network: Network,
    start: nn.Module | None = None,
    held_out: BoolArray | None = None,
) -> dict[str, Any]:
    """Trains one network on labels; random shifts and mirror images.

    Args:
        setting, pictures: the pool and its images.
        policy: its name and its options, see `make_policy`.
        keep: kept shares.
        head: epochs, learning rate and weight decay.
        seed: of initialisation, subsets, order and augmentation.
        network: what is trained.
        start: a backbone to start from, which stays as it is; None begins with random weights.
        held_out: bool[n], rows that no subset gets and that accuracy is measured on; None for the test rows.

    Returns:
        `accuracy`: mean over classes; `seconds`; `visits`; `network`: backbone and head, in evaluation mode.
    """
    started = time.perf_counter()
    ledger = make_ledger(setting, *policy, keep, head, seed, held_out)
    rule, rows = ledger.policy, len(setting.labels) if held_out is None else int((~held_out).sum())
    planned = planned_visits(rule, keep, head.epochs, rows)
    trained = _classifier(setting, pictures, network, start, seed)
    optimizer = torch.optim.SGD(
        trained.parameters(), lr=head.learning_rate, momentum=0.9, nesterov=True, weight_decay=head.weight_decay
    )
    order, visits, batch = np.random.default_rng([seed, 1]), 0, network.batch_rows
    for epoch in range(len(planned)):
        subset = ledger.select(epoch)
        mixed = order.permutation(len(subset.row_ids))
        ids = subset.row_ids[mixed]
        weights = np.ones(len(ids), np.float32) if subset.weights is None else subset.weights[mixed]
        losses, entropies = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
        for first in range(0, len(ids), batch):
            part = slice(first, first + batch)
            optimizer.param_groups[0]["lr"] = cosine_rate(head.learning_rate, (visits + first) / sum(planned))
            x = _scaled(
                _augmented(pictures.train[ids[part]], hash_rows(ids[part], seed * 1009 + epoch)), network.device
            )
            losses[part], entropies[part] = _step(trained, optimizer, x, setting.labels[ids[part]], weights[part])
        visits += len(ids)
        if rule.needs_losses:
            ledger.report_losses(epoch, ids, losses, entropies)
        ledger.commit(epoch)
    return {
        "accuracy": _accuracy(trained, pictures, setting, network.device, held_out),
        "seconds": time.perf_counter() - started,
        "visits": visits,
        "network": trained,
    }


def _classifier(
    setting: Setting, pictures: Pictures, network: Network, start: nn.Module | None, seed: int
) -> nn.Module:
    """A backbone with a new linear head."""
    torch.manual_seed(seed)
    backbone, features = make_backbone(network.model, pictures.train.shape[-1])
    if start is not None:
        backbone = copy.deepcopy(start)
    classes = int(max(setting.labels.max(), setting.test_labels.max())) + 1
    whole = nn.Sequential(backbone, nn.Linear(features, classes)).to(torch.device(network.device))
    return whole.to(memory_format=torch.channels_last).train()


def _augmented(images: Images, seeds: npt.NDArray[np.uint64]) -> Images:
    moved = shift(images, seeds, max(1, images.shape[-1] // _SHIFT))
    mirrored = seeds & np.uint64(1) == 1
    moved[mirrored] = moved[mirrored, ..., ::-1]
    return moved


def _scaled(images: Images, device: str) -> torch.Tensor:
    scaled = (torch.from_numpy(np.ascontiguousarray(images)).to(device).float() - 120.0) / 60.0
    return scaled.contiguous(memory_format=torch.channels_last)


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """One step; losses and entropies of the predictions, in nats."""
    logs = network(x).log_softmax(dim=1)
    losses = -logs[torch.arange(len(x)), torch.from_numpy(labels).to(x.device)]
    optimizer.zero_grad()
    (losses * torch.from_numpy(weights).to(x.device)).mean().backward()
    optimizer.step()
    with torch.no_grad():
        return losses.detach().cpu().numpy(), -(logs.exp() * logs).sum(dim=1).cpu().numpy()


@torch.inference_mode()
def _accuracy(
    network: nn.Module, pictures: Pictures, setting: Setting, device: str, held_out: BoolArray | None
) -> float:
    network.eval()
    images, labels = pictures.test, setting.test_labels
    if held_out is not None:
        images, labels = pictures.train[held_out], setting.labels[held_out]
    parts = [network(_scaled(images[i : i + 1024], device)).argmax(dim=1).cpu() for i in range(0, len(images), 1024)]
    return per_class(torch.cat(parts).numpy() == labels, labels)
