"""Trackers on real sweeps: what they were told is what the records say, and none of them can harm a sweep."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import ray
import yaml

from jobs import _console, _engine, _trackers, transfer_sweep
from study import spec
from study.errors import StudyError
from study.store import records, schemas
from study.store.storage import Remote
from tests.jobs.running import ROOT, run

MEASURES = [
    *("student_accuracy_before", "student_accuracy_after", "teacher_accuracy", "transfer_delta"),
    *("rho_pos_before", "rho_neg_before", "rho_pos_after", "rho_neg_after"),
    *("knowledge_gain", "knowledge_loss", "transfer_rate", "seconds"),
]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric in a run's TensorBoard folder, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()["scalars"]
    return {tag.removeprefix("ray/tune/"): [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def mlflow_runs(results: Path, experiment: str) -> tuple:
    """MLflow's client on the file of a sweep, and its runs by the trial's id."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'mlflow' / 'mlflow.db'}")
    known = client.get_experiment_by_name(experiment)
    runs = client.search_runs([known.experiment_id]) if known else []
    return client, {run.data.params["trial"]: run for run in runs}


def wandb_run(folder: Path) -> tuple[str, dict, list[dict]]:
    """Name, settings and logged rows of a run that W&B keeps to upload later.

    Its file is a log of records as LevelDB writes it, after 7 bytes of its own.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    def values(items) -> dict:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    (path,) = folder.glob("*.wandb")
    content, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:  # no header is cut by the end of a block
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(Record.FromString(whole))
            whole = b""
    started = next(record.run for record in found if record.HasField("run"))
    rows = [values(record.history.item) for record in found if record.HasField("history")]
    return started.display_name, values(started.config.update), rows


# --- a sweep as a user runs it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(base, workspace, tmp_path_factory):
    """A study with all trackers, one of its two trials failing: (done, results, ok trial, failed trial)."""
    folder = tmp_path_factory.mktemp("tracked")
    content = base | {
        "folders": base["folders"] | {"results": str(folder / "results")},
        "pairs": [["mixer", "resnet"]],
        "methods": {"kl_dp": {"lr": 1e-2}, "exploding": {"method": "kl", "lr": 1e30}},
        "trackers": ["tensorboard", "mlflow", "wandb"],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    before = {place.name for place in ROOT.iterdir()}
    done = run("jobs/transfer_sweep.py", path, WANDB_MODE="offline", WANDB_SILENT="true")
    assert done.returncode == 1, done.stdout + done.stderr  # one of its trials failed
    assert {place.name for place in ROOT.iterdir()} <= before  # nothing where it was called
    fine, failing = spec.load(path).trials()
    return done, folder / "results", fine, failing


@pytest.fixture
def row(swept) -> dict:
    rows = pd.read_parquet(swept[1] / "trials").set_index("trial")
    assert rows["status"].to_dict() == {swept[2].id: "ok", swept[3].id: "failed"}
    return rows.loc[swept[2].id].to_dict()


@pytest.fixture
def history(swept) -> pd.DataFrame:
    return pd.read_parquet(swept[1] / "history").sort_values("epoch")


@pytest.mark.ray
def test_tensorboard_shows_what_is_recorded(swept, row, history):
    _, results, fine, failing = swept
    folders = {folder.name: folder for folder in (results / "tensorboard").iterdir()}
    name = f"mixer-from-resnet-kl_dp-seed-0-{fine.id}"
    assert set(folders) == {name, f"mixer-from-resnet-exploding-seed-0-{failing.id}"}
    shown = curves(folders.pop(name))
    for column in ("loss", "lr", "teacher_share"):
        assert shown[column] == [
            (0, pytest.approx(history[column][0])),
            (1, pytest.approx(history[column][1])),
        ]
    for measure in MEASURES:
        assert shown[measure] == [(2, pytest.approx(row[measure]))]
    (failed,) = folders.values()
    assert curves(failed) == {}


@pytest.mark.ray
def test_mlflow_shows_what_is_recorded(swept, row, history):
    _, results, fine, failing = swept
    client, runs = mlflow_runs(results, "small")
    assert {trial: run.info.status for trial, run in runs.items()} == {
        fine.id: "FINISHED",
        failing.id: "FAILED",
    }
    shown = runs[fine.id]
    assert shown.info.run_name == "mixer from resnet, kl_dp, seed 0"
    told = {"student": "mixer", "teacher": "resnet", "method": "kl_dp", "seed": "0", "lr": "0.01"}
    told |= {"temperature": "1.0", "epochs": "2", "batch_size": "32", "schedule": "cosine"}
    assert shown.data.params.items() >= told.items()
    for measure in MEASURES:
        assert shown.data.metrics[measure] == row[measure]
    for column in ("loss", "lr", "teacher_share"):
        points = client.get_metric_history(shown.info.run_id, column)
        assert [(point.step, point.value) for point in points] == list(enumerate(history[column]))


@pytest.mark.ray
def test_wandb_keeps_what_is_recorded(swept, row, history):
    _, results, fine, _ = swept
    (folder,) = (results / "wandb").glob(f"offline-run-*-{fine.id}")
    name, settings, rows = wandb_run(folder)
    assert name == "mixer from resnet, kl_dp, seed 0"
    assert settings["teacher"] == "resnet"
    assert settings["lr"] == 0.01
    assert [told["loss"] for told in rows[:2]] == history["loss"].tolist()
    assert [told["_step"] for told in rows] == [0, 1, 2]
    assert {measure: rows[2][measure] for measure in MEASURES} == {
        measure: row[measure] for measure in MEASURES
    }


@pytest.mark.ray
def test_the_summary_says_where(swept):
    done, results, *_ = swept
    for line in (
        f"tensorboard: {results}/tensorboard",
        f"mlflow: sqlite:///{results}/mlflow/mlflow.db",
        f"wandb: {results}/wandb",
    ):
        assert line in done.stdout.splitlines()


KILLED_AT_ITS_END = """
import os, queue, sys
import psutil
from ray.air.integrations.wandb import WandbLoggerCallback, _QueueItem
from jobs import _trackers

callback = WandbLoggerCallback(project="small")
_trackers._until_written(callback)
told = queue.Queue()
told.put((_QueueItem.RESULT, {"training_iteration": 0, "loss": 2.5}))
told.put((_QueueItem.END, None))
run = {"id": "it", "name": "a run", "project": "small", "mode": "offline", "dir": sys.argv[1]}
callback._logger_actor_cls(sys.argv[1], told, exclude=[], to_config=[], **run).run()
for child in psutil.Process().children(recursive=True):
    child.kill()
os._exit(0)
"""


def test_wandbs_file_is_whole_when_the_process_of_a_run_is_killed_at_its_end(tmp_path):
    """Which Ray does as soon as it says that it is done."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", KILLED_AT_ITS_END, str(tmp_path)], cwd=ROOT, check=True)
        (folder,) = (tmp_path / "wandb").glob("offline-run-*-it")
        name, _, rows = wandb_run(folder)
        assert (name, [row["loss"] for row in rows]) == ("a run", [2.5])
        folder.rename(tmp_path / folder.name)


# --- in the middle of a sweep -------------------------------------------------------------------


@pytest.fixture
def study(content) -> spec.Study:
    content["pairs"], content["methods"] = [["mixer", "resnet"]], {"kl_dp": {"lr": 1e-2}}
    content["trackers"] = ["tensorboard", "mlflow"]
    return spec.Study.model_validate(content).absolute()


@pytest.mark.parametrize("names", [[], ["tensorboard"]], ids=["off", "on"])
def test_a_trial_reports_more_than_its_end_only_where_asked(workspace, study, names, monkeypatch):
    study = study.model_copy(update={"trackers": names})
    (trial,) = study.trials()
    records.prepare(study.results, schemas.TRANSFER_TABLES)
    reports: list[dict] = []
    monkeypatch.setattr(_trackers.tune, "report", reports.append)
    end = transfer_sweep.run_trial(trial, study)
    assert end.pop("status") == "ok"
    assert [told["history"]["epoch"] for told in reports] == ([[0], [0, 1]] if names else [])
    assert set(end) == ({"history", "row"} if names else set())
    if names:
        assert reports[1]["history"].items() <= end["history"].items()


def history_of(epochs: int) -> dict[str, list]:
    numbers = [float(n) for n in range(epochs)]
    empty = dict.fromkeys([*_trackers.EPOCH, "measures"], [None] * epochs)
    return {"epoch": list(range(epochs)), **empty, "loss": numbers, "lr": numbers}


@pytest.mark.ray
def test_epochs_are_shown_while_a_trial_runs_and_once_if_it_is_tried_again(study, tmp_path):
    """A worker dies as soon as MLflow shows its first epoch; the trial goes on in the same run."""
    (trial,) = study.trials()
    shown = tmp_path / "shown"

    def function(trial):
        _trackers.report_epochs(history_of(1))
        end = time.monotonic() + 20
        while not shown.exists() and time.monotonic() < end:
            if "loss" in mlflow_runs(study.results, "small")[1][trial.id].data.metrics:
                shown.touch()
                os._exit(1)
            time.sleep(0.1)
        _trackers.report_epochs(history_of(2))
        return {"status": "ok", "history": history_of(3), "row": {"transfer_delta": 0.25, "lr": 7.0}}

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        trials = {trial.id: trial}
        with _trackers.opened(study, trials) as callbacks, _console.Progress("test", 1) as progress:
            errors = _engine.run(
                function, trials, resources=study.resources, progress=progress, callbacks=callbacks
            )
    finally:
        ray.shutdown()
    assert errors == {}
    assert shown.exists()
    curve = [(n, float(n)) for n in range(3)]
    (folder,) = study.results.glob("tensorboard/*")
    assert curves(folder) == {"loss": curve, "lr": curve, "transfer_delta": [(3, 0.25)]}
    client, runs = mlflow_runs(study.results, "small")
    assert runs[trial.id].info.status == "FINISHED"
    points = client.get_metric_history(runs[trial.id].info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == curve


def of_tune(trial: spec.Trial, **last_result) -> SimpleNamespace:
    """A trial as Tune hands it to callbacks."""
    return SimpleNamespace(config={"name": trial.id}, last_result=last_result)


def test_a_tracker_that_fails_is_off_and_raises_nothing(study, capsys):
    (trial,) = study.trials()
    with _trackers.opened(study, {trial.id: trial}) as callbacks:
        for callback in callbacks:
            callback.on_trial_start(0, [], of_tune(trial))
            callback.thread.submit(int).result()  # after what was asked before
        (study.results / "mlflow" / "mlflow.db").write_bytes(b"no data base" * 1000)
        for _ in range(2):
            for callback in callbacks:
                callback.on_trial_result(0, [], of_tune(trial), {"row": {"transfer_delta": 0.25}})
        for callback in callbacks:
            callback.on_trial_complete(0, [], of_tune(trial, status="ok"))
    said = [line for line in capsys.readouterr().out.splitlines() if "mlflow: " in line]
    assert len(said) == 1
    assert said[0].startswith(
        "mlflow: failed, and is off for the rest of this sweep; records are not affected"
    )
    (folder,) = study.results.glob("tensorboard/*")
    assert set(curves(folder)) == {"transfer_delta"}


def test_trials_without_an_end_or_without_a_beginning(study):
    """One is interrupted, one given up, one given up before it began, by the death of its worker."""
    trials = dict(
        zip("abc", [study.trials()[0].model_copy(update={"seed": n}) for n in range(3)], strict=True)
    )
    with _trackers.opened(study, trials) as (_, callback):
        for name in "ab":
            callback.on_trial_start(0, [], SimpleNamespace(config={"name": name}))
        for name in "bc":
            callback.on_trial_error(0, [], SimpleNamespace(config={"name": name}))
    assert not callback.off
    _, runs = mlflow_runs(study.results, "small")
    failed = {trials[name].id: "FAILED" for name in "ab"}
    assert {trial: run.info.status for trial, run in runs.items()} == failed


# --- before a sweep -----------------------------------------------------------------------------


def test_nothing_is_imported_unasked():
    """Of W&B that is Ray's part: timm imports wandb itself wherever it is installed."""
    asked = {"tensorboardX", "mlflow", "sqlalchemy", "alembic", "ray.air.integrations.wandb"}
    script = f"import sys, jobs.transfer_sweep; print({asked} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "package"), [(n, p) for n, all_ in _trackers.PACKAGES.items() for p in all_]
)
def test_a_missing_package_is_told_before_anything_is_done(content, write_study, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = str(write_study(content))
    for flags in ([], ["--dry-run"]):
        monkeypatch.setattr(sys, "argv", ["transfer_sweep.py", path, "--track", name, *flags])
        with pytest.raises(
            StudyError, match=rf"{name} needs the package {package}.*requirements-trackers\.txt"
        ):
            transfer_sweep.job()
    assert not Path(content["folders"]["results"]).exists()


def test_the_flag_is_instead_of_the_studys_and_the_plan_says_where(content, write_study, monkeypatch, capsys):
    content["trackers"] = ["wandb"]
    path = str(write_study(content))
    monkeypatch.setattr(
        sys, "argv", ["transfer_sweep.py", path, "--dry-run", *["--track", "tensorboard"] * 2]
    )
    assert transfer_sweep.job() == 0
    said = capsys.readouterr().out
    assert f"tensorboard: {content['folders']['results']}/tensorboard" in said
    assert "wandb" not in said
    monkeypatch.setattr(sys, "argv", ["transfer_sweep.py", path, "--track", "tensorbord"])
    with pytest.raises(SystemExit):
        transfer_sweep.job()
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize("name", _trackers.PACKAGES)
def test_results_at_a_url_need_another_place(study, name, monkeypatch, tmp_path):
    folders = study.folders.model_copy(update={"results": Remote("s3://bucket/results")})
    study = study.model_copy(update={"folders": folders, "trackers": [name]})
    with pytest.raises(
        StudyError, match=rf"{name} writes to a folder, but .* URL \(s3://bucket/results\); \w+"
    ):
        _trackers.check(study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    if name != "tensorboard":
        _trackers.check(study)
        assert str(tmp_path) in _trackers.places(study)[name]


def test_a_server_that_is_silent_is_refused_and_its_password_kept(study, monkeypatch):
    study = study.model_copy(update={"trackers": ["mlflow"]})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/path")
    with pytest.raises(StudyError, match=r"MLFLOW_TRACKING_URI: the server 127\.0\.0\.1:9 does not answer"):
        _trackers.check(study)
    assert _trackers.places(study) == {"mlflow": "http://127.0.0.1:9/path"}


def test_wandb_without_a_login_is_one_sentence(study, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    study = study.model_copy(update={"trackers": ["wandb"]})
    with pytest.raises(StudyError, match=r"wandb cannot start .*WANDB_API_KEY"), _trackers.opened(study, {}):
        pass
