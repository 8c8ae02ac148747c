"""The published numbers, which trials they stand beside, and the paper's tables made of ours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import measures, reference, tables
from analysis.exhibits import paper
from analysis.material import Material
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
    assert len(files) == 24
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


def test_runs_of_a_pair_differ_by_as_much_as_the_notes_say():
    """Table 9's runs against Table 7's by teacher: of three deltas the third is what their mean leaves."""
    nine = reference.table(TABLE_9).set_index("student")
    seven = reference.deltas().query("method == 'kl' and teacher in @reference.SEQUENCE")
    apart = []
    for student in ("XCiT-P16", "PiT-B"):
        mean, low, high = nine.loc[student, ["single_mean", "single_min", "single_max"]]
        theirs = seven.loc[seven["student"] == student, "transfer_delta"].sort_values().to_numpy()
        apart += list(np.abs(theirs - sorted([low, 3 * mean - low - high, high])))
    assert max(apart) == pytest.approx(0.3)


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


def test_table_2_has_the_papers_pairs_with_their_numbers(full):
    table = tables.table_2(units_of(full)).set_index(["student", "teacher"])
    printed = reference.table("table2_examples").set_index(["student", "teacher"])
    for pair, row in printed.iterrows():
        assert table.loc[pair, "accuracy_difference"] == pytest.approx(row["delta_acc"] / 100, abs=5e-5)
        assert table.loc[pair, "accuracy_difference_published"] == pytest.approx(row["delta_acc"] / 100)
        assert table.loc[pair, "transfer_delta_published"] == pytest.approx(row["delta_transf"] / 100)
        assert abs(table.loc[pair, "transfer_delta_difference"]) <= 1.01 / 50_000
    published = table["transfer_delta_published"].notna()
    assert set(table.index[published]) == set(printed.index)
    # Any other student has its strongest and its weakest teacher, on their side of its own accuracy.
    assert table.index[~published].tolist()[:2] == [("Mixer-B16", "VOLO-D2"), ("Mixer-B16", "CoaT-lite-mini")]
    assert table.loc["PiT-XS"].index.tolist() == ["VOLO-D2"]  # no teacher of the paper's is weaker
    elsewhere = tables.table_2(units_of(full.assign(transfer_samples=128_117)))
    assert elsewhere["transfer_delta_published"].isna().all()
    assert ("PiT-B", "CoaT-lite-mini") in set(zip(elsewhere["student"], elsewhere["teacher"], strict=True))


def test_at_larger_scale_the_papers_numbers_come_out_of_its_pairs(full):
    table = tables.by_level(units_of(full)).set_index("method")
    printed = reference.table("table7_by_level_derived").set_index("method")
    for method, name in (("kl", "kl"), ("kl_dp", "kl_dp_supervised")):
        row, theirs = table.loc[method], printed.loc[name]
        for column in ("weaker_pairs", "weaker_positive", "stronger_pairs", "stronger_positive", "pairs"):
            assert row[column] == theirs[column]
        assert row["success_rate_published"] == theirs["success_rate"] == round(row["success_rate"], 4)
        for column, printed_as in (("mean", "mean_delta"), ("weaker_mean", "weaker_mean")):
            assert row[f"{column}_published"] == pytest.approx(theirs[printed_as] / 100)
            assert row[column] == pytest.approx(theirs[printed_as] / 100, abs=2e-5)
            assert row[f"{column}_low"] < row[column] < row[f"{column}_high"]
    fewer = tables.by_level(units_of(full.iloc[1:])).set_index("method")  # one pair less, of KL
    assert fewer.filter(like="published").isna().all(axis=1).to_dict() == {
        "kl": True,
        "kl_dp": False,
        "kl_dp_unsupervised": False,
    }


def test_who_teaches_the_flips_is_a_mean_over_pairs_of_the_methods_that_partition(full):
    draw = np.random.default_rng(0)
    dp = full["method"].str.startswith("kl_dp")
    trials = full.drop(columns=list(tables.FLIPS_TAUGHT), errors="ignore")
    taught = trials.assign(
        positive_flips_taught=np.where(dp, draw.uniform(0.6, 0.8, len(full)), np.nan),
        negative_flips_taught=np.where(dp, draw.uniform(0.0, 0.2, len(full)), np.nan),
    )
    table = tables.flips_taught(units_of(taught)).set_index("method")
    assert table.index.tolist() == ["kl_dp", "kl_dp_unsupervised"] and (table["pairs"] == 32).all()
    for method, row in table.iterrows():
        mine = taught[taught["method"] == method]
        for name, published in (("positive_flips_taught", 0.72), ("negative_flips_taught", 0.09)):
            assert row[name] == pytest.approx(mine[name].mean()) and row[f"{name}_published"] == published
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    elsewhere = tables.flips_taught(units_of(taught.assign(transfer_samples=5_000)))
    assert elsewhere.filter(like="published").isna().all(axis=None) and len(elsewhere) == 2
    nothing = trials.assign(**dict.fromkeys(tables.FLIPS_TAUGHT, None))
    for without in (trials, nothing):  # older records, and methods that partition nothing
        assert tables.flips_taught(units_of(without)).empty


def test_records_with_and_without_who_teaches_the_flips_are_read_together(tmp_path):
    sweep = sweeps.simulate(3, 3, methods=["kl", "kl_dp"], samples=300)
    sweeps.write(tmp_path, sweep, predictions=False, history=False)
    paths = sorted((tmp_path / "trials").glob("*.parquet"))
    older = [pd.read_parquet(path).drop(columns=[*tables.FLIPS_TAUGHT], errors="ignore") for path in paths]

    def made():
        (one,) = paper.flips_taught.made(Material(tmp_path))
        return one

    for path, row in zip(paths, older, strict=True):
        row.to_parquet(path)
    assert made().note.startswith("Left out: no method that was run partitions the data, or an older version")
    dp = [place for place, row in enumerate(older) if row["method"].item() == "kl_dp"]
    for place in dp[:6]:
        known = older[place].assign(positive_flips_taught=0.75, negative_flips_taught=0.125)
        known.to_parquet(paths[place])
    said = made().statements.set_index("measure")
    positive = said.loc["flips_taught.positive_flips_taught"]
    assert positive[["subject", "value", "low", "high", "n"]].tolist() == ["kl_dp", 0.75, 0.75, 0.75, 6]
    assert said.loc["flips_taught.negative_flips_taught", "value"] == 0.125
    assert "72 % of the positive and 9 % of the negative flips" in made().note


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
    six = (tables.table_1, tables.table_2, tables.table_3, tables.table_8, tables.table_7, tables.by_level)
    for made in six:
        table = made(units)
        assert len(table) and table.filter(like="published").isna().all(axis=None)
    rates = tables.success_rates(units, numbers(measures.by_method(trials)))
    assert rates["published"].isna().all() and "xe" not in set(rates["method"])


def test_success_rates_stand_beside_the_papers_only_for_its_400_pairs():
    students, teachers = sweeps.papers("subset10")
    methods = ["kl", "kl_dp", "xe_kl_smoothed"]
    effects = sweeps.EFFECTS | {"xe_kl_smoothed": sweeps.EFFECTS["xe_kl"]}
    trials = sweeps.simulate(
        students, teachers, methods=methods, effects=effects, samples=50_000, classes=1000
    ).trials
    trials = trials.assign(transfer_samples=128_117)
    summary = measures.by_method(trials)
    rates = tables.success_rates(units_of(trials), numbers(summary)).set_index("method")
    assert rates.loc["kl_dp", "published"] == "92.5" and rates.loc["kl", "published"] == "<40"
    assert rates.loc["xe_kl_smoothed", "published"] == "54"
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
