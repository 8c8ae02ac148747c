"""The tables of arXiv 2310.17653, made of our results, with the published numbers where they are comparable.

Tables 1, 3, 7 and 8, the success rates of its section 5.1, and the same by data set. All numbers are
fractions, as in the records; the published ones, which the paper prints in percentage points, are made
fractions too. Standard deviations are over teachers and divide by their number, as the paper's do (its Table
1 follows so from its Table 7).

A published mean stands beside ours only where ours is over exactly the same teachers. Tables 4 and 9 are in
`analysis.several_teachers`. Left out on purpose: Table 2, whose numbers are not in `analysis/reference/`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import reference
from analysis.knowledge_measures import taught
from analysis.methods import by_order_of_methods, in_order
from analysis.text import Number

STUDENT = ["student", "student_family", "student_accuracy_before", "student_parameters"]


def comparable(units: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """`units` (`measures.over_seeds`) with `setting`, `papers_student` and `papers_teacher`.

    Null where a pair is none of the paper's; `delta_rho_pos` and `delta_rho_neg` (after minus before) too.
    """
    names = reference.papers_names(trials).rename(
        columns={"student": "papers_student", "teacher": "papers_teacher"}
    )
    names[["student", "teacher"]] = trials[["student", "teacher"]]
    units = units.merge(names.drop_duplicates(["student", "teacher"]), on=["student", "teacher"], how="left")
    return units.assign(
        delta_rho_pos=units["rho_pos_after"] - units["rho_pos_before"],
        delta_rho_neg=units["rho_neg_after"] - units["rho_neg_before"],
    )


def _means(units: pd.DataFrame, number: int, columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """A row a student; of each (method, measure) mean and deviation over teachers, ours and published.

    Args:
        units: as `comparable` makes them.
        number: of the paper's table.
        columns: by the start of the columns' names, method and measure.
    """
    units = taught(units)
    methods = {method for method, _ in columns.values()}
    units = units[units["method"].isin(methods)]
    table = units.groupby("student", as_index=False)[STUDENT[1:]].first()
    published = reference.means()
    published = published[published["table"] == number]
    teachers = set(reference.deltas()["teacher"])
    for start, (method, measure) in columns.items():
        mine = units[units["method"] == method].groupby("student")
        theirs = published[(published["method"] == method) & (published["measure"] == measure)]
        theirs = theirs.set_index("student")
        same = {
            student: rows["papers_student"].iloc[0]
            for student, rows in mine
            if (rows["setting"] == "full").all() and set(rows["papers_teacher"]) == teachers
        }
        found = pd.DataFrame(
            {
                f"{start}_teachers": mine.size(),
                f"{start}_mean": mine[measure].mean(),
                f"{start}_sd": mine[measure].std(ddof=0),
            }
        )
        for part in ("mean", "sd"):
            values = theirs[part].reindex([same.get(student) for student in found.index]).to_numpy() / 100
            found[f"{start}_{part}_published"] = values
        found[f"{start}_difference"] = found[f"{start}_mean"] - found[f"{start}_mean_published"]
        table = table.join(found.reindex(table["student"]).reset_index(drop=True))
    return table


def table_1(units: pd.DataFrame) -> pd.DataFrame:
    """Table 1: each student's delta with KL and with KL+DP, mean and deviation over teachers."""
    return _means(units, 1, {"kl": ("kl", "transfer_delta"), "kl_dp": ("kl_dp", "transfer_delta")})


def table_3(units: pd.DataFrame) -> pd.DataFrame:
    """Table 3: KL+DP, supervised and unsupervised."""
    columns = {
        "supervised": ("kl_dp", "transfer_delta"),
        "unsupervised": ("kl_dp_unsupervised", "transfer_delta"),
    }
    return _means(units, 3, columns)


def table_8(units: pd.DataFrame) -> pd.DataFrame:
    """Table 8: how KL+DP changes the delta, and the positive and negative flips of the same teacher."""
    return _means(
        units, 8, {name: ("kl_dp", name) for name in ("transfer_delta", "delta_rho_pos", "delta_rho_neg")}
    )


def table_7(units: pd.DataFrame) -> pd.DataFrame:
    """Table 7: every pair with every method.

    Returns:
        One row a (student, teacher): Delta_acc, and of each method `<method>` (the delta over seeds),
        `<method>_published` and `<method>_difference`; null where a pair has no trial, or is not the paper's.
    """
    units = taught(units)
    published = reference.deltas().set_index(["student", "teacher", "method"])["transfer_delta"] / 100
    keys = zip(units["papers_student"], units["papers_teacher"], units["method"], strict=True)
    theirs = [
        published.get(key, np.nan) if of == "full" else np.nan
        for key, of in zip(keys, units["setting"], strict=True)
    ]
    units = units.assign(published=theirs)
    table = units.groupby(["student", "teacher"], as_index=False)["accuracy_difference"].mean()
    for method in in_order(units["method"]):
        mine = units[units["method"] == method]
        found = mine[["student", "teacher"]].assign(
            **{
                method: mine["transfer_delta"],
                f"{method}_published": mine["published"],
                f"{method}_difference": mine["transfer_delta"] - mine["published"],
            }
        )
        table = table.merge(found, on=["student", "teacher"], how="left")
    return table.sort_values(["student", "accuracy_difference"], ignore_index=True)


def success_rates(units: pd.DataFrame, of_methods: dict[str, dict[str, Number]]) -> pd.DataFrame:
    """Success rates by method, beside those that the paper states for its 400 pairs.

    Args:
        units: as `comparable` makes them.
        of_methods: the numbers of `measures.by_method`, by method and name.

    Returns:
        One row a method with a teacher: `pairs`, `success_rate` with its interval, `success_student_median`,
        and, where these are the paper's 20 x 20 pairs in its setting, `published` as it is printed (text,
        since some are bounds) and the `statistic` it is.
    """
    rows = []
    for method in in_order(taught(units)["method"]):
        known = of_methods[method]
        rate = known["success_rate"]
        row = {"method": method, "pairs": int(known["pairs"].value), "success_rate": rate.value}
        row |= {"success_rate_low": rate.low, "success_rate_high": rate.high}
        rows.append(row | {"success_student_median": known["success_student_median"].value})
    table = pd.DataFrame(rows)
    published = reference.table("success_rates").assign(
        method=lambda rows: rows["method"].replace("kl_dp_supervised", "kl_dp")
    )
    models = reference.table("models").query("setting == 'subset10'")
    wanted = {
        (student, teacher)
        for student in models.query("role == 'student'")["paper_name"]
        for teacher in models.query("role == 'teacher'")["paper_name"]
        if student != teacher
    }

    def is_papers(method: str) -> bool:
        rows = units[(units["method"] == method) & units["teacher"].notna()]
        pairs = set(zip(rows["papers_student"], rows["papers_teacher"], strict=True))
        return (rows["setting"] == "subset10").all() and pairs == wanted

    same = table["method"].map(is_papers).astype(bool)
    table = table.merge(published[["method", "success_rate_pct", "statistic"]], on="method", how="left")
    table = table.rename(columns={"success_rate_pct": "published"})
    table.loc[~same.to_numpy(), ["published", "statistic"]] = None
    return table


def by_data(trials: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """Each method on each data set: pairs, success rate, mean and deviation of the delta.

    Args:
        trials: as `results.load` gives them.
        units: as `measures.over_seeds` makes them.
    """
    about = trials[trials["status"] == "ok"].drop_duplicates(["method", "student", "teacher"])
    keys = ["method", "student", "teacher"]
    rows = units.merge(about[[*keys, "data", "data_sha256", "classes", "evaluation_samples"]], on=keys)
    table = rows.groupby(
        ["data", "data_sha256", "classes", "evaluation_samples", "method"], as_index=False
    ).agg(
        pairs=("transfer_delta", "size"),
        success_rate=("success", "mean"),
        mean=("transfer_delta", "mean"),
        sd=("transfer_delta", lambda values: values.std(ddof=0)),
    )
    return by_order_of_methods(table, ["data", "data_sha256", "method"])
