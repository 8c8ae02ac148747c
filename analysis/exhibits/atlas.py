"""What the models know of each other: Figs. 1 and 2 of arXiv 2310.17653, and the whole zoo.

Each figure says in its title what it shows, on how much, and draws beside the zoo's numbers what arithmetic
or chance alone would give. Made for 12 models as for 1,800: where points would hide each other, a density.
The section's first sentences are those of `templates/atlas.jinja`, made of the statements.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import atlas_measures as measures
from analysis.atlas_results import Atlas, Floats
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.statements import numbers
from analysis.style import (
    BLACK,
    BLUE,
    FAMILIES,
    FAMILY_LABELS,
    GREY,
    LEVELS,
    ORANGE,
    SHADE,
    WHITE,
    figure,
    legend,
    nothing,
    panelled,
    styles,
    up_to,
)
from analysis.text import Column, environment, sentences

TITLE = "What the models know of each other: the atlas"
DENSE = 4_000  # pairs, from which on a density is drawn instead of points
LOOKUP = 40  # models, up to which the page has every pair to look up
NAMED = 60  # models, up to which the heat map says their names
EVERY_PAIR = 100_000  # up to which a figure's numbers are written beside it
BLUES = ListedColormap(np.linspace([0.80, 0.88, 0.95], [0.02, 0.19, 0.42], 256), "blues")
DELTA = "teacher's accuracy minus the student's (percentage points)"
NO_CLASSES = "no pair's flips are recorded class by class"
NO_MEANING = (
    "the classes' names have no embeddings: `pip install -r requirements-semantics.txt`, then run "
    "jobs/atlas.py again"
)
SUBJECTS = {  # of sentences, by the macro of the template
    "knowledge": "Complementary knowledge",
    "weaker": "Weaker teachers",
    "chance": "Chance",
    "correlations": "ρ_pos and Δ_acc",
    "disagreement": "Disagreement",
    "ceilings": "Ceilings",
    "spread": "Spread over classes",
    "top": "Top classes",
    "meaning": "Meaning of the top classes",
    "families": "Families",
    "published": "Published accuracies",
    "failed": "Left out, failed",
}


def lines(material: Material) -> list[str]:
    """What was found, a sentence or two a subject."""
    atlas, (said,) = material.atlas, numbers(material.of_atlas).values()
    names = {
        "n": said,
        "gap": material.gap,
        "levels": measures.LEVELS,
        "percents": measures.TOP_PERCENT,
        "deviation": 100 * measures.DEVIATION,
        "deviations": deviations(atlas),
        "failures": failures(atlas),
        "no_meaning": NO_MEANING if atlas.embeddings is None else NO_CLASSES,
        "comparable": atlas.embeddings is not None and len(atlas.class_flips) > 0,
    }
    found = sentences("atlas.jinja", names, SUBJECTS)
    return [f"{SUBJECTS[name]}: {text}" for name, text in found.items()]


def deviations(atlas: Atlas) -> list[str]:
    """A line a model whose accuracy is not the published one, the largest deviation first."""
    table = measures.by_model(atlas)
    table = table[measures.deviates(table["deviation"])]
    table = table.iloc[np.argsort(-table["deviation"].abs().to_numpy(), kind="stable")]
    return [
        f"{row.name} {100 * row.deviation:+.2f} ({100 * row.accuracy:.2f} %, published "
        f"{100 * row.published_accuracy:.2f} %)"
        for row in table[["name", "deviation", "accuracy", "published_accuracy"]].itertuples(index=False)
    ]


def failures(atlas: Atlas) -> list[str]:
    """A line a failed model: its name and why it failed."""
    return [f"{row.name}: {row.reason}" for row in atlas.failed[["name", "reason"]].itertuples(index=False)]


@exhibit("Fig. 1a")
def fig_1a(atlas, atlas_pairs, gap):
    """How much a teacher knows that its student does not; to the right the teacher is better. No pair can
    be below the black line, since ρ_pos − ρ_neg = Δ_acc: only the height above it is for the models to
    decide. The orange lines are teachers that know nothing, and the ring is the least of teachers weaker
    by {{ gap|number("g") }} points or more. The diamond is the least of all pairs, the paper's minimal
    complementary knowledge: it may be of a pair whose teacher is no worse, or hardly."""
    return Shown(atlas_pairs, _knowledge(atlas, gap), facts={"gap": gap})


@exhibit("Fig. 1b")
def fig_1b(atlas, atlas_pairs):
    """How evenly that lies over the classes, normalised and against Δ_acc (the paper's form, in nats
    against ρ_pos, is in the next section); 1 is the same share of the flips in each. Few flips cannot
    reach it: the orange line is what as many flips, drawn uniformly, are expected to have. Between it and
    1 lies what is due to small numbers, between it and the pairs what is due to the models."""
    return Shown(atlas_pairs, _entropy(atlas))


@exhibit("Fig. 2a")
def fig_2a(atlas):
    """In how few classes a pair's flips lie. Each pair's classes are sorted by its own flips, so that even
    uniform draws fall from left to right: compare with the dotted lines (mean of {{ draws }} draws of as many
    flips as the pair has), not with the black one. To the right the same, added up; a fifth of the classes is
    {{ top }} of {{ classes|number }}."""
    if not len(atlas.class_flips):
        raise LeftOut(NO_CLASSES)
    facts = {"draws": measures.DRAWS, "top": measures.top_count(atlas.classes), "classes": atlas.classes}
    return Shown(None, _classes(atlas), facts=facts)


@exhibit("Fig. 2b")
def fig_2b(atlas):
    """Whether those classes belong together. The top classes of a pair are the fewest that hold 2, 5, 10,
    20 or 50 % of its flips, those with most first, ties by number. Shown is the mean cosine similarity
    between the names of two of them, over that of two of all classes: 1 is the mean of random sets. Pairs
    whose set is a single class do not count. At low shares, or with few classes, that is most pairs, and
    those that are left are the ones whose flips lie most evenly."""
    if not len(atlas.class_flips):
        raise LeftOut(NO_CLASSES)
    if atlas.embeddings is None:
        raise LeftOut(NO_MEANING)
    return Shown(None, _meaning(atlas))


@exhibit("Every pair of the zoo")
def heatmap(atlas, atlas_pairs):
    """The whole zoo, a row a student, a column a teacher. Within a family, models that disagree little (D,
    average linkage) are neighbours. Light rows are students beside whom others know much, light columns
    teachers that know much beside others; dark blocks on the diagonal err alike."""
    return Shown(atlas_pairs, _heatmap(atlas))


@exhibit("Look up a pair")
def lookup(atlas):
    """ρ_pos of each pair, in percent: point at a square, or type a model's name to see what it knows best
    beside others, and what they know beside it. Rows are students, columns teachers, in the order of the
    figure above."""
    if len(atlas.models) > LOOKUP:
        raise LeftOut(f"more than {LOOKUP} models; the pairs are in the atlas's table `pairs`")
    order, _ = measures.clustered(measures.disagreement(atlas.rho_pos), atlas.models["family"])
    values = 100 * atlas.rho_pos[np.ix_(order, order)]
    high = np.nanmax(values) or 1
    colours = colormaps["viridis"](np.nan_to_num(values / high))
    names = atlas.models["name"].to_numpy()[order].tolist()
    rows = [
        [
            None if np.isnan(value) else (f"{value:.2f}", to_hex(colour))
            for value, colour in zip(*row, strict=True)
        ]
        for row in zip(values, colours, strict=True)
    ]
    template = environment(html=True).get_template("lookup.jinja")
    return Shown(embedded=template.render(names=names, rows=rows))


@exhibit("A map of the models")
def map_of_models(atlas):
    """Models that err on the same images lie close together: classical scaling of D, the share of samples
    on which one of two models is right and the other wrong. The two directions hold {{ first }} % and {{
    second }} % of all variance; what the rest holds is not seen here. The first direction is often
    accuracy: compare the panels."""
    places, shares = measures.scaled(measures.disagreement(atlas.rho_pos))
    if np.isnan(shares).any():
        raise LeftOut("no two models disagree")
    models = atlas.models
    table = models[["name", "family", "accuracy"]].assign(first=places[:, 0], second=places[:, 1])
    facts = {name: f"{100 * share:.0f}" for name, share in zip(("first", "second"), shares, strict=True)}
    return Shown(table, _map(table, shares), facts=facts)


def _map(table: pd.DataFrame, shares: Floats) -> Figure:
    drawing, panels = panelled("Which models err alike", 2, size=(11, 5.6), sharex=True, sharey=True)
    found = styles(FAMILIES, table["family"])
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=FAMILY_LABELS.get(name, name))
        for name, (color, marker) in found.items()
    ]
    for family, (color, marker) in found.items():
        mine = table[table["family"] == family]
        look = {"marker": marker, "s": 30, "linewidth": 0, "rasterized": len(table) > DENSE}
        panels[0].scatter(mine["first"], mine["second"], color=color, **look)
        limits = {"vmin": 100 * table["accuracy"].min(), "vmax": 100 * table["accuracy"].max()}
        accuracy = 100 * mine["accuracy"]
        marks = panels[1].scatter(mine["first"], mine["second"], c=accuracy, cmap="viridis", **limits, **look)
    if len(table) <= NAMED:
        for row in table.itertuples():
            panels[0].annotate(
                row.name, (row.first, row.second), (3, 3), textcoords="offset points", fontsize=7
            )
    drawing.colorbar(marks, ax=panels, label="accuracy (%)", shrink=0.8)
    panels[0].set_title("by family", fontsize=11)
    panels[1].set_title("by accuracy", fontsize=11)
    for axes in panels:
        axes.set_aspect("equal")
        axes.set_xlabel(f"{100 * shares[0]:.0f} % of the variance")
    panels[0].set_ylabel(f"{100 * shares[1]:.0f} % of the variance")
    legend(
        drawing, handles, f"{len(table):,} models; a squared distance is a share of the samples", len(handles)
    )
    return drawing


@exhibit("The models")
def atlas_models(atlas):
    """By what they know as teachers."""
    models = measures.by_model(atlas).sort_values("rho_pos_as_teacher", ascending=False, kind="stable")
    columns = [
        Column("model", "name"),
        Column("family", "family|text"),
        Column("weights", "source|text", "where they are from"),
        Column("accuracy %", "accuracy|percent(2)", "on the split"),
        Column("published %", "published_accuracy|percent(2)", "timm's ImageNet top-1"),
        Column("as teacher %", "rho_pos_as_teacher|percent(2)", "mean ρ_pos over students"),
        Column("as student %", "rho_pos_as_student|percent(2)", "mean ρ_pos over teachers"),
        Column("D %", "disagreement|percent(2)", "mean disagreement: one right, the other wrong"),
    ]
    return Shown(models, None, columns, keys=["name"])


@exhibit("All numbers of the atlas")
def atlas_statements(of_atlas):
    """Pairs share models: of M models there are M (M − 1) ordered pairs, but only M things were drawn. So
    the intervals come from a bootstrap of whole models. They tell how another draw of such models might
    differ, not other images or classes."""
    columns = [
        Column("name", "measure ~ ('' if level == 'all' else ', ' ~ level)"),
        Column("value", "value|number('.6g')"),
        Column("95 % interval", "'–' if low|is_none else low|number('.6g') ~ ' to ' ~ high|number('.6g')"),
        Column("n", "n|number", "how many things it is of"),
        Column("unit", "unit"),
        Column("meaning", "meaning"),
    ]
    return Shown(of_atlas, None, columns)


def _knowledge(atlas: Atlas, gap: float) -> Figure:
    """Fig. 1a: rho_pos against Delta_acc, its lower bound, chance, and the least of weaker teachers."""
    delta = measures.accuracy_difference(atlas.rho_pos)
    drawing, axes = figure(
        "What the teacher knows and the student does not,\nby how much better the teacher is"
    )
    rho_pos = 100 * atlas.rho_pos
    cloud(drawing, axes, 100 * delta, rho_pos)
    left, right = 100 * np.nanmin(delta), 100 * np.nanmax(delta)
    axes.plot([left, 0, right], [0, 0, right], color=BLACK, linewidth=1.5)
    axes.fill_between([0, right], [0, right], color=SHADE, zorder=0)
    handles = [Line2D([], [], color=BLACK, label="least there can be: max(0, Δ), an identity")]
    expected = 100 * measures.expected_chance(atlas.models["accuracy"], atlas.classes)
    levels = [("expected of guessing", expected, ":")]
    if atlas.untrained_rho_pos.size:
        levels.append(("measured, untrained teachers", 100 * atlas.untrained_rho_pos, "--"))
    for name, values, style in levels:
        axes.axhline(values.mean(), color=ORANGE, linestyle=style, linewidth=1.5)
        label = f"chance, {name}: {values.mean():.2g} % on average"
        handles.append(Line2D([], [], color=ORANGE, linestyle=style, label=label))
    weaker = measures.where(measures.weaker_by(delta, gap), rho_pos)
    if np.isfinite(weaker).any():
        handles.append(mark_least(axes, 100 * delta, weaker, f"teachers weaker by {gap:g} or more", "o"))
    handles.append(mark_least(axes, 100 * delta, rho_pos, "all pairs, the paper's minimum", "D"))
    axes.set(xlabel=DELTA, ylabel="ρ_pos: teacher right, student wrong\n(% of samples)")
    axes.set_ylim(0, up_to(rho_pos[np.isfinite(rho_pos)], 1.05))
    legend(drawing, handles, zoo_size(atlas, np.isfinite(delta).sum()))
    return drawing


def _entropy(atlas: Atlas) -> Figure:
    """Fig. 1b: flip entropy against Delta_acc, against uniform flips: infinitely many, and as many."""
    delta = measures.accuracy_difference(atlas.rho_pos)
    counted = np.isfinite(atlas.flip_entropy)
    drawing, axes = figure(
        "How evenly the positive flips lie over the classes,\nby how much better the teacher is"
    )
    if not counted.any():
        nothing(axes, "no pair has positive flips")
        return drawing
    x, entropy = 100 * delta[counted], atlas.flip_entropy[counted]
    flips = np.rint(atlas.rho_pos[counted] * atlas.samples).astype(np.int64)
    expected = measures.expected_entropy(flips, atlas.classes)
    cloud(drawing, axes, x, entropy)
    centres, (seen, uniform) = measures.binned(x, entropy, expected)
    axes.axhline(1, color=BLACK, linewidth=1.5)
    axes.plot(centres, uniform[:, 1], color=ORANGE, linewidth=2)
    axes.plot(centres, seen[:, 1], color=WHITE, linewidth=4)
    axes.plot(centres, seen[:, 1], color=BLUE, linewidth=2)
    handles = [
        Line2D([], [], color=BLACK, label="1: the same share in every class"),
        Line2D([], [], color=ORANGE, label="as many flips, drawn uniformly (expected, median)"),
        Line2D([], [], color=BLUE, label="median of the pairs"),
    ]
    axes.set(xlabel=DELTA, ylabel="entropy of the flips over classes\n/ log(classes)")
    lowest = entropy.min(initial=1)
    axes.set_ylim(lowest - 0.05 * (1.02 - lowest), 1.02)
    legend(drawing, handles, zoo_size(atlas, counted.sum()))
    return drawing


def _classes(atlas: Atlas) -> Figure:
    """Fig. 2a: share of the flips by class, sorted, and how many the top classes hold together."""
    delta = measures.accuracy_difference(atlas.rho_pos)
    students, teachers = atlas.class_pairs.T
    level = measures.levels(delta)[students, teachers]
    shares = 100 * measures.sorted_shares(atlas.class_flips)
    uniform = 100 * measures.uniform_shares(atlas.class_flips.sum(axis=1), atlas.classes)
    drawing, panels = panelled("In how few classes a pair's positive flips lie", 2, size=(10.5, 6.2))
    markers = atlas.classes <= 20
    top = 100 * np.arange(1, atlas.classes + 1) / atlas.classes
    handles = []
    for name in measures.LEVELS:
        chosen = (level == name) & np.isfinite(shares[:, 0])
        if not chosen.any():
            continue
        color, marker = LEVELS[name]
        style = {"color": color, "linewidth": 2, "marker": marker if markers else ""}
        for axes, add_up in zip(panels, (np.asarray, lambda values: values.cumsum(axis=1)), strict=True):
            low, middle, high = np.quantile(add_up(shares[chosen]), [0.25, 0.5, 0.75], axis=0)
            axes.fill_between(top, low, high, color=color, alpha=0.25, linewidth=0)
            axes.plot(top, middle, **style)
            axes.plot(top, np.median(add_up(uniform[chosen]), axis=0), color=color, linestyle=":")
        label = f"{name} teachers ({chosen.sum()} pairs)"
        handles.append(Line2D([], [], label=label, **style))
    for axes, line in zip(panels, (np.full(len(top), 100 / atlas.classes), top), strict=True):
        axes.plot(top, line, color=BLACK, linewidth=1.5)
        axes.set(xlim=(0, 100), xlabel="classes, those with most flips first (% of classes)")
    handles += [
        Line2D([], [], color=BLACK, label="uniform: the same share in every class"),
        Line2D([], [], color=BLACK, linestyle=":", label="in each colour: as many flips, drawn uniformly"),
        Patch(color=GREY, alpha=0.4, label="median and quartiles of the pairs"),
    ]
    panels[0].set(ylabel="flips in the class (% of the pair's)")
    panels[0].set_ylim(bottom=0)
    panels[1].set(ylabel="flips in all classes up to it (% of the pair's)", ylim=(0, 102))
    legend(drawing, handles, zoo_size(atlas, len(shares)), 2)
    return drawing


def _meaning(atlas: Atlas) -> Figure:
    """Fig. 2b: how alike in meaning the classes are that hold most of a pair's flips."""
    sizes = measures.top_classes(atlas.class_flips)
    ratios = measures.relative_similarity(atlas.class_flips, atlas.embeddings)
    drawing, axes = figure("How alike in meaning the classes are\nin which a pair has most of its flips")
    ticks = []
    for place, percent in enumerate(measures.TOP_PERCENT):
        values = ratios[np.isfinite(ratios[:, place]), place]
        size = float(np.median(sizes[:, place]))
        ticks.append(f"{percent} %\n{size:g} class{'es' * (size != 1)}\n{len(values)} pairs")
        if not len(values):
            text = "no set of\ntwo classes"
            axes.text(place, 1, text, ha="center", va="center", color=GREY, backgroundcolor=WHITE)
            continue
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        axes.plot([place, place], [low, high], color=BLUE, linewidth=6, alpha=0.4, solid_capstyle="butt")
        axes.plot(place, middle, "D", color=BLUE, markersize=8)
        axes.plot(place, values.mean(), "o", color=WHITE, markeredgecolor=BLACK, markersize=7)
    axes.axhline(1, color=BLACK, linewidth=1.5, zorder=1)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set(
        xlabel="share of a pair's flips, held by as few classes as possible:\n"
        "median number of those classes, and pairs where they are two or more",
        ylabel="similarity of the top classes' names\n/ similarity of all classes' names",
    )
    handles = [
        Line2D([], [], color=BLUE, marker="D", linestyle="", label="median of the pairs"),
        Patch(color=BLUE, alpha=0.4, label="quartiles"),
        Line2D([], [], marker="o", color=WHITE, markeredgecolor=BLACK, label="mean of the pairs"),
        Line2D([], [], color=BLACK, label="1: mean of random sets of classes"),
    ]
    legend(drawing, handles, f"{zoo_size(atlas, len(sizes))}; names embedded by {atlas.embedder}", 2)
    return drawing


def _heatmap(atlas: Atlas) -> Figure:
    """rho_pos of all ordered pairs, models that err alike beside each other within their families."""
    order, sizes = measures.clustered(measures.disagreement(atlas.rho_pos), atlas.models["family"])
    values = 100 * atlas.rho_pos[np.ix_(order, order)]
    count, named = len(order), len(order) <= NAMED
    side = np.clip(3.5 + 0.16 * count, 6.5, 11) if named else 8.5
    drawing = Figure(figsize=(side + 1, side + 0.6), layout="constrained")
    axes = drawing.subplots()
    drawing.suptitle("What each teacher knows and each student does not", fontsize=13)
    # A few very weak students would leave the colours of all others alike.
    high = np.nanpercentile(values, 99)
    extend = "max" if np.nanmax(values) > high else "neither"
    axes.set_facecolor(WHITE)
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=high or 1, interpolation="none", rasterized=True)
    drawing.colorbar(image, ax=axes, label="ρ_pos (% of samples)", extend=extend, shrink=0.7, pad=0.02)
    colors = [styles(FAMILIES, sizes)[family][0] for family in sizes]
    edges = np.cumsum([0, *sizes.values()])
    top, right = axes.inset_axes([0, 1.005, 1, 0.02]), axes.inset_axes([1.005, 0, 0.02, 1])
    for start, end, color in zip(edges[:-1], edges[1:], colors, strict=True):
        top.axvspan(start - 0.5, end - 0.5, color=color, linewidth=0)
        right.axhspan(start - 0.5, end - 0.5, color=color, linewidth=0)
        for line in (axes.axhline, axes.axvline):
            line(end - 0.5, color=WHITE, linewidth=1.5 if end < count else 0)
    top.set(xlim=axes.get_xlim(), xticks=[], yticks=[])
    right.set(ylim=axes.get_ylim(), xticks=[], yticks=[])
    for bar in (top, right):
        bar.spines[:].set_visible(False)
    names = atlas.models["name"].to_numpy()[order] if named else []
    size = 9 if count <= 30 else 6.5
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="teacher", ylabel="student")
    handles = [
        Patch(color=color, label=f"{FAMILY_LABELS.get(name, name)} ({number})")
        for (name, number), color in zip(sizes.items(), colors, strict=True)
    ]
    legend(drawing, handles, zoo_size(atlas, count * (count - 1)), 4)
    return drawing


def mark_least(axes: Axes, x: Floats, rho_pos: Floats, which: str, marker: str) -> Line2D:
    """Mark the pair with the least ρ_pos of some [M, M]; returns its line in the legend."""
    pair = measures.least(rho_pos)
    look = {"marker": marker, "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2}
    look |= {"color": ORANGE, "linestyle": ""}
    axes.plot(x[pair], rho_pos[pair], clip_on=False, **look)
    return Line2D([], [], label=f"least of {which}: {rho_pos[pair]:.2f} %", **look)


def zoo_size(atlas: Atlas, pairs: int) -> str:
    return (
        f"{pairs:,} ordered pairs of {len(atlas.models):,} models, {atlas.samples:,} samples, "
        f"{atlas.classes:,} classes"
    )


def cloud(drawing: Figure, axes: Axes, x: Floats, y: Floats) -> None:
    """The pairs as points, or as a density where points would hide each other."""
    counted = np.isfinite(x) & np.isfinite(y)
    x, y = x[counted], y[counted]
    if len(x) < DENSE:
        axes.scatter(x, y, s=16, color=BLUE, alpha=0.45, linewidth=0, rasterized=len(x) > 1_000)
        return
    cells = axes.hexbin(x, y, gridsize=(70, 45), norm=LogNorm(), mincnt=1, cmap=BLUES, linewidths=0.1)
    cells.set_rasterized(True)
    drawing.colorbar(cells, ax=axes, label="ordered pairs", pad=0.02)
