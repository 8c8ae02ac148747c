"""Repositories of the hub as folders, and commits to them: against a stand-in of its interface."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from huggingface_hub import constants

from study import spec
from study.errors import StorageError, StudyError
from study.images import files
from study.models import weights
from study.store import digest, hub, records, schemas, storage
from study.workspace import Workspace
from tests.hub import afresh
from tests.jobs.running import refused, run_here
from tests.study.store.test_records import FAILED, write_trial

URL = "hf://datasets/me/results"


@pytest.fixture
def place(the_hub, tmp_path):
    """A results folder with a finished and a failed trial, in a data set."""
    folder = tmp_path / "results"
    records.prepare(folder, schemas.TRANSFER_TABLES)
    write_trial(folder, "t1")
    records.write_failure(folder, "trials", "t2", FAILED)
    large = np.random.default_rng(0).bytes(12 << 20)  # more than is fetched at once
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    the_hub.put("dataset", "me/results", files | {"large.bin": large, ".hidden": b"", "README.md": b"# x"})
    return storage.at(URL)


@pytest.fixture
def refused_address():
    """An address at which nothing answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# --- reading ----------------------------------------------------------------------------------------


def test_a_repository_is_read_as_a_folder(place, the_hub, tmp_path):
    held = the_hub.files("dataset", "me/results")
    assert records.status(place, "trials") == {"t1": "ok", "t2": "failed"}
    assert records.read(place, "predictions", "t1").num_rows == 3
    assert [path.name for path in storage.files(place, "")] == ["README.md", "large.bin"]
    assert storage.files(place / "nowhere", "") == []
    storage.download(place / "large.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == held["large.bin"]
    assert [part.exists() for part in (place, place / "trials", place / "README.md")] == [True] * 3
    assert not (place / "nowhere").exists()
    assert not storage.at("hf://datasets/me/nowhere").exists()
    for missing in ("nowhere", "nowhere/at/all", "trials"):
        with pytest.raises(OSError, match="No such file"):
            storage.read(place / missing)


def test_models_and_revisions_have_urls_too(the_hub):
    the_hub.put("model", "me/model", {"facts.json": b"old"})
    the_hub.put("model", "me/model", {"facts.json": b"new"})
    first = the_hub.repositories["model", "me/model"].commits[1].oid
    assert storage.read(storage.at("hf://me/model/facts.json")) == b"new"
    assert storage.read(storage.at(f"hf://me/model@{first}/facts.json")) == b"old"


def test_a_file_that_was_written_again_has_another_stamp(place, the_hub):
    before = storage.stamp(place / "README.md")
    assert before[0] == 3
    the_hub.put("dataset", "me/results", {"README.md": b"# y"})
    afresh()
    assert storage.stamp(storage.at(URL) / "README.md") != before


@pytest.mark.parametrize("url", ["hf://", "hf://datasets", "hf://datasets/x", "hf://x", "hf://buckets/me/x"])
def test_a_url_without_a_repository_is_refused(url):
    with pytest.raises(ValueError, match=r"it names no repository: hf://datasets/USER/NAME"):
        storage.at(url)


def test_writing_there_is_refused_and_says_how_to(place, the_hub):
    for action in (
        lambda: storage.write(place / "new", b""),
        lambda: storage.remove(place / "README.md"),
        lambda: storage.make(place / "folder"),
    ):
        with pytest.raises(StudyError, match=rf"^{URL}.*: not written .* a commit there; .* by --push"):
            action()
    with pytest.raises(StudyError, match=rf"^{URL}.*: not written file by file"):
        records.prepare(place, ["trials"])
    storage.remove(place / "nowhere")
    assert len(the_hub.repositories["dataset", "me/results"].commits) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_fails_for_a_while_is_waited_for(place, the_hub, status):
    the_hub.fail(status, seconds=0.4)
    assert records.status(place, "trials") == {"t1": "ok", "t2": "failed"}
    afresh()
    the_hub.fail(status, seconds=0.4)
    assert storage.read(storage.at(URL) / "README.md") == b"# x"


def test_a_hub_that_does_not_answer_is_no_empty_folder(place, the_hub, monkeypatch, refused_address):
    monkeypatch.setenv(storage.PATIENCE, "0.5")
    asked = (
        lambda place: storage.files(place / "trials", ".parquet"),
        lambda place: place.exists(),
        lambda place: storage.read(place / "README.md"),
    )
    for address, said in ((the_hub.address, "the hub answers 503"), (refused_address, "Connection refused")):
        the_hub.fail(503)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        for ask in asked:
            afresh()
            with pytest.raises(StorageError, match=rf"^{URL}.*: cannot be reached or written \(.*{said}"):
                ask(storage.at(URL))


def test_a_hub_that_fails_while_a_file_is_read_is_waited_for(place, the_hub, tmp_path):
    stream = storage.open_file(place / "large.bin")
    stream.read(10)
    the_hub.fail(503, path="resolve")
    with pytest.raises(OSError, match="the hub answers 503"):
        stream.read(10 << 20)
    the_hub.fail(503, seconds=0.4, path="resolve")
    storage.download(place / "large.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == the_hub.files("dataset", "me/results")["large.bin"]


def test_what_one_may_not_read_is_told_at_once(place, the_hub):
    the_hub.fail(403)
    with pytest.raises(PermissionError, match="the hub answers 403"):
        storage.read(place / "README.md")


# --- writing ----------------------------------------------------------------------------------------

FILES = {"trials/new.parquet": b"PAR1 new", "README.md": b"# new"}


def commit(**options) -> str:
    return hub.commit("me/results", "dataset", dict(FILES), "Records", schemas.TABLES, **options)


def test_a_repository_is_made_private_and_written_by_one_commit(the_hub):
    url = commit()
    made = the_hub.repositories["dataset", "me/results"]
    assert made.private
    assert [one.message for one in made.commits] == ["initial commit", "Records"]
    assert the_hub.files("dataset", "me/results") == FILES
    assert url.endswith(made.commits[-1].oid)


def test_it_is_public_if_that_is_asked_for(the_hub):
    commit(public=True)
    assert not the_hub.repositories["dataset", "me/results"].private


def test_former_files_of_the_tables_are_replaced_and_others_stay(place, the_hub):
    commit()
    assert set(the_hub.files("dataset", "me/results")) == {*FILES, "large.bin", ".hidden"}
    assert len(the_hub.repositories["dataset", "me/results"].commits) == 3
    commit()  # nothing has changed
    assert len(the_hub.repositories["dataset", "me/results"].commits) == 3


@pytest.mark.parametrize("path", ["", "/commit/", "/lfs/", "validate-yaml", "preupload"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_commit_waits_for_a_hub_that_fails_for_a_while(the_hub, path, status):
    the_hub.fail(status, 0.4, path)
    commit()
    assert the_hub.files("dataset", "me/results") == FILES
    assert len(the_hub.repositories["dataset", "me/results"].commits) == 2


def test_a_commit_that_another_one_came_before_is_made_anew(place, the_hub):
    the_hub.fail(412, 0.4, "/commit/")
    commit()
    assert the_hub.files("dataset", "me/results")["README.md"] == b"# new"


@pytest.mark.parametrize(
    ("status", "path", "said"),
    [
        (401, "", r"the hub answers 401, .*\); `hf auth login` with a token that may write"),
        (403, "/commit/", r"the hub answers 403, .*\); `hf auth login` with a token that may write"),
        (404, "/preupload/", r"the hub answers 404, .*\); correct the repository's name"),
        (413, "/commit/", r"the hub answers 413, .*\); see to the network"),
        (503, "/lfs/", r"the hub answers 503, .*\), tried for \d+ s"),
        (503, "/commit/", r"the hub answers 503, .*\), tried for \d+ s"),
    ],
)
def test_a_commit_that_fails_leaves_nothing_and_is_one_sentence(
    place, the_hub, monkeypatch, status, path, said
):
    monkeypatch.setenv(storage.PATIENCE, "0.5")
    before = the_hub.files("dataset", "me/results")
    the_hub.fail(status, path=path)
    with pytest.raises(StudyError, match=rf"me/results: cannot be .*{said}") as told:
        commit()
    assert "\n" not in str(told.value)
    assert the_hub.files("dataset", "me/results") == before
    assert len(the_hub.repositories["dataset", "me/results"].commits) == 2


# --- who writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "me/de mo", "me/a/b", "", "me/--x--", "me/x.git"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(StudyError, match="no name of a repository; give USER/NAME"):
        hub.check(name, ask=False)


def test_who_is_logged_in_may_write_what_is_theirs(the_hub):
    hub.check("me/results")
    with pytest.raises(StudyError, match=r"^you/results: who is logged in writes repositories of me; "):
        hub.check("you/results")


def test_nobody_is_logged_in(the_hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(StudyError, match=r"^me/results: nobody is logged in .*; `hf auth login` .*HF_TOKEN"):
        hub.check("me/results")
    assert the_hub.requests == []


def test_a_token_that_is_not_known(the_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(StudyError, match=r"^me/results: .*\(the hub answers 401.*`hf auth login`"):
        hub.check("me/results")


def test_no_network(the_hub, monkeypatch, refused_address):
    monkeypatch.setattr(constants, "ENDPOINT", refused_address)
    with pytest.raises(StudyError, match=r"^me/results: .*\(.*Connection refused\); see to the net"):
        hub.check("me/results")


# --- what a study reads there -----------------------------------------------------------------------


def test_images_and_weights_are_used_from_there(the_hub, base, workspace, tmp_path):
    """Prepared data and a model that others have uploaded, on a node that has neither."""
    study = spec.Study.model_validate(base)
    folder = files.folder_of(study.data.images, study.folders.data)
    the_hub.put("dataset", "me/images", {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()})
    made = workspace.folder_of(study.zoo["mixer"])
    the_hub.put("model", "me/mixer", {path.name: path.read_bytes() for path in made.iterdir()})

    from_there = spec.File(path="hf://me/mixer/model.safetensors")
    model = study.zoo["mixer"].model_copy(update={"weights": from_there})
    places = {"data": storage.at("hf://datasets/me/images"), "cache": tmp_path / "cache"}
    folders = study.folders.model_copy(update=places)
    study = study.model_copy(update={"zoo": {"mixer": model}, "folders": folders, "pairs": []})
    study = weights.pinned(study)
    assert study.zoo["mixer"].weights.sha256 == digest.of_file(made / weights.TENSORS)
    place = Workspace(study.data, folders, "cpu", threads=1)
    assert place.images.sha256 == workspace.images.sha256
    assert place.load(study.zoo["mixer"]).weights == workspace.load(spec.Study(**base).zoo["mixer"]).weights
    assert place.images.path.is_relative_to(tmp_path / "cache")


def test_a_sweep_does_not_write_its_results_there(the_hub, content, write_study):
    path = write_study(content)
    done = run_here("jobs/transfer_sweep.py", path, "--results", "hf://datasets/me/results")
    refused(done, "hf://datasets/me/results", "each would be a commit there", "--push")
    done = run_here("jobs/transfer_sweep.py", path, "--push", "you/results")
    refused(done, "you/results", "repositories of me")
