"""Settings of training: what every objective shares, and each objective's own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from coevo_ray.config.base import Compute, Model, Share
from coevo_ray.core.selection.policies import KeptShares, Policy, make_policy
from coevo_ray.errors import UsageError


class TrainCompute(Compute):
    """Resources of a training, and files that it writes besides its result."""

    checkpoint_steps: int = Field(
        1000, ge=0, description="Steps between checkpoints within an epoch; 0: only at the end of epochs."
    )
    tensorboard: bool = Field(False, description="Also write every epoch's figures as TensorBoard event files.")
    trackers: tuple[str, ...] = Field(
        (),
        description="Report every epoch's figures to tensorboard, mlflow, wandb, or your own package.module:Class. "
        "MLflow and Weights & Biases take servers, projects and keys from their own variables.",
    )

    @property
    def all_trackers(self) -> tuple[str, ...]:
        """Names of the trackers, TensorBoard among them where either setting asks for it."""
        return tuple(dict.fromkeys([*(["tensorboard"] if self.tensorboard else []), *self.trackers]))


# Settings that the manifests of version 0.1.0 lack, with the values that change nothing.
_OFF: dict[str, Any] = {"features": None, "max_tokens": None, "freeze_epochs": 0, "layer_decay": 1.0}


class LearningConfig(Model):
    """Settings of every objective: network, optimizer, schedule, precision."""

    model: str = Field(
        "small_cnn",
        min_length=1,
        description="For images small_cnn, torchvision:NAME or timm:NAME; for vectors linear (default) or mlp; for "
        "both also package.module:function; for texts hf:MODEL_OR_PATH#POOLING, which is fine-tuned.",
    )
    features: str | None = Field(
        None,
        min_length=1,
        description="Train on vectors instead of the samples: targets, or the name of a column of the pool. Default: "
        "the samples; for texts without a text model, the targets.",
    )
    stem: Literal["standard", "small"] = Field(
        "standard", description="small: a 3x3 first layer of stride 1 and no max-pool, in ResNets and DenseNets."
    )
    max_tokens: int | None = Field(
        None, ge=2, description="Maximum tokens per text; the rest is dropped. Default: what the model takes."
    )
    image_size: int = Field(32, ge=4, description="Pixels of the square network input.")
    epochs: int = Field(10, ge=1, description="Epochs of the full schedule.")
    batch_rows: int = Field(64, ge=1, description="Rows of a global batch, over all workers.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with Nesterov's momentum, or AdamW.")
    learning_rate: float = Field(0.05, gt=0, description="Peak of the schedule.")
    schedule: Literal["onecycle", "cosine", "constant"] = Field(
        "onecycle", description="Course of the learning rate after the warm-up, by steps."
    )
    warm_up: float = Field(0.3, ge=0, lt=1, description="Share of all steps in which the learning rate rises.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD, or AdamW's first beta.")
    weight_decay: float = Field(5e-4, ge=0, description="L2 on the weights; with AdamW decoupled.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="bfloat16 and float16 compute under autocast; float16 is for GPUs, with scaled gradients.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay per step of averaged weights, which are also evaluated and saved.",
    )
    clip_norm: float | None = Field(None, gt=0, description="Clip gradients to this norm.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, order and augmentation.")
    compute: TrainCompute = TrainCompute()

    def content(self) -> dict[str, Any]:
        """As `Model.content`, without what is off."""
        content = super().content()
        return {k: v for k, v in content.items() if not (k in _OFF and v == _OFF[k])}

    @model_validator(mode="after")
    def _check_precision(self) -> LearningConfig:
        if self.precision == "float16" and self.compute.gpus == 0:
            raise ValueError("precision float16 needs a GPU: set compute.gpus, or take bfloat16")
        return self


class ClassifierConfig(LearningConfig):
    """Training of a classifier: the network that it starts from, and how fast that one's layers learn."""

    init: str | None = Field(
        None,
        min_length=1,
        description="Folder of a trained network, of train --objective targets or of another training, whose "
        "backbone is the start. Its model, stem and image_size are the defaults.",
    )
    freeze_epochs: int = Field(0, ge=0, description="Epochs at the start in which only the classifier learns.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning rate of a layer over that of the layer above it; 1: one rate for all."
    )

    def content(self) -> dict[str, Any]:
        """As `Model.content`, without `init`, which is among the manifest's inputs, and without what is off."""
        return {k: v for k, v in super().content().items() if k != "init"}


class TrainConfig(ClassifierConfig):
    """Training on each epoch's subset."""

    augment: Literal["none", "shift", "shift_flip"] = Field("none", description="Random shifts, or also mirror images.")
    labels: Literal["pool", "gate"] = Field("gate", description="Train on all of the pool's labels or the gate's.")
    policies: tuple[str, ...] = Field(
        ("factors",), min_length=1, description="One training per policy; package.module:Class for your own."
    )
    policy_options: dict[str, dict[str, Any]] = Field({}, description="Policy -> its own options.")
    class_power: float | None = Field(
        None, ge=0, le=1, description="Class quotas in proportion to size ** this: 0 is equal. Default: no quotas."
    )
    unbiased: bool = Field(False, description="Weight rows by the inverse of their selection probability.")
    keep: Share = Field(0.5, description="Kept share: rows of an epoch over all training rows.")
    keep_last: Share | None = Field(None, description="Kept share of the last epoch; linear between. Default: as keep.")
    full_tail: float = Field(0.0, ge=0, le=1, description="Share of the epochs, at the end, that use all rows.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Label smoothing: share of a label that all classes divide."
    )
    compute: TrainCompute = TrainCompute(actors=2, cpus=0.5)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if len(set(self.policies)) < len(self.policies):
            raise ValueError(f"policies are named twice: {list(self.policies)}")
        if unknown := self.policy_options.keys() - set(self.policies):
            raise ValueError(f"policy_options for {sorted(unknown)}, policies are {list(self.policies)}")
        for policy in self.policies:
            try:
                self.make_policy(policy)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return self

    def make_policy(self, name: str) -> Policy:
        """One of the policies, with its options.

        Raises:
            UsageError: the name is unknown, or an option is.
        """
        options = self.policy_options.get(name, {})
        if general := sorted(options.keys() & {"class_power", "unbiased"}):
            raise UsageError(f"policy {name}: {', '.join(general)} is for all policies", "set it under train: itself")
        return make_policy(name, class_power=self.class_power, unbiased=self.unbiased, **options)

    @property
    def shares(self) -> KeptShares:
        """The kept share of every epoch."""
        return KeptShares(self.keep, self.keep_last, self.full_tail)


class TargetTrainConfig(LearningConfig):
    """Training on stored targets: a fresh network regresses them, without labels (CoOpt)."""

    head: Literal["linear", "mlp"] = Field("linear", description="Map from the network's features to targets.")
    centre: bool = Field(True, description="Subtract the targets' mean, which says nothing about a row.")
    contrast: float = Field(
        0.2,
        ge=0,
        description="Weight of the contrast with the targets of the batch's other rows, beside the cosine.",
    )
    views: int = Field(1, ge=1, le=2, description="Augmented views of a row in each epoch; two take twice as long.")
    min_crop: Share = Field(0.7, description="Smallest share of an image's area in a view; 1 does not crop.")
    flip: bool = Field(True, description="Mirror half of the views.")
    colour: float = Field(0.25, ge=0, le=2, description="Strength of the views' colour jitter; 0 leaves colours.")
    epochs: int = Field(40, ge=1, description="Passes over the training rows.")
    batch_rows: int = Field(128, ge=2, description="Rows of a global batch, over all workers.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="SGD with Nesterov's momentum, or AdamW.")
    learning_rate: float = Field(0.002, gt=0, description="Peak of the schedule.")
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of all steps in which the learning rate rises.")
    weight_decay: float = Field(0.05, ge=0, description="L2 on the weights; with AdamW decoupled.")
    evaluate_every: int = Field(0, ge=0, description="Epochs between probes; 0: only at the end.")
    probe_rows: int = Field(50_000, ge=1, description="Maximum labelled rows per split that the probes read.")
    compute: TrainCompute = TrainCompute(cpus=1)


class SemiTrainConfig(ClassifierConfig):
    """Training on a few labels, with consistency between views of all other rows (FixMatch, arXiv 2001.07685)."""

    mu: int = Field(3, ge=1, description="Unlabelled rows of a global batch for each of its batch_rows labelled ones.")
    thresholds: Literal["class", "fixed"] = Field(
        "class",
        description="One confidence threshold for each class, lower where predictions are rare (FreeMatch), or one for "
        "all.",
    )
    threshold: float = Field(0.8, gt=0, le=1, description="Confidence from which a prediction becomes a target.")
    consistency_weight: float = Field(1.0, ge=0, description="Weight of the unlabelled rows' loss; 0 ignores them.")
    ramp_epochs: float = Field(0.0, ge=0, description="Epochs in which the consistency weight rises from 0.")
    teacher: Literal["network", "ema"] = Field(
        "network", description="Teacher that predicts targets: the network itself, or its averaged weights (ema)."
    )
    flip: bool = Field(True, description="Mirror half of the views.")
    strength: float = Field(1.0, ge=0, le=2, description="Strength of strong views.")
    labelled_too: bool = Field(True, description="Use labelled rows for consistency too.")
    pseudo_weight: Literal["confidence", "one"] = Field(
        "confidence", description="Weight of a row with a pseudo-label from the gate."
    )
    least_steps: int = Field(
        300, ge=0, description="Minimum steps of the training: with few rows an epoch is more than one pass over them."
    )
    epoch_steps: int | None = Field(
        None, ge=1, description="Steps of an epoch. Default: a pass over the unlabelled rows, more for least_steps."
    )
    compute: TrainCompute = TrainCompute(cpus=1)

    @model_validator(mode="after")
    def _check_teacher(self) -> SemiTrainConfig:
        if self.teacher == "ema" and self.ema is None:
            raise ValueError("teacher ema needs averaged weights: set ema, for instance to 0.99")
        return self
