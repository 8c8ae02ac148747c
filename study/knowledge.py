"""What one model knows that another does not: pure functions on predictions.

After arXiv 2310.17653, section 3 (positive and negative flips) and section 5 (transfer delta,
knowledge gain and loss, transfer rate). Every function takes boolean arrays [samples] that say
which samples a model got right (`correct`), all over the same samples in the same order, and
returns fractions in [0, 1] (differences in [-1, 1]). `by_class` gives any of them class by class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


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
    """ρ_pos, the share of positive flips (section 3, equation 1)."""
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
