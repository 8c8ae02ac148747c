"""Transfer from several teachers, beside transfer from each of them alone: tables, and no text.

Behind Tables 4 and 9 and Fig. 11 of arXiv 2310.17653 (sections 4.3, 5.2 and B.6). The same teachers teach a
student one after the other ('sequential', in some order), all at once ('parallel') or each a student of its
own, which are averaged ('soup'), or some of which are ('greedy_soup'): each is a `way`. A row is of a student
and a set of teachers, in whatever order they taught, its seeds averaged. All numbers are fractions, as in the
records. Left out on purpose: any choice among ways or orders, and what each of several teachers knew before:
the records have no flips of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis import reference
from analysis.inference import crossed_bootstrap
from analysis.measures import minus
from analysis.methods import by_order_of_methods, in_order

SINGLE = {"single mean": "mean", "single min": "min", "single max": "max"}  # over the teachers one by one
BEST = "single max"
ASCENDING, DESCENDING = "sequential, ascending", "sequential, descending"
AT_ONCE = ("parallel", "soup", "greedy_soup")
CHANGES = ["transfer_delta", "knowledge_gain", "knowledge_loss"]
OF = ["method", "teachers", "student"]
CURVE = ["method", "order", "student", "sequence"]


def ways_in_order(ways: Iterable[str]) -> list[str]:
    """Single teachers, sequences by accuracy, those as listed, and the teachers at once."""
    first = [*SINGLE, ASCENDING, DESCENDING]
    place = {way: number for number, way in enumerate((*first, *AT_ONCE))}
    return sorted(set(ways), key=lambda way: (place.get(way, len(first) - 0.5), way))


def described(several: pd.DataFrame) -> pd.DataFrame:
    """The finished trials with `names` (a tuple, in the order in which they taught), the `teachers` that they
    are (a text, the same for every order) and the `way`, such as 'sequential, ascending', 'sequential: a → b'
    (as listed) or 'soup'."""
    done = several[several["status"] == "ok"]
    names = [tuple(names) for names in done["teachers"]]
    ways = [
        f"{combine}: {' → '.join(of)}"
        if order == "listed"
        else f"{combine}, {order}"
        if pd.notna(order)
        else combine
        for of, combine, order in zip(names, done["combine"], done["order"], strict=True)
    ]
    return done.assign(names=names, teachers=[" + ".join(sorted(of)) for of in names], way=ways)


def by_student(several: pd.DataFrame, units: pd.DataFrame, recorded: pd.DataFrame) -> pd.DataFrame:
    """Tables 4 and 9, for any method, students and teachers.

    Args:
        several: trials of several teachers, as `measures.tested` makes them.
        units: of the trials of one teacher, as `measures.over_seeds` makes them.
        recorded: all trials, as `results.load` gives them: what the teachers are called in timm.

    Returns:
        One row a (method, teachers, student, way), where 'single mean', 'single min' and 'single max' are of
        these teachers one by one, if all of them finished (else `single_missing` says which did not):
        `seeds`; `transfer_delta`, `knowledge_gain` and `knowledge_loss`, means over them; `noise`, the mean
        of a trial's; `over_best`, the delta over that of the best single teacher, minus 1, null where that
        is not above 0; `published` and `difference` from it, null where student, teachers, data or, in a
        sequence, their order are not the paper's; `published_over_best`.

        After them, with a null `student`, the mean over the `students` that have every way that any has with
        this method and these teachers, if they are two or more: with `low` and `high`, its 95 % interval over
        students.
    """
    done = described(several)
    done = done.assign(
        papers_student=reference.papers_names(done)["student"],
        papers_teachers=reference.papers_teachers(done, recorded),
    )
    known = units.set_index(["method", "student", "teacher"])["transfer_delta"]
    rows = []
    for (method, teachers, student), mine in done.groupby(OF, sort=False):
        rows += _of_student(mine, known, {"method": method, "teachers": teachers, "student": student})
    columns = [*OF, "way", "students", "student_accuracy_before", "seeds", *CHANGES, "low", "high", "noise"]
    columns += ["over_best", "published", "difference", "published_over_best", "single_missing"]
    table = pd.DataFrame(rows, columns=columns)
    for value, ratio in (("transfer_delta", "over_best"), ("published", "published_over_best")):
        best = table[table["way"] == BEST].set_index(OF)[value].astype(float)
        best = best.reindex(pd.MultiIndex.from_frame(table[OF])).to_numpy()
        over = table[value] / np.where(best > 0, best, np.nan) - 1
        table[ratio] = over.where(~table["way"].isin(SINGLE))
    table = pd.concat([table, pd.DataFrame(_means(table), columns=columns)], ignore_index=True)
    table["difference"] = table["transfer_delta"] - table["published"].astype(float)
    return by_order_of_methods(table, ["method", "teachers"])


def _of_student(mine: pd.DataFrame, known: pd.Series, about: dict) -> list[dict]:
    """The rows of a student, its teachers one by one and in every way, as `by_student` has them."""
    first = mine.iloc[0]
    papers = about["method"], first["papers_student"]
    names = sorted(set(first["names"]))
    alone = known.reindex([(about["method"], about["student"], name) for name in names])
    absent = [name for name, delta in zip(names, alone, strict=True) if pd.isna(delta)]
    found = {
        way: {
            "transfer_delta": alone.agg(of),
            "published": reference.of_several(*papers, first["papers_teachers"], way),
        }
        for way, of in SINGLE.items()
        if not absent
    }
    for way, seeds in mine.groupby("way"):
        combine, taught = seeds[["combine", "papers_teachers"]].iloc[0]
        found[way] = {
            "seeds": seeds["seed"].nunique(),
            **seeds[[*CHANGES, "noise"]].astype(float).mean().round(12),
            "published": reference.of_several(*papers, taught, combine),
        }
    about = about | {
        "students": 1,
        "student_accuracy_before": first["student_accuracy_before"],
        "single_missing": " + ".join(absent) or None,
    }
    return [about | {"way": way} | found[way] for way in ways_in_order(found)]


def missing(table: pd.DataFrame) -> list[str]:
    """By student, what others have with the same method and teachers and it has not: not finished yet.

    Args:
        table: as `by_student` makes it.

    Returns:
        A text a student, such as 'PiT-B: soup, single teachers VOLO-D2'.
    """
    parts = []
    table = table[table["student"].notna()]
    for _, mine in table.groupby(["method", "teachers"], sort=False):
        every = [way for way in ways_in_order(mine["way"]) if way not in SINGLE]
        for student, rows in mine.groupby("student", sort=False):
            absent = [way for way in every if way not in set(rows["way"])]
            single = rows["single_missing"].iloc[0]
            absent += [f"single teachers {single}"] if pd.notna(single) else []
            parts += [f"{student}: {', '.join(absent)}"] if absent else []
    return parts


def _means(table: pd.DataFrame) -> list[dict]:
    """The rows of means over students of `by_student`."""
    rows = []
    for (method, teachers), mine in table.groupby(["method", "teachers"], sort=False):
        ways = mine.groupby("student")["way"].nunique()
        whole = mine[mine["student"].isin(ways.index[ways == mine["way"].nunique()])]
        if whole["student"].nunique() < 2:
            continue
        for way, of_way in whole.groupby("way", sort=False):
            deltas = of_way["transfer_delta"].astype(float)
            low, high = crossed_bootstrap(deltas, of_way["student"], None)
            row = {"method": method, "teachers": teachers, "way": way, "students": len(of_way)}
            means = of_way[[*CHANGES, "noise", "over_best", "student_accuracy_before"]].astype(float).mean()
            published = of_way[["published", "published_over_best"]].astype(float).mean(skipna=False)
            rows.append(row | {**means, **published, "low": low, "high": high})
    return rows


def orders(several: pd.DataFrame) -> pd.DataFrame:
    """Does it matter whether the best teacher comes last? Ascending minus descending sequences.

    Of the same student, teachers, method and seed; differences are then averaged over seeds.

    Args:
        several: trials of several teachers, as `results.load` gives them.

    Returns:
        One row a (method, measure), the measure one of `CHANGES`: `pairs` of a student and a set of
        teachers; `ascending` and `descending`, the means over them, and `ascending_positive` and
        `descending_positive`, how many are above 0; `mean` of the differences with `low` and `high`, its
        95 % interval over students and sets of teachers, and `higher`, on how many ascending is above.
    """
    done = described(several).astype(dict.fromkeys(CHANGES, float))
    wide = done.pivot_table(CHANGES, [*OF, "seed"], "way")
    rows = []
    for measure in CHANGES:
        if not {(measure, ASCENDING), (measure, DESCENDING)} <= set(wide.columns):
            break
        both = wide[measure][[ASCENDING, DESCENDING]].dropna().groupby(OF).mean().round(12)
        for method, mine in both.groupby("method"):
            up, down = mine[ASCENDING], mine[DESCENDING]
            difference = (up - down).round(12)
            low, high = crossed_bootstrap(
                difference, mine.index.get_level_values("student"), mine.index.get_level_values("teachers")
            )
            row = {"method": method, "measure": measure, "pairs": len(mine)}
            row |= {"ascending": up.mean(), "descending": down.mean()}
            row |= {"ascending_positive": (up > 0).sum(), "descending_positive": (down > 0).sum()}
            row |= {"mean": difference.mean(), "low": low, "high": high, "higher": (difference > 0).sum()}
            rows.append(row)
    return by_order_of_methods(pd.DataFrame(rows), ["method"]) if rows else pd.DataFrame()


def between_methods(several: pd.DataFrame) -> pd.DataFrame:
    """Every two methods from the same teachers: what one transfers more than the other.

    Of the same student, teachers, way and seed; differences are then averaged over seeds.

    Args:
        several: trials of several teachers, as `results.load` gives them.

    Returns:
        One row a (methods, way), `methods` 'a minus b' where `a` comes after `b` in the fixed order: `pairs`
        of a student and a set of teachers; the mean deltas of `a` (`first`) and `b` (`second`); `mean` of the
        differences with `low` and `high`, its 95 % interval over students and sets of teachers, and `higher`,
        on how many `a` is above.
    """
    done = described(several).astype({"transfer_delta": float})
    wide = done.pivot_table("transfer_delta", ["way", "student", "teachers", "seed"], "method")
    rows = []
    for b, a in itertools.combinations(in_order(wide.columns), 2):
        both = wide[[a, b]].dropna().groupby(["way", "student", "teachers"]).mean()
        for way in ways_in_order(both.index.get_level_values("way")):
            mine = both.xs(way, level="way")
            difference = (mine[a] - mine[b]).round(12)
            low, high = crossed_bootstrap(
                difference, *map(mine.index.get_level_values, ("student", "teachers"))
            )
            row = {"methods": minus(a, b), "way": way, "pairs": len(mine)}
            row |= {"first": mine[a].mean(), "second": mine[b].mean(), "mean": difference.mean()}
            rows.append(row | {"low": low, "high": high, "higher": (difference > 0).sum()})
    return pd.DataFrame(rows)


def sequences(history: pd.DataFrame, several: pd.DataFrame) -> pd.DataFrame:
    """Fig. 11: what a student has gained and lost, against the original one, after each epoch of a sequence.

    Args:
        history: of trials of several teachers, as `training_measures.load_history` gives it.
        several: these trials, as `results.load` gives them.

    Returns:
        One row a (method, order, student, sequence, epoch) that was evaluated, of curves with more than one:
        `sequence` is the teachers' names joined by arrows; `stage` and `teacher`, who taught then; `seeds`;
        the means over them of `CHANGES`.
    """
    done = described(several)
    done = done[done["combine"] == "sequential"]
    done = done.assign(sequence=[" → ".join(names) for names in done["names"]])
    rows = history.drop(columns="method").merge(done[["trial", "seed", *CURVE]], on="trial")
    rows = rows.dropna(subset=["knowledge_gain", "knowledge_loss"])
    rows = rows.astype({"knowledge_gain": float, "knowledge_loss": float})
    rows = rows.assign(transfer_delta=(rows["knowledge_gain"] - rows["knowledge_loss"]).round(12))
    grouped = rows.groupby([*CURVE, "epoch", "stage", "teacher"])
    table = grouped[CHANGES].mean()
    table.insert(0, "seeds", grouped["seed"].nunique())
    table = table.reset_index()
    table = table[table.groupby(CURVE)["epoch"].transform("nunique") > 1]
    return by_order_of_methods(table, [*CURVE, "epoch"])
