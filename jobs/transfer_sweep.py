"""Run a study: every transfer trial that has no record yet, through Ray Tune.

    python jobs/transfer_sweep.py [STUDY] [--dry-run] [--limit N] [--track NAME] [--results FOLDER]
        [--push USER/NAME]

Does the earlier steps that are missing (data, zoo). A trial's record is written by the worker that
ran it, so what is finished stays finished whatever happens to this process; run it again to go on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, get_args

import ray
from rich.table import Table

from jobs import _cluster, _console, _data_parallel, _engine, _run, _trackers, push, zoo
from study import derivation, frozen, spec, transfer, workspace
from study.errors import DivergedError, FatalError, StudyError
from study.images import files, sources, splits
from study.models import zoo as models
from study.store import cache, checkpoints, hub, records, schemas, storage

# What comes again if a trial is tried again: recorded, not retried. All else may be a machine's fault.
LASTING = (
    *(DivergedError, StudyError, ArithmeticError, AssertionError, AttributeError),
    *(LookupError, NotImplementedError, TypeError, ValueError),
)
SAMPLE = 100  # recorded trials that say how long the next ones take


def run_trial(trial: spec.Trial, study: spec.Study) -> dict[str, Any]:
    """One trial in a Ray worker, unless another sweep has meanwhile recorded it.

    Reports what came of it, as `_engine.run` and trackers want to know it.
    """
    if not (study.results / "plans").exists():
        raise RuntimeError(f"{study.results}: the node {platform.node()} does not see the results folder")
    report = {"status": "ok"}
    if not derivation.is_recorded(trial, study, records.status_of(study.results, "trials", trial.id)):
        try:
            _data_parallel.run(train, (trial, study), study.resources, trial.id)
        except FatalError:
            raise
        except LASTING as error:
            record_failures(study, [(trial, _cluster.reason(error))])
            report = {"status": "failed"}
    return report | (_trackers.recorded(study.results, trial.id) if study.trackers else {})


def train(trial: spec.Trial, study: spec.Study) -> None:
    """A trial, as one of its workers."""
    told = study.trackers and study.resources.workers == 1  # several are none that Tune would hear
    tell = {"progress": _trackers.report_epochs} if told else {}
    derivation.run_and_record(trial, workspace.of(study), study, **tell)


def record_failures(study: spec.Study, failed: list[tuple[spec.Trial, str]]) -> None:
    """Record trials that failed, and why."""
    for trial, reason in failed:
        row = transfer.failure(trial, workspace.of(study), reason)
        records.write_failure(study.results, "trials", trial.id, row)
        checkpoints.of(study, trial).remove()


def sweep(study: spec.Study, todo: list[spec.Trial], seconds: float | None) -> None:
    """Run trials. Needs Ray to be started, the data and the zoo to be there."""
    trials, resources = {trial.id: trial for trial in todo}, study.resources
    expected = seconds and seconds * len(todo) / _cluster.slots(resources)
    with (
        _trackers.opened(study, trials) as callbacks,
        _console.Progress("sweep", len(todo), expected) as progress,
    ):
        run = partial(run_trial, study=study)
        errors: dict[str, str] = {}
        for group in groups(todo):
            now = {trial.id: trial for trial in group}
            errors |= _engine.run(run, now, resources=resources, progress=progress, callbacks=callbacks)
    note_failures(study, trials, errors)


def note_failures(study: spec.Study, trials: Mapping[str, spec.Trial], errors: Mapping[str, str]) -> None:
    """Record trials, by id, that could not end, and why; by a worker, since the data need not be here."""
    if not errors:
        return
    resources = study.resources
    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(record_failures)
    try:
        ray.get(task.remote(study, [(trials[name], reason) for name, reason in errors.items()]))
    except ray.exceptions.RayError as error:
        raise StudyError(
            f"{len(errors)} trials failed (such as: {next(iter(errors.values()))}), which could not be "
            f"recorded ({_cluster.reason(error)})"
        ) from error


def seconds_per_trial(study: spec.Study) -> float | None:
    """What a trial takes: measured by some recorded ones, else as the study says, else unknown."""
    seconds = []
    for path in storage.files(study.results / "trials", ".parquet")[:SAMPLE]:
        with contextlib.suppress(records.MissingError):  # compacted meanwhile
            table = records.read(study.results, "trials", path.stem, ["seconds"])
            seconds += table["seconds"].drop_null().to_pylist()
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
    rows = [{"trial": trial.id, **trial.labels} for trial in trials]
    columns = {name: [row[name] for row in rows] for name in schemas.PLANS.names if name != "study"}
    records.write_plan(study.results, "plans", study.name, columns)


def models_of(trials: Iterable[spec.Trial]) -> list[spec.Model]:
    """Every model of some trials, each once."""
    return list(
        {model.name: model for trial in trials for model in (trial.student, *trial.teachers)}.values()
    )


def decided(study: spec.Study, trials: list[spec.Trial], images: files.Images | None) -> frozen.Decision:
    """What becomes of frozen models' outputs on the transfer set; where no images are there, as expected."""
    expected = study.data.expected
    if images is not None:
        samples, classes = len(splits.split(images, study.data.splits)["transfer"]), len(images.classes)
    else:
        classes = expected.classes
        samples = splits.transfer_size(expected.train, classes, study.data.splits)
    return frozen.decide(study, trials, samples, classes)


def groups(todo: list[spec.Trial]) -> list[list[spec.Trial]]:
    """Trials in groups, of which each needs nothing but the ones before: students that others are made from.

    In each so that a worker meets the same student, and then the same teacher, again.
    """
    ordered = sorted(todo, key=lambda trial: (trial.student.name, trial.teacher or ""))
    later = [trial for trial in ordered if trial.combine in ("sequential", *spec.SOUPS)]
    return [group for group in ([trial for trial in ordered if trial not in later], later) if group]


def print_plan(study: spec.Study, trials: list[spec.Trial], todo: list[spec.Trial], status: dict) -> None:
    """What a run would do."""
    out = _console.console
    out.print(f"study {study.name}: {len(study.ordered_pairs())} pairs, {len(set(study.seeds))} seeds")
    out.print(plan_table(study, trials, status))
    images, place = None, study.folders.data
    if files.is_prepared(study.data.images, place):
        images = files.open_images(study.data.images, place, cache.of(study.folders, place))
        images = files.chosen(images, study.data)
    for data in (study.data, *derivation.data_to_make(study)):
        print_lacking(data.images, place)
    if images is None and study.data.expected is None:
        out.print("outputs of frozen models: cached or live is decided once the data are there")
    else:
        out.print(f"outputs of frozen models: {decided(study, trials, images)}")
    zoo.print_missing(study, models_of(trials))
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


def print_lacking(source: spec.Images, place: storage.Location) -> None:
    """What has to be written of a source's images, and what is not there for it."""
    out = _console.console
    if not files.is_prepared(source, place):
        out.print(f"data: to be written to {files.folder_of(source, place)}")
        for folder in sources.lacking(source.source, source.settings):
            out.print(f"data: {folder} is not there; a run needs it (paths begin where the command is run)")


def print_trackers(study: spec.Study) -> None:
    """Where each of them writes."""
    for name, place in _trackers.places(study).items():
        _console.console.print(f"{name}: {place}")


def print_result(study: spec.Study, trials: list[spec.Trial], todo: list[spec.Trial], limited: bool) -> bool:
    """What is recorded, and what is not; gives whether any of `todo` failed."""
    out, status = _console.console, records.status(study.results, "trials")
    counts = [status.get(trial.id) for trial in trials]
    out.print(plan_table(study, trials, status))
    for table in schemas.TRANSFER_TABLES:
        out.print(f"{table}: {study.results / table}")
    if any(trial.keep != "never" for trial in trials):
        out.print(f"kept students: {study.folders.zoo} (column 'kept' of {study.results / 'trials'})")
    print_trackers(study)
    failed = {trial.id: trial for trial in todo if status.get(trial.id) == "failed"}
    if failed:
        out.print(f"{len(failed)} trials failed (column 'reason' of {study.results / 'trials'}), such as:")
        for name, reason in records.reasons(study.results, "trials", [*failed][:5]).items():
            trial = failed[name]
            out.print(f"  {trial.student.name} from {trial.teacher}, {trial.name}: {reason}")
    left = len(trials) - counts.count("ok") - len(failed)
    if left and not limited:
        out.print(f"{left} trials are left; run the same command again to go on")
    return bool(failed)


def job() -> int:
    parser = _console.parser(__doc__.splitlines()[0], "data", "zoo", "outputs", "results")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--push", metavar="USER/NAME", help="then upload the results, as jobs/push.py does")
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

    study = _run.load(arguments)
    study = study.model_copy(update={"trackers": arguments.track or study.trackers})
    _run.check(study)
    models.check_builds(study)
    _trackers.check(study)
    trials = study.trials()
    status = records.status(study.results, "trials")
    todo = [trial for trial in trials if not derivation.is_recorded(trial, study, status.get(trial.id))]
    todo = todo[: arguments.limit]
    if arguments.dry_run:
        print_plan(study, trials, todo, status)
        return 0
    if arguments.push:
        hub.check(arguments.push)

    images = _run.prepare(study, schemas.TRANSFER_TABLES)
    zoo.build(study, models_of(trials), "results", "outputs", "zoo", more=bool(todo))
    write_plan(study, trials)
    out, interrupted = _console.console, False
    if todo:
        decision = decided(study, trials, images)
        out.print(f"outputs of frozen models: {decision}")
        out.print(f"sweep: {len(todo)} of {len(trials)} trials to run; results in {study.results}")
        started = time.monotonic()
        outputs_used = study.outputs.model_copy(update={"transfer": decision.transfer})
        study = study.model_copy(update={"outputs": outputs_used})
        try:
            sweep(study, todo, seconds_per_trial(study))
        except KeyboardInterrupt:  # what is recorded by then is told all the same
            interrupted = True
        out.print(f"sweep: took {_console.duration(time.monotonic() - started)}")

    failed = print_result(study, trials, todo, bool(arguments.limit))
    if arguments.push and not interrupted:
        push.push(study.results, arguments.push)
    return 130 if interrupted else int(failed)


if __name__ == "__main__":
    _console.main(job)
