"""Run a study: every transfer trial that has no record yet, through Ray Tune.

    python jobs/transfer_sweep.py [STUDY] [--dry-run] [--limit N] [--results FOLDER]

Does the earlier steps that are missing (data, zoo). A trial's record is written by the worker that
ran it, so what is finished stays finished whatever happens to this process; run it again to go on.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time

import pandas as pd
from ray import tune
from rich.table import Table

from jobs import build_zoo, cluster, console, prepare_data
from study import data, outputs, records, spec, transfer, workspace, zoo
from study.errors import DivergedError, StudyError

# Tune's own tables and log files would bury the progress line, and cost time a trial; its habit of
# changing to a folder a trial would break relative paths.
QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_trial(config: dict, study: spec.Study, trials: dict[str, spec.Trial]) -> None:
    """One trial in a Ray worker: run it and write its record, unless another sweep has meanwhile."""
    trial, results = trials[config["trial"]], study.results
    if records.status_of(results, "trials", trial.id) == "ok":
        tune.report({"status": "ok"})
        return
    place = workspace.of(study)
    try:
        record = transfer.run(trial, place)
    except (DivergedError, StudyError) as error:  # the same again if tried again: recorded, not retried
        records.write_failure(results, "trials", trial.id, transfer.failure(trial, place, str(error)))
        tune.report({"status": "failed"})
        return
    records.write_trial(results, trial.id, record.row, record.predictions, record.history)
    tune.report({"status": "ok"})


class Watch(tune.Callback):
    """Counts what happens to the trials, for the progress line."""

    def __init__(self, tracker: console.Tracker) -> None:
        self.tracker = tracker
        self.running: set[str] = set()
        self.done = self.failed = 0

    def __getstate__(self):
        return {}  # Tune pickles its callbacks to restore a run, which this project never asks it to

    def on_trial_start(self, iteration, trials, trial, **info):
        self.running.add(trial.trial_id)

    def on_trial_complete(self, iteration, trials, trial, **info):
        self.running.discard(trial.trial_id)
        failed = (trial.last_result or {}).get("status") == "failed"
        self.failed += failed
        self.done += not failed

    def on_trial_error(self, iteration, trials, trial, **info):
        self.running.discard(trial.trial_id)
        self.failed += 1

    def on_step_end(self, iteration, trials, **info):
        total = int(self.tracker.total)
        text = f"{self.done} of {total} done, {len(self.running)} running, {self.failed} failed"
        self.tracker.update(self.done + self.failed, text)


def sweep(study: spec.Study, todo: list[spec.Trial], seconds: float | None) -> None:
    """Run trials. Needs Ray to be started, the data and the zoo to be there."""
    cluster.check(study.resources)
    os.environ |= QUIET_TUNE
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    trials = {trial.id: trial for trial in todo}
    trainable = tune.with_parameters(run_trial, study=study, trials=trials)
    request = {"cpu": study.resources.cpus, "gpu": study.resources.gpus}
    expected = seconds and seconds * len(todo) / cluster.slots(study.resources)
    with (
        tempfile.TemporaryDirectory(prefix="sweep-") as scratch,
        console.Tracker("sweep", len(todo), expected) as tracker,
    ):
        tuner = tune.Tuner(
            tune.with_resources(trainable, request),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            # Tune's own state is scratch: the records say what is finished.
            run_config=tune.RunConfig(
                name=study.name,
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=2),
                callbacks=[Watch(tracker)],
                verbose=0,
            ),
        )
        outcome = tuner.fit()
    for result in outcome:
        if result.error is not None:
            trial = trials[result.config["trial"]]
            row = transfer.failure(trial, workspace.of(study), str(result.error).strip().splitlines()[-1])
            records.write_failure(study.results, "trials", trial.id, row)


def seconds_per_trial(study: spec.Study) -> float | None:
    """What a trial takes: measured by the recorded ones, else as the study says, else unknown."""
    folder = study.results / "trials"
    if any(folder.glob("[!.]*.parquet")):
        seconds = pd.read_parquet(folder, columns=["seconds"])["seconds"].median()
        if not math.isnan(seconds):
            return float(seconds)
    return study.resources.seconds


def plan_table(study: spec.Study, trials: list[spec.Trial], status: dict[str, str]) -> Table:
    """Trials by method: planned, recorded, failed before, still to run."""
    made = Table("method", "trials", "recorded", "failed before", "to run", box=None)
    for method in study.methods:
        states = [status.get(trial.id) for trial in trials if trial.name == method]
        recorded = states.count("ok")
        counts = (len(states), recorded, states.count("failed"), len(states) - recorded)
        made.add_row(method, *map(str, counts))
    return made


def print_plan(study: spec.Study, trials: list[spec.Trial], todo: list[spec.Trial], status: dict) -> None:
    """What a run would do."""
    out = console.console
    out.print(f"study {study.name}: {len(study.ordered_pairs())} pairs, {len(study.seeds)} seeds")
    out.print(plan_table(study, trials, status))
    if not data.folder_of(study.data.images, study.folders.data).exists():
        out.print(f"data: to be written to {data.folder_of(study.data.images, study.folders.data)}")
    untrained = build_zoo.missing(study)
    if untrained:
        out.print(f"zoo: to be trained: {', '.join(model.name for model in untrained)}")
    out.print(f"each trial needs {study.resources.cpus} CPUs and {study.resources.gpus:g} GPUs")
    seconds = seconds_per_trial(study)
    slots = len(os.sched_getaffinity(0)) // study.resources.cpus if not study.resources.gpus else 0
    if seconds is None:
        out.print("estimated time: unknown, since no trial is recorded and resources.seconds is not set")
    else:
        work = seconds * len(todo)
        here = f", {console.duration(work / slots)} on this machine's CPUs" if slots else ""
        out.print(f"estimated time: {console.duration(work)} of trials ({seconds:.1f} s each){here}")
    out.print(f"results: {study.results}")


def job() -> int:
    parser = console.parser(__doc__.splitlines()[0], "data", "zoo", "outputs", "results")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--limit", type=int, metavar="N", help="run at most N trials")
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 0:
        parser.error("--limit: must not be negative")

    folders = {name: getattr(arguments, name) for name in console.FOLDERS}
    study = spec.load(arguments.study, **folders).absolute()
    build_zoo.check(study)
    trials = study.trials()
    status = records.status(study.results, "trials")
    todo = [trial for trial in trials if status.get(trial.id) != "ok"][: arguments.limit]
    if arguments.dry_run:
        print_plan(study, trials, todo, status)
        return 0

    records.prepare(study.results, records.TRANSFER_TABLES)
    outputs.Store(study.folders.outputs).prepare()
    images = prepare_data.prepare(study)
    zoo.check_classes(study, len(images.classes))
    zoo.check_checkpoints(study, len(images.classes))
    if todo or build_zoo.missing(study):
        cluster.start()
    build_zoo.build(study)
    records.write_plan(study.results, "plans", study.name, [trial.id for trial in trials])
    out = console.console
    if todo:
        out.print(f"sweep: {len(todo)} of {len(trials)} trials to run; results in {study.results}")
        started = time.monotonic()
        sweep(study, todo, seconds_per_trial(study))
        out.print(f"sweep: took {console.duration(time.monotonic() - started)}")

    status = records.status(study.results, "trials")
    counts = [status.get(trial.id) for trial in trials]
    out.print(plan_table(study, trials, status))
    for table in records.TRANSFER_TABLES:
        out.print(f"{table}: {study.results / table}")
    failed = [trial.id for trial in todo if status.get(trial.id) == "failed"]
    if failed:
        out.print(
            f"{len(failed)} trials failed (column 'reason' of {study.results / 'trials'}): {failed[:3]} ..."
        )
    if counts.count("ok") < len(trials) and not arguments.limit:
        out.print(f"{len(trials) - counts.count('ok')} trials are left; run the same command again to go on")
    interrupted = any(trial.id not in status for trial in todo)
    return 130 if interrupted else 0


if __name__ == "__main__":
    console.main(job)
