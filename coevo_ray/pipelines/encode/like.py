"""The space of targets that are there, into which another pool is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.consensus_files import StoredConsensus, read_consensus
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest


@dataclass(frozen=True, eq=False)
class Like:
    """Targets whose space is used.

    Attributes:
        location: their folder.
        priors: name and weights' hash of each of their priors.
        stored: their consensus.
    """

    location: Location
    priors: tuple[tuple[str, str], ...]
    stored: StoredConsensus

    def place(self, label: str, weights: str) -> int:
        """Position of a prior.

        Raises:
            InputError: it has other weights than the targets' prior of this name.
        """
        place = [name for name, _ in self.priors].index(label)
        if self.priors[place][1] != weights:
            raise InputError(
                f"{label} has weights {weights[:12]}, the targets {self.location} were made with "
                f"{self.priors[place][1][:12]}",
                "use the same weights, or encode into a space of its own",
            )
        return place


def open_like(location: Location, labels: Sequence[str]) -> Like:
    """Reads the space of targets.

    Args:
        location: their folder, or that of an `encode` with `targets/` inside.
        labels: names of the priors that are wanted.

    Raises:
        InputError: there are no targets in a latent.
        UsageError: a prior is not among theirs.
    """
    inside = location.child("targets")
    location = inside if inside.child("manifest.json").is_file() else location
    manifest = load_manifest(location, "targets")
    summary = manifest.summary
    if "latent_of" not in summary:
        raise InputError(
            f"{location} are targets with a reference prior",
            "encode with projection random and the same priors, dim and seed instead of like",
        )
    priors = tuple((prior["name"], prior["prior"]["weights"]) for prior in summary["priors"])
    known = [name for name, _ in priors]
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise UsageError(f"priors {unknown} are not among those of {location}: {known}", "name some of theirs")
    return Like(location, priors, read_consensus(location, manifest, len(priors)))
