"""The identity of a pool, and appends: further sources for a finished pool, whose files stay unchanged.

New rows go to new files, which become visible when the manifest is replaced, in one step and last. Until then
`_append.json` states what is being appended, so that it is continued and not mixed with another append.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coevo_ray.config import PoolConfig, Source, make_config
from coevo_ray.config.pool import IMAGE, SAMPLE_SETTINGS
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Reading
from coevo_ray.pool.modality import find_modality
from coevo_ray.pool.rejects import Reject, read_rejects
from coevo_ray.pool.sources import placed
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, FileEntry, Manifest, load_manifest

_MARK = "_append.json"
_DATA = re.compile(r"(rows|rejects)-(\d{6,})\.parquet")
_FREE = {"sources", "compute", "max_reject_fraction"}  # settings that an append may change
# Later settings: left out at these values, so that older pools can be continued.
_LATER: JsonObject = {"max_side": None, "reject_duplicates": "key"}
_LATER_SOURCE: JsonObject = {
    **{setting.column: None for name, setting in SAMPLE_SETTINGS.items() if name != IMAGE},
    "feature_columns": [],
    "key_prefix": None,
    "folders": "auto",
}


@dataclass(frozen=True)
class Earlier:
    """The pool that is appended to; without a manifest a new one is made.

    Attributes:
        manifest: of the pool.
        again: URIs of sources that it has, of which only new samples are taken.
    """

    manifest: Manifest | None = None
    again: frozenset[str] = frozenset()

    @property
    def rows(self) -> int:
        """Its number of rows; new row_ids start here."""
        return self.manifest.rows if self.manifest else 0

    @property
    def files(self) -> list[FileEntry]:
        """Its files with rows, in the order of row_ids."""
        files = self.manifest.files if self.manifest else ()
        return sorted((f for f in files if f.rows), key=lambda f: f.first_row_id)

    @property
    def summary(self) -> JsonObject:
        """Figures of its manifest."""
        return self.manifest.summary if self.manifest else {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Its class names."""
        return tuple(self.summary.get("class_names", ()))

    @property
    def next_file(self) -> int:
        """The first free number of a file of rows."""
        numbers = [int(m[2]) for f in self.files if (m := _DATA.fullmatch(f.path))]
        return max(numbers, default=-1) + 1

    @property
    def parts(self) -> list[JsonObject]:
        """Sources, first row_id and rows of the first ingest and of each append."""
        if not self.manifest:
            return []
        whole = {"sources": [s["uri"] for s in self.manifest.config["sources"]], "first_row_id": 0, "rows": self.rows}
        parts: list[JsonObject] = self.summary.get("parts", [whole])
        return parts

    def alone(self, uri: str) -> bool:
        """Tests whether a source was ingested alone, so that its keys have no prefix."""
        return any(part["sources"] == [uri] for part in self.parts)

    def without_known(self, rejects: list[Reject], location: Location) -> list[Reject]:
        """Rejects that the pool does not list already, where samples of a source are looked through again."""
        if not self.again:
            return rejects
        listed = set(read_rejects(location))
        return [reject for reject in rejects if reject not in listed]

    def check(self, reading: Reading, class_names: tuple[str, ...]) -> None:
        """Refuses samples that do not fit the pool.

        Raises:
            InputError: they have another modality or other vectors, or class names where the pool's labels have none.
        """
        if self.manifest is None:
            return
        modality, features = self.summary.get("modality", IMAGE), self.summary.get("features", {})
        if reading.modality != modality:
            have, new = (find_modality(name).plural for name in (modality, reading.modality))
            raise InputError(f"the pool holds {have}, {reading.uri} {new}", "make a pool of each")
        if dict(reading.features) != features:
            raise InputError(
                f"the pool keeps the vectors {features}, {reading.uri} gives {dict(reading.features)}",
                "name the same feature_columns, with the same dimensions",
            )
        if class_names and not self.class_names and self.summary.get("labelled"):
            raise InputError(
                f"the pool's labels are numbers without names, {reading.uri} has {list(class_names)[:8]}",
                "give labels as numbers in a Parquet column (format: parquet)",
            )


def content(config: PoolConfig) -> JsonObject:
    """The settings that identify a pool; the limit of rejects may be raised to continue a job that it ended."""
    result = config.model_dump(mode="json", exclude={"compute", "max_reject_fraction"})
    result["sources"] = [_without(source, _LATER_SOURCE) for source in result["sources"]]
    return _without(result, _LATER)


def at_places(config: PoolConfig, begun: JsonObject | None) -> PoolConfig:
    """The settings with absolute paths of sources; those that a begun pool has as they were given stay so.

    Args:
        config: as the user gave it.
        begun: settings of the pool that is begun or finished in the folder.

    Raises:
        UsageError: a store cannot be opened.
    """
    known = {source["uri"] for source in begun["sources"]} if begun is not None else set()
    return config.model_copy(update={"sources": tuple(placed(source, known) for source in config.sources)})


def _without(settings: JsonObject, later: JsonObject) -> JsonObject:
    return {k: v for k, v in settings.items() if k not in later or v != later[k]}


def begin_append(config: PoolConfig | JsonObject, location: Location) -> tuple[PoolConfig, Earlier]:
    """Starts or continues an append.

    Args:
        config: the sources; other settings are inherited from the pool, and may only repeat its values.
        location: the pool.

    Returns:
        The settings with these sources, and the pool, which says which of them it has already.

    Raises:
        InputError: there is no finished pool.
        UsageError: settings differ from the pool's, another append is unfinished, or the folder cannot be written.
    """
    manifest = load_manifest(location, "pool")
    settings = _settings(config, manifest, location)
    there = [Source.model_validate(source) for source in manifest.config["sources"]]
    again = frozenset(source.uri for source in settings.sources if source in there)
    location.check_writable()
    _mark(location.child(_MARK), {"base": manifest.identity, "sources": content(settings)["sources"]}, location)
    return settings, Earlier(manifest, again)


def end_append(location: Location) -> None:
    """Removes the mark of a finished append.

    Raises:
        StoppedError: the store refused.
    """
    location.child(_MARK).delete_file()


def _settings(config: PoolConfig | JsonObject, manifest: Manifest, location: Location) -> PoolConfig:
    given = config.model_dump(mode="json", exclude_unset=True) if isinstance(config, PoolConfig) else dict(config)
    inherited = {k: v for k, v in manifest.config.items() if k != "sources"}
    settings = at_places(make_config(PoolConfig, {**inherited, **given}, "pool"), manifest.config)
    asked, known = content(settings), {**_LATER, **inherited}
    changes = [
        f"{name}: there {known.get(name)!r}, asked for {getattr(settings, name)!r}"
        for name in given
        if name not in _FREE and asked.get(name, _LATER.get(name)) != known.get(name)
    ]
    if changes:
        raise UsageError(
            f"{location} was made with other settings: {'; '.join(changes)}",
            "leave them out: appended rows get the pool's settings",
        )
    return settings


def _mark(mark: Location, wanted: JsonObject, location: Location) -> None:
    begun = mark.read_json() if mark.is_file() else None
    if begun == wanted:
        return
    left = unlisted_files(location)
    # An append that failed before its first file is forgotten.
    if begun is not None and begun["base"] == wanted["base"] and left:
        have, asked = ([source["uri"] for source in m["sources"]] for m in (begun, wanted))
        raise UsageError(
            f"another append to {location} is unfinished: there {have}, asked for {asked}",
            f"append {have} again, which finishes it, or delete {mark} to abandon it",
        )
    # Files of an abandoned append would otherwise count as this one's.
    for name in left:
        location.child(name).delete_file()
    mark.write_json(wanted)


def unlisted_files(location: Location) -> list[str]:
    """Data files that the manifest does not list: those of an interrupted attempt."""
    listed = {file.path for file in load_manifest(location).files} if location.child(MANIFEST).is_file() else set()
    return [name for name in location.files() if _DATA.fullmatch(name) and name not in listed]
