"""Which teacher to take, before any training: ranks teachers for a student, and predicts what they give.

What a teacher knows that its student does not says what there is to gain (arXiv 2310.17653, section 3). So
each pair is described by what both models say of `tune`, images that neither was trained on: by flips, by
how alike they are (CAPA, arXiv 2502.04313), and by how good both are together, as a mean of probabilities or
as the fitted opinion pool (`study.objectives.pool`). A rule gives each teacher a score, of which the highest
is taken: one feature alone (`SCORES`), or all of them, weighed by a ridge regression on pairs whose transfer
deltas are known (`fitted`). docs/recommender.md says how many points each rule loses.

Intervals are conformal (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005): as wide
as what the same regression misses by for students that it has not seen. They hold for students and teachers
like those it learnt from, and for no others.

Left out on purpose: trees, networks and interactions, for which there are too few pairs; and any feature
that takes a training step.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from study import knowledge, spec
from study.errors import StudyError
from study.objectives import pool
from study.store import records, schemas, storage
from study.workspace import Workspace

FEATURES = tuple(name for name, _, _ in schemas.PAIR_FEATURES)
# Rules that need no fit: the higher, the better the teacher.
SCORES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "most_accurate": lambda pairs: pairs["teacher_accuracy"],
    "largest": lambda pairs: pairs["log_parameters"],
    "most_flips": lambda pairs: pairs["rho_pos"],
    "fewest_negative_flips": lambda pairs: -pairs["rho_neg"],
    "least_alike": lambda pairs: -pairs["kappa_p"],
    "ensemble_gain": lambda pairs: pairs["ensemble_gain"],
    "pool_gain": lambda pairs: pairs["pool_gain"],
    "likelihood_gain": lambda pairs: pairs["likelihood_gain"],
}
FITTED = "fitted"
RULES = (*SCORES, FITTED)
AUTO = "most_accurate"
ALPHAS = np.logspace(-1, 4, 11)
CONFIDENCE = 0.95
KNOWN = "known_pairs.csv"  # made by `python -m study.recommend STUDY ...`, once jobs/recommend.py has run
KNOWN_METHODS = ("kl", "xe_kl", "kl_dp", "kl_dp_unsupervised", "xe_kl_op")


@dataclass(frozen=True)
class Asked:
    """A model, its number of parameters, and its logits [samples, classes] on `tune`."""

    model: spec.Model
    parameters: int
    logits: Tensor


def ask(workspace: Workspace, model: spec.Model) -> Asked:
    """What a model says of `tune`, each image shown as it was trained to see it; computed once and kept.

    Raises:
        StudyError: its weights are not there, or say nothing finite.
    """
    classifier = workspace.load(model)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    return Asked(model, parameters, workspace.outputs(classifier, "tune").logits)


def describe(student: Asked, teacher: Asked, labels: NDArray[np.integer]) -> dict[str, float]:
    """The `FEATURES` of a pair."""
    return {
        **of_logits(student.logits, teacher.logits, labels),
        "same_family": float(student.model.family == teacher.model.family),
        "log_parameters": math.log(teacher.parameters),
    }


def of_logits(student: Tensor, teacher: Tensor, labels: NDArray[np.integer]) -> dict[str, float]:
    """Those of the features that follow from what both say.

    Args:
        student: logits [samples, classes] of images that neither was trained on.
        teacher: the same of the teacher.
        labels: int [samples].
    """
    logits = torch.stack([student, teacher]).float()
    labels = np.asarray(labels, np.int64)
    correct = knowledge.correct(logits.argmax(dim=2).numpy(), labels)
    kappa, ensemble = knowledge.soft_pairs([(logits.softmax(dim=2).numpy(), labels)])
    true = logits.log_softmax(dim=2)[:, torch.arange(len(labels)), torch.from_numpy(labels)]
    own = correct[0].mean()
    return {
        "teacher_accuracy": float(correct[1].mean()),
        "accuracy_difference": knowledge.accuracy_difference(*correct),
        "rho_pos": knowledge.rho_pos(*correct),
        "rho_neg": knowledge.rho_neg(*correct),
        "flip_entropy": float(knowledge.flip_entropy(correct, labels, logits.shape[2])[1, 0]),
        "kappa_p": float(kappa[0, 1]),
        "spread": float((true[1] - true[0]).std(correction=0)),
        "ensemble_gain": float(ensemble[0, 1] - own),
        **pool.gains(student, teacher, torch.from_numpy(labels)),
    }


def table(workspace: Workspace, pairs: Iterable[tuple[spec.Model, spec.Model]]) -> pd.DataFrame:
    """The features of pairs (student, teacher), a row each: `student` and `teacher`, their names, and
    `FEATURES`.

    Args:
        workspace: opened on the study's data, whose models are made.
        pairs: of models.

    Raises:
        StudyError: as `ask`.
    """
    asked: dict[str, Asked] = {}
    labels, rows = workspace.labels("tune"), []
    for pair in pairs:
        for model in pair:
            if model.name not in asked:
                asked[model.name] = ask(workspace, model)
        student, teacher = (asked[model.name] for model in pair)
        names = {"student": student.model.name, "teacher": teacher.model.name}
        rows.append({**names, **describe(student, teacher, labels)})
    return pd.DataFrame(rows)


# --- ranking ------------------------------------------------------------------------------------


def rank(
    pairs: pd.DataFrame | Sequence[dict], rule: str = AUTO, known: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Teachers of one student, the best first, with what they are expected to give.

    Args:
        pairs: rows of features (`table`), of one student.
        rule: one of `RULES`.
        known: features of pairs of other students, with their `transfer_delta`: what the rule learns to
            predict from; None: `known_pairs()`.

    Returns:
        The rows, best first, with `score`; and `predicted`, the transfer delta as a fraction, with `low` and
        `high`, its 95 % interval: null where too few students are known.

    Raises:
        ValueError: no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule: there is no '{rule}'; choose one of {', '.join(RULES)}")
    pairs = pd.DataFrame(pairs)
    known = known_pairs() if known is None else known
    if rule == FITTED:
        columns = {name: pairs[name] for name in FEATURES}, {name: known[name] for name in FEATURES}
    else:
        columns = {"score": SCORES[rule](pairs)}, {"score": SCORES[rule](known)}
    own, others = (pd.DataFrame(each).to_numpy(float) for each in columns)
    predicted, half = predict(others, known["transfer_delta"], known["student"], own)
    score = predicted if rule == FITTED else own[:, 0]
    ranked = pairs.assign(score=score, predicted=predicted, low=predicted - half, high=predicted + half)
    return ranked.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def predict(
    features: NDArray[np.floating], deltas: Sequence[float], students: Sequence[str], wanted: NDArray
) -> tuple[NDArray[np.float64], float]:
    """Ridge regression on standardised features, and how far it is off for students that it has not seen.

    The penalty is that which predicts left-out pairs best. The half width is the conformal quantile of what
    the regression misses by for each student when fitted to the others.

    Args:
        features: [known pairs, features]; what is null is taken as the mean.
        deltas: [known pairs].
        students: [known pairs], whose they are.
        wanted: [pairs, features].

    Returns:
        Predictions [pairs], and the half width of their 95 % interval. NaN with fewer than three students
        (two: of the half width alone), and a NaN half width with fewer than 19 pairs.
    """
    deltas, students = np.asarray(deltas, float), np.asarray(students, object).astype(str)
    if len(np.unique(students)) < 2:
        return np.full(len(wanted), np.nan), math.nan
    predicted = ridge(features, deltas).predict(wanted)
    if len(np.unique(students)) < 3:
        return predicted, math.nan
    missed = np.empty(len(deltas))
    for rest, held in LeaveOneGroupOut().split(features, groups=students):
        missed[held] = deltas[held] - ridge(features[rest], deltas[rest]).predict(features[held])
    return predicted, conformal(np.abs(missed))


def ridge(features: NDArray, deltas: NDArray) -> Pipeline:
    """The fitted regression of `predict`."""
    steps = SimpleImputer(keep_empty_features=True), StandardScaler(), RidgeCV(ALPHAS)
    return make_pipeline(*steps).fit(features, deltas)


def conformal(missed: NDArray[np.floating]) -> float:
    """The smallest of distances [n] that one more of them exceeds in 5 % of cases at most; NaN without."""
    place = math.ceil((len(missed) + 1) * CONFIDENCE)
    return float(np.sort(missed)[place - 1]) if place <= len(missed) else math.nan


def known_pairs(method: str = "xe_kl_op") -> pd.DataFrame:
    """Pairs of this laboratory's own studies, with the features and transfer deltas: what is known at first.

    Small models on Fashion-MNIST (studies/demo.yaml and equal_teachers.yaml, docs/recommender.md): of other
    data and sizes the order may hold, the points need not.

    Args:
        method: by which they were transferred; its name in those studies.
    """
    with files("study").joinpath(KNOWN).open() as stream:
        pairs = pd.read_csv(stream)
    return pairs[pairs["method"] == method].reset_index(drop=True)


def check(study: spec.Study) -> None:
    """Refuse, by a `StudyError`, a study without images to look at beforehand."""
    if not study.data.splits.tune:
        raise StudyError(
            "data.splits.tune: teachers are ranked by images that no model was trained on, and it keeps none "
            "aside; say how many (a few hundred suffice)"
        )


def taught(study: spec.Study) -> pd.DataFrame:
    """The transfer deltas that are recorded of a study's pairs, means over seeds: `student`, `teacher`,
    `method`, `transfer_delta`; no rows where nothing is.

    Raises:
        StudyError: a record is damaged.
    """
    planned = {
        trial.id: [trial.student.name, trial.teachers[0].name, trial.name]
        for trial in study.trials()
        if len(trial.teachers) == 1
    }
    parts = storage.at_once(
        lambda path: records.read(study.results, "trials", path.stem, ["trial", "status", "transfer_delta"]),
        storage.files(study.results / "trials", ".parquet"),
    )
    rows = {
        row["trial"]: [*planned[row["trial"]], row["transfer_delta"]]
        for row in itertools.chain(*(part.to_pylist() for part in parts))
        if row["trial"] in planned and row["status"] == "ok"
    }
    found = pd.DataFrame(rows.values(), columns=["student", "teacher", "method", "transfer_delta"])
    return found.groupby(["student", "teacher", "method"], as_index=False, sort=False).mean()


def by_every_rule(pairs: pd.DataFrame, deltas: pd.DataFrame, methods: Iterable[str]) -> pd.DataFrame:
    """Every rule for every student, by what is known of the other students alone.

    Args:
        pairs: features of all pairs of a study (`table`).
        deltas: as `taught` gives them. Where a method has none, `known_pairs` is what is known of it.
        methods: of the study, those that learn from a teacher.

    Returns:
        `student`, `teacher`, `method`, `rule`, `score`, `predicted`, `low`, `high`: one row each, of all
        pairs, whether or not they have a delta; the student's own are never looked at.
    """
    found = []
    for method in methods:
        known = pairs.merge(deltas[deltas["method"] == method], on=["student", "teacher"])
        for student, own in pairs.groupby("student", sort=False):
            others = known[known["student"] != student] if len(known) else known_pairs(method)
            found += [rank(own, rule, others).assign(method=method, rule=rule) for rule in RULES]
    columns = ["student", "teacher", "method", "rule", "score", "predicted", "low", "high"]
    return pd.concat(found, ignore_index=True)[columns]


def gathered(study: spec.Study) -> pd.DataFrame:
    """The rows of `known_pairs.csv` that a study gives: features that are recorded, and transfer deltas.

    Raises:
        StudyError: its features are not recorded, or a record is damaged.
    """
    columns = ["study", "student", "teacher", *FEATURES]
    pairs = records.read(study.results, "features", study.name, columns).to_pandas()
    deltas = taught(study)
    return pairs.merge(deltas[deltas["method"].isin(KNOWN_METHODS)], on=["student", "teacher"]).round(6)


if __name__ == "__main__":
    rows = pd.concat([gathered(spec.load(path)) for path in sys.argv[1:]])
    once = rows.drop_duplicates(["student", "teacher", "method"])  # studies may share models
    once.to_csv(sys.stdout, index=False)
