"""What an exhibit is: the example of CONTRIBUTING.md as it stands there, and what is left out."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pandas as pd
import pytest
from jinja2 import UndefinedError

from analysis import exhibits, style
from analysis.exhibit import Exhibit, LeftOut, Shown, exhibit, section
from analysis.material import Material
from analysis.statements import of_table
from analysis.text import Column
from tests.analysis import sweeps

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    folder = tmp_path_factory.mktemp("exhibit")
    sweeps.write(folder, sweeps.simulate(3, 3, samples=200), predictions=False)
    return Material(folder)


def test_the_example_of_contributing_is_an_exhibit(material):
    part = PAGE.read_text().partition("## Adding a figure or table to the report")[2]
    (code,) = re.findall(r"```python\n(.*?)```", part, re.S)
    assert len(code.splitlines()) <= 15
    module = types.ModuleType("analysis.exhibits.mine")
    module.TITLE = "Mine"
    vars(module).update(exhibit=exhibit, style=style, Column=Column, Shown=Shown)
    exec(code, vars(module))
    made = section(module, material)
    (one,) = made.exhibits
    assert (made.name, made.title, one.title) == ("mine", "Mine", "What small students gain")
    assert one.note.startswith("A dot a student: the mean of its transfer deltas over 45 pairs")
    kinds = ["figures/{}.svg", "figures/{}.png", "tables/{}.csv", "tables/{}.md"]
    assert one.files == [kind.format("small_students") for kind in kinds]
    expected = material.taught.groupby("student")["transfer_delta"].mean()
    said = one.statements.set_index(["subject", "measure"])["value"]
    for student, value in expected.items():
        assert said[student, "small_students.transfer_delta"] == pytest.approx(value)
        (cell,) = one.cells.loc[one.cells["student"] == student, "Δ"]
        assert cell == f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")


def test_what_is_not_there_is_left_out_with_the_reason(material):
    @exhibit("Waves")
    def waves(several):
        """A note."""
        raise AssertionError("is not called")

    @exhibit("Stones")
    def stones(taught):
        """A note."""
        raise LeftOut("there are no stones")

    notes = [one.note for each in (waves, stones) for one in each.made(material)]
    assert notes == ["Left out: no trial has several teachers.", "Left out: there are no stones."]


def test_a_name_that_is_none_is_a_bug_and_no_empty_cell(material):
    @exhibit("Typing")
    def typing(taught):
        """{{ pears }} pairs."""
        return Shown(taught)

    @exhibit("Typing")
    def cell(taught):
        """A note."""
        return Shown(taught, columns=[Column("student", "stundent|text")])

    with pytest.raises(UndefinedError, match="pears"):
        typing.made(material)
    with pytest.raises(UndefinedError, match="stundent"):
        cell.made(material)
    with pytest.raises(AttributeError, match="nothing_of_it"):
        Exhibit("Typing", lambda nothing_of_it: None).made(material)


def test_names_of_exhibits_are_their_own_and_each_has_a_note():
    found = [one for module in exhibits.SECTIONS for one in vars(module).values() if isinstance(one, Exhibit)]
    names = [one.name for one in found]
    assert len(names) == len(set(names)) > 25
    assert all(one.function.__doc__ for one in found)
    assert all(module.TITLE for module in exhibits.SECTIONS)


def test_a_table_with_several_numbers_in_a_row_becomes_a_row_a_number():
    table = pd.DataFrame(
        {
            "student": ["a", "b"],
            "method": ["kl", "kl"],
            "pairs": [3, 4],
            "delta": [0.1, 0.2],
            "delta_low": [0.0, 0.1],
            "delta_high": [0.2, 0.3],
            "note": ["x", "y"],
        }
    )
    shown = exhibit("A table")(lambda: Shown(table, keys=["student", "method"]))
    shown.function.__doc__ = "A note."
    shown.function.__name__ = "mine"
    (one,) = shown.made(object())
    rows = one.statements.set_index(["subject", "measure"])
    assert sorted(rows.index) == [
        ("a, kl", "mine.delta"), ("a, kl", "mine.pairs"), ("b, kl", "mine.delta"), ("b, kl", "mine.pairs"),
    ]  # fmt: skip
    delta = rows.loc[("b, kl", "mine.delta")]
    assert delta[["value", "low", "high", "n", "unit"]].tolist() == [0.2, 0.1, 0.3, 4, "fraction"]
    assert rows.loc[("a, kl", "mine.pairs"), "unit"] == "count"
    other = of_table("mine", "A table", table.assign(unit="nats"), ["student"])
    assert set(other["unit"]) == {"nats", "count"}
