"""What the person at the terminal is told."""

from pathlib import Path

import pytest

from jobs import _console
from study.errors import StudyError


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_readable(seconds, text):
    assert _console.duration(seconds) == text


def test_the_time_left_follows_the_work_done(monkeypatch):
    now = 100.0
    monkeypatch.setattr(_console.time, "monotonic", lambda: now)
    progress = _console.Progress("sweep", total=80, seconds=60)
    now = 110.0
    assert progress.left() == "about 50 s left"  # nothing done: what was expected
    progress.done = 3
    assert progress.left() == "about 50 s left"  # too little done to tell a pace
    now = 165.0
    assert progress.left() == "for 1 min 5 s, longer than the 1 min 0 s that were expected"
    now, progress.done = 110.0, 20
    assert progress.left() == "about 30 s left"  # half a second each, 60 to go


def test_nothing_known_nothing_said():
    assert _console.Progress("zoo", total=8).left() == ""


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [(StudyError("a: b; c"), 2, "error: a: b; c\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_what_can_be_mended_is_a_sentence_and_a_status(raised, status, said, capsys):
    def job():
        raise raised

    with pytest.raises(SystemExit) as exit_:
        _console.main(job)
    assert exit_.value.code == status
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        _console.main(lambda: 1 / 0)


def test_a_script_that_was_submitted_works_in_the_projects_folder(tmp_path, monkeypatch):
    jobs, home = tmp_path / "project" / "jobs", tmp_path / "home"
    for folder in (jobs, home):
        folder.mkdir(parents=True)
        (folder / "sweep.py").write_text("print('sweep')")
    (home / "other.py").touch()
    monkeypatch.chdir(home)
    for script in (jobs / "sweep.py", home / "other.py"):  # in its place, and none of the project's
        _console.go_home(script, jobs)
        assert Path.cwd() == home
    _console.go_home(home / "sweep.py", jobs)
    assert Path.cwd() == jobs.parent


def test_a_script_of_another_version_than_the_project_is_refused(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "sweep.py").write_text("print('yesterday')")
    (tmp_path / "sweep.py").write_text("print('today')")
    with pytest.raises(StudyError, match=r"not the version that was submitted; .*ray up --no-restart"):
        _console.go_home(tmp_path / "sweep.py", tmp_path / "jobs")


def test_other_peoples_files_are_told_in_a_sentence(capsys):
    def job():
        raise PermissionError(13, "Permission denied", "/theirs/trials")

    with pytest.raises(SystemExit) as ended:
        _console.main(job)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: /theirs/trials: you may not read, or write, here; see to"
    )
