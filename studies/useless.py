"""Fashion-MNIST for teachers that are of no use: wrong labels, or another domain. `source: useless.garments`.

The training images are the half that the demo's zoo is trained on (`studies/demo.yaml`): none of these has
seen an image that choices are made, or students scored, on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from study.contract import Share
from study.images import sources, splits

ZOO = 30_000  # images of the demo's zoo split


class Garments:
    """A part of a data set with its labels and pixels changed, in torchvision's interface."""

    def __init__(self, images, which, wrong: float, negative: bool, seed: int) -> None:
        self.images, self.which, self.negative = images, which, negative
        self.classes, random = images.classes, np.random.default_rng(seed)
        self.labels = np.asarray(images.targets)[which]
        drawn = random.random(len(which)) < wrong
        self.labels[drawn] = random.integers(len(self.classes), size=drawn.sum())

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        image, _ = self.images[int(self.which[number])]
        return ImageOps.flip(ImageOps.invert(image)) if self.negative else image, int(self.labels[number])


def garments(downloads: Path, *, wrong: Share = 0.0, negative: bool = False):
    """The half for training, and the test images.

    `wrong` is the share of labels that are drawn anew, each class as likely. With `negative` garments are
    dark on light, and upside down.
    """
    train, test = sources.fashion_mnist(downloads)
    labels = np.asarray(train.targets)
    half = splits.stratified(np.arange(len(labels)), labels, ZOO, np.random.default_rng(0))
    parts = ((train, half), (test, np.arange(len(test))))
    return [Garments(images, which, wrong, negative, seed) for seed, (images, which) in enumerate(parts)]
