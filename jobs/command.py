"""One command for all: `transfer-study COMMAND [ARGUMENTS]` is the script of that name, with its arguments.

Installed by pip (pyproject.toml). A script runs as it does by `python`, so that both ways do the same; its
own --help says what it takes.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from study import mistakes

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "improve": "jobs/improve.py",
    "sweep": "jobs/transfer_sweep.py",
    "atlas": "jobs/atlas.py",
    "zoo": "jobs/zoo.py",
    "data": "jobs/data.py",
    "outputs": "jobs/outputs.py",
    "compact": "jobs/compact.py",
    "push": "jobs/push.py",
    "gallery": "jobs/gallery.py",
    "recommend": "jobs/recommend.py",
    "augmentations": "jobs/augmentations.py",
    "report": "analysis/report.py",
    "convert": "study/models/convert.py",
}


def main() -> None:
    """Run a command; without one, or with --help, say which there are."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in SCRIPTS:
        print(f"error: there is no command '{name}'{mistakes.nearest(name, SCRIPTS)}", file=sys.stderr)
        sys.exit(2)
    script = str(ROOT / SCRIPTS[name])
    sys.argv[:2] = [script]
    sys.path[0] = str(ROOT / "jobs")  # as python sets it for a script, and no folder of other programs
    runpy.run_path(script, run_name="__main__")


def overview() -> str:
    """The commands, in a line each, as their scripts describe themselves."""
    width = max(map(len, SCRIPTS))
    lines = ["usage: transfer-study COMMAND [ARGUMENTS]", ""]
    for name, script in SCRIPTS.items():
        about = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))
        lines.append(f"  {name:{width}}  {about.partition(chr(10))[0].rstrip('.:')}")
    return "\n".join([*lines, "", "transfer-study COMMAND --help says what a command takes."])


if __name__ == "__main__":
    main()
