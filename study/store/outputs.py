"""Outputs of frozen models, computed once and read by everyone: transfer, evaluation, atlas.

What a model says of a split through a crop is one safetensors file in the outputs folder, read
memory-mapped: every logit as float16, or the `top_k` largest log-probabilities and that of the rest,
and, if they are asked for, the features before its head; beside them the predicted class and its
probability from the full precision, because rounding makes ties. Its name is a hash of all that its
content depends on (architecture, weights, preprocessing, crop, data, samples, precision), so nothing
is ever out of date.

A file carries the SHA-256 of its tensors. A damaged, truncated or wrong one is never used: it is
computed again, and `Outputs.replaced` says so. Two processes that ask for the same outputs compute
them once: the second waits for the first (`filelock`; a dead process's lock is void). Left out on
purpose: a limit to the store's size. `entries` says what it holds, `clear` empties it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor

from study import evaluate
from study.errors import StudyError
from study.evaluate import Predictions
from study.images.batches import Crop
from study.store import digest, storage
from study.store.cache import Cache
from study.store.storage import Location

LAYOUT = 1  # raise it when a change of the code changes what a file means


@dataclass(frozen=True)
class Key:
    """All that the outputs of a model on a split depend on.

    `weights` and `samples` are SHA-256 of the model's tensors and of the samples' indices,
    `preprocessing` is what the model does with the crop's pixels, `precision` what it computes in, `view`
    says, as JSON, how the samples are shown (None: as they are), `features` whether those are kept too,
    `chosen` is the SHA-256 of which of its classes the model tells apart (None: all).
    """

    timm: str
    kwargs: dict
    weights: str
    preprocessing: dict
    crop: Crop
    data_sha256: str
    samples: str
    precision: str
    top_k: int | None
    view: dict | None = None
    features: bool = False
    chosen: str | None = None

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        crop = self.crop if self.crop.size else self.crop[:2]
        content = {"layout": LAYOUT, **vars(self), "crop": list(crop)}
        for name in ("view", "features", "chosen"):  # left out where not set: names are as they were before
            if not content[name]:
                del content[name]
        return digest.of_json(content)


@dataclass(frozen=True)
class Outputs:
    """What a model says of samples, opened.

    Attributes:
        header: what the file's header says: key, sha256, and as text what changes no output (model,
            split, batch_size: the samples a forward pass that memory allowed).
        predictions: class and probability of each sample.
        logits: float16 [samples, classes], memory-mapped; None where only the top k are kept.
        top_classes: int32 [samples, k], the largest first; None where all logits are kept.
        top_log_probabilities: float16 [samples, k], of those classes.
        rest_log_probability: float16 [samples], of all other classes together.
        features: float16 [samples, dim], what the head is given, pooled; None where they are not kept.
        replaced: why a file that was there before was not used; empty where none was.
    """

    header: dict[str, str]
    predictions: Predictions
    logits: Tensor | None = None
    top_classes: Tensor | None = None
    top_log_probabilities: Tensor | None = None
    rest_log_probability: Tensor | None = None
    features: Tensor | None = None
    replaced: str = ""


@dataclass(frozen=True)
class Entry:
    """A file of the store: where, how large, what of; `problem` says what is wrong with it, if anything."""

    path: Location
    size: int
    model: str = ""
    split: str = ""
    samples: int = 0
    problem: str = ""


def size_of(samples: int, classes: int, top_k: int | None, features: int = 0) -> int:
    """Bytes that the outputs of one model take, up to the file's header; `features` is their dimension."""
    return samples * (8 + (2 * classes if top_k is None else 6 * top_k + 2) + 2 * features)


def collect(
    parts: Iterable[tuple[Tensor, Tensor | None]], samples: int, top_k: int | None
) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file, and the samples of the largest batch.

    Args:
        parts: of successive samples, logits float32 [batch, classes], and features [batch, dim] or None.
        samples: how many in all.
        top_k: how many classes to keep, or None for every logit.

    Raises:
        StudyError: a number is not finite, or beyond what float16 holds.
    """
    tensors: dict[str, Tensor] = {}
    done = largest = 0
    for logits, features in parts:
        rows = dict(zip(("label", "confidence"), evaluate.predicted(logits), strict=True))
        if top_k is None or top_k >= logits.shape[1]:
            rows["logits"] = logits.half()
        else:
            values, classes = logits.log_softmax(1).sort(1, descending=True)
            rows["top_classes"] = classes[:, :top_k].int()
            rows["top_log_probabilities"] = values[:, :top_k].half()
            rows["rest_log_probability"] = values[:, top_k:].logsumexp(1).half()
        if features is not None:
            rows["features"] = features.half()
        kept = [rows[name] for name in ("logits", "top_log_probabilities", "features") if name in rows]
        if not all(torch.isfinite(values).all() for values in (logits, *kept)):
            raise StudyError("its outputs are not finite, or beyond what float16 holds (65504)")
        for name, values in rows.items():
            if name not in tensors:
                tensors[name] = torch.empty((samples, *values.shape[1:]), dtype=values.dtype)
            tensors[name][done : done + len(logits)] = values
        done += len(logits)
        largest = max(largest, len(logits))
    return tensors, largest


class Store:
    """The outputs folder.

    Args:
        folder: where the files lie; made when something is written.
        cache: where they are copied to before use; None: they are used in place.
    """

    def __init__(self, folder: Location, cache: Cache | None = None) -> None:
        self.folder, self.cache = folder, cache

    def get(self, key: Key, compute: Callable[[], tuple[dict[str, Tensor], dict[str, str]]]) -> Outputs:
        """The outputs of a key: those that are there, or else computed, written and read back.

        Args:
            key: what they depend on.
            compute: gives the file's tensors (`collect`), and text for its header.

        Raises:
            StudyError: the folder cannot be written; whatever `compute` raises.
        """
        path = self.folder / f"{key.name}.safetensors"
        found, problem = self._find(path)
        if found is not None:
            return found
        with self._lock(key.name):
            found, _ = self._find(path)  # another process may have been faster
            if found is None:
                self._write(path, *compute())
                found, problem_now = self._find(path)
                if found is None:
                    raise StudyError(f"{path}: could not be read back ({problem_now}); check the disk")
        return replace(found, replaced=f"{path}: {problem}; computed again" if problem else "")

    def named(self, name: str) -> Outputs | None:
        """The outputs that a record names by their key, if they are still there, and whole."""
        return self._find(self.folder / f"{name}.safetensors")[0]

    def _find(self, path: Location) -> tuple[Outputs | None, str]:
        """The outputs in a file, and what is wrong with it; (None, '') where there is none."""
        if self.cache is None:
            return _open(path)
        try:
            for anew in (False, True):  # is it the copy that is damaged, or what it was copied from?
                with self.cache.copy(path, anew) as copy:
                    found, problem = _open(copy)
                if found is not None:
                    break
            return found, problem
        except FileNotFoundError:
            return None, ""

    @property
    def _locks(self) -> Path:
        # Of this node alone where files are copied: two nodes may compute the same, and both be right.
        return self.folder / ".locks" if self.cache is None else self.cache.folder / ".computing"

    def _lock(self, name: str) -> FileLock:
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_be_written(error) from error
        return FileLock(self._locks / name)

    def _write(self, path: Location, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        header = {"key": path.stem, "sha256": _sha256(tensors), **about}
        try:
            with storage.replacing(path, self._locks) as temporary:
                safetensors.torch.save_file(tensors, temporary, metadata=header)
        except (OSError, safetensors.SafetensorError) as error:
            raise self._cannot_be_written(error) from error

    def _cannot_be_written(self, error: Exception) -> StudyError:
        return StudyError(
            f"{self.folder}: the outputs folder cannot be written ({error}); choose another one with "
            "--outputs, or make room with jobs/outputs.py --clear"
        )

    def entries(self) -> list[Entry]:
        """Every file of the store, checked unless it lies at a URL; the largest first."""
        found = [_entry(path) for path in storage.files(self.folder, ".safetensors")]
        return sorted(found, key=lambda entry: (-entry.size, str(entry.path)))

    def clear(self, entries: Iterable[Entry]) -> int:
        """Remove files; gives the bytes freed. Who has one open goes on reading it."""
        freed = 0
        for entry in entries:
            storage.remove(entry.path)
            freed += entry.size
        return freed


def _entry(path: Location) -> Entry:
    size, _ = storage.stamp(path)
    try:
        with storage.open_file(path) as file:  # a safetensors file begins with its header, in JSON
            length = int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(min(length, size)))
        header, samples = about["__metadata__"], about["label"]["shape"][0]
    except (ValueError, KeyError, TypeError, IndexError):
        return Entry(path, size, problem="damaged (its header cannot be read)")
    problem = _open(path)[1] if isinstance(path, Path) else ""
    return Entry(path, size, header.get("model", ""), header.get("split", ""), samples, problem)


# What was checked once a process; not the outputs themselves, whose pages would stay in its memory.
_checked: set[tuple[Path, int, int]] = set()


def _open(path: Path) -> tuple[Outputs | None, str]:
    """The outputs in a file, and what is wrong with it; (None, '') where there is none.

    A file is checked the first time, which reads all of it.
    """
    try:
        status = path.stat()
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if header.get("key") != path.stem:
            raise ValueError("it holds the outputs of another key")
        version = (path, status.st_size, status.st_mtime_ns)
        if version not in _checked and header.get("sha256") != _sha256(tensors):
            raise ValueError("its SHA-256 is not the recorded one")
        _checked.add(version)
        said = Predictions(tensors.pop("label").numpy(), tensors.pop("confidence").numpy())
        return Outputs(header, said, **tensors), ""
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except Exception as error:  # a damaged file makes the reader raise anything
        return None, f"damaged ({storage.reason(error)})"


def _sha256(tensors: dict[str, Tensor]) -> str:
    """Of tensors by name, with their types and shapes."""
    return digest.of_tensors((f"{name} {t.dtype} {tuple(t.shape)}", t) for name, t in sorted(tensors.items()))
