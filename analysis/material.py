"""What a results folder holds, and what several exhibits are made of, each read or computed once.

An attribute that these results do not have raises `LeftOut`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import (
    atlas_results,
    atlas_statements,
    augmentation_measures,
    beyond_accuracy,
    choosing,
    flips,
    measures,
    recommender,
    results,
    search_measures,
    several_teachers,
    smoothing_results,
    tables,
    timm_results,
    training_measures,
    weak_to_strong,
)
from analysis.atlas_measures import accuracy_difference
from analysis.exhibit import LeftOut
from analysis.statements import numbers, together
from analysis.text import Number

GALLERY = [  # columns of `gallery`
    *("trial", "kind", "of", "index", "picture", "label"),
    *(
        f"{who}{part}"
        for who in ("student_before", "teacher", "student_after")
        for part in ("", "_confidence")
    ),
]
EVERY_PAIR = 100_000  # of the atlas, up to which its pairs are written as a table
NEEDED = [  # columns of `trials`, beside those that `results.load` checks
    *("student_timm", "student_family", "student_parameters", "student_accuracy_before"),
    *("student_accuracy_after", "teachers", "teacher_timm", "teacher_family", "teacher_parameters"),
    *("teacher_accuracy", "rho_pos_before", "rho_neg_before", "rho_pos_after", "rho_neg_after", "epochs"),
    *("transfer_samples", "data", "data_sha256", "classes", "device", "finished", "torch_version"),
    *("timm_version", "seconds", "seconds_load", "seconds_train", "seconds_evaluate", "study_version"),
]


LATER = ["search", "settings", "data_name", "evaluated_on"]  # that older results do not have
SMOOTHING = ["student_label_smoothing", "teacher_label_smoothing"]


def _some(table: pd.DataFrame, why: str) -> pd.DataFrame:
    """The table; left out, for this reason, if it is empty."""
    if table.empty:
        raise LeftOut(why)
    return table


def _recorded(folder: Path, table: str) -> bool:
    """Whether a table has a file."""
    return any((folder / table).glob("[!.]*.parquet"))


class Material:
    """What the report of a results folder is made of."""

    def __init__(
        self,
        folder: Path | str,
        equal: float = 1.0,
        gap: float = 5.0,
        study: str | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ):
        """Read the trials.

        Args:
            folder: the results folder.
            equal: half width, in points, of the band of equal teachers.
            gap: teachers weaker by so many points, or more, are looked at by themselves in the atlas.
            study: whose atlas, where the folder holds several.
            progress: is told what is going on.

        Raises:
            ResultsError: the results cannot be read.
        """
        self.folder = folder = Path(folder)
        self.equal, self.gap, self.study, self.progress = equal, gap, study, progress
        progress(f"reading {folder}")
        self.plan = results.planned(folder)
        if _recorded(folder, "atlas") and not _recorded(folder, "trials"):
            self.recorded = pd.DataFrame(columns=[*dict.fromkeys([*results.NEEDED, *NEEDED])])
            self.every = self.of_searches = self.from_scratch = self.recorded
            return
        optional = [*beyond_accuracy.COLUMNS, *timm_results.OF_TRIALS, *tables.FLIPS_TAUGHT, *LATER]
        optional += [*augmentation_measures.COLUMNS, *SMOOTHING, *choosing.COLUMNS, *weak_to_strong.COLUMNS]
        columns = dict.fromkeys([*NEEDED, *optional])
        every = results.load(folder, list(columns), several=True, from_scratch=True)
        again = "run the study again in a new folder"
        results.require_columns(every, NEEDED, folder / "trials", again)
        every = self.every = every.assign(**{name: None for name in LATER if name not in every})
        every["data"] = every["data_name"].fillna(every["data"])  # as the study calls them
        # Combinations of a search are compared with each other, not with the methods that are reported, and
        # students from scratch with none that was trained before.
        scratch, searched = results.is_from_scratch(every), every["search"].notna()
        self.recorded = every[~searched & ~scratch].reset_index(drop=True)
        self.of_searches = every[searched & ~scratch].reset_index(drop=True)
        self.from_scratch = every[~searched & scratch].reset_index(drop=True)

    @cached_property
    def done(self) -> pd.DataFrame:
        """Everything that finished, trials of searches and of students from scratch too."""
        others = [table for table in (self.of_searches, self.from_scratch) if len(table)]
        done = [table[table["status"] == "ok"] for table in others]
        return pd.concat([self.finished, *done]) if done else self.finished

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Those of one teacher or none, finished and failed."""
        return results.one_teacher(self.recorded)

    @cached_property
    def all_tested(self) -> pd.DataFrame:
        """The finished ones of `trials`, as `measures.tested` makes them; be there any or not."""
        return measures.tested(self.trials)

    @cached_property
    def tested(self) -> pd.DataFrame:
        """The same, of which there are some."""
        return _some(self.all_tested, "no trial of one teacher finished")

    @cached_property
    def several(self) -> pd.DataFrame:
        """Trials of several teachers, finished and failed."""
        return _some(self.recorded.drop(self.trials.index), "no trial has several teachers")

    @cached_property
    def several_tested(self) -> pd.DataFrame:
        """The finished ones of `several`, tested by themselves."""
        return measures.tested(self.several)

    @cached_property
    def several_by_student(self) -> pd.DataFrame:
        """`several_teachers.by_student`."""
        return several_teachers.by_student(self.several_tested, self.all_units, self.recorded)

    @cached_property
    def finished(self) -> pd.DataFrame:
        """Finished trials of one teacher and of several, each tested among its like."""
        if len(self.recorded) == len(self.trials):
            return self.all_tested
        return pd.concat([self.all_tested, self.several_tested])

    @cached_property
    def units(self) -> pd.DataFrame:
        """`measures.over_seeds` of `tested`, with what `tables.comparable` adds."""
        return _some(self.all_units, "no trial of one teacher finished")

    @cached_property
    def all_units(self) -> pd.DataFrame:
        """The same as `units`, be there any or not."""
        return tables.comparable(measures.over_seeds(self.all_tested), self.trials)

    @cached_property
    def taught(self) -> pd.DataFrame:
        """The units with a teacher."""
        return _some(self.all_units[self.all_units["teacher"].notna()], "no trial has a teacher")

    @cached_property
    def search_control(self) -> pd.DataFrame:
        """`search_measures.of_control`; empty without one."""
        return search_measures.of_control(self.every[~results.is_from_scratch(self.every)])

    @cached_property
    def searched(self) -> pd.DataFrame:
        """`search_measures.searched`."""
        if self.of_searches.empty:
            raise LeftOut("no method's settings were searched")
        units = search_measures.searched(self.of_searches, self.search_control, self.equal)
        return _some(units, "no trial of a search finished")

    @cached_property
    def per_student(self) -> pd.DataFrame:
        """`measures.per_student`."""
        return measures.per_student(self.trials)

    @cached_property
    def by_method(self) -> pd.DataFrame:
        """`measures.by_method`."""
        self.progress("comparing methods, students and teachers")
        return measures.by_method(self.trials, self.equal)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """`measures.differences`."""
        return measures.differences(self.trials, self.equal)

    @cached_property
    def of_methods(self) -> dict[str, dict[str, Number]]:
        """The numbers of `by_method` and `differences`, by subject and name."""
        return numbers(self.by_method) | numbers(self.differences)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The epochs of all finished trials."""
        return training_measures.load_history(self.folder, self.recorded)

    @cached_property
    def outside_top_k(self) -> pd.DataFrame:
        """`training_measures.outside_top_k`."""
        table = training_measures.outside_top_k(self.folder, self.trials)
        return _some(table, "no pair has trials of KL over the top k, with its measures, and of KL")

    @cached_property
    def augmented(self) -> pd.DataFrame:
        """Finished trials of one teacher or none that have a second input, or a student from scratch.

        Beside those of a second input all of the same students, for comparison. Students from scratch that
        have none stand by themselves only where no other section is of them.
        """
        every = pd.concat([self.from_scratch, self.recorded], ignore_index=True)
        every = results.one_teacher(every[every["status"] == "ok"])
        every = every.reindex(columns=[*dict.fromkeys([*every, *augmentation_measures.COLUMNS])])
        if every["augmentation"].isna().all() and self.is_smoothed:
            raise LeftOut("no trial has a second input")
        wanted = results.is_from_scratch(every)
        wanted |= every["student"].isin(every.loc[every["augmentation"].notna(), "student"])
        why = "no trial has a second input, and no student is from scratch"
        return _some(every[wanted].reset_index(drop=True), why)

    @cached_property
    def schemes(self) -> pd.DataFrame:
        """`augmentation_measures.schemes`."""
        return augmentation_measures.schemes(self.augmented)

    @cached_property
    def scheme_points(self) -> pd.DataFrame:
        """`augmentation_measures.points`."""
        found = augmentation_measures.points(self.schemes)
        return _some(found, "no trial has a T. stddev and a test loss")

    @cached_property
    def is_smoothed(self) -> bool:
        """`smoothing_results.is_smoothed`."""
        return smoothing_results.is_smoothed(self.every, self.folder)

    @cached_property
    def smoothing(self) -> smoothing_results.Smoothing:
        """What is made of models that were trained with smoothed labels; of no others anything is read."""
        if not self.is_smoothed:
            raise LeftOut("no model is known to be trained with smoothed labels (`recipe.label_smoothing`)")
        return smoothing_results.Smoothing([self.folder], self.progress)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """What finished trials of one teacher or none said of other images."""
        return beyond_accuracy.load_evaluations(self.folder, self.trials)

    @cached_property
    def flips_by_class(self) -> pd.DataFrame:
        """What became of the samples of each class, counted from the predictions of all trials."""
        self.progress(f"counting the predictions of {len(self.recorded):,} trials")
        return flips.class_flips(self.folder, self.recorded)

    @cached_property
    def chosen_classes(self) -> pd.DataFrame:
        """`choosing.by_pair` of trials of one teacher or none."""
        if "classes_taught" not in self.trials or self.trials["classes_taught"].isna().all():
            raise LeftOut("no method chooses classes")
        counted = _some(self.flips_by_class, "no trial's predictions are there")
        return _some(choosing.by_pair(self.trials, counted), "no such trial's predictions are there")

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """`weak_to_strong.by_pair` of trials of one teacher or none, of students from scratch too."""
        every = pd.concat([self.from_scratch, self.recorded], ignore_index=True)
        every = results.one_teacher(every)
        why = "no record says that a student learned from a teacher without labels, and another one with them"
        if "reads_labels" not in every:
            raise LeftOut(why)
        self.progress("comparing weak teachers, their students and labels")
        return _some(weak_to_strong.by_pair(self.folder, every), why)

    @cached_property
    def combinations(self) -> pd.DataFrame:
        """`search_measures.combinations`, with the control where there is one."""
        return search_measures.combinations(together([self.searched, self.search_control]))

    @cached_property
    def top_class_rates(self) -> pd.DataFrame:
        """`flips.top_class_rates` of all trials that have positive flips."""
        counted = _some(self.flips_by_class, "no trial's predictions are there")
        return _some(flips.top_class_rates(counted), "no trial has positive flips")

    @cached_property
    def gallery(self) -> pd.DataFrame:
        """Pictures of finished trials of one teacher, as `jobs/gallery.py` drew them."""
        if not _recorded(self.folder, "gallery"):
            raise LeftOut("no pictures are recorded; jobs/gallery.py STUDY draws them")
        folder, again = self.folder / "gallery", "run jobs/gallery.py again"
        table = results.read(folder, again)
        results.require_columns(table, GALLERY, folder, again)
        known = table[table["trial"].isin(self.tested["trial"])]
        return _some(known.drop_duplicates(["trial", "kind", "index"]), "there are none of these trials")

    def is_recorded(self, table: str) -> bool:
        """Whether a table has a file."""
        return _recorded(self.folder, table)

    @cached_property
    def recommended(self) -> pd.DataFrame:
        """How each rule ranks each student's teachers, as `jobs/recommend.py` recorded it."""
        if not self.is_recorded("recommendations"):
            raise LeftOut("no teachers are ranked; jobs/recommend.py STUDY does it")
        folder, again = self.folder / "recommendations", "run jobs/recommend.py again"
        table = results.read(folder, again)
        results.require_columns(table, recommender.COLUMNS, folder, again)
        return table.drop_duplicates([*recommender.PAIR, "rule"])

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Names of classes by number, where an atlas has recorded them."""
        if not _recorded(self.folder, "classes"):
            return {}
        table = results.read(self.folder / "classes", atlas_results.AGAIN, ["class", "name"])
        return dict(zip(table["class"], table["name"], strict=True))

    @cached_property
    def atlas(self) -> atlas_results.Atlas:
        """The atlas of a study."""
        if self.study is None and not _recorded(self.folder, "atlas"):
            raise LeftOut("no atlas is recorded; jobs/atlas.py STUDY makes it")
        self.progress("reading the atlas")
        return atlas_results.load_atlas(self.folder, self.study)

    @cached_property
    def of_atlas(self) -> pd.DataFrame:
        """The statements of the atlas."""
        return atlas_statements.statements(self.atlas, self.gap)

    @cached_property
    def atlas_pairs(self) -> pd.DataFrame | None:
        """The ordered pairs of the atlas, a row each; None where they are too many to be looked up."""
        atlas = self.atlas
        names = atlas.models["name"].to_numpy()
        student, teacher = np.nonzero(np.isfinite(atlas.rho_pos))
        if len(student) > EVERY_PAIR:
            return None
        return pd.DataFrame(
            {
                "student": names[student],
                "teacher": names[teacher],
                "accuracy_difference": accuracy_difference(atlas.rho_pos)[student, teacher],
                "rho_pos": atlas.rho_pos[student, teacher],
                "flip_entropy": atlas.flip_entropy[student, teacher],
            }
        )
