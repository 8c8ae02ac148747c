"""The jobs as a user runs them: on a real local Ray, with what goes wrong caused for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from analysis.beyond_accuracy import SCORES
from jobs import transfer_sweep
from study import spec
from study.images import files
from tests.jobs.running import (
    PATIENCE,
    ROOT,
    recorded,
    refused,
    results_of,
    run,
    run_here,
    start,
    trials_of,
    wait_until,
)

SWEEP = "jobs/transfer_sweep.py"


def sweep(*arguments) -> subprocess.CompletedProcess:
    return run(SWEEP, *arguments)


def plan(*arguments) -> subprocess.CompletedProcess:
    return run_here(SWEEP, *arguments, "--dry-run")


# --- the way it should go -----------------------------------------------------------------------


@pytest.mark.ray
def test_a_study_from_nothing_to_its_figure(content, write_study, tmp_path):
    """Data, zoo, sweep with one method that diverges, again, edited, and the analysis; each on its own.

    That a command does the earlier steps that are missing: test_atlas, test_contributing.
    """
    content["folders"] |= {"data": str(tmp_path / "data"), "zoo": str(tmp_path / "zoo")}
    content["methods"]["exploding"] = {"method": "kl", "lr": 1e30}
    shown = {"source": "image_folder", "test": content["data"]["images"]["train"]}
    content["data"]["also"] = {"shown": {"images": shown}}
    path, results = write_study(content), results_of(content)

    planned = plan(path)
    assert planned.returncode == 0, planned.stderr
    assert "2 pairs" in planned.stdout
    assert "zoo: to be made: " in planned.stdout
    assert "cached or live is decided once the data are there" in planned.stdout
    assert not results.exists()

    prepared = run_here("jobs/data.py", path)
    assert prepared.returncode == 0, prepared.stderr
    assert "transfer 100, evaluation 303" in prepared.stdout
    assert "data: also shown (10 classes; images: evaluation 400)" in prepared.stdout
    built = run("jobs/zoo.py", path)
    assert built.returncode == 0, built.stderr
    assert len(list((tmp_path / "zoo").glob("*/model.safetensors"))) == 2
    again = run_here("jobs/zoo.py", path)
    assert "making" not in again.stdout

    done = sweep(path)
    assert done.returncode == 1, done.stderr  # of the two that fail
    trials = trials_of(results)
    assert trials.groupby("method").size().to_dict() == {
        "xe": 2,
        "kl": 2,
        "xe_kl_mcl": 2,
        "kl_dp": 2,
        "kl_dp_unsupervised": 2,
        "exploding": 2,
    }
    failed = trials[trials["status"] == "failed"]
    assert set(failed["method"]) == {"exploding"}
    assert failed["reason"].str.contains("not finite").all()
    assert "2 trials failed" in done.stdout
    assert "mixer from resnet, exploding: the loss is not finite in epoch 0; lower the lr" in done.stdout
    assert "run the same command again" not in done.stdout
    # Two epochs of the teacher's for kl, exploding and xe_kl_mcl, of both for KL+DP, for each of two pairs.
    assert "outputs of frozen models: cached: 2 forward passes over the transfer set, not 28" in done.stdout
    planned = {trial.id for trial in spec.load(path).trials()}
    assert set(trials["trial"]) == planned
    for table in ("predictions", "history", "evaluations"):
        assert set(pd.read_parquet(results / table)["trial"]) == planned - set(failed["trial"])

    # Again: what is finished is not run again, what failed is tried again.
    times = {file: file.stat().st_mtime_ns for file in recorded(results)}
    again = run("jobs/command.py", "sweep", path)
    assert "sweep: 2 of 12 trials to run" in again.stdout
    touched = {file.stem for file in recorded(results) if file.stat().st_mtime_ns != times[file]}
    assert touched == set(failed["trial"])

    # Edited: only what changed is run.
    del content["methods"]["exploding"]
    content["methods"]["kl"]["temperature"] = 2.0
    edited = sweep(write_study(content))
    assert "sweep: 2 of 10 trials to run" in edited.stdout
    look_at_analysis(results)

    finished = run_here(SWEEP, path)
    assert finished.returncode == 0
    assert "trials to run" not in finished.stdout


def look_at_analysis(results: Path) -> None:
    """It leaves former trials out, and shows the other set, and more than accuracy."""
    reported = run("analysis/report.py", results)
    assert reported.returncode == 0, reported.stderr
    said = pd.read_parquet(results / "analysis" / "statements.parquet")
    methods = said.loc[said["measure"] == "delta_mean", "subject"].unique().tolist()
    assert methods == ["xe", "kl", "xe_kl_mcl", "kl_dp", "kl_dp_unsupervised"]
    tables = results / "analysis" / "tables"
    of_sets = pd.read_csv(tables / "other_sets.csv")
    assert set(of_sets["set"]) == {"shown"}
    assert (of_sets["samples"] == 400).all()
    assert set(pd.read_csv(tables / "scores.csv")["score"]) == set(SCORES)


JOBS = sorted({*(ROOT / "jobs").glob("[!_]*.py")} - {ROOT / "jobs" / "command.py"})


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_every_command_has_help(job):
    helped = run_here(f"jobs/{job.name}", "--help")
    assert helped.returncode == 0
    assert "usage: " in helped.stdout


@pytest.mark.parametrize(("name", "pairs"), [("paper_subset10", 399), ("paper_full", 32)])
def test_the_papers_studies_are_planned_offline(name, pairs):
    planned = plan(f"studies/{name}.yaml")
    assert planned.returncode == 0, planned.stderr
    assert f"{pairs} pairs" in planned.stdout
    assert "8 CPUs and 1 GPUs" in planned.stdout


def test_the_plan_says_what_mirrored_views_take_without_their_images():
    """Two passes a model, not one an epoch, epoch by epoch: by the number of images that are expected."""
    planned = plan("studies/paper_subset10.yaml").stdout
    # 39 models with each of the crops of the students they meet: 99 passes, in both variants.
    assert "198 forward passes over the transfer set, not 55,860" in planned
    assert "47 GiB" in planned


def test_trials_come_so_that_a_worker_meets_the_same_models_again(content):
    content["seeds"] = [0, 1]
    todo = spec.Study.model_validate(content).trials()
    (ordered,) = transfer_sweep.groups(todo)
    assert {trial.id for trial in ordered} == {trial.id for trial in todo}
    met = [(trial.student.name, trial.teacher) for trial in ordered]
    changes = [pair for pair, before in zip(met, [None, *met], strict=False) if pair != before]
    assert len(changes) == len(set(met)) == 4
    assert [student for student, _ in changes] == sorted(student for student, _ in changes)


@pytest.mark.ray
def test_live_outputs_and_a_limit_are_told_and_obeyed(workspace, content, write_study):
    """Crops that one trial alone needs: no file is written for them, and the plan says why."""
    content["budget"] |= {"transforms": [{"resized_crop": {"scale": [0.5, 1]}}], "epochs": 1, "view_seed": 99}
    content["methods"] = {"kl": content["methods"]["kl"]}
    content["pairs"] = [["mixer", "resnet"]]
    content["resources"] = {"keep_gib": 0.25}
    path = write_study(content)
    planned = plan(path).stdout
    assert "outputs of frozen models: live: no two trials share a forward pass" in planned
    assert "keeps models, images and outputs for its next trials: 0.25 GiB at most" in planned
    for model in spec.load(path).zoo.values():  # on the evaluation split they are kept in any case
        workspace.evaluation(workspace.frozen(model))
    files = sorted(workspace.store.folder.iterdir())
    done = sweep(path)
    assert done.returncode == 0, done.stdout
    assert sorted(workspace.store.folder.iterdir()) == files
    assert trials_of(results_of(content))["status"].tolist() == ["ok"]


MORE = ("watch", "keep", "geometry", "search", "several")
REST = {"transfer": 0.5, "evaluate_rest": True}
# No image has a class.
HEAP = {"images": {"classes": 10}, "splits": REST | {"tune": 0.25, "fit": 0.2}, "zoo": "blank"}
CHOSEN = {"kl_dp_unsupervised": {"lr": 0.01, "interpolate": [0.5, 1.0]}}
IN_ORDER = {"teachers": ["resnet", "mixer"], "combine": ["sequential"], "order": ["ascending"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"kl_dp": {"lr": 0.01}}}, ("methods.kl_dp: reads labels", "kl_dp_unsupervised")),
        ({}, ("zoo.mixer: is trained on labels",)),
        ({"watch": {"split": "transfer"}, "zoo": "blank"}, ("watch.split: watches errors",)),
        ({"transforms": ["mixup"], "zoo": "blank"}, ("budget.transforms: mix classes",)),
        ({"splits": {"zoo": 0.5, "transfer": 100}}, ("data.splits: 'zoo'", "tune_of: test")),
        (HEAP | {"splits": {"transfer": 0.5}}, ("data.evaluate: there are no images in 'evaluation'",)),
        (HEAP | {"watch": {"split": "tune"}}, ("watch: needs labels, and nobody has said the class of any",)),
        (HEAP | {"keep": "better"}, ("keep: needs labels",)),
        (HEAP | {"geometry": {}}, ("geometry: needs labels",)),
        (HEAP | {"search": {}}, ("search: needs labels",)),
        (HEAP | {"several": [IN_ORDER]}, ("several.order: needs labels",)),
        (HEAP | {"methods": CHOSEN}, ("methods.kl_dp_unsupervised.interpolate: chosen on labels",)),
    ],
)
def test_what_reads_labels_that_nobody_has_said_is_refused(content, write_study, changes, words):
    splits = {"transfer": 1.0, "tune": 0.5, "tune_of": "test"}
    content["data"] |= {"splits": changes.get("splits", splits)}
    content["data"]["images"]["source"] = "unlabelled_folder"
    if "images" in changes:
        content["data"]["images"] |= changes["images"]
        del content["data"]["images"]["test"]
    content["methods"] = changes.get("methods", {"kl_dp_unsupervised": {"lr": 0.01}})
    content |= {field: changes[field] for field in MORE if field in changes}
    content["budget"] |= {"transforms": changes.get("transforms", [])}
    if changes.get("zoo"):
        for seed, model in enumerate(content["zoo"].values()):
            model["weights"] = {"source": "seed", "seed": seed}
    refused(run_here("jobs/transfer_sweep.py", write_study(content)), *words)


# --- interruptions (what is killed with -9: test_faults) ----------------------------------------


@pytest.mark.ray
def test_a_search_is_scored_on_tune_beside_models_of_other_data(content, write_study, tmp_path):
    """Also what it begins with: images of another domain, and a model that is made on these."""
    content["folders"] |= {"zoo": str(tmp_path / "zoo"), "outputs": str(tmp_path / "outputs")}
    other = {"source": "image_folder", "train": content["data"]["images"]["test"]}
    other["test"] = content["data"]["images"]["train"]
    phases = [{"epochs": 1, "lr": 0.01}]
    content["zoo"]["elsewhere"] = content["zoo"]["mixer"] | {
        "weights": {
            "source": "trained",
            "data": {"images": other, "splits": {"zoo": 1.0, "transfer": 20}, "name": "other way round"},
            "phases": phases,
        }
    }
    content["data"]["splits"]["tune"] = 40
    content["pairs"] = [["mixer", "elsewhere"]]
    content["methods"] = {"kl": {"lr": [0.1, 0.01], "temperature": [1, 2]}, "xe": {"lr": 0.01}}
    content["search"] = {"sample": 3}
    done = sweep(write_study(content))
    assert done.returncode == 0, done.stderr
    assert "data: for models of the zoo other way round (10 classes)" in done.stdout
    trials = pd.read_parquet(results_of(content) / "trials")
    assert len(trials) == 4
    assert set(trials["evaluated_on"]) == {"tune"} and set(trials["evaluation_samples"]) == {40}
    of_search = trials[trials["search"] == "kl"]
    assert len(of_search) == 3 and of_search["method"].str.startswith("kl-lr0.").all()
    settings = {tuple(json.loads(one).values()) for one in of_search["settings"]}
    assert len(settings) == 3
    (control,) = trials[trials["search"].isna()]["method"]
    assert control == "xe"


@pytest.fixture
def long_study(workspace, content, write_study):
    """A study long enough to be interrupted: (path, results)."""
    content["seeds"] = list(range(12))
    content["methods"] = {"kl": {"lr": 1e-2}}
    return write_study(content), results_of(content)


@pytest.mark.ray
@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.faults)], ids=["Ctrl-C", "SIGTERM"]
)
def test_ctrl_c_and_a_schedulers_stop_end_cleanly(long_study, stop):
    path, results = long_study
    process = start(SWEEP, path)
    wait_until(lambda: len(recorded(results)) >= 1, process)
    os.kill(process.pid, stop)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "run the same command again to go on" in output
    assert 1 <= len(recorded(results)) < 24
    assert not list((results / "trials").glob(".*"))


@pytest.mark.faults
def test_two_sweeps_at_once_both_finish_and_double_nothing(workspace, content, write_study):
    content["methods"] = {"kl": {"lr": 1e-2}, "kl_dp": {"lr": 1e-2}}
    path, results = write_study(content), results_of(content)
    sweeps = [start(SWEEP, path) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs
    trials = trials_of(results)
    assert sorted(trials["trial"]) == sorted(trial.id for trial in spec.load(path).trials())
    assert (trials["status"] == "ok").all()
    assert pd.read_parquet(results / "predictions").groupby("trial").size().unique().tolist() == [303]


# --- bad input ----------------------------------------------------------------------------------


def test_a_typo_is_refused(content, write_study):
    content["methods"]["kl"]["temprature"] = 2
    refused(plan(write_study(content)), "study.yaml", "methods.kl.temprature", "'temperature'")


def test_an_unknown_model_is_refused(content, write_study):
    content["zoo"]["resnet"]["timm"] = "resnet10tt"
    refused(plan(write_study(content)), "zoo.resnet.timm", "did you mean 'resnet10t'")


def test_a_missing_checkpoint_is_refused(content, write_study):
    content["zoo"]["resnet"]["weights"] = {"source": "file", "path": "nowhere/model.safetensors"}
    refused(plan(write_study(content)), "nowhere/model.safetensors", "'resnet'")


def test_a_corrupt_checkpoint_is_refused_before_any_trial(workspace, content, write_study, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"no tensors")
    content["zoo"]["resnet"]["weights"] = {"source": "file", "path": str(path)}
    refused(run_here(SWEEP, write_study(content)), "model.safetensors", "'resnet'", "damaged")
    assert not recorded(results_of(content))


def test_other_classes_are_refused(workspace, content, write_study):
    content["zoo"]["resnet"]["kwargs"]["num_classes"] = 7
    refused(run_here(SWEEP, write_study(content)), "7", "10")


@pytest.mark.ray
def test_a_training_that_fails_ends_the_command_and_names_its_model(workspace, content, write_study):
    content["zoo"]["mixer"]["weights"]["phases"][0]["lr"] = 1e30
    failed = run("jobs/zoo.py", write_study(content))
    refused(
        failed, "zoo.mixer: its training failed (the loss is not finite in epoch 0", "correct its weights"
    )
    assert "accuracy %" not in failed.stdout  # no table of a zoo that is not there


def test_a_truncated_beton_is_refused_before_any_trial(workspace, content, write_study, tmp_path):
    content["folders"]["data"] = str(tmp_path / "data")
    (tmp_path / "data").mkdir()
    folder = files.folder_of(workspace.data.images, tmp_path / "data")
    shutil.copytree(workspace.images.path.parent, folder)
    with (folder / "images.beton").open("r+b") as stream:
        stream.truncate(1000)
    refused(run_here(SWEEP, write_study(content)), "images.beton", "truncated")


def test_an_empty_image_folder_is_refused(content, write_study, tmp_path):
    (tmp_path / "empty").mkdir()
    content["data"]["images"]["train"] = str(tmp_path / "empty")
    refused(run_here("jobs/data.py", write_study(content)), "empty", "data.images.train")


def test_results_that_cannot_be_written_are_refused(content, write_study, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_here(SWEEP, write_study(content), "--results", tmp_path / "file" / "results")
    refused(done, str(tmp_path / "file" / "results"), "--results")


def test_outputs_that_cannot_be_written_are_refused_before_any_trial(content, write_study, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_here(SWEEP, write_study(content), "--outputs", tmp_path / "file" / "outputs")
    refused(done, str(tmp_path / "file" / "outputs"), "--outputs")
    assert not recorded(results_of(content))


@pytest.mark.faults  # what it says, by what nodes: test_cluster
def test_a_request_no_node_can_satisfy_is_refused(workspace, content, write_study):
    content["resources"] = {"cpus": 4096}
    refused(sweep(write_study(content)), "4096 CPUs", "resources.cpus")


def test_a_missing_study_is_refused():
    refused(sweep("studies/nowhere.yaml"), "studies/nowhere.yaml")


# --- setting up ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ({}, ["there is no apt here", "libopencv-dev"]),
        (
            {"apt-get": "exit 1", "dpkg-query": "exit 1", "id": "echo 1000"},
            ["neither root nor sudo", "libopencv-dev", "dataset-fashion-mnist"],
        ),
    ],
    ids=["no apt", "not root"],
)
def test_setup_that_cannot_install_says_what_to_install(tmp_path, tools, words):
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "grep").symlink_to(shutil.which("grep"))
    done = subprocess.run(
        [shutil.which("sh"), "setup.sh", str(tmp_path / "venv")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "venv").exists()
