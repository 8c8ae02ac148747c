"""The card of an improved model: what it gains and loses, how sure that is, from whom it learnt.

A README as the Hugging Face Hub shows it, with its metadata, and a picture of what each class gained and
lost.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.figure import Figure
from numpy.typing import NDArray

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
SHOWN = 40  # classes in the picture: those that changed most


def card(repository: str, licence: str, proof, data: str, **about: Any) -> str:
    """The text of a card.

    Args:
        repository: what the model is called.
        licence: its name by the hub's list, or `other`.
        proof: what the evaluation images say (`study.improve.Proof`); None: nothing was verified.
        data: what the images are called.
        about: what else the template names.
    """
    results = None
    if proof:
        result = EvalResult(
            task_type="image-classification",
            dataset_type="custom",
            dataset_name=data,
            metric_type="accuracy",
            metric_value=round(100 * proof.after, 3),
        )
        results = [result]
    metadata = ModelCardData(
        model_name=repository,
        eval_results=results,
        license=licence,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "knowledge-transfer"],
    )
    # Not `ModelCard.from_template`: it leaves a line for each statement, which ends a table after one row.
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    written = template.from_string(TEMPLATE.read_text()).render(
        card_data=metadata.to_yaml(), name=repository, proof=proof, data=data, **about
    )
    return str(ModelCard(written))


def changes(
    classes: Sequence[str], gained: NDArray[np.integer], lost: NDArray[np.integer], total: NDArray[np.integer]
) -> list[tuple[str, int, int, int]]:
    """(class, images, gained, lost) of each class, the largest net change first."""
    order = np.argsort(-np.abs(gained - lost), kind="stable")
    return [(classes[k], int(total[k]), int(gained[k]), int(lost[k])) for k in order]


def picture(rows: Sequence[tuple[str, int, int, int]]) -> bytes:
    """A PNG of the share of each class's images that were gained and lost, of the first `SHOWN` rows."""
    shown = list(rows)[:SHOWN][::-1]
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 1 + 0.24 * len(shown)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(shown))
        for part, sign, colour, label in ((2, 1, "#2a7f62", "gained"), (3, -1, "#b3452c", "lost")):
            shares = [100 * sign * row[part] / max(1, row[1]) for row in shown]
            axes.barh(places, shares, color=colour, label=label)
        axes.axvline(0, color="#444", linewidth=0.8)
        axes.set_yticks(places, [row[0] for row in shown])
        axes.set_xlabel("% of the class's evaluation images")
        axes.legend(frameon=False, loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
