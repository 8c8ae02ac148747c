"""Several workers: two real processes with gloo give what one gives, and share every failure."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from study import distributed, spec, transfer
from study.errors import DivergedError, StudyError
from study.images.batches import Crop
from study.store.checkpoints import Checkpoint
from study.workspace import Workspace
from tests.study.test_transfer import (
    ArrayBatches,
    Interrupted,
    assert_same,
    budget,
    dropping,
    elsewhere,
    trial_of,
    until,
)

WORKERS = 2
METHODS = ["kl", "kl_dp", "xe_kl_mcl"]
# Of 100 samples: a last batch of 7, shared unevenly, and one of a single sample, fewer than the workers.
BATCH_SIZES = [31, 33]


# --- what the two processes do ------------------------------------------------------------------


def agreeing(study, place, folder):
    """Each method, with batches that cannot be shared evenly."""
    for method in METHODS:
        for batch_size in BATCH_SIZES:
            trial = budget(trial_of(study, method), batch_size=batch_size)
            yield (method, batch_size), lambda trial=trial: transfer.run(trial, place)


def flipping(study, place, folder):
    """Random views, of which frozen models' outputs are kept, and computed live."""
    trial = budget(trial_of(study, "kl_dp"), batch_size=31, flip=True)
    yield "flip", lambda: transfer.run(trial, place)
    live = Workspace(place.data, place.folders, "cpu", threads=1, cached=False)
    live.batches = place.batches
    yield "flip live", lambda: transfer.run(trial, live)


def with_an_unused_parameter(study, place, folder):
    """As some of timm's models have them."""

    def student(model):
        classifier = place.student(model)
        classifier.unused = torch.nn.Parameter(torch.ones(3))
        return classifier

    same = {name: getattr(place, name) for name in dir(place) if name[0] != "_"}
    other = SimpleNamespace(**same | {"student": student})
    yield "unused", lambda: transfer.run(budget(trial_of(study, "kl"), batch_size=31), other)


def interrupted(study, place, folder):
    """A student with dropout, interrupted after each epoch, and not."""
    trial = budget(dropping(trial_of(study, "xe_kl_mcl")), epochs=2, batch_size=31)
    yield "undisturbed", lambda: transfer.run(trial, place)

    def in_pieces():
        # Only the first worker's file counts.
        own = Checkpoint(folder / f"{dist.get_rank()}.pt", trial.id)
        for _ in range(trial.budget.epochs):
            with pytest.raises(Interrupted):
                transfer.run(trial, place, until(1), own)
        assert own.location.exists() == (dist.get_rank() == 0)
        return transfer.run(trial, place, checkpoint=own)

    yield "in pieces", in_pieces


def failing(study, place, folder):
    """What one of them, or each, meets with."""
    kl = trial_of(study, "kl")
    steep = kl.method.model_copy(update={"lr": 1e30})
    yield "diverged", lambda: transfer.run(kl.model_copy(update={"method": steep}), place)
    yield "BatchNorm", lambda: transfer.run(trial_of(study, "kl", "resnet"), place)
    yield "small batch", lambda: transfer.run(budget(kl, batch_size=1), place)
    for rank in range(WORKERS):

        def lost(rank=rank):
            model = kl.student.model_copy(update={"checkpoint": "lost.pt", "recipe": None})
            return transfer.run(
                kl.model_copy(update={"student": model}) if dist.get_rank() == rank else kl, place
            )

        yield f"lost by {rank}", lost

    class Full(Checkpoint):
        def save(self, state):
            raise StudyError("no room")

    yield "full", lambda: transfer.run(kl, place, checkpoint=Full(folder / "full.pt", kl.id))


SCENARIOS = [agreeing, flipping, with_an_unused_parameter, interrupted, failing]


def worker(rank: int, folder: Path, content: dict) -> None:
    """Do all scenarios as one of the workers, and leave what came of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS)
    study = spec.Study.model_validate(content)
    place = Workspace(study.data, elsewhere(study, folder / "outputs"), "cpu", threads=1)
    pixels = torch.load(folder / "pixels.pt")
    place.batches = lambda crop: ArrayBatches(pixels, place.images.labels)
    outcomes = {}
    for scenario in SCENARIOS:
        for name, action in scenario(study, place, folder):
            try:
                outcomes[name] = action()
            except (StudyError, DivergedError) as error:
                outcomes[name] = error
    (folder / f"outcomes{rank}.pickle").write_bytes(pickle.dumps(outcomes))


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


@pytest.fixture(scope="module")
def outcomes(base, workspace, tmp_path_factory) -> list[dict]:
    """What each of two workers got, by name."""
    folder = tmp_path_factory.mktemp("workers")
    everything = np.arange(len(workspace.images.labels))
    pixels = torch.cat([p.clone() for p, _, _ in workspace.batches(Crop()).epoch(everything, 64)])
    torch.save(pixels, folder / "pixels.pt")
    context = torch.multiprocessing.start_processes(
        worker, (folder, base), nprocs=WORKERS, join=False, start_method="spawn"
    )
    try:
        end = time.monotonic() + 300
        while not context.join(timeout=1):
            assert time.monotonic() < end, "a worker waits for ever"
    finally:
        for process in context.processes:
            process.kill()
    return [pickle.loads((folder / f"outcomes{n}.pickle").read_bytes()) for n in range(WORKERS)]


# --- what has to come of it ---------------------------------------------------------------------


def assert_close(several: transfer.Record, single: transfer.Record) -> None:
    """The same up to the order of summation."""
    np.testing.assert_allclose(several.history["loss"], single.history["loss"], rtol=1e-5)
    assert several.history["lr"] == single.history["lr"]
    for ours, theirs in zip(several.history["teacher_share"], single.history["teacher_share"], strict=True):
        assert ours == theirs
    for name, values in single.predictions.items():
        if name.endswith("confidence"):
            np.testing.assert_allclose(several.predictions[name], values, atol=1e-5, err_msg=name)
        else:
            assert np.array_equal(several.predictions[name], values), name


@pytest.mark.faults
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_two_workers_give_what_one_gives(study, workspace, outcomes, method, batch_size):
    single = transfer.run(budget(trial_of(study, method), batch_size=batch_size), workspace)
    assert_close(outcomes[0][method, batch_size], single)
    assert outcomes[0][method, batch_size].row["slow_decay"] == single.row["slow_decay"]


@pytest.mark.faults
def test_views_are_the_same_on_any_worker(study, workspace, outcomes):
    single = transfer.run(budget(trial_of(study, "kl_dp"), batch_size=31, flip=True), workspace)
    assert_close(outcomes[0]["flip"], single)
    np.testing.assert_allclose(outcomes[0]["flip live"].history["loss"], single.history["loss"], rtol=1e-4)


@pytest.mark.faults
def test_a_parameter_that_is_not_used_stops_nothing(outcomes):
    assert_close(outcomes[0]["unused"], outcomes[0]["kl", 31])


@pytest.mark.faults
def test_an_interrupted_trial_of_two_workers_gives_the_same_record(outcomes):
    assert_same(outcomes[0]["in pieces"], outcomes[0]["undisturbed"])


@pytest.mark.faults
def test_the_record_comes_from_the_first_alone(outcomes):
    assert {name for name, outcome in outcomes[1].items() if outcome is not None} == {
        name for name, outcome in outcomes[0].items() if isinstance(outcome, Exception)
    }


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("diverged", DivergedError, "the loss is not finite in epoch 0"),
        ("BatchNorm", StudyError, "zoo.resnet: has BatchNorm"),
        ("small batch", StudyError, "resources.workers: 2 workers cannot share a batch of 1 samples"),
        ("lost by 0", StudyError, "lost.pt"),
        ("lost by 1", StudyError, "lost.pt"),
        ("full", StudyError, "no room"),
    ],
)
def test_all_workers_tell_the_same_failure(outcomes, name, kind, words):
    for mine in outcomes:
        assert isinstance(mine[name], kind)
        assert words in str(mine[name])


# --- without processes --------------------------------------------------------------------------


class Listed:
    """The loader's interface, giving indices alone."""

    def epoch(self, order, batch_size, device):
        assert len(order) and batch_size > 0
        for start in range(0, len(order), batch_size):
            yield (order[start : start + batch_size],)


@given(count=st.integers(1, 9), batch_size=st.integers(1, 40), samples=st.integers(1, 150))
def test_the_parts_make_the_batch(count, batch_size, samples):
    """Their weighted means average to the batch's mean, and each sample counts once."""
    if count > min(batch_size, samples):
        return
    order = np.random.default_rng(samples).permutation(samples)
    with pytest.MonkeyPatch.context() as patch:
        parts = []
        for rank in range(count):
            patch.setattr(distributed, "place", lambda rank=rank: (rank, count))
            parts.append(list(distributed.parts(Listed(), order, batch_size, "cpu")))
    batches = [order[start : start + batch_size] for start in range(0, samples, batch_size)]
    assert {len(mine) for mine in parts} == {len(batches)}  # else one would wait for ever
    for batch, shares in zip(batches, zip(*parts, strict=True), strict=True):
        means = [weight * indices.mean() for weight, _, indices in shares]
        assert np.mean(means) == pytest.approx(batch.mean())
        counted = np.concatenate([indices[:counted] for _, counted, indices in shares])
        assert sorted(counted) == sorted(batch)
        assert max(len(indices) for _, _, indices in shares) <= max(-(-batch_size // count), count - 1)


def resources(study: spec.Study, **changes) -> spec.Study:
    return study.model_copy(update={"resources": study.resources.model_copy(update=changes)})


def test_workers_that_cannot_share_a_trial_are_refused_beforehand(study):
    distributed.check(resources(study, workers=1), 10)
    with pytest.raises(StudyError, match=r"zoo\.resnet: has BatchNorm.*resources\.workers to 1"):
        distributed.check(resources(study, workers=2), 10)
    distributed.check(resources(study, workers=2, gpus=1), 10)
    with pytest.raises(StudyError, match=r"resources\.gpus: 2 workers cannot share a GPU"):
        distributed.check(resources(study, workers=2, gpus=0.5), 10)
    with pytest.raises(StudyError, match=r"33 workers cannot share a batch of 32"):
        distributed.check(resources(study, workers=33, gpus=1), 10)
    teaching = study.model_copy(update={"pairs": [("mixer", "resnet")]})
    distributed.check(resources(teaching, workers=2), 10)  # a teacher may have BatchNorm
