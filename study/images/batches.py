"""Batches of crops out of one FFCV file, any samples in any order, with nothing compiled.

FFCV's file, reader and C decoders (they release the GIL) are used, from a few threads. FFCV's Loader is
not: numba compiles its pipelines for seconds in every process, its consumer waits for ever when its
thread dies, and it sets torch's thread count.

A crop is shown in one of two ways. A view that models of different inputs share, and that is augmented
(`study.views`), is cut out as large as the images allow, with the pixels of FFCV's
`CenterCropRGBImageDecoder`, bit for bit; each `study.models.zoo.Classifier` resizes it on the device. What
one model is evaluated on is decoded by PIL and resized once, straight to its input, by timm's own transform:
the pixels are timm's, bit for bit. Raw images of one size are cut out either way, since nothing is resized
before the device.

`Batches` decodes while one iterates; `Resident` keeps the crops of some samples decoded, in memory or
on a GPU. Batches carry each sample's index, which is its position in the file. Left out: shuffling (an order
is given), and ending a thread that hangs in a read (no one can): its consumer gets an error, but the
interpreter waits for it when it exits.

FFCV is imported only when a file is opened.
"""

from __future__ import annotations

import functools
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from study.errors import StorageError, StudyError
from study.images.files import Images

GATHERED = 4 << 20  # bytes of kept crops that are fetched at once, if a batch does not take more
AHEAD = 2  # batches that are decoded while the consumer has one
STUCK_AFTER = 300.0  # seconds after which a batch that is waited for counts as never coming


class Crop(NamedTuple):
    """The part of an image that a model looks at, as timm's data configuration names it.

    `pct` in (0, 1] is the share of a side that is kept: of the shorter side for both sides of a
    square ('center'), or of each side ('squash': what is kept is then made square).

    `size` in pixels (height, width) is what timm's transform makes of it, by `interpolation`; None: as large
    as the images allow, the same for all.
    """

    pct: float = 1.0
    mode: Literal["center", "squash"] = "center"
    size: tuple[int, int] | None = None
    interpolation: str = "bicubic"


class Batches:
    """Batches of crops out of one file, any samples in any order.

    `size` is the crops' height and width in pixels. The threads live as long as the object and idle between
    epochs.

    Args:
        images: the opened file.
        crop: which part of an image.
        workers: threads that decode.

    Raises:
        StudyError: the file is missing or damaged, or the crop leaves nothing of an image.
    """

    def __init__(self, images: Images, crop: Crop, workers: int = 1) -> None:
        side = int(crop.pct * images.side)
        self.size = (side, side)
        self._labels, self._workers = images.labels, workers
        self._file = file = _open(images.path, images.sha256)
        # As FFCV's get_center_crop computes it, for all samples at once.
        sides = np.stack([file.heights, file.widths])
        kept = sides if crop.mode == "squash" else np.broadcast_to(sides.min(0), sides.shape)
        self._sizes = (crop.pct * kept).astype(np.int64)
        self._corners = (sides - self._sizes) // 2
        small = (self._sizes.min(0) < 1) | (side < 1)
        if small.any():
            raise StudyError(
                f"{file.path}: a crop of {crop.pct:g} leaves nothing of sample {small.argmax()} "
                f"({file.heights[small][0]} x {file.widths[small][0]} pixels); crop less"
            )
        self._windows, self._transform = self._all_windows(side), None
        if crop.size is not None and self._windows is None:
            self.size, self._transform = crop.size, _timms(crop)
        # Kept from epoch to epoch: FFCV never frees the 10 to 20 kB it allots a thread that decodes JPEGs.
        self._threads = ThreadPoolExecutor(workers, "decode")

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample's pixels."""
        return 3 * self.size[0] * self.size[1]

    def epoch(
        self, order: NDArray[np.integer], batch_size: int, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of the samples in `order`, in that order; the last one may be smaller.

        Args:
            order: int [n], indices of samples.
            batch_size: samples a batch.
            device: where the tensors go.

        Yields:
            pixels uint8 [batch, 3, height, width] (channels last in memory), labels int64 [batch],
            indices int64 [batch], the consumer's own.

        Raises:
            StorageError: an image is damaged, or a batch does not come within `STUCK_AFTER` seconds.
        """
        order, device = np.array(order, dtype=np.int64), torch.device(device)
        coming: deque[tuple[Tensor, NDArray[np.int64], list[Future]]] = deque()
        try:
            for start in range(0, len(order), batch_size):
                coming.append(self._start(order[start : start + batch_size], device))
                if len(coming) > AHEAD:
                    yield self._finish(coming, device)
            while coming:
                yield self._finish(coming, device)
        finally:  # of an error, or of a consumer that stops early
            for _, _, parts in coming:
                for part in parts:
                    part.cancel()

    def _start(self, samples: NDArray[np.int64], device: torch.device):
        shape = (len(samples), *self.size, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        # Raw images are copied faster than threads take turns; of JPEGs each thread gets its share.
        share = len(samples) if self._windows is not None else -(-len(samples) // self._workers)
        parts = [
            self._threads.submit(self._decode, some, into)
            for some, into in zip(_cut(samples, share), _cut(pixels.numpy(), share), strict=True)
        ]
        return pixels, samples, parts

    def _finish(self, coming: deque, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        pixels, samples, parts = coming[0]
        done, waiting = wait(parts, STUCK_AFTER, FIRST_EXCEPTION)
        for part in done:
            part.result()  # raises what the thread raised
        if waiting:
            # The threads that hang are given up, so that another epoch has a chance.
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = ThreadPoolExecutor(self._workers, "decode")
            raise StorageError(
                f"{self._file.path}: reading it hangs (no batch within {STUCK_AFTER:g} s); "
                "see to the disk it lies on, or put it on another one"
            )
        coming.popleft()
        labels, indices = (torch.from_numpy(of[samples]) for of in (self._labels, self._file.indices))
        return _move(pixels, device).permute(0, 3, 1, 2), _move(labels, device), _move(indices, device)

    def _all_windows(self, side: int) -> NDArray[np.uint8] | None:
        """For raw images of one size whose crops need no resizing: the crop that begins at any byte.

        A view, uint8 [bytes, side, 3 side]; indexed by `starts`, it gathers crops without a loop.
        """
        file, length = self._file, 3 * side
        if file.jpeg.any() or (self._sizes != side).any() or len(np.unique(file.widths)) != 1:
            return None
        row = 3 * int(file.widths[0])
        count = len(file.data) - (side - 1) * row - length + 1
        return as_strided(file.data, (count, side, length), (1, row, 1), writeable=False)

    def _decode(self, samples: NDArray[np.int64], into: NDArray[np.uint8]) -> None:
        """Write the crops of samples [n] into uint8 [n, height, width, 3]."""
        file = self._file
        starts, widths = file.starts[samples], file.widths[samples]
        tops, lefts = self._corners[:, samples]
        if self._windows is not None:
            first = starts + 3 * (tops * widths + lefts)
            into[:] = self._windows[first].reshape(into.shape)
            return
        if self._transform is not None:
            for sample, target in zip(samples, into, strict=True):
                target[:] = self._transform(self._file.image(sample)).permute(1, 2, 0)
            return
        decoded = np.empty(file.largest, dtype=np.uint8)
        address, target = file.data.ctypes.data, into.ctypes.data
        columns = (samples, file.jpeg[samples], starts, file.bytes[samples], file.heights[samples], widths)
        crops = (tops, tops + self._sizes[0, samples], lefts, lefts + self._sizes[1, samples])
        for sample, jpeg, start, size, height, width, *crop in np.stack((*columns, *crops), 1).tolist():
            source = address + start
            if jpeg:
                # Nothing is cropped, scaled or flipped here: only so are the pixels FFCV's.
                whole = (height, width, 0, 0, 1, 1, False, False)
                if file.imdecode(source, size, height, width, decoded.ctypes.data, *whole):
                    raise self._file.damaged(sample)
                source = decoded.ctypes.data
            file.resize(0, source, height, width, *crop, target, *self.size)
            target += 3 * self.size[0] * self.size[1]


def _timms(crop: Crop) -> Callable[[Image.Image], Tensor]:
    """timm's own transform for evaluation, from an image to uint8 [3, height, width]."""
    from study.models.timm_import import timm

    return timm.data.create_transform(
        (3, *crop.size),
        crop_pct=crop.pct,
        crop_mode=crop.mode,
        interpolation=crop.interpolation,
        normalize=False,
    )


class Resident:
    """The crops of some samples, decoded once and kept; serves them as `Batches` does, only faster.

    `nbytes` is what it takes on the device. It does not change: batches are copies.

    Args:
        batches: of which crops.
        indices: int [n], the samples.
        device: where they are kept.

    Raises:
        StorageError: as `Batches.epoch`.
    """

    def __init__(
        self, batches: Batches, indices: NDArray[np.integer], device: torch.device | str = "cpu"
    ) -> None:
        self._samples = np.unique(np.asarray(indices, dtype=np.int64))
        shape = (len(self._samples), *batches.size, 3)
        self._pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        self._labels = torch.empty(len(self._samples), dtype=torch.int64, device=device)
        done = 0
        for pixels, labels, _ in batches.epoch(self._samples, 256, device):
            rows = slice(done, done + len(labels))
            _copy(pixels.permute(0, 2, 3, 1), self._pixels[rows])
            _copy(labels, self._labels[rows])
            done = rows.stop

    @staticmethod
    def size(height: int, width: int, samples: int) -> int:
        """Bytes that so many different samples will take on the device, at `Batches.size`."""
        return samples * (3 * height * width + 8)

    @property
    def nbytes(self) -> int:
        return self._pixels.nbytes + self._labels.nbytes

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample's pixels."""
        return self._pixels.shape[1:].numel()

    def epoch(
        self, order: NDArray[np.integer], batch_size: int, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As `Batches.epoch`. On the device where the crops lie, the host waits for nothing.

        Raises:
            ValueError: `order` has a sample that is not kept.
        """
        order, home = np.array(order, dtype=np.int64), self._pixels.device
        strangers = order[~np.isin(order, self._samples)]
        if len(strangers):
            raise ValueError(f"sample {strangers[0]} is not among those kept")
        positions = np.searchsorted(self._samples, order)
        positions, indices = (_move(torch.from_numpy(of), home) for of in (positions, order))
        # Some batches at a time: one of small images takes less than the calls that fetch it.
        piece = batch_size * max(1, GATHERED // (batch_size * self.sample_bytes))
        for rows, index in zip(positions.split(piece), indices.split(piece), strict=True):
            if not len(rows):  # torch splits nothing into one part
                return
            pixels = _rows(self._pixels, rows).to(device).permute(0, 3, 1, 2)
            labels = _rows(self._labels, rows).to(device)
            parts = (of.split(batch_size) for of in (pixels, labels, index.to(device)))
            yield from zip(*parts, strict=True)


# On a CPU numpy moves bytes: torch shares even small copies among threads, which takes milliseconds
# where the cores are busy, instead of microseconds.


def _copy(source: Tensor, target: Tensor) -> None:
    if target.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return torch.from_numpy(tensor.numpy().take(rows.numpy(), axis=0))
    return tensor.index_select(0, rows)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device without waiting for it; pinned memory is kept until the copy out of it is done."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _cut(items: NDArray, size: int) -> list[NDArray]:
    return [items[start : start + size] for start in range(0, len(items), size)]


class _File:
    """A mapped file and, for each of its samples: `jpeg` bool, `starts`, `bytes`, `heights`, `widths`,
    `indices` int64, all [count]; `largest`: bytes of its largest image, decoded."""

    def __init__(self, path: Path) -> None:
        from study.images.ffcv_import import ffcv

        self.imdecode, self.resize = ffcv.libffcv.ctypes_imdecode, ffcv.libffcv.ctypes_resize
        opened = ffcv.reader.Reader(str(path))
        image = opened.metadata["f0"]
        self.path, self.data = path, np.asarray(np.memmap(path, np.uint8, mode="r"))
        self.jpeg = image["mode"] == 0  # FFCV's IMAGE_MODES
        self.starts, self.heights, self.widths = (
            image[name].astype(np.int64) for name in ("data_ptr", "height", "width")
        )
        self.indices = opened.metadata["f2"].astype(np.int64)
        # An image is all that is allocated for a sample.
        self.bytes = np.zeros(len(image), dtype=np.int64)
        self.bytes[opened.alloc_table["sample_id"]] = opened.alloc_table["size"]
        self.largest = int((3 * self.heights * self.widths).max(initial=0))

    def image(self, sample: int) -> Image.Image:
        """A whole sample as PIL has it."""
        content = self.data[self.starts[sample] : self.starts[sample] + self.bytes[sample]]
        if not self.jpeg[sample]:
            return Image.fromarray(content.reshape(self.heights[sample], self.widths[sample], 3))
        try:
            image = Image.open(io.BytesIO(content), formats=["JPEG"])
            image.load()
        except OSError as error:
            raise self.damaged(sample) from error
        return image

    def damaged(self, sample: int) -> StorageError:
        return StorageError(
            f"{self.path}: the JPEG of sample {sample} is damaged; remove the folder {self.path.parent} and "
            "prepare the data again"
        )


def whole(images: Images, indices: Iterable[int]) -> Iterator[Image.Image]:
    """Samples by their indices, as PIL has them, whole and not resized.

    Raises:
        StorageError: an image is damaged.
    """
    file = _open(images.path, images.sha256)
    place = np.argsort(file.indices)
    for index in indices:
        yield file.image(place[np.searchsorted(file.indices, index, sorter=place)])


@functools.cache
def _open(path: Path, sha256: str) -> _File:
    return _File(path)
