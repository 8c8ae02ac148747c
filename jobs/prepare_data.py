"""Write a study's images to FFCV's format, once, and check what is there.

python jobs/prepare_data.py [STUDY]
"""

from __future__ import annotations

from jobs import cluster, console
from study import cache, data, spec


def prepare(study: spec.Study) -> data.Images:
    """The study's images, written if they were not; says what it does."""
    source, place = study.data.images, study.folders.data
    folder = data.folder_of(source, place)
    if not data.is_prepared(source, place):
        console.console.print(f"data: writing {source.source} to {folder}")
    images = data.prepare(source, place, cache.of(study.folders, place))
    sizes = ", ".join(f"{name} {len(part)}" for name, part in data.split(images, study.data.splits).items())
    console.console.print(f"data: {folder} ({len(images.classes)} classes; images: {sizes})")
    return images


def job() -> None:
    arguments = console.parser(__doc__.splitlines()[0], "data").parse_args()
    study = spec.load(arguments.study, data=arguments.data).absolute()
    cluster.check_lasting(study.folders)
    prepare(study)


if __name__ == "__main__":
    console.main(job)
