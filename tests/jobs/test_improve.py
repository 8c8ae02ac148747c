"""`improve` as a user runs it: what it refuses, and what it leaves behind."""

import json
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from study import spec
from tests.jobs.running import ROOT, command, refused, run, run_here, wait_until

# --- what it refuses ----------------------------------------------------------------------------


@pytest.fixture
def with_tune(content, write_study):
    """The small study with images kept aside."""
    content["data"]["splits"]["tune"] = 200
    return write_study(content)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody", "--teachers", "resnet"), ("no model 'nobody'",)),
        (("mixer", "--teachers", "nobody*"), ("--teachers", "'nobody*' matches no model")),
        (("mixer", "--teachers", "mixer"), ("no model but the student",)),
        (("mixer", "--method", "xe"), ("'xe' learns from no teacher", "--method")),
        (("mixer", "--unlabelled", "--method", "kl_dp"), ("'kl_dp' reads labels",)),
        (("mixer", "--architecture", "resnet10t"), ("--architecture", "no file of weights")),
        (("mixer", "--cpus", "0"), ("resources.cpus",)),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(with_tune, tmp_path, arguments, words):
    done = run_here("jobs/improve.py", *arguments, "--study", with_tune, "--out", tmp_path / "out")
    refused(done, *words)


def test_a_study_without_images_to_choose_on_is_refused(content, write_study, tmp_path):
    done = run_here("jobs/improve.py", "mixer", "--study", write_study(content), "--out", tmp_path)
    refused(done, "keeps no images to choose on", "data.splits.tune")


def test_a_study_whose_images_have_no_classes_is_refused_until_labels_are_not_read(
    content, write_study, tmp_path
):
    content["data"]["images"]["source"] = "unlabelled_folder"
    content["data"]["splits"]["tune"] = 50
    done = run_here("jobs/improve.py", "mixer", "--study", write_study(content), "--out", tmp_path)
    refused(done, "images to learn from have no classes", "--unlabelled")


def test_a_folder_without_images_for_the_proof_is_refused(image_folder, tmp_path):
    done = run_here(
        "jobs/improve.py", "test_resnet", "--data", image_folder / "train", "--teachers", "resnet10t"
    )
    refused(done, "no images are kept aside", "val/ or test/")
    done = run_here(
        "jobs/improve.py", "test_resnet", "--data", tmp_path / "nowhere", "--teachers", "resnet10t"
    )
    refused(done, "no such folder")


def test_teachers_have_to_be_named_where_no_study_has_any(image_folder, tmp_path):
    done = run_here("jobs/improve.py", "test_resnet.r160_in1k", "--data", image_folder, "--out", tmp_path)
    refused(done, "--teachers: name some")


def test_weights_of_an_unnamed_architecture_are_refused(image_folder, tmp_path):
    file = tmp_path / "some.safetensors"
    file.touch()
    done = run_here("jobs/improve.py", file, "--data", image_folder, "--teachers", "resnet10t")
    refused(done, "--architecture")


def test_a_student_of_other_classes_is_refused(image_folder, tmp_path):
    student = saved(tmp_path / "student", classes=7)
    done = run_here(
        *("jobs/improve.py", f"local-dir:{student}", "--data", image_folder),
        *("--teachers", f"local-dir:{saved(tmp_path / 'teacher', classes=10)}", "--out", tmp_path / "out"),
    )
    refused(done, "7")


@pytest.mark.parametrize("text", ["soon", "", "h"])
def test_a_budget_is_a_time(text, capsys):
    done = run_here("jobs/improve.py", "mixer", "--study", "any.yaml", "--budget", text)
    assert done.returncode == 2 and "is no time" in done.stderr


def saved(folder, classes):
    """A folder of a tiny model that timm loads."""
    from study.models.timm_import import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=classes)
    timm.models._hub.save_for_hf(network, folder, safe_serialization="both")
    return folder


# --- whom it asks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("xe_kl_op", [("wide",), ("wide", "slim"), ("slim",)]),
        ("kl", [("wide",), ("slim",)]),  # learns from one at a time
    ],
)
def test_the_best_teacher_is_asked_first_then_all_at_once_who_add_something(method, asked):
    from jobs.improve import Improvement, Progress

    methods = {method: spec.Method(method=method, lr=0.01)}
    study = SimpleNamespace(zoo={"student": None, "teacher": None}, methods=methods)
    one = Improvement(study, method, 60, Progress(Path("progress.json"), "command"))
    names = ("wide", 0.02), ("none", 0.0), ("slim", 0.01), ("harmful", -0.01)
    order = [(gain, SimpleNamespace(name=name)) for name, gain in names]
    found = [tuple(teacher.name for teacher in teachers) for teachers in one.promising(order)]
    assert found == asked
    assert one.promising(order[1:2]) == []


def test_a_round_has_the_epochs_that_fit_and_the_same_ones_again(tmp_path):
    from jobs.improve import Improvement, Progress
    from study.improve import Plan

    study = SimpleNamespace(zoo={"student": None, "teacher": None})
    progress = Progress(tmp_path / "progress.json", "command", 50.0, Plan(2, 2, 20, 40.0))
    one = Improvement(study, "kl", 70, progress)  # 20 s are left, for half a round
    assert one.epochs_of(1) == 20  # the plan's, whatever the first one takes
    assert 8 <= one.epochs_of(2) < 10
    one.begun -= 15
    assert one.epochs_of(3) == 0
    again = Improvement(study, "kl", 70, Progress.of(progress.path, "command"))
    assert [again.epochs_of(number) for number in (1, 2)] == progress.epochs and len(progress.epochs) == 2


# --- what it leaves behind ----------------------------------------------------------------------


def accuracy(folder, images) -> float:
    """Top-1 of a folder's model on evaluation images, by timm's own loading and transform alone."""
    from PIL import Image

    import study.models.tiny  # noqa: F401 - as the card says
    from study.models.timm_import import timm

    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    classes = sorted(place.name for place in images.iterdir())
    right = []
    with torch.no_grad():
        for number, name in enumerate(classes):
            for path in sorted((images / name).iterdir()):
                with Image.open(path) as image:
                    said = network(transform(image.convert("RGB"))[None])
                right.append(int(said.argmax()) == number)
    return float(np.mean(right))


def test_what_is_pushed_is_a_model_that_timm_loads_from_the_hub(the_hub, tmp_path):
    from jobs import improve
    from study.models.timm_import import timm

    out = saved(tmp_path / "out", classes=10)
    for name in improve.LEFT[2:]:
        (out / name).write_bytes(b"of " + name.encode())
    (out / "progress.json").write_text("of this machine alone")
    improve.push(out, "me/better")
    assert {*the_hub.files("model", "me/better")} == {*improve.LEFT}
    loaded = timm.create_model("hf-hub:me/better", pretrained=True).state_dict()
    own = timm.create_model(f"local-dir:{out}", pretrained=True).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in own.items())


@pytest.mark.ray
def test_improve_leaves_a_model_that_is_worth_what_its_card_says(
    content, write_study, image_folder, tmp_path
):
    content["data"]["splits"] |= {"tune": 150, "evaluate_rest": False}
    study, out = write_study(content), tmp_path / "out"
    arguments = ("mixer", "--study", study, "--budget", "20m", "--out", out)
    done = run("jobs/improve.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert {"config.json", "model.safetensors", "README.md", "classes.png", "proof.parquet"} <= {
        path.name for path in out.iterdir()
    }
    (proof,) = pd.read_parquet(out / "proof.parquet").to_dict("records")
    said = pd.read_parquet(out / "evaluation.parquet")
    assert (said["after"] == said["label"]).mean() == proof["after"]
    assert (said["before"] == said["label"]).mean() == proof["before"]
    assert accuracy(out, image_folder / "test") == pytest.approx(proof["after"])
    card = (out / "README.md").read_text()
    assert f"{100 * proof['after']:.2f} %" in card and "import study.models.tiny" in card
    trials = pd.read_parquet(out / "records" / "trials")
    assert set(trials["evaluated_on"]) == {"tune"}
    assert not set(said["index"]) & set(pd.read_parquet(out / "records" / "predictions")["index"])

    again = run("jobs/improve.py", *arguments)
    assert again.returncode == 0 and "of 3 done" not in again.stdout
    assert pd.read_parquet(out / "proof.parquet").to_dict("records") == [proof]
    other = run("jobs/improve.py", *arguments[:-1], out, "--budget", "21m")
    refused(other, "choose another --out")


@pytest.mark.ray
def test_where_no_image_has_a_class_nothing_is_verified_and_it_says_so(image_folder, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for number, file in enumerate(sorted((image_folder / "train").rglob("*.png"))[::10]):  # 40 are enough
        (tmp_path / "images" / "train" / f"{number}.png").symlink_to(file)
    models = [f"local-dir:{saved(tmp_path / name, classes=10)}" for name in ("student", "one", "two")]
    out = tmp_path / "out"
    arguments = (models[0], "--data", tmp_path / "images", "--unlabelled", "--teachers", *models[1:])
    arguments += ("--batch-size", "16")
    done = run("jobs/improve.py", *arguments, "--budget", "30m", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "no image has a class, so nothing can be verified" in done.stdout
    assert "from one, then two" in done.stdout and "improve: nothing was verified" in done.stdout
    assert "Nothing was verified" in (out / "README.md").read_text()
    assert {"config.json", "model.safetensors"} <= {path.name for path in out.iterdir()}
    assert not {"proof.parquet", "classes.png"} & {path.name for path in out.iterdir()}
    said = pd.read_parquet(out / "evaluation.parquet")
    changed = 100 * (said["before"] != said["after"]).mean()
    assert f"{changed:.1f} % of the answers" in done.stdout and "label" not in said
    trials = pd.read_parquet(out / "records" / "trials")
    assert trials["student_accuracy_after"].isna().all() and set(trials["status"]) == {"ok"}
    (last,) = trials.loc[trials["combine"] == "sequential", "trial"]
    assert pd.read_parquet(out / "records" / "plans")["trial"].tolist() == [last]
    refused(run("analysis/report.py", out / "records"), "nobody has said the classes", "predictions/")
    again = run("jobs/improve.py", *arguments, "--budget", "30m", "--out", out)
    assert again.returncode == 0 and "of 1 done" not in again.stdout


@pytest.mark.ray
def test_useless_teachers_leave_the_student_as_it_was(content, write_study, tmp_path):
    content["data"]["splits"] |= {"tune": 150}
    model = content["zoo"]["resnet"]
    for seed in range(2):
        content["zoo"][f"blank{seed}"] = {**model, "weights": {"source": "seed", "seed": seed}}
    out = tmp_path / "out"
    done = run(
        *("jobs/improve.py", "resnet", "--study", write_study(content), "--teachers", "blank*"),
        *("--budget", "20m", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    assert "nothing that was tried makes resnet better" in done.stdout
    (proof,) = pd.read_parquet(out / "proof.parquet").to_dict("records")
    assert proof["delta"] == 0 and proof["gained"] == proof["lost"] == 0
    assert "This is the original, unchanged" in (out / "README.md").read_text()


@pytest.mark.ray
def test_a_command_that_was_killed_goes_on(content, write_study, tmp_path):
    content["data"]["splits"] |= {"tune": 150}
    out = tmp_path / "out"
    arguments = ("mixer", "--study", write_study(content), "--budget", "20m", "--out", out)
    process = subprocess.Popen(
        command("jobs/improve.py", *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: any((out / "records" / "trials").glob("*.parquet")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    spent = json.loads((out / "progress.json").read_text())["spent"]
    recorded = {path.name for path in (out / "records" / "trials").glob("*.parquet")}
    time.sleep(2)
    done = run("jobs/improve.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert recorded <= {path.name for path in (out / "records" / "trials").glob("*.parquet")}
    assert json.loads((out / "progress.json").read_text())["spent"] > spent
    assert (out / "README.md").exists()
