"""What the report of a sweep of ten thousand trials costs, predictions and all, on two cores.

The sweep never ran: `tests.analysis.sweeps` writes its results folder, as `jobs/compact.py` leaves it, or
with `--single` as a sweep does, three files a trial. The real command (analysis/report.py) is timed as a
whole, its start included, with its peak memory. Beside it the part that reads the predictions, a hundred
million rows of them, stands next to a limit: decoding the columns that it needs, with the same threads, and
doing nothing with them; next to a peer, DuckDB, that counts the same in one query of SQL; and loading the
trials next to pandas reading them. Files are warm in the cache.

Last, the page of two thousand trials is opened in headless Chromium, until its table is there and all its
figures are in the document.

    python benchmarks/report.py [--seeds N] [--samples N] [--single]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq

from analysis import flips
from analysis.results import load
from timing import figure, in_turns

ROOT = Path(__file__).resolve().parents[1]
CORES, ROUNDS, OPENED = 2, 3, 5
MODELS, CLASSES = 20, 1000  # students, and teachers; as in the paper's study of 20 by 20 models
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READY = """figures => document.querySelector("#all-trials tbody tr td")
    && document.querySelectorAll("article svg[role=img]").length >= figures"""


def write(results: Path, seeds: int, samples: int, *, single: bool, predictions: bool = True) -> None:
    """A results folder of 2,020 trials a seed, in merged files or one a trial."""
    options = {
        "students": MODELS,
        "teachers": MODELS,
        "seeds": seeds,
        "samples": samples,
        "classes": CLASSES,
        "merged": 0 if single else 1,
    }
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    arguments += [] if predictions else ["--no-predictions"]
    command = [sys.executable, "-m", "tests.analysis.sweeps", results, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def watched(command: list[object]) -> tuple[float, float]:
    """Seconds that a command takes, and the most memory it and what it started held at once, in GiB."""
    begin, memory = time.perf_counter(), 0.0
    with psutil.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while process.poll() is None:
            memory = max(memory, held(process))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{command}: ended with {process.returncode}")
    return time.perf_counter() - begin, memory


def held(process: psutil.Process) -> float:
    """Memory of a process and of those it started, in GiB; what they share is counted once (PSS)."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError):
                total += one.memory_full_info().pss
    return total / 2**30


def peak_memory(process: int | str) -> float:
    """The most that a process has held so far, in GiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def decode(results: Path) -> None:
    """Reads the columns of the predictions that flips are counted from, and does nothing with them."""

    def read(path: Path) -> None:
        with pq.ParquetFile(path, read_dictionary=["trial"], page_checksum_verification=True) as file:
            for _ in file.iter_batches(flips.ROWS, columns=flips.COLUMNS, use_threads=False):
                pass

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(read, sorted((results / "predictions").glob("*.parquet"))))


COUNTED = """
    select trial, label as class, count(*) as samples,
        count_if(coalesce(teacher, -1) = label and student_before <> label) as flips,
        count_if(coalesce(teacher, -1) = label and student_before <> label and student_after = label)
            as flips_gained,
        count_if(student_before <> label and student_after = label) as gained,
        count_if(student_before = label and student_after <> label) as lost
    from read_parquet('{}/predictions/*.parquet') group by trial, label"""


def by_duckdb(results: Path) -> pd.DataFrame:
    """What `flips.class_flips` gives, by DuckDB, but that a trial in two files is counted twice."""
    import duckdb

    with duckdb.connect(config={"threads": CORES}) as database:
        return database.sql(COUNTED.format(results)).df()


def peer(results: Path) -> None:
    """Figures of DuckDB, in a process of its own."""
    found = by_duckdb(results).sort_values(["trial", "class"], ignore_index=True)
    memory = peak_memory("self")
    trials = load(results, [])
    expected = flips.class_flips(results, trials).astype({"trial": object})
    columns = ["class", *flips.COUNTS]
    if not (found[columns].to_numpy() == expected[columns].to_numpy()).all():
        raise SystemExit("DuckDB counts otherwise")
    seconds = in_turns(
        ROUNDS, duckdb=lambda: by_duckdb(results), count=lambda: flips.class_flips(results, trials)
    )
    figure("flips counted by DuckDB", seconds["duckdb"], "s")
    figure("flips counted by DuckDB: peak memory", [memory], "GiB")
    figure("flips counted: ours / DuckDB", seconds["count"] / seconds["duckdb"], "ratio")


def needed_bytes(results: Path) -> int:
    """Bytes on disk of these columns."""
    total = 0
    for path in (results / "predictions").glob("*.parquet"):
        metadata = pq.read_metadata(path)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            total += sum(c.total_compressed_size for c in columns if c.path_in_schema in flips.COLUMNS)
    return total


def part(results: Path) -> None:
    """Figures of the parts that read; in a process of its own, whose memory is that of counting the flips."""
    trials = load(results, [])
    what = f"flips of {len(trials)} trials, {trials['evaluation_samples'].sum() / 1e6:.0f} million rows"
    begin = time.perf_counter()
    counted = flips.class_flips(results, trials)
    begin, first = time.perf_counter(), time.perf_counter() - begin
    flips.top_class_rates(counted)
    top, memory = time.perf_counter() - begin, peak_memory("self")
    del counted
    seconds = in_turns(
        ROUNDS, decode=lambda: decode(results), count=lambda: flips.class_flips(results, trials)
    )
    figure(f"{what}: counted", [first, *seconds["count"]], "s", at_most=30)
    figure(f"{what}: top classes", [top], "s")
    figure(f"{what}: peak memory", [memory], "GiB", at_most=1)
    figure(f"{what}: columns decoded", seconds["decode"], "s")
    figure(f"{what}: columns decoded", needed_bytes(results) / seconds["decode"] / 1e6, "MB/s")
    figure(f"{what}: counted / columns decoded", seconds["count"] / seconds["decode"], "ratio")

    read = in_turns(ROUNDS, pandas=lambda: pd.read_parquet(results / "trials"), load=lambda: load(results))
    figure(f"{len(trials)} trials: loaded and checked", read["load"], "s")
    figure(
        f"{len(trials)} trials: loaded and checked / read by pandas", read["load"] / read["pandas"], "ratio"
    )


def opened(report: Path) -> list[float]:
    """Seconds from asking Chromium for a page until its table and all its figures are there.

    Args:
        report: `report.html`, its figures beside it.

    Returns:
        One a time it was opened, each in a new context; none where there is no Chromium.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"no browser: none of {', '.join(BROWSERS)} is on the path", file=sys.stderr)
        return []
    from playwright.sync_api import sync_playwright

    figures = len(list((report.parent / "figures").glob("*.svg")))
    seconds = []
    with sync_playwright() as playwright:
        # Root has no use of Chromium's sandbox.
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        with playwright.chromium.launch(executable_path=program, args=options) as browser:
            for _ in range(OPENED):
                with browser.new_context() as context:
                    page = context.new_page()
                    begin = time.perf_counter()
                    page.goto(report.as_uri(), wait_until="commit")
                    page.wait_for_function(READY, arg=figures, polling=10)
                    seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="2,020 trials each (%(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--single", action="store_true", help="a file a trial, as before jobs/compact.py")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if options.here:
        part(options.here)
        return
    if options.peer:
        peer(options.peer)
        return
    with tempfile.TemporaryDirectory() as folder:
        results, page = Path(folder) / "results", Path(folder) / "page"
        write(results, options.seeds, options.samples, single=options.single)
        subprocess.run([sys.executable, __file__, "--here", results], check=True)
        subprocess.run([sys.executable, __file__, "--peer", results], check=True)
        command = [sys.executable, ROOT / "analysis" / "report.py"]
        seconds, memory = zip(*(watched([*command, results]) for _ in range(ROUNDS)), strict=True)
        files = "a file each" if options.single else "in merged files"
        what = f"report of {len(pd.read_parquet(results / 'plans'))} trials {files}"
        figure(f"{what}, the whole command", seconds, "s", at_most=60)
        figure(f"{what}: peak memory", memory, "GiB", at_most=2)
        write(page, 1, 1000, single=False, predictions=False)
        watched([*command, page])
        if seconds := opened(page / "analysis" / "report.html"):
            trials = len(pd.read_parquet(page / "plans"))
            figure(f"page of {trials} trials opened in Chromium", seconds, "s", at_most=2)


if __name__ == "__main__":
    main()
