"""The networks that distillation is studied with on images of 32 pixels a side, which timm has not.

As Tian et al.'s benchmark (arXiv 1910.10699) has them, and "What Makes a 'Good' Data Augmentation in Knowledge
Distillation" (arXiv 2012.02909) after it: networks of the named papers, with a stem that keeps the image's
size (of MobileNetV2: halves it), and fewer stages that halve it again.

| names (`cifar_...`) | after |
|---|---|
| `resnet20`, `resnet56`, `resnet110`; `resnet8x4`, `resnet32x4` (four times as wide) | ResNet, section 4.2, https://arxiv.org/abs/1512.03385 |
| `resnet50` | ResNet of bottlenecks, with the stem of the above |
| `wrn_16_2`, `wrn_40_2` | Wide ResNet, https://arxiv.org/abs/1605.07146 |
| `vgg8`, `vgg13` | VGG, https://arxiv.org/abs/1409.1556, with BatchNorm and one linear layer |
| `mobilenetv2` | MobileNetV2 at half width, https://arxiv.org/abs/1801.04381 |
| `shufflenetv2` | ShuffleNetV2, https://arxiv.org/abs/1807.11164 |

Importing the module registers them with timm. They take images of any size from 32 pixels on, and have no
pretrained weights: asking for them raises. Each is a stem, stages, and what follows them before pooling; maps
of the stages are timm's `forward_intermediates`.
"""  # noqa: E501 - a table

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import study.models.timm_import  # noqa: F401 - before timm, so that torchvision loads

# isort: split
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of CIFAR-100's training images


class Staged(nn.Module):
    """Pixels [batch, channels, height, width], normalised, to logits [batch, classes], in timm's manner.

    Args:
        stem: what comes before the stages.
        stages: of each its layers, how many channels it has then, and the image's side over its maps'.
        last: what comes between the stages and pooling.
        num_features: channels after it.
        num_classes, global_pool, drop_rate: as timm's models.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[tuple[nn.Module, int, int]],
        last: nn.Module,
        num_features: int,
        num_classes: int = 100,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        layers, channels, reductions = zip(*stages, strict=True)
        self.num_classes, self.num_features = num_classes, num_features
        self.head_hidden_size = num_features
        self.stem, self.stages, self.last = stem, nn.ModuleList(layers), last
        self.head = ClassifierHead(num_features, num_classes, global_pool, drop_rate)
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{number}"}
            for number, (width, reduction) in enumerate(zip(channels, reductions, strict=True))
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stages' maps, and (unless they are wanted alone) what pooling is given, as timm's models."""
        taken, most = feature_take_indices(len(self.stages), indices)
        x, maps = self.stem(x), []
        for number, stage in enumerate(self.stages[: most + 1] if stop_early else self.stages):
            x = stage(x)
            maps += [x] if number in taken else []
        return maps if intermediates_only else (self.last(x), maps)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.last(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """One that keeps the size, or divides it by the stride; BatchNorm takes its bias' place."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def normed(layer: nn.Conv2d, act: Callable[[], nn.Module] | None = nn.ReLU) -> list[nn.Module]:
    """The convolution, BatchNorm, and what is done with its numbers, if anything."""
    return [layer, nn.BatchNorm2d(layer.out_channels), *([act()] if act else [])]


# --- ResNet -------------------------------------------------------------------------------------


class Residual(nn.Module):
    """relu(f(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def basic(inputs: int, width: int, stride: int) -> Residual:
    body = [*normed(convolution(inputs, width, 3, stride)), *normed(convolution(width, width), None)]
    return Residual(nn.Sequential(*body), _projection(inputs, width, stride))


def bottleneck(inputs: int, outputs: int, stride: int) -> Residual:
    width = outputs // 4
    body = [
        *normed(convolution(inputs, width, 1)),
        *normed(convolution(width, width, 3, stride)),
        *normed(convolution(width, outputs, 1), None),
    ]
    return Residual(nn.Sequential(*body), _projection(inputs, outputs, stride))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*normed(convolution(inputs, outputs, 1, stride), None))


def repeated(
    block: Callable[[int, int, int], nn.Module], inputs: int, widths: list[int], depths: list[int]
) -> list[tuple[nn.Module, int, int]]:
    """Stages of blocks; each but the first halves the size."""
    stages = []
    for number, (before, width, depth) in enumerate(zip([inputs, *widths[:-1]], widths, depths, strict=True)):
        strides = [2 if number else 1] + [1] * (depth - 1)
        blocks = [block(width if place else before, width, stride) for place, stride in enumerate(strides)]
        stages.append((nn.Sequential(*blocks), width, 2**number))
    return stages


def resnet(depth: int, widths: list[int], in_chans: int = 3, **kwargs: Any) -> Staged:
    """Three stages of (depth − 2) / 6 basic blocks; `widths` are those of the stem and of the stages."""
    stem = nn.Sequential(*normed(convolution(in_chans, widths[0])))
    stages = repeated(basic, widths[0], widths[1:], 3 * [(depth - 2) // 6])
    return Staged(stem, stages, nn.Identity(), widths[-1], **kwargs)


def resnet_of_bottlenecks(depths: list[int], in_chans: int = 3, **kwargs: Any) -> Staged:
    stages = repeated(bottleneck, 64, [256, 512, 1024, 2048], depths)
    return Staged(nn.Sequential(*normed(convolution(in_chans, 64))), stages, nn.Identity(), 2048, **kwargs)


# --- Wide ResNet --------------------------------------------------------------------------------


class PreActivated(nn.Module):
    """f(relu(norm(x))) + x; where the width changes, the shortcut is a convolution of relu(norm(x))."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        body = [*normed(convolution(inputs, width, 3, stride)), convolution(width, width)]
        self.body = nn.Sequential(*body)
        self.shortcut = None if inputs == width else convolution(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.before(x)
        return self.body(seen) + (x if self.shortcut is None else self.shortcut(seen))


def wide_resnet(depth: int, factor: int, in_chans: int = 3, **kwargs: Any) -> Staged:
    """Three stages of (depth − 4) / 6 blocks, `factor` times as wide as a ResNet's."""
    widths = [16 * factor, 32 * factor, 64 * factor]
    stages = repeated(PreActivated, 16, widths, 3 * [(depth - 4) // 6])
    last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
    return Staged(nn.Sequential(convolution(in_chans, 16)), stages, last, widths[-1], **kwargs)


# --- VGG ----------------------------------------------------------------------------------------


def vgg(depths: list[int], halvings: int = 3, in_chans: int = 3, **kwargs: Any) -> Staged:
    """Five stages of convolutions; maps are pooled before the second one and so on, `halvings` times in all.

    The benchmark has 3 for images of 32 pixels a side, and 4 for those of 64.
    """
    stages, before = [], in_chans
    for number, (width, depth) in enumerate(zip([64, 128, 256, 512, 512], depths, strict=True)):
        layers = [nn.MaxPool2d(2)] if 0 < number <= halvings else []
        for inputs, outputs in itertools.pairwise([before] + depth * [width]):
            layers += normed(nn.Conv2d(inputs, outputs, 3, padding=1))
        stages.append((nn.Sequential(*layers), width, 2 ** min(number, halvings)))
        before = width
    return Staged(nn.Identity(), stages, nn.Identity(), before, **kwargs)


# --- MobileNetV2 --------------------------------------------------------------------------------


class Inverted(nn.Module):
    """Wider, a convolution a channel, narrow again; added to what comes in where it has the same shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.body = nn.Sequential(
            *normed(convolution(inputs, width, 1)),
            *normed(convolution(width, width, 3, stride, groups=width)),
            *normed(convolution(width, outputs, 1), None),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenetv2(width: float, in_chans: int = 3, **kwargs: Any) -> Staged:
    """Four stages of inverted blocks; their widths are shares of MobileNetV2's."""
    # Of each stage: groups of expansion, channels, blocks, and the first one's stride.
    groups = (
        ((1, 16, 1, 1), (6, 24, 2, 1)),
        ((6, 32, 3, 2),),
        ((6, 64, 4, 2), (6, 96, 3, 1)),
        ((6, 160, 3, 2), (6, 320, 1, 1)),
    )
    before = int(32 * width)
    stem = nn.Sequential(*normed(convolution(in_chans, before, 3, 2)))
    stages = []
    for number, stage in enumerate(groups):
        blocks = []
        for expansion, channels, count, stride in stage:
            for place in range(count):
                blocks.append(Inverted(before, int(channels * width), 1 if place else stride, expansion))
                before = int(channels * width)
        stages.append((nn.Sequential(*blocks), before, 2 ** (number + 1)))
    last = nn.Sequential(*normed(convolution(before, 1280, 1)))
    return Staged(stem, stages, last, 1280, **kwargs)


# --- ShuffleNetV2 -------------------------------------------------------------------------------


def _shuffled(x: Tensor) -> Tensor:
    """Channels of the two halves, in turn."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Shuffle(nn.Module):
    """Half of the channels goes through a branch, the other as it is; where it halves the size, all of them
    go through two."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width, self.halves = outputs // 2, stride == 2
        self.branch = nn.Sequential(
            *normed(convolution(inputs if self.halves else width, width, 1)),
            *normed(convolution(width, width, 3, stride, groups=width), None),
            *normed(convolution(width, width, 1)),
        )
        beside = [
            *normed(convolution(inputs, inputs, 3, stride, groups=inputs), None),
            *normed(convolution(inputs, width, 1)),
        ]
        self.beside = nn.Sequential(*(beside if self.halves else []))

    def forward(self, x: Tensor) -> Tensor:
        one, other = (x, x) if self.halves else x.chunk(2, dim=1)
        return _shuffled(torch.cat([self.beside(one), self.branch(other)], dim=1))


def shufflenetv2(widths: list[int], depths: list[int], in_chans: int = 3, **kwargs: Any) -> Staged:
    """Three stages, each of which halves the size first."""
    stages, before = [], 24
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
        blocks = [Shuffle(before, width, 2), *(Shuffle(width, width, 1) for _ in range(depth))]
        stages.append((nn.Sequential(*blocks), width, 2**number))
        before = width
    stem = nn.Sequential(*normed(convolution(in_chans, 24, 1)))
    last = nn.Sequential(*normed(convolution(before, 1024, 1)))
    return Staged(stem, stages, last, 1024, **kwargs)


# --- registered ---------------------------------------------------------------------------------

NARROW, WIDE = [16, 16, 32, 64], [32, 64, 128, 256]
NETWORKS: dict[str, Callable[..., Staged]] = {
    "cifar_resnet20": partial(resnet, depth=20, widths=NARROW),
    "cifar_resnet56": partial(resnet, depth=56, widths=NARROW),
    "cifar_resnet110": partial(resnet, depth=110, widths=NARROW),
    "cifar_resnet8x4": partial(resnet, depth=8, widths=WIDE),
    "cifar_resnet32x4": partial(resnet, depth=32, widths=WIDE),
    "cifar_resnet50": partial(resnet_of_bottlenecks, depths=[3, 4, 6, 3]),
    "cifar_wrn_16_2": partial(wide_resnet, depth=16, factor=2),
    "cifar_wrn_40_2": partial(wide_resnet, depth=40, factor=2),
    "cifar_vgg8": partial(vgg, depths=5 * [1]),
    "cifar_vgg13": partial(vgg, depths=5 * [2]),
    "cifar_mobilenetv2": partial(mobilenetv2, width=0.5),
    "cifar_shufflenetv2": partial(shufflenetv2, widths=[116, 232, 464], depths=[3, 7, 3]),
}
default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "url": "",
            "num_classes": 100,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": MEAN,
            "std": STD,
            "first_conv": None,
            "classifier": "head.fc",
        }
        for name in NETWORKS
    }
)


def _register(name: str, build: Callable[..., Staged]) -> None:
    """An entry point, which timm calls by its name."""

    def entry(pretrained: bool = False, **kwargs: Any) -> Staged:
        return build_model_with_cfg(build, name, pretrained, feature_cfg={"feature_cls": "getter"}, **kwargs)

    entry.__name__ = name
    register_model(entry)


for _name, _build in NETWORKS.items():
    _register(_name, _build)
