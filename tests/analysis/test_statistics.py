"""Each test and interval against a closed form, brute force, or an independent implementation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    bootstrap_interval,
    mcnemar_exact,
    pair_bootstrap,
    pair_mean,
    pair_median,
    pair_pearson,
    pair_spearman,
    paired_wilcoxon,
    wilson_interval,
)

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


def pairs_of(drawn, *matrices):
    """What a resample holds, by loops: the pairs of two distinct models among those drawn, where known."""
    chosen = [(s, t) for s, t in itertools.product(drawn, repeat=2) if s != t]
    values = np.array([[matrix[pair] for matrix in matrices] for pair in chosen]).reshape(-1, len(matrices))
    return values[np.isfinite(values).all(axis=1)].T


def few_values(seed, models):
    """[models, models] with ties and unknown pairs."""
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 6, (models, models)) / 5
    values[draw.random((models, models)) < 0.2] = np.nan
    np.fill_diagonal(values, np.nan)
    return values


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=6, max_size=6), st.integers(0, 50))
@example([0, 0, 1, 2, 2, 2], 6)  # equal values whose variance is not 0 in floating point
def test_statistics_of_pairs_equal_those_of_the_pairs_written_out(drawn, seed):
    x, y = few_values(seed, 6), few_values(seed + 1_000, 6)
    weights = np.bincount(drawn, minlength=6)[None].astype(float)
    (of_x,), (a, b) = pairs_of(drawn, x), pairs_of(drawn, x, y)
    for make, expected in [(pair_mean, np.mean), (pair_median, np.median)]:
        found = make(x)(np.repeat(weights, 2, axis=0))
        assert found == pytest.approx([expected(of_x) if len(of_x) else math.nan] * 2, nan_ok=True)
    vary = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    for make, expected in [(pair_pearson, stats.pearsonr), (pair_spearman, stats.spearmanr)]:
        found = make(x, y)(weights)
        wanted = expected(a, b).statistic if vary else math.nan
        assert found == pytest.approx([wanted], abs=1e-9, nan_ok=True)


def test_pair_bootstrap_equals_all_resamples():
    values = np.random.default_rng(2).normal(size=(5, 5))
    np.fill_diagonal(values, np.nan)
    every = [pairs_of(drawn, values)[0] for drawn in itertools.product(range(5), repeat=5)]
    means = [resample.mean() for resample in every if len(resample)]
    found = pair_bootstrap(pair_mean(values), 5, confidence=0.6, resamples=40_000)
    assert found == pytest.approx(expanded_quantiles(means, 5, 0.6), abs=0.03)


def test_intervals_of_pairs_hold_the_truth_about_as_often_as_they_say():
    draw = np.random.default_rng(3)
    hits, independent = [], []
    for _ in range(300):
        model = draw.normal(size=12)  # each of 12 models is in 22 pairs, and moves all of them
        values = model[:, None] + model + draw.normal(size=(12, 12))
        np.fill_diagonal(values, np.nan)
        low, high = pair_bootstrap(pair_mean(values), 12, resamples=500)
        hits.append(low <= 0 <= high)
        known = values[np.isfinite(values)]
        independent.append(abs(known.mean()) < 1.96 * known.std() / math.sqrt(len(known)))
    assert 0.90 <= np.mean(hits) <= 0.98
    assert np.mean(independent) < 0.6  # pairs taken as independent: why models are drawn


def test_pair_bootstrap_says_nothing_of_too_few_models_or_pairs():
    values = np.where(np.eye(3), np.nan, np.arange(9.0).reshape(3, 3))
    assert all(math.isnan(bound) for bound in pair_bootstrap(pair_mean(values), 3))
    rare = np.full((6, 6), np.nan)
    rare[0, 1] = 1  # in less than half of the resamples: an interval of those would be [1, 1]
    assert all(math.isnan(bound) for bound in pair_bootstrap(pair_mean(rare), 6))


def test_pair_bootstrap_is_deterministic_and_follows_its_seed():
    values = np.random.default_rng(0).normal(size=(9, 9))
    np.fill_diagonal(values, np.nan)
    statistic = pair_mean(values)
    assert pair_bootstrap(statistic, 9) == pair_bootstrap(statistic, 9)
    assert pair_bootstrap(statistic, 9) != pair_bootstrap(statistic, 9, seed=1)
