"""A whole run's settings, and how they are read from a file."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, model_validator

from coevo_ray.config.base import Model, SettingsLike, as_settings, make_config, read_settings
from coevo_ray.config.encode import EncodeConfig
from coevo_ray.config.gate import GateSettings
from coevo_ray.config.pool import PoolConfig
from coevo_ray.config.sae_and_evidence import EvidenceConfig, SaeConfig
from coevo_ray.config.training import TrainConfig


class RunConfig(Model):
    """A whole run: what `coevo-ray run FILE.yaml` reads."""

    title: str = Field("coevo-ray run", description="Heading of the report.")
    about: str | None = Field(None, min_length=1, description="A sentence below it, on the data say.")
    out: str = Field(min_length=1, description="Folder of the run: local path, s3:// or gs://.")
    pool: PoolConfig
    encode: EncodeConfig
    sae: SaeConfig = SaeConfig()
    gate: GateSettings | None = GateSettings()
    evidence: EvidenceConfig | None = EvidenceConfig()
    train: TrainConfig | None = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.encode.alone:
            raise ValueError("encode.part and a lone prior with a shared pool are for `coevo-ray encode`: a run merges")
        if self.train is not None and self.train.labels == "gate" and self.gate is None:
            raise ValueError("train.labels is 'gate' but there is no gate: set train.labels to 'pool' or add the gate")
        return self


def load_config(path: str | os.PathLike[str], **overrides: Any) -> RunConfig:
    """Reads a run's YAML.

    Args:
        path: the file.
        overrides: top-level values that replace those of the file, such as `out`.

    Raises:
        UsageError: the file is missing, not YAML, or does not describe a run; every mistake is named.
    """
    return make_config(RunConfig, {**read_settings(path), **overrides}, str(path))


def as_run_config(what: SettingsLike[RunConfig]) -> RunConfig:
    """Makes a run's settings from a model, its content, or a YAML file.

    Raises:
        UsageError: it is none of these, the file cannot be read, or a setting is wrong; every mistake is named.
    """
    return load_config(what) if isinstance(what, str | os.PathLike) else as_settings(RunConfig, what, "run")
