"""Reading the atlas of complementary knowledge: its tables, checked, and its pairs as matrices.

A zoo of M models has M (M - 1) ordered pairs, 3.3 million for 1,800 models. As one matrix a measure,
[student, teacher], every number of the analysis is arithmetic on arrays, and fits into memory.

The tables are those of `docs/records.md`. Left out on purpose: `model_predictions`, all of whose
comparisons are in the tables read here, and whatever a table says twice (rho_neg is rho_pos with
student and teacher exchanged, and Delta_acc their difference).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.results import ResultsError, lacking, read, require_columns

AGAIN = "run jobs/atlas.py again"
COLUMNS = {
    "models": "model status reason name family source parameters split samples classes accuracy "
    "published_accuracy",
    "atlas": "model",
    "pairs": "student teacher samples rho_pos agreement error_consistency flip_entropy",
    "pair_classes": "student teacher class samples flips",
    "classes": "class name embedder embedding",
}
# Of weights; 'seed' is untrained.
SOURCES = {"hub", "file", "seed", "trained", "transferred", "averaged", "grafted"}
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Atlas:
    """A zoo of M trained and U untrained models on N samples of C classes, compared pair by pair.

    Matrices have a row a student and a column a teacher; the diagonal is NaN.

    Attributes:
        study: name of the study.
        models: the trained models that finished, by name; row i is student and teacher i.
        untrained: the untrained teachers, by name.
        failed: the models that failed, by name.
        split: name of the split.
        samples: N.
        classes: C.
        rho_pos: [M, M], multiples of 1/N.
        untrained_rho_pos: [M, U], what the untrained teachers get right and the students wrong.
        agreement: [M, M].
        error_consistency: [M, M]; NaN where chance leaves no room.
        flip_entropy: [M, M]; NaN where there are no positive flips.
        kappa_p, ensemble_accuracy: [M, M]; NaN where it is not known.
        class_pairs: [P, 2], student and teacher of the pairs whose flips are known class by class.
        class_flips: [P, C], their positive flips.
        class_samples: [C], samples of each class; 0 where no pair's flips are known class by class.
        class_names: [C].
        embedder: text model that embedded the classes, and what it read; None without one.
        embeddings: [C, E]; None without a text model.
    """

    study: str
    models: pd.DataFrame
    untrained: pd.DataFrame
    failed: pd.DataFrame
    split: str
    samples: int
    classes: int
    rho_pos: Floats
    untrained_rho_pos: Floats
    agreement: Floats
    error_consistency: Floats
    flip_entropy: Floats
    kappa_p: Floats
    ensemble_accuracy: Floats
    class_pairs: Ints
    class_flips: Ints
    class_samples: Ints
    class_names: list[str]
    embedder: str | None
    embeddings: Floats | None


def load_atlas(results: Path | str, study: str | None = None) -> Atlas:
    """The atlas of a study, every table of it checked.

    Args:
        results: the results folder.
        study: name of the study; None where the folder holds the atlas of one study only.

    Raises:
        ResultsError: no such folder or study, several studies and none named, an unreadable file, a
            missing column, value, model or pair, or fewer than two trained models that finished.
    """
    results = Path(results)
    study = _chosen(results, study)
    models = _models(results, study)
    failed, done = (models[(models["status"] == "ok") == ok].reset_index(drop=True) for ok in (False, True))
    trained = done[done["source"] != "seed"].reset_index(drop=True)
    untrained = done[done["source"] == "seed"].reset_index(drop=True)
    if len(trained) < 2:
        reason = f" (the first failed with: {failed['reason'].iloc[0]})" if len(failed) else ""
        raise ResultsError(
            f"{results / 'models'}: status is 'ok' for {len(trained)} trained models of the atlas "
            f"{study}{reason}; a pair needs two: mend that and {AGAIN}"
        )
    for column in ("samples", "classes", "split"):
        values = done[column].unique()
        if len(values) > 1:
            raise ResultsError(
                f"{results / 'models'}: {column} is {values[0]} for some models of the atlas {study} and "
                f"{values[1]} for others; run them on the same images"
            )
    samples, classes = int(done["samples"].iloc[0]), int(done["classes"].iloc[0])
    if samples < 1 or classes < 2:
        raise ResultsError(
            f"{results / 'models'}: samples is {samples} and classes {classes}, where two classes are the "
            "least that can be told apart; choose other images"
        )
    return Atlas(
        study=study,
        models=trained,
        untrained=untrained,
        failed=failed,
        split=str(done["split"].iloc[0]),
        samples=samples,
        classes=classes,
        **_pairs(results, study, trained, untrained, samples),
        **_pair_classes(results, study, trained, untrained, classes),
        **_classes(results, study, classes),
    )


def _chosen(results: Path, study: str | None) -> str:
    if not results.is_dir():
        raise ResultsError(f"{results}: no such folder; give the results folder of an atlas")
    folder = results / "atlas"
    studies = sorted(path.stem for path in folder.glob("[!.]*.parquet"))
    if not studies:
        raise ResultsError(f"{folder}: no atlas is recorded there; run jobs/atlas.py STUDY first")
    if study is None and len(studies) > 1:
        raise ResultsError(
            f"{folder}: there are the atlases of {', '.join(studies)}; choose one with --study NAME"
        )
    if study is not None and study not in studies:
        raise ResultsError(f"{folder}: no atlas of --study {study}; there is {', '.join(studies)}")
    return study or studies[0]


def _table(results: Path, table: str, study: str) -> tuple[Path, pd.DataFrame]:
    """A study's file of a table, with all the columns it needs."""
    path = results / table / f"{study}.parquet"
    if not path.exists():
        raise ResultsError(f"{path}: no such file; {AGAIN}")
    content = read(path, AGAIN)
    require_columns(content, COLUMNS[table].split(), path, AGAIN)
    return path, content


def _require(values: pd.Series, wrong: pd.Series | Floats, path: Path, what: str) -> None:
    """Refuse a column with wrong values, naming the first row (or record) that has one."""
    if np.any(wrong):
        row = values.index[np.flatnonzero(wrong)[0]]
        raise ResultsError(f"{path}: {values.name} {what} (row {row}); remove the file and {AGAIN}")


def _models(results: Path, study: str) -> pd.DataFrame:
    """The models that the atlas consists of, finished or not, by name."""
    atlas_path, atlas = _table(results, "atlas", study)
    folder = results / "models"
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder; {AGAIN}")
    models = read(folder, AGAIN)
    require_columns(models, COLUMNS["models"].split(), folder, "run jobs/atlas.py into a new folder")
    absent = atlas.loc[~atlas["model"].isin(models["model"]), "model"]
    if len(absent):
        raise ResultsError(
            f"{atlas_path}: {len(absent)} of its {len(atlas)} models are not recorded in {folder} (such as "
            f"{absent.iloc[0]}); {AGAIN} to finish them"
        )
    models = models[models["model"].isin(atlas["model"])].sort_values("name", ignore_index=True)
    done = models[models["status"] == "ok"]
    for rows, columns in [
        (models, ["status", "name"]),
        (done, ["family", "source", "parameters", "split", "samples", "classes", "accuracy"]),
    ]:
        for column in columns:
            broken = rows.loc[lacking(rows[column]), "model"]
            if len(broken):
                raise ResultsError(
                    f"{folder / broken.iloc[0]}.parquet: {column} is empty or not finite; "
                    f"remove the file and {AGAIN}"
                )
    other = done.loc[~done["source"].isin(SOURCES), "source"]
    if len(other):
        raise ResultsError(
            f"{folder}: source is {other.iloc[0]} for some models, so another version made these records; "
            f"{AGAIN}"
        )
    twice = done.loc[done["name"].duplicated(), "name"]
    if len(twice):
        raise ResultsError(
            f"{folder}: name is {twice.iloc[0]} for two models of the atlas {study}; rename one and {AGAIN}"
        )
    return models


def _positions(names: pd.Series, known: list[str], path: Path) -> Ints:
    """Where each name of a column stands among the known ones."""
    column = names.astype("category")
    _require(names, column.isna(), path, "is empty")
    place = {name: position for position, name in enumerate(known)}
    codes = np.array([place.get(name, -1) for name in column.cat.categories], np.int64)
    positions = codes[column.cat.codes.to_numpy()]
    unknown = np.flatnonzero(positions < 0)
    if len(unknown):
        raise ResultsError(
            f"{path}: {names.name} names {names.iloc[unknown[0]]}, which is no model of the atlas that "
            f"finished; {AGAIN}"
        )
    return positions


def _pairs(results: Path, study: str, trained: pd.DataFrame, untrained: pd.DataFrame, samples: int) -> dict:
    """The fields of `Atlas` that come from `pairs`."""
    path, pairs = _table(results, "pairs", study)
    students, teachers = list(trained["name"]), [*trained["name"], *untrained["name"]]
    s, t = _positions(pairs["student"], students, path), _positions(pairs["teacher"], teachers, path)
    for name in ("samples", "rho_pos", "agreement"):
        _require(pairs[name], lacking(pairs[name]), path, "is empty or not finite")
    _require(pairs["samples"], pairs["samples"] != samples, path, f"is not the {samples} of the models")
    for name in ("rho_pos", "agreement"):
        _require(pairs[name], ~pairs[name].between(0, 1), path, "is no fraction")
    for name in {"error_consistency", "flip_entropy", "kappa_p", "ensemble_accuracy"} & {*pairs}:
        _require(pairs[name], np.isinf(pairs[name].astype(float)), path, "is not finite")
    lost = pairs["flip_entropy"].isna() & (pairs["rho_pos"] > 0)
    _require(pairs["flip_entropy"], lost, path, "is empty in spite of flips")

    def matrix(name: str) -> Floats:
        values = np.full((len(students), len(teachers)), np.nan)
        if name in pairs:  # an older version did not have some
            values[s, t] = pairs[name].to_numpy(float)
        return values

    rho_pos = matrix("rho_pos")
    wanted = ~np.eye(*rho_pos.shape, dtype=bool)
    if len(pairs) != wanted.sum() or not np.array_equal(np.isfinite(rho_pos), wanted):
        raise ResultsError(
            f"{path}: its {len(pairs)} rows of student and teacher are not the {wanted.sum()} ordered pairs "
            f"of {len(students)} students and {len(teachers)} teachers, each once; {AGAIN}"
        )
    split = len(students)
    rho_pos, untrained_rho_pos = rho_pos[:, :split], rho_pos[:, split:]
    accuracy = trained["accuracy"].to_numpy(float)
    stale = np.abs((rho_pos - rho_pos.T) - (accuracy[None, :] - accuracy[:, None])) > 0.5 / samples
    if stale.any():
        student, teacher = np.argwhere(stale)[0]
        raise ResultsError(
            f"{path}: rho_pos of student {students[student]} and teacher {students[teacher]} does not fit "
            f"their accuracies in {results / 'models'}; {AGAIN}"
        )
    others = ("agreement", "error_consistency", "flip_entropy", "kappa_p", "ensemble_accuracy")
    return {
        # Exact multiples of 1/N, so that equal is equal.
        "rho_pos": np.rint(rho_pos * samples) / samples,
        "untrained_rho_pos": np.rint(untrained_rho_pos * samples) / samples,
        **{name: matrix(name)[:, :split] for name in others},
    }


def _pair_classes(
    results: Path, study: str, trained: pd.DataFrame, untrained: pd.DataFrame, classes: int
) -> dict:
    """The fields of `Atlas` that come from `pair_classes`: pairs of trained models, by name."""
    path, rows = _table(results, "pair_classes", study)
    names = [*trained["name"], *untrained["name"]]
    s, t = _positions(rows["student"], names, path), _positions(rows["teacher"], names, path)
    for name in ("class", "samples", "flips"):
        _require(rows[name], lacking(rows[name]), path, "is empty or not finite")
    _require(rows["class"], ~rows["class"].between(0, classes - 1), path, "is no class")
    _require(rows["flips"], rows["flips"] < 0, path, "is negative")
    _require(rows["flips"], rows["flips"] > rows["samples"], path, "is more than the class has samples")
    samples = np.zeros(classes, np.int64)
    samples[rows["class"]] = rows["samples"]
    other = rows["samples"].to_numpy() != samples[rows["class"]]
    _require(rows["samples"], other, path, "is another number for another pair")
    found, pair = np.unique(s * len(names) + t, return_inverse=True)
    flips = np.full((len(found), classes), -1, np.int64)
    flips[pair, rows["class"].to_numpy(np.int64)] = rows["flips"].to_numpy(np.int64)
    if len(rows) != flips.size or (flips < 0).any():
        raise ResultsError(
            f"{path}: its {len(rows)} rows of class are not {classes} classes, each once, of "
            f"{len(found)} pairs; {AGAIN}"
        )
    pairs = np.stack(np.divmod(found, len(names)), axis=1)
    of_trained = (pairs < len(trained)).all(axis=1)
    return {
        "class_pairs": pairs[of_trained],
        "class_flips": flips[of_trained],
        "class_samples": samples,
    }


def _classes(results: Path, study: str, classes: int) -> dict:
    """The fields of `Atlas` that come from `classes`: names, and embeddings of length 1."""
    path, rows = _table(results, "classes", study)
    rows = rows.sort_values("class", ignore_index=True)
    if rows["class"].tolist() != list(range(classes)):
        raise ResultsError(f"{path}: class does not number {classes} classes from 0; {AGAIN}")
    given, names = rows["embedding"].notna(), rows["name"].astype(str).tolist()
    if not given.any():
        return {"class_names": names, "embedder": None, "embeddings": None}
    _require(rows["embedding"], ~given, path, "is empty for some classes")
    lengths = {len(vector) for vector in rows["embedding"]}
    embeddings = np.stack(rows["embedding"]).astype(float) if len(lengths) == 1 else np.zeros((1, 1))
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ResultsError(
            f"{path}: embedding does not hold finite vectors of one length and not of zeros; remove the file "
            f"and {AGAIN}"
        )
    embedder = str(rows["embedder"].iloc[0])
    if ":" not in embedder:  # an older version did not record what was read: it was always this
        embedder += ": names, with definitions where there are any, in a sentence"
    return {"class_names": names, "embedder": embedder, "embeddings": embeddings / norms}
