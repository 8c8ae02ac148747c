"""What the tests on hosts share: a folder that all hosts see, small studies in it, and what parts took."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from study import spec
from tests.conftest import STUDY, fashion_mnist, write_image_folder

SECONDS = pytest.StashKey[dict[str, float]]()


def pytest_configure(config):
    config.stash[SECONDS] = {}


def pytest_terminal_summary(terminalreporter, config):
    for what, seconds in config.stash[SECONDS].items():
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")


@pytest.fixture(scope="session")
def clock(pytestconfig):
    """A context that measures how long something takes, for the summary."""

    @contextlib.contextmanager
    def measure(what: str):
        started = time.monotonic()
        yield
        pytestconfig.stash[SECONDS][what] = time.monotonic() - started

    return measure


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """The folder all hosts share, with the images of the study."""
    folder = tmp_path_factory.mktemp("shared")
    write_image_folder(folder / "images" / "train", *fashion_mnist("train", 400))
    write_image_folder(folder / "images" / "test", *fashion_mnist("t10k", 103))
    return folder


@pytest.fixture(scope="module")
def write_study(shared):
    """A function that writes a small study with changes, and gives its path and its folder of results."""

    def write(name: str, **changes) -> tuple[Path, Path]:
        content = copy.deepcopy(STUDY) | {"name": name} | changes
        images = {part: str(shared / "images" / part) for part in ("train", "test")}
        content["data"]["images"] = {"source": "image_folder"} | images
        content["folders"] = {folder: str(shared / folder) for folder in ("data", "zoo", "outputs")}
        content["folders"]["results"] = str(shared / "results" / name)
        # All CPUs Ray sees on a host: one trial a host at a time, so that all hosts have something to do.
        content["resources"] = {"cpus": len(os.sched_getaffinity(0))}
        path = shared / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path, shared / "results" / name

    return write


def trials_of(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "trials")


def complete(study: Path, results: Path) -> None:
    """Every planned trial has one record, and it is good."""
    planned = [trial.id for trial in spec.load(study).trials()]
    trials = trials_of(results)
    assert sorted(trials["trial"]) == sorted(planned)
    assert set(trials["status"]) == {"ok"}
