"""The analysis on small tables whose numbers are known by hand; the real command on good and bad folders."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import measures, success_rate, success_report
from analysis.results import ResultsError, load, replacing
from analysis.statistics import crossed_bootstrap
from study.store import records, schemas
from tests.analysis import by_hand

ROOT = Path(__file__).resolve().parents[2]
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


def write(results, rows):
    """Write the rows with the library's own writer, and so its schema."""
    records.prepare(results, schemas.TRANSFER_TABLES)
    for row in rows:
        values = {name: [value] for name, value in row.items() if name != "trial"}
        records.write(results, "trials", row["trial"], values)
    return results


def command(*arguments):
    line = [sys.executable, str(ROOT / "analysis" / "success_rate.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, cwd="/", check=False)


def refused(*arguments):
    """Run the command on bad input; returns the one sentence it must say."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("study") / "results", TRIALS)


@pytest.fixture(scope="module")
def trials(results):
    return load(results)


@pytest.fixture(scope="module")
def summary(trials):
    return measures.by_method(trials).set_index("method")


# ---------------------------------------------------------------- measuring


def test_load_keeps_every_trial_and_passes_over_unfinished_files(tmp_path):
    results = write(tmp_path, TRIALS)
    (results / "trials" / ".kl.parquet.abc.tmp").write_bytes(b"half a rec")
    trials = load(results)
    assert sorted(trials["trial"]) == sorted(row["trial"] for row in TRIALS)
    assert (trials["status"] == "failed").sum() == 1


def test_order_is_fixed_and_others_follow_alphabetically():
    methods = ["zeta", "kl_dp_unsupervised", "alpha", "kl", "xe", "kl", "kl_dp", "xe_kl_mcl", "xe_kl"]
    assert measures.in_order(methods) == [*measures.LABELS, "alpha", "zeta"]


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
    pairs = measures.paired_with(pd.concat([trials, other_seed]))
    assert pairs["seeds"].tolist() == [1] * 5  # what has no partner of its own seed is left out
    assert pairs["method"].tolist() == ["kl_dp"] * 5
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


def test_counts_and_success(summary):
    assert summary.index.tolist() == ["xe", "kl", "kl_dp"]
    assert summary["label"].tolist() == ["XE (control)", "KL", "KL+DP"]
    assert summary["trials"].tolist() == [2, 6, 5]
    assert summary["failed"].tolist() == [0, 0, 1]
    assert summary["pairs"].tolist() == [2, 6, 5]
    assert summary["teachers"].tolist() == [0, 3, 3]
    assert summary["students"].tolist() == [2, 2, 2]
    assert summary["success_rate"].tolist() == pytest.approx([1 / 2, 3 / 6, 4 / 5])
    assert summary["success_student_median"].tolist() == pytest.approx([0.5, 0.5, 0.75])
    assert summary["success_student_q1"].tolist() == pytest.approx([0.25, 5 / 12, 0.625])
    low, high = summary.loc["kl", ["success_wilson_low", "success_wilson_high"]]
    assert (low, high) == pytest.approx((0.1876, 0.8124), abs=1e-4)  # Wilson's interval of 3 of 6
    assert summary["clear_success_rate"].tolist() == pytest.approx([0, 2 / 6, 2 / 5])
    low, high = summary.loc["xe", ["clear_success_wilson_low", "clear_success_wilson_high"]]
    assert (low, high) == pytest.approx((0, 0.6576), abs=1e-4)  # of 0 of 2


def test_size_and_significance(summary):
    kl, dp = summary.loc["kl"], summary.loc["kl_dp"]
    assert kl["delta_mean"] == pytest.approx(0.017 / 6)
    assert (kl["delta_min"], kl["delta_max"]) == pytest.approx((-0.01, 0.02))
    assert (kl["significant_positive"], kl["significant_negative"]) == (2, 2)
    assert (dp["significant_positive"], dp["significant_negative"]) == (2, 0)
    assert (kl["better"], kl["worse"], dp["better"], dp["worse"]) == (2, 2, 2, 0)
    assert math.isnan(kl["seed_sd"])
    flips = [200, 200, 300, 160, 210, 400]
    assert kl["noise"] == pytest.approx(np.mean(np.sqrt(flips)) / SAMPLES)
    assert kl["knowledge_gain_median"] == pytest.approx(0.0105)
    assert dp["knowledge_loss_median"] == pytest.approx(0.002)
    assert dp["transfer_rate_median"] == 0.25 and math.isnan(summary.loc["xe", "transfer_rate_median"])


def test_teachers_by_level(summary):
    kl = summary.loc["kl"]
    for level, mean, won, count in [
        ("weaker", -0.007, 0, 2),
        ("equal", 0.0005, 1, 2),
        ("stronger", 0.015, 2, 2),
        ("not_stronger", -0.00325, 1, 4),
    ]:
        assert kl[f"delta_{level}_mean"] == pytest.approx(mean)
        assert (kl[f"delta_{level}_positive"], kl[f"delta_{level}_trials"]) == (won, count)
        assert summary.loc["xe", f"delta_{level}_trials"] == 0


def test_paired_with_kl_and_over_the_control(summary):
    kl, dp, xe = (summary.loc[method] for method in ("kl", "kl_dp", "xe"))
    assert dp["over_reference_mean"] == pytest.approx((1.1 + 0.2 - 0.7 + 0.4 - 0.05) / 500)
    assert (dp["over_reference_positive"], dp["over_reference_trials"]) == (3, 5)
    assert dp["over_reference_wilcoxon_p"] == pytest.approx(20 / 32)  # ranks + 5, 2, 3 and - 4, 1: 10 of 15
    assert dp["over_reference_not_stronger_mean"] == pytest.approx((1.1 + 0.2 + 0.4 - 0.05) / 400)
    assert dp["over_reference_stronger_mean"] == pytest.approx(-0.007)
    assert kl["over_reference_trials"] == xe["over_reference_trials"] == 0
    assert kl["over_control_mean"] == pytest.approx((1.7 + 3 * 0.02 - 3 * 0.04) / 600)
    assert dp["over_control_mean"] == pytest.approx((0.65 + 3 * 0.02 - 2 * 0.04) / 500)
    assert xe["over_control_trials"] == 0 and math.isnan(xe["over_control_mean"])


def test_intervals_draw_whole_students_and_teachers(summary):
    deltas, students = [-0.01, 0, 0.01, -0.004, 0.001, 0.02], list("AAABBB")
    teachers = ["weak", "even", "strong"] * 2
    kl, xe = summary.loc["kl"], summary.loc["xe"]

    def bounds(row, name):
        return row[f"{name}_low"], row[f"{name}_high"]

    assert bounds(kl, "delta") == pytest.approx(crossed_bootstrap(deltas, students, teachers))
    assert bounds(kl, "delta_given_teachers") == pytest.approx(crossed_bootstrap(deltas, students))
    assert bounds(xe, "delta") == pytest.approx(crossed_bootstrap([-0.0002, 0.0004], list("AB")))
    # One weaker teacher: nothing tells how others would do, so both intervals are of students alone.
    assert bounds(kl, "delta_weaker") == bounds(kl, "delta_weaker_given_teachers")
    wins = np.array(deltas) > 0
    assert bounds(kl, "success") == pytest.approx(crossed_bootstrap(wins, students, teachers, bounds=(0, 1)))
    assert 0 <= kl["success_low"] <= kl["success_rate"] <= kl["success_high"] <= 1


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
        summary = measures.by_method(pd.DataFrame(rows))
    assert set(summary["method"]) == {row["method"] for row in rows}
    done = [row for row in rows if row["status"] == "ok"]
    for found in summary.to_dict("records"):
        mine = [row for row in done if row["method"] == found["method"]]
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
        assert (found["trials"], found["pairs"]) == (len(mine), len(delta))
        for name, values in [("delta", delta), ("over_reference", paired), ("over_control", controlled)]:
            means = [np.mean(of_pair) for of_pair in values.values()]
            assert found[f"{name}_trials"] == len(means)
            expected = np.mean(means) if means else math.nan
            assert found[f"{name}_mean"] == pytest.approx(expected, abs=1e-11, nan_ok=True)
            assert found[f"{name}_positive"] == sum(value > 1e-9 for value in means)
            assert found[f"{name}_negative"] == sum(value < -1e-9 for value in means)
        for level, teacher in zip(("weaker", "equal", "stronger"), LEVELS, strict=True):
            assert found[f"delta_{level}_trials"] == sum(pair[1] == teacher for pair in delta)


# ---------------------------------------------------------------- telling


def test_conclusions_are_made_of_the_numbers(trials):
    weaker, worse, paired, stronger, control = success_report.conclusions(measures.by_method(trials))
    assert "KL -0.70, 0 of 2 positive; KL+DP +0.05, 1 of 2 positive" in weaker
    assert "Worse trials (McNemar, q < 0.05): KL in 2 of 6; KL+DP in 0 of 5" in worse
    assert "not stronger, in points: KL+DP +0.41 [" in paired and "], with these teachers [" in paired
    assert stronger.endswith("stronger, in points: KL+DP -0.70.")  # a single pair has no interval
    assert "XE (control) +0.01 [" in control and "] points, success in 1/2." in control


def test_a_control_that_gains_by_itself_is_called_out():
    rows = [trial("xe", student, None, 30, 10) for student in "ABC"]
    (sentence,) = success_report.conclusions(measures.by_method(pd.DataFrame(rows)))
    assert "part of every success is mere training" in sentence


@pytest.mark.parametrize(
    "rows",
    [
        [trial("kl_dp", "A", "weak", 9, 5)],  # one student, no reference, no control
        [trial("xe", "A", None, 9, 5), trial("xe", "B", None, 4, 5)],  # the control alone
        [trial("kl", "A", "weak", 9, 5), failed("kl_dp", "A", "weak")],  # a method that never finished
        [trial("new", "A", "weak", 0, 0), trial("new", "B", "even", 0, 0)],  # nothing changed at all
    ],
)
def test_thin_studies_give_a_report_without_nan(rows, tmp_path):
    trials = load(write(tmp_path, rows))
    summary = measures.by_method(trials)
    tables = measures.method_differences(trials), measures.student_properties(trials)
    text = success_report.console(trials, summary) + success_report.markdown(trials, summary, *tables)
    assert "nan" not in text.lower().replace("loss became nan", "")
    for path in success_report.report(trials, summary, tmp_path / "out"):
        assert path.stat().st_size > 0


# ---------------------------------------------------------------- the command


def test_command_writes_everything_and_says_where(results, tmp_path):
    out = tmp_path / "a" / "b"
    done = command(results, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    names = ["success_rate.parquet", "success_rate.csv", "success_rate.md", "per_student.parquet"]
    names += ["method_differences.parquet", "student_properties.parquet"]
    names += ["success_rate.png", "success_rate.svg"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)  # and nothing temporary
    assert done.stdout.splitlines()[-8:] == [str(out / name) for name in names]
    assert max(map(len, done.stdout.split(str(out))[0].splitlines())) <= 120
    assert "Left out, failed: 1, such as kl_dp-B-strong-0: kl_dp to B from strong" in done.stdout

    table, text = pd.read_parquet(out / names[0]), (out / names[2]).read_text()
    assert table["delta_mean"].tolist()[1] == pytest.approx(0.017 / 6)  # fractions
    pd.testing.assert_frame_equal(pd.read_csv(out / names[1]), table, check_dtype=False)
    assert "From 13 finished trials (1 failed) with 2 students, 3 teachers and 1 seeds, of: demo." in text
    assert "- kl_dp-B-strong-0: kl_dp to B from strong, seed 0: loss became NaN" in text
    for line in text.splitlines():
        if line.startswith("| method"):
            for header in line.strip("| ").split(" | ")[1:]:
                assert f"- **{header}**: " in text
    assert len(pd.read_parquet(out / names[4])) == 4  # KL+DP minus KL: all teachers, and three levels
    assert (out / names[6]).read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / names[7]).read_text()


def test_command_gives_the_same_bytes_again_and_writes_beside_the_trials(tmp_path):
    results = write(tmp_path, TRIALS)
    written = []
    for _ in range(2):
        assert success_rate.main([str(results), "--equal", "3.5"]) == 0
        written.append({path.name: path.read_bytes() for path in (results / "analysis").iterdir()})
    assert written[0] == written[1]
    assert b"weaker (< -3.5)" in written[0]["success_rate.md"]
    assert pd.read_parquet(results / "analysis" / "success_rate.parquet")["delta_weaker_trials"].sum() == 0
    assert len(load(results)) == len(TRIALS)  # its own output is not taken for trials


def test_the_wall_holds():
    code = (
        "import sys; import analysis.success_rate; "
        "print(sorted({'torch', 'torchvision', 'timm', 'ray', 'ffcv', 'study'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_missing_and_empty_folders_are_refused(tmp_path):
    assert f"{tmp_path / 'none' / 'trials'}: no such folder" in refused(tmp_path / "none")
    (tmp_path / "trials").mkdir()
    assert f"{tmp_path / 'trials'}: no trial is recorded" in refused(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, -300])
def test_a_damaged_file_is_named(tmp_path, keep):
    damaged = write(tmp_path, TRIALS) / "trials" / "kl-B-even-0.parquet"
    damaged.write_bytes(damaged.read_bytes()[:keep])
    sentence = refused(tmp_path)
    assert f"error: {damaged}: not a readable record" in sentence and "run its trial again" in sentence


def test_only_failed_trials_are_refused_with_their_reason(tmp_path):
    write(tmp_path, [failed("kl", "A", "weak"), failed("kl", "B", "weak")])
    assert "none of the 2 recorded trials finished (the first failed with: loss became NaN)" in refused(
        tmp_path
    )
    assert not (tmp_path / "analysis").exists()


def test_an_unwritable_out_is_refused(results, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert f"{file / 'out'}: cannot be written" in refused(results, "--out", file / "out")
    (tmp_path / "success_rate.md").mkdir()
    assert "choose another folder with --out" in refused(results, "--out", tmp_path)
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


def test_two_settings_in_one_folder_are_refused(tmp_path):
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
        success_rate.main([str(results), f"--equal={points}"])
    assert stopped.value.code == 2
    assert "--equal" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["table"] and path.read_text() == "old"
