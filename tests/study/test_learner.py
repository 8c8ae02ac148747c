"""A learner: what it trains, in which precision, and that its whole state can be kept and taken up again."""

from __future__ import annotations

import io

import pytest
import torch

from study import learner, objectives, spec
from study.learner import Learner
from tests.study.own import Projection

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


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (8, 3, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (8,), generator=generator)
    features = torch.rand((8, 5), generator=generator)
    return pixels, labels, torch.arange(8), {"teacher_features": features}


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
    one = plain(student, head=True)
    one.begin_epoch()
    steps(one, 0, 1)
    assert changed(student.head, head) == {"weight", "bias"}
    moved = {name.rpartition(".")[2] for name in changed(student, before)}
    assert moved == {"weight", "bias"}
    assert len(changed(student, before)) == 2
    whole = plain(workspace.student(study.zoo["resnet"]))
    whole.begin_epoch()
    before = copied(whole.student)
    steps(whole, 0)
    assert any(name.endswith("running_mean") for name in changed(whole.student, before))


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
    one.begin_epoch()
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
    one.begin_epoch()
    steps(one, 0, 1, 2, 3)
    stream = io.BytesIO()
    torch.save(one.state(), stream)
    expected = steps(one, 4, 5, 6)
    stream.seek(0)
    other = new()
    other.take_up(torch.load(stream, weights_only=True))
    other.begin_epoch()
    assert steps(other, 4, 5, 6) == expected
    assert other.lr == one.lr
    for mine, theirs in ((one, other), (one.result, other.result)):
        assert changed(mine, copied(theirs)) == set()


@pytest.mark.parametrize("reset", ["never", "epoch"])
def test_fast_weights_begin_an_epoch_at_the_slow_ones_if_the_method_says_so(study, workspace, reset):
    one = plain(workspace.student(study.zoo["resnet"]), slow=spec.Slow(tau=0.9, every=1, reset=reset))
    one.begin_epoch()
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
