"""Figs. 1 and 2 of arXiv 2310.17653 in the paper's own form, to be laid beside the published ones.

The section of `exhibits/atlas.py` shows the same pairs with what arithmetic and chance alone would give. Left
out here on purpose: such lines, and the bins and quartiles that the paper does not draw.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import atlas_measures as measures
from analysis.atlas_results import Atlas
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.exhibits.atlas import DELTA, NO_CLASSES, NO_MEANING, cloud, mark_least, zoo_size
from analysis.material import Material
from analysis.statements import TEACHING, numbers
from analysis.style import BLACK, BLUE, GREY, LEVELS, WHITE, figure, legend, panelled, up_to
from analysis.text import Column, Number, points

TITLE = "The atlas in the paper's own form"
RHO_POS = "ρ_pos: teacher right, student wrong (% of samples)"
NATS = "entropy of the flips over classes (nats)"
MARKERS = 60  # classes, up to which each has a mark
PAPERS_TEXTS = "clip: plain names"  # what Fig. 2b of the paper is of, as records call it


def lines(material: Material) -> list[str] | None:
    """What differs from the paper in spite of the same form; no section without an atlas."""
    try:
        material.atlas  # noqa: B018 - asked only whether it is there
    except LeftOut:
        return None
    return [
        "The pairs of the section above, drawn as arXiv 2310.17653 draws them, so that its figures can be "
        "laid beside these. The forms above show, in addition, what chance and arithmetic would give.",
        "Every model sees images through its own preprocessing here. By the authors' public scripts the "
        "paper's teachers saw the student's crop, so its ρ_pos and Δ_acc hold what that costs a teacher.",
    ]


@exhibit("Fig. 1b, the paper's form")
def fig_1b_paper(atlas, atlas_pairs, of_atlas):
    """The entropy in nats, against ρ_pos: {{ mean|number(".2f") }} nats on average over {{ mean.n|number }}
    pairs. The black line is log({{ classes|number }}) = {{ even|number(".2f") }}, flips that lie evenly
    over the classes. Fig. 1b above has the same entropy divided by that, and the one that so few flips can
    have. The paper's figure spans 5.8 to 6.8 nats, of 6.91."""
    if not np.isfinite(atlas.flip_entropy).any():
        raise LeftOut("no pair has positive flips")
    (known,) = numbers(of_atlas).values()
    table = atlas_pairs
    if table is not None:
        table = table.assign(entropy_nats=measures.nats(table["flip_entropy"], atlas.classes))
    drawing, axes = figure("How evenly the positive flips lie over the classes,\nby how many they are")
    counted = np.isfinite(atlas.flip_entropy)
    handles = _entropy(drawing, axes, atlas, counted)
    legend(drawing, handles, zoo_size(atlas, counted.sum()))
    facts = {"classes": atlas.classes, "mean": known["entropy_nats"], "even": known["entropy_even"]}
    return Shown(table, drawing, facts=facts)


@exhibit("Fig. 2a, the paper's form")
def fig_2a_paper(atlas, of_atlas):
    """Three pairs: the paper's own where they are among the {{ pairs|number }} whose flips are recorded class
    by class, else those nearest to its differences in accuracy of −13, 0 and +18 points: {% for one in
    chosen %}{{ one.pair }} ({{ one|points }} points){{ ", " if not loop.last else "." }}{% endfor %}
    A class's share of its own samples, the class with most first; evenly spread flips would have that of the
    dashed line in each. Fig. 2a above has every pair, as shares of its flips."""
    if not len(atlas.class_flips):
        raise LeftOut(NO_CLASSES)
    (known,) = numbers(of_atlas).values()
    chosen = measures.example_pairs(atlas)
    tables = [_classes_of(atlas, teacher, row) for teacher, row in chosen.items()]
    differences = [known[f"example_{teacher}_delta"] for teacher in chosen]
    facts = {"pairs": len(atlas.class_pairs), "chosen": differences}
    drawing = _examples(atlas, chosen, tables)
    return Shown(pd.concat(tables), drawing, keys=["teacher", "pair", "rank"], facts=facts)


@exhibit("Fig. 2b, the paper's form")
def fig_2b_paper(atlas, of_atlas):
    """How much more alike the names of a pair's top classes are than those of all classes ({{
    overall|number(".2f") }}), in percent of that: mean and quartiles over pairs with two such classes. The
    embeddings are of '{{ embedder }}'. {% if not papers %}The paper's are CLIP's, of the plain names:
    jobs/atlas.py with --embed clip --embed-given names. {% endif %}Fig. 2b above has the same as a ratio,
    with medians. The paper's figure lies between +6 and +12 %, its text says nearly twice the average for
    the top 2 %: they do not agree."""
    if not len(atlas.class_flips):
        raise LeftOut(NO_CLASSES)
    if atlas.embeddings is None:
        raise LeftOut(NO_MEANING)
    (known,) = numbers(of_atlas).values()
    table = pd.DataFrame([_alike(known, percent) for percent in measures.PAPERS_PERCENT])
    if not table["pairs"].any():
        raise LeftOut("no pair has two top classes whose names can be compared")
    columns = [
        Column("classes", "top", "fewest classes that hold so many of a pair's flips"),
        Column("number", "classes|number('g')", "of these classes: median over pairs"),
        Column("pairs", "pairs|number", "with two such classes"),
        Column("mean %", "bounded(mean, low, high)|percent(1)", "over pairs [95 % interval over models]"),
        Column("quartiles %", "'–' if q1|is_none else q1|percent(1) ~ ' to ' ~ q3|percent(1)"),
    ]
    papers = atlas.embedder == PAPERS_TEXTS
    facts = {"overall": known["similarity_mean"], "embedder": atlas.embedder, "papers": papers}
    return Shown(table, _similarity(atlas, table), columns, keys=["top"], facts=facts)


@exhibit("Fig. 1 on 466 random pairs")
def fig_1_of_466_pairs(atlas, of_atlas):
    """Like for like: as many random ordered pairs as the paper drew of its 301 models, without replacement,
    by numpy's default_rng(0) when the atlas was made; those whose flips are recorded class by class, so
    that Fig. 2 is of the same. Their ρ_pos is {{ mean|percent(2, " %") }} on average. The mark is the least
    of all of them: {{ least|percent(2, " %") }} ({{ least.pair }})."""
    mask = measures.papers_draw(atlas)
    count = int(np.isfinite(atlas.rho_pos).sum())
    if count <= measures.PAPERS_PAIRS:
        raise LeftOut(f"the zoo has {count:,} ordered pairs, no more than the 466 that the paper drew")
    if mask is None:
        raise LeftOut(f"the flips of {len(atlas.class_pairs)} pairs are recorded class by class, not of 466")
    (known,) = numbers(of_atlas).values()
    student, teacher = np.nonzero(mask)
    names = atlas.models["name"].to_numpy()
    delta = measures.accuracy_difference(atlas.rho_pos)
    table = pd.DataFrame(
        {
            "student": names[student],
            "teacher": names[teacher],
            "accuracy_difference": delta[mask],
            "rho_pos": atlas.rho_pos[mask],
            "entropy_nats": measures.nats(atlas.flip_entropy[mask], atlas.classes),
        }
    )
    facts = {"mean": known["drawn_rho_pos_mean"], "least": known["drawn_rho_pos_min"]}
    return Shown(table, _drawn(atlas, mask), facts=facts)


def _entropy(drawing: Figure, axes: Axes, atlas: Atlas, counted: np.ndarray) -> list[Line2D]:
    """Fig. 1b of the pairs that count; returns its legend."""
    rho_pos = 100 * atlas.rho_pos[counted]
    entropy, even = measures.nats(atlas.flip_entropy[counted], atlas.classes), math.log(atlas.classes)
    cloud(drawing, axes, rho_pos, entropy)
    axes.axhline(even, color=BLACK, linewidth=1.5)
    axes.set(xlabel=RHO_POS, ylabel=NATS)
    axes.set_xlim(0, up_to(rho_pos))
    lowest = np.nanmin(entropy)
    axes.set_ylim(lowest - 0.05 * (even - lowest) - 0.01, even + 0.05 * (even - lowest) + 0.01)
    label = f"the same share in every class: ln {atlas.classes:,} = {even:.2f} nats"
    return [Line2D([], [], color=BLACK, label=label)]


def _classes_of(atlas: Atlas, teacher: str, row: int) -> pd.DataFrame:
    """A row a class of one pair, the class with most of its samples first."""
    student, other = atlas.models["name"].to_numpy()[atlas.class_pairs[row]]
    order, rates = measures.class_rates(atlas.class_flips[row], atlas.class_samples)
    return pd.DataFrame(
        {
            "teacher": f"{teacher} teacher",
            "pair": f"{other}{TEACHING}{student}",
            "rank": range(1, len(order) + 1),
            "class": [atlas.class_names[label] for label in order],
            "flips_of_class": rates,
        }
    )


def _examples(atlas: Atlas, chosen: dict[str, int], tables: list[pd.DataFrame]) -> Figure:
    """Fig. 2a: a panel a pair."""
    title = "How much of each class the teacher knows and the student does not"
    drawing, panels = panelled(title, len(chosen), size=(12, 5.5))
    delta, handles = measures.accuracy_difference(atlas.rho_pos), []
    for axes, (teacher, row), table in zip(panels, chosen.items(), tables, strict=True):
        pair = tuple(atlas.class_pairs[row])
        rank, rates = table["rank"], 100 * table["flips_of_class"]
        color, marker = LEVELS[teacher]
        look = {"color": color, "linewidth": 2, "marker": marker if len(table) <= MARKERS else ""}
        axes.fill_between(rank, rates, color=color, alpha=0.25, linewidth=0)
        axes.plot(rank, rates, **look)
        axes.axhline(100 * atlas.rho_pos[pair], color=BLACK, linestyle="--", linewidth=1.5)
        student, other = atlas.models["name"].to_numpy()[list(pair)]
        title = f"teacher {other}\nstudent {student}\nΔ_acc {points(delta[pair])} points"
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="rank of the class", xlim=(0.5, len(table) + 0.5), ylim=(0, up_to(rates)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles.append(Line2D([], [], label=f"{teacher} teacher", **look))
    panels[0].set_ylabel("flips in the class (% of its samples)")
    label = "ρ_pos, the share in all classes together"
    handles.append(Line2D([], [], color=BLACK, linestyle="--", label=label))
    legend(drawing, handles, f"{atlas.samples:,} samples, {atlas.classes:,} classes", len(handles))
    return drawing


def _alike(known: dict[str, Number], percent: int) -> dict[str, float]:
    """A row of Fig. 2b: the ratios of the statements, less one."""
    none = Number(math.nan)
    mean, low, high = (known.get(f"alike_{percent}_{part}", none) for part in ("mean", "q1", "q3"))
    return {
        "top": f"top {percent} %",
        "classes": known[f"classes_{percent}"].value,
        "pairs": mean.n,
        "mean": mean.value - 1,
        "low": mean.low - 1,
        "high": mean.high - 1,
        "q1": low.value - 1,
        "q3": high.value - 1,
    }


def _similarity(atlas: Atlas, table: pd.DataFrame) -> Figure:
    """Fig. 2b: mean and quartiles by level."""
    drawing, axes = figure(
        "How much more alike in meaning the classes are\nin which a pair has most of its flips"
    )
    known = table[table["pairs"] > 0]
    places = known.index
    axes.fill_between(places, 100 * known["q1"], 100 * known["q3"], color=BLUE, alpha=0.25, linewidth=0)
    if len(known) == 1:  # a band has no width there
        axes.vlines(places, 100 * known["q1"], 100 * known["q3"], color=BLUE, linewidth=6, alpha=0.4)
    axes.plot(places, 100 * known["mean"], color=BLUE, marker="o", linewidth=2, markersize=7)
    axes.axhline(0, color=BLACK, linewidth=1.5, zorder=1)
    for place in table.index[table["pairs"] == 0]:
        text = "no set of\ntwo classes"
        middle = {"ha": "center", "va": "center", "transform": axes.get_xaxis_transform()}
        axes.text(place, 0.5, text, color=GREY, backgroundcolor=WHITE, **middle)
    ticks = [
        f"{row.top}\n{row.classes:g} class{'es' * (row.classes != 1)}\n{row.pairs:,} pairs"
        for row in table.itertuples()
    ]
    axes.set_xticks(table.index, ticks)
    axes.set_xlim(-0.5, len(table) - 0.5)
    axes.set(
        xlabel="fewest classes that hold so many of a pair's flips:\n"
        "median number of those classes, and pairs where they are two or more",
        ylabel="similarity of the top classes\n(% above the mean of all classes)",
    )
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean of the pairs"),
        Patch(color=BLUE, alpha=0.25, label="quartiles"),
        Line2D([], [], color=BLACK, label="0: mean of all classes"),
    ]
    legend(drawing, handles, f"{zoo_size(atlas, len(atlas.class_pairs))}\n{atlas.embedder}", 3)
    return drawing


def _drawn(atlas: Atlas, mask: np.ndarray) -> Figure:
    """Figs. 1a and 1b of the pairs that count."""
    title = f"{mask.sum()} ordered pairs drawn at random: what teachers know, and how evenly it lies"
    drawing, (left, right) = panelled(title, 2, size=(11, 5.6))
    delta, rho_pos = 100 * measures.accuracy_difference(atlas.rho_pos), 100 * atlas.rho_pos
    cloud(drawing, left, delta[mask], rho_pos[mask])
    left.axvline(0, color=GREY, linestyle="--", linewidth=1.5)
    least = mark_least(left, delta, measures.where(mask, rho_pos), "these, the paper's minimum", "D")
    left.set(xlabel=DELTA, ylabel=RHO_POS)
    left.set_ylim(0, up_to(rho_pos[mask]))
    even = _entropy(drawing, right, atlas, mask & np.isfinite(atlas.flip_entropy))
    parity = Line2D([], [], color=GREY, linestyle="--", label="teacher as good as the student")
    legend(drawing, [least, parity, *even], zoo_size(atlas, mask.sum()), 3)
    return drawing
