"""The atlas of complementary knowledge: run every model once, compare all ordered pairs.

    python jobs/atlas.py [STUDY] [--models PATTERN ...] [--split NAME] [--dry-run]
        [--push USER/NAME]
    python jobs/atlas.py [STUDY] --measure

A pattern is a name or shell pattern of the study's zoo, else of timm's pretrained models (`resnet*`,
`*.in1k`), or `all` of those; `@FILE` reads patterns from a file. A model is recorded by the worker
that ran it; run the same command again to go on. One that cannot be loaded or run is recorded with
the reason, and does not stop the others. Untrained copies of a few models measure the chance level.
--measure adds what earlier versions did not measure to the records of their models, from kept outputs.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from jobs import _cluster, _console, _engine, _run, push, zoo
from study import atlas, spec, workspace
from study.errors import StudyError
from study.images import class_names, files, labels, splits
from study.images.files import Images
from study.models import published, speeds
from study.models.zoo import classes_of
from study.store import cache, hub, outputs, records, schemas

IMAGENET = 50_000  # images of its validation set
SMALLEST_BATCH = 8  # a worker that dies with this batch dies of something else than memory


def run_model(
    model: spec.Model, study: spec.Study, split: str, batch_size: int, known: Mapping | None
) -> dict[str, Any]:
    """One model in a Ray worker: run it and write its record; a report as `_engine.run` wants it."""
    place = workspace.of(study)
    try:
        record = atlas.run(model, place, split, batch_size, known, study.geometry)
    except Exception as error:  # models of a large zoo fail in every way there is: recorded, not fatal
        reason = _cluster.reason(error)
        record_failure(study, model, split, reason)
        return {"status": "failed", "notice": f"{model.name}: {reason}"}
    name = atlas.id_of(model, study.data, split)
    row = record.row | {"study": study.name}
    records.write_model(study.results, name, row, record.predictions, **record.tables)
    return {"status": "ok", "notice": record.notice and f"{model.name}: {record.notice}"}


def record_failure(study: spec.Study, model: spec.Model, split: str, reason: str) -> None:
    """Record a model that could not be run."""
    row = atlas.failure(model, workspace.of(study), split, reason) | {"study": study.name}
    records.write_failure(study.results, "models", atlas.id_of(model, study.data, split), row)


def run_models(
    study: spec.Study, models: Iterable[spec.Model], split: str, batch_size: int, known: Mapping | None
) -> None:
    """Run models. Needs Ray to be started, the data and the zoo to be there.

    A worker that dies was most likely killed for its memory: its model is run again with half the batch.

    Raises:
        StudyError: a worker could not read the data or write a record.
    """
    left = {model.name: model for model in models}
    while True:
        with _console.Progress("atlas", len(left)) as progress:
            crashed = _engine.run(
                partial(run_model, study=study, split=split, batch_size=batch_size, known=known),
                left,
                resources=study.resources.model_copy(update={"workers": 1}),
                progress=progress,
                fatal="{name}: not recorded ({reason})",
                retries=0,
            )
        left = {name: left[name] for name in crashed}
        if not crashed or batch_size <= SMALLEST_BATCH:
            break
        batch_size //= 2
        _console.console.print(
            f"atlas: {len(left)} models whose worker died are run again, batch size {batch_size}"
        )
    for name, reason in crashed.items():
        record_failure(study, left[name], split, reason)


def measure(study: spec.Study) -> None:
    """Measure the models that are recorded, from their kept outputs, and say of which there are none.

    Raises:
        StudyError: no model is recorded, or a record is damaged.
    """
    status = records.status(study.results, "models")
    done = [name for name, state in status.items() if state == "ok"]
    if not done:
        raise StudyError(f"{study.results}: no model is recorded there; run the atlas without --measure")
    records.prepare(study.results, schemas.ATLAS_TABLES)
    store = outputs.Store(study.folders.outputs, cache.of(study.folders, study.folders.outputs))
    became: dict[str, list[str]] = {"measured": [], "known": [], "gone": []}
    with _console.Progress("atlas", len(done)) as progress:
        for number, name in enumerate(done):
            became[atlas.measure(study.results, name, store)].append(name)
            progress.update(number + 1, f"{number + 1} of {len(done)} models measured")
    measured, known, gone = became.values()
    out = _console.console
    out.print(f"atlas: {len(measured)} models measured from their outputs, {len(known)} were before")
    if measured:
        out.print("atlas: of the transfer set their records name no outputs: transfer_* of these is empty")
    if gone:
        names = [records.read(study.results, "models", name, ["name"])["name"][0] for name in gone[:5]]
        out.print(
            f"atlas: the outputs of {len(gone)} models are not in {study.folders.outputs} any more, such as "
            f"{', '.join(map(str, names))}; remove their files under {study.results / 'models'}, and run "
            "the atlas again"
        )


def check_pairs(models: Iterable[spec.Model], remedy: str) -> None:
    """Refuse, by a `StudyError`, fewer than two models that know something."""
    models = list(models)
    trained = sum(model.source != "seed" for model in models)
    if trained < 2:
        blank = len(models) - trained
        others = f" ({blank} of random weights, which know nothing, are the chance level)" if blank else ""
        raise StudyError(
            f"zoo: a pair needs two models that know something, there is {trained}{others}; {remedy}"
        )


def compare(study: spec.Study, models: dict[str, spec.Model], images: Images) -> int:
    """Compare all ordered pairs of models, by id, that were run; gives the number of pairs.

    Raises:
        StudyError: a record is damaged, or there is no pair.
    """
    check_pairs(models.values(), f"see the column 'reason' of {study.results / 'models'}")
    trained = [model.source != "seed" for model in models.values()]
    classes = len(images.classes)
    predicted, labels = atlas.read_predictions(study.results, list(models), classes)
    names = [model.name for model in models.values()]
    store = outputs.Store(study.folders.outputs, cache.of(study.folders, study.folders.outputs))
    probabilities = atlas.read_probabilities(study.results, list(models), store)
    soft = atlas.soft_measures(probabilities, labels, classes) if probabilities else {}
    if not soft:
        why = "too many pairs" if probabilities else "they are not kept for all classes"
        _console.console.print(f"atlas: pairs are compared without probabilities: {why}")
    pairs, pair_classes = atlas.compare(names, np.array(trained), predicted, labels, classes, soft)
    records.write(study.results, "pair_classes", study.name, pair_classes)
    records.write(study.results, "pairs", study.name, pairs)
    return len(pairs["student"])


def describe_classes(study: spec.Study, images: Images, embedder: str | None, given: str | None) -> None:
    """Record the classes' names and meanings, if need be; a text model that is not to be had is an error.

    Args:
        study: whose results they go into.
        images: whose classes they are.
        embedder: text model, or 'none'; None: what is recorded will do, or else 'minilm', if installed.
        given: what of a class it reads, one of `class_names.GIVEN`; None likewise.
    """
    names = class_names.readable(images.classes)
    columns = {"class": range(len(names)), "name": names}
    asked, model = bool(embedder or given), embedder or "minilm"
    if model != "none":
        read, called = class_names.described(images.classes, given or class_names.GIVEN[0])
        wanted = f"{model}: {called}"
        try:
            before = records.read(study.results, "classes", study.name, ["name", "embedder"]).to_pydict()
        except StudyError:  # not there, or damaged: made again
            before = {"name": [], "embedder": []}
        embedders = {*before["embedder"]} - {None}
        if before["name"] == names and embedders and (not asked or wanted in embedders):
            return
        try:
            columns["embedding"] = list(class_names.embed(read, model))
            columns["embedder"] = [wanted] * len(names)
        except StudyError as error:
            if asked:
                raise
            _console.console.print(f"classes: names are not compared by meaning: {error}")
    records.write(study.results, "classes", study.name, columns)


def print_plan(study: spec.Study, models: dict[str, spec.Model], todo: dict, split: str) -> None:
    """What a run would do."""
    out = _console.console
    sources = Table("weights", "models", "recorded", "to run", box=None)
    for source in dict.fromkeys(model.source for model in models.values()):
        ids = [name for name, model in models.items() if model.source == source]
        left = sum(name in todo for name in ids)
        sources.add_row(source, str(len(ids)), str(len(ids) - left), str(left))
    trained = sum(model.source != "seed" for model in models.values())
    out.print(f"study {study.name}: {trained * (trained - 1):,} ordered pairs, split {split}")
    out.print(sources)
    numbers = Counter(classes_of(model) for model in models.values())
    told = [f"{'the data' if n is None else n} ({count} models)" for n, count in numbers.most_common()]
    out.print(f"classes told apart: {', '.join(told)}")
    zoo.print_missing(study, models.values())
    out.print(f"each model needs {study.resources.cpus} CPUs and {study.resources.gpus:g} GPUs")
    print_hours(study, [models[name] for name in todo], split)
    out.print(f"outputs: {study.folders.outputs}")
    out.print(f"results: {study.results}")


def print_hours(study: spec.Study, todo: list[spec.Model], split: str) -> None:
    """What timm's own measurements say of the time; of ImageNet's size while no images are there."""
    samples, place = IMAGENET, study.folders.data
    if files.is_prepared(study.data.images, place):
        images = files.open_images(study.data.images, place, cache.of(study.folders, place))
        images = files.chosen(images, study.data)
        samples = len(splits.split(images, study.data.splits)[split])
    for card, (seconds, known) in speeds.seconds(todo, samples).items():
        if known:
            _console.console.print(
                f"{samples:,} images on one {card}: {_console.duration(seconds)} of forward passes, of the "
                f"{known:,} models of {len(todo):,} that timm has measured on it"
            )


def check_room(study: spec.Study, images: Images, models: int, split: str) -> None:
    """Refuse, by a `StudyError`, what the disk cannot hold; a store at a URL is not asked for its room."""
    if not isinstance(study.folders.outputs, Path):
        return
    parts = splits.split(images, study.data.splits)
    samples = len(parts[split]) + len(parts["transfer"]) * atlas.on_transfer(parts, split)
    needed = models * outputs.size_of(samples, len(images.classes), study.outputs.top_k)
    free = shutil.disk_usage(study.folders.outputs).free
    if needed > free:
        raise StudyError(
            f"{study.folders.outputs}: the outputs of {models} models take {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free; keep fewer classes of each with 'outputs: {{top_k: 10}}' in "
            "the study, or choose another folder with --outputs"
        )


def print_result(study: spec.Study, models: dict[str, spec.Model], pairs: int) -> None:
    """What is recorded, and what failed."""
    out, failed = _console.console, records.reasons(study.results, "models", models)
    out.print(f"atlas: {len(models) - len(failed)} models, {pairs:,} ordered pairs")
    for table in schemas.ATLAS_TABLES:
        out.print(f"{table}: {study.results / table}")
    if failed:
        out.print(f"{len(failed)} models failed (column 'reason' of {study.results / 'models'}), such as:")
        for name, reason in list(failed.items())[:5]:
            out.print(f"  {models[name].name}: {reason}")


def asked() -> argparse.Namespace:
    """What the command line asks for."""
    parser = _console.parser(__doc__.splitlines()[0], "data", "zoo", "outputs", "results")
    parser.fromfile_prefix_chars = "@"
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="PATTERN",
        help="models to run instead of the study's zoo: names or patterns, of the zoo or else of timm's "
        "pretrained models; 'all' of those; @FILE for one a line",
    )
    parser.add_argument(
        "--split", default="evaluation", metavar="NAME", help="split of the data (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=256,
        metavar="N",
        help="samples a forward pass at most, halved where memory does not suffice (default: %(default)s)",
    )
    parser.add_argument(
        "--embed",
        choices=[*class_names.EMBEDDERS, "none"],
        help="text model that compares the classes' names (default: minilm, where it is installed)",
    )
    parser.add_argument(
        "--embed-given",
        choices=class_names.GIVEN,
        help="what it reads of a class: its name and WordNet's definition inside a sentence (the default), "
        "or the plain name; Fig. 2b of the paper is of '--embed clip --embed-given names'",
    )
    parser.add_argument(
        "--published",
        metavar="CSV",
        help="path or URL of timm's results-imagenet.csv, to compare accuracies on ImageNet with (default: "
        "those of the paper's 40 models)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure models that an earlier version recorded, from their kept outputs, and stop",
    )
    parser.add_argument("--push", metavar="USER/NAME", help="then upload the results, as jobs/push.py does")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        parser.error("--batch-size: must be at least 1")
    return arguments


def job() -> None:
    arguments = asked()
    study, split = _run.load(arguments), arguments.split
    if arguments.measure:
        measure(study)
        return
    atlas.check_split(study, split)
    chosen = atlas.select(study, arguments.models)
    # Its pairs are all of those models', of which none is trained.
    study = study.model_copy(update={"zoo": {model.name: model for model in chosen}, "pairs": []})
    _run.check(study)
    check_pairs(chosen, "name more of them, in the zoo or with --models")
    every = [*chosen, *atlas.untrained(chosen)]
    models = {atlas.id_of(model, study.data, split): model for model in every}
    status = records.status(study.results, "models")
    todo = {name: model for name, model in models.items() if status.get(name) != "ok"}
    if arguments.dry_run:
        print_plan(study, models, todo, split)
        return
    if arguments.push:
        hub.check(arguments.push)

    images = _run.prepare(study, schemas.ATLAS_TABLES)
    _run.check_labelled(study, images, split)
    own = labels.chosen(study.data, images.classes)
    atlas.check_models(chosen, arguments.models, len(images.classes), own)
    check_room(study, images, len(todo), split)
    describe_classes(study, images, arguments.embed, arguments.embed_given)
    known = published.top1(arguments.published) if class_names.is_imagenet(images.classes) else None
    zoo.build(study, study.zoo.values(), "results", "outputs", "zoo", more=bool(todo))
    records.write_plan(study.results, "atlas", study.name, {"model": list(models)})
    if todo:
        parts = splits.split(images, study.data.splits)
        samples = len(parts[split])
        if split != "transfer" and not atlas.on_transfer(parts, split):
            _console.console.print(
                f"atlas: models are not measured on the transfer set, which is larger "
                f"({len(parts['transfer']):,} images; {split} {samples:,})"
            )
        _console.console.print(
            f"atlas: {len(todo)} of {len(models)} models to run on {samples:,} images; outputs in "
            f"{study.folders.outputs}, results in {study.results}"
        )
        started = time.monotonic()
        run_models(study, todo.values(), split, arguments.batch_size, known)
        _console.console.print(f"atlas: took {_console.duration(time.monotonic() - started)}")
    status = records.status(study.results, "models")
    finished = {name: model for name, model in models.items() if status.get(name) == "ok"}
    print_result(study, models, compare(study, finished, images))
    if arguments.push:
        push.push(study.results, arguments.push)


if __name__ == "__main__":
    _console.main(job)
