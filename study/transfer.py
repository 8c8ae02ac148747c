"""One transfer: a student learns from a frozen teacher, and what came of it is measured.

After arXiv 2310.17653, section 4: SGD on the transfer set; student, teacher and frozen student see
the same view of a sample (the student's crop), each resized and normalised its own way; the student
trains in `train` mode, so BatchNorm statistics move, the frozen models stay in `eval` mode. Where
the view is the same in every epoch (no flip), the frozen models' logits are computed once, kept as
float16 and looked up; otherwise they run live. Both give the same losses to that precision.

`run` is an ordinary function: it needs no Ray, only a `Workspace`. With a `Checkpoint` it goes on where
an interrupted run of the same trial stopped. Called by every worker of a torch process group it trains
data-parallel: each worker takes an equal part of every batch, so that losses (means over samples),
gradients and BatchNorm statistics are those of the whole batch, and the result is that of one worker
up to the order of summation. Only dropout differs: each worker draws masks of its own.

Left out on purpose: several teachers, models too large for one device, and BatchNorm students on
several CPU workers (torch synchronises their statistics on GPUs alone).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from study import checkpoints, evaluate, knowledge, methods, records, spec, views, zoo
from study.checkpoints import Checkpoint
from study.data import Batches
from study.errors import DivergedError, StudyError
from study.evaluate import Predictions
from study.timm_import import timm
from study.workspace import Workspace

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """What a trial leaves: a row of `trials`, and columns of `predictions` and `history`."""

    row: dict
    predictions: dict
    history: dict


def run(
    trial: spec.Trial,
    workspace: Workspace,
    progress: Callable[[float], None] = lambda share: None,
    checkpoint: Checkpoint | None = None,
) -> Record | None:
    """Run one trial, or go on with one; in a process group, as one of its workers.

    Args:
        trial: what to run.
        workspace: opened on the trial's data.
        progress: called with the share of the transfer done, in [0, 1], after each epoch.
        checkpoint: where the state after an epoch is kept, and taken up again. The caller removes it,
            once the record is written. With several workers all give one, and the first one's is used.

    Returns:
        The record; `study.records.write_trial` keeps it. The same trial on the same CPU gives the
        same record, interrupted or not, timings aside: those of a trial that was taken up again count
        the epochs it was taken up with, but not what an interruption lost. None on any worker but the
        first.

    Raises:
        DivergedError: the loss stopped being finite.
        StudyError: a model's weights are missing or damaged, or the workers cannot share the trial. What
            only one worker meets with is raised by all of them.
        ValueError: the workspace is opened on other data than the trial's.
    """
    if trial.data != workspace.data:
        raise ValueError("the workspace is opened on other data than the trial's")
    rank, workers = _place()
    _check_batch(workers, min(trial.budget.batch_size, len(workspace.splits["transfer"])))
    started = time.perf_counter()

    def load():
        student = workspace.load(trial.student)
        teacher = trial.teacher and workspace.load(trial.teacher)
        # Run once and looked up afterwards, so their time is not the trial's training.
        before = workspace.evaluation(trial.student, student)
        taught_by = teacher and workspace.evaluation(trial.teacher, teacher)
        return student, teacher, before, taught_by, _frozen_outputs(trial, workspace, student, teacher)

    with torch.random.fork_rng(_cuda_devices(workspace.device)):
        torch.manual_seed(trial.seed + rank)
        # The first worker computes outputs that are not there yet, the others then look them up.
        student, teacher, before, taught_by, frozen_outputs = _first_then_others(load)
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
                _by_the_first(lambda: checkpoint.save({"origin": origin, **state}))

        result, history, slow_decay = _train(trial, workspace, student, frozen_outputs, kept, keep, progress)
        trained = time.perf_counter()
        after = _by_the_first(lambda: workspace.predict(result))
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


def run_and_record(trial: spec.Trial, workspace: Workspace, study: spec.Study) -> None:
    """Run a trial of a study, or go on with it from its checkpoint, and write its record.

    Raises:
        as `run` does; StorageError: the record could not be written for longer than one waits.
    """
    checkpoint = checkpoints.of(study, trial)
    record = run(trial, workspace, checkpoint=checkpoint)
    if record is not None:
        records.write_trial(study.results, trial.id, record.row, record.predictions, record.history)
        checkpoint.remove()


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
    kept: dict[str, Any] | None,
    keep: Callable[[dict[str, Any]], None],
    progress: Callable[[float], None],
) -> tuple[zoo.Classifier, dict[str, list], float | None]:
    """Train the student in place, from a kept state if there is one; `keep` is offered each epoch's.

    Returns:
        The result, the history, and the slow weights' τ (or None).
    """
    budget, method, device = trial.budget, trial.method, workspace.device
    samples, batches = workspace.splits["transfer"], workspace.batches(student.crop)
    steps = budget.epochs * -(-len(samples) // budget.batch_size)
    forward = _data_parallel(student, trial.student.name, device)
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
    step = 0
    if kept:
        _restore(student, kept["student"])
        if slow:
            _restore(slow, kept["slow"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        history, step = kept["history"], kept["step"]
        _set_random_states(kept["random"], device)
    student.train()
    for epoch in range(len(history["epoch"]), budget.epochs):
        started = time.perf_counter()
        loss_sum, taught = torch.zeros((), device=device), None
        order = np.random.default_rng((trial.seed, epoch)).permutation(samples)
        for weight, counted, pixels, labels, indices in _parts(batches, order, budget.batch_size, device):
            view = views.augment(pixels, indices, trial.seed, epoch, flip=budget.flip)
            with evaluate.autocast(device):
                logits = forward(view)
            loss, from_teacher = method.loss(
                methods.Outputs(
                    student=logits,
                    labels=labels if "labels" in method.needs else None,
                    **frozen_outputs(view, indices),
                )
            )
            optimizer.zero_grad()
            (weight * loss).backward()
            optimizer.step()
            step += 1
            if slow and step % method.every == 0:
                slow.update_parameters(student)
            lr = schedule.get_last_lr()[0]
            schedule.step()
            loss_sum += loss.detach() * counted
            if from_teacher is not None:
                taught = from_teacher[:counted].sum() + (0 if taught is None else taught)
        loss_sum, taught = _over_workers(loss_sum), taught if taught is None else _over_workers(taught)
        if not torch.isfinite(loss_sum):
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower the method's lr")
        history["epoch"].append(epoch)
        history["loss"].append(float(loss_sum) / len(samples))
        history["lr"].append(lr)
        history["teacher_share"].append(None if taught is None else float(taught) / len(samples))
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
        progress((epoch + 1) / budget.epochs)
    return (slow.module if slow else student), history, tau


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
    states = [_by_the_first(checkpoint.load)]
    if _place()[1] > 1:
        dist.broadcast_object_list(states, src=0)
    (state,) = states
    return state if state and state["origin"] == origin else None


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
    return _gathered(mine)


def _set_random_states(states: list[list[Tensor]], device: torch.device) -> None:
    rank, workers = _place()
    if len(states) == workers:  # else there is no going on with the same dropout
        cpu, *cuda = states[rank]
        torch.set_rng_state(cpu)
        for state, number in zip(cuda, _cuda_devices(device), strict=True):
            torch.cuda.set_rng_state(state, number)


# --- several workers ----------------------------------------------------------------------------


def check_workers(study: spec.Study, classes: int) -> None:
    """Refuse workers that cannot share a trial, before any starts.

    Args:
        study: the study.
        classes: number of classes of its data.

    Raises:
        StudyError: there are more workers than samples in a batch, several on one GPU, or several on
            CPUs for a student with BatchNorm.
    """
    resources = study.resources
    if resources.workers == 1:
        return
    _check_batch(resources.workers, study.budget.batch_size)
    if 0 < resources.gpus < 1:
        raise StudyError(
            f"resources.gpus: {resources.workers} workers cannot share a GPU; set gpus to 1 or workers to 1"
        )
    if not resources.gpus:
        for name in dict.fromkeys(student for student, _ in study.ordered_pairs()):
            # With random weights: what matters here needs none from anywhere.
            chance = {"checkpoint": None, "checkpoint_sha256": None, "recipe": None, "untrained": 0}
            _check_batch_norm(zoo.build(study.zoo[name].model_copy(update=chance), classes), name)


def _check_batch(workers: int, samples: int) -> None:
    if workers > samples:
        raise StudyError(
            f"resources.workers: {workers} workers cannot share a batch of {samples} samples; lower it to "
            f"{samples} at most"
        )


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _check_batch_norm(student: nn.Module, name: str) -> None:
    if _has_batch_norm(student):
        raise StudyError(
            f"zoo.{name}: has BatchNorm, whose statistics several workers can share on GPUs alone; set "
            "resources.workers to 1, or leave it out as a student"
        )


def _place() -> tuple[int, int]:
    """This worker's number, and how many there are; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _data_parallel(student: zoo.Classifier, name: str, device: torch.device) -> nn.Module:
    """What to call in place of the student, so that its gradients are averaged over the workers."""
    if _place()[1] == 1:
        return student
    if device.type == "cpu":
        _check_batch_norm(student, name)
    # timm's own, which knows its layers that join BatchNorm and activation.
    student.network = timm.layers.convert_sync_batchnorm(student.network)
    # Buffers are the same everywhere already. In some of timm's models not every parameter is used.
    return DistributedDataParallel(student, forward_sync_buffers=False, static_graph=True)


def _parts(
    batches: Batches, order: NDArray[np.integer], batch_size: int, device: torch.device
) -> Iterator[tuple[float, int, Tensor, Tensor, Tensor]]:
    """This worker's part of every batch of an epoch.

    A last batch with fewer samples than there are workers is computed by each of them, whole: the
    mean of their gradients, and BatchNorm's statistics, are then still those of the batch.

    Args:
        batches: the loader.
        order: int [n], indices of samples; at least as many as workers.
        batch_size: samples of a batch, over all workers; at least as many as workers.
        device: where the tensors go.

    Yields:
        the weight of the part's mean loss (over workers, weights average to 1), how many of its samples
        count for sums over all workers, and pixels, labels and indices as `Batches.epoch` gives them.
    """
    rank, workers = _place()
    full, rest = np.split(order, [len(order) // batch_size * batch_size])
    mine = full.reshape(-1, batch_size)[:, rank::workers]
    shared = len(rest) < workers
    own = np.concatenate([mine.ravel(), rest[:0] if shared else rest[rank::workers]])
    for number, part in enumerate(batches.epoch(own, mine.shape[1], device)):
        count, of = len(part[0]), batch_size if number < len(mine) else len(rest)
        yield count * workers / of, count, *part
    if shared and len(rest):
        for part in batches.epoch(rest, len(rest), device):
            yield 1.0, len(rest) if rank == 0 else 0, *part


def _over_workers(amount: Tensor) -> Tensor:
    """The sum over all workers."""
    if _place()[1] > 1:
        dist.all_reduce(amount)
    return amount


def _gathered(mine: T) -> list[T]:
    """What every worker has, in their order."""
    everyones = [mine] * _place()[1]
    if len(everyones) > 1:
        dist.all_gather_object(everyones, mine)
    return everyones


def _together(action: Callable[[], T] | None) -> T | None:
    """Do something, or nothing, and wait for the others; a `StudyError` of one is raised by all.

    So no worker waits for ever for one that has given up.
    """
    result = error = None
    try:
        result = action and action()
    except StudyError as raised:
        error = raised
    for raised in _gathered(error):
        if raised is not None:
            raise raised
    return result


def _by_the_first(action: Callable[[], T]) -> T | None:
    """What the first worker gets by doing something that the others wait for; None on the others."""
    return _together(action if _place()[0] == 0 else None)


def _first_then_others(action: Callable[[], T]) -> T:
    """What each worker gets by doing something, the first one before the others."""
    if _place()[1] == 1:
        return action()
    first = _by_the_first(action)
    others = _together(action if _place()[0] > 0 else None)
    return others if first is None else first


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
