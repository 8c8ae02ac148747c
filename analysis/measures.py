"""How often and how much a transfer helps, by method: tables made of the trials, and no text.

After Fig. 4a of arXiv 2310.17653 (success rate per student), and beside it the size of the change,
split by how good the teacher is, paired with plain KL and with the control. Pure functions on data
frames. A trial is one student, teacher, method and seed. Tests are of trials (`tested`); rates, means and
intervals are of pairs: seeds are averaged first (`over_seeds`), since they are no further students or
teachers. Left out on purpose: any choice of the best setting; every trial counts.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from analysis.inference import (
    benjamini_hochberg,
    bootstrap_interval,
    crossed_bootstrap,
    mcnemar_exact,
    paired_wilcoxon,
    spearman_interval,
    wilson_interval,
)
from analysis.methods import CONTROL, by_order_of_methods, in_order
from analysis.statements import Statements

LEVELS = {
    "weaker": ["weaker"],
    "equal": ["equal"],
    "stronger": ["stronger"],
    "not_stronger": ["weaker", "equal"],
}
UNIT = ["student", "teacher", "seed"]
SIGNIFICANCE = 0.05
MARGIN = 1.645  # a clear success is above so many standard deviations of chance: one-sided 5 %
PAIR = ["method", "student", "teacher"]
AVERAGED = [  # over the seeds of a pair, where the table has them
    "transfer_delta",
    "knowledge_gain",
    "knowledge_loss",
    "transfer_rate",
    "gain_rate",
    "rho_pos_before",
    "rho_neg_before",
    "rho_pos_after",
    "rho_neg_after",
    "positive_flips_taught",
    "negative_flips_taught",
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

_BOTH = "[95 % interval over students and teachers]"
MEANINGS = {  # of each measure: unit and meaning
    "trials": ("count", "finished trials: a student, a teacher, a seed"),
    "failed": ("count", "trials that failed and are in no other number"),
    "pairs": ("count", "pairs of a student and a teacher, over whose seeds deltas are averaged"),
    "students": ("count", "students"),
    "teachers": ("count", "teachers"),
    "seeds": ("count", "seeds"),
    "better": ("count", f"trials that got better: exact McNemar test, q < {SIGNIFICANCE}, corrected for all"),
    "worse": ("count", f"trials that got worse: exact McNemar test, q < {SIGNIFICANCE}, corrected for all"),
    "significant_positive": ("count", f"trials that got better: p < {SIGNIFICANCE}, not corrected"),
    "significant_negative": ("count", f"trials that got worse: p < {SIGNIFICANCE}, not corrected"),
    "success_rate": ("fraction", f"pairs with a delta above 0; chance gives half of them {_BOTH}"),
    "success_rate_independent": ("fraction", "the same [95 % interval if pairs were independent: Wilson]"),
    "clear_success_rate": (
        "fraction",
        f"pairs with a delta above {MARGIN:g} times the evaluation's noise; about 5 % by chance {_BOTH}",
    ),
    "clear_success_rate_independent": ("fraction", "the same [95 % interval if pairs were independent]"),
    "success_student_median": ("fraction", "success rate of each student over its teachers: median"),
    "success_student_q1": ("fraction", "success rate of each student: lower quartile"),
    "success_student_q3": ("fraction", "success rate of each student: upper quartile"),
    "delta_mean": ("fraction", f"transfer delta, accuracy after minus before: mean over pairs {_BOTH}"),
    "delta_mean_given_teachers": ("fraction", "the same [95 % interval over students, with these teachers]"),
    "delta_positive": ("count", "pairs with a delta above 0"),
    "delta_negative": ("count", "pairs with a delta below 0"),
    "delta_wilcoxon_p": ("p-value", "signed-rank test of the deltas, as if pairs were independent"),
    "delta_median": ("fraction", "transfer delta: median over pairs"),
    "delta_min": ("fraction", "smallest transfer delta of a trial"),
    "delta_max": ("fraction", "largest transfer delta of a trial"),
    "seed_sd": ("fraction", "a pair's delta over its seeds: standard deviation, root mean square over pairs"),
    "noise": ("fraction", "a delta's standard deviation by chance, sqrt(gained + lost)/samples: mean"),
    "knowledge_gain_median": ("fraction", "samples wrong before, right after: median over trials"),
    "knowledge_loss_median": ("fraction", "samples right before, wrong after: median over trials"),
    "transfer_rate_median": (
        "fraction",
        "share gained of the samples that only the teacher got right before: median over trials",
    ),
    "gain_rate_median": (
        "ratio",
        "gained, whoever knew it, over positive flips before; may exceed 1: median over trials",
    ),
    "difference_mean": ("fraction", f"one delta minus the other on the same pair and seed: mean {_BOTH}"),
    "difference_mean_given_teachers": ("fraction", "the same [95 % interval over students alone]"),
    "difference_positive": ("count", "pairs on which the first method is above"),
    "difference_negative": ("count", "pairs on which the first method is below"),
    "difference_wilcoxon_p": ("p-value", "signed-rank test, as if pairs were independent"),
    "difference_wilcoxon_q": ("p-value", "the same, adjusted (Benjamini-Hochberg) for all comparisons"),
    **{
        f"{name}_and_{outcome}": (
            "correlation",
            f"Spearman's, of a student's {what} with its {of} [95 % interval over students]",
        )
        for name, what in (("log10_parameters", "size"), ("accuracy", "accuracy before"))
        for outcome, of in (("delta_mean", "mean delta"), ("success_rate", "success rate"))
    },
}


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
      3 to 7 % where at least ten samples changed, and 12.5 % at worst, where three did);
    - `gain_rate`, where the table has the positive flips: see that function.

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
    if "rho_pos_before" in done:
        rate = gain_rate(done["knowledge_gain"].astype(float), done["rho_pos_before"].astype(float))
        done = done.assign(gain_rate=rate)
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


def gain_rate(gained: pd.Series, flips: pd.Series) -> pd.Series:
    """The gain rate: knowledge gain per complementary knowledge.

    So section 5.1 of the paper words its transfer rate: the student's improvement relative to the
    complementary knowledge available. What is gained counts whether or not the teacher knew it, so the gain
    rate may exceed 1. The transfer rate of `trials` counts what the teacher knew alone.

    Args:
        gained: [N] samples wrong before and right after, as numbers or as shares.
        flips: [N] positive flips before, the same way.

    Returns:
        [N] ratios; NaN where there are no flips.
    """
    return gained / flips.where(flips > 0)


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


def by_method(trials: pd.DataFrame, equal: float = 1.0) -> pd.DataFrame:
    """What each method did, as rows of `statements`: the subjects are the methods, in the fixed order.

    Counts and tests are of trials, everything else of pairs: a student and a teacher, or a student alone with
    a method without a teacher, after averaging over seeds. `MEANINGS` says what each measure is. Levels of
    the delta are 'all' and those of `LEVELS`. Intervals draw whole students and teachers
    (`crossed_bootstrap`), but those of measures that are called otherwise.

    Args:
        trials: as `load` gives them.
        equal: half width, in percentage points, of the band of equal teachers (`teacher_level`).
    """
    done = tested(trials)
    pairs = over_seeds(done)
    pairs = pairs.assign(level=teacher_level(pairs["accuracy_difference"], equal))
    said = Statements(MEANINGS)
    for method in in_order(trials["method"]):
        mine, units = (table[table["method"] == method] for table in (done, pairs))
        failed = int((trials["method"] == method).sum()) - len(mine)
        _counts(said, method, mine, units, failed)
        _success(said, method, units)
        for level in ("all", *LEVELS):
            of_level = units if level == "all" else units[units["level"].isin(LEVELS[level])]
            effect(said, method, "delta", of_level, of_level["transfer_delta"].astype(float), level)
        _of_trials(said, method, mine, units)
    return said.table()


def _counts(said: Statements, method: str, mine: pd.DataFrame, units: pd.DataFrame, failed: int) -> None:
    counts = {"trials": len(mine), "failed": failed, "pairs": len(units), "seeds": mine["seed"].nunique()}
    counts |= {f"{role}s": units[role].nunique() for role in ("student", "teacher")}
    counts |= {verdict: int((mine["verdict"] == verdict).sum()) for verdict in ("better", "worse")}
    significant, gained = mine["p"] < SIGNIFICANCE, mine["gained"] > mine["lost"]
    counts["significant_positive"] = int((significant & gained).sum())
    counts["significant_negative"] = int((significant & ~gained).sum())
    for name, count in counts.items():
        said.add(method, name, count, len(mine) + failed * (name == "failed"))


def _success(said: Statements, method: str, units: pd.DataFrame) -> None:
    for name in ("success", "clear_success"):
        interval = crossed_bootstrap(units[name], units["student"], units["teacher"], bounds=(0, 1))
        rate = units[name].mean()
        said.add(method, f"{name}_rate", rate, len(units), interval=interval)
        interval = wilson_interval(units[name].sum(), len(units))
        said.add(method, f"{name}_rate_independent", rate, len(units), interval=interval)
    rates = units.groupby("student")["success"].mean()
    interval = bootstrap_interval(rates, np.nanmedian)
    said.add(method, "success_student_median", rates.median(), len(rates), interval=interval)
    for part, quantile in (("q1", 0.25), ("q3", 0.75)):
        said.add(method, f"success_student_{part}", rates.quantile(quantile), len(rates))


def _of_trials(said: Statements, method: str, mine: pd.DataFrame, units: pd.DataFrame) -> None:
    said.add(method, "delta_median", units["transfer_delta"].median(), len(units))
    said.add(method, "seed_sd", _root_mean_square(units["delta_sd"]), len(units))
    for part in ("min", "max"):
        said.add(method, f"delta_{part}", mine["transfer_delta"].agg(part), len(mine))
    said.add(method, "noise", mine["noise"].mean(), len(mine))
    for name in ("knowledge_gain", "knowledge_loss", "transfer_rate", "gain_rate"):
        if name not in mine:  # the gain rate, of a table without positive flips
            continue
        said.add(method, f"{name}_median", mine[name].astype(float).median(), mine[name].notna().sum())


def effect(
    said: Statements, subject: str, name: str, units: pd.DataFrame, values: pd.Series, level: str
) -> float:
    """The mean of some pairs' values with its intervals, and signs; returns its signed-rank p."""
    students, teachers = units["student"], units["teacher"]
    intervals = {"": crossed_bootstrap(values, students, teachers)}
    intervals["_given_teachers"] = crossed_bootstrap(values, students)
    for of, interval in intervals.items():
        said.add(subject, f"{name}_mean{of}", values.mean(), len(values), level=level, interval=interval)
    for sign, count in (("positive", (values > 0).sum()), ("negative", (values < 0).sum())):
        said.add(subject, f"{name}_{sign}", count, len(values), level=level)
    p = paired_wilcoxon(values, np.zeros(len(values)))
    said.add(subject, f"{name}_wilcoxon_p", p, len(values), level=level)
    return p


def paired(trials: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """What method `a` transfers more than `b` to the same student from the same teacher.

    Differences are taken seed by seed, then averaged over the seeds that both finished. If `b` has no teacher
    (the control), it is that of the same student and seed.

    Args:
        trials: as `load` gives them.

    Returns:
        One row a (student, teacher) that both finished: `seeds`, the mean `difference` of the deltas and
        `accuracy_difference`, as fractions.
    """
    done = trials.loc[trials["status"] == "ok", ["method", *UNIT, "transfer_delta", "accuracy_difference"]]
    mine, base = (done[done["method"] == method] for method in (a, b))
    on = ["student", "seed"] if base["teacher"].isna().all() else UNIT
    matched = mine.merge(base[[*on, "transfer_delta"]], on=on, suffixes=("", "_b"), validate="many_to_one")
    difference = (matched["transfer_delta"] - matched["transfer_delta_b"]).astype(float)
    matched = matched.assign(
        difference=difference, accuracy_difference=matched["accuracy_difference"].astype(float)
    )
    values = matched.groupby(["student", "teacher"], dropna=False)
    # All are sums of multiples of 1/samples: without the noise of floating point, equal is equal.
    pairs = values[["difference", "accuracy_difference"]].mean().round(12)
    pairs.insert(0, "seeds", values["seed"].nunique())
    return pairs.reset_index()


def minus(a: str, b: str) -> str:
    """The subject of a difference between two methods."""
    return f"{a} minus {b}"


def differences(trials: pd.DataFrame, equal: float = 1.0) -> pd.DataFrame:
    """Every two methods with a teacher on the same pairs of models, and each against the control.

    Args:
        trials: as `load` gives them.
        equal: half width, in percentage points, of the band of equal teachers (`teacher_level`).

    Returns:
        Rows of `statements` of the subjects 'a minus b', where `a` comes after `b` in the fixed order, on
        the levels 'all' and those of `LEVELS` that have a pair; 'all' alone where `b` is the control. `q`
        adjusts for all comparisons with teachers, but 'not_stronger', which two others make up.
    """
    done = trials[trials["status"] == "ok"]
    taught = in_order(done.loc[done["teacher"].notna(), "method"])
    contrasts = [(a, b) for b, a in itertools.combinations(taught, 2)]
    contrasts += [(a, CONTROL) for a in taught if CONTROL in set(done["method"]) - set(taught)]
    said, tests = Statements(MEANINGS), {}
    for a, b in contrasts:
        units = paired(done, a, b)
        level = teacher_level(units["accuracy_difference"], equal)
        for name in ("all", *LEVELS) if b != CONTROL else ("all",):
            of_level = units if name == "all" else units[level.isin(LEVELS[name])]
            if len(of_level):
                p = effect(said, minus(a, b), "difference", of_level, of_level["difference"], name)
                if b != CONTROL and name != "not_stronger":
                    tests[minus(a, b), name] = (p, len(of_level))
    adjusted = benjamini_hochberg([p for p, _ in tests.values()])
    for ((subject, name), (_, n)), q in zip(tests.items(), adjusted, strict=True):
        said.add(subject, "difference_wilcoxon_q", q, n, level=name)
    return said.table()


def student_properties(trials: pd.DataFrame) -> pd.DataFrame:
    """Do larger, or better, students gain more? Rank correlations over the students of each method.

    The accuracy of a student is also a part of how strong its teachers are in comparison, and regression
    to the mean lowers the delta of one whose accuracy was high by luck: a correlation is no cause.

    Args:
        trials: as `load` gives them.

    Returns:
        Rows of `statements`: of each method the measures '<property>_and_<outcome>', the property one of
        `PROPERTIES`, where the table has it, the outcome a student's 'delta_mean' or 'success_rate' over its
        pairs. NaN for fewer than four students, or where one of the two does not vary.
    """
    pairs = over_seeds(trials)
    said = Statements(MEANINGS)
    for method in in_order(pairs["method"]):
        mine = pairs[pairs["method"] == method]
        for name, made in PROPERTIES.items():
            try:
                valued = mine.assign(property=made(mine)).dropna(subset="property")
            except KeyError:  # a table from before it was recorded
                continue
            students = valued.groupby("student")[["property", "transfer_delta", "success"]].mean()
            outcomes = {"delta_mean": students["transfer_delta"], "success_rate": students["success"]}
            for outcome, values in outcomes.items():
                rho, *interval = spearman_interval(students["property"], values.round(12))
                said.add(method, f"{name}_and_{outcome}", rho, len(students), interval=interval)
    return said.table()
