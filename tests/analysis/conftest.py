"""One report of one sweep, which the tests of its files and those of its page look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis import atlases, sweeps

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """A sweep that is not finished, with failed trials, two seeds, and an atlas."""
    folder = tmp_path_factory.mktemp("report") / "results"
    students = sweeps.made_up(6, "student", (0.79, 0.82))
    sweep = sweeps.simulate(students, 5, seeds=2, samples=900, failed=3, missing=0.04, seed=1)
    sweeps.write(folder, sweep, merged=0.6)
    zoo = atlases.simulate(5, 300, 10)
    atlases.write(folder, atlases.tables(zoo, pairs=20, embeddings=atlases.meanings(10)))
    return folder


@pytest.fixture(scope="session")
def run(results, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The command, from another folder; it says at its end what it had imported."""
    out = tmp_path_factory.mktemp("report") / "out"
    script = ROOT / "analysis" / "report.py"
    code = (
        f"import runpy, sys; sys.argv[0] = {str(script)!r}; sys.path[0] = {str(script.parent)!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print({'torch', 'torchvision', 'timm', 'ray', 'ffcv', 'study'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(results), "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")


@pytest.fixture(scope="session")
def written(run) -> Path:
    return run[0]
