"""Results as a data set for others: what is copied, what is not, and what the card says of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from analysis import results as analysed
from analysis.flips import class_flips
from study import spec
from study.errors import StudyError
from study.store import compaction, dataset, records, schemas
from tests.analysis import atlases, sweeps
from tests.study.store.test_records import FAILED, PREDICTIONS, ROW, write_trial

NC, APPLE, APACHE = "cc-by-nc-4.0", "apple-ascl", "apache-2.0"


@pytest.fixture(scope="module")
def sweep():
    return sweeps.simulate(3, 3, samples=200, failed=2, study="now", several=["soup", "sequential listed"])


@pytest.fixture
def folder(sweep, tmp_path):
    """Results with a sweep, half of it merged, some of it twice, another one that is former, and an atlas."""
    place = sweeps.write(tmp_path / "results", sweep, merged=0.5)
    former = sweeps.simulate(2, 2, samples=200, study="former", seed=1)
    plans = [path.read_bytes() for path in (place / "plans").iterdir()]
    sweeps.write(place, former)
    (place / "plans" / "former.parquet").unlink()
    assert [path.read_bytes() for path in (place / "plans").iterdir()] == plans
    merged = next((place / "trials").glob("merged-*"))
    for trial in pd.read_parquet(merged)["trial"][:2]:
        for table in ("trials", "predictions", "history"):
            rows = pq.read_table(next((place / table).glob("merged-*")))
            rows = rows.filter([one == trial for one in rows["trial"].to_pylist()])
            if len(rows):
                pq.write_table(rows, place / table / f"{trial}.parquet")
    return atlases.write(place, atlases.tables(atlases.simulate(4, 200, 10)))


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_each_trial_and_model_of_the_studies_is_there_once(folder, sweep, out):
    made = dataset.gather(folder, out)
    trials = pd.read_parquet(out / "trials")
    assert sorted(trials["trial"]) == sorted(sweep.trials["trial"])
    predictions = pd.read_parquet(out / "predictions")
    assert not predictions.duplicated(["trial", "index"]).any()
    assert set(predictions["trial"]) == set(sweep.finished)
    assert len(predictions) == 200 * len(sweep.finished)
    assert len(pd.read_parquet(out / "history")) == len(sweep.history)
    assert len(made.trials) == len(trials)
    assert made.former == len(sweeps.simulate(2, 2, samples=200, study="former", seed=1).trials)
    assert made.lacking == 7  # models of the atlas, of which the tests write no predictions
    assert made.rows["predictions"] == len(predictions)
    for table, rows in made.rows.items():
        assert rows == len(pd.read_parquet(out / table))
    assert set(out.rglob("*.parquet")) == set(made.files.values())


def test_the_copy_is_a_results_folder(folder, out):
    """The analysis says the same of it, and records are looked up in it."""
    dataset.gather(folder, out)
    both = [analysed.load(place, several=True).sort_values("trial") for place in (folder, out)]
    both = [table.drop(columns=["host", "spec"]).reset_index(drop=True) for table in both]
    pd.testing.assert_frame_equal(*both)
    counted = [class_flips(place, both[0]) for place in (folder, out)]
    pd.testing.assert_frame_equal(*counted)
    status = records.status(out, "trials")
    assert status == dict(zip(both[0]["trial"], both[0]["status"], strict=True))


def test_columns_are_those_of_the_records_but_for_maps(folder, out):
    dataset.gather(folder, out)
    for path in out.rglob("*.parquet"):
        table = path.parent.name
        schema = pq.read_schema(path)
        assert schema.names == schemas.TABLES[table].names
        for field, was in zip(schema, schemas.TABLES[table], strict=True):
            assert field.metadata[b"description"] == was.metadata[b"description"]
            if field.name == "measures":
                assert str(field.type) == "list<element: struct<key: string, value: double>>"
            else:
                assert field.type == was.type


def test_a_table_is_in_few_files(folder, out, monkeypatch):
    monkeypatch.setattr(compaction, "BYTES", 1 << 12)
    made = dataset.gather(folder, out)
    shards = [name for name in made.files if name.startswith("predictions/")]
    assert len(shards) > 1
    assert len(set(pd.read_parquet(out / "predictions")["trial"])) * 200 == made.rows["predictions"]


def test_records_of_another_version_get_todays_columns(folder, out):
    path = next(path for path in (folder / "trials").glob("[0-9a-f]*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.drop(["kept", "student_license"]).append_column("mood", [["good"]]), path)
    made = dataset.gather(folder, out)
    assert made.dropped == {"trials.mood"}
    assert pd.read_parquet(out / "trials").columns.tolist() == schemas.TRIALS.names


@pytest.mark.parametrize("what", ["missing", "empty", "failed"])
def test_results_without_anything_finished_are_refused(tmp_path, out, what):
    place = tmp_path / "results"
    if what != "missing":
        records.prepare(place, schemas.TABLES)
    if what == "failed":
        records.write_failure(place, "trials", "t", FAILED)
    with pytest.raises(
        StudyError, match=rf"^{place}: no finished trial or model is recorded there; give the"
    ):
        dataset.gather(place, out)


def test_a_damaged_record_is_refused(folder, out):
    path = next((folder / "predictions").glob("merged-*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match=rf"^{path}: not a readable record"):
        dataset.gather(folder, out)


def test_files_that_are_merged_meanwhile_are_told(folder, out, monkeypatch):
    files = dataset.storage.files

    def vanishing(place, suffix):
        found = files(place, suffix)
        if place.name == "predictions":
            found[0].unlink()
        return found

    monkeypatch.setattr(dataset.storage, "files", vanishing)
    with pytest.raises(StudyError, match="was merged into another file meanwhile; run this again"):
        dataset.gather(folder, out)


# --- what is nobody else's business -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/me/a.pt", "a.pt"),
        ("~/weights/a.pt", "a.pt"),
        ("s3://key:secret@bucket/x/a.pt?region=x&secret=y", "a.pt"),
        ("/home/me/a.pt: damaged (it ends early); replace it", "a.pt: damaged (it ends early); replace it"),
        ("zoo.x: the file '/a/b' is gone, see https://x.org/y.", "zoo.x: the file 'b' is gone, see y."),
        ("hfds/user/name", "hfds/user/name"),
        ("loss is nan/inf at 1/2", "loss is nan/inf at 1/2"),
        ("image_folder", "image_folder"),
    ],
)
def test_of_paths_and_urls_the_last_name_is_left(text, short):
    assert dataset.short(text) == short


def test_no_machine_folder_or_secret_is_copied(base, tmp_path, out):
    study = spec.Study.model_validate(base)
    trial = study.trials()[0]
    weights = spec.File(path="s3://key:secret@bucket/zoo/a.pt?region=x", sha256="0" * 64)
    trial = trial.model_copy(update={"student": trial.student.model_copy(update={"weights": weights})})
    row = ROW | {"host": "node-of-mine", "spec": trial.model_dump_json()}
    place = tmp_path / "results"
    records.prepare(place, schemas.TRANSFER_TABLES)
    write_trial(place, "t1", row)
    records.write_failure(place, "trials", "t2", FAILED | {"reason": f"{tmp_path}/x.beton: is gone"})
    made = dataset.gather(place, out)
    text = "".join(str(pq.read_table(path).to_pylist()) for path in out.rglob("*.parquet"))
    text += dataset.card(made, "me/x")
    for secret in ("node-of-mine", "secret", str(tmp_path), str(study.data.images.train)):
        assert secret not in text
    kept = spec.Trial.model_validate_json(made.trials[0]["spec"])
    assert kept.student.weights.path == "a.pt"
    assert kept.id == trial.model_copy(update={"data": kept.data}).id
    assert {one["reason"] for one in made.trials} == {"text", "x.beton: is gone"}


# --- the card ---------------------------------------------------------------------------------------


def test_the_card_has_a_configuration_a_table(folder, out):
    made = dataset.gather(folder, out)
    text = dataset.card(made, "me/x", license="cc-by-4.0")
    about = yaml.safe_load(text.split("---")[1])
    assert about["license"] == "cc-by-4.0"
    configs = {one["config_name"]: one for one in about["configs"]}
    assert list(configs) == [table for table in schemas.TABLES if table in made.rows]
    assert [name for name, one in configs.items() if one.get("default")] == ["trials"]
    for table, one in configs.items():
        assert [*out.glob(one["data_files"])] == [*(out / table).iterdir()]


def test_the_card_says_what_is_there(folder, sweep, out):
    made = dataset.gather(folder, out)
    text = dataset.card(made, "me/x")
    failed = (sweep.trials["status"] == "failed").sum()
    assert f"{len(sweep.finished)} finished, {failed} failed" in text
    assert "records of\ndemo, now, after" in text
    assert 'pd.read_parquet("hf://datasets/me/x/trials")' in text
    assert 'load_dataset("me/x", "trials", split="train")' in text
    assert "license:" not in text
    for part in (*sweep.trials["method"].unique(), "torch 2.13.0", "evaluated on 200"):
        assert part in text
    assert f"| `predictions` | {made.rows['predictions']:,} |" in text


def licensed(tmp_path, out, **given) -> tuple[dataset.DataSet, str]:
    place = tmp_path / "results"
    records.prepare(place, schemas.TRANSFER_TABLES)
    row = ROW | {"student": "a", "teacher": "b", "teachers": ["b"], "spec": json.dumps({})} | given
    records.write_trial(place, "t1", row, PREDICTIONS, {"epoch": [0]})
    made = dataset.gather(place, out)
    return made, dataset.card(made, "me/x")


@pytest.mark.parametrize(
    ("licenses", "noncommercial", "own"),
    [
        ((APACHE, APACHE), "", ""),
        ((APACHE, NC), "b", ""),
        ((NC, f"mit, {NC}"), "a, b", ""),
        (("fair-noncommercial-research-license", APPLE), "a", "b"),
        ((None, "mit"), "", "a"),
    ],
)
def test_the_card_names_models_that_are_not_free(tmp_path, out, licenses, noncommercial, own):
    student, teacher = licenses
    made, text = licensed(tmp_path, out, student_license=student, teacher_license=teacher)
    assert dataset.licenses(made) == {"a": student, "b": teacher}
    assert ("**This data set holds outputs of models under non-commercial terms**" in text) == bool(
        noncommercial
    )
    assert f"non-commercial terms**: {noncommercial}." in text or not noncommercial
    assert f"none that are known, have: {own}." in text or not own
    assert ("none that are known" in text) == bool(own)


def test_licences_of_several_teachers_and_of_what_is_made_here_follow_from_the_spec(tmp_path, out):
    def model(name, timm, **weights):
        return {"name": name, "timm": timm, "family": "cnn"} | ({"weights": weights} if weights else {})

    scratch = {"source": "trained", "phases": [{"epochs": 1, "lr": 1e-3, "batch_size": 8}]}
    about = {
        "student": model("a", "resnet18", **scratch),
        "teachers": [
            model("b", "convnextv2_tiny.fcmae_ft_in1k"),
            model("c", "resnet18", **scratch, start={"source": "hub"}),
            model("d", "resnet18.a1_in1k"),
            model("e", "resnet18", source="file", path="e.pt"),
        ],
    }
    names = ["b", "c", "d", "e"]
    made, _ = licensed(
        tmp_path,
        out,
        teacher=" + ".join(names),
        teachers=names,
        spec=json.dumps(about),
        student_license=None,
        teacher_license=None,
    )
    found = dataset.licenses(made)
    assert found == {"a": dataset.MADE_HERE, "b": NC, "c": APACHE, "d": APACHE, "e": None}
    assert [dataset.terms(one) for one in found.values()] == [
        *("open", "non-commercial", "open", "open", "see its terms")
    ]


def test_a_model_made_of_what_is_made_here_is_made_here():
    seed = {"weights": {"source": "seed", "seed": 0}}
    taught = {"weights": {"source": "transferred", "student": seed, "teachers": [seed]}}
    soup = {"weights": {"source": "averaged", "models": [seed, taught]}}
    assert dataset._made_here(soup)
    taught["weights"]["teachers"].append({"weights": {"source": "hub"}})
    assert not dataset._made_here(soup)


def test_an_atlas_alone_has_a_card_too(tmp_path, out):
    place = atlases.write(tmp_path / "results", atlases.tables(atlases.simulate(4, 200, 10)))
    made = dataset.gather(place, out)
    text = dataset.card(made, "me/x")
    assert "analysis/report.py hf://datasets/me/x" in text
    assert "**Trials**" not in text
    assert yaml.safe_load(text.split("---")[1])["configs"][0]["config_name"] == "models"
    assert replace(made, models=[]).trials == []
