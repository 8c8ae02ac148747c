"""Every path that a GPU takes, against the same on the CPU: `make test-gpu`, on a machine with one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import torch.distributed as dist

from study import derivation, evaluate, learner, spec, transfer
from study.evaluate import Predictions
from study.images.batches import Crop, Resident
from study.models.timm_import import timm
from study.store.checkpoints import Checkpoint
from study.transforms import parse
from study.views import View
from study.workspace import Workspace, keep_bytes
from tests.study.own import Projection
from tests.study.trials import (
    Interrupted,
    blank,
    budget,
    changed,
    dropping,
    elsewhere,
    method,
    trial_of,
    until,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda")
METHODS = ("xe", "kl", "xe_kl_mcl", "kl_dp", "kl_dp_unsupervised")
MOVED = ("flip", {"shift": 2}, "cutmix")
ALL = ("flip", {"shift": 2}, "resized_crop", "color_jitter", "grayscale")


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


@pytest.fixture(scope="module", autouse=True)
def exact():
    """Convolutions and products in float32 proper, so that what is left is the order of sums."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


@pytest.fixture(scope="module")
def here(study, workspace, tmp_path_factory) -> Workspace:
    """The shared workspace in float32 by name, as `gpu` has it, with a zoo of its own."""
    folder = tmp_path_factory.mktemp("here")
    place = elsewhere(workspace, folder / "outputs", folder / "zoo", precision="float32")
    for model in study.zoo.values():
        derivation.make(model, place)
    return place


@pytest.fixture(scope="module")
def gpu(here, tmp_path_factory) -> Workspace:
    """The same on the GPU, with outputs of its own."""
    return elsewhere(here, tmp_path_factory.mktemp("gpu"), device="cuda", precision="float32")


def same_share(first: np.ndarray, second: np.ndarray) -> float:
    return float((np.asarray(first) == np.asarray(second)).mean())


def assert_alike(got: transfer.Outcome, expected: transfer.Outcome, loss: float = 2e-3) -> None:
    """Equal up to what the order of sums makes of two epochs."""
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=loss)
    for name in got.predictions:
        if not name.endswith("confidence"):
            assert same_share(got.predictions[name], expected.predictions[name]) > 0.98, name


# --- pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ALL, "mixup", "cutmix"])
def test_views_are_the_same_pixels_on_either_device(workspace, name):
    """Bit for bit where pixels are moved; where they are computed, a grey level of rounding."""
    samples = workspace.splits["transfer"]
    view = View(Crop(), (parse(name),), seed=3)
    shown = workspace.shown(view, "transfer")
    for epoch in range(2):
        here = list(shown.epoch(samples, 33, torch.device("cpu"), epoch))
        there = list(shown.epoch(samples, 33, GPU, epoch))
        for cpu, cuda in zip(here, there, strict=True):
            assert cuda.pixels.device.type == "cuda"
            assert torch.equal(cuda.indices.cpu(), cpu.indices)
            torch.testing.assert_close(cuda.targets.cpu(), cpu.targets, rtol=0, atol=1e-6)
            off = (cuda.pixels.cpu().int() - cpu.pixels.int()).abs()
            assert off.max() == 0 if name in MOVED else (off > 1).float().mean() < 1e-4


def test_kept_images_are_those_of_the_file(workspace):
    samples = workspace.splits["transfer"]
    batches = workspace.batches(Crop())
    kept = Resident(batches, samples, GPU)
    order = np.random.default_rng(0).permutation(samples)
    for there, here in zip(kept.epoch(order, 33, GPU), batches.epoch(order, 33), strict=True):
        for one, other in zip(there, here, strict=True):
            assert one.device.type == "cuda"
            assert torch.equal(one.cpu(), other)


def test_images_decoded_for_the_gpu_are_pinned_and_arrive_whole(workspace):
    order = np.random.default_rng(1).permutation(workspace.splits["transfer"])
    batches = workspace.batches(Crop())
    for there, here in zip(batches.epoch(order, 16, GPU), batches.epoch(order, 16), strict=True):
        for one, other in zip(there, here, strict=True):
            assert torch.equal(one.cpu(), other)


# --- frozen models ------------------------------------------------------------------------------


def test_outputs_and_features_are_those_of_the_cpu(study, here, gpu):
    for model in study.zoo.values():
        for crop in (Crop(), Crop(0.8)):
            answers = [
                place.transfer_outputs(place.frozen(model), View(crop, (parse("flip"),)), True, variant=1)
                for place in (here, gpu)
            ]
            for cpu, cuda in zip(*answers, strict=True):
                assert cuda.device.type == "cuda"  # kept there
                torch.testing.assert_close(cuda.cpu().float(), cpu.float(), rtol=5e-3, atol=5e-3)
        said: list[Predictions] = [place.evaluation(place.frozen(model)) for place in (here, gpu)]
        assert same_share(said[0].label, said[1].label) > 0.99
        np.testing.assert_allclose(said[0].confidence, said[1].confidence, atol=5e-3)


def test_outputs_too_large_for_the_gpu_stay_on_the_host(study, here, gpu, tmp_path):
    small = elsewhere(here, tmp_path, device="cuda", precision="float32", keep=4000)
    trial = trial_of(study, "kl_dp")
    logits, _ = small.transfer_outputs(small.frozen(trial.teachers[0]), View(Crop()), False)
    assert logits.device.type == "cpu"
    assert_alike(transfer.run(trial, small), transfer.run(trial, gpu))


def test_a_share_of_the_gpu_is_kept():
    total = torch.cuda.get_device_properties(0).total_memory
    resources = spec.Resources(cpus=1, gpus=0.25)
    assert keep_bytes(resources, GPU) == int(0.4 * total * 0.25)


def test_where_memory_ends_batches_are_halved(study, here, gpu, monkeypatch):
    monkeypatch.setattr(evaluate, "_fitted", {})
    model = gpu.load(study.zoo["resnet"])
    forward, sizes = model.network.forward, []

    def limited(x):
        sizes.append(len(x))
        if len(x) > 30:
            torch.empty(1 << 60, device="cuda")  # more than there is
        return forward(x)

    monkeypatch.setattr(model.network, "forward", limited)
    said = gpu.predict(model)
    monkeypatch.undo()
    assert max(sizes) > 30 >= sizes[-1]
    assert same_share(said.label, here.predict(here.load(study.zoo["resnet"])).label) > 0.99


# --- transfers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["mixer", "resnet"])
@pytest.mark.parametrize("name", METHODS)
def test_a_trial_is_that_of_the_cpu(study, here, gpu, name, student):
    trial = trial_of(study, name, student)
    assert_alike(transfer.run(trial, gpu), transfer.run(trial, here))


def test_views_and_mixed_images(study, here, gpu):
    for listed in (["flip"], list(ALL), ["flip", "mixup"]):
        trial = budget(trial_of(study, "kl"), transforms=listed)
        assert_alike(transfer.run(trial, gpu), transfer.run(trial, here), loss=5e-3)


def test_kept_and_live_are_the_same(study, here, gpu, tmp_path):
    live = elsewhere(here, tmp_path, device="cuda", precision="float32", cached=False)
    trial = budget(trial_of(study, "kl_dp"), transforms=["flip"])
    assert_alike(transfer.run(trial, live), transfer.run(trial, gpu))


def test_bfloat16_is_the_default_and_near(study, workspace, tmp_path):
    place = elsewhere(workspace, tmp_path, device="cuda")
    assert place.precision == "bfloat16"
    trial = trial_of(study, "kl_dp", "resnet")
    got, expected = transfer.run(trial, place), transfer.run(trial, workspace)
    assert got.row["device"] == torch.cuda.get_device_name()
    assert got.row["student_accuracy_after"] == pytest.approx(
        expected.row["student_accuracy_after"], abs=0.05
    )
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=0.05)


@pytest.mark.parametrize("name", ["kl_dp", "xe_kl_mcl"])
def test_an_interrupted_trial_goes_on(study, gpu, tmp_path, name):
    """Dropout included: the GPU's random numbers are taken up with the rest."""
    trial = budget(dropping(trial_of(study, name)), epochs=3)
    undisturbed = transfer.run(trial, gpu)
    checkpoint = Checkpoint(tmp_path / "trial.pt", "trial", every=0)
    with pytest.raises(Interrupted):
        transfer.run(trial, gpu, until(2), checkpoint)
    went_on = transfer.run(trial, gpu, checkpoint=checkpoint)
    np.testing.assert_allclose(went_on.history["loss"], undisturbed.history["loss"], rtol=1e-4)
    assert same_share(went_on.predictions["student_after"], undisturbed.predictions["student_after"]) > 0.99


def test_a_trial_leaves_the_gpus_random_numbers_as_they_were(study, gpu):
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    transfer.run(trial_of(study, "kl"), gpu)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_compiled(study, here, gpu, tmp_path):
    compiled = elsewhere(here, tmp_path, device="cuda", precision="float32", compiled=True)
    trial = trial_of(study, "kl_dp")
    assert_alike(transfer.run(trial, compiled), transfer.run(trial, gpu))


def test_features_and_an_objective_with_parameters(study, here, gpu):
    trial = method(trial_of(study, "kl"), method=f"{Projection.__module__}.Projection", lr=1e-2)
    assert_alike(transfer.run(trial, gpu), transfer.run(trial, here))


@pytest.mark.parametrize("combine", ["sequential", "parallel", "soup"])
def test_several_teachers(study, here, gpu, tmp_path, combine):
    """Each device makes its own students of the stages before."""
    teachers = (study.zoo["resnet"], blank(study.zoo["resnet"], 4))
    trial = changed(trial_of(study, "kl_dp"), teachers=teachers, combine=combine)
    outcomes = []
    for device in ("cuda", "cpu"):
        zoo = tmp_path / device
        shutil.copytree(here.folders.zoo, zoo)
        place = elsewhere(gpu, tmp_path / f"outputs-{device}", zoo, device=device, precision="float32")
        for model in transfer.begins_with(transfer.in_order(trial, place)):
            derivation.make(model, place)
        outcomes.append(transfer.run(trial, place))
    assert_alike(*outcomes)


def test_slow_weights_are_averaged_on_the_gpu(study, gpu):
    student = gpu.student(study.zoo["resnet"])
    slow = learner.slow_weights(student, 0.9)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    slow.update_parameters(student)
    before = gpu.frozen(study.zoo["resnet"])
    for was, now in zip(before.parameters(), slow.module.parameters(), strict=True):
        assert now.device.type == "cuda"
        torch.testing.assert_close(now, was + 0.1, rtol=1e-5, atol=1e-5)


# --- the zoo ------------------------------------------------------------------------------------


def test_a_model_trained_here_is_kept_and_loads_anywhere(study, workspace, here, tmp_path):
    """In the study's precision, and with the accuracy that its facts say."""
    model = study.zoo["resnet"]
    facts = {}
    for precision in ("float32", "bfloat16"):
        place = elsewhere(workspace, tmp_path, tmp_path / precision, device="cuda", precision=precision)
        facts[precision] = derivation.make(model, place)
        folder = place.folder_of(model)
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
        assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())
        accuracy = place.accuracy(place.load(model), "evaluation")
        assert facts[precision]["accuracy"] == pytest.approx(accuracy, abs=0.02)
    expected = derivation.make(model, here)
    losses = [[row["loss"] for row in one["history"]] for one in (facts["float32"], expected)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


def test_one_worker_with_nccl_is_one_worker(study, gpu, tmp_path):
    trial = trial_of(study, "kl_dp", "resnet")
    alone = transfer.run(trial, gpu)
    dist.init_process_group("nccl", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        grouped = transfer.run(trial, gpu)
    finally:
        dist.destroy_process_group()
    assert_alike(grouped, alone)


def test_nothing_of_a_trial_stays_on_the_gpu(study, gpu):
    trial = trial_of(study, "kl_dp", "resnet")
    transfer.run(trial, gpu)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for seed in range(3):
        transfer.run(changed(trial, seed=seed), gpu)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 1 << 16
