"""How often and how much a transfer helps, by method: tables made of the trials, and no text.

After Fig. 4a of arXiv 2310.17653 (success rate per student), and beside it the size of the change,
split by how good the teacher is, paired with plain KL and with the control. Pure functions on data
frames. A trial is one student, teacher, method and seed. Tests are of trials (`tested`); rates, means and
intervals are of pairs: seeds are averaged first (`over_seeds`), since they are no further students or
teachers. Left out on purpose: any choice of the best setting; every trial counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from analysis.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    crossed_bootstrap,
    mcnemar_exact,
    paired_wilcoxon,
    spearman_interval,
    wilson_interval,
)

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
MARGIN = 1.645  # a clear success is above so many standard deviations of chance: one-sided 5 %
PAIR = ["method", "student", "teacher"]
AVERAGED = [  # over the seeds of a pair, where the table has them
    "transfer_delta",
    "knowledge_gain",
    "knowledge_loss",
    "transfer_rate",
    "rho_pos_before",
    "rho_neg_before",
    "rho_pos_after",
    "rho_neg_after",
    "accuracy_difference",
    "student_accuracy_before",
    "student_accuracy_after",
    "teacher_accuracy",
    "noise",
    "seconds",
]
OF_MODELS = ["student_family", "student_parameters", "teacher_family", "teacher_parameters"]
PROPERTIES = {  # of students: name: how it is made of their pairs
    "log10_parameters": lambda pairs: np.log10(pairs["student_parameters"].astype(float)),
    "accuracy": lambda pairs: pairs["student_accuracy_before"].astype(float),
}


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


def tested(trials: pd.DataFrame) -> pd.DataFrame:
    """Each finished trial with how sure its delta is: the row `trials` has, and these columns.

    - `gained`, `lost`: samples wrong before and right after, and the reverse; whole numbers;
    - `noise`: the standard deviation of the delta if each of them had been gained or lost by a coin's
      toss, sqrt(gained + lost) / samples, a fraction;
    - `p`: exact two-sided McNemar test; `q`: adjusted (Benjamini-Hochberg) for all finished trials of the
      table, those of the control too;
    - `verdict`: "better" or "worse" if q < SIGNIFICANCE, else "unclear";
    - `success`: delta > 0, which a method that changes nothing but by chance achieves half the time;
    - `clear_success`: delta > MARGIN * noise, which it achieves about 5 % of the time (counts are whole:
      3 to 7 % where at least ten samples changed, and 12.5 % at worst, where three did).

    Args:
        trials: as `load` gives them.
    """
    done = trials[trials["status"] == "ok"]
    samples, delta = done["evaluation_samples"].astype(float), done["transfer_delta"].astype(float)
    gained = (done["knowledge_gain"] * samples).astype(float).round()
    lost = (done["knowledge_loss"] * samples).astype(float).round()
    noise = np.sqrt(gained + lost) / samples
    p = mcnemar_exact(gained, lost)
    q = benjamini_hochberg(p)
    verdict = np.select([q >= SIGNIFICANCE, gained > lost], ["unclear", "better"], "worse").astype(object)
    return done.assign(
        gained=gained.astype(int),
        lost=lost.astype(int),
        noise=noise,
        p=p,
        q=q,
        verdict=verdict,
        success=delta > 0,
        clear_success=_clear(delta, noise),
    )


def _clear(delta: pd.Series, noise: pd.Series) -> pd.Series:
    """Where a delta is above the evaluation's noise; rounded, so that equal is not above."""
    return (delta - MARGIN * noise).round(12) > 0


def over_seeds(trials: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds: one row a (method, student, teacher), or (method, student) without a teacher.

    Columns: the three; `seeds`, how many finished; the mean over them of `transfer_delta` and of each
    other measure of `AVERAGED` that the table has; `delta_sd`, the standard deviation of the deltas over
    seeds (n - 1; NaN of one seed); `success`, mean delta > 0; `clear_success`, mean delta > MARGIN times
    the mean noise (the noise of one evaluation: seeds share the evaluation's samples, so their mean has
    at most this); and what is known of the models.

    Args:
        trials: as `load` or `tested` gives them.
    """
    done = trials if "noise" in trials else tested(trials)
    columns = [name for name in AVERAGED if name in done]
    values = done.astype(dict.fromkeys(columns, float)).groupby(PAIR, dropna=False)
    pairs = values[columns].mean().round({"transfer_delta": 12})  # a mean of 0 is 0, not 1e-19
    pairs.insert(0, "seeds", values["seed"].nunique())
    pairs["delta_sd"] = values["transfer_delta"].std()
    pairs["success"] = pairs["transfer_delta"] > 0
    pairs["clear_success"] = _clear(pairs["transfer_delta"], pairs["noise"])
    for name in OF_MODELS:
        if name in done:
            pairs[name] = values[name].first()
    return by_order_of_methods(pairs.reset_index())


def by_order_of_methods(table: pd.DataFrame, by: Sequence[str] = PAIR) -> pd.DataFrame:
    """The table sorted by these of its columns, `method` in the fixed order; ties keep their places."""
    order = pd.CategoricalDtype(in_order(table["method"]), ordered=True)
    by = [name for name in by if name in table]
    table = table.astype({"method": order}).sort_values(by, ignore_index=True, kind="stable")
    return table.astype({"method": object})


def per_student(trials: pd.DataFrame) -> pd.DataFrame:
    """Success of each student with each method: one row a (method, student), in the fixed order.

    The unit is a pair, after averaging over its seeds: a success rate is the share of a student's teachers
    with a mean transfer delta > 0. For a method without a teacher the student itself is the only unit.

    Columns: method, student; `trials` finished; `pairs`, `teachers`, `seeds`: how many different ones;
    `successes`, `success_rate`, `clear_success_rate` of pairs; `delta_mean` and `delta_min` of pairs;
    `seed_sd`, the root mean square over pairs of the deltas' spread over seeds (NaN of one seed).
    """
    done = tested(trials)
    table = (
        over_seeds(done)
        .groupby(["method", "student"], as_index=False)
        .agg(
            pairs=("success", "size"),
            teachers=("teacher", "nunique"),
            successes=("success", "sum"),
            success_rate=("success", "mean"),
            clear_success_rate=("clear_success", "mean"),
            delta_mean=("transfer_delta", "mean"),
            delta_min=("transfer_delta", "min"),
            seed_sd=("delta_sd", _root_mean_square),
        )
    )
    counts = done.groupby(["method", "student"]).agg(trials=("trial", "size"), seeds=("seed", "nunique"))
    return by_order_of_methods(table.merge(counts.reset_index(), on=["method", "student"]))


def _root_mean_square(values: pd.Series) -> float:
    return float(np.sqrt((values.dropna() ** 2).mean()))


def paired_with(
    trials: pd.DataFrame, reference: str = "kl", on: tuple[str, ...] = ("student", "teacher", "seed")
) -> pd.DataFrame:
    """Each pair's difference from the reference method on the same student and teacher, or student.

    Differences are taken seed by seed, then averaged over the seeds that both methods finished.

    Args:
        trials: as `load` gives them.
        reference: the method to compare with.
        on: what two trials must share; ("student", "seed") compares with a control without a teacher.

    Returns:
        One row a (method, student, teacher) of every other method: `seeds`, the mean `transfer_delta`,
        `delta_reference`, `difference` of the two, and `accuracy_difference` over those seeds, as
        fractions. Empty without the reference.
    """
    done = trials[trials["status"] == "ok"]
    base = done.loc[done["method"] == reference, [*on, "transfer_delta"]]
    base = base.rename(columns={"transfer_delta": "delta_reference"})
    matched = done[done["method"] != reference].merge(base, on=list(on), validate="many_to_one")
    matched = matched.assign(difference=matched["transfer_delta"] - matched["delta_reference"])
    means = ["transfer_delta", "delta_reference", "difference", "accuracy_difference"]
    values = matched.astype(dict.fromkeys(means, float)).groupby(PAIR, dropna=False)
    # All are sums of multiples of 1/samples: without the noise of floating point, equal is equal.
    pairs = values[means].mean().round(12)
    pairs.insert(0, "seeds", values["seed"].nunique())
    return by_order_of_methods(pairs.reset_index())


def by_method(
    trials: pd.DataFrame, equal: float = 1.0, reference: str = "kl", control: str = "xe"
) -> pd.DataFrame:
    """The table by method: one row a method in the fixed order; rates and deltas are fractions.

    Of trials (student, teacher, method, seed): `trials` finished and `failed`, `delta_min`, `delta_max`,
    `significant_positive` and `significant_negative` (McNemar's p < 0.05), `better` and `worse` (q < 0.05,
    see `tested`), `noise` (mean), `knowledge_*` and `transfer_rate_median`.

    Of pairs, which is everything else: a student and a teacher, or a student alone with a method without a
    teacher, after averaging over seeds. `pairs` is their number, `success_rate` the share with a mean
    delta > 0, `clear_success_rate` that above the evaluation's noise; `seed_sd` is the root mean square
    of the deltas' spread over seeds (NaN of one seed). Columns that start with `delta` measure the
    transfer delta, with `over_reference` its difference from the reference's delta on the same student,
    teacher and seed, with `over_control` its difference from the control's on the same student and seed;
    `_weaker`, `_equal`, `_stronger`, `_not_stronger` are the pairs with such teachers. Each comes with
    `_trials` (its pairs), `_mean`, `_positive` and `_negative` (pairs above and below 0), `_wilcoxon_p`.

    `_low` and `_high` bound 95 % intervals by a bootstrap of whole students and whole teachers
    (`crossed_bootstrap`; of students alone without teachers), except `*_given_teachers_*`, which draw
    students alone and so say nothing of other teachers than these, `*_wilson_*`, which take pairs as
    independent, and `success_student_median_*`, of students. What does not exist is NaN: an interval of
    one student and one teacher, the weaker teachers of the control, a method's difference from itself.

    Args:
        trials: as `load` gives them.
        equal: half width, in percentage points, of the band of equal teachers (`teacher_level`).
        reference: the method that the others are paired with.
        control: the method without a teacher.
    """
    done = tested(trials)
    pairs, over_reference, over_control = (
        table.assign(level=teacher_level(table["accuracy_difference"], equal))
        for table in (
            over_seeds(done),
            paired_with(trials, reference),
            paired_with(trials, control, on=("student", "seed")),
        )
    )
    rows = []
    for method in in_order(trials["method"]):
        mine, units, paired, controlled = (
            table[table["method"] == method] for table in (done, pairs, over_reference, over_control)
        )
        rates = units.groupby("student")["success"].mean()
        significant, gained = mine["p"] < SIGNIFICANCE, mine["gained"] > mine["lost"]
        row = {
            "method": method,
            "label": label(method),
            "trials": len(mine),
            "failed": int((trials["method"] == method).sum()) - len(mine),
            "pairs": len(units),
            "students": units["student"].nunique(),
            "teachers": units["teacher"].nunique(),
            "seeds": mine["seed"].nunique(),
            **_share("success", units),
            **_share("clear_success", units),
            "success_student_median": rates.median(),
            "success_student_q1": rates.quantile(0.25),
            "success_student_q3": rates.quantile(0.75),
            **_bounds("success_student_median", bootstrap_interval(rates, np.nanmedian)),
            **_effect("delta", units, "transfer_delta"),
            "delta_median": units["transfer_delta"].median(),
            "delta_min": mine["transfer_delta"].min(),
            "delta_max": mine["transfer_delta"].max(),
            "seed_sd": _root_mean_square(units["delta_sd"]),
            "significant_positive": int((significant & gained).sum()),
            "significant_negative": int((significant & ~gained).sum()),
            "better": int((mine["verdict"] == "better").sum()),
            "worse": int((mine["verdict"] == "worse").sum()),
            "noise": mine["noise"].mean(),
            "knowledge_gain_median": mine["knowledge_gain"].median(),
            "knowledge_loss_median": mine["knowledge_loss"].median(),
            "transfer_rate_median": mine["transfer_rate"].median(),
            **_effect("over_control", controlled, "difference"),
            **_effect("over_reference", paired, "difference"),
        }
        for name, levels in LEVELS.items():
            row |= _effect(f"delta_{name}", units[units["level"].isin(levels)], "transfer_delta")
            row |= _effect(f"over_reference_{name}", paired[paired["level"].isin(levels)], "difference")
        rows.append(row)
    return pd.DataFrame(rows)


def method_differences(trials: pd.DataFrame, equal: float = 1.0) -> pd.DataFrame:
    """Every two methods with a teacher, on the same pairs of models: how much more does one transfer?

    Differences are taken seed by seed, then averaged over the seeds that both finished.

    Args:
        trials: as `load` gives them.
        equal: half width, in percentage points, of the band of equal teachers (`teacher_level`).

    Returns:
        One row a (a, b, level) with at least one pair, where method `a` comes after `b` in the fixed order
        and `level` is "all", "weaker", "equal" or "stronger": `pairs`; `mean` of a's delta minus b's, a
        fraction, with `low` and `high`, its 95 % interval (`crossed_bootstrap`), and `given_teachers_low`
        and `_high`, the narrower one that says nothing of other teachers; `better`, pairs on which a is
        above b, and `worse`; `wilcoxon_p` as if pairs were independent, and `wilcoxon_q`, adjusted
        (Benjamini-Hochberg) for all rows.
    """
    done = trials[(trials["status"] == "ok") & trials["teacher"].notna()]
    done = done.astype({"transfer_delta": float, "accuracy_difference": float})
    deltas = done.pivot_table("transfer_delta", ["student", "teacher", "seed"], "method")
    level = teacher_level(done.groupby(["student", "teacher"])["accuracy_difference"].mean(), equal)
    rows = []
    for b, a in itertools.combinations(in_order(done["method"]), 2):
        difference = (deltas[a] - deltas[b]).dropna().groupby(["student", "teacher"]).mean().round(12)
        units = difference.rename("difference").reset_index().assign(level=level[difference.index].to_numpy())
        for name in ("all", "weaker", "equal", "stronger"):
            of_level = units if name == "all" else units[units["level"] == name]
            if len(of_level):
                rows.append({"a": a, "b": b, "level": name} | _difference(of_level))
    names = ["a", "b", "level", "pairs", "mean", "low", "high", "given_teachers_low", "given_teachers_high"]
    names += ["better", "worse", "wilcoxon_p"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(wilcoxon_q=benjamini_hochberg(table["wilcoxon_p"].astype(float)))


def student_properties(trials: pd.DataFrame) -> pd.DataFrame:
    """Do larger, or better, students gain more? Rank correlations over the students of each method.

    The accuracy of a student is also a part of how strong its teachers are in comparison, and regression
    to the mean lowers the delta of one whose accuracy was high by luck: a correlation is no cause.

    Args:
        trials: as `load` gives them.

    Returns:
        One row a (method, property, outcome): `property` is "log10_parameters" or "accuracy" before the
        transfer, where the table has it; `outcome` is the student's "delta_mean" or "success_rate" over
        its pairs; `n` students; `rho` (Spearman) with `low` and `high`, its 95 % interval, NaN for fewer
        than four students or where one of the two does not vary.
    """
    pairs = over_seeds(trials)
    rows = []
    for name, made in PROPERTIES.items():
        try:
            valued = pairs.assign(property=made(pairs))
        except KeyError:  # a table from before it was recorded
            continue
        table = valued.groupby(["method", "student"], as_index=False).agg(
            property=("property", "mean"),
            delta_mean=("transfer_delta", "mean"),
            success_rate=("success", "mean"),
        )
        for method, students in table.dropna(subset="property").groupby("method"):
            for outcome in ("delta_mean", "success_rate"):
                rho, low, high = spearman_interval(students["property"], students[outcome].round(12))
                row = {"method": method, "property": name, "outcome": outcome, "n": len(students)}
                rows.append(row | {"rho": rho, "low": low, "high": high})
    columns = ["method", "property", "outcome", "n", "rho", "low", "high"]
    return by_order_of_methods(pd.DataFrame(rows, columns=columns))


def _bounds(name: str, interval: tuple[float, float]) -> dict:
    return {f"{name}_low": float(interval[0]), f"{name}_high": float(interval[1])}


def _share(name: str, units: pd.DataFrame) -> dict:
    """The share of units with a success of this name, and its intervals."""
    interval = crossed_bootstrap(units[name], units["student"], units["teacher"], bounds=(0, 1))
    return {
        f"{name}_rate": units[name].mean(),
        **_bounds(f"{name}_wilson", wilson_interval(units[name].sum(), len(units))),
        **_bounds(name, interval),
    }


def _difference(units: pd.DataFrame) -> dict:
    values = units["difference"]
    low, high = crossed_bootstrap(values, units["student"], units["teacher"])
    return {
        "pairs": len(values),
        "mean": values.mean(),
        "low": low,
        "high": high,
        "better": int((values > 0).sum()),
        "worse": int((values < 0).sum()),
        "wilcoxon_p": paired_wilcoxon(values, np.zeros(len(values))),
    }


def _effect(name: str, units: pd.DataFrame, column: str) -> dict:
    values = units[column].astype(float)
    return {
        f"{name}_trials": len(values),
        f"{name}_mean": values.mean(),
        **_bounds(name, crossed_bootstrap(values, units["student"], units["teacher"])),
        **_bounds(f"{name}_given_teachers", crossed_bootstrap(values, units["student"])),
        f"{name}_positive": int((values > 0).sum()),
        f"{name}_negative": int((values < 0).sum()),
        f"{name}_wilcoxon_p": paired_wilcoxon(values, np.zeros(len(values))),
    }


def label(method: str) -> str:
    """The method's name in tables and figures."""
    return LABELS.get(method, method)
