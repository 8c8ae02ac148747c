"""Gain on chosen classes and loss elsewhere, against brute force over the predictions of made-up sweeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import choosing
from analysis.exhibit import LeftOut, section
from analysis.exhibits import choosing as exhibits
from analysis.inference import crossed_bootstrap
from analysis.material import Material
from tests.analysis import sweeps

EFFECTS = {
    name: sweeps.Effect(0.0, spread=2.0, lost=4.0) for name in ("xe", "kl", "of_classes", "of_experts")
}
CHOSEN = [1, 4]


def experts(student: str, teacher: str) -> list[int]:
    """No class, all of them, or some, by the pair."""
    first, second = (int(name[-1]) for name in (student, teacher))
    return [[], [*range(6)], [first, second + 2]][(first + second) % 3]


@pytest.fixture(scope="module")
def made() -> sweeps.Sweep:
    sweep = sweeps.simulate(
        3, 3, methods=[*EFFECTS], effects=EFFECTS, seeds=2, samples=300, classes=6, failed=2
    )
    trials = sweep.trials
    chosen = [
        CHOSEN
        if row.method == "of_classes"
        else experts(row.student, row.teacher)
        if row.method == "of_experts"
        else None
        for row in trials.itertuples()
    ]
    return replace(sweep, trials=trials.assign(classes_taught=pd.Series(chosen, dtype=object)))


@pytest.fixture(scope="module")
def material(tmp_path_factory, made) -> Material:
    return Material(sweeps.write(tmp_path_factory.mktemp("choosing") / "results", made))


def change(predictions: pd.DataFrame, classes: list[int], inside: bool) -> float:
    """The change of accuracy on the samples of some classes, or of all others."""
    mine = predictions[predictions["label"].isin(classes) == inside]
    before, after = ((mine[name] == mine["label"]).mean() for name in ("student_before", "student_after"))
    return after - before


def test_either_part_is_counted_as_by_brute_force(material, made):
    said = dict(list(pd.read_parquet(material.folder / "predictions").groupby("trial")))
    done = made.trials[made.trials["status"] == "ok"]
    table = choosing.by_pair(material.trials, material.flips_by_class)
    assert set(table["chooser"]) == {"of_classes", "of_experts"}
    for row in table.itertuples():
        taught = done["teacher"].isna() if row.method == "xe" else done["teacher"] == row.teacher
        seeds = done[(done["method"] == row.method) & (done["student"] == row.student) & taught]
        own = done[(done["method"] == row.chooser) & (done["student"] == row.student)]
        seeds = seeds[seeds["seed"].isin(own.loc[own["teacher"] == row.teacher, "seed"])]
        classes = CHOSEN if row.chooser == "of_classes" else experts(row.student, row.teacher)
        assert row.classes == len(classes)
        for part in choosing.PARTS:
            each = [change(said[trial], classes, part == "chosen") for trial in seeds["trial"]]
            expected = np.mean(each) if each else np.nan
            assert getattr(row, part) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_who_chooses_other_classes_is_no_control(material):
    table = choosing.by_pair(material.trials, material.flips_by_class)
    for chooser, mine in table.groupby("chooser"):
        assert set(mine["method"]) == {chooser, "xe", "kl"}


def test_where_nothing_or_everything_is_chosen_one_part_has_no_samples(material):
    table = material.chosen_classes
    mine = table[table["chooser"] == "of_experts"]
    assert {0.0, 6.0} < set(mine["classes"])
    assert (mine["chosen"].isna() == (mine["classes"] == 0)).all()
    assert (mine["elsewhere"].isna() == (mine["classes"] == 6)).all()


def test_means_stand_beside_the_control_on_the_same_pairs():
    nan = np.nan
    pairs = pd.DataFrame(
        {
            "chooser": "c",
            "method": ["c"] * 6 + ["xe"] * 6,
            "student": list("aabbcc") * 2,
            "teacher": list("tu") * 6,
            "accuracy_difference": [-0.05, 0.05] * 6,
            "classes": [2.0, 0.0] * 6,
            "chosen": [0.03, nan, 0.01, nan, 0.02, nan, 0.01, nan, 0.0, nan, 0.01, nan],
            "elsewhere": [-0.01, 0, -0.03, 0, -0.02, 0.01, 0, 0.01, 0, 0.01, 0, 0],
        }
    )
    table = choosing.by_method(pairs).set_index(["method", "level"])
    whole = table.loc["c", "all"]
    assert (whole["chosen"], whole["elsewhere"]) == pytest.approx((0.02, -0.05 / 6))
    assert (whole["pairs"], whole["chosen_pairs"], whole["elsewhere_pairs"]) == (6, 3, 6)
    assert np.isnan(whole["chosen_difference"])
    control = table.loc["xe", "all"]
    found = control["chosen_difference"], control["elsewhere_difference"]
    assert found == pytest.approx((0.04 / 3, -0.07 / 6))
    bounds = crossed_bootstrap([-0.01, -0.01, -0.03, -0.01, -0.02, 0.01], list("aabbcc"), list("tututu"))
    found = control["elsewhere_difference_low"], control["elsewhere_difference_high"]
    assert np.isfinite(bounds).all() and found == pytest.approx(bounds)
    assert table.loc[("xe", "weaker"), "elsewhere_difference"] == pytest.approx(-0.02)
    assert np.isnan(table.loc[("c", "stronger"), "chosen"])
    assert ("c", "equal") not in table.index


def test_the_section_has_the_table(material):
    made = section(exhibits, material)
    (one,) = made.exhibits
    assert len(one.cells) == len(one.shown.numbers) and "XE (control)" in set(one.cells["method"])


def test_older_records_have_no_such_section(tmp_path, made):
    old = replace(made, trials=made.trials.drop(columns="classes_taught"))
    found = Material(sweeps.write(tmp_path / "results", old))
    with pytest.raises(LeftOut, match="no method chooses classes"):
        _ = found.chosen_classes
    assert section(exhibits, found) is None
