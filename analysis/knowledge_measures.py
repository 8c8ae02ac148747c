"""What of the teacher's knowledge the student gains, and which students gain most: tables, and no text.

Behind Figs. 4b, 5, 7 and 8 of arXiv 2310.17653. All start from `measures.over_seeds`: one row a (method,
student, teacher), its seeds averaged. Left out on purpose: models of the data that would adjust one property
of a student for another; where two properties go together, pairs of students that share one are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.inference import bootstrap_interval, crossed_bootstrap
from analysis.methods import by_order_of_methods, in_order

BINS, IN_A_BIN = 8, 6  # of Delta_acc: at most so many, of at least so many pairs
TOP = 0.25  # of the pairs in a bin: what Fig. 4b of the paper shows
NEAR_ACCURACY, NEAR_SIZE = 2.0, 3.0  # points; ratio of parameters: up to which two students count as alike
PROPERTIES = {"a": "accuracy", "b": "size", "c": "family"}
SHARE = {"transfer_rate": (0.0, 1.0)}  # of a rate: what its mean cannot leave


def taught(units: pd.DataFrame) -> pd.DataFrame:
    """Those with a teacher."""
    return units[units["teacher"].notna()]


def mean_with_interval(
    units: pd.DataFrame, column: str, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> dict[str, float]:
    """A column's mean over pairs, and `<column>_low` and `_high`: 95 % over students and teachers."""
    values = units[column].to_numpy(float)
    low, high = crossed_bootstrap(values, units["student"], units["teacher"], bounds=bounds)
    return {column: values.mean(), f"{column}_low": low, f"{column}_high": high}


def by_difference(units: pd.DataFrame) -> pd.DataFrame:
    """Fig. 4b: transfer delta by how much better the teacher is, in bins of equally many pairs.

    Returns:
        One row a (method, bin), the bins the same for all methods: `low` and `high` of Delta_acc, `centre`
        (mean Delta_acc of its pairs), `pairs`, `mean` with its 95 % interval over students (a bin holds too
        few of each one's teachers to draw those too), `median`, and `top`, the mean of the largest quarter
        of the deltas (their number rounded up), as the paper shows.
    """
    units = taught(units)
    differences = units.drop_duplicates(["student", "teacher"])["accuracy_difference"]
    bins = int(np.clip(len(differences) // IN_A_BIN, 1, BINS))
    edges = np.unique(np.quantile(differences, np.linspace(0, 1, bins + 1)))
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0]])
    place = np.clip(np.searchsorted(edges, units["accuracy_difference"], "right") - 1, 0, len(edges) - 2)
    rows = []
    for method, bin_ in itertools.product(in_order(units["method"]), range(len(edges) - 1)):
        mine = units[(units["method"] == method) & (place == bin_)]
        if mine.empty:
            continue
        deltas = np.sort(mine["transfer_delta"].to_numpy(float))
        low, high = bootstrap_interval(mine["transfer_delta"].astype(float), groups=mine["student"])
        rows.append(
            {
                "method": method,
                "bin": bin_,
                "low": edges[bin_],
                "high": edges[bin_ + 1],
                "centre": mine["accuracy_difference"].mean(),
                "pairs": len(mine),
                "mean": deltas.mean(),
                "mean_low": low,
                "mean_high": high,
                "median": np.median(deltas),
                "top": deltas[-int(np.ceil(TOP * len(deltas))) :].mean(),
            }
        )
    return pd.DataFrame(rows)


def rates_of_top_classes(
    rates: pd.DataFrame, trials: pd.DataFrame, bounds: Mapping[str, tuple[float, float]] = SHARE
) -> pd.DataFrame:
    """Fig. 5a: how much of the knowledge is transferred in the classes that hold most of it.

    Args:
        rates: as `flips.top_class_rates` makes them, one row a (trial, share).
        trials: as `results.load` gives them.
        bounds: the rates of interest, columns of `rates`, and what they cannot leave.

    Returns:
        One row a (method, family of the student, share): `pairs`, `classes` (median number), and the mean
        of each rate over pairs, seeds averaged, with its 95 % interval over students and teachers.
    """
    about = trials[["trial", "method", "student", "teacher", "student_family"]]
    rows = rates.merge(about, on="trial").dropna(subset=list(bounds))
    keys = ["method", "student_family", "share", "student", "teacher"]
    units = rows.groupby(keys, as_index=False)[[*bounds, "classes"]].mean()
    found = []
    for (method, family, share), mine in units.groupby(["method", "student_family", "share"]):
        row = {"method": method, "family": family, "share": share}
        row |= {"pairs": len(mine), "classes": mine["classes"].median()}
        for name, of_rate in bounds.items():
            row |= mean_with_interval(mine, name, of_rate)
        found.append(row)
    return pd.DataFrame(found)


def by_student(units: pd.DataFrame) -> pd.DataFrame:
    """Figs. 5b and 8: each student with each method, over its teachers.

    Returns:
        One row a (method, student) with a teacher: `family`, `parameters`, `accuracy` before, `teachers`, and
        means over teachers of `transfer_delta`, `transfer_rate`, `gain_rate`, `knowledge_gain` and
        `knowledge_loss`.
    """
    table = (
        taught(units)
        .groupby(["method", "student"], as_index=False)
        .agg(
            family=("student_family", "first"),
            parameters=("student_parameters", "first"),
            accuracy=("student_accuracy_before", "mean"),
            teachers=("teacher", "size"),
            transfer_delta=("transfer_delta", "mean"),
            transfer_rate=("transfer_rate", "mean"),
            gain_rate=("gain_rate", "mean"),
            knowledge_gain=("knowledge_gain", "mean"),
            knowledge_loss=("knowledge_loss", "mean"),
        )
    )
    return by_order_of_methods(table)


def controlled_pairs(units: pd.DataFrame, varied: str) -> pd.DataFrame:
    """Fig. 8: pairs of students that differ in one property and are alike in the two others.

    Alike are accuracies within `NEAR_ACCURACY` points, sizes within a factor `NEAR_SIZE`, the same family.
    Each pair is compared over the teachers that both had.

    Args:
        units: as `measures.over_seeds` makes them.
        varied: 'accuracy', 'size' or 'family': free between the two; family must differ.

    Returns:
        One row a (method, pair): `student_a`, `student_b`, their `accuracy_`, `parameters_`, `family_`, the
        number of `teachers` in common, and mean `transfer_delta_a` and `_b` over them. `a` is the less
        accurate, the smaller, or the alphabetically first family.
    """
    units = taught(units)
    students = by_student(units).drop_duplicates("student").set_index("student").to_dict("index")
    wide = units.pivot_table(index=["method", "teacher"], columns="student", values="transfer_delta")
    deltas = {method: mine.to_numpy() for method, mine in wide.groupby(level="method")}
    column = {name: place for place, name in enumerate(wide.columns)}
    rows = []
    for pair in itertools.combinations(students, 2):
        one, two = (students[name] for name in pair)
        near = {
            "accuracy": round(100 * abs(one["accuracy"] - two["accuracy"]), 10) <= NEAR_ACCURACY,
            "size": max(one["parameters"], two["parameters"])
            <= NEAR_SIZE * min(one["parameters"], two["parameters"]),
            "family": one["family"] == two["family"],
        }
        alike = all(is_near for name, is_near in near.items() if name != varied)
        if not alike or (varied == "family" and near["family"]):
            continue
        key = {"accuracy": "accuracy", "size": "parameters", "family": "family"}[varied]
        a, b = sorted(pair, key=lambda name, key=key: (students[name][key], name))
        for method, mine in deltas.items():
            both = mine[:, [column[a], column[b]]]
            both = both[~np.isnan(both).any(axis=1)]
            if not len(both):
                continue
            row = {"method": method, "student_a": a, "student_b": b, "teachers": len(both)}
            for side, name, delta in zip("ab", (a, b), both.mean(axis=0), strict=True):
                row |= {
                    f"{part}_{side}": students[name][part] for part in ("accuracy", "parameters", "family")
                }
                row[f"transfer_delta_{side}"] = delta
            rows.append(row)
    columns = ["method", "student_a", "student_b", "teachers"]
    table = pd.DataFrame(rows, columns=None if rows else columns)
    return by_order_of_methods(table, ["method"])
