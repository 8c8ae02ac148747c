"""Views: augmentation that can be reproduced anywhere.

What happens to a sample depends only on (seed, epoch, index of the sample), never on the batch it
came in, the worker or the device, so any two workers, or a cache, see the same pixels. Random
numbers come from a counter-based generator (SplitMix64, Steele et al. 2014) run over the batch on
its own device. Left out on purpose: random resized crops, which the paper did not use in transfer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def augment(
    pixels: Tensor, indices: Tensor, seed: int, epoch: int, flip: bool = False, shift: int = 0
) -> Tensor:
    """Mirror half of the samples, and shift each by up to `shift` pixels, zeros drawn in.

    Args:
        pixels: [batch, channels, height, width], any dtype.
        indices: int64 [batch], index of every sample, on the same device.
        seed, epoch: whole numbers.
        flip: whether to mirror left to right, with probability one half.
        shift: largest shift in pixels, either way in both directions, uniform over whole numbers.

    Returns:
        Like `pixels`.
    """
    if not flip and not shift:
        return pixels
    random = uniform(seed, epoch, indices, 3)
    if flip:
        pixels = torch.where((random[:, 0] < 0.5)[:, None, None, None], pixels.flip(3), pixels)
    if shift:
        height, width = pixels.shape[2:]
        padded = F.pad(pixels, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
        top, left = (random[:, 1:] * (2 * shift + 1)).long().unbind(1)
        rows = (top[:, None] + torch.arange(height, device=pixels.device))[:, :, None]
        columns = (left[:, None] + torch.arange(width, device=pixels.device))[:, None, :]
        sample = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        pixels = padded[sample, rows, columns].permute(0, 3, 1, 2)
    return pixels
