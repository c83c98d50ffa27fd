"""The one table of stages and the modalities that they take, asked before any work.

A command that takes a pool opens it with `pool_for`, which asks the table first. `run` asks for all stages of its file
before the first one starts, and `doctor POOL` shows a pool's row. To let a stage take a further modality, add it here
where the stage can do it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coevo_ray.config.pool import IMAGE, VECTOR
from coevo_ray.errors import UsageError
from coevo_ray.pool.modality import find_modality
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import ArtifactLike


@dataclass(frozen=True)
class Stage:
    """A stage and the modalities that it takes.

    Attributes:
        written: the command, as people write it.
        takes: modality -> what to know of it there, or "".
    """

    written: str
    takes: Mapping[str, str]


def _any(written: str, **said: str) -> Stage:
    return Stage(written, {IMAGE: "", "text": "", VECTOR: ""} | said)


def _images(written: str) -> Stage:
    return Stage(written, {IMAGE: ""})


_COLUMN = "with --prior column:vector"
_KEYS = "vectors are shown by their keys"
_KEYS_ALONE = "people see the keys alone"
_CELL = "texts too long for a cell of CSV have a file"
_TASK = "people see the first 20,000 characters"
_HEAD = "a head on vectors"
_ON_TEXTS = "an encoder (model hf:...), or a head on targets or another column of vectors"
_FROM_TEXTS = "an encoder (model hf:...), or a head on a column of vectors"
# Function, part of a run or kind of annotator -> what it takes.
STAGES: dict[str, Stage] = {
    "ingest": _any("ingest"),
    "encode": _any("encode", vector=_COLUMN),
    "contribute": _any("encode --part", vector=_COLUMN),
    "probe": _any("probe"),
    "sae": _any("sae", vector="on the vectors themselves, or on targets"),
    "sae_show": _any("sae show", vector=_KEYS),
    "plan": _any("plan"),
    "evidence": _any("evidence"),
    "dedup": _any("dedup", vector=_KEYS),
    "export": _images("export --to fiftyone"),
    "gate": _any("gate"),
    "gate_open": _any("gate open"),
    "label_column": _any("gate --annotator label_column"),
    "file_drop": _any("gate --annotator file_drop", text=_CELL, vector=_KEYS_ALONE),
    "label_studio": _any("gate --annotator label_studio", text=_TASK, vector=_KEYS_ALONE),
    "gate_report": _any("gate report", vector=_KEYS),
    "retrieve": _any("retrieve"),
    "train_supervised": _any("train --objective supervised", text=_ON_TEXTS, vector=_HEAD),
    "train_semi_supervised": _any("train --objective semi_supervised", text=_ON_TEXTS, vector=_HEAD),
    "train_targets": _any("train --objective targets", text=_FROM_TEXTS, vector=_HEAD),
    "feed_of_images": _images("Feed.of_images"),
    "feed_of_texts": Stage("Feed.of_texts", {"text": ""}),
}


def pool_for(stage: str, what: ArtifactLike) -> Pool:
    """Opens a pool for a stage.

    Args:
        stage: a key of `STAGES`.
        what: the pool, its folder, or that of a run.

    Raises:
        InputError: there is no pool here.
        UsageError: the stage cannot take its samples.
    """
    pool = Pool.open(what)
    require_stages([stage], pool.modality, f"the pool at {pool.location}")
    return pool


def require_stages(stages: Iterable[str], modality: str, where: str) -> None:
    """Refuses work of which a stage cannot take the samples; all such stages are named at once.

    Args:
        stages: keys of `STAGES`.
        modality: of the pool's samples.
        where: as the message calls the pool.

    Raises:
        UsageError: a stage does not take the modality; says what is possible instead.
    """
    unfit = [STAGES[stage] for stage in stages if modality not in STAGES[stage].takes]
    if not unfit:
        return
    plural = find_modality(modality).plural
    needed = " or ".join(find_modality(name).plural for name in unfit[0].takes) or "nothing"
    possible = ", ".join(done for done, _ in possible_with(modality))
    raise UsageError(
        f"{' and '.join(stage.written for stage in unfit)} cannot take {plural}: {where} holds {plural}, need {needed}",
        f"leave it out, or give a pool of {needed}; with {plural} these work: {possible}",
    )


def possible_with(modality: str) -> list[tuple[str, str]]:
    """The row of the table: each command that takes a modality, with what to know of it, or ""."""
    return [(stage.written, stage.takes[modality]) for stage in STAGES.values() if modality in stage.takes]


def impossible_with(modality: str) -> list[str]:
    """The commands that do not take a modality."""
    return [stage.written for stage in STAGES.values() if modality not in stage.takes]
