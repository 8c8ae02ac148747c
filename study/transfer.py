"""One transfer: a student learns from frozen teachers, and what came of it is measured.

After arXiv 2310.17653, section 4: SGD on the transfer set; student, teachers and frozen student see the same
view of a sample (the student's crop), each resized and normalised its own way; the student trains in `train`
mode, so BatchNorm statistics move, the frozen models stay in `eval` mode (`study.frozen`). Several teachers
(section 4.3) teach at once, one after the other, each stage beginning at the kept student of the stage
before, or each a student of its own, whose weights are averaged.

`run` is an ordinary function: it needs no Ray, only a `Workspace`. With a `Checkpoint` it goes on where an
interrupted run of the same trial stopped. Called by every worker of a torch process group it trains
data-parallel.

Left out on purpose: making the students that a trial begins with or averages (`study.derivation`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from study import (
    distributed,
    evaluate,
    geometry,
    knowledge,
    objectives,
    scores,
    spec,
    training,
    weight_space,
)
from study.augmentation import SecondInput, question
from study.errors import StudyError
from study.evaluate import Predictions
from study.frozen import panel
from study.images import splits
from study.learner import Learner
from study.models import weights, zoo
from study.models.zoo import Classifier
from study.softness import NAMES as SOFTNESS
from study.softness import Softness
from study.store.checkpoints import Checkpoint
from study.training import Row
from study.transforms import dump
from study.views import View
from study.workspace import Workspace

FLIPS = ("positive_flips_taught", "negative_flips_taught")  # by the teacher, of all of them
COLUMNS = (
    *("epoch", "stage", "teacher", "loss", "lr", "teacher_share", *FLIPS, "teacher_entropy"),
    *("measures", "seconds"),
)
EVALUATED = ("student_accuracy", "knowledge_gain", "knowledge_loss", "stage_gain", "stage_loss")
BESIDE = ("tune_accuracy", "teacher_accuracy")  # in the same epochs
WATCHED = ("watched_accuracy", "watched_nll")


@dataclass(frozen=True)
class Outcome:
    """What a trial leaves: a row of `trials`, columns of `predictions`, `history` and (where the study names
    other sets) `evaluations`, the student, and columns of `schemas.GEOMETRY_TABLES`, where it asks for these.
    """

    row: dict
    predictions: dict
    history: dict
    student: Classifier
    evaluations: dict = field(default_factory=dict)
    places: dict[str, dict] = field(default_factory=dict)


# --- several teachers ---------------------------------------------------------------------------


def in_order(transfer: spec.Transfer, workspace: Workspace) -> spec.Transfer:
    """A transfer with its teachers listed in the order they teach in.

    By top-1 on the images kept aside for choices (`tune`), or, where there are none, on the transfer set:
    never on evaluation images.
    """
    if transfer.order == "listed":
        return transfer
    split = "tune" if len(workspace.splits["tune"]) else "transfer"
    labels = workspace.labels(split)

    def top1(model: spec.Model) -> float:
        said = workspace.evaluation(workspace.frozen(model), split)
        return float((said.label == labels).mean())

    ranked = sorted(transfer.teachers, key=top1, reverse=transfer.order == "descending")
    return transfer.model_copy(update={"teachers": tuple(ranked), "order": "listed"})


def begins_with(transfer: spec.Transfer) -> list[spec.Model]:
    """The students that a transfer (`in_order`) is made from, none of which it makes itself.

    Of a sequence that of the teachers before the last one, of a soup those of each teacher.
    """
    match transfer.combine:
        case "sequential":
            return [transfer.only(*transfer.teachers[:-1]).result]
        case "soup" | "greedy_soup":
            return [transfer.only(teacher).result for teacher in transfer.teachers]
        case _:
            return []


def said_of_tune(
    transfer: spec.Transfer, workspace: Workspace, student: Classifier, teachers: Sequence[Classifier]
) -> dict[str, Any]:
    """What frozen models say of the images kept aside, by the names of `objectives.MADE_WITH`.

    Of those of them that are there to fit on (`spec.Splits.fit`), if any are. As they see them in the
    transfer: through the student's crop. Computed once a model, and kept; nothing
    where the objective is not made with it.

    Raises:
        StudyError: no images are kept aside.
    """
    method = transfer.method
    if not method.fitted_on_tune:
        return {}
    split = workspace.aside
    if not len(workspace.splits[split]):
        raise StudyError(spec.NONE_KEPT_ASIDE.format(f"'{method.method}' is fitted"))
    view = View(student.crop)
    frozen, *others = (workspace.outputs(one, split, view).logits for one in (student, *teachers))
    labels = torch.from_numpy(workspace.labels(split))
    return {"tune_frozen": frozen, "tune_teachers": others, "tune_labels": labels}


# --- a trial ------------------------------------------------------------------------------------


def run(
    trial: spec.Trial,
    workspace: Workspace,
    progress: Callable[[dict[str, list]], None] = lambda history: None,
    checkpoint: Checkpoint | None = None,
) -> Outcome | None:
    """Run one trial, or go on with one; in a process group, as one of its workers.

    Args:
        trial: what to run; the students it `begins_with` are made.
        workspace: opened on the trial's data.
        progress: called with the history so far (columns of `schemas.HISTORY`) after each epoch.
        checkpoint: where the state after an epoch is kept, and taken up again. The caller removes it,
            once the record is written. With several workers all give one, and the first one's is used.

    Returns:
        What came of it; `study.derivation` records it. The same trial on the same CPU gives the
        same, interrupted or not, timings aside: those of a trial that was taken up again count
        the epochs it was taken up with, but not what an interruption lost. None on any worker but the
        first.

    Raises:
        DivergedError: the loss stopped being finite.
        StudyError: a model's weights are missing or damaged, or the workers cannot share the trial. What
            only one worker meets with is raised by all of them.
        ValueError: the workspace is opened on other data than the trial's, or computes in another precision.
    """
    if trial.data.model_dump() != workspace.data.model_dump():
        raise ValueError("the workspace is opened on other data than the trial's")
    if trial.budget.precision not in (None, workspace.precision):
        raise ValueError("the workspace computes in another precision than the trial's")
    _, count = distributed.place()
    distributed.check_batch(count, min(trial.budget.batch_size, len(workspace.splits["transfer"])))
    started = time.perf_counter()
    with training.seeded(trial.seed, workspace.device):
        # The first worker computes outputs that are not there yet, the others then look them up.
        stage = distributed.first_then_others(lambda: Stage(trial, workspace))
        loaded = time.perf_counter()
        learnt = stage.averaged() if trial.combine in spec.SOUPS else stage.taught(progress, checkpoint)
        trained = time.perf_counter()
        after = distributed.by_the_first(lambda: stage.last or stage.said(learnt))
        elsewhere = distributed.by_the_first(lambda: stage.elsewhere(learnt))
        places = distributed.by_the_first(lambda: stage.places(learnt))
    ended = time.perf_counter()
    if after is None:
        return None

    history = stage.history
    seconds = {
        "seconds_load": loaded - started,
        "seconds_train": trained - loaded + stage.seconds_before - stage.seconds_evaluating,
        "seconds_evaluate": ended - trained + stage.seconds_evaluating,
        "seconds": ended - started + stage.seconds_before,
    }
    shares = [row["teacher_share"] for row in history if row["teacher_share"] is not None]
    row = {
        **_identity(trial, workspace),
        "status": "ok",
        "teacher": stage.transfer.teacher,
        "teachers": [model.name for model in stage.transfer.teachers],
        "student_parameters": _parameters(stage.student),
        "student_weights": stage.student.weights,
        "student_weights_after": weights.digest_of(learnt),
        "slow_decay": stage.slow_decay,
        "interpolation": stage.interpolation,
        "soup": stage.soup,
        "classes_taught": stage.classes_taught,
        "teacher_share": float(np.mean(shares)) if shares else None,
        **flips_taught(history),
        **(stage.second.windows.measures() if stage.second else {}),
        **_measures(stage.labels, stage.before, stage.taught_by, after),
        **_scores(stage.labels, stage.before, after),
        "student_intra_class_variance_after": after.variance,
        "student_best_temperature_after": after.temperature,
        "student_scaled_negative_log_likelihood_after": after.scaled,
        **seconds,
    }
    if trial.keep == "all" or (trial.keep == "better" and is_better(row)):
        row["kept"] = workspace.folder_of(stage.transfer.result).name
    if stage.taught_by is not None:
        (teacher,) = stage.teachers
        row |= {"teacher_parameters": _parameters(teacher), "teacher_weights": teacher.weights}
        row |= softness_taught(history)
    samples = workspace.splits[workspace.evaluated]
    predictions = {"index": samples, "label": [None] * len(samples) if stage.labels is None else stage.labels}
    told = (("student_before", stage.before), ("teacher", stage.taught_by), ("student_after", after))
    for name, said in told:
        if said is not None:
            predictions |= {name: said.label, f"{name}_confidence": said.confidence}
    evaluations = {name: [one[name] for one in elsewhere] for name in elsewhere[0]} if elsewhere else {}
    return Outcome(row, predictions, columns(history), learnt, evaluations, places)


def flipped(row: dict) -> tuple[int, int]:
    """How many evaluation images a trial gained, and lost, as its row says."""
    return tuple(round(row[f"knowledge_{name}"] * row["evaluation_samples"]) for name in ("gain", "loss"))


def is_better(row: dict) -> bool:
    """Whether a student is right more often than before, by an exact McNemar test of this trial at 5 %.

    Of many trials one in forty passes by chance: which are better among all of them, the report says (q).
    """
    gained, lost = flipped(row)
    return gained > lost and bool(binomtest(gained, gained + lost).pvalue < 0.05)


def failure(trial: spec.Trial, workspace: Workspace, reason: str) -> dict:
    """The row of a trial that failed."""
    return {**_identity(trial, workspace), "status": "failed", "reason": reason}


def flips_taught(history: list[Row]) -> dict[str, float | None]:
    """Shares of the flips of some epochs that the teacher taught; None where none are known."""
    found = {}
    for name in FLIPS:
        sign = name.partition("_")[0]
        sums = [
            sum(row["measures"].get(part, 0.0) for row in history)
            for part in (f"taught_{sign}_flips", f"{sign}_flips")
        ]
        found[name] = sums[0] / sums[1] if sums[1] else None
    return found


def softness_taught(history: list[Row]) -> dict[str, float | None]:
    """How soft the teacher's probabilities were (`study.softness`), mean over epochs; None where unknown."""
    found = {}
    for name in SOFTNESS:
        known = [row[name] for row in history if row.get(name) is not None]
        found[name] = float(np.mean(known)) if known else None
    return {"teacher_entropy_at_t" if name == "teacher_entropy" else name: found[name] for name in found}


def columns(history: list[Row]) -> dict[str, list]:
    """Rows of history as columns of `schemas.HISTORY`."""
    return {name: [row.get(name) for row in history] for name in (*COLUMNS, *EVALUATED, *BESIDE, *WATCHED)}


class Stage:
    """The last stage of a transfer, loaded: who learns, who teaches, and what they said before.

    Attributes:
        transfer: the trial, its teachers in order.
        student: the original student.
        teachers: of this stage.
        labels: of the evaluation split; None where nobody has said them.
        before, taught_by: what the original student says of the evaluation split, and its one teacher.
        history: a row an epoch, of the stages before and then of this one.
        last: what the student says after the last epoch, if it has been asked.
        interpolation: the share of the way that the student went; None: all of it, and nothing was chosen.
        soup: the teachers whose students are averaged, as one label; None without a soup.
        classes_taught: the classes that a teacher teaches, where the objective chooses them.
        second: the second input of this stage, if its method has one.
    """

    def __init__(self, trial: spec.Trial, workspace: Workspace) -> None:
        self.workspace = workspace
        self.transfer = transfer = in_order(trial, workspace)
        self.student = workspace.frozen(transfer.student)
        self.labels = workspace.labels() if workspace.is_labelled(workspace.evaluated) else None
        self.before = workspace.evaluation(self.student)
        self.history: list[Row] = []
        self.last: Predictions | None = None
        self.seconds_before = self.seconds_evaluating = 0.0
        self.slow_decay: float | None = None
        self.interpolation: float | None = None
        self.soup: str | None = None
        self.classes_taught: list[int] | None = None
        self.number = len(transfer.teachers) - 1 if transfer.combine == "sequential" else 0
        self.made = [workspace.frozen(model) for model in begins_with(transfer)]
        self.start = self.student
        self.taught_by = self.second = None
        if transfer.combine in spec.SOUPS:
            return
        teaching = transfer.teachers[-1:] if transfer.combine == "sequential" else transfer.teachers
        self.label = " + ".join(model.name for model in teaching) or None
        self.teachers = [workspace.frozen(model) for model in teaching]
        if len(transfer.teachers) == 1:
            seen = View(self.student.crop) if transfer.budget.teacher_crop == "student" else None
            self.taught_by = workspace.evaluation(self.teachers[0], view=seen)
        if self.made:
            (self.start,) = self.made
            self.history = weights.facts(workspace.folder_of(self.start.model))["history"]
        self.start_said = self.before if self.start is self.student else workspace.evaluation(self.start)
        budget = transfer.budget
        self.view = View(self.student.crop, budget.transforms, budget.view_seed)
        self.panel = panel(workspace, transfer.method, self.view, budget.epochs, self.start, self.teachers)
        self.second = transfer.method.augmentation and SecondInput(
            workspace, transfer.method.augmentation, self.view, budget.epochs, self.teachers[-1]
        )
        self.of_tune = said_of_tune(transfer, workspace, self.start, self.teachers)
        # Each trial begins elsewhere, so that several at once share the work of new views.
        begin = sum(map(ord, str(transfer.seed) + "".join(m.name for m in transfer.teachers)))
        for asked in filter(None, (self.panel, self.second)):
            asked.prefetch(begin)

    def averaged(self) -> Classifier:
        """The soup of what each teacher's student has learnt, or of some of them."""
        places = list(range(len(self.made)))
        if self.transfer.combine == "greedy_soup":
            places = distributed.from_the_first(
                lambda: weight_space.greedy(self.made, weight_space.score(self.workspace, "combine"))
            )
        self.soup = " + ".join(self.transfer.teachers[place].name for place in places)
        learnt = weight_space.soup([self.made[place] for place in places])
        learnt.model = self.transfer.student
        return learnt

    def taught(
        self, progress: Callable[[dict[str, list]], None], checkpoint: Checkpoint | None
    ) -> Classifier:
        """The student after this stage; its rows are then in `history`."""
        workspace, transfer, earlier = self.workspace, self.transfer, self.history
        budget, samples = transfer.budget, workspace.splits["transfer"]
        method = transfer.method.scaled(budget)
        steps = budget.epochs * distributed.steps(len(samples), budget.batch_size)
        made_with = {
            "student_dim": self.start.dim,
            "teacher_dim": self.teachers[-1].dim if self.teachers else None,
            "classes": len(workspace.images.classes),
            "class_names": workspace.images.classes,
            "samples": len(samples),
            "sample_labels": torch.from_numpy(workspace.images.labels[workspace.splits["transfer"]]),
            **self.of_tune,
            **self._channels(method),
        }
        student = workspace.student(self.start.model)
        teacher = workspace.student(self.teachers[-1].model) if method.trains_teacher else None
        objective = objectives.make(method.function, method.settings, **made_with)
        self.classes_taught = objectives.classes_taught(objective)
        learner = Learner(
            student,
            objective,
            method.needs,
            budget,
            method.lr,
            steps,
            workspace.precision,
            teacher,
            slow=method.slow,
            head=budget.head_first,
            compiled=workspace.compiled,
        )
        self.slow_decay = learner.slow_decay
        origin = {
            "data": workspace.images.sha256,
            "student": self.start.weights,
            "teachers": [teacher.weights for teacher in self.teachers],
            "device": workspace.device.type,
        }
        state = training.kept_state(checkpoint, origin)
        second, shown = self.second, workspace.shown(self.view, "transfer")
        asked, softness = question(self.panel, second, student), None
        if len(self.panel.teachers) == 1:
            softness = Softness(method.settings.get("temperature", 1.0))
            asked = softness.listening(asked)
        if state:
            self.seconds_before = sum(row["seconds"] for row in state["rows"])
            if second:
                second.windows.take_up(state["windows"], workspace.device)

        def measure(result: Classifier, epoch: int) -> Row:
            about = {"stage": self.number, "teacher": self.label}
            last = epoch == budget.epochs - 1
            about |= softness.end_epoch() if softness else {}
            about |= distributed.by_the_first(lambda: self._watched(result, epoch, last)) or {}
            if not last and budget.evaluate == "end":
                return about
            started = time.perf_counter()
            said = distributed.by_the_first(lambda: self.said(result, last))
            beside = distributed.by_the_first(lambda: self._beside(result, teacher))
            self.seconds_evaluating += time.perf_counter() - started
            if said is None:
                return about
            self.last = said if last else None
            return about | self._progress(said) | beside

        def rows_so_far(rows: list[Row]) -> list[Row]:
            first = len(earlier)
            return earlier + [
                {
                    **row,
                    "epoch": first + row["epoch"],
                    "teacher_share": row["measures"].get("teacher_share"),
                    **flips_taught([row]),
                }
                for row in rows
            ]

        def after(rows: list[Row], now: dict[str, Any]) -> None:
            if second:
                second.end_epoch()
                now = now | {"windows": second.windows.state()}
            training.keep(checkpoint, origin, now)
            progress(columns(rows_so_far(rows)))

        rows = training.fit(
            learner,
            second.loader(shown) if second else shown,
            samples,
            epochs=budget.epochs,
            batch_size=budget.batch_size,
            seed=transfer.seed,
            frozen=asked,
            state=state,
            measure=measure,
            after=after,
        )
        self.history = rows_so_far(rows)
        learnt = learner.result
        learnt.model = student.model
        return learnt if method.interpolate is None else self._interpolated(learnt, method.interpolate)

    def _channels(self, method: spec.Method) -> dict[str, tuple[int, ...]]:
        """How many channels maps have, where the objective is made with that."""
        sides = zip(("student", "teacher"), (self.start, *self.teachers[-1:]), strict=False)
        asked = objectives.made_with(method.function)
        return {f"{side}_channels": one.channels for side, one in sides if f"{side}_channels" in asked}

    def _interpolated(self, learnt: Classifier, shares: tuple[float, ...]) -> Classifier:
        """The student between that before the stage and what has been learnt."""

        def best() -> float:
            if len(shares) == 1:
                return shares[0]
            score = weight_space.score(self.workspace, "interpolate")
            return weight_space.best_share(self.start, learnt, shares, score)

        self.last, self.interpolation = None, distributed.from_the_first(best)
        return weight_space.between(self.start, learnt, self.interpolation)

    def _beside(self, result: Classifier, teacher: Classifier | None) -> Row:
        """How good the student is where choices are made, and the teacher that learns, too."""
        place, row = self.workspace, {}
        every = self.transfer.budget.evaluate == "epoch"
        if every and place.evaluated != "tune" and len(place.splits["tune"]):
            row["tune_accuracy"] = place.accuracy(result, "tune")
        if teacher is not None:
            row["teacher_accuracy"] = place.accuracy(teacher, place.evaluated)
        return row

    def said(self, result: Classifier, last: bool = True) -> Predictions:
        """What a student says of the images it is scored on.

        At the end, of one from scratch, also how likely they are at the temperature that suits `tune` best:
        of what students learn from two targets, one may make them less sure and nothing else.
        """
        place = self.workspace
        scaled = last and self.transfer.student.source == "seed" and place.evaluated != "tune"
        scaled = scaled and len(place.splits["tune"])
        return place.predict(result, temperature=place.best_temperature(result, "tune") if scaled else None)

    def _watched(self, result: Classifier, epoch: int, last: bool) -> Row:
        """How good the student is on the images that are watched, in the epochs in which they are."""
        watch, place = self.transfer.watch, self.workspace
        if watch is None or not (last or (epoch + 1) % watch.every == 0):
            return {}
        started = time.perf_counter()
        samples = splits.watched(place.splits, place.images.labels, watch)
        said, labels = place.predict(result, watch.split, samples), place.images.labels[samples]
        self.seconds_evaluating += time.perf_counter() - started
        return {
            "watched_accuracy": float((said.label == labels).mean()),
            "watched_nll": scores.measures(said, labels)["negative_log_likelihood"],
        }

    def elsewhere(self, learnt: Classifier) -> list[Row]:
        """Rows of `schemas.EVALUATIONS`: the student before and after on other sets, and its one teacher."""
        rows = []
        for name, other in self.workspace.data.also.items():
            place = self.workspace.on(name)
            labels, before = place.labels(), place.evaluation(place.frozen(self.transfer.student))
            teacher = self.taught_by and place.evaluation(place.frozen(self.transfer.teachers[0]))
            after = place.predict(learnt)
            rows.append(
                {
                    "set": name,
                    "data": other.images.source,
                    "data_sha256": place.images.sha256,
                    "classes": len(place.images.classes),
                    "evaluation_samples": len(labels),
                    **_measures(labels, before, teacher, after),
                    **_scores(labels, before, after),
                }
            )
        return rows

    def places(self, learnt: Classifier) -> dict[str, dict]:
        """Columns of `schemas.GEOMETRY_TABLES`: where the classes lie before the student's last layer."""
        asked, place, head = self.transfer.geometry, self.workspace, geometry.of(learnt)
        if asked is None or head is None:
            return {}
        samples, loader = place.splits[place.evaluated], place.pixels(learnt.input, place.evaluated)
        parts = evaluate.stream(learnt, loader, samples, place.device, place.precision, features=True)
        logits, features = map(torch.cat, zip(*((z.cpu(), x.cpu()) for z, x in parts), strict=True))
        if not geometry.fits(head, features, logits):
            return {}
        of_split = (place.labels(), samples, place.evaluated)
        return geometry.measure(head, features, *of_split, asked, place.images.classes)[1]

    def _progress(self, said: Predictions) -> Row:
        """How the student stands, against the original one and against that before this stage; nothing
        where nobody has said the classes.
        """
        if self.labels is None:
            return {}
        original, stage, now = (
            knowledge.correct(one.label, self.labels) for one in (self.before, self.start_said, said)
        )
        return {
            "student_accuracy": float(now.mean()),
            "knowledge_gain": knowledge.knowledge_gain(original, now),
            "knowledge_loss": knowledge.knowledge_loss(original, now),
            "stage_gain": knowledge.knowledge_gain(stage, now),
            "stage_loss": knowledge.knowledge_loss(stage, now),
        }


# --- the record ---------------------------------------------------------------------------------


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _licenses(model: spec.Model) -> str | None:
    return ", ".join(sorted(zoo.licenses_of(model))) or None


def _identity(trial: spec.Trial, workspace: Workspace) -> dict:
    """What was run, where and with what."""
    method, budget = trial.method.scaled(trial.budget), trial.budget
    again = method.augmentation
    teacher = trial.teachers[0] if len(trial.teachers) == 1 else None
    models = {"student": trial.student, "teacher": teacher}
    return {
        "study": trial.study,
        **{f"{role}_timm": model and model.timm for role, model in models.items()},
        **{f"{role}_family": model and model.family for role, model in models.items()},
        **{f"{role}_license": model and _licenses(model) for role, model in models.items()},
        **trial.labels,
        "student_source": trial.student.source,
        **{f"{role}_label_smoothing": model and model.label_smoothing for role, model in models.items()},
        "teacher_twin": teacher and teacher.twin,
        "search": method.search,
        "settings": json.dumps(method.all_settings),
        "reads_labels": method.reads_labels,
        "lr": method.lr,
        "temperature": method.settings.get("temperature"),
        "student_temperature": method.settings.get("student_temperature", method.settings.get("temperature")),
        "weight": method.settings.get("weight"),
        "slow_every": method.slow and method.slow.every,
        "augmentation": again and again.name,
        "augmentation_pick": again and again.pick,
        "augmentation_draw": again and again.draw,
        "epochs": budget.epochs,
        "batch_size": budget.batch_size,
        "optimizer": budget.optimizer,
        "momentum": budget.momentum,
        "weight_decay": budget.weight_decay,
        "schedule": "drops" if isinstance(budget.schedule, spec.Drops) else budget.schedule,
        "transforms": ", ".join(name for transform in budget.transforms for name in dump(transform)),
        "data": trial.data.images.source,
        "data_name": trial.data.called,
        "evaluated_on": workspace.evaluated,
        "data_sha256": workspace.images.sha256,
        "classes": len(workspace.images.classes),
        "class_imbalance": trial.data.splits.imbalance,
        "precision": workspace.precision,
        "transfer_samples": len(workspace.splits["transfer"]),
        "evaluation_samples": len(workspace.splits[workspace.evaluated]),
        "spec": trial.model_dump_json(),
        **workspace.environment(),
    }


def _scores(labels, before: Predictions, after: Predictions) -> dict:
    """What `study.scores` measures, of the student before and after; nothing without labels."""
    if labels is None:
        return {}
    measured = {"before": scores.measures(before, labels), "after": scores.measures(after, labels)}
    return {f"student_{name}_{when}": of[name] for when, of in measured.items() for name in scores.NAMES}


def _measures(labels, before: Predictions, teacher: Predictions | None, after: Predictions) -> dict:
    """The knowledge metrics of `schemas.TRIALS`; none without labels."""
    if labels is None:
        return {}
    student, result = (knowledge.correct(said.label, labels) for said in (before, after))
    row = {
        "student_accuracy_before": float(student.mean()),
        "student_accuracy_after": float(result.mean()),
        "transfer_delta": knowledge.transfer_delta(student, result),
        "knowledge_gain": knowledge.knowledge_gain(student, result),
        "knowledge_loss": knowledge.knowledge_loss(student, result),
    }
    if teacher is not None:
        right = knowledge.correct(teacher.label, labels)
        rate = knowledge.transfer_rate(student, right, result)
        row |= {
            "teacher_accuracy": float(right.mean()),
            "accuracy_difference": knowledge.accuracy_difference(student, right),
            "rho_pos_before": knowledge.rho_pos(student, right),
            "rho_neg_before": knowledge.rho_neg(student, right),
            "rho_pos_after": knowledge.rho_pos(result, right),
            "rho_neg_after": knowledge.rho_neg(result, right),
            "transfer_rate": None if np.isnan(rate) else rate,
        }
    return row
