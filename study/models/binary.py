"""A network of one bit a weight and activation, for images of a few dozen pixels a side: `tiny_birealnet`.

After Bi-Real Net (Liu et al., arXiv 1808.00278), as ReActNet (Liu et al., arXiv 2003.03488) trains its
convolutions: signs of activations, convolved with signs of weights times the mean absolute value of their
output channel; a real shortcut past every such convolution; the stem, shortcuts that halve the image, and the
head are real. The sign has no gradient of use: that of activations is passed on as of a piecewise quadratic
function (1808.00278, section 3.3), that of weights as of their clipped values.

Importing the module registers it with timm. There are no pretrained weights. Left out on purpose: ReActNet's
learnt thresholds and activations, its two stages of training, and arithmetic in bits: signs are computed with
as floats, which shows what such a network learns and not how fast it is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import study.models.timm_import  # noqa: F401 - before timm, so that torchvision loads
from study.models.cifar import Staged, convolution

# isort: split
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model


def signs(x: Tensor) -> Tensor:
    """1 from 0 on, else −1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class ApproximateSign(torch.autograd.Function):
    """Signs of activations; their derivative is max(0, 2 − 2 |x|) (arXiv 1808.00278, Eq. 6)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (2 - 2 * x.abs()).clamp(min=0)


class ScaledSign(torch.autograd.Function):
    """Signs of weights [outputs, ...] times the mean absolute value of each output's; their derivative is 1
    where |w| ≤ 1, else 0, as if the scale were a constant.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return signs(weight) * weight.abs().mean(dim=tuple(range(1, weight.dim())), keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return gradient * (weight.abs() <= 1)


class BinaryConvolution(nn.Conv2d):
    """A convolution of signs with scaled signs; what it is padded with is 0."""

    def forward(self, x: Tensor) -> Tensor:
        weight = ScaledSign.apply(self.weight)
        return F.conv2d(ApproximateSign.apply(x), weight, None, self.stride, self.padding)


class Block(nn.Module):
    """A binary convolution and BatchNorm, with a shortcut of real numbers past both."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.binary = nn.Sequential(
            BinaryConvolution(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut = nn.Sequential()
        if (inputs, stride) != (outputs, 1):
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                convolution(inputs, outputs, 1),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.binary(x) + self.shortcut(x)


def birealnet(widths: list[int], depth: int, in_chans: int = 3, **kwargs: Any) -> Staged:
    """A stem that halves the image, and stages of `depth` blocks; all but the first halve it again."""
    stages, before = [], widths[0]
    for number, width in enumerate(widths):
        strides = [1 if number == 0 else 2, *[1] * (depth - 1)]
        inputs = [before, *[width] * (depth - 1)]
        blocks = [Block(channels, width, stride) for channels, stride in zip(inputs, strides, strict=True)]
        stages.append((nn.Sequential(*blocks), width, 2 ** (number + 1)))
        before = width
    stem = nn.Sequential(convolution(in_chans, widths[0], 3, 2), nn.BatchNorm2d(widths[0]))
    return Staged(stem, stages, nn.Sequential(), before, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "tiny_birealnet.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 28, 28),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.0",
            "classifier": "head.fc",
        }
    }
)


@register_model
def tiny_birealnet(pretrained: bool = False, **kwargs: Any) -> Staged:
    """Two stages of two blocks, 16 and 32 channels wide (`widths`, `depth`); images of any size."""
    args = {"widths": [16, 32], "depth": 2} | kwargs
    return build_model_with_cfg(
        birealnet, "tiny_birealnet", pretrained, feature_cfg={"feature_cls": "getter"}, **args
    )
