"""Objectives of one's own, as a study names them: `tests.study.own.Projection`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """The student's features, projected to the teacher's, beside cross-entropy."""

    def __init__(self, student_dim: int, teacher_dim: int, *, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight
        self.projection = nn.Linear(student_dim, teacher_dim)

    def forward(
        self, student: Tensor, student_features: Tensor, teacher_features: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        distance = (self.projection(student_features.float()) - teacher_features).square().mean(1)
        loss = F.cross_entropy(student.float(), labels, reduction="none")
        return (loss + self.weight * distance).mean(), {"distance": distance, "first_class": labels == 0}


def matching(student: Tensor, teacher_features: Tensor, indices: Tensor, *, scale: float = 1.0):
    """A function; its measures are the samples' indices, whose means are known."""
    return scale * student.square().mean(), {"index": indices, "norm": teacher_features.norm(dim=1)}


def small_features(student_features: Tensor, teacher: Tensor) -> Tensor:
    """Reads features of the student alone."""
    return student_features.square().mean() + 0 * teacher.mean()
