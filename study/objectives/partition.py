"""Data partitioning: who teaches which sample, a teacher or the frozen student.

KL+DP after arXiv 2310.17653, sections 4.2 and 4.3; its variants after appendix A.3 (cross-entropy beside
it) and the authors' scripts (partitions by flips, a weight on the frozen student's term); beyond it, the same
choice among calibrated models. Everything is decided from frozen models, on each batch afresh. The scripts
decide flips by the student as it is in training; here, as the paper's idea has it, by the frozen student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.contract import Positive, Share
from study.objectives.losses import Loss, kl, log_probabilities, xe
from study.objectives.pool import pool_weights

Whom = Literal["teacher", "frozen", "mean", "nobody"]


# --- who teaches --------------------------------------------------------------------------------


def best(frozen: Tensor, teachers: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
    """Who teaches each sample: who gives its true class most probability, or, without labels, any class.

    arXiv 2310.17653, Eq. 4 and section 4.2, for several teachers section 4.3 ("parallel"). Decided from
    frozen models alone. Ties go to the frozen student, then to the teacher listed first.

    Returns:
        int64 [batch]: 0 for the frozen student, k for the k-th teacher, from 1.
    """

    def doubt(logits: Tensor) -> Tensor:
        if labels is None:
            # In float32 its logarithm would tell nothing more: both end where 1 + exp(-gap) is 1.
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


def flips(frozen: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Bool [batch] each: positive flips (the teacher is right, the frozen student wrong), and negative
    ones."""
    own, its = (logits.argmax(dim=1) == labels for logits in (frozen, teacher))
    return its & ~own, own & ~its


def flips_taught(taught: Tensor, frozen: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Measures, bool [batch] each: flips, and those of them that the teacher teaches (section 5.1's 72 and
    9 %).

    Args:
        taught: bool [batch], what is taught by the teacher.
    """
    positive, negative = flips(frozen, teacher, labels)
    return {
        "positive_flips": positive,
        "negative_flips": negative,
        "taught_positive_flips": positive & taught,
        "taught_negative_flips": negative & taught,
    }


def inverse_temperatures(frozen: Tensor, teachers: Sequence[Tensor], labels: Tensor) -> Tensor:
    """1/T of each model's best temperature: what its logits are multiplied by to make the labels likeliest.

    Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, section
    4.2), as the pool of one model alone.

    Args:
        frozen: logits [samples, classes] of the frozen student, of images that no model was trained on.
        teachers: each one's.
        labels: int64 [samples].

    Returns:
        float32 [1 + teachers], the frozen student's first. Of one who says nothing of the labels about 0, of
        one who says the opposite below 0.
    """
    return torch.cat([pool_weights(said, (), labels) for said in (frozen, *teachers)]).float()


# --- objectives ---------------------------------------------------------------------------------


def kl_dp(
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    *,
    temperature: Positive = 1.0,
) -> Loss:
    """KL+DP: each sample from whom gives its true class most probability (arXiv 2310.17653, Eqs. 4 and 5)."""
    choice = best(frozen, teachers, labels)
    loss = kl(student, targets(choice, frozen, teachers), temperature=temperature)
    return loss, shares(choice, len(teachers))


def kl_dp_unsupervised(
    student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, *, temperature: Positive = 1.0
) -> Loss:
    """KL+DP by confidence: each sample from the surest, without labels (arXiv 2310.17653, section 4.2)."""
    choice = best(frozen, teachers)
    loss = kl(student, targets(choice, frozen, teachers), temperature=temperature)
    return loss, shares(choice, len(teachers))


class kl_dp_calibrated(nn.Module):
    """KL+DP, decided by calibrated probabilities (Eqs. 4 and 5, after arXiv 1706.04599).

    Each model's logits are divided by the temperature that makes its labels on `tune` likeliest, and then
    compared as in KL+DP. What is taught are the chosen model's own logits: beside KL+DP nothing else
    differs. A teacher that label smoothing has made less sure is thus not chosen less for that.

    Args:
        tune_frozen, tune_teachers, tune_labels: what `inverse_temperatures` takes.
    """

    def __init__(
        self,
        tune_frozen: Tensor,
        tune_teachers: Sequence[Tensor],
        tune_labels: Tensor,
        *,
        temperature: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        inverse = inverse_temperatures(tune_frozen, tune_teachers, tune_labels)
        self.register_buffer("inverse", inverse, persistent=False)

    def forward(self, student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, labels: Tensor) -> Loss:
        own, *others = (by * said.float() for by, said in zip(self.inverse, (frozen, *teachers), strict=True))
        choice = best(own, others, labels)
        loss = kl(student, targets(choice, frozen, teachers), temperature=self.temperature)
        return loss, shares(choice, len(teachers))


def kl_dp_drop(
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    *,
    drop: Share = 0.5,
    temperature: Positive = 1.0,
) -> Loss:
    """KL+DP whose teachers are each left out of a sample with the probability `drop`, anew in each step.

    So that of several teachers not only the one is heard that is best almost everywhere. Random numbers are
    torch's, as those of dropout."""
    missing = torch.rand(len(teachers), len(frozen), 1, device=frozen.device) < drop
    # One that says what the frozen student says ties with it, and ties go to the frozen student.
    there = [torch.where(out, frozen, teacher) for out, teacher in zip(missing, teachers, strict=True)]
    return kl_dp(student, there, frozen, labels, temperature=temperature)


def xe_kl_dp(
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    *,
    weight: Share,
    frozen_weight: Positive = 1.0,
    temperature: Positive = 1.0,
) -> Loss:
    """λ · KL+DP + (1 − λ) · cross-entropy (appendix A.3's search), the frozen student's samples weighted.

    `weight` is λ: at 1, with a `frozen_weight` of 1, it is KL+DP. `frozen_weight` multiplies the divergence
    of samples that the frozen student teaches (the scripts try 1 to 10)."""
    choice = best(frozen, teachers, labels)
    target = targets(choice, frozen, teachers)
    weights = torch.where(choice == 0, frozen_weight, 1.0)
    partitioned = weighted_kl(student, target, weights, temperature)
    return weight * partitioned + (1 - weight) * xe(student, labels), shares(choice, len(teachers))


def kl_flips(
    student: Tensor,
    teacher: Tensor,
    frozen: Tensor,
    labels: Tensor,
    *,
    positive: Whom = "teacher",
    neutral: Whom = "frozen",
    negative: Whom = "frozen",
    temperature: Positive = 1.0,
) -> Loss:
    """KL partitioned by flips: who teaches positive flips, negative ones, and the rest, which is neutral.

    The mean is that of teacher's and frozen student's logits; what nobody teaches adds no loss. The scripts'
    `flip-st` is as it stands, `flip-t` has `neutral: teacher`, `flip-avg` has `neutral: mean`; distilling on
    positive flips alone has `neutral: nobody, negative: nobody`.
    """
    known, unknown = flips(frozen, teacher, labels)
    rest = ~(known | unknown)
    logits = {"teacher": teacher, "frozen": frozen, "mean": (teacher + frozen) / 2, "nobody": frozen}
    target, weights = torch.zeros_like(frozen), torch.ones(len(frozen), device=frozen.device)
    taught = torch.zeros_like(known)
    for part, whom in ((known, positive), (rest, neutral), (unknown, negative)):
        target = torch.where(part[:, None], logits[whom], target)
        if whom == "nobody":
            weights = torch.where(part, 0.0, weights)
        if whom == "teacher":
            taught = taught | part
    return weighted_kl(student, target, weights, temperature), {"teacher_share": taught}


def self_distillation(student: Tensor, frozen: Tensor, *, temperature: Positive = 1.0) -> Tensor:
    """KL from the frozen student on every sample: a control, without a teacher and without labels."""
    return kl(student, frozen, temperature=temperature)


def weighted_kl(student: Tensor, target: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """`kl` with a weight a sample, still divided by the number of samples."""
    log_student, log_target = log_probabilities(student, target, temperature)
    divergence = F.kl_div(log_student, log_target, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (weights * divergence).mean()


def shares(choice: Tensor, teachers: int) -> dict[str, Tensor]:
    """Measures: which samples a teacher teaches, and of several, which each."""
    measures = {"teacher_share": choice > 0}
    if teachers > 1:
        measures |= {f"teacher_{number}_share": choice == number for number in range(1, teachers + 1)}
    return measures
