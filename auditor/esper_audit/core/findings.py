"""The vocabulary of an audit: how bad, how sure, where, what and why.

Everything here is frozen, slotted and serialisable, and holds no syntax tree, so that findings can be cached, sent
between processes and compared between runs.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any


class Severity(enum.Enum):
    """How much harm the fault does when it is real, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the mildest; larger is worse."""
        return _SEVERITY_RANK[self]

    def at_least(self, other: Severity) -> bool:
        """Whether this severity is as bad as `other` or worse."""
        return self.rank >= other.rank


_SEVERITY_RANK = {severity: rank for rank, severity in enumerate(reversed(Severity))}


class Confidence(enum.Enum):
    """How sure the static reading is that the fault is real."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the least sure; larger is surer."""
        return _CONFIDENCE_RANK[self]

    def at_least(self, other: Confidence) -> bool:
        """Whether this confidence is as high as `other` or higher."""
        return self.rank >= other.rank


_CONFIDENCE_RANK = {confidence: rank for rank, confidence in enumerate(reversed(Confidence))}


class Verdict(enum.Enum):
    """What an experiment said about a finding. Static runs know only UNTESTED."""

    UNTESTED = "untested"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


class Category(enum.Enum):
    """The sections of an audit report, in the order of the code families ESP1 to ESP6, then the audit's own ESP9."""

    COMPILE = "compile"
    DEVICE = "device"
    GRADIENT = "gradient"
    MEMORY = "memory"
    INTEGRATION = "integration"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a file. Lines and columns are 1-based and columns count code points; the end is exclusive."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int

    def to_json(self) -> dict[str, Any]:
        """The five keys a JSON span has."""
        return {
            "path": self.path,
            "line": self.line,
            "column": self.column,
            "end_line": self.end_line,
            "end_column": self.end_column,
        }


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that belongs to a finding, with the words that say why."""

    span: Span
    message: str

    def to_json(self) -> dict[str, Any]:
        """The span's keys and the message."""
        return {**self.span.to_json(), "message": self.message}


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the text of `span` by `text`."""

    span: Span
    text: str

    def to_json(self) -> dict[str, Any]:
        """The span's keys and the text."""
        return {**self.span.to_json(), "text": self.text}


@dataclass(frozen=True, slots=True)
class Fix:
    """A cure the tool can apply, in the file of its finding.

    `safe` means that behaviour provably stays as it is; `why` says what changes otherwise.
    """

    title: str
    safe: bool
    edits: tuple[Edit, ...] = ()
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """`safe`, `title`, `why` and the edits."""
        return {
            "safe": self.safe,
            "title": self.title,
            "why": self.why,
            "edits": [edit.to_json() for edit in self.edits],
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault at one place."""

    code: str
    name: str
    category: Category
    severity: Severity
    confidence: Confidence
    message: str
    help: str
    span: Span
    symbol: str = ""
    related: tuple[Related, ...] = ()
    fix: Fix | None = None
    verdict: Verdict = Verdict.UNTESTED
    evidence: str = ""
    origin: str = "rule"
    fingerprint: str = ""
    network: str = field(default="", compare=False)  # `path::Class`: whom the finding is about, wherever it stands
    reason: str = field(default="", compare=False)  # why it was suppressed or baselined; empty for active findings

    @property
    def sort_key(self) -> tuple[str, int, str, int, str]:
        """Path, line, code; then column and message so that the order is total."""
        return (self.span.path, self.span.line, self.code, self.span.column, self.message)

    def to_json(self) -> dict[str, Any]:
        """The object that `esper-audit/1` promises for a finding."""
        return {
            "code": self.code,
            "name": self.name,
            "category": self.category.value,
            "severity": self.severity.value,
            "confidence": self.confidence.value,
            "message": self.message,
            "help": self.help,
            **self.span.to_json(),
            "symbol": self.symbol,
            "related": [related.to_json() for related in self.related],
            "fix": self.fix.to_json() if self.fix else None,
            "verdict": self.verdict.value,
            "evidence": self.evidence,
            "origin": self.origin,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Highlight:
    """A good pattern worth telling."""

    code: str
    name: str
    category: Category
    message: str
    path: str
    line: int
    symbol: str = ""

    @property
    def sort_key(self) -> tuple[str, int, str, str]:
        """Path, line, code, message."""
        return (self.path, self.line, self.code, self.message)

    def to_json(self) -> dict[str, Any]:
        """The object that `esper-audit/1` promises for a highlight."""
        return {
            "code": self.code,
            "name": self.name,
            "category": self.category.value,
            "message": self.message,
            "path": self.path,
            "line": self.line,
            "symbol": self.symbol,
        }


def fingerprinted(findings: list[Finding], line_text: dict[tuple[str, int], str]) -> list[Finding]:
    """Give each finding its fingerprint: a digest of code, symbol and the words of its line, plus an ordinal.

    The digest survives moved lines, re-indentation and a renamed file; the ordinal tells equal lines of one symbol in
    one file apart.
    """
    seen: dict[tuple[str, str], int] = {}
    digests: dict[tuple[str, str, str, int], str] = {}  # a line may be long and bear thousands of findings
    stamped = []
    for finding in sorted(findings, key=lambda finding: finding.sort_key):
        what = (finding.code, finding.symbol, finding.span.path, finding.span.line)
        if what not in digests:
            words = " ".join(line_text.get(what[2:], "").split())
            text = f"{finding.code}\0{finding.symbol}\0{words}"
            digests[what] = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        digest = digests[what]
        key = (finding.span.path, digest)
        ordinal = seen.get(key, 0)
        seen[key] = ordinal + 1
        stamped.append(replace(finding, fingerprint=f"{digest}:{ordinal}"))
    return stamped
