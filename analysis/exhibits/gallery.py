"""Pictures of what is transferred, and the classes it lies in: what Fig. 5 of arXiv 2310.17653 counts."""

from __future__ import annotations

import base64

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import style, text
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.methods import label

TITLE = "Pictures of what is transferred"
KINDS = {
    "known": "The teacher knew it, the student did not",
    "gained": "Gained: the student was wrong before, and is right after",
    "lost": "Lost: the student was right before, and is wrong after",
}
WHO = {"student_before": "before", "teacher": "teacher", "student_after": "after"}
MOST = 3_000_000  # bytes of pictures in the page, which base64 makes a third more
CLASSES = 40  # at most, in the heat map: those with most flips
COUNTS = {
    "flips": "teacher knows,\nstudent does not",
    "flips_gained": "of these\ngained",
    "gained": "all gained",
    "lost": "lost",
}


def lines(material: Material) -> list[str]:
    """Whose pictures these are."""
    trials = material.gallery["trial"].nunique()
    return [
        f"Of {text.many(trials, 'trial')}: those with the largest gain and loss of the study, unless "
        "jobs/gallery.py was given a pair. Pictures are drawn by chance among those of their kind."
    ]


@exhibit("Pictures")
def pictures(gallery, tested):
    """Under each picture its class, and what the student before, the teacher, and the student after the
    transfer took it for, with the probability they gave it.
    {% if left %}{{ left }} more pictures are in the results, and too many bytes for a page.{% endif %}"""
    trials = tested.set_index("trial").loc[gallery["trial"].unique()]
    room = gallery.assign(size=gallery["picture"].map(len).groupby(gallery["trial"].to_numpy()).cumsum())
    kept = room[room["size"] <= MOST / len(trials)]
    facts = {"left": len(gallery) - len(kept)}
    shown = []
    for trial, row in trials.iterrows():
        delta = text.points(row["transfer_delta"])
        title = f"{label(row['method'])}: {row['student']} from {row['teacher']}, Δ {delta}"
        embedded = _embedded(kept[kept["trial"] == trial])
        shown.append(Shown(embedded=embedded, name=f"pictures_{trial}", title=title, facts=facts))
    return shown


def _embedded(gallery: pd.DataFrame) -> str:
    """The pictures of a trial as HTML."""
    rows = gallery.assign(
        source=["data:image/webp;base64," + base64.b64encode(one).decode() for one in gallery["picture"]]
    )
    kinds = {kind: rows[rows["kind"] == kind].to_dict("records") for kind in KINDS}
    template = text.environment(html=True).get_template("pictures.jinja")
    return template.render(kinds=kinds, titles=KINDS, who=WHO)


@exhibit("Classes where the flips lie")
def classes_of_flips(gallery, tested, flips_by_class, class_names):
    """Of each class's samples the share that only the teacher got right before the transfer, that of these
    the student gained, and all that it gained and lost{% if classes > most %}; the {{ most }} of {{
    classes|number }} classes with most of the teacher's knowledge{% endif %}."""
    trials = tested.set_index("trial").loc[gallery["trial"].unique()]
    table = flips_by_class[flips_by_class["trial"].isin(trials.index)]
    if table.empty:
        raise LeftOut("the predictions of these trials are not there")
    table = table.astype({"trial": object})
    table["name"] = [class_names.get(number, str(number)) for number in table["class"]]
    facts = {"classes": table["class"].nunique(), "most": CLASSES}
    return Shown(table, _heatmap(table, trials), facts=facts)


def _heatmap(table: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    order = table.groupby("class")["flips"].sum().sort_values(ascending=False, kind="stable").index[:CLASSES]
    names = table.drop_duplicates("class").set_index("class")["name"]
    height = 2.6 + 0.26 * len(order)
    drawing, panels = style.panelled(
        "In which classes knowledge lies, and what becomes of it",
        len(trials),
        size=(max(6.5, 2.2 + 3.2 * len(trials)), height),
        sharey=True,
    )
    values = {}
    for trial, mine in table.groupby("trial"):
        of_class = mine.set_index("class").reindex(order)
        values[trial] = 100 * of_class[list(COUNTS)].div(of_class["samples"], axis=0).to_numpy(float)
    high = max(np.nanmax(one) for one in values.values()) or 1
    for panel, (trial, row) in zip(panels, trials.iterrows(), strict=True):
        image = panel.imshow(values[trial], cmap="viridis", vmin=0, vmax=high, aspect="auto")
        panel.grid(visible=False)
        panel.set_xticks(range(len(COUNTS)), COUNTS.values(), fontsize=8)
        panel.set_title(f"{label(row['method'])}\n{row['student']} from {row['teacher']}", fontsize=10)
    panels[0].set_yticks(range(len(order)), [names[number] for number in order], fontsize=9)
    drawing.colorbar(image, ax=panels, label="% of the class's samples", shrink=0.8)
    return drawing
