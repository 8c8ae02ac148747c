"""CD and CRD against their formulas, and CRD against what the official code of another study gives."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from study import objectives

quick = settings(deadline=None, max_examples=25)


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy((scale * np.random.RandomState(seed).standard_normal(shape)).astype(np.float32))


# --- CD -----------------------------------------------------------------------------------------


@quick
@given(st.integers(0, 1000), st.integers(1, 6), st.floats(0, 1))
def test_cd_is_equation_6_by_a_loop(seed, samples, weight):
    own, its, logits = (
        normal(seed, (samples, 4)),
        normal(seed + 1, (samples, 7)),
        normal(seed + 2, (samples, 3)),
    )
    labels = torch.arange(samples) % 3

    def rows(features):
        unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in features.double().tolist()]
        for one in unit:
            alike = [math.exp(sum(a * b for a, b in zip(one, other, strict=True))) for other in unit]
            yield [value / sum(alike) for value in alike]

    contrast = sum(
        p * math.log(p / q)
        for of_teacher, of_student in zip(rows(its), rows(own), strict=True)
        for p, q in zip(of_teacher, of_student, strict=True)
    )
    xe = float(F.cross_entropy(logits, labels))
    for reduction, divisor in (("sum", 1), ("mean", samples)):
        loss = objectives.cd(logits, own, its, labels, weight=weight, reduction=reduction)
        assert float(loss) == pytest.approx(weight * contrast / divisor + (1 - weight) * xe, abs=1e-5)


def test_cd_of_a_student_that_finds_alike_what_its_teacher_does_is_cross_entropy_alone():
    features, logits, labels = normal(0, (8, 5)), normal(1, (8, 3)), torch.arange(8) % 3
    turned = features @ torch.linalg.qr(normal(2, (5, 5)))[0] * 3  # another space, another length
    loss = objectives.cd(logits, turned, features, labels, weight=1.0)
    assert float(loss) == pytest.approx(0, abs=1e-6)


# --- CRD ----------------------------------------------------------------------------------------

# What the official code of arXiv 2012.02909 (MingSun-Tse/Good-DA-in-KD, commit 75443f9, whose CRD is Tian et
# al.'s) gives for these inputs: the loss of a first batch, of the same again, and its two sums Z.
NEGATIVES = torch.tensor(
    [
        *([15, 9, 10, 18, 4, 16], [2, 12, 15, 3, 8, 7], [5, 3, 8, 17, 7, 16]),
        *([8, 0, 12, 14, 9, 1], [3, 13, 17, 11, 18, 12], [17, 2, 10, 12, 4, 11]),
    ]
)
OFFICIAL = {
    "first": 15.873174667358398,
    "second": 21.994903564453125,
    "totals": {73687.296875, 25623.3671875},
}


def official() -> tuple[objectives.crd, torch.Tensor, torch.Tensor]:
    one = objectives.crd(5, 9, torch.arange(20) % 4, negatives=6, dim=8)
    with torch.no_grad():
        for layer, seed, size in ((one.student_projection, 40, 5), (one.teacher_projection, 42, 9)):
            layer.weight.copy_(normal(seed, (8, size)))
            layer.bias.copy_(normal(seed + 1, (8,), 0.1))
        one.student_bank.copy_(F.normalize(normal(44, (20, 8)), dim=1))
        one.teacher_bank.copy_(F.normalize(normal(45, (20, 8)), dim=1))
    return one, normal(26, (6, 5)), normal(27, (6, 9))


def test_crd_is_the_official_one():
    one, own, its = official()
    with torch.no_grad():
        first = one.contrast(own, its, torch.arange(6), NEGATIVES)
    assert float(first) == pytest.approx(OFFICIAL["first"], rel=1e-5)
    totals = sorted(float(total) for total in (one.student_total, one.teacher_total))
    assert totals == pytest.approx(sorted(OFFICIAL["totals"]), rel=1e-5)
    with torch.no_grad():
        again = one.contrast(own, its, torch.arange(6), NEGATIVES)
    assert float(again) == pytest.approx(OFFICIAL["second"], rel=1e-5)


def test_banks_remember_the_samples_of_a_batch_and_no_others():
    one, own, its = official()
    before, indices = one.student_bank.clone(), torch.tensor([3, 19, 7, 0, 11, 2])
    one.contrast(own, its, indices, NEGATIVES)
    moved = (one.student_bank != before).any(dim=1).nonzero()[:, 0]
    assert moved.tolist() == sorted(indices.tolist())
    projected = F.normalize(one.student_projection(own), dim=1)
    expected = F.normalize((before[indices] + projected) / 2, dim=1)
    torch.testing.assert_close(one.student_bank[indices], expected)


@quick
@given(st.lists(st.integers(0, 3), min_size=4, max_size=30).filter(lambda labels: len(set(labels)) > 1))
def test_negatives_are_of_other_classes_and_any_of_them(labels):
    labels = torch.tensor(labels)
    one = objectives.crd(2, 2, labels, negatives=400, dim=2)
    drawn = one.draw(labels)
    assert (labels[drawn] != labels[:, None]).all()
    for row, label in zip(drawn, labels, strict=True):
        others = (labels != label).nonzero()[:, 0].tolist()
        assert set(row.tolist()) <= set(others)
        if len(others) <= 10:  # each is missed with a chance of (9/10)^400
            assert set(row.tolist()) == set(others)


def test_crd_trains_student_and_both_projections_and_no_teacher():
    torch.manual_seed(0)
    one = objectives.crd(5, 9, torch.arange(20) % 4, negatives=6, dim=8)
    own, its = normal(26, (6, 5)).requires_grad_(), normal(27, (6, 9)).requires_grad_()
    logits = normal(28, (6, 4)).requires_grad_()
    loss = one(logits, own, its, torch.arange(6) % 4, torch.arange(6))
    loss.backward()
    assert its.grad is None
    for leaf in (own, logits, *one.parameters()):
        assert leaf.grad.abs().sum() > 0
    # Cross-entropy has the weight 1.
    (wanted,) = torch.autograd.grad(F.cross_entropy(logits, torch.arange(6) % 4), logits)
    torch.testing.assert_close(logits.grad, wanted)


def test_of_mixed_images_there_are_no_other_classes():
    one = objectives.crd(2, 2, torch.tensor([0, 1]), negatives=2, dim=2)
    with pytest.raises(ValueError, match="leave out mixing"):
        one(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2) / 2, torch.tensor([0]))
