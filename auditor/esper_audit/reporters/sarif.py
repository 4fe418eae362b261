"""SARIF 2.1.0: the audit for code scanning, for viewers in editors, and for whatever else reads static analysis.

The schema allows more than readers use. What GitHub shows and how it decides is followed where the standard leaves a
choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, TextIO
from urllib.parse import quote

from esper_audit import __version__
from esper_audit.core.findings import Finding, Fix, Severity, Span
from esper_audit.core.report import AuditReport, FileReport, RuleInfo
from esper_audit.reporters import words
from esper_audit.reporters.alerts import ERROR, HOME, LEVELS, details, in_checkout, page_url, sentence
from esper_audit.reporters.escape import visible
from esper_audit.reporters.json import write
from esper_audit.reporters.options import RenderOptions
from esper_audit.reporters.pages import sections

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT = "%SRCROOT%"
_LONGEST_DESCRIPTION = 1024  # GitHub refuses more
_PROBLEMS = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "recommendation",
    Severity.INFO: "recommendation",
}
_LINK = re.compile(r"\](?=\()")


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write the one run. Findings that an experiment refuted are left out: there is nothing to fix."""
    write({"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(report, options)]}, sink)


def _run(report: AuditReport, options: RenderOptions) -> dict[str, Any]:
    index = {rule.code: number for number, rule in enumerate(report.rules)}
    told = [(finding, _suppressions(finding, kind)) for kind, finding in _told(report)]
    told.sort(key=lambda pair: pair[0].sort_key)
    return {
        "tool": {
            "driver": {
                "name": "esper-audit",
                "version": __version__,
                "informationUri": HOME,
                "rules": [_rule(rule) for rule in report.rules],
            }
        },
        "invocations": [_invocation(report, options)],
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The root of the checkout."}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, suppressions, index, options) for finding, suppressions in told],
    }


def _told(report: AuditReport) -> Iterator[tuple[str, Finding]]:
    """Every finding that a reader should know, with the kind of its suppression."""
    for kind, findings in (("", report.active), ("inSource", report.suppressed), ("external", report.baselined)):
        for finding in findings:
            yield kind, finding


def _suppressions(finding: Finding, kind: str) -> list[dict[str, str]]:
    """Never absent: the standard wants all results of a run to say whether they are suppressed, or none."""
    if not kind:
        return []
    return [{"kind": kind, **({"justification": visible(finding.reason)} if finding.reason else {})}]


def _rule(rule: RuleInfo) -> dict[str, Any]:
    url = page_url(rule.code, rule.name)
    summary = sentence(rule.summary)
    what = " ".join(sections(rule.page).get("What it does", "").partition("\n\n")[0].split())
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": summary[:_LONGEST_DESCRIPTION]},
        "fullDescription": {"text": (what or summary)[:_LONGEST_DESCRIPTION]},
        **({"helpUri": url} if url else {}),
        "help": {"text": rule.page or summary, "markdown": rule.page or summary},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {
            "tags": [rule.category.value],
            "precision": rule.confidence.value,
            "problem.severity": _PROBLEMS[rule.severity],
        },
    }


def _invocation(report: AuditReport, options: RenderOptions) -> dict[str, Any]:
    """Not successful when a file could not be audited, so that nobody takes its silence for a cure."""
    failed = words.failed_files(report)
    return {
        "executionSuccessful": not failed,
        "toolExecutionNotifications": [_notification(file, options) for file in failed],
    }


def _notification(file: FileReport, options: RenderOptions) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": _artifact(file.path, options)}
    if file.error_line:
        place["region"] = {"startLine": file.error_line}
    return {
        "level": ERROR,
        "descriptor": {"id": file.status},
        "message": _message(f"{visible(file.path)}: {sentence(words.failure(file))}"),
        "locations": [{"physicalLocation": place}],
    }


def _result(
    finding: Finding, suppressions: list[dict[str, str]], index: dict[str, int], options: RenderOptions
) -> dict[str, Any]:
    location = _location(finding.span, options)
    if finding.symbol:
        location["logicalLocations"] = [{"fullyQualifiedName": visible(finding.symbol)}]
    related = [
        {"id": number, **_location(other.span, options), "message": _message(sentence(other.message))}
        for number, other in enumerate(finding.related, 1)
    ]
    fix = finding.fix
    return {
        "ruleId": finding.code,
        **({"ruleIndex": index[finding.code]} if finding.code in index else {}),
        "level": LEVELS[finding.severity],
        "message": _message("\n".join([sentence(finding.message), *details(finding)])),
        "locations": [location],
        **({"relatedLocations": related} if related else {}),
        "partialFingerprints": {"primaryLocationLineHash": finding.fingerprint},
        **({"fixes": [_fix(fix, options)]} if fix and fix.safe and fix.edits else {}),
        "suppressions": suppressions,
        "properties": {
            "severity": finding.severity.value,
            "confidence": finding.confidence.value,
            "verdict": finding.verdict.value,
            "evidence": visible(finding.evidence),
        },
    }


def _message(text: str) -> dict[str, str]:
    """A message. Readers take `[words](target)` for a link, and `heads[0](x)` looks like one: a blank parts it."""
    return {"text": _LINK.sub("] ", text)}


def _location(span: Span, options: RenderOptions) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": _artifact(span.path, options), "region": _region(span)}}


def _region(span: Span) -> dict[str, int]:
    """SARIF counts as a span does: from 1, in code points, the end exclusive."""
    return {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }


def _artifact(path: str, options: RenderOptions) -> dict[str, str]:
    """The file: relative to the root, or with its whole path when it lies elsewhere."""
    if PurePath(path).is_absolute():
        return {"uri": f"file://{'' if path.startswith('/') else '/'}{quote(_bytes(path), safe='/:')}"}
    return {"uri": quote(_bytes(in_checkout(path, options)), safe="/"), "uriBaseId": _ROOT}


def _bytes(path: str) -> bytes:
    """The path as the file system spells it; a name that is no UTF-8 keeps its bytes."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, which no file system gave us
        return path.encode("utf-8", "surrogatepass")


def _fix(fix: Fix, options: RenderOptions) -> dict[str, Any]:
    paths = dict.fromkeys(edit.span.path for edit in fix.edits)
    return {
        "description": _message(sentence(fix.title)),
        "artifactChanges": [
            {
                "artifactLocation": _artifact(path, options),
                "replacements": [
                    {"deletedRegion": _region(edit.span), "insertedContent": {"text": edit.text}}
                    for edit in fix.edits
                    if edit.span.path == path
                ],
            }
            for path in paths
        ],
    }
