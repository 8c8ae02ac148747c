"""The report as a whole: what it writes, that its numbers are those of the rows, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import report, statements, style
from analysis.coverage import coverage
from analysis.material import Material
from analysis.methods import LABELS, label
from analysis.text import Number
from tests.analysis import atlases, sweeps

ROOT = Path(__file__).resolve().parents[2]
FIGURES = [
    *("fig_4a_success_rates", "fig_4b_delta_by_difference", "forest", "method_differences"),
    *("student_properties", "fig_5a_top_classes", "fig_5b_transfer_rate_by_size"),
    *("fig_7_gain_loss_by_family", "fig_7_gain_loss_by_size", "fig_7_gain_loss_by_teacher"),
    *("fig_8a_accuracy", "fig_8b_size", "fig_8c_family", "learning_curves", "time_by_method"),
    *("fig_4b_papers_form", "fig_5a_papers_form", "fig_5b_papers_form", "fig_7_papers_form"),
]
ATLAS = ["fig_1a", "fig_1b", "fig_2a", "fig_2b", "heatmap"]
TABLES = [
    *("table_1", "table_2", "table_3", "table_7", "table_8", "success_rates", "at_larger_scale"),
    *("by_data_set", "time_by_method"),
]


@pytest.fixture(scope="module")
def trials(results) -> pd.DataFrame:
    """The finished trials, read by pandas alone."""
    table = pd.read_parquet(results / "trials")
    return table[table["status"] == "ok"]


def numbers(written: Path, name: str) -> pd.DataFrame:
    (path,) = written.glob(f"*/{name}.csv")
    return pd.read_csv(path)


def refused(capsys, *arguments) -> str:
    assert report.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES + ATLAS)
def test_every_figure_is_there_in_all_its_forms(written, name):
    svg = (written / "figures" / f"{name}.svg").read_text()
    assert svg.count("<path") > 3 and "<text" in svg
    assert (written / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    page = (written / "report.html").read_text()
    assert f'<article id="{name}">' in page and f"figures/{name}.svg" in page
    assert f"- **{name}** (" in (written / "figures" / "README.md").read_text()


def test_figures_say_what_they_show_in_which_unit_and_of_how_many(written):
    for name in FIGURES:
        svg = (written / "figures" / f"{name}.svg").read_text()
        words = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
        assert re.search(r"%|points|correlation|seconds|share", words), name
        assert re.search(r"\d[\d,]* (trials|pairs|students|bins)", words), name


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_there_as_csv_and_markdown(written, name):
    lines = (written / "tables" / f"{name}.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == len(numbers(written, name)) + 2
    assert len({line.count("|") for line in rows}) == 1


def test_the_page_needs_nothing_but_itself(written):
    page = (written / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', page.partition("injectCSS")[0])
    assert '<link rel="stylesheet"' not in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_what_is_missing_and_what_failed_is_told(results, written, trials):
    page = (written / "report.html").read_text()
    recorded = pd.read_parquet(results / "trials")
    plan = pd.read_parquet(results / "plans")
    missing, failed = len(plan) - len(recorded), len(recorded) - len(trials)
    assert failed == 3 and missing > 0
    total = (
        f"{len(trials)} of {len(plan)} planned trials finished, {failed} failed, {missing} are not recorded"
    )
    assert total in page and "This sweep is not finished" in page
    for row in recorded[recorded["status"] != "ok"].itertuples():
        assert row.trial in page and row.reason in page
    for row in plan[~plan["trial"].isin(recorded["trial"])].itertuples():
        teacher = "-" if pd.isna(row.teacher) else row.teacher
        cells = [row.trial, row.student, teacher, label(row.method), str(row.seed), "not recorded yet"]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page


def test_equal_results_give_equal_bytes(results, written, tmp_path):
    assert report.main([str(results), "--out", str(tmp_path)]) == 0
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    for name in files:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_the_command_runs_without_the_models_code(run):
    out, done = run
    assert done.stdout.splitlines()[-1] == "set()"
    assert f"report: {out / 'report.html'}" in done.stdout
    assert "report: drawing: What is transferred" in done.stderr  # progress, apart from the results


# --- every number is that of the rows -------------------------------------------------------------


@pytest.fixture(scope="module")
def said(written) -> dict[str, dict[str, Number]]:
    return statements.numbers(pd.read_parquet(written / "statements.parquet"))


def test_success_rates_and_means(written, trials, said):
    for method, mine in trials.groupby("method"):
        units = mine.groupby(["student", "teacher"], dropna=False)["transfer_delta"].mean()
        row = said[method]
        assert row["trials"].value == len(mine) and row["pairs"].value == len(units)
        assert row["delta_mean"].value == pytest.approx(units.mean())
        assert row["success_rate"].value == pytest.approx((units > 1e-12).mean())
        assert row["delta_mean"].low <= row["delta_mean"].value <= row["delta_mean"].high
        per_student = (units > 1e-12).groupby("student").mean()
        assert row["success_student_median"].value == pytest.approx(per_student.median())


def test_every_number_of_a_table_is_a_statement(written):
    """One row a number: found by subject, measure and level, each with its unit and meaning."""
    table = pd.read_parquet(written / "statements.parquet")
    assert list(table) == statements.COLUMNS
    assert not table.duplicated(["subject", "measure", "level"]).any()
    assert (table["meaning"].str.len() > 3).all() and (table["unit"] != "").all()
    known = table.dropna(subset="low")
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).mean() > 0.99
    one = numbers(written, "table_1").iloc[0]
    mine = table[(table["subject"] == one["student"]) & (table["measure"] == "table_1.kl_mean")]
    assert (
        mine["value"].item() == pytest.approx(one["kl_mean"], rel=1e-12) and mine["unit"].item() == "fraction"
    )
    units = table.set_index("subject").filter(like="negative_log", axis=0)
    assert set(units.loc[units["measure"] != "scores.pairs", "unit"]) <= {"nats"}


def test_tests_of_trials_are_those_of_their_predictions(results, written, trials):
    """McNemar's exact p from the stored predictions by scipy, q by stepping up."""
    table = numbers(written, "forest").set_index("trial")
    said = pd.read_parquet(results / "predictions")
    right = {name: said[name] == said["label"] for name in ("student_before", "student_after")}
    changed = said.assign(
        gained=right["student_after"] & ~right["student_before"],
        lost=right["student_before"] & ~right["student_after"],
    )
    counts = changed.groupby("trial")[["gained", "lost"]].sum()
    p = pd.Series(
        [
            stats.binomtest(int(row.gained), int(row.gained + row.lost)).pvalue
            if row.gained + row.lost
            else 1.0
            for row in counts.itertuples()
        ],
        counts.index,
    )
    ordered = p.sort_values()
    stepped = (ordered * len(ordered) / np.arange(1, len(ordered) + 1))[::-1].cummin()[::-1].clip(upper=1)
    assert len(table) == len(trials[trials["teacher"].notna()])
    assert set(table.index) <= set(counts.index)
    np.testing.assert_array_equal(table["gained"], counts.loc[table.index, "gained"])
    np.testing.assert_array_equal(table["lost"], counts.loc[table.index, "lost"])
    np.testing.assert_allclose(table["p"], p[table.index], rtol=1e-9)
    np.testing.assert_allclose(table["q"], stepped[table.index], rtol=1e-9)
    assert {"better", "worse", "unclear"} >= set(table["verdict"])
    assert ((table["low"] < table["transfer_delta"]) & (table["transfer_delta"] < table["high"])).all()


def test_differences_between_methods(written, trials, said):
    wide = trials.pivot_table("transfer_delta", ["student", "teacher", "seed"], "method")
    checked = 0
    for subject, row in said.items():
        a, _, b = subject.partition(" minus ")
        if b in wide and b != "xe":
            units = (wide[a] - wide[b]).dropna().groupby(["student", "teacher"]).mean()
            mean = row["difference_mean"]
            assert mean.n == len(units) and mean.value == pytest.approx(units.mean())
            assert mean.low <= mean.value <= mean.high
            checked += 1
    assert checked == 10


def test_transfer_rates_by_class_are_those_of_the_predictions(results, written, trials):
    table = numbers(written, "fig_5a_top_classes")
    said = pd.read_parquet(results / "predictions").merge(
        trials[["trial", "method", "student_family", "student"]]
    )
    mine = said[(said["method"] == "kl") & (said["student_family"] == "mlp")]
    mine = mine[(mine["teacher"] == mine["label"]) & (mine["student_before"] != mine["label"])]
    rates = []
    for trial, known in mine.groupby("trial"):
        counts = known["label"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
        enough = int(np.searchsorted(counts.cumsum().to_numpy(), 0.5 * len(known) - 1e-9)) + 1
        inside = known[known["label"].isin(counts.index[:enough])]
        rates.append((trial, (inside["student_after"] == inside["label"]).mean()))
    units = pd.DataFrame(rates, columns=["trial", "rate"]).merge(trials[["trial", "student", "teacher"]])
    expected = units.groupby(["student", "teacher"])["rate"].mean().mean()
    chosen = table[(table["method"] == "kl") & (table["family"] == "mlp")].set_index("share")
    assert chosen.loc[0.5, "transfer_rate"] == pytest.approx(expected)
    whole = trials[(trials["method"] == "kl") & (trials["student_family"] == "mlp")]
    expected = whole.groupby(["student", "teacher"])["transfer_rate"].mean().mean()
    assert chosen.loc[1.0, "transfer_rate"] == pytest.approx(expected)


def test_tables_and_costs(written, trials):
    table = numbers(written, "table_1").set_index("student")
    units = trials.groupby(["method", "student", "teacher"])["transfer_delta"].mean()
    for student, row in table.iterrows():
        assert row["kl_dp_mean"] == pytest.approx(units["kl_dp"][student].mean())
        assert row["kl_sd"] == pytest.approx(np.std(units["kl"][student]))
    times = numbers(written, "time_by_method")
    assert times["hours"].sum() == pytest.approx(trials["seconds"].sum() / 3600)


def test_all_trials_are_listed(written, trials):
    table = numbers(written, "all_trials").set_index("trial").sort_index()
    rows = trials.set_index("trial").sort_index()
    assert table.index.tolist() == rows.index.tolist()
    for name in ("transfer_delta", "student_accuracy_after", "transfer_rate", "seconds"):
        np.testing.assert_allclose(table[name], rows[name].astype(float))
    assert len(numbers(written, "unfinished")) == 15


def test_cells_of_the_page_are_the_numbers_of_the_files(written, said):
    page = (written / "report.html").read_text()
    size = page.partition('<article id="size_of_the_transfer">')[2].partition("</article>")[0]
    rows = re.findall(r"<tr>(?:<td>[^<]*</td>)+</tr>", size)
    methods = {label(method): method for method in said if method in LABELS}
    assert len(rows) == len(methods)
    for row in rows:
        cells = re.findall(r"<td>([^<]*)</td>", row)
        mean = said[methods[cells[0]]]["delta_mean"]
        shown = [f"{100 * value:+.2f}" for value in (mean.value, mean.low, mean.high)]
        assert cells[1] == "{} [{}, {}]".format(*shown).replace("-", "\N{MINUS SIGN}")


def test_cells_of_markdown_are_the_numbers_of_the_files(written):
    table = numbers(written, "table_7")
    lines = (written / "tables" / "table_7.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    place = {header: column for column, header in enumerate(rows[0])}
    for number, cells in zip(table.itertuples(), rows[2:], strict=True):
        assert cells[place["student"]] == number.student
        for header, value in (("Δ_acc", number.accuracy_difference), ("KL", number.kl)):
            shown = f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")
            assert cells[place[header]] == ("–" if np.isnan(value) else shown)


def test_the_prose_says_that_predictions_agree_only_if_they_do(tmp_path):
    sweep = sweeps.simulate(2, 2, samples=200)
    sweeps.write(tmp_path, sweep)
    path = sorted((tmp_path / "predictions").glob("*.parquet"))[0]

    def said() -> str:
        return " ".join(coverage(Material(tmp_path)))

    assert "were counted again from their predictions and agree." in said()
    table = pd.read_parquet(path)
    table.assign(student_after=table["label"]).to_parquet(path)
    assert f"1 do not agree with what is recorded (such as {path.stem})." in said()
    path.unlink()
    assert f"and agree; 1 have no predictions (such as {path.stem})." in said()


# --- other results --------------------------------------------------------------------------------


def made(tmp_path: Path, sweep: sweeps.Sweep, **options) -> str:
    """The page of a sweep."""
    sweeps.write(tmp_path, sweep, **options)
    assert report.main([str(tmp_path)]) == 0
    return (tmp_path / "analysis" / "report.html").read_text()


def test_the_smallest_sweep(tmp_path):
    page = made(tmp_path, sweeps.simulate(1, 1, methods=["kl"], samples=100))
    assert "1 of 1 planned trials finished" in page
    assert "Left out: fewer than two methods" in page and "Left out: fewer than four students" in page


def test_the_control_alone(tmp_path):
    page = made(tmp_path, sweeps.simulate(4, 1, methods=["xe"], samples=200))
    assert "Left out: no trial has a teacher" in page and "XE (control)" in page


def test_unknown_methods_and_families_and_names_that_are_no_words(tmp_path):
    """They are shown as they are, and cannot break the page."""
    effects = sweeps.EFFECTS | {"mine": sweeps.Effect(0.5)}
    names = ["</script><b>x", 'a"b', "c & d", "e|f"]
    models = sweeps.made_up(4, "student", (0.79, 0.82)).assign(family=["cnn", "ssm"] * 2, name=names)
    page = made(tmp_path, sweeps.simulate(models, 3, methods=["kl", "mine"], effects=effects, samples=300))
    assert "mine minus KL" in page and "ssm" in page
    assert "<b>x" not in page and "c &amp; d" in page
    lines = (tmp_path / "analysis" / "tables" / "table_1.md").read_text().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_what_is_not_there_is_told_and_its_older_files_are_removed(tmp_path):
    out = tmp_path / "analysis"
    sweep = sweeps.simulate(2, 2, methods=["kl"], samples=100)
    made(tmp_path, sweep)
    atlases.write(tmp_path, atlases.tables(atlases.simulate(3, 100, 5), pairs=2))
    assert report.main([str(tmp_path)]) == 0
    old = [out / "figures" / f"{name}.svg" for name in ("learning_curves", "fig_1a", "fig_5a_top_classes")]
    assert all(path.exists() for path in old)
    kept = out / "figures" / "somebodys.svg"
    kept.write_text("theirs")
    for table in ("predictions", "history", "atlas"):
        for path in (tmp_path / table).iterdir():
            path.unlink()
    page = made(tmp_path, sweep, predictions=False, history=False)
    for why in ("no trial&#39;s predictions are there", "there is no history", "no atlas is recorded"):
        assert f"Left out: {why}" in page
    assert "have no predictions (such as" in page
    assert not any(path.exists() for path in old) and kept.exists()
    names = (out / "files.txt").read_text().splitlines()
    assert sorted(names) == sorted(
        str(path.relative_to(out)) for path in out.rglob("*.*") if path not in (kept, out / "files.txt")
    )


def test_a_folder_without_results_is_refused(capsys, tmp_path):
    assert f"{tmp_path / 'none' / 'trials'}: no such folder" in refused(capsys, tmp_path / "none")
    (tmp_path / "trials").mkdir()
    assert "no trial is recorded there; run the study first" in refused(capsys, tmp_path)


def test_a_foreign_folder_is_refused(capsys, tmp_path):
    (tmp_path / "trials").mkdir()
    pd.DataFrame({"trial": ["a"], "loss": [1.0]}).to_parquet(tmp_path / "trials" / "a.parquet")
    assert "the column study is missing" in refused(capsys, tmp_path)


def test_records_of_another_version_are_refused(capsys, tmp_path):
    sweep = sweeps.simulate(2, 2, samples=100)
    sweeps.write(tmp_path, sweep, merged=1.0)
    (path,) = (tmp_path / "trials").glob("*.parquet")
    pd.read_parquet(path).drop(columns="transfer_samples").to_parquet(path)
    error = refused(capsys, tmp_path)
    assert "the column transfer_samples is missing, so another version made these records; run the" in error


@pytest.mark.parametrize("table", ["trials", "predictions", "history", "plans"])
def test_a_damaged_file_is_named(capsys, tmp_path, table):
    sweeps.write(tmp_path, sweeps.simulate(2, 2, samples=100))
    path = sorted((tmp_path / table).glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-9])
    assert str(path) in refused(capsys, tmp_path)


def test_a_damaged_or_ambiguous_atlas_is_told(capsys, tmp_path):
    sweeps.write(tmp_path, sweeps.simulate(2, 2, samples=100))
    atlases.write(tmp_path, atlases.tables(atlases.simulate(3, 100, 5), pairs=2))
    (pairs,) = (tmp_path / "pairs").glob("*.parquet")
    pairs.write_bytes(b"PAR1")
    assert str(pairs) in refused(capsys, tmp_path)
    assert "no atlas of --study other" in refused(capsys, tmp_path, "--atlas", "other")


def test_a_folder_that_cannot_be_written_is_told(capsys, tmp_path):
    sweeps.write(tmp_path, sweeps.simulate(1, 1, methods=["kl"], samples=100))
    (tmp_path / "file").write_text("in the way")
    error = refused(capsys, tmp_path, "--out", tmp_path / "file")
    assert "cannot be written" in error and "--out" in error


def test_inline_figures_follow_the_page_and_keep_their_ids_apart():
    drawing, axes = style.figure("a title")
    axes.plot([0, 1], [0, 1], color=style.BLACK)
    texts = [style.inline(style.drawn(name, drawing)[0], name, 'a "title" & more') for name in ("one", "two")]
    for name, text in zip(("one", "two"), texts, strict=True):
        assert "var(--ink)" in text and "var(--paper)" in text and style.BLACK not in text
        assert 'aria-label="a &quot;title&quot; &amp; more"' in text
        for reference in re.findall(r"(?:url\(|href=\")#([^)\"]+)", text):
            assert f'id="{reference}"' in text and reference.startswith(name)
    assert not set(re.findall(r'id="([^"]+)"', texts[0])) & set(re.findall(r'id="([^"]+)"', texts[1]))
