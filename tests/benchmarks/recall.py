"""Which planted faults the rules see without running anything.

    python tests/benchmarks/recall.py [--base NAME ...] [--only WORD] [--probe-matrix FILE] [--output docs/recall.md]

Plants the faults of the three bases (see `planting.py`) into copies, each copy a project of its own in one tree, and
reads the whole tree once. A fault counts as seen when anything is said about its copy that is not said about the
healthy one, whatever the code. The benign twins show what that is worth: what is said about them is a false alarm.
`comparison.py` holds the linters of others to the same measure.

What the experiments say is not measured here: `matrix.py` writes it to a file, which is read for the networks that it
holds every row of. The column "with experiments" adds the faults that some experiment convicts to those that the rules
report. It does not take off what an experiment would refute: no fault here is refuted rightly.

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
    faulty = [(number, fault) for number, fault in enumerate(faults) if fault.number]
    benign = [number for number, fault in enumerate(faults) if not fault.number and fault.edits]
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
without `--probe`. "Seen" means that anything at all is said about a copy that is not said about the healthy one,
whatever the code; what is said about a benign twin, counted the same way, is a false alarm. "With experiments" adds
what the matrix found to convict. [The comparison](comparison.md) holds the linters of others to the same measure.

The networks are the reference implementation; `cleanrl`, an agent in one file with an LSTM, steps before environments,
torch's distributions and one method that acts and evaluates; `explicit`, an actor-critic with a GRU, three named heads
and formulas of its own. Rules were written with the first at hand; the other two were planted by somebody who wrote no
rules and did not look at them. When the rules first met them, blind, 110 of 190 and 109 of 189 were seen, 76 and 73 of
them at medium and above, and no twin at medium; what had been missed was read then, and facts were added, so the table
below is not blind any more. Networks and faults are made for the purpose all the same. Some faults of the other two
stand in what trains the network, where few rules look.

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


def read(base: Base, faults: Sequence[Fault], probed: Path) -> dict[str, Said]:
    """Plant, and read."""
    with tempfile.TemporaryDirectory(prefix="esper-recall-") as name:
        for number, fault in enumerate(faults):
            plant(fault, Path(name, f"{number:03}"))
        every, grave = by_rules(Path(name))
    tools = {OURS: every, MEDIUM: grave}
    if len(kept(probed, base)) == len(list(planted(base))):
        tools[PROBED] = by_experiments(faults, every, base, probed)
    return tools


def chosen(base: Base, only: str) -> list[Fault]:
    """The healthy network, and what a pattern finds besides; the twins of the compiled ones are the same network."""
    healthy, *others = planted(base)
    return [healthy, *(f for f in others if (f.number or f.group != COMPILE) and re.search(only, f.title))]


def main() -> None:
    """Plant, ask everybody, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", action="append", choices=BASES, help="these networks only, and no page")
    parser.add_argument("--only", metavar="WORD", help="faults that this regular expression finds, and no page")
    parser.add_argument("--probe-matrix", type=Path, default=HERE / "docs" / "probes-matrix.json", metavar="FILE")
    parser.add_argument("--output", type=Path, default=HERE / "docs" / "recall.md", metavar="FILE")
    options = parser.parse_args()
    totals: list[str] = []
    sections: list[str] = []
    for name in options.base or BASES:
        base = BASES[name]
        faults = chosen(base, options.only or "")
        tools = read(base, faults, options.probe_matrix)
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
