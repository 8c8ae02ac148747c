"""Sources of images: functions that give training and test images, as data sets in torchvision's manner.

A source is given the folder that it may download to; what stands behind the star of its signature is what
a study sets (`study.contract`). A data set is anything with `__len__`, and a `__getitem__` that gives an
image of PIL and the number of its class; the names of its `classes`, if it has any, are kept.

Left out on purpose: how they are written and split (`study.images.files`, `study.images.splits`).
"""

from __future__ import annotations

import gzip
import inspect
import shutil
from pathlib import Path

from study import mistakes
from study.errors import StudyError
from study.store import storage

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def fashion_mnist(downloads: Path):
    """Fashion-MNIST: Debian's package dataset-fashion-mnist where installed, else a download."""
    raw = downloads / "FashionMNIST" / "raw"
    for packed in sorted(DEBIAN_FASHION_MNIST.glob("*-ubyte.gz")):
        plain = raw / packed.stem
        if not plain.exists():
            raw.mkdir(parents=True, exist_ok=True)
            with storage.replacing(plain) as new, gzip.open(packed) as source, new.open("wb") as target:
                shutil.copyfileobj(source, target)
    return torchvision(downloads, dataset="FashionMNIST")


def image_folder(downloads: Path, *, train: str, test: str):
    """Two folders with a sub-folder of images for every class.

    Raises:
        StudyError: one is no such folder, or their classes differ.
    """
    from study.models.timm_import import torchvision

    datasets = []
    for field, folder in (("train", train), ("test", test)):
        try:
            datasets.append(torchvision.datasets.ImageFolder(folder))
        except OSError as error:
            raise StudyError(
                f"{folder}: not a folder of images by class ({str(error).splitlines()[0]}); point "
                f"data.images.{field} at one with a sub-folder of images for every class"
            ) from error
    if datasets[0].classes != datasets[1].classes:
        different = sorted(set(datasets[0].classes) ^ set(datasets[1].classes))
        raise StudyError(f"{test}: its classes are not those of {train} (different: {different[:5]})")
    return datasets


def torchvision(downloads: Path, *, dataset: str):
    """A classification data set of torchvision, by its class name (for example CIFAR10).

    Raises:
        StudyError: torchvision has none of this name, or cannot provide it.
    """
    from study.models.timm_import import torchvision

    known = [n for n in torchvision.datasets.__all__ if n not in ("ImageFolder", "DatasetFolder", "FakeData")]
    if dataset not in known:
        near = mistakes.nearest(dataset, known)
        raise StudyError(f"data.images.dataset: torchvision has no '{dataset}'{near}")
    kind = getattr(torchvision.datasets, dataset)
    parameters = inspect.signature(kind.__init__).parameters
    if "train" in parameters:
        halves = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        halves = [{"split": "train"}, {"split": "test"}]
    else:
        raise StudyError(f"data.images.dataset: torchvision's {dataset} has no training and test parts")
    try:
        return [kind(str(downloads), **half, download=True) for half in halves]
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise StudyError(
            f"data.images.dataset: torchvision could not provide {dataset} ({error}); check the network, "
            f"or put its files into {downloads}"
        ) from error


SOURCES = {"fashion_mnist": fashion_mnist, "image_folder": image_folder, "torchvision": torchvision}
