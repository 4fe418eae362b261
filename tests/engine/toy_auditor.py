"""A small auditor and two rules for the engine's own tests: it finds what the comments of a file tell it to find."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_audit.audit import FileResult
from esper_audit.core.errors import SourceError
from esper_audit.core.findings import Category, Confidence, Edit, Finding, Fix, Highlight, Severity, Span
from esper_audit.core.report import AuditReport, FileReport, NetworkCard, RuleInfo
from esper_audit.engine import CheckRequest, Plan, audit, prepare
from esper_audit.semantics.source import Source


@dataclass(frozen=True)
class ToyRule:
    """A rule as the engine sees it."""

    code: str
    name: str
    severity: Severity = Severity.HIGH
    category: Category = Category.DEVICE

    def info(self) -> RuleInfo:
        return RuleInfo(
            self.code, self.name, self.name, self.category, self.severity, None, None, "## What it does\n\nNo."
        )


TOY_RULES = {
    rule.code: rule
    for rule in (
        ToyRule("ESP201", "hidden-on-cpu"),
        ToyRule("ESP202", "mask-on-cpu", Severity.MEDIUM),
        ToyRule("ESP301", "infinite-mask", Severity.CRITICAL, Category.GRADIENT),
        ToyRule("ESP603", "dead-attribute", Severity.LOW, Category.QUALITY),
    )
}


_MARK = re.compile(
    r"# <- (?P<code>ESP\d+)(?: (?P<confidence>low|medium))?(?: at (?P<file>\S+):(?P<line>\d+))?"
    r"(?: (?P<kind>fix|unsafe) \[(?P<text>[^\]]*)\])?"
)


def _fix(mark: re.Match[str], span: Span) -> Fix | None:
    if mark["kind"] is None:
        return None
    return Fix("write another line", mark["kind"] == "fix", (Edit(span, mark["text"]),))


class ToyAuditor:
    """`# <- ESP201` is a finding on its line, `# <- ESP201 at other.py:3` one in another file.

    `# <- ESP201 fix [x = 1]` offers to write `x = 1` for the line; `unsafe` in place of `fix` calls it so.
    `class Name(nn.Module)` is a network, `# praise` a highlight, `# crash` an exception, `# broken` no Python.
    """

    def __init__(self, rules: Sequence[Any], display: Callable[[Path], str], roles: Mapping[str, str]) -> None:
        self.rules = {rule.code: rule for rule in rules}
        self.display = display
        self.roles = roles
        self.held: dict[Path, bytes] = {}

    def cases(self, path: Path) -> list[Any]:
        raise NotImplementedError(f"nothing is put on trial here: {path}")

    @property
    def projects(self) -> list[Any]:
        return []

    def defines_networks(self, path: Path, data: bytes) -> bool:
        raise NotImplementedError(f"nothing is shared out here: {path}, {len(data)} bytes")

    def network_audits(self, path: Path, data: bytes) -> Mapping[str, Any]:
        raise NotImplementedError(f"nothing is shared out here: {path}, {len(data)} bytes")

    def take(self, path: Path, audits: Mapping[str, Any]) -> None:
        raise NotImplementedError(f"nothing is shared out here: {path}, {len(audits)} audits")

    def hold(self, path: Path, data: bytes) -> None:
        self.held[path] = data

    def audit_file(self, path: Path, data: bytes | None = None) -> FileResult:
        data = self.held.get(path, data)
        source = Source.read(path) if data is None else Source(path, data)
        name = self.display(path)
        if "# crash" in source.text:
            raise ZeroDivisionError("rule ESP201 fell over\nsecond line")
        try:
            source.ast  # noqa: B018
        except SourceError as error:
            return FileResult(FileReport(name, "unparsable", error=str(error), error_line=error.line))
        networks, findings, highlights, consulted = [], [], [], []
        for number, line in enumerate(source.lines, 1):
            network = re.match(r"\s*class (\w+)\(nn\.Module\)", line)
            if network:
                networks.append(NetworkCard(network[1], name, number, "policy"))
            if "# praise" in line:
                highlights.append(Highlight("ESP201", "hidden-on-cpu", Category.DEVICE, "good", name, number))
            for mark in _MARK.finditer(line):
                rule = self.rules.get(mark["code"])
                if rule is None:
                    continue
                where, at = name, number
                if mark["file"]:
                    where, at = self.display(path.parent / mark["file"]), int(mark["line"])
                    consulted.append(path.parent / mark["file"])
                findings.append(
                    Finding(
                        rule.code,
                        rule.name,
                        rule.category,
                        rule.severity,
                        Confidence(mark["confidence"] or "high"),
                        f"found by {name}" if mark["file"] else "found",
                        "mend it",
                        Span(where, at, 1, at, 5),
                        symbol="Net",
                        fix=_fix(mark, Span(where, at, 1, at, len(line) + 1)),
                    )
                )
        return FileResult(
            FileReport(name, "audited", networks=tuple(networks)), tuple(findings), tuple(highlights), tuple(consulted)
        )


@dataclass
class Workbench:
    """Files in an empty folder, and audits of them."""

    folder: Path
    plan: Plan | None = None
    made: ToyAuditor | None = None

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        return path

    def network(self, body: str, name: str = "net.py") -> Path:
        """A file with one network; its line 4 is the first line of `body`."""
        return self.write(name, f"import torch\nfrom torch import nn\nclass Net(nn.Module):\n{body}")

    def audit(self, *paths: str, stdin: bytes = b"", **request: Any) -> AuditReport:
        def make(rules: Sequence[Any], display: Callable[[Path], str], roles: Mapping[str, str]) -> ToyAuditor:
            self.made = ToyAuditor(rules, display, roles)
            return self.made

        self.plan = prepare(CheckRequest(paths=paths or ("net.py",), **request), rules=lambda _: TOY_RULES)
        return audit(self.plan, auditor=make, stdin=lambda: stdin)


def codes(findings: Sequence[Finding]) -> list[tuple[str, int]]:
    """Code and line of each finding."""
    return [(finding.code, finding.span.line) for finding in findings]
