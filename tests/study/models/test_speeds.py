"""Hours by timm's measurements: of what it has measured, at another size by the ratio of pixels."""

import math

import pandas as pd
import pytest

from study import spec
from study.models import speeds
from study.models.timm_import import timm


def model(name: str, **config) -> spec.Model:
    return spec.Model(name="m", timm=name, family="cnn", config=config)


@pytest.fixture
def measured(monkeypatch):
    index = pd.MultiIndex.from_tuples([("resnet18", 224), ("resnet18", 288)], names=["model", "img_size"])
    table = pd.DataFrame({"fast": [1000.0, 500.0], "slow": [100.0, math.nan]}, index=index)
    monkeypatch.setattr(speeds, "table", lambda: table)


def test_seconds_are_samples_over_speeds(measured):
    both = [model("resnet18.a1_in1k"), model("resnet18.a1_in1k", size="test")]  # 224 and 288
    assert speeds.seconds(both, 50_000) == {"fast": (150.0, 2), "slow": (500.0, 1)}


def test_another_size_is_taken_by_its_pixels(measured):
    half = model("resnet18.a1_in1k", input_size=[3, 112, 112])
    assert speeds.seconds([half], 1000) == {"fast": (0.25, 1), "slow": (2.5, 1)}


def test_what_timm_has_not_measured_is_in_no_number(measured):
    assert speeds.seconds([model("resnet34.a1_in1k")], 1000) == {"fast": (0.0, 0), "slow": (0.0, 0)}


def test_the_shipped_table_is_of_timms_models():
    table = speeds.table()
    assert table.index.is_unique
    assert {name for name, _ in table.index} <= set(timm.list_models())
    assert (table.min() > 0).all() and (table.count() > 1000).all()
    # A larger input is never faster, but for what measuring anew changes.
    for _, of_model in table.groupby("model"):
        for _, speed in of_model.sort_index().items():
            known = speed.dropna()
            assert (known.diff().dropna() < 0.05 * known.max()).all()
