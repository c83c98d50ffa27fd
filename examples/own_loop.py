"""A training loop of your own on Ray Train, fed with the rows that each epoch selects.

python examples/own_loop.py runs/digits/pool runs/own_loop

The feed takes five lines of it, which are marked. With GPUs: `ScalingConfig(use_gpu=True)` below and nothing else.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from coevo_ray import Feed, Pool
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import make_policy
from coevo_ray.training.models import SmallCNN

EPOCHS, BATCH = 8, 64


def loop(settings: dict[str, Any]) -> None:
    """Runs on every worker. Each of them holds a ledger of its own: selection is a function of its seed alone."""
    pool = Pool.open(settings["pool"])
    candidates = (pool.splits() == 0) & (pool.labels() >= 0)
    policy = make_policy("rotation")
    ledger = SelectionLedger(rows=len(pool), candidates=candidates, policy=policy, keep=0.5, epochs=EPOCHS, seed=0)
    pixels = v2.Compose(
        [v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    )
    workers = ray.train.get_context().get_world_size()
    torch.manual_seed(0)
    network = ray.train.torch.prepare_model(SmallCNN(settings["classes"]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)

    feed = Feed.of_images(pool, pixels, global_batch=BATCH)  # 1
    for epoch in range(EPOCHS):
        for batch in feed.epoch(ledger.select(epoch)):  # 2
            losses = cross_entropy(network(batch["image"]), batch["label"], reduction="none")  # 3
            loss = (losses * batch.weights).sum() * workers / batch.global_rows  # 4: the mean over all workers' rows
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ledger.commit(epoch)  # 5

    _report(network, feed, pool)


def _report(network: torch.nn.Module, feed: Feed, pool: Pool) -> None:
    """Accuracy on the held-out rows, over all workers, and the weights."""
    network.eval()
    right = torch.zeros(1, device=feed.device)
    test = pool.test_ids()
    with torch.no_grad():
        for batch in feed.epoch(Subset(0, test)):
            right += ((network(batch["image"]).argmax(dim=1) == batch["label"]) * batch.weights).sum()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(right)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder) / "network.pt")
        first = ray.train.get_context().get_world_rank() == 0
        checkpoint = Checkpoint.from_directory(folder) if first else None
        ray.train.report({"accuracy": right.item() / len(test)}, checkpoint=checkpoint)


if __name__ == "__main__":
    place, out = sys.argv[1:]
    trainer = TorchTrainer(
        loop,
        train_loop_config={"pool": str(Path(place).absolute()), "classes": Pool.open(place).classes},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(Path(out).absolute()), name="own_loop"),
    )
    print(f"accuracy {trainer.fit().metrics['accuracy']:.3f}")
