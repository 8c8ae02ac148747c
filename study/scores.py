"""How good predictions are beyond their top class: top-5 accuracy, likelihood of the true class, calibration.

A student that learns from another model's probabilities becomes more, or less, sure of what it says, which
accuracy does not show. Expected calibration error as Guo et al. define it (arXiv 1706.04599, equation 3).
Left out on purpose: temperature scaling, and other bins.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study import evaluate
from study.evaluate import Predictions
from study.store.outputs import Outputs

BINS = 15
CHUNK = 8192  # samples whose logits are looked at together
NAMES = ("top5_accuracy", "negative_log_likelihood", "calibration_error")


def of_largest(classes: Tensor, log_probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As `evaluate.truth`, where the k largest classes alone are kept; of others NaN, and k.

    Args:
        classes: int32 [samples, k], the largest first.
        log_probabilities: [samples, k], of those.
        labels: int64 [samples].
    """
    found = classes == labels[:, None]
    known, place = found.any(1), found.int().argmax(1)
    true = log_probabilities.float().gather(1, place[:, None])[:, 0]
    return true.where(known, torch.nan), place.where(known, torch.tensor(classes.shape[1])).int()


def with_truth(said: Outputs, labels: NDArray[np.integer]) -> Predictions:
    """The predictions of outputs, with what these say of the true classes, int64 [samples]."""
    classes = torch.from_numpy(np.asarray(labels, np.int64))
    if said.logits is None:
        true, rank = of_largest(said.top_classes, said.top_log_probabilities, classes)
    else:
        parts = zip(said.logits.split(CHUNK), classes.split(CHUNK), strict=True)
        true, rank = map(torch.cat, zip(*(evaluate.truth(*part) for part in parts), strict=True))
    kept = None if said.logits is not None else said.top_classes.shape[1]
    return replace(said.predictions, true=true.numpy(), rank=rank.numpy(), kept=kept)


def calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: |accuracy − mean confidence| of each bin, weighted by its samples.

    Args:
        confidence: [samples], the probability of the predicted class.
        correct: [samples], whether it is the true one.
    """
    # Bins (0, 1/15], (1/15, 2/15], ...
    bins = np.clip(np.ceil(np.asarray(confidence, np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=correct - np.asarray(confidence, np.float64), minlength=BINS)
    return float(np.abs(gaps).sum() / len(bins))


def measures(said: Predictions, labels: NDArray[np.integer]) -> dict[str, float | None]:
    """The measures of `NAMES`; None what is not known, because only few of the largest classes are kept.

    Args:
        said: predictions with what is known of the true classes.
        labels: [samples], the true classes.
    """
    error = calibration_error(said.confidence, said.label == labels)
    kept = said.kept is None or said.kept >= 5
    likelihood = None if np.isnan(said.true).any() else -float(np.mean(said.true, dtype=np.float64))
    values = (float((said.rank < 5).mean()) if kept else None, likelihood, error)
    return dict(zip(NAMES, values, strict=True))
