"""What `improve` decides, and on what evidence."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from study import derivation, improve, spec
from study import workspace as workspaces
from study.errors import StudyError
from study.evaluate import Predictions
from study.improve import Look, Timings


def test_a_look_is_judged_by_the_exact_one_sided_test():
    assert Look("a", 0, 0).p == 1.0
    assert Look("a", 5, 0).p == pytest.approx(0.5**5)
    assert Look("a", 40, 25).p == pytest.approx(binom.sf(39, 65, 0.5))
    assert Look("a", 25, 40).p > 0.5


@given(st.lists(st.booleans(), max_size=12))
def test_rounds_that_find_nothing_never_spend_more_than_there_is(found):
    levels = [improve.level_of(found[:number]) for number in range(len(found) + 1)]
    spent = sum(level for level, one in zip(levels, found, strict=False) if not one)
    assert spent + levels[-1] < improve.LEVEL
    for number, one in enumerate(found):
        assert levels[number + 1] == pytest.approx(levels[number] if one else levels[number] / 2)


def test_the_best_of_a_round_is_the_one_that_gains_most_of_those_that_are_better():
    sure, more, lucky = Look("sure", 60, 10), Look("more", 300, 200), Look("lucky", 4, 0)
    assert improve.best([lucky, sure, more], 0.05) is more
    assert improve.best([lucky], 0.05) is None
    assert improve.best([Look("five", 5, 0)], 0.05).trial == "five"
    assert improve.best([Look("five", 5, 0), Look("none", 0, 0)], 0.05) is None  # 0.031 is not below 0.025
    assert improve.best([], 0.05) is None


def test_a_better_student_is_claimed_wrongly_in_five_of_a_hundred_cases_at_most():
    """No teacher can help: what students gain and lose on `tune` is alike, in rounds of correlated looks."""
    draw, cases, wrong = np.random.default_rng(0), 4000, 0
    for _ in range(cases):
        found = []
        common = draw.random(5000)  # images that are hard to every student
        for _ in range(6):
            looks = []
            for _ in range(2):
                flips = (0.5 * common + 0.5 * draw.random(5000)) < 0.12
                gained = int(draw.binomial(flips.sum(), 0.5))
                looks.append(Look("", gained, int(flips.sum()) - gained))
            found.append(improve.best(looks, improve.level_of(found)) is not None)
            if found[-1]:
                break
        wrong += any(found)
    assert binomtest(wrong, cases, improve.LEVEL, alternative="greater").pvalue > 0.01
    assert wrong > 0.01 * cases  # the level is spent, not hoarded


def test_what_fits_into_the_time():
    timed = Timings(epoch=2.0, look=1.0, evaluation=3.0)
    plenty = improve.plan(10_000, timed, teachers=5, slots=2)
    assert (plenty.rounds, plenty.looks, plenty.epochs) == (3, 2, improve.MANY_EPOCHS)
    assert plenty.seconds == 30 * 2.0 + 1.0
    probes, proof = 2 * 3.0, 2 * 3.0
    for seconds, rounds in ((150, 3), (120, 2)):
        some = improve.plan(seconds, timed, teachers=5, slots=2)
        assert probes + proof + some.rounds * some.seconds <= seconds
        assert some.rounds == rounds and improve.FEW_EPOCHS <= some.epochs < improve.MANY_EPOCHS
    short = improve.plan(20, timed, teachers=5, slots=2)
    assert short.rounds == 1 and short.epochs < improve.FEW_EPOCHS
    assert improve.plan(10_000, timed, teachers=1, slots=8).looks == 2  # the teacher, and the control
    with pytest.raises(StudyError, match="too few for one epoch"):
        improve.plan(14, timed, teachers=5, slots=2)


def _said(labels, wrong, classes=4):
    label = np.where(wrong, (labels + 1) % classes, labels).astype(np.int32)
    count = len(labels)
    return Predictions(
        label,
        np.full(count, 0.8, np.float32),
        true=np.full(count, -0.5, np.float32),
        rank=wrong.astype(np.int32),
    )


def test_the_proof_counts_what_changed_and_how_sure_that_is():
    labels = np.arange(1000) % 4
    before, after = np.zeros(1000, bool), np.zeros(1000, bool)
    before[:120] = True  # wrong; of these 70 are gained
    after[:50] = True
    after[200:220] = True  # lost
    proof = improve.prove(labels, _said(labels, before), _said(labels, after))
    assert (proof.gained, proof.lost, proof.samples) == (70, 20, 1000)
    assert proof.before == pytest.approx(0.88) and proof.after == pytest.approx(0.93)
    assert proof.delta == pytest.approx(0.05)
    assert proof.p == pytest.approx(binomtest(70, 90).pvalue)
    assert proof.low < proof.delta < proof.high and proof.low > 0
    same = improve.prove(labels, _said(labels, before), _said(labels, before))
    assert (same.delta, same.low, same.high, same.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("delta", [0.0, 0.02])
def test_the_interval_of_a_proof_holds_the_truth_as_often_as_it_says(delta):
    draw, held, cases = np.random.default_rng(1), 0, 400
    for _ in range(cases):
        labels = np.zeros(2000, int)
        kinds = draw.choice(3, size=2000, p=[0.9, 0.05 + delta / 2, 0.05 - delta / 2])
        proof = improve.prove(labels, _said(labels, kinds == 1), _said(labels, kinds == 2))
        held += proof.low <= delta <= proof.high
    assert binomtest(held, cases, 0.95, alternative="less").pvalue > 0.01


@pytest.fixture(scope="module")
def place(base):
    """The small study's models, which its workspace trained, before images kept aside to fit on."""
    content = copy.deepcopy(base)
    content["data"]["splits"] |= {"tune": 0.5, "fit": 0.5}
    study = spec.Study.model_validate(content)
    for model in study.zoo.values():
        derivation.make(model, workspaces.Workspace(study.data, study.folders, "cpu", threads=1))
    return workspaces.Workspace(study.data, study.folders, "cpu", threads=1), study


def test_a_teacher_is_worth_what_its_pool_gets_right_beyond_the_student(workspace, place):
    here, study = place
    blank = study.zoo["mixer"].model_copy(update={"weights": spec.Random(seed=0), "name": "blank"})
    labels = here.labels("fit")
    own = (here.evaluation(here.frozen(blank), "fit").label == labels).mean()
    for teacher in study.zoo.values():
        alone = (here.evaluation(here.frozen(teacher), "fit").label == labels).mean()
        # Nothing else is in the pool that knows anything.
        gain, right = improve.promise(blank, teacher, here)
        assert right == pytest.approx(alone) and gain == pytest.approx(alone - own, abs=0.08)
    assert abs(improve.promise(study.zoo["resnet"], blank, here)[0]) < 0.06


def test_a_student_is_timed(workspace, place):
    here, study = place
    timed = improve.timings(study.zoo["mixer"], study.budget, here)
    assert 0 < timed.epoch < 60 and timed.look > 0
    shares = len(here.splits["tune"]) / len(here.splits["evaluation"])
    assert timed.look / timed.evaluation == pytest.approx(shares)
