"""Numbers by method on small tables where they are known by hand; the report of thin and of bad folders."""

import math
from functools import partial
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import measures, report, style
from analysis.inference import crossed_bootstrap
from analysis.methods import ABOUT as ABOUT_METHODS
from analysis.methods import LABELS, in_order
from analysis.results import ResultsError, load, replacing
from analysis.statements import numbers
from study.store import records, schemas
from tests.analysis import by_hand

SAMPLES = 10_000  # evaluated: 100 samples are one point
LEVELS = {"weak": -0.03, "even": 0.01, "strong": 0.04}  # by the default of 1.0, 'even' lies on the bound


trial = partial(by_hand.trial, samples=SAMPLES, differences=LEVELS)


def failed(*arguments):
    return by_hand.failed(trial(*arguments, 0, 0), "loss became NaN")


TRIALS = [
    trial("kl", "A", "weak", 50, 150),  # -1.0 points, significant
    trial("kl", "A", "even", 100, 100),  # 0: no success
    trial("kl", "A", "strong", 200, 100),  # +1.0, significant
    trial("kl", "B", "weak", 60, 100),  # -0.4, significant
    trial("kl", "B", "even", 110, 100),  # +0.1
    trial("kl", "B", "strong", 300, 100),  # +2.0, significant
    trial("kl_dp", "A", "weak", 30, 20),  # +0.1
    trial("kl_dp", "A", "even", 30, 10),  # +0.2, significant
    trial("kl_dp", "A", "strong", 40, 10),  # +0.3, significant
    trial("kl_dp", "B", "weak", 20, 20),  # 0
    trial("kl_dp", "B", "even", 25, 20),  # +0.05
    failed("kl_dp", "B", "strong"),
    trial("xe", "A", None, 10, 12),  # -0.02
    trial("xe", "B", None, 10, 6),  # +0.04
]


ABOUT = {  # what a report needs beside, alike for all
    **{"student_family": "cnn", "student_parameters": 1_000, "student_accuracy_before": 0.8},
    **{"student_timm": "resnet18", "teacher_timm": "resnet34", "teacher_family": "cnn", "seconds": 3.0},
    **{"rho_pos_before": 0.05, "rho_pos_after": 0.04, "rho_neg_before": 0.04, "rho_neg_after": 0.04},
    **{"seconds_load": 1.0, "seconds_train": 1.0, "seconds_evaluate": 1.0, "transfer_samples": 500},
    **{"epochs": 2, "classes": 10, "data": "digits", "data_sha256": "0" * 64, "device": "cpu"},
    "finished": pd.Timestamp("2026-11-01", tz="UTC"),
}


def write(results, rows):
    """Write the rows with the library's own writer, and so its schema."""
    records.prepare(results, schemas.TRANSFER_TABLES)
    for row in rows:
        values = {name: [value] for name, value in {**ABOUT, **row}.items() if name != "trial"}
        records.write(results, "trials", row["trial"], values)
    return results


def refused(capsys, *arguments):
    """Run the command on bad input; returns the one sentence it must say."""
    assert report.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("study") / "results", TRIALS)


@pytest.fixture(scope="module")
def trials(results):
    return load(results)


@pytest.fixture(scope="module")
def summary(trials):
    return numbers(measures.by_method(trials)) | numbers(measures.differences(trials))


# ---------------------------------------------------------------- measuring


def test_load_keeps_every_trial_and_passes_over_unfinished_files(tmp_path):
    results = write(tmp_path, TRIALS)
    (results / "trials" / ".kl.parquet.abc.tmp").write_bytes(b"half a rec")
    trials = load(results)
    assert sorted(trials["trial"]) == sorted(row["trial"] for row in TRIALS)
    assert (trials["status"] == "failed").sum() == 1


def test_order_is_fixed_and_others_follow_alphabetically():
    methods = ["zeta", *reversed(LABELS), "alpha", "kl"]
    assert in_order(methods) == [*LABELS, "alpha", "zeta"]
    of_the_paper = ["xe", "kl", "xe_kl", "xe_kl_mcl", "kl_dp", "kl_dp_unsupervised"]
    assert in_order(reversed(of_the_paper)) == of_the_paper


def test_every_method_with_a_name_says_what_it_does_and_has_a_look_of_its_own():
    assert list(ABOUT_METHODS) == list(LABELS) and len(set(LABELS.values())) == len(LABELS)
    assert set(style.METHODS) == set(LABELS)
    assert len(set(style.METHODS.values())) == len(LABELS)


def test_teacher_levels_include_their_bounds_despite_floating_point():
    difference = pd.Series([0.86 - 0.85, 0.84 - 0.85, 0.0101, -0.0101, 0.0, None])
    expected = ["equal", "equal", "stronger", "weaker", "equal", None]
    assert measures.teacher_level(difference).tolist() == expected
    assert measures.teacher_level(difference, 0).tolist()[:4] == [
        "stronger",
        "weaker",
        "stronger",
        "weaker",
    ]


def test_per_student(trials):
    table = measures.per_student(trials).set_index(["method", "student"])
    assert list(table.index) == [(m, s) for m in ("xe", "kl", "kl_dp") for s in "AB"]
    assert table["success_rate"].tolist() == pytest.approx([0, 1, 1 / 3, 2 / 3, 1, 1 / 2])
    assert table["clear_success_rate"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 0])
    assert table["trials"].tolist() == table["pairs"].tolist() == [1, 1, 3, 3, 3, 2]
    assert table["teachers"].tolist() == [0, 0, 3, 3, 3, 2]
    assert table.loc[("kl", "B"), "delta_mean"] == pytest.approx(0.017 / 3)
    assert table.loc[("kl", "A"), "delta_min"] == pytest.approx(-0.01)


def test_seeds_are_averaged_before_success_is_counted():
    rows = [trial("kl", "A", "weak", 5 + won, 5, seed=seed) for seed, won in enumerate([4, -1, -1])]
    rows += [trial("kl", "A", "even", 5 + won, 5, seed=seed) for seed, won in enumerate([1, 1, -2])]
    table = measures.per_student(pd.DataFrame(rows))
    assert (table["success_rate"][0], table["successes"][0]) == (1 / 2, 1)  # means of +2/3 and of 0 samples
    assert table.loc[0, ["trials", "pairs", "teachers", "seeds"]].tolist() == [6, 2, 2, 3]
    assert table["seed_sd"][0] == pytest.approx(math.sqrt((25 / 3 + 3) / 2) / SAMPLES)


def test_pairs_share_student_teacher_and_seed(trials):
    other_seed = pd.DataFrame([trial("kl_dp", "A", "weak", 50, 0, seed=1)])
    pairs = measures.paired(pd.concat([trials, other_seed]), "kl_dp", "kl")
    assert pairs["seeds"].tolist() == [1] * 5  # what has no partner of its own seed is left out
    difference = pairs.set_index(["student", "teacher"])["difference"].to_dict()
    assert difference == pytest.approx(
        {
            ("A", "weak"): 0.011,
            ("A", "even"): 0.002,
            ("A", "strong"): -0.007,
            ("B", "weak"): 0.004,
            ("B", "even"): -0.0005,
        }
    )


def values(summary, measure):
    """Of the control, KL and KL+DP."""
    return [summary[method][measure].value for method in ("xe", "kl", "kl_dp")]


def bounds(number):
    return number.low, number.high


def test_counts_and_success(summary):
    assert list(summary) == ["xe", "kl", "kl_dp", "kl_dp minus kl", "kl minus xe", "kl_dp minus xe"]
    assert values(summary, "trials") == [2, 6, 5]
    assert values(summary, "failed") == [0, 0, 1]
    assert values(summary, "pairs") == [2, 6, 5]
    assert values(summary, "teachers") == [0, 3, 3]
    assert values(summary, "students") == [2, 2, 2]
    assert values(summary, "success_rate") == pytest.approx([1 / 2, 3 / 6, 4 / 5])
    assert values(summary, "success_student_median") == pytest.approx([0.5, 0.5, 0.75])
    assert values(summary, "success_student_q1") == pytest.approx([0.25, 5 / 12, 0.625])
    of_kl = summary["kl"]["success_rate_independent"]
    assert bounds(of_kl) == pytest.approx((0.1876, 0.8124), abs=1e-4)  # Wilson's interval of 3 of 6
    assert values(summary, "clear_success_rate") == pytest.approx([0, 2 / 6, 2 / 5])
    of_xe = summary["xe"]["clear_success_rate_independent"]
    assert bounds(of_xe) == pytest.approx((0, 0.6576), abs=1e-4)  # of 0 of 2


def test_size_and_significance(summary):
    assert summary["kl"]["delta_mean"].value == pytest.approx(0.017 / 6)
    assert summary["kl"]["delta_min"].value == pytest.approx(-0.01)
    assert summary["kl"]["delta_max"].value == pytest.approx(0.02)
    assert values(summary, "significant_positive")[1:] == [2, 2]
    assert values(summary, "significant_negative")[1:] == [2, 0]
    assert values(summary, "better")[1:] == [2, 2]
    assert values(summary, "worse")[1:] == [2, 0]
    assert not summary["kl"]["seed_sd"].known
    flips = [200, 200, 300, 160, 210, 400]
    assert summary["kl"]["noise"].value == pytest.approx(np.mean(np.sqrt(flips)) / SAMPLES)
    assert summary["kl"]["knowledge_gain_median"].value == pytest.approx(0.0105)
    assert summary["kl_dp"]["knowledge_loss_median"].value == pytest.approx(0.002)
    assert summary["kl_dp"]["transfer_rate_median"].value == 0.25
    gain = np.median([0.003, 0.003, 0.004, 0.002, 0.0025])
    assert summary["kl_dp"]["gain_rate_median"].value == pytest.approx(gain / ABOUT["rho_pos_before"])
    without = measures.by_method(pd.DataFrame(TRIALS))  # whose positive flips are not recorded
    assert "gain_rate_median" not in set(without["measure"])
    assert not summary["xe"]["transfer_rate_median"].known


def test_teachers_by_level(summary):
    kl = summary["kl"]
    for level, mean, won, count in [
        ("weaker", -0.007, 0, 2),
        ("equal", 0.0005, 1, 2),
        ("stronger", 0.015, 2, 2),
        ("not_stronger", -0.00325, 1, 4),
    ]:
        assert kl[f"delta_mean_{level}"].value == pytest.approx(mean)
        assert (kl[f"delta_positive_{level}"].value, kl[f"delta_mean_{level}"].n) == (won, count)
        assert summary["xe"][f"delta_mean_{level}"].n == 0


def test_differences_from_kl_and_from_the_control(summary):
    over = summary["kl_dp minus kl"]
    assert over["difference_mean"].value == pytest.approx((1.1 + 0.2 - 0.7 + 0.4 - 0.05) / 500)
    assert (over["difference_positive"].value, over["difference_mean"].n) == (3, 5)
    # Ranks + 5, 2, 3 and - 4, 1: 10 of 15.
    assert over["difference_wilcoxon_p"].value == pytest.approx(20 / 32)
    mean = over["difference_mean_not_stronger"].value
    assert mean == pytest.approx((1.1 + 0.2 + 0.4 - 0.05) / 400)
    assert over["difference_mean_stronger"].value == pytest.approx(-0.007)
    mean = summary["kl minus xe"]["difference_mean"].value
    assert mean == pytest.approx((1.7 + 3 * 0.02 - 3 * 0.04) / 600)
    mean = summary["kl_dp minus xe"]["difference_mean"].value
    assert mean == pytest.approx((0.65 + 3 * 0.02 - 2 * 0.04) / 500)


def test_intervals_draw_whole_students_and_teachers(summary):
    deltas, students = [-0.01, 0, 0.01, -0.004, 0.001, 0.02], list("AAABBB")
    teachers = ["weak", "even", "strong"] * 2
    kl, xe = summary["kl"], summary["xe"]
    assert bounds(kl["delta_mean"]) == pytest.approx(crossed_bootstrap(deltas, students, teachers))
    given = crossed_bootstrap(deltas, students)
    assert bounds(kl["delta_mean_given_teachers"]) == pytest.approx(given)
    assert bounds(xe["delta_mean"]) == pytest.approx(crossed_bootstrap([-0.0002, 0.0004], list("AB")))
    # One weaker teacher: nothing tells how others would do, so both intervals are of students alone.
    assert bounds(kl["delta_mean_weaker"]) == bounds(kl["delta_mean_given_teachers_weaker"])
    wins = np.array(deltas) > 0
    of_rates = crossed_bootstrap(wins, students, teachers, bounds=(0, 1))
    assert bounds(kl["success_rate"]) == pytest.approx(of_rates)
    assert 0 <= kl["success_rate"].low <= kl["success_rate"].value <= kl["success_rate"].high <= 1


tables = st.lists(
    st.tuples(
        st.sampled_from(["xe", "kl", "kl_dp", "other"]),
        st.sampled_from("ABC"),
        st.sampled_from(list(LEVELS)),
        st.integers(0, 1),
        st.integers(0, 40),
        st.integers(0, 40),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda row: (row[0], row[1], None if row[0] == "xe" else row[2], row[3]),
)


@settings(max_examples=25, deadline=None)
@given(tables)
def test_by_method_equals_counting_by_hand(rows):
    rows = [
        trial(method, student, None if method == "xe" else teacher, gained, lost, seed=seed)
        | ({} if ok else {"status": "failed"})
        for method, student, teacher, seed, gained, lost, ok in rows
    ]
    nothing = {"return_value": (math.nan, math.nan)}
    with (
        mock.patch("analysis.measures.bootstrap_interval", **nothing),
        mock.patch("analysis.measures.crossed_bootstrap", **nothing),
    ):
        summary = numbers(measures.by_method(pd.DataFrame(rows)))
        summary |= numbers(measures.differences(pd.DataFrame(rows)))
    methods = {row["method"] for row in rows}
    assert methods == {subject for subject in summary if " minus " not in subject}
    done = [row for row in rows if row["status"] == "ok"]
    for method in methods:
        mine = [row for row in done if row["method"] == method]
        delta, paired, controlled = {}, {}, {}  # by pair of models: a value a seed
        for row in mine:
            pair = row["student"], row["teacher"]
            delta.setdefault(pair, []).append(row["transfer_delta"])
            for other in done:
                same = other["student"] == row["student"] and other["seed"] == row["seed"]
                difference = row["transfer_delta"] - other["transfer_delta"]
                if same and other["method"] == "kl" != row["method"] and other["teacher"] == row["teacher"]:
                    paired.setdefault(pair, []).append(difference)
                if same and other["method"] == "xe" != row["method"]:
                    controlled.setdefault(pair, []).append(difference)
        found = summary[method]
        assert (found["trials"].value, found["pairs"].value) == (len(mine), len(delta))
        for subject, name, pairs in [
            (method, "delta", delta),
            (f"{method} minus kl", "difference", paired),
            (f"{method} minus xe", "difference", controlled),
        ]:
            means = [np.mean(of_pair) for of_pair in pairs.values()]
            if not means and name == "difference":
                assert subject not in summary
                continue
            of = summary[subject]
            assert of[f"{name}_mean"].n == len(means)
            expected = np.mean(means) if means else math.nan
            assert of[f"{name}_mean"].value == pytest.approx(expected, abs=1e-11, nan_ok=True)
            assert of[f"{name}_positive"].value == sum(value > 1e-9 for value in means)
            assert of[f"{name}_negative"].value == sum(value < -1e-9 for value in means)
        for level, teacher in zip(("weaker", "equal", "stronger"), LEVELS, strict=True):
            assert found[f"delta_mean_{level}"].n == sum(pair[1] == teacher for pair in delta)


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize(
    "rows",
    [
        [trial("kl_dp", "A", "weak", 9, 5)],  # one student, no reference, no control
        [trial("xe", "A", None, 9, 5), trial("xe", "B", None, 4, 5)],  # the control alone
        [trial("kl", "A", "weak", 9, 5), failed("kl_dp", "A", "weak")],  # a method that never finished
        [trial("new", "A", "weak", 0, 0), trial("new", "B", "even", 0, 0)],  # nothing changed at all
    ],
)
def test_thin_studies_give_a_report_without_nan(rows, tmp_path, capsys):
    assert report.main([str(write(tmp_path, rows))]) == 0
    said = capsys.readouterr().out + (tmp_path / "analysis" / "report.md").read_text()
    assert "nan" not in said.lower().replace("loss became nan", "")
    assert all(path.stat().st_size > 0 for path in (tmp_path / "analysis").rglob("*") if path.is_file())


def test_the_band_of_equal_teachers_can_be_chosen(tmp_path):
    results = write(tmp_path, TRIALS)
    assert report.main([str(results), "--equal", "3.5"]) == 0
    assert "equal is within ±3.5 points" in (results / "analysis" / "report.md").read_text()
    said = pd.read_parquet(results / "analysis" / "statements.parquet")
    weaker = said[(said["measure"] == "delta_mean") & (said["level"] == "weaker")]
    assert len(weaker) == 3 and weaker["n"].sum() == 0
    assert len(load(results)) == len(TRIALS)  # its own output is not taken for trials


def test_missing_and_empty_folders_are_refused(tmp_path, capsys):
    assert f"{tmp_path / 'none' / 'trials'}: no such folder" in refused(capsys, tmp_path / "none")
    (tmp_path / "trials").mkdir()
    assert f"{tmp_path / 'trials'}: no trial is recorded" in refused(capsys, tmp_path)


@pytest.mark.parametrize("keep", [0, 7, -300])
def test_a_damaged_file_is_named(tmp_path, keep, capsys):
    damaged = write(tmp_path, TRIALS) / "trials" / "kl-B-even-0.parquet"
    damaged.write_bytes(damaged.read_bytes()[:keep])
    sentence = refused(capsys, tmp_path)
    assert f"error: {damaged}: not a readable record" in sentence and "run its trial again" in sentence


def test_only_failed_trials_are_refused_with_their_reason(tmp_path, capsys):
    write(tmp_path, [failed("kl", "A", "weak"), failed("kl", "B", "weak")])
    assert "none of the 2 recorded trials finished (the first failed with: loss became NaN)" in refused(
        capsys, tmp_path
    )
    assert not (tmp_path / "analysis").exists()


def test_an_unwritable_out_is_refused(results, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert f"{file / 'out'}: cannot be written" in refused(capsys, results, "--out", file / "out")
    (tmp_path / "report.md").mkdir()
    assert "choose another folder with --out" in refused(capsys, results, "--out", tmp_path)
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_a_foreign_schema_and_missing_values_are_named(tmp_path):
    path = write(tmp_path, [trial("kl", "A", "weak", 1, 2)]) / "trials" / "kl-A-weak-0.parquet"
    pd.read_parquet(path).drop(columns="knowledge_gain").to_parquet(path)
    with pytest.raises(ResultsError, match="column knowledge_gain is missing"):
        load(tmp_path)
    for column, value in [("transfer_delta", None), ("accuracy_difference", math.inf), ("method", None)]:
        write(tmp_path, [trial("kl", "A", "weak", 1, 2) | {column: value}])
        with pytest.raises(ResultsError, match=f"kl-A-weak-0.parquet: {column} is empty or not"):
            load(tmp_path)


def test_two_settings_in_one_folder_are_refused(capsys, tmp_path):
    for rows in ([trial("kl", "A", "weak", 1, 2)], [trial("xe", "A", None, 1, 2)]):
        again = [row | {"trial": row["trial"] + "-lr2", "lr": 0.2} for row in rows]
        write(tmp_path, rows + again)
        with pytest.raises(ResultsError, match=r"2 trials differ .*keep one setting in a folder"):
            load(tmp_path)
        for path in (tmp_path / "trials").iterdir():
            path.unlink()


@pytest.mark.parametrize("points", ["-1", "nan", "many"])
def test_an_impossible_band_is_refused(results, points, capsys):
    with pytest.raises(SystemExit) as stopped:
        report.main([str(results), f"--equal={points}"])
    assert stopped.value.code == 2
    assert "--equal" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["table"] and path.read_text() == "old"
