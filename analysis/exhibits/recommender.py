"""Which teacher a rule would have taken before any training, and what that costs."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis import recommender, style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.text import Column

TITLE = "Which teacher, before any training?"


ABOUT = (
    "Rules rank a student's teachers by what both say of images kept aside (`tune`). A rule's regret is the "
    "best teacher's transfer delta minus that of the teacher it takes. Measured deltas differ by chance, and "
    "the best of several is the best in part by luck: no rule is to be expected at a regret of 0."
)


def lines(material: Material) -> list[str] | None:
    """What regret is; no section where nothing is recommended."""
    return [ABOUT] if material.is_recorded("recommendations") else None


@exhibit("Regret by rule")
def regret_by_rule(recommended, taught):
    """Means over {{ students }} students, with 95 % intervals over students, with these teachers. A
    prediction for a student, and the regression, know the trials of the other students alone. τ is Kendall's
    rank correlation of score and delta within a student. "Covered" is the share of deltas that lie in their
    predicted 95 % interval."""
    students = recommender.by_student(recommender.with_deltas(recommended, taught))
    if students.empty:
        raise LeftOut("no student has trials with two teachers or more")
    table = recommender.by_rule(students)
    facts = {"students": students["student"].nunique()}
    return Shown(table, _regrets(table), _columns(table), keys=["method", "rule"], facts=facts)


@exhibit("Regret by rule, on the paper's pairs")
def regret_by_rule_paper(recommended):
    """Beside these results, the rules that need only what the paper prints, accuracy and size, on its 32
    pairs (Table 7): 8 students, 4 teachers, all of ImageNet."""
    table = recommender.by_rule(recommender.by_student(recommender.published()))
    return Shown(table, None, _columns(table), keys=["method", "rule"])


def _columns(table: pd.DataFrame) -> list[Column]:
    columns = [
        Column("method", "method|label"),
        Column("rule", "called"),
        Column("students", "students|number"),
        Column("Δ of the chosen", "chosen|points", "transfer delta of the teacher it takes, mean"),
        Column("regret", "bounded(regret, regret_low, regret_high)|points", "points lost [95 % interval]"),
        Column(
            "minus the most accurate's",
            "bounded(less, less_low, less_high)|points",
            "below 0: better than taking the most accurate teacher",
        ),
        Column("τ", "bounded(tau, tau_low, tau_high)|number('+.2f')", "rank correlation within a student"),
    ]
    if table["covered"].notna().any():
        columns.append(Column("covered", "covered|percent(0)", "deltas inside their predicted interval"))
    return columns


def _regrets(table: pd.DataFrame) -> Figure:
    methods = list(dict.fromkeys(table["method"]))
    rules = list(dict.fromkeys(table["called"]))
    drawing, panel = style.figure(
        "What each rule loses against the best teacher", (8, 1.8 + 0.5 * len(rules))
    )
    looks = style.styles(style.METHODS, methods)
    for lane, method in enumerate(methods):
        of = table[table["method"] == method].set_index("called").reindex(rules)
        color, marker = looks[method]
        y = [place + 0.7 * ((lane + 0.5) / len(methods) - 0.5) for place in range(len(rules))]
        panel.hlines(y, 100 * of["regret_low"], 100 * of["regret_high"], color=color, linewidth=1.5)
        panel.scatter(100 * of["regret"], y, color=color, marker=marker, s=26)
    panel.axvline(0, color=style.BLACK, linewidth=1)
    panel.set_yticks(range(len(rules)), rules)
    panel.set_ylim(len(rules) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("regret (percentage points), 95 % intervals over students")
    style.legend(drawing, style.method_handles(looks), "methods", 4)
    return drawing
