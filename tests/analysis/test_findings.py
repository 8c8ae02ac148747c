"""Findings: what is said of results whose truth was planted, and that no more is said than they show."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from analysis.findings import Finding, findings
from analysis.material import Material
from tests.analysis import sweeps
from tests.analysis.sweeps import Effect

NOTHING = Effect(0.0, student_spread=0.0, spread=0.15)
HELPS = Effect(1.0, student_spread=0.05, spread=0.05)
HARMS = Effect(-3.0, student_spread=0.05, spread=0.05, lost=4.0)


def found_in(sweep: sweeps.Sweep) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        sweeps.write(Path(folder), sweep, merged=1.0, predictions=False, history=False)
        return findings(Material(Path(folder)))


def said(students: int = 8, teachers: int = 8, *, seeds: int = 1, samples: int = 20_000, **effects) -> dict:
    """By exhibit, what is found in a sweep with these effects of methods."""
    sweep = sweeps.simulate(
        students, teachers, methods=list(effects), effects=effects, samples=samples, seeds=seeds
    )
    found = found_in(sweep)
    assert len(found) <= 5
    assert all(one.text.endswith(".") and "  " not in one.text for one in found)
    return {one.exhibit: one.text for one in found}


def test_a_method_that_helps_is_said_to_by_how_much_and_against_what():
    found = said(xe=NOTHING, kl=NOTHING, kl_dp=HELPS)
    helps, control = found["fig_4a_success_rates"], found["size_of_the_transfer"]
    assert re.match(
        r"Of 2 methods KL\+DP helped most: its students became (0\.9|1\.0)\d percent.* on 64 of 64",
        helps,
    )
    assert re.search(r"without a teacher changed them by .* KL\+DP gains \+\S+ more", control)
    assert found["method_differences"].startswith("On the same pairs KL+DP gains +")


@pytest.mark.parametrize("draw", range(3))
def test_without_effect_nothing_is_said_to_help(draw):
    effects = {"xe": NOTHING, "kl": NOTHING, "kl_dp": NOTHING}
    sweep = sweeps.simulate(8, 8, methods=list(effects), effects=effects, samples=20_000, seed=draw)
    found = found_in(sweep)
    texts = " ".join(one.text for one in found)
    # Of ten thousand such sweeps one in twenty may: these three do not.
    assert "No method helped beyond doubt" in texts
    assert "gains +" not in texts


def test_a_method_that_harms_is_said_to_and_another_not():
    found = said(xe=NOTHING, kl=HARMS, kl_dp=HELPS)
    assert re.match(
        r"KL made 64 of 64 trials worse \(at worst \N{MINUS SIGN}3\.\d+\); with KL\+DP none got",
        found["forest"],
    )


def test_where_all_harm_none_is_said_to_help():
    found = said(xe=NOTHING, kl=HARMS)
    assert (
        "No method helped beyond doubt: the largest mean change is KL's, \N{MINUS SIGN}"
        in (found["fig_4a_success_rates"])
    )
    assert "KL gains less than that" in found["size_of_the_transfer"]


def test_of_two_teachers_little_is_said():
    """A gain that leans on the teachers is said to hold for these."""
    lean = Effect(0.3, slope=0.5, student_spread=0.02, spread=0.02)
    found = said(8, 2, xe=NOTHING, kl_dp=lean)
    assert "much about other teachers" in found["about"]
    helps = found["fig_4a_success_rates"]
    assert helps.startswith(("KL+DP helped with these teachers", "No method helped beyond doubt"))


def test_without_a_control_the_reader_is_told():
    found = said(kl_dp=HELPS)
    assert "No control was run" in found["size_of_the_transfer"]
    assert "method_differences" not in found


def test_of_one_pair_there_is_no_interval_and_no_certainty():
    found = said(1, 1, kl_dp=HELPS)
    assert "No method helped beyond doubt" in found["fig_4a_success_rates"]
    assert "[no interval: of too few]" in found["fig_4a_success_rates"]
    assert "students or teachers" in found["about"]


def test_the_control_alone():
    assert (
        said(xe=NOTHING)["fig_4a_success_rates"] == "No trial had a teacher, so nothing could be transferred."
    )


def test_more_seeds_are_no_longer_missed():
    assert "another seed" in said(kl_dp=HELPS)["about"]
    assert "another seed" not in said(kl_dp=HELPS, seeds=2)["about"]
