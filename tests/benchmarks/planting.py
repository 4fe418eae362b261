"""Faults that are planted as text: what a base network, a fault and a plant are, and how one is put into a copy.

A base is a healthy network in one style, and the faults that were written for it: the mutation operators of the
catalogue, each in two to four spellings, and benign twins, which change as much and break nothing. Old text has to
occur exactly once. The bases are the reference implementation (`plants_reference.py`), an agent in one file with
torch's distributions (`plants_cleanrl.py`) and an actor-critic with named heads and formulas of its own
(`plants_explicit.py`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper_audit.probes.contract import BEHAVIOUR, COMPILE

HERE = Path(__file__).resolve().parents[2]
STYLES = Path(__file__).resolve().parent / "styles"
Edit = tuple[str, str, str]  # file, old text, new text
Twins = tuple[tuple[str, tuple[Edit, ...]], ...]  # spelling, edits
Plants = tuple[tuple[str, str, str, Twins], ...]  # number, operator, names of the expected probes, spellings


@dataclass(frozen=True)
class Base:
    """A healthy network, and what can be planted into it."""

    name: str
    folder: Path
    network: str  # the file of the network, in the folder
    class_name: str
    plants: Plants
    compiled: Plants  # those that concern torch.compile
    benign: Twins


@dataclass(frozen=True)
class Fault:
    """One operator in one spelling, in one network."""

    base: Base
    number: str  # of the operator in the catalogue, empty for what is no fault
    operator: str
    spelling: str
    expected: tuple[str, ...]  # the probes that stand for what the catalogue names: one of them should see it
    edits: tuple[Edit, ...]
    group: str = BEHAVIOUR

    @property
    def title(self) -> str:
        """What a pattern on the command line is matched with."""
        return f"{self.number} {self.operator}, {self.spelling}"


def planted(base: Base) -> Iterator[Fault]:
    """Every network to try, the healthy one first."""
    yield Fault(base, "", "none", "healthy", (), ())
    for number, operator, expected, spellings in base.plants:
        for spelling, edits in spellings:
            yield Fault(base, number, operator, spelling, tuple(expected.split()), edits)
    for spelling, edits in base.benign:
        yield Fault(base, "", "benign twin", spelling, (), edits)
    yield Fault(base, "", "none, compiled", "healthy", (), (), COMPILE)
    for number, operator, expected, spellings in base.compiled:
        for spelling, edits in spellings:
            yield Fault(base, number, operator, spelling, tuple(expected.split()), edits, COMPILE)


def plant(fault: Fault, root: Path) -> Path:
    """Put a copy of the base with the fault in it into `root`; the folder of the copy."""
    source = fault.base.folder
    copy = root / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (project_of(copy) / "pyproject.toml").touch()
    for file, old, new in fault.edits:
        text = (copy / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            sys.exit(f"{fault.base.name}, {fault.title}: expected once in {file}, found {text.count(old)}: {old!r}")
        (copy / file).write_text(text.replace(old, new), encoding="utf-8")
    return copy


def project_of(copy: Path) -> Path:
    """The project that a copy belongs to: itself, or the folder around a package."""
    return copy.parent if (copy / "__init__.py").exists() else copy
