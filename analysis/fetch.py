"""Results that lie elsewhere, fetched and read as a folder: of a store, or of the Hugging Face Hub.

A URL is what pyarrow reads (`s3://`, `gs://`, `hdfs://`, with a store's settings behind a `?`), as in a
study's folders, or `hf://datasets/USER/NAME`, which `jobs/push.py` uploads. Only what is new is fetched:
files of the hub lie in its own cache, those of a store in one beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from analysis.results import ResultsError, replacing

HUB = re.compile(r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")
CACHE = "XDG_CACHE_HOME"  # environment variable: the folder of caches, by default ~/.cache
AT_ONCE = 16  # files: what a store far away takes its time for


def fetched(results: str | Path) -> tuple[Path, Path]:
    """A results folder on this machine, and where to write what is made of it.

    Args:
        results: a folder, or a URL; `@REVISION` and a path may follow the name of a data set of the hub.

    Raises:
        ResultsError: they cannot be fetched.
    """
    text = str(results)
    if text.startswith("hf:"):
        return _of_hub(text)
    if re.match(r"[a-z][a-z0-9]*:/", text):
        name = PurePosixPath(text.partition("?")[0]).name
        return _of_store(text), Path("results") / name / "analysis"
    return Path(results), Path(results) / "analysis"


def _of_hub(text: str) -> tuple[Path, Path]:
    from huggingface_hub import errors, snapshot_download

    found = HUB.fullmatch(text.rstrip("/"))
    if not found:
        raise ResultsError(f"{text}: no data set of the hub; give hf://datasets/USER/NAME")
    repository, path = found["repository"], found["path"] or ""
    pattern = f"{path}/*.parquet" if path else "*.parquet"
    try:
        snapshot = snapshot_download(
            repository, repo_type="dataset", revision=found["revision"], allow_patterns=pattern
        )
    except (errors.HTTPError, OSError, ValueError) as error:
        missing = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
        remedy = (
            "correct its name, or log in with `hf auth login` if it is private"
            if missing
            else "see to the network, and to HF_ENDPOINT and HF_HUB_OFFLINE if they are set"
        )
        raise ResultsError(f"{text}: cannot be fetched ({_reason(error)}); {remedy}") from error
    return Path(snapshot) / path, Path("results") / repository.partition("/")[2] / "analysis"


def _of_store(url: str) -> Path:
    """A copy of the tables at a URL; what is gone there is gone here, too."""
    caches = Path(os.environ.get(CACHE) or Path.home() / ".cache")
    copy = caches / "transfer-study" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        system, root = fs.FileSystem.from_uri(url)
        chosen = fs.FileSelector(root, recursive=True, allow_not_found=True)
        tables = {
            str(PurePosixPath(info.path).relative_to(root)): info
            for info in system.get_file_info(chosen)
            if info.extension == "parquet" and not info.base_name.startswith(".")
        }
        if not tables:
            raise ResultsError(
                f"{url}: no results lie there; give the results folder of a study that has run"
            )
        for path in copy.rglob("*.parquet"):
            if str(path.relative_to(copy)) not in tables:
                path.unlink()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda item: _copy(system, item[1], copy / item[0]), tables.items()))
    except (OSError, ValueError, pa.ArrowException) as error:
        remedy = "see to the network, the address, and the keys in the environment"
        raise ResultsError(f"{url}: cannot be fetched ({_reason(error)}); {remedy}") from error
    return copy


def _copy(system: fs.FileSystem, there: fs.FileInfo, here: Path) -> None:
    """Fetch a file, unless it is here as it is there."""
    changed = there.mtime.timestamp() if there.mtime else 0.0
    if here.exists() and here.stat().st_size == there.size and here.stat().st_mtime == changed:
        return
    here.parent.mkdir(parents=True, exist_ok=True)
    with replacing(here) as temporary, system.open_input_stream(there.path) as stream:
        temporary.write_bytes(stream.read())
        os.utime(temporary, (changed, changed))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")
