"""Run a study: every transfer trial that has no record yet, through Ray Tune.

    python jobs/transfer_sweep.py [STUDY] [--dry-run] [--limit N] [--track NAME] [--results FOLDER]

Does the earlier steps that are missing (data, zoo). A trial's record is written by the worker that
ran it, so what is finished stays finished whatever happens to this process; run it again to go on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from functools import partial
from typing import Any, get_args

import ray
from rich.table import Table

from jobs import _cluster, _console, _data_parallel, _engine, _trackers, data
from jobs import zoo as zoo_job
from study import distributed, reuse, spec, transfer, workspace
from study.errors import DivergedError, StorageError, StudyError
from study.images import files, splits
from study.models import zoo
from study.store import cache, checkpoints, outputs, records, schemas, storage

SAMPLE = 100  # recorded trials that say how long the next ones take


def run_trial(trial: spec.Trial, study: spec.Study) -> dict[str, Any]:
    """One trial in a Ray worker; reports what came of it, as `waves.run` and trackers want to know it."""
    try:
        report = {"status": run_and_record(trial, study)}
        return report | (_trackers.recorded(study.results, trial.id) if study.trackers else {})
    except StorageError as error:
        return {"status": "unrecorded", "reason": str(error)}


def run_and_record(trial: spec.Trial, study: spec.Study) -> str:
    """Run a trial and write its record, unless another sweep has meanwhile; the status recorded."""
    if not (study.results / "plans").exists():
        raise RuntimeError(f"{study.results}: the node {platform.node()} does not see the results folder")
    if records.status_of(study.results, "trials", trial.id) == "ok":
        return "ok"
    try:
        if study.resources.workers > 1:
            _data_parallel.run(trial, study)
        else:
            tell = {"progress": _trackers.report_epochs} if study.trackers else {}
            transfer.run_and_record(trial, workspace.of(study), study, **tell)
    except StorageError:
        raise
    except (DivergedError, StudyError) as error:  # the same again if tried again: recorded, not retried
        record_failures(study, [(trial, str(error))])
        return "failed"
    return "ok"


def record_failures(study: spec.Study, failed: list[tuple[spec.Trial, str]]) -> None:
    """Record trials that failed, and why."""
    for trial, reason in failed:
        row = transfer.failure(trial, workspace.of(study), reason)
        records.write_failure(study.results, "trials", trial.id, row)
        checkpoints.of(study, trial).remove()


def sweep(study: spec.Study, todo: list[spec.Trial], seconds: float | None) -> None:
    """Run trials. Needs Ray to be started, the data and the zoo to be there."""
    _cluster.check(study.resources)
    trials = {trial.id: trial for trial in todo}
    expected = seconds and seconds * len(todo) / _cluster.slots(study.resources)
    request, at_once = {"cpu": study.resources.cpus, "gpu": study.resources.gpus}, None
    if study.resources.workers > 1:  # which ask for themselves: as many trials as there is room for
        request, at_once = _data_parallel.CALLER, _cluster.slots(study.resources)
    with (
        _trackers.opened(study, trials) as callbacks,
        _console.Tracker("sweep", len(todo), expected) as tracker,
    ):
        run = partial(run_trial, study=study)
        errors = _engine.run(
            run, trials, request=request, tracker=tracker, at_once=at_once, callbacks=callbacks
        )
    if errors:
        failed = [(trials[name], reason) for name, reason in errors.items()]
        # By a worker, since the data need not be where this runs.
        for ended in _cluster.as_completed(record_failures, {"failures": (study, failed)}, study.resources):
            if ended and isinstance(ended[1], ray.exceptions.RayError):
                raise StudyError(
                    f"{len(errors)} trials failed (such as: {next(iter(errors.values()))}), which could not "
                    f"be recorded ({_cluster.reason(ended[1])})"
                )


def seconds_per_trial(study: spec.Study) -> float | None:
    """What a trial takes: measured by some recorded ones, else as the study says, else unknown."""
    seconds = []
    for path in storage.files(study.results / "trials", ".parquet")[:SAMPLE]:
        with (
            contextlib.suppress(FileNotFoundError),  # compacted meanwhile
            records.open_table(study.results, "trials", path.stem) as file,
        ):
            seconds += file.read(columns=["seconds"])["seconds"].drop_null().to_pylist()
    return statistics.median(seconds) if seconds else study.resources.seconds


def plan_table(study: spec.Study, trials: list[spec.Trial], status: dict[str, str]) -> Table:
    """Trials by method: planned, recorded, failed before, still to run."""
    made = Table("method", "trials", "recorded", "failed before", "to run", box=None)
    for method in study.methods:
        states = [status.get(trial.id) for trial in trials if trial.name == method]
        recorded = states.count("ok")
        counts = (len(states), recorded, states.count("failed"), len(states) - recorded)
        made.add_row(method, *map(str, counts))
    return made


def write_plan(study: spec.Study, trials: list[spec.Trial]) -> None:
    """Say which trials the study now consists of, so that what is missing can be told."""
    columns = {
        "trial": [trial.id for trial in trials],
        "student": [trial.student.name for trial in trials],
        "teacher": [trial.teacher.name if trial.teacher else None for trial in trials],
        "method": [trial.name for trial in trials],
        "seed": [trial.seed for trial in trials],
    }
    records.write_plan(study.results, "plans", study.name, columns)


def decided(study: spec.Study, trials: list[spec.Trial], images: files.Images) -> reuse.Decision:
    """What becomes of frozen models' outputs on the transfer set."""
    samples = len(splits.split(images, study.data.splits)["transfer"])
    return reuse.decide(study, trials, samples, len(images.classes))


def in_order(todo: list[spec.Trial]) -> list[spec.Trial]:
    """Trials so that a worker meets the same student, and then the same teacher, again."""
    return sorted(todo, key=lambda trial: (trial.student.name, trial.teacher.name if trial.teacher else ""))


def print_plan(study: spec.Study, trials: list[spec.Trial], todo: list[spec.Trial], status: dict) -> None:
    """What a run would do."""
    out = _console.console
    out.print(f"study {study.name}: {len(study.ordered_pairs())} pairs, {len(study.seeds)} seeds")
    out.print(plan_table(study, trials, status))
    if not files.is_prepared(study.data.images, study.folders.data):
        out.print(f"data: to be written to {files.folder_of(study.data.images, study.folders.data)}")
        out.print("outputs of frozen models: cached or live is decided once the data are there")
    else:
        images = files.open_images(
            study.data.images, study.folders.data, cache.of(study.folders, study.folders.data)
        )
        out.print(f"outputs of frozen models: {decided(study, trials, images)}")
    untrained = zoo_job.missing(study)
    if untrained:
        out.print(f"zoo: to be trained: {', '.join(model.name for model in untrained)}")
    resources = study.resources
    each = f", on each of {resources.workers} workers" if resources.workers > 1 else ""
    out.print(f"each trial needs {resources.cpus} CPUs and {resources.gpus:g} GPUs{each}")
    kept = f"{workspace.KEPT_SHARE['cuda']:g} of its share of a GPU's memory"
    if resources.keep_gib is not None or not resources.gpus:
        kept = f"{workspace.keep_bytes(resources, 'cpu') / 2**30:.3g} GiB"
    out.print(f"each worker keeps models, images and outputs for its next trials: {kept} at most")
    seconds = seconds_per_trial(study)
    slots = len(os.sched_getaffinity(0)) // (resources.cpus * resources.workers) if not resources.gpus else 0
    if seconds is None:
        out.print("estimated time: unknown, since no trial is recorded and resources.seconds is not set")
    else:
        work = seconds * len(todo)
        here = f", {_console.duration(work / slots)} on this machine's CPUs" if slots else ""
        out.print(f"estimated time: {_console.duration(work)} of trials ({seconds:.1f} s each){here}")
    out.print(f"results: {study.results}")
    print_trackers(study)


def print_trackers(study: spec.Study) -> None:
    """Where each of them writes."""
    for name, place in _trackers.places(study).items():
        _console.console.print(f"{name}: {place}")


def job() -> int:
    parser = _console.parser(__doc__.splitlines()[0], "data", "zoo", "outputs", "results")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--limit", type=int, metavar="N", help="run at most N trials")
    parser.add_argument(
        "--track",
        action="append",
        choices=get_args(spec.Tracker),
        metavar="NAME",
        help="show the sweep in a tracker (%(choices)s), instead of the study's; may be given again",
    )
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.limit < 0:
        parser.error("--limit: must not be negative")

    folders = {name: getattr(arguments, name) for name in _console.FOLDERS}
    study = spec.load(arguments.study, **folders).absolute()
    study = study.model_copy(update={"trackers": arguments.track or study.trackers})
    _cluster.check_lasting(study.folders)
    zoo_job.check(study)
    _trackers.check(study)
    trials = study.trials()
    status = records.status(study.results, "trials")
    todo = [trial for trial in trials if status.get(trial.id) != "ok"][: arguments.limit]
    if arguments.dry_run:
        print_plan(study, trials, todo, status)
        return 0

    records.prepare(study.results, schemas.TRANSFER_TABLES)
    outputs.Store(study.folders.outputs).prepare()
    images = data.prepare(study)
    zoo.check_classes(study, len(images.classes))
    zoo.check_checkpoints(study, len(images.classes))
    distributed.check(study, len(images.classes))
    if todo or zoo_job.missing(study):
        _cluster.start()
        _cluster.check_seen(study, "results", "outputs", "zoo")
    zoo_job.build(study)
    write_plan(study, trials)
    out = _console.console
    if todo:
        decision = decided(study, trials, images)
        out.print(f"outputs of frozen models: {decision}")
        out.print(f"sweep: {len(todo)} of {len(trials)} trials to run; results in {study.results}")
        started = time.monotonic()
        outputs_used = study.outputs.model_copy(update={"transfer": decision.transfer})
        study = study.model_copy(update={"outputs": outputs_used})
        sweep(study, in_order(todo), seconds_per_trial(study))
        out.print(f"sweep: took {_console.duration(time.monotonic() - started)}")

    status = records.status(study.results, "trials")
    counts = [status.get(trial.id) for trial in trials]
    out.print(plan_table(study, trials, status))
    for table in schemas.TRANSFER_TABLES:
        out.print(f"{table}: {study.results / table}")
    print_trackers(study)
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
    _console.main(job)
