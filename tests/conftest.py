"""Fixtures: one local Ray session for all tests that need one, stopped at the end; commands in this process."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.command_line import Command, Result

# Shared machines stall now and then; pytest's own timeout ends what hangs.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: they take longest, and of two processes neither should end up alone with one."""
    first = (Path(__file__).parent, Path(__file__).parent / "benchmarks")
    items.sort(key=lambda item: item.path.parent not in first)


@pytest.fixture(scope="session", autouse=True)
def _settings_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is noted for this machine (servers that were named) is noted for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray session on this machine; the package uses it because it is there."""
    from coevo_ray.runtime.session import ray_session

    with ray_session():
        yield


@pytest.fixture(autouse=True)
def _no_actors_of_failed_work(request: pytest.FixtureRequest) -> None:
    """Ends actors that only the last test's log records kept: pytest has them until a test is over."""
    if "ray_local" in request.fixturenames:
        gc.collect()


@pytest.fixture
def coevo_ray(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs a command in this process, which has the slow imports behind it, and gives its exit code and output."""
    from coevo_ray import cli

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    on_terminate = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, on_terminate)
