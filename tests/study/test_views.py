"""Reproducible views: the generator against its reference, views that depend on a sample's index alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from study import transforms, views
from study.images.batches import Crop
from study.views import Shown, View

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
# The first outputs for seed 1234567, as published with the generator's reference implementation in C.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
SAMPLES = torch.arange(4096)
CROP = Crop(1.0, "center")
FEW = [(), ("flip",), ({"shift": 1},), ("flip", {"shift": 1}), ({"shift": 1}, "grayscale", "flip")]
MANY = [({"resized_crop": {"scale": [0.3, 0.8]}},), ("flip", "color_jitter")]
MIXED = [("mixup",), ("flip", {"mixup": 1.0}), ("cutmix",), ({"resized_crop": {}}, "cutmix")]


def splitmix64_of_unsigned(state):
    """SplitMix64's output for a state, in Python's whole numbers."""
    z = (state + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def as_int64(unsigned):
    """A tensor of the same bits."""
    return torch.from_numpy(np.array(unsigned, np.uint64).view(np.int64))


def images(count, channels=3, height=5, width=6):
    """uint8 [count, channels, height, width]: no two samples are alike."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def test_splitmix64_gives_the_published_numbers():
    states = [(1234567 + k * GOLDEN) & MASK for k in range(len(PUBLISHED))]
    assert torch.equal(views.splitmix64(as_int64(states)), as_int64(PUBLISHED))


@settings(deadline=None)
@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20))
def test_splitmix64_equals_whole_numbers(states):
    assert torch.equal(
        views.splitmix64(as_int64(states)), as_int64([splitmix64_of_unsigned(s) for s in states])
    )


def test_uniform_covers_the_unit_interval_evenly():
    random = views.uniform(3, 1, SAMPLES, 3)
    assert random.shape == (4096, 3)
    assert random.dtype == torch.float32
    assert random.min() >= 0
    assert random.max() < 1
    for column in random.T:
        assert column.mean() == pytest.approx(0.5, abs=0.02)
        assert stats.chisquare(np.histogram(column, bins=16, range=(0, 1))[0]).pvalue > 1e-3


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10_000), st.lists(st.integers(0, 2**62), min_size=1, max_size=9))
def test_uniform_stays_below_one_and_ignores_the_batch(seed, epoch, indices):
    random = views.uniform(seed, epoch, torch.tensor(indices), 2)
    assert ((random >= 0) & (random < 1)).all()
    alone = [views.uniform(seed, epoch, torch.tensor([index]), 2) for index in indices]
    assert torch.equal(random, torch.cat(alone))


@pytest.mark.parametrize(
    "other",
    [
        views.uniform(3, 1, SAMPLES + 1, 1),
        views.uniform(3, 1, SAMPLES + 2**32, 1),
        views.uniform(4, 1, SAMPLES, 1),
        views.uniform(3, 2, SAMPLES, 1),
        views.uniform(1, 3, SAMPLES, 1),
        views.uniform(3, 1, SAMPLES, 2)[:, 1:],
    ],
    ids=["neighbour", "far sample", "seed", "epoch", "seed and epoch swapped", "second number"],
)
def test_uniform_is_uncorrelated(other):
    random = views.uniform(3, 1, SAMPLES, 1)
    assert abs(np.corrcoef(random[:, 0], other[:, 0])[0, 1]) < 4 / len(SAMPLES) ** 0.5
    assert (random == other).float().mean() < 0.01


def test_uniform_counters_can_be_drawn_apart():
    """A transform's numbers are those of its counters, whoever draws the others."""
    whole = views.uniform(3, 1, SAMPLES[:99], 7)
    assert torch.equal(views.uniform(3, 1, SAMPLES[:99], 3, first=2), whole[:, 2:5])


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_uniform_takes_every_seed_of_a_study(seed):
    random = views.uniform(seed, 1, SAMPLES, 1)
    assert random.mean() == pytest.approx(0.5, abs=0.02)


# --- views ------------------------------------------------------------------------------------------


def view_of(names, seed=3):
    """A view with transforms as a study names them."""
    return View(CROP, tuple(map(transforms.parse, names)), seed)


@pytest.mark.parametrize("names", FEW + MANY + MIXED, ids=str)
def test_a_view_shows_a_sample_by_its_index_alone(names):
    view, pixels, indices = view_of(names), images(20), torch.arange(20) * 7
    whole = view.show(pixels, indices, 1)
    assert (whole.shape, whole.dtype) == (pixels.shape, pixels.dtype)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(view.show(pixels[order], indices[order], 1), whole[order])
    parts = zip(pixels.split(6), indices.split(6), strict=True)
    assert torch.equal(torch.cat([view.show(p, i, 1) for p, i in parts]), whole)
    assert torch.equal(view.show(pixels, indices, 1), whole)
    assert torch.equal(pixels, images(20))  # left as they were


@pytest.mark.parametrize("names", FEW[1:] + MANY, ids=str)
@pytest.mark.parametrize(("seed", "epoch"), [(4, 1), (3, 2)])
def test_a_view_changes_with_seed_and_epoch(names, seed, epoch):
    pixels, indices = images(50), torch.arange(50)
    first = view_of(names).show(pixels, indices, 1)
    other = view_of(names, seed).show(pixels, indices, epoch)
    assert (first == other).flatten(1).all(dim=1).float().mean() < 0.8


def test_a_view_shows_one_transform_after_the_other():
    view, pixels, indices = view_of(("flip", "color_jitter")), images(9), torch.arange(9)
    seen = pixels
    for transform in view.transforms:
        seen = transform.show(seen, view.drawn(transform, 2, indices))
    assert torch.equal(view.show(pixels, indices, 2), seen)


def test_a_further_transform_changes_nothing_of_the_others():
    indices = torch.arange(99)
    one, other = view_of(("flip",)), view_of(("color_jitter", {"shift": 1}, "flip", "mixup"))
    assert torch.equal(one.drawn(one.transforms[0], 5, indices), other.drawn(transforms.Flip(), 5, indices))


@pytest.mark.parametrize(
    ("names", "variants"),
    [
        ((), 1),
        (("flip",), 2),
        (({"shift": 2},), 25),
        (("flip", {"shift": 1}), 18),
        (("flip", {"shift": 1}, "grayscale"), 36),
        (("flip", "color_jitter"), None),
        (("flip", "mixup"), None),
    ],
    ids=str,
)
def test_a_view_knows_in_how_many_ways_it_shows_a_sample(names, variants):
    assert view_of(names).variants == variants


@pytest.mark.parametrize("names", FEW, ids=str)
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_sample_in_its_variant_is_the_sample_as_the_epoch_shows_it(names, epoch):
    view, pixels, indices = view_of(names), images(40), torch.arange(40) * 3
    numbers = view.variant(indices, epoch)
    assert numbers.dtype == torch.int64
    assert ((numbers >= 0) & (numbers < view.variants)).all()
    shown = view.show(pixels, indices, epoch)
    for number in range(view.variants):
        of_it = numbers == number
        assert torch.equal(view.as_variant(pixels, number)[of_it], shown[of_it])


@pytest.mark.parametrize("names", FEW[1:], ids=str)
def test_every_variant_is_another_and_comes_up(names):
    view, pixels = view_of(names), images(1)
    seen = {view.as_variant(pixels, number).numpy().tobytes() for number in range(view.variants)}
    assert len(seen) == view.variants
    assert len(view.variant(torch.arange(64 * view.variants), 0).unique()) == view.variants


# --- partners -----------------------------------------------------------------------------------------

POOL = np.sort(np.random.default_rng(0).choice(10_000, 400, replace=False)).astype(np.int64)


def test_a_partner_is_drawn_by_seed_epoch_and_index_alone():
    view = view_of(("mixup",))
    whole = view.partners(POOL, 1, POOL)
    order = np.random.default_rng(1).permutation(len(POOL))
    assert np.array_equal(view.partners(POOL[order], 1, POOL), whole[order])
    alone = [view.partners(POOL[[k]], 1, POOL)[0] for k in range(20)]
    assert np.array_equal(alone, whole[:20])
    for other in (view_of(("mixup",), 4).partners(POOL, 1, POOL), view.partners(POOL, 2, POOL)):
        assert (other == whole).mean() < 0.05
    assert np.array_equal(view_of(("flip", "cutmix")).partners(POOL, 1, POOL), whole)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(0, 2**62), st.integers(0, 99))
def test_a_partner_is_another_one_of_the_pool(size, seed, epoch):
    pool = POOL[:size]
    partners = view_of(("mixup",), seed).partners(pool, epoch, pool)
    assert partners.dtype == np.int64
    assert np.isin(partners, pool).all()
    assert (partners != pool).all()


def test_every_other_one_is_as_likely_a_partner():
    view, pool = view_of(("mixup",)), POOL[:9]
    counts = np.zeros((9, 9))
    for epoch in range(800):
        counts[np.arange(9), np.searchsorted(pool, view.partners(pool, epoch, pool))] += 1
    assert (counts.diagonal() == 0).all()
    others = counts[~np.eye(9, dtype=bool)].reshape(9, 8)
    assert stats.chisquare(others.flatten()).pvalue > 1e-3
    assert min(stats.chisquare(row).pvalue for row in others) > 1e-4


# --- batches as shown -----------------------------------------------------------------------------------

CLASSES = 7


class Loader:
    """Samples of which pixels and labels are kept: `Batches` of no file."""

    def __init__(self, count):
        self.pixels, self.labels = images(count), torch.arange(count) % CLASSES

    def epoch(self, order, batch_size, device):
        for indices in torch.from_numpy(np.array(order)).split(batch_size):
            yield self.pixels[indices], self.labels[indices], indices


def batches_of(names, order, batch_size=8, epoch=2, variant=None, pool=None):
    """Batches of 50 samples as a view shows them."""
    pool = np.arange(50) if pool is None else pool
    shown = Shown(Loader(50), view_of(names), pool, CLASSES, variant)
    return list(shown.epoch(np.asarray(order), batch_size, "cpu", epoch))


def joined(batches):
    """Pixels, targets and indices of all batches."""
    return [torch.cat([getattr(one, name) for one in batches]) for name in ("pixels", "targets", "indices")]


ORDER = np.random.default_rng(2).permutation(50)[:21]


@pytest.mark.parametrize("names", FEW + MANY, ids=str)
def test_views_that_do_not_mix_give_classes(names):
    batches = batches_of(names, ORDER)
    assert [len(batch.indices) for batch in batches] == [8, 8, 5]
    assert {(batch.weight, batch.counted) for batch in batches} == {(1.0, None)}
    pixels, targets, indices = joined(batches)
    assert targets.dtype == torch.int64
    assert indices.tolist() == ORDER.tolist()
    loader = Loader(50)
    assert torch.equal(targets, loader.labels[indices])
    assert torch.equal(pixels, view_of(names).show(loader.pixels[indices], indices, 2))


@pytest.mark.parametrize("names", FEW, ids=str)
def test_all_samples_can_be_shown_in_one_variant(names):
    view = view_of(names)
    for variant in (0, view.variants - 1):
        pixels, targets, indices = joined(batches_of(names, ORDER, variant=variant))
        assert torch.equal(pixels, view.as_variant(Loader(50).pixels[indices], variant))
        assert torch.equal(targets, Loader(50).labels[indices])


@pytest.mark.parametrize("names", MIXED, ids=str)
def test_mixed_samples_and_their_targets_are_those_mixed_by_hand(names):
    pixels, targets, indices = joined(batches_of(names, ORDER))
    assert indices.tolist() == ORDER.tolist()
    assert targets.dtype == torch.float32
    assert targets.shape == (21, CLASSES)
    assert torch.allclose(targets.sum(1), torch.ones(21))
    view, loader = view_of(names), Loader(50)
    mix = view.mix
    partners = torch.from_numpy(view.partners(ORDER, 2, np.arange(50)))
    for k, (own, other) in enumerate(zip(indices, partners, strict=True)):
        first, second = (view.show(loader.pixels[i[None]], i[None], 2) for i in (own, other))
        expected, share = mix.mix(first, second, view.drawn(mix, 2, own[None]))
        assert torch.equal(pixels[k], expected[0])
        by_hand = torch.zeros(CLASSES)
        by_hand[loader.labels[own]] += share[0]
        by_hand[loader.labels[other]] += 1 - share[0]
        assert torch.allclose(targets[k], by_hand, atol=1e-6)
    assert (targets.max(1).values < 1).any()


def test_mixup_by_hand_blends_pixels():
    """As the paper writes it, with the share that the targets show."""
    pixels, targets, indices = joined(batches_of(({"mixup": 1.0},), ORDER))
    loader = Loader(50)
    partners = torch.from_numpy(view_of(("mixup",)).partners(ORDER, 2, np.arange(50)))
    for k, (own, other) in enumerate(zip(indices, partners, strict=True)):
        if loader.labels[own] == loader.labels[other]:
            continue
        share = targets[k, loader.labels[own]]
        blend = share * loader.pixels[own].float() + (1 - share) * loader.pixels[other].float()
        assert (pixels[k].float() - blend).abs().max() <= 0.51


def test_cutmix_by_hand_takes_pixels_of_one_or_the_other():
    pixels, targets, indices = joined(batches_of(("cutmix",), ORDER))
    loader = Loader(50)
    partners = torch.from_numpy(view_of(("cutmix",)).partners(ORDER, 2, np.arange(50)))
    for k, (own, other) in enumerate(zip(indices, partners, strict=True)):
        from_own, from_other = ((pixels[k] == loader.pixels[i]).all(0) for i in (own, other))
        assert (from_own | from_other).all()
        if loader.labels[own] != loader.labels[other]:
            share = (~from_other | (from_own & from_other)).float().mean()
            area = math.prod(loader.pixels.shape[2:])
            assert targets[k, loader.labels[own]] == pytest.approx(share.item(), abs=1.01 / area)


@pytest.mark.parametrize("names", MIXED, ids=str)
def test_mixtures_do_not_depend_on_the_batch(names):
    whole = joined(batches_of(names, ORDER, batch_size=64))
    assert all(map(torch.equal, joined(batches_of(names, ORDER, batch_size=3)), whole))
    back = joined(batches_of(names, ORDER[::-1].copy()))
    assert all(torch.equal(one.flip(0), other) for one, other in zip(back, whole, strict=True))
    alone = joined(batches_of(names, ORDER[:1]))
    assert all(torch.equal(one, other[:1]) for one, other in zip(alone, whole, strict=True))


def test_partners_come_from_the_pool():
    pool = np.arange(0, 50, 7)  # all of class 0
    _, targets, _ = joined(batches_of(({"mixup": 1.0},), pool, pool=pool))
    assert torch.equal(targets, F.one_hot(torch.zeros(8, dtype=torch.int64), CLASSES).float())
