"""The one loop, as the zoo's own training uses it: reproducible, interrupted or not, phase after phase."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study import distributed, objectives, recipe, spec, training
from study.errors import DivergedError
from study.images.batches import Crop
from study.learner import Learner, tensors
from study.models import weights
from study.store.checkpoints import Checkpoint
from study.views import View
from tests.study.trials import Interrupted, blank, elsewhere, until


@pytest.fixture
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


def trained(study: spec.Study, *phases: dict, name: str = "mixer", **source) -> spec.Model:
    """A model of the zoo, trained otherwise."""
    given = {"images": 100, "phases": phases, **source}
    return study.zoo[name].model_copy(update={"weights": spec.Trained.model_validate(given)})


def train(model: spec.Model, place, *arguments):
    start = blank(model, model.weights.seed) if model.weights.start is None else None
    start = start or model.model_copy(update={"weights": model.weights.start})
    return recipe.train(model, start, place, *arguments)


PHASES = [
    {"epochs": 2, "lr": 5e-3, "batch_size": 40, "transforms": ["flip", {"shift": 2}]},
    {"epochs": 2, "lr": 1e-2, "batch_size": 64, "optimizer": "sgd", "schedule": "cosine"},
    {"epochs": 1, "lr": 1e-2, "batch_size": 64, "train": "head"},
]


def timeless(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


# --- training the zoo ---------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(study, workspace):
    digests = []
    for state in (1, 2):  # of torch's own generator, which must not matter
        torch.manual_seed(state)
        classifier, _ = train(study.zoo["mixer"], workspace)
        digests.append(weights.digest_of(classifier))
        assert not classifier.training
    assert digests[0] == digests[1]
    source = study.zoo["mixer"].weights.model_copy(update={"seed": 1})
    other, _ = train(study.zoo["mixer"].model_copy(update={"weights": source}), workspace)
    assert weights.digest_of(other) != digests[0]


def test_the_history_is_of_all_phases(study, workspace):
    told = []
    _, history = train(trained(study, *PHASES), workspace, None, lambda rows: told.append(len(rows)))
    assert told == [1, 2, 3, 4, 5]
    assert [row["epoch"] for row in history] == [0, 1, 2, 3, 4]
    assert [row["measures"] for row in history] == [{}] * 5
    assert history[3]["lr"] < history[2]["lr"] < 1e-2 + 1e-9  # cosine, at the end of an epoch
    assert all(row["seconds"] > 0 for row in history)


def test_training_beats_chance(study, workspace):
    phase = {"epochs": 30, "lr": 2e-2, "batch_size": 32, "transforms": ["flip", {"shift": 2}]}
    classifier, _ = train(trained(study, phase), workspace)
    assert workspace.accuracy(classifier, "evaluation") > 0.4
    assert workspace.accuracy(classifier, "transfer") > 0.4


@pytest.mark.parametrize("name", ["mixer", "resnet"])
def test_a_phase_of_the_head_changes_nothing_else(study, workspace, name):
    without, _ = train(trained(study, *PHASES[:2], name=name), workspace)
    classifier, _ = train(trained(study, *PHASES, name=name), workspace)
    head = {tensor.data_ptr() for tensor in tensors(classifier.head).values()}
    for (path, tensor), before in zip(tensors(classifier).items(), tensors(without).values(), strict=True):
        assert torch.equal(tensor, before) == (tensor.data_ptr() not in head), path
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_training_goes_on_from_others_weights(study, workspace):
    start = study.zoo["resnet"].weights
    model = trained(study, PHASES[2], name="resnet", start=start.model_dump())
    classifier, _ = train(model, workspace)
    before = workspace.frozen(study.zoo["resnet"])
    own = dict(classifier.network.named_parameters())
    same = {n for n, p in before.network.named_parameters() if torch.equal(p, own[n])}
    assert set(own) - same == {"fc.weight", "fc.bias"}


def test_training_takes_the_images_that_it_says_and_mixes_no_others(study, workspace, monkeypatch):
    seen = []
    show = View.show
    monkeypatch.setattr(View, "show", lambda view, *given: seen.append(given[1]) or show(view, *given))
    phase = {"epochs": 3, "lr": 1e-3, "batch_size": 32, "transforms": ["mixup"]}
    train(trained(study, phase, images=40), workspace)
    assert len(torch.cat(seen).unique()) == 40


def test_training_has_the_studys_precision(study, workspace):
    seen = []

    def noting(module, given, result):
        if isinstance(module, torch.nn.Linear):
            seen.append((result.dtype, torch.is_autocast_enabled("cpu")))

    hook = torch.nn.modules.module.register_module_forward_hook(noting)
    try:
        place = elsewhere(workspace, precision="bfloat16")
        train(trained(study, {"epochs": 1, "lr": 1e-3}), place)
        assert set(seen) == {(torch.bfloat16, True)}
        seen.clear()
        train(trained(study, {"epochs": 1, "lr": 1e-3}), workspace)
        assert set(seen) == {(torch.float32, False)}
    finally:
        hook.remove()


def test_training_runs_through_torch_compile_if_the_study_says_so(study, workspace, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda run: compiled.append(run) or run)
    train(trained(study, *PHASES), elsewhere(workspace, compiled=True))
    assert len(compiled) == len(PHASES)  # a learner a phase
    train(trained(study, *PHASES), workspace)
    assert len(compiled) == len(PHASES)


def test_what_diverges_is_told(study, workspace):
    steep = {"epochs": 2, "lr": 1e30, "optimizer": "sgd", "batch_size": 32}
    with pytest.raises(DivergedError, match=r"the loss is not finite in epoch 2; lower the lr"):
        train(trained(study, PHASES[0], steep), workspace)


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_training_that_was_killed_goes_on_across_phases(study, workspace, tmp_path, after):
    """Each with dropout, whose random numbers go on too."""
    model = trained(study, *PHASES)
    model = model.model_copy(update={"kwargs": model.kwargs | {"drop_rate": 0.3, "proj_drop_rate": 0.3}})
    undisturbed, history = train(model, workspace)
    location, told = tmp_path / "training.pt", []
    with pytest.raises(Interrupted):
        train(model, workspace, Checkpoint(location, "a"), until(after))
    again, rows = train(model, workspace, Checkpoint(location, "a"), told.append)
    assert len(told) == 5 - after
    assert weights.digest_of(again) == weights.digest_of(undisturbed)
    assert timeless(rows) == timeless(history)


def test_a_state_of_other_data_or_another_start_is_not_gone_on_from(study, workspace, tmp_path):
    model = trained(study, PHASES[0])
    expected, _ = train(model, workspace)
    location = tmp_path / "training.pt"
    with pytest.raises(Interrupted):
        recipe.train(model, blank(model, 9), workspace, Checkpoint(location, "a"), until(1))
    told = []
    got, _ = train(model, workspace, Checkpoint(location, "a"), told.append)
    assert len(told) == 2
    assert weights.digest_of(got) == weights.digest_of(expected)


# --- the loop itself ----------------------------------------------------------------------------


def indexed(student, indices):
    """The loss and a measure are of the sample alone, so that their means are known."""
    return (student.sum(1) * 0 + indices).mean(), {"index": indices, "odd": indices % 2 == 1}


def indices_alone(batch):
    """What frozen models say, where there are none: but where the samples lie, which here is in the file."""
    return {"indices": batch.indices}


def fit(study, workspace, samples, **options):
    student = workspace.student(study.zoo["mixer"])
    settings = spec.Training(epochs=2, batch_size=32)
    one = Learner(student, indexed, objectives.needs(indexed), settings, 1e-9, 8, "float32")
    given = {"epochs": 2, "batch_size": 32, "seed": 0, "frozen": lambda epoch: indices_alone} | options
    return training.fit(one, workspace.shown(View(Crop()), "transfer"), samples, **given)


def test_means_are_over_samples_with_a_smaller_last_batch_too(study, workspace):
    samples = workspace.splits["transfer"]
    assert len(samples) % 32
    rows = fit(study, workspace, samples)
    for row in rows:
        assert row["loss"] == pytest.approx(samples.mean(), rel=1e-6)
        assert row["measures"] == {
            "index": pytest.approx(samples.mean(), rel=1e-9),
            "odd": pytest.approx((samples % 2).mean(), rel=1e-9),
        }


def test_each_sample_once_an_epoch_in_an_order_of_the_seed_and_the_epoch(study, workspace, monkeypatch):
    parts, seen = distributed.parts, []

    def noting(loader, order, *arguments):
        seen.append(order)
        return parts(loader, order, *arguments)

    monkeypatch.setattr(distributed, "parts", noting)
    samples = workspace.splits["transfer"]
    for seed, first in ((0, 0), (0, 0), (1, 0), (0, 1)):
        fit(study, workspace, samples, seed=seed, first=first)
    assert all(np.array_equal(np.sort(order), samples) for order in seen)
    same = {tuple(order) for order in seen}
    assert len(same) == 5  # (0, 0), (0, 1), (1, 0), (1, 1), (0, 2)
    assert np.array_equal(seen[1], seen[6])  # the second epoch, as the first of those that begin there


def test_random_numbers_are_as_before_afterwards():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with training.seeded(7, torch.device("cpu")):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(2), inside)
