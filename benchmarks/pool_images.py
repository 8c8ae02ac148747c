"""How many images kept aside an opinion pool needs: fitted on a few, measured on the evaluation split.

    python benchmarks/pool_images.py STUDY [DRAWS]

No training. For every pair of the study the pool (`study.objectives.pool`) is fitted on n images of `tune`, drawn
at random, and compared with the student, both through the student's crop. Beside it what else n labels could buy:
the better of student and teacher by their accuracy on the same images. A row an n: means over pairs, in points over
the student, by whether the teacher is weaker, equal (within a point) or stronger.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import spec, workspace
from study.objectives.pool import pool_weights, pooled
from study.views import View

IMAGES = (20, 50, 200, 1000)
EQUAL = 1.0  # points


def main(path: str, draws: int = 3) -> None:
    study = spec.load(path)
    place = workspace.of(study)
    labels, evaluated = (torch.from_numpy(place.labels(split)) for split in ("tune", "evaluation"))

    def points(logits, labels) -> float:
        return 100 * float((logits.argmax(1) == labels).double().mean())

    rows = []
    for names in study.ordered_pairs():
        models = [place.frozen(study.zoo[name]) for name in names]
        view = View(models[0].crop)
        tune, said = (
            [place.outputs(model, split, view).logits.float() for model in models]
            for split in ("tune", "evaluation")
        )
        own, its = (points(one, evaluated) for one in said)
        for n in (*IMAGES, len(labels)):
            for draw in range(draws if n < len(labels) else 1):
                which = np.random.default_rng(draw).permutation(len(labels))[:n]
                kept, truth = [one[which] for one in tune], labels[which]
                weights = pool_weights(kept[0], kept[1:], truth)
                target = pooled(weights, said[0], said[1:])
                row = {
                    "n": n,
                    "pair": names,
                    "level": its - own,
                    "pool": points(target, evaluated) - own,
                    "nll": float(F.cross_entropy(target, evaluated)),
                    "a": float(weights[1]),
                    "chosen": its - own if points(kept[1], truth) > points(kept[0], truth) else 0.0,
                }
                rows.append(row)
    table = pd.DataFrame(rows)
    levels = pd.cut(table["level"], [-100, -EQUAL, EQUAL, 100], labels=["weaker", "equal", "stronger"])
    found = table.pivot_table(index="n", columns=levels, values="pool", observed=True)
    by_n = table.groupby("n")
    found["worst fit"], found["better of two"] = by_n["pool"].min(), by_n["chosen"].mean()
    found["nll"] = by_n["nll"].mean()
    found["sd of a"] = table.groupby(["n", "pair"])["a"].std().groupby("n").median()
    print(found.round(2).to_string())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
