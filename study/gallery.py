"""Pictures of knowledge: images that a teacher knows and its student does not, and those gained and lost.

What positive flips are is easier seen than said (section 3 of arXiv 2310.17653 only counts them). Of each
kind some images are drawn by chance, the same ones each time, so that they are a fair sample: not the
surest, and not the most striking. They are kept small, beside the records, so that a report needs no
images.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from study.errors import StudyError
from study.images import batches
from study.images.files import Images
from study.store import records, storage
from study.store.storage import Location

SIDE = 96  # pixels, the longer one of a picture
WHO = ("student_before", "teacher", "student_after")
SAID = ["index", "label", *WHO, *(f"{who}_confidence" for who in WHO)]
ABOUT = [
    *("trial", "status", "student", "teacher", "combine", "method", "seed", "data_sha256"),
    "transfer_delta",
]


def kinds(said: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
    """Which samples are of which kind.

    Args:
        said: `label` and what each of `WHO` predicts, [N] each.

    Returns:
        By kind bool [N]: 'known', 'gained', 'lost', as the table `gallery` has them (`study.store.schemas`).
    """
    before, teacher, after = (said[who] == said["label"] for who in WHO)
    return {"known": teacher & ~before, "gained": ~before & after, "lost": before & ~after}


def drawn(chosen: NDArray[np.bool_], count: int, trial: str) -> NDArray[np.int64]:
    """At most `count` places of `chosen` [N], drawn by chance, the same for a trial each time."""
    places = np.flatnonzero(chosen)
    draw = np.random.default_rng(int(trial[:16], 16))
    return draw.permutation(places)[:count]


def largest(trials: Iterable[Mapping]) -> list[Mapping]:
    """The trial that gained most, and the one that lost most where one did, of one teacher each.

    Args:
        trials: rows of `trials`, at least one.
    """
    worst, *others = sorted(trials, key=lambda row: (row["transfer_delta"], row["trial"]))
    best = others[-1] if others else worst
    return [best, worst] if others and worst["transfer_delta"] < 0 else [best]


def taught(results: Location, study: str) -> list[dict]:
    """The finished trials of one teacher that a study consists of: rows of `trials`, with columns `ABOUT`.

    Raises:
        StudyError: none has finished, a file is damaged, or nothing is known to be gained or lost.
    """
    wanted: set[str] = set()
    with contextlib.suppress(records.MissingError):
        wanted = set(records.read(results, "plans", study, ["trial"])["trial"].to_pylist())
    parts = storage.at_once(
        lambda path: records.read(results, "trials", path.stem, ABOUT),
        storage.files(results / "trials", ".parquet"),
    )
    rows = pa.concat_tables(parts).to_pylist() if parts else []
    found = {
        row["trial"]: row
        for row in rows
        if row["trial"] in wanted and row["status"] == "ok" and row["teacher"] and not row["combine"]
    }
    if not found:
        raise StudyError(
            f"{results}: no trial with one teacher of the study {study} has finished; run "
            "jobs/transfer_sweep.py first"
        )
    if any(row["transfer_delta"] is None for row in found.values()):
        raise StudyError(
            f"{results}: nobody has said the classes of the images that the study {study} was scored on, so "
            "none is known to be gained or lost"
        )
    return list(found.values())


def record(
    results: Location, trial: Mapping, images: Images, names: Sequence[str], count: int
) -> dict[str, int]:
    """Write the pictures of a trial; returns how many samples of each kind it has.

    Args:
        results: the results folder.
        trial: its row.
        images: what it was evaluated on.
        names: of the classes, in words.
        count: pictures of each kind, at most.

    Raises:
        StudyError: its predictions are missing or damaged, or the images are others.
    """
    if trial["data_sha256"] != images.sha256:
        raise StudyError(
            f"{results}: trial {trial['trial']} was evaluated on other images than the study's (data_sha256 "
            f"{trial['data_sha256'][:12]}, not {images.sha256[:12]}); give the study it was run with"
        )
    table = records.of_trial(results, "predictions", trial["trial"], SAID)
    said = {name: pc.fill_null(table[name], -1).to_numpy() for name in SAID}
    columns: dict[str, list] = {"kind": [], "of": [], "index": [], "picture": [], "label": []}
    columns |= {f"{who}{part}": [] for who in WHO for part in ("", "_confidence")}
    found = kinds(said)
    for kind, chosen in found.items():
        places = drawn(chosen, count, trial["trial"])
        columns["kind"] += [kind] * len(places)
        columns["of"] += [int(chosen.sum())] * len(places)
        columns["index"] += said["index"][places].tolist()
        columns["picture"] += map(small, batches.whole(images, said["index"][places]))
        for name in ("label", *WHO):
            columns[name] += [names[place] for place in said[name][places]]
        for who in WHO:
            columns[f"{who}_confidence"] += said[f"{who}_confidence"][places].tolist()
    records.write(results, "gallery", trial["trial"], columns)
    return {kind: int(chosen.sum()) for kind, chosen in found.items()}


def small(image: Image.Image) -> bytes:
    """An image of PIL's as WebP, its longer side `SIDE` pixels; smaller ones are enlarged by whole pixels."""
    longer = max(image.size)
    if longer > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    elif longer <= SIDE // 2:
        factor = SIDE // longer
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "WebP", quality=80)
    return stream.getvalue()
