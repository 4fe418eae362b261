"""Which planted faults are seen without running anything: by the rules, and by the linters of others.

    python tests/benchmarks/recall.py [--peer torchfix=BIN ...] [--only WORD] [--output docs/recall.md]

Plants the faults of `matrix.py` into copies of the reference implementation, each copy a project of its own in one
tree, and has every tool read the whole tree once. A fault counts as seen when the tool says anything about its copy
that it does not say about the healthy one, whatever the words: that is generous to tools which complain about style,
since most plants add code. The benign twins show what that is worth: what is said about them is a false alarm.
Peers run with all the rules they have, on the files that are ever changed. Known are torchfix, torch-preflight, ruff,
pylint and vulture.

This is run by hand and is never a test.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matrix import HERE, REFERENCE, Fault, plant, planted

from esper_audit.probes.contract import COMPILE

Said = Mapping[int, "Counter[str]"]  # by the number of the copy: what is said about it, without the places
MEDIUM = "esper-audit, medium and above"
COMMANDS = {
    "torchfix": ["--select", "ALL"],
    "torch-preflight": ["check"],
    "ruff": ["check", "--isolated", "--select", "ALL", "--output-format", "concise", "--no-cache", "--quiet"],
    "pylint": ["--enable=all", "--output-format=text", "--score=n"],
    "vulture": ["--min-confidence", "0"],
}
LINE = re.compile(r"(?:\S*/)?(?P<copy>\d{3})/esper_reference/(?P<file>\w+\.py):(?:\d+:){1,2} ?(?P<words>.*)")


def by_rules(tree: Path, severity: str) -> Said:
    """What esper-audit reports from a severity on."""
    command = [sys.executable, "-m", "esper_audit", ".", "--isolated", "--no-cache", "--exit-zero", "--format", "json"]
    command += ["--min-severity", severity]
    report = json.loads(subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout)
    said: dict[int, Counter[str]] = defaultdict(Counter)
    for finding in report["findings"]:
        said[int(finding["path"][:3])][finding["code"]] += 1
    return said


def by_peer(tool: str, binary: str, tree: Path, changed: set[str]) -> Said:
    """What a peer prints, one line for each message."""
    files = sorted(str(path.relative_to(tree)) for name in changed for path in tree.glob(f"*/{REFERENCE.name}/{name}"))
    command = [str(Path(binary).absolute()), *COMMANDS[tool], *files]
    shown = subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True).stdout
    said: dict[int, Counter[str]] = defaultdict(Counter)
    for line in shown.splitlines():
        match = LINE.match(line.removeprefix("./"))
        if match is not None:
            said[int(match["copy"])][re.sub(r"\d+", "N", f"{match['file']} {match['words']}")] += 1
    if not said:
        print(f"note: {tool} said nothing that could be read", file=sys.stderr)
    return said


def new(said: Said, number: int) -> list[str]:
    """What is said about a copy beyond what is said about the healthy one, which is the first."""
    return sorted(said.get(number, Counter()) - said.get(0, Counter()))


def rows(faults: Sequence[Fault], tools: Mapping[str, Said]) -> Iterator[str]:
    """The table: the codes that the rules report, and which peers say anything new."""
    for number, fault in enumerate(faults):
        ours = ", ".join(code.partition(" ")[0] for code in new(tools["esper-audit"], number))
        peers = ["yes" if new(said, number) else "" for tool, said in tools.items() if tool != "esper-audit"]
        yield f"| {fault.number} {fault.operator} | {fault.spelling} | {' | '.join((ours, *peers))} |".replace(
            "|  ", "| "
        )


def sums(faults: Sequence[Fault], tools: Mapping[str, Said]) -> Iterator[str]:
    """For each tool: faults seen, operators seen in every spelling, benign twins reported."""
    numbered = list(enumerate(faults))
    faulty = [(number, fault) for number, fault in numbered if fault.number]
    benign = [number for number, fault in numbered if not fault.number and fault.edits]
    operators = {fault.operator for _, fault in faulty}
    for tool, said in tools.items():
        seen = sum(bool(new(said, number)) for number, _ in faulty)
        missed = {fault.operator for number, fault in faulty if not new(said, number)}
        alarms = sum(bool(new(said, number)) for number in benign)
        yield (
            f"| {tool} | {seen} of {len(faulty)} ({100 * seen / max(1, len(faulty)):.0f} %) "
            f"| {len(operators - missed)} of {len(operators)} | {alarms} of {len(benign)} |"
        )


PAGE = """# What is seen without running anything

The faults of [the matrix of experiments](probes-matrix.md), planted into the reference implementation and read by
esper-audit without `--probe`, and by the linters of others with all the rules they have. "Seen" means that anything at
all is said about a copy that is not said about the healthy one, whatever its words; what is said about a benign twin,
counted the same way, is a false alarm. One architecture, and faults and rules by one hand: what no rule of esper-audit
says here, an experiment has to find.

| tool | faults seen | operators seen in every spelling | benign twins reported |
|---|---:|---:|---:|
{sums}

| operator | spelling | {tools} |
|---|---|{lines}
{rows}

Written by `python tests/benchmarks/recall.py`.
"""


def main() -> None:
    """Plant, ask everybody, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=BIN", help="a linter to compare with")
    parser.add_argument("--only", metavar="WORD", help="faults that this regular expression finds, and no page")
    parser.add_argument("--output", type=Path, default=HERE / "docs" / "recall.md", metavar="FILE")
    options = parser.parse_args()
    healthy, *others = planted()
    wanted = [
        f for f in others if not options.only or re.search(options.only, f"{f.number} {f.operator}, {f.spelling}")
    ]
    faults = [healthy, *(fault for fault in wanted if fault.number or fault.group != COMPILE)]
    with tempfile.TemporaryDirectory(prefix="esper-recall-") as name:
        for number, fault in enumerate(faults):
            plant(fault, Path(name, f"{number:03}"))
        tools = {"esper-audit": by_rules(Path(name), "info"), MEDIUM: by_rules(Path(name), "medium")}
        for peer in options.peer:
            tool, _, binary = peer.partition("=")
            tools[tool] = by_peer(tool, binary, Path(name), {edit[0] for fault in faults for edit in fault.edits})
    lines = list(rows(faults, tools))[1:]
    print("\n".join(lines if options.only else sums(faults, tools)))
    if not options.only:
        text = PAGE.format(
            sums="\n".join(sums(faults, tools)),
            tools=" | ".join(tools),
            lines="---|" * len(tools),
            rows="\n".join(lines),
        )
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
