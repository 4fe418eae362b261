"""Diagnostics for a person at a prompt: each finding with its piece of source, or one line per finding.

The lines carry tones and no colours; `terminal` paints the very same lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from esper_audit.core.findings import Finding, Span, Verdict
from esper_audit.core.report import AuditReport, FileReport
from esper_audit.reporters import words
from esper_audit.reporters.escape import visible
from esper_audit.reporters.excerpt import Mark, excerpt, gutter_line, gutter_width
from esper_audit.reporters.layout import BLANK, Line, Segment, hanging, line_text
from esper_audit.reporters.options import RenderOptions

_HEADER_INDENT = 4


def render_full(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Every finding with its excerpt, then the summary."""
    _write(full_lines(report, options), sink)


def render_concise(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """One line per finding, then the summary."""
    _write(concise_lines(report, options), sink)


def render_experiments(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Every experiment with its number."""
    _write(experiment_lines(report, options), sink)


_PART = " " * 10  # before what an experiment tells part by part
_MARKS = {Verdict.CONFIRMED: "holds", Verdict.REFUTED: "FAILS", Verdict.INCONCLUSIVE: "open"}
_TONES = {Verdict.CONFIRMED: "refuted", Verdict.REFUTED: "confirmed", Verdict.INCONCLUSIVE: "inconclusive"}


def experiment_lines(report: AuditReport, options: RenderOptions) -> Iterator[Line]:
    """What was claimed and what was measured, network by network, as lines with tones."""
    subjects = dict.fromkeys(result.subject for result in report.probes)
    for subject in subjects:
        results = [result for result in report.probes if result.subject == subject]
        yield (Segment(visible(subject), "label"), Segment(f"  (torch {visible(report.torch_version)})", "dim"))
        width = max(len(result.id) for result in results)
        for result in results:
            mild = result.verdict is Verdict.REFUTED and not result.decisive
            mark, tone = ("no", "note") if mild else (_MARKS[result.verdict], _TONES[result.verdict])
            lead = (Segment(f"  {mark:<6}", tone), Segment(f"{visible(result.id):<{width}}  "))
            said = result.measured or result.error
            yield from hanging(lead, said, tone="", width=options.width, indent=width + 10)
            yield from _table_lines(result.table, options.width)
        told = [each for each in results if each.decisive or each.verdict is not Verdict.REFUTED]
        tally = Counter(_MARKS[each.verdict] for each in told)
        counts = f"{tally['holds']} of {len(results)} claims hold, {tally['FAILS']} fail, {tally['open']} undecided"
        yield (Segment(f"  {counts}", "summary"),)
        yield BLANK
    if not subjects:
        yield (Segment("No network was tried."),)


def _table_lines(table: Sequence[Sequence[str]], width: int) -> Iterator[Line]:
    """What an experiment tells part by part: names to the left, numbers to the right; row by row where it is narrow."""
    rows = [[visible(cell.replace("`", "")) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if len(_PART) + sum(widths) + 2 * len(widths) > width:
        for first, *rest in rows[1:]:
            said = ", ".join(f"{head} {cell}" for head, cell in zip(rows[0][1:], rest, strict=True))
            yield from hanging((Segment(f"{_PART}{first}: "),), said, tone="", width=width, indent=len(_PART) + 2)
        return
    for number, (first, *rest) in enumerate(rows):
        cells = [f"{first:<{widths[0]}}", *(f"{cell:>{room}}" for cell, room in zip(rest, widths[1:], strict=True))]
        yield (Segment(_PART + "  ".join(cells), "" if number else "dim"),)


def _write(lines: Iterable[Line], sink: TextIO) -> None:
    sink.writelines(f"{line_text(line)}\n" for line in lines)


def full_lines(report: AuditReport, options: RenderOptions) -> Iterator[Line]:
    """The `full` style as lines with tones."""
    for file in words.failed_files(report):
        yield _error(file)
        yield BLANK
    for finding, state in _shown(report, options):
        yield from diagnostic(finding, report, width=options.width, state=state)
        yield BLANK
    yield from _closing(report, options)


def concise_lines(report: AuditReport, options: RenderOptions) -> Iterator[Line]:
    """The `concise` style as lines with tones."""
    for file in words.failed_files(report):
        yield _error(file)
    for finding, state in _shown(report, options):
        remark = f" [{state}: {visible(_why(finding, state))}]" if state else _came_back(finding)
        yield (
            Segment(f"{_place(finding.span)}: ", "path"),
            Segment(visible(finding.code), finding.severity.value),
            Segment(f" {visible(finding.message)}"),
            Segment(remark, "dim"),
        )
    if options.statistics and report.active and not options.quiet:
        yield BLANK
    yield from _closing(report, options)


def _shown(report: AuditReport, options: RenderOptions) -> Iterator[tuple[Finding, str]]:
    """The findings to show and, for those that cannot fail a run, why not."""
    for finding in report.active:
        yield finding, ""
    if options.show_refuted:
        for finding in report.refuted:
            yield finding, "refuted"
    if options.show_suppressed:
        for finding in report.suppressed:
            yield finding, "suppressed"
    if options.show_baselined:
        for finding in report.baselined:
            yield finding, "baselined"


def _came_back(finding: Finding) -> str:
    """A confirmed finding of the baseline says where it comes from."""
    return f" [{visible(finding.reason)}]" if finding.reason else ""


def _why(finding: Finding, state: str) -> str:
    text = finding.evidence if state == "refuted" else finding.reason
    return text or "no reason given"


def _error(file: FileReport) -> Line:
    line = f":{file.error_line}" if file.error_line else ""
    return (
        Segment("error", "error"),
        Segment(": "),
        Segment(f"{visible(file.path)}{line}", "path"),
        Segment(f": {visible(words.failure(file))}"),
    )


def _place(span: Span) -> str:
    return f"{visible(span.path)}:{span.line}:{span.column}"


def diagnostic(finding: Finding, report: AuditReport, *, width: int, state: str = "") -> list[Line]:
    """One finding in full: header, excerpts of every file it touches, and the lines that help."""
    tone = finding.severity.value
    heading = (
        Segment(f"{finding.severity.value}[{visible(finding.code)}]", tone),
        Segment(f" {state}" if state else "", "dim"),
        Segment(": "),
    )
    lines = hanging(heading, finding.message, tone="message", width=width, indent=_HEADER_INDENT)
    places = _places(finding)
    gutter = max(gutter_width(report.sources.get(path, ()), marks) for path, marks in places.items())
    arrow = "-->"
    for path, marks in places.items():
        source = report.sources.get(path, ())
        lines.extend(_places_in_file(marks, excerpt(source, marks, gutter=gutter, width=width), arrow, gutter))
        arrow = ":::"
    for label, text, label_tone in _notes(finding, report, state):
        lead = (Segment(f"{'':>{gutter}} = ", "gutter"), Segment(f"{label}: ", label_tone))
        lines.extend(hanging(lead, text, tone="", width=width, indent=gutter + len(" = ") + _HEADER_INDENT))
    return lines


def _places(finding: Finding) -> dict[str, list[Mark]]:
    """The marks of a finding by file, the file of the finding itself first."""
    places = {finding.span.path: [Mark(finding.span, tone=finding.severity.value, sign="^")]}
    for related in finding.related:
        places.setdefault(related.span.path, []).append(Mark(related.span, related.message))
    return places


def _places_in_file(marks: list[Mark], shown: list[Line], arrow: str, gutter: int) -> list[Line]:
    """Where, and what stands there; a file whose source was not kept still gets its places and their words."""
    where = Segment(f"{'':>{gutter}}{arrow} ", "gutter")
    if not shown:
        return [(where, Segment(_place(mark.span), "path"), Segment(_tail(mark.label), mark.tone)) for mark in marks]
    return [(where, Segment(_place(marks[0].span), "path")), gutter_line(gutter), *shown, gutter_line(gutter)]


def _tail(label: str) -> str:
    return f": {visible(label)}" if label else ""


def _notes(finding: Finding, report: AuditReport, state: str) -> Iterator[tuple[str, str, str]]:
    """Label, text and tone of the lines below an excerpt."""
    if finding.confidence.value != "high" and not state:
        yield "confidence", finding.confidence.value, "note"
    if finding.help:
        yield "help", _without_fences(finding.help), "help"
    if finding.fix:
        flags = "safe: --fix" if finding.fix.safe else "changes behaviour: --fix --unsafe-fixes"
        if finding.fix.why:
            flags = f"--fix --unsafe-fixes: {finding.fix.why}"
        yield "fix", f"{finding.fix.title} ({flags})", "help"
    if finding.verdict is not Verdict.UNTESTED:
        yield _probe_label(finding, report), _verdict(finding), finding.verdict.value
    elif finding.evidence:
        yield "evidence", finding.evidence, "note"
    if state in ("suppressed", "baselined"):
        yield "reason", _why(finding, state), "note"
    elif finding.reason and not state:
        yield "baseline", finding.reason, "note"
    yield "page", f"esper-audit explain {finding.code}", "note"


def _without_fences(text: str) -> str:
    """Help may hold fenced code for the Markdown report; a terminal needs the code and not the fence."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("```"))


def _probe_label(finding: Finding, report: AuditReport) -> str:
    probe = next((rule.probe for rule in report.rules if rule.code == finding.code), None)
    return f"probe {visible(probe)}" if probe else "probe"


def _verdict(finding: Finding) -> str:
    verdict = finding.verdict.value.upper()
    return f"{verdict}, {finding.evidence}" if finding.evidence else verdict


def _closing(report: AuditReport, options: RenderOptions) -> Iterator[Line]:
    if options.quiet:
        return
    if options.statistics and report.active:
        yield from _statistics(report)
        yield BLANK
    yield (Segment(words.summary(report, pointer=True), "summary"),)


def _statistics(report: AuditReport) -> Iterator[Line]:
    """How often each code was found, most frequent first."""
    tally = Counter((finding.code, finding.severity.value, finding.name) for finding in report.active)
    digits = len(str(max(tally.values())))
    for (code, severity, name), number in sorted(tally.items(), key=lambda item: (-item[1], item[0])):
        yield (
            Segment(f"{number:>{digits}}  "),
            Segment(visible(code), severity),
            Segment(f"  {severity:<8}  {visible(name)}"),
        )
