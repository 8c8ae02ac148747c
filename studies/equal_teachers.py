"""Fashion-MNIST with few images of most classes: `source: equal_teachers.experts`, for models that know some
classes well.

Its images are of the demo's zoo split alone: none is one that students are scored on, or that choices are
made on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from study.images.sources import fashion_mnist
from study.images.splits import stratified

ZOO, SEED = 30_000, 0  # data.splits of studies/demo.yaml
TEST = 1000  # images that tell how the training went


class Part(list):
    """Some images of a data set, with their classes."""

    def __init__(self, of, rows) -> None:
        super().__init__(of[int(row)] for row in rows)
        self.classes = of.classes


def zoo_split(labels) -> np.ndarray:
    """The indices of the training images that the demo's models may be trained on."""
    labels = np.asarray(labels)
    return stratified(np.arange(len(labels)), labels, ZOO, np.random.default_rng(SEED))


def experts(downloads: Path, *, classes: tuple[int, ...], many: int = 2500, few: int = 300, seed: int = 0):
    """`many` images of each of the `classes`, `few` of every other one, drawn by `seed`; some test images."""
    train, test = fashion_mnist(downloads)
    labels, generator = np.asarray(train.targets), np.random.default_rng(seed)
    zoo = generator.permutation(zoo_split(labels))
    rows = [
        zoo[labels[zoo] == label][: many if label in classes else few] for label in range(len(train.classes))
    ]
    return Part(train, np.sort(np.concatenate(rows))), Part(test, range(TEST))
