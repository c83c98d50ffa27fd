"""Optimizers and averaged weights, as the settings name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from coevo_ray.config import LearningConfig


def make_optimizer(config: LearningConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum (plain without momentum), or AdamW; at the peak learning rate."""
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    # The fused steps are one kernel; the plain ones start several for each parameter.
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **shared)
    return torch.optim.AdamW(parameters, betas=(config.momentum, 0.999), **shared)


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy that `update_parameters` moves towards the network: decay x copy + (1 - decay) x network, buffers too.

    The first update copies the network.
    """
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
