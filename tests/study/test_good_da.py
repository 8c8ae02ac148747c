"""Values of the official functions of arXiv 2012.02909 on fixed inputs, met by ours.

`good_da_parity.json` holds them: what the functions of MingSun-Tse/Good-DA-in-KD (commit 75443f9) and of
torchvision 0.28.0 give on CPU in float32 for the inputs that it describes. Every case lists the random draws
that were made; ours are fed the same. Not met here: losses of other distillers, and the score 'dissimilarity'
of its `pick_scores`, which the paper does not use.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from study import augmentation, objectives, spec
from study.diversity import Sums, Windows
from study.learner import Learner
from study.models.timm_import import torchvision
from study.transforms import AutoAugment, CutMix, Cutout, Flip, Mixup, Shift

VALUES = json.loads((Path(__file__).parent / "good_da_parity.json").read_text())


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    values = scale * np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


X, LOGIT_T, LOGIT_S = normal(1, (4, 2, 8, 8)), normal(3, (4, 5), 2), normal(4, (4, 5), 2)
TARGET = torch.from_numpy(np.random.RandomState(2).randint(0, 5, 4))
W_T, W_S = normal(5, (128, 5), 0.1), normal(6, (128, 5), 0.1)
U8 = torch.from_numpy(np.random.RandomState(7).randint(0, 256, (4, 3, 32, 32)).astype(np.uint8))
MEAN, STD = (
    torch.tensor(values)[:, None, None] for values in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255 - MEAN) / STD


def test_inputs_are_those_that_were_given_to_the_official_functions():
    made = {"x": X, "logit_t": LOGIT_T, "logit_s": LOGIT_S, "W_t": W_T, "W_s": W_S, "u8": U8}
    checks = VALUES["inputs"]["checks"]
    for name, tensor in (made | {"z": normalised(U8)}).items():
        assert digest(tensor) == checks[name]["sha256"], name
    assert TARGET.tolist() == checks["target"]


@pytest.mark.parametrize("epochs", [240, 480, 960])
def test_rates_drop_where_the_official_ones_do(epochs):
    """The rate of each epoch's only step; both sides of every drop."""
    student = torch.nn.Linear(1, 1)
    student.register_buffer("mean", torch.zeros(1))
    schedule = {"drops": [0.625, 0.75, 0.875], "factor": 0.1}
    training = spec.Training(epochs=epochs, batch_size=1, schedule=schedule)
    learner = Learner(student, None, (), training, 0.05, epochs, "float32")
    rates = {}
    for epoch in range(1, epochs + 1):
        learner.step(student.weight.sum())
        rates[epoch] = learner.lr
    wanted = [case for case in VALUES["schedule"] if case["epochs"] == epochs]
    assert len(wanted) == 8
    for case in wanted:
        assert rates[case["epoch (from 1)"]] == case["lr"]


# --- schemes ------------------------------------------------------------------------------------------


def assert_is(tensor: torch.Tensor, case: dict, atol: float = 0.0) -> None:
    """What a case says of a tensor: its digest, or, up to `atol`, all of its values, or ends and sum."""
    assert list(tensor.shape) == case["shape"]
    if atol == 0:
        assert digest(tensor) == case["sha256"]
        return
    if "values" in case:
        torch.testing.assert_close(tensor, torch.tensor(case["values"]), atol=atol, rtol=0)
    else:
        for part, name in ((tensor.flatten()[:5], "first5"), (tensor.flatten()[-5:], "last5")):
            torch.testing.assert_close(part, torch.tensor(case[name]), atol=atol, rtol=0)
    assert float(tensor.double().sum()) == pytest.approx(case["sum"], abs=atol * tensor.numel())


def drawn_box(lam: float, cx: int, cy: int, height: int, width: int, count: int = 1) -> torch.Tensor:
    """What CutMix draws for the official λ and centre: the middle of that pixel."""
    return torch.tensor([[lam, (cy + 0.5) / height, (cx + 0.5) / width]]).expand(count, -1)


@pytest.mark.parametrize("case", VALUES["cutmix_box"]["cases"], ids=str)
def test_boxes_of_cutmix_are_the_official_ones(case):
    height, width = case["height"], case["width"]
    drawn = drawn_box(case["lam"], *case["draws (cx, cy)"], height, width)
    own, partner = torch.zeros(1, 1, height, width), torch.ones(1, 1, height, width)
    mixed, share = CutMix(sides="even").mix(own, partner, drawn)
    x1, y1, x2, y2 = case["box (x1, y1, x2, y2)"]
    own[:, :, y1:y2, x1:x2] = 1
    assert torch.equal(mixed, own)
    assert float(share) == pytest.approx(case["lam_after"], abs=1e-7)


@pytest.mark.parametrize("case", VALUES["mixup"]["cases"], ids=lambda case: case["seed"])
def test_mixup_is_the_official_one(case):
    shares = torch.full((4,), case["lam"])
    mixed, _ = Mixup(alpha=1.0).mix(X, X[case["rand_index"]], shares)
    assert_is(mixed, case["input_mix"], atol=1e-6)


def cut_mixed(draws: list) -> tuple[torch.Tensor, torch.Tensor]:
    """x mixed as the official draws say (λ, column, row, permutations of which the last one counts)."""
    (_, lam), (_, cx), (_, cy), *_, (_, partners) = draws
    return CutMix(sides="even").mix(X, X[partners], drawn_box(lam, cx, cy, 8, 8, 4))


@pytest.mark.parametrize("case", VALUES["cutmix"]["cases"], ids=lambda case: case["seed"])
def test_cutmix_is_the_official_one(case):
    mixed, shares = cut_mixed(case["draws"])
    assert_is(mixed, case["input_mix"])
    assert shares.tolist() == [case["lam"]] * 4
    classes = torch.nn.functional.one_hot(TARGET, 5).float()
    targets = torch.lerp(classes[case["rand_index"]], classes, shares[:, None])
    torch.testing.assert_close(targets, torch.tensor(case["target_mix"]))


@pytest.mark.parametrize("case", VALUES["cutout"]["cases"], ids=lambda case: str(case["draws (y, x)"]))
def test_cutout_is_the_official_one(case):
    size = case["output"]["shape"][2]
    pixels = normal(8, (2, 1, size, size))
    y, x = case["draws (y, x)"]
    cutout = Cutout(side={32: 8, 64: 16}[size], fill=0)
    seen = cutout.show(pixels, torch.tensor([[(y + 0.5) / size, (x + 0.5) / size]]).expand(2, -1))
    assert_is(torch.where(seen == 0, pixels * 0, seen), case["output"])  # theirs: times 0, so -0 as well
    assert (seen[0, 0] == 0).nonzero().amin(0).tolist() == [case["rows"][0], case["columns"][0]]


DARKENED = [set(levels) for levels in VALUES["flip_crop"]["levels_darkened_lists"]]


@pytest.mark.parametrize(
    "case", VALUES["flip_crop"]["cases"], ids=lambda case: f"{case['mode']}{case['seed']}"
)
def test_flip_and_crop_are_the_official_ones_but_for_levels_that_they_darken(case):
    """Their uint8 is cut off, not rounded, so that some levels come back one darker; ours keeps them."""
    top, left = case["crop_top_left (padding 4)"]
    seen = Shift(pixels=4).show(U8, torch.full((4,), top * 9 + left))
    seen = Flip().show(seen, torch.full((4,), int(case["flipped_all"])))
    if case["mode"] != "identity":
        for channel, levels in enumerate(DARKENED):
            darker = torch.tensor([level - (level in levels) for level in range(256)], dtype=torch.uint8)
            # A level that is drawn in is black, as it was.
            seen[:, channel] = darker[seen[:, channel].long()]
    assert [len(levels) for levels in DARKENED] == VALUES["flip_crop"]["levels_that_truncation_darkens"][
        "of_256_by_channel"
    ]
    assert_is(normalised(seen), case["output"], atol=1e-6)


@pytest.mark.parametrize("case", VALUES["autoaugment"]["cases"], ids=lambda case: case["seed"])
def test_autoaugment_is_the_official_one(case):
    """As they have it: on uint8 that is cut off before. AutoContrast, of torchvision's first version there,
    cuts off after another order of operations: up to a level less in one of 300 values.
    """
    whole = ((normalised(U8) * STD + MEAN) * 255).to(torch.uint8)
    signs = [0.25 if sign == 0 else 0.75 for sign in case["signs"]]
    drawn = torch.tensor([[(case["policy"] + 0.5) / 25, *case["probs"], *signs]]).expand(4, -1)
    seen = AutoAugment(policy="cifar10").show(whole, drawn)
    if case["sub_policy"][1][0] == "AutoContrast" and case["probs"][1] <= case["sub_policy"][1][1]:
        only_first = drawn.clone()
        only_first[:, 2] = 1
        theirs = torchvision.transforms.functional.autocontrast(AutoAugment().show(whole, only_first))
        off = (theirs.int() - seen.int()).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < 1 / 300
        seen = theirs
    assert_is(normalised(seen), case["output"], atol=1e-6)


# --- what is picked, learnt and measured ----------------------------------------------------------------


def logits_of(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the case's teacher and student."""
    return pixels.reshape(-1, 128) @ W_T, pixels.reshape(-1, 128) @ W_S


def scores_of(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    teacher, student = logits_of(pixels)
    return {
        "teacher_entropy": augmentation.entropy(teacher),
        "student_entropy": augmentation.entropy(student),
        "kld": augmentation.divergence(teacher, student),
    }


def test_scores_are_the_official_ones():
    for name, scores in scores_of(X).items():
        torch.testing.assert_close(scores, torch.tensor(VALUES["pick_scores"][name]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "case", VALUES["cutmix_pick"]["cases"], ids=lambda case: f"{case['criterion']}{case['seed']}"
)
def test_the_picked_are_the_official_ones(case):
    """The same samples, in the same order."""
    starts = [k for k, (what, _) in enumerate(case["draws"]) if what == "beta"] + [len(case["draws"])]
    halves = itertools.pairwise(starts)
    pool = torch.cat([cut_mixed(case["draws"][begin:end])[0] for begin, end in halves])
    scores = scores_of(pool)[case["criterion"]]
    kept = augmentation.picked(scores, 4)
    torch.testing.assert_close(scores[kept], torch.tensor(case["picked_scores_ascending"]), atol=1e-6, rtol=0)
    assert_is(pool[kept], case["input_mix"])


def test_the_loss_is_the_official_one():
    case = VALUES["kd_loss"]
    student = LOGIT_S.clone().requires_grad_()
    again = normal(14, (4, 5), 2), normal(13, (4, 5), 2)
    loss = objectives.OBJECTIVES["xe_kl_augmented"](student, LOGIT_T, TARGET, *again)
    assert float(loss.detach()) == pytest.approx(case["total"], abs=1e-5)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.tensor(case["gradient_of_originals"]), atol=1e-5, rtol=0)
    known = objectives.OBJECTIVES
    assert float(known["xe"](LOGIT_S, TARGET)) == pytest.approx(case["ce"], abs=1e-5)
    assert float(known["kl"](LOGIT_S, LOGIT_T, temperature=4)) == pytest.approx(case["kl_original"], abs=1e-5)
    assert float(known["kl"](*again, temperature=4)) == pytest.approx(case["kl_augmented"], abs=1e-5)
    without = known["xe_kl"](LOGIT_S, LOGIT_T, TARGET, weight=0.9, temperature=4)
    assert float(without) == pytest.approx(case["total_without_augmentation"], abs=1e-5)


def windows_of(batches: int, last: int = 16, both: bool = True) -> list[Windows]:
    """The windows after each batch, of which the last one may be smaller."""
    windows, found = Windows(), []
    for k in range(batches):
        count = last if k == batches - 1 else 16
        originals, copies = (normal(first + k, (16, 10), 3)[:count] for first in (1000, 2000))
        windows.add(Sums.of(originals), Sums.of(copies) if both else None)
        found.append(windows.measures().get("teacher_stddev"))
    return windows, found


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("windows", {"batches": 25}),
        ("with a last batch of 4 (10 batches)", {"batches": 10, "last": 4}),
        (
            "without augmentation (lw_mix None): windows of 5 batches of originals alone",
            {"batches": 10, "both": False},
        ),
    ],
)
def test_t_stddev_is_the_official_one(key, settings):
    windows, found = windows_of(**settings)
    for case in VALUES["t_stddev"][key]:
        mine = found[case["batches"] - 1]
        if case["mean_std"] is None:
            assert mine is None  # of one window; theirs is not a number
        else:
            assert mine == pytest.approx(case["mean_std"], abs=1e-7)
    if key == "windows":
        halves = zip(*windows.full, strict=True)
        means = torch.stack([(a + b).probabilities / (a + b).samples for a, b in zip(*halves, strict=True)])
        official = torch.tensor(VALUES["t_stddev"]["u_of_windows"], dtype=torch.float64)
        torch.testing.assert_close(means, official, atol=1e-7, rtol=0)
        deviations = torch.tensor(VALUES["t_stddev"]["std_per_class_at_end"], dtype=torch.float64)
        torch.testing.assert_close(means.std(dim=0), deviations, atol=1e-7, rtol=0)
        assert windows.measures()["teacher_stddev_samples"] == 160
