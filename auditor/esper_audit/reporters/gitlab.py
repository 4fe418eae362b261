"""GitLab's code quality report: a list that the merge request compares with that of its target branch."""

from __future__ import annotations

import hashlib
from typing import Any, TextIO

from esper_audit.core.findings import Finding, Severity
from esper_audit.core.report import AuditReport
from esper_audit.reporters.alerts import in_checkout
from esper_audit.reporters.escape import visible
from esper_audit.reporters.json import write
from esper_audit.reporters.options import RenderOptions

_SEVERITIES = {
    Severity.CRITICAL: "blocker",
    Severity.HIGH: "critical",
    Severity.MEDIUM: "major",
    Severity.LOW: "minor",
    Severity.INFO: "info",
}


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write the list of active findings."""
    write([_issue(finding, options) for finding in report.active], sink)


def _issue(finding: Finding, options: RenderOptions) -> dict[str, Any]:
    path = in_checkout(finding.span.path, options)
    return {
        "description": visible(f"{finding.code}: {finding.message}"),
        "check_name": visible(finding.code),
        "fingerprint": _fingerprint(path, finding.fingerprint),
        "severity": _SEVERITIES[finding.severity],
        "location": {
            "path": path,
            "lines": {"begin": finding.span.line, "end": finding.span.end_line},
        },
    }


def _fingerprint(path: str, fingerprint: str) -> str:
    """GitLab takes equal fingerprints for one issue, and ours are equal for equal lines of two files."""
    return hashlib.blake2b(f"{path}\0{fingerprint}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
