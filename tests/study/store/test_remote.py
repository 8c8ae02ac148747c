"""Data, weights and outputs at a URL: a real S3 server in between, and everything is as with folders."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import uuid

import numpy as np
import pytest
import torch

from jobs import _console
from jobs import outputs as outputs_job
from study import spec, transfer
from study.errors import StudyError
from study.images import files
from study.models import weights
from study.store import digest, outputs, storage
from study.store.cache import Cache
from study.views import View
from study.workspace import Workspace
from tests.study.store.test_outputs import KEY, LOGITS, computed, never
from tests.study.trials import assert_same, trial_of

GIB = 1 << 30


@pytest.fixture
def url(s3):
    """An empty folder of the bucket."""
    return storage.at(s3.url(uuid.uuid4().hex))


@pytest.fixture
def new_cache(tmp_path):
    """A function that gives an empty cache, as another node has it."""
    return lambda: Cache(tmp_path / uuid.uuid4().hex, GIB)


@pytest.fixture(scope="module")
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


# --- data -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(s3, study, tmp_path_factory):
    """The data folder at a URL, written there by one node, and what that node opened."""
    place = storage.at(s3.url("data"))
    node = Cache(tmp_path_factory.mktemp("node"), GIB)
    return place, files.prepare(study.data.images, place, node)


@pytest.fixture
def damaged(prepared, study, url):
    """A function that copies the prepared data, one of its files changed, and gives the data folder."""

    def copy(name: str, change):
        source, target = (files.folder_of(study.data.images, place) for place in (prepared[0], url))
        for file in (*files.FILES, files.SIDECAR):
            content = storage.read(source / file)
            content = change(content) if file == name else content
            if content is not None:
                storage.write(target / file, content)
        return url

    return copy


def test_another_node_opens_the_same_images(prepared, study, workspace, new_cache):
    place, first = prepared
    node = new_cache()
    found = files.open_images(study.data.images, place, node)
    assert (found.sha256, found.classes, found.subsets, found.side) == (
        first.sha256,
        first.classes,
        first.subsets,
        first.side,
    )
    assert np.array_equal(found.labels, workspace.images.labels)
    assert found.path.is_relative_to(node.folder)
    assert digest.of_file(found.path) == found.sha256
    assert not list(node.folder.glob(".temporary*"))


def test_what_was_prepared_is_neither_written_nor_copied_again(prepared, study, new_cache, s3, monkeypatch):
    place, _ = prepared
    node = new_cache()
    monkeypatch.setattr(files, "_write", None)
    path = files.prepare(study.data.images, place, node).path
    monkeypatch.setattr(storage, "download", None)
    again = Cache(node.folder, GIB)  # of the node's next process
    assert files.prepare(study.data.images, place, again).path == path


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("images.beton", lambda content: content[:-100], r"truncated or half-written \(\d+ bytes"),
        ("images.beton", lambda content: content[:-1] + bytes([content[-1] ^ 1]), "damaged"),
        ("labels.npy", lambda content: content[:-1] + bytes([content[-1] ^ 1]), "damaged"),
        ("labels.npy", lambda content: None, "the file is missing"),
        ("images.json", lambda content: content[:-9], "the sidecar is missing or damaged"),
        ("images.json", lambda content: None, "the data are not prepared"),
    ],
    ids=["truncated", "bit flipped", "labels", "no labels", "sidecar", "no sidecar"],
)
def test_damaged_data_are_refused_by_their_url(damaged, study, new_cache, name, change, said):
    place, node = damaged(name, change), new_cache()
    with pytest.raises(StudyError, match=said) as told:
        files.open_images(study.data.images, place, node).path  # noqa: B018 - copied when it is asked for
    assert str(told.value).startswith(str(files.folder_of(study.data.images, place)))
    assert "\n" not in str(told.value)
    assert not list(node.folder.glob("[!.]*-images-*"))
    assert not list(node.folder.glob(".temporary*"))


def test_data_written_anew_are_copied_anew(damaged, study, new_cache):
    """The same place, other files: one label, and the sidecar that tells of it."""
    node = new_cache()
    place = damaged("none", None)
    first = files.open_images(study.data.images, place, node)
    folder = files.folder_of(study.data.images, place)
    content = storage.read(folder / "labels.npy")
    changed = content[:-8] + (1 - int(first.labels[-1] > 0)).to_bytes(8, "little")
    storage.write(folder / "labels.npy", changed)
    old, new = (hashlib.sha256(labels).hexdigest().encode() for labels in (content, changed))
    sidecar = json.loads(storage.read(folder / files.SIDECAR).replace(old, new))
    del sidecar["sha256"]
    storage.write(folder / files.SIDECAR, files.sealed(sidecar).encode())
    assert files.open_images(study.data.images, place, node).labels[-1] != first.labels[-1]


def test_a_driver_copies_no_images(prepared, study, new_cache):
    place, _ = prepared
    node = new_cache()
    found = files.open_images(study.data.images, place, node)
    assert [path.name.split("-")[2] for path in node.folder.glob("[!.]*")] == ["labels"]
    assert found.path.exists()


def test_a_local_folder_is_used_through_a_cache_that_is_named(study, workspace, tmp_path):
    folders = study.folders.model_copy(update={"cache": tmp_path / "cache"})
    place = Workspace(study.data, folders, "cpu", threads=1)
    assert place.images.path.is_relative_to(tmp_path / "cache")
    assert place.images.sha256 == workspace.images.sha256
    assert workspace.images.path.is_relative_to(folders.data)


# --- weights ----------------------------------------------------------------------------------------


def at_url(study: spec.Study, url, tmp_path) -> spec.Folders:
    """Folders of the study at a URL, with a cache of their own."""
    places = {name: url / name for name in ("data", "zoo", "outputs")}
    return study.folders.model_copy(update=places | {"cache": tmp_path / uuid.uuid4().hex})


def test_weights_saved_at_a_url_are_loaded_from_there(study, workspace, url, tmp_path):
    model, folders = study.zoo["mixer"], at_url(study, url, tmp_path)
    trained = weights.load(model, study.data, 10, study.folders)
    folder = weights.folder_of(model, study.data, folders.zoo, None)
    path = folder / weights.TENSORS
    with pytest.raises(StudyError, match=rf"^{path}: the weights of model 'mixer' are not there"):
        weights.load(model, study.data, 10, folders)
    assert not weights.is_made(folder)
    weights.save(trained, {"epochs": 1}, folder)
    assert weights.is_made(folder)
    assert weights.facts(folder) == {"epochs": 1}
    assert weights.load(model, study.data, 10, folders).weights == trained.weights

    storage.write(path, storage.read(path)[:-100])
    with pytest.raises(StudyError, match=rf"^{path}: .* 'mixer' cannot be read: it is damaged"):
        weights.load(model, study.data, 10, folders)


# --- outputs ----------------------------------------------------------------------------------------


@pytest.fixture
def new_store(url, new_cache):
    """A function that gives the one store, as another node has it."""
    return lambda: outputs.Store(url, new_cache())


def test_outputs_are_computed_once_for_all_nodes(new_store):
    first = new_store()
    said = [first.get(KEY, computed), first.get(KEY, never), new_store().get(KEY, never)]
    for one in said:
        assert torch.equal(one.logits, LOGITS.half())
        assert not one.replaced
    assert [path for path in (first.cache.folder / ".computing").iterdir() if path.suffix] == []


def test_a_damaged_copy_is_replaced_without_computing(new_store):
    store = new_store()
    store.get(KEY, computed)
    (copy,) = store.cache.folder.glob("[!.]*/*.safetensors")
    content = copy.read_bytes()
    copy.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    said = store.get(KEY, never)
    assert torch.equal(said.logits, LOGITS.half())
    assert not said.replaced
    assert [path.read_bytes() for path in store.cache.folder.glob("[!.]*/*.safetensors")] == [content]


@pytest.mark.parametrize("node", ["the same node", "another node"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:],
        lambda content: b"",
    ],
    ids=["truncated", "bit flipped", "empty"],
)
def test_damaged_outputs_of_the_store_are_computed_again(new_store, url, damage, node):
    store, path = new_store(), url / f"{KEY.name}.safetensors"
    store.get(KEY, computed)
    content = storage.read(path)
    if node == "another node":
        store = new_store()
    else:
        for copy in store.cache.folder.glob("[!.]*"):
            store.cache.drop(copy.name)
    storage.write(path, damage(content))
    said = store.get(KEY, computed)
    assert torch.equal(said.logits, LOGITS.half())
    assert said.replaced.startswith(f"{path}: damaged (")
    assert not new_store().get(KEY, never).replaced


def test_outputs_that_cannot_be_kept_leave_nothing_behind(s3, new_cache):
    nowhere = storage.at(s3.url("x").replace("//bucket/", "//nowhere/"))
    store = outputs.Store(nowhere, new_cache())
    with pytest.raises(StudyError, match=r"s3://nowhere/x: the outputs folder cannot be written"):
        store.get(KEY, computed)
    with pytest.raises(StudyError, match=r"s3://nowhere/x: the outputs folder cannot be written"):
        storage.prepare(nowhere, "outputs")
    assert [path for path in (store.cache.folder / ".computing").iterdir() if path.suffix] == []


def test_the_store_at_a_url_is_listed_and_cleared(
    new_store, url, s3, content, write_study, monkeypatch, capsys
):
    """jobs/outputs.py; a file at a URL is looked at, not read through."""
    new_store().get(KEY, computed)
    storage.write(url / "broken.safetensors", b"nothing of that kind")
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)  # these tests' process keeps its own

    def run(*options: str) -> str:
        arguments = [outputs_job.__file__, str(write_study(content)), "--outputs", s3.url(url.name), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            _console.main(outputs_job.job)
        assert ended.value.code == 0
        return capsys.readouterr().out

    said = run()
    assert f"{KEY.name}.safetensors" in said
    assert "mixer" in said
    assert "outputs: 2 files, " in said
    assert f"in {url}" in said
    assert "outputs: 1 files" in run("--damaged", "--clear")
    assert [path.name for path in storage.files(url, "")] == [f"{KEY.name}.safetensors"]
    assert "freed" in run("--clear")
    assert storage.files(url, "") == []


# --- all of it --------------------------------------------------------------------------------------


def test_a_trial_gives_the_same_record_with_everything_at_a_url(study, workspace, url, tmp_path):
    trial = trial_of(study, "kl_dp")
    expected = transfer.run(trial, workspace)
    source = files.folder_of(study.data.images, study.folders.data)
    for file in (*files.FILES, files.SIDECAR):
        storage.upload(source / file, files.folder_of(study.data.images, url / "data") / file)
    for model in study.zoo.values():
        made = workspace.folder_of(model)
        for file in made.iterdir():
            storage.upload(file, url / "zoo" / made.name / file.name)
    for _ in range(2):  # two nodes
        place = Workspace(study.data, at_url(study, url, tmp_path), "cpu", threads=1)
        assert_same(transfer.run(trial, place), expected)
    kept = storage.files(url / "outputs", ".safetensors")
    assert {path.name for path in kept} <= {path.name for path in study.folders.outputs.iterdir()}
    assert len(kept) == 4  # of two models, on what they transfer with and are evaluated on


def test_outputs_of_one_node_are_used_by_the_next(study, workspace, url, tmp_path, monkeypatch):
    model = study.zoo["mixer"]
    folders = study.folders.model_copy(update={"outputs": url})
    said = []
    for _ in range(2):
        node = folders.model_copy(update={"cache": tmp_path / uuid.uuid4().hex})
        place = Workspace(study.data, node, "cpu", threads=1)
        classifier = place.load(model)
        said.append(place.transfer_outputs(classifier, View(classifier.crop), False)[0])
        monkeypatch.setattr("study.evaluate.stream", None)
    assert torch.equal(*said)
