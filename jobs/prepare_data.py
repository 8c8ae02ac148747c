"""Write a study's images to FFCV's format, once, and check what is there.

python jobs/prepare_data.py [STUDY]
"""

from __future__ import annotations

import console
from study import data, spec


def prepare(study: spec.Study) -> data.Images:
    """The study's images, written if they were not; says what it does."""
    folder = data.folder_of(study.data.images, study.folders.data)
    if not folder.exists():
        console.console.print(f"data: writing {study.data.images.source} to {folder}")
    images = data.prepare(study.data.images, study.folders.data)
    sizes = ", ".join(f"{name} {len(part)}" for name, part in data.split(images, study.data.splits).items())
    console.console.print(f"data: {images.path} ({len(images.classes)} classes; images: {sizes})")
    return images


def job() -> None:
    arguments = console.parser(__doc__.splitlines()[0], "data").parse_args()
    prepare(spec.load(arguments.study, data=arguments.data).absolute())


if __name__ == "__main__":
    console.main(job)
