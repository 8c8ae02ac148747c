"""Studies: those of the project, expansion to trials, ids, and every mistake told in one sentence."""

import copy
import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from study import spec
from study.errors import StudyError
from study.store import storage
from study.views import View

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
PAPERS = {"subset10": "paper_subset10", "full": "paper_full"}
SMALL = {
    "name": "small",
    "data": {"images": {"source": "fashion_mnist"}, "splits": {"zoo": 0.5, "transfer": 0.1}},
    "zoo": {
        "resnet": {"timm": "resnet10t", "family": "cnn", "recipe": {"epochs": 2, "lr": 0.01}},
        "vit": {"timm": "vit_tiny_patch16_224", "family": "transformer"},
        "mixer": {"timm": "tiny_mixer", "family": "mlp", "kwargs": {"depth": 1}},
    },
    "pairs": "all",
    "methods": {
        "xe": {"lr": 0.1},
        "kl": {"lr": 0.1},
        "mcl": {"method": "xe_kl_mcl", "lr": 0.1, "weight": 0.7, "tau": 0.9},
    },
    "budget": {"epochs": 1, "batch_size": 8},
}
REMOVED = object()
PAIRS_OF_SMALL = [
    ("resnet", "vit"),
    ("resnet", "mixer"),
    ("vit", "resnet"),
    ("vit", "mixer"),
    ("mixer", "resnet"),
    ("mixer", "vit"),
]


def changed(field, value):
    """The small study's content with another value (or none) at a place like 'budget.epochs'."""
    content = copy.deepcopy(SMALL)
    *sections, last = field.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return content


def trials_by_key(content):
    """Trials by what tells them apart within a study: student, teacher, method, seed."""
    trials = spec.Study.model_validate(content).trials()
    found = {(t.student.name, t.teacher and t.teacher.name, t.name, t.seed): t for t in trials}
    assert len(found) == len(trials)
    return found


def ids(content):
    """The ids of a study's trials."""
    return {trial.id for trial in spec.Study.model_validate(content).trials()}


def paper_models(setting, role):
    """timm names in the paper's table (a copy of three columns of it), in its order."""
    with (Path(__file__).parent / "paper_models.csv").open() as stream:
        rows = csv.DictReader(stream)
        return [row["timm_name"] for row in rows if (row["setting"], row["role"]) == (setting, role)]


# --- the studies of the project -------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_of_the_project_loads(path):
    study = spec.load(path)
    trials = study.trials()
    assert study.name == path.stem
    assert study.results == Path("results") / path.stem
    assert trials
    assert len({trial.id for trial in trials}) == len(trials)
    for trial in trials[:: max(1, len(trials) // 50)]:
        assert spec.Trial.model_validate_json(trial.model_dump_json()).id == trial.id


def test_demo_is_large_enough():
    study = spec.load(ROOT / "studies" / "demo.yaml")
    pairs = study.ordered_pairs()
    assert len(pairs) >= 30
    assert len(study.zoo) >= 12
    families = Counter(model.family for model in study.zoo.values())
    assert set(families) == {"cnn", "transformer", "mlp"}
    assert min(families.values()) >= 3
    alone = Counter((t.student.name, t.seed) for t in study.trials() if t.method.method == "xe")
    assert set(alone) == {(student, seed) for student, _ in pairs for seed in study.seeds}
    assert set(alone.values()) == {1}


@pytest.mark.parametrize(
    ("setting", "students", "teachers", "pairs"), [("subset10", 20, 20, 399), ("full", 8, 4, 32)]
)
def test_paper_studies_have_the_papers_pairs(setting, students, teachers, pairs):
    study = spec.load(ROOT / "studies" / f"{PAPERS[setting]}.yaml")
    named = {
        role: [study.zoo[name].timm for name in getattr(study.pairs, role)]
        for role in ("students", "teachers")
    }
    assert named["students"] == paper_models(setting, "student")
    assert named["teachers"] == paper_models(setting, "teacher")
    assert (len(named["students"]), len(named["teachers"])) == (students, teachers)
    assert len(study.ordered_pairs()) == pairs  # one model of subset10 is on both sides
    assert all(model.pretrained for model in study.zoo.values())


@pytest.mark.parametrize("name", PAPERS.values())
def test_paper_studies_have_the_papers_hyper_parameters(name):
    study = spec.load(ROOT / "studies" / f"{name}.yaml")
    for method in ("kl", "kl_dp", "kl_dp_unsupervised"):
        assert (study.methods[method].lr, study.methods[method].temperature) == (1e-4, 1)
    mcl = study.methods["xe_kl_mcl"]
    assert (mcl.lr, mcl.temperature, mcl.weight, mcl.tau, mcl.every) == (1e-2, 1, 0.7, 0.9999, 2)
    budget = study.budget
    assert (budget.epochs, budget.momentum, budget.weight_decay) == (20, 0.9, 1e-3)


def test_paper_subset_is_a_tenth_of_the_training_images():
    subset, full = (
        spec.load(ROOT / "studies" / f"{name}.yaml").data.splits.transfer for name in PAPERS.values()
    )
    assert (subset, full) == (0.1, 1.0)
    assert isinstance(full, float)  # a whole number would be a count of images


# --- expansion --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("all", PAIRS_OF_SMALL),
        (
            {"students": ["vit", "resnet"], "teachers": ["resnet", "mixer"]},
            [("vit", "resnet"), ("vit", "mixer"), ("resnet", "mixer")],
        ),
        ([["mixer", "vit"], ["vit", "mixer"]], [("mixer", "vit"), ("vit", "mixer")]),
        ([["mixer", "vit"], ["vit", "vit"], ["mixer", "vit"]], [("mixer", "vit")]),
        ({"students": ["vit", "vit"], "teachers": ["vit", "mixer", "mixer"]}, [("vit", "mixer")]),
    ],
    ids=["all", "grid", "list", "list with repetitions", "grid with repetitions"],
)
def test_pairs_expand_in_a_fixed_order_without_repetitions(pairs, expected):
    study = spec.Study.model_validate(changed("pairs", pairs))
    assert study.ordered_pairs() == expected
    assert [(t.student.name, t.teacher.name) for t in study.trials() if t.name == "kl"] == expected
    students = list(dict.fromkeys(student for student, _ in expected))
    assert [(t.student.name, t.teacher) for t in study.trials() if t.name == "xe"] == [
        (student, None) for student in students
    ]


@pytest.mark.parametrize("models", [2, 3, 7])
def test_all_pairs_of_n_models_are_n_times_n_minus_one(models):
    zoo = {f"m{i}": SMALL["zoo"]["vit"] for i in range(models)}
    study = spec.Study.model_validate(changed("zoo", zoo))
    assert len(study.ordered_pairs()) == models * (models - 1)


def test_order_of_trials_is_deterministic():
    first, second = (
        spec.Study.model_validate(copy.deepcopy(SMALL) | {"seeds": [1, 0]}).trials() for _ in range(2)
    )
    assert [t.id for t in first] == [t.id for t in second]
    assert [t.seed for t in first] == [1] * 15 + [0] * 15


def test_no_trial_is_made_twice():
    """Also not where the study says the same thing twice."""
    trials = spec.Study.model_validate(copy.deepcopy(SMALL) | {"seeds": [0, 0]}).trials()
    assert len({trial.id for trial in trials}) == len(trials)


def test_trial_holds_what_the_study_says():
    study = spec.Study.model_validate(SMALL)
    trial = trials_by_key(SMALL)["resnet", "vit", "mcl", 0]
    assert (trial.study, trial.data, trial.budget) == ("small", study.data, study.budget)
    assert (trial.student, trial.teacher) == (study.zoo["resnet"], study.zoo["vit"])
    assert trial.method == study.methods["mcl"]
    assert trial.method.method == "xe_kl_mcl"


# --- ids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "another"),
        ("resources", {"cpus": 2, "gpus": 0.5, "seconds": 3, "keep_gib": 1, "compile": True}),
        ("outputs", "live"),
        ("trackers", ["tensorboard", "mlflow"]),
        ("budget.view_seed", 3),  # of views that nothing augments
        ("budget.precision", None),
        ("folders", {"data": "a", "zoo": "b", "results": "c"}),
        ("zoo", dict(reversed(SMALL["zoo"].items()))),
        ("methods", dict(reversed(SMALL["methods"].items()))),
        ("pairs", [*reversed(PAIRS_OF_SMALL), *PAIRS_OF_SMALL]),
        ("methods.kl.temperature", 1),  # the default, said
        ("budget.momentum", 0.9),
    ],
)
def test_ids_do_not_depend_on_what_changes_no_result(field, value):
    assert ids(changed(field, value)) == ids(SMALL)


@pytest.mark.parametrize(
    ("field", "value", "affected"),
    [
        ("data.images.jpeg_quality", 90, lambda student, teacher, method: True),
        ("data.images", {"source": "torchvision", "dataset": "CIFAR10"}, lambda *key: True),
        ("data.splits.transfer", 0.2, lambda *key: True),
        ("data.splits.transfer", 1, lambda *key: True),
        ("data.splits.seed", 1, lambda *key: True),
        ("zoo.resnet.recipe.epochs", 3, lambda student, teacher, method: "resnet" in (student, teacher)),
        (
            "zoo.resnet.recipe.finish.epochs",
            1,
            lambda student, teacher, method: "resnet" in (student, teacher),
        ),
        ("zoo.resnet.recipe", REMOVED, lambda student, teacher, method: "resnet" in (student, teacher)),
        ("zoo.mixer.kwargs.depth", 2, lambda student, teacher, method: "mixer" in (student, teacher)),
        ("zoo.vit.config.crop_pct", 1.0, lambda student, teacher, method: "vit" in (student, teacher)),
        (
            "zoo.vit.timm",
            "vit_base_patch16_224",
            lambda student, teacher, method: "vit" in (student, teacher),
        ),
        ("methods.kl.temperature", 2, lambda student, teacher, method: method == "kl"),
        ("methods.mcl.tau", 0.99, lambda student, teacher, method: method == "mcl"),
        ("methods.mcl.every", 3, lambda student, teacher, method: method == "mcl"),
        ("methods.xe.lr", 0.2, lambda student, teacher, method: method == "xe"),
        ("budget.epochs", 2, lambda *key: True),
        ("budget.flip", True, lambda *key: True),
        ("budget.resized_crop", {}, lambda *key: True),
        ("budget.precision", "float32", lambda *key: True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_gives_new_ids_to_just_the_trials_it_touches(field, value, affected):
    before, after = trials_by_key(SMALL), trials_by_key(changed(field, value))
    assert after.keys() == before.keys()
    new = {key for key in before if after[key].id != before[key].id}
    assert new == {key for key in before if affected(*key[:3])}
    assert len({trial.id for trial in after.values()}) == len(after)


@pytest.mark.parametrize("view", [{"flip": True}, {"resized_crop": {"scale": [0.5, 1]}}], ids=str)
def test_the_seed_of_views_counts_where_there_are_any(view):
    first = SMALL | {"budget": SMALL["budget"] | view}
    other = SMALL | {"budget": first["budget"] | {"view_seed": 1}}
    assert not set(ids(first)) & set(ids(other))


def test_ids_are_those_they_were_before_views_and_precision_could_be_set():
    """Recorded trials of the demo must be found again: their first id, and the hash of all of them."""
    trials = spec.load(ROOT / "studies" / "demo.yaml").trials()
    assert trials[0].id == "b9a23ea2a8267086"
    assert spec.content_hash(sorted(trial.id for trial in trials)) == "a1bcea0770affd88"


def test_an_epoch_has_a_view_of_its_own_whatever_the_trials_seed():
    plain = spec.Budget(epochs=3, batch_size=1)
    assert plain.views == [None]
    assert plain.view(2) is None
    crop = spec.ResizedCrop(scale=(0.5, 0.9))
    budget = spec.Budget(epochs=2, batch_size=1, flip=True, resized_crop=crop, view_seed=5)
    assert budget.views == [View(5, epoch, flip=True, scale=(0.5, 0.9)) for epoch in (0, 1)]
    assert spec.Budget(epochs=1, batch_size=1, flip=True).views == [View(0, 0, flip=True)]


def test_outputs_in_a_word_and_in_full():
    in_a_word, in_full = (
        spec.Study.model_validate(changed("outputs", value)).outputs
        for value in ("live", {"transfer": "live"})
    )
    assert in_a_word == in_full == spec.Outputs(transfer="live")
    assert spec.Study.model_validate(SMALL).outputs == spec.Outputs(transfer="auto")


def test_a_seed_has_trials_of_its_own():
    seeds = {n: ids(SMALL | {"seeds": [n]}) for n in (0, 1)}
    assert not seeds[0] & seeds[1]
    assert ids(SMALL | {"seeds": [0, 1]}) == seeds[0] | seeds[1]


def test_ids_are_the_same_in_another_process(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    code = "from study import spec; print(*(trial.id for trial in spec.load('study.yaml').trials()))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "4321"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert printed.stdout.split() == [t.id for t in spec.Study.model_validate(SMALL).trials()]


def test_trial_survives_json():
    for trial in spec.Study.model_validate(SMALL).trials():
        again = spec.Trial.model_validate_json(trial.model_dump_json())
        assert again == trial
        assert again.id == trial.id


def test_a_changed_copy_of_a_trial_has_an_id_of_its_own():
    trial = spec.Study.model_validate(SMALL).trials()[0]
    before = trial.id
    assert trial.model_copy(update={"seed": trial.seed + 1}).id != before


def test_absolute_paths_change_no_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights").write_bytes(b"weights")
    study = spec.Study.model_validate(changed("zoo.vit.checkpoint", "weights"))
    absolute = study.absolute()
    assert absolute.results == tmp_path / "results" / "small"
    assert (absolute.folders.data, absolute.folders.zoo) == (tmp_path / "data", tmp_path / "zoo")
    assert absolute.zoo["vit"].checkpoint == str(tmp_path / "weights")
    assert [t.id for t in absolute.trials()] == [t.id for t in study.trials()]


# --- checkpoints --------------------------------------------------------------------------------------


def with_checkpoint(path, sha256=None):
    """The small study, its ViT read from a file."""
    content = changed("zoo.vit.checkpoint", str(path))
    content["zoo"]["vit"]["checkpoint_sha256"] = sha256
    return content


def test_the_content_of_a_checkpoint_counts_and_its_path_does_not(tmp_path):
    first, moved, other = (tmp_path / name for name in ("first", "moved", "other"))
    first.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    assert ids(with_checkpoint(first)) == ids(with_checkpoint(moved))
    assert ids(with_checkpoint(first)) == ids(with_checkpoint(moved, storage.sha256(first)))
    affected = ids(with_checkpoint(first)) - ids(with_checkpoint(other))
    assert affected == {t.id for key, t in trials_by_key(with_checkpoint(first)).items() if "vit" in key}
    assert ids(with_checkpoint(first)) & ids(SMALL) == ids(with_checkpoint(first)) - affected


@pytest.mark.parametrize(
    ("written", "sha256", "said"), [(False, None, "is not there"), (True, "0" * 64, "checkpoint_sha256")]
)
def test_bad_checkpoint_is_told(tmp_path, written, sha256, said):
    path = tmp_path / "weights"
    if written:
        path.write_bytes(b"weights")
    study = spec.Study.model_validate(with_checkpoint(path, sha256))
    with pytest.raises(StudyError) as told:
        study.trials()
    for part in (str(path), "'vit'", said, "correct"):
        assert part in str(told.value)
    assert "\n" not in str(told.value)


# --- loading, and mistakes ---------------------------------------------------------------------------


def test_folders_given_on_the_command_line_come_first(write_study):
    path = write_study(SMALL | {"folders": {"zoo": "z", "results": "r"}})
    study = spec.load(path, results="other", zoo=None)
    assert study.results == Path("other")
    assert study.folders == spec.Folders(zoo=Path("z"), results=Path("other"))


def test_keys_with_a_dot_hold_anchors(write_study):
    assert spec.load(write_study(SMALL | {".look": {"crop_pct": 1.0}})) == spec.Study.model_validate(SMALL)


def complaint(path):
    """What `load` says of a bad file; a sentence that begins with the file's path."""
    with pytest.raises(StudyError) as told:
        spec.load(path)
    message = str(told.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "pydantic" not in message
    return message.removeprefix(f"{path}: ")


MISTAKES = [
    # unknown keys
    ("budgett", {}, "budgett", "did you mean 'budget'?"),
    ("data.splits.transfr", 0.1, "data.splits.transfr", "did you mean 'transfer'?"),
    ("zoo.vit.tim", "vit", "zoo.vit.tim", "did you mean 'timm'?"),
    ("zoo.resnet.recipe.epocs", 3, "zoo.resnet.recipe.epocs", "did you mean 'epochs'?"),
    ("zoo.resnet.recipe.finish.epocs", 3, "zoo.resnet.recipe.finish.epocs", "did you mean 'epochs'?"),
    ("pairs", {"student": ["vit"], "teachers": ["resnet"]}, "pairs.student", "did you mean 'students'?"),
    ("methods.kl.temprature", 2, "methods.kl.temprature", "did you mean 'temperature'?"),
    ("budget.epoch", 3, "budget.epoch", "did you mean 'epochs'?"),
    ("budget.colour", 3, "budget.colour", "known are epochs, batch_size,"),
    ("resources.cpu", 3, "resources.cpu", "did you mean 'cpus'?"),
    ("folders.result", "r", "folders.result", "did you mean 'results'?"),
    ("methods.kl.weight", 0.7, "methods.kl.weight", "known are lr, "),
    # unknown names
    ("methods.kll", {"lr": 0.1}, "methods.kll", "did you mean 'kl'?"),
    ("methods.mcl.method", "xe_kl_mlc", "methods.mcl", "did you mean 'xe_kl_mcl'?"),
    ("data.images.source", "fashon_mnist", "data.images", "did you mean 'fashion_mnist'?"),
    ("data.images.source", "imagenet", "data.images", "known are fashion_mnist, image_folder, torchvision"),
    ("pairs", [["resnet", "vti"]], "pairs", "'vti' is not in the zoo; did you mean 'vit'?"),
    ("pairs", {"students": ["resnt"], "teachers": ["vit"]}, "pairs", "did you mean 'resnet'?"),
    ("pairs", "al", "pairs", "should be 'all'"),
    ("zoo.vit.family", "transformr", "zoo.vit.family", "'transformer'"),
    ("budget.schedule", "cosin", "budget.schedule", "'cosine'"),
    ("outputs", "cache", "outputs.transfer", "'cached'"),
    ("outputs", 3, "outputs", "should be a mapping"),
    ("outputs.transfr", "live", "outputs.transfr", "did you mean 'transfer'?"),
    ("trackers", ["mlflow", "tensorbord"], "trackers.1", "'tensorboard', 'mlflow' or 'wandb'"),
    ("trackers", "mlflow", "trackers", "valid list"),
    ("budget.precision", "bf16", "budget.precision", "'bfloat16'"),
    ("budget.resized_crop", {"scale": [0.9, 0.5]}, "budget.resized_crop", "least and the largest share"),
    ("budget.resized_crop", {"scale": [0.5, 2]}, "budget.resized_crop", "between 0 and 1"),
    ("budget.resized_crop", {"ratio": [0, 2]}, "budget.resized_crop", "both above 0"),
    ("budget.resized_crop", True, "budget.resized_crop", "should be a mapping"),
    ("budget.resized_crop", {"size": 3}, "budget.resized_crop.size", "known are scale, ratio"),
    ("resources.keep_gib", -1, "resources.keep_gib", "greater than or equal to 0"),
    # missing
    *((section, REMOVED, section, "is missing") for section in ("name", "data", "zoo", "pairs", "budget")),
    ("methods", REMOVED, "methods", "is missing"),
    ("zoo.vit.timm", REMOVED, "zoo.vit.timm", "is missing"),
    ("methods.kl.lr", REMOVED, "methods.kl.lr", "is missing"),
    ("data.images", {"source": "image_folder", "train": "a"}, "data.images.test", "is missing"),
    ("pairs", {"students": ["vit"]}, "pairs.teachers", "is missing"),
    ("zoo", {}, "zoo", "must not be empty"),
    ("pairs", [["vit", "vit"]], "pairs", "no model is paired with another one"),
    ("methods.mcl.tau", REMOVED, "methods.mcl", "exactly one of 'tau' and 'half_life'"),
    # wrong types
    ("budget.epochs", "three", "budget.epochs", "valid integer"),
    ("budget.epochs", 1.5, "budget.epochs", "1.5"),
    ("budget.batch_size", None, "budget.batch_size", "valid integer"),
    ("methods.kl.lr", "fast", "methods.kl.lr", "valid number"),
    ("data.splits.transfer", "many", "data.splits.transfer", "valid"),
    ("data.images", "fashion_mnist", "data.images", "should be a mapping"),
    ("data.images", {}, "data.images", "give 'source'"),
    ("zoo", ["vit"], "zoo", "should be a mapping"),
    ("zoo.vit", 3, "zoo.vit", "should be a mapping"),
    ("methods", ["kl"], "methods", "should be a mapping"),
    ("pairs", ["resnet", "vit"], "pairs.0", "'resnet'"),
    ("seeds", 0, "seeds", "valid list"),
    # numbers out of range
    ("budget.epochs", -1, "budget.epochs", "greater than or equal to 1"),
    ("methods.kl.lr", -0.1, "methods.kl.lr", "greater than 0"),
    ("methods.kl.lr", float("inf"), "methods.kl.lr", "finite"),
    ("methods.mcl.weight", 1.5, "methods.mcl.weight", "less than or equal to 1"),
    ("data.splits.transfer", -100, "data.splits.transfer", "greater than or equal to 0"),
    ("data.splits.transfer", 0, "data.splits.transfer", "greater than 0"),
    ("data.splits.transfer", 1.5, "data.splits.transfer", "neither a share up to 1 nor a whole number"),
    ("zoo.resnet.recipe.epochs", 0, "zoo.resnet.recipe.epochs", "greater than or equal to 1"),
    ("resources.cpus", 0, "resources.cpus", "greater than or equal to 1"),
    ("seeds", [-1], "seeds.0", "greater than or equal to 0"),
    # contradictions
    ("zoo.resnet.checkpoint", "weights", "zoo.resnet", "'checkpoint' or 'recipe', not both"),
    ("data.splits.zoo", 0, "zoo.resnet.recipe", "set data.splits.zoo"),
    ("zoo.vit.name", "resnet", "zoo.vit.name", "named by its key; remove 'name'"),
    ("zoo.vit.checkpoint_sha256", "0", "zoo.vit", "needs a 'checkpoint'"),
    ("name", "..", "name", "the first a letter or digit"),
    ("data.images.shortside", 3, "data.images.shortside", "did you mean 'short_side'?"),
    ("methods.mcl.half_life", 0.2, "methods.mcl", "exactly one of 'tau' and 'half_life'"),
]


@pytest.mark.parametrize(
    ("place", "value", "field", "remedy"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_mistake_is_told_with_file_field_and_remedy(write_study, place, value, field, remedy):
    message = complaint(write_study(changed(place, value)))
    assert message.startswith(f"{field}: ")
    assert remedy in message


def test_further_mistakes_are_counted(write_study):
    content = changed("budget", {"epochs": 0, "batch_size": 0})
    assert complaint(write_study(content)).endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "a study is a mapping with the keys name, data,"),
        (b"# only a comment\n", "a study is a mapping with the keys name, data,"),
        (b"- name\n- data\n", "a study is a mapping with the keys name, data,"),
        (b"name: x\ndata: [1, 2\n", "not valid YAML at line 3"),
        (b"name: x\n\tdata: 1\n", "not valid YAML at line 2"),
        (b"name: *nowhere\n", "not valid YAML at line 1"),
        (b"name: !!python/object:os.system x\n", "not valid YAML at line 1"),
        (b"name: \xff\xfe\n", "not valid YAML"),
        (b"name: \x00\n", "not valid YAML"),
        (b"name: 2024-13-45\n", "not valid YAML"),
        (b"zoo:\n  a: 1\n  a: 2\n", "not valid YAML at line 3 (the key 'a' is given twice; remove one)"),
        (b"zoo:\n  no: 1\n", "not valid YAML at line 2 (the key False is not text; put it in quotes)"),
    ],
    ids=[
        *("empty", "comment", "list", "bracket", "tab", "alias", "object", "not UTF-8", "control", "date"),
        *("twice", "not text"),
    ],
)
def test_file_that_is_no_study_is_told(tmp_path, text, said):
    path = tmp_path / "study.yaml"
    path.write_bytes(text)
    assert said in complaint(path)


@pytest.mark.parametrize(
    ("name", "said"), [("absent.yaml", "No such file"), (".", "Is a directory")], ids=["absent", "folder"]
)
def test_path_that_cannot_be_read_is_told(tmp_path, name, said):
    message = complaint(tmp_path / name)
    assert said in message
    assert "check the path" in message
