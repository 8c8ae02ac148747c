"""How sure a number is: exact tests and intervals for paired transfer trials.

Short functions on arrays. What the analysis scripts compare is paired (one student before and after,
two methods on one pair of models) and nested (all trials of a student share that student), so the
tests here are paired and the bootstrap resamples whole students. Numbers of a whole zoo are made of
pairs, and each model is in many of them, so `pair_bootstrap` resamples models.

Left out on purpose: models of the data (mixed effects, Bayesian hierarchies) and corrections for
many comparisons. The tables show every comparison that was made, so a reader can correct for them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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
