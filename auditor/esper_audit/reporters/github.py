"""Annotations of a GitHub workflow as commands on standard output, and the summary of its step.

The runner reads each line that begins with `::`. What is told comes from audited files: a line end, a percent sign or
a colon in the wrong place would end a command or begin another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from esper_audit.core.findings import Finding
from esper_audit.core.report import AuditReport, FileReport
from esper_audit.reporters import words
from esper_audit.reporters.alerts import ERROR, LEVELS, NOTE, WARNING, details, in_checkout
from esper_audit.reporters.escape import code_span, inline, visible
from esper_audit.reporters.markdown_blocks import table
from esper_audit.reporters.options import RenderOptions

SUMMARY_LIMIT = 1024 * 1024  # bytes; GitHub drops the whole summary of a step when it is larger
_COMMANDS = {ERROR: "error", WARNING: "warning", NOTE: "notice"}
_Place = dict[str, str | int]
_HEAD = ("severity", "code", "finding", "where", "verdict")


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """One annotation per finding, most pressing first, since GitHub shows ten of a kind and step; then the summary."""
    lines = [_failure(file, options) for file in words.failed_files(report)]
    lines += [_annotation(finding, options) for finding in sorted(report.active, key=words.priority)]
    if not options.quiet:
        lines.append(words.summary(report))
    sink.writelines(f"{line}\n" for line in lines)


def _annotation(finding: Finding, options: RenderOptions) -> str:
    span = finding.span
    place: _Place = {"file": in_checkout(span.path, options), "line": span.line, "endLine": span.end_line}
    if span.line == span.end_line:  # GitHub shows no annotation with columns on several lines
        place |= {"col": span.column, "endColumn": span.end_column}
    # the log shows the message alone, hence the place in its first line
    first = f"{span.path}:{span.line}:{span.column}: {finding.code} {finding.message}"
    command = _COMMANDS[LEVELS[finding.severity]]
    return _command(command, f"{finding.code} {finding.name}", place, [first, *details(finding)])


def _failure(file: FileReport, options: RenderOptions) -> str:
    place: _Place = {"file": in_checkout(file.path, options)}
    if file.error_line:
        place["line"] = file.error_line
    at = f"{file.path}:{file.error_line}" if file.error_line else file.path
    return _command("error", "esper-audit", place, [f"{at}: {words.failure(file)}"])


def _command(name: str, title: str, place: _Place, lines: list[str]) -> str:
    properties = ",".join(f"{key}={_property(str(value))}" for key, value in {"title": title, **place}.items())
    return f"::{name} {properties}::" + "%0A".join(_data(line) for line in lines)


def _data(text: str) -> str:
    """One line of a message; the hidden characters, CR and LF among them, have become visible escapes."""
    return visible(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# --- the summary of the step


def step_summary(report: AuditReport, *, room: int = SUMMARY_LIMIT) -> str:
    """The audit in short, as Markdown of at most `room` bytes; what does not fit is counted."""
    findings = sorted(report.active, key=words.priority)
    head = "\n\n".join(_heading(report)) + "\n\n"
    rows = [_row(finding) for finding in findings]
    page = head + (table(_HEAD, rows) + "\n\n" if rows else "")
    if len(page.encode("utf-8", "replace")) <= room:
        return page
    left = room - len(head.encode("utf-8", "replace")) - len(table(_HEAD, [])) - 200  # the last line wants some room
    shown = []
    for row in rows:
        left -= len(table(row, []).partition("\n")[0].encode("utf-8", "replace")) + 1
        if left < 0:
            break
        shown.append(row)
    rest = f"{words.count(len(rows) - len(shown), 'more finding')} did not fit; the log has them all.\n\n"
    page = f"{head}{table(_HEAD, shown)}\n\n{rest}" if shown else head + rest
    return page if len(page.encode("utf-8", "replace")) <= room else ""


def _heading(report: AuditReport) -> Iterator[str]:
    yield "## esper-audit"
    yield words.summary(report)
    failed = words.failed_files(report)
    if failed:
        rows = [(code_span(file.path), str(file.error_line or ""), inline(words.failure(file))) for file in failed[:20]]
        yield table(("could not be audited", "line", "why"), rows)
        if len(failed) > len(rows):
            yield f"and {words.count(len(failed) - len(rows), 'more file')}."


def _row(finding: Finding) -> tuple[str, ...]:
    verdict = words.OUTCOMES.get(finding.verdict, "static reading")
    place = code_span(f"{finding.span.path}:{finding.span.line}")
    return (finding.severity.value, inline(finding.code), inline(finding.message), place, verdict)
