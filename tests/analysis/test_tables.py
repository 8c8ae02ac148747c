"""The published numbers, which trials they stand beside, and the paper's tables made of ours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import measures, reference, tables
from analysis.statements import numbers
from tests.analysis import sweeps

PAPERS = ["kl", "kl_dp", "kl_dp_unsupervised"]
TABLE_9 = "table9_multi_teacher_kl"
DATA = {"classes": 1000, "evaluation_samples": 50_000}


@pytest.fixture(scope="module")
def full() -> pd.DataFrame:
    """The paper's 8 x 4 pairs with exactly the deltas that it published, up to one of 50,000 samples."""
    students, teachers = sweeps.papers("full")
    sweep = sweeps.simulate(
        students, teachers, methods=PAPERS, samples=50_000, classes=1000, planted=sweeps.published()
    )
    return sweep.trials.assign(transfer_samples=1_281_167)


def units_of(trials: pd.DataFrame) -> pd.DataFrame:
    return tables.comparable(measures.over_seeds(trials), trials)


def test_every_published_table_is_there_with_its_source():
    notes = (reference.FOLDER / "README.md").read_text()
    files = sorted(path.stem for path in reference.FOLDER.glob("*.csv"))
    assert len(files) == 8
    for name in files:
        assert len(reference.table(name)) > 1
        assert f"`{name}.csv`" in notes
    assert "2310.17653" in notes


def test_the_published_tables_disagree_where_the_notes_say():
    rows = reference.disagreements()
    found = {(row.table, row.student, row.method): (row.published, row.pairs) for row in rows.itertuples()}
    assert found == {
        (1, "PiT-B", "kl"): (0.33, pytest.approx(0.40)),
        (1, "XCiT-P16", "kl"): (0.13, pytest.approx(0.23)),
        (9, "PiT-B", "kl"): (0.69, pytest.approx(0.78)),
        (9, "XCiT-P16", "kl"): (0.47, pytest.approx(0.60)),
    }
    notes = (reference.FOLDER / "README.md").read_text()
    for row in rows.itertuples():
        assert row.student in notes and f"{row.pairs:.2f}" in notes and f"{row.published:.2f}" in notes


def test_table_9_and_the_fourth_teacher_of_table_7_give_table_1():
    """As the notes say: the third of three deltas is what their mean, smallest and largest leave."""
    nine, one = (reference.table(name).set_index("student") for name in (TABLE_9, "table1_full_imagenet"))
    pairs = reference.deltas().query("method == 'kl' and teacher == 'CoaT-lite-mini'").set_index("student")
    for student in ("XCiT-P16", "PiT-B"):
        mean, low, high = nine.loc[student, ["single_mean", "single_min", "single_max"]]
        four = [low, high, 3 * mean - low - high, pairs.loc[student, "transfer_delta"]]
        assert round(np.mean(four), 2) == one.loc[student, "kl_mean"]
        assert round(np.std(four), 2) == one.loc[student, "kl_std"]


def test_published_deviations_divide_by_the_number_of_teachers():
    pairs = reference.deltas().groupby(["student", "method"])["transfer_delta"]
    means = reference.means()
    means = means[means["measure"] == "transfer_delta"].set_index(["student", "method"])["sd"]
    agree = {ddof: (means - pairs.std(ddof=ddof).reindex(means.index)).abs().median() for ddof in (0, 1)}
    assert agree[0] < 0.006 < agree[1]


@pytest.mark.parametrize(
    ("classes", "evaluation", "transfer", "setting"),
    [
        (1000, 50_000, 1_281_167, "full"),
        (1000, 50_000, 128_117, "subset10"),
        (1000, 50_000, 127_000, "subset10"),
        (1000, 50_000, 640_000, None),
        (1000, 49_999, 1_281_167, None),
        (100, 50_000, 1_281_167, None),
    ],
)
def test_a_setting_is_known_by_its_data(classes, evaluation, transfer, setting):
    row = {"classes": [classes], "evaluation_samples": [evaluation], "transfer_samples": [transfer]}
    assert reference.setting(pd.DataFrame(row)).tolist() == [setting]


def test_models_count_by_their_timm_names_with_the_tag(full):
    names = reference.papers_names(full)
    assert (names["student"] == full["student"]).all() and (names["teacher"] == full["teacher"]).all()
    bare = full.assign(student_timm=full["student_timm"].str.partition(".")[0])
    assert reference.papers_names(bare)["student"].isna().all()
    elsewhere = full.assign(transfer_samples=5_000)
    assert reference.papers_names(elsewhere)[["student", "teacher"]].isna().all(axis=None)


def test_the_papers_numbers_give_back_its_tables(full):
    """With the deltas of Table 7 planted, Tables 1 and 3 come out as printed, but where they disagree."""
    units = units_of(full)
    disagree = {(row.student, row.method) for row in reference.disagreements().itertuples()}
    columns = {
        tables.table_1: {"kl": "kl", "kl_dp": "kl_dp"},
        tables.table_3: {"supervised": "kl_dp", "unsupervised": "kl_dp_unsupervised"},
    }
    for made, starts in columns.items():
        table = made(units).set_index("student")
        assert len(table) == 8
        for start, method in starts.items():
            assert (table[f"{start}_teachers"] == 4).all()
            for student, row in table.iterrows():
                apart = abs(row[f"{start}_difference"])
                assert (apart > 0.0005) == ((student, method) in disagree), (student, method)
                difference = row[f"{start}_mean"] - row[f"{start}_mean_published"]
                assert row[f"{start}_difference"] == pytest.approx(difference)
    pairs = full[(full["student"] == "PiT-B") & (full["method"] == "kl")]["transfer_delta"]
    row = tables.table_1(units).set_index("student").loc["PiT-B"]
    assert row["kl_mean"] == pytest.approx(pairs.mean()) and row["kl_sd"] == pytest.approx(np.std(pairs))
    assert row["kl_mean_published"] == pytest.approx(0.0033)
    assert row["kl_sd_published"] == pytest.approx(0.0086)


def test_table_7_puts_the_published_number_beside_each_pair(full):
    table = tables.table_7(units_of(full)).set_index(["student", "teacher"])
    assert len(table) == 32
    for method in PAPERS:
        assert table[f"{method}_published"].notna().all()
        assert table[f"{method}_difference"].abs().max() <= 1.01 / 50_000
    assert table.loc[("XCiT-P16", "VOLO-D2"), "kl_dp_unsupervised_published"] == pytest.approx(0.0145)


def test_table_8_is_made_of_the_flips(full):
    table = tables.table_8(units_of(full)).set_index("student")
    mine = full[(full["student"] == "PiT-XS") & (full["method"] == "kl_dp")]
    change = mine["rho_pos_after"] - mine["rho_pos_before"]
    assert table.loc["PiT-XS", "delta_rho_pos_mean"] == pytest.approx(change.mean())
    assert table.loc["PiT-XS", "delta_rho_pos_mean_published"] == pytest.approx(-0.0045)
    change = mine["rho_neg_after"] - mine["rho_neg_before"]
    assert table.loc["PiT-XS", "delta_rho_neg_sd"] == pytest.approx(np.std(change))


def test_a_mean_over_other_teachers_is_not_compared(full):
    fewer = full[~((full["student"] == "PiT-B") & (full["teacher"] == "VOLO-D2"))]
    table = tables.table_1(units_of(fewer)).set_index("student")
    assert table.loc["PiT-B", "kl_teachers"] == 3 and np.isnan(table.loc["PiT-B", "kl_mean_published"])
    assert np.isnan(table.loc["PiT-B", "kl_difference"])
    assert table.loc["PiT-XS", "kl_mean_published"] == pytest.approx(0.0010)
    seven = tables.table_7(units_of(fewer))
    assert seven.loc[seven["student"] == "PiT-B", "kl_published"].notna().sum() == 3


def test_foreign_models_have_no_published_numbers():
    trials = sweeps.simulate(3, 3, samples=400).trials
    units = units_of(trials)
    for made in (tables.table_1, tables.table_3, tables.table_8, tables.table_7):
        table = made(units)
        assert len(table) and table.filter(like="published").isna().all(axis=None)
    rates = tables.success_rates(units, numbers(measures.by_method(trials)))
    assert rates["published"].isna().all() and "xe" not in set(rates["method"])


def test_success_rates_stand_beside_the_papers_only_for_its_400_pairs():
    students, teachers = sweeps.papers("subset10")
    trials = sweeps.simulate(students, teachers, methods=["kl", "kl_dp"], samples=50_000, classes=1000).trials
    trials = trials.assign(transfer_samples=128_117)
    summary = measures.by_method(trials)
    rates = tables.success_rates(units_of(trials), numbers(summary)).set_index("method")
    assert rates.loc["kl_dp", "published"] == "92.5" and rates.loc["kl", "published"] == "<40"
    mine = trials[trials["method"] == "kl"]
    assert rates.loc["kl", "success_rate"] == pytest.approx((mine["transfer_delta"] > 0).mean())
    # Pairs that are in both settings, by the same names: Table 7 is of the other one.
    seven = tables.table_7(units_of(trials)).set_index(["student", "teacher"])
    assert np.isnan(seven.loc[("PiT-B", "SWSL-ResNext101"), "kl_published"])
    without = trials.drop(mine.index[0])
    rates = tables.success_rates(units_of(without), numbers(measures.by_method(without))).set_index("method")
    assert pd.isna(rates.loc["kl", "published"]) and rates.loc["kl_dp", "published"] == "92.5"


def test_by_data_set_keeps_data_sets_apart():
    trials = sweeps.simulate(3, 3, samples=400).trials
    other = trials.assign(
        data="other", data_sha256="0" * 64, student="other-" + trials["student"], trial="f" + trials["trial"]
    )
    both = pd.concat([trials, other.assign(transfer_delta=0.01)], ignore_index=True)
    table = tables.by_data(both, measures.over_seeds(both))
    assert len(table) == 2 * trials["method"].nunique()
    rows = table[(table["data"] == "other") & (table["method"] == "kl")]
    assert rows["pairs"].item() == 9 and rows["mean"].item() == pytest.approx(0.01)
    assert rows["sd"].item() == pytest.approx(0, abs=1e-12) and rows["success_rate"].item() == 1
