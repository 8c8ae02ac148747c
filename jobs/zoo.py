"""Train the models of a study's zoo that have a recipe and are not trained yet, through Ray.

python jobs/zoo.py [STUDY]
"""

from __future__ import annotations

import json

import ray
from rich.table import Table

from jobs import _cluster, _console, data
from study import recipe, spec, workspace
from study.errors import StudyError
from study.models import zoo
from study.store import storage


def check(study: spec.Study) -> None:
    """Refuse what can be refused before anything is computed: names, classes, checkpoints.

    Raises:
        StudyError: says which model, and why.
    """
    zoo.check_names(study)
    zoo.check_classes(study)
    study.trials()  # reads every checkpoint once, for its hash


def missing(study: spec.Study) -> list[spec.Model]:
    """Models with a recipe whose weights are not in the zoo folder, the most work first."""
    models = [
        model
        for model in study.zoo.values()
        if model.recipe and not zoo.trained_path(model, study.data, study.folders.zoo).exists()
    ]
    return sorted(models, key=work, reverse=True)


def work(model: spec.Model) -> float:
    """How long a recipe takes, up to a factor: images seen."""
    epochs = model.recipe.epochs + (model.recipe.finish.epochs if model.recipe.finish else 0)
    return epochs * (model.recipe.images or 1)


def train(model: spec.Model, study: spec.Study) -> dict:
    """Train one model in a Ray worker."""
    return recipe.build(model, workspace.of(study))


def build(study: spec.Study) -> None:
    """Train what is missing, and print the zoo. Needs Ray to be started.

    Raises:
        StudyError: a training failed.
    """
    models = missing(study)
    if models:
        _console.console.print(f"zoo: training {len(models)} models into {study.folders.zoo}")
        _cluster.check(study.resources)
        shared = ray.put(study)
        arguments = {model.name: (model, shared) for model in models}
        left = {model.name: work(model) for model in models}
        with _console.Tracker("zoo", sum(left.values())) as tracker:
            for ended in _cluster.as_completed(train, arguments, study.resources):
                if ended:
                    name, facts = ended
                    if isinstance(facts, ray.exceptions.RayError):
                        raise StudyError(
                            f"zoo.{name}: its training failed ({_cluster.reason(facts)}); correct its recipe"
                        ) from facts
                    del left[name]
                    _console.console.print(
                        f"zoo: {name} trained in {_console.duration(facts['seconds'])}, "
                        f"accuracy {100 * facts['accuracy']:.1f} %"
                    )
                text = f"{len(models) - len(left)} of {len(models)} models trained"
                tracker.update(tracker.total - sum(left.values()), text)
    if any(model.recipe for model in study.zoo.values()):
        _console.console.print(table(study))


def table(study: spec.Study) -> Table:
    """The trained models of the zoo, as their facts say."""
    made = Table("model", "family", "timm", "parameters", "images", "accuracy %", "seconds", box=None)
    for model in study.zoo.values():
        if model.recipe:
            path = zoo.trained_path(model, study.data, study.folders.zoo).with_suffix(".json")
            facts = json.loads(storage.read(path))
            made.add_row(
                model.name,
                model.family,
                model.timm,
                f"{facts['parameters']:,}",
                f"{facts['images']:,}",
                f"{100 * facts['accuracy']:.2f}",
                f"{facts['seconds']:.0f}",
            )
    return made


def job() -> None:
    arguments = _console.parser(__doc__.splitlines()[0], "data", "zoo").parse_args()
    study = spec.load(arguments.study, data=arguments.data, zoo=arguments.zoo).absolute()
    _cluster.check_lasting(study.folders)
    check(study)
    images = data.prepare(study)
    zoo.check_classes(study, len(images.classes))
    if missing(study):
        _cluster.start()
        _cluster.check_seen(study, "zoo")
    build(study)


if __name__ == "__main__":
    _console.main(job)
