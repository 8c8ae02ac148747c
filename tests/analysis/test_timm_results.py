"""Models and students in the columns of timm's results: names, formats, and what reads them."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from analysis import timm_results
from study.models import published

# The first line of timm's results/results-imagenet.csv.
TIMMS = "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation"
MODELS = pd.DataFrame(
    {
        "status": ["ok", "ok", "failed", "ok"],
        "name": ["big", "small", "broken", "big-untrained-0"],
        "timm": ["eva_giant_patch14_560.m30m_ft_in22k_in1k", "resnet10t", "x", "y"],
        "source": ["hub", "trained", "hub", "seed"],
        "accuracy": [0.89786, 0.5, None, 0.1],
        "top5_accuracy": [0.98992, None, None, 0.5],
        "parameters": [1_014_450_000, 231_000, None, 1],
        "input_size": [560, 28, None, 28],
        "crop_pct": [1.0, 0.875, None, 1.0],
        "interpolation": ["bicubic", "bilinear", None, "bicubic"],
        "weights": ["B", "S", None, "U"],
        "data_sha256": ["d", "d", None, "d"],
    }
)


def trials(**columns) -> pd.DataFrame:
    given = {
        "student": ["small", "small", "other"],
        "teacher": ["big", None, "big + small"],
        "combine": [None, None, "sequential"],
        "order": [None, None, "ascending"],
        "method": ["kl_dp", "xe", "kl"],
        "seed": [0, 0, 0],
        "student_weights": ["S", "S", "O"],
        "student_parameters": [231_000, 231_000, 5_000_000],
        "student_accuracy_before": [0.5, 0.5, 0.7],
        "student_accuracy_after": [0.6, 0.51, 0.72],
        "student_top5_accuracy_before": [None, None, 0.9],
        "student_top5_accuracy_after": [0.91, 0.9, 0.92],
        "data_sha256": ["d", "d", "d"],
    }
    return pd.DataFrame(given | columns)


def test_columns_and_format_are_timms():
    text = timm_results.csv(timm_results.of_models(MODELS))
    assert text.splitlines() == [
        TIMMS,
        # As timm has it, to the letter.
        'eva_giant_patch14_560.m30m_ft_in22k_in1k,89.786,10.214,98.992,1.008,"1,014.45",560,1.000,bicubic',
        "small,50.000,50.000,,,0.23,28,0.875,bilinear",
    ]


def test_students_stand_there_before_and_after():
    models = timm_results.of_models(MODELS)
    rows = timm_results.of_students(trials(), models)
    table = pd.read_csv(io.StringIO(timm_results.csv(pd.concat([models, rows])))).set_index("model")
    assert table["top1"].to_dict() == {
        "eva_giant_patch14_560.m30m_ft_in22k_in1k": 89.786,
        "other.kl_from_big+small_sequential_ascending": 72.0,
        "other": 70.0,
        "small.kl_dp_from_big": 60.0,
        "small.xe": 51.0,
        "small": 50.0,
    }
    assert table.loc["small.kl_dp_from_big", ["img_size", "crop_pct", "interpolation"]].tolist() == [
        *(28, 0.875, "bilinear")
    ]
    assert table.loc["other", ["img_size", "crop_pct", "interpolation"]].isna().all()
    assert table.loc["other", "top5"] == 90.0


def test_of_several_seeds_each_has_its_own_name():
    of = trials(seed=[0, 1, 0])
    names = timm_results.of_students(of, timm_results.of_models(MODELS))["model"]
    assert {"small.kl_dp_from_big_seed0", "small.xe_seed1"} <= set(names)
    assert names.is_unique


def test_records_of_an_older_version_lack_some():
    few = ["status", "name", "source", "accuracy", "parameters"]
    rows = timm_results.of_models(MODELS[few])
    of = trials().drop(columns=timm_results.OF_TRIALS)
    lines = timm_results.csv(pd.concat([rows, timm_results.of_students(of, rows)])).splitlines()
    assert lines[0] == TIMMS
    assert lines[1] == 'big,89.786,10.214,,,"1,014.45",,,'


def test_of_several_data_sets_there_is_no_such_table():
    models = timm_results.of_models(MODELS)
    assert timm_results.csv(pd.concat([models, models.assign(data="e")])) is None


def test_what_reads_timms_results_reads_these(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(timm_results.csv(timm_results.of_models(MODELS)))
    found = published.top1(str(path))
    assert found["eva_giant_patch14_560.m30m_ft_in22k_in1k", 560] == pytest.approx(0.89786)
