"""How long forward passes of timm's models take on a few cards, by timm's own measurements.

`timm_speeds.csv`, shipped beside this file, holds samples a second in mixed precision (automatic, float16)
by architecture and side of the input in pixels, from `results/benchmark-infer-amp-nchw-*.csv` of timm's
repository (https://github.com/huggingface/pytorch-image-models): RTX 3090 with PyTorch 2.4, RTX 4090 and
5090 with 2.9.

Left out on purpose: reading and decoding images, loading weights, and what timm has not measured.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources

import pandas as pd

from study import spec
from study.models import zoo


@functools.cache
def table() -> pd.DataFrame:
    """Samples a second: a row an architecture and side of its input, a column a card; NaN: not measured."""
    path = resources.files("study.models") / "timm_speeds.csv"
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, index_col=["model", "img_size"])


def seconds(models: Iterable[spec.Model], samples: int) -> dict[str, tuple[float, int]]:
    """By card: the seconds that it takes to run models one after another, and of how many that is known.

    A model at a side that timm has not measured is taken at the nearest one, and its speed by the ratio of
    pixels.

    Args:
        models: of timm's names.
        samples: images each of them is run on.
    """
    known = table()
    sides = known.index.to_frame(index=False).groupby("model")["img_size"].agg(list)
    found = []
    for model in models:
        architecture, wanted = zoo.architecture(model.timm), max(zoo.size_of(model))
        if architecture in sides.index:
            nearest = min(sides[architecture], key=lambda side: abs(side - wanted))
            found.append(known.loc[architecture, nearest] * (nearest / wanted) ** 2)
    each = samples / pd.DataFrame(found, columns=known.columns, dtype=float)
    return {card: (float(each[card].sum()), int(each[card].count())) for card in known.columns}
