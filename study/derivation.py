"""What a model's weights are made from, and how they are made: in topological order, each once.

A model is trained (`study.recipe`), transferred (`study.transfer`), averaged or grafted from others, which
may be made in turn. What is made lies in the zoo folder by its content (`study.models.weights`), so it is
made once for all studies, and a run that was stopped goes on with what is missing. Two processes that make
the same waste work, and nothing else: the first to finish wins.

`run_and_record` runs a trial of a study, after what it begins with. Left out on purpose: who runs it, and
where.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator

from study import distributed, recipe, spec, transfer
from study.models import weights
from study.models.zoo import Classifier
from study.store import checkpoints, records
from study.store.checkpoints import Checkpoint
from study.training import Row
from study.workspace import Workspace


def needed(model: spec.Model, classes: int | None = None) -> list[spec.Model]:
    """The models that one is made from, nearest first; `classes` is the size of a new head on the hub's
    weights.
    """
    match model.weights:
        case spec.Trained(start=start, seed=seed):
            kwargs = model.kwargs
            if isinstance(start, spec.Hub) and classes is not None:
                kwargs = {"num_classes": classes, **kwargs}
            return [model.model_copy(update={"weights": start or spec.Random(seed=seed), "kwargs": kwargs})]
        case spec.Transferred(student=student, teachers=teachers):
            return [student, *teachers]
        case spec.Averaged(models=models):
            return list(models)
        case spec.Grafted(backbone=backbone, head=head):
            return [backbone, head]
        case _:
            return []


def other_data(models: Iterable[spec.Model]) -> list[spec.Data]:
    """The data that models, and those they are made from, are made on beside the study's."""
    found: dict[str, spec.Data] = {}
    for model in models:
        own = getattr(model.weights, "data", None)
        for data in ([own] if own else []) + other_data(needed(model)):
            found[data.model_dump_json()] = data
    return list(found.values())


def missing(
    models: Iterable[spec.Model], data: spec.Data, folders: spec.Folders, precision: str | None
) -> list[list[spec.Model]]:
    """Models that have to be made, in generations: each needs only what is there, and those before it.

    Args:
        models: what is wanted.
        data: the study's.
        folders: where the zoo lies.
        precision: what it is made in.
    """
    depth: dict[str, int] = {}
    found: dict[str, spec.Model] = {}

    def visit(model: spec.Model) -> int:
        """How many generations come before and with this one; 0 of what is there."""
        if not model.made:
            return 0
        folder = weights.folder_of(model, data, folders.zoo, precision)
        if folder.name not in depth:
            there = weights.is_made(folder)
            depth[folder.name] = 0 if there else 1 + max(map(visit, needed(model)), default=0)
            found[folder.name] = model
        return depth[folder.name]

    for model in models:
        visit(model)
    return [
        [found[name] for name, own in depth.items() if own == generation]
        for generation in range(1, max(depth.values(), default=0) + 1)
    ]


def data_to_make(study: spec.Study) -> list[spec.Data]:
    """The data beside the study's whose images have to be there: what models that are missing are made on."""
    generations = missing(study.zoo.values(), study.data, study.folders, study.budget.precision)
    return other_data(itertools.chain(*generations))


def make(
    model: spec.Model,
    workspace: Workspace,
    every: float = 60,
    progress: Callable[[int, int], None] = lambda done, epochs: None,
) -> dict:
    """Make a model's weights, after those they are made from, unless they are there; gives the facts.

    Args:
        model: with weights that are made.
        workspace: opened on the study's data.
        every: seconds from one kept state of its training to the next, at least.
        progress: called after each epoch with how many are done, and how many there are.

    Raises:
        as `recipe.train` and `transfer.run` do.
    """
    folder = workspace.folder_of(model)
    if distributed.from_the_first(lambda: weights.is_made(folder)):
        return weights.facts(folder)
    workspace = workspace.made_on(model)
    for other in needed(model):
        if other.made:
            make(other, workspace, every, progress)
    checkpoint = Checkpoint(workspace.folders.zoo / "checkpoints" / f"{folder.name}.pt", folder.name, every)
    started = time.perf_counter()
    match model.weights:
        case spec.Trained(phases=phases):
            epochs = sum(phase.epochs for phase in phases)
            (start,) = needed(model, len(workspace.images.classes))
            made, history = recipe.train(
                model, start, workspace, checkpoint, lambda rows: progress(len(rows), epochs)
            )
        case spec.Transferred() as derivation:
            made, history = _transferred(derivation, workspace, checkpoint, every)
        case spec.Averaged(models=models):
            made, history = workspace.student(models[0]), []
            made.network.load_state_dict(weights.average([workspace.frozen(one) for one in models]))
        case spec.Grafted(backbone=backbone, head=head):
            made, history = workspace.student(head), []
            seen = workspace.made_on(backbone).frozen(backbone)
            made.network.load_state_dict(weights.grafted(seen, made))
    seconds = time.perf_counter() - started
    distributed.by_the_first(lambda: _save(made, model, workspace, {"seconds": seconds, "history": history}))
    distributed.by_the_first(checkpoint.remove)
    return weights.facts(folder)


def _transferred(
    derivation: spec.Transferred, workspace: Workspace, checkpoint: Checkpoint, every: float
) -> tuple[Classifier | None, list[Row]]:
    """The student of a transfer that is no trial of a study, and its history."""
    kept = {name: getattr(derivation, name) for name in spec.Transfer.model_fields}
    trial = spec.Trial(**kept, study="", data=workspace.data, name=derivation.method.method)
    _make_students(trial, workspace, every)
    outcome = transfer.run(trial, workspace, checkpoint=checkpoint)
    return (None, []) if outcome is None else (outcome.student, list(_rows(outcome.history)))


def _make_students(trial: spec.Trial, workspace: Workspace, every: float) -> None:
    for model in (trial.student, *trial.teachers):
        if model.made:
            make(model, workspace, every)
    for model in transfer.begins_with(transfer.in_order(trial, workspace)):
        make(model, workspace, every)


def _rows(history: dict[str, list]) -> Iterator[Row]:
    for values in zip(*history.values(), strict=True):
        yield dict(zip(history, values, strict=True))


def _save(made: Classifier, model: spec.Model, workspace: Workspace, about: dict) -> None:
    """Keep a model that was made, with the facts of its making."""

    def accuracy(split: str) -> float | None:
        return workspace.accuracy(made, split) if workspace.is_labelled(split) else None

    weights.save(
        made,
        {
            "name": model.name,
            "timm": model.timm,
            "family": model.family,
            "parameters": sum(parameter.numel() for parameter in made.parameters()),
            "accuracy": about.get("accuracy") or accuracy(workspace.evaluated),
            "evaluated_on": workspace.evaluated,
            "transfer_accuracy": accuracy("transfer"),
            "weights": weights.digest_of(made),
            "spec": model.model_dump(mode="json"),
            **about,
        },
        workspace.folder_of(model),
    )


def run_and_record(
    trial: spec.Trial,
    workspace: Workspace,
    study: spec.Study,
    progress: Callable[[dict[str, list]], None] = lambda history: None,
) -> None:
    """Run a trial of a study, or go on with it from its checkpoint, and write its record.

    The students it begins with are made first, where they are not there. Its own is kept before the record
    says so, where the trial says it is to be.

    Raises:
        as `transfer.run` does; StorageError: the record could not be written for longer than one waits.
    """
    _make_students(trial, workspace, study.resources.checkpoint_seconds)
    checkpoint = checkpoints.of(study, trial)
    outcome = transfer.run(trial, workspace, progress, checkpoint)
    if outcome is None:
        return
    if outcome.row.get("kept"):
        resolved = transfer.in_order(trial, workspace).result
        about = {
            "trial": trial.id,
            "seconds": outcome.row["seconds"],
            "history": list(_rows(outcome.history)),
            "accuracy": outcome.row.get("student_accuracy_after"),
        }
        _save(outcome.student, resolved, workspace, about)
    tables = (outcome.predictions, outcome.history, outcome.evaluations)
    records.write_trial(study.results, trial.id, outcome.row, *tables, **outcome.places)
    checkpoint.remove()


def is_recorded(trial: spec.Trial, study: spec.Study, status: str | None) -> bool:
    """Whether nothing is left to do for a trial: it has a record, and its student is kept if all are to be.

    With `keep: better` it is judged when it is run.
    """
    if status != "ok" or trial.keep != "all" or trial.order != "listed":
        return status == "ok"
    precision = study.budget.precision
    return weights.is_made(weights.folder_of(trial.result, study.data, study.folders.zoo, precision))
