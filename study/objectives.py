"""What a student learns from: each objective one function (or module), whose signature is its contract.

What stands before the star is what it reads: `student` (its logits), `teacher`, `teachers` (a tuple),
`frozen` (the original student), `labels`, `indices`, and `student_features`, `teacher_features`,
`teachers_features`, `frozen_features` (pooled, before the head). It is given nothing else: labels never reach
what does not name them. What stands behind the star is what a study may set. It returns the loss, a mean over
samples, or the loss and measures: {name: values of each sample}, whose means the history holds.

After "Fantastic Gains and Where to Find Them" (arXiv 2310.17653), section 4, and Hinton et al. (arXiv
1503.02531) for distillation. An objective with parameters of its own is a `torch.nn.Module` class: behind the
star of its `__init__` stand its settings, before it sizes (`SIZES`); its `forward` names what it reads. One's
own, of either kind, works by its dotted name (CONTRIBUTING.md). Left out on purpose: contrastive and feature
distillation, and the partitions by flips that the authors' scripts try.

Shapes everywhere: logits [batch, classes] of any float dtype, computed with in float32; labels int64 [batch],
or, where images are mixed, their shares float32 [batch, classes]; features [batch, dim]; losses float32
scalars, in nats.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from study.contract import Positive, Share, given

Loss = tuple[Tensor, dict[str, Tensor]]

INPUTS = (
    *("student", "teacher", "teachers", "frozen", "labels", "indices"),
    *("student_features", "teacher_features", "teachers_features", "frozen_features"),
)
SIZES = ("student_dim", "teacher_dim", "classes", "samples")


# --- losses -------------------------------------------------------------------------------------


def xe(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels: the control, fine-tuning without a teacher."""
    return F.cross_entropy(student.float(), labels)


def kl(student: Tensor, teacher: Tensor, *, temperature: Positive = 1.0) -> Tensor:
    """Distillation, T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) (arXiv 2310.17653, Eq. 1; Hinton et al., section
    2).

    The factor T² keeps the size of the gradient independent of T. The teacher is a constant.
    """
    student, teacher = student.float(), teacher.detach().float()
    if temperature != 1:  # with which nothing would change, for 1 % of a small student's step
        student, teacher = student / temperature, teacher / temperature
    log_student, log_teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence if temperature == 1 else temperature**2 * divergence


def xe_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, *, weight: Share, temperature: Positive = 1.0
) -> Tensor:
    """λ · KL + (1 − λ) · cross-entropy (arXiv 2310.17653, Eq. 2, "XE-KL"); with slow weights Eq. 3,
    "XE-KL+MCL".

    `weight` is λ. The cross-entropy is fed logits. The paper's own runs fed it softmax outputs (a softmax of
    a softmax), which weakens that term: numbers of XE-KL are not comparable with the paper's.
    """
    distilled = kl(student, teacher, temperature=temperature)
    return weight * distilled + (1 - weight) * xe(student, labels)


def kl_dp(
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    *,
    temperature: Positive = 1.0,
) -> Loss:
    """KL+DP: each sample from whom gives its true class most probability (arXiv 2310.17653, Eqs. 4 and 5)."""
    return _taught(student, teachers, frozen, best(frozen, teachers, labels), temperature)


def kl_dp_unsupervised(
    student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, *, temperature: Positive = 1.0
) -> Loss:
    """KL+DP by confidence: each sample from the surest, without labels (arXiv 2310.17653, section 4.2)."""
    return _taught(student, teachers, frozen, best(frozen, teachers), temperature)


OBJECTIVES: dict[str, Callable] = {
    function.__name__: function for function in (xe, kl, xe_kl, kl_dp, kl_dp_unsupervised)
}


# --- data partitioning --------------------------------------------------------------------------


def best(frozen: Tensor, teachers: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
    """Who teaches each sample: who gives its true class most probability, or, without labels, any class.

    arXiv 2310.17653, Eq. 4 and section 4.2, for several teachers section 4.3 ("parallel"). Decided from
    frozen models alone, on each batch afresh. Ties go to the frozen student, then to the teacher listed
    first.

    Returns:
        int64 [batch]: 0 for the frozen student, k for the k-th teacher, from 1.
    """

    def doubt(logits: Tensor) -> Tensor:
        if labels is None:
            return -logits.float().softmax(dim=1).amax(dim=1)
        # The negative logarithm of the true class's probability is cross-entropy, and one operation.
        return F.cross_entropy(logits.float(), labels, reduction="none")

    least = doubt(frozen)
    choice = torch.zeros(len(frozen), dtype=torch.int64, device=frozen.device)
    for number, teacher in enumerate(teachers, 1):
        doubted = doubt(teacher)
        choice = torch.where(doubted < least, number, choice)
        least = torch.minimum(doubted, least)
    return choice


def targets(choice: Tensor, frozen: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """The logits that each sample is taught, [batch, classes]: those of `choice`, as `best` numbers them."""
    chosen = frozen
    for number, teacher in enumerate(teachers, 1):
        chosen = torch.where((choice == number)[:, None], teacher, chosen)
    return chosen


def _taught(
    student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, choice: Tensor, temperature: float
) -> Loss:
    loss = kl(student, targets(choice, frozen, teachers), temperature=temperature)
    measures = {"teacher_share": choice > 0}
    if len(teachers) > 1:
        measures |= {f"teacher_{number}_share": choice == number for number in range(1, len(teachers) + 1)}
    return loss, measures


# --- their contract -----------------------------------------------------------------------------


@functools.cache
def needs(objective: Callable) -> tuple[str, ...]:
    """The names of what an objective reads, in its order."""
    return given(objective.forward)[1:] if inspect.isclass(objective) else given(objective)


@functools.cache
def check(objective: Callable, name: str) -> None:
    """Refuse an objective that asks for what none is given.

    Raises:
        ValueError: names what it asks for, and what there is.
    """
    if inspect.isclass(objective) and not hasattr(objective, "forward"):
        raise ValueError(f"'{name}' is a class without 'forward'; make it a torch.nn.Module")
    for asked, known in ((needs(objective), INPUTS), (sizes(objective), SIZES)):
        for word in asked:
            if word not in known:
                raise ValueError(f"'{name}' asks for '{word}', but is given {', '.join(known)} alone")
    if not {"student", "student_features"} & set(needs(objective)):
        raise ValueError(f"'{name}' does not read the student; name 'student' or 'student_features'")


def sizes(objective: Callable) -> tuple[str, ...]:
    """The sizes that a module is made with."""
    return given(objective) if inspect.isclass(objective) else ()


def make(objective: Callable, settings: dict, **known: int | None) -> Callable:
    """An objective with its settings, to be called with what it needs, in its order.

    Args:
        objective: the function or class.
        settings: what stands behind its star.
        known: the sizes (`SIZES`).
    """
    if inspect.isclass(objective):
        return objective(*(known[name] for name in sizes(objective)), **settings)
    return functools.partial(objective, **settings)
