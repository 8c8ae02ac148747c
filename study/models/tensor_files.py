"""Files of weights as training scripts leave them: safetensors, or a torch file that wraps the tensors.

Read by timm's own loader, which takes averaged weights before others and strips what DistributedDataParallel
and torch.compile put before the names, and read safely: nothing that a file holds is run.

Left out on purpose: weights under other names than timm's, which timm converts for its own hub alone, and
files that need code to be read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from study.models.timm_import import timm

# Under which training scripts keep the weights, beside the keys that timm's loader knows.
WRAPPERS = ("model_state_dict", "weights", "net", "network")
# What scripts keep beside them that is plain data: an accuracy as a numpy scalar.
PLAIN = [
    np.dtype,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np._core.multiarray.scalar,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]
COUNTER = "num_batches_tracked"
SHOWN = 3  # names in a sentence


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or holds no tensors, or what cannot be read safely; says what to do.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("it is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`")
    if path.suffix == ".safetensors" or start[8:9] == b"{":  # whatever the file is called
        return _whole(lambda: safetensors.torch.load_file(path))
    if not start.startswith((b"PK", b"\x80")):  # neither the archive that torch writes nor, older, a pickle
        raise ValueError("it is damaged or no file of tensors; replace it")
    with torch.serialization.safe_globals(PLAIN):
        found = _whole(lambda: timm.models.load_state_dict(str(path), weights_only=True))
    tensors = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), found)
    kept = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not kept:
        raise ValueError(
            f"it holds no tensors by name, but {_some(tensors)}; save the state_dict of the model alone"
        )
    return kept


def _whole(load) -> dict[str, Any]:
    try:
        return load()
    except FileNotFoundError:
        raise
    except AttributeError as error:  # a list, or a tensor
        raise ValueError("it holds no tensors by name; save the state_dict of the model alone") from error
    except Exception as error:  # a damaged file makes either reader raise anything
        if "weights_only" in str(error):
            raise ValueError(
                "it holds Python objects beside tensors, which only running code could read; save the "
                "tensors alone, with torch.save(model.state_dict(), FILE)"
            ) from error
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ValueError(f"it is damaged or no file of tensors ({reason}); replace it") from error


def fitting(tensors: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the names of a network's (its `state_dict`).

    What a wrapper puts before all of them (Lightning: `model.`) is taken off, and what lies beside them there
    is left out.

    Raises:
        ValueError: some are missing, too many, of another shape, or there under several prefixes.
    """
    # Counters of BatchNorm, which torch fills in: files of before 2018 have none.
    network = {name: tensor for name, tensor in network.items() if not name.endswith(COUNTER)}
    first = next(iter(network))
    prefixes = {name.removesuffix(first) for name in tensors if name.endswith(first)}
    whole = sorted(
        prefix
        for prefix in prefixes
        if prefix and prefix.endswith(".") and all(prefix + name in tensors for name in network)
    )
    if len(whole) > 1:
        raise ValueError(f"it holds several models ({_some(whole)}); keep one of them in a file of its own")
    if whole and not all(name in tensors for name in network):
        tensors = {name.removeprefix(*whole): t for name, t in tensors.items() if name.startswith(*whole)}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    other = [
        f"{name} {shapes[name]}, not {list(tensor.shape)}"
        for name, tensor in network.items()
        if name in shapes and shapes[name] != list(tensor.shape)
    ]
    wrong = {
        "lacks": [name for name in network if name not in shapes],
        "has": [name for name in shapes if name not in network and not name.endswith(COUNTER)],
        "differs in": other,
    }
    if any(wrong.values()):
        raise ValueError("; ".join(f"it {what} {_some(names)}" for what, names in wrong.items() if names))
    return dict(tensors)


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
