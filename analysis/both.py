"""Two results folders, compared trial by trial: what `exhibits.both` shows.

Trials are the same where student, teacher, method and seed have the same names and the models the same timm
names. Differences are taken seed by seed, then averaged over the seeds that both finished.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis import measures
from analysis.methods import by_order_of_methods, in_order
from analysis.results import ResultsError, load
from analysis.statements import Statements, numbers
from analysis.text import NONE, sentences

SAME = ["method", "student", "student_timm", "teacher", "teacher_timm", "seed"]
PAIR = ["method", "student", "teacher"]
SETTINGS = [
    *("study", "data", "data_sha256", "classes", "transfer_samples", "evaluation_samples", "epochs"),
    *("batch_size", "lr", "schedule", "momentum", "weight_decay", "temperature", "weight", "slow_decay"),
    *("transforms", "precision", "student_weights", "teacher_weights", "device", "torch_version"),
    *("timm_version", "study_version"),
]


class Both:
    """What the comparison of two studies is made of.

    Attributes:
        names: of the two: of their folders, with what leads there where these are called alike.
        trials: a row a trial of both, with `transfer_delta_first` and `transfer_delta_second`.
    """

    def __init__(self, first: Path, second: Path, progress: Callable[[str], None] = lambda text: None):
        """Read both, and match their trials.

        Raises:
            ResultsError: one cannot be read, or they have no trial in common.
        """
        alike = first.name == second.name
        self.names = tuple(str(folder) if alike else folder.name for folder in (first, second))
        self._tables = []
        for folder in (first, second):
            progress(f"reading {folder}")
            trials = load(folder, list(dict.fromkeys([*SAME, *SETTINGS])))
            done = trials[trials["status"] == "ok"]
            self._tables.append(done.reindex(columns=[*dict.fromkeys([*SAME, "transfer_delta", *SETTINGS])]))
        known = [table[[*SAME, "transfer_delta"]] for table in self._tables]
        self.trials = known[0].merge(known[1], on=SAME, suffixes=("_first", "_second"))
        if self.trials.empty:
            raise ResultsError(
                f"{first} and {second}: no trial of one has its like in the other (same student, teacher, "
                "method and seed); give two studies of the same pairs"
            )

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """A row a (method, student, teacher) of both: `seeds`, mean deltas `first` and `second`,
        `difference`."""
        deltas = {name: f"transfer_delta_{name}" for name in ("first", "second")}
        rows = self.trials.assign(**{name: self.trials[old].astype(float) for name, old in deltas.items()})
        values = rows.assign(difference=rows["second"] - rows["first"]).groupby(PAIR, dropna=False)
        table = values[["first", "second", "difference"]].mean().round(12)
        table.insert(0, "seeds", values["seed"].nunique())
        return by_order_of_methods(table.reset_index())

    @cached_property
    def by_method(self) -> pd.DataFrame:
        """Rows of `statements`: means of both studies by method, and of the differences."""
        first, second = self.names
        said = Statements(
            measures.MEANINGS
            | {
                "delta_of_first": ("fraction", f"mean transfer delta in {first}, over the pairs of both"),
                "delta_of_second": ("fraction", f"mean transfer delta in {second}, over the pairs of both"),
            }
        )
        for method in in_order(self.pairs["method"]):
            mine = self.pairs[self.pairs["method"] == method]
            for name in ("first", "second"):
                said.add(method, f"delta_of_{name}", mine[name].mean(), len(mine))
            measures.effect(said, method, "difference", mine, mine["difference"], "all")
        return said.table()

    @cached_property
    def settings(self) -> pd.DataFrame:
        """A row a setting that the compared trials of the two do not have alike: all its values in each."""
        rows = []
        compared = [table.merge(self.trials[SAME], on=SAME) for table in self._tables]
        for name in SETTINGS:
            first, second = (
                ", ".join(sorted(table[name].dropna().astype(str).unique())) or NONE for table in compared
            )
            if first != second:
                rows.append({"setting": name, "first": short(first), "second": short(second)})
        return pd.DataFrame(rows, columns=["setting", "first", "second"])

    def findings(self) -> list[str]:
        """What differs, a sentence for the methods that do, and one for those of which it is open."""
        names = {"found": numbers(self.by_method), "first": self.names[0], "second": self.names[1]}
        return list(sentences("both.jinja", names, ("differs", "open")).values())


def short(text: str, most: int = 80) -> str:
    """The text, its end left out where it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"
