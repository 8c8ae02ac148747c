"""The losses of transfer, as pure functions on logits.

After "Fantastic Gains and Where to Find Them" (arXiv 2310.17653), section 4, and Hinton et al.
(arXiv 1503.02531) for the distillation term. Which teacher a sample gets is not decided here but in
`study.partition`; which losses make up a method, in `study.methods`. Left out on purpose: feature
and contrastive distillation, which the paper does not use between models of different families.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Distillation loss T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)), mean over samples.

    Hinton et al., section 2; arXiv 2310.17653, equation 2. The factor T² keeps the size of the
    gradient independent of T. Computed in float32 whatever comes in.

    Args:
        student_logits: [batch, classes], any float dtype; gradients flow into it.
        teacher_logits: [batch, classes], any float dtype; treated as a constant.
        temperature: T > 0, no unit.

    Returns:
        Scalar tensor, float32, in nats.
    """
    student, teacher = student_logits.float(), teacher_logits.detach().float()
    if temperature != 1:  # with which nothing would change, for 1 % of a small student's step
        student, teacher = student / temperature, teacher / temperature
    log_student, log_teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence if temperature == 1 else temperature**2 * divergence


def xe(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, mean over samples.

    Args:
        student_logits: [batch, classes], any float dtype.
        labels: [batch], int64, true classes.

    Returns:
        Scalar tensor, float32, in nats.
    """
    return F.cross_entropy(student_logits.float(), labels)


def xe_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    weight: float,
    temperature: float = 1.0,
) -> Tensor:
    """λ · KL + (1 − λ) · cross-entropy (arXiv 2310.17653, section 4.1, "XE-KL").

    The cross-entropy is fed logits. The paper's own runs fed it softmax outputs (a softmax of a
    softmax), which weakens that term: numbers of XE-KL are not comparable with the paper's.

    Args:
        student_logits: [batch, classes], any float dtype; gradients flow into it.
        teacher_logits: [batch, classes], any float dtype; treated as a constant.
        labels: [batch], int64, true classes.
        weight: λ in [0, 1], the weight on KL.
        temperature: T > 0 of the KL term.

    Returns:
        Scalar tensor, float32, in nats.
    """
    distilled = kl(student_logits, teacher_logits, temperature)
    return weight * distilled + (1 - weight) * xe(student_logits, labels)
