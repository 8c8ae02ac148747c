"""One transfer: a student learns from a frozen teacher, and what came of it is measured.

After arXiv 2310.17653, section 4: SGD on the transfer set; student, teacher and frozen student see
the same view of a sample (the student's crop), each resized and normalised its own way; the student
trains in `train` mode, so BatchNorm statistics move, the frozen models stay in `eval` mode. Where
the view is the same in every epoch (no flip), the frozen models' logits are computed once, kept as
float16 and looked up; otherwise they run live. Both give the same losses to that precision.

`run` is an ordinary function: it needs no Ray, only a `Workspace`. Left out on purpose: several
teachers, and checkpoints in the middle of a trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from study import evaluate, knowledge, methods, spec, views, zoo
from study.errors import DivergedError
from study.evaluate import Predictions
from study.workspace import Workspace


@dataclass(frozen=True)
class Record:
    """What a trial leaves: a row of `trials`, and columns of `predictions` and `history`."""

    row: dict
    predictions: dict
    history: dict


def run(
    trial: spec.Trial, workspace: Workspace, progress: Callable[[float], None] = lambda share: None
) -> Record:
    """Run one trial.

    Args:
        trial: what to run.
        workspace: opened on the trial's data.
        progress: called with the share of the transfer done, in [0, 1], after each epoch.

    Returns:
        The record; `study.records.write_trial` keeps it. The same trial on the same CPU gives the
        same record, timings aside.

    Raises:
        DivergedError: the loss stopped being finite.
        StudyError: a model's weights are missing or damaged.
        ValueError: the workspace is opened on other data than the trial's.
    """
    if trial.data != workspace.data:
        raise ValueError("the workspace is opened on other data than the trial's")
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        student = workspace.load(trial.student)
        teacher = trial.teacher and workspace.load(trial.teacher)
        # Run once and looked up afterwards, so their time is not the trial's training.
        before = workspace.evaluation(trial.student, student)
        taught_by = teacher and workspace.evaluation(trial.teacher, teacher)
        frozen_outputs = _frozen_outputs(trial, workspace, student, teacher)
        loaded = time.perf_counter()
        result, history, slow_decay = _train(trial, workspace, student, frozen_outputs, progress)
        trained = time.perf_counter()
        after = workspace.predict(result)
    ended = time.perf_counter()

    samples = workspace.splits["evaluation"]
    labels = workspace.images.labels[samples]
    shares = [share for share in history["teacher_share"] if share is not None]
    row = {
        **_identity(trial, workspace),
        "status": "ok",
        "student_parameters": _parameters(student),
        "student_weights": student.weights,
        "teacher_parameters": teacher and _parameters(teacher),
        "teacher_weights": teacher and teacher.weights,
        "slow_decay": slow_decay,
        "teacher_share": float(np.mean(shares)) if shares else None,
        **_measures(labels, before, taught_by, after),
        "seconds_load": loaded - started,
        "seconds_train": trained - loaded,
        "seconds_evaluate": ended - trained,
        "seconds": ended - started,
    }
    predictions = {"index": samples, "label": labels}
    for name, said in (("student_before", before), ("teacher", taught_by), ("student_after", after)):
        if said is not None:
            predictions |= {name: said.label, f"{name}_confidence": said.confidence}
    return Record(row, predictions, history)


def failure(trial: spec.Trial, workspace: Workspace, reason: str) -> dict:
    """The row of a trial that failed."""
    return {**_identity(trial, workspace), "status": "failed", "reason": reason}


def _frozen_outputs(
    trial: spec.Trial, workspace: Workspace, student: zoo.Classifier, teacher: zoo.Classifier | None
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """A function of (pixels, indices) that gives the logits of the frozen models the method needs."""
    frozen = {"teacher": (trial.teacher, teacher), "frozen": (trial.student, student)}
    needed = {name: frozen[name] for name in ("teacher", "frozen") if name in trial.method.needs}
    cached: dict[str, Tensor] = {}
    if not trial.budget.flip:
        for name, (model, classifier) in needed.items():
            logits = workspace.transfer_logits(model, classifier, student.crop)
            if logits is not None:
                cached[name] = logits
    # `student` is about to train: a frozen student that runs live has to be a copy of its own.
    live = {
        name: workspace.load(model) if classifier is student else classifier
        for name, (model, classifier) in needed.items()
        if name not in cached
    }
    samples = torch.from_numpy(workspace.splits["transfer"]).to(workspace.device)

    @torch.no_grad()
    def outputs(pixels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        rows = torch.searchsorted(samples, indices)
        with evaluate.autocast(workspace.device):
            said = {name: classifier(pixels).float() for name, classifier in live.items()}
        return said | {name: logits[rows].float() for name, logits in cached.items()}

    return outputs


def _train(
    trial: spec.Trial,
    workspace: Workspace,
    student: zoo.Classifier,
    frozen_outputs: Callable[[Tensor, Tensor], dict[str, Tensor]],
    progress: Callable[[float], None],
) -> tuple[zoo.Classifier, dict[str, list], float | None]:
    """Train the student in place; the result, the history, and the slow weights' τ (or None)."""
    budget, method, device = trial.budget, trial.method, workspace.device
    samples, batches = workspace.splits["transfer"], workspace.batches(student.crop)
    steps = budget.epochs * -(-len(samples) // budget.batch_size)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=method.lr, momentum=budget.momentum, weight_decay=budget.weight_decay
    )
    schedule = (
        CosineAnnealingLR(optimizer, T_max=steps)
        if budget.schedule == "cosine"
        else LambdaLR(optimizer, lambda step: 1.0)
    )
    tau = method.slow_decay(steps)
    slow = None if tau is None else slow_weights(student, tau)

    history: dict[str, list] = {"epoch": [], "loss": [], "lr": [], "teacher_share": [], "seconds": []}
    student.train()
    step = 0
    for epoch in range(budget.epochs):
        started = time.perf_counter()
        loss_sum, taught = torch.zeros((), device=device), None
        order = np.random.default_rng((trial.seed, epoch)).permutation(samples)
        for pixels, labels, indices in batches.epoch(order, budget.batch_size, device):
            view = views.augment(pixels, indices, trial.seed, epoch, flip=budget.flip)
            with evaluate.autocast(device):
                logits = student(view)
            loss, from_teacher = method.loss(
                methods.Outputs(
                    student=logits,
                    labels=labels if "labels" in method.needs else None,
                    **frozen_outputs(view, indices),
                )
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if slow and step % method.every == 0:
                slow.update_parameters(student)
            lr = schedule.get_last_lr()[0]
            schedule.step()
            loss_sum += loss.detach() * len(pixels)
            if from_teacher is not None:
                taught = from_teacher.sum() + (0 if taught is None else taught)
        if not torch.isfinite(loss_sum):
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower the method's lr")
        history["epoch"].append(epoch)
        history["loss"].append(float(loss_sum) / len(samples))
        history["lr"].append(lr)
        history["teacher_share"].append(None if taught is None else float(taught) / len(samples))
        history["seconds"].append(time.perf_counter() - started)
        progress((epoch + 1) / budget.epochs)
    return (slow.module if slow else student), history, tau


def slow_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Slow weights that start at the model's: each `update_parameters` is θ ← τ·θ + (1−τ)·θ_fast.

    Buffers (BatchNorm statistics) are averaged alike, as in the paper's runs: they belong to the
    weights they were collected with, and those are averaged.

    Args:
        model: the fast weights.
        decay: τ in [0, 1).
    """
    slow = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    # The first update of an AveragedModel copies: spend it on the weights as they are now.
    slow.update_parameters(model)
    return slow


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _identity(trial: spec.Trial, workspace: Workspace) -> dict:
    """What was run, where and with what."""
    method, budget = trial.method, trial.budget
    models = {"student": trial.student, "teacher": trial.teacher}
    return {
        "study": trial.study,
        **{role: model and model.name for role, model in models.items()},
        **{f"{role}_timm": model and model.timm for role, model in models.items()},
        **{f"{role}_family": model and model.family for role, model in models.items()},
        "method": trial.name,
        "lr": method.lr,
        "temperature": getattr(method, "temperature", None),
        "weight": getattr(method, "weight", None),
        "slow_every": getattr(method, "every", None),
        "epochs": budget.epochs,
        "batch_size": budget.batch_size,
        "momentum": budget.momentum,
        "weight_decay": budget.weight_decay,
        "schedule": budget.schedule,
        "flip": budget.flip,
        "seed": trial.seed,
        "data": trial.data.images.source,
        "data_sha256": workspace.images.sha256,
        "classes": len(workspace.images.classes),
        "transfer_samples": len(workspace.splits["transfer"]),
        "evaluation_samples": len(workspace.splits["evaluation"]),
        "spec": trial.model_dump_json(),
        **workspace.environment(),
    }


def _measures(labels, before: Predictions, teacher: Predictions | None, after: Predictions) -> dict:
    """The knowledge metrics of `records.TRIALS`."""
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
