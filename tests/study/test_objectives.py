"""The losses against closed forms, torch's and scipy's own, and the known limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import rel_entr
from torch import nn

from study import objectives

quick = settings(deadline=None, max_examples=25)
TEMPERATURES = [0.5, 1.0, 2.0, 7.0]
WEIGHT = 0.3
LOSSES = {
    "kl": lambda student, teacher, labels: objectives.kl(student, teacher, 2.0),
    "xe": lambda student, teacher, labels: objectives.xe(student, labels),
    "xe_kl": lambda student, teacher, labels: objectives.xe_kl(student, teacher, labels, WEIGHT, 2.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@st.composite
def logits_and_labels(draw, step=None):
    """Student's and teacher's logits, float32 [batch, classes], and labels; multiples of `step` if given."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(2, 6)))
    values = st.floats(-8, 8, width=32) if step is None else st.integers(-16, 16).map(lambda k: k * step)
    student, teacher = (
        torch.from_numpy(draw(arrays.arrays("float32", shape, elements=values))) for _ in range(2)
    )
    labels = draw(st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    return student, teacher, torch.tensor(labels)


@pytest.fixture
def batch():
    """A fixed batch: student's logits, teacher's logits, labels."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 5, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(5, (6,), generator=generator)


def kl_of_torch(student, teacher, temperature):
    """`nn.KLDivLoss` in float64 on probabilities of the teacher."""
    student, teacher = student.double() / temperature, teacher.double() / temperature
    return temperature**2 * nn.KLDivLoss(reduction="batchmean")(
        student.log_softmax(dim=1), teacher.softmax(dim=1)
    )


def kl_of_scipy(student, teacher, temperature):
    """Σ p log(p / q) a sample, in float64."""
    student, teacher = ((x.double() / temperature).softmax(dim=1).numpy() for x in (student, teacher))
    return temperature**2 * rel_entr(teacher, student).sum(axis=1).mean()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_of_two_classes_by_hand(temperature):
    student = temperature * torch.tensor([[0.0, math.log(3)]])  # softmax(student / T) = (1/4, 3/4)
    teacher = torch.zeros(1, 2)  # (1/2, 1/2)
    by_hand = temperature**2 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert objectives.kl(student, teacher, temperature).item() == pytest.approx(by_hand, rel=1e-5)


def test_kl_has_temperature_one_by_default(batch):
    student, teacher, _ = batch
    assert torch.equal(objectives.kl(student, teacher), objectives.kl(student, teacher, 1.0))


@pytest.mark.parametrize("reference", [kl_of_torch, kl_of_scipy])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@quick
@given(logits_and_labels())
def test_kl_equals_a_reference_in_float64(reference, temperature, example):
    student, teacher, _ = example
    expected = float(reference(student, teacher, temperature))
    assert objectives.kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@quick
@given(logits_and_labels(step=0.25), st.sampled_from(TEMPERATURES))
def test_kl_is_zero_where_distributions_are_equal_and_positive_elsewhere(example, temperature):
    student, teacher, _ = example
    assert objectives.kl(teacher, teacher, temperature) == 0
    gaps = student - teacher
    if (gaps == gaps[:, :1]).all():  # a constant per row: the same distributions
        assert objectives.kl(student, teacher, temperature).item() == pytest.approx(0, abs=1e-5)
    else:
        assert objectives.kl(student, teacher, temperature) > 0


@quick
@given(logits_and_labels(), st.sampled_from(TEMPERATURES))
def test_kl_is_not_negative(example, temperature):
    student, teacher, _ = example
    assert objectives.kl(student, teacher, temperature) >= -1e-6 * temperature**2


@every_loss
@quick
@given(logits_and_labels(), st.floats(-50, 50), st.floats(-50, 50))
def test_constants_added_to_a_row_change_nothing(loss, example, to_student, to_teacher):
    student, teacher, labels = example
    rows = torch.arange(1.0, len(student) + 1)[:, None]  # another constant in every row
    moved = loss(student + to_student * rows, teacher + to_teacher * rows, labels)
    assert moved.item() == pytest.approx(loss(student, teacher, labels).item(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("temperature", [200.0, 800.0])
def test_gradient_at_high_temperature_is_that_of_matched_logits(batch, temperature):
    """Hinton et al., equation 4: T² ∂KL/∂z_s → (z_s − z_t) / classes for logits of mean zero."""
    student, teacher, _ = batch
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(objectives.kl(student, teacher, temperature), student)
    gaps = (student - teacher).detach()
    limit = (gaps - gaps.mean(dim=1, keepdim=True)) / student.numel()
    assert torch.allclose(gradient, limit, atol=0.02 * limit.abs().max().item())


@pytest.mark.parametrize("loss", [LOSSES["kl"], LOSSES["xe_kl"]], ids=["kl", "xe_kl"])
def test_no_gradient_reaches_the_teacher(loss, batch):
    student, teacher, labels = batch
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, labels).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype, batch):
    student, teacher, labels = batch
    student, teacher = student.to(dtype), teacher.to(dtype)
    result = loss(student, teacher, labels)
    assert result.dtype == torch.float32
    assert result == loss(student.float(), teacher.float(), labels)


def test_low_temperature_does_not_overflow_in_half_precision():
    student = torch.tensor([[0.0, 800.0]]).half()
    assert objectives.kl(student, student.flip(1), temperature=0.01).isfinite()


@every_loss
def test_loss_is_the_mean_over_samples(loss, batch):
    whole = loss(*batch)
    alone = [loss(*(part[i : i + 1] for part in batch)) for i in range(len(batch[0]))]
    assert torch.allclose(whole, torch.stack(alone).mean())
    assert torch.allclose(whole, loss(*(torch.cat([part, part]) for part in batch)))


@quick
@given(logits_and_labels())
def test_xe_is_cross_entropy_of_logits(example):
    student, _, labels = example
    by_hand = -student.double().log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()
    assert torch.equal(objectives.xe(student, labels), F.cross_entropy(student, labels))
    assert objectives.xe(student, labels).item() == pytest.approx(by_hand.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", [LOSSES["xe"], LOSSES["xe_kl"]], ids=["xe", "xe_kl"])
def test_cross_entropy_is_not_fed_probabilities(loss):
    """The paper's softmax of a softmax leaves a perfect student of two classes a loss of 0.31."""
    student = torch.tensor([[30.0, 0.0]])
    assert loss(student, student, torch.tensor([0])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_xe_kl_ends_at_its_two_terms(batch, temperature):
    student, teacher, labels = batch
    only_xe = objectives.xe_kl(student, teacher, labels, 0.0, temperature)
    only_kl = objectives.xe_kl(student, teacher, labels, 1.0, temperature)
    assert torch.equal(only_xe, objectives.xe(student, labels))
    assert torch.equal(only_kl, objectives.kl(student, teacher, temperature))


@quick
@given(logits_and_labels(), st.floats(0, 1), st.sampled_from(TEMPERATURES))
def test_xe_kl_is_linear_in_its_weight(example, weight, temperature):
    at_zero, at_one, between = (objectives.xe_kl(*example, w, temperature).item() for w in (0.0, 1.0, weight))
    assert between == pytest.approx(weight * at_one + (1 - weight) * at_zero, rel=1e-5, abs=1e-5)
