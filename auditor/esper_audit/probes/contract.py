"""What a probe is, and what passes between the audit and the worker. Imports neither torch nor libcst.

An order and an outcome are plain data: they cross the border between two processes as JSON.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from esper_audit.core.findings import Category, Severity

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject

BEHAVIOUR, COMPILE = "behaviour", "compile"
PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"


class NotComparable(Exception):  # noqa: N818 - it is no error of anybody
    """The experiment does not apply to this network, or its way of calling is not understood. One sentence says why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one experiment saw: `passed`, `failed` or `undecided`, and the number it rests on."""

    result: str
    measured: str
    method: str = ""  # the method of the network that is to blame, where one is
    table: tuple[tuple[str, ...], ...] = ()  # for the report, its head first


def judged(*, passed: bool, measured: str, method: str = "") -> Measurement:
    """A measurement that decides."""
    return Measurement(PASSED if passed else FAILED, measured, "" if passed else method)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One experiment on one network, as the worker reports it."""

    id: str
    result: str
    measured: str = ""
    error: str = ""
    method: str = ""
    seconds: float = 0.0
    table: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """What the source says about one method: its role, that of each parameter, and of each part of what it returns.

    `returns` nests as the value does: a role, `{"tuple": [...]}` or `{"dict": {...}}`; empty where nothing is known.
    """

    name: str
    role: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    returns: Any = None
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)  # {parameter: keys that are looked up in it}
    columns: int = 0  # of the actions, as far as they are taken one by one


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do: build one class of one file, and try these probes on it."""

    file: str
    class_name: str
    root: str  # of the project: where relative paths of the code point to
    methods: tuple[MethodFacts, ...] = ()
    heads: tuple[str, ...] = ()  # the layers that give logits, in their order
    factory: str = ""  # "module:function", from the configuration
    arguments: Mapping[str, Any] = field(default_factory=dict)  # for the constructor, from configuration or comment
    problem: str = ""  # why it cannot be carried out, where that is known beforehand
    probes: tuple[str, ...] = ()
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Order:
        """The order that `to_json` wrote."""
        methods = tuple(MethodFacts(**method) for method in data["methods"])
        return cls(**{**data, "methods": methods, "heads": tuple(data["heads"]), "probes": tuple(data["probes"])})


class Probe(ABC):
    """One experiment: a file of `experiments`, whose docstring says claim, experiment, criterion and pitfalls."""

    id: ClassVar[str]
    claim: ClassVar[str]  # what is true of a right network, in one sentence
    code: ClassVar[str]  # the rule it convicts under
    name: ClassVar[str]
    category: ClassVar[Category]
    severity: ClassVar[Severity]
    help: ClassVar[str]
    convicts: ClassVar[bool] = True  # whether a failure without a finding is one of its own
    tells: ClassVar[bool] = False  # whether reports want its numbers, though it convicts nobody
    acquits: ClassVar[bool] = True  # whether passing refutes a finding, wherever it stands
    group: ClassVar[str] = BEHAVIOUR  # compile probes run last, in a process of their own

    @abstractmethod
    def run(self, subject: Subject) -> Measurement:
        """Try it. Raises NotComparable where the experiment does not apply."""


@cache
def probes() -> Mapping[str, Probe]:
    """All probes by their id, in the order of their ids."""
    from esper_audit.probes import experiments

    found: dict[str, Probe] = {}
    for entry in pkgutil.iter_modules(experiments.__path__):
        module = importlib.import_module(f"{experiments.__name__}.{entry.name}")
        for item in vars(module).values():
            # `dict[str, int]` passes for a type in Python 3.10, but its own type is not one
            if isinstance(item, ABCMeta) and issubclass(item, Probe) and item.__module__ == module.__name__:
                found[item.id] = item()
    return dict(sorted(found.items()))
