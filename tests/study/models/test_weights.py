"""Weights: by their content, whole or not at all, and never read amiss."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch

from study import derivation, spec
from study.errors import StudyError
from study.models import weights, zoo
from study.models.timm_import import timm
from study.store import digest
from tests.conftest import LOOK

SEEDED = {"source": "seed", "seed": 0}
TRAINED = {"source": "trained", "phases": [{"epochs": 1, "lr": 0.1}]}
DATA = spec.Data.model_validate({"images": {"source": "fashion_mnist"}, "splits": {"transfer": 1}})
PIXELS = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def small(**settings) -> spec.Model:
    """A model of initial weights, but for what is said."""
    fields = {"name": "m", "timm": "tiny_mixer", "family": "mlp", "config": LOOK, "weights": SEEDED}
    return spec.Model.model_validate(fields | settings)


def of_file(path, **settings) -> spec.Model:
    return small(weights={"source": "file", "path": str(path)}, **settings)


def load(model, folder):
    return weights.load(model, DATA, 10, spec.Folders(zoo=folder))


def study_of(**models) -> spec.Study:
    """A study whose zoo has some models and one beside them."""
    content = {
        "name": "small",
        "data": DATA.model_dump(),
        "zoo": {"beside": {"timm": "tiny_mixer", "family": "mlp"}, **models},
        "pairs": "all",
        "methods": {"kl": {"lr": 0.1}},
        "budget": {"epochs": 1, "batch_size": 8},
    }
    return spec.Study.model_validate(content)


# --- loading ------------------------------------------------------------------------------------


def test_initial_weights_are_a_seeds(tmp_path):
    before = torch.random.get_rng_state()
    a, again, b = (load(small(weights={"source": "seed", "seed": n}), tmp_path).weights for n in (0, 0, 1))
    assert a == again != b
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(params=["model.safetensors", "model.pt", "wrapped.pth"])
def written(request, tmp_path):
    """(path, tensors) of a saved tiny model: safetensors, torch, and wrapped as training scripts do."""
    path = tmp_path / request.param
    network = zoo.build(small(), 10).network
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if path.stem == "wrapped" else tensors, path)
    return path, tensors


def test_a_file_gives_its_tensors(written, tmp_path):
    path, tensors = written
    classifier = load(of_file(path), tmp_path)
    assert not classifier.training
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(tensor, tensors[name])
    assert classifier.weights == weights.digest_of(classifier)


def test_a_damaged_file_is_refused_by_name(written, tmp_path):
    path, _ = written
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        StudyError, match=rf"{path.name}: the weights of model 'm' cannot be read: it is damaged"
    ):
        load(of_file(path), tmp_path)
    study = study_of(m={**of_file(path).model_dump(), "name": "m"})
    with pytest.raises(StudyError, match=r"the weights of model 'm' cannot be read: it is damaged"):
        weights.check_files(study, 10)


def test_a_file_of_another_model_is_refused(written, tmp_path):
    path, _ = written
    with pytest.raises(StudyError, match=rf"{path.name}: not the weights of 'tiny_mixer' as zoo\.m"):
        load(of_file(path, kwargs={"embed_dim": 32}), tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "evil.pt"
    torch.save({"weight": Evil()}, path)
    with pytest.raises(StudyError, match=r"evil\.pt: .* it holds Python objects beside tensors"):
        load(of_file(path), tmp_path)


def test_weights_that_were_not_made_say_to_build_the_zoo(tmp_path):
    with pytest.raises(StudyError, match=r"are not there; build the zoo"):
        load(small(weights=TRAINED), tmp_path)


def test_the_hubs_weights_that_cannot_be_fetched_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = spec.Model.model_validate({"name": "m", "timm": "resnet18.a1_in1k", "family": "cnn"})
    with pytest.raises(StudyError, match=r"zoo\.m: timm cannot make 'resnet18\.a1_in1k' .*check the network"):
        load(model, tmp_path)


def test_what_is_trained_from_the_hubs_weights_begins_with_a_head_of_the_datas_size(tmp_path, monkeypatch):
    """The hub cannot be reached here: what timm is asked for is what is tested."""
    create, asked = timm.create_model, []

    def offline(name, pretrained, **kwargs):
        asked.append((name, pretrained, kwargs["num_classes"]))
        return create(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    begun = {**TRAINED, "start": {"source": "hub"}}
    model = small(timm="resnet10t.c3_in1k", family="cnn", config={}, weights=begun)
    (start,) = derivation.needed(model, 10)
    assert load(start, tmp_path).network.get_classifier().out_features == 10
    zoo.build(small(timm="resnet10t.c3_in1k", family="cnn", weights={"source": "hub"}), 10)
    assert asked == [("resnet10t.c3_in1k", True, 10), ("resnet10t.c3_in1k", True, 1000)]


# --- what is made: its name -----------------------------------------------------------------------


def name_of(model, data=DATA, precision=None):
    return weights.folder_of(model, data, Path("zoo"), precision).name


def taught(**changes):
    """A model that is made from two others."""
    fields = {
        "student": small(),
        "teachers": (small(name="t", timm="tiny_gmlp"),),
        "method": spec.Method(method="kl", lr=0.1),
        "budget": spec.Budget(epochs=1, batch_size=8),
    }
    return small(weights=spec.Transferred(**fields | changes))


def test_a_folder_is_named_after_all_that_makes_the_weights():
    model = small(weights=TRAINED)
    base = name_of(model)
    assert base.startswith("tiny_mixer-")
    others = [
        name_of(small(weights=TRAINED | {"seed": 1})),
        name_of(small(weights=TRAINED | {"phases": [{"epochs": 2, "lr": 0.1}]})),
        name_of(small(weights=TRAINED | {"start": SEEDED})),
        name_of(small(weights=TRAINED, kwargs={"embed_dim": 16})),
        name_of(small(weights=TRAINED, config=LOOK | {"crop_pct": 0.9})),
        name_of(small(weights=TRAINED, timm="tiny_gmlp")),
        name_of(model, precision="bfloat16"),
        name_of(model, DATA.model_copy(update={"splits": DATA.splits.model_copy(update={"seed": 1})})),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_labels_and_paths_are_no_part_of_the_name():
    expected = spec.Expected(train=1, test=1, classes=2)
    model = small(weights=TRAINED)
    assert name_of(model.model_copy(update={"name": "n", "family": "cnn"})) == name_of(model)
    assert name_of(model, DATA.model_copy(update={"expected": expected})) == name_of(model)
    inner = [
        taught(teachers=(small(name=name, family=family, timm="tiny_gmlp"),))
        for name, family in (("t", "mlp"), ("u", "cnn"))
    ]
    assert name_of(inner[0]) == name_of(inner[1]) != name_of(taught(teachers=(small(name="t"),)))
    file = {"source": "file", "sha256": "0" * 64}
    begun = [small(weights=TRAINED | {"start": file | {"path": path}}) for path in ("a", "b")]
    assert name_of(begun[0]) == name_of(begun[1])
    other = small(weights=TRAINED | {"start": {**file, "path": "a", "sha256": "1" * 64}})
    assert name_of(other) != name_of(begun[0])


def test_a_trials_student_lies_where_the_model_that_says_the_same_lies():
    """So what a study keeps is there for a model of another study's zoo that is made by that transfer."""
    study = study_of(other={"timm": "tiny_gmlp", "family": "mlp"})
    trial = study.trials()[0]
    weights_of = {name: getattr(trial, name) for name in spec.Transfer.model_fields}
    model = trial.student.model_copy(update={"name": "x", "weights": spec.Transferred(**weights_of)})
    assert name_of(trial.result) == name_of(model)


# --- what is made: its folder -----------------------------------------------------------------------

SAVED = {
    "mixer": small(kwargs={"embed_dim": 16, "num_blocks": 1}),
    "resnet": small(timm="resnet10t", family="cnn", kwargs={"stem_width": 8, "channels": [8, 8, 16, 16]}),
    "squash": small(
        timm="tiny_convmixer",
        family="cnn",
        config=LOOK | {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"},
    ),
}


@pytest.fixture(params=SAVED)
def saved(request, tmp_path):
    """A classifier, and the folder that it was saved in."""
    classifier = load(SAVED[request.param], tmp_path)
    folder = tmp_path / "kept"
    weights.save(classifier, {"accuracy": 0.5}, folder)
    return classifier, folder


@torch.no_grad()
def test_timm_loads_what_is_saved(saved):
    classifier, folder = saved
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    for one, other in zip(network.state_dict().items(), classifier.network.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    config, own = map(timm.data.resolve_model_data_config, (network, classifier.network))
    assert config | {"input_size": list(config["input_size"])} == own
    assert torch.equal(zoo.Classifier(network, config)(PIXELS), classifier(PIXELS))
    assert weights.facts(folder) == {"accuracy": 0.5}
    assert weights.is_made(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "facts.json",
        "model.safetensors",
    ]


@torch.no_grad()
def test_a_study_that_names_the_folder_has_the_same_model(saved, tmp_path, monkeypatch):
    classifier, folder = saved
    monkeypatch.chdir(folder.parent)  # relative as it may be, it is the same
    study = weights.pinned(study_of(kept={"timm": "local-dir:kept", "family": classifier.model.family}))
    model = study.zoo["kept"]
    assert zoo.architecture(model.timm) == classifier.model.timm
    assert model.weights.path == str(folder / "model.safetensors")
    assert model.weights.sha256 == digest.of_file(folder / "model.safetensors")
    zoo.check_names(
        study_of(kept=model.model_dump(), beside=classifier.model.model_dump() | {"name": "beside"})
    )
    again = load(model, tmp_path)
    assert again.weights == classifier.weights
    assert again.preprocessing == classifier.preprocessing
    assert again.crop == classifier.crop == zoo.crop_of(model)
    assert torch.equal(again(PIXELS), classifier(PIXELS))


def test_what_a_study_says_beside_a_folder_counts(saved):
    _, folder = saved
    own = {"timm": f"local-dir:{folder}", "family": "cnn", "config": {"crop_pct": 0.5}}
    model = weights.pinned(study_of(kept=own)).zoo["kept"]
    assert model.config["crop_pct"] == 0.5
    assert list(model.config["input_size"]) == [3, 28, 28]


def test_a_folder_may_be_trained_on_taught_and_averaged(saved):
    """What is made from it begins with its weights, and is made all the same."""
    _, folder = saved
    method = {"method": "kl", "lr": 0.1}
    taught = {"source": "transferred", "student": "kept", "teachers": ["beside"], "method": method}
    study = weights.pinned(
        study_of(
            kept={"timm": f"local-dir:{folder}", "family": "cnn"},
            trained={"weights": {**TRAINED, "start": "kept"}},
            taught={"weights": taught},
            fresh={"timm": f"local-dir:{folder}", "family": "cnn", "weights": SEEDED},
        )
    )
    held = study.zoo["kept"].weights
    assert isinstance(held, spec.File)
    assert study.zoo["trained"].weights.start == held
    assert study.zoo["taught"].weights.student.weights == held
    assert study.zoo["fresh"].source == "seed"
    for name in ("trained", "taught", "fresh"):
        assert study.zoo[name].model_copy(update={"weights": held, "name": "kept"}) == study.zoo["kept"]


def test_a_folder_that_is_there_stays(saved):
    classifier, folder = saved
    weights.save(classifier, {"accuracy": 0.9}, folder)
    assert weights.facts(folder) == {"accuracy": 0.5}
    assert [path.name for path in folder.parent.iterdir()] == ["kept"]


def test_a_folder_appears_whole_or_not_at_all(saved, monkeypatch):
    classifier, folder = saved

    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        weights.save(classifier, {}, folder.parent / "other")
    assert [path.name for path in folder.parent.iterdir()] == ["kept"]


@pytest.mark.parametrize("content", [None, b"", b"{"], ids=["missing", "empty", "half"])
def test_damaged_facts_are_told(saved, content):
    _, folder = saved
    (folder / "facts.json").unlink()
    if content is not None:
        (folder / "facts.json").write_bytes(content)
    with pytest.raises(StudyError, match=r"facts\.json: missing or damaged; remove the folder and build"):
        weights.facts(folder)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}"], ids=["missing", "empty", "list", "nothing"])
def test_a_damaged_folder_is_told(saved, content):
    _, folder = saved
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)
    study = study_of(kept={"timm": f"local-dir:{folder}", "family": "cnn"})
    with pytest.raises(StudyError, match=r"kept: no model that timm loads .*correct zoo\.kept\.timm"):
        weights.pinned(study)


def test_a_folder_without_its_tensors_is_told(saved):
    _, folder = saved
    (folder / "model.safetensors").unlink()
    study = study_of(kept={"timm": f"local-dir:{folder}", "family": "cnn"})
    with pytest.raises(StudyError, match=r"the weights of model 'kept' are not there"):
        weights.pinned(study)


# --- pinned -----------------------------------------------------------------------------------------


def content_of(path, **sha256):
    """Models of which one is a file and all others are made from it, however deep."""
    file = {"source": "file", "path": str(path), **sha256}
    model = {"timm": "tiny_mixer", "family": "mlp", "weights": file}
    return {
        "file": model,
        "trained": {"weights": {**TRAINED, "start": "file"}},
        "taught": {
            "weights": {
                "source": "transferred",
                "student": "trained",
                "teachers": ["file"],
                "method": {"method": "kl", "lr": 0.1},
            }
        },
        "soup": {"weights": {"source": "averaged", "models": ["taught", "file"]}},
    }


def files_in(content):
    """Every file of weights in JSON."""
    if isinstance(content, dict):
        found = [content] if content.get("source") == "file" else []
        return found + [file for value in content.values() for file in files_in(value)]
    return [file for value in content for file in files_in(value)] if isinstance(content, list) else []


def test_files_are_pinned_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights").write_bytes(b"weights")
    study = study_of(**content_of("weights"))
    pinned = weights.pinned(study)
    found = files_in(json.loads(pinned.model_dump_json()))
    assert len(found) == 1 + 1 + 2 + 3
    for file in found:
        assert file["sha256"] == digest.of_file(tmp_path / "weights")
        assert file["path"] == str(tmp_path / "weights")
    assert all(file["sha256"] is None for file in files_in(json.loads(study.model_dump_json())))
    assert weights.pinned(pinned) == pinned
    assert [t.id for t in weights.pinned(pinned).trials()] == [t.id for t in pinned.trials()]


def test_a_file_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    read, of = [], digest.of_file
    monkeypatch.setattr(digest, "of_file", lambda location: read.append(location) or of(location))
    weights.pinned(study_of(**content_of(path)))
    assert read == [path]


@pytest.mark.parametrize("name", ["file", "trained", "taught", "soup"])
def test_a_file_that_is_not_there_is_told_of_the_model(tmp_path, name):
    models = content_of(tmp_path / "absent")
    study = study_of(**models)
    study = study.model_copy(update={"zoo": {name: study.zoo[name]}})
    with pytest.raises(
        StudyError, match=r"absent: the weights of model '.+' are not there; correct the path"
    ):
        weights.pinned(study)


def test_a_folder_in_place_of_a_file_is_told(tmp_path):
    study = study_of(**content_of(tmp_path))
    with pytest.raises(StudyError, match=r"a folder, not the file of weights .* local-dir:"):
        weights.pinned(study)


def test_a_file_that_is_not_the_one_named_is_told(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    with pytest.raises(StudyError, match=rf"{path}: the weights of model 'file' have SHA-256 .*correct the"):
        weights.pinned(study_of(**content_of(path, sha256="0" * 64)))
    right = study_of(**content_of(path, sha256=digest.of_file(path)))
    assert weights.pinned(right).zoo["file"].weights.sha256 == digest.of_file(path)


# --- repositories and names of the hub --------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["hf-hub:", "hf_hub:"])
def test_a_repository_of_the_hub_is_pinned_by_commit_and_content(repository, tmp_path, scheme):
    name, commit, network = repository
    study = weights.pinned(study_of(theirs={"timm": scheme + name, "family": "cnn"}))
    model = study.zoo["theirs"]
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / commit
    sha256 = digest.of_file(snapshot / "model.safetensors")
    assert model.timm == "test_resnet" and model.kwargs["num_classes"] == 5
    assert model.weights == spec.Hub(repository=f"{name}@{commit}", sha256=sha256)
    assert weights.pinned(study) == study
    zoo.check_names(study.model_copy(update={"zoo": {"theirs": model}}))
    loaded = weights.load(model, study.data, 5, study.folders)
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], tensor)
    assert loaded.preprocessing["input_size"] == [3, 160, 160]


def test_what_is_trained_from_a_repository_begins_with_its_weights(repository):
    name, _, network = repository
    begun = {**TRAINED, "start": {"source": "hub"}}
    study = weights.pinned(study_of(ours={"timm": f"hf-hub:{name}", "family": "cnn", "weights": begun}))
    (start,) = derivation.needed(study.zoo["ours"], 5)
    loaded = weights.load(start, study.data, 5, study.folders)
    assert torch.equal(next(loaded.network.parameters()), next(network.parameters()))


def test_a_repository_that_is_not_to_be_had_is_told(repository):
    study = study_of(theirs={"timm": "hf-hub:nobody/none", "family": "cnn"})
    with pytest.raises(
        StudyError, match=r"nobody/none: no model that timm loads .*zoo\.theirs\.timm, or check"
    ):
        weights.pinned(study)


@pytest.mark.parametrize(
    ("name", "todays"),
    [
        ("vit_base_patch16_224_in21k", "vit_base_patch16_224.augreg_in21k"),
        ("timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("resnet5O", "resnet5O"),
    ],
)
def test_names_are_those_that_timm_has_today(name, todays):
    study = weights.pinned(study_of(m={"timm": name, "family": "cnn"}))
    assert study.zoo["m"].timm == todays
    assert study.zoo["m"].weights == spec.Hub()


# --- averages -----------------------------------------------------------------------------------------


def networks(count, model=SAVED["resnet"], tmp="unused"):
    """Classifiers of one architecture and different weights, which counted different batches."""
    made = [
        load(model.model_copy(update={"weights": spec.Random(seed=seed)}), Path(tmp)) for seed in range(count)
    ]
    for number, classifier in enumerate(made):
        for name, buffer in classifier.network.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(10 + number)
            elif buffer.is_floating_point():
                buffer.add_(0.1 * number)
    return made


def test_the_average_of_equal_models_is_that_model():
    one, *_ = networks(1)
    for count in (2, 3, 7):
        average = weights.average([one, *(copy.deepcopy(one) for _ in range(count - 1))])
        for name, tensor in one.network.state_dict().items():
            assert torch.equal(average[name], tensor)
            assert average[name].dtype == tensor.dtype


def test_the_average_of_models_is_the_mean_of_their_weights():
    several = networks(3)
    average = weights.average(several)
    states = [one.network.state_dict() for one in several]
    assert average.keys() == states[0].keys()
    for name, tensor in average.items():
        if tensor.is_floating_point():
            by_hand = sum(state[name].double() for state in states) / 3
            assert torch.allclose(tensor.double(), by_hand, rtol=1e-6, atol=1e-8), name
        else:
            assert torch.equal(tensor, states[0][name])
    assert average["bn1.num_batches_tracked"] == 10
    assert not torch.equal(average["bn1.running_mean"], states[0]["bn1.running_mean"])
