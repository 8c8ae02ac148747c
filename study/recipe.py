"""Training a model of the zoo, phase after phase: from initial weights or on from others, all of it or its
head.

Each phase is a `Learner` of its own with cross-entropy as its objective. From scratch: AdamW under one cycle
on mirrored and shifted views, then a phase under the optimiser a transfer uses, so that fine-tuning alone
gains nothing afterwards and what a transfer gains is transfer. That is enough for models that are to be
"already trained" in a study small enough to run anywhere; left out on purpose: averaging, everything a
leaderboard needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from study import distributed, objectives, spec, training
from study.images import splits
from study.learner import Learner
from study.models.zoo import Classifier
from study.store.checkpoints import Checkpoint
from study.training import Row
from study.views import View
from study.workspace import Workspace


def train(
    model: spec.Model,
    start: spec.Model,
    workspace: Workspace,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[list[Row]], None] = lambda rows: None,
) -> tuple[Classifier, list[Row]]:
    """Train a model as its weights (`spec.Trained`) say, or go on with it from a checkpoint.

    Args:
        model: what is trained.
        start: the same with the weights to begin with.
        workspace: opened on the study's data.
        checkpoint: where the state after an epoch is kept, and taken up again; the caller removes it.
        progress: called with the history so far after each epoch.

    Returns:
        The model in `eval` mode, and a row of history an epoch (`training.fit`).

    Raises:
        DivergedError: the loss is not finite.
        StudyError: timm cannot make the model.
    """
    recipe: spec.Trained = model.weights
    samples = splits.for_training(workspace.splits, workspace.images.labels, recipe.images, recipe.seed)
    split = "zoo" if len(workspace.splits["zoo"]) else "transfer"
    history: list[Row] = []
    with training.seeded(recipe.seed, workspace.device):
        classifier = workspace.load(start)
        origin = {"data": workspace.images.sha256, "start": classifier.weights}
        state = training.kept_state(checkpoint, origin)
        if state:
            history = state["history"]
        for number, phase in enumerate(recipe.phases):
            if state and number < state["phase"]:
                continue
            learner = Learner(
                classifier,
                objectives.xe,
                objectives.needs(objectives.xe),
                phase,
                phase.lr,
                phase.epochs * distributed.steps(len(samples), phase.batch_size),
                workspace.precision,
                head=phase.epochs if phase.train == "head" else 0,
                compiled=workspace.compiled,
                fused=False,  # its last bit would make every zoo that was trained before another one
            )
            view = View(classifier.crop, phase.transforms, recipe.seed)
            before = history[: len(history) - len(state["rows"])] if state else list(history)

            def after(rows: list[Row], now: dict[str, Any], number=number, before=before) -> None:
                training.keep(checkpoint, origin, {**now, "phase": number, "history": before + rows})
                progress(before + rows)

            rows = training.fit(
                learner,
                workspace.shown(view, split, pool=samples),
                samples,
                epochs=phase.epochs,
                batch_size=phase.batch_size,
                seed=recipe.seed,
                first=len(before),
                state=state,
                after=after,
            )
            history, state = before + rows, None
            classifier.requires_grad_(True)
    return classifier.eval(), history
