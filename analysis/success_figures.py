"""The figures of success and of the size of transfer, after Fig. 4 of arXiv 2310.17653.

A success may be a single sample won, so every trial's transfer delta stands beside the success rates, with
its interval and its test. What the paper does not have: methods compared on the same pairs of models, and
which properties of a student go with its gain.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.measures import in_order, label, per_student, teacher_level

DELTA = "transfer delta (percentage points)"
DIFFERENCE = "teacher's accuracy minus the student's (points)"
NAMED = 60  # pairs, up to which the forest plot says their names


def success_rates(trials: pd.DataFrame, summary: pd.DataFrame, equal: float = 1.0) -> Figure:
    """Fig. 4a: box plot of the students' success rates, and beside it every trial's delta.

    Args:
        trials: as `results.load` gives them.
        summary: as `measures.by_method` makes it.
        equal: half width, in points, of the band of equal teachers.
    """
    done, students = trials[trials["status"] == "ok"], per_student(trials)
    level = teacher_level(done["accuracy_difference"], equal).fillna("no teacher")
    shown = summary[summary["trials"] > 0].reset_index(drop=True)
    drawing, (rates, deltas) = style.panelled(
        "How often, and how much, a transfer helps, by method",
        2,
        size=(10, 1.8 + 0.65 * len(shown)),
        sharey=True,
        width_ratios=[4, 5],
    )
    grey = {"color": style.GREY}
    lanes = dict(zip(style.LEVELS, (-0.27, -0.09, 0.09, -0.09), strict=True))
    dense = len(done) > style.DENSE
    size = 8 if dense else 22
    for y, row in shown.iterrows():
        of_method = 100 * students.loc[students["method"] == row["method"], "success_rate"]
        rates.boxplot(
            of_method,
            positions=[y],
            orientation="horizontal",
            widths=0.6,
            showfliers=False,
            medianprops={"color": style.BLACK, "linewidth": 2},
            boxprops=grey,
            whiskerprops=grey,
            capprops=grey,
        )
        spread = y + style.jitter(len(of_method), 0.2)
        rates.scatter(of_method, spread, s=22, color=style.GREEN, alpha=0.75, linewidth=0, zorder=3)
        for name, (color, marker) in style.LEVELS.items():
            points = 100 * done.loc[(done["method"] == row["method"]) & (level == name), "transfer_delta"]
            deltas.scatter(
                points,
                y + lanes[name] + style.jitter(len(points), 0.06),
                s=size,
                color=color,
                marker=marker,
                alpha=0.75,
                linewidth=float(marker == "x"),
                rasterized=dense,
            )
        mean, low, high = (100 * row[f"delta_{part}"] for part in ("mean", "low", "high"))
        deltas.plot([low, high], [y + 0.3] * 2, color=style.BLACK, linewidth=1.5)
        deltas.plot(mean, y + 0.3, "D", color=style.WHITE, markeredgecolor=style.BLACK, markersize=6)
    deltas.axvline(0, color=style.BLACK, linewidth=1, zorder=1)
    rates.set(xlabel="success rate per student (% of its teachers)", xlim=(-4, 104))
    rates.set_ylim(len(shown) - 0.4, -0.6)
    rates.set_yticks(range(len(shown)), shown["label"])
    rates.set_title("How often: one dot a student", fontsize=11)
    deltas.set_xlabel(DELTA)
    deltas.set_title("How much: one mark a trial", fontsize=11)
    bounds = {"weaker": f" (< -{equal:g})", "equal": f" (±{equal:g})", "stronger": f" (> +{equal:g})"}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name + bounds.get(name, ""))
        for name, (color, marker) in style.LEVELS.items()
        if (level == name).any()
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


def by_difference(table: pd.DataFrame) -> Figure:
    """Fig. 4b: delta by how much better the teacher is: the paper's top quarter, the mean, the median.

    Args:
        table: as `knowledge_measures.by_difference` makes it.
    """
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
    size = f"{len(pairs)} bins of {each} pairs"
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=2, label=label(method))
        for method, (color, marker) in methods.items()
    ]
    style.legend(drawing, handles, size, 5)
    return drawing


def method_differences(table: pd.DataFrame) -> Figure:
    """Each method's delta minus another's on the same pairs, by kind of teacher, with intervals.

    Args:
        table: as `measures.method_differences` makes it.
    """
    levels = ["weaker", "equal", "stronger", "all"]
    contrasts = list(dict.fromkeys(zip(table["a"], table["b"], strict=True)))
    drawing, panel = style.figure(
        "One method against another on the same pairs of models", (8, 2.2 + 0.62 * max(1, len(contrasts)))
    )
    lanes = {name: 0.27 - 0.18 * place for place, name in enumerate(levels)}
    marks = {**{name: style.LEVELS[name] for name in levels[:3]}, "all": (style.BLACK, "D")}
    for place, contrast in enumerate(contrasts):
        mine = table[(table["a"] == contrast[0]) & (table["b"] == contrast[1])]
        for row in mine.itertuples():
            color, marker = marks[row.level]
            y = place - lanes[row.level]
            panel.plot([100 * row.low, 100 * row.high], [y, y], color=color, linewidth=1)
            given = [100 * row.given_teachers_low, 100 * row.given_teachers_high]
            panel.plot(given, [y, y], color=color, linewidth=3.5, solid_capstyle="butt")
            panel.plot(100 * row.mean, y, marker=marker, color=color, markersize=5)
    panel.axvline(0, color=style.BLACK, linewidth=1)
    panel.set_yticks(range(len(contrasts)), [f"{label(a)} minus {label(b)}" for a, b in contrasts])
    panel.set_ylim(len(contrasts) - 0.4, -0.6)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("mean difference of transfer deltas (percentage points), 95 % intervals")
    counts = table.groupby("level")["pairs"].max()
    handles = [
        Line2D(
            [], [], color=marks[name][0], marker=marks[name][1], label=f"{name} ({counts.get(name, 0)} pairs)"
        )
        for name in levels
    ]
    style.legend(drawing, handles, "teachers by their accuracy against the student's", 4)
    return drawing


def forest(trials: pd.DataFrame) -> Figure:
    """Every trial's delta with its interval; filled where the exact test, corrected, tells it from 0.

    Args:
        trials: one row a trial with a teacher: `method`, `student`, `teacher`, `seed`, `transfer_delta`, its
            `low` and `high`, `verdict`, `accuracy_difference`.
    """
    methods = in_order(trials["method"])
    pairs = (
        trials.drop_duplicates(["student", "teacher"])
        .sort_values(["accuracy_difference", "student"], kind="stable")[["student", "teacher"]]
        .reset_index(drop=True)
    )
    place = {tuple(pair): y for y, pair in enumerate(pairs.itertuples(index=False))}
    seeds = sorted(trials["seed"].unique())
    lane = {seed: 0.6 * (k + 0.5) / len(seeds) - 0.3 for k, seed in enumerate(seeds)}
    named = len(pairs) <= NAMED
    height = 2.4 + (0.2 * len(pairs) if named else 9)
    drawing, panels = style.panelled(
        "Transfer delta of every pair, from the weakest teachers (top) to the strongest",
        len(methods),
        columns=len(methods),
        size=(3.2 + 1.9 * len(methods), height),
        sharex=True,
        sharey=True,
    )
    colors = {"better": style.BLUE, "worse": style.ORANGE, "unclear": style.GREY}
    for panel, method in zip(panels, methods, strict=True):
        mine = trials[trials["method"] == method]
        y = np.array([place[pair] for pair in zip(mine["student"], mine["teacher"], strict=True)], float)
        y += mine["seed"].map(lane).to_numpy(float)
        panel.axvline(0, color=style.BLACK, linewidth=1)
        dense = len(pairs) > style.DENSE
        for verdict, color in colors.items():
            chosen = (mine["verdict"] == verdict).to_numpy()
            bounds = 100 * mine.loc[chosen, ["low", "high"]].to_numpy(float).T
            panel.hlines(y[chosen], *bounds, color=color, linewidth=1.5 if named else 0.5, rasterized=dense)
            panel.scatter(
                100 * mine.loc[chosen, "transfer_delta"],
                y[chosen],
                s=22 if named else 3,
                facecolor=style.WHITE if verdict == "unclear" else color,
                edgecolor=color,
                linewidth=1 if named else 0.3,
                zorder=3,
                rasterized=dense,
            )
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
    handles = [
        Line2D([], [], color=colors["better"], marker="o", label="better (q < 0.05)"),
        Line2D([], [], color=colors["worse"], marker="o", label="worse (q < 0.05)"),
        Line2D([], [], color=colors["unclear"], marker="o", markerfacecolor=style.WHITE, label="unclear"),
    ]
    style.legend(drawing, handles, f"{len(trials):,} trials of {len(pairs):,} pairs, 95 % intervals", 3)
    return drawing


def student_properties(table: pd.DataFrame) -> Figure:
    """Rank correlation of a student's size and accuracy with what it gains, by method, with intervals.

    Args:
        table: as `measures.student_properties` makes it.
    """
    properties = list(dict.fromkeys(table["property"]))
    outcomes = {"delta_mean": "its mean transfer delta", "success_rate": "its success rate"}
    methods = in_order(table["method"])
    drawing, panels = style.panelled(
        "Do larger or better students gain more?",
        len(properties),
        size=(4.6 * len(properties) + 1, 2.2 + 0.5 * len(methods)),
        sharey=True,
        sharex=True,
    )
    marks = {"delta_mean": ("o", style.BLUE, -0.15), "success_rate": ("s", style.ORANGE, 0.15)}
    titles = {"log10_parameters": "the student's size and ...", "accuracy": "the student's accuracy and ..."}
    for panel, name in zip(panels, properties, strict=True):
        panel.axvline(0, color=style.BLACK, linewidth=1)
        for row in table[table["property"] == name].itertuples():
            marker, color, lane = marks[row.outcome]
            y = methods.index(row.method) + lane
            panel.plot([row.low, row.high], [y, y], color=color, linewidth=2)
            panel.plot(row.rho, y, marker=marker, color=color)
        panel.set(xlim=(-1.05, 1.05), xlabel="Spearman's rank correlation", title=titles[name])
    panels[0].set_yticks(range(len(methods)), map(label, methods))
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    handles = [
        Line2D([], [], color=color, marker=marker, label=outcomes[name])
        for name, (marker, color, _) in marks.items()
    ]
    students = int(table["n"].max()) if len(table) else 0
    style.legend(drawing, handles, f"over {students} students, 95 % intervals", 2)
    return drawing
