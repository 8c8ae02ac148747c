"""Several workers on one trial: what each takes of a batch, and what they tell each other.

In a process group of torch's, whoever made it (Ray Train, torchrun, a test), each worker takes an equal
part of every batch, so that losses (means over samples), gradients and BatchNorm statistics are those of
the whole batch. Outside a process group everything here is as for the only worker there is.

Left out on purpose: models too large for one device, and BatchNorm students on several CPU workers
(torch synchronises their statistics on GPUs alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from study import spec
from study.errors import StudyError
from study.images.batches import Batches, Resident
from study.models import zoo
from study.models.timm_import import timm

T = TypeVar("T")


def check(study: spec.Study, classes: int) -> None:
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
    check_batch(resources.workers, study.budget.batch_size)
    if 0 < resources.gpus < 1:
        raise StudyError(
            f"resources.gpus: {resources.workers} workers cannot share a GPU; set gpus to 1 or workers to 1"
        )
    if not resources.gpus:
        for name in dict.fromkeys(student for student, _ in study.ordered_pairs()):
            # With random weights: what matters here needs none from anywhere.
            chance = {"checkpoint": None, "checkpoint_sha256": None, "recipe": None, "untrained": 0}
            check_batch_norm(zoo.build(study.zoo[name].model_copy(update=chance), classes), name)


def check_batch(workers: int, samples: int) -> None:
    if workers > samples:
        raise StudyError(
            f"resources.workers: {workers} workers cannot share a batch of {samples} samples; lower it to "
            f"{samples} at most"
        )


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def check_batch_norm(student: nn.Module, name: str) -> None:
    if has_batch_norm(student):
        raise StudyError(
            f"zoo.{name}: has BatchNorm, whose statistics several workers can share on GPUs alone; set "
            "resources.workers to 1, or leave it out as a student"
        )


def place() -> tuple[int, int]:
    """This worker's number, and how many there are; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def data_parallel(student: zoo.Classifier, name: str, device: torch.device) -> nn.Module:
    """What to call in place of the student, so that its gradients are averaged over the workers."""
    if place()[1] == 1:
        return student
    if device.type == "cpu":
        check_batch_norm(student, name)
    # timm's own, which knows its layers that join BatchNorm and activation.
    student.network = timm.layers.convert_sync_batchnorm(student.network)
    # Buffers are the same everywhere already. In some of timm's models not every parameter is used.
    return DistributedDataParallel(student, forward_sync_buffers=False, static_graph=True)


def parts(
    batches: Batches | Resident, order: NDArray[np.integer], batch_size: int, device: torch.device
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
    rank, workers = place()
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


def first_then_others(action: Callable[[], T]) -> T:
    """What each worker gets by doing something, the first one before the others."""
    if place()[1] == 1:
        return action()
    first = by_the_first(action)
    others = _together(action if place()[0] > 0 else None)
    return others if first is None else first
