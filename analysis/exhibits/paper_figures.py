"""The figures of arXiv 2310.17653 in the paper's own form, where this project draws them otherwise, and Fig.
6."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import knowledge_measures, paper_figures, reference, style
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.exhibits.knowledge import DELTA, LOSS
from analysis.exhibits.success import DIFFERENCE
from analysis.material import Material
from analysis.methods import in_order, label
from analysis.text import Column

TITLE = "The paper's figures as the paper draws them"
OF_FIG_5 = "kl_dp"  # the method that the paper shows
RED = "#cc3311"  # of Fig. 7's diagonal
AREAS = (14.0, 90.0)  # of marks in Fig. 7, from the least to the most accurate teacher


def lines(material: Material) -> list[str]:
    """What is here and why, and which families are not those that the paper prints."""
    return [
        "Figures that this project draws otherwise, drawn as the paper draws them, of these results. The "
        "paper prints none of their numbers, so none stand beside ours.",
        *reference.families_as_printed(material.trials),
    ]


@exhibit("Fig. 4b, the paper's form")
def fig_4b_papers_form(taught):
    """Bins of equal width over the range of Δ_acc, a mark at the middle of each; y is the mean of the deltas
    at or above the 75 % quantile of the bin. Bins hold {{ fewest }} to {{ most }} pairs,
    and the best quarter lies above 0 even by chance: our Fig. 4b has bins of equal number, with means and
    intervals."""
    table = paper_figures.by_equal_width(taught)
    facts = {"fewest": table["pairs"].min(), "most": table["pairs"].max()}
    return Shown(table, _by_difference(table), keys=["method", "bin"], facts=facts)


def _by_difference(table: pd.DataFrame) -> Figure:
    drawing, panel = style.figure("Best quarter of the transfer deltas\nby how much better the teacher is")
    panel.axhline(0, color=style.BLACK, linewidth=1)
    panel.axvline(0, color=style.BLACK, linewidth=1, linestyle=":")
    methods = style.styles(style.METHODS, table["method"])
    for method, (color, marker) in methods.items():
        mine = table[table["method"] == method]
        look = {"color": color, "marker": marker, "linewidth": 2, "markersize": 5}
        panel.plot(100 * mine["middle"], 100 * mine["top"], **look)
    panel.set(xlabel=DIFFERENCE, ylabel=f"mean of the best quarter of each bin:\n{DELTA}")
    pairs = table.groupby("method")["pairs"].sum().max()
    size = f"{pairs:g} pairs a method in {table['bin'].nunique()} bins of equal width"
    style.legend(drawing, style.method_handles(methods), size, 3)
    return drawing


def _of_kl_dp(table: pd.DataFrame) -> pd.DataFrame:
    """What Fig. 5 is drawn of."""
    mine = table[table["method"] == OF_FIG_5]
    if mine.empty:
        raise LeftOut(f"{label(OF_FIG_5)}, of which the figure is, was not run")
    return mine


@exhibit("Fig. 5a, the paper's form")
def fig_5a_papers_form(taught, top_class_rates, trials):
    """KL+DP, as in the paper. Left: the gain rate, as the paper's text words its transfer rate: all that a
    student gains in these classes over the positive flips in them, whether or not the teacher knew it; it may
    exceed 100 %. Right: what the authors' plotting script draws, 100 - p + top_p · gain / ρ_pos,after, with p
    the share of the flips in the classes, top_p the share of the gains in them and ρ_pos,after the flips that
    remain. The published curve follows it. A student that gains nothing scores 98, 95, 80, 50 and 0 % there
    (dashed): the fall from left to right is the term 100 - p."""
    rates = top_class_rates[top_class_rates["share"].isin(paper_figures.SHARES)]
    rates = rates.assign(scripts_curve=paper_figures.scripts_curve(rates, trials))
    table = knowledge_measures.rates_of_top_classes(rates, trials, paper_figures.RATES)
    if table.empty:
        raise LeftOut("no trial has positive flips, before and after")
    table["no_gain"] = 1 - table["share"]
    table["scripts_curve_low"] = table["scripts_curve_low"].clip(lower=table["no_gain"])  # its least value
    return Shown(table, _top_classes(_of_kl_dp(table)), keys=["method", "family", "share"])


def _top_classes(table: pd.DataFrame) -> Figure:
    shares = sorted(table["share"].unique())
    drawing, panels = style.panelled(
        f"{label(OF_FIG_5)} in the classes that hold most of the knowledge", 2, size=(10, 5)
    )
    styles, handles = style.families(table["family"])
    titles = {"gain_rate": "Gain rate, the definition in the text", "scripts_curve": "As the script draws it"}
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for place, (family, (color, marker)) in enumerate(styles.items()):
            mine = table[table["family"] == family].sort_values("share")
            x = mine["share"].map(shares.index) + 0.1 * (place - (len(styles) - 1) / 2)
            rate, low, high = (100 * mine[f"{column}{part}"] for part in ("", "_low", "_high"))
            panel.vlines(x, low, high, color=color, linewidth=1.5, alpha=0.6)
            panel.plot(x, rate, color=color, marker=marker, linewidth=1.5, markersize=5)
        panel.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("share p of the flips that the classes hold (%)")
    null = {"color": style.BLACK, "linestyle": "--", "linewidth": 1.5}
    panels[1].plot(range(len(shares)), [100 * (1 - share) for share in shares], **null)
    panels[0].set_ylim(0, style.up_to(100 * table["gain_rate"], 1.5))
    panels[0].set_ylabel("gain per complementary knowledge (%)")
    panels[1].set_ylim(0, style.up_to(100 * table["scripts_curve"], 1.1))
    panels[1].set_ylabel("100 - p + top_p · gain / ρ_pos,after (%)")
    pairs = table.groupby("share")["pairs"].sum().max()
    handles += [Line2D([], [], label="a student that gains nothing", **null)]
    size = f"{pairs:g} pairs, by the student's family; means, 95 % intervals over students and teachers"
    style.legend(drawing, handles, size, len(handles))
    return drawing


@exhibit("Fig. 5b, the paper's form")
def fig_5b_papers_form(taught):
    """KL+DP, as in the paper: the gain rate of each student, knowledge gain over positive flips in all
    classes, mean over its teachers. Lines join a family. Both axes are logarithmic, so a student without any
    gain has no place here."""
    columns = ["method", "student", "family", "parameters", "teachers", "gain_rate"]
    table = knowledge_measures.by_student(taught)[columns].dropna(subset=["gain_rate", "parameters"])
    if table.empty:
        raise LeftOut("no teacher got a sample right that its student got wrong")
    drawn = _of_kl_dp(table)
    if not drawn["gain_rate"].gt(0).any():
        raise LeftOut("no student gained anything")
    return Shown(table, _by_size(drawn), keys=["method", "student"])


def _by_size(table: pd.DataFrame) -> Figure:
    drawing, panel = style.figure("Gain per complementary knowledge\nby the student's size", (6.5, 5.6))
    styles, handles = style.families(table["family"])
    for family, (color, marker) in styles.items():
        mine = table[(table["family"] == family) & (table["gain_rate"] > 0)].sort_values("parameters")
        panel.plot(mine["parameters"], 100 * mine["gain_rate"], color=color, marker=marker, markersize=7)
    style.log_sizes(panel, table["parameters"])
    panel.set_yscale("log")
    style.plain_logarithm(panel, 100 * table["gain_rate"])
    panel.set(xlabel="parameters of the student", ylabel="gain rate (%)")
    size = f"{label(OF_FIG_5)}: {len(table)} students, up to {table['teachers'].max()} teachers each"
    style.legend(drawing, handles, size, len(handles))
    return drawing


def _of_fig_6(per_student: pd.DataFrame) -> pd.DataFrame:
    """The students' success rates with the figure's methods."""
    table = paper_figures.success_by_student(per_student)
    if table.empty:
        raise LeftOut("neither CD nor CRD was run")
    return table


@exhibit("Fig. 6")
def fig_6_contrastive(per_student):
    """A box over the students' success rates, a dot a student: contrastive distillation between
    cross-entropy and KL+DP. The paper finds that CD and CRD "cannot improve the student for most teachers":
    medians under 50 %. In the authors' scripts the teachers' backbones ran in train mode for CD and CRD,
    with statistics of the batch and dropped paths; here they are in eval mode, as for every method."""
    table = _of_fig_6(per_student)
    return Shown(table, _success(table), keys=["method", "student"])


def _success(table: pd.DataFrame) -> Figure:
    methods = list(dict.fromkeys(table["method"]))
    drawing, panel = style.figure("Contrastive distillation: how often a transfer helps", (7, 5.4))
    styles = style.styles(style.METHODS, methods)
    panel.axhline(50, color=style.BLACK, linewidth=1, linestyle=":")
    for x, method in enumerate(methods):
        rates, (color, marker) = 100 * table.loc[table["method"] == method, "success_rate"], styles[method]
        line = {"color": color, "linewidth": 1.5}
        look = {"boxprops": line, "whiskerprops": line, "capprops": line}
        middle = {"color": style.BLACK, "linewidth": 2}
        panel.boxplot(rates, positions=[x], widths=0.5, showfliers=False, medianprops=middle, **look)
        panel.scatter(x + style.jitter(len(rates), 0.15), rates, s=22, color=color, marker=marker, alpha=0.75)
    panel.set_xticks(range(len(methods)), map(label, methods))
    panel.set(ylim=(-3, 103), xlim=(-0.6, len(methods) - 0.4))
    panel.set_ylabel("success rate per student (% of its teachers)")
    panel.grid(visible=False, axis="x")
    half = Line2D([], [], color=style.BLACK, linestyle=":", label="half of the teachers")
    size = f"{table['student'].nunique()} students, up to {table['teachers'].max()} teachers each"
    style.legend(drawing, [half], size)
    return drawing


@exhibit("Fig. 6: gained and lost")
def fig_6_gained_and_lost(taught, per_student):
    """Means over pairs in percent of the samples, with 95 % intervals over students and teachers. The paper
    says of CD and CRD that they gain as much as the others, and lose much more."""
    methods = list(dict.fromkeys(_of_fig_6(per_student)["method"]))
    table = paper_figures.gain_and_loss(taught, methods)
    columns = [
        Column("method", "method|label"),
        Column("students", "students|number"),
        Column("pairs", "pairs|number", "of a student and a teacher"),
        Column("median success %", "success_median|percent(0)", "over the students' success rates"),
        Column("gain %", _bounded("knowledge_gain", "percent(2)"), "wrong before, right after"),
        Column("loss %", _bounded("knowledge_loss", "percent(2)"), "right before, wrong after"),
        Column("Δ", _bounded("transfer_delta", "points"), "gain minus loss, in points"),
    ]
    return Shown(table, None, columns, keys=["method"])


def _bounded(name: str, form: str) -> str:
    """A cell of a mean with its interval."""
    return f"bounded({name}, {name}_low, {name}_high)|{form}"


@exhibit("Fig. 7, the paper's form")
def fig_7_papers_form(taught):
    """A mark is a pair; rows are methods, each with limits of its own, columns the student's family. Shape:
    the teacher's family; size: its accuracy; colour: the student's parameters. Above the red line more was
    gained than lost."""
    columns = [
        *("method", "student", "teacher", "student_family", "teacher_family", "student_parameters"),
        *("teacher_accuracy", "knowledge_gain", "knowledge_loss"),
    ]
    known = ["student_family", "teacher_family", "student_parameters"]
    table = taught[columns].dropna(subset=known).astype({"student_parameters": float})
    if table.empty:
        raise LeftOut("the models' families and sizes are not recorded")
    return Shown(table, _gain_against_loss(table), keys=["method", "student", "teacher"])


def _gain_against_loss(table: pd.DataFrame) -> Figure:
    methods, families = in_order(table["method"]), list(style.styles(style.FAMILIES, table["student_family"]))
    drawing, panels = style.panelled(
        "What students gain against what they lose, by method and the student's family",
        len(methods) * len(families),
        columns=len(families),
        size=(2.9 * len(families) + 1.6, 2.1 + 2.4 * len(methods)),
        sharex="row",
        sharey="row",
    )
    norm, shapes = LogNorm(), style.styles(style.FAMILIES, table["teacher_family"])
    norm.autoscale_None(table["student_parameters"])
    marks = None
    for row, method in enumerate(methods):
        of_method = table[table["method"] == method]
        for panel, family in zip(panels[row * len(families) :], families, strict=False):
            for name, (_, marker) in shapes.items():
                mine = of_method[
                    (of_method["student_family"] == family) & (of_method["teacher_family"] == name)
                ]
                marks = panel.scatter(
                    100 * mine["knowledge_loss"],
                    100 * mine["knowledge_gain"],
                    s=_area(mine["teacher_accuracy"], table["teacher_accuracy"]),
                    c=mine["student_parameters"],
                    marker=marker,
                    alpha=0.8,
                    linewidth=0,
                    cmap=style.SIZES,
                    norm=norm,
                    rasterized=len(table) > style.DENSE,
                )
            _limits(panel, of_method)
            if row == 0:
                panel.set_title(style.FAMILY_LABELS.get(family, family), fontsize=11)
        panels[row * len(families)].set_ylabel(f"{label(method)}\ngain (%)")
    for panel in panels[-len(families) :]:
        panel.set_xlabel(LOSS)
    drawing.colorbar(marks, ax=panels, label="parameters of the student", shrink=0.6, aspect=40)
    pairs = len(table.drop_duplicates(["student", "teacher"]))
    size = f"{pairs:,} pairs, a mark each; shape: the teacher's family, size: its accuracy"
    style.legend(drawing, _shapes_and_sizes(shapes, table["teacher_accuracy"]), size, 4)
    return drawing


def _area(accuracy: pd.Series, of_all: pd.Series) -> np.ndarray:
    """Of marks, linear in the teacher's accuracy."""
    low, high = of_all.min(), of_all.max()
    return np.interp(accuracy.astype(float), [low, high], AREAS) if high > low else np.full(len(accuracy), 40)


def _limits(panel: Axes, of_method: pd.DataFrame) -> None:
    """The limits of a row, and the red line across them."""
    ends = []
    for name in ("knowledge_loss", "knowledge_gain"):
        low, high = 100 * of_method[name].min(), 100 * of_method[name].max()
        room = 0.08 * (high - low) or 0.1
        ends.append((low - room, high + room))
    panel.plot(*[(min(ends)[0], max(high for _, high in ends))] * 2, color=RED, linewidth=1.2, zorder=1)
    panel.set(xlim=ends[0], ylim=ends[1])


def _shapes_and_sizes(shapes: dict[str, tuple[str, str]], accuracy: pd.Series) -> list[Line2D]:
    grey = {"color": style.GREY, "linestyle": "", "markeredgewidth": 0}
    handles = [
        Line2D([], [], marker=marker, label=style.FAMILY_LABELS.get(name, name), **grey)
        for name, (_, marker) in shapes.items()
    ]
    shown = np.unique([accuracy.min(), accuracy.max()])
    for value, area in zip(shown, _area(pd.Series(shown), accuracy), strict=True):
        handles.append(Line2D([], [], marker="o", markersize=area**0.5, label=f"{100 * value:.1f} %", **grey))
    return [*handles, Line2D([], [], color=RED, label="as much gained as lost: Δ = 0")]


@exhibit("Figs. 8a and 8b, the paper's students")
def fig_8_papers_students(taught, trials):
    """The pairs and triplets of students that the authors' plotting script joins, those of them that are
    here. A mark is a mean over the teachers that all of its group had, a band the quartiles over them.
    Families as printed: MixNet with the MLPs."""
    shown = []
    for panel, what in (("a", "accuracy"), ("b", "size")):
        table = paper_figures.groups_of_students(taught, trials, panel)
        if table.empty:
            continue
        name, title = f"fig_8{panel}_papers_students", f"Fig. 8{panel}, the paper's students"
        drawing = _groups(table, panel, what)
        shown.append(Shown(table, drawing, keys=["method", "group", "student"], name=name, title=title))
    if not shown:
        raise LeftOut("no two students here are of one of the paper's pairs or triplets")
    return shown


def _groups(table: pd.DataFrame, part: str, what: str) -> Figure:
    drawing, panels = style.by_method(f"The paper's students by their {what}", in_order(table["method"]))
    styles, handles = style.families(table["family"])
    column, factor = {"a": ("accuracy", 100), "b": ("parameters", 1)}[part]
    for method, panel in panels.items():
        panel.axhline(0, color=style.BLACK, linewidth=1)
        for _, mine in table[table["method"] == method].groupby("group"):
            color, marker = styles[mine["family"].iloc[0]]
            x, low, high = factor * mine[column], 100 * mine["q1"], 100 * mine["q3"]
            panel.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            panel.plot(x, 100 * mine["transfer_delta"], color=color, marker=marker, markersize=6)
        if part == "b":
            style.log_sizes(panel, table["parameters"])
    text = {"a": "accuracy before (%)", "b": "parameters of the student"}[part]
    style.axis_labels(list(panels.values()), text, DELTA)
    size = f"{table['student'].nunique()} students in {table['group'].nunique()} groups; bands: quartiles"
    style.legend(drawing, handles, size, len(handles))
    return drawing


@exhibit("Fig. 8c, the paper's form")
def fig_8c_papers_form(taught):
    """Mean transfer delta of the students of a size class, a line a family, with 95 % intervals over
    students and teachers: small has fewer than {{ small|number }} million parameters, medium than {{
    medium|number }}, large than {{ large|number }}. The paper prints no limits: these lie between the models
    that the authors' script draws. It draws one student a class, and of the MLPs three that are not sorted
    by size."""
    table = paper_figures.by_size_class(taught)
    if table["class"].nunique() < 2:
        raise LeftOut("the students are not of two size classes")
    facts = {name.replace(" ", "_"): limit / 1e6 for name, limit in paper_figures.SIZE_CLASSES.items()}
    return Shown(table, _size_classes(table), keys=["method", "family", "class"], facts=facts)


def _size_classes(table: pd.DataFrame) -> Figure:
    classes = [name for name in paper_figures.SIZE_CLASSES if (table["class"] == name).any()]
    drawing, panels = style.by_method("Students by size class and family", in_order(table["method"]))
    styles, handles = style.families(table["family"])
    for method, panel in panels.items():
        panel.axhline(0, color=style.BLACK, linewidth=1)
        for place, (family, (color, marker)) in enumerate(styles.items()):
            mine = table[(table["method"] == method) & (table["family"] == family)]
            x = mine["class"].map(classes.index) + 0.1 * (place - (len(styles) - 1) / 2)
            low, high = 100 * mine["transfer_delta_low"], 100 * mine["transfer_delta_high"]
            panel.vlines(x, low, high, color=color, linewidth=1.5, alpha=0.6)
            panel.plot(x, 100 * mine["transfer_delta"], color=color, marker=marker, linewidth=1.5)
        panel.set_xticks(range(len(classes)), classes)
    style.axis_labels(list(panels.values()), "size class of the student", DELTA)
    students = table.groupby("method")["students"].sum().max()
    style.legend(drawing, handles, f"{students} students; means, 95 % intervals", len(handles))
    return drawing
