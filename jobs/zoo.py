"""Make the models of a study's zoo whose weights are to be made and are not there yet, through Ray.

python jobs/zoo.py [STUDY]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.table import Table

from jobs import _console, _data_parallel, _engine, _run
from study import derivation, distributed, spec, workspace
from study.errors import StudyError
from study.models import weights

FAILED = "zoo.{name}: its training failed ({reason}); correct its weights in the study"


def missing(study: spec.Study, models: Iterable[spec.Model]) -> list[list[spec.Model]]:
    """Models that are to be made, in generations (`derivation.missing`), in each the most work first."""
    generations = derivation.missing(models, study.data, study.folders, study.budget.precision)
    return [sorted(generation, key=work, reverse=True) for generation in generations]


def print_missing(study: spec.Study, models: Iterable[spec.Model]) -> None:
    """Which of some models are to be made, if any."""
    names = [model.name for generation in missing(study, models) for model in generation]
    if names:
        _console.console.print(f"zoo: to be made: {', '.join(names)}")


def work(model: spec.Model) -> float:
    """How long it takes to make a model, up to a factor: images seen."""
    if not isinstance(model.weights, spec.Trained):
        return 1
    return sum(phase.epochs for phase in model.weights.phases) * (model.weights.images or 1)


def make(model: spec.Model, study: spec.Study) -> dict[str, Any]:
    """Make one model in a Ray worker, or in several that it starts."""
    facts = _data_parallel.run(train, (model, study), study.resources, model.name)
    took, accuracy = _console.duration(facts["seconds"]), percent(facts["accuracy"], 1)
    return {"status": "ok", "notice": f"{model.name} {model.source} in {took}, accuracy {accuracy} %"}


def percent(accuracy: float | None, digits: int) -> str:
    """An accuracy as it is printed; a dash where nobody has said the images' classes."""
    return "–" if accuracy is None else f"{100 * accuracy:.{digits}f}"


def train(model: spec.Model, study: spec.Study) -> dict[str, Any]:
    """Make one model, as one of its workers; its facts."""
    return derivation.make(model, workspace.of(study), study.resources.checkpoint_seconds)


def build(study: spec.Study, models: Iterable[spec.Model], *written: str, more: bool = False) -> None:
    """Make those of a study's models that are missing, and print what they came to; its images are there.

    Ray is started (`_run.start`) if that needs it, or, with `more`, for what comes after this. A training
    that fails, or that the study's workers cannot share, is a `StudyError`.
    """
    wanted = list(models)
    generations = missing(study, wanted)
    distributed.check(study, itertools.chain(*generations))
    if generations or more:
        _run.start(study, *written)
    cost = {model.name: work(model) for generation in generations for model in generation}
    if cost:
        _console.console.print(f"zoo: making {len(cost)} models in {study.folders.zoo}")
        with _console.Progress("zoo", sum(cost.values())) as progress:
            for generation in generations:
                errors = _engine.run(
                    partial(make, study=study),
                    {model.name: model for model in generation},
                    resources=study.resources,
                    progress=progress,
                    work=cost,
                    fatal=FAILED,
                )
                for name, reason in errors.items():  # workers that died each time they were tried
                    raise StudyError(FAILED.format(name=name, reason=reason))
    if any(model.made for model in wanted):
        _console.console.print(table(study, wanted))


def table(study: spec.Study, models: Iterable[spec.Model]) -> Table:
    """Models that were made, as their facts say."""
    made = Table(
        *("model", "family", "timm", "weights", "parameters", "accuracy %", "on", "seconds", "folder"),
        box=None,
    )
    for model in models:
        if model.made:
            folder = weights.folder_of(model, study.data, study.folders.zoo, study.budget.precision)
            facts = weights.facts(folder)
            made.add_row(
                model.name,
                model.family,
                model.timm,
                model.source,
                f"{facts['parameters']:,}",
                percent(facts["accuracy"], 2),
                facts.get("evaluated_on", "evaluation"),
                f"{facts['seconds']:.0f}",
                folder.name,
            )
    return made


def job() -> None:
    study = _run.load(_console.parser(__doc__.splitlines()[0], "data", "zoo").parse_args())
    _run.check(study)
    _run.prepare(study)
    build(study, study.zoo.values(), "zoo")


if __name__ == "__main__":
    _console.main(job)
