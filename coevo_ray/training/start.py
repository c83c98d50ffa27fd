"""The start of a classifier's training: a fresh network, or the backbone of a trained one under a fresh classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from coevo_ray.config import ClassifierConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.opening import open_artifact
from coevo_ray.training.loop.fine_tuning import FineTuning
from coevo_ray.training.models import classifier_of, make_backbone, make_model
from coevo_ray.training.networks import put_weights, read_card, read_network_weights, read_settings

ConfigT = TypeVar("ConfigT", bound=ClassifierConfig)
_ALIKE = ("model", "stem", "image_size")
_WITHOUT_WEIGHTS = ("torchvision", "timm", "small_cnn")


@dataclass(frozen=True)
class Start:
    """A trained network that another training starts from; pickles.

    Attributes:
        folder: of its training.
        identity: of its manifest, for that of the new training.
        card: its card.
    """

    folder: Location
    identity: str
    card: JsonObject

    @property
    def inputs(self) -> dict[str, str]:
        """What the manifest of the new training says of it."""
        return {"init": self.identity}

    def put_into(self, network: nn.Module, classifier: str = "") -> None:
        """Loads its backbone into a network; the classifier there stays as it is.

        Raises:
            InputError: a weight is missing, or of another shape.
        """
        put_weights(network, read_network_weights(self.folder, self.card), self.folder, classifier)


def starting_from(
    config: ConfigT, init: ArtifactLike | None = None, trust: Sequence[str] = ()
) -> tuple[ConfigT, Start | None]:
    """Opens the network that a training starts from, and checks that it fits.

    Args:
        config: settings of the training, maybe with `init`.
        init: what a training returned, or its folder; instead of `config.init`.
        trust: `package.module:function` of networks of users' modules that may be made; the settings' own model is one.

    Returns:
        The settings, with the network's model, stem and image_size where they were not set; the network, or None.

    Raises:
        InputError: there is no trained network, or its weights do not fit its model.
        UsageError: both are given, model, stem or image_size are set to others, the network is of a module that nothing
            names but its folder, the model has no classifier that could be told from its backbone, or a backbone
            without weights should stay frozen.
    """
    if init is not None and config.init is not None:
        raise UsageError(f"init is given twice, in the settings as {config.init}", "leave one of them out")
    what = config.init if init is None else init
    if what is None:
        _check_without(config)
        return config, None
    opened = open_artifact(what, "model")
    said = read_settings(opened.location)
    for name in _ALIKE:
        have, wanted = said[name], getattr(config, name)
        if name in config.model_fields_set and have != wanted:
            raise UsageError(
                f"{name} is {wanted}, the network at {opened.location} has {have}",
                f"leave {name} out, or give as init a network that was trained with {name} {wanted}",
            )
    named = [config.model] if "model" in config.model_fields_set else []
    start = Start(opened.location, opened.manifest.identity, read_card(opened.location, [*trust, *named]))
    config = config.model_copy(update={name: start.card[name] for name in _ALIKE})
    backbone, _ = make_backbone(config.model, config.image_size, config.stem)
    start.put_into(backbone)
    return config, start


def _check_without(config: ClassifierConfig) -> None:
    """Refuses what a network with no start cannot have."""
    if config.freeze_epochs and config.model.partition(":")[0] in _WITHOUT_WEIGHTS:
        raise UsageError(
            f"freeze_epochs is {config.freeze_epochs} and {config.model} starts from random weights",
            "give init, a trained network; or leave freeze_epochs out",
        )
    if config.freeze_epochs or config.layer_decay < 1:
        make_backbone(config.model, config.image_size, config.stem)


def make_classifier(config: ClassifierConfig, classes: int, start: Start | None) -> tuple[nn.Module, FineTuning]:
    """Makes the network that a training starts with.

    Args:
        config: settings, as `starting_from` returns them.
        classes: outputs.
        start: the trained network, or None.

    Returns:
        The network, whose classifier is fresh, and the way in which its layers learn.

    Raises:
        UsageError: the model is unknown, or has no classifier that could be told from its backbone.
        InputError: the trained network's weights cannot be read.
    """
    network = make_model(config.model, classes, stem=config.stem, image_size=config.image_size)
    if start is None and config.freeze_epochs == 0 and config.layer_decay == 1:
        return network, FineTuning()
    classifier, _ = classifier_of(config.model, network, classes)
    if start is not None:
        start.put_into(network, classifier)
    return network, FineTuning(classifier, config.freeze_epochs, config.layer_decay)
