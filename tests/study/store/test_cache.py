"""The node's cache: one copy for all processes, a limit that holds, and nothing half-copied, ever."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study import spec
from study.errors import StudyError
from study.store import cache, storage
from study.store.cache import Cache
from tests.conftest import PATIENCE

ROOM = 1000  # bytes, in most tests
FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["path", "s3"])
def source(request, tmp_path):
    """An empty folder to copy from, here and at a store."""
    if request.param == "path":
        (tmp_path / "source").mkdir()
        return tmp_path / "source"
    return storage.at(request.getfixturevalue("s3").url(uuid.uuid4().hex))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def copies(folder):
    """An empty cache of this process."""
    return Cache(folder, ROOM)


def filler(size: int):
    return lambda new: (new / "file").write_bytes(bytes(size))


def never(new: Path) -> None:
    raise AssertionError("copied although it is there")


def ask(copies: Cache, name: str, size: int = 100, fill=None) -> Path:
    return copies.entry(name, size, fill or filler(size))


def entries(folder: Path) -> set[str]:
    """What the cache holds."""
    return {path.name for path in folder.glob("[!.]*")}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".locks"]


class Worker:
    """Another process that asks for an entry, and keeps it until it ends or is killed."""

    def __init__(self, folder: Path, name: str, size: int, seconds: float) -> None:
        self.pipe, other = FORK.Pipe()
        self.process = FORK.Process(target=self._work, args=(other, folder, name, size, seconds), daemon=True)
        self.process.start()
        other.close()

    @staticmethod
    def _work(pipe, folder: Path, name: str, size: int, seconds: float) -> None:
        def fill(new: Path) -> None:
            pipe.send("filling")
            (new / "file").write_bytes(bytes(size // 2))
            time.sleep(seconds)
            (new / "file").write_bytes(bytes(size))

        path = Cache(folder, ROOM).entry(name, size, fill)
        pipe.send(f"held {(path / 'file').stat().st_size}")
        pipe.poll(PATIENCE)

    def says(self) -> str:
        assert self.pipe.poll(PATIENCE)
        return self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture
def worker(folder):
    """A function that starts such a process; all are ended."""
    started = []

    def start(name: str, size: int = 100, seconds: float = 0.0) -> Worker:
        started.append(Worker(folder, name, size, seconds))
        return started[-1]

    yield start
    for one in started:
        one.kill()


# --- one copy for all -------------------------------------------------------------------------------


def test_processes_that_ask_at_once_get_one_copy(worker, folder):
    said = Counter()
    for process in [worker("entry", seconds=0.5) for _ in range(8)]:
        while (word := process.says()) == "filling":
            said[word] += 1
        said[word] += 1
    assert said == {"filling": 1, "held 100": 8}
    assert entries(folder) == {"entry"}


def test_a_second_asking_copies_nothing(copies, folder):
    path = ask(copies, "entry")
    assert ask(copies, "entry", fill=never) == path
    assert Cache(folder, ROOM).entry("entry", 100, never) == path


def test_threads_may_copy_one_file_at_once(copies, source):
    storage.write(source / "file", b"content")
    failures = []

    def use():
        try:
            for _ in range(5):
                with copies.copy(source / "file") as path:
                    assert path.read_bytes() == b"content"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_files_of_urls_are_copied_and_others_where_a_cache_is_named(s3, tmp_path):
    url = storage.at(s3.url("data"))
    named = spec.Folders(cache=tmp_path, cache_gib=0.5)
    assert cache.of(spec.Folders(), tmp_path) is None
    assert cache.of(spec.Folders(), url).folder == Path.home() / ".cache" / "transfer-lab"
    for location in (tmp_path, url):
        found = cache.of(named, location)
        assert (found.folder, found.limit) == (tmp_path, 2**29)


# --- the limit --------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(copies, folder):
    for name in ("a", "b", "c"):
        ask(copies, name, 300)
        copies.release(name)
    ask(copies, "a", fill=never)
    copies.release("a")
    ask(copies, "d", 300)
    assert entries(folder) == {"a", "c", "d"}
    ask(copies, "e", 600)
    assert entries(folder) == {"d", "e"}  # `d` is in use


def test_what_a_living_process_uses_stays_and_goes_after_its_death(worker, copies, folder):
    process = worker("used", 400)
    assert [process.says(), process.says()] == ["filling", "held 400"]
    ask(copies, "idle", 300)
    copies.release("idle")
    ask(copies, "new", 500)
    assert entries(folder) == {"used", "new"}
    with pytest.raises(StudyError, match="no room for more"):
        ask(copies, "more", 300)
    process.kill()
    ask(copies, "more", 300)
    assert entries(folder) == {"new", "more"}


def test_what_lasts_as_long_as_the_process_outlives_the_object(folder):
    """The data are opened through a `Cache` that nobody keeps, and used until the process ends."""
    ask(Cache(folder, ROOM), "data", 800)
    with pytest.raises(StudyError, match="no room"):
        ask(Cache(folder, ROOM), "more", 800)


def test_a_copy_is_in_use_while_it_lasts_and_no_longer(folder, source):
    storage.write(source / "file", bytes(800))
    copies, other = Cache(folder, ROOM), Cache(folder, ROOM)
    with copies.copy(source / "file"), pytest.raises(StudyError, match="no room"):
        ask(other, "more", 800)
    ask(other, "more", 800)
    assert entries(folder) == {"more"}


@pytest.mark.parametrize("size", [ROOM + 1, 2**60])
def test_what_can_never_fit_is_refused_and_moves_nothing(copies, folder, size):
    for name in ("a", "b"):
        ask(copies, name)
        copies.release(name)
    with pytest.raises(StudyError) as told:
        ask(copies, "large", size)
    assert str(told.value).startswith(f"{folder}: no room for large")
    assert "folders.cache_gib" in str(told.value)
    assert "\n" not in str(told.value)
    assert entries(folder) == {"a", "b"}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.integers(1, 6)), max_size=25))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_limit_holds_whatever_is_asked_for(tmp_path, steps):
    """Never more than the limit, what is in use stays, and refused is only what finds no room beside that."""
    copies = Cache(tmp_path / uuid.uuid4().hex, ROOM)
    sizes, held = {}, set()
    for name, keep, hundreds in steps:
        size = sizes.setdefault(name, 100 * hundreds)
        in_use = sum(sizes[other] for other in held)
        try:
            path = ask(copies, name, size)
        except StudyError:
            assert name not in held
            assert in_use + size > ROOM
            continue
        assert (path / "file").stat().st_size == size
        held.add(name)
        if not keep:
            copies.release(name)
            held.remove(name)
        assert sum(path.stat().st_size for path in copies.folder.glob("[!.]*/*")) <= ROOM
        assert held <= entries(copies.folder)
        assert not leftovers(copies.folder)
    for name in held:
        copies.release(name)


SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from study.store.cache import TEMPORARY, Cache
from study.errors import StudyError
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
copies, k = Cache(folder, 1 << 30), 1 << 10
def ask(name, size):
    copies.entry(name, size, lambda new: (new / "file").write_bytes(bytes(size)))
ask("old", 300 * k)
copies.release("old")
(folder / f"{TEMPORARY}left").mkdir()
(folder / f"{TEMPORARY}left" / "file").write_bytes(bytes(600 * k))
ask("new", 600 * k)
print(sorted(path.name for path in folder.glob("[!.]*")))
try:
    ask("large", 500 * k)
except StudyError as error:
    print(error)
"""


def test_a_disk_smaller_than_the_limit_is_the_limit(tmp_path):
    """What a killed process left is removed before anything that is of use."""
    private = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of one's own here")
    command = [*private, sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "mount" in ran.stderr:
        pytest.skip("no small file system can be mounted here")
    left, refused = ran.stdout.splitlines()
    assert left == "['new', 'old']"
    assert "no room for large" in refused


# --- what is interrupted ----------------------------------------------------------------------------


def test_a_fill_that_is_killed_leaves_no_entry_and_the_next_one_clears_up(worker, copies, folder):
    process = worker("entry", seconds=60)
    assert process.says() == "filling"
    waiting = worker("entry")  # for the one that is about to die
    time.sleep(0.2)
    assert entries(folder) == set()
    assert len(leftovers(folder)) == 1
    process.kill()
    assert [waiting.says(), waiting.says()] == ["filling", "held 100"]
    assert entries(folder) == {"entry"}
    assert not leftovers(folder)


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt(), StudyError("damaged")], ids=repr)
def test_a_fill_that_fails_leaves_nothing(copies, folder, error):
    def fail(new):
        (new / "file").write_bytes(b"half")
        raise error

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the kernel's list, no folder
    for _ in range(3):
        with pytest.raises(type(error)):
            ask(copies, "entry", fill=fail)
    assert entries(folder) == set()
    assert not leftovers(folder)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert (ask(copies, "entry") / "file").stat().st_size == 100


def test_an_eviction_that_is_killed_leaves_no_half_entry(worker, copies, folder):
    many = 4000

    def fill(new):
        for number in range(many):
            (new / f"{number}").touch()
        (new / "file").write_bytes(bytes(900))

    path = ask(copies, "old", 900, fill)
    copies.release("old")
    process = worker("new", 900)
    with contextlib.suppress(FileNotFoundError):  # gone as a whole, as it should be
        while len(os.listdir(path)) > many:  # noqa: PTH208 - in a hurry
            pass
    process.kill()
    assert not path.exists() or len(list(path.iterdir())) == many + 1
    ask(copies, "new", 900)
    assert entries(folder) == {"new"}
    assert not leftovers(folder)


# --- versions and damage ----------------------------------------------------------------------------


def test_another_file_under_the_name_is_copied_anew(copies, source):
    for content in (b"first", b"the second"):
        storage.write(source / "file.bin", content)
        for _ in range(2):
            with copies.copy(source / "file.bin") as path:
                assert path.name == "file.bin"
                assert path.read_bytes() == content


def test_files_of_one_name_in_two_folders_are_two(copies, source):
    for name in ("a", "b"):
        storage.make_writable(source / name)
        storage.write(source / name / "file", name.encode())
    for name in ("a", "b"):
        with copies.copy(source / name / "file") as path:
            assert path.read_bytes() == name.encode()


def test_a_damaged_copy_is_copied_again_when_that_is_asked_for(copies, source, folder):
    storage.write(source / "file", b"content")
    with copies.copy(source / "file") as path:
        path.write_bytes(b"damaged")
    with copies.copy(source / "file") as path:
        assert path.read_bytes() == b"damaged"  # nobody has said so
    with copies.copy(source / "file", anew=True) as path:
        assert path.read_bytes() == b"content"
    assert len(entries(folder)) == 1
    assert not leftovers(folder)


def test_a_copy_that_is_dropped_can_be_read_by_who_has_it_open(copies, folder):
    with (ask(copies, "entry") / "file").open("rb") as stream:
        copies.drop("entry")
        assert entries(folder) == set()
        assert len(stream.read()) == 100


def test_a_copy_of_nothing_is_told(copies, source, folder):
    with pytest.raises(FileNotFoundError), copies.copy(source / "none"):
        pass
    assert not folder.exists() or entries(folder) == set()


@pytest.mark.parametrize("below", ["file", "file/cache"])
def test_a_cache_that_cannot_be_written_is_told(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match=rf"^{tmp_path / below}: the cache cannot be written .*\.cache$"):
        ask(Cache(tmp_path / below, ROOM), "entry")
