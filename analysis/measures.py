"""How often and how much a transfer helps, by method: tables made of the trials, and no text.

After Fig. 4a of arXiv 2310.17653 (success rate per student), and beside it the size of the change,
split by how good the teacher is, paired with plain KL and with the control. Pure functions on data
frames. Left out on purpose: any choice of the best setting; every trial counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.statistics import bootstrap_interval, mcnemar_exact, paired_wilcoxon, wilson_interval

LABELS = {  # in the order of every table and figure; other methods follow alphabetically
    "xe": "XE (control)",
    "kl": "KL",
    "xe_kl": "XE-KL",
    "xe_kl_mcl": "XE-KL+MCL",
    "kl_dp": "KL+DP",
    "kl_dp_unsupervised": "KL+DP (unsup.)",
}
LEVELS = {
    "weaker": ["weaker"],
    "equal": ["equal"],
    "stronger": ["stronger"],
    "not_stronger": ["weaker", "equal"],
}
SIGNIFICANCE = 0.05


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods in the fixed order of `LABELS`, then the others alphabetically."""
    known = list(LABELS)
    return sorted(set(methods), key=lambda m: (known.index(m) if m in LABELS else len(known), m))


def teacher_level(accuracy_difference: pd.Series, equal: float = 1.0) -> pd.Series:
    """'weaker', 'equal' or 'stronger' for a teacher; null where there is none.

    Args:
        accuracy_difference: teacher's minus student's accuracy, fractions in [-1, 1] or null.
        equal: a teacher within +/- this many percentage points counts as equal, bounds included.
    """
    points = (100 * accuracy_difference.astype(float)).round(10)  # 0.86 - 0.85 is 1 point, not more
    level = np.select([points < -equal, points > equal], ["weaker", "stronger"], "equal")
    return pd.Series(level, index=accuracy_difference.index, dtype=object).where(points.notna(), None)


def per_student(trials: pd.DataFrame) -> pd.DataFrame:
    """Success of each student with each method: one row a (method, student), in the fixed order.

    The unit is a (teacher, seed) trial: a success rate is the share of a student's finished trials
    with transfer_delta > 0; for a method without a teacher, the share of its seeds.
    """
    done = trials[trials["status"] == "ok"]
    table = (
        done.assign(success=done["transfer_delta"] > 0)
        .groupby(["method", "student"], as_index=False)
        .agg(
            trials=("trial", "size"),
            teachers=("teacher", "nunique"),
            seeds=("seed", "nunique"),
            successes=("success", "sum"),
            success_rate=("success", "mean"),
            delta_mean=("transfer_delta", "mean"),
            delta_min=("transfer_delta", "min"),
        )
    )
    order = pd.CategoricalDtype(in_order(table["method"]), ordered=True)
    table = table.astype({"method": order}).sort_values(["method", "student"], ignore_index=True)
    return table.astype({"method": str})


def paired_with(
    trials: pd.DataFrame, reference: str = "kl", on: tuple[str, ...] = ("student", "teacher", "seed")
) -> pd.DataFrame:
    """Each finished trial beside the reference method's trial of the same student, teacher and seed.

    Args:
        trials: as `load` gives them.
        reference: the method to compare with.
        on: what two trials must share; ("student", "seed") compares with a control without a teacher.

    Returns:
        One row a matched trial of every other method: the trial's columns, and `delta_reference` and
        `difference` = transfer_delta - delta_reference, as fractions. Empty without the reference.
    """
    done = trials[trials["status"] == "ok"]
    base = done.loc[done["method"] == reference, [*on, "transfer_delta"]]
    base = base.rename(columns={"transfer_delta": "delta_reference"})
    pairs = done[done["method"] != reference].merge(base, on=list(on), validate="many_to_one")
    # Both are multiples of 1/samples: without the noise of floating point, equal is equal.
    return pairs.assign(difference=(pairs["transfer_delta"] - pairs["delta_reference"]).round(12))


def by_method(
    trials: pd.DataFrame, equal: float = 1.0, reference: str = "kl", control: str = "xe"
) -> pd.DataFrame:
    """The table by method: one row a method in the fixed order; rates and deltas are fractions.

    Columns that start with `delta` measure the transfer delta, with `over_reference` its difference from
    the reference's delta on the same student, teacher and seed, with `over_control` its difference from
    the control's on the same student and seed; `_weaker`, `_equal`, `_stronger`, `_not_stronger` are the
    trials with such teachers. Each comes with `_trials`, `_mean`, `_positive` (trials above 0) and
    `_wilcoxon_p`. `_low` and `_high` bound 95 % intervals by a bootstrap of whole students, except
    `success_wilson_*`. What does not exist is NaN: an interval of one student, the weaker teachers of
    the control, a method's difference from itself.

    Args:
        trials: as `load` gives them.
        equal: half width, in percentage points, of the band of equal teachers (`teacher_level`).
        reference: the method that the others are paired with.
        control: the method without a teacher.
    """
    trials = trials.assign(level=teacher_level(trials["accuracy_difference"], equal))
    done, students = trials[trials["status"] == "ok"], per_student(trials)
    over_reference = paired_with(trials, reference)
    over_control = paired_with(trials, control, on=("student", "seed"))
    rows = []
    for method in in_order(trials["method"]):
        mine, paired, controlled = (t[t["method"] == method] for t in (done, over_reference, over_control))
        rates = students.loc[students["method"] == method, "success_rate"]
        success, samples = mine["transfer_delta"] > 0, mine["evaluation_samples"]
        gained = (mine["knowledge_gain"] * samples).round()
        lost = (mine["knowledge_loss"] * samples).round()
        significant = mcnemar_exact(gained, lost) < SIGNIFICANCE
        row = {
            "method": method,
            "label": label(method),
            "trials": len(mine),
            "failed": int((trials["method"] == method).sum()) - len(mine),
            "pairs": mine.dropna(subset="teacher").groupby(["student", "teacher"]).ngroups,
            "students": mine["student"].nunique(),
            "seeds": mine["seed"].nunique(),
            "success_rate": success.mean(),
            **_bounds("success_wilson", wilson_interval(success.sum(), len(mine))),
            **_bounds("success", bootstrap_interval(success, groups=mine["student"])),
            "success_student_median": rates.median(),
            "success_student_q1": rates.quantile(0.25),
            "success_student_q3": rates.quantile(0.75),
            **_bounds("success_student_median", bootstrap_interval(rates, np.nanmedian)),
            **_effect("delta", mine, "transfer_delta"),
            "delta_median": mine["transfer_delta"].median(),
            "delta_min": mine["transfer_delta"].min(),
            "delta_max": mine["transfer_delta"].max(),
            "significant_positive": int((significant & (gained > lost)).sum()),
            "significant_negative": int((significant & (gained < lost)).sum()),
            # The standard deviation of a delta if each changed sample were gained or lost by a coin's toss.
            "noise": (np.sqrt(gained + lost) / samples).mean(),
            "knowledge_gain_median": mine["knowledge_gain"].median(),
            "knowledge_loss_median": mine["knowledge_loss"].median(),
            "transfer_rate_median": mine["transfer_rate"].median(),
            **_effect("over_control", controlled, "difference"),
            **_effect("over_reference", paired, "difference"),
        }
        for name, levels in LEVELS.items():
            row |= _effect(f"delta_{name}", mine[mine["level"].isin(levels)], "transfer_delta")
            row |= _effect(f"over_reference_{name}", paired[paired["level"].isin(levels)], "difference")
        rows.append(row)
    return pd.DataFrame(rows)


def _bounds(name: str, interval: tuple[float, float]) -> dict:
    return {f"{name}_low": float(interval[0]), f"{name}_high": float(interval[1])}


def _effect(name: str, rows: pd.DataFrame, column: str) -> dict:
    values = rows[column].astype(float)
    return {
        f"{name}_trials": len(values),
        f"{name}_mean": values.mean(),
        **_bounds(name, bootstrap_interval(values, groups=rows["student"])),
        f"{name}_positive": int((values > 0).sum()),
        f"{name}_wilcoxon_p": paired_wilcoxon(values, np.zeros(len(values))),
    }


def label(method: str) -> str:
    """The method's name in tables and figures."""
    return LABELS.get(method, method)
