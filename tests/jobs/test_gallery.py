"""Pictures of what is transferred: drawn by the job from a trial that ran, and shown by the report."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from analysis import report
from jobs import transfer_sweep
from study import derivation, gallery, spec
from study.images import batches
from study.store import compaction, records, schemas
from tests.jobs.running import refused, run_here
from tests.study.trials import trial_of

GALLERY = "jobs/gallery.py"


@pytest.fixture
def ran(content, workspace, write_study):
    """A study of which two trials ran; its file, its results, and the two."""
    path = write_study(content)
    study = spec.load(path)
    trials = [trial_of(study, "kl"), trial_of(study, "kl_dp")]
    records.prepare(study.results, schemas.TRANSFER_TABLES)
    for trial in trials:
        derivation.run_and_record(trial, workspace, study)
    transfer_sweep.write_plan(study, study.trials())
    return path, study.results, trials


labels = st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=30)


@given(labels)
def test_kinds_are_those_of_the_words(rows):
    said = dict(zip(["label", *gallery.WHO], np.array(rows).T, strict=True))
    found = gallery.kinds(said)
    for place, (label, before, teacher, after) in enumerate(rows):
        assert found["known"][place] == (teacher == label != before)
        assert found["gained"][place] == (before != label == after)
        assert found["lost"][place] == (before == label != after)


def test_pictures_are_a_fair_draw_and_the_same_each_time():
    chosen = np.arange(1000) % 4 == 1
    first = gallery.drawn(chosen, 40, "ab" * 16)
    assert (gallery.drawn(chosen, 40, "ab" * 16) == first).all()
    assert len(set(first)) == 40 and chosen[first].all() and 350 < first.mean() < 650
    assert set(gallery.drawn(chosen, 9999, "cd" * 16)) == set(np.flatnonzero(chosen))
    assert len(gallery.drawn(np.zeros(5, bool), 3, "ab" * 16)) == 0


def test_the_largest_effects_are_one_gain_and_one_loss():
    def row(trial, delta):
        return {"trial": trial, "transfer_delta": delta}

    rows = [row("a", 0.01), row("b", -0.02), row("c", 0.03)]
    assert [one["trial"] for one in gallery.largest(rows)] == ["c", "b"]
    assert [one["trial"] for one in gallery.largest([row("a", 0.01), row("c", 0.03)])] == ["c"]
    assert [one["trial"] for one in gallery.largest([row("b", -0.02)])] == ["b"]


def test_large_pictures_are_shrunk_and_small_ones_enlarged_by_whole_pixels():
    for size, expected in [((300, 150), (96, 48)), ((28, 28), (84, 84)), ((60, 50), (60, 50))]:
        made = Image.open(io.BytesIO(gallery.small(Image.new("L", size, 128))))
        assert made.format == "WEBP" and made.size == expected


def test_the_job_draws_pictures_and_the_report_shows_them(ran, workspace, capsys):
    path, results, trials = ran
    done = run_here(GALLERY, path, "--pair", "mixer", "resnet", "--pictures", 5)
    assert done.returncode == 0, done.stderr
    assert "kl_dp, mixer from resnet, seed 0: " in done.stdout and "2 trials, in " in done.stdout
    table = pd.read_parquet(results / "gallery")
    assert set(table["trial"]) == {trial.id for trial in trials}
    said = pd.read_parquet(results / "predictions").set_index(["trial", "index"])
    right = said[[*gallery.WHO]].eq(said["label"], axis=0)
    known = (right["teacher"] & ~right["student_before"]).groupby(level="trial").sum()
    for row in table.to_dict("records"):
        mine = said.loc[row["trial"], row["index"]]
        assert row["label"] == f"class{mine['label']:.0f}"
        assert row["student_after"] == f"class{mine['student_after']:.0f}"
        assert row["teacher_confidence"] == mine["teacher_confidence"]
        if row["kind"] == "known":
            assert row["of"] == known[row["trial"]]
            assert row["teacher"] == row["label"] != row["student_before"]
        pixels = np.asarray(Image.open(io.BytesIO(row["picture"])).convert("L"), float)
        (whole,) = batches.whole(workspace.images, [row["index"]])
        assert np.abs(pixels - np.asarray(whole.resize((84, 84), 0).convert("L"), float)).mean() < 12
    assert table.groupby(["trial", "kind"]).size().max() == 5
    assert table.groupby(["trial", "kind"])["index"].nunique().max() == 5

    assert report.main([str(results)]) == 0
    page = (results / "analysis" / "report.html").read_text()
    section = page.partition('<section id="gallery"')[2].partition("</section>")[0]
    assert section.count('<img src="data:image/webp;base64,') == len(table)
    assert "The teacher knew it, the student did not (5 of " in section
    for trial in trials:
        assert f'id="pictures_{trial.id}"' in section
    assert (results / "analysis" / "figures" / "classes_of_flips.svg").exists()
    heat = pd.read_csv(results / "analysis" / "figures" / "classes_of_flips.csv")
    assert heat.groupby("trial")["flips"].sum().to_dict() == known.to_dict()


def test_pictures_of_merged_records_are_the_same(ran):
    path, results, _ = ran
    assert run_here(GALLERY, path).returncode == 0
    before = {file.name: file.read_bytes() for file in (results / "gallery").iterdir()}
    compaction.compact(results, lambda table, share: None)
    assert len(list((results / "predictions").iterdir())) == 1
    assert run_here(GALLERY, path).returncode == 0
    assert before == {file.name: file.read_bytes() for file in (results / "gallery").iterdir()}


def test_without_pictures_the_report_says_how_to_draw_them(ran, capsys):
    _, results, _ = ran
    assert report.main([str(results)]) == 0
    page = (results / "analysis" / "report.html").read_text()
    assert "Left out: no pictures are recorded; jobs/gallery.py STUDY draws them." in page


def test_what_cannot_be_drawn_is_one_sentence(ran, content, write_study):
    path, results, _ = ran
    refused(run_here(GALLERY, path, "--pair", "mixer", "nobody"), "--pair mixer nobody: no trial of this")
    refused(run_here(GALLERY, path, "--pictures", "0"), "--pictures 0: give a number from 1 to")
    assert not (results / "gallery").exists() or not any((results / "gallery").iterdir())
    refused(run_here(GALLERY, write_study(content | {"pictures": False})), "pictures is false")
    never = write_study(content)
    for table in ("trials", "plans"):
        for file in (results / table).iterdir():
            file.unlink()
        refused(run_here(GALLERY, never), "has finished; run jobs/transfer_sweep.py first")


def test_pictures_too_many_for_a_page_are_told(ran, monkeypatch, capsys):
    from analysis.exhibits import gallery as shown

    path, results, _ = ran
    assert run_here(GALLERY, path).returncode == 0
    monkeypatch.setattr(shown, "MOST", 4_000)
    assert report.main([str(results)]) == 0
    page = (results / "analysis" / "report.html").read_text()
    left = re.search(r"(\d+) more pictures are in the results", page)
    drawn = page.count('<img src="data:image/webp')
    assert drawn + int(left[1]) == len(pd.read_parquet(results / "gallery"))
