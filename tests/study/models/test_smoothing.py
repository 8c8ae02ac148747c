"""What is known of label smoothing: recipes, timm's tags, and what is not known."""

from __future__ import annotations

import csv
import fnmatch
from importlib import resources

import pytest

from study import spec
from study.models import smoothing
from study.models.timm_import import timm


def hub(name: str, **weights) -> spec.Model:
    return spec.Model(name="m", timm=name, family="cnn", weights=spec.Hub(**weights))


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        ("resnet50.tv_in1k", 0.0),
        ("densenet121.tv_in1k", 0.0),
        ("resnet50.tv2_in1k", 0.1),
        ("deit_small_patch16_224.fb_in1k", 0.1),
        ("deit_small_distilled_patch16_224.fb_in1k", 0.1),
        ("swin_tiny_patch4_window7_224.ms_in1k", 0.1),
        ("convnext_tiny.fb_in1k", 0.1),
        ("convnext_tiny", None),  # its default tag is another one
        ("vgg11", 0.0),  # of which this is the default tag
        ("resnext101_64x4d.tv_in1k", 0.1),  # V1 weights by the recipe of V2
        ("inception_v3.tv_in1k", None),  # ported from someone else's
        ("deit3_small_patch16_224.fb_in1k", None),
        ("resnet50.a1_in1k", None),
        ("tiny_mixer", None),
    ],
)
def test_tags_say_what_their_makers_say(name, alpha):
    assert smoothing.of(hub(name)) == (alpha, None if alpha is None else "table")


def test_the_hubs_tag_says_nothing_of_other_weights():
    model = hub("resnet50.tv2_in1k")
    for weights in (
        spec.Hub(repository="someone/resnet50@main"),
        spec.Random(seed=0),
        spec.File(path="resnet50.pt", sha256="0"),
    ):
        assert smoothing.of(model.model_copy(update={"weights": weights})) == (None, None)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_a_recipe_counts_whatever_it_begins_with(alpha):
    phases = (spec.Phase(epochs=1, lr=0.1),)
    weights = spec.Trained(start=spec.Hub(), phases=phases, label_smoothing=alpha)
    model = hub("resnet50.tv2_in1k").model_copy(update={"weights": weights})
    assert smoothing.of(model) == (alpha, "recipe")


def test_every_pattern_fits_models_of_timms_and_names_its_source():
    with (resources.files("study.models") / "timm_smoothing.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    listed = timm.list_pretrained()
    for row in rows:
        assert fnmatch.filter(listed, row["pattern"]), row
        assert row["source"], row
        assert row["label_smoothing"] in ("", "0", "0.1"), row
    assert len(smoothing.table()) == len(rows)
