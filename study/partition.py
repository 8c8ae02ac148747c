"""Data partitioning: who teaches which sample (arXiv 2310.17653, section 4.2, "KL+DP").

A sample is taught by the teacher where the teacher is better on it, and by the frozen student (the
student as it was before the transfer) elsewhere, so that what the student knows is retained. The
decision is made afresh on each batch and only from frozen models; ties go to the frozen student.
Left out on purpose: the partitions by flips the paper also tried.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def supervised(teacher_logits: Tensor, frozen_logits: Tensor, labels: Tensor) -> Tensor:
    """True where the teacher gives the true class strictly more probability than the frozen student.

    arXiv 2310.17653, equation 4.

    Args:
        teacher_logits: [batch, classes], any float dtype.
        frozen_logits: [batch, classes], any float dtype.
        labels: [batch], int64, true classes.

    Returns:
        Bool tensor [batch]: teach this sample from the teacher.
    """
    # By the negative logarithm of that probability, which is cross-entropy, and one operation.
    teacher, frozen = (
        F.cross_entropy(logits.float(), labels, reduction="none")
        for logits in (teacher_logits, frozen_logits)
    )
    return teacher < frozen


def unsupervised(teacher_logits: Tensor, frozen_logits: Tensor) -> Tensor:
    """True where the teacher's largest probability strictly exceeds the frozen student's.

    arXiv 2310.17653, section 4.2: confidence stands in for the label, which is not read.

    Args:
        teacher_logits: [batch, classes], any float dtype.
        frozen_logits: [batch, classes], any float dtype.

    Returns:
        Bool tensor [batch]: teach this sample from the teacher.
    """
    teacher = teacher_logits.float().softmax(dim=1).amax(dim=1)
    frozen = frozen_logits.float().softmax(dim=1).amax(dim=1)
    return teacher > frozen


def targets(from_teacher: Tensor, teacher_logits: Tensor, frozen_logits: Tensor) -> Tensor:
    """The logits each sample is taught: the teacher's where `from_teacher`, else the frozen student's.

    Args:
        from_teacher: bool [batch].
        teacher_logits: [batch, classes].
        frozen_logits: [batch, classes], same dtype.

    Returns:
        [batch, classes].
    """
    return torch.where(from_teacher[:, None], teacher_logits, frozen_logits)
