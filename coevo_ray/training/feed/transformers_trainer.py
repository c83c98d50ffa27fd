"""The feed's loader in the Trainer of transformers."""

from __future__ import annotations

from typing import Any

from transformers import Trainer, TrainerCallback

from coevo_ray.errors import UsageError


def attach(loader: Any, trainer: Trainer) -> None:
    """See `FeedLoader.attach`, which this is for: `loader` is that loader."""
    if loader.ledger.policy.needs_losses:
        raise UsageError(
            f"policy {loader.ledger.policy.name} needs each row's loss, which the Trainer does not report",
            "take a policy without losses, such as rotation or factors, or a training loop of your own",
        )
    steps = {-(-rows // loader.feed.global_batch) for rows in loader.planned}
    if len(steps) > 1:
        raise UsageError(
            f"epochs have {min(steps)} to {max(steps)} batches, the Trainer expects equal numbers",
            "keep the same share in all epochs",
        )
    loader.names_of_model = {"label": "labels", "image": getattr(trainer.model, "main_input_name", "image")}
    trainer.get_train_dataloader = lambda: loader
    trainer.add_callback(_Position(loader))


class _Position(TrainerCallback):  # type: ignore[misc]  # types of transformers are not read
    """Brings the loader to where a checkpoint was made: the Trainer names the epoch of a first one only to torch's own.

    Its number of batches goes on to `accelerate.skip_first_batches`, which takes the loader's `dataset`.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves behind the batches that are done."""
        accumulated = max(1, args.gradient_accumulation_steps)
        updates = -(-len(self._loader) // accumulated)
        epoch, done = divmod(state.global_step, updates)
        if epoch < self._loader.epochs:
            self._loader.seek(epoch, 0 if args.ignore_data_skip else done * accumulated)
