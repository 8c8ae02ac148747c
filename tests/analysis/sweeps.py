"""Results folders for tests and benchmarks: sweeps that never ran, with a truth that was planted in them.

`simulate` draws models, decides by how much every trial changes its student, and fills all the columns
of `study.store.records`; `write` puts them where a sweep would have, as files of one trial or merged ones.
What is planted is the number of samples that each trial gains and loses, so that tables without
predictions cost nothing, and the predictions, drawn only when they are written, agree with the tables to
the sample. Left out on purpose: training. Losses and times look plausible and mean nothing, and `spec` is
JSON but no whole trial of `study.spec`.

    python -m tests.analysis.sweeps FOLDER [--students S] [--teachers T] [--seeds K] [--samples N] ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from study.store import compaction, records, schemas

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {"cnn": "resnet50", "transformer": "vit_small_patch16_224", "mlp": "mixer_b16_224"}
PAPERS_FAMILIES = {"CNN": "cnn", "Trafo": "transformer", "MLP": "mlp"}
MERGED_ROWS = 1 << 22  # of a merged file, which `study.store.compaction` bounds by the bytes that go into it
REASONS = (
    "FloatingPointError: the loss is nan in epoch 3",
    "OutOfMemoryError: CUDA out of memory, even with a batch of 1",
)

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Effect:
    """What a method does to its students, in percentage points.

    A trial's transfer delta is mean + slope * Delta_acc + its student's own part + noise.

    Attributes:
        mean: transfer delta with an equal teacher.
        slope: of the delta in Delta_acc.
        student_spread, spread: standard deviations of the student's part and of the noise.
        lost: knowledge loss of a trial with a delta of 0, which is also its gain.
        from_flips: share of what is gained that the teacher knew.
        settings: the method's own columns of `trials`.
    """

    mean: float
    slope: float = 0.0
    student_spread: float = 0.1
    spread: float = 0.1
    lost: float = 1.0
    from_flips: float = 0.7
    settings: Mapping[str, float | int] | None = None


_KL, _XE_KL = {"temperature": 1.0}, {"temperature": 1.0, "weight": 0.7}
EFFECTS: dict[str, Effect] = {
    "xe": Effect(0.0, student_spread=0.03, spread=0.05, lost=0.7),
    "kl": Effect(-0.1, 0.3, lost=3.0, settings=_KL),
    "xe_kl": Effect(0.1, 0.15, lost=2.0, settings=_XE_KL),
    "xe_kl_mcl": Effect(0.15, 0.12, lost=1.7, settings=_XE_KL | {"slow_decay": 0.9999, "slow_every": 2}),
    "kl_dp": Effect(0.25, 0.04, lost=0.6, from_flips=0.85, settings=_KL),
    "kl_dp_unsupervised": Effect(0.3, 0.05, lost=0.8, from_flips=0.8, settings=_KL),
}
CONTROL = "xe"
IN_PARALLEL = ("kl_dp", "kl_dp_unsupervised")  # methods that choose among several teachers
CELLS = ("both", "flips", "student_only", "neither")  # who was right before: teacher and student


@dataclass(frozen=True)
class Sweep:
    """A sweep that never ran.

    Attributes:
        trials: what is recorded, a row a trial, in the columns of `study.store.schemas.TRIALS`.
        history: a row an epoch of each finished trial.
        plans: a row a planned trial, whether it is recorded or not.
        labels: int64 [N].
        indices: int64 [N], of the samples in the .beton file.
        predicted: what each model says, int32 [N] by its name.
        changes: by finished trial, how many samples each of `CELLS` gained or lost.
        top_first: how much rather a trial gains flips of classes with many of them; 0 is not at all.
        seed: of everything that is drawn.
    """

    trials: pd.DataFrame
    history: pd.DataFrame
    plans: pd.DataFrame
    labels: Ints
    indices: Ints
    predicted: dict[str, NDArray[np.int32]]
    changes: pd.DataFrame
    top_first: float
    seed: int

    @property
    def finished(self) -> list[str]:
        """Ids of the finished trials, sorted as files are."""
        return sorted(self.changes.index)

    def predictions(self, trial: str) -> pa.Table:
        """What student and teacher said of each sample; the same at every call."""
        change = self.changes.loc[trial]
        before = self.predicted[change["student"]]
        teacher = self.predicted.get(change["teacher"])  # None too where several taught
        draw = np.random.default_rng([self.seed, int(trial, 16)])
        changed = self._changed(change, before, teacher, draw)
        right = before[changed] == self.labels[changed]
        after = before.copy()
        wrong = (self.labels[changed] + 1) % (self.labels.max() + 1)
        after[changed] = np.where(right, wrong, self.labels[changed])
        confidence = _confidence(len(before), self.seed)
        said = {
            "student_before": (before, np.roll(confidence, change["number"])),
            "teacher": (teacher, None if teacher is None else np.roll(confidence, -change["number"])),
            "student_after": (after, np.roll(confidence, change["number"] + 7)),
        }
        columns = {"trial": pa.repeat(trial, len(before)), "index": self.indices, "label": self.labels}
        for name, (label, sure) in said.items():
            columns |= {name: label, f"{name}_confidence": sure}
        return _table(schemas.PREDICTIONS, columns, len(before))

    def _changed(self, change: pd.Series, before, teacher, draw: np.random.Generator) -> Ints:
        """The samples that a trial gains and loses."""
        student_right = before == self.labels
        teacher_right = student_right if teacher is None else teacher == self.labels
        cells = np.where(student_right, np.where(teacher_right, 0, 2), np.where(teacher_right, 1, 3))
        key = draw.random(len(before), np.float32)
        counts = np.bincount(self.labels[cells == 1], minlength=self.labels.max() + 1)
        late = (
            key - np.float32(self.top_first) * (counts / max(counts.max(), 1)).astype(np.float32)[self.labels]
        )
        chosen = []
        for cell, name in enumerate(CELLS):
            of_cell, size = np.flatnonzero(cells == cell), int(change[name])
            order = (late if name == "flips" else key)[of_cell]
            chosen.append(of_cell[np.argpartition(order, size - 1)[:size]] if size else of_cell[:0])
        return np.concatenate(chosen)


@cache
def _confidence(samples: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).beta(6, 1.5, samples).astype(np.float32)


# --- models -------------------------------------------------------------------------------------


def made_up(count: int, role: str, accuracies: tuple[float, float]) -> pd.DataFrame:
    """Models of all families in turns, with accuracies spread evenly between two."""
    names = list(FAMILIES)
    family = [names[number % 3] for number in range(count)]
    return pd.DataFrame(
        {
            "name": [f"{role}-{number:02}" for number in range(count)],
            "timm": [FAMILIES[name] for name in family],
            "family": family,
            "parameters": (5e6 * 1.2 ** np.arange(count)).astype(int),
            "accuracy": np.linspace(*accuracies, count) if count > 1 else [np.mean(accuracies)],
        }
    )


def papers(setting: str = "full") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The paper's students and teachers of a setting, 'full' (8 and 4) or 'subset10' (20 and 20).

    'several' are those of 'full' in Tables 4 and 9 (3 and 3).
    """
    models = pd.read_csv(ROOT / "analysis" / "reference" / "models.csv")
    models = models[models["setting"] == ("full" if setting == "several" else setting)]
    if setting == "several":
        both = ["XCiT-P16", "Twins", "PiT-B", "SWSL-ResNext101", "VOLO-D2", "ResMLP-36"]
        models = models[models["paper_name"].isin(both)]
    elif setting == "full":
        models = models[models["paper_name"] != "Twins"]
    table = pd.DataFrame(
        {
            "name": models["paper_name"],
            "timm": models["timm_name"],
            "family": models["family"].map(PAPERS_FAMILIES),
            "parameters": (1e6 * models["timm_params_m"]).astype(int),
            "accuracy": models["paper_top1"] / 100,
        }
    )
    students, teachers = (table[models["role"] == role] for role in ("student", "teacher"))
    return students.reset_index(drop=True), teachers.reset_index(drop=True)


def published() -> dict[tuple[str, str, str], float]:
    """The paper's transfer deltas (its Table 7) in percentage points by (student, teacher, method)."""
    table = pd.read_csv(ROOT / "analysis" / "reference" / "table7_pairs.csv")
    method = table["method"].replace({"kl_dp_supervised": "kl_dp"})
    keys = zip(table["student"], table["teacher"], method, strict=True)
    return dict(zip(keys, table["transfer_delta"], strict=True))


def _knowledge(models: pd.DataFrame, labels: Ints, classes: int, draw: np.random.Generator) -> dict:
    """What each model says: what is hard is shared, more so within a family, and the accuracy is kept."""
    samples = len(labels)
    hard = draw.normal(0, 1.3, samples) + draw.normal(0, 0.5, classes)[labels]
    of_family = {family: draw.normal(0, 0.5, samples) for family in sorted(set(models["family"]))}
    usual = draw.integers(1, classes, samples)  # the class that a sample is often taken for
    said = {}
    for model in models.itertuples():
        own = draw.normal(0, 0.5, classes)[labels] + draw.normal(0, 0.6, samples)
        order = np.argsort(hard + of_family[model.family] + own)
        wrong = order[round(model.accuracy * samples) :]
        off = np.where(draw.random(len(wrong)) < 0.5, usual[wrong], draw.integers(1, classes, len(wrong)))
        predicted = labels.astype(np.int32)
        predicted[wrong] = (labels[wrong] + off) % classes
        said[model.name] = predicted
    return said


# --- trials -------------------------------------------------------------------------------------


def simulate(
    students: int | pd.DataFrame = 4,
    teachers: int | pd.DataFrame = 4,
    *,
    methods: Sequence[str] = tuple(EFFECTS),
    seeds: int = 1,
    samples: int = 1000,
    classes: int = 10,
    effects: Mapping[str, Effect] = EFFECTS,
    planted: Mapping[tuple[str, str | None, str], float] | None = None,
    several: Sequence[str] = (),
    failed: int = 0,
    missing: float = 0.0,
    epochs: int = 5,
    top_first: float = 0.3,
    study: str = "sweep",
    seed: int = 0,
) -> Sweep:
    """A sweep of every student with every other teacher by every method, with several, and the control.

    Args:
        students, teachers: how many, or the models (see `made_up` and `papers`); a model of both is not
            paired with itself.
        methods: names, keys of `effects`; 'xe' has no teacher.
        seeds: trials of each method and pair.
        samples, classes: of the evaluation; samples of each class differ by at most one.
        effects: what each method does.
        planted: transfer deltas in percentage points by (student, teacher, method) that hold exactly, up
            to 1/samples, in place of the effect's; those of several teachers by (student, way, method).
        several: ways in which all the teachers together teach each student beside: 'sequential listed',
            'sequential ascending', 'sequential descending', 'parallel' (with `IN_PARALLEL`), 'soup'.
        failed: how many of the trials failed, drawn at random.
        missing: share of the planned trials that were not run yet, drawn at random.
        epochs: rows of `history` a trial.
        top_first: see `Sweep`.
        study: its name.
        seed: of everything that is drawn.
    """
    draw = np.random.default_rng(seed)
    if isinstance(students, int):
        students = made_up(students, "student", (0.76, 0.84))
    if isinstance(teachers, int):
        teachers = made_up(teachers, "teacher", (0.72, 0.88))
    models = pd.concat([students, teachers]).drop_duplicates("name").set_index("name", drop=False)
    labels = draw.permutation(np.arange(samples) % classes)
    predicted = _knowledge(models, labels, classes, draw)

    rows = _planned(list(students["name"]), teachers, methods, seeds, several)
    ids = rows[["student", "teacher", "method", "seed", "way"]].to_numpy().tolist()
    rows.insert(0, "trial", [_id(study, seed, *(row if row[-1] else row[:-1])) for row in ids])
    plans = rows.drop(columns="way").assign(study=study)
    rows = rows.assign(number=np.arange(len(rows)))
    rows = rows.join(_cells(rows, {name: said == labels for name, said in predicted.items()}, samples))
    rows = rows.join(_changes(rows, effects, planted or {}, samples, draw))

    order = draw.permutation(len(rows))
    gone = round(missing * len(rows))
    recorded, failures = np.sort(order[gone:]), order[gone : gone + failed]
    rows["status"] = np.where(rows.index.isin(failures), "failed", "ok")
    rows = rows.loc[recorded].reset_index(drop=True)
    done = rows[rows["status"] == "ok"]
    history = _history(done, epochs, samples, draw)
    table = _identity(rows, models, effects, epochs, samples, classes, study).join(_measures(rows, samples))
    table = table.join(_costs(rows, models, history, draw))
    table["reason"] = [
        REASONS[n % len(REASONS)] if state == "failed" else None for n, state in enumerate(rows["status"])
    ]
    changes = done.set_index("trial")[["number", "student", "teacher"]]
    changes = changes.join(done.set_index("trial")[[f"changed_{cell}" for cell in CELLS]])
    return Sweep(
        trials=_table(schemas.TRIALS, table, len(table)).to_pandas(),
        history=history,
        plans=plans,
        labels=labels,
        indices=np.sort(draw.choice(2 * samples, samples, replace=False)),
        predicted=predicted,
        changes=changes.rename(columns={f"changed_{cell}": cell for cell in CELLS}),
        top_first=top_first,
        seed=seed,
    )


def _planned(
    students: list[str], teachers: pd.DataFrame, methods: Sequence[str], seeds: int, several: Sequence[str]
) -> pd.DataFrame:
    """Student, teachers, method and seed of every trial, and the way in which several teach."""
    rows = [
        (student, [] if teacher is None else [teacher], method, seed, None)
        for method in methods
        for student in students
        for teacher in ([None] if method == CONTROL else teachers["name"])
        if teacher != student
        for seed in range(seeds)
    ]
    ascending = list(teachers.sort_values("accuracy", kind="stable")["name"])
    orders = {"ascending": ascending, "descending": ascending[::-1]}
    rows += [
        (
            student,
            [name for name in orders.get(way.partition(" ")[2], teachers["name"]) if name != student],
            method,
            seed,
            way,
        )
        for method in methods
        for way in several
        if method != CONTROL and (way != "parallel" or method in IN_PARALLEL)
        for student in students
        for seed in range(seeds)
    ]
    columns = ["student", "teachers", "method", "seed", "way", "teacher", "combine", "order"]
    full = []
    for row in rows:
        combine, order = [*(row[-1] or "").split(), None, None][:2]
        full.append((*row, " + ".join(row[1]) or None, combine, order))
    return pd.DataFrame(full, columns=columns, dtype=object).astype({"seed": int})  # and None stays None


def _id(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _cells(rows: pd.DataFrame, right: dict[str, Bools], samples: int) -> pd.DataFrame:
    """Samples in each of `CELLS` before; without one teacher, of one that knows what the student does."""
    before = np.array([right[name].sum() for name in rows["student"]])
    found: dict[tuple, int] = {}
    for student, teacher in set(zip(rows["student"], rows["teacher"], strict=True)):
        found[student, teacher] = int((right[student] & right[teacher]).sum()) if teacher in right else -1
    both = np.array([found[pair] for pair in zip(rows["student"], rows["teacher"], strict=True)])
    both = np.where(both < 0, before, both)
    teacher_right = np.array(
        [right[name].sum() if name in right else n for name, n in zip(rows["teacher"], before, strict=True)]
    )
    flips = teacher_right - both
    return pd.DataFrame(
        {
            "both": both,
            "flips": flips,
            "student_only": before - both,
            "neither": samples - before - flips,
        }
    )


def _changes(rows: pd.DataFrame, effects, planted, samples: int, draw: np.random.Generator) -> pd.DataFrame:
    """How many samples of each cell change: `changed_<cell>`, gains of the wrong and losses of the right."""
    effect = pd.DataFrame([vars(effects[name]) for name in rows["method"]], index=rows.index)
    own = {name: draw.normal() for name in dict.fromkeys(rows["student"])}
    difference = 100 * (rows["flips"] - rows["student_only"]) / samples
    delta = effect["mean"] + effect["slope"] * difference + draw.normal(size=len(rows)) * effect["spread"]
    delta += rows["student"].map(own) * effect["student_spread"]
    keys = zip(rows["student"], rows["way"].fillna(rows["teacher"]), rows["method"], strict=True)
    fixed = pd.Series([planted.get(key, np.nan) for key in keys], index=rows.index)
    change = (fixed.fillna(delta) * samples / 100).round().astype(int)

    lost = (effect["lost"] * draw.uniform(0.8, 1.2, len(rows)) * samples / 100).round().astype(int)
    lost = np.maximum(lost, -change).clip(upper=rows["both"] + rows["student_only"])
    gained = (lost + change).clip(0, rows["flips"] + rows["neither"])
    lowest, highest = gained - rows["neither"], np.minimum(gained, rows["flips"])
    of_flips = (gained * effect["from_flips"]).round().astype(int).clip(lowest.clip(lower=0), highest)
    lowest, highest = lost - rows["both"], np.minimum(lost, rows["student_only"])
    of_student = (lost * 0.6).round().astype(int).clip(lowest.clip(lower=0), highest)
    parts = [lost - of_student, of_flips, of_student, gained - of_flips]
    return pd.DataFrame({f"changed_{cell}": part for cell, part in zip(CELLS, parts, strict=True)})


def _measures(rows: pd.DataFrame, samples: int) -> pd.DataFrame:
    """The knowledge measures of `schemas.TRIALS`, from counts; null where a trial failed."""
    both, flips, student_only, _ = (rows[cell] for cell in CELLS)
    lost_both, gained_flips, lost_student, gained_neither = (rows[f"changed_{cell}"] for cell in CELLS)
    gained, lost = gained_flips + gained_neither, lost_both + lost_student
    before, teacher = (both + student_only) / samples, (both + flips) / samples
    after = (both + student_only + gained - lost) / samples
    of_teacher = pd.DataFrame(
        {
            "teacher_accuracy": teacher,
            "accuracy_difference": teacher - before,
            "rho_pos_before": flips / samples,
            "rho_neg_before": student_only / samples,
            "rho_pos_after": (flips - gained_flips + lost_both) / samples,
            "rho_neg_after": (student_only - lost_student + gained_neither) / samples,
            "transfer_rate": gained_flips / flips.where(flips > 0),
        }
    )
    measures = pd.DataFrame(
        {
            "student_accuracy_before": before,
            "student_accuracy_after": after,
            "transfer_delta": after - before,
            "knowledge_gain": gained / samples,
            "knowledge_loss": lost / samples,
        }
    )
    measures = measures.join(of_teacher.where(rows["teachers"].map(len) == 1))
    return measures.where(rows["status"] == "ok")


def _identity(
    rows: pd.DataFrame, models: pd.DataFrame, effects, epochs: int, samples: int, classes: int, study: str
) -> pd.DataFrame:
    """What was run. Of a failed trial's models no weights are known."""
    columns = ["trial", "status", "student", "teacher", "teachers", "combine", "order", "method", "seed"]
    table = rows[columns].assign(study=study)
    for role in ("student", "teacher"):
        for column in ("timm", "family", "parameters"):
            table[f"{role}_{column}"] = rows[role].map(models[column])
        table[f"{role}_weights"] = rows[role].map({name: _id(name) * 4 for name in models["name"]})
        table.loc[rows["status"] != "ok", [f"{role}_parameters", f"{role}_weights"]] = None
    for column in ("temperature", "weight", "slow_decay", "slow_every"):
        of_method = {name: (effect.settings or {}).get(column) for name, effect in effects.items()}
        table[column] = rows["method"].map(of_method).astype(float)
    table.loc[rows["status"] != "ok", "slow_decay"] = np.nan  # of a half-life it follows from the steps
    same = {
        "lr": 1e-4,
        "epochs": epochs,
        "batch_size": 128,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "schedule": "cosine",
        "transforms": "flip",
        "data": "image_folder",
        "data_sha256": _id(samples, classes) * 4,
        "classes": classes,
        "transfer_samples": 10 * samples,
        "evaluation_samples": samples,
        "python_version": "3.11.7",
        "torch_version": "2.13.0",
        "timm_version": "1.0.31",
        "study_version": "0.1.0",
    }
    table = table.assign(**same)
    budget = {name: same[name] for name in ("epochs", "batch_size", "momentum", "weight_decay", "schedule")}
    spec = {
        name: json.dumps(
            {"study": study, "name": name, "method": {"method": name, "lr": 1e-4}, "budget": budget}
        )
        for name in effects
    }
    return table.assign(spec=rows["method"].map(spec))


def _history(done: pd.DataFrame, epochs: int, samples: int, draw: np.random.Generator) -> pd.DataFrame:
    """Losses that fall, the teacher's share where data are partitioned, and knowledge that grows steadily.

    A row an epoch, `epochs` of them with each teacher of a sequence; none of a soup.
    """
    count = len(done)
    stages = np.where(done["combine"] == "sequential", done["teachers"].map(len), 1)
    rows = np.where(done["combine"] == "soup", 0, epochs * stages).astype(int)
    number = np.concatenate([np.arange(size) for size in [0, *rows]]).astype(int)
    stage, epoch = number // epochs, number % epochs
    partitioned = np.repeat(done["method"].str.startswith("kl_dp").to_numpy(bool), rows)
    share = np.repeat(draw.uniform(0.25, 0.4, count), rows) + 0.002 * epoch
    before = (np.repeat((done["both"] + done["student_only"]).to_numpy(), rows)) / samples
    part = (number + 1) / np.repeat(rows, rows)
    changed = {cell: np.repeat(done[f"changed_{cell}"].to_numpy(), rows) for cell in CELLS}
    gain = np.round(part * (changed["flips"] + changed["neither"])) / samples
    loss = np.round(part * (changed["both"] + changed["student_only"])) / samples
    taught = [
        names[at] if combine == "sequential" else teacher
        for names, combine, teacher, size in zip(
            done["teachers"], done["combine"], done["teacher"], rows, strict=True
        )
        for at in np.arange(size) // epochs
    ]
    return pd.DataFrame(
        {
            "trial": np.repeat(done["trial"].to_numpy(object), rows),
            "epoch": number,
            "stage": stage,
            "teacher": taught,
            "loss": np.repeat(draw.uniform(0.3, 0.6, count), rows) * (1 + np.exp(-epoch)) / 2,
            "lr": 1e-4 * (1 + np.cos(math.pi * (epoch + 1) / epochs)) / 2,
            "teacher_share": np.where(partitioned, share, np.nan),
            "seconds": np.repeat(draw.uniform(20, 60, count), rows),
            "student_accuracy": before + gain - loss,
            "knowledge_gain": gain,
            "knowledge_loss": loss,
        }
    )


def _costs(rows: pd.DataFrame, models: pd.DataFrame, history: pd.DataFrame, draw) -> pd.DataFrame:
    """Times, places and the teacher's share of a trial; null, but for the places, where it failed."""
    of_trial = history.groupby("trial").agg(train=("seconds", "sum"), share=("teacher_share", "mean"))
    train = rows["trial"].map(of_trial["train"])
    train = train.mask((rows["combine"] == "soup") & (rows["status"] == "ok"), 0.0)
    evaluate = np.where(train.notna(), 1e-7 * rows["student"].map(models["parameters"]) + 1, np.nan)
    load = np.where(train.notna(), draw.uniform(0.5, 2, len(rows)), np.nan)
    host = rows["number"] % 4
    finished = pd.Timestamp("2026-11-01", tz="UTC") + pd.to_timedelta(60 * rows["number"], unit="s")
    return pd.DataFrame(
        {
            "teacher_share": rows["trial"].map(of_trial["share"]),
            "seconds_load": load,
            "seconds_train": train,
            "seconds_evaluate": evaluate,
            "seconds": load + train + evaluate,
            "device": "NVIDIA A100-SXM4-40GB",
            "host": host.map("node-{}".format),
            "finished": finished,
        }
    )


# --- files --------------------------------------------------------------------------------------


def write(
    results: Path, sweep: Sweep, *, merged: float = 0.0, predictions: bool = True, history: bool = True
) -> Path:
    """Write a sweep's tables as it would have left them.

    Args:
        results: the folder, made where it is missing.
        sweep: as `simulate` gives it.
        merged: share of the finished trials that were merged into large files (`study.store.compaction`), the
            first by their ids; what failed never is.
        predictions, history: whether to write these tables.
    """
    records.prepare(results, schemas.TRANSFER_TABLES)
    trials = sweep.trials.sort_values("trial", ignore_index=True)
    finished = sweep.finished
    large = finished[: round(merged * len(finished))]
    for name, part in sweep.plans.groupby("study"):
        columns = part.drop(columns="study").to_dict("list")
        records.write_plan(results, "plans", str(name), columns)
    with ThreadPoolExecutor(2) as pool:
        if predictions:
            todo = [(chunk, True) for chunk in _chunks(large, len(sweep.labels))]
            todo += [([trial], False) for trial in finished[len(large) :]]

            def predict(work: tuple[list[str], bool]) -> None:
                rows = pa.concat_tables([sweep.predictions(trial) for trial in work[0]])
                _write(results, "predictions", work[0], rows, merged=work[1])

            list(pool.map(predict, todo))
        tables = {"history": sweep.history.sort_values(["trial", "epoch"])} if history else {}
        for table, frame in (tables | {"trials": trials}).items():
            rows = _table(schemas.TABLES[table], frame, len(frame))
            starts = pd.Series(np.arange(len(frame))).groupby(frame["trial"].to_numpy()).agg(["min", "size"])
            if large:
                chosen = frame["trial"].isin(set(large)).to_numpy()
                _write(results, table, large, rows.filter(pa.array(chosen)), merged=True)
            single = starts.loc[~starts.index.isin(large)]
            jobs = [(name, rows.slice(first, size)) for name, first, size in single.itertuples()]
            list(pool.map(lambda job, table=table: _write(results, table, [job[0]], job[1]), jobs))
    return results


def _chunks(trials: list[str], samples: int) -> Iterator[list[str]]:
    """As many trials together as a merged file holds."""
    size = max(1, MERGED_ROWS // samples)
    for start in range(0, len(trials), size):
        yield trials[start : start + size]


def _write(results: Path, table: str, trials: list[str], rows: pa.Table, *, merged: bool = False) -> None:
    """One file, as `records.write` and `compaction` write it but for what keeps it from being half there."""
    name = records.MERGED + _id(*trials) if merged else trials[0]
    path = results / table / f"{name}.parquet"
    size = compaction.ROW_GROUP
    pq.write_table(rows, path, compression="zstd", write_page_checksum=True, row_group_size=size)


def _table(schema: pa.Schema, columns: Mapping | pd.DataFrame, rows: int) -> pa.Table:
    """Columns by name, in the schema's types; NaN and what is not there are null."""
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        elif isinstance(values, pa.Array):
            arrays.append(values)
        elif pa.types.is_nested(field.type):
            arrays.append(pa.array(list(values), field.type))
        else:
            arrays.append(pa.array(np.asarray(values), from_pandas=True).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the results folder of a sweep that never ran.")
    parser.add_argument("results", type=Path, metavar="FOLDER")
    for name, default in [
        ("students", 8),
        ("teachers", 8),
        ("seeds", 1),
        ("samples", 10_000),
        ("classes", 100),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--failed", type=int, default=0, help="trials that failed")
    parser.add_argument("--missing", type=float, default=0.0, help="share of the trials not run yet")
    parser.add_argument("--merged", type=float, default=1.0, help="share of the trials in merged files")
    parser.add_argument("--no-predictions", action="store_true", help="leave that table out")
    options = vars(parser.parse_args())
    results, merged = options.pop("results"), options.pop("merged")
    predictions = not options.pop("no_predictions")
    sweep = simulate(**options)
    write(results, sweep, merged=merged, predictions=predictions)
    print(f"{len(sweep.trials)} of {len(sweep.plans)} trials in {results}")


if __name__ == "__main__":
    main()
