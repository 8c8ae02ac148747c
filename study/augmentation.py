"""The second input of a student (arXiv 2012.02909): a copy of each batch, shown otherwise, that a teacher
speaks to.

Candidates are copies of what the student sees (`views.View.copy`); where one is picked among several, those
on which a score is largest are kept, as many as the batch has samples (section 3.3, "CutMixPick"). What the
teacher says of them is kept and looked up like all that frozen models say, or computed in each step. How
the teacher's probabilities vary (`study.diversity`) is collected on the way.

Left out on purpose: a scheme of the authors' code that the paper does not use (by distance to the originals).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from study import distributed, diversity, evaluate, spec
from study.frozen import Frozen, Panel
from study.models.zoo import Classifier
from study.views import Augmented, Batch, Shown, View
from study.workspace import Workspace

TEMPERATURE = 4.0  # of picking by KL, as in the authors' code


def entropy(logits: Tensor) -> Tensor:
    """Of each sample's probabilities, in nats: float32 [batch] of logits [batch, classes] (Eq. 11)."""
    log = logits.float().log_softmax(dim=1)
    return -(log.exp() * log).sum(dim=1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(z_t / 4) ‖ softmax(z_s / 4)) of each sample, without T²: float32 [batch] of logits."""
    log_teacher, log_student = ((z.float() / TEMPERATURE).log_softmax(dim=1) for z in (teacher, student))
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)


def picked(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` largest of scores [candidates], int64, the least of them first."""
    return scores.argsort(stable=True)[-count:]


@contextlib.contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """In `eval` mode, and afterwards each part in the mode it was in: no statistic moves."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


class SecondInput:
    """What a trial's second input is, and what its teacher says of it.

    Args:
        workspace: where the teacher runs.
        augmentation: what happens to a copy.
        view: how the student sees the first input.
        epochs: how many there will be.
        teacher: whom the student learns from.

    Attributes:
        windows: of the last `diversity.EPOCHS` epochs.
    """

    def __init__(
        self,
        workspace: Workspace,
        augmentation: spec.Augmentation,
        view: View,
        epochs: int,
        teacher: Classifier,
    ) -> None:
        self.workspace, self.augmentation, self.epochs = workspace, augmentation, epochs
        self.views = augmentation.views(view)
        # Draws of a batch depend on the trial's order: what is said of them is no one else's.
        self.teachers = [
            Frozen(workspace, teacher, one, epochs, kept=augmentation.draw == "sample") for one in self.views
        ]
        self.windows = diversity.Windows()
        self._of_epoch: list[tuple[diversity.Sums, diversity.Sums]] = []

    def loader(self, shown: Shown) -> Augmented:
        """A loader of both inputs, from that of the first."""
        return Augmented(shown, self.views, alike=self.augmentation.draw == "batch")

    def prefetch(self, begin: int) -> None:
        for teacher in self.teachers:
            teacher.prefetch(begin)

    def epoch(
        self, number: int, student: Classifier | None = None
    ) -> Callable[[Batch, Tensor], dict[str, Any]]:
        """What to ask about the batches of an epoch, each with the teacher's logits on its originals.

        It gives the second input's pixels, `augmented`, and `teacher_augmented`, logits float32 [batch,
        classes], of those that are kept.

        Args:
            number: the epoch's.
            student: by whom is scored what is picked by a student.
        """
        asked = [teacher.epoch(number) for teacher in self.teachers]
        collected = number >= self.epochs - diversity.EPOCHS

        def ask(batch: Batch, teacher: Tensor) -> dict[str, Any]:
            pixels, count = batch.augmented, len(batch.indices)
            parts = zip(asked, pixels.split(count), strict=True)
            logits = torch.cat([one(part, batch.indices)[0] for one, part in parts])
            if self.augmentation.pick:
                kept = picked(self._scores(pixels, logits, student), count)
                pixels, logits = pixels[kept], logits[kept]
            if collected:
                part = slice(batch.counted)
                self._of_epoch.append((diversity.Sums.of(teacher[part]), diversity.Sums.of(logits[part])))
            return {"augmented": pixels, "teacher_augmented": logits}

        return ask

    def _scores(self, pixels: Tensor, teacher: Tensor, student: Classifier | None) -> Tensor:
        if self.augmentation.pick == "teacher_entropy":
            return entropy(teacher)
        with (
            as_evaluated(student),
            torch.no_grad(),
            evaluate.autocast(pixels.device, self.workspace.precision),
        ):
            said = student(pixels)
        return entropy(said) if self.augmentation.pick == "student_entropy" else divergence(teacher, said)

    def end_epoch(self) -> None:
        """Add the epoch's batches to the windows: of all workers, so that all have the same."""
        if self._of_epoch:
            halves = [diversity.stacked(half) for half in zip(*self._of_epoch, strict=True)]
            halves = [diversity.Sums(*map(distributed.total, half)) for half in halves]
            for batch in range(len(self._of_epoch)):
                self.windows.add(*(diversity.Sums(*(tensor[batch] for tensor in half)) for half in halves))
            self._of_epoch = []


def question(
    panel: Panel, second: SecondInput | None, student: Classifier
) -> Callable[[int], Callable[[Batch], dict[str, Any]]]:
    """What to ask about the batches of an epoch (`training.fit`): the panel, and of the second input its
    teacher.
    """

    def of_epoch(number: int) -> Callable[[Batch], dict[str, Any]]:
        ask = panel.epoch(number)
        if second is None:
            return lambda batch: ask(batch.pixels, batch.indices)
        ask_again = second.epoch(number, student)

        def both(batch: Batch) -> dict[str, Any]:
            said = ask(batch.pixels, batch.indices)
            return said | ask_again(batch, said["teacher"])

        return both

    return of_epoch
