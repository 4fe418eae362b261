"""What a rule is: one class in one file, whose docstring is its page and whose cases are its tests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import libcst as cst

from esper_audit.core.errors import ConfigError
from esper_audit.core.findings import Category, Confidence, Severity
from esper_audit.core.report import RuleInfo
from esper_audit.rulekit.repair import Repair
from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import ModuleModel
from esper_audit.semantics.network import NetworkClass

PAGE_SECTIONS = ("What it does", "Why it matters", "Example", "Use instead", "Evidence", "References")


@dataclass(frozen=True, slots=True)
class Note:
    """A second place that belongs to a hit."""

    module: ModuleModel
    node: cst.CSTNode
    message: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault at a node. What is left empty is taken from the rule."""

    node: cst.CSTNode
    message: str
    module: ModuleModel | None = None
    help: str = ""
    severity: Severity | None = None
    confidence: Confidence | None = None
    symbol: str = ""
    notes: tuple[Note, ...] = ()
    end: cst.CSTNode | None = None
    repair: Repair | None = None

    @classmethod
    def at(cls, event: Event, message: str, **more: Any) -> Hit:
        """A fault at the node of an event; `more` as for any hit."""
        return cls(event.node, message, module=event.module, symbol=event.function.qualified, **more)


@dataclass(frozen=True, slots=True)
class Praise:
    """A good pattern at a node."""

    node: cst.CSTNode
    message: str
    module: ModuleModel | None = None
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """A small project that a rule must convict (lines marked `# <- CODE`) or leave alone.

    `files` maps names to sources; a single string is a file called network.py. `todo` marks a known miss. `fixed` is
    what the files look like when all fixes of the rule, unsafe ones too, have been made; marks are not compared.
    """

    files: str | dict[str, str]
    todo: bool = False
    praised: bool = False
    target: str = "network.py"
    fixed: str | dict[str, str] | None = None

    def sources(self) -> dict[str, str]:
        """File name to dedented source."""
        return self._written(self.files)

    def fixed_sources(self) -> dict[str, str] | None:
        """The same for `fixed`; files that stay as they are may be left out."""
        return None if self.fixed is None else {**self.sources(), **self._written(self.fixed)}

    def _written(self, files: str | dict[str, str]) -> dict[str, str]:
        files = {self.target: files} if isinstance(files, str) else files
        return {name: inspect.cleandoc(source) + "\n" for name, source in files.items()}


class Rule:
    """Base of all rules. Subclasses set the fields and override `check_network`, and `praise` where there is some."""

    code: ClassVar[str]
    name: ClassVar[str]
    summary: ClassVar[str]
    category: ClassVar[Category]
    severity: ClassVar[Severity]
    confidence: ClassVar[Confidence] = Confidence.HIGH
    probe: ClassVar[str | None] = None
    fixable: ClassVar[Literal["safe", "unsafe"] | None] = None  # the best that its fixes can be
    help: ClassVar[str]
    VALID: ClassVar[Sequence[Case | str]] = ()
    INVALID: ClassVar[Sequence[Case | str]] = ()

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """The faults of one network; `module` is the file it is defined in."""
        return ()

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """The good patterns of one network that are worth telling."""
        return ()

    @classmethod
    def page(cls) -> str:
        """The rule's page: the docstring as markdown."""
        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def section(cls, title: str) -> str:
        """One section of the page, without its heading."""
        match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", cls.page(), re.MULTILINE | re.DOTALL)
        return match.group(1).strip() if match else ""

    @classmethod
    def code_block(cls, title: str) -> str:
        """The first code block of a section."""
        match = re.search(r"```python\n(.*?)```", cls.section(title), re.DOTALL)
        return match.group(1) if match else ""

    def info(self) -> RuleInfo:
        """What reporters may say about the rule."""
        return RuleInfo(
            code=self.code,
            name=self.name,
            summary=self.summary,
            category=self.category,
            severity=self.severity,
            probe=self.probe,
            fixable=self.fixable,
            page=self.page(),
            confidence=self.confidence,
        )


@dataclass(slots=True)
class RuleSet:
    """All loaded rules by code."""

    rules: dict[str, Rule] = field(default_factory=dict)

    def add(self, rule: Rule, where: str) -> None:
        """Take in a rule; raises ConfigError with the file when its signature is wrong."""
        for name in ("code", "name", "summary", "category", "severity", "help"):
            if not hasattr(rule, name):
                raise ConfigError(f"{where}: rule {type(rule).__name__} has no `{name}`")
        if not re.fullmatch(r"[A-Z]{2,8}\d{3,4}", rule.code):
            raise ConfigError(
                f"{where}: rule {type(rule).__name__} has the code {rule.code!r}; "
                "expected letters and three digits, like ESP201"
            )
        if rule.code in self.rules:
            other = type(self.rules[rule.code]).__name__
            raise ConfigError(f"{where}: the code {rule.code} of {type(rule).__name__} is already used by {other}")
        self.rules[rule.code] = rule
