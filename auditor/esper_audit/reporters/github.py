"""Annotations of a GitHub workflow as commands on standard output, and the summary of its step.

The runner reads each line that begins with `::`. What is told comes from audited files: a line end, a percent sign or
a colon in the wrong place would end a command or begin another one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
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
    """The audit in short, as Markdown of at most `room` bytes; findings that do not fit are counted."""
    head = "\n\n".join(_heading(report))
    findings = sorted(report.active, key=words.priority)
    lines = table(_HEAD, map(_row, findings)).split("\n") if findings else []
    page = _page(head, lines, 0)
    if _size(page) > room:
        left = room - _size(_page(head, lines[:2], len(findings)))
        shown = bisect_right(list(accumulate(_size(line) + 1 for line in lines[2:])), left)
        page = _page(head, lines[: 2 + shown], len(findings) - shown)
    return page if _size(page) <= room else ""


def _page(head: str, lines: list[str], missing: int) -> str:
    rest = f"{words.count(missing, 'more finding')} did not fit; the log has them all." if missing else ""
    return "".join(f"{block}\n\n" for block in (head, "\n".join(lines), rest) if block)


def _size(text: str) -> int:
    return len(text.encode("utf-8"))


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
