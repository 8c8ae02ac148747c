"""The figures of success and of the size of transfer, after Fig. 4 of arXiv 2310.17653.

A success may be a single sample won, so every trial's transfer delta stands beside the success rates.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.measures import per_student, teacher_level

# Colours of Okabe and Ito, which every kind of colour vision tells apart; marker and lane say it again.
STYLES = {
    "stronger": ("#0072B2", "^", -0.27),
    "equal": ("#999999", "o", -0.09),
    "weaker": ("#D55E00", "v", 0.09),
    "no teacher": ("#000000", "x", -0.09),
}


def success_rates(trials: pd.DataFrame, summary: pd.DataFrame, equal: float = 1.0) -> Figure:
    """Box plot of the students' success rates (after Fig. 4a), and beside it every trial's delta."""
    done, students = trials[trials["status"] == "ok"], per_student(trials)
    level = teacher_level(done["accuracy_difference"], equal).fillna("no teacher")
    shown = summary[summary["trials"] > 0].reset_index(drop=True)
    drawing = Figure(figsize=(10, 1.4 + 0.65 * len(shown)), layout="constrained")
    rates, deltas = drawing.subplots(1, 2, sharey=True, width_ratios=[4, 5])
    jitter = np.random.default_rng(0).uniform  # spreads points that would hide each other; means nothing
    grey = {"color": "#777777"}
    for y, row in shown.iterrows():
        of_method = 100 * students.loc[students["method"] == row["method"], "success_rate"]
        rates.boxplot(
            of_method,
            positions=[y],
            orientation="horizontal",
            widths=0.6,
            showfliers=False,
            medianprops={"color": "black", "linewidth": 2},
            boxprops=grey,
            whiskerprops=grey,
            capprops=grey,
        )
        spread = y + jitter(-0.2, 0.2, len(of_method))
        rates.scatter(of_method, spread, s=22, color="#009E73", alpha=0.75, linewidth=0, zorder=3)
        for name, (color, marker, lane) in STYLES.items():
            points = 100 * done.loc[(done["method"] == row["method"]) & (level == name), "transfer_delta"]
            spread, width = y + lane + jitter(-0.06, 0.06, len(points)), float(marker == "x")
            deltas.scatter(points, spread, s=22, color=color, marker=marker, alpha=0.75, linewidth=width)
        mean, low, high = (100 * row[f"delta_{part}"] for part in ("mean", "low", "high"))
        deltas.plot([low, high], [y + 0.3] * 2, color="black", linewidth=1.5)
        deltas.plot(mean, y + 0.3, "D", color="white", markeredgecolor="black", markersize=6)
    deltas.axvline(0, color="black", linewidth=1, zorder=1)
    rates.set(xlabel="success rate per student (% of its trials)", title="How often: one dot a student")
    rates.set(xlim=(-4, 104), ylim=(len(shown) - 0.4, -0.6))
    rates.set_yticks(range(len(shown)), shown["label"])
    deltas.set(xlabel="transfer delta (percentage points of accuracy)", title="How much: one mark a trial")
    bounds = {"weaker": f" (< -{equal:g})", "equal": f" (±{equal:g})", "stronger": f" (> +{equal:g})"}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name + bounds.get(name, ""))
        for name, (color, marker, _) in STYLES.items()
        if (level == name).any()
    ]
    handles += [Line2D([], [], color="black", marker="D", markerfacecolor="white", label="mean, 95 %")]
    title = "teacher's accuracy minus the student's, in points"
    drawing.legend(handles=handles, title=title, loc="outside lower center", ncols=5, frameon=False)
    for axes in (rates, deltas):
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return drawing
