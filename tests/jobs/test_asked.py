"""What `improve` makes of its arguments, before anything runs."""

import argparse

import pytest

from jobs import _asked
from study import spec
from study.errors import StudyError


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


@pytest.fixture
def without_classes(image_folder, tmp_path):
    """The folder, its training images in one heap."""
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    (folder / "test").symlink_to(image_folder / "test")
    for file in sorted((image_folder / "train").rglob("*.png")):
        (folder / "train" / f"{file.parent.name}_{file.name}").symlink_to(file)
    return folder


def test_where_images_have_no_classes_choices_are_made_on_half_of_the_others(without_classes, tmp_path):
    from tests.jobs.test_improve import saved

    student, teacher = (f"local-dir:{saved(tmp_path / name, classes=10)}" for name in ("student", "teacher"))
    given = asked(student=student, data=str(without_classes), teachers=[teacher], unlabelled=True)
    study = _asked.study_of(given, tmp_path / "out")
    assert study.data.images.source == "unlabelled_folder"
    assert study.data.splits.tune_of == "test" and study.data.splits.tune == 0.5
    assert [method.reads_transfer_labels for method in study.methods.values()] == [False]
    with pytest.raises(StudyError, match="--unlabelled"):
        _asked.study_of(asked(student=student, data=str(without_classes), teachers=[teacher]), tmp_path)


@pytest.mark.parametrize("others", [False, True])
def test_where_no_image_has_a_class_the_student_says_how_many_there_are(without_classes, tmp_path, others):
    from tests.jobs.test_improve import saved

    (without_classes / "test").unlink()
    if others:  # in a heap, too
        (without_classes / "val").symlink_to(without_classes / "train")
    student, teacher = (f"local-dir:{saved(tmp_path / name, classes=7)}" for name in ("student", "teacher"))
    given = {"student": student, "data": str(without_classes), "teachers": [teacher]}
    study = _asked.study_of(asked(**given, unlabelled=True), tmp_path / "out")
    assert study.data.images.settings == {"train": str(without_classes / "train"), "classes": 7}
    assert study.data.evaluate == "tune" and not study.data.splits.fit
    if not others:
        with pytest.raises(StudyError, match=r"no images are kept aside .*--unlabelled"):
            _asked.study_of(asked(**given), tmp_path / "out")
    file = tmp_path / "student" / "model.safetensors"
    with pytest.raises(StudyError, match=r"how many classes it tells apart is not known, .*num_classes"):
        _asked.study_of(
            asked(**given | {"student": str(file)}, architecture="test_resnet", unlabelled=True), tmp_path
        )


def test_no_head_is_trained_without_labels(without_classes, tmp_path):
    from tests.jobs.test_improve import saved

    student = f"local-dir:{saved(tmp_path / 'student', classes=10)}"
    given = asked(student=student, data=str(without_classes), unlabelled=True)
    with pytest.raises(StudyError, match=r"--teachers: resnet10t\.c3_in1k does not tell the 10 classes"):
        _asked.study_of(given, tmp_path / "out")


@pytest.mark.parametrize(("images", "aside"), [(6, 2), (300, 100), (8_000, 2_500), (40_000, 4_000)])
def test_of_few_images_more_are_kept_aside_so_that_a_gain_can_be_found(tmp_path, images, aside):
    for part in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / part).mkdir(parents=True)
    for number in range(images):
        (tmp_path / "train" / "ab"[number % 2] / f"{number}.png").touch()
    parts = _asked.parts_of(_asked.images_of(tmp_path, unlabelled=False))
    assert round(parts["tune"] * images) == aside
