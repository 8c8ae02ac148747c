"""Rank augmentations for each teacher before any student is trained, by how its mean probabilities vary.

    python jobs/augmentations.py [STUDY]

Of every method of the study that has a second input which is not picked by students: T. stddev (arXiv
2012.02909), the less of it the better, as docs/augmentation.md says, with how far it can be trusted. What
is measured already is not measured again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.table import Table

from jobs import _console, _engine, _run, zoo
from study import frozen, schemes, spec
from study.images import splits
from study.store import schemas, storage

SHOWN = {
    "T. stddev": "stddev",
    "error": "stddev_error",
    "copies alone": "stddev_augmented",
    "covariance": "covariance",
    "entropy of copies": "entropy_augmented",
}


def run_scheme(scheme: schemes.Scheme, study: spec.Study) -> dict[str, Any]:
    """One teacher under one augmentation, in a Ray worker."""
    schemes.run(study, scheme)
    return {"status": "ok"}


def measure(study: spec.Study, todo: dict[str, schemes.Scheme]) -> None:
    """Measure what is not recorded. Needs Ray to be started, the data and the zoo to be there."""
    with _console.Progress("augmentations", len(todo)) as progress:
        _engine.run(
            partial(run_scheme, study=study),
            todo,
            resources=study.resources.model_copy(update={"workers": 1}),
            progress=progress,
            fatal="augmentations: {name} could not be measured ({reason})",
        )


def show(study: spec.Study, every: list[schemes.Scheme]) -> None:
    """Each teacher's augmentations, the one that varies least first."""
    table = Table("teacher", "method", *SHOWN, box=None)
    last = None
    for scheme, row in schemes.ranked(study, every):
        values = [row[f"teacher_{name}"] for name in SHOWN.values()]
        said = ["" if value is None else f"{value:.3g}" for value in values]
        table.add_row(scheme.teacher if scheme.teacher != last else "", scheme.method, *said)
        last = scheme.teacher
    _console.console.print("augmentations: of each teacher, the one under which it varies least first")
    _console.console.print(table)


def job() -> None:
    arguments = _console.parser(__doc__.splitlines()[0], "data", "zoo", "outputs", "results").parse_args()
    study = _run.load(arguments)
    every = schemes.schemes(study)
    _run.check(study)
    images = _run.prepare(study, schemas.AUGMENTATION_TABLES)
    names = dict.fromkeys(name for scheme in every for name in scheme[:2])
    zoo.build(study, [study.zoo[name] for name in names], "results", "outputs", "zoo", more=True)
    samples = len(splits.split(images, study.data.splits)["transfer"])
    kept = frozen.decide(study, study.trials(), samples, len(images.classes)).transfer
    study = study.model_copy(update={"outputs": study.outputs.model_copy(update={"transfer": kept})})
    done = {path.stem for path in storage.files(study.results / "augmentations", ".parquet")}
    todo = {
        f"{scheme.teacher} under {scheme.method}": scheme
        for scheme in every
        if schemes.id_of(study, scheme) not in done
    }
    if todo:
        measure(study, todo)
    show(study, every)
    _console.console.print(f"augmentations: {study.results / 'augmentations'}")


if __name__ == "__main__":
    _console.main(job)
