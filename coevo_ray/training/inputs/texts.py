"""Texts as networks take them: encoders of the transformers library, fine-tuned beneath a linear layer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig, TargetTrainConfig
from coevo_ray.core.arrays import Int32Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.priors.hf import fresh_encoder, load_encoder
from coevo_ray.priors.inputs import PAD
from coevo_ray.priors.text_tokens import TextTokens
from coevo_ray.store.checked import read_checked
from coevo_ray.store.json_text import object_of
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.training.feed.batch import Transform
from coevo_ray.training.feed.texts import TextTransform
from coevo_ray.training.feed.views import Augmented
from coevo_ray.training.inputs.base import AsTheyAre, ViewPair
from coevo_ray.training.models import Sample

SCHEME = "hf:"
TOKENIZER = "tokenizer.json"  # beside the weights
_PROBE = "a text"
_DROPOUT = 0.1  # beneath the linear layer, as in Devlin et al. 2019
_CUT = 0.15  # of a strong view's tokens, at strength 1


@dataclass(frozen=True)
class TokensOf:
    """Makes tokens int32[b, l] of texts, -1 behind shorter ones; pickles.

    Attributes:
        tokens: the tokenizer.
    """

    tokens: TextTokens

    def __call__(self, texts: list[str]) -> Int32Array:
        """Tokens of b texts, as wide as these need."""
        ids = self.tokens(texts).ids[:, 0]
        if ids.shape[1] == 0:
            ids = np.full((len(texts), 1), PAD, dtype=np.int32)
        # A text of which the tokenizer makes nothing gets one token: attention to none is not a number.
        ids[ids[:, 0] == PAD, 0] = 0
        return ids


class TextNetwork(nn.Module):
    """An encoder, dropout, and a linear layer.

    Args:
        encoder: tokens int[b, l], -1 behind shorter texts -> float[b, d].
        features: d.
        outputs: classes.
    """

    def __init__(self, encoder: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.encoder, self.dropout, self.head = encoder, nn.Dropout(_DROPOUT), nn.Linear(features, outputs)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens int[b, l] -> logits float[b, classes]."""
        logits: torch.Tensor = self.head(self.dropout(self.encoder(tokens.long())))
        return logits


@dataclass(frozen=True)
class TextShape:
    """A text as tokens; see `Shape`.

    Attributes:
        context: most tokens of a text, special ones among them.
        pooling: of the encoder's last hidden states.
        encoder: its configuration, as the transformers library writes it in JSON.
        vocabulary: the tokenizer in JSON.
        pretrained: whether networks at their start have the weights of their model's name.
    """

    context: int
    pooling: str
    encoder: str
    vocabulary: str = field(repr=False)
    pretrained: bool = field(default=False, compare=False)

    @classmethod
    def of_model(cls, model: str, context: int | None) -> TextShape:
        """The shape of texts for a model, `hf:MODEL_OR_PATH#POOLING`.

        Args:
            model: the model.
            context: most tokens of a text; None for as many as the model takes.

        Raises:
            UsageError: the transformers library is missing, or there is no such pooling.
            InputError: the model cannot be loaded, or takes fewer tokens.
        """
        found = load_encoder(model.removeprefix(SCHEME))
        if context is not None and context > found.context:
            raise InputError(f"max_tokens is {context}, {model} takes {found.context}", "leave it out, or lower it")
        encoder = json.dumps(found.config, sort_keys=True)
        return cls(context or found.context, found.pooling, encoder, found.vocabulary, pretrained=True)

    @classmethod
    def of_settings(cls, said: JsonObject, folder: Location) -> TextShape:
        """The shape of texts for a trained network.

        Args:
            said: what `settings` gave as `input`.
            folder: of the training, with its tokenizer.

        Raises:
            InputError: a setting or the tokenizer is missing or damaged.
        """
        object_of(said, folder, {"context": int, "pooling": str, "encoder": dict})
        file, alone = folder.child(TOKENIZER), not folder.child(MANIFEST).is_file()
        vocabulary = file.read_bytes() if alone else read_checked(folder, load_manifest(folder, "model"), TOKENIZER)
        encoder = json.dumps(said["encoder"], sort_keys=True)
        try:
            made = cls(said["context"], said["pooling"], encoder, vocabulary.decode())
            made.tokenize([_PROBE])
        except Exception as error:  # the library raises bare exceptions
            raise InputError(f"cannot read {file}: {str(error)[:200]}", "copy it again, or train again") from error
        return made

    @property
    def kind(self) -> str:
        """See `Shape`."""
        return "text"

    def settings(self) -> JsonObject:
        """See `Shape`."""
        encoder: JsonObject = json.loads(self.encoder)
        return {"input": {"kind": self.kind, "context": self.context, "pooling": self.pooling, "encoder": encoder}}

    def files(self) -> dict[str, bytes]:
        """See `Shape`."""
        return {TOKENIZER: self.vocabulary.encode()}

    @property
    def tokenize(self) -> TokensOf:
        """Makes tokens of texts."""
        return TokensOf(TextTokens(self.vocabulary, self.context))

    def network(self, model: str, outputs: int) -> nn.Module:
        """See `Shape`."""
        if self.pretrained:
            encoder = load_encoder(model.removeprefix(SCHEME)).module
        else:
            encoder = fresh_encoder(json.loads(self.encoder), self.pooling, model)
        tokens = self.sample().tensor
        with torch.no_grad():
            features = encoder.eval()(tokens.long()).shape[1]
        network = TextNetwork(encoder, features, outputs)
        _freeze_unused(network, tokens)
        return network.train()

    def sample(self) -> Sample:
        """See `Shape`."""
        tokens = torch.from_numpy(self.tokenize([_PROBE]))
        return Sample(tokens, f"texts of up to {self.context} tokens", "model")

    def transform(self, column: str, augment: str = "none") -> Transform:
        """See `Shape`."""
        return TextTransform(self.tokenize, column)

    def decoded(self, column: str) -> Transform:
        """See `Shape`."""
        return TextTransform(self.tokenize, column)

    def view_pair(self, config: SemiTrainConfig, mean: torch.Tensor | None) -> ViewPair:
        """See `Shape`."""
        return TokenViews(config.strength)

    def augmented(self, config: TargetTrainConfig) -> Augmented:
        """See `Shape`."""
        return AsTheyAre()


@dataclass(frozen=True)
class TokenViews:
    """Weak views are the tokens; of strong ones some tokens are left out.

    Token cutoff (Shen et al. 2020, arXiv 2009.13818). The first and the last token stay, which many encoders read out.

    Attributes:
        strength: 1 leaves out 15 % of the tokens.
    """

    strength: float

    def numbers(self, samples: torch.Tensor) -> int:
        """See `ViewPair`."""
        return samples.shape[1]

    def weak(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `ViewPair`."""
        return samples

    def strong(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `ViewPair`."""
        places = torch.arange(samples.shape[1], device=samples.device)
        last = (samples != PAD).sum(dim=1, keepdim=True) - 1
        left_out = (numbers < _CUT * self.strength) & (places > 0) & (places < last)
        # Those that stay move together, in their order; padding is behind them.
        kept = samples.masked_fill(left_out, PAD)
        return kept.gather(1, torch.argsort((kept == PAD).long(), dim=1, stable=True))


def _freeze_unused(network: nn.Module, tokens: torch.Tensor) -> None:
    """Takes the gradient off weights that the output does not depend on, such as a pooler's: DDP would wait for it."""
    network(tokens).sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
