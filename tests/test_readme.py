"""The README's Python example runs as it stands, and its paths exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_examples_run(tmp_path: Path) -> None:
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in first.splitlines() if line.strip()]) <= 20
    code = first + second  # as someone would type them, one after the other
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "1797 rows, 1438 to train on" in result.stdout
    assert "719 rows were decoded" in result.stdout
    assert "(64,)" in result.stdout
    assert "torch.Size([64])" in result.stdout


def test_files_that_are_named_exist() -> None:
    package = ROOT / "coevo_ray"
    for name in re.findall(r"`((?:core|pipelines)/\w+\.py|coevolve\.py|config\.py)`", README):
        assert (package / name).is_file(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
