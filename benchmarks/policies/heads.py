"""Heads on frozen features under a policy: the same head for several seeds at once, each with a ledger of its own."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.policies.data import Setting
from coevo_ray.core.arrays import BoolArray
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import KeptShares, Policy, make_policy

# Part of `Setting.seconds` that each input of a policy costs.
_SOURCES = {
    **dict.fromkeys(("factor", "representativeness", "diversity"), "factors"),
    **dict.fromkeys(("doubt", "irreducible"), "doubt"),
    **dict.fromkeys(("copies", "copy"), "copies"),
}
BATCH = 256
WARM_UP = 0.1


@dataclass(frozen=True)
class Head:
    """A head and how it is trained.

    Attributes:
        hidden: units of the hidden layer, 0 for a linear head.
        epochs: epochs of the full schedule.
        learning_rate: peak; warmed up over a tenth of all visits, then half a cosine down to 0.
        weight_decay: L2.
    """

    hidden: int = 256
    epochs: int = 20
    learning_rate: float = 0.1
    weight_decay: float = 5e-4


def train_heads(
    setting: Setting,
    policy: str,
    options: dict[str, Any],
    keep: KeptShares,
    head: Head,
    seeds: list[int],
    held_out: BoolArray | None = None,
) -> dict[str, Any]:
    """Trains one head for each seed.

    Args:
        setting: the pool.
        policy, options: see `make_policy`.
        keep: kept shares.
        head: what is trained.
        seeds: of initialisation, subsets and order.
        held_out: bool[n], rows that no subset gets and that accuracy is measured on; None for the test rows.

    Returns:
        `accuracy`: of each seed, mean over classes of the share of test rows that is classified rightly; `seconds` for
        all seeds, `selection_seconds` of them, and `preparation_seconds`, once for all seeds, of making what the policy
        looks at; `visits` of a seed, counted.
    """
    started = time.perf_counter()
    ledgers = [make_ledger(setting, policy, options, keep, head, seed, held_out) for seed in seeds]
    rule = ledgers[0].policy
    network = _Heads(setting, head, seeds)
    x, y = torch.from_numpy(setting.features), torch.from_numpy(setting.labels)
    planned = planned_visits(rule, keep, head.epochs, len(x) if held_out is None else int((~held_out).sum()))
    orders = [np.random.default_rng([seed, 1]) for seed in seeds]
    visits, selecting = 0, 0.0
    for epoch in range(len(planned)):
        begun = time.perf_counter()
        subsets = [ledger.select(epoch) for ledger in ledgers]
        selecting += time.perf_counter() - begun
        mixed = [order.permutation(len(subset.row_ids)) for order, subset in zip(orders, subsets, strict=True)]
        rows = torch.from_numpy(np.stack([s.row_ids[m] for s, m in zip(subsets, mixed, strict=True)]))
        weights = [
            np.ones(len(m), np.float32) if s.weights is None else s.weights[m]
            for s, m in zip(subsets, mixed, strict=True)
        ]
        weight = torch.from_numpy(np.stack(weights))
        losses, entropies = torch.empty(rows.shape), torch.empty(rows.shape)
        for first in range(0, rows.shape[1], BATCH):
            part = slice(first, first + BATCH)
            progress = (visits + first) / sum(planned)
            inside = rows[:, part]
            losses[:, part], entropies[:, part] = network.step(x[inside], y[inside], weight[:, part], progress)
        visits += rows.shape[1]
        begun = time.perf_counter()
        for seed, ledger in enumerate(ledgers):
            if rule.needs_losses:
                ledger.report_losses(epoch, rows[seed].numpy(), losses[seed].numpy(), entropies[seed].numpy())
            ledger.commit(epoch)
        selecting += time.perf_counter() - begun
    return {
        "accuracy": network.accuracy(setting, held_out),
        "seconds": time.perf_counter() - started,
        "selection_seconds": selecting,
        "preparation_seconds": preparation_seconds(setting, rule),
        "visits": visits,
    }


def preparation_seconds(setting: Setting, rule: Policy) -> float:
    """Seconds spent before the training on the inputs of a policy: factors, copies, probes."""
    sources = {_SOURCES[name] for name in rule.needs | rule.uses if name in _SOURCES}
    return sum(setting.seconds[source] for source in sources)


def make_ledger(
    setting: Setting,
    policy: str,
    options: dict[str, Any],
    keep: KeptShares,
    head: Head,
    seed: int,
    held_out: BoolArray | None = None,
) -> SelectionLedger:
    """A ledger with all that is known of a setting's rows."""
    rows = len(setting.labels)
    ledger = SelectionLedger(
        rows=rows,
        candidates=np.ones(rows, dtype=bool) if held_out is None else ~held_out,
        policy=make_policy(policy, **options),
        keep=keep,
        epochs=head.epochs,
        seed=seed,
    )
    ledger.set_scores(setting.representativeness, setting.diversity, setting.factor)
    ledger.set_labels(setting.labels)
    ledger.set_doubt(setting.doubt, setting.irreducible)
    ledger.set_copies(setting.copies, setting.copy)
    return ledger


class _Heads(nn.Module):
    """One head for each seed, as stacked matrices."""

    def __init__(self, setting: Setting, head: Head, seeds: list[int]) -> None:
        super().__init__()
        self.head = head
        classes = int(max(setting.labels.max(), setting.test_labels.max())) + 1
        sizes = [setting.features.shape[1], *([head.hidden] if head.hidden else []), classes]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for into, out in itertools.pairwise(sizes):
            layers = []
            for seed in seeds:
                torch.manual_seed(seed)
                layers.append(nn.init.kaiming_uniform_(torch.empty(into, out), a=math.sqrt(5)))
            self.weights.append(torch.stack(layers))
            self.biases.append(torch.zeros(len(seeds), 1, out))
        self.optimizer = torch.optim.SGD(
            self.parameters(), lr=head.learning_rate, momentum=0.9, nesterov=True, weight_decay=head.weight_decay
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[seeds, b, d] -> logits float[seeds, b, classes]."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x if i == 0 else x.relu(), weight)
        return x

    def step(
        self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, progress: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of every head; returns losses and entropies of the predictions, float[seeds, b]."""
        self.optimizer.param_groups[0]["lr"] = cosine_rate(self.head.learning_rate, progress)
        logits = self(x)
        logs = logits.log_softmax(dim=2)
        losses = -logs.gather(2, y[:, :, None]).squeeze(2)
        self.optimizer.zero_grad()
        ((losses * weight).mean(dim=1).sum()).backward()
        self.optimizer.step()
        with torch.no_grad():
            return losses.detach(), -(logs.exp() * logs).sum(dim=2)

    @torch.inference_mode()
    def accuracy(self, setting: Setting, held_out: BoolArray | None = None) -> list[float]:
        """Mean over classes on the test rows, or on held-out training rows, for each seed."""
        features, y = setting.test_features, setting.test_labels
        if held_out is not None:
            features, y = setting.features[held_out], setting.labels[held_out]
        x = torch.from_numpy(features)
        predicted = self(x.expand(len(self.weights[0]), -1, -1)).argmax(dim=2).numpy()
        return [per_class(p == y, y) for p in predicted]


def cosine_rate(peak: float, progress: float) -> float:
    """The learning rate at a share of all visits: warmed up, then half a cosine down."""
    if progress < WARM_UP:
        return max(peak * progress / WARM_UP, 1e-6)
    return max(peak * 0.5 * (1.0 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0))), 1e-6)


def per_class(right: npt.NDArray[np.bool_], y: npt.NDArray[np.int64]) -> float:
    """Mean over classes of the share of rows that are right."""
    return float(np.mean([right[y == label].mean() for label in np.unique(y)]))
