"""The fitted opinion pool: a target at least as good as teacher and frozen student, on images of neither.

The logarithmic opinion pool Σ_k a_k log p_k (Heskes, "Selecting weighting factors in logarithmic opinion
pools", NIPS 1997), its weights fitted by maximum likelihood on images that no model of it was trained on
(`tune`), then distilled as any teacher is (arXiv 2310.17653, Eq. 2). Data partitioning asks who is better of
every transfer sample, which the student has memorised; the pool asks once, of images that nobody has seen.

Left out on purpose: weights a class, which gained nothing, and any bound on the weights. Each model's own
calibrated probabilities (weight 1/T, all others 0) are among the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.contract import Positive, Share
from study.objectives.losses import Loss, xe_kl

HALVES_SEED = 0
FIT_SAMPLES = 2500  # that two weights are fitted on, at most; a few hundred suffice


def pool_weights(frozen: Tensor, teachers: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The weights of the pool that gives the labels most probability: convex, one start, the same each time.

    Where several are as good (two models that say the same), alike models get the same weight. Where models
    are never wrong no weights are the best ones: these are then large, and finite.

    Args:
        frozen: logits [samples, classes] of the student before the transfer, of images that no model was
            trained on. On the transfer set the student has memorised the labels, and no teacher is heard.
        teachers: each one's.
        labels: int64 [samples], or shares [samples, classes].

    Returns:
        float64 [1 + teachers]: the frozen student's, then each teacher's. Without bounds: what says nothing
        of the labels gets about 0, what is too sure less than 1.
    """
    said = torch.stack([logits.detach().cpu().double().log_softmax(1) for logits in (frozen, *teachers)])
    labels = labels.cpu()
    shares = labels if labels.is_floating_point() else F.one_hot(labels, said.shape[2])
    true = torch.einsum("nc,knc->k", shares.double(), said) / len(labels)

    def pool(weights: np.ndarray) -> Tensor:
        return torch.einsum("k,knc->nc", torch.from_numpy(weights), said)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean negative log-likelihood, in nats, and its gradient."""
        total = pool(weights).logsumexp(1).mean() - true @ torch.from_numpy(weights)
        expected = torch.einsum("nc,knc->k", pool(weights).softmax(1), said) / len(labels)
        return float(total), (expected - true).numpy()

    def curvature(weights: np.ndarray) -> np.ndarray:
        """The Hessian: the mean covariance of what the models say, under the pool."""
        shares = pool(weights).softmax(1)
        centred = said - torch.einsum("nc,knc->kn", shares, said)[..., None]
        return (torch.einsum("nc,knc,lnc->kl", shares, centred, centred) / len(labels)).numpy()

    # Conjugate gradients leave the start in no direction that the likelihood does not see.
    start = np.full(len(said), 1 / len(said))
    found = scipy.optimize.minimize(
        loss, start, jac=True, hess=curvature, method="trust-ncg", options={"gtol": 1e-7}
    )
    return torch.from_numpy(found.x)


def stand_in(frozen: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """Shares in place of labels where there are none: the models' mean probabilities, [samples, classes]."""
    return torch.stack([logits.double().softmax(1) for logits in (frozen, *teachers)]).mean(0)


def pooled(weights: Tensor, frozen: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """The pool's log-probabilities, up to a constant a sample, float32 [batch, classes].

    Args:
        weights: [1 + teachers], as `pool_weights` gives them.
        frozen: logits [batch, classes].
        teachers: each one's.
    """
    said = (logits.float().log_softmax(1) for logits in (frozen, *teachers))
    return sum(weight * one for weight, one in zip(weights.float(), said, strict=True))


def gains(frozen: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    """What the pool of both gains over the student alone, cross-fitted: each half with the other's weights.

    Args:
        frozen, teacher, labels: as `pool_weights` takes them; labels int64 [samples].

    Returns:
        `pool_gain`, a fraction of the samples, and `likelihood_gain`, nats: both over the student's own
        calibrated probabilities.
    """
    order = torch.from_numpy(np.random.default_rng(HALVES_SEED).permutation(len(labels)))
    halves = order[::2], order[1::2]
    right, gained = 0, 0.0
    for held, rest in (halves, halves[::-1]):
        said = []
        for teachers in ([], [teacher]):
            fit = rest[:FIT_SAMPLES]
            weights = pool_weights(frozen[fit], [one[fit] for one in teachers], labels[fit])
            together = pooled(weights, frozen[held], [one[held] for one in teachers])
            said.append(together.double().log_softmax(dim=1))
        alone, both = said
        right += int((both.argmax(dim=1) == labels[held]).sum() - (alone.argmax(dim=1) == labels[held]).sum())
        gained += float((both - alone)[torch.arange(len(held)), labels[held]].sum())
    return {"pool_gain": right / len(labels), "likelihood_gain": gained / len(labels)}


class xe_kl_op(nn.Module):
    """λ · KL from the fitted opinion pool + (1 − λ) · cross-entropy: XE-KL+OP.

    Of one teacher, or of several at once, each with a weight of its own. In a sequence the frozen student is
    that of the stage before. Measures the weights, the same for every sample.

    Args:
        tune_frozen, tune_teachers, tune_labels: what `pool_weights` takes.
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
        weights = pool_weights(tune_frozen, tune_teachers, tune_labels)
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, student: Tensor, teachers: Sequence[Tensor], frozen: Tensor, labels: Tensor) -> Loss:
        target = pooled(self.weights, frozen, teachers)
        loss = xe_kl(student, target, labels, weight=self.weight, temperature=self.temperature)
        return loss, weights_told(self.weights, len(frozen))


class xe_kl_op_agreement(xe_kl_op):
    """XE-KL+OP where the images kept aside have no labels: the models' own probabilities stand in for them.

    The weights are those of the pool that gives labels drawn from the models' mean most probability. They
    make the pool as sure as the models are on average, and listen more to who is surer, right or not: models
    that are too sure are believed.
    """

    def __init__(
        self,
        tune_frozen: Tensor,
        tune_teachers: Sequence[Tensor],
        *,
        weight: Share = 0.7,
        temperature: Positive = 2.0,
    ) -> None:
        labels = stand_in(tune_frozen, tune_teachers)
        super().__init__(tune_frozen, tune_teachers, labels, weight=weight, temperature=temperature)


def xe_kl_op_equal(
    student: Tensor,
    teachers: Sequence[Tensor],
    frozen: Tensor,
    labels: Tensor,
    *,
    weight: Share = 0.7,
    temperature: Positive = 2.0,
) -> Tensor:
    """XE-KL+OP with equal weights that add up to 1: without images kept aside."""
    count = 1 + len(teachers)
    target = pooled(torch.full((count,), 1 / count), frozen, teachers)
    return xe_kl(student, target, labels, weight=weight, temperature=temperature)


def weights_told(weights: Tensor, samples: int) -> dict[str, Tensor]:
    """Measures: a pool's weights, each said of every sample, [samples]."""
    several = len(weights) > 2
    names = [f"pool_teacher_{k}" if several else "pool_teacher" for k in range(1, len(weights))]
    return {
        name: weight.expand(samples) for name, weight in zip(["pool_frozen", *names], weights, strict=True)
    }
