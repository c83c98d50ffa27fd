"""Weights' files: finds, checks and reads them, without running code from them."""

from __future__ import annotations

import pickle
import urllib.error
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from coevo_ray.errors import InputError

# Raised by torch.load and safetensors for a damaged, truncated or foreign file.
READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)
RANDOM = "random"
RANDOM_SEED = 0
RANDOM_LICENCE = f"none: random initialisation, seed {RANDOM_SEED}"
FILE_LICENCE = "as stated by who made the weights' file"
_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_TIMEOUT_S = 10
# Keys around a state dict, and prefixes of the names in it, that training code adds.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.")


def local_file(text: str) -> Path | None:
    """The file that stands in for public weights; None where the text names no file.

    Args:
        text: the part after `scheme:model/`.

    Raises:
        InputError: the text names a file that does not exist, or a relative path.
    """
    if "/" not in text and not text.endswith(_SUFFIXES):
        return None
    path = Path(text)
    if not path.is_absolute():  # workers run in folders of their own
        raise InputError(f"the weights' path {text} is relative", "give an absolute path, the same on every node")
    if not path.is_file():
        raise InputError(f"there are no weights at {text}", "check the path; it must be there on every node")
    return path


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Reads a state dict from safetensors, or from a pickle that may hold nothing but tensors.

    Args:
        path: the file.

    Returns:
        name -> tensor, on the CPU; a surrounding {"state_dict": ...}, or "model", is removed.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    try:
        is_safe = path.suffix == ".safetensors"
        state: object = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    if isinstance(state, dict):
        inner: object = next((state[name] for name in _CONTAINERS if isinstance(state.get(name), dict)), state)
        state = inner
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path} holds no state dict", "save it with torch.save(model.state_dict(), path)")
    return dict(state)


def load_into(module: torch.nn.Module, path: Path, name: str, dropped: Sequence[str] = ()) -> None:
    """Reads a file into a module; all weights must be present and fit.

    A prefix that a wrapper put before all names (`module.`, `model.`, ...) is dropped where the names fit without it.

    Args:
        module: the module.
        path: the file.
        name: scheme:model, for the message.
        dropped: prefixes of names that the module no longer has, such as those of a removed classifier: they may be
            missing from the file, or have any shape.

    Raises:
        InputError: the file is damaged, or belongs to another model.
    """
    wanted = module.state_dict()
    state = _unwrapped(read_state(path), wanted)
    state = {key: value for key, value in state.items() if key in wanted or not key.startswith(tuple(dropped))}
    found = {
        # Files of PyTorch before 0.4.1 have no such counters, and evaluation does not use them.
        "missing": [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {list(state[key].shape)}, need {list(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
    }
    if any(found.values()):
        reasons = [f"{len(keys)} {what} ({_shown(keys)})" for what, keys in found.items() if keys]
        raise InputError(
            f"{path} does not fit {name}: of {len(wanted)} weights {'; '.join(reasons)}",
            "give the weights of this model, or name the model that they belong to",
        )
    module.load_state_dict(state, strict=False)


def _unwrapped(state: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Drops wrappers' prefixes until some of the names are wanted ones."""
    while state and not any(key in wanted for key in state):
        prefix = next((p for p in _WRAPPERS if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _shown(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that cannot be read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"cannot read the weights {path}: {reason}", "delete the file and download it again")


def check_download(url: str, name: str, remedy: str, headers: dict[str, str] | None = None) -> None:
    """Requests a file's headers, so that weights that cannot be downloaded are found before any work.

    Args:
        url: the file's address.
        name: scheme:model, for the message.
        remedy: the way to do without the download, for the message.
        headers: sent with the request.

    Raises:
        InputError: it cannot be reached.
    """
    request = urllib.request.Request(url, method="HEAD", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise not_fetched(name, f"{url}: {error}", remedy) from error


def not_fetched(name: str, reason: str, remedy: str) -> InputError:
    """The error for weights that are neither in the cache nor can be downloaded."""
    reason = " ".join(reason.split())[:300]
    return InputError(f"the weights of {name} are not in the cache and cannot be downloaded ({reason})", remedy)
