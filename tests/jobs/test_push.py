"""Results pushed to the hub as a user does it, against a stand-in of its interface, and read from there."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import fetch, report, results
from study.store import storage
from tests.analysis import atlases, sweeps
from tests.jobs.running import refused, run_here

JOB = "jobs/push.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of a small sweep and its atlas."""
    place = sweeps.write(tmp_path_factory.mktemp("results"), sweeps.simulate(3, 3, samples=200))
    return atlases.write(place, atlases.tables(atlases.simulate(4, 200, 10)))


@pytest.fixture
def pushed(the_hub, folder):
    """The hub, and what the user was told."""
    done = run_here(JOB, folder, "me/demo")
    assert done.returncode == 0, done.stderr
    return the_hub, done.stdout


def test_results_are_one_private_commit_with_a_card(pushed, folder):
    the_hub, said = pushed
    made = the_hub.repositories["dataset", "me/demo"]
    assert made.private
    assert len(made.commits) == 2
    assert made.commits[-1].message == "Records: 48 trials, 7 models"
    assert made.commits[-1].files["README.md"].startswith(b"---\npretty_name: demo\n")
    assert said.count("\n") < 25
    assert "pd.read_parquet('hf://datasets/me/demo/trials')" in said
    assert not (folder / "README.md").exists()


def test_pandas_reads_them_as_the_card_says(pushed, folder):
    table = pd.read_parquet("hf://datasets/me/demo/trials")
    expected = pd.read_parquet(folder / "trials")
    assert sorted(table["trial"]) == sorted(expected["trial"])
    assert table["host"].isna().all()


def test_the_analysis_reads_them_from_there(pushed, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for place in ("hf://datasets/me/demo", str(folder)):
        assert report.main([place, *([] if place[:2] == "hf" else ["--out", "here"])]) == 0
    capsys.readouterr()
    there = tmp_path / "results" / "demo" / "analysis"
    for name in ("statements.parquet", "report.md"):
        assert (there / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_the_report_lists_models_in_timms_columns(pushed, tmp_path, capsys):
    assert report.main(["hf://datasets/me/demo", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    table = pd.read_csv(tmp_path / "tables" / "timm_results.csv")
    assert len(table) == 3 + 48


def test_a_second_push_replaces_what_is_there(pushed, folder, tmp_path):
    the_hub, _ = pushed
    before = the_hub.files("dataset", "me/demo")
    assert run_here(JOB, folder, "me/demo").returncode == 0
    assert len(the_hub.repositories["dataset", "me/demo"].commits) == 2
    other = sweeps.write(tmp_path / "other", sweeps.simulate(2, 2, samples=200))
    assert run_here(JOB, other, "me/demo").returncode == 0
    assert len(the_hub.repositories["dataset", "me/demo"].commits) == 3
    left = set(before) & set(the_hub.files("dataset", "me/demo"))
    assert left == {"README.md", "plans/sweep.parquet"}  # named after the study, and written anew
    place, _ = fetch.fetched("hf://datasets/me/demo")
    assert len(results.load(place)) == 22


def test_an_older_commit_is_read_by_its_name(pushed, tmp_path):
    the_hub, _ = pushed
    first = the_hub.repositories["dataset", "me/demo"].commits[-1].oid
    other = sweeps.write(tmp_path / "other", sweeps.simulate(2, 2, samples=200))
    assert run_here(JOB, other, "me/demo").returncode == 0
    place, _ = fetch.fetched(f"hf://datasets/me/demo@{first}/")
    assert len(results.load(place)) == 48


def test_a_dry_run_lists_and_asks_nothing(the_hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = run_here(JOB, folder, "me/demo", "--dry-run", "--license", "cc-by-4.0")
    assert done.returncode == 0
    assert the_hub.requests == []
    assert the_hub.repositories == {}
    for part in ("predictions", "9,600", "files and README.md", "nothing is uploaded", "license: cc-by-4.0"):
        assert part in done.stdout
    assert "[arXiv 2310.17653](https://arxiv.org" in done.stdout


def test_it_is_public_if_that_is_asked_for(the_hub, folder):
    assert run_here(JOB, folder, "me/demo", "--public").returncode == 0
    assert not the_hub.repositories["dataset", "me/demo"].private


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demo", ["demo: no name of a repository", "USER/NAME"]),
        ("you/demo", ["you/demo: ", "repositories of me"]),
    ],
)
def test_a_wrong_repository_is_a_sentence(the_hub, folder, name, words):
    refused(run_here(JOB, folder, name), *words)


def test_a_wrong_results_folder_is_a_sentence(the_hub, tmp_path):
    refused(run_here(JOB, tmp_path / "no", "me/demo"), str(tmp_path / "no"), "no finished trial or model")
    refused(
        run_here(JOB, "ftp://host/results", "me/demo"), "'ftp://host/results' is no URL that pyarrow can open"
    )
    assert the_hub.repositories == {}


def test_a_hub_that_fails_is_a_sentence_and_leaves_nothing(the_hub, folder, monkeypatch):
    monkeypatch.setenv(storage.PATIENCE, "0.3")
    the_hub.fail(503, path="/lfs/")
    refused(run_here(JOB, folder, "me/demo"), "hf://datasets/me/demo", "the hub answers 503")
    assert the_hub.files("dataset", "me/demo") == {}
    the_hub.fail(403, path="/commit/")
    refused(run_here(JOB, folder, "me/demo"), "me/demo", "the hub answers 403", "hf auth login")
    assert the_hub.files("dataset", "me/demo") == {}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("hf://datasets/me/nothing", ["cannot be fetched (404", "correct its name, or log in"]),
        ("hf://datasets/me/demo@nowhere", ["cannot be fetched (404", "correct its name"]),
        ("hf://me/model", ["no data set of the hub; give hf://datasets/USER/NAME"]),
        ("hf://datasets/me", ["no data set of the hub"]),
    ],
)
def test_a_data_set_that_is_not_there_is_a_sentence(pushed, place, words, capsys):
    assert report.main([place]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: {place}: ")
    assert "\n" not in said
    for word in words:
        assert word in said


def test_a_hub_that_does_not_answer_the_analysis_is_a_sentence(pushed, capsys):
    the_hub, _ = pushed
    the_hub.fail(503)
    assert report.main(["hf://datasets/me/demo"]) == 2
    assert "cannot be fetched" in capsys.readouterr().err
