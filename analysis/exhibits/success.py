"""How often and how much a transfer helps: Fig. 4 of arXiv 2310.17653, and what it does not show.

A success may be a single sample won, so every trial's transfer delta stands beside the success rates, with
its interval and its test.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import inference, knowledge_measures, style
from analysis.exhibit import Shown, exhibit
from analysis.measures import MEANINGS, teacher_level
from analysis.methods import CONTROL, in_order, label
from analysis.statements import rows
from analysis.text import Column, Number

TITLE = "How often, and how much, a transfer helps"
DELTA = "transfer delta (percentage points)"
DIFFERENCE = "teacher's accuracy minus the student's (points)"
NAMED = 60  # pairs, up to which the forest plot says their names
VERDICTS = {"better": style.BLUE, "worse": style.ORANGE, "unclear": style.GREY}
Numbers = dict[str, dict[str, Number]]


@exhibit("Fig. 4a")
def fig_4a_success_rates(by_method, of_methods, trials, per_student, equal):
    """Left: a box over the students' success rates (the share of a student's teachers, seeds averaged, with a
    transfer delta above 0), a dot a student. Right: every trial's delta; diamonds are means, with intervals
    over students and teachers. A success may be one sample won, and a method that changes nothing but by
    chance succeeds half the time: read both panels. Here every student and trial counts. The authors'
    plotting scripts leave out a student with a method whose mean delta is -10 points or less, trials with -20
    or less, and a fixed list of ten students, so that students that diverged are in no published box."""
    return Shown(by_method, _success_rates(trials, per_student, of_methods, equal))


def _success_rates(trials: pd.DataFrame, students: pd.DataFrame, of_methods: Numbers, equal: float) -> Figure:
    done = trials[trials["status"] == "ok"]
    done = done.assign(level=teacher_level(done["accuracy_difference"], equal).fillna("no teacher"))
    methods = in_order(done["method"])
    drawing, (rates, deltas) = style.panelled(
        "How often, and how much, a transfer helps, by method",
        2,
        size=(10, 1.8 + 0.65 * len(methods)),
        sharey=True,
        width_ratios=[4, 5],
    )
    for y, method in enumerate(methods):
        _box(rates, y, 100 * students.loc[students["method"] == method, "success_rate"])
        _deltas(deltas, y, done[done["method"] == method], len(done) > style.DENSE)
        mean = of_methods[method]["delta_mean"]
        deltas.plot([100 * mean.low, 100 * mean.high], [y + 0.3] * 2, color=style.BLACK, linewidth=1.5)
        mark = {"color": style.WHITE, "markeredgecolor": style.BLACK, "markersize": 6}
        deltas.plot(100 * mean.value, y + 0.3, "D", **mark)
    deltas.axvline(0, color=style.BLACK, linewidth=1, zorder=1)
    rates.set(xlabel="success rate per student (% of its teachers)", xlim=(-4, 104))
    rates.set_ylim(len(methods) - 0.4, -0.6)
    rates.set_yticks(range(len(methods)), map(label, methods))
    rates.set_title("How often: one dot a student", fontsize=11)
    deltas.set_xlabel(DELTA)
    deltas.set_title("How much: one mark a trial", fontsize=11)
    bounds = {"weaker": f" (< -{equal:g})", "equal": f" (±{equal:g})", "stronger": f" (> +{equal:g})"}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name + bounds.get(name, ""))
        for name, (color, marker) in style.LEVELS.items()
        if (done["level"] == name).any()
    ]
    diamond = {"marker": "D", "markerfacecolor": style.WHITE}
    handles += [Line2D([], [], color=style.BLACK, label="mean, 95 % interval", **diamond)]
    text = (
        f"{len(done):,} trials, {done['student'].nunique()} students, {done['teacher'].nunique()} teachers; "
        "teacher's accuracy minus the student's, in points:"
    )
    style.legend(drawing, handles, text, 5)
    for axes in (rates, deltas):
        axes.grid(visible=False, axis="y")
    return drawing


def _box(axes: Axes, y: int, rates: pd.Series) -> None:
    """The students' rates, in percent."""
    grey = {"color": style.GREY}
    axes.boxplot(
        rates,
        positions=[y],
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        medianprops={"color": style.BLACK, "linewidth": 2},
        boxprops=grey,
        whiskerprops=grey,
        capprops=grey,
    )
    spread = y + style.jitter(len(rates), 0.2)
    axes.scatter(rates, spread, s=22, color=style.GREEN, alpha=0.75, linewidth=0, zorder=3)


def _deltas(axes: Axes, y: int, trials: pd.DataFrame, dense: bool) -> None:
    """A mark a trial, by the level of its teacher."""
    lanes = dict(zip(style.LEVELS, (-0.27, -0.09, 0.09, -0.09), strict=True))
    for name, (color, marker) in style.LEVELS.items():
        points = 100 * trials.loc[trials["level"] == name, "transfer_delta"]
        axes.scatter(
            points,
            y + lanes[name] + style.jitter(len(points), 0.06),
            s=8 if dense else 22,
            color=color,
            marker=marker,
            alpha=0.75,
            linewidth=float(marker == "x"),
            rasterized=dense,
        )


# --- the tables by method ---------------------------------------------------------------------------


def _by_method(measures: Numbers, columns: list[Column], methods: list[str]) -> Shown:
    """A table with a row a method; numbers that it does not have are dashes."""
    return Shown(columns=[Column("method", "subject|label"), *columns], rows=rows(measures, methods))


def _meaning(measure: str) -> str:
    return MEANINGS[measure][1]


@exhibit("Success rate")
def success_rate(of_methods, tested):
    """Each method's pairs of a student and a teacher, seeds averaged: how many gain anything."""
    columns = [
        Column("trials", "trials|number", _meaning("trials")),
        Column("failed", "failed|number", _meaning("failed")),
        Column("pairs", "pairs|number", _meaning("pairs")),
        Column("success %", "success_rate|percent(0)", _meaning("success_rate")),
        Column("if independent", "success_rate_independent|percent(0)", _meaning("success_rate_independent")),
        Column(
            "clear success %",
            "clear_success_rate_independent|percent(0)",
            _meaning("clear_success_rate") + ", here " + _meaning("clear_success_rate_independent"),
        ),
        Column(
            "students: median (quartiles) %",
            "success_student_median.alone|percent(0) ~ ' (' ~ success_student_q1|percent(0) ~ ' to ' ~ "
            "success_student_q3|percent(0) ~ ')'",
            _meaning("success_student_median"),
        ),
    ]
    return _by_method(of_methods, columns, in_order(tested["method"]))


@exhibit("Size of the transfer")
def size_of_the_transfer(of_methods, tested):
    """How much is gained, in percentage points, beside chance, other seeds, and fine-tuning without a teacher
    (the control)."""
    methods = in_order(tested["method"])
    over = {method: of_methods.get(f"{method} minus {CONTROL}", {}) for method in methods}
    measures = {
        method: of_methods[method] | {"over_control": over[method].get("difference_mean")}
        for method in methods
    }
    columns = [
        Column("mean Δ", "delta_mean|points", _meaning("delta_mean")),
        Column("above 0", "delta_positive|number ~ ' of ' ~ pairs|number", _meaning("delta_positive")),
        Column("worst trial", "delta_min|points", _meaning("delta_min")),
        Column("better", "better|number", _meaning("better")),
        Column("worse", "worse|number", _meaning("worse")),
        Column(
            "p < 0.05",
            "significant_positive|number ~ ' / ' ~ significant_negative|number",
            "trials better / worse by the same test, not corrected; chance gives 2.5 % each at most",
        ),
        Column("noise", "noise|number('.2f', 100)", _meaning("noise")),
        Column("seeds' SD", "seed_sd|number('.2f', 100)", _meaning("seed_sd")),
        Column(
            "over the control",
            "over_control|points",
            "Δ minus that of the same student and seed trained on without a teacher: mean over pairs",
        ),
    ]
    return _by_method(measures, columns, methods)


@exhibit("By the teacher's accuracy")
def by_the_teachers_accuracy(of_methods, taught, equal):
    """Mean delta in points, with the pairs above 0 of all, by the teacher's accuracy against the student's:
    equal is within ±{{ equal|number("g") }} points. A handful of teachers says little of others:
    the last three columns are for other students with these teachers."""
    columns = [
        Column(
            level,
            f"delta_mean_{level}|points ~ (' (' ~ delta_positive_{level}|number ~ '/' ~ "
            f"delta_positive_{level}.n ~ ')' if delta_mean_{level}.known else '')",
            f"{_meaning('delta_mean')} (pairs above 0/all)",
        )
        for level in ("weaker", "equal", "stronger")
    ]
    columns += [
        Column(
            f"{level}, these teachers",
            f"delta_mean_given_teachers_{level}|points",
            "the same [95 % interval over students]",
        )
        for level in ("weaker", "equal", "stronger")
    ]
    shown = _by_method(of_methods, columns, in_order(taught["method"]))
    return Shown(columns=shown.columns, rows=shown.rows, facts={"equal": equal})


@exhibit("Gained and lost")
def gained_and_lost(of_methods, tested):
    """Medians over trials, in percent of the samples: what a delta is the difference of."""
    columns = [
        Column("gain %", "knowledge_gain_median|percent(2)", _meaning("knowledge_gain_median")),
        Column("loss %", "knowledge_loss_median|percent(2)", _meaning("knowledge_loss_median")),
        Column("transfer rate %", "transfer_rate_median|percent(0)", _meaning("transfer_rate_median")),
        Column("gain rate %", "gain_rate_median|percent(0)", _meaning("gain_rate_median")),
    ]
    return _by_method(of_methods, columns, in_order(tested["method"]))


# --- by difference, and pair by pair ----------------------------------------------------------------


@exhibit("Fig. 4b")
def fig_4b_delta_by_difference(taught):
    """Pairs in bins of equal number by Δ_acc. The paper shows the mean of the best quarter of each bin
    (left), which is above 0 even for a method that changes nothing but by chance; the mean and the median
    beside it show what a pair can expect. Intervals are over students."""
    table = knowledge_measures.by_difference(taught)
    return Shown(table, _by_difference(table), keys=["method", "bin"])


def _by_difference(table: pd.DataFrame) -> Figure:
    panels = {"top": "mean of the best quarter", "mean": "mean, 95 % interval", "median": "median"}
    drawing, axes = style.panelled(
        "Transfer delta by how much better the teacher is", 3, size=(10.5, 5), sharex=True, sharey=True
    )
    methods = style.styles(style.METHODS, table["method"])
    for panel, (column, title) in zip(axes, panels.items(), strict=True):
        panel.axhline(0, color=style.BLACK, linewidth=1)
        panel.axvline(0, color=style.BLACK, linewidth=1, linestyle=":")
        for method, (color, marker) in methods.items():
            mine = table[table["method"] == method]
            x = 100 * mine["centre"]
            if column == "mean":
                panel.vlines(x, 100 * mine["mean_low"], 100 * mine["mean_high"], color=color, linewidth=1.5)
            panel.plot(x, 100 * mine[column], color=color, marker=marker, linewidth=2, markersize=5)
        panel.set_title(title, fontsize=11)
    axes[0].set_ylabel(DELTA)
    axes[1].set_xlabel(DIFFERENCE)
    pairs = table.drop_duplicates("bin").sort_values("bin")["pairs"].tolist()
    each = f"{min(pairs)}" if min(pairs) == max(pairs) else f"{min(pairs)} to {max(pairs)}"
    style.legend(drawing, style.method_handles(methods), f"{len(pairs)} bins of {each} pairs", 5)
    return drawing


@exhibit("Every pair")
def forest(tested, taught):
    """Each line is a trial's delta with its 95 % interval from the samples it gained and lost; seeds of a
    pair lie side by side. Filled marks are those that an exact McNemar test tells from 0 at q < 0.05,
    corrected for all trials of the study (Benjamini-Hochberg): one in twenty of them is expected to be
    chance."""
    one = tested[tested["teacher"].notna()]
    low, high = inference.paired_interval(one["gained"], one["lost"], one["evaluation_samples"])
    columns = ["method", "student", "teacher", "seed", "trial", "accuracy_difference", "transfer_delta"]
    table = one[[*columns, "gained", "lost", "p", "q", "verdict"]].assign(low=low, high=high)
    return Shown(table, _forest(table))


def _forest(trials: pd.DataFrame) -> Figure:
    methods = in_order(trials["method"])
    pairs = trials.drop_duplicates(["student", "teacher"])
    pairs = pairs.sort_values(["accuracy_difference", "student"], kind="stable")[["student", "teacher"]]
    place = {tuple(pair): y for y, pair in enumerate(pairs.itertuples(index=False))}
    seeds = sorted(trials["seed"].unique())
    lane = {seed: 0.6 * (k + 0.5) / len(seeds) - 0.3 for k, seed in enumerate(seeds)}
    named = len(pairs) <= NAMED
    drawing, panels = style.panelled(
        "Transfer delta of every pair, from the weakest teachers (top) to the strongest",
        len(methods),
        columns=len(methods),
        size=(3.2 + 1.9 * len(methods), 2.4 + (0.2 * len(pairs) if named else 9)),
        sharex=True,
        sharey=True,
    )
    at = [place[pair] for pair in zip(trials["student"], trials["teacher"], strict=True)]
    trials = trials.assign(y=np.array(at, float) + trials["seed"].map(lane).to_numpy(float))
    for panel, method in zip(panels, methods, strict=True):
        mine = trials[trials["method"] == method]
        _lines(panel, mine, named, len(pairs) > style.DENSE)
        counts = mine["verdict"].value_counts()
        panel.set_title(
            f"{label(method)}\n{counts.get('better', 0)} better, {counts.get('worse', 0)} worse", fontsize=10
        )
    panels[0].set_ylim(len(pairs) - 0.3, -0.7)
    if named:
        panels[0].set_yticks(range(len(pairs)), [f"{s} from {t}" for s, t in place], fontsize=8)
    else:
        panels[0].set(ylabel=f"{len(pairs):,} pairs", yticks=[])
    panels[len(panels) // 2].set_xlabel(DELTA)
    texts = {"better": "better (q < 0.05)", "worse": "worse (q < 0.05)", "unclear": "unclear"}
    handles = [
        Line2D([], [], color=color, marker="o", markerfacecolor=_face(name, color), label=texts[name])
        for name, color in VERDICTS.items()
    ]
    style.legend(drawing, handles, f"{len(trials):,} trials of {len(pairs):,} pairs, 95 % intervals", 3)
    return drawing


def _face(verdict: str, color: str) -> str:
    """Filled where a test tells it from 0."""
    return style.WHITE if verdict == "unclear" else color


def _lines(panel: Axes, trials: pd.DataFrame, named: bool, dense: bool) -> None:
    """A line and a mark a trial."""
    panel.axvline(0, color=style.BLACK, linewidth=1)
    for verdict, color in VERDICTS.items():
        mine = trials[trials["verdict"] == verdict]
        bounds = 100 * mine[["low", "high"]].to_numpy(float).T
        panel.hlines(mine["y"], *bounds, color=color, linewidth=1.5 if named else 0.5, rasterized=dense)
        panel.scatter(
            100 * mine["transfer_delta"],
            mine["y"],
            s=22 if named else 3,
            facecolor=_face(verdict, color),
            edgecolor=color,
            linewidth=1 if named else 0.3,
            zorder=3,
            rasterized=dense,
        )
