"""How the trials ran: learning curves, time and cost."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import style, training_measures
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.inference import spearman_interval
from analysis.measures import minus
from analysis.methods import TOP_K, in_order, label
from analysis.statements import TEACHING, Statements
from analysis.text import Column, Number

TITLE = "How the trials ran"
PARTS = {
    "seconds_load": ("load models and frozen outputs", "#999999"),
    "seconds_train": ("transfer", style.BLUE),
    "seconds_evaluate": ("evaluate", style.ORANGE),
}


@exhibit("Learning curves")
def learning_curves(history, tested):
    """Left: each trial's training loss over that of its own first epoch, since the methods' losses are
    different quantities; fallen is not better. Right: the share of the samples for which data partitioning
    chose the teacher. It is decided by frozen models: constant unless views change."""
    history = history[history["trial"].isin(tested["trial"])]
    if history.empty:
        raise LeftOut("there is no history of the trials")
    curves = training_measures.learning_curves(history)
    return Shown(curves, _learning_curves(curves), keys=["method", "measure", "epoch"])


@exhibit("What KL over the top k leaves out")
def top_k_left_out(outside_top_k):
    """A dot a pair: the divergence outside the teacher's k largest classes, in the first epoch, and what
    leaving it out did to the transfer delta. The paper (appendix B.1) gains more where more lies outside.
    Here Spearman's correlation is {{ correlation|number("+.2f") }}, over {{ correlation.n }} pairs,
    which share students and teachers."""
    made = Statements()
    for row in outside_top_k.itertuples():
        pair = f"{row.teacher}{TEACHING}{row.student}"
        made.add(TOP_K, "outside", row.outside, 1, level=pair, about=("nats", "divergence outside the top k"))
    values = outside_top_k["outside"], outside_top_k["difference"]
    rho, *interval = spearman_interval(*values)
    about = ("correlation", "Spearman's, of what lies outside the top k with the delta minus KL's")
    pairs, subject = len(outside_top_k), minus(TOP_K, "kl")
    made.add(subject, "outside_and_difference", rho, pairs, interval=interval, about=about)
    facts = {"correlation": Number(rho, *interval, pairs)}
    return Shown(made.table(), _top_k(*values), facts=facts)


def _top_k(outside: pd.Series, difference: pd.Series) -> Figure:
    drawing, panel = style.figure("What KL over the top k leaves out,\nand what that does")
    panel.scatter(outside, 100 * difference, color=style.METHODS[TOP_K][0], s=36)
    panel.axhline(0, color=style.BLACK, linewidth=1)
    panel.set_xlabel("divergence outside the teacher's k largest classes (nats)")
    panel.set_ylabel("transfer delta minus KL's, same pair (points)")
    handles = [Line2D([], [], color=style.METHODS[TOP_K][0], marker="o", linestyle="", label="a pair")]
    style.legend(drawing, handles, f"{len(outside)} pairs")
    return drawing


@exhibit("Time and cost")
def time_by_method(tested):
    """What frozen models say is computed once and then shared by trials, so the first trials of a student or
    teacher take longer, whatever their method. Trials that shared a machine slowed each other."""
    times = training_measures.time_by_method(tested)
    columns = [
        Column("method", "method|label"),
        Column("device", "device|text"),
        Column("trials", "trials|number", "finished"),
        Column("seconds", "seconds|number(',.1f')", "of a trial: median"),
        Column("90 %", "seconds_p90|number(',.1f')", "of trials took at most so many seconds"),
        Column(
            "samples/s",
            "samples_per_second|number",
            "transfer samples times epochs over training time",
        ),
        Column(
            "hours",
            "hours|number(',.3g')",
            "of all trials together: what the method costs in device time",
        ),
    ]
    return Shown(times, _time_by_method(times), columns, keys=["method", "device"])


@exhibit("Which epoch")
def epochs_chosen(history, tested):
    """A student is what the last epoch left. Choosing the best epoch by the images that are reported on makes
    a method look better than it is, by as much as the last column but one says: chance alone does that. By
    images kept aside it may be chosen. Means over pairs, in points, with 95 % intervals over students and
    teachers."""
    table = training_measures.epochs_chosen(history, tested)
    if table.empty:
        raise LeftOut("no trial was evaluated after several epochs (`evaluate: epoch` in a study)")

    def column(title: str, name: str, meaning: str) -> Column:
        return Column(title, f"bounded({name}, {name}_low, {name}_high)|points", meaning)

    columns = [
        Column("method", "method|label"),
        Column("model", "model", "the student, or the teacher where it learns, too"),
        Column("pairs", "pairs|number"),
        column("last epoch", "last", "delta after it"),
        column("best on tune", "by_tune", "delta after the epoch that is best on images kept aside"),
        column("best on evaluation", "by_evaluation", "delta after the epoch that is best on these images"),
        column("evaluation minus last", "by_evaluation_over", "what choosing by the images reported on adds"),
        column("tune minus last", "by_tune_over", "what choosing by images kept aside adds"),
    ]
    return Shown(table, None, columns, keys=["method", "model"])


def _learning_curves(table: pd.DataFrame) -> Figure:
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


def _time_by_method(table: pd.DataFrame) -> Figure:
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
