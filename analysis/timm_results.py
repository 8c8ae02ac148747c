"""Models before and after transfer in the columns of timm's results, for whatever reads those.

The columns, their order and format are those of `results/results-imagenet.csv` in timm's repository
(https://github.com/huggingface/pytorch-image-models): accuracies in percent, parameters in millions, the best
model first. Left out on purpose: intervals, which timm's table does not have; the report's tables do.
"""

from __future__ import annotations

import pandas as pd

LOOK = ["img_size", "crop_pct", "interpolation"]
COLUMNS = ["model", "top1", "top1_err", "top5", "top5_err", "param_count", *LOOK]
# Of trials and of models, where they are recorded.
OF_TRIALS = ["student_weights", "student_top5_accuracy_before", "student_top5_accuracy_after"]


def of_models(models: pd.DataFrame) -> pd.DataFrame:
    """A row a model of the atlas that finished, untrained ones left out; fractions, as the records have them.

    A model of timm's hub has timm's name, any other one the study's.
    """
    done = models[(models["status"] == "ok") & (models["source"] != "seed")]
    optional = ["timm", "weights", "top5_accuracy", "input_size", "crop_pct", "interpolation", "data_sha256"]
    done = done.reindex(columns=[*dict.fromkeys([*done.columns, *optional])])
    return pd.DataFrame(
        {
            "model": done["timm"].where((done["source"] == "hub") & done["timm"].notna(), done["name"]),
            "top1": done["accuracy"],
            "top5": done["top5_accuracy"],
            "parameters": done["parameters"],
            "img_size": done["input_size"],
            "crop_pct": done["crop_pct"],
            "interpolation": done["interpolation"],
            "weights": done["weights"],
            "data": done["data_sha256"],
        }
    ).drop_duplicates("model")


def of_students(trials: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """A row a student before transfer that `models` does not have, and a row a student after: of each trial.

    A student after transfer is called `STUDENT.METHOD_from_TEACHER`, which is what timm's names look like.

    Args:
        trials: finished trials.
        models: as `of_models` gives them; a student looks at images as the one with its weights does.
    """
    trials = trials.reindex(columns=[*dict.fromkeys([*trials.columns, *OF_TRIALS])])
    looks = models.dropna(subset="weights").drop_duplicates("weights").set_index("weights")[LOOK]
    base = trials[["student_weights", "student_parameters", "data_sha256"]].set_axis(
        ["weights", "parameters", "data"], axis=1
    )
    base = base.join(looks, on="weights")
    before, after = (
        base.assign(
            model=names,
            top1=trials[f"student_accuracy_{when}"],
            top5=trials[f"student_top5_accuracy_{when}"],
        )
        for when, names in (("before", trials["student"]), ("after", _names(trials)))
    )
    before = before.drop_duplicates("model")
    known = before["model"].isin(models["model"]) | before["weights"].isin(models["weights"].dropna())
    return pd.concat([before[~known], after], ignore_index=True)


def _names(trials: pd.DataFrame) -> pd.Series:
    """'vit.kl_from_resnet_seed1': student, method, teachers and their way, one of several seeds."""
    text = trials[["student", "method", "teacher", "combine", "order"]].astype(object).fillna("").astype(str)
    several = trials["seed"].nunique() > 1
    parts = {
        "teacher": "_from_" + text["teacher"].str.replace(" + ", "+"),
        **{name: "_" + text[name] for name in ("combine", "order")},
    }
    names = text["student"] + "." + text["method"]
    for column, part in parts.items():
        names += part.where(trials[column].notna(), "")
    return names + "_seed" + trials["seed"].map("{:.0f}".format) if several else names


def csv(rows: pd.DataFrame) -> str | None:
    """Rows of `of_models` and `of_students` as timm writes them; None where they are of several data sets."""
    if rows["data"].nunique() > 1:
        return None
    table = rows.assign(
        top1=100 * rows["top1"],
        top1_err=100 - 100 * rows["top1"],
        top5=100 * rows["top5"],
        top5_err=100 - 100 * rows["top5"],
        param_count=(rows["parameters"] / 1e6).map("{:,.2f}".format),
        img_size=rows["img_size"].astype("Int64"),
    )
    table = table.sort_values(["top1", "top5", "model"], ascending=[False, False, True])
    return table[COLUMNS].to_csv(index=False, float_format="%.3f")
