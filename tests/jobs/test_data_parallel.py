"""Functions on two workers through Ray Train, on a real local Ray: called from Tune, interrupted, refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import torch.distributed as dist

from jobs import _console, _data_parallel, _engine, transfer_sweep
from study import distributed, spec, transfer
from study.errors import DivergedError, StudyError
from study.store import records, schemas
from tests.jobs.running import refused, run, trials_of
from tests.study.trials import assert_close, budget, trial_of

pytestmark = pytest.mark.faults

WORK = _data_parallel._work


@pytest.fixture(scope="module")
def local_ray():
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def study(content, workspace) -> spec.Study:
    """With two workers, which need all CPUs there are."""
    content["resources"] = {"workers": 2, "checkpoint_seconds": 0}
    study = spec.Study.model_validate(content).absolute()
    records.prepare(study.results, schemas.TRANSFER_TABLES)
    return study


def recorded(study: spec.Study, trial: spec.Trial) -> transfer.Outcome:
    """What is recorded, after making sure that it is there once and nothing is left beside it."""
    found = {table: pd.read_parquet(study.results / table) for table in ("trials", "predictions", "history")}
    assert found["trials"]["trial"].tolist() == [trial.id]
    assert found["trials"]["status"].tolist() == ["ok"]
    assert [path.name for path in (study.results / "checkpoints").iterdir()] == []
    for table in ("predictions", "history"):
        assert (found[table].pop("trial") == trial.id).all()
    (row,) = found["trials"].to_dict("records")
    columns = [found[table].replace({np.nan: None}).to_dict("list") for table in ("predictions", "history")]
    return transfer.Outcome(row, *columns, student=None)


def train(trial: spec.Trial, study: spec.Study) -> None:
    """On two workers."""
    _data_parallel.run(transfer_sweep.train, (trial, study), study.resources, trial.id)


def test_a_trial_that_holds_nothing_gives_two_workers_what_they_need(local_ray, study, workspace):
    trial = budget(trial_of(study, "kl_dp"), batch_size=31)

    def function(trial):
        train(trial, study)
        return {"status": "ok"}

    with _console.Progress("test", 1) as progress:
        trials = {trial.id: trial}
        assert _engine.run(function, trials, resources=study.resources, progress=progress) == {}
    assert_close(recorded(study, trial), transfer.run(trial, workspace))


def test_any_function_runs_in_each_worker_and_gives_what_the_first_one_says(local_ray, study, tmp_path):
    def function(folder: Path, what: str) -> str:
        (folder / str(dist.get_rank())).touch()
        return f"{what} {dist.get_rank()} of {dist.get_world_size()}"

    assert _data_parallel.run(function, (tmp_path, "worker"), study.resources, "any") == "worker 0 of 2"
    assert {path.name for path in tmp_path.iterdir()} >= {"0", "1"}
    alone = spec.Resources(workers=1)
    assert _data_parallel.run(os.getpid, (), alone, "alone") == os.getpid()


def mortal(config: dict) -> object:
    """The work, noting the batches of each epoch; the second worker dies, once, in the second epoch."""
    notes = Path(config["arguments"][1].results)
    parts = distributed.parts

    def noting(*arguments):
        epoch = len(list(notes.glob(f"{os.getpid()}-*")))
        (notes / f"{os.getpid()}-{dist.get_rank()}-{epoch}").touch()
        if dist.get_rank() == 1 and epoch == 1 and len(list(notes.glob("*-1-*"))) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from parts(*arguments)

    distributed.parts = noting
    return WORK(config)


def test_a_worker_that_is_killed_is_replaced_and_the_trial_goes_on(local_ray, study, workspace, monkeypatch):
    trial = budget(trial_of(study, "xe_kl_mcl"), epochs=3)
    monkeypatch.setattr(_data_parallel, "_work", mortal)
    train(trial, study)
    assert_close(recorded(study, trial), transfer.run(trial, workspace))
    epochs: dict[str, int] = {}
    for note in study.results.glob("*-1-*"):
        process = note.name.partition("-")[0]
        epochs[process] = epochs.get(process, 0) + 1
    # The first began with two, the second of them its last; the other one went on with two and three.
    assert sorted(epochs.values()) == [2, 2]


def test_what_stops_a_trial_is_told_and_nothing_recorded(local_ray, study, tmp_path, monkeypatch):
    trial = trial_of(study, "kl")
    steep = trial.model_copy(update={"method": trial.method.model_copy(update={"lr": 1e30})})
    with pytest.raises(DivergedError, match=r"^the loss is not finite in epoch 0; lower the lr$"):
        train(steep, study)

    # What happens before the workers are together: here, that the images are not there.
    monkeypatch.setattr(_data_parallel, "RETRIES", 0)
    folders = study.folders.model_copy(update={"data": tmp_path / "none"})
    with pytest.raises(StudyError, match=r"^/.*: the data are not prepared; run jobs/data\.py$"):
        train(trial, study.model_copy(update={"folders": folders}))
    assert list((study.results / "trials").iterdir()) == []


def test_a_sweep_of_trials_with_two_workers(workspace, content, write_study):
    content |= {"pairs": [["mixer", "resnet"]], "resources": {"workers": 2}}
    content["methods"] = {"kl": {"lr": 1e-2}, "kl_dp": {"lr": 1e-2}}
    path = write_study(content)
    done = run("jobs/transfer_sweep.py", path)
    assert done.returncode == 0, done.stderr
    study = spec.load(path)
    recorded = trials_of(study.results).set_index("trial")
    assert set(recorded.index) == {trial.id for trial in study.trials()}
    for trial in study.trials():
        alone = transfer.run(trial, workspace).row
        assert recorded.loc[trial.id, "transfer_delta"] == pytest.approx(alone["transfer_delta"], abs=0.01)


def test_workers_that_cannot_share_a_trial_are_refused_before_any_starts(workspace, content, write_study):
    content |= {"pairs": [["resnet", "mixer"]], "resources": {"workers": 2}}
    refused(run("jobs/transfer_sweep.py", write_study(content)), "resnet", "BatchNorm", "resources.workers")
    content |= {"pairs": [["mixer", "resnet"]], "resources": {"workers": 33}}
    refused(run("jobs/transfer_sweep.py", write_study(content)), "33 workers", "32")
    content["resources"] = {"workers": 32}
    refused(run("jobs/transfer_sweep.py", write_study(content)), "resources.workers", "room for 2")
