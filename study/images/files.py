"""Images: from a source into one FFCV file, from there into splits and batches.

A source (`study.images.sources`, or a function of one's own) is written once to a folder that holds
`images.beton` (fields image, label, index; training images first, then test), `labels.npy`, and
`images.json`, the sidecar that says what the file must be: source, counts, class names, writer
settings, size, SHA-256. The folder is written under a temporary name and renamed, and is opened
only if size and checksum match, because FFCV itself reads damaged files silently. Files at a URL are
copied to the node's cache first (`study.store.cache`), since FFCV maps them into memory.

`study.images.batches` reads them. FFCV is imported only when a file is written.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study import spec
from study.errors import StorageError, StudyError
from study.store import digest, storage
from study.store.cache import Cache
from study.store.storage import Location

SIDECAR, FILES = "images.json", ("images.beton", "labels.npy")
RAW_BELOW_BYTES = 64 * 64 * 3  # JPEG saves nothing below this size, and costs pixels


@dataclass(frozen=True)
class Images:
    """One written file: where it is, and what its sidecar says.

    `labels` is int64 [count], the class of every sample by index; `subsets` gives the half-open
    range of indices of 'train' and 'test'; `side` is the shorter side of the images in pixels, the
    largest there is. `locate` gives the file's path on this machine, after copying it where it has to be.
    """

    locate: Callable[[], Path]
    classes: tuple[str, ...]
    subsets: dict[str, tuple[int, int]]
    side: int
    sha256: str
    labels: NDArray[np.int64]

    @functools.cached_property
    def path(self) -> Path:
        """The file's path on this machine. Who asks for no pixels (a driver) needs no copy of it.

        Raises:
            StudyError: the file is missing, truncated or damaged.
        """
        return self.locate()


# --- writing ------------------------------------------------------------------------------------


class _Samples:
    """What FFCV's writer indexes: (image, label, index) of training, then test images.

    FFCV's writer waits for ever when a sample raises, so a bad one is replaced by a dot and told in
    a line of the file `problems`.
    """

    def __init__(self, datasets, short_side: int | None, problems: Path) -> None:
        self.datasets, self.short_side, self.problems = datasets, short_side, problems

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, index: int):
        index = int(index)
        dataset, position = self.datasets[0], index
        if position >= len(dataset):
            dataset, position = self.datasets[1], position - len(dataset)
        try:
            image, label = dataset[position]
            return self._shrunk(image.convert("RGB")), int(label), index
        except Exception as error:  # whatever a damaged file makes PIL raise
            name = dataset.samples[position][0] if hasattr(dataset, "samples") else f"sample {index}"
            with self.problems.open("a") as stream:
                stream.write(f"{name}: not a readable image ({error}); repair or remove it\n")
            return np.zeros((1, 1, 3), dtype=np.uint8), 0, index

    def _shrunk(self, image: Image.Image) -> NDArray[np.uint8]:
        shorter = min(image.size)
        if self.short_side is not None and shorter > self.short_side:
            size = [round(side * self.short_side / shorter) for side in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image)


def folder_of(source: spec.Images, data: Location) -> Location:
    """Where a source's files lie under the data folder."""
    return data / f"{source.source}-{digest.of_json(source.model_dump(mode='json'), 8)}"


def is_prepared(source: spec.Images, data: Location) -> bool:
    """Whether a source's files were written, whatever became of them."""
    return storage.published(folder_of(source, data), SIDECAR)


def prepare(source: spec.Images, data: Location, cache: Cache | None = None) -> Images:
    """Write a source's files if they are not there yet, and open them.

    Safe to call from several processes at once: each writes a folder of its own, the first to
    finish wins.

    Raises:
        StudyError: the source or an image cannot be read, the data folder not written, or files
            from before are damaged.
    """
    if not is_prepared(source, data):
        folder = folder_of(source, data)
        # For a store they are written beside the cache's entries, under names that it passes over.
        here, downloads = (data, "downloads") if isinstance(data, Path) else (cache.folder, ".downloads")
        try:
            with storage.new_folder(storage.aside(here / folder.name)) as temporary:
                _write(source, here / downloads, temporary)
                storage.publish(temporary, folder, SIDECAR)
        except PermissionError as error:
            raise StudyError(f"{data}: the data folder cannot be written; choose another one") from error
    return open_images(source, data, cache)


def _write(source: spec.Images, downloads: Path, folder: Path) -> None:
    train, test = source.function(downloads, **source.settings)
    from study.images.ffcv_import import ffcv

    problems = folder / "problems.txt"
    samples = _Samples((train, test), source.short_side, problems)
    beton = folder / "images.beton"
    writer = {"write_mode": "smart", "smart_threshold": RAW_BELOW_BYTES, "jpeg_quality": source.jpeg_quality}
    number = ffcv.fields.IntField
    fields = {"image": ffcv.fields.RGBImageField(**writer), "label": number(), "index": number()}
    ffcv.writer.DatasetWriter(
        str(beton), fields, num_workers=len(os.sched_getaffinity(0))
    ).from_indexed_dataset(samples)
    if problems.exists():
        first, *others = problems.read_text().splitlines()
        raise StudyError(first + (f" ({len(others)} more)" if others else ""))

    metadata = ffcv.reader.Reader(str(beton)).metadata
    sides = np.minimum(metadata["f0"]["height"], metadata["f0"]["width"])
    labels = metadata["f1"].astype(np.int64)
    np.save(folder / "labels.npy", labels)
    names = getattr(train, "classes", None) or range(labels.max() + 1)  # some of torchvision's have none
    sidecar = {
        "source": source.model_dump(mode="json"),
        "counts": {"train": len(train), "test": len(test)},
        "classes": [str(name) for name in names],
        "side": int(sides.max()),
        "writer": writer,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": digest.of_file(path)}
            for path in (folder / name for name in FILES)
        },
    }
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=1))


# --- opening ------------------------------------------------------------------------------------


def open_images(source: spec.Images, data: Location, cache: Cache | None = None) -> Images:
    """Open a source's files, after checking that they are whole.

    Args:
        source: what they are written from.
        data: the data folder.
        cache: where they are copied to before use, and checked once; None: they are used in place, and
            checked once a process.

    Raises:
        StudyError: a file is missing, truncated or damaged, or the sidecar is for something else.
    """
    folder = folder_of(source, data)
    remedy = f"remove the folder {folder} and prepare the data again"
    if not is_prepared(source, data):
        raise StudyError(f"{folder}: the data are not prepared; run jobs/data.py")
    path = folder / SIDECAR
    try:
        sidecar = json.loads(storage.read(path))
        if sidecar["source"] != source.model_dump(mode="json"):
            raise StudyError(f"{path}: describes another source than the study; {remedy}")
        train = sidecar["counts"]["train"]
        beton, labels = (
            functools.partial(_locate, folder / name, sidecar["files"][name], cache, remedy) for name in FILES
        )
        if cache is None:
            beton()  # nothing is copied, so it is checked at once
        else:
            _stamp(folder / "images.beton", sidecar["files"]["images.beton"], remedy)
        return Images(
            locate=beton,
            classes=tuple(sidecar["classes"]),
            subsets={"train": (0, train), "test": (train, train + sidecar["counts"]["test"])},
            side=sidecar["side"],
            sha256=sidecar["files"]["images.beton"]["sha256"],
            labels=np.load(labels()),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path}: the sidecar is missing or damaged; {remedy}") from error
    except OSError as error:
        raise StudyError(
            f"{folder}: cannot be read ({storage.reason(error)}); see to its permissions"
        ) from error


def check(images: Images, expected: spec.Expected | None) -> None:
    """Refuse images that are not as the study expects them.

    Raises:
        StudyError: names what differs.
    """
    found = {name: last - first for name, (first, last) in images.subsets.items()}
    found["classes"] = len(images.classes)
    for name, number in expected or ():
        if found[name] != number:
            raise StudyError(
                f"data.expected.{name}: the study expects {number:,}, but there are {found[name]:,}; see "
                "whether the images are complete, or correct the study"
            )


def _locate(file: Location, expected: dict, cache: Cache | None, remedy: str) -> Path:
    """A file of the data where it can be used, checked; in the cache for the life of the process."""
    if cache is None:
        return _checked(file, expected, remedy)

    def fill(folder: Path) -> None:
        _stamp(file, expected, remedy)
        storage.download(file, folder / file.name)
        _checked(file, expected, remedy, folder / file.name)

    entry = f"{file.parent.name}-{file.stem}-{expected['sha256'][:16]}"
    return cache.entry(entry, expected["bytes"], fill) / file.name


def _stamp(file: Location, expected: dict, remedy: str, copy: Path | None = None) -> tuple[int, int]:
    """`storage.stamp` of a file, or of its copy, which is there and as large as its sidecar says.

    Raises:
        StorageError: told of the file itself: no trial is to blame for it.
    """
    try:
        size, modified = storage.stamp(copy or file)
    except FileNotFoundError as error:
        raise StorageError(f"{file}: the file is missing; {remedy}") from error
    if size != expected["bytes"]:
        raise StorageError(
            f"{file}: truncated or half-written ({size} bytes, should be {expected['bytes']}); {remedy}"
        )
    return size, modified


def _checked(file: Location, expected: dict, remedy: str, copy: Path | None = None) -> Path:
    """The path of a file, or of its copy, which is as its sidecar says; raises as `_stamp`."""
    path = copy or file
    if _sha256_once(path, *_stamp(file, expected, remedy, copy)) != expected["sha256"]:
        raise StorageError(f"{file}: damaged (its SHA-256 is not the recorded one); {remedy}")
    return path


@functools.lru_cache
def _sha256_once(path: Path, size: int, modified: int) -> str:
    return digest.of_file(path)
