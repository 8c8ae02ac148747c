"""Families: the paper's for its own models, and by one rule for all of timm's."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from study import spec
from study.errors import StudyError
from study.models import families
from study.models.timm_import import timm

# paper_families.csv: the 40 models of the tables of models in the appendix of arXiv 2310.17653, with their
# type there, Trafo, CNN or MLP, and the name timm has for each.
PAPER = {"Trafo": "transformer", "CNN": "cnn", "MLP": "mlp"}

# Modules of timm's networks in which positions exchange information with weights made from the content.
ATTENTION = {
    *("Attention", "Attention2d", "AttentionCl", "AttentionRope", "BatNonLocalAttn", "BottleneckAttn"),
    *("CascadedGroupAttention", "ConvAttention", "CrossCovarianceAttn", "EfficientAdditiveAttention"),
    *("EvaAttention", "FactorAttnConvRelPosEnc", "GPSA", "Gemma4Attention", "GlobalSubSampleAttn"),
    *("HSMSSD", "HaloAttn", "LambdaLayer", "LinearSelfAttention", "LiteMLA", "MaskUnitAttention"),
    *("MultiQueryAttention2d", "MultiScaleAttention", "OutlookAttention", "RelPosAttention", "SHMA", "SHSA"),
    *("TalkingHeadAttn", "WindowAttention", "WindowAttentionGlobal", "WindowMultiHeadAttention", "XCA"),
}


def test_the_papers_models_have_the_papers_families():
    with (Path(__file__).parent / "paper_families.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 40
    for row in rows:
        assert families.family_of(row["timm_name"]) == PAPER[row["family"]], row


@pytest.mark.parametrize(
    "study", ["demo", "paper_subset10", "paper_full", "several_teachers", "paper_several_teachers"]
)
def test_the_shipped_studies_say_the_same(study):
    for model in spec.load(f"studies/{study}.yaml").zoo.values():
        assert families.family_of(model.timm) == model.family, model.timm


def test_the_table_has_exactly_timms_modules():
    """An update of timm that brings a module fails here: put it in the table, by the rule."""
    assert set(families.MODULES) == {*timm.list_modules()}
    assert set(families.EXCEPTIONS) <= set(families.MODULES)


def test_every_exception_is_a_model_of_its_module():
    for module, exceptions in families.EXCEPTIONS.items():
        for pattern, family in exceptions.items():
            assert timm.list_models(pattern, module=module), pattern
            assert family != families.MODULES[module]


def test_every_model_has_a_family():
    names = [*timm.list_models(), *timm.list_pretrained()]
    assert {families.family_of(name) for name in names} == {"cnn", "transformer", "mlp"}


@pytest.mark.parametrize("module", sorted(set(families.MODULES) - {"tiny"}))
def test_transformers_are_the_networks_with_attention(module):
    """All models of modules with several families, the first of the others, by what they are made of."""
    names = timm.list_models(module=module)
    for name in names if module in families.EXCEPTIONS else names[:1]:
        with torch.device("meta"):  # shapes alone: no memory, no time
            parts = {type(part).__name__ for part in timm.create_model(name).modules()}
        assert (families.family_of(name) == "transformer") == bool(parts & ATTENTION), name


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("poolformer_s12.sail_in1k", "cnn"),
        ("convformer_s18", "cnn"),
        ("caformer_s18", "transformer"),
        ("convmixer_768_32.in1k", "cnn"),
        ("mambaout_tiny", "cnn"),
        ("resnet50_clip.openai", "cnn"),
        ("gcresnet50t", "cnn"),
        ("bat_resnext26ts", "transformer"),
        ("halonet26t", "transformer"),
        ("coatnet_0_224", "transformer"),
        ("mobilenetv4_conv_small", "cnn"),
        ("mobilenetv4_hybrid_medium", "transformer"),
        ("fastvit_t8", "cnn"),
        ("fastvit_sa12", "transformer"),
        ("gmlp_s16_224", "mlp"),
        ("resmlp_12_224", "mlp"),
        ("sequencer2d_s", "mlp"),
        ("tiny_gmlp", "mlp"),
        ("tiny_convmixer", "cnn"),
    ],
)
def test_hybrids_and_exceptions(name, family):
    assert families.family_of(name) == family


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(
        StudyError, match=r"timm has no model named 'resnet5O\.a1'; did you mean 'resnet50'\?"
    ):
        families.family_of("resnet5O.a1")


def test_a_model_of_an_unknown_module_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.delitem(families.MODULES, "volo")
    with pytest.raises(StudyError, match=r"'volo_d1_224' .*module 'volo'.*'family' in the study's zoo"):
        families.family_of("volo_d1_224")
