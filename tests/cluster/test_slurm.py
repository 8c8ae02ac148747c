"""slurm/sweep.sbatch on two hosts, with stand-ins for what SLURM has: `srun` and `scontrol`.

The script is the real one, run by bash on the first host in an environment as sbatch makes it; the stand-in
`srun` starts its command on each host of the allocation by ssh, in the job's folder and environment, and ends
when all have ended. Left out: SLURM's limits and its way to end a job.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import hosts as machines
from tests.cluster.conftest import complete, trials_of
from tests.conftest import FASHION_MNIST

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.prefix)
NODES = ("node1", "node2")
SRUN = """#!/bin/bash
{ printf 'cd %q\\n' "$PWD"; export -p; printf 'exec '; printf '%q ' "$@"; } > "$STAND_INS/task"
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    ssh -n -i "$STAND_INS/../key" -o StrictHostKeyChecking=no -o LogLevel=ERROR "$node" \\
        bash "$STAND_INS/task" &
done
status=0
for task in $(jobs -p); do wait "$task" || status=$?; done
exit $status
"""
SCONTROL = """#!/bin/bash
[ "$*" = 'show hostnames node[1-2]' ] || { echo "scontrol: $*" >&2; exit 1; }
printf 'node1\\nnode2\\n'
"""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why := machines.missing()), reason=why),
    pytest.mark.skipif(not FASHION_MNIST.exists(), reason=f"needs {FASHION_MNIST}"),
]


@pytest.fixture(scope="module")
def project(shared) -> Path:
    """The project as it lies on a file system that all nodes share, installed."""
    folder = shared / "transfer"
    for part in ("study", "jobs", "slurm"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(VENV)
    return folder


@pytest.fixture(scope="module")
def nodes(shared, project):
    keep = [shared, Path(sys.base_prefix), VENV]
    with machines.Hosts(dict.fromkeys(NODES, keep), cover=[ROOT], folder=shared) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def submit(shared, project, nodes):
    """A function that runs the script with arguments as a job of two nodes, to its end."""
    stand_ins = shared / "stand-ins"
    stand_ins.mkdir()
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stand_ins / name).write_text(script)
        (stand_ins / name).chmod(0o755)
    allocation = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": len(NODES),
        "SLURM_CPUS_ON_NODE": len(os.sched_getaffinity(0)),
        "STAND_INS": stand_ins,
        "PYTHONPATH": project,  # for the editable installation
    }
    given = " ".join(f"{name}='{value}'" for name, value in allocation.items())

    def submit(*arguments: object):
        words = " ".join(map(str, arguments))
        return nodes.run(
            "node1", f"cd {project}; PATH={stand_ins}:$PATH {given} bash slurm/sweep.sbatch {words}"
        )

    return submit


def test_a_sweep_runs_on_all_nodes_and_then_nothing_does(submit, nodes, write_study, clock):
    methods = {name: {"lr": 1e-2} for name in ("xe", "kl", "kl_dp")}
    study, results = write_study("slurm", methods=methods, seeds=list(range(4)))
    with clock("a job of SLURM's"):
        done = submit(study)
    assert done.returncode == 0, done.stdout
    assert "sweep: 24 of 24 trials to run" in done.stdout
    complete(study, results)
    assert set(trials_of(results)["host"]) == set(NODES)
    ended = time.monotonic() + 90
    while left := [line for name in NODES for line in nodes.processes(name) if "ray" in line]:
        assert time.monotonic() < ended, left
        time.sleep(0.5)


def test_what_is_refused_gives_the_job_a_status(submit, nodes, shared, project):
    done = submit()
    assert (done.returncode, "no study is named" in done.stdout) == (2, True), done.stdout
    done = submit(shared / "missing.yaml")
    assert done.returncode == 2, done.stdout
    assert "missing.yaml" in done.stdout
    assert "Traceback" not in done.stdout
    done = nodes.run("node1", f"cd /; bash {project}/slurm/sweep.sbatch study.yaml")
    assert (done.returncode, "has no Ray; run 'sh setup.sh'" in done.stdout) == (2, True), done.stdout
