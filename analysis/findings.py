"""What came out, in five sentences at most: each says no more than its interval, and where it is shown.

The rules are here, the words in `templates/findings.jinja`. What helps is the method with a teacher whose
mean transfer delta is largest among those whose 95 % interval, over students and teachers, lies above 0;
where there is none, among those that hold for these teachers alone, and that is said. It is held against
fine-tuning without a teacher, and against KL on the same pairs. What harms is counted by trials that got
worse (exact McNemar test, q < 0.05).

Left out on purpose: any number that no exhibit shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.material import Material
from analysis.methods import CONTROL
from analysis.text import Number, sentences

FEW = 5  # students, or teachers, of which an interval over them says little
SHOWN = {  # by macro of the template, the exhibit that shows it
    "helps": "fig_4a_success_rates",
    "control": "size_of_the_transfer",
    "harms": "forest",
    "methods": "method_differences",
    "limits": "about",
}
Numbers = dict[str, Number]


@dataclass(frozen=True)
class Finding:
    """A sentence, and the id of the exhibit that shows it."""

    text: str
    exhibit: str


def findings(material: Material, reference: str = "kl") -> list[Finding]:
    """The findings of a sweep; none without a finished trial of one teacher, or of none.

    Args:
        material: of its results.
        reference: the method that others are compared with on the same pairs.
    """
    tested = material.all_tested
    if tested.empty:
        return []
    of, methods = material.of_methods, list(dict.fromkeys(material.by_method["subject"]))
    taught = {method: of[method] for method in methods if of[method]["teachers"].value}
    alone = [method for method in methods if of[method]["trials"].value and method not in taught]
    taught = {method: row for method, row in taught.items() if row["trials"].value}
    best, sure = _best(taught)
    effect = best and taught[best]["delta_mean" + ("_given_teachers" if sure == "these teachers" else "")]
    said = {
        "best": best,
        "most": f"Of {len(taught)} methods " if len(taught) > 1 else "",
        "sure": sure,
        "effect": effect,
        "row": best and taught[best],
        "untaught": alone[0] if alone else None,
        "alone": alone and of[alone[0]]["delta_mean"],
        "over_control": of.get(f"{best} minus {CONTROL}", {}).get("difference_mean"),
        "reference": reference if reference in taught else None,
        "over_reference": of.get(f"{best} minus {reference}", {}).get("difference_mean"),
        "harmful": {method: row for method, row in taught.items() if row["worse"].value},
        "harmless": [method for method, row in taught.items() if not row["worse"].value],
        "lacking": _lacking(tested),
        "counts": _counts(tested),
    }
    texts = sentences("findings.jinja", said, SHOWN)
    return [Finding(text, SHOWN[name]) for name, text in texts.items()]


def _best(taught: dict[str, Numbers]) -> tuple[str | None, str]:
    """The method that helps most, and of whom that holds: 'others', 'these teachers' or nobody ('')."""
    for sure, name in (("others", "delta_mean"), ("these teachers", "delta_mean_given_teachers")):
        helpful = [method for method, row in taught.items() if row[name].above]
        if helpful:
            return max(helpful, key=lambda method: taught[method]["delta_mean"].value), sure
    return max(taught, key=lambda method: taught[method]["delta_mean"].value, default=None), ""


def _counts(tested: pd.DataFrame) -> dict[str, int]:
    return {name: tested[name].nunique() for name in ("student", "teacher", "seed", "data_sha256")}


def _lacking(tested: pd.DataFrame) -> list[str]:
    """What these trials have too few of to tell."""
    counts, lacking = _counts(tested), []
    if counts["seed"] < 2:
        lacking.append("how much another seed would change")
    if counts["data_sha256"] < 2:
        lacking.append("what other images would show")
    few = [f"{name}s" for name in ("student", "teacher") if counts[name] < FEW]
    if few:
        lacking.append(f"much about other {' or '.join(few)}")
    return lacking
