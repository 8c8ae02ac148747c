"""All ordered pairs of a zoo the size of timm's: what the measures of `study.knowledge` cost.

The data are made up (which samples are right hardly changes the time): as many models as timm has
pretrained, 50,000 samples in 1,000 classes as in ImageNet's validation images, and predictions in
int64, as an argmax gives them. Each part runs in a process of its own; a part can be named.

    python benchmarks/complementarity.py [part ...]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from study import knowledge
from timing import figure, in_turns

MODELS, SAMPLES, CLASSES = 1826, 50_000, 1000
PAPER_MODELS, PAPER_PAIRS = 301, 466
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}

Ints = NDArray[np.int64]


def zoo(models: int) -> tuple[Ints, Ints]:
    """Predictions int64 [models, samples] and labels int64 [samples], each class 50 times."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), SAMPLES // CLASSES))
    predicted = np.empty((models, SAMPLES), np.int64)
    for row, accuracy in zip(predicted, rng.uniform(0.6, 0.9, models), strict=True):
        right = rng.random(SAMPLES, np.float32) < accuracy
        row[:] = np.where(right, labels, rng.integers(0, CLASSES, SAMPLES, np.int16))
    return predicted, labels


def all_measures(predicted: Ints, labels: Ints) -> list[NDArray[np.float64]]:
    """Every measure of all pairs, from the predictions."""
    correct = predicted == labels
    return [
        knowledge.flip_matrix(correct),
        knowledge.agreement_matrix(predicted),
        knowledge.error_consistency(correct),
        knowledge.flip_entropy(correct, labels, CLASSES),
    ]


# --- the whole of timm --------------------------------------------------------------------------


def all_pairs() -> None:
    """Times beside that of one float32 product of the same shape, on the same threads."""
    predicted, labels = zoo(MODELS)
    correct = predicted == labels
    rows = correct.astype(np.float32)
    columns = np.ascontiguousarray(rows.T)
    seconds = in_turns(
        3,
        product=lambda: rows @ columns,
        flip_matrix=lambda: knowledge.flip_matrix(correct),
        agreement_matrix=lambda: knowledge.agreement_matrix(predicted),
        error_consistency=lambda: knowledge.error_consistency(correct),
        flip_entropy=lambda: knowledge.flip_entropy(correct, labels, CLASSES),
    )
    product = seconds.pop("product")
    seconds["all four measures"] = sum(seconds.values())
    of = f"all pairs of {MODELS} models"
    figure(f"{of}: float32 product", product, "s")
    for name, values in seconds.items():
        figure(f"{of}: {name}", values, "s")
        goal = 3 if name == "flip_matrix" else None
        figure(f"{of}: {name} / float32 product", values / product, "ratio", at_most=goal)


def memory_of_flip_matrix() -> None:
    predicted, labels = zoo(MODELS)
    knowledge.flip_matrix(predicted == labels)
    _peak("flip_matrix")


def memory_of_all_measures() -> None:
    all_measures(*zoo(MODELS))
    _peak("all four measures")


def _peak(name: str) -> None:
    """The most memory this process ever held."""
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figure(f"all pairs of {MODELS} models: peak memory, {name} and predictions", [gib], "GiB", at_most=6)


# --- as many pairs as the paper's ---------------------------------------------------------------


def script_rho_pos(predicted: Ints, labels: Ints, pairs: Ints) -> list[float]:
    """The obvious script, pair by pair."""
    return [
        ((predicted[teacher] == labels) & (predicted[student] != labels)).mean() for teacher, student in pairs
    ]


def script_all_measures(predicted: Ints, labels: Ints, pairs: Ints) -> tuple[list[tuple], list[Ints]]:
    """The obvious script, pair by pair: the measures of each, and its flips by class."""
    rows, by_class = [], []
    for t, s in pairs:
        teacher, student = predicted[t] == labels, predicted[s] == labels
        flips = np.bincount(labels[teacher & ~student], minlength=CLASSES)
        a, b = teacher.mean(), student.mean()
        chance = a * b + (1 - a) * (1 - b)
        shares = flips[flips > 0] / flips.sum()
        rows.append(
            (
                (teacher & ~student).mean(),
                (student & ~teacher).mean(),
                a - b,
                (predicted[t] == predicted[s]).mean(),
                ((teacher == student).mean() - chance) / (1 - chance),
                -(shares * np.log(shares)).sum() / np.log(CLASSES),
            )
        )
        by_class.append(flips)
    return rows, by_class


def our_measures(predicted: Ints, labels: Ints, pairs: Ints) -> tuple[NDArray[np.float64], Ints]:
    """The same for these pairs only: everything but the agreement follows from the flips by class."""
    correct = predicted == labels
    accuracy = np.count_nonzero(correct, axis=1) / SAMPLES
    flips = knowledge.flips_by_class(correct, labels, CLASSES, pairs)
    a, b = accuracy[pairs.T]
    rho_pos = flips.sum(axis=1) / SAMPLES
    rho_neg = rho_pos - a + b
    agreement = [np.count_nonzero(predicted[t] == predicted[s]) / SAMPLES for t, s in pairs]
    consistency = 1 - (rho_pos + rho_neg) / (a * (1 - b) + b * (1 - a))
    entropy = scipy.stats.entropy(flips, axis=1) / np.log(CLASSES)
    return np.stack([rho_pos, rho_neg, a - b, agreement, consistency, entropy], axis=1), flips


def papers_pairs() -> None:
    predicted, labels = zoo(PAPER_MODELS)
    ordered = PAPER_MODELS * (PAPER_MODELS - 1)
    drawn = np.random.default_rng(1).choice(ordered, PAPER_PAIRS, replace=False)
    pairs = np.stack(np.nonzero(~np.eye(PAPER_MODELS, dtype=bool)), axis=1)[drawn]
    correct = predicted == labels

    ours, flips = our_measures(predicted, labels, pairs)
    rows, by_class = script_all_measures(predicted, labels, pairs)
    np.testing.assert_allclose(ours, rows, atol=1e-12)
    np.testing.assert_array_equal(flips, by_class)
    teachers, students = pairs.T
    for column, matrix in zip((0, 3, 4, 5), all_measures(predicted, labels), strict=True):
        np.testing.assert_allclose(ours[:, column], matrix[teachers, students], atol=1e-12)

    few = pairs[:4]
    seconds = in_turns(
        11,
        script=lambda: script_rho_pos(predicted, labels, pairs),
        script_correct=lambda: [(correct[t] & ~correct[s]).mean() for t, s in pairs],
        script_measures=lambda: script_all_measures(predicted, labels, pairs),
        masks=lambda: [
            knowledge.by_class(knowledge.rho_pos, labels, CLASSES, correct[s], correct[t]) for t, s in few
        ],
        correct=lambda: predicted == labels,
        flips_by_class=lambda: knowledge.flips_by_class(correct, labels, CLASSES, pairs),
        measures=lambda: our_measures(predicted, labels, pairs),
        flip_matrix=lambda: knowledge.flip_matrix(predicted == labels),
        matrices=lambda: all_measures(predicted, labels),
    )
    rho_pos = seconds["correct"] + seconds["flips_by_class"]
    masks = seconds["masks"] * PAPER_PAIRS / len(few)

    def ratio(name: str, script: NDArray[np.float64], ours: NDArray[np.float64], goal: float | None) -> None:
        figure(f"{PAPER_PAIRS} pairs of {PAPER_MODELS} models: {name}", script / ours, "ratio", at_least=goal)

    # These pairs only. Whatever is done, each prediction is compared with its label once: the limit.
    ratio("rho_pos, script / flips_by_class", seconds["script"], rho_pos, 50)
    ratio("rho_pos, script / limit", seconds["script"], seconds["correct"], None)
    ratio(
        "rho_pos from correctness, script / flips_by_class",
        seconds["script_correct"],
        seconds["flips_by_class"],
        50,
    )
    ratio("all measures, script / ours", seconds["script_measures"], seconds["measures"], 50)
    ratio("all measures, script / limit", seconds["script_measures"], seconds["correct"], None)
    ratio("flips by class, a mask a class / flips_by_class", masks, seconds["flips_by_class"], 50)
    # The script's time a pair beside ours, where all pairs are computed.
    every = ordered / PAPER_PAIRS
    ratio(f"rho_pos, script / a pair of {ordered}", seconds["script"] * every, seconds["flip_matrix"], 50)
    ratio(
        f"all measures, script / a pair of {ordered}",
        seconds["script_measures"] * every,
        seconds["matrices"],
        50,
    )


# --- by probabilities ---------------------------------------------------------------------------


def by_probabilities() -> None:
    """CAPA and the accuracy of the mean of both: a block of samples, and what all would take at that pace.

    CAPA is a product of matrices; the other compares each pair's mean by itself, so the atlas leaves it out
    of large zoos (`study.atlas.ENSEMBLES`).
    """
    rng = np.random.default_rng(0)
    for models, samples, ensembles in ((MODELS, 16, False), (PAPER_MODELS, 4, True)):
        probabilities = rng.random((models, samples, CLASSES), np.float32) ** 20
        probabilities /= probabilities.sum(axis=2, keepdims=True)
        block = [(probabilities, rng.integers(0, CLASSES, samples))]
        taken = in_turns(3, pairs=lambda b=block, e=ensembles: knowledge.soft_pairs(b, e))
        name = "CAPA and ensembles" if ensembles else "CAPA"
        hours = taken["pairs"] * SAMPLES / samples / 3600
        figure(f"all pairs of {models} models: {name}, {SAMPLES:,} samples, from {samples}", hours, "hours")


# part: the environment it runs in
PARTS = {
    papers_pairs: ONE_THREAD,  # as the script, which numpy runs on one thread
    memory_of_flip_matrix: {},
    memory_of_all_measures: {},
    all_pairs: {},
    by_probabilities: {},
}


def main(arguments: list[str]) -> None:
    parts = {part.__name__: part for part in PARTS}
    if arguments[:1] == ["--here"]:
        parts[arguments[1]]()
        return
    for name in arguments or parts:
        command = [sys.executable, __file__, "--here", name]
        subprocess.run(command, env=os.environ | PARTS[parts[name]], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
