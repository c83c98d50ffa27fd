"""Fixtures: one local Ray session for all tests that need one, stopped at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# Shared machines stall now and then; pytest's own timeout ends what hangs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray session on this machine; the package uses it because it is there."""
    from coevo_ray.runtime.session import ray_session

    with ray_session():
        yield
