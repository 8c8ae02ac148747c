"""The atlas: each measure against loops or another formula; the real command on good and bad folders."""

import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import xlogy

from analysis import atlas_measures as measures
from analysis import report, text
from analysis.atlas_results import load_atlas
from analysis.atlas_statements import statements
from analysis.exhibit import section
from analysis.exhibits import atlas as told
from analysis.exhibits import atlas_paper
from analysis.material import Material
from analysis.results import ResultsError
from tests.analysis import atlases
from tests.conftest import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
FIGURES = [
    *("fig_1a", "fig_1b", "fig_2a", "fig_2b", "heatmap"),
    *("fig_1b_paper", "fig_2a_paper", "fig_2b_paper"),
]


def command(*arguments):
    line = [sys.executable, str(ROOT / "analysis" / "report.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, cwd="/", check=False)


def refused(*arguments):
    """Run the command on bad input; returns the one sentence it must say."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    *progress, sentence = done.stderr.splitlines()
    assert sentence.startswith("error: ") and all(line.startswith("report: ") for line in progress)
    return sentence


def sentences(results, gap=5.0):
    """What is said of the atlas in a folder, by subject."""
    return dict(line.split(": ", 1) for line in told.lines(Material(results, gap=gap)))


@pytest.fixture(scope="module")
def zoo():
    """Seven models, two of them of one accuracy, and two untrained ones, on 120 samples of 6 classes."""
    zoo = atlases.simulate(7, 120, 6, untrained=2)
    # Model 6 is right where model 3 is wrong, on two samples each way: equal, but not the same.
    zoo["predicted"][6] = zoo["predicted"][3]
    right = zoo["predicted"][3] == zoo["labels"]
    for picked, answer in ((np.flatnonzero(right)[:2], 1), (np.flatnonzero(~right)[:2], 0)):
        zoo["predicted"][6, picked] = (zoo["labels"][picked] + answer) % 6
    return zoo


@pytest.fixture(scope="module")
def content(zoo):
    return atlases.tables(zoo, embeddings=atlases.meanings(6, groups=3))


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    return atlases.write(tmp_path_factory.mktemp("atlas"), content)


@pytest.fixture(scope="module")
def atlas(folder):
    return load_atlas(folder)


@pytest.fixture(scope="module")
def right(zoo):
    return zoo["predicted"] == zoo["labels"]


@pytest.fixture(scope="module")
def table(atlas):
    table = statements(atlas, 3)
    pair = table["level"].str.contains(" teaching ")
    level = table["level"].where(~pair & (table["level"] != "all"), "")
    names = table["measure"] + ("_" + level).where(level != "", "")
    return table.assign(name=names).set_index("name")


def ordered(count):
    return list(itertools.permutations(range(count), 2))  # (student, teacher)


# ---------------------------------------------------------------- reading


def test_matrices_hold_what_the_predictions_say(atlas, zoo, right):
    assert (atlas.study, atlas.split, atlas.samples, atlas.classes) == ("demo", "test", 120, 6)
    assert list(atlas.models["name"]) == list(zoo["names"][:7])
    assert list(atlas.untrained["name"]) == ["random-0", "random-1"]
    assert atlas.embedder == "minilm: names in a sentence" and atlas.embeddings.shape == (6, 16)
    assert atlas.class_names == [f"class {c}" for c in range(6)]
    assert atlas.class_samples.tolist() == [20] * 6
    for s, t in ordered(7):
        flips = [bool(right[t, i] and not right[s, i]) for i in range(120)]
        assert atlas.rho_pos[s, t] == sum(flips) / 120
        counts = [sum(flips[c::6]) for c in range(6)]  # labels are 0, 1, ... 5, 0, 1, ...
        if sum(flips):
            assert atlas.flip_entropy[s, t] == pytest.approx(stats.entropy(counts) / math.log(6))
        agree = [a == b for a, b in zip(zoo["predicted"][s], zoo["predicted"][t], strict=True)]
        assert atlas.agreement[s, t] == sum(agree) / 120
        (place,) = np.flatnonzero((atlas.class_pairs == (s, t)).all(axis=1))
        assert atlas.class_flips[place].tolist() == counts
    assert np.isnan(np.diag(atlas.rho_pos)).all()
    assert len(atlas.class_pairs) == 42
    for s, t in itertools.product(range(7), range(2)):
        assert atlas.untrained_rho_pos[s, t] == (right[7 + t] & ~right[s]).mean()


def test_delta_and_disagreement(atlas, right):
    delta, apart = measures.accuracy_difference(atlas.rho_pos), measures.disagreement(atlas.rho_pos)
    for s, t in ordered(7):
        assert delta[s, t] == pytest.approx(right[t].mean() - right[s].mean())
        assert apart[s, t] == pytest.approx((right[t] != right[s]).mean())


def test_models_of_before_are_left_out_and_failed_ones_listed(content, tmp_path):
    models = content["models"].copy()
    names = ["accuracy", "parameters"]
    failed = models.iloc[[0, 1]].assign(
        model=["id-b", "id-a"], name=["b", "a"], status="failed", reason=["no weights", "NaN"]
    )
    failed[names] = None
    old = models.iloc[[0]].assign(model="id-old", name="old")
    ids = pd.concat([models["model"], failed["model"]])
    changed = content | {
        "models": pd.concat([models, failed, old]),
        "atlas": pd.DataFrame({"model": ids, "study": "demo"}),
    }
    atlas = load_atlas(atlases.write(tmp_path, changed))
    assert len(atlas.models) == 7
    assert told.failures(atlas) == ["a: NaN", "b: no weights"]


def test_a_study_is_chosen_by_name(content, tmp_path):
    atlases.write(tmp_path, content)
    for table in set(content) - {"models"}:
        files = tmp_path / table
        (files / "other.parquet").write_bytes((files / "demo.parquet").read_bytes())
    assert load_atlas(tmp_path, "other").study == "other"
    with pytest.raises(ResultsError, match=r"atlas: there are the atlases of demo, other; choose .* --study"):
        load_atlas(tmp_path)
    with pytest.raises(ResultsError, match="no atlas of --study third; there is demo, other"):
        load_atlas(tmp_path, "third")


# ---------------------------------------------------------------- measuring


def test_a_gap_and_a_level_include_their_bounds_despite_floating_point():
    delta = np.array([[0.80 - 0.85, 0.01 + 1e-15], [-0.0499, np.nan]])
    assert measures.weaker_by(delta, 5).tolist() == [[True, False], [False, False]]
    assert measures.levels(delta).tolist() == [["weaker", "equal"], ["weaker", None]]


numbers = st.lists(st.integers(-50, 50), min_size=12, max_size=12)


@given(numbers, numbers)
def test_correlation_parts_add_up_over_any_pairs(rho_pos, delta):
    rho_pos, delta = np.array(rho_pos) / 100, np.array(delta) / 100
    identity, rest = measures.correlation_parts(rho_pos, delta)
    if rho_pos.std() < 1e-12 or delta.std() < 1e-12:
        assert math.isnan(identity) and math.isnan(rest)
        return
    assert identity + rest == pytest.approx(np.corrcoef(rho_pos, delta)[0, 1])
    scale = rho_pos.std() * delta.std()
    assert identity == pytest.approx(delta.var() / 2 / scale)
    apart = 2 * rho_pos - delta
    assert rest == pytest.approx(np.cov(apart, delta, bias=True)[0, 1] / 2 / scale, abs=1e-9)


@given(st.lists(st.integers(0, 30), min_size=16, max_size=16))
def test_over_all_ordered_pairs_the_correlation_is_an_identity(flips):
    rho_pos = np.array(flips, float).reshape(4, 4) / 100
    np.fill_diagonal(rho_pos, np.nan)
    delta = measures.accuracy_difference(rho_pos)
    identity, rest = measures.correlation_parts(rho_pos, delta)
    if not math.isnan(identity):
        known = np.isfinite(rho_pos)
        assert identity == pytest.approx(np.corrcoef(rho_pos[known], delta[known])[0, 1])
        assert rest == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("flips", "classes"), [(1, 2), (2, 2), (5, 3), (7, 3), (4, 5)])
def test_expected_entropy_equals_all_draws(flips, classes):
    entropies = [
        stats.entropy(np.bincount(drawn, minlength=classes)) / math.log(classes)
        for drawn in itertools.product(range(classes), repeat=flips)
    ]
    assert measures.expected_entropy(flips, classes) == pytest.approx(np.mean(entropies), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 1_000])
def test_expected_entropy_of_many_flips_equals_the_whole_sum(classes):
    flips = np.array([[0, 3], [700, 30_000]])
    found = measures.expected_entropy(flips, classes)
    assert math.isnan(found[0, 0])
    for n, value in [(3, found[0, 1]), (700, found[1, 0]), (30_000, found[1, 1])]:
        x = np.arange(n + 1)
        whole = stats.binom.pmf(x, n, 1 / classes) @ xlogy(x, x)
        assert value == pytest.approx((math.log(n) - classes / n * whole) / math.log(classes), abs=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(2, 40))
def test_expected_entropy_is_that_of_simulated_flips(flips, classes):
    drawn = np.random.default_rng(flips).multinomial(flips, np.full(classes, 1 / classes), size=400)
    entropies = stats.entropy(drawn, axis=1) / math.log(classes)
    found = measures.expected_entropy(flips, classes)
    assert 0 <= found <= 1
    assert found <= measures.expected_entropy(flips + 1, classes)
    assert found == pytest.approx(entropies.mean(), abs=5 * entropies.std() / 20 + 1e-9)


def test_sorted_shares_and_what_chance_makes_of_them():
    flips = np.array([[1, 6, 3], [0, 0, 0], [2, 2, 2]])
    shares = measures.sorted_shares(flips)
    np.testing.assert_allclose(shares[[0, 2]], [[0.6, 0.3, 0.1], [1 / 3] * 3])
    assert np.isnan(shares[1]).all()
    drawn = measures.uniform_shares(np.array([1, 2, 0, 9_000]), 3, draws=2_000)
    np.testing.assert_allclose(drawn[0], [1, 0, 0])
    np.testing.assert_allclose(drawn[1], [2 / 3, 1 / 3, 0], atol=0.02)  # one time in three on one class
    assert np.isnan(drawn[2]).all()
    np.testing.assert_allclose(drawn[3], 1 / 3, atol=0.01)
    np.testing.assert_array_equal(drawn, measures.uniform_shares(np.array([1, 2, 0, 9_000]), 3, draws=2_000))
    assert measures.uniform_shares(np.zeros(0, int), 3).shape == (0, 3)
    assert [measures.top_count(classes) for classes in (2, 10, 100, 1_000)] == [1, 2, 20, 200]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=9), st.integers(0, 99))
def test_top_classes_and_their_similarity_by_loops(flips, seed):
    classes = len(flips)
    embeddings = np.abs(np.random.default_rng(seed).normal(size=(classes, 4)))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)

    def similarity(chosen):
        return np.mean([embeddings[a] @ embeddings[b] for a, b in itertools.combinations(chosen, 2)])

    sizes = measures.top_classes(np.array([flips]))[0]
    ratios = measures.relative_similarity(np.array([flips]), embeddings)[0]
    ranked = sorted(range(classes), key=lambda c: (-flips[c], c))
    for percent, size, ratio in zip(measures.TOP_PERCENT, sizes, ratios, strict=True):
        enough = [
            k
            for k in range(1, classes + 1)
            if sum(flips[c] for c in ranked[:k]) * 100 >= percent * sum(flips)
        ]
        assert size == (min(enough) if sum(flips) else 0)
        if size < 2:
            assert math.isnan(ratio)
        else:
            assert ratio == pytest.approx(similarity(ranked[:size]) / similarity(range(classes)))


def test_random_top_classes_are_as_alike_as_all_on_average():
    flips = np.random.default_rng(0).permuted(np.tile(np.arange(1, 31), (3_000, 1)), axis=1)
    ratios = measures.relative_similarity(flips, atlases.meanings(30))
    assert np.isfinite(ratios[:, 2:]).all()
    np.testing.assert_allclose(ratios[:, 2:].mean(axis=0), 1, atol=0.05)
    groups = np.where(np.arange(30) % 10 == 3, 10, 0)[None]  # the three classes of one group
    assert (measures.relative_similarity(groups, atlases.meanings(30))[0, 4] > 1.5).all()


def test_a_similarity_that_is_not_positive_gives_no_ratio():
    opposite = np.array([[1.0, 0], [-1, 0], [0, 1]])
    assert np.isnan(measures.relative_similarity(np.array([[2, 2, 2]]), opposite)).all()


def test_clusters_keep_families_together_and_neighbours_alike():
    families = np.array(["b", "a", "b", "b", "a", "b", "c"])
    kind = np.array([0, 0, 1, 0, 1, 1, 0])
    distance = 0.1 + 0.5 * (kind[:, None] != kind)
    order, sizes = measures.clustered(distance, families)
    assert sorted(order) == list(range(7)) and sizes == {"a": 2, "b": 4, "c": 1}
    assert "".join(families[order]) == "aabbbbc"
    b = kind[order[2:6]]
    assert abs(np.diff(b)).sum() == 1  # the two kinds are not mixed


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(2, 40), st.integers(0, 99))
def test_the_map_is_that_of_the_principal_components_of_what_is_right(models, samples, seed):
    right = np.random.default_rng(seed).random((models, samples)) < 0.7
    apart = (right[:, None] != right[None]).mean(axis=2)
    places, shares = measures.scaled(apart)
    centred = (right - right.mean(axis=0)) / np.sqrt(samples)
    if not centred.any():
        assert np.isnan(shares).all() and not places.any()
        return
    singular = np.linalg.svd(centred, compute_uv=False)
    expected = np.zeros(2)
    expected[: min(2, models)] = (singular**2 / (singular**2).sum())[:2]
    np.testing.assert_allclose(shares, expected, atol=1e-9)
    np.testing.assert_allclose((places**2).sum(axis=0), expected * (singular**2).sum(), atol=1e-9)
    flat = (places[:, None] - places[None]) ** 2
    assert (flat.sum(axis=2) <= apart + 1e-9).all()  # a projection brings nothing further apart
    if models <= 3:
        np.testing.assert_allclose(flat.sum(axis=2), apart, atol=1e-9)


def test_bins_hold_medians_and_quartiles_of_equally_many():
    draw = np.random.default_rng(0)
    x = draw.normal(size=100)
    y = np.where(x > 1, np.nan, x)
    centres, (of_x, of_y) = measures.binned(x, x, y)
    parts = np.sort(x).reshape(5, 20)
    np.testing.assert_allclose(centres, np.median(parts, axis=1))
    np.testing.assert_allclose(of_x, np.quantile(parts, [0.25, 0.5, 0.75], axis=1).T)
    np.testing.assert_allclose(of_y[0], of_x[0])
    assert len(measures.binned(x[:3], x[:3])[0]) == 1
    assert len(measures.binned(np.arange(9_999.0))[0]) == 25


def test_by_model(atlas, right):
    rows = measures.by_model(atlas)
    assert rows["name"].tolist() == [*atlas.models["name"], "random-0", "random-1"]
    for m in range(7):
        others = [o for o in range(7) if o != m]
        known = [(right[m] & ~right[o]).mean() for o in others]
        unknown = {o: (right[o] & ~right[m]).mean() for o in others}
        row = rows.iloc[m]
        assert row["rho_pos_as_teacher"] == pytest.approx(np.mean(known))
        assert row["rho_pos_as_student"] == pytest.approx(np.mean(list(unknown.values())))
        assert row["rho_pos_as_student_min"] == pytest.approx(min(unknown.values()))
        assert row["rho_pos_as_student_max"] == pytest.approx(max(unknown.values()))
        best = atlas.models["name"].tolist().index(row["most_complementary_teacher"])
        assert unknown[best] == max(unknown.values())
        assert row["disagreement"] == pytest.approx(np.mean(known) + np.mean(list(unknown.values())))
        assert row["chance_expected"] == pytest.approx((1 - right[m].mean()) / 6)
        deviation = row["accuracy"] - row["published_accuracy"]
        assert row["deviation"] == pytest.approx(deviation, nan_ok=True)
        if m % 2 == 0:
            assert deviation == pytest.approx(-0.002)
    random = rows.iloc[7]
    assert random["rho_pos_as_teacher"] == pytest.approx(atlas.untrained_rho_pos[:, 0].mean())
    assert math.isnan(random["rho_pos_as_student"])


# ---------------------------------------------------------------- stating


def test_statements_equal_loops(atlas, right, zoo, table):
    accuracy = right.mean(axis=1)
    rho = {(s, t): (right[t] & ~right[s]).mean() for s, t in ordered(7)}
    values = list(rho.values())
    value = table["value"]
    assert value["rho_pos_mean"] == pytest.approx(np.mean(values))
    assert value["rho_pos_median"] == pytest.approx(np.median(values))
    names = atlas.models["name"].tolist()
    for key, chosen in [("rho_pos_min", min), ("rho_pos_max", max)]:
        assert value[key] == pytest.approx(chosen(values))
        teacher, student = map(names.index, table.loc[key, "level"].split(" teaching "))
        assert rho[student, teacher] == chosen(values)
    assert value["pairs_with_flips"] == pytest.approx(np.mean([v > 0 for v in values]))
    weaker = {(s, t): v for (s, t), v in rho.items() if round(100 * (accuracy[t] - accuracy[s]), 9) <= -3}
    assert value["weaker_pairs"] == len(weaker) > 0
    assert value["weaker_rho_pos_min"] == pytest.approx(min(weaker.values()))
    assert value["weaker_rho_pos_mean"] == pytest.approx(np.mean(list(weaker.values())))
    delta = [accuracy[t] - accuracy[s] for s, t in rho]
    assert value["pearson"] == pytest.approx(stats.pearsonr(values, delta).statistic)
    assert value["spearman"] == pytest.approx(stats.spearmanr(values, np.round(delta, 9)).statistic)
    assert value["pearson_identity"] + value["pearson_rest"] == pytest.approx(value["pearson"])
    assert value["pearson_rest"] == pytest.approx(0, abs=1e-12)
    assert value["variance_by_delta"] == pytest.approx(value["pearson"] ** 2)
    apart = {(s, t): (right[t] != right[s]).mean() for s, t in itertools.combinations(range(7), 2)}
    assert value["disagreement_mean"] == pytest.approx(np.mean(list(apart.values())))
    assert value["disagreement_sd"] == pytest.approx(np.std(list(apart.values())))
    sizes = [abs(accuracy[t] - accuracy[s]) for s, t in apart]
    found = stats.pearsonr(list(apart.values()), sizes).statistic
    assert value["disagreement_size_pearson"] == pytest.approx(found)
    ceilings = [(right[s] | right[t]).mean() - max(accuracy[s], accuracy[t]) for s, t in apart]
    assert value["union_gain_mean"] == pytest.approx(np.mean(ceilings))
    assert value["ensemble_gain_mean"] == pytest.approx(0.01)
    assert value["ensemble_better"] == 1
    alike = [(zoo["predicted"][s] == zoo["predicted"][t]).mean() / 2 for s, t in apart]
    assert value["kappa_p_mean"] == pytest.approx(np.mean(alike))
    assert value["chance_expected"] == pytest.approx(np.mean(1 - accuracy[:7]) / 6)
    above = [v > (1 - accuracy[s]) / 6 for (s, _), v in rho.items()]
    assert value["above_expected"] == pytest.approx(np.mean(above))
    random = {s: [(right[7 + u] & ~right[s]).mean() for u in range(2)] for s in range(7)}
    assert value["chance_measured"] == pytest.approx(np.mean(list(random.values())))
    assert value["above_measured"] == pytest.approx(
        np.mean([v > max(random[s]) for (s, _), v in rho.items()])
    )
    family = atlas.models["family"]
    for key, measure in [("rho_pos", rho), ("disagreement", apart)]:
        within = np.mean([v for (s, t), v in measure.items() if family[s] == family[t]])
        between = np.mean([v for (s, t), v in measure.items() if family[s] != family[t]])
        assert value[f"{key}_within"] == pytest.approx(within)
        assert value[f"{key}_families"] == pytest.approx(between - within)
    near = [v for (s, t), v in apart.items() if round(100 * abs(accuracy[t] - accuracy[s]), 9) < 3]
    weights = table.loc[["near_within", "near_between"], "n"]
    assert weights.sum() == 2 * len(near)
    assert np.average(value[weights.index], weights=weights) == pytest.approx(np.mean(near))
    assert (value["published"], value["deviating"]) == (4, 0)
    assert value["deviation_mean"] == pytest.approx(-0.002)


def test_statements_on_classes_equal_loops(atlas, right, zoo, table):
    accuracy, labels = right.mean(axis=1), zoo["labels"]
    by_level = {"weaker": [], "equal": [], "stronger": []}
    for s, t in ordered(7):
        points = round(100 * (accuracy[t] - accuracy[s]), 9)
        level = "weaker" if points < -1 else "stronger" if points > 1 else "equal"
        counts = np.bincount(labels[right[t] & ~right[s]], minlength=6)
        if counts.sum():
            expected = float(measures.expected_entropy(counts.sum(), 6))
            by_level[level].append(
                (stats.entropy(counts) / math.log(6), expected, counts.max() / counts.sum())
            )
    for level, rows in by_level.items():
        entropy, expected, top = np.array(rows).T
        assert table.loc[f"top_{level}", "value"] == pytest.approx(top.mean())  # a fifth of 6 classes is 1
        entropy, expected = entropy[expected > 0], expected[expected > 0]  # a single flip has no entropy
        assert len(entropy) == table.loc[f"entropy_ratio_{level}", "n"] > 0
        assert table.loc[f"entropy_{level}", "value"] == pytest.approx(entropy.mean())
        assert table.loc[f"entropy_uniform_{level}", "value"] == pytest.approx(expected.mean())
        assert table.loc[f"entropy_ratio_{level}", "value"] == pytest.approx((entropy / expected).mean())
        assert 1 / 6 < table.loc[f"top_uniform_{level}", "value"] < 1
    assert table.loc["classes_50", "value"] == np.median(measures.top_classes(atlas.class_flips)[:, 4])
    ratios = measures.relative_similarity(atlas.class_flips, atlas.embeddings)[:, 4]
    ratios = ratios[np.isfinite(ratios)]
    assert table.loc["alike_50_median", "value"] == pytest.approx(np.median(ratios))
    assert table.loc["alike_50_mean", "n"] == table.loc["alike_50_q1", "n"] == len(ratios)


def test_every_interval_holds_its_value_and_every_number_has_a_meaning(table):
    bounded = table.dropna(subset="low")
    assert {"rho_pos_mean", "rho_pos_median", "pearson", "spearman", "disagreement_families"} <= set(
        bounded.index
    )
    assert not {"rho_pos_min", "weaker_rho_pos_min", "samples"} & set(bounded.index)
    assert ((bounded["low"] <= bounded["value"]) & (bounded["value"] <= bounded["high"])).all()
    assert table.index.is_unique and (table["meaning"].str.len() > 5).all()


def test_deviations_are_listed_largest_first(content, tmp_path):
    models = content["models"].copy()
    off = {"model-0000": 0.03, "model-0001": -0.04, "model-0002": 0.005}  # the last lies on the bound
    for name, deviation in off.items():
        row = models["name"] == name
        models.loc[row, "published_accuracy"] = models.loc[row, "accuracy"] - deviation
    atlas = load_atlas(atlases.write(tmp_path, content | {"models": models}))
    first, second = told.deviations(atlas)
    assert first.startswith("model-0001 -4.00 (") and second.startswith("model-0000 +3.00 (")
    text = sentences(tmp_path)["Published accuracies"]
    assert text.startswith("2 of the 5 models that have one are off it by more than 0.5 points: model-0001")


# ---------------------------------------------------------------- telling


def thin(kind):
    """Zoos that leave much undefined."""
    zoo = atlases.simulate(2 if kind != "one family" else 5, 40, 4, untrained=0)
    if kind == "clones":
        zoo["predicted"][1] = zoo["predicted"][0]
    if kind == "perfect":
        zoo["predicted"][:] = zoo["labels"]
    if kind == "one flip":
        zoo["predicted"][1] = zoo["predicted"][0]
        first = np.flatnonzero(zoo["predicted"][0] != zoo["labels"])[0]
        zoo["predicted"][1, first] = zoo["labels"][first]
    zoo["families"][:] = "cnn"
    return atlases.tables(zoo, pairs=0 if kind == "no classes" else None)


@pytest.mark.parametrize("kind", ["two", "clones", "perfect", "one flip", "one family", "no classes"])
def test_thin_zoos_give_a_report_without_nan(kind, tmp_path):
    assert report.main([str(atlases.write(tmp_path, thin(kind)))]) == 0
    text = (tmp_path / "analysis" / "report.md").read_text()
    assert not re.search(r"\bnan\b|\binf\b", text)
    figures = {path.stem for path in (tmp_path / "analysis" / "figures").glob("*.svg")}
    expected = {*FIGURES, "map_of_models"} - {"fig_2b", "fig_2b_paper"}
    if kind == "no classes":
        expected -= {"fig_2a", "fig_2a_paper"}
    if kind in ("clones", "perfect"):  # no flips
        expected -= {"fig_1b_paper"}
    assert figures == expected - ({"map_of_models"} if kind in ("clones", "perfect") else set())


def test_without_a_text_model_the_figure_is_left_out_and_an_old_one_removed(content, tmp_path):
    out = tmp_path / "out"
    whole = atlases.write(tmp_path / "whole", content)
    assert report.main([str(whole), "--out", str(out)]) == 0
    assert (out / "figures" / "fig_2b.svg").exists()
    bare = content | {"classes": content["classes"].drop(columns=["embedder", "embedding"])}
    results = atlases.write(tmp_path / "bare", bare)
    assert report.main([str(results), "--out", str(out)]) == 0
    assert not list(out.rglob("*2b*"))
    how = "pip install -r requirements-semantics.txt"
    assert how in sentences(results)["Meaning of the top classes"]
    assert how in (out / "report.md").read_text()


# ---------------------------------------------------------------- the paper's form


@pytest.fixture(scope="module")
def paper(folder):
    """Exhibits in the paper's form, by name."""
    return {made.name: made for made in section(atlas_paper, Material(folder)).exhibits}


def test_the_entropy_in_nats_against_rho_pos(paper, right, zoo, table):
    made = paper["fig_1b_paper"]
    axes = made.shown.drawing.axes[0]
    shown = {tuple(dot) for dot in np.round(axes.collections[0].get_offsets().data, 9)}
    entropies = {}
    for s, t in ordered(7):
        counts = np.bincount(zoo["labels"][right[t] & ~right[s]], minlength=6)
        if counts.sum():
            entropies[s, t] = stats.entropy(counts)  # in nats
            assert (round(100 * counts.sum() / 120, 9), round(entropies[s, t], 9)) in shown
    assert len(entropies) == table.loc["entropy_nats", "n"]
    assert table.loc["entropy_nats", "value"] == pytest.approx(np.mean(list(entropies.values())))
    assert axes.lines[0].get_ydata() == pytest.approx([math.log(6)] * 2)
    assert table.loc["entropy_even", "value"] == math.log(6)
    assert f"{np.mean(list(entropies.values())):.2f} [" in made.note and "log(6) = 1.79" in made.note


def test_class_rates_are_of_the_class_and_sorted():
    flips, samples = np.array([2, 6, 0, 3, 0]), np.array([4, 30, 0, 6, 5])
    classes, rates = measures.class_rates(flips, samples)
    assert classes.tolist() == [0, 3, 1, 4]  # the second has most flips, and one class no samples
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.2, 0])


def test_three_pairs_class_by_class(paper, atlas, right, zoo, table):
    accuracy, names = right.mean(axis=1), zoo["names"]
    made = paper["fig_2a_paper"]
    rows, stated = made.shown.numbers, made.statements
    for teacher, wanted in [("weaker", -0.13), ("equal", 0), ("stronger", 0.18)]:
        off = {(s, t): abs(round(accuracy[t] - accuracy[s] - wanted, 9)) for s, t in ordered(7)}
        of_pair = table.loc[f"example_{teacher}_delta"]
        t, s = (names.tolist().index(name) for name in of_pair["level"].split(" teaching "))
        assert off[s, t] == min(off.values())
        assert of_pair["value"] == pytest.approx(accuracy[t] - accuracy[s])
        flips = right[t] & ~right[s]
        assert table.loc[f"example_{teacher}_rho_pos", "value"] == pytest.approx(flips.mean())
        mine = rows[rows["teacher"] == f"{teacher} teacher"]
        by_class = {f"class {c}": flips[zoo["labels"] == c].mean() for c in range(6)}
        assert dict(zip(mine["class"], mine["flips_of_class"], strict=True)) == pytest.approx(by_class)
        assert mine["flips_of_class"].is_monotonic_decreasing
        assert mine["rank"].tolist() == list(range(1, 7))
        first = stated[stated["subject"] == f"{teacher} teacher, {of_pair['level']}, 1"]
        assert first["value"].tolist() == [max(by_class.values())]
        assert f"{of_pair['level']} ({text.points(of_pair['value'])} points)" in made.note


def test_the_papers_own_pairs_come_first_where_the_atlas_has_them(atlas):
    """Whatever their difference in accuracy; of two weights of an architecture the nearer one."""
    before = measures.example_pairs(atlas)
    student, teacher = atlas.class_pairs[3]
    architectures = pd.Series("resnet50.a1_in1k", atlas.models.index, dtype=object)
    architectures.iloc[[student, teacher]] = ["dla46_c.in1k", "xcit_small_24_p16_224.fb_in1k"]
    own = replace(atlas, models=atlas.models.assign(timm=architectures))
    assert measures.example_pairs(own) == before | {"stronger": 3}
    delta = measures.accuracy_difference(atlas.rho_pos)
    others = np.flatnonzero(atlas.class_pairs[:, 0] == student)
    architectures[:] = "xcit_small_24_p16_224.other"
    architectures.iloc[student] = "dla46_c.in1k"
    many = measures.example_pairs(replace(atlas, models=atlas.models.assign(timm=architectures)))
    off = [abs(round(delta[tuple(atlas.class_pairs[row])] - 0.18, 12)) for row in others]
    assert many["stronger"] == others[int(np.argmin(off))]


def test_similarity_as_a_difference_to_the_mean_of_all_classes(paper, atlas, table):
    made, rows = paper["fig_2b_paper"], paper["fig_2b_paper"].shown.numbers.set_index("top")
    assert rows.index.tolist() == ["top 2 %", "top 5 %", "top 20 %", "top 50 %"]
    alike = atlas.embeddings @ atlas.embeddings.T
    every = np.mean([alike[a, b] for a, b in itertools.combinations(range(6), 2)])
    assert table.loc["similarity_mean", "value"] == pytest.approx(every)
    differences = []
    for flips in atlas.class_flips:
        ranked = sorted(range(6), key=lambda c: (-flips[c], c))
        held = np.cumsum([flips[c] for c in ranked])
        top = ranked[: 1 + next(k for k in range(6) if 2 * held[k] >= held[-1])]
        if len(top) > 1:
            differences.append(np.mean([alike[a, b] for a, b in itertools.combinations(top, 2)]) / every - 1)
    row = rows.loc["top 50 %"]
    assert row["pairs"] == len(differences) > 20
    found = [row["mean"], row["q1"], row["q3"]]
    assert found == pytest.approx([np.mean(differences), *np.quantile(differences, [0.25, 0.75])])
    assert row["low"] < row["mean"] < row["high"]
    assert "of 'minilm: names in a sentence'. The paper's are CLIP's" in made.note


def test_embeddings_say_what_was_read(content, tmp_path):
    classes = content["classes"]
    for place, (recorded, known) in enumerate(
        [
            ("clip: plain names", "clip: plain names"),
            ("clip", "clip: names, with definitions where there are any, in a sentence"),  # of before
        ]
    ):
        changed = content | {"classes": classes.assign(embedder=recorded)}
        results = atlases.write(tmp_path / str(place), changed)
        assert load_atlas(results).embedder == known
        (made,) = atlas_paper.fig_2b_paper.made(Material(results))
        assert ("The paper's are CLIP's" in made.note) == (recorded == "clip")


def test_both_minima_are_marked_and_named(folder, atlas, table):
    (made,) = told.fig_1a.made(Material(folder, gap=3))
    marks = {line.get_marker(): line.get_xydata()[0] for line in made.shown.drawing.axes[0].lines}
    labels = [label.get_text() for label in made.shown.drawing.legends[0].get_texts()]
    for marker, name, which in [
        ("o", "weaker_rho_pos_min", "weaker by 3"),
        ("D", "rho_pos_min", "all pairs"),
    ]:
        value = 100 * table.loc[name, "value"]
        assert marks[marker][1] == pytest.approx(value)
        assert any(which in label and f"{value:.2f} %" in label for label in labels)


@pytest.mark.parametrize(("models", "pairs"), [(23, 466), (23, 400), (22, None)])
def test_as_many_pairs_as_the_paper_drew(models, pairs, tmp_path):
    zoo = atlases.simulate(models, 60, 5, untrained=1)
    made_of = atlases.tables(zoo, pairs=pairs)
    material = Material(atlases.write(tmp_path, made_of))
    (made,) = atlas_paper.fig_1_of_466_pairs.made(material)
    if pairs != 466:
        why = "of 400 pairs are" if pairs else "462 ordered pairs, no more than the 466"
        assert why in made.note and made.shown.drawing is None
        assert not material.of_atlas["measure"].str.startswith("drawn").any()
        return
    pairs = made_of["pairs"].astype({"student": str, "teacher": str})
    chosen = made_of["pair_classes"][["student", "teacher"]].astype(str).drop_duplicates()
    drawn = chosen.merge(pairs, how="left")
    assert len(drawn) == 466 < len(pairs)
    columns = ["student", "teacher", "accuracy_difference", "rho_pos", "entropy_nats"]
    expected = drawn.assign(entropy_nats=drawn["flip_entropy"] * math.log(5))[columns]
    by = ["student", "teacher"]
    pd.testing.assert_frame_equal(
        made.shown.numbers[columns]
        .astype({"student": str, "teacher": str})
        .sort_values(by, ignore_index=True),
        expected.sort_values(by, ignore_index=True),
    )
    found = material.of_atlas.set_index("measure")
    assert found.loc["drawn_rho_pos_mean", "value"] == pytest.approx(expected["rho_pos"].mean())
    assert found.loc["drawn_entropy_nats", "value"] == pytest.approx(expected["entropy_nats"].mean())
    least = found.loc["drawn_rho_pos_min"]
    assert least["value"] == pytest.approx(expected["rho_pos"].min()) and least["level"] in made.note
    assert found.loc["rho_pos_min", "value"] == pytest.approx(
        pairs["rho_pos"][~pairs["teacher"].str.startswith("random")].min()
    )


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("written") / "a" / "b"


@pytest.fixture(scope="module")
def done(content, out):
    results = atlases.write(out.parent / "results", content)
    return command(results, "--out", out, "--atlas", "demo", "--gap", "3")


def test_an_atlas_alone_makes_a_report(done, out):
    assert done.returncode == 0
    assert max(map(len, done.stdout.split(str(out))[0].splitlines())) <= 120
    assert "weaker by 3 points or more" in done.stdout
    assert "466 pairs of 301 models" in done.stdout.replace("\n", " ").replace("  ", " ")
    rows = pd.read_parquet(out / "statements.parquet")
    text = (out / "tables" / "atlas_statements.md").read_text()
    for row in rows[rows["subject"] == "atlas"].itertuples():
        assert f"| {row.measure}" in text
    models = pd.read_csv(out / "tables" / "atlas_models.csv")
    assert len(models) == 9 and set(models["source"]) == {"hub", "seed"}
    page = (out / "report.html").read_text()
    for name in FIGURES:
        assert f"(figures/{name}.png)" in (out / "report.md").read_text()
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'<article id="{name}">' in page
    assert len(pd.read_csv(out / "tables" / "timm_results.csv")) == 7


def test_an_atlas_of_before_has_no_ceilings_by_probabilities(content, tmp_path):
    older = content | {"pairs": content["pairs"].drop(columns=["ensemble_accuracy", "kappa_p"])}
    table = statements(load_atlas(atlases.write(tmp_path, older)), 3)
    assert {"union_gain_mean"} == set(table["measure"]) & {
        "union_gain_mean",
        "ensemble_gain_mean",
        "kappa_p_mean",
    }
    text = sentences(tmp_path)["Ceilings"]
    assert text.startswith("an oracle") and "probabilities" not in text


def test_every_number_told_is_a_statement(folder, atlas):
    """Each value with its interval, as the sentences have it, is one of the rows, rounded."""
    known = set()
    for factor, unit, digits in [(100, " %", 2), (100, " points", 2), (1, "", 2), (100, " %", 0)]:
        for row in statements(atlas, 3).itertuples():
            value, low, high = (f"{factor * v:.{digits}f}" for v in (row.value, row.low, row.high))
            known.add(f"{value}{unit} [{low}, {high}]".replace("-", "\N{MINUS SIGN}"))
    found = re.findall(
        r"\N{MINUS SIGN}?[\d.]+(?: %| points)? \[[^]]+\]", " ".join(sentences(folder, 3).values())
    )
    assert len(found) > 15 and set(found) <= known


def test_a_large_zoo_stays_small_in_memory(tmp_path):
    zoo = atlases.simulate(300, 400, 20)
    tables = atlases.tables(zoo, pairs=466, embeddings=atlases.meanings(20))
    results = atlases.write(tmp_path / "results", tables)
    code = (
        f"import re; from analysis import report; "
        f"status = report.main([{str(results)!r}]); "
        # Not getrusage's ru_maxrss: that of a child begins at what its parent had.
        "print(status, re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    status, kibibytes = map(int, done.stdout.splitlines()[-1].split())
    assert status == 0 and "over 89,700 ordered" in done.stdout
    assert kibibytes < 600 * 1024
    svg = (results / "analysis" / "figures" / "fig_1a.svg").stat().st_size
    assert svg < 500_000  # pixels, and not a mark a pair


# ---------------------------------------------------------------- bad input


def test_missing_folders_are_refused(tmp_path):
    assert f"{tmp_path / 'none' / 'trials'}: no such folder" in refused(tmp_path / "none")
    with pytest.raises(ResultsError, match=r"no atlas is recorded there; run jobs/atlas\.py STUDY"):
        load_atlas(tmp_path)


@pytest.mark.parametrize("points", ["-1", "nan"])
def test_an_impossible_gap_is_refused(points):
    done = command("anywhere", f"--gap={points}")
    assert done.returncode == 2 and "argument --gap" in done.stderr and "Traceback" not in done.stderr


def test_an_unwritable_out_is_refused(content, tmp_path):
    results, file = atlases.write(tmp_path / "results", content), tmp_path / "file"
    file.write_text("in the way")
    assert f"{file / 'out'}: cannot be written" in refused(results, "--out", file / "out")


def test_damaged_and_missing_files_are_named(content, tmp_path):
    results = atlases.write(tmp_path, content)
    for table in content:
        path = results / table / ("id-model-0003.parquet" if table == "models" else "demo.parquet")
        whole = path.read_bytes()
        for damaged in (b"", whole[:7], whole[:-300]):
            path.write_bytes(damaged)
            with pytest.raises(ResultsError, match=f"{path}: not a readable record .* again$"):
                load_atlas(results)
        path.unlink()
        if table != "atlas":
            with pytest.raises(ResultsError, match=r"(no such file|not recorded in .*id-model-0003).* again"):
                load_atlas(results)
        path.write_bytes(whole)
    load_atlas(results)


def test_flipped_bits_are_seen(content, tmp_path):
    results = atlases.write(tmp_path, content)
    path = results / "pairs" / "demo.parquet"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(ResultsError, match=f"{path}: not a readable record"):
        load_atlas(results)


COLUMNS = [
    (table, column)
    for table, names in {
        "models": "model status name family source samples classes accuracy published_accuracy split",
        "atlas": "model",
        "pairs": "student teacher samples rho_pos agreement error_consistency flip_entropy",
        "pair_classes": "student teacher class samples flips",
        "classes": "class embedding embedder",
    }.items()
    for column in names.split()
]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_missing_column_is_named(content, tmp_path, table, column):
    results = atlases.write(tmp_path, content)
    for path in (results / table).iterdir():
        pd.read_parquet(path).drop(columns=column).to_parquet(path)
    with pytest.raises(ResultsError, match=f"{results / table}.*: the column {column} is missing, .*; run "):
        load_atlas(results)


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "says"),
    [
        ("models", "accuracy", 2, None, "id-model-0002.parquet: accuracy is empty or not finite; remove"),
        ("models", "accuracy", 2, math.inf, "id-model-0002.parquet: accuracy is empty or not finite"),
        ("models", "family", 1, None, "id-model-0001.parquet: family is empty"),
        ("models", "source", 1, "untrained", "models: source is untrained for some models, so another"),
        ("models", "name", 1, "model-0000", "models: name is model-0000 for two models"),
        ("models", "samples", 1, 99, "samples is 120 for some models .* and 99 for others"),
        ("models", "split", 1, "train", "split is test for some models .* and train for others"),
        ("atlas", "model", 1, "id-x", r"1 of its 9 models are not recorded in .* \(such as id-x\)"),
        ("pairs", "rho_pos", 5, None, r"demo.parquet: rho_pos is empty or not finite \(row 5\)"),
        ("pairs", "rho_pos", 5, 1.5, r"rho_pos is no fraction \(row 5\)"),
        ("pairs", "rho_pos", 5, 0.9, "rho_pos of student .* does not fit their accuracies"),
        ("pairs", "agreement", 3, math.inf, r"agreement is empty or not finite \(row 3\)"),
        ("pairs", "flip_entropy", 3, None, r"flip_entropy is empty in spite of flips \(row 3\)"),
        ("pairs", "flip_entropy", 3, math.inf, r"flip_entropy is not finite \(row 3\)"),
        ("pairs", "samples", 3, 121, r"samples is not the 120 of the models \(row 3\)"),
        ("pairs", "student", 3, None, r"student is empty \(row 3\)"),
        ("pairs", "teacher", 3, "stranger", "teacher names stranger, which is no model of the atlas"),
        ("pairs", "student", 3, "random-0", "student names random-0"),
        ("pairs", "teacher", 3, "model-0000", "rows of student and teacher are not the 56 ordered pairs"),
        ("pair_classes", "student", 3, "stranger", "student names stranger"),
        ("pair_classes", "flips", 3, None, r"flips is empty or not finite \(row 3\)"),
        ("pair_classes", "flips", 3, -1, r"flips is negative \(row 3\)"),
        ("pair_classes", "flips", 3, 21, r"flips is more than the class has samples \(row 3\)"),
        ("pair_classes", "samples", 3, None, r"samples is empty or not finite \(row 3\)"),
        ("pair_classes", "samples", 3, 21, r"samples is another number for another pair \(row 3\)"),
        ("pair_classes", "class", 3, 6, r"class is no class \(row 3\)"),
        ("pair_classes", "class", 3, 2, "rows of class are not 6 classes, each once, of 42 pairs"),
        ("classes", "class", 3, 2, "class does not number 6 classes from 0"),
        ("classes", "embedding", 3, None, r"embedding is empty for some classes \(row 3\)"),
        ("classes", "embedding", 3, [1.0], "embedding does not hold finite vectors of one length"),
        ("classes", "embedding", 3, [math.nan] * 16, "embedding does not hold finite vectors"),
        ("classes", "embedding", 3, [0.0] * 16, "embedding does not hold finite vectors .* not of zeros"),
    ],
)
def test_bad_values_are_named(content, tmp_path, table, column, row, value, says):
    rows = content[table].astype({column: object})
    rows.at[row, column] = value
    results = atlases.write(tmp_path, content | {table: rows})
    with pytest.raises(ResultsError, match=says) as refusal:
        load_atlas(results)
    assert "\n" not in str(refusal.value)


def test_a_pair_too_few_is_refused(content, tmp_path):
    results = atlases.write(tmp_path, content | {"pairs": content["pairs"].iloc[1:]})
    with pytest.raises(
        ResultsError, match=r"its 55 rows .* are not the 56 ordered pairs of 7 students and 9"
    ):
        load_atlas(results)


def test_fewer_than_two_models_are_refused_with_the_reason(content, tmp_path):
    models = content["models"].copy()
    models.loc[1:6, ["status", "reason"]] = ["failed", "no weights"]
    sentence = refused(atlases.write(tmp_path, content | {"models": models}))
    assert (
        "status is 'ok' for 1 trained models of the atlas demo (the first failed with: no weights)"
        in sentence
    )
    assert not (tmp_path / "analysis").exists()
