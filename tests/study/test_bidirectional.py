"""Two models that learn from each other: the loss by a loop and by its gradients, and whole trials."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from study import distributed, frozen, objectives, spec, transfer
from study.errors import StudyError
from study.images.batches import Crop
from study.models import weights
from study.models.timm_import import timm
from tests.study.trials import assert_same, budget, elsewhere, method, trial_of

seeds = st.integers(0, 10_000)
weights_of = st.sampled_from([0.0, 0.3, 0.5, 1.0])
temperatures = st.sampled_from([0.5, 1.0, 3.0])


def batch(seed: int, samples: int = 12, classes: int = 4) -> tuple[torch.Tensor, ...]:
    """Logits of two models, and labels; each is the better one on some samples."""
    generator = torch.Generator().manual_seed(seed)
    first, second = 2 * torch.randn(2, samples, classes, generator=generator)
    return first, second, torch.randint(classes, (samples,), generator=generator)


def gradients(loss, *logits: torch.Tensor) -> list[torch.Tensor]:
    leaves = [one.clone().requires_grad_() for one in logits]
    loss(*leaves).backward()
    return [leaf.grad for leaf in leaves]


# --- the loss -----------------------------------------------------------------------------------


@given(seeds, weights_of, temperatures)
def test_the_loss_by_a_loop(seed, weight, temperature):
    student, teacher, labels = batch(seed)
    total, taught = 0.0, []
    for own, its, label in zip(student.double(), teacher.double(), labels, strict=True):
        better = its.softmax(0)[label] > own.softmax(0)[label]
        taught.append(bool(better))
        p, q = (its, own) if better else (own, its)
        p, q = (p / temperature).softmax(0), (q / temperature).softmax(0)
        total += weight * temperature**2 * float((p * (p / q).log()).sum())
        total -= (1 - weight) * float(own.log_softmax(0)[label] + its.log_softmax(0)[label])
    loss, measures = objectives.OBJECTIVES["bi_kd"](
        student, teacher, labels, weight=weight, temperature=temperature
    )
    assert float(loss) == pytest.approx(total / len(labels), rel=1e-4, abs=1e-6)
    assert measures["teacher_share"].tolist() == taught


@given(seeds, weights_of, temperatures)
def test_the_two_may_change_places(seed, weight, temperature):
    student, teacher, labels = batch(seed)
    for targets in ("constant", "moving"):
        settings = {"weight": weight, "temperature": temperature, "targets": targets}
        loss, measures = bi_kd(student, teacher, labels, **settings)
        swapped, other = bi_kd(teacher, student, labels, **settings)
        torch.testing.assert_close(loss, swapped)
        assert torch.equal(measures["teacher_share"], ~other["teacher_share"])


def bi_kd(*given, **settings):
    return objectives.OBJECTIVES["bi_kd"](*given, **settings)


def test_of_each_sample_the_worse_one_alone_imitates():
    student, teacher, labels = batch(0)
    _, measures = bi_kd(student, teacher, labels, weight=1)
    taught = measures["teacher_share"]
    assert 0 < taught.sum() < len(taught)
    own, its = gradients(lambda s, t: bi_kd(s, t, labels, weight=1)[0], student, teacher)
    assert torch.equal(own.abs().sum(1) > 0, taught)
    assert torch.equal(its.abs().sum(1) > 0, ~taught)
    # What is imitated is a constant: the gradient of KL in the worse one's logits is q - p.
    expected = (student.softmax(1) - teacher.softmax(1)) / len(labels)
    torch.testing.assert_close(own[taught], expected[taught])
    torch.testing.assert_close(its[~taught], -expected[~taught])


@given(seeds, temperatures)
def test_what_is_imitated_moves_too_in_the_authors_script(seed, temperature):
    """Their loss, written as they write it: both divergences, masked, nothing detached."""
    student, teacher, labels = batch(seed)

    def theirs(student, teacher):
        soft_t, soft_s = teacher.softmax(1), student.softmax(1)
        rows = torch.arange(len(labels))
        mask_t = (soft_t[rows, labels] > soft_s[rows, labels]).float()
        kl_t = F.kl_div(soft_s.log(), soft_t, reduction="none").sum(1)
        kl_s = F.kl_div(soft_t.log(), soft_s, reduction="none").sum(1)
        both = F.cross_entropy(teacher, labels) + F.cross_entropy(student, labels)
        return (both + (mask_t * kl_t + (1 - mask_t) * kl_s).mean()) / 2

    def ours(student, teacher):
        return bi_kd(student, teacher, labels, targets="moving")[0]

    torch.testing.assert_close(ours(student, teacher), theirs(student, teacher))
    for mine, expected in zip(
        gradients(ours, student, teacher), gradients(theirs, student, teacher), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@given(seeds)
def test_mixed_labels_of_one_class_are_that_class(seed):
    student, teacher, labels = batch(seed)
    whole, mixed = (bi_kd(student, teacher, of) for of in (labels, F.one_hot(labels, 4).float()))
    torch.testing.assert_close(whole[0], mixed[0])
    assert torch.equal(whole[1]["teacher_share"], mixed[1]["teacher_share"])


# --- trials -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


def by_bi_kd(study: spec.Study, student: str = "mixer", **settings) -> spec.Trial:
    return method(trial_of(study, "kl", student), method="bi_kd", lr=1e-2, **settings)


def test_both_learn_as_a_loop_by_hand_has_it(study, workspace):
    """Two networks of timm's under one SGD of torch's, without any of the learner's machinery."""
    trial = budget(by_bi_kd(study, "resnet"), schedule="constant", evaluate="epoch")
    outcome = transfer.run(trial, workspace)
    student, teacher = workspace.student(trial.student), workspace.student(trial.teachers[0])
    optimizer = torch.optim.SGD(
        [*student.parameters(), *teacher.parameters()], lr=1e-2, momentum=0.9, weight_decay=1e-3
    )
    samples, labels = workspace.splits["transfer"], torch.from_numpy(workspace.images.labels)
    batches = workspace.batches(student.crop)
    losses = []
    for epoch in range(trial.budget.epochs):
        student.train()
        teacher.train()
        total, parts = 0.0, distributed.steps(len(samples), 32)
        order = np.random.default_rng((trial.seed, epoch)).permutation(samples)
        bounds = [32 * k for k in range(1, parts)]
        for part in np.split(order, bounds):
            pixels = torch.cat([p.clone() for p, _, _ in batches.epoch(part, len(part))])
            loss, _ = bi_kd(student(pixels), teacher(pixels), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += len(part) * float(loss.detach())
        losses.append(total / len(samples))
        assert workspace.accuracy(teacher, "evaluation") == pytest.approx(
            outcome.history["teacher_accuracy"][epoch], abs=0.01
        )
    np.testing.assert_allclose(outcome.history["loss"], losses, rtol=1e-4)
    for ours, theirs in zip(outcome.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert outcome.history["teacher_accuracy"][-1] != outcome.row["teacher_accuracy"]  # it has learnt


def test_the_teacher_of_the_zoo_stays_as_it_was(study, workspace):
    trial = by_bi_kd(study)
    before = workspace.frozen(trial.teachers[0]).weights
    outcome = transfer.run(trial, workspace)
    assert weights.digest_of(workspace.frozen(trial.teachers[0])) == before == outcome.row["teacher_weights"]
    assert_same(transfer.run(trial, workspace), outcome)


def test_no_frozen_model_is_asked(study, workspace, tmp_path):
    """So nothing is kept of what they say of the transfer set, and no plan counts a pass."""
    place = elsewhere(workspace, outputs=tmp_path)
    trial = by_bi_kd(study)
    transfer.run(trial, place)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # of the evaluation split, of the two models
    own = study.model_copy(update={"methods": {"bi_kd": trial.method}})
    decision = frozen.decide(own, own.trials(), 100, 10)
    assert (decision.live_passes, decision.cached_passes) == (0, 0)
    panel = frozen.panel(
        place,
        trial.method,
        frozen.View(Crop()),
        2,
        place.frozen(trial.student),
        [place.frozen(trial.student)],
    )
    assert panel.frozen is None and panel.teachers == ()


def test_the_record_says_whom_the_teacher_taught(study, workspace):
    outcome = transfer.run(by_bi_kd(study), workspace)
    assert 0 < outcome.row["teacher_share"] < 1
    assert outcome.row["positive_flips_taught"] is None
    assert [measures.keys() for measures in outcome.history["measures"]] == [{"teacher_share"}] * 2
    assert outcome.row["weight"] == 0.5


def test_statistics_of_batch_norm_stay_where_they_are_asked_to(study, workspace):
    trial = budget(by_bi_kd(study), batch_norm="fixed")
    taught = []
    student = workspace.student

    def noting(model):
        taught.append(student(model))
        return taught[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "student", noting)
        transfer.run(trial, workspace)
    before = workspace.frozen(trial.teachers[0])
    (teacher,) = (one for one in taught if one.model.name == "resnet")
    for old, new in zip(before.buffers(), teacher.buffers(), strict=True):
        assert torch.equal(old, new)
    assert any(
        not torch.equal(old, new) for old, new in zip(before.parameters(), teacher.parameters(), strict=True)
    )


# --- several workers ----------------------------------------------------------------------------


def test_a_teacher_with_batch_norm_cannot_learn_on_several_cpus(study):
    changes = {"resources": study.resources.model_copy(update={"workers": 2}), "pairs": [("mixer", "resnet")]}
    methods = {"bi_kd": by_bi_kd(study).method}
    with pytest.raises(StudyError, match=r"zoo\.resnet: has BatchNorm.*leave it out"):
        distributed.check(study.model_copy(update=changes | {"methods": methods}))
    distributed.check(study.model_copy(update=changes))


def test_the_teacher_that_learns_is_told_of_batch_norm_too(study, workspace):
    """On GPUs its statistics are those of all workers."""
    from study.learner import Learner

    trial = by_bi_kd(study)
    student, teacher = workspace.student(trial.student), workspace.student(trial.teachers[0])
    learner = Learner(
        student, bi_kd, trial.method.needs, trial.budget, 0.1, 3, "float32", copy.deepcopy(teacher)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "place", lambda: (0, 2))
        patch.setattr(distributed, "check_batch_norm", lambda model: None)
        patch.setattr(distributed, "DistributedDataParallel", lambda module, **options: module)
        parallel = distributed.data_parallel(learner)
    kinds = {type(part) for part in parallel.teacher.modules()}
    synced = {torch.nn.SyncBatchNorm, timm.layers.SyncBatchNormAct}
    assert synced & kinds
    assert not any(kind.__name__.startswith("BatchNorm") for kind in kinds)
