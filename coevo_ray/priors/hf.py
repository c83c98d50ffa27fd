"""Encoders of the transformers library: `hf:MODEL_OR_PATH#POOLING`, POOLING one of mean, cls, last, max.

MODEL is a repository of the Hugging Face Hub, perhaps with @REVISION, PATH the absolute path of a folder that
save_pretrained wrote. Any model that gives last_hidden_state, of an encoder-decoder the encoder; code of a repository
is not run. Without POOLING the mean is taken. `+windows` behind it encodes long texts in windows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, cast

import torch
from torch import nn

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors import hub
from coevo_ray.priors.base import LoadedPrior, feature_dim, library, make_token_prior, require_modality
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.text_options import WINDOWED, split_options, windows_of
from coevo_ray.priors.text_tokens import TextTokens

_FILES = ("config.json",)
_INSTALL = "pip install 'coevo-ray[transformers]'"
_FORM = "hf:MODEL_OR_PATH#mean|cls|last|max[+windows]"
_CONTEXT = 512  # where neither the tokenizer nor the model states one
_MOST_CONTEXT = 1 << 20  # tokenizers without a limit state 10^30
# Position embeddings of these begin behind the id of the padding token.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl")
Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _Output(Protocol):
    """A model's output."""

    last_hidden_state: torch.Tensor


class _Network(Protocol):
    """A model of the library."""

    config: _Config

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> _Output: ...
    def get_encoder(self) -> nn.Module: ...


class _Config(Protocol):
    """The values of a model's configuration that every model has."""

    model_type: str

    def to_json_string(self) -> str: ...


class _Backend(Protocol):
    """A tokenizer of the `tokenizers` library."""

    def to_str(self) -> str: ...


def _mean(hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    mask = there.unsqueeze(2).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _cls(hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return hidden[:, 0]


def _last(hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), there.sum(dim=1) - 1]


def _max(hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(~there.unsqueeze(2), torch.finfo(hidden.dtype).min).amax(dim=1)


_POOLINGS: dict[str, Pool] = {"mean": _mean, "cls": _cls, "last": _last, "max": _max}


class _Pooled(nn.Module):
    """A model, and the pooling of its last hidden states."""

    network: _Network

    def __init__(self, network: nn.Module, pooling: str) -> None:
        super().__init__()
        self.add_module("network", network)
        self._pool = _POOLINGS[pooling]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """float[b, dim] of tokens int64[b, l] with -1 behind shorter texts."""
        there = tokens >= 0
        # Some models derive positions from padding tokens; here the padding is behind all others.
        hidden = self.network(input_ids=tokens.clamp(min=0), attention_mask=there.long()).last_hidden_state
        return self._pool(hidden, there)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A model of the library with its tokenizer.

    Attributes:
        module: tokens int[b, l], -1 behind shorter texts -> float[b, dim].
        pooling: of its last hidden states.
        config: the library's configuration of it, JSON-able.
        context: most tokens of a text.
        vocabulary: the tokenizer, as the `tokenizers` library writes it in JSON.
    """

    module: nn.Module
    pooling: str
    config: JsonObject
    context: int
    vocabulary: str


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    name, _, _ = _split(model)
    require_modality(f"hf:{model}", "text", samples)
    _library(model)
    hub.check_model(name, _FILES, f"hf:{model}")


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)
    spec, (name, _, windows) = f"hf:{model}", _split(model)
    found = load_encoder(model)
    context = input_size or found.context
    dim = feature_dim(spec, found.module, context, "text")
    tokenize = TextTokens(found.vocabulary, context, windows)
    return make_token_prior(spec, found.module, dim, tokenize, hub.licence(name))


def load_encoder(model: str) -> Encoder:
    """Loads a model with its weights and its tokenizer.

    Args:
        model: MODEL_OR_PATH#POOLING.

    Raises:
        UsageError: the transformers library is missing, or there is no such pooling.
        InputError: the model cannot be loaded, or has no fast tokenizer.
    """
    spec, (name, pooling, _) = f"hf:{model}", _split(model)
    with hub.loading(spec):
        folder = hub.model_folder(name, spec)
        tokenizer = _library(model).AutoTokenizer.from_pretrained(folder)
        network, found = _library(model).AutoModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    _require_weights(spec, found)
    stated = (getattr(tokenizer, "model_max_length", None), _positions(network.config))
    context = min([size for size in stated if isinstance(size, int) and 0 < size < _MOST_CONTEXT], default=_CONTEXT)
    config = json.loads(network.config.to_json_string())
    return Encoder(_pooled(network, pooling), pooling, config, context, vocabulary_of(spec, tokenizer))


def fresh_encoder(config: JsonObject, pooling: str, origin: object) -> nn.Module:
    """A model without its weights.

    Args:
        config: as `Encoder.config`.
        pooling: as `Encoder.pooling`.
        origin: file of both, for the message.

    Raises:
        UsageError: the transformers library is missing.
        InputError: the library does not know such a model, or there is no such pooling.
    """
    package = _library(str(origin))
    if pooling not in _POOLINGS:
        raise InputError(f"{origin} names the pooling {ascii(pooling)[:40]}", f"it can be: {', '.join(_POOLINGS)}")
    with hub.loading(str(origin)):
        return _pooled(package.AutoModel.from_config(package.AutoConfig.for_model(**config)), pooling)


def parameters_of(config: JsonObject, origin: object) -> int:
    """Counts a model's weights without memory for them.

    Args:
        config: as `Encoder.config`.
        origin: its file, for the message.

    Raises:
        UsageError: the transformers library is missing.
        InputError: the library does not know such a model.
    """
    package = _library(str(origin))
    with hub.loading(str(origin)), torch.device("meta"):
        network: nn.Module = package.AutoModel.from_config(package.AutoConfig.for_model(**config))
    return sum(parameter.numel() for parameter in network.parameters())


def _pooled(network: _Network, pooling: str) -> nn.Module:
    encoder = network.get_encoder() if getattr(network.config, "is_encoder_decoder", False) else network
    return _Pooled(cast(nn.Module, encoder), pooling)


def vocabulary_of(spec: str, tokenizer: object) -> str:
    """A tokenizer in JSON, as the `tokenizers` library reads it.

    Args:
        spec: scheme:model, for the message.
        tokenizer: of the transformers library.

    Raises:
        InputError: it is not one of the `tokenizers` library, or has no vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Where files are missing, the library makes a tokenizer of special tokens alone.
    if backend is None or getattr(tokenizer, "vocab_size", 0) <= len(getattr(tokenizer, "all_special_tokens", ())):
        have = type(tokenizer).__name__ if backend is None else "a tokenizer without a vocabulary"
        raise InputError(
            f"{spec} has {have}, need a fast tokenizer (tokenizer.json)",
            "save one beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    made = cast(_Backend, backend)
    for limit in ("no_padding", "no_truncation"):  # so that its identity does not depend on former calls
        getattr(made, limit)()
    return made.to_str()


def _split(model: str) -> tuple[str, str, int]:
    """Splits a model into its name, the pooling and the number of windows."""
    name, options = split_options("hf", model, [*_POOLINGS, *WINDOWED], _FORM)
    poolings = sorted(options & set(_POOLINGS)) or ["mean"]
    if not name or len(poolings) > 1:
        have = "names no model" if not name else f"names {len(poolings)} poolings: {', '.join(poolings)}"
        raise UsageError(f"hf:{model} {have}", f"write {_FORM}")
    return name, poolings[0], windows_of(options)


def _positions(config: _Config) -> int | None:
    most: object = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int):
        return None
    pad: object = getattr(config, "pad_token_id", None)
    offset = pad + 1 if config.model_type in _OFFSET_POSITIONS and isinstance(pad, int) else 0
    return most - offset


def _require_weights(spec: str, found: JsonObject) -> None:
    """Refuses a checkpoint that lacks weights, which the library would fill with random ones; a pooler is not used."""
    missing = [key for key in sorted(found.get("missing_keys", ())) if "pooler" not in key]
    missing += [str(key) for key in found.get("mismatched_keys", ())]
    if missing:
        raise InputError(
            f"the weights of {spec} do not fit its configuration: {len(missing)} are missing or of another shape "
            f"({', '.join(missing[:3])})",
            "give the weights of this model, or the configuration that they belong to",
        )


def _library(model: str) -> ModuleType:
    return library("transformers", f"hf:{model}", _INSTALL)
