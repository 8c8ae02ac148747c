"""Each test and interval against a closed form, brute force, or an independent implementation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uncertainty import bootstrap_interval, mcnemar_exact, paired_wilcoxon, wilson_interval

counts = st.integers(0, 60)


@given(counts, counts)
def test_mcnemar_equals_the_binomial_test(gained, lost):
    expected = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar_exact(gained, lost) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 8), st.integers(0, 8))
def test_mcnemar_counts_the_coin_tosses_at_least_as_uneven(gained, lost):
    n = gained + lost
    uneven = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(gained - lost))
    assert mcnemar_exact(gained, lost) == pytest.approx(uneven / 2**n)


def test_mcnemar_is_vectorised_symmetric_and_1_where_nothing_changed():
    gained, lost = np.array([[0], [7]]), np.array([0, 3, 40])
    p = mcnemar_exact(gained, lost)
    assert p.shape == (2, 3)
    assert p[0, 0] == 1
    np.testing.assert_array_equal(p, mcnemar_exact(lost, gained))
    assert 0 < mcnemar_exact(900, 1_100) < 1e-5


@pytest.mark.parametrize(("gained", "lost"), [(-1, 2), (1, 2.5), ([1, 2], [0, -3])])
def test_mcnemar_refuses_what_is_no_count(gained, lost):
    with pytest.raises(ValueError, match="whole numbers"):
        mcnemar_exact(gained, lost)


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(n, share, confidence):
    successes = round(share * n)
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(successes, n, confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


def test_wilson_of_no_trials_is_nan_and_the_rest_is_unharmed():
    low, high = wilson_interval([0, 5], [0, 10])
    assert np.isnan(low[0]) and np.isnan(high[0])
    assert (low[1], high[1]) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # the textbook's 5 of 10


@pytest.mark.parametrize("bad", [(3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0)])
def test_wilson_refuses_impossible_counts_and_confidences(bad):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(*bad)


def expanded_quantiles(distribution, units, confidence=0.95):
    """The definition, independent of the implementation's path through scipy.stats.bootstrap."""
    t = stats.t.ppf((1 + confidence) / 2, units - 1)
    tail = stats.norm.cdf(-math.sqrt(units / (units - 1)) * t)
    return np.quantile(distribution, [tail, 1 - tail])


@pytest.mark.parametrize("statistic", [np.nanmean, np.nanmedian])
def test_cluster_bootstrap_equals_all_resamples_of_groups_of_unequal_size(statistic):
    groups = {"a": [0.1, 0.9, 0.4], "b": [2.0], "c": [-1.0, -1.5], "d": [0.6, 0.7, 0.2, 0.3], "e": [1.1]}
    every = [
        statistic(np.concatenate([groups[name] for name in drawn]))
        for drawn in itertools.product(groups, repeat=len(groups))
    ]
    values = [value for group in groups.values() for value in group]
    labels = [name for name, group in groups.items() for _ in group]
    shuffled = np.random.default_rng(3).permutation(len(values))
    low, high = bootstrap_interval(
        np.array(values)[shuffled],
        statistic,
        groups=np.array(labels)[shuffled],
        confidence=0.6,
        resamples=40_000,
    )
    assert (low, high) == pytest.approx(expanded_quantiles(every, len(groups), 0.6), abs=0.05)


def test_interval_of_many_units_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(values)
    half = stats.t.ppf(0.975, 399) * values.std(ddof=1) / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_intervals_of_six_students_hold_the_truth_about_as_often_as_they_say():
    draw = np.random.default_rng(1)
    shared, own = draw.normal(size=(300, 6, 1)), draw.normal(size=(300, 6, 4))
    groups = np.repeat(np.arange(6), 4)
    samples = (shared + own).reshape(300, 24)

    def coverage(groups):
        bounds = [bootstrap_interval(sample, groups=groups, resamples=999) for sample in samples]
        return np.mean([low <= 0 <= high for low, high in bounds])

    assert 0.90 <= coverage(groups) <= 0.98
    assert coverage(None) < 0.85  # trials taken as independent: why whole students are drawn


def test_bootstrap_is_deterministic_and_follows_its_seed():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 4)), min_size=1, max_size=20))
def test_bootstrap_stays_within_the_data_and_needs_two_groups(rows):
    values, groups = zip(*rows, strict=True)
    low, high = bootstrap_interval(values, groups=groups, resamples=200)
    if len(set(groups)) < 2:
        assert math.isnan(low) and math.isnan(high)
    else:
        assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_bootstrap_of_nothing_is_nan_and_of_equal_values_that_value():
    assert np.isnan(bootstrap_interval([])).all()
    assert bootstrap_interval([0.5] * 5) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "groups"), [([1, math.nan], None), ([1, 2], [0]), ([math.inf, 1], [0, 1])]
)
def test_bootstrap_refuses_what_is_not_finite_or_not_grouped(values, groups):
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval(values, groups=groups)


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50).filter(bool), min_size=1, max_size=9, unique_by=abs))
def test_wilcoxon_counts_the_signs_at_least_as_uneven(differences):
    ranks = stats.rankdata(np.abs(differences))
    middle = ranks.sum() / 2
    observed = abs(ranks[np.array(differences) > 0].sum() - middle)
    signs = np.array(list(itertools.product([0, 1], repeat=len(ranks))))
    expected = np.mean(np.abs(signs @ ranks - middle) >= observed - 1e-9)
    assert paired_wilcoxon(differences, np.zeros(len(differences))) == pytest.approx(min(1, expected))


def test_wilcoxon_leaves_out_equal_pairs_even_through_the_noise_of_floating_point():
    a, b = np.array([0.3, 0.5, 0.2, 0.9, 0.35, 0.8]), np.array([0.1 + 0.2, 0.1, 0.1, 0.2, 0.3, 0.6])
    assert a[0] != b[0]
    assert paired_wilcoxon(a, b) == paired_wilcoxon(a[1:], b[1:]) == pytest.approx(2 / 2**5)


def test_wilcoxon_of_equal_pairs_is_1_and_of_none_nan():
    assert paired_wilcoxon([0.2, 0.1], [0.2, 0.1]) == 1
    assert math.isnan(paired_wilcoxon([], []))


@pytest.mark.parametrize(("a", "b"), [([1], [1, 2]), ([math.nan], [1])])
def test_wilcoxon_refuses_what_is_not_paired(a, b):
    with pytest.raises(ValueError, match="one length"):
        paired_wilcoxon(a, b)
