"""Each test and interval against a closed form, brute force, or an independent implementation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.inference import (
    benjamini_hochberg,
    bootstrap_interval,
    correlation,
    crossed_bootstrap,
    crossed_p_value,
    holm,
    mcnemar_exact,
    pair_bootstrap,
    pair_mean,
    pair_median,
    pair_pearson,
    pair_spearman,
    paired_interval,
    paired_wilcoxon,
    spearman_interval,
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


def rejected(p, rate):
    """The step-up procedure itself: the i smallest, for the largest i with p_(i) <= i rate / m."""
    order = np.argsort(p)
    below = [i + 1 for i in range(len(p)) if p[order[i]] * len(p) <= (i + 1) * rate * (1 + 1e-12)]
    return set(order[: max(below, default=0)])


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.02, 0.5])), min_size=1, max_size=12))
def test_adjusted_p_values_are_the_smallest_rates_that_reject(p):
    p = np.round(p, 6)
    q = benjamini_hochberg(p)
    rates = sorted({1.0, *(min(1.0, len(p) * value / i) for value in p for i in range(1, len(p) + 1))})
    for i, found in enumerate(q):
        expected = next((rate for rate in rates if i in rejected(p, rate)), 1.0)
        assert found == pytest.approx(expected, abs=1e-12)
    assert np.all(q >= p)


def test_benjamini_and_hochbergs_own_example():
    # Section 3.2 of the paper of 1995: 15 tests, of which 4 are rejected at 0.05, and by Bonferroni 3.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    q = benjamini_hochberg(p)
    assert (q < 0.05).tolist() == [True] * 4 + [False] * 11
    assert q[:5] == pytest.approx([0.0015, 0.003, 0.0095, 0.035625, 0.0603])


def test_false_discoveries_are_as_rare_as_the_rate_says():
    draw, effects = np.random.default_rng(4), np.repeat([0.0, 3.0], [16, 4])
    shares, uncorrected = [], []
    for _ in range(3_000):
        p = 2 * stats.norm.sf(np.abs(draw.normal(effects)))
        for tests, into in [(benjamini_hochberg(p) < 0.05, shares), (p < 0.05, uncorrected)]:
            into.append(tests[:16].sum() / max(1, tests.sum()))
    assert np.mean(shares) == pytest.approx(0.05 * 16 / 20, abs=0.008)  # exactly this if independent
    assert np.mean(uncorrected) > 0.15


def test_tests_that_do_not_exist_are_neither_adjusted_nor_counted():
    p = np.array([[0.01, math.nan], [0.03, 0.5]])
    q = benjamini_hochberg(p)
    assert q.shape == p.shape and np.isnan(q[0, 1])
    np.testing.assert_array_equal(q[[0, 1, 1], [0, 0, 1]], benjamini_hochberg([0.01, 0.03, 0.5]))
    assert np.isnan(benjamini_hochberg([math.nan])).all() and benjamini_hochberg([]).shape == (0,)
    for impossible in (-0.1, 1.1):
        with pytest.raises(ValueError):
            benjamini_hochberg([0.5, impossible])


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(n, share, confidence):
    successes = round(share * n)
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(successes, n, confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_p_values_are_those_of_all_intersections(p):
    """Closed testing: a claim falls where each set of claims it is in falls by Bonferroni."""
    sets = [of for size in range(1, len(p) + 1) for of in itertools.combinations(range(len(p)), size)]
    bonferroni = {of: min(1.0, len(of) * min(p[i] for i in of)) for of in sets}
    expected = [max(value for of, value in bonferroni.items() if i in of) for i in range(len(p))]
    assert holm(p) == pytest.approx(expected)
    if len(set(p)) == len(p):
        order = np.argsort(p)
        assert (np.diff(holm(p)[order]) >= 0).all()


def test_holm_leaves_out_what_was_not_tested_and_refuses_what_is_no_p_value():
    assert holm([0.04, math.nan, 0.01, 0.03]) == pytest.approx([0.06, math.nan, 0.03, 0.06], nan_ok=True)
    assert len(holm([])) == 0
    for bad in ([-0.1, 0.5], [0.2, 1.1]):
        with pytest.raises(ValueError, match="p-values"):
            holm(bad)


@pytest.mark.parametrize("n", [6, 36])
def test_wilson_intervals_hold_the_truth_as_often_as_they_say_on_average(n):
    successes, truth = np.arange(n + 1), np.linspace(0.005, 0.995, 199)[:, None]
    low, high = wilson_interval(successes, n)
    held = (stats.binom.pmf(successes, n, truth) * ((low <= truth) & (truth <= high))).sum(axis=1)
    assert 0.945 < held.mean() < 0.965 and held.min() > 0.83  # it varies with the truth (Brown et al. 2001)


def test_wilson_of_no_trials_is_nan_and_the_rest_is_unharmed():
    low, high = wilson_interval([0, 5], [0, 10])
    assert np.isnan(low[0]) and np.isnan(high[0])
    assert (low[1], high[1]) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # the textbook's 5 of 10


@pytest.mark.parametrize("bad", [(3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0)])
def test_wilson_refuses_impossible_counts_and_confidences(bad):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(*bad)


def test_paired_interval_is_walds_of_the_samples_and_half_a_sample_in_each_cell():
    low, high = paired_interval([30, 0], [10, 0], [1_000, 50])
    changes = np.repeat([1.0, -1.0, 0.0], [305, 105, 9_610])  # tenths of a sample: 30.5, 10.5 and the rest
    half = stats.norm.ppf(0.975) * changes.std() / math.sqrt(1_002)
    assert (low[0], high[0]) == pytest.approx((changes.mean() - half, changes.mean() + half))
    assert low[1] == -high[1] < 0  # nothing changed, but fifty samples do not prove that nothing would
    assert paired_interval(0, 2, 2)[0] == -1


@pytest.mark.parametrize(("gain", "loss"), [(0.01, 0.01), (0.03, 0.02), (0.004, 0.004)])
def test_paired_intervals_hold_the_truth_about_as_often_as_they_say(gain, loss):
    gained, lost, _ = np.random.default_rng(6).multinomial(1_000, [gain, loss, 1 - gain - loss], 20_000).T
    low, high = paired_interval(gained, lost, 1_000)
    assert 0.94 < np.mean((low <= gain - loss) & (gain - loss <= high)) < 0.985


@pytest.mark.parametrize("bad", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (1, 1, 5, 1.0)])
def test_paired_interval_refuses_impossible_counts_and_confidences(bad):
    with pytest.raises(ValueError, match="needs counts"):
        paired_interval(*bad)


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


# Students s and teachers t: not every student has met every teacher.
CROSSED = {
    "a": {"x": 0.3, "y": 1.0, "z": 2.2},
    "b": {"x": -1.0, "z": 0.4},
    "c": {"x": 0.1, "y": 0.7, "z": 0.9},
}
CROSSED["d"] = {"x": -0.5, "y": 0.2, "z": 1.4}


def unrolled(table):
    """A table of trials as values and the labels of their students and teachers."""
    rows = [(value, s, t) for s, row in table.items() for t, value in row.items()]
    return [list(column) for column in zip(*rows, strict=True)]


def resampled_mean(students, teachers):
    """The mean of what a resample of `CROSSED` holds, written out."""
    return np.mean([CROSSED[s][t] for s in students for t in teachers if t in CROSSED[s]])


def test_crossed_bootstrap_equals_all_resamples_of_both_stretched_by_the_formula():
    students, teachers = list("abcd"), list("xyz")
    drawn_s, drawn_t = (list(itertools.product(names, repeat=len(names))) for names in (students, teachers))
    # In one of them only b and y are drawn, who have not met.
    every = [
        resampled_mean(s, t) for s in drawn_s for t in drawn_t if not (set(s) == {"b"} and set(t) == {"y"})
    ]
    v_s, v_t = (
        np.var([resampled_mean(s, teachers) for s in drawn_s]),
        np.var([resampled_mean(students, t) for t in drawn_t]),
    )
    u_s, u_t = v_s * 4 / 3, v_t * 3 / 2
    df = (u_s + u_t) ** 2 / (u_s**2 / 3 + u_t**2 / 2)
    stretch = math.sqrt((u_s + u_t) / (v_s + v_t)) * stats.t.ppf(0.8, df) / stats.norm.ppf(0.8)
    assert 2 < df < 5 and stretch > 1.2
    mean = resampled_mean(students, teachers)
    expected = mean + stretch * (np.quantile(every, [0.2, 0.8]) - mean)
    found = crossed_bootstrap(*unrolled(CROSSED), confidence=0.6, resamples=60_000)
    assert found == pytest.approx(expected, abs=0.03)


def crossed_table(seed, students=5, teachers=4, share=0.7):
    """Values of about `share` of the trials of a crossing, and their labels in a random order."""
    draw = np.random.default_rng(seed)
    s, t = np.divmod(draw.permutation(students * teachers)[: int(share * students * teachers)], teachers)
    return draw.normal(size=len(s)), np.array(list("ABCDEFGHIJ"))[s], np.array(list("abcdefghij"))[t]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1_000), st.floats(-5, 5), st.floats(0.1, 5))
def test_crossed_intervals_move_and_scale_with_their_values_and_hold_the_mean(seed, shift, scale):
    values, students, teachers = crossed_table(seed)
    order = np.random.default_rng(seed).permutation(len(values))
    low, high = crossed_bootstrap(values, students, teachers, resamples=300)
    assert low <= values.mean() <= high
    moved = crossed_bootstrap(
        (shift + scale * values)[order], students[order], teachers[order], resamples=300
    )
    assert moved == pytest.approx((shift + scale * low, shift + scale * high), abs=1e-9)
    renamed = crossed_bootstrap(values, np.char.add("s", students), np.char.add("s", teachers), resamples=300)
    assert renamed == (low, high)  # a model of one name in both roles is drawn in each by itself
    cut = crossed_bootstrap(values, students, teachers, resamples=300, bounds=(low + 0.01, high - 0.01))
    assert cut == pytest.approx((low + 0.01, high - 0.01))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_000))
def test_any_statistic_of_weights_is_given_those_of_the_mean(seed):
    values, students, teachers = crossed_table(seed)

    def mean(values, weights):
        assert np.all(weights == np.floor(weights)) and weights.shape[1] == len(values)
        with np.errstate(invalid="ignore"):
            return (weights * values).sum(axis=1) / weights.sum(axis=1)

    for of in ((students, teachers), (students, None), (students[:1].repeat(len(values)), teachers)):
        expected = crossed_bootstrap(values, *of, resamples=300)
        assert crossed_bootstrap(values, *of, mean, resamples=300) == pytest.approx(expected, abs=1e-9)


def test_one_factor_is_drawn_alone_where_the_other_does_not_vary():
    values, students, _ = crossed_table(1, share=1.0)
    alone = crossed_bootstrap(values, students)
    count = len(values)
    assert alone == crossed_bootstrap(values, students, [None] * count)
    assert alone == crossed_bootstrap(values, students, ["x"] * count)
    assert alone == pytest.approx(crossed_bootstrap(values, ["x"] * count, students))
    means = [values[students == name].mean() for name in sorted(set(students))]
    assert alone == pytest.approx(crossed_bootstrap(means, range(5)))  # equally large groups are their means


def test_crossed_interval_of_many_students_alone_is_students_t():
    values = np.random.default_rng(0).normal(3, 2, 400)
    half = stats.t.ppf(0.975, 399) * values.std(ddof=1) / math.sqrt(400)
    found = crossed_bootstrap(values, np.arange(400))
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_crossed_bootstrap_says_nothing_of_one_trial_or_of_models_that_rarely_met():
    nothing = pytest.approx((math.nan, math.nan), nan_ok=True)
    assert crossed_bootstrap([], []) == nothing
    assert crossed_bootstrap([1.0, 2.0], ["a", "a"], ["x", "x"]) == nothing
    # Two students with a teacher each: in one resample of eight nobody met.
    assert crossed_bootstrap([1.0, 2.0], ["a", "b"], ["x", "y"]) == nothing
    assert crossed_bootstrap([0.1] * 6, list("aabbcc"), list("xyxyxy")) == (0.1, 0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-1.5, 1.5))
def test_a_crossed_p_value_is_where_the_interval_just_holds_the_null(seed, null):
    draw = np.random.default_rng(seed)
    students, teachers = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    values = draw.normal(size=12) + draw.normal(size=4)[students] + draw.normal(size=3)[teachers]
    of = values, students, teachers
    p = crossed_p_value(*of, null=null, resamples=500)
    low, high = crossed_bootstrap(*of, resamples=500)
    assert (p < 0.05) == (not low <= null <= high)
    if 1 / 500 < p < 1:
        bounds = crossed_bootstrap(*of, confidence=1 - p, resamples=500)
        assert min(abs(bound - null) for bound in bounds) < 1e-6 * (1 + np.ptp(values))
    shifted = crossed_p_value(values - null, students, teachers, resamples=500)
    assert p == pytest.approx(shifted, rel=1e-4)


def test_a_crossed_p_value_of_many_students_is_students_t():
    values = np.random.default_rng(5).normal(0.25, 1, 60)
    expected = stats.ttest_1samp(values, 0).pvalue
    assert crossed_p_value(values, np.arange(60), resamples=20_000) == pytest.approx(expected, rel=0.25)


def test_a_crossed_p_value_where_there_is_nothing_to_test_or_nothing_left():
    assert math.isnan(crossed_p_value([1.0, 2.0], ["a", "a"], ["x", "x"]))
    assert crossed_p_value([1.0, 1.0, 1.0], list("abc"), null=1.0) == 1.0
    assert crossed_p_value([1.0, 1.0, 1.0], list("abc"), resamples=400) == 1 / 400


def test_crossed_bootstrap_is_deterministic_and_follows_its_seed():
    table = crossed_table(2)
    assert crossed_bootstrap(*table) == crossed_bootstrap(*table) != crossed_bootstrap(*table, seed=1)


@pytest.mark.parametrize(
    ("values", "students", "teachers"),
    [
        ([1, math.nan], "ab", "xy"),
        ([1, 2], ["a", None], "xy"),
        ([1, 2], "ab", ["x", None]),
        ([1, 2], "abc", "xy"),
        ([1, 2], "ab", "x"),
    ],
)
def test_crossed_bootstrap_refuses_what_is_not_finite_or_labelled(values, students, teachers):
    with pytest.raises(ValueError, match="needs"):
        crossed_bootstrap(values, list(students), list(teachers))


@pytest.mark.parametrize(
    ("students", "teachers", "effects", "low", "high"),
    [  # standard deviations of students' and teachers' effects, and of the rest
        (6, 6, (1, 1, 1), 0.93, 0.99),
        (6, 4, (1, 0, 0.3), 0.90, 0.98),
        (6, 4, (0, 1, 0.3), 0.90, 0.98),
        (20, 20, (1, 1, 1), 0.92, 0.98),
        (20, 20, (0, 1, 0.3), 0.92, 0.98),
        (20, 20, (0, 0, 1), 0.99, 1.00),  # conservative where neither has an effect
    ],
)
def test_crossed_intervals_hold_the_truth_about_as_often_as_they_say(students, teachers, effects, low, high):
    draw = np.random.default_rng(5)
    s, t = (index.ravel() for index in np.indices((students, teachers)))
    hits, widths, alone = [], [], []
    for _ in range(800):
        of_student, of_teacher, rest = (
            sd * draw.normal(size=size)
            for sd, size in zip(effects, (students, teachers, len(s)), strict=True)
        )
        values = of_student[s] + of_teacher[t] + rest
        bounds = crossed_bootstrap(values, s, t, resamples=499)
        hits.append(bounds[0] <= 0 <= bounds[1])
        widths.append(bounds[1] - bounds[0])
        bounds = crossed_bootstrap(values, s, resamples=499)
        alone.append(bounds[0] <= 0 <= bounds[1])
    assert low <= np.mean(hits) <= high
    if effects[1] and not effects[0]:
        assert np.mean(alone) < 0.5  # students drawn alone: why teachers are drawn too
    if not any(effects[:2]):
        assert 1.6 < np.mean(widths) / (2 * 1.96 / math.sqrt(len(s))) < 2.2  # and by how much


def test_spearman_equals_a_published_example():
    # Of the function for this interval in statpsych, the R package of D. G. Bonett.
    y = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19]
    x = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51]
    assert spearman_interval(x, y) == pytest.approx((0.8699639, 0.5840951, 0.9638297), abs=1e-7)


ranked = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=4, max_size=20)


@settings(deadline=None)
@given(ranked)
def test_spearman_equals_scipy_and_depends_on_ranks_alone(rows):
    x, y = np.array(rows, float).T
    rho, low, high = spearman_interval(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan([rho, low, high]).all()
        return
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    assert -1 <= low <= rho <= high <= 1 and high - low > 0.01  # never as if it were known
    assert spearman_interval(np.exp(x / 3), y**3) == pytest.approx((rho, low, high))
    assert spearman_interval(x, -y) == pytest.approx((-rho, -high, -low))
    narrower = spearman_interval(x, y, 0.5)
    assert low <= narrower[1] <= narrower[2] <= high


def test_a_perfect_correlation_has_a_bound_below_that_of_the_next_one_possible():
    rho, low, high = spearman_interval(range(6), range(6))
    swapped = spearman_interval(range(6), [0, 1, 2, 3, 5, 4])
    assert (rho, high) == (1, 1) and swapped[0] == pytest.approx(1 - 12 / 210)
    assert swapped[1] < low < 0.99
    assert low == pytest.approx(
        math.tanh(math.atanh(r := 1 - 6 / 210) - 1.959964 * math.sqrt((1 + r * r / 2) / 3))
    )


def test_spearman_needs_four_pairs_and_leaves_out_incomplete_ones():
    assert np.isnan(spearman_interval([1, 2, 3], [1, 2, 3])).all()
    x, y = [1, 2, math.nan, 3, 4, 5], [2, 1, 3, 4, math.nan, 6]
    assert np.isfinite(spearman_interval(x, y)).all()
    assert spearman_interval(x, y) == spearman_interval([1, 2, 3, 5], [2, 1, 4, 6])
    for bad in [([1, 2], [1]), ([1, 2], [1, 2], 1.0)]:
        with pytest.raises(ValueError, match="needs two arrays"):
            spearman_interval(*bad)


# --- Pearson's and Kendall's ----------------------------------------------------------------------


@settings(deadline=None)
@given(ranked.filter(lambda rows: len(rows) > 4))
def test_correlations_are_scipys_with_their_p(rows):
    x, y = np.array(rows, float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(correlation(x, y)[:4]).all()
        return
    for kind, of_scipy in (("pearson", stats.pearsonr), ("kendall", stats.kendalltau)):
        found = correlation(x, y, kind)
        expected = of_scipy(x, y)
        assert (found.value, found.p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-9)
        assert -1 <= found.low <= found.value <= found.high <= 1 and found.n == len(rows)
        assert correlation(x, -y, kind)[:3] == pytest.approx((-found.value, -found.high, -found.low))


def test_pearsons_interval_is_fishers():
    """Of scipy, which has that one."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=12)
    y = x + draw.normal(size=12)
    expected = stats.pearsonr(x, y).confidence_interval(0.9)
    assert correlation(x, y, "pearson", 0.9)[1:3] == pytest.approx((expected.low, expected.high))
    assert correlation(x, 2 * x)[:3] == pytest.approx((1, 1, 1))


def test_kendalls_interval_by_hand():
    x, y = range(9), [0, 1, 2, 3, 5, 4, 6, 8, 7]  # 2 of 36 pairs are in another order
    tau = 1 - 2 * 2 / 36
    half = 1.959964 * math.sqrt(0.437 / 5)
    bounds = (math.tanh(math.atanh(tau) - half), math.tanh(math.atanh(tau) + half))
    assert correlation(x, y, "kendall")[:3] == pytest.approx((tau, *bounds), abs=1e-6)
    perfect = correlation(x, x, "kendall")
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low == pytest.approx(math.tanh(math.atanh(1 - 1 / 36) - half), abs=1e-6)
    assert perfect.p == pytest.approx(2 / math.factorial(9))
    assert np.isnan(correlation(range(4), range(4), "kendall")[:4]).all()


@pytest.mark.parametrize(("kind", "n"), [("pearson", 9), ("kendall", 9), ("kendall", 25)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(kind, n):
    draw, normals = np.random.default_rng(3), 0.6  # Pearson's correlation of two normal variables
    truth = normals if kind == "pearson" else 2 / math.pi * math.asin(normals)
    hits = []
    for _ in range(1_000):
        x, noise = draw.normal(size=(2, n))
        found = correlation(x, normals * x + math.sqrt(1 - normals**2) * noise, kind)
        hits.append(found.low <= truth <= found.high)
    assert 0.92 < np.mean(hits) < 0.985


@pytest.mark.parametrize(("pearson", "n"), [(0.0, 8), (0.6, 12), (0.9, 30)])
def test_spearman_intervals_hold_the_truth_about_as_often_as_they_say(pearson, n):
    draw = np.random.default_rng(7)
    truth = 6 / math.pi * math.asin(pearson / 2)  # of two normal variables
    hits = []
    for _ in range(1_000):
        x, e = draw.normal(size=(2, n))
        _, low, high = spearman_interval(x, pearson * x + math.sqrt(1 - pearson**2) * e)
        hits.append(low <= truth <= high)
    assert 0.93 <= np.mean(hits) <= 0.98


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
