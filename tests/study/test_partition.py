"""Who teaches which sample, against a loop; ties, strictness, and the labels nobody reads."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from study import partition

quick = settings(deadline=None, max_examples=40)
FLOATS = st.floats(-8, 8, width=32)
RULES = {
    "supervised": partition.supervised,
    "unsupervised": lambda teacher, frozen, labels: partition.unsupervised(teacher, frozen),
}
both_rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


@st.composite
def batches(draw, elements=FLOATS):
    """Logits of teacher and frozen student, float32 [batch, classes], and labels [batch]."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(2, 6)))
    logits = [torch.from_numpy(draw(arrays.arrays("float32", shape, elements=elements))) for _ in range(2)]
    labels = draw(st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    return *logits, torch.tensor(labels)


def softmax(row):
    """Probabilities of one sample's logits, in Python's floats."""
    exponentials = [math.exp(x) for x in row.tolist()]
    return [e / sum(exponentials) for e in exponentials]


@both_rules
@quick
@given(batches())
def test_decision_equals_a_loop(rule, batch):
    supervised = rule is partition.supervised
    from_teacher = rule(*batch)
    assert from_teacher.dtype == torch.bool
    assert from_teacher.shape == (len(batch[0]),)
    for decision, teacher, frozen, label in zip(from_teacher.tolist(), *batch, strict=True):
        of_teacher, of_frozen = (
            p[label] if supervised else max(p) for p in (softmax(teacher), softmax(frozen))
        )
        if not math.isclose(of_teacher, of_frozen, rel_tol=1e-5):  # too near for float32 to tell
            assert decision == (of_teacher > of_frozen)


def test_rules_by_hand():
    """The teacher is surer of sample 0 but wrong there, and less sure of sample 1 but right."""
    teacher = torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    frozen = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    assert partition.supervised(teacher, frozen, torch.tensor([1, 0])).tolist() == [False, True]
    assert partition.unsupervised(teacher, frozen).tolist() == [True, False]


@both_rules
@quick
@given(batches(elements=st.integers(-8, 8).map(float)), st.integers(-9, 9))
def test_ties_go_to_the_frozen_student(rule, batch, constant):
    _, frozen, labels = batch
    assert not rule(frozen + constant, frozen, labels).any()


@both_rules
def test_the_smallest_advantage_is_enough(rule):
    frozen, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    advantage = 1e-5 * torch.eye(2)
    assert rule(frozen + advantage, frozen, labels).all()
    assert not rule(frozen - advantage, frozen, labels).any()


@both_rules
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(rule, dtype):
    """Both probabilities of class 0 round to 1 in half precision; they differ in float32."""
    teacher, frozen = (torch.tensor([[x, 0.0]], dtype=dtype) for x in (11.0, 10.0))
    assert rule(teacher, frozen, torch.tensor([0])).all()
    for same in ((frozen.float(), frozen), (frozen, frozen.float())):
        assert not rule(*same, torch.tensor([0])).any()


def test_unsupervised_takes_no_labels():
    assert list(inspect.signature(partition.unsupervised).parameters) == ["teacher_logits", "frozen_logits"]


@quick
@given(batches())
def test_unsupervised_compares_largest_probabilities(batch):
    teacher, frozen, _ = batch
    largest = [logits.softmax(dim=1).max(dim=1).values for logits in (teacher, frozen)]
    assert torch.equal(partition.unsupervised(teacher, frozen), largest[0] > largest[1])


@both_rules
@quick
@given(batches(), st.randoms(use_true_random=False))
def test_decision_does_not_depend_on_the_batch_around_a_sample(rule, batch, random):
    whole = rule(*batch)
    order = random.sample(range(len(whole)), len(whole))
    half = slice(0, (len(whole) + 1) // 2)
    for part in (order, half):
        assert torch.equal(rule(*(x[part] for x in batch)), whole[part])


@quick
@given(batches(), st.randoms(use_true_random=False))
def test_targets_picks_rows(batch, random):
    teacher, frozen, _ = batch
    from_teacher = [random.random() < 0.5 for _ in teacher]
    picked = partition.targets(torch.tensor(from_teacher), teacher, frozen)
    assert picked.shape == teacher.shape
    for i, taught in enumerate(from_teacher):
        assert torch.equal(picked[i], (teacher if taught else frozen)[i])
