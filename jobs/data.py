"""Write a study's images to FFCV's format, once, and check what is there.

python jobs/data.py [STUDY]
"""

from __future__ import annotations

from jobs import _console, _run


def job() -> None:
    _run.write_images(_run.load(_console.parser(__doc__.splitlines()[0], "data").parse_args()))


if __name__ == "__main__":
    _console.main(job)
