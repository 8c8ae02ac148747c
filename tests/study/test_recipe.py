"""Training from scratch: reproducible, better than chance, and what it leaves in the zoo folder."""

from __future__ import annotations

import json

import pytest
import torch

from study import recipe, spec
from study.errors import DivergedError
from study.models import zoo
from study.workspace import Workspace


@pytest.fixture
def place(workspace, tmp_path, base):
    """The shared workspace's data and loaders, with a zoo folder of its own."""
    folders = spec.Study.model_validate(base).folders
    own = Workspace(workspace.data, folders.model_copy(update={"zoo": tmp_path / "zoo"}), "cpu", threads=1)
    own.batches = workspace.batches
    return own


@pytest.fixture
def model(base) -> spec.Model:
    return spec.Study.model_validate(base).zoo["mixer"]


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(place, model):
    facts = []
    for state in (1, 2):  # of torch's own generator, which must not matter
        torch.manual_seed(state)
        facts.append(recipe.build(model, place))
    assert facts[0]["weights"] == facts[1]["weights"]
    other = model.recipe.model_copy(update={"seed": 1})
    other = recipe.build(model.model_copy(update={"recipe": other}), place)
    assert other["weights"] != facts[0]["weights"]
    assert len(list(place.folders.zoo.glob("*.safetensors"))) == 2


def test_training_beats_chance_and_says_so(place, model):
    other = model.recipe.model_copy(update={"epochs": 30, "lr": 2e-2})
    trained = model.model_copy(update={"recipe": other})
    shares = []
    facts = recipe.build(trained, place, shares.append)
    assert facts["accuracy"] > 0.4
    assert facts["transfer_accuracy"] > 0.4
    assert facts["images"] == 100
    assert shares == [pytest.approx((i + 1) / 31) for i in range(31)]  # 30 epochs and one of the finish
    path = zoo.trained_path(trained, place.data, place.folders.zoo)
    assert json.loads(path.with_suffix(".json").read_text()) == facts
    assert not place.load(trained).training


def test_the_finish_changes_the_weights(place, model):
    without = model.model_copy(update={"recipe": model.recipe.model_copy(update={"finish": None})})
    assert recipe.build(without, place)["weights"] != recipe.build(model, place)["weights"]


def test_a_recipe_that_diverges_is_told_and_leaves_nothing(place, model):
    finish = model.recipe.finish.model_copy(update={"lr": 1e30, "epochs": 2})
    diverging = model.model_copy(update={"recipe": model.recipe.model_copy(update={"finish": finish})})
    with pytest.raises(DivergedError, match="lower the recipe's lr"):
        recipe.build(diverging, place)
    assert not list(place.folders.zoo.glob("*"))
