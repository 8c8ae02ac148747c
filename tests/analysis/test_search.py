"""Searches in the report: what each value does, each combination, and that no other number is of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import report, search_measures, statements
from analysis.exhibit import LeftOut
from analysis.material import Material
from tests.analysis import sweeps

GRID = {  # of each method of the sweep: the entry it is of, and its settings
    "kl": ("kl", {"lr": 0.01, "temperature": 1.0}),
    "xe_kl": ("kl", {"lr": 0.1, "temperature": 1.0}),
    "kl_dp": ("kl_dp", {"lr": 0.01, "weight": 0.5, "slow.tau": 0.9}),
    "kl_dp_unsupervised": ("kl_dp", {"lr": 0.01, "weight": 1.0, "slow.tau": 0.9}),
    "xe_kl_mcl": ("kl_dp", {"lr": 0.001, "weight": 1.0, "slow.tau": 0.9}),
}


def sweep(searched: bool = True, beside: tuple[str, ...] = (), **options) -> sweeps.Sweep:
    """A sweep whose methods are combinations of two searches, but some that stand beside these."""
    methods = [*beside, *(name for name in GRID if name not in beside)]
    one = sweeps.simulate(3, 4, methods=methods, samples=400, **options)
    grid = {name: of for name, of in GRID.items() if searched and name not in beside}
    known = one.trials["method"].map(grid)
    settings = known.map(lambda of: json.dumps(of[1]), na_action="ignore").astype(object)
    search = known.map(lambda of: of[0], na_action="ignore").astype(object)
    trials = one.trials.assign(search=search.where(search.notna(), None), settings=settings)
    return replace(one, trials=trials)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    sweeps.write(folder, sweep(seeds=2))
    return folder


@pytest.fixture(scope="module")
def material(results) -> Material:
    return Material(results)


def test_only_what_differs_within_a_search_is_a_setting(material):
    units = material.searched
    names = units.groupby("search")["settings"].first().map(set)
    assert names.to_dict() == {"kl": {"lr"}, "kl_dp": {"lr", "weight"}}
    assert len(units) == len(material.every) / 2  # seeds are averaged


def test_a_value_is_the_mean_over_pairs_of_all_combinations_that_have_it(material):
    table = search_measures.by_value(material.searched).set_index(["search", "setting", "value", "level"])
    trials = material.every
    mine = trials[trials["method"].isin(["kl_dp_unsupervised", "xe_kl_mcl"])]
    expected = mine.groupby(["student", "teacher"])["transfer_delta"].mean()
    row = table.loc["kl_dp", "weight", 1.0, "all"]
    assert row["transfer_delta"] == pytest.approx(expected.mean())
    assert (row["pairs"], row["combinations"]) == (len(expected), 2)
    assert row["transfer_delta_low"] <= expected.mean() <= row["transfer_delta_high"]
    weaker = mine[mine["accuracy_difference"] < -0.01]
    if len(weaker):
        row = table.loc["kl_dp", "weight", 1.0, "weaker"]
        by_pair = weaker.groupby(["student", "teacher"])["transfer_delta"].mean()
        assert row["transfer_delta"] == pytest.approx(by_pair.mean())


def test_combinations_come_best_first(material):
    table = material.combinations
    for _, mine in table.groupby("search"):
        assert mine["transfer_delta"].is_monotonic_decreasing
    trials = material.every
    for row in table.to_dict("records"):
        mine = trials[trials["method"] == row["method"]]
        assert row["transfer_delta"] == pytest.approx(mine["transfer_delta"].mean())
        gain = mine["knowledge_gain"].mean() - mine["knowledge_loss"].mean()
        assert row["knowledge_gain"] - row["knowledge_loss"] == pytest.approx(gain)
    assert table["settings"].tolist().count("lr 0.01, weight 0.5") == 1


def test_the_report_of_a_search_is_of_it_alone_and_names_the_best(results, material, tmp_path):
    printed, written = report.report(material, tmp_path)
    names = {path.name for path in written}
    assert {"search_settings.svg", "search_combinations.csv", "report.html"} <= names
    assert "fig_4a_success_rates.svg" not in names
    best = material.combinations.groupby("search").first()
    for search, row in best.iterrows():
        assert f"combinations of {search}'s settings, {row['settings']} gained most" in printed
    assert "no control was run" in printed
    numbers = statements.numbers(pd.read_parquet(tmp_path / "statements.parquet"))
    of_kl = numbers["kl, lr, 0.1, all"]["search_settings.transfer_delta"]
    table = search_measures.by_value(material.searched).set_index(["search", "setting", "value", "level"])
    assert of_kl.value == pytest.approx(table.loc["kl", "lr", 0.1, "all"]["transfer_delta"])


def test_beside_a_search_the_other_methods_are_reported_as_ever(tmp_path):
    sweeps.write(tmp_path / "results", sweep(beside=("xe", "kl")))
    material = Material(tmp_path / "results")
    assert set(material.recorded["method"]) == {"xe", "kl"}
    _, written = report.report(material, tmp_path / "out")
    names = {path.name for path in written}
    assert {"search_settings.svg", "fig_4a_success_rates.svg"} <= names


@pytest.fixture(scope="module")
def controlled(tmp_path_factory) -> Material:
    folder = tmp_path_factory.mktemp("controlled")
    sweeps.write(folder, sweep(beside=("xe",), seeds=2))
    return Material(folder)


def test_every_combination_stands_beside_its_control_on_the_same_students(controlled):
    trials, table = controlled.every, controlled.combinations.set_index("method")
    alone = trials[trials["method"] == "xe"].groupby("student")["transfer_delta"].mean()
    assert table.loc["xe", "transfer_delta"] == pytest.approx(alone.mean())
    assert table.loc["xe", "pairs"] == len(alone)
    assert table.loc["xe", "transfer_delta_low"] <= alone.mean() <= table.loc["xe", "transfer_delta_high"]
    assert np.isnan(table.loc["xe", "over_control"])
    for method in GRID:
        mine = trials[trials["method"] == method]
        expected = (mine["transfer_delta"] - mine["student"].map(alone)).mean()
        row = table.loc[method]
        assert row["over_control"] == pytest.approx(expected)
        assert row["over_control_low"] <= expected <= row["over_control_high"]


def test_the_report_of_a_search_and_its_control_is_of_the_search(controlled, tmp_path):
    printed, written = report.report(controlled, tmp_path)
    names = {path.name for path in written}
    assert "fig_4a_success_rates.svg" not in names
    assert "against fine-tuning the same students without a teacher" in printed
    assert "no control was run" not in printed
    assert "control, no teacher" in (tmp_path / "figures" / "search_settings.svg").read_text()
    numbers = statements.numbers(pd.read_parquet(tmp_path / "statements.parquet"))
    row = controlled.combinations.set_index("method").loc["kl"]
    found = numbers["kl, kl"]["search_combinations.over_control"]
    assert (found.value, found.low) == pytest.approx((row["over_control"], row["over_control_low"]))


def test_a_control_on_other_images_or_of_a_search_itself_is_none(controlled):
    trials = controlled.every
    alone = trials["method"] == "xe"
    elsewhere = trials.assign(evaluated_on=trials["evaluated_on"].mask(alone, "evaluation"))
    elsewhere.loc[~alone, "evaluated_on"] = "tune"
    assert search_measures.of_control(elsewhere).empty
    assert search_measures.of_control(trials.assign(search="xe")).empty
    units = search_measures.searched(controlled.of_searches, search_measures.of_control(elsewhere))
    assert units["over_control"].isna().all()


def test_results_of_before_searches_have_none(tmp_path):
    sweeps.write(tmp_path / "results", sweep(searched=False))
    for path in (tmp_path / "results" / "trials").glob("*.parquet"):
        old = pd.read_parquet(path).drop(columns=["search", "settings", "data_name", "evaluated_on"])
        old.to_parquet(path)
    material = Material(tmp_path / "results")
    assert set(material.recorded["method"]) == set(GRID)
    assert material.recorded["data"].notna().all()
    with pytest.raises(LeftOut, match="no method's settings were searched"):
        _ = material.searched
    report.report(material, tmp_path / "out")


def test_a_search_of_which_one_combination_is_there_is_no_traceback(tmp_path):
    one = sweep()
    kept = one.trials[one.trials["method"] == "kl"]
    sweeps.write(tmp_path / "results", replace(one, trials=kept, changes=one.changes.loc[kept["trial"]]))
    _, written = report.report(Material(tmp_path / "results"), tmp_path / "out")
    page = next(path for path in written if path.name == "report.md").read_text()
    assert "of each search a single combination is recorded" in page
    assert np.isfinite(Material(tmp_path / "results").combinations["pairs"]).all()
