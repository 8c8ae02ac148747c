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

import dataclasses
import functools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from study import mistakes, spec
from study.errors import StorageError, StudyError
from study.images import sources
from study.store import digest, storage
from study.store.cache import Cache
from study.store.storage import Location

LEFT_OUT = -1  # the class of an image that a study leaves out
SIDECAR, FILES = "images.json", ("images.beton", "labels.npy")
PROBLEMS = "problems.txt"
DOT = np.zeros((1, 1, 3), dtype=np.uint8)
SMALL_PAGE, LARGE_PAGE = 1 << 23, 1 << 26  # bytes, of FFCV's file: the most that an image may take
RAW_BELOW_BYTES = 64 * 64 * 3  # JPEG saves nothing below this size, and costs pixels


@dataclass(frozen=True)
class Images:
    """One written file: where it is, and what its sidecar says.

    `labels` is int64 [count], the class of every sample by index, `LEFT_OUT` (`chosen`), or
    `sources.UNKNOWN`;
    `subsets` gives the half-open
    range of indices of 'train' and 'test'; `side` is the shorter side of the images in pixels, the
    largest there is. `locate` gives the file's path on this machine, after copying it where it has to be.
    `passed_over` counts the files of the source that are no images, by suffix.
    """

    locate: Callable[[], Path]
    classes: tuple[str, ...]
    subsets: dict[str, tuple[int, int]]
    side: int
    sha256: str
    labels: NDArray[np.int64]
    passed_over: dict[str, int] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether the class of any image is known."""
        return bool((self.labels >= 0).any())

    @functools.cached_property
    def path(self) -> Path:
        """The file's path on this machine. Who asks for no pixels (a driver) needs no copy of it.

        Raises:
            StudyError: the file is missing, truncated or damaged.
        """
        return self.locate()


# --- writing ------------------------------------------------------------------------------------


class _Jpeg(NamedTuple):
    """An image that is kept as its source has it."""

    content: bytes
    size: tuple[int, int]  # width, height


class _Samples:
    """What FFCV's writer indexes: (image, label, index) of training, then test images.

    FFCV's writer waits for ever when a sample raises, so a bad one is replaced by a dot and told in
    a line of the file `problems`.
    """

    def __init__(self, datasets, short_side: int | None, problems: Path) -> None:
        self.datasets, self.short_side, self.problems = datasets, short_side, problems
        self.asked = ""  # the sample that a process has asked for last

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, index: int):
        index = int(index)
        dataset, position = self.datasets[0], index
        if position >= len(dataset):
            dataset, position = self.datasets[1], position - len(dataset)
        path = dataset.samples[position][0] if hasattr(dataset, "samples") else None
        self.asked = path or f"sample {index}"
        try:
            image, label = dataset[position]
            return self._as_it_is(image, path) or self._shrunk(in_colour(image)), int(label), index
        except Exception as error:  # whatever a damaged file makes PIL raise
            self.refuse(f"not a readable image ({error}); repair or remove it")
            return DOT, 0, index

    def refuse(self, why: str) -> None:
        """Note what is wrong with the sample that was asked for last."""
        with self.problems.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{self.asked}: {why}\n")

    def _as_it_is(self, image: Image.Image, path: str | None) -> _Jpeg | None:
        """A photograph that is not to be shrunk loses nothing by being written once more."""
        small = 3 * image.width * image.height <= RAW_BELOW_BYTES
        large = self.short_side is not None and min(image.size) > self.short_side
        if path is None or small or large or image.mode != "RGB" or image.format != "JPEG":
            return None
        return _Jpeg(Path(path).read_bytes(), image.size)

    def _shrunk(self, image: Image.Image) -> NDArray[np.uint8]:
        shorter = min(image.size)
        if self.short_side is not None and shorter > self.short_side:
            size = [round(side * self.short_side / shorter) for side in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image)


def in_colour(image: Image.Image) -> Image.Image:
    """An image in RGB, as PIL converts it, but 16 bits of grey scaled to 8, which PIL cuts off at 255.

    Raises:
        ValueError: its grey values have no known range (float, or 32 bits).
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its grey values have no known range (PIL's mode {image.mode}); save it with 8 bits"
        )
    return image.convert("RGB")


def _field(ffcv, samples: _Samples, writer: dict) -> Any:
    """FFCV's field of images, which takes a JPEG as it is, and tells of what it cannot write."""
    field = ffcv.fields.RGBImageField(**writer)
    encode = field.encode

    def encode_or_keep(destination, image, malloc) -> None:
        try:
            if isinstance(image, _Jpeg):
                destination["mode"] = ffcv.fields.rgb_image.IMAGE_MODES["jpg"]
                destination["width"], destination["height"] = image.size
                destination["data_ptr"], place = malloc(len(image.content))
                place[:] = np.frombuffer(image.content, np.uint8)
            else:
                encode(destination, image, malloc)
        except ValueError as error:  # larger than a page of the file
            samples.refuse(f"cannot be written ({error}); shrink it")
            encode(destination, DOT, malloc)

    field.encode = encode_or_keep
    return field


# One of a process at a time: its processes are forks, which another one's locks would leave stuck.
_writer = threading.Lock()
_writing: list[multiprocessing.Process] = []  # the processes of the one that writes


def _noted_process(**given: Any) -> multiprocessing.Process:
    """What FFCV's writer makes its processes by, so that they are known however soon they die."""
    _writing.append(multiprocessing.Process(**given))
    return _writing[-1]


def _look_and_sleep(seconds: float) -> None:
    """What FFCV's writer does, in place of sleeping alone, while it waits for processes that may die."""
    if any(process.exitcode for process in _writing):
        for process in _writing:
            process.terminate()
            process.join()
        raise StudyError(
            "data: a process that writes images was ended by the machine, most likely for want of memory; "
            "run the same command again with more of it, or fewer CPUs"
        )
    time.sleep(seconds)


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
    images = open_images(source, data, cache)
    _check_folders(source, data)
    return images


def _write(source: spec.Images, downloads: Path, folder: Path) -> None:
    parts = source.function(downloads, **source.settings)
    try:
        _write_parts(source, *parts, folder)
    finally:
        for part in parts:
            if hasattr(part, "close"):  # what it has stored is not needed any more
                part.close()


def _write_parts(source: spec.Images, train, test, folder: Path) -> None:
    from study.images.ffcv_import import ffcv

    problems = folder / PROBLEMS
    samples = _Samples((train, test), source.short_side, problems)
    beton = folder / "images.beton"
    writer = {"write_mode": "smart", "smart_threshold": RAW_BELOW_BYTES, "jpeg_quality": source.jpeg_quality}
    number = ffcv.fields.IntField
    fields = {"image": _field(ffcv, samples, writer), "label": number(), "index": number()}
    page = SMALL_PAGE if source.short_side is not None else LARGE_PAGE
    workers = len(os.sched_getaffinity(0))
    with _writer:
        ffcv.writer.Process, ffcv.writer.sleep = _noted_process, _look_and_sleep
        _writing.clear()
        ffcv.writer.DatasetWriter(str(beton), fields, page, workers).from_indexed_dataset(samples)
    if problems.exists():
        first, *others = problems.read_text(encoding="utf-8").splitlines()
        raise StudyError(first + (f" ({len(others)} more)" if others else ""))

    metadata = ffcv.reader.Reader(str(beton)).metadata
    sides = np.minimum(metadata["f0"]["height"], metadata["f0"]["width"])
    labels = metadata["f1"].astype(np.int64)
    np.save(folder / "labels.npy", labels)
    # Of torchvision's some have WordNet ids beside lists of words, and some have no names.
    known = (getattr(of, name, None) for name in ("wnids", "classes") for of in (test, train))
    names = next(filter(None, known), range(labels.max() + 1))
    sidecar = {
        "source": source.model_dump(mode="json"),
        "written": datetime.now(UTC).isoformat(timespec="minutes"),
        "folders": sources.listed(source.source, source.settings),
        "passed_over": sources.passed_over(train) + sources.passed_over(test),
        "counts": {"train": len(train), "test": len(test)},
        "classes": [str(name) for name in names],
        "side": int(sides.max()),
        "writer": writer,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": digest.of_file(path)}
            for path in (folder / name for name in FILES)
        },
    }
    (folder / SIDECAR).write_text(sealed(sidecar))


def sealed(sidecar: dict) -> str:
    """A sidecar as it is written: with a checksum of itself."""
    return json.dumps({**sidecar, "sha256": digest.of_json(sidecar, 64)}, indent=1)


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
        if sidecar.pop("sha256", None) not in (None, digest.of_json(sidecar, 64)):
            raise ValueError("it is not what was written")
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
            passed_over=sidecar.get("passed_over", {}),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path}: the sidecar is missing or damaged; {remedy}") from error
    except OSError as error:
        raise StudyError(
            f"{folder}: cannot be read ({storage.reason(error)}); see to its permissions"
        ) from error


def chosen(images: Images, data: spec.Data) -> Images:
    """The images of the classes that the data are of, numbered anew in their order; nothing is written.

    Raises:
        StudyError: a class is not there, or there are not so many.
    """
    names, wanted = images.classes, data.classes
    if wanted is None:
        return images
    if isinstance(wanted, int):
        if wanted > len(names):
            raise StudyError(f"data.classes: asks for {wanted} classes of {len(names)}; ask for fewer")
        drawn = np.random.default_rng((data.splits.seed, 3)).permutation(len(names))[:wanted]
        wanted = [names[number] for number in drawn]
    for name in wanted:
        if name not in names:
            near = mistakes.nearest(name, names) or f"; the first are called {', '.join(names[:3])}"
            raise StudyError(f"data.classes: there is no class {name!a}{near}")
    kept = [number for number, name in enumerate(names) if name in wanted]
    numbers = np.full(len(names), LEFT_OUT)
    numbers[kept] = range(len(kept))
    classes = tuple(names[number] for number in kept)
    known = images.labels != sources.UNKNOWN
    labels = np.where(known, numbers[np.where(known, images.labels, 0)], sources.UNKNOWN)
    return dataclasses.replace(images, classes=classes, labels=labels)


def _check_folders(source: spec.Images, data: Location) -> None:
    """Refuse, by a `StudyError`, files that were written from other folders, or before these changed.

    Told by the names of the images; folders that are gone, or elsewhere, are not missed.
    """
    folder = folder_of(source, data)
    sidecar = json.loads(storage.read(folder / SIDECAR))
    numbers = [int(name) for name in sidecar["classes"] if name.isdecimal()]
    if len(numbers) == len(sidecar["classes"]) and numbers != sorted(numbers):
        raise StudyError(
            f"{folder}: was written by a version that took 10 for a class before 2; remove it to have the "
            "images written anew"
        )
    written, now = sidecar.get("folders"), sources.listed(source.source, source.settings)
    if written and now and written != now:
        what = "has changed since" if written.keys() == now.keys() else f"is not {', '.join(now)}"
        raise StudyError(
            f"{folder}: was written on {sidecar['written']} from {', '.join(written)}, which {what}; remove "
            "it to have the images written anew, or name another folder (folders.data)"
        )


def check(images: Images, expected: spec.Expected | None) -> None:
    """Refuse images of one class alone, or that are not as the study expects them.

    Raises:
        StudyError: names what differs.
    """
    if len(images.classes) < 2:
        raise StudyError("data.images: there is one class alone; a classifier tells two apart at least")
    there = images.labels != LEFT_OUT
    found = {name: int(there[slice(*part)].sum()) for name, part in images.subsets.items()}
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
