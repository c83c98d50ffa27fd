"""`coevo-ray demo`: the whole loop on real data, without a download.

It is the same run as examples/digits.yaml, with `--texts` as examples/texts.yaml.
"""

from __future__ import annotations

from coevo_ray.app.run import run
from coevo_ray.config import RunConfig, make_config
from coevo_ray.core.json import JsonObject
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.location import Place

_DIGITS: JsonObject = {
    "title": "Handwritten digits",
    "pool": {"sources": ["sample:digits"], "test_fraction": 0.2, "shard_rows": 600},
    "encode": {
        "priors": [
            {"name": "efficientnet_lite:0", "input_size": 64},
            {"name": "efficientnet_lite:1", "input_size": 64},
        ],
        "dim": 128,
        "shared": 0.2,
    },
    "sae": {"latents": 256, "k": 16, "epochs": 40},
    "gate": {"seed_fraction": 0.05, "round_fraction": 0.05},
    "train": {
        "model": "small_cnn",
        "image_size": 16,
        "augment": "shift",
        "labels": "pool",
        "policies": ["full", "random", "rotation", "factors"],
        "keep": 0.5,
        "epochs": 10,
    },
}


_TEXTS: JsonObject = {
    "title": "Docstrings",
    "pool": {
        "sources": [{"uri": "sample:docstrings", "text_column": "text", "key_column": "id"}],
        "test_fraction": 0.2,
        "shard_rows": 2048,
    },
    "encode": {
        "priors": [{"name": "wordllama:256"}, {"name": "tfidf:chars"}],
        "dim": 128,
        "shared": 0.2,
        "coverage": "all",
    },
    "sae": {"latents": 512, "k": 16, "epochs": 20},
    "gate": {"seed_fraction": 0.05, "round_fraction": 0.05},
    "train": {
        "model": "linear",
        "features": "targets",
        "labels": "pool",
        "policies": ["full", "random", "factors"],
        "keep": 0.5,
    },
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
