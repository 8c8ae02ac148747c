"""Choosing what is transferred: gain on the chosen classes, and loss elsewhere."""

from __future__ import annotations

from analysis import choosing
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.text import Column

TITLE = "Choosing what is transferred"
WHERE = {
    "chosen": ("on chosen classes", "points of accuracy on the samples of the classes that were chosen"),
    "elsewhere": ("elsewhere", "the same on the samples of all other classes"),
}


def lines(material: Material) -> list[str] | None:
    """Nothing to say first; None, so no section, where no method chooses classes."""
    try:
        material.chosen_classes  # noqa: B018 - whether there are any
    except LeftOut:
        return None
    return []


@exhibit("Gain on chosen classes, loss elsewhere")
def gain_on_chosen_classes(chosen_classes, equal):
    """What became of the samples of the classes that a method let the teacher teach, and of all others. Below
    it: what methods that choose nothing did to the same samples, on the same pairs of models, and how much
    more the choice gained than each. Changes of accuracy in points, seeds averaged, means over pairs, with
    95 % intervals over students and teachers; of a level with one teacher, over students alone. Two teachers
    that do the opposite leave an interval of both that says nothing. A pair of which no class, or every
    class, was chosen counts in one of the two parts alone."""
    table = choosing.by_method(chosen_classes, equal)
    columns = [
        Column("chosen by", "chooser|label"),
        Column("method", "method|label"),
        Column("teachers", "level", "by accuracy against the student's"),
        Column("classes", "classes|number('.1f')", "chosen, mean over pairs"),
    ]
    for part, (header, meaning) in WHERE.items():
        columns += [
            Column("pairs", f"{part}_pairs|number", f"that have samples {header}")
            if part == "chosen"
            else Column("pairs elsewhere", f"{part}_pairs|number", "that have samples of other classes"),
            Column(header, f"bounded({part}, {part}_low, {part}_high)|points", meaning),
            Column(
                f"choice minus method, {header}",
                f"bounded({part}_difference, {part}_difference_low, {part}_difference_high)|points",
                "what the method that chooses does more than this one",
            ),
        ]
    return Shown(table, None, columns, keys=["chooser", "method", "level"])
