"""One command: what it lists, what it refuses, and that it does what the scripts do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs import command
from tests.jobs.running import ROOT


def transfer_study(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "jobs.command", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


def test_it_lists_every_script_that_a_user_runs(monkeypatch, capsys):
    jobs = {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("[!_]*.py")} - {"jobs/command.py"}
    assert jobs <= set(command.SCRIPTS.values())
    monkeypatch.setattr(sys, "argv", ["transfer-study"])
    command.main()
    listed = capsys.readouterr().out
    for name in command.SCRIPTS:
        assert f"\n  {name} " in listed


def test_a_command_that_does_not_exist_is_told_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["transfer-study", "sweeep"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: there is no command 'sweeep'; did you mean 'sweep'?\n"


def test_a_command_does_what_its_script_does():
    script = [sys.executable, "jobs/transfer_sweep.py", "studies/demo.yaml", "--dry-run"]
    expected = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=False)
    found = transfer_study("sweep", "studies/demo.yaml", "--dry-run")
    assert (found.returncode, found.stdout, found.stderr) == (0, expected.stdout, expected.stderr)
    refused = transfer_study("report", "nowhere")
    assert refused.returncode == 2
    assert "error: nowhere/trials: no such folder of results" in refused.stderr
