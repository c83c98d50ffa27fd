"""The start of a classifier's training: a fresh network, or the backbone of a trained one under a fresh classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import nn

from coevo_ray.config import ClassifierConfig
from coevo_ray.config.pool import IMAGE
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.opening import open_artifact
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.inputs.base import Shape, backbone_for
from coevo_ray.training.inputs.choose import open_input, settled
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.inputs.shapes import shape_of
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.loop.fine_tuning import FineTuning
from coevo_ray.training.models import HEADS, check_network, classifier_of
from coevo_ray.training.networks import put_weights, read_card, read_network_weights, read_settings

ConfigT = TypeVar("ConfigT", bound=ClassifierConfig)
_ALIKE = ("model", "stem", "image_size", "features")
_WITHOUT_WEIGHTS = ("torchvision", "timm", "small_cnn", *HEADS)


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
    def shape(self) -> Shape:
        """Of the samples that it takes."""
        return shape_of(self.card, self.folder)

    @property
    def inputs(self) -> dict[str, str]:
        """Its entry in the manifest of the new training."""
        return {"init": self.identity}

    def put_into(self, network: nn.Module, classifier: str = "") -> None:
        """Loads its backbone into a network; the classifier there stays as it is.

        Raises:
            InputError: a weight is missing, or of another shape.
        """
        put_weights(network, read_network_weights(self.folder, self.card), self.folder, classifier)


def starting_from(
    config: ConfigT, init: ArtifactLike | None = None, trust: Sequence[str] = (), modality: str = IMAGE
) -> tuple[ConfigT, Start | None]:
    """Opens the network that a training starts from, and checks that it fits.

    Args:
        config: settings of the training, maybe with `init`.
        init: what a training returned, or its folder; instead of `config.init`.
        trust: `package.module:function` of networks of users' modules that may be made; the settings' own model is one.
        modality: of the pool's samples.

    Returns:
        The settings, with the network's model, stem, image_size and features where they were not set, and as
        `inputs.choose.settled` fills them in; the network, or None.

    Raises:
        InputError: there is no trained network, or its weights do not fit its model.
        UsageError: both are given, model, stem, image_size or features are set to others, the network is of a module
            that nothing names but its folder, the model has no classifier that could be told from its backbone, does
            not take what the pool gives, or a backbone without weights should stay frozen.
    """
    if init is not None and config.init is not None:
        raise UsageError(f"init is given twice, in the settings as {config.init}", "leave one of them out")
    what = config.init if init is None else init
    if what is None:
        config = settled(config, modality)
        _check_without(config, modality)
        return config, None
    opened = open_artifact(what, "model")
    said = read_settings(opened.location)
    for name in _ALIKE:
        have, wanted = said.get(name), getattr(config, name)
        if name in config.model_fields_set and have != wanted:
            raise UsageError(
                f"{name} is {wanted}, the network at {opened.location} has {have}",
                f"leave {name} out, or give as init a network that was trained with {name} {wanted}",
            )
    named = [config.model] if "model" in config.model_fields_set else []
    start = Start(opened.location, opened.manifest.identity, read_card(opened.location, [*trust, *named]))
    config = config.model_copy(update={name: start.card[name] for name in _ALIKE if name in start.card})
    backbone, _ = backbone_for(start.shape, config.model)
    start.put_into(backbone)
    return settled(config, modality, start.card), start


def _check_without(config: ClassifierConfig, modality: str) -> None:
    """Refuses what a network with no start cannot have."""
    if config.freeze_epochs and config.model.partition(":")[0] in _WITHOUT_WEIGHTS:
        raise UsageError(
            f"freeze_epochs is {config.freeze_epochs} and {config.model} starts from random weights",
            "give init, a trained network; or leave freeze_epochs out",
        )
    if (config.freeze_epochs or config.layer_decay < 1) and config.features is None and modality == IMAGE:
        backbone_for(ImageShape(config.image_size, config.stem), config.model)


def prepare_input(
    config: ConfigT,
    pool: Pool,
    targets: RowTable | None,
    classes: int,
    init: ArtifactLike | None = None,
    trust: Sequence[str] = (),
) -> tuple[ConfigT, InputSource, Start | None]:
    """Settles what a classifier's training takes and starts from; what is wrong with them shows before any work.

    Args:
        config: settings of the training, maybe with `init`.
        pool: samples.
        targets: the pool's targets, or None.
        classes: outputs.
        init, trust: as in `starting_from`.

    Returns:
        The settings as they are used; what the network takes; the network that it starts from, or None.

    Raises:
        InputError: as in `starting_from` and `inputs.choose.open_input`, or the network takes other vectors.
        UsageError: as in `starting_from` and `inputs.choose.open_input`, or the model does not fit the samples.
    """
    config, start = starting_from(config, init, trust, pool.modality)
    source = open_input(config, pool, targets)
    if start is not None and start.shape != source.shape:
        raise InputError(
            f"the network at {start.folder} takes {start.shape.sample().words}, {source.location} has "
            f"{source.shape.sample().words}",
            "give a network that was trained on such samples",
        )
    network = source.network(config.model, classes)
    check_network(config.model, network, source.shape.sample(), classes)
    if config.freeze_epochs or config.layer_decay < 1:
        classifier_of(config.model, network, classes)
    return config, source, start


class Networks(Protocol):
    """A maker of networks, such as `InputSource` and `Shape`."""

    def network(self, model: str, outputs: int) -> nn.Module:
        """A network at its start."""
        ...


def make_classifier(
    config: ClassifierConfig, source: Networks, classes: int, start: Start | None
) -> tuple[nn.Module, FineTuning]:
    """Makes the network that a training starts with.

    Args:
        config: settings, as `starting_from` returns them.
        source: makes the network.
        classes: outputs.
        start: the trained network, or None.

    Returns:
        The network, whose classifier is fresh, and the way in which its layers learn.

    Raises:
        UsageError: the model is unknown, or has no classifier that could be told from its backbone.
        InputError: the trained network's weights cannot be read.
    """
    network = source.network(config.model, classes)
    if start is None and config.freeze_epochs == 0 and config.layer_decay == 1:
        return network, FineTuning()
    classifier, _ = classifier_of(config.model, network, classes)
    if start is not None:
        start.put_into(network, classifier)
    return network, FineTuning(classifier, config.freeze_epochs, config.layer_decay)
