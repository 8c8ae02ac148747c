"""Class maps: each of the data's classes is the one of the model's that it should be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study import atlas, spec, transfer
from study.errors import MislabelledError, StudyError
from study.images import class_names, files, labels
from study.models import published, zoo
from study.workspace import Workspace
from tests.conftest import LOOK, fashion_mnist, write_image_folder

IDS = labels.ImageNetInfo().label_names()


def data_of(**settings) -> spec.Data:
    images = {"source": "image_folder", "train": "train", "test": "test"}
    return spec.Data.model_validate({"images": images, "splits": {"transfer": 1}, **settings})


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        *(("imagenet_v2", 1000), ("imagenet_a", 200), ("imagenet_r", 200), ("imagenet_sketch", 1000)),
        *(("imagenette", 10), ("imagenet_100", 100)),
    ],
)
def test_a_map_gives_each_class_an_index_of_its_own(name, classes):
    found = labels.class_map(name)
    assert len(found) == len({*found.values()}) == classes
    assert {*found.values()} <= {*range(1000)}
    for key, index in found.items():
        assert key == (str(index) if name == "imagenet_v2" else IDS[index])
    assert name in labels.known() and len(labels.known()) == 6
    assert labels.chosen(data_of(class_map=name), list(found)) == tuple(found.values())


def test_folders_called_by_imagenets_ids_need_no_map():
    some = [IDS[7], IDS[3], IDS[900]]
    assert labels.chosen(data_of(), some) == (7, 3, 900)
    assert labels.chosen(data_of(), IDS) is None
    assert labels.chosen(data_of(), ["cat", "dog"]) is None
    assert labels.chosen(data_of(), [*some, "n99999999"]) is None


@pytest.mark.parametrize(
    ("class_map", "words"),
    [
        ("imagenet_v3", r"'imagenet_v3' is unknown; .*own as \{class: index.*did you mean 'imagenet_v2'"),
        ({"cat": 281}, r"which of the models' classes 'dog' is \(1 such\); add it"),
        ({"cat": 281, "dog": 281}, "two of the data's classes have one index"),
        ("imagenette", r"which of the models' classes 'cat' is \(2 such\)"),
    ],
)
def test_mistakes_in_a_map_are_told(class_map, words):
    with pytest.raises(StudyError, match=words):
        labels.chosen(data_of(class_map=class_map), ["cat", "dog"])


def test_an_index_below_zero_is_refused():
    with pytest.raises(ValidationError):
        data_of(class_map={"cat": -1})


def test_a_map_is_part_of_what_a_result_depends_on():
    plain, mapped = data_of(), data_of(class_map="imagenette")
    assert "class_map" not in plain.model_dump(mode="json")
    assert mapped.model_dump(mode="json")["class_map"] == "imagenette"


# --- models that tell more apart ----------------------------------------------------------------

NAMES = {"0": 3, "1": 11, "2": 0, "10": 7}  # what the folders are called, and which of a model's classes


@pytest.fixture(scope="module")
def place(tmp_path_factory, base):
    """A study of four classes with models of twelve, and its workspace."""
    folder = tmp_path_factory.mktemp("subset")
    for part, source in (("train", "train"), ("test", "t10k")):
        images, numbers = fashion_mnist(source, 150)
        kept = numbers < 4
        write_image_folder(folder / part, images[kept], numbers[kept])
        for number, name in enumerate(NAMES):
            (folder / part / f"class{number}").rename(folder / part / name)
    content = copy.deepcopy(base)
    twelve = {"kwargs": {"num_classes": 12}, "config": LOOK}
    content["zoo"] = {
        "one": {"timm": "test_resnet", "family": "cnn", "weights": {"source": "seed", "seed": 1}, **twelve},
        "two": {"timm": "test_resnet", "family": "cnn", "weights": {"source": "seed", "seed": 2}, **twelve},
    }
    content["data"] = {
        "images": {"source": "image_folder", "train": str(folder / "train"), "test": str(folder / "test")},
        "splits": {"transfer": 1.0},
        "class_map": NAMES,
    }
    content["folders"] = {name: str(folder / name) for name in ("data", "zoo", "outputs", "results")}
    study = spec.Study.model_validate(content)
    files.prepare(study.data.images, study.folders.data)
    return study, Workspace(study.data, study.folders, "cpu", threads=1)


def test_the_datas_classes_are_chosen_among_a_models(place):
    study, workspace = place
    assert workspace.images.classes == tuple(NAMES)  # in the order of numbers, not of letters
    assert workspace.chosen == tuple(NAMES.values())
    zoo.check_classes(study)
    zoo.check_classes(study, 4, workspace.chosen)
    with pytest.raises(StudyError, match=r"tells 12 classes apart, but the data have 4; .*data\.class_map"):
        zoo.check_classes(study.model_copy(update={"data": data_of()}), 4)
    classifier = workspace.load(study.zoo["one"])
    pixels = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        logits, features = classifier.with_features(pixels)
        every = classifier.network((pixels.float() - classifier.mean) / classifier.std)
    assert torch.equal(logits, every[:, [3, 11, 0, 7]])
    assert features.shape == (5, classifier.dim)


def test_a_transfer_between_them_is_of_the_datas_classes(place):
    study, workspace = place
    trial = next(t for t in study.trials() if t.name == "kl_dp" and t.student.name == "one")
    outcome = transfer.run(trial, workspace)
    said = workspace.predict(workspace.load(study.zoo["one"])).label
    np.testing.assert_array_equal(outcome.predictions["student_before"], said)
    assert {*np.unique(outcome.predictions["label"])} == {0, 1, 2, 3}
    assert outcome.row["classes"] == 4
    assert outcome.student.network.num_classes == 12  # kept whole: what the others say is no longer asked


def test_outputs_of_other_classes_are_other_files(place):
    study, workspace = place
    every = workspace.load(study.zoo["one"])
    kept = workspace.outputs(every, "evaluation").header["key"]
    every.chosen = every.chosen.flip(0)
    swapped = copy.copy(workspace)
    swapped.chosen = workspace.chosen[::-1]
    assert swapped.outputs(every, "evaluation").header["key"] != kept


# --- held against what is published -------------------------------------------------------------


@pytest.fixture
def imagenet(workspace, study_model, monkeypatch):
    """The small study's workspace, taken for ImageNet, with a table that says what its model should reach."""
    monkeypatch.setattr(class_names, "is_imagenet", lambda classes: True)
    monkeypatch.setattr("study.workspace.ENOUGH", 100)
    found = (workspace.evaluation(study_model).label == workspace.labels("evaluation")).mean()

    def say(above: float, **data) -> Workspace:
        table = {(study_model.model.timm, 28): float(found) + above}
        monkeypatch.setattr(published, "top1", lambda: table)
        place = copy.copy(workspace)
        place.data = workspace.data.model_copy(update=data)
        place.published = place.data.as_published and place.data.class_map is None
        return place

    return say


@pytest.fixture
def study_model(workspace, base):
    """A classifier that was loaded, and is taken for the hub's."""
    classifier = workspace.load(spec.Study.model_validate(base).zoo["mixer"])
    taken = {"weights": spec.Hub(), "kwargs": {**classifier.model.kwargs, "num_classes": 10}}
    classifier.model = classifier.model.model_copy(update=taken)
    return classifier


def test_a_model_far_under_what_is_published_stops_a_study(imagenet, study_model):
    imagenet(0.09).evaluation(study_model)
    with pytest.raises(MislabelledError, match=r"zoo\.mixer: .*timm publishes .*data\.as_published: false"):
        imagenet(0.11).evaluation(study_model)
    imagenet(0.11, as_published=False).evaluation(study_model)
    imagenet(0.11, class_map="imagenet_v2").evaluation(study_model)


def test_an_atlas_stops_too(imagenet, study_model, monkeypatch):
    place = imagenet(0.5)
    monkeypatch.setattr(place, "load", lambda model: study_model, raising=False)
    with pytest.raises(MislabelledError):
        atlas.run(study_model.model, place, "evaluation")


def test_ones_own_weights_are_not_held_against_timms(imagenet, study_model):
    study_model.model = study_model.model.model_copy(update={"weights": spec.Random(seed=0)})
    imagenet(0.5).evaluation(study_model)
