"""The family of a timm model: 'cnn', 'transformer' or 'mlp', as the paper divides its models.

The paper (arXiv 2310.17653) groups students and teachers by family and names none for hybrids. The rule
here asks how positions of an image exchange information anywhere in the network's body:

- **transformer**: with weights computed from the content, even if most layers are convolutions:
  self-attention in any form (windowed, linear, additive, multi-query, between channels over all
  positions as in XCiT, halo, lambda, bilinear), and EfficientViM's state-space mixing, which is one.
- **cnn**: by convolutions or pooling alone. Attention that only rescales channels (SE, ECA, GC, SK, split
  attention), gates made by convolutions (FocalNet, MambaOut, GhostNetV2), and a pooling head with
  attention (CLIP's ResNets) change nothing.
- **mlp**: by learned maps over all positions that are neither: MLP-Mixer, ResMLP, gMLP, and Sequencer,
  whose LSTMs run along rows and columns.

By that rule PoolFormer, ConvFormer, ConvMixer and InceptionNeXt are CNNs, CAFormer, CoAtNet, MaxViT and
MobileViT transformers.

timm keeps an architecture family a module, so a module's models share a row of `MODULES`; where a module
holds several families, `EXCEPTIONS` names the others. Left out on purpose: guessing. A model of a module
unknown here (of a newer timm, or one's own) is refused, and its study says `family` itself.
"""

from __future__ import annotations

import fnmatch
from typing import Literal

import study.models.binary
import study.models.cifar
import study.models.tiny  # noqa: F401 - all register small models with timm
from study import mistakes
from study.errors import StudyError
from study.models.timm_import import timm

Family = Literal["cnn", "transformer", "mlp"]

_MODULES: dict[Family, str] = {
    "cnn": """
        binary byobnet cifar convmixer convnext cspnet cspnext densenet dla dpn efficientnet fasternet
        focalnet ghostnet hardcorenas hgnet hrnet inception_next inception_resnet_v2 inception_v3 inception_v4
        lcnetv2 mambaout metaformer mobilenetv3 nasnet nfnet pnasnet rdnet regnet repghost repvit res2net
        resnest resnet resnetv2 rexnet selecsls senet sknet starnet tresnet vgg vovnet xception
        xception_aligned
    """,
    "transformer": """
        beit byoanet cait coat convit cpubone crossvit csatv2 davit deepseek_vit deit edgenext efficientformer
        efficientformer_v2 efficientvim efficientvit_mit efficientvit_msra eva fastvit gcvit gemma4_vit hiera
        hieradet_sam2 iformer levit lowformer maxxvit mobilenetv5 mobilevit mvitv2 naflexvit nest nextvit pit
        pvt_v2 qwen3_vit shvit swiftformer swin_transformer swin_transformer_v2 swin_transformer_v2_cr
        tiny_vit tnt twins visformer vision_transformer vision_transformer_hybrid vision_transformer_relpos
        vision_transformer_sam vitamin volo xcit
    """,
    "mlp": "mlp_mixer sequencer tiny",
}
MODULES: dict[str, Family] = {name: family for family, names in _MODULES.items() for name in names.split()}

# Architectures (wildcards as in timm.list_models) that are not of their module's family.
EXCEPTIONS: dict[str, dict[str, Family]] = {
    "byobnet": {"bat_*": "transformer"},  # bilinear attention
    "fastvit": {"fastvit_t*": "cnn", "fastvit_s12": "cnn"},  # the smallest mix by convolutions alone
    "lowformer": {"lowformer_e1": "cnn", "lowformer_e2": "cnn"},  # switch attention off
    "metaformer": {"caformer_*": "transformer"},
    "mobilenetv3": {"mobilenetv4_hybrid_*": "transformer"},
    "tiny": {"tiny_convmixer": "cnn"},
}


def family_of(timm_name: str) -> Family:
    """The family of a model timm knows.

    Args:
        timm_name: the architecture's name, with or without the tag of its weights.

    Raises:
        StudyError: timm knows no such model, or has it in a module that is not in the table.
    """
    architecture = timm_name.partition(".")[0]
    modules = timm.list_modules()
    module = next((name for name in modules if timm.models.is_model_in_modules(architecture, name)), None)
    if module is None:
        near = mistakes.nearest(architecture, timm.list_models())
        raise StudyError(f"timm has no model named '{timm_name}'{near}")
    if module not in MODULES:
        raise StudyError(
            f"the family of '{timm_name}' (timm's module '{module}') is not known here; "
            "give the model a 'family' in the study's zoo: cnn, transformer or mlp"
        )
    for pattern, family in EXCEPTIONS.get(module, {}).items():
        if fnmatch.fnmatchcase(architecture, pattern):
            return family
    return MODULES[module]
