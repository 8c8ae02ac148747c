"""Several workers: two real processes with gloo give what one gives, and share every failure."""

from __future__ import annotations

import pickle
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from study import derivation, distributed, spec, transfer
from study.errors import DivergedError, StudyError
from study.images.batches import Crop
from study.models import weights
from study.store.checkpoints import Checkpoint
from study.views import Shown, View
from study.workspace import Workspace
from tests.study.trials import (
    ArrayBatches,
    Interrupted,
    assert_close,
    assert_same,
    blank,
    budget,
    changed,
    dropping,
    elsewhere,
    method,
    pixels_of,
    trial_of,
    until,
)

WORKERS = 2
METHODS = ["kl", "kl_dp", "xe_kl_mcl"]
PROJECTION = {"method": "tests.study.own.Projection", "lr": 1e-2}
# Of 100 samples: a last batch of 7, shared unevenly, and one of a single sample, which joins another.
BATCH_SIZES = [31, 33]


def trained(study: spec.Study) -> spec.Model:
    """A model whose training two workers can share."""
    phases = [
        {"epochs": 2, "lr": 5e-2, "batch_size": 31, "optimizer": "sgd", "transforms": ["flip"]},
        {"epochs": 1, "lr": 1e-2, "batch_size": 33, "train": "head"},
    ]
    source = spec.Trained.model_validate({"images": 100, "phases": phases, "seed": 3})
    return study.zoo["mixer"].model_copy(update={"weights": source, "name": "trained"})


def sequence(study: spec.Study) -> spec.Trial:
    teachers = (study.zoo["resnet"], blank(study.zoo["mixer"], 5))
    return changed(trial_of(study, "kl_dp"), teachers=teachers, combine="sequential")


def both(study: spec.Study) -> spec.Trial:
    """A teacher that two workers can train, too, with a large rate: it shall not stay where it was."""
    trial = method(trial_of(study, "kl"), method="bi_kd", lr=5e-2)
    trial = changed(trial, teachers=(blank(study.zoo["mixer"], 5),))
    return budget(trial, batch_size=31, evaluate="epoch")


def fitted(study: spec.Study, place: Workspace) -> tuple[spec.Trial, Workspace]:
    """A trial by an objective that is fitted on images kept aside, and where it runs."""
    splits = {**place.data.splits.model_dump(), "tune": 40}
    data = spec.Data.model_validate(place.data.model_dump() | {"splits": splits})
    other = Workspace(data, place.folders, "cpu", threads=1)
    other.batches = place.batches
    student, teacher = (blank(study.zoo["mixer"], seed) for seed in (0, 1))
    trial = budget(method(trial_of(study, "kl"), method="xe_kl_op", lr=1e-2), batch_size=31)
    return changed(trial, data=data, student=student, teachers=(teacher,)), other


def twice(study: spec.Study) -> spec.Trial:
    """A trial with a second input, long enough for three windows of its teacher's probabilities."""
    content = {"method": "xe_kl_augmented", "lr": 1e-2, "augmentation": {"transforms": ["flip", "cutmix"]}}
    return budget(method(trial_of(study, "kl"), **content), batch_size=31, epochs=4, transforms=["flip"])


# --- what the two processes do ------------------------------------------------------------------


def agreeing(study, place, folder):
    """Each method, with batches that cannot be shared evenly."""
    for name in METHODS:
        for batch_size in BATCH_SIZES:
            trial = budget(trial_of(study, name), batch_size=batch_size)
            yield (name, batch_size), lambda trial=trial: transfer.run(trial, place)


def flipping(study, place, folder):
    """Random views, of which frozen models' outputs are kept, and computed live."""
    trial = budget(trial_of(study, "kl_dp"), batch_size=31, transforms=["flip"])
    yield "flip", lambda: transfer.run(trial, place)
    live = elsewhere(place, cached=False)
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


def projecting(study, place, folder):
    """An objective with parameters of its own, and features."""
    trial = budget(method(trial_of(study, "kl"), **PROJECTION), batch_size=31)
    yield "projection", lambda: transfer.run(trial, place)


def both_learning(study, place, folder):
    """The teacher, too."""
    yield "both learn", lambda: transfer.run(both(study), place)


def fitting(study, place, folder):
    """An objective that is fitted before it begins."""
    yield "fitted", lambda: transfer.run(*fitted(study, place))


def warming_up(study, place, folder):
    """The head alone at first, then everything."""
    trial = budget(trial_of(study, "kl"), epochs=2, head_first=1, batch_size=31)
    yield "head first", lambda: transfer.run(trial, place)


def mixing(study, place, folder):
    """Partners, and shares of classes as targets."""
    trial = budget(trial_of(study, "kl_dp"), batch_size=33, transforms=["mixup"])
    yield "mixup", lambda: transfer.run(trial, place)


def augmenting(study, place, folder):
    """A second input, and what is collected of it."""
    yield "twice", lambda: transfer.run(twice(study), place)


def training_the_zoo(study, place, folder):
    """All of it, and then the head; saved by the first."""
    yield "trained", lambda: derivation.make(trained(study), place)


def a_sequence(study, place, folder):
    """Whose first stage all of them make."""
    trial = sequence(study)

    def run():
        for model in transfer.begins_with(trial):
            derivation.make(model, place)
        return transfer.run(trial, place)

    yield "sequence", run


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
    yield "diverged", lambda: transfer.run(changed(kl, method=steep), place)
    yield "BatchNorm", lambda: transfer.run(trial_of(study, "kl", "resnet"), place)
    yield "small batch", lambda: transfer.run(budget(kl, batch_size=1), place)
    for rank in range(WORKERS):

        def lost(rank=rank):
            model = kl.student.model_copy(update={"weights": spec.File(path="lost.pt")})
            return transfer.run(changed(kl, student=model) if dist.get_rank() == rank else kl, place)

        yield f"lost by {rank}", lost

    class Full(Checkpoint):
        def save(self, state):
            raise StudyError("no room")

    yield "full", lambda: transfer.run(kl, place, checkpoint=Full(folder / "full.pt", kl.id))


SCENARIOS = [
    agreeing,
    flipping,
    with_an_unused_parameter,
    projecting,
    both_learning,
    fitting,
    warming_up,
    mixing,
    augmenting,
    training_the_zoo,
    a_sequence,
    interrupted,
    failing,
]


def worker(rank: int, folder: Path, content: dict) -> None:
    """Do all scenarios as one of the workers, and leave what came of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS)
    study = spec.Study.model_validate(content)
    folders = study.folders.model_copy(update={"outputs": folder / "outputs"})
    opened = Workspace(study.data, folders, "cpu", threads=1)
    for model in study.zoo.values():  # what the workers make lies in a zoo of their own
        target = folder / "zoo" / opened.folder_of(model).name
        if rank == 0:
            shutil.copytree(opened.folder_of(model), target)
    place = elsewhere(opened, zoo=folder / "zoo")
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
    torch.save(pixels_of(workspace), folder / "pixels.pt")
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
    found = [pickle.loads((folder / f"outcomes{n}.pickle").read_bytes()) for n in range(WORKERS)]
    found[0]["zoo"] = folder / "zoo"
    return found


# --- what has to come of it ---------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_two_workers_give_what_one_gives(study, workspace, outcomes, method, batch_size):
    single = transfer.run(budget(trial_of(study, method), batch_size=batch_size), workspace)
    assert_close(outcomes[0][method, batch_size], single)
    assert outcomes[0][method, batch_size].row["slow_decay"] == single.row["slow_decay"]


@pytest.mark.faults
def test_views_are_the_same_on_any_worker(study, workspace, outcomes):
    single = transfer.run(budget(trial_of(study, "kl_dp"), batch_size=31, transforms=["flip"]), workspace)
    assert_close(outcomes[0]["flip"], single)
    np.testing.assert_allclose(outcomes[0]["flip live"].history["loss"], single.history["loss"], rtol=1e-4)


@pytest.mark.faults
def test_a_parameter_that_is_not_used_stops_nothing(outcomes):
    assert_close(outcomes[0]["unused"], outcomes[0]["kl", 31])


@pytest.mark.faults
def test_what_an_objective_trains_is_trained_by_all(study, workspace, outcomes):
    single = transfer.run(budget(method(trial_of(study, "kl"), **PROJECTION), batch_size=31), workspace)
    assert_close(outcomes[0]["projection"], single)
    for ours, theirs in zip(
        outcomes[0]["projection"].history["measures"], single.history["measures"], strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert ours["first_class"] == theirs["first_class"]


@pytest.mark.faults
def test_a_second_input_is_shared_and_its_windows_are_those_of_all(study, workspace, outcomes):
    single = transfer.run(twice(study), workspace)
    assert_close(outcomes[0]["twice"], single)
    found = {name: value for name, value in single.row.items() if name.startswith("teacher_stddev")}
    assert found["teacher_stddev_windows"] == 3
    for name, value in found.items():
        assert outcomes[0]["twice"].row[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.faults
def test_the_teacher_that_learns_is_trained_by_all(study, workspace, outcomes):
    single = transfer.run(both(study), workspace)
    assert_close(outcomes[0]["both learn"], single)
    taught = outcomes[0]["both learn"].history["teacher_accuracy"]
    assert taught == pytest.approx(single.history["teacher_accuracy"], abs=0.01)
    assert taught[-1] != single.row["teacher_accuracy"]


@pytest.mark.faults
def test_what_an_objective_is_fitted_to_is_the_same_for_all(study, workspace, outcomes):
    single = transfer.run(*fitted(study, workspace))
    assert_close(outcomes[0]["fitted"], single)
    for ours, theirs in zip(
        outcomes[0]["fitted"].history["measures"], single.history["measures"], strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours.keys() == {"pool_frozen", "pool_teacher"}


@pytest.mark.faults
def test_the_head_alone_and_then_everything_is_trained_by_all(study, workspace, outcomes):
    single = transfer.run(budget(trial_of(study, "kl"), epochs=2, head_first=1, batch_size=31), workspace)
    assert_close(outcomes[0]["head first"], single)


@pytest.mark.faults
def test_mixed_images_are_the_same_on_any_worker(study, workspace, outcomes):
    trial = budget(trial_of(study, "kl_dp"), batch_size=33, transforms=["mixup"])
    assert_close(outcomes[0]["mixup"], transfer.run(trial, workspace))


@pytest.mark.faults
def test_two_workers_train_the_zoo_as_one_does(study, workspace, outcomes, tmp_path):
    place = elsewhere(workspace, zoo=tmp_path)
    single = derivation.make(trained(study), place)
    for mine in outcomes:
        assert mine["trained"] == outcomes[0]["trained"]
        for ours, theirs in zip(mine["trained"]["history"], single["history"], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert (ours["epoch"], ours["lr"]) == (theirs["epoch"], theirs["lr"])
    other = outcomes[0]["zoo"] / place.folder_of(trained(study)).name
    path = other.parent
    made = weights.load(trained(study), study.data, 10, study.folders.model_copy(update={"zoo": path}))
    for ours, theirs in zip(made.parameters(), place.load(trained(study)).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.faults
def test_a_sequence_of_two_workers_gives_what_one_gives(study, workspace, outcomes, tmp_path):
    trial, place = sequence(study), elsewhere(workspace, zoo=tmp_path)
    shutil.copytree(workspace.folders.zoo, tmp_path, dirs_exist_ok=True)
    for model in transfer.begins_with(trial):
        derivation.make(model, place)
    assert_close(outcomes[0]["sequence"], transfer.run(trial, place))


@pytest.mark.faults
def test_an_interrupted_trial_of_two_workers_gives_the_same_record(outcomes):
    assert_same(outcomes[0]["in pieces"], outcomes[0]["undisturbed"])


@pytest.mark.faults
def test_the_record_comes_from_the_first_alone(outcomes):
    told = {name for name, outcome in outcomes[0].items() if isinstance(outcome, Exception)}
    assert {name for name, outcome in outcomes[1].items() if outcome is not None} == told | {"trained"}


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
    """The loader's interface, giving indices and no images."""

    def epoch(self, order, batch_size, device):
        assert len(order) and batch_size > 0
        for start in range(0, len(order), batch_size):
            yield None, None, torch.from_numpy(order[start : start + batch_size])


@given(count=st.integers(1, 9), batch_size=st.integers(1, 40), samples=st.integers(1, 150))
def test_the_parts_make_the_batch(count, batch_size, samples):
    """Their weighted means average to the batch's mean, and each sample counts once."""
    if count > min(batch_size, samples):
        return
    order = np.random.default_rng(samples).permutation(samples)
    loader = Shown(Listed(), View(Crop()), np.arange(samples), 10)
    with pytest.MonkeyPatch.context() as patch:
        parts = []
        for rank in range(count):
            patch.setattr(distributed, "place", lambda rank=rank: (rank, count))
            parts.append(list(distributed.parts(loader, order, batch_size, "cpu", 0)))
    batches = [order[start : start + batch_size] for start in range(0, samples, batch_size)]
    if len(batches[-1]) == 1 < batch_size and len(batches) > 1:  # no batch of one sample
        batches[-2:] = [np.concatenate(batches[-2:])]
    assert distributed.steps(samples, batch_size) == len(batches)
    assert {len(mine) for mine in parts} == {len(batches)}  # else one would wait for ever
    for batch, shares in zip(batches, zip(*parts, strict=True), strict=True):
        means = [share.weight * float(share.indices.double().mean()) for share in shares]
        assert np.mean(means) == pytest.approx(batch.mean())
        counted = np.concatenate([share.indices[: share.counted] for share in shares])
        assert sorted(counted) == sorted(batch)
        assert max(len(share.indices) for share in shares) <= max(-(-(batch_size + 1) // count), count - 1)


def resources(study: spec.Study, **changes) -> spec.Study:
    return study.model_copy(update={"resources": study.resources.model_copy(update=changes)})


def test_workers_that_cannot_share_a_trial_are_refused_beforehand(study):
    distributed.check(resources(study, workers=1))
    with pytest.raises(StudyError, match=r"zoo\.resnet: has BatchNorm.*resources\.workers to 1"):
        distributed.check(resources(study, workers=2))
    distributed.check(resources(study, workers=2, gpus=1))
    with pytest.raises(StudyError, match=r"resources\.gpus: 2 workers cannot share a GPU"):
        distributed.check(resources(study, workers=2, gpus=0.5))
    with pytest.raises(StudyError, match=r"33 workers cannot share a batch of 32"):
        distributed.check(resources(study, workers=33, gpus=1))
    teaching = resources(study.model_copy(update={"pairs": [("mixer", "resnet")]}), workers=2)
    distributed.check(teaching)  # a teacher may have BatchNorm


def test_what_the_workers_have_to_make_is_checked_like_trials(study):
    teaching = resources(study.model_copy(update={"pairs": [("mixer", "resnet")]}), workers=2)
    (trial,) = (trial for trial in teaching.trials() if trial.name == "kl")
    back = trial.model_copy(update={"student": study.zoo["resnet"], "teachers": (study.zoo["mixer"],)})
    few = back.budget.model_copy(update={"batch_size": 1})
    for made in (study.zoo["resnet"], back.result):
        with pytest.raises(StudyError, match=r"zoo\.resnet.*: has BatchNorm"):
            distributed.check(teaching, [study.zoo["mixer"], made])
    distributed.check(teaching, [study.zoo["mixer"], trial.result])
    with pytest.raises(StudyError, match=r"2 workers cannot share a batch of 1 samples"):
        distributed.check(teaching, [trial.model_copy(update={"budget": few}).result])
