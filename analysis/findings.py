"""What came out, in five sentences at most: each says no more than its interval, and where it is shown.

`findings` picks the numbers by rules, `findings.jinja` words them. What helps is the method with a teacher
whose mean transfer delta is largest among those whose 95 % interval, over students and teachers, lies above
0; where there is none, among those that hold for these teachers alone, and that is said. It is held against
fine-tuning without a teacher, and against KL on the same pairs. What harms is counted by trials that got
worse (exact McNemar test, q < 0.05).

Left out on purpose: any number that no exhibit shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from analysis.measures import label

FOLDER = Path(__file__).parent
FEW = 5  # students, or teachers, of which an interval over them says little


@dataclass(frozen=True)
class Finding:
    """A sentence, and the id of the exhibit that shows it."""

    text: str
    exhibit: str


@dataclass(frozen=True)
class Effect:
    """The mean of some pairs' differences, a fraction, with its interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    pairs: int
    positive: int

    @classmethod
    def of(cls, row: dict, name: str, bounds: str = "") -> Effect:
        """That of a row of `measures.by_method`, whose columns begin with `name`."""
        low, high = (row[f"{name}{bounds}_{side}"] for side in ("low", "high"))
        return cls(row[f"{name}_mean"], low, high, row[f"{name}_trials"], row[f"{name}_positive"])

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the interval lies below 0."""
        return self.high < 0


def points(value: float) -> str:
    """Percentage points of a fraction: '+0.34', '−0.30'."""
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")


def many(count: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count} {noun}{'s' * (count != 1)}"


def interval(effect: Effect) -> str:
    """'[+0.10, +0.56]', in points; that there is none where there is none."""
    if pd.isna(effect.low):
        return "[no interval: of too few]"
    return f"[{points(effect.low)}, {points(effect.high)}]"


def findings(summary: pd.DataFrame, tested: pd.DataFrame, reference: str = "kl") -> list[Finding]:
    """The findings of a sweep.

    Args:
        summary: as `measures.by_method` gives it.
        tested: as `measures.tested` gives it, of trials of one teacher or none.
        reference: the method that others are compared with on the same pairs.
    """
    rows = summary[summary["trials"] > 0].to_dict("records")
    taught, alone = [row for row in rows if row["teachers"]], [row for row in rows if not row["teachers"]]
    best, sure = _best(taught)
    said = {
        "label": label,
        "best": best,
        "most": f"Of {len(taught)} methods " if len(taught) > 1 else "",
        "sure": sure,
        "effect": best and Effect.of(best, "delta", "" if sure != "these teachers" else "_given_teachers"),
        "untaught": alone[0] if alone else None,
        "alone": Effect.of(alone[0], "delta") if alone else None,
        "over_control": best and Effect.of(best, "over_control"),
        "reference": reference if any(row["method"] == reference for row in taught) else None,
        "over_reference": best and Effect.of(best, "over_reference"),
        "harmful": [row for row in taught if row["worse"]],
        "harmless": [row for row in taught if not row["worse"]],
        "lacking": _lacking(tested),
        "counts": _counts(tested),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"points": points, "interval": interval, "many": many}
    template = environment.get_template("findings.jinja")
    links = {
        "helps": "fig_4a_success_rates",
        "control": "success_size_of_the_transfer",
        "harms": "forest" if taught else "success_size_of_the_transfer",
        "methods": "method_differences",
        "limits": "about",
    }
    module = template.make_module(said)
    texts = {name: " ".join(getattr(module, name)().split()) for name in links}
    return [Finding(text, links[name]) for name, text in texts.items() if text]


def _best(taught: list[dict]) -> tuple[dict | None, str]:
    """The method that helps most, and of whom that holds: 'others', 'these teachers' or nobody ('')."""
    for sure, name in (("others", "delta"), ("these teachers", "delta_given_teachers")):
        helpful = [row for row in taught if row[f"{name}_low"] > 0]
        if helpful:
            return max(helpful, key=lambda row: row["delta_mean"]), sure
    return max(taught, key=lambda row: row["delta_mean"], default=None), ""


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
