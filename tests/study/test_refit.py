"""Heads refitted on features, models made on other data, and backbones under other heads."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from study import derivation, mistakes, recipe, spec
from study.images import files
from study.models import weights, zoo
from study.workspace import Workspace
from tests.conftest import fashion_mnist, write_image_folder
from tests.study.trials import elsewhere

HEAD = {"epochs": 3, "lr": 0.05, "batch_size": 32, "optimizer": "sgd", "schedule": "cosine", "train": "head"}


@pytest.fixture
def place(workspace, tmp_path) -> Workspace:
    return elsewhere(workspace, zoo=tmp_path / "zoo")


def refitted(base: dict, name: str, **phase) -> spec.Model:
    content = base["zoo"][name] | {
        "name": "refitted",
        "weights": {"source": "trained", "start": {"source": "seed", "seed": 3}, "phases": [HEAD | phase]},
    }
    return spec.Model.model_validate(content)


@pytest.mark.parametrize("name", ["mixer", "resnet"])
def test_a_head_on_features_is_the_head_on_images(base, place, monkeypatch, name):
    model = refitted(base, name)
    (start,) = derivation.needed(model)
    asked = []
    monkeypatch.setattr(
        recipe.Features, "of", classmethod(lambda cls, *a, of=recipe.Features.of: asked.append(a) or of(*a))
    )
    quick, rows = recipe.train(model, start, place)
    assert len(asked) == 1
    monkeypatch.setattr(recipe, "features_suffice", lambda classifier: False)
    slow, history = recipe.train(model, start, place)
    assert len(asked) == 1
    np.testing.assert_allclose([r["loss"] for r in rows], [r["loss"] for r in history], rtol=1e-4)
    states = [one.network.state_dict() for one in (quick, slow, place.load(start))]
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=1e-4, atol=1e-5)
        assert torch.equal(tensor, states[2][key]) != key.startswith(("fc.", "head.")), key


def test_with_views_every_epoch_passes_its_own_images(base, place, monkeypatch):
    monkeypatch.setattr(recipe.Features, "of", None)  # would not be callable
    model = refitted(base, "mixer", transforms=["flip"], epochs=1)
    recipe.train(model, *derivation.needed(model), place)


@pytest.mark.parametrize(
    ("timm", "kwargs", "suffice"),
    [
        ("resnet10t", {}, True),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "output_stride": 8}, True),
        ("vit_tiny_patch16_224", {"img_size": 28, "patch_size": 14, "depth": 1}, True),
        ("deit_tiny_distilled_patch16_224", {"img_size": 28, "patch_size": 14, "depth": 1}, False),
    ],
)
def test_whether_features_suffice_is_seen(timm, kwargs, suffice):
    model = spec.Model(
        timm=timm,
        family="cnn",
        kwargs=kwargs,
        config={"input_size": [3, 28, 28]},
        weights={"source": "seed", "seed": 0},
    )
    classifier = zoo.build(model, classes=7)
    before = torch.random.get_rng_state()
    assert recipe.features_suffice(classifier) == suffice
    assert torch.equal(torch.random.get_rng_state(), before)


# --- other data ---------------------------------------------------------------------------------


@pytest.fixture
def few_classes(tmp_path) -> dict:
    """Other data: images of three classes."""
    for name, part in (("train", "train"), ("test", "t10k")):
        images, labels = fashion_mnist(part, 200)
        kept = labels < 3
        write_image_folder(tmp_path / "few" / name, images[kept], labels[kept])
    images = {"source": "image_folder", **{part: str(tmp_path / "few" / part) for part in ("train", "test")}}
    return {"images": images, "splits": {"zoo": 1.0, "transfer": 20}, "name": "few"}


@pytest.fixture
def grafting(base, few_classes) -> spec.Study:
    content = copy.deepcopy(base)
    one_epoch = {"epochs": 1, "lr": 0.01, "batch_size": 32}
    content["zoo"]["few"] = content["zoo"]["mixer"] | {
        "kwargs": {**content["zoo"]["mixer"].get("kwargs", {}), "num_classes": 3},
        "weights": {"source": "trained", "data": few_classes, "phases": [one_epoch]},
    }
    content["zoo"]["grafted"] = {
        "timm": content["zoo"]["mixer"]["timm"],
        "family": "mlp",
        "weights": {"source": "grafted", "backbone": "few", "head": "mixer"},
    }
    content["pairs"] = [["resnet", "grafted"]]
    return spec.Study.model_validate(content)


def test_a_model_is_made_on_the_data_that_it_says(grafting, workspace, place):
    few = grafting.zoo["few"]
    (data,) = derivation.other_data(grafting.zoo.values())
    assert data.name == "few"
    files.prepare(data.images, place.folders.data)
    facts = derivation.make(few, place)
    there = place.made_on(few)
    assert there is not place and place.made_on(grafting.zoo["mixer"]) is place
    assert len(there.images.classes) == 3
    assert facts["accuracy"] == pytest.approx(there.accuracy(there.load(few), "evaluation"))
    assert weights.is_made(place.folder_of(few))
    # Its images are needed to make it, and what is made from it, and no more.
    study = grafting.model_copy(update={"folders": place.folders})
    assert derivation.data_to_make(study) == [data]
    shutil.rmtree(files.folder_of(data.images, place.folders.data))
    assert derivation.make(few, Workspace(place.data, place.folders)) == facts
    only = study.model_copy(update={"zoo": {"few": few}})
    assert derivation.data_to_make(only) == []
    # It is the same for any study that names it.
    other = place.data.model_copy(update={"splits": place.data.splits.model_copy(update={"transfer": 60})})
    assert weights.folder_of(few, other, place.folders.zoo, None) == place.folder_of(few)
    mixer = grafting.zoo["mixer"]
    assert weights.folder_of(mixer, other, place.folders.zoo, None) != place.folder_of(mixer)


def test_a_graft_has_the_backbone_of_one_and_the_head_of_the_other(grafting, place):
    few, mixer, grafted = (grafting.zoo[name] for name in ("few", "mixer", "grafted"))
    assert grafted.kwargs == mixer.kwargs
    files.prepare(few.weights.data.images, place.folders.data)
    generations = derivation.missing([grafted], place.data, place.folders, None)
    assert [{model.name for model in one} for one in generations] == [{"few", "mixer"}, {"grafted"}]
    derivation.make(grafted, place)
    one, head, backbone = place.load(grafted), place.load(mixer), place.made_on(few).load(few)
    states = [classifier.network.state_dict() for classifier in (one, head, backbone)]
    of_head = {f"head.{name}" for name, _ in head.head.named_parameters()}
    assert of_head <= states[0].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1 if name in of_head else 2][name]), name
    pixels = torch.randint(256, (4, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(one(pixels), head.head(backbone.with_features(pixels)[1]))


def test_a_graft_of_two_architectures_is_refused(base):
    content = copy.deepcopy(base)
    content["zoo"]["grafted"] = {
        "timm": "tiny_mixer",
        "family": "mlp",
        "weights": {"source": "grafted", "backbone": "resnet", "head": "mixer"},
    }
    with pytest.raises(ValidationError) as error:
        spec.Study.model_validate(content)
    said = mistakes.first(error.value, spec.Study)
    assert "'resnet' and 'mixer' are not of one architecture" in said
    assert said.startswith("zoo.grafted.weights")
