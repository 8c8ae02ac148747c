"""What `improve` makes of its arguments, before anything runs."""

import argparse

import pytest

from jobs import _asked
from study import spec


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800)],
)
def test_a_time_is_read_as_it_is_written(text, seconds):
    assert _asked.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "soon", "2h x", "-5"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
        _asked.seconds(text)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("hf-hub:me/my model", "my_model"),
        ("local-dir:/some/where/", "where"),
        ("weights/best.pth.tar", "best.pth.tar"),
        ("hf-hub:", "model"),
    ],
)
def test_models_are_called_what_files_may_be(name, called):
    assert _asked.called(name) == called


def asked(**changes) -> argparse.Namespace:
    given = {
        "student": "test_resnet.r160_in1k",
        "data": None,
        "study": None,
        "teachers": ["resnet10t.c3_in1k"],
    }
    given |= {
        "method": None,
        "unlabelled": False,
        "architecture": None,
        "batch_size": 64,
        "cpus": None,
        "gpus": None,
    }
    return argparse.Namespace(**(given | changes))


def test_a_folder_becomes_a_study_whose_choices_are_made_on_images_kept_aside(image_folder, tmp_path):
    study = _asked.study_of(asked(data=str(image_folder)), tmp_path)
    assert study.data.evaluate == "tune" and study.data.splits.tune and study.data.splits.fit
    assert list(study.methods) == [_asked.LABELLED, _asked.CONTROL]
    assert study.results == tmp_path / "records" and study.folders.zoo == tmp_path / "work" / "zoo"
    few = _asked.study_of(asked(data=str(image_folder), cpus=3, gpus=0.5), tmp_path).resources
    assert (few.cpus, few.gpus) == (3, 0.5)
    without = _asked.study_of(asked(data=str(image_folder), unlabelled=True), tmp_path)
    (method,) = without.methods.values()
    assert "labels" not in method.needs


def test_a_teacher_of_other_classes_gets_a_head_for_those_of_the_folder(image_folder, tmp_path, monkeypatch):
    """The student, a file, tells the folder's ten apart; timm's teacher a thousand others."""
    from tests.jobs.test_improve import saved

    student = f"local-dir:{saved(tmp_path / 'student', classes=10)}"
    study = _asked.study_of(asked(student=student, data=str(image_folder)), tmp_path / "out")
    taught, teacher = study.zoo.values()
    assert taught.source == "file" and taught.family == "cnn"
    assert isinstance(teacher.weights, spec.Trained) and isinstance(teacher.weights.start, spec.Hub)
    (phase,) = teacher.weights.phases
    assert phase.train == "head"
