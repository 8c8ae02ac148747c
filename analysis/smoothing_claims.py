"""What is claimed of label smoothing and distillation, and what these results say of it: a verdict a claim.

The claims are those of Shen et al. (arXiv 2104.00676; C1 to C11), Müller et al. (arXiv 1906.02629; M0 to M2)
and Chandrasegaran et al. (arXiv 2206.14532; F1 to F3), and one of this project (B1). A claim is one or more
measurements; of each is said beforehand what supports and what refutes it. It is supported if all of them
support it, and refuted if one refutes it. Intervals and p-values are those of the crossed bootstrap of
students and twins (`inference.crossed_bootstrap`); p-values of all claims together are corrected by Holm's
method, which bounds the chance that any verdict is wrong: a false verdict is worse here than one in twenty of
many. A claim whose corrected p-value is above 0.05 is undecided. Pure functions, and the claims' texts.

Left out on purpose: translation, and CutMix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import reference
from analysis import smoothing_measures as measures
from analysis.exhibit import LeftOut
from analysis.inference import correlation, crossed_bootstrap, crossed_p_value, holm
from analysis.smoothing_measures import SIDES, Tables, change, needed, side_by_side
from analysis.text import number

MARGIN = 0.003  # of accuracies: less is no difference; fixed beforehand
SAME_ORDER = 0.05  # of Spearman's ρ: less is no difference
LEVEL = 0.05
NEEDED = 6  # teachers, of which something can be predicted
SUPPORTED, REFUTED, UNDECIDED, NOT_MEASURED = "supported", "refuted", "undecided", "not measured"


@dataclass(frozen=True)
class Part:
    """One measurement of a claim.

    Attributes:
        measured: what it is.
        value, low, high: with its 95 % interval, NaN without one.
        n: of how many things.
        supports, refutes: two-sided p-values of what supports and of what refutes the claim; 1 where the
            value lies on the other side, NaN where nothing can be tested.
        unit: 'fraction', 'nats', 'ratio' or 'correlation'.
        counts: whether the verdict rests on it; what does not is a control beside.
        remark: what else is to be known.
    """

    measured: str
    value: float
    low: float
    high: float
    n: int
    supports: float = np.nan
    refutes: float = np.nan
    unit: str = "fraction"
    counts: bool = True
    remark: str = ""


Rule = tuple[str, float]  # 'above' or 'below', and a bound


def part(
    measured: str,
    values: pd.Series,
    students: pd.Series,
    twins: pd.Series | None,
    rule: Rule,
    *,
    statistic: str | Callable = "mean",
    **about,
) -> Part:
    """A measurement over students and twins.

    Args:
        measured: what it is.
        values: one a pair, finite.
        students, twins: their labels; of models alone their twins, and None.
        rule: ('above', x): larger values support the claim, smaller ones refute it; ('below', x): the
            reverse.
        statistic: as `crossed_bootstrap` takes it.
        about: further attributes of `Part`.
    """
    of = (
        values.to_numpy(float),
        students.to_numpy(object),
        None if twins is None else twins.to_numpy(object),
    )
    low, high = crossed_bootstrap(*of, statistic)
    value = float(of[0].mean() if statistic == "mean" else statistic(of[0], np.ones((1, len(values))))[0])

    kind, bound = rule
    p = crossed_p_value(*of, statistic, null=bound)
    holds = value > bound if kind == "above" else value < bound
    supports, refutes = (p, 1.0) if holds else (1.0, p)
    if np.isnan(low):
        supports = refutes = np.nan
    return Part(measured, value, low, high, len(values), supports, refutes, **about)


def of_pairs(measured: str, pairs: pd.DataFrame, rule: Rule, column: str = "difference", **about) -> Part:
    """A measurement over pairs of students."""
    return part(measured, pairs[column], _student(pairs), pairs["twin"], rule, **about)


def of_twins(measured: str, pairs: pd.DataFrame, rule: Rule, column: str = "difference", **about) -> Part:
    """A measurement over twins alone."""
    return part(measured, pairs[column], pairs["twin"], None, rule, **about)


def changed(
    over: Callable[..., Part],
    measured: str,
    pairs: pd.DataFrame,
    column: str,
    rule: Rule,
    *,
    sides: tuple[str, str] = measures.SIDES,
    **about,
) -> Part:
    """The change of a recorded number within pairs; without a value where it is not recorded.

    Args:
        over: `of_pairs` or `of_twins`.
    """
    again = measures.ATLAS if over is of_twins else measures.TRIALS_AGAIN
    try:
        known = change(pairs, column, again, sides)
    except LeftOut as why:
        return unknown(measured, why, **about)
    return over(measured, known, rule, **about)


def unknown(measured: str, why: LeftOut, **about) -> Part:
    """A measurement without a value; a claim that rests on it is not supported without it."""
    return Part(measured, np.nan, np.nan, np.nan, 0, **about, remark=str(why))


def _student(pairs: pd.DataFrame) -> pd.Series:
    return pairs["study"] + " " + pairs["student"]


def _known(make: Callable[[], Part]) -> list[Part]:
    """A control, or none where these results do not have it."""
    try:
        return [make()]
    except LeftOut:
        return []


# --- Shen et al. ----------------------------------------------------------------------------------


def _at_one(tables: Tables, alpha: float, *, scratch: bool = True) -> pd.DataFrame:
    pairs = measures.student_pairs(measures.distilled(tables, scratch=scratch), alpha)
    return needed(pairs[pairs["temperature"] == 1], "no pair of students was taught at T = 1")


def c1(tables: Tables, alpha: float) -> list[Part]:
    """Accuracies of students, and beside them those of students that were trained before."""
    pairs = measures.mcnemar(_at_one(tables, alpha), tables.right)
    tests = pairs.dropna(subset="p_value")
    better, worse = (
        int(((tests["p_value"] < LEVEL) & (sign * (tests["gained"] - tests["lost"]) > 0)).sum())
        for sign in (1, -1)
    )
    remark = f"McNemar: better {better}, worse {worse} of {len(tests)}" if len(tests) else ""
    first = of_pairs("accuracy of students from scratch, T = 1", pairs, ("above", -MARGIN), remark=remark)

    def trained() -> Part:
        pairs = _at_one(tables, alpha, scratch=False)
        return of_pairs("accuracy of trained students, T = 1", pairs, ("above", -MARGIN), counts=False)

    return [first, *_known(trained)]


def c2(tables: Tables, alpha: float) -> list[Part]:
    """1 - S on both splits and at equal softness, and what does not change with the scale of the logits."""
    twins, lower = measures.model_twins(measures.teachers(tables), alpha), ("below", 0.0)
    first = changed(of_twins, "1 - S, evaluation split", twins, "intra_class_variance", lower)
    if first.n:
        down = change(twins, "intra_class_variance")["difference"] < 0
        first = replace(first, remark=f"lower in {down.sum()} of {first.n} twins")
    parts = [
        first,
        changed(of_twins, "1 - S, transfer set", twins, "transfer_intra_class_variance", lower),
        changed(of_twins, "spread ratio, evaluation split", twins, "spread_ratio", lower, unit="ratio"),
        changed(of_twins, "spread ratio, transfer set", twins, "transfer_spread_ratio", lower, unit="ratio"),
    ]
    measured = "1 - S, transfer set, unsmoothed twin at the T of equal γ"
    try:
        found = measures.at_equal_softness(measures.distilled(tables), alpha, "teacher_intra_class_variance")
        needed(found, "no unsmoothed twin is as soft at any temperature")
    except LeftOut as why:
        return [*parts, unknown(measured, why)]
    found = found.drop_duplicates("twin")  # of all its students the same but for their views
    return [*parts, of_twins(measured, found.assign(difference=found["smooth"] - found["hard"]), lower)]


def c3(tables: Tables, alpha: float) -> list[Part]:
    """Relative distances of class centres, of similar pairs and against the others, and how even they are."""
    table, parts = measures.centre_changes(tables, alpha), []
    for name, counts in (("relative_distance", True), ("separation", False), ("equidistance", False)):
        known = table.dropna(subset=[f"{name}_{side}" for side in SIDES])
        if known.empty:
            continue
        wide = change(known, name).pivot_table(index="twin", columns="pairs", values="difference")
        wide = wide.assign(interaction=wide["similar"] - wide["other"]).dropna().reset_index()
        # Other classes are as far from every image of a class, where smoothing has erased how they differ.
        wanted = {"similar": "similar", "interaction": "similar minus other"}
        rule = ("above", 0.0)
        if name == "equidistance":
            wanted, rule = {"other": "other"}, ("below", 0.0)
        for column, of in wanted.items():
            measured = f"{name.replace('_', ' ')}, {of} classes"
            parts.append(of_twins(measured, wide, rule, column, unit="ratio", counts=counts))
    return parts


def c4(tables: Tables, alpha: float) -> list[Part]:
    """Whether twins agree on the order of other classes as much as two unsmoothed seeds do."""
    table = measures.label_orders(tables, alpha)
    table = table.assign(difference=table["between_twins"] - table["between_seeds"])
    means = table[["between_twins", "between_seeds"]].mean()
    remark = f"between twins ρ {means.iloc[0]:.2f}, between seeds {means.iloc[1]:.2f}"
    measured = "Spearman's ρ of soft labels, between twins minus between seeds"
    return [of_twins(measured, table, ("above", -SAME_ORDER), unit="correlation", remark=remark)]


def _last(tables: Tables, alpha: float, column: str, why: str) -> pd.DataFrame:
    trials = measures.distilled(tables)
    last = measures.last_epochs(tables, trials[trials["temperature"] == 1], column, why)
    return measures.student_pairs(last, alpha)


def c5(tables: Tables, alpha: float) -> list[Part]:
    """The training loss of the last epoch, and what it is made of."""
    why = "the teacher's entropy by epoch is not recorded; run the trials again"
    pairs, higher = _last(tables, alpha, "cross_entropy", why), ("above", 0.0)
    return [
        changed(of_pairs, "cross-entropy of the last epoch", pairs, "cross_entropy", higher, unit="nats"),
        changed(of_pairs, "KL of the last epoch", pairs, "kl", higher, unit="nats"),
        changed(of_pairs, "teacher's entropy", pairs, "entropy", higher, unit="nats", counts=False),
    ]


def c6(tables: Tables, alpha: float) -> list[Part]:
    """The student's error on watched images, and the gap to the training loss."""
    pairs = _last(tables, alpha, "watched_error", "the study watches no images (`watch`)")
    gaps = {f"gap_{side}": pairs[f"watched_nll_{side}"] - pairs[f"cross_entropy_{side}"] for side in SIDES}
    pairs, about = pairs.assign(**gaps), {"unit": "nats", "counts": False}
    measured = "NLL on watched images minus training cross-entropy"
    return [
        changed(of_pairs, "error on watched images, last epoch", pairs, "watched_error", ("below", MARGIN)),
        changed(of_pairs, measured, pairs, "gap", ("below", 0.0), **about),
    ]


def _taught(tables: Tables) -> pd.DataFrame:
    """Students from scratch at T = 1, and what the atlas says of their teachers."""
    trials = measures.distilled(tables)
    trials = trials[(trials["temperature"] == 1) & trials["alpha"].notna()].dropna(
        subset=["teacher_accuracy"]
    )
    about = ["study", "name", "intra_class_variance", "spread_ratio", "nll"]
    models = tables.models[about].drop_duplicates(["study", "name"])
    trials = trials.astype({"teacher_accuracy": float})
    return trials.merge(models, left_on=["study", "teacher"], right_on=["study", "name"], how="left")


def coefficient(design: np.ndarray, column: int) -> Callable:
    """Weighted least squares as a statistic for `crossed_bootstrap`: one coefficient.

    Args:
        design: [N, P].
        column: of the coefficient.
    """
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    size = design.shape[1]

    def statistic(values, weights):
        left = (weights @ products).reshape(-1, size, size)
        right = weights @ (design * values[:, None])
        return (np.linalg.pinv(left, hermitian=True) @ right[:, :, None])[:, column, 0]

    return statistic


def _students_in(table: pd.DataFrame) -> np.ndarray:
    """[N, students] which student each row is of."""
    return pd.get_dummies(_student(table)).to_numpy(float)


def c7(tables: Tables, alpha: float) -> list[Part]:
    """Least squares of the student's accuracy on the teacher's accuracy and its smoothing, a constant a
    student.
    """
    table = _taught(tables)
    table = table[(table["alpha"] == 0) | np.isclose(table["alpha"], alpha)]
    own = _students_in(table)
    design = np.column_stack([table["teacher_accuracy"], table["alpha"] / alpha, own])
    if len(table) < NEEDED or np.linalg.matrix_rank(design) < design.shape[1]:
        raise LeftOut("accuracy and smoothing of the teachers of these students do not vary apart")
    args = table["accuracy"], _student(table), table["twin"]
    partial = correlation(*_residuals(table, alpha, own), "spearman")
    return [
        part(
            "points of the student a point of the teacher, at equal smoothing",
            *args,
            ("above", 0.0),
            statistic=coefficient(design, 0),
            unit="ratio",
            remark=f"partial Spearman ρ {number(partial.value, '+.2f')}",
        ),
        part(
            "smoothing, at equal accuracy of the teacher",
            *args,
            ("above", -MARGIN),
            statistic=coefficient(design, 1),
        ),
    ]


def _residuals(table: pd.DataFrame, alpha: float, own: np.ndarray) -> list[np.ndarray]:
    """Accuracies of teachers and of students, less what smoothing and the student explain."""
    given = np.column_stack([table["alpha"] / alpha, own])
    return [
        values - given @ np.linalg.lstsq(given, values, rcond=None)[0]
        for values in (table["teacher_accuracy"].to_numpy(float), table["accuracy"].to_numpy(float))
    ]


def left_out_errors(table: pd.DataFrame, predictors: Sequence[str]) -> np.ndarray:
    """Of each student of a teacher the absolute error of its accuracy, predicted without that teacher, [N].

    Least squares on the predictors with a constant a student.
    """
    design = np.column_stack([table[[*predictors]].to_numpy(float), _students_in(table)])
    accuracy, teacher = table["accuracy"].to_numpy(float), table["study"] + " " + table["teacher"]
    errors = np.zeros(len(table))
    for name in teacher.unique():
        out = (teacher == name).to_numpy()
        found = np.linalg.lstsq(design[~out], accuracy[~out], rcond=None)[0]
        errors[out] = np.abs(accuracy[out] - design[out] @ found)
    return errors


def c8(tables: Tables, alpha: float) -> list[Part]:
    """What 1 - S and its rivals add to a teacher's accuracy in predicting its students, it being left out."""
    table = _taught(tables)
    names = {
        "teacher_accuracy": "accuracy",
        "nll": "NLL",
        "intra_class_variance": "1 - S",
        "spread_ratio": "spread ratio",
    }
    parts = []
    for more, beside, counts in (
        ("intra_class_variance", ["teacher_accuracy"], True),
        ("intra_class_variance", ["teacher_accuracy", "nll"], True),
        ("spread_ratio", ["teacher_accuracy"], False),
        ("nll", ["teacher_accuracy"], False),
    ):
        known = table.dropna(subset=[*beside, more]).reset_index(drop=True)
        measured = f"fall of the error by {names[more]}, beside {' and '.join(map(names.get, beside))}"
        if len(known[["study", "teacher"]].drop_duplicates()) < NEEDED:
            why = LeftOut(f"known of fewer than {NEEDED} teachers ({measures.ATLAS} records it)")
            parts.append(unknown(measured, why, counts=counts))
            continue
        gain = left_out_errors(known, beside) - left_out_errors(known, [*beside, more])
        about = (pd.Series(gain), _student(known), known["twin"])
        parts.append(part(measured, *about, ("above", 0.0), counts=counts))
    return parts


def c9(tables: Tables, alpha: float) -> list[Part]:
    """1 - S of unsmoothed models that were trained longer, or with CutMix; whether they are surer or softer.

    Without either comparison the claim cannot be supported; without both it is not measured.
    """
    parts, reasons = [], []
    for differ, end in (
        (measures.longer, "trained longer minus shorter"),
        (measures.cut_mixed, "with CutMix minus without"),
    ):
        try:
            pairs = differ(tables).rename(columns={"recipe": "twin"})
        except LeftOut as why:
            reasons.append(why)
            parts.append(unknown(f"1 - S, {end}", why))
            continue
        lower, about = ("below", 0.0), {"sides": ("less", "more")}
        parts += [
            changed(of_twins, f"1 - S, {end}", pairs, "intra_class_variance", lower, **about),
            changed(of_twins, f"spread ratio, {end}", pairs, "spread_ratio", lower, unit="ratio", **about),
            changed(of_twins, f"γ, {end}", pairs, "off_target_mass", lower, counts=False, **about),
        ]
    if len(reasons) == 2:
        raise reasons[0]
    return parts


def _difference_of_means(second: np.ndarray) -> Callable:
    """Mean of the first group minus that of the second, as a statistic; `second` is bool [N]."""

    def statistic(values, weights):
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [
                (weights * of) @ values / (weights @ of)
                for of in ((~second).astype(float), second.astype(float))
            ]
        return means[0] - means[1]

    return statistic


def c10(tables: Tables, alpha: float) -> list[Part]:
    """What smoothing gains under a long tail, minus what it gains on as many balanced images."""
    tailed, control = measures.long_tails(tables, alpha)
    both = pd.concat([tailed, control], ignore_index=True)
    second = np.arange(len(both)) >= len(tailed)
    unit = both["study"] + " " + both["twin"]
    parts = [
        part(
            "gain under a long tail minus gain without",
            both["difference"],
            unit,
            None,
            ("below", 0.0),
            statistic=_difference_of_means(second),
        ),
        of_twins("gain under a long tail", tailed, ("below", 0.0), counts=False),
        of_twins("gain without one", control, ("below", 0.0), counts=False),
    ]
    return parts


def c11(tables: Tables, alpha: float) -> list[Part]:
    """The slope of the gain on the logarithm of the number of classes; beside it, at equal α/K."""
    measured = "slope of the gain on log K"
    equal = _known(
        lambda: _slope(f"{measured}, at equal α/K", measures.by_classes_at_equal_share(tables), counts=False)
    )
    return [_slope(measured, measures.by_classes(tables, alpha)), *equal]


def _slope(measured: str, pairs: pd.DataFrame, **about) -> Part:
    """The slope of what twins gain on the logarithm of their classes, with a level for each series."""
    logs = np.log(pairs["classes_hard"].to_numpy(float))
    own = pd.get_dummies(pairs["series_hard"]).to_numpy(float)
    statistic = coefficient(np.column_stack([logs, own]), 0)
    unit = pairs["study"] + " " + pairs["twin"]
    counts = sorted(pairs["classes_hard"].astype(int).unique())
    remark = f"{', '.join(map(str, counts))} classes"
    return part(
        measured, pairs["difference"], unit, None, ("below", 0.0), statistic=statistic, remark=remark, **about
    )


# --- Müller et al. --------------------------------------------------------------------------------


def m0(tables: Tables, alpha: float) -> list[Part]:
    """The unsmoothed teacher at the temperature at which it is as soft, against the smoothed one."""
    found = measures.at_equal_softness(measures.distilled(tables), alpha, "accuracy")
    needed(
        found, "no unsmoothed teacher is, at two temperatures, softer and less soft than its smoothed twin"
    )
    pairs = found.assign(difference=found["hard"] - found["smooth"])
    return [
        of_pairs(
            "accuracy with the unsmoothed minus with the smoothed teacher, at equal γ", pairs, ("above", 0.0)
        )
    ]


def m1(tables: Tables, alpha: float) -> list[Part]:
    """A smoothed teacher against smoothing the student's own labels."""
    trials = measures.distilled(tables)
    mine = trials[np.isclose(trials["alpha"], alpha) & (trials["temperature"] == 1)]
    own = tables.trials
    own = own[(own["objective"] == "xe") & np.isclose(own["smoothing"], alpha) & own["scratch"]]
    needed(
        own,
        "no student from scratch was trained on smoothed labels of its own (`methods.xe.label_smoothing`)",
    )
    keys = ["study", "student", "seed"]
    pairs = mine.merge(own[[*keys, "accuracy"]], on=keys, suffixes=("", "_alone"))
    needed(pairs, "no student was both taught by a smoothed teacher and trained on smoothed labels")
    pairs = pairs.assign(difference=pairs["accuracy"] - pairs["accuracy_alone"])
    return [of_pairs("accuracy with a smoothed teacher minus with smoothed labels", pairs, ("below", MARGIN))]


def m2(tables: Tables, alpha: float) -> list[Part]:
    """Calibration errors of smoothed teachers and of their students."""
    lower, parts = ("below", 0.0), []
    pairs = _at_one(tables, alpha)
    of_students = (
        ("calibration error of students (15 bins)", "student_calibration_error_after", {}),
        ("NLL of students", "student_negative_log_likelihood_after", {"unit": "nats", "counts": False}),
    )
    parts = [changed(of_pairs, name, pairs, column, lower, **about) for name, column, about in of_students]
    of_teachers = (
        ("calibration error of teachers (15 bins)", "calibration_error", {}),
        ("NLL of teachers", "nll", {"unit": "nats", "counts": False}),
    )
    try:
        twins = measures.model_twins(measures.teachers(tables), alpha)
    except LeftOut as why:
        return [unknown(of_teachers[0][0], why), *parts]
    mine = [changed(of_twins, name, twins, column, lower, **about) for name, column, about in of_teachers]
    return [mine[0], *parts, mine[1]]


# --- Chandrasegaran et al. ------------------------------------------------------------------------


def f1(tables: Tables, alpha: float) -> list[Part]:
    """What a higher temperature does under smoothing, beyond what it does without."""
    table = measures.by_temperature(measures.distilled(tables), alpha)
    table = needed(table[table["temperature"] > 1], "no pair of students was taught at T > 1 and at T = 1")
    lower = ("below", 0.0)
    temperatures = sorted(table["temperature"].unique())
    parts = []
    if len(temperatures) > 1:
        mean = table.groupby(["study", "twin", "student", "seed"], as_index=False)["interaction"].mean()
        parts.append(
            of_pairs("change by T under smoothing minus without, mean over T > 1", mean, lower, "interaction")
        )
    for temperature in temperatures:
        mine = table[table["temperature"] == temperature]
        measured = f"change from T = 1 to {temperature:g}, under smoothing minus without"
        parts.append(of_pairs(measured, mine, lower, "interaction", counts=len(temperatures) == 1))
    for side, name in (("smooth", "under smoothing"), ("hard", "without smoothing")):
        parts.append(of_pairs(f"change by T > 1 {name}", table, lower, f"change_{side}", counts=False))
    return parts


def f2(tables: Tables, alpha: float) -> list[Part]:
    """The diffusion index of students towards similar and other classes."""
    table = measures.diffusion(tables, alpha)
    keys = ["study", "twin", "student", "seed"]
    wide = table.groupby([*keys, "side"])[["similar", "other"]].mean().unstack()
    wide.columns = [f"{kind}_{side}" for kind, side in wide.columns]
    wide = wide.reset_index()
    wanted = [f"{kind}_{side}" for kind in ("similar", "other") for side in measures.SIDES]
    wide = needed(
        wide.reindex(columns=[*keys, *wanted]).dropna(), "no student's index is known under both twins"
    )
    wide["more"] = wide["similar_smooth"] - wide["similar_hard"]
    return [
        of_pairs(
            "η of similar classes, smoothed teacher", wide, ("above", 0.0), "similar_smooth", unit="ratio"
        ),
        of_pairs("η of other classes, smoothed teacher", wide, ("below", 0.0), "other_smooth", unit="ratio"),
        of_pairs(
            "η of similar classes, smoothed minus unsmoothed teacher",
            wide,
            ("above", 0.0),
            "more",
            unit="ratio",
        ),
    ]


def f3(tables: Tables, alpha: float) -> list[Part]:
    """The smoothed teacher at T = 1 against the best other cell of α and T, chosen by watched images."""
    trials = measures.distilled(tables)
    trials = trials[(trials["alpha"] == 0) | np.isclose(trials["alpha"], alpha)]
    last = measures.last_epochs(
        tables, trials, "watched_error", "cells cannot be chosen: the study watches no images"
    )
    first = np.isclose(last["alpha"], alpha) & (last["temperature"] == 1)
    keys = ["study", "twin", "student", "seed"]
    others = last[~first].sort_values("watched_error", kind="stable").drop_duplicates(keys)
    pairs = last[first].merge(others, on=keys, suffixes=("", "_other"))
    needed(pairs, "no student was taught by a smoothed teacher at T = 1 and in another cell of α and T")
    pairs = pairs.assign(difference=pairs["accuracy"] - pairs["accuracy_other"])
    return [
        of_pairs(
            "accuracy with the smoothed teacher at T = 1, minus in the best other cell", pairs, ("above", 0.0)
        )
    ]


# --- this project ---------------------------------------------------------------------------------


def shares(tables: Tables, alpha: float, objective: str) -> pd.DataFrame:
    """Trained students that a partition taught by twins: `share` and `delta`, smoothed minus unsmoothed."""
    trials = tables.trials
    mine = trials[(trials["objective"] == objective) & ~trials["scratch"] & trials["twin"].notna()]
    pairs = side_by_side(mine, [*measures.UNIT], alpha, "alpha")
    needed(pairs, f"no trained student was taught by {objective} by both twins")
    pairs = change(pairs, "teacher_share", measures.TRIALS_AGAIN)
    return pairs.assign(
        share=pairs["difference"],
        delta=pairs["accuracy_smooth"] - pairs["accuracy_hard"],
        its_accuracy=pairs["teacher_accuracy_smooth"].astype(float)
        - pairs["teacher_accuracy_hard"].astype(float),
    )


def b1(tables: Tables, alpha: float) -> list[Part]:
    """The teacher's share under KL+DP, and whether calibrating both models restores it."""
    pairs, lower = shares(tables, alpha, "kl_dp"), ("below", 0.0)
    differs = pairs["its_accuracy"].mean()
    parts = [
        of_pairs(
            "teacher's share with KL+DP",
            pairs,
            lower,
            "share",
            remark=f"teachers differ by {100 * differs:+.2f} points",
        )
    ]
    if pairs["twin"].nunique() > 3 and pairs["its_accuracy"].std() > 0:
        design = np.column_stack([np.ones(len(pairs)), pairs["its_accuracy"]])
        about = {"statistic": coefficient(design, 0), "counts": False}
        parts.append(
            of_pairs(
                "teacher's share with KL+DP, at equal accuracy of the teacher", pairs, lower, "share", **about
            )
        )
    parts.append(of_pairs("accuracy with KL+DP", pairs, lower, "delta", counts=False))

    def restored() -> Part:
        keys = [name for name in measures.UNIT if name != "method"]
        both = shares(tables, alpha, "kl_dp_calibrated").merge(
            pairs[[*keys, "share"]], on=keys, suffixes=("", "_plain")
        )
        needed(both, "no student was taught by both partitions")
        both = both.assign(restored=both["share"] - both["share_plain"])
        measured = "fall of the share with KL+DP, minus that among calibrated models"
        return of_pairs(measured, both, ("above", 0.0), "restored")

    def other(objective: str, name: str) -> Part:
        return of_pairs(
            f"teacher's share with {name}", shares(tables, alpha, objective), lower, "share", counts=False
        )

    parts += _known(restored)
    parts += _known(lambda: other("kl_dp_calibrated", "KL+DP among calibrated models"))
    return parts + _known(lambda: other("kl_dp_unsupervised", "KL+DP (unsupervised)"))


# --- verdicts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is tested.

    Attributes:
        claim: what is said.
        supports, refutes: what supports and what refutes it.
        measured: a function of the tables and α that gives the measurements, the first the main one.
        published: the papers' numbers; '' where none are established.
        source: of these.
    """

    claim: str
    supports: str
    refutes: str
    measured: Callable[[Tables, float], list[Part]]
    published: str = ""
    source: str = ""


def _gains(table: pd.DataFrame, keys: list[str], level: str, hard, smooth, column: str) -> pd.DataFrame:
    wide = table.pivot_table(index=keys, columns=level, values=column, sort=False)
    return (wide[smooth] - wide[hard]).rename("gain").reset_index()


def shens_gains() -> pd.DataFrame:
    """Table 2 of arXiv 2104.00676: `gain` in points of students by `data` and `student`."""
    table = reference.table("shen2021_table2_distillation")
    return _gains(table, ["data", "student"], "teacher_smoothing", "no", "yes", "student_top1")


def followups_gains() -> pd.DataFrame:
    """Of arXiv 2206.14532's repository: `gain` in points of smoothing by `data`, `student` and
    `temperature`.
    """
    table = reference.table("chandrasegaran2022_images")
    return _gains(table, ["data", "student", "temperature"], "alpha", 0.0, 0.1, "student_top1")


def interactions() -> pd.DataFrame:
    """The same, minus the gain at T = 1 (`interaction`), for T > 1."""
    table = followups_gains()
    keys = ["data", "student"]
    first = table[table["temperature"] == 1].set_index(keys)["gain"]
    rest = table[table["temperature"] > 1]
    return rest.assign(
        interaction=rest["gain"].to_numpy() - first.loc[[*map(tuple, rest[keys].to_numpy())]].to_numpy()
    )


def _signed(values, form: str = "+.2f") -> str:
    return ", ".join(number(value, form) for value in values)


def _published() -> dict[str, tuple[str, str]]:
    """What the papers print, by claim, and where."""
    gains, followup, apart = shens_gains(), followups_gains(), interactions()
    at_one = followup[followup["temperature"] == 1]["gain"]
    stability = reference.table("shen2021_table1_stability")["change_by_smoothing"].dropna()
    binary = reference.table("shen2021_binary").set_index("teacher_smoothing")["student_top1"]
    best = followups_best()
    error = reference.table("muller2019_mnist_distillation")["student_error"]
    ece = reference.table("muller2019_ece")
    shen, other = "arXiv 2104.00676", "repository of arXiv 2206.14532"
    changes = apart["interaction"]
    falls = f"{(changes < 0).sum()} of {len(apart)} cells below 0"
    falls += f", {_signed((changes.min(), changes.max()))} points at least and at most"
    table1 = reference.table("shen2021_table1_stability").query(
        "network == 'ResNet-18' and smoothing == 'yes'"
    )
    table2 = reference.table("shen2021_table2_distillation").query(
        "data == 'ImageNet-1K' and student == 'ResNet-18' and teacher_smoothing == 'yes'"
    )
    taught, alone = table2["student_top1"].item(), table1["top1"].item()
    return {
        "C1": (
            f"{_signed(gains['gain'])} points ({', '.join(gains['data'] + ' ' + gains['student'])}); "
            f"follow-up, T = 1: {_signed((at_one.min(), at_one.max()))} at least and at most",
            f"Table 2 of {shen}; {other}",
        ),
        "C2": (
            f"{_signed((stability.max(), stability.min()), '+.4f')} at least and at most in {len(stability)} "
            "networks, not paired",
            f"Table 1 of {shen}",
        ),
        "C6": (
            f"binary student {_signed([binary['yes'] - binary['no']], '+.3f')} points",
            f"section 5 of {shen}",
        ),
        "M0": (
            f"MNIST: error {error.iloc[0]:g} % with dropout, {error.iloc[1]:g} % with smoothing in its place",
            "arXiv 1906.02629, section 4",
        ),
        "M1": (
            f"ResNet-18: {taught:.2f} % taught in 200 epochs, {alone:.2f} % with smoothing in 90",
            f"Tables 1 and 2 of {shen}; never compared there",
        ),
        "M2": (
            "ECE "
            + ", ".join(f"{r.ece_hard_T1:g} to {r.ece_smoothed:g} ({r.data})" for r in ece.itertuples()),
            "Table 3 of arXiv 1906.02629, teachers alone",
        ),
        "F1": (falls, f"derived from the {other}"),
        "F3": (
            f"best in {int((best > 0).sum())} of {len(best)} settings, T chosen on test images",
            f"derived from the {other}",
        ),
    }


def followups_best() -> pd.Series:
    """Of each published setting what the smoothed teacher at T = 1 is over the best other cell, in points."""
    table = reference.table("chandrasegaran2022_images")
    first = (table["alpha"] == 0.1) & (table["temperature"] == 1)
    keys = ["data", "student"]
    return table[first].set_index(keys)["student_top1"] - table[~first].groupby(keys)["student_top1"].max()


CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "smoothing the teacher does not hurt the student, both at T = 1",
        "lower bound above -0.3 points",
        "upper bound below -0.3 points",
        c1,
    ),
    "C2": Claim(
        "smoothing lowers 1 - S",
        "below 0: 1 - S on both splits, the spread ratio, and 1 - S at equal γ",
        "one of them above 0",
        c2,
    ),
    "C3": Claim(
        "erasure happens between dissimilar classes; similar ones move apart",
        "relative distance of similar classes up, more than that of others",
        "one of them down",
        c3,
    ),
    "C4": Claim(
        "relations between classes are kept",
        "ρ between twins no more than 0.05 below that between seeds",
        "lower by more than 0.05",
        c4,
    ),
    "C5": Claim(
        "the training loss is higher with a smoothed teacher",
        "cross-entropy and KL both up",
        "one of them down (entropy alone is the floor of the loss)",
        c5,
    ),
    "C6": Claim(
        "the higher training loss does not carry to test images",
        "watched error up by less than 0.3 points",
        "up by more than 0.3 points",
        c6,
    ),
    "C7": Claim(
        "the teacher's accuracy decides",
        "accuracy's slope above 0, and smoothing's term above -0.3 points",
        "slope below 0, or smoothing's term below -0.3 points",
        c7,
    ),
    "C8": Claim(
        "S finds good teachers beyond their accuracy",
        "it lowers the error of predicting students, beside accuracy, and beside accuracy and NLL",
        "it raises it",
        c8,
    ),
    "C9": Claim(
        "longer training and CutMix raise S",
        "1 - S and the spread ratio down, with both",
        "one of them up",
        c9,
    ),
    "C10": Claim(
        "smoothing gains less, or nothing, under a long tail",
        "gain under the tail below that without",
        "above it",
        c10,
    ),
    "C11": Claim(
        "smoothing gains less with more classes",
        "slope of the gain on log K below 0",
        "above 0",
        c11,
    ),
    "M0": Claim(
        "at equal softness the unsmoothed teacher teaches better",
        "above 0",
        "below 0",
        m0,
    ),
    "M1": Claim(
        "a smoothed teacher is no better than smoothed labels",
        "better by less than 0.3 points",
        "better by more than 0.3 points",
        m1,
    ),
    "M2": Claim(
        "smoothing calibrates teachers, and students inherit it",
        "calibration errors of teachers and of students down",
        "one of them up",
        m2,
    ),
    "F1": Claim(
        "a higher temperature undoes what smoothing gains",
        "interaction below 0",
        "above 0",
        f1,
    ),
    "F2": Claim(
        "at a higher temperature students diffuse towards similar classes",
        "η of similar classes above 0, of others below, and more for smoothed teachers",
        "one of them the other way",
        f2,
    ),
    "F3": Claim(
        "a smoothed teacher at T = 1 is best",
        "above the best other cell of α and T, chosen on images kept aside",
        "below it",
        f3,
    ),
    "B1": Claim(
        "smoothing starves KL+DP (ours)",
        "teacher's share down, and restored among calibrated models where these were run",
        "share up, or down further among calibrated models",
        b1,
    ),
}


def claims() -> dict[str, Claim]:
    """The claims with the papers' numbers."""
    published = _published()
    return {
        name: replace(claim, **dict(zip(("published", "source"), published.get(name, ("", "")), strict=True)))
        for name, claim in CLAIMS.items()
    }


def verdicts(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every claim with its verdict, and every measurement.

    Returns:
        A row a claim: `claim` (its sign), `says`, `measured` (the main one), `value`, `low`, `high`, `n`,
        `unit`, `p_value` (of the better supported of both verdicts: of several measurements the largest of
        what supports each, and Bonferroni's smallest of what refutes it), `p_holm` (corrected for all
        claims), `verdict`, `by_itself` (the verdict without this correction), `remark`, `published`,
        `source`, `supports`, `refutes`. And a row a measurement: `claim`, `measured`, `value`, `low`, `high`,
        `n`, `unit`, `p_supports`, `p_refutes`, `counts`, `remark`.
    """
    rows, parts = [], []
    for name, claim in claims().items():
        row = {"claim": name, "says": claim.claim}
        try:
            found = claim.measured(tables, measures.main_alpha(tables))
            counted = [one for one in found if one.counts]
            main = next((one for one in counted if one.n), None)
            if main is None:
                raise LeftOut(counted[0].remark)
        except LeftOut as why:
            row |= {"measured": f"{NOT_MEASURED}: {why}", "p_value": np.nan, "n": 0, "unit": "", "remark": ""}
        else:
            parts += [{"claim": name, **_row_of(one)} for one in found]
            row |= _row_of(main) | _combined(counted)
        about = {field: getattr(claim, field) for field in ("supports", "refutes", "published", "source")}
        rows.append(row | about)
    names = ["claim", "says", "measured", "value", "low", "high", "n", "unit", "p_value", "side", "remark"]
    names += ["published", "source", "supports", "refutes"]
    table = pd.DataFrame(rows).reindex(columns=names)
    table.insert(9, "p_holm", holm(table["p_value"].to_numpy(float)))
    for column, p in (("verdict", "p_holm"), ("by_itself", "p_value")):
        decided = np.where(table[p] <= LEVEL, table["side"], UNDECIDED)
        table[column] = np.where(table["n"] == 0, NOT_MEASURED, decided)
    columns = ["claim", "measured", "value", "low", "high", "n", "unit", "p_supports", "p_refutes", "counts"]
    return table.drop(columns="side"), pd.DataFrame(parts, columns=[*columns, "remark"])


def _row_of(one: Part) -> dict:
    return {{"supports": "p_supports", "refutes": "p_refutes"}.get(k, k): v for k, v in vars(one).items()}


def _combined(parts: list[Part]) -> dict:
    """The p-value of a claim of several measurements, and to which side it lies."""
    supports = np.max([one.supports for one in parts])  # NaN where one of them cannot be tested
    known = [one.refutes for one in parts if not np.isnan(one.refutes)]
    refutes = min(1.0, len(parts) * min(known)) if known else np.nan
    side = SUPPORTED if supports < refutes else REFUTED
    return {"p_value": float(np.fmin(supports, refutes)), "side": side}
