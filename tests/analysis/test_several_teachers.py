"""Transfer from several teachers: its tables against counting by hand, and what the report says of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import exhibits, measures, reference, report, several_teachers
from analysis.coverage import coverage, unfinished
from analysis.exhibit import Made
from analysis.exhibit import section as made_section
from analysis.exhibits import several as figures
from analysis.inference import crossed_bootstrap
from analysis.material import Material
from analysis.methods import in_order
from analysis.results import ResultsError, load, one_teacher, planned
from analysis.training_measures import load_history
from tests.analysis import sweeps

METHODS = ["xe", "kl", "xe_kl", "kl_dp"]
WAYS = ["sequential ascending", "sequential descending", "parallel", "soup"]
TEACHERS = "ResMLP-36 + SWSL-ResNext101 + VOLO-D2"
ASCENDING = "ResMLP-36 → SWSL-ResNext101 → VOLO-D2"


def deltas_of_paper() -> dict[tuple[str, str, str], float]:
    """The paper's deltas, of Twins made-up ones; a descending sequence gains half of what ascending does."""
    deltas = sweeps.published()
    for method, name in (("kl_dp", "table4_multi_teacher_kl_dp"), ("kl", "table9_multi_teacher_kl")):
        for row in reference.table(name).to_dict("records"):
            student = row["student"]
            deltas[student, "sequential ascending", method] = row["sequential"]
            deltas[student, "sequential descending", method] = row["sequential"] / 2
            deltas |= {(student, way, method): row[way] for way in ("parallel", "soup") if way in row}
            if student == "Twins":
                low, high = row["single_min"], row["single_max"]
                three = {
                    "ResMLP-36": low,
                    "VOLO-D2": high,
                    "SWSL-ResNext101": 3 * row["single_mean"] - low - high,
                }
                deltas |= {(student, teacher, method): delta for teacher, delta in three.items()}
    return deltas


def of_imagenet(sweep: sweeps.Sweep) -> sweeps.Sweep:
    return replace(sweep, trials=sweep.trials.assign(transfer_samples=reference.TRAINING))


@pytest.fixture(scope="module")
def papers() -> sweeps.Sweep:
    """The paper's 3 students and 3 teachers with what it published of them, up to one of 50,000 samples."""
    students, teachers = sweeps.papers("several")
    options = {"samples": 50_000, "classes": 1000, "planted": deltas_of_paper(), "several": WAYS}
    return of_imagenet(sweeps.simulate(students, teachers, methods=["kl", "kl_dp"], **options))


@pytest.fixture(scope="module")
def made_up() -> sweeps.Sweep:
    """Foreign models, two seeds, in every way."""
    ways = [*WAYS, "sequential listed"]
    return sweeps.simulate(4, 3, methods=METHODS, seeds=2, samples=1000, several=ways, epochs=3, seed=5)


def several_of(trials: pd.DataFrame) -> pd.DataFrame:
    return measures.tested(trials[trials["combine"].notna()])


def by_student(trials: pd.DataFrame) -> pd.DataFrame:
    units = measures.over_seeds(one_teacher(trials))
    return several_teachers.by_student(several_of(trials), units, trials)


@pytest.fixture(scope="module")
def written(made_up, tmp_path_factory) -> tuple[Path, Path]:
    """The results folder of a sweep, and that of its report."""
    folder = sweeps.write(tmp_path_factory.mktemp("several") / "results", made_up)
    older = folder / "analysis" / "tables" / "several_teachers_table_former.md"  # of a method that is gone
    older.parent.mkdir(parents=True)
    older.write_text("old")
    (folder / "analysis" / "files.txt").write_text(f"tables/{older.name}\n")
    assert report.main([str(folder)]) == 0
    return folder, folder / "analysis"


# --- what is loaded -------------------------------------------------------------------------------


def test_loading_leaves_them_out_unless_asked(written, made_up):
    folder, _ = written
    several = made_up.trials["combine"].notna()
    assert several.any() and load(folder)["combine"].isna().all()
    assert sorted(load(folder)["trial"]) == sorted(made_up.trials.loc[~several, "trial"])
    assert sorted(load(folder, several=True)["trial"]) == sorted(made_up.trials["trial"])


def test_a_folder_of_them_alone_has_no_pairs_but_a_report(made_up, tmp_path):
    several = made_up.trials[made_up.trials["combine"].notna()]
    kept = set(several["trial"])
    plans = made_up.plans[made_up.plans["trial"].isin(kept)]
    changes = made_up.changes[made_up.changes.index.isin(kept)]
    history = made_up.history[made_up.history["trial"].isin(kept)]
    sweeps.write(tmp_path, replace(made_up, trials=several, plans=plans, changes=changes, history=history))
    with pytest.raises(ResultsError, match=r"all trials there are of several teachers; analysis/report\.py"):
        load(tmp_path)
    assert report.main([str(tmp_path)]) == 0
    page = (tmp_path / "analysis" / "report.html").read_text()
    assert f"{len(several)} of {len(several)} planned trials finished" in page
    assert "single teachers teacher-00 + teacher-01 + teacher-02" in page
    assert '<section id="several"' in page and '<section id="success"' not in page


def test_older_results_have_to_be_run_again(made_up, tmp_path):
    sweeps.write(tmp_path, made_up, predictions=False, history=False)
    for path in (tmp_path / "trials").iterdir():
        pd.read_parquet(path).drop(columns=["combine", "order"]).to_parquet(path)
    told = "column combine is missing, so another version made these records; run the study again in a new"
    with pytest.raises(ResultsError, match=told):
        load(tmp_path)


def test_two_orders_are_two_settings_and_the_same_twice_is_refused(made_up, tmp_path):
    again = made_up.trials[made_up.trials["combine"] == "soup"].iloc[:1].assign(trial="f" * 16)
    plans = pd.concat([made_up.plans, again.assign(study="sweep")[made_up.plans.columns]])
    trials = pd.concat([made_up.trials, again], ignore_index=True)
    sweeps.write(tmp_path, replace(made_up, trials=trials, plans=plans), predictions=False, history=False)
    assert len(load(tmp_path))
    with pytest.raises(ResultsError, match="2 trials differ in settings but not in method, student, teacher"):
        load(tmp_path, several=True)


# --- Tables 4 and 9 -------------------------------------------------------------------------------


def test_the_papers_numbers_give_back_its_tables(papers):
    """Table 4 comes out as printed; of Table 9 all but the single teachers: Table 7 is of other runs."""
    table = by_student(papers.trials)
    students = table[table["student"].notna()]
    assert set(students["teachers"]) == {TEACHERS}
    names = {"sequential": "sequential, ascending"} | {
        f"single_{of}": f"single {of}" for of in ("mean", "min", "max")
    }
    for method, (_, name) in reference.SEVERAL.items():
        published = reference.table(name).set_index("student")
        for student, row in published.iterrows():
            mine = students[(students["method"] == method) & (students["student"] == student)]
            mine = mine.set_index("way")
            for column, value in row.items():
                way = names.get(column, column)
                if way in mine.index:
                    assert mine.loc[way, "published"] == pytest.approx(value / 100)
                    other_runs = method == "kl" and student != "Twins" and way.startswith("single")
                    if not other_runs:
                        assert mine.loc[way, "transfer_delta"] == pytest.approx(value / 100, abs=7e-5)
                    difference = mine.loc[way, "transfer_delta"] - value / 100
                    assert mine.loc[way, "difference"] == pytest.approx(difference)
            assert np.isnan(mine.loc["sequential, descending", "published"])
            assert ("parallel" in mine.index) == (method == "kl_dp")


def test_over_the_best_single_teacher_it_is_the_papers_59_percent(papers):
    table = by_student(papers.trials)
    mine = table[(table["method"] == "kl_dp") & (table["way"] == "sequential, ascending")]
    students, mean = mine[mine["student"].notna()], mine[mine["student"].isna()].iloc[0]
    of_paper = students.set_index("student")["published_over_best"]
    assert of_paper.to_dict() == pytest.approx({"XCiT-P16": 0.043, "Twins": 1.5, "PiT-B": 0.209}, abs=6e-4)
    assert mean["published_over_best"] == pytest.approx(0.584, abs=5e-4)
    assert mean["over_best"] == pytest.approx(students["over_best"].mean())
    assert mean["over_best"] == pytest.approx(0.584, abs=0.01)
    worst = table[(table["way"].isin(several_teachers.SINGLE)) | (table["way"] == "soup")]
    assert worst.loc[worst["way"] != "soup", "over_best"].isna().all()


def test_means_over_students_have_an_interval(papers):
    table = by_student(papers.trials)
    mean = table[table["student"].isna() & (table["method"] == "kl_dp")].set_index("way")
    assert (mean["students"] == 3).all()
    four = reference.table("table4_multi_teacher_kl_dp")
    for way, column in {"soup": "soup", "parallel": "parallel", "single max": "single_max"}.items():
        row = mean.loc[way]
        assert row["published"] == pytest.approx(four[column].mean() / 100)
        assert row["transfer_delta"] == pytest.approx(row["published"], abs=7e-5)
        assert row["low"] < row["transfer_delta"] < row["high"]
    assert table.loc[table["student"].notna(), ["low", "high"]].isna().all(axis=None)


def test_published_numbers_are_of_the_papers_teachers_data_and_order(papers):
    trials = papers.trials
    assert by_student(trials.assign(transfer_samples=5000))["published"].isna().all()
    bare = trials.assign(student_timm=trials["student_timm"].str.partition(".")[0])
    assert by_student(bare)["published"].isna().all()
    # Two of the three teachers, and an unknown one.
    other = trials.assign(teachers=[[*names[:2], "another"] for names in trials["teachers"]])
    other = pd.concat([one_teacher(trials), other[other["combine"].notna()]])
    assert by_student(other)["published"].isna().all()
    # A sequence as listed that happens to have the paper's order, and one that has not.
    listed = trials.assign(order=trials["order"].where(trials["order"].isna(), "listed"))
    ways = by_student(listed).query("method == 'kl_dp' and student == 'PiT-B'").set_index("way")["published"]
    assert ways[f"sequential: {ASCENDING}"] == pytest.approx(0.0104)
    assert np.isnan(ways["sequential: " + " → ".join(ASCENDING.split(" → ")[::-1])])
    assert ways["soup"] == pytest.approx(0.0069)


def test_every_number_is_that_of_the_rows(made_up):
    trials = made_up.trials
    table = by_student(trials)
    several = trials[trials["combine"].notna()]
    methods = set(several["method"])
    assert methods == {"kl", "xe_kl", "kl_dp"}
    assert table["method"].drop_duplicates().tolist() == in_order(methods)
    for row in table[table["student"].notna()].itertuples():
        mine = several[(several["method"] == row.method) & (several["student"] == row.student)]
        alone = one_teacher(trials).query("method == @row.method and student == @row.student")
        of_teacher = alone.groupby("teacher")["transfer_delta"].mean()
        if row.way.startswith("single"):
            expected = of_teacher.agg(row.way.split()[1])
        else:
            combine, _, order = row.way.partition(", ")
            if combine.startswith("sequential: "):
                combine, order = "sequential", "listed"
            chosen = mine[(mine["combine"] == combine) & (mine["order"].fillna("") == order)]
            assert len(chosen) == row.seeds == 2
            expected = chosen["transfer_delta"].mean()
            best = of_teacher.max()
            over = expected / best - 1 if best > 0 else np.nan
            assert row.over_best == pytest.approx(over, nan_ok=True)
        assert row.transfer_delta == pytest.approx(expected)
    assert several_teachers.missing(table) == []
    assert table["published"].isna().all()


def test_what_is_missing_is_said_and_in_no_mean(made_up):
    trials = made_up.trials[made_up.trials["method"] == "kl_dp"]
    gone = (trials["student"] == "student-01") & (trials["combine"] == "soup")
    gone |= (trials["student"] == "student-02") & (trials["teacher"] == "teacher-01")
    table = by_student(trials[~gone])
    assert several_teachers.missing(table) == [
        "student-01: soup",
        "student-02: single teachers teacher-01",
    ]
    two = table[table["student"] == "student-02"]
    assert not two["way"].str.startswith("single").any() and two["over_best"].isna().all()
    mean = table[table["student"].isna()]
    assert (mean["students"] == 2).all() and set(mean["way"]) == set(table["way"])
    whole = table[table["student"].isin(["student-00", "student-03"]) & (table["way"] == "parallel")]
    value = mean.set_index("way").loc["parallel", "transfer_delta"]
    assert value == pytest.approx(whole["transfer_delta"].mean())
    one = by_student(trials[trials["student"] == "student-00"])
    assert one["student"].notna().all()


# --- the order of teachers ------------------------------------------------------------------------


def test_orders_are_compared_on_the_same_student_and_seed(made_up):
    trials = made_up.trials
    lacking = trials[(trials["order"] == "ascending") & (trials["method"] == "kl")].index[0]
    trials = trials.drop(lacking)  # one seed of one student
    table = several_teachers.orders(several_of(trials)).set_index(["method", "measure"])
    wide = trials.pivot_table(
        ["transfer_delta", "knowledge_loss"], ["method", "student", "seed"], "order", aggfunc="sum"
    )
    for measure in ("transfer_delta", "knowledge_loss"):
        difference = (wide[measure]["ascending"] - wide[measure]["descending"]).dropna()
        for method in ("kl", "kl_dp"):
            expected = difference[method].groupby("student").mean()
            row = table.loc[(method, measure)]
            assert row["pairs"] == 4 and row["mean"] == pytest.approx(expected.mean())
            assert row["mean"] == pytest.approx(row["ascending"] - row["descending"])
            assert row["low"] <= row["mean"] <= row["high"]
            assert row["higher"] == (expected.round(12) > 0).sum()


def test_methods_are_compared_on_the_same_teachers_way_and_seed(made_up):
    several = several_of(made_up.trials)
    gone = several["trial"][(several["method"] == "kl") & (several["combine"] == "soup")].iloc[0]
    several = several[several["trial"] != gone]  # this student's other seed is left
    table = several_teachers.between_methods(several).set_index(["methods", "way"])
    done = several_teachers.described(several)
    for (methods, way), row in table.iterrows():
        a, b = methods.split(" minus ")
        mine, other = (
            done[(done["method"] == method) & (done["way"] == way)].set_index(["student", "seed"])[
                "transfer_delta"
            ]
            for method in (a, b)
        )
        each = (mine - other).dropna().groupby("student").mean()
        assert row["mean"] == pytest.approx(each.mean()) and row["pairs"] == len(each) == 4
        assert row["higher"] == (each.round(12) > 0).sum()
        bounds = crossed_bootstrap(each.round(12), each.index, None)
        assert (row["low"], row["high"]) == pytest.approx(bounds)
    assert ("kl_dp minus kl", "soup") in table.index and ("kl minus kl_dp", "soup") not in table.index
    assert several_teachers.between_methods(several[several["method"] == "kl"]).empty


def test_a_forgetful_order_is_told(papers):
    table = several_teachers.orders(several_of(papers.trials)).set_index(["method", "measure"])
    row = table.loc[("kl_dp", "transfer_delta")]
    half = reference.table("table4_multi_teacher_kl_dp")["sequential"].mean() / 200
    assert row["mean"] == pytest.approx(half, abs=5e-5) and row["higher"] == 3
    assert row["ascending_positive"] == row["descending_positive"] == 3
    only = papers.trials[papers.trials["order"] != "descending"]
    assert several_teachers.orders(several_of(only)).empty


# --- Fig. 11 --------------------------------------------------------------------------------------


def test_the_curve_goes_on_over_the_stages(papers, tmp_path):
    sweeps.write(tmp_path, papers, predictions=False)
    history = load_history(tmp_path, papers.trials)
    table = several_teachers.sequences(history, papers.trials[papers.trials["combine"].notna()])
    curve = table.query("method == 'kl_dp' and student == 'PiT-B' and order == 'ascending'")
    assert curve["epoch"].tolist() == list(range(15))
    assert curve["stage"].tolist() == sorted([0, 1, 2] * 5)
    assert curve["teacher"].drop_duplicates().tolist() == ASCENDING.split(" → ")
    assert set(curve["sequence"]) == {ASCENDING}
    last = curve.iloc[-1]
    assert last["transfer_delta"] == pytest.approx(0.0104)  # as the paper's figure ends
    trial = papers.trials.query("method == 'kl_dp' and student == 'PiT-B' and order == 'ascending'").iloc[0]
    assert last["knowledge_gain"] == pytest.approx(trial["knowledge_gain"])
    assert last["knowledge_loss"] == pytest.approx(trial["knowledge_loss"])

    drawing = figures._sequences(table)
    assert len(drawing.axes) == figures.PANELS
    first = drawing.axes[0]
    assert first.get_title() == "PiT-B: KL+DP, ascending"
    assert [text.get_text() for text in first.texts] == ASCENDING.split(" → ")
    assert [line.get_xdata()[0] for line in first.lines if line.get_linestyle() == "--"] == [5, 10]
    gained = next(line for line in first.lines if line.get_color() == figures.style.GREEN)
    np.testing.assert_allclose(gained.get_ydata(), 100 * curve["knowledge_gain"])
    np.testing.assert_array_equal(gained.get_xdata(), np.arange(1, 16))


def test_seeds_are_averaged_epoch_by_epoch(made_up, tmp_path):
    sweeps.write(tmp_path, made_up, predictions=False)
    history = load_history(tmp_path, made_up.trials)
    several = made_up.trials[made_up.trials["combine"].notna()]
    table = several_teachers.sequences(history, several)
    chosen = "method == 'kl' and student == 'student-02' and order == 'listed'"
    one = table.query(f"{chosen} and epoch == 4").iloc[0]
    mine = several.query(chosen)["trial"]
    rows = made_up.history[made_up.history["trial"].isin(mine) & (made_up.history["epoch"] == 4)]
    assert one["seeds"] == len(rows) == 2 and one["teacher"] == "teacher-01"
    assert one["knowledge_gain"] == pytest.approx(rows["knowledge_gain"].mean())
    assert one["transfer_delta"] == pytest.approx((rows["knowledge_gain"] - rows["knowledge_loss"]).mean())


def test_without_an_evaluation_of_each_epoch_there_is_no_curve(made_up, tmp_path):
    history = made_up.history.copy()
    last = history.groupby("trial")["epoch"].transform("max")
    history.loc[history["epoch"] < last, ["student_accuracy", "knowledge_gain", "knowledge_loss"]] = np.nan
    figure = shown(replace(made_up, history=history), tmp_path)["several_teachers_fig_11"]
    assert figure.shown.drawing is None
    assert figure.note.startswith("Left out: no sequence that finished was evaluated after each epoch")


# --- the report -----------------------------------------------------------------------------------


def shown(sweep: sweeps.Sweep, folder: Path) -> dict[str, Made]:
    """The exhibits of several teachers of a sweep, by name."""
    sweeps.write(folder, sweep, predictions=False)
    return {one.name: one for one in made_section(exhibits.several, Material(folder)).exhibits}


def signed(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")


def section(page: str) -> str:
    return page.partition('<section id="several"')[2].partition("</section>")[0]


def test_pairs_are_compared_as_if_several_teachers_were_not_there(written, tmp_path):
    """The same sweep without them gives the same tables, but for the lists of trials and the page."""
    folder, out = written
    same = sweeps.simulate(4, 3, methods=METHODS, seeds=2, samples=1000, epochs=3, seed=5)
    assert len(same.trials) < len(load(folder, several=True))
    trials = load(folder, several=True).set_index("trial")
    pairs = one_teacher(trials)
    sweeps.write(tmp_path, replace(same, trials=pairs.reset_index(), history=one_of(folder, pairs)))
    for path in (tmp_path / "predictions").iterdir():
        path.write_bytes((folder / "predictions" / path.name).read_bytes())
    assert report.main([str(tmp_path)]) == 0
    alone = tmp_path / "analysis"
    page = (alone / "report.html").read_text()
    for said in ("Several teachers", "several teachers", "combined", "sequential", "Table 4", "Fig. 11"):
        assert said not in page, said
    for path in [*alone.glob("tables/*.csv"), *alone.glob("figures/*.csv")]:
        if path.stem not in ("all_trials", "timm_results"):  # they list those of several, too
            assert path.read_bytes() == (out / path.parent.name / path.name).read_bytes(), path.name
    assert not list(alone.rglob("several_teachers_*"))


def one_of(folder: Path, pairs: pd.DataFrame) -> pd.DataFrame:
    history = pd.read_parquet(folder / "history")
    return history[history["trial"].isin(pairs.index)].drop(columns="measures")


def test_the_report_has_a_table_a_method_and_what_it_is_made_of(written, made_up):
    _, out = written
    page = (out / "report.html").read_text()
    part = section(page)
    several = made_up.trials[made_up.trials["combine"].notna()]
    assert f"Of several teachers {len(several)} of {len(several)} trials finished" in page
    assert "KL sequential, ascending 8 of 8" in page and "KL+DP parallel 8 of 8" in page
    assert "Table 4: KL+DP from several teachers" in part and "Table 9: KL from several teachers" in part
    assert "XE-KL from several teachers" in part and ", paper" not in part
    assert not (out / "tables" / "several_teachers_table_former.md").exists()
    for method in set(several["method"]):
        path = out / "tables" / f"several_teachers_table_{method}.csv"
        numbers = pd.read_csv(path)
        lines = (out / "tables" / f"several_teachers_table_{method}.md").read_text().splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
        assert len(rows) == 2 + 4 + 1 and rows[-1][0] == "mean of 4 students"
        soup = numbers[(numbers["way"] == "soup") & numbers["student"].notna()].set_index("student")
        place = rows[0].index("soup")
        for cells in rows[2:-1]:
            assert cells[place] == signed(soup.loc[cells[0], "transfer_delta"])
        mean = numbers[(numbers["way"] == "soup") & numbers["student"].isna()].iloc[0]
        text = "{} [{}, {}]".format(*map(signed, mean[["transfer_delta", "low", "high"]]))
        assert rows[-1][place] == text
    svg = (out / "figures" / "several_teachers_fig_11.svg").read_text()
    words = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert "percentage points" in words and "12 trials" in words and "teacher-02" in words


def test_where_all_of_them_failed_nothing_is_compared(made_up, tmp_path):
    trials = made_up.trials[made_up.trials["method"] != "xe_kl"].copy()
    measured = ["transfer_delta", "knowledge_gain", "knowledge_loss", "student_accuracy_after"]
    trials.loc[trials["combine"].notna(), measured] = np.nan
    trials.loc[trials["combine"].notna(), "status"] = "failed"
    found = shown(replace(made_up, trials=trials), tmp_path)
    assert list(found) == ["several_teachers_orders", "several_teachers_methods", "several_teachers_fig_11"]
    assert all(exhibit.note.startswith("Left out: ") for exhibit in found.values())


def test_all_trials_are_listed_with_how_their_teachers_are_combined(written, made_up):
    _, out = written
    table = pd.read_csv(out / "tables" / "all_trials.csv").set_index("trial")
    rows = made_up.trials.set_index("trial")
    assert sorted(table.index) == sorted(rows.index)
    rows = rows.loc[table.index]
    for name in ("combine", "order", "teacher"):
        assert table[name].fillna("").tolist() == rows[name].fillna("").tolist()
    # Corrected among themselves: the q of the others are what they are without them.
    for several in (True, False):
        chosen = rows["combine"].notna() == several
        expected = measures.tested(rows[chosen].reset_index())["q"]
        np.testing.assert_allclose(table.loc[chosen, "q"], expected)
    page = (out / "report.html").read_text()
    assert '"combined"' in page or ">combined<" in page


def test_the_papers_tables_stand_beside_ours(papers, tmp_path):
    cells = shown(papers, tmp_path)["several_teachers_table_kl_dp"].cells.set_index("student")
    assert cells.loc["PiT-B", "sequential, ascending, paper"] == "+1.04"
    assert cells.loc["Twins", "single max, paper"] == cells.loc["Twins", "single max"] == "+0.26"
    assert cells.loc["mean of 3 students", "sequential, ascending: over best %"] == "+58"
    assert "sequential, descending, paper" not in cells
    lines = exhibits.several.lines(Material(tmp_path))
    said = "KL+DP, sequential, ascending: +58 % (mean of 3 students; of the paper's numbers +58 %)"
    assert any(said in line for line in lines)


def test_a_sweep_that_is_not_finished_says_what_is_missing(tmp_path):
    options = {"samples": 500, "several": WAYS, "missing": 0.3, "failed": 2, "seed": 2}
    sweep = sweeps.simulate(3, 3, methods=["kl_dp"], **options)
    table = shown(sweep, tmp_path)["several_teachers_table_kl_dp"]
    assert "Not finished, so left out, also from means: student-0" in table.note
    recorded, plan = sweep.trials.set_index("trial"), sweep.plans.dropna(subset="combine")
    done = plan["trial"].isin(recorded.index[recorded["status"] == "ok"]).sum()
    lines = coverage(Material(tmp_path))
    assert any(f"Of several teachers {done} of {len(plan)} trials finished" in line for line in lines)
    left = unfinished(planned(tmp_path), sweep.trials).set_index("trial")
    missing = plan[~plan["trial"].isin(recorded.index)]
    assert len(missing)
    for row in missing.to_dict("records"):
        way = row["combine"] + (f", {row['order']}" if row["order"] else "")
        assert left.loc[row["trial"], "teacher"] == f"{row['teacher']} ({way})"
        assert left.loc[row["trial"], "why"] == "not recorded yet"
