"""Storage by path or URL: one behaviour on a disk and a real S3 server, whole files, and patience."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.s3.models import s3_backends

from study.errors import StorageError, StudyError
from study.store import digest, storage
from tests.conftest import PATIENCE

LARGE = 48 << 20  # several parts of an upload


@pytest.fixture
def remote(s3):
    """An empty folder of the bucket."""
    return storage.at(s3.url(uuid.uuid4().hex))


@pytest.fixture(params=["path", "s3"])
def folder(request, tmp_path):
    """An empty folder, here and at the store."""
    return tmp_path if request.param == "path" else request.getfixturevalue("remote")


@pytest.fixture
def patience(monkeypatch):
    """A function that sets the seconds that are waited."""
    return lambda seconds: monkeypatch.setenv(storage.PATIENCE, str(seconds))


@contextlib.contextmanager
def within(seconds: float):
    """What is told at once, and not after waiting."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


# --- the same on a disk and at a store --------------------------------------------------------------


def test_what_is_written_is_read_back(folder):
    file = folder / "a.bin"
    for content in (b"first", b"", b"another one"):
        storage.write(file, content)
        assert storage.read(file) == content
        assert storage.stamp(file)[0] == len(content)
        assert digest.of_file(file) == hashlib.sha256(content).hexdigest()
        with storage.open_file(file) as stream:
            assert stream.read() == content
        assert storage.files(folder, ".bin") == [file]
        assert file.exists()


@pytest.mark.parametrize("size", [0, 1000, LARGE + 1])
def test_files_go_up_and_come_down_unchanged(folder, tmp_path, size):
    (tmp_path / "local").write_bytes(os.urandom(size))
    storage.upload(tmp_path / "local", folder / "there")
    storage.download(folder / "there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "local").read_bytes()
    assert digest.of_file(folder / "there") == digest.of_file(tmp_path / "local")


def test_a_file_written_anew_has_another_stamp(folder):
    storage.write(folder / "a", b"one")
    first = storage.stamp(folder / "a")
    assert storage.stamp(folder / "a") == first
    time.sleep(1.1)  # S3 counts in seconds
    storage.write(folder / "a", b"two")
    assert storage.stamp(folder / "a") != first


@pytest.mark.parametrize(
    "ask",
    [
        storage.read,
        storage.open_file,
        storage.stamp,
        digest.of_file,
        lambda file: storage.download(file, Path(os.devnull)),
    ],
    ids=["read", "open_file", "stamp", "sha256", "download"],
)
def test_what_is_not_there_is_told_at_once(folder, ask, patience):
    patience(30)
    storage.write(folder / "another", b"x")
    with within(2), pytest.raises(FileNotFoundError):
        ask(folder / "none")


def test_removing_leaves_the_others_and_minds_nothing_missing(folder):
    for name in ("a.txt", "b.txt"):
        storage.write(folder / name, b"x")
    for _ in range(2):
        storage.remove(folder / "a.txt")
        assert storage.files(folder, ".txt") == [folder / "b.txt"]
    assert not (folder / "a.txt").exists()


def test_files_are_sorted_by_ending_and_temporary_ones_passed_over(folder):
    for name in ("b.parquet", "a.parquet", "a.json", ".a.parquet", ".c.parquet.0123.tmp", "d.parquet.tmp"):
        storage.write(folder / name, b"x")
    assert storage.files(folder, ".parquet") == [folder / "a.parquet", folder / "b.parquet"]
    assert storage.files(folder / "none", ".parquet") == []


def test_many_files_are_listed(folder):
    names = [f"{number:04}.txt" for number in range(1100)]  # more than S3 gives at once
    for name in names:
        if isinstance(folder, Path):
            (folder / name).touch()
        else:  # past the server, which would take seconds
            s3_backends[ACCOUNT]["aws"].put_object("bucket", f"{folder.name}/{name}", b"x")
    assert [path.name for path in storage.files(folder, ".txt")] == names


def test_a_writable_folder_is_made_and_left_empty(s3, folder):
    storage.make_writable(folder / "deep" / "folder")
    storage.prepare(folder / "deep", "results", ["folder", "another"])
    if isinstance(folder, Path):
        assert (folder / "deep" / "another").is_dir()
        assert not [path for path in folder.rglob("*") if path.is_file()]
    else:
        keys = s3.keys()
        assert not [key for key in keys if folder.name in key and not key.endswith("/")]


def test_names_are_those_of_a_path(folder):
    file = folder / "deep" / "model-1.5.safetensors"
    path = Path("deep/model-1.5.safetensors")
    assert (file.name, file.stem) == (path.name, path.stem)
    assert file.parent == folder / "deep"
    assert file.resolve() == file


@pytest.mark.parametrize("name", ["a#b", "a?b", "a b", "user@host", "a%20b", "ü"])
def test_any_name_is_a_file_of_its_own(folder, name):
    storage.write(folder / "a", b"another")
    storage.write(folder / name, b"mine")
    assert storage.read(folder / name) == b"mine"
    assert [file.name for file in storage.files(folder, "")] == sorted(["a", name])
    assert str(folder / name) == f"{folder}/{name}"


# --- what a text names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [("results", "results"), ("/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("file:///a%20b", "/a b")],
)
def test_paths_are_paths(text, path):
    assert storage.at(text) == Path(path)
    assert storage.at(storage.at(text)) == Path(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bogus://bucket/x", "bogus"),
        ("http://host/x", "http"),
        ("file://host/x", "hostname"),
        ("s3://?region=us-east-1", "names no bucket"),
        ("s3://bucket/x?region=us-east-1&colour=red", "colour"),
        ("s3://key:hidden@bu cket/x", "percent-encoded"),
        ("s3://key:hid/den@bucket/x", "percent-encoded"),
    ],
)
def test_what_pyarrow_cannot_open_is_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError, match=said) as told:
        storage.at(text)
    assert "is no URL that pyarrow can open" in str(told.value)
    assert "\n" not in str(told.value)
    assert "hid" not in str(told.value)
    assert told.value.__cause__ is None  # nor does what the traceback shows tell a secret


def test_credentials_are_used_and_shown_nowhere(s3):
    url = s3.url("place").replace("s3://", "s3://someone:hidden@")
    location = storage.at(url) / "user@host"
    storage.write(location, b"x")
    assert storage.read(location) == b"x"
    assert str(location) == "s3://bucket/place/user@host"
    assert location.key == "bucket/place/user@host"
    for shown in (repr(location), f"{location}"):
        assert "hidden" not in shown
        assert "someone" not in shown


@pytest.mark.parametrize(
    ("url", "shown", "key"),
    [
        ("gs://bucket/a/b", "gs://bucket/a/b", "bucket/a/b"),
        ("abfs://box@name.dfs.core.windows.net/a", "abfs://box@name.dfs.core.windows.net/a", "box/a"),
        ("abfs://box:aGlk@name.dfs.core.windows.net/a", "abfs://box@name.dfs.core.windows.net/a", "box/a"),
    ],
)
def test_other_stores_call_their_files_by_their_own_names(url, shown, key):
    location = storage.at(url)
    assert (str(location), location.key) == (shown, key)


def test_a_remote_is_a_value_that_travels(remote):
    storage.write(remote / "a", b"x")
    other = pickle.loads(pickle.dumps(remote / "a"))
    assert other == remote / "a"
    assert len({other, remote / "a", remote / "b"}) == 2
    assert storage.read(other) == b"x"
    assert storage.at(remote) is remote
    code = "import pickle, sys, study.store.storage as s; print(s.read(pickle.load(sys.stdin.buffer)))"
    said = subprocess.check_output([sys.executable, "-c", code], input=pickle.dumps(other))
    assert said == b"b'x'\n"


# --- whole or not at all ----------------------------------------------------------------------------

WRITER = """
import signal, sys
from study.store import storage
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background, or in parallel, ignore it
print("ready", flush=True)
storage.write(storage.at(sys.argv[1]), bytes(int(sys.argv[2])))
"""


def writer(location: str, size: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER, location, str(size)], stderr=subprocess.DEVNULL)


def test_a_process_killed_while_it_writes_leaves_nothing_visible(tmp_path):
    process = writer(str(tmp_path / "a.bin"), 1 << 30)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    (left,) = tmp_path.iterdir()
    assert 0 < left.stat().st_size <= 1 << 30
    assert storage.files(tmp_path, ".bin") == []


@contextlib.contextmanager
def stopping_at(s3, method: str, sign: str):
    """A server that holds the first such request back; yields two events: it has come, it may go on."""
    reached, go_on, application = threading.Event(), threading.Event(), s3._application

    def answer(environment, start_response):
        if environment["REQUEST_METHOD"] == method and sign in environment["QUERY_STRING"]:
            reached.set()
            go_on.wait(PATIENCE)
        return application(environment, start_response)

    s3._application = answer
    try:
        yield reached, go_on
    finally:
        s3._application = application
        go_on.set()


def test_a_process_killed_while_it_uploads_leaves_nothing_visible(s3, remote):
    url = s3.url(f"{remote.name}/a.bin")
    with stopping_at(s3, "PUT", "partNumber=3") as (reached, go_on):
        process = writer(url, LARGE)
        assert reached.wait(PATIENCE)
        process.kill()
        process.wait()
        go_on.set()
    assert storage.files(remote, "") == []


@pytest.mark.parametrize(
    ("method", "sign"), [("POST", "uploads"), ("PUT", "partNumber=2")], ids=["begun", "halfway"]
)
def test_an_interrupted_upload_is_whole_or_not_there(s3, remote, method, sign):
    """pyarrow completes an upload that an exception leaves: Ctrl-C made an empty object."""
    with stopping_at(s3, method, sign) as (reached, go_on):
        process = writer(s3.url(f"{remote.name}/a.bin"), LARGE)
        assert reached.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        go_on.set()
        assert process.wait(PATIENCE) != 0
    sizes = [storage.stamp(file)[0] for file in storage.files(remote, "")]
    assert sizes in ([], [LARGE])


def test_an_upload_that_fails_halfway_leaves_what_was_there(s3, remote, patience, tmp_path, monkeypatch):
    patience(0)
    (tmp_path / "new").write_bytes(bytes(LARGE))
    storage.write(remote / "there", b"before")
    application, halfway = s3._application, threading.Barrier(2)

    def fails_from_the_second_part(environment, start_response):
        if "partNumber=2" in environment["QUERY_STRING"]:
            with contextlib.suppress(threading.BrokenBarrierError):
                halfway.wait(5)  # both have begun
            s3.fail_for(60)
        return application(environment, start_response)

    monkeypatch.setattr(s3, "_application", fails_from_the_second_part)
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(storage.upload, tmp_path / "new", remote / "there"),
            pool.submit(storage.write, remote / "new", bytes(LARGE)),
        ]
    s3.fail_for(0)
    for one in both:
        assert isinstance(one.exception(), StorageError)
    assert [storage.read(file) for file in storage.files(remote, "")] == [b"before"]


def test_a_failed_upload_of_a_file_that_is_not_there_leaves_nothing(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "none", folder / "a")
    assert storage.files(folder, "") == []


# --- folders that belong together -------------------------------------------------------------------


def of_two_files(folder: Path, content: bytes = b"x") -> Path:
    """A folder of files 'facts' and 'weights'."""
    folder.mkdir()
    for name in ("facts", "weights"):
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_appears_with_all_its_files(folder, tmp_path):
    target = folder / "deep" / "model"
    assert not storage.published(target, "facts")
    storage.publish(of_two_files(tmp_path / "new"), target, "facts")
    assert storage.published(target, "facts")
    assert storage.files(target, "") == [target / "facts", target / "weights"]
    assert storage.read(target / "weights") == b"x"


def test_others_may_read_what_is_published(tmp_path):
    new = of_two_files(tmp_path / "new")
    (new / "weights").chmod(0o600)  # as safetensors makes them
    storage.publish(new, tmp_path / "model", "facts")
    (tmp_path / "any").touch()
    assert (tmp_path / "model" / "weights").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_the_first_to_publish_wins(folder, tmp_path, monkeypatch):
    for content in (b"first", b"second"):
        storage.publish(of_two_files(tmp_path / content.decode(), content), folder / "model", "facts")
    if isinstance(folder, Path):  # which may finish between the other's look and its renaming
        monkeypatch.setattr(storage, "published", lambda folder, last: False)
        storage.publish(of_two_files(tmp_path / "third"), folder / "model", "facts")
    assert [storage.read(file) for file in storage.files(folder / "model", "")] == [b"first"] * 2


def test_what_cannot_be_published_is_not_there(folder, tmp_path, monkeypatch, patience):
    patience(0)

    def fail(source, target):
        raise PermissionError(13, "Permission denied")

    new = of_two_files(tmp_path / "new")
    monkeypatch.setattr(Path, "rename", fail)
    put, upload = [], storage.upload
    monkeypatch.setattr(storage, "upload", lambda *pair: fail(*pair) if put else put.append(upload(*pair)))
    with pytest.raises(PermissionError):
        storage.publish(new, folder / "model", "facts")
    assert not storage.published(folder / "model", "facts")


def test_a_new_folder_is_gone_unless_it_was_renamed(tmp_path):
    with storage.new_folder(tmp_path / "deep" / "a") as new:
        new.rename(tmp_path / "kept")
    with pytest.raises(ZeroDivisionError), storage.new_folder(tmp_path / "deep" / "b") as new:
        (new / "file").write_bytes(b"x")
        1 / 0  # noqa: B018
    (tmp_path / "kept" / "file").touch()
    with pytest.raises(FileExistsError), storage.new_folder(tmp_path / "kept"):
        pass
    assert (tmp_path / "kept" / "file").exists()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_file_for_a_url_is_written_here_first(remote, tmp_path):
    with storage.replacing(remote / "a", tmp_path) as path:
        path.write_bytes(b"x")
        assert storage.files(remote, "") == []
    assert storage.read(remote / "a") == b"x"
    with pytest.raises(ZeroDivisionError), storage.replacing(remote / "b", tmp_path):
        1 / 0  # noqa: B018
    assert storage.files(remote, "") == [remote / "a"]
    assert list(tmp_path.iterdir()) == []


# --- patience ---------------------------------------------------------------------------------------


def test_a_store_that_answers_errors_is_waited_for(s3, remote, patience):
    patience(60)
    storage.write(remote / "a", b"x")
    for act in (lambda: storage.write(remote / "b", b"y"), lambda: storage.read(remote / "a")):
        failed = s3.failed
        s3.fail_for(2)
        act()
        assert s3.failed > failed
    assert [storage.read(file) for file in storage.files(remote, "")] == [b"x", b"y"]


def test_longer_than_patience_is_told_with_reason_and_remedy(patience):
    patience(0)
    query = "scheme=http&region=us-east-1&endpoint_override=127.0.0.1%3A9"  # where nobody answers
    gone = storage.at(f"s3://someone:hidden@bucket/place?{query}")
    acts = {
        "write": lambda: storage.write(gone / "a", b"x"),
        "read": lambda: storage.read(gone / "a"),
        "files": lambda: storage.files(gone, ""),
        "stamp": lambda: storage.stamp(gone / "a"),
        "sha256": lambda: digest.of_file(gone / "a"),
        "download": lambda: storage.download(gone / "a", Path(os.devnull)),
        "remove": lambda: storage.remove(gone / "a"),
        "exists": (gone / "a").exists,
    }
    with ThreadPoolExecutor(len(acts)) as pool:  # the SDK itself tries for 6 s
        raised = {name: pool.submit(act).exception for name, act in acts.items()}
    for name, error in raised.items():
        assert isinstance(error(), StorageError), name
        assert str(error()).startswith("s3://bucket/place"), name
        assert "NETWORK_CONNECTION" in str(error())
        assert "run the same command again" in str(error())
        assert "\n" not in str(error())
        assert "someone" not in str(error())
        assert "hidden" not in str(error())


def test_patience_lasts_as_long_as_it_is_set(tmp_path, patience):
    patience(0.8)
    count = []

    def fail():
        count.append(time.monotonic())
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"No space left on device\), tried for"):
        storage.patiently(tmp_path, fail)
    assert len(count) > 1
    assert 0.1 < count[-1] - count[0] < 1.2


def test_a_wrong_bucket_is_told_at_once(s3, patience):
    patience(60)
    wrong = storage.at(s3.url("x").replace("//bucket/", "//nowhere/"))
    with within(2):
        with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
            storage.write(wrong / "a", b"x")
        with pytest.raises(FileNotFoundError):
            storage.read(wrong / "a")
        with pytest.raises(StudyError, match=r"s3://nowhere/x: the results .*NO_SUCH_BUCKET.*--results$"):
            storage.prepare(wrong, "results")


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_no_permission_is_told_at_once(s3, remote, patience, monkeypatch, code):
    patience(60)

    def deny(environment, start_response):
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]

    monkeypatch.setattr(s3, "_application", deny)
    with within(3):
        for act in (
            lambda: storage.write(remote / "a", b"x"),
            lambda: storage.read(remote / "a"),
            lambda: storage.files(remote, ""),
        ):
            with pytest.raises(OSError, match=r"(?i)denied|key_?id|signature"):
                act()
        with pytest.raises(StudyError, match=r"the outputs folder cannot be written .* --outputs$"):
            storage.prepare(remote, "outputs")


@contextlib.contextmanager
def unprivileged(folder: Path):
    """No permission to write to a folder; root, who may, is nobody for a while."""
    folder.chmod(0o500)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o700)


def test_a_folder_without_permission_is_told_at_once(tmp_path, patience):
    patience(60)
    with within(2), unprivileged(tmp_path):
        with pytest.raises(PermissionError):
            storage.write(tmp_path / "a", b"x")
        with pytest.raises(StudyError, match=r"cannot be written \(Permission denied\).* --zoo$"):
            storage.prepare(tmp_path / "deep", "zoo")


FULL_DISK = """
import subprocess, sys, threading
from pathlib import Path
from study.store import storage
from study.errors import StorageError
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
def names():
    return sorted(path.name for path in folder.iterdir())
(folder / "filler").write_bytes(bytes(900 << 10))
try:
    storage.write(folder / "a", bytes(500 << 10))
except StorageError as error:
    print(error, names(), sep="|")
import os
os.environ[storage.PATIENCE] = "60"
remover = subprocess.Popen(["sh", "-c", f"sleep 1; rm {folder}/filler"])
storage.write(folder / "b", bytes(500 << 10))
print(names(), (folder / "b").stat().st_size, sep="|")
"""


def test_a_full_disk_is_waited_for_until_there_is_room(tmp_path, patience):
    patience(0.5)
    private = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace of one's own here")
    command = [*private, sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "mount" in ran.stderr:
        pytest.skip("no small file system can be mounted here")
    told, waited = ran.stdout.splitlines()
    assert told.startswith(f"{tmp_path / 'a'}: cannot be reached or written (No space left on device), tried")
    assert told.endswith("|['filler']")
    assert waited == f"['b']|{500 << 10}"
