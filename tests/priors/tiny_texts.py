"""Small models of texts, built and saved by their own libraries, and texts to encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SENTENCES = [
    "a plain text about databases",
    "naïve café, 東京 и Москва",
    "x",
    "one two three four five six seven eight nine ten eleven twelve",
    "tabs\tand\nlines\x00 and \x07 control characters",
    "https://example.org/?q=1&r=2 42 😀",
]
_ALPHABET = [chr(c) for c in range(33, 127)]
_WORDS = ["text", "database", "##s", "one", "two", "three", "four", "plain", "about", "and", "lines", "control"]
CONTEXT, DIM = 24, 16


def word_pieces() -> Any:
    """A WordPiece tokenizer as BERT's, with a vocabulary of letters and a few words."""
    from tokenizers import BertWordPieceTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *_ALPHABET, *(f"##{c}" for c in _ALPHABET), *_WORDS]
    return BertWordPieceTokenizer({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, lowercase=True)


def save_bert(folder: Path, *, limit: int | None = CONTEXT) -> Path:
    """A BERT of two layers with random weights, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    pieces = word_pieces()
    limits = {} if limit is None else {"model_max_length": limit}
    BertTokenizer(tokenizer_object=pieces._tokenizer, **limits).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=pieces.get_vocab_size(), max_position_embeddings=CONTEXT, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def save_sentence_transformer(bert: Path, folder: Path, prompt: str = "") -> Path:
    """The same BERT with mean pooling and normalisation."""
    from sentence_transformers import SentenceTransformer, models

    transformer = models.Transformer(str(bert), max_seq_length=CONTEXT)
    modules = [transformer, models.Pooling(DIM, pooling_mode="mean"), models.Normalize()]
    prompts: dict[str, Any] = {"prompts": {"any": prompt}, "default_prompt_name": "any"} if prompt else {}
    SentenceTransformer(modules=modules, device="cpu", **prompts).save(str(folder))
    return folder


def save_static(folder: Path, *, normalize: bool = True, weights: bool = False) -> Path:
    """A model2vec model with random vectors, perhaps with fewer vectors than tokens and a weight for each token."""
    from model2vec import StaticModel

    pieces, random = word_pieces(), np.random.default_rng(0)
    size = pieces.get_vocab_size()
    more: dict[str, Any] = {}
    if weights:
        more = {"weights": random.random(size).astype(np.float32), "token_mapping": random.integers(0, 20, size)}
    vectors = random.normal(size=(20 if weights else size, 8)).astype(np.float32)
    StaticModel(vectors, pieces._tokenizer, normalize=normalize, max_length=CONTEXT, **more).save_pretrained(folder)
    return folder
