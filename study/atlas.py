"""The atlas of complementary knowledge: each model of a zoo run once, all ordered pairs compared.

After arXiv 2310.17653, section 3: for a teacher and a student, which samples does the teacher get
right and the student wrong? The paper drew 466 pairs among 301 models. Here every model is run once
over a split, through its own preprocessing, and all pairs are then products of matrices
(`study.knowledge`), so that a zoo of M models gives M (M - 1) ordered pairs for M model runs.

Beside right and wrong, pairs are compared by their probabilities, where these are kept: how alike they are
(CAPA), and how good together, the mean of both or an oracle that picks the right one: two ceilings of what a
transfer can reach. How much a model's probabilities vary within a class is measured on the way
(`study.probabilities`), on the transfer set, too, where that is no larger than the split.

The chance level is measured: untrained copies of some models are teachers too. Left out on purpose:
any choice of pairs by how they come out.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study import geometry, knowledge, mistakes, probabilities, scores, spec
from study.errors import StudyError
from study.models import families, smoothing, zoo
from study.models.timm_import import timm
from study.store import digest, records, schemas
from study.store.outputs import Outputs, Store
from study.store.storage import Location
from study.workspace import Workspace

UNTRAINED_SEEDS = (0, 1, 2)
DEVIATION = 0.005  # from the published accuracy: what is more is told
# Pairs whose flips are counted class by class: all, or as many as the paper drew, at random with this seed.
CLASS_PAIRS, CLASS_PAIRS_SEED = 466, 0
# Models² x samples x classes up to which pairs are compared by probabilities, and (half of it) as ensembles.
PRODUCTS, ENSEMBLES = 10**14, 2 * 10**11
BLOCK = 1 << 25  # probabilities that are held at a time


@dataclass(frozen=True)
class ModelRun:
    """What a model run leaves: a row of `models`, columns of `model_predictions` and of other tables, and
    what to tell.
    """

    row: dict
    predictions: dict
    notice: str
    tables: dict[str, dict] = field(default_factory=dict)


# --- which models -------------------------------------------------------------------------------


def select(study: spec.Study, patterns: Sequence[str] | None) -> list[spec.Model]:
    """The models that patterns name: of the study's zoo, or else of timm's pretrained ones.

    Args:
        study: the study.
        patterns: names or shell patterns (`resnet*`), 'all' for every pretrained model of timm; None
            for the study's zoo.

    Returns:
        Models, none twice, in the order of the patterns.

    Raises:
        StudyError: a pattern matches nothing.
    """
    if patterns is None:
        return list(study.zoo.values())
    chosen: dict[str, spec.Model] = {}
    for pattern in patterns:
        names = fnmatch.filter(study.zoo, pattern)
        if names:
            chosen |= {name: study.zoo[name] for name in names}
            continue
        chosen |= {model.name: model for model in pretrained(pattern, "--models", study.zoo)}
    return list(chosen.values())


def pretrained(pattern: str, option: str, known: Mapping[str, spec.Model]) -> list[spec.Model]:
    """The models with pretrained weights of timm's that a pattern names, 'all' for every one.

    Args:
        pattern: a name or shell pattern.
        option: that it was given to.
        known: models of a study, which it does not match either.

    Raises:
        StudyError: it matches nothing.
    """
    names = timm.list_pretrained("" if pattern == "all" else pattern)
    if not names:
        near = mistakes.nearest(pattern, [*known, *timm.list_pretrained()])
        whose = "no model of the study's zoo and none" if known else "no model"
        raise StudyError(f"{option}: '{pattern}' matches {whose} that timm has weights for{near}")
    return [spec.Model(name=name, timm=name, family=families.family_of(name)) for name in names]


def untrained(models: Sequence[spec.Model]) -> list[spec.Model]:
    """Copies of the first model of each family with random weights: teachers that know nothing."""
    first = {model.family: model for model in reversed(models) if model.source != "seed"}
    return [
        model.model_copy(update={"weights": spec.Random(seed=seed), "name": f"{model.name}-untrained-{seed}"})
        for model in first.values()
        for seed in UNTRAINED_SEEDS
    ]


def check_split(study: spec.Study, split: str) -> None:
    """Refuse a split that does not exist or holds nothing.

    Raises:
        StudyError: names the split and those there are.
    """
    if split not in spec.SPLITS:
        known = ", ".join(spec.SPLITS)
        raise StudyError(f"--split: there is no '{split}'{mistakes.nearest(split, spec.SPLITS)} ({known})")
    if getattr(study.data.splits, split, 1) == 0:
        raise StudyError(f"--split: '{split}' holds no images; set data.splits.{split}, or choose another")


def check_models(
    models: Sequence[spec.Model],
    patterns: Sequence[str] | None,
    classes: int,
    chosen: Sequence[int] | None = None,
) -> None:
    """Refuse models that were asked for by name, or are the study's, and tell other classes apart.

    One that a pattern found is not refused here: it is recorded as failed when it is its turn.

    Raises:
        StudyError: names the model and the numbers.
    """
    for model in models:
        if patterns is None or model.name in patterns:
            zoo.check_data_classes(model, classes, chosen)


def id_of(model: spec.Model, data: spec.Data, split: str) -> str:
    """Id of a model on a split: hash of all that can change what it says."""
    content = {
        "results_version": spec.RESULTS_VERSION,
        "model": spec.without(model.model_dump(mode="json")),
        "data": data.made_on(fitted=True),
        "split": split,
    }
    return digest.of_json(content)


# --- a model ------------------------------------------------------------------------------------


def run(
    model: spec.Model,
    workspace: Workspace,
    split: str,
    batch_size: int | None = None,
    published: Mapping[tuple[str, int], float] | None = None,
    places: spec.Geometry | None = None,
) -> ModelRun:
    """Run one model over a split, or look its outputs up.

    Args:
        model: what to run.
        workspace: opened on the study's data.
        split: name of the split.
        batch_size: samples a forward pass at most, halved where memory does not suffice; None:
            `evaluate.BATCH_SIZE`.
        published: ImageNet top-1 by timm name and input size; None where the data are not ImageNet.
        places: what is recorded of where classes lie before the last layer; None: nothing.

    Raises:
        StudyError: its weights cannot be had, it tells other classes apart, or says nothing finite.
    """
    started = time.perf_counter()
    zoo.check_data_classes(model, len(workspace.images.classes), workspace.chosen)
    classifier = workspace.load(model)
    head = geometry.of(classifier)

    def ask(split: str) -> tuple[Outputs, probabilities.Measured]:
        said = workspace.outputs(
            classifier,
            split,
            top_k=workspace.top_k,
            batch_size=batch_size,
            features=bool(places and head),
        )
        return said, _measured(workspace, said, split, head, places)

    said, own = ask(split)
    workspace.check_published(classifier, split, said.predictions)
    samples, labels = workspace.splits[split], workspace.labels(split)
    size = classifier.size[0]
    accuracy = own.columns["accuracy"]
    known = published.get((model.timm, size)) if published and model.source == "hub" else None
    row = {
        **_identity(model, workspace, split),
        **own.columns,
        "status": "ok",
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "weights": classifier.weights,
        "input_size": size,
        "crop_pct": classifier.crop.pct,
        "crop_mode": classifier.crop.mode,
        "interpolation": classifier.interpolation,
        "top5_accuracy": scores.measures(scores.with_truth(said, labels), labels)["top5_accuracy"],
        "published_accuracy": known,
        "penultimate": head and head.weight.shape[1],
        "outputs": said.header["key"],
        "batch_size": int(said.header["batch_size"]),
        "seconds": time.perf_counter() - started,
    }
    parts = [own]
    if on_transfer(workspace.splits, split):
        parts.append(ask("transfer")[1])
        row |= probabilities.of_transfer(parts[1]) | {"seconds": time.perf_counter() - started}
    predictions = {
        "index": samples,
        "label": labels,
        "predicted": said.predictions.label,
        "confidence": said.predictions.confidence,
    }
    tables = probabilities.joined(parts)
    notices = [said.replaced]
    if known is not None and abs(accuracy - known) > DEVIATION:
        notices.insert(0, f"accuracy {100 * accuracy:.2f} %, but timm publishes {100 * known:.2f} %")
    if places and "centres" not in tables:
        notices.append(geometry.NONE)
    return ModelRun(row, predictions, "; ".join(filter(None, notices)), tables)


def _measured(
    workspace: Workspace,
    said: Outputs,
    split: str,
    head: geometry.Templates | None,
    places: spec.Geometry | None,
) -> probabilities.Measured:
    """What is recorded of a model's outputs on a split."""
    labels, classes = workspace.labels(split), workspace.images.classes
    found = probabilities.measure(said, labels, len(classes), split)
    if places is None or head is None:
        return found
    if said.logits is not None and not geometry.fits(head, said.features, said.logits):
        return found
    centres, tables = geometry.measure(
        head, said.features, labels, workspace.splits[split], split, places, classes
    )
    tables = found.tables | tables
    if "model_classes" in tables:
        tables["model_classes"] |= geometry.of_classes(centres)
    return probabilities.Measured(found.columns, tables)


def on_transfer(splits: Mapping[str, NDArray[np.int64]], split: str) -> bool:
    """Whether a model that is run on a split is also measured on what a student learns from.

    On the transfer set, where it is not larger than the split: else it would cost more than all the rest.
    """
    return split != "transfer" and 0 < len(splits["transfer"]) <= len(splits[split])


def measure(results: Location, name: str, store: Store) -> Literal["measured", "known", "gone"]:
    """Measure a model that an earlier version has recorded, from its kept outputs: it is not run.

    What is recorded of it stays, columns and tables are added; none of the transfer set, of which the record
    names no outputs.

    Args:
        results: the results folder.
        name: id of a model that finished.
        store: the outputs folder.

    Returns:
        Whether it has been measured, was before, or its outputs are not there any more.

    Raises:
        StudyError: a record is damaged, or the outputs are of other samples.
    """
    (row,) = records.read(results, "models", name).to_pylist()
    if row.get("intra_class_variance") is not None:
        return "known"
    said = store.named(row["outputs"])
    if said is None:
        return "gone"
    asked = records.read(results, "model_predictions", name, ["label", "predicted"])
    labels, predicted = (asked[column].to_numpy() for column in ("label", "predicted"))
    if not np.array_equal(predicted, said.predictions.label):
        path = results / "models" / f"{name}.parquet"
        raise StudyError(
            f"{path}: its outputs are not those of the record; remove it, and run the atlas again"
        )
    measured = probabilities.measure(said, labels, row["classes"], row["split"])
    try:
        about = _trained_with(spec.Model.model_validate_json(row["spec"]))
    except ValueError:  # of another version
        about = {}
    kept = {column: value for column, value in row.items() if column in schemas.TABLES["models"].names}
    records.write_model(results, name, kept | measured.columns | about, **measured.tables)
    return "measured"


def failure(model: spec.Model, workspace: Workspace, split: str, reason: str) -> dict:
    """The row of a model that could not be loaded or run."""
    return {**_identity(model, workspace, split), "status": "failed", "reason": reason}


def _trained_with(model: spec.Model) -> dict:
    """What is known of a model's label smoothing."""
    alpha, source = smoothing.of(model)
    return {"label_smoothing": alpha, "label_smoothing_source": source, "twin": model.twin}


def _identity(model: spec.Model, workspace: Workspace, split: str) -> dict:
    return {
        "name": model.name,
        "timm": model.timm,
        "family": model.family,
        "source": model.source,
        "license": ", ".join(sorted(zoo.licenses_of(model))) or None,
        **_trained_with(model),
        "data": workspace.data.images.source,
        "data_sha256": workspace.images.sha256,
        "split": split,
        "samples": len(workspace.splits[split]),
        "classes": len(workspace.images.classes),
        "class_imbalance": workspace.data.splits.imbalance,
        "spec": model.model_dump_json(),
        **workspace.environment(),
    }


# --- all pairs ----------------------------------------------------------------------------------


def read_predictions(
    results: Location, ids: Sequence[str], classes: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """What models said, from the records.

    Args:
        results: the results folder.
        ids: ids of models that finished, on one split.
        classes: number of classes.

    Returns:
        Predicted classes [models, samples] and true classes [samples], in the smallest integers.

    Raises:
        StudyError: a record is missing, damaged, or of other samples than the first one.
    """
    predicted, labels, first = [], None, None
    kind = np.min_scalar_type(-classes)  # signed, as torch and pandas have it too
    for name in ids:
        table = records.read(results, "model_predictions", name, ["index", "label", "predicted"])
        index, label, said = (table[column].to_numpy() for column in table.column_names)
        if first is None:
            first, labels = index, label
        if not np.array_equal(index, first):
            path = results / "model_predictions" / f"{name}.parquet"
            raise StudyError(f"{path}: of other samples than the other models'; run them on one split")
        predicted.append(said.astype(kind))
    return np.stack(predicted), labels.astype(kind)


def read_probabilities(
    results: Location, ids: Sequence[str], store: Store
) -> Callable[[int, int], NDArray[np.float32]] | None:
    """What models say with their probabilities, from the outputs that their records name.

    Args:
        results: the results folder.
        ids: ids of models that finished, on one split.
        store: the outputs folder.

    Returns:
        A function that gives probabilities [models, samples, classes] of the samples from one to another;
        None where some outputs are not there any more, or only the largest classes of them.
    """
    logits: list[Tensor] = []
    for name in ids:
        (key,) = records.read(results, "models", name, ["outputs"])["outputs"].to_pylist()
        said = store.named(key)
        if said is None or said.logits is None:
            return None
        logits.append(said.logits)

    def softmax(begin: int, end: int) -> NDArray[np.float32]:
        return torch.stack([of[begin:end].float() for of in logits]).softmax(dim=2).numpy()

    return softmax


def soft_measures(
    probabilities: Callable[[int, int], NDArray[np.float32]], labels: NDArray[np.integer], classes: int
) -> dict[str, NDArray[np.float64]]:
    """`knowledge.soft_pairs` by the names that `pairs` has; of large zoos without what takes too long."""
    models = len(probabilities(0, 1))
    if models**2 * len(labels) * classes > PRODUCTS:
        return {}
    step = max(1, BLOCK // (models * classes))
    blocks = (
        (probabilities(begin, begin + step), labels[begin : begin + step].astype(np.int64))
        for begin in range(0, len(labels), step)
    )
    few = models**2 / 2 * len(labels) * classes <= ENSEMBLES
    kappa, ensemble = knowledge.soft_pairs(blocks, few)
    return {"kappa_p": kappa} | ({"ensemble_accuracy": ensemble} if few else {})


def compare(
    names: Sequence[str],
    trained: NDArray[np.bool_],
    predicted: NDArray[np.integer],
    labels: NDArray[np.integer],
    classes: int,
    soft: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[dict, dict]:
    """All ordered pairs of a zoo: columns of `pairs` and of `pair_classes`.

    Args:
        names: [models], their names.
        trained: bool [models]; an untrained model is a teacher, but no student.
        predicted: int [models, samples], predicted classes.
        labels: int [samples], true classes.
        classes: number of classes.
        soft: more measures of the pairs, [teacher, student] by name (`soft_measures`).
    """
    correct = predicted == labels
    teachers_by_students = trained[None, :] & ~np.eye(len(names), dtype=bool)
    students, teachers = np.nonzero(teachers_by_students.T)
    rho_pos = knowledge.flip_matrix(correct)
    measures = {
        "rho_pos": rho_pos,
        "rho_neg": rho_pos.T,
        "accuracy_difference": rho_pos - rho_pos.T,
        "agreement": knowledge.agreement_matrix(predicted),
        "error_consistency": knowledge.error_consistency(correct),
        "flip_entropy": knowledge.flip_entropy(correct, labels, classes),
        "union_accuracy": correct.mean(axis=1)[None, :] + rho_pos,
        **(soft or {}),
    }
    named = np.array(names, dtype=object)
    pairs = {
        "student": named[students],
        "teacher": named[teachers],
        "samples": np.full(len(students), len(labels)),
        **{name: matrix[teachers, students] for name, matrix in measures.items()},
    }
    candidates = np.flatnonzero(trained[teachers])
    if len(candidates) > CLASS_PAIRS:
        draw = np.random.default_rng(CLASS_PAIRS_SEED)
        candidates = np.sort(draw.choice(candidates, CLASS_PAIRS, replace=False))
    chosen = np.stack([teachers[candidates], students[candidates]], axis=1)
    flips = knowledge.flips_by_class(correct, labels, classes, chosen)
    pair_classes = {
        "student": np.repeat(named[chosen[:, 1]], classes),
        "teacher": np.repeat(named[chosen[:, 0]], classes),
        "class": np.tile(np.arange(classes), len(chosen)),
        "samples": np.tile(np.bincount(labels, minlength=classes), len(chosen)),
        "flips": flips.ravel(),
    }
    return pairs, pair_classes
