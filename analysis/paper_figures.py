"""The figures of arXiv 2310.17653 as the paper draws them: tables, and no text.

Where this project draws a figure otherwise (`analysis.knowledge_measures`), the paper's own form is here, so
that its pages and ours can be held side by side. What only the authors' plotting scripts say is marked as
theirs. All start from `measures.over_seeds`: one row a (method, student, teacher), its seeds averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import reference
from analysis.knowledge_measures import mean_with_interval, taught
from analysis.methods import by_order_of_methods
from analysis.results import lacking

BINS, TOP = 8, 0.75  # of Fig. 4b: bins of equal width, and the quantile from which on deltas are averaged
SHARES = (0.02, 0.05, 0.2, 0.5, 1.0)  # of Fig. 5a
CONTRASTIVE = ("cd", "crd")
OF_FIG_6 = ("xe_kl", *CONTRASTIVE, "kl_dp")  # from left to right
SIZE_CLASSES = {  # of Fig. 8c: fewer parameters than this
    "small": 30e6,
    "medium": 60e6,
    "large": 100e6,
    "very large": np.inf,
}
RATES = {  # of Fig. 5a: what their means cannot leave
    "gain_rate": (0.0, np.inf),
    "scripts_curve": (0.0, np.inf),
}


def by_equal_width(units: pd.DataFrame) -> pd.DataFrame:
    """Fig. 4b: the best deltas by how much better the teacher is, in bins of equal width.

    The bins, `BINS` of them, divide the range of all pairs' Delta_acc; each holds its right edge, the first
    its left one too. So the authors' scripts cut it.

    Returns:
        One row a (method, bin that has a pair): `left`, `right` and `middle` of the bin (fractions), its
        `pairs`, and `top`, the mean of its deltas at or above their 75 % quantile (between two deltas it lies
        linearly), of which there are `averaged`.
    """
    units = taught(units)
    edges = np.linspace(units["accuracy_difference"].min(), units["accuracy_difference"].max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, units["accuracy_difference"], "left") - 1, 0, BINS - 1)
    rows = []
    for (method, bin_), mine in units.groupby(["method", place]):
        deltas = mine["transfer_delta"].to_numpy(float)
        best = deltas[deltas >= np.quantile(deltas, TOP)]
        left, right = edges[bin_], edges[bin_ + 1]
        row = {"method": method, "bin": bin_, "left": left, "right": right, "middle": (left + right) / 2}
        rows.append(row | {"pairs": len(mine), "averaged": len(best), "top": best.mean()})
    return by_order_of_methods(pd.DataFrame(rows), ["method", "bin"])


def scripts_curve(rates: pd.DataFrame, trials: pd.DataFrame) -> pd.Series:
    """Fig. 5a as the authors' plotting script draws it: 1 - p + gain in the top classes / rho_pos,after.

    The top classes hold the share p of the positive flips; rho_pos,after are the flips that remain after the
    transfer, in all classes. A student that gains nothing is drawn at 1 - p.

    Args:
        rates: as `flips.top_class_rates` makes them, one row a (trial, share).
        trials: as `results.load` gives them, with the finished trials of `rates`.

    Returns:
        A ratio a row of `rates`; NaN where no flip remains.
    """
    about = trials.set_index("trial")
    remaining = (about["rho_pos_after"] * about["evaluation_samples"]).astype(float)
    after = rates["trial"].astype(object).map(remaining)
    return 1 - rates["share"] + rates["gained"] / after.where(after > 0)


def success_by_student(per_student: pd.DataFrame) -> pd.DataFrame:
    """Fig. 6: the success rate of each student with each method of the figure.

    Args:
        per_student: as `measures.per_student` makes it.

    Returns:
        One row a (method, student), methods from left to right: `teachers`, `success_rate`. Empty where no
        contrastive method was run.
    """
    if not per_student["method"].isin(CONTRASTIVE).any():
        return per_student.iloc[:0][["method", "student", "teachers", "success_rate"]]
    order = pd.CategoricalDtype(OF_FIG_6, ordered=True)
    table = per_student[per_student["method"].isin(OF_FIG_6)].astype({"method": order})
    table = table.sort_values(["method", "student"], ignore_index=True).astype({"method": object})
    return table[["method", "student", "teachers", "success_rate"]]


def gain_and_loss(units: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Beside Fig. 6: what each method's students gain and lose.

    Returns:
        One row a method that was run, in the order of `methods`: `students`, `pairs`, and the means over
        pairs of `transfer_delta`, `knowledge_gain` and `knowledge_loss`, fractions, with 95 % intervals over
        students and teachers; `success_median`, the median of the students' success rates.
    """
    units, rows = taught(units), []
    bounds = {"transfer_delta": (-1, 1), "knowledge_gain": (0, 1), "knowledge_loss": (0, 1)}
    for method in methods:
        mine = units[units["method"] == method]
        if mine.empty:
            continue
        row = {"method": method, "students": mine["student"].nunique(), "pairs": len(mine)}
        row["success_median"] = mine.groupby("student")["success"].mean().median()
        for name, limits in bounds.items():
            row |= mean_with_interval(mine, name, limits)
        rows.append(row)
    return pd.DataFrame(rows)


def groups_of_students(units: pd.DataFrame, trials: pd.DataFrame, panel: str) -> pd.DataFrame:
    """Figs. 8a and 8b: the students that the paper joins, where at least two of a group are here.

    Each student is a mean over the teachers that all those of its group had, as one can then compare.

    Args:
        units: as `measures.over_seeds` makes them.
        trials: as `results.load` gives them: they tell timm's names.
        panel: 'a' or 'b'.

    Returns:
        One row a (method, group, student), by its accuracy in panel a, by its size in b: `family` as the
        paper prints it, `accuracy` before, `parameters`, `teachers`, their mean `transfer_delta`, and the
        quartiles over them, `q1` and `q3`.
    """
    known = reference.table("fig8_controlled_students").query("panel == @panel")
    timm = trials.drop_duplicates("student").set_index("student")["student_timm"]
    rows = []
    for (family, group), wanted in known.groupby(["family", "group"], sort=False):
        here = [name for name in timm.index if timm[name] in set(wanted["timm_name"])]
        mine = taught(units)
        mine = mine[mine["student"].isin(here)]
        for method, of_method in mine.groupby("method"):
            wide = of_method.pivot_table(index="teacher", columns="student", values="transfer_delta").dropna()
            if wide.empty or wide.shape[1] < 2:
                continue
            about = of_method.groupby("student")[["student_accuracy_before", "student_parameters"]].mean()
            q1, q3 = wide.quantile(0.25), wide.quantile(0.75)
            for name in wide:
                row = {"method": method, "group": f"{family} {group}", "student": name}
                row |= {"family": reference.FAMILIES[family], "teachers": len(wide)}
                row |= dict(zip(("accuracy", "parameters"), about.loc[name], strict=True))
                rows.append(row | {"transfer_delta": wide[name].mean(), "q1": q1[name], "q3": q3[name]})
    if not rows:
        return pd.DataFrame(columns=["method", "group", "student"])
    by = {"a": "accuracy", "b": "parameters"}[panel]
    return by_order_of_methods(pd.DataFrame(rows), ["method", "group", by])


def by_size_class(units: pd.DataFrame) -> pd.DataFrame:
    """Fig. 8c: transfer delta by the student's size class, of each family.

    The limits, `SIZE_CLASSES`, lie between the models that the authors' script draws in neighbouring classes.

    Returns:
        One row a (method, family, class that has a student): `class`, `students`, `pairs`, and the mean
        `transfer_delta` over pairs with its 95 % interval over students and teachers.
    """
    units = taught(units)
    units = units[~lacking(units["student_parameters"]) & units["student_family"].notna()]
    names = list(SIZE_CLASSES)
    place = np.searchsorted(list(SIZE_CLASSES.values()), units["student_parameters"].astype(float), "right")
    rows = []
    for (method, family, at), mine in units.groupby(["method", "student_family", place]):
        row = {"method": method, "family": family, "size": at, "class": names[at]}
        row |= {"students": mine["student"].nunique(), "pairs": len(mine)}
        rows.append(row | mean_with_interval(mine, "transfer_delta"))
    if not rows:
        return pd.DataFrame(columns=["method", "family", "class"])
    table = by_order_of_methods(pd.DataFrame(rows), ["method", "family", "size"])
    return table.drop(columns="size")
