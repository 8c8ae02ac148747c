"""Views: augmentation that can be reproduced anywhere.

What happens to a sample depends only on (seed, epoch, index of the sample), never on the batch it
came in, the worker or the device, so any two workers, or a cache, see the same pixels. Random
numbers come from a counter-based generator (SplitMix64, Steele et al. 2014) run over the batch on
its own device. Left out on purpose: everything that mixes samples, and changes of colour.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 10  # boxes drawn for a random resized crop, as torchvision does, before it takes the centre

# SplitMix64's constants, as the signed 64-bit integers torch computes with.
_GOLDEN, _MIX1, _MIX2 = (x - (1 << 64) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """The output of SplitMix64 for state `x`: int64 of any shape, its bits those of the uint64."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def uniform(seed: int, epoch: int, indices: Tensor, count: int) -> Tensor:
    """Random numbers of each sample, a function of (seed, epoch, index) alone.

    Args:
        seed, epoch: whole numbers.
        indices: int64 [batch].
        count: numbers a sample.

    Returns:
        float32 [batch, count] in [0, 1), on the indices' device.
    """
    state = indices
    for number in (seed, epoch):
        state = splitmix64(splitmix64(state) + number)
    state = splitmix64(state[:, None] + torch.arange(count, device=indices.device) * _GOLDEN)
    return _shift_right(state, 40).float() / (1 << 24)


class View(NamedTuple):
    """How the samples of one epoch are shown; what happens to each also depends on its index.

    Attributes:
        seed, epoch: whole numbers.
        flip: whether to mirror left to right, with probability one half.
        shift: largest shift in pixels, either way in both directions, uniform over whole numbers; zeros
            are drawn in.
        scale: least and largest share of the area that a random resized crop keeps; None: no such crop.
        ratio: its least and largest ratio of width to height.
    """

    seed: int
    epoch: int
    flip: bool = False
    shift: int = 0
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)


def augment(pixels: Tensor, indices: Tensor, view: View | None) -> Tensor:
    """Samples as a view shows them: cropped and enlarged, mirrored, shifted, in this order.

    Args:
        pixels: [batch, channels, height, width], any dtype.
        indices: int64 [batch], index of every sample, on the same device.
        view: which one; None shows them as they are.

    Returns:
        Like `pixels`.
    """
    if view is None or not (view.flip or view.shift or view.scale):
        return pixels
    random = uniform(view.seed, view.epoch, indices, 3 + (2 * CANDIDATES + 2 if view.scale else 0))
    if view.scale:
        boxes = _boxes(random[:, 3:], *pixels.shape[2:], view.scale, view.ratio)
        pixels = _resized_crop(pixels, boxes)
    if view.flip:
        pixels = torch.where((random[:, 0] < 0.5)[:, None, None, None], pixels.flip(3), pixels)
    if view.shift:
        pixels = _shifted(pixels, (random[:, 1:3] * (2 * view.shift + 1)).long(), view.shift)
    return pixels


def _boxes(
    random: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes of random resized crops, as torchvision's `RandomResizedCrop` draws them.

    Of `CANDIDATES` boxes (area uniform, ratio uniform on a logarithmic scale, sides rounded) each sample
    takes the first that fits into the image, or else the largest central one of an allowed ratio.

    Args:
        random: float32 [batch, 2 * CANDIDATES + 2] in [0, 1).
        height, width: of the image, in pixels.
        scale, ratio: as in `View`.

    Returns:
        int64 [batch, 4]: top, left, height, width.
    """
    low, high = (math.log(bound) for bound in ratio)
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * random[:, :CANDIDATES])
    ratios = torch.exp(low + (high - low) * random[:, CANDIDATES:-2])
    widths, heights = ((areas * r).sqrt().round() for r in (ratios, 1 / ratios))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # the first of the largest
    centre = min(max(width / height, ratio[0]), ratio[1])
    none, some = ~fits.any(1), torch.cat([heights.gather(1, first), widths.gather(1, first)], dim=1)
    whole = torch.tensor([min(height, round(width / centre)), min(width, round(height * centre))]).clamp(
        min=1
    )
    sides = torch.where(none[:, None], whole.to(some), some)
    room = torch.tensor([height, width], device=random.device) - sides
    corners = torch.where(none[:, None], room // 2, (random[:, -2:] * (room + 1)).floor())
    return torch.cat([corners, sides], dim=1).long()


def _resized_crop(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Each sample's box, enlarged to the size of the whole (bilinear; it never shrinks).

    Args:
        pixels: [batch, channels, height, width], any dtype.
        boxes: int64 [batch, 4]: top, left, height, width.

    Returns:
        Like `pixels`.
    """
    height, width = pixels.shape[2:]
    top, left, rows, columns = boxes.float().unbind(1)
    down, right = _along(top, rows, height), _along(left, columns, width)
    grid = torch.stack(
        [right[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], dim=3
    )
    seen = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return (seen if pixels.is_floating_point() else seen.round()).to(pixels.dtype)


def _along(first: Tensor, part: Tensor, size: int) -> Tensor:
    """Where the pixels of a view lie in the whole, along one side of `size` pixels.

    Args:
        first, part: float32 [batch], the first pixel of each box and how many it has.

    Returns:
        float32 [batch, size] in [-1, 1], where -1 and 1 are the edges of the whole; no further out than
        the centres of the box's own outermost pixels.
    """
    steps = (torch.arange(size, device=first.device) + 0.5) / size * part[:, None] - 0.5
    inside = first[:, None] + torch.minimum(steps.clamp(min=0), part[:, None] - 1)
    return (2 * inside + 1) / size - 1


def _shifted(pixels: Tensor, steps: Tensor, largest: int) -> Tensor:
    """Each sample moved by `steps` - `largest`, int64 [batch, 2] (up, left), zeros drawn in."""
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (largest,) * 4).permute(0, 2, 3, 1)
    top, left = steps.unbind(1)
    rows = (top[:, None] + torch.arange(height, device=pixels.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=pixels.device))[:, None, :]
    sample = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    return padded[sample, rows, columns].permute(0, 3, 1, 2)
