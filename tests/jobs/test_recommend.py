"""Ranking teachers as a user does it, before a study has run and after."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from study import derivation, knowledge, recommend, spec
from study.store import records, schemas
from tests.jobs.running import refused, results_of, run, run_here

RECOMMEND = "jobs/recommend.py"


def with_tune(content: dict) -> dict:
    """The small study with images kept aside, and a third model, so that a student has two teachers."""
    content["data"]["splits"]["tune"] = 60
    weights = {"source": "trained", "seed": 5, "phases": [{"epochs": 1, "lr": 0.01}]}
    content["zoo"]["short"] = content["zoo"]["mixer"] | {"weights": weights}
    content["methods"] = {name: content["methods"][name] for name in ("xe", "kl")}
    return content


@pytest.mark.ray
def test_teachers_are_ranked_before_a_study_has_run_and_learnt_from_after(content, write_study):
    path, results = write_study(with_tune(content)), results_of(content)
    done = run(RECOMMEND, path, "--rule", "most_accurate", "--method", "kl")
    assert done.returncode == 0, done.stderr
    assert "teachers by 'most_accurate', what is expected of kl" in done.stdout
    features = pd.read_parquet(results / "features")
    assert len(features) == 6 and set(features["samples"]) == {60}
    study = spec.load(path)
    from study.workspace import of

    place = of(study)
    labels = place.labels("tune")
    right = {
        name: knowledge.correct(
            place.outputs(place.load(model), "tune").logits.float().argmax(1).numpy(), labels
        )
        for name, model in study.zoo.items()
    }
    for row in features.itertuples():
        assert row.rho_pos == pytest.approx(knowledge.rho_pos(right[row.student], right[row.teacher]))
        assert row.teacher_accuracy == pytest.approx(right[row.teacher].mean())
    first = pd.read_parquet(results / "recommendations")
    assert set(first["rule"]) == set(recommend.RULES) and len(first) == 6 * len(recommend.RULES)
    mine = first[(first["rule"] == "most_accurate") & (first["student"] == "short")]
    best = max(["mixer", "resnet"], key=lambda name: right[name].mean())
    assert mine.loc[mine["score"].idxmax(), "teacher"] == best

    records.prepare(study.results, schemas.TRANSFER_TABLES)
    for trial in study.trials():
        derivation.run_and_record(trial, place, study)
    again = run(RECOMMEND, path)
    assert again.returncode == 0, again.stderr
    second = pd.read_parquet(results / "recommendations")
    assert not np.allclose(first["predicted"].fillna(9), second["predicted"].fillna(9))
    reported = run("analysis/report.py", results)
    assert reported.returncode == 0, reported.stderr
    table = pd.read_csv(results / "analysis" / "tables" / "regret_by_rule.csv")
    assert set(table["rule"]) == {*recommend.RULES, "random", "one_order"}
    assert (table["regret"] >= 0).all()


def test_studies_that_cannot_be_looked_at_beforehand_are_refused(content, write_study):
    refused(run_here(RECOMMEND, write_study(content)), "data.splits.tune", "a few hundred suffice")
    content["data"]["splits"]["tune"] = 60
    refused(run_here(RECOMMEND, write_study(content), "--method", "kk"), "--method kk", "kl_dp")
    refused(run_here(RECOMMEND, write_study(content), "--method", "xe"), "--method xe", "kl_dp")
    none = content | {"pairs": {"students": ["mixer"], "teachers": ["mixer"]}}
    refused(run_here(RECOMMEND, write_study(none)), "no model is paired with another one")
    content["methods"] = {"xe": {"lr": 1e-2}}
    refused(run_here(RECOMMEND, write_study(content)), "methods: none learns from a teacher")
