"""Flips by class against brute force in pandas; damaged, missing, merged and doubled files of predictions."""

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import flips
from analysis.results import ResultsError, load
from study.store import compaction, records, schemas
from tests.analysis import sweeps

SWEEP = sweeps.simulate(3, 3, samples=150, classes=7, failed=2, missing=0.1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep of which half the trials have been merged."""
    return sweeps.write(tmp_path_factory.mktemp("sweep") / "results", SWEEP, merged=0.5)


@pytest.fixture
def results(written, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(written, tmp_path / "results")


def brute_force(predictions):
    """`class_flips` by the definitions, from a table of predictions."""
    before, teacher, after = (
        predictions[name] == predictions["label"] for name in ("student_before", "teacher", "student_after")
    )
    found = pd.DataFrame(
        {
            "trial": predictions["trial"].astype(object),
            "class": predictions["label"],
            "samples": 1,
            "flips": teacher & ~before,
            "flips_gained": teacher & ~before & after,
            "gained": ~before & after,
            "lost": before & ~after,
        }
    )
    return found.groupby(["trial", "class"], as_index=False).sum()


def same(found, expected):
    found = found.astype({"trial": object})
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_index_type=False)


def some(trials, kind, number=0):
    """The id of a finished trial: with a teacher or, as `kind` says, without; merged ones come first."""
    finished = trials[(trials["status"] == "ok") & (trials["teacher"].isna() == (kind == "control"))]
    return finished["trial"].sort_values().iloc[number]


def single(results, number=0):
    """A file of one trial's predictions."""
    return sorted(results.glob("predictions/[0-9a-f]*.parquet"))[number]


def merged(results):
    (path,) = results.glob("predictions/merged-*.parquet")
    return path


# --- counts -------------------------------------------------------------------------------------


def test_counts_are_those_of_the_definitions(written):
    trials = load(written)
    found = flips.class_flips(written, trials)
    same(found, brute_force(pd.read_parquet(written / "predictions")))
    assert found["trial"].nunique() == (trials["status"] == "ok").sum()
    assert flips.without_predictions(found, trials) == []
    assert found["flips_gained"].sum() > 0 and found["lost"].sum() > 0


def test_a_control_has_no_flips(written):
    trials = load(written)
    found = flips.class_flips(written, trials)
    control = found[found["trial"] == some(trials, "control")]
    assert len(control) == 7 and (control["gained"].sum() > 0 or control["lost"].sum() > 0)
    assert not control[["flips", "flips_gained"]].any(axis=None)


def test_simulated_rows_are_those_of_their_predictions(written):
    """Each measure in `trials`, by its definition: the truth that other tests rely on."""
    rows = load(written).set_index("trial")
    for trial, said in pd.read_parquet(written / "predictions").groupby("trial"):
        before, teacher, after = (
            said[name] == said["label"] for name in ("student_before", "teacher", "student_after")
        )
        expected = {
            "student_accuracy_before": before.mean(),
            "student_accuracy_after": after.mean(),
            "transfer_delta": after.mean() - before.mean(),
            "knowledge_gain": (after & ~before).mean(),
            "knowledge_loss": (before & ~after).mean(),
        }
        of_teacher = {
            "teacher_accuracy": teacher.mean(),
            "accuracy_difference": teacher.mean() - before.mean(),
            "rho_pos_before": (teacher & ~before).mean(),
            "rho_neg_before": (before & ~teacher).mean(),
            "rho_pos_after": (teacher & ~after).mean(),
            "rho_neg_after": (after & ~teacher).mean(),
            "transfer_rate": after[teacher & ~before].mean(),
        }
        if pd.isna(rows.loc[trial, "teacher"]):
            of_teacher = dict.fromkeys(of_teacher, np.nan)
        expected |= of_teacher
        recorded = rows.loc[trial, list(expected)].astype(float)
        np.testing.assert_allclose(recorded, list(expected.values()), atol=1e-12, err_msg=trial)


def test_what_was_planted_is_what_is_measured():
    students, teachers = sweeps.papers("full")
    planted = sweeps.published()
    methods = ["kl", "kl_dp", "kl_dp_unsupervised"]
    trials = sweeps.simulate(students, teachers, methods=methods, samples=10_000, planted=planted).trials
    assert len(trials) == len(planted) == 96
    for row in trials.itertuples():
        assert 100 * row.transfer_delta == pytest.approx(planted[row.student, row.teacher, row.method])


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_counts_of_any_predictions(data, tmp_path_factory):
    """Several trials in one file, in row groups and batches that end anywhere."""
    classes, samples = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    said = st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples)
    parts = []
    for trial in ("aa", "bb", "cc")[: data.draw(st.integers(1, 3))]:
        columns = {name: data.draw(said) for name in ("label", "student_before", "student_after")}
        teacher = data.draw(st.none() | said) or [None] * samples
        parts.append(pd.DataFrame(columns | {"trial": trial, "teacher": pd.array(teacher, "Int32")}))
    table = pd.concat(parts, ignore_index=True)
    results = tmp_path_factory.mktemp("any")
    rows = pa.Table.from_pandas(table[flips.COLUMNS], preserve_index=False)
    (results / "predictions").mkdir()
    size = data.draw(st.integers(1, 20))
    pq.write_table(rows, results / "predictions" / "merged-0.parquet", row_group_size=size)

    trials = pd.DataFrame({"trial": table["trial"].unique(), "status": "ok"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flips, "ROWS", data.draw(st.integers(1, 20)))
        found = flips.class_flips(results, trials)
    same(found, brute_force(table.fillna({"teacher": -1})))
    assert (found["samples"] > 0).all()
    assert (found["flips_gained"] <= found[["flips", "gained"]].min(axis=1)).all()
    assert (found[["flips", "gained"]].max(axis=1) + found["lost"] <= found["samples"]).all()
    right = {
        name: (table[name] == table["label"]).groupby(table["trial"]).sum()
        for name in ("student_before", "student_after")
    }
    change = found.groupby("trial", observed=True)[["gained", "lost"]].sum()
    assert (
        (change["gained"] - change["lost"]).tolist()
        == (right["student_after"] - right["student_before"]).tolist()
    )  # fmt: skip


def test_trials_of_different_numbers_of_classes(tmp_path):
    """The second file is the first that shows a class of a larger number."""
    (tmp_path / "predictions").mkdir()
    parts = []
    for trial, labels in {"aa": [1, 0], "bb": [4, 2, 2], "cc": [0, 0]}.items():
        right = dict.fromkeys(flips.COLUMNS[1:], labels)
        part = pd.DataFrame({"trial": trial} | right | {"student_before": np.array(labels) + 1})
        part.to_parquet(tmp_path / "predictions" / f"{trial}.parquet")
        parts.append(part)
    found = flips.class_flips(tmp_path, pd.DataFrame({"trial": ["cc", "bb", "aa"], "status": "ok"}))
    same(found, brute_force(pd.concat(parts)))


def test_a_failed_trial_is_not_counted_whatever_it_left(results):
    trials = load(results)
    left = single(results)
    trials.loc[trials["trial"] == left.stem, "status"] = "failed"
    found = flips.class_flips(results, trials)
    assert left.stem not in found["trial"].tolist() and left.stem not in flips.without_predictions(
        found, trials
    )


# --- files --------------------------------------------------------------------------------------


def test_a_trial_in_two_files_counts_once(written, results):
    trials = load(written)
    expected = flips.class_flips(written, trials)
    # As when merging was stopped before the small files were removed, and as two mergings might leave it.
    again = pq.read_table(merged(results))
    for trial in again["trial"].unique().to_pylist()[:3]:
        part = again.filter(pa.compute.equal(again["trial"], trial))
        pq.write_table(part, results / "predictions" / f"{trial}.parquet")
    shutil.copy(merged(results), results / "predictions" / "merged-ff.parquet")
    assert len(list(results.glob("predictions/*"))) == len(list(written.glob("predictions/*"))) + 4
    same(flips.class_flips(results, trials), expected.astype({"trial": object}))


def test_of_two_files_the_trial_s_own_counts(written, results):
    """As `results.once` keeps the row of a trial's own file."""
    trial = pq.read_table(merged(results))["trial"][0].as_py()
    rows = SWEEP.predictions(trial)
    unchanged = rows.set_column(
        rows.schema.names.index("student_after"), "student_after", rows["student_before"]
    )
    pq.write_table(unchanged, results / "predictions" / f"{trial}.parquet")
    found = flips.class_flips(results, load(results))
    assert found.loc[found["trial"] == trial, ["gained", "lost"]].to_numpy().sum() == 0


def test_files_that_are_merged_while_they_are_read(written, results, monkeypatch):
    trials, count = load(written), flips._count_file
    calls = []

    def merging(path, **options):
        if not calls:
            calls.append(path)
            compaction.compact(results)
            assert not path.exists()
        return count(path, **options)

    monkeypatch.setattr(flips, "_count_file", merging)
    monkeypatch.setattr(flips, "cores", lambda: 1)
    found = flips.class_flips(results, trials)
    assert calls and not list(results.glob("predictions/[0-9a-f]*.parquet"))
    same(found, flips.class_flips(written, trials).astype({"trial": object}))


def test_other_trials_are_passed_over_unread(results):
    """Files of a trial's own that are not asked for may be damaged, and so may parts of merged ones."""
    single(results).write_bytes(b"nothing")
    path, ids = merged(results), SWEEP.finished
    rows = pq.read_table(path)
    pq.write_table(rows, path, row_group_size=150, write_page_checksum=True)  # a trial each
    metadata = pq.read_metadata(path)
    spoil(path, metadata.row_group(0).column(rows.schema.names.index("label")).data_page_offset + 40)
    wanted = [ids[1], ids[5], single(results, 1).stem]
    trials = load(results)
    found = flips.class_flips(results, trials[trials["trial"].isin(wanted)])
    assert found["trial"].unique().tolist() == wanted
    expected = brute_force(pd.concat([SWEEP.predictions(trial).to_pandas() for trial in wanted]))
    same(found.reset_index(drop=True), expected)
    with pytest.raises(ResultsError, match="merged-"):
        flips.class_flips(results, trials[trials["trial"] == ids[0]])


def test_missing_predictions_are_told(results):
    gone = single(results)
    gone.unlink()
    trials = load(results)
    found = flips.class_flips(results, trials)
    assert flips.without_predictions(found, trials) == [gone.stem]
    assert flips.disagreements(found, trials).empty

    shutil.rmtree(results / "predictions")
    nothing = flips.class_flips(results, trials)
    assert nothing.empty and list(nothing.columns) == list(found.columns)
    finished = trials.loc[trials["status"] == "ok", "trial"].tolist()
    assert flips.without_predictions(nothing, trials) == finished
    assert flips.disagreements(nothing, trials).empty and flips.top_class_rates(nothing).empty


def spoil(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def _one_byte(path):
    """A label becomes another one, and nothing but the page's checksum tells."""
    pq.write_table(pq.read_table(path), path, compression="none", write_page_checksum=True)
    label = pq.read_metadata(path).row_group(0).column(2)
    spoil(path, label.data_page_offset - 4)  # the last of the labels that are there, just before


def _without_teacher(path):
    pq.write_table(pq.read_table(path).drop_columns("teacher"), path)


def _with_labels(value):
    def change(path):
        rows = pq.read_table(path)
        labels = pa.array([*rows["label"].to_pylist()[:-1], value], pa.int32())
        pq.write_table(rows.set_column(2, "label", labels), path)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        _one_byte,
        _without_teacher,
        _with_labels(-1),
        _with_labels(None),
    ],
    ids=["empty", "cut", "a byte", "no column", "negative label", "null label"],
)
@pytest.mark.parametrize("which", [single, merged])
def test_a_damaged_file_is_named_in_one_sentence(results, damage, which):
    path = which(results)
    damage(path)
    with pytest.raises(ResultsError) as caught:
        flips.class_flips(results, load(results))
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable record (") and "\n" not in message
    own = results / "trials" / path.name
    assert (f"remove it and {own}" in message) == (which is single)


# --- agreement with the rows in `trials` -----------------------------------------------------------


def test_rows_that_agree_and_rows_that_do_not(written):
    trials = load(written)
    found = flips.class_flips(written, trials)
    assert flips.disagreements(found, trials).empty
    first, second = some(trials, "teacher"), some(trials, "teacher", 1)
    for column, trial in [("knowledge_gain", first), ("transfer_rate", first), ("rho_pos_before", second)]:
        trials.loc[trials["trial"] == trial, column] += 1 / 150
    named = flips.disagreements(found, trials)
    assert set(zip(named["trial"], named["measure"], strict=True)) == {
        (first, "knowledge_gain"),
        (first, "transfer_rate"),
        (second, "rho_pos_before"),
    }
    gain = named[named["measure"] == "knowledge_gain"].iloc[0]
    assert gain["recorded"] == pytest.approx(gain["counted"] + 1)


@pytest.mark.parametrize("measure", ["knowledge_loss", "transfer_delta", "evaluation_samples"])
def test_each_measure_is_compared(written, measure):
    trials = load(written)
    found = flips.class_flips(written, trials)
    chosen = trials["trial"] == some(trials, "control")
    trials[measure] = trials[measure].astype(float).where(~chosen, trials[measure] + 1)
    named = flips.disagreements(found, trials)
    assert (
        measure in named["measure"].tolist() and named["trial"].unique() == trials["trial"][chosen].tolist()
    )


def test_a_measure_that_was_not_recorded_is_not_compared(written):
    trials = load(written)
    found = flips.class_flips(written, trials)
    trials["transfer_rate"] = np.nan
    assert flips.disagreements(found, trials.drop(columns="rho_pos_before")).empty


# --- the classes that hold most --------------------------------------------------------------------


def counts(*rows):
    """A table of flips by class: for each trial triples (flips, flips gained, gained), class by class."""
    ids = [f"t{number}" for number in range(len(rows))]
    table = [(ids[n], c, 9, *counted, 0) for n, known in enumerate(rows) for c, counted in enumerate(known)]
    frame = pd.DataFrame(table, columns=["trial", "class", *flips.COUNTS])
    return frame.assign(trial=pd.Categorical(frame["trial"], categories=ids))


def test_top_classes_are_the_fewest_that_hold_a_share():
    table = counts(
        [(1, 1, 1), (4, 0, 6), (4, 2, 2), (1, 0, 0), (0, 0, 9)], [(0, 0, 5)] * 5, [(0, 0, 0), (3, 3, 3)]
    )
    rates = flips.top_class_rates(table, [0.4, 0.41, 0.8, 0.9, 1.0])
    first = rates[rates["trial"] == "t0"]
    # 4 of 10 are 40 % exactly; of equals the class with the smaller number comes first.
    assert first["classes"].tolist() == [1, 2, 2, 3, 4]
    assert first["flips"].tolist() == [4, 8, 8, 9, 10]
    assert first["flips_gained"].tolist() == [0, 2, 2, 3, 3]
    np.testing.assert_allclose(first["transfer_rate"], [0, 0.25, 0.25, 1 / 3, 0.3])
    # What is gained counts whoever knew it, but not in a class without flips; it may be more than the flips.
    assert first["gained"].tolist() == [6, 8, 8, 9, 9]
    np.testing.assert_allclose(first["gain_rate"], [1.5, 1, 1, 1, 0.9])
    assert rates["trial"].unique().tolist() == ["t0", "t2"]  # the second has no flips
    assert rates.loc[rates["trial"] == "t2", "classes"].tolist() == [1] * 5


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=8),
        max_size=5,
    )
)
def test_top_class_rates_of_any_counts(rows):
    rows = [[(max(pair), min(pair), more) for *pair, more in known] for known in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flips, "TRIALS", 2)
        found = flips.top_class_rates(counts(*rows), [0.02, 0.5, 1.0])
    expected = []
    for number, known in enumerate(rows):
        total = sum(flips_ for flips_, *_ in known)
        for share in (0.02, 0.5, 1.0) if total else ():
            held = moved = gained = size = 0
            for flips_, moved_, gained_ in sorted(known, key=lambda counted: -counted[0]):
                if held >= share * total:
                    break
                held, moved, gained, size = held + flips_, moved + moved_, gained + gained_, size + 1
            expected.append((f"t{number}", share, size, held, moved, gained, moved / held, gained / held))
    assert list(found.itertuples(index=False, name=None)) == expected


def test_all_classes_give_the_recorded_transfer_rate(written):
    trials = load(written)
    rates = flips.top_class_rates(flips.class_flips(written, trials))
    whole = rates[rates["share"] == 1.0].merge(trials, on="trial", suffixes=("", "_recorded"))
    assert len(whole) == ((trials["status"] == "ok") & trials["teacher"].notna()).sum()
    np.testing.assert_allclose(whole["transfer_rate"], whole["transfer_rate_recorded"])
    assert set(rates["share"]) == set(flips.SHARES)


# --- the simulated folders -------------------------------------------------------------------------


def test_simulated_files_have_the_library_s_schemas(written):
    written_by_a_sweep = dict(schemas.TRANSFER_TABLES)
    del written_by_a_sweep["evaluations"]  # of studies with several evaluation sets alone
    for table, schema in written_by_a_sweep.items():
        read = [pq.read_schema(path) for path in written.glob(f"{table}/*.parquet")]
        assert read and all(one.equals(schema) and one.metadata == schema.metadata for one in read)
        assert all([field.metadata for field in one] == [field.metadata for field in schema] for one in read)
    status = records.status(written, "trials")
    assert len(SWEEP.plans) > len(status) == len(SWEEP.trials)
    assert list(status.values()).count("failed") == 2
