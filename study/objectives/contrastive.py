"""Contrastive distillation: a student learns how alike the teacher finds samples, not what it calls them.

After arXiv 2310.17653, appendix A.2: CD (Eq. 6) and CRD (Eq. 7; Tian et al., "Contrastive Representation
Distillation", arXiv 1910.10699). Both compare features, so student and teacher may be of any two
architectures. Teachers are in eval mode, as everywhere here. The paper's scripts left the teacher's
backbone in train mode for these two methods, so its targets moved with each batch."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.contract import Count, Positive, Share
from study.objectives.losses import xe

EPSILON = 1e-7  # in the denominator of h, as Tian et al.


def cd(
    student: Tensor,
    student_features: Tensor,
    teacher_features: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.5,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """λ · Σ_i KL(σ(S^t_i) ‖ σ(S^s_i)) + (1 − λ) · cross-entropy (arXiv 2310.17653, Eq. 6).

    S is the cosine similarity of the batch's samples, its diagonal included. The paper's runs sum over rows;
    the mean, the default, does not change with the size of the batch.
    """
    log_student, log_teacher = (
        (unit @ unit.T).log_softmax(dim=1)
        for unit in (
            F.normalize(features.float(), dim=1) for features in (student_features, teacher_features.detach())
        )
    )
    how = "batchmean" if reduction == "mean" else "sum"
    contrast = F.kl_div(log_student, log_teacher, reduction=how, log_target=True)
    return weight * contrast + (1 - weight) * xe(student, labels)


class crd(nn.Module):
    """Cross-entropy + λ · CRD (arXiv 2310.17653, Eq. 7; defaults of Tian et al.).

    Student's and teacher's features are projected to `dim` numbers of length 1, by a linear layer each,
    which is trained. A sample's two projections are to be told from pairs of different samples, `negatives`
    of which are drawn for each sample among those of other classes, with replacement. What the negatives
    are compared by are two banks with a row a sample of the transfer set, each row an average of the
    sample's last projections (`momentum` is the old one's share).

    Args:
        student_dim, teacher_dim: numbers of features.
        sample_labels: int64 [samples], the classes of the transfer set.
        weight: λ, of CRD beside cross-entropy, which has 1.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        sample_labels: Tensor,
        *,
        weight: Positive = 0.8,
        negatives: Count = 16384,
        temperature: Positive = 0.07,
        momentum: Share = 0.5,
        dim: Count = 128,
    ) -> None:
        super().__init__()
        self.weight, self.negatives, self.temperature, self.momentum = (
            weight,
            negatives,
            temperature,
            momentum,
        )
        self.student_projection = nn.Linear(student_dim, dim)
        self.teacher_projection = nn.Linear(teacher_dim, dim)
        samples, bound = len(sample_labels), (3 / dim) ** 0.5
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, torch.empty(samples, dim).uniform_(-bound, bound))
        # Of the two sums over everything that the fractions are of: estimated by the first batch, then kept.
        for name in ("student_total", "teacher_total"):
            self.register_buffer(name, torch.tensor(0.0))
        by_class = sample_labels.argsort(stable=True)
        counts = sample_labels.bincount()
        self.register_buffer("by_class", by_class, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)

    def forward(
        self,
        student: Tensor,
        student_features: Tensor,
        teacher_features: Tensor,
        labels: Tensor,
        indices: Tensor,
    ) -> Tensor:
        """The loss; the banks' rows of these samples are then brought up to date.

        Raises:
            ValueError: images are mixed, so that a sample is of no one class.
        """
        contrast = self.contrast(student_features, teacher_features, indices, self.draw(labels))
        return xe(student, labels) + self.weight * contrast

    def draw(self, labels: Tensor) -> Tensor:
        """Negatives: positions of samples of other classes, int64 [batch, negatives]; each is equally
        likely.

        Raises:
            ValueError: images are mixed, so that a sample is of no one class.
        """
        if labels.is_floating_point():
            raise ValueError(
                "crd: negatives are of other classes, which mixed images have not; leave out mixing"
            )
        own = self.counts[labels][:, None]
        others = len(self.by_class) - own
        random = torch.rand(len(labels), self.negatives, device=labels.device, dtype=torch.float64)
        place = (random * others).long()
        # Sorted by class, a sample's own class is one block, which is left out.
        place = torch.where(place < self.starts[labels][:, None], place, place + own)
        return self.by_class[place]

    def contrast(
        self, student_features: Tensor, teacher_features: Tensor, indices: Tensor, negatives: Tensor
    ) -> Tensor:
        """CRD of a batch, a mean over samples: student's anchors among the teacher's bank, and the
        reverse."""
        student = F.normalize(self.student_projection(student_features.float()), dim=1)
        teacher = F.normalize(self.teacher_projection(teacher_features.detach().float()), dim=1)
        which = torch.cat([indices[:, None], negatives], dim=1)
        loss = 0.0
        sides = (("student", student, self.teacher_bank), ("teacher", teacher, self.student_bank))
        for side, anchors, bank in sides:
            # A copy: the bank changes below, before gradients are computed.
            scores = (torch.bmm(bank[which], anchors[:, :, None])[:, :, 0] / self.temperature).exp()
            total = getattr(self, f"{side}_total")
            if not total:
                total.copy_(scores.detach().mean() * len(bank))
            loss = loss + self._against_chance(scores / total, len(bank))
        self._remember(self.student_bank, student, indices)
        self._remember(self.teacher_bank, teacher, indices)
        return loss

    def _against_chance(self, likelihood: Tensor, samples: int) -> Tensor:
        """−log h of the pair that belongs together and −Σ log(1 − h) of the others; h = p / (p + K/M)."""
        chance = self.negatives / samples
        together, apart = likelihood[:, 0], likelihood[:, 1:]
        right = (together / (together + chance + EPSILON)).log()
        wrong = (chance / (apart + chance + EPSILON)).log().sum(dim=1)
        return -(right + wrong).mean()

    @torch.no_grad()
    def _remember(self, bank: Tensor, projections: Tensor, indices: Tensor) -> None:
        rows = self.momentum * bank[indices] + (1 - self.momentum) * projections
        bank[indices] = F.normalize(rows, dim=1)
