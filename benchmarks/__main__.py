"""`python -m benchmarks`: one process per system, rounds in turn, medians and ratios."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from benchmarks.checkouts import command
from benchmarks.report import Results, as_text, machine, write
from benchmarks.systems import SYSTEMS, Figures, version
from benchmarks.workloads import FRESH, WORKLOADS, workload


class Process:
    """A system in its own process, which runs a round when it is asked to; `label` is what its figures are called."""

    def __init__(self, name: str, *, quick: bool, label: str | None = None, checkout: Path | None = None) -> None:
        self.name = label or name
        self._process = subprocess.Popen(
            command("benchmarks", ["--serve", name, *(["--quick"] if quick else [])], checkout),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, what: str, name: str = "") -> Any:
        """What the process answers; None where it cannot do this, or has died of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{what} {name}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            return None
        return json.loads(line) if line else None


async def serve(name: str, *, quick: bool) -> None:
    """Answer commands from stdin: `prepare WORKLOAD`, `round`."""
    system = SYSTEMS[name]()
    await system.start()
    answers, sys.stdout = sys.stdout, sys.stderr
    one_round = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked, _, argument = line.strip().partition(" ")
        answer: object
        try:
            if asked == "prepare":
                one_round = None
                one_round = system.prepare(workload(argument, quick=quick))
                answer = one_round is not None
                if one_round is not None:
                    await one_round()  # compile, start threads, touch memory
            else:
                assert one_round is not None
                answer = await one_round()
        except Exception as error:  # noqa: BLE001 - a peer that cannot do a workload is a result as well
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def measured(processes: list[Process], name: str, rounds: int) -> dict[str, Figures | str]:
    """The medians of one workload by system, from rounds taken in turn; or why there are none."""
    found: dict[str, Figures | str] = {}
    able = []
    for process in processes:
        answer = process.ask("prepare", name)
        if answer is True:
            able.append(process)
        elif isinstance(answer, dict):
            found[process.name] = str(answer["error"])
        elif answer is None:
            found[process.name] = "the process ended"
    taken: dict[str, list[Figures]] = {process.name: [] for process in able}
    for _ in range(rounds):
        for process in able:
            answer = process.ask("round")
            if isinstance(answer, dict) and "error" not in answer:
                taken[process.name].append(answer)
    for system, figures in taken.items():
        if figures:
            found[system] = {metric: median(each[metric] for each in figures) for metric in figures[0]}
    for process in processes:
        process.ask("prepare", "nothing")  # lets go of the inputs
    return found


def run(systems: list[str], names: list[str], *, rounds: int, quick: bool) -> Results:
    options = ["--quick"] if quick else []
    typed = shlex.join(["python", "-m", "benchmarks", *options, "--rounds", str(rounds), "--systems", *systems])
    results = Results(machine(), {system: version(system) or "" for system in systems}, typed)
    shared = [name for name in names if workload(name, quick=quick).kind not in FRESH]
    for group in [shared, *([name] for name in names if name not in shared)]:
        with ExitStack() as stack:
            processes = [stack.enter_context(Process(system, quick=quick)) for system in systems]
            for name in group:
                results.figures[name] = measured(processes, name, rounds)
                print(as_text(results, name), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, three rounds; writes no docs")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each workload; default: 7")
    names = [row.name for row in WORKLOADS]
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", choices=names, help=f"some of {', '.join(names)}")
    parser.add_argument(
        "--systems", nargs="+", metavar="SYSTEM", choices=list(SYSTEMS), help=f"some of {', '.join(SYSTEMS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go as well")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument("--serve", metavar="SYSTEM", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, quick=options.quick))
        return
    systems = [name for name in options.systems or SYSTEMS if version(name) is not None]
    names = options.only or [row.name for row in WORKLOADS]
    results = run(systems, names, rounds=3 if options.quick else options.rounds, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(results.as_dict(), indent=2) + "\n")
    if not (options.quick or options.no_docs or options.only):
        write(results, Path("docs"))


if __name__ == "__main__":
    main()
