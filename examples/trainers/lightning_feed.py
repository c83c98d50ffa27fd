"""A small network trained with Lightning on the rows selected for each epoch.

It differs in two lines from lightning_plain.py. DATA also holds the pool of its training images:

coevo-ray ingest DATA/train --out DATA/pool
python examples/trainers/lightning_feed.py DATA OUT
torchrun --nproc-per-node 2 examples/trainers/lightning_feed.py DATA OUT

Given again, it goes on after the batch of the last checkpoint, with any number of processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from coevo_ray import Feed

EPOCHS, BATCH = 4, 64
PIXELS = v2.Compose([v2.ToImage(), v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True)])


class Classifier(LightningModule):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
        self.network = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(512, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch."""
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """The accuracy."""
        images, labels = batch
        right = (self.network(images).argmax(dim=1) == labels).float().mean()
        self.log("accuracy", right, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    loader = Feed.of_images(data / "pool", PIXELS, global_batch=BATCH).loader(EPOCHS, ["image", "label"], keep=0.5)
    test = DataLoader(ImageFolder(data / "test", PIXELS), batch_size=256)
    trainer = Trainer(
        max_epochs=EPOCHS,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        callbacks=[ModelCheckpoint(out, save_last=True, every_n_train_steps=4)],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), loader, test, ckpt_path="last")
    print(f"accuracy {float(trainer.callback_metrics['accuracy']):.3f}")
