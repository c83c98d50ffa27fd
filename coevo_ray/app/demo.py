"""`coevo-ray demo`: the whole loop on real data that need no download; the same run as examples/digits.yaml."""

from __future__ import annotations

from coevo_ray.app.run import run
from coevo_ray.config import RunConfig, make_config
from coevo_ray.core.json import JsonObject
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.location import Place

_CONFIG: JsonObject = {
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


def demo_config(out: Place) -> RunConfig:
    """The demo's configuration.

    Raises:
        UsageError: `out` is empty.
    """
    return make_config(RunConfig, {**_CONFIG, "out": str(out)}, "demo")


def demo(out: Place = "coevo-demo") -> Artifact:
    """Runs the demo.

    Args:
        out: folder of the run.

    Returns:
        The run, as `coevo_ray.run` does.

    Raises:
        CoevoError: as `coevo_ray.run`.
    """
    return run(demo_config(out))
