"""What happens to a sample that is shown: each transform one class, on whole batches, on their device.

A transform is given the random numbers of each sample, which `study.views` draws from (seed, epoch, index)
alone, and does the same to a sample in whatever batch it comes. Its fields are what YAML may set: `flip`,
`{shift: 2}` (the first field), `{resized_crop: {scale: [0.35, 1]}}`. One's own is a subclass of `Transform`
or `Mix`, by its dotted name.

Colours follow SimCLR (Chen et al. 2020, arXiv 2002.05709, App. A) in torchvision's operations, mixtures mixup
(Zhang et al. 2018, arXiv 1710.09412, section 2) and CutMix (Yun et al. 2019, arXiv 1905.04899, section 3.1).
Left out on purpose: blur, operations in a random order, and mixtures of one share for a whole batch.
"""

from __future__ import annotations

import functools
import inspect
import math
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator
from torch import Tensor

from study import mistakes, policies
from study.contract import Positive, Share, Strict, code_of, find

CANDIDATES = 10  # boxes drawn for a random resized crop, as torchvision does, before it takes the centre
CELLS = 1 << 14  # of the table of a Beta distribution's quantiles
FIXED = 1 << 16  # steps of a grey level in which means are summed

Strength = Annotated[float, Field(ge=0)]


class Transform(Strict):
    """What happens to the samples of a batch.

    Attributes:
        stream: the first of its random numbers among a sample's, so that none shares any with another one;
            a class that does not say it has one of its own, by its name.
        numbers: how many it takes of each sample.
        grouped: whether samples with equal draws are shown together, so that many at once cost less.
        variants: in how many ways it may show a sample, if `draw` gives whole numbers below that; None if
            there are no such few.
    """

    stream: ClassVar[int]
    numbers: ClassVar[int]
    grouped: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "stream" not in cls.__dict__:
            cls.stream = 1024 + 64 * (zlib.crc32(cls.__name__.encode()) % 2**20)

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


class Flip(Transform):
    """Mirrored left to right with probability one half."""

    stream = 0
    numbers = 1

    @property
    def variants(self) -> int:
        return 2

    def draw(self, random: Tensor) -> Tensor:
        """int64 [batch], 1 where a sample is mirrored."""
        return (random[:, 0] < 0.5).long()

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return torch.where(_of_each(drawn == 1), pixels.flip(3), pixels)


class Shift(Transform):
    """Moved by up to `pixels` either way in both directions, uniform over whole pixels, zeros drawn in."""

    stream = 1
    numbers = 2

    pixels: int = Field(default=2, ge=0)

    @property
    def variants(self) -> int:
        return (2 * self.pixels + 1) ** 2

    def draw(self, random: Tensor) -> Tensor:
        """int64 [batch]: steps up times (2 * `pixels` + 1) plus steps left, from furthest down and right."""
        up, left = (random * (2 * self.pixels + 1)).long().unbind(1)
        return up * (2 * self.pixels + 1) + left

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        steps = 2 * self.pixels + 1
        return _shifted(pixels, torch.stack([drawn // steps, drawn % steps], dim=1), self.pixels)


class ResizedCrop(Transform):
    """Random resized crops: `scale` is the least and largest share of the area kept, `ratio` the least and
    largest ratio of width to height.
    """

    stream = 3
    numbers = 2 * CANDIDATES + 2

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _in_order(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("scale: give the least and the largest share of the area, between 0 and 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio: give the least and the largest ratio, both above 0")
        return self

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return _resized_crop(pixels, _boxes(drawn, *pixels.shape[2:], self.scale, self.ratio))


class ColorJitter(Transform):
    """With probability `p` another brightness, contrast, saturation and hue: with `Grayscale` SimCLR's colour
    distortion, at strength 1 as in the paper's own runs.

    The first three change by a factor uniform in [max(0, 1 - x), 1 + x], hue turns by up to `hue` of the
    circle either way, always in this order (torchvision draws the order). Each operation is torchvision's on
    floating pixels; uint8 is rounded once, at the end. Samples of one channel have no saturation and no hue.
    """

    stream = 64
    numbers = 5

    brightness: Strength = 0.8
    contrast: Strength = 0.8
    saturation: Strength = 0.8
    hue: float = Field(default=0.2, ge=0, le=0.5)
    p: Share = 0.8

    def draw(self, random: Tensor) -> Tensor:
        """float32 [batch, 4]: three factors and a turn; 1, 1, 1, 0 where nothing changes."""
        changed = random[:, 4] < self.p
        factors = [
            torch.where(changed, max(0.0, 1 - x) + min(2 * x, 1 + x) * random[:, k], 1.0)
            for k, x in enumerate((self.brightness, self.contrast, self.saturation))
        ]
        turn = torch.where(changed, self.hue * (2 * random[:, 3] - 1), 0.0)
        return torch.stack([*factors, turn], dim=1)

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        brightness, contrast, saturation, turn = map(_of_each, drawn.unbind(1))
        seen = (pixels.float() * brightness).clamp(0, 255)
        # The sum of whole numbers is the same in any order, so in any batch and on any device.
        total = (_grey(seen) * FIXED).round().long().sum((1, 2, 3)).double()
        mean = (total / (FIXED * math.prod(pixels.shape[2:]))).float()
        seen = _blended(seen, _of_each(mean), contrast)
        if seen.shape[1] > 1:
            seen = _blended(seen, _grey(seen), saturation)
            seen = torch.where(turn == 0, seen, _turned(seen, turn))
        return _like(pixels, seen)


class Grayscale(Transform):
    """All three channels the sample's luma, with probability `p`."""

    stream = 80
    numbers = 1

    p: Share = 0.2

    @property
    def variants(self) -> int:
        return 2

    def draw(self, random: Tensor) -> Tensor:
        """int64 [batch], 1 where a sample is made grey."""
        return (random[:, 0] < self.p).long()

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return torch.where(_of_each(drawn == 1), _like(pixels, _grey(pixels.float())), pixels)


class Cutout(Transform):
    """Cutout (DeVries and Taylor 2017, arXiv 1708.04552): a square of `side` pixels, its centre anywhere, is
    filled; the image's edges clip it. `fill` is a share of white, one or one a channel: with the data's mean,
    zeros after normalisation, as in the authors' runs.
    """

    stream = 144
    numbers = 2

    side: int = Field(default=8, ge=1)
    fill: Share | tuple[Share, Share, Share] = 0.5

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        inside = []
        for centre, size in zip(drawn.unbind(1), pixels.shape[2:], strict=True):
            first = (centre * size).floor() - self.side // 2
            place = torch.arange(size, device=pixels.device)
            inside.append((place >= first[:, None]) & (place < first[:, None] + self.side // 2 * 2))
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        colour = 255 * torch.tensor(self.fill, device=pixels.device).reshape(-1, 1, 1)
        return torch.where(hole, _like(pixels, colour), pixels)


class AutoAugment(Transform):
    """One of a policy's 25 pairs of operations (`study.policies.auto`)."""

    stream = 160
    numbers = 5
    grouped = True

    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return policies.auto(_whole(pixels), drawn, self.policy).to(pixels.dtype)


class RandAugment(Transform):
    """So many `operations` in a row, each of the same `magnitude` of 30 (`study.policies.rand`)."""

    stream = 192
    numbers = 8
    grouped = True

    operations: int = Field(default=2, ge=1, le=4)
    magnitude: int = Field(default=9, ge=0, le=30)

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return policies.rand(_whole(pixels), drawn, self.operations, self.magnitude).to(pixels.dtype)


class TrivialAugmentWide(Transform):
    """One operation of any magnitude (`study.policies.trivial`)."""

    stream = 224
    numbers = 3
    grouped = True

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return policies.trivial(_whole(pixels), drawn).to(pixels.dtype)


class AugMix(Transform):
    """A mixture of the image and of three short chains of operations (`study.policies.augmix`)."""

    stream = 256
    numbers = 3 * policies.WIDTH * policies.DEPTH + 2 * policies.WIDTH + 1
    grouped = True

    def show(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        return policies.augmix(_whole(pixels), drawn).to(pixels.dtype)


class Mixup(Mix):
    """mixup: each sample blended with its partner, its own share drawn from Beta(`alpha`, `alpha`)."""

    stream = 96
    numbers = 1

    alpha: Positive = 0.2

    def draw(self, random: Tensor) -> Tensor:
        """float32 [batch], the samples' own shares."""
        return _beta(random[:, 0], self.alpha)

    def mix(self, pixels: Tensor, partners: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        own = pixels.float()
        # So written, a sample of share 1 is itself to the bit, and none leaves [0, 255] by rounding.
        return _like(pixels, own + _of_each(1 - drawn) * (partners.float() - own)), drawn


class CutMix(Mix):
    """CutMix: in each sample a box of its partner, its centre anywhere, its sides those of the image times
    sqrt(1 - share), with the share drawn from Beta(`alpha`, `alpha`); the image's edges clip it. Sides are
    rounded, or, with `sides: even`, cut off to even numbers of pixels, as the authors' code and torchvision's
    have them.
    """

    stream = 128
    numbers = 3

    alpha: Positive = 1.0
    sides: Literal["rounded", "even"] = Field(default="rounded", exclude_if=lambda sides: sides == "rounded")

    def draw(self, random: Tensor) -> Tensor:
        """float32 [batch, 3]: the share, and how far down and right the centre lies, in [0, 1)."""
        return torch.cat([_beta(random[:, :1], self.alpha), random[:, 1:]], dim=1)

    def mix(self, pixels: Tensor, partners: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        height, width = pixels.shape[2:]
        share, *centres = drawn.unbind(1)
        inside, areas = [], []
        for centre, size in zip(centres, (height, width), strict=True):
            side = (1 - share).sqrt() * size
            side = side.round() if self.sides == "rounded" else 2 * (side.floor() / 2).floor()
            first = (centre * size).floor() - (side / 2).floor()
            first, end = first.clamp(min=0), (first + side).clamp(max=size)
            place = torch.arange(size, device=pixels.device)
            inside.append((place >= first[:, None]) & (place < end[:, None]))
            areas.append(end - first)
        box = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return torch.where(box, partners, pixels), 1 - areas[0] * areas[1] / (height * width)


def _of_each(values: Tensor) -> Tensor:
    """[batch], to go with [batch, channels, height, width]."""
    return values[:, None, None, None]


def _like(pixels: Tensor, seen: Tensor) -> Tensor:
    """`seen`, floating, in the type of `pixels`, rounded if that holds whole numbers."""
    return (seen if pixels.is_floating_point() else seen.round()).to(pixels.dtype)


def _whole(pixels: Tensor) -> Tensor:
    """Pixels as uint8."""
    return pixels if pixels.dtype == torch.uint8 else pixels.round().to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """Luma as torchvision weighs it: floating [batch, 3 or 1, height, width] to [batch, 1, height, width]."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blended(pixels: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """`factor` times `pixels`, the rest to 1 times `other`, kept in [0, 255]."""
    return (factor * pixels + (1 - factor) * other).clamp(0, 255)


def _turned(pixels: Tensor, turn: Tensor) -> Tensor:
    """Hue turned by a share of the circle, saturation and value of HSV kept.

    Args:
        pixels: float32 [batch, 3, height, width].
        turn: float32 [batch, 1, 1, 1].
    """
    red, green, blue = pixels.split(1, dim=1)
    most = pixels.amax(1, keepdim=True)
    chroma = most - pixels.amin(1, keepdim=True)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        red == most,
        (green - blue) / divisor,
        torch.where(green == most, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # Red, green and blue fall from the value along one ramp of HSV's, 5, 3 and 1 sixths further on.
    ahead = torch.arange(5, 0, -2, device=pixels.device)[:, None, None]
    place = (sixths + 6 * turn + ahead) % 6
    return most - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


@functools.cache
def _quantiles(alpha: float, device: torch.device) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at k / CELLS, float32 [CELLS + 1]."""
    from scipy.special import betaincinv

    grid = torch.arange(CELLS + 1, dtype=torch.float64) / CELLS
    return torch.from_numpy(betaincinv(alpha, alpha, grid.numpy())).float().to(device)


def _beta(random: Tensor, alpha: float) -> Tensor:
    """Draws from Beta(alpha, alpha): quantiles of uniform numbers, read off a table.

    Between the table's entries it goes in straight lines: what is given is the quantile of a number off by
    less than 1 / CELLS, and for alpha = 1 the number itself, to the bit.

    Args:
        random: float32 in [0, 1), of any shape.

    Returns:
        Like `random`, in [0, 1].
    """
    table = _quantiles(alpha, random.device)
    cell = (random * CELLS).long()
    low, high = table[cell], table[cell + 1]
    return low + (random * CELLS - cell) * (high - low)


def _boxes(
    random: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes of random resized crops, as torchvision's `RandomResizedCrop` draws them.

    Of `CANDIDATES` boxes (area uniform, ratio uniform on a logarithmic scale, sides rounded) each sample
    takes the first that fits into the image, or else the largest central one of an allowed ratio.

    Args:
        random: float32 [batch, 2 * CANDIDATES + 2] in [0, 1).
        height, width: of the image, in pixels.
        scale, ratio: as in `ResizedCrop`.

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
    return _like(pixels, seen)


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


TRANSFORMS: dict[str, type[Transform]] = {
    "flip": Flip,
    "shift": Shift,
    "resized_crop": ResizedCrop,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "cutout": Cutout,
    "autoaugment": AutoAugment,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugmentWide,
    "augmix": AugMix,
    "mixup": Mixup,
    "cutmix": CutMix,
}


def parse(value: Any) -> Transform:
    """The transform that a study names, or that `dump` gave.

    Args:
        value: a name, or a mapping of one name to its first field's value or to its fields by name. A
            `Transform` is given back.

    Raises:
        ValueError: there is no such transform, or a setting does not fit; told in a sentence.
    """
    if isinstance(value, Transform):
        return value
    named = {value: {}} if isinstance(value, str) else value
    if not isinstance(named, Mapping) or [type(name) for name in named] != [str]:
        raise ValueError(f"give one transform, by its name or as in {{shift: 2}} (it says {value!r})")
    [(name, settings)] = named.items()
    kind = find(name, TRANSFORMS)
    if not (inspect.isclass(kind) and issubclass(kind, Transform) and hasattr(kind, "numbers")):
        raise ValueError(f"'{name}' is no transform; name a subclass of Transform that says its `numbers`")
    if name not in TRANSFORMS and isinstance(settings, Mapping):  # the code of when it was dumped
        settings = {key: setting for key, setting in settings.items() if key != "code"}
    if not kind.model_fields and settings != {}:
        raise ValueError(f"{name}: has no settings; give its name alone")
    if not isinstance(settings, Mapping):
        settings = {next(iter(kind.model_fields)): settings}
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{name}: {mistakes.first(error, kind)}") from None


def dump(transform: Transform) -> dict[str, dict[str, Any]]:
    """What identifies a transform, as JSON has it: {name: its fields}, one's own with its file's `code`."""
    kind = type(transform)
    own = f"{kind.__module__}.{kind.__qualname__}"
    name = next((short for short, known in TRANSFORMS.items() if known is kind), own)
    code = code_of(name, TRANSFORMS)
    return {name: transform.model_dump(mode="json") | ({"code": code} if code else {})}


AnyTransform = Annotated[Transform, PlainValidator(parse), PlainSerializer(dump)]
