"""The ImageNet top-1 accuracies timm publishes, to hold measured ones against.

A model that loads and runs may still see its pixels wrongly (another crop, interpolation or
normalisation), which costs it a point or ten and shows nowhere else. timm evaluates all its weights on
ImageNet's 50,000 validation images and publishes the table as `results/results-imagenet.csv` of its
repository (https://github.com/huggingface/pytorch-image-models), with one row a model and input size.

`published_imagenet_top1.csv`, shipped beside this file, holds three of its columns for the 40 models of
"Fantastic Gains and Where to Find Them" (arXiv 2310.17653), at the input size the paper used. timm's
numbers move by some thousandths of a point when it evaluates anew. For other models give `top1` the
address of timm's table, or a copy of it.

Left out on purpose: top-5, and timm's tables for ImageNet's other test sets, which have the same form
(`top1` reads those, too).
"""

from __future__ import annotations

import csv
import math
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib import resources
from pathlib import Path

from study import spec
from study.errors import MislabelledError, StudyError
from study.models.timm_import import timm

COLUMNS = ("model", "top1", "img_size")
SECONDS = 20
FAR = 0.1  # under the published accuracy: what is more is no chance, and no other decoder of images


def top1(source: str | None = None) -> dict[tuple[str, int], float]:
    """Published top-1 accuracies.

    Args:
        source: path or http(s) address of a CSV file with at least the columns `model`, `top1` (in
            percent) and `img_size` of timm's results; None for the shipped one.

    Returns:
        (timm's name of the model, side of its input in pixels) -> accuracy, a fraction in [0, 1]. A model
        whose tag is timm's default for its architecture is there under the bare name of the architecture,
        too. Of several rows for one model and size (other crops) the first counts, in timm's the best.

    Raises:
        StudyError: the file is missing, the address cannot be reached, or it is no such CSV.
    """
    name = source or "published_imagenet_top1.csv"
    try:
        accuracies = _parse(_read(source).splitlines())
    except (csv.Error, ValueError) as error:
        raise StudyError(
            f"{name}: not a table of results in timm's format ({error}); "
            "give timm's results/results-imagenet.csv, the raw file"
        ) from error
    bare = {}
    for (model, size), value in accuracies.items():
        architecture, _, tag = model.partition(".")
        if tag and tag == _default_tag(architecture):
            bare[architecture, size] = value
    return bare | accuracies


def check(model: spec.Model, side: int, accuracy: float, table: dict[tuple[str, int], float]) -> None:
    """Refuse a model of the hub that is far under what is published for it.

    Args:
        model: the model.
        side: of its input, in pixels.
        accuracy: what was measured on ImageNet's images.
        table: as `top1` gives it.

    Raises:
        MislabelledError: names both numbers.
    """
    known = table.get((model.timm, side))
    if known is not None and accuracy < known - FAR and isinstance(model.weights, spec.Hub):
        raise MislabelledError(
            f"zoo.{model.name}: {100 * accuracy:.1f} % of these images are right, but timm publishes "
            f"{100 * known:.1f} % for '{model.timm}' on ImageNet; see whether classes and images are "
            "ImageNet's (of other sets data.class_map tells), or say data.as_published: false"
        )


def _parse(lines: list[str]) -> dict[tuple[str, int], float]:
    rows = csv.DictReader(lines)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    accuracies: dict[tuple[str, int], float] = {}
    for row in rows:
        try:
            key, percent = (row["model"], int(row["img_size"])), float(row["top1"])
        except (TypeError, ValueError):
            percent = math.nan
        if not 0 <= percent <= 100:
            raise ValueError(f"line {rows.line_num}: top1 {row['top1']}, img_size {row['img_size']}")
        accuracies.setdefault(key, percent / 100)
    if not accuracies:
        raise ValueError("no rows")
    return accuracies


def _default_tag(architecture: str) -> str | None:
    config = timm.get_pretrained_cfg(architecture)
    return config.tag if config else None


def _read(source: str | None) -> str:
    """The text of the shipped file, of a file, or of what an address answers."""
    if source is None:
        return (resources.files("study.models") / "published_imagenet_top1.csv").read_text(encoding="utf-8")
    try:
        if source.startswith(("http://", "https://")):
            with urllib.request.urlopen(source, timeout=SECONDS) as answer:
                return answer.read().decode()
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("not a text file") from None
    except urllib.error.HTTPError as error:
        raise StudyError(f"{source}: the address answers {error.code} {error.reason}; correct it") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        raise StudyError(
            f"{source}: the published results cannot be read ({reason}); check the path or the network"
        ) from error
