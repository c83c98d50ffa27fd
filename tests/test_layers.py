from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKED = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "pyarrow"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import coevo_ray.core
names = [m.name for m in pkgutil.walk_packages(coevo_ray.core.__path__, "coevo_ray.core.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def _python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]  # which finds the package of its working folder first
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_core_is_importable_with_ray_and_arrow_blocked() -> None:
    result = _python(BLOCKED)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 40


def test_a_module_of_a_sub_package_that_imports_ray_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "coevo_ray", tmp_path / "coevo_ray", ignore=shutil.ignore_patterns("__pycache__"))
    planted = tmp_path / "coevo_ray" / "core" / "sub"
    planted.mkdir()
    (planted / "__init__.py").touch()
    assert _python(BLOCKED, tmp_path).returncode == 0
    (planted / "x.py").write_text("import ray\n")
    result = _python(BLOCKED, tmp_path)
    assert result.returncode != 0
    assert "ray is blocked" in result.stderr


def test_the_block_blocks() -> None:
    result = _python(BLOCKED.replace("import coevo_ray.core", "import ray\nimport coevo_ray.core"))
    assert result.returncode != 0
    assert "ray is blocked" in result.stderr


def test_importing_the_package_is_light() -> None:
    result = _python("import sys, coevo_ray; print([m for m in ('ray', 'torch', 'pyarrow') if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_every_public_name_is_there() -> None:
    result = _python("import coevo_ray; print([getattr(coevo_ray, n) for n in coevo_ray.__all__] and 'ok')")
    assert result.stdout.strip() == "ok", result.stderr


def test_commands_are_functions_of_the_package_whatever_was_imported_first() -> None:
    code = """
import coevo_ray, coevo_ray.app.api as c, coevo_ray.app.plan, coevo_ray.app.doctor, coevo_ray.app.demo
import coevo_ray.reporting.run, coevo_ray.pipelines.gate.run_rounds
trainings = ("train", "train_supervised", "train_semi_supervised", "train_targets")
for name in c.__all__:
    assert callable(getattr(coevo_ray, name)) and getattr(coevo_ray, name) is getattr(c, name), name
assert {"demo", "report", "run", "gate", *trainings} <= set(c.__all__) <= set(coevo_ray.__all__)
from coevo_ray import commands
assert commands is coevo_ray.commands is c
print("ok")
"""
    result = _python(code)
    assert result.stdout.strip() == "ok", result.stderr


WITHOUT_TORCH = (
    "coevo_ray.core.gate.gate",
    "coevo_ray.core.graph.near_duplicates",
    "coevo_ray.core.graph.types",
    "coevo_ray.core.graph.unit_rows",
    "coevo_ray.core.rows.row_set",
    "coevo_ray.core.rows.hashing",
    "coevo_ray.core.selection.ledger",
)


def test_modules_that_compute_without_torch_do_not_load_it() -> None:
    code = f"""
import importlib, sys
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
print([m for m in ("torch", "faiss") if m in sys.modules])
"""
    result = _python(code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_one_module_of_core_imports_faiss_and_is_itself_imported_lazily() -> None:
    importers = {
        path.name
        for path in (ROOT / "coevo_ray").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "faiss" for alias in node.names)
    }
    assert importers == {"hnsw.py"}
    loads_all_others = BLOCKED.replace(
        "for name in names:", "for name in names:\n    if name.endswith('.hnsw'): continue"
    )
    result = _python(loads_all_others + "print('faiss' in sys.modules)")
    assert result.stdout.split()[-1] == "False", result.stdout + result.stderr
