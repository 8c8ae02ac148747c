"""What a report is made of: which trials finished, failed or are missing, and where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis import flips
from analysis.methods import in_order, label
from analysis.results import UNIT, is_from_scratch

if TYPE_CHECKING:
    from analysis.material import Material

NAMED = 3  # trials, in a sentence


def coverage(material: Material) -> list[str]:
    """What the numbers come from, a sentence each."""
    plan, trials, done = material.plan, material.every, material.done
    failed = len(trials) - len(done)
    missing = 0 if plan is None else (~plan["trial"].isin(trials["trial"])).sum()
    total = len(trials) + missing
    lines = [
        f"{len(done):,} of {total:,} planned trials finished, {failed} failed, {missing} are not recorded."
        if plan is not None
        else f"{len(done):,} trials finished, {failed} failed; no plan says how many there are to be."
    ]
    if missing:
        lines.append("This sweep is not finished: every number is of the trials that are, and may change.")
    uneven = material.all_tested.groupby("method").size()
    if missing and uneven.nunique() > 1:
        counts = ", ".join(f"{label(method)} {count}" for method, count in uneven.items())
        lines.append(f"Finished trials by method: {counts}; methods are compared on the pairs both have.")
    lines += _several(material)
    seeds = done["seed"].nunique()
    known = done[~is_from_scratch(done)]
    spread = known.groupby([name for name in UNIT if name != "seed"], dropna=False)["transfer_delta"].std()
    varies = f", and a delta varies by {100 * (spread**2).mean() ** 0.5:.2f} points between seeds of a pair"
    lines.append(
        f"{seeds} seeds: pairs are means over them{varies if len(known) else ''}."
        if seeds > 1
        else "One seed: how much a trial would differ with another is not known."
    )
    if len(done) > len(known):
        lines.append(
            f"{len(done) - len(known):,} trials are of students from scratch: they are shown by themselves, "
            "and count in no success rate, comparison or finding."
        )
    for row in (
        done.groupby(["data", "data_sha256", "classes", "evaluation_samples", "transfer_samples"])
        .size()
        .reset_index(name="count")
        .itertuples()
    ):
        lines.append(
            f"Data {row.data} (SHA-256 {row.data_sha256[:12]}…): {row.classes:,} classes, "
            f"{row.transfer_samples:,} samples to transfer on, {row.evaluation_samples:,} to evaluate."
        )
    if (done["evaluated_on"] == "tune").any():
        lines.append("Students were scored on images kept aside for choices, not on those to report.")
    lines += [_predictions(material)] * len(material.finished[:1])
    versions = [
        f"{name} {', '.join(sorted(done[f'{name}_version'].dropna().unique()))}"
        for name in ("torch", "timm", "study")
    ]
    first, last = done["finished"].min(), done["finished"].max()
    devices = ", ".join(sorted(done["device"].dropna().unique()))
    lines.append(
        f"Run from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC on {devices}; {', '.join(versions)}."
    )
    return lines


def _several(material: Material) -> list[str]:
    """How many trials of several teachers finished, method by method and way by way; nothing without any."""
    plan = material.plan
    recorded = material.recorded.dropna(subset="combine")
    known = recorded if plan is None or "combine" not in plan else plan.dropna(subset="combine")
    if known.empty:
        return []
    done = known["trial"].isin(material.finished["trial"])
    counts = known.assign(done=done, way=_way(known)).groupby(["method", "way"])["done"].agg(["sum", "size"])
    parts = [
        f"{label(method)} {way} {row['sum']} of {row['size']}"
        for method in in_order(known["method"])
        for way, row in counts.loc[method].iterrows()
    ]
    return [f"Of several teachers {done.sum():,} of {len(known):,} trials finished: {', '.join(parts)}."]


def _way(trials: pd.DataFrame) -> pd.Series:
    """How several teachers teach: 'soup', or 'sequential, ascending'."""
    pairs = zip(trials["combine"], trials["order"], strict=True)
    ways = [combine if pd.isna(order) else f"{combine}, {order}" for combine, order in pairs]
    return pd.Series(ways, index=trials.index, dtype=object)


def _predictions(material: Material) -> str:
    """Whether the trials' measures are those of the stored predictions."""
    absent = flips.without_predictions(material.flips_by_class, material.recorded)
    apart = flips.disagreements(material.flips_by_class, material.recorded)
    checked = len(material.finished) - len(absent)
    text = f"Gains, losses and positive flips of {checked:,} trials were counted again from their predictions"
    if len(apart):
        names = ", ".join(apart["trial"].unique()[:NAMED])
        text += f": {apart['trial'].nunique()} do not agree with what is recorded (such as {names})"
    else:
        text += " and agree" if checked else ""
    if absent:
        text += f"; {len(absent):,} have no predictions (such as {', '.join(absent[:NAMED])})"
    return text + "."


def unfinished(plan: pd.DataFrame | None, trials: pd.DataFrame) -> pd.DataFrame | None:
    """The trials that failed, with the reason, and those that are not recorded yet; None without any.

    Returns:
        A table of text: trial, student, teacher (several with the way in which they teach), method, seed, and
        why.
    """
    columns = ["trial", "student", "teacher", "combine", "order", "method", "seed"]
    failed = trials[trials["status"] != "ok"]
    parts = [failed[columns].assign(why="failed: " + failed["reason"].astype(str))]
    if plan is not None:
        missing = plan[~plan["trial"].isin(trials["trial"])].reindex(columns=columns)
        parts.append(missing.assign(why="not recorded yet"))
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        return None
    table = table.sort_values(["why", *columns[1:]], ignore_index=True).astype(object)
    several = table["combine"].notna()
    table.loc[several, "teacher"] += " (" + _way(table[several]) + ")"
    table = table.drop(columns=["combine", "order"])
    table["seed"] = [f"{seed:.0f}" if pd.notna(seed) else "-" for seed in table["seed"]]
    table["method"] = [label(method) if pd.notna(method) else "-" for method in table["method"]]
    return table.astype(object).where(table.notna(), "-").astype(str)
