"""The paper's figures in its own form: against pandas, brute force over predictions, or counting by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import flips, paper_figures, reference, style
from analysis.exhibit import section
from analysis.exhibits import knowledge
from analysis.exhibits import paper_figures as exhibits
from analysis.material import Material
from analysis.measures import over_seeds, per_student
from analysis.results import load
from study.models.timm_import import timm
from tests.analysis import sweeps

CONTRASTIVE = {
    "cd": sweeps.Effect(-0.8, 0.2, 0.3, 0.3, lost=4.0),
    "crd": sweeps.Effect(-1.0, 0.2, 0.3, 0.3, lost=5.0),
}
METHODS = ["xe", "kl_dp", "crd", "kl", "xe_kl", "cd"]


@pytest.fixture(scope="module")
def papers(tmp_path_factory) -> Material:
    """The paper's 20 students from four of its teachers, with contrastive methods; no predictions."""
    students, teachers = sweeps.papers("subset10")
    effects = sweeps.EFFECTS | CONTRASTIVE
    some = teachers[teachers["name"].isin(["ConvNext", "VGG13", "ResMLP-36", "MixNet-L"])]
    folder = tmp_path_factory.mktemp("papers")
    sweep = sweeps.simulate(students, some, methods=METHODS, effects=effects, samples=800)
    return Material(sweeps.write(folder, sweep, predictions=False, history=False))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Material:
    """A few made-up models with predictions, two seeds."""
    sweep = sweeps.simulate(sweeps.made_up(4, "student", (0.79, 0.82)), 3, seeds=2, samples=900, classes=12)
    return Material(sweeps.write(tmp_path_factory.mktemp("small"), sweep))


# --- Fig. 4b ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 12), st.integers(-6, 6)), min_size=2, max_size=60))
def test_bins_of_equal_width_are_those_of_pandas_cut(pairs):
    units = pd.DataFrame(pairs, columns=["accuracy_difference", "transfer_delta"]) / 100
    units = units.assign(method="kl", student="s", teacher=[f"t{number}" for number in range(len(pairs))])
    table = paper_figures.by_equal_width(units)
    apart, deltas = units["accuracy_difference"], units["transfer_delta"]
    if apart.nunique() == 1:
        assert table["pairs"].tolist() == [len(pairs)] and table["middle"].item() == apart[0]
        return
    groups = deltas.groupby(pd.cut(apart, 8, labels=False))
    assert table["bin"].tolist() == sorted(groups.groups)
    for row in table.itertuples():
        mine = groups.get_group(row.bin)
        best = mine[mine >= mine.quantile(0.75)]
        assert (row.pairs, row.averaged) == (len(mine), len(best))
        assert row.top == pytest.approx(best.mean())
    width = (apart.max() - apart.min()) / 8
    np.testing.assert_allclose(table["middle"], apart.min() + (table["bin"] + 0.5) * width, atol=1e-12)


def test_bins_are_the_same_for_all_methods(papers):
    table = paper_figures.by_equal_width(papers.taught)
    assert table.groupby("bin")["middle"].nunique().eq(1).all()
    assert table.groupby("method")["pairs"].sum().eq(79).all()  # ResMLP-36 does not teach itself
    assert table["method"].unique().tolist() == ["kl", "xe_kl", "cd", "crd", "kl_dp"]


# --- Fig. 5 -------------------------------------------------------------------------------------------


def test_a_student_that_gains_nothing_is_drawn_high():
    shares = [0.02, 0.05, 0.2, 0.5, 1.0]
    trials = pd.DataFrame(
        {"trial": ["none", "some", "all"], "rho_pos_after": [0.1, 0.1, 0.0], "evaluation_samples": 1000}
    )
    rates = pd.DataFrame({"trial": "none", "share": shares, "gained": 0})
    curve = paper_figures.scripts_curve(rates, trials)
    np.testing.assert_allclose(curve, [0.98, 0.95, 0.8, 0.5, 0])
    gaining = pd.DataFrame({"trial": ["some", "some", "all"], "share": [0.2, 1.0, 1.0], "gained": [5, 40, 9]})
    np.testing.assert_allclose(paper_figures.scripts_curve(gaining, trials), [0.85, 0.4, np.nan])


def test_both_rates_are_those_of_the_predictions(small):
    """One trial's, class by class from what the models said."""
    trials = load(small.folder)
    row = trials[trials["method"] == "kl_dp"].iloc[0]
    said = pd.read_parquet(small.folder / "predictions").query("trial == @row.trial")
    right = {name: said[name] == said["label"] for name in ("student_before", "teacher", "student_after")}
    gained = right["student_after"] & ~right["student_before"]
    knows = right["teacher"] & ~right["student_before"]
    counts = knows.groupby(said["label"]).sum().sort_values(ascending=False, kind="stable")
    top = counts.index[: int(np.searchsorted(counts.cumsum(), 0.5 * counts.sum() - 1e-9)) + 1]
    inside = said["label"].isin(top)
    remaining = (right["teacher"] & ~right["student_after"]).sum()

    rates = flips.top_class_rates(flips.class_flips(small.folder, trials), [0.5])
    mine = rates[rates["trial"] == row["trial"]]
    assert mine["gain_rate"].item() == pytest.approx(gained[inside].sum() / knows[inside].sum())
    assert mine["transfer_rate"].item() < mine["gain_rate"].item()
    expected = 0.5 + gained[inside].sum() / remaining
    assert paper_figures.scripts_curve(mine, trials).item() == pytest.approx(expected)


def test_fig_5_shows_kl_dp_and_has_the_numbers_of_all_methods(small):
    made = {one.name: one for one in section(exhibits, small).exhibits}
    top = made["fig_5a_papers_form"].shown.numbers
    assert sorted(top["share"].unique()) == list(paper_figures.SHARES)
    assert set(top["method"]) == set(small.taught["method"])
    assert (top["scripts_curve"] > top["no_gain"]).all()
    low = top["scripts_curve_low"].dropna()
    assert len(low) and (low >= top.loc[low.index, "no_gain"]).all() and (low < top["scripts_curve"]).any()
    np.testing.assert_allclose(top["no_gain"], 1 - top["share"])
    sizes = made["fig_5b_papers_form"].statements.set_index(["subject", "measure"])
    units = small.taught[(small.taught["method"] == "kl") & (small.taught["student"] == "student-01")]
    rate = sizes.loc[("kl, student-01", "fig_5b_papers_form.gain_rate")]
    assert rate["value"] == pytest.approx((units["knowledge_gain"] / units["rho_pos_before"]).mean())
    assert rate["unit"] == "ratio"


@pytest.mark.parametrize(
    ("nothing", "note"),
    [
        ({"rho_pos_before": 0.0, "rho_pos_after": 0.0}, "Left out: no teacher got a sample right that"),
        ({"knowledge_gain": 0.0}, "Left out: no student gained anything."),
    ],
)
def test_fig_5b_without_flips_or_without_gains(tmp_path, nothing, note):
    sweep = sweeps.simulate(2, 2, methods=["kl", "kl_dp"], samples=200)
    sweep = replace(sweep, trials=sweep.trials.assign(**nothing))
    sweeps.write(tmp_path, sweep, predictions=False, history=False)
    (made,) = exhibits.fig_5b_papers_form.made(Material(tmp_path))
    assert made.note.startswith(note)


def test_fig_5_of_a_sweep_without_kl_dp_says_so(tmp_path):
    sweeps.write(tmp_path, sweeps.simulate(2, 2, methods=["kl"], samples=200))
    for exhibit in (exhibits.fig_5a_papers_form, exhibits.fig_5b_papers_form):
        (made,) = exhibit.made(Material(tmp_path))
        assert made.note == "Left out: KL+DP, of which the figure is, was not run."


# --- Fig. 6 -------------------------------------------------------------------------------------------


def test_fig_6_is_of_four_methods_from_left_to_right(papers):
    table = paper_figures.success_by_student(per_student(papers.trials))
    assert table["method"].unique().tolist() == ["xe_kl", "cd", "crd", "kl_dp"]
    assert len(table) == 4 * 20
    mine = papers.trials[(papers.trials["method"] == "cd") & (papers.trials["student"] == "PiT-B")]
    row = table[(table["method"] == "cd") & (table["student"] == "PiT-B")]
    assert row["success_rate"].item() == (mine["transfer_delta"] > 0).mean() and row["teachers"].item() == 4
    drawn = exhibits.fig_6_contrastive.made(papers)[0].shown.drawing.axes[0]
    assert [text.get_text() for text in drawn.get_xticklabels()] == ["XE-KL", "CD", "CRD", "KL+DP"]
    np.testing.assert_allclose(drawn.get_ylim(), [0, 100], atol=5)


def test_beside_fig_6_stand_gain_and_loss(papers):
    (made,) = exhibits.fig_6_gained_and_lost.made(papers)
    table = made.shown.numbers.set_index("method")
    for method in ("xe_kl", "cd", "crd", "kl_dp"):
        mine = papers.trials[papers.trials["method"] == method]
        for name in ("knowledge_gain", "knowledge_loss", "transfer_delta"):
            mean = mine[name].astype(float).mean()
            assert table.loc[method, name] == pytest.approx(mean)
            assert table.loc[method, f"{name}_low"] < mean < table.loc[method, f"{name}_high"]
        rates = (mine["transfer_delta"] > 0).groupby(mine["student"]).mean()
        assert table.loc[method, "success_median"] == rates.median()
    said = made.statements.set_index(["subject", "measure"])
    row = said.loc[("crd", "fig_6_gained_and_lost.knowledge_loss")]
    assert row[["low", "value", "high"]].is_monotonic_increasing and row["n"] == 79


def test_without_contrastive_methods_fig_6_is_left_out_and_says_why(small):
    notes = {one.name: one.note for one in section(exhibits, small).exhibits}
    for name in ("fig_6_contrastive", "fig_6_gained_and_lost"):
        assert notes[name] == "Left out: neither CD nor CRD was run."


# --- Fig. 7 -------------------------------------------------------------------------------------------


def test_fig_7_has_a_row_a_method_with_limits_of_its_own_and_all_its_pairs(papers):
    (made,) = exhibits.fig_7_papers_form.made(papers)
    methods, families = ["kl", "xe_kl", "cd", "crd", "kl_dp"], ["cnn", "transformer", "mlp"]
    panels = made.shown.drawing.axes[:15]
    numbers = made.shown.numbers
    for place, panel in enumerate(panels):
        method, family = methods[place // 3], families[place % 3]
        mine = numbers[(numbers["method"] == method) & (numbers["student_family"] == family)]
        points = np.concatenate([one.get_offsets() for one in panel.collections])
        shown = sorted(map(tuple, points.round(9)))
        assert shown == sorted(
            zip((100 * mine["knowledge_loss"]).round(9), (100 * mine["knowledge_gain"]).round(9), strict=True)
        )
        assert panel.get_xlim() == panels[3 * (place // 3)].get_xlim()
        low, high = panel.get_xlim()
        assert low <= points[:, 0].min() and points[:, 0].max() <= high
    assert len({panel.get_xlim() for panel in panels}) == 5
    areas = exhibits._area(pd.Series([0.7, 0.8, 0.9]), pd.Series([0.7, 0.9]))
    np.testing.assert_allclose(areas, [exhibits.AREAS[0], np.mean(exhibits.AREAS), exhibits.AREAS[1]])


# --- Fig. 8 -------------------------------------------------------------------------------------------


def test_the_papers_groups_are_found_by_timms_names(papers):
    for panel, groups in {"a": 4, "b": 4}.items():
        table = paper_figures.groups_of_students(papers.taught, papers.trials, panel)
        assert table["group"].nunique() == groups and set(table["method"]) == set(METHODS) - {"xe"}
        assert table.groupby(["method", "group"])["student"].nunique().ge(2).all()
    row = table[(table["method"] == "kl") & (table["student"] == "PiT-B")].iloc[0]
    mine = papers.trials[(papers.trials["method"] == "kl") & (papers.trials["student"] == "PiT-B")]
    deltas = mine["transfer_delta"].to_numpy(float)
    assert row["group"] == "Trafo 1" and row["family"] == "transformer" and row["teachers"] == 4
    assert row["transfer_delta"] == pytest.approx(deltas.mean())
    np.testing.assert_allclose(row[["q1", "q3"]].astype(float), np.quantile(deltas, [0.25, 0.75]))
    sizes = table[(table["method"] == "kl") & (table["group"] == "Trafo 1")]["parameters"]
    assert len(sizes) == 3 and sizes.is_monotonic_increasing


def test_students_of_a_group_are_compared_over_the_teachers_that_all_had(papers):
    gone = (papers.taught["student"] == "PiT-B") & (papers.taught["teacher"] == "VGG13")
    table = paper_figures.groups_of_students(papers.taught[~gone], papers.trials, "b")
    mine = table[table["group"] == "Trafo 1"]
    assert (mine["teachers"] == 3).all() and (table.loc[table["group"] == "CNN 1", "teachers"] == 4).all()
    units = papers.taught.query("method == 'kl' and student == 'XCiT-Large-24-P16' and teacher != 'VGG13'")
    found = mine[(mine["method"] == "kl") & (mine["student"] == "XCiT-Large-24-P16")]
    assert found["transfer_delta"].item() == pytest.approx(units["transfer_delta"].mean())


def test_weights_without_their_tag_are_not_the_papers(papers):
    bare = papers.trials.assign(student_timm=papers.trials["student_timm"].str.partition(".")[0])
    assert paper_figures.groups_of_students(papers.taught, bare, "a").empty


def test_groups_are_written_with_timms_present_names():
    known = reference.table("fig8_controlled_students")
    assert set(known["timm_name"]) <= set(timm.list_pretrained())
    assert known.groupby(["panel", "family", "group"]).size().tolist() == [2] * 6 + [3] * 6
    models = reference.table("models").set_index("timm_name")["family"].to_dict()
    for row in known.itertuples():
        if row.timm_name in models and not row.timm_name.startswith("mixnet"):
            assert models[row.timm_name] == row.family


def test_size_classes_lie_between_the_models_that_the_script_draws(papers):
    table = paper_figures.by_size_class(papers.taught)
    names = list(paper_figures.SIZE_CLASSES)
    for family, sizes in {
        "CNN": ["ResNet34-v1b", "ResNet101", "Wide-ResNet50-2", "IG-ResNext101-32x16d"],
        "Trafo": [None, None, "PiT-B", "XCiT-Large-24-P16"],
    }.items():
        for name, student in zip(names, sizes, strict=True):
            if student:
                mine = papers.taught[papers.taught["student"] == student].iloc[:1]
                (row,) = paper_figures.by_size_class(mine).to_dict("records")
                assert (row["class"], row["family"]) == (name, reference.FAMILIES[family])
    units = papers.taught[papers.taught["method"] == "kl"]
    chosen = units[(units["student_family"] == "mlp") & units["student_parameters"].between(3e7, 6e7 - 1)]
    row = table.query("method == 'kl' and family == 'mlp' and `class` == 'medium'").iloc[0]
    assert row["transfer_delta"] == pytest.approx(chosen["transfer_delta"].mean())
    assert row["pairs"] == len(chosen) and row["students"] == chosen["student"].nunique() > 1
    assert row["transfer_delta_low"] < row["transfer_delta"] < row["transfer_delta_high"]
    mine = table[(table["method"] == "kl") & (table["family"] == "cnn")]["class"].tolist()
    assert mine == sorted(mine, key=names.index)


# --- as a section -------------------------------------------------------------------------------------


def test_every_figure_is_drawn_and_its_numbers_are_statements(papers):
    made = section(exhibits, papers)
    without = {one.name for one in made.exhibits if one.note.startswith("Left out")}
    assert without == {"fig_5a_papers_form"}  # which needs predictions
    for one in made.exhibits:
        if one.name in without:
            continue
        assert len(one.statements) and not one.statements.duplicated(["subject", "measure"]).any()
        if one.shown.drawing is not None:
            assert "</svg>" in style.drawn(one.name, one.shown.drawing)[0]


def test_models_of_another_zoo_leave_out_what_is_of_the_papers_models_alone(small):
    notes = {one.name: one.note for one in section(exhibits, small).exhibits}
    assert "no two students here are of one of the paper's" in notes["fig_8_papers_students"]
    assert "not of two size classes" in notes["fig_8c_papers_form"]


def test_families_that_are_not_as_printed_are_told(papers, small):
    (said,) = knowledge.lines(papers)
    assert "MixNets are CNNs here" in said and said in exhibits.lines(papers)
    assert knowledge.lines(small) == [] and len(exhibits.lines(small)) == 1


def test_gain_rate_of_pairs_is_the_mean_over_seeds(small):
    units = over_seeds(load(small.folder)).query("method == 'kl'").set_index(["student", "teacher"])
    trials = load(small.folder).query("method == 'kl'")
    rate = trials["knowledge_gain"] / trials["rho_pos_before"]
    expected = rate.groupby([trials["student"], trials["teacher"]]).mean()
    np.testing.assert_allclose(units["gain_rate"].sort_index(), expected.sort_index())
