"""The outputs store: computed once, read as written, never read damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from study import evaluate, spec
from study.errors import StudyError
from study.images.batches import Crop
from study.store import outputs, storage
from study.views import View
from study.workspace import Workspace
from tests.conftest import PATIENCE

KEY = outputs.Key(
    timm="tiny_mixer",
    kwargs={"depth": 1},
    weights="ab" * 32,
    preprocessing={"mean": [0.5]},
    crop=Crop(),
    data_sha256="cd" * 32,
    samples="ef" * 32,
    precision="float32",
    top_k=None,
)
LOGITS = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 3
FEATURES = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))


def computed(top_k: int | None = None, parts: int = 3, features: bool = False):
    """What a store is given to compute."""
    logits = LOGITS.tensor_split(parts)
    given = zip(logits, FEATURES.tensor_split(parts) if features else [None] * parts, strict=True)
    tensors, largest = outputs.collect(given, len(LOGITS), top_k)
    return tensors, {"model": "mixer", "split": "evaluation", "batch_size": str(largest)}


def never():
    raise AssertionError("computed although it is there")


@pytest.fixture
def store(tmp_path):
    return outputs.Store(tmp_path / "outputs")


def file_of(store, key=KEY):
    return store.folder / f"{key.name}.safetensors"


# --- what is kept -------------------------------------------------------------------------------


def test_what_is_written_is_read_back_by_a_store_that_computes_nothing(store):
    first = store.get(KEY, computed)
    again = outputs.Store(store.folder).get(KEY, never)
    for said in (first, again):
        assert torch.equal(said.logits, LOGITS.half())
        assert np.array_equal(said.predictions.label, LOGITS.argmax(1).numpy())
        np.testing.assert_array_equal(said.predictions.confidence, LOGITS.softmax(1).amax(1).numpy())
        assert said.header["batch_size"] == "17"
        assert not said.replaced
    assert not [path for path in store.folder.iterdir() if path.name.endswith(".tmp")]


def test_others_may_read_what_one_user_computed(store, tmp_path):
    store.get(KEY, computed)
    (tmp_path / "any").touch()
    assert file_of(store).stat().st_mode == (tmp_path / "any").stat().st_mode


def test_logits_are_mapped_not_read(store):
    rows = 40_000
    tensors, _ = outputs.collect([(torch.zeros(rows, 1000), None)], rows, None)
    store.get(KEY, lambda: (tensors, {}))

    def memory(kind: str) -> int:
        with open("/proc/self/smaps_rollup") as stream:  # noqa: PTH123 - not a file on a disk
            (line,) = [line for line in stream if line.startswith(kind)]
        return int(line.split()[1]) * 1024

    own, resident, size = memory("Anonymous"), memory("Rss"), 2 * rows * 1000
    said = store.get(KEY, never)
    assert said.logits.shape == (rows, 1000)
    assert said.logits.max() == 0
    assert memory("Anonymous") - own < 0.1 * size
    assert memory("Rss") - resident > 0.9 * size  # pages that all processes share,
    del said
    assert memory("Rss") - resident < 0.1 * size  # and that go with the trial


def test_rounding_makes_ties_but_changes_no_prediction(store):
    logits = torch.tensor([[10.0, 10.001], [10.001, 10.0]])
    assert (logits.half()[:, 0] == logits.half()[:, 1]).all()
    tensors, _ = outputs.collect([(logits, None)], 2, None)
    said = store.get(KEY, lambda: (tensors, {}))
    assert said.predictions.label.tolist() == [1, 0]


@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_the_top_k_and_the_rest_are_the_whole_distribution(store, top_k):
    said = store.get(replace(KEY, top_k=top_k), lambda: computed(top_k))
    assert said.logits is None
    probabilities = LOGITS.softmax(1)
    values, classes = probabilities.sort(1, descending=True)
    assert torch.equal(said.top_classes, classes[:, :top_k].int())
    torch.testing.assert_close(
        said.top_log_probabilities.float().exp(), values[:, :top_k], rtol=5e-3, atol=1e-4
    )
    rest = said.rest_log_probability.float().exp()
    torch.testing.assert_close(rest, 1 - values[:, :top_k].sum(1), rtol=5e-3, atol=1e-3)
    assert np.array_equal(said.predictions.label, LOGITS.argmax(1).numpy())


def test_a_top_k_of_all_classes_keeps_every_logit(store):
    assert store.get(KEY, lambda: computed(10)).logits is not None


@pytest.mark.parametrize("top_k", [None, 3])
def test_features_lie_beside_the_logits(store, top_k):
    key = replace(KEY, top_k=top_k, features=True)
    store.get(key, lambda: computed(top_k, features=True))
    said = store.get(key, never)
    assert torch.equal(said.features, FEATURES.half())
    assert (said.logits is None) == (top_k is not None)
    assert store.get(KEY, computed).features is None


@pytest.mark.parametrize("features", [0, 6])
@pytest.mark.parametrize("top_k", [None, 4])
def test_the_size_is_known_before(store, top_k, features):
    key = replace(KEY, top_k=top_k, features=bool(features))
    store.get(key, lambda: computed(top_k, features=bool(features)))
    (entry,) = store.entries()
    header = int.from_bytes(entry.path.read_bytes()[:8], "little") + 8
    assert entry.size - header == outputs.size_of(50, 10, top_k, features)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 70000.0])
@pytest.mark.parametrize("where", [0, 1])
def test_what_float16_cannot_hold_is_refused(bad, where):
    part = (LOGITS.clone(), FEATURES.clone())
    part[where][7, 3] = bad
    with pytest.raises(StudyError, match=r"not finite, or beyond what float16 holds"):
        outputs.collect([part], len(LOGITS), None)


@pytest.mark.parametrize(
    "change",
    [
        {"timm": "tiny_gmlp"},
        {"kwargs": {"depth": 2}},
        {"weights": "00" * 32},
        {"preprocessing": {"mean": [0.4]}},
        {"crop": Crop(0.5)},
        {"crop": Crop(1.0, "squash")},
        {"data_sha256": "00" * 32},
        {"samples": "00" * 32},
        {"precision": "bfloat16"},
        {"top_k": 5},
        {"view": {"seed": 0, "epoch": 1}},
        {"features": True},
    ],
)
def test_whatever_changes_the_outputs_changes_the_file(change):
    assert replace(KEY, **change).name != KEY.name


def test_files_are_named_as_before():
    assert KEY.name == "fafb5ee3096cb62a"
    view = {"seed": 0, "epoch": 1, "flip": True, "shift": 0, "scale": (0.35, 1.0), "ratio": (3 / 4, 4 / 3)}
    assert replace(KEY, view=view).name == "f05f447213756e2f"


# --- what goes wrong ----------------------------------------------------------------------------


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-100])
    elif how == "a bit flipped":
        path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_bytes(b"not tensors at all")
    elif how == "header changed":
        path.write_bytes(content.replace(b'"I32"', b'"F32"', 1))
    elif how == "no checksum":
        safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    elif how == "another key's":
        other = replace(KEY, weights="00" * 32)
        outputs.Store(path.parent).get(other, computed)
        file_of(outputs.Store(path.parent), other).rename(path)


@pytest.mark.parametrize(
    "how",
    ["truncated", "a bit flipped", "empty", "text", "header changed", "no checksum", "another key's"],
)
def test_a_damaged_file_is_refused_and_computed_again(store, how):
    store.get(KEY, computed)
    damage(file_of(store), how)
    assert [bool(entry.problem) for entry in store.entries()] == [True]
    with pytest.raises(AssertionError, match="although it is there"):
        store.get(KEY, never)  # it is not used
    said = store.get(KEY, computed)
    assert torch.equal(said.logits, LOGITS.half())
    assert f"{KEY.name}.safetensors: damaged (" in said.replaced
    assert said.replaced.endswith("; computed again")
    assert not store.get(KEY, never).replaced
    assert [entry.problem for entry in store.entries()] == [""]


def test_a_computation_that_fails_leaves_nothing(store):
    def fail():
        raise StudyError("its outputs are not finite")

    with pytest.raises(StudyError):
        store.get(KEY, fail)
    assert store.entries() == []
    assert torch.equal(store.get(KEY, computed).logits, LOGITS.half())  # and no lock


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/outputs: the outputs folder cannot be written .*--outputs"):
        outputs.Store(tmp_path / "file" / "outputs").get(KEY, computed)
    with pytest.raises(StudyError, match=r"file/outputs: the outputs folder cannot be written .*--outputs"):
        storage.prepare(tmp_path / "file" / "outputs", "outputs")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        large, _ = outputs.collect([(torch.zeros(5000, 10), None)], 5000, None)
        store = outputs.Store(folder)
        with pytest.raises(StudyError, match=r"cannot be written .*--clear"):
            store.get(KEY, lambda: (large, {}))
        assert store.entries() == []
        assert not list(folder.glob(".*.tmp"))
    finally:
        subprocess.run(["umount", folder], check=True)


# --- several at once ----------------------------------------------------------------------------


def test_two_threads_compute_once(store):
    count = []

    def slow():
        count.append(1)
        time.sleep(0.3)
        return computed()

    threads = [threading.Thread(target=store.get, args=(KEY, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1


WORKER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.study.store.test_outputs import KEY, computed
from pathlib import Path
from study.store import outputs
def slow():
    print("computing", flush=True)
    time.sleep({seconds})
    return computed()
print(float(outputs.Store(Path({folder!r})).get(KEY, slow).logits.float().sum()), flush=True)
"""


def worker(store, seconds):
    code = WORKER.format(root=str(spec.Path.cwd()), folder=str(store.folder), seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_compute_once(store):
    processes = [worker(store, 2) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert "".join(said).count("computing") == 1
    assert said[0].split()[-1] == said[1].split()[-1]


def test_a_process_killed_while_computing_stops_nobody(store):
    process = worker(store, 1000)
    assert process.stdout.readline() == "computing\n"
    process.kill()
    process.wait()
    assert torch.equal(store.get(KEY, computed).logits, LOGITS.half())


# --- report and clearing ------------------------------------------------------------------------


def test_entries_tell_what_is_there_and_clear_removes_it(store):
    assert store.entries() == []
    store.get(KEY, computed)
    store.get(replace(KEY, top_k=2), lambda: computed(2))
    large, small = store.entries()
    assert (large.model, large.split, large.samples, large.problem) == ("mixer", "evaluation", 50, "")
    assert large.size > small.size
    open_still = store.get(KEY, never)
    assert store.clear([large]) == large.size
    assert store.entries() == [small]
    assert torch.equal(open_still.logits, LOGITS.half())


# --- in the workspace ---------------------------------------------------------------------------


@pytest.fixture
def study(base):
    return spec.Study.model_validate(base)


def test_the_workspace_runs_a_model_once_for_all(study, workspace, tmp_path, monkeypatch):
    folders = study.folders.model_copy(update={"outputs": tmp_path})
    model = study.zoo["resnet"]
    first = Workspace(workspace.data, folders, "cpu", threads=1)
    classifier = first.load(model)
    samples = first.splits["evaluation"]
    expected = evaluate.predict(classifier, first.batches(Crop()), samples, first.device, "float32")
    said = first.evaluation(classifier)
    assert np.array_equal(said.label, expected.label)
    transfer, features = first.transfer_outputs(classifier, View(Crop()), False, variant=0)
    assert features is None
    assert transfer.dtype == torch.float16
    assert len(transfer) == len(first.splits["transfer"])

    monkeypatch.setattr(evaluate, "stream", None)  # a second process runs nothing
    second = Workspace(workspace.data, folders, "cpu", threads=1)
    renamed = model.model_copy(update={"name": "another"})  # the same model by any name
    assert np.array_equal(second.evaluation(second.load(renamed)).label, said.label)
    again, _ = second.transfer_outputs(second.load(model), View(Crop()), False, variant=0)
    assert torch.equal(again, transfer)
    with pytest.raises(TypeError):
        second.transfer_outputs(classifier, View(Crop(0.5)), False, variant=0)


def test_other_weights_are_other_outputs(study, workspace, tmp_path):
    folders = study.folders.model_copy(update={"outputs": tmp_path})
    place = Workspace(workspace.data, folders, "cpu", threads=1)
    model = study.zoo["mixer"]
    trained = place.evaluation(place.load(model))
    blank = model.model_copy(update={"weights": spec.Random(seed=0)})
    other = place.evaluation(place.load(blank))
    assert not np.array_equal(trained.label, other.label)
    assert len(place.store.entries()) == 2
