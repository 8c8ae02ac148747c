"""Images into FFCV files: whole ones, exact splits, and no damaged file read silently."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import webdataset
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_sample_images

from study import contract, spec
from study.errors import StudyError
from study.images import files, sources, splits
from study.images import labels as class_maps
from study.images.batches import Batches, Crop
from study.models.timm_import import torchvision as sources_torchvision
from tests.conftest import fashion_mnist, write_image_folder


def folder_source(folder, **settings) -> spec.Images:
    return spec.Images(
        source="image_folder", train=str(folder / "train"), test=str(folder / "test"), **settings
    )


@pytest.fixture
def prepared(workspace, image_folder, tmp_path):
    """A copy of the prepared images to damage: (source, data folder, folder of the files)."""
    source = workspace.data.images
    target = tmp_path / "data"
    target.mkdir()
    folder = files.folder_of(source, target)
    shutil.copytree(workspace.images.path.parent, folder)
    return source, target, folder


def test_labels_and_subsets_are_those_of_the_folders(workspace):
    assert workspace.images.subsets == {"train": (0, 400), "test": (400, 503)}
    assert workspace.images.labels.shape == (503,)
    assert len(workspace.images.classes) == 10


def test_large_images_are_shrunk_and_written_as_jpeg(tmp_path):
    images, labels = fashion_mnist("train", 30)
    labels = labels % 2  # two classes, both in either part
    for part in ("train", "test"):
        write_image_folder(tmp_path / part, images, labels, size=160)
    source = folder_source(tmp_path, short_side=96)
    opened = files.prepare(source, tmp_path / "data")
    assert opened.side == 96
    sidecar = json.loads((opened.path.parent / "images.json").read_text())
    assert sidecar["counts"] == {"train": 30, "test": 30}
    assert sidecar["classes"] == ["class0", "class1"]
    assert (Reader(str(opened.path)).metadata["f0"]["mode"] == IMAGE_MODES["jpg"]).all()
    batches = Batches(opened, Crop(0.5))
    pixels, _, indices = next(iter(batches.epoch(np.arange(4), 4)))
    assert pixels.shape == (4, 3, 48, 48)
    file = sorted((tmp_path / "train").rglob("*.png"))[int(indices[0])]
    whole = Image.open(file).convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((24, 24, 72, 72)), dtype=float)
    assert np.abs(pixels[0].permute(1, 2, 0).numpy() - expected).mean() < 4  # JPEG of quality 95


def test_fashion_mnist_comes_from_debians_files(tmp_path):
    train, test = sources.fashion_mnist(tmp_path)
    assert (len(train), len(test)) == (60000, 10000)
    images, labels = fashion_mnist("t10k", 5)
    assert np.array_equal(np.asarray(test[3][0]), images[3])
    assert [label for _, label in (test[i] for i in range(5))] == labels.tolist()


def test_preparing_again_writes_nothing(workspace, prepared):
    source, target, folder = prepared
    before = (folder / "images.beton").stat().st_mtime_ns
    files.prepare(source, target)
    assert (folder / "images.beton").stat().st_mtime_ns == before


def test_what_a_study_sets_of_a_source_stands_in_its_signature():
    asked = {
        name: list(contract.settings_of(source).model_fields) for name, source in sources.SOURCES.items()
    }
    assert asked == {
        "fashion_mnist": [],
        "image_folder": ["train", "test"],
        "unlabelled_folder": ["train", "test", "classes"],
        "torchvision": ["dataset", "train", "test", "options"],
        "timm": ["dataset", "root", "train", "test"],
        "glyphs": ["domain", "folder", "characters", "side", "rarest"],
    }
    assert {contract.given(source) for source in sources.SOURCES.values()} == {("downloads",)}


class Shades:
    """A data set of one's own with the least it must have: images in two shades, no names of classes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return Image.new("L", (8, 8), 100 * (index % 2)), index % 2


def test_a_source_of_ones_own_is_written_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "fashion_mnist", lambda downloads: (Shades(6), Shades(3)))
    opened = files.prepare(spec.Images(source="fashion_mnist"), tmp_path)
    assert opened.classes == ("0", "1")
    assert opened.subsets == {"train": (0, 6), "test": (6, 9)}
    assert opened.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    pixels, _, _ = next(Batches(opened, Crop()).epoch(np.arange(2), 2))
    assert pixels.amax((1, 2, 3)).tolist() == [0, 100]


def test_folders_keep_their_names(tmp_path):
    assert files.folder_of(spec.Images(source="fashion_mnist"), tmp_path).name == "fashion_mnist-fe1ce05a"
    assert (
        files.folder_of(spec.Images(source="image_folder", train="a", test="b"), tmp_path).name
        == "image_folder-074b08dc"
    )


# --- damage -------------------------------------------------------------------------------------


def truncate(path):
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)


def flip_a_byte(path):
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("name", ["images.beton", "labels.npy", "images.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_byte, lambda path: path.unlink()])
def test_a_damaged_file_is_refused_by_name(prepared, name, damage):
    source, target, folder = prepared
    damage(folder / name)
    try:
        files.open_images(source, target)
    except StudyError as error:
        assert name in str(error)
        assert "prepare the data again" in str(error)
        assert ("truncated" in str(error)) == (damage is truncate and name != "images.json")
        assert "\n" not in str(error)
    else:
        # One flipped bit of the sidecar may leave the same meaning (white space, a class's name).
        assert name == "images.json"
        assert damage is flip_a_byte


def test_files_of_another_source_are_refused(prepared):
    source, target, folder = prepared
    sidecar = json.loads((folder / "images.json").read_text())
    sidecar["source"]["jpeg_quality"] = 50
    (folder / "images.json").write_text(json.dumps(sidecar))
    with pytest.raises(StudyError, match=r"images\.json: describes another source"):
        files.open_images(source, target)


@pytest.mark.parametrize("key", ["source", "files", "counts", "classes", "side"])
def test_a_sidecar_without_a_key_is_refused(prepared, key):
    source, target, folder = prepared
    sidecar = json.loads((folder / "images.json").read_text())
    del sidecar[key]
    (folder / "images.json").write_text(json.dumps(sidecar))
    with pytest.raises(StudyError, match=r"images\.json: the sidecar is missing or damaged"):
        files.open_images(source, target)


def test_a_half_written_folder_is_refused(prepared):
    source, target, folder = prepared
    (folder / "images.json").unlink()
    with pytest.raises(StudyError, match=r"images\.json"):
        files.prepare(source, target)


def test_data_not_prepared_are_refused(workspace, tmp_path):
    with pytest.raises(StudyError, match=r"not prepared; run jobs/data\.py"):
        files.open_images(workspace.data.images, tmp_path)


def test_an_empty_image_folder_is_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    with pytest.raises(StudyError, match=r"train: not a folder of images by class"):
        files.prepare(folder_source(tmp_path), tmp_path / "data")
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(StudyError, match=r"train: not a folder of images by class"):
        files.prepare(folder_source(tmp_path), tmp_path / "data")


def test_a_missing_image_folder_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"data\.images\.train"):
        files.prepare(folder_source(tmp_path), tmp_path / "data")


def test_an_unreadable_image_is_named_and_leaves_nothing_behind(tmp_path):
    images, labels = fashion_mnist("train", 20)
    for part in ("train", "test"):
        write_image_folder(tmp_path / part, images, labels % 2)
    bad = next((tmp_path / "train").rglob("*.png"))
    bad.write_bytes(b"not an image")
    with pytest.raises(StudyError, match=rf"{bad.name}: not a readable image .*repair or remove it"):
        files.prepare(folder_source(tmp_path), tmp_path / "data")
    assert not list((tmp_path / "data").glob("*image_folder*"))


def test_folders_with_different_classes_are_refused(tmp_path):
    images, labels = fashion_mnist("train", 20)
    write_image_folder(tmp_path / "train", images, labels % 2)
    write_image_folder(tmp_path / "test", images, labels % 3)
    with pytest.raises(StudyError, match=r"its classes are not those of .*class2"):
        files.prepare(folder_source(tmp_path), tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "words"), [("CIFAR11", "did you mean 'CIFAR10'"), ("Kitti", "could not provide|no training and")]
)
def test_a_torchvision_data_set_that_cannot_be_had_is_refused(tmp_path, name, words):
    with pytest.raises(StudyError, match=words):
        sources.torchvision(tmp_path, dataset=name)


# --- splits -------------------------------------------------------------------------------------


def test_the_demos_splits_are_as_documented():
    study = spec.load("studies/demo.yaml")
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 7000))
    images = files.Images(None, (), {"train": (0, 60000), "test": (60000, 70000)}, 28, "", labels)
    parts = splits.split(images, study.data.splits)
    assert {name: len(part) for name, part in parts.items()} == {
        "zoo": 30000,
        "tune": 5000,
        "fit": 0,
        "transfer": 6000,
        "evaluation": 35000,
    }
    assert np.isin(parts["transfer"], parts["zoo"]).all()
    for other in ("zoo", "tune"):
        assert not np.isin(parts["evaluation"], parts[other]).any()
    assert np.isin(np.arange(60000, 70000), parts["evaluation"]).all()
    again = splits.split(images, study.data.splits)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    other = splits.split(images, study.data.splits.model_copy(update={"seed": 1}))
    assert not np.array_equal(parts["transfer"], other["transfer"])


def test_without_a_zoo_split_nothing_trained_on_is_evaluated(workspace):
    parts = splits.split(workspace.images, spec.Splits(transfer=100, tune=50, evaluate_rest=True))
    assert len(parts["zoo"]) == 0
    sets = [set(parts[name]) for name in ("transfer", "tune", "evaluation")]
    assert [len(part) for part in sets] == [100, 50, 250 + 103]
    assert len(set.union(*sets)) == 503


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_stratified_keeps_every_classs_share(sizes, share, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    amount = int(share * len(labels))
    drawn = splits.stratified(np.arange(len(labels)), labels, amount, np.random.default_rng(seed))
    assert len(drawn) == len(set(drawn.tolist())) == amount
    assert (np.diff(drawn) > 0).all()
    for label, size in enumerate(sizes):
        assert abs((labels[drawn] == label).sum() - amount * size / len(labels)) <= 1


def test_more_than_there_is_is_refused(workspace):
    with pytest.raises(StudyError, match=r"data\.splits\.transfer: asks for 500 images of 400"):
        splits.split(workspace.images, spec.Splits(transfer=500))


def test_a_model_is_trained_on_the_transfer_set_and_more(workspace):
    parts, labels = workspace.splits, workspace.images.labels

    def drawn(images=None, seed=0, **changes):
        return splits.for_training(parts | changes, labels, images, seed)

    zoo, transfer, none = parts["zoo"], parts["transfer"], np.array([], dtype=np.int64)
    assert np.array_equal(drawn(), zoo)
    assert np.array_equal(drawn(100), transfer)
    assert np.isin(drawn(40), transfer).all()
    assert np.isin(transfer, drawn(150)).all()
    assert np.isin(drawn(150), zoo).all()
    assert not np.array_equal(drawn(150), drawn(150, seed=1))
    with pytest.raises(StudyError, match=r"weights\.images: asks for 201, but data\.splits\.zoo holds 200"):
        drawn(201)
    assert np.array_equal(drawn(zoo=none), transfer)
    assert np.array_equal(drawn(40, zoo=none), drawn(40))
    with pytest.raises(StudyError, match=r"asks for 101, but data\.splits\.transfer holds 100"):
        drawn(101, zoo=none)


def test_what_a_model_is_trained_on_is_what_it_was():
    labels = np.arange(30) % 3
    parts = {"zoo": np.arange(20), "transfer": np.arange(0, 20, 2)}
    assert splits.for_training(parts, labels, 6, 0).tolist() == [0, 2, 10, 12, 14, 16]
    assert splits.for_training(parts, labels, 13, 1).tolist() == [0, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 19]


# --- what sources really hold -------------------------------------------------------------------


def pictures(folder, classes=("a", "b", "c"), shape=(40, 48)):
    """A folder of noise in both parts, three PNGs a class."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for number in range(3):
                noise = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / part / name / f"{number}.png")
    return folder_source(folder)


def whole(opened) -> dict[int, np.ndarray]:
    """The pixels of all images, by index."""
    batches = Batches(opened, Crop(1.0))
    found = {}
    for pixels, _, indices in batches.epoch(np.arange(len(opened.labels)), 4):
        found |= dict(zip(indices.tolist(), pixels.permute(0, 2, 3, 1).numpy(), strict=True))
    return found


def test_images_of_a_version_that_ordered_numbers_as_text_are_refused(tmp_path):
    """Every model of ImageNetV2 was held against wrong labels."""
    source, data = pictures(tmp_path, ["0", "2", "10"]), tmp_path / "data"
    path = files.prepare(source, data).path.parent / "images.json"
    sidecar = json.loads(path.read_text())
    older = {key: sidecar[key] for key in ("source", "counts", "classes", "side", "writer", "files")}
    path.write_text(json.dumps(older))
    files.prepare(source, data)
    path.write_text(json.dumps({**older, "classes": ["0", "10", "2"]}))
    with pytest.raises(StudyError, match="took 10 for a class before 2; remove it"):
        files.prepare(source, data)


def test_photographs_are_kept_as_they_are_where_they_are_not_shrunk(tmp_path):
    """Byte for byte; too large ones, and those that are not RGB, are written once more."""
    source, photo = pictures(tmp_path), Image.fromarray(load_sample_images().images[0])
    small, folder = photo.crop((0, 0, 300, 200)), tmp_path / "train" / "a"
    for name, image in {
        "3": small,
        "4": small.convert("L"),
        "5": small.convert("CMYK"),
        "6": photo.resize((900, 600)),
        "7": small.resize((60, 40)),
    }.items():
        image.save(folder / f"{name}.jpg", quality=60)
    small.save(folder / "8.jpg", progressive=True, quality=60)
    opened = files.prepare(source, tmp_path / "data")
    reader = Reader(str(opened.path))
    image = reader.metadata["f0"]
    assert image["mode"][3:9].tolist() == [0, 0, 0, 0, 1, 0]
    assert image["width"][3:9].tolist() == [300, 300, 300, 576, 60, 300]
    content = opened.path.read_bytes()
    for number, kept in {3: True, 4: False, 5: False, 6: False, 8: True}.items():
        (row,) = np.flatnonzero(reader.alloc_table["sample_id"] == number)[:1]
        start, size = image["data_ptr"][number], reader.alloc_table["size"][row]
        written = content[start : start + size]
        assert (written == (folder / f"{number}.jpg").read_bytes()) is kept
    decoded = whole(opened)
    with Image.open(folder / "8.jpg") as progressive:
        expected = np.asarray(progressive.crop((50, 0, 250, 200)).resize((384, 384))).astype(int)
    assert np.abs(decoded[8].astype(int) - expected).mean() < 3


class Deadly:
    """A data set whose images end the process that asks for them."""

    classes = ("a", "b")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("soon", [False, True])
def test_a_writer_that_is_killed_ends_in_a_sentence(tmp_path, monkeypatch, soon):
    """Also where all are dead before anyone has looked."""
    if soon:
        start = multiprocessing.Process.start
        monkeypatch.setattr(multiprocessing.Process, "start", lambda self: (start(self), self.join()))
    monkeypatch.setitem(sources.SOURCES, "deadly", lambda downloads: (Deadly(), Deadly()))
    with pytest.raises(StudyError, match="was ended by the machine"):
        files.prepare(spec.Images(source="deadly"), tmp_path / "data")
    assert not list((tmp_path / "data").glob("deadly*"))


# --- timm's factory -----------------------------------------------------------------------------


def test_timms_factory_has_torchvisions_sets(tmp_path):
    source = spec.Images(source="timm", dataset="torch/fashion_mnist", train="train", test="validation")
    sources.fashion_mnist(tmp_path)  # puts the files where torchvision looks for them
    train, test = source.function(tmp_path, **source.settings)
    assert (len(train), len(test)) == (60000, 10000)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("torch/nothing", r"timm could not provide 'train' of 'torch/nothing' \(Unknown torchvision"),
        ("hfds/nobody/nothing", r"timm could not provide 'train' of 'hfds/nobody/nothing'"),
    ],
)
def test_what_timms_factory_does_not_have_is_told(tmp_path, dataset, words):
    source = spec.Images(source="timm", dataset=dataset, train="train", test="test")
    with pytest.raises(StudyError, match=rf"data\.images\.train: {words}"):
        files.prepare(source, tmp_path / "data")


def test_a_damaged_image_of_timms_factory_is_told_not_replaced(tmp_path):
    pictures(tmp_path)
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"no image")
    source = spec.Images(source="timm", dataset="", root=str(tmp_path), train="train", test="test")
    with pytest.raises(StudyError, match="not a readable image"):
        files.prepare(source, tmp_path / "data")


def test_timms_streams_are_written_like_folders(tmp_path):
    """Shards of WebDataset, through timm's reader."""
    pictures(tmp_path, ["0", "1", "2"])
    info = {"splits": {}}
    for part in ("train", "test"):
        paths = sorted((tmp_path / part).rglob("*.png"))
        with webdataset.TarWriter(str(tmp_path / f"{part}-00.tar")) as shard:
            for number, path in enumerate(paths):
                label = path.parent.name.encode()
                shard.write({"__key__": f"{number:04}", "png": path.read_bytes(), "cls": label})
        names = {"name": part, "filenames": [f"{part}-00.tar"], "shard_lengths": [len(paths)]}
        info["splits"][part] = names | {"num_samples": len(paths)}
    (tmp_path / "_info.json").write_text(json.dumps(info))

    def streamed(data: Path) -> files.Images:
        about = {"dataset": "wds/any", "root": str(tmp_path), "train": "train", "test": "test"}
        return files.prepare(spec.Images(source="timm", **about), tmp_path / data)

    found, expected = streamed("data"), files.prepare(folder_source(tmp_path), tmp_path / "data")
    assert (found.classes, found.subsets) == (expected.classes, expected.subsets)
    assert sorted((int(found.labels[n]), pixels.tobytes()) for n, pixels in whole(found).items()) == sorted(
        (int(expected.labels[n]), pixels.tobytes()) for n, pixels in whole(expected).items()
    )
    assert not list((tmp_path / "data").rglob("stream-*"))

    info["splits"]["test"]["num_samples"] += 1  # as where timm has passed over a damaged one
    (tmp_path / "_info.json").write_text(json.dumps(info))
    with pytest.raises(StudyError, match=r"images\.test: 'test' of 'wds/any' gave \d+ images, but says"):
        streamed("again")


# --- torchvision's ------------------------------------------------------------------------------


def test_parts_of_torchvisions_sets_are_called_as_these_call_them(tmp_path):
    """Imagenette's are train and val, and its classes WordNet ids beside their names."""
    images, _ = fashion_mnist("train", 40)
    ids = list(class_maps.class_map("imagenette"))
    for part, count in (("train", 40), ("val", 20)):
        for number in range(count):
            path = tmp_path / "data/downloads/imagenette2" / part / ids[number % 10] / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).convert("RGB").resize((80, 80)).save(path)
    about = {"dataset": "Imagenette", "options": {"size": "full"}}
    source = spec.Images(source="torchvision", test="val", **about)
    found = files.prepare(source, tmp_path / "data")
    assert found.subsets == {"train": (0, 40), "test": (40, 60)}
    assert sorted(found.classes) == sorted(ids)
    assert class_maps.chosen(spec.Data(images=source, splits={"transfer": 1}), found.classes)[0] == 0
    with pytest.raises(
        StudyError, match=r"could not provide Imagenette \(.*test.*correct train, test or options"
    ):
        files.prepare(spec.Images(source="torchvision", **about), tmp_path / "data")


def test_options_of_torchvisions_sets_are_passed_on(tmp_path, monkeypatch):
    """EMNIST's split names letters or digits, not its parts."""
    asked = []
    kind = sources_torchvision.datasets.EMNIST
    monkeypatch.setattr(kind, "__init__", lambda self, root, split, **rest: asked.append((split, rest)))
    sources.torchvision(tmp_path, dataset="EMNIST", options={"split": "letters"})
    assert asked == [("letters", {"train": part, "download": True}) for part in (True, False)]


def test_what_is_fitted_on_is_taken_out_of_tune_and_leaves_other_splits_alone():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 250))
    images = files.Images(None, (), {"train": (0, 800), "test": (800, 1000)}, 28, "", labels)
    before = splits.split(images, spec.Splits(zoo=400, tune=200, transfer=100, evaluate_rest=True))
    after = splits.split(images, spec.Splits(zoo=400, tune=200, fit=0.25, transfer=100, evaluate_rest=True))
    assert len(after["fit"]) == 50
    assert sorted([*after["fit"], *after["tune"]]) == list(before["tune"])
    for name in ("zoo", "transfer", "evaluation"):
        assert np.array_equal(after[name], before[name])
    assert np.bincount(labels[after["fit"]]).min() >= 12


def test_images_to_learn_from_need_no_classes(tmp_path):
    """Those in train/ lie anywhere; the classes are those of the others."""
    write_image_folder(tmp_path / "train" / "2026", *fashion_mnist("train", 12))
    write_image_folder(tmp_path / "test", *fashion_mnist("t10k", 40))
    (tmp_path / "train" / "notes.txt").write_text("no image")
    parts = {part: str(tmp_path / part) for part in ("train", "test")}
    source = spec.Images(source="unlabelled_folder", **parts)
    opened = files.prepare(source, tmp_path / "data")
    assert opened.subsets == {"train": (0, 12), "test": (12, 52)} and opened.passed_over == {".txt": 1}
    assert (opened.labels[:12] == sources.UNKNOWN).all()
    assert sorted(set(opened.labels[12:])) == list(range(len(opened.classes)))
    pixels, labels, _ = next(Batches(opened, Crop()).epoch(np.arange(12), 12))
    first = sorted((tmp_path / "train").rglob("*.png"))[0]
    assert np.array_equal(pixels[0, 0].numpy(), np.asarray(Image.open(first)))
    assert labels.tolist() == [sources.UNKNOWN] * 12
    next((tmp_path / "train").rglob("*.png")).rename(tmp_path / "train" / "other.png")
    with pytest.raises(StudyError, match="has changed since"):
        files.prepare(source, tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="holds no images"):
        files.prepare(
            spec.Images(source="unlabelled_folder", **parts | {"train": str(tmp_path / "empty")}), tmp_path
        )


def test_where_no_image_has_a_class_one_says_how_many_there_are(tmp_path):
    write_image_folder(tmp_path / "train", *fashion_mnist("train", 12))
    folder = {"source": "unlabelled_folder", "train": str(tmp_path / "train")}
    opened = files.prepare(spec.Images(**folder, classes=10), tmp_path / "data")
    assert opened.subsets == {"train": (0, 12), "test": (12, 12)}
    assert opened.classes == tuple("0123456789") and (opened.labels == sources.UNKNOWN).all()
    files.prepare(spec.Images(**folder, classes=10), tmp_path / "data")
    for both in ({}, {"classes": 10, "test": str(tmp_path / "train")}):
        with pytest.raises(StudyError, match=r"either test, .* or the number of classes"):
            files.prepare(spec.Images(**folder, **both), tmp_path / "data")
    with pytest.raises(ValidationError, match="classes"):
        spec.Images(**folder, classes=1)
