"""docs/own_plots.md, run as it stands: its figures and numbers against what was planted in a sweep."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.analysis import sweeps

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_plots.md"
FIGURES = ["transfer_delta.png", "gained.png", "learning_curves.png", "success_rate.png"]


def write(folder: Path) -> sweeps.Sweep:
    """A results folder with everything that the page warns of; returns the sweep that its numbers are of.

    Some trials failed, some are of before the study was edited, some stand in two files, and one failed in a
    first file and finished in a second.
    """
    now = sweeps.simulate(4, 4, samples=300, failed=2, study="demo")
    noise = np.random.default_rng(0).uniform(0.5, 1, len(now.history))  # so that no two curves are the same
    now = replace(now, history=now.history.assign(loss=now.history["loss"] * noise))
    former = sweeps.simulate(3, 2, samples=300, study="former", seed=1)
    sweeps.write(folder, former)
    shutil.rmtree(folder / "plans")
    sweeps.write(folder, now, merged=0.5)
    for table in ("trials", "history", "predictions"):
        (merged,) = (folder / table).glob("merged-*.parquet")
        rows = pd.read_parquet(merged)
        trials = now.trials[now.trials["trial"].isin(set(rows["trial"])) & (now.trials["method"] == "kl_dp")]
        other, *twice = trials["trial"]
        for trial in twice:
            rows[rows["trial"] == trial].to_parquet(folder / table / f"{trial}.parquet")
        if table == "trials":
            nothing = rows[rows["trial"] == other].assign(status="failed", transfer_delta=np.nan)
            nothing.to_parquet(folder / table / f"{other}.parquet")
    return now


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The planted sweep, the names that the page's blocks leave, and the axes of each figure saved."""
    place = tmp_path_factory.mktemp("page")
    sweep = write(place / "results" / "demo")
    drawn: dict[str, Axes] = {}
    names: dict[str, object] = {}
    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
            for name in re.findall(r'savefig\("(.*?)"\)', block):
                if plt.get_fignums():
                    drawn[name] = plt.gcf().axes[0]
            plt.close("all")
        files = {path.name: path.read_bytes() for path in place.glob("*.png")}
    matplotlib.use(before)
    return sweep, names, drawn, files


@pytest.fixture(scope="module")
def done(page) -> pd.DataFrame:
    """The finished trials that were planted."""
    trials = page[0].trials
    return trials[trials["status"] == "ok"].sort_values("trial", ignore_index=True)


def gains(sweep: sweeps.Sweep, trial: str) -> pd.DataFrame:
    """What a trial gained, sample by sample."""
    said = sweep.predictions(trial).to_pandas()
    return said[(said["student_before"] != said["label"]) & (said["student_after"] == said["label"])]


def test_every_figure_is_written(page):
    assert sorted(page[3]) == sorted(FIGURES)
    assert all(content.startswith(b"\x89PNG") and len(content) > 5000 for content in page[3].values())


def test_the_first_figure_shows_each_finished_trial_once(page, done):
    axes = page[2]["transfer_delta.png"]
    shown = {
        dots.get_label(): {tuple(dot) for dot in np.round(dots.get_offsets(), 6)} for dots in axes.collections
    }
    taught = done[done["teacher"].notna()]
    assert list(shown) == sorted(taught["method"].unique())
    for method, rows in taught.groupby("method"):
        assert len(axes.collections[list(shown).index(method)].get_offsets()) == len(rows)
        points = 100 * rows[["accuracy_difference", "transfer_delta"]].to_numpy()
        assert shown[method] == {tuple(point) for point in np.round(points, 6)}


def test_the_second_figure_counts_what_kl_dp_gained(page, done):
    sweep, names, drawn, _ = page
    found = pd.concat([gains(sweep, trial) for trial in done.loc[done["method"] == "kl_dp", "trial"]])
    assert names["samples"].to_dict() == found["index"].value_counts().to_dict()
    assert names["samples"].is_monotonic_decreasing
    axes = drawn["gained.png"]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    right = found["teacher"] == found["label"]
    for label, rows in [("teacher was right", found[right]), ("teacher was wrong", found[~right])]:
        by_class = rows["label"].value_counts().reindex(sorted(found["label"].unique()), fill_value=0)
        assert heights[label] == by_class.tolist()


def test_the_third_figure_shows_relative_losses(page, done):
    sweep, _, drawn, _ = page
    lines = {line.get_label(): line.get_ydata() for line in drawn["learning_curves.png"].lines}
    assert sorted(lines) == sorted(done["method"].unique())
    of_trial = {trial: rows["loss"].to_numpy() for trial, rows in sweep.history.groupby("trial")}
    for method, rows in done.groupby("method"):
        losses = np.array([of_trial[trial] / of_trial[trial][0] for trial in rows["trial"]])
        np.testing.assert_allclose(lines[method], np.median(losses, axis=0))


def test_sql_says_the_same(page, done):
    table = page[1]["table"].set_index("method")
    assert table["trials"].to_dict() == done["method"].value_counts().to_dict()
    for method, rows in done.groupby("method"):
        assert table.loc[method, "points"] == pytest.approx(100 * np.mean(rows["transfer_delta"]))
    assert table["points"].is_monotonic_decreasing


def test_the_package_says_the_same(page, done):
    sweep, names, _, _ = page
    assert sorted(names["trials"]["trial"]) == sorted(sweep.trials["trial"])
    summary = names["summary"].set_index(["measure", "level", "subject"])["value"].sort_index()
    assert summary["trials", "all"].to_dict() == done["method"].value_counts().to_dict()
    assert summary["delta_mean", "all", "kl_dp"] == pytest.approx(
        done.loc[done["method"] == "kl_dp", "transfer_delta"].mean()
    )


def test_pandas_reads_a_bucket(page, s3, monkeypatch):
    sweep = page[0]
    for number, rows in enumerate((sweep.trials.iloc[:7], sweep.trials.iloc[7:])):
        body = rows.to_parquet(index=False)
        s3.client.put_object(Bucket="bucket", Key=f"results/mine/trials/{number}.parquet", Body=body)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.address}")
    call = re.search(r'pd\.read_parquet\("s3://[^)]*\)', PAGE.read_text())[0]
    assert eval(call, {"pd": pd})["trial"].tolist() == sweep.trials["trial"].tolist()
