"""A run whose last stage has no room is refused before its first one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coevo_ray.app.room import require_room
from coevo_ray.app.run import run
from coevo_ray.config import RunConfig
from coevo_ray.errors import UsageError
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location

pytestmark = pytest.mark.usefixtures("ray_local")


def config(out: Path, **changed: dict[str, Any]) -> RunConfig:
    content: dict[str, Any] = {
        "out": str(out),
        "pool": {"sources": ["sample:digits"]},
        "encode": {"priors": [{"name": "efficientnet_lite:0", "input_size": 64}]},
        "sae": {},
        "gate": {},
        "train": {"policies": ["full", "factors"]},
    }
    for stage, settings in changed.items():
        content[stage] = {**content[stage], **settings}
    return RunConfig.model_validate(content)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pool": {"compute": {"reader_cpus": 900}}}, "ingest needs 1 reading task of 900 CPUs"),
        ({"encode": {"compute": {"gpus": 1}}}, "encode by efficientnet_lite:0@64 needs 1 actor of 0.5 CPUs and 1 GPU"),
        ({"sae": {"compute": {"actors": 900}}}, "sae needs 900 training workers"),
        ({"gate": {"compute": {"cpus": 900}}}, "gate needs 1 task of 900 CPUs"),
        ({"train": {"compute": {"actors": 900}}}, "train full needs 900 training workers"),
    ],
)
def test_each_stage_is_asked_for(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    asked = config(tmp_path, **changed)
    with pytest.raises(UsageError, match=said):
        require_room(asked, RunLayout.of(Location.parse(asked.out)))
    with pytest.raises(UsageError, match=said):
        run(asked)
    assert not list(tmp_path.glob("*/manifest.json")) and not (tmp_path / "pool" / "rows-000000.parquet").exists()


def test_what_is_finished_needs_no_room(tmp_path: Path) -> None:
    asked = config(tmp_path, train={"policies": ["full"], "compute": {"actors": 900}})
    (tmp_path / "train" / "full").mkdir(parents=True)
    (tmp_path / "train" / "full" / "manifest.json").write_text(json.dumps({}))
    require_room(asked, RunLayout.of(Location.parse(asked.out)))


def test_one_cpu_has_room_for_the_defaults(tmp_path: Path) -> None:
    from coevo_ray.app.room import _stages
    from coevo_ray.runtime.resources import Node, shortage

    asked = config(tmp_path)
    for title, _, needs in _stages(asked, RunLayout.of(Location.parse(asked.out))):
        assert shortage(needs, [Node("node", 1, 0)]) is None, title
