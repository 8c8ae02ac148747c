"""Training a zoo's model from scratch, by its recipe.

AdamW under a one-cycle schedule with cross-entropy on mirrored and shifted views, then, where the
recipe has a `finish`, plain cross-entropy without augmentation under the optimiser a transfer uses.
That is enough for models that are to be "already trained" in a study small enough to run anywhere;
left out on purpose: mixup, stronger augmentation, averaging, everything a leaderboard needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from study import evaluate, objectives, spec, views, zoo
from study.data import Batches
from study.errors import DivergedError


def train(
    model: spec.Model,
    classes: int,
    batches: Batches,
    indices: NDArray[np.int64],
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> zoo.Classifier:
    """Train a model from scratch.

    Args:
        model: with a recipe.
        classes: number of classes of the data.
        batches: loader of the whole images (the recipe's models see no crop).
        indices: int64 [samples], what to train on.
        device: where to train.
        progress: called with the share done, in [0, 1], after each epoch.

    Returns:
        The model in `eval` mode, on the device.

    Raises:
        DivergedError: the loss is not finite.
    """
    recipe = model.recipe
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        classifier = zoo.build(model, classes).to(device).train()
        total = recipe.epochs + (recipe.finish.epochs if recipe.finish else 0)
        steps = recipe.epochs * -(-len(indices) // recipe.batch_size)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        schedule = OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps)
        for epoch in range(recipe.epochs):
            _epoch(classifier, optimizer, schedule, batches, indices, device, recipe, epoch)
            progress((epoch + 1) / total)
        if recipe.finish:
            finish = recipe.finish
            steps = finish.epochs * -(-len(indices) // finish.batch_size)
            optimizer = torch.optim.SGD(
                classifier.parameters(),
                lr=finish.lr,
                momentum=finish.momentum,
                weight_decay=finish.weight_decay,
            )
            schedule = CosineAnnealingLR(optimizer, T_max=steps)
            plain = recipe.model_copy(update={"flip": False, "shift": 0, "batch_size": finish.batch_size})
            for epoch in range(recipe.epochs, total):
                _epoch(classifier, optimizer, schedule, batches, indices, device, plain, epoch)
                progress((epoch + 1) / total)
    return classifier.eval()


def _epoch(
    classifier: zoo.Classifier,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    batches: Batches,
    indices: NDArray[np.int64],
    device: torch.device,
    recipe: spec.Recipe,
    epoch: int,
) -> None:
    order = np.random.default_rng((recipe.seed, epoch)).permutation(indices)
    total = torch.zeros((), device=device)
    for pixels, labels, index in batches.epoch(order, recipe.batch_size, device):
        pixels = views.augment(pixels, index, recipe.seed, epoch, recipe.flip, recipe.shift)  # noqa: PLW2901
        with evaluate.autocast(device):
            logits = classifier(pixels)
        loss = objectives.xe(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
    if not torch.isfinite(total):
        raise DivergedError(f"the loss is not finite in epoch {epoch}; lower the recipe's lr")


def build(
    model: spec.Model,
    workspace,
    progress: Callable[[float], None] = lambda share: None,
) -> dict:
    """Train a model and keep it in the zoo folder, unless it is there; return the facts of its training.

    Args:
        model: with a recipe.
        workspace: a `study.workspace.Workspace`.
        progress: as in `train`.

    Returns:
        Facts as they lie beside the weights: name, parameters, seconds, images, accuracy (top-1
        on the evaluation split, fraction), transfer_accuracy (on the transfer set).
    """
    path = zoo.trained_path(model, workspace.data, workspace.zoo)
    indices = workspace.recipe_indices(model.recipe)
    batches = workspace.batches(1.0)
    started = time.perf_counter()
    classifier = train(model, len(workspace.images.classes), batches, indices, workspace.device, progress)
    seconds = time.perf_counter() - started

    def accuracy(split: str) -> float:
        samples = workspace.splits[split]
        logits = evaluate.logits(classifier, batches, samples, workspace.device)
        return float((logits.argmax(1).numpy() == workspace.images.labels[samples]).mean())

    facts = {
        "name": model.name,
        "timm": model.timm,
        "family": model.family,
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "images": len(indices),
        "seconds": seconds,
        "accuracy": accuracy("evaluation"),
        "transfer_accuracy": accuracy("transfer"),
        "weights": zoo.fingerprint(classifier.network),
        "spec": model.model_dump(mode="json"),
    }
    zoo.save_trained(classifier, facts, path)
    return facts
