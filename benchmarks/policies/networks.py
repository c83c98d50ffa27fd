"""A small ResNet trained from scratch on the images under a policy; evidence and factors are those of the features."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.networks import ResNet
from benchmarks.policies.data import Setting
from benchmarks.policies.heads import BATCH, Head, cosine_rate, make_ledger, per_class
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import KeptShares
from coevo_ray.training.feed.images import shift

Images = npt.NDArray[np.uint8]
_WIDTHS = (16, 32, 64)
_SHIFT = 4


@dataclass(frozen=True)
class Pictures:
    """The images of a setting.

    Attributes:
        train, test: uint8[n, 3, s, s].
    """

    train: Images
    test: Images


def pictures_of(file: Path, setting: Setting) -> Pictures:
    """The images of a setting's rows, in its order; see `encode_images`."""
    with np.load(file) as arrays:
        images = np.concatenate([arrays["train_images"], arrays["copy_images"]])[setting.rows]
        test = arrays["test_images"]
    return Pictures(*(np.ascontiguousarray(part.transpose(0, 3, 1, 2)) for part in (images, test)))


def train_network(
    setting: Setting,
    pictures: Pictures,
    policy: str,
    options: dict[str, Any],
    keep: KeptShares,
    head: Head,
    seed: int,
) -> dict[str, Any]:
    """Trains one network; random shifts and mirror images.

    Args:
        setting, pictures: the pool and its images.
        policy, options: see `make_policy`.
        keep: kept shares.
        head: epochs, learning rate and weight decay.
        seed: of initialisation, subsets, order and augmentation.

    Returns:
        `accuracy`: mean over classes; `seconds`; `visits`.
    """
    started = time.perf_counter()
    ledger = make_ledger(setting, policy, options, keep, head, seed)
    rule, rows = ledger.policy, len(setting.labels)
    planned = planned_visits(rule, keep, head.epochs, rows)
    torch.manual_seed(seed)
    network = ResNet(int(setting.test_labels.max()) + 1, _WIDTHS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=head.learning_rate, momentum=0.9, nesterov=True, weight_decay=head.weight_decay
    )
    order, visits = np.random.default_rng([seed, 1]), 0
    for epoch in range(len(planned)):
        subset = ledger.select(epoch)
        mixed = order.permutation(len(subset.row_ids))
        ids = subset.row_ids[mixed]
        weights = np.ones(len(ids), np.float32) if subset.weights is None else subset.weights[mixed]
        losses, entropies = np.empty(len(ids), np.float32), np.empty(len(ids), np.float32)
        for first in range(0, len(ids), BATCH):
            part = slice(first, first + BATCH)
            optimizer.param_groups[0]["lr"] = cosine_rate(head.learning_rate, (visits + first) / sum(planned))
            x = _augmented(pictures.train[ids[part]], hash_rows(ids[part], seed * 1009 + epoch))
            losses[part], entropies[part] = _step(network, optimizer, x, setting.labels[ids[part]], weights[part])
        visits += len(ids)
        if rule.needs_losses:
            ledger.report_losses(epoch, ids, losses, entropies)
        ledger.commit(epoch)
    return {
        "accuracy": _accuracy(network, pictures, setting),
        "seconds": time.perf_counter() - started,
        "visits": visits,
    }


def _augmented(images: Images, seeds: npt.NDArray[np.uint64]) -> torch.Tensor:
    moved = shift(images, seeds, _SHIFT)
    mirrored = seeds & np.uint64(1) == 1
    moved[mirrored] = moved[mirrored, ..., ::-1]
    return _scaled(moved)


def _scaled(images: Images) -> torch.Tensor:
    scaled = (torch.from_numpy(np.ascontiguousarray(images)).float() - 120.0) / 60.0
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
    losses = -logs[torch.arange(len(x)), torch.from_numpy(labels)]
    optimizer.zero_grad()
    (losses * torch.from_numpy(weights)).mean().backward()
    optimizer.step()
    with torch.no_grad():
        return losses.detach().numpy(), -(logs.exp() * logs).sum(dim=1).numpy()


@torch.inference_mode()
def _accuracy(network: nn.Module, pictures: Pictures, setting: Setting) -> float:
    network.eval()
    parts = [network(_scaled(pictures.test[i : i + 1024])).argmax(dim=1) for i in range(0, len(pictures.test), 1024)]
    return per_class(torch.cat(parts).numpy() == setting.test_labels, setting.test_labels)
