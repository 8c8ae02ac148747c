"""The figures of the atlas, after Figs. 1 and 2 of arXiv 2310.17653, and a heat map of the whole zoo.

Each says in its title what it shows, on how much, and draws beside the zoo's numbers what arithmetic or
chance alone would give. Made for 12 models as for 1,800: where points would hide each other, a density.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import atlas_measures as measures
from analysis.atlas_results import Atlas, Floats
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

DENSE = 4_000  # pairs, from which on a density is drawn instead of points
NAMED = 60  # models, up to which the heat map says their names
BLUES = ListedColormap(np.linspace([0.80, 0.88, 0.95], [0.02, 0.19, 0.42], 256), "blues")
DELTA = "teacher's accuracy minus the student's (percentage points)"


def draw(atlas: Atlas, gap: float) -> dict[str, Figure | None]:
    """All figures by name; None for one that these results do not have."""
    delta = measures.accuracy_difference(atlas.rho_pos)
    held = len(atlas.class_pairs) > 0
    return {
        "complementarity_1a": _knowledge(atlas, delta, gap),
        "complementarity_1b": _entropy(atlas, delta),
        "complementarity_2a": _classes(atlas, delta) if held else None,
        "complementarity_2b": _meaning(atlas) if held and atlas.embeddings is not None else None,
        "complementarity_heatmap": _heatmap(atlas),
    }


def _knowledge(atlas: Atlas, delta: Floats, gap: float) -> Figure:
    """Fig. 1a: rho_pos against Delta_acc, its lower bound, chance, and the least of weaker teachers."""
    drawing, axes = figure(
        "What the teacher knows and the student does not,\nby how much better the teacher is"
    )
    rho_pos = 100 * atlas.rho_pos
    _cloud(drawing, axes, 100 * delta, rho_pos)
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
        student, teacher = np.unravel_index(np.nanargmin(weaker), weaker.shape)
        marker = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2}
        marker |= {"color": ORANGE, "linestyle": ""}
        axes.plot(100 * delta[student, teacher], rho_pos[student, teacher], clip_on=False, **marker)
        label = f"least of teachers weaker by {gap:g} or more: {rho_pos[student, teacher]:.2f} %"
        handles.append(Line2D([], [], label=label, **marker))
    axes.set(xlabel=DELTA, ylabel="ρ_pos: teacher right, student wrong\n(% of samples)")
    axes.set_ylim(0, up_to(rho_pos[np.isfinite(rho_pos)], 1.05))
    legend(drawing, handles, _size(atlas, np.isfinite(delta).sum()))
    return drawing


def _entropy(atlas: Atlas, delta: Floats) -> Figure:
    """Fig. 1b: flip entropy against Delta_acc, against uniform flips: infinitely many, and as many."""
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
    _cloud(drawing, axes, x, entropy)
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
    legend(drawing, handles, _size(atlas, counted.sum()))
    return drawing


def _classes(atlas: Atlas, delta: Floats) -> Figure:
    """Fig. 2a: share of the flips by class, sorted, and how many the top classes hold together."""
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
    legend(drawing, handles, _size(atlas, len(shares)), 2)
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
    legend(drawing, handles, f"{_size(atlas, len(sizes))}; names embedded by {atlas.embedder}", 2)
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
    legend(drawing, handles, _size(atlas, count * (count - 1)), 4)
    return drawing


def _size(atlas: Atlas, pairs: int) -> str:
    return (
        f"{pairs:,} ordered pairs of {len(atlas.models):,} models, {atlas.samples:,} samples, "
        f"{atlas.classes:,} classes"
    )


def _cloud(drawing: Figure, axes: Axes, x: Floats, y: Floats) -> None:
    """The pairs as points, or as a density where points would hide each other."""
    counted = np.isfinite(x) & np.isfinite(y)
    x, y = x[counted], y[counted]
    if len(x) < DENSE:
        axes.scatter(x, y, s=16, color=BLUE, alpha=0.45, linewidth=0, rasterized=len(x) > 1_000)
        return
    cells = axes.hexbin(x, y, gridsize=(70, 45), norm=LogNorm(), mincnt=1, cmap=BLUES, linewidths=0.1)
    cells.set_rasterized(True)
    drawing.colorbar(cells, ax=axes, label="ordered pairs", pad=0.02)
