"""Where files lie: a path, or a URL of a store (`s3://`, `gs://`, `hdfs://`; `hf://` for reading).

A `Location` is a `pathlib.Path` or, for a URL, a `Remote`, which has those methods of a path that the
project uses; the functions here work on both. A file appears whole or not at all: on a file system it
is written under a temporary name that readers pass over and renamed, on an object store it is there
once its upload is complete. So does a folder of files that belong together (`publish`).

What fails for a reason that passes (a store that answers errors, a full disk, a file server that is
gone) is tried again for `patience()` seconds, since hours of work may wait to be recorded; then it is a
`StorageError`. What cannot pass (no permission, no such file) is raised at once.

Left out on purpose: locks between machines, which object stores do not have. Nothing here needs any,
because every file is named after what it holds or belongs to one writer.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from study.errors import StorageError, StudyError

PATIENCE = "TRANSFER_STORAGE_PATIENCE"  # environment variable, in seconds
OBJECT_STORES = ("s3", "gcs", "abfs")
IN_REPOSITORY = re.compile(r"(datasets/|spaces/)?(?!datasets/|spaces/|buckets/)[\w.-]+/[\w.-]+(@[^/]+)?(/|$)")
PASSING = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH")
}
# What AWS and its like say of a request that will never succeed.
LASTING = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE", "UNRECOGNIZED_CLIENT")
CHUNK = 16 << 20
AT_ONCE = 16  # files: what a store far away takes its time for

T = TypeVar("T")


def patience() -> float:
    """Seconds for which storage that fails is tried again."""
    return float(os.environ.get(PATIENCE, "300"))


@functools.lru_cache(maxsize=64)
def _file_system(root: str) -> tuple[fs.FileSystem, str]:
    """A store, and what it calls the folder that its URL without a path names (a bucket, most often)."""
    if root.startswith("hf://"):
        from study.store import hub  # which needs this module, and is needed by few

        return hub.file_system(root)
    system, base = fs.FileSystem.from_uri(root)
    if system.type_name in OBJECT_STORES and not base:
        raise ValueError("it names no bucket")
    return system, base.rstrip("/")


@dataclass(frozen=True)
class Remote:
    """A file or folder of a store.

    Attributes:
        url: without its query.
        query: settings of the store, as pyarrow reads them (such as `endpoint_override=...`).
    """

    url: str
    query: str = ""

    def __str__(self) -> str:
        # Credentials belong in no message: key:secret@bucket, but abfs://container:secret@account.
        scheme, authority, path = self._parts
        who, _, host = authority.rpartition("@")
        bucket = f"{who.partition(':')[0]}@" if who and scheme.startswith("abfs") else ""
        return f"{scheme}://{bucket}{host}{path}"

    def __repr__(self) -> str:
        return f"Remote('{self}')"

    def __truediv__(self, name: object) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{name}", self.query)

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.url).stem

    @property
    def parent(self) -> Remote:
        return Remote(self.url.rpartition("/")[0], self.query)

    def resolve(self) -> Remote:
        """A URL says everything already."""
        return self

    @property
    def _parts(self) -> tuple[str, str, str]:
        """Scheme, authority, and path with its slash."""
        scheme, _, rest = self.url.partition("://")
        authority, slash, path = rest.partition("/")
        return scheme, authority, slash + path

    @property
    def _store(self) -> tuple[fs.FileSystem, str]:
        scheme, authority, _ = self._parts
        return _file_system(f"{scheme}://{authority}" + (f"?{self.query}" if self.query else ""))

    @property
    def system(self) -> fs.FileSystem:
        """The store, as pyarrow talks to it."""
        return self._store[0]

    @property
    def key(self) -> str:
        """What the store calls it."""
        return self._store[1] + self._parts[2]

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return _ask(self, fs.FileSystem.get_file_info).type != fs.FileType.NotFound


Location = Path | Remote


def at(text: str | Location) -> Location:
    """The location that a text names.

    Raises:
        ValueError: a URL of a kind, or with settings, that pyarrow does not know, or a path with a variable.
    """
    if isinstance(text, Remote | Path):
        return text
    if "://" not in text:
        if "$" in text:
            raise ValueError(f"'{text}': variables are not replaced here; write the path out")
        return Path(text).expanduser()
    url, _, query = text.partition("?")
    scheme, _, place = url.partition("://")
    remote = Remote(f"{scheme}://{place.rstrip('/')}", query)
    try:
        if scheme == "file":
            return Path(fs.FileSystem.from_uri(url)[1])
        if scheme == "hf" and not IN_REPOSITORY.match(place):
            raise ValueError("it names no repository: hf://datasets/USER/NAME, or hf://USER/NAME")
        remote.system  # noqa: B018 - built once, to find out
    except (pa.ArrowException, OSError, ValueError) as error:
        # What pyarrow says of a URL may quote it, credentials and all.
        why = "are its credentials percent-encoded?" if "@" in url else reason(error)
        shown = f"{scheme}://{place.rpartition('@')[2]}"
        raise ValueError(f"'{shown}' is no URL that pyarrow can open ({why})") from None
    return remote


# --- patience -----------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return re.split(r"Detail: \[errno \d+\] ", text)[-1]  # the system's own words, where pyarrow quotes them


def passes(location: Location, error: OSError) -> bool:
    """Whether what failed may succeed later."""
    if isinstance(location, Path) or error.errno is not None:
        return error.errno in PASSING
    return not any(word in str(error).upper() for word in LASTING)


def patiently(location: Location, action: Callable[[], T]) -> T:
    """Do something with a location, again and again while it fails for a reason that passes.

    Raises:
        StorageError: it still did after `patience()` seconds.
        OSError: whatever does not pass.
    """
    begun, wait = time.monotonic(), 0.25
    while True:
        try:
            return action()
        except OSError as error:
            if not passes(location, error):
                raise
            if time.monotonic() - begun + wait > patience():
                raise StorageError(
                    f"{location}: cannot be reached or written ({reason(error)}), tried for "
                    f"{time.monotonic() - begun:.0f} s; mend the storage, then run the same command again: "
                    "what is recorded stays, and it goes on from there"
                ) from error
        # Spread out, so that a thousand workers do not come back at once.
        time.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, 15)


def at_once(action: Callable[[Location], T], locations: Iterable[Location]) -> list[T]:
    """What something done with each location gives, with several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(action, locations))


# --- reading ------------------------------------------------------------------------------------


def _place(location: Location) -> tuple[fs.FileSystem, str]:
    """Where a location is, as pyarrow has it: the store, and what this calls it."""
    if isinstance(location, Path):
        return fs.LocalFileSystem(), str(location)
    return location.system, location.key


def _ask(location: Location, action: Callable[[fs.FileSystem, str], T]) -> T:
    """Have a location's store do something, patiently."""
    return patiently(location, lambda: action(*_place(location)))


def open_file(location: Location) -> pa.NativeFile:
    """A file, open for reading at any place; a `FileNotFoundError` where there is none."""
    return _ask(location, fs.FileSystem.open_input_file)


def read(location: Location) -> bytes:
    """The content of a file; a `FileNotFoundError` where there is none."""

    def content(system: fs.FileSystem, key: str) -> bytes:
        with system.open_input_file(key) as file:
            return file.read()

    return _ask(location, content)


def files(folder: Location, suffix: str) -> list[Location]:
    """The files of a folder whose names end so, sorted; temporary ones left out, none where it is missing."""
    if isinstance(folder, Path):
        return patiently(folder, lambda: sorted(folder.glob(f"[!.]*{suffix}")))
    selector = fs.FileSelector(folder.key, allow_not_found=True)
    found = patiently(folder, lambda: folder.system.get_file_info(selector))
    names = [info.base_name for info in found if info.type == fs.FileType.File]
    return [folder / name for name in sorted(names) if name.endswith(suffix) and name[0] != "."]


def stamp(location: Location) -> tuple[int, int]:
    """Size in bytes of a file, and when it was written (in ns): another one under its name differs.

    Raises:
        FileNotFoundError: there is none.
    """
    info = _ask(location, fs.FileSystem.get_file_info)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, "No such file", str(location))
    return info.size, info.mtime_ns or 0


def download(location: Location, path: Path) -> None:
    """Copy a file to a path of this machine; a `FileNotFoundError` where there is none."""

    def copy() -> None:
        with open_file(location) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
            if target.tell() != source.size():
                raise OSError(errno.EIO, f"only {target.tell()} of {source.size()} bytes could be read")
            target.flush()
            os.fsync(target.fileno())  # a copy is trusted for good: a crash must not leave an empty one

    patiently(location, copy)


# --- writing ------------------------------------------------------------------------------------


def aside(location: Location) -> Location:
    """A new name beside a location for what is not whole yet; it begins with a dot: readers pass over it."""
    return location.parent / f".{location.name}.{uuid.uuid4().hex}.tmp"


@contextlib.contextmanager
def replacing(location: Location, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a path to write a file to. On success it replaces the one at `location`, on failure it goes.

    Args:
        location: the file.
        scratch: for a URL, a folder of this machine to write to. The path is named as the file is, so that
            what one that was killed left is written over; none may write to the same one meanwhile.
    """
    temporary = aside(location) if isinstance(location, Path) else scratch / location.name
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if isinstance(location, Path):
            _finish(temporary, mode)
            temporary.replace(location)
        else:
            upload(temporary, location)
    finally:
        temporary.unlink(missing_ok=True)


def _finish(path: Path, mode: int) -> None:
    """What is due to a file before it gets its name."""
    path.chmod(mode)  # as any new file's: safetensors makes its own for the owner alone
    with path.open("rb") as stream:
        os.fsync(stream.fileno())  # the name must not be there before the content is


def write(location: Location, content: bytes | pa.Buffer) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: it cannot be written, and will not be.
        StorageError: it could not be for `patience()` seconds.
    """

    def put(system: fs.FileSystem, key: str) -> None:
        with system.open_output_stream(key) as stream:
            stream.write(content)

    def once() -> None:
        if isinstance(location, Path):
            with replacing(location) as temporary:
                temporary.write_bytes(content)
            return
        # pyarrow completes an upload when its stream is closed, for whatever reason, and has no way to
        # give one up. So the content goes in one piece, and from a thread, which Ctrl-C or SIGTERM never
        # interrupt.
        system, key = _place(location)
        target = key if system.type_name in OBJECT_STORES else aside(location).key
        with ThreadPoolExecutor(1) as thread:
            thread.submit(put, system, target).result()
        if target != key:
            system.move(target, key)

    patiently(location, once)


def upload(path: Path, location: Location) -> None:
    """Copy a file of this machine to a location; as `write`."""
    with pa.memory_map(str(path)) as source:
        write(location, source.read_buffer())


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder to fill, and remove it in the end, unless it has been renamed."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(temporary: Path, folder: Location, last: str) -> None:
    """Let a folder of files appear, whole or not at all; one that is there already stays, and is as good.

    Args:
        temporary: the files, in a folder of this machine (`new_folder`), on a file system beside `folder`.
        folder: where they are to be: on a file system `temporary` is renamed, at a URL they are uploaded.
        last: name of the file that is uploaded last: where it is, the others are (`published`).

    Raises:
        OSError, StorageError: as `write`.
    """
    if published(folder, last):
        return
    if not isinstance(folder, Path):
        make(folder)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == last):
            upload(path, folder / path.name)
        return
    make(folder.parent)
    for path in temporary.iterdir():
        _finish(path, temporary.stat().st_mode & 0o666)
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise


def published(folder: Location, last: str) -> bool:
    """Whether a folder has been published, whatever became of its files since."""
    return folder.exists() if isinstance(folder, Path) else (folder / last).exists()


def remove(location: Location) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        _ask(location, fs.FileSystem.delete_file)


def make(folder: Location) -> None:
    """Make a folder, where a store has such a thing at all."""
    _ask(folder, _make)


def _make(system: fs.FileSystem, key: str) -> None:
    if system.type_name not in OBJECT_STORES:
        system.create_dir(key, recursive=True)


def make_writable(folder: Location) -> None:
    """Make a folder, and find out whether it can be written; without patience, to be told at once.

    Raises:
        OSError: it cannot be made or written.
    """
    _make(*_place(folder))
    system, probe = _place(aside(folder / "probe"))
    system.open_output_stream(probe).close()
    system.delete_file(probe)


def prepare(folder: Location, name: str, parts: Iterable[str] = ()) -> None:
    """Make a folder, and refuse one that cannot be written before anything is computed.

    Args:
        folder: the folder.
        name: what it is, and the option that chooses another one: 'results', 'outputs', ...
        parts: names of its own folders.

    Raises:
        StudyError: it cannot be made or written.
    """
    try:
        for place in (folder, *(folder / part for part in parts)):
            make_writable(place)
    except OSError as error:
        raise StudyError(
            f"{folder}: the {name} folder cannot be written ({reason(error)}); choose another one with "
            f"--{name}"
        ) from error
