"""What is refused before a cluster's time is spent. What happens to one later is in test_faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jobs import _cluster, transfer_sweep
from study import spec
from study.errors import StudyError
from tests.jobs.running import recorded, refused, results_of, run

HEAD = {"CPU": 4.0}
GPU_NODE = {"CPU": 16.0, "GPU": 2.0}


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    """A function that says which nodes are there, and which the autoscaler may start."""

    def say(*there: dict, may_start: dict[str, dict] | None = None) -> None:
        alive = [{"Alive": True, "Resources": resources} for resources in there]
        dead = [{"Alive": False, "Resources": {"CPU": 999.0, "GPU": 999.0}}]
        monkeypatch.setattr(_cluster.ray, "nodes", lambda: alive + dead)
        file = tmp_path / "bootstrap.yaml"
        if may_start is not None:
            file.write_text(yaml.safe_dump({"available_node_types": may_start}))
        monkeypatch.setattr(_cluster, "BOOTSTRAP", file)

    return say


def test_a_node_that_the_autoscaler_may_start_is_waited_for(nodes):
    asked = spec.Resources(cpus=8, gpus=1)
    nodes(HEAD)
    with pytest.raises(StudyError, match=r"largest node has 4 CPUs and 0 GPUs"):
        _cluster.check(asked)
    nodes(HEAD, may_start={"head": {"resources": HEAD}, "gpu": {"resources": GPU_NODE, "max_workers": 8}})
    _cluster.check(asked)
    nodes(HEAD, may_start={"gpu": {"resources": GPU_NODE, "max_workers": 0}})
    with pytest.raises(StudyError, match="0 GPUs"):
        _cluster.check(asked)


@pytest.mark.parametrize(
    ("asked", "slots"),
    [
        ({"cpus": 1}, 36),
        ({"cpus": 8}, 4),
        ({"cpus": 8, "gpus": 1}, 4),
        ({"cpus": 1, "gpus": 0.25}, 16),
        ({"cpus": 1, "gpus": 1, "workers": 2}, 2),
        ({"cpus": 1, "gpus": 1, "workers": 4}, 1),
    ],
)
def test_trials_at_once_are_as_many_as_fit_node_by_node(nodes, asked, slots):
    nodes(HEAD, GPU_NODE, GPU_NODE)
    _cluster.check(spec.Resources(**asked))
    assert _cluster.slots(spec.Resources(**asked)) == slots


def test_workers_for_which_there_is_no_room_at_once_are_refused(nodes):
    asked = spec.Resources(cpus=1, gpus=1, workers=5)
    nodes(HEAD, GPU_NODE, GPU_NODE)
    with pytest.raises(StudyError, match=r"resources\.workers: .* 5 at once, .* room for 4"):
        _cluster.check(asked)


@pytest.mark.parametrize("name", ["data", "zoo", "outputs", "results"])
def test_folders_that_end_with_a_job_are_refused(name):
    inside = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1")
    lasting = spec.Folders(results="s3://bucket/x?region=us-east-1", data="/data", zoo="/zoo", outputs="/out")
    _cluster.check_lasting(lasting)
    with pytest.raises(StudyError, match=rf"folders\.{name}: .* is deleted with it"):
        _cluster.check_lasting(lasting.model_copy(update={name: inside / name}))


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1:1", "does not answer"), ("home", "'home'")])
def test_a_cluster_that_does_not_answer_is_told_at_once(workspace, content, write_study, address, said):
    done = run("jobs/transfer_sweep.py", write_study(content), RAY_ADDRESS=address)
    refused(done, said, "RAY_ADDRESS")
    assert not recorded(results_of(content))


def test_a_node_that_joined_late_without_the_results_records_nothing(content):
    study = spec.Study.model_validate(content)
    with pytest.raises(RuntimeError, match=r"does not see the results folder"):
        transfer_sweep.run_trial(study.trials()[0], study)
    assert not study.results.exists()
