"""Guides in docs/: their commands parse, their links lead somewhere, and the Python of the one on texts runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import coevo_ray
from tests.test_readme import ROOT, parse_commands

GUIDES = ("targets.md", "texts.md")


@pytest.mark.parametrize("name", GUIDES)
def test_commands_have_their_options(name: str) -> None:
    assert parse_commands((ROOT / "docs" / name).read_text()) >= 8


@pytest.mark.parametrize("name", GUIDES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / "docs" / name
    assert f"(docs/{name})" in (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]*)(?:#([\w-]+))?\)", page.read_text())
    assert links
    for file, anchor in links:
        target = page.parent / file if file else page
        assert target.exists(), file
        if anchor:
            text = target.read_text()
            headings = {
                re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            }
            assert anchor in headings or f'<a id="{anchor}">' in text, f"{file}#{anchor}"


def test_the_python_of_the_guide_on_texts_runs(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text('id,body,topic\n1,"The lamp\nis broken",fault\n2,"Again, no bill",billing\n')
    rows = [json.dumps({"id": i, "body": f"Letter {i} is lost", "topic": "fault"}) for i in range(10, 14)]
    (tmp_path / "tickets.jsonl").write_text("\n".join(rows))
    for topic, text in (("billing", "Two bills came"), ("other", "Thank you")):
        (tmp_path / "letters" / topic).mkdir(parents=True)
        (tmp_path / "letters" / topic / "a.txt").write_text(text)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "texts.md").read_text(), re.DOTALL)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 texts" in done.stdout
    pool = coevo_ray.Pool.open(tmp_path / "runs" / "tickets" / "pool")
    table = pool.read(pool.row_ids(), ["key", "text", "label"]).to_pydict()
    assert pool.modality == "text"
    assert table["text"][0] == "The lamp\nis broken"
    assert table["key"][:4] == ["1", "2", "letters/billing/a.txt", "letters/other/a.txt"]
    assert sorted(table["label"]) == [0, 0, 1, 1, 1, 1, 1, 2]
