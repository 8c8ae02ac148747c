"""Checkpoints: what is kept comes back, and what is not whole and one's own never does."""

from __future__ import annotations

import pytest
import torch

from study.store import checkpoints, storage
from study.store.checkpoints import Checkpoint

STATE = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3).t(), "count": torch.tensor(7)},
    "history": {"loss": [0.1 + 0.2, None]},
    "step": 3,
    "slow": None,
}


@pytest.fixture
def location(tmp_path):
    return tmp_path / "checkpoints" / "trial.pt"


def test_a_state_comes_back_as_it_was(location):
    assert Checkpoint(location, "trial").load() is None
    assert Checkpoint(location, "trial").save(STATE)
    state = Checkpoint(location, "trial").load()
    for name, tensor in STATE["weights"].items():
        assert torch.equal(state["weights"][name], tensor)
        assert state["weights"][name].stride() == tensor.stride()
    assert {name: state[name] for name in ("history", "step", "slow")} == {
        name: STATE[name] for name in ("history", "step", "slow")
    }
    assert [path.name for path in location.parent.iterdir()] == ["trial.pt"]


def test_only_the_last_state_is_kept_and_removed_for_good(location):
    checkpoint = Checkpoint(location, "trial")
    for step in range(3):
        checkpoint.save({"step": step})
    assert checkpoint.load() == {"step": 2}
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_it_is_kept_only_so_often(location, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    checkpoint = Checkpoint(location, "trial", every=60)
    saved = []
    for now in (1059, 1061, 1120, 1121, 1180, 1182):
        saved.append(checkpoint.save({"at": now}))
    assert saved == [False, True, False, True, False, True]
    assert checkpoint.load() == {"at": 1182}


@pytest.mark.parametrize("at", [0, 20, 100, 200, 1000, -1])
def test_a_flipped_bit_anywhere_is_noticed(location, at):
    Checkpoint(location, "trial").save(STATE)
    content = bytearray(location.read_bytes())
    content[at] ^= 1
    location.write_bytes(content)
    assert Checkpoint(location, "trial").load() is None


@pytest.mark.parametrize("size", [0, 10, 250, -1])
def test_a_truncated_one_is_not_used(location, size):
    Checkpoint(location, "trial").save(STATE)
    location.write_bytes(location.read_bytes()[:size])
    assert Checkpoint(location, "trial").load() is None


def test_one_of_another_trial_format_or_version_is_not_used(location, monkeypatch):
    Checkpoint(location, "trial").save(STATE)
    assert Checkpoint(location, "trial2").load() is None
    assert Checkpoint(location, "tria").load() is None
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
        assert Checkpoint(location, "trial").load() is None
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.14.0")
        assert Checkpoint(location, "trial").load() is None
    assert Checkpoint(location, "trial").load() is not None


def test_no_code_is_ever_loaded(location):
    """Even one with a right header: the content of a checkpoint is data."""
    checkpoint = Checkpoint(location, "trial")
    checkpoint.save({"location": location})  # a path: an object of a class
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoint.load()


def test_one_that_cannot_be_written_leaves_the_last(location, monkeypatch):
    checkpoint = Checkpoint(location, "trial")
    checkpoint.save({"step": 0})

    def fail(self, content):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(location), "write_bytes", fail)
        with pytest.raises(PermissionError):
            checkpoint.save({"step": 1})
    assert checkpoint.load() == {"step": 0}


def test_a_url_is_as_good_as_a_path(tmp_path):
    checkpoint = Checkpoint(storage.at(f"file://{tmp_path}/trial.pt"), "trial")
    checkpoint.save({"step": 1})
    assert checkpoint.load() == {"step": 1}
