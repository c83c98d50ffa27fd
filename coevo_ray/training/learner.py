"""One worker's network, optimizer, schedule and history: what every objective trains, saves and resumes alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from coevo_ray.training.feed import Batch
from coevo_ray.training.trainer import resume, save_checkpoint


class Learner:
    """A network in training on a Ray Train worker; the first thing that a loop makes.

    `prepare` and `optimise` follow in this order; both take what the last checkpoint holds.

    Args:
        seed: seed of the network's initialisation.

    Attributes:
        rank, world: this worker's place.
        device: where it computes.
        history: one entry for each finished epoch, with `epoch`, `samples`, `seconds` (summed up) and figures.
    """

    def __init__(self, seed: int) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._resumed, self.history = resume()
        torch.manual_seed(seed)

    def prepare(self, network: nn.Module) -> None:
        """Takes a freshly initialised network; joins the workers' copies."""
        if self._resumed is not None:
            network.load_state_dict(self._resumed["model"])
        self.network: nn.Module = ray.train.torch.prepare_model(network)

    def optimise(
        self,
        make_optimizer: Callable[..., torch.optim.Optimizer],
        make_schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        """Takes an optimizer of the network's parameters and a schedule that moves once for each step."""
        self.optimizer = make_optimizer(self.network.parameters())
        self.schedule = make_schedule(self.optimizer)
        if self._resumed is not None:
            self.optimizer.load_state_dict(self._resumed["optimizer"])
            self.schedule.load_state_dict(self._resumed["schedule"])

    @property
    def inner(self) -> nn.Module:
        """The network without what joins the workers."""
        module = self.network.module if hasattr(self.network, "module") else self.network
        assert isinstance(module, nn.Module)
        return module

    def step(self, losses: torch.Tensor, batch: Batch) -> float:
        """One step on the weighted mean loss of the global batch.

        Args:
            losses: float[rows], each row's loss times its weight.
            batch: where they come from.

        Returns:
            The sum of the losses.
        """
        # DDP averages over workers: with this factor the gradient is the global batch's mean for any number.
        loss = losses.sum() * self.world / batch.global_rows
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(losses.detach().sum())

    def note(self, samples: int, seconds: float, **figures: Any) -> dict[str, Any]:
        """Adds a finished epoch to the history; the next `save` keeps it.

        Args:
            samples: rows that the epoch used, over all workers.
            seconds: its training time.
            figures: what else is known of it.
        """
        before = self.history[-1] if self.history else {"samples": 0, "seconds": 0.0}
        entry = {
            "epoch": len(self.history),
            **figures,
            "samples": before["samples"] + samples,
            "seconds": before["seconds"] + seconds,
        }
        self.history.append(entry)
        return entry

    def save(self) -> None:
        """Checkpoints the learner after an epoch; all workers wait for one another here."""
        state = {
            "model": self.inner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        save_checkpoint(state, self.history, self.history[-1])
