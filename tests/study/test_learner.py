"""A learner: what it trains, in which precision, and that its whole state can be kept and taken up again."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study import learner, objectives, spec
from study.learner import Learner
from tests.study.own import Projection

# isort: split
from timm.optim import create_optimizer_v2

TRAINING = spec.Training(epochs=1, batch_size=8)


@pytest.fixture
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


def plain(student, **options) -> Learner:
    settings = {"training": TRAINING, "lr": 0.1, "steps": 12, "precision": "float32"} | options
    return Learner(student, objectives.xe, objectives.needs(objectives.xe), **settings)


def projecting(student, **options) -> Learner:
    torch.manual_seed(0)
    settings = {"training": TRAINING, "lr": 0.1, "steps": 12, "precision": "float32"} | options
    objective = objectives.make(Projection, {"weight": 0.5}, student_dim=student.dim, teacher_dim=5)
    return Learner(student, objective, objectives.needs(Projection), **settings)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (8, 3, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (8,), generator=generator)
    features = torch.rand((8, 5), generator=generator)
    return pixels, labels, {"teacher_features": features}


def steps(one: Learner, *numbers: int) -> list[float]:
    losses = []
    for number in numbers:
        loss, _ = one(*batch(number))
        one.step(loss)
        losses.append(float(loss.detach()))
    return losses


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in learner.tensors(module).items() if not torch.equal(tensor, before[name])}


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.tensors(module).items()}


def test_a_head_alone_is_trained_and_statistics_stay(study, workspace):
    student = workspace.student(study.zoo["resnet"])
    before, head = copied(student), copied(student.head)
    one = plain(student, head=1)
    one.begin_epoch(0)
    steps(one, 0, 1)
    assert changed(student.head, head) == {"weight", "bias"}
    moved = {name.rpartition(".")[2] for name in changed(student, before)}
    assert moved == {"weight", "bias"}
    assert len(changed(student, before)) == 2
    whole = plain(workspace.student(study.zoo["resnet"]))
    whole.begin_epoch(0)
    before = copied(whole.student)
    steps(whole, 0)
    assert any(name.endswith("running_mean") for name in changed(whole.student, before))


def test_fixed_statistics_of_batch_norm_stay_and_normalise(study, workspace):
    """Its scale and shift are trained all the same; a batch of one is one like any other."""
    student = workspace.student(study.zoo["resnet"])
    pixels, *_ = batch(0)
    expected = student.eval()(pixels)
    one = plain(student, training=TRAINING.model_copy(update={"batch_norm": "fixed"}))
    one.begin_epoch(0)
    assert torch.equal(student(pixels), expected)
    assert torch.allclose(student(pixels[:1]), expected[:1], atol=1e-5)
    before = copied(student)
    steps(one, 0, 1)
    moved = changed(student, before)
    assert not any("running" in name or "num_batches" in name for name in moved)
    assert any(".bn" in name or "norm" in name for name in moved)


def test_the_first_epochs_train_the_head_alone_and_the_others_everything(study, workspace):
    student = workspace.student(study.zoo["resnet"])
    one = plain(student, head=2)
    assert [one.begin_epoch(number) for number in range(4)] == [True, False, True, False]
    one.begin_epoch(1)
    before, head = copied(student), copied(student.head)
    steps(one, 0)
    assert changed(student.head, head) == {"weight", "bias"}
    assert len(changed(student, before)) == 2
    one.begin_epoch(2)
    before = copied(student)
    steps(one, 1)
    assert changed(student, before) >= {name for name, _ in student.named_parameters()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_student_computes_in_the_precision_and_losses_are_in_float32(study, workspace, precision):
    student = workspace.student(study.zoo["mixer"])
    seen = []
    student.head.register_forward_hook(lambda head, given, result: seen.append(result.dtype))
    loss, _ = plain(student, precision=precision)(*batch(0))
    assert seen == [getattr(torch, precision)]
    assert loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())


def test_what_an_objective_trains_is_trained_beside_the_student(study, workspace):
    one = projecting(workspace.student(study.zoo["mixer"]))
    before = copied(one.objective)
    one.begin_epoch(0)
    loss, measures = one(*batch(0))
    assert measures["distance"].shape == (8,)
    one.step(loss)
    assert changed(one.objective, before) == {"projection.weight", "projection.bias"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_a_state_is_all_that_going_on_needs(study, workspace, optimizer, schedule):
    """Weights, slow weights, the objective's, the optimiser's moments and the schedule."""
    training = TRAINING.model_copy(update={"optimizer": optimizer, "schedule": schedule})
    slow = spec.Slow(tau=0.8, every=3)

    def new():
        return projecting(workspace.student(study.zoo["resnet"]), training=training, slow=slow)

    one = new()
    one.begin_epoch(0)
    steps(one, 0, 1, 2, 3)
    stream = io.BytesIO()
    torch.save(one.state(), stream)
    expected = steps(one, 4, 5, 6)
    stream.seek(0)
    other = new()
    other.take_up(torch.load(stream, weights_only=True))
    other.begin_epoch(0)
    assert steps(other, 4, 5, 6) == expected
    assert other.lr == one.lr
    for mine, theirs in ((one, other), (one.result, other.result)):
        assert changed(mine, copied(theirs)) == set()


@pytest.mark.parametrize("reset", ["never", "epoch"])
def test_fast_weights_begin_an_epoch_at_the_slow_ones_if_the_method_says_so(study, workspace, reset):
    one = plain(workspace.student(study.zoo["resnet"]), slow=spec.Slow(tau=0.9, every=1, reset=reset))
    one.begin_epoch(0)
    steps(one, 0, 1)
    slow = copied(one.result)
    apart = changed(one.student, slow)
    assert apart
    one.end_epoch()
    assert changed(one.student, slow) == (set() if reset == "epoch" else apart)
    assert one.result is not one.student
    assert changed(one.result, slow) == set()
    steps(one, 2)  # they go on apart
    assert changed(one.student, copied(one.result))


def test_without_slow_weights_the_result_is_the_student(study, workspace):
    student = workspace.student(study.zoo["mixer"])
    one = plain(student)
    assert one.result is student
    assert one.slow_decay is None
    assert plain(student, slow=spec.Slow(half_life=0.5, every=2)).slow_decay == pytest.approx(0.5 ** (1 / 3))


# --- slow weights -------------------------------------------------------------------------------


def test_slow_weights_follow_the_recursion():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slow = learner.slow_weights(model, 0.8)
    for step in range(4):
        with torch.no_grad():
            for number, tensor in enumerate(model.state_dict().values()):
                if tensor.is_floating_point():
                    tensor.add_(0.1 * (step + number))
        slow.update_parameters(model)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.8 * expected[name] + 0.2 * tensor
    for name, tensor in slow.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name])


def test_slow_weights_start_at_the_students_own():
    """Not at the first fast ones: torch's AveragedModel copies on its first update."""
    model = torch.nn.Linear(2, 1)
    start = model.weight.detach().clone()
    slow = learner.slow_weights(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    slow.update_parameters(model)
    torch.testing.assert_close(slow.module.weight, start + 0.1)


def test_slow_weights_leave_whole_numbers_whole():
    """Tables of indices, as Swin's for positions: torch's own average would round some down."""
    model = torch.nn.Linear(1, 1)
    model.register_buffer("table", torch.arange(200), persistent=False)
    slow = learner.slow_weights(model, 0.9999)
    for _ in range(50):
        slow.update_parameters(model)
    assert torch.equal(slow.module.table, torch.arange(200))


# --- optimisers and schedules -------------------------------------------------------------------


def training(**settings) -> spec.Training:
    return spec.Training(**{"epochs": 1, "batch_size": 8} | settings)


@pytest.mark.parametrize("name", ["lamb", "lion", "muon", "nadamw", "madgrad"])
def test_timms_optimizers_are_timms(study, workspace, name):
    one = plain(workspace.student(study.zoo["resnet"]), training=training(optimizer=name), lr=1e-3)
    other = workspace.student(study.zoo["resnet"])
    theirs = create_optimizer_v2(list(other.parameters()), name, lr=1e-3, weight_decay=1e-3, momentum=0.9)
    one.begin_epoch(0)
    other.train()
    for number in range(3):
        steps(one, number)
        pixels, labels, *_ = batch(number)
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(other(pixels), labels).backward()
        theirs.step()
    assert not changed(one.student, copied(other))


def rates(**settings) -> list[float]:
    """The learning rate of each of 12 steps at a peak of 0.6."""
    one = plain(torch_student(), training=training(**settings), lr=0.6)
    found = []
    for _ in range(12):
        one.step(one.student.weight.sum())
        found.append(one.lr)
    return found


def torch_student():
    """As little of a student as can be trained."""
    student = torch.nn.Linear(1, 1)
    student.register_buffer("mean", torch.zeros(1))
    return student


def test_the_rate_rises_over_the_share_of_steps_that_warm_up():
    np.testing.assert_allclose(rates(warmup=0.25)[:4], [0.15, 0.3, 0.45, 0.6])
    np.testing.assert_allclose(rates(warmup=0.25)[3:], np.full(9, 0.6))
    cosine = 0.3 * (1 + np.cos(np.pi * np.arange(9) / 9))
    np.testing.assert_allclose(rates(warmup=0.25, schedule="cosine")[3:], cosine)
    np.testing.assert_allclose(rates(schedule="linear"), 0.6 * (1 - np.arange(12) / 12))


def test_the_rate_drops_between_epochs_of_the_run():
    """Three epochs of four steps: half of the run lies within the second, so the third is the first of it."""
    drops = {"drops": [0.5], "factor": 0.5}
    np.testing.assert_allclose(rates(epochs=3, schedule=drops), [0.6] * 8 + [0.3] * 4)
    np.testing.assert_allclose(
        rates(epochs=3, schedule=drops, warmup=0.25), [0.15, 0.3, 0.45] + [0.6] * 5 + [0.3] * 4
    )
    assert spec.Drops(drops=(0.3, 0.6, 0.9)).epochs(100) == [30, 60, 90]
    assert spec.Drops(drops=(0.3, 0.7)).epochs(10) == [3, 7]  # though 0.7 * 10 may be a little more


def test_gradients_together_are_no_longer_than_they_may_be(study, workspace):
    one = plain(workspace.student(study.zoo["mixer"]), training=training(momentum=0, clip_grad=0.01), lr=1.0)
    before = copied(one.student)
    steps(one, 0)
    moved = [tensor - before[name] for name, tensor in learner.tensors(one.student).items()]
    decay = 1e-3 * sum((before[name] ** 2).sum() for name in before) ** 0.5
    length = sum((move**2).sum() for move in moved) ** 0.5
    assert 0.01 - decay <= length <= 0.01 + decay


def test_float16_learns_what_float32_does_and_its_scale_is_kept(study, workspace):
    exact, half = (
        plain(workspace.student(study.zoo["mixer"]), precision=precision, lr=0.01)
        for precision in ("float32", "float16")
    )
    assert exact.scaler is None and half.scaler.get_scale() > 1
    for one in (exact, half):
        one.begin_epoch(0)
    np.testing.assert_allclose(steps(half, *range(6)), steps(exact, *range(6)), rtol=0.02)
    half.scaler.update(1234.0)
    other = plain(workspace.student(study.zoo["mixer"]), precision="float16", lr=0.01)
    other.take_up(half.state())
    assert other.scaler.get_scale() == 1234.0


def test_an_optimizer_that_timm_does_not_have_is_refused():
    with pytest.raises(ValidationError, match="timm has no optimizer 'adamv'; did you mean 'adam'"):
        training(optimizer="adamv")
    with pytest.raises(ValidationError, match="'one_cycle' warms up by itself"):
        training(warmup=0.1, schedule="one_cycle")
    with pytest.raises(ValidationError, match="drops before it has risen"):
        training(warmup=0.5, schedule={"drops": [0.5]})


def test_what_is_not_said_of_training_is_not_part_of_ids():
    content = training().model_dump(mode="json")
    assert "warmup" not in content and "clip_grad" not in content
