"""CIFAR forms of networks against their published sizes, and as timm's models."""

import pytest
import torch
from torch import nn

from study import recipe, spec
from study.images.batches import Crop
from study.models import cifar, families, zoo
from study.models.timm_import import timm

# Parameters (millions) and FLOPs (billions, multiplies and adds) of convolutions and linear layers: Tables 6
# and 7 of arXiv 2012.02909's submission to ICLR 2022, for 100 classes at 32 pixels a side and for 200 at 64.
PUBLISHED = {
    "cifar_wrn_40_2": ((2.2497, 0.6552), (2.2626, 2.6208)),
    "cifar_wrn_16_2": ((0.7015, 0.2022), (0.7144, 0.8089)),
    "cifar_resnet56": ((0.8574, 0.2515), (0.8639, 1.0060)),
    "cifar_resnet20": ((0.2768, 0.0816), (0.2833, 0.3265)),
    "cifar_resnet32x4": ((7.4239, 2.1661), (7.4496, 8.6642)),
    "cifar_resnet8x4": ((1.2308, 0.3541), (1.2565, 1.4165)),
    "cifar_vgg13": ((9.4563, 0.5699), (9.5076, 1.8263)),
    "cifar_vgg8": ((3.9621, 0.1924), (4.0134, 0.5428)),
    "cifar_mobilenetv2": ((0.7945, 0.0116), (0.9226, 0.0459)),
    "cifar_resnet50": ((23.6521, 2.5960), (23.8570, 10.3833)),
    "cifar_shufflenetv2": ((1.3393, 0.0863), (1.4418, 0.3449)),
}
every_network = pytest.mark.parametrize("name", cifar.NETWORKS)


def sizes(network: nn.Module, side: int) -> tuple[float, float]:
    """Parameters and FLOPs as published: without BatchNorm, and of FLOPs without a convolution a channel."""
    parameters, operations = [], []

    def count(layer, _, out):
        parameters.extend(parameter.numel() for parameter in layer.parameters())
        if getattr(layer, "groups", 1) == 1:
            operations.append(2 * layer.weight[0].numel() * out.numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    return round(sum(parameters) / 1e6, 4), round(sum(operations) / 1e9, 4)


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_sizes_are_the_published_ones(name, published):
    of_64 = {"halvings": 4} if "vgg" in name else {}
    for side, classes, kwargs, expected in zip((32, 64), (100, 200), ({}, of_64), published, strict=True):
        network = timm.create_model(name, num_classes=classes, **kwargs)
        assert sizes(network, side) == pytest.approx(expected, abs=1.01e-4)


def test_resnet110_is_five_more_blocks_a_stage_than_two_resnet56():
    """Of which no size is published: blocks are alike, so its size follows from two others'."""
    of = {depth: sizes(timm.create_model(f"cifar_resnet{depth}"), 32)[0] for depth in (20, 56, 110)}
    assert of[110] - of[56] == pytest.approx((of[56] - of[20]) * 9 / 6, abs=3e-4)


@every_network
def test_it_is_a_model_of_timms(name):
    network = timm.create_model(name, num_classes=7, in_chans=1).eval()
    pixels = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, features = network(pixels), network.forward_features(pixels)
        last, maps = network.forward_intermediates(pixels)
        alone = network.forward_intermediates(pixels, indices=[0], stop_early=True, intermediates_only=True)
        pooled = network.forward_head(features, pre_logits=True)
        listed = timm.create_model(name, in_chans=1, features_only=True, out_indices=(0, 1, 2)).eval()(pixels)
    assert logits.shape == (2, 7) and pooled.shape == (2, network.num_features)
    assert torch.equal(last, features) and torch.equal(network.forward_head(features), logits)
    assert len(alone) == 1 and torch.equal(alone[0], maps[0])
    for one, other, info in zip(maps[:3], listed, network.feature_info[:3], strict=True):
        assert one.shape == other.shape == (2, info["num_chs"], *2 * [32 // info["reduction"]])
    network.reset_classifier(3)
    assert network(pixels).shape == (2, 3) and network.get_classifier().out_features == 3
    with pytest.raises(RuntimeError):
        timm.create_model(name, pretrained=True)


@every_network
def test_it_stands_in_a_zoo(name):
    """Its preprocessing is CIFAR-100's, its head is the last layer, and all its weights learn."""
    model = spec.Model(timm=name, name="it", family="cnn", weights=spec.Random(seed=0))
    classifier = zoo.build(model, 5)
    assert classifier.size == (32, 32) and classifier.crop == Crop()
    assert families.family_of(name) == model.family
    assert classifier.preprocessing["mean"] == list(cifar.MEAN)
    assert classifier.dim == classifier.network.num_features
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    logits, features, maps = classifier.with_maps(pixels)
    assert logits.shape == (4, 5) and features.shape == (4, classifier.dim)
    assert classifier.channels == tuple(info["num_chs"] for info in classifier.network.feature_info)
    assert len(maps) == len(classifier.channels)
    assert recipe.features_suffice(classifier)
    classifier.train()(pixels).square().sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_shuffled_channels_alternate_between_the_halves():
    channels = torch.arange(6).view(1, 6, 1, 1)
    assert cifar._shuffled(channels).flatten().tolist() == [0, 3, 1, 4, 2, 5]
