"""A study on a cluster of three hosts, from `ray up` to `ray down`, as cluster-onprem.yaml describes it.

The commands are the ones a user types, on a host `laptop` that has the project, Ray and an ssh key. The
file is the real one with two changes: its placeholders are filled in, and where it would run setup.sh on
each host (minutes of installing what this machine has), the virtual environment of the tests is taken
instead; PYTHONPATH then stands for the editable installation, so `study` and `jobs` are the host's copy.
The checkout itself is covered on the cluster's hosts: what is not copied by `ray up` is not there. A
folder that all hosts share through a bind mount stands for the shared file system.

The tests are one story, in this order.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster import hosts as machines
from tests.cluster.conftest import complete, trials_of
from tests.conftest import FASHION_MNIST, PATIENCE

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.prefix)
INSTALL = "cd ~/transfer && sh setup.sh"
BEFORE = ("bash -c", "sshd:", "sleep ")  # what runs on a host without Ray
NODES = ("head", "worker1", "worker2")
WAIT_FOR_NODES = """
import ray, time
ray.init(address="auto", logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < %d:
    time.sleep(0.2)
"""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why := machines.missing()), reason=why),
    pytest.mark.skipif(not FASHION_MNIST.exists(), reason=f"needs {FASHION_MNIST}"),
]


class Cluster:
    """The cluster as its user sees it: from the laptop."""

    def __init__(self, hosts: machines.Hosts, shared: Path) -> None:
        self.hosts, self.shared, self.file = hosts, shared, shared / "cluster.yaml"
        config = yaml.safe_load((ROOT / "cluster-onprem.yaml").read_text())
        config["provider"]["head_ip"] = hosts.addresses["head"]
        config["provider"]["worker_ips"] = [hosts.addresses[name] for name in NODES[1:]]
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
        commands = config["setup_commands"]
        commands[commands.index(INSTALL)] = (
            f"ln -s {VENV} ~/transfer/.venv && echo 'export PYTHONPATH=~/transfer' >> ~/.bashrc"
        )
        self.file.write_text(yaml.safe_dump(config))

    def at_laptop(self, command: str) -> str:
        return f"cd {ROOT} && . {VENV}/bin/activate && {command}"

    def do(self, command: str) -> str:
        """Run a command on the laptop; it has to succeed."""
        done = self.hosts.run("laptop", self.at_laptop(command))
        assert done.returncode == 0, done.stdout
        return done.stdout

    def submit(self, study: Path) -> str:
        return f"ray submit {self.file} jobs/transfer_sweep.py -- {study}"

    def wait_for_nodes(self, count: int) -> None:
        script = f". ~/.bashrc; timeout {PATIENCE - 10} python -c '{WAIT_FOR_NODES % count}'"
        done = self.hosts.run("head", script)
        assert done.returncode == 0, done.stdout

    def running(self) -> list[str]:
        """What runs on the cluster's hosts that did not before `ray up`."""
        running = [(name, line) for name in NODES for line in self.hosts.processes(name)]
        return [
            f"{name}: {line}" for name, line in running if not line.startswith(("bash ", "sshd:", "sleep "))
        ]


@pytest.fixture(scope="module")
def cluster(shared, clock):
    """The cluster, up, with all its nodes."""
    python = Path(sys.base_prefix)
    keep = {"laptop": [shared, python, ROOT]} | {name: [shared, python, VENV] for name in NODES}
    with clock("all"):
        with clock("hosts"):
            hosts = machines.Hosts(keep, cover=[ROOT], folder=shared)
            hosts.__enter__()
        try:
            cluster = Cluster(hosts, shared)
            cluster.do("ray get-auth-token --generate")
            with clock("ray up"):
                cluster.do(f"ray up {cluster.file} --yes")
            with clock("all nodes"):
                cluster.wait_for_nodes(len(NODES))
            yield cluster
        finally:
            hosts.stop()
    assert machines.leftovers() == []


def test_a_submitted_sweep_runs_on_all_hosts(cluster, write_study, clock):
    methods = {name: {"lr": 1e-2} for name in ("xe", "kl", "kl_dp")}
    # So many that a host whose worker starts last still gets some.
    study, results = write_study("first", methods=methods, seeds=list(range(12)))
    with clock("data, zoo and trials"):
        said = cluster.do(cluster.submit(study))
    assert "sweep: 72 of 72 trials to run" in said
    complete(study, results)
    assert set(trials_of(results)["host"]) == set(NODES)


def test_results_that_a_host_does_not_see_are_refused(cluster, write_study):
    study, _ = write_study("unseen", methods={"xe": {"lr": 1e-2}})
    results = "/tmp/results"  # each host has a /tmp of its own
    done = cluster.hosts.run("laptop", cluster.at_laptop(f"{cluster.submit(study)} --results {results}"))
    assert done.returncode != 0
    assert f"does not see {results}/.seen-" in done.stdout
    assert "Traceback" not in done.stdout
    left = cluster.hosts.run("head", f"find {results} -name '*.parquet'")
    assert left.stdout.strip() == ""


def test_a_host_cut_off_in_a_sweep_costs_no_trial(cluster, write_study, clock):
    study, results = write_study("cut", methods={"kl": {"lr": 1e-2}}, seeds=list(range(20)))
    with clock("trials, a host cut off"):
        sweep = cluster.hosts.start("laptop", cluster.at_laptop(cluster.submit(study)))
        while len(list((results / "trials").glob("[!.]*.parquet"))) < 8:
            assert sweep.poll() is None, sweep.stdout.read()
            time.sleep(0.05)
        cluster.hosts.cut("worker1")
        said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 0, said
    complete(study, results)
    cluster.hosts.restore("worker1")
    with clock("the host back in the cluster"):
        cluster.wait_for_nodes(len(NODES))


def test_a_job_needs_nothing_on_the_head(cluster, write_study, clock):
    study, results = write_study("job", methods={"xe": {"lr": 1e-2}})
    with clock("job"):
        dashboard = cluster.hosts.start("laptop", cluster.at_laptop(f"ray dashboard {cluster.file}"))
        cluster.hosts.wait("laptop", "true < /dev/tcp/127.0.0.1/8265")
        said = cluster.do(
            "RAY_AUTH_MODE=token ray job submit --address http://localhost:8265 --working-dir . -- "
            f"python jobs/transfer_sweep.py {study}"
        )
        dashboard.kill()
    assert "sweep: 2 of 2 trials to run" in said
    complete(study, results)


def test_down_leaves_nothing_running(cluster, clock):
    with clock("ray down"):
        cluster.do(f"ray down {cluster.file} --yes")
    with clock("nothing left running"):
        end = time.monotonic() + 90
        while left := cluster.running():
            assert time.monotonic() < end, left
            time.sleep(0.5)
