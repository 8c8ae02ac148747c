"""Two studies side by side: on the pairs both have, against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.both import Both
from analysis.inference import crossed_bootstrap
from analysis.results import ResultsError
from analysis.statements import numbers
from tests.analysis import sweeps


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A study, and another one of some of its pairs, that gains a tenth of a point more by kl_dp."""
    place = tmp_path_factory.mktemp("both")
    one = sweeps.simulate(4, 4, methods=["xe", "kl", "kl_dp"], seeds=2, samples=1000, failed=2)
    trials = one.trials[one.trials["student"] != "student-03"].copy()
    more = trials["method"] == "kl_dp"
    trials.loc[more, "transfer_delta"] += 0.001
    trials.loc[more, "knowledge_gain"] += 0.001
    trials["lr"] = 0.5
    sweeps.write(place / "one", one, predictions=False)
    sweeps.write(place / "two", replace(one, trials=trials), predictions=False)
    return place / "one", place / "two"


def test_differences_are_those_of_pairs_that_both_have(two):
    both = Both(*two)
    tables = [pd.read_parquet(folder / "trials") for folder in two]
    done = [table[table["status"] == "ok"].set_index("trial")["transfer_delta"] for table in tables]
    common = done[0].index.intersection(done[1].index)
    assert len(both.trials) == len(common) > 20
    assert set(both.pairs["student"]) == {"student-00", "student-01", "student-02"}
    found = numbers(both.by_method)
    assert list(found) == ["xe", "kl", "kl_dp"]
    mine = both.pairs[both.pairs["method"] == "kl_dp"]
    mean = found["kl_dp"]["difference_mean"]
    assert mean.value == pytest.approx(0.001) and mean.n == len(mine) == 12
    assert (mean.low, mean.high) == pytest.approx(
        crossed_bootstrap(mine["difference"], mine["student"], mine["teacher"])
    )
    assert found["kl"]["difference_mean"].value == 0
    averaged = tables[0][tables[0]["trial"].isin(common) & (tables[0]["method"] == "kl")]
    averaged = averaged.groupby(["student", "teacher"])["transfer_delta"].mean()
    assert found["kl"]["delta_of_first"].value == pytest.approx(averaged.mean())


def test_settings_that_differ_are_listed(two):
    settings = Both(*two).settings.set_index("setting")
    assert list(settings.index) == ["lr"]
    assert settings.loc["lr"].tolist() == ["0.0001", "0.5"]


def test_the_command_writes_a_page_and_says_what_differs(two, capsys):
    assert report.main([str(folder) for folder in two]) == 0
    said = capsys.readouterr().out
    assert (
        "On the same pairs, two minus one: KL+DP +0.10 points [+0.10, +0.10], on 12 pairs."
        in said.replace("\n  ", " ")
    )
    out = two[0] / "analysis" / "against_two"
    page = (out / "report.html").read_text()
    assert page.count("<svg ") == 2 and "Two transfer studies side by side" in page
    assert "No trial" not in page and "All trials" not in page
    table = pd.read_parquet(out / "statements.parquet")
    assert set(table["subject"]) == {"xe", "kl", "kl_dp"}
    assert (out / "tables" / "both_settings.md").exists() and (out / "figures" / "both_pairs.png").exists()


def test_a_study_against_itself_has_no_difference(two, capsys):
    assert report.main([str(two[0]), str(two[0]), "--out", str(two[0] / "same")]) == 0
    assert "Whether they differ at all is open" in capsys.readouterr().out
    both = Both(two[0], two[0])
    assert np.all(both.pairs["difference"] == 0) and both.settings.empty


def test_what_cannot_be_compared_is_one_sentence(two, tmp_path, capsys):
    other = sweeps.simulate(2, 2, methods=["kl"], samples=100)
    renamed = other.trials.assign(student="x" + other.trials["student"])
    sweeps.write(tmp_path / "other", replace(other, trials=renamed), predictions=False)
    with pytest.raises(ResultsError, match="no trial of one has its like in the other"):
        Both(two[0], tmp_path / "other")
    assert report.main([str(two[0]), str(tmp_path / "none")]) == 2
    assert "no such folder of results" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report.main([str(two[0])] * 3)
    assert "two at most" in capsys.readouterr().err
