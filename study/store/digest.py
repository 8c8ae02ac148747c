"""SHA-256 in hex, of everything that is named after what it holds or checked against it.

Names of files, ids of trials and recorded fingerprints are made of these values: they must never change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from study.store import storage
from study.store.storage import Location


def _of(parts: Iterable) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def of_bytes(data: bytes) -> str:
    """Of bytes, or of any buffer of one dimension."""
    return _of([data])


def of_json(content: Any, digits: int = 16) -> str:
    """The first digits of that of `content` as canonical JSON."""
    return of_bytes(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())[:digits]


def of_file(location: Location) -> str:
    """Of a file's bytes.

    Raises:
        FileNotFoundError: there is none.
    """
    with storage.open_file(location) as file:
        return _of(iter(lambda: file.read(storage.CHUNK), b""))


def of_array(numbers: ArrayLike) -> str:
    """Of whole numbers [n] in their order, as int64 with the lowest byte first."""
    return of_bytes(np.ascontiguousarray(numbers, dtype="<i8"))


def of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of tensors on any device in their order, each after a text: its name, and what else is to be held."""
    return _of(part for text, tensor in tensors for part in (text.encode(), _bytes(tensor)))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
