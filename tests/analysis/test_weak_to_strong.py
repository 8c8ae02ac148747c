"""Performance gap recovered: its interval by its definition and by resampling, tables by brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import flips, report, weak_to_strong
from analysis.exhibit import LeftOut, section
from analysis.exhibits import weak_to_strong as exhibits
from analysis.inference import crossed_bootstrap
from analysis.material import Material
from analysis.results import ResultsError
from analysis.weak_to_strong import recovered
from tests.analysis import sweeps

EFFECTS = {
    name: sweeps.Effect(mean, spread=1.0, lost=3.0) for name, mean in [("xe", 4.0), ("kl", 1), ("kl_dp", 2)]
}
BLIND = {"xe": False, "kl": False, "kl_dp": True}  # whether labels are read


def answers(seed: int, samples: int = 4000) -> list[np.ndarray]:
    """Strong, weak and ceiling, right together more often than by chance."""
    draw = np.random.default_rng(seed)
    hard = draw.normal(size=samples)
    return [(hard + 0.5 * draw.normal(size=samples)) < level for level in (0.9, 0.7, 1.1)]


def test_the_bounds_are_where_a_test_of_paired_means_just_rejects():
    strong, weak, ceiling = (one.astype(float) for one in answers(1))
    found = recovered(strong, weak, ceiling)
    assert found.value == pytest.approx((strong.mean() - weak.mean()) / (ceiling.mean() - weak.mean()))
    for bound in (found.low, found.high):
        rest = strong - weak - bound * (ceiling - weak)
        assert abs(rest.mean()) / stats.sem(rest) == pytest.approx(stats.norm.ppf(0.975))


def test_the_interval_is_that_of_resampled_images():
    both = np.array(answers(2), float)
    draw = np.random.default_rng(3)
    drawn = draw.poisson(1, (1000, both.shape[1])) @ both.T
    ratios = (drawn[:, 0] - drawn[:, 1]) / (drawn[:, 2] - drawn[:, 1])
    assert recovered(*both)[1:] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.03)


@given(st.integers(0, 30))
def test_labels_are_one_the_teacher_is_none(seed):
    _, weak, ceiling = answers(seed, 500)
    assert recovered(ceiling, weak, ceiling) == pytest.approx((1, 1, 1))
    assert recovered(weak, weak, ceiling) == pytest.approx((0, 0, 0))
    found = recovered(*answers(seed, 500))
    assert found.low < found.value < found.high


def test_without_a_gap_nothing_is_recovered():
    strong, weak, ceiling = answers(4)
    for none in ((strong, weak, weak), (strong, ceiling, weak)):
        assert np.isnan(recovered(*none)).all()
    by_chance = np.array([1, 0, 0, 0.0]), np.array([0, 0, 1, 0.0]), np.array([1, 1, 0, 0.0])
    assert by_chance[2].mean() > by_chance[1].mean() and np.isnan(recovered(*by_chance)).all()


@pytest.mark.parametrize("wrong", [([1, 0], [1], [1, 0]), ([1], [0], [1])])
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(ValueError, match="needs"):
        recovered(*wrong)


# --- of records ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> sweeps.Sweep:
    students, teachers = (
        sweeps.made_up(2, role, bounds)
        for role, bounds in (("student", (0.7, 0.74)), ("teacher", (0.6, 0.9)))
    )
    sweep = sweeps.simulate(
        students, teachers, methods=[*EFFECTS], effects=EFFECTS, seeds=2, samples=600, classes=5
    )
    source = np.where(sweep.trials["student"] == "student-00", "seed", "trained")
    reads = sweep.trials["method"].map(BLIND)
    return replace(sweep, trials=sweep.trials.assign(reads_labels=reads, student_source=source))


@pytest.fixture(scope="module")
def material(tmp_path_factory, made) -> Material:
    return Material(sweeps.write(tmp_path_factory.mktemp("weak") / "results", made, merged=0.5))


def test_each_pair_is_that_of_its_predictions(material, made):
    """Seeds averaged sample by sample; students from scratch and trained ones; labels are read by none."""
    said = dict(list(pd.read_parquet(material.folder / "predictions").groupby("trial")))
    table, done = material.gaps, made.trials
    assert set(table["method"]) == {"kl"} and len(table) == 4
    assert table["recovered"].isna().tolist() == [False, True] * 2  # the other teacher is above labels
    assert set(table["student_source"]) == {"seed", "trained"}
    for row in table.dropna(subset="recovered").itertuples():
        shares = {}
        for name, method, column in (
            ("strong", "kl", "student_after"),
            ("weak", "kl", "teacher"),
            ("ceiling", "xe", "student_after"),
        ):
            mine = done[(done["method"] == method) & (done["student"] == row.student)]
            mine = mine if method == "xe" else mine[mine["teacher"] == row.teacher]
            right = [
                (said[trial][column] == said[trial]["label"]).to_numpy()
                for trial in mine.sort_values("seed")["trial"]
            ]
            shares[name] = np.mean(right, axis=0)
            assert getattr(row, name) == pytest.approx(shares[name].mean())
        found = (row.recovered, row.recovered_low, row.recovered_high)
        assert found == pytest.approx(recovered(**shares))
        assert row.seeds == 2


def test_over_pairs_means_have_intervals_over_students_and_teachers():
    pairs = pd.DataFrame(
        {
            "method": ["kl"] * 6,
            "student": list("aabbcc"),
            "teacher": ["t", "u"] * 3,
            **dict.fromkeys(weak_to_strong.ACCURACIES, 0.5),
            "recovered": [0.1, 0.5, 0.3, 0.4, 0.2, np.nan],
        }
    )
    (row,) = weak_to_strong.over_pairs(pairs).itertuples()
    assert (row.recovered, row.pairs) == (pytest.approx(0.3), 5)
    bounds = crossed_bootstrap([0.1, 0.5, 0.3, 0.4, 0.2], list("aabbc"), list("tutut"))
    assert np.isfinite(bounds).all() and (row.recovered_low, row.recovered_high) == pytest.approx(bounds)


def test_predictions_that_are_gone_leave_their_pair_undefined(tmp_path, made):
    results = sweeps.write(tmp_path / "results", made)
    trial = made.trials.query("method == 'kl' and student == 'student-00'")["trial"].iloc[0]
    (results / "predictions" / f"{trial}.parquet").unlink()
    table = Material(results).gaps
    gone = made.trials.set_index("trial").loc[trial]
    mine = (table["student"] == gone["student"]) & (table["teacher"] == gone["teacher"])
    assert table.loc[mine, "recovered"].isna().all() and table["recovered"].notna().any()


def test_a_damaged_file_is_named(tmp_path, made):
    results = sweeps.write(tmp_path / "results", made)
    path = results / "predictions" / f"{made.finished[0]}.parquet"
    path.write_bytes(b"damaged")
    with pytest.raises(ResultsError, match=path.name):
        flips.right(results, made.finished)


def test_the_section_says_how_many_are_not_defined(material):
    (one,) = section(exhibits, material).exhibits
    assert "2 of 4 rows" in one.note and len(one.cells) == 3
    assert one.cells["student"].iloc[0] == weak_to_strong.ALL


def test_students_from_scratch_alone_have_it_in_their_report(tmp_path, made):
    alone = replace(made, trials=made.trials.assign(student_source="seed"))
    results = sweeps.write(tmp_path / "results", alone)
    assert report.main([str(results)]) == 0
    table = pd.read_csv(results / "analysis" / "tables" / "performance_gap_recovered.csv")
    assert table["pairs"].tolist() == [2, 1, 1]
    assert '<section id="weak_to_strong"' in (results / "analysis" / "report.html").read_text()


def test_without_trials_that_say_so_there_are_no_pairs(tmp_path, made):
    for trials in (made.trials[:0], made.trials.assign(reads_labels=None)):
        assert weak_to_strong.by_pair(tmp_path, trials).empty


def test_older_records_have_no_such_section(tmp_path, made):
    old = replace(made, trials=made.trials.drop(columns="reads_labels"))
    found = Material(sweeps.write(tmp_path / "results", old))
    with pytest.raises(LeftOut, match="no record says that"):
        _ = found.gaps
    assert section(exhibits, found) is None
