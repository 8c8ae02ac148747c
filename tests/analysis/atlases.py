"""Atlases for tests: a simulated zoo, compared by the definitions, and written as `records` has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from study.store import records, schemas

FAMILIES = ("cnn", "mlp", "transformer")


def simulate(models: int, samples: int, classes: int, *, untrained: int = 3, seed: int = 0) -> dict:
    """Models that share what is hard, more so within a family and class, and differ in what they know.

    Returns:
        Arrays by name: `names`, `families` and `trained` [K], `predicted` [K, samples] and `labels`.
        The untrained models, last, predict nearly always the same class.
    """
    draw = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    families = np.array(FAMILIES)[np.arange(models) % 3]
    ability = draw.normal(1.6, 0.5, models)
    hard = 1.3 * draw.normal(size=samples) + 0.5 * draw.normal(size=classes)[labels]
    of_family = {family: 0.5 * draw.normal(size=samples) for family in FAMILIES}
    predicted = np.empty((models + untrained, samples), np.int64)
    for model in range(models):
        known = 0.6 * draw.normal(size=classes)[labels] + 0.6 * draw.normal(size=samples)
        right = ability[model] - hard + of_family[families[model]] + known > 0
        wrong = (labels + draw.integers(1, classes, samples)) % classes
        predicted[model] = np.where(right, labels, wrong)
    for model in range(models, models + untrained):
        constant = draw.integers(classes)
        predicted[model] = np.where(draw.random(samples) < 0.9, constant, draw.integers(0, classes, samples))
    return {
        "names": np.array(
            [f"model-{i:04}" for i in range(models)] + [f"random-{i}" for i in range(untrained)]
        ),
        "families": np.append(families, ["cnn"] * untrained),
        "trained": np.arange(models + untrained) < models,
        "predicted": predicted,
        "labels": labels,
    }


def tables(
    zoo: dict, study: str = "demo", *, pairs: int | None = None, embeddings=None
) -> dict[str, pd.DataFrame]:
    """The atlas's tables of a zoo, by the definitions: `models`, `atlas`, `pairs`, `pair_classes`, `classes`.

    Args:
        zoo: as `simulate` gives it.
        study: name of the study.
        pairs: how many pairs, drawn at random, are counted class by class; None for all.
        embeddings: [classes, E]; None for no text model.
    """
    labels, trained, names = zoo["labels"], zoo["trained"], zoo["names"]
    samples, classes, count = len(labels), int(labels.max()) + 1, len(names)
    right = (zoo["predicted"] == labels).astype(float)
    accuracy = right.mean(axis=1)
    models = pd.DataFrame(
        {
            "model": [f"id-{name}" for name in names],
            "study": study,
            "status": "ok",
            "name": names,
            "family": zoo["families"],
            "source": np.where(trained, "hub", "seed"),
            "parameters": 1_000 * (1 + np.arange(count)),
            "split": "test",
            "samples": samples,
            "classes": classes,
            "accuracy": accuracy,
            "published_accuracy": np.where(trained & (np.arange(count) % 2 == 0), accuracy + 0.002, np.nan),
        }
    )
    ordered = ~np.eye(count, dtype=bool) & trained[:, None]
    students, teachers = np.nonzero(ordered)
    flips = (1 - right) @ right.T  # [student, teacher]
    both = accuracy[:, None] * accuracy + np.outer(1 - accuracy, 1 - accuracy)
    same_way = (right @ right.T + (1 - right) @ (1 - right).T) / samples
    by_class = np.stack([(1 - right[:, labels == c]) @ right[:, labels == c].T for c in range(classes)], -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = by_class / flips[..., None]
        entropy = -np.nansum(share * np.log(share), axis=-1) / np.log(classes)
        kappa = (same_way - both) / (1 - both)
    entropy[flips == 0] = np.nan
    agreement = np.stack([(zoo["predicted"] == row).mean(axis=1) for row in zoo["predicted"]])
    of_pairs = {
        "student": pd.Categorical(names[students], categories=names[::-1]),
        "teacher": pd.Categorical(names[teachers], categories=names[::-1]),
        "samples": samples,
        "rho_pos": flips[ordered] / samples,
        "rho_neg": flips.T[ordered] / samples,
        "accuracy_difference": (accuracy[None, :] - accuracy[:, None])[ordered],
        "agreement": agreement[ordered],
        "error_consistency": kappa[ordered],
        "flip_entropy": entropy[ordered],
        "union_accuracy": (accuracy[:, None] + flips / samples)[ordered],
        # Made up: predictions alone are simulated, and no probabilities.
        "ensemble_accuracy": np.maximum.outer(accuracy, accuracy)[ordered] + 0.01,
        "kappa_p": agreement[ordered] / 2,
    }
    chosen = np.flatnonzero(trained[teachers])
    if pairs is not None:
        chosen = np.sort(np.random.default_rng(1).choice(chosen, pairs, replace=False))
    s, t = students[chosen], teachers[chosen]
    pair_classes = pd.DataFrame(
        {
            "student": pd.Categorical(np.repeat(names[s], classes)),
            "teacher": pd.Categorical(np.repeat(names[t], classes)),
            "class": np.tile(np.arange(classes), len(s)),
            "samples": np.tile(np.bincount(labels), len(s)),
            "flips": by_class[s, t].ravel().astype(np.int64),
        }
    )
    names_of_classes = [f"class {c}" for c in range(classes)]
    of_classes = pd.DataFrame({"class": np.arange(classes), "name": names_of_classes})
    if embeddings is not None:
        of_classes = of_classes.assign(
            embedder="minilm: names in a sentence", embedding=list(np.asarray(embeddings, np.float32))
        )
    atlas = pd.DataFrame({"model": models["model"], "study": study})
    return {
        "models": models,
        "atlas": atlas,
        "pairs": pd.DataFrame(of_pairs),
        "pair_classes": pair_classes,
        "classes": of_classes,
    }


def write(results: Path, content: dict[str, pd.DataFrame], study: str = "demo") -> Path:
    """Write the tables with the library's own writer, and so its schemas: a file a model, else a study."""
    records.prepare(results, schemas.ATLAS_TABLES)
    for table, rows in content.items():
        parts = rows.groupby("model") if table == "models" else [(study, rows)]
        for name, part in parts:
            records.write(results, table, name, {column: part[column].to_numpy(object) for column in part})
    return results


def meanings(classes: int, *, groups: int = 10, seed: int = 0) -> np.ndarray:
    """Embeddings [classes, 16] of length 1, in groups of classes that are alike."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(0.5, 1, (groups, 16))
    vectors = centres[np.arange(classes) % groups] + draw.normal(0, 0.5, (classes, 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
