"""Trained weights as files: the network's, and beside them the averaged ones."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.store.checked import read_checked
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry, Manifest

WEIGHTS, AVERAGED, CARD = "model.safetensors", "ema.safetensors", "model.json"
_INNER = "module."


def write_weights(folder: Location, state: dict[str, Any], card: JsonObject) -> list[FileEntry]:
    """Writes the network of a checkpoint.

    Args:
        folder: the training's output.
        state: the checkpoint's state, with `model` and maybe `average`.
        card: arguments to make the network with.

    Raises:
        StoppedError: the store refused.
    """
    files = [
        write_blob(folder, WEIGHTS, packed(state["model"])),
        write_blob(folder, CARD, json.dumps(card, indent=2).encode()),
    ]
    if "average" in state:
        # The averaged copy also counts its updates, which is no weight.
        average = {k.removeprefix(_INNER): v for k, v in state["average"].items() if k.startswith(_INNER)}
        files.append(write_blob(folder, AVERAGED, packed(average)))
    return files


def read_weights(folder: Location, manifest: Manifest, network: nn.Module, *, average: bool = False) -> None:
    """Loads weights of `write_weights` into a network of the same card.

    Args:
        folder: the training's output.
        manifest: its manifest.
        network: takes them.
        average: the averaged ones.

    Raises:
        InputError: they are not there, damaged, or of another network.
    """
    name = AVERAGED if average else WEIGHTS
    try:
        network.load_state_dict(load_safetensors(read_checked(folder, manifest, name)))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"cannot load {folder.child(name)}: {reason}", "copy it again, or train again into another folder"
        ) from error


def packed(weights: dict[str, torch.Tensor]) -> bytes:
    """State dict as safetensors bytes, contiguous and without shared tensors."""
    # They are channels last, and some networks use a tensor twice: safetensors stores neither.
    return save_safetensors(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    )
