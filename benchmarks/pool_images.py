"""How good an opinion pool's target is, by how its weights are found, and how many images that takes.

    python benchmarks/pool_images.py STUDY [DRAWS]

No training. For every pair of the study the pool (`study.objectives.pool`) is fitted on n labelled images of
`tune`, drawn at random, and compared with the student on the evaluation split, through the student's crop.
Beside it: what the same labels buy by choosing the better of student and teacher; weights fitted to all of
`tune` without labels; and equal ones. A row a way: means over pairs, in points over the student, by whether
the teacher is weaker, equal (within a point) or stronger; and in how many pairs the target is worse than the
student by an exact McNemar test, adjusted for all of the row (q < 0.05).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(sys.argv[1]).resolve().parent))  # where a study's own modules lie

from study import spec, workspace
from study.objectives.pool import pool_weights, pooled, stand_in
from study.views import View

IMAGES = (20, 50, 200, 1000)
EQUAL = 1.0  # points


def main(path: str, draws: int = 3) -> None:
    study = spec.load(path)
    place = workspace.of(study)
    labels, truth = (torch.from_numpy(place.labels(split)) for split in ("tune", "evaluation"))
    rows = []
    for names in study.ordered_pairs():
        models = [place.frozen(study.zoo[name]) for name in names]
        view = View(models[0].crop)
        tune, said = (
            [place.outputs(model, split, view).logits.float() for model in models]
            for split in ("tune", "evaluation")
        )
        own, its = (one.argmax(1) == truth for one in said)
        difference = 100 * float(its.double().mean() - own.double().mean())

        def note(way: str, weights=None, target=None, pair=names, said=said, own=own, difference=difference):
            target = pooled(weights, said[0], said[1:]) if target is None else target
            right = target.argmax(1) == truth
            gained, lost = int((right & ~own).sum()), int((own & ~right).sum())
            row = {
                "way": way,
                "pair": pair,
                "difference": difference,
                "delta": 100 * (gained - lost) / len(own),
            }
            row["p"] = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            row["nll"] = float(F.cross_entropy(target, truth))
            rows.append(row | ({} if weights is None else {"a": float(weights[1])}))

        for n in (*IMAGES, len(labels)):
            for draw in range(draws if n < len(labels) else 1):
                which = np.random.default_rng(draw).permutation(len(labels))[:n]
                kept, known = [one[which] for one in tune], labels[which]
                note(f"{n:,} labels", pool_weights(kept[0], kept[1:], known))
                better = max((0, 1), key=lambda k: int((kept[k].argmax(1) == known).sum()))
                note(f"better of two, {n:,} labels", target=said[better])
        note("no labels", pool_weights(tune[0], tune[1:], stand_in(tune[0], tune[1:])))
        note("equal weights", torch.tensor([0.5, 0.5]))
    table = pd.DataFrame(rows)
    level = pd.cut(table["difference"], [-100, -EQUAL, EQUAL, 100], labels=["weaker", "equal", "stronger"])
    found = table.pivot_table(index="way", columns=level, values="delta", observed=True, sort=False)
    by_way = table.groupby("way", sort=False)
    worse = by_way.apply(
        lambda of: int(((stats.false_discovery_control(of["p"]) < 0.05) & (of["delta"] < 0)).sum())
    )
    found["worst"], found["worse"], found["of"] = by_way["delta"].min(), worse, by_way.size()
    found["nll"], found["median a"] = by_way["nll"].mean(), by_way["a"].median()
    found["sd of a"] = table.groupby(["way", "pair"])["a"].std().groupby("way").median()
    print(found.round(2).to_string())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
