"""The knowledge measures against counting by hand, and the identities between them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from study import knowledge

quick = settings(deadline=None, max_examples=40)


@st.composite
def judged(draw, models=3, classes=4):
    """Bool [samples] of so many models, and labels [samples] in [0, classes)."""
    samples = draw(st.integers(1, 30))
    rights = [draw(arrays.arrays(bool, samples)) for _ in range(models)]
    return *rights, draw(arrays.arrays(np.int64, samples, elements=st.integers(0, classes - 1)))


def share(conditions):
    """Share of true values, counted."""
    counted = [1 if condition else 0 for condition in conditions]
    return sum(counted) / len(counted)


# measure: whether one sample counts, by who was right
SHARES = {
    knowledge.rho_pos: lambda student, teacher: teacher and not student,
    knowledge.rho_neg: lambda student, teacher: student and not teacher,
    knowledge.knowledge_gain: lambda before, after: after and not before,
    knowledge.knowledge_loss: lambda before, after: before and not after,
}
DIFFERENCES = {
    knowledge.accuracy_difference: lambda student, teacher: share(teacher) - share(student),
    knowledge.transfer_delta: lambda before, after: share(after) - share(before),
}


def test_correct_compares_with_the_labels():
    predicted, labels = np.array([0, 1, 2, 2], np.int32), np.array([0, 2, 2, 1], np.int64)
    assert knowledge.correct(predicted, labels).tolist() == [True, False, True, False]


@pytest.mark.parametrize("measure", SHARES, ids=lambda measure: measure.__name__)
@quick
@given(judged(models=2))
def test_shares_equal_a_count(measure, example):
    first, second, _ = example
    counted = share(map(SHARES[measure], first.tolist(), second.tolist()))
    assert measure(first, second) == pytest.approx(counted, abs=1e-12)


@pytest.mark.parametrize("measure", DIFFERENCES, ids=lambda measure: measure.__name__)
@quick
@given(judged(models=2))
def test_differences_equal_a_count(measure, example):
    first, second, _ = example
    assert measure(first, second) == pytest.approx(DIFFERENCES[measure](first, second), abs=1e-12)


@quick
@given(judged(models=2))
def test_flips_are_where_one_of_two_models_is_right(example):
    student, teacher, _ = example
    positive = knowledge.positive_flips(student, teacher)
    negative = knowledge.negative_flips(student, teacher)
    assert np.array_equal(positive | negative, student != teacher)
    assert not (positive & student).any()
    assert not (negative & teacher).any()


@quick
@given(judged())
def test_identities(example):
    before, teacher, after, _ = example
    assert knowledge.rho_pos(before, teacher) - knowledge.rho_neg(before, teacher) == pytest.approx(
        knowledge.accuracy_difference(before, teacher), abs=1e-12
    )
    assert knowledge.knowledge_gain(before, after) - knowledge.knowledge_loss(before, after) == pytest.approx(
        knowledge.transfer_delta(before, after), abs=1e-12
    )
    # What the teacher still has over the student changes as the student's accuracy does.
    assert knowledge.delta_rho_neg(before, teacher, after) - knowledge.delta_rho_pos(
        before, teacher, after
    ) == pytest.approx(knowledge.transfer_delta(before, after), abs=1e-12)


@quick
@given(judged())
def test_transfer_rate_is_the_share_of_positive_flips_gained(example):
    before, teacher, after, _ = example
    rate = knowledge.transfer_rate(before, teacher, after)
    gained = [bool(a) for b, t, a in zip(before, teacher, after, strict=True) if t and not b]
    if gained:
        assert 0 <= rate <= 1
        assert rate == pytest.approx(share(gained))
    else:
        assert math.isnan(rate)


def test_changes_of_flips_by_hand():
    """Ten samples: the student gains one of three positive flips, and forgets one more."""
    before = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1], bool)
    teacher = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0], bool)
    after = np.array([1, 0, 0, 0, 0, 1, 1, 1, 0, 1], bool)
    assert knowledge.transfer_rate(before, teacher, after) == pytest.approx(1 / 3)
    assert knowledge.delta_rho_pos(before, teacher, after) == pytest.approx(0.3 - 0.3)
    assert knowledge.delta_rho_neg(before, teacher, after) == pytest.approx(0.1 - 0.2)
    taught_all = before | teacher
    assert knowledge.delta_rho_pos(before, teacher, taught_all) == pytest.approx(-0.3)
    assert knowledge.delta_rho_neg(before, teacher, taught_all) == pytest.approx(0)
    assert knowledge.delta_rho_pos(before, teacher, ~teacher) == pytest.approx(0.7 - 0.3)


@pytest.mark.parametrize("measure", [*SHARES, *DIFFERENCES], ids=lambda measure: measure.__name__)
@quick
@given(judged(models=2))
def test_classes_weighted_by_their_samples_give_the_whole(measure, example):
    first, second, labels = example
    values = knowledge.by_class(measure, labels, 5, first, second)
    counts = np.bincount(labels, minlength=5)
    assert values.shape == (5,)
    assert np.array_equal(np.isnan(values), counts == 0)
    whole = np.nansum(values * counts) / len(labels)
    assert whole == pytest.approx(measure(first, second), abs=1e-12)


@quick
@given(judged())
def test_transfer_rates_of_classes_weighted_by_their_flips_give_the_whole(example):
    before, teacher, after, labels = example
    values = knowledge.by_class(knowledge.transfer_rate, labels, 4, before, teacher, after)
    flips = np.bincount(labels[knowledge.positive_flips(before, teacher)], minlength=4)
    assert np.array_equal(np.isnan(values), flips == 0)
    whole = np.nansum(values * flips) / flips.sum() if flips.any() else math.nan
    assert whole == pytest.approx(knowledge.transfer_rate(before, teacher, after), nan_ok=True)
