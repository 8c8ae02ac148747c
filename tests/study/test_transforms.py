"""Transforms against torchvision, brute force and closed forms, and how a study names them."""

import hashlib
import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from scipy import special, stats

from study import transforms
from study.models.timm_import import torchvision
from study.transforms import (
    TRANSFORMS,
    AnyTransform,
    AugMix,
    AutoAugment,
    ColorJitter,
    CutMix,
    Cutout,
    Flip,
    Grayscale,
    Mix,
    Mixup,
    RandAugment,
    ResizedCrop,
    Shift,
    Transform,
    TrivialAugmentWide,
    dump,
    parse,
)

functional = torchvision.transforms.functional
every = pytest.mark.parametrize("transform", [kind() for kind in TRANSFORMS.values()], ids=list(TRANSFORMS))
MASK, GOLDEN = (1 << 64) - 1, 0x9E3779B97F4A7C15
OWN = """
from study.transforms import Transform

class Dim(Transform):
    numbers = 1
    least: float = 0.5
    p: float = 1.0

class Unsaid(Transform):
    pass
"""


def rand(*shape, seed=0):
    """float32 in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def images(count, channels=3, height=9, width=12, dtype=torch.uint8, seed=1):
    """[count, channels, height, width] in [0, 255], black and white pixels among them."""
    pixels = (rand(count, channels, height, width, seed=seed) * 300 - 20).clamp(0, 255)
    return pixels.round().to(dtype) if dtype == torch.uint8 else pixels.to(dtype)


def shown(transform, pixels, random, partners=None):
    """What a transform, or a mixture with the partners, makes of samples with these random numbers."""
    drawn = transform.draw(random)
    if isinstance(transform, Mix):
        return transform.mix(pixels, pixels.flip(3) if partners is None else partners, drawn)[0]
    return transform.show(pixels, drawn)


def mistake(value):
    """The sentence in which `parse` refuses."""
    with pytest.raises(ValueError) as error:
        parse(value)
    return str(error.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The file of a module of one's own, `own_transforms`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_transforms", raising=False)
    file = tmp_path / "own_transforms.py"
    file.write_text(OWN)
    yield file
    sys.modules.pop("own_transforms", None)


# What all have in common.


def test_no_two_share_a_random_number():
    taken = [kind.stream + k for kind in TRANSFORMS.values() for k in range(kind.numbers)]
    assert len(set(taken)) == len(taken)
    assert max(taken) < 1024  # where those of one's own begin


def test_streams_of_ones_own_follow_from_the_name():
    first = type("Dim", (Transform,), {})
    assert first.stream == 1024 + 64 * (0x0FEE3105 % 2**20)
    assert first.stream == type("Dim", (Mix,), {}).stream != type("Dimmer", (Flip,), {}).stream
    assert type("Said", (Transform,), {"stream": 7}).stream == 7


@every
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_range_stay_and_the_input_is_left_alone(transform, dtype, channels):
    pixels = images(40, channels, dtype=dtype)
    seen = shown(transform, pixels, rand(40, transform.numbers))
    assert seen.shape == pixels.shape
    assert seen.dtype == dtype
    assert seen.min() >= 0
    assert seen.max() <= 255
    assert torch.equal(pixels, images(40, channels, dtype=dtype))
    assert shown(transform, pixels[:0], rand(0, transform.numbers)).shape == pixels[:0].shape


@every
@settings(max_examples=10)
@given(st.lists(st.integers(0, 19), min_size=1, max_size=8), st.sampled_from([torch.uint8, torch.float32]))
def test_a_sample_is_shown_alike_in_any_batch(transform, chosen, dtype):
    pixels, random = images(20, dtype=dtype), rand(20, transform.numbers)
    whole = shown(transform, pixels, random)
    assert torch.equal(shown(transform, pixels[chosen], random[chosen]), whole[chosen])


@every
def test_memory_format_and_size_of_batch_change_no_bit_of_large_samples(transform):
    pixels, random = images(5, height=224, width=224, dtype=torch.float32), rand(5, transform.numbers)
    whole = shown(transform, pixels.contiguous(memory_format=torch.channels_last), random)
    alone = [shown(transform, *sample) for sample in zip(pixels.split(1), random.split(1), strict=True)]
    assert torch.equal(torch.cat(alone), whole)


@every
def test_variants_are_all_that_is_drawn(transform):
    drawn = transform.draw(rand(2000, transform.numbers))
    assert len(drawn) == 2000
    if transform.variants is None:
        assert drawn.is_floating_point()
    else:
        assert drawn.shape == (2000,)
        assert drawn.unique().tolist() == list(range(transform.variants))


@pytest.mark.parametrize(
    "transform",
    [
        Shift(pixels=0),
        ResizedCrop(scale=(1, 1), ratio=(4 / 3, 4 / 3)),
        ColorJitter(p=0),
        ColorJitter(brightness=0, contrast=0, saturation=0, hue=0, p=1),
        Grayscale(p=0),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_where_nothing_is_to_happen_nothing_does(transform, dtype):
    pixels, random = images(50, dtype=dtype), rand(50, transform.numbers)
    random[0] = 0  # not even where the least number is drawn
    difference = shown(transform, pixels, random).float() - pixels.float()
    assert difference.abs().max() <= (1e-3 if isinstance(transform, ResizedCrop) else 0)


# Flip, shift and resized crop, as they were before they were classes.


def uniform(indices, first, count):
    """Samples' random numbers at seed 3, epoch 1, by SplitMix64 in whole numbers, float32 [batch, count]."""

    def split(state):
        z = (state + GOLDEN) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    states = [split(split(split(split(i) + 3)) + 1) for i in indices]
    rows = [[split((s + k * GOLDEN) & MASK) >> 40 for k in range(first, first + count)] for s in states]
    return torch.tensor(rows) / (1 << 24)


def before(transform):
    """Six samples, and the random numbers that they had before."""
    pixels = (torch.arange(6 * 3 * 8 * 10) * 37 % 251).reshape(6, 3, 8, 10)
    return pixels, uniform(range(0, 42, 7), transform.stream, transform.numbers)


@pytest.mark.parametrize(
    ("transform", "digest"),
    [
        (Flip(), "cd82ff27b9d1d883"),
        (Shift(), "b1eb2c60082cb9fa"),
        (Shift(pixels=1), "672f336946606586"),
    ],
    ids=str,
)
def test_flip_and_shift_show_what_they_always_showed(transform, digest):
    pixels, random = before(transform)
    seen = shown(transform, pixels.to(torch.uint8), random)
    assert hashlib.sha256(seen.contiguous().numpy().tobytes()).hexdigest()[:16] == digest


def test_resized_crop_shows_what_it_always_showed():
    pixels, random = before(ResizedCrop())
    assert transforms._boxes(random, 8, 10, (0.35, 1.0), (3 / 4, 4 / 3)).tolist() == [
        [1, 3, 6, 6],
        [1, 0, 7, 10],
        [0, 0, 8, 9],
        [1, 0, 7, 7],
        [1, 3, 6, 6],
        [2, 2, 6, 6],
    ]
    torch.testing.assert_close(
        shown(ResizedCrop(), pixels.float(), random)[:, 1, 3, 4:7],
        torch.tensor(
            [
                [185.975, 76.4, 54.675],
                [112.9375, 149.9375, 186.9375],
                [124.35, 157.65, 190.95],
                [111.8, 137.7, 158.1094],
                [133.0, 136.375, 152.3],
                [65.275, 87.475, 109.675],
            ]
        ),
        atol=1e-3,
        rtol=0,
    )


def test_flip_mirrors_where_its_number_is_below_one_half():
    pixels, random = images(200), rand(200, 1)
    seen = shown(Flip(), pixels, random)
    mirrored = random[:, 0] < 0.5
    assert torch.equal(seen[mirrored], pixels[mirrored].flip(3))
    assert torch.equal(seen[~mirrored], pixels[~mirrored])
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("largest", [1, 2])
def test_shift_equals_a_loop(largest):
    steps, pixels = 2 * largest + 1, images(1, 2, 5, 6)
    for variant in range(steps**2):
        seen = Shift(pixels=largest).show(pixels, torch.tensor([variant]))
        up, left = variant // steps - largest, variant % steps - largest
        moved = torch.zeros_like(pixels)
        for y, x in itertools.product(range(5), range(6)):
            if 0 <= y + up < 5 and 0 <= x + left < 6:
                moved[:, :, y, x] = pixels[:, :, y + up, x + left]
        assert torch.equal(seen, moved)


def test_every_shift_is_as_likely():
    drawn = Shift(pixels=1).draw(rand(3600, 2))
    assert stats.chisquare(torch.bincount(drawn)).pvalue > 1e-3
    assert Shift(pixels=50).draw(torch.full((1, 2), 1 - 2**-24)).item() == 101**2 - 1


def boxes_of(count, height, width, scale, ratio):
    random = rand(count, ResizedCrop.numbers)
    return transforms._boxes(random, height, width, scale, ratio).numpy()


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted),
)
def test_boxes_lie_in_the_image(height, width, scale, ratio):
    top, left, rows, columns = boxes_of(50, height, width, scale, ratio).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (rows >= 1).all()
    assert (columns >= 1).all()
    assert (top + rows <= height).all()
    assert (left + columns <= width).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    scale, ratio, count = (0.2, 0.9), (0.6, 1.8), 3000
    mine = boxes_of(count, height, width, scale, ratio)
    draw = torchvision.transforms.RandomResizedCrop.get_params
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([draw(torch.empty(1, height, width), scale, ratio) for _ in range(count)])
    for column in range(4):
        assert stats.ks_2samp(mine[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3


def test_where_no_box_fits_the_largest_central_one_is_taken():
    """As torchvision does: an image ten times as wide as it is high has no box of half its area at 1:1."""
    ratio = (1.0, 1.0)
    boxes = boxes_of(5, 4, 40, (0.9, 1.0), ratio)
    theirs = torchvision.transforms.RandomResizedCrop.get_params(torch.empty(1, 4, 40), (0.9, 1.0), ratio)
    assert (boxes == np.array(theirs)).all()


@pytest.mark.parametrize("crop", [ResizedCrop(scale=(0.1, 1.0), ratio=(0.5, 2.0)), ResizedCrop()], ids=str)
def test_a_box_is_cut_out_and_enlarged(crop):
    pixels, random = images(40, 3, 20, 31), rand(40, ResizedCrop.numbers)
    boxes = transforms._boxes(random, 20, 31, crop.scale, crop.ratio).tolist()
    seen = shown(crop, pixels, random)
    for image, (top, left, rows, columns), view in zip(pixels, boxes, seen, strict=True):
        box = image[None, :, top : top + rows, left : left + columns].float()
        expected = F.interpolate(box, (20, 31), mode="bilinear", align_corners=False)[0]
        assert (view - expected).abs().max() <= 0.51  # rounded to whole numbers


# Colours.


def jittered(pixels, drawn):
    """torchvision's operations on each sample, in the fixed order."""
    seen = []
    for sample, (brightness, contrast, saturation, turn) in zip(pixels / 255, drawn.tolist(), strict=True):
        image = functional.adjust_brightness(sample, brightness)
        image = functional.adjust_contrast(image, contrast)
        image = functional.adjust_saturation(image, saturation)
        seen.append(functional.adjust_hue(image, turn))
    return torch.stack(seen) * 255


@pytest.mark.parametrize("only", ["brightness", "contrast", "saturation", "hue", None])
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_equals_torchvisions_operations(only, channels):
    nothing = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    jitter = ColorJitter(**nothing | {only: 0.45} if only else {}, p=1)
    pixels, drawn = images(200, channels, dtype=torch.float32), jitter.draw(rand(200, 5))
    expected = jittered(pixels, drawn)
    assert channels == 1 or not torch.allclose(expected, pixels, atol=1)
    torch.testing.assert_close(jitter.show(pixels, drawn), expected, atol=2e-3, rtol=0)


def test_colours_of_uint8_are_rounded_once():
    pixels, random = images(50), rand(50, 5)
    floating = shown(ColorJitter(), pixels.float(), random)
    assert torch.equal(shown(ColorJitter(), pixels, random), floating.round().to(torch.uint8))
    assert (floating != floating.round()).any()


@pytest.mark.parametrize(
    ("jitter", "ranges"),
    [
        (ColorJitter(p=1), [(0.2, 1.8)] * 3 + [(-0.2, 0.2)]),
        (
            ColorJitter(brightness=3, contrast=0, saturation=1, hue=0.5, p=1),
            [(0, 4), (1, 1), (0, 2), (-0.5, 0.5)],
        ),
    ],
    ids=str,
)
def test_colour_factors_are_uniform(jitter, ranges):
    for factors, (low, high) in zip(jitter.draw(rand(4000, 5)).T.numpy(), ranges, strict=True):
        assert factors.min() >= np.float32(low)
        assert factors.max() <= np.float32(high)
        if low < high:
            assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    correlations = np.corrcoef(ColorJitter(p=1).draw(rand(4000, 5)).T)
    assert np.abs(correlations - np.eye(4)).max() < 0.07


@pytest.mark.parametrize("transform", [ColorJitter(p=0.3), Grayscale(p=0.3)], ids=str)
def test_colours_change_with_the_probability_said(transform):
    pixels = images(2000, height=2, width=2)
    changed = (shown(transform, pixels, rand(2000, transform.numbers)) != pixels).flatten(1).any(1)
    assert changed.float().mean() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("transform", [ColorJitter(p=1), Grayscale(p=1)], ids=str)
def test_grey_samples_stay_grey(transform, dtype):
    pixels = images(50, channels=1, dtype=dtype).expand(-1, 3, -1, -1)
    seen = shown(transform, pixels, rand(50, transform.numbers))
    assert torch.equal(seen, seen[:, :1].expand_as(seen))


def test_grey_equals_torchvisions():
    pixels, random = images(100, dtype=torch.float32), rand(100, 1)
    expected = functional.rgb_to_grayscale(pixels, num_output_channels=3)
    assert torch.equal(shown(Grayscale(p=1), pixels, random), expected)
    rounded = functional.rgb_to_grayscale(pixels.round(), num_output_channels=3).round()
    assert torch.equal(shown(Grayscale(p=1), pixels.round().to(torch.uint8), random).float(), rounded)
    seen, grey = shown(Grayscale(p=0.4), pixels, random), random[:, 0] < 0.4
    assert torch.equal(seen[grey], expected[grey])
    assert torch.equal(seen[~grey], pixels[~grey])


# Policies, and holes.


def fed(monkeypatch, whole, uniform, dirichlet=()):
    """Let torchvision draw these whole numbers and uniform ones, in order, and these shares."""
    whole, uniform, dirichlet = iter(whole), iter(uniform), iter(dirichlet)
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.tensor([next(whole)]))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor(next(uniform)))
    monkeypatch.setattr(torch, "_sample_dirichlet", lambda like: next(dirichlet))


def kind_and_signed(name, drawn):
    """Of a policy of torchvision: the operation that a number draws, and whether it goes both ways."""
    space = list(getattr(torchvision.transforms.v2, name)._AUGMENTATION_SPACE.values())
    place = int(drawn * len(space))
    return place, space[place][1], space[place][0](31, 9, 12) is not None


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_equals_torchvisions(monkeypatch, channels):
    pixels, random = images(60, channels), rand(60, 8)
    seen = RandAugment(operations=3, magnitude=17).show(pixels, random)
    for sample, numbers, mine in zip(pixels, random, seen, strict=True):
        chosen = [kind_and_signed("RandAugment", float(numbers[2 * k])) for k in range(3)]
        ways = [float(numbers[2 * k + 1]) for k in range(3) if chosen[k][1]]
        fed(monkeypatch, [place for place, *_ in chosen], ways)
        theirs = torchvision.transforms.v2.RandAugment(3, 17)
        assert torch.equal(mine, theirs(sample))


def test_trivialaugment_equals_torchvisions(monkeypatch):
    pixels, random = images(90), rand(90, 3)
    seen = TrivialAugmentWide().show(pixels, random)
    theirs = torchvision.transforms.v2.TrivialAugmentWide()
    for sample, (which, way, much), mine in zip(pixels, random.tolist(), seen, strict=True):
        place, signed, has_magnitude = kind_and_signed("TrivialAugmentWide", which)
        fed(monkeypatch, [place, int(much * 31)][: 1 + has_magnitude], [way][: int(signed)])
        assert torch.equal(mine, theirs(sample))


def test_augmix_equals_torchvisions_up_to_rounding(monkeypatch):
    pixels, random = images(40), rand(40, AugMix.numbers)
    seen = AugMix().show(pixels, random)
    theirs = torchvision.transforms.v2.AugMix()
    for sample, numbers, mine in zip(pixels, random, seen, strict=True):
        places, whole, ways = numbers[:27].reshape(3, 3, 3), [], []
        for chain in range(3):
            whole.append(1 + int(numbers[27 + chain] * 3))
            for which, way, much in places[chain, : whole[-1]].tolist():
                place, signed, has_magnitude = kind_and_signed("AugMix", which)
                whole += [place, int(much * 3)][: 1 + has_magnitude]
                ways += [way][: int(signed)]
        weights = -torch.log1p(-numbers[30:33])
        own = torch.stack([1 - numbers[33], numbers[33]])[None]
        fed(monkeypatch, whole, ways, [own, (weights / weights.sum())[None]])
        assert (theirs(sample).int() - mine.int()).abs().max() <= 1


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_autoaugment_equals_torchvisions(monkeypatch, policy):
    v2 = torchvision.transforms.v2
    pixels, random = images(60), rand(60, 5)
    seen = AutoAugment(policy=policy).show(pixels, random)
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
    for sample, numbers, mine in zip(pixels, random.tolist(), seen, strict=True):
        chosen = int(numbers[0] * len(theirs._policies))
        uniform = []
        for place, (name, p, level) in enumerate(theirs._policies[chosen]):
            uniform.append(numbers[1 + place])
            if uniform[-1] <= p and level is not None and theirs._AUGMENTATION_SPACE[name][1]:
                uniform.append(numbers[3 + place])
        fed(monkeypatch, [chosen], uniform)
        assert torch.equal(mine, theirs(sample))


@pytest.mark.parametrize("fill", [0.5, (0, 0.4, 1)])
def test_cutout_equals_a_loop(fill):
    pixels, drawn = images(60), rand(60, 2)
    seen = Cutout(side=5, fill=fill).show(pixels, drawn)
    for sample, (y, x), mine in zip(pixels.clone(), drawn.tolist(), seen, strict=True):
        top, left = int(y * 9) - 2, int(x * 12) - 2
        for row, column in itertools.product(range(top, top + 4), range(left, left + 4)):
            if 0 <= row < 9 and 0 <= column < 12:
                sample[:, row, column] = (255 * torch.tensor(fill)).round().to(torch.uint8)
        assert torch.equal(mine, sample)


# Mixtures.


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4, 1.0, 2.0, 8.0])
def test_shares_are_distributed_as_beta(alpha):
    random = rand(20_000, 3)
    shares = Mixup(alpha=alpha).draw(random).double().numpy()
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.015)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    drawn = CutMix(alpha=alpha).draw(random)
    assert np.array_equal(shares, drawn[:, 0].double().numpy())
    assert torch.equal(drawn[:, 1:], random[:, 1:])  # where the centre lies


@given(st.floats(0.01, 100), st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=1, max_size=9))
def test_a_share_is_the_quantile_of_a_number_off_by_less_than_a_cell(alpha, numbers):
    numbers = torch.tensor(numbers, dtype=torch.float32).clamp(max=1 - 2**-24)
    shares = transforms._beta(numbers, alpha).double().numpy()
    cells = numbers.double().numpy() * transforms.CELLS
    rounding = 2**-23
    assert (shares >= special.betaincinv(alpha, alpha, np.floor(cells) / transforms.CELLS) - rounding).all()
    assert (shares <= special.betaincinv(alpha, alpha, np.ceil(cells) / transforms.CELLS) + rounding).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4])
def test_shares_of_the_usual_mixup_are_quantiles_up_to_rounding(alpha):
    random = rand(5000, 1)
    exact = special.betaincinv(alpha, alpha, random[:, 0].double().numpy())
    np.testing.assert_allclose(Mixup(alpha=alpha).draw(random).numpy(), exact, atol=2e-7)


def test_beta_of_one_is_the_number_itself():
    random = torch.cat([rand(100_000), torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24])])
    assert torch.equal(transforms._beta(random, 1.0), random)


def test_mixup_equals_a_loop():
    pixels, partners = images(60, dtype=torch.float32), images(60, dtype=torch.float32, seed=2)
    shares = Mixup().draw(rand(60, 1))
    mixed, own = Mixup().mix(pixels, partners, shares)
    assert torch.equal(own, shares)
    assert own.unique().numel() == 60  # a share for each sample
    for x, y, share, seen in zip(pixels.double(), partners.double(), shares.tolist(), mixed, strict=True):
        assert (seen - (share * x + (1 - share) * y)).abs().max() < 1e-4
    whole = Mixup().mix(pixels.round().to(torch.uint8), partners.round().to(torch.uint8), shares)[0]
    floating = Mixup().mix(pixels.round(), partners.round(), shares)[0]
    assert torch.equal(whole, floating.round().to(torch.uint8))


@given(*[st.lists(st.floats(0, 255, width=32), min_size=4, max_size=4)] * 2, st.floats(0, 1, width=32))
def test_mixtures_stay_between_black_and_white(own, partner, share):
    own, partner = (torch.tensor(values).reshape(1, 1, 2, 2) for values in (own, partner))
    mixed, _ = Mixup().mix(own, partner, torch.tensor([share]))
    assert ((mixed >= 0) & (mixed <= 255)).all()
    assert torch.equal(Mixup().mix(own, own, torch.tensor([share]))[0], own)


@pytest.mark.parametrize("mixture", [Mixup(), CutMix()], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_whole_share_leaves_a_sample_as_it_is(mixture, dtype):
    pixels, drawn = images(20, dtype=dtype), mixture.draw(rand(20, mixture.numbers))
    drawn.view(20, -1)[:, 0] = 1
    mixed, own = mixture.mix(pixels, images(20, dtype=dtype, seed=2), drawn)
    assert torch.equal(mixed, pixels)
    assert (own == 1).all()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (1, 3)])
def test_cutmix_equals_a_loop(height, width):
    own, partner = torch.zeros(200, 3, height, width), torch.ones(200, 3, height, width)
    drawn = CutMix().draw(rand(200, 3))
    mixed, shares = CutMix().mix(own, partner, drawn)
    for seen, share, (wanted, *centre) in zip(mixed, shares.tolist(), drawn.tolist(), strict=True):
        expected, ranges = torch.zeros(height, width), []
        for place, size in zip(centre, (height, width), strict=True):
            side = round(size * math.sqrt(1 - wanted))
            first = math.floor(place * size) - side // 2
            ranges.append([k for k in range(first, first + side) if 0 <= k < size])
        for y, x in itertools.product(*ranges):
            expected[y, x] = 1
        assert torch.equal(seen, expected.expand(3, -1, -1))
        assert share == pytest.approx(1 - expected.mean().item(), abs=1e-6)


def test_area_of_boxes_has_its_closed_form():
    """Of a side t, centre uniform, t - t²/4 is inside on average; t² is uniform: 77/240 of the area."""
    black = torch.zeros(1, 1, 64, 64)
    _, shares = CutMix().mix(black, black, CutMix().draw(rand(5000, 3)))
    assert 1 - shares.mean() == pytest.approx(77 / 240, abs=0.01)
    assert CutMix().mix(black, black, torch.tensor([[0.75, 0.5, 0.5]]))[1] == 0.75


# How a study names them.


@pytest.mark.parametrize(
    ("value", "transform"),
    [
        ("flip", Flip()),
        ({"flip": {}}, Flip()),
        ("shift", Shift(pixels=2)),
        ({"shift": 3}, Shift(pixels=3)),
        ({"shift": {"pixels": 1}}, Shift(pixels=1)),
        ({"resized_crop": [0.5, 1]}, ResizedCrop(scale=(0.5, 1.0))),
        ({"resized_crop": {"ratio": [1, 1]}}, ResizedCrop(ratio=(1.0, 1.0))),
        ({"color_jitter": {"hue": 0.1, "p": 1}}, ColorJitter(hue=0.1, p=1)),
        ({"grayscale": 0.5}, Grayscale(p=0.5)),
        ({"mixup": 1}, Mixup(alpha=1)),
        ("study.transforms.CutMix", CutMix()),
        (Mixup(alpha=3), Mixup(alpha=3)),
    ],
    ids=str,
)
def test_names_and_settings_round_trip(value, transform):
    assert parse(value) == transform
    assert parse(json.loads(json.dumps(dump(transform)))) == transform


def test_what_is_dumped_is_canonical():
    assert dump(Flip()) == {"flip": {}}
    crop = {"scale": [0.5, 1.0], "ratio": [3 / 4, 4 / 3]}
    assert dump(parse({"resized_crop": [0.5, 1]})) == {"resized_crop": crop}
    same = [{"mixup": 1}, {"mixup": 1.0}, {"mixup": {"alpha": 1}}, {"study.transforms.Mixup": 1}]
    assert {json.dumps(dump(parse(value))) for value in same} == {'{"mixup": {"alpha": 1.0}}'}


def test_ones_own_is_named_with_its_code(own):
    found = parse({"own_transforms.Dim": 0.25})
    code = hashlib.sha256(own.read_bytes()).hexdigest()[:16]
    assert dump(found) == {"own_transforms.Dim": {"least": 0.25, "p": 1.0, "code": code}}
    assert parse(dump(found)) == found
    own.write_text(OWN + "# changed\n")
    assert dump(found)["own_transforms.Dim"]["code"] != code
    assert parse("own_transforms.Dim") == type(found)()


NO_TRANSFORM = "is no transform; name a subclass of Transform that says its `numbers`"
NOT_ONE = "give one transform, by its name or as in {shift: 2} (it says"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "flop",
            f"'flop' is unknown; known are {', '.join(TRANSFORMS)}, and your own by 'module.name'; "
            "did you mean 'flip'?",
        ),
        (
            "nowhere.Flip",
            "'nowhere.Flip' cannot be imported (No module named 'nowhere'); "
            "put its module where Python finds it",
        ),
        (
            "study.transforms.Flop",
            "'study.transforms.Flop': the module study.transforms has no 'Flop' to call; correct the name",
        ),
        ("study.transforms.Mix", f"'study.transforms.Mix' {NO_TRANSFORM}"),
        ("math.sqrt", f"'math.sqrt' {NO_TRANSFORM}"),
        ({"flip": {}, "shift": 2}, f"{NOT_ONE} {{'flip': {{}}, 'shift': 2}})"),
        ({}, f"{NOT_ONE} {{}})"),
        ({2: 3}, f"{NOT_ONE} {{2: 3}})"),
        (None, f"{NOT_ONE} None)"),
    ],
    ids=str,
)
def test_what_names_no_transform_is_told_in_a_sentence(value, sentence):
    assert mistake(value) == sentence


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("flip", 1, "has no settings; give its name alone"),
        ("flip", {"p": 1}, "has no settings; give its name alone"),
        ("shift", -1, "pixels: input should be greater than or equal to 0 (it says -1)"),
        ("shift", None, "pixels: input should be a valid integer (it says None)"),
        ("shift", {"pixel": 2}, "pixel: unknown key; did you mean 'pixels'?"),
        ("shift", {"code": "1234"}, "code: unknown key; known are pixels"),
        ("resized_crop", [0, 1], "scale: give the least and the largest share of the area, between 0 and 1"),
        (
            "resized_crop",
            [0.5, 1.5],
            "scale: give the least and the largest share of the area, between 0 and 1",
        ),
        ("resized_crop", {"ratio": [2, 1]}, "ratio: give the least and the largest ratio, both above 0"),
        ("resized_crop", 0.5, "scale: input should be a valid tuple (it says 0.5)"),
        ("color_jitter", {"hue": 0.6}, "hue: input should be less than or equal to 0.5 (it says 0.6)"),
        ("color_jitter", -1, "brightness: input should be greater than or equal to 0 (it says -1)"),
        ("grayscale", 2, "p: input should be less than or equal to 1 (it says 2)"),
        ("mixup", 0, "alpha: input should be greater than 0 (it says 0)"),
        ("cutmix", float("inf"), "alpha: input should be a finite number (it says inf)"),
        ("cutmix", {"sides": "odd"}, "sides: input should be 'rounded' or 'even' (it says 'odd')"),
        ("autoaugment", "cifar", "policy: input should be 'cifar10', 'imagenet' or 'svhn' (it says 'cifar')"),
        ("randaugment", 5, "operations: input should be less than or equal to 4 (it says 5)"),
    ],
    ids=str,
)
def test_what_is_wrong_with_settings_is_told_in_a_sentence(name, settings, sentence):
    assert mistake({name: settings}) == f"{name}: {sentence}"


def test_mistakes_in_ones_own_are_told_too(own):
    assert mistake("own_transforms.Unsaid").startswith("'own_transforms.Unsaid' is no transform; ")
    assert mistake({"own_transforms.Dim": {"code": "old", "leats": 1}}) == (
        "own_transforms.Dim: leats: unknown key; did you mean 'least'?"
    )


def test_models_hold_them_as_fields():
    class Shows(BaseModel):
        transforms: tuple[AnyTransform, ...] = ()

    shows = Shows(transforms=["flip", {"shift": 1}])
    assert shows.transforms == (Flip(), Shift(pixels=1))
    assert shows.model_dump(mode="json") == {"transforms": [{"flip": {}}, {"shift": {"pixels": 1}}]}
    assert Shows.model_validate_json(shows.model_dump_json()) == shows
    with pytest.raises(ValidationError, match="shift: pixels: input should be greater"):
        Shows(transforms=[{"shift": -2}])
