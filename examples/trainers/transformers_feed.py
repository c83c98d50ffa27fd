"""A small network trained with the Trainer of transformers on the rows selected for each epoch.

It differs in two lines from transformers_plain.py. DATA also holds the pool of its training images:

coevo-ray ingest DATA/train --out DATA/pool
python examples/trainers/transformers_feed.py DATA OUT
torchrun --nproc-per-node 2 examples/trainers/transformers_feed.py DATA OUT

On CPUs, several processes need ACCELERATE_USE_CPU=true; Accelerate trains each alone otherwise.

Given again, it goes on after the batch of the last checkpoint, with any number of processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import EvalPrediction, ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from coevo_ray import Feed

EPOCHS, BATCH = 4, 64
PIXELS = v2.Compose([v2.ToImage(), v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True)])


def collate(rows: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """What the network takes."""
    images, labels = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def accuracy(predicted: EvalPrediction) -> dict[str, float]:
    """The accuracy."""
    return {"accuracy": float((predicted.predictions.argmax(axis=1) == predicted.label_ids).mean())}


if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    network = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=10, downsample_in_first_stage=False))
    trainer = Trainer(
        model=network,
        args=TrainingArguments(
            str(out),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=3e-3,
            save_steps=4,
            remove_unused_columns=False,
            report_to="none",
        ),
        data_collator=collate,
        train_dataset=ImageFolder(data / "train", PIXELS),
        eval_dataset=ImageFolder(data / "test", PIXELS),
        compute_metrics=accuracy,
    )
    Feed.of_images(data / "pool", PIXELS, global_batch=BATCH).loader(EPOCHS, keep=0.5).attach(trainer)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out) if out.exists() else None)
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.3f}")
