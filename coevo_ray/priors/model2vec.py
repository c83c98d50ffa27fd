"""model2vec's static embeddings: `model2vec:MODEL_OR_PATH[#windows]`.

MODEL is a repository of the Hugging Face Hub, perhaps with @REVISION, PATH the absolute path of a folder. Features are
those of `StaticModel.encode`, computed in float32.
"""

from __future__ import annotations

import json
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.errors import UsageError
from coevo_ray.priors import hub
from coevo_ray.priors.base import LoadedPrior, library, make_token_prior, require_modality
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.static import MeanOfTokens
from coevo_ray.priors.text_options import WINDOWED, split_options, windows_of
from coevo_ray.priors.text_tokens import TextTokens

_CONTEXT = 512  # of models that state none
_FILES = ("model.safetensors",)
_INSTALL = "pip install 'coevo-ray[text]'"
_FORM = "model2vec:MODEL_OR_PATH[#windows]"


class _Vocabulary(Protocol):
    """A tokenizer of the `tokenizers` library."""

    def to_str(self) -> str: ...


class _StaticModel(Protocol):
    """The attributes of the library's model that are used."""

    embedding: npt.NDArray[np.generic]
    token_mapping: npt.NDArray[np.generic] | None
    weights: npt.NDArray[np.generic] | None
    normalize: bool
    tokenizer: _Vocabulary
    unk_token_id: int | None
    median_token_length: int
    config: dict[str, object]


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    name, _ = split_options("model2vec", model, WINDOWED, _FORM)
    if not name:
        raise UsageError(f"model2vec:{model} names no model", f"write {_FORM}")
    require_modality(f"model2vec:{model}", "text", samples)
    library("model2vec", f"model2vec:{model}", _INSTALL)
    hub.check_model(name, _FILES, f"model2vec:{model}")


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)
    spec = f"model2vec:{model}"
    name, options = split_options("model2vec", model, WINDOWED, _FORM)
    package = library("model2vec", spec, _INSTALL)
    with hub.loading(spec):
        made = cast(_StaticModel, package.StaticModel.from_pretrained(hub.model_folder(name, spec)))
        stated = made.config.get("max_length", _CONTEXT)
        context = input_size or (stated if isinstance(stated, int) and stated > 0 else _CONTEXT)
        rows, weights = (None if a is None else torch.from_numpy(a) for a in (made.token_mapping, made.weights))
        table = torch.from_numpy(made.embedding.astype(np.float32))
    windows = windows_of(options)
    tokenize = TextTokens(
        _without_limits(made.tokenizer.to_str()),
        context,
        windows,
        special=False,
        dropped=() if made.unk_token_id is None else (made.unk_token_id,),
        # As the library does before it tokenizes.
        characters=context * windows * made.median_token_length,
    )
    module = MeanOfTokens(table, rows, weights, normalize=made.normalize)
    return make_token_prior(spec, module, table.shape[1], tokenize, hub.licence(name))


def _without_limits(vocabulary: str) -> str:
    """A tokenizer without padding and a limit of its own, so that its identity does not depend on these."""
    return json.dumps({**json.loads(vocabulary), "padding": None, "truncation": None}, ensure_ascii=False)
