"""Weak/strong consistency with the labelled loss: FixMatch (arXiv 2001.07685), on tensors alone.

Of each unlabelled row's weak view a teacher predicts the class. Where it is sure enough, that class is the target of
the strong view's cross-entropy (equation 4); the labelled rows' weak views have their own cross-entropy (equation 3).
No gradient goes through the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig
from coevo_ray.training.feed.batch import joined, laid_out

# Of the running mean prediction. FreeMatch takes 0.999, for trainings of a million steps.
_MOMENTUM = 0.99


@dataclass(frozen=True)
class Targets:
    """A teacher's predictions for some rows.

    Attributes:
        classes: int64[b], its best class.
        confidence: float32[b], that class's probability.
        chosen: bool[b], whether it is sure enough.
    """

    classes: torch.Tensor
    confidence: torch.Tensor
    chosen: torch.Tensor


@dataclass(frozen=True)
class StepLosses:
    """Per-row losses of one step, not yet weighted.

    Attributes:
        labelled: float32[b].
        consistency: float32[u], 0 where the target was not chosen; None without unlabelled rows.
        targets: of the unlabelled rows; None without any.
    """

    labelled: torch.Tensor
    consistency: torch.Tensor | None = None
    targets: Targets | None = None


class PseudoTargets:
    """Turns a teacher's predictions into targets.

    With a fixed threshold a prediction counts from `threshold` on. With one for each class it is `threshold` times the
    class's running mean probability over the largest such (FreeMatch, arXiv 2205.07246, equations 7 and 8): lower for
    classes that are hard to learn, which are rarely predicted.

    Args:
        config: the rule.
        classes: number of classes.
        device: of the predictions.
        total: adds up a tensor over all workers, in place; None for one worker.

    Attributes:
        means: float64[classes + 1], the running mean probability of each class, and how many steps it is made of.
    """

    def __init__(
        self,
        config: SemiTrainConfig,
        classes: int,
        device: torch.device,
        total: Callable[[torch.Tensor], object] | None = None,
    ) -> None:
        self._threshold, self._by_class = config.threshold, config.thresholds == "class"
        self._total = total
        self.means = torch.zeros(classes + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def choose(self, logits: torch.Tensor, weights: torch.Tensor) -> Targets:
        """Targets of a step, after the running mean has taken it in.

        Args:
            logits: float[b, classes] of weak views.
            weights: float[b], 0 for padding.

        Returns:
            A target for each row, chosen where its confidence reaches the threshold.
        """
        predicted = logits.double().softmax(dim=1)
        confidence, classes = predicted.max(dim=1)
        if not self._by_class:
            return Targets(classes, confidence.float(), confidence >= self._threshold)
        self._take_in(predicted, weights)
        means = self.means[:-1]
        thresholds = self._threshold * means / means.max()
        return Targets(classes, confidence.float(), confidence >= thresholds[classes])

    def _take_in(self, predicted: torch.Tensor, weights: torch.Tensor) -> None:
        real = (weights > 0).double()
        sums = torch.cat([real @ predicted, real.sum()[None]])
        if self._total is not None:
            self._total(sums)
        # The first steps count alike: a start from equal shares would take a hundred steps to forget.
        self.means[-1] += 1
        new = (1 / self.means[-1]).clamp(min=1 - _MOMENTUM)
        self.means[:-1].lerp_(sums[:-1] / sums[-1], new)


def step_losses(
    network: nn.Module,
    teacher: nn.Module,
    rule: PseudoTargets,
    labelled: torch.Tensor,
    labels: torch.Tensor,
    unlabelled: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> StepLosses:
    """Computes the losses of one step (FixMatch, arXiv 2001.07685, equations 3 and 4).

    The network makes one forward pass, the teacher one without gradient.

    A network that is its own teacher predicts in training mode, as in FixMatch's code: batch norm then goes by the weak
    views at hand. Its running statistics lag behind weights that change fast, and are mostly those of strong views;
    predictions by them are surely wrong for many of the first steps.

    Args:
        network: in training mode, or while its backbone is frozen in evaluation mode; samples -> logits
            float[b, classes].
        teacher: the same network, or averaged weights, which predict in evaluation mode.
        rule: chooses the predictions that become targets.
        labelled: weak views of b samples, as the network takes them.
        labels: int64[b].
        unlabelled: weak views of u samples, strong views of the same rows, and weights float[u], 0 for padding.
    """
    if unlabelled is None:
        return StepLosses(_cross_entropy(network(labelled), labels))
    weak, strong, weights = unlabelled
    # Of a single image there are no statistics: batch norm refuses it behind the last pooling.
    training = teacher is network and network.training and len(weak) > 1
    targets = rule.choose(_predicted(teacher, weak, training=training), weights)
    logits = network(laid_out(joined(labelled, strong)))
    rows = len(labels)
    consistency = consistency_losses(logits[rows:], targets)
    return StepLosses(_cross_entropy(logits[:rows], labels), consistency, targets)


def consistency_losses(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Computes the cross-entropy of strong views with their targets (FixMatch, arXiv 2001.07685, equation 4).

    It is 0 where the target was not chosen.

    Args:
        logits: float[b, classes].
        targets: of the same rows.

    Returns:
        float32[b], nats.
    """
    return _cross_entropy(logits, targets.classes) * targets.chosen


def _cross_entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.float(), classes, reduction="none")


@torch.no_grad()
def _predicted(teacher: nn.Module, samples: torch.Tensor, *, training: bool) -> torch.Tensor:
    before = teacher.training
    teacher.train(training)
    logits: torch.Tensor = teacher(laid_out(samples))
    teacher.train(before)
    return logits
