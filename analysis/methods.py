"""What methods are called in tables and figures, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

CONTROL = "xe"  # the method without a teacher
LABELS = {  # in the order of every table and figure; other methods follow alphabetically
    "xe": "XE (control)",
    "kl": "KL",
    "xe_kl": "XE-KL",
    "xe_kl_mcl": "XE-KL+MCL",
    "kl_dp": "KL+DP",
    "kl_dp_unsupervised": "KL+DP (unsup.)",
}

ABOUT = {  # what they do, after the equations of arXiv 2310.17653
    "xe": "the student is trained on with the labels, without a teacher: what training alone does",
    "kl": "the student imitates the teacher on every image (knowledge distillation, Eq. 1)",
    "xe_kl": "the student imitates the teacher and learns the labels (Eq. 2)",
    "xe_kl_mcl": "the same, with weights that are averaged slowly to forget less (Eq. 3)",
    "kl_dp": "the student imitates the teacher where that gives the true class more probability, and what it "
    "was itself elsewhere (data partitioning, Eqs. 4 and 5)",
    "kl_dp_unsupervised": "the same without labels: whoever of the two is surer is imitated",
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
