"""What a trial has learnt so far, kept so that an interruption costs minutes and not the trial.

One file a trial: a line that says what it belongs to (format, trial, versions of what computed it) and
the SHA-256 of the rest, which is the state as `torch.save` writes it. The file is replaced whole or
not at all. One that is damaged, truncated, or of another trial, format or version is never used: the
trial begins anew.

Left out on purpose: more than the last state, and removing files nobody asks for any more. Whoever
records a trial removes its checkpoint afterwards.
"""

from __future__ import annotations

import io
import time
from importlib.metadata import version
from typing import Any

import torch

from study import __version__, spec
from study.store import digest, storage

FORMAT = 1  # raise it when a change of the code changes what a state means


class Checkpoint:
    """The last kept state of one trial.

    Args:
        location: the file; its folder is made where it is missing.
        trial: id of the trial.
        every: seconds from one kept state to the next, at least; counted from the making of this object.
    """

    def __init__(self, location: storage.Location, trial: str, every: float = 0) -> None:
        self.location, self.trial, self.every = location, trial, every
        self._kept = time.monotonic()

    def save(self, state: dict[str, Any]) -> bool:
        """Keep a state, if `every` seconds have passed since the last one; whether it did.

        Args:
            state: tensors on any device, numbers, text, and lists and dictionaries of those.

        Raises:
            OSError: the file cannot be written, and will not be.
            StorageError: it could not be for `storage.patience()` seconds.
        """
        if time.monotonic() - self._kept < self.every:
            return False
        stream = io.BytesIO()
        torch.save(state, stream)
        payload = stream.getvalue()
        storage.make(self.location.parent)
        storage.write(self.location, self._header(payload) + payload)
        self._kept = time.monotonic()
        return True

    def load(self) -> dict[str, Any] | None:
        """The last kept state, its tensors on the CPU; None where none can be used."""
        try:
            content = storage.read(self.location)
        except FileNotFoundError:
            return None
        payload = content[content.find(b"\n") + 1 :]
        if content != self._header(payload) + payload:
            return None
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        storage.remove(self.location)

    def _header(self, payload: bytes) -> bytes:
        made_with = f"study {__version__} torch {torch.__version__} timm {version('timm')}"
        sha256 = digest.of_bytes(payload)
        return f"checkpoint {FORMAT} of trial {self.trial} {made_with} sha256 {sha256}\n".encode()


def of(study: spec.Study, trial: spec.Trial) -> Checkpoint:
    """The checkpoint of a trial of a study: in the folder `checkpoints` of its results."""
    location = study.results / "checkpoints" / f"{trial.id}.pt"
    return Checkpoint(location, trial.id, study.resources.checkpoint_seconds)
