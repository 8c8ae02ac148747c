"""Variants of the paper's losses and partitions, against closed forms, loops and torch's own functions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from study import objectives, spec
from study.objectives import partition

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 10_000)


def batch(seed: int = 0, samples: int = 40, classes: int = 5) -> tuple[torch.Tensor, ...]:
    """Logits of student, teacher and frozen student, and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher, frozen = 3 * torch.randn(3, samples, classes, generator=generator)
    return student, teacher, frozen, torch.randint(classes, (samples,), generator=generator)


def gradient(loss, student: torch.Tensor, *given, **options) -> torch.Tensor:
    student = student.clone().requires_grad_()
    said = loss(student, *given, **options)
    (said[0] if isinstance(said, tuple) else said).backward()
    return student.grad


# --- losses -------------------------------------------------------------------------------------


@quick
@given(seeds, st.sampled_from([0.5, 1.0, 4.0]))
def test_cross_entropy_of_soft_targets_is_torchs_and_has_the_gradients_of_kl(seed, temperature):
    student, teacher, *_ = batch(seed)
    loss = objectives.soft_xe(student, teacher, temperature=temperature)
    soft = (teacher / temperature).softmax(dim=1)
    expected = temperature**2 * F.cross_entropy(student / temperature, soft)
    torch.testing.assert_close(loss, expected)
    one, other = (
        gradient(objective, student, teacher, temperature=temperature)
        for objective in (objectives.soft_xe, objectives.kl)
    )
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@quick
@given(seeds)
def test_a_teachers_answers_are_labels(seed):
    """By cross-entropy with one-hot targets; how sure the teacher is does not matter."""
    student, teacher, *_ = batch(seed)
    answers = F.one_hot(teacher.argmax(dim=1), 5).double()
    expected = -(answers * student.double().log_softmax(dim=1)).sum(dim=1).mean()
    for sure in (0.1, 1, 10):
        loss = objectives.OBJECTIVES["xe_hard"](student, sure * teacher)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@quick
@given(seeds, st.integers(1, 5))
def test_kl_over_the_largest_classes_by_a_loop(seed, k):
    student, teacher, *_ = batch(seed)
    expected = []
    for own, its in zip(student.double(), teacher.double(), strict=True):
        largest = sorted(range(5), key=lambda c, its=its: -its[c])[:k]
        q, p = (logits[largest].exp() / logits[largest].exp().sum() for logits in (own, its))
        expected.append(float((p * (p / q).log()).sum()))
    loss, measures = objectives.kl_top_k(student, teacher, k=k)
    assert measures["divergence_top_k"].tolist() == pytest.approx(expected, abs=1e-5)
    assert float(loss) == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    whole = objectives.kl(student, teacher)
    assert float(measures["divergence"].mean()) == pytest.approx(float(whole), rel=1e-5)
    if k == 5:
        torch.testing.assert_close(loss, whole)


def test_more_classes_than_there_are_cannot_be_the_largest():
    student, teacher, *_ = batch()
    with pytest.raises(ValueError, match="k: 6 of 5 classes; lower it"):
        objectives.kl_top_k(student, teacher, k=6)
    with pytest.raises(ValidationError):
        spec.Method(method="kl_top_k", lr=0.1, k=0)


@quick
@given(seeds, st.floats(0, 1), st.floats(0, 0.9))
def test_label_smoothing_by_hand(seed, weight, smoothing):
    student, teacher, _, labels = batch(seed)
    q = (1 - smoothing) * F.one_hot(labels, 5) + smoothing / 5
    smoothed = -(q * student.log_softmax(dim=1)).sum(dim=1).mean()
    expected = weight * objectives.kl(student, teacher) + (1 - weight) * smoothed
    loss = objectives.xe_kl_smoothed(student, teacher, labels, weight=weight, smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    if smoothing == 0:
        torch.testing.assert_close(loss, objectives.xe_kl(student, teacher, labels, weight=weight))


@quick
@given(seeds, st.floats(0, 1), st.floats(0.3, 1), st.sampled_from([1.0, 20.0]))
def test_distillation_without_a_teacher_by_hand(seed, weight, correct, temperature):
    student, _, _, labels = batch(seed)
    loss = objectives.tf_kd_reg(student, labels, weight=weight, correct=correct, temperature=temperature)
    teacher = torch.full((40, 5), (1 - correct) / 4).scatter(1, labels[:, None], correct)
    p = (teacher / temperature).softmax(dim=1)
    divergence = (p * (p.log() - student.log_softmax(dim=1))).sum(dim=1).mean()
    torch.testing.assert_close(loss, (1 - weight) * F.cross_entropy(student, labels) + weight * divergence)


def test_as_run_cross_entropy_sees_a_softmax_of_a_softmax():
    """With one sample of two classes by hand; a sure student's loss cannot go under log(1 + 1/e)."""
    student, labels = torch.tensor([[50.0, 0.0]]), torch.tensor([0])
    loss = objectives.xe_kl_as_run(student, student, labels, weight=0)
    assert float(loss) == pytest.approx(torch.log1p(torch.exp(torch.tensor(-1.0))).item())
    blended = objectives.xe_kl_as_run(student, student, labels, weight=0, smoothing=0.2)
    assert float(blended) == pytest.approx(F.cross_entropy(torch.tensor([[0.9, 0.1]]), labels).item())


# --- partitions ---------------------------------------------------------------------------------


@quick
@given(seeds, st.floats(0, 1), st.sampled_from([1.0, 2.0, 10.0]), st.sampled_from([0.5, 1.0, 4.0]))
def test_cross_entropy_beside_data_partitioning_and_a_weight_on_the_frozen_student(
    seed, weight, frozen_weight, temperature
):
    student, teacher, frozen, labels = batch(seed)
    options = {"weight": weight, "frozen_weight": frozen_weight, "temperature": temperature}
    loss, measures = objectives.xe_kl_dp(student, (teacher,), frozen, labels, **options)
    total = 0.0
    for i in range(len(labels)):
        taught = bool(measures["teacher_share"][i])
        target = teacher if taught else frozen
        own = objectives.kl(student[i : i + 1], target[i : i + 1], temperature=temperature)
        total += own if taught else frozen_weight * own
    expected = weight * total / len(labels) + (1 - weight) * F.cross_entropy(student, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


PARTITIONS = {  # as the scripts call them
    "flip-st": {},
    "flip-t": {"neutral": "teacher"},
    "flip-avg": {"neutral": "mean"},
    "positives only": {"neutral": "nobody", "negative": "nobody"},
    "positives and neutral": {"neutral": "teacher", "negative": "nobody"},
    "self": {"positive": "frozen"},
}


@pytest.mark.parametrize("name", PARTITIONS)
@quick
@given(seeds)
def test_partitions_by_flips_by_a_loop(name, seed):
    student, teacher, frozen, labels = batch(seed)
    whom = {"positive": "teacher", "neutral": "frozen", "negative": "frozen"} | PARTITIONS[name]
    logits = {"teacher": teacher, "frozen": frozen, "mean": (teacher + frozen) / 2}
    total, taught = 0.0, []
    for i, label in enumerate(labels.tolist()):
        right = [int(said[i].argmax()) == label for said in (teacher, frozen)]
        part = {(True, False): "positive", (False, True): "negative"}.get(tuple(right), "neutral")
        taught.append(whom[part] == "teacher")
        if whom[part] != "nobody":
            total += objectives.kl(student[i : i + 1], logits[whom[part]][i : i + 1], temperature=2.0)
    loss, measures = objectives.kl_flips(
        student, teacher, frozen, labels, temperature=2.0, **PARTITIONS[name]
    )
    torch.testing.assert_close(loss, torch.as_tensor(total) / len(labels), rtol=1e-4, atol=1e-5)
    assert measures["teacher_share"].tolist() == taught
    if name == "self":
        torch.testing.assert_close(loss, objectives.self_distillation(student, frozen, temperature=2.0))


def test_a_student_that_is_the_frozen_one_has_nothing_to_learn_from_itself():
    student, *_ = batch()
    loss = objectives.self_distillation(student, student)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert gradient(objectives.self_distillation, student, student).abs().max() < 1e-6


@quick
@given(seeds)
def test_flips_that_are_taught_are_counted_one_by_one(seed):
    _, teacher, frozen, labels = batch(seed)
    taught = objectives.best(frozen, (teacher,), labels) > 0
    measures = partition.flips_taught(taught, frozen, teacher, labels)
    for i, label in enumerate(labels.tolist()):
        its, own = (int(said[i].argmax()) == label for said in (teacher, frozen))
        assert bool(measures["positive_flips"][i]) == (its and not own)
        assert bool(measures["negative_flips"][i]) == (own and not its)
        assert bool(measures["taught_positive_flips"][i]) == (its and not own and bool(taught[i]))
        assert bool(measures["taught_negative_flips"][i]) == (own and not its and bool(taught[i]))


# --- teachers that are left out -----------------------------------------------------------------


def test_of_what_is_left_out_the_others_are_taught_as_by_kl_dp(monkeypatch):
    """By hand: a sample at a time, from those teachers that are there."""
    student, first, frozen, labels = batch(3)
    second = batch(4)[1]
    drawn = torch.rand(2, 40, 1, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "rand", lambda *shape, device: drawn.reshape(shape))
    loss, measures = partition.kl_dp_drop(student, (first, second), frozen, labels, drop=0.4)
    losses, choices = [], []
    for n in range(40):
        there = [k for k in (1, 2) if drawn[k - 1, n] >= 0.4]
        said = {1: first, 2: second}
        choice = objectives.best(frozen[n : n + 1], [said[k][n : n + 1] for k in there], labels[n : n + 1])
        choices.append([0, *there][int(choice)])
        target = {0: frozen, **said}[choices[-1]]
        losses.append(objectives.kl(student[n : n + 1], target[n : n + 1]))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert {0, 1, 2} == set(choices)
    assert measures["teacher_2_share"].tolist() == [choice == 2 for choice in choices]


@quick
@given(seeds)
def test_teachers_that_are_always_or_never_there(seed):
    student, first, frozen, labels = batch(seed)
    teachers = (first, batch(seed + 1)[1])
    whole, measures = partition.kl_dp(student, teachers, frozen, labels)
    never, shares = partition.kl_dp_drop(student, teachers, frozen, labels, drop=0)
    assert torch.equal(never, whole)
    assert all(torch.equal(shares[name], measure) for name, measure in measures.items())
    always, shares = partition.kl_dp_drop(student, teachers, frozen, labels, drop=1)
    assert torch.equal(always, partition.self_distillation(student, frozen))
    assert not shares["teacher_share"].any()


def test_teachers_are_left_out_as_often_as_asked_and_independently():
    torch.manual_seed(0)
    labels = torch.zeros(4000, dtype=torch.int64)
    sure, surer, frozen = (torch.tensor([[logit, 0.0]]).expand(4000, 2) for logit in (1.0, 2.0, 0.0))
    _, measures = partition.kl_dp_drop(frozen, (sure, surer), frozen, labels, drop=0.25)
    assert measures["teacher_2_share"].float().mean() == pytest.approx(0.75, abs=0.03)
    assert measures["teacher_1_share"].float().mean() == pytest.approx(0.25 * 0.75, abs=0.03)
