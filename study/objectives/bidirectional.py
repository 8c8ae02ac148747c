"""Two models that learn from each other at once, each where the other is better: Bi-KD (arXiv 2510.22208).

After its text and the authors' published script. Who is better is decided of each sample by the probability
of its true class, from both models as they are at this step; nothing is frozen. Left out on purpose: the
choice of the best epoch by the images that are reported on (`history` has each epoch's accuracy there, and on
images kept aside), Adam as the optimiser, and more than two models.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from study.contract import Positive, Share
from study.objectives.losses import Loss, xe


def bi_kd(
    student: Tensor,
    learning_teacher: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.5,
    targets: Literal["constant", "moving"] = "constant",
    temperature: Positive = 1.0,
) -> Loss:
    """λ · T² · KL(better ‖ worse) + (1 − λ) · cross-entropy of both: of each sample the worse of the two
    imitates the better one.

    `weight` is λ; at 1/2 this is half of the authors' loss, which Adam does not tell from all of it. Their
    script lets the first term move the better one, too (`targets: moving`), towards what the worse one says;
    here, as in all distillation, it is a constant. Measures on which samples the teacher is the better one.
    """
    own, its = ((logits.float() / temperature).log_softmax(1) for logits in (student, learning_teacher))
    doubts = (F.cross_entropy(of.float(), labels, reduction="none") for of in (learning_teacher, student))
    taught = torch.lt(*doubts)
    better, worse = torch.where(taught[:, None], its, own), torch.where(taught[:, None], own, its)
    target = better.detach() if targets == "constant" else better
    divergence = temperature**2 * F.kl_div(worse, target, reduction="batchmean", log_target=True)
    learnt = xe(student, labels) + xe(learning_teacher, labels)
    return weight * divergence + (1 - weight) * learnt, {"teacher_share": taught}
