"""Settings -> the annotator that they describe."""

from __future__ import annotations

from collections.abc import Sequence

from coevo_ray.annotators.base import Annotator, Desk
from coevo_ray.annotators.file_drop import FileDrop
from coevo_ray.annotators.label_column import LabelColumn
from coevo_ray.annotators.label_studio import LabelStudio
from coevo_ray.annotators.label_studio_connection import Connection
from coevo_ray.config.annotators import (
    AnnotatorSettings,
    FileDropSettings,
    LabelColumnSettings,
    LabelStudioSettings,
)
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location


def open_annotator(settings: AnnotatorSettings, pool: Pool, class_names: Sequence[str] = ()) -> Annotator | Desk:
    """Opens whoever answers; what does not fit is found here, before any work.

    Args:
        settings: which, and how.
        pool: whose rows are asked about.
        class_names: names of the classes; empty takes those that the pool was read with, if it had any.

    Raises:
        InputError: it cannot answer for this pool.
        UsageError: a package or a token is missing.
    """
    if isinstance(settings, LabelColumnSettings):
        return LabelColumn(pool, settings.noise, settings.seed)
    names = tuple(class_names) or tuple(pool.manifest.summary.get("class_names") or ())
    if isinstance(settings, FileDropSettings):
        return FileDrop(Location.parse(settings.folder), pool, names, settings.format, settings.images)
    return LabelStudio(settings.url, settings.project, pool, names, settings.url_template)


def check_annotator(settings: AnnotatorSettings) -> None:
    """Looks at what can be known of an annotator before there is a pool.

    Raises:
        UsageError: a package or a token is missing, or the folder of a file drop cannot be written.
    """
    if isinstance(settings, LabelStudioSettings):
        Connection(settings.url)
    elif isinstance(settings, FileDropSettings):
        Location.parse(settings.folder).check_writable()
