"""Every objective through a whole trial: the same again, interrupted or not, and what is recorded of it."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from study import derivation, objectives, search, spec, transfer
from study.errors import StudyError
from study.images import files
from study.store.checkpoints import Checkpoint
from study.views import View
from study.workspace import Workspace
from tests.study.trials import Interrupted, assert_same, budget, changed, method, trial_of, until

SETTINGS = {  # what has no default, or too large a one
    "xe_kl": {"weight": 0.5},
    "xe_kl_dp": {"weight": 0.75, "frozen_weight": 2},
    "xe_kl_smoothed": {"weight": 0.5},
    "xe_kl_as_run": {"weight": 0.5, "smoothing": 0.1},
    "kl_top_k": {"k": 3},
    "crd": {"negatives": 16, "dim": 8},
    "xe_kl_crd": {"negatives": 16, "dim": 8},
    "kl_of_classes": {"classes": [0, "class3"]},
    "xe_kl_augmented": {"augmentation": {"transforms": []}},
}


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    """The small study with images kept aside, on which some objectives fit something."""
    content = copy.deepcopy(base)
    content["data"]["splits"]["tune"] = 60
    return spec.Study.model_validate(content)


@pytest.fixture(scope="module")
def workspace(study) -> Workspace:
    files.prepare(study.data.images, study.folders.data)
    place = Workspace(study.data, study.folders, "cpu", threads=1)
    for model in study.zoo.values():
        derivation.make(model, place)
    return place


def by(study: spec.Study, name: str, **settings) -> spec.Trial:
    """A trial of the small study by any objective, with the teachers that it takes."""
    content = {"method": name, "lr": 1e-2, **SETTINGS.get(name, {}), **settings}
    teachers = spec.Method.model_validate(content).teachers
    return method(trial_of(study, "xe" if teachers == 0 else "kl"), **content)


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_a_trial_is_the_same_interrupted_or_not(study, workspace, tmp_path, name):
    trial = by(study, name)
    whole = transfer.run(trial, workspace)
    location = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        transfer.run(trial, workspace, until(1), Checkpoint(location, trial.id))
    assert_same(transfer.run(trial, workspace, checkpoint=Checkpoint(location, trial.id)), whole)
    assert all(np.isfinite(whole.history["loss"]))
    kept = json.loads(whole.row["settings"])
    assert kept["lr"] == 1e-2
    assert dict(search.flat(SETTINGS.get(name, {}))).items() <= kept.items()


def test_what_is_chosen_and_whether_labels_are_read_is_recorded(study, workspace):
    """Classes by number, whether they were named or found; null where none are chosen."""
    by_name = transfer.run(by(study, "kl_of_classes"), workspace).row
    assert (by_name["classes_taught"], by_name["reads_labels"]) == ([0, 3], True)
    trial = by(study, "kl_of_experts")
    found = transfer.run(trial, workspace).row["classes_taught"]
    student, teacher = (workspace.frozen(model) for model in (trial.student, trial.teachers[0]))
    labels = workspace.labels("tune")
    right = [
        np.bincount(labels[(said == labels)], minlength=len(workspace.images.classes))
        for said in (
            workspace.outputs(one, "tune", View(student.crop)).logits.argmax(1).numpy()
            for one in (student, teacher)
        )
    ]
    assert found == np.flatnonzero(right[1] > right[0]).tolist()
    row = transfer.run(by(study, "xe_hard"), workspace).row
    assert (row["classes_taught"], row["reads_labels"]) == (None, False)


@pytest.mark.parametrize(
    ("name", "reads"),
    {
        **{"xe": True, "kl_dp": True, "xe_kl_op": True, "xe_kl_op_equal": True, "kl_of_experts": True},
        **{"kl": False, "xe_hard": False, "kl_dp_unsupervised": False, "self_distillation": False},
        **{"xe_kl_op_agreement": True, "crd": True},
    }.items(),
)
def test_who_is_given_labels(study, name, reads):
    assert by(study, name).method.reads_labels is reads


PARTITIONS = {"kl_dp": True, "kl_dp_unsupervised": True, "kl_flips": True, "kl": False}


@pytest.mark.parametrize(("name", "partitions"), PARTITIONS.items())
def test_shares_of_flips_that_are_taught_are_those_of_the_transfer_set(study, workspace, name, partitions):
    """Counted again from what the two frozen models say of the views, which here are the images."""
    trial = by(study, name)
    outcome = transfer.run(trial, workspace)
    row, history = outcome.row, outcome.history
    if not partitions:
        assert row["positive_flips_taught"] is None and row["negative_flips_taught"] is None
        assert history["positive_flips_taught"] == [None] * trial.budget.epochs
        return
    student, teacher = (workspace.frozen(model) for model in (trial.student, *trial.teachers))
    samples, labels = workspace.splits["transfer"], torch.from_numpy(workspace.labels("transfer"))
    pixels = torch.cat([p.clone() for p, _, _ in workspace.batches(student.crop).epoch(samples, 50)])
    with torch.no_grad():
        own, its = student(pixels), teacher(pixels)
    right = [(said.argmax(1) == labels).numpy() for said in (own, its)]
    positive, negative = right[1] & ~right[0], right[0] & ~right[1]
    if name == "kl_flips":
        taught = positive
    else:
        taught = objectives.best(own, (its,), labels if name == "kl_dp" else None).numpy() > 0
    for column, flips in (("positive_flips_taught", positive), ("negative_flips_taught", negative)):
        assert flips.any()
        assert row[column] == pytest.approx((flips & taught).sum() / flips.sum(), abs=0.02)
        assert history[column] == pytest.approx([row[column]] * trial.budget.epochs)


def test_a_trial_can_be_scored_on_images_kept_aside_and_on_no_others(study, workspace):
    splits = workspace.data.splits.model_copy(update={"tune": 40})
    data = spec.Data.model_validate(workspace.data.model_dump() | {"splits": splits.model_dump()})
    other = spec.Data.model_validate(data.model_dump() | {"evaluate": "tune"})
    found = {}
    for one in (data, other):
        place = Workspace(one, workspace.folders, "cpu", threads=1)
        trial = changed(trial_of(study, "kl"), data=one, student=_blank(study), teachers=(_blank(study, 1),))
        found[one.evaluate] = (transfer.run(trial, place), place.splits)
    (on_images, splits), (on_tune, _) = found["evaluation"], found["tune"]
    assert np.array_equal(on_tune.predictions["index"], splits["tune"])
    assert np.array_equal(on_images.predictions["index"], splits["evaluation"])
    assert on_tune.row["evaluated_on"] == "tune" and on_tune.row["evaluation_samples"] == 40
    # What is learnt does not depend on it.
    assert on_tune.row["student_weights_after"] == on_images.row["student_weights_after"]


def _blank(study: spec.Study, seed: int = 0) -> spec.Model:
    model = trial_of(study, "kl").student
    return model.model_copy(update={"weights": spec.Random(seed=seed), "name": f"blank{seed}"})


def test_the_first_epochs_move_the_head_alone(study, workspace):
    trial = budget(trial_of(study, "kl", "resnet"), epochs=2, head_first=2)
    before = workspace.student(trial.student)
    after = transfer.run(trial, workspace).student
    heads = {id(parameter) for head in after.heads for parameter in head.parameters()}
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) == (id(new) not in heads), name
    for old, new in zip(before.buffers(), after.buffers(), strict=True):
        assert torch.equal(old, new)
    plain = budget(trial, head_first=0)
    assert plain.id != trial.id
    assert plain.id == budget(trial_of(study, "kl", "resnet"), epochs=2).id


def test_more_classes_than_there_are_is_a_sentence(study, workspace):
    with pytest.raises(ValueError, match="kl_top_k: k: 11 of 10 classes; lower it"):
        transfer.run(by(study, "kl_top_k", k=11), workspace)


def test_what_remembers_samples_is_refused_on_several_workers(base):
    from study import distributed

    content = base | {
        "methods": {"c": {"method": "crd", "lr": 0.1}},
        "resources": {"workers": 2},
        "pairs": [["mixer", "resnet"]],
    }
    with pytest.raises(StudyError, match=r"methods.c: 'crd' keeps what it saw .* set resources.workers to 1"):
        distributed.check(spec.Study.model_validate(content))


# --- as the paper's scripts ran -----------------------------------------------------------------


def test_rates_as_of_batches_of_256(study, workspace):
    """Half the rate at half the batch, and slow weights after as many samples as before."""
    asked = {"slow": {"tau": 0.5, "every": 2}, "weight": 0.5}
    trial = budget(by(study, "xe_kl", **asked), batch_size=32, lr_per_256=True)
    plain = budget(by(study, "xe_kl", **asked | {"slow": {"tau": 0.5, "every": 16}}), batch_size=32)
    plain = changed(plain, method=plain.method.model_copy(update={"lr": 1e-2 / 8}))
    scaled, expected = (transfer.run(one, workspace) for one in (trial, plain))
    assert scaled.row["student_weights_after"] == expected.row["student_weights_after"]
    assert scaled.row["lr"] == expected.row["lr"] == 1e-2 / 8
    assert scaled.row["slow_every"] == 16
    assert trial.id != plain.id


def test_a_teacher_can_be_evaluated_through_the_students_crop(study, workspace):
    trial = trial_of(study, "kl")
    narrow = trial.teachers[0].model_copy(update={"config": {**trial.teachers[0].config, "crop_pct": 0.6}})
    trial = changed(trial, teachers=(narrow.model_copy(update={"weights": spec.Random(seed=1)}),))
    other = budget(trial, teacher_crop="student")
    own, students = (transfer.run(one, workspace) for one in (trial, other))
    teacher, student = workspace.frozen(*trial.teachers), workspace.frozen(trial.student)
    pixels, samples = workspace.batches(student.crop), workspace.splits["evaluation"]
    shown = torch.cat([p.clone() for p, _, _ in pixels.epoch(samples, 50)])
    with torch.no_grad():
        expected = teacher(shown).argmax(1).numpy()
    assert np.array_equal(students.predictions["teacher"], expected)
    assert not np.array_equal(own.predictions["teacher"], expected)
    assert own.row["student_weights_after"] == students.row["student_weights_after"]
