"""Distillation of features beside XE-KL: the methods that CutMix and CutMixPick are combined with.

After "What Makes a 'Good' Data Augmentation in Knowledge Distillation" (arXiv 2012.02909), whose losses are
those of Tian et al.'s benchmark (arXiv 1910.10699): each is (1 − λ) · cross-entropy + λ · KL + β · a loss of
features, with the benchmark's β. Of a second input λ · KL is added (`losses.xe_kl_augmented`); features are
of the first one alone. What the features are compared by are pure functions, means over samples or
over pairs of them. Pooled features are what the head is given, [batch, dim]; maps are those of a network's
stages, from the first to the last, [batch, channels, height, width]. Student's and teacher's stages are
paired from the last one back. CRD's own part is in `contrastive`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.contract import Count, Positive, Share
from study.objectives.contrastive import crd
from study.objectives.losses import xe_kl, xe_kl_augmented

EPSILON = 1e-7  # beside lengths and probabilities of PKT
LEAST_VARIANCE, FIRST_VARIANCE = 1e-5, 5.0  # of VID, as Tian et al.


# --- what features are compared by --------------------------------------------------------------


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """AT of one stage (Zagoruyko and Komodakis, arXiv 1612.03928, section 3.1).

    An attention map is the mean over channels of squared activations, of length 1; the loss is the mean
    squared difference of the two. The larger one is averaged to the smaller one's size first.
    """
    own, its = (F.normalize(maps.square().mean(dim=1).flatten(1)) for maps in _same_size(student, teacher))
    return (own - its).square().mean()


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """SP (Tung and Mori, arXiv 1907.09682, Eqs. 1 to 4): the mean squared difference of two [batch, batch].

    A row holds a sample's scalar products with all samples of the batch, and has length 1 (in L2).
    """
    own, its = (
        F.normalize(flat @ flat.T) for flat in (maps.float().flatten(1) for maps in (student, teacher))
    )
    return (own - its).square().mean()


def correlation_of_neighbours(student: Tensor, teacher: Tensor) -> Tensor:
    """CC as the benchmark has it, of embeddings [batch, dim]: the mean of |d_i| · |d_(i+1)|, d = student −
    teacher.

    What is published (Peng et al., arXiv 1904.01802) compares correlations of whole batches by a kernel.
    """
    apart = (student - teacher).abs()
    return (apart[:-1] * apart[1:]).sum(dim=1).mean()


def similarity_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """PKT (Passalis and Tefas, arXiv 1803.10837, Eqs. 4 to 6) of features [batch, dim].

    p is how alike two samples are by the cosine, in [0, 1], a row made to add up to 1; the loss is p_t · log
    (p_t / p_s), a mean over all pairs of samples.
    """

    def likeness(features: Tensor) -> Tensor:
        features = features.float()
        unit = features / (features.norm(dim=1, keepdim=True) + EPSILON)
        alike = (unit @ unit.T + 1) / 2
        return alike / alike.sum(dim=1, keepdim=True)

    own, its = likeness(student), likeness(teacher)
    return (its * ((its + EPSILON) / (own + EPSILON)).log()).mean()


def gaussian_loss(mean: Tensor, log_scale: Tensor, teacher: Tensor) -> Tensor:
    """VID of one stage (Ahn et al., arXiv 1904.05835, Eqs. 4 to 6): −log N(teacher; mean, σ²), but for a
    constant.

    Args:
        mean: what the student predicts of the teacher's maps [batch, channels, height, width].
        log_scale: [channels]; σ² is its softplus.
        teacher: the maps.
    """
    variance = (F.softplus(log_scale) + LEAST_VARIANCE)[:, None, None]
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the smaller one's height and width, float32."""
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return tuple(F.adaptive_avg_pool2d(maps.float(), size) for maps in (student, teacher))


def _pairs(student: Sequence, teacher: Sequence, stages: int) -> list[tuple]:
    """The last `stages` of both, or as many as both have."""
    count = min(stages, len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def _constants(maps: Sequence[Tensor]) -> list[Tensor]:
    return [one.detach() for one in maps]


def _distilled(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_augmented: Tensor | None,
    teacher_augmented: Tensor | None,
    **settings: float,
) -> Tensor:
    """XE-KL, of two inputs where there is a second one."""
    if student_augmented is None:
        return xe_kl(student, teacher, labels, **settings)
    return xe_kl_augmented(student, teacher, labels, student_augmented, teacher_augmented, **settings)


# --- objectives ---------------------------------------------------------------------------------


def xe_kl_at(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    student_augmented: Tensor | None = None,
    teacher_augmented: Tensor | None = None,
    *,
    beta: Positive = 1000.0,
    stages: Count = 4,
    weight: Share = 0.9,
    temperature: Positive = 4.0,
) -> Tensor:
    """XE-KL + β · attention transfer, summed over the last `stages` (`attention_distance`)."""
    pairs = _pairs(student_maps, _constants(teacher_maps), stages)
    attention = sum(attention_distance(own, its) for own, its in pairs)
    outputs = student, teacher, labels, student_augmented, teacher_augmented
    return _distilled(*outputs, weight=weight, temperature=temperature) + beta * attention


def xe_kl_sp(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    student_augmented: Tensor | None = None,
    teacher_augmented: Tensor | None = None,
    *,
    beta: Positive = 3000.0,
    weight: Share = 0.9,
    temperature: Positive = 4.0,
) -> Tensor:
    """XE-KL + β · similarity-preserving distillation of the last stage (`similarity_distance`)."""
    similarity = similarity_distance(student_maps[-1], teacher_maps[-1].detach())
    outputs = student, teacher, labels, student_augmented, teacher_augmented
    return _distilled(*outputs, weight=weight, temperature=temperature) + beta * similarity


def xe_kl_pkt(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    student_features: Tensor,
    teacher_features: Tensor,
    student_augmented: Tensor | None = None,
    teacher_augmented: Tensor | None = None,
    *,
    beta: Positive = 30000.0,
    weight: Share = 0.9,
    temperature: Positive = 4.0,
) -> Tensor:
    """XE-KL + β · probabilistic knowledge transfer of pooled features (`similarity_divergence`)."""
    divergence = similarity_divergence(student_features, teacher_features.detach())
    outputs = student, teacher, labels, student_augmented, teacher_augmented
    return _distilled(*outputs, weight=weight, temperature=temperature) + beta * divergence


class xe_kl_cc(nn.Module):
    """XE-KL + β · correlation congruence of pooled features, as the benchmark has it
    (`correlation_of_neighbours`).

    Student's and teacher's features are embedded in `dim` numbers, by a linear layer each, which is trained.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        beta: Positive = 0.02,
        dim: Count = 128,
        weight: Share = 0.9,
        temperature: Positive = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.settings = beta, {"weight": weight, "temperature": temperature}
        self.student_embedding = nn.Linear(student_dim, dim)
        self.teacher_embedding = nn.Linear(teacher_dim, dim)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        student_features: Tensor,
        teacher_features: Tensor,
        student_augmented: Tensor | None = None,
        teacher_augmented: Tensor | None = None,
    ) -> Tensor:
        own = self.student_embedding(student_features.float())
        its = self.teacher_embedding(teacher_features.detach().float())
        correlation = correlation_of_neighbours(own, its)
        outputs = student, teacher, labels, student_augmented, teacher_augmented
        return _distilled(*outputs, **self.settings) + self.beta * correlation


class xe_kl_vid(nn.Module):
    """XE-KL + β · variational information distillation, summed over the last `stages` (`gaussian_loss`).

    Of each stage three 1 x 1 convolutions predict the teacher's maps from the student's, with a variance a
    channel; both are trained.

    Args:
        student_channels, teacher_channels: of each stage's maps.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        *,
        beta: Positive = 1.0,
        stages: Count = 4,
        weight: Share = 0.9,
        temperature: Positive = 4.0,
    ) -> None:
        super().__init__()
        self.beta, self.stages = beta, stages
        self.settings = {"weight": weight, "temperature": temperature}
        pairs = _pairs(student_channels, teacher_channels, stages)
        self.predictors = nn.ModuleList(self._predictor(own, its) for own, its in pairs)
        first = math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE))  # its softplus is the variance
        self.log_scales = nn.ParameterList(torch.full((its,), first) for _, its in pairs)

    @staticmethod
    def _predictor(own: int, its: int) -> nn.Sequential:
        widths = ((own, its), (its, its), (its, its))
        first, second, third = (nn.Conv2d(*pair, kernel_size=1, bias=False) for pair in widths)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
        student_augmented: Tensor | None = None,
        teacher_augmented: Tensor | None = None,
    ) -> Tensor:
        distance = 0.0
        pairs = _pairs(student_maps, _constants(teacher_maps), self.stages)
        for maps, predictor, log_scale in zip(pairs, self.predictors, self.log_scales, strict=True):
            own, its = _same_size(*maps)
            distance = distance + gaussian_loss(predictor(own), log_scale, its)
        outputs = student, teacher, labels, student_augmented, teacher_augmented
        return _distilled(*outputs, **self.settings) + self.beta * distance


class xe_kl_crd(crd):
    """XE-KL + β · CRD of pooled features (`contrastive.crd`, whose settings the others are).

    The benchmark's own script gives cross-entropy and KL a weight of 1 each beside CRD; here they share 1, as
    beside the other losses.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        sample_labels: Tensor,
        *,
        beta: Positive = 0.8,
        negatives: Count = 16384,
        contrast_temperature: Positive = 0.07,
        momentum: Share = 0.5,
        dim: Count = 128,
        weight: Share = 0.9,
        temperature: Positive = 4.0,
    ) -> None:
        of_crd = {"negatives": negatives, "momentum": momentum, "dim": dim}
        made_with = student_dim, teacher_dim, sample_labels
        super().__init__(*made_with, weight=beta, temperature=contrast_temperature, **of_crd)
        self.settings = {"weight": weight, "temperature": temperature}

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        student_features: Tensor,
        teacher_features: Tensor,
        indices: Tensor,
        student_augmented: Tensor | None = None,
        teacher_augmented: Tensor | None = None,
    ) -> Tensor:
        """The loss; the banks' rows of these samples are then brought up to date.

        Raises:
            ValueError: images are mixed, so that a sample is of no one class.
        """
        contrast = self.contrast(student_features, teacher_features, indices, self.draw(labels))
        outputs = student, teacher, labels, student_augmented, teacher_augmented
        return _distilled(*outputs, **self.settings) + self.weight * contrast
