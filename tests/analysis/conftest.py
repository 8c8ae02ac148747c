"""`python analysis/NAME.py` has its own folder on the path: so have the tests, to import the scripts."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "analysis"), str(ROOT)]  # the second for study.records, which writes the test data
