"""A trial: what it computes against a loop written out by hand, and what it must not depend on."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from study import derivation, evaluate, knowledge, objectives, spec, transfer, transforms, views, workspace
from study.errors import DivergedError, StudyError
from study.images import files, labels
from study.images.batches import Batches, Crop
from study.images.sources import UNKNOWN
from study.models import weights
from study.store import records, schemas
from study.store.checkpoints import Checkpoint
from study.views import View
from study.workspace import Workspace
from tests.conftest import fashion_mnist, write_image_folder
from tests.study.trials import (
    ArrayBatches,
    Interrupted,
    assert_same,
    blank,
    budget,
    changed,
    dropping,
    elsewhere,
    pixels_of,
    trial_of,
    until,
)


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


METHODS = ["xe", "kl", "xe_kl_mcl", "kl_dp", "kl_dp_unsupervised"]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_trial_twice_gives_the_same_record(study, workspace, method):
    assert_same(*(transfer.run(trial_of(study, method), workspace) for _ in range(2)))


def test_a_fresh_process_gives_the_same_as_a_used_one(study, workspace, tmp_path):
    used = transfer.run(trial_of(study, "kl_dp"), workspace)
    fresh = elsewhere(workspace, tmp_path)
    assert (
        transfer.run(trial_of(study, "kl_dp"), fresh).row["student_accuracy_after"]
        == (used.row["student_accuracy_after"])
    )


@pytest.mark.parametrize("name", ["mixer", "resnet"])  # without and with BatchNorm
def test_kl_dp_is_the_loop_written_out_by_hand(study, workspace, name):
    """Supervised KL+DP against plain PyTorch on arrays, from the equations."""
    trial = trial_of(study, "kl_dp", name)
    record = transfer.run(trial, workspace)

    samples = workspace.splits["transfer"]
    pixels = {int(i): p.clone() for b in [workspace.batches(Crop())] for p, _, i in b.epoch(samples, 1)}
    labels = torch.from_numpy(workspace.images.labels)
    student, frozen = workspace.load(trial.student), workspace.load(trial.student)
    teacher = workspace.load(*trial.teachers)
    steps = trial.budget.epochs * int(np.ceil(len(samples) / trial.budget.batch_size))
    optimizer = torch.optim.SGD(student.parameters(), lr=trial.method.lr, momentum=0.9, weight_decay=1e-3)
    losses, shares, step = [], [], 0
    for epoch in range(trial.budget.epochs):
        order = np.random.default_rng((trial.seed, epoch)).permutation(samples)
        loss_sum = taught = 0
        for start in range(0, len(order), trial.budget.batch_size):
            batch = order[start : start + trial.budget.batch_size]
            x, y = torch.cat([pixels[int(i)] for i in batch]), labels[batch]
            with torch.no_grad():
                p_teacher = F.softmax(teacher.eval()(x), 1)
                p_frozen = F.softmax(frozen.eval()(x), 1)
            rows = torch.arange(len(batch))
            better = p_teacher[rows, y] > p_frozen[rows, y]
            target = torch.where(better[:, None], p_teacher, p_frozen)
            log_student = F.log_softmax(student.train()(x), 1)
            loss = (target * (target.log() - log_student)).sum(1).mean()
            for group in optimizer.param_groups:
                group["lr"] = trial.method.lr * (1 + np.cos(np.pi * step / steps)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            loss_sum += float(loss.detach()) * len(batch)
            taught += int(better.sum())
        losses.append(loss_sum / len(samples))
        shares.append(taught / len(samples))
    np.testing.assert_allclose(record.history["loss"], losses, rtol=1e-3)
    np.testing.assert_allclose(record.history["teacher_share"], shares, atol=0.011)
    after = workspace.predict(student.eval())
    assert (after.label == record.predictions["student_after"]).mean() > 0.99


VIEWS = {
    "as they are": {},
    "flips": {"transforms": ["flip"]},
    "crops": {"transforms": ["flip", {"resized_crop": {"scale": [0.4, 0.9]}}], "view_seed": 3},
}


@pytest.fixture
def live(workspace) -> Workspace:
    """A workspace that computes frozen models' outputs in each step."""
    return elsewhere(workspace, cached=False)


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("method", ["kl_dp", "xe_kl_mcl"])
def test_cached_and_live_outputs_give_the_same(study, workspace, live, method, views):
    trial = budget(trial_of(study, method, "resnet"), **views)
    cached, computed = transfer.run(trial, workspace), transfer.run(trial, live)
    # Up to what float16 rounds off the logits: 2^-11 of them.
    np.testing.assert_allclose(computed.history["loss"], cached.history["loss"], rtol=1e-4)
    assert computed.history["teacher_share"] == cached.history["teacher_share"]
    same = computed.predictions["student_after"] == cached.predictions["student_after"]
    assert same.mean() > 0.99


def test_other_views_are_other_trials(study, workspace):
    losses = [
        transfer.run(budget(trial_of(study, "kl_dp"), **views), workspace).history["loss"]
        for views in VIEWS.values()
    ]
    assert losses[0] != losses[1] != losses[2]


def test_views_are_run_once_for_all_methods_and_seeds(study, workspace, tmp_path, monkeypatch):
    """Two frozen models, two epochs of views: four files, whoever asks."""
    place = elsewhere(workspace, tmp_path)
    views = VIEWS["crops"]
    transfer.run(budget(trial_of(study, "kl_dp"), **views), place)
    on_transfer = [entry for entry in place.store.entries() if entry.split == "transfer"]
    assert len(on_transfer) == 4
    computed = []
    stream = evaluate.stream
    monkeypatch.setattr(evaluate, "stream", lambda *a, **k: computed.append(a) or stream(*a, **k))
    for method, seed in (("kl_dp", 1), ("kl_dp_unsupervised", 0), ("kl", 7)):
        trial = changed(budget(trial_of(study, method), **views), seed=seed)
        transfer.run(trial, place)
    assert len(computed) == 3  # the results, on the evaluation split
    assert len(place.store.entries()) == 6


def test_damaged_outputs_of_a_view_are_computed_again(study, workspace, tmp_path):
    trial = budget(trial_of(study, "kl_dp"), **VIEWS["crops"])
    expected = transfer.run(trial, elsewhere(workspace, tmp_path))
    for entry in (files := sorted(tmp_path.glob("*.safetensors"))):
        content = bytearray(entry.read_bytes())
        content[-3] ^= 1
        entry.write_bytes(content)
    assert len(files) == 6
    again = elsewhere(workspace, tmp_path)
    assert_same(transfer.run(trial, again), expected)
    assert not any(entry.problem for entry in again.store.entries())


def test_a_workspace_of_another_precision_is_refused(study, workspace):
    with pytest.raises(ValueError, match="another precision"):
        transfer.run(budget(trial_of(study, "kl"), precision="bfloat16"), workspace)


def test_a_compiled_student_learns_the_same(study, workspace):
    """Three batches of 32 and one of 4, and slow weights of what is compiled."""
    place = elsewhere(workspace, compiled=True)
    compiled = []
    with pytest.MonkeyPatch.context() as patch:
        compiling = torch.compile
        patch.setattr(torch, "compile", lambda module: compiled.append(module) or compiling(module))
        got = transfer.run(trial_of(study, "xe_kl_mcl"), place)
    expected = transfer.run(trial_of(study, "xe_kl_mcl"), workspace)
    assert len(compiled) == 1
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-4)
    same = got.predictions["student_after"] == expected.predictions["student_after"]
    assert same.mean() > 0.99


def test_bfloat16_gives_roughly_the_same(study, workspace, tmp_path):
    trial = trial_of(study, "kl_dp", "resnet")
    models = (blank(model, 0) for model in (trial.student, *trial.teachers))  # the same in any precision
    trial = changed(trial, student=next(models), teachers=tuple(models))
    place = elsewhere(workspace, tmp_path, precision="bfloat16")
    expected, got = transfer.run(trial, workspace), transfer.run(budget(trial, precision="bfloat16"), place)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=0.05)
    assert got.history["loss"] != expected.history["loss"]


def test_the_unsupervised_path_reads_no_label(study, workspace, monkeypatch):
    expected = transfer.run(trial_of(study, "kl_dp_unsupervised"), workspace)
    batches = workspace.pixels(Crop(), "transfer")
    epoch = type(batches).epoch

    def without_labels(self, *arguments):
        return ((pixels, None, indices) for pixels, _, indices in epoch(self, *arguments))

    monkeypatch.setattr(type(batches), "epoch", without_labels)
    got = transfer.run(trial_of(study, "kl_dp_unsupervised"), workspace)
    assert got.history["loss"] == expected.history["loss"]
    with pytest.raises(TypeError):
        transfer.run(trial_of(study, "xe"), workspace)


def test_a_method_is_given_what_it_needs_and_nothing_else(study, workspace, tmp_path, monkeypatch):
    given = []

    def spied(objective):
        @functools.wraps(objective)
        def spy(*arguments, **settings):
            given.append((objective.__name__, len(arguments), *settings))
            return objective(*arguments, **settings)

        return spy

    for name in ("kl", "kl_dp_unsupervised"):
        monkeypatch.setitem(objectives.OBJECTIVES, name, spied(objectives.OBJECTIVES[name]))
    place = elsewhere(workspace, tmp_path)
    transfer.run(trial_of(study, "kl"), place)
    transfer.run(trial_of(study, "xe"), place)
    asked = [entry.model for entry in place.store.entries() if entry.split == "transfer"]
    assert asked == ["resnet"]  # the frozen student has not been asked
    transfer.run(trial_of(study, "kl_dp_unsupervised"), place)
    assert set(given) == {("kl", 2, "temperature"), ("kl_dp_unsupervised", 3, "temperature")}


def test_the_frozen_models_stay_frozen_and_the_student_moves(study, workspace):
    trial = trial_of(study, "kl_dp", "resnet")
    record = transfer.run(trial, workspace)
    for role, model in (("student", trial.student), ("teacher", *trial.teachers)):
        assert record.row[f"{role}_weights"] == weights.digest_of(workspace.load(model))
    assert record.row["knowledge_gain"] + record.row["knowledge_loss"] > 0


def test_a_loss_that_is_not_finite_ends_the_trial(study, workspace):
    trial = trial_of(study, "kl")
    steep = trial.method.model_copy(update={"lr": 1e30})
    with pytest.raises(DivergedError, match="not finite in epoch"):
        transfer.run(changed(trial, method=steep), workspace)


def test_the_record_says_what_the_predictions_say(study, workspace, tmp_path):
    trial = budget(trial_of(study, "kl"), transforms=["flip", {"shift": 1}])
    record = transfer.run(trial, workspace)
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    records.write_trial(tmp_path, trial.id, record.row, record.predictions, record.history)
    said = pd.read_parquet(tmp_path / "predictions")
    (row,) = pd.read_parquet(tmp_path / "trials").to_dict("records")
    assert set(said["index"]) == set(workspace.splits["evaluation"])
    right = {c: (said[c] == said["label"]).to_numpy() for c in ("student_before", "teacher", "student_after")}
    before, teacher, after = right.values()
    assert row["student_accuracy_before"] == before.mean()
    assert row["student_accuracy_after"] == after.mean()
    assert row["teacher_accuracy"] == teacher.mean()
    assert row["transfer_delta"] == pytest.approx(after.mean() - before.mean())
    assert row["accuracy_difference"] == pytest.approx(row["rho_pos_before"] - row["rho_neg_before"])
    assert row["knowledge_gain"] - row["knowledge_loss"] == pytest.approx(row["transfer_delta"])
    assert row["transfer_rate"] == knowledge.transfer_rate(before, teacher, after)
    assert row["transfer_samples"] == 100
    assert (row["teacher"], list(row["teachers"]), row["transforms"]) == ("resnet", ["resnet"], "flip, shift")
    assert all(pd.isna(row[name]) for name in ("combine", "order", "kept"))
    assert row["student_weights_after"] == weights.digest_of(record.student) != row["student_weights"]
    assert row["evaluation_samples"] == len(said)
    assert spec.Trial.model_validate_json(row["spec"]).id == trial.id
    history = pd.read_parquet(tmp_path / "history")
    assert history["epoch"].tolist() == [0, 1]
    assert history["lr"].is_monotonic_decreasing
    assert history["stage"].tolist() == [0, 0]
    assert history["teacher"].tolist() == ["resnet", "resnet"]
    assert np.isnan(history["student_accuracy"][0])
    last = history.iloc[1]
    assert last["student_accuracy"] == row["student_accuracy_after"]
    assert last["knowledge_gain"] == last["stage_gain"] == row["knowledge_gain"]
    assert last["knowledge_loss"] == last["stage_loss"] == row["knowledge_loss"]


def test_a_workspace_on_other_data_is_refused(study, workspace):
    splits = study.data.splits.model_copy(update={"seed": 1})
    other = study.data.model_copy(update={"splits": splits})
    with pytest.raises(ValueError, match="other data"):
        transfer.run(changed(trial_of(study, "kl"), data=other), workspace)


def test_the_control_needs_no_teacher(study, workspace):
    record = transfer.run(trial_of(study, "xe"), workspace)
    assert (record.row["teacher"], record.row["teachers"]) == (None, [])
    assert record.history["teacher"] == [None, None]
    assert record.history["teacher_share"] == [None, None]
    assert "teacher" not in record.predictions
    assert record.row["knowledge_gain"] >= 0


def test_a_failure_tells_the_reason(study, workspace, tmp_path):
    trial = trial_of(study, "kl")
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    records.write_failure(tmp_path, "trials", trial.id, transfer.failure(trial, workspace, "because"))
    (row,) = pd.read_parquet(tmp_path / "trials").to_dict("records")
    assert (row["status"], row["reason"], row["student"]) == ("failed", "because", "mixer")
    assert (row["teacher"], list(row["teachers"])) == ("resnet", ["resnet"])
    assert all(pd.isna(row[name]) for name in ("combine", "student_weights_after", "kept"))


def test_models_of_other_sizes_share_the_students_crop_and_keep_their_own_in_evaluation(study, workspace):
    """The student sees the central 24 of 28 pixels; its teacher sees those enlarged to its own 28."""
    base = study.zoo["resnet"]
    config = base.config | {"input_size": [3, 24, 24], "crop_pct": 0.875}
    cropped = base.model_copy(update={"name": "cropped", "config": config})
    derivation.make(cropped, workspace)
    pixels = pixels_of(workspace)
    centre = pixels[:, :, 2:26, 2:26]

    teacher_model = study.zoo["mixer"]
    teacher, student = workspace.load(teacher_model), workspace.load(cropped)
    assert student.crop.pct == 0.875
    samples = workspace.splits["transfer"]
    with torch.no_grad():
        expected = teacher(centre[samples])
        enlarged = F.interpolate(centre[samples].float(), (28, 28), mode="bicubic", antialias=True)
        by_hand = teacher.network((enlarged.clamp(0, 255) / 255 - 0.286) / 0.353)
        own = student(centre[workspace.splits["evaluation"]])
    torch.testing.assert_close(expected, by_hand, rtol=1e-3, atol=1e-4)
    cached, features = workspace.transfer_outputs(teacher, views.View(student.crop), False)
    assert features is None
    torch.testing.assert_close(cached.float(), expected, rtol=2e-3, atol=1e-3)  # float16

    trial = changed(trial_of(study, "kl_dp"), student=cropped, teachers=(teacher_model,))
    record = transfer.run(trial, workspace)
    assert (record.predictions["student_before"] == own.argmax(1).numpy()).mean() > 0.99
    whole = workspace.predict(teacher)  # in evaluation the teacher sees the whole image
    assert np.array_equal(record.predictions["teacher"], whole.label)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
def test_any_loader_and_any_device_give_the_same(study, workspace, tmp_path, device):
    """On CUDA the models run under bfloat16 autocast, so only roughly the same."""
    pixels = pixels_of(workspace)
    other = elsewhere(workspace, tmp_path, device=device)
    other.batches = lambda crop: ArrayBatches(pixels, workspace.images.labels)
    for method in ("kl_dp", "xe_kl_mcl"):
        expected = transfer.run(trial_of(study, method, "resnet"), workspace)
        got = transfer.run(trial_of(study, method, "resnet"), other)
        tolerance = 1e-6 if device == "cpu" else 0.05
        np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=tolerance)
        same = got.predictions["student_after"] == expected.predictions["student_after"]
        assert same.mean() >= (1 if device == "cpu" else 0.9)


# --- interrupted trials -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "student"), [(m, "mixer") for m in METHODS] + [("xe_kl_mcl", "resnet"), ("kl_dp", "dropping")]
)
def test_an_interrupted_trial_gives_the_same_record(study, workspace, tmp_path, method, student):
    trial = trial_of(study, method, "mixer" if student == "dropping" else student)
    trial = budget(dropping(trial) if student == "dropping" else trial, epochs=3, batch_size=40)
    undisturbed = transfer.run(trial, workspace)
    location = tmp_path / "trial.pt"
    for _ in range(trial.budget.epochs):  # an epoch a run; the last one has nothing left to train
        with pytest.raises(Interrupted):
            transfer.run(trial, workspace, until(1), Checkpoint(location, trial.id))
    epochs = []
    taken_up = transfer.run(trial, workspace, epochs.append, Checkpoint(location, trial.id))
    assert epochs == []
    assert_same(taken_up, undisturbed)
    assert taken_up.row["seconds_train"] >= sum(taken_up.history["seconds"])
    assert taken_up.row["seconds"] >= taken_up.row["seconds_train"]


def test_what_was_not_kept_is_trained_again(study, workspace, tmp_path):
    trial = budget(trial_of(study, "kl"), epochs=3)
    undisturbed = transfer.run(trial, workspace)
    location, epochs = tmp_path / "trial.pt", []
    with pytest.raises(Interrupted):
        transfer.run(trial, workspace, until(2), Checkpoint(location, trial.id, every=3600))
    assert not location.exists()
    assert_same(transfer.run(trial, workspace, epochs.append, Checkpoint(location, trial.id)), undisturbed)
    assert len(epochs) == 3
    location.write_bytes(location.read_bytes()[:-1])  # a damaged one: from the beginning, again
    transfer.run(trial, workspace, epochs.append, Checkpoint(location, trial.id))
    assert len(epochs) == 6


def test_a_state_that_came_from_other_weights_is_not_gone_on_from(study, workspace, tmp_path, monkeypatch):
    trial = trial_of(study, "kl")
    checkpoint = Checkpoint(tmp_path / "trial.pt", trial.id)
    undisturbed = transfer.run(trial, workspace)
    load = Workspace.load

    def other_teacher(self, model):
        classifier = load(self, model)
        if model in trial.teachers:
            torch.nn.init.zeros_(classifier.network.get_classifier().bias)
            classifier.weights = weights.digest_of(classifier)
        return classifier

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "load", other_teacher)
        with pytest.raises(Interrupted):
            transfer.run(trial, workspace, until(1), checkpoint)
    assert_same(transfer.run(trial, workspace, checkpoint=checkpoint), undisturbed)


# --- slow weights -------------------------------------------------------------------------------


def test_a_tau_of_one_would_leave_the_student_where_it_was(study, workspace):
    trial = trial_of(study, "xe_kl_mcl")
    method = trial.method.model_copy(update={"slow": spec.Slow(tau=1 - 1e-9)})
    record = transfer.run(changed(trial, method=method), workspace)
    assert np.array_equal(record.predictions["student_after"], record.predictions["student_before"])
    moved = transfer.run(trial, workspace)
    assert moved.row["slow_decay"] == trial.method.slow.decay(8)
    assert not np.array_equal(
        moved.predictions["student_after_confidence"], moved.predictions["student_before_confidence"]
    )


def test_one_workspace_is_kept_a_process(study):
    assert workspace.of(study) is workspace.of(study)


# --- which students are kept --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gained", "lost", "better"),
    # Two-sided: 6 of 6 has p = 2 / 64, 5 of 5 p = 2 / 32, 15 of 20 p = 0.041, 14 of 20 p = 0.115.
    [(6, 0, True), (5, 0, False), (15, 5, True), (14, 6, False), (5, 15, False), (0, 0, False)],
)
def test_a_student_is_better_if_chance_does_not_explain_it(gained, lost, better):
    row = {"evaluation_samples": 303, "knowledge_gain": gained / 303, "knowledge_loss": lost / 303}
    assert transfer.is_better(row) is better


@pytest.mark.parametrize("keep", ["never", "better", "all"])
@pytest.mark.parametrize("lr", [1e-9, 1e-2])
def test_the_rule_says_which_students_are_kept(study, workspace, keep, lr):
    by = spec.Method.model_validate({"method": "xe", "lr": lr})
    trial = changed(trial_of(study, "xe", "resnet"), method=by, keep=keep)
    row = transfer.run(trial, workspace).row
    assert transfer.is_better(row) is (lr > 1e-3)  # else nothing is left to keep
    kept = {"never": False, "better": transfer.is_better(row), "all": True}[keep]
    assert (row.get("kept") is not None) is kept


# --- other evaluation sets ----------------------------------------------------------------------


@pytest.fixture
def with_sets(content, tmp_path) -> tuple[spec.Study, Workspace]:
    """The small study with two other sets: its own test images once more, and new ones of three classes."""
    pictures, labels = fashion_mnist("t10k", 400)
    few = np.isin(labels, [2, 5, 7]) & (np.arange(400) >= 103)
    write_image_folder(tmp_path / "few", pictures[few], labels[few])
    own = content["data"]["images"]
    content["data"]["also"] = {
        "again": {"images": {"source": "image_folder", "test": own["test"]}},
        "few": {
            "images": {"source": "image_folder", "test": str(tmp_path / "few")},
            "class_map": {"class2": 2, "class5": 5, "class7": 7},
        },
    }
    content["data"]["splits"] |= {"evaluate_rest": False}
    study = spec.Study.model_validate(content)
    for images in (study.data.images, *(other.images for other in study.data.also.values())):
        files.prepare(images, study.folders.data)
    place = Workspace(study.data, study.folders, "cpu", threads=1)
    for model in study.zoo.values():
        derivation.make(model, place)
    return study, place


def test_students_are_evaluated_on_other_sets_too(with_sets, tmp_path):
    study, place = with_sets
    trial = trial_of(study, "kl_dp")
    outcome = transfer.run(trial, place)
    again, few = (
        {name: values[number] for name, values in outcome.evaluations.items()} for number in range(2)
    )
    assert (again["set"], few["set"]) == ("again", "few")
    assert outcome.row["student_accuracy_after"] != outcome.row["student_accuracy_before"]
    for name in schemas.EVALUATIONS.names:  # the same images give the same numbers
        if name in outcome.row and name != "data_sha256":
            assert again[name] == outcome.row[name], name

    # By hand: of the logits of all ten classes those of the three.
    other = place.on("few").images
    whole = np.load(files.folder_of(study.data.also["few"].images, study.folders.data) / "labels.npy")
    assert (few["classes"], few["evaluation_samples"]) == (3, len(whole))
    pixels = torch.cat([p.clone() for p, _, _ in Batches(other, Crop()).epoch(np.arange(len(whole)), 64)])
    with torch.inference_mode():
        for when, network in (
            ("before", place.load(trial.student).eval()),
            ("after", outcome.student.eval()),
        ):
            right = network(pixels)[:, [2, 5, 7]].argmax(1).numpy() == whole
            assert few[f"student_accuracy_{when}"] == pytest.approx(right.mean())
        right = place.load(*trial.teachers).eval()(pixels)[:, [2, 5, 7]].argmax(1).numpy() == whole
        assert few["teacher_accuracy"] == pytest.approx(right.mean())
    assert outcome.student.chosen is None  # as it was

    records.prepare(tmp_path / "results", schemas.TRANSFER_TABLES)
    records.write_trial(
        tmp_path / "results", trial.id, outcome.row, outcome.predictions, outcome.history, outcome.evaluations
    )
    table = pd.read_parquet(tmp_path / "results" / "evaluations")
    assert table[["trial", "set"]].to_numpy().tolist() == [[trial.id, "again"], [trial.id, "few"]]


def test_other_sets_change_ids_of_trials_but_no_made_weights(with_sets):
    study, place = with_sets
    bare = study.model_copy(update={"data": study.data.model_copy(update={"also": {}})})
    assert {trial.id for trial in study.trials()}.isdisjoint(trial.id for trial in bare.trials())
    model = study.zoo["mixer"]
    assert place.folder_of(model) == weights.folder_of(model, bare.data, bare.folders.zoo, None)


def test_another_set_of_classes_that_the_data_have_not_is_refused():
    data = spec.Data(images={"source": "fashion_mnist"}, splits={"transfer": 1})
    of = ("n01440764", "n01443537", "cat")
    seen = functools.partial(labels.among, data=data, of=of)
    plain = spec.OtherSet(images={"source": "fashion_mnist"})
    assert seen(plain, of) is None
    assert seen(plain, ("cat", "n01440764")) == [2, 0]
    with pytest.raises(StudyError, match=r"class 'dog' is none of the data's; say in its class_map which"):
        seen(plain, ("dog",))
    mapped = spec.OtherSet(images={"source": "fashion_mnist"}, class_map={"dog": 2, "fish": 0})
    assert seen(mapped, ("dog", "fish")) == [2, 0]
    too_far = spec.OtherSet(images={"source": "fashion_mnist"}, class_map={"dog": 3})
    with pytest.raises(StudyError, match=r"class 'dog' is none of the data's"):
        seen(too_far, ("dog",))


def test_another_set_may_be_a_subset_of_a_subset():
    """ImageNetV2's folders 217 and 482 among Imagenette's, which is a subset of ImageNet itself."""
    data = spec.Data(images={"source": "fashion_mnist"}, splits={"transfer": 1}, class_map="imagenette")
    of = tuple(labels.class_map("imagenette"))
    other = spec.OtherSet(images={"source": "fashion_mnist"}, class_map="imagenet_v2")
    places = labels.among(other, ("217", "482"), data, of)
    assert [labels.class_map("imagenette")[of[place]] for place in places] == [217, 482]


# --- images whose classes nobody has said -------------------------------------------------------


@pytest.fixture
def without_classes(workspace, tmp_path):
    """The workspace, whose transfer set has lost its labels."""
    place = elsewhere(workspace, outputs=tmp_path / "outputs")
    labels = place.images.labels.copy()
    labels[place.splits["transfer"]] = UNKNOWN
    place.images = dataclasses.replace(place.images, labels=labels)
    return place


def test_without_labels_a_student_learns_the_same_as_if_they_were_not_read(study, workspace, without_classes):
    trial = trial_of(study, "kl_dp_unsupervised")
    known, unknown = (transfer.run(trial, place) for place in (workspace, without_classes))
    assert unknown.history["loss"] == known.history["loss"]
    assert unknown.row["teacher_share"] == known.row["teacher_share"]
    assert known.row["positive_flips_taught"] is not None
    assert known.row["teacher_transfer_accuracy"] is not None
    assert unknown.row["positive_flips_taught"] is unknown.row["teacher_transfer_accuracy"] is None
    assert unknown.row["teacher_entropy_at_t"] == known.row["teacher_entropy_at_t"]
    for name, values in known.predictions.items():
        assert np.array_equal(unknown.predictions[name], values), name


def test_where_nothing_has_a_class_what_needs_classes_is_not_measured(study, workspace, without_classes):
    trial = trial_of(study, "kl_dp_unsupervised")
    images = without_classes.images
    without_classes.images = dataclasses.replace(images, labels=np.full_like(images.labels, UNKNOWN))
    known, unknown = (transfer.run(trial, place) for place in (workspace, without_classes))
    assert unknown.history["loss"] == known.history["loss"]
    assert unknown.row["student_weights_after"] == known.row["student_weights_after"]
    lacking = {
        name for name, value in known.row.items() if value is not None and unknown.row.get(name) is None
    }
    assert {"transfer_delta", "knowledge_gain", "student_calibration_error_after"} <= lacking
    assert not lacking & {"teacher_share", "evaluation_samples", "seconds"}
    assert set(unknown.history["student_accuracy"]) == {None}
    assert set(unknown.predictions.pop("label")) == {None}
    for name, values in unknown.predictions.items():
        assert np.array_equal(known.predictions[name], values), name


def test_labels_that_nobody_has_said_are_not_given(study, without_classes):
    with pytest.raises(StudyError, match="'transfer': nobody has said"):
        without_classes.labels("transfer")
    with pytest.raises(StudyError, match="mix images"):
        without_classes.shown(View(Crop(), (transforms.parse("mixup"),)), "transfer")
