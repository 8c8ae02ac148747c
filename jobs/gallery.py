"""Pictures of what is transferred: images that a teacher knew and its student did not, gained and lost ones.

    python jobs/gallery.py [STUDY] [--pair STUDENT TEACHER] [--pictures N]

Of the trials with the largest effects, or of all trials of a pair. They are kept small beside the records,
and are in the report that is made next. A study whose images are private says `pictures: false`.
"""

from __future__ import annotations

from jobs import _console, _run
from study import gallery
from study.errors import StudyError
from study.images import class_names, files
from study.store import cache, records

MOST = 48  # pictures of a kind; the page shows no more


def job() -> None:
    parser = _console.parser(__doc__.splitlines()[0], "data", "results")
    parser.add_argument(
        "--pair",
        nargs=2,
        metavar=("STUDENT", "TEACHER"),
        help="their trials, and not those of largest effect",
    )
    help_pictures = f"of each kind in each trial, 1 to {MOST} (default %(default)s)"
    parser.add_argument("--pictures", type=int, default=16, metavar="N", help=help_pictures)
    arguments = parser.parse_args()
    study = _run.load(arguments)
    if not study.pictures:
        raise StudyError(f"{arguments.study}: pictures is false, so no image may leave the data")
    if not 1 <= arguments.pictures <= MOST:
        raise StudyError(f"--pictures {arguments.pictures}: give a number from 1 to {MOST}")
    trials = gallery.taught(study.results, study.name)
    chosen = gallery.largest(trials)
    if arguments.pair:
        student, teacher = arguments.pair
        chosen = [row for row in trials if (row["student"], row["teacher"]) == (student, teacher)]
        if not chosen:
            raise StudyError(f"--pair {student} {teacher}: no trial of this student and teacher has finished")
    images = files.open_images(
        study.data.images, study.folders.data, cache.of(study.folders, study.folders.data)
    )
    images = files.chosen(images, study.data)
    names = class_names.readable(images.classes)
    records.prepare(study.results, ["gallery"])
    with _console.Progress("gallery", len(chosen)) as progress:
        for done, row in enumerate(chosen):
            progress.update(done, f"{row['method']}: {row['student']} from {row['teacher']}")
            counts = gallery.record(study.results, row, images, names, arguments.pictures)
            said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
            whose = f"{row['method']}, {row['student']} from {row['teacher']}, seed {row['seed']}"
            _console.console.print(f"gallery: {whose}: {said}")
    _console.console.print(
        f"gallery: {len(chosen)} trials, in {study.results / 'gallery'}; analysis/report.py shows them"
    )


if __name__ == "__main__":
    _console.main(job)
