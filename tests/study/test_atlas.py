"""The atlas: which models it consists of, what is recorded of one, and of every ordered pair."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from study import atlas, evaluate, knowledge, spec, spread
from study.errors import StudyError
from study.models import zoo
from study.models.timm_import import timm
from study.store import digest, records, schemas
from study.workspace import Workspace
from tests.study.trials import elsewhere


@pytest.fixture
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


# --- which models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (None, ["mixer", "resnet"]),
        (["resnet"], ["resnet"]),
        (["*r*", "mixer"], ["mixer", "resnet"]),
        (["[rm]*"], ["mixer", "resnet"]),
    ],
)
def test_patterns_are_of_the_studys_zoo_first(study, patterns, names):
    assert atlas.select(study, patterns) == [study.zoo[name] for name in names]


def test_patterns_are_of_timms_pretrained_models_else(study):
    chosen = atlas.select(study, ["resnet18.*_in1k", "mixer", "mixer_b16*"])
    names = [model.name for model in chosen]
    assert "resnet18.a1_in1k" in names
    assert names.count("mixer") == 1
    by_name = {model.name: model for model in chosen}
    assert by_name["mixer"] is study.zoo["mixer"]
    assert (by_name["resnet18.a1_in1k"].source, by_name["resnet18.a1_in1k"].family) == ("hub", "cnn")
    assert by_name["mixer_b16_224.goog_in21k_ft_in1k"].family == "mlp"


def test_all_is_all_that_timm_has_weights_for(study):
    chosen = atlas.select(study, ["all"])
    assert [model.timm for model in chosen] == timm.list_pretrained()
    assert len(chosen) > 1500


def test_a_pattern_that_matches_nothing_is_told_with_the_nearest(study):
    with pytest.raises(StudyError, match=r"--models: 'resnt' matches no model .*; did you mean 'resnet'"):
        atlas.select(study, ["mixer", "resnt"])


def test_untrained_copies_of_the_first_of_each_family(study):
    later = study.zoo["mixer"].model_copy(update={"name": "later"})
    blank = atlas.untrained([study.zoo["mixer"], study.zoo["resnet"], later])
    assert [model.name for model in blank] == [
        f"{name}-untrained-{seed}" for name in ("mixer", "resnet") for seed in (0, 1, 2)
    ]
    assert [model.weights.seed for model in blank] == [0, 1, 2, 0, 1, 2]
    assert {model.source for model in blank} == {"seed"}
    assert zoo.build(blank[0], 10)
    assert atlas.untrained(blank) == []


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("evaluatoin", r"there is no 'evaluatoin'; did you mean 'evaluation'\? \(zoo, tune, fit, transfer"),
        ("tune", r"'tune' holds no images; set data\.splits\.tune"),
    ],
)
def test_a_split_that_cannot_be_run_is_told(study, split, words):
    with pytest.raises(StudyError, match=words):
        atlas.check_split(study, split)
    for good in ("zoo", "transfer", "evaluation"):
        atlas.check_split(study, good)


def test_the_id_sees_all_that_changes_what_a_model_says(study, tmp_path):
    model, data = study.zoo["mixer"], study.data
    ids = {atlas.id_of(model, data, "evaluation"), atlas.id_of(model, data, "transfer")}
    ids.add(atlas.id_of(model.model_copy(update={"config": {}}), data, "evaluation"))
    ids.add(atlas.id_of(model, data.model_copy(update={"splits": spec.Splits(transfer=50)}), "evaluation"))
    for number in (1, 2):
        path = tmp_path / f"{number}.pt"
        path.write_text(f"weights {number}")
        moved = path.rename(tmp_path / f"moved{number}.pt")
        for place in (path, moved):  # what is in a file counts, not where it lies
            at = spec.File(path=str(place), sha256=digest.of_file(moved))
            ids.add(atlas.id_of(model.model_copy(update={"weights": at}), data, "evaluation"))
    ids |= {atlas.id_of(copy, data, "evaluation") for copy in atlas.untrained([model])}
    assert len(ids) == 9


# --- a model ------------------------------------------------------------------------------------


def test_the_record_of_a_model_is_what_it_says_of_the_images(study, workspace):
    record = atlas.run(study.zoo["resnet"], workspace, "transfer")
    classifier = workspace.load(study.zoo["resnet"])
    samples = workspace.splits["transfer"]
    said = evaluate.predict(
        classifier, workspace.batches(classifier.crop), samples, workspace.device, "float32"
    )
    right = said.label == workspace.images.labels[samples]
    assert record.row["accuracy"] == pytest.approx(right.mean())
    assert np.array_equal(record.predictions["predicted"], said.label)
    assert np.array_equal(record.predictions["index"], samples)
    assert record.row["samples"] == 100
    assert record.row["published_accuracy"] is None
    assert record.row["license"] is None
    outputs = workspace.outputs(classifier, "transfer", top_k=workspace.top_k)
    top5 = outputs.logits.topk(5).indices.numpy() == workspace.images.labels[samples][:, None]
    assert record.row["top5_accuracy"] == pytest.approx(top5.any(1).mean())
    assert record.row["top5_accuracy"] > record.row["accuracy"]


@pytest.mark.parametrize(
    "key", [("resnet18.a1_in1k", 28), ("resnet18.a1_in1k", 224), ("resnet18.a2_in1k", 28)]
)
def test_a_published_accuracy_counts_at_the_models_own_input_size(study, workspace, monkeypatch, key):
    """The hub is out of reach: an untrained network stands in for the weights it would give."""
    config = study.zoo["resnet"].config
    model = spec.Model(
        name="r", timm="resnet18.a1_in1k", family="cnn", config=config, kwargs={"num_classes": 10}
    )
    blank = model.model_copy(update={"weights": spec.Random(seed=0)})
    load = Workspace.load
    monkeypatch.setattr(Workspace, "load", lambda place, _: load(place, blank))
    record = atlas.run(model, workspace, "transfer", published={key: 0.7})
    counts = key == ("resnet18.a1_in1k", 28)
    assert record.row["published_accuracy"] == (0.7 if counts else None)
    assert ("timm publishes 70.00 %" in record.notice) == counts
    accuracy = record.row["accuracy"]
    near = atlas.run(model, workspace, "transfer", published={key: accuracy + 0.004})
    assert near.notice == ""
    own = atlas.run(blank, workspace, "transfer", published={key: 0.7})
    assert own.row["published_accuracy"] is None  # timm's figure is of timm's weights


@pytest.mark.parametrize(
    ("timm_name", "number"), [("resnet18.a1_in1k", 1000), ("vit_small_patch14_dinov2", 0)]
)
def test_other_classes_are_refused_before_weights_are_fetched(workspace, timm_name, number):
    """A network without a head would be given a random one."""
    model = spec.Model(name="r", timm=timm_name, family="cnn")
    with pytest.raises(StudyError, match=rf"zoo\.r: tells {number} classes apart, but the data have 10"):
        atlas.run(model, workspace, "transfer")
    for patterns in (None, ["mixer", "r"]):
        with pytest.raises(StudyError, match=r"zoo\.r: tells"):
            atlas.check_models([model], patterns, 10)
    atlas.check_models([model], ["mixer", "r*"], 10)  # recorded as failed when it is its turn


def test_an_untrained_model_is_recorded_as_such_and_is_no_student(study, workspace, tmp_path):
    records.prepare(tmp_path, schemas.ATLAS_TABLES)
    blank = atlas.untrained([study.zoo["mixer"]])[0]
    models = [study.zoo["mixer"], blank]
    for model in models:
        outcome = atlas.run(model, workspace, "evaluation")
        records.write_model(tmp_path, model.name, outcome.row, outcome.predictions)
    rows = pq.read_table(tmp_path / "models").to_pylist()
    assert {row["name"]: row["source"] for row in rows} == {"mixer": "trained", "mixer-untrained-0": "seed"}
    assert spec.Model.model_validate_json(rows[0]["spec"]) in models
    names = [model.name for model in models]
    predicted, labels = atlas.read_predictions(tmp_path, names, 10)
    trained = np.array([model.source != "seed" for model in models])
    pairs, _ = atlas.compare(names, trained, predicted, labels, 10)
    assert (list(pairs["student"]), list(pairs["teacher"])) == (["mixer"], ["mixer-untrained-0"])
    failed = atlas.failure(blank, workspace, "evaluation", "because")
    assert (failed["source"], failed["reason"]) == ("seed", "because")


def recorded(place: Workspace, models, results) -> list[str]:
    """Run models and record them; gives their ids."""
    records.prepare(results, schemas.ATLAS_TABLES)
    ids = [atlas.id_of(model, place.data, "evaluation") for model in models]
    for name, model in zip(ids, models, strict=True):
        found = atlas.run(model, place, "evaluation")
        records.write_model(results, name, found.row, found.predictions, **found.tables)
    return ids


def test_a_model_is_measured_on_the_split_and_on_what_students_learn_from(study, workspace, tmp_path):
    model = study.zoo["resnet"]
    (name,) = recorded(workspace, [model], tmp_path)
    (row,) = records.read(tmp_path, "models", name).to_pylist()
    for prefix, split in (("", "evaluation"), ("transfer_", "transfer")):
        logits = workspace.outputs(workspace.load(model), split).logits
        sums = spread.class_sums([logits], torch.from_numpy(workspace.labels(split)), 10)
        assert row[f"{prefix}intra_class_variance"] == pytest.approx(spread.intra_class_variance(sums))
        assert row[f"{prefix}entropy"] == pytest.approx(sums.overall("entropy"))
    assert row["transfer_accuracy"] == workspace.accuracy(workspace.load(model), "transfer")
    assert (row["label_smoothing"], row["label_smoothing_source"]) == (0, "recipe")
    assert row["twin"] == model.twin
    classes = pd.read_parquet(tmp_path / "model_classes")
    assert classes.groupby("split")["samples"].sum().to_dict() == {"evaluation": 303, "transfer": 100}
    soft = pd.read_parquet(tmp_path / "soft_labels")
    assert set(soft["id"]) == {name}
    assert soft.groupby(["split", "class"])["probability"].sum().to_numpy() == pytest.approx(1)


def test_a_transfer_set_larger_than_the_split_is_not_asked_about(workspace, study):
    sizes = {"evaluation": np.arange(50), "transfer": np.arange(51)}
    assert not atlas.on_transfer(sizes, "evaluation")
    assert atlas.on_transfer(sizes | {"transfer": np.arange(50)}, "evaluation")
    assert not atlas.on_transfer(sizes, "transfer")
    assert not atlas.on_transfer(sizes | {"transfer": np.arange(0)}, "evaluation")  # of another set
    row = atlas.run(study.zoo["resnet"], workspace, "transfer").row
    assert "transfer_entropy" not in row and row["entropy"] > 0


# What earlier versions did not record of models.
BEGIN, END = (schemas.MODELS.names.index(name) for name in ("label_smoothing", "outputs"))
NEW = set(schemas.MODELS.names[BEGIN:END])


def earlier(results, name: str) -> dict:
    """Make the record one of an earlier version, without what is measured now; gives what it was."""
    path = results / "models" / f"{name}.parquet"
    table = pq.read_table(path)
    new = [column for column in table.column_names if column in NEW]
    pq.write_table(table.drop_columns(new), path)
    for other in ("model_classes", "soft_labels"):
        (results / other / f"{name}.parquet").unlink()
    return table.to_pylist()[0]


def test_a_model_recorded_by_an_earlier_version_is_measured_without_running_it(
    study, workspace, tmp_path, monkeypatch
):
    place = elsewhere(workspace, tmp_path / "outputs")
    results = tmp_path / "results"
    names = recorded(place, study.zoo.values(), results)
    before = [earlier(results, name) for name in names]
    monkeypatch.setattr(Workspace, "load", None)
    assert [atlas.measure(results, name, place.store) for name in names] == ["measured"] * 2
    assert [atlas.measure(results, name, place.store) for name in names] == ["known"] * 2
    for name, row in zip(names, before, strict=True):
        (now,) = records.read(results, "models", name).to_pylist()
        unknown = {column for column in row if column.startswith("transfer_")} | {"penultimate"}
        assert now == row | dict.fromkeys(unknown)
        classes = records.read(results, "model_classes", name).to_pandas()
        assert (classes["split"] == "evaluation").all() and classes["samples"].sum() == 303


def test_outputs_that_are_gone_or_of_another_model_are_told(study, workspace, tmp_path):
    place = elsewhere(workspace, tmp_path / "outputs")
    names = recorded(place, study.zoo.values(), tmp_path)
    rows = [earlier(tmp_path, name) for name in names]
    swapped = {column: [value] for column, value in rows[0].items() if column not in NEW}
    records.write(tmp_path, "models", names[0], swapped | {"outputs": [rows[1]["outputs"]]})
    with pytest.raises(StudyError, match=rf"{names[0]}\.parquet: its outputs are not those"):
        atlas.measure(tmp_path, names[0], place.store)
    place.store.clear(place.store.entries())
    assert atlas.measure(tmp_path, names[1], place.store) == "gone"


# --- all pairs ----------------------------------------------------------------------------------


def zoo_of(models: int, samples: int, classes: int):
    draw = np.random.default_rng(models)
    labels = draw.integers(classes, size=samples)
    wrong = draw.integers(classes, size=(models, samples))
    return np.where(draw.random((models, samples)) < 0.7, labels, wrong), labels


def test_every_ordered_pair_once_by_brute_force():
    predicted, labels = zoo_of(5, 400, 6)
    trained = np.array([True, True, False, True, True])
    names = list("abcde")
    pairs, classes = atlas.compare(names, trained, predicted, labels, 6)
    found = list(zip(pairs["student"], pairs["teacher"], strict=True))
    assert found == [(s, t) for s in "abde" for t in "abcde" if s != t]
    flips = {}
    for row, (student, teacher) in enumerate(found):
        s, t = predicted[names.index(student)], predicted[names.index(teacher)]
        right_s, right_t = s == labels, t == labels
        assert pairs["rho_pos"][row] == pytest.approx(knowledge.rho_pos(right_s, right_t))
        assert pairs["rho_neg"][row] == pytest.approx(knowledge.rho_neg(right_s, right_t))
        difference = knowledge.accuracy_difference(right_s, right_t)
        assert pairs["accuracy_difference"][row] == pytest.approx(difference)
        assert pairs["agreement"][row] == pytest.approx((s == t).mean())
        same = (right_s == right_t).mean()
        chance = right_s.mean() * right_t.mean() + (1 - right_s.mean()) * (1 - right_t.mean())
        assert pairs["error_consistency"][row] == pytest.approx((same - chance) / (1 - chance))
        counts = np.bincount(labels[right_t & ~right_s], minlength=6)
        share = counts[counts > 0] / counts.sum()
        assert pairs["flip_entropy"][row] == pytest.approx(-(share * np.log(share)).sum() / np.log(6))
        flips[student, teacher] = counts
    assert set(pairs["samples"]) == {400}
    listed = list(zip(classes["student"], classes["teacher"], classes["class"], strict=True))
    assert listed == [(s, t, c) for s, t in found if t != "c" for c in range(6)]
    for (student, teacher, label), count in zip(listed, classes["flips"], strict=True):
        assert count == flips[student, teacher][label]
    assert classes["samples"].tolist() == np.bincount(labels, minlength=6).tolist() * 12


def test_classes_are_counted_for_as_many_pairs_as_the_paper_drew():
    predicted, labels = zoo_of(30, 50, 3)
    names = [f"m{number}" for number in range(30)]
    pairs, classes = atlas.compare(names, np.ones(30, bool), predicted, labels, 3)
    assert len(pairs["student"]) == 30 * 29
    chosen = set(zip(classes["student"], classes["teacher"], strict=True))
    assert len(chosen) == 466
    assert len(classes["flips"]) == 3 * 466
    again = atlas.compare(names, np.ones(30, bool), predicted, labels, 3)[1]
    assert all(np.array_equal(classes[name], again[name]) for name in classes)


def test_pairs_are_written_and_read_as_categories(tmp_path):
    predicted, labels = zoo_of(3, 20, 3)
    predicted[1] = predicted[0]  # no flips between these two: their entropy is null, not NaN
    pairs, classes = atlas.compare(list("abc"), np.ones(3, bool), predicted, labels, 3)
    records.prepare(tmp_path, schemas.ATLAS_TABLES)
    for table, columns in (("pairs", pairs), ("pair_classes", classes)):
        records.write(tmp_path, table, "small", columns)
        read = pq.read_table(tmp_path / table / "small.parquet")
        assert read.schema.equals(schemas.TABLES[table])
        assert read["student"].to_pylist() == list(columns["student"])
    assert pq.read_table(tmp_path / "pairs")["flip_entropy"].null_count == 2


# --- from the records ---------------------------------------------------------------------------


def write_predictions(results, name, predicted, labels, index=None):
    index = np.arange(len(labels)) if index is None else index
    columns = {"index": index, "label": labels, "predicted": predicted, "confidence": [0.5] * len(labels)}
    records.write(results, "model_predictions", name, columns)


@pytest.mark.parametrize(("classes", "kind"), [(10, np.int8), (1000, np.int16), (40_000, np.int32)])
def test_predictions_come_back_in_the_smallest_integers(tmp_path, classes, kind):
    records.prepare(tmp_path, schemas.ATLAS_TABLES)
    predicted, labels = zoo_of(3, 500, classes)
    labels[0] = classes - 1
    for name, said in zip("abc", predicted, strict=True):
        write_predictions(tmp_path, name, said, labels)
    got, true = atlas.read_predictions(tmp_path, ["c", "a"], classes)
    assert np.array_equal(got, predicted[[2, 0]])
    assert np.array_equal(true, labels)
    assert got.dtype == true.dtype == kind


def test_predictions_of_other_samples_are_not_mixed(tmp_path):
    records.prepare(tmp_path, schemas.ATLAS_TABLES)
    predicted, labels = zoo_of(2, 10, 3)
    write_predictions(tmp_path, "a", predicted[0], labels)
    write_predictions(tmp_path, "b", predicted[1], labels, index=np.arange(10, 20))
    with pytest.raises(StudyError, match=r"b\.parquet: of other samples"):
        atlas.read_predictions(tmp_path, ["a", "b"], 3)


@pytest.mark.parametrize("damage", ["missing", "truncated", "a bit flipped"])
def test_a_damaged_record_is_told_with_the_remedy(tmp_path, damage):
    records.prepare(tmp_path, schemas.ATLAS_TABLES)
    predicted, labels = zoo_of(2, 10, 3)
    for name, said in zip("ab", predicted, strict=True):
        write_predictions(tmp_path, name, said, labels)
    path = tmp_path / "model_predictions" / "b.parquet"
    content = path.read_bytes()
    chunk = (
        pq.ParquetFile(path).metadata.row_group(0).column(schemas.MODEL_PREDICTIONS.names.index("predicted"))
    )
    place = chunk.dictionary_page_offset + chunk.total_compressed_size - 1  # the last of its values
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:60] if damage == "truncated" else flipped)
    with pytest.raises(StudyError, match=r"model_predictions/b\.parquet: not a readable record .* remove"):
        atlas.read_predictions(tmp_path, ["a", "b"], 3)


# --- by probabilities ---------------------------------------------------------------------------


def test_pairs_are_compared_by_the_probabilities_that_were_kept(study, workspace, tmp_path):
    """By hand, from the logits of two models; nothing where few classes are kept, or a file is gone."""
    place = elsewhere(workspace, tmp_path / "outputs")
    models = [*study.zoo.values(), *atlas.untrained(study.zoo.values())][:3]
    ids = recorded(place, models, tmp_path / "results")
    probabilities = atlas.read_probabilities(tmp_path / "results", ids, place.store)
    labels = place.labels("evaluation").astype(np.int8)
    soft = atlas.soft_measures(probabilities, labels, 10)
    said = [
        place.outputs(place.load(model), "evaluation").logits.float().softmax(1).numpy() for model in models
    ]
    for one, other in ((0, 1), (0, 2), (2, 1)):
        together = ((said[one] + said[other]) / 2).argmax(1)
        assert soft["ensemble_accuracy"][one, other] == pytest.approx((together == labels).mean())
        p, q = (of[np.arange(len(labels)), labels].mean() for of in (said[one], said[other]))
        expected = p * q + (1 - p) * (1 - q) / 9
        value = ((said[one] * said[other]).sum(1).mean() - expected) / (1 - expected)
        assert soft["kappa_p"][one, other] == pytest.approx(value, abs=1e-5)
    assert list(atlas.soft_measures(probabilities, labels, 10**11)) == []

    few = place.outputs(place.load(models[0]), "evaluation", top_k=3).header["key"]
    row = pd.read_parquet(tmp_path / "results" / "models" / f"{ids[0]}.parquet").assign(outputs=few)
    records.write(tmp_path / "results", "models", ids[0], row.to_dict("list"))
    assert atlas.read_probabilities(tmp_path / "results", ids, place.store) is None
    place.store.clear(place.store.entries())
    assert atlas.read_probabilities(tmp_path / "results", ids[1:], place.store) is None
