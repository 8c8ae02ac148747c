"""What `jobs/improve.py` is asked for, as a study: one student, its teachers, trials scored on `tune`."""

from __future__ import annotations

import argparse
import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from jobs import _run
from study import atlas, improve, mistakes, spec, workspace
from study.errors import StudyError
from study.images import sources
from study.models import families
from study.models import zoo as models

# Of a folder's training images, kept aside: more of few, for `ENOUGH` of them, but no more than `MOST`. On
# the 2,000 that are left without `fit` a gain of 1.5 points is found four times of five, if one image in
# twenty changes.
TUNE, ENOUGH, MOST = 0.1, 2500, 1 / 3
TUNE_OF_TEST = 0.5  # of its others, where nobody has said the classes of the training images
FIT = 0.2  # of what is kept aside: to rank teachers on, and to fit a pool's weights
SIDES = ("test", "val", "validation")  # what a folder may call its images for evaluation
LABELLED, UNLABELLED, CONTROL = "xe_kl_op", "kl_dp_unsupervised", "xe"
# The head of a teacher that tells other classes apart is trained anew, on features that are computed once.
REFITTED = {"epochs": 20, "lr": 1e-3, "train": "head"}


def seconds(text: str) -> float:
    """'90s', '10m', '2h' or '1h30m'; a bare number is of seconds."""
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s?)?", text.strip())
    if not found or not any(found.groups()):
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write 90s, 10m, 2h or 1h30m")
    hours, minutes, rest = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + rest


def images_of(folder: Path, unlabelled: bool) -> dict[str, str]:
    """The training and evaluation images of a folder; without either, a `StudyError`.

    Where no labels are to be read the training images may be in any sub-folders, or in none; and there may be
    no others, or others without classes, so that nothing can be verified.
    """
    if not folder.is_dir():
        raise StudyError(f"--data {folder}: no such folder; name one that holds train/ and val/ (or test/)")
    train = folder / "train"
    test = next((folder / name for name in SIDES if (folder / name).is_dir()), None)
    if unlabelled and train.is_dir() and (test is None or not classes_in(test)):
        return {"source": "unlabelled_folder", "train": str(train)}
    if test is None or not train.is_dir():
        raise StudyError(
            f"--data {folder}: no images are kept aside to prove anything on; put those to learn from into "
            "train/ and others into val/ or test/, each with a sub-folder for every class (where nobody can "
            "say any class, --unlabelled learns from train/ alone, and nothing is verified)"
        )
    by_class = classes_in(train) == classes_in(test)
    if not by_class and not classes_in(train) and not unlabelled:
        raise StudyError(
            f"--data {folder}: train/ has no sub-folder for any class; make one for each, or add "
            "--unlabelled to learn without labels"
        )
    source = "image_folder" if by_class or not unlabelled else "unlabelled_folder"
    return {"source": source, "train": str(train), "test": str(test)}


def classes_in(folder: Path) -> list[str]:
    """The classes that a folder has sub-folders for, in order."""
    return sorted(place.name for place in folder.iterdir() if place.is_dir() and place.name[0] != ".")


def parts_of(images: dict[str, str]) -> dict[str, float | str]:
    """The splits of a folder: what is kept aside has labels, if anything has."""
    if "test" not in images:
        return {"transfer": 1.0, "tune": TUNE}
    if images["source"] == "unlabelled_folder":
        return {"transfer": 1.0, "tune": TUNE_OF_TEST, "tune_of": "test", "fit": FIT}
    there = sources.images_in(images["train"], most=round(ENOUGH / TUNE))
    return {"transfer": 1.0, "tune": max(TUNE, min(ENOUGH / max(1, there), MOST)), "fit": FIT}


def called(name: str) -> str:
    """What a model is called here, by what timm or a file calls it."""
    last = name.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", last).strip("_.-") or "model"


def student_of(arguments: argparse.Namespace, known: dict[str, spec.Model]) -> spec.Model:
    """The model that a command names; its family is known once it is read."""
    name = arguments.student
    is_file = name not in known and Path(name).is_file()
    if arguments.architecture and not is_file:
        raise StudyError(f"--architecture: '{name}' is no file of weights, and says itself what it is")
    if name in known:
        return known[name]
    if is_file:
        if not arguments.architecture:
            raise StudyError(f"{name}: weights of what? add --architecture, by timm's name")
        of_file = spec.File(path=name)
        return spec.Model(timm=arguments.architecture, family="cnn", weights=of_file, name=called(name))
    if known and ":" not in name:
        raise StudyError(f"{arguments.study}: has no model '{name}'{mistakes.nearest(name, known)}")
    return spec.Model(timm=name, family="cnn", name=called(name))


def teachers_of(
    patterns: Sequence[str], student: spec.Model, known: dict[str, spec.Model]
) -> list[spec.Model]:
    """The teachers that patterns name, the student left out; 'auto' are all of a study's models."""
    if list(patterns) == ["auto"]:
        if not known:
            raise StudyError(
                "--teachers: name some, by timm's names or patterns of them ('resnet50*'), hf-hub:USER/NAME "
                "or local-dir:FOLDER; 'auto' are the models of a --study"
            )
        patterns = ["*"]
    found: dict[str, spec.Model] = {}
    for pattern in patterns:
        if ":" in pattern:
            found[called(pattern)] = spec.Model(timm=pattern, family="cnn", name=called(pattern))
        elif own := fnmatch.filter(known, pattern):
            found |= {name: known[name] for name in own}
        else:
            found |= {model.name: model for model in atlas.pretrained(pattern, "--teachers", known)}
    if not found.keys() - {student.name}:
        raise StudyError("--teachers: they match no model but the student; name others")
    return [model for name, model in found.items() if name != student.name]


def study_of(arguments: argparse.Namespace, out: Path) -> spec.Study:
    """What a command asks for, as a study of one student whose trials are scored on `tune`."""
    known: dict[str, spec.Model] = {}
    if arguments.study:
        base = spec.load(arguments.study)
        known, folders, resources = dict(base.zoo), base.folders, base.resources.model_dump()
        if not base.data.splits.tune:
            raise StudyError(f"{arguments.study}: keeps no images to choose on; set data.splits.tune")
        if base.data.images.source == "unlabelled_folder" and not arguments.unlabelled:
            raise StudyError(f"{arguments.study}: images to learn from have no classes; give --unlabelled")
        parts = base.data.splits.model_copy(update={"fit": FIT})
        data = base.data.model_copy(update={"splits": parts, "evaluate": "tune", "also": {}})
        precision = base.budget.precision
    else:
        images = images_of(Path(arguments.data), arguments.unlabelled)
        data = {"images": images, "splits": parts_of(images)}
        data |= {"evaluate": "tune", "name": called(arguments.data)}
        precision = None
        folders = {name: out / "work" / name for name in ("data", "zoo", "outputs")}
        resources = {"gpus": workspace.has_gpu()}
    student = student_of(arguments, known)
    teachers = teachers_of(arguments.teachers, student, known)
    method = arguments.method or (UNLABELLED if arguments.unlabelled else LABELLED)
    given = {name: getattr(arguments, name) for name in ("cpus", "gpus")}
    resources |= {name: amount for name, amount in given.items() if amount is not None}
    content = {
        "name": called(f"improve_{student.name}"),
        "data": data,
        "zoo": {model.name: model for model in (student, *teachers)},
        "pairs": [[student.name, teacher.name] for teacher in teachers],
        "methods": {method: {"lr": improve.RATES[0]}}
        | ({} if arguments.unlabelled else {CONTROL: {"lr": improve.RATES[0]}}),
        "budget": {
            "epochs": 1,
            "batch_size": arguments.batch_size,
            "schedule": "cosine",
            "precision": precision,
        },
        "keep": "all",
        "resources": resources,
        "folders": folders,
    }
    try:
        study = spec.Study.model_validate(content)
        places = {**dict(study.folders), "results": out / "records"}
        study = study.model_copy(update={"folders": spec.Folders(**places)})
    except ValidationError as error:
        raise StudyError(mistakes.first(error, spec.Study)) from error
    if study.methods[method].teachers == 0:
        raise StudyError(f"--method: '{method}' learns from no teacher; name another, such as {LABELLED}")
    if arguments.unlabelled and "labels" in study.methods[method].needs:
        raise StudyError(f"--method: '{method}' reads labels; name another, such as {UNLABELLED}")
    study = with_families(_run.ready(study), known)
    if arguments.study:
        return study
    return refitted(study, images) if "test" in images else with_classes(study)


def with_families(study: spec.Study, known: dict[str, spec.Model]) -> spec.Study:
    """The study with the families of models that are read by now."""
    found = {
        name: model
        if name in known
        else model.model_copy(update={"family": families.family_of(models.architecture(model.timm))})
        for name, model in study.zoo.items()
    }
    return study.model_copy(update={"zoo": found})


def with_classes(study: spec.Study) -> spec.Study:
    """The study with as many classes as its student tells apart, where no image has one.

    Raises:
        StudyError: nothing says how many these are.
    """
    student = next(iter(study.zoo.values()))
    number = models.classes_of(student)
    if number is None:
        raise StudyError(
            f"{student.name}: how many classes it tells apart is not known, and no image has one; name it as "
            "local-dir:FOLDER, with a config.json that says num_classes"
        )
    source = study.data.images
    settings = {**source.settings, "classes": number}
    images = spec.Images.model_validate(source.model_dump() | settings)
    return study.model_copy(update={"data": study.data.model_copy(update={"images": images})})


def refitted(study: spec.Study, images: dict[str, str]) -> spec.Study:
    """The study with new heads for teachers of the hub that tell other classes apart than a folder has.

    Raises:
        StudyError: there are no labels to train one on.
    """
    classes = len(classes_in(Path(images["test"])))
    student, *teachers = study.zoo.values()
    if models.classes_of(student) not in (None, classes):
        return study  # refused, or ImageNet's classes by their names, once the images are there
    head = spec.Trained(start=spec.Hub(), phases=[spec.Phase(**REFITTED)])
    others = [
        model.name
        for model in teachers
        if model.weights == spec.Hub() and models.classes_of(model) not in (None, classes)
    ]
    if others and images["source"] == "unlabelled_folder":
        raise StudyError(
            f"--teachers: {others[0]} does not tell the {classes} classes of {images['test']} apart, and "
            "nobody has said the classes of the training images, which a new head is trained on; name others"
        )
    zoo = {
        model.name: model.model_copy(update={"weights": head}) if model.name in others else model
        for model in teachers
    }
    return study.model_copy(update={"zoo": {student.name: student, **zoo}})
