"""How sure a number is: exact tests and intervals for paired transfer trials.

Short functions on arrays. What the analysis scripts compare is paired (one student before and after,
two methods on one pair of models) and crossed (a trial shares its student with some trials and its
teacher with others), so the tests here are paired, and `crossed_bootstrap` resamples whole students and
whole teachers. Numbers of a whole zoo are made of pairs of models in two roles at once, so
`pair_bootstrap` resamples models. Many tests at once are corrected by `benjamini_hochberg`, the claims of a
study by `holm`.

Left out on purpose: models of the data (mixed effects, Bayesian hierarchies).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


def mcnemar_exact(gained, lost) -> np.ndarray:
    """Two-sided exact McNemar test: were as many samples gained as lost?

    Under the null hypothesis each of the b + c samples whose correctness changed is gained with
    probability 1/2, so p = min(1, 2 P[Binomial(b + c, 1/2) <= min(b, c)]) (McNemar 1947; the exact
    form is the sign test). p is 1 where nothing changed.

    Args:
        gained: [...] whole numbers >= 0, samples wrong before and right after.
        lost: [...] whole numbers >= 0, samples right before and wrong after; broadcast with `gained`.

    Returns:
        [...] float64 p-values in (0, 1].

    Raises:
        ValueError: a count is negative or not whole.
    """
    gained, lost = np.asarray(gained), np.asarray(lost)
    for counts in (gained, lost):
        if np.any(counts < 0) or np.any(counts != np.floor(counts)):
            raise ValueError("counts must be whole numbers >= 0")
    return np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))


def benjamini_hochberg(p) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values: rejecting q <= a keeps the false discovery rate at a or below.

    Of m sorted p-values, q_(i) = min over j >= i of m p_(j) / j, at most 1 (Benjamini and Hochberg,
    "Controlling the False Discovery Rate", Journal of the Royal Statistical Society B 57, 1995). The rate
    is controlled for independent tests and for those that depend positively (Benjamini and Yekutieli,
    2001), not for every dependence.

    Args:
        p: [...] p-values in [0, 1] of one family of tests; NaN where there was no test, which is neither
            adjusted nor counted.

    Returns:
        [...] float64, q >= p; NaN where `p` is.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    p = np.asarray(p, float)
    q, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def holm(p) -> np.ndarray:
    """Holm's adjusted p-values: rejecting those <= a keeps the chance of any false rejection at a or below.

    Of m sorted p-values the i-th is max over j <= i of (m - j + 1) p_(j), at most 1 (Holm, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979). It holds for
    any dependence of the tests. `benjamini_hochberg` bounds the share of false rejections instead.

    Args:
        p: [N] p-values in [0, 1] of one family of tests; NaN where there was no test, which is neither
            adjusted nor counted.

    Returns:
        [N] float64, at least `p`; NaN where `p` is.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    p = np.asarray(p, float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    if np.any(p[known] < 0) or np.any(p[known] > 1):
        raise ValueError("p-values must lie in [0, 1]")
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted


def wilson_interval(successes, n, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion of independent trials (Wilson 1927).

    Centre (p + z²/2n) / (1 + z²/n), half width z sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n).

    Args:
        successes: [...] counts in [0, n].
        n: [...] counts >= 0; broadcast with `successes`.
        confidence: in (0, 1).

    Returns:
        (low, high), each [...] float64 in [0, 1]; NaN where n is 0.

    Raises:
        ValueError: a count of successes outside [0, n], or a confidence outside (0, 1).
    """
    successes, n = np.asarray(successes, float), np.asarray(n, float)
    if np.any(successes < 0) or np.any(successes > n) or not 0 < confidence < 1:
        raise ValueError("needs 0 <= successes <= n and 0 < confidence < 1")
    z = stats.norm.ppf((1 + confidence) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = successes / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def paired_interval(gained, lost, n, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a difference of two proportions of the same samples: of one trial's transfer delta.

    Wald's, after half a sample is added to each of the four cells (right or wrong, before and after), which
    makes it hold its confidence for few changed samples too (Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24, 2005).

    Args:
        gained: [...] counts of samples wrong before and right after.
        lost: [...] counts of samples right before and wrong after; broadcast with `gained`.
        n: [...] counts of all samples, at least `gained` + `lost`.
        confidence: in (0, 1).

    Returns:
        (low, high), each [...] float64 in [-1, 1], fractions of the samples.

    Raises:
        ValueError: a negative count, fewer samples than changed ones, or a confidence outside (0, 1).
    """
    gained, lost, n = (np.asarray(counts, float) for counts in (gained, lost, n))
    if np.any(gained < 0) or np.any(lost < 0) or np.any(gained + lost > n) or not 0 < confidence < 1:
        raise ValueError("needs counts >= 0, gained + lost <= n, and 0 < confidence < 1")
    up, down, total = gained + 0.5, lost + 0.5, n + 2
    difference = (up - down) / total
    z = stats.norm.ppf((1 + confidence) / 2)
    half = z * np.sqrt((up + down) - (up - down) ** 2 / total) / total
    return np.clip(difference - half, -1, 1), np.clip(difference + half, -1, 1)


def bootstrap_interval(
    values,
    statistic: Callable = np.nanmean,
    groups=None,
    *,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a statistic, resampling whole groups (cluster bootstrap).

    Trials of one student rise and fall together, so the unit drawn with replacement is the student
    with all its trials. Plain percentile intervals of few units are too narrow (of 6 normal units,
    95 % intervals hold the mean 88 % of the time); the quantiles are therefore moved outwards (94 %) to
    those that would give Student's t for a mean, alpha'/2 = Phi(-sqrt(G/(G-1)) t_{alpha/2, G-1}): the
    "expanded percentile interval" of Hesterberg, "What Teachers Should Know About the Bootstrap",
    The American Statistician 69 (2015). It tends to the plain interval as the groups G grow in number.

    Args:
        values: [N] finite numbers.
        statistic: function of ([..., M] float64, axis=-1) that gives [...] and ignores NaN, such as
            `np.nanmean` or `np.nanmedian`: groups of unequal size are padded with NaN.
        groups: [N] labels of the groups; None: each value is its own.
        confidence: in (0, 1).
        resamples: number of bootstrap resamples.
        seed: the same seed gives the same interval.

    Returns:
        (low, high); (NaN, NaN) for fewer than two groups, which say nothing about their spread.

    Raises:
        ValueError: a value is not finite, or `groups` has another length than `values`.
    """
    values = np.asarray(values, float)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    if not np.all(np.isfinite(values)) or len(groups) != len(values):
        raise ValueError("needs finite values and one group label a value")
    _, group_of_value, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count < 2:
        return float("nan"), float("nan")
    padded = np.full((count, sizes.max()), np.nan)
    padded[np.arange(sizes.max()) < sizes[:, None]] = values[np.argsort(group_of_value, kind="stable")]

    def of_resample(drawn, axis):  # drawn: [..., G] indices of groups
        return statistic(padded[drawn].reshape(*drawn.shape[:-1], -1), axis=axis)

    tail = _tail(count, confidence)
    interval = stats.bootstrap(
        (np.arange(count),),
        of_resample,
        vectorized=True,
        axis=-1,
        n_resamples=resamples,
        batch=max(1, 2**22 // padded.size),  # bounds the memory: 32 MiB a copy
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _tail(units: int, confidence: float) -> float:
    """The quantile of the expanded percentile interval's lower bound (see `bootstrap_interval`)."""
    return stats.norm.cdf(-np.sqrt(units / (units - 1)) * stats.t.ppf((1 + confidence) / 2, units - 1))


def crossed_bootstrap(
    values,
    students,
    teachers=None,
    statistic: str | Callable = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = 4_999,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval for trials of students crossed with teachers, both drawn from many.

    Trials that share a student are not independent, nor are those that share a teacher. So students and
    teachers are each drawn with replacement, independently, and a trial's weight is the number of times
    its student was drawn times that of its teacher: the pigeonhole bootstrap (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1, 2007). Not every student needs to have met every teacher, and
    a model in both roles is drawn in each by itself. What did not vary (a single teacher) is not drawn.
    Quantiles of few levels lie too close, so they are stretched (`_stretch`); docs/statistics.md says how
    often the interval holds.

    Args:
        values: [N] finite numbers, one a trial.
        students: [N] labels.
        teachers: [N] labels; None, or all of them null: trials without teachers.
        statistic: "mean", or a function of (values [N], weights [R, N], whole numbers as float64) that
            gives [R], NaN for weights of which it is not defined; weights of 1 give the estimate.
        confidence: in (0, 1).
        resamples: number of bootstrap resamples.
        bounds: what the statistic cannot leave, such as (0, 1) for a share; the interval is cut there.
        seed: the same seed gives the same interval.

    Returns:
        (low, high), which hold the estimate; (NaN, NaN) if neither students nor teachers vary, or if in
        more than one resample in twenty the statistic is not defined (the students drawn met none of the
        teachers drawn). All values equal: that value twice, however few they are.

    Raises:
        ValueError: a value is not finite, a label of a student or of some teachers only is null, or the
            lengths differ.
    """
    return _drawn(values, students, teachers, statistic, resamples, seed).interval(confidence, bounds)


def crossed_p_value(
    values,
    students,
    teachers=None,
    statistic: str | Callable = "mean",
    *,
    null: float = 0.0,
    resamples: int = 4_999,
    seed: int = 0,
) -> float:
    """The two-sided p-value that goes with `crossed_bootstrap`: of its intervals without the null the widest.

    It is 1 - c, with c the largest confidence whose interval does not hold `null`: so it is below 0.05 just
    where the 95 % interval leaves the null out.

    Args:
        values, students, teachers, statistic, resamples, seed: as `crossed_bootstrap` takes them.
        null: the value of the statistic that is tested.

    Returns:
        p in [1 / resamples, 1], below which resamples tell nothing; NaN where there is no interval.
    """
    drawn = _drawn(values, students, teachers, statistic, resamples, seed)
    least, most = 1 / resamples, 1.0
    if np.isnan(drawn.interval(0.95)[0]):
        return float("nan")

    def without(p: float) -> bool:
        low, high = drawn.interval(1 - p)
        return not low <= null <= high

    if null == drawn.estimate:
        return 1.0
    if without(least):
        return least
    for _ in range(30):
        middle = np.sqrt(least * most)
        least, most = (least, middle) if without(middle) else (middle, most)
    return float(most)


class _Drawn(NamedTuple):
    """A statistic of trials that were drawn anew: its estimate, the resamples' values, and how they vary.

    Attributes:
        estimate: of the data; NaN where there is no interval.
        both: [R], where students and teachers were drawn.
        variances: [2], of resamples of students alone and of teachers alone.
        levels: [2], how many students and teachers there are.
    """

    estimate: float
    both: np.ndarray
    variances: np.ndarray
    levels: np.ndarray

    def interval(self, confidence: float, bounds: tuple[float, float] = (-np.inf, np.inf)):
        """As `crossed_bootstrap` says."""
        if np.isnan(self.estimate):
            return float("nan"), float("nan")
        stretch = _stretch(self.variances, self.levels, confidence)
        quantiles = np.quantile(self.both, [(1 - confidence) / 2, (1 + confidence) / 2])
        low, high = quantiles - self.estimate
        low, high = self.estimate + stretch * min(low, 0.0), self.estimate + stretch * max(high, 0.0)
        return float(max(low, bounds[0])), float(min(high, bounds[1]))


def _drawn(values, students, teachers, statistic, resamples: int, seed: int) -> _Drawn:
    values = np.asarray(values, float)
    (of_student, S), (of_teacher, T) = _levels(students, len(values)), _levels(teachers, len(values))
    if not np.all(np.isfinite(values)) or (of_student < 0).any() or 0 < (of_teacher < 0).sum() < len(values):
        raise ValueError("needs finite values, a student each, and a teacher for all of them or for none")
    none = _Drawn(float("nan"), np.zeros(0), np.zeros(2), np.array([S, T]))
    if max(S, T) < 2:
        return none
    ones, drawn = _multiplicities_of(S, T, resamples, seed)
    evaluate = _crossed_mean if statistic == "mean" else _crossed_statistic(statistic)
    of_weights = evaluate(values, of_student, np.maximum(of_teacher, 0), ones)
    (estimate,) = of_weights(*ones)
    both = of_weights(*drawn)
    both = both[np.isfinite(both)]
    if len(both) < 0.95 * resamples or not np.isfinite(estimate):
        return none
    variances = [_variance_of_known(of_weights(*w)) for w in ((drawn[0], ones[1]), (ones[0], drawn[1]))]
    return _Drawn(float(estimate), both, np.array(variances), np.array([S, T]))


def _stretch(variances: np.ndarray, levels: np.ndarray, confidence: float) -> float:
    """By how much the quantiles of `crossed_bootstrap` are moved away from the estimate.

    Of 6 x 4 or 12 x 3 plain 95 % intervals hold the mean as rarely as 83 % or 76 % of the time. The factor
    makes Student's t of a normal distribution's quantiles:

        k = sqrt((S/(S-1) v_S + T/(T-1) v_T) / (v_S + v_T)) t_df / z

    v_S and v_T are the variances of resamples of students alone and of teachers alone, S and T the numbers
    of levels, and df those of Satterthwaite for the sum: between min(S, T) - 1 and S + T - 2. It is the
    correction of Hesterberg's expanded percentile interval (see `bootstrap_interval`), but of distances: no
    quantile of two or three teachers lies further out than the outermost of them."""
    freedom = np.maximum(levels - 1, 1)
    unbiased = variances * (freedom + 1) / freedom
    if unbiased.sum() <= 0:
        return 1.0
    df = unbiased.sum() ** 2 / (unbiased**2 / freedom).sum()
    stretch = np.sqrt(unbiased.sum() / variances.sum()) * stats.t.ppf((1 + confidence) / 2, df)
    return float(stretch / stats.norm.ppf((1 + confidence) / 2))


def _variance_of_known(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.var()) if len(known) else 0.0


def _levels(labels, count: int) -> tuple[np.ndarray, int]:
    """The place of each label among the distinct ones in order, -1 for null, [N]; and how many there are."""
    if labels is None:
        return np.full(count, -1), 0
    if len(labels) != count:
        raise ValueError(f"needs one label a value: {count}, not {len(labels)}")
    codes, distinct = pd.factorize(np.asarray(labels, object), sort=True)
    return codes, len(distinct)


@functools.lru_cache(maxsize=4)  # intervals of a report are mostly of the same students and teachers
def _multiplicities_of(S: int, T: int, resamples: int, seed: int) -> tuple[tuple, tuple]:
    """Students' and teachers' multiplicities of the data, 1 each, and of the resamples: of what varies."""
    rng = np.random.default_rng(seed)
    ones = np.ones((1, max(S, 1))), np.ones((1, max(T, 1)))
    drawn = [
        _multiplicities(rng, n, resamples) if n > 1 else one for n, one in zip((S, T), ones, strict=True)
    ]
    return ones, tuple(drawn)


def _multiplicities(rng: np.random.Generator, levels: int, resamples: int) -> np.ndarray:
    """How often each level is drawn, [R, levels] float64."""
    drawn = rng.integers(levels, size=(resamples, levels)) + levels * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * levels)
    return counts.reshape(resamples, levels).astype(float)


def _crossed_mean(values, of_student, of_teacher, ones) -> Callable:
    """The weighted mean as a function of students' [R or 1, S] and teachers' [R or 1, T] multiplicities."""
    # Sums of a table of students and teachers instead of those of trials: no weight of a trial is made.
    shape = ones[0].shape[1], ones[1].shape[1]
    place = of_student * shape[1] + of_teacher
    middle = values.mean()  # equal values shall give exactly that value
    sums, counts = (
        np.bincount(place, weights, shape[0] * shape[1]).reshape(shape) for weights in (values - middle, None)
    )

    tables = np.stack([sums, counts.astype(float)], axis=1)  # [S, 2, T]

    def of_weights(students, teachers):
        if len(teachers) == 1:  # the smaller product
            total, count = (students @ (tables @ teachers[0])).T
        else:
            by_teacher = (students @ tables.reshape(len(tables), -1)).reshape(-1, *tables.shape[1:])
            total, count = (by_teacher * teachers[:, None]).sum(axis=2).T
        with np.errstate(invalid="ignore"):
            return middle + total / count

    return of_weights


def _crossed_statistic(statistic: Callable) -> Callable:
    """Like `_crossed_mean`, for any statistic of (values, weights of trials)."""

    def evaluate(values, of_student, of_teacher, ones):
        batch = max(1, 2**22 // len(values))  # bounds the memory: 32 MiB a copy

        def of_weights(students, teachers):
            count = max(len(students), len(teachers))
            students, teachers = (np.broadcast_to(w, (count, w.shape[1])) for w in (students, teachers))
            return np.concatenate(
                [
                    statistic(
                        values, students[i : i + batch, of_student] * teachers[i : i + batch, of_teacher]
                    )
                    for i in range(0, count, batch)
                ]
            )

        return of_weights

    return evaluate


class Correlation(NamedTuple):
    """A correlation, its interval, the p-value of none, and how many pairs it is of; NaN where undefined."""

    value: float
    low: float
    high: float
    p: float
    n: int


def correlation(
    x, y, kind: Literal["pearson", "spearman", "kendall"] = "pearson", confidence: float = 0.95
) -> Correlation:
    """Pearson's, Spearman's or Kendall's correlation (τ-b) with its interval.

    tanh(atanh(r) +- z s): s² is 1 / (n - 3) of Pearson's (Fisher), (1 + r²/2) / (n - 3) of Spearman's and
    0.437 / (n - 4) of Kendall's (Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall
    and Spearman correlations", Psychometrika 65, 2000). There is no such interval around a perfect
    correlation of ranks; a bound is then that of the correlation half-way between 1 and the next one
    possible, and the other bound 1. p is scipy's, two-sided; of Kendall's exact where there are no ties.

    Args:
        x: [N] numbers; pairs with a NaN in either array are left out.
        y: [N] numbers, paired with `x`; ties share their mean rank.
        kind: which one.
        confidence: in (0, 1).

    Returns:
        NaN for fewer than four pairs (of Kendall's five), or where x or y does not vary.

    Raises:
        ValueError: different lengths, or a confidence outside (0, 1).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or not 0 < confidence < 1:
        raise ValueError("needs two arrays of one length and a confidence in (0, 1)")
    known = ~(np.isnan(x) | np.isnan(y))
    x, y, n = x[known], y[known], int(known.sum())
    if n < (5 if kind == "kendall" else 4) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    match kind:
        case "pearson":
            found, gap, variance = stats.pearsonr(x, y), 1e-12, 1 / (n - 3)
        case "spearman":
            found, gap = stats.spearmanr(x, y), 6 / (n**3 - n)
            variance = (1 + min(abs(found.statistic), 1 - gap) ** 2 / 2) / (n - 3)
        case "kendall":
            found, gap, variance = stats.kendalltau(x, y), 2 / (n**2 - n), 0.437 / (n - 4)
    r, most = round(float(found.statistic), 12), 1 - gap  # 1 is 1, without floating point's noise
    inner = np.clip(r, -most, most)
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance)
    low, high = np.tanh(np.arctanh(inner) - half), np.tanh(np.arctanh(inner) + half)
    low, high = -1.0 if r < -most else float(low), 1.0 if r > most else float(high)
    return Correlation(r, low, high, float(found.pvalue), n)


def spearman_interval(x, y, confidence: float = 0.95) -> tuple[float, float, float]:
    """Spearman's rank correlation and its interval, as `correlation` gives them."""
    return correlation(x, y, "spearman", confidence)[:3]


def pair_bootstrap(
    statistic: Callable, units: int, *, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of a statistic of ordered pairs, resampling the units the pairs are made of.

    Pairs that share a model are not independent: of M models there are M (M - 1) pairs, but only M things
    were drawn. So models are drawn with replacement (Snijders and Borgatti, "Non-parametric standard
    errors and tests for network statistics", Connections 22, 1999): a model drawn w times has weight w,
    a pair of two distinct models the product of theirs, and a pair of a model with its own copy, which
    nothing was observed of, is left out. The interval is the expanded percentile interval of
    `bootstrap_interval`. Not for minima and maxima, for which no bootstrap works.

    Args:
        statistic: function of weights [R, M] (whole numbers) that gives [R], such as `pair_mean` makes;
            NaN where the models drawn have no pair.
        units: M.
        confidence: in (0, 1).
        resamples: number of bootstrap resamples; fewer where M is so large that it would take long.
        seed: the same seed draws the same models.

    Returns:
        (low, high); (NaN, NaN) if more than one resample in twenty has no pair, as with fewer than four
        models: an interval of the rest would be too narrow.
    """
    resamples = int(np.clip(1e8 // units**2, min(200, resamples), resamples))
    drawn = np.random.default_rng(seed).integers(units, size=(resamples, units))
    of_resample = drawn + units * np.arange(resamples)[:, None]
    weights = np.bincount(of_resample.ravel(), minlength=resamples * units).reshape(resamples, units)
    values = statistic(weights.astype(float))
    values = values[np.isfinite(values)]
    if len(values) < 0.95 * resamples:
        return float("nan"), float("nan")
    tail = _tail(units, confidence)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


# Statistics of pairs: each takes what was measured, [M, M] with NaN for pairs that do not count (so on
# the diagonal), and gives a function of weights [R, M] to [R]. Weights of 1 give the ordinary statistic.


def pair_mean(values: np.ndarray) -> Callable:
    """The mean over pairs."""
    counted = np.isfinite(values).astype(float)
    filled = np.where(counted, values, 0.0)

    def statistic(weights):
        with np.errstate(invalid="ignore"):
            return _weighted(filled, weights) / _weighted(counted, weights)

    return statistic


def pair_pearson(x: np.ndarray, y: np.ndarray) -> Callable:
    """Pearson's correlation over the pairs for which both are known; NaN where one does not vary."""
    counted = np.isfinite(x) & np.isfinite(y)
    x, y = (np.where(counted, values - values[counted].mean(), 0.0) for values in (x, y))

    def statistic(weights):
        n, *sums = (_weighted(v, weights) for v in (counted.astype(float), x, y, x * x, y * y, x * y))
        with np.errstate(invalid="ignore"):
            mx, my, xx, yy, xy = (total / n for total in sums)
        return _correlation(_variance(xx, mx), _variance(yy, my), xy - mx * my)

    return statistic


def pair_median(values: np.ndarray) -> Callable:
    """The median over pairs."""
    counted = np.isfinite(values)
    distinct, of_pair = _distinct(values, counted)

    def of_one(weight):
        below = np.cumsum(np.bincount(of_pair, np.outer(weight, weight)[counted], len(distinct)))
        if below[-1] == 0:
            return np.nan
        half = below[-1] / 2
        return (distinct[np.searchsorted(below, half)] + distinct[np.searchsorted(below, half, "right")]) / 2

    return lambda weights: np.array([of_one(weight) for weight in weights])


def pair_spearman(x: np.ndarray, y: np.ndarray) -> Callable:
    """Spearman's rank correlation over the pairs for which both are known; ties share their mean rank."""
    counted = np.isfinite(x) & np.isfinite(y)
    indices = [_distinct(values, counted)[1] for values in (x, y)]

    def of_one(weight):
        weight = np.outer(weight, weight)[counted]
        ranks = []
        for index in indices:
            ties = np.bincount(index, weight)
            # A rank's distance from the middle, so that the mean rank is 0.
            ranks.append((np.cumsum(ties) - ties / 2 - weight.sum() / 2)[index])
        # Plain sums: a dot product of a few thousand numbers is slower where threads share the cores.
        a, b = ranks
        return _correlation((weight * a * a).sum(), (weight * b * b).sum(), (weight * a * b).sum())

    return lambda weights: np.array([of_one(weight) for weight in weights])


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over pairs of weight times value, [R]."""
    return ((weights @ values) * weights).sum(axis=1)


def _distinct(values: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values that count, in order, and the place of each value that counts among them."""
    return np.unique(values[counted], return_inverse=True)


def _variance(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Mean square minus squared mean; 0 where they differ by no more than floating point makes them."""
    variance = square - mean * mean
    return np.where(variance > 1e-12 * square, variance, 0.0)


def _correlation(xx, yy, xy):
    """Covariance over standard deviations; NaN where one of them is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 0) & (yy > 0), xy / np.sqrt(xx * yy), np.nan)


def paired_wilcoxon(a, b) -> float:
    """Two-sided Wilcoxon signed-rank test that a - b is symmetric about 0 (Wilcoxon 1945).

    Equal pairs are left out, as in Wilcoxon's paper; if all are equal nothing speaks against the null
    hypothesis and p is 1. Differences are rounded to 12 decimals first: differences of shares are
    multiples of 1/samples, and floating-point noise would break their ties and zeros.
    It takes the pairs as independent, which trials of one student are not: read it after the interval.

    Args:
        a: [N] numbers.
        b: [N] numbers, paired with `a`.

    Returns:
        p-value in (0, 1]; NaN without any pair.

    Raises:
        ValueError: different lengths, or a number that is not finite.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or not np.all(np.isfinite(a - b)):
        raise ValueError("needs two arrays of one length without NaN or infinity")
    difference = np.round(a - b, 12)
    difference = difference[difference != 0]
    if len(a) == 0:
        return float("nan")
    return float(stats.wilcoxon(difference).pvalue) if len(difference) else 1.0
