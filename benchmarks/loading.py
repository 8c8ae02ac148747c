"""Reading images: what the first batch costs a fresh process, and images a second, beside peers.

The peers are torch's DataLoader on the images' own files, as one would write it (two persistent
workers, uint8), and FFCV's Loader on the same file. Everybody gets two workers and batches of 64 in
random order; what is counted is the whole epoch, after one to warm up. A part can be named.

    python benchmarks/loading.py [part ...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from study import spec
from study.images import files
from study.images.batches import Batches, Crop, Resident
from study.images.files import Images
from study.models.timm_import import torchvision  # timm too, as a training process has it
from timing import figure, in_turns

WORKERS, BATCH, ROUNDS = 2, 64, 5
transforms = torchvision.transforms


def ffcv_loader(images: Images, crop: Crop, samples: int):
    """FFCV's own loader of the first samples, shuffled."""
    import ffcv
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import OrderOption
    from ffcv.transforms import ToTensor

    side = int(crop.pct * images.side)
    decoder = CenterCropRGBImageDecoder((side, side), crop.pct)
    return ffcv.Loader(
        str(images.path),
        batch_size=BATCH,
        num_workers=WORKERS,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.arange(samples),
        drop_last=False,
        pipelines={
            "image": [decoder, ToTensor()],
            "label": [IntDecoder(), ToTensor()],
            "index": [IntDecoder(), ToTensor()],
        },
    )


# --- the first batch ----------------------------------------------------------------------------


def first_batch() -> None:
    """Seconds from before FFCV's import to a batch in hand, in processes that have all else imported."""
    with tempfile.TemporaryDirectory() as folder:
        fashion_mnist(Path(folder))
        seconds: dict[str, list[float]] = {"Batches": [], "FFCV's Loader": []}
        for _ in range(ROUNDS):
            for reader, values in seconds.items():
                command = [sys.executable, __file__, "time_first_batch", reader, folder]
                values.append(float(subprocess.check_output(command, text=True).split()[-1]))
    figure("first batch: Batches", seconds["Batches"], "s", at_most=0.5)
    figure("first batch: FFCV's Loader", seconds["FFCV's Loader"], "s")


def time_first_batch(reader: str, folder: str) -> None:
    images = fashion_mnist(Path(folder))
    order = np.random.default_rng(0).permutation(60_000)
    begin = time.perf_counter()
    if reader == "Batches":
        batches = Batches(images, Crop(), WORKERS).epoch(order, BATCH)
    else:
        batches = iter(ffcv_loader(images, Crop(), len(order)))
    assert len(next(batches)[0]) == BATCH
    print(time.perf_counter() - begin)


# --- images a second ----------------------------------------------------------------------------


def throughput(name: str, images: Images, crop: Crop, dataset: Dataset, samples: int, goal: float) -> None:
    """Epochs over the first samples: of `images` by `Batches` and FFCV, of `dataset` by DataLoader."""
    side, shuffle = int(crop.pct * images.side), np.random.default_rng(0)
    batches, timms = (
        Batches(images, crop, WORKERS),
        Batches(images, crop._replace(size=(side, side)), WORKERS),
    )
    resident = Resident(batches, np.arange(samples))
    ffcv = ffcv_loader(images, crop, samples)
    subset = Subset(dataset, range(samples))
    loader = DataLoader(subset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    def read(epoch: Iterable) -> None:
        seen = 0
        for pixels, *_ in epoch:
            assert pixels.dtype == torch.uint8
            assert pixels[0].numel() == 3 * side**2
            seen += len(pixels)
        assert seen == samples

    candidates = {
        "Batches": lambda: read(batches.epoch(shuffle.permutation(samples), BATCH)),
        "Batches, as evaluated": lambda: read(timms.epoch(shuffle.permutation(samples), BATCH)),
        "Resident": lambda: read(resident.epoch(shuffle.permutation(samples), BATCH)),
        "DataLoader": lambda: read(loader),
        "FFCV's Loader": lambda: read(ffcv),
    }
    for run in candidates.values():
        run()
    seconds = in_turns(ROUNDS, **candidates)
    for reader, values in seconds.items():
        figure(f"{name}: {reader}", samples / values, "images/s")
    ours = seconds["Batches"]
    figure(f"{name}: Batches / DataLoader", seconds["DataLoader"] / ours, "ratio", at_least=goal)
    evaluated = seconds["DataLoader"] / seconds["Batches, as evaluated"]
    figure(f"{name}: Batches, as evaluated / DataLoader", evaluated, "ratio")
    figure(f"{name}: Batches / FFCV's Loader", seconds["FFCV's Loader"] / ours, "ratio")
    figure(f"{name}: Resident / DataLoader", seconds["DataLoader"] / seconds["Resident"], "ratio")


def fashion_mnist(folder: Path) -> Images:
    return files.prepare(spec.Images(source="fashion_mnist"), folder)


def small() -> None:
    """28-pixel images, written raw; torchvision keeps them in memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = fashion_mnist(folder)
        three = transforms.Compose([transforms.Grayscale(3), transforms.PILToTensor()])
        dataset = torchvision.datasets.FashionMNIST(str(folder / "downloads"), train=True, transform=three)
        throughput("Fashion-MNIST", images, Crop(), dataset, 20_000, goal=5)


def photographs(folder: Path, samples: int) -> None:
    """JPEGs of 256 x 256 pixels: parts of matplotlib's sample photograph, in two classes."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as stream:
        photograph = Image.open(stream).convert("RGB")
    rng = np.random.default_rng(0)
    for number in range(samples):
        path = folder / f"class{number % 2}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = rng.integers(256, min(photograph.size), endpoint=True)
        left, top = (int(rng.integers(side - part, endpoint=True)) for side in photograph.size)
        box = (left, top, left + int(part), top + int(part))
        photograph.resize((256, 256), Image.Resampling.BICUBIC, box).save(path, quality=95)


def large() -> None:
    """256-pixel JPEGs, of which the central 224 pixels are used."""
    with tempfile.TemporaryDirectory() as name:
        train, test = (Path(name) / part for part in ("train", "test"))
        photographs(train, 2000)
        photographs(test, 2)
        images = files.prepare(
            spec.Images(source="image_folder", train=str(train), test=str(test)), Path(name) / "data"
        )
        central = transforms.Compose([transforms.CenterCrop(224), transforms.PILToTensor()])
        dataset = torchvision.datasets.ImageFolder(str(train), central)
        throughput("256-pixel JPEGs", images, Crop(224 / 256), dataset, 2000, goal=2)


PARTS: dict[str, Callable[[], None]] = {"first_batch": first_batch, "small": small, "large": large}

if __name__ == "__main__":
    if sys.argv[1:2] == ["time_first_batch"]:
        time_first_batch(*sys.argv[2:])
    else:
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
