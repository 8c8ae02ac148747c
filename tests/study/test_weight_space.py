"""Weights between two models, and chosen soups: against closed forms, brute force and whole trials."""

from __future__ import annotations

import copy
import itertools
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from study import derivation, spec, transfer, weight_space
from study.errors import StudyError
from study.images import files
from study.models import weights
from study.workspace import Workspace
from tests.study.trials import assert_same, blank, budget, changed, elsewhere, method, trial_of

SHARES = (0.25, 0.5, 0.75, 1.0)


def classifier(seed: int) -> SimpleNamespace:
    """Something with a network that has statistics and a count beside its weights."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network(5 * torch.randn(9, 3) + seed)  # moves the statistics
    network[1].num_batches_tracked.fill_(seed)
    return SimpleNamespace(network=network)


# --- between two models -------------------------------------------------------------------------


@given(st.floats(0, 1), st.integers(1, 50))
def test_state_between_two_is_linear_in_the_share(share, seed):
    first, second = classifier(seed), classifier(seed + 100)
    made = weights.interpolated(first, second, share)
    for name, tensor in made.items():
        one, other = (model.network.state_dict()[name] for model in (first, second))
        assert tensor.dtype == one.dtype
        if name.endswith("num_batches_tracked"):
            assert tensor == seed + 100
        else:
            expected = (1 - share) * one.double() + share * other.double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_ends_are_the_models_and_the_middle_is_their_average():
    first, second = classifier(1), classifier(2)
    for share, model in ((0, first), (1, second)):
        for name, tensor in weights.interpolated(first, second, share).items():
            if "tracked" not in name:
                assert torch.equal(tensor, model.network.state_dict()[name]), name
    average = weights.average([second, first])
    for name, tensor in weights.interpolated(first, second, 0.5).items():
        torch.testing.assert_close(tensor, average[name])


def test_between_linear_models_lie_their_logits():
    """And the two are left as they are."""
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = nn.Module()
        model.network = nn.Linear(4, 3)
        models.append(model)
    before = copy.deepcopy([model.network.state_dict() for model in models])
    images = torch.randn(7, 4)
    made = weight_space.between(*models, 0.3)
    expected = 0.7 * models[0].network(images) + 0.3 * models[1].network(images)
    torch.testing.assert_close(made.network(images), expected)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.network.state_dict().items())


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.3, 0.2), 0.5), ((0.3, 0.3, 0.3), 0.0), ((0.1, 0.3, 0.3), 0.5)]
)
def test_of_shares_that_are_as_good_the_nearest_to_the_original_is_taken(monkeypatch, scores, best):
    monkeypatch.setattr(weight_space, "between", lambda before, after, share: share)
    told = dict(zip((0.0, 0.5, 1.0), scores, strict=True))
    assert weight_space.best_share(None, None, (1.0, 0.5, 0.0, 0.5), told.get) == best


# --- soups --------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_greedy_soup_is_recipe_1(alone, seed):
    """Written out, where any set of models may score anything."""
    random = np.random.default_rng(seed)
    scores = {
        frozenset(places): alone[places[0]] if len(places) == 1 else int(random.integers(0, 6))
        for size in range(1, len(alone) + 1)
        for places in itertools.combinations(range(len(alone)), size)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_space, "soup", frozenset)
        kept = weight_space.greedy(
            list(range(len(alone))),
            lambda models: scores[models if isinstance(models, frozenset) else frozenset([models])],
        )
    ordered = sorted(range(len(alone)), key=lambda place: (-alone[place], place))
    soup: list[int] = []
    for place in ordered:
        if not soup or scores[frozenset([*soup, place])] >= scores[frozenset(soup)]:
            soup.append(place)
    assert kept == soup
    assert scores[frozenset(kept)] >= max(alone)  # no worse than the best of them, on what it is chosen by


# --- trials -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    """The small study with images kept aside."""
    content = copy.deepcopy(base)
    content["data"]["splits"]["tune"] = 80
    return spec.Study.model_validate(content)


@pytest.fixture(scope="module")
def place(study, tmp_path_factory) -> Workspace:
    files.prepare(study.data.images, study.folders.data)
    folders = study.folders.model_copy(update={"zoo": tmp_path_factory.mktemp("zoo")})
    place = Workspace(study.data, folders, "cpu", threads=1)
    for model in study.zoo.values():
        derivation.make(model, place)
    return place


def xe_kl(study: spec.Study, **settings) -> spec.Trial:
    return method(trial_of(study, "kl"), method="xe_kl", lr=2e-2, weight=0.7, **settings)


def test_the_share_is_the_best_on_images_kept_aside(study, place):
    plain, trial = transfer.run(xe_kl(study), place), xe_kl(study, interpolate=SHARES)
    outcome, before = transfer.run(trial, place), place.frozen(trial.student)
    labels = place.labels("tune")
    right = {}
    for share in SHARES:
        tried = copy.deepcopy(before)
        state = plain.student.network.state_dict()
        tried.network.load_state_dict(
            {name: torch.lerp(old, state[name], share) for name, old in before.network.state_dict().items()}
        )
        right[share] = (place.predict(tried, "tune").label == labels).mean()
    assert outcome.row["interpolation"] == max(right, key=right.get)
    assert len(set(right.values())) > 1
    made = weights.interpolated(before, plain.student, outcome.row["interpolation"])
    for name, tensor in outcome.student.network.state_dict().items():
        assert torch.equal(tensor, made[name]), name
    # The history says how good the student was at the end of the way.
    assert outcome.history["student_accuracy"] == plain.history["student_accuracy"]
    said = place.predict(outcome.student)
    assert outcome.row["student_accuracy_after"] == (said.label == place.labels()).mean()
    assert np.array_equal(outcome.predictions["student_after"], said.label)
    assert plain.row["interpolation"] is None
    assert spec.Trial.model_validate_json(outcome.row["spec"]).id == trial.id
    assert_same(transfer.run(trial, place), outcome)


def test_a_share_that_is_given_is_taken_and_needs_no_images(base, workspace):
    study = spec.Study.model_validate(base)
    whole = transfer.run(xe_kl(study), workspace)
    for share in (0, 1, 0.4):
        outcome = transfer.run(xe_kl(study, interpolate=share), workspace)
        assert outcome.row["interpolation"] == share
        if share in (0, 1):
            key = "student_weights" if share == 0 else "student_weights_after"
            assert outcome.row["student_weights_after"] == whole.row[key]
    assert outcome.row["student_weights_after"] != whole.row["student_weights_after"]


def test_each_stage_of_a_sequence_is_interpolated(study, place):
    teachers = (study.zoo["resnet"], blank(study.zoo["resnet"], 4))
    trial = changed(xe_kl(study, interpolate=0.5), teachers=teachers, combine="sequential")
    (first,) = transfer.begins_with(trial)
    derivation.make(first, place)
    alone = transfer.run(changed(trial, teachers=teachers[:1], combine=None), place)
    assert place.frozen(first).weights == alone.row["student_weights_after"]
    outcome = transfer.run(trial, place)
    second = changed(xe_kl(study), student=first, teachers=teachers[1:])
    made = weights.interpolated(place.frozen(first), transfer.run(second, place).student, 0.5)
    for name, tensor in outcome.student.network.state_dict().items():
        assert torch.equal(tensor, made[name]), name


def test_what_is_not_interpolated_keeps_its_id(study):
    plain = xe_kl(study)
    assert "interpolate" not in plain.model_dump_json()
    assert len({plain.id, xe_kl(study, interpolate=1.0).id, xe_kl(study, interpolate=SHARES).id}) == 3
    assert xe_kl(study, interpolate=[0.5]).id == xe_kl(study, interpolate=0.5).id


@pytest.fixture(scope="module")
def soups(study, place) -> dict[str, transfer.Outcome]:
    """Of two teachers' students; one teacher knows nothing."""
    teachers = (study.zoo["resnet"], blank(study.zoo["resnet"], 4))
    found = {}
    for combine in ("soup", "greedy_soup"):
        trial = changed(
            method(trial_of(study, "kl"), method="kl", lr=5e-2), teachers=teachers, combine=combine
        )
        for model in transfer.begins_with(trial):
            derivation.make(model, place)
        found[combine] = transfer.run(trial, place)
    return found


def test_a_greedy_soup_is_no_worse_than_its_best_part_on_images_kept_aside(study, place, soups):
    greedy, whole = soups["greedy_soup"], soups["soup"]
    trial = spec.Trial.model_validate_json(greedy.row["spec"])
    parts = [place.frozen(model) for model in transfer.begins_with(trial)]
    scores = [place.accuracy(part, "tune") for part in parts]
    assert place.accuracy(greedy.student, "tune") >= max(scores) > min(scores)
    best, other = sorted((0, 1), key=lambda place: -scores[place])
    both = place.accuracy(whole.student, "tune") >= scores[best]
    kept = [best, other] if both else [best]
    assert greedy.row["soup"] == " + ".join(trial.teachers[number].name for number in kept)
    expected = whole.student if both else parts[best]
    assert greedy.row["student_weights_after"] == weights.digest_of(expected)
    assert whole.row["soup"] == "resnet + blank4" and greedy.row["teachers"] == ["resnet", "blank4"]
    assert (greedy.row["combine"], greedy.row["order"]) == ("greedy_soup", None)
    assert all(values == [] for values in greedy.history.values())
    assert greedy.student.model == trial.student


def test_a_greedy_soup_can_be_what_a_model_of_the_zoo_is(study, place, soups):
    trial = spec.Trial.model_validate_json(soups["greedy_soup"].row["spec"])
    assert (
        derivation.make(trial.result, place)["weights"] == soups["greedy_soup"].row["student_weights_after"]
    )


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"interpolate": [0.5, 1]},
            r"methods.m.interpolate: chosen on images kept aside, and there are none",
        ),
        ({"combine": "greedy_soup"}, r"several.0.combine: chosen on images kept aside, and there are none"),
        ({"interpolate": [0.5, 1], "tune": 50, "evaluate": "tune"}, "methods.m.interpolate: .* flatter it"),
        ({"interpolate": []}, "methods.m.interpolate: must not be empty"),
        ({"interpolate": 1.5}, r"methods.m.interpolate.0: .*less than or equal to 1"),
    ],
    ids=["no tune", "no tune for a soup", "scored there", "none", "beyond"],
)
def test_a_choice_without_images_is_refused(content, write_study, changes, words):
    content["methods"] = {"m": {"method": "kl", "lr": 1e-2}}
    if "interpolate" in changes:
        content["methods"]["m"]["interpolate"] = changes["interpolate"]
    if "combine" in changes:
        content["several"] = [
            {"teachers": ["resnet", "mixer"], "students": ["mixer"], "combine": [changes["combine"]]}
        ]
    content["data"]["splits"]["tune"] = changes.get("tune", 0)
    content["data"]["evaluate"] = changes.get("evaluate", "evaluation")
    with pytest.raises(StudyError, match=words) as told:
        spec.load(write_study(content))
    assert "\n" not in str(told.value)


def test_a_trial_by_itself_is_refused_too(base, workspace):
    study = spec.Study.model_validate(base)
    with pytest.raises(StudyError, match=r"interpolate: chosen on images kept aside.*splits\.tune"):
        transfer.run(xe_kl(study, interpolate=SHARES), workspace)


def test_the_accuracy_on_images_kept_aside_is_told_of_each_epoch(study, place):
    outcome = transfer.run(budget(xe_kl(study), evaluate="epoch"), place)
    once = transfer.run(xe_kl(study), place)
    assert outcome.row["student_weights_after"] == once.row["student_weights_after"]
    assert outcome.history["tune_accuracy"][-1] == place.accuracy(outcome.student, "tune")
    assert outcome.history["tune_accuracy"][0] is not None
    assert once.history["tune_accuracy"] == outcome.history["teacher_accuracy"] == [None, None]
    live = elsewhere(place, cached=False)
    assert transfer.run(budget(xe_kl(study), evaluate="epoch"), live).history["tune_accuracy"][0] > 0


def test_a_kept_soup_is_made_again_where_it_was_removed(study, place, soups):
    result = spec.Trial.model_validate_json(soups["soup"].row["spec"]).result
    first = derivation.make(result, place)
    shutil.rmtree(place.folder_of(result))
    assert derivation.make(result, place)["weights"] == first["weights"]
