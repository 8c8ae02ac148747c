"""Models: named as timm names them, seeing pixels as they were trained to, with their features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from study import spec
from study.errors import StudyError
from study.images.batches import Crop
from study.models import zoo
from study.models.timm_import import timm
from tests.conftest import LOOK, fashion_mnist

PHASES = {"source": "trained", "phases": [{"epochs": 1, "lr": 0.1}]}


def small(**settings) -> spec.Model:
    """A model of initial weights."""
    weights = {"source": "seed", "seed": 0}
    fields = {"name": "m", "timm": "tiny_mixer", "family": "mlp", "config": LOOK, "weights": weights}
    return spec.Model.model_validate(fields | settings)


def study_of(content: dict, **zoo_models) -> spec.Study:
    return spec.Study.model_validate(content | {"zoo": zoo_models, "pairs": "all"})


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"timm": "resnet5O", "family": "cnn"},
            r"no pretrained weights named 'resnet5O'; did you mean 'resnet",
        ),
        (
            {"timm": "tiny_mixr", "family": "mlp", "weights": {"source": "seed", "seed": 0}},
            r"no model named 'tiny_mixr'; did you mean 'tiny_mixer'",
        ),
        ({"timm": "resnet50.nobody_in1k", "family": "cnn"}, r"no pretrained weights named"),
        (
            {"timm": "tiny_mixer", "family": "mlp", "weights": {**PHASES, "start": {"source": "hub"}}},
            r"no pretrained weights named 'tiny_mixer'",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(content, model, words):
    study = study_of(content, good=content["zoo"]["mixer"], bad=model)
    with pytest.raises(StudyError, match=rf"zoo\.bad\.timm: .*{words}"):
        zoo.check_names(study)


def test_every_shipped_studys_models_are_known():
    for path in sorted(Path("studies").glob("*.yaml")):
        zoo.check_names(spec.load(path))


def test_pairs_with_different_classes_are_refused(content):
    other = content["zoo"]["mixer"] | {"kwargs": {"num_classes": 7}}
    study = study_of(content, ten=content["zoo"]["resnet"], seven=other)
    with pytest.raises(StudyError, match=r"student 'ten' tells 10 classes apart and teacher 'seven' 7"):
        zoo.check_classes(study, classes=10)
    imagenet = {"timm": "resnet50.a1_in1k", "family": "cnn"}
    study = study_of(content, a=imagenet, b=imagenet | {"timm": "resnet18.a1_in1k"})
    zoo.check_classes(study)
    with pytest.raises(StudyError, match=r"zoo\.a: tells 1000 classes apart, but the data have 10"):
        zoo.check_classes(study, classes=10)


def test_what_is_trained_from_the_hubs_weights_tells_the_datas_classes_apart():
    hub = small(timm="resnet18.a1_in1k", family="cnn", weights={"source": "hub"})
    begun = small(timm="resnet18.a1_in1k", family="cnn", weights={**PHASES, "start": {"source": "hub"}})
    assert (zoo.classes_of(hub), zoo.classes_of(begun)) == (1000, None)
    assert zoo.classes_of(small(kwargs={"num_classes": 7})) == 7
    zoo.check_data_classes(begun, 10)
    with pytest.raises(StudyError, match=r"zoo\.m: tells 1000 classes apart, but the data have 10"):
        zoo.check_data_classes(hub, 10)


@pytest.mark.parametrize("where", ["several", "transferred"])
def test_teachers_of_several_and_of_made_models_have_the_students_classes(content, where):
    seven = content["zoo"]["mixer"] | {"kwargs": {"num_classes": 7}}
    ten = content["zoo"]["resnet"]
    models = {"ten": ten, "other": ten, "seven": seven}
    if where == "several":
        content["several"] = [{"teachers": ["other", "seven"], "students": ["ten"], "combine": ["soup"]}]
    else:
        method = {"method": "kl", "lr": 0.1}
        weights = {"source": "transferred", "student": "ten", "teachers": ["seven"], "method": method}
        models["made"] = {"weights": weights}
    fields = content | {"zoo": models, "pairs": [["ten", "other"]]}
    study = spec.Study.model_validate(fields)
    with pytest.raises(StudyError, match=r"student '(ten|made)' tells 10 classes apart and teacher 'seven'"):
        zoo.check_classes(study, classes=10)


def test_a_demo_model_of_each_kind_is_built_and_runs():
    study = spec.load("studies/demo.yaml")
    for model in study.zoo.values():
        classifier = zoo.build(model, 10).eval()
        assert classifier(torch.zeros(2, 3, 28, 28, dtype=torch.uint8)).shape == (2, 10), model.name
        assert classifier.crop == Crop(1.0, "center")
        assert classifier.input == Crop(1.0, "center", (28, 28), "bicubic")


def test_keyword_arguments_timm_refuses_are_told(content):
    with pytest.raises(StudyError, match=r"zoo\.m: timm cannot make 'tiny_mixer' .*'kwargs'"):
        zoo.build(small(kwargs={"no_such_argument": 1}), 10)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("tiny_mixer", "patchsize", "patch_size"),
        ("resnet18", "stem_widht", "stem_width"),
        ("vit_tiny_patch16_224", "embed_dims", "embed_dim"),
    ],
)
def test_the_nearest_keyword_argument_is_named(name, wrong, right):
    model = small(timm=name, family="cnn", kwargs={wrong: 8}, config={})
    with pytest.raises(
        StudyError, match=rf"unexpected keyword argument '{wrong}'.*; did you mean '{right}'\?"
    ):
        zoo.build(model, 10)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_is_timms(interpolation):
    """The crop resized and normalised on the device equals timm's own transform on the PIL image."""
    config = LOOK | {"input_size": [3, 32, 32], "interpolation": interpolation}
    model = small(timm="tiny_convmixer", family="cnn", config=config)
    classifier = zoo.build(model, 10)
    seen = []
    classifier.network = torch.nn.Identity()
    classifier.network.forward = lambda x: seen.append(x) or x
    images, _ = fashion_mnist("train", 3)
    for size in (96, 20):  # down and up
        for image in images:
            picture = Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            transform = timm.data.create_transform(
                input_size=(3, 32, 32),
                interpolation=interpolation,
                crop_pct=1.0,
                mean=LOOK["mean"],
                std=LOOK["std"],
            )
            pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
            classifier(pixels)
            # PIL rounds to whole pixel values, and clips overshoots, after each of its two passes.
            difference = (seen[-1][0] - transform(picture)).abs() * LOOK["std"][0] * 255
            assert difference.max() < 4
            assert difference.mean() < 0.4


def test_images_are_kept_as_large_as_the_zoo_needs_them(content):
    content["data"]["images"]["short_side"] = "auto"
    content["data"]["also"] = {"again": {"images": {**content["data"]["images"]}}}
    content["zoo"]["larger"] = {"timm": "resnet18.a1_in1k", "family": "cnn", "config": {"crop_pct": 0.9}}
    study = zoo.sized(spec.Study.model_validate(content))
    assert study.data.images.short_side == study.data.also["again"].images.short_side == 249  # 224 / 0.9
    content["data"]["also"]["again"]["images"]["short_side"] = 100
    assert zoo.sized(spec.Study.model_validate(content)).data.also["again"].images.short_side == 100
    content["zoo"]["larger"]["timm"] = "resnet188"
    with pytest.raises(StudyError, match=r"zoo\.larger\.timm: .*did you mean 'resnet18"):
        zoo.sized(spec.Study.model_validate(content))
    content["data"]["images"]["short_side"] = 4
    with pytest.raises(ValidationError):
        spec.Study.model_validate(content)


def test_models_that_look_beyond_the_edge_are_refused():
    model = small(timm="volo_d4_448.sail_in1k", family="transformer", config={})
    with pytest.raises(StudyError, match=r"zoo\.m: 'volo_d4_448.*' looks beyond the image's edge .*'config'"):
        zoo.build(model, 10)


# --- what a study says of a model ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kwargs": {"patchsize": 4}}, r"timm cannot make 'test_vit' .*'patchsize'.*'kwargs'"),
        (
            {"config": {"input_size": [3, 100, 100]}},
            r".* no images of 100 x 100 pixels .*patch.*input_size",
        ),
    ],
)
def test_what_no_network_takes_is_refused_before_anything_runs(content, settings, words):
    model = {
        "timm": "test_vit",
        "family": "transformer",
        "weights": {"source": "seed", "seed": 0},
        **settings,
    }
    with pytest.raises(StudyError, match=rf"zoo\.bad: {words}"):
        zoo.check_builds(study_of(content, good=content["zoo"]["mixer"], bad=model))


def test_a_method_that_reads_maps_is_refused_where_timm_has_none(content, monkeypatch):
    models = dict.fromkeys(("one", "other"), content["zoo"]["mixer"])
    reads_maps = content | {"methods": {"at": {"method": "xe_kl_at", "lr": 0.1}}}
    zoo.check_builds(study_of(reads_maps, **models))
    monkeypatch.delattr(type(zoo.build(small(), 2).network), "forward_intermediates")
    with pytest.raises(StudyError, match=r"zoo.one: timm gives no maps of 'tiny_mixer', .* choose another"):
        zoo.check_builds(study_of(reads_maps, **models))
    zoo.check_builds(study_of(content, **models))


def test_the_pixels_that_a_model_needs_follow_from_size_and_crop():
    model = {"timm": "resnet18.a1_in1k", "family": "cnn"}  # 224 at 0.95, tested with 288 at 1.0
    assert zoo.side_of(small(**model, config={})) == 236
    assert zoo.side_of(small(**model, config={"size": "test"})) == 288
    assert zoo.side_of(small(**model, config={"input_size": [3, 100, 60], "crop_pct": 0.5})) == 200


def test_the_size_that_timm_tests_a_model_with():
    model = {"timm": "resnet18.a1_in1k", "family": "cnn"}
    trained, tested, own = (
        small(**model, config=config)
        for config in ({}, {"size": "test"}, {"size": "test", "crop_pct": 0.5, "input_size": [3, 96, 96]})
    )
    assert [zoo.build(one, 1000).size for one in (trained, tested, own)] == [(224, 224), (288, 288), (96, 96)]
    assert [zoo.crop_of(one).pct for one in (trained, tested, own)] == [0.95, 1.0, 0.5]
    assert [zoo.build(one, 1000).crop for one in (trained, tested, own)] == [
        zoo.crop_of(one) for one in (trained, tested, own)
    ]


# --- features -----------------------------------------------------------------------------------

DEIT = {"img_size": 28, "patch_size": 7, "embed_dim": 16, "depth": 1, "num_heads": 2}
EFFICIENTFORMER = {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 8, 8]}
OTHERS = {
    "distilled": small(timm="deit_tiny_distilled_patch16_224", family="transformer", kwargs=DEIT),
    "two heads": small(timm="efficientformer_l1", family="transformer", kwargs=EFFICIENTFORMER, config={}),
    "convolution": small(timm="tiny_convmixer", family="cnn"),
}
MODELS = {**spec.load("studies/demo.yaml").zoo, **OTHERS}


@pytest.fixture(scope="module", params=MODELS)
def classifier(request):
    """A model of each kind, with initial weights, in `eval` mode."""
    torch.manual_seed(0)
    return zoo.build(MODELS[request.param], 10).eval()


@torch.no_grad()
def test_features_are_what_the_head_maps_to_logits(classifier):
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    logits, features = classifier.with_features(pixels)
    assert torch.equal(logits, classifier(pixels))
    assert features.shape == (3, classifier.dim)
    assert not classifier.head._forward_pre_hooks
    if len(classifier.heads) == 1:
        assert torch.allclose(classifier.head(features), logits, atol=1e-5)
    else:  # two heads, whose mean it says; features are the first one's
        seen = []
        with classifier.heads[1].register_forward_pre_hook(lambda head, given: seen.append(given[0])):
            classifier(pixels)
        by_hand = (classifier.head(features) + classifier.heads[1](seen[0])) / 2
        assert torch.allclose(by_hand, logits, atol=1e-5)


def test_gradients_go_through_features(classifier):
    pixels = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    _, features = classifier.with_features(pixels)
    assert features.requires_grad
    assert classifier.heads[0] is classifier.head
    assert {len(classifier.heads)} <= {1, 2}


def test_no_hook_is_left_where_a_pass_fails():
    classifier = zoo.build(small(), 10)
    with pytest.raises(RuntimeError):
        classifier.with_features(torch.zeros(1, 2, 28, 28))
    assert not classifier.head._forward_pre_hooks


def test_a_classifier_says_which_model_it_is():
    model = small()
    classifier = zoo.build(model, 10)
    assert classifier.model is model
    assert classifier.weights is None  # until it is loaded
    assert classifier.crop == zoo.crop_of(model)


def test_the_crop_is_known_without_building(classifier):
    assert zoo.crop_of(classifier.model) == classifier.crop
