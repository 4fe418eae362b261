"""The finished audit: what every reporter receives, and nothing that a reporter would have to compute twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from esper_audit import __version__
from esper_audit.core.findings import Category, Confidence, Finding, Highlight, Severity, Verdict

SCHEMA = "esper-audit/1"


@dataclass(frozen=True, slots=True)
class HeadCard:
    """One output head: its attribute, its role (`policy` or `value`) and its size as written in the source."""

    name: str
    role: str
    size: str


@dataclass(frozen=True, slots=True)
class MethodCard:
    """One public method and the part it plays (`forward`, `act`, `evaluate`, `initial_state`, `value`, `other`)."""

    name: str
    role: str
    line: int
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkCard:
    """What was examined: one network class as the audit understood it. Unknown facts are empty strings."""

    name: str
    path: str
    line: int
    kind: str
    bases: tuple[str, ...] = ()
    core: str = ""
    trunk: tuple[str, ...] = ()
    neck: tuple[str, ...] = ()  # layers between a recurrent core and the heads
    heads: tuple[HeadCard, ...] = ()
    methods: tuple[MethodCard, ...] = ()
    masks: tuple[str, ...] = ()
    sizes: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for the `networks` list of a file."""
        return {
            "name": self.name,
            "line": self.line,
            "kind": self.kind,
            "bases": list(self.bases),
            "core": self.core,
            "trunk": list(self.trunk),
            "neck": list(self.neck),
            "heads": [{"name": head.name, "role": head.role, "size": head.size} for head in self.heads],
            "methods": [
                {"name": method.name, "role": method.role, "line": method.line, "parameters": list(method.parameters)}
                for method in self.methods
            ],
            "masks": list(self.masks),
            "sizes": dict(self.sizes),
        }


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file and what became of it: `audited skipped cached consulted unparsable crashed`."""

    path: str
    status: str
    networks: tuple[NetworkCard, ...] = ()
    error: str = ""
    error_line: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object that `esper-audit/1` promises for a file; `error` only where there is one."""
        data: dict[str, Any] = {
            "path": self.path,
            "status": self.status,
            "networks": [network.to_json() for network in self.networks],
        }
        if self.error:
            data["error"] = self.error
        return data


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One experiment on one subject. The verdict is about the claim: `refuted` where the network does not do it.

    `decisive` says whether that is a fault by itself; else it only matters where a rule suspected something.
    `reference` is what the same experiment measured on the reference implementation in the same run; empty if none did.
    """

    id: str
    subject: str
    verdict: Verdict
    claim: str
    measured: str
    seconds: float
    error: str = ""
    decisive: bool = True
    reference: str = ""
    table: tuple[tuple[str, ...], ...] = ()  # what the experiment tells besides, its head first

    def to_json(self) -> dict[str, Any]:
        """The object that `esper-audit/1` promises for a probe."""
        return {
            "id": self.id,
            "subject": self.subject,
            "verdict": self.verdict.value,
            "claim": self.claim,
            "measured": self.measured,
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What a reporter may say about a rule without loading it."""

    code: str
    name: str
    summary: str
    category: Category
    severity: Severity
    probe: str | None
    fixable: str | None  # safe, unsafe, or None: the best that its fixes can be
    page: str
    confidence: Confidence = Confidence.HIGH


class LazyRules(Sequence[RuleInfo]):
    """The rules of a run that needed none of them: loaded when a reporter asks."""

    def __init__(self, load: Callable[[], Sequence[RuleInfo]]) -> None:
        self._load = load
        self._rules: Sequence[RuleInfo] | None = None

    def _all(self) -> Sequence[RuleInfo]:
        if self._rules is None:
            self._rules = self._load()
        return self._rules

    @overload
    def __getitem__(self, index: int) -> RuleInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RuleInfo]: ...
    def __getitem__(self, index: int | slice) -> RuleInfo | Sequence[RuleInfo]:
        """One rule, or some."""
        return self._all()[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all())


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The whole audit. All lists are sorted; `sources` holds the lines of each file that has a finding or highlight."""

    files: tuple[FileReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    highlights: tuple[Highlight, ...] = ()
    suppressed: tuple[Finding, ...] = ()
    baselined: tuple[Finding, ...] = ()
    probes: tuple[ProbeResult, ...] = ()
    hidden: int = 0  # findings below --min-severity or --min-confidence
    unchanged: int = 0  # findings on lines that --diff-base leaves out
    gone: Mapping[tuple[str, str], int] = field(default_factory=dict)  # of the baseline: (path, digest) -> how many
    notes: tuple[str, ...] = ()
    rules: Sequence[RuleInfo] = ()
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    torch_version: str = ""

    @property
    def active(self) -> tuple[Finding, ...]:
        """The findings that can fail a run: all but those an experiment refuted."""
        return tuple(finding for finding in self.findings if finding.verdict is not Verdict.REFUTED)

    @property
    def refuted(self) -> tuple[Finding, ...]:
        """The findings that an experiment refuted."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.REFUTED)

    def severity_counts(self) -> dict[str, int]:
        """Active findings by severity, worst first, zeros included."""
        counts = Counter(finding.severity for finding in self.active)
        return {severity.value: counts[severity] for severity in Severity}

    def summary(self) -> dict[str, Any]:
        """The numbers of the JSON `summary` object."""
        statuses = Counter(file.status for file in self.files)
        return {
            "files": len(self.files),
            "statuses": dict(sorted(statuses.items())),
            "networks": sum(len(file.networks) for file in self.files if file.status != "consulted"),
            "findings": len(self.active),
            "severities": self.severity_counts(),
            "refuted": len(self.refuted),
            "highlights": len(self.highlights),
            "suppressed": len(self.suppressed),
            "baselined": len(self.baselined),
            "hidden": self.hidden + self.unchanged,
        }

    def to_json(self) -> dict[str, Any]:
        """The one object of `esper-audit/1`."""
        return {
            "schema": SCHEMA,
            "tool": {"name": "esper-audit", "version": __version__},
            "files": [file.to_json() for file in self.files],
            "findings": [finding.to_json() for finding in self.findings],
            "highlights": [highlight.to_json() for highlight in self.highlights],
            "suppressed": [{**finding.to_json(), "reason": finding.reason} for finding in self.suppressed],
            "baselined": [{**finding.to_json(), "reason": finding.reason} for finding in self.baselined],
            "probes": [probe.to_json() for probe in self.probes],
            "summary": self.summary(),
        }
