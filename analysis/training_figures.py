"""The figures of how transfers ran: learning curves, sequences of teachers, and what the trials took."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.measures import in_order, label
from analysis.several_teachers import CURVE

PARTS = {
    "seconds_load": ("load models and frozen outputs", "#999999"),
    "seconds_train": ("transfer", style.BLUE),
    "seconds_evaluate": ("evaluate", style.ORANGE),
}


PANELS = 6  # sequences of teachers, at most, in a figure
KNOWLEDGE = {
    "knowledge_gain": ("gained", style.GREEN),
    "knowledge_loss": ("lost", style.ORANGE),
    "transfer_delta": ("transfer delta", style.BLACK),
}


def learning_curves(table: pd.DataFrame) -> Figure:
    """Training loss and the teacher's share of the samples, epoch by epoch, by method.

    Args:
        table: as `training_measures.learning_curves` makes it.
    """
    drawing, (loss, share) = style.panelled("What happens during a transfer", 2, size=(10, 5), sharex=True)
    methods = style.styles(style.METHODS, table["method"])
    panels = {"relative_loss": loss, "teacher_share": share}
    for measure, panel in panels.items():
        for method, (color, marker) in methods.items():
            mine = table[(table["method"] == method) & (table["measure"] == measure)].sort_values("epoch")
            x = mine["epoch"] + 1
            panel.fill_between(x, mine["q1"], mine["q3"], color=color, alpha=0.15, linewidth=0)
            few = len(mine) <= 30
            panel.plot(x, mine["median"], color=color, marker=marker if few else "", linewidth=2)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.set(xlabel="epoch", ylabel="training loss / that of the first epoch")
    loss.set_title("Loss", fontsize=11)
    share.set(xlabel="epoch", ylabel="samples taught by the teacher (share)")
    share.set_title("Data partitioning", fontsize=11)
    if not (table["measure"] == "teacher_share").any():
        style.nothing(share, "no method partitions the data")
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=2, label=label(method))
        for method, (color, marker) in methods.items()
    ]
    trials = int(table.groupby("method")["trials"].max().sum()) if len(table) else 0
    style.legend(drawing, handles, f"{trials:,} trials; median and quartiles", 3)
    return drawing


def sequences(table: pd.DataFrame) -> Figure:
    """Fig. 11: knowledge gained and lost, and their difference, along sequences of teachers.

    A panel a student, method and order, KL+DP and ascending first, at most `PANELS` of them.

    Args:
        table: as `several_teachers.sequences` makes it.
    """
    curves = list(table.groupby(CURVE, sort=False))
    curves.sort(key=lambda curve: (curve[0][0] != "kl_dp", curve[0][1] != "ascending"))
    curves = curves[:PANELS]
    drawing, panels = style.panelled("What a sequence of teachers gains and loses", len(curves), sharey=True)
    for axes, ((method, order, student, _), mine) in zip(panels, curves, strict=True):
        axes.axhline(0, color=style.BLACK, linewidth=1)
        for measure, (_, color) in KNOWLEDGE.items():
            axes.plot(mine["epoch"] + 1, 100 * mine[measure], color=color, linewidth=2)
        stages = mine.groupby("stage").agg(end=("epoch", "max"), teacher=("teacher", "first"))
        start = 0
        for end, teacher in stages.itertuples(index=False):
            place, height = (start + end + 1) / 2, axes.get_xaxis_transform()
            axes.text(place, 0.98, teacher, ha="center", va="top", fontsize=8, transform=height)
            start = end + 1
            if end < stages["end"].max():
                axes.axvline(start, color=style.GREY, linewidth=1, linestyle="--")
        axes.set_title(f"{student}: {label(method)}, {order}", fontsize=11)
        axes.set_xlim(0, start)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    top = panels[0].get_ylim()
    panels[0].set_ylim(top[0], top[1] + 0.12 * (top[1] - top[0]))  # room for the teachers' names
    style.axis_labels(panels, "epoch of the sequence", "percentage points")
    handles = [Line2D([], [], color=color, linewidth=2, label=text) for text, color in KNOWLEDGE.values()]
    seeds = sum(int(mine["seeds"].max()) for _, mine in curves)
    style.legend(drawing, handles, f"{seeds:,} trials; means over seeds", 3)
    return drawing


def time_by_method(table: pd.DataFrame) -> Figure:
    """Median seconds of a trial by method, and what they went into.

    Args:
        table: as `training_measures.time_by_method` makes it, one row a (method, device).
    """
    table = table.assign(order=table["method"].map(in_order(table["method"]).index)).sort_values("order")
    several = table["device"].nunique() > 1
    names = [
        label(row.method) + (f"\n{row.device}" if several else "") for row in table.itertuples(index=False)
    ]
    drawing, panel = style.figure("What a trial takes, by method", (8, 1.9 + 0.55 * len(table)))
    left = pd.Series(0.0, index=table.index)
    for column, (_, color) in PARTS.items():
        panel.barh(range(len(table)), table[column], left=left, color=color, height=0.6)
        left += table[column]
    for place, (end, hours) in enumerate(zip(left, table["hours"], strict=True)):
        panel.text(end, place, f"  {_time(hours)} in all", va="center", fontsize=10)
    panel.set_yticks(range(len(table)), names)
    panel.set(ylim=(len(table) - 0.4, -0.6), xlim=(0, 1.25 * left.max() or 1))
    panel.set_xlabel("seconds of a trial: sum of the medians of its parts")
    panel.grid(visible=False, axis="y")
    handles = [Patch(color=color, label=text) for text, color in PARTS.values()]
    style.legend(drawing, handles, f"{table['trials'].sum():,} trials", 3)
    return drawing


def _time(hours: float) -> str:
    return f"{hours:,.3g} h" if hours >= 1 else f"{60 * hours:.2g} min"
