"""What is transferred, and by whom it is gained: Figs. 5, 7 and 8 of arXiv 2310.17653, one panel a method.

Where one method's panel is empty, it says why.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import knowledge_measures, reference, style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.methods import in_order

TITLE = "What is transferred, and by whom it is gained"
GAIN = "knowledge gain (% of samples)"
LOSS = "knowledge loss (% of samples)"
DELTA = "transfer delta (percentage points)"
DENSE_PAIRS = 100  # of students, from which on their lines are thin


def lines(material: Material) -> list[str]:
    """Which families are not those that the paper prints."""
    return reference.families_as_printed(material.trials)


@exhibit("Fig. 5a")
def fig_5a_top_classes(taught, top_class_rates, trials):
    """The classes of a pair are sorted by its positive flips; the fewest that hold a share of them are its
    top classes (median number: {{ classes }}). If transfer favoured the teacher's areas of expertise, rates
    would fall from left to right. Where one class holds several of the shares, so do its points. The
    paper's rate is another: see the paper's form."""
    table = knowledge_measures.rates_of_top_classes(top_class_rates, trials)
    counts = table.groupby("share")["classes"].median().items()
    classes = ", ".join(f"{share:.0%}: {count:g}" for share, count in counts)
    keys = ["method", "family", "share"]
    return Shown(table, _top_classes(table), keys=keys, facts={"classes": classes})


@exhibit("Fig. 5b")
def fig_5b_transfer_rate_by_size(taught):
    """The transfer rate is the share of the samples that only the teacher got right before, which the student
    gets right afterwards. A mark is a student, larger for more teachers; lines join a family. It says nothing
    of what was lost meanwhile: see Fig. 7. The paper's rate is another: see the paper's form."""
    by_student = knowledge_measures.by_student(taught).dropna(subset=["transfer_rate"])
    if by_student.empty:
        raise LeftOut("no teacher got a sample right that its student got wrong")
    return Shown(by_student, _by_size(by_student), keys=["method", "student"])


@exhibit("Fig. 7")
def fig_7_gain_against_loss(taught):
    """A mark is a pair. Above the line more was gained than lost, by the delta. Two methods with the same
    delta may differ in how much they rewrite."""
    columns = [
        *("method", "student", "teacher", "seeds", "student_family", "student_parameters"),
        *("accuracy_difference", "knowledge_gain", "knowledge_loss", "transfer_delta"),
    ]
    units = taught.dropna(subset=["student_family", "student_parameters"])
    shown = {"family": "family", "size": "size", "teacher": "teacher's accuracy"}
    return [
        Shown(
            units[columns],
            _gain_against_loss(units, by),
            name=f"fig_7_gain_loss_by_{by}",
            title=f"Fig. 7, by {what}",
        )
        for by, what in shown.items()
    ]


@exhibit("Fig. 8")
def fig_8_students_that_differ(taught):
    """A line joins two students that differ in this and are alike in the rest: accuracies within {{
    accuracy|number("g") }} points, sizes within a factor of {{ size|number("g") }}, or one family. Each is
    a mean over the teachers that both had. Few pairs are few pairs: no interval is drawn, since pairs share
    students."""
    facts = {"accuracy": knowledge_measures.NEAR_ACCURACY, "size": knowledge_measures.NEAR_SIZE}
    shown = []
    for part, varied in knowledge_measures.PROPERTIES.items():
        table = knowledge_measures.controlled_pairs(taught, varied)
        name, title = f"fig_8{part}_{varied}", f"Fig. 8{part}"
        shown.append(Shown(table, _controlled(table, varied), facts=facts, name=name, title=title))
    return shown


def _top_classes(table: pd.DataFrame) -> Figure:
    """Fig. 5a: transfer rate in the classes that hold the top shares of the pair's complementary knowledge.

    Args:
        table: as `knowledge_measures.rates_of_top_classes` makes it.
    """
    shares = sorted(table["share"].unique())
    drawing, panels = style.by_method(
        "How much is transferred in the classes that hold most\nof the knowledge, by the student's family",
        in_order(table["method"]),
    )
    styles, handles = style.families(table["family"])
    for method, panel in panels.items():
        for place, (family, (color, marker)) in enumerate(styles.items()):
            mine = table[(table["method"] == method) & (table["family"] == family)].sort_values("share")
            x = mine["share"].map(shares.index) + 0.14 * (place - (len(styles) - 1) / 2)
            rate, low, high = (100 * mine[f"transfer_rate{part}"] for part in ("", "_low", "_high"))
            panel.vlines(x, low, high, color=color, linewidth=1.5, alpha=0.6)
            panel.plot(x, rate, color=color, marker=marker, linewidth=1.5, markersize=5)
        panel.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
    panel.set_ylim(0, min(102, style.up_to(100 * table["transfer_rate"], 1.5)))
    style.axis_labels(
        list(panels.values()), "share of the flips that the classes hold (%)", "transfer rate in them (%)"
    )
    pairs = table.groupby(["method", "share"])["pairs"].sum().max()
    size = f"{pairs:g} pairs a method; means, 95 % intervals over students and teachers"
    style.legend(drawing, handles, size, len(handles))
    return drawing


def _by_size(table: pd.DataFrame) -> Figure:
    """Fig. 5b: transfer rate against the student's size, by family.

    Args:
        table: as `knowledge_measures.by_student` makes it.
    """
    drawing, panels = style.by_method(
        "Share of the teacher's extra knowledge that students of different size gain",
        in_order(table["method"]),
    )
    styles, handles = style.families(table["family"])
    for method, panel in panels.items():
        for family, (color, marker) in styles.items():
            mine = table[(table["method"] == method) & (table["family"] == family)].sort_values("parameters")
            x, y = mine["parameters"], 100 * mine["transfer_rate"]
            panel.plot(x, y, color=color, linewidth=1, alpha=0.6)
            panel.scatter(x, y, s=10 + 4 * mine["teachers"].clip(upper=20), color=color, marker=marker)
        style.log_sizes(panel, table["parameters"])
    panel.set_ylim(0, style.up_to(100 * table["transfer_rate"]))
    style.axis_labels(list(panels.values()), "parameters of the student", "transfer rate (%)")
    text = f"{table['student'].nunique()} students, one mark each; {table['teachers'].max()} teachers at most"
    style.legend(drawing, handles, text, len(handles))
    return drawing


def _gain_against_loss(units: pd.DataFrame, by: str) -> Figure:
    """Fig. 7: what each pair's student gained against what it lost.

    Args:
        units: one row a (method, student, teacher), with the models' properties.
        by: what colours tell: 'family' or 'size' of the student, or 'teacher': its accuracy minus the
            student's.
    """
    what = {
        "family": "the student's family",
        "size": "the student's size",
        "teacher": "how much better the teacher is",
    }[by]
    drawing, panels = style.by_method(
        f"What students gain against what they lose,\nby {what}", in_order(units["method"])
    )
    dense = len(units) > style.DENSE
    limit = 105 * units[["knowledge_gain", "knowledge_loss"]].max().max() or 1
    styles, handles = style.families(units["student_family"])
    values = {"size": units["student_parameters"], "teacher": 100 * units["accuracy_difference"]}.get(by)
    shade = {"size": (style.SIZES, LogNorm), "teacher": (style.DIFFERENCES, CenteredNorm)}.get(by)
    if shade:
        colors, norm = shade[0], shade[1]()
        norm.autoscale_None(values)
    marks = None
    for method, panel in panels.items():
        panel.plot([0, limit], [0, limit], color=style.BLACK, linewidth=1)
        for family, (color, marker) in styles.items():
            mine = units[(units["method"] == method) & (units["student_family"] == family)]
            paint = {"c": values[mine.index], "cmap": colors, "norm": norm} if shade else {"color": color}
            marks = panel.scatter(
                100 * mine["knowledge_loss"],
                100 * mine["knowledge_gain"],
                s=8 if dense else 26,
                marker=marker,
                alpha=0.8,
                linewidth=0,
                rasterized=dense,
                **paint,
            )
        panel.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    if shade:
        text = {
            "size": "parameters of the student",
            "teacher": "teacher's minus student's accuracy (points)",
        }[by]
        drawing.colorbar(marks, ax=list(panels.values()), label=text, shrink=0.8)
        for handle in handles:
            handle.set_color(style.GREY)
    style.axis_labels(list(panels.values()), LOSS, GAIN)
    handles += [Line2D([], [], color=style.BLACK, label="as much gained as lost: Δ = 0")]
    pairs = len(units.drop_duplicates(["student", "teacher"]))
    style.legend(drawing, handles, f"{pairs:,} pairs, a mark each; students by family", 4)
    return drawing


VARIED = {  # of two students: what the figure says, and its axis
    "accuracy": ("accuracy: same family, similar size", "accuracy before (%)"),
    "size": ("size: same family, similar accuracy", "parameters of the student"),
    "family": ("family: similar size and accuracy", "family of the student"),
}


def _controlled(table: pd.DataFrame, varied: str) -> Figure:
    """Fig. 8: students that differ in one property and are alike in the others, joined by a line.

    Args:
        table: as `knowledge_measures.controlled_pairs` makes it.
        varied: 'accuracy', 'size' or 'family'.
    """
    what, text = VARIED[varied]
    methods = in_order(table["method"])
    drawing, panels = style.by_method(f"Students that differ in {what}", methods or ["none"])
    styles, handles = style.families([*table.get("family_a", []), *table.get("family_b", [])])
    for method, panel in panels.items():
        mine = table[table["method"] == method]
        if mine.empty:
            style.nothing(panel, "no two students\nare alike in the others")
            panel.set_title("")
            continue
        _joined(panel, mine, varied, styles)
        if varied == "size":
            style.log_sizes(panel, pd.concat([table["parameters_a"], table["parameters_b"]]))
        if varied == "family":
            panel.set_xticks(range(len(styles)), [style.FAMILY_LABELS.get(name, name) for name in styles])
            panel.set_xlim(-0.4, len(styles) - 0.6)
    style.axis_labels(list(panels.values()), text, DELTA)
    pairs = len(table.drop_duplicates(["student_a", "student_b"]))
    style.legend(
        drawing, handles, f"{pairs} pairs of students, each over the teachers both had", len(handles) or 1
    )
    return drawing


def _joined(panel: Axes, mine: pd.DataFrame, varied: str, styles: dict[str, tuple[str, str]]) -> None:
    """A line and two marks a pair of students."""
    panel.axhline(0, color=style.BLACK, linewidth=1)
    ends = np.empty((len(mine), 2, 2))  # pair, side, (x, y)
    for k, side in enumerate(("a", "b")):
        ends[:, k, 1] = 100 * mine[f"transfer_delta_{side}"]
        ends[:, k, 0] = {
            "accuracy": 100 * mine[f"accuracy_{side}"],
            "size": mine[f"parameters_{side}"],
            "family": mine[f"family_{side}"].map(list(styles).index),
        }[varied]
    one_family = mine["family_a"] == mine["family_b"]
    colors = [
        styles[name][0] if same else style.GREY
        for name, same in zip(mine["family_a"], one_family, strict=True)
    ]
    dense = len(mine) > DENSE_PAIRS
    look = {"linewidths": 0.4 if dense else 1.2, "alpha": 0.8, "rasterized": dense, "zorder": 2}
    panel.add_collection(LineCollection(ends, colors=colors, **look))
    for k, side in enumerate(("a", "b")):
        for family, (color, marker) in styles.items():
            x, y = ends[(mine[f"family_{side}"] == family).to_numpy(), k].T
            panel.plot(x, y, color=color, marker=marker, linestyle="", markersize=3 if dense else 6)
