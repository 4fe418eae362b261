"""The six sections of the Markdown audit: each finding with its place, reason, cure and proof."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from esper_audit.core.findings import Category, Finding, Highlight, Verdict
from esper_audit.core.report import AuditReport, RuleInfo
from esper_audit.reporters import words
from esper_audit.reporters.escape import code_span, fence, inline, slug
from esper_audit.reporters.excerpt import Mark, excerpt_text
from esper_audit.reporters.markdown_blocks import bullets
from esper_audit.reporters.pages import code_blocks, sections

TITLES = {
    Category.COMPILE: "torch.compile",
    Category.DEVICE: "Device and dtype",
    Category.GRADIENT: "Gradient flow and numerics",
    Category.MEMORY: "Memory",
    Category.INTEGRATION: "Integration contracts",
    Category.QUALITY: "Code quality and initialisation",
}
_SNIPPET_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """A finding with its number in the document; `first` is the number that explains this code to the reader."""

    finding: Finding
    number: str
    first: str

    @property
    def heading(self) -> str:
        """The text of its heading."""
        return f"{self.number} {inline(f'{self.finding.code} {self.finding.name}')} ({self.finding.severity.value})"

    @property
    def link(self) -> str:
        """A link to its heading."""
        return f"[{self.number}](#{slug(self.heading)})"


def numbered(report: AuditReport) -> list[Entry]:
    """The active findings by section, most pressing first, numbered like `3.1`."""
    entries: list[Entry] = []
    explained: dict[str, str] = {}
    for chapter, category in enumerate(Category, 1):
        mine = (finding for finding in report.active if finding.category is category)
        for position, finding in enumerate(sorted(mine, key=words.priority), 1):
            number = f"{chapter}.{position}"
            entries.append(Entry(finding, number, explained.setdefault(finding.code, number)))
    return entries


def section_blocks(report: AuditReport, entries: list[Entry]) -> Iterator[str]:
    """All six sections, empty ones included: silence is a result too."""
    rules = {rule.code: rule for rule in report.rules}
    for chapter, category in enumerate(Category, 1):
        yield f"## {chapter}. {TITLES[category]}"
        mine = [entry for entry in entries if entry.finding.category is category]
        if not mine:
            yield _silence(sum(rule.category is category for rule in report.rules))
        for entry in mine:
            yield from _finding(entry, report, rules.get(entry.finding.code))
        praised = [highlight for highlight in report.highlights if highlight.category is category]
        if praised:
            yield "**Good patterns**"
            yield bullets(map(_highlight, praised))


def _silence(rules: int) -> str:
    """No finding means something only if somebody looked."""
    if not rules:
        return "No rule of this section looked at anything."
    return f"No findings; {words.count(rules, 'rule')} looked."


def _highlight(highlight: Highlight) -> str:
    return f"{inline(highlight.message)} ({code_span(f'{highlight.path}:{highlight.line}')}, {inline(highlight.code)})"


def _finding(entry: Entry, report: AuditReport, rule: RuleInfo | None) -> Iterator[str]:
    finding = entry.finding
    page = sections(rule.page) if rule and entry.number == entry.first else {}
    yield f"### {entry.heading}"
    yield f"**Where:** {where(finding)}{f', in {code_span(finding.symbol)}' if finding.symbol else ''}"
    yield from _snippets(finding, report)
    yield f"**Issue:** {inline(finding.message)}"
    if entry.number != entry.first:
        yield f"**Impact:** as for finding {entry.first}."
    elif impact := page.get("Why it matters"):
        yield _labelled("Impact", impact)
    yield from _recommendation(finding, page.get("Use instead", ""))
    yield f"**Evidence:** {_evidence(finding, rule)}"
    if finding.reason:
        yield f"**Baseline:** {inline(finding.reason)}"
    if known := page.get("Evidence"):
        yield _labelled("Known from elsewhere", known)
    yield f"**How to verify:** {_how_to_verify(finding, rule)}"


def _labelled(label: str, markdown: str) -> str:
    """A label before a page's section, on a line of its own when the section begins with a list or with code."""
    starts_with_prose = markdown[:1].isalnum() or (markdown.startswith("`") and not is_code(markdown))
    gap = " " if starts_with_prose else "\n\n"
    return f"**{label}:**{gap}{markdown}"


def where(finding: Finding) -> str:
    """Path and line, as code."""
    return code_span(f"{finding.span.path}:{finding.span.line}")


def _snippets(finding: Finding, report: AuditReport) -> Iterator[str]:
    """The source with its carets, then each place in another file with its own words."""
    here = finding.span.path
    marks = [Mark(finding.span, sign="^")]
    marks.extend(Mark(related.span, related.message) for related in finding.related if related.span.path == here)
    yield from _snippet(report, here, marks)
    for related in finding.related:
        if related.span.path != here:
            yield f"See also {code_span(f'{related.span.path}:{related.span.line}')}: {inline(related.message)}"
            yield from _snippet(report, related.span.path, [Mark(related.span)])


def _snippet(report: AuditReport, path: str, marks: list[Mark]) -> list[str]:
    text = excerpt_text(report.sources.get(path, ()), marks, width=_SNIPPET_WIDTH)
    return [fence(text, "text")] if text else []


def _recommendation(finding: Finding, instead: str) -> Iterator[str]:
    """The help of the finding, the code of the page, and the fix that the tool can apply."""
    blocks = help_blocks(finding.help)
    prose = blocks.pop(0) if blocks and not is_code(blocks[0]) else ""
    yield f"**Recommendation:** {prose}".rstrip()
    yield from blocks
    if instead and _plain(instead) != _plain(finding.help):  # the page of an experiment has no other advice
        yield code_blocks(instead)
    if finding.fix:
        kind = "a safe fix (`--fix`)" if finding.fix.safe else "a fix that changes behaviour (`--fix --unsafe-fixes`)"
        why = f"; {inline(finding.fix.why)}" if finding.fix.why else ""
        yield f"The tool offers {kind}: {inline(finding.fix.title)}{why}"


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").lower()


def help_blocks(text: str) -> list[str]:
    """Help is prose, with fenced code where it has some; both are rebuilt, so that neither can break out."""
    blocks: list[str] = []
    parts: list[str] = []
    in_code = False
    for line in [*text.split("\n"), "```"]:
        if line.strip().startswith("```"):
            blocks.extend(_code(parts) if in_code else _prose(parts))
            parts, in_code = [], not in_code
        else:
            parts.append(line)
    return blocks


def is_code(block: str) -> bool:
    """Whether a block of `help_blocks` is code."""
    return block.startswith("```")


def _code(lines: list[str]) -> list[str]:
    return [fence("\n".join(lines), "python")] if lines else []


def _prose(lines: list[str]) -> list[str]:
    text = "\n".join(inline(line) for line in lines if line.strip())
    return [text] if text else []


def _evidence(finding: Finding, rule: RuleInfo | None) -> str:
    measured = inline(finding.evidence)
    if finding.verdict is Verdict.UNTESTED:
        return f"static reading, {finding.confidence.value} confidence. {measured}".rstrip()
    probe = f" {code_span(rule.probe)}" if rule and rule.probe else ""
    origin = f"{'.' if measured else ''} An experiment found this, no rule did." if finding.origin == "probe" else ""
    return f"{words.OUTCOMES[finding.verdict]}{probe}{': ' if measured else '.'}{measured}{origin}"


def _how_to_verify(finding: Finding, rule: RuleInfo | None) -> str:
    probe = " --probe" if finding.origin == "probe" else ""  # no rule looks for it
    check = code_span(f"esper-audit check{probe} --select {finding.code} {shlex.quote(finding.span.path)}")
    after = f"after the change, {check} has nothing to say here."
    if finding.verdict is Verdict.UNTESTED or not rule or not rule.probe:
        return f"read the marked lines; {after}"
    return f"the experiment {code_span(rule.probe)} decided this; {after}"
