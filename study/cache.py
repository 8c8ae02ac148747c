"""A node's own copies of what lies elsewhere: written images, outputs of frozen models, weights.

A cache is a folder on a local disk with an entry (a folder of its own) for each thing copied. However
many processes ask for an entry, one copies it and the others wait. What a process has asked for stays
until it releases it or ends; what no process uses goes, the least recently used first, where the limit
asks for room. A copy that was interrupted leaves nothing behind that could be taken for an entry.

The locks are `flock`'s, shared by those who read and void once a process is gone, which is what tells
an entry in use from one that is not (`filelock` knows none that are shared).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from study import spec, storage
from study.errors import StudyError
from study.storage import Location

DEFAULT = Path("~/.cache/transfer-lab")


def of(folders: spec.Folders, location: Location) -> Cache | None:
    """The cache that files of a location are copied to before use; None where they are used in place.

    That is: files of a URL, or of any location if the study names a cache.
    """
    if folders.cache is None and isinstance(location, Path):
        return None
    return Cache(folders.cache or DEFAULT, int(folders.cache_gib * 2**30))


class Cache:
    """A folder of copies.

    Args:
        folder: where they lie, on a local disk.
        limit: bytes they may take together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder.expanduser(), limit
        self._held: dict[str, int] = {}  # by entry: the open lock that says it is in use here

    def entry(self, name: str, size: int, fill: Callable[[Path], None]) -> Path:
        """The folder of an entry, in use by this process until `release`; copied if it is not there.

        Args:
            name: of the entry; what it holds must never change.
            size: bytes it will take.
            fill: copies it into a folder; what it raises leaves no entry.

        Raises:
            StudyError: it cannot fit beside what is in use, or the cache cannot be written.
        """
        path = self.folder / name
        try:
            locks = self.folder / ".locks"
            locks.mkdir(parents=True, exist_ok=True)
            self._use(name)
            if path.exists():
                return path
            # One copy at a time: the others of this node want the disk, and most often the same entry.
            with _locked(locks / ".filling"):
                if not path.exists():
                    self._make_room(name, size)
                    self._copy(path, fill)
        except PermissionError as error:
            raise StudyError(
                f"{self.folder}: the cache cannot be written ({error.strerror}); choose another folder with "
                "folders.cache"
            ) from error
        return path

    @contextlib.contextmanager
    def copy(self, location: Location, anew: bool = False) -> Iterator[Path]:
        """A copy of a file as it is now, in use while this lasts.

        Args:
            location: the file.
            anew: copy it again even if there is a copy, which is damaged.

        Raises:
            FileNotFoundError: there is no such file.
        """
        size, modified = storage.stamp(location)
        version = hashlib.sha256(f"{location} {size} {modified}".encode()).hexdigest()[:16]
        name = f"{location.stem}-{version}"
        if anew:
            self.drop(name)
        folder = self.entry(name, size, lambda new: storage.download(location, new / location.name))
        try:
            yield folder / location.name
        finally:
            self.release(name)

    def release(self, name: str) -> None:
        """This process needs an entry no more; what it has open it can still read."""
        os.close(self._held.pop(name))

    def drop(self, name: str) -> None:
        """Remove an entry, damaged or out of date, whoever uses it: what is open can still be read."""
        with _locked(self.folder / ".locks" / ".filling"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _use(self, name: str) -> None:
        lock = self.folder / ".locks" / name
        if name not in self._held:
            self._held[name] = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._held[name], fcntl.LOCK_SH)
        os.utime(lock)  # when it was used last

    def _copy(self, path: Path, fill: Callable[[Path], None]) -> None:
        for left in self.folder.glob(".filling-*"):  # by one that was killed: we alone are filling now
            shutil.rmtree(left, ignore_errors=True)
        temporary = self.folder / f".filling-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            fill(temporary)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _make_room(self, name: str, size: int) -> None:
        sizes = {path: _size(path) for path in self.folder.glob("[!.]*")}
        free = shutil.disk_usage(self.folder).free
        room = min(self.limit, sum(sizes.values()) + free) - sum(sizes.values())
        for path in sorted(sizes, key=self._last_used):
            if room >= size:
                return
            with _unused(self.folder / ".locks" / path.name) as unused:
                if unused:
                    shutil.rmtree(path, ignore_errors=True)
                    room += sizes[path]
        if room < size:
            raise StudyError(
                f"{self.folder}: no room for {name}, {size / 2**30:.1f} GiB: the cache may hold "
                f"{self.limit / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of the disk are free, and the rest "
                "is in use; raise folders.cache_gib, or choose another folder with folders.cache"
            )

    def _last_used(self, path: Path) -> float:
        lock = self.folder / ".locks" / path.name
        return lock.stat().st_mtime if lock.exists() else 0.0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether nobody uses an entry, and nobody begins to while this lasts."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
