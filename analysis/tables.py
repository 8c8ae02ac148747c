"""The tables of arXiv 2310.17653, made of our results, with the published numbers where they are comparable.

Tables 1, 2, 3, 7 and 8, the success rates of its section 5.1, what it says of larger scale and of flips, and
the same by data set. All numbers are
fractions, as in the records; the published ones, which the paper prints in percentage points, are made
fractions too. Standard deviations are over teachers and divide by their number, as the paper's do (its Table
1 follows so from its Table 7).

A published mean stands beside ours only where ours is over exactly the same teachers. Tables 4 and 9 are in
`analysis.several_teachers`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import reference
from analysis.knowledge_measures import mean_with_interval, taught
from analysis.methods import by_order_of_methods, in_order
from analysis.text import Number

FLIPS_TAUGHT = tuple(reference.TAUGHT)  # columns of records, that older ones lack
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


def table_2(units: pd.DataFrame) -> pd.DataFrame:
    """Table 2: KL+DP from a stronger and from a weaker teacher of each student.

    They are those of the paper's table where that has them; else the strongest of the stronger ones, and the
    weakest of the weaker ones.

    Returns:
        One row a (student, teacher), the stronger teacher first: `accuracy_difference`, `transfer_delta`,
        both `_published` where the pair is of the paper's table, and `transfer_delta_difference`.
    """
    units = taught(units)
    units = units[units["method"] == "kl_dp"].reset_index(drop=True)
    published = reference.table("table2_examples").set_index(["student", "teacher"]) / 100
    keys = units[["papers_student", "papers_teacher"]].where(units["setting"] == "full")
    known = keys.join(published, on=["papers_student", "papers_teacher"])
    units["accuracy_difference_published"] = known["delta_acc"]
    units["transfer_delta_published"] = known["delta_transf"]
    units["transfer_delta_difference"] = units["transfer_delta"] - units["transfer_delta_published"]
    chosen = []
    for _, mine in units.groupby("student"):
        for sign in (1, -1):
            side = mine[sign * mine["accuracy_difference"] > 0]
            of_paper = side["transfer_delta_published"].notna()
            side = side[of_paper] if of_paper.any() else side
            chosen += [(sign * side["accuracy_difference"]).idxmax()] if len(side) else []
    columns = ["student", "teacher", "accuracy_difference", "accuracy_difference_published"]
    columns += ["transfer_delta", "transfer_delta_published", "transfer_delta_difference"]
    return units.loc[chosen, columns].reset_index(drop=True)


def by_level(units: pd.DataFrame) -> pd.DataFrame:
    """Section 5.1 "at larger scale": each method by whether the teacher is weaker or stronger than the
    student.

    Returns:
        One row a method with a teacher: `pairs`, `success_rate`, the `mean` delta, and of either level (a
        teacher that is equally accurate is none) `<level>_pairs`, `<level>_positive` and `<level>_mean`;
        means with 95 % intervals over students and teachers. Each `_published` too, but the counts, where
        the pairs are the paper's 32 on all of ImageNet.
    """
    units, rows = taught(units), []
    published = reference.by_level().set_index("method")
    for method in in_order(units["method"]):
        mine = units[units["method"] == method]
        row = {"method": method, "pairs": len(mine)}
        row |= _mean(mine, "success", "success_rate", (0, 1)) | _mean(mine, "transfer_delta", "mean")
        for level, sign in (("weaker", -1), ("stronger", 1)):
            of_level = mine[sign * mine["accuracy_difference"] > 0]
            row |= {f"{level}_pairs": len(of_level), f"{level}_positive": of_level["success"].sum()}
            row |= _mean(of_level, "transfer_delta", f"{level}_mean")
        same = method in published.index and _are_papers(mine, "full", _pairs_of_table_7())
        for name in ("success_rate", "mean", "weaker_mean", "stronger_mean"):
            row[f"{name}_published"] = published.loc[method, name] if same else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(
    units: pd.DataFrame, column: str, name: str, bounds: tuple[float, float] = (-1, 1)
) -> dict[str, float]:
    """A column's mean by another name, with its interval; NaN without pairs."""
    if units.empty:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
    return mean_with_interval(units.rename(columns={column: name}), name, bounds)


def _are_papers(units: pd.DataFrame, setting: str, wanted: set[tuple[str, str]]) -> bool:
    """Whether the pairs of a method are exactly these of the paper, in its setting."""
    pairs = set(zip(units["papers_student"], units["papers_teacher"], strict=True))
    return bool((units["setting"] == setting).all()) and pairs == wanted


def _pairs_of_table_7() -> set[tuple[str, str]]:
    known = reference.deltas()
    return set(zip(known["student"], known["teacher"], strict=True))


def flips_taught(units: pd.DataFrame) -> pd.DataFrame:
    """Section 5.1: who teaches the flips, the teacher or the frozen student.

    Args:
        units: as `comparable` makes them; those of older records lack the columns.

    Returns:
        One row a method that partitions the transfer set: `pairs`, and of both `FLIPS_TAUGHT` the mean over
        pairs with its 95 % interval over students and teachers, and `_published`, where the pairs are the
        paper's 32. Empty where no trial says it.
    """
    units = taught(units).reindex(columns=[*units.columns.union(FLIPS_TAUGHT)])
    units, rows = units.dropna(subset=list(FLIPS_TAUGHT)), []
    for method in in_order(units["method"]):
        mine = units[units["method"] == method]
        row = {"method": method, "pairs": len(mine)}
        same = method in reference.METHODS.values() and _are_papers(mine, "full", _pairs_of_table_7())
        for name, published in reference.taught().items():
            row |= mean_with_interval(mine, name, (0, 1))
            row[f"{name}_published"] = published if same else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


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
    ours = {"kl_dp_supervised": "kl_dp", "xe_kl_label_smoothing": "xe_kl_smoothed"}
    published = reference.table("success_rates").assign(method=lambda rows: rows["method"].replace(ours))
    models = reference.table("models").query("setting == 'subset10'")
    wanted = {
        (student, teacher)
        for student in models.query("role == 'student'")["paper_name"]
        for teacher in models.query("role == 'teacher'")["paper_name"]
        if student != teacher
    }
    by_method = taught(units).groupby("method")
    same = pd.Series([_are_papers(by_method.get_group(name), "subset10", wanted) for name in table["method"]])
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
