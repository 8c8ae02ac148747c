"""What makes a good augmentation: published correlations from published points, made-up sweeps by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import augmentation_measures as measures
from analysis import exhibits, reference, report
from analysis.coverage import coverage
from analysis.exhibit import section
from analysis.inference import benjamini_hochberg, correlation
from analysis.material import Material
from analysis.results import ResultsError, load
from tests.analysis import sweeps

PAIR = ["dataset", "teacher", "student"]
PRINTED = reference.table("good_da_correlations").to_dict("records")
LOSS = measures.LOSS
SCHEMES = {  # by method: the second input's transforms, what is picked by, and T. stddev
    "identity": ("identity", None, 0.0150),
    "flip": ("flip", None, 0.0149),
    "flip_crop": ("shift, flip", None, 0.0147),
    "cutout": ("cutout", None, 0.0144),
    "autoaugment": ("autoaugment", None, 0.0145),
    "mixup": ("mixup", None, 0.0140),
    "cutmix": ("cutmix", None, 0.0138),
    "cutmix_s": ("cutmix", "student_entropy", 0.0130),
    "cutmix_t": ("cutmix", "teacher_entropy", 0.0125),
}
LONG = {"cutmix_t_x4": ("cutmix", "teacher_entropy", 0.0126), "kd_x4": (None, None, np.nan)}
ALONE = {"kd": (None, None, np.nan), "xe": (None, None, np.nan)}


@pytest.mark.parametrize("printed", PRINTED, ids=lambda row: f"{row['dataset']} {row['student']}")
def test_published_correlations_follow_from_published_points(printed):
    """To four decimals, and their p-values to two in percent: of all ten pairs."""
    points = reference.table("good_da_points")
    mine = points[(points[PAIR] == [printed[name] for name in PAIR]).all(axis=1)]
    assert len(mine) == 9
    for kind in ("pearson", "spearman", "kendall"):
        found = correlation(mine["t_stddev"], mine["s_test_loss"], kind)
        assert round(found.value, 4) == printed[kind]
        assert round(100 * found.p, 2) == printed[f"{kind}_p_percent"]


def test_there_are_ten_published_pairs():
    assert len(PRINTED) == 10 and len(reference.table("good_da_points")) == 90


# --- a made-up study ------------------------------------------------------------------------------


def from_scratch(**about) -> sweeps.Sweep:
    """Two students from scratch, two teachers, two seeds: all schemes, KD and cross-entropy, some longer."""
    effects = dict.fromkeys([*SCHEMES, *ALONE, *LONG], sweeps.Effect(30.0, spread=2.0))
    simulated = sweeps.simulate(2, 2, methods=[*effects], effects=effects, seeds=2, samples=400, **about)
    trials, draw = simulated.trials.copy(), np.random.default_rng(5)
    known = pd.DataFrame({**SCHEMES, **ALONE, **LONG}, index=["augmentation", "augmentation_pick", "m"]).T
    for name in ("augmentation", "augmentation_pick"):
        trials[name] = trials["method"].map(known[name])
    done = trials["status"] == "ok"
    noise = draw.normal(size=(4, len(trials)))
    stddev = (trials["method"].map(known["m"]).astype(float) + 1e-5 * noise[0]).where(done)
    trials = trials.assign(
        student_source="seed",
        augmentation_draw=trials["augmentation"].where(trials["augmentation"].isna(), "sample"),
        teacher_stddev=stddev,
        teacher_stddev_error=(0.0003 + 0 * stddev),
        teacher_stddev_augmented=stddev + 1e-3 * noise[1],
        teacher_covariance=stddev**2 + 1e-5 * noise[2],
        teacher_entropy_augmented=1 - 40 * stddev + 0.1 * noise[1],
        teacher_entropy_stddev=0.01 + 0.001 * noise[2],
        epochs=np.where(trials["method"].str.endswith("_x4"), 20, 5),
        teacher_stddev_samples=640,
        classes=10,
        student_scaled_negative_log_likelihood_after=(0.4 + 0.01 * noise[0]).round(4),
    )
    loss = 0.2 + 30 * stddev.fillna(0.016) + 0.005 * noise[3]
    return replace(simulated, trials=trials.assign(**{LOSS: loss.where(done)}))


@pytest.fixture(scope="module")
def made() -> sweeps.Sweep:
    return from_scratch(failed=1, study="scratch")


@pytest.fixture(scope="module")
def results(tmp_path_factory, made) -> Path:
    return sweeps.write(tmp_path_factory.mktemp("scratch") / "results", made)


@pytest.fixture(scope="module")
def material(results) -> Material:
    return Material(results)


@pytest.fixture(scope="module")
def done(made) -> pd.DataFrame:
    return made.trials[made.trials["status"] == "ok"]


def of(table: pd.DataFrame, **names) -> pd.DataFrame:
    for name, value in names.items():
        table = table[table[name] == value]
    return table


def test_a_point_is_a_scheme_over_its_seeds_at_the_usual_number_of_epochs(material, done):
    points = material.scheme_points
    assert set(points["method"]) == set(SCHEMES) and set(points["epochs"]) == {5}
    assert len(points) == 4 * len(SCHEMES)
    for row in points.itertuples():
        mine = of(done, method=row.method, student=row.student, teacher=row.teacher)
        assert row.loss == pytest.approx(mine[LOSS].mean())
        assert row.teacher_stddev == pytest.approx(mine["teacher_stddev"].mean())
        assert row.accuracy == pytest.approx(mine["student_accuracy_after"].mean())
        if len(mine) == 2:
            assert row.loss_sd == pytest.approx(mine[LOSS].std(ddof=1))


def test_correlations_are_scipys_of_each_pair(material):
    points, table = material.scheme_points, measures.correlations(material.scheme_points)
    single = table[table["student"] != measures.ALL]
    assert len(single) == 4 * len(measures.PREDICTORS) * 3
    of_scipy = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
    for row in single.itertuples():
        mine = of(points, student=row.student, teacher=row.teacher)
        expected = of_scipy[row.coefficient](mine[row.predictor], mine["loss"])
        assert (row.correlation, row.p_value) == pytest.approx((expected.statistic, expected.pvalue))
        assert row.n == 9 and row.correlation_low < row.correlation <= row.correlation_high
    mine = of(single, predictor="teacher_stddev", coefficient="pearson")
    assert mine["q_value"].to_numpy() == pytest.approx(benjamini_hochberg(mine["p_value"].to_numpy()))
    (whole,) = of(table, student="all", predictor="teacher_stddev", coefficient="pearson").itertuples()
    assert (
        whole.correlation == pytest.approx(np.tanh(np.arctanh(mine["correlation"]).mean())) and whole.n == 4
    )
    assert whole.correlation_low <= whole.correlation <= whole.correlation_high


def test_loss_calibrated_loss_and_error_each_have_their_correlation(material):
    points, table = material.scheme_points, measures.outcomes(material.scheme_points)
    assert len(table) == 4 * 3 + 3
    student, teacher = points[["student", "teacher"]].iloc[-1]
    mine = of(points, student=student, teacher=teacher)
    known = {"loss": mine["loss"], "scaled_loss": mine["scaled_loss"], "error": 1 - mine["accuracy"]}
    for outcome, values in known.items():
        (row,) = of(table, student=student, teacher=teacher, outcome=outcome).itertuples()
        assert row.correlation == pytest.approx(np.corrcoef(mine["teacher_stddev"], values)[0, 1])
    (whole,) = of(table, student="all", outcome="loss").itertuples()
    same = of(measures.correlations(points), student="all", predictor="teacher_stddev", coefficient="pearson")
    assert whole.correlation == pytest.approx(same["correlation"].iloc[0]) and whole.n == 4


def test_results_without_calibrated_losses_still_have_the_others(material):
    older = material.scheme_points.assign(scaled_loss=np.nan)
    table = measures.outcomes(older)
    assert of(table, outcome="scaled_loss")["correlation"].isna().all()
    assert of(table, outcome="error", student="all")["correlation"].notna().all()


def test_the_bounds_are_those_of_independent_draws_of_one_class(material):
    """The specification of the paper's windows: 640 samples of 10 classes, 320 that differ."""
    row = material.scheme_points.iloc[0]
    assert (row["bound"], row["bound_of_copies"]) == pytest.approx((0.01186, 0.01677), abs=1e-5)
    drawn = np.random.default_rng(0).multinomial(640, [0.1] * 10, size=20_000) / 640
    assert drawn.std(axis=0, ddof=1).mean() == pytest.approx(row["bound"], rel=0.01)


def test_what_is_left_out_is_left_out(material):
    points, table = material.scheme_points, measures.robustness(material.scheme_points)
    student, teacher = points[["student", "teacher"]].iloc[0]
    mine = of(points, student=student, teacher=teacher)
    found = of(table, student=student, teacher=teacher).set_index("left_out")
    assert list(found.index) == ["none", "CutMix and its relatives", *mine["method"]]
    rest = mine[~mine["method"].str.startswith("cutmix")]
    assert found.loc["CutMix and its relatives", "n"] == len(rest) == 6
    expected = np.corrcoef(rest["teacher_stddev"], rest["loss"])[0, 1]
    assert found.loc["CutMix and its relatives", "correlation"] == pytest.approx(expected)
    rest = mine[mine["method"] != "mixup"]
    expected = np.corrcoef(rest["teacher_stddev"], rest["loss"])[0, 1]
    assert found.loc["mixup", "correlation"] == pytest.approx(expected) and found.loc["mixup", "n"] == 8


def test_regret_is_what_a_choice_loses_to_the_best():
    points = pd.DataFrame(
        {
            "student": ["s"] * 3 + ["r"] * 3,
            "teacher": "t",
            "method": ["identity", "cutmix", "cutmix_t"] * 2,
            "augmentation": ["identity", "cutmix", "cutmix"] * 2,
            "augmentation_pick": [None, None, "teacher_entropy"] * 2,
            "teacher_stddev": [3.0, 2.0, 1.0, 1.0, 2.0, 3.0],
            "loss": [1.0, 0.7, 0.8, 1.0, 0.9, 0.5],
            "accuracy": [0.5, 0.7, 0.6, 0.5, 0.6, 0.8],
        }
    )
    table = measures.regret(points)
    assert table["chosen"].tolist()[:2] == ["cutmix_t", "identity"]
    assert table["best"].tolist()[:2] == ["cutmix", "cutmix_t"]
    assert table["regret"].tolist() == pytest.approx([0.1, 0.5, 0.3])
    assert table["regret_of_cutmix"].tolist() == pytest.approx([0.0, 0.4, 0.2])
    assert table["regret_difference"].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert table["accuracy_regret"].tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert table["student"].iloc[2] == measures.ALL and table["n"].tolist() == [3, 3, 2]
    assert table["regret_low"].isna().tolist() == [True, True, False]
    assert table["regret_of_cutmix_low"].iloc[-1] == 0  # by itself -0.2: nothing is better than the best
    without = measures.regret(points[points["method"] != "cutmix"])
    assert without["regret_of_cutmix"].isna().all()


def test_differences_from_identity_are_of_the_same_seeds(material, done):
    table = measures.against_identity(material.augmented)
    names = ["student", "teacher", "seed"]
    identity = of(done, method="identity").set_index(names)[LOSS]
    for row in of(table, method="mixup").itertuples():
        mine = of(done, method="mixup", student=row.student, teacher=row.teacher).set_index(names)[LOSS]
        differences = (mine - identity).dropna()
        assert row.loss_difference == pytest.approx(differences.mean())
        if len(differences) == 2:
            half = stats.t.ppf(0.975, 1) * differences.std() / np.sqrt(2)
            assert row.loss_difference_high == pytest.approx(differences.mean() + half)
    assert of(table, method="identity")["accuracy_difference"].abs().max() == 0
    assert of(table, method="kd_x4")["loss_difference"].isna().all()  # no Identity took as long
    (alone,) = of(table, method="xe", student="student-00").itertuples()
    mine = of(done, method="xe", student="student-00").set_index("seed")[LOSS]
    both = of(done, method="identity", student="student-00").groupby("seed")[LOSS].mean()
    assert pd.isna(alone.teacher) and alone.loss_difference == pytest.approx((mine - both).mean())


def test_errors_against_epochs_are_of_schemes_that_took_several(material, done):
    table = measures.over_epochs(material.schemes)
    assert set(table["scheme"]) == {"cutmix_t", "kd"} and set(table["epochs"]) == {5, 20}
    (row,) = of(table, scheme="kd", student="student-00", teacher="teacher-01", epochs=20).itertuples()
    mine = of(done, method="kd_x4", student="student-00", teacher="teacher-01")
    assert row.error == pytest.approx(1 - mine["student_accuracy_after"].mean())


# --- published pairs ------------------------------------------------------------------------------


def test_published_points_stand_beside_the_same_networks_on_the_same_data(material):
    points = material.scheme_points.assign(
        student_timm="cifar_shufflenetv2.untrained", teacher_timm="cifar_resnet32x4", data="CIFAR-100"
    )
    assert measures.published(points).empty  # of this pair no point is published
    points["student_timm"], points["teacher_timm"] = "cifar_resnet20", "cifar_resnet56"
    found = measures.published(points[points["student"] == "student-00"].query("teacher == 'teacher-00'"))
    assert len(found) == 9 and set(found["dataset"]) == {"CIFAR100"}
    assert set(found["student"]) == {"student-00"} and set(found["teacher"]) == {"teacher-00"}
    assert set(found["scheme"]) == set(measures.papers_scheme(points))
    assert measures.published(points.assign(data="CIFAR10")).empty
    tables = points.assign(student_timm="cifar_shufflenetv2", teacher_timm="cifar_resnet32x4.x")
    assert set(measures.published(tables, "good_da_table1")["dataset"]) == {"CIFAR100"}


def test_the_figure_says_the_published_numbers_beside(results):
    own = Material(results)
    own.augmented["data"] = "cifar100"
    own.augmented["student_timm"], own.augmented["teacher_timm"] = "cifar_vgg8", "cifar_vgg13"
    pair = (own.augmented["student"] == "student-01") & (own.augmented["teacher"] == "teacher-00")
    own.augmented = own.augmented[pair].reset_index(drop=True)
    made = exhibits.augmentation.augmentation_scatter.made(own)[0]
    row = made.shown.numbers.set_index("method").loc["cutmix_t"]
    assert (row["published_stddev"], row["published_loss"]) == (0.004042, 0.9981)
    (table,) = exhibits.augmentation.augmentation_correlations.made(own)
    of_pearson = of(table.shown.numbers, predictor="teacher_stddev", coefficient="pearson")
    assert of_pearson["published_correlation"].tolist() == [0.9742]


def test_published_accuracies_stand_beside_the_same_methods_and_epochs(material, done):
    table = measures.schemes(done).assign(data="cifar100")
    table = of(table, student="student-01", teacher="teacher-00")
    table = table.assign(student_timm="cifar_vgg8", teacher_timm="cifar_vgg13")
    table["epochs"] = table["epochs"].map({5: 240, 20: 960})
    table["published"] = measures.published_accuracies(table)
    known = table.dropna(subset="published").set_index(["method", "epochs"])["published"].to_dict()
    assert known == pytest.approx({("kd", 240): 0.7298, ("kd_x4", 960): 0.74, ("cutmix", 240): 0.7416})
    assert measures.published_accuracies(table.assign(data="CIFAR10")).isna().all()


# --- the report -----------------------------------------------------------------------------------


def test_students_from_scratch_are_in_their_own_section_and_in_nothing_else(results, made, tmp_path):
    out = tmp_path / "alone"
    assert report.main([str(results), "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    for name in ("augmentation_scatter", "error_against_epochs"):
        assert f'<article id="{name}">' in page and (out / "figures" / f"{name}.png").exists()
    names = ["augmentation_correlations", "augmentation_robustness", "augmentation_outcomes"]
    names.append("augmentation_regret")
    for name in [*names, "augmentation_schemes"]:
        assert (out / "tables" / f"{name}.md").exists()
    assert "fig_4a_success_rates" not in page
    said = pd.read_parquet(out / "statements.parquet")
    assert set(said["measure"].str.partition(".")[0]) == {
        *names,
        *("augmentation_schemes", "augmentation_scatter", "error_against_epochs"),
    }
    units = said.drop_duplicates("measure").set_index("measure")["unit"]
    assert units["augmentation_scatter.loss"] == "nats"
    assert units["augmentation_correlations.correlation"] == "correlation"
    assert units["augmentation_correlations.n"] == "count"
    for name in [*names, "augmentation_schemes"]:  # of each column a header of its own
        lines = (out / "tables" / f"{name}.md").read_text().splitlines()
        headers = next(line for line in lines if line.startswith("|")).strip("| ").split(" | ")
        (made_again,) = getattr(exhibits.augmentation, name).made(Material(results))
        assert len(headers) == len(made_again.shown.columns)
    with pytest.raises(ResultsError, match=r"students from scratch; analysis/report.py shows them"):
        load(results)
    assert len(load(results, several=True, from_scratch=True)) == len(made.trials)


def test_beside_other_trials_they_change_none_of_their_numbers(made, tmp_path):
    """The report of trained students is the same with students from scratch in the folder."""
    students = sweeps.made_up(3, "trained", (0.76, 0.84))
    trained = sweeps.simulate(students, 2, methods=["xe", "kl", "kl_dp"], samples=300, seed=3)
    alone, both = (tmp_path / name for name in ("alone", "both"))
    sweeps.write(alone, trained)
    sweeps.write(both, trained)
    sweeps.write(both, made)
    before, after = Material(alone), Material(both)
    pd.testing.assert_frame_equal(before.by_method, after.by_method)
    pd.testing.assert_frame_equal(before.finished, after.finished, check_dtype=False)
    texts = [
        [
            (one.name, one.shown.numbers, one.note)
            for module in (exhibits.success, exhibits.knowledge, exhibits.beyond, exhibits.training)
            for one in section(module, material).exhibits
        ]
        for material in (before, after)
    ]
    for first, second in zip(*texts, strict=True):
        assert first[0] == second[0] and first[2] == second[2]
        assert (first[1] is None) == (second[1] is None)
        if first[1] is not None:
            pd.testing.assert_frame_equal(first[1], second[1], check_dtype=False)
    assert section(exhibits.augmentation, before) is None
    assert section(exhibits.augmentation, after) is not None
    count = (made.trials["status"] == "ok").sum()
    assert any(f"{count} trials are of students from scratch" in line for line in coverage(after))
    assert not any("from scratch" in line for line in coverage(before))


def test_sentences_say_what_the_tables_say(material):
    first, second = exhibits.augmentation.lines(material)
    table = measures.correlations(material.scheme_points)
    whole = of(table, student="all", predictor="teacher_stddev", coefficient="pearson").iloc[0]
    assert f"{whole['correlation']:+.2f} [" in first and "4 pairs" in first
    cost = measures.regret(material.scheme_points).iloc[-1]
    assert f"loses {cost['regret']:.3f} [" in second


def test_trained_students_with_a_second_input_are_in_both(tmp_path, made):
    trials = made.trials.assign(student_source="trained")
    few = trials[trials["student"] == "student-00"]
    folder = sweeps.write(tmp_path / "trained", replace(made, trials=few), predictions=False)
    material = Material(folder)
    assert len(material.tested) == (few["status"] == "ok").sum()
    assert len(material.scheme_points) == 2 * len(SCHEMES)


def test_with_too_few_schemes_tables_say_so(tmp_path, made):
    few = made.trials[made.trials["method"].isin(["identity", "cutmix"])]
    material = Material(sweeps.write(tmp_path / "few", replace(made, trials=few), predictions=False))
    shown = {one.name: one for one in section(exhibits.augmentation, material).exhibits}
    for name in ("augmentation_correlations", "augmentation_robustness"):
        assert shown[name].note == "Left out: no pair has 4 schemes."
    assert shown["augmentation_regret"].cells is not None
    assert "several numbers of epochs" in shown["error_against_epochs"].note


def test_students_from_scratch_without_a_second_input_have_a_report_too(tmp_path, made):
    columns = [name for name in made.trials if name.startswith(("teacher_stddev", "augmentation"))]
    trials = made.trials.assign(**dict.fromkeys(columns, None))
    results = sweeps.write(tmp_path / "plain", replace(made, trials=trials), predictions=False)
    said, _ = report.report(Material(results), tmp_path / "out")
    assert "are of students from scratch" in " ".join(said.split()) and "T. stddev and" not in said
    assert "no trial has a T. stddev and a test loss" in (tmp_path / "out" / "report.md").read_text()
