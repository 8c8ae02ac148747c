"""Repositories of the Hugging Face Hub: read as folders (`hf://datasets/USER/NAME/...`), written by commits.

A write is a commit there, and a repository takes 128 an hour; a sweep of a thousand trials writes three
thousand files. So what is at `hf://` is read, file by file and range by range (`Repositories`), and written
by `commit` alone: all files of it, or none. Where the hub is, and who asks, is `huggingface_hub`'s to know
(`HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`).

Left out on purpose: the hub's buckets, which have no commits, but cannot be tried without the hub itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, errors
from pyarrow import PythonFile, fs

from study.errors import StudyError
from study.store import storage

URL = "hf://"
READ_ONLY = (
    "not written file by file, since each would be a commit there; write to a folder of your own and upload "
    "that, results by --push or jobs/push.py, others by `hf upload`"
)
LOG_IN = "`hf auth login` with a token that may write, or set HF_TOKEN to one"


def file_system(root: str) -> tuple[fs.FileSystem, str]:
    """The hub as pyarrow talks to it, and what it calls the folder that a URL without a path names."""
    return fs.PyFileSystem(Repositories(HfFileSystem())), root.removeprefix(URL)


# --- what goes wrong ----------------------------------------------------------------------------


def failure(error: Exception) -> OSError:
    """What `huggingface_hub` or its connection raised, as a file system would: `errno` says what may pass."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of an upload, which says which file it was of
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OSError(errno.ENETDOWN, "HF_HUB_OFFLINE is set")
    response = getattr(error, "response", None)
    if response is None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        return OSError(errno.EHOSTUNREACH, storage.reason(error))
    status, said = response.status_code, getattr(error, "server_message", None) or response.reason_phrase
    if status in (401, 403):
        return PermissionError(errno.EACCES, f"the hub answers {status}, {said}")
    if status == 404:
        return FileNotFoundError(errno.ENOENT, f"the hub answers {status}, {said}")
    # 409 and 412: another commit came between.
    passes = status >= 500 or status in (408, 409, 412, 429)
    return OSError(errno.EIO if passes else errno.EINVAL, f"the hub answers {status}, {said}")


@contextlib.contextmanager
def as_files() -> Iterator[None]:
    """Let what goes wrong with the hub be an `OSError`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    # The connection's errors, under the name that huggingface_hub has them; an upload's; a proxy's page.
    except (errors.HTTPError, OSError, RuntimeError, json.JSONDecodeError) as error:
        raise failure(error) from error


def _as_files(action: Callable) -> Callable:
    return as_files()(action)


# --- reading ------------------------------------------------------------------------------------


class _File:
    """A file of the hub whose failures are those of files."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.file, name)
        return _as_files(found) if callable(found) else found


class Repositories(fs.FSSpecHandler):
    """The hub's repositories for pyarrow, for reading.

    pyarrow's own handler asks `isdir` and `isfile` first, to which every failure is a no: a hub that does not
    answer would be an empty folder.
    """

    @_as_files
    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        try:
            info = self.fs.info(path)
            if info["type"] == "file":  # when it was last written, so that another one under its name differs
                info = self.fs.info(path, expand_info=True)
                info = {**info, "mtime": info["last_commit"] and info["last_commit"].date}
        except (FileNotFoundError, errors.EntryNotFoundError):
            return fs.FileInfo(path, fs.FileType.NotFound)
        return self._create_file_info(path, info)

    @_as_files
    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        depth = None if selector.recursive else 1
        try:
            found = self.fs.find(selector.base_dir, maxdepth=depth, withdirs=True, detail=True)
        except (FileNotFoundError, errors.EntryNotFoundError):
            found = {}
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(errno.ENOENT, "No such folder", selector.base_dir)
        return [
            self._create_file_info(path, info) for path, info in found.items() if path != selector.base_dir
        ]

    @_as_files
    def open_input_file(self, path: str) -> PythonFile:
        if self._info(path).type != fs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return PythonFile(_File(self.fs.open(path, mode="rb")), mode="r")

    open_input_stream = open_input_file

    def _refuse(self, path: str, *arguments: object) -> None:
        raise StudyError(f"{URL}{path}: {READ_ONLY}")

    @_as_files
    def delete_file(self, path: str) -> None:
        if self._info(path).type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        self._refuse(path)

    open_output_stream = open_append_stream = create_dir = delete_dir = _refuse
    delete_dir_contents = delete_root_dir_contents = move = copy_file = _refuse


# --- writing ------------------------------------------------------------------------------------


def check(repository: str, *, ask: bool = True) -> None:
    """Refuse, at once, a repository that cannot be written by whoever is logged in.

    Args:
        repository: USER/NAME.
        ask: whether to ask the hub; else the name alone is looked at.

    Raises:
        StudyError: the name is malformed, nobody is logged in, or the hub refuses or does not answer.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repository)
        if repository.count("/") != 1:
            raise ValueError
    except ValueError:
        raise StudyError(
            f"{repository}: no name of a repository; give USER/NAME, in letters, digits, '-', '_' and '.'"
        ) from None
    if not ask:
        return
    if not huggingface_hub.get_token():
        raise StudyError(f"{repository}: nobody is logged in to the hub; {LOG_IN}")
    try:
        with as_files():
            user = HfApi().whoami()
    except OSError as error:
        raise refused(repository, error) from error
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", ()))]
    if repository.partition("/")[0] not in owners:
        raise StudyError(
            f"{repository}: who is logged in writes repositories of {', '.join(owners)}; name one of these"
        )


def refused(repository: str, error: OSError) -> StudyError:
    """The sentence of what the hub does not do."""
    if isinstance(error, PermissionError):
        remedy = f"{LOG_IN}, and name a repository of yours or of your organisation"
    elif isinstance(error, FileNotFoundError):
        remedy = "correct the repository's name"
    else:
        remedy = "see to the network, and to HF_ENDPOINT and HF_HUB_OFFLINE if they are set, and try again"
    return StudyError(f"{repository}: cannot be written ({storage.reason(error)}); {remedy}")


def commit(
    repository: str,
    kind: str,
    files: dict[str, Path | bytes],
    message: str,
    folders: Iterable[str] = (),
    *,
    public: bool = False,
) -> str:
    """Write files into a repository, made where it is missing, by one commit: all or none.

    Args:
        repository: USER/NAME.
        kind: 'dataset' or 'model'.
        files: by their names in the repository.
        message: the commit's first line.
        folders: of the repository, whose other files are removed by the same commit.
        public: whether everybody may read a repository that is made; one that is there stays as it is.

    Returns:
        The commit's URL.

    Raises:
        StudyError: the hub refuses it, or did not answer for `storage.patience()` seconds.
    """
    api, place = HfApi(), storage.Remote(f"{URL}{kind}s/{repository}")

    @_as_files
    def once() -> str:
        api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        info = api.repo_info(repository, repo_type=kind)
        left = [
            sibling.rfilename
            for sibling in info.siblings
            if sibling.rfilename.partition("/")[0] in folders and sibling.rfilename not in files
        ]
        # By its parent, so that what is removed is what was seen.
        done = api.create_commit(
            repository,
            [
                *(CommitOperationDelete(name) for name in left),
                *(CommitOperationAdd(name, content) for name, content in files.items()),
            ],
            commit_message=message,
            repo_type=kind,
            parent_commit=info.sha,
        )
        return done.commit_url

    try:
        return storage.patiently(place, once)
    except OSError as error:
        raise refused(repository, error) from error
