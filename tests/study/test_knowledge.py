"""The knowledge measures against counting by hand, and the identities between them."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
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


# --- all pairs of a zoo -------------------------------------------------------------------------

LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every other": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "backwards": lambda array: np.ascontiguousarray(array[:, ::-1])[:, ::-1],
}
ZOO_MEASURES = {
    "flip_matrix": lambda predicted, labels, classes: knowledge.flip_matrix(predicted == labels),
    "agreement_matrix": lambda predicted, labels, classes: knowledge.agreement_matrix(predicted),
    "error_consistency": lambda predicted, labels, classes: knowledge.error_consistency(predicted == labels),
    "flip_entropy": lambda predicted, labels, classes: knowledge.flip_entropy(
        predicted == labels, labels, classes
    ),
    "flips_by_class": lambda predicted, labels, classes: knowledge.flips_by_class(
        predicted == labels, labels, classes, [(0, -1 % len(predicted)), (-1 % len(predicted), 0)]
    ),
}


@pytest.fixture(params=["one block", "many blocks"], scope="module")
def blocks(request):
    """Both how a small zoo is compared, at once, and how a large one is."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "many blocks":
            patch.setattr(knowledge, "SAMPLES", 7)
            patch.setattr(knowledge, "MODELS", 2)
            patch.setattr(knowledge, "PAIRS", 2)
        yield


@st.composite
def zoos(draw):
    """Predictions int [models, samples], which are right, labels [samples], and the number of classes.

    Models that are always right, or always wrong, are among them; classes without samples, and with
    more than 64; arrays in any layout that cannot be written to.
    """
    models, samples = draw(st.integers(1, 6)), draw(st.integers(1, 40) | st.integers(1, 300))
    classes = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, classes)), samples, dtype=np.int16)
    accuracy = draw(st.lists(st.sampled_from([0, 0.3, 0.9, 1]), min_size=models, max_size=models))
    right = rng.random((models, samples)) < np.array(accuracy)[:, None]
    wrong = (labels + rng.integers(1, 4, (models, samples))) % (classes + 3)
    layout = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]
    predicted, correct = layout(np.where(right, labels, wrong)), layout(right)
    for array in (predicted, correct, labels):
        array.flags.writeable = False
    return predicted, correct, labels, classes


def each_pair(count, zoo):
    """Float64 [teacher, student]: a function of two models' rows, pair by pair."""
    rows = zoo.tolist()
    return np.array([[count(teacher, student) for student in rows] for teacher in rows], float)


@quick
@given(zoos())
def test_flip_matrix_equals_a_count_of_each_pair(blocks, zoo):
    _, correct, _, _ = zoo
    flips = knowledge.flip_matrix(correct)
    assert flips.dtype == np.float64
    counted = each_pair(lambda t, s: share(x and not y for x, y in zip(t, s, strict=True)), correct)
    np.testing.assert_array_equal(flips, counted)
    paired = [[knowledge.rho_pos(student, teacher) for student in correct] for teacher in correct]
    np.testing.assert_allclose(flips, paired, atol=1e-12)


@quick
@given(zoos())
def test_flips_less_negative_flips_are_the_accuracy_difference(zoo):
    _, correct, _, _ = zoo
    flips = knowledge.flip_matrix(correct)
    differences = [
        [knowledge.accuracy_difference(student, teacher) for student in correct] for teacher in correct
    ]
    np.testing.assert_allclose(flips - flips.T, differences, atol=1e-12)
    np.testing.assert_array_equal(flips.diagonal(), 0)


@quick
@given(zoos())
def test_agreement_equals_a_count_of_each_pair(blocks, zoo):
    predicted, _, _, _ = zoo
    agreement = knowledge.agreement_matrix(predicted)
    counted = each_pair(lambda t, s: share(x == y for x, y in zip(t, s, strict=True)), predicted)
    assert agreement.dtype == np.float64
    np.testing.assert_array_equal(agreement, counted)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_agreement_tells_all_integers_apart(kind):
    """Neighbours at both ends of the type, and classes 256 and 65536 apart."""
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    values = [v for v in (least, least + 1, 0, 1, 256, 65536, 2**32, most - 1, most) if v <= most]
    values = sorted(set(values))
    agreement = knowledge.agreement_matrix(np.array([[value] for value in values], kind))
    np.testing.assert_array_equal(agreement, np.eye(len(values)))


@pytest.mark.parametrize("apart", [1, 255, 256, 257, 65535, 65536, 2**32 - 1, 2**32])
def test_agreement_tells_classes_apart_however_far(apart):
    for lowest in (-apart, 0):
        agreement = knowledge.agreement_matrix(np.array([[lowest], [lowest + apart]]))
        np.testing.assert_array_equal(agreement, np.eye(2))


def kappa(first, second):
    """Cohen's kappa by its definition, in whole numbers; NaN where it has none."""
    samples = len(first)
    observed = Fraction(sum(x == y for x, y in zip(first, second, strict=True)), samples)
    a, b = Fraction(sum(first), samples), Fraction(sum(second), samples)
    expected = a * b + (1 - a) * (1 - b)
    return math.nan if expected == 1 else float((observed - expected) / (1 - expected))


@quick
@given(zoos())
def test_error_consistency_is_cohens_kappa(blocks, zoo):
    _, correct, _, _ = zoo
    consistency = knowledge.error_consistency(correct)
    np.testing.assert_allclose(consistency, each_pair(kappa, correct), atol=1e-12)
    np.testing.assert_array_equal(consistency, consistency.T)
    diagonal = consistency.diagonal()
    always = correct.all(axis=1) | ~correct.any(axis=1)
    np.testing.assert_array_equal(diagonal, np.where(always, np.nan, 1))


def test_error_consistency_by_hand():
    """Both right 4, both wrong 3, apart 3: observed 0.7, by chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5."""
    zoo = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1, 1, 0, 0, 0]], bool)
    assert knowledge.error_consistency(zoo)[0, 1] == pytest.approx((0.7 - 0.5) / 0.5)
    assert knowledge.error_consistency(np.stack([zoo[0], ~zoo[0]]))[0, 1] == pytest.approx(-1)


def class_flips(teacher, student, labels, classes):
    return np.bincount(labels[teacher & ~student], minlength=classes)


@quick
@given(zoos())
def test_flip_entropy_is_scipys_entropy_of_the_flips_over_classes(blocks, zoo):
    _, correct, labels, classes = zoo
    entropy = knowledge.flip_entropy(correct, labels, classes)
    assert entropy.shape == (len(correct), len(correct))
    for t, teacher in enumerate(correct):
        for s, student in enumerate(correct):
            flips = class_flips(teacher, student, labels, classes)
            if flips.any() and classes > 1:
                expected = scipy.stats.entropy(flips) / math.log(classes)
                assert entropy[t, s] == pytest.approx(expected, abs=1e-12)
                assert 0 <= entropy[t, s] <= 1
            else:
                assert math.isnan(entropy[t, s])


@pytest.mark.parametrize("each", [1, 50, 64, 65, 200])
def test_flips_spread_evenly_have_entropy_one_and_in_one_class_zero(each):
    labels = np.tile(np.arange(10), each)
    zoo = np.stack([np.ones(10 * each, bool), np.zeros(10 * each, bool), labels != 3])
    entropy = knowledge.flip_entropy(zoo, labels, 10)
    assert entropy[0, 1] == pytest.approx(1, abs=1e-12)
    assert entropy[0, 2] == pytest.approx(0, abs=1e-12)
    assert math.isnan(entropy[1, 0])


def test_flips_have_no_entropy_over_a_single_class():
    zoo = np.tri(100, dtype=bool)  # from 1 to 99 flips
    assert np.isnan(knowledge.flip_entropy(zoo, np.zeros(100, int), 1)).all()


@quick
@given(zoos(), st.data())
def test_flips_by_class_equal_a_count(blocks, zoo, data):
    _, correct, labels, classes = zoo
    model = st.integers(0, len(correct) - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(model, model), max_size=6)), int).reshape(-1, 2)
    flips = knowledge.flips_by_class(correct, labels, classes, pairs)
    counted = [class_flips(correct[teacher], correct[student], labels, classes) for teacher, student in pairs]
    assert flips.dtype == np.int64
    np.testing.assert_array_equal(flips, np.array(counted).reshape(-1, classes))
    rho_pos = knowledge.flip_matrix(correct)[tuple(pairs.T)]
    np.testing.assert_array_equal(flips.sum(axis=1) / len(labels), rho_pos)


@pytest.mark.parametrize("measure", ZOO_MEASURES)
@quick
@given(zoos(), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(measure, zoo, random):
    predicted, _, labels, classes = zoo
    order = random.sample(range(len(labels)), len(labels))
    compare = ZOO_MEASURES[measure]
    np.testing.assert_allclose(
        compare(predicted[:, order], labels[order], classes), compare(predicted, labels, classes), atol=1e-12
    )


def test_more_samples_than_a_block_are_all_counted():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 20_000)
    zoo = rng.random((3, 20_000)) < np.array([[0.2], [0.6], [0.9]])
    pairs = [(teacher, student) for teacher in range(3) for student in range(3)]
    rho_pos = [(zoo[teacher] & ~zoo[student]).sum() / 20_000 for teacher, student in pairs]
    np.testing.assert_array_equal(knowledge.flip_matrix(zoo).ravel(), rho_pos)
    flips = knowledge.flips_by_class(zoo, labels, 3, pairs)
    np.testing.assert_array_equal(flips.sum(axis=1) / 20_000, rho_pos)


@pytest.mark.parametrize("measure", ZOO_MEASURES)
def test_memory_is_bounded(measure):
    """Beside its argument, less than that in bytes: no copy in float32, no array of all pairs' samples."""
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 5, (60, 200_000), dtype=np.uint8)
    labels = rng.integers(0, 5, 200_000)
    tracemalloc.start()
    try:
        ZOO_MEASURES[measure](predicted, labels, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * predicted.nbytes  # one of them is `predicted == labels`


RIGHT, LABELS, PAIR = np.ones((2, 3), bool), np.array([0, 1, 1]), np.array([[0, 1]])


@pytest.mark.parametrize(
    ("error", "words", "measure", "arguments"),
    [
        (TypeError, "`correct` is int64", knowledge.flip_matrix, (RIGHT.astype(np.int64),)),
        (TypeError, "`correct` is float64", knowledge.error_consistency, (RIGHT.astype(float),)),
        (ValueError, r"`correct` is \(3,\)", knowledge.flip_matrix, (RIGHT[0],)),
        (ValueError, r"`correct` is \(2, 0\)", knowledge.flip_matrix, (RIGHT[:, :0],)),
        (ValueError, r"`correct` is \(0, 3\)", knowledge.error_consistency, (RIGHT[:0],)),
        (TypeError, "`predicted` is bool", knowledge.agreement_matrix, (RIGHT,)),
        (TypeError, "`predicted` is float64", knowledge.agreement_matrix, (np.ones((2, 3)),)),
        (ValueError, r"`predicted` is \(3,\)", knowledge.agreement_matrix, (LABELS,)),
        (TypeError, "`correct` is uint8", knowledge.flip_entropy, (RIGHT.view(np.uint8), LABELS, 2)),
        (TypeError, "`labels` are float64", knowledge.flip_entropy, (RIGHT, LABELS / 1, 2)),
        (ValueError, r"`labels` are \(2,\)", knowledge.flip_entropy, (RIGHT, LABELS[:2], 2)),
        (ValueError, r"`labels` lie in \[0, 1\]", knowledge.flip_entropy, (RIGHT, LABELS, 1)),
        (ValueError, r"`labels` lie in \[-1, 0\]", knowledge.flips_by_class, (RIGHT, LABELS - 1, 2, PAIR)),
        (TypeError, "`pairs` are float64", knowledge.flips_by_class, (RIGHT, LABELS, 2, PAIR / 1)),
        (ValueError, r"`pairs` are \(2,\)", knowledge.flips_by_class, (RIGHT, LABELS, 2, PAIR[0])),
        (ValueError, r"`pairs` are \(2, 1\)", knowledge.flips_by_class, (RIGHT, LABELS, 2, PAIR.T)),
        (ValueError, r"\[0, 2\]; there are 2", knowledge.flips_by_class, (RIGHT, LABELS, 2, 2 * PAIR)),
        (ValueError, r"\[-1, 0\]; there are 2", knowledge.flips_by_class, (RIGHT, LABELS, 2, PAIR - 1)),
    ],
)
def test_other_arrays_are_refused(error, words, measure, arguments):
    with pytest.raises(error, match=words):
        measure(*arguments)


# --- by probabilities ---------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(2, 5), st.integers(0, 99), st.integers(1, 12))
def test_soft_pairs_are_those_of_the_definition_in_blocks_of_any_size(models, samples, classes, seed, step):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.3), (models, samples)).astype(np.float32)
    labels = random.integers(0, classes, samples)
    starts = range(0, samples, step)
    blocks = ((probabilities[:, b : b + step], labels[b : b + step]) for b in starts)
    kappa, ensemble = knowledge.soft_pairs(blocks)
    for one in range(models):
        for other in range(models):
            a, b = probabilities[one].astype(float), probabilities[other].astype(float)
            observed = np.mean([sum(a[i, k] * b[i, k] for k in range(classes)) for i in range(samples)])
            p, q = (np.mean([of[i, labels[i]] for i in range(samples)]) for of in (a, b))
            expected = p * q + (1 - p) * (1 - q) / (classes - 1)
            if expected < 1 - 1e-3:
                value = (observed - expected) / (1 - expected)
                assert kappa[one, other] == pytest.approx(value, abs=1e-3)
            said = (probabilities[one] + probabilities[other]).argmax(1)
            assert ensemble[one, other] == pytest.approx(np.mean(said == labels))
    assert np.array_equal(kappa, kappa.T, equal_nan=True)
    assert knowledge.soft_pairs([(probabilities, labels)], ensembles=False)[1] is None


def test_sure_models_that_say_the_same_are_alike_by_one_and_independent_ones_by_nothing():
    random, labels = np.random.default_rng(0), np.zeros(20_000, int)
    right = random.random((3, len(labels))) < 0.7
    wrong = random.integers(1, 4, (3, len(labels)))
    sure = np.eye(4, dtype=np.float32)[np.where(right, 0, wrong)]
    sure[1] = sure[0]
    kappa, ensemble = knowledge.soft_pairs([(sure, labels)])
    assert kappa[0, 1] == pytest.approx(1)
    assert abs(kappa[0, 2]) < 0.02
    assert ensemble[0, 1] == pytest.approx(right[0].mean())
    always = np.zeros((2, 5, 3), np.float32)
    always[..., 0] = 1
    assert np.isnan(knowledge.soft_pairs([(always, np.zeros(5, int))])[0]).all()  # chance leaves no room
