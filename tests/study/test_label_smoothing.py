"""Label smoothing in training and in the record: targets, gradients, who is softened, what a trial notes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from study import mistakes, objectives, recipe, softness, spec, spread, transfer
from study.errors import StudyError
from study.models import weights
from study.store import digest
from study.store.checkpoints import Checkpoint
from study.views import View
from tests.study.trials import (
    Interrupted,
    assert_same,
    blank,
    budget,
    changed,
    elsewhere,
    method,
    trial_of,
    until,
)

ROOT = Path(__file__).resolve().parents[2]
ALPHA, CLASSES = 0.1, 10


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


@pytest.fixture
def batch():
    """Logits of a student and of a teacher, and labels."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(7, CLASSES, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(CLASSES, (7,), generator=generator)


def refused(study: dict, path: str) -> str:
    with pytest.raises(ValidationError) as error:
        spec.Study.model_validate(study)
    said = mistakes.first(error.value, spec.Study)
    assert said.startswith(path), said
    return said


# --- objectives ---------------------------------------------------------------------------------


def against(target: torch.Tensor, student: torch.Tensor) -> float:
    """Cross-entropy with soft targets, written out in float64."""
    return float(-(target.double() * student.double().log_softmax(1)).sum(1).mean())


def muellers(labels: torch.Tensor, alpha: float) -> torch.Tensor:
    return (1 - alpha) * F.one_hot(labels, CLASSES) + alpha / CLASSES


def shens(labels: torch.Tensor, alpha: float) -> torch.Tensor:
    right = F.one_hot(labels, CLASSES)
    return (1 - alpha) * right + alpha / (CLASSES - 1) * (1 - right)


def test_smoothing_is_torchs_and_shens_is_converted(batch):
    student, _, labels = batch
    ours = objectives.xe(student, labels, label_smoothing=ALPHA)
    assert ours.item() == pytest.approx(against(muellers(labels, ALPHA), student), rel=1e-6)
    converted = objectives.xe(student, labels, label_smoothing=ALPHA * CLASSES / (CLASSES - 1))
    assert converted.item() == pytest.approx(against(shens(labels, ALPHA), student), rel=1e-6)
    assert ours.item() != pytest.approx(converted.item(), rel=1e-4)


def test_without_smoothing_the_loss_is_the_same_to_the_last_bit(batch):
    student, _, labels = batch
    assert torch.equal(objectives.xe(student, labels), F.cross_entropy(student, labels))


def test_shares_of_mixed_labels_are_smoothed_alike(batch):
    student, _, labels = batch
    shares = torch.lerp(
        F.one_hot(labels, CLASSES).float(), F.one_hot(labels.roll(1), CLASSES).float(), torch.tensor(0.3)
    )
    smoothed = (1 - ALPHA) * shares + ALPHA / CLASSES
    loss = objectives.xe(student, shares, label_smoothing=ALPHA)
    assert loss.item() == pytest.approx(against(smoothed, student), rel=1e-6)


def test_the_optimum_of_a_smoothed_fit_has_the_published_logits():
    """z_y − z_k = log(1 + K (1 − α) / α): 4.51 for ten classes; there the gradient is zero."""
    gap = np.log(1 + CLASSES * (1 - ALPHA) / ALPHA)
    assert gap == pytest.approx(4.51, abs=5e-3)
    labels = torch.arange(CLASSES)
    logits = (gap * torch.eye(CLASSES)).requires_grad_()
    objectives.xe(logits, labels, label_smoothing=ALPHA).backward()
    assert logits.grad.abs().max() < 1e-7


def gradient(loss, student: torch.Tensor) -> torch.Tensor:
    student = student.clone().requires_grad_()
    loss(student).backward()
    return student.grad


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_a_soft_cross_entropy_is_that_of_kl(batch, temperature):
    """Shen et al.'s property 1: the teacher's entropy is a constant; the values differ by it."""
    student, teacher, _ = batch
    soft, kl = objectives.soft_xe, objectives.kl
    of_both = [
        gradient(lambda z, loss=loss: loss(z, teacher, temperature=temperature), student)
        for loss in (soft, kl)
    ]
    torch.testing.assert_close(*of_both, rtol=1e-4, atol=1e-6)
    entropy = softness.sums(teacher, None, temperature)[0] / len(teacher)
    gap = soft(student, teacher, temperature=temperature) - kl(student, teacher, temperature=temperature)
    assert gap.item() / temperature**2 == pytest.approx(entropy.item(), rel=1e-4)


def test_a_teacher_that_gives_smoothed_labels_is_label_smoothing(batch):
    """Distillation at T = 1 from the smoothed labels themselves has the gradients of smoothing."""
    student, _, labels = batch
    kl, xe = objectives.kl, objectives.xe
    distilled = gradient(lambda z: kl(z, muellers(labels, ALPHA).log()), student)
    smoothed = gradient(lambda z: xe(z, labels, label_smoothing=ALPHA), student)
    torch.testing.assert_close(distilled, smoothed, rtol=1e-4, atol=1e-6)


def test_the_teacher_alone_is_softened(batch):
    """Müller et al.'s setting: KL(softmax(z_t / T) ‖ softmax(z_s)), without T²."""
    student, teacher, _ = batch
    kl = objectives.kl
    soft = (teacher.double() / 4).softmax(1)
    by_hand = (soft * (soft.log() - student.double().log_softmax(1))).sum(1).mean()
    assert kl(student, teacher, temperature=4, student_temperature=1).item() == pytest.approx(by_hand.item())
    both = kl(student, teacher, temperature=4)
    assert torch.equal(kl(student, teacher, temperature=4, student_temperature=4), both)
    assert both.item() != pytest.approx(by_hand.item(), rel=0.1)


# --- studies ------------------------------------------------------------------------------------


def test_no_id_and_no_trained_path_is_another_than_before():
    """Of the demo, by the digest of all of them as they were before there was any smoothing."""
    demo = spec.load(ROOT / "studies" / "demo.yaml")
    ids = [trial.id for trial in demo.trials()]
    paths = [weights.folder_of(model, demo.data, Path("zoo"), None).name for model in demo.zoo.values()]
    assert (len(ids), len(paths), digest.of_json([ids, paths])) == (222, 12, "f8d6c3b699e5f7bb")


def test_what_is_left_out_at_its_default_is_in_no_record(study):
    kl, xe = study.methods["kl"], study.methods["xe"]
    assert xe.settings == {} and kl.settings == {"temperature": 1.0}
    assert "label_smoothing" not in study.zoo["mixer"].weights.model_dump()
    said = spec.Method.model_validate({"method": "xe", "lr": 0.1, "label_smoothing": ALPHA})
    assert said.settings == {"label_smoothing": ALPHA}
    assert spec.Method.model_validate({"method": "xe", "lr": 0.1, "label_smoothing": 0}) == (
        spec.Method.model_validate({"method": "xe", "lr": 0.1})
    )


@pytest.mark.parametrize(
    ("where", "path", "value", "words"),
    [
        ("zoo", "zoo.mixer.weights.label_smoothing", 1, "less than 1"),
        ("zoo", "zoo.mixer.weights.label_smoothing", -0.1, "greater than or equal to 0"),
        ("xe", "methods.xe.label_smoothing", 1.0, "less than 1"),
        ("xe", "methods.xe.label_smoothing", True, "should be a number"),
        ("kl", "methods.kl.student_temperature", 0, "greater than 0"),
        ("kl", "methods.kl.label_smoothing", 0.1, "unknown key"),
    ],
)
def test_a_smoothing_that_is_none_is_told(content, where, path, value, words):
    key = path.rpartition(".")[2]
    place = content["zoo"]["mixer"]["weights"] if where == "zoo" else content["methods"][where]
    place[key] = value
    assert words in refused(content, path)


# --- twins --------------------------------------------------------------------------------------


def smoothed(model: spec.Model, alpha: float, **changes) -> spec.Model:
    recipe_of = model.weights.model_copy(update={"label_smoothing": alpha, **changes})
    return model.model_copy(update={"weights": recipe_of, "name": f"{model.name}_{alpha}"})


def test_twins_differ_in_smoothing_alone(study):
    model = study.zoo["resnet"]
    assert model.twin == smoothed(model, 0.2).twin == smoothed(model, 0.1).twin
    assert (model.label_smoothing, smoothed(model, 0.2).label_smoothing) == (0, 0.2)
    others = [smoothed(model, 0.1, seed=1), smoothed(model, 0.1, images=50), study.zoo["mixer"]]
    assert len({model.twin, *(other.twin for other in others)}) == 4
    paths = {weights.folder_of(one, study.data, Path("zoo"), None) for one in (model, smoothed(model, 0.2))}
    assert len(paths) == 2


def test_of_weights_that_we_did_not_train_nothing_is_known(study):
    for weights_of in (spec.Hub(), spec.Random(seed=0), spec.File(path="a.safetensors")):
        model = study.zoo["resnet"].model_copy(update={"weights": weights_of})
        assert (model.twin, model.label_smoothing) == (None, None)


def made(model: spec.Model, place) -> object:
    return recipe.train(model, blank(model, model.weights.seed), place)[0]


def test_every_phase_is_smoothed(study, workspace, monkeypatch):
    given = []
    xe = objectives.xe

    def spied(student, labels, *, label_smoothing=0.0):
        given.append(label_smoothing)
        return xe(student, labels, label_smoothing=label_smoothing)

    monkeypatch.setattr(recipe.objectives, "xe", spied)
    made(smoothed(study.zoo["mixer"], 0.2), workspace)
    phases = study.zoo["mixer"].weights.phases
    assert len(phases) == 2 and {*given} == {0.2}
    assert len(given) == 2 * 4 + 1 * 2  # steps of both phases


def test_a_smoothed_model_is_less_sure_of_what_it_was_trained_on(study, workspace):
    phase = {"epochs": 60, "lr": 1e-2, "batch_size": 50}
    model = study.zoo["mixer"].model_copy(
        update={"weights": spec.Trained.model_validate({"images": 100, "phases": [phase]})}
    )
    sure = []
    for one in (model, smoothed(model, 0.2)):
        said = workspace.predict(made(one, workspace), "transfer")
        assert (said.label == workspace.labels("transfer")).mean() > 0.9
        sure.append(float(said.confidence.mean()))
    assert sure[0] - sure[1] > 0.1


# --- the record ---------------------------------------------------------------------------------


def test_sums_are_those_of_a_loop(batch):
    _, teacher, labels = batch
    entropy = off = right = 0.0
    for row, label in zip((teacher.double() / 2).softmax(1).numpy(), labels.tolist(), strict=True):
        entropy -= float((row * np.log(row)).sum())
        off += 1 - row[label]
        right += row.argmax() == label
    found = softness.sums(teacher, labels, 2.0)
    np.testing.assert_allclose(found.numpy(), [entropy, off, right, 7], rtol=1e-6)
    without = softness.sums(teacher, None, 2.0)
    assert without[:2].isnan().tolist() == [False, True] and without[2].isnan()


@given(st.floats(0.01, 0.9), st.integers(2, 30))
def test_gamma_of_a_perfect_smoothed_fit_is_alpha(alpha, classes):
    gap = np.log(1 + classes * (1 - alpha) / alpha)
    heard = softness.Softness(1.0)
    heard.add(gap * torch.eye(classes, dtype=torch.float64), torch.arange(classes))
    found = heard.end_epoch()
    assert found["teacher_off_target"] == pytest.approx(alpha, rel=1e-4)
    assert found["teacher_transfer_accuracy"] == 1


def test_what_is_heard_does_not_depend_on_batches(batch, monkeypatch):
    _, teacher, labels = batch
    whole, parts = softness.Softness(3.0), softness.Softness(3.0)
    whole.add(teacher, labels)
    monkeypatch.setattr(softness, "CHUNK", 2)
    for start in range(len(labels)):
        parts.add(teacher[start : start + 1], labels[start : start + 1])
    once, twice = whole.end_epoch(), parts.end_epoch()
    assert once == pytest.approx(twice)
    parts.add(teacher, labels)
    assert parts.end_epoch() == pytest.approx(once)  # nothing is left of the epoch before


def test_how_probabilities_vary_within_classes_is_heard_too(batch):
    _, teacher, labels = batch
    heard = softness.Softness(3.0)
    heard.add(teacher, labels)
    expected = spread.intra_class_variance(spread.class_sums([teacher], labels, teacher.shape[1], 3.0))
    assert heard.end_epoch()["teacher_intra_class_variance"] == pytest.approx(expected)
    heard.add(teacher, None)  # of mixed images
    assert heard.end_epoch()["teacher_intra_class_variance"] is None


@pytest.mark.parametrize("cached", [True, False])
def test_a_trial_notes_how_soft_its_teacher_is(study, workspace, tmp_path, cached):
    """Against the teacher's logits on the transfer set, asked for anew."""
    place = elsewhere(workspace, tmp_path, cached=cached)
    trial = method(trial_of(study, "kl"), method="kl", lr=1e-2, temperature=2)
    found = transfer.run(trial, place)
    (teacher,) = trial.teachers
    said = place.outputs(place.frozen(teacher), "transfer", View(place.frozen(trial.student).crop)).logits
    said, labels = said.double(), torch.from_numpy(place.labels("transfer"))
    soft = (said / 2).softmax(1)
    entropy = float(-(soft * soft.log()).sum(1).mean())
    gamma = float(1 - soft.gather(1, labels[:, None]).mean()) * 10 / 9
    row = found.row
    assert row["teacher_entropy_at_t"] == pytest.approx(entropy, rel=1e-3)
    assert row["teacher_off_target"] == pytest.approx(gamma, rel=1e-3)
    variance = spread.intra_class_variance(spread.class_sums([said], labels, 10, 2.0))
    assert row["teacher_intra_class_variance"] == pytest.approx(variance, rel=1e-3)
    assert row["teacher_transfer_accuracy"] == float((said.argmax(1) == labels).double().mean())
    assert row["student_intra_class_variance_after"] == place.predict(found.student).variance
    assert found.history["teacher_entropy"] == pytest.approx([entropy] * 2, rel=1e-3)
    assert (row["temperature"], row["student_temperature"]) == (2, 2)
    assert (row["teacher_label_smoothing"], row["student_label_smoothing"]) == (0, 0)
    assert (row["teacher_twin"], row["class_imbalance"]) == (teacher.twin, None)


def test_kl_and_entropy_are_apart(study, workspace):
    """Cross-entropy with the teacher is loss / T² + entropy, epoch for epoch."""
    runs = [
        transfer.run(method(trial_of(study, "kl"), method=name, lr=1e-2, temperature=4), workspace)
        for name in ("kl", "soft_xe")
    ]
    kl, cross = (np.array(run.history["loss"]) / 16 for run in runs)
    np.testing.assert_allclose(cross - kl, runs[0].history["teacher_entropy"], rtol=1e-3)
    assert runs[0].history["teacher_entropy"] == runs[1].history["teacher_entropy"]


def test_who_has_no_teacher_or_several_notes_none(study, workspace):
    row = transfer.run(trial_of(study, "xe"), workspace).row
    assert not {name for name in row if name.startswith("teacher_") and row[name] is not None}
    assert row["student_temperature"] is None
    several = changed(
        trial_of(study, "kl_dp"),
        teachers=(study.zoo["resnet"], study.zoo["mixer"]),
        combine="parallel",
        student=blank(study.zoo["mixer"], 0),
    )
    found = transfer.run(several, workspace)
    assert "teacher_entropy_at_t" not in found.row and found.row["teacher_twin"] is None
    assert found.row["student_label_smoothing"] is None
    assert found.history["teacher_entropy"] == [None, None]


def test_of_mixed_images_the_entropy_alone_is_noted(study, workspace):
    found = transfer.run(budget(trial_of(study, "kl"), transforms=[{"mixup": 1.0}]), workspace).row
    assert found["teacher_entropy_at_t"] > 0
    assert (found["teacher_off_target"], found["teacher_transfer_accuracy"]) == (None, None)


# --- watching -----------------------------------------------------------------------------------


def watching(trial: spec.Trial, **settings) -> spec.Trial:
    return changed(trial, watch=spec.Watch.model_validate({"split": "evaluation", **settings}))


def unwatched(outcome: transfer.Outcome) -> transfer.Outcome:
    kept = {name: values for name, values in outcome.history.items() if name not in transfer.WATCHED}
    return transfer.Outcome(outcome.row, outcome.predictions, kept, outcome.student)


def test_watching_changes_nothing_else_interrupted_or_not(study, workspace, tmp_path):
    trial = budget(trial_of(study, "kl_dp", "resnet"), epochs=3)
    watched = watching(trial, samples=40)
    assert watched.id == trial.id
    plain, curves = (transfer.run(one, workspace) for one in (trial, watched))
    assert_same(unwatched(plain), unwatched(curves))
    assert plain.history["watched_nll"] == [None] * 3
    checkpoint = Checkpoint(tmp_path / "trial.pt", trial.id)
    with pytest.raises(Interrupted):
        transfer.run(watched, workspace, until(2), checkpoint)
    assert_same(transfer.run(watched, workspace, checkpoint=checkpoint), curves)


def test_what_is_watched_is_the_student_on_the_split(study, workspace):
    trial = budget(trial_of(study, "xe_kl_mcl"), epochs=3)  # slow weights: they are the student
    found = transfer.run(watching(trial), workspace)
    row, history = found.row, found.history
    assert history["watched_accuracy"][-1] == row["student_accuracy_after"]
    assert history["watched_nll"][-1] == pytest.approx(row["student_negative_log_likelihood_after"])
    assert len({*history["watched_nll"]}) == 3
    rarely = transfer.run(watching(trial, every=2), workspace).history["watched_nll"]
    assert rarely == [None, *history["watched_nll"][1:]]


def test_a_study_watches_in_all_trials_and_no_id_changes(content):
    plain = spec.Study.model_validate(content)
    watched = spec.Study.model_validate(content | {"watch": {"split": "transfer", "samples": 10}})
    assert [t.id for t in plain.trials()] == [t.id for t in watched.trials()]
    assert {trial.watch.samples for trial in watched.trials()} == {10}
    assert "watch" not in plain.model_dump()


def test_what_cannot_be_watched_is_told(content, workspace, study):
    said = refused(content | {"watch": {"split": "tune"}}, "watch.split: there are no images in 'tune'")
    assert "data.splits.tune" in said
    assert "did you mean" in refused(content | {"watch": {"split": "transfer", "sample": 1}}, "watch.sample")
    refused(
        content | {"watch": {"split": "transfer", "samples": 101}}, "watch.samples: asks for 101 images of"
    )
    assert spec.Study.model_validate(content | {"watch": {"split": "transfer", "samples": 100}}).watch
    with pytest.raises(StudyError, match=r"watch\.samples: asks for 9000 images of \d+ in 'evaluation'; ask"):
        transfer.run(watching(trial_of(study, "xe"), samples=9000), workspace)
