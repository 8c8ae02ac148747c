"""What one model knows that another does not: pure functions on predictions.

After arXiv 2310.17653, section 3 (positive and negative flips) and section 5 (transfer delta,
knowledge gain and loss, transfer rate). The functions take boolean arrays that say which samples a
model got right (`correct`), all over the same samples in the same order, and return fractions in
[0, 1] (differences in [-1, 1]), unless they say otherwise.

The first part compares two models, bool [samples] each, and takes the student first; `by_class`
gives any of its measures class by class. The second part compares all models of a zoo, bool
[models, samples], and is indexed [teacher, student]: `flip_matrix(zoo)[t, s]` is
`rho_pos(student=zoo[s], teacher=zoo[t])`. Samples are counted exactly, and beside arguments and
results no more memory is taken than a copy of the arguments in small integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

# What is held at a time, so that memory is bounded and the caches are used.
SAMPLES = 8192  # of a block of a matrix product; float32 counts exactly up to 2**24
MODELS = 64  # compared with one model at once
PAIRS = 64


def correct(predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> Bools:
    """Bool [samples]: where the predicted class is the true one."""
    return np.asarray(predicted) == np.asarray(labels)


def positive_flips(student: Bools, teacher: Bools) -> Bools:
    """Bool [samples]: the teacher is right and the student wrong (complementary knowledge)."""
    return teacher & ~student


def negative_flips(student: Bools, teacher: Bools) -> Bools:
    """Bool [samples]: the student is right and the teacher wrong."""
    return student & ~teacher


def rho_pos(student: Bools, teacher: Bools) -> float:
    """ρ_pos, the share of positive flips (section 3; the paper gives it no number)."""
    return float(positive_flips(student, teacher).mean())


def rho_neg(student: Bools, teacher: Bools) -> float:
    """ρ_neg, the share of negative flips."""
    return float(negative_flips(student, teacher).mean())


def accuracy_difference(student: Bools, teacher: Bools) -> float:
    """Δ_acc, the teacher's accuracy minus the student's; always ρ_pos − ρ_neg."""
    return float(teacher.mean() - student.mean())


def transfer_delta(before: Bools, after: Bools) -> float:
    """Δ_transf, the student's accuracy after minus before; always knowledge gain − knowledge loss."""
    return float(after.mean() - before.mean())


def knowledge_gain(before: Bools, after: Bools) -> float:
    """Share of samples the student got wrong before the transfer and right after it."""
    return float((after & ~before).mean())


def knowledge_loss(before: Bools, after: Bools) -> float:
    """Share of samples the student got right before the transfer and wrong after it."""
    return float((before & ~after).mean())


def delta_rho_pos(before: Bools, teacher: Bools, after: Bools) -> float:
    """Δρ_pos: positive flips left after the transfer minus those before it (the paper's table 8)."""
    return rho_pos(after, teacher) - rho_pos(before, teacher)


def delta_rho_neg(before: Bools, teacher: Bools, after: Bools) -> float:
    """Δρ_neg: negative flips after the transfer minus before it (the paper's table 8)."""
    return rho_neg(after, teacher) - rho_neg(before, teacher)


def transfer_rate(before: Bools, teacher: Bools, after: Bools) -> float:
    """Share of the positive flips that the student gets right afterwards; NaN if there were none."""
    flips = positive_flips(before, teacher)
    return float(after[flips].mean()) if flips.any() else float("nan")


def by_class(
    measure: Callable[..., float], labels: NDArray[np.integer], classes: int, *arrays: Bools
) -> NDArray[np.float64]:
    """Any measure above, within each class.

    Args:
        measure: one of this module's functions that return a float.
        labels: int [samples], true classes in [0, classes).
        classes: number of classes.
        arrays: what `measure` takes, bool [samples] each.

    Returns:
        float64 [classes]; NaN for a class without samples.
    """
    values = np.full(classes, np.nan)
    for label in np.unique(labels):
        members = labels == label
        values[label] = measure(*(array[members] for array in arrays))
    return values


# --- all pairs of a zoo -------------------------------------------------------------------------


def flip_matrix(correct: Bools) -> NDArray[np.float64]:
    """ρ_pos of all ordered pairs: the share of samples the teacher gets right and the student wrong.

    One product of `correct` with its own transpose, of which BLAS computes one half. ρ_neg is the
    transpose of the result, Δ_acc the result minus its transpose (arXiv 2310.17653, section 3).

    Args:
        correct: bool [models, samples], which samples each model got right.

    Returns:
        float64 [teacher, student], fractions; 0 on the diagonal.

    Raises:
        TypeError: `correct` is not boolean.
        ValueError: `correct` is not a matrix, or has no models or no samples.
    """
    correct = _matrix("correct", correct, np.bool_)
    models, samples = correct.shape
    both = np.zeros((models, models))
    for begin in range(0, samples, SAMPLES):
        block = correct[:, begin : begin + SAMPLES].astype(np.float32)
        both += block @ block.T
    return (both.diagonal()[:, None] - both) / samples


def agreement_matrix(predicted: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of samples for which two models predict the same class, right or wrong, for all pairs.

    Every pair is compared directly: of the predictions, in the smallest integers that tell them
    apart, as many models as a cache holds (`MODELS`) wait there for all others to pass by.

    Args:
        predicted: int [models, samples], predicted classes.

    Returns:
        float64 [models, models], symmetric, fractions; 1 on the diagonal.

    Raises:
        TypeError: `predicted` is not of integers.
        ValueError: `predicted` is not a matrix, or has no models or no samples.
    """
    predicted = _matrix("predicted", predicted, np.integer)
    models, samples = predicted.shape
    lowest = predicted.min()
    codes = np.empty(predicted.shape, np.min_scalar_type(int(predicted.max()) - int(lowest)))
    np.subtract(predicted, lowest, out=codes, casting="unsafe")
    agreement = np.eye(models)
    same = np.empty(samples, bool)
    for begin in range(0, models, MODELS):
        end = min(begin + MODELS, models)
        for first in range(end):
            for second in range(max(begin, first + 1), end):
                count = np.count_nonzero(np.equal(codes[first], codes[second], out=same))
                agreement[first, second] = agreement[second, first] = count / samples
    return agreement


def error_consistency(correct: Bools) -> NDArray[np.float64]:
    """Cohen's kappa of being right or wrong together, for all pairs (Geirhos et al. 2020).

    (c_obs − c_exp) / (1 − c_exp), where c_obs is the share of samples that both models get right or
    both get wrong, and c_exp that share if they were independent with the accuracies they have. 1 is
    the same mistakes, 0 independent ones ("Beyond accuracy: quantifying trial-by-trial behaviour of
    CNNs and humans by measuring error consistency", arXiv 2006.16736).

    Args:
        correct: bool [models, samples], which samples each model got right.

    Returns:
        float64 [models, models], symmetric, in [-1, 1]; NaN where c_exp is 1 (both models are right
        on all samples, or both wrong on all).

    Raises:
        TypeError, ValueError: as `flip_matrix`.
    """
    rho_pos = flip_matrix(correct)
    accuracy = np.count_nonzero(correct, axis=1) / np.shape(correct)[1]
    expected = np.outer(accuracy, 1 - accuracy)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is promised
        return 1 - (rho_pos + rho_pos.T) / (expected + expected.T)


def soft_pairs(
    blocks: Iterable[tuple[NDArray[np.floating], NDArray[np.integer]]], ensembles: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """What all pairs say with their probabilities: how alike they are, and how good together.

    κ_p is CAPA ("Great Models Think Alike and this Undermines AI Oversight", arXiv 2502.04313, section 2):
    (c_obs − c_exp) / (1 − c_exp), where c_obs is the chance that classes drawn from both models'
    probabilities are the same, mean over samples, and c_exp = p q + (1 − p)(1 − q) / (classes − 1), with the
    mean probabilities p and q that the two give the true class: the same if they erred independently.

    Args:
        blocks: some samples at a time: probabilities [models, samples, classes], true classes [samples].
        ensembles: whether the second result is wanted, which takes models times as long.

    Returns:
        κ_p [models, models], symmetric, at most 1 (NaN where c_exp is 1); and the accuracy of the mean of
        both models' probabilities, a fraction, or None.
    """
    count, observed, own, right, classes = 0, 0.0, 0.0, 0, 0
    for probabilities, labels in blocks:
        models, samples, classes = probabilities.shape
        flat = probabilities.reshape(models, -1)
        observed = observed + (flat @ flat.T).astype(np.float64)
        own = own + probabilities[:, np.arange(samples), labels].sum(axis=1, dtype=np.float64)
        count += samples
        if ensembles:
            together = np.zeros((models, models), np.int64)
            for first in range(models):
                means = probabilities[first] + probabilities[first:]
                together[first, first:] = (means.argmax(axis=2) == labels).sum(axis=1)
            right = right + together
    own = own / count
    expected = np.outer(own, own) + np.outer(1 - own, 1 - own) / (classes - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = np.where(expected < 1, (observed / count - expected) / (1 - expected), np.nan)
    return kappa, (np.triu(right) + np.triu(right, 1).T) / count if ensembles else None


def flip_entropy(correct: Bools, labels: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """How evenly the positive flips of all ordered pairs lie over the true classes.

    The entropy of the distribution of the positive flips over the classes, divided by log(classes):
    1 is uniform, 0 all flips in one class (arXiv 2310.17653, section 3; Fig. 1b has it in nats,
    not divided).

    Args:
        correct: bool [models, samples], which samples each model got right.
        labels: int [samples], true classes in [0, classes).
        classes: number of classes.

    Returns:
        float64 [teacher, student], in [0, 1]; NaN where there are no flips, or only one class.

    Raises:
        TypeError: `correct` is not boolean, or `labels` not of integers.
        ValueError: shapes that do not fit, or labels outside [0, classes).
    """
    words, starts = _class_words(correct, labels, classes)
    models = len(words)
    counts = np.arange(np.bincount(labels).max() + 1)
    count_log_count = counts * np.log(np.maximum(counts, 1))
    entropy = np.empty((models, models))
    for teacher in range(models):
        for begin in range(0, models, MODELS):
            flips = _count_flips(words[teacher], words[begin : begin + MODELS], starts)
            number = flips.sum(axis=1, dtype=np.int64)
            # "clip" clips nothing here: it spares numpy a check and is a quarter faster.
            logs = count_log_count.take(flips, mode="clip").sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: NaN without flips
                entropy[teacher, begin : begin + MODELS] = np.log(number) - logs / number
    return np.clip(entropy / np.log(classes), 0, 1) if classes > 1 else np.full_like(entropy, np.nan)


def flips_by_class(
    correct: Bools, labels: NDArray[np.integer], classes: int, pairs: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Number of positive flips of chosen pairs in each true class.

    Their sum over the classes, divided by the number of samples, is ρ_pos.

    Args:
        correct: bool [models, samples], which samples each model got right.
        labels: int [samples], true classes in [0, classes).
        classes: number of classes.
        pairs: int [pairs, 2], the teacher's and the student's row in `correct`, in this order.

    Returns:
        int64 [pairs, classes], counts of samples.

    Raises:
        TypeError: `correct` is not boolean, or `labels` or `pairs` not of integers.
        ValueError: shapes that do not fit, labels outside [0, classes), or no such model.
    """
    words, starts = _class_words(correct, labels, classes)
    pairs = _pairs(pairs, len(words))
    flips = np.empty((len(pairs), classes), np.int64)
    for begin in range(0, len(pairs), PAIRS):
        teachers, students = pairs[begin : begin + PAIRS].T
        flips[begin : begin + PAIRS] = _count_flips(words[teachers], words[students], starts)
    return flips


def _class_words(
    correct: Bools, labels: NDArray[np.integer], classes: int
) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Checks the arguments and packs 64 samples of one class into each word; missing ones are False.

    Returns:
        uint64 [models, words], and the first word of each class, int [classes].
    """
    correct = _matrix("correct", correct, np.bool_)
    models, samples = correct.shape
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"`labels` are {labels.dtype}, and must be integers")
    if labels.shape != (samples,):
        raise ValueError(f"`labels` are {labels.shape}, and must be one a sample, ({samples},)")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"`labels` lie in [{labels.min()}, {labels.max()}], and must in [0, {classes})")
    counts = np.bincount(labels, minlength=classes)
    lengths = np.maximum(-(-counts // 64), 1)
    starts = np.cumsum(lengths) - lengths
    place = np.empty(samples, np.intp)  # of each sample among the bits
    within = np.arange(samples) - np.repeat(np.cumsum(counts) - counts, counts)
    place[np.argsort(labels, kind="stable")] = np.repeat(64 * starts, counts) + within
    bits = np.zeros(64 * lengths.sum(), bool)
    words = np.empty((models, lengths.sum()), np.uint64)
    for model in range(models):
        bits[place] = correct[model]
        words[model] = np.packbits(bits).view(np.uint64)
    return words, starts


def _count_flips(
    teacher: NDArray[np.uint64], student: NDArray[np.uint64], starts: NDArray[np.intp]
) -> NDArray[np.integer]:
    """Int [pairs, classes]: positive flips between words of `_class_words`, [words] or [pairs, words]."""
    flips = np.bitwise_count(teacher & ~student)
    if flips.shape[-1] == len(starts):  # at most 64 samples a class, as in ImageNet's validation images
        return flips
    return np.add.reduceat(flips, starts, axis=-1, dtype=np.intp)


def _matrix(name: str, array: NDArray, kind: type[np.generic]) -> NDArray:
    """The array, [models, samples] of such numbers and not empty.

    Raises:
        TypeError, ValueError: it is not.
    """
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, kind):
        raise TypeError(f"`{name}` is {array.dtype}, and must be {kind.__name__}")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"`{name}` is {array.shape}, and must be [models, samples], at least one of each")
    return array


def _pairs(pairs: NDArray[np.integer], models: int) -> NDArray[np.integer]:
    """The pairs, int [pairs, 2] in [0, models).

    Raises:
        TypeError, ValueError: they are not.
    """
    pairs = np.asarray(pairs)
    if not np.issubdtype(pairs.dtype, np.integer):
        raise TypeError(f"`pairs` are {pairs.dtype}, and must be integers")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"`pairs` are {pairs.shape}, and must be [pairs, 2], each (teacher, student)")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= models):
        raise ValueError(f"`pairs` name models in [{pairs.min()}, {pairs.max()}]; there are {models}")
    return pairs
