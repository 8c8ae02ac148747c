"""What the jobs share towards the person who runs them: arguments, errors, progress."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich import progress as bars
from rich.console import Console

from study.errors import StudyError

DEFAULT_STUDY = "studies/demo.yaml"
PLAIN_LINE_SECONDS = 15

# A log has no width of its own; tables need one that does not cut names.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


FOLDERS = {
    "data": "written images",
    "zoo": "trained weights",
    "outputs": "frozen models' outputs",
    "results": "records",
}


def parser(description: str, *folders: str) -> argparse.ArgumentParser:
    """The study, and options for the folders (keys of `FOLDERS`) a job uses."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "study",
        nargs="?",
        default=DEFAULT_STUDY,
        metavar="STUDY",
        help="the study's YAML file (default: %(default)s)",
    )
    for name in folders:
        made.add_argument(
            f"--{name}", metavar="FOLDER", help=f"folder of {FOLDERS[name]}, instead of the study's"
        )
    return made


def go_home(script: Path, jobs: Path) -> None:
    """`ray submit` copies a script alone to the head's home folder: work in the project's folder instead.

    A script of another version than the one among the project's `jobs` on this machine is a `StudyError`.
    """
    original = jobs / script.name
    if script.parent == jobs or not original.exists():
        return
    if original.read_bytes() != script.read_bytes():
        raise StudyError(
            f"{original}: not the version that was submitted; copy the project to the cluster first "
            "(`ray up --no-restart` with the cluster's file, or `ray rsync-up`)"
        )
    os.chdir(jobs.parent)


def main(job: Callable[[], int | None]) -> None:
    """Run a job: what the user can mend is one sentence and status 2, Ctrl-C is status 130."""
    # A stop asked for by a scheduler ends a job as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        go_home(Path(sys.argv[0]).resolve(), Path(__file__).resolve().parent)
        sys.exit(job() or 0)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except PermissionError as error:  # other people's files, which every step may meet
        text = "you may not read, or write, here; see to its permissions, or name another place"
        print(f"error: {error.filename}: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def duration(seconds: float) -> str:
    """'8 s', '3 min 20 s', '2 h 5 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


class Progress:
    """A live progress line on a terminal; elsewhere (a log, CI) a plain line now and then.

    It also says how long the command took until the first was done: what is ready before is lost by a stop.

    Args:
        title: what is going on.
        total: the amount of work, in any unit.
        seconds: the expected duration of the whole, if known before anything is finished.
    """

    def __init__(self, title: str, total: float, seconds: float | None = None) -> None:
        self.title, self.total, self.expected = title, total, seconds
        self.done, self.started, self.last_line = 0.0, time.monotonic(), 0.0
        self.bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=30),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=total, text="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self.bar.stop()

    def left(self) -> str:
        """The time left, judged by what was expected, or once a twentieth is done by the pace so far.

        The first trials of a worker also import torch and decode images: their pace says little.
        """
        elapsed = time.monotonic() - self.started
        if self.done and (self.expected is None or self.done >= self.total / 20):
            return f"about {duration(elapsed / self.done * (self.total - self.done))} left"
        if not self.expected:
            return ""
        if elapsed > self.expected:
            return f"for {duration(elapsed)}, longer than the {duration(self.expected)} that were expected"
        return f"about {duration(self.expected - elapsed)} left"

    def update(self, done: float, text: str) -> None:
        """Show that `done` of the total is done, and `text` beside it."""
        if done and not self.done:
            begun = psutil.Process().create_time()
            console.print(f"{self.title}: the first was done {duration(time.time() - begun)} after the start")
        self.done = done
        text = ", ".join(part for part in (text, self.left()) if part)
        self.bar.update(self.task, completed=done, text=text)
        if self.bar.disable and time.monotonic() - self.last_line > PLAIN_LINE_SECONDS:
            self.last_line = time.monotonic()
            console.print(f"{self.title}: {text}")
