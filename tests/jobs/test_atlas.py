"""The atlas's job as a user runs it: on a real local Ray, with what goes wrong caused for real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from jobs import _run
from jobs import atlas as atlas_job
from study import atlas as study_atlas
from study import spec
from study.images import class_names
from study.models import zoo
from study.store import outputs, records, schemas
from tests.jobs.running import (
    PATIENCE,
    recorded,
    refused,
    results_of,
    run,
    run_here,
    start,
    wait_until,
    workers_of,
)
from tests.study.trials import elsewhere

JOB = "jobs/atlas.py"
# What earlier versions recorded of models.
NAMES = schemas.MODELS.names
FORMER = {*NAMES[: NAMES.index("label_smoothing")], *NAMES[NAMES.index("outputs") :]}
COUNT = 20  # untrained models of the long atlas


def atlas(*arguments) -> subprocess.CompletedProcess:
    """The job without the text model, which takes seconds to load."""
    return run(JOB, *arguments, "--embed", "none")


def atlas_here(*arguments) -> subprocess.CompletedProcess:
    return run_here(JOB, *arguments, "--embed", "none")


def models_of(results) -> pd.DataFrame:
    return pd.read_parquet(results / "models").set_index("name")


def times(results) -> dict:
    return {path: path.stat().st_mtime_ns for path in recorded(results, "models")}


@pytest.fixture
def small(workspace, content, tmp_path):
    """The small study's content, with outputs of its own."""
    content["folders"]["outputs"] = str(tmp_path / "outputs")
    return content


def checked_pairs(results) -> pd.DataFrame:
    """The pairs, after each was compared with brute force from what the records say of its models."""
    models, said = models_of(results), pd.read_parquet(results / "model_predictions")
    pairs = pd.read_parquet(results / "pairs").set_index(["student", "teacher"])
    assert len(pairs) == 2 * 7
    predicted = {name: said[said["model"] == row["model"]] for name, row in models.iterrows()}
    for (student, teacher), row in pairs.iterrows():
        s, t = (predicted[name]["predicted"].to_numpy() for name in (student, teacher))
        label = predicted[student]["label"].to_numpy()
        right_s, right_t = s == label, t == label
        assert row["rho_pos"] == pytest.approx((right_t & ~right_s).mean(), abs=1e-12)
        assert row["rho_neg"] == pytest.approx((right_s & ~right_t).mean(), abs=1e-12)
        assert row["agreement"] == pytest.approx((s == t).mean())
        assert row["union_accuracy"] == pytest.approx((right_s | right_t).mean())
        assert models.loc[student, "accuracy"] <= row["union_accuracy"]
        assert 0 <= row["ensemble_accuracy"] <= 1
        assert row["kappa_p"] <= 1
        assert models.loc[student, "accuracy"] == pytest.approx(right_s.mean())
    classes = pd.read_parquet(results / "pair_classes")
    flips = classes.groupby(["student", "teacher"], observed=True)["flips"].sum()
    assert set(flips.index) == {("mixer", "resnet"), ("resnet", "mixer")}
    for pair, count in flips.items():
        assert count == round(pairs.loc[pair, "rho_pos"] * 303)
    return pairs


# --- the way it should go -----------------------------------------------------------------------


@pytest.mark.ray
def test_an_atlas_from_nothing_to_its_pairs_and_again_and_mended(small, write_study, tmp_path):
    small["folders"] |= {"data": str(tmp_path / "data"), "zoo": str(tmp_path / "zoo")}
    path, results = write_study(small), results_of(small)
    store = outputs.Store(tmp_path / "outputs")
    planned = atlas_here(path, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "2 ordered pairs" in planned.stdout
    assert not results.exists()

    done = run(JOB, path)
    assert done.returncode == 0, done.stderr
    models = models_of(results)
    assert models["status"].tolist() == ["ok"] * 8
    assert models.groupby("source").size().to_dict() == {"trained": 2, "seed": 6}
    said = pd.read_parquet(results / "model_predictions")
    assert said.groupby("model").size().unique().tolist() == [303]

    pairs = checked_pairs(results)
    meanings = pd.read_parquet(results / "classes")
    assert meanings["name"].tolist() == [f"class{c}" for c in range(10)]
    assert meanings["embedder"].unique().tolist() == ["minilm: names in a sentence"]
    assert np.linalg.norm(np.stack(meanings["embedding"]), axis=1) == pytest.approx(1)

    # Again: no model is run; the pairs are made of the records. A damaged one is told.
    before = times(results)
    again = run_here(JOB, path)
    assert again.returncode == 0, again.stderr
    assert "models to run" not in again.stdout
    assert times(results) == before
    pd.testing.assert_frame_equal(pd.read_parquet(results / "pairs"), pairs.reset_index())
    record = results / "model_predictions" / f"{models.loc['resnet', 'model']}.parquet"
    content = record.read_bytes()
    record.write_bytes(content[:100])
    refused(atlas_here(path), f"model_predictions/{record.name}", "not a readable record", "remove")
    record.unlink()
    (results / "models" / record.name).unlink()

    # A damaged entry of the store is told, and computed again; the sweep finds all of them.
    victim = next(e for e in store.entries() if e.model == "resnet")
    victim.path.write_bytes(victim.path.read_bytes()[:-7])
    listed = run_here("jobs/outputs.py", path, "--damaged")
    assert victim.path.name in listed.stdout
    assert "1 files" in listed.stdout
    mended = atlas(path)
    assert mended.returncode == 0, mended.stderr
    assert "1 of 8 models to run" in mended.stdout
    assert f"{victim.path}: damaged" in mended.stdout
    assert "computed again" in mended.stdout
    pd.testing.assert_frame_equal(pd.read_parquet(results / "pairs"), pairs.reset_index())
    found = {e.path: e.path.stat().st_mtime_ns for e in store.entries()}
    assert run("jobs/transfer_sweep.py", path, "--limit", 1).returncode == 0
    assert len(recorded(results)) == 1
    assert {entry: entry.stat().st_mtime_ns for entry in found} == found

    # Clearing the store.
    assert run_here("jobs/outputs.py", path, "--models", "resnet*", "--clear").returncode == 0
    assert {e.model for e in store.entries()} == {"mixer", *(f"mixer-untrained-{n}" for n in range(3))}


@pytest.mark.ray
def test_a_model_that_fails_is_recorded_and_stops_no_other(small, write_study, tmp_path):
    """One whose input does not fit, one that says nothing finite, those of other classes by a pattern."""
    blank = {key: value for key, value in small["zoo"]["mixer"].items() if key != "weights"}
    small["zoo"]["misfit"] = blank | {
        "weights": {"source": "seed", "seed": 5},
        "config": blank["config"] | {"input_size": [3, 30, 30]},
    }
    network = zoo.build(spec.Study.model_validate(small).zoo["mixer"], 10).network
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in network.state_dict().items()}
    torch.save(broken, tmp_path / "nan.pt")
    small["zoo"]["nan"] = blank | {"weights": {"source": "file", "path": str(tmp_path / "nan.pt")}}
    small["pairs"] = {"students": ["mixer"], "teachers": ["resnet", "nan"]}
    (tmp_path / "list.txt").write_text("misfit\nnan\nresnet18.a1*\n")
    path, results = write_study(small), results_of(small)
    done = atlas(path, "--models", "mixer", "resnet", f"@{tmp_path / 'list.txt'}")
    assert done.returncode == 0, done.stderr
    assert "3 models failed" in done.stdout
    models = models_of(results)
    assert models.loc[["mixer", "resnet"], "status"].tolist() == ["ok", "ok"]
    for name, words in {
        "misfit": "30",
        "nan": "zoo.nan: its outputs are not finite",
        "resnet18.a1_in1k": "tells 1000 classes apart, but the data have 10",
    }.items():
        assert models.loc[name, "status"] == "failed"
        assert words in models.loc[name, "reason"]
        assert words in done.stdout
    assert set(pd.read_parquet(results / "atlas")["model"]) == set(models["model"])

    # Failed ones are tried again, finished ones are not; the study's pairs may name others.
    before = times(results)
    again = atlas(path, "--models", "mixer", "resnet", "misfit")
    assert "1 of" in again.stdout
    assert "models to run" in again.stdout
    changed = {path.stem for path, when in times(results).items() if before.get(path) != when}
    assert changed == {models.loc["misfit", "model"]}
    assert models_of(results).loc["misfit", "reason"] == models.loc["misfit", "reason"]


def test_timms_whole_zoo_is_planned_offline():
    planned = atlas_here("studies/paper_full.yaml", "--models", "all", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    count = int(planned.stdout.split("hub")[1].split()[0])
    assert count > 1500
    assert f"{count * (count - 1):,} ordered pairs" in planned.stdout
    assert re.search(
        r"50,000 images on one RTX \d+: \d+ h \d+ min of forward passes, of the 1,\d+ models", planned.stdout
    )


def test_models_of_an_earlier_version_are_measured_from_what_is_kept(small, workspace, write_study, tmp_path):
    path, results = write_study(small), results_of(small)
    refused(atlas_here(path, "--measure"), str(results), "no model is recorded", "without --measure")
    study, place = spec.load(path), elsewhere(workspace, tmp_path / "outputs")
    records.prepare(results, ["models", "model_predictions"])
    for model in study.zoo.values():
        found = study_atlas.run(model, place, "evaluation")
        row = {name: value for name, value in found.row.items() if name in FORMER}
        records.write_model(
            results, study_atlas.id_of(model, study.data, "evaluation"), row, found.predictions
        )
    before = models_of(results)
    gone = next(entry for entry in place.store.entries() if entry.path.stem == before.loc["mixer", "outputs"])
    place.store.clear([gone])

    done = atlas_here(path, "--measure")
    assert done.returncode == 0, done.stderr
    assert "1 models measured from their outputs, 0 were before" in done.stdout
    assert "outputs of 1 models are not in" in done.stdout and "such as mixer; remove" in done.stdout
    models = models_of(results)
    assert models["intra_class_variance"].notna().to_dict() == {"mixer": False, "resnet": True}
    assert models.loc["resnet", "label_smoothing_source"] == "recipe"
    same = [name for name in before.columns if name in FORMER]
    pd.testing.assert_frame_equal(models[same].sort_index(), before[same].sort_index())
    assert pd.read_parquet(results / "model_classes")["samples"].sum() == 303
    again = atlas_here(path, "--measure")
    assert "0 models measured from their outputs, 1 were before" in again.stdout


# --- interruptions ------------------------------------------------------------------------------


@pytest.fixture
def long_atlas(small, write_study):
    """An atlas long enough to be interrupted: (path, results)."""
    blank = {key: value for key, value in small["zoo"]["mixer"].items() if key != "weights"}
    small["zoo"] |= {
        f"blank{seed}": blank | {"weights": {"source": "seed", "seed": seed}}
        for seed in range(100, 100 + COUNT)
    }
    small["pairs"] = [["mixer", "resnet"]]
    return write_study(small), results_of(small)


@pytest.mark.faults
def test_a_killed_atlas_recomputes_no_finished_model(long_atlas):
    path, results = long_atlas
    process = start(JOB, path, "--batch-size", 1, "--embed", "none")
    wait_until(lambda: len(recorded(results, "models")) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not workers_of(process.pid))
    before = times(results)
    assert 3 <= len(before) < COUNT + 8
    done = atlas(path)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT + 8 - len(before)} of {COUNT + 8} models to run" in done.stdout
    after = times(results)
    assert {path: after[path] for path in before} == before
    assert (models_of(results)["status"] == "ok").all()
    assert len(after) == COUNT + 8


@pytest.mark.faults
def test_a_model_whose_worker_is_killed_is_run_again_with_half_the_batch(long_atlas):
    path, results = long_atlas
    process = start(JOB, path, "--batch-size", 16, "--embed", "none")
    wait_until(lambda: len(recorded(results, "models")) >= 1, process)
    victim = next(line for line in workers_of(process.pid) if "ImplicitFunc.train" in line)
    os.kill(int(victim.split()[1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "whose worker died are run again, batch size 8" in output
    models = models_of(results)
    assert (models["status"] == "ok").all()
    assert set(models["batch_size"]) <= {16, 8}  # 16 where it was killed between outputs and record


# --- bad input ----------------------------------------------------------------------------------


def test_a_pattern_that_matches_nothing_is_refused(small, write_study):
    done = atlas_here(write_study(small), "--models", "mixer", "resnett*")
    refused(done, "'resnett*' matches no model", "zoo", "timm")
    assert not results_of(small).exists()


def test_a_split_that_does_not_exist_is_refused(small, write_study):
    refused(atlas_here(write_study(small), "--split", "evaluate"), "--split", "did you mean 'evaluation'")


def test_a_split_without_images_is_refused(small, write_study):
    refused(atlas_here(write_study(small), "--split", "tune"), "'tune' holds no images", "data.splits.tune")


def test_a_plane_of_a_class_that_is_not_there_is_refused(small, workspace, write_study):
    small["geometry"] = {"planes": [["class1", "class2", "clas3"]]}
    refused(atlas_here(write_study(small)), "geometry.planes.0", "no class 'clas3'", "did you mean 'class3'")
    assert not recorded(results_of(small), "models")


def test_students_whose_geometry_is_not_recorded_are_told(small, capsys):
    """Of the students alone: the atlas says it of each model that it runs."""
    for name in ("two_heads", "teacher"):
        small["zoo"][name] = small["zoo"]["mixer"] | {
            "timm": "deit_tiny_distilled_patch16_224",
            "family": "transformer",
            "kwargs": {"img_size": 28, "patch_size": 14, "embed_dim": 24, "depth": 1},
        }
    small |= {"pairs": [["two_heads", "teacher"], ["mixer", "resnet"]], "geometry": {}}
    _run.tell_without_geometry(spec.Study.model_validate(small), 10)
    assert capsys.readouterr().out.splitlines() == [
        "zoo.two_heads: its logits are not those of one linear layer, so no geometry is recorded of it"
    ]


def test_classes_are_embedded_again_where_another_text_is_asked_for(tmp_path, monkeypatch):
    """Each text has its own embeddings; where none is asked for, those that are there stay."""
    read = []
    monkeypatch.setitem(
        class_names.EMBEDDERS, "minilm", lambda texts: read.append(texts) or np.eye(len(texts))
    )
    place, images = SimpleNamespace(results=tmp_path, name="demo"), SimpleNamespace(classes=["a_b", "c"])
    names, sentences = ["a b", "c"], ["a photo of a a b.", "a photo of a c."]
    old = {"class": [0, 1], "name": names, "embedder": ["minilm"] * 2, "embedding": [[1.0, 0.0]] * 2}
    records.prepare(tmp_path, ["classes"])
    records.write(tmp_path, "classes", "demo", old)
    for embedder, given, embedded, told in [
        (None, None, [], "minilm"),  # of a version that did not tell what was read
        ("minilm", None, [sentences], "minilm: names in a sentence"),
        ("minilm", None, [], "minilm: names in a sentence"),
        (None, "names", [names], "minilm: plain names"),
        (None, None, [], "minilm: plain names"),
        (None, "definitions", [sentences], "minilm: names in a sentence"),
        ("none", None, [], None),
    ]:
        read.clear()
        atlas_job.describe_classes(place, images, embedder, given)
        assert read == embedded
        assert records.read(tmp_path, "classes", "demo", ["embedder"])["embedder"].to_pylist() == [told] * 2


@pytest.mark.parametrize("by_name", [True, False])
def test_a_model_of_other_classes_is_refused(small, write_study, by_name):
    arguments = ["--models", "mixer", "resnet18.a1_in1k"]
    if not by_name:
        small["zoo"]["resnet"]["kwargs"]["num_classes"] = 7
        arguments = []
    refused(atlas_here(write_study(small), *arguments), "1000" if by_name else "7", "10", "zoo.resnet")


def test_one_model_makes_no_pair(small, write_study):
    refused(atlas_here(write_study(small), "--models", "mixer"), "a pair needs two models", "--models")
    for model in small["zoo"].values():
        model["weights"] = {"source": "seed", "seed": 0}
    refused(
        atlas_here(write_study(small)), "there is 0 (2 of random weights, which know nothing, are the chance"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_outputs_larger_than_the_disk_are_refused_before_any_run(small, write_study, tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", folder], check=False).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        refused(atlas_here(write_study(small)), str(folder), "free", "top_k", "--outputs")
        assert not recorded(results_of(small), "models")
    finally:
        subprocess.run(["umount", folder], check=True)
