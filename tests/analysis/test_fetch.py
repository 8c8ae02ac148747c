"""Results read from a store, as from a folder: a real S3 server on this machine."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from analysis import report
from analysis.fetch import fetched
from analysis.results import ResultsError, load
from tests.analysis import sweeps


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    """A results folder in a bucket: its URL, and the folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "local"
    sweeps.write(folder, sweeps.simulate(2, 2, methods=["xe", "kl"], samples=100))

    for path in folder.rglob("*.parquet"):
        key = f"mine/{path.relative_to(folder)}"
        s3.client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
    return s3.url("mine"), folder


def test_the_report_of_a_url_is_that_of_the_folder(bucket, tmp_path, monkeypatch, capsys):
    url, folder = bucket
    monkeypatch.chdir(tmp_path)
    assert report.main([url]) == 0 and report.main([str(folder)]) == 0
    there, here = tmp_path / "results" / "mine" / "analysis", folder / "analysis"
    for name in ("statements.parquet", "report.md", "tables/all_trials.csv"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


def test_only_what_is_new_is_fetched_and_what_is_gone_is_left_out(bucket, s3):
    url, folder = bucket
    copy, _ = fetched(url)
    pd.testing.assert_frame_equal(load(copy), load(folder))
    before = s3.requests
    assert fetched(url)[0] == copy
    assert s3.requests - before < 5  # lists alone
    gone = sorted((folder / "trials").iterdir())[0]
    s3.client.delete_object(Bucket="bucket", Key=f"mine/trials/{gone.name}")
    fetched(url)
    assert gone.stem not in set(load(copy)["trial"])
    assert not [path for path in copy.rglob("*") if path.name.startswith(".")]


def test_what_is_half_here_is_fetched_again(bucket):
    url, _ = bucket
    copy, _ = fetched(url)
    path = sorted((copy / "trials").iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    os.utime(path, (1, 1))
    fetched(url)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/nothing{query}", "no results lie there"),
        ("s3://absent/mine{query}", "absent"),
        ("ftp://host/mine", "cannot be fetched"),
    ],
)
def test_what_is_not_there_is_one_sentence(bucket, url, says, capsys):
    query = "?" + bucket[0].partition("?")[2]
    place = url.format(query=query)
    with pytest.raises(ResultsError, match=says) as refused:
        fetched(place)
    assert str(refused.value).startswith(f"{place}: ") and "\n" not in str(refused.value)
    assert report.main([place]) == 2
