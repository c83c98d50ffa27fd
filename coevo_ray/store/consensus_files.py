"""A consensus on disk: the latent, and of each prior its components and its map, as one safetensors file.

With it features of any pool come to the targets' space, without the shared set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.core.alignment.components import Components
from coevo_ray.core.alignment.consensus import Consensus, Latent, PriorMap
from coevo_ray.core.arrays import Arrays
from coevo_ray.errors import InputError
from coevo_ray.store.checked import read_checked
from coevo_ray.store.content_name import content_name
from coevo_ray.store.digests import digest
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest

_REMEDY = "restore it, or merge the contributions again elsewhere"
PREFIX = "consensus-"  # a hash of the content follows: the file of former targets stays until a new manifest is there


@dataclass(frozen=True, eq=False)
class StoredConsensus:
    """A consensus and what it takes to use it.

    Attributes:
        consensus: the latent, and a map for each prior.
        components: of each prior.
        founders: identities of the contributions that the latent was fitted to.
        shared_rows: rows of the shared set that all contributions have.
        lacking: rows of it that some contribution lacks.
    """

    consensus: Consensus
    components: tuple[Components, ...]
    founders: tuple[str, ...]
    shared_rows: int
    lacking: int

    @property
    def space(self) -> str:
        """Hash of the latent: targets of one space have the same."""
        latent = self.consensus.latent
        return digest([a.tobytes().hex() for a in (latent.mean, latent.matrix, latent.colour)])

    def only(self, place: int) -> StoredConsensus:
        """The same with one prior."""
        return StoredConsensus(
            Consensus(self.consensus.latent, (self.consensus.priors[place],)),
            (self.components[place],),
            self.founders,
            self.shared_rows,
            self.lacking,
        )


def to_bytes(stored: StoredConsensus) -> bytes:
    """The content of the file: `latent.*`, and `prior.K.*` for the prior at position K."""
    latent = stored.consensus.latent
    arrays: Arrays = {
        "latent.mean": latent.mean,
        "latent.matrix": np.ascontiguousarray(latent.matrix),
        "latent.colour": np.ascontiguousarray(latent.colour),
        "latent.rows": np.array([stored.shared_rows, stored.lacking], dtype=np.int64),
    }
    for place, prior in enumerate(stored.consensus.priors):
        arrays[f"prior.{place}.matrix"] = np.ascontiguousarray(prior.matrix)
        arrays[f"prior.{place}.offset"] = prior.offset
        arrays[f"prior.{place}.about"] = np.array([prior.r2, prior.ridge, prior.weight, prior.rows])
        arrays |= {
            f"components.{place}.{name}": array
            for name, array in components_to_arrays(stored.components[place]).items()
        }
    return save_safetensors(arrays)


def file_name(content: bytes) -> str:
    """Name of the file with this content."""
    return content_name(PREFIX, content)


def read_consensus(location: Location, manifest: Manifest, priors: int) -> StoredConsensus:
    """Reads the consensus of targets or of a contribution.

    Args:
        location: the folder.
        manifest: its manifest, which names the file.
        priors: number of its priors.

    Raises:
        InputError: there is none, or it is damaged.
    """
    names = [entry.path for entry in manifest.files if entry.path.startswith(PREFIX)]
    if not names or not location.child(names[0]).is_file():
        raise InputError(f"{location} has no consensus", "give targets with consensus latent")
    file, founders = location.child(names[0]), manifest.summary.get("latent_of")
    if not isinstance(founders, list) or not all(isinstance(founder, str) for founder in founders):
        raise InputError(f"the manifest of {location} does not say whose its latent is", _REMEDY)
    data = read_checked(location, manifest, names[0])
    try:
        arrays = load_safetensors(data)
        _check_finite(arrays)
        latent = Latent(arrays["latent.mean"], arrays["latent.matrix"], arrays["latent.colour"])
        rows, lacking = arrays["latent.rows"].tolist()
        maps = tuple(_map(arrays, place) for place in range(priors))
        components = tuple(components_of(arrays, f"components.{place}.") for place in range(priors))
        _check_shapes(latent, maps, components)
    except (SafetensorError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{file} is damaged: {ascii(str(error))[:200]}", _REMEDY) from error
    return StoredConsensus(Consensus(latent, maps), components, tuple(founders), rows, lacking)


def _check_finite(arrays: Arrays) -> None:
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"NaN or infinity in {', '.join(wrong[:3])}")


def _check_shapes(latent: Latent, maps: tuple[PriorMap, ...], components: tuple[Components, ...]) -> None:
    """Checks the parts against each other; see `Latent`, `PriorMap` and `Components`."""
    kept, dim = latent.matrix.shape
    wrong = latent.mean.shape != (kept,) or latent.colour.shape != (dim, dim)
    for prior, part in zip(maps, components, strict=True):
        wrong |= prior.matrix.shape != (part.directions.shape[1], dim) or prior.offset.shape != (dim,)
        wrong |= part.mean.shape != part.directions.shape[:1]
    if wrong:
        raise ValueError("its arrays do not fit together")


def components_to_arrays(components: Components) -> Arrays:
    """Components as named arrays."""
    about = np.array([components.explained, components.rows])
    directions = np.ascontiguousarray(components.directions)
    return {"mean": components.mean, "directions": directions, "about": about}


def components_of(arrays: Arrays, prefix: str = "") -> Components:
    """Components from named arrays.

    Raises:
        KeyError: one is missing.
    """
    explained, rows = arrays[f"{prefix}about"].tolist()
    return Components(arrays[f"{prefix}mean"], arrays[f"{prefix}directions"], explained, int(rows))


def _map(arrays: Arrays, place: int) -> PriorMap:
    r2, ridge, weight, rows = arrays[f"prior.{place}.about"].tolist()
    return PriorMap(arrays[f"prior.{place}.matrix"], arrays[f"prior.{place}.offset"], r2, ridge, weight, int(rows))
