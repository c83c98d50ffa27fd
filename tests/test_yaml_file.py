from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coevo_ray.config.base import read_settings
from coevo_ray.config.yaml_file import load_yaml
from coevo_ray.errors import UsageError


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "settings.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_aliases_and_merges_are_read_as_ever(tmp_path: Path) -> None:
    text = "a: &x {k: 1, when: 2024-01-02}\nb: *x\nc: {<<: *x, k: 2}\nd: [*x, *x]\n"
    assert load_yaml(write(tmp_path, text)) == yaml.safe_load(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 5000, "nested more than 64 levels deep, line 1"),
        ("a: " + '{"b":' * 5000, "nested more than 64 levels deep"),
        ("a: &x [*x]", "'x' contains itself"),
        ("a: &x {b: &y [*x]}", "'x' contains itself"),
        ("a: 2024-13-45", "month must be in 1..12"),
        (b"a: \xff", "can't decode byte"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        (
            "\n".join(
                [f"a0: &a0 [{', '.join('x' * 10)}]"]
                + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
            ),
            "more than 1000000 values, aliases written out",
        ),
    ],
    ids=["lists", "maps", "itself", "itself deeper", "date", "bytes", "python", "billions"],
)
def test_files_of_settings_that_are_none(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings(write(tmp_path, text))
    assert problem in caught.value.cause
    assert len(caught.value.cause) < 1000
