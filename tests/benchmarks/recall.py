"""Which planted faults are seen without running anything: by the rules, and by the linters of others.

    python tests/benchmarks/recall.py [--base NAME ...] [--only WORD] [--peer torchfix=BIN ...]
        [--probe-matrix docs/probes-matrix.json] [--output docs/recall.md]

Plants the faults of the three bases (see `planting.py`) into copies, each copy a project of its own in one tree, and
has every tool read the whole tree once. A fault counts as seen when the tool says anything about its copy that it does
not say about the healthy one, whatever the words: that is generous to tools which complain about style, since most
plants add code. The benign twins show what that is worth: what is said about them is a false alarm. Peers run with all
the rules they have, on the files that are ever changed. Known are torchfix, torch-preflight, ruff, pylint and vulture.

What the experiments say is not measured here: `matrix.py` writes it to a file, which is read if it is there. The column
"with experiments" adds the faults that some experiment convicts to those that the rules report. It does not take off
what an experiment would refute: no fault here is refuted rightly.

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

from bases import BASES
from matrix import kept
from planting import HERE, Base, Fault, plant, planted

from esper_audit.probes.contract import COMPILE

Said = Mapping[int, "Counter[str]"]  # by the number of the copy: what is said about it, without the places
OURS, MEDIUM, PROBED = "esper-audit", "esper-audit, medium and above", "esper-audit with experiments"
COMMANDS = {
    "torchfix": ["--select", "ALL"],
    "torch-preflight": ["check"],
    "ruff": ["check", "--isolated", "--select", "ALL", "--output-format", "concise", "--no-cache", "--quiet"],
    "pylint": ["--enable=all", "--output-format=text", "--score=n"],
    "vulture": ["--min-confidence", "0"],
}
LINE = re.compile(r"(?:\S*/)?(?P<copy>\d{3})/\w+/(?P<file>\w+\.py):(?:\d+:){1,2} ?(?P<words>.*)")


def by_rules(tree: Path) -> tuple[Said, Said]:
    """What esper-audit reports, and what of it is of medium severity and above."""
    command = [sys.executable, "-m", "esper_audit", ".", "--isolated", "--no-cache", "--exit-zero", "--format", "json"]
    report = json.loads(subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout)
    said: dict[int, Counter[str]] = defaultdict(Counter)
    grave: dict[int, Counter[str]] = defaultdict(Counter)
    for finding in report["findings"]:
        said[int(finding["path"][:3])][finding["code"]] += 1
        if finding["severity"] not in {"info", "low"}:
            grave[int(finding["path"][:3])][finding["code"]] += 1
    return said, grave


def by_peer(tool: str, binary: str, tree: Path, changed: set[str]) -> Said:
    """What a peer prints, one line for each message."""
    files = sorted(str(path.relative_to(tree)) for name in changed for path in tree.glob(f"*/*/{name}"))
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


def by_experiments(faults: Sequence[Fault], static: Said, base: Base, file: Path) -> Said:
    """What the rules say, and which experiments convict besides."""
    convicted = {(row.fault.title, row.fault.group): row.failed for row in kept(file, base) if row.convicts}
    return {
        number: static.get(number, Counter()) + Counter(convicted.get((fault.title, fault.group), ()))
        for number, fault in enumerate(faults)
    }


def rows(faults: Sequence[Fault], tools: Mapping[str, Said]) -> Iterator[str]:
    """The table: the codes that the rules report, and which other tools say anything new."""
    for number, fault in enumerate(faults[1:], start=1):
        ours = ", ".join(new(tools[OURS], number))
        others = ["yes" if new(said, number) else "" for tool, said in tools.items() if tool != OURS]
        line = " | ".join((f"{fault.number} {fault.operator}".strip(), fault.spelling, ours, *others))
        yield f"| {line} |".replace("|  ", "| ")


def sums(base: Base, faults: Sequence[Fault], tools: Mapping[str, Said]) -> Iterator[str]:
    """For each tool: faults seen, operators seen in every spelling, benign twins reported."""
    numbered = list(enumerate(faults))
    faulty = [(number, fault) for number, fault in numbered if fault.number]
    benign = [number for number, fault in numbered if not fault.number and fault.edits]
    operators = {(fault.number, fault.operator) for _, fault in faulty}
    for tool, said in tools.items():
        seen = sum(bool(new(said, number)) for number, _ in faulty)
        missed = {(fault.number, fault.operator) for number, fault in faulty if not new(said, number)}
        alarms = sum(bool(new(said, number)) for number in benign)
        yield (
            f"| {base.name} | {tool} | {seen} of {len(faulty)} ({100 * seen / max(1, len(faulty)):.0f} %) "
            f"| {len(operators - missed)} of {len(operators)} | {alarms} of {len(benign)} |"
        )


PAGE = """# What is seen without running anything

The faults of [the matrix of experiments](probes-matrix.md), planted into three healthy networks and read by esper-audit
without `--probe`, and by the linters of others with all the rules they have. "Seen" means that anything at all is said
about a copy that is not said about the healthy one, whatever its words; what is said about a benign twin, counted the
same way, is a false alarm. "With experiments" adds what the matrix found to convict.

The networks are the reference implementation; `cleanrl`, an agent in one file with an LSTM, steps before environments,
torch's distributions and one method that acts and evaluates; `explicit`, an actor-critic with a GRU, three named heads
and formulas of its own. Rules were written with the first at hand; the other two are the held-out check, planted by
somebody who wrote no rules and did not look at them. Networks and faults are by one hand all the same.

| network | tool | faults seen | operators seen in every spelling | benign twins reported |
|---|---|---:|---:|---:|
{sums}

{sections}
Written by `python tests/benchmarks/recall.py`.
"""

SECTION = """## {name}

| operator | spelling | {tools} |
|---|---|{lines}
{rows}
"""


def read(base: Base, faults: Sequence[Fault], peers: Sequence[str], probed: Path | None) -> dict[str, Said]:
    """Plant, and ask everybody."""
    with tempfile.TemporaryDirectory(prefix="esper-recall-") as name:
        tree = Path(name)
        for number, fault in enumerate(faults):
            plant(fault, tree / f"{number:03}")
        every, grave = by_rules(tree)
        tools = {OURS: every, MEDIUM: grave}
        if probed is not None and kept(probed, base):
            tools[PROBED] = by_experiments(faults, tools[OURS], base, probed)
        for peer in peers:
            tool, _, binary = peer.partition("=")
            tools[tool] = by_peer(tool, binary, tree, {edit[0] for fault in faults for edit in fault.edits})
    return tools


def chosen(base: Base, only: str) -> list[Fault]:
    """The healthy network, and what a pattern finds besides; the twins of the compiled ones are the same network."""
    healthy, *others = planted(base)
    return [healthy, *(f for f in others if (f.number or f.group != COMPILE) and re.search(only, f.title))]


def main() -> None:
    """Plant, ask everybody, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", action="append", choices=BASES, help="these networks only, and no page")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=BIN", help="a linter to compare with")
    parser.add_argument("--only", metavar="WORD", help="faults that this regular expression finds, and no page")
    parser.add_argument("--probe-matrix", type=Path, default=HERE / "docs" / "probes-matrix.json", metavar="FILE")
    parser.add_argument("--output", type=Path, default=HERE / "docs" / "recall.md", metavar="FILE")
    options = parser.parse_args()
    totals: list[str] = []
    sections: list[str] = []
    for name in options.base or BASES:
        base = BASES[name]
        faults = chosen(base, options.only or "")
        tools = read(base, faults, options.peer, options.probe_matrix if options.probe_matrix.exists() else None)
        lines = list(rows(faults, tools))
        totals += sums(base, faults, tools)
        sections.append(
            SECTION.format(name=name, tools=" | ".join(tools), lines="---|" * len(tools), rows="\n".join(lines))
        )
    print("\n".join(sections if options.only else totals))
    if not options.only and not options.base:
        options.output.write_text(PAGE.format(sums="\n".join(totals), sections="\n".join(sections)), encoding="utf-8")


if __name__ == "__main__":
    main()
