"""Fine-tuning: epochs in which only the classifier learns, and learning rates that fall from layer to layer.

Layer-wise decay as in BEiT (arXiv 2106.08254, appendix): the layer `depth` below the classifier has the learning rate
times decay ** depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

# As optimizers take them: parameters, or groups of them.
Groups: TypeAlias = "Iterable[nn.Parameter] | list[dict[str, Any]]"
RATE_SHARE = "rate_share"  # of a group: its learning rate over the schedule's
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_TRUNK = 0.5  # of the network's weights: a module with more than that is the network in a wrapper, not one layer


@dataclass(frozen=True)
class FineTuning:
    """The way in which a network learns that does not start from nothing; the default leaves nothing special.

    Attributes:
        classifier: path of the classifier in the network.
        freeze_epochs: epochs at the start in which only the classifier learns.
        layer_decay: learning rate of a layer over that of the one above it.
    """

    classifier: str = ""
    freeze_epochs: int = 0
    layer_decay: float = 1.0

    def is_frozen(self, epoch: int) -> bool:
        """True in the epochs in which only the classifier learns."""
        return epoch < self.freeze_epochs

    def freeze(self, network: nn.Module, epoch: int) -> list[nn.Parameter]:
        """Takes the gradient off all weights but the classifier's, if the epoch is one in which only that learns.

        The network also has to stay in evaluation mode then: batch norm keeps its statistics, and dropout is off.

        Returns:
            The parameters that have lost it: not those that a network of somebody else's never trains.
        """
        if not self.is_frozen(epoch):
            return []
        found = [p for name, p in network.named_parameters() if p.requires_grad and not under(name, self.classifier)]
        for parameter in found:
            parameter.requires_grad_(False)
        return found

    def groups(self, network: nn.Module) -> Groups:
        """The network's parameters for the optimizer: all as one, or groups of them, the classifier first."""
        if self.layer_decay == 1 and self.freeze_epochs == 0:
            return network.parameters()
        layers = layers_of(network, self.classifier)
        if self.layer_decay == 1:
            # Torch's fused SGD refuses a group of which only some have a momentum: those that were never frozen.
            layers = [[p for layer in layers[:-1] for p in layer], layers[-1]]
        return [{"params": layer, RATE_SHARE: self.layer_decay**depth} for depth, layer in enumerate(reversed(layers))]


def thaw(frozen: list[nn.Parameter]) -> None:
    """Gives the parameters that `FineTuning.freeze` returned their gradient back."""
    for parameter in frozen:
        parameter.requires_grad_(True)
    frozen.clear()


def under(name: str, path: str) -> bool:
    """Tests whether a parameter or buffer belongs to the module at a path."""
    return name.startswith(f"{path}.")


def layers_of(network: nn.Module, classifier: str) -> list[list[nn.Parameter]]:
    """Divides a network's parameters into layers, from its input to the classifier, in the order of its modules.

    A layer is a child of the network, such as a convolution or a residual block; sequences, lists and dicts of modules
    count as their parts, and so does a module with more than half of all weights. Modules that have only vectors
    (norms, scales), and what an opened module has itself (a class token, positions), join the layer before them.

    Args:
        network: any.
        classifier: path of the last layer.

    Returns:
        Every parameter once.
    """
    least = _TRUNK * sum(p.numel() for p in network.parameters())
    layers: list[list[nn.Parameter]] = []
    waiting: list[nn.Parameter] = []  # what comes before the first layer
    seen = {id(p) for p in network.get_submodule(classifier).parameters()}
    for found, begins in _parts(network, least, network.get_submodule(classifier)):
        new = [p for p in found if id(p) not in seen]
        seen |= {id(p) for p in new}
        if not new:
            continue
        if begins:
            layers.append([*waiting, *new])
            waiting = []
        else:
            (layers[-1] if layers else waiting).extend(new)
    return [*layers, [*waiting, *network.get_submodule(classifier).parameters()]]


def _parts(module: nn.Module, least: float, classifier: nn.Module) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """Parameters of one part after another, and whether it begins a layer."""
    yield list(module.parameters(recurse=False)), False
    for child in module.children():
        if child is classifier:
            continue
        weights = list(child.parameters())
        opened = isinstance(child, _CONTAINERS) or sum(p.numel() for p in weights) > least
        if any(child.children()) and (opened or classifier in set(child.modules())):
            yield from _parts(child, least, classifier)
        else:
            yield weights, any(p.dim() > 1 for p in weights)
