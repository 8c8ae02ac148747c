"""Running jobs as a user does, and looking at what they leave."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from jobs import _console
from tests.conftest import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def command(job: str, *arguments) -> list[str]:
    return [sys.executable, str(ROOT / job), *map(str, arguments)]


def run(job: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(job, *arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        timeout=PATIENCE,
        check=False,
    )


def run_here(job: str, *arguments) -> subprocess.CompletedProcess:
    """As `run`, in this process, which has torch and Ray already: for what ends before Ray starts."""
    module = importlib.import_module(job.removesuffix(".py").replace("/", "."))
    output, errors, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [str(ROOT / job), *map(str, arguments)])
        patch.setattr(sys, "path", [*sys.path])
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            _console.main(module.job)
    signal.signal(signal.SIGTERM, before)
    return subprocess.CompletedProcess(job, ended.value.code, output.getvalue(), errors.getvalue())


def refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One clear sentence on standard error, status 2, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    for word in words:
        assert word in lines[-1]


def trials_of(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "trials")


def results_of(content: dict) -> Path:
    return Path(content["folders"]["results"])


def wait_until(condition, process: subprocess.Popen | None = None) -> None:
    """Wait for a condition; where it is `process` that brings it about, no longer than that runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def recorded(results: Path, table: str = "trials") -> list[Path]:
    return sorted((results / table).glob("[!.]*.parquet"))


def start(job: str, *arguments, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(job, *arguments),
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers_of(session: int) -> list[str]:
    """Ray's living worker processes of a session: state, process id, name."""
    listed = subprocess.run(
        ["ps", "-o", "stat=,pid=,args=", "-s", str(session)], capture_output=True, text=True, check=False
    )
    lines = [line for line in listed.stdout.splitlines() if "ray::" in line and not line.startswith("Z")]
    return [line for line in lines if "Agent" not in line]
