"""Experiment trackers: a sweep as TensorBoard, MLflow and Weights & Biases show it, live.

Ray Tune's own callbacks do the logging; a study (`trackers`) or a flag (`--track`) asks for them, and only
then is anything of them imported, or does a trial report more than its end. They ask a trial of Tune's for
a name, settings and a folder, and log all that it reported: here they are given a `Run` in its place, with
the settings of a transfer, a folder that outlasts the sweep, and numbers named as the tables name them.

Records are the result, and a tracker is one more way to look at it. So each works in a thread of its own,
in which it holds up no trial, and one that fails is off for the rest of the sweep, which goes on.

Left out on purpose: models and checkpoints as artifacts (what is recorded says how to make them again),
and anything read back from a tracker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ray import tune

from jobs import _cluster, _console
from study import spec
from study.errors import StudyError
from study.store import records
from study.store.storage import Location, Remote

if TYPE_CHECKING:
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.air.integrations.wandb import WandbLoggerCallback
    from ray.tune.logger import LoggerCallback

REQUIREMENTS = "requirements-trackers.txt"
# What Ray's callback for each imports, and what MLflow keeps its file with.
PACKAGES = {
    "tensorboard": ("tensorboardX",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "wandb": ("wandb",),
}
MLFLOW_URI, WANDB_FOLDER = "MLFLOW_TRACKING_URI", "WANDB_DIR"
WITHOUT_FOLDER = {
    "tensorboard": "leave it out, or keep results in a folder",
    "mlflow": f"name a server in {MLFLOW_URI}",
    "wandb": f"name a folder in {WANDB_FOLDER}",
}
# MLflow tells its makers of each use, and users of each table it makes, unless told otherwise.
QUIET_MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
# Seconds that the end of a sweep waits for what W&B has not uploaded; `wandb sync` does it later.
WANDB_PATIENCE = 300
# Columns of `schemas.HISTORY`; what objectives measure comes to them by its own names.
EPOCH = ("loss", "lr", "teacher_share", "student_accuracy")


# --- before the sweep ---------------------------------------------------------------------------


def check(study: spec.Study) -> None:
    """Refuse, by a `StudyError`, trackers that lack a package, a folder or (MLflow) a server that answers."""
    for name in study.trackers:
        server = urlsplit(_place(name, study))
        if name == "mlflow":
            for variable, value in QUIET_MLFLOW.items():  # before the import, which reads them
                os.environ.setdefault(variable, value)
        for package in PACKAGES[name]:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise StudyError(
                    f"trackers: {name} needs the package {package}, which cannot be imported ({error}); "
                    f"`pip install -r {REQUIREMENTS}`, or leave it out"
                ) from error
        if server.scheme in ("http", "https"):  # MLflow itself would try for minutes
            port = server.port or {"http": 80, "https": 443}[server.scheme]
            if not _cluster.answers(f"{server.hostname}:{port}"):
                raise StudyError(
                    f"{MLFLOW_URI}: the server {server.hostname}:{port} does not answer; start or correct it"
                )


def places(study: spec.Study) -> dict[str, str]:
    """Where each tracker of a study writes."""
    return {name: _without_password(_place(name, study)) for name in study.trackers}


def _place(name: str, study: spec.Study) -> str:
    named = {
        "mlflow": os.environ.get(MLFLOW_URI),
        "wandb": os.environ.get(WANDB_FOLDER) and str(Path(os.environ[WANDB_FOLDER]).absolute() / "wandb"),
    }
    if found := named.get(name):
        return found
    if isinstance(study.results, Remote):
        raise StudyError(
            f"trackers: {name} writes to a folder, but the results are at a URL ({study.results}); "
            f"{WITHOUT_FOLDER[name]}"
        )
    folder = study.results / name
    return f"sqlite:///{folder / 'mlflow.db'}" if name == "mlflow" else str(folder)


# --- in a worker --------------------------------------------------------------------------------


def report_epochs(history: Mapping[str, list]) -> None:
    """Report what a trial's training has come to; waits until Tune has taken it."""
    tune.report({"history": {column: list(values) for column, values in history.items()}})


def recorded(results: Location, trial: str) -> dict[str, Any]:
    """What a trial's last report holds for trackers: the numbers of its row, and its history."""
    found: dict[str, Any] = {}
    # Whatever keeps a record from being read (as a rule it was compacted meanwhile): it is no trial's fault.
    with contextlib.suppress(Exception):
        found["history"] = records.read(results, "history", trial).to_pydict(maps_as_pydicts="strict")
        (row,) = records.read(results, "trials", trial).to_pylist()
        found["row"] = {column: value for column, value in row.items() if isinstance(value, float)}
    return found


# --- where the sweep is run ---------------------------------------------------------------------


def settings(trial: spec.Trial) -> dict[str, str | float | bool]:
    """What a trial is, under the names of columns of `schemas.TRIALS` where it has one."""
    content = {
        "trial": trial.id,
        "study": trial.study,
        "student_timm": trial.student.timm,
        "teacher_timm": ", ".join(model.timm for model in trial.teachers) or None,
        "data": trial.data.images.source,
        **trial.method.model_dump(mode="json"),
        **trial.labels,
        "teachers": None,  # one text says it
        **trial.budget.model_dump(mode="json"),
    }
    return {
        name: value if isinstance(value, str | float | int) else json.dumps(value)
        for name, value in content.items()
        if value is not None
    }


class Run:
    """A trial as a tracker is to show it: what Ray's callbacks ask of a trial of Tune's."""

    def __init__(self, trial: spec.Trial, folder: Path) -> None:
        self.trial_id, self.experiment_dir_name = trial.id, trial.study
        self.config = self.evaluated_params = settings(trial)
        teacher = f" from {trial.teacher}" if trial.teacher else ""
        how = ", ".join(filter(None, map(trial.labels.get, ("combine", "order", "method"))))
        self.name = f"{trial.student.name}{teacher}, {how}, seed {trial.seed}"
        self.local_path = str(folder)
        self.next_epoch = 0  # the first one that is not logged yet

    def __str__(self) -> str:
        return self.name

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


class Tracking(tune.Callback):
    """One of Ray's callbacks, behind what makes it see runs and keeps its failures from the sweep.

    A trial that is tried again goes on in the same run: its epochs come out the same.
    """

    def __init__(
        self, name: str, callback: LoggerCallback, trials: Mapping[str, spec.Trial], folder: Path
    ) -> None:
        self.name, self.callback, self.trials, self.folder = name, callback, trials, folder
        self.runs: dict[str, Run] = {}
        self.off = False
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __getstate__(self):
        return {}  # as `_engine.Watch`

    def on_trial_start(self, iteration, trials, trial, **info):
        self._later(self._start, trial.config["name"])

    def on_trial_result(self, iteration, trials, trial, result, **info):
        name, history, row = trial.config["name"], result.get("history", {}), result.get("row", {})
        self._later(self._log, name, history, row)

    def on_trial_complete(self, iteration, trials, trial, **info):
        failed = (trial.last_result or {}).get("status") != "ok"  # or interrupted
        self._later(self._end, trial.config["name"], failed)

    def on_trial_error(self, iteration, trials, trial, **info):
        self._later(self._end, trial.config["name"], True)

    def close(self) -> None:
        """End what is still shown as running, and wait until everything is written."""
        self._later(lambda: [self._end(name, True) for name in list(self.runs)])
        self._later(self.callback.on_experiment_end, [])
        try:
            self.thread.shutdown()
        except KeyboardInterrupt:
            self.off = True  # not waited for, then
            raise

    def _later(self, step: Callable, *arguments) -> None:
        self.thread.submit(self._guarded, step, *arguments)

    def _guarded(self, step: Callable, *arguments) -> None:
        if self.off:
            return
        try:
            step(*arguments)
        except Exception as error:
            self.off = True
            _console.console.print(
                f"{self.name}: failed, and is off for the rest of this sweep; records are not affected "
                f"({_without_password(_cluster.reason(error))})"
            )

    def _start(self, name: str) -> None:
        if name in self.runs:
            return
        trial = self.trials[name]
        run = Run(trial, self.folder)
        if self.name == "tensorboard":  # which knows runs by their folders
            run.local_path = str(self.folder / (re.sub(r"[^\w.-]+", "-", run.name) + f"-{trial.id}"))
        self.runs[name] = run
        self.callback.log_trial_start(run)

    def _log(self, name: str, history: Mapping[str, list], row: Mapping[str, float]) -> None:
        run = self.runs[name]
        for n, epoch in enumerate(history.get("epoch", ())):
            if epoch >= run.next_epoch:
                measures = dict(history["measures"][n] or {})
                self._numbers(run, epoch, measures | {column: history[column][n] for column in EPOCH})
                run.next_epoch = epoch + 1
        measures = {key: value for key, value in row.items() if key not in run.config and key not in EPOCH}
        if measures:
            self._numbers(run, run.next_epoch, measures)

    def _numbers(self, run: Run, step: int, numbers: Mapping[str, float | None]) -> None:
        told = {name: number for name, number in numbers.items() if number is not None}
        self.callback.log_trial_result(step, run, {"training_iteration": step, **told})

    def _end(self, name: str, failed: bool) -> None:
        if run := self.runs.pop(name, None):  # one whose worker died before its start has none
            self.callback.log_trial_end(run, failed=failed)


@contextlib.contextmanager
def opened(study: spec.Study, trials: Mapping[str, spec.Trial]) -> Iterator[list[Tracking]]:
    """A study's trackers (see `check`), as callbacks of all the Tuners of one sweep.

    Args:
        study: names its trackers, and where results lie (absolute).
        trials: those of the sweep, by what Tune calls them.

    Raises:
        StudyError: a tracker cannot start, such as for want of a login.
    """
    with contextlib.ExitStack() as stack:
        trackers = []
        for name in dict.fromkeys(study.trackers):
            try:
                callback, folder = _callback(name, study)
                callback.setup()
            except Exception as error:
                reason = _without_password(_cluster.reason(error))
                raise StudyError(f"trackers: {name} cannot start ({reason})") from error
            tracker = Tracking(name, callback, trials, folder)
            stack.callback(tracker.close)
            trackers.append(tracker)
        yield trackers


def _callback(name: str, study: spec.Study) -> tuple[LoggerCallback, Path]:
    """Ray's callback for a tracker, and a folder that is there for it."""
    place = _place(name, study)
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        if MLFLOW_URI not in os.environ:
            Path(place.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        callback = MLflowLoggerCallback(place, experiment_name=study.name)
        _in_batches(callback, place)
        return callback, Path.cwd()
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        from ray.tune.logger import TBXLoggerCallback

        return TBXLoggerCallback(), folder
    from ray.air.integrations.wandb import WandbLoggerCallback

    callback = WandbLoggerCallback(
        project=os.environ.get("WANDB_PROJECT", study.name),
        upload_timeout=WANDB_PATIENCE,
        dir=str(folder.parent),  # in which W&B calls its folder `wandb`
        mode=os.environ.get("WANDB_MODE"),  # it runs in a process whose environment is Ray's
    )
    _until_written(callback)
    return callback, folder


def _until_written(callback: WandbLoggerCallback) -> None:
    """Have the process of a run end when W&B's own has written the run's file.

    `wandb.finish`, with which Ray's ends, may return before that, and Ray then kills both: the run was lost.
    """

    class Actor(callback._logger_actor_cls):
        def run(self) -> None:
            super().run()
            self._wandb.teardown()

    callback._logger_actor_cls = Actor


def _in_batches(callback: MLflowLoggerCallback, place: str) -> None:
    """Have Ray's callback make one request for all numbers of a report, where it makes two for each."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(place)

    def log_params(params_to_log: dict, run_id: str) -> None:
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params_to_log.items()])

    def log_metrics(step: int, metrics_to_log: dict, run_id: str) -> None:
        now = round(1000 * time.time())
        numbers = metrics_to_log.items() - {("training_iteration", step)}  # Tune's name for the step
        client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value in numbers])

    callback.mlflow_util.log_params, callback.mlflow_util.log_metrics = log_params, log_metrics


def _without_password(text: str) -> str:
    """Without the name and password that a URL may hold, which belong in no message."""
    return re.sub("//[^/@]*@", "//", text)
