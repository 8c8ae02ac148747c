"""What is transferred and how trials ran: each table against counting by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import knowledge_measures as measures
from analysis import training_measures
from analysis.measures import over_seeds
from analysis.results import ResultsError
from tests.analysis import sweeps


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    students = sweeps.made_up(7, "student", (0.79, 0.82))
    students["parameters"] = [1, 4, 2, 2, 9, 1, 5]  # of which some are alike and some are not
    return sweeps.simulate(students, 5, seeds=2, samples=1200, seed=3).trials


@pytest.fixture(scope="module")
def units(trials) -> pd.DataFrame:
    return over_seeds(trials)


def test_bins_hold_all_pairs_once_and_their_means_are_those_of_their_pairs(trials, units):
    table = measures.by_difference(units)
    assert set(table["method"]) == set(trials["method"]) - {"xe"}
    pairs = trials[trials["method"] == "kl"].groupby(["student", "teacher"])
    deltas, apart = pairs["transfer_delta"].mean(), pairs["accuracy_difference"].mean()
    mine = table[table["method"] == "kl"].sort_values("low")
    assert len(mine) == 35 // measures.IN_A_BIN
    seen = []
    for row in mine.itertuples():
        last = row.high == mine["high"].max()
        inside = (apart >= row.low) & ((apart < row.high) | (last & (apart == row.high)))
        values = np.sort(deltas[inside])
        assert row.pairs == inside.sum()
        assert row.mean == pytest.approx(values.mean()) and row.median == pytest.approx(np.median(values))
        assert row.top == pytest.approx(values[-int(np.ceil(len(values) / 4)) :].mean())
        assert row.centre == pytest.approx(apart[inside].mean())
        assert row.mean_low <= row.mean <= row.mean_high
        seen += list(values)
    assert len(seen) == 35


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_bins_hold_all_pairs_whatever_their_ties(differences):
    count = len(differences)
    units = pd.DataFrame(
        {
            "method": "kl",
            "student": [f"s{number % 3}" for number in range(count)],
            "teacher": [f"t{number}" for number in range(count)],
            "accuracy_difference": np.array(differences) / 100,
            "transfer_delta": np.arange(count) / 1000,
        }
    )
    table = measures.by_difference(units)
    assert table["pairs"].sum() == count
    assert (table["top"] >= table["mean"] - 1e-12).all()
    apart = units["accuracy_difference"]
    for row in table.itertuples():
        last = row.high == apart.max()
        inside = (apart >= row.low) & ((apart < row.high) | last)
        assert row.mean == pytest.approx(units.loc[inside, "transfer_delta"].mean())


def test_rates_of_top_classes_are_means_over_pairs(trials):
    draw = np.random.default_rng(0)
    done = trials[trials["teacher"].notna()]
    rates = pd.DataFrame(
        {
            "trial": np.repeat(done["trial"].to_numpy(), 2),
            "share": [0.1, 1.0] * len(done),
            "classes": 3,
            "transfer_rate": draw.integers(0, 2, 2 * len(done)).astype(float),
        }
    )
    rates.loc[0, "transfer_rate"] = np.nan
    table = measures.rates_of_top_classes(rates, trials)
    both = measures.rates_of_top_classes(
        rates.assign(gain_rate=3.0), trials, measures.SHARE | {"gain_rate": (0, np.inf)}
    )
    assert (both["gain_rate_low"] == 3).all() and (both["gain_rate_high"] == 3).all()
    pd.testing.assert_frame_equal(both[table.columns], table)
    joined = rates.merge(done, on="trial", suffixes=("", "_of_trial")).dropna(subset="transfer_rate")
    chosen = joined[
        (joined["method"] == "kl_dp") & (joined["student_family"] == "cnn") & (joined["share"] == 0.1)
    ]
    expected = chosen.groupby(["student", "teacher"])["transfer_rate"].mean()
    row = table[(table["method"] == "kl_dp") & (table["family"] == "cnn") & (table["share"] == 0.1)].iloc[0]
    assert row["transfer_rate"] == pytest.approx(expected.mean()) and row["pairs"] == len(expected)
    assert 0 <= row["transfer_rate_low"] <= row["transfer_rate"] <= row["transfer_rate_high"] <= 1
    assert len(table) == 5 * 3 * 2


def test_by_student_is_the_mean_over_its_teachers(trials, units):
    table = measures.by_student(units).set_index(["method", "student"])
    assert len(table) == 5 * 7
    for (method, student), row in table.iterrows():
        mine = trials[(trials["method"] == method) & (trials["student"] == student)]
        assert row["teachers"] == mine["teacher"].nunique()
        assert row["transfer_delta"] == pytest.approx(mine["transfer_delta"].mean())
        assert row["transfer_rate"] == pytest.approx(mine["transfer_rate"].mean())
        assert row["gain_rate"] == pytest.approx((mine["knowledge_gain"] / mine["rho_pos_before"]).mean())
        assert row["gain_rate"] > row["transfer_rate"]  # something was gained that the teacher did not know
        assert row["accuracy"] == pytest.approx(mine["student_accuracy_before"].iloc[0])
        assert row["parameters"] == mine["student_parameters"].iloc[0]


@pytest.mark.parametrize("varied", ["accuracy", "size", "family"])
def test_controlled_pairs_are_alike_in_the_others(trials, units, varied):
    table = measures.controlled_pairs(units, varied)
    mine = trials[trials["method"] == "kl"]
    about = mine.drop_duplicates("student").set_index("student")
    wanted = set()
    for one, two in itertools.combinations(about.index, 2):
        a, b = about.loc[one], about.loc[two]
        near = {
            "accuracy": abs(a["student_accuracy_before"] - b["student_accuracy_before"]) <= 0.02 + 1e-9,
            "size": max(a["student_parameters"], b["student_parameters"])
            <= 3 * min(a["student_parameters"], b["student_parameters"]),
            "family": a["student_family"] == b["student_family"],
        }
        others = [value for name, value in near.items() if name != varied]
        if all(others) and not (varied == "family" and near["family"]):
            wanted.add(frozenset((one, two)))
    found = table[table["method"] == "kl"]
    assert {frozenset(pair) for pair in zip(found["student_a"], found["student_b"], strict=True)} == wanted
    assert len(found) == len(wanted) > 0
    row = found.iloc[0]
    deltas = mine.pivot_table("transfer_delta", "teacher", "student")[[row["student_a"], row["student_b"]]]
    assert row["transfer_delta_a"] == pytest.approx(deltas.dropna()[row["student_a"]].mean())
    assert row["transfer_delta_b"] == pytest.approx(deltas.dropna()[row["student_b"]].mean())
    order = {"accuracy": "accuracy", "size": "parameters", "family": "family"}[varied]
    assert (table[f"{order}_a"] <= table[f"{order}_b"]).all()


def test_controlled_pairs_are_compared_over_the_teachers_that_both_had(trials):
    table = measures.controlled_pairs(over_seeds(trials), "size")
    first = table[table["method"] == "kl"].iloc[0]
    gone = (trials["student"] == first["student_a"]) & (trials["teacher"] == "teacher-00")
    gone &= trials["method"] == "kl"
    rest = trials[~gone]
    again = measures.controlled_pairs(over_seeds(rest), "size")
    again = again[(again["method"] == "kl") & (again["student_a"] == first["student_a"])].iloc[0]
    assert again["teachers"] == first["teachers"] - 1
    mine = rest[(rest["method"] == "kl") & (rest["teacher"] != "teacher-00")]
    expected = mine[mine["student"] == again["student_b"]]["transfer_delta"].mean()
    assert again["transfer_delta_b"] == pytest.approx(expected)


def test_no_two_students_alike_is_an_empty_table():
    students = sweeps.made_up(3, "student", (0.5, 0.9))
    trials = sweeps.simulate(students, 3, methods=["kl"], samples=400).trials
    assert measures.controlled_pairs(over_seeds(trials), "size").empty


def test_learning_curves_are_medians_over_trials(tmp_path):
    sweep = sweeps.simulate(3, 3, samples=300, epochs=4)
    sweeps.write(tmp_path, sweep, predictions=False, merged=0.5)
    history = training_measures.load_history(tmp_path, sweep.trials)
    assert len(history) == 4 * len(sweep.trials)
    table = training_measures.learning_curves(history)
    raw = pd.read_parquet(tmp_path / "history").merge(sweep.trials[["trial", "method"]], on="trial")
    first = raw[raw["epoch"] == 0].set_index("trial")["loss"]
    raw["relative"] = raw["loss"] / raw["trial"].map(first)
    row = table[
        (table["method"] == "kl") & (table["measure"] == "relative_loss") & (table["epoch"] == 3)
    ].iloc[0]
    values = raw[(raw["method"] == "kl") & (raw["epoch"] == 3)]["relative"]
    assert row["median"] == pytest.approx(values.median()) and row["trials"] == len(values) == 9
    assert row["q1"] == pytest.approx(values.quantile(0.25))
    assert row["q3"] == pytest.approx(values.quantile(0.75))
    shares = table[table["measure"] == "teacher_share"]["method"].unique().tolist()
    assert shares == ["kl_dp", "kl_dp_unsupervised"]


def test_history_of_other_trials_and_twice_the_same_are_passed_over(tmp_path):
    sweep = sweeps.simulate(2, 2, samples=200)
    sweeps.write(tmp_path, sweep, predictions=False)
    some = sweep.trials.iloc[:3]
    folder = tmp_path / "history"
    once = pd.read_parquet(folder / f"{some['trial'].iloc[0]}.parquet")
    once.assign(seconds=0.0).to_parquet(folder / "merged-again.parquet")
    history = training_measures.load_history(tmp_path, some)
    assert set(history["trial"]) == set(some["trial"]) and not history.duplicated(["trial", "epoch"]).any()


def test_no_history_is_an_empty_table_and_a_damaged_one_is_named(tmp_path):
    sweep = sweeps.simulate(2, 2, samples=200)
    sweeps.write(tmp_path, sweep, predictions=False, history=False)
    assert training_measures.load_history(tmp_path, sweep.trials).empty
    path = tmp_path / "history" / "damaged.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ResultsError, match=r"damaged\.parquet"):
        training_measures.load_history(tmp_path, sweep.trials)


def test_time_by_method_adds_up(trials):
    table = training_measures.time_by_method(trials)
    assert table["trials"].sum() == len(trials)
    assert table["hours"].sum() == pytest.approx(trials["seconds"].sum() / 3600)
    mine = trials[trials["method"] == "xe_kl"]
    row = table[table["method"] == "xe_kl"].iloc[0]
    assert row["seconds"] == pytest.approx(mine["seconds"].median())
    rate = (mine["transfer_samples"] * mine["epochs"] / mine["seconds_train"]).median()
    assert row["samples_per_second"] == pytest.approx(rate)


# --- which epoch --------------------------------------------------------------------------------


def of_epochs(student, tune=None, teacher=None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """History and trials of three students with two teachers; accuracies of trial t are moved by t / 100."""
    rows, trials = [], []
    for number in range(6):
        name, move = f"t{number}", number / 100
        trials.append(
            {
                "trial": name,
                "method": "kl",
                "student": f"s{number % 3}",
                "teacher": f"m{number // 3}",
                "student_accuracy_before": 0.5 + move,
                "teacher_accuracy": 0.6,
            }
        )
        for epoch, accuracy in enumerate(student):
            rows.append(
                {
                    "trial": name,
                    "method": "kl",
                    "epoch": epoch,
                    "student_accuracy": accuracy and accuracy + move,
                    "tune_accuracy": tune and tune[epoch],
                    "teacher_accuracy": teacher and teacher[epoch],
                }
            )
    return pd.DataFrame(rows).sample(frac=1, random_state=0), pd.DataFrame(trials)


def test_the_epoch_that_is_chosen_by_hand():
    history, trials = of_epochs([0.52, 0.58, 0.54], [0.7, 0.6, 0.7], [0.6, 0.65, 0.61])
    table = training_measures.epochs_chosen(history, trials).set_index("model")
    assert table["pairs"].tolist() == [6, 6]
    student, teacher = table.loc["student"], table.loc["teacher"]
    assert student[["last", "by_tune", "by_evaluation"]].tolist() == pytest.approx([0.04, 0.02, 0.08])
    assert student["by_evaluation_over"] == pytest.approx(0.04)
    assert student["by_tune_over"] == pytest.approx(-0.02)  # of equals the earliest
    assert teacher[["last", "by_evaluation"]].tolist() == pytest.approx([0.01, 0.05])
    assert np.isnan(teacher["by_tune"])
    # All pairs say the same.
    assert student[["last_low", "last_high"]].tolist() == pytest.approx([0.04, 0.04])


def test_choosing_by_the_images_reported_on_never_looks_worse():
    random = np.random.default_rng(0)
    accuracies = random.uniform(0.4, 0.9, 5).tolist()
    history, trials = of_epochs(accuracies)
    history["student_accuracy"] += random.normal(0, 0.01, len(history))
    row = training_measures.epochs_chosen(history, trials).iloc[0]
    assert row["by_evaluation"] >= row["last"] and row["by_evaluation_over_low"] >= 0
    assert np.isnan(row["by_tune"])


def test_what_was_evaluated_once_has_no_epoch_to_choose():
    history, trials = of_epochs([None, None, 0.6])
    assert training_measures.epochs_chosen(history, trials).empty


def of_top_k(folder: Path, measures: dict[str, dict[str, float]] | None) -> pd.DataFrame:
    """Trials of KL and KL over the top k on four pairs, and the history of the latter."""
    rows = [
        {"trial": f"{method}-{t}", "method": method, "student": "s", "teacher": t, "seed": 0, "status": "ok"}
        | {"transfer_delta": delta, "accuracy_difference": 0.0}
        for method, deltas in {"kl": (0.1, 0.2, 0.3, 0.4), "kl_top_k": (0.1, 0.1, 0.1, 0.1)}.items()
        for t, delta in zip("abcd", deltas, strict=True)
    ]
    epochs = [
        {"trial": f"kl_top_k-{t}", "epoch": epoch} | ({"measures": [*known.items()]} if known else {})
        for t, known in (measures or dict.fromkeys("abcd")).items()
        for epoch in (0, 1)
    ]
    (folder / "history").mkdir()
    schema = pa.schema(
        {"trial": pa.string(), "epoch": pa.int32(), "measures": pa.map_(pa.string(), pa.float64())}
    )
    table = pa.Table.from_pylist(
        epochs, schema if measures else pa.schema([schema.field(0), schema.field(1)])
    )
    pq.write_table(table, folder / "history" / "one.parquet")
    return pd.DataFrame(rows)


def test_what_top_k_leaves_out_is_the_rest_of_the_divergence_beside_the_difference_to_kl(tmp_path):
    known = {t: {"divergence": 1.0 + n, "divergence_top_k": 1.0} for n, t in enumerate("abcd")}
    table = training_measures.outside_top_k(tmp_path, of_top_k(tmp_path, known)).sort_values("teacher")
    assert table["outside"].tolist() == [0, 1, 2, 3]
    assert table["difference"].tolist() == pytest.approx([0, -0.1, -0.2, -0.3])


@pytest.mark.parametrize(
    "known", [None, {t: {"teacher_share": 1.0} for t in "abcd"}], ids=["older", "others"]
)
def test_a_history_without_divergences_says_nothing_of_the_top_k(tmp_path, known):
    assert training_measures.outside_top_k(tmp_path, of_top_k(tmp_path, known)).empty
