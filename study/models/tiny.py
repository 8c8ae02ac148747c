"""Small timm entry points for images of a few dozen pixels a side.

Most timm models can be shrunk through keyword arguments of `timm.create_model`. The entry points of
the MLP-Mixer family and of ConvMixer cannot: they pass their own patch size and depth beside the
caller's and fail with "multiple values for keyword argument". This module registers four entry
points that build timm's own, unchanged classes with defaults for 28x28 images and let every keyword
argument override a default:

| name             | timm classes                     | after                                       |
|------------------|----------------------------------|---------------------------------------------|
| `tiny_mixer`     | `MlpMixer`, `MixerBlock`         | MLP-Mixer, https://arxiv.org/abs/2105.01601 |
| `tiny_resmlp`    | `MlpMixer`, `ResBlock`           | ResMLP, https://arxiv.org/abs/2105.03404    |
| `tiny_gmlp`      | `MlpMixer`, `SpatialGatingBlock` | gMLP, https://arxiv.org/abs/2105.08050      |
| `tiny_convmixer` | `ConvMixer`                      | ConvMixer, https://arxiv.org/abs/2201.09792 |

Importing the module is what registers them:

    import study.models.tiny
    model = timm.create_model("tiny_mixer", num_classes=10, img_size=28, embed_dim=64, num_blocks=3)

There are no pretrained weights, and asking for them raises. `model.pretrained_cfg` states the input
size the model was built for, so `timm.data.resolve_model_data_config(model)` is right about it; its
mean and standard deviation are ImageNet's unless the caller passes `pretrained_cfg_overlay`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import study.models.timm_import  # noqa: F401 - before timm, so that torchvision loads

# isort: split
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import GatedMlp, to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convmixer import ConvMixer
from timm.models.mlp_mixer import Affine, MixerBlock, MlpMixer, ResBlock, SpatialGatingBlock

__all__ = ["tiny_convmixer", "tiny_gmlp", "tiny_mixer", "tiny_resmlp"]

IMG_SIZE = 28


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """A default configuration without weights; the whole image is seen (`crop_pct` 1)."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, IMG_SIZE, IMG_SIZE),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "tiny_mixer.untrained": _cfg(first_conv="stem.proj", fixed_input_size=True),
        "tiny_resmlp.untrained": _cfg(first_conv="stem.proj", fixed_input_size=True),
        "tiny_gmlp.untrained": _cfg(first_conv="stem.proj", fixed_input_size=True),
        "tiny_convmixer.untrained": _cfg(first_conv="stem.0"),
    }
)


def _overlay(kwargs: dict[str, Any], img_size: int | tuple[int, int]) -> dict[str, Any]:
    """The caller's `pretrained_cfg_overlay`, with the input size unless the caller states one."""
    size = (kwargs.get("in_chans", 3), *to_2tuple(img_size))
    return {"input_size": size, **(kwargs.pop("pretrained_cfg_overlay", None) or {})}


def _create_mixer(variant: str, pretrained: bool, **kwargs: Any) -> MlpMixer:
    """Build an `MlpMixer`; `img_size` fixes the number of tokens, hence the weights' shapes."""
    overlay = _overlay(kwargs, kwargs["img_size"])
    out_indices = kwargs.pop("out_indices", 3)
    return build_model_with_cfg(
        MlpMixer,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **kwargs,
    )


@register_model
def tiny_mixer(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """MLP-Mixer: 16 tokens (patch 7), 2 blocks of width 48.

    `mlp_ratio` is the pair (token MLP, channel MLP) of hidden widths in units of `embed_dim`.
    """
    defaults = {
        "img_size": IMG_SIZE,
        "patch_size": 7,
        "embed_dim": 48,
        "num_blocks": 2,
        "mlp_ratio": (0.5, 2.0),
        "block_layer": MixerBlock,
    }
    return _create_mixer("tiny_mixer", pretrained, **(defaults | kwargs))


@register_model
def tiny_resmlp(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """ResMLP: one linear map mixes the tokens; affine layers stand in for normalisation.

    `init_values` is the branches' scale at the start. ResMLP's 1e-4 is meant for tens of blocks; two
    blocks trained for a few hundred steps hardly leave it, hence 0.1 here.
    """
    block = partial(ResBlock, init_values=kwargs.pop("init_values", 0.1))
    defaults = {
        "img_size": IMG_SIZE,
        "patch_size": 7,
        "embed_dim": 48,
        "num_blocks": 2,
        "mlp_ratio": 2,
        "block_layer": block,
        "norm_layer": Affine,
    }
    return _create_mixer("tiny_resmlp", pretrained, **(defaults | kwargs))


@register_model
def tiny_gmlp(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """gMLP: one MLP a block, half of whose hidden units gate the other half across tokens."""
    defaults = {
        "img_size": IMG_SIZE,
        "patch_size": 7,
        "embed_dim": 48,
        "num_blocks": 2,
        "mlp_ratio": 4,
        "block_layer": SpatialGatingBlock,
        "mlp_layer": GatedMlp,
    }
    return _create_mixer("tiny_gmlp", pretrained, **(defaults | kwargs))


@register_model
def tiny_convmixer(pretrained: bool = False, **kwargs: Any) -> ConvMixer:
    """ConvMixer: patches of 4, then depthwise 5x5 and pointwise convolutions at one resolution.

    `embed_dim` (or timm's own word, `dim`) is the width. The model takes any input size that holds
    a patch; `img_size` only sets what `pretrained_cfg` says.
    """
    if "embed_dim" in kwargs:
        kwargs["dim"] = kwargs.pop("embed_dim")
    defaults = {"patch_size": 4, "dim": 32, "depth": 2, "kernel_size": 5}
    args = defaults | kwargs
    overlay = _overlay(args, args.pop("img_size", IMG_SIZE))
    out_indices = args.pop("out_indices", 3)
    return build_model_with_cfg(
        ConvMixer,
        "tiny_convmixer",
        pretrained,
        pretrained_cfg_overlay=overlay,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **args,
    )
