"""Policies of pixel operations: AutoAugment, RandAugment, TrivialAugment and AugMix, a draw a sample.

What an operation does, and the tables of operations, magnitudes and sub-policies, are torchvision's (classes
of `torchvision.transforms.v2`). These draw once for all they are given; here each sample has random numbers
of its own, and those with the same operation and magnitude are changed together: the more samples at once,
the fewer calls. Tables and operations are private there, and tests hold ours against the public classes.

Everywhere: pixels uint8 [batch, 1 or 3, height, width]; random numbers float32 [batch, numbers] in [0, 1).
Areas that an operation leaves empty are black.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Of each policy: torchvision's class, and how many magnitudes it tells apart.
KINDS = {
    "auto": ("AutoAugment", 10),
    "rand": ("RandAugment", 31),
    "trivial": ("TrivialAugmentWide", 31),
    "augmix": ("AugMix", 10),
}
SEVERITY = 3  # of AugMix: the magnitudes that it takes, the least ones
WIDTH, DEPTH = 3, 3  # of AugMix: chains, and the most operations in one


class Table(NamedTuple):
    """What may be drawn: names of operations, magnitudes float64 [operations, levels] (0 of those that have
    none), and whether an operation goes both ways, bool [operations].
    """

    names: tuple[str, ...]
    magnitudes: Tensor
    signed: Tensor


@functools.cache
def _made(kind: str) -> Any:
    """torchvision's policy of a kind, with its defaults."""
    import study.models.timm_import  # noqa: F401 - lets torchvision load

    # isort: split
    from torchvision.transforms import v2

    return getattr(v2, KINDS[kind][0])()


@functools.cache
def table(kind: str, height: int, width: int, device: torch.device) -> Table:
    """The operations of a policy, for images of a size."""
    levels, space = KINDS[kind][1], _made(kind)._AUGMENTATION_SPACE
    given = [magnitudes(levels, height, width) for magnitudes, _ in space.values()]
    rows = [torch.zeros(levels) if one is None else one for one in given]
    signed = torch.tensor([signed for _, signed in space.values()])
    return Table(tuple(space), torch.stack([row.double() for row in rows]).to(device), signed.to(device))


@functools.cache
def sub_policies(name: str, device: torch.device) -> Tensor:
    """AutoAugment's sub-policies for 'cifar10', 'imagenet' or 'svhn': float64 [sub-policies, 2, 3], of each
    operation its place in the table, its probability and its level.
    """
    made = _made("auto")
    places = {operation: place for place, operation in enumerate(made._AUGMENTATION_SPACE)}
    policies = made._get_policies(type(made.policy)(name))
    rows = [[(places[operation], p, level or 0) for operation, p, level in both] for both in policies]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def applied(
    kind: str, pixels: Tensor, operations: Tensor, levels: Tensor, negative: Tensor, where: Tensor
) -> Tensor:
    """Each sample after one operation.

    Args:
        kind: of `KINDS`.
        pixels: of the samples.
        operations, levels: int64 [batch], places in the policy's `table`.
        negative: bool [batch], whether an operation that goes both ways goes the other one.
        where: bool [batch], which samples are changed at all.
    """
    made, known = _made(kind), table(kind, *pixels.shape[2:], pixels.device)
    magnitudes = known.magnitudes[operations, levels]
    magnitudes = torch.where(negative & known.signed[operations], -magnitudes, magnitudes)
    rows = where.nonzero()[:, 0]
    pairs = torch.stack([operations[rows].double(), magnitudes[rows]], dim=1)
    groups, of_row, counts = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    seen = pixels.clone(memory_format=torch.contiguous_format)
    parts = rows[of_row.argsort(stable=True)].split(counts.tolist())
    for (operation, magnitude), part in zip(groups.tolist(), parts, strict=True):
        seen[part] = made._apply_image_or_video_transform(
            seen[part], known.names[int(operation)], magnitude, made.interpolation, made._fill
        )
    return seen


def auto(pixels: Tensor, random: Tensor, policy: str) -> Tensor:
    """AutoAugment (Cubuk et al. 2019, arXiv 1805.09501): one of a policy's sub-policies, two operations, each
    with its probability.

    Args:
        random: 5 numbers: which sub-policy, whether its operations are applied, and which way they go.
    """
    known = sub_policies(policy, pixels.device)
    chosen = known[(random[:, 0] * len(known)).long()]
    for place in (0, 1):
        operations, probabilities, levels = chosen[:, place].unbind(1)
        pixels = applied(
            "auto",
            pixels,
            operations.long(),
            levels.long(),
            negative=random[:, 3 + place] < 0.5,
            where=random[:, 1 + place] < probabilities,
        )
    return pixels


def rand(pixels: Tensor, random: Tensor, operations: int, magnitude: int) -> Tensor:
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719): so many operations of one magnitude in a row.

    Args:
        random: 2 numbers an operation: which, and which way.
    """
    levels = torch.full((len(pixels),), magnitude, device=pixels.device)
    return _chain("rand", pixels, random[:, 0::2][:, :operations], levels, random[:, 1::2])


def trivial(pixels: Tensor, random: Tensor) -> Tensor:
    """TrivialAugment, wide (Müller and Hutter 2021, arXiv 2103.10158): one operation of any magnitude.

    Args:
        random: 3 numbers: which operation, which way, and how much.
    """
    levels = (random[:, 2] * KINDS["trivial"][1]).long()
    return _chain("trivial", pixels, random[:, :1], levels, random[:, 1:2])


def augmix(pixels: Tensor, random: Tensor) -> Tensor:
    """AugMix (Hendrycks et al. 2020, arXiv 1912.02781) with the authors' severity 3 and α = 1: a mixture of
    the image and of three chains of one to three operations, its weights from Dirichlet distributions.

    Args:
        random: 3 numbers for each of the 9 places in chains (which operation, which way, how much), then a
            chain's length and weight, 3 each, and the weight of all chains.

    Returns:
        Like `pixels`; rounded, where torchvision cuts off.
    """
    count = 3 * WIDTH * DEPTH
    places = random[:, :count].reshape(-1, WIDTH, DEPTH, 3)
    lengths = 1 + (random[:, count : count + WIDTH] * DEPTH).long()
    # Exponential numbers over their sum: Dirichlet(1, ..., 1).
    shares = -torch.log1p(-random[:, count + WIDTH : count + 2 * WIDTH]).clamp(max=-1e-12)
    shares = random[:, -1:] * shares / shares.sum(1, keepdim=True)
    mixed = (1 - random[:, -1:])[:, :, None, None] * pixels
    for chain in range(WIDTH):
        seen, (which, way, much) = pixels, places[:, chain].unbind(2)
        for step in range(DEPTH):
            levels = (much[:, step] * SEVERITY).long()
            there = step < lengths[:, chain]
            seen = _chain("augmix", seen, which[:, step, None], levels, way[:, step, None], there)
        mixed = mixed + shares[:, chain, None, None, None] * seen
    return mixed.round().clamp(0, 255).to(torch.uint8)


def _chain(
    kind: str, pixels: Tensor, which: Tensor, levels: Tensor, way: Tensor, where: Tensor | None = None
) -> Tensor:
    """Operations drawn evenly, by numbers [batch, operations], one after the other."""
    count = len(_made(kind)._AUGMENTATION_SPACE)
    if where is None:
        where = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
    for drawn, side in zip(which.unbind(1), way.unbind(1), strict=False):
        pixels = applied(kind, pixels, (drawn * count).long(), levels, side < 0.5, where)
    return pixels
