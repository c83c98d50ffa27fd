"""A network's optimizer, gradient scaling and averaged weights, also for trainings without Ray."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from coevo_ray.config import LearningConfig
from coevo_ray.training.loop.fine_tuning import RATE_SHARE, FineTuning, Groups


class Descent:
    """Applies optimizer steps to a network.

    Args:
        config: optimizer, precision, clipping, averaging.
        network: in training; with several workers the one that joins them.
        inner: the network without what joins the workers.
        device: of the network.
        tuning: learning rates of its layers.

    Attributes:
        network: as given; another one that joins the workers may take its place.
        inner: as given.
        optimizer: of the network's parameters.
        average: averaged weights of the inner network, or None.
    """

    def __init__(
        self,
        config: LearningConfig,
        network: nn.Module,
        inner: nn.Module,
        device: torch.device,
        tuning: FineTuning | None = None,
    ) -> None:
        self.network, self.inner, self._device = network, inner, device
        self._peak, self._clip_norm = config.learning_rate, config.clip_norm
        self._dtype: torch.dtype = getattr(torch, config.precision)
        self.average: AveragedModel | None = None
        if config.ema is not None:
            self.average = averaged(inner, config.ema)
        self.optimizer = make_optimizer(config, (tuning or FineTuning()).groups(inner))
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        """Computes in the configured precision inside a with statement."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def set_rate(self, factor: float) -> None:
        """Sets the learning rate to a share of its peak."""
        set_rate(self.optimizer, self._peak * factor)

    @property
    def learning_rate(self) -> float:
        """Of the last step; with rates by layer the classifier's."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: torch.Tensor) -> None:
        """Applies one optimizer step on a scalar loss with a gradient."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
        if self._clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self._clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.inner)

    def state(self) -> dict[str, Any]:
        """The optimizer's part of a checkpoint."""
        state = {
            "model": self.inner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        return state if self.average is None else {**state, "average": self.average.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Loads the result of `state` but for the network's weights, which are loaded before workers are joined."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def make_optimizer(config: LearningConfig, parameters: Groups) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum (plain without momentum), or AdamW; at the peak learning rate."""
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    # The fused steps are one kernel; the plain ones start several for each parameter.
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **shared)
    return torch.optim.AdamW(parameters, betas=(config.momentum, 0.999), **shared)


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of all parameters; a group with a share of its own gets that of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(RATE_SHARE, 1.0)


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy that `update_parameters` moves towards the network: decay x copy + (1 - decay) x network, buffers too.

    The first update copies the network.
    """
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
