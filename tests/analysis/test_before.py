"""The numbers as an earlier version gave them, a table of 134 columns among them, come out the same.

`before/` holds what it wrote for the sweep and the atlas made here. Columns that are now called otherwise are
listed by `renamed`.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.material import Material
from analysis.statements import numbers
from tests.analysis import atlases, sweeps

BEFORE = Path(__file__).parent / "before"
LEVELS = ("weaker", "equal", "stronger", "not_stronger")
SEVERAL = ["sequential ascending", "sequential descending", "parallel", "soup"]


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    folder = tmp_path_factory.mktemp("before")
    students = sweeps.made_up(5, "student", (0.79, 0.82))
    sweep = sweeps.simulate(
        students, 4, seeds=2, samples=900, failed=3, missing=0.04, seed=3, several=SEVERAL
    )
    sweeps.write(folder, sweep, merged=1.0, predictions=False)
    zoo = atlases.simulate(6, 300, 10, untrained=1)
    atlases.write(folder, atlases.tables(zoo, pairs=20, embeddings=atlases.meanings(10)))
    return Material(folder)


def renamed(column: str, method: str) -> tuple[str, str, str]:
    """Subject, name and part of a number that was in a column of the table by method."""
    subject, name = method, column
    for start, other in (("over_reference", "kl"), ("over_control", "xe")):
        if column.startswith(start):
            subject, name = f"{method} minus {other}", "difference" + column.removeprefix(start)
    if name.startswith("success_wilson") or name.startswith("clear_success_wilson"):
        name = name.replace("_wilson", "_rate_independent")
    elif name in ("success_low", "success_high", "clear_success_low", "clear_success_high"):
        name = name.replace("success_", "success_rate_")
    part = "value"
    for end in ("low", "high"):
        if name.endswith(f"_{end}"):
            name, part = name.removesuffix(f"_{end}"), end
    level = next((f"_{level}" for level in LEVELS[::-1] if f"_{level}" in name), "")
    if level and name.startswith(("delta", "difference")):
        name = name.replace(level, "", 1) + level
    kind, _, rest = name.partition("_")
    if kind in ("delta", "difference"):
        if rest.startswith("trials"):
            name, part = f"{kind}_mean{level}", "n"
        elif rest.startswith("given_teachers"):
            name = f"{kind}_mean_given_teachers{level}"
        elif rest in ("", *LEVELS):
            name = f"{kind}_mean{level}"
    return subject, name, part


def test_the_table_by_method(material):
    found, checked = material.of_methods, 0
    for row in pd.read_csv(BEFORE / "by_method.csv").to_dict("records"):
        for column, value in row.items():
            if column in ("method", "label"):
                continue
            subject, name, part = renamed(column, row["method"])
            one = found.get(subject, {}).get(name)
            if one is None:  # a difference that no pair has
                assert math.isnan(value) or value == 0, column
            else:
                assert getattr(one, part) == pytest.approx(value, nan_ok=True, abs=1e-12), (subject, column)
                checked += 1
    assert checked > 600


def test_differences_between_methods(material):
    for row in pd.read_csv(BEFORE / "method_differences.csv").to_dict("records"):
        of = "" if row["level"] == "all" else f"_{row['level']}"
        known = material.of_methods[f"{row['a']} minus {row['b']}"]
        mean = known[f"difference_mean{of}"]
        assert (mean.value, mean.low, mean.high, mean.n) == pytest.approx(
            (row["mean"], row["low"], row["high"], row["pairs"]), nan_ok=True, abs=1e-12
        )
        # It left the narrower interval out; that of the table by method has it.
        assert math.isnan(row["given_teachers_low"])
        assert known[f"difference_mean_given_teachers{of}"].value == mean.value
        names = {
            "better": "positive",
            "worse": "negative",
            "wilcoxon_p": "wilcoxon_p",
            "wilcoxon_q": "wilcoxon_q",
        }
        for before, now in names.items():
            assert known[f"difference_{now}{of}"].value == pytest.approx(row[before], nan_ok=True)


def test_properties_of_students(material):
    from analysis.measures import student_properties

    found = numbers(student_properties(material.trials))
    for row in pd.read_csv(BEFORE / "student_properties.csv").to_dict("records"):
        one = found[row["method"]][f"{row['property']}_and_{row['outcome']}"]
        assert (one.value, one.low, one.high, one.n) == pytest.approx(
            (row["rho"], row["low"], row["high"], row["n"]), nan_ok=True
        )


def test_the_atlas(material):
    (found,) = numbers(material.of_atlas).values()
    before = pd.read_csv(BEFORE / "atlas.csv", keep_default_na=False, na_values=[""])
    assert set(before["name"]) < set(found)  # others came since
    for row in before.to_dict("records"):
        one = found[row["name"]]
        assert (one.value, one.low, one.high, one.n) == pytest.approx(
            (row["value"], row["low"], row["high"], row["n"]), nan_ok=True
        )
        pair = f"{row['teacher']} teaching {row['student']}" if isinstance(row["teacher"], str) else ""
        assert one.pair == pair
