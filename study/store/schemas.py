"""What a trial leaves behind: Parquet tables with explicit schemas.

Transfer, one file a trial and one a study, under the results folder:

- `trials/<trial>.parquet`: one row, what was run and what came of it;
- `predictions/<trial>.parquet`: one row an evaluation sample, what the three models said of it;
- `history/<trial>.parquet`: one row an epoch of the transfer; none of a soup, which is an average;
- `evaluations/<trial>.parquet`: one row another evaluation set, where the study names such (`data.also`);
- `gallery/<trial>.parquet`: one row a picture, of some trials (`study.gallery`);
- `plans/<study>.parquet`: one row a trial the study now consists of. A study that was edited leaves
  the records of its former trials where they are; the plan says which ones count.

The atlas of complementary knowledge, one file a model and one a study:

- `models/<model>.parquet`: one row, what was run and how good it is;
- `model_predictions/<model>.parquet`: one row a sample, what the model said of it;
- `model_classes/<model>.parquet`: one row a class and split, how its probabilities vary within the class;
- `soft_labels/<model>.parquet`: one row a class, other class and split, its mean probability of that;
- `centres/<model or trial>.parquet`: one row a class, other class and split, how far they are before the last
  layer (`study.geometry`), where a study asks for it;
- `projections/<model or trial>.parquet`: one row a sample, plane and split, where it lies there, likewise;
- `atlas/<study>.parquet`: one row a model the atlas now consists of, as `plans` does for trials;
- `pairs/<study>.parquet`: one row an ordered pair of those models;
- `pair_classes/<study>.parquet`: one row a class of some pairs, where their positive flips lie;
- `classes/<study>.parquet`: one row a class, its name and what the name means (an embedding).

The recommender (`study.recommend`), one file a study:

- `features/<study>.parquet`: one row a pair of a student and a teacher, before any training;
- `recommendations/<study>.parquet`: one row a pair, method and rule: how the rule ranks the teacher.

Augmentations ranked before any student is trained (`study.schemes`), one file a measurement:

- `augmentations/<measurement>.parquet`: one row, how a teacher's probabilities vary under one.

Every column carries its description in the field's Parquet metadata (`describe`), from which
`python -m study.store.schemas` makes `docs/records.md`. The files are written by `study.store.records`, and
those of many trials merged into large ones, with the same columns and rows, by `study.store.compaction`.
"""

from __future__ import annotations

import pyarrow as pa


def _schema(table: str, *columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    fields = [pa.field(name, kind, metadata={"description": text}) for name, kind, text in columns]
    return pa.schema(fields, metadata={"table": table, "schema_version": "2"})


_F, _I, _S = pa.float64(), pa.int64(), pa.string()
_NAMES, _BY_NAME = pa.list_(_S), pa.map_(_S, _F)
_TRIAL = ("trial", _S, "id of the trial: a hash of everything that can change its result")
_TEACHERS = (
    (
        "teacher",
        _S,
        "name of the teacher in the study's zoo; of several their names, in the order in which they taught, "
        "joined by ' + '; null for methods without one",
    ),
    ("teachers", _NAMES, "names of the teachers, in that order; empty for methods without one"),
    (
        "combine",
        _S,
        "how several teachers teach: 'sequential' (one after the other), 'parallel' (of each sample the most "
        "confident one), 'soup' (the mean of students that one each taught) or 'greedy_soup' (of some "
        "of these); null for one or none",
    ),
    (
        "order",
        _S,
        "of a sequence: 'listed' (as in the study), 'ascending' or 'descending' (by top-1); null elsewhere",
    ),
)
_LICENSED = "as timm says it of the hub's, and of those these are made from; null where it says none"
_ONE = "null without one, and where there are several"

_IMBALANCE = (
    "class_imbalance",
    _F,
    "rho, images of the largest over those of the smallest class of what models are trained on, as the study "
    "asks for it; null where it does not",
)
_KEPT = " (null where too few classes are kept to know)"

_MEASURED = (
    ("evaluation_samples", _I, "samples evaluated; times any share below: a whole number"),
    ("student_accuracy_before", _F, "top-1 accuracy of the student before transfer"),
    ("teacher_accuracy", _F, f"top-1 accuracy of the teacher; {_ONE}, as all that compares with it"),
    ("student_accuracy_after", _F, "top-1 accuracy of the student after transfer"),
    ("accuracy_difference", _F, "Delta_acc: teacher's minus student's accuracy before transfer"),
    ("transfer_delta", _F, "Delta_transf: student's accuracy after minus before"),
    ("rho_pos_before", _F, "positive flips before: teacher right, student wrong (complementary knowledge)"),
    ("rho_neg_before", _F, "negative flips before: teacher wrong, student right"),
    ("rho_pos_after", _F, "positive flips of the same teacher that remain after transfer"),
    ("rho_neg_after", _F, "negative flips after transfer"),
    ("knowledge_gain", _F, "share of samples the student got wrong before and right after"),
    ("knowledge_loss", _F, "share of samples the student got right before and wrong after"),
    (
        "transfer_rate",
        _F,
        "share of the positive flips that the student got right afterwards; null if there were none",
    ),
    *(
        (f"student_{name}_{when}", _F, f"{text}, {when} transfer")
        for name, text in (
            (
                "top5_accuracy",
                f"share of samples whose true class is among the student's five largest{_KEPT}",
            ),
            (
                "negative_log_likelihood",
                f"mean of -log of the student's probability of the true class{_KEPT}",
            ),
            ("calibration_error", "expected calibration error of the student, 15 bins (arXiv 1706.04599)"),
        )
        for when in ("before", "after")
    ),
)

_SOFTENED = "mean over the transfer set as it is shown, over all epochs"
_SOFTNESS = (
    (
        "teacher_transfer_accuracy",
        _F,
        f"share of the transfer set, as it is shown, of which the teacher is right, over all epochs; {_ONE}, "
        "and of mixed images",
    ),
    (
        "teacher_entropy_at_t",
        _F,
        "entropy of the teacher's probabilities at the temperature, in nats, "
        f"{_SOFTENED}: a cross-entropy with them is KL plus this; {_ONE}",
    ),
    (
        "teacher_off_target",
        _F,
        "gamma, (1 - the teacher's probability of the true class at the temperature) * K / (K - 1), "
        f"{_SOFTENED} (arXiv 1906.02629); {_ONE}, and of mixed images",
    ),
    (
        "teacher_intra_class_variance",
        _F,
        "1 - S, as `intra_class_variance` of `models`, of the teacher's probabilities at the temperature on "
        f"the transfer set as it is shown, mean over epochs; {_ONE}, and of mixed images",
    ),
)

_FLIPS_TAUGHT = tuple(
    (
        f"{sign}_flips_taught",
        _F,
        f"share of the {sign} flips between teacher and frozen student, on views of the transfer set, that "
        "the teacher taught; null where nothing is partitioned, and with several teachers",
    )
    for sign in ("positive", "negative")
)

_AUGMENTATION = (
    (
        "augmentation",
        _S,
        "names of the second input's transforms, joined by ', '; 'identity' where it is the first one again; "
        "null where there is none",
    ),
    (
        "augmentation_pick",
        _S,
        "by what its samples are picked among candidates: 'teacher_entropy', 'student_entropy' or 'kl'; null "
        "where they are not",
    ),
    (
        "augmentation_draw",
        _S,
        "whether each 'sample' has draws of its own, or all samples of a 'batch' have the same; null without",
    ),
)
_OVER = "over windows of five batches and their copies, on the transfer set; null without a second input"
_DIVERSITY = (
    (
        "teacher_stddev",
        _F,
        "T. stddev (arXiv 2012.02909, Eq. 10): mean over classes of the standard deviation of the teacher's "
        f"mean probability {_OVER}, as all that follows",
    ),
    ("teacher_stddev_error", _F, "its standard error, by the jackknife over windows"),
    ("teacher_stddev_windows", _I, "windows, of the last ten epochs at most"),
    ("teacher_stddev_samples", _I, "samples of a window, originals and copies"),
    ("teacher_stddev_augmented", _F, "the same measure of the windows' copies alone"),
    (
        "teacher_covariance",
        _F,
        "mean over classes of the covariance, over windows, of mean probabilities of originals and copies",
    ),
    ("teacher_entropy", _F, "mean entropy of the teacher's probabilities of originals, in nats"),
    ("teacher_entropy_augmented", _F, "mean entropy of the teacher's probabilities of copies, in nats"),
    ("teacher_entropy_stddev", _F, "standard deviation over windows of their mean entropy, in nats"),
)

TRIALS = _schema(
    "trials",
    _TRIAL,
    ("study", _S, "name of the study that ran the trial"),
    ("status", _S, "'ok', or 'failed' (then `reason` says why and the measures are null)"),
    ("reason", _S, "why a failed trial failed; null for 'ok'"),
    ("student", _S, "name of the student in the study's zoo"),
    ("student_timm", _S, "the student's timm architecture"),
    ("student_family", _S, "'cnn', 'transformer' or 'mlp'"),
    ("student_parameters", _I, "parameters of the student"),
    (
        "student_source",
        _S,
        "of the student's weights before transfer, as in `models`; 'seed': it is trained from scratch, and "
        "no success or failure of a transfer",
    ),
    (
        "student_label_smoothing",
        _F,
        "label smoothing alpha that the student's weights before transfer were last trained with; null where "
        "it is unknown, and of initial weights",
    ),
    ("student_weights", _S, "SHA-256 of the student's weights before transfer (all tensors, in order)"),
    ("student_weights_after", _S, "SHA-256 of the student's weights after transfer"),
    ("kept", _S, "folder under the zoo folder that holds the student after transfer; null where not kept"),
    ("student_license", _S, f"licences of the student's weights before transfer, {_LICENSED}"),
    *_TEACHERS,
    ("teacher_timm", _S, f"the teacher's timm architecture; {_ONE}"),
    ("teacher_family", _S, f"'cnn', 'transformer' or 'mlp'; {_ONE}"),
    ("teacher_license", _S, f"licences of the teacher's weights, {_LICENSED}; {_ONE}"),
    ("teacher_parameters", _I, f"parameters of the teacher; {_ONE}"),
    ("teacher_weights", _S, f"SHA-256 of the teacher's weights (all tensors, in order); {_ONE}"),
    (
        "teacher_label_smoothing",
        _F,
        f"label smoothing alpha that the teacher was last trained with; null where it is unknown; {_ONE}",
    ),
    (
        "teacher_twin",
        _S,
        "hash of what the teacher is trained by, names and smoothing left out: the same for teachers that "
        f"differ in smoothing alone; null where the study does not train it; {_ONE}",
    ),
    ("method", _S, "name of the method in the study"),
    (
        "search",
        _S,
        "entry of the study whose settings are searched, of which this is one combination; else null",
    ),
    ("settings", _S, "every setting of the method by its path, such as 'slow.tau', as JSON"),
    ("reads_labels", pa.bool_(), "whether its objective is given labels, of any images"),
    ("lr", _F, "peak learning rate"),
    ("temperature", _F, "distillation temperature T; null where nothing is distilled"),
    (
        "student_temperature",
        _F,
        "temperature of the student's probabilities: T, where it has none of its own",
    ),
    ("weight", _F, "lambda, the weight of KL against cross-entropy in XE-KL; null elsewhere"),
    *_AUGMENTATION,
    ("slow_decay", _F, "tau of the slow weights actually used; null without slow weights"),
    ("slow_every", _I, "steps between two updates of the slow weights; null without"),
    (
        "interpolation",
        _F,
        "share of the way from the weights before to those after transfer (of a sequence, its last stage) "
        "at which the student lies; null where it went all of it and nothing was chosen",
    ),
    (
        "soup",
        _S,
        "teachers whose students a soup averages, in the order they were added in, as 'a + b'; else null",
    ),
    (
        "classes_taught",
        pa.list_(_I),
        "classes, by number, whose samples a teacher teaches (of a sequence, the last one); null where the "
        "method chooses no classes",
    ),
    ("epochs", _I, "epochs over the transfer set; in a sequence, with each teacher"),
    ("batch_size", _I, "samples a step"),
    ("optimizer", _S, "'sgd', 'adamw', or timm's name of another one"),
    ("momentum", _F, "momentum, of optimisers that have one"),
    ("weight_decay", _F, "weight decay"),
    (
        "schedule",
        _S,
        "learning-rate schedule: 'constant', 'cosine' or 'linear' (to 0), 'one_cycle', or 'drops'",
    ),
    (
        "transforms",
        _S,
        "names of the transfer view's transforms, joined by ', '; '' where samples are shown as they are",
    ),
    ("seed", _I, "seed of the trial: sample order, dropout"),
    ("data", _S, "source of the images"),
    ("data_name", _S, "what the study calls its data; their source where it does not say"),
    ("data_sha256", _S, "SHA-256 of the .beton file the trial read"),
    ("classes", _I, "number of classes"),
    _IMBALANCE,
    ("precision", _S, "what models computed in: 'float32', 'bfloat16' or 'float16'"),
    ("transfer_samples", _I, "samples in the transfer set"),
    (
        "evaluated_on",
        _S,
        "split that the student was scored on: 'evaluation', or 'tune' where choices are made",
    ),
    *_MEASURED,
    (
        "student_intra_class_variance_after",
        _F,
        "1 - S, as `intra_class_variance` of `models`, of the student after transfer on the same samples",
    ),
    (
        "student_best_temperature_after",
        _F,
        "temperature at which the student after transfer gives the labels of `tune` most probability; of "
        "students from scratch alone",
    ),
    (
        "student_scaled_negative_log_likelihood_after",
        _F,
        "as `student_negative_log_likelihood_after`, at that temperature",
    ),
    (
        "teacher_share",
        _F,
        "share of training samples taught by a teacher, not the frozen student, over all epochs; null where "
        "nothing is partitioned",
    ),
    *_FLIPS_TAUGHT,
    *_SOFTNESS,
    *_DIVERSITY,
    ("seconds_load", _F, "seconds to load models and frozen outputs"),
    ("seconds_train", _F, "seconds of the transfer itself"),
    ("seconds_evaluate", _F, "seconds of evaluation"),
    ("seconds", _F, "seconds of the whole trial"),
    ("device", _S, "device the trial ran on"),
    ("host", _S, "host the trial ran on"),
    ("finished", pa.timestamp("us", tz="UTC"), "when the trial finished"),
    ("python_version", _S, "version of Python"),
    ("torch_version", _S, "version of torch"),
    ("timm_version", _S, "version of timm"),
    ("study_version", _S, "version of this project"),
    ("spec", _S, "the whole trial as JSON: `study.spec.Trial.model_validate_json` gives it back"),
)

PREDICTIONS = _schema(
    "predictions",
    _TRIAL,
    ("index", _I, "index of the sample in the .beton file"),
    ("label", pa.int32(), "true class; null where nobody has said it"),
    ("student_before", pa.int32(), "class the student predicted before transfer"),
    ("student_before_confidence", pa.float32(), "its softmax probability"),
    ("teacher", pa.int32(), f"class the teacher predicted; {_ONE}"),
    ("teacher_confidence", pa.float32(), "its softmax probability"),
    ("student_after", pa.int32(), "class the student predicted after transfer"),
    ("student_after_confidence", pa.float32(), "its softmax probability"),
)

HISTORY = _schema(
    "history",
    _TRIAL,
    ("epoch", _I, "epoch, from 0; of a sequence it goes on over the stages"),
    ("stage", _I, "stage of a sequence, from 0, one a teacher; 0 elsewhere"),
    ("teacher", _S, "who taught in the stage: one of a sequence; else as `trials` has it"),
    ("loss", _F, "mean training loss of the epoch"),
    ("lr", _F, "learning rate at the epoch's last step"),
    (
        "teacher_share",
        _F,
        "share of the epoch's samples taught by a teacher, not the frozen student; null where nothing is "
        "partitioned",
    ),
    *_FLIPS_TAUGHT,
    ("seconds", _F, "seconds the epoch took"),
    (
        "student_accuracy",
        _F,
        "top-1 accuracy of the student after the epoch, before any interpolation; it and the next four are "
        "null where the study says `evaluate: end` and it is not the last epoch",
    ),
    ("knowledge_gain", _F, "share of samples the student before transfer got wrong, right after the epoch"),
    ("knowledge_loss", _F, "share of samples the student before transfer got right, wrong after the epoch"),
    ("stage_gain", _F, "share of samples the student before the stage got wrong, right after the epoch"),
    ("stage_loss", _F, "share of samples the student before the stage got right, wrong after the epoch"),
    (
        "tune_accuracy",
        _F,
        "top-1 accuracy of the student after the epoch on the images kept aside for choices; null where "
        "there are none, or the study does not say `evaluate: epoch`",
    ),
    (
        "teacher_accuracy",
        _F,
        "top-1 accuracy after the epoch of the teacher where it learns, too; null elsewhere",
    ),
    (
        "teacher_entropy",
        _F,
        "mean entropy of the teacher's probabilities at the temperature, in nats, of the epoch's samples; "
        "of 'kl' loss / T^2 plus this is the cross-entropy; null without one, and where there are several",
    ),
    (
        "watched_accuracy",
        _F,
        "top-1 accuracy of the student after the epoch on the images that the study watches; null where it "
        "watches none, and in epochs in which it does not",
    ),
    ("watched_nll", _F, "mean of -log of the student's probability of the true class of those images"),
    (
        "measures",
        _BY_NAME,
        "what the objective measures beside its loss, by name: means over the epoch's samples",
    ),
)

EVALUATIONS = _schema(
    "evaluations",
    _TRIAL,
    ("set", _S, "name of the other evaluation set in the study"),
    ("data", _S, "source of its images"),
    ("data_sha256", _S, "SHA-256 of the .beton file that was read"),
    ("classes", _I, "number of its classes"),
    *_MEASURED,
)

PLANS = _schema(
    "plans",
    _TRIAL,
    ("study", _S, "name of the study that consists of these trials"),
    ("student", _S, "name of the student in the study's zoo"),
    *_TEACHERS,
    ("method", _S, "name of the method in the study"),
    ("seed", _I, "seed of the trial"),
)

_IN_FULL = "null where only the largest classes are kept"
_SPREAD = (
    (
        "intra_class_variance",
        _F,
        "1 - S of arXiv 2104.00676, Eq. 2: squared distance of a sample's probabilities from the mean of its "
        "class, mean over the class's samples and then over classes, in [0, 1 - 1/K]; where only the largest "
        "classes are kept, with the rest spread evenly over the others",
    ),
    ("intra_class_variance_low", _F, "what it is at least; the same where all classes are kept"),
    ("intra_class_variance_high", _F, "what it is at most; the same where all classes are kept"),
    (
        "true_class_variance",
        _F,
        f"variance of the true class's probability within a class, mean over classes; {_IN_FULL}",
    ),
    (
        "true_class_sd",
        _F,
        f"standard deviation of the true class's probability within a class, mean over classes; {_IN_FULL}",
    ),
    (
        "spread_ratio",
        _F,
        "mean over classes of the standard deviation within the class of what logits say of the other "
        "classes, over the margin of the true one: does not change with the logits' scale (this project's); "
        f"{_IN_FULL}, of two classes, and where a class's own logit is not above the others'",
    ),
    ("brier", _F, f"Brier score: mean squared distance of the probabilities from the label's; {_IN_FULL}"),
    (
        "off_target_mass",
        _F,
        "gamma: mean of 1 - the true class's probability, times K / (K - 1); of a perfect fit to smoothed "
        f"labels their alpha (arXiv 1906.02629); {_IN_FULL}",
    ),
    ("entropy", _F, f"mean entropy of the probabilities, in nats; {_IN_FULL}"),
    (
        "confidence_q99",
        _F,
        "99 % quantile of the largest probability where the prediction is right; null where none is",
    ),
    ("nll", _F, f"mean of -log of the true class's probability{_KEPT}"),
    ("calibration_error", _F, "expected calibration error, 15 bins (arXiv 1706.04599)"),
)
_OF_TRANSFER = tuple(
    (
        f"transfer_{name}",
        _F,
        f"`{name}` on the transfer set, as the model sees it; null where that is the split itself, or larger",
    )
    for name in (
        *("accuracy", "nll", "intra_class_variance", "true_class_sd", "spread_ratio", "off_target_mass"),
        "entropy",
    )
)
_MODEL = ("model", _S, "id of the model on the split: a hash of everything that can change what it says")
_PAIR = (
    ("student", pa.dictionary(pa.int32(), _S), "name of the student"),
    ("teacher", pa.dictionary(pa.int32(), _S), "name of the teacher"),
)

MODELS = _schema(
    "models",
    _MODEL,
    ("study", _S, "name of the study that ran the model"),
    ("status", _S, "'ok', or 'failed' (then `reason` says why and the measures are null)"),
    ("reason", _S, "why a failed model failed; null for 'ok'"),
    ("name", _S, "name of the model: its key in the study's zoo, or its timm name"),
    ("timm", _S, "timm architecture, with the tag of its weights where they are the hub's"),
    ("family", _S, "'cnn', 'transformer' or 'mlp'"),
    (
        "source",
        _S,
        "of the weights: 'hub', 'file', 'seed' (random weights: the chance level), 'trained', 'transferred', "
        "'averaged' or 'grafted'",
    ),
    ("parameters", _I, "parameters of the model"),
    ("weights", _S, "SHA-256 of the weights (all tensors, in order)"),
    ("input_size", _I, "side of the model's input in pixels"),
    ("crop_pct", _F, "share of the image that its crop keeps along a side"),
    ("crop_mode", _S, "'center' (a square of the shorter side) or 'squash' (of both sides, made square)"),
    ("interpolation", _S, "how the crop is resized to the input"),
    ("data", _S, "source of the images"),
    ("data_sha256", _S, "SHA-256 of the .beton file the model read"),
    ("split", _S, "split of the data"),
    ("samples", _I, "samples of the split; times any share: a whole number"),
    ("classes", _I, "number of classes"),
    _IMBALANCE,
    ("license", _S, f"licences of the model's weights, {_LICENSED}"),
    ("accuracy", _F, "top-1 accuracy on the split"),
    ("top5_accuracy", _F, f"share of samples whose true class is among the five largest{_KEPT}"),
    ("published_accuracy", _F, "timm's published ImageNet top-1 at this input size; null where unknown"),
    (
        "label_smoothing",
        _F,
        "label smoothing alpha that the weights were last trained with, in torch's convention; null where "
        "it is unknown",
    ),
    (
        "label_smoothing_source",
        _S,
        "who says so: 'recipe' (the study trains it) or 'table' (what is known of the tag of timm's weights, "
        "study/models/timm_smoothing.csv); null where it is unknown",
    ),
    (
        "twin",
        _S,
        "hash of what the model is trained by, names and smoothing left out: the same for models that differ "
        "in smoothing alone; null where the study does not train it",
    ),
    *_SPREAD,
    *_OF_TRANSFER,
    (
        "penultimate",
        _I,
        "width of what the last layer is given; null where that is not one linear layer, and of models that "
        "an earlier version ran",
    ),
    ("outputs", _S, "key of the model's outputs in the outputs store"),
    ("batch_size", _I, "samples a forward pass, after what memory allowed"),
    ("seconds", _F, "seconds to load the model, run it and look at its outputs"),
    ("device", _S, "device the model ran on"),
    ("host", _S, "host the model ran on"),
    ("finished", pa.timestamp("us", tz="UTC"), "when it finished"),
    ("python_version", _S, "version of Python"),
    ("torch_version", _S, "version of torch"),
    ("timm_version", _S, "version of timm"),
    ("study_version", _S, "version of this project"),
    ("spec", _S, "the model as JSON: `study.spec.Model.model_validate_json` gives it back"),
)

MODEL_PREDICTIONS = _schema(
    "model_predictions",
    _MODEL,
    ("index", _I, "index of the sample in the .beton file"),
    ("label", pa.int32(), "true class"),
    ("predicted", pa.int32(), "class the model predicted"),
    ("confidence", pa.float32(), "its softmax probability"),
)

_SPLIT = ("split", _S, "split of the data")
_CLASS = ("class", pa.int32(), "true class of the samples")

MODEL_CLASSES = _schema(
    "model_classes",
    _MODEL,
    _SPLIT,
    _CLASS,
    ("samples", _I, "samples of the class in the split, of which all that follows are means"),
    ("right", _I, "how many of them the model is right about"),
    ("true_mean", _F, "the true class's probability"),
    ("true_square", _F, "its square"),
    ("square", _F, "squared length of all probabilities; less `mean_square`, 1 - S of the class"),
    ("mean_square", _F, "squared length of the mean of the probabilities"),
    ("margin", _F, "logit of the true class above the mean of the others"),
    (
        "spread",
        _F,
        "root of the mean over other classes of the variance of their logit less the mean of all others",
    ),
    (
        "radius",
        _F,
        "root mean square distance of its penultimate activations from their mean; null, as all that follows,"
        " where the study asks for no geometry, and where the logits are not those of one linear layer",
    ),
    ("nearest", pa.int32(), "class whose mean is nearest to the class's own"),
    ("nearest_distance", _F, "how far it is"),
    ("mean_distance", _F, "how far the means of the other classes are, mean over them"),
)

SOFT_LABELS = _schema(
    "soft_labels",
    ("id", _S, "id of the model, as `models` has it"),
    _SPLIT,
    _CLASS,
    (
        "other",
        pa.int32(),
        "a class, the true one among them: all, or of more than 100 the 20 of largest probability, the "
        "largest first, and then null for all others together",
    ),
    ("probability", _F, "mean probability that the model gives it"),
)

_OWNER = ("id", _S, "id of the model, as `models` has it, or of the trial whose student it is after transfer")

CENTRES = _schema(
    "centres",
    _OWNER,
    _SPLIT,
    _CLASS,
    (
        "other",
        pa.int32(),
        "another class: all, or of more than 100 the 20 of nearest mean, the nearest first",
    ),
    ("distance", _F, "distance of the two classes' mean penultimate activations"),
    ("relative_distance", _F, "over its mean over all pairs of classes"),
    (
        "separation",
        _F,
        "distance over the root mean square of the two classes' radii: in units of their spread",
    ),
    ("radius", _F, "root mean square distance of the class's activations from their mean"),
    (
        "equidistance",
        _F,
        "standard deviation over the class's samples of their distance to the other class's template, over "
        "its mean: 0 where all are as far",
    ),
)

PROJECTIONS = _schema(
    "projections",
    _OWNER,
    _SPLIT,
    ("plane", _S, "names of the three classes through whose templates the plane goes, as 'a + b + c'"),
    _CLASS,
    ("index", _I, "index of the sample in the .beton file"),
    ("x", _F, "coordinate along the way from the first to the second template"),
    ("y", _F, "coordinate across it, towards the third"),
)

ATLAS = _schema("atlas", _MODEL, ("study", _S, "name of the study whose atlas consists of these models"))

PAIRS = _schema(
    "pairs",
    *_PAIR,
    ("samples", _I, "samples of the split; times any share: a whole number"),
    ("rho_pos", _F, "positive flips: teacher right, student wrong (complementary knowledge)"),
    ("rho_neg", _F, "negative flips: teacher wrong, student right"),
    ("accuracy_difference", _F, "Delta_acc: teacher's minus student's accuracy; always rho_pos - rho_neg"),
    ("agreement", _F, "share of samples for which both predict the same class"),
    (
        "error_consistency",
        _F,
        "Cohen's kappa of being right or wrong together; null where chance leaves no room",
    ),
    (
        "flip_entropy",
        _F,
        "entropy of the positive flips over classes / log(classes): 1 is uniform; null without flips",
    ),
    ("union_accuracy", _F, "share of samples that at least one of the two gets right"),
    (
        "ensemble_accuracy",
        _F,
        "accuracy of the mean of both models' probabilities; null where these are not kept in full, and for "
        "zoos for which it takes too long",
    ),
    (
        "kappa_p",
        _F,
        "CAPA (arXiv 2502.04313): how much more alike the two models' probabilities are than if they erred "
        "independently; 1 for the same and sure ones; null where probabilities are not kept in full",
    ),
)

PAIR_CLASSES = _schema(
    "pair_classes",
    *_PAIR,
    ("class", pa.int32(), "true class of the samples"),
    ("samples", _I, "samples of the class in the split"),
    (
        "flips",
        _I,
        "positive flips among them; of all pairs of trained models, or of 466 drawn with seed 0",
    ),
)

CLASSES = _schema(
    "classes",
    ("class", pa.int32(), "class, as labels and predictions number it"),
    ("name", _S, "its name, in words where they are known"),
    (
        "embedder",
        _S,
        "text model that embedded the class and what it read, as in 'clip: plain names'; null without one",
    ),
    (
        "embedding",
        pa.list_(pa.float32()),
        "embedding of that text, of length 1; null without a text model",
    ),
)


_SURE = "its probability of that class"
GALLERY = _schema(
    "gallery",
    _TRIAL,
    (
        "kind",
        _S,
        "'known' (before the transfer the teacher was right and the student wrong), 'gained' (the student "
        "was wrong before and is right after) or 'lost' (the reverse)",
    ),
    ("of", _I, "samples of this kind in the trial, of which this is one drawn by chance"),
    ("index", _I, "index of the sample in the .beton file"),
    ("picture", pa.binary(), "the whole image, small, as WebP"),
    ("label", _S, "its class, in words where they are known"),
    ("student_before", _S, "the class that the student said before the transfer"),
    ("student_before_confidence", pa.float32(), _SURE),
    ("teacher", _S, "the class that the teacher said"),
    ("teacher_confidence", pa.float32(), _SURE),
    ("student_after", _S, "the class that the student said after the transfer"),
    ("student_after_confidence", pa.float32(), _SURE),
)


# What a pair is described by before any training, from one forward pass of each model over `tune`.
PAIR_FEATURES = (
    ("teacher_accuracy", _F, "top-1 accuracy of the teacher"),
    ("accuracy_difference", _F, "Delta_acc: teacher's minus student's accuracy"),
    ("rho_pos", _F, "positive flips: teacher right, student wrong"),
    ("rho_neg", _F, "negative flips: teacher wrong, student right"),
    ("flip_entropy", _F, "entropy of the positive flips over classes / log(classes); null without flips"),
    ("kappa_p", _F, "CAPA, as `pairs` has it"),
    (
        "spread",
        _F,
        "standard deviation over samples of the logarithm of the teacher's over the student's probability of "
        "the true class",
    ),
    ("ensemble_gain", _F, "accuracy of the mean of both models' probabilities, minus the student's"),
    (
        "pool_gain",
        _F,
        "accuracy of the fitted opinion pool minus the student's; each half of the samples is pooled with "
        "weights that were fitted on the other half",
    ),
    (
        "likelihood_gain",
        _F,
        "fall of the negative log-likelihood, in nats, from the student with its best temperature to the "
        "pool, both fitted on the other half",
    ),
    ("same_family", _F, "1 where both are CNNs, transformers or MLPs, else 0"),
    ("log_parameters", _F, "natural logarithm of the teacher's number of parameters"),
)

FEATURES = _schema(
    "features",
    ("study", _S, "name of the study whose pair it is"),
    ("student", _S, "name of the student"),
    ("teacher", _S, "name of the teacher"),
    ("samples", _I, "samples of `tune`, on which all that follows is measured"),
    *PAIR_FEATURES,
)

RECOMMENDATIONS = _schema(
    "recommendations",
    ("study", _S, "name of the study whose pair it is"),
    ("student", _S, "name of the student"),
    ("teacher", _S, "name of the teacher"),
    ("method", _S, "name of the method in the study whose transfer delta is predicted"),
    ("rule", _S, "by what teachers are ranked: one of `study.recommend.RULES`"),
    ("score", _F, "by which the rule ranks a student's teachers, the highest first"),
    (
        "predicted",
        _F,
        "transfer delta that is predicted from the score (of 'fitted': from all features) by what was "
        "recorded of other students; null where of fewer than two",
    ),
    ("low", _F, "lower bound of its 95 % interval; null where of fewer than three students or 19 pairs"),
    ("high", _F, "its upper bound"),
)

AUGMENTATIONS = _schema(
    "augmentations",
    ("measurement", _S, "id of the measurement: a hash of everything that can change its result"),
    ("study", _S, "name of the study that measured it"),
    ("student", _S, "name of a student whose crop the images are seen through, in the study's zoo"),
    ("teacher", _S, "name of the teacher in the study's zoo"),
    ("method", _S, "name of the method in the study whose second input it is"),
    *_AUGMENTATION,
    *_DIVERSITY,
)


def _by_name(*tables: pa.Schema) -> dict[str, pa.Schema]:
    return {table.metadata[b"table"].decode(): table for table in tables}


TRANSFER_TABLES = _by_name(TRIALS, PREDICTIONS, HISTORY, EVALUATIONS, PLANS)
ATLAS_TABLES = _by_name(
    MODELS, MODEL_PREDICTIONS, MODEL_CLASSES, SOFT_LABELS, ATLAS, PAIRS, PAIR_CLASSES, CLASSES
)
RECOMMENDER_TABLES = _by_name(FEATURES, RECOMMENDATIONS)
AUGMENTATION_TABLES = _by_name(AUGMENTATIONS)
GEOMETRY_TABLES = _by_name(CENTRES, PROJECTIONS)
TABLES = (
    TRANSFER_TABLES
    | ATLAS_TABLES
    | _by_name(GALLERY)
    | RECOMMENDER_TABLES
    | AUGMENTATION_TABLES
    | GEOMETRY_TABLES
)


def describe(schema: pa.Schema) -> list[tuple[str, str, str]]:
    """(name, type, description) of every column."""
    return [(f.name, str(f.type), f.metadata[b"description"].decode()) for f in schema]


def documentation() -> str:
    """The text of `docs/records.md`."""
    lines = [
        "# The records",
        "",
        "<!-- Made by `python -m study.store.schemas > docs/records.md`; edit the schemas there. -->",
        "",
        "One folder a table under the results folder, in it one Parquet file a trial, model or study, or, of",
        "trials that `jobs/compact.py` has merged, `merged-*.parquet` for many (the same rows):",
        '`pandas.read_parquet(results / "trials")` reads a whole table. Accuracies, shares and rates are',
        "fractions in [0, 1]. A trial is recorded when its file under `trials/` exists, a model when its",
        "file under `models/` does: that file is written last, and every file is written under a temporary",
        "name and renamed.",
    ]
    for table, schema in TABLES.items():
        lines += ["", f"## `{table}`", "", "| column | type | what it holds |", "|---|---|---|"]
        lines += [f"| `{name}` | {kind} | {text} |" for name, kind, text in describe(schema)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(documentation(), end="")
