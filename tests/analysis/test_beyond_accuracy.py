"""Scores and other images: means by hand, seeds averaged first, and what is not known left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import beyond_accuracy
from analysis.inference import crossed_bootstrap
from study.store import records, schemas


def trials(count: int = 24) -> pd.DataFrame:
    """Three students with two teachers by two methods, two seeds each, and made-up scores."""
    random = np.random.default_rng(0)
    number = np.arange(count)
    frame = pd.DataFrame(
        {
            "trial": [f"{n:016x}" for n in number],
            "status": "ok",
            "method": np.where(number % 2, "kl", "kl_dp"),
            "student": [f"s{n // 2 % 3}" for n in number],
            "teacher": [f"t{n // 6 % 2}" for n in number],
            "seed": number // 12,
            "transfer_delta": random.normal(0, 0.01, count),
        }
    )
    return frame.assign(**{name: random.random(count) for name in beyond_accuracy.COLUMNS})


def test_changes_are_means_over_pairs_after_their_seeds():
    frame = trials()
    frame.loc[0, "student_top5_accuracy_after"] = np.nan  # its pair is then known by the other seed alone
    table = beyond_accuracy.scores(frame).set_index(["score", "method"])
    assert list(table.index.get_level_values("score").unique()) == list(beyond_accuracy.SCORES)
    for (score, method), row in table.iterrows():
        mine = frame[frame["method"] == method]
        change = mine[f"student_{score}_after"] - mine[f"student_{score}_before"]
        pairs = change.groupby([mine["student"], mine["teacher"]]).mean()
        assert row["pairs"] == len(pairs) == 6
        assert row["change"] == pytest.approx(pairs.mean())
        units = pairs.reset_index(name="value")
        bounds = crossed_bootstrap(units["value"].to_numpy(), units["student"], units["teacher"])
        assert (row["low"], row["high"]) == pytest.approx(bounds)
        assert row["after"] - row["before"] == pytest.approx(row["change"])


def test_what_older_records_lack_is_left_out():
    frame = trials().drop(columns=beyond_accuracy.COLUMNS[:2])
    assert set(beyond_accuracy.scores(frame)["score"]) == set(beyond_accuracy.SCORES[1:])
    assert beyond_accuracy.scores(frame.drop(columns=beyond_accuracy.COLUMNS[2:])).empty


def test_sets_stand_beside_the_studys_own_images(tmp_path):
    frame = trials()
    records.prepare(tmp_path, schemas.TRANSFER_TABLES)
    assert beyond_accuracy.load_evaluations(tmp_path, frame).empty
    deltas = {}
    for number, row in enumerate(frame.itertuples()):
        deltas[row.trial] = own = [row.transfer_delta / 2, 0.01 * (number % 3 - 1)]
        columns = {
            "set": ["half", "other"],
            "classes": [10, 3],
            "evaluation_samples": [100, 50],
            "transfer_delta": own,
            "student_accuracy_before": [0.5, 0.25],
        }
        records.write(tmp_path, "evaluations", row.trial, columns)
    failed = frame.assign(status=np.where(frame["trial"] == frame["trial"][1], "failed", "ok"))
    assert len(beyond_accuracy.load_evaluations(tmp_path, failed)) == 2 * (len(frame) - 1)
    table = beyond_accuracy.sets(beyond_accuracy.load_evaluations(tmp_path, frame)).set_index(
        ["set", "method"]
    )
    for (name, method), row in table.iterrows():
        mine = frame[frame["method"] == method]
        delta = mine["trial"].map(deltas).str[("half", "other").index(name)]
        pairs = delta.groupby([mine["student"], mine["teacher"]]).mean()
        own = mine["transfer_delta"].groupby([mine["student"], mine["teacher"]]).mean()
        assert row["delta"] == pytest.approx(pairs.mean())
        assert row["own_delta"] == pytest.approx(own.mean())
        assert row["difference"] == pytest.approx((pairs - own).mean())
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["positive"] == (pairs.round(12) > 0).sum()
        assert (row["classes"], row["samples"]) == ((10, 100), (3, 50))[("half", "other").index(name)]
    assert table.loc[("half", "kl"), "delta"] == pytest.approx(table.loc[("half", "kl"), "own_delta"] / 2)
