"""The one configuration model: a run is described by a `RunConfig`, from YAML or Python, validated before any work.

Unknown keys are refused. Every stage has two kinds of settings: those that shape its result (they are recorded in the
artifact's manifest, and changing them is refused) and `compute`, which only says with what it is made.
"""

from coevo_ray.config.base import Compute, SettingsLike, as_settings, make_config, read_section, read_settings
from coevo_ray.config.dedup import DedupConfig
from coevo_ray.config.encode import (
    ActorPool,
    Alignment,
    Consensus,
    EncodeCompute,
    EncodeConfig,
    MergeConfig,
    PriorConfig,
    Projection,
)
from coevo_ray.config.gate import GateSettings
from coevo_ray.config.pool import PoolConfig, Source
from coevo_ray.config.retrieve import RetrieveSettings
from coevo_ray.config.run import RunConfig, as_run_config, load_config
from coevo_ray.config.sae_and_evidence import EvidenceConfig, SaeConfig
from coevo_ray.config.training import (
    ClassifierConfig,
    LearningConfig,
    SemiTrainConfig,
    TargetTrainConfig,
    TrainCompute,
    TrainConfig,
)

__all__ = [
    "ActorPool",
    "Alignment",
    "ClassifierConfig",
    "Compute",
    "Consensus",
    "DedupConfig",
    "EncodeCompute",
    "EncodeConfig",
    "EvidenceConfig",
    "GateSettings",
    "LearningConfig",
    "MergeConfig",
    "PoolConfig",
    "PriorConfig",
    "Projection",
    "RetrieveSettings",
    "RunConfig",
    "SaeConfig",
    "SemiTrainConfig",
    "SettingsLike",
    "Source",
    "TargetTrainConfig",
    "TrainCompute",
    "TrainConfig",
    "as_run_config",
    "as_settings",
    "load_config",
    "make_config",
    "read_section",
    "read_settings",
]
