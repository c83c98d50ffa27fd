"""One Label Studio server for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.annotators.label_studio_server import Server, label_studio


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with label_studio(tmp_path_factory.mktemp("label_studio")) as running:
        yield running
