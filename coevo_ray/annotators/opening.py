"""Settings -> the annotator that they describe, for every kind that is registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coevo_ray.annotators.base import Annotator, Desk
from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_column import LabelColumn
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import Connection
from coevo_ray.annotators.label_studio_recipients import allow, require
from coevo_ray.config.annotators import (
    BaseAnnotatorSettings,
    FileDropSettings,
    LabelColumnSettings,
    LabelStudioSettings,
    SettingsT,
    UnopenedSettings,
    annotator_kinds,
    register_settings,
)
from coevo_ray.errors import UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import STAGES, require_stages
from coevo_ray.store.location import Location


@dataclass(frozen=True)
class _Kind:
    open: Callable[[Any, Pool, tuple[str, ...]], Annotator | Desk]
    check: Callable[[Any], None] | None


_KINDS: dict[type[BaseAnnotatorSettings], _Kind] = {}


def register_annotator(
    settings: type[SettingsT],
    open: Callable[[SettingsT, Pool, tuple[str, ...]], Annotator | Desk],
    check: Callable[[SettingsT], None] | None = None,
) -> None:
    """Makes a kind of annotator known: to settings, to the command line and to `open_annotator`.

    Args:
        settings: their model, whose field `kind` is a literal with a default. A module that is named in settings as
            `package.module:NAME` registers that whole text as the kind.
        open: settings, pool and names of the classes (empty where there are none) -> the annotator.
        check: what can be looked at before there is a pool; raises `UsageError`.

    Raises:
        UsageError: other settings have this kind.
    """
    _KINDS[register_settings(settings)] = _Kind(open, check)


def open_annotator(settings: BaseAnnotatorSettings, pool: Pool, class_names: Sequence[str] = ()) -> Annotator | Desk:
    """Opens an annotator; settings that do not fit the pool are found here, before any work.

    Args:
        settings: its kind, and how it works.
        pool: whose rows are asked about.
        class_names: names of the classes; empty takes those that the pool was read with, if it had any.

    Raises:
        InputError: it cannot answer for this pool.
        UsageError: it cannot show the pool's samples, a package or a token is missing, or nothing opens this kind.
    """
    if settings.kind in STAGES:  # an annotator of the user's own knows itself what it shows
        require_stages([settings.kind], pool.modality, f"the pool at {pool.location}")
    names = tuple(class_names) or tuple(pool.manifest.summary.get("class_names") or ())
    return _kind(settings).open(settings, pool, names)


def open_stored(
    settings: BaseAnnotatorSettings,
    origin: object,
    pool: Pool,
    class_names: Sequence[str] = (),
    trust: Sequence[str] = (),
    url: str | None = None,
) -> Annotator | Desk:
    """Opens an annotator that a folder names, which may be anybody's: see `open_annotator`.

    Args:
        settings: as the folder has them.
        origin: the folder, for errors.
        pool, class_names: as in `open_annotator`.
        trust: kinds of users' modules, `package.module:NAME` each, that the caller lets be imported.
        url: the server that the caller lets the token be sent to; None for those that were named on this machine.

    Raises:
        InputError: it cannot answer for this pool.
        UsageError: as in `open_annotator`; or it is of a module that `trust` does not name, or of a server that nobody
            on this machine named.
    """
    if isinstance(settings, UnopenedSettings):
        if settings.kind not in trust:
            raise UsageError(
                f"the gate {origin} names the annotator {settings.kind}, whose module would be imported and run",
                f"if you trust that module on this machine, say so: --trust {settings.kind}, or in Python "
                f"trust=({settings.kind!r},)",
            )
        settings = settings.opened()
    if isinstance(settings, LabelStudioSettings):
        require(settings.url, url, origin)
    elif url is not None:
        raise UsageError(f"a url for an annotator {settings.kind}", "leave --url out")
    return open_annotator(settings, pool, class_names)


def note_given(settings: BaseAnnotatorSettings) -> None:
    """Notes that somebody on this machine gave these settings: a token may go where they say."""
    if isinstance(settings, LabelStudioSettings):
        allow(settings.url)


def check_annotator(settings: BaseAnnotatorSettings) -> None:
    """Checks what can be known of an annotator before there is a pool.

    Raises:
        UsageError: a package or a token is missing, the folder of a file drop cannot be written, or nothing opens this
            kind.
    """
    check = _kind(settings).check
    if check is not None:
        check(settings)


def _kind(settings: BaseAnnotatorSettings) -> _Kind:
    if type(settings) not in _KINDS:
        known = [kind for kind, model in annotator_kinds().items() if model in _KINDS]
        raise UsageError(
            f"nothing opens an annotator {settings.kind!r}",
            f"call register_annotator for it, or give one of {', '.join(known)}",
        )
    return _KINDS[type(settings)]


def _open_label_column(settings: LabelColumnSettings, pool: Pool, names: tuple[str, ...]) -> LabelColumn:
    return LabelColumn(pool, settings.noise, settings.seed)


def _open_file_drop(settings: FileDropSettings, pool: Pool, names: tuple[str, ...]) -> FileDrop:
    return FileDrop(Location.parse(settings.folder), pool, names, settings.format, settings.images)


def _check_file_drop(settings: FileDropSettings) -> None:
    Location.parse(settings.folder).check_writable()


def _open_label_studio(settings: LabelStudioSettings, pool: Pool, names: tuple[str, ...]) -> LabelStudio:
    return LabelStudio(settings.url, settings.project, pool, names, settings.url_template)


def _check_label_studio(settings: LabelStudioSettings) -> None:
    Connection(settings.url)  # looks for package and token; the server is not asked


register_annotator(LabelColumnSettings, _open_label_column)
register_annotator(FileDropSettings, _open_file_drop, _check_file_drop)
register_annotator(LabelStudioSettings, _open_label_studio, _check_label_studio)
