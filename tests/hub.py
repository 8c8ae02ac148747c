"""A stand-in of the Hugging Face Hub on this machine: as much of its interface as huggingface_hub asks of it.

It keeps repositories as lists of commits, each with all its files, takes large files as LFS does, and can be
told to answer with an error for a while.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

from huggingface_hub import HfFileSystem, constants
from huggingface_hub.utils import _http
from werkzeug import Request, Response
from werkzeug.serving import make_server

from study.store import storage

logging.getLogger("werkzeug").setLevel(logging.ERROR)
TOKEN = "hf_of_tests"
USER = "me"
LARGE = (".parquet", ".safetensors")


@dataclass
class Commit:
    """A state of a repository: its files by name."""

    oid: str
    files: dict[str, bytes]
    message: str


@dataclass
class Repository:
    """A repository; `commits` has the newest last."""

    private: bool
    commits: list[Commit] = field(default_factory=lambda: [Commit("0" * 40, {}, "initial commit")])


def etag(content: bytes) -> str:
    """How git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def afresh() -> None:
    """As a process that has looked at nothing on the hub yet."""
    HfFileSystem.clear_instance_cache()
    storage._file_system.cache_clear()


class Hub:
    """A server, until `stop`.

    Attributes:
        repositories: by kind ('dataset', 'model') and USER/NAME.
        requests: method and path of each that was answered.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self._large: dict[str, bytes] = {}
        self._failing: tuple[float, int, str] = (0.0, 0, "")
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.address = f"http://127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def environment(self, home: object) -> dict[str, str]:
        """What a process needs in its environment to take this for the hub, logged in."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def stand_in(self, patch: object, home: object) -> None:
        """As `environment`, for this process, which has read its environment already."""
        for name, value in self.environment(home).items():
            patch.setenv(name, value)
        patch.setattr(constants, "ENDPOINT", self.address)
        patch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            self.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        # huggingface_hub waits, too, before it tries again.
        patch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 100)))
        patch.setattr(constants, "HF_HUB_CACHE", f"{home}/hub")
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv(storage.PATIENCE, "20")
        afresh()

    def put(self, kind: str, name: str, files: dict[str, bytes]) -> None:
        """A repository with files, in one commit."""
        repository = self.repositories.setdefault((kind, name), Repository(private=False))
        repository.commits.append(self._next(repository, files, "put"))

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """What a repository holds now."""
        return self.repositories[kind, name].commits[-1].files

    def fail(self, status: int, seconds: float = 1e9, path: str = "") -> None:
        """Answer every request whose path holds `path` with an error for a while; 0 seconds: no more."""
        self._failing = (time.monotonic() + seconds, status, path)

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    # --- what is answered -----------------------------------------------------------------------

    def _next(self, repository: Repository, files: dict[str, bytes], message: str) -> Commit:
        said = f"{len(repository.commits)} {message} {sorted(files)}"
        return Commit(hashlib.sha1(said.encode()).hexdigest(), files, message)

    def _answer(self, environ: dict, start: Callable) -> object:
        request = Request(environ)
        self.requests.append(f"{request.method} {request.path}")
        until, status, path = self._failing
        if time.monotonic() < until and path in request.path:
            text = {429: "You have exceeded the rate limit for repository commits"}.get(status, "no")
            answer = Response(json.dumps({"error": text}), status, {"X-Error-Message": text})
        else:
            answer = self._routed(request)
        return answer(environ, start)

    def _routed(self, request: Request) -> Response:  # noqa: PLR0911 - one a route
        logged_in = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        path = request.path
        if path.startswith("/lfs/"):
            self._large[path.removeprefix("/lfs/")] = request.get_data()
            return Response()
        if path == "/api/whoami-v2":
            if not logged_in:
                return _error(401, "", "Invalid credentials in Authorization header")
            return _json({"name": USER, "type": "user", "orgs": []})
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(request.get_json(), logged_in)
        found = re.match(r"/(?:api/)?(datasets/|models/)?([\w.-]+/[\w.-]+?)(\.git)?(?:/(.*))?$", path)
        kind, name, _, rest = found.groups()
        kind = "dataset" if kind == "datasets/" else "model"
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and not logged_in):
            return _error(401 if not logged_in else 404, "RepoNotFound", "Repository not found")
        action, _, rest = (rest or "revision/main").partition("/")
        if action == "info":
            return self._lfs(request.get_json())
        revision, _, file = rest.partition("/")
        commits = {one.oid: one for one in repository.commits} | {"main": repository.commits[-1]}
        if not (commit := commits.get(revision or "main")):
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if action == "preupload":
            return _json({"files": [self._mode(one, commit) for one in request.get_json()["files"]]})
        if action == "commit":
            return self._commit(repository, request.get_data(), logged_in, name)
        if action == "resolve":
            return self._resolve(request, commit, file)
        answers = {"revision": self._info, "tree": self._tree, "paths-info": self._paths}
        return answers[action](request, commit, file, name)

    def _create(self, wanted: dict, logged_in: bool) -> Response:
        if not logged_in:
            return _error(401, "", "Invalid username or password.")
        owner = wanted.get("organization") or USER
        if owner != USER:
            return _error(403, "", f"You don't have the rights to create a repository under {owner}")
        key = (wanted.get("type", "model"), f"{owner}/{wanted['name']}")
        answer = _json({"url": f"{self.address}/{'datasets/' * (key[0] == 'dataset')}{key[1]}"})
        if key in self.repositories:
            answer.status_code = 409
        else:
            self.repositories[key] = Repository(wanted.get("visibility") == "private")
        return answer

    def _lfs(self, wanted: dict) -> Response:
        def action(one: dict) -> dict:
            if one["oid"] in self._large:
                return one
            return one | {"actions": {"upload": {"href": f"{self.address}/lfs/{one['oid']}"}}}

        return _json({"transfer": "basic", "objects": [action(one) for one in wanted["objects"]]})

    def _mode(self, one: dict, commit: Commit) -> dict:
        large = one["path"].endswith(LARGE)
        answer = {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if (there := commit.files.get(one["path"])) is not None:
            answer["oid"] = hashlib.sha256(there).hexdigest() if large else etag(there)
        return answer

    def _commit(self, repository: Repository, body: bytes, logged_in: bool, name: str) -> Response:
        if not logged_in:
            return _error(401, "", "Invalid username or password.")
        newest = repository.commits[-1]
        files, message = dict(newest.files), ""
        for line in body.decode().splitlines():
            key, value = (json.loads(line)[part] for part in ("key", "value"))
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit", newest.oid) != newest.oid:
                    return _error(412, "", "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        repository.commits.append(self._next(repository, files, message))
        oid = repository.commits[-1].oid
        return _json({"commitUrl": f"{self.address}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _resolve(self, request: Request, commit: Commit, file: str) -> Response:
        content = commit.files.get(file)
        if content is None:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        response = Response(content, headers=headers, content_type="application/octet-stream")
        if "Range" in request.headers:
            response.make_conditional(request, accept_ranges=True, complete_length=len(content))
        return response

    def _info(self, _: Request, commit: Commit, __: str, name: str) -> Response:
        siblings = [{"rfilename": file} for file in sorted(commit.files)]
        return _json(
            {"id": name, "_id": name, "sha": commit.oid, "siblings": siblings, "private": False, "tags": []}
        )

    def _entry(self, commit: Commit, path: str) -> dict:
        last = {"id": commit.oid, "title": commit.message, "date": datetime.now(UTC).isoformat()[:23] + "Z"}
        if path in commit.files:
            content = commit.files[path]
            return {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": etag(content),
                "lastCommit": last,
            }
        return {"type": "directory", "path": path, "size": 0, "oid": etag(path.encode()), "lastCommit": last}

    def _tree(self, request: Request, commit: Commit, folder: str, _: str) -> Response:
        paths = [path for path in commit.files if not folder or path.startswith(f"{folder}/")]
        if folder and not paths:
            return _error(404, "EntryNotFound", "Entry not found")
        depth = folder.count("/") + 1 if folder else 0
        every = {
            "/".join(path.split("/")[:n]) for path in paths for n in range(depth + 1, path.count("/") + 2)
        }
        if request.args.get("recursive") not in ("True", "true"):
            every = {path for path in every if path.count("/") == depth}
        return _json([self._entry(commit, path) for path in sorted(every)])

    def _paths(self, request: Request, commit: Commit, _: str, __: str) -> Response:
        wanted = request.get_json(silent=True) or request.form.to_dict(flat=False)
        paths = wanted["paths"] if isinstance(wanted["paths"], list) else [wanted["paths"]]
        known = {
            "/".join(path.split("/")[:n]) for path in commit.files for n in range(1, path.count("/") + 2)
        }
        return _json([self._entry(commit, path) for path in paths if path in known])


def _json(content: object) -> Response:
    return Response(json.dumps(content), content_type="application/json")


def _error(status: int, code: str, text: str) -> Response:
    headers = {"X-Error-Code": code, "X-Error-Message": text}
    return Response(json.dumps({"error": text}), status, headers, content_type="application/json")
