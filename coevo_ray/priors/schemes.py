"""The schemes of priors: which module loads `scheme:model`, how it is written, and which samples it takes.

A new prior is a module with `check` and `load` (see `registry.Adapter`) and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """One scheme.

    Attributes:
        module: the adapter, imported when the scheme is used.
        form: how a prior of the scheme is written.
        takes: modality -> how a prior for it is written; modalities that are missing are refused.
        model: the model where none is named; "" where one must be.
        fitted: whether a prior is fitted to the shared set before it encodes; see `registry.FittedAdapter`.
    """

    module: str
    form: str
    takes: dict[str, str]
    model: str = ""
    fitted: bool = False


def _images(name: str, form: str) -> Scheme:
    return Scheme(f"coevo_ray.priors.{name}", form, {"image": form})


def _texts(name: str, form: str, model: str = "") -> Scheme:
    return Scheme(f"coevo_ray.priors.{name}", form, {"text": form}, model)


_OPEN_CLIP, _CALLABLE = "open_clip:MODEL/PRETRAINED", "callable:package.module:Class"
SCHEMES: dict[str, Scheme] = {
    "efficientnet_lite": _images("efficientnet_lite", "efficientnet_lite:0|1|2"),
    "open_clip": Scheme(
        "coevo_ray.priors.open_clip", _OPEN_CLIP, {"image": _OPEN_CLIP, "text": f"{_OPEN_CLIP} (its text tower)"}
    ),
    "torchvision": _images("torchvision", "torchvision:MODEL/WEIGHTS"),
    "timm": _images("timm", "timm:MODEL[.TAG]"),
    "wordllama": _texts("wordllama", "wordllama:256|128|64[#windows]", "256"),
    "model2vec": _texts("model2vec", "model2vec:MODEL_OR_PATH[#windows]"),
    "sentence_transformers": _texts("sentence_transformers", "sentence_transformers:MODEL_OR_PATH[#windows]"),
    "hf": _texts("hf", "hf:MODEL_OR_PATH#mean|cls|last|max[+windows]"),
    "tfidf": Scheme("coevo_ray.priors.tfidf", "tfidf:words|chars", {"text": "tfidf:words|chars"}, "words", fitted=True),
    "file": _images("file", "file:/PATH#ARCHITECTURE"),
    "callable": Scheme(
        "coevo_ray.priors.user", _CALLABLE, {"image": _CALLABLE, "text": f"{_CALLABLE} with tokenize and context"}
    ),
    "column": Scheme("coevo_ray.priors.column", "column:NAME", {}),  # features of any pool
}
FORMS = ", ".join(scheme.form for scheme in SCHEMES.values())


def forms_for(modality: str) -> list[str]:
    """Spellings of the priors for a modality; empty where there are none."""
    return [scheme.takes[modality] for scheme in SCHEMES.values() if modality in scheme.takes]
