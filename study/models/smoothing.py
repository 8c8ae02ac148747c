"""The label smoothing that a model was trained with: by the study's own recipe, or by what is known of timm's
tags.

timm's metadata says nothing of the loss behind its weights. `timm_smoothing.csv`, shipped beside this file,
holds for patterns of names what the makers of the weights say, with the place where they do; the first
pattern that fits counts. Mixed images and distillation soften, too, and stand in a column of their own.

Left out on purpose: guesses. A model that nothing is known of has None, which is not 0.
"""

from __future__ import annotations

import csv
import fnmatch
import functools
from importlib import resources

from study import spec
from study.models.timm_import import timm


@functools.cache
def table() -> list[tuple[str, float | None]]:
    """Patterns of timm's names with tags, and α in torch's convention; None: unknown."""
    path = resources.files("study.models") / "timm_smoothing.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        (row["pattern"], float(row["label_smoothing"]) if row["label_smoothing"] else None) for row in rows
    ]


def of(model: spec.Model) -> tuple[float | None, str | None]:
    """The label smoothing that a model's weights were last trained with, and who says so.

    Returns:
        α in torch's convention, and 'recipe' or 'table'; None and None where it is unknown.
    """
    if model.label_smoothing is not None:
        return model.label_smoothing, "recipe"
    if not isinstance(model.weights, spec.Hub) or model.weights.repository is not None:
        return None, None
    architecture, _, tag = model.timm.partition(".")
    known = timm.get_pretrained_cfg(model.timm)
    name = f"{architecture}.{tag or (known and known.tag)}"
    alpha = next((alpha for pattern, alpha in table() if fnmatch.fnmatchcase(name, pattern)), None)
    return alpha, None if alpha is None else "table"
