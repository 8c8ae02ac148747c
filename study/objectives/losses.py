"""Losses of one student and at most one teacher: cross-entropy, KL, and their variants.

After arXiv 2310.17653, sections 4.1 and 5.1 and appendix B.1, Hinton et al. (arXiv 1503.02531), section 2,
Yuan et al. (CVPR 2020, arXiv 1909.11723) for distillation without a teacher, and Müller et al. (arXiv
1906.02629) and Shen et al. (arXiv 2104.00676) for label smoothing. Teachers are constants.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from study.contract import Count, Positive, Share, Smoothing

Loss = tuple[Tensor, dict[str, Tensor]]
# None: the teacher's; then left out, so that what has none keeps its id.
StudentTemperature = Annotated[Positive | None, Field(exclude_if=lambda temperature: temperature is None)]


def xe(student: Tensor, labels: Tensor, *, label_smoothing: Smoothing = 0.0) -> Tensor:
    """Cross-entropy with the labels: the control, fine-tuning without a teacher.

    `label_smoothing` is α as torch and timm have it, and Müller et al. (section 1): the target is 1 − α of
    the label and α spread over all K classes, the label's too. Shen et al. (Eq. 1) spread theirs over the
    K − 1 others: ours is theirs times K / (K − 1). Shares of mixed labels are smoothed alike.
    """
    return F.cross_entropy(student.float(), labels, label_smoothing=label_smoothing)


def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Positive = 1.0,
    student_temperature: StudentTemperature = None,
) -> Tensor:
    """Distillation, T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) (arXiv 2310.17653, Eq. 1; Hinton et al., section
    2).

    The factor T² keeps the size of the gradient independent of T. With another `student_temperature` T_s, KL
    is between softmax(z_t/T) and softmax(z_s/T_s), without a factor: with 1, the teacher alone is softened
    (Müller et al., section 4). At T = 1 it is the loss of Shen et al. (Eq. 4) but for the teacher's entropy,
    which no gradient knows.
    """
    own = temperature if student_temperature is None else student_temperature
    log_student, log_teacher = softened(student, own), softened(teacher.detach(), temperature)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence if temperature == 1 or own != temperature else temperature**2 * divergence


def xe_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, *, weight: Share, temperature: Positive = 1.0
) -> Tensor:
    """λ · KL + (1 − λ) · cross-entropy (arXiv 2310.17653, Eq. 2, "XE-KL"); with slow weights Eq. 3,
    "XE-KL+MCL".

    `weight` is λ. The cross-entropy is fed logits. The paper's own runs fed it softmax outputs
    (`xe_kl_as_run`), which weakens that term: numbers of XE-KL are not comparable with the paper's."""
    distilled = kl(student, teacher, temperature=temperature)
    return weight * distilled + (1 - weight) * xe(student, labels)


def xe_kl_augmented(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_augmented: Tensor,
    teacher_augmented: Tensor,
    *,
    weight: Share = 0.9,
    augmented_weight: Annotated[float, Field(ge=0)] = 1.0,
    temperature: Positive = 4.0,
) -> Tensor:
    """XE-KL of two inputs, (1 − λ) · cross-entropy + λ · [KL + w · KL′] (arXiv 2012.02909, section 4.1).

    KL′ is that of the second input (`spec.Augmentation`), of which no label is known; `augmented_weight` is
    w. With w = 1, as in the paper, distillation counts twice as much as in XE-KL with the same λ: what
    compares is a second input that is the first one again."""
    once = kl(student, teacher, temperature=temperature)
    again = kl(student_augmented, teacher_augmented, temperature=temperature)
    return weight * (once + augmented_weight * again) + (1 - weight) * xe(student, labels)


# --- variants (arXiv 2310.17653, section 5.1 and appendix B.1) ----------------------------------


def soft_xe(student: Tensor, teacher: Tensor, *, temperature: Positive = 1.0) -> Tensor:
    """Cross-entropy with the teacher's probabilities, −T² · Σ_c σ_c(z_t/T) log σ_c(z_s/T) (appendix B.1).

    It is KL plus the teacher's entropy, a constant: its gradients are those of `kl`. The paper reports 1.2
    points less than with KL, which this loss as such cannot explain.
    """
    log_student, log_teacher = log_probabilities(student, teacher, temperature)
    return -(temperature**2) * (log_teacher.exp() * log_student).sum(dim=1).mean()


def xe_hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's top class in place of a label (arXiv 2012.12877, Eq. 3, its second
    term alone).

    What a student can learn from a teacher's answers without its probabilities, and without labels."""
    return F.cross_entropy(student.float(), teacher.argmax(dim=1))


def kl_top_k(student: Tensor, teacher: Tensor, *, k: Count = 10, temperature: Positive = 1.0) -> Loss:
    """KL between the probabilities of the teacher's `k` largest classes, made to add up to 1 (appendix B.1).

    Measures the divergence over all classes and over those, in nats, at the temperature.

    Raises:
        ValueError: `k` is more than there are classes.
    """
    if k > teacher.shape[1]:
        raise ValueError(f"kl_top_k: k: {k} of {teacher.shape[1]} classes; lower it")
    largest = teacher.topk(k, dim=1).indices

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        log_student, log_teacher = log_probabilities(student, teacher, temperature)
        return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)

    of_largest = divergence(student.gather(1, largest), teacher.gather(1, largest))
    with torch.no_grad():
        of_all = divergence(student, teacher)
    measures = {"divergence": of_all, "divergence_top_k": of_largest}
    return temperature**2 * of_largest.mean(), measures


def xe_kl_smoothed(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    weight: Share,
    smoothing: Share = 0.1,
    temperature: Positive = 1.0,
) -> Tensor:
    """XE-KL with labels smoothed by `smoothing` (α): (1 − α) on the label, α spread over all classes.

    One reading of section 5.1's "label smoothing"; the other is `tf_kd_reg`, the paper's own runs
    `xe_kl_as_run`."""
    smoothed = F.cross_entropy(student.float(), labels, label_smoothing=smoothing)
    return weight * kl(student, teacher, temperature=temperature) + (1 - weight) * smoothed


def tf_kd_reg(
    student: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.1,
    correct: Share = 0.99,
    temperature: Positive = 20.0,
) -> Tensor:
    """Distillation without a teacher, (1 − λ) · cross-entropy + λ · KL(p ‖ σ(z_s)) (Yuan et al., section 5,
    Eq. 11).

    p is a made-up teacher that gives the label the probability `correct` and all other classes the same,
    softened as softmax(p/T). The authors' code averages KL over classes, too, and multiplies it by a number
    of their choice: here it is a mean over samples, and `weight` (λ) alone says how much it counts."""
    classes = student.shape[1]
    right = labels if labels.is_floating_point() else F.one_hot(labels, classes).float()
    teacher = right * correct + (1 - right) * (1 - correct) / (classes - 1)
    softened = (teacher / temperature).softmax(dim=1)
    log_student = student.float().log_softmax(dim=1)
    regulariser = F.kl_div(log_student, softened, reduction="batchmean")
    return (1 - weight) * xe(student, labels) + weight * regulariser


def xe_kl_as_run(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    weight: Share,
    smoothing: Share = 0.0,
    temperature: Positive = 1.0,
) -> Tensor:
    """XE-KL as the paper's scripts computed it: cross-entropy is fed softmax outputs as if they were logits.

    With `smoothing` (α) these are blended with the uniform distribution before: the scripts' "label
    smoothing"."""
    probabilities = student.float().softmax(dim=1)
    blended = (1 - smoothing) * probabilities + smoothing / student.shape[1]
    return weight * kl(student, teacher, temperature=temperature) + (1 - weight) * xe(blended, labels)


def log_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both at a temperature, float32; the teacher's is a constant."""
    return softened(student, temperature), softened(teacher.detach(), temperature)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(z/T), float32 [batch, classes]."""
    logits = logits.float()
    # With T = 1 nothing would change, for 1 % of a small student's step.
    return F.log_softmax(logits if temperature == 1 else logits / temperature, dim=1)
