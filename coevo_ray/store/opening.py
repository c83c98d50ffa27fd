"""One way in: a path, a `Location` or an object that a function returned becomes the artifact that is needed.

The output of a command, and that of a run, holds several artifacts. Either is taken where one of them is needed: the
targets that `encode` made, the model that `sae` made, the labels of a run.
"""

from __future__ import annotations

from coevo_ray.store.artifact import Artifact
from coevo_ray.store.layout import EVIDENCE, FactorLayout, RunLayout
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.row_table import RowTable

# `sae` returns its scores; the folders beside them are of the same output.
_SCORES = "scores"


def locate(what: ArtifactLike, kind: str | None) -> Location:
    """Finds the artifact of a kind: at a folder, or else in the place where the output of a command or a run has it.

    Args:
        what: path, URI, `Location`, or an object with one.
        kind: kind of the artifact; None accepts any, and prefers targets where a folder is none itself.

    Returns:
        Its folder; that of `what` itself where nothing better is there, so that opening it tells what is missing.

    Raises:
        UsageError: it is nothing that could be opened.
        InputError: a manifest cannot be read.
    """
    location = Location.parse(what)
    have = _kind(location)
    if have is not None and kind in (None, have):
        return location
    wanted = "targets" if kind is None else kind
    places = _inside(location, wanted)
    if have == _SCORES:
        places += _inside(location.parent, wanted)
    return next((place for place in places if _kind(place) == wanted), location)


def open_table(what: ArtifactLike, kind: str | None) -> RowTable:
    """Opens the table that is needed; one that is open already passes through.

    Args:
        what, kind: as in `locate`.

    Raises:
        InputError: there is no such table; the remedy names the command that makes it.
        UsageError: it is nothing that could be opened.
    """
    if isinstance(what, RowTable) and kind in (None, what.manifest.kind):
        return what
    return RowTable(locate(what, kind), kind)


def open_artifact(what: ArtifactLike, kind: str) -> Artifact:
    """Opens an artifact that is no table, such as a model; one that is open already passes through.

    Args:
        what, kind: as in `locate`.

    Raises:
        InputError: there is no such artifact; the remedy names the command that makes it.
        UsageError: it is nothing that could be opened.
    """
    if isinstance(what, Artifact) and what.manifest.kind == kind:
        return what
    return Artifact.open(locate(what, kind), kind)


def _kind(location: Location) -> str | None:
    """The kind of the finished artifact at a folder, or None."""
    return load_manifest(location).kind if location.child(MANIFEST).is_file() else None


def _inside(folder: Location, kind: str) -> list[Location]:
    """Places of an artifact of a kind: in the output of a command, and then in that of a run."""
    factors, run = FactorLayout.of(folder), RunLayout.of(folder)
    places = {
        "pool": [run.pool],
        "targets": [folder.child("targets"), run.targets],
        "sae": [factors.model, run.factors.model],
        "codes": [factors.codes, run.factors.codes],
        "factors": [factors.table, run.factors.table],
        "scores": [factors.scores, run.factors.scores],
        "graph": [folder.child("graph"), run.graph],
        "labels": [run.gate],
        "pseudo_labels": [folder.child("pseudo_labels")],
        "evidence": [folder.child(EVIDENCE), run.evidence],
    }
    return places.get(kind, [])
