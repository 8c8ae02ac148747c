"""A node's own copies of what lies elsewhere: written images, outputs of frozen models, weights.

A cache is a folder on a local disk with an entry (a folder of its own) for each thing copied. However
many processes ask for an entry, one copies it and the others wait. What a process has asked for stays
until it releases it or ends; what no process uses goes, the least recently used first, where the limit
asks for room. A copy that was interrupted leaves nothing behind that could be taken for an entry.

The locks are `flock`'s, shared by those who read and void once a process is gone, which is what tells
an entry in use from one that is not (`filelock`'s shared ones are SQLite databases).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from study import spec
from study.errors import StudyError
from study.store import digest, storage
from study.store.storage import Location

DEFAULT = Path("~/.cache/transfer-lab")
TEMPORARY = ".temporary-"  # how names of folders begin that are no entries: no longer, or not yet


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
        self._locks = self.folder / ".locks"
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
        if name not in self._held:
            self._held[name] = self._use(name)
        try:
            return self._filled(name, size, fill)
        except BaseException:
            self.release(name)
            raise

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
        version = digest.of_bytes(f"{location} {size} {modified}".encode())[:16]
        name = f"{location.stem}-{version}"
        lock = self._use(name)  # of this use alone: threads may copy the same file
        try:
            if anew:
                self.drop(name)
            folder = self._filled(name, size, lambda new: storage.download(location, new / location.name))
            yield folder / location.name
        finally:
            os.close(lock)

    def release(self, name: str) -> None:
        """This process needs an entry no more; what it has open it can still read."""
        os.close(self._held.pop(name))

    def drop(self, name: str) -> None:
        """Remove an entry, damaged or out of date, whoever uses it: what is open can still be read."""
        with _alone(self._locks / ".filling"):
            self._remove(self.folder / name)

    def _use(self, name: str) -> int:
        """An open lock, which says until it is closed that an entry is in use."""
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._locks / name, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StudyError(
                f"{self.folder}: the cache cannot be written ({error.strerror}); choose another folder with "
                "folders.cache"
            ) from error
        fcntl.flock(lock, fcntl.LOCK_SH)
        return lock

    def _filled(self, name: str, size: int, fill: Callable[[Path], None]) -> Path:
        """The folder of an entry that is in use, filled if it is not there."""
        path = self.folder / name
        os.utime(self._locks / name)  # when it was used last
        if not path.exists():
            # One copy at a time: the others of this node want the disk, and most often the same entry.
            with _alone(self._locks / ".filling"):
                if not path.exists():
                    for left in self.folder.glob(f"{TEMPORARY}*"):  # by one that was killed: we are alone
                        shutil.rmtree(left, ignore_errors=True)
                    self._make_room(name, size)
                    with storage.new_folder(self._temporary()) as temporary:
                        fill(temporary)
                        temporary.rename(path)
        return path

    def _temporary(self) -> Path:
        return self.folder / f"{TEMPORARY}{uuid.uuid4().hex}"

    def _remove(self, path: Path) -> None:
        # Out of the way at once: who is killed here must not leave half of an entry.
        temporary = self._temporary()
        with contextlib.suppress(FileNotFoundError):
            path.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)

    def _make_room(self, name: str, size: int) -> None:
        sizes = {path: _size(path) for path in self.folder.glob("[!.]*")}
        free = shutil.disk_usage(self.folder).free
        room = min(self.limit, sum(sizes.values()) + free) - sum(sizes.values())
        # For what is larger than the whole cache nothing has to go.
        for path in sorted(sizes, key=self._last_used) if size <= self.limit else ():
            if room >= size:
                return
            with _alone(self._locks / path.name, wait=False) as unused:
                if unused:
                    self._remove(path)
                    room += sizes[path]
        if room < size:
            raise StudyError(
                f"{self.folder}: no room for {name}, {size / 2**30:.1f} GiB: the cache may hold "
                f"{self.limit / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of the disk are free, and the rest "
                "is in use; raise folders.cache_gib, or choose another folder with folders.cache"
            )

    def _last_used(self, path: Path) -> float:
        lock = self._locks / path.name
        return lock.stat().st_mtime if lock.exists() else 0.0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _alone(lock: Path, wait: bool = True) -> Iterator[bool]:
    """Whether nobody has a lock; nobody gets it while this lasts. `wait` until it is so."""
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
