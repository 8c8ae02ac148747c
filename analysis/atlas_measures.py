"""What a zoo knows that its models do not: measures of all ordered pairs, on arrays, and no text.

After section 3 of arXiv 2310.17653: how much complementary knowledge there is (Fig. 1a), how it lies
over classes (Figs. 1b and 2a), and whether the classes it lies in belong together (Fig. 2b). Beside
each stands what an identity or mere chance would give, since rho_pos follows Delta_acc by arithmetic
and few flips cannot spread evenly over many classes.

Matrices have a row a student and a column a teacher; what does not count is NaN. Left out on purpose:
chance for classes of unequal size (uniform draws give each class 1/C).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import linalg, stats
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from analysis.atlas_results import Atlas, Floats, Ints
from analysis.measures import teacher_level

LEVELS = ("weaker", "equal", "stronger")  # teachers, by more or less than EQUAL
EQUAL = 1.0  # percentage points, as in the tables of the success rate
TOP_PERCENT = (2, 5, 10, 20, 50)  # of a pair's flips, held by its top classes
TOP_SHARE = 0.2  # of the classes
DRAWS = 20  # uniform draws a pair, of as many flips as it has
DEVIATION = 0.005  # of an accuracy from the published one
# Of arXiv 2310.17653: ordered pairs, drawn at random; Delta_acc of the three pairs of Fig. 2a by kind of
# teacher; percents of Fig. 2b.
PAPERS_PAIRS = 466
PAPERS_DIFFERENCES = {"weaker": -0.13, "equal": 0.0, "stronger": 0.18}
PAPERS_EXAMPLES = {  # student and teacher of each, by the authors' public scripts, as timm calls them
    "weaker": ("vit_base_patch8_224", "pit_ti_224"),
    "equal": ("regnetx_080", "resmlp_24_224"),
    "stronger": ("dla46_c", "xcit_small_24_p16_224"),
}
PAPERS_PERCENT = (2, 5, 20, 50)


def accuracy_difference(rho_pos: Floats) -> Floats:
    """Delta_acc [M, M]: teacher's minus student's accuracy, rho_pos - rho_neg."""
    return np.round(rho_pos - rho_pos.T, 12)  # of multiples of 1/N: without noise, equal is equal


def disagreement(rho_pos: Floats) -> Floats:
    """D [M, M]: share of samples that one of the two gets right and the other wrong, rho_pos + rho_neg."""
    return np.round(rho_pos + rho_pos.T, 12)


def scaled(apart: Floats) -> tuple[Floats, Floats]:
    """A map of models by how much they disagree: classical scaling (Torgerson 1952) in two dimensions.

    D counts samples on which one of two models is right and the other wrong, so N D is the squared distance
    of their vectors of zeros and ones, and the map is that of the two principal components of these.

    Args:
        apart: [M, M], as `disagreement` gives it; the diagonal does not matter.

    Returns:
        Places [M, 2], whose squared distances are shares of the samples where two dimensions are enough, and
        the shares [2] that the two have of all variance; NaN where no two models disagree.
    """
    count = len(apart)
    squared = np.where(np.eye(count, dtype=bool), 0.0, apart)
    means = squared.mean(axis=0)
    inner = -(squared - means - means[:, None] + squared.mean()) / 2
    few = min(2, count)
    values, vectors = linalg.eigh(inner, subset_by_index=[count - few, count - 1])
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(few)])  # of either sign: always the same one
    places = np.zeros((count, 2))
    places[:, :few] = vectors * np.sqrt(values)
    total = np.trace(inner)
    shares = np.full(2, np.nan) if total <= 0 else np.pad(values, (0, 2 - few)) / total
    return places, shares


def levels(delta: Floats) -> np.ndarray:
    """'weaker', 'equal' or 'stronger' [M, M] for each teacher, as `measures.teacher_level`; None on NaN."""
    return teacher_level(pd.Series(delta.ravel()), EQUAL).to_numpy().reshape(delta.shape)


def weaker_by(delta: Floats, gap: float) -> np.ndarray:
    """Bool [M, M]: the teacher is weaker by `gap` percentage points or more."""
    return np.round(100 * delta, 10) <= -gap


def where(mask: np.ndarray, values: Floats) -> Floats:
    """The values where the mask holds, else NaN."""
    return np.where(mask, values, np.nan)


def least(values: Floats) -> tuple[int, int]:
    """Student and teacher of the pair with the least of some values [M, M]; ties: the first."""
    student, teacher = np.unravel_index(np.nanargmin(values), values.shape)
    return int(student), int(teacher)


def correlation_parts(rho_pos: Floats, delta: Floats) -> tuple[float, float]:
    """Pearson's correlation of rho_pos with Delta_acc as a sum of what must be and what need not.

    rho_pos = (D + Delta) / 2 with D = rho_pos + rho_neg, so cov(rho_pos, Delta) = var(Delta) / 2 +
    cov(D, Delta) / 2. The first part is there whatever the models know. Over all ordered pairs D is
    symmetric and Delta antisymmetric, and the second part is 0; over a selection of pairs it need not be.

    Args:
        rho_pos: [...] positive flips; pairs with NaN do not count.
        delta: [...] accuracy differences.

    Returns:
        (identity, rest), which add up to the correlation; NaN where one of both does not vary.
    """
    counted = np.isfinite(rho_pos) & np.isfinite(delta)
    x, y = rho_pos[counted] - rho_pos[counted].mean(), delta[counted] - delta[counted].mean()
    scale = 2 * len(x) * x.std() * y.std()
    if x.std() < 1e-12 or y.std() < 1e-12:
        return float("nan"), float("nan")
    return float(y @ y / scale), float((2 * x - y) @ y / scale)


def expected_chance(accuracy: Floats, classes: int) -> Floats:
    """rho_pos [M] of a teacher that guesses: of what the student gets wrong, one in C."""
    return (1 - np.asarray(accuracy, float)) / classes


def expected_entropy(flips: Ints, classes: int) -> Floats:
    """Expected normalised entropy of n flips that are drawn uniformly over C classes, exactly.

    With X_c flips in class c the entropy is log n - (1/n) sum_c X_c log X_c, and each X_c is binomial,
    so E[H] = log n - (C/n) E[X log X] with X ~ Bin(n, 1/C). It stays below log C: few flips cannot
    spread evenly, however they are drawn.

    Args:
        flips: [...] whole numbers >= 0.
        classes: C >= 2.

    Returns:
        [...] E[H] / log C in [0, 1]; NaN where there are no flips.
    """
    distinct, of_pair = np.unique(np.asarray(flips, np.int64), return_inverse=True)
    values = np.full(len(distinct), np.nan)
    for chunk in np.array_split(np.flatnonzero(distinct > 0), 1 + len(distinct) // 256):
        n = distinct[chunk, None].astype(float)
        # All but less than 1e-20 of the distribution lies within 12 standard deviations and 30.
        mean, reach = n / classes, np.ceil(12 * np.sqrt(n / classes) + 30)
        x = np.maximum(0, np.floor(mean - reach)) + np.arange(2 * reach.max(initial=0) + 1)
        x_log_x = x * np.log(np.maximum(x, 1))
        expected = (stats.binom.pmf(x, n, 1 / classes) * x_log_x).sum(axis=1)
        values[chunk] = (np.log(n[:, 0]) - classes * expected / n[:, 0]) / np.log(classes)
    return np.clip(values, 0, 1)[of_pair].reshape(np.shape(flips))


def nats(entropy: Floats, classes: int) -> Floats:
    """An entropy over C classes in nats, -sum_c p_c ln p_c, as in Fig. 1b; at most ln C.

    Args:
        entropy: [...] the same divided by ln C.
        classes: C.
    """
    return entropy * np.log(classes)


def example_pairs(atlas: Atlas) -> dict[str, int]:
    """The three pairs of Fig. 2a: the paper's own, or else those whose Delta_acc is nearest to the paper's.

    Of several weights of the paper's architectures those count whose Delta_acc is nearest.

    Returns:
        A row of `class_pairs` for a weaker, an equal and a stronger teacher, ties: the first; none where no
        flips are known class by class.
    """
    if not len(atlas.class_pairs):
        return {}
    delta = accuracy_difference(atlas.rho_pos)[tuple(atlas.class_pairs.T)]
    timm = atlas.models.reindex(columns=["timm"])["timm"].astype(str)  # older records do not have it
    architectures = timm.str.partition(".")[0].to_numpy(object)[atlas.class_pairs]
    found = {}
    for teacher, wanted in PAPERS_DIFFERENCES.items():
        papers = (architectures == PAPERS_EXAMPLES[teacher]).all(axis=1)
        off = np.abs(np.round(delta - wanted, 12))
        found[teacher] = int(np.where(papers | ~papers.any(), off, np.inf).argmin())
    return found


def papers_draw(atlas: Atlas) -> np.ndarray | None:
    """Bool [M, M]: as many ordered pairs as the paper drew; None where there are no more than that.

    They are those whose flips are known class by class, which were drawn at random when the atlas was made
    (seed 0, `docs/records.md`): so Figs. 1 and 2 are of the same pairs, as in the paper. None, too, where
    another number of pairs is known so.
    """
    if len(atlas.class_pairs) != PAPERS_PAIRS or np.isfinite(atlas.rho_pos).sum() <= PAPERS_PAIRS:
        return None
    drawn = np.zeros(atlas.rho_pos.shape, bool)
    drawn[tuple(atlas.class_pairs.T)] = True
    return drawn


def class_rates(flips: Ints, samples: Ints) -> tuple[Ints, Floats]:
    """How much of each class is positive flips, the class with most first, as in Fig. 2a.

    Args:
        flips: [C], positive flips of a pair.
        samples: [C], samples of each class.

    Returns:
        The classes that have samples, sorted, ties by number, and flips_c / n_c of each, a fraction.
    """
    there = np.flatnonzero(samples)
    rates = flips[there] / samples[there]
    order = np.argsort(-rates, kind="stable")
    return there[order], rates[order]


def sorted_shares(flips: Ints) -> Floats:
    """Each pair's flips [P, C] as shares of all its flips, its largest class first; NaN without flips."""
    ordered = -np.sort(-flips, axis=1)
    with np.errstate(invalid="ignore"):
        return ordered / ordered.sum(axis=1, keepdims=True)


def uniform_shares(totals: Ints, classes: int, draws: int = DRAWS, seed: int = 0) -> Floats:
    """`sorted_shares` [P, C] that as many flips [P] would give if drawn uniformly: the mean of some draws.

    Sorting makes even uniform draws look uneven, the more the fewer they are.
    """
    draw = np.random.default_rng(seed)
    uniform = np.full(classes, 1 / classes)
    drawn = [sorted_shares(draw.multinomial(total, uniform, size=draws)).mean(axis=0) for total in totals]
    return np.array(drawn).reshape(len(totals), classes)


def top_count(classes: int) -> int:
    """How many classes are the top fifth: at least one."""
    return max(1, round(TOP_SHARE * classes))


def top_classes(flips: Ints, percents: Sequence[int] = TOP_PERCENT) -> Ints:
    """Size [P, L] of the smallest set of a pair's classes that holds at least so many % of its flips.

    Classes come in by their flips, largest first, ties by the number of the class. 0 without flips.
    """
    held = np.cumsum(-np.sort(-flips, axis=1), axis=1)
    total = held[:, -1:]
    sizes = [1 + (100 * held < percent * total).sum(axis=1) for percent in percents]
    return np.where(total > 0, np.stack(sizes, axis=1), 0)


def relative_similarity(flips: Ints, embeddings: Floats, percents: Sequence[int] = TOP_PERCENT) -> Floats:
    """How alike a pair's top classes are in meaning, against all classes.

    The mean cosine similarity between two distinct classes of the set of `top_classes`, divided by the
    mean between two distinct classes of all. A random set gives 1 on average.

    Args:
        flips: [P, C] positive flips.
        embeddings: [C, E] of length 1.
        percents: [L].

    Returns:
        [P, L]; NaN where the set has fewer than two classes, and everywhere if the classes' mean
        similarity is not positive, which a ratio to it needs.
    """
    sizes = top_classes(flips, percents)
    overall = mean_similarity(embeddings)
    values = np.full(sizes.shape, np.nan)
    if overall <= 0:
        return values
    for pair, (counts, size) in enumerate(zip(flips, sizes, strict=True)):
        order = np.argsort(-counts, kind="stable")[: size.max()]
        sums = np.cumsum(embeddings[order], axis=0)  # [k, E]: of the first 1, 2, ... k classes
        enough = size >= 2
        values[pair, enough] = _mean_similarity(sums[size[enough] - 1], size[enough]) / overall
    return values


def mean_similarity(embeddings: Floats) -> float:
    """Mean cosine similarity between two distinct classes, of embeddings [C, E] of length 1."""
    return float(_mean_similarity(embeddings.sum(axis=0), len(embeddings)))


def _mean_similarity(total: Floats, count: int | Ints) -> Floats:
    """Between two of `count` vectors of length 1: |sum|² holds each two of them twice, and each once."""
    return ((total**2).sum(axis=-1) - count) / (count * (count - 1))


def same_family(families: Sequence[str]) -> np.ndarray:
    """Bool [M, M]: two models of one family."""
    families = np.asarray(families, object)
    return families[:, None] == families[None, :]


def clustered(distance: Floats, families: Sequence[str]) -> tuple[Ints, dict[str, int]]:
    """An order in which families stay together and, within each, models that err alike are neighbours.

    Args:
        distance: [M, M] symmetric, >= 0; the diagonal does not matter.
        families: [M] names.

    Returns:
        [M] positions of the models in that order, and the number of models of each family in it.
        Average linkage; its leaves are put in their best order for up to 200 models, which takes a time
        that grows with the cube of their number.
    """
    families = np.asarray(families, object)
    order, sizes = [], {}
    for family in sorted(set(families)):
        members = np.flatnonzero(families == family)
        sizes[family] = len(members)
        if len(members) > 2:
            among = distance[np.ix_(members, members)].copy()
            np.fill_diagonal(among, 0)
            tree = hierarchy.linkage(squareform(among), "average", optimal_ordering=len(families) <= 200)
            members = members[hierarchy.leaves_list(tree)]
        order.extend(members)
    return np.array(order), sizes


def binned(x: Floats, *ys: Floats) -> tuple[Floats, list[Floats]]:
    """Medians and quartiles along x, in bins that hold equally many points.

    Args:
        x: [N].
        ys: [N] each; NaN does not count.

    Returns:
        The bins' median x [B], and for each y its quartiles [B, 3]: at most 25 bins, of 20 points at least.
    """
    bins = np.array_split(np.argsort(x, kind="stable"), np.clip(len(x) // 20, 1, 25))
    with np.errstate(invalid="ignore"):
        quartiles = [np.array([_quartiles(y[part]) for part in bins]) for y in ys]
    return np.array([np.median(x[part]) for part in bins]), quartiles


def _quartiles(values: Floats) -> Floats:
    values = values[np.isfinite(values)]
    return np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else np.full(3, np.nan)


def deviates(deviation: pd.Series) -> pd.Series:
    """Bool: off the published accuracy by more than DEVIATION; False where none is known."""
    return deviation.abs().round(10) > DEVIATION


def by_model(atlas: Atlas) -> pd.DataFrame:
    """A row a model that finished, untrained ones last; accuracies and shares are fractions.

    `rho_pos_as_teacher` is what the model knows and others do not, the mean over students, and
    `rho_pos_as_student` what others know and it does not, the mean over trained teachers, with the least
    and the most, and the teacher that has the most. Means over other models are also `disagreement`,
    `agreement` and `error_consistency`. Untrained models are teachers only.
    """
    rho_pos = atlas.rho_pos
    names = atlas.models["name"].to_numpy()
    columns = ["name", "family", "source", "parameters", "accuracy", "published_accuracy"]

    def with_deviation(models: pd.DataFrame) -> pd.DataFrame:
        table = models[columns].astype({"published_accuracy": float})
        return table.assign(deviation=table["accuracy"] - table["published_accuracy"])

    trained = with_deviation(atlas.models).assign(
        rho_pos_as_teacher=np.nanmean(rho_pos, axis=0),
        rho_pos_as_student=np.nanmean(rho_pos, axis=1),
        rho_pos_as_student_min=np.nanmin(rho_pos, axis=1),
        rho_pos_as_student_max=np.nanmax(rho_pos, axis=1),
        most_complementary_teacher=names[np.nanargmax(rho_pos, axis=1)],
        chance_expected=expected_chance(atlas.models["accuracy"], atlas.classes),
        disagreement=np.nanmean(disagreement(rho_pos), axis=1),
        agreement=np.nanmean(atlas.agreement, axis=1),
        error_consistency=_means(atlas.error_consistency),
    )
    untrained = with_deviation(atlas.untrained).assign(rho_pos_as_teacher=_means(atlas.untrained_rho_pos.T))
    return pd.concat([trained, untrained], ignore_index=True) if len(untrained) else trained


def _means(values: Floats) -> Floats:
    """Mean of each row over what is known; NaN where nothing is."""
    counts = np.isfinite(values).sum(axis=1)
    return np.where(counts, np.nansum(values, axis=1) / np.maximum(counts, 1), np.nan)
