"""Make a model better with what other models know, and prove it.

    python jobs/improve.py STUDENT (--data FOLDER | --study STUDY) [--teachers PATTERN ...]
        [--budget 2h] [--method NAME] [--out FOLDER] [--unlabelled] [--push USER/NAME]

STUDENT is whatever timm loads (a name, `hf-hub:USER/NAME`, `local-dir:FOLDER`), a file of weights
(with --architecture), or a model of the study. It learns from one teacher after the other; a result is
kept only if it is better on images kept aside. Leaves a folder that timm loads, with a card that says
what it is worth on images that nothing was decided on. Run the same command again to go on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.table import Table

from jobs import _asked, _cluster, _console, _engine, _run, transfer_sweep, zoo
from study import derivation, frozen, improve, model_card, spec, transfer, workspace
from study.errors import StudyError
from study.images import class_names, splits
from study.images.files import Images
from study.improve import Look
from study.models import zoo as models
from study.store import dataset, digest, hub, records, schemas, storage

T = TypeVar("T")
Teachers = tuple[spec.Model, ...]
MOST_LOOKS, MOST_ROUNDS = 4, 10  # looks a round, and rounds, however many would fit
LEAST_EPOCHS = 5  # of a round for which too little time is left
# What is for whoever gets the model.
LEFT = ("config.json", "model.safetensors", "README.md", "classes.png", "evaluation.parquet", "proof.parquet")
LIKELIHOOD = "student_negative_log_likelihood_after"
COLUMNS = ["status", "reason", "knowledge_gain", "knowledge_loss", "evaluation_samples"]


# --- what is done, and how far it is ------------------------------------------------------------


@dataclass
class Progress:
    """What a command that goes on has to know, beside the records: kept in the folder it leaves.

    Attributes:
        command: what was asked for; another command does not go on with it.
        spent: seconds so far.
        plan: of the rounds; None before the student was timed.
        epochs: of each round that was begun.
    """

    path: Path
    command: str
    spent: float = 0.0
    plan: improve.Plan | None = None
    epochs: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, command: str) -> Progress:
        """What is kept there, or a beginning; another command's is a `StudyError`."""
        if not path.exists():
            return cls(path, command)
        try:
            kept = json.loads(path.read_text())
            plan = kept["plan"] and improve.Plan(**kept["plan"])
            progress = cls(path, kept["command"], kept["spent"], plan, kept.get("epochs", []))
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path}: damaged; remove {path.parent} and begin again") from error
        if progress.command != command:
            raise StudyError(f"{path.parent}: of another student, data or options; choose another --out")
        return progress

    def keep(self) -> None:
        """Write it down, whole."""
        kept = {"command": self.command, "spent": self.spent, "epochs": self.epochs}
        kept["plan"] = self.plan and asdict(self.plan)
        storage.write(self.path, json.dumps(kept).encode())


@dataclass(frozen=True)
class Tried:
    """One look: a line of the table."""

    round: int
    trial: spec.Trial
    look: Look
    delta: float
    level: float | None  # None: a control, which is not judged
    kept: bool

    @property
    def teacher(self) -> str:
        return self.trial.teacher or "no teacher (control)"

    def as_row(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "teacher": self.teacher,
            "epochs": self.trial.budget.epochs,
            "delta": self.delta,
            "gained": self.look.gained,
            "lost": self.look.lost,
            "p": self.look.p,
            "level": self.level,
            "kept": self.kept,
        }


class Improvement:
    """One student on its way: its trials, its looks, and the time that is left."""

    together = "parallel"  # how several teachers teach in one trial
    rate_is = "the best on images kept aside"

    def __init__(self, study: spec.Study, method: str, budget: float, progress: Progress) -> None:
        self.study, self.method, self.budget, self.progress = study, method, budget, progress
        self.original, *self.teachers = study.zoo.values()
        self.student = self.original
        self.steps: list[spec.Trial] = []  # that were kept
        self.tried: list[Tried] = []
        self.lr = improve.RATES[0]
        self.begun = time.monotonic() - progress.spent

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begun

    def asked(self, function: Callable[..., T], *arguments: Any, study: spec.Study | None = None) -> T:
        """A function's answer from a worker, which gives it the study's workspace last."""
        try:
            return ray.get(self.asking(function, *arguments, study=study))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StudyError):
                raise error.cause from None
            raise

    def asking(self, function: Callable, *arguments: Any, study: spec.Study | None = None) -> ray.ObjectRef:
        """The same, not waited for."""
        resources = self.study.resources
        task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_calls=0)(_with_workspace)
        return task.remote(function, arguments, study or self.study)

    def trial(self, method: str, lr: float, epochs: int, teachers: Teachers, keep: str) -> spec.Trial:
        """A transfer to the student so far, from one teacher, from several at once, or without any."""
        budget = self.study.budget.model_copy(update={"epochs": epochs})
        return spec.Trial(
            study=self.study.name,
            data=self.study.data,
            student=self.student,
            teachers=teachers,
            combine=self.together if len(teachers) > 1 else None,
            name=method,
            method=self.study.methods[method].model_copy(update={"lr": lr}),
            budget=budget,
            keep=keep,
        )

    def left(self, trials: list[spec.Trial]) -> list[spec.Trial]:
        """Those of some trials that are not recorded."""
        status = records.status(self.study.results, "trials")
        return [one for one in trials if not derivation.is_recorded(one, self.study, status.get(one.id))]

    def run(self, trials: list[spec.Trial], columns: list[str], each: float) -> list[dict[str, Any]]:
        """Rows of trials, run where they were not; those that failed say so."""
        if todo := self.left(trials):
            slots = _cluster.slots(self.study.resources)
            wanted = {one.id: one for one in todo}
            with _console.Progress("improve", len(todo), each * -(-len(todo) // slots)) as shown:
                run = partial(transfer_sweep.run_trial, study=self.study)
                errors = _engine.run_few(run, wanted, resources=self.study.resources, progress=shown)
            transfer_sweep.note_failures(self.study, wanted, errors)
            self.progress.spent = self.spent
            self.progress.keep()
        rows = [records.read(self.study.results, "trials", one.id, columns).to_pylist()[0] for one in trials]
        for one, row in zip(trials, rows, strict=True):
            if row["status"] != "ok":
                _console.console.print(f"improve: from {one.teacher}: failed, {row['reason']}")
        return rows

    def choose_rate(self, teacher: spec.Model) -> None:
        """The learning rate with which an epoch with a teacher leaves the least loss (`loss_of`)."""
        trials = [self.trial(self.method, lr, 1, (teacher,), "never") for lr in improve.RATES]
        plan = self.progress.plan
        rows = self.run(trials, ["status", "reason", LIKELIHOOD], plan.seconds / plan.epochs)
        losses = [
            (self.loss_of(one, row), one.method.lr)
            for row, one in zip(rows, trials, strict=True)
            if row["status"] == "ok"
        ]
        known = [(loss, lr) for loss, lr in losses if loss is not None]
        if not known:
            raise StudyError(f"no learning rate works ({rows[0]['reason'] or 'the loss is not finite'})")
        self.lr = min(known)[1]
        _console.console.print(f"improve: learning rate {self.lr:g}, {self.rate_is}")

    def loss_of(self, trial: spec.Trial, row: dict[str, Any]) -> float | None:
        """How little probability a trial's student gives the true classes of `tune`; None: not finite."""
        return row[LIKELIHOOD]

    @property
    def proving(self) -> spec.Study:
        """The study as what comes of it is proven: on evaluation images."""
        data = self.study.data.model_copy(update={"evaluate": "evaluation"})
        return self.study.model_copy(update={"data": data})

    @property
    def trials(self) -> list[spec.Trial]:
        """What was tried, learning rates aside."""
        return [tried.trial for tried in self.tried]

    def ranked(self) -> list[tuple[float, spec.Model]]:
        """Teachers, the most accurate first, with what their pool gains over the student so far.

        One that cannot be run is left out, and told.
        """
        asked = [(teacher, self.asking(improve.promise, self.student, teacher)) for teacher in self.teachers]
        found: list[tuple[tuple[float, float], spec.Model]] = []
        for teacher, answer in asked:
            try:
                found.append((ray.get(answer), teacher))
            except ray.exceptions.RayError as error:
                _console.console.print(f"improve: without {teacher.name}: {_cluster.reason(error)}")
        self.teachers = [teacher for _, teacher in found]
        if not found:
            raise StudyError("--teachers: none of them can be run; name others")
        ordered = sorted(found, key=lambda one: -one[0][1])
        return [(gain, teacher) for (gain, _), teacher in ordered]

    def rounds(self) -> None:
        """Look at results until nothing promising, no time, or no round is left."""
        seen: list[Teachers] = []  # by the student so far
        plan, out, order = self.progress.plan, _console.console, self.ranked()
        self.choose_rate(order[0][1])
        while True:
            promising = [one for one in self.promising(order) if one not in seen]
            control: list[Teachers] = [()] if not self.tried and _asked.CONTROL in self.study.methods else []
            wanted = control + promising[: max(1, plan.looks - len(control))]
            number = 1 + max((tried.round for tried in self.tried), default=0)
            if not wanted:
                out.print("improve: no teacher is left that adds to the student on images kept aside")
                return
            epochs = self.epochs_of(number)
            if not epochs:
                out.print(f"improve: ends after {number - 1} rounds, {_console.duration(self.spent)}")
                return
            trials = [
                self.trial(self.method if teachers else _asked.CONTROL, self.lr, epochs, teachers, "all")
                for teachers in wanted
            ]
            names = ", ".join(one.teacher or "no teacher" for one in trials)
            out.print(f"improve: round {number}, from {names}, {epochs} epochs each")
            if self.judge(number, trials):
                seen, order = [], self.ranked()
            else:
                seen += wanted
            out.print(self.table())

    def epochs_of(self, number: int) -> int:
        """How many epochs a round has: those of the plan, or as many as fit; 0 where none is worth it.

        Kept, so that the same command comes to the same rounds.
        """
        plan, begun = self.progress.plan, self.progress.epochs
        if number > len(begun):
            fit = int((self.budget - self.spent) * plan.epochs / plan.seconds)
            epochs = plan.epochs if number == 1 else min(plan.epochs, fit)
            if number > MOST_ROUNDS or (number > 1 and epochs < LEAST_EPOCHS):
                return 0
            begun.append(epochs)
            self.progress.keep()
        return begun[number - 1]

    def promising(self, order: list[tuple[float, spec.Model]]) -> list[Teachers]:
        """Whom to ask, in this order: the best teacher, all at once where the method can, each other."""
        alone: list[Teachers] = [(teacher,) for gain, teacher in order if gain > 0]
        if len(alone) > 1 and self.study.methods[self.method].teachers != 1:
            alone.insert(1, sum(alone, ()))
        return alone

    def judge(self, number: int, trials: list[spec.Trial]) -> bool:
        """Run a round, and go on from its best result if one is better; whether it is."""
        plan = self.progress.plan
        rows = self.run(trials, COLUMNS, plan.seconds * trials[0].budget.epochs / plan.epochs)
        if all(row["status"] != "ok" for row in rows):
            raise StudyError(f"no result of round {number} came about ({rows[0]['reason']})")
        looks = {one.id: look_of(one.id, row) for one, row in zip(trials, rows, strict=True)}
        judged = [looks[one.id] for one in trials if one.teachers]  # the control is there to compare with
        earlier = [
            any(tried.kept for tried in self.tried if tried.round == before) for before in range(1, number)
        ]
        level = improve.level_of(earlier)
        best = improve.best(judged, level)
        for one, row in zip(trials, rows, strict=True):
            look, samples = looks[one.id], row["evaluation_samples"] or 1
            delta, its = (look.gained - look.lost) / samples, level / len(judged) if one.teachers else None
            self.tried.append(Tried(number, one, look, delta, its, look is best))
        if best is not None:
            (step,) = (one for one in trials if one.id == best.trial)
            self.steps.append(step)
            name = f"{self.original.name}-{len(self.steps)}"
            self.student = step.result.model_copy(update={"name": name})
        return best is not None

    def table(self) -> Table:
        """What was tried, what was kept, and what is left."""
        left = max(0.0, self.budget - self.spent)
        made = Table(
            *("round", "from", "epochs", "Δ on tune", "gained", "lost", "p", "level", "kept"),
            box=None,
            caption=f"{_console.duration(left)} of {_console.duration(self.budget)} left",
            caption_justify="left",
        )
        for tried in self.tried:
            made.add_row(
                str(tried.round),
                tried.teacher,
                str(tried.trial.budget.epochs),
                f"{100 * tried.delta:+.2f}",
                str(tried.look.gained),
                str(tried.look.lost),
                f"{tried.look.p:.2g}",
                "" if tried.level is None else f"{tried.level:.2g}",
                "yes" if tried.kept else "",
            )
        return made


class Unverified(Improvement):
    """The same where nobody has said the class of any image: nothing can be tested, and nothing is claimed.

    The student learns from as many of its teachers as there is time for, in the order they are named (section
    4.3, "sequential"), the student so far being the frozen one.
    """

    together = "sequential"
    rate_is = "with the least loss on images before they are learnt from"

    def rounds(self) -> None:
        plan = self.progress.plan
        self.choose_rate(self.teachers[0])
        teachers = tuple(self.teachers[: plan.rounds])
        names = ", then ".join(teacher.name for teacher in teachers)
        _console.console.print(f"improve: from {names}, {plan.epochs} epochs each")
        trial = self.trial(self.method, self.lr, plan.epochs, teachers, "all")
        (row,) = self.run([trial], ["status", "reason"], plan.seconds * len(teachers))
        if row["status"] != "ok":
            raise StudyError(f"nothing came about ({row['reason']})")
        self.steps = [trial]
        self.student = trial.result.model_copy(update={"name": f"{self.original.name}-1"})

    def loss_of(self, trial: spec.Trial, row: dict[str, Any]) -> float | None:
        """The mean training loss of the only epoch: of each image before the student has learnt from it."""
        return records.read(self.study.results, "history", trial.id, ["loss"])["loss"][0].as_py()

    @property
    def proving(self) -> spec.Study:
        """The study as it is: what changed is counted on the images kept aside."""
        return self.study

    @property
    def trials(self) -> list[spec.Trial]:
        return self.steps


def _with_workspace(function: Callable[..., T], arguments: tuple, study: spec.Study) -> T:
    """In a worker."""
    return function(*arguments, workspace.of(study))


def look_of(trial: str, row: dict[str, Any]) -> Look:
    """What a trial's record says of its result; one that failed gained nothing."""
    if row["status"] != "ok":
        return Look(trial, 0, 0)
    return Look(trial, *transfer.flipped(row))


# --- what is left behind ------------------------------------------------------------------------


def deliver(one: Improvement, out: Path, arguments: argparse.Namespace, images: Images) -> improve.Compared:
    """Write the model, what the evaluation images say of it, and its card."""
    storage.make(out)
    found = one.asked(improve.delivered, one.original, one.student, out, study=one.proving)
    control = next((tried for tried in one.tried if not tried.trial.teachers), None)
    if control and control.look.gained + control.look.lost:
        result = control.trial.result
        beside = one.asked(improve.compared, one.original, result, study=one.proving).proof
        control = {
            "what": f"The same training ({control.trial.budget.epochs} epochs)",
            "proof": beside,
        }
    else:
        control = None
    table = pa.table(found.predictions)
    pq.write_table(table, sink := pa.BufferOutputStream(), compression="zstd")
    storage.write(out / "evaluation.parquet", sink.getvalue().to_pybytes())
    rows = []
    if found.proof:
        row = found.proof.as_row() | {"student": one.original.name, "weights": found.weights}
        pq.write_table(pa.Table.from_pylist([row]), sink := pa.BufferOutputStream())
        storage.write(out / "proof.parquet", sink.getvalue().to_pybytes())
        names = class_names.readable(images.classes)
        rows = model_card.changes(names, found.gained, found.lost, found.of_class)
        storage.write(out / "classes.png", model_card.picture(rows))
    licences = licences_of(one)
    worst = {terms for *_, terms in licences}
    card = model_card.card(
        repository=arguments.push or out.name,
        # One's own, or what it learnt from has other terms: what that comes to, the card's table says.
        licence="other" if one.steps else models.licence_of(one.original),
        proof=found.proof,
        changed=found.changed,
        data=one.study.data.called,
        student=one.original.name,
        steps=one.steps,
        control=control,
        classes=len(images.classes),
        own=models.is_own(one.original),
        place=f"hf-hub:{arguments.push}" if arguments.push else f"local-dir:{out}",
        tune_samples=len(splits.split(images, one.study.data.splits)["tune"]),
        transfer_samples=len(splits.split(images, one.study.data.splits)["transfer"]),
        tried=[tried.as_row() for tried in one.tried],
        unlabelled=arguments.unlabelled,
        method=one.method,
        lr=f"{one.lr:g}",
        rows=rows[: model_card.SHOWN],
        licences=licences,
        terms=worst,
        command=shlex.join(["python", "jobs/improve.py", *sys.argv[1:]]),
        data_sha256=images.sha256,
        environment=found.environment,
        precision=found.precision,
    )
    storage.write(out / "README.md", card.encode())
    return found


def licences_of(one: Improvement) -> list[tuple[str, str, str, str]]:
    """(model, licence, role, what that is) of all that the result was made from."""
    used = {teacher.name: teacher for trial in one.steps for teacher in trial.teachers}
    rows = []
    for role, model in [("student", one.original), *(("teacher", teacher) for teacher in used.values())]:
        licence = ", ".join(sorted(models.licenses_of(model)))
        made_here = model.source in ("seed", "trained") and not licence
        terms = "open" if made_here else dataset.terms(licence)
        rows.append((model.name, "of your own making" if made_here else licence or "not known", role, terms))
    return rows


def print_result(one: Improvement, found: improve.Compared, out: Path) -> None:
    """What came of it, in a few lines."""
    say, proof = _console.console.print, found.proof
    if not proof:
        say(
            f"improve: nothing was verified, for no image has a class; {100 * found.changed:.1f} % of the "
            "answers on images kept aside are others than before"
        )
    elif not one.steps:
        say(f"improve: nothing that was tried makes {one.original.name} better; {out} holds it as it was")
    else:
        way = ", then ".join(trial.teacher for trial in one.steps)
        say(f"improve: {one.original.name} learnt from {way}")
        say(
            f"improve: {100 * proof.before:.2f} % → {100 * proof.after:.2f} %, {100 * proof.delta:+.2f} "
            f"points [{100 * proof.low:+.2f}, {100 * proof.high:+.2f}], p = {proof.p:.2g}, on "
            f"{proof.samples:,} images that nothing was decided on"
        )
    say(f"model: {out} (timm.create_model('local-dir:{out}', pretrained=True))")
    say(f"card: {out / 'README.md'}")
    say(f"records: {one.study.results}")


def push(out: Path, repository: str) -> None:
    """Upload the model and its card."""
    files = {name: out / name for name in LEFT if (out / name).exists()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # the proof
        address = hub.commit(repository, "model", files, "A better model, and its proof")
    _console.console.print(f"push: {address}")


# --- the command --------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text = "a model that timm loads, a file of weights, or one of the study"
    made.add_argument("student", metavar="STUDENT", help=text)
    where = made.add_mutually_exclusive_group(required=True)
    text = (
        "images: train/ and val/ or test/, each with a sub-folder a class (with --unlabelled train/ as it "
        "is, and if need be alone)"
    )
    where.add_argument("--data", metavar="FOLDER", help=text)
    text = "a study's YAML file, for its images and its models"
    where.add_argument("--study", metavar="STUDY", help=text)
    text = (
        "names or patterns of the study's models, else of timm's; hf-hub: and local-dir: ones too (default: "
        "all of the study)"
    )
    made.add_argument("--teachers", nargs="+", default=["auto"], metavar="PATTERN", help=text)
    text = "90s, 10m, 2h (default: %(default)s)"
    made.add_argument("--budget", type=_asked.seconds, default="2h", metavar="TIME", help=text)
    text = f"how it learns (default: {_asked.LABELLED}, without labels {_asked.UNLABELLED})"
    made.add_argument("--method", metavar="NAME", help=text)
    text = "do not read the labels of what it learns from; it may have none"
    made.add_argument("--unlabelled", action="store_true", help=text)
    text = "timm's name of what a file of weights is of"
    made.add_argument("--architecture", metavar="NAME", help=text)
    text = "images a step (default: %(default)s)"
    made.add_argument("--batch-size", type=int, default=64, metavar="N", help=text)
    text = "CPUs a transfer takes (default: the study's, else 1)"
    made.add_argument("--cpus", type=int, metavar="N", help=text)
    text = "GPUs a transfer takes, or a share of one (default: the study's, else 1 if this machine has one)"
    made.add_argument("--gpus", type=float, metavar="N", help=text)
    text = "what is left behind (default: improved/STUDENT)"
    made.add_argument("--out", metavar="FOLDER", help=text)
    made.add_argument("--push", metavar="USER/NAME", help="then upload it to the Hugging Face Hub")
    return made


def job() -> int:
    arguments = parser().parse_args()
    if arguments.batch_size < 1:
        parser().error("--batch-size: must be at least 1")
    out = Path(arguments.out or f"improved/{_asked.called(arguments.student)}").absolute()
    study = _asked.study_of(arguments, out)
    _run.check(study)
    models.check_builds(study)
    if arguments.push:
        hub.check(arguments.push)
    method = next(iter(study.methods))
    asked = study.model_dump(mode="json", exclude={"folders", "resources"})
    command = digest.of_json([json.loads(json.dumps(asked)), arguments.budget, method])
    progress = Progress.of(out / "progress.json", command)

    images = _run.prepare(study, schemas.TRANSFER_TABLES)
    kind = Improvement
    if not images.labelled:
        kind = Unverified
        _console.console.print(
            "improve: no image has a class, so nothing can be verified; some in val/, with a sub-folder for "
            "every class, would do"
        )
    one = kind(study, method, arguments.budget, progress)
    zoo.build(study, study.zoo.values(), "results", "outputs", "zoo", more=True)
    transfers = [
        one.trial(method, one.lr, improve.MANY_EPOCHS, (teacher,), "all") for teacher in one.teachers
    ]
    samples = len(splits.split(images, study.data.splits)["transfer"])
    outputs = frozen.decide(study, transfers, samples, len(images.classes)).transfer
    one.study = study.model_copy(update={"outputs": study.outputs.model_copy(update={"transfer": outputs})})
    if progress.plan is None:
        timed = one.asked(improve.timings, one.original, study.budget)
        slots = min(MOST_LOOKS, _cluster.slots(study.resources))
        left = arguments.budget - one.spent
        progress.plan = improve.plan(left, timed, len(one.teachers), slots)
        progress.spent = one.spent
        progress.keep()
    plan = progress.plan
    _console.console.print(
        f"improve: {one.original.name}, {len(one.teachers)} teachers, {method}; {plan.rounds} rounds of "
        f"{plan.epochs} epochs fit into {_console.duration(arguments.budget)}; results in {out}"
    )
    one.rounds()
    found = deliver(one, out, arguments, images)
    transfer_sweep.write_plan(study, one.trials)
    print_result(one, found, out)
    if arguments.push:
        push(out, arguments.push)
    return 0


if __name__ == "__main__":
    _console.main(job)
