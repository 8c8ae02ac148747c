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
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from study import evaluate, objectives, spec, views
from study.errors import DivergedError
from study.images.batches import Batches, Resident
from study.models import zoo
from study.workspace import Workspace


def train(
    classifier: zoo.Classifier,
    recipe: spec.Recipe,
    batches: Batches | Resident,
    indices: NDArray[np.int64],
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Train a model in place; it ends in `eval` mode.

    Args:
        classifier: on the device.
        recipe: how to train it.
        batches: loader of its crop.
        indices: int64 [samples], what to train on.
        device: where the model is.
        progress: called with the share done, in [0, 1], after each epoch.

    Raises:
        DivergedError: the loss is not finite.
    """
    main = torch.optim.AdamW(classifier.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(indices) // recipe.batch_size)
    seen = views.View(recipe.seed, 0, recipe.flip, recipe.shift)
    phases = [(recipe, main, OneCycleLR(main, max_lr=recipe.lr, total_steps=steps), seen)]
    if recipe.finish:
        finish = recipe.finish
        plain = torch.optim.SGD(
            classifier.parameters(), lr=finish.lr, momentum=finish.momentum, weight_decay=finish.weight_decay
        )
        steps = finish.epochs * -(-len(indices) // finish.batch_size)
        phases.append((finish, plain, CosineAnnealingLR(plain, T_max=steps), None))

    total = sum(phase.epochs for phase, *_ in phases)
    epoch = 0
    classifier.train()
    for phase, optimizer, schedule, seen in phases:
        for _ in range(phase.epochs):
            order = np.random.default_rng((recipe.seed, epoch)).permutation(indices)
            view = seen and seen._replace(epoch=epoch)
            loss_sum = torch.zeros((), device=device)
            for pixels, labels, index in batches.epoch(order, phase.batch_size, device):
                with evaluate.autocast(device):
                    logits = classifier(views.augment(pixels, index, view))
                loss = objectives.xe(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                loss_sum += loss.detach()
            if not torch.isfinite(loss_sum):
                raise DivergedError(f"the loss is not finite in epoch {epoch}; lower the recipe's lr")
            epoch += 1
            progress(epoch / total)
    classifier.eval()


def build(
    model: spec.Model, workspace: Workspace, progress: Callable[[float], None] = lambda share: None
) -> dict:
    """Train a model and keep it in the zoo folder.

    Args:
        model: with a recipe.
        workspace: opened on the study's data.
        progress: as in `train`.

    Returns:
        Facts as they lie beside the weights: name, parameters, seconds, images, accuracy (top-1
        on the evaluation split, fraction), transfer_accuracy (on the transfer set), and more.

    Raises:
        DivergedError: the loss is not finite.
        StudyError: timm cannot make the model.
    """
    indices = workspace.recipe_indices(model.recipe)
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(model.recipe.seed)
        classifier = zoo.build(model, len(workspace.images.classes)).to(workspace.device)
        batches = workspace.pixels(classifier.crop, "zoo")
        train(classifier, model.recipe, batches, indices, workspace.device, progress)
    seconds = time.perf_counter() - started

    def accuracy(split: str) -> float:
        samples = workspace.splits[split]
        pixels = workspace.pixels(classifier.crop, split)
        said = evaluate.predict(classifier, pixels, samples, workspace.device)
        return float((said.label == workspace.images.labels[samples]).mean())

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
    zoo.save_trained(classifier, facts, zoo.trained_path(model, workspace.data, workspace.folders.zoo))
    return facts
