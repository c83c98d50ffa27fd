"""Chooses the input of a training: a pool's samples, a column of vectors, or its targets."""

from __future__ import annotations

from typing import Any, TypeVar

from coevo_ray.config import LearningConfig
from coevo_ray.config.pool import IMAGE, TEXT, VECTOR
from coevo_ray.config.training import TrainCompute
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.modality import find_modality
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.store.row_table import RowTable, vector_columns
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.inputs.texts import SCHEME, TextShape
from coevo_ray.training.inputs.vectors import VectorShape
from coevo_ray.training.models import HEADS, LINEAR, is_users

ConfigT = TypeVar("ConfigT", bound=LearningConfig)
TARGETS = "targets"
# Settings that say something about images alone, and about texts alone.
_OF_IMAGES = ("stem", "image_size", "augment", "flip", "min_crop", "colour")
_OF_TEXTS = ("max_tokens",)
# For encoders that are fine-tuned (Devlin et al. 2019, appendix A.3), where the settings have none.
_FINE_TUNING = {"optimizer": "adamw", "learning_rate": 5e-5, "warm_up": 0.1, "weight_decay": 0.01, "clip_norm": 1.0}

# For heads on vectors, chosen by benchmarks.vector_heads.
_FOR_HEADS = {"learning_rate": 0.03, "weight_decay": 8e-3}
# A step of a head takes less time than several workers take to average its gradients.
_ONE_WORKER = {"compute": TrainCompute(cpus=0.5)}


def settled(config: ConfigT, modality: str, said: JsonObject | None = None) -> ConfigT:
    """Says what a training takes, where its settings leave that to the pool.

    Args:
        config: settings of the training.
        modality: of the pool's samples.
        said: settings of the network that it starts from, or None.

    Returns:
        The settings, with `model` and `features` as they are used. A head has one worker where they do not say.

    Raises:
        UsageError: the model does not take what the pool or `features` give, or a setting is for images.
    """
    features = config.features
    named = config.model if said is not None or "model" in config.model_fields_set else None
    if features is None:
        features = _features_of(modality, named, said or {})
    if features is None:
        _check_samples(config, modality)
        return config if modality == IMAGE else _with(config, _FINE_TUNING)
    if named is not None and named not in HEADS and not is_users(named):
        raise UsageError(
            f"the model {named} does not take the vectors of {features}",
            f"take one of {', '.join(HEADS)}, or leave features out",
        )
    _refuse(config, (*_OF_IMAGES, *_OF_TEXTS), f"the vectors of {features}")
    config = _with(config.model_copy(update={"features": features, "model": named or LINEAR}), _ONE_WORKER)
    return _with(config, _FOR_HEADS) if config.optimizer == "sgd" else config


def _with(config: ConfigT, defaults: dict[str, Any]) -> ConfigT:
    """Settings with other defaults where they were not set."""
    return config.model_copy(update={k: v for k, v in defaults.items() if k not in config.model_fields_set})


def _features_of(modality: str, model: str | None, said: JsonObject) -> str | None:
    """The vectors that a training takes where its settings do not say; None for the samples."""
    if said.get("input", {}).get("kind") == VECTOR:
        return said.get("features")
    if modality == VECTOR:
        return VECTOR
    if model in HEADS or (modality != IMAGE and model is None):
        return TARGETS
    return None


def _check_samples(config: LearningConfig, modality: str) -> None:
    """Checks that a network for samples takes those of the pool."""
    model, plural = config.model, find_modality(modality).plural
    of_texts = model.startswith(SCHEME)
    if modality != IMAGE and not (of_texts and modality == TEXT):
        raise UsageError(
            f"the model {model} does not take {plural}",
            f"set features: {TARGETS}, or name a column of vectors, with model {' or '.join(HEADS)}",
        )
    if modality == IMAGE and of_texts:
        raise UsageError(f"the model {model} takes texts, the pool holds images", "take a model for images")
    _refuse(config, _OF_TEXTS if modality == IMAGE else _OF_IMAGES, plural)


def _refuse(config: LearningConfig, names: tuple[str, ...], taken: str) -> None:
    if wrong := [name for name in names if name in config.model_fields_set]:
        raise UsageError(f"{', '.join(wrong)} is set, and the training takes {taken}", "leave it out")


def open_input(config: LearningConfig, pool: Pool, targets: RowTable | None) -> InputSource:
    """Opens what a training takes.

    Args:
        config: as `settled` returns it.
        pool: its samples, and columns of vectors.
        targets: the pool's targets, or None.

    Raises:
        UsageError: features are targets and there are none.
        InputError: the targets are not of this pool alone, or the pool has no such column.
    """
    if config.features is None and pool.modality == TEXT:
        shape = TextShape.of_model(config.model, config.max_tokens)
        return InputSource(shape, pool.location, "pool", TEXT, pool.manifest.identity)
    if config.features is None:
        return images_of(pool, config.image_size, config.stem)
    if config.features == TARGETS:
        if targets is None:
            raise UsageError(
                f"{config.model} takes the pool's targets, but none are given",
                "give targets, or set features to a column of vectors of the pool",
            )
        require_alone(targets, pool)
        return _vectors(targets, "targets", "target")
    if config.features not in pool.features:
        have = ", ".join(pool.features) or "none"
        raise InputError(
            f"the pool at {pool.location} has no column {config.features!r} of vectors (have {have})",
            f"name one that it has, or set features: {TARGETS}",
        )
    return _vectors(pool, "pool", config.features)


def images_of(pool: Pool, image_size: int, stem: str = "standard") -> InputSource:
    """The images of a pool, scaled to squares of `image_size` pixels."""
    return InputSource(ImageShape(image_size, stem), pool.location, "pool", IMAGE, pool.manifest.identity)


def _vectors(table: RowTable, kind: str, column: str) -> InputSource:
    dim = vector_columns(table)[column]
    return InputSource(VectorShape(dim), table.location, kind, column, table.manifest.identity)


def made_with(config: LearningConfig, source: InputSource) -> dict[str, Any]:
    """Settings by which a network can be made again, for `model.json`."""
    features = {} if config.features is None else {"features": config.features}
    return {"model": config.model, **source.shape.settings(), **features}
