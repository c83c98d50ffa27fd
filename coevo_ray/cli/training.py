"""The command train: for a run's file, on a pool's labels, on a few labels, or on targets."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import default_text, option, parameter, plain_fields, takes
from coevo_ray.cli.options import JsonFlag, PolicyOptions, Trust, policy_options, spelled
from coevo_ray.cli.show import show, show_lines
from coevo_ray.config import LearningConfig, SemiTrainConfig, TargetTrainConfig, TrainCompute, TrainConfig, load_config
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError


@dataclass(frozen=True)
class Objective:
    """The options of one objective of the command train.

    Attributes:
        model: its settings.
        needs: options that must be given.
        takes: options that may be given, besides the settings.
    """

    model: type[LearningConfig]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """Its settings that are options; `labels` of the settings is another thing than `--labels`, a folder."""
        return plain_fields(self.model, without=("labels",))


OBJECTIVES = {
    "supervised": Objective(
        TrainConfig, ("pool", "out"), ("targets", "scores", "labels", "policy", "policy_option", "trust")
    ),
    "semi_supervised": Objective(SemiTrainConfig, ("pool", "out"), ("targets", "labels", "pseudo_labels", "trust")),
    "targets": Objective(TargetTrainConfig, ("pool", "targets", "out")),
}
_COMPUTE = ("actors", "cpus", "gpus")
_ALONE = TrainCompute(cpus=1)  # what a training takes that shares the machine with no other stage
_FOLDERS = {
    "pool": "With --objective: folder of the pool.",
    "targets": "Folder of targets: what to learn, what a head is trained on (--features targets), and for supervised "
    "where evidence on labels and copies is gathered.",
    "scores": "supervised: folder of scores.",
    "labels": "supervised and semi_supervised: folder of a gate, or of labels that one exported. Default: the pool's.",
    "pseudo_labels": "semi_supervised: folder of the gate's pseudo-labels.",
    "out": "With --objective: folder of the result.",
}


def _setting_options() -> list[Parameter]:
    """One option for each setting of any objective; the help says which take it and by which default."""
    names = dict.fromkeys(name for objective in OBJECTIVES.values() for name in objective.settings)
    return [_setting_option(name) for name in names]


def _setting_option(name: str) -> Parameter:
    fields = {key: made.model.model_fields[name] for key, made in OBJECTIVES.items() if name in made.settings}
    defaults = {key: default_text(field.default) for key, field in fields.items()}
    first = next(iter(defaults.values()))
    differing = [f"{key} {default}" for key, default in defaults.items() if default != first]
    prefix = "" if len(fields) == len(OBJECTIVES) else f"{' and '.join(fields)}: "
    return option(name, next(iter(fields.values())), "; ".join([first, *differing]), prefix=prefix)


@takes(
    parameter("policy", Annotated[str | None, typer.Option(help="One policy; overrides FILE's.")]),
    *(parameter(name, Annotated[str | None, typer.Option(help=told)]) for name, told in _FOLDERS.items()),
    *_setting_options(),
    parameter("policy_option", PolicyOptions),
    parameter("trust", Trust),
    *(option(name, TrainCompute.model_fields[name], default_text(getattr(_ALONE, name))) for name in _COMPUTE),
)
def train(
    file: Annotated[Path | None, typer.Argument(help="YAML file of a run whose earlier stages are finished.")] = None,
    objective: Annotated[str | None, typer.Option(help=f"{', '.join(OBJECTIVES)}: train without a FILE.")] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Train on each epoch's subset after the earlier stages of a run; or on labels, few labels or targets.

    An option for some objectives only names them; defaults are in square brackets.
    """
    if objective is None:
        show(_train_file(file, given), as_json)
        return
    if objective not in OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}", f"choose one of {', '.join(OBJECTIVES)}")
    _check_options(objective, file, given)
    chosen = {name: given[name] for name in OBJECTIVES[objective].settings if name in given}
    chosen["compute"] = {**_ALONE.model_dump(), **{name: given[name] for name in _COMPUTE if name in given}}
    pool, out = given["pool"], given["out"]
    from coevo_ray.app import api

    if objective == "targets":
        summary = api.train_targets(chosen, pool, given["targets"], out)
    elif objective == "semi_supervised":
        tables = {name: given.get(name) for name in ("labels", "pseudo_labels", "targets")}
        summary = api.train_semi_supervised(chosen, pool, out, **tables, trust=given.get("trust", ()))
    else:
        config = {**chosen, **_policies(given), "labels": "pool"}
        tables = {name: given.get(name) for name in ("targets", "labels")}
        summary = api.train_supervised(config, pool, out, given.get("scores"), **tables, trust=given.get("trust", ()))
    made = {"model": str(out), **summary}
    show_lines(made, closing.of_model(made), as_json)


def _train_file(file: Path | None, given: JsonObject) -> JsonObject:
    if file is None:
        raise UsageError("train was given neither a FILE nor --objective", "give the YAML, or --objective")
    if others := [name for name in given if name != "policy"]:
        raise UsageError(
            f"{spelled(others)} with FILE, which has its own settings", "edit FILE, or give --objective instead"
        )
    config = load_config(file)  # a mistake shows before the slow imports
    from coevo_ray.app import api

    return {policy: dict(model) for policy, model in api.train(config, given.get("policy")).items()}


def _check_options(objective: str, file: Path | None, given: JsonObject) -> None:
    """Refuses options that another objective takes, and a missing one."""
    chosen = OBJECTIVES[objective]
    taken = {*chosen.settings, *chosen.needs, *chosen.takes, *_COMPUTE}
    if others := [*(["FILE"] if file else []), *(name for name in given if name not in taken)]:
        raise UsageError(f"--objective {objective} with {spelled(others)}", "leave one of them out")
    if missing := [name for name in chosen.needs if name not in given]:
        raise UsageError(f"--objective {objective} without {spelled(missing)}", f"give {spelled(chosen.needs)}")


def _policies(given: JsonObject) -> JsonObject:
    policy, options = given.get("policy"), policy_options(given.get("policy_option"))
    if policy is None:
        if options:
            raise UsageError("--policy-option without --policy", "name the policy: --policy factors")
        return {}
    return {"policies": [policy], "policy_options": {policy: options} if options else {}}
