"""T. stddev and what stands beside it, against closed forms, loops and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from study import diversity
from study.diversity import BATCHES, Sums, Windows


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def collected(batches: int, size: int = 16, classes: int = 4, same: bool = False) -> tuple[Windows, list]:
    windows, kept = Windows(), []
    for k in range(batches):
        first = logits(k, size, classes)
        second = first if same else logits(1000 + k, size, classes)
        windows.add(Sums.of(first), Sums.of(second))
        kept.append((first, second))
    return windows, kept


def test_measures_are_those_of_a_loop():
    windows, kept = collected(7 * BATCHES + 3)
    means, own, others, entropies, of_windows = [], [], [], ([], []), []
    for start in range(0, 7 * BATCHES, BATCHES):
        halves = [
            torch.cat([both[k] for both in kept[start : start + BATCHES]]).double().softmax(1) for k in (0, 1)
        ]
        means.append(torch.cat(halves).mean(0).numpy())
        own.append(halves[0].mean(0).numpy())
        others.append(halves[1].mean(0).numpy())
        both = [-(half * half.log()).sum(1).numpy() for half in halves]
        for so_far, entropy in zip(entropies, both, strict=True):
            so_far.extend(entropy)
        of_windows.append(np.concatenate(both).mean())
    found = windows.measures()

    def spread(of: list) -> float:
        return np.std(of, axis=0, ddof=1).mean()

    left_out = [spread(means[:k] + means[k + 1 :]) for k in range(7)]
    covariances = [np.cov(*(np.array(half)[:, c] for half in (own, others)))[0, 1] for c in range(4)]
    expected = {
        "teacher_stddev": spread(means),
        "teacher_stddev_error": math.sqrt(6 / 7 * np.square(left_out - np.mean(left_out)).sum()),
        "teacher_stddev_windows": 7,
        "teacher_stddev_samples": 2 * BATCHES * 16,
        "teacher_stddev_augmented": spread(others),
        "teacher_covariance": np.mean(covariances),
        "teacher_entropy": np.mean(entropies[0]),
        "teacher_entropy_augmented": np.mean(entropies[1]),
        "teacher_entropy_stddev": np.std(of_windows, ddof=1),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_copies_that_are_the_same_add_nothing():
    """The variance of the whole is that of either half, and their covariance."""
    found = collected(10 * BATCHES, same=True)[0].measures()
    assert found["teacher_stddev"] == pytest.approx(found["teacher_stddev_augmented"])
    assert found["teacher_entropy"] == pytest.approx(found["teacher_entropy_augmented"])


def test_few_windows_have_no_measures_or_no_error():
    assert collected(2 * BATCHES - 1)[0].measures() == {}
    found = collected(2 * BATCHES)[0].measures()
    assert found["teacher_stddev"] > 0 and found["teacher_stddev_error"] is None
    assert collected(3 * BATCHES)[0].measures()["teacher_stddev_error"] > 0


def test_without_copies_windows_are_of_originals():
    windows = Windows()
    for k in range(3 * BATCHES):
        windows.add(Sums.of(logits(k, 16, 4)))
    found = windows.measures()
    assert found["teacher_stddev_samples"] == BATCHES * 16
    assert "teacher_covariance" not in found and "teacher_stddev_augmented" not in found


def test_a_state_is_all_that_going_on_needs():
    whole, kept = collected(17)
    first = Windows()
    for number, (own, other) in enumerate(kept):
        if number == 8:
            state, first = first.state(), Windows()
            first.take_up(state, torch.device("cpu"))
        first.add(Sums.of(own), Sums.of(other))
    assert first.measures() == whole.measures()


@pytest.mark.parametrize("classes", [10, 100])
def test_a_certain_teacher_gives_the_closed_form(classes):
    """Of n independent samples: sqrt(1/C (1 - 1/C) / n), whether each is shown once or twice; the bias of a
    standard deviation over so many windows is under one percent. Its error is that of repetitions.
    """
    size, values, errors = 64, [], []
    n = BATCHES * size
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        windows = Windows()
        for _ in range(40 * BATCHES):
            said = 100 * torch.eye(classes)[torch.randint(classes, (size,), generator=generator)]
            windows.add(Sums.of(said), Sums.of(said))
        found = windows.measures()
        values.append(found["teacher_stddev"])
        errors.append(found["teacher_stddev_error"])
        assert found["teacher_entropy"] == pytest.approx(0, abs=1e-6)
    closed = math.sqrt((1 - 1 / classes) / classes / n)
    assert np.mean(values) == pytest.approx(closed, rel=0.03)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.9)


def test_an_error_is_told_of_three_windows_at_least():
    means = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert diversity.stddev_error(means[:2]) is None
    each = [diversity.stddev(means[[a, b]]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert diversity.stddev_error(means) == pytest.approx(
        math.sqrt(2 / 3 * np.square(each - np.mean(each)).sum())
    )
