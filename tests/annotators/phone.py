"""An annotator of a user's own package: `tests.annotators.phone:Phone` in settings imports this module."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coevo_ray.annotators.opening import register_annotator
from coevo_ray.config.annotators import BaseAnnotatorSettings
from tests.annotators.all_ones import AllOnes


class PhoneSettings(BaseAnnotatorSettings):
    """Settings of a user's own kind."""

    kind: Literal["tests.annotators.phone:Phone"] = "tests.annotators.phone:Phone"
    patience: int = Field(3, ge=1, description="Not used.")


register_annotator(PhoneSettings, lambda settings, pool, names: AllOnes())
