"""Models of the sentence-transformers library: `sentence_transformers:MODEL_OR_PATH[#windows]`.

MODEL is a repository of the Hugging Face Hub, perhaps with @REVISION, PATH the absolute path of a folder. Features are
those of `SentenceTransformer.encode`: with the model's own pooling and normalisation, and its default prompt, if any.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import torch
from torch import nn

from coevo_ray.errors import UsageError
from coevo_ray.priors import hub
from coevo_ray.priors.base import LoadedPrior, feature_dim, library, make_token_prior, require_modality
from coevo_ray.priors.hf import vocabulary_of
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.text_options import WINDOWED, split_options, windows_of
from coevo_ray.priors.text_tokens import TextTokens

_FILES = ("modules.json",)
_INSTALL = "pip install 'coevo-ray[sentence-transformers]'"
_FORM = "sentence_transformers:MODEL_OR_PATH[#windows]"
_OWNER = "sentence-transformers"  # of models whose name has no owner
_CONTEXT = 512  # of models that state none


class _Model(Protocol):
    """The parts of the library's models that are used."""

    tokenizer: object
    max_seq_length: int | None
    prompts: Mapping[str, str]
    default_prompt_name: str | None

    def __call__(self, features: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]: ...
    def children(self) -> list[nn.Module]: ...


class _Sentence(nn.Module):
    """All modules of a model, one after another."""

    network: _Model

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.add_module("network", network)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """float[b, dim] of tokens int64[b, l] with -1 behind shorter texts."""
        features = {"input_ids": tokens.clamp(min=0), "attention_mask": (tokens >= 0).long()}
        return self.network(features)["sentence_embedding"]


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    name, _ = _split(model)
    require_modality(f"sentence_transformers:{model}", "text", samples)
    _library(model)
    hub.check_model(name, _FILES, f"sentence_transformers:{model}")


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)
    spec, (name, windows) = f"sentence_transformers:{model}", _split(model)
    with hub.loading(spec):
        folder = hub.model_folder(name, spec)
        made = cast(_Model, _library(model).SentenceTransformer(folder, device="cpu", local_files_only=True))
    _require_transformer(spec, made)
    context = input_size or made.max_seq_length or _CONTEXT
    module = _Sentence(cast(nn.Module, made).float())
    dim = feature_dim(spec, module, context, "text")
    prefix = "" if made.default_prompt_name is None else made.prompts.get(made.default_prompt_name, "")
    tokenize = TextTokens(vocabulary_of(spec, made.tokenizer), context, windows, prefix=prefix)
    return make_token_prior(spec, module, dim, tokenize, hub.licence(name))


def _require_transformer(spec: str, made: _Model) -> None:
    """Refuses what does not begin with a transformer, or leaves a prompt out of its pooling."""
    modules = list(made.children())
    first = type(modules[0]).__name__ if modules else "nothing"
    if first != "Transformer":
        raise UsageError(
            f"{spec} begins with {first}, need a Transformer", "use model2vec: for static models, or callable:"
        )
    leaves_out = any(getattr(module, "include_prompt", True) is False for module in modules)
    if leaves_out and made.default_prompt_name is not None:
        raise UsageError(f"{spec} leaves its prompt out of the pooling", "use callable:package.module:Class for it")


def _split(model: str) -> tuple[str, int]:
    """Splits a model into its name and the number of windows."""
    name, options = split_options("sentence_transformers", model, WINDOWED, _FORM)
    if not name:
        raise UsageError(f"sentence_transformers:{model} names no model", f"write {_FORM}")
    named = name if "/" in name or Path(name).is_dir() else f"{_OWNER}/{name}"
    return named, windows_of(options)


def _library(model: str) -> ModuleType:
    return library("sentence_transformers", f"sentence_transformers:{model}", _INSTALL)
