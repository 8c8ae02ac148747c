"""Several teachers: one after the other, at once, or a soup; and the student that is kept of it."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from study import derivation, frozen, knowledge, objectives, spec, transfer
from study.models import weights
from study.models.timm_import import timm
from study.store import records, schemas
from study.workspace import Workspace
from tests.study.trials import assert_same, blank, budget, changed, elsewhere, method, trial_of

PROGRESS = ("student_accuracy", "knowledge_gain", "knowledge_loss", "stage_gain", "stage_loss")


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


@pytest.fixture(scope="module")
def place(workspace, tmp_path_factory) -> Workspace:
    """The shared workspace's data and outputs, with a copy of its zoo: what is made here lies in it."""
    folder = tmp_path_factory.mktemp("zoo")
    shutil.copytree(workspace.folders.zoo, folder, dirs_exist_ok=True)
    return elsewhere(workspace, zoo=folder)


@pytest.fixture(scope="module")
def several(study):
    """A function that gives a trial of the mixer that learns from several teachers."""

    def give(combine: str | None, *teachers: spec.Model, name: str = "kl_dp", **changes) -> spec.Trial:
        trial = budget(trial_of(study, name), evaluate="epoch")
        teachers = teachers or (study.zoo["resnet"], blank(study.zoo["resnet"], 4))
        return changed(trial, teachers=teachers, combine=combine, **changes)

    return give


def run(trial: spec.Trial, place: Workspace) -> transfer.Outcome:
    """A trial after what it begins with."""
    for model in transfer.begins_with(transfer.in_order(trial, place)):
        derivation.make(model, place)
    return transfer.run(trial, place)


def state(model) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


# --- what one teacher gives ---------------------------------------------------------------------


def test_many_of_one_are_one(study, several, place, monkeypatch):
    """Sequences and soups of length one, in all that is asked of them, are the single transfer."""
    single = several(None, study.zoo["resnet"])
    expected = transfer.run(single, place)
    assert transfer.begins_with(single) == []
    sequence = several("sequential")
    first = sequence.only(study.zoo["resnet"])
    assert (first.combine, first.order) == (None, "listed")
    assert first.result == single.result
    made = derivation.make(first.result, place)
    assert made["weights"] == expected.row["student_weights_after"]
    # The machinery of a sequence, told that its one teacher is one of a sequence.
    alone = single.model_copy(update={"combine": "sequential"})
    monkeypatch.setattr(transfer, "begins_with", lambda trial: [])
    got = transfer.run(alone, place)
    assert got.row["student_weights_after"] == expected.row["student_weights_after"]
    assert [got.history[name] for name in ("loss", *PROGRESS)] == [
        expected.history[name] for name in ("loss", *PROGRESS)
    ]


def test_one_teacher_at_once_is_kl_dp(study, several, place):
    """The same number of the same teacher: whom it ties with changes nothing."""
    single = transfer.run(several(None, study.zoo["resnet"]), place)
    alone = several(None, study.zoo["resnet"]).model_copy(update={"combine": "parallel"})
    got = transfer.run(alone, place)
    assert got.row["student_weights_after"] == single.row["student_weights_after"]
    twice = several("parallel", study.zoo["resnet"], study.zoo["resnet"].model_copy(update={"name": "again"}))
    both = transfer.run(twice, place)
    assert both.row["student_weights_after"] == single.row["student_weights_after"]
    assert [row["teacher_2_share"] for row in both.history["measures"]] == [0, 0]
    assert both.history["teacher_share"] == single.history["teacher_share"]


def test_a_soup_of_equal_students_is_each_of_them(study, several, place):
    again = study.zoo["resnet"].model_copy(update={"name": "again"})
    outcome = run(several("soup", study.zoo["resnet"], again), place)
    single = transfer.run(several(None, study.zoo["resnet"]), place)
    assert outcome.row["student_weights_after"] == single.row["student_weights_after"]
    assert np.array_equal(outcome.predictions["student_after"], single.predictions["student_after"])


# --- a sequence ---------------------------------------------------------------------------------


def test_a_sequence_records_all_its_stages(several, place):
    outcome = run(several("sequential"), place)
    assert outcome.history["epoch"] == [0, 1, 2, 3]
    assert outcome.history["stage"] == [0, 0, 1, 1]
    assert outcome.history["teacher"] == ["resnet", "resnet", "blank4", "blank4"]
    assert outcome.row["teachers"] == ["resnet", "blank4"]
    assert outcome.row["teacher"] == "resnet + blank4"
    assert (outcome.row["combine"], outcome.row["order"]) == ("sequential", "listed")
    assert outcome.row["epochs"] == 2
    assert outcome.row["teacher_share"] == pytest.approx(np.mean(outcome.history["teacher_share"]))
    for name in ("teacher_timm", "teacher_accuracy", "teacher_weights", "rho_pos_before", "transfer_rate"):
        assert outcome.row.get(name) is None, name
    assert not any(name.startswith("teacher") for name in outcome.predictions)


def test_each_stage_freezes_the_student_of_the_one_before(several, place, monkeypatch):
    trial = several("sequential")
    (begin,) = transfer.begins_with(trial)
    derivation.make(begin, place)
    asked = []
    panel = frozen.panel

    def noting(workspace, method, view, epochs, student, teachers):
        asked.append((student.weights, [teacher.weights for teacher in teachers]))
        return panel(workspace, method, view, epochs, student, teachers)

    monkeypatch.setattr(transfer, "panel", noting)
    outcome = transfer.run(trial, place)
    first = weights.facts(place.folder_of(begin))["weights"]
    assert asked == [(first, [place.frozen(trial.teachers[1]).weights])]
    assert first != outcome.row["student_weights"] == place.frozen(trial.student).weights

    # By hand: of the views of the third epoch, whom the second teacher beats.
    last = place.frozen(begin)
    samples = place.splits["transfer"]
    labels = torch.from_numpy(place.images.labels[samples])
    pixels = torch.cat([p.clone() for p, _, _ in place.batches(last.crop).epoch(samples, 50)])
    with torch.no_grad():
        own, teacher = last(pixels), place.frozen(trial.teachers[1])(pixels)
        original = place.frozen(trial.student)(pixels)
    share = float((objectives.best(own, [teacher], labels) > 0).float().mean())
    assert outcome.history["teacher_share"][2] == pytest.approx(share, abs=0.011)
    assert share != float((objectives.best(original, [teacher], labels) > 0).float().mean())


def test_gains_minus_losses_are_the_change_of_accuracy_in_every_epoch(several, study, place):
    for trial in (several(None, study.zoo["resnet"]), several("sequential"), several("parallel")):
        outcome = run(trial, place)
        rows = pd.DataFrame({name: outcome.history[name] for name in ("stage", *PROGRESS)})
        assert not rows.isna().any().any()
        before = outcome.row["student_accuracy_before"]
        change = rows["knowledge_gain"] - rows["knowledge_loss"]
        np.testing.assert_allclose(change, rows["student_accuracy"] - before, atol=1e-12)
        started = {0: before, 1: rows["student_accuracy"][1]}
        in_stage = rows["stage_gain"] - rows["stage_loss"]
        np.testing.assert_allclose(
            in_stage, rows["student_accuracy"] - rows["stage"].map(started), atol=1e-12
        )
        assert rows["student_accuracy"].iloc[-1] == outcome.row["student_accuracy_after"]
        assert rows["knowledge_gain"].iloc[-1] == outcome.row["knowledge_gain"]
        if trial.combine == "sequential":
            assert (rows["stage_gain"][2:] != rows["knowledge_gain"][2:]).any()


def test_evaluating_each_epoch_changes_nothing_that_is_learnt(several, study, place):
    often = transfer.run(several(None, study.zoo["resnet"]), place)
    once = transfer.run(budget(several(None, study.zoo["resnet"]), evaluate="end"), place)
    assert once.row["student_weights_after"] == often.row["student_weights_after"]
    assert once.history["student_accuracy"][0] is None
    assert once.history["student_accuracy"][1] == often.history["student_accuracy"][1]


@pytest.mark.parametrize("tune", [0, 60])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_the_order_is_by_accuracy_on_other_images_than_those_of_evaluation(
    study, several, place, monkeypatch, order, tune
):
    teachers = [blank(study.zoo["resnet"], seed) for seed in (1, 2, 3)]
    trial = several("sequential", *teachers, order=order)
    asked, told = [], {"blank1": 0.5, "blank2": 0.1, "blank3": 0.9}
    samples = np.arange(100)
    monkeypatch.setitem(place.splits, "tune", samples[:tune])

    def evaluation(self, classifier, split="evaluation"):
        asked.append(split)
        labels = self.labels(split)
        right = np.arange(len(labels)) < told[classifier.model.name] * len(labels)
        return transfer.Predictions(np.where(right, labels, -1), np.ones(len(labels)))

    monkeypatch.setattr(Workspace, "evaluation", evaluation)
    ordered = transfer.in_order(trial, place)
    names = [model.name for model in ordered.teachers]
    assert names == sorted(told, key=told.get, reverse=order == "descending")
    assert set(asked) == {"tune" if tune else "transfer"}
    assert ordered.order == "listed"
    assert transfer.in_order(ordered, place) is ordered
    listed = changed(trial, order="listed")
    assert transfer.in_order(listed, place) is listed


def test_the_record_names_teachers_in_the_order_taught(study, several, place):
    """The trained one is better than the other."""
    trial = several("sequential", order="ascending")
    outcome = run(trial, place)
    assert outcome.row["teachers"] == ["blank4", "resnet"]
    assert outcome.row["teacher"] == "blank4 + resnet"
    assert outcome.row["order"] == "ascending"
    assert outcome.history["teacher"] == ["blank4", "blank4", "resnet", "resnet"]
    assert spec.Trial.model_validate_json(outcome.row["spec"]).id == trial.id


# --- at once, and a soup ------------------------------------------------------------------------


def test_at_once_each_teachers_share_is_told(several, place):
    outcome = run(several("parallel"), place)
    assert outcome.history["teacher"] == ["resnet + blank4"] * 2
    for share, measures in zip(outcome.history["teacher_share"], outcome.history["measures"], strict=True):
        assert share == measures["teacher_share"]
        assert share == pytest.approx(measures["teacher_1_share"] + measures["teacher_2_share"])
    assert (outcome.row["combine"], outcome.row["order"]) == ("parallel", None)


def test_a_soup_is_the_mean_of_what_each_teaches(several, place):
    trial = several("soup", name="xe_kl_mcl")
    outcome = run(trial, place)
    parts = [place.load(model) for model in transfer.begins_with(trial)]
    for name, tensor in state(outcome.student).items():
        expected = torch.stack([state(part)[name].double() for part in parts]).mean(0)
        torch.testing.assert_close(tensor, expected.to(tensor.dtype))
    assert all(values == [] for values in outcome.history.values())
    assert outcome.row["teacher_share"] is None
    gain, loss = outcome.row["knowledge_gain"], outcome.row["knowledge_loss"]
    assert gain - loss == pytest.approx(outcome.row["transfer_delta"])
    labels = outcome.predictions["label"]
    before, after = (
        knowledge.correct(outcome.predictions[f"student_{n}"], labels) for n in ("before", "after")
    )
    assert gain == knowledge.knowledge_gain(before, after)


# --- measures and one's own ---------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_measures_of_ones_own_are_means_over_samples(study, place, cached):
    content = {"method": "tests.study.own.matching", "lr": 1e-2, "scale": 2.0}
    trial = method(trial_of(study, "kl"), **content)
    outcome = transfer.run(trial, place if cached else elsewhere(place, cached=False))
    samples = place.splits["transfer"]
    teacher = place.frozen(*trial.teachers)
    pixels = torch.cat([p.clone() for p, _, _ in place.batches(teacher.crop).epoch(samples, 50)])
    with torch.no_grad():
        norms = teacher.with_features(pixels)[1].norm(dim=1).mean()
    for measures in outcome.history["measures"]:
        assert measures["index"] == pytest.approx((len(samples) - 1) / 2, rel=1e-9)
        assert measures["norm"] == pytest.approx(float(norms), rel=1e-3)
    assert outcome.row["method"] == "tests.study.own.matching"
    assert trial.method.code  # of the file, part of the trial


# --- the student that is kept -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("combine", "order"), [(None, "listed"), ("sequential", "ascending"), ("soup", "listed")]
)
def test_the_kept_student_is_that_of_the_record(base, study, several, place, tmp_path, combine, order):
    """As timm loads it, as a study names its folder, and as a study names its derivation."""
    own = study.model_copy(update={"folders": place.folders.model_copy(update={"results": tmp_path})})
    teachers = () if combine else (study.zoo["resnet"],)
    trial = several(combine, *teachers, order=order, seed=8, keep="all")
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    derivation.run_and_record(trial, place, own)
    (row,) = pd.read_parquet(tmp_path / "trials").to_dict("records")
    said = pd.read_parquet(tmp_path / "predictions").sort_values("index")["student_after"].to_numpy()
    folder = place.folders.zoo / row["kept"]
    assert weights.facts(folder)["weights"] == row["student_weights_after"]
    assert weights.facts(folder)["trial"] == trial.id
    assert len(weights.facts(folder)["history"]) == {None: 2, "sequential": 4, "soup": 0}[combine]

    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    classifier = place.load(trial.student)
    classifier.network.load_state_dict(network.state_dict())
    assert weights.digest_of(classifier) == row["student_weights_after"]
    assert np.array_equal(place.predict(classifier).label, said)

    named = {"kept": {"timm": f"local-dir:{folder}", "family": "mlp"}}
    other = spec.Study.model_validate(base | {"zoo": base["zoo"] | named})
    kept = weights.pinned(other).zoo["kept"]
    loaded = place.load(kept)
    assert loaded.weights == row["student_weights_after"]
    assert np.array_equal(place.predict(loaded).label, said)

    result = transfer.in_order(trial, place).result
    assert derivation.missing([result], place.data, place.folders, None) == []
    assert place.load(result).weights == row["student_weights_after"]


def test_a_kept_student_whose_folder_was_removed_is_made_again(study, several, place, tmp_path):
    own = study.model_copy(update={"folders": place.folders.model_copy(update={"results": tmp_path})})
    trial = several(None, study.zoo["resnet"], seed=5, keep="all")
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    derivation.run_and_record(trial, place, own)
    status = records.status(tmp_path, "trials")[trial.id]
    folder = place.folder_of(trial.result)
    before = weights.facts(folder)
    assert derivation.is_recorded(trial, own, status)
    shutil.rmtree(folder)
    assert not derivation.is_recorded(trial, own, status)
    assert derivation.is_recorded(changed(trial, keep="never"), own, status)
    assert derivation.missing([trial.result], place.data, place.folders, None) == [[trial.result]]
    assert derivation.make(trial.result, place)["weights"] == before["weights"]
    assert derivation.is_recorded(trial, own, status)


def test_a_trial_that_is_not_kept_leaves_nothing_in_the_zoo(study, several, place, tmp_path):
    own = study.model_copy(update={"folders": place.folders.model_copy(update={"results": tmp_path})})
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    before = {path.name for path in place.folders.zoo.iterdir()}
    trial = several(None, study.zoo["resnet"], seed=6)
    derivation.run_and_record(trial, place, own)
    assert {path.name for path in place.folders.zoo.iterdir()} == before
    assert pd.read_parquet(tmp_path / "trials")["kept"].isna().all()
    assert list((tmp_path / "checkpoints").glob("*")) == []
    (row,) = pd.read_parquet(tmp_path / "trials").to_dict("records")
    assert_same(transfer.run(trial, place), transfer.run(trial, place))
    assert spec.Trial.model_validate_json(row["spec"]).id == trial.id
