"""Tests marked `cluster` start a cluster, as root, for minutes: they run when asked for (`-m cluster`)."""

import contextlib
import time

import pytest

SECONDS = pytest.StashKey[dict[str, float]]()


def pytest_configure(config):
    config.addinivalue_line("markers", "cluster: on several hosts; needs root on Linux; `make test-cluster`")
    config.stash[SECONDS] = {}


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        left = [item for item in items if item.get_closest_marker("cluster")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


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
