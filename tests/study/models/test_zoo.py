"""Models: named as timm names them, seeing pixels as they were trained to, weights never read amiss."""

from __future__ import annotations

import json

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from study import spec
from study.errors import StudyError
from study.models import zoo
from study.models.timm_import import timm
from tests.conftest import LOOK, fashion_mnist


def small(**settings) -> spec.Model:
    fields = {"name": "m", "timm": "tiny_mixer", "family": "mlp", "config": LOOK, **settings}
    return spec.Model.model_validate(fields)


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
            {"timm": "tiny_mixr", "family": "mlp", "recipe": {"epochs": 1, "lr": 0.1}},
            r"no model named 'tiny_mixr'; did you mean 'tiny_mixer'",
        ),
        ({"timm": "resnet50.nobody_in1k", "family": "cnn"}, r"no pretrained weights named"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(content, model, words):
    study = study_of(content, good=content["zoo"]["mixer"], bad=model)
    with pytest.raises(StudyError, match=rf"zoo\.bad\.timm: .*{words}"):
        zoo.check_names(study)


def test_every_shipped_studys_models_are_known():
    for name in ("demo", "paper_subset10", "paper_full"):
        zoo.check_names(spec.load(f"studies/{name}.yaml"))


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


def test_a_demo_model_of_each_kind_is_built_and_runs():
    study = spec.load("studies/demo.yaml")
    for model in study.zoo.values():
        classifier = zoo.build(model, 10).eval()
        assert classifier(torch.zeros(2, 3, 28, 28, dtype=torch.uint8)).shape == (2, 10), model.name
        assert classifier.crop == (1.0, "center")


def test_keyword_arguments_timm_refuses_are_told(content):
    with pytest.raises(StudyError, match=r"zoo\.m: timm cannot make 'tiny_mixer' .*'kwargs'"):
        zoo.build(small(kwargs={"no_such_argument": 1}, recipe={"epochs": 1, "lr": 0.1}), 10)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_is_timms(interpolation):
    """The crop resized and normalised on the device equals timm's own transform on the PIL image."""
    config = LOOK | {"input_size": [3, 32, 32], "interpolation": interpolation}
    model = small(timm="tiny_convmixer", family="cnn", config=config, recipe={"epochs": 1, "lr": 0.1})
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


@pytest.mark.parametrize("config", [{"crop_mode": "border"}, {"crop_pct": 1.15}])
def test_models_that_look_beyond_the_edge_are_refused(config):
    model = small(config=LOOK | config, untrained=0)
    with pytest.raises(StudyError, match=r"zoo\.m: 'tiny_mixer' looks beyond the image's edge .*'config'"):
        zoo.build(model, 10)


def test_untrained_weights_are_a_seeds(tmp_path):
    before = torch.random.get_rng_state()
    a, again, b = (load(small(untrained=seed), tmp_path).weights for seed in (0, 0, 1))
    assert a == again != b
    assert torch.equal(torch.random.get_rng_state(), before)


# --- weights ------------------------------------------------------------------------------------


@pytest.fixture(params=["model.safetensors", "model.pt", "wrapped.pth"])
def checkpoint(request, tmp_path):
    """(path, tensors) of a saved tiny model: safetensors, torch, and wrapped as training scripts do."""
    path = tmp_path / request.param
    network = zoo.build(small(recipe={"epochs": 1, "lr": 0.1}), 10).network
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if path.stem == "wrapped" else tensors, path)
    return path, tensors


def load(model, tmp_path):
    data = spec.Data.model_validate({"images": {"source": "fashion_mnist"}, "splits": {"transfer": 1}})
    return zoo.load(model, data, 10, spec.Folders(zoo=tmp_path))


def test_a_checkpoint_gives_its_tensors(checkpoint, tmp_path):
    path, tensors = checkpoint
    classifier = load(small(checkpoint=str(path)), tmp_path)
    assert not classifier.training
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_a_damaged_checkpoint_is_refused_by_name(checkpoint, tmp_path):
    path, _ = checkpoint
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StudyError, match=rf"{path.name}: the weights of model 'm' are damaged"):
        load(small(checkpoint=str(path)), tmp_path)


def test_a_checkpoint_of_another_model_is_refused(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(StudyError, match=rf"{path.name}: not the weights of 'tiny_mixer' as zoo\.m"):
        load(small(checkpoint=str(path), kwargs={"embed_dim": 32}), tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "evil.pt"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(StudyError, match=r"evil\.pt: the weights of model 'm' are damaged or no tensor file"):
        load(small(checkpoint=str(path)), tmp_path)


def test_a_missing_trained_model_says_to_build_the_zoo(tmp_path):
    with pytest.raises(StudyError, match=r"are not there; build the zoo"):
        load(small(recipe={"epochs": 1, "lr": 0.1}), tmp_path)


def test_pretrained_weights_that_cannot_be_fetched_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = spec.Model.model_validate({"name": "m", "timm": "resnet18.a1_in1k", "family": "cnn"})
    with pytest.raises(StudyError, match=r"zoo\.m: timm cannot make 'resnet18\.a1_in1k' .*check the network"):
        load(model, tmp_path)


def test_trained_weights_are_named_after_all_that_makes_them(base):
    study = spec.Study.model_validate(base)
    model, folder = study.zoo["mixer"], study.folders.zoo
    path = zoo.trained_path(model, study.data, folder)
    recipe = model.recipe.model_copy(update={"lr": 1e-4})
    assert zoo.trained_path(model.model_copy(update={"recipe": recipe}), study.data, folder) != path
    splits = study.data.splits.model_copy(update={"seed": 1})
    data = study.data.model_copy(update={"splits": splits})
    assert zoo.trained_path(model, data, folder) != path


def test_a_trained_model_comes_back_as_it_was(workspace, base):
    model = spec.Study.model_validate(base).zoo["resnet"]
    facts = json.loads(
        zoo.trained_path(model, workspace.data, workspace.folders.zoo).with_suffix(".json").read_text()
    )
    classifier = workspace.load(model)
    assert zoo.fingerprint(classifier.network) == facts["weights"]
    said = workspace.predict(classifier)
    labels = workspace.images.labels[workspace.splits["evaluation"]]
    assert (said.label == labels).mean() == pytest.approx(facts["accuracy"])
