"""What a process keeps between trials: models, images, up to a limit, and never a changed one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study import spec
from study import workspace as study_workspace
from study.images.batches import Batches, Crop, Resident
from study.models import weights
from study.views import View
from study.workspace import Workspace
from tests.study.trials import blank


@pytest.fixture
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


def opened(workspace, keep: int) -> Workspace:
    return Workspace(workspace.data, workspace.folders, "cpu", threads=1, keep=keep)


def test_a_frozen_model_is_read_once_and_students_are_copies_of_it(study, workspace, monkeypatch):
    place = opened(workspace, 2**30)
    model = study.zoo["resnet"]
    frozen = place.frozen(model)
    monkeypatch.setattr(weights, "load", None)
    student = place.student(model)
    assert place.frozen(model) is frozen
    assert student is not frozen
    assert (student.weights, student.crop) == (frozen.weights, frozen.crop)
    with torch.no_grad():
        for tensor in (*student.parameters(), *student.buffers()):
            tensor.add_(1)
    assert weights.digest_of(place.frozen(model)) == frozen.weights


def test_other_weights_under_the_same_name_are_another_model(study, workspace):
    place = opened(workspace, 2**30)
    model = study.zoo["mixer"]
    other = blank(model, 0, model.name)
    assert place.frozen(model).weights != place.frozen(other).weights


def test_nothing_is_kept_beyond_the_limit(study, workspace):
    place = opened(workspace, 0)
    model = study.zoo["mixer"]
    assert place.frozen(model) is not place.frozen(model)
    assert isinstance(place.pixels(Crop(), "transfer"), Batches)
    size = 100 * 3 * 28 * 28
    assert isinstance(opened(workspace, 2 * size - 1).pixels(Crop(), "transfer"), Batches)
    place = opened(workspace, 2 * size + 5000)
    kept = place.pixels(Crop(), "transfer")
    assert isinstance(kept, Resident)
    assert place.pixels(Crop(), "transfer") is kept
    for crop in (Crop(0.9), Crop(0.8)):
        place.pixels(crop, "transfer")
    assert place._kept.currsize <= 2 * size + 5000
    assert place.pixels(Crop(), "transfer") is not kept  # the least recently used went first


def test_kept_images_are_those_of_the_loader(workspace):
    place = opened(workspace, 2**30)
    order = np.random.default_rng(0).permutation(place.splits["evaluation"])
    kept = place.pixels(Crop(0.8), "evaluation").epoch(order, 40)
    for mine, theirs in zip(kept, place.batches(Crop(0.8)).epoch(order, 40), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one, other)


def test_the_limit_is_the_studys_or_a_share_of_the_memory_by_cpus(monkeypatch):
    cpu = torch.device("cpu")
    given = spec.Resources(keep_gib=1.5)
    assert study_workspace.keep_bytes(given, cpu) == 1.5 * 2**30
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}[name])
    assert study_workspace.keep_bytes(spec.Resources(cpus=2), cpu) == int(0.1 * 4096 * 1000 / 4)


def test_a_study_says_how_its_workspace_works(study):
    told = {
        "outputs": spec.FrozenOutputs(transfer="live", top_k=3),
        "resources": spec.Resources(keep_gib=1, compile=True),
        "budget": study.budget.model_copy(update={"precision": "bfloat16"}),
    }
    place = study_workspace.of(study.model_copy(update=told))
    assert (place.cached, place.top_k, place.compiled, place.precision) == (False, 3, True, "bfloat16")
    assert place._kept.maxsize == 2**30
    assert study_workspace.of(study).cached


def test_frozen_models_give_logits_and_where_wanted_features(study, workspace):
    place = opened(workspace, 2**30)
    classifier = place.load(study.zoo["mixer"])
    logits, features = place.transfer_outputs(classifier, View(classifier.crop), True)
    assert (logits.shape, features.shape) == ((100, 10), (100, classifier.dim))
    assert logits.dtype == features.dtype == torch.float16
    alone, none = place.transfer_outputs(classifier, View(classifier.crop), False)
    assert none is None
    assert torch.equal(alone, logits)


def test_accuracy_is_of_the_true_classes(study, workspace):
    classifier = workspace.load(study.zoo["resnet"])
    right = (
        workspace.predict(classifier, "transfer").label
        == workspace.images.labels[workspace.splits["transfer"]]
    )
    assert workspace.accuracy(classifier, "transfer") == right.mean()
