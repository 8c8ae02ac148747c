"""What clusters do to a sweep, done for real: afterwards the records are those of an undisturbed run.

Several nodes are several raylets on this machine (`ray.cluster_utils`), the store is a real S3 server,
the full disk a real file system of a few hundred kilobytes. Hosts of their own, and a link that is
cut, are in `tests/cluster`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ray.cluster_utils import Cluster

from study import spec, transfer
from study.store import storage
from tests.jobs.running import PATIENCE, recorded, results_of, run, start, wait_until, workers_of

pytestmark = pytest.mark.faults

SWEEP = "jobs/transfer_sweep.py"
TIMINGS = ["seconds_load", "seconds_train", "seconds_evaluate", "seconds", "finished"]


@pytest.fixture
def study(workspace, content):
    """A study of eight trials, each long enough to be interrupted in the middle."""
    content["seeds"] = [0, 1]
    content["methods"] = {name: content["methods"][name] for name in ("kl", "xe_kl_mcl")}
    content["budget"] |= {"epochs": 60}
    content["resources"] = {"checkpoint_seconds": 0}
    return content


def table(rows: list[dict] | pd.DataFrame, by: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows).drop(columns=TIMINGS, errors="ignore").map(plain)
    return frame.sort_values(by, ignore_index=True)


def plain(value: object) -> object:
    """As it was recorded: pandas reads lists as arrays, and what is a dictionary as pairs."""
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, np.ndarray) else value


def same_as_undisturbed(path, workspace, filesystem=None) -> None:
    """Every planned trial has exactly one record, and it is the one that nothing disturbed gives."""
    study = spec.load(path)
    root = study.results.key if filesystem else study.results
    found = {
        name: pd.read_parquet(f"{root}/{name}", filesystem=filesystem)
        for name in ("trials", "history", "predictions")
    }
    planned = {trial.id: undisturbed(trial, workspace) for trial in study.trials()}
    assert sorted(found["trials"]["trial"]) == sorted(planned)
    assert found["trials"]["reason"].dropna().tolist() == []
    expected = {
        "trials": [{"trial": name, **record.row} for name, record in planned.items()],
        "history": pd.concat(pd.DataFrame(r.history).assign(trial=name) for name, r in planned.items()),
        "predictions": pd.concat(
            pd.DataFrame(r.predictions).assign(trial=name) for name, r in planned.items()
        ),
    }
    for name, by in (
        ("trials", ["trial"]),
        ("history", ["trial", "epoch"]),
        ("predictions", ["trial", "index"]),
    ):
        rows = table(expected[name], by)
        pd.testing.assert_frame_equal(
            table(found[name], by)[rows.columns], rows, check_dtype=False, check_exact=True
        )


KNOWN: dict[str, transfer.Outcome] = {}


def undisturbed(trial, workspace) -> transfer.Outcome:
    if trial.id not in KNOWN:
        KNOWN[trial.id] = transfer.run(trial, workspace)
    return KNOWN[trial.id]


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A head that runs no trial, and two workers."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def cluster():
    with running_cluster() as made:
        yield made


def checkpoints(results) -> list:
    return list((results / "checkpoints").glob("[!.]*"))


def test_a_worker_host_is_killed(cluster, study, write_study, workspace):
    path, results = write_study(study), results_of(study)
    process = start(SWEEP, path, RAY_ADDRESS=cluster.address)
    wait_until(lambda: recorded(results) and checkpoints(results), process)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    same_as_undisturbed(path, workspace)
    assert not checkpoints(results)


def test_the_nodes_have_another_version_of_the_project(
    content, write_study, workspace, tmp_path, monkeypatch
):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "__init__.py").write_text("raise ImportError('the version of the node')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    content["methods"] = {"kl": {"lr": 1e-2}}
    path = write_study(content)
    with running_cluster() as cluster:
        monkeypatch.delenv("PYTHONPATH")
        done = run(SWEEP, path, RAY_ADDRESS=cluster.address)
    assert done.returncode == 0, done.stderr
    same_as_undisturbed(path, workspace)


def test_the_head_is_killed(cluster, study, write_study, workspace):
    path, results = write_study(study), results_of(study)
    process = start(SWEEP, path, RAY_ADDRESS=cluster.address)
    wait_until(lambda: recorded(results), process)
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert "the Ray cluster is gone" in output.strip().splitlines()[-1]
    gone = run(SWEEP, path)  # nothing was started instead
    assert gone.returncode == 2, gone.stderr
    assert "does not answer" in gone.stderr.strip().splitlines()[-1]
    with running_cluster() as restarted:
        done = run(SWEEP, path, RAY_ADDRESS=restarted.address)
    assert done.returncode == 0, done.stderr
    same_as_undisturbed(path, workspace)


@pytest.mark.parametrize("killed", ["driver", "trial"])
def test_a_process_is_killed(study, write_study, workspace, killed):
    path, results = write_study(study), results_of(study)
    process = start(SWEEP, path)
    wait_until(lambda: recorded(results) and checkpoints(results), process)
    kept = {file: file.stat().st_mtime_ns for file in recorded(results)}
    if killed == "driver":
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not workers_of(process.pid))  # they end by themselves, without their driver
        trials = pd.read_parquet(results / "trials")
        assert (trials["status"] == "ok").all()
        assert len(trials) < 8
        done = run(SWEEP, path)
        assert done.returncode == 0, done.stderr
        assert f"sweep: {8 - len(trials)} of 8 trials to run" in done.stdout
    else:
        victim = next(line for line in workers_of(process.pid) if "ImplicitFunc" in line)
        os.kill(int(victim.split()[1]), signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert not checkpoints(results)
    same_as_undisturbed(path, workspace)


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a file system of its own, of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=False)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder) -> None:
    with (folder / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass


@pytest.mark.parametrize("patience", ["5", "300"])
def test_the_disk_under_the_results_is_full(study, write_study, workspace, small_disk, patience):
    study["folders"]["results"] = str(small_disk / "results")
    path, results = write_study(study), results_of(study)
    process = start(SWEEP, path, **{storage.PATIENCE: patience})
    wait_until(lambda: recorded(results), process)
    fill(small_disk)
    if patience == "5":  # nobody makes room in time
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2, output
        assert "Traceback" not in output
        assert "No space left on device" in output.strip().splitlines()[-1]
    else:
        time.sleep(5)
        assert process.poll() is None
    (small_disk / "filler").unlink()
    if patience == "5":
        done = run(SWEEP, path)
        assert done.returncode == 0, done.stderr
    else:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
    assert not list(results.rglob(".*.tmp"))
    same_as_undisturbed(path, workspace)


def test_the_store_answers_errors_for_a_while(s3, study, write_study, workspace, tmp_path):
    study["folders"] |= {name: s3.url(name) for name in ("outputs", "results")}
    study["folders"]["cache"] = str(tmp_path / "cache")
    path = write_study(study)
    process = start(SWEEP, path)
    wait_until(
        lambda: {"trials", "checkpoints"} <= {Path(key).parent.name for key in set(s3.keys())}, process
    )
    s3.fail_for(15)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert s3.failed
    same_as_undisturbed(path, workspace, spec.load(path).results.system)
    assert not any(key.endswith(".pt") for key in set(s3.keys()))
