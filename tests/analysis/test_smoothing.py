"""Label smoothing: claims on results with planted effects, measures by hand, and published numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import exhibits, reference, report, smoothing, smoothing_claims, style
from analysis import smoothing_measures as measures
from analysis.exhibit import LeftOut, section
from analysis.inference import crossed_bootstrap, holm, mcnemar_exact
from analysis.material import Material
from analysis.results import ResultsError, load
from analysis.smoothing_claims import CLAIMS, MARGIN, NOT_MEASURED, Part, part
from analysis.smoothing_results import Smoothing
from tests.analysis import smoothed, sweeps
from tests.analysis.smoothed import ALPHA, CLASSES, GAIN, SAMPLES

HARD, SMOOTH = (0.0, 1), (ALPHA, 1)


# --- published ------------------------------------------------------------------------------------


def test_published_gains_are_those_that_follow_from_the_published_tables():
    assert smoothing_claims.shens_gains()["gain"].round(3).tolist() == [0.391, 0.727, 1.266, 1.445]
    gains = smoothing_claims.followups_gains()
    at_one = gains[gains["temperature"] == 1]["gain"].round(3).tolist()
    assert at_one == [0.178, 0.568, 0.777, 0.840, 0.587]
    apart = smoothing_claims.interactions()
    assert len(apart) == 15 and (apart["interaction"] < 0).sum() == 14
    of = apart.set_index(["data", "student", "temperature"])["interaction"].round(3)
    assert of["ImageNet-1K", "ResNet-18", 2] == -2.678 and of["CUB200-2011", "ResNet-50", 2] == 0.005
    assert of["ImageNet-1K", "ResNet-50", 3] == -0.266 and of["CUB200-2011", "MobileNetV2", 64] == -5.593
    best = smoothing_claims.followups_best().round(3)
    assert sorted(best) == [-0.164, 0.138, 0.178, 0.363, 0.568]


def test_table_1_is_paired_with_nothing_but_says_what_smoothing_changes():
    table = reference.table("shen2021_table1_stability")
    wide = table.pivot_table(index="network", columns="smoothing", values="one_minus_stability").dropna()
    stated = table.dropna(subset="change_by_smoothing").set_index("network")["change_by_smoothing"]
    assert (wide["yes"] - wide["no"]).round(4).to_dict() == stated.to_dict() and len(stated) == 8
    assert len(table["timm_name"].dropna()) == 6


# --- a made-up study ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> dict[str, pd.DataFrame]:
    return smoothed.distilled()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made):
    place = tmp_path_factory.mktemp("smoothing") / "distilled"
    return smoothed.write(place, {**made, "projections": smoothed.projections("smoothing")})


@pytest.fixture(scope="module")
def several(tmp_path_factory, folder) -> list:
    """The results of all studies that belong together."""
    base = tmp_path_factory.mktemp("several")
    tail = dict.fromkeys(range(CLASSES), 0.0) | dict.fromkeys(range(7, CLASSES), -0.02)
    studies = {
        "transfer": smoothed.partitioned(),
        "long_tail": smoothed.of_models("long_tail", rho=100.0, timm="mix", tail=tail, seed=4),
        "balanced": smoothed.of_models("balanced", timm="mix", gain=0.01, seed=5),
    }
    for count in (2, 5, 10):
        about = {"timm": "mix", "classes": count, "gain": 0.02 - 0.005 * np.log(count), "seed": count}
        studies[f"classes_{count}"] = smoothed.of_models(f"classes_{count}", **about)
    return [folder, *(smoothed.write(base / name, tables) for name, tables in studies.items())]


@pytest.fixture(scope="module")
def tables(folder) -> measures.Tables:
    return Smoothing([folder]).tables


@pytest.fixture(scope="module")
def together(several) -> SimpleNamespace:
    """What exhibits are made of, of all of them."""
    return SimpleNamespace(smoothing=Smoothing(several))


@pytest.fixture(scope="module")
def all_tables(together) -> measures.Tables:
    return together.smoothing.tables


@pytest.fixture(scope="module")
def found(together) -> tuple[pd.DataFrame, pd.DataFrame]:
    return together.smoothing.verdicts


def value(found, claim: str, measured: str | None = None) -> pd.Series:
    """The row of a measurement; of the main one without a name."""
    mine = found[1][found[1]["claim"] == claim]
    return (
        mine.iloc[0]
        if measured is None
        else mine[mine["measured"].str.contains(measured, regex=False)].iloc[0]
    )


def test_every_claim_of_the_specification_has_its_row(found):
    names = [*(f"C{n}" for n in range(1, 12)), "M0", "M1", "M2", "F1", "F2", "F3", "B1"]
    assert list(CLAIMS) == found[0]["claim"].tolist() == names
    for column in ("says", "measured", "supports", "refutes", "verdict", "by_itself"):
        assert found[0][column].str.len().gt(0).all()


def test_verdicts_are_those_that_were_planted(found):
    by_itself = found[0].set_index("claim")["by_itself"]
    assert by_itself.to_dict() == {
        **dict.fromkeys(["C1", "C2", "C3", "C4", "C6", "C7", "C10", "C11"], "supported"),
        **dict.fromkeys(["M2", "F1", "F2", "F3", "B1"], "supported"),
        **dict.fromkeys(["C5", "M0"], "refuted"),  # only the entropy rises; the smoothed teacher is better
        **dict.fromkeys(["C8", "M1"], "undecided"),
        "C9": NOT_MEASURED,
    }


PLANTED = [
    ("C1", None, 100 * (GAIN[SMOOTH] - GAIN[HARD]), 0.1),
    ("C2", "evaluation split", -3, 0.1),
    ("C2", "1 - S, transfer set", -4, 0.1),
    ("C2", "spread ratio, transfer set", -5, 0.1),
    # γ 0.11 lies between 0.08 (T 2, 1 - S 0.07) and 0.30 (T 4, 0.03).
    ("C2", "equal γ", 100 * (0.06 - np.interp(0.11, [0.08, 0.30], [0.07, 0.03])), 0.05),
    ("C5", "cross-entropy", 36, 0.5),
    ("C5", "KL", -4, 0.5),
    ("C5", "entropy of", 36, 0.5),
    ("C6", "error on watched", -0.6, 0.1),
    ("C7", "smoothing, at equal", 0.45, 0.15),
    ("C10", None, -0.6 - 1.0, 0.1),
    ("C11", None, -0.5, 0.1),
    ("M0", None, 100 * np.interp(0.11, [0.08, 0.30], [0.002, -0.002]) - 0.6, 0.1),
    ("M1", None, 0.6 - 0.9 + 0.3, 0.1),
    ("M2", "of teachers", -3, 0.1),
    ("M2", "of students", -2, 0.1),
    ("F1", "to 2", -1.2 - 0.2, 0.1),
    ("F1", "to 4", -2.6 + 0.2, 0.1),
    ("F1", "mean", -1.9, 0.1),
    ("F3", None, 0.4, 0.15),
    ("B1", "share with KL+DP", -10, 1),
    ("B1", "minus that among calibrated", 9, 1),
]


@pytest.mark.parametrize(("claim", "measured", "points", "near"), PLANTED, ids=lambda part: str(part)[:12])
def test_a_measurement_is_what_was_planted(found, claim, measured, points, near):
    row = value(found, claim, measured)
    assert 100 * row["value"] == pytest.approx(points, abs=near)
    assert row["low"] <= row["value"] <= row["high"]


def test_a_claim_of_several_measurements_is_as_sure_as_the_least_sure_one(found):
    table, parts = found
    assert parts["n"].gt(0).all()
    for row in table[table["n"] > 0].itertuples():
        mine = parts[(parts["claim"] == row.claim) & parts["counts"]]
        supports, refutes = mine["p_supports"].max(), min(1, len(mine) * mine["p_refutes"].min())
        assert row.p_value == pytest.approx(min(supports, refutes))
        if row.by_itself != "undecided":
            assert row.by_itself == ("supported" if supports < refutes else "refuted")
    known = table["p_value"].notna()
    assert table["p_holm"][known].to_numpy() == pytest.approx(holm(table["p_value"][known]))
    assert ((table["verdict"] == table["by_itself"]) | (table["verdict"] == "undecided")).all()
    sure = table["p_holm"] <= 0.05
    assert (table["verdict"][sure] != "undecided").all() and (
        table["verdict"][known & ~sure] == "undecided"
    ).all()


# --- parts ----------------------------------------------------------------------------------------


def test_rules_say_what_supports_and_what_refutes():
    draw = np.random.default_rng(0)
    students, twins = (
        pd.Series(label) for label in (np.repeat(list("abcdef"), 6), np.tile(list("uvwxyz"), 6))
    )
    noise = draw.normal(0, 0.001, 36)

    def of(mean: float, rule) -> Part:
        return part("", pd.Series(mean + noise - noise.mean()), students, twins, rule)

    for rule, mean, side in [
        (("above", -MARGIN), 0.0, "supports"),
        (("above", -MARGIN), -0.01, "refutes"),
        (("below", MARGIN), 0.0, "supports"),
        (("below", MARGIN), 0.01, "refutes"),
    ]:
        found = of(mean, rule)
        assert (found.supports < 0.01) == (side == "supports"), (rule, mean)
        assert (found.refutes < 0.01) == (side == "refutes"), (rule, mean)
        other = {"supports": found.refutes, "refutes": found.supports}.get(side, found.supports)
        assert other == 1
        assert (found.low, found.high) == crossed_bootstrap(mean + noise - noise.mean(), students, twins)
    near = of(-MARGIN, ("above", -MARGIN))
    assert near.supports > 0.5 or near.refutes > 0.5


def test_one_pair_has_a_value_and_no_verdict():
    one = part("", pd.Series([0.1]), pd.Series(["a"]), pd.Series(["x"]), ("above", 0.0))
    assert one.value == 0.1 and np.isnan([one.low, one.high, one.supports, one.refutes]).all()
    assert np.isnan(smoothing_claims._combined([one])["p_value"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_coefficient_is_that_of_least_squares_on_the_drawn_trials(seed):
    draw = np.random.default_rng(seed)
    design, values = np.column_stack([draw.normal(size=(12, 2)), np.ones(12)]), draw.normal(size=12)
    weights = draw.integers(0, 3, size=(5, 12)).astype(float) + np.eye(5, 12)
    found = smoothing_claims.coefficient(design, 1)(values, weights)
    for one, row in zip(found, weights.astype(int), strict=True):
        expected = np.linalg.lstsq(np.repeat(design, row, axis=0), np.repeat(values, row), rcond=None)[0]
        if np.linalg.matrix_rank(np.repeat(design, row, axis=0)) == 3:
            assert one == pytest.approx(expected[1], rel=1e-6, abs=1e-8)


def test_errors_of_teachers_left_out_are_those_of_a_loop(tables):
    table = smoothing_claims._taught(tables).reset_index(drop=True)
    errors = smoothing_claims.left_out_errors(table, ["teacher_accuracy"])
    for name in table["teacher"].unique():
        rest, out = table[table["teacher"] != name], table[table["teacher"] == name]
        centred = rest.assign(
            **{
                c: rest[c] - rest.groupby("student")[c].transform("mean")
                for c in ("accuracy", "teacher_accuracy")
            }
        )
        slope = stats.linregress(centred["teacher_accuracy"], centred["accuracy"]).slope
        means = rest.groupby("student")[["accuracy", "teacher_accuracy"]].mean()
        for row in out.itertuples():
            mean = means.loc[row.student]
            predicted = mean["accuracy"] + slope * (row.teacher_accuracy - mean["teacher_accuracy"])
            assert errors[row.Index] == pytest.approx(abs(row.accuracy - predicted))


# --- twins ----------------------------------------------------------------------------------------


def test_pairs_are_of_one_twin_student_seed_and_method(tables, made):
    pairs = measures.student_pairs(measures.distilled(tables), ALPHA)
    assert len(pairs) == 3 * smoothed.TWINS * smoothed.STUDENTS
    of = made["trials"].set_index("trial")
    for row in pairs.itertuples():
        hard, smooth = of.loc[row.trial_hard], of.loc[row.trial_smooth]
        for column in ("student", "method", "seed", "teacher_twin"):
            assert hard[column] == smooth[column]
        assert hard["teacher_label_smoothing"] == 0 and smooth["teacher_label_smoothing"] == ALPHA
        difference = smooth["student_accuracy_after"] - hard["student_accuracy_after"]
        assert row.difference == pytest.approx(difference)


def test_a_teacher_without_a_twin_is_left_out_and_counted(tables):
    assert measures.lonely(tables) == 1
    pairs = measures.student_pairs(measures.distilled(tables), ALPHA)
    assert "alone" not in {*pairs["teacher_hard"], *pairs["teacher_smooth"]}
    unknown = tables.trials.assign(twin=tables.trials["twin"].where(tables.trials["twin"] != "twin0"))
    assert measures.lonely(replace(tables, trials=unknown)) == 3
    of_kl = unknown[unknown["objective"] == "kl"]
    assert set(measures.student_pairs(of_kl, ALPHA)["twin"]) == {"twin1", "twin2", "twin3"}


def test_mcnemar_counts_samples_that_one_student_alone_gets_right(tables, made):
    pairs = measures.student_pairs(measures.distilled(tables), ALPHA)
    table = measures.mcnemar(pairs, tables.right)
    assert table["p_value"].notna().tolist() == (table["temperature"] == 1).tolist()
    said = made["predictions"].assign(right=lambda of: of["student_after"] == of["label"])
    said = said.set_index(["trial", "index"])["right"]
    for row in table[table["temperature"] == 1].head(3).itertuples():
        hard, smooth = said[row.trial_hard], said[row.trial_smooth]
        assert (row.gained, row.lost) == ((smooth & ~hard).sum(), (hard & ~smooth).sum())
        assert row.p_value == mcnemar_exact(row.gained, row.lost)
        assert (row.gained - row.lost) / SAMPLES == pytest.approx(row.difference)


def test_equal_softness_is_interpolated_between_two_temperatures_and_not_beyond(tables):
    trials = measures.distilled(tables)
    found = measures.at_equal_softness(trials, ALPHA, "accuracy")
    row = found.iloc[0]
    mine = trials[(trials["student"] == row["student"]) & (trials["twin"] == row["twin"])]
    hard = mine[mine["alpha"] == 0].set_index("temperature")["accuracy"]
    share = (0.11 - 0.08) / (0.30 - 0.08)
    assert row["hard"] == pytest.approx((1 - share) * hard[2] + share * hard[4])
    sharp = trials["teacher_off_target"].where(trials["alpha"] == 0, 0.9)
    assert measures.at_equal_softness(trials.assign(teacher_off_target=sharp), ALPHA, "accuracy").empty


def test_the_loss_is_split_into_kl_and_the_teachers_entropy(tables, made):
    epochs = measures.losses(tables, measures.distilled(tables))
    history = made["history"].set_index(["trial", "epoch"])
    for row in epochs.groupby("temperature").head(2).itertuples():
        raw = history.loc[(row.trial, row.epoch)]
        assert row.kl == pytest.approx(raw["loss"] / row.temperature**2)
        assert row.cross_entropy == pytest.approx(row.kl + raw["teacher_entropy"])
        assert row.watched_error == pytest.approx(1 - raw["watched_accuracy"])


def test_only_kl_alone_at_one_temperature_counts_as_distillation(tables):
    trials = tables.trials
    assert set(measures.distilled(tables)["method"]) == {"kl_t1", "kl_t2", "kl_t4"}
    own = trials.assign(plain=trials["method"] != "kl_t4")
    assert set(measures.distilled(replace(tables, trials=own))["method"]) == {"kl_t1", "kl_t2"}
    with pytest.raises(LeftOut, match="trained student"):
        measures.distilled(tables, scratch=False)


def test_trials_of_searches_and_of_several_teachers_and_failed_ones_are_left_out(made):
    trials = made["trials"].copy()
    trials.loc[0, "search"], trials.loc[1, "combine"], trials.loc[2, "status"] = "kl", "parallel", "failed"
    kept = measures.prepared(trials)["trial"]
    assert kept.tolist() == trials["trial"].iloc[3:].tolist()


def test_the_students_own_temperature_is_none_of_the_teachers(made):
    softened = measures.prepared(made["trials"].assign(student_temperature=1.0))
    of_kl = softened[softened["objective"] == "kl"]
    assert of_kl["plain"].tolist() == (of_kl["temperature"] == 1).tolist()


# --- classes --------------------------------------------------------------------------------------


def test_similar_classes_are_named_by_other_models(tables, made):
    similar = measures.similar_pairs(tables)
    mine = similar[similar["twin"] == "twin0"]
    others = [f"smoothing/{name}" for name in ("hard_1", "hard_2", "hard_3", "alone")]
    soft = made["soft_labels"]
    soft = soft[soft["id"].isin(others)].groupby(["class", "other"])["probability"].mean()
    both = {(a, b): soft[a, b] + soft[b, a] for a, b in itertools.combinations(range(CLASSES), 2)}
    expected = sorted(both, key=both.get)[-smoothed.SIMILAR :]
    assert {*zip(mine["class"], mine["other"], strict=True)} == {*expected}


def test_distances_are_means_of_both_ways_and_of_one_where_the_other_is_not_kept(made):
    one = made["centres"][made["centres"]["id"] == "smoothing/hard_1"]
    found = measures.distances(one).set_index(["class", "other"])
    assert [*found.index] == [*itertools.combinations(range(CLASSES), 2)]
    assert found["equidistance"].to_numpy() == pytest.approx(0.105)
    given = one.set_index(["class", "other"])["relative_distance"]
    assert found["relative_distance"].to_dict() == pytest.approx(given[found.index].to_dict())
    lower = measures.distances(one[one["class"] > one["other"]]).set_index(["class", "other"])
    assert [*lower.index] == [*found.index] and lower["equidistance"].to_numpy() == pytest.approx(0.10)


def test_orders_of_soft_labels_are_spearmans_of_each_class(tables, made):
    row = measures.label_orders(tables, ALPHA).set_index("twin").loc["twin1"]
    soft = made["soft_labels"].set_index(["id", "class", "other"])["probability"]

    def order(first: str, second: str) -> float:
        rhos = []
        for c in range(CLASSES):
            others = [o for o in range(CLASSES) if o != c]
            both = [[soft[f"smoothing/{name}", c, o] for o in others] for name in (first, second)]
            rhos.append(stats.spearmanr(*both).statistic)
        return np.mean(rhos)

    assert row["between_twins"] == pytest.approx(order("hard_1", "smooth_1"))
    seeds = [order("hard_1", other) for other in ("hard_0", "hard_2", "hard_3", "alone")]
    assert row["between_seeds"] == pytest.approx(np.mean(seeds))


def test_the_diffusion_index_is_that_of_a_loop(tables, made):
    table = measures.diffusion(tables, ALPHA)
    row = table[(table["side"] == "smooth") & (table["temperature"] == 4)].iloc[0]
    trials = measures.distilled(tables)
    mine = trials[(trials["student"] == row["student"]) & (trials["twin"] == row["twin"])]
    mine = mine[mine["alpha"] == ALPHA].set_index("temperature")["trial"]
    similar = measures.similar_pairs(tables)
    similar = similar[similar["twin"] == row["twin"]]
    similar = {*zip(similar["class"], similar["other"], strict=True)}
    centres = made["centres"].set_index(["id", "class", "other"])["relative_distance"]

    def mean(trial: str, c: int, kind: bool) -> float:
        others = [o for o in range(CLASSES) if o != c and ((min(c, o), max(c, o)) in similar) == kind]
        return np.mean([centres[trial, c, o] for o in others]) if others else np.nan

    for kind, column in ((True, "similar"), (False, "other")):
        of = [
            1 - mean(mine[4], c, kind) / mean(mine[1], c, kind)
            for c in range(CLASSES)
            if any(c in pair for pair in similar)
        ]
        assert row[column] == pytest.approx(np.mean(of))


# --- several studies ------------------------------------------------------------------------------


def test_a_long_tail_has_its_control_and_no_other(all_tables):
    tailed, control = measures.long_tails(all_tables, ALPHA)
    assert set(tailed["study"]) == {"long_tail"} and set(control["study"]) == {"balanced"}
    assert set(tailed["imbalance"]) == {100.0} and len(tailed) == len(control) == smoothed.TWINS


def test_classes_of_a_long_tail_are_ordered_by_their_images(all_tables):
    table = measures.by_class_size(all_tables, ALPHA)
    assert table["class"].tolist() == list(range(CLASSES)) and table["images"].is_monotonic_decreasing
    assert table["part"].tolist() == ["head"] * 4 + ["middle"] * 3 + ["tail"] * 3
    assert table["difference"].tolist() == pytest.approx([0] * 7 + [-0.02] * 3)


def test_a_series_is_of_studies_that_differ_in_their_classes(all_tables):
    pairs = measures.by_classes(all_tables, ALPHA)
    assert set(pairs["study"]) == {"classes_2", "classes_5", "classes_10"}
    assert set(pairs["series_hard"]) == {"classes"}


def test_models_that_were_trained_longer_are_compared_with_shorter_ones(made):
    models = made["models"].reindex(columns=[*dict.fromkeys([*measures.MODELS, *made["models"]])])
    longer = models.assign(
        name=models["name"] + "_long",
        model=models["model"] + "_long",
        spec=models["spec"].str.replace('"epochs": 20', '"epochs": 40'),
        intra_class_variance=models["intra_class_variance"] - 0.02,
        spread_ratio=models["spread_ratio"] + 0.01,
    )
    again = models.assign(study="another", model=models["model"] + "_again")
    both = pd.concat([models, again, longer.assign(study="another")], ignore_index=True)
    pairs = measures.longer(measures.Tables(*[both] * 6, right={}))
    assert len(pairs) == smoothed.TWINS + 1  # unsmoothed ones, the one without a twin too
    assert (pairs["amount_less"] == 20).all() and (pairs["amount_more"] == 40).all()
    parts = smoothing_claims.c9(measures.Tables(*[both] * 6, right={}), ALPHA)
    assert [round(one.value, 4) for one in parts[:2]] == [-0.02, 0.01]
    assert smoothing_claims._combined([one for one in parts if one.counts])["side"] == "refuted"


def test_models_that_were_trained_with_cutmix_are_compared_with_those_without(made):
    """As a recipe has it: the first of a study's transforms, with its setting, among others."""
    models = made["models"].reindex(columns=[*dict.fromkeys([*measures.MODELS, *made["models"]])])
    phase = '"epochs": 20, "transforms": [{"flip": {}}]'
    models["spec"] = models["spec"].str.replace('"epochs": 20', phase)
    mixed = models.assign(
        name=models["name"] + "_mixed",
        model=models["model"] + "_mixed",
        spec=models["spec"].str.replace("}]", '}, {"cutmix": {"alpha": 1.0}}]', n=1, regex=False),
        intra_class_variance=models["intra_class_variance"] + 0.03,
    )
    tables = measures.Tables(*[pd.concat([models, mixed], ignore_index=True)] * 6, right={})
    pairs = measures.cut_mixed(tables)
    assert len(pairs) == smoothed.TWINS + 1
    assert (pairs["amount_less"] == 0).all() and (pairs["amount_more"] == 1).all()
    parts = {one.measured: one for one in smoothing_claims.c9(tables, ALPHA)}
    assert parts["1 - S, with CutMix minus without"].value == pytest.approx(0.03)
    assert np.isnan(parts["1 - S, trained longer minus shorter"].value)
    with pytest.raises(LeftOut, match="differ in epochs alone"):
        smoothing_claims.c9(measures.Tables(*[models] * 6, right={}), ALPHA)


def test_a_series_is_compared_at_one_share_of_each_other_class(several):
    """α = 0.1 of 10 classes beside 0.05 of 5: what gains +2 and +1 points has a slope of 1 / log 2."""
    folders = [folder for folder in several if folder.name in ("classes_5", "classes_10")]
    models = pd.concat([pd.read_parquet(folder / "models") for folder in folders], ignore_index=True)
    models = models.reindex(columns=[*dict.fromkeys([*measures.MODELS, *models])])
    with pytest.raises(LeftOut, match="one α/K"):
        measures.by_classes_at_equal_share(measures.Tables(*[models] * 6, right={}))
    smooth = (models["label_smoothing"] > 0) & (models["study"] == "classes_5")
    equal = models[smooth].assign(label_smoothing=0.05, accuracy=models["accuracy"] + 0.1)
    tables = measures.Tables(*[pd.concat([models, equal], ignore_index=True)] * 6, right={})
    pairs = measures.by_classes_at_equal_share(tables)
    assert set(zip(pairs["classes_hard"], pairs["label_smoothing_smooth"], strict=True)) == {
        (5, 0.05),
        (10, 0.1),
    }
    gains = pairs.groupby("classes_hard")["difference"].mean()
    known, found = smoothing_claims.c11(tables, ALPHA)
    assert found.value == pytest.approx((gains[10] - gains[5]) / np.log(2)) and not found.counts
    assert found.value < known.value


# --- pages ----------------------------------------------------------------------------------------


def test_one_command_says_every_claim_and_each_number_is_in_a_file(several, together, tmp_path, capsys):
    assert smoothing.main([*map(str, several), "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "report.md").read_text()
    rows = pd.read_csv(tmp_path / "tables" / "smoothing_claims.csv").set_index("claim")
    for name, claim in CLAIMS.items():
        assert f"{name}, " in said and claim.claim in said
        row = rows.loc[name]
        if row["verdict"] != NOT_MEASURED:
            assert f"{name}, {row['verdict']}: {claim.claim}. Measured: {row['measured']}" in said
            shown = 100 * row["value"] if row["unit"] == "fraction" else row["value"]
            form = "+.2f" if row["unit"] == "fraction" else "+.3f"
            assert f"{shown:{form}}".replace("-", "−") in said
    assert "C9, longer training and CutMix raise S: not measured: no unsmoothed models" in said
    for one in section(exhibits.smoothing, together).exhibits:
        assert one.note.startswith("Left out: ") == (one.name == "smoothing_anchors")
        for name in one.files:
            assert (tmp_path / name).exists(), name
        assert one.title in text
    statements = pd.read_parquet(tmp_path / "statements.parquet")
    assert "smoothing_claims.value" in set(statements["measure"])


def test_the_section_is_in_the_report_of_a_study_of_students_from_scratch(folder, tmp_path, monkeypatch):
    plain = style.drawn("plain", style.figure("plain")[0])
    monkeypatch.setattr(style, "drawn", lambda name, drawing: plain)
    said, _ = report.report(Material(folder), tmp_path)
    assert "claims on label smoothing" in said
    page = (tmp_path / "report.html").read_text()
    assert '<section id="smoothing"' in page and "fig_4a_success_rates" not in page
    assert "1 teacher without a twin of another smoothing is left out" in page


def test_students_from_scratch_are_in_no_success_rate(folder, several):
    with pytest.raises(ResultsError, match="students from scratch"):
        load(folder)
    alone = Material(folder)
    assert alone.all_tested.empty and alone.by_method.empty
    trained = Material(several[1])
    assert section(exhibits.smoothing, trained) is not None


def test_results_without_smoothing_have_no_section_and_nothing_is_read(tmp_path, monkeypatch):
    trials = sweeps.simulate(2, 2, methods=["xe", "kl"], samples=200)
    results = sweeps.write(tmp_path / "plain", trials, predictions=False)
    old = Material(results)
    monkeypatch.setattr("analysis.smoothing_results.results.read", None)  # whatever is read would fail
    assert section(exhibits.smoothing, old) is None
    with pytest.raises(LeftOut, match="no model is known"):
        old.smoothing  # noqa: B018


def test_of_older_results_what_is_not_recorded_is_left_out_with_why(made, tmp_path):
    """Trials without the measures and tables that came later: a value a claim, or why there is none."""
    trials = made["trials"].drop(columns=["teacher_off_target", "teacher_intra_class_variance"])
    few = {"trials": trials, "history": made["history"].drop(columns=["teacher_entropy", "watched_accuracy"])}
    own = Smoothing([smoothed.write(tmp_path / "few", few)])
    table = own.verdicts[0].set_index("claim")
    assert table.loc[["C1", "C7", "F1", "M1"], "n"].gt(0).all()
    for name, why in {
        "C2": "jobs/atlas.py",
        "C3": "`geometry`",
        "C5": "teacher's entropy by epoch",
        "C6": "watches no images",
        "C10": "`data.splits.imbalance`",
        "M0": "softer and less soft",
        "B1": "trained student",
    }.items():
        assert table.loc[name, "verdict"] == NOT_MEASURED and why in table.loc[name, "measured"]
    made_of = SimpleNamespace(smoothing=own)
    notes = {one.name: one.note for one in section(exhibits.smoothing, made_of).exhibits}
    assert "jobs/atlas.py STUDY --measure" in notes["smoothing_stability"]


def test_a_claim_is_not_supported_without_a_measurement_that_it_rests_on(made, tmp_path):
    models = made["models"].drop(columns=["transfer_spread_ratio"])
    place = smoothed.write(tmp_path / "some", {**made, "models": models, "centres": made["centres"].iloc[:0]})
    own = Smoothing([place])
    row = own.verdicts[0].set_index("claim").loc["C2"]
    assert row["by_itself"] == row["verdict"] == "undecided" and row["n"] == smoothed.TWINS
    mine = value(own.verdicts, "C2", "spread ratio, transfer set")
    assert mine["n"] == 0 and "transfer_spread_ratio is not recorded; jobs/atlas.py" in mine["remark"]
    (line,) = (line for line in smoothing.lines(*own.verdicts) if line.startswith("C2"))
    assert "spread ratio, transfer set (not measured: transfer_spread_ratio is not recorded" in line
    # What refutes it refutes it all the same.
    higher = own.tables.models.assign(
        intra_class_variance=lambda of: -of["intra_class_variance"].astype(float)
    )
    parts = smoothing_claims.c2(replace(own.tables, models=higher), ALPHA)
    found = smoothing_claims._combined([one for one in parts if one.counts])
    assert found["side"] == "refuted" and found["p_value"] < 0.05


def test_what_the_atlas_keeps_of_all_other_classes_together_is_no_class(made, tmp_path):
    rest = made["soft_labels"].drop_duplicates(["id", "class"]).assign(other=None, probability=0.9)
    soft = pd.concat([made["soft_labels"], rest], ignore_index=True).astype({"other": "Int32"})
    own = Smoothing([smoothed.write(tmp_path / "kept", {**made, "soft_labels": soft})])
    plain = made["soft_labels"].sort_values(["id", "class", "other"], ignore_index=True)
    found = own.tables.soft_labels.sort_values(["id", "class", "other"], ignore_index=True)
    pd.testing.assert_frame_equal(found, plain, check_dtype=False)


def test_untrained_models_are_in_no_figure_of_stability(made, tmp_path):
    models = made["models"].assign(source=["seed", *["trained"] * (len(made["models"]) - 1)])
    own = Smoothing([smoothed.write(tmp_path / "seeds", {**made, "models": models})])
    (one,) = exhibits.smoothing.smoothing_stability.made(SimpleNamespace(smoothing=own))
    assert sorted(one.shown.numbers["name"]) == sorted(models["name"].iloc[1:])


def test_what_is_no_result_is_told_in_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert smoothing.main([str(tmp_path / "empty")]) == 2
    assert "neither trials nor models are recorded" in capsys.readouterr().err
    plain = sweeps.write(
        tmp_path / "plain", sweeps.simulate(2, 2, methods=["kl"], samples=200), predictions=False
    )
    assert smoothing.main([str(plain)]) == 2
    error = capsys.readouterr().err
    assert "no teacher is known to be trained with smoothed labels" in error and "name the results" in error


def test_a_damaged_file_of_predictions_is_named(made, tmp_path):
    place = smoothed.write(tmp_path / "damaged", made)
    path = place / "predictions" / "merged-0.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ResultsError, match=r"merged-0\.parquet: not a readable record"):
        Smoothing([place]).tables  # noqa: B018


def test_the_anchors_say_which_reading_is_the_published_one(made, tmp_path):
    printed = reference.table("shen2021_table1_stability").dropna(subset="timm_name")
    models = (
        made["models"]
        .iloc[[0] * len(printed)]
        .assign(
            timm=printed["timm_name"].to_numpy(),
            name=printed["network"].to_numpy(),
            model=printed["network"].to_numpy(),
            true_class_sd=printed["one_minus_stability"].to_numpy() + 0.002,
        )
    )
    own = Smoothing([smoothed.write(tmp_path / "anchors", {**made, "models": models})])
    (one,) = exhibits.smoothing.smoothing_anchors.made(SimpleNamespace(smoothing=own))
    assert "Within 0.003 of all six: true_class_sd." in one.note
    assert one.shown.numbers["true_class_sd"].notna().all()
    fewer = Smoothing([smoothed.write(tmp_path / "fewer", {**made, "models": models.iloc[1:]})])
    (one,) = exhibits.smoothing.smoothing_anchors.made(SimpleNamespace(smoothing=fewer))
    assert "Within 0.003 of all six: none." in one.note
