"""Sources of images: training and test parts, as data sets in torchvision's manner.

Left out on purpose: how they are written and split (`study.images.files`, `study.images.splits`).
"""

from __future__ import annotations

import gzip
import inspect
import shutil
import uuid
from pathlib import Path

from study import mistakes, spec
from study.errors import StudyError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def _torchvision_pair(name: str, downloads: Path):
    """(train, test) of a torchvision classification data set, downloaded if need be."""
    from study.models.timm_import import torchvision

    known = [n for n in torchvision.datasets.__all__ if n not in ("ImageFolder", "DatasetFolder", "FakeData")]
    if name not in known:
        raise StudyError(f"data.images.dataset: torchvision has no '{name}'{mistakes.nearest(name, known)}")
    kind = getattr(torchvision.datasets, name)
    parameters = inspect.signature(kind.__init__).parameters
    if "train" in parameters:
        halves = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        halves = [{"split": "train"}, {"split": "test"}]
    else:
        raise StudyError(f"data.images.dataset: torchvision's {name} has no training and test parts")
    try:
        return [kind(str(downloads), **half, download=True) for half in halves]
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise StudyError(
            f"data.images.dataset: torchvision could not provide {name} ({error}); check the network, "
            f"or put its files into {downloads}"
        ) from error


def _fashion_mnist(downloads: Path):
    """(train, test), from Debian's compressed files if they are there, else from the network."""
    raw = downloads / "FashionMNIST" / "raw"
    for packed in sorted(DEBIAN_FASHION_MNIST.glob("*-ubyte.gz")):
        plain = raw / packed.stem
        if not plain.exists():
            raw.mkdir(parents=True, exist_ok=True)
            temporary = plain.with_name(f".{plain.name}.{uuid.uuid4().hex}")
            with gzip.open(packed) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target)
            temporary.replace(plain)
    return _torchvision_pair("FashionMNIST", downloads)


def _image_folders(train: str, test: str):
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


def open_source(source: spec.Source, downloads: Path):
    if isinstance(source, spec.FashionMNIST):
        return _fashion_mnist(downloads)
    if isinstance(source, spec.ImageFolder):
        return _image_folders(source.train, source.test)
    return _torchvision_pair(source.dataset, downloads)
