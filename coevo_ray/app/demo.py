"""`coevo-ray demo`: the whole loop on real data, without a download.

Its pool has the faults for which this package is, skewed classes and wrong labels; on clean, even pools random rows do
as well. It is the same run as examples/messy_digits.yaml, with `--texts` as examples/messy_texts.yaml.
"""

from __future__ import annotations

from coevo_ray.app.run import run
from coevo_ray.config import RunConfig, make_config
from coevo_ray.core.json import JsonObject
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.location import Place

_MESSY = (
    "The pool has the faults of real ones, made here: its smallest class has about a tenth of the rows of the largest, "
    "and one in five training labels is wrong, that of the most similar class. The test rows are clean, the same "
    "number of each class."
)


def _train(epochs: int) -> JsonObject:
    """A linear head on the targets; the weight decay is that of several which was best for random rows."""
    head = {"model": "linear", "features": "targets", "labels": "pool", "epochs": epochs, "weight_decay": 0.1}
    return {**head, "policies": ["full", "full_budget", "random", "factors"], "keep": 0.3}


_GATE: JsonObject = {"seed_fraction": 0.05, "round_fraction": 0.05}
_DIGITS: JsonObject = {
    "title": "Handwritten digits with the faults of real pools",
    "about": f"scikit-learn's handwritten digits. {_MESSY}",
    "pool": {"sources": ["sample:messy-digits"], "shard_rows": 600},
    "encode": {
        "priors": [{"name": f"efficientnet_lite:{size}", "input_size": 64} for size in range(3)],
        "dim": 128,
        "shared": 0.2,
        "coverage": "all",
    },
    "sae": {"latents": 256, "k": 16, "epochs": 40},
    "gate": _GATE,
    "train": _train(60),
}
_TEXTS: JsonObject = {
    "title": "Docstrings with the faults of real pools",
    "about": f"Docstrings of the installed libraries, by library. {_MESSY}",
    "pool": {
        "sources": [{"uri": "sample:messy-docstrings", "text_column": "text", "key_column": "id"}],
        "shard_rows": 2048,
    },
    "encode": {
        "priors": [{"name": "wordllama:256"}, {"name": "tfidf:chars"}],
        "dim": 128,
        "shared": 0.2,
        "coverage": "all",
    },
    "sae": {"latents": 512, "k": 16, "epochs": 20},
    "gate": _GATE,
    "train": _train(20),
}


def demo_config(out: Place | None = None, texts: bool = False) -> RunConfig:
    """The demo's configuration.

    Args:
        out: folder of the run; None for coevo-demo, or coevo-demo-text.
        texts: texts instead of images.

    Raises:
        UsageError: `out` is empty.
    """
    if out is None:
        out = "coevo-demo-text" if texts else "coevo-demo"
    return make_config(RunConfig, {**(_TEXTS if texts else _DIGITS), "out": str(out)}, "demo")


def demo(out: Place | None = None, texts: bool = False) -> Artifact:
    """Runs the demo.

    Args:
        out: folder of the run; None for coevo-demo, or coevo-demo-text.
        texts: texts instead of images: docstrings of the installed libraries instead of handwritten digits.

    Returns:
        The run, as `coevo_ray.run` does.

    Raises:
        CoevoError: as `coevo_ray.run`.
    """
    return run(demo_config(out, texts))
