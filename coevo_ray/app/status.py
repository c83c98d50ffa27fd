"""`coevo-ray status`: the progress of a run or any other folder of artifacts, from the store alone, alive or dead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone

import pyarrow.parquet as pq

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import CoevoError, InputError, StoppedError
from coevo_ray.store.json_text import object_of
from coevo_ray.store.layout import METRICS
from coevo_ray.store.lease import Holder
from coevo_ray.store.listing import FileFacts, list_files
from coevo_ray.store.location import LEASE, ArtifactLike, Location
from coevo_ray.store.manifest import MANIFEST, STARTED, Manifest, load_manifest

ERROR = "_error.json"  # why the last run of a folder ended early
FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"
_OF_SUMMARY = ("rejected", "seconds")
_MOST_READ = 1000  # parts whose rows are read; of more the rest is estimated by size


def status(folder: ArtifactLike) -> JsonObject:
    """Reports what is finished at and below a folder, what is being made, by whom, and what went wrong.

    Args:
        folder: of a run or of any artifact, on any store; no Ray is needed.

    Returns:
        `folder`; `state`: finished, running (a process holds a lease) or stopped; `error`: `cause`, `remedy`,
        `exit_code` and `time` of the last run that ended early, or None; `artifacts`, in the order in which they were
        begun: `artifact` (path below the folder), `kind`, `state`; of finished ones `rows`, `rejected`, `seconds` and
        `created`; of others `writer`, `files`, `bytes`, `rows` and `rows_per_s` of existing parts, `share` of the
        pool's rows or of the epochs if known, `last_change`.

    Raises:
        InputError: there is no artifact at or below the folder.
    """
    location = Location.parse(folder)
    files = list_files(location) if location.is_folder() else {}
    below = {name.rpartition("/")[0] for name in files if name.rpartition("/")[2] in (MANIFEST, STARTED)}
    if not below:
        raise InputError(f"there is no artifact at or below {location}", "give the folder of a run, or one above")
    views = [_View.of(location, name, files, below) for name in below]
    views.sort(key=lambda view: (view.begun, view.name))
    rows = next((view.manifest.rows for view in views if view.kind == "pool" and view.manifest), None)
    artifacts = [view.facts(rows) for view in views]
    writers = [each["writer"] for each in artifacts if each.get("writer")]
    unfinished = any(each["state"] != FINISHED for each in artifacts)
    state = RUNNING if writers else STOPPED if unfinished else FINISHED
    return {"folder": str(location), "state": state, "error": _error_of(location, files), "artifacts": artifacts}


@contextmanager
def noting_error(folder: Location) -> Iterator[None]:
    """Leaves an error that ends work part-way where `status` finds it, until such work ends well.

    Args:
        folder: of the run.
    """
    file = folder.child(ERROR)
    try:
        yield
    except (InputError, StoppedError) as error:
        told = {"cause": error.cause, "remedy": error.remedy, "exit_code": error.exit_code, "time": _now().isoformat()}
        with suppress(CoevoError, OSError):  # the store may be what failed
            file.write_json(told)
        raise
    if file.is_file():
        file.delete_file()


@dataclass(frozen=True)
class _View:
    """One artifact and its files.

    Attributes:
        location: its folder.
        name: of the folder, below the one that is looked at.
        files: its own, by name, without those of artifacts inside it.
        manifest: of a finished one.
        kind: of artifact.
        config: the settings that shape it.
        begun: when, UTC, as text.
    """

    location: Location
    name: str
    files: Mapping[str, FileFacts]
    manifest: Manifest | None
    kind: str
    config: JsonObject
    begun: str

    @classmethod
    def of(cls, folder: Location, name: str, files: Mapping[str, FileFacts], below: set[str]) -> _View:
        """Inspects one of the folders that hold artifacts."""
        location = folder.child(*name.split("/")) if name else folder
        start = f"{name}/" if name else ""
        inner = tuple(f"{other}/" for other in below if other != name and other.startswith(start))
        own = {
            file.removeprefix(start): facts
            for file, facts in files.items()
            if file.startswith(start) and not file.startswith(inner)
        }
        if MANIFEST in own:
            manifest = load_manifest(location)
            begun = own[STARTED].changed if STARTED in own else own[MANIFEST].changed
            return cls(location, name, own, manifest, manifest.kind, manifest.config, begun.isoformat())
        file = location.child(STARTED)
        content = object_of(file.read_json(), file, {"kind": str, "config": dict})
        return cls(location, name, own, None, content["kind"], content["config"], own[STARTED].changed.isoformat())

    def facts(self, pool_rows: int | None) -> JsonObject:
        """Its entry among the artifacts of `status`."""
        told: JsonObject = {"artifact": self.name or ".", "kind": self.kind}
        writer = self._writer()
        if self.manifest is not None:
            manifest = self.manifest
            told |= {"state": FINISHED, "rows": manifest.rows, "created": manifest.created, "writer": writer}
            return told | {name: value for name, value in manifest.summary.items() if name in _OF_SUMMARY}
        parts = {name: facts for name, facts in self.files.items() if not name.rpartition("/")[2].startswith("_")}
        times = sorted(facts.changed for facts in parts.values())
        rows = self._rows_there(parts)
        told |= {
            "state": RUNNING if writer else STOPPED,
            "writer": writer,
            "files": len(parts),
            "bytes": sum(facts.size for facts in parts.values()),
            "rows": rows,
            "share": self._share(rows, pool_rows),
            "last_change": (times[-1] if times else self.files[STARTED].changed).isoformat(timespec="seconds"),
        }
        seconds = (times[-1] - times[0]).total_seconds() if len(times) > 1 else 0.0
        return {**told, "rows_per_s": round(rows / seconds, 1) if rows and seconds > 0 else None}

    def _writer(self) -> str | None:
        """Describes the holder of its lease; None if it is free."""
        if LEASE not in self.files:
            return None
        holder = Holder.of(self.location.child(LEASE).read_bytes())
        if holder is None or holder.state() == "free":
            return None
        if holder.state() == "unknown":  # of another machine: its clock may differ from ours by a little
            age = (_now() - datetime.fromisoformat(holder.renewed)).total_seconds()
            if age > 2 * holder.seconds:
                return None
        return holder.described()

    def _rows_there(self, parts: Mapping[str, FileFacts]) -> int:
        """Rows of the tables that are there."""
        tables = [name for name in sorted(parts) if name.endswith(".parquet")]
        read, size = 0, 0
        for name in tables[:_MOST_READ]:
            with suppress(OSError, ValueError):  # just replaced, or damaged
                place = self.location.child(*name.split("/"))
                with place.file_system.open_input_file(place.path) as file:
                    read += pq.ParquetFile(file).metadata.num_rows
                size += parts[name].size
        whole = sum(parts[name].size for name in tables)
        return round(read * whole / size) if size and len(tables) > _MOST_READ else read

    def _share(self, rows: int, pool_rows: int | None) -> float | None:
        """The part of the work that is done, where it is known."""
        epochs = self.config.get("epochs")
        if METRICS in self.files and isinstance(epochs, int):
            lines = self.location.child(METRICS).read_bytes().count(b"\n")
            return round(min(1.0, lines / epochs), 4)
        return round(min(1.0, rows / pool_rows), 4) if pool_rows and rows else None


def _error_of(location: Location, files: Mapping[str, FileFacts]) -> JsonObject | None:
    if ERROR not in files:
        return None
    file = location.child(ERROR)
    with suppress(InputError):
        return object_of(file.read_json(), file, {"cause": str, "remedy": str, "exit_code": int, "time": str})
    return None


def _now() -> datetime:
    return datetime.now(timezone.utc)
