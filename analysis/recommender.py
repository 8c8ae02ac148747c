"""Which teacher each rule takes, and what that costs: regret; tables, and no text.

A rule ranks the teachers of a student before any training (`study.recommend`, table `recommendations`). Its
regret is the best teacher's transfer delta minus that of the teacher it takes. Two rules need deltas alone,
and are made here: any teacher (`random`), and the teacher that is best for all other students (`one_order`).
Where a rule has several teachers first, it takes any of them: their mean counts.

Deltas are measured, and the best of several measured ones is too good by chance: a rule that knew the true
deltas would have some regret, too. Left out on purpose: pairs without a delta.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from analysis import reference
from analysis.inference import bootstrap_interval
from analysis.methods import by_order_of_methods

ACCURATE, RANDOM, ONE_ORDER, FITTED = "most_accurate", "random", "one_order", "fitted"
LABELS = {
    ACCURATE: "most accurate",
    "largest": "largest",
    RANDOM: "any (mean of all)",
    ONE_ORDER: "best for the other students",
    "most_flips": "most positive flips (ρ_pos)",
    "fewest_negative_flips": "fewest negative flips (ρ_neg)",
    "least_alike": "least alike (κ_p)",
    "ensemble_gain": "gain of the mean of both",
    "pool_gain": "accuracy gained by the opinion pool",
    "likelihood_gain": "likelihood gained by the opinion pool",
    FITTED: "regression on all features",
}
COLUMNS = ["student", "teacher", "method", "rule", "score", "predicted", "low", "high"]
PAIR = ["method", "student", "teacher"]
TIE = 1e-12  # scores closer than that are the same


def with_deltas(recommended: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """Each rule's score beside the delta of the pair, the rules that need deltas alone among them.

    Args:
        recommended: the table `recommendations`.
        units: `method`, `student`, `teacher`, `transfer_delta`, one row a pair and method; of students with
            fewer than two teachers nothing is said.
    """
    deltas = units[[*PAIR, "transfer_delta"]].dropna()
    deltas = deltas[deltas.groupby(["method", "student"])["teacher"].transform("size") > 1]
    found = recommended[COLUMNS].merge(deltas, on=PAIR)
    return pd.concat([found, baselines(deltas)], ignore_index=True)


def baselines(deltas: pd.DataFrame) -> pd.DataFrame:
    """`random` and `one_order`, whose score is the mean delta that other students had from the teacher."""
    by_teacher = deltas.groupby(["method", "teacher"])["transfer_delta"]
    others = by_teacher.transform("size") - 1
    mean = (by_teacher.transform("sum") - deltas["transfer_delta"]) / others.where(others > 0)
    return pd.concat([deltas.assign(rule=RANDOM, score=0.0), deltas.assign(rule=ONE_ORDER, score=mean)])


def by_student(scored: pd.DataFrame) -> pd.DataFrame:
    """What each rule costs each student: `method`, `rule`, `student`, `teachers`, `chosen` and `best` (both
    deltas), `regret`, `tau` (Kendall's, of score and delta; null where all scores are the same) and
    `covered` (the share of deltas inside the predicted interval; null without).

    Args:
        scored: as `with_deltas` gives it; a student whose score is null by some rule is left out of it.
    """
    rows = []
    for (method, rule, student), of in scored.groupby(["method", "rule", "student"], sort=False):
        score, delta = of["score"].to_numpy(float), of["transfer_delta"].to_numpy(float)
        if np.isnan(score).any():
            continue
        chosen = delta[score >= score.max() - TIE].mean()
        bounded = of.dropna(subset=["low", "high"]) if "low" in of else of.iloc[:0]
        inside = bounded["transfer_delta"].between(bounded["low"], bounded["high"]) if len(bounded) else None
        rows.append(
            {
                "method": method,
                "rule": rule,
                "student": student,
                "teachers": len(of),
                "chosen": chosen,
                "best": delta.max(),
                "regret": delta.max() - chosen,
                "tau": stats.kendalltau(score, delta).statistic if len({*score}) > 1 else np.nan,
                "covered": np.nan if inside is None else inside.mean(),
            }
        )
    return pd.DataFrame(rows)


def by_rule(students: pd.DataFrame) -> pd.DataFrame:
    """`by_student` as means over students, with 95 % intervals over students, with these teachers.

    Args:
        students: as `by_student` gives it.

    Returns:
        One row a method and rule: `called`, what the rule is in words, `students`, `chosen`, `regret`,
        `less` (regret minus that of the most accurate teacher, same students), `tau`, each but `chosen` with
        `_low` and `_high`; and `covered`.
    """
    rows = []
    for method, of_method in students.groupby("method", sort=False):
        wide = of_method.pivot(index="student", columns="rule", values="regret")
        for rule in _in_order(of_method["rule"].unique()):
            of = of_method[of_method["rule"] == rule]
            row = {"method": method, "rule": rule, "called": LABELS.get(rule, rule), "students": len(of)}
            row["chosen"] = of["chosen"].mean()
            values = {"regret": of["regret"], "tau": of["tau"]}
            if rule != ACCURATE and ACCURATE in wide:
                values["less"] = wide[rule] - wide[ACCURATE]
            for name in ("regret", "less", "tau"):
                known = values.get(name, pd.Series(dtype=float)).dropna()
                row[name] = known.mean()
                row[f"{name}_low"], row[f"{name}_high"] = bootstrap_interval(known)
            rows.append(row | {"covered": of["covered"].mean()})
    return by_order_of_methods(pd.DataFrame(rows))


def _in_order(rules: Iterable[str]) -> list[str]:
    place = {rule: number for number, rule in enumerate(LABELS)}
    return sorted(rules, key=lambda rule: (place.get(rule, len(place)), rule))


def published() -> pd.DataFrame:
    """`with_deltas` of the paper's 32 pairs (Table 7), by what it prints of its models: accuracy and size."""
    models = reference.table("models").query("setting == 'full'")
    teachers = models[models["role"] == "teacher"].set_index("paper_name")
    deltas = reference.deltas().assign(transfer_delta=lambda pairs: pairs["transfer_delta"] / 100)
    known = {ACCURATE: "paper_top1", "largest": "paper_params_m"}
    scored = [
        deltas.assign(rule=rule, score=deltas["teacher"].map(teachers[column]).astype(float))
        for rule, column in known.items()
    ]
    nothing = dict.fromkeys(["predicted", "low", "high"], np.nan)
    return with_deltas(pd.concat(scored).assign(**nothing), deltas)
