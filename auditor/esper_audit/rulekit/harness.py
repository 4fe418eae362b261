"""Turns the cases and the page of a rule into tests, for this project's rules and for those of third parties.

With pytest: `pytest.mark.parametrize("case", cases_of(MyRule), ids=str)` and `case.check(tmp_path)`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper_audit.audit import Auditor
from esper_audit.core.edits import apply, compatible
from esper_audit.core.findings import Finding, Highlight
from esper_audit.rulekit.rule import Case, Rule

_ROUNDS = 10
_ANY_MARK = re.compile(r"([ \t]*#\s*<-\s*[A-Z]+\d+[ \t]*)+$", re.MULTILINE)
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
        self._check_fixes(sources, findings, folder)

    def _check_fixes(self, sources: dict[str, str], findings: list[Finding], folder: Path) -> None:
        """Make all fixes, round by round: each file parses, what was fixed is silent, and `fixed` is what comes out."""
        wanted = self.case.fixed_sources()
        fixes = [finding.fix for finding in findings if finding.fix is not None]
        code, promised = self.rule.code, self.rule.fixable
        if wanted is not None:
            some = wanted != sources
            assert bool(fixes) is some, f"{self}: expected {'a' if some else 'no'} fix, got {fixes or 'none'}"
        for fix in fixes:
            assert promised is not None, f"{self}: {code} offers a fix, but its `fixable` says that it has none"
            assert promised == "safe" or not fix.safe, f"{self}: {code} offers a safe fix, but calls itself unsafe"
            assert fix.safe or fix.why, f"{self}: an unsafe fix must say why"
        for _ in range(_ROUNDS):
            mended = mended_once(sources, findings)
            if mended == sources:
                break
            for name, source in mended.items():
                assert _parses(source), f"{self}: {name} does not parse once it is fixed:\n{source}"
            before, (findings, _) = findings, audit_sources(self.rule, mended, folder)
            sources = mended
            assert len(findings) < len(before), f"{self}: a fix leaves as many findings as there were: {findings}"
        if wanted is not None:
            got, expected = _unmarked(sources), _unmarked(wanted)
            for name, source in expected.items():
                assert got[name] == source, f"{self}: {name} is fixed to\n{got[name]}\nand expected was\n{source}"


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


def mended_once(sources: dict[str, str], findings: list[Finding]) -> dict[str, str]:
    """The sources with one round of fixes, unsafe ones too: those that do not overlap."""
    mended = {}
    for name, source in sources.items():
        data = source.encode()
        groups = [f.fix.edits for f in findings if f.fix is not None and f.span.path == name]
        edits = [edit for number in compatible(data, groups) for edit in groups[number]]
        mended[name] = apply(data, edits).decode()
    return mended


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _unmarked(sources: dict[str, str]) -> dict[str, str]:
    return {name: _ANY_MARK.sub("", source) for name, source in sources.items()}


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
