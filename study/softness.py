"""How soft a teacher's probabilities are, of the transfer set as a student is shown it.

At the temperature at which the student learns from them: their entropy, the floor of a cross-entropy with
them (Shen et al., arXiv 2104.00676, Eq. 4; cross-entropy is KL plus this), and the mass on wrong classes γ =
E[1 − p_y] · K / (K − 1), which of a perfect fit to smoothed labels is their α: the axis on which Müller et
al. (arXiv 1906.02629, section 4) plot both α and T. Beside them the share of samples of which the teacher is
right: whether it has learnt the transfer set by heart; and 1 − S, how much the probabilities vary within a
class (`study.spread`).

Collected from what the teacher says in each step, kept or live: no forward pass is added. Left out on
purpose: γ and the share of images that are mixed, which have no one class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from study import distributed, spread
from study.objectives.losses import softened
from study.views import Batch

CHUNK = 8192  # samples that are summed together: each small operation in a step costs
NAMES = (
    "teacher_entropy",
    "teacher_off_target",
    "teacher_transfer_accuracy",
    "teacher_intra_class_variance",
)


def sums(logits: Tensor, labels: Tensor | None, temperature: float) -> Tensor:
    """Of some samples: entropies in nats, masses on wrong classes, right ones, and their number.

    Args:
        logits: [samples, classes], of any float dtype.
        labels: int64 [samples]; None where they are not known.
        temperature: T, of all but which samples are right.

    Returns:
        float64 [4], the masses and the right ones NaN without labels.
    """
    log = softened(logits, temperature).double()
    entropy = -(log.exp() * log).sum()
    off, right = log.new_full((2,), torch.nan)
    if labels is not None:
        off = (1 - log.gather(1, labels[:, None]).exp()).sum()
        right = (logits.argmax(dim=1) == labels).sum().double()
    return torch.stack([entropy, off, right, log.new_tensor(len(logits))])


class Softness:
    """That of a teacher, epoch after epoch.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._heard: list[tuple[Tensor, Tensor | None]] = []
        self._waiting, self._sums, self._classes = 0, None, 0
        self._within: spread.ClassSums | None = None

    def listening(
        self, question: Callable[[int], Callable[[Batch], dict[str, Any]]]
    ) -> Callable[[int], Callable[[Batch], dict[str, Any]]]:
        """The same question of `training.fit`, whose answers this one hears."""

        def of_epoch(number: int) -> Callable[[Batch], dict[str, Any]]:
            ask = question(number)

            def heard(batch: Batch) -> dict[str, Any]:
                said, labels = ask(batch), batch.targets
                # Of mixed images there are shares in place of labels.
                known = labels is not None and not labels.is_floating_point()
                self.add(said["teacher"][: batch.counted], labels[: batch.counted] if known else None)
                return said

            return heard

        return of_epoch

    def add(self, logits: Tensor, labels: Tensor | None) -> None:
        """A further batch, as `sums` takes it."""
        self._heard.append((logits, labels))
        self._waiting += len(logits)
        if self._waiting >= CHUNK:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._heard:
            return
        heard, labels = zip(*self._heard, strict=True)
        logits, true = torch.cat(heard), None if labels[0] is None else torch.cat(labels)
        found = sums(logits, true, self.temperature)
        self._sums = found if self._sums is None else self._sums + found
        self._heard, self._waiting, self._classes = [], 0, logits.shape[1]
        if true is not None and self._classes <= spread.MOST:
            if self._within is None:
                self._within = spread.ClassSums(self._classes, self.temperature, logits.device)
            self._within.add(logits, true)

    def end_epoch(self) -> dict[str, float | None]:
        """The measures of `NAMES`, means over the epoch's samples of all workers; then begin anew."""
        self._sum_up()
        entropy, off, right, count = distributed.total(self._sums).tolist()
        self._sums = None
        wrong, variance = self._classes / (self._classes - 1), math.nan
        if self._within is not None:
            self._within.sums = distributed.total(self._within.sums)
            variance, self._within = spread.intra_class_variance(self._within), None
        means = (entropy / count, off / count * wrong, right / count, variance)
        return {name: None if math.isnan(mean) else mean for name, mean in zip(NAMES, means, strict=True)}
