"""The engine of all commands on a real local Ray, with functions of no work."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import mock

import pytest
import ray
from ray.air.execution._internal import event_manager
from ray.tune.trainable.function_trainable import get_session

from jobs import _cluster, _console, _engine
from study.errors import StorageError, StudyError
from study.spec import Resources

pytestmark = pytest.mark.ray

NAMES = [f"trial{n}" for n in range(7)]
CPUS = 3


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init("local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(function, *, workers: int = 1, **options) -> dict[str, str]:
    configurations, resources = {name: name for name in NAMES}, Resources(cpus=1, workers=workers)
    with _console.Progress("test", len(NAMES)) as progress:
        return _engine.run(function, configurations, resources=resources, progress=progress, **options)


def note(folder: Path, name: str) -> int:
    """Leave a mark that this ran; the number of marks so far."""
    with (folder / name).open("a") as stream:
        stream.write("x")
    return (folder / name).stat().st_size


def counts(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_every_configuration_runs_once_over_several_waves(tmp_path):
    def function(name):
        note(tmp_path, name)
        return {"status": "ok"}

    assert run(function, wave=3) == {}
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1)


def test_workers_stay(tmp_path):
    def function(name):
        note(tmp_path, str(os.getpid()))
        return {"status": "ok"}

    run(function)
    assert len(counts(tmp_path)) <= CPUS


def test_what_raises_is_tried_again_and_reported_in_the_end(tmp_path):
    def function(name):
        tries = note(tmp_path, name)
        if name == "trial1" or (name == "trial2" and tries == 1):
            raise ValueError(f"no way to run {name}")
        return {"status": "ok"}

    assert run(function, wave=3) == {"trial1": "ValueError: no way to run trial1"}
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1) | {"trial1": 1 + _engine.RETRIES, "trial2": 2}


def test_a_worker_that_dies_costs_its_trial_one_try(tmp_path):
    def function(name):
        if note(tmp_path, name) == 1 and name == "trial1":
            os._exit(1)
        return {"status": "ok"}

    assert run(function) == {}
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1) | {"trial1": 2}


def test_a_worker_that_ray_ends_for_lack_of_memory_costs_its_trial_one_try(tmp_path, monkeypatch):
    """Ray's memory monitor ends a worker by an error of its own kind, which Tune does not know."""
    ended = []

    def get(future, *arguments, **options):
        found = ray.get(future, *arguments, **options)
        if not ended and (tmp_path / "trial1").exists():
            ended.append(future)
            raise ray.exceptions.OutOfMemoryError("1 worker was killed: the node runs low on memory")
        return found

    def function(name):
        note(tmp_path, name)
        return {"status": "ok"}

    monkeypatch.setattr(event_manager, "ray", mock.Mock(wraps=ray, get=get))
    assert run(function) == {}
    assert ended and counts(tmp_path).keys() == set(NAMES)


def test_a_worker_that_dies_while_it_is_handed_a_trial_costs_nothing(tmp_path):
    def function(name):
        note(tmp_path, name)
        if name == "trial1":  # this worker's last
            get_session().finish = lambda timeout: os._exit(1)  # what Tune calls before the next one
        return {"status": "ok"}

    assert run(function) == {}
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1)


def test_a_trial_that_kills_every_worker_is_given_up(tmp_path):
    def function(name):
        note(tmp_path, name)
        if name == "trial0":
            os._exit(1)
        return {"status": "ok"}

    errors = run(function, retries=1)
    assert list(errors) == ["trial0"]
    assert errors["trial0"] not in ("", "None")
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1) | {"trial0": 2}


def test_what_failed_by_its_own_account_is_not_tried_again(tmp_path):
    def function(name):
        note(tmp_path, name)
        return {"status": "failed"}

    assert run(function) == {}
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (StorageError("the disk is full"), "the disk is full"),
        (ValueError("a\nb"), "trial0: ValueError: a."),
    ],
)
def test_what_ends_all_is_one_sentence(tmp_path, raised, sentence):
    def function(name):
        note(tmp_path, name)
        raise raised

    with pytest.raises(StudyError) as error:
        run(function, workers=CPUS, wave=4, fatal="{name}: {reason}.")
    assert str(error.value) == sentence
    assert list(counts(tmp_path)) == ["trial0"]


def test_notices_are_printed_and_work_is_counted_as_it_comes(monkeypatch, capsys):
    """The first trial is most of the work."""
    shown = []
    monkeypatch.setattr(_console.Progress, "update", lambda self, done, text: shown.append((done, text)))

    def function(name):
        return {"status": "failed" if name == "trial6" else "ok", "notice": f"{name} is done"}

    assert run(function, work=dict.fromkeys(NAMES, 1) | {"trial0": 94}, workers=CPUS) == {}
    assert capsys.readouterr().out.splitlines() == [f"test: {name} is done" for name in NAMES]
    assert {done for done, _ in shown} == {0, *range(94, 101)}
    assert shown[-1][1] == "6 of 7 done, 0 running, 1 failed"


def test_no_more_run_at_once_than_there_is_room_for_their_workers(tmp_path):
    """The first trial waits for company, which any other one would be."""

    def function(name):
        (tmp_path / name).touch()
        end = time.monotonic() + 5
        while name == "trial0" and time.monotonic() < end:
            if len(list(tmp_path.iterdir())) > 1:
                raise StorageError("not alone")
            time.sleep(0.05)
        return {"status": "ok"}

    assert run(function, workers=CPUS) == {}


def test_a_cluster_that_is_gone_is_one_sentence(monkeypatch):
    """What Ray raises for it is made a sentence; what is raised while the cluster answers stays a bug."""

    def break_down(answers: bool):
        with _console.Progress("test", 1) as progress, _engine.cluster_watched(progress):
            monkeypatch.setattr(_cluster, "answers", lambda address: answers)
            raise ray.exceptions.RaySystemError("whatever")

    with pytest.raises(ray.exceptions.RaySystemError):
        break_down(answers=True)
    with pytest.raises(StudyError, match=r"the Ray cluster is gone .* run the same command again"):
        break_down(answers=False)
