"""Training a model of the zoo, phase after phase: from initial weights or on from others, all of it or its
head.

Each phase is a `Learner` of its own with cross-entropy as its objective, with smoothed labels if the weights
say so. From scratch: AdamW under one cycle
on mirrored and shifted views, then a phase under the optimiser a transfer uses, so that fine-tuning alone
gains nothing afterwards and what a transfer gains is transfer. That is enough for models that are to be
"already trained" in a study small enough to run anywhere. A head alone, on images without views, is trained
on features that are computed once: the same as passing the images through every epoch, in minutes. Left out
on purpose: averaging, everything a leaderboard needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study import distributed, evaluate, objectives, spec, training
from study.images import splits
from study.learner import Learner, restore
from study.models.zoo import Classifier
from study.store.checkpoints import Checkpoint
from study.training import Row
from study.views import Batch, Shown, View
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
        objective = objectives.make(objectives.xe, {"label_smoothing": recipe.label_smoothing})
        for number, phase in enumerate(recipe.phases):
            if state and number < state["phase"]:
                continue
            # The head alone, on the same images every epoch: what it is given is computed once.
            once = phase.train == "head" and not phase.transforms and features_suffice(classifier)
            learner = Learner(
                Head(classifier) if once else classifier,
                objective,
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

            shown = workspace.shown(view, split, pool=samples)
            if once and state:  # features are those of what the phases before have made
                restore(learner, state["learner"])
            rows = training.fit(
                learner,
                Features.of(classifier, shown, samples, workspace) if once else shown,
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


# --- a head on features -------------------------------------------------------------------------


class Head(nn.Module):
    """A classifier, in place, that is given its head's features [batch, dim] in place of pixels."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network, self.heads = classifier.network, [classifier.head]
        self.register_buffer("mean", classifier.mean, persistent=False)  # says where it is

    def forward(self, features: Tensor) -> Tensor:
        (head,) = self.heads
        return head(features)


class Features:
    """A loader of features in place of images, as `views.Shown`, the same in every epoch.

    Args:
        features: [samples, dim], on the CPU.
        labels: int64 [samples].
        samples: int64 [samples], their indices, sorted.
    """

    def __init__(self, features: Tensor, labels: Tensor, samples: NDArray[np.int64]) -> None:
        self.features, self.labels, self.samples = features, labels, samples

    @classmethod
    def of(
        cls, classifier: Classifier, shown: Shown, samples: NDArray[np.int64], workspace: Workspace
    ) -> Features:
        """Those that a classifier's head is given of some samples."""
        device, precision = workspace.device, workspace.precision
        parts = evaluate.stream(classifier, shown, samples, device, precision, epoch=0, features=True)
        labels = torch.from_numpy(workspace.images.labels[samples])
        return cls(torch.cat([features.cpu() for _, features in parts]), labels, samples)

    def epoch(
        self, order: NDArray[np.int64], batch_size: int, device: torch.device, epoch: int = 0
    ) -> Iterator[Batch]:
        """Batches of the samples in `order`."""
        for indices in torch.from_numpy(order).split(batch_size):
            rows = torch.from_numpy(np.searchsorted(self.samples, indices.numpy()))
            parts = (self.features[rows], self.labels[rows], indices)
            yield Batch(*(part.to(device) for part in parts))


def features_suffice(classifier: Classifier) -> bool:
    """Whether a classifier's logits are its one head's of its features: seen on an image of noise."""
    if len(classifier.heads) > 1:
        return False
    training = classifier.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        pixels = torch.randint(256, (1, 3, *classifier.size), dtype=torch.uint8).to(classifier.mean.device)
        logits, features = classifier.eval().with_features(pixels)
        classifier.train(training)
        try:
            return torch.allclose(classifier.head(features), logits, rtol=1e-4, atol=1e-5)
        except RuntimeError:  # a head that is a convolution, or takes tokens
            return False
