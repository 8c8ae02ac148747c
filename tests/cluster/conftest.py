"""How long the parts of a cluster's life take, told after the tests."""

import contextlib
import time

import pytest

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
