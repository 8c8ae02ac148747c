"""Other ways to be taught by a teacher and by oneself: partitions that are calibrated, soft, or by class, and
weights that follow the student as it learns.

`xe_kl_dp_calibrated` and `xe_kl_mixed` change Eqs. 4 and 5 of arXiv 2310.17653, the pool's near relatives.
`xe_kl_adaptconf` is AdaptConf (Guo et al., "Vision Superalignment", arXiv 2402.03749, section 3),
`xe_kl_until_passed` after arXiv 2604.15451. `kl_of_classes` and `kl_of_experts` choose what is transferred.
All but these two have the pool's λ and temperature, for a fair comparison. Left out on purpose: the classes
of mixed images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.contract import Positive, Share
from study.objectives.losses import Loss, kl, xe, xe_kl
from study.objectives.partition import best, inverse_temperatures, shares, targets, weighted_kl

# --- partitions ---------------------------------------------------------------------------------


class xe_kl_dp_calibrated(nn.Module):
    """Data partitioning of calibrated models, λ · KL + (1 − λ) · cross-entropy.

    Each model's logits are divided by the temperature that makes its labels on `tune` likeliest (Guo et al.,
    arXiv 1706.04599), before it is compared and imitated: who is too sure is not heard for that.

    Args:
        tune_frozen, tune_teachers, tune_labels: what `partition.inverse_temperatures` takes.
        weight: λ.
    """

    def __init__(
        self,
        tune_frozen: Tensor,
        tune_teachers: Sequence[Tensor],
        tune_labels: Tensor,
        *,
        weight: Share = 0.7,
        temperature: Positive = 2.0,
    ) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        inverse = inverse_temperatures(tune_frozen, tune_teachers, tune_labels)
        self.register_buffer("inverse", inverse, persistent=False)

    def forward(self, student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, labels: Tensor) -> Loss:
        frozen = self.inverse[0] * frozen
        teachers = [by * one for by, one in zip(self.inverse[1:], teachers, strict=True)]
        choice = best(frozen, teachers, labels)
        target = targets(choice, frozen, teachers)
        loss = xe_kl(student, target, labels, weight=self.weight, temperature=self.temperature)
        return loss, shares(choice, len(teachers))


def xe_kl_mixed(
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.7,
    temperature: Positive = 2.0,
) -> Loss:
    """A soft partition: λ · KL from a mixture of all models + (1 − λ) · cross-entropy.

    A model's share is how responsible it is for the true class, p_k(y) / Σ_j p_j(y), the posterior of a
    mixture's component. Measures the teachers' share."""
    said = torch.stack([one.float().log_softmax(1) for one in (frozen, *teachers)])
    likelihood = torch.stack([-F.cross_entropy(one, labels, reduction="none") for one in said])
    responsible = likelihood.log_softmax(0)
    target = (said + responsible[..., None]).logsumexp(0)
    loss = xe_kl(student, target, labels, weight=weight, temperature=temperature)
    return loss, {"mixed_share": 1 - responsible[0].exp()}


# --- as the student learns ----------------------------------------------------------------------


def xe_kl_adaptconf(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.7,
    temperature: Positive = 2.0,
    scale: Positive = 1.0,
) -> Loss:
    """AdaptConf: λ · ((1 − β) · KL + β · H(z_s, ŷ_s)) + (1 − λ) · cross-entropy (arXiv 2402.03749).

    H(z_s, ŷ) is the student's cross-entropy with a top class: its own, ŷ_s, or the teacher's, ŷ_t. Its share
    is β = softmax of (H(z_s, ŷ_s), H(z_s, ŷ_t)) / `scale`, a constant a sample, at most 1/2: the surer the
    student is of another class than the teacher's, the more it is told the teacher's. Measures β."""
    own, its = (F.cross_entropy(student.float(), of.argmax(1), reduction="none") for of in (student, teacher))
    share = (torch.stack([own, its]).detach() / scale).softmax(0)[0]
    taught = weighted_kl(student, teacher, 1 - share, temperature) + (share * own).mean()
    return weight * taught + (1 - weight) * xe(student, labels), {"own_share": share}


def xe_kl_until_passed(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.7,
    temperature: Positive = 2.0,
) -> Loss:
    """The teacher teaches a sample until the student passes it (after arXiv 2604.15451).

    λ · KL of the samples whose true class the teacher gives more probability than the student does now, plus
    (1 − λ) · cross-entropy of all. Unlike in KL+DP it is the student in training that is asked, not the
    frozen one. Measures the share that is still taught."""
    own, its = (F.cross_entropy(of.float(), labels, reduction="none") for of in (student, teacher))
    taught = (its < own).detach()
    distilled = weighted_kl(student, teacher, taught, temperature)
    return weight * distilled + (1 - weight) * xe(student, labels), {"not_passed": taught}


# --- what is transferred ------------------------------------------------------------------------


class kl_of_classes(nn.Module):
    """KL from the teacher on samples of chosen classes, from the frozen student on all others.

    Args:
        class_names: of the data.
        classes: those to learn, by name or by number from 0.

    Raises:
        ValueError: the data have no such class.
    """

    def __init__(
        self, class_names: Sequence[str], *, classes: list[int | str], temperature: Positive = 1.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        named = {name: number for number, name in enumerate(class_names)}
        chosen = [named.get(one) if isinstance(one, str) else one for one in classes]
        for one, number in zip(classes, chosen, strict=True):
            if number is None or not 0 <= number < len(class_names):
                known = f"{', '.join(class_names[:10])}{' ...' if len(class_names) > 10 else ''}"
                raise ValueError(f"classes: the data have no class {one!r}; they are {known}")
        whom = torch.zeros(len(class_names), dtype=torch.int64)
        whom[chosen] = 1
        self.register_buffer("whom", whom, persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, frozen: Tensor, labels: Tensor) -> Loss:
        return kl_by_class(self.whom, student, (teacher,), frozen, labels, self.temperature)


class kl_of_experts(nn.Module):
    """KL on each class from its expert: who finds most of its samples on `tune`, a teacher or the frozen
    student.

    Args:
        tune_frozen, tune_teachers, tune_labels: as `pool.pool_weights` takes them.
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
        self.register_buffer("whom", experts(tune_frozen, tune_teachers, tune_labels), persistent=False)

    def forward(self, student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, labels: Tensor) -> Loss:
        return kl_by_class(self.whom, student, teachers, frozen, labels, self.temperature)


def experts(frozen: Tensor, teachers: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Who finds most samples of each class; ties, and classes without samples, are the frozen student's.

    Args:
        frozen: logits [samples, classes].
        teachers: each one's.
        labels: int64 [samples].

    Returns:
        int64 [classes]: 0 for the frozen student, k for the k-th teacher, as `partition.best` has it.
    """
    found = torch.stack(
        [labels[said.argmax(1) == labels].bincount(minlength=frozen.shape[1]) for said in (frozen, *teachers)]
    )
    return found.argmax(0)


def kl_by_class(
    whom: Tensor,
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    temperature: float,
) -> Loss:
    """`losses.kl` from whom each class belongs to, int64 [classes].

    Raises:
        ValueError: images are mixed, so that a sample is of no one class.
    """
    if labels.is_floating_point():
        raise ValueError("a mixed image is of several classes, and is taught by none; leave out mixing")
    choice = whom[labels]
    loss = kl(student, targets(choice, frozen, teachers), temperature=temperature)
    return loss, shares(choice, len(teachers))
