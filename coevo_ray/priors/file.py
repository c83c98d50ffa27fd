"""Weights in a file with the name of their architecture: `file:/PATH#ARCHITECTURE`.

The file is safetensors or a state dict, read with weights_only. ARCHITECTURE is `torchvision:MODEL`, `timm:MODEL`,
`open_clip:MODEL`, or `package.module:Class` as for `callable:`, into whose `module` the weights are then read. All
weights must be present and fit, except those of the classifier of torchvision and timm models, which is removed. A
prefix such as `module.` or `model.` before all names is dropped where the names fit without it.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors import open_clip, timm, torchvision, user
from coevo_ray.priors.base import LoadedPrior, known
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.weights import FILE_LICENCE, load_into, local_file

_LIBRARIES: dict[str, ModuleType] = {"torchvision": torchvision, "timm": timm, "open_clip": open_clip}
_FORM = "file:/PATH#torchvision:MODEL, #timm:MODEL, #open_clip:MODEL or #package.module:Class"


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    path, scheme, architecture = _split(model)
    if scheme:
        _LIBRARIES[scheme].check(f"{architecture}/{path}", input_size, samples)
    else:
        user.check(architecture, input_size, samples)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    path, scheme, architecture = _split(model)
    if scheme:
        loaded: LoadedPrior = _LIBRARIES[scheme].load(f"{architecture}/{path}", input_size, samples)
    else:
        made = user.build(architecture, input_size)
        load_into(made.module, path, architecture)
        loaded = user.make(architecture, made, samples)
    licence = loaded.info.licence if scheme or loaded.info.licence != user.NO_LICENCE else FILE_LICENCE
    return replace(loaded, info=replace(loaded.info, name=f"file:{model}", licence=licence))


def _split(model: str) -> tuple[Path, str, str]:
    """Splits a model into the file, the library (or "") and the architecture."""
    text, _, architecture = model.rpartition("#")
    if not text or not architecture:
        raise UsageError(f"file:{model} names no architecture", f"write {_FORM}")
    path = local_file(text)
    if path is None:
        raise InputError(f"file:{model} names no file", f"give an absolute path: {_FORM}")
    scheme, colon, name = architecture.partition(":")
    if not colon:
        raise UsageError(f"file:{model}: {architecture} is no architecture", f"write {_FORM}")
    if scheme in _LIBRARIES:
        return path, scheme, name
    if find_spec(scheme.partition(".")[0]) is None:
        known("library or module", scheme, _LIBRARIES, _FORM)
    return path, "", architecture
