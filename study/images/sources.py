"""Sources of images: functions that give training and test images, as data sets in torchvision's manner.

A source is given the folder that it may download to; what stands behind the star of its signature is what
a study sets (`study.contract`). A data set is anything with `__len__`, and a `__getitem__` that gives an
image of PIL and the number of its class, or `UNKNOWN`; the names of its `classes`, if it has any, are kept.

Left out on purpose: how they are written and split (`study.images.files`, `study.images.splits`).
"""

from __future__ import annotations

import gzip
import inspect
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field

from study import mistakes
from study.errors import StudyError
from study.images.glyphs import glyphs
from study.store import digest, storage

# Left out at None, so that ids are those of before one could leave them out.
TestFolder = Annotated[str | None, Field(exclude_if=lambda folder: folder is None)]
Classes = Annotated[int | None, Field(ge=2, exclude_if=lambda number: number is None)]
UNKNOWN = -2  # the class of an image that nobody has said (-1 is one that a study leaves out)
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision has
OF_FOLDERS = ("image_folder", "unlabelled_folder")  # sources that a user's own folders are
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


def image_folder(downloads: Path, *, train: str | None = None, test: str):
    """Two folders with a sub-folder of images for every class; one, where nothing is trained on.

    Raises:
        StudyError: one is no such folder, or their classes differ.
    """
    given = (("train", train), ("test", test))
    datasets = [_by_class(field, folder) for field, folder in given if folder is not None]
    if different := sorted(set(datasets[0].classes) ^ set(datasets[-1].classes)):
        shown = ", ".join(f"{name!a}" for name in different[:5])  # so that letters that look alike differ
        raise StudyError(
            f"{test}: its classes are not those of {train} (in one alone: {shown}); both need a sub-folder "
            "of images for every class, called alike"
        )
    return datasets if train else [[], *datasets]


def unlabelled_folder(downloads: Path, *, train: str, test: TestFolder = None, classes: Classes = None):
    """A folder of images whose classes nobody has said, at any depth, and one with a sub-folder a class; or
    the first alone, and how many `classes` the models tell apart.

    Raises:
        StudyError: one is no such folder, or how many classes there are is not said, or said twice.
    """
    unknown = Unlabelled(train)
    if not unknown.samples:
        raise StudyError(f"{train}: holds no images; point data.images.train at a folder that does")
    if (test is None) == (classes is None):
        raise StudyError(
            "data.images: give unlabelled_folder either test, a folder with a sub-folder of images for every "
            "class, or the number of classes that the models tell apart"
        )
    if test is not None:
        return [unknown, _by_class("test", test)]
    unknown.classes = [str(number) for number in range(classes)]
    return [unknown, []]


class Unlabelled:
    """The images below a folder, in the order of their paths; `samples` are (path, `UNKNOWN`)."""

    def __init__(self, folder: str) -> None:
        self.root = str(Path(folder).expanduser())
        self.samples = sorted((path, UNKNOWN) for path in _files(self.root) if _is_image(path))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return _opened(path), label


def _files(folder: str | Path) -> Iterator[str]:
    """The paths of all files below a folder."""
    return (f"{place}/{name}" for place, _, names in os.walk(folder, followlinks=True) for name in names)


def images_in(folder: str, most: int) -> int:
    """How many images there are below a folder; counted up to `most`."""
    return sum(1 for _ in itertools.islice(filter(_is_image, _files(folder)), most))


def _by_class(field: str, folder: str):
    """`_folder`, or a `StudyError` that names the field."""
    try:
        return _folder(folder)
    except OSError as error:
        raise StudyError(
            f"{folder}: not a folder of images by class ({str(error).splitlines()[0]}); point "
            f"data.images.{field} at one with a sub-folder of images for every class"
        ) from error


def _folder(folder: str):
    """torchvision's data set of a folder with a sub-folder of images for every class.

    Classes whose names are numbers are ordered as numbers, as timm does: ImageNetV2's folders are called 0 to
    999. What begins with a dot is passed over.
    """
    from study.models.timm_import import torchvision

    class Folder(torchvision.datasets.ImageFolder):
        def find_classes(self, directory):
            names = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
            if all(name.isdecimal() for name in names):
                names.sort(key=int)
            return names, {name: number for number, name in enumerate(names)}

    return Folder(Path(folder).expanduser(), loader=_opened, is_valid_file=_is_image)


def _opened(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def _is_image(path: str) -> bool:
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def passed_over(dataset) -> Counter[str]:
    """How many files of a data set's folders are no images, by suffix."""
    by_class = dataset.classes if hasattr(dataset, "find_classes") else ()
    parts = [""] if isinstance(dataset, Unlabelled) else by_class
    files = (file for part in parts for file in _files(Path(dataset.root) / part))
    return Counter(Path(file).suffix or "no suffix" for file in files if not _is_image(file))


def listed(source: str, settings: dict) -> dict[str, str] | None:
    """By the folder of a data set, a digest of its files' names; None where there are none, or not here."""
    if source not in OF_FOLDERS or lacking(source, settings):
        return None
    found = {}
    for field, folder in _folders(settings).items():
        unknown = field == "train" and source == "unlabelled_folder"
        dataset = Unlabelled(folder) if unknown else _folder(folder)
        names = [os.path.relpath(path, dataset.root) for path, _ in dataset.samples]
        found[os.path.realpath(dataset.root)] = digest.of_json([None if unknown else dataset.classes, names])
    return found


def _folders(settings: dict) -> dict[str, str]:
    return {field: settings[field] for field in ("train", "test") if settings.get(field)}


def lacking(source: str, settings: dict) -> list[str]:
    """Folders of a data set that are not here, by their absolute paths."""
    folders = _folders(settings).values() if source in OF_FOLDERS else []
    return [str(Path(of).expanduser().absolute()) for of in folders if not Path(of).expanduser().is_dir()]


def torchvision(
    downloads: Path,
    *,
    dataset: str,
    train: str = "train",
    test: str = "test",
    options: dict[str, str | int | bool] | None = None,
):
    """A classification data set of torchvision, by its class name (for example CIFAR10).

    `train` and `test` are what it calls its two parts, where it has names for them (`split`); `options` are
    other arguments of its class.

    Raises:
        StudyError: torchvision has none of this name, or cannot provide it.
    """
    from study.models.timm_import import torchvision

    known = [n for n in torchvision.datasets.__all__ if n not in ("ImageFolder", "DatasetFolder", "FakeData")]
    if dataset not in known:
        near = mistakes.nearest(dataset, known)
        raise StudyError(f"data.images.dataset: torchvision has no '{dataset}'{near}")
    kind, options = getattr(torchvision.datasets, dataset), options or {}
    # Some pass their arguments on to the class that they are made from.
    parameters = {name for one in kind.__mro__[:-1] for name in inspect.signature(one.__init__).parameters}
    if "split" in parameters - options.keys():
        halves = [{"split": train}, {"split": test}]
    elif "train" in parameters:
        halves = [{"train": True}, {"train": False}]
    else:
        raise StudyError(f"data.images.dataset: torchvision's {dataset} has no training and test parts")
    if "download" in parameters:
        options = {**options, "download": True}
    try:
        return [kind(str(downloads), **half, **options) for half in halves]
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise StudyError(
            f"data.images: torchvision could not provide {dataset} ({storage.reason(error)}); correct train, "
            f"test or options, check the network, or put its files into {downloads}"
        ) from error


def timm(downloads: Path, *, dataset: str, root: str | None = None, train: str, test: str):
    """A data set of timm's factory, by its name there, and how it calls the two parts.

    Hugging Face's (`hfds/user/name`, with the package datasets), torchvision's (`torch/imagenet`), with `''`
    a folder or tar file under `root`, or a stream (`wds/`, `hfids/`, `tfds/`, each with its package), whose
    images are stored as they come, beside the downloads, until they are written.

    Raises:
        StudyError: timm cannot provide it, or gives fewer samples than it says.
    """
    import study.models.timm_import  # noqa: F401 - before timm, so that torchvision loads

    # isort: split
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    made = []
    for field, split in (("train", train), ("test", test)):
        try:
            part = create_dataset(dataset, root=root or str(downloads), split=split, download=True)
        except Exception as error:  # whatever the network, or another package, raises
            raise StudyError(
                f"data.images.{field}: timm could not provide '{split}' of '{dataset}' "
                f"({storage.reason(error)}); correct data.images, install what it needs, or check the network"
            ) from error
        if isinstance(part, IterableDataset):
            part = _Stored(part, downloads, f"data.images.{field}: '{split}' of '{dataset}'")
        made.append(_Read(part.reader) if hasattr(part, "reader") else part)
    return made


class _Read:
    """What a reader of timm's gives; timm's own data set puts another image in a damaged one's place."""

    def __init__(self, reader) -> None:
        self.reader = reader
        self.classes = sorted(reader.class_to_idx, key=reader.class_to_idx.get)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        stream, label = self.reader[index]
        return _opened(stream), label


class _Stored:
    """What a stream of timm's gives, stored so that it can be asked for by number.

    `samples` are (path, class). The files are PNG, which loses nothing, and are there until it is closed.

    Raises:
        StudyError: fewer or more samples came than it says: timm passes over what it cannot read.
    """

    def __init__(self, stream, downloads: Path, name: str) -> None:
        downloads.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=downloads, prefix="stream-")
        self.samples: list[tuple[str, int]] = []
        for number, (image, label) in enumerate(stream):
            path = f"{self._folder.name}/{number:08}.png"
            image.save(path, compress_level=1)
            self.samples.append((path, int(label)))
        if len(self.samples) != len(stream):
            raise StudyError(
                f"{name} gave {len(self.samples)} images, but says it has {len(stream)}; repair its files"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return _opened(path), label

    def close(self) -> None:
        self._folder.cleanup()


SOURCES = {
    "fashion_mnist": fashion_mnist,
    "image_folder": image_folder,
    "torchvision": torchvision,
    "timm": timm,
    "glyphs": glyphs,
    "unlabelled_folder": unlabelled_folder,
}
