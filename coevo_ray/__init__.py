"""coevo-ray: decide what data is worth, on Ray.

Each command of the command line is a function here: `ingest`, `encode`, `merge`, `sae`, `plan`, `gate`, `train`, `run`,
`report`, `doctor`, `demo`. They are imported when first used, so that `import coevo_ray` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coevo_ray._version import __version__

if TYPE_CHECKING:
    from coevo_ray.coevolve import run as run
    from coevo_ray.config import RunConfig as RunConfig
    from coevo_ray.config import load_config as load_config
    from coevo_ray.demo import demo as demo
    from coevo_ray.doctor import doctor as doctor
    from coevo_ray.pipelines.encode import encode as encode
    from coevo_ray.pipelines.ingest import ingest as ingest
    from coevo_ray.pipelines.merge import merge as merge
    from coevo_ray.pool.pool import Pool as Pool
    from coevo_ray.training.feed import Feed as Feed

_PUBLIC = {
    "Feed": "coevo_ray.training.feed",
    "Pool": "coevo_ray.pool.pool",
    "RunConfig": "coevo_ray.config",
    "demo": "coevo_ray.demo",
    "doctor": "coevo_ray.doctor",
    "encode": "coevo_ray.pipelines.encode",
    "ingest": "coevo_ray.pipelines.ingest",
    "load_config": "coevo_ray.config",
    "merge": "coevo_ray.pipelines.merge",
    "run": "coevo_ray.coevolve",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'coevo_ray' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
