"""Write a study's images to FFCV's format, once, and check what is there.

python jobs/data.py [STUDY]
"""

from __future__ import annotations

from jobs import _cluster, _console
from study import spec
from study.images import files, splits
from study.store import cache


def prepare(study: spec.Study) -> files.Images:
    """The study's images, written if they were not; says what it does."""
    source, place = study.data.images, study.folders.data
    folder = files.folder_of(source, place)
    if not files.is_prepared(source, place):
        _console.console.print(f"data: writing {source.source} to {folder}")
    images = files.prepare(source, place, cache.of(study.folders, place))
    sizes = ", ".join(f"{name} {len(part)}" for name, part in splits.split(images, study.data.splits).items())
    _console.console.print(f"data: {folder} ({len(images.classes)} classes; images: {sizes})")
    return images


def job() -> None:
    arguments = _console.parser(__doc__.splitlines()[0], "data").parse_args()
    study = spec.load(arguments.study, data=arguments.data).absolute()
    _cluster.check_lasting(study.folders)
    prepare(study)


if __name__ == "__main__":
    _console.main(job)
