"""One transfer: a student learns from a frozen teacher, and what came of it is measured.

After arXiv 2310.17653, section 4: SGD on the transfer set; student, teacher and frozen student see
the same view of a sample (the student's crop), each resized and normalised its own way; the student
trains in `train` mode, so BatchNorm statistics move, the frozen models stay in `eval` mode. Their
logits are computed once for each view, kept as float16 and looked up by all trials, or computed live in
each step, as the workspace has it. Both give the same losses to that precision.

`run` is an ordinary function: it needs no Ray, only a `Workspace`. With a `Checkpoint` it goes on where
an interrupted run of the same trial stopped. Called by every worker of a torch process group it trains
data-parallel (`study.distributed`), and the result is that of one worker up to the order of summation. Only
dropout differs: each worker draws masks of its own.

Left out on purpose: several teachers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from study import distributed, evaluate, knowledge, methods, spec, views
from study.errors import DivergedError
from study.evaluate import Predictions
from study.images.batches import Crop
from study.models import zoo
from study.store import checkpoints, records
from study.store.checkpoints import Checkpoint
from study.views import View
from study.workspace import Workspace

Frozen = dict[str, tuple[spec.Model, zoo.Classifier]]  # by name in `methods.Outputs`


@dataclass(frozen=True)
class Record:
    """What a trial leaves: a row of `trials`, and columns of `predictions` and `history`."""

    row: dict
    predictions: dict
    history: dict


def run(
    trial: spec.Trial,
    workspace: Workspace,
    progress: Callable[[dict[str, list]], None] = lambda history: None,
    checkpoint: Checkpoint | None = None,
) -> Record | None:
    """Run one trial, or go on with one; in a process group, as one of its workers.

    Args:
        trial: what to run.
        workspace: opened on the trial's data.
        progress: called with the history so far (columns of `schemas.HISTORY`) after each epoch.
        checkpoint: where the state after an epoch is kept, and taken up again. The caller removes it,
            once the record is written. With several workers all give one, and the first one's is used.

    Returns:
        The record; `study.store.records.write_trial` keeps it. The same trial on the same CPU gives the
        same record, interrupted or not, timings aside: those of a trial that was taken up again count
        the epochs it was taken up with, but not what an interruption lost. None on any worker but the
        first.

    Raises:
        DivergedError: the loss stopped being finite.
        StudyError: a model's weights are missing or damaged, or the workers cannot share the trial. What
            only one worker meets with is raised by all of them.
        ValueError: the workspace is opened on other data than the trial's, or computes in another precision.
    """
    if trial.data != workspace.data:
        raise ValueError("the workspace is opened on other data than the trial's")
    if trial.budget.precision not in (None, workspace.precision):
        raise ValueError("the workspace computes in another precision than the trial's")
    rank, count = distributed.place()
    distributed.check_batch(count, min(trial.budget.batch_size, len(workspace.splits["transfer"])))
    started = time.perf_counter()

    def load():
        student = workspace.student(trial.student)
        teacher = trial.teacher and workspace.frozen(trial.teacher)
        # Run once and looked up afterwards, so their time is not the trial's training.
        before = workspace.evaluation(trial.student, student)
        taught_by = teacher and workspace.evaluation(trial.teacher, teacher)
        frozen = {
            name: (model, teacher if name == "teacher" else workspace.frozen(model))
            for name, model in frozen_models(trial).items()
        }
        if workspace.cached:
            # Each trial begins elsewhere, so that several at once share the work of new views.
            views_needed = trial.budget.views
            begin = int(trial.id, 16) % len(views_needed)
            for view in views_needed[begin:] + views_needed[:begin]:
                _cached(frozen, workspace, student.crop, view)
        return student, teacher, frozen, before, taught_by

    with torch.random.fork_rng(_cuda_devices(workspace.device)):
        torch.manual_seed(trial.seed + rank)
        # The first worker computes outputs that are not there yet, the others then look them up.
        student, teacher, frozen, before, taught_by = distributed.first_then_others(load)
        origin = {
            "data": workspace.images.sha256,
            "student": student.weights,
            "teacher": teacher and teacher.weights,
            "device": workspace.device.type,
        }
        kept = _kept_state(checkpoint, origin)
        earlier = sum(kept["history"]["seconds"]) if kept else 0.0
        loaded = time.perf_counter()

        def keep(state: dict[str, Any]) -> None:
            if checkpoint is not None:
                distributed.by_the_first(lambda: checkpoint.save({"origin": origin, **state}))

        result, history, slow_decay = _train(trial, workspace, student, frozen, kept, keep, progress)
        trained = time.perf_counter()
        after = distributed.by_the_first(lambda: workspace.predict(result))
    ended = time.perf_counter()
    if after is None:
        return None

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
        "seconds_train": trained - loaded + earlier,
        "seconds_evaluate": ended - trained,
        "seconds": ended - started + earlier,
    }
    predictions = {"index": samples, "label": labels}
    for name, said in (("student_before", before), ("teacher", taught_by), ("student_after", after)):
        if said is not None:
            predictions |= {name: said.label, f"{name}_confidence": said.confidence}
    return Record(row, predictions, history)


def run_and_record(
    trial: spec.Trial,
    workspace: Workspace,
    study: spec.Study,
    progress: Callable[[dict[str, list]], None] = lambda history: None,
) -> None:
    """Run a trial of a study, or go on with it from its checkpoint, and write its record.

    Raises:
        as `run` does; StorageError: the record could not be written for longer than one waits.
    """
    checkpoint = checkpoints.of(study, trial)
    record = run(trial, workspace, progress, checkpoint)
    if record is not None:
        records.write_trial(study.results, trial.id, record.row, record.predictions, record.history)
        checkpoint.remove()


def failure(trial: spec.Trial, workspace: Workspace, reason: str) -> dict:
    """The row of a trial that failed."""
    return {**_identity(trial, workspace), "status": "failed", "reason": reason}


def frozen_models(trial: spec.Trial) -> dict[str, spec.Model]:
    """The frozen models whose outputs a trial's method needs, as `methods.Outputs` calls them."""
    models = {"teacher": trial.teacher, "frozen": trial.student}
    return {name: model for name, model in models.items() if name in trial.method.needs}


def _cached(frozen: Frozen, workspace: Workspace, crop: Crop, view: View | None) -> dict[str, Tensor]:
    """What they say of the transfer set in a view, float16 [samples, classes]; computed if need be."""
    return {
        name: workspace.transfer_logits(model, classifier, crop, view)
        for name, (model, classifier) in frozen.items()
    }


def _frozen_outputs(
    frozen: Frozen, workspace: Workspace, crop: Crop, view: View | None
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """A function of an epoch's (pixels, indices) that gives the logits of frozen models."""
    device = workspace.device
    if workspace.cached:
        cached = _cached(frozen, workspace, crop, view)
        samples = torch.from_numpy(workspace.splits["transfer"]).to(device)

        def look_up(pixels: Tensor, indices: Tensor) -> dict[str, Tensor]:
            rows = torch.searchsorted(samples, indices)
            return {
                name: logits[rows.to(logits.device)].to(device).float() for name, logits in cached.items()
            }

        return look_up

    def compute(pixels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode(), evaluate.autocast(device, workspace.precision):
            said = {name: classifier(pixels) for name, (_, classifier) in frozen.items()}
        # Clones, because what inference mode made cannot be part of a loss that is differentiated.
        return {name: logits.clone().float() for name, logits in said.items()}

    return compute


def _train(
    trial: spec.Trial,
    workspace: Workspace,
    student: zoo.Classifier,
    frozen: Frozen,
    kept: dict[str, Any] | None,
    keep: Callable[[dict[str, Any]], None],
    progress: Callable[[dict[str, list]], None],
) -> tuple[zoo.Classifier, dict[str, list], float | None]:
    """Train the student in place, from a kept state if there is one; `keep` is offered each epoch's.

    Returns:
        The result, the history, and the slow weights' τ (or None).
    """
    budget, method, device = trial.budget, trial.method, workspace.device
    samples, batches = workspace.splits["transfer"], workspace.pixels(student.crop, "transfer")
    steps = budget.epochs * -(-len(samples) // budget.batch_size)
    forward = distributed.data_parallel(student, trial.student.name, device)
    if workspace.compiled:
        forward = torch.compile(forward)
    optimizer, schedule = _optimizer(student, method.lr, budget, steps)
    tau = method.slow_decay(steps)
    slow = None if tau is None else slow_weights(student, tau)

    history: dict[str, list] = {"epoch": [], "loss": [], "lr": [], "teacher_share": [], "seconds": []}
    step = 0
    if kept:
        history, step = _take_up(kept, student, slow, optimizer, schedule, device)
    student.train()
    for epoch in range(len(history["epoch"]), budget.epochs):
        started = time.perf_counter()
        # Sums are taken at the end: each small operation in a step is a hundredth of a small student's.
        losses, counts, taught = [], [], []
        order = np.random.default_rng((trial.seed, epoch)).permutation(samples)
        view = budget.view(epoch)
        frozen_outputs = _frozen_outputs(frozen, workspace, student.crop, view)
        parts = distributed.parts(batches, order, budget.batch_size, device)
        for weight, counted, pixels, labels, indices in parts:
            shown = views.augment(pixels, indices, view)
            with evaluate.autocast(device, workspace.precision):
                logits = forward(shown)
            loss, from_teacher = method.loss(
                methods.Outputs(
                    student=logits,
                    labels=labels if "labels" in method.needs else None,
                    **frozen_outputs(shown, indices),
                )
            )
            optimizer.zero_grad()
            (loss if weight == 1 else weight * loss).backward()
            optimizer.step()
            step += 1
            if slow and step % method.every == 0:
                slow.update_parameters(student)
            lr = schedule.get_last_lr()[0]
            schedule.step()
            losses.append(loss.detach())
            counts.append(counted)
            if from_teacher is not None:
                taught.append(from_teacher[:counted])
        loss_sum = distributed.total(
            torch.stack(losses).double() @ torch.tensor(counts, device=device).double()
        )
        if not torch.isfinite(loss_sum):
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower the method's lr")
        history["epoch"].append(epoch)
        history["loss"].append(float(loss_sum) / len(samples))
        history["lr"].append(lr)
        history["teacher_share"].append(
            float(distributed.total(torch.cat(taught).sum())) / len(samples) if taught else None
        )
        history["seconds"].append(time.perf_counter() - started)
        keep(
            {
                "student": _tensors(student),
                "slow": slow and _tensors(slow),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "history": history,
                "step": step,
                "random": _random_states(device),
            }
        )
        progress(history)
    return (slow.module if slow else student), history, tau


def _optimizer(student: nn.Module, lr: float, budget: spec.Budget, steps: int):
    """The optimiser of a transfer and its schedule."""
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=lr,
        momentum=budget.momentum,
        weight_decay=budget.weight_decay,
        fused=True,  # one pass over all weights instead of some for each: 4 % of a small student's step
    )
    if budget.schedule == "cosine":
        return optimizer, CosineAnnealingLR(optimizer, T_max=steps)
    return optimizer, LambdaLR(optimizer, lambda step: 1.0)


def slow_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Slow weights that start at the model's: each `update_parameters` is θ ← τ·θ + (1−τ)·θ_fast.

    Buffers (BatchNorm statistics) are averaged alike, as in the paper's runs: they belong to the
    weights they were collected with, and those are averaged. Those of whole numbers are taken over.

    Args:
        model: the fast weights.
        decay: τ in [0, 1).
    """
    average = get_ema_multi_avg_fn(decay)

    def update(slow: list[Tensor], fast: list[Tensor], updates: Tensor) -> None:
        """Tensors of one type: torch hands them over so."""
        if slow[0].is_floating_point():
            average(slow, fast, updates)
        else:
            # Counts, and indices into tables: torch would round their average down, next to the right one.
            for mine, theirs in zip(slow, fast, strict=True):
                mine.copy_(theirs)

    slow = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    # The first update of an AveragedModel copies: spend it on the weights as they are now.
    slow.update_parameters(model)
    return slow


# --- checkpoints --------------------------------------------------------------------------------


def _kept_state(checkpoint: Checkpoint | None, origin: dict[str, Any]) -> dict[str, Any] | None:
    """The state to go on from, the same on every worker; None to begin at the beginning.

    One that came from other images or weights than are there now is not gone on from, either.
    """
    if checkpoint is None:
        return None
    states = [distributed.by_the_first(checkpoint.load)]
    if distributed.place()[1] > 1:
        dist.broadcast_object_list(states, src=0)
    (state,) = states
    return state if state and state["origin"] == origin else None


def _take_up(kept: dict[str, Any], student, slow, optimizer, schedule, device) -> tuple[dict, int]:
    """Put everything into a kept state; the history up to there, and its number of steps."""
    _restore(student, kept["student"])
    if slow:
        _restore(slow, kept["slow"])
    optimizer.load_state_dict(kept["optimizer"])
    schedule.load_state_dict(kept["schedule"])
    _set_random_states(kept["random"], device)
    return kept["history"], kept["step"]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those too that a `state_dict` leaves out."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def _restore(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in _tensors(module).items():
        tensor.copy_(tensors[name])


def _cuda_devices(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []


def _random_states(device: torch.device) -> list[list[Tensor]]:
    """States of torch's random generators, CPU and then CUDA, of every worker."""
    mine = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, _cuda_devices(device))]
    return distributed.gathered(mine)


def _set_random_states(states: list[list[Tensor]], device: torch.device) -> None:
    rank, count = distributed.place()
    if len(states) == count:  # else there is no going on with the same dropout
        cpu, *cuda = states[rank]
        torch.set_rng_state(cpu)
        for state, number in zip(cuda, _cuda_devices(device), strict=True):
            torch.cuda.set_rng_state(state, number)


# --- the record ---------------------------------------------------------------------------------


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
    """The knowledge metrics of `schemas.TRIALS`."""
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
