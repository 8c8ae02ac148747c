"""The numbers of the atlas: one row each, with its interval, what it is of and what it means.

Whatever the report and the console say is made of these rows, so that every number can be traced back.
Left out on purpose: intervals of minima and maxima, for which no bootstrap works.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis import atlas_measures as measures
from analysis.atlas_results import Atlas, Floats
from analysis.inference import pair_bootstrap, pair_mean, pair_median, pair_pearson, pair_spearman
from analysis.statements import TEACHING, Statements


def statements(atlas: Atlas, gap: float = 5.0) -> pd.DataFrame:
    """All numbers of the atlas, as rows of `statements` with the subject 'atlas'.

    A number that is one pair's has it as its level. What is not defined is NaN, such as the mean over
    stronger teachers where there are none.

    Args:
        atlas: as `load_atlas` gives it.
        gap: teachers weaker by so many percentage points, or more, are looked at by themselves.
    """
    rows = _Rows(atlas.models["name"])
    delta = measures.accuracy_difference(atlas.rho_pos)
    _sizes(rows, atlas)
    _knowledge(rows, atlas, delta, gap)
    _correlations(rows, atlas, delta)
    _ceilings(rows, atlas)
    _chance(rows, atlas)
    _spread(rows, atlas, delta)
    _meaning(rows, atlas)
    _examples(rows, atlas, delta)
    _drawn(rows, atlas)
    _families(rows, atlas, delta, gap)
    _published(rows, atlas)
    return rows.table()


class _Rows(Statements):
    """Collects the rows; intervals resample the models."""

    def __init__(self, names: pd.Series):
        super().__init__()
        self.names, self.models = names, len(names)

    def number(self, name: str, value: float, n: int, unit: str, meaning: str, **more) -> None:
        self.add("atlas", name, value, n, about=(unit, meaning), **more)

    def of_pair(self, name: str, value: float, pair: tuple[int, int], n: int, meaning: str) -> None:
        """A fraction that is of one pair, student and teacher."""
        student, teacher = pair
        level = f"{self.names[teacher]}{TEACHING}{self.names[student]}"
        self.number(name, value, n, "fraction", meaning, level=level)

    def estimate(self, name: str, statistic: Callable, n: int, unit: str, meaning: str, **more) -> None:
        interval = pair_bootstrap(statistic, self.models)
        value = statistic(np.ones((1, self.models)))[0]
        self.number(name, value, n, unit, meaning, interval=interval, **more)

    def mean(self, name: str, values: Floats, unit: str, meaning: str, **more) -> None:
        self.estimate(name, pair_mean(values), np.isfinite(values).sum(), unit, meaning, **more)


def _sizes(rows: _Rows, atlas: Atlas) -> None:
    for name, count, meaning in [
        ("models", len(atlas.models), "trained models that finished"),
        ("untrained", len(atlas.untrained), "untrained models, teachers only: the measured chance level"),
        ("failed", len(atlas.failed), "models that failed and are in no other number"),
        ("samples", atlas.samples, "samples that every model was run on"),
        ("classes", atlas.classes, "classes of the samples"),
    ]:
        rows.number(name, count, count, "count", meaning)


def _knowledge(rows: _Rows, atlas: Atlas, delta: Floats, gap: float) -> None:
    rho_pos, known = atlas.rho_pos, np.isfinite(atlas.rho_pos)
    every = "over all ordered pairs of trained models"
    rows.mean("rho_pos_mean", rho_pos, "fraction", f"mean rho_pos {every}")
    median = pair_median(rho_pos)
    rows.estimate("rho_pos_median", median, known.sum(), "fraction", f"median rho_pos {every}")
    for part, extreme in (("min", measures.least(rho_pos)), ("max", measures.least(-rho_pos))):
        meaning = f"{'least' if part == 'min' else 'largest'} rho_pos {every}"
        rows.of_pair(f"rho_pos_{part}", rho_pos[extreme], extreme, known.sum(), meaning)
    some = measures.where(known, rho_pos > 0)
    rows.mean("pairs_with_flips", some, "fraction of pairs", "pairs with a positive flip, be it one sample")

    weaker = measures.weaker_by(delta, gap)
    those = f"pairs whose teacher is weaker by {gap:g} percentage points or more"
    rows.number("weaker_pairs", weaker.sum(), known.sum(), "count", those)
    if weaker.any():
        values = measures.where(weaker, rho_pos)
        pair = measures.least(values)
        rows.of_pair("weaker_rho_pos_min", values[pair], pair, weaker.sum(), f"least rho_pos over {those}")
        rows.of_pair("weaker_delta_of_min", delta[pair], pair, 1, "Delta_acc of that pair")
        rows.mean("weaker_rho_pos_mean", values, "fraction", f"mean rho_pos over {those}")


def _correlations(rows: _Rows, atlas: Atlas, delta: Floats) -> None:
    rho_pos, apart = atlas.rho_pos, measures.disagreement(atlas.rho_pos)
    n = np.isfinite(rho_pos).sum()
    of = "correlation of rho_pos with Delta_acc over all ordered pairs"
    rows.estimate("pearson", pair_pearson(rho_pos, delta), n, "correlation", f"Pearson's {of}")
    rows.estimate("spearman", pair_spearman(rho_pos, delta), n, "correlation", f"Spearman's {of}")
    identity, rest = measures.correlation_parts(rho_pos, delta)
    for name, value, unit, meaning in [
        (
            "pearson_identity",
            identity,
            "correlation",
            "part of Pearson's that is an identity: var(Delta_acc) / 2, over both standard deviations",
        ),
        (
            "pearson_rest",
            rest,
            "correlation",
            "its other part: cov(D, Delta_acc) / 2, over both; 0 over all ordered pairs",
        ),
        (
            "variance_by_delta",
            identity**2,
            "fraction",
            "share of rho_pos's variance that is Delta_acc's: var(Delta_acc) / (var(D) + var(Delta_acc))",
        ),
    ]:
        rows.number(name, value, n, unit, meaning)
    # D is that of two models, whichever is the student.
    once = measures.where(np.triu(np.ones(apart.shape, bool), 1), apart)
    of = "over unordered pairs"
    rows.mean("disagreement_mean", once, "fraction", f"D = rho_pos + rho_neg: mean {of}")
    rows.number("disagreement_sd", np.nanstd(once), n // 2, "fraction", f"D: standard deviation {of}")
    size = pair_pearson(once, np.abs(delta))
    meaning = f"Pearson's correlation of D with the size of Delta_acc {of}"
    rows.estimate("disagreement_size_pearson", size, n // 2, "correlation", meaning)
    rows.mean("agreement_mean", atlas.agreement, "fraction", "samples for which both predict the same: mean")
    meaning = "Cohen's kappa of being right or wrong together: mean over ordered pairs"
    rows.mean("error_consistency_mean", atlas.error_consistency, "kappa", meaning)


def _ceilings(rows: _Rows, atlas: Atlas) -> None:
    """Two models together, against the better one of them: over unordered pairs."""
    accuracy = atlas.models["accuracy"].to_numpy(float)
    better = np.maximum.outer(accuracy, accuracy)
    once = np.triu(np.ones(better.shape, bool), 1)
    # Whoever is better, what the other one alone knows is the smaller of the two flips.
    union = measures.where(once, np.fmin(atlas.rho_pos, atlas.rho_pos.T))
    meaning = "accuracy of an oracle that picks the right one of two models, minus that of the better: mean"
    rows.mean("union_gain_mean", union, "fraction", meaning)
    gain = measures.where(once, atlas.ensemble_accuracy - better)
    if np.isfinite(gain).any():
        meaning = "accuracy of the mean of two models' probabilities, minus that of the better: mean"
        rows.mean("ensemble_gain_mean", gain, "fraction", meaning)
        meaning = "pairs whose mean probabilities are right more often than the better of the two"
        above = measures.where(np.isfinite(gain), gain > 0)
        rows.mean("ensemble_better", above, "fraction of pairs", meaning)
    alike = measures.where(once, atlas.kappa_p)
    if np.isfinite(alike).any():
        rows.mean("kappa_p_mean", alike, "kappa", "CAPA (arXiv 2502.04313): mean over unordered pairs")


def _chance(rows: _Rows, atlas: Atlas) -> None:
    known, measured = np.isfinite(atlas.rho_pos), atlas.untrained_rho_pos
    expected = measures.expected_chance(atlas.models["accuracy"], atlas.classes)
    meaning = "rho_pos of a teacher that guesses, (1 - student's accuracy) / classes: mean of the students"
    rows.number("chance_expected", expected.mean(), len(expected), "fraction", meaning)
    above = measures.where(known, atlas.rho_pos > expected[:, None])
    rows.mean("above_expected", above, "fraction of pairs", "pairs with rho_pos above that of their student")
    if measured.size:
        meaning = "rho_pos of untrained teachers: mean over them and the students"
        rows.number("chance_measured", measured.mean(), measured.size, "fraction", meaning)
        above = measures.where(known, atlas.rho_pos > measured.max(axis=1, keepdims=True))
        meaning = "pairs with rho_pos above that of every untrained teacher of their student"
        rows.mean("above_measured", above, "fraction of pairs", meaning)


def _spread(rows: _Rows, atlas: Atlas, delta: Floats) -> None:
    level = measures.levels(delta)
    flips = np.rint(np.nan_to_num(atlas.rho_pos) * atlas.samples).astype(np.int64)
    uniform = measures.expected_entropy(flips, atlas.classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = measures.where(uniform > 0, atlas.flip_entropy / uniform)  # a single flip has no entropy
    counted = np.isfinite(ratio)
    top = measures.top_count(atlas.classes)
    totals = atlas.class_flips.sum(axis=1)
    held = measures.sorted_shares(atlas.class_flips)[:, :top].sum(axis=1)
    drawn = measures.uniform_shares(totals, atlas.classes)[:, :top].sum(axis=1)
    rows.number("top_classes", top, atlas.classes, "count", "a fifth of the classes")
    meaning = "entropy of flips that lie evenly over the classes: log(classes)"
    rows.number("entropy_even", np.log(atlas.classes), atlas.classes, "nats", meaning)
    entropy = measures.nats(atlas.flip_entropy, atlas.classes)
    rows.mean("entropy_nats", entropy, "nats", "entropy of the positive flips over classes: mean over pairs")
    for name, values, unit, meaning in [
        (
            "entropy",
            measures.where(counted, atlas.flip_entropy),
            "of log(classes)",
            "entropy of the positive flips over classes",
        ),
        (
            "entropy_uniform",
            measures.where(counted, uniform),
            "of log(classes)",
            "expected entropy of as many flips drawn uniformly",
        ),
        ("entropy_ratio", ratio, "ratio", "entropy over that of as many flips drawn uniformly"),
        (
            "top",
            _matrix(atlas, held),
            "fraction",
            f"share of a pair's flips in the {top} classes with most of them",
        ),
        (
            "top_uniform",
            _matrix(atlas, drawn),
            "fraction",
            f"the same of as many flips drawn uniformly, {measures.DRAWS} times",
        ),
    ]:
        for teachers in measures.LEVELS:
            chosen = measures.where(level == teachers, values)
            meant = f"{meaning}: mean over pairs with {teachers} teachers"
            rows.mean(name, chosen, unit, f"{meant} (by {measures.EQUAL:g} point)", level=teachers)


def _matrix(atlas: Atlas, values: Floats) -> Floats:
    """What is known of the pairs of `class_pairs`, as a matrix."""
    matrix = np.full(atlas.rho_pos.shape, np.nan)
    matrix[tuple(atlas.class_pairs.T)] = values
    return matrix


def _meaning(rows: _Rows, atlas: Atlas) -> None:
    if not len(atlas.class_flips):
        return
    sizes = measures.top_classes(atlas.class_flips)
    alike = np.full(sizes.shape, np.nan)
    if atlas.embeddings is not None:
        alike = measures.relative_similarity(atlas.class_flips, atlas.embeddings)
        meaning = f"cosine similarity between two classes: mean over all; {atlas.embedder}"
        overall = measures.mean_similarity(atlas.embeddings)
        rows.number("similarity_mean", overall, atlas.classes, "cosine", meaning)
    for percent, size, values in zip(measures.TOP_PERCENT, sizes.T, alike.T, strict=True):
        of = f"the fewest classes that hold {percent} % of a pair's flips"
        rows.number(f"classes_{percent}", np.median(size), len(size), "count", f"number of {of}: median")
        known = values[np.isfinite(values)]
        if len(known):
            meaning = f"similarity between the names of {of}, over that between all classes"
            quartiles = zip(("q1", "median", "q3"), np.quantile(known, [0.25, 0.5, 0.75]), strict=True)
            for part, value in quartiles:
                rows.number(f"alike_{percent}_{part}", value, len(known), "ratio", f"{meaning}: {part}")
            rows.mean(f"alike_{percent}_mean", _matrix(atlas, values), "ratio", f"{meaning}: mean")


def _examples(rows: _Rows, atlas: Atlas, delta: Floats) -> None:
    """The three pairs of Fig. 2a, by the paper's accuracy differences."""
    for teacher, row in measures.example_pairs(atlas).items():
        pair, count = tuple(atlas.class_pairs[row]), len(atlas.class_pairs)
        wanted = 100 * measures.PAPERS_DIFFERENCES[teacher]
        meaning = f"Delta_acc of the pair nearest to {wanted:+g} points, of those known class by class"
        rows.of_pair(f"example_{teacher}_delta", delta[pair], pair, count, meaning)
        rows.of_pair(f"example_{teacher}_rho_pos", atlas.rho_pos[pair], pair, 1, "rho_pos of that pair")


def _drawn(rows: _Rows, atlas: Atlas) -> None:
    """As many pairs as the paper drew, where the zoo has more."""
    mask = measures.papers_draw(atlas)
    if mask is None:
        return
    rho_pos = measures.where(mask, atlas.rho_pos)
    of = f"over {mask.sum()} ordered pairs drawn at random, as many as in arXiv 2310.17653"
    rows.mean("drawn_rho_pos_mean", rho_pos, "fraction", f"mean rho_pos {of}")
    pair = measures.least(rho_pos)
    rows.of_pair("drawn_rho_pos_min", rho_pos[pair], pair, mask.sum(), f"least rho_pos {of}")
    entropy = measures.where(mask, measures.nats(atlas.flip_entropy, atlas.classes))
    rows.mean("drawn_entropy_nats", entropy, "nats", f"mean entropy of the positive flips over classes {of}")


def _families(rows: _Rows, atlas: Atlas, delta: Floats, gap: float) -> None:
    same = measures.same_family(atlas.models["family"])
    apart = measures.disagreement(atlas.rho_pos)
    near = np.round(100 * np.abs(delta), 10) < gap
    for name, values, label in [
        ("rho_pos", atlas.rho_pos, "rho_pos"),
        ("disagreement", apart, "D"),
        ("near", measures.where(near, apart), f"D, accuracies less than {gap:g} percentage points apart"),
    ]:
        within, between = measures.where(same, values), measures.where(~same, values)
        if not (np.isfinite(within).any() and np.isfinite(between).any()):
            continue
        rows.mean(f"{name}_within", within, "fraction", f"{label}: mean over ordered pairs of one family")
        rows.mean(f"{name}_between", between, "fraction", f"{label}: mean over ordered pairs of two families")
        means = pair_mean(between), pair_mean(within)

        def difference(weights, means=means):
            return means[0](weights) - means[1](weights)

        meaning = f"{label}: mean between families minus mean within"
        rows.estimate(f"{name}_families", difference, np.isfinite(values).sum(), "fraction", meaning)


def _published(rows: _Rows, atlas: Atlas) -> None:
    deviation = measures.by_model(atlas)["deviation"].dropna()
    off = measures.deviates(deviation)
    limit = f"{100 * measures.DEVIATION:g} percentage points"
    rows.number("published", len(deviation), len(atlas.models), "count", "models with a published accuracy")
    meaning = f"models whose accuracy is off the published one by more than {limit}"
    rows.number("deviating", off.sum(), len(deviation), "count", meaning)
    if len(deviation):
        meaning = "accuracy minus published accuracy: mean over models"
        rows.number("deviation_mean", deviation.mean(), len(deviation), "fraction", meaning)
