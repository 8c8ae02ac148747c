"""Images: from a source into one FFCV file, from there into splits and batches.

A source (Fashion-MNIST, an image folder, a torchvision data set) is written once to a folder that
holds `images.beton` (fields image, label, index; training images first, then test), `labels.npy`,
and `images.json`, the sidecar that says what the file must be: source, counts, class names, writer
settings, size, SHA-256. The folder is written under a temporary name and renamed, and is opened
only if size and checksum match, because FFCV itself reads damaged files silently. Files at a URL are
copied to the node's cache first (`study.store.cache`), since FFCV maps them into memory.

`study.images.batches` reads them. FFCV is imported only when a file is written.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study import spec
from study.errors import StorageError, StudyError
from study.images import sources
from study.store import storage
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


def folder_of(source: spec.Source, data: Location) -> Location:
    """Where a source's files lie under the data folder."""
    return data / f"{source.source}-{spec.content_hash(source.model_dump(mode='json'))[:8]}"


def is_prepared(source: spec.Source, data: Location) -> bool:
    """Whether a source's files were written, whatever became of them."""
    folder = folder_of(source, data)
    # Of a store the sidecar is asked for: it is there once all the rest is.
    return folder.exists() if isinstance(folder, Path) else (folder / SIDECAR).exists()


def prepare(source: spec.Source, data: Location, cache: Cache | None = None) -> Images:
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
        temporary = here / f".{folder.name}.{uuid.uuid4().hex}.tmp"
        try:
            temporary.mkdir(parents=True)
            _write(source, here / downloads, temporary)
            if isinstance(folder, Path):
                _rename_unless_there(temporary, folder)
            else:
                _upload(temporary, folder)
        except PermissionError as error:
            raise StudyError(f"{data}: the data folder cannot be written; choose another one") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return open_images(source, data, cache)


def _upload(temporary: Path, folder: Location) -> None:
    storage.make(folder)
    for name in (*FILES, SIDECAR):  # the sidecar last: with it the data are there
        storage.upload(temporary / name, folder / name)


def _rename_unless_there(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster: its files are as good
            raise


def _write(source: spec.Source, downloads: Path, folder: Path) -> None:
    train, test = sources.open_source(source, downloads)
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
    _sync(beton)
    sidecar = {
        "source": source.model_dump(mode="json"),
        "counts": {"train": len(train), "test": len(test)},
        "classes": [str(name) for name in names],
        "side": int(sides.max()),
        "writer": writer,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": storage.sha256(path)}
            for path in (folder / name for name in FILES)
        },
    }
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=1))


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


# --- opening ------------------------------------------------------------------------------------


def open_images(source: spec.Source, data: Location, cache: Cache | None = None) -> Images:
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
            size, _ = storage.stamp(folder / "images.beton")
            _check_size(size, sidecar["files"]["images.beton"]["bytes"], folder / "images.beton", remedy)
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


def _locate(file: Location, expected: dict, cache: Cache | None, remedy: str) -> Path:
    """A file of the data where it can be used, checked; in the cache for the life of the process."""
    if cache is None:
        _check_file(file, expected, remedy)
        return file

    def fill(copy: Path) -> None:
        try:
            storage.download(file, copy / file.name)
            _check_file(copy / file.name, expected, remedy, file)
        except FileNotFoundError as error:
            raise StorageError(f"{file}: the file is missing; {remedy}") from error

    entry = f"{file.parent.name}-{file.stem}-{expected['sha256'][:16]}"
    return cache.entry(entry, expected["bytes"], fill) / file.name


def _check_file(path: Path, expected: dict, remedy: str, original: Location | None = None) -> None:
    """Refuse a file that is not as its sidecar says; `original` is what it is a copy of.

    Raises:
        StorageError: told of the original: no trial is to blame for it.
    """
    told = original or path
    if not path.is_file():
        raise StorageError(f"{told}: the file is missing; {remedy}")
    status = path.stat()
    _check_size(status.st_size, expected["bytes"], told, remedy)
    if _sha256_once(path, status.st_size, status.st_mtime_ns) != expected["sha256"]:
        raise StorageError(f"{told}: damaged (its SHA-256 is not the recorded one); {remedy}")


def _check_size(found: int, expected: int, told: Location, remedy: str) -> None:
    if found != expected:
        raise StorageError(
            f"{told}: truncated or half-written ({found} bytes, should be {expected}); {remedy}"
        )


@functools.lru_cache
def _sha256_once(path: Path, size: int, modified: int) -> str:
    return storage.sha256(path)
