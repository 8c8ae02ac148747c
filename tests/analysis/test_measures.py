"""Tests of trials, means over seeds, differences between methods and students' properties, by hand."""

import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import measures
from analysis.inference import crossed_bootstrap, spearman_interval
from analysis.statements import COLUMNS, numbers
from tests.analysis import by_hand

SAMPLES = 1_000
DIFFERENCES = {"weak": -0.03, "even": 0.0, "strong": 0.03}


trial = partial(by_hand.trial, samples=SAMPLES, differences=DIFFERENCES)


def failed(*arguments, **fields):
    return by_hand.failed(trial(*arguments, 0, 0, **fields), "no disk")


def step_up(p):
    """Benjamini-Hochberg, written out: the smallest of m p_(j) / j over the ranks j at or above."""
    ranked = sorted(p)
    return [min([1.0, *(len(p) * b / j for j, b in enumerate(ranked, 1) if b >= a)]) for a in p]


# ---------------------------------------------------------------- tests of trials

changes = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=12)


@settings(deadline=None)
@given(changes)
def test_each_trial_is_tested_by_itself_and_adjusted_for_all(pairs):
    rows = [trial("xe" if i % 3 else "kl", f"s{i}", None, *pair) for i, pair in enumerate(pairs)]
    table = measures.tested(pd.DataFrame([*rows, failed("kl", "late", "weak")]))
    assert table["trial"].tolist() == [row["trial"] for row in rows]  # the failed one is left out
    p = [stats.binomtest(pair[0], sum(pair), 0.5).pvalue if sum(pair) else 1.0 for pair in pairs]
    q = step_up(p)
    assert table["p"].tolist() == pytest.approx(p)
    assert table["q"].tolist() == pytest.approx(q)
    for row, (gained, lost), adjusted in zip(table.to_dict("records"), pairs, q, strict=True):
        assert (row["gained"], row["lost"]) == (gained, lost)
        verdict = "unclear" if adjusted >= 0.05 else "better" if gained > lost else "worse"
        assert row["verdict"] == verdict
        assert row["noise"] == pytest.approx(math.sqrt(gained + lost) / SAMPLES)
        assert row["success"] == (gained > lost)
        assert row["clear_success"] == (gained - lost > 1.645 * math.sqrt(gained + lost))


def test_mere_chance_succeeds_half_the_time_and_clearly_in_one_case_of_twenty():
    def chances(changed):
        """P[success] and P[clear success] if each changed sample goes either way by a coin's toss."""
        gained = np.arange(changed + 1)
        rows = [trial("kl", f"s{g}", "even", int(g), int(changed - g)) for g in gained]
        table, weight = measures.tested(pd.DataFrame(rows)), stats.binom.pmf(gained, changed, 0.5)
        return (weight * table["success"]).sum(), (weight * table["clear_success"]).sum()

    for changed in [*range(11, 200, 22), 501]:  # odd: no draws
        success, clear = chances(changed)
        assert success == pytest.approx(0.5)
        assert 0.028 < clear < 0.074
    assert max(chances(changed)[1] for changed in range(11)) == pytest.approx(1 / 8)  # three samples


def test_counts_are_whole_though_the_shares_are_floats():
    rows = [trial("kl", f"s{g}", "even", g, 1, evaluation_samples=35_000) for g in range(200)]
    rows = [r | {"knowledge_gain": i / 35_000, "knowledge_loss": 1 / 35_000} for i, r in enumerate(rows)]
    assert measures.tested(pd.DataFrame(rows))["gained"].tolist() == list(range(200))


# ---------------------------------------------------------------- seeds

SEEDS = [
    trial("kl", "A", "weak", 20, 10, seed=0),  # +10, -10, 0: mean 0, no success
    trial("kl", "A", "weak", 10, 20, seed=1),
    trial("kl", "A", "weak", 15, 15, seed=2),
    trial("kl", "A", "even", 40, 10, seed=0),  # +30 and +20: noise of 7.07 and 7.75 samples
    trial("kl", "A", "even", 40, 20, seed=1),
    failed("kl", "A", "even", seed=2),
    trial("kl", "B", "even", 12, 8, seed=0),  # +4 < 1.645 * 4.47
    trial("xe", "A", None, 5, 3, seed=0),
    trial("xe", "A", None, 3, 4, seed=1),
]


def test_one_row_a_pair_with_the_mean_and_the_spread_of_its_seeds():
    table = measures.over_seeds(pd.DataFrame(SEEDS))
    assert table["method"].tolist() == ["xe", "kl", "kl", "kl"]  # the fixed order
    assert table["student"].tolist() == ["A", "A", "A", "B"]
    assert table["teacher"].fillna("none").tolist() == ["none", "even", "weak", "even"]
    assert table["seeds"].tolist() == [2, 2, 3, 1]
    assert (SAMPLES * table["transfer_delta"]).tolist() == pytest.approx([0.5, 25, 0, 4])
    spread = [math.sqrt(4.5), math.sqrt(50), 10, math.nan]
    assert (SAMPLES * table["delta_sd"]).tolist() == pytest.approx(spread, nan_ok=True)
    noise = (math.sqrt(50) + math.sqrt(60)) / 2
    assert SAMPLES * table["noise"][1] == pytest.approx(noise)
    assert table["success"].tolist() == [True, True, False, True]
    assert table["clear_success"].tolist() == [False, True, False, False]
    assert table["transfer_rate"].tolist() == pytest.approx([math.nan, 0.25, 0.25, 0.25], nan_ok=True)


def test_a_mean_of_nothing_is_no_success_through_the_noise_of_floating_point():
    rows = [trial("kl", "A", "weak", 20 + won, 20, seed=seed) for seed, won in enumerate([1, 8, -9])]
    assert np.mean([row["transfer_delta"] for row in rows]) > 0  # 3e-19
    assert not measures.over_seeds(pd.DataFrame(rows))["success"].any()
    taught = [row | {"method": "kl_dp", "transfer_delta": 0.0} for row in rows]
    both = pd.DataFrame(rows + taught)
    assert measures.paired(both, "kl_dp", "kl")["difference"].tolist() == [0]
    (row,) = numbers(measures.differences(both)).values()
    names = ("difference_positive", "difference_negative", "difference_mean")
    assert [row[name].value for name in names] == [0, 0, 0]


def test_what_a_table_has_beyond_the_guaranteed_is_averaged_or_kept():
    known = {"student_parameters": 1_000, "student_family": "cnn", "rho_pos_before": 0.1, "seconds": 2.0}
    rows = [trial("kl", "A", "weak", 1, 2, seed=seed, **known) | {"seconds": seed} for seed in (1, 4)]
    (row,) = measures.over_seeds(pd.DataFrame(rows)).to_dict("records")
    assert (row["student_parameters"], row["student_family"]) == (1_000, "cnn")
    assert (row["rho_pos_before"], row["seconds"]) == pytest.approx((0.1, 2.5))
    assert "teacher_accuracy" not in row and "rho_neg_after" not in row


def test_by_method_counts_pairs_of_seeds_and_tests_trials():
    trials = pd.DataFrame(SEEDS)
    summary = numbers(measures.by_method(trials)) | numbers(measures.differences(trials))
    kl, xe = summary["kl"], summary["xe"]
    counted = ["trials", "failed", "pairs", "students", "teachers", "seeds"]
    assert [kl[name].value for name in counted] == [6, 1, 3, 2, 2, 3]
    assert [xe[name].value for name in counted] == [2, 0, 1, 1, 0, 2]
    assert kl["success_rate"].value == pytest.approx(2 / 3)
    assert kl["clear_success_rate"].value == pytest.approx(1 / 3)
    mean = kl["delta_mean"].value
    assert mean == pytest.approx(29 / 3 / SAMPLES)  # pairs count alike, whatever their seeds
    assert SAMPLES * kl["delta_min"].value == -10 and SAMPLES * kl["delta_max"].value == 30  # of trials
    assert SAMPLES * kl["seed_sd"].value == pytest.approx(math.sqrt((50 + 100) / 2))
    assert (kl["better"].value, kl["worse"].value) == (1, 0)
    assert (kl["significant_positive"].value, kl["significant_negative"].value) == (2, 0)
    # Seed by seed: A-weak +8 and -9 (no control of seed 2), A-even +28 and +21; B has no control.
    over = summary["kl minus xe"]["difference_mean"]
    assert over.n == 2 and SAMPLES * over.value == pytest.approx((-0.5 + 24.5) / 2)


# ---------------------------------------------------------------- differences between methods

cells = st.tuples(
    st.sampled_from(["xe", "kl", "kl_dp", "new"]),
    st.sampled_from("AB"),
    st.sampled_from(list(DIFFERENCES)),
    st.integers(0, 1),
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(cells, st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1))
def test_differences_equal_those_counted_by_hand(found):
    found = {(m, s, None if m == "xe" else t, seed): row for (m, s, t, seed), row in found.items()}
    rows = [
        trial(*cell[:3], *pair, seed=cell[3]) if ok else failed(*cell[:3], seed=cell[3])
        for cell, (*pair, ok) in found.items()
    ]
    table = measures.differences(pd.DataFrame(rows))
    found_numbers = numbers(table[~table["subject"].str.endswith(" minus xe")])
    expected = {}
    for b, a in itertools.combinations(["kl", "kl_dp", "new"], 2):
        for student, teacher in itertools.product("AB", DIFFERENCES):
            both = [
                found[a, student, teacher, seed][0] - found[a, student, teacher, seed][1]
                - found[b, student, teacher, seed][0] + found[b, student, teacher, seed][1]
                for seed in (0, 1)
                if all(found.get((m, student, teacher, seed), (0, 0, False))[2] for m in (a, b))
            ]  # fmt: skip
            if both:
                level = {"weak": "weaker", "even": "equal", "strong": "stronger"}[teacher]
                for name in ("all", level):
                    expected.setdefault((a, b, name), []).append(np.mean(both) / SAMPLES)
    said = {
        (*subject.split(" minus "), name.removeprefix("difference_mean").lstrip("_") or "all")
        for subject, row in found_numbers.items()
        for name in row
        if name.startswith("difference_mean") and "given" not in name
    }
    assert {one for one in said if one[2] != "not_stronger"} == set(expected)
    tests = []
    for (a, b, level), values in expected.items():
        row, of = found_numbers[f"{a} minus {b}"], "" if level == "all" else f"_{level}"
        mean = row[f"difference_mean{of}"]
        assert mean.n == len(values) and mean.value == pytest.approx(np.mean(values), abs=1e-12)
        assert row[f"difference_positive{of}"].value == sum(v > 0 for v in values)
        assert row[f"difference_negative{of}"].value == sum(v < 0 for v in values)
        tests.append([row[f"difference_wilcoxon_{kind}{of}"].value for kind in "pq"])
        assert 0 < tests[-1][0] <= tests[-1][1] <= 1
    assert [q for _, q in tests] == pytest.approx(step_up([p for p, _ in tests]))


def test_differences_have_the_interval_and_test_of_their_pairs():
    draw = np.random.default_rng(0)
    grid = [(s, t) for s in "ABCD" for t in DIFFERENCES]
    samples = {(m, *pair): int(draw.integers(0, 60)) for m in ("kl", "kl_dp") for pair in grid}
    table = measures.differences(pd.DataFrame([trial(*cell, g, 30) for cell, g in samples.items()]))
    found = numbers(table)
    assert list(found) == ["kl_dp minus kl"]
    row = found["kl_dp minus kl"]
    values = np.array([samples["kl_dp", *pair] - samples["kl", *pair] for pair in grid]) / SAMPLES
    interval = crossed_bootstrap(values, *np.array(grid).T)
    mean = row["difference_mean"]
    assert mean.n == 12 and (mean.low, mean.high) == pytest.approx(interval)
    assert row["difference_wilcoxon_p"].value == pytest.approx(stats.wilcoxon(values).pvalue)
    assert row["difference_wilcoxon_q"].value > row["difference_wilcoxon_p"].value


# ---------------------------------------------------------------- properties of students


def test_properties_of_students_are_ranked_with_what_they_gained():
    deltas = {"A": (10, -4), "B": (4, 2), "C": (-3, -9), "D": (12, 20), "E": (1, 0)}
    size = {"A": 1e4, "B": 1e3, "C": 1e2, "D": 1e6, "E": 1e5}
    rows = [
        trial("kl", s, t, 20 + delta, 20, student_parameters=size[s])
        for s, pair in deltas.items()
        for t, delta in zip(("weak", "even"), pair, strict=True)
    ]
    few = [trial("xe", s, None, 2, 1, student_parameters=size[s]) for s in "ABC"]
    found = numbers(measures.student_properties(pd.DataFrame(few + rows)))
    assert list(found) == ["xe", "kl"]
    outcomes = {
        "delta_mean": [sum(pair) for pair in deltas.values()],
        "success_rate": [sum(delta > 0 for delta in pair) for pair in deltas.values()],
    }
    # Accuracies are not in this table.
    assert set(found["kl"]) == {f"log10_parameters_and_{outcome}" for outcome in outcomes}
    sizes = [size[s] for s in deltas]
    for outcome, values in outcomes.items():
        one = found["kl"][f"log10_parameters_and_{outcome}"]
        assert (one.value, one.low, one.high) == pytest.approx(spearman_interval(sizes, values))
        assert one.n == 5
    assert all(not one.known and one.n == 3 for one in found["xe"].values())


def test_properties_that_no_table_has_give_an_empty_table():
    table = measures.student_properties(pd.DataFrame([trial("kl", "A", "weak", 1, 2)]))
    assert table.empty and table.columns.tolist() == COLUMNS
