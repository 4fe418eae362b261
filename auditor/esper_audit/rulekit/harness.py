"""Turns the cases and the page of a rule into tests, for this project's rules and for those of third parties.

With pytest: `pytest.mark.parametrize("case", cases_of(MyRule), ids=str)` and `case.check(tmp_path)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper_audit.audit import Auditor
from esper_audit.core.findings import Finding, Highlight
from esper_audit.rulekit.rule import Case, Rule

_MARK = re.compile(r"#\s*<-\s*([A-Z]+\d+)")
_FILE = re.compile(r"^# --- (\S+\.py)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RuleCase:
    """One case of one rule. `label` says where it stands: invalid, valid, example or use-instead, and its number."""

    rule: type[Rule]
    label: str
    case: Case

    def __str__(self) -> str:
        return f"{self.rule.code}-{self.label}"

    def check(self, folder: Path) -> None:
        """Write the case's files, audit them with the one rule and compare. Raises AssertionError that shows both."""
        sources = self.case.sources()
        findings, highlights = audit_sources(self.rule, sources, folder)
        found = sorted((Path(f.span.path).name, f.span.line) for f in findings)
        if self.label == "example":
            assert found, f"the Example of {self.rule.code} does not make it fire"
            return
        wanted = sorted(marked_lines(sources, self.rule.code))
        got = [(*place, finding.message) for place, finding in zip(found, findings, strict=True)]
        assert found == wanted, f"{self}: expected findings at {wanted}, got {got}"
        if self.case.praised:
            assert highlights, f"{self}: expected praise, got none"


def cases_of(rule: type[Rule]) -> Iterator[RuleCase]:
    """All cases of a rule, those of its page included. Known misses (`todo=True`) are left out: see `todos_of`."""
    for label, cases in (("invalid", rule.INVALID), ("valid", rule.VALID)):
        for number, written in enumerate(cases):
            case = written if isinstance(written, Case) else Case(written)
            if not case.todo:
                yield RuleCase(rule, f"{label}-{number}", case)
    if rule.INVALID:
        yield RuleCase(rule, "example", _page_case(rule, "Example"))
    yield RuleCase(rule, "use-instead", _page_case(rule, "Use instead"))


def todos_of(rule: type[Rule]) -> Iterator[RuleCase]:
    """The known misses of a rule: they must fail, or they are known no longer."""
    for label, cases in (("invalid", rule.INVALID), ("valid", rule.VALID)):
        for number, case in enumerate(cases):
            if isinstance(case, Case) and case.todo:
                yield RuleCase(rule, f"{label}-{number}", case)


def _page_case(rule: type[Rule], section: str) -> Case:
    code = rule.code_block(section)
    pieces = _FILE.split(code)
    if len(pieces) == 1:
        return Case(code)
    return Case(dict(zip(pieces[1::2], pieces[2::2], strict=True)))


def marked_lines(sources: dict[str, str], code: str) -> Iterator[tuple[str, int]]:
    """File and line of each `# <- CODE` mark."""
    for name, source in sources.items():
        for number, line in enumerate(source.splitlines(), 1):
            for match in _MARK.finditer(line):
                if match.group(1) == code:
                    yield name, number


def audit_sources(rule: type[Rule], sources: dict[str, str], folder: Path) -> tuple[list[Finding], list[Highlight]]:
    """Write a small project and audit every file of it with one rule. Raises AssertionError when the rule crashes."""
    (folder / "pyproject.toml").write_text("[project]\nname = 'case'\nversion = '0'\n")
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    auditor = Auditor([rule()], display=lambda path: path.relative_to(folder).as_posix())
    findings: dict[tuple[object, ...], Finding] = {}
    highlights: list[Highlight] = []
    for name in sources:
        result = auditor.audit_file(folder / name)
        assert result.report.status in ("audited", "skipped"), f"{name}: {result.report.status}: {result.report.error}"
        for finding in result.findings:
            findings[finding.sort_key] = finding
        highlights += result.highlights
    return sorted(findings.values(), key=lambda finding: finding.sort_key), highlights
