"""How much a teacher's mean probabilities vary over windows of samples: T. stddev (arXiv 2012.02909,
section 3.2).

A window is five batches, of the originals and of their copies as an augmentation shows them. With u the
mean of the teacher's probabilities over a window's samples (Eq. 9), T. stddev is the mean over classes of
the standard deviation of u over windows (Eq. 10): the paper's proposition 3.1 says that the less a
student's samples hang together, the closer its empirical risk is to its true one. As in the authors' code
(`check_ce_var`): originals and copies in one window, the standard deviation of a sample (n - 1), a window
that is not full left out.

Beside it its error (jackknife over windows), what it is of copies alone, how the two halves go together,
and what else could explain a loss: the entropies, and how their window means vary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

BATCHES = 5  # of a window
EPOCHS = 10  # the last ones of a training, in which windows are collected, as in the authors' runs


class Sums(NamedTuple):
    """Of some samples: the teacher's probabilities, float64 [classes], its entropies in nats, float64 [],
    summed, and how many samples they are, float64 []; each [windows, ...] of several windows.
    """

    probabilities: Tensor
    entropy: Tensor
    samples: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Sums:
        """Of a teacher's logits [samples, classes]; probabilities are float32, as in the authors' code."""
        log = logits.float().log_softmax(dim=1)
        shares = log.exp()
        entropy = -(shares * log).sum(dim=1)
        count = torch.tensor(len(logits), dtype=torch.float64, device=logits.device)
        return cls(shares.double().sum(dim=0), entropy.double().sum(), count)

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def mean(self) -> Tensor:
        """u, the mean probabilities, [windows, classes]."""
        return self.probabilities / self.samples[:, None]


class Windows:
    """Sums of the windows so far, of originals and, with an augmentation, of their copies.

    Attributes:
        batches: of the window that is not full yet, (originals, copies) each.
        full: of the windows, likewise.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Sums, Sums | None]] = []
        self.full: list[tuple[Sums, Sums | None]] = []

    def add(self, originals: Sums, copies: Sums | None = None) -> None:
        """A further batch."""
        self.batches.append((originals, copies))
        if len(self.batches) == BATCHES:
            first, second = zip(*self.batches, strict=True)
            self.full.append((_sum(first), None if copies is None else _sum(second)))
            self.batches = []

    def state(self) -> dict[str, Any]:
        """All that going on needs."""
        return {"batches": _plain(self.batches), "full": _plain(self.full)}

    def take_up(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a `state`."""
        self.batches, self.full = (
            [tuple(sums and Sums(*(t.to(device) for t in sums)) for sums in both) for both in state[name]]
            for name in ("batches", "full")
        )

    def measures(self) -> dict[str, float | int | None]:
        """What `trials` holds of them; None where there are too few windows, or no copies."""
        if len(self.full) < 2:
            return {}
        originals, copies = (stacked(half) for half in zip(*self.full, strict=True))
        both = originals if copies is None else originals + copies
        found: dict[str, float | int | None] = {
            "teacher_stddev": stddev(both.mean),
            "teacher_stddev_error": stddev_error(both.mean),
            "teacher_stddev_windows": len(self.full),
            "teacher_stddev_samples": int(both.samples.max()),
            "teacher_entropy": float(originals.entropy.sum() / originals.samples.sum()),
            "teacher_entropy_stddev": float((both.entropy / both.samples).std()),
        }
        if copies is not None:
            found |= {
                "teacher_stddev_augmented": stddev(copies.mean),
                "teacher_covariance": covariance(originals.mean, copies.mean),
                "teacher_entropy_augmented": float(copies.entropy.sum() / copies.samples.sum()),
            }
        return found


def stddev(means: Tensor) -> float:
    """The mean over classes of the standard deviation (n - 1) over windows, of [windows, classes]."""
    return float(means.std(dim=0).mean())


def stddev_error(means: Tensor) -> float | None:
    """Its standard error, by the jackknife over windows; None of fewer than three."""
    count = len(means)
    if count < 3:
        return None
    squares = (means - means.mean(dim=0)).square()
    # Without window k the sum of squares is less by n / (n - 1) times its own.
    left = (squares.sum(dim=0) - count / (count - 1) * squares).clamp(min=0)
    each = (left / (count - 2)).sqrt().mean(dim=1)
    return float(((count - 1) / count * (each - each.mean()).square().sum()).sqrt())


def covariance(first: Tensor, second: Tensor) -> float:
    """The mean over classes of the covariance (n - 1) over windows of two means, [windows, classes] each."""
    centred = (first - first.mean(dim=0)) * (second - second.mean(dim=0))
    return float(centred.sum(dim=0).mean() / (len(first) - 1))


def _sum(parts: tuple[Sums, ...]) -> Sums:
    return Sums(*(torch.stack(of).sum(dim=0) for of in zip(*parts, strict=True)))


def stacked(parts: tuple[Sums | None, ...]) -> Sums | None:
    """Several windows', or batches', as one."""
    return None if parts[0] is None else Sums(*(torch.stack(of) for of in zip(*parts, strict=True)))


def _plain(windows: list[tuple[Sums, Sums | None]]) -> list[tuple]:
    return [tuple(sums and tuple(sums) for sums in both) for both in windows]
