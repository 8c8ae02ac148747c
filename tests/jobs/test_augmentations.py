"""Augmentations ranked for each teacher as a user does it, before any student is trained."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.jobs.running import refused, results_of, run, run_here
from tests.study.test_schemes import with_schemes

AUGMENTATIONS = "jobs/augmentations.py"


@pytest.mark.ray
def test_augmentations_are_ranked_and_measured_once(content, write_study):
    path, results = write_study(with_schemes(content)), results_of(content)
    done = run(AUGMENTATIONS, path)
    assert done.returncode == 0, done.stderr
    assert "of each teacher, the one under which it varies least first" in done.stdout
    table = pd.read_parquet(results / "augmentations")
    assert len(table) == 6 and table["teacher_stddev"].gt(0).all()
    (best,) = table[table["teacher"] == "resnet"].nsmallest(1, "teacher_stddev")["method"]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["resnet", best] in [line[:2] for line in lines]
    stamps = {file: file.stat().st_mtime_ns for file in (results / "augmentations").iterdir()}
    again = run(AUGMENTATIONS, path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-9:] == done.stdout.splitlines()[-9:]
    assert stamps == {file: file.stat().st_mtime_ns for file in (results / "augmentations").iterdir()}


def test_studies_without_a_second_input_are_refused(content, write_study):
    refused(run_here(AUGMENTATIONS, write_study(content)), "methods", "give one an 'augmentation'")
