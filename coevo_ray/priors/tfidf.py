"""TF-IDF and its leading singular directions: `tfidf:words` or `tfidf:chars`, fitted to the texts of the shared set.

Words are n-grams of 1 and 2 words; chars n-grams of 3 to 5 characters within words. input_size is the number of
directions, 512 at most by default. The state (vocabulary, inverse document frequencies, directions) is determined by
the shared texts, and stored with the contribution: targets and `like` carry it. The vocabulary has only what at least
two shared texts contain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
from torch import nn

from coevo_ray.core.arrays import AnyArray, Arrays, Float32Array
from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import LoadedPrior, PriorInfo, known, library, require_modality
from coevo_ray.priors.fitted import read_state
from coevo_ray.priors.inputs import Samples, VectorInput
from coevo_ray.store.location import Location

# Settings of scikit-learn's TfidfVectorizer; 50 000 n-grams keep a state of 512 directions at 51 MB.
_COMMON: dict[str, Any] = {"sublinear_tf": True, "min_df": 2, "max_features": 50_000}
_KINDS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "ngram_range": (1, 2), **_COMMON},
    "chars": {"analyzer": "char_wb", "ngram_range": (3, 5), **_COMMON},
}
_COUNTED = {"words": "word of two letters or more", "chars": "run of three characters or more within words"}
_DIM, _ITERATIONS, _SEED = 512, 3, 0
_VOCABULARY, _IDF, _DIRECTIONS = "vocabulary", "idf", "directions"
_CHARACTERS = 1 << 17  # of a text: what is behind them is left out
_FORM = "tfidf:words|chars"
_KEPT = 4  # states in a process


class _Sparse(Protocol):
    """A sparse matrix of SciPy."""

    shape: tuple[int, int]

    def __matmul__(self, other: AnyArray) -> AnyArray: ...


class _Vectoriser(Protocol):
    """The parts of scikit-learn's TfidfVectorizer that are used."""

    vocabulary_: dict[str, int]
    idf_: AnyArray

    def fit_transform(self, texts: Sequence[str]) -> _Sparse: ...
    def transform(self, texts: Sequence[str]) -> _Sparse: ...


@dataclass(frozen=True)
class Transform:
    """Texts -> vectors; it pickles as the place of its state, which it reads on first use.

    Attributes:
        kind: words or chars.
        state: file of the state.
    """

    kind: str
    state: str

    def __call__(self, texts: list[str]) -> Float32Array:
        """Vectors float32[b, dim]; 0 for a text of which the vocabulary has nothing."""
        vectoriser, directions = _fitted(self.kind, self.state)
        vectors = vectoriser.transform([text[:_CHARACTERS] for text in texts]) @ directions
        return np.asarray(vectors, dtype=np.float32)


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    known("tfidf", model, _KINDS, _FORM)
    require_modality(f"tfidf:{model}", "text", samples)
    _library(model, "sklearn")


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """Refuses: see `load_fitted`.

    Raises:
        UsageError: always.
    """
    check(model, input_size, samples)
    raise UsageError(
        f"tfidf:{model} is fitted to a shared set before it encodes", "encode a pool with it, or give its state"
    )


def fit(model: str, input_size: int | None, samples: Samples, texts: Sequence[str]) -> Arrays:
    """See `registry.fit_prior`.

    Returns:
        `vocabulary` uint8, a JSON list of v n-grams; `idf` float32[v]; `directions` float16[v, dim].
    """
    check(model, input_size, samples)
    svd_of = _library(model, "sklearn.decomposition").TruncatedSVD
    vectoriser = _vectoriser(model, _KINDS[model])
    try:
        matrix = vectoriser.fit_transform([text[:_CHARACTERS] for text in texts])
    except ValueError:  # scikit-learn's words speak of settings that are none here
        raise _too_little(model, len(texts), f"no {_COUNTED[model]} is in two of them") from None
    dim = min(input_size or _DIM, min(matrix.shape) - 1)
    if dim < 1:
        raise _too_little(model, len(texts), "one n-gram, or one text, is left")
    with np.errstate(divide="ignore", invalid="ignore"):  # its share of a variance of 0, which is not used
        svd = svd_of(dim, n_iter=_ITERATIONS, random_state=_SEED).fit(matrix)
    terms = sorted(vectoriser.vocabulary_, key=vectoriser.vocabulary_.__getitem__)
    encoded = np.frombuffer(json.dumps(terms, ensure_ascii=True).encode(), dtype=np.uint8)
    directions = np.ascontiguousarray(svd.components_.T).astype(np.float16)
    return {_VOCABULARY: encoded, _IDF: vectoriser.idf_.astype(np.float32), _DIRECTIONS: directions}


def _too_little(model: str, texts: int, why: str) -> InputError:
    other = "take tfidf:chars, which knows emoji, single letters and numbers too" if model == "words" else ""
    return InputError(
        f"tfidf:{model} cannot be fitted to {texts} shared texts: {why}",
        f"{other or 'take a pretrained prior, such as wordllama:256'}; or share more rows (encode.shared)",
    )


def load_fitted(model: str, input_size: int | None, samples: Samples, state: Location) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)
    arrays, weights = read_state(state)
    dim = _checked(state, arrays)[_DIRECTIONS].shape[1]
    info = PriorInfo(
        f"tfidf:{model}",
        dim,
        dim,
        f"TF-IDF of {model}, {len(arrays[_IDF])} n-grams, {dim} singular directions, fitted to the shared set",
        weights,
        "the shared set's own",
        "text",
    )
    return LoadedPrior(info, nn.Identity(), VectorInput(dim, Transform(model, str(state))))


@lru_cache(_KEPT)
def _fitted(kind: str, state: str) -> tuple[_Vectoriser, Float32Array]:
    file = Location.parse(state)
    arrays = _checked(file, read_state(file)[0])
    settings = {name: value for name, value in _KINDS[kind].items() if name not in ("min_df", "max_features")}
    vectoriser = _vectoriser(kind, {**settings, "vocabulary": json.loads(arrays[_VOCABULARY].tobytes())})
    vectoriser.idf_ = arrays[_IDF]
    return vectoriser, arrays[_DIRECTIONS].astype(np.float32)


def _checked(file: Location, arrays: Arrays) -> Arrays:
    """Refuses a state of another prior."""
    there = {_VOCABULARY, _IDF, _DIRECTIONS} <= set(arrays)
    if not there or arrays[_DIRECTIONS].ndim != 2 or len(arrays[_DIRECTIONS]) != len(arrays[_IDF]):
        raise InputError(f"{file} is no state of tfidf", "encode again elsewhere")
    return arrays


def _vectoriser(kind: str, settings: dict[str, Any]) -> _Vectoriser:
    made = _library(kind, "sklearn.feature_extraction.text").TfidfVectorizer(**settings, dtype=np.float32)
    return cast(_Vectoriser, made)


def _library(model: str, name: str) -> ModuleType:
    return library(name, f"tfidf:{model}", "pip install 'coevo-ray[text]'")
