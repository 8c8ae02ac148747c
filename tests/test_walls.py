"""The three walls of the design: which part may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("study", {"ray", "jobs", "analysis", "tests"}),
        ("analysis", {"torch", "torchvision", "timm", "ray", "ffcv", "study"}),
        ("jobs", {"torch", "torchvision", "timm", "ffcv", "scipy", "analysis"}),
    ],
)
def test_no_file_crosses_a_wall(folder, forbidden):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert not imports(path) & forbidden, path


def loaded_by(code: str) -> set[str]:
    command = f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.check_output([sys.executable, "-c", command], text=True, cwd=ROOT).split())


def test_all_of_study_imports_without_ray_and_ffcv():
    own = {"__init__", "ffcv_import"}  # the latter is what imports it, where a file is written or opened
    paths = [path.relative_to(ROOT) for path in (ROOT / "study").rglob("*.py") if path.stem not in own]
    loaded = loaded_by("; ".join("import " + ".".join(path.with_suffix("").parts) for path in paths))
    assert "torch" in loaded
    assert not loaded & {"ray", "ffcv", "numba"}


def test_study_runs_where_ray_and_ffcv_are_not_installed():
    block = "sys.modules['ray'] = sys.modules['ffcv'] = None"
    assert "study" in loaded_by(f"{block}; import study.derivation, study.store.records")


def test_analysis_imports_no_model_code():
    loaded = loaded_by("import analysis.report")
    assert not loaded & {"torch", "torchvision", "timm", "ray", "ffcv", "study"}


def test_functions_of_the_analysis_are_short_and_its_modules_hide_none_of_pythons():
    for path in (ROOT / "analysis").rglob("*.py"):
        assert path.stem not in sys.stdlib_module_names, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)
