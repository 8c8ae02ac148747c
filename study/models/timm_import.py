"""`from study.models.timm_import import timm`: timm, also where torchvision's compiled part does not load.

timm imports torchvision. A torchvision built for CUDA beside a CPU-only torch (what a plain
`pip install` gives on some machines) dies on import with `operator torchvision::nms does not
exist`, because its Python side refers to operators its compiled part would have declared. Nothing
here uses those operators: declaring their schemas is enough. Where torchvision imports as it
should, nothing is touched.
"""

from __future__ import annotations

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    # Kept for the life of the process: the declarations go when the object does.
    _declarations = torch.library.Library("torchvision", "FRAGMENT")
    _declarations.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

import timm

__all__ = ["timm"]
