"""Features against brute force, and predictions that never see the student they are for."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression

from study import recommend, spec
from study.errors import StudyError
from study.objectives import pool
from study.store import records, schemas


@pytest.fixture(scope="module")
def said():
    """Logits of a student and a teacher that know something [400, 5], and labels."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=draw)
    true = torch.nn.functional.one_hot(labels, 5)
    student, teacher = (torch.randn(400, 5, generator=draw) + s * true for s in (1.5, 2.0))
    return student, 3 * teacher, labels.numpy()


def test_features_are_those_counted_sample_by_sample(said):
    student, teacher, labels = said
    found = recommend.of_logits(student, teacher, labels)
    own, other = student.softmax(1).double(), teacher.softmax(1).double()
    right, theirs, together, same, ratios, p, q = [], [], [], [], [], [], []
    flips = np.zeros(5)
    for number, label in enumerate(labels):
        right.append(int(own[number].argmax()) == label)
        theirs.append(int(other[number].argmax()) == label)
        together.append(int((own[number] + other[number]).argmax()) == label)
        same.append(float(own[number] @ other[number]))
        p.append(float(own[number, label]))
        q.append(float(other[number, label]))
        ratios.append(math.log(q[-1] / p[-1]))
        flips[label] += theirs[-1] and not right[-1]
    right, theirs, p, q = np.array(right), np.array(theirs), np.mean(p), np.mean(q)
    expected = p * q + (1 - p) * (1 - q) / 4
    shares = flips[flips > 0] / flips.sum()
    counted = {
        "teacher_accuracy": theirs.mean(),
        "accuracy_difference": theirs.mean() - right.mean(),
        "rho_pos": np.mean(theirs & ~right),
        "rho_neg": np.mean(right & ~theirs),
        "flip_entropy": -(shares * np.log(shares)).sum() / math.log(5),
        "kappa_p": (np.mean(same) - expected) / (1 - expected),
        "spread": np.std(ratios),
        "ensemble_gain": np.mean(together) - right.mean(),
    }
    for name, value in counted.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name


def test_the_pools_gain_is_of_samples_that_its_weights_do_not_know(said):
    student, teacher, labels = said
    found = pool.gains(student, teacher, torch.from_numpy(labels))
    truth = torch.from_numpy(labels)
    order = np.random.default_rng(pool.HALVES_SEED).permutation(400)
    right, gained = 0, 0.0
    for held, rest in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        both = pool.pool_weights(student[rest], [teacher[rest]], truth[rest])
        alone = pool.pool_weights(student[rest], [], truth[rest])
        for number in held:
            logs = both[0] * student[number].log_softmax(0) + both[1] * teacher[number].log_softmax(0)
            right += int(logs.argmax() == truth[number]) - int(student[number].argmax() == truth[number])
            own = (alone[0] * student[number].double()).log_softmax(0)
            gained += float(logs.double().log_softmax(0)[truth[number]] - own[truth[number]])
    assert found["pool_gain"] == pytest.approx(right / 400)
    assert found["likelihood_gain"] == pytest.approx(gained / 400, abs=1e-5)
    assert found["pool_gain"] > 0.05 and found["likelihood_gain"] > 0.05


def test_a_teacher_that_knows_nothing_gives_the_pool_nothing(said):
    student, _, labels = said
    noise = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    found = pool.gains(student, noise, torch.from_numpy(labels))
    assert abs(found["pool_gain"]) < 0.02
    assert -0.02 < found["likelihood_gain"] < 0.01  # two numbers that fit the other half's noise
    itself = recommend.of_logits(student, student, labels)
    assert itself["rho_pos"] == itself["rho_neg"] == itself["ensemble_gain"] == itself["spread"] == 0
    assert itself["likelihood_gain"] == pytest.approx(0, abs=1e-4) and math.isnan(itself["flip_entropy"])


# --- ranking ------------------------------------------------------------------------------------


def pairs(students: int = 5, teachers: int = 6, seed: int = 0) -> pd.DataFrame:
    """Features drawn by chance, of which the delta is a linear function, and noise."""
    draw = np.random.default_rng(seed)
    rows = []
    for student in range(students):
        for teacher in range(teachers):
            row = {name: draw.normal() for name in recommend.FEATURES}
            delta = 0.01 * row["pool_gain"] + 0.005 * row["kappa_p"] + draw.normal(0, 0.001)
            rows.append({"student": f"s{student}", "teacher": f"t{teacher}", **row, "transfer_delta": delta})
    return pd.DataFrame(rows)


def test_the_regression_finds_what_the_delta_is_made_of():
    every = pairs()
    own, others = every[every["student"] == "s0"], every[every["student"] != "s0"]
    ranked = recommend.rank(own.drop(columns="transfer_delta"), "fitted", others)
    assert list(ranked["score"]) == sorted(ranked["score"], reverse=True)
    truth = own.set_index("teacher")["transfer_delta"][ranked["teacher"]].to_numpy()
    assert np.abs(ranked["predicted"] - truth).max() < 0.004 < truth.std()
    assert ((ranked["low"] < truth) & (truth < ranked["high"])).all()
    features = list(recommend.FEATURES)
    plain = LinearRegression().fit(others[features], others["transfer_delta"]).predict(own[features])
    np.testing.assert_allclose(np.sort(ranked["predicted"]), np.sort(plain), atol=2e-3)


def test_rules_without_a_fit_order_by_one_feature():
    every = pairs()
    own, others = every[every["student"] == "s0"], every[every["student"] != "s0"]
    for rule, column, sign in [
        ("most_accurate", "teacher_accuracy", -1),
        ("largest", "log_parameters", -1),
        ("least_alike", "kappa_p", 1),
        ("fewest_negative_flips", "rho_neg", 1),
        ("pool_gain", "pool_gain", -1),
    ]:
        ranked = recommend.rank(own, rule, others)
        assert list(ranked["teacher"]) == list(own.iloc[np.argsort(sign * own[column])]["teacher"]), rule
    as_dicts = recommend.rank(own.to_dict("records"), "pool_gain", others)
    assert list(as_dicts["teacher"]) == list(recommend.rank(own, "pool_gain", others)["teacher"])


@pytest.mark.parametrize("other", [-1.0, 0.5])
def test_a_student_is_never_seen_by_what_ranks_its_teachers(other):
    """Whatever its own deltas are, its scores and predictions stay; those of the others do not."""
    every = pairs(students=4)
    features = every.drop(columns="transfer_delta")
    deltas = every[["student", "teacher", "transfer_delta"]].assign(method="kl")
    own = deltas["student"] == "s1"
    changed = deltas.assign(transfer_delta=deltas["transfer_delta"].where(~own, other))
    before, after = (recommend.by_every_rule(features, of, ["kl"]) for of in (deltas, changed))
    own, numbers = before["student"] == "s1", ["score", "predicted"]
    pd.testing.assert_frame_equal(before[own], after[own])
    assert not np.isclose(before[~own]["predicted"], after[~own]["predicted"]).any()
    fitted = ~own & (before["rule"] == "fitted")
    assert not np.isclose(before[fitted][numbers], after[fitted][numbers]).any()


def test_intervals_hold_for_students_that_are_left_out():
    covered = []
    for seed in range(12):
        every = pairs(students=6, seed=seed)
        for student in every["student"].unique():
            own = every["student"] == student
            others = every[~own]
            ranked = recommend.rank(every[own], "fitted", others)
            covered.append(ranked["transfer_delta"].between(ranked["low"], ranked["high"]).mean())
    assert 0.93 < np.mean(covered) < 1


def test_conformal_distances_are_exceeded_as_rarely_as_they_say():
    assert recommend.conformal(np.arange(1.0, 20.0)) == 19
    assert recommend.conformal(np.arange(39.0, 0, -1)) == 38
    assert math.isnan(recommend.conformal(np.arange(18.0)))


def test_little_is_known_of_few_students():
    every = pairs(students=3)
    own = every[every["student"] == "s0"]
    one = recommend.rank(own, "fitted", every[every["student"] == "s1"])
    assert one["predicted"].isna().all()
    two = recommend.rank(own, "fitted", every[every["student"] != "s0"])
    assert two["predicted"].notna().all() and two["low"].isna().all()


def test_features_that_are_missing_are_taken_as_the_mean():
    every = pairs()
    every.loc[::3, "flip_entropy"] = np.nan
    assert recommend.rank(every[every["student"] == "s0"], "fitted", every)["predicted"].notna().all()


def test_rules_that_are_none_are_refused():
    with pytest.raises(ValueError, match="there is no 'best'; choose one of most_accurate, "):
        recommend.rank(pairs(), "best")


def test_what_is_known_at_first_has_every_feature():
    known = recommend.known_pairs()
    assert not known[["student", "teacher", "transfer_delta", *recommend.FEATURES]].isna().any().any()
    assert known["student"].nunique() >= 6
    ranked = recommend.rank(pairs(students=1).drop(columns="transfer_delta"), "fitted")
    assert ranked["low"].notna().all()
    assert recommend.known_pairs("none of them").empty


# --- of a study ---------------------------------------------------------------------------------


def test_a_study_without_images_kept_aside_is_refused(base):
    with pytest.raises(StudyError, match=r"data\.splits\.tune: .*\(a few hundred suffice"):
        recommend.check(spec.Study.model_validate(base))


def test_what_is_recorded_of_a_studys_pairs(content):
    content["seeds"] = [0, 1]
    study = spec.Study.model_validate(content)
    assert recommend.taught(study).empty
    records.prepare(study.results, schemas.TRANSFER_TABLES)
    trials = [trial for trial in study.trials() if trial.name in ("kl", "xe")]
    for place, trial in enumerate(trials):
        row = {"status": ["ok"], "transfer_delta": [place / 100]}
        records.write(study.results, "trials", trial.id, row)
    records.write(study.results, "trials", "abc", {"status": ["ok"], "transfer_delta": [1.0]})
    found = recommend.taught(study)
    mine = [n for n, t in enumerate(trials) if t.name == "kl" and t.student.name == "mixer"]
    assert set(found["method"]) == {"kl"} and len(found) == 2
    delta = found.set_index("student")["transfer_delta"]["mixer"]
    assert len(mine) == 2 and delta == pytest.approx(np.mean(mine) / 100)
