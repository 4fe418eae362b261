"""What esper-audit and the linters of others say about planted faults, about real networks, and about sound ones.

    python tests/benchmarks/comparison.py --bin FOLDER --checkouts FOLDER [--tool NAME ...] [--output FILE]

Three questions. Which of the faults of `planting.py` does a tool see, and what does it say about their benign twins?
There every tool runs with all the rules it has, and anything new that it says about a copy counts, whatever its words,
as in `recall.py`. How much does it say about the files of public projects in which esper-audit finds a network, and how
much about networks that are right? There it runs with the settings it comes with; what is said about the latter is a
false alarm, or a matter of taste.

`--bin` holds the tools, `--checkouts` one folder for each public project. How tools are run and read stands in
`peers.py`. Measured rows are kept in a JSON file next to the page: `--tool` measures some and leaves the others.

This is run by hand and is never a test; pylint takes most of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from bases import BASES
from peers import OURS, PEERS, Message, Peer, Workplace, run_peer
from planting import HERE, Base, plant
from recall import Said, by_rules, chosen, new

from esper_audit.semantics.project import Project, project_root

CHUNK = 60  # files in one call: no call takes minutes, and a hang is noticed
SOUND = ("tests/networks/healthy/policy.py", "reference_impl/esper_reference", "tests/benchmarks/styles")
Commands = Callable[[Workplace], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Counts:
    """How much is said about a set of files."""

    files: int = 0
    with_messages: int = 0
    messages: int = 0


@dataclass(frozen=True)
class Sums:
    """What is seen of the faults of one network."""

    seen: int
    faults: int
    reported: int
    twins: int


@dataclass
class Row:
    """What was measured of one tool."""

    version: str
    real: Counts
    sound: Counts
    planted: dict[str, Sums] = field(default_factory=dict)  # by the name of the base


def in_chunks(*options: str, size: int = CHUNK) -> Commands:
    """Options first, then some of the files, as often as needed."""

    def commands(work: Workplace) -> Sequence[Sequence[str]]:
        names = work.arguments
        return [[*options, *names[start : start + size]] for start in range(0, len(names), size)]

    return commands


def by_copy(*options: str) -> Commands:
    """For a tool that reads files against each other: those of one project at a time."""

    def commands(work: Workplace) -> Sequence[Sequence[str]]:
        folders: dict[str, list[str]] = defaultdict(list)
        for name in work.arguments:
            folders[os.path.dirname(name)].append(name)
        return [[*options, *names] for names in folders.values()]

    return commands


PYLINT = (f"--rcfile={os.devnull}", "--output-format=json2")
EVERYTHING: Mapping[str, Commands] = {
    "torchfix": in_chunks("--select", "ALL"),
    "torch-preflight": in_chunks("check", "--format", "json"),
    "ruff": in_chunks("check", "--no-cache", "--isolated", "--preview", "--select", "ALL", "--output-format", "json"),
    "vulture": by_copy("--min-confidence", "0"),
    # Each copy resembles all others: the search for duplicates would find nothing else, and take hours.
    "pylint": in_chunks(*PYLINT, "--enable=all", "--disable=duplicate-code"),
}
DEFAULTS: Mapping[str, Commands] = {
    OURS.name: lambda work: [
        ["-m", "esper_audit", "check", *work.arguments, "--isolated", "--no-cache", "--exit-zero", "--format", "json"]
    ],
    "torchfix": in_chunks(),
    "torch-preflight": in_chunks("check", "--format", "json"),
    "ruff": in_chunks("check", "--no-cache", "--isolated", "--output-format", "json"),
    "vulture": in_chunks(),
    "pylint": in_chunks(*PYLINT),
}


def asked(peer: Peer, commands: Commands, root: Path, files: Sequence[Path], folder: Path) -> tuple[str, list[Message]]:
    """The version of a tool and what it says about some files of a folder."""
    if peer is OURS:
        peer = replace(peer, program=Path(sys.executable).name, version=("-m", "esper_audit", "--version"))
        folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as scratch:
        work = Workplace(root, tuple(files), Path(scratch), None)
        row = run_peer(replace(peer, commands=commands), work, folder)
    if row.problem:
        sys.exit(f"{peer.name}: {row.problem}")
    return row.version, row.messages


def counted(messages: Sequence[Message], files: Sequence[Path]) -> Counts:
    """How many messages, and about how many of the files."""
    about = [message for message in messages if message.path in set(files)]
    return Counts(len(files), len({message.path for message in about}), len(about))


def planted_sums(peer: Peer, base: Base, folder: Path) -> Sums:
    """What one tool sees of the faults of one network."""
    faults = chosen(base, "")
    with tempfile.TemporaryDirectory(prefix="esper-comparison-") as name:
        tree = Path(name).resolve()
        copies = [plant(fault, tree / f"{number:03}") for number, fault in enumerate(faults)]
        if peer is OURS:
            said: Said = by_rules(tree)[0]
        else:
            changed = sorted({edit[0] for fault in faults for edit in fault.edits})
            files = [copy / file for copy in copies for file in changed]
            said = by_copies(asked(peer, EVERYTHING[peer.name], tree, files, folder)[1], tree)
    faulty = [bool(new(said, number)) for number, fault in enumerate(faults) if fault.number]
    benign = [bool(new(said, number)) for number, fault in enumerate(faults) if not fault.number and fault.edits]
    return Sums(sum(faulty), len(faulty), sum(benign), len(benign))


def by_copies(messages: Sequence[Message], tree: Path) -> Said:
    """What is said about each copy: the words, without the numbers of lines in them."""
    said: dict[int, Counter[str]] = defaultdict(Counter)
    for message in messages:
        copy, *_, file = message.path.relative_to(tree).parts
        said[int(copy)][re.sub(r"\d+", "N", f"{file} {message.code} {message.text}")] += 1
    return said


def network_files(root: Path) -> Iterator[Path]:
    """The files in which esper-audit finds a network."""
    project = cache(Project)
    for path in sorted(root.resolve().rglob("*.py")):
        if project(project_root(path)).network_names(path):
            yield path


def sound_files() -> list[Path]:
    """Networks that are right, with what belongs to them."""
    paths = [HERE / name for name in SOUND]
    return sorted(file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]))


def measured(peer: Peer, folder: Path, real: Sequence[Path], checkouts: Path) -> Row:
    """Everything about one tool."""
    version, about_real = asked(peer, DEFAULTS[peer.name], checkouts, real, folder)
    sound = sound_files()
    row = Row(
        version, counted(about_real, real), counted(asked(peer, DEFAULTS[peer.name], HERE, sound, folder)[1], sound)
    )
    for name, base in BASES.items():
        row.planted[name] = planted_sums(peer, base, folder)
        print(f"{peer.name}, {name}: {row.planted[name]}", file=sys.stderr)
    return row


def kept(path: Path) -> dict[str, Row]:
    """What was measured before."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        name: Row(
            row["version"],
            Counts(**row["real"]),
            Counts(**row["sound"]),
            {base: Sums(**sums) for base, sums in row["planted"].items()},
        )
        for name, row in data.items()
    }


PAGE = """# Beside the linters of others

What each tool says about the faults that are planted into three networks, about the files of public projects in which
esper-audit finds a network, and about networks that are right.

## Planted faults

Every tool has all the rules it knows switched on. A fault counts as seen when *anything* is said about its copy that is
not said about the healthy one, whatever the words: that is generous to tools which complain about style, since most
plants add code. What is said about a benign twin, counted the same way, shows what that is worth.
[The list](recall.md) says which faults they are; the rules of esper-audit were written with `reference` at hand, and
without the other two.

| tool | {bases} |
|---|{lines}
{planted}

## Real files and sound ones

With the settings each tool comes with. Real files are {real} files of public projects in which esper-audit finds a
network; how many of the messages are right, nobody has counted for all tools. Sound files are the reference, the two
styles that faults are planted into and `tests/networks/healthy`, {sound} files: their networks are tested, and what is
said about them is a false alarm or a matter of taste.

| tool | version | messages, real files | real files with any | messages, sound files | sound files with any |
|---|---|---:|---:|---:|---:|
{rows}

## Not in the tables

- semgrep 1.182.0 ships no rules at all: its package holds the engine and the schema of rules. Rules for PyTorch would
  have to come from its registry over the network, or be written for the purpose.
- torch-audit 0.3.0 reads no files: it wants `module:Class`, imports it, builds it without arguments and looks at the
  object, or at a training loop that runs. A path is refused ("Invalid format").
- torchshapeflow checks what carries its shape annotations, which no file here does.

Written by `python tests/benchmarks/comparison.py`.
"""


def page(rows: Mapping[str, Row]) -> str:
    """The page, from what was measured."""
    planted = (
        " | ".join(
            (f"| {name}", *(f"{s.seen} of {s.faults}; twins {s.reported} of {s.twins}" for s in row.planted.values()))
        )
        for name, row in rows.items()
    )
    told = (
        f"| {name} | {row.version} | {row.real.messages} | {row.real.with_messages} "
        f"| {row.sound.messages} | {row.sound.with_messages} |"
        for name, row in rows.items()
    )
    first = next(iter(rows.values()))
    return PAGE.format(
        bases=" | ".join(BASES),
        lines="---:|" * len(BASES),
        planted="\n".join(f"{line} |" for line in planted),
        real=first.real.files,
        sound=first.sound.files,
        rows="\n".join(told),
    )


def main() -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bin", type=Path, required=True, help="folder with the tools")
    parser.add_argument("--checkouts", type=Path, required=True, help="folder with checkouts of public projects")
    parser.add_argument("--tool", action="append", choices=DEFAULTS, help="measure these only")
    parser.add_argument("--output", type=Path, default=HERE / "docs" / "comparison.md", metavar="FILE")
    options = parser.parse_args()
    data = options.output.with_suffix(".json")
    rows = kept(data)
    checkouts = options.checkouts.resolve()
    real = list(network_files(checkouts))
    print(f"{len(real)} files with networks", file=sys.stderr)
    peers = {peer.name: peer for peer in PEERS}
    for name in options.tool or DEFAULTS:
        rows[name] = measured(peers[name], options.bin, real, checkouts)
        rows = {each: rows[each] for each in DEFAULTS if each in rows}
        data.write_text(
            json.dumps({each: asdict(row) for each, row in rows.items()}, indent=1) + "\n", encoding="utf-8"
        )
        options.output.write_text(page(rows), encoding="utf-8")
    print(page(rows))


if __name__ == "__main__":
    main()
