"""docs/paper.md: each command that it names parses, each study loads, each file and name is there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from analysis import report
from study import objectives, spec

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "paper.md").read_text()
BEYOND_TEXT = "".join(
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("methods", "recommender", "augmentation", "label_smoothing")
)
SMOOTHING = (
    *("anchors", "balanced", "classes_2", "classes_5", "classes_10", "ladder", "long_tail", "longer"),
    "transfer",
    *(f"classes_glyphs_{number}" for number in (5, 10, 20, 62)),
)
BEYOND = {"augmentation", "augmentation_glyphs"} | {
    *(f"good_da_{data}" for data in ("cifar100", "cifar100_light", "tinyimagenet", "tinyimagenet_light")),
    *("good_da_imagenet100", "good_da_imagenet"),
    *("label_smoothing", *(f"label_smoothing_{what}" for what in SMOOTHING)),
    *(
        "beyond",
        "bi_kd",
        "equal_teachers",
        "equal_teachers_again",
        "held_out",
        "pool_of_several",
        "useless_teachers",
        "weight_space",
    ),
    *("choosing", "teacher_dropping", "weak_to_strong", "weak_to_strong_trained"),
}
CODE = re.findall(r"`([^`\n]+)`", TEXT)
COMMANDS = sorted({code for code in CODE if re.match(r"(jobs|analysis)/\w+\.py ", code)})
STUDIES = sorted({name for code in CODE for name in re.findall(r"studies/(\w+)\.yaml", code)})


class Parsed(Exception):
    """The command got as far as the work."""


def test_there_are_commands_and_studies():
    assert len(COMMANDS) >= 15
    assert {"demo", "methods", "search_demo", "glyphs_shift", "cub", "paper_subset10_as_run"} <= {*STUDIES}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command, monkeypatch):
    """Its arguments are taken, and its study, where it names one, is one."""
    script, *arguments = command.split()
    assert (ROOT / script).exists()
    monkeypatch.chdir(ROOT)

    def parsed(*given, **options):
        raise Parsed

    if script == "analysis/report.py":
        monkeypatch.setattr(report, "fetched", parsed)
        with pytest.raises(Parsed):
            report.main(arguments)
        return
    job = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    monkeypatch.setattr("jobs._run.load", parsed)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(Parsed):
        job.job()


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_loads_and_has_trials(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = spec.load(ROOT / "studies" / f"{name}.yaml")
    assert study.name == name
    assert study.trials()


def test_every_study_is_on_this_page_or_on_those_of_what_goes_beyond_the_paper():
    shipped = {path.stem for path in (ROOT / "studies").glob("*.yaml")} - {"photographs"}
    named = {word for code in CODE for word in re.findall(r"\w+", code)}
    assert shipped - BEYOND <= named
    assert shipped & BEYOND == BEYOND
    for name in BEYOND:
        assert f"studies/{name}.yaml" in BEYOND_TEXT, name


def test_every_link_leads_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        if not link.startswith("http"):
            assert (ROOT / "docs" / link).exists(), link


def test_every_objective_that_is_named_is_one():
    for name in re.findall(r"`objectives\.(\w+)`", TEXT):
        assert hasattr(objectives, name), name
    for name in objectives.OBJECTIVES:
        assert f"`{name}" in TEXT + BEYOND_TEXT or f".{name}`" in TEXT + BEYOND_TEXT, name
