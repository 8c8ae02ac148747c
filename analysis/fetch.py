"""Results of others: a data set of the Hugging Face Hub, fetched and read as a folder.

`jobs/push.py` uploads such data sets. Files are kept in the hub's own cache, so what did not change is not
fetched again; `@COMMIT` behind the name pins them.

Left out on purpose: other stores, whose own tools fetch a folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from analysis.results import ResultsError

URL = re.compile(r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")


def fetched(results: str | Path) -> tuple[Path, Path]:
    """A results folder on this machine, and where to write what is made of it.

    Args:
        results: a folder, or `hf://datasets/USER/NAME`, which may be followed by `@REVISION` and a path.

    Raises:
        ResultsError: the data set cannot be fetched.
    """
    text = str(results)
    if not text.startswith("hf:"):
        return Path(results), Path(results) / "analysis"
    from huggingface_hub import errors, snapshot_download

    found = URL.fullmatch(text.rstrip("/"))
    if not found:
        raise ResultsError(f"{text}: no data set of the hub; give hf://datasets/USER/NAME")
    repository, path = found["repository"], found["path"] or ""
    pattern = f"{path}/*.parquet" if path else "*.parquet"
    try:
        snapshot = snapshot_download(
            repository, repo_type="dataset", revision=found["revision"], allow_patterns=pattern
        )
    except (errors.HTTPError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        missing = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
        remedy = (
            "correct its name, or log in with `hf auth login` if it is private"
            if missing
            else "see to the network, and to HF_ENDPOINT and HF_HUB_OFFLINE if they are set"
        )
        raise ResultsError(f"{text}: cannot be fetched ({lines[0].rstrip('. ')}); {remedy}") from error
    return Path(snapshot) / path, Path("results") / repository.partition("/")[2] / "analysis"
