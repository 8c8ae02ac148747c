"""What methods are called in tables and figures, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

CONTROL = "xe"  # the method without a teacher
TOP_K = "kl_top_k"  # KL over the classes that the teacher finds most probable
LABELS = {  # in the order of every table and figure; other methods follow alphabetically
    "xe": "XE (control)",
    "tf_kd_reg": "Tf-KD (no teacher)",
    "self_distillation": "Self-distillation (control)",
    "kl": "KL",
    "kl_wise": "KL, interpolated",
    "soft_xe": "Soft XE",
    "xe_hard": "XE with the teacher's answers",
    "kl_top_k": "KL, top k",
    "xe_kl": "XE-KL",
    "xe_kl_hot": "XE-KL (T 2)",
    "xe_kl_smoothed": "XE-KL (label smoothing)",
    "xe_kl_as_run": "XE-KL (as run)",
    "xe_kl_mcl": "XE-KL+MCL",
    "xe_kl_mcl_as_run": "XE-KL+MCL (as run)",
    "xe_kl_wise": "XE-KL, interpolated",
    "cd": "CD",
    "crd": "CRD",
    "bi_kd": "Bi-KD",
    "bi_kd_moving": "Bi-KD (moving targets)",
    "kl_flips": "KL by flips",
    "kl_dp": "KL+DP",
    "kl_dp_drop": "KL+DP, teachers dropped",
    "kl_dp_calibrated": "KL+DP (calibrated)",
    "xe_kl_dp": "KL+DP+XE",
    "kl_dp_unsupervised": "KL+DP (unsup.)",
    "xe_kl_op": "XE-KL+OP",
    "xe_kl_op_agreement": "XE-KL+OP (no labels)",
    "xe_kl_op_equal": "XE-KL+OP (equal weights)",
    "xe_kl_dp_calibrated": "XE-KL+DP (calibrated)",
    "xe_kl_mixed": "XE-KL, mixed",
    "xe_kl_adaptconf": "AdaptConf",
    "xe_kl_until_passed": "XE-KL until passed",
    "kl_of_experts": "KL of expert classes",
    "kl_of_classes": "KL of chosen classes",
    "kd": "KD",
    "identity": "Identity",  # and what follows: second inputs (arXiv 2012.02909)
    "flip": "Flip",
    "flip_crop": "Flip+Crop",
    "cutout": "Cutout",
    "autoaugment": "AutoAugment",
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "augmix": "AugMix",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "cutmix_kl": "CutMixPick (KL)",
    "cutmix_s": "CutMixPick (S. ent.)",
    "cutmix_t": "CutMixPick (T. ent.)",
}

ABOUT = {  # what they do, after the equations of arXiv 2310.17653
    "xe": "the student is trained on with the labels, without a teacher: what training alone does",
    "tf_kd_reg": "the student learns the labels and imitates a made-up teacher that is always right and "
    "finds all other classes equally likely (Tf-KD of arXiv 1909.11723)",
    "self_distillation": "the student imitates what it was itself on every image: what transfer does without "
    "anything to transfer",
    "kl": "the student imitates the teacher on every image (knowledge distillation, Eq. 1)",
    "kl_wise": "KL, then back towards the weights before, as far as is best on images kept aside (WiSE-FT, "
    "arXiv 2109.01903)",
    "soft_xe": "cross-entropy with the teacher's probabilities; its gradient is that of KL (appendix B.1)",
    "xe_hard": "the student learns the teacher's answers as if they were labels",
    "kl_top_k": "KL over the k classes that the teacher finds most probable (appendix B.1)",
    "xe_kl": "the student imitates the teacher and learns the labels (Eq. 2)",
    "xe_kl_hot": "XE-KL at temperature 2",
    "xe_kl_smoothed": "XE-KL with smoothed labels (section 5.1)",
    "xe_kl_as_run": "XE-KL as the authors ran it: softmax outputs into cross-entropy",
    "xe_kl_mcl": "XE-KL with weights that are averaged slowly to forget less (Eq. 3)",
    "xe_kl_mcl_as_run": "the same as the authors ran it: each epoch begins at the averaged weights",
    "xe_kl_wise": "XE-KL, then back towards the weights before, as far as is best on images kept aside "
    "(WiSE-FT, arXiv 2109.01903)",
    "cd": "the student learns the labels, and to find the same images of a batch alike as the teacher does "
    "(contrastive distillation, Eq. 6)",
    "crd": "the student learns the labels, and to tell its features of an image from the teacher's of others "
    "(contrastive representation distillation, Eq. 7)",
    "bi_kd": "student and teacher both learn the labels, and each imitates the other where that is now the "
    "better one (arXiv 2510.22208)",
    "bi_kd_moving": "the same as the authors ran it: what is imitated moves towards who imitates it",
    "kl_flips": "the student imitates the teacher on positive flips, and itself or the teacher elsewhere",
    "kl_dp": "the student imitates the teacher where that gives the true class more probability, and what it "
    "was itself elsewhere (data partitioning, Eqs. 4 and 5)",
    "kl_dp_drop": "KL+DP from several teachers, each left out of a sample at random",
    "kl_dp_calibrated": "KL+DP that compares both models after their temperatures were fitted on images "
    "neither has seen",
    "xe_kl_dp": "lambda * KL+DP + (1 - lambda) * XE: the student learns the labels beside (appendix A.3)",
    "kl_dp_unsupervised": "KL+DP without labels: whoever of the two is surer is imitated",
    "xe_kl_op": "the student learns the labels, and imitates a weighted mean of what the teacher and itself "
    "say, the weights fitted on images that neither has seen (docs/methods.md)",
    "xe_kl_op_agreement": "XE-KL+OP, its weights fitted without labels: what models say stands in for them",
    "xe_kl_op_equal": "XE-KL+OP with a weight of one half for each, without images kept aside",
    "xe_kl_dp_calibrated": "KL+DP and the labels, the models' temperatures fitted on images neither has seen",
    "xe_kl_mixed": "the student learns the labels, and imitates a mixture of the teacher and what it was, "
    "each by the probability that it gives the true class",
    "xe_kl_adaptconf": "the student learns the labels, and imitates the teacher or its own guess by how sure "
    "it is (arXiv 2402.03749)",
    "xe_kl_until_passed": "the student learns the labels, and imitates the teacher on images where that "
    "still gives the true class more probability (after arXiv 2604.15451)",
    "kl_of_experts": "the student imitates on each class who finds most of its images, the teacher or what "
    "it was itself",
    "kl_of_classes": "the student imitates the teacher on chosen classes, what it was itself on all others",
    "kd": "the student imitates the teacher and learns the labels (XE-KL, by its usual name)",
    "identity": "KD twice on the same images: what the doubled weight of the teacher does (arXiv 2012.02909)",
    "flip": "KD, and once more on copies, without labels: mirrored ones, half of them",
    "flip_crop": "the same on copies that are shifted and mirrored",
    "cutout": "the same on copies with a hole",
    "autoaugment": "the same on copies changed by AutoAugment's policy",
    "randaugment": "the same on copies changed by RandAugment",
    "trivialaugment": "the same on copies changed by TrivialAugment",
    "augmix": "the same on copies changed by AugMix",
    "mixup": "the same on copies blended with other images",
    "cutmix": "the same on copies with a part of another image",
    "cutmix_kl": "CutMix, of two copies a sample the half on which student and teacher differ most",
    "cutmix_s": "CutMix, of two copies a sample the half of which the student is least sure",
    "cutmix_t": "CutMix, of two copies a sample the half of which the teacher is least sure",
}


def label(method: str) -> str:
    """The method's name in tables and figures; 'kl_dp minus kl' is 'KL+DP minus KL'."""
    return " minus ".join(LABELS.get(name, name) for name in method.split(" minus "))


def in_order(methods: Iterable[str]) -> list[str]:
    """The methods in the fixed order of `LABELS`, then the others alphabetically."""
    known = list(LABELS)
    return sorted(set(methods), key=lambda m: (known.index(m) if m in LABELS else len(known), m))


def by_order_of_methods(
    table: pd.DataFrame, by: Sequence[str] = ("method", "student", "teacher")
) -> pd.DataFrame:
    """The table sorted by these of its columns, `method` in the fixed order; ties keep their places."""
    order = pd.CategoricalDtype(in_order(table["method"]), ordered=True)
    by = [name for name in by if name in table]
    table = table.astype({"method": order}).sort_values(by, ignore_index=True, kind="stable")
    return table.astype({"method": object})
