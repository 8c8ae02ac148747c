"""Which of a model's classes a data set's are, where a model tells more apart than the data have, or others.

ImageNet's models tell 1,000 classes apart. Its subsets (Imagenette, ImageNet-A and -R) hold some of them, and
ImageNetV2's folders are called otherwise. A class map gives each class of the data its index among the
model's: of the sets in `class_maps/`, or of one's own (`data.class_map`). Where all folders are called by
WordNet ids of ImageNet-1k, none has to be named.

Left out on purpose: several of a model's classes for one of the data's, and the other way round.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from pathlib import Path

import study.models.timm_import  # noqa: F401 - before timm, so that torchvision loads

# isort: split
from timm.data import ImageNetInfo

from study import mistakes, spec
from study.errors import StudyError

FOLDER = Path(__file__).parent / "class_maps"


@functools.cache
def known() -> list[str]:
    """The names of the class maps there are."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


@functools.cache
def class_map(name: str) -> dict[str, int]:
    """A class map that is here: class -> index among ImageNet-1k's."""
    with (FOLDER / f"{name}.csv").open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row["class"]: int(row["index"]) for row in rows}


def check(data: spec.Data | spec.OtherSet) -> None:
    """Refuse, by a `StudyError`, a class map that is not known."""
    if isinstance(data.class_map, str) and data.class_map not in known():
        near = mistakes.nearest(data.class_map, known())
        raise StudyError(
            f"data.class_map: '{data.class_map}' is unknown; known are {', '.join(known())}, and your own as "
            f"{{class: index, ...}}{near}"
        )


def chosen(data: spec.Data | spec.OtherSet, classes: Sequence[str]) -> tuple[int, ...] | None:
    """The index of each of the data's classes among those of models that tell more apart.

    Args:
        data: the study's.
        classes: the data's, by number.

    Returns:
        One index a class; None where models' classes are the data's as they are.

    Raises:
        StudyError: a class is not in the map, or two have one index.
    """
    check(data)
    known_ids = ImageNetInfo().label_names()
    if data.class_map is None:
        if list(classes) == known_ids or not {*classes} <= {*known_ids}:
            return None
        indices = {name: number for number, name in enumerate(known_ids)}
    else:
        indices = data.class_map if isinstance(data.class_map, dict) else class_map(data.class_map)
    if missing := [name for name in classes if name not in indices]:
        raise StudyError(
            f"data.class_map: does not say which of the models' classes {missing[0]!a} is ({len(missing)} "
            "such); add it, or name the map of these data"
        )
    found = tuple(indices[name] for name in classes)
    if len({*found}) < len(found):
        raise StudyError("data.class_map: two of the data's classes have one index; give each its own")
    return found


def among(
    other: spec.OtherSet, classes: Sequence[str], data: spec.Data, of: Sequence[str]
) -> list[int] | None:
    """The place of each class of another evaluation set among the data's.

    Args:
        other: the set.
        classes: its classes, by number.
        data: the study's.
        of: the data's classes, by number.

    Returns:
        One place a class; None where both have the same.

    Raises:
        StudyError: a class is none of the data's.
    """
    if list(classes) == list(of):
        return None
    if {*classes} <= {*of}:
        return [of.index(name) for name in classes]
    indices, own = chosen(other, classes), chosen(data, of)
    places = {index: place for place, index in enumerate(own or range(len(of)))}
    for number, name in enumerate(classes):
        if indices is None or indices[number] not in places:
            raise StudyError(f"class {name!a} is none of the data's; say in its class_map which it is")
    return [places[index] for index in indices]
