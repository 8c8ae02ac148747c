"""What an atlas records of a model's probabilities on a split, from its kept outputs.

Numbers of the whole split (columns of `models`), of each class (`model_classes`), from which every reading of
the stability metric follows (`study.spread`), and the mean probabilities of each class, its soft labels
(arXiv 2104.00676, Fig. 4). Where only the largest classes are kept, 1 − S has its bounds, and what would need
the others is null. No model is run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from study import scores, spread
from study.store.outputs import Outputs

CHUNK = 2048  # samples whose probabilities are held at a time
SURE = 0.99  # quantile of the confidence of right predictions
LISTED, LARGEST = 100, 20  # classes up to which all soft labels are listed, and how many of more are
TRANSFER = (  # of the transfer set, beside the split's own
    *("accuracy", "nll", "intra_class_variance", "true_class_sd", "spread_ratio", "off_target_mass"),
    "entropy",
)
Columns = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Columns of `models`, and columns of `model_classes` and `soft_labels`, empty where not known."""

    columns: Columns
    tables: dict[str, Columns] = field(default_factory=dict)


def measure(said: Outputs, labels: NDArray[np.integer], classes: int, split: str) -> Measured:
    """What the kept outputs of a model say of a split.

    Args:
        said: the outputs.
        labels: [samples], the true classes.
        classes: how many there are.
        split: its name.
    """
    predictions = scores.with_truth(said, labels)
    _, likelihood, error = scores.measures(predictions, labels).values()
    right = predictions.label == labels
    columns: Columns = {
        "accuracy": float(right.mean()),
        "nll": likelihood,
        "calibration_error": error,
        "confidence_q99": float(np.quantile(predictions.confidence[right], SURE)) if right.any() else None,
    }
    true = torch.from_numpy(np.asarray(labels, np.int64))
    if classes > spread.MOST:
        return Measured(columns)
    if said.logits is None:
        kept = (said.top_classes, said.top_log_probabilities, said.rest_log_probability)
        low, value, high = spread.top_k_bounds(*kept, true, classes)
        return Measured(columns | _variance(low, value, high))
    sums = spread.class_sums(said.logits.split(CHUNK), true, classes)
    value = spread.intra_class_variance(sums)
    columns |= _variance(value, value, value) | {
        "true_class_variance": spread.true_class_variance(sums),
        "true_class_sd": spread.true_class_sd(sums),
        "spread_ratio": spread.spread_ratio(sums),
        "brier": spread.brier(sums),
        "off_target_mass": spread.off_target_mass(sums),
        "entropy": sums.overall("entropy"),
    }
    tables = {"model_classes": of_classes(sums, labels[right], split), "soft_labels": soft(sums, split)}
    return Measured(columns, tables)


def _variance(low: float, value: float, high: float) -> Columns:
    name = "intra_class_variance"
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def of_transfer(measured: Measured) -> Columns:
    """Those of its columns that are recorded of the transfer set, by their names there."""
    return {f"transfer_{name}": measured.columns.get(name) for name in TRANSFER}


def of_classes(sums: spread.ClassSums, right: NDArray[np.integer], split: str) -> Columns:
    """Columns of `model_classes`: a row a class that has samples.

    Args:
        sums: of the split.
        right: the true classes of the samples that the model is right about.
        split: its name.
    """
    present = sums.present.nonzero()[:, 0].numpy()
    return {
        "split": [split] * len(present),
        "class": present,
        "samples": sums.samples[present].long().numpy(),
        "right": np.bincount(right, minlength=sums.classes)[present],
        "true_mean": sums.mean("true").numpy(),
        "true_square": sums.mean("true_square").numpy(),
        "square": sums.mean("square").numpy(),
        "mean_square": sums.mean("probabilities").square().sum(dim=1).numpy(),
        "margin": sums.mean("margin").numpy(),
        "spread": spread.class_spreads(sums).numpy(),
    }


def soft(sums: spread.ClassSums, split: str) -> Columns:
    """Columns of `soft_labels`: of each class that has samples the mean probabilities of all classes, or of
    the `LARGEST`, the largest first, and then of the rest (of no class) together.
    """
    means = sums.mean("probabilities")
    every = sums.classes <= LISTED
    values, others = means.sort(dim=1, descending=True, stable=True)
    if not every:
        rest = values[:, LARGEST:].sum(dim=1, keepdim=True)
        values = torch.cat((values[:, :LARGEST], rest), dim=1)
        others = torch.cat((others[:, :LARGEST], torch.full((len(others), 1), -1)), dim=1)
    return {
        "split": [split] * values.numel(),
        "class": sums.present.nonzero().expand(values.shape).flatten().numpy(),
        "other": [None if other < 0 else other for other in others.flatten().tolist()],
        "probability": values.flatten().numpy(),
    }


def joined(parts: list[Measured]) -> dict[str, Columns]:
    """The tables of several splits as one each; without those that have no rows."""
    found: dict[str, Columns] = {}
    for part in parts:
        for table, columns in part.tables.items():
            so_far = found.setdefault(table, {name: [] for name in columns})
            for name, values in columns.items():
                so_far[name].extend(values)
    return found
