"""Studies: those of the project, expansion to trials, ids, and every mistake told in one sentence."""

import builtins
import copy
import csv
import io
import itertools
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from study import spec, transforms
from study.errors import StudyError
from study.store import digest

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
PAPERS = {"subset10": "paper_subset10", "full": "paper_full"}
SMALL = {
    "name": "small",
    "data": {"images": {"source": "fashion_mnist"}, "splits": {"zoo": 0.5, "transfer": 0.1}},
    "zoo": {
        "resnet": {
            "timm": "resnet10t",
            "family": "cnn",
            "weights": {"source": "trained", "phases": [{"epochs": 2, "lr": 0.01}]},
        },
        "vit": {"timm": "vit_tiny_patch16_224", "family": "transformer"},
        "mixer": {"timm": "tiny_mixer", "family": "mlp", "kwargs": {"depth": 1}},
    },
    "pairs": "all",
    "methods": {
        "xe": {"lr": 0.1},
        "kl": {"lr": 0.1},
        "mcl": {"method": "xe_kl", "lr": 0.1, "weight": 0.7, "slow": {"tau": 0.9}},
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
SEVERAL = {"teachers": ["vit", "mixer"], "students": ["resnet"], "combine": ["sequential", "soup"]}
# of it the ViT trained on, the ViT taught by two, and the mean of these: each made from others by name
MADE = {
    "trained": {"weights": {"source": "trained", "start": "vit", "phases": [{"epochs": 1, "lr": 0.1}]}},
    "taught": {
        "weights": {
            "source": "transferred",
            "student": "trained",
            "teachers": ["resnet", "mixer"],
            "combine": "sequential",
            "method": {"method": "kl", "lr": 0.1},
        }
    },
    "soup": {"weights": {"source": "averaged", "models": ["vit", "taught"]}},
}


def changed(field, value, content=SMALL):
    """The small study's content with another value (or none) at a place like 'budget.epochs'."""
    content = copy.deepcopy(content)
    *sections, last = field.split(".")
    place = content
    for section in sections:
        place = place[int(section)] if isinstance(place, list) else place.setdefault(section, {})
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return content


def trials_by_key(content):
    """Trials by what tells them apart within a study: student, teacher, method, seed."""
    trials = spec.Study.model_validate(content).trials()
    found = {(t.student.name, t.teacher, t.name, t.seed): t for t in trials}
    assert len(found) == len(trials)
    return found


def with_made(**zoo):
    """The small study with models that are made from others, and further ones."""
    return SMALL | {"zoo": SMALL["zoo"] | MADE | zoo}


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
    assert all(model.source == "hub" for model in study.zoo.values())


@pytest.mark.parametrize("name", PAPERS.values())
def test_paper_studies_have_the_papers_hyper_parameters(name):
    study = spec.load(ROOT / "studies" / f"{name}.yaml")
    for method in ("kl", "kl_dp", "kl_dp_unsupervised"):
        assert (study.methods[method].lr, study.methods[method].settings) == (1e-4, {"temperature": 1})
    mcl = study.methods["xe_kl_mcl"]
    assert (mcl.method, mcl.lr, mcl.settings) == ("xe_kl", 1e-2, {"temperature": 1, "weight": 0.7})
    assert mcl.slow == spec.Slow(tau=0.9999, every=2, reset="never")
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
        ([["mixer", "vit"], ["mixer", "vit"]], [("mixer", "vit")]),
        ({"students": ["vit", "vit"], "teachers": ["vit", "mixer", "mixer"]}, [("vit", "mixer")]),
    ],
    ids=["all", "grid", "list", "list with repetitions", "grid with repetitions"],
)
def test_pairs_expand_in_a_fixed_order_without_repetitions(pairs, expected):
    study = spec.Study.model_validate(changed("pairs", pairs))
    assert study.ordered_pairs() == expected
    assert [(t.student.name, t.teacher) for t in study.trials() if t.name == "kl"] == expected
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
    assert (trial.student, trial.teachers) == (study.zoo["resnet"], (study.zoo["vit"],))
    assert (trial.combine, trial.order, trial.keep) == (None, "listed", "never")
    assert trial.method == study.methods["mcl"]
    assert trial.method.method == "xe_kl"


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
        ("budget.transforms", []),
        ("data.expected", {"train": 60000, "test": 10000, "classes": 10}),
        ("keep", True),
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
        *(
            (f"zoo.{model}.{field}", value, lambda *key, model=model: model in key[:2])
            for model, field, value in (
                ("resnet", "weights.phases.0.epochs", 3),
                ("resnet", "weights.phases.0.transforms", ["flip"]),
                ("resnet", "weights.phases.0.train", "head"),
                ("resnet", "weights.seed", 1),
                ("resnet", "weights.images", 100),
                ("resnet", "weights", {"source": "seed", "seed": 0}),
                ("resnet", "weights", REMOVED),
                ("mixer", "kwargs.depth", 2),
                ("vit", "config.crop_pct", 1.0),
                ("vit", "timm", "vit_base_patch16_224"),
            )
        ),
        ("methods.kl.temperature", 2, lambda student, teacher, method: method == "kl"),
        ("methods.mcl.slow.tau", 0.99, lambda student, teacher, method: method == "mcl"),
        ("methods.mcl.slow.every", 3, lambda student, teacher, method: method == "mcl"),
        ("methods.mcl.slow.reset", "epoch", lambda student, teacher, method: method == "mcl"),
        ("methods.mcl.slow", REMOVED, lambda student, teacher, method: method == "mcl"),
        ("methods.xe.lr", 0.2, lambda student, teacher, method: method == "xe"),
        ("budget.epochs", 2, lambda *key: True),
        ("budget.transforms", ["flip"], lambda *key: True),
        ("budget.evaluate", "epoch", lambda *key: True),
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


@pytest.mark.parametrize("view", [["flip"], [{"resized_crop": {"scale": [0.5, 1]}}]], ids=str)
def test_the_seed_of_views_counts_where_there_are_any(view):
    first = changed("budget.transforms", view)
    other = SMALL | {"budget": first["budget"] | {"view_seed": 1}}
    assert not set(ids(first)) & set(ids(other))


def test_ids_are_those_they_were():
    """Recorded trials of the demo must be found again: their first id, and the hash of all of them."""
    trials = spec.load(ROOT / "studies" / "demo.yaml").trials()
    assert trials[0].id == "209af687ec5b398b"
    of_the_paper = [trial.id for trial in trials if trial.name != "xe_kl_op"]
    assert digest.of_json(sorted(of_the_paper)) == "369d50c3db8bd1a4"


def test_outputs_in_a_word_and_in_full():
    in_a_word, in_full = (
        spec.Study.model_validate(changed("outputs", value)).outputs
        for value in ("live", {"transfer": "live"})
    )
    assert in_a_word == in_full == spec.FrozenOutputs(transfer="live")
    assert spec.Study.model_validate(SMALL).outputs == spec.FrozenOutputs(transfer="auto")


def test_a_seed_has_trials_of_its_own():
    seeds = {n: ids(SMALL | {"seeds": [n]}) for n in (0, 1)}
    assert not seeds[0] & seeds[1]
    assert ids(SMALL | {"seeds": [0, 1]}) == seeds[0] | seeds[1]


def test_students_from_scratch_are_drawn_anew_for_each_seed():
    """Their first seed is the one that the study says; of teachers nothing changes."""
    content = changed("zoo.vit.weights", {"source": "seed", "seed": 5}, SMALL | {"seeds": [0, 2]})
    trials = trials_by_key(content)
    for (student, teacher, _, seed), trial in trials.items():
        assert trial.student.source == ("seed" if student == "vit" else trial.student.source)
        if student == "vit":
            assert trial.student.weights == spec.Random(seed=5 + seed)
        if teacher == "vit":
            assert trial.teachers[0].weights == spec.Random(seed=5)
    one = {trial.id for trial in trials.values() if trial.seed == 0}
    assert one == ids(changed("zoo.vit.weights", {"source": "seed", "seed": 5}))


def test_a_method_may_be_trained_for_longer():
    """As many times the epochs, and otherwise the trial of a study that says so."""
    longer = changed("methods.kl.epochs_factor", 4, changed("budget.epochs", 3))
    for trial in trials_by_key(longer).values():
        assert trial.budget.epochs == (12 if trial.name == "kl" else 3)
        assert spec.Trial.model_validate_json(trial.model_dump_json()).id == trial.id
    mine = {trial.id for trial in trials_by_key(longer).values() if trial.name == "kl"}
    assert mine == {t.id for t in trials_by_key(changed("budget.epochs", 12)).values() if t.name == "kl"}
    assert ids(changed("methods.kl.epochs_factor", 1)) == ids(SMALL)
    made = changed("taught.weights.method.epochs_factor", 2, MADE)
    with pytest.raises(ValidationError, match="give this budget its own epochs"):
        spec.Study.model_validate(SMALL | {"zoo": SMALL["zoo"] | made})


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


@pytest.mark.parametrize(
    "content",
    [SMALL, with_made(), SMALL | {"several": [SEVERAL]}],
    ids=["found", "made", "several"],
)
def test_trial_survives_json_and_pickle(content):
    """All but whether it is kept, which the study says, survives JSON."""
    for trial in spec.Study.model_validate(content).trials():
        for again in (
            spec.Trial.model_validate_json(trial.model_dump_json()),
            pickle.loads(pickle.dumps(trial)),
        ):
            assert again.model_copy(update={"keep": trial.keep}) == trial
            assert again.id == trial.id
        assert pickle.loads(pickle.dumps(trial)) == trial


def test_a_changed_copy_of_a_trial_has_an_id_of_its_own():
    trial = spec.Study.model_validate(SMALL).trials()[0]
    before = trial.id
    assert trial.model_copy(update={"seed": trial.seed + 1}).id != before


def test_absolute_paths_change_no_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = spec.Study.model_validate(SMALL)
    absolute = study.absolute()
    assert absolute.results == tmp_path / "results" / "small"
    assert (absolute.folders.data, absolute.folders.zoo) == (tmp_path / "data", tmp_path / "zoo")
    assert [t.id for t in absolute.trials()] == [t.id for t in study.trials()]


def test_trials_touch_no_file(monkeypatch):
    content = with_made(file={"timm": "tiny_mixer", "family": "mlp", "weights": OF_FILE})
    study = spec.Study.model_validate(content | {"several": [SEVERAL]})
    touched = []
    with monkeypatch.context() as patch:
        for module, name in (
            *((module, "open") for module in (builtins, io, os)),
            *((os, name) for name in ("stat", "lstat", "listdir", "scandir")),
        ):
            patch.setattr(module, name, lambda *arguments, **options: touched.append(arguments))
        trials = study.trials()
        names = {trial.id for trial in trials}
    assert touched == []
    assert len(names) == len(trials) > 90


# --- weights --------------------------------------------------------------------------------------------

OF_FILE = {"source": "file", "path": "no/such/file", "sha256": "0" * 64}


def weights_of(content, name="vit"):
    """The weights of a model of a study."""
    return spec.Study.model_validate(content).zoo[name].weights


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ({}, spec.Hub),
        ({"source": "hub"}, spec.Hub),
        ({"source": "file", "path": "a/b"}, spec.File),
        ({"source": "seed", "seed": 3}, spec.Random),
        ({"source": "trained", "phases": [{"epochs": 1, "lr": 0.1}]}, spec.Trained),
        (MADE["soup"]["weights"] | {"models": ["mixer", "mixer"]}, spec.Averaged),
    ],
    ids=str,
)
def test_weights_are_of_the_kind_that_their_source_says(weights, kind):
    content = changed("zoo.vit.weights", weights) if weights else SMALL
    model = spec.Study.model_validate(content).zoo["vit"]
    assert type(model.weights) is kind
    assert model.source == (weights.get("source") or "hub")
    assert model.made == (kind in (spec.Trained, spec.Transferred, spec.Averaged))


def test_the_content_of_a_file_counts_and_its_path_does_not():
    first = changed("zoo.vit.weights", OF_FILE)
    moved = changed("zoo.vit.weights", OF_FILE | {"path": "elsewhere"})
    other = changed("zoo.vit.weights", OF_FILE | {"sha256": "1" * 64})
    assert ids(first) == ids(moved)
    affected = ids(first) - ids(other)
    assert affected == {t.id for key, t in trials_by_key(first).items() if "vit" in key}
    assert ids(first) & ids(SMALL) == ids(first) - affected


@pytest.mark.parametrize("deep", [MADE["trained"], MADE["taught"], MADE["soup"]], ids=MADE)
def test_the_path_of_a_file_does_not_count_however_deep_it_lies(deep):
    def content(**file):
        zoo = SMALL["zoo"] | {"vit": SMALL["zoo"]["vit"] | {"weights": OF_FILE | file}}
        return SMALL | {"zoo": zoo | MADE | {"deep": deep}, "pairs": [["resnet", "deep"]]}

    assert ids(content()) == ids(content(path="elsewhere"))
    assert ids(content()).isdisjoint(ids(content(sha256="1" * 64)) - ids(content() | {"methods": XE}))


def test_names_become_models():
    zoo = spec.Study.model_validate(with_made()).zoo
    assert zoo["trained"].weights.start == spec.Hub()
    taught = zoo["taught"].weights
    assert taught.student == zoo["trained"]
    assert taught.teachers == (zoo["resnet"], zoo["mixer"])
    assert (taught.method.function.__name__, taught.budget.epochs, taught.seed) == ("kl", 1, 0)
    assert zoo["soup"].weights.models == (zoo["vit"], zoo["taught"])


def test_a_made_model_is_like_the_one_it_is_made_from():
    """In architecture, arguments, preprocessing and family, but for what it says itself."""
    vit = SMALL["zoo"]["vit"] | {"kwargs": {"depth": 1, "img_size": 32}, "config": {"crop_pct": 0.9}}
    own = {**MADE["trained"], "kwargs": {"depth": 2}, "family": "mlp"}
    zoo = spec.Study.model_validate(with_made(vit=vit, own=own)).zoo
    for name in MADE:
        for field in ("timm", "kwargs", "config", "family"):
            assert getattr(zoo[name], field) == getattr(zoo["vit"], field), (name, field)
        assert zoo[name].name == name
    assert (zoo["own"].timm, zoo["own"].config) == (zoo["vit"].timm, zoo["vit"].config)
    assert (zoo["own"].kwargs, zoo["own"].family) == ({"depth": 2}, "mlp")


def test_models_to_make_from_may_be_said_in_place():
    inline = SMALL["zoo"]["vit"] | {"weights": {"source": "seed", "seed": 7}}
    start = {"source": "trained", "start": OF_FILE, "phases": [{"epochs": 1, "lr": 0.1}]}
    zoo = spec.Study.model_validate(
        with_made(
            soup={"weights": {"source": "averaged", "models": ["vit", inline]}},
            twice=SMALL["zoo"]["vit"] | {"weights": {**start, "start": start}},
        )
    ).zoo
    assert [model.source for model in zoo["soup"].weights.models] == ["hub", "seed"]
    assert zoo["twice"].weights.start.start == spec.File(**OF_FILE)


def test_a_transfer_of_its_own_budget_is_not_on_the_studys():
    budget = {"epochs": 3, "batch_size": 4}
    taught = {"weights": MADE["taught"]["weights"] | {"budget": budget, "seed": 5}}
    weights = weights_of(with_made(taught=taught), "taught")
    assert (weights.budget.epochs, weights.budget.batch_size, weights.seed) == (3, 4, 5)


def test_a_change_of_what_a_model_is_made_from_counts():
    def own(content, name):
        study = spec.Study.model_validate(content | {"pairs": [["mixer", name]]})
        return next(t.id for t in study.trials() if t.name == "kl")

    other = SMALL["zoo"]["vit"] | {"config": {"crop_pct": 0.5}}
    for name in MADE:
        assert own(with_made(), name) != own(with_made(vit=other), name)
    assert own(with_made(), "trained") == own(with_made(resnet=other), "trained")
    assert own(with_made(), "soup") != own(with_made(resnet=other), "soup")


# --- several teachers -----------------------------------------------------------------------------------

XE = {"xe": {"lr": 0.1}}
THREE = {f"m{k}": SMALL["zoo"]["vit"] for k in range(4)}


def several(*entries, **sections):
    """(teachers, combine, order, method) of each trial of m0 from several teachers."""
    content = SMALL | {
        "zoo": THREE,
        "pairs": {"students": ["m0"], "teachers": ["m1", "m2", "m3"]},
        "methods": {"xe": {"lr": 0.1}, "kl": {"lr": 0.1}, "kl_dp": {"lr": 0.1}},
        "several": list(entries),
        **sections,
    }
    trials = spec.Study.model_validate(content).trials()
    assert len({trial.id for trial in trials}) == len(trials)
    return [
        (t.teacher, t.combine, t.order, t.name) for t in trials if t.combine and t.student.name == "m0"
    ], trials


def test_several_teachers_teach_in_every_way_that_a_method_can():
    way = {"combine": ["sequential", "parallel", "soup"], "order": ["ascending", "descending"]}
    found, trials = several({"teachers": ["m1", "m2", "m3"], **way})
    teachers = "m1 + m2 + m3"
    ways = [("sequential", "ascending"), ("sequential", "descending"), ("soup", "listed")]
    expected = {
        *((teachers, combine, order, method) for method in ("kl", "kl_dp") for combine, order in ways),
        (teachers, "parallel", "listed", "kl_dp"),
    }
    assert set(found) == expected
    assert len(found) == len(expected)
    assert len(trials) == len(expected) + 1 + 2 * 3  # with those of one teacher, and of none
    for trial in trials:
        assert trial.teacher == (" + ".join(model.name for model in trial.teachers) or None)


def test_students_of_single_transfers_are_kept_where_others_begin_with_them():
    sequence, soup, parallel = (
        {"teachers": ["m2", "m1"], "combine": [way]} for way in ("sequential", "soup", "parallel")
    )
    for entry in (sequence, soup):
        _, trials = several(entry)
        kept = {(t.teacher, t.name) for t in trials if t.keep == "all"}
        assert kept == {(teacher, name) for teacher in ("m1", "m2") for name in ("kl", "kl_dp")}
    _, trials = several(parallel | {"methods": ["kl_dp"]})
    assert {trial.keep for trial in trials} == {"never"}
    _, trials = several(soup | {"methods": ["kl"]})
    assert {t.name for t in trials if t.keep == "all"} == {"kl"}
    _, trials = several(sequence, keep=True)
    assert {trial.keep for trial in trials} == {"all"}


def test_a_student_is_not_its_own_teacher():
    entry = {"teachers": ["m1", "m2", "m0"], "combine": ["soup"], "methods": ["kl"]}
    _, trials = several(entry | {"students": ["m0", "m1", "m3"]})
    taught = {(t.student.name, t.teacher) for t in trials if t.combine}
    assert taught == {("m0", "m1 + m2"), ("m1", "m2 + m0"), ("m3", "m1 + m2 + m0")}
    assert several({"teachers": ["m1", "m0"], "combine": ["soup"]})[0] == []  # one is left


def test_students_of_several_may_be_others_than_those_of_pairs():
    entry = {"teachers": ["m1", "m2"], "students": ["m3"], "combine": ["sequential"]}
    found, trials = several(entry)
    assert found == []
    assert {t.student.name for t in trials if t.combine} == {"m3"}
    content = SMALL | {"zoo": THREE, "pairs": [["m0", "m1"]], "several": [entry]}
    assert spec.Study.model_validate(content).students() == ["m0", "m3"]


def test_the_same_transfer_said_twice_is_run_once():
    entry = {"teachers": ["m1", "m2"], "combine": ["soup", "soup"]}
    assert len(several(entry, entry)[0]) == len(several(entry)[0]) == 2


def test_the_order_of_teachers_is_another_transfer():
    entry = {"combine": ["soup"], "methods": ["kl"]}
    found, _ = several({"teachers": ["m1", "m2"], **entry}, {"teachers": ["m2", "m1"], **entry})
    assert [teacher for teacher, *_ in found] == ["m1 + m2", "m2 + m1"]


@pytest.mark.parametrize(
    ("name", "trials", "kept"),
    [
        ("demo", 222, 0),
        ("held_out", 546, 0),
        ("beyond", 126, 0),
        ("choosing", 54, 0),
        ("weak_to_strong", 14, 0),
        ("weak_to_strong_trained", 42, 0),
        ("augmentation", 116, 0),
        ("augmentation_glyphs", 116, 0),
        ("useless_teachers", 618, 0),
        ("label_smoothing", 78, 0),
        ("label_smoothing_ladder", 44, 0),
        ("label_smoothing_transfer", 99, 0),
        ("paper_subset10", 2015, 0),
        ("paper_full", 168, 0),
        ("several_teachers", 63, 27),
        ("paper_several_teachers", 63, 27),
    ],
)
def test_studies_of_the_project_have_as_many_trials_as_they_say(name, trials, kept):
    expanded = spec.load(ROOT / "studies" / f"{name}.yaml").trials()
    assert (len(expanded), sum(trial.keep == "all" for trial in expanded)) == (trials, kept)


# --- a transfer -----------------------------------------------------------------------------------------


def transfer(**changes):
    """A transfer of two teachers, in a row."""
    study = spec.Study.model_validate(SMALL)
    fields = {
        "student": study.zoo["vit"],
        "teachers": (study.zoo["resnet"], study.zoo["mixer"]),
        "combine": "sequential",
        "order": "ascending",
        "method": study.methods["kl"],
        "budget": study.budget,
        "seed": 3,
    }
    return spec.Transfer(**fields | changes)


def test_a_transfer_from_some_of_its_teachers():
    whole = transfer()
    first, second = whole.teachers
    back = whole.only(second, first)
    assert (back.teachers, back.combine, back.order, back.seed) == (
        (second, first),
        "sequential",
        "listed",
        3,
    )
    one = whole.only(second)
    assert (one.teachers, one.combine, one.student) == ((second,), None, whole.student)


def test_the_result_of_a_transfer_is_a_model_like_the_student():
    """Of a trial as of the transfer that it is."""
    whole = transfer()
    result = whole.result
    assert isinstance(result.weights, spec.Transferred)
    assert result.model_copy(update={"weights": whole.student.weights}) == whole.student
    for field in spec.Transfer.model_fields:
        assert getattr(result.weights, field) == getattr(whole, field)
    trial = spec.Study.model_validate(SMALL).trials()[-1]
    assert type(trial.result.weights) is spec.Transferred


MISMATCHES = [
    ({"combine": None}, "combine: of several teachers, and only of several"),
    ({"teachers": ()}, "combine: of several teachers, and only of several"),
    ({"teachers": (), "combine": None}, "teachers: the method 'kl' needs one"),
    ({"combine": "parallel"}, "learns from one teacher at a time"),
    ({"method": spec.Method(method="xe", lr=0.1)}, "teachers: the method 'xe' has none; remove them"),
]


@pytest.mark.parametrize(("changes", "said"), MISMATCHES, ids=[said for _, said in MISMATCHES])
def test_teachers_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        transfer(**changes)


def test_parallel_teachers_suit_a_method_that_takes_several():
    assert transfer(combine="parallel", method=spec.Method(method="kl_dp", lr=0.1)).combine == "parallel"


# --- views ----------------------------------------------------------------------------------------------


def test_transforms_are_named_with_their_settings():
    views = ["flip", {"shift": 2}, {"resized_crop": {"scale": [0.5, 1]}}, {"mixup": 0.4}]
    budget = spec.Study.model_validate(changed("budget.transforms", views)).budget
    assert budget.transforms == (
        transforms.Flip(),
        transforms.Shift(pixels=2),
        transforms.ResizedCrop(scale=(0.5, 1)),
        transforms.Mixup(alpha=0.4),
    )
    assert spec.Budget.model_validate_json(budget.model_dump_json()) == budget


def test_the_order_of_transforms_and_their_settings_count():
    found = [
        ids(changed("budget.transforms", views))
        for views in (["flip", "shift"], ["shift", "flip"], ["flip", {"shift": 3}], ["flip"], [])
    ]
    for one, other in itertools.combinations(found, 2):
        assert one.isdisjoint(other)


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
    ("zoo.resnet.weights.image", 3, "zoo.resnet.weights.image", "did you mean 'images'?"),
    ("zoo.resnet.weights.phases.0.epocs", 3, "zoo.resnet.weights.phases.0.epocs", "did you mean 'epochs'?"),
    ("pairs", {"student": ["vit"], "teachers": ["resnet"]}, "pairs.student", "did you mean 'students'?"),
    ("methods.kl.temprature", 2, "methods.kl.temprature", "did you mean 'temperature'?"),
    ("budget.epoch", 3, "budget.epoch", "did you mean 'epochs'?"),
    ("budget.colour", 3, "budget.colour", "known are epochs, batch_size,"),
    ("resources.cpu", 3, "resources.cpu", "did you mean 'cpus'?"),
    ("folders.result", "r", "folders.result", "did you mean 'results'?"),
    (
        "methods.kl.weight",
        0.7,
        "methods.kl.weight",
        "known are temperature, student_temperature, method, lr, slow",
    ),
    ("methods.kl.code", "ab12", "methods.kl.code", "unknown key"),
    # unknown names
    ("methods.kll", {"lr": 0.1}, "methods.kll.method", "did you mean 'kl'?"),
    ("methods.mcl.method", "xe_k", "methods.mcl.method", "did you mean 'xe_kl'?"),
    ("data.images.source", "fashon_mnist", "data.images.source", "did you mean 'fashion_mnist'?"),
    (
        "data.images.source",
        "imagenet",
        "data.images.source",
        "known are fashion_mnist, image_folder, torchvision",
    ),
    ("pairs", [["resnet", "vti"]], "pairs", "'vti' is not in the zoo; did you mean 'vit'?"),
    ("pairs", {"students": ["resnt"], "teachers": ["vit"]}, "pairs", "did you mean 'resnet'?"),
    ("pairs", "al", "pairs", "should be 'all'"),
    ("zoo.vit.family", "transformr", "zoo.vit.family", "'transformer'"),
    ("budget.schedule", "cosin", "budget.schedule", "'cosine'"),
    ("budget.schedule", {"drop": [0.5]}, "budget.schedule.drop", "did you mean 'drops'?"),
    ("budget.schedule", {"drops": []}, "budget.schedule.drops", "must not be empty"),
    ("budget.schedule", {"drops": [0.5], "facto": 1}, "budget.schedule.facto", "did you mean 'factor'?"),
    ("budget.schedule", {"drops": [0.9, 0.5]}, "budget.schedule", "each larger than the one before"),
    ("methods.kl.epochs_factor", 0, "methods.kl.epochs_factor", "greater than 0"),
    ("outputs", "cache", "outputs.transfer", "'cached'"),
    ("outputs", 3, "outputs", "should be a mapping"),
    ("outputs.transfr", "live", "outputs.transfr", "did you mean 'transfer'?"),
    ("trackers", ["mlflow", "tensorbord"], "trackers.1", "'tensorboard', 'mlflow' or 'wandb'"),
    ("trackers", "mlflow", "trackers", "valid list"),
    ("budget.precision", "bf16", "budget.precision", "'bfloat16'"),
    ("resources.keep_gib", -1, "resources.keep_gib", "greater than or equal to 0"),
    # missing
    *((section, REMOVED, section, "is missing") for section in ("name", "data", "zoo", "pairs", "budget")),
    ("methods", REMOVED, "methods", "is missing"),
    ("zoo.vit.timm", REMOVED, "zoo.vit.timm", "is missing"),
    ("methods.kl.lr", REMOVED, "methods.kl.lr", "is missing"),
    ("data.images", {"source": "image_folder", "train": "a"}, "data.images.test", "is missing"),
    ("pairs", {"students": ["vit"]}, "pairs.teachers", "is missing"),
    ("zoo", {}, "zoo", "must not be empty"),
    ("pairs", {"students": ["vit"], "teachers": ["vit"]}, "pairs", "no model is paired with another one"),
    ("methods.mcl.slow.tau", REMOVED, "methods.mcl.slow", "exactly one of 'tau' and 'half_life'"),
    # names that become names of files
    ("methods", {"a/b": {"method": "kl", "lr": 0.1}}, "methods.a/b", "may hold letters"),
    # wrong types
    ("budget.epochs", "three", "budget.epochs", "valid integer"),
    ("budget.epochs", 1.5, "budget.epochs", "1.5"),
    ("budget.batch_size", None, "budget.batch_size", "valid integer"),
    ("methods.kl.lr", "fast", "methods.kl.lr", "valid number"),
    ("data.splits.transfer", "many", "data.splits.transfer", "valid"),
    ("data.images", "fashion_mnist", "data.images", "should be a mapping"),
    ("data.images", {}, "data.images.source", "is missing; add it"),
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
    (
        "zoo.resnet.weights.phases.0.epochs",
        0,
        "zoo.resnet.weights.phases.0.epochs",
        "greater than or equal to 1",
    ),
    ("resources.cpus", 0, "resources.cpus", "greater than or equal to 1"),
    ("seeds", [-1], "seeds.0", "greater than or equal to 0"),
    # contradictions
    ("zoo.vit.name", "resnet", "zoo.vit.name", "named by its key; remove 'name'"),
    ("name", "..", "name", "the first a letter or digit"),
    ("data.images.shortside", 3, "data.images.shortside", "did you mean 'short_side'?"),
    ("methods.mcl.slow.half_life", 0.2, "methods.mcl.slow", "exactly one of 'tau' and 'half_life'"),
    # views
    ("budget.transforms", ["flp"], "budget.transforms.0", "did you mean 'flip'?"),
    ("budget.transforms", ["flip", {"shift": {"pixel": 2}}], "budget.transforms.1", "did you mean 'pixels'?"),
    ("budget.transforms", ["flip", "flip"], "budget.transforms", "Flip is listed twice"),
    ("budget.transforms", [{"shift": 1}, {"shift": 2}], "budget.transforms", "Shift is listed twice"),
    ("budget.transforms", ["mixup", "flip"], "budget.transforms", "has to be the last"),
    ("budget.transforms", ["mixup", "cutmix"], "budget.transforms", "the only one"),
    ("budget.transforms", "flip", "budget.transforms", "valid tuple"),
    ("budget.flip", True, "budget.flip", "unknown key"),
    (
        "zoo.resnet.weights.phases.0.transforms",
        ["flp"],
        "zoo.resnet.weights.phases.0.transforms.0",
        "'flip'?",
    ),
    ("budget.evaluate", "always", "budget.evaluate", "'epoch'"),
    # what is expected of the images
    ("data.expected", {"train": 1, "test": 1}, "data.expected.classes", "is missing"),
    ("data.expected", {"train": 1, "test": 1, "classes": 1}, "data.expected.classes", "equal to 2"),
    # weights
    ("zoo.vit.weights", {"source": "hubb"}, "zoo.vit.weights", "did you mean 'hub'?"),
    ("zoo.vit.weights", {"path": "a"}, "zoo.vit.weights", "give 'source'"),
    ("zoo.vit.weights", "hub", "zoo.vit.weights", "should be a mapping"),
    ("zoo.vit.weights", {"source": "file"}, "zoo.vit.weights.path", "is missing"),
    ("zoo.vit.weights", {"source": "seed"}, "zoo.vit.weights.seed", "is missing"),
    ("zoo.vit.weights", {"source": "file", "pth": "a"}, "zoo.vit.weights.pth", "did you mean 'path'?"),
    ("zoo.resnet.weights.phases", [], "zoo.resnet.weights.phases", "must not be empty"),
    ("zoo.resnet.weights.images", 0, "zoo.resnet.weights.images", "greater than 0"),
    ("zoo.resnet.weights.start", "vti", "zoo.resnet.weights", "'vti' is not in the zoo; did you mean 'vit'?"),
    ("zoo.resnet.weights.start", "resnet", "zoo.resnet.weights", "(resnet → resnet); break the circle"),
    ("zoo.resnet.weights.start", {"source": "fil"}, "zoo.resnet.weights.start", "did you mean 'file'?"),
    # several teachers
    ("several", [SEVERAL | {"teachers": ["vit", "mixr"]}], "several.0.teachers", "did you mean 'mixer'?"),
    ("several", [SEVERAL, SEVERAL | {"students": ["resnt"]}], "several.1.students", "did you mean 'resnet'?"),
    ("several", [SEVERAL | {"teachers": ["vit", "vit"]}], "several.0.teachers", "a teacher is listed twice"),
    ("several", [SEVERAL | {"teachers": ["vit"]}], "several.0.teachers", "at least 2"),
    ("several", [SEVERAL | {"methods": ["kll"]}], "several.0.methods", "no method 'kll'; did you mean 'kl'?"),
    (
        "several",
        [SEVERAL | {"methods": ["kl", "xe"]}],
        "several.0.methods",
        "'xe' does not learn from several",
    ),
    (
        "several",
        [SEVERAL | {"methods": ["kl"], "combine": ["parallel"]}],
        "several.0.methods",
        "'kl' does not learn from several teachers at once; leave out 'parallel', or it",
    ),
    ("several", [SEVERAL | {"combine": ["mean"]}], "several.0.combine.0", "'soup'"),
    ("several", [SEVERAL | {"combine": []}], "several.0.combine", "must not be empty"),
    ("several", [SEVERAL | {"order": ["up"]}], "several.0.order.0", "'ascending'"),
    ("several", [SEVERAL | {"teacher": 1}], "several.0.teacher", "did you mean 'teachers'?"),
]


@pytest.mark.parametrize(
    ("place", "value", "field", "remedy"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_mistake_is_told_with_file_field_and_remedy(write_study, place, value, field, remedy):
    message = complaint(write_study(changed(place, value)))
    assert message.startswith(f"{field}: ")
    assert remedy in message


MADE_MISTAKES = [
    ("taught.weights.student", "trainde", "zoo.taught.weights", "did you mean 'trained'?"),
    ("taught.weights.teachers", ["mixer", "resnt"], "zoo.taught.weights", "did you mean 'resnet'?"),
    ("soup.weights.models", ["vit", "taugt"], "zoo.soup.weights", "did you mean 'taught'?"),
    ("soup.weights.models", ["vit"], "zoo.soup.weights.models", "at least 2"),
    ("soup.weights.models", [], "zoo.soup.weights.models", "at least 2"),
    ("soup.weights.models", [3, 4], "zoo.soup.weights.models.0", "should be a mapping"),
    ("soup.weights.models", ["vit", "mixer"], "zoo.soup.weights", "'vit' (vit_tiny_patch16_224) and 'mixer'"),
    ("soup.weights.models", ["vit", "small"], "zoo.soup.weights", "are not of one architecture; a soup"),
    ("taught.weights.method.temprature", 2, "zoo.taught.weights.method.temprature", "mean 'temperature'?"),
    ("taught.weights.method", REMOVED, "zoo.taught.weights.method", "is missing"),
    ("taught.weights.combine", REMOVED, "zoo.taught.weights", "combine: of several teachers, and only"),
    ("taught.weights.combine", "parallel", "zoo.taught.weights", "learns from one teacher at a time"),
    ("taught.weights.method.method", "xe", "zoo.taught.weights", "the method 'xe' has none; remove them"),
    ("taught.weights.teachers", ["mixer"], "zoo.taught.weights", "combine: of several teachers, and only"),
    ("taught.weights.teachers", [], "zoo.taught.weights", "combine: of several teachers, and only"),
    ("vit", 3, "zoo.vit", "should be a mapping"),
    ("soup.weights.models", ["vit", {"tim": "x"}], "zoo.soup.weights.models.1.tim", "did you mean 'timm'?"),
    ("taught.weights.student", {"timm": 3}, "zoo.taught.weights.student.timm", "valid string"),
    ("taught.weights.teachers", ["vit", {"timm": "x"}], "zoo.taught.weights.teachers.1.family", "missing"),
    ("trained.weights.start", {"source": "seed", "sed": 1}, "zoo.trained.weights.start.sed", "mean 'seed'?"),
    ("vit.timm", REMOVED, "zoo.vit.timm", "is missing"),
]


@pytest.mark.parametrize(
    ("place", "value", "field", "remedy"),
    MADE_MISTAKES,
    ids=[f"{m[0]}-{i}" for i, m in enumerate(MADE_MISTAKES)],
)
def test_mistake_in_what_is_made_is_told_where_it_was_written(write_study, place, value, field, remedy):
    small = SMALL["zoo"]["vit"] | {"kwargs": {"depth": 1}}
    path = write_study({})
    path.write_text(yaml.safe_dump(changed(f"zoo.{place}", value, with_made(small=small)), sort_keys=False))
    message = complaint(path)
    assert message.startswith(f"{field}: ")
    assert remedy in message


def test_a_circle_is_shown(write_study):
    content = changed("zoo.trained.weights.start", "soup", with_made())
    assert "(soup → taught → trained → soup); break the circle" in complaint(write_study(content))


def test_further_mistakes_are_counted(write_study):
    content = changed("budget", {"epochs": 0, "batch_size": 0})
    assert complaint(write_study(content)).endswith("(and 1 more)")


# --- a study based on another one -------------------------------------------------------------------------


def write_file(path, **content):
    """A YAML file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_study_takes_over_the_sections_it_has_not(tmp_path):
    write_file(tmp_path / "base.yaml", **SMALL, **{".look": {"crop_pct": 1.0}})
    budget = {"epochs": 3, "batch_size": 4}
    path = write_file(tmp_path / "own.yaml", based_on="base.yaml", name="own", budget=budget)
    assert spec.load(path) == spec.Study.model_validate(SMALL | {"name": "own", "budget": budget})


def test_what_it_is_based_on_lies_beside_it_and_may_be_based_on_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "a" / "base.yaml", **SMALL)
    write_file(tmp_path / "a" / "b" / "second.yaml", based_on="../base.yaml", name="second", seeds=[1])
    path = write_file(tmp_path / "third.yaml", based_on="a/b/second.yaml", name="third")
    assert spec.load(path) == spec.Study.model_validate(SMALL | {"name": "third", "seeds": [1]})


@pytest.mark.parametrize("on", ["own.yaml", "./other.yaml"])
def test_a_study_based_on_itself_is_told(tmp_path, on):
    write_file(tmp_path / "other.yaml", based_on="own.yaml")
    path = write_file(tmp_path / "own.yaml", based_on=on, name="own")
    with pytest.raises(StudyError, match=r"based_on: name another study's file \(it says '") as told:
        spec.load(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("on", [3, ["base.yaml"], {"base": 1}], ids=str)
def test_a_base_that_is_no_name_is_told(tmp_path, on):
    assert "based_on: name another study's file" in complaint(write_file(tmp_path / "own.yaml", based_on=on))


def test_a_base_that_is_not_there_is_told(tmp_path):
    path = write_file(tmp_path / "own.yaml", based_on="absent.yaml", name="own")
    with pytest.raises(StudyError, match=r"absent\.yaml: the study cannot be read .*; check the path"):
        spec.load(path)


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
