"""What an audit costs, measured against the least it could cost: parsing the same files with libcst.

Seconds depend on the machine, ratios hardly do. So everything is divided by a floor: one bare process that parses
every ``*.py`` file under the given folders with ``libcst.parse_module``, drops the tree and does nothing else::

    python tests/benchmarks/speed.py CHECKOUT [CHECKOUT ...] --torchfix PATH --torch-preflight PATH

What is compared, and how:

* Cost is CPU time, user and system, of a whole process and of all the workers it started and waited for. Wall time
  would reward whoever uses more cores, and would depend on what else runs.
* The floor therefore contains the start of the interpreter and ``import libcst``, as every row does. A second row
  shows it with both subtracted: the parsing alone. A third is the floor for those files only in which the word "torch"
  occurs: a tool may skip the others unread, and TorchFix and esper-audit do. That is how a ratio can lie below 1.
* The floor is measured with the libcst of the interpreter that runs this script, its version is printed. A peer brings
  its own; run the script with the peer's interpreter to see what that changes.
* Each round measures the floor and then every tool; a ratio is taken within its round, so that a slow phase of the
  machine hits both sides of the fraction. Printed are the median of the ratios and the extremes.
* Output is discarded. "cold" begins with an empty cache and includes writing it, "warm" finds what the cold run
  of the same round has left. Beforehand, and not counted, all files are parsed once and every tool reads
  one file, so that the disk cache is warm and byte code is written.
* ``--networks-only`` restricts every row to the files in which esper-audit finds a network, the ones that it cannot
  skip: the honest comparison for those who audit a single file.

This is run by hand and is never a test: a timed test fails on a busy machine. It needs libcst and a POSIX system.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CACHE = "ESPER_AUDIT_CACHE_DIR"

# Runs in a process of its own. Reads the names of the files from standard input, prints what is not parsing.
FLOOR = """\
import json, sys, time
import libcst
started = time.process_time()
paths = sys.stdin.read().split("\\0")
unparsable = 0
for path in paths:
    with open(path, "rb") as file:
        source = file.read()
    try:
        libcst.parse_module(source)
    except Exception:
        unparsable += 1
print(json.dumps({"before_parsing": started, "files": len(paths), "unparsable": unparsable}))
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one finished process with its workers, its exit code and what it printed."""

    seconds: float
    exit_code: int
    output: str
    errors: str


@dataclass
class Row:
    """One line of the result: a way to measure it once, and what the rounds gave."""

    name: str
    measure: Callable[[], float]
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


class BenchmarkError(Exception):
    """A measured process failed, so that its time would mean nothing."""


def run(command: Sequence[str], typed: str = "") -> Cost:
    """Run a process to its end and take its CPU time from the kernel, which counts the workers it has waited for."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as keyboard,
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        keyboard.write(typed)
        keyboard.seek(0)
        process = subprocess.Popen(command, stdin=keyboard, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Cost(usage.ru_utime + usage.ru_stime, process.returncode, output.read(), errors.read())


def must_run(command: Sequence[str], good_exits: Sequence[int] = (0, 1)) -> Cost:
    """Run a tool that may report findings, which is what exit code 1 means for all of them."""
    cost = run(command)
    if cost.exit_code not in good_exits:
        last = (cost.errors or cost.output).strip().splitlines()[-1:]
        message = f"{' '.join(command[:4])} ... failed with exit code {cost.exit_code}: {''.join(last)}"
        raise BenchmarkError(message)
    return cost


def parse_all(files: Sequence[Path]) -> tuple[float, dict[str, Any]]:
    """Measure the floor once: the seconds of the whole process, and what it tells about itself."""
    cost = run([sys.executable, "-c", FLOOR], "\0".join(str(file) for file in files))
    if cost.exit_code:
        message = f"the bare parse failed: {cost.errors.strip()}"
        raise BenchmarkError(message)
    facts: dict[str, Any] = json.loads(cost.output)
    return cost.seconds, facts


def find_python_files(folders: Sequence[Path]) -> list[Path]:
    """List what the floor parses, each file once."""
    return sorted({file.resolve() for folder in folders for file in folder.rglob("*.py") if file.is_file()})


def find_networks(audit: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """Ask esper-audit for the files in which it finds at least one network."""
    report = json.loads(must_run([*audit, *map(str, folders)]).output)
    bases = (Path.cwd(), *folders)
    files = set()
    for entry in report["files"]:
        if entry["networks"]:
            found = next((base / entry["path"] for base in bases if (base / entry["path"]).is_file()), None)
            if found is None:
                message = f"esper-audit names {entry['path']}, which is not below the current folder or a given one"
                raise BenchmarkError(message)
            files.add(found.resolve())
    return sorted(file for file in files if any(folder in file.parents for folder in folders))


def ask_version(command: Sequence[str]) -> str:
    """Ask a program for its version; empty if it cannot be run."""
    cost = run(command)
    words = (cost.output or cost.errors).split()
    return words[-1] if words and not cost.exit_code else ""


def find_tools(options: argparse.Namespace, audit: Sequence[str] | None) -> dict[str, list[str]]:
    """Name the tools to measure, with their versions and their commands, to which the paths are added."""
    jobs = ["--jobs", str(options.jobs)] if options.jobs else []
    tools = {}
    if audit:
        tools[f"esper-audit {ask_version([*audit[:3], '--version'])}"] = [*audit]
    if options.torchfix:
        version = ask_version([options.torchfix, "--version"])
        tools[f"torchfix {version}"] = [options.torchfix, "--select", "ALL", *jobs]
    if options.torch_preflight:
        version = ask_version([options.torch_preflight, "--version"])
        tools[f"torch-preflight {version}"] = [options.torch_preflight, "check", *jobs]
    return tools


def build_rows(files: Sequence[Path], tools: dict[str, list[str]], targets: Sequence[str]) -> list[Row]:
    """Put together what is measured. The floor comes first; parsing alone is a by-product of the same process."""
    parsing_alone: list[float] = []

    def floor() -> float:
        seconds, facts = parse_all(files)
        parsing_alone.append(seconds - facts["before_parsing"])
        return seconds

    def tool(command: Sequence[str]) -> Callable[[], float]:
        return lambda: must_run([*command, *targets]).seconds

    def cold(measure: Callable[[], float]) -> Callable[[], float]:
        def measured() -> float:
            shutil.rmtree(os.environ[CACHE], ignore_errors=True)
            return measure()

        return measured

    with_torch = [file for file in files if b"torch" in file.read_bytes()]
    rows = [
        Row(f"floor: bare libcst parse of {len(files)} files", floor),
        Row("floor without start-up and import libcst", lambda: parsing_alone[-1]),
    ]
    if with_torch and len(with_torch) < len(files):
        rows.append(Row(f"floor for the {len(with_torch)} files with 'torch'", lambda: parse_all(with_torch)[0]))
    for name, command in tools.items():
        if name.startswith("esper-audit"):
            rows += [Row(f"{name}, cold", cold(tool(command))), Row(f"{name}, warm", tool(command))]
        else:
            rows.append(Row(name, tool(command)))
    for command in tools.values():
        must_run([*command, str((with_torch or files)[0])])
    return rows


def measure(rows: Sequence[Row], rounds: int) -> None:
    """Measure every row once a round, in order, and divide by the first row of the same round."""
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr)
        seconds = [row.measure() for row in rows]
        for row, cost in zip(rows, seconds, strict=True):
            row.seconds.append(cost)
            row.ratios.append(cost / seconds[0])


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Write the result as a markdown table."""
    yield "| what | CPU s, median | ratio to the floor, median | min | max |"
    yield "|---|---:|---:|---:|---:|"
    for row in rows:
        ratio, least, most = statistics.median(row.ratios), min(row.ratios), max(row.ratios)
        yield f"| {row.name} | {statistics.median(row.seconds):.2f} | {ratio:.2f} | {least:.2f} | {most:.2f} |"


def parse_arguments() -> argparse.Namespace:
    """Read the command line and refuse what cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder with Python files")
    parser.add_argument("--torchfix", metavar="BIN", help="the torchfix program")
    parser.add_argument("--torch-preflight", metavar="BIN", help="the torch-preflight program")
    parser.add_argument("--networks-only", action="store_true", help="only files in which esper-audit finds a network")
    parser.add_argument("--runs", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--jobs", type=int, help="worker processes for the peers (default: what each tool chooses)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs is to be at least 1")
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"{folder}: no such folder")
    for name in ("torchfix", "torch_preflight"):
        program = getattr(options, name)
        if program and shutil.which(program) is None:
            parser.error(f"{program}: no such program")
    return options


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = str(Path(folder, "cache"))
        measured(options)


def measured(options: argparse.Namespace) -> None:
    """Measure and print, with a cache folder of its own."""
    folders = [folder.resolve() for folder in options.folders]
    audit: list[str] | None = [sys.executable, "-m", "esper_audit"]  # the plain run, as a user would start it
    if not ask_version([sys.executable, "-m", "esper_audit", "--version"]):
        print(f"esper-audit: not found ({sys.executable} -m esper_audit does not run), so it has no row")
        audit = None

    try:
        if options.networks_only:
            if audit is None:
                sys.exit("--networks-only needs esper-audit to say which files those are")
            files = find_networks([*audit, "check", "--format", "json"], folders)
            targets = [str(file) for file in files]
        else:
            files = find_python_files(folders)
            targets = [str(folder) for folder in folders]
        if not files:
            sys.exit("no file to measure")
        unparsable = parse_all(files)[1]["unparsable"]
        rows = build_rows(files, find_tools(options, audit), targets)
        measure(rows, options.runs)
    except BenchmarkError as error:
        sys.exit(str(error))

    print(
        f"Python {platform.python_version()}, libcst {importlib.metadata.version('libcst')}, {platform.machine()}, "
        f"{os.cpu_count()} cores; {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB, "
        f"{unparsable} of them unparsable; {options.runs} rounds"
    )
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    main()
