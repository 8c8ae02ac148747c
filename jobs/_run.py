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

from jobs import _cluster, _console
from study import spec
from study.images import files, labels, splits
from study.images.files import Images
from study.models import weights, zoo
from study.store import cache, records, storage


def load(arguments: argparse.Namespace) -> spec.Study:
    """The study a command names; one that cannot be read is a `StudyError`."""
    folders = {name: getattr(arguments, name, None) for name in _console.FOLDERS}
    # What a study names of one's own lies beside it, or where the command is run.
    sys.path[:0] = [str(Path(arguments.study).resolve().parent), str(Path.cwd())]
    study = spec.load(arguments.study, **folders).absolute()
    _cluster.check_lasting(study.folders)
    return weights.pinned(study)


def check(study: spec.Study) -> None:
    """Refuse, by a `StudyError`, what can be refused without images."""
    labels.check(study.data)
    zoo.check_names(study)
    zoo.check_classes(study)


def prepare(study: spec.Study, tables: Iterable[str] = ()) -> Images:
    """The study's images; what they rule out is a `StudyError`.

    The results' `tables` are those to be written; where there are any, frozen models' outputs are, too.
    """
    if tables:
        records.prepare(study.results, tables)
        storage.prepare(study.folders.outputs, "outputs")
    images = write_images(study)
    zoo.check_classes(study, len(images.classes), labels.chosen(study.data, images.classes))
    tell_enlarged(study, images)
    weights.check_files(study, len(images.classes))
    return images


def write_images(study: spec.Study) -> Images:
    """The study's images, written if they were not; says what it does."""
    source, place = study.data.images, study.folders.data
    folder = files.folder_of(source, place)
    there = files.is_prepared(source, place)
    if not there:
        _console.console.print(f"data: writing {source.source} to {folder}")
    images = files.prepare(source, place, cache.of(study.folders, place))
    if images.passed_over and not there:
        others = ", ".join(f"{count} {suffix}" for suffix, count in images.passed_over.items())
        _console.console.print(f"data: files that are no images were passed over: {others}")
    files.check(images, study.data.expected)
    sizes = ", ".join(f"{name} {len(part)}" for name, part in splits.split(images, study.data.splits).items())
    _console.console.print(f"data: {folder} ({len(images.classes)} classes; images: {sizes})")
    return images


def tell_enlarged(study: spec.Study, images: Images) -> None:
    """Say which models see images enlarged, because they were written smaller than these need."""
    kept = study.data.images.short_side
    needed = {name: zoo.side_of(model) for name, model in study.zoo.items()}
    few = [name for name, side in needed.items() if side > (kept or side)]
    if few and images.side == kept:  # else the source has no larger ones
        named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        _console.console.print(
            f"data: images are kept with {kept} pixels a side, which {len(few)} models see enlarged "
            f"({named}); with data.images.short_side: {max(needed.values())} none does"
        )


def start(study: spec.Study, *written: str) -> None:
    """Ray, for a study whose images are there; no room, or an unseen folder, is a `StudyError`.

    The folders `written` (fields of `spec.Folders`) are those that nodes write to.
    """
    _cluster.start(study.own_modules())
    _cluster.check(study.resources)
    _cluster.check_seen(study, *written)
