"""Which planted faults the probes convict: the mutation operators of the catalogue, each in two to four spellings.

    python tests/benchmarks/matrix.py [--base NAME ...] [--only WORD] [--output docs/probes-matrix.md]

Copies a base network into a temporary folder, writes one fault into the copy, reads and probes it as
`esper-audit check --probe` would, and writes a markdown table: operator, spelling, the probe that was expected to see
it, the probes that did, and whether that convicts. The healthy network comes first, benign twins come last: both have
to be acquitted by every probe that convicts. Progress goes to standard error, the sums to standard output.

There are three bases, see `planting.py`. Those that are not named keep the rows they had: these stand in a JSON file
next to the page, from which the page is written and which `recall.py` reads, too. Operators that concern torch.compile
(47 to 50) are tried by the probes of that group, which convict nobody, and are counted apart.

This is run by hand and is never a test: it starts a worker for each row, which takes some ten minutes for a base on two
cores. It needs torch.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bases import BASES
from planting import HERE, Base, Fault, plant, planted, project_of

from esper_audit.probes.contract import BEHAVIOUR, COMPILE, FAILED, UNDECIDED, Order, Outcome, probes
from esper_audit.probes.launch import carry_out
from esper_audit.probes.orders import order_for
from esper_audit.semantics.flow import Interpreter
from esper_audit.semantics.model import Models
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.project import Project

WORKERS = 2


@dataclass(frozen=True)
class Row:
    """What the probes said about one network."""

    fault: Fault
    failed: tuple[str, ...]  # probes that convict, or all of the group for torch.compile
    undecided: int
    problem: str  # why there was no trial

    @property
    def convicts(self) -> bool:
        """Whether a report would tell: something failed, and it is of those that convict."""
        return bool(self.failed) and self.fault.group == BEHAVIOUR


# --- the trial


def try_out(fault: Fault) -> Row:
    """Plant a fault and probe the network."""
    with planted_copy(fault) as order:
        ids = tuple(name for name, probe in probes().items() if probe.group == fault.group)
        about, outcomes = carry_out(replace(order, probes=ids), timeout=120)
    return Row(
        fault,
        tuple(_failed(outcomes, fault.group)),
        sum(outcome.result == UNDECIDED for outcome in outcomes),
        str(about.get("failed", "")),
    )


@contextmanager
def planted_copy(fault: Fault) -> Iterator[Order]:
    """What a worker is to build: a copy of the base with a fault in it."""
    with tempfile.TemporaryDirectory(prefix="esper-matrix-") as folder:
        copy = plant(fault, Path(folder))
        reader = Interpreter(Models(Project(project_of(copy))))
        module = reader.models.parse_named(copy / fault.base.network)
        yield order_for(NetworkClass(module.classes[fault.base.class_name], reader))


def _failed(outcomes: Sequence[Outcome], group: str) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.result == FAILED and (probes()[outcome.id].convicts or group == COMPILE):
            yield outcome.id


def told(row: Row) -> str:
    """One row of the table."""
    fault = row.fault
    convicted = "yes" if row.failed else "**no**" if fault.number else "no"
    if fault.group == COMPILE:
        convicted = "asks"
    elif not fault.number and row.failed:
        convicted = "**yes**"
    operator = f"{fault.number} {fault.operator}" if fault.number else fault.operator
    seen = ", ".join(f"**{name}**" if name in fault.expected else name for name in row.failed)
    seen += f" ({row.undecided} undecided)" if row.undecided else ""
    expected = ", ".join(fault.expected)
    return f"| {operator} | {fault.spelling} | {expected} | {row.problem or seen.strip()} | {convicted} |"


def sums(rows: Sequence[Row]) -> str:
    """How many were convicted, and how many should have been."""
    compiled = [row for row in rows if row.fault.group == COMPILE and row.fault.number]
    rows = [row for row in rows if row.fault.group == BEHAVIOUR]
    faulty = [row for row in rows if row.fault.number]
    healthy = [row for row in rows if not row.fault.number]
    convicted = sum(bool(row.failed) for row in faulty)
    operators = {row.fault.operator for row in faulty}
    missed = {row.fault.operator for row in faulty if not row.failed}
    acquitted = sum(not row.failed and not row.problem for row in healthy)
    named, share = _by_expected(faulty), 100 * _by_expected(faulty) / max(len(faulty), 1)
    return (
        f"{convicted} of {len(faulty)} planted faults are convicted, {named} of them ({share:.1f} % of all) by an "
        f"experiment that was expected; of {len(operators)} operators, {len(operators - missed)} in every spelling. "
        f"{acquitted} of {len(healthy)} healthy networks are acquitted. Of {len(compiled)} faults that concern "
        f"torch.compile, {_by_expected(compiled)} fail the experiment that was expected."
    )


def _by_expected(rows: Sequence[Row]) -> int:
    return sum(bool(set(row.fault.expected) & set(row.failed)) for row in rows)


PAGE = """# What the probes see

Each row is a healthy network with one fault planted by text, probed as `esper-audit PATH --probe` would. Operators
carry the number of the mutation catalogue, `+` marks two that it does not have. "Convicted" means that a probe failed
which convicts by itself; those that do not (`host-syncs`, `log-prob-gradient`, `mask-effect`) are left out. "Undecided"
counts the probes that did not apply, because the fault makes a method raise, or because they did not understand how the
network is called. Rows that say "asks" were tried by the experiments for torch.compile, which convict nobody:
`compile-coverage` fails on every network with methods besides `forward`, healthy ones included.

Expected, and in bold where it failed, is the experiment that stands for what the catalogue names. It names probes more
broadly: its P-ratio and P-window are `act-evaluate`; P-causal is `causality` and `episode-reset`; P-mask is
`mask-semantics`, `mask-entropy`, `log-prob-normalised`, `entropy-consistent` and, for policies that cannot become
sharp, `policy-range`; P-grad is `gradient-flow`, `gradient-cut`, `entropy-gradient` and, where a head is left out,
`log-prob-normalised` and `entropy-consistent`; P-dtype is `hidden-dtype` and `mask-dtype`; P-meta is `device-moves` and
`hidden-device`; P-infer is `inference-tensors` and `act-graph`; P-init and P-headscale are `init-policy`, `init-gates`
and `init-forget-bias`. Where it names two, either counts.

Three networks: the reference implementation; `cleanrl`, an agent in one file with an LSTM, steps before environments,
torch's distributions and one method that acts and evaluates; `explicit`, an actor-critic with a GRU, three named heads
and formulas of its own. The probes were written with the first at hand, and the other two were written to try them.
Networks and faults are made for the purpose: read it as a check of the probes, and not as a rate for the networks of
others. Some faults of the two styles stand in their rollout or update, which no probe runs.

Missed by what was expected in the reference: a value that keeps its last dimension (operator 10) is a convention where
act and evaluate share it, and only a trainer can make a fault of it; a second head that takes the first head's action
(45) scores what it took, so that the ratio is 1; a cached initial state (46) is what `initial-hidden-alias` is for.

{sections}
Written by `python tests/benchmarks/matrix.py`.
"""

SECTION = """## {name}

{tried} of {all} tried. {sums}

| operator | spelling | expected | failed | convicted |
|---|---|---|---|---|
{rows}
"""


def kept(path: Path, base: Base) -> list[Row]:
    """The rows that were measured for a base, of those plants that still are what they were."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {(each["title"], each["group"]): each for each in data.get(base.name, [])}
    rows = []
    for fault in planted(base):
        each = found.get((fault.title, fault.group))
        if each is not None:
            rows.append(Row(fault, tuple(each["failed"]), each["undecided"], each["problem"]))
    return rows


def keep(path: Path, rows: Mapping[str, Sequence[Row]]) -> None:
    """Write what was measured, by the name of the base."""
    data = {
        name: [
            {
                "title": row.fault.title,
                "group": row.fault.group,
                "failed": row.failed,
                "undecided": row.undecided,
                "problem": row.problem,
            }
            for row in each
        ]
        for name, each in rows.items()
        if each
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def measured(faults: Sequence[Fault]) -> Iterator[Row]:
    """Try all, several at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, row in enumerate(pool.map(try_out, faults), start=1):
            print(f"{number} of {len(faults)}, {row.fault.base.name}: {told(row)}", file=sys.stderr)
            yield row


def main() -> None:
    """Try all and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", action="append", choices=BASES, help="try these only, not all bases")
    parser.add_argument("--only", metavar="WORD", help="rows that this regular expression finds, and no page")
    parser.add_argument("--no-run", action="store_true", help="write the page from what was measured before")
    parser.add_argument("--output", type=Path, default=HERE / "docs" / "probes-matrix.md", metavar="FILE")
    options = parser.parse_args()
    start = time.monotonic()
    data = options.output.with_suffix(".json")
    rows = {name: kept(data, base) for name, base in BASES.items()}
    for name in () if options.no_run else options.base or BASES:
        faults = [each for each in planted(BASES[name]) if re.search(options.only or "", each.title)]
        rows[name] = list(measured(faults))
        print(f"{name}: {sums(rows[name])}", flush=True)
        if not options.only:
            keep(data, rows)
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    if not options.only:
        sections = (
            SECTION.format(
                name=name,
                tried=len(each),
                all=len(list(planted(BASES[name]))),
                sums=sums(each),
                rows="\n".join(map(told, each)),
            )
            for name, each in rows.items()
            if each
        )
        options.output.write_text(PAGE.format(sections="\n".join(sections)), encoding="utf-8")


if __name__ == "__main__":
    main()
