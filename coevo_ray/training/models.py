"""Networks by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from coevo_ray.errors import UsageError

_SMALL, _LIBRARIES = "small_cnn", ("torchvision", "timm", "hf")
LINEAR, MLP = "linear", "mlp"
HEADS = (LINEAR, MLP)  # the networks for vectors, see `inputs.vectors`


class SmallCNN(nn.Module):
    """Four 3x3 convolutions with batch norm and a linear head; for images of 8 to 64 pixels.

    Args:
        classes: outputs.
        width: channels of the first layer; doubled twice.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, width),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_block(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float[b, 3, s, s] -> logits float[b, classes]."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def make_model(name: str, classes: int, *, stem: str = "standard", image_size: int | None = None) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: `small_cnn`, `torchvision:NAME` or `timm:NAME` (classifiers, without weights; the latter needs the extra
            `timm`), or `package.module:function`, called with `num_classes`.
        classes: outputs.
        stem: `standard`, or `small` for images of about 32 pixels: the first convolution becomes 3x3 with stride 1 and
            the max-pool behind it goes (He et al. 2016 on CIFAR-10); for networks that begin so: ResNets (also wide
            ones and ResNeXt) and DenseNets.
        image_size: pixels of the square input, for vision transformers, whose positions it fixes; None for their own.

    Raises:
        UsageError: the name is unknown or needs a package that is missing, the function does not take `num_classes` or
            return a module, or the network has no such stem.
    """
    scheme, _, rest = name.partition(":")
    if name == _SMALL:
        network: nn.Module = SmallCNN(classes)
    elif scheme == "torchvision":
        network = _torchvision(rest, classes, image_size)
    elif scheme == "timm":
        network = _timm(rest, classes, image_size)
    else:
        network = make_users(name, classes)
    if stem == "small":
        _small_stem(name, network)
    return network


def is_users(name: str) -> bool:
    """True for a network that is imported from a user's module."""
    return name not in (_SMALL, *HEADS) and name.partition(":")[0] not in _LIBRARIES


def make_users(name: str, classes: int) -> nn.Module:
    """A network of a user's module, `package.module:function`, called with `num_classes`.

    Raises:
        UsageError: there is no such function, it does not take `num_classes`, or returns no module.
    """
    module, _, function = name.partition(":")
    try:
        network: Any = getattr(import_module(module), function)(num_classes=classes)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(
            f"unknown model {name!r}: {error}",
            "use small_cnn, torchvision:resnet18, timm:resnet18 or package.module:function",
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} returned {type(network).__name__}", "return a torch.nn.Module")
    return network


def _torchvision(name: str, classes: int, image_size: int | None) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UsageError(
            f"torchvision has no classifier {name!r}", "see torchvision.models.list_models(module=torchvision.models)"
        )
    with _refused(f"torchvision:{name}", image_size):
        model: nn.Module = models.get_model(name, **torchvision_options(name, classes, image_size))
    return model


def torchvision_options(name: str, classes: int, image_size: int | None) -> dict[str, Any]:
    """Arguments of `torchvision.models.get_model` besides the name."""
    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}  # else they return several outputs, and warn
    if name.startswith("vit_") and image_size is not None:
        options["image_size"] = image_size
    return options


def _timm(name: str, classes: int, image_size: int | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UsageError(f"timm:{name} needs timm: {error}", "pip install 'coevo-ray[timm]'") from error
    if name.partition(".")[0] not in timm.list_models():
        raise UsageError(f"timm has no model {name!r}", "see timm.list_models()")
    with _refused(f"timm:{name}", image_size):
        model: nn.Module = timm.create_model(name, **timm_options(name, classes, image_size))
    return model


def timm_options(name: str, classes: int, image_size: int | None) -> dict[str, Any]:
    """Arguments of `timm.create_model` besides the name."""
    import timm

    config = timm.get_pretrained_cfg(name)
    sized = image_size is not None and config is not None and config.fixed_input_size
    return {"pretrained": False, "num_classes": classes, **({"img_size": image_size} if sized else {})}


@contextmanager
def _refused(name: str, image_size: int | None) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{name} cannot be made for images of {image_size} pixels: {error}", "choose another image_size or model"
        ) from error


_STEMS = (("conv1", "maxpool"), ("features.conv0", "features.pool0"))  # of ResNets and of DenseNets


def stem_of(network: nn.Module, pool: type[nn.Module] = nn.MaxPool2d) -> tuple[str, str, nn.Conv2d] | None:
    """Finds the stem that can be made small: the paths of convolution and pooling, and the convolution; else None.

    Args:
        network: as it is made, or with a small stem.
        pool: class of the pooling; a small stem has an identity there.
    """
    layers = dict(network.named_modules())
    for first, second in _STEMS:
        convolution = layers.get(first)
        if isinstance(convolution, nn.Conv2d) and isinstance(layers.get(second), pool):
            return first, second, convolution
    return None


def _small_stem(name: str, network: nn.Module) -> None:
    found = stem_of(network)
    if found is not None:
        first, pool, convolution = found
        channels = (convolution.in_channels, convolution.out_channels)
        _replace(network, first, nn.Conv2d(*channels, 3, padding=1, bias=convolution.bias is not None))
        _replace(network, pool, nn.Identity())
        return
    raise UsageError(
        f"{name} has no stem to make small: it does not begin with one convolution and a max-pool",
        "leave stem at standard, or take a ResNet or DenseNet of torchvision or timm",
    )


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, layer)


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample that a network is tried with.

    Attributes:
        tensor: as the network gets it, first dimension 1.
        words: what such samples are, for errors.
        choose: what to choose another one of where it does not take them.
    """

    tensor: torch.Tensor
    words: str
    choose: str


def sample_image(image_size: int) -> Sample:
    """A square image."""
    tensor = torch.zeros(1, 3, image_size, image_size)
    return Sample(tensor, f"images of {image_size} pixels", "image_size or model")


def check_network(name: str, network: nn.Module, sample: Sample, classes: int) -> None:
    """Shows a fresh network one sample, so that what is wrong with it is found before any work.

    Args:
        name: of the network, for errors.
        network: gives one output for each class.
        sample: what it is to take.
        classes: outputs.

    Raises:
        UsageError: it does not take such samples, or does not give one output for each class.
    """
    shape = _shape(name, network, sample)
    if shape != (1, classes):
        raise UsageError(f"{name} gives {list(shape)} for one sample, need [1, {classes}]", "use a classifier")


FEATURES_OF = 10  # outputs that tell the classifier from other layers


def make_backbone(name: str, image_size: int, stem: str = "standard") -> tuple[nn.Module, int]:
    """A freshly initialised network for images with its classifier taken off, and the dimension of its features.

    Args:
        name, stem: as in `make_model`.
        image_size: pixels of the square input, to try it.

    Raises:
        UsageError: as in `make_model` and `without_classifier`.
    """
    network = make_model(name, FEATURES_OF, stem=stem, image_size=image_size)
    return without_classifier(name, network, sample_image(image_size))


def without_classifier(name: str, network: nn.Module, sample: Sample) -> tuple[nn.Module, int]:
    """Takes a network's classifier off: its last linear layer with `FEATURES_OF` outputs.

    Args:
        name: of the network, for errors.
        network: with `FEATURES_OF` outputs; it is changed.
        sample: what it is to take.

    Returns:
        The network, and the dimension of its features.

    Raises:
        UsageError: it ends in no linear layer, or does not take such samples.
    """
    path, classifier = classifier_of(name, network, FEATURES_OF)
    _replace(network, path, nn.Identity())
    shape = _shape(name, network, sample)
    if shape != (1, classifier.in_features):
        raise UsageError(
            f"{name} without its classifier gives {list(shape)} for one sample, need [1, {classifier.in_features}]",
            "use a network that ends in its classifier",
        )
    return network, classifier.in_features


def classifier_of(name: str, network: nn.Module, classes: int) -> tuple[str, nn.Linear]:
    """Finds a network's classifier: its last linear layer with as many outputs as there are classes, and its path.

    Args:
        name: of the network, for errors.
        network: as `make_model` makes it.
        classes: outputs.

    Raises:
        UsageError: there is no such layer, or no other one.
    """
    linear = [
        (path, layer)
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == classes
    ]
    if not linear:
        raise UsageError(
            f"{name} has no linear layer with num_classes outputs to take off", "use a network that ends in one"
        )
    path, classifier = linear[-1]
    if not path:
        raise UsageError(f"{name} is a linear layer and nothing else", "use a network with layers before it")
    return path, classifier


def _shape(name: str, network: nn.Module, sample: Sample) -> tuple[int, ...]:
    """Of the output for one sample; the network is left ready for training."""
    network.eval()
    try:
        with torch.inference_mode():
            return tuple(network(sample.tensor).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise UsageError(f"{name} does not take {sample.words}: {error}", f"choose another {sample.choose}") from error
    finally:
        network.train()
