"""The numbers that arXiv 2310.17653 published, and which of our trials they can stand beside.

The files lie in `analysis/reference/`, whose README.md says which table each is. A trial is comparable where
its student and its teacher are models of one of the paper's two settings, by their timm names, and its data
are that setting's: ImageNet's 1,000 classes, its 50,000 validation images, and all or a tenth of its training
images. Hyper-parameters are not compared: the paper does not state all of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent / "reference"
CLASSES, EVALUATION = 1_000, 50_000
TRAINING = 1_281_167
SHARE = {"full": 1.0, "subset10": 0.1}
NEAR = 0.02  # of the number of transfer samples: a tenth of each class is not exactly a tenth of all
SEQUENCE = ("ResMLP-36", "SWSL-ResNext101", "VOLO-D2")  # of Tables 4 and 9, in the order of Fig. 11
SEVERAL = {  # by method: number and file of the table of several teachers
    "kl_dp": (4, "table4_multi_teacher_kl_dp"),
    "kl": (9, "table9_multi_teacher_kl"),
}
FAMILIES = {"CNN": "cnn", "Trafo": "transformer", "MLP": "mlp"}  # as printed: as in records
TAUGHT = {  # columns of records: as the running text states them
    "positive_flips_taught": "positive-flip samples assigned to the teacher",
    "negative_flips_taught": "negative-flip samples assigned to the teacher",
}
METHODS = {"kl": "kl", "kl_dp_supervised": "kl_dp", "kl_dp_unsupervised": "kl_dp_unsupervised"}
ROUNDED = 0.005  # points: what rounding to two decimals hides of a mean, and as much of its parts


def table(name: str) -> pd.DataFrame:
    """A published table by the name of its file; deltas in percentage points, as printed."""
    return pd.read_csv(FOLDER / f"{name}.csv", comment="#")


def setting(trials: pd.DataFrame) -> pd.Series:
    """The paper's setting that each trial's data are of: 'full', 'subset10', or None."""
    of_imagenet = (trials["classes"] == CLASSES) & (trials["evaluation_samples"] == EVALUATION)
    share = trials["transfer_samples"] / TRAINING
    found = pd.Series([None] * len(trials), index=trials.index, dtype=object)
    for name, wanted in SHARE.items():
        found[of_imagenet & ((share / wanted - 1).abs() <= NEAR)] = name
    return found


def families_as_printed(trials: pd.DataFrame) -> list[str]:
    """What to say beside figures split by family: where these trials' are not those that the paper prints."""
    names = pd.concat([trials["student_timm"], trials["teacher_timm"]]).dropna()
    if not names.astype(str).str.startswith("mixnet").any():
        return []
    return ["MixNets are CNNs here, as they are built; the paper's Table 5 and Fig. 8 print them as MLP."]


def papers_names(trials: pd.DataFrame) -> pd.DataFrame:
    """Of each trial: `setting`, and the paper's names of its `student` and `teacher`; None where not its.

    A timm name counts with the tag of its weights, as records have it.
    """
    names = table("models").set_index(["setting", "role", "timm_name"])["paper_name"].to_dict()
    found = pd.DataFrame({"setting": setting(trials)}, index=trials.index)
    for role in ("student", "teacher"):
        found[role] = [
            names.get((of, role, timm))
            for of, timm in zip(found["setting"], trials[f"{role}_timm"], strict=True)
        ]
    return found


def papers_teachers(several: pd.DataFrame, trials: pd.DataFrame) -> pd.Series:
    """The paper's names of the teachers of each trial of several, a tuple as they taught; None where not its.

    Records name them only as their study does: what they are in timm is what other trials of the study say.

    Args:
        several: the trials, with `names`, a tuple of the teachers' names.
        trials: all, as `results.load` gives them.
    """
    timm = {
        (row["study"], row[role]): row[f"{role}_timm"]
        for role in ("student", "teacher")
        for row in trials[["study", role, f"{role}_timm"]].dropna().drop_duplicates().to_dict("records")
    }
    papers = table("models").query("role == 'teacher'").set_index(["setting", "timm_name"])["paper_name"]
    found = []
    for of, study, names in zip(setting(several), several["study"], several["names"], strict=True):
        known = [papers.get((of, timm.get((study, name)))) for name in names]
        found.append(None if None in known else tuple(known))
    return pd.Series(found, index=several.index, dtype=object)


@cache
def _of_several() -> dict[tuple[str, str, str], float]:
    parts = [table(name).set_index("student").assign(method=method) for method, (_, name) in SEVERAL.items()]
    return {
        (row["method"], student, way): row[way]
        for part in parts
        for student, row in part.iterrows()
        for way in ("single_mean", "single_min", "single_max", "sequential", "parallel", "soup")
        if way in row
    }


def of_several(method: str, student: str | None, teachers: tuple[str, ...] | None, way: str) -> float:
    """The delta of Table 4 or 9, a fraction; NaN where there is none.

    Args:
        method: as this project calls it.
        student: the paper's name, or None.
        teachers: the paper's names as they taught, or None; their order counts in a sequence.
        way: 'single mean', 'single min', 'single max', 'sequential', 'parallel' or 'soup'.
    """
    same = teachers == SEQUENCE if way == "sequential" else sorted(teachers or ()) == sorted(SEQUENCE)
    key = (method, student, way.replace(" ", "_"))
    return _of_several().get(key, float("nan")) / 100 if same else float("nan")


def deltas() -> pd.DataFrame:
    """Table 7: one row a (student, teacher, method) of 'full', with this project's names of the methods."""
    pairs = table("table7_pairs")
    return pairs.assign(method=pairs["method"].map(METHODS))


def by_level() -> pd.DataFrame:
    """Table 7 by weaker and stronger teachers, fractions: `method`, `pairs`, `success_rate`, `mean`, and of
    each of both levels `<level>_pairs`, `<level>_mean` and `<level>_positive`.
    """
    known = table("table7_by_level_derived").rename(columns={"mean_delta": "mean"})
    points = ["mean", "weaker_mean", "stronger_mean"]
    return known.assign(method=known["method"].map(METHODS), **{name: known[name] / 100 for name in points})


def taught() -> dict[str, float]:
    """The shares of the flips that the teacher teaches (section 5.1), fractions by `TAUGHT`."""
    stated = table("text_statistics").set_index("quantity")["value"]
    return {name: float(stated[quantity]) / 100 for name, quantity in TAUGHT.items()}


def means() -> pd.DataFrame:
    """Tables 1, 3 and 8: mean and standard deviation over the four teachers, one row each.

    Columns: `table`, `student`, `method`, `measure` ('transfer_delta', 'delta_rho_pos', 'delta_rho_neg'),
    `mean`, `sd`.
    """
    parts = [
        (1, "table1_full_imagenet", {"kl": "kl", "kl_dp": "kl_dp"}),
        (3, "table3_unsupervised", {"kl_dp_sup": "kl_dp", "kl_dp_unsup": "kl_dp_unsupervised"}),
    ]
    rows = [
        pd.DataFrame(
            {
                "table": number,
                "student": published["student"],
                "method": method,
                "measure": "transfer_delta",
                "mean": published[f"{column}_mean"],
                "sd": published[f"{column}_std"],
            }
        )
        for number, name, columns in parts
        for published in [table(name)]
        for column, method in columns.items()
    ]
    flips = table("table8_flips_kl_dp")
    rows += [
        pd.DataFrame(
            {
                "table": 8,
                "student": flips["student"],
                "method": "kl_dp",
                "measure": measure,
                "mean": flips[f"{measure}_mean"],
                "sd": flips[f"{measure}_std"],
            }
        )
        for measure in ("transfer_delta", "delta_rho_pos", "delta_rho_neg")
    ]
    return pd.concat(rows, ignore_index=True)


def disagreements() -> pd.DataFrame:
    """Where the published means are not those of the published pairs (Table 7), by more than rounding.

    Returns:
        One row a place: `table`, `student`, `method`, the `published` mean over `teachers` (their number),
        the mean of Table 7's `pairs`, and their `difference`, in percentage points, the largest first.
    """
    singles = [
        table(name)[["student", "single_mean"]].assign(table=number, method=method, teachers=len(SEQUENCE))
        for method, (number, name) in SEVERAL.items()
    ]
    rows = means().query("measure == 'transfer_delta'").assign(teachers=deltas()["teacher"].nunique())
    rows = pd.concat([rows, *(part.rename(columns={"single_mean": "mean"}) for part in singles)])
    of_pairs = pd.concat(
        [
            pairs.groupby(["student", "method"])["transfer_delta"]
            .agg(pairs="mean", teachers="size")
            .reset_index()
            for pairs in (deltas(), deltas().query("teacher in @SEQUENCE"))
        ]
    )
    rows = rows.merge(of_pairs, on=["student", "method", "teachers"]).rename(columns={"mean": "published"})
    rows["difference"] = (rows["published"] - rows["pairs"]).round(6)
    apart = rows[rows["difference"].abs() > 2 * ROUNDED]
    apart = apart.iloc[np.argsort(-apart["difference"].abs().to_numpy(), kind="stable")]
    columns = ["table", "student", "method", "teachers", "published", "pairs", "difference"]
    return apart[columns].reset_index(drop=True)
