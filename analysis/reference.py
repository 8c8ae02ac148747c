"""The numbers that arXiv 2310.17653 published, and which of our trials they can stand beside.

The files lie in `analysis/reference/`, whose README.md says which table each is. A trial is comparable where
its student and its teacher are models of one of the paper's two settings, by their timm names, and its data
are that setting's: ImageNet's 1,000 classes, its 50,000 validation images, and all or a tenth of its training
images. Hyper-parameters are not compared: the paper does not state all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent / "reference"
CLASSES, EVALUATION = 1_000, 50_000
TRAINING = 1_281_167
SHARE = {"full": 1.0, "subset10": 0.1}
NEAR = 0.02  # of the number of transfer samples: a tenth of each class is not exactly a tenth of all
METHODS = {"kl": "kl", "kl_dp_supervised": "kl_dp", "kl_dp_unsupervised": "kl_dp_unsupervised"}
ROUNDED = 0.005  # points: what rounding to two decimals hides of a mean, and as much of its parts


def table(name: str) -> pd.DataFrame:
    """A published table by the name of its file; deltas in percentage points, as printed."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def setting(trials: pd.DataFrame) -> pd.Series:
    """The paper's setting that each trial's data are of: 'full', 'subset10', or None."""
    of_imagenet = (trials["classes"] == CLASSES) & (trials["evaluation_samples"] == EVALUATION)
    share = trials["transfer_samples"] / TRAINING
    found = pd.Series([None] * len(trials), index=trials.index, dtype=object)
    for name, wanted in SHARE.items():
        found[of_imagenet & ((share / wanted - 1).abs() <= NEAR)] = name
    return found


def papers_names(trials: pd.DataFrame) -> pd.DataFrame:
    """Of each trial: `setting`, and the paper's names of its `student` and `teacher`; None where not its.

    A timm name counts with the tag of its weights, as records have it.
    """
    names = table("models").set_index(["setting", "role", "timm_name"])["paper_name"].to_dict()
    found = pd.DataFrame({"setting": setting(trials)}, index=trials.index)
    for role in ("student", "teacher"):
        found[role] = [
            names.get((of, role, timm))
            for of, timm in zip(found["setting"], trials[f"{role}_timm"], strict=True)
        ]
    return found


def deltas() -> pd.DataFrame:
    """Table 7: one row a (student, teacher, method) of 'full', with this project's names of the methods."""
    pairs = table("table7_pairs")
    return pairs.assign(method=pairs["method"].map(METHODS))


def means() -> pd.DataFrame:
    """Tables 1, 3 and 8: mean and standard deviation over the four teachers, one row each.

    Columns: `table`, `student`, `method`, `measure` ('transfer_delta', 'delta_rho_pos', 'delta_rho_neg'),
    `mean`, `sd`.
    """
    parts = [
        (1, "table1_full_imagenet", {"kl": "kl", "kl_dp": "kl_dp"}),
        (3, "table3_unsupervised", {"kl_dp_sup": "kl_dp", "kl_dp_unsup": "kl_dp_unsupervised"}),
    ]
    rows = [
        pd.DataFrame(
            {
                "table": number,
                "student": published["student"],
                "method": method,
                "measure": "transfer_delta",
                "mean": published[f"{column}_mean"],
                "sd": published[f"{column}_std"],
            }
        )
        for number, name, columns in parts
        for published in [table(name)]
        for column, method in columns.items()
    ]
    flips = table("table8_flips_kl_dp")
    rows += [
        pd.DataFrame(
            {
                "table": 8,
                "student": flips["student"],
                "method": "kl_dp",
                "measure": measure,
                "mean": flips[f"{measure}_mean"],
                "sd": flips[f"{measure}_std"],
            }
        )
        for measure in ("transfer_delta", "delta_rho_pos", "delta_rho_neg")
    ]
    return pd.concat(rows, ignore_index=True)


def disagreements() -> pd.DataFrame:
    """Where the published means are not those of the published pairs (Table 7), by more than rounding.

    Returns:
        One row a place: `table`, `student`, `method`, the `published` mean, the mean of Table 7's `pairs`,
        and their `difference`, in percentage points, the largest first.
    """
    of_pairs = deltas().groupby(["student", "method"])["transfer_delta"].mean().rename("pairs")
    rows = means()
    rows = rows[rows["measure"] == "transfer_delta"].merge(of_pairs.reset_index(), on=["student", "method"])
    rows = rows.rename(columns={"mean": "published"})
    rows["difference"] = (rows["published"] - rows["pairs"]).round(6)
    apart = rows[rows["difference"].abs() > 2 * ROUNDED]
    apart = apart.iloc[np.argsort(-apart["difference"].abs().to_numpy(), kind="stable")]
    return apart[["table", "student", "method", "published", "pairs", "difference"]].reset_index(drop=True)
