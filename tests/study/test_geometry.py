"""Projections and distances before the last layer, against bases and loops written out, in timm networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from study import atlas, geometry, spec, transfer
from study.errors import StudyError
from study.models.timm_import import timm
from study.store import records, schemas
from tests.study.trials import TIMINGS, assert_same, changed, elsewhere, trial_of

SMALL = {
    "resnet10t": {"stem_width": 8, "channels": [8, 8, 16, 16]},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2)},
}
NAMES = ("class3", "class1", "class7")
ASKED = spec.Geometry(planes=(NAMES,), samples=5)


def network_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=6, **SMALL[name]).eval()
    torch.nn.init.normal_(network.get_classifier().weight)  # heads begin at zero in some
    torch.nn.init.normal_(network.get_classifier().bias)
    return network


def said(network: torch.nn.Module, samples: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and what the head is given."""
    seen = []
    hook = network.get_classifier().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        logits = network(torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    hook.remove()
    return logits, seen[0]


def drawn(samples: int = 90, classes: int = 4, dim: int = 5, seed: int = 0):
    """Features, labels and a head that has nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    features = torch.randn(samples, dim, generator=generator) + 3 * labels[:, None]
    weight = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return features, labels, geometry.Templates(weight, torch.arange(classes, dtype=torch.float64))


# --- the plane of three classes -----------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_the_projection_of_logits_is_that_of_features(name):
    """Gram and Schmidt's basis written out, and features with a 1 appended."""
    network = network_of(name)
    logits, features = said(network)
    head = geometry.templates(network)
    assert geometry.fits(head, features, logits)
    a, b, c = head.points[[4, 0, 2]]
    first = (b - a) / (b - a).norm()
    second = (c - a) - first * ((c - a) @ first)
    second = second / second.norm()
    x = torch.cat((features.double(), torch.ones(8, 1)), dim=1)
    expected = torch.stack((x @ first, x @ second), dim=1)
    found = geometry.project(logits, (4, 0, 2), geometry.plane(head, (4, 0, 2)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1}),
        ("levit_128s", {}),  # two heads, each after a normalisation
        ("dla46_c", {}),  # a convolution
        ("resnet10t", {"num_classes": 0}),
    ],
)
def test_networks_without_one_linear_layer_have_no_geometry(name, kwargs):
    assert geometry.templates(timm.create_model(name, **kwargs)) is None


def test_logits_that_are_more_than_the_last_layers_are_found_out():
    network = network_of("resnet10t")
    logits, features = said(network)
    head = geometry.templates(network)
    assert geometry.fits(head, features.half(), logits.half())
    assert geometry.fits(head, features.bfloat16(), logits.bfloat16())
    for other in (logits + logits.roll(1, 0), 1.1 * logits, logits.flip(1)):
        assert not geometry.fits(head, features, other)
    assert not geometry.fits(head, features[:, :-1], logits)


def test_templates_on_a_line_span_no_plane():
    weight = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    head = geometry.Templates(weight, torch.zeros(4, dtype=torch.float64))
    assert geometry.plane(head, (0, 1, 2)) is None
    assert geometry.plane(geometry.Templates(0 * weight, head.bias), (0, 1, 2)) is None
    assert geometry.plane(head, (0, 1, 3)) is not None


def test_the_classes_that_are_told_apart_have_the_templates(study_model):
    head = geometry.of(study_model)
    study_model.chosen = torch.tensor([3, 0])
    chosen = geometry.of(study_model)
    study_model.chosen = None
    torch.testing.assert_close(chosen.points, head.points[[3, 0]])


@pytest.fixture
def study_model(workspace, base):
    return workspace.load(spec.Study.model_validate(base).zoo["mixer"])


# --- class means --------------------------------------------------------------------------------


def test_distances_are_those_of_loops():
    features, labels, head = drawn()
    found = geometry.centres(features, labels, head)
    x, y = features.double().numpy(), labels.numpy()
    points = head.points.numpy()
    mean = np.stack([x[y == c].mean(0) for c in range(4)])
    radius = [np.sqrt(np.square(x[y == c] - mean[c]).sum(1).mean()) for c in range(4)]
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    every = {(a, b): np.linalg.norm(mean[a] - mean[b]) for a, b in pairs}
    np.testing.assert_allclose(found.radius, radius)
    for (a, b), distance in every.items():
        assert found.distance[a, b] == pytest.approx(distance)
        assert found.relative[a, b] == pytest.approx(distance / np.mean([*every.values()]))
        spread = np.sqrt((radius[a] ** 2 + radius[b] ** 2) / 2)
        assert found.separation[a, b] == pytest.approx(distance / spread)
        to = [np.linalg.norm(np.append(row, 1) - points[b]) for row in x[y == a]]
        assert found.equidistance[a, b] == pytest.approx(np.std(to) / np.mean(to))
    rows = geometry.of_classes(found)
    for c in range(4):
        others = {b: every[c, b] for b in range(4) if b != c}
        assert rows["nearest"][c] == min(others, key=others.get)
        assert rows["nearest_distance"][c] == pytest.approx(min(others.values()))
        assert rows["mean_distance"][c] == pytest.approx(np.mean([*others.values()]))


def test_relative_distances_do_not_see_scale_nor_separation_a_turn():
    features, labels, head = drawn()
    found = geometry.centres(features, labels, head)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3)))
    again = geometry.centres(7 * features @ turn + 2, labels, head)
    torch.testing.assert_close(again.relative, found.relative, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.separation, found.separation, rtol=1e-5, atol=1e-6)


def test_all_pairs_are_listed_or_of_many_classes_the_nearest():
    features, labels, head = drawn()
    found = geometry.centres(features[labels != 2], labels[labels != 2], head)
    rows = pd.DataFrame(geometry.distances(found, "evaluation"))
    assert sorted(zip(rows["class"], rows["other"], strict=True)) == [
        (a, b) for a in (0, 1, 3) for b in (0, 1, 3) if a != b
    ]
    own = rows[(rows["class"] == 0) & (rows["other"] == 3)]["equidistance"].item()
    assert own == pytest.approx(float(found.equidistance[0, 3]))  # to templates of all classes
    features, labels, head = drawn(1200, 110)
    found = geometry.centres(features, labels, head)
    rows = pd.DataFrame(geometry.distances(found, "evaluation"))
    assert set(rows.groupby("class").size()) == {20}
    for row, label in enumerate(found.classes.tolist()):
        nearest = rows[rows["class"] == label]
        expected = found.classes[found.distance[row].argsort()[1:21]]
        assert nearest["other"].tolist() == expected.tolist()
        assert nearest["distance"].is_monotonic_increasing


# --- what a study asks for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("geometry_of", "words"),
    [
        ({"planes": [["a", "b", "a"]]}, "three different classes"),
        ({"planes": [["a", "b"]]}, "planes"),
        ({"samples": 0}, "samples"),
    ],
)
def test_planes_that_are_none_are_refused(base, geometry_of, words):
    with pytest.raises(ValidationError, match=words):
        spec.Study.model_validate(base | {"geometry": geometry_of})


def test_a_class_that_is_not_there_is_told_with_the_nearest():
    asked = spec.Geometry(planes=(("Shirt", "Ankle_boot", "Coat"), ("Shirt", "Cot", "Bag")))
    classes = ["Shirt", "Coat", "Bag", "Ankle_boot"]
    with pytest.raises(
        StudyError, match=r"geometry\.planes\.1: there is no class 'Cot'; did you mean 'Coat'"
    ):
        geometry.classes_of(asked, classes)
    readable = spec.Geometry(planes=(("Shirt", "Ankle boot", "Coat"),))
    assert geometry.classes_of(readable, classes) == [(0, 3, 1)]


def test_the_geometry_changes_no_id_and_no_record(study, workspace):
    plain = trial_of(study, "kl")
    asked = changed(plain, geometry=ASKED)
    assert asked.id == plain.id and asked.model_dump_json() == plain.model_dump_json()
    first, second = (transfer.run(trial, workspace) for trial in (plain, asked))
    assert_same(first, second)
    assert first.places == {} and second.places.keys() == schemas.GEOMETRY_TABLES.keys()
    with_key = spec.Study.model_validate(study.model_dump() | {"geometry": ASKED.model_dump()})
    assert [trial.geometry for trial in with_key.trials()] == [ASKED] * len(study.trials())


@pytest.fixture
def study(base) -> spec.Study:
    return spec.Study.model_validate(base)


def test_a_trial_records_where_its_students_classes_lie(study, workspace, tmp_path):
    trial = changed(trial_of(study, "kl"), geometry=ASKED)
    found = transfer.run(trial, workspace)
    records.prepare(tmp_path, [*schemas.TRANSFER_TABLES, *schemas.GEOMETRY_TABLES])
    tables = (found.predictions, found.history, found.evaluations)
    records.write_trial(tmp_path, trial.id, found.row, *tables, **found.places)
    distances = pd.read_parquet(tmp_path / "centres")
    assert len(distances) == 90 and set(distances["id"]) == {trial.id}
    assert distances["relative_distance"].mean() == pytest.approx(1)
    points = pd.read_parquet(tmp_path / "projections")
    assert points.groupby("class").size().to_dict() == {3: 5, 1: 5, 7: 5}
    assert set(points["plane"]) == {"class3 + class1 + class7"}
    labels = workspace.images.labels
    assert (labels[points["index"]] == points["class"]).all()
    head, loader = geometry.of(found.student), workspace.pixels(found.student.input, "evaluation")
    pixels = {int(i): p.clone() for p, _, i in loader.epoch(workspace.splits["evaluation"], 1)}
    with torch.no_grad():
        logits = torch.cat([found.student(pixels[i]) for i in points["index"]])
    expected = geometry.project(logits, (3, 1, 7), geometry.plane(head, (3, 1, 7)))
    np.testing.assert_allclose(points[["x", "y"]], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("top_k", [None, 3])
def test_an_atlas_records_where_a_models_classes_lie(study, workspace, tmp_path, top_k):
    place = elsewhere(workspace, tmp_path / "outputs", top_k=top_k)
    model = study.zoo["resnet"]
    plain = atlas.run(model, place, "evaluation")
    found = atlas.run(model, place, "evaluation", places=ASKED)
    assert "centres" not in plain.tables and plain.row["penultimate"] == found.row["penultimate"] == 16
    timed = TIMINGS | {"outputs"}
    assert {k: v for k, v in found.row.items() if k not in timed} == pytest.approx(
        {k: v for k, v in plain.row.items() if k not in timed}
    )
    rows = pd.DataFrame(found.tables["centres"])
    assert rows.groupby("split").size().to_dict() == {"evaluation": 90, "transfer": 90}
    classifier = place.load(model)
    kept = place.outputs(classifier, "evaluation", top_k=top_k, features=True)
    head, labels = geometry.of(classifier), torch.from_numpy(place.labels("evaluation"))
    centres = geometry.centres(kept.features, labels, head)
    own = rows[(rows["split"] == "evaluation") & (rows["class"] == 2) & (rows["other"] == 5)]
    assert own["separation"].item() == pytest.approx(float(centres.separation[2, 5]))
    assert len(found.tables["projections"]["x"]) == 2 * 15
    if top_k is None:
        assert found.tables["model_classes"]["radius"][:10] == pytest.approx(centres.radius.tolist())


def test_a_model_without_one_linear_layer_is_told_in_a_sentence(study, workspace, monkeypatch):
    monkeypatch.setattr(geometry, "templates", lambda network: None)
    found = atlas.run(study.zoo["resnet"], workspace, "transfer", places=ASKED)
    assert found.notice == "its logits are not those of one linear layer, so no geometry is recorded of it"
    assert "centres" not in found.tables and found.row["penultimate"] is None
    trial = changed(trial_of(study, "kl"), geometry=ASKED)
    assert transfer.run(trial, workspace).places == {}
    assert geometry.is_without(study.zoo["mixer"], 10)
    monkeypatch.undo()
    assert not geometry.is_without(study.zoo["mixer"], 10)
    monkeypatch.setattr(geometry, "fits", lambda *given: False)  # one layer, but more than that
    found = dataclasses.asdict(atlas.run(study.zoo["resnet"], workspace, "transfer", places=ASKED))
    assert found["notice"] == geometry.NONE and "centres" not in found["tables"]
