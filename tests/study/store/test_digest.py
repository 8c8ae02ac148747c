"""Digests: the values that ids, names of files and fingerprints were made of stay what they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.store import digest, storage
from study.store.cache import Cache

SMALL = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc" (FIPS 180-4)


def test_of_bytes_and_of_a_file_are_the_standards(tmp_path):
    assert digest.of_bytes(b"abc") == SMALL
    (tmp_path / "file").write_bytes(b"abc")
    assert digest.of_file(tmp_path / "file") == SMALL
    with pytest.raises(FileNotFoundError):
        digest.of_file(tmp_path / "none")


def test_a_large_file_is_read_in_pieces(tmp_path):
    content = bytes(storage.CHUNK) + b"abc"
    (tmp_path / "file").write_bytes(content)
    assert digest.of_file(tmp_path / "file") == digest.of_bytes(content)


def test_json_is_canonical():
    """As ids of trials are made."""
    content = {"b": [1, 2.5, None], "a": "ü"}
    assert digest.of_json(content) == "703dceec79c30480"
    assert digest.of_json(dict(reversed(content.items()))) == "703dceec79c30480"
    assert digest.of_json(content, 8) == "703dceec"


def test_samples_are_told_apart_by_their_order_too():
    a, b = np.array([1, 2, 3]), np.array([1, 3, 2])
    assert digest.of_array(a) == "e2e2033ae7e19d680599d4eb0a1359a2b48ec5baac75066c317fbf85159c54ef"
    assert digest.of_array(a) != digest.of_array(b)
    assert digest.of_array(a) == digest.of_array(a.astype(np.int32)) == digest.of_array(np.repeat(a, 2)[::2])


def test_weights_in_any_memory_format_have_one_fingerprint():
    """As models are told apart: by the names and bytes of a module's state."""
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + number)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        state = module.to(memory_format=memory_format).state_dict()
        assert digest.of_tensors(state.items()) == (
            "911efaa9418065b8b61d131ee0bb20e6d650dfe3415ec352bf60b32bb13b2fd8"
        )


def test_tensors_of_any_kind_have_one():
    tensors = [
        ("a torch.int32 ()", torch.tensor(7, dtype=torch.int32)),
        ("b torch.float16 (3, 2)", torch.arange(6).reshape(2, 3).t().half()),
        ("c torch.float32 (0, 3)", torch.empty(0, 3)),
    ]
    value = "59e008764699886d51524eae569edd2d351fe41402179f0ad280002a0229df15"
    assert digest.of_tensors(tensors) == value
    assert digest.of_tensors(tensors[::-1]) != value
    apart, together = torch.arange(6)[::2], torch.arange(0, 6, 2)
    assert digest.of_tensors([("x", apart)]) == digest.of_tensors([("x", together)])
    assert digest.of_tensors([("x", torch.ones(2, dtype=torch.bfloat16))])


def test_entries_of_a_cache_are_named_as_before(tmp_path, monkeypatch):
    (tmp_path / "weights.pt").touch()
    monkeypatch.setattr(storage, "stamp", lambda location: (3, 5))
    monkeypatch.setattr(storage, "download", lambda location, path: path.touch())
    monkeypatch.chdir(tmp_path)
    with Cache(tmp_path / "cache", 1 << 20).copy(storage.at("weights.pt")) as copy:
        assert copy.parent.name == "weights-f76e1196698fc380"
