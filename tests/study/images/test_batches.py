"""Reading: FFCV's own pixels in any order, nothing compiled, and every fault ends in an error."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import ffcv
import numpy as np
import pytest
import torch
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import IMAGE_MODES, CenterCropRGBImageDecoder
from ffcv.reader import Reader
from ffcv.transforms import ToTensor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from study import spec
from study.errors import StudyError
from study.images import batches as study_batches
from study.images import files
from study.images.batches import Batches, Crop, Resident
from study.models import zoo
from study.models.timm_import import timm
from tests.conftest import PATIENCE, fashion_mnist

ROOT = Path(__file__).resolve().parents[3]
SIZES = [(28, 28), (64, 64), (40, 30), (30, 45), (100, 70), (70, 100), (96, 70), (70, 70), (33, 131)]


def prepare(folder: Path, sizes: list[tuple[int, int]], **settings) -> files.Images:
    """Images of one class and these sizes (width, height), colourful ones, as data of `folder`."""
    grey, _ = fashion_mnist("train", 3 * len(sizes))
    for part in ("train", "test"):
        (folder / part / "class0").mkdir(parents=True)
        for number, size in enumerate(sizes):
            image = Image.fromarray(np.moveaxis(grey[3 * number : 3 * number + 3], 0, -1).copy())
            image.resize(size, Image.Resampling.BICUBIC).save(folder / part / "class0" / f"{number:03}.png")
    source = spec.Images(
        source="image_folder", train=str(folder / "train"), test=str(folder / "test"), **settings
    )
    return files.prepare(source, folder / "data")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> files.Images:
    """18 images of many sizes, raw and JPEG."""
    images = prepare(tmp_path_factory.mktemp("mixed"), SIZES)
    assert set(Reader(str(images.path)).metadata["f0"]["mode"]) == set(IMAGE_MODES.values())
    assert images.side == 70
    return images


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> files.Images:
    """64 JPEGs of 80 x 80 pixels."""
    return prepare(tmp_path_factory.mktemp("jpegs"), [(80, 80)] * 32)


@pytest.fixture(scope="module")
def tall(tmp_path_factory) -> files.Images:
    """Raw images of one width, none lower."""
    return prepare(tmp_path_factory.mktemp("tall"), [(40, 40), (40, 60), (40, 51)])


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> files.Images:
    """Raw images of one width, some lower."""
    return prepare(tmp_path_factory.mktemp("wide"), [(40, 40), (40, 60), (40, 23)])


def all_of(batches, order, batch_size: int):
    """Pixels, labels and indices of an epoch, after a look at each batch's form."""
    parts = []
    for pixels, labels, indices in batches.epoch(order, batch_size):
        assert pixels.dtype == torch.uint8
        assert labels.dtype == indices.dtype == torch.int64
        assert pixels.permute(0, 2, 3, 1).is_contiguous()
        parts.append((pixels, labels, indices))
    assert [len(pixels) for pixels, _, _ in parts[:-1]] == [batch_size] * (len(parts) - 1)
    assert 0 < len(parts[-1][0]) <= batch_size
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


# --- pixels -------------------------------------------------------------------------------------


class Squash(CenterCropRGBImageDecoder):
    """FFCV's decoder, cutting out the central part of both sides."""

    @property
    def get_crop_generator(self):
        def central_part(height, width, _, ratio):
            h, w = int(ratio * height), int(ratio * width)
            return (height - h) // 2, (width - w) // 2, h, w

        return central_part


LOADERS = []  # kept: numba may fail over a compiled function that is collected


def ffcv_pixels(images: files.Images, crop: Crop) -> torch.Tensor:
    """All pixels [count, 3, side, side] as FFCV's own loader reads them."""
    side = int(crop.pct * images.side)
    decoder = {"center": CenterCropRGBImageDecoder, "squash": Squash}[crop.mode]((side, side), crop.pct)
    threads = torch.get_num_threads()
    try:
        loader = ffcv.Loader(
            str(images.path),
            batch_size=7,
            num_workers=1,
            os_cache=True,
            drop_last=False,
            pipelines={"image": [decoder, ToTensor()], "label": None, "index": [IntDecoder(), ToTensor()]},
        )
        LOADERS.append(loader)
        read = [(pixels.clone(), index.clone()) for pixels, index in loader]
    finally:
        torch.set_num_threads(threads)
    assert torch.cat([index for _, index in read]).flatten().tolist() == list(range(len(images.labels)))
    return torch.cat([pixels for pixels, _ in read]).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        ("mixed", Crop()),
        ("mixed", Crop(0.7)),
        ("mixed", Crop(0.83, "squash")),
        ("jpegs", Crop(0.875)),
        ("raw", Crop()),
        ("raw", Crop(0.75)),
        ("tall", Crop(0.83)),
        ("wide", Crop(0.83)),
    ],
)
def test_pixels_are_those_of_ffcvs_loader(request, workspace, name, crop):
    images = workspace.images if name == "raw" else request.getfixturevalue(name)
    batches = Batches(images, crop, workers=2)
    assert (batches._windows is not None) == (name in ("raw", "tall"))
    pixels, _, _ = all_of(batches, np.arange(len(images.labels)), 7)
    assert torch.equal(pixels, ffcv_pixels(images, crop))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> tuple[files.Images, list[Path]]:
    """JPEGs of many sizes, larger and smaller than models' inputs, and their files in order."""
    folder = tmp_path_factory.mktemp("photographs")
    grey, _ = fashion_mnist("train", 24)
    for part in ("train", "test"):
        (folder / part / "class0").mkdir(parents=True)
        for number, size in enumerate([(150, 100), (99, 201), (120, 120), (97, 64), (300, 151), (64, 99)]):
            image = Image.fromarray(np.moveaxis(grey[3 * number : 3 * number + 3], 0, -1).copy())
            image.resize(size).save(folder / part / "class0" / f"{number}.jpg", quality=90)
    source = spec.Images(source="image_folder", train=str(folder / "train"), test=str(folder / "test"))
    return files.prepare(source, folder / "data"), [
        *sorted(folder.glob("train/*/*")),
        *sorted(folder.glob("test/*/*")),
    ]


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize(("size", "interpolation"), [((96, 96), "bicubic"), ((65, 64), "bilinear")])
def test_what_a_model_is_evaluated_on_is_timms_to_the_bit(photographs, mode, pct, size, interpolation):
    images, paths = photographs
    config = {"input_size": (3, *size), "crop_pct": pct, "crop_mode": mode, "interpolation": interpolation}
    transform = timm.data.create_transform(**config, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    (pixels, _, indices) = all_of(Batches(images, Crop(pct, mode, size, interpolation), 2), np.arange(12), 5)
    classifier = zoo.Classifier(nn.Identity(), config | {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    for shown, path in zip(classifier(pixels), paths, strict=True):
        with Image.open(path) as image:
            torch.testing.assert_close(shown, transform(image), atol=1e-6, rtol=1e-6)
    assert indices.tolist() == list(range(12))


def test_raw_images_of_one_size_are_resized_on_the_device(workspace):
    order = np.arange(9)
    (as_large,) = Batches(workspace.images, Crop()).epoch(order, 9)
    (for_a_model,) = Batches(workspace.images, Crop(size=(224, 224))).epoch(order, 9)
    assert torch.equal(as_large[0], for_a_model[0])


def test_images_of_many_kinds_are_made_a_models_input(mixed):
    """Raw or JPEG, decoded by PIL or FFCV, they show the same but for the decoders' and filters' rounding."""
    small, large = (
        all_of(Batches(mixed, crop), np.arange(18), 4)[0] for crop in (Crop(size=(70, 70)), Crop())
    )
    assert small.shape == large.shape
    assert (small.float() - large.float()).abs().mean() < 6


def test_pixels_labels_and_indices_come_back_exactly(workspace, image_folder):
    files = [sample for part in ("train", "test") for sample in sorted((image_folder / part).rglob("*.png"))]
    order = np.random.default_rng(0).permutation(len(files))
    seen = []
    for pixels, labels, indices in workspace.batches(Crop()).epoch(order, 64):
        for image, label, index in zip(pixels, labels, indices, strict=True):
            path = files[index]
            expected = np.asarray(Image.open(path).convert("RGB"))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
            assert workspace.images.classes[label] == path.parent.name
            seen.append(int(index))
    assert seen == order.tolist()  # in order, the last partial batch included


@pytest.mark.parametrize("size", [(96, 64), (64, 96)])
def test_squash_keeps_the_central_part_of_both_sides(tmp_path, size):
    """As timm does: the whole image is made square, then its centre is cut out."""
    images, _ = fashion_mnist("train", 1)
    whole = Image.fromarray(images[0]).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    for part in ("train", "test"):
        (tmp_path / part / "class0").mkdir(parents=True)
        whole.save(tmp_path / part / "class0" / "0.png")
    source = spec.Images(source="image_folder", train=str(tmp_path / "train"), test=str(tmp_path / "test"))
    opened = files.prepare(source, tmp_path / "data")
    assert opened.side == 64
    for pct, side in ((1.0, 64), (0.75, 48)):
        batches = Batches(opened, Crop(pct, "squash"))
        ((pixels, _, _),) = batches.epoch(np.arange(1), 1)
        assert pixels.shape == (1, 3, side, side)
        square = np.asarray(whole.resize((64, 64), Image.Resampling.BOX), dtype=float)
        edge = (64 - side) // 2
        expected = square[edge : edge + side, edge : edge + side]
        assert np.abs(pixels[0].permute(1, 2, 0).numpy() - expected).mean() < 4  # JPEG, and its filter
        centre = Batches(opened, Crop(pct))
        ((other, _, _),) = centre.epoch(np.arange(1), 1)
        assert np.abs(other[0].permute(1, 2, 0).numpy() - expected).mean() > 8


@pytest.mark.parametrize(("crop", "sample"), [(Crop(0.01), "0"), (Crop(0.03), r"0 \(28 x 28 pixels\)")])
def test_a_crop_that_leaves_nothing_is_refused(mixed, crop, sample):
    with pytest.raises(StudyError, match=f"leaves nothing of sample {sample}"):
        Batches(mixed, crop)


# --- order --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    order=st.lists(st.integers(0, 2 * len(SIZES) - 1), min_size=1, max_size=40),
    batch_size=st.integers(1, 50),
    workers=st.integers(1, 3),
)
def test_any_order_comes_back_in_order(mixed, order, batch_size, workers):
    crop = Crop(0.7)
    one_by_one = torch.cat([p for p, _, _ in Batches(mixed, crop).epoch(np.arange(len(mixed.labels)), 1)])
    labelled = dataclasses.replace(mixed, labels=np.arange(len(mixed.labels)) + 100)
    pixels, labels, indices = all_of(Batches(labelled, crop, workers), np.array(order), batch_size)
    assert indices.tolist() == order
    assert (labels - 100).tolist() == order
    assert torch.equal(pixels, one_by_one[order])


def test_no_samples_give_no_batches(mixed):
    assert list(Batches(mixed, Crop()).epoch(np.array([]), 4)) == []


def test_a_sample_that_is_not_there_is_an_error(mixed):
    with pytest.raises(IndexError):
        list(Batches(mixed, Crop()).epoch(np.array([0, len(mixed.labels)]), 1))


def test_a_batch_is_the_consumers_own(mixed):
    order = np.arange(len(mixed.labels))
    batches = Batches(mixed, Crop(), 2)
    kept = list(batches.epoch(order, 4))
    copies = [pixels.clone() for pixels, _, _ in kept]
    for pixels, labels, indices in batches.epoch(order[::-1], 4):
        pixels.zero_(), labels.zero_(), indices.zero_()
    for (pixels, _, _), copy in zip(kept, copies, strict=True):
        assert torch.equal(pixels, copy)
    again, labels, indices = all_of(batches, order, 4)
    assert torch.equal(again, torch.cat(copies))
    assert indices.tolist() == order.tolist()
    assert labels.tolist() == mixed.labels.tolist()


# --- faults -------------------------------------------------------------------------------------


def decoders() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("decode")}


def before_decoding(batches: Batches, monkeypatch, action) -> None:
    """Have the threads call `action` with the samples that they are about to decode."""
    decode = batches._decode

    def wrapped(samples, into):
        action(samples)
        decode(samples, into)

    monkeypatch.setattr(batches, "_decode", wrapped)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_thread_raises_reaches_the_consumer(mixed, monkeypatch, workers):
    batches, got = Batches(mixed, Crop(), workers), []

    def fail(samples):
        if 9 in samples:
            raise OSError("no such luck")

    with monkeypatch.context() as patch:
        before_decoding(batches, patch, fail)
        with pytest.raises(OSError, match="no such luck"):
            got.extend(len(labels) for _, labels, _ in batches.epoch(np.arange(18), 4))
    assert got == [4, 4]
    assert len(all_of(batches, np.arange(18), 4)[0]) == 18


def test_a_thread_that_hangs_is_an_error(mixed, monkeypatch):
    monkeypatch.setattr(study_batches, "STUCK_AFTER", 0.2)
    batches, go_on, got, begin = Batches(mixed, Crop(), 2), threading.Event(), [], time.monotonic()

    def hang(samples):
        if 9 in samples:
            go_on.wait(PATIENCE)

    try:
        with monkeypatch.context() as patch:
            before_decoding(batches, patch, hang)
            with pytest.raises(StudyError, match=r"images\.beton: reading it hangs \(no .* 0\.2 s\)"):
                got.extend(len(labels) for _, labels, _ in batches.epoch(np.arange(18), 4))
        assert got == [4, 4]
        assert time.monotonic() - begin < 15
        assert len(all_of(batches, np.arange(18), 4)[0]) == 18  # while it still hangs
    finally:
        go_on.set()


@pytest.mark.parametrize("part", ["start", "middle"])
def test_a_damaged_jpeg_is_named(jpegs, tmp_path, part):
    copy = tmp_path / "images.beton"
    shutil.copy(jpegs.path, copy)
    reader = Reader(str(copy))
    (row,) = reader.alloc_table[reader.alloc_table["sample_id"] == 21]
    with copy.open("r+b") as stream:
        stream.seek(int(row["ptr"]) + (0 if part == "start" else int(row["size"]) // 2))
        stream.write(bytes(int(row["size"]) // 3))
    damaged = dataclasses.replace(jpegs, locate=lambda: copy)
    # PIL takes what is damaged in the middle as it is; there the file's checksum has to tell (test_files.py).
    by_pil = [(2, Crop(size=(64, 64)))] if part == "start" else []
    for workers, crop in [(1, Crop()), (2, Crop()), *by_pil]:
        with pytest.raises(StudyError, match=rf"{copy}: the JPEG of sample 21 is damaged; remove the folder"):
            list(Batches(damaged, crop, workers).epoch(np.arange(64), 8))
    assert len(all_of(Batches(damaged, Crop()), np.arange(21), 8)[0]) == 21


def test_a_consumer_that_leaves_early_leaves_no_work(mixed, monkeypatch):
    before = decoders()
    batches, go_on, begun = Batches(mixed, Crop()), threading.Event(), []

    def note(samples):
        begun.append(samples)
        if len(begun) > 1:
            go_on.wait(PATIENCE)

    with monkeypatch.context() as patch:
        before_decoding(batches, patch, note)
        epoch = batches.epoch(np.arange(18), 2)
        next(epoch)
        own = decoders() - before
        assert len(own) == 1
        epoch.close()
        go_on.set()
        batches._threads.submit(int).result(60)  # comes after all that was still to do
    assert len(begun) <= 2  # the batch that was taken, and the one at work: not all that were to come
    del batches, epoch
    gc.collect()
    until = time.monotonic() + 30
    while own & decoders() and time.monotonic() < until:
        time.sleep(0.01)
    assert not own & decoders()


def test_decoding_stays_a_few_batches_ahead(mixed, monkeypatch):
    batches, begun = Batches(mixed, Crop()), []
    before_decoding(batches, monkeypatch, begun.append)
    epoch = batches.epoch(np.arange(18), 1)
    next(epoch)
    batches._threads.submit(int).result(60)
    assert len(begun) == 1 + study_batches.AHEAD


def test_many_epochs_use_the_same_threads(mixed):
    before = decoders()
    batches = Batches(mixed, Crop(), 2)
    for _ in range(5):
        list(batches.epoch(np.arange(18), 4))
    assert 1 <= len(decoders() - before) <= 2


# --- fresh processes ----------------------------------------------------------------------------

FRESH = """
import dataclasses, hashlib, json, sys
from pathlib import Path
import numpy, torch
torch.set_num_threads(3)
from numba.core import event
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
from study.images.batches import Batches, Crop
from study.images.files import Images
path, side, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
images = Images(lambda: path, (), {}, side, "", numpy.zeros(count, dtype=int))
pixels, _, indices = next(Batches(images, Crop(0.7), 2).epoch(numpy.arange(count), count))
by_reading = len(compiled.buffer)
import numba
said = {
    "pixels": hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest(),
    "indices": indices.tolist(),
    "compiled": by_reading,
    "threads": torch.get_num_threads(),
    "numba works": numba.njit(lambda: 7)() == 7 and len(compiled.buffer) > by_reading,
}
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def fresh(mixed) -> list[dict]:
    """What four processes say that read their first batch at the same time."""
    command = [sys.executable, "-c", FRESH, str(mixed.path), str(mixed.side), str(len(mixed.labels))]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    return [json.loads(lines) for lines in said]


def test_four_cold_processes_read_the_same(mixed, fresh):
    order = np.arange(len(mixed.labels))
    pixels, _, _ = all_of(Batches(mixed, Crop(0.7)), order, 5)
    expected = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
    assert [said["pixels"] for said in fresh] == [expected] * 4
    assert [said["indices"] for said in fresh] == [order.tolist()] * 4


def test_reading_compiles_nothing(fresh):
    assert [said["compiled"] for said in fresh] == [0] * 4
    assert all(said["numba works"] for said in fresh)  # afterwards, and compiling is noticed


def test_torch_threads_stay_as_they_were(fresh, mixed):
    assert [said["threads"] for said in fresh] == [3] * 4
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(Batches(mixed, Crop()).epoch(np.arange(8), 4))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- kept crops ---------------------------------------------------------------------------------


def test_resident_crops_are_those_of_the_file(mixed):
    batches = Batches(mixed, Crop(0.7), 2)
    kept = Resident(batches, np.array([7, 3, 16, 4, 5, 3]))
    order = np.array([16, 3, 3, 5, 7, 4, 7])
    for batch_size in (1, 3, 50):
        for got, expected in zip(all_of(kept, order, batch_size), all_of(batches, order, 5), strict=True):
            assert torch.equal(got, expected)
    assert kept.nbytes == Resident.size(*batches.size, 5) == 5 * (3 * 49 * 49 + 8)


def test_more_resident_crops_than_a_batch_holds(workspace):
    order = np.random.default_rng(0).permutation(503)[:400]
    batches = workspace.batches(Crop())
    for got, expected in zip(
        all_of(Resident(batches, order), order, 64), all_of(batches, order, 64), strict=True
    ):
        assert torch.equal(got, expected)


def test_a_resident_batch_is_a_copy(mixed):
    kept = Resident(Batches(mixed, Crop()), np.arange(6))
    before = all_of(kept, np.arange(6), 6)
    for pixels, labels, indices in kept.epoch(np.arange(6), 2):
        pixels.zero_(), labels.fill_(9), indices.zero_()
    for old, new in zip(before, all_of(kept, np.arange(6), 6), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("stranger", [-1, 0, 4, 17])
def test_a_sample_that_is_not_resident_is_an_error(mixed, stranger):
    kept = Resident(Batches(mixed, Crop()), np.array([3, 5, 7]))
    with pytest.raises(ValueError, match=f"sample {stranger} is not among those kept"):
        list(kept.epoch(np.array([3, stranger, 5]), 4))


def test_nothing_resident_serves_nothing(mixed):
    kept = Resident(Batches(mixed, Crop()), np.array([]))
    assert kept.nbytes == 0
    assert list(kept.epoch(np.array([]), 4)) == []
    with pytest.raises(ValueError, match="not among those kept"):
        list(kept.epoch(np.array([1]), 4))
