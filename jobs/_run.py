"""What commands do before their own work, in one order, so that a mistake is told before time is spent on it.

1. `load`: the study with the folders of the command line, as paths that mean the same everywhere.
2. `check`: what needs nothing but the study and its files of weights. A dry run ends after it.
3. `prepare`: the folders that are written, the images, and what needs to know these.
4. `start`: Ray, and what needs to know its nodes.

What a command has to check beside what all do follows steps 2 and 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jobs import _cluster, _console
from study import derivation, geometry, spec
from study.errors import StudyError
from study.images import files, labels, splits
from study.images.files import Images
from study.images.sources import UNKNOWN
from study.models import weights, zoo
from study.store import cache, records, schemas, storage
from study.transforms import Mix


def load(arguments: argparse.Namespace) -> spec.Study:
    """The study a command names; one that cannot be read is a `StudyError`."""
    folders = {name: getattr(arguments, name, None) for name in _console.FOLDERS}
    # What a study names of one's own lies beside it, or where the command is run.
    sys.path[:0] = [str(Path(arguments.study).resolve().parent), str(Path.cwd())]
    return ready(spec.load(arguments.study, **folders))


def ready(study: spec.Study) -> spec.Study:
    """A study with folders that mean the same everywhere, and with the contents of its weights."""
    study = study.absolute()
    _cluster.check_lasting(study.folders)
    return zoo.sized(weights.pinned(study))


def check(study: spec.Study) -> None:
    """Refuse, by a `StudyError`, what can be refused without images."""
    for data in (study.data, *study.data.also.values()):
        labels.check(data)
    zoo.check_names(study)
    zoo.check_classes(study)


def prepare(study: spec.Study, tables: Iterable[str] = ()) -> Images:
    """The study's images; what they rule out is a `StudyError`.

    The results' `tables` are those to be written; where there are any, frozen models' outputs are, too.
    """
    if tables:
        records.prepare(study.results, [*tables, *(schemas.GEOMETRY_TABLES if study.geometry else ())])
        storage.prepare(study.folders.outputs, "outputs")
    images = write_images(study)
    zoo.check_classes(study, len(images.classes), labels.chosen(study.data, images.classes))
    check_others(study, images)
    check_unlabelled(study, images)
    if study.geometry:
        geometry.classes_of(study.geometry, images.classes)
        tell_without_geometry(study, len(images.classes))
    tell_enlarged(study, images)
    weights.check_files(study, len(images.classes))
    return images


def check_unlabelled(study: spec.Study, images: Images) -> None:
    """Refuse, by a `StudyError`, what reads classes of images where nobody has said them.

    They are those of the transfer set, or all there are (`splits.split`).
    """
    if not (images.labels == UNKNOWN).any():
        return
    what = "and nobody has said the classes of the images to learn from"
    for name, method in study.methods.items():
        if method.reads_transfer_labels or method.augmentation:
            raise StudyError(f"methods.{name}: reads labels, {what}; take one such as kl_dp_unsupervised")
    for name, model in study.zoo.items():
        if model.source == "trained" and model.weights.data is None:
            raise StudyError(f"zoo.{name}: is trained on labels, {what}; name weights that are ready")
    if any(isinstance(one, Mix) for one in study.budget.transforms):
        raise StudyError(f"budget.transforms: mix classes, {what}; take none that does")
    if study.watch and study.watch.split == "transfer":
        raise StudyError(f"watch.split: watches errors, {what}; watch 'evaluation'")
    if images.labelled:
        return
    what = "and nobody has said the class of any image"
    for made in study.made_aside:
        raise StudyError(f"{made} on labels, {what}; leave it out")
    asked = {
        "watch": study.watch,
        "geometry": study.geometry,
        "search": study.search,
        "keep": study.keep == "better",
        "several.order": any({*several.order} != {"listed"} for several in study.several),
    }
    for field in filter(asked.get, asked):
        raise StudyError(f"{field}: needs labels, {what}; leave it out")


def check_labelled(study: spec.Study, images: Images, split: str) -> None:
    """Refuse, by a `StudyError`, a split without images, or in which nobody has said the classes."""
    labels = images.labels[splits.split(images, study.data.splits)[split]]
    if not len(labels):
        raise StudyError(
            f"data.splits: there are no images in '{split}'; say how many, or take another split"
        )
    if (labels == UNKNOWN).any():
        raise StudyError(
            f"data.images: nobody has said the classes of the images in '{split}', and this counts who is "
            "right; take images whose classes are known"
        )


def write_images(study: spec.Study) -> Images:
    """The study's images, and those of other sets, written if they were not; says what it does.

    Those that models of the zoo are made on are written only where such a model is missing.
    """
    images = files.chosen(_written(study, study.data.images), study.data)
    files.check(images, study.data.expected)
    parts = splits.split(images, study.data.splits)
    if not len(parts[study.data.evaluate]):
        raise StudyError(
            f"data.evaluate: there are no images in '{study.data.evaluate}', where students are scored; add "
            "evaluate_rest: true to data.splits, or keep some in splits.tune and say evaluate: tune"
        )
    if study.watch:
        splits.watched(parts, images.labels, study.watch)
    sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items() if len(part) or name != "fit")
    folder = files.folder_of(study.data.images, study.folders.data)
    _console.console.print(f"data: {folder} ({len(images.classes)} classes; images: {sizes})")
    for name, other in study.data.also.items():
        seen = _written(study, other.images)
        count = int(np.diff(seen.subsets["test"])[0])
        _console.console.print(f"data: also {name} ({len(seen.classes)} classes; images: evaluation {count})")
    for data in derivation.data_to_make(study):
        seen = files.chosen(_written(study, data.images), data)
        files.check(seen, data.expected)
        _console.console.print(f"data: for models of the zoo {data.called} ({len(seen.classes)} classes)")
    return images


def _written(study: spec.Study, source: spec.Images) -> Images:
    place = study.folders.data
    there = files.is_prepared(source, place)
    if not there:
        _console.console.print(f"data: writing {source.source} to {files.folder_of(source, place)}")
    images = files.prepare(source, place, cache.of(study.folders, place))
    if images.passed_over and not there:
        others = ", ".join(f"{count} {suffix}" for suffix, count in images.passed_over.items())
        _console.console.print(f"data: files that are no images were passed over: {others}")
    return images


def check_others(study: spec.Study, images: Images) -> None:
    """Refuse, by a `StudyError`, other evaluation sets whose classes are not the data's."""
    for name, other in study.data.also.items():
        seen = files.open_images(
            other.images, study.folders.data, cache.of(study.folders, study.folders.data)
        )
        if seen.classes != images.classes:
            try:
                zoo.check_classes(study, len(seen.classes), labels.chosen(other, seen.classes))
            except StudyError as error:
                raise StudyError(f"data.also.{name}: {error}") from error


def tell_without_geometry(study: spec.Study, classes: int) -> None:
    """Say of which students the geometry that the study asks for is not recorded; the atlas says it of its
    models.
    """
    for name in study.students():
        if geometry.is_without(study.zoo[name], classes):
            _console.console.print(f"zoo.{name}: {geometry.NONE}")


def tell_enlarged(study: spec.Study, images: Images) -> None:
    """Say which models see images enlarged, because they were written smaller than these need."""
    kept = study.data.images.short_side
    needed = {name: zoo.side_of(model) for name, model in study.zoo.items()}
    few = [name for name, side in needed.items() if side > (kept or side)]
    if few and images.side == kept:  # else the source has no larger ones
        named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        _console.console.print(
            f"data: images are kept with {kept} pixels a side, which {len(few)} models see enlarged "
            f"({named}); with data.images.short_side: auto, {max(needed.values())}, none does"
        )


def start(study: spec.Study, *written: str) -> None:
    """Ray, for a study whose images are there; no room, or an unseen folder, is a `StudyError`.

    The folders `written` (fields of `spec.Folders`) are those that nodes write to.
    """
    _cluster.start(study.own_modules())
    _cluster.check(study.resources)
    _cluster.check_seen(study, *written)
