"""Views: how the samples of an epoch are shown, and batches of samples so shown.

A view is a crop and a list of transforms (`study.transforms`). What happens to a sample depends only on
(seed, epoch, index of the sample), never on the batch it came in, the worker or the device, so any two
workers, or a cache, see the same pixels; so does its partner, where images are mixed. Random numbers come
from a counter-based generator (SplitMix64, Steele et al. 2014) run over the batch on its own device; each
transform has counters of its own, so that a new one changes nothing of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from study.errors import StudyError
from study.images.batches import GATHERED, Batches, Crop, Resident
from study.transforms import Mix, Transform

PARTNER = 48  # the counter that partners are drawn by
COPIES = 2012_02909  # mixed into the seed of a view of a view
GROUPED = 16 << 20  # bytes of pixels that are shown at once where samples with equal draws are grouped

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


def uniform(seed: int, epoch: int, indices: Tensor, count: int, first: int = 0) -> Tensor:
    """Random numbers of each sample, a function of (seed, epoch, index) alone.

    Args:
        seed, epoch: whole numbers.
        indices: int64 [batch].
        count: numbers a sample.
        first: the counter of the first one.

    Returns:
        float32 [batch, count] in [0, 1), on the indices' device.
    """
    state = indices
    for number in (seed, epoch):
        state = splitmix64(splitmix64(state) + number)
    counters = torch.arange(first, first + count, device=indices.device)
    state = splitmix64(state[:, None] + counters * _GOLDEN)
    return _shift_right(state, 40).float() / (1 << 24)


@dataclass(frozen=True)
class View:
    """How samples are shown: the crop, then each transform; what differs from epoch to epoch is drawn by
    `seed`.

    With `of` the transforms come after those of another view of the same crop: what is shown is a copy of
    what that one shows.
    """

    crop: Crop
    transforms: tuple[Transform, ...] = ()
    seed: int = 0
    of: View | None = None

    def copy(self, transforms: tuple[Transform, ...], number: int = 0) -> View:
        """The `number`-th copy of what this view shows, with further transforms, which draw by a seed of
        their own: else a copy that is mirrored would be where the original is.
        """
        if not transforms:
            return self
        seed = np.random.SeedSequence([self.seed, COPIES, number]).generate_state(1, np.uint64)[0] >> 1
        return View(self.crop, transforms, int(seed), self)

    @property
    def variants(self) -> int | None:
        """In how many ways a sample can be shown; None if there are no such few."""
        counts = [transform.variants for transform in self.transforms]
        counts += [self.of.variants] if self.of else []
        return None if None in counts else math.prod(counts)

    @property
    def mix(self) -> Mix | None:
        """What mixes images, if anything does."""
        return next((one for one in self.transforms if isinstance(one, Mix)), None)

    @property
    def grouped(self) -> bool:
        """Whether many samples at once cost less than few."""
        return any(transform.grouped for transform in self.transforms)

    def drawn(self, transform: Transform, epoch: int, indices: Tensor) -> Tensor:
        """What a transform does to samples in an epoch, as its `draw` has it."""
        return transform.draw(uniform(self.seed, epoch, indices, transform.numbers, transform.stream))

    def show(self, pixels: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Samples as an epoch shows them, but for what mixes them.

        Args:
            pixels: [batch, channels, height, width], any dtype.
            indices: int64 [batch], index of every sample, on the same device.
            epoch: which one.

        Returns:
            Like `pixels`.
        """
        return self.show_copy(self.of.show(pixels, indices, epoch) if self.of else pixels, indices, epoch)

    def show_copy(self, pixels: Tensor, drawn_by: Tensor, epoch: int) -> Tensor:
        """What another view shows, as this one, which is `of` it, does; draws are those of samples
        `drawn_by`, int64 [batch].
        """
        for transform in self.transforms:
            if not isinstance(transform, Mix):
                pixels = transform.show(pixels, self.drawn(transform, epoch, drawn_by))
        return pixels

    def variant(self, indices: Tensor, epoch: int) -> Tensor:
        """In which of its `variants` an epoch shows each sample, int64 [batch]."""
        number = self.of.variant(indices, epoch) if self.of else torch.zeros_like(indices)
        for transform in self.transforms:
            number = number * transform.variants + self.drawn(transform, epoch, indices)
        return number

    def as_variant(self, pixels: Tensor, number: int) -> Tensor:
        """All samples in the same one of the `variants`."""
        numbers = []
        for transform in reversed(self.transforms):
            number, own = divmod(number, transform.variants)
            numbers.append(own)
        if self.of:
            pixels = self.of.as_variant(pixels, number)
        for transform, own in zip(self.transforms, reversed(numbers), strict=True):
            pixels = transform.show(pixels, torch.full((len(pixels),), own, device=pixels.device))
        return pixels

    def partners(self, order: NDArray[np.int64], epoch: int, pool: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whom an epoch mixes each sample with: any other one of the pool.

        Args:
            order: int64 [n], indices of samples of the pool.
            epoch: which one.
            pool: int64 [samples], sorted.

        Returns:
            int64 [n], indices.
        """
        random = uniform(self.seed, epoch, torch.from_numpy(order), 1, PARTNER)[:, 0].double().numpy()
        steps = 1 + (random * (len(pool) - 1)).astype(np.int64)
        return pool[(np.searchsorted(pool, order) + steps) % len(pool)]


class Batch(NamedTuple):
    """Samples as a view shows them.

    Attributes:
        pixels: uint8 [batch, 3, side, side].
        targets: int64 [batch], classes, or, of mixed images, their shares, float32 [batch, classes]; None
            where nobody has said them.
        indices: int64 [batch].
        augmented: the second input, uint8 [candidates * batch, 3, side, side], candidate after candidate;
            None without.
        weight: of the mean over these samples among several workers', which average to 1.
        counted: how many of them count in sums over all workers; None: all.
    """

    pixels: Tensor
    targets: Tensor | None
    indices: Tensor
    weight: float = 1.0
    counted: int | None = None
    augmented: Tensor | None = None


class Shown:
    """A loader of samples as a view shows them, in an epoch, or all in the same variant.

    Args:
        batches: the loader of the view's crop.
        view: how they are shown.
        pool: int64 [samples], sorted: whom samples may be mixed with.
        classes: how many there are; None: nobody has said which one a sample is of.
        variant: the same for all samples and epochs; None: what each epoch draws.

    Raises:
        StudyError: images are to be mixed whose classes nobody has said.
    """

    def __init__(
        self,
        batches: Batches | Resident,
        view: View,
        pool: NDArray[np.int64],
        classes: int | None,
        variant: int | None = None,
    ) -> None:
        if classes is None and view.mix is not None:
            raise StudyError("transforms: mix images, and nobody has said their classes; take none that does")
        self.batches, self.view, self.pool, self.classes, self.variant = batches, view, pool, classes, variant

    def epoch(
        self, order: NDArray[np.int64], batch_size: int, device: torch.device | str, epoch: int = 0
    ) -> Iterator[Batch]:
        """Batches of the samples in `order`, in that order, as `Batches.epoch` gives them, and shown."""
        view, mix = self.view, self.view.mix
        if mix is None:
            for pixels, labels, indices in self.batches.epoch(order, batch_size, device):
                known = None if self.classes is None else labels
                if self.variant is None:
                    yield Batch(view.show(pixels, indices, epoch), known, indices)
                else:
                    yield Batch(view.as_variant(pixels, self.variant), known, indices)
            return
        pairs = (
            self.batches.epoch(samples, batch_size, device)
            for samples in (order, view.partners(order, epoch, self.pool))
        )
        for own, other in zip(*pairs, strict=True):
            shown, partners = (view.show(pixels, indices, epoch) for pixels, _, indices in (own, other))
            pixels, share = mix.mix(shown, partners, view.drawn(mix, epoch, own[2]))
            labels, others = (F.one_hot(labels, self.classes).float() for _, labels, _ in (own, other))
            yield Batch(pixels, torch.lerp(others, labels, share[:, None]), own[2])


class Augmented:
    """A loader of samples as a view shows them, with copies that are shown otherwise: the second input.

    Args:
        shown: the loader of the view.
        views: of each candidate, a `copy` of that view.
        alike: whether all samples of a batch are shown by the draws of its first one, and mixed with others
            of the batch; else each by its own, and mixed with any of the pool.
    """

    def __init__(self, shown: Shown, views: tuple[View, ...], alike: bool = False) -> None:
        self.shown, self.views, self.alike = shown, views, alike

    def epoch(
        self, order: NDArray[np.int64], batch_size: int, device: torch.device | str, epoch: int = 0
    ) -> Iterator[Batch]:
        """As `Shown.epoch`."""
        at_once = batch_size
        if not self.alike:  # then several batches at once cost less
            piece = GROUPED if any(view.grouped for view in self.views) else GATHERED
            at_once *= max(1, piece // (batch_size * self.shown.batches.sample_bytes))
        partners = [self._partners(view, order, at_once, device, epoch) for view in self.views]
        for own, *others in zip(self.shown.epoch(order, at_once, device, epoch), *partners, strict=True):
            copies = [
                self._copy(view, own, other, epoch) for view, other in zip(self.views, others, strict=True)
            ]
            parts = zip(*(of.split(batch_size) for of in (*own[:3], *copies)), strict=True)
            for pixels, targets, indices, *candidates in parts:
                yield Batch(pixels, targets, indices, augmented=torch.cat(candidates))

    def _partners(
        self, view: View, order: NDArray[np.int64], size: int, device: torch.device | str, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor] | None]:
        """Pixels and indices of whom samples are mixed with, as the original view shows them."""
        if view.mix is None or view.of is None or self.alike:
            return iter([None] * math.ceil(len(order) / size))
        others = view.partners(order, epoch, self.shown.pool)
        batches = self.shown.epoch(others, size, device, epoch)
        return ((batch.pixels, batch.indices) for batch in batches)

    def _copy(self, view: View, own: Batch, other: tuple[Tensor, Tensor] | None, epoch: int) -> Tensor:
        if view.of is None:
            return own.pixels
        if not self.alike:
            seen = view.show_copy(own.pixels, own.indices, epoch)
            if view.mix is None:
                return seen
            partners = view.show_copy(*other, epoch)
            return view.mix.mix(seen, partners, view.drawn(view.mix, epoch, own.indices))[0]
        first = own.indices[:1].expand(len(own.indices))
        seen = view.show_copy(own.pixels, first, epoch)
        if view.mix is None:
            return seen
        # A rotation, so that none is mixed with itself.
        random = float(uniform(view.seed, epoch, own.indices[:1], 1, PARTNER))
        partners = seen.roll(1 + int(random * (len(seen) - 1)), 0)
        return view.mix.mix(seen, partners, view.drawn(view.mix, epoch, first))[0]
