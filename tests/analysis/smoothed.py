"""Results of studies on label smoothing that never ran, with effects that were planted in them.

`distilled` is a study of students from scratch: four twins, four students, T = 1, 2 and 4, cross-entropy and
smoothed labels of their own. `partitioned` has trained students and KL+DP, `of_models` an atlas alone.
Columns and tables are those of docs/records.md; `write` puts them where a study would have.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from study.store import schemas
from tests.analysis import sweeps

ALPHA = 0.1
TWINS, STUDENTS, CLASSES, SAMPLES = 4, 4, 10, 2000
GAIN = {
    (0.0, 1): 0.0,
    (ALPHA, 1): 0.006,
    (0.0, 2): 0.002,
    (ALPHA, 2): -0.006,
    (0.0, 4): -0.002,
    (ALPHA, 4): -0.02,
}
OWN = {"xe": -0.004, "xe_smooth": 0.009}  # of students without a teacher
GAMMA = {(0.0, 1): 0.02, (0.0, 2): 0.08, (0.0, 4): 0.30, (ALPHA, 1): 0.11, (ALPHA, 2): 0.3, (ALPHA, 4): 0.6}
VARIANCE = {
    (0.0, 1): 0.10,
    (0.0, 2): 0.07,
    (0.0, 4): 0.03,
    (ALPHA, 1): 0.06,
    (ALPHA, 2): 0.03,
    (ALPHA, 4): 0.01,
}
NOISE = 0.0008  # standard deviation of an accuracy


def teachers(kinds=(("hard", 0.0), ("smooth", ALPHA)), twins: int = TWINS) -> pd.DataFrame:
    """Names, α and twins of teachers: 'hard_0', 'smooth_0', ..."""
    rows = [
        {"name": f"{kind}_{k}", "alpha": alpha, "twin": f"twin{k}"}
        for kind, alpha in kinds
        for k in range(twins)
    ]
    return pd.DataFrame(rows)


def _spec(method: dict) -> str:
    return json.dumps({"method": method})


def _known(
    simulated: pd.DataFrame, methods: dict[str, dict], of_teachers: pd.DataFrame, source: str
) -> pd.DataFrame:
    """Trials with what is planted of their methods and teachers."""
    about = of_teachers.set_index("name")
    one = simulated["method"].map({name: method.get("temperature") for name, method in methods.items()})
    settings = {n: json.dumps({k: v for k, v in m.items() if k != "method"}) for n, m in methods.items()}
    return simulated.assign(
        student_source=source,
        teacher_label_smoothing=simulated["teacher"].map(about["alpha"]).astype(float),
        student_label_smoothing=np.nan if source == "seed" else 0.0,
        teacher_twin=simulated["teacher"].map(about["twin"]),
        temperature=one.astype(float),
        student_temperature=one.astype(float),
        settings=simulated["method"].map(settings),
        spec=simulated["method"].map({name: _spec(method) for name, method in methods.items()}),
        search=None,
        class_imbalance=np.nan,
    )


def _models(names: list[str], role: str) -> pd.DataFrame:
    return sweeps.made_up(len(names), role, (0.78, 0.82)).assign(name=names, family="cnn", timm="resnet10t")


METHODS = {
    "xe": {"method": "xe"},
    "xe_smooth": {"method": "xe", "label_smoothing": ALPHA},
    "kl_t1": {"method": "kl", "temperature": 1.0},
    "kl_t2": {"method": "kl", "temperature": 2.0},
    "kl_t4": {"method": "kl", "temperature": 4.0},
}


def distilled(
    study: str = "smoothing", seed: int = 0, gain=GAIN, lonely: bool = True
) -> dict[str, pd.DataFrame]:
    """The tables of a study of students from scratch."""
    draw = np.random.default_rng(seed)
    known = teachers()
    if lonely:
        known = pd.concat([known, pd.DataFrame([{"name": "alone", "alpha": 0.0, "twin": "twin9"}])])
    students = [f"scratch_{k}" for k in range(STUDENTS)]
    effects = dict.fromkeys(METHODS, sweeps.Effect(0.0))
    simulated = sweeps.simulate(
        _models(students, "student"),
        _models([*known["name"]], "teacher"),
        methods=[*METHODS],
        effects=effects,
        samples=SAMPLES,
        classes=CLASSES,
        study=study,
        epochs=3,
    ).trials
    simulated = simulated[~((simulated["method"] == "xe_smooth") & (simulated["teacher"] != "hard_0"))]
    simulated.loc[simulated["method"] == "xe_smooth", ["teacher", "teacher_timm", "teacher_family"]] = None
    simulated["teachers"] = [[name] if isinstance(name, str) else [] for name in simulated["teacher"]]
    trials = _known(simulated.reset_index(drop=True), METHODS, known, "seed")
    level = dict(zip(students, 0.70 + 0.04 * np.arange(STUDENTS), strict=True))
    of_twin = {f"twin{k}": 0.002 * k for k in range(TWINS)} | {"twin9": 0.0}
    cells = [*zip(trials["teacher_label_smoothing"], trials["temperature"], strict=True)]
    effect = [gain[cell] if cell in gain else OWN[m] for cell, m in zip(cells, trials["method"], strict=True)]
    accuracy = trials["student"].map(level) + trials["teacher_twin"].map(of_twin).fillna(0) + np.array(effect)
    accuracy = ((accuracy + draw.normal(0, NOISE, len(trials))) * SAMPLES).round() / SAMPLES
    noise = [draw.normal(0, 0.001, len(trials)) for _ in range(4)]
    soft = trials["teacher_label_smoothing"] > 0
    # A teacher is as accurate as its twin is good, and smoothing makes it a little better.
    its = 0.80 + 2 * trials["teacher_twin"].map(of_twin) + np.where(soft, 0.003, 0) + 0.1 * noise[0]
    trials = trials.assign(
        student_accuracy_after=accuracy,
        teacher_accuracy=its.where(trials["teacher"].notna()).groupby(trials["teacher"]).transform("first"),
        teacher_transfer_accuracy=0.98,
        teacher_off_target=[GAMMA.get(cell, np.nan) for cell in cells],
        teacher_intra_class_variance=[VARIANCE.get(cell, np.nan) for cell in cells],
        teacher_entropy_at_t=np.where(soft, 0.5, 0.1),
        student_intra_class_variance_after=0.1,
        student_calibration_error_after=0.06 - 0.02 * soft + noise[1],
        student_negative_log_likelihood_after=0.6 - 0.02 * soft + noise[2],
    )
    return {
        "trials": trials,
        "history": _history(trials, draw),
        "predictions": _predictions(trials, draw),
        **atlas(study, known, seed),
        "centres": pd.concat(
            [_centres_of_models(known, study), _centres_of_students(trials)], ignore_index=True
        ),
    }


ENTROPY = {0.0: 0.1, ALPHA: 0.5}
KL = {0.0: 0.20, ALPHA: 0.16}  # lower with a smoothed teacher: only its entropy makes the loss higher


def _history(trials: pd.DataFrame, draw) -> pd.DataFrame:
    rows = []
    for trial in trials.itertuples():
        alpha = 0.0 if pd.isna(trial.teacher_label_smoothing) else trial.teacher_label_smoothing
        square = 1.0 if pd.isna(trial.temperature) else trial.temperature**2
        for epoch in range(3):
            error = 1 - trial.student_accuracy_after + 0.1 * (2 - epoch) + draw.normal(0, NOISE)
            rows.append(
                {
                    "trial": trial.trial,
                    "epoch": epoch,
                    "loss": square * (KL[alpha] + 0.1 * (2 - epoch) + draw.normal(0, 0.002)),
                    "teacher_entropy": ENTROPY[alpha] + draw.normal(0, 0.001),
                    "watched_accuracy": 1 - error,
                    "watched_nll": 0.7 + error,
                }
            )
    return pd.DataFrame(rows)


def _predictions(trials: pd.DataFrame, draw) -> pd.DataFrame:
    """Each trial is right on as many samples as its accuracy says, the easiest first but for some."""
    labels = np.arange(SAMPLES) % CLASSES
    hard = draw.normal(size=SAMPLES)
    parts = []
    for trial in trials.itertuples():
        order = np.argsort(hard + draw.normal(0, 0.2, SAMPLES))
        said = labels.copy()
        wrong = order[round(trial.student_accuracy_after * SAMPLES) :]
        said[wrong] = (labels[wrong] + 1) % CLASSES
        parts.append(
            pd.DataFrame(
                {"trial": trial.trial, "index": np.arange(SAMPLES), "label": labels, "student_after": said}
            )
        )
    return pd.concat(parts, ignore_index=True)


# --- models ---------------------------------------------------------------------------------------


def atlas(
    study: str,
    known: pd.DataFrame,
    seed: int = 0,
    *,
    gain: float = 0.003,
    classes: int = CLASSES,
    timm: str = "resnet10t",
    tail: dict[int, float] | None = None,
) -> dict[str, pd.DataFrame]:
    """`models`, `model_classes` and `soft_labels` of an atlas.

    Args:
        study: its name.
        known: as `teachers` makes them.
        seed: of what is drawn.
        gain: of accuracy, by smoothing.
        classes: how many.
        timm: the network.
        tail: by class, what smoothing gains there in place of `gain`.
    """
    draw = np.random.default_rng([seed, 7])
    rows, of_classes, soft_labels = [], [], []
    tail = tail or {}
    for model in known.itertuples():
        soft = model.alpha > 0
        noise = draw.normal(0, 0.0005, 8)
        name = f"{study}/{model.name}"
        by_class = np.array([0.80 + (tail.get(c, gain) if soft else 0) for c in range(classes)])
        accuracy = by_class.mean() + noise[0]
        row = {
            "model": name,
            "study": study,
            "status": "ok",
            "name": model.name,
            "timm": timm,
            "source": "trained",
            "split": "evaluation",
            "samples": SAMPLES,
            "classes": classes,
            "data_sha256": f"data of {classes} classes",
            "label_smoothing": model.alpha,
            "label_smoothing_source": "recipe",
            "twin": model.twin,
            "spec": json.dumps(
                {"name": model.name, "weights": {"phases": [{"epochs": 20}], "seed": model.twin}}
            ),
            "accuracy": accuracy,
            "calibration_error": 0.05 - 0.03 * soft + noise[1],
            "nll": 0.5 - 0.02 * soft + noise[2],
            "intra_class_variance": 0.13 - 0.03 * soft + noise[3],
            "true_class_variance": 0.08 - 0.02 * soft + noise[3],
            "true_class_sd": 0.25 - 0.03 * soft + noise[3],
            "transfer_intra_class_variance": 0.10 - 0.04 * soft + noise[4],
            "spread_ratio": 0.20 - 0.05 * soft + noise[5],
            "transfer_spread_ratio": 0.18 - 0.05 * soft + noise[6],
            "off_target_mass": 0.05 + 0.08 * soft,
            "entropy": 0.1 + 0.4 * soft,
        }
        rows.append(row)
        for split, samples in (
            ("evaluation", [SAMPLES // classes] * classes),
            ("transfer", _tail(classes, bool(tail))),
        ):
            for c in range(classes):
                of_classes.append(
                    {
                        "model": name,
                        "split": split,
                        "class": c,
                        "samples": samples[c],
                        "right": round(by_class[c] * samples[c], 6),
                    }
                )
        soft_labels.append(_soft_labels(name, classes, model.alpha, draw))
    tables = {"models": pd.DataFrame(rows), "model_classes": pd.DataFrame(of_classes)}
    return tables | {"soft_labels": pd.concat(soft_labels, ignore_index=True)}


def _tail(classes: int, tailed: bool) -> list[int]:
    """Images a class: under a tail the first class has most."""
    return [round(300 * 100 ** (-c / (classes - 1))) if tailed else 100 for c in range(classes)]


def _soft_labels(model: str, classes: int, alpha: float, draw) -> pd.DataFrame:
    """A class is confused with its neighbours most; smoothing keeps the order."""
    own, other = (part.ravel() for part in np.meshgrid(range(classes), range(classes), indexing="ij"))
    far = np.minimum((own - other) % classes, (other - own) % classes)
    weight = np.exp(-1.0 * far + 0.02 * draw.normal(size=len(far)) - 0.1 * (own % 2))
    probability = np.where(own == other, 0.9 - alpha, 0.05 * weight + alpha / classes)
    return pd.DataFrame(
        {"id": model, "split": "evaluation", "class": own, "other": other, "probability": probability}
    )


SIMILAR = 4  # unordered pairs of neighbours: round(0.1 * 45)


def _centres(name: str, near: float) -> pd.DataFrame:
    """Both ways of every pair of classes: neighbours at the distance `near`, all others at 2."""
    a, b = (part.ravel() for part in np.meshgrid(range(CLASSES), range(CLASSES), indexing="ij"))
    a, b = a[a != b], b[a != b]
    distance = np.where(np.isin((a - b) % CLASSES, (1, CLASSES - 1)), near, 2.0)
    about = {"id": name, "split": "evaluation", "class": a, "other": b, "distance": distance}
    relative = distance / distance.mean()
    rest = {"separation": distance / 2, "radius": 2.0, "equidistance": 0.1 + 0.01 * (a < b)}
    return pd.DataFrame({**about, "relative_distance": relative, **rest})


NEAR = {0.0: 1.0, ALPHA: 1.4}  # similar classes move apart under smoothing


def _centres_of_models(known: pd.DataFrame, study: str) -> pd.DataFrame:
    parts = [
        _centres(f"{study}/{model.name}", NEAR[model.alpha] + 0.01 * k)
        for k, model in enumerate(known.itertuples())
    ]
    return pd.concat(parts, ignore_index=True)


STUDENTS_NEAR = {
    (0.0, 1): 1.2,
    (0.0, 4): 1.15,
    (0.0, 2): 1.2,
    (ALPHA, 1): 1.4,
    (ALPHA, 2): 1.3,
    (ALPHA, 4): 1.0,
}


def _centres_of_students(trials: pd.DataFrame) -> pd.DataFrame:
    taught = trials[trials["teacher_twin"].notna() & trials["temperature"].notna()]
    parts = []
    for number, trial in enumerate(taught.itertuples()):
        near = STUDENTS_NEAR[(trial.teacher_label_smoothing, trial.temperature)]
        parts.append(_centres(trial.trial, near + 0.002 * (number % 7)))
    return pd.concat(parts, ignore_index=True)


def projections(study: str) -> pd.DataFrame:
    """Of the first twins: three classes on a plane, on two splits."""
    draw, rows = np.random.default_rng(3), []
    for model in ("hard_0", "smooth_0"):
        for split in ("transfer", "evaluation"):
            for c in range(3):
                for index in range(5):
                    x, y = draw.normal(c, 0.2, 2)
                    about = {"id": f"{study}/{model}", "split": split, "plane": 0, "class": c, "index": index}
                    rows.append({**about, "x": x, "y": y})
    return pd.DataFrame(rows)


# --- other studies --------------------------------------------------------------------------------

PARTITIONS = {
    "xe": {"method": "xe"},
    "kl": {"method": "kl", "temperature": 1.0},
    "kl_dp": {"method": "kl_dp", "temperature": 1.0},
    "kl_dp_calibrated": {"method": "kl_dp_calibrated", "temperature": 1.0},
    "kl_dp_unsupervised": {"method": "kl_dp_unsupervised", "temperature": 1.0},
}
SHARE = {"kl_dp": -0.10, "kl_dp_calibrated": -0.01, "kl_dp_unsupervised": -0.2}  # smoothed minus unsmoothed


def partitioned(study: str = "transfer", seed: int = 1) -> dict[str, pd.DataFrame]:
    """The tables of a study of trained students."""
    draw = np.random.default_rng(seed)
    students = [f"trained_{k}" for k in range(3)]
    effects = dict.fromkeys(PARTITIONS, sweeps.Effect(0.2))
    known = teachers()
    simulated = sweeps.simulate(
        _models(students, "student"),
        _models([*known["name"]], "teacher"),
        methods=[*PARTITIONS],
        effects=effects,
        samples=SAMPLES,
        study=study,
    ).trials
    trials = _known(simulated, PARTITIONS, known, "trained")
    soft = trials["teacher_label_smoothing"] > 0
    share = 0.4 + trials["method"].map(SHARE) * soft + draw.normal(0, 0.005, len(trials))
    return {"trials": trials.assign(teacher_share=share.where(trials["method"].isin(SHARE)))}


def of_models(study: str, *, rho: float | None = None, **about) -> dict[str, pd.DataFrame]:
    """The tables of an atlas of twins trained under a tail of ρ."""
    known = teachers()
    tables = atlas(study, known, **about)
    return tables | {"models": tables["models"].assign(class_imbalance=rho)}


def write(folder: Path, tables: dict[str, pd.DataFrame]) -> Path:
    """Put tables where a study would have, each in one file."""
    for name, table in tables.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        columns = schemas.TABLES[name].names if name in schemas.TABLES else []
        full = table.reindex(columns=[*dict.fromkeys([*table, *columns])])
        full.to_parquet(place / "merged-0.parquet")
    return folder
