"""Batches of crops out of one FFCV file.

Batches carry each sample's index, which is its position in the file. `Batches` serves any samples in
any order through one FFCV loader a file and crop, which FFCV compiles for seconds. The decoder only
cuts the crop out; resizing to a model's own input and normalising happen on the device, in
`study.zoo.Classifier`. Random augmentation is not FFCV's (its transforms cannot be reproduced) but
`study.views`.

FFCV is imported only when a loader is opened.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.data import Images


class Crop(NamedTuple):
    """The part of an image that a model looks at, as timm's data configuration names it.

    `pct` in (0, 1] is the share of a side that is kept: of the shorter side for both sides of a
    square ('center'), or of each side ('squash': what is kept is then made square).
    """

    pct: float = 1.0
    mode: Literal["center", "squash"] = "center"


class Batches:
    """Batches of crops out of one file, any samples in any order.

    Args:
        images: the opened file.
        crop: which part of an image.
        workers: threads that decode.
    """

    def __init__(self, images: Images, crop: Crop, workers: int = 1) -> None:
        side = int(crop.pct * images.side)
        self._loader = _preserving_threads(
            lambda: _ffcv_loader(images.path, images.sha256, side, crop, workers)
        )

    def epoch(
        self, order: NDArray[np.integer], batch_size: int, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of the samples in `order`, in that order; the last one may be smaller.

        Args:
            order: int [n], indices of samples.
            batch_size: samples a batch.
            device: where the tensors go.

        Yields:
            pixels uint8 [batch, 3, side, side] (channels last in memory), labels int64 [batch],
            indices int64 [batch]. On a CPU they are FFCV's own buffers: valid for this batch only.
        """
        loader = self._loader
        loader.batch_size = batch_size
        loader.traversal_order.order = loader.first_traversal_order = np.asarray(order, dtype=np.uint64)
        iterator = _preserving_threads(lambda: iter(loader))
        for pixels, labels, index in iterator:
            # Copies that wait: FFCV fills its buffers again without asking whether one has ended.
            yield (
                pixels.to(device).permute(0, 3, 1, 2),
                labels.to(device).squeeze(1),
                index.to(device).squeeze(1),
            )


def _central_part(height, width, _, ratio):
    """Top, left, height, width of what 'squash' keeps; compiled by numba, as FFCV's own are."""
    h, w = int(ratio * height), int(ratio * width)
    return (height - h) // 2, (width - w) // 2, h, w


def _preserving_threads(action: Callable):
    """FFCV sets torch's thread count for the whole process; this puts it back."""
    threads = torch.get_num_threads()
    try:
        return action()
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _ffcv_loader(path: Path, sha256: str, side: int, crop: Crop, workers: int):
    """A compiled loader, kept for the life of the process: compiling takes seconds.

    Loaders must not be collected either: what numba does when a compiled function goes breaks Python
    3.11's parser if that happens to be at work ("AST constructor recursion depth mismatch").
    """
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import ToTensor
    from ffcv.traversal_order.base import TraversalOrder

    class SquashRGBImageDecoder(CenterCropRGBImageDecoder):
        """The central part of both sides, made square."""

        @property
        def get_crop_generator(self):
            return _central_part

    class GivenOrder(TraversalOrder):
        """The order set last on the attribute `order`."""

        def sample_order(self, epoch: int) -> NDArray[np.uint64]:
            return self.order

    decoders = {"center": CenterCropRGBImageDecoder, "squash": SquashRGBImageDecoder}
    loader = Loader(
        str(path),
        batch_size=1,
        num_workers=workers,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [decoders[crop.mode]((side, side), crop.pct), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
            "index": [IntDecoder(), ToTensor()],
        },
    )
    loader.traversal_order = GivenOrder(loader)
    return loader
