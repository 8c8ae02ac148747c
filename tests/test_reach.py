"""What users really have, case by case: each was found in public reports, or by running the product.

The letters and numbers are the cases' own: `r1` to `r14` are what bug reports of timm, torchvision, Pillow
and others say that users meet with; `i`, `m`, `c`, `s`, `l`, `r` and `d` were found by trying (images,
models, checkpoints, studies, messages, reports, durability). Each stands for a kind, whose own tests lie
beside the module that it belongs to.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

from analysis import report
from jobs import _console
from study import frozen, spec, transfer
from study import workspace as workspaces
from study.errors import StudyError
from study.images import files, labels
from study.images.batches import Batches, Crop
from study.models import weights, zoo
from study.models.timm_import import timm, torchvision
from study.workspace import Workspace
from tests.analysis import sweeps
from tests.conftest import LOOK, fashion_mnist, write_image_folder
from tests.jobs.running import ROOT, refused, run, run_here
from tests.study.models.test_tensor_files import WRITTEN

SWEEP = "jobs/transfer_sweep.py"
SEEDED = {"source": "seed", "seed": 0}
MIXER = {"timm": "tiny_mixer", "family": "mlp", "config": LOOK, "weights": SEEDED}


def pictures(folder: Path, classes=("a", "b", "c"), train: int = 7, test: int = 4) -> Path:
    """An image folder of noise, PNGs of 48 x 40 pixels by class."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                noise = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / part / name / f"{number}.png")
    return folder


def source_of(folder: Path, **settings) -> spec.Images:
    parts = {part: str(folder / part) for part in ("train", "test")}
    return spec.Images(source="image_folder", **parts, **settings)


@pytest.fixture
def own(tmp_path) -> dict:
    """The content of a user's first study: their own images, two models that know nothing."""
    pictures(tmp_path / "images")
    return {
        "name": "first",
        "data": {
            "images": source_of(tmp_path / "images").model_dump(mode="json", exclude_unset=True),
            "splits": {"transfer": 1.0},
        },
        "zoo": {"one": MIXER, "two": MIXER | {"weights": {"source": "seed", "seed": 1}}},
        "pairs": "all",
        "methods": {"kl_dp": {"lr": 0.01}},
        "budget": {"epochs": 1, "batch_size": 4},
        "resources": {"cpus": 1},
        "folders": {name: str(tmp_path / name) for name in ("data", "zoo", "outputs", "results")},
    }


@pytest.fixture
def plan(tmp_path):
    """A function that says what a sweep of a study would do, or how it is refused."""

    def plan(content: dict, job: str = SWEEP, *arguments: str):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return run_here(job, path, *(arguments or ["--dry-run"] * (job == SWEEP)))

    return plan


def opened(content: dict) -> tuple[spec.Study, Workspace]:
    """A study, and its workspace, with its images written."""
    study = spec.Study.model_validate(content)
    files.prepare(study.data.images, study.folders.data)
    return study, Workspace(study.data, study.folders, "cpu", threads=1)


def pixels_of(found: files.Images) -> dict[int, np.ndarray]:
    """All images as they are stored [height, width, 3], by index."""
    batches = Batches(found, Crop(1.0))
    read = {}
    for pixels, _, indices in batches.epoch(np.arange(len(found.labels)), 4):
        read |= dict(zip(indices.tolist(), pixels.permute(0, 2, 3, 1).numpy(), strict=True))
    return read


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRITTEN, "safetensors called .bin"])
def test_r1_c01_c04_c05_c06_weights_as_training_scripts_write_them(own, tmp_path, name):
    """With the logits of the network that was saved."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    if name in WRITTEN:
        torch.save(WRITTEN[name](network.state_dict()), tmp_path / "w.bin")
    else:
        tensors = {f"module.{key}": tensor.contiguous() for key, tensor in network.state_dict().items()}
        safetensors.torch.save_file(tensors, tmp_path / "w.bin")
    own["zoo"]["one"] = {
        "timm": "test_resnet",
        "family": "cnn",
        "config": LOOK,
        "weights": {"source": "file", "path": str(tmp_path / "w.bin")},
    }
    study = weights.pinned(spec.Study.model_validate(own))
    loaded = weights.load(study.zoo["one"], study.data, 3, study.folders)
    pixels = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        expected = network((pixels / 255 - LOOK["mean"][0]) / LOOK["std"][0])
        torch.testing.assert_close(loaded(pixels), expected)


CHECKPOINTS = {
    "c06-whole-model": (lambda n: n, ["holds Python objects", "torch.save(model.state_dict(), FILE)"]),
    "c04-top-keys": (lambda n: {"epoch": 3, "lr": 0.1}, ["no tensors by name, but epoch, lr"]),
    "c08-lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", ["git lfs pull"]),
    "c10-other-head": (
        lambda n: timm.create_model("test_resnet", num_classes=4).state_dict(),
        ["fc.weight [4, 96], not [3, 96]"],
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_that_are_refused_say_what_they_hold(own, tmp_path, plan, case):
    content, words = CHECKPOINTS[case]
    if isinstance(content, bytes):
        (tmp_path / "w.pth").write_bytes(content)
    else:
        torch.save(content(timm.create_model("test_resnet", num_classes=3)), tmp_path / "w.pth")
    own["zoo"]["one"] = {
        "timm": "test_resnet",
        "family": "cnn",
        "weights": {"source": "file", "path": str(tmp_path / "w.pth")},
    }
    done = plan(own, "jobs/zoo.py")
    refused(done, "w.pth", "one", *words)
    assert "\x1b" not in done.stderr


def test_c09_a_folder_in_place_of_a_checkpoint(own, tmp_path, plan):
    own["zoo"]["one"] = MIXER | {"weights": {"source": "file", "path": str(tmp_path)}}
    refused(plan(own), "a folder, not the file of weights", "local-dir:")


def test_s05_a_checkpoint_in_the_home_folder(own, tmp_path, plan, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(zoo.build(spec.Model(**MIXER, name="m"), 3).network.state_dict(), tmp_path / "w.pth")
    own["zoo"]["one"] = MIXER | {"weights": {"source": "file", "path": "~/w.pth"}}
    assert plan(own).returncode == 0


def test_r4_weights_of_the_hub_with_another_number_of_classes(own, plan):
    own["zoo"]["one"] = {"timm": "resnet18.a1_in1k", "family": "cnn", "kwargs": {"num_classes": 3}}
    refused(plan(own), "zoo.one.kwargs.num_classes", "1000 classes", "random")
    phases = [{"train": "head", "epochs": 1, "lr": 0.1}]
    own["zoo"]["one"]["weights"] = {"source": "trained", "start": {"source": "hub"}, "phases": phases}
    assert plan(own).returncode == 0


def test_r7_the_size_that_a_model_is_tested_with():
    fields = {"name": "m", "timm": "resnet18.a1_in1k", "family": "cnn", "weights": SEEDED}
    trained, tested = (spec.Model(**fields, config=config) for config in ({}, {"size": "test"}))
    assert (zoo.build(trained, 1000).size, zoo.crop_of(trained).pct) == ((224, 224), 0.95)
    assert (zoo.build(tested, 1000).size, zoo.crop_of(tested).pct) == ((288, 288), 1.0)
    assert tested.model_dump(mode="json")["config"]["size"] == "test"


@pytest.mark.parametrize("name", ["levit_128s", "test_resnet"])
def test_r8_m12_a_last_batch_of_one(own, name):
    """21 images, four at a time; LeViT has BatchNorm behind its pooling."""
    config = {"input_size": [3, 224, 224] if name == "levit_128s" else [3, 28, 28]}
    own["zoo"]["one"] = {"timm": name, "family": "cnn", "config": config, "weights": SEEDED}
    study, place = opened(own)
    (trial,) = [trial for trial in study.trials() if trial.student.name == "one"]
    outcome = transfer.run(trial, place)
    assert outcome.row["status"] == "ok"
    assert np.isfinite(outcome.history["loss"]).all()


def test_m01_a_strided_branch_of_one_pixel(own):
    """RepVGG's stem; with its weights in channels-last order torch corrupted the heap, and aborted."""
    own["zoo"]["one"] = {
        "timm": "repvgg_a0",
        "family": "cnn",
        "config": {"input_size": [3, 64, 64]},
        "weights": SEEDED,
    }
    own["budget"]["epochs"] = 2
    study, place = opened(own)
    (trial,) = [trial for trial in study.trials() if trial.student.name == "one"]
    outcome = transfer.run(trial, place)
    assert np.isfinite(outcome.history["loss"]).all()
    strided = [m for m in outcome.student.network.modules() if getattr(m, "stride", 1) == (2, 2)]
    assert all(one.weight.is_contiguous() for one in strided if one.kernel_size == (1, 1))


def test_r11_l06_what_timm_loads_by_scheme(own, plan, repository):
    name, commit, _ = repository
    own["zoo"] = {
        "theirs": {"timm": f"hf-hub:{name}", "family": "cnn"},
        "timms": {"timm": "timm/resnet50.a1_in1k", "family": "cnn"},
        "older": {"timm": "vit_base_patch16_224_in21k", "family": "transformer"},
    }
    found = weights.pinned(spec.Study.model_validate(own)).zoo
    assert found["theirs"].weights.repository == f"{name}@{commit}"
    assert found["timms"].timm == "resnet50.a1_in1k"
    assert found["older"].timm == "vit_base_patch16_224.augreg_in21k"
    own["zoo"]["theirs"]["timm"] = "local-dir:not here"
    refused(plan(own), "not here", "zoo.theirs.timm")


def test_r12_weights_that_are_nan_with_live_outputs(own):
    """Data partitioning would never listen to such a teacher, without a word."""
    own["outputs"] = "live"
    study = spec.Study.model_validate(own)
    files.prepare(study.data.images, study.folders.data)
    place = Workspace(study.data, study.folders, "cpu", threads=1, cached=False)
    model = place.load(study.zoo["one"])
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(StudyError, match=r"zoo\.one: its outputs are not finite; give it other weights"):
        frozen.Frozen(place, model, workspaces.View(Crop()), 1).prefetch()


class Keeps(torch.nn.Module):
    """A network that keeps what its first forward pass makes of its weights, as some do positions."""

    def __init__(self, network):
        super().__init__()
        self.network, self.table = network, None

    def forward(self, pixels):
        if self.table is None:
            self.table = 1 + 0 * self.network.get_classifier().weight.mean()
        return self.network(pixels) * self.table


def test_f8_a_tensor_that_is_kept_from_an_evaluation(own):
    study, place = opened(own)
    student = place.student(study.zoo["one"])
    student.network = Keeps(student.network)
    place.predict(student)
    student.train()(torch.zeros(2, 3, 28, 28, dtype=torch.uint8)).sum().backward()


STUDIES = {
    "m04": ("zoo.one.kwargs", {"in_chans": 1}, "in_chans: images have 3 channels"),
    "m06": ("zoo.one.config", {"std": [0, 0, 0]}, "zoo.one.config.std.0", "greater than 0"),
    "m07": ("zoo.one.config", {"mean": [123.7, 116.3, 103.5]}, "zoo.one.config.mean", "divide by 255"),
    "m08": ("zoo.one.config", {"crop_pct": "0.9"}, "zoo.one.config.crop_pct", "valid number (it says '0.9')"),
    "m09-mode": ("zoo.one.config", {"crop_mode": "centre"}, "zoo.one.config.crop_mode", "'center'"),
    "m09-share": ("zoo.one.config", {"crop_pct": 0}, "zoo.one.config.crop_pct", "greater than 0"),
    "m10-config": ("zoo.one.config", {"interpolatoin": "bilinear"}, "did you mean 'interpolation'?"),
    "m10-kwargs": ("zoo.one.kwargs", {"patchsize": 4}, "zoo.one", "did you mean 'patch_size'?"),
    **{
        f"m11-{number}": ("zoo.one.config", {"input_size": size}, "input_size", "[3, height, width]")
        for number, size in enumerate((96, [96, 96], [96, 96, 3]))
    },
    "s04": ("folders.data", "$HOME/x", "folders.data", "variables are not replaced here"),
    "s06": ("zoo", {"../../escaped": MIXER, "two": MIXER}, "zoo.../../escaped", "may hold letters"),
    "l05": ("pairs", [["one", "one"], ["one", "two"]], "pairs", "'one' is paired with itself"),
    "l07-lr": ("methods.kl_dp.lr", True, "methods.kl_dp.lr", "should be a number (it says true)"),
    "l07-epochs": ("budget.epochs", True, "budget.epochs", "should be a number (it says true)"),
    "l07-seed": ("zoo.one.weights.seed", False, "zoo.one.weights.seed", "should be a number"),
}


@pytest.mark.parametrize("case", STUDIES)
def test_studies_that_are_refused_before_anything_runs(own, plan, case):
    place, value, *words = STUDIES[case]
    content = copy.deepcopy(own)
    *above, last = place.split(".")
    section = content
    for key in above:
        section = section[key]
    section[last] = value
    refused(plan(content), *words)


def test_l08_a_study_of_many_brackets(tmp_path):
    (tmp_path / "study.yaml").write_text("a: " + "[" * 3000 + "]" * 3000)
    refused(run_here(SWEEP, tmp_path / "study.yaml"), "not valid YAML")


def test_l04_a_seed_said_twice(own, plan):
    own["seeds"] = [0, 0]
    assert "2 pairs, 1 seeds" in plan(own).stdout


def test_s04_the_home_folder_is_meant_by_its_sign(own, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    own["folders"]["results"] = "~/res"
    assert spec.Study.model_validate(own).folders.results == Path("/home/somebody/res")


def test_l01_an_atlas_of_models_that_know_nothing(own, plan):
    done = plan(own, "jobs/atlas.py")
    refused(done, "there is 0 (2 of random weights, which know nothing, are the chance")


def test_l03_images_that_are_not_where_the_study_says(own, plan):
    own["data"]["images"]["train"] = "nowhere/train"
    planned = plan(own)
    assert planned.returncode == 0
    assert f"data: {ROOT / 'nowhere' / 'train'} is not there" in "".join(planned.stdout.split("\n"))


# --- images ---------------------------------------------------------------------------------------


def test_r2_classes_that_are_numbers(tmp_path):
    """As ImageNetV2 is distributed; sorted as text, every label would be another class's."""
    names = ("0", "1", "2", "10", "11")
    found = files.prepare(source_of(pictures(tmp_path, names, 2, 1)), tmp_path / "data")
    assert found.classes == names
    train = torchvision.datasets.ImageFolder(tmp_path / "train")  # in the order of text
    assert [found.classes[label] for label in found.labels[: len(train)]] == [
        Path(path).parent.name for path, _ in train.samples
    ]
    data = spec.Data(images=source_of(tmp_path), splits={"transfer": 1}, class_map="imagenet_v2")
    assert labels.chosen(data, found.classes) == (0, 1, 2, 10, 11)


def test_r3_a_subset_of_imagenet_by_its_ids(own, tmp_path, plan):
    ids = [labels.ImageNetInfo().label_names()[index] for index in (7, 3, 900)]
    own["data"]["images"] = source_of(pictures(tmp_path / "some", ids)).model_dump(exclude_unset=True)
    own["zoo"] = {
        name: {"timm": "test_resnet", "family": "cnn", "kwargs": {"num_classes": 1000}, "weights": SEEDED}
        for name in ("one", "two")
    }
    own["zoo"]["two"]["weights"] = {"source": "seed", "seed": 1}
    study, place = opened(own)
    assert place.chosen == tuple(sorted((3, 7, 900), key=lambda n: labels.ImageNetInfo().label_names()[n]))
    assert transfer.run(study.trials()[0], place).row["classes"] == 3


def test_r5_pixels_are_timms_own(tmp_path):
    """Of a JPEG photograph, to the bit of its floats."""
    photograph = Image.fromarray(load_sample_images().images[0]).crop((0, 0, 300, 200))
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        photograph.save(tmp_path / part / "a" / "0.jpg", quality=90)
    found = files.prepare(source_of(tmp_path), tmp_path / "data")
    classifier = zoo.build(spec.Model(name="m", timm="test_resnet", family="cnn", weights=SEEDED), 1000)
    seen = []
    classifier.network.forward = lambda x: seen.append(x) or x
    ((pixels, _, _),) = Batches(found, classifier.input).epoch(np.arange(1), 1)
    classifier(pixels)
    config = timm.data.resolve_data_config({}, model=classifier.network)
    transform = timm.data.create_transform(**config)
    with Image.open(tmp_path / "train" / "a" / "0.jpg") as image:
        torch.testing.assert_close(seen[0][0], transform(image), atol=1e-6, rtol=1e-6)


def test_r6_images_smaller_than_a_model_sees(own, plan):
    own["data"]["images"]["short_side"] = 20
    done = plan(own, "jobs/zoo.py")
    assert "kept with 20 pixels a side, which 2 models see enlarged (one, two)" in done.stdout
    assert "data.images.short_side: auto, 28, none does" in done.stdout
    own["data"]["images"]["short_side"] = "auto"
    assert zoo.sized(spec.Study.model_validate(own)).data.images.short_side == 28


def test_r9_i07_grey_values_of_16_bits(tmp_path):
    pictures(tmp_path)
    ramp = np.linspace(0, 65535, 40 * 48).astype(np.uint16).reshape(40, 48)
    Image.fromarray(ramp).save(tmp_path / "train" / "a" / "0.png")
    stored = pixels_of(files.prepare(source_of(tmp_path), tmp_path / "data"))[0]
    np.testing.assert_array_equal(stored, np.repeat((ramp >> 8)[:, 4:44, None], 3, axis=2))


def test_i07_grey_values_of_no_known_range(tmp_path):
    pictures(tmp_path)
    Image.fromarray(np.random.rand(40, 48).astype(np.float32)).save(tmp_path / "train" / "a" / "f.tif")
    with pytest.raises(StudyError, match=r"f\.tif: not a readable image \(its grey values have no known"):
        files.prepare(source_of(tmp_path), tmp_path / "data")


def test_r10_i09_what_is_no_class_and_no_image(own, tmp_path, plan):
    for part in ("train", "test"):
        folder = tmp_path / "images" / part
        (folder / ".ipynb_checkpoints").mkdir()
        shutil.copy(folder / "a" / "0.png", folder / ".ipynb_checkpoints")
        for name in ("x.HEIC", "y.JPEG.txt", "z.avif"):
            (folder / "a" / name).write_bytes(b"x")
    said = " ".join(plan(own, "jobs/data.py").stdout.split())
    assert "files that are no images were passed over: " in said
    assert all(f"2 {suffix}" in said for suffix in (".HEIC", ".txt", ".avif"))
    _, place = opened(own)
    assert place.images.classes == ("a", "b", "c")
    assert place.images.passed_over == {".HEIC": 2, ".txt": 2, ".avif": 2}


def test_r13_two_writers_at_once(tmp_path):
    """Whose locks and processes begin in the same moment."""
    for part in ("train", "test"):
        images, numbers = fashion_mnist("train", 40)
        write_image_folder(tmp_path / part, images, numbers % 2)
    found, errors = [], []

    def prepare():
        try:
            found.append(files.prepare(source_of(tmp_path), tmp_path / "data"))
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=prepare) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert found[0].sha256 == found[1].sha256
    assert [path.name for path in (tmp_path / "data").iterdir()] == [found[0].path.parent.name]


def test_r14_timms_data_sets(tmp_path):
    """A folder through timm's factory, which knows the hub's and WebDataset's, too."""
    ours = files.prepare(source_of(pictures(tmp_path, ["1", "2", "10"])), tmp_path / "data")
    about = {"dataset": "", "root": str(tmp_path), "train": "train", "test": "test"}
    theirs = files.prepare(spec.Images(source="timm", **about), tmp_path / "data")
    assert (theirs.classes, theirs.subsets) == (ours.classes, ours.subsets) and ours.classes[2] == "10"

    def content(found) -> set:
        return {(int(found.labels[index]), pixels.tobytes()) for index, pixels in pixels_of(found).items()}

    assert content(theirs) == content(ours)


def test_i01_an_image_too_large_for_a_page(tmp_path):
    pictures(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (384, 20000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "train" / "a" / "pan.png", compress_level=0)
    with pytest.raises(StudyError, match=r"pan\.png: cannot be written \(Tried allocating .*shrink it"):
        files.prepare(source_of(tmp_path), tmp_path / "data")


def test_i03_an_unreadable_image_whose_name_is_no_text(tmp_path):
    pictures(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path / "train" / "a") + b"/\xff\xfe.png")).write_bytes(b"garbage")
    with pytest.raises(StudyError, match=r"\\udcff\\udcfe\.png: not a readable image"):
        files.prepare(source_of(tmp_path), tmp_path / "data")


def test_i04_i05_images_that_changed_since_they_were_written(tmp_path):
    source, data = source_of(pictures(tmp_path)), tmp_path / "data"
    files.prepare(source, data)
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "b" / "new.png")
    with pytest.raises(StudyError, match=r"was written on .* which has changed since; remove it"):
        files.prepare(source, data)
    (tmp_path / "train" / "b" / "new.png").unlink()
    files.prepare(source, data)
    shutil.move(tmp_path / "train" / "b" / "2.png", tmp_path / "train" / "c" / "9.png")
    with pytest.raises(StudyError, match="has changed since"):
        files.prepare(source, data)
    shutil.rmtree(tmp_path / "train")  # as on a machine that has only what was written
    assert len(files.prepare(source, data).labels) == 33


def test_i06_two_projects_with_the_same_relative_paths(tmp_path, monkeypatch):
    source = spec.Images(source="image_folder", train="images/train", test="images/test")
    for name, classes in (("one", "ab"), ("two", "abc")):
        pictures(tmp_path / name / "images", classes)
    monkeypatch.chdir(tmp_path / "one")
    files.prepare(source, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(StudyError, match=r"was written on .* from .*/one/images/train.* is not .*/two/"):
        files.prepare(source, tmp_path / "data")


def test_i11_one_class(own, tmp_path, plan):
    images = pictures(tmp_path / "single", ["a"])
    own["data"]["images"] = source_of(images).model_dump(exclude_unset=True)
    refused(plan(own, "jobs/data.py"), "there is one class alone")


def test_i12_classes_that_look_alike(tmp_path):
    """The same word, composed and decomposed."""
    source = source_of(pictures(tmp_path, ["\u00e9t\u00e9", "b"]))
    (tmp_path / "test" / "\u00e9t\u00e9").rename(tmp_path / "test" / "e\u0301te\u0301")
    with pytest.raises(StudyError, match=r"'e\\u0301te\\u0301', '\\xe9t\\xe9'\); both need"):
        files.prepare(source, tmp_path / "data")


def test_d01_a_class_renamed_in_the_sidecar(tmp_path):
    source, data = source_of(pictures(tmp_path)), tmp_path / "data"
    path = files.prepare(source, data).path.parent / "images.json"
    sidecar = json.loads(path.read_text())
    path.write_text(json.dumps(sidecar | {"classes": ["a", "b", "d"]}))
    with pytest.raises(StudyError, match="sidecar is missing or damaged"):
        files.open_images(source, data)


# --- results --------------------------------------------------------------------------------------


def test_r01_r03_a_first_try_whose_teachers_know_nothing(tmp_path):
    """No positive flips, so that no transfer rate is defined; there is a page all the same."""
    sweep = sweeps.simulate(4, 2, methods=["kl"], samples=12, classes=3)
    nothing = {"transfer_rate": np.nan, "rho_pos_before": 0.0, "rho_pos_after": 0.0}
    sweeps.write(tmp_path, replace(sweep, trials=sweep.trials.assign(**nothing)), predictions=False)
    assert report.main([str(tmp_path)]) == 0
    page = (tmp_path / "analysis" / "report.html").read_text()
    assert "8 of 8 planned trials finished" in page
    assert "Left out: no teacher got a sample right that its student got wrong." in page


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize(
    ("case", "job", "mode"), [("s08", SWEEP, 0o700), ("s09", None, 0o700), ("s10", "jobs/compact.py", 0o755)]
)
def test_another_users_results(own, tmp_path, plan, capsys, case, job, mode):
    results = tmp_path / "results"
    sweeps.write(results, sweeps.simulate(2, 2, methods=["kl"], samples=20))
    opened(own)
    if job:
        plan(own, job, "--help")  # imported while all of it may be read
    for folder in (results, *results.iterdir()):
        folder.chmod(mode)
    for folder in (tmp_path, *tmp_path.parents[:-2]):  # pytest's own, which root alone may enter
        folder.chmod(0o755)
    try:
        os.seteuid(65534)
        if job:
            done = run_here(job, tmp_path / "study.yaml")
            status, said = done.returncode, done.stderr
        else:
            status, said = report.main([str(results)]), capsys.readouterr().err
    finally:
        os.seteuid(0)
    assert (status, "Traceback" in said) == (2, False), said
    assert said.splitlines()[-1].startswith(f"error: {results}"), said


def test_d02_the_time_to_the_first_trial_is_told(capsys):
    """Once; a sweep that is stopped before it has nothing to go on from."""
    with _console.Progress("sweep", 4) as progress:
        for done in (0, 1, 2):
            progress.update(done, f"{done} of 4 done")
    said = re.findall(r"sweep: the first was done (.+) after the start", capsys.readouterr().out)
    assert len(said) == 1 and re.fullmatch(r"\d+ (s|min \d+ s|h \d+ min)", said[0])


@pytest.mark.ray
def test_s01_s03_trials_that_fail_for_a_reason_that_stays(own, tmp_path):
    """Once each, with the reason on the terminal, and a status that says so."""
    own["methods"] = {"kl": {"lr": 1e30}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(own))
    done = run(SWEEP, tmp_path / "study.yaml")
    assert done.returncode == 1, done.stdout
    for name in ("one from two", "two from one"):
        assert f"{name}, kl: the loss is not finite in epoch 0; lower the lr" in done.stdout
    trials = pd.read_parquet(tmp_path / "results" / "trials")
    assert (trials["status"] != "ok").all() and len(trials) == 2
