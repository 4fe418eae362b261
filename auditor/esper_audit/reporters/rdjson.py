"""The Reviewdog Diagnostic Format, `rdjson`: reviewdog turns it into comments on the lines that a change touches.

A forge renders those comments as Markdown, under the name of whoever runs reviewdog: messages are escaped for that.
"""

from __future__ import annotations

from typing import Any, TextIO

from esper_audit.core.findings import Finding, Span
from esper_audit.core.report import AuditReport
from esper_audit.reporters.alerts import ERROR, HOME, LEVELS, NOTE, WARNING, details, page_url
from esper_audit.reporters.escape import inline, visible
from esper_audit.reporters.json import write
from esper_audit.reporters.options import RenderOptions

_SEVERITIES = {ERROR: "ERROR", WARNING: "WARNING", NOTE: "INFO"}


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write the active findings. Paths stay as they are: reviewdog runs where the tool does."""
    del options
    write(
        {
            "source": {"name": "esper-audit", "url": HOME},
            "diagnostics": [_diagnostic(finding, report) for finding in report.active],
        },
        sink,
    )


def _diagnostic(finding: Finding, report: AuditReport) -> dict[str, Any]:
    url = page_url(finding.code, finding.name)
    suggestions = _suggestions(finding, report)
    related = [
        {"message": inline(other.message), "location": {"path": other.span.path, "range": _range(other.span, report)}}
        for other in finding.related
    ]
    return {
        "message": "\n".join(map(inline, [finding.message, *details(finding)])),
        "location": {"path": finding.span.path, "range": _range(finding.span, report)},
        "severity": _SEVERITIES[LEVELS[finding.severity]],
        "code": {"value": visible(finding.code), **({"url": url} if url else {})},
        **({"suggestions": suggestions} if suggestions else {}),
        **({"related_locations": related} if related else {}),
    }


def _suggestions(finding: Finding, report: AuditReport) -> list[dict[str, Any]]:
    """A safe fix of one edit in the file of the finding: reviewdog offers each suggestion alone, and has no others."""
    fix = finding.fix
    if fix is None or not fix.safe or len(fix.edits) != 1:
        return []
    edit = fix.edits[0]
    place = _range(edit.span, report)
    if edit.span.path != finding.span.path or "column" not in place["start"]:
        return []
    return [{"range": place, "text": edit.text}]


def _range(span: Span, report: AuditReport) -> dict[str, dict[str, int]]:
    """The lines, and the columns where the source is known: the format counts them in bytes of UTF-8."""
    lines = report.sources.get(span.path, ())
    if max(span.line, span.end_line) > len(lines):
        return {"start": {"line": span.line}, "end": {"line": span.end_line}}
    return {
        "start": {"line": span.line, "column": _byte_column(lines[span.line - 1], span.column)},
        "end": {"line": span.end_line, "column": _byte_column(lines[span.end_line - 1], span.end_column)},
    }


def _byte_column(line: str, column: int) -> int:
    return len(line[: column - 1].encode("utf-8", "surrogatepass")) + 1
