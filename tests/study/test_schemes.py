"""Augmentations ranked before any student is trained: what is measured, and when it is measured again."""

from __future__ import annotations

import pandas as pd
import pytest

from study import schemes, spec
from study.errors import StudyError
from study.store import records, schemas

METHODS = {
    "identity": {"augmentation": {}},
    "cutmix": {"augmentation": {"transforms": ["cutmix"]}},
    "again": {"augmentation": {"transforms": ["cutmix"]}, "weight": 0.5},
    "picked": {"augmentation": {"transforms": ["cutmix"], "pick": "teacher_entropy"}},
    "by_student": {"augmentation": {"transforms": ["cutmix"], "pick": "student_entropy"}},
    "by_kl": {"augmentation": {"transforms": ["cutmix"], "pick": "kl"}},
}


def with_schemes(content: dict) -> dict:
    methods = {name: {"method": "xe_kl_augmented", "lr": 0.01, **one} for name, one in METHODS.items()}
    return content | {"methods": methods | {"kl": {"lr": 0.01}}, "budget": {"epochs": 1, "batch_size": 10}}


def test_each_is_measured_once_and_none_that_needs_a_student(content):
    found = schemes.schemes(spec.Study.model_validate(with_schemes(content)))
    assert [one.method for one in found] == ["identity"] * 2 + ["cutmix"] * 2 + ["picked"] * 2
    assert {(one.student, one.teacher) for one in found} == {("mixer", "resnet"), ("resnet", "mixer")}
    with pytest.raises(StudyError, match="give one an 'augmentation'"):
        schemes.schemes(spec.Study.model_validate(content))


def test_ids_hold_what_is_measured_and_no_more(content):
    content = with_schemes(content)

    def ids(**changes):
        study = spec.Study.model_validate(content | changes)
        return [schemes.id_of(study, scheme) for scheme in schemes.schemes(study)]

    assert len(set(ids())) == 6
    assert ids(name="other") == ids(budget=content["budget"] | {"epochs": 7}) == ids()
    for changes in (
        {"seeds": [1]},
        {"budget": content["budget"] | {"batch_size": 9}},
        {"budget": content["budget"] | {"transforms": ["flip"]}},
    ):
        assert not set(ids(**changes)) & set(ids())


def test_what_is_recorded_is_ranked(content, workspace):
    study = spec.Study.model_validate(with_schemes(content))
    records.prepare(study.results, schemas.AUGMENTATION_TABLES)
    every = schemes.schemes(study)
    for scheme in every:
        schemes.run(study, scheme)
    table = pd.read_parquet(study.results / "augmentations")
    assert len(table) == 6 and table["teacher_stddev"].gt(0).all()
    assert set(table["teacher_stddev_windows"]) == {20} and set(table["teacher_stddev_samples"]) == {100}
    ranked = schemes.ranked(study, every)
    assert [scheme.teacher for scheme, _ in ranked] == ["mixer"] * 3 + ["resnet"] * 3
    for teacher in ("mixer", "resnet"):
        own = [row["teacher_stddev"] for scheme, row in ranked if scheme.teacher == teacher]
        assert own == sorted(own)
