"""Several workers on one training: what each takes of a batch, and what they tell each other.

In a process group of torch's, whoever made it (Ray Train, torchrun, a test), each worker takes an equal
part of every batch, so that losses (means over samples), gradients and BatchNorm statistics are those of
the whole batch. Outside a process group everything here is as for the only worker there is.

Left out on purpose: models too large for one device, and BatchNorm students on several CPU workers
(torch synchronises their statistics on GPUs alone).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from study import objectives, spec
from study.errors import StudyError
from study.models import zoo
from study.models.timm_import import timm
from study.views import Batch, Shown

if TYPE_CHECKING:
    from study.learner import Learner

T = TypeVar("T")


def check(study: spec.Study, to_make: Iterable[spec.Model] = ()) -> None:
    """Refuse workers that cannot share a training, before any starts.

    Args:
        study: the study.
        to_make: the models whose weights are to be made, by the same workers.

    Raises:
        StudyError: there are more workers than samples in a batch, several on one GPU, or several on
            CPUs for a model with BatchNorm, or a method keeps what it saw of samples.
    """
    resources = study.resources
    if resources.workers == 1:
        return
    phases, learners = [study.budget], [study.zoo[name] for name in study.students()]
    for model in to_make:
        if isinstance(model.weights, spec.Trained):
            phases, learners = [*phases, *model.weights.phases], [*learners, model]
        elif isinstance(model.weights, spec.Transferred):
            phases, learners = [*phases, model.weights.budget], [*learners, model]
    check_batch(resources.workers, min(phase.batch_size for phase in phases))
    if 0 < resources.gpus < 1:
        raise StudyError(
            f"resources.gpus: {resources.workers} workers cannot share a GPU; set gpus to 1 or workers to 1"
        )
    for name, method in study.methods.items():
        check_objective(method, name)
        if method.augmentation and method.augmentation.draw == "batch":
            raise StudyError(
                f"methods.{name}.augmentation.draw: several workers have several batches, with draws of "
                "their own; set resources.workers to 1, or draw by 'sample'"
            )
    if any(method.trains_teacher for method in study.methods.values()):
        learners = [*learners, *(study.zoo[teacher] for _, teacher in study.ordered_pairs())]
    for model in learners if not resources.gpus else ():
        # With random weights: what matters here needs none from anywhere, and no number of classes.
        check_batch_norm(zoo.build(model.model_copy(update={"weights": spec.Random(seed=0)}), classes=2))


def check_batch(workers: int, samples: int) -> None:
    if workers > samples:
        raise StudyError(
            f"resources.workers: {workers} workers cannot share a batch of {samples} samples; lower it to "
            f"{samples} at most"
        )


def check_objective(method: spec.Method, name: str) -> None:
    """Refuse an objective that remembers samples: each worker would remember those that it has seen alone."""
    if not inspect.isclass(method.function):
        return
    said, labels = torch.zeros(2, 2), torch.arange(2)
    made_with = {
        **{"student_dim": 1, "teacher_dim": 1, "student_channels": (1,), "teacher_channels": (1,)},
        **{"classes": 2, "class_names": ("0", "1"), "samples": 2},
        "sample_labels": labels,
        "tune_labels": labels,
        "tune_frozen": said,
        "tune_teachers": [said],
    }
    one = objectives.make(method.function, method.settings, **made_with)
    if one.state_dict().keys() - dict(one.named_parameters()).keys():
        raise StudyError(
            f"methods.{name}: '{method.method}' keeps what it saw of samples, which several workers do not "
            "share; set resources.workers to 1"
        )


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def check_batch_norm(model: zoo.Classifier) -> None:
    if has_batch_norm(model):
        raise StudyError(
            f"zoo.{model.model.name}: has BatchNorm, whose statistics several workers share on GPUs alone; "
            "set resources.workers to 1, or leave it out as a student"
        )


def place() -> tuple[int, int]:
    """This worker's number, and how many there are; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def data_parallel(learner: Learner) -> nn.Module:
    """What to call in place of the learner, so that its gradients are averaged over the workers."""
    if place()[1] == 1:
        return learner
    for model in filter(None, (learner.student, learner.teacher)):
        if learner.device.type == "cpu":
            check_batch_norm(model)
        # timm's own, which knows its layers that join BatchNorm and activation.
        model.network = timm.layers.convert_sync_batchnorm(model.network)
    # Buffers are the same everywhere already. In some of timm's models not every parameter is used.
    return DistributedDataParallel(learner, forward_sync_buffers=False, static_graph=True)


def parts(
    loader: Shown, order: NDArray[np.integer], batch_size: int, device: torch.device, epoch: int
) -> Iterator[Batch]:
    """This worker's part of every batch of an epoch, of which there are `steps`.

    A last batch of a single sample joins the one before it: behind pooling, BatchNorm knows no variance of
    one. One with fewer samples than there are workers is computed by each of them, whole: the mean of their
    gradients, and BatchNorm's statistics, are then still those of the batch.

    Args:
        loader: of the samples as they are shown.
        order: int [n], indices of samples; at least as many as workers.
        batch_size: samples of a batch, over all workers; at least as many as workers.
        device: where the tensors go.
        epoch: which one.
    """
    rank, workers = place()
    last = _last(len(order), batch_size)
    full, rest = np.split(order, [len(order) - last])
    mine = full.reshape(-1, batch_size)[:, rank::workers]
    whole = last < workers
    own = rest if whole else rest[rank::workers]
    # Asked for with the others where it is no exception: the loader works ahead.
    ahead = own[: 0 if whole or last > batch_size else None]
    first = np.append(mine, ahead)
    for number, part in enumerate(loader.epoch(first, mine.shape[1], device, epoch) if len(first) else ()):
        count, of = len(part.indices), batch_size if number < len(mine) else last
        yield part._replace(weight=count * workers / of, counted=count)
    if len(own) > len(ahead):
        for part in loader.epoch(own, len(own), device, epoch):
            if whole:
                yield part._replace(counted=last if rank == 0 else 0)
            else:
                yield part._replace(weight=len(own) * workers / last, counted=len(own))


def _last(samples: int, batch_size: int) -> int:
    """How many samples the last batch has, if it is not one of `batch_size`, else 0."""
    rest = samples % batch_size
    return batch_size + 1 if rest == 1 and samples > batch_size else rest


def steps(samples: int, batch_size: int) -> int:
    """How many batches an epoch has."""
    last = _last(samples, batch_size)
    return (samples - last) // batch_size + (last > 0)


def total(amount: Tensor) -> Tensor:
    """The sum over all workers."""
    if place()[1] > 1:
        dist.all_reduce(amount)
    return amount


def gathered(mine: T) -> list[T]:
    """What every worker has, in their order."""
    everyones = [mine] * place()[1]
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
    for raised in gathered(error):
        if raised is not None:
            raise raised
    return result


def by_the_first(action: Callable[[], T]) -> T | None:
    """What the first worker gets by doing something that the others wait for; None on the others."""
    return _together(action if place()[0] == 0 else None)


def from_the_first(action: Callable[[], T]) -> T:
    """What the first worker gets by doing something, on all of them."""
    found = [by_the_first(action)]
    if place()[1] > 1:
        dist.broadcast_object_list(found, src=0)
    return found[0]


def first_then_others(action: Callable[[], T]) -> T:
    """What each worker gets by doing something, the first one before the others."""
    if place()[1] == 1:
        return action()
    first = by_the_first(action)
    others = _together(action if place()[0] > 0 else None)
    return others if first is None else first
