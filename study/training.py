"""The one loop: a learner, epoch after epoch, for transfers and for the zoo's own training alike.

It goes on from a kept state, leaves one after each epoch, and gives a row of history an epoch. On several
workers (`study.distributed`) it trains data-parallel, and the result is that of one worker up to the order of
summation; only dropout differs, each worker drawing masks of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study import distributed
from study.errors import DivergedError
from study.learner import Learner
from study.models.zoo import Classifier
from study.store.checkpoints import Checkpoint
from study.views import Augmented, Batch, Shown

Row = dict[str, Any]
# Of an epoch: what is asked of a batch, and gives what frozen models say of it.
Question = Callable[[Batch], dict[str, Any]]


def fit(
    learner: Learner,
    loader: Shown | Augmented,
    samples: NDArray[np.int64],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    first: int = 0,
    frozen: Callable[[int], Question] = lambda epoch: lambda batch: {},
    state: dict[str, Any] | None = None,
    measure: Callable[[Classifier, int], Row] = lambda result, epoch: {},
    after: Callable[[list[Row], dict[str, Any]], None] = lambda rows, state: None,
) -> list[Row]:
    """Train a learner.

    Args:
        learner: what is trained, in place.
        loader: of the samples as they are shown.
        samples: int64 [n], what to train on.
        epochs: how many.
        batch_size: samples a step, over all workers.
        seed: of the order of samples.
        first: number of the first epoch, in orders and views.
        frozen: what frozen models say, an epoch after the other.
        state: what `after` was given after some epoch, to go on from there.
        measure: gives columns of the epoch's row from what was learnt so far.
        after: called after each epoch with the rows so far and the state.

    Returns:
        A row an epoch: epoch, loss (mean over samples), lr (of the last step), seconds, measures (means over
        samples, by name), and what `measure` gave.

    Raises:
        DivergedError: the loss stopped being finite.
    """
    device, rows = learner.device, []
    forward = None
    if state is not None:
        rows = list(state["rows"])
        learner.take_up(state)
        _set_random_states(state["random"], device)
    for epoch in range(first + len(rows), first + epochs):
        started = time.perf_counter()
        if learner.begin_epoch(epoch - first) or forward is None:
            forward = distributed.data_parallel(learner)
        # Sums are taken at the end: each small operation in a step is a hundredth of a small student's.
        losses, counts, measures = [], [], defaultdict(list)
        order = np.random.default_rng((seed, epoch)).permutation(samples)
        ask = frozen(epoch)
        for batch in distributed.parts(loader, order, batch_size, device, epoch):
            said = ask(batch)
            loss, measured = forward(batch.pixels, batch.targets, said)
            learner.step(loss, batch.weight)
            losses.append(loss.detach())
            counts.append(batch.counted)
            for name, values in measured.items():
                measures[name].append(values[: batch.counted].detach())
        learner.end_epoch()
        total = torch.stack(losses).double() @ torch.tensor(counts, device=device).double()
        loss_sum = distributed.total(total)
        if not torch.isfinite(loss_sum):
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower the lr")
        means = {
            name: float(distributed.total(torch.cat(values).double().sum())) / len(samples)
            for name, values in measures.items()
        }
        row = {"epoch": epoch, "loss": float(loss_sum) / len(samples), "lr": learner.lr, "measures": means}
        row["seconds"] = time.perf_counter() - started
        rows.append(row | measure(learner.result, epoch))
        after(rows, {"rows": rows, "random": _random_states(device), **learner.state()})
    return rows


def kept_state(checkpoint: Checkpoint | None, origin: dict[str, Any]) -> dict[str, Any] | None:
    """The state to go on from, the same on every worker; None to begin at the beginning.

    One that was computed from anything else than this `origin` (images, weights) is not gone on from.
    """
    if checkpoint is None:
        return None
    state = distributed.from_the_first(checkpoint.load)
    return state if state and state["origin"] == origin else None


def keep(checkpoint: Checkpoint | None, origin: dict[str, Any], state: dict[str, Any]) -> None:
    """Keep a state, if it is time to, so that an interruption costs minutes and not all of the training."""
    if checkpoint is not None:
        distributed.by_the_first(lambda: checkpoint.save({"origin": origin, **state}))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers begin at a seed, each worker's at its own, and are afterwards as before."""
    with torch.random.fork_rng(cuda_devices(device)):
        torch.manual_seed(seed + distributed.place()[0])
        yield


def cuda_devices(device: torch.device) -> list[int]:
    """The GPU in use, if one is."""
    return [torch.cuda.current_device()] if device.type == "cuda" else []


def _random_states(device: torch.device) -> list[list[Tensor]]:
    """States of torch's random generators, CPU and then CUDA, of every worker."""
    mine = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda_devices(device))]
    return distributed.gathered(mine)


def _set_random_states(states: list[list[Tensor]], device: torch.device) -> None:
    rank, count = distributed.place()
    if len(states) == count:  # else there is no going on with the same dropout
        cpu, *cuda = states[rank]
        torch.set_rng_state(cpu)
        for state, number in zip(cuda, cuda_devices(device), strict=True):
            torch.cuda.set_rng_state(state, number)
