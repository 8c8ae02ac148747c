"""The one kind of error that is the user's to mend.

Everything wrong with what the user supplied (a study, a file, a folder, a model name) is raised as
`StudyError` with one sentence that names the file, the field and the remedy; the commands print
that sentence and exit with status 2. Any other exception is a bug and keeps its traceback.
"""


class StudyError(Exception):
    """Bad input, told in one sentence that names what is wrong, where, and what to do."""


class DivergedError(Exception):
    """A trial whose loss stopped being finite. It ends that trial as failed, not the sweep."""


class FatalError(StudyError):
    """What ends a sweep, because no trial is to blame for it."""


class StorageError(FatalError):
    """Storage that failed for longer than one waits, or holds damaged data."""


class MislabelledError(FatalError):
    """A model so much worse than published that labels or pixels cannot be what they should be."""
