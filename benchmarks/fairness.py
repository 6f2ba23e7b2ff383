"""`python -m benchmarks.fairness`: who waits for whom, with eagerloop, `asyncio.to_thread` and NumPy in the coroutine.

Each side has a process of its own, rounds are taken in turn, the figures are medians. What the engine must reach, and
what it is meant to reach, stands beside them. With `--against CHECKOUT` the costs of single ops and chains are measured
as well, in turn with the engine of another checkout. `--quick` does less of everything and writes no docs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.__main__ import Process, measured
from benchmarks.checkouts import command, environment, output
from benchmarks.measure import in_digits
from benchmarks.report import put
from benchmarks.workloads import FRESH, workload

ENGINE, THREADS, NUMPY = "eagerloop", "to_thread", "NumPy"
SIDES = (ENGINE, THREADS, NUMPY)
BEGIN, END = "<!-- fairness: written by `make bench` -->", "<!-- end of fairness -->"
TIMEOUT_SECONDS = 300.0
Figures = dict[str, float]
Found = dict[str, Figures]
"""Medians by side and metric."""


@dataclass(frozen=True)
class Line:
    """One line of the table: a metric, and what the engine must reach."""

    what: str
    metric: str
    unit: str
    must: float | None = None
    goal: float | None = None
    more: bool = False
    """Whether more is better."""
    times: bool = False
    """Whether `must` and `goal` count how many times the figure of `to_thread` it is."""

    def verdict(self, found: Found) -> str:
        """What the engine's figure is worth; nothing where nothing is asked."""
        if self.must is None or self.goal is None or self.metric not in found.get(ENGINE, {}):
            return ""
        figure = found[ENGINE][self.metric]
        if self.times:
            figure /= found[THREADS][self.metric] or float("nan")
        for limit, word in ((self.goal, "goal"), (self.must, "ok")):
            if figure >= limit if self.more else figure <= limit:
                return word
        return "MISSED"

    def cells(self, found: Found) -> list[str]:
        """The columns of the table."""
        figures = [_shown(found.get(side, {}).get(self.metric), self.unit) for side in SIDES]
        ratio = ""
        if self.times and ENGINE in found and found.get(THREADS, {}).get(self.metric):
            ratio = f"{found[ENGINE][self.metric] / found[THREADS][self.metric]:.2f}x"
        asked = [_shown(limit, "x" if self.times else self.unit) for limit in (self.must, self.goal)]
        return [self.what, *figures, ratio, *asked, self.verdict(found)]


def _shown(figure: float | None, unit: str) -> str:
    if figure is None:
        return ""
    return f"{figure:.3g}x" if unit == "x" else f"{in_digits(figure)} {unit}".strip()


@dataclass(frozen=True)
class Row:
    """What is measured in one go, and the lines that it gives."""

    name: str
    title: str
    lines: tuple[Line, ...]
    once: Callable[[str, bool], Figures]
    """One round of one side; the flag says that it is to be quick."""
    served: bool = False
    """Whether a service is measured."""


# ---------------------------------------------------------------------------------------------------------------------
# Rounds


def in_process(name: str) -> Callable[[str, bool], Figures]:
    """A round of `benchmarks.waiting`."""

    def once(side: str, quick: bool) -> Figures:
        options = ["--quick"] if quick else []
        figures: Figures = json.loads(output("benchmarks.waiting", [side, name, *options], timeout=TIMEOUT_SECONDS))
        return figures

    return once


@contextmanager
def serving(side: str, threads: int | None = None) -> Iterator[int]:
    """Has a service run in a process of its own; yields its port."""
    process = subprocess.Popen(
        command("benchmarks.service", [side]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(threads),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
        process.stdin.close()
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass  # it still computes what its clients no longer wait for
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def loaded(*paths: str, threads: int | None = None, seconds: float = 6.0) -> Callable[[str, bool], Figures]:
    """A round of a service under load: rates and times by path."""

    def once(side: str, quick: bool) -> Figures:
        duration = seconds / 3 if quick else seconds
        with serving(side, threads) as port:
            arguments = ["--port", str(port), "--seconds"]
            output("benchmarks.load", [*arguments, "0.3", *paths], timeout=TIMEOUT_SECONDS)  # starts threads
            text = output("benchmarks.load", [*arguments, str(duration), *paths], timeout=TIMEOUT_SECONDS)
        found: dict[str, Figures] = json.loads(text)
        return {f"{path} {metric}": figure for path, figures in found.items() for metric, figure in figures.items()}

    return once


HEALTH_LINE = Line("`/health`, p99", "/health p99", "ms")


def search_row(name: str, title: str, threads: int | None, must: float, goal: float) -> Row:
    lines = (
        Line("`/search`", "/search rate", "/s", must, goal, more=True, times=True),
        Line("p99 of it", "/search p99", "ms"),
        HEALTH_LINE,
    )
    return Row(name, title, lines, loaded("/search:8", threads=threads), served=True)


ROWS = (
    Row(
        "behind_sorts",
        "a tiny op awaited behind 100 queued sorts of 1M",
        (
            Line("median", "median", "ms", 0.2, 0.03),
            Line("p99", "p99", "ms", 5.0, 1.0),
            Line("all of the sorts", "sorts", "s"),
        ),
        in_process("behind_sorts"),
    ),
    Row(
        "millisecond_op",
        "an op of a millisecond awaited behind the same, in sorts' times",
        (Line("median", "median", "", 3.0, 1.0), Line("p99", "p99", ""), Line("one sort alone", "sort", "ms")),
        in_process("millisecond_op"),
    ),
    Row(
        "sleepers",
        "beside user functions that sleep for a second",
        (
            Line("a tiny op beside one of them", "beside", "ms", 2.0, 0.5),
            Line("four of them on one device, in sleeps", "four", "", 1.1, 1.02),
        ),
        in_process("sleepers"),
    ),
    Row(
        "tasks_in_turn",
        "1,000 tasks of ten tiny ops, one a millisecond, while one task waits for 1,000 sorts of 200k",
        (Line("median of a task", "median", "ms"), Line("p99 of a task", "p99", "ms", 50.0, 10.0)),
        in_process("tasks_in_turn"),
    ),
    Row(
        "tasks_at_once",
        "the same tasks, all at once",
        (Line("median of a task", "median", "ms"), Line("p99 of a task", "p99", "ms", 50.0, 10.0)),
        in_process("tasks_at_once"),
    ),
    Row(
        "service",
        "a service: two clients of `/tiny` beside four of `/slow` (20 matmuls of 700 x 700)",
        (
            Line("`/tiny`", "/tiny rate", "/s", 1.0, 2.0, more=True, times=True),
            Line("`/slow`", "/slow rate", "/s", 0.95, 1.2, more=True, times=True),
            Line("`/tiny`, p99", "/tiny p99", "ms"),
            HEALTH_LINE,
        ),
        loaded("/tiny:2", "/slow:4"),
        served=True,
    ),
    Row(
        "service_paced",
        "the same, where each client of `/tiny` asks 150 times a second: as much work for each side",
        (
            Line("`/tiny`", "/tiny rate", "/s", times=True),
            Line("`/slow`", "/slow rate", "/s", times=True),
            Line("`/tiny`, p99", "/tiny p99", "ms"),
            HEALTH_LINE,
        ),
        loaded("/tiny:2@150", "/slow:4"),
        served=True,
    ),
    search_row("search_one", "eight clients of `/search` (200k x 64), BLAS with one thread", 1, 1.0, 1.2),
    search_row("search", "the same, BLAS with as many threads as it likes", None, 5.0, 7.0),
    Row(
        "bounded",
        "32 clients of `/bounded` (20 matmuls of 350 x 350) over `max_pending_ops=200`",
        (
            Line("`/health`, p99", "/health p99", "ms", 20.0, 5.0),
            Line("longest", "/health longest", "ms"),
            Line("`/bounded`", "/bounded rate", "/s"),
        ),
        loaded("/bounded:32"),
        served=True,
    ),
)


def row_figures(row: Row, sides: Sequence[str], rounds: int, *, quick: bool) -> Found:
    """Medians by side, from rounds taken in turn."""
    taken: dict[str, list[Figures]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, figures in taken.items():
            figures.append(row.once(side, quick))
    return {
        side: {metric: median(each[metric] for each in figures) for metric in figures[0]}
        for side, figures in taken.items()
    }


# ---------------------------------------------------------------------------------------------------------------------
# The table

HEADER = ["workload", *SIDES, "to to_thread", "must", "goal", ""]


def as_text(row: Row, found: Found) -> str:
    lines = [f"{row.title}"]
    for line in row.lines:
        what, *rest = line.cells(found)
        lines.append(f"  {what:<40}" + "".join(f"{cell:>12}" for cell in rest))
    return "\n".join(lines)


def as_markdown(results: dict[Row, Found]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", f"|---|{'---:|' * (len(HEADER) - 2)}---|"]
    for row, found in results.items():
        lines.append(f"| *{row.title}* |{' |' * (len(HEADER) - 1)}")
        lines += [f"| {' | '.join(line.cells(found))} |" for line in row.lines]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Beside another checkout

COMPARED = (
    ("eagerloop ASYNC", "stream"),
    ("eagerloop SYNC", "stream"),
    ("eagerloop ASYNC", "round_trip"),
    ("eagerloop ASYNC", "ten_float64"),
    ("eagerloop ASYNC", "ten_float32"),
    ("eagerloop ASYNC", "ten_int32"),
    ("eagerloop ASYNC", "ten_sum"),
    ("eagerloop ASYNC", "ten_tasks"),
    ("eagerloop ASYNC", "many_tasks"),
    ("eagerloop ASYNC", "sorts"),
    ("eagerloop ASYNC", "million"),
    ("eagerloop ASYNC", "million_pending"),
    ("eagerloop ASYNC", "lag_large"),
    ("eagerloop ASYNC", "lag_tiny"),
)
"""System and workload: what must not become dearer."""


def compare(other: Path, rounds: int, *, quick: bool) -> None:
    """Measure this engine and that of another checkout in turn, and print the ratios."""
    print(f"{'this checkout beside ' + str(other):<52}{'here':>12}{'there':>12}{'ratio':>8}")
    for system, name in COMPARED:
        row = workload(name, quick=quick and name not in ("stream", "round_trip"))
        with (
            Process(system, quick=quick, label="here") as here,
            Process(system, quick=quick, label="there", checkout=other) as there,
        ):
            found = measured([here, there], name, rounds)
        ours, theirs = found.get("here"), found.get("there")
        if not isinstance(ours, dict) or not isinstance(theirs, dict):
            print(f"{system + ': ' + row.title[:60]}: {ours if isinstance(ours, str) else theirs}")
            continue
        fresh = " (fresh)" if row.kind in FRESH else ""
        for metric, figure in ours.items():
            what = f"{system}: {name}, {metric}{fresh}"
            ratio = figure / theirs[metric] if theirs[metric] else float("nan")
            print(f"{what:<52}{figure:>12.4g}{theirs[metric]:>12.4g}{ratio:>8.2f}", flush=True)


def run(rows: Sequence[Row], sides: Sequence[str], rounds: int, *, quick: bool) -> dict[Row, Found]:
    """Measure the rows, and print each as it is there; services only where uvicorn is installed."""
    results: dict[Row, Found] = {}
    print(" " * 42 + "".join(f"{cell:>12}" for cell in HEADER[1:]))
    for row in rows:
        if row.served and importlib.util.find_spec("uvicorn") is None:
            print(f"{row.title}: not measured, uvicorn is missing (pip install 'eagerloop[bench]')")
            continue
        found = row_figures(row, sides, rounds, quick=quick)
        results[row] = found
        print(as_text(row, found), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, one round; writes no docs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each row; default: 3")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=names, help=f"some of {', '.join(names)}")
    sides = f"some of {', '.join(SIDES)}"
    parser.add_argument("--sides", nargs="+", metavar="SIDE", choices=SIDES, default=list(SIDES), help=sides)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go as well")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure single ops beside another checkout")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    if options.against:
        compare(options.against, rounds, quick=options.quick)
        return
    results = run(
        [row for row in ROWS if options.only is None or row.name in options.only],
        options.sides,
        rounds,
        quick=options.quick,
    )
    if options.json:
        options.json.write_text(json.dumps({row.name: found for row, found in results.items()}, indent=2) + "\n")
    if not (options.quick or options.no_docs or options.only) and list(options.sides) == list(SIDES):
        put(Path("docs") / "performance.md", BEGIN, END, as_markdown(results))


if __name__ == "__main__":
    main()
