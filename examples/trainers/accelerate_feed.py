"""A small network trained with Accelerate on the rows selected for each epoch.

It differs in two lines from accelerate_plain.py. DATA also holds the pool of its training images:

coevo-ray ingest DATA/train --out DATA/pool
python examples/trainers/accelerate_feed.py DATA OUT
torchrun --nproc-per-node 2 examples/trainers/accelerate_feed.py DATA OUT

On CPUs, several processes need ACCELERATE_USE_CPU=true; Accelerate trains each alone otherwise.

Given again, it goes on after the batch of the last checkpoint, with any number of processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, skip_first_batches
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from coevo_ray import Feed

EPOCHS, BATCH = 4, 64
PIXELS = v2.Compose([v2.ToImage(), v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True)])


class Progress:
    """Position of the training, as part of its checkpoints."""

    epoch = batches = 0

    def state_dict(self) -> dict[str, int]:
        """Its numbers."""
        return {"epoch": self.epoch, "batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes the numbers of a checkpoint."""
        self.epoch, self.batches = state["epoch"], state["batches"]


def make_network() -> nn.Module:
    """Two convolutions and a linear layer."""
    first = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(512, 10))


def main(data: Path, out: Path) -> None:
    """Trains, and prints the accuracy."""
    torch.manual_seed(0)
    accelerator, network, progress = Accelerator(), make_network(), Progress()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    loader = Feed.of_images(data / "pool", PIXELS, global_batch=BATCH).loader(EPOCHS, ["image", "label"], keep=0.5)
    test = DataLoader(ImageFolder(data / "test", PIXELS), batch_size=256)
    network, optimizer, loader, test = accelerator.prepare(network, optimizer, loader, test)
    accelerator.register_for_checkpointing(progress)
    if (out / "random_states_0.pkl").exists():
        accelerator.load_state(out)

    for epoch in range(progress.epoch, EPOCHS):
        network.train()
        loader.set_epoch(epoch)
        for images, labels in skip_first_batches(loader, progress.batches):
            optimizer.zero_grad()
            accelerator.backward(cross_entropy(network(images), labels))
            optimizer.step()
            progress.batches += 1
            if progress.batches % 4 == 0:
                accelerator.save_state(out)
        progress.epoch, progress.batches = epoch + 1, 0

    network.eval()
    right = []
    for images, labels in test:
        with torch.no_grad():
            right.append(accelerator.gather_for_metrics(network(images).argmax(dim=1) == labels))
    accelerator.print(f"accuracy {torch.cat(right).float().mean():.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
