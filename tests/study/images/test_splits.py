"""Long tails and chosen classes: which images are in a split, and what they are called."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from study import derivation, mistakes, spec, transfer
from study.errors import StudyError
from study.images import files, sources, splits
from study.images.files import Images
from study.workspace import Workspace
from tests.study.trials import TIMINGS


def images_of(classes: int, each: int, test: int = 5) -> Images:
    """As many training images of each class, in a fixed disorder, and test images."""
    labels = np.repeat(np.arange(classes), each)
    labels = np.random.default_rng(0).permutation(labels)
    labels = np.concatenate([labels, np.repeat(np.arange(classes), test)])
    names = tuple(f"class{number}" for number in range(classes))
    subsets = {"train": (0, classes * each), "test": (classes * each, len(labels))}
    return Images(lambda: None, names, subsets, 28, "0" * 64, labels)


def split(images: Images, **settings) -> dict:
    return splits.split(images, spec.Splits(**settings))


def counts(images: Images, part: np.ndarray) -> list[int]:
    return np.bincount(images.labels[part], minlength=len(images.classes)).tolist()


# --- a long tail --------------------------------------------------------------------------------


def test_a_tail_has_its_profile_to_one_image():
    """3,000 · 100^(−r / 9), 3,000 down to 30, 7,443 in all; the transfer set keeps the shares."""
    images = images_of(10, 6000)
    found = split(images, zoo=30000, transfer=1000, tune=500, imbalance=100)
    expected = [3000 * 100 ** (-rank / 9) for rank in range(10)]
    assert sorted(counts(images, found["zoo"]), reverse=True) == [round(one) for one in expected]
    assert len(found["zoo"]) == 7443
    order = np.argsort(counts(images, found["zoo"]))
    shares = np.array(counts(images, found["transfer"]))[order] / 1000
    np.testing.assert_allclose(shares, np.array(counts(images, found["zoo"]))[order] / 7443, atol=1e-3)
    assert np.isin(found["transfer"], found["zoo"]).all()


def test_a_tail_leaves_evaluation_and_tune_alone():
    images = images_of(10, 60)
    plain, tailed = (
        split(images, zoo=300, transfer=20, tune=50, evaluate_rest=True, **tail)
        for tail in ({}, {"imbalance": 10})
    )
    for name in ("tune", "fit", "evaluation"):
        assert np.array_equal(plain[name], tailed[name]), name
    assert np.isin(tailed["zoo"], plain["zoo"]).all() and len(tailed["zoo"]) < 300
    assert np.array_equal(split(images, zoo=300, transfer=20, imbalance=1)["zoo"], plain["zoo"])


def test_the_seed_moves_which_class_is_rare():
    images = images_of(10, 60)
    rarest = {
        int(np.argmin(counts(images, split(images, zoo=300, transfer=20, imbalance=50, seed=seed)["zoo"])))
        for seed in range(8)
    }
    assert len(rarest) > 2


@given(st.integers(2, 12), st.integers(1, 40), st.floats(1, 200), st.integers(0, 3))
def test_a_tail_of_any_length(classes, each, imbalance, seed):
    images = images_of(classes, each)
    train = np.arange(classes * each)
    kept = splits.long_tailed(train, images.labels, imbalance, np.random.default_rng(seed))
    found = sorted(counts(images, kept), reverse=True)
    assert found[0] == each and found[-1] == max(1, round(each / imbalance))
    assert np.array_equal(kept, np.unique(kept))


def test_how_large_the_transfer_set_will_be_is_known_before():
    images = images_of(10, 600)
    settings = spec.Splits(zoo=3000, transfer=0.5, imbalance=20)
    real = len(splits.split(images, settings)["transfer"])
    assert abs(splits.transfer_size(6000, 10, settings) - real) <= 5
    assert splits.transfer_size(6000, 10, spec.Splits(zoo=3000, transfer=0.5)) == 1500


# --- some of the classes ------------------------------------------------------------------------


def data_of(classes, seed: int = 0) -> spec.Data:
    return spec.Data.model_validate(
        {
            "images": {"source": "fashion_mnist"},
            "splits": {"zoo": 0.5, "transfer": 10, "evaluate_rest": True, "seed": seed},
            "classes": classes,
        }
    )


def test_classes_by_name_are_numbered_anew_in_their_order():
    images = images_of(10, 20)
    data = data_of(["class7", "class2"])
    some = files.chosen(images, data)
    assert some.classes == ("class2", "class7")
    assert np.array_equal(np.unique(some.labels), [-1, 0, 1])
    assert np.array_equal(some.labels == 1, images.labels == 7)
    found = splits.split(some, data.splits)
    everything = np.unique(np.concatenate(list(found.values())))
    assert np.array_equal(everything, np.flatnonzero(np.isin(images.labels, [2, 7])))
    assert counts(some, found["zoo"]) == [10, 10]


def test_fewer_classes_are_among_more_and_the_seed_draws_them():
    images = images_of(10, 4)
    drawn = [files.chosen(images, data_of(number)).classes for number in (2, 5, 10)]
    assert [len(names) for names in drawn] == [2, 5, 10]
    assert {*drawn[0]} < {*drawn[1]} < {*drawn[2]} == {*images.classes}
    assert len({files.chosen(images, data_of(2, seed)).classes for seed in range(8)}) > 2
    assert files.chosen(images, data_of(10)).labels.tolist() == images.labels.tolist()


def test_data_of_all_classes_are_what_they_were(content):
    """Without the keys nothing of them is dumped, so ids and paths are as before."""
    data = spec.Study.model_validate(content).data
    assert not {"classes", "imbalance"} & {*data.model_dump(), *data.splits.model_dump()}
    images = images_of(4, 3)
    assert files.chosen(images, data) is images
    ids = {
        spec.Study.model_validate(changed).trials()[0].id
        for changed in (content, {**content, "data": {**content["data"], "classes": 3}})
    }
    assert len(ids) == 2


def test_what_is_expected_is_of_the_classes_that_are_left():
    images = files.chosen(images_of(10, 20), data_of(3))
    files.check(images, spec.Expected(train=60, test=15, classes=3))
    with pytest.raises(StudyError, match="expects 200, but there are 60"):
        files.check(images, spec.Expected(train=200, test=15, classes=3))


@pytest.mark.parametrize(
    ("where", "key", "value", "words"),
    [
        ("splits", "imbalance", 0.5, "greater than or equal to 1"),
        ("splits", "zoo", 0, "imbalance: thins the images of 'zoo', and there are none"),
        ("data", "classes", 1, "should be how many, 2 or more, or a list of 2 names or more (it says 1)"),
        ("data", "classes", ["class1"], "a list of 2 names or more"),
        ("data", "classes", ["class1", "class1"], "a list of 2 names or more"),
        ("data", "classes", [1, 2], "a list of 2 names or more"),
        ("data", "classes", True, "should be a number"),
        ("data", "classes", 2.5, "should be how many"),
    ],
)
def test_what_cannot_be_is_told(content, where, key, value, words):
    data = content["data"]
    data["splits"]["imbalance"] = 2
    (data if where == "data" else data["splits"])[key] = value
    with pytest.raises(ValidationError) as error:
        spec.Study.model_validate(content)
    said = mistakes.first(error.value, spec.Study)
    assert said.startswith("data.") and words in said, said


def test_classes_that_are_not_there_are_told():
    images = images_of(10, 2)
    with pytest.raises(StudyError, match=r"data\.classes: asks for 12 classes of 10; ask for fewer"):
        files.chosen(images, data_of(12))
    with pytest.raises(StudyError, match=r"no class 'clas3'; did you mean 'class3'"):
        files.chosen(images, data_of(["class1", "clas3"]))
    with pytest.raises(StudyError, match=r"no class 'Zoo'; the first are called class0, class1, class2"):
        files.chosen(images, data_of(["class1", "Zoo"]))


def test_a_trial_on_some_classes_is_one_on_images_of_these_alone(base, image_folder, tmp_path):
    """The same classes, written by themselves: the zoo, the splits' classes and the record agree."""
    some, alone = copy.deepcopy(base), copy.deepcopy(base)
    names = ["class1", "class4", "class9"]
    some["data"]["classes"] = names
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).symlink_to(image_folder / part / name)
    alone["data"]["images"] |= {part: str(tmp_path / part) for part in ("train", "test")}
    alone["folders"] = {name: str(tmp_path / name) for name in ("data", "zoo", "outputs")}
    some["folders"] = {**alone["folders"], "data": base["folders"]["data"]}
    rows = []
    for content in (some, alone):
        content["data"]["splits"] = {"zoo": 60, "transfer": 40, "evaluate_rest": True}
        content["zoo"]["mixer"]["weights"]["images"] = 50
        for phase in content["zoo"]["mixer"]["weights"]["phases"]:
            phase.pop("transforms", None)  # which are drawn by an image's place in the file
        study = spec.Study.model_validate(content)
        files.prepare(study.data.images, study.folders.data)
        place = Workspace(study.data, study.folders, "cpu", threads=1)
        assert place.images.classes == tuple(names)
        trial = next(t for t in study.trials() if t.name == "xe" and t.student.name == "mixer")
        derivation.make(trial.student, place)
        rows.append(transfer.run(trial, place))
    assert rows[0].row["classes"] == 3
    drop = {*TIMINGS, "spec", "data_sha256"}
    first, second = ({k: v for k, v in one.row.items() if k not in drop} for one in rows)
    assert first == second  # the weights' digests too


# --- images whose classes nobody has said -------------------------------------------------------


def partly_unlabelled(classes: int = 5, each: int = 40) -> Images:
    images = images_of(classes, each, test=20)
    labels = images.labels.copy()
    labels[slice(*images.subsets["train"])] = sources.UNKNOWN
    return dataclasses.replace(images, labels=labels)


def test_what_is_kept_aside_of_labelled_test_images_is_not_evaluated_on():
    images = partly_unlabelled()
    found = split(images, transfer=1.0, tune=0.5, tune_of="test", fit=0.2)
    assert np.array_equal(found["transfer"], np.arange(200))
    assert counts(images, found["evaluation"]) == [10] * 5
    assert counts(images, found["tune"]) == [8] * 5 and counts(images, found["fit"]) == [2] * 5
    kept = np.concatenate([found[name] for name in ("evaluation", "tune", "fit")])
    assert np.array_equal(np.sort(kept), np.arange(200, 300))
    assert splits.transfer_size(200, 5, spec.Splits(transfer=1.0, tune=0.5, tune_of="test")) == 200


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"transfer": 0.5, "zoo": 0.5}, "zoo"),
        ({"transfer": 0.5, "tune": 0.5}, "tune"),
        ({"transfer": 0.5, "evaluate_rest": True}, "evaluation"),
    ],
)
def test_only_what_is_learnt_from_may_lack_its_classes(settings, name):
    with pytest.raises(StudyError, match=f"data.splits: '{name}' .*tune_of: test"):
        split(partly_unlabelled(), **settings)


def test_where_nothing_has_a_class_any_part_may_be_kept_aside():
    images = partly_unlabelled()
    images = dataclasses.replace(images, labels=np.full_like(images.labels, sources.UNKNOWN))
    found = split(images, transfer=1.0, tune=0.25)
    assert [len(found[name]) for name in ("transfer", "tune", "evaluation")] == [150, 50, 100]


def test_images_of_no_known_class_stay_so_when_classes_are_chosen():
    some = files.chosen(partly_unlabelled(), data_of(["class4", "class1"]))
    assert (some.labels[:200] == sources.UNKNOWN).all()
    assert np.array_equal(np.unique(some.labels[200:]), [files.LEFT_OUT, 0, 1])
