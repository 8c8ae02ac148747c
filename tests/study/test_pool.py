"""The opinion pool: its weights against other fits and closed forms, and a trial by it from end to end."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from study import derivation, distributed, evaluate, objectives, spec, transfer
from study.errors import StudyError
from study.images import files
from study.objectives.pool import pool_weights, pooled
from study.workspace import Workspace
from tests.study.trials import blank, changed, elsewhere, trial_of

quick = settings(deadline=None, max_examples=25)


def experts(seed: int, samples: int = 4000, count: int = 2, classes: int = 5) -> list[torch.Tensor]:
    """Logits of `count` models that know nothing of each other."""
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(samples, classes, generator=generator) for _ in range(count)]


def drawn(weights, models, seed: int = 0) -> torch.Tensor:
    """Labels that are drawn from the pool with these weights."""
    shares = pooled(torch.tensor(weights), models[0], models[1:]).softmax(1)
    return torch.multinomial(shares, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def nll(weights, models, labels) -> float:
    """In numpy, from the definition."""
    said = [log_softmax(model.double().numpy(), axis=1) for model in models]
    pool = log_softmax(sum(w * one for w, one in zip(weights, said, strict=True)), axis=1)
    return -pool[np.arange(len(labels)), labels.numpy()].mean()


@pytest.mark.parametrize("weights", [[0.8, 0.3], [0.2, 1.1], [0.5, -0.2], [0.3, 0.6, 0.2]])
def test_the_weights_that_labels_were_drawn_by_are_found(weights):
    models = experts(1, 40_000, len(weights))
    found = pool_weights(models[0], models[1:], drawn(weights, models))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(weights, abs=0.03)


@quick
@given(st.integers(0, 1000), st.integers(2, 4))
def test_the_fit_is_that_of_another_optimiser_without_gradients_of_ours(seed, count):
    models = experts(seed, 300, count)
    labels = drawn([0.5] * count, models, seed)
    found = pool_weights(models[0], models[1:], labels)
    other = scipy.optimize.minimize(nll, np.zeros(count), args=(models, labels), tol=1e-9)
    assert found.tolist() == pytest.approx(other.x, abs=2e-4)
    assert nll(found.numpy(), models, labels) <= other.fun + 1e-12


@quick
@given(st.integers(0, 1000))
def test_models_that_change_places_change_weights(seed):
    first, second = experts(seed, 300)
    labels = drawn([0.7, 0.3], [first, second], seed)
    one, other = pool_weights(first, [second], labels), pool_weights(second, [first], labels)
    assert one.tolist() == pytest.approx(other.flip(0).tolist(), abs=1e-5)
    assert torch.equal(one, pool_weights(first, [second], labels))


def test_who_says_the_same_gets_the_same():
    (model,) = experts(3, count=1)
    labels = drawn([0.8], [model])
    frozen, teacher = pool_weights(model, [model], labels).tolist()
    assert frozen == pytest.approx(teacher)
    (alone,) = pool_weights(model, [], labels).tolist()
    assert frozen + teacher == pytest.approx(alone, abs=1e-5)


def test_a_teacher_by_chance_is_not_heard():
    model, chance = experts(4, 40_000)
    labels = drawn([0.9, 0.0], [model, chance])
    assert pool_weights(model, [chance], labels).tolist() == pytest.approx([0.9, 0], abs=0.02)


@quick
@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_the_pool_is_likelier_than_either_model_at_its_best_temperature(seed, first, second):
    models = experts(seed, 300)
    labels = drawn([first, second], models, seed)
    found = nll(pool_weights(models[0], models[1:], labels).numpy(), models, labels)
    for number in range(2):
        alone = scipy.optimize.minimize_scalar(
            lambda inverse, number=number: nll(np.eye(2)[number] * inverse, models, labels)
        )
        assert found <= alone.fun + 1e-9


def test_models_that_are_never_wrong_have_finite_weights():
    labels = torch.arange(40) % 4
    right = 3.0 * torch.nn.functional.one_hot(labels, 4)
    weights = pool_weights(right, [right], labels)
    assert weights.isfinite().all() and (weights > 1).all()


def test_a_target_is_the_pool_and_nothing_learns_through_it():
    frozen, teacher = (one.requires_grad_() for one in experts(5, 6))
    labels = torch.arange(6) % 5
    tune = experts(6)
    settings_ = {"weight": 0.6, "temperature": 3.0}
    known = {"tune_frozen": tune[0], "tune_teachers": tune[1:], "tune_labels": drawn([0.7, 0.4], tune)}
    objective = objectives.make(objectives.OBJECTIVES["xe_kl_op"], settings_, **known)
    student = experts(7, 6, 1)[0].requires_grad_()
    loss, measures = objective(student, (teacher,), frozen, labels)
    b, a = pool_weights(tune[0], tune[1:], known["tune_labels"]).float()
    target = a * teacher.log_softmax(1) + b * frozen.log_softmax(1)
    distilled = objectives.OBJECTIVES["xe_kl"](student, target, labels, **settings_)
    assert loss.item() == pytest.approx(distilled.item())
    loss.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    assert {name: values.tolist() for name, values in measures.items()} == {
        "pool_frozen": [b.item()] * 6,
        "pool_teacher": [a.item()] * 6,
    }
    assert not list(objective.parameters())


def test_without_labels_the_models_own_probabilities_stand_in(monkeypatch):
    """As if each sample were there once for each model and class, weighed by what the model gives it."""
    models = experts(8, 60)
    objective = objectives.make(
        objectives.OBJECTIVES["xe_kl_op_agreement"], {}, tune_frozen=models[0], tune_teachers=models[1:]
    )
    mean = np.mean([np.exp(log_softmax(one.double().numpy(), axis=1)) for one in models], axis=0)

    def expected_nll(weights):
        said = [log_softmax(model.double().numpy(), axis=1) for model in models]
        pool = log_softmax(sum(w * one for w, one in zip(weights, said, strict=True)), axis=1)
        return -(mean * pool).sum(1).mean()

    other = scipy.optimize.minimize(expected_nll, np.zeros(2), tol=1e-9)
    assert objective.weights.tolist() == pytest.approx(other.x, abs=2e-4)


def test_of_who_is_surer_more_is_heard_without_labels():
    sure, unsure = experts(9)
    known = {"tune_frozen": 0.3 * unsure, "tune_teachers": [3 * sure]}
    weights = objectives.make(objectives.OBJECTIVES["xe_kl_op_agreement"], {}, **known).weights
    in_sizes = weights * torch.tensor([0.3, 3.0])  # as both have logits of one size
    assert in_sizes[1] > 2 * in_sizes[0] > 0


def test_equal_weights_are_the_mean_of_log_probabilities():
    student, frozen, first, second = experts(10, 6, 4)
    labels = torch.arange(6) % 5
    equal = objectives.OBJECTIVES["xe_kl_op_equal"]
    target = torch.stack([one.log_softmax(1) for one in (frozen, first, second)]).mean(0)
    expected = objectives.OBJECTIVES["xe_kl"](student, target, labels, weight=0.7, temperature=2.0)
    assert equal(student, (first, second), frozen, labels).item() == pytest.approx(expected.item())


# --- whole trials -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    content = copy.deepcopy(base)
    content["data"]["splits"]["tune"] = 60
    content["methods"] = {"xe": {"lr": 1e-2}, "xe_kl_op": {"lr": 1e-2}}
    return spec.Study.model_validate(content)


@pytest.fixture(scope="module")
def place(study) -> Workspace:
    files.prepare(study.data.images, study.folders.data)
    place = Workspace(study.data, study.folders, "cpu", threads=1)
    for model in study.zoo.values():
        derivation.make(model, place)
    return place


def expected(trial: spec.Trial, place: Workspace, *models: spec.Model) -> torch.Tensor:
    """The weights, fitted to what the models say of `tune`, asked once more."""
    crop, samples = place.frozen(trial.student).crop, place.splits["tune"]
    pixels = torch.cat([p.clone() for p, _, _ in place.batches(crop).epoch(samples, 64)])
    with torch.no_grad():
        frozen, *teachers = (place.frozen(model)(pixels) for model in models)
    return pool_weights(frozen, teachers, torch.from_numpy(place.labels("tune")))


def test_a_trial_by_the_pool(study, place):
    trial = trial_of(study, "xe_kl_op")
    outcome = transfer.run(trial, place)
    weights = expected(trial, place, trial.student, *trial.teachers)
    for told in outcome.history["measures"]:
        assert [told["pool_frozen"], told["pool_teacher"]] == pytest.approx(weights.tolist(), abs=0.01)
    assert json.loads(outcome.row["settings"]) == {"lr": 0.01, "temperature": 2.0, "weight": 0.7}
    assert outcome.row["weight"] == 0.7 and outcome.row["teacher_share"] is None


def test_what_is_said_of_tune_is_asked_for_once_and_only_if_it_is_needed(study, place, tmp_path, monkeypatch):
    fresh = elsewhere(place, outputs=tmp_path)
    asked = []
    monkeypatch.setattr(Workspace, "outputs", _noting(asked))
    transfer.run(trial_of(study, "xe"), fresh)
    assert "tune" not in asked
    transfer.run(trial_of(study, "xe_kl_op"), fresh)
    assert asked.count("tune") == 2  # the student and its teacher
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    transfer.run(changed(trial_of(study, "xe_kl_op"), seed=1), fresh)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == kept


def _noting(asked: list, outputs=Workspace.outputs):
    def ask(self, classifier, split, *args, **kwargs):
        asked.append(split)
        return outputs(self, classifier, split, *args, **kwargs)

    return ask


def test_of_several_teachers_at_once_each_has_a_weight(study, place):
    trial = trial_of(study, "xe_kl_op")
    teachers = (*trial.teachers, blank(study.zoo["resnet"], 4))
    outcome = transfer.run(changed(trial, teachers=teachers, combine="parallel"), place)
    told = outcome.history["measures"][0]
    found = [told[name] for name in ("pool_frozen", "pool_teacher_1", "pool_teacher_2")]
    assert found == pytest.approx(expected(trial, place, trial.student, *teachers).tolist(), abs=0.02)


def test_in_a_sequence_the_pool_is_with_the_student_so_far(study, place):
    trial = trial_of(study, "xe_kl_op")
    teachers = (*trial.teachers, blank(study.zoo["resnet"], 4))
    trial = changed(trial, teachers=teachers, combine="sequential")
    (before,) = transfer.begins_with(trial)
    derivation.make(before, place)
    told = transfer.run(trial, place).history["measures"][-1]
    weights = expected(trial, place, before, teachers[1])
    assert [told["pool_frozen"], told["pool_teacher"]] == pytest.approx(weights.tolist(), abs=0.02)


def test_several_workers_can_share_it(study):
    distributed.check_objective(study.methods["xe_kl_op"], "xe_kl_op")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"splits": {"tune": 0}},
            "is fitted on images kept aside, and there are none; say how many in splits.tune",
        ),
        ({"evaluate": "tune"}, "is fitted on 'tune', where these trials are scored, which would flatter it"),
    ],
)
def test_a_study_that_cannot_fit_it_honestly_is_refused(base, changes, said):
    content = copy.deepcopy(base)
    content["data"]["splits"]["tune"] = 60
    content["methods"] = {"mine": {"method": "xe_kl_op", "lr": 1e-2}}
    for key, value in changes.items():
        content["data"][key] = content["data"][key] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=f"methods.mine: 'xe_kl_op' {said}"):
        spec.Study.model_validate(content)


def test_a_trial_without_images_kept_aside_is_refused_too(base, study, workspace):
    trial = changed(trial_of(study, "xe_kl_op"), data=spec.Study.model_validate(base).data)
    with pytest.raises(StudyError, match="'xe_kl_op' is fitted on images kept aside, and there are none"):
        transfer.run(trial, workspace)


# --- temperature scaling ------------------------------------------------------------------------


def test_a_student_from_scratch_is_measured_at_the_temperature_that_suits_tune(study, place):
    """By a search over T, and by hand on the evaluation images; of a trained one nothing is noted."""
    trained = trial_of(study, "xe")
    assert transfer.run(trained, place).row["student_best_temperature_after"] is None
    found = transfer.run(changed(trained, student=blank(trained.student, 3)), place)
    row, splits = found.row, place.splits

    def likelihood(split: str, temperature: float) -> float:
        loader = place.pixels(found.student.input, split)
        parts = evaluate.stream(found.student, loader, splits[split], place.device, place.precision)
        logits = torch.cat([logits for logits, _ in parts]).double() / temperature
        return float(F.cross_entropy(logits, torch.from_numpy(place.labels(split))))

    best = minimize_scalar(
        lambda t: likelihood("tune", t), bounds=(1e-3, 1), method="bounded", options={"xatol": 1e-9}
    )
    assert row["student_best_temperature_after"] == pytest.approx(best.x, rel=1e-3)
    expected = likelihood("evaluation", row["student_best_temperature_after"])
    assert row["student_scaled_negative_log_likelihood_after"] == pytest.approx(expected, rel=1e-5)
    assert row["student_negative_log_likelihood_after"] == pytest.approx(
        likelihood("evaluation", 1), rel=1e-5
    )
