"""What weights are made from: in order, each once, by content, and gone on with where it was stopped."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from study import derivation, recipe, spec, transfer
from study.models import weights
from study.store import checkpoints, records, schemas
from study.store.checkpoints import Checkpoint
from study.workspace import Workspace
from tests.study.trials import Interrupted, assert_same, blank, budget, changed, elsewhere, trial_of, until


@pytest.fixture
def study(base) -> spec.Study:
    """The small study, and a chain: trained, then transferred by two teachers, then averaged."""
    trained = {
        "source": "trained",
        "start": "mixer",
        "phases": [{"epochs": 1, "lr": 1e-3, "batch_size": 64}],
    }
    taught = {"source": "transferred", "student": "more", "method": {"method": "kl", "lr": 1e-2}}
    zoo = base["zoo"] | {
        "soup": {"weights": {"source": "averaged", "models": ["by_resnet", "by_mixer"]}, "family": "mlp"},
        "by_resnet": {"weights": taught | {"teachers": ["resnet"]}, "family": "mlp"},
        "by_mixer": {"weights": taught | {"teachers": ["mixer"]}, "family": "mlp"},
        "more": {"weights": trained, "family": "mlp"},
        "the_same": {"weights": trained, "family": "mlp"},
    }
    for name in ("soup", "by_resnet", "by_mixer", "more", "the_same"):
        zoo[name]["timm"] = "tiny_mixer"
    return spec.Study.model_validate(base | {"zoo": zoo, "pairs": [["mixer", "resnet"]]})


@pytest.fixture
def place(workspace, tmp_path) -> Workspace:
    """The shared workspace's data and outputs, with an empty zoo."""
    return elsewhere(workspace, zoo=tmp_path / "zoo")


@pytest.fixture
def filled(workspace, place) -> Workspace:
    """With the zoo of the session."""
    shutil.copytree(workspace.folders.zoo, place.folders.zoo)
    return place


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The names of what is trained and transferred, as it is."""
    names: list[str] = []
    train, run = recipe.train, transfer.run

    def training(model, *arguments):
        names.append(f"trained {model.name}")
        return train(model, *arguments)

    def running(trial, *arguments, **options):
        names.append(f"transferred {trial.student.name} {trial.combine or ''}{trial.teacher}")
        return run(trial, *arguments, **options)

    monkeypatch.setattr(recipe, "train", training)
    monkeypatch.setattr(transfer, "run", running)
    return names


def missing(study, place, *names: str) -> list[list[str]]:
    wanted = [study.zoo[name] for name in names or study.zoo]
    generations = derivation.missing(wanted, place.data, place.folders, place.asked_precision)
    return [[model.name for model in generation] for generation in generations]


def taught(study, combine: str | None = None, order: str = "listed", **changes) -> spec.Trial:
    """The mixer by two blank teachers, or by the resnet."""
    teachers = (study.zoo["resnet"],)
    if combine:
        teachers = tuple(blank(study.zoo["resnet"], seed) for seed in (1, 2))
    return changed(trial_of(study, "kl_dp"), teachers=teachers, combine=combine, order=order, **changes)


# --- what is made, and in which order -----------------------------------------------------------


def test_what_is_missing_comes_in_generations(study, place):
    assert missing(study, place) == [["mixer", "resnet"], ["more"], ["by_resnet", "by_mixer"], ["soup"]]
    assert missing(study, place, "soup")[-1] == ["soup"]
    first, second = derivation.missing([study.zoo["the_same"]], place.data, place.folders, None)
    assert second == [study.zoo["the_same"]]
    assert [place.folder_of(model) for model in first] == [place.folder_of(study.zoo["mixer"])]


def test_a_chain_is_made_each_part_once(study, filled, made):
    facts = derivation.make(study.zoo["soup"], filled)
    assert made == ["trained more", "transferred more resnet", "transferred more mixer"]
    assert missing(study, filled) == []
    for name in ("soup", "more", "the_same"):
        derivation.make(study.zoo[name], filled)
    assert len(made) == 3
    assert facts["name"] == "soup"
    assert facts["weights"] == filled.load(study.zoo["soup"]).weights
    parts = [filled.load(study.zoo[name]).network.state_dict() for name in ("by_resnet", "by_mixer")]
    for name, tensor in filled.load(study.zoo["soup"]).network.state_dict().items():
        torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2)


def test_two_names_are_one_folder_and_other_content_is_another(study, filled, made):
    more, same = study.zoo["more"], study.zoo["the_same"]
    assert filled.folder_of(more) == filled.folder_of(same)
    other = more.weights.model_copy(update={"seed": 1})
    assert filled.folder_of(more.model_copy(update={"weights": other})) != filled.folder_of(more)
    assert derivation.make(more, filled) == derivation.make(same, filled)
    assert made == ["trained more"]


def test_what_is_there_is_not_looked_behind(study, filled, made):
    """A zoo of another machine may hold an end without its beginnings."""
    derivation.make(study.zoo["more"], filled)
    shutil.rmtree(filled.folder_of(study.zoo["mixer"]))
    assert missing(study, filled, "more") == []
    assert missing(study, filled, "by_resnet") == [["by_resnet"]]
    derivation.make(study.zoo["by_resnet"], filled)
    assert made == ["trained more", "transferred more resnet"]


def test_the_facts_of_a_made_model(study, filled):
    told = []
    facts = derivation.make(
        study.zoo["more"], filled, progress=lambda done, epochs: told.append((done, epochs))
    )
    assert told == [(1, 1)]
    classifier = filled.load(study.zoo["more"])
    assert facts["accuracy"] == filled.accuracy(classifier, "evaluation")
    assert facts["transfer_accuracy"] == filled.accuracy(classifier, "transfer")
    assert facts["parameters"] == sum(parameter.numel() for parameter in classifier.parameters())
    assert [row["epoch"] for row in facts["history"]] == [0]
    assert facts["seconds"] > 0
    assert spec.Model.model_validate(facts["spec"]) == study.zoo["more"]
    assert list((filled.folders.zoo / "checkpoints").glob("*")) == []


def test_a_transfer_of_the_zoo_is_the_trial_of_a_study(study, filled):
    """The same student, whether a study's trial leaves it or another model is made from it."""
    trial = taught(study)
    facts = derivation.make(trial.result, filled)
    outcome = transfer.run(trial, filled)
    assert facts["weights"] == outcome.row["student_weights_after"]
    assert [row["loss"] for row in facts["history"]] == outcome.history["loss"]


# --- stopped, and gone on with ------------------------------------------------------------------


@pytest.fixture
def dying():
    """A context in which the n-th kept state is the last thing a process does."""

    @contextlib.contextmanager
    def after(states: int):
        save, kept = Checkpoint.save, []

        def mortal(self, state):
            save(self, state)
            kept.append(self)
            if len(kept) == states:
                raise Interrupted

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Checkpoint, "save", mortal)
            yield

    return after


@pytest.fixture
def own(study, filled, tmp_path) -> spec.Study:
    """The study with results of its own, and every state kept."""
    folders = filled.folders.model_copy(update={"results": tmp_path / "results"})
    resources = study.resources.model_copy(update={"checkpoint_seconds": 0})
    records.prepare(folders.results, schemas.TRANSFER_TABLES)
    return study.model_copy(update={"folders": folders, "resources": resources})


def test_a_killed_training_goes_on(study, workspace, place, dying):
    model = study.zoo["mixer"]
    with dying(2):
        derivation.make(model, place, every=0)
    assert not weights.is_made(place.folder_of(model))
    told = []
    facts = derivation.make(model, place, every=0, progress=lambda done, epochs: told.append((done, epochs)))
    assert told == [(3, 3)]
    assert facts["weights"] == workspace.frozen(model).weights


@pytest.mark.parametrize(
    ("combine", "states", "again"),
    [
        ("sequential", 2, ["transferred mixer blank1", "transferred mixer sequentialblank1 + blank2"]),
        ("sequential", 3, ["transferred mixer sequentialblank1 + blank2"]),
        ("soup", 3, ["transferred mixer blank2", "transferred mixer soupblank1 + blank2"]),
    ],
)
def test_a_killed_trial_of_several_teachers_goes_on_with_what_is_missing(
    study, filled, own, made, dying, combine, states, again
):
    trial = taught(study, combine)
    with dying(states):
        derivation.run_and_record(trial, filled, own)
    assert records.status(own.results, "trials") == {}
    made.clear()
    epochs = []
    derivation.run_and_record(trial, filled, own, epochs.append)
    assert made == again
    if combine == "sequential":  # two epochs a stage; what is told holds those of both
        assert [len(history["epoch"]) for history in epochs] == ([3, 4] if states == 2 else [4])
    undisturbed = transfer.run(trial, filled)
    (row,) = pd.read_parquet(own.results / "trials").to_dict("records")
    assert row["student_weights_after"] == undisturbed.row["student_weights_after"]
    history = pd.read_parquet(own.results / "history")
    assert history["loss"].tolist() == undisturbed.history["loss"]
    assert not checkpoints.of(own, trial).location.exists()
    assert derivation.is_recorded(trial, own, records.status(own.results, "trials")[trial.id])


def test_a_soup_killed_before_it_is_averaged_trains_nothing_again(study, filled, own, made, monkeypatch):
    trial = taught(study, "soup")
    with monkeypatch.context() as patch:
        patch.setattr(weights, "average", lambda models: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            derivation.run_and_record(trial, filled, own)
    assert made == [f"transferred mixer {name}" for name in ("blank1", "blank2", "soupblank1 + blank2")]
    made.clear()
    derivation.run_and_record(trial, filled, own)
    assert made == ["transferred mixer soupblank1 + blank2"]
    assert pd.read_parquet(own.results / "history").empty
    (row,) = pd.read_parquet(own.results / "trials").to_dict("records")
    assert list(row["teachers"]) == ["blank1", "blank2"]
    assert (row["teacher"], row["combine"], row["status"]) == ("blank1 + blank2", "soup", "ok")


def test_trials_share_the_students_that_they_begin_with(study, filled, own, made):
    """The first stage of a sequence, a part of a soup, and the kept one of a single trial are one student."""
    single = changed(
        taught(study, "soup"), teachers=(blank(study.zoo["resnet"], 1),), combine=None, keep="all"
    )
    for trial in (single, taught(study, "sequential"), taught(study, "soup")):
        derivation.run_and_record(trial, filled, own)
    assert made == [
        "transferred mixer blank1",
        "transferred mixer sequentialblank1 + blank2",
        "transferred mixer blank2",
        "transferred mixer soupblank1 + blank2",
    ]
    history = pd.read_parquet(own.results / "history")
    assert len(history) == 2 + 4 + 0
    trials = pd.read_parquet(own.results / "trials")
    assert trials["kept"].notna().tolist() == [t == single.id for t in trials["trial"]]
    assert trials.set_index("trial")["combine"].fillna("").to_dict() == {
        single.id: "",
        taught(study, "sequential").id: "sequential",
        taught(study, "soup").id: "soup",
    }


# --- the records --------------------------------------------------------------------------------


def test_a_trial_of_a_study_is_recorded_as_it_ran(study, filled, own):
    trial, told = budget(taught(study), evaluate="epoch", transforms=["flip", "mixup"]), []
    derivation.run_and_record(trial, filled, own, told.append)
    assert [len(history["epoch"]) for history in told] == [1, 2]
    assert set(told[0]) <= set(schemas.HISTORY.names)
    expected = transfer.run(trial, filled)
    (row,) = pd.read_parquet(own.results / "trials").to_dict("records")
    assert row["transforms"] == "flip, mixup"
    assert row["student_weights_after"] == expected.row["student_weights_after"]
    history = pd.read_parquet(own.results / "history")
    assert history["student_accuracy"].tolist() == expected.history["student_accuracy"]
    assert [dict(measures) for measures in history["measures"]] == expected.history["measures"]
    said = pd.read_parquet(own.results / "predictions")
    assert np.array_equal(said["student_after"], expected.predictions["student_after"])


def test_a_failed_trial_of_several_teachers_is_told(study, filled, tmp_path):
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    trial = taught(study, "sequential", "descending")
    records.write_failure(tmp_path, "trials", trial.id, transfer.failure(trial, filled, "because"))
    (row,) = pd.read_parquet(tmp_path / "trials").to_dict("records")
    assert (row["status"], row["reason"], row["order"]) == ("failed", "because", "descending")
    assert (row["teacher"], list(row["teachers"])) == ("blank1 + blank2", ["blank1", "blank2"])
    for name in ("teacher_timm", "teacher_family", "student_weights_after", "knowledge_gain", "kept"):
        assert pd.isna(row[name])


def test_an_interrupted_trial_with_an_objective_of_its_own_gives_the_same(study, filled, tmp_path):
    """What the objective trains is kept too."""
    content = {"method": "tests.study.own.Projection", "lr": 1e-2}
    trial = budget(changed(taught(study), method=spec.Method.model_validate(content)), epochs=3)
    undisturbed = transfer.run(trial, filled)
    losses = undisturbed.history["loss"]
    assert losses[2] < losses[0]
    for _ in range(2):
        with pytest.raises(Interrupted):
            transfer.run(trial, filled, until(1), Checkpoint(tmp_path / "a.pt", trial.id))
    kept = Checkpoint(tmp_path / "a.pt", trial.id).load()
    assert "objective.projection.weight" in kept["learner"]
    assert_same(transfer.run(trial, filled, checkpoint=Checkpoint(tmp_path / "a.pt", trial.id)), undisturbed)
