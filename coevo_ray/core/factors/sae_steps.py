"""Steps of an SAE's fit: optimizer, learning rate, early stopping and metrics (docs/design.md#sae-fit).

Independent of Ray: a training loop supplies batches and, with several workers, a function that sums over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from coevo_ray.core.factors.sae import SAELoss, TopKSAE

Join = Callable[[torch.Tensor], torch.Tensor]
DECAY_SHARE = 0.2  # of the samples of a fit


@dataclass
class Schedule:
    """Learning rate as a function of samples: constant, then linear to zero over the last fifth of the fit.

    A fit that stops early still ends with a decay over its last fifth, which gains more than the steps it replaces.

    Attributes:
        peak: learning rate before the decay.
        end: samples of the whole fit.
        decay_from: samples after which the learning rate decays; a negative number means the last fifth of `end`.
    """

    peak: float
    end: int
    decay_from: int = -1

    def __post_init__(self) -> None:
        if self.decay_from < 0:
            self.decay_from = int(self.end * (1 - DECAY_SHARE))

    def rate(self, samples: int) -> float:
        """Returns the learning rate after a number of samples."""
        left = (self.end - samples) / max(1, self.end - self.decay_from)
        return self.peak * min(1.0, max(0.0, left))

    def decay_now(self, samples: int) -> None:
        """Begins the decay at a number of samples, unless it has begun."""
        if samples < self.decay_from:
            self.decay_from, self.end = samples, min(self.end, int(samples / (1 - DECAY_SHARE)))


def plateaued(variances: Sequence[float], patience: int, min_improvement: float) -> bool:
    """Tests whether a fit has stopped improving.

    Args:
        variances: float[windows], explained variance of all windows so far.
        patience: number of latest windows that are compared with those before them.
        min_improvement: least gain in explained variance of the best of those over the best before them.
    """
    if len(variances) <= patience:
        return False
    return max(variances[-patience:]) < max(variances[:-patience]) + min_improvement


def geometric_median(x: torch.Tensor, join: Join | None = None, iterations: int = 32) -> torch.Tensor:
    """Computes the point with the smallest sum of distances to all rows, by Weiszfeld's iterations from the mean.

    Args:
        x: float[n, d], this worker's rows.
        join: sums a tensor over all workers; None for a single worker.
        iterations: number of iterations.

    Returns:
        float[d].
    """
    weights = x.new_ones(len(x), 1)
    for _ in range(iterations + 1):
        sums = torch.cat([(weights * x).sum(dim=0), weights.sum().reshape(1)])
        sums = sums if join is None else join(sums)
        median = sums[:-1] / sums[-1]
        weights = 1 / (x - median).norm(dim=1, keepdim=True).clamp_min(1e-6)
    return median


class SAESteps:
    """Optimizer steps of a TopK SAE.

    A step removes the part of the decoder's gradient that is parallel to its rows, scales all gradients jointly to
    length 1, runs Adam and rescales the rows to length 1 (Bricken et al. 2023; Gao et al. 2024). The model's offset
    starts at the first batch's geometric median (Gao et al. 2024, appendix A). On CUDA devices pre-activations are
    computed in bfloat16, everything else in float32.

    Args:
        sae: the model; changed in place.
        schedule: learning rate.
        forward: (this worker's rows float[n, d], rows of the whole batch) -> loss; None for the model's own. Pass DDP's
            wrapper here: it averages the workers' gradients.
        join: sums a tensor over all workers; None for a single worker.
        workers: number of workers.

    Attributes:
        samples: rows of all workers so far.
        window_samples: rows of all workers since the last `look`.
    """

    def __init__(
        self,
        sae: TopKSAE,
        schedule: Schedule,
        *,
        forward: Callable[[torch.Tensor, int], SAELoss] | None = None,
        join: Join | None = None,
        workers: int = 1,
    ) -> None:
        self.sae, self.schedule, self.workers = sae, schedule, workers
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=schedule.peak, fused=True)
        self.samples = 0
        self._forward = forward if forward is not None else self._loss
        self._join: Join = join if join is not None else _alone
        self._open_window()

    @property
    def done(self) -> bool:
        """True when the schedule has ended."""
        return self.samples >= self.schedule.end

    def step(self, x: torch.Tensor, rows: int | None = None) -> SAELoss:
        """Takes one optimizer step, together with all workers.

        Args:
            x: float[n, d], this worker's rows; may be empty.
            rows: number of rows of the whole batch; None for n.

        Returns:
            This worker's part of the loss before the step.
        """
        rows = len(x) if rows is None else rows
        if self.samples == 0:
            self.sae.set_offset_(geometric_median(x, self._join))
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.samples)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda and torch.cuda.is_bf16_supported()):
            loss = self._forward(x, rows)
        torch.autograd.backward(loss.total * self.workers)
        self.sae.remove_parallel_gradient_()
        self.sae.normalise_gradients_()
        self.optimizer.step()
        self.sae.drop_gradients_()
        self.sae.normalise_decoder_()
        counts = self._join(self.sae.active_counts(loss.codes))
        self.sae.note_active_(counts, rows)
        self._active += counts
        self._squares += loss.reconstruction.double() * rows
        self.samples += rows
        self.window_samples += rows
        return loss

    def look(self) -> dict[str, float]:
        """Returns metrics of the steps since the last call and starts a new window; call it on all workers.

        Returns:
            `samples` so far; of the window `explained_variance` (each row's error before the step that learned from it,
            relative to the variance of all rows), `l0` (mean number of active latents of a row) and `dead_fraction`
            (share of latents without an active row); `learning_rate` of the next step. All float64[].
        """
        rows = max(1, self.window_samples)
        figures = {
            "samples": self.samples,
            "explained_variance": 1.0 - float(self._join(self._squares)) / rows,
            "dead_fraction": float((self._active == 0).double().mean()),
            "l0": float(self._active.sum()) / rows,
            "learning_rate": self.schedule.rate(self.samples),
        }
        self._open_window()
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the next step depends on; call it right after `look`."""
        return {
            "model": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": asdict(self.schedule),
            "samples": self.samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of `state_dict`; the next step is the one that would have followed it."""
        self.sae.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule = Schedule(**state["schedule"])
        self.samples = state["samples"]
        self._open_window()

    def _loss(self, x: torch.Tensor, rows: int) -> SAELoss:
        return self.sae.loss(x, rows, None if self.workers == 1 else self._join)

    def _open_window(self) -> None:
        self.window_samples = 0
        self._active = torch.zeros_like(self.sae.silent)
        self._squares = torch.zeros((), dtype=torch.float64, device=self.sae.silent.device)


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
