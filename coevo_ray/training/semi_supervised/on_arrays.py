"""Semi-supervised training of a small network on images in memory: no Ray, no files."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Float32Array, Int64Array, UInt8Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.training.feed.images import scale_pixels
from coevo_ray.training.feed.paired import ArraySource, PairedFeed, Rows
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.loop.descent import Descent
from coevo_ray.training.loop.fine_tuning import thaw
from coevo_ray.training.loop.schedules import Progress, rate_factor
from coevo_ray.training.semi_supervised.step import (
    FIGURES,
    SemiRows,
    SemiSupervisedStep,
    figures,
    ramp_factor,
)
from coevo_ray.training.start import Start, make_classifier, starting_from

_TEST_ROWS = 512


def fit_images(
    config: SettingsLike[SemiTrainConfig],
    images: UInt8Array,
    labels: Int64Array,
    classes: int,
    test: tuple[UInt8Array, Int64Array],
    *,
    known: Int64Array | None = None,
    weights: Float32Array | None = None,
    device: torch.device | str = "cpu",
    evaluate_every: int = 0,
) -> tuple[nn.Module, list[JsonObject]]:
    """Trains as `train_semi_supervised` does, in this process.

    With `consistency_weight` 0 it is supervised training on the labelled rows for as many steps: the baseline.

    Args:
        config: network, views, schedule; a dict is validated. `image_size` is that of the images.
        images: uint8[n, s, s, 3], training rows.
        labels: int64[n], -1 where a row has none.
        classes: number of classes.
        test: uint8[m, s, s, 3] images and int64[m] labels, for accuracy.
        known: int64[n], true labels for figures alone, -1 where not known; None is `labels`.
        weights: float32[n] of the labelled rows; None for ones.
        device: where it computes.
        evaluate_every: also measure accuracy after every so many epochs; 0 only after the last.

    Returns:
        The network, and an entry for each epoch: `loss`, `labelled_loss`, `consistency_loss`, `confident_share`,
        `pseudo_accuracy`, `own_accuracy`, `seconds`; where measured `accuracy`, with averaged weights `ema_accuracy`.

    Raises:
        InputError: no labels, labels of one class alone or outside the classes, or training diverged.
        UsageError: the settings are wrong, or the model is unknown.
    """
    config = as_settings(SemiTrainConfig, config, "train")
    config, start = starting_from(config.model_copy(update={"image_size": images.shape[1]}))
    rows = SemiRows(
        labels,
        np.ones(len(labels), np.float32) if weights is None else weights,
        np.arange(len(labels), dtype=np.int64),
        labels if known is None else known,
        classes,
    )
    rows.check()
    training = _ArrayTraining(config, rows, images, torch.device(device), start)
    history: list[JsonObject] = []
    for epoch in range(config.epochs):
        entry = training.train_epoch(epoch)
        if epoch + 1 == config.epochs or (evaluate_every and (epoch + 1) % evaluate_every == 0):
            entry |= training.measure(*test)
        history.append(entry)
    return training.network.eval(), history


class _ArrayTraining:
    """A network, its optimizer and its images."""

    def __init__(
        self, config: SemiTrainConfig, rows: SemiRows, images: UInt8Array, device: torch.device, start: Start | None
    ) -> None:
        self._config, self._device, self._seconds = config, device, 0.0
        self._feed = _feed(config, rows, np.ascontiguousarray(images.transpose(0, 3, 1, 2)), device)
        torch.manual_seed(config.seed)
        shape = ImageShape(config.image_size, config.stem)
        network, self._tuning = make_classifier(config, shape, rows.classes, start)
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
        self.network = network
        self._frozen = self._tuning.freeze(network, 0)
        self._descent = Descent(config, network, network, device, self._tuning)
        views = ("image", shape.view_pair(config, None))
        self._step, self._progress = SemiSupervisedStep(config, rows, self._descent, device, views), Progress()
        self._progress.plan(self._feed.steps, [self._feed.steps] * (config.epochs - 1))

    def train_epoch(self, epoch: int) -> JsonObject:
        """Makes an epoch's steps; its entry in the history."""
        started, config, feed = time.monotonic(), self._config, self._feed
        sums = torch.zeros(FIGURES, dtype=torch.float64, device=self._device)
        if not (frozen := self._tuning.is_frozen(epoch)):
            thaw(self._frozen)
        self.network.train(not frozen)
        for batch in feed.epoch(epoch, 0, 1):
            self._descent.set_rate(rate_factor(config.schedule, config.warm_up, self._progress.step()))
            loss, found = self._step(batch, ramp_factor(config, epoch, batch.offset - 1, feed.steps))
            self._descent.step(loss)
            sums += found
        totals = sums.tolist()
        if not np.isfinite(totals[0]):
            raise InputError(f"the loss of epoch {epoch} is {totals[0]}: training diverged", "lower learning_rate")
        self._seconds += time.monotonic() - started
        return {"epoch": epoch, "loss": totals[0] / totals[1], **figures(totals), "seconds": self._seconds}

    def measure(self, images: UInt8Array, labels: Int64Array) -> dict[str, float]:
        """`accuracy` and, with averaged weights, `ema_accuracy`."""
        found = {"accuracy": image_accuracy(self.network, images, labels)}
        if self._descent.average is not None:
            found["ema_accuracy"] = image_accuracy(self._descent.average, images, labels)
        return found


def _feed(config: SemiTrainConfig, rows: SemiRows, images: UInt8Array, device: torch.device) -> PairedFeed:
    labelled, unlabelled, steps = rows.plan(config)

    def source(part: Rows) -> ArraySource:
        return ArraySource(images, part.cycle.batch, config.seed)

    others = None if unlabelled is None else (source(unlabelled), unlabelled)
    return PairedFeed((source(labelled), labelled), others, steps, device)


@torch.no_grad()
def image_accuracy(network: nn.Module, images: UInt8Array, labels: Int64Array) -> float:
    """Share of images that a network classifies rightly.

    Args:
        network: images float32[b, 3, s, s] -> logits; it is left as it was.
        images: uint8[m, s, s, 3].
        labels: int64[m].
    """
    device, training = next(network.parameters()).device, network.training
    network.eval()
    right = 0
    for first in range(0, len(labels), _TEST_ROWS):
        pixels = torch.from_numpy(images[first : first + _TEST_ROWS]).to(device).permute(0, 3, 1, 2).float()
        predicted = network(scale_pixels(pixels)).argmax(dim=1).cpu().numpy()
        right += int((predicted == labels[first : first + _TEST_ROWS]).sum())
    network.train(training)
    return right / len(labels)
