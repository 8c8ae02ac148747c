"""What happens to a sample that is shown: each transform one class, on whole batches, on their device.

A transform is given the random numbers of each sample, which `study.views` draws from (seed, epoch, index) alone.
Its fields are what YAML may set: `flip`, `{shift: 2}` (the first field), `{resized_crop: {scale: [0.35, 1]}}`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from study.contract import Strict


class Transform(Strict):
    """What happens to the samples of a batch.

    Attributes:
        stream: the first of its random numbers among a sample's, so that none shares any with another one.
        numbers: how many it takes of each sample.
        variants: in how many ways it may show a sample, if `draw` gives whole numbers below that; None if
            there are no such few.
    """

    stream: ClassVar[int]
    numbers: ClassVar[int]

    @property
    def variants(self) -> int | None:
        return None

    def draw(self, random: Tensor) -> Tensor:
        """What is to happen: from float32 [batch, numbers] in [0, 1) to what `show` takes, [batch, ...]."""
        return random

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Samples as shown.

        Args:
            pixels: [batch, channels, height, width], uint8 or floating, in [0, 255].
            drawn: what `draw` gave, [batch, ...].

        Returns:
            Like `pixels`.
        """
        raise NotImplementedError


class Mix(Transform):
    """A transform that mixes each sample with a partner, and with it their labels."""

    def mix(self, pixels: Tensor, partners: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed samples, like `pixels`, and the share of each that is its own, float32 [batch] in [0, 1].

        Args:
            pixels, partners: [batch, channels, height, width], as the transforms before show them.
            drawn: what `draw` gave, [batch, ...].
        """
        raise NotImplementedError
