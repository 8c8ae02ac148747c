"""Photographs that packages ship, cut into pieces of ImageNet's usual sizes: `source: photographs.pieces`.

Those of Debian's mate-backgrounds and plasma-workspace-wallpapers, and the few that scikit-learn and
matplotlib carry. A piece is a random part of one, 500 pixels long and 375 wide or the other way round, kept
as JPEG, so that all that is done with ImageNet's files is done with these.

Left out on purpose: classes. There are none to be had, so a piece is labelled by its photograph, which no
model knows, and accuracies mean nothing.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from study.errors import StudyError
from study.store import storage

DEBIAN = Path("/usr/share")
NATURE = DEBIAN / "backgrounds/mate/nature"
WALLPAPERS = DEBIAN / "wallpapers"
LONG, SHORT, QUALITY = 500, 375, 95


def photographs() -> list[Path]:
    """The files of all photographs that are installed.

    Raises:
        StudyError: the Debian packages are missing.
    """
    packages = [
        *files("sklearn.datasets").joinpath("images").glob("*.jpg"),
        *files("matplotlib").joinpath("mpl-data/sample_data").glob("*.jpg"),
    ]
    debian = [*sorted(NATURE.glob("*.jpg")), *sorted(WALLPAPERS.glob("*/contents/images/1920x1200.jpg"))]
    if len(debian) < 20:
        raise StudyError(
            f"{NATURE}: the photographs are missing; apt-get install mate-backgrounds "
            "plasma-workspace-wallpapers"
        )
    return [*debian, *sorted(packages)]


class Pieces:
    """Pieces of photographs, as files: piece `number` comes from photograph `number` modulo their count.

    `samples` are (path, class) as torchvision's folders have them.
    """

    def __init__(self, folder: Path, count: int, classes: int, seed: int) -> None:
        self.classes = [f"photograph {number}" for number in range(classes)]
        self.samples: list[tuple[str, int]] = []
        folder.mkdir(parents=True, exist_ok=True)
        random, opened = np.random.default_rng(seed), [Image.open(path) for path in photographs()]
        for number in range(count):
            label = number % len(opened)
            size = (LONG, SHORT) if random.random() < 0.75 else (SHORT, LONG)
            box = _part(opened[label].size, size, random)
            path = folder / f"{number:05}.jpg"
            with storage.replacing(path) as new:
                piece = opened[label].convert("RGB").resize(size, Image.Resampling.LANCZOS, box)
                piece.save(new, "JPEG", quality=QUALITY)
            self.samples.append((str(path), label))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        path, label = self.samples[number]
        return Image.open(path), label


def _part(whole: tuple[int, int], size: tuple[int, int], random: np.random.Generator) -> tuple[float, ...]:
    """A part of a photograph in the shape of `size`: left, top, right, bottom."""
    largest = min(of / side for of, side in zip(whole, size, strict=True))
    scale = largest * random.uniform(0.3, 1)
    first = [random.uniform(0, of - scale * side) for of, side in zip(whole, size, strict=True)]
    return (*first, *(start + scale * side for start, side in zip(first, size, strict=True)))


def pieces(downloads: Path, *, train: int = 1000, test: int = 1000, classes: int = 1000):
    """Training and test pieces, none in both. `classes` is how many the models tell apart."""
    parts = (("train", train, 0), ("test", test, 1))
    return [Pieces(downloads / "photographs" / name, count, classes, seed) for name, count, seed in parts]
