"""Weak to strong: how much of the gap between a weak teacher and labels a student recovers without labels."""

from __future__ import annotations

import pandas as pd

from analysis import weak_to_strong
from analysis.exhibit import LeftOut, Shown, exhibit
from analysis.material import Material
from analysis.text import Column

TITLE = "Weak to strong"


def lines(material: Material) -> list[str] | None:
    """Nothing to say first; None, so no section, without a student that learned without labels."""
    try:
        material.gaps  # noqa: B018 - whether there are any
    except LeftOut:
        return None
    return []


@exhibit("Performance gap recovered")
def performance_gap_recovered(gaps):
    """A student that learned from a teacher's outputs alone, without labels, against the same student that
    learned from the labels of the same images (XE). Performance gap recovered: (student by teacher - teacher)
    / (student by labels - teacher), accuracies on the evaluation split (Burns et al., arXiv 2312.09390). 1:
    as good as labels; 0: no better than the teacher; below 0: worse. A pair's 95 % interval is over images
    (Fieller's, paired), with these models; the mean over all pairs has one over students and teachers. 'From'
    says what students began with: of initial weights ('seed') all that they know is the teacher's; others
    knew the labels before, and it is asked what they keep.
    {% if undefined %}Not defined, so left out, where labels do not make a student better than the teacher
    beyond chance: {{ undefined }} of {{ rows }} rows.{% endif %}"""
    known = gaps.dropna(subset="recovered")
    if known.empty:
        raise LeftOut("labels make no student better than its teacher, so there is no gap to be recovered")
    table = pd.concat([weak_to_strong.over_pairs(gaps), known.assign(pairs=1)], ignore_index=True)
    columns = [
        Column("student", "student"),
        Column("teacher", "teacher"),
        Column("method", "method|label"),
        Column("from", "student_source|text", "what the student's weights were"),
        Column("pairs", "pairs|number", "of the mean"),
        Column("teacher %", "weak|percent(2)", "top-1 accuracy"),
        Column("student by it %", "strong|percent(2)", "the same, of the student that it taught"),
        Column("student by labels %", "ceiling|percent(2)", "the same, of the student that labels taught"),
        Column(
            "gap recovered",
            "bounded(recovered, recovered_low, recovered_high)|number('.2f')",
            "1: as good as labels, 0: as the teacher [95 % interval]",
        ),
    ]
    facts = {"undefined": len(gaps) - len(known), "rows": len(gaps)}
    return Shown(table, None, columns, keys=["student", "teacher", "method"], facts=facts)
