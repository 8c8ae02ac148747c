"""How every figure looks: colours, sizes, legends, and the files it is saved to.

A method, a family and a kind of teacher have one colour and one marker each, the same everywhere; no figure
tells two of these kinds apart by colour at once. Colours are those of Okabe and Ito and of Paul Tol's
"bright" scheme, which every kind of colour vision tells apart. Black, white and light grey are the page's
own: in the report they follow its dark or light scheme (`inline`).
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    AutoLocator,
    LogFormatterSciNotation,
    LogLocator,
    NullFormatter,
    StrMethodFormatter,
)

from analysis.methods import label

BLACK, WHITE, GRID, SHADE, GREY = "#000000", "#ffffff", "#dddddd", "#eeeeee", "#777777"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"

# Teachers by their accuracy: colour and marker.
LEVELS = {
    "stronger": (BLUE, "^"),
    "equal": ("#999999", "o"),
    "weaker": (ORANGE, "v"),
    "no teacher": (BLACK, "x"),
}
FAMILIES = {"cnn": (GREEN, "o"), "transformer": ("#cc79a7", "s"), "mlp": ("#e69f00", "D")}
FAMILY_LABELS = {"cnn": "CNN", "transformer": "transformer", "mlp": "MLP"}
METHODS = {
    "xe": ("#888888", "x"),
    "kl": ("#ee6677", "v"),
    "xe_kl": ("#ccbb44", "s"),
    "xe_kl_mcl": ("#228833", "D"),
    "kl_dp": ("#4477aa", "o"),
    "kl_dp_unsupervised": ("#66ccee", "^"),
    "cd": ("#882255", "P"),
    "crd": ("#ee7733", "X"),
    "kl_wise": ("#bb5566", "v"),
    "xe_kl_wise": ("#997700", "s"),
    "bi_kd": ("#004488", "D"),
    "bi_kd_moving": ("#6699cc", "D"),
    "kl_dp_drop": ("#225588", "o"),
    "kl_dp_calibrated": ("#114466", "8"),
    "xe_kl_smoothed": ("#999933", "s"),
    "kl_top_k": ("#ffaabb", "v"),
    "soft_xe": ("#cc6677", "<"),
    "xe_hard": ("#882255", "<"),
    "xe_kl_dp": ("#332288", "o"),
    "kl_flips": ("#44aa99", "p"),
    "tf_kd_reg": ("#bbbbbb", "+"),
    "self_distillation": ("#555555", "1"),
    "xe_kl_as_run": ("#ddcc77", "*"),
    "xe_kl_mcl_as_run": ("#117733", "d"),
    "xe_kl_hot": ("#aaaa00", "s"),
    "xe_kl_op": ("#aa3377", "h"),
    "xe_kl_op_agreement": ("#cc99bb", "h"),
    "xe_kl_op_equal": ("#dd77aa", "H"),
    "xe_kl_dp_calibrated": ("#0077bb", "8"),
    "xe_kl_mixed": ("#009988", "8"),
    "xe_kl_adaptconf": ("#cc3311", ">"),
    "xe_kl_until_passed": ("#ee9977", ">"),
    "kl_of_experts": ("#225555", "p"),
    "kl_of_classes": ("#77aadd", "p"),
    "kd": ("#ccbb44", "P"),
    "identity": ("#332288", "X"),
    "flip": ("#ee7733", "*"),
    "flip_crop": ("#ee6677", "s"),
    "cutout": ("#882255", "D"),
    "autoaugment": ("#4477aa", "h"),
    "randaugment": ("#004488", "^"),
    "trivialaugment": ("#88ccee", "^"),
    "augmix": ("#0099bb", "^"),
    "mixup": ("#009988", "H"),
    "cutmix": ("#228833", "d"),
    "cutmix_kl": ("#44aa66", "<"),
    "cutmix_s": ("#999933", ">"),
    "cutmix_t": ("#66ccee", "v"),
}
# For families and methods that are not among these, in the order in which they come.
OTHERS = (("#aa3377", "P"), ("#56b4e9", "X"), ("#f0e442", "*"), (GREY, "h"))

# Of the next two no colour is so light or so dark that it is lost on a light or a dark page.
SIZES = ListedColormap(np.linspace([0.95, 0.75, 0.25], [0.35, 0.10, 0.45], 256), "sizes")
DIFFERENCES = ListedColormap(
    np.concatenate(
        [
            np.linspace([0.84, 0.37, 0.0], [0.70, 0.70, 0.70], 128),
            np.linspace([0.70, 0.70, 0.70], [0.0, 0.45, 0.70], 128),
        ]
    ),
    "differences",
)
DENSE = 1_000  # marks, from which on a figure holds them as pixels
THEMED = {BLACK: "ink", WHITE: "paper", GRID: "grid", SHADE: "shade"}


def styles(known: dict[str, tuple[str, str]], names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each name: the known ones' own, in their order, then `OTHERS` in turn."""
    names = set(names)
    others = sorted(names - set(known))
    return {name: style for name, style in known.items() if name in names} | {
        name: OTHERS[place % len(OTHERS)] for place, name in enumerate(others)
    }


def figure(title: str, size: tuple[float, float] = (7, 6.2)) -> tuple[Figure, Axes]:
    """A figure of one panel, with its title."""
    drawing, panels = panelled(title, 1, size=size)
    return drawing, panels[0]


def panelled(
    title: str, count: int, *, columns: int = 3, size: tuple[float, float] | None = None, **shared
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, with its title.

    Args:
        title: what the figure shows; several lines, if need be.
        count: number of panels, at least 1.
        columns: the most panels in a row.
        size: of the whole in inches; by default 3.6 by 3.2 a panel.
        shared: `sharex`, `sharey`, `width_ratios`, as matplotlib's `subplots` takes them.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    drawing = Figure(figsize=size or (max(6.5, 3.6 * columns), 1.6 + 3.2 * rows), layout="constrained")
    drawing.suptitle(title, fontsize=13)
    panels = list(drawing.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        plain(axes)
    if shared.get("sharex"):  # a panel with nothing below it says its own numbers
        for axes in panels[max(0, count - columns) : count]:
            axes.tick_params(labelbottom=True)
    return drawing, panels[:count]


def by_method(title: str, methods: list[str], **shared) -> tuple[Figure, dict[str, Axes]]:
    """A panel a method."""
    drawing, panels = panelled(title, len(methods), sharex=True, sharey=True, **shared)
    for panel, method in zip(panels, methods, strict=True):
        panel.set_title(label(method), fontsize=11)
    return drawing, dict(zip(methods, panels, strict=True))


def families(names: Iterable[str]) -> tuple[dict[str, tuple[str, str]], list[Line2D]]:
    """Styles of the families, and their legend."""
    looks = styles(FAMILIES, names)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=FAMILY_LABELS.get(name, name))
        for name, (color, marker) in looks.items()
    ]
    return looks, handles


def log_sizes(panel: Axes, values: pd.Series) -> None:
    """A logarithmic axis of sizes with few labels."""
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(LogFormatterSciNotation())
    if np.floor(np.log10(values.max())) <= np.ceil(np.log10(values.min())):  # at most one power of ten
        ticks = np.unique([values.min(), np.sqrt(values.min() * values.max()), values.max()])
        panel.set_xticks(ticks, [_short(value) for value in ticks])
    panel.xaxis.set_minor_formatter(NullFormatter())


def plain_logarithm(panel: Axes, values: pd.Series) -> None:
    """Numbers on a logarithmic y axis as they are, enough to read it by; some of `values` are above 0."""
    some = values[values > 0]
    wide = some.max() >= 10 * some.min()
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else AutoLocator())
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _short(parameters: float) -> str:
    """'25 M', '6.5 k'."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return (
                f"{parameters / size:.2g} {unit}"
                if parameters < 100 * size
                else f"{parameters / size:.0f} {unit}"
            )
    return f"{parameters:.0f}"


def plain(axes: Axes) -> None:
    """A light grid, and no frame."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def axis_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    """Name the axes of panels that share them: below the lowest panels, and left of the leftmost."""
    grid = panels[0].get_gridspec()
    for place, axes in enumerate(panels):
        if place + grid.ncols >= len(panels):
            axes.set_xlabel(x)
        if place % grid.ncols == 0:
            axes.set_ylabel(y)


def legend(drawing: Figure, handles: Sequence, size: str, columns: int = 1) -> None:
    """The legend below the figure, and in it what the figure is made of."""
    drawing.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=size,
        title_fontsize=10,
    )


def method_handles(methods: dict[str, tuple[str, str]]) -> list[Line2D]:
    """The legend of methods, whose colours and markers are those of `styles`."""
    return [
        Line2D([], [], color=color, marker=marker, linewidth=2, label=label(method))
        for method, (color, marker) in methods.items()
    ]


def up_to(values: Iterable[float], room: float = 1.08) -> float:
    """Where an axis from 0 ends: some room above the largest value; 1 where there is none above 0."""
    largest = max((value for value in values if value > 0), default=0)  # what is not defined is not above 0
    return room * largest or 1


def nothing(axes: Axes, text: str) -> None:
    """Say in a panel why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY)


def jitter(count: int, width: float) -> np.ndarray:
    """[count] offsets that spread marks which would hide each other, the same for the same count."""
    return np.random.default_rng(0).uniform(-width, width, count)


def drawn(name: str, drawing: Figure) -> tuple[str, bytes]:
    """The figure as SVG and as PNG; equal figures of one name give equal texts and bytes."""
    drawing.set_dpi(160)
    svg, png = io.BytesIO(), io.BytesIO()
    # By the canvases themselves: `savefig` draws each figure once more before, to lay it out.
    # The salt and the missing date make equal figures equal texts; text stays text, to be found and read.
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        FigureCanvasSVG(drawing).print_svg(svg, metadata={"Date": None})
    drawing.set_layout_engine("none")  # everything is in its place; the PNG need not look for it again
    drawing.set_dpi(160)  # the SVG's canvas leaves its own 72
    # Little effort at packing: a tenth of the report's time, and files an eighth larger.
    FigureCanvasAgg(drawing).print_png(png, pil_kwargs={"compress_level": 3})
    return svg.getvalue().decode(), png.getvalue()


def inline(text: str, name: str, title: str) -> str:
    """An SVG inside a page: black, white and greys are the page's, ids are the figure's own.

    Args:
        text: the SVG, as `drawn` makes it.
        name: prefix of the ids, so that those of two figures differ.
        title: what a screen reader says.
    """
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for color, variable in THEMED.items():
        text = text.replace(f": {color}", f": var(--{variable})")
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    width, _, rest = text.partition('width="')[2].partition("pt")
    box = rest.partition('viewBox="')[2].partition('"')[0]
    head = (
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="{box}" aria-label="{html.escape(title)}" style="--inches: {float(width) / 72:g}">'
    )
    return head + text[text.index(">") + 1 :]
