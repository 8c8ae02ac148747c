"""Objectives beyond the paper, each against its formula in numpy or a loop, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.metrics import recall_score

from study import objectives
from study.objectives import OBJECTIVES, beyond
from study.objectives.pool import pool_weights

WEIGHT, TEMPERATURE = 0.6, 3.0
SETTINGS = {"weight": WEIGHT, "temperature": TEMPERATURE}
NAMES = ("bag", "boot", "coat", "dress", "shirt")


def logits(seed: int, count: int, samples: int = 40, classes: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(samples, classes, generator=generator) for _ in range(count)]


def labels_of(samples: int = 40, classes: int = 5) -> torch.Tensor:
    return torch.randint(classes, (samples,), generator=torch.Generator().manual_seed(9))


def divergences(student, target) -> np.ndarray:
    """T² · KL of each sample, in numpy."""
    student, target = (log_softmax(one.double().numpy() / TEMPERATURE, axis=1) for one in (student, target))
    return TEMPERATURE**2 * (np.exp(target) * (target - student)).sum(1)


def entropy(said, labels) -> np.ndarray:
    """Cross-entropy of each sample, in numpy."""
    return -log_softmax(said.double().numpy(), axis=1)[np.arange(len(labels)), labels.numpy()]


def both(distilled: np.ndarray, student, labels) -> float:
    return WEIGHT * distilled.mean() + (1 - WEIGHT) * entropy(student, labels).mean()


# --- partitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_a_calibrated_partition_compares_and_teaches_calibrated_models(count):
    student, frozen, *teachers = logits(1, 2 + count)
    tune = [scale * said for said, scale in zip(logits(2, 1 + count, 500), (1, 5, 0.2), strict=False)]
    kept = labels_of(500)
    kept[:400] = tune[0][:400].argmax(1)  # the frozen student is right, but not sure enough
    labels = labels_of()
    known = {"tune_frozen": tune[0], "tune_teachers": tune[1:], "tune_labels": kept}
    objective = objectives.make(OBJECTIVES["xe_kl_dp_calibrated"], SETTINGS, **known)
    loss, measures = objective(student, teachers, frozen, labels)
    models = [
        float(pool_weights(of, (), kept)) * said for of, said in zip(tune, (frozen, *teachers), strict=True)
    ]
    choice = np.argmin([entropy(model, labels) for model in models], axis=0)
    target = torch.stack([models[k][i] for i, k in enumerate(choice)])
    assert loss.item() == pytest.approx(both(divergences(student, target), student, labels), rel=1e-4)
    assert measures["teacher_share"].tolist() == (choice > 0).tolist()
    assert {*choice} == {*range(1 + count)}


def truthful(seed: int, count: int, samples: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Models' logits that know something of the labels, and these."""
    labels = labels_of(samples)
    return [said + 2 * F.one_hot(labels, 5) for said in logits(seed, count, samples)], labels


def best_inverse(said: torch.Tensor, labels: torch.Tensor) -> float:
    """1/T by a search along T alone."""

    def loss(inverse: float) -> float:
        return entropy(inverse * said, labels).mean()

    return scipy.optimize.minimize_scalar(
        loss, bounds=(1e-3, 20), method="bounded", options={"xatol": 1e-9}
    ).x


@pytest.mark.parametrize("count", [1, 2])
def test_kl_dp_among_calibrated_models_chooses_by_them_and_teaches_the_models_own_logits(count):
    tune, kept = truthful(2, 1 + count, 300)
    (student, frozen, *teachers), labels = truthful(1, 2 + count, 40)
    tune[1], teachers[0] = tune[1] / 6, teachers[0] / 6  # a teacher that is not sure enough
    known = {"tune_frozen": tune[0], "tune_teachers": tune[1:], "tune_labels": kept}
    objective = objectives.make(OBJECTIVES["kl_dp_calibrated"], {"temperature": TEMPERATURE}, **known)
    loss, measures = objective(student, teachers, frozen, labels)
    models = (frozen, *teachers)
    calibrated = [best_inverse(of, kept) * said for of, said in zip(tune, models, strict=True)]
    choice = np.argmin([entropy(model, labels) for model in calibrated], axis=0)
    plain = np.argmin([entropy(model, labels) for model in models], axis=0)
    assert (choice == 1).sum() > (plain == 1).sum()  # the soft teacher is heard again
    target = torch.stack([models[k][i] for i, k in enumerate(choice)])
    assert loss.item() == pytest.approx(divergences(student, target).mean(), rel=1e-5)
    assert measures["teacher_share"].tolist() == (choice > 0).tolist()


@settings(max_examples=10, deadline=None)
@given(st.floats(0.2, 5))
def test_who_teaches_among_calibrated_models_does_not_hang_on_how_sure_a_teacher_is(scale):
    tune, kept = truthful(2, 2, 300)
    (student, frozen, teacher), labels = truthful(1, 3, 40)

    def share(by: float) -> list[bool]:
        known = {"tune_frozen": tune[0], "tune_teachers": [by * tune[1]], "tune_labels": kept}
        objective = objectives.make(OBJECTIVES["kl_dp_calibrated"], {}, **known)
        return objective(student, [by * teacher], frozen, labels)[1]["teacher_share"].tolist()

    assert share(scale) == share(1.0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_mixture_by_responsibility(count):
    student, frozen, *teachers = logits(3, 2 + count)
    labels = labels_of()
    loss, measures = OBJECTIVES["xe_kl_mixed"](student, teachers, frozen, labels, **SETTINGS)
    shares = np.array([softmax(said.numpy(), axis=1) for said in (frozen, *teachers)])
    of_true = shares[:, np.arange(40), labels.numpy()]
    responsible = of_true / of_true.sum(0)
    target = torch.from_numpy(np.log((responsible[..., None] * shares).sum(0)))
    assert loss.item() == pytest.approx(both(divergences(student, target), student, labels), rel=1e-5)
    np.testing.assert_allclose(measures["mixed_share"], 1 - responsible[0], atol=1e-5)


def test_a_teacher_who_is_the_student_is_self_distillation():
    student, frozen = logits(4, 2)
    labels = labels_of()
    expected = OBJECTIVES["xe_kl"](student, frozen, labels, **SETTINGS).item()
    for name in ("xe_kl_mixed", "xe_kl_op_equal"):
        result = OBJECTIVES[name](student, (frozen,), frozen, labels, **SETTINGS)
        loss = result[0] if isinstance(result, tuple) else result
        assert loss.item() == pytest.approx(expected, rel=1e-5), name


# --- as the student learns ----------------------------------------------------------------------


@given(st.sampled_from([0.3, 1.0, 4.0]))
def test_adaptconf_is_its_formula(scale):
    student, teacher = logits(5, 2)
    labels = labels_of()
    loss, measures = OBJECTIVES["xe_kl_adaptconf"](student, teacher, labels, scale=scale, **SETTINGS)
    own, its = (np.exp(entropy(student, of.argmax(1)) / scale) for of in (student, teacher))
    share = own / (own + its)
    distilled = (1 - share) * divergences(student, teacher) + share * entropy(student, student.argmax(1))
    assert loss.item() == pytest.approx(both(distilled, student, labels), rel=1e-5)
    np.testing.assert_allclose(measures["own_share"], share, rtol=1e-4)
    assert (share <= 0.5).all()


def test_a_share_that_depends_on_the_student_is_a_constant_to_it():
    """The gradient is that with the shares held fast."""
    student, teacher = logits(6, 2)
    labels = labels_of()
    moving = student.clone().requires_grad_()
    loss, measures = OBJECTIVES["xe_kl_adaptconf"](moving, teacher, labels, **SETTINGS)
    (got,) = torch.autograd.grad(loss, moving)
    share = measures["own_share"]
    log_student = (moving / TEMPERATURE).log_softmax(1)
    target = (teacher / TEMPERATURE).log_softmax(1)
    kl = TEMPERATURE**2 * (target.exp() * (target - log_student)).sum(1)
    own = F.cross_entropy(moving, moving.argmax(1), reduction="none")
    held = WEIGHT * ((1 - share) * kl + share * own).mean() + (1 - WEIGHT) * F.cross_entropy(moving, labels)
    torch.testing.assert_close(got, torch.autograd.grad(held, moving)[0])


def test_a_sample_that_has_passed_is_not_taught():
    student, teacher = logits(7, 2)
    labels = labels_of()
    student[:10, labels[:10]] = 9.0
    student[torch.arange(10), labels[:10]] = 30.0  # these have passed
    loss, measures = OBJECTIVES["xe_kl_until_passed"](student, teacher, labels, **SETTINGS)
    taught = entropy(teacher, labels) < entropy(student, labels)
    assert not taught[:10].any() and taught.any()
    assert measures["not_passed"].tolist() == taught.tolist()
    assert loss.item() == pytest.approx(
        both(taught * divergences(student, teacher), student, labels), rel=1e-5
    )


# --- what is transferred ------------------------------------------------------------------------


def made(name: str, settings: dict | None = None, **known):
    return objectives.make(OBJECTIVES[name], settings or {}, **known)


def test_of_chosen_classes_alone_the_teacher_teaches():
    student, teacher, frozen = logits(8, 3)
    labels = labels_of()
    by_name = made("kl_of_classes", {"classes": ["boot", 4]}, class_names=NAMES)
    loss, measures = by_name(student, teacher, frozen, labels)
    taught = (labels == 1) | (labels == 4)
    target = torch.where(taught[:, None], teacher, frozen)
    assert loss.item() == pytest.approx(OBJECTIVES["kl"](student, target).item())
    assert torch.equal(measures["teacher_share"], taught)
    nobody, everybody = (
        made("kl_of_classes", {"classes": classes}, class_names=NAMES)(student, teacher, frozen, labels)[0]
        for classes in ([], [*NAMES])
    )
    assert nobody == OBJECTIVES["self_distillation"](student, frozen)
    assert everybody == OBJECTIVES["kl"](student, teacher)


@pytest.mark.parametrize("wrong", ["boots", 5, -1])
def test_a_class_that_there_is_not_is_a_sentence(wrong):
    with pytest.raises(
        ValueError, match=f"classes: the data have no class {wrong!r}; they are bag, boot, coat"
    ):
        made("kl_of_classes", {"classes": [wrong]}, class_names=NAMES)


@pytest.mark.parametrize("count", [1, 2])
def test_an_expert_is_who_has_the_largest_recall(count):
    said, labels = logits(10, 1 + count, 300), labels_of(300)
    labels[labels == 3] = 2  # a class without samples
    said[1] += 2 * F.one_hot(labels, 5) * (labels == 1)[:, None]
    recalls = [
        recall_score(labels, of.argmax(1), labels=range(5), average=None, zero_division=0) for of in said
    ]
    found = beyond.experts(said[0], said[1:], labels)
    assert found.tolist() == np.argmax(recalls, axis=0).tolist()
    assert found[3] == 0 and found[1] == 1


def test_each_class_is_taught_by_its_expert():
    student, first, second, frozen = logits(11, 4)
    tune, kept, labels = logits(12, 3, 300), labels_of(300), labels_of()
    whom = beyond.experts(tune[0], tune[1:], kept)
    assert {*whom.tolist()} == {0, 1, 2}
    objective = made("kl_of_experts", tune_frozen=tune[0], tune_teachers=tune[1:], tune_labels=kept)
    loss, measures = objective(student, (first, second), frozen, labels)
    target = torch.stack([(frozen, first, second)[whom[y]][i] for i, y in enumerate(labels)])
    assert loss.item() == pytest.approx(OBJECTIVES["kl"](student, target).item())
    assert torch.equal(measures["teacher_2_share"], whom[labels] == 2)
    with pytest.raises(ValueError, match="a mixed image is of several classes"):
        objective(student, (first, second), frozen, F.one_hot(labels, 5).float())
