"""The audit as a document: what a person hands to a colleague, attaches to an issue or keeps beside the network.

Built like an audit written by hand (DESIGN 9), but each claim says what it rests on. Everything that comes from an
audited file passes through `escape`; only the pages of rules are Markdown in their own right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from esper_audit import __version__
from esper_audit.core.findings import Category, Finding, Severity, Verdict
from esper_audit.core.report import AuditReport, FileReport, NetworkCard, ProbeResult
from esper_audit.reporters import words
from esper_audit.reporters.escape import code_span, inline
from esper_audit.reporters.markdown_blocks import bullets, table
from esper_audit.reporters.markdown_findings import (
    TITLES,
    Entry,
    help_blocks,
    is_code,
    numbered,
    section_blocks,
    where,
)
from esper_audit.reporters.mermaid import flowchart
from esper_audit.reporters.options import RenderOptions


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write the whole document."""
    entries = numbered(report)
    blocks = [
        *_head(report, options),
        *_executive_summary(report),
        *_examined(report),
        *section_blocks(report, entries),
        *_all_findings(entries),
        *_recommendations(entries),
        *_positive(report),
        *_conformance(report),
        *_refuted(report),
        *_set_aside(report),
        *_method(report),
    ]
    sink.write("\n\n".join(blocks) + "\n")


# Head and summary


def _head(report: AuditReport, options: RenderOptions) -> Iterator[str]:
    paths = [file.path for file in words.examined_files(report)] or [file.path for file in report.files]
    yield f"# Audit of {code_span(paths[0]) if len(paths) == 1 else words.count(len(paths), 'file')}"
    facts = [f"**Auditor:** esper-audit {__version__}"]
    if options.date and not options.reproducible:
        facts.append(f"**Date:** {inline(options.date)}")
    facts.append(f"**PyTorch:** {inline(report.torch_version) or 'static only, not used'}")
    facts.append(f"**Looked at:** {words.looked_at(report)}")
    yield bullets(facts)


def _executive_summary(report: AuditReport) -> Iterator[str]:
    yield "## Executive summary"
    yield f"**Overall: {_assessment(report)}.** {_grounds(report)}"
    if failed := len(words.failed_files(report)):
        yield f"**The audit is incomplete:** {words.count(failed, 'file')} could not be audited; see the table below."
    yield table(("severity", "findings", "confirmed", "static reading only", "undecided"), _counts(report))
    if report.highlights:
        yield f"On the good side: {words.count(len(report.highlights), 'pattern')} worth keeping."


def _assessment(report: AuditReport) -> str:
    """One clause that claims no more than the counts do."""
    worst = max((finding.severity for finding in report.active), key=lambda severity: severity.rank, default=None)
    if worst is None:
        networks = report.summary()["networks"]
        if report.hidden:
            return f"nothing at or above the thresholds of this run, and {report.hidden} hidden below them"
        return "no fault found" if networks else "nothing to judge, since no network was found"
    number = words.count(report.severity_counts()[worst.value], f"{worst.value} finding")
    return {
        Severity.CRITICAL: f"not fit for training as it stands ({number})",
        Severity.HIGH: f"needs work before a training run can be trusted ({number})",
        Severity.MEDIUM: f"usable with care ({number} to settle)",
        Severity.LOW: "in good order, with small matters to tidy up",
        Severity.INFO: "in good order",
    }[worst]


def _grounds(report: AuditReport) -> str:
    """What the judgement rests on."""
    verdicts = Counter(finding.verdict for finding in report.findings)
    if not report.probes and set(verdicts) <= {Verdict.UNTESTED}:
        return "This rests on static reading only: no code was executed, and nothing was measured on this network."
    if not report.findings:
        return f"{words.count(len(report.probes), 'experiment')} ran beside the static reading."
    outcomes = {
        Verdict.CONFIRMED: "confirmed by experiment",
        Verdict.REFUTED: "refuted by experiment",
        Verdict.INCONCLUSIVE: "left undecided by experiment",
        Verdict.UNTESTED: "resting on static reading alone",
    }
    parts = ", ".join(f"{verdicts[verdict]} {outcome}" for verdict, outcome in outcomes.items() if verdicts[verdict])
    return f"Of {words.count(len(report.findings), 'suspicion')}: {parts}."


def _counts(report: AuditReport) -> Iterator[tuple[str, ...]]:
    tally = Counter((finding.severity, finding.verdict) for finding in report.active)
    columns = (Verdict.CONFIRMED, Verdict.UNTESTED, Verdict.INCONCLUSIVE)
    for severity in Severity:
        numbers = [tally[severity, verdict] for verdict in columns]
        yield (severity.value, str(sum(numbers)), *map(str, numbers))
    totals = [sum(tally[severity, verdict] for severity in Severity) for verdict in columns]
    yield ("**all**", str(sum(totals)), *map(str, totals))


# What was examined


def _examined(report: AuditReport) -> Iterator[str]:
    yield "## What was examined"
    looked_at = [file for file in report.files if file.status not in ("skipped", "consulted")]
    if looked_at:
        yield table(("file", "status", "networks", "remark"), map(_file_row, looked_at))
    if consulted := [file.path for file in report.files if file.status == "consulted"]:
        yield f"Consulted for facts about them: {_codes(tuple(consulted))}."
    if skipped := len(report.files) - len(looked_at) - len(consulted):
        yield f"{words.count(skipped, 'file')} skipped: torch does not occur in {'it' if skipped == 1 else 'them'}."
    elif not looked_at:
        yield "No files."
    for file in report.files:
        if file.status != "consulted":
            for card in file.networks:
                yield from _network_card(card, folded=not _concerns(card, report))


def _file_row(file: FileReport) -> tuple[str, ...]:
    networks = ", ".join(code_span(card.name) for card in file.networks)
    if file.status not in words.FAILED:
        # whether the cache knew a file is no fact about it, and would make two equal audits differ
        status = "audited" if file.status == "cached" else file.status
        return (code_span(file.path), inline(status), networks, "")
    place = f"line {file.error_line}: " if file.error_line else ""
    return (code_span(file.path), f"**{file.status}**", networks, f"{place}{inline(words.failure(file))}")


def _concerns(card: NetworkCard, report: AuditReport) -> bool:
    """Whether a finding is about this network: stands in it, or names it where it is called or compiled."""
    return any(
        finding.symbol.split(".")[0] == card.name or finding.span.path == card.path for finding in report.findings
    )


def _network_card(card: NetworkCard, *, folded: bool) -> Iterator[str]:
    """The card of a network; folded away where nothing was found, so that a folder's report shows its findings."""
    yield f"### Network {code_span(card.name)}"
    if folded:
        yield "<details><summary>nothing found here; what it is made of</summary>"
    yield from _card_body(card)
    if folded:
        yield "</details>"


def _card_body(card: NetworkCard) -> Iterator[str]:
    facts = {
        "Where": code_span(f"{card.path}:{card.line}"),
        "Kind": inline(card.kind),
        "Bases": _codes(card.bases),
        "Trunk": _codes(card.trunk),
        "Core": code_span(card.core),
        **({"Between core and heads": _codes(card.neck)} if card.neck else {}),
        "Masks": _codes(card.masks),
        "Sizes": ", ".join(f"{code_span(name)} {_default(value)}" for name, value in card.sizes),
    }
    yield bullets(f"**{name}:** {value or 'none known'}" for name, value in facts.items())
    if card.heads:
        heads = [(code_span(head.name), inline(head.role), code_span(head.size) or "unknown") for head in card.heads]
        yield table(("head", "role", "size"), heads)
    if card.methods:
        methods = [
            (code_span(method.name), inline(method.role), str(method.line), _codes(method.parameters))
            for method in card.methods
        ]
        yield table(("method", "role", "line", "parameters"), methods)
    if chart := flowchart(card):
        yield f"```mermaid\n{chart}\n```"


def _default(value: str) -> str:
    """The default of a size, as written."""
    if value == "required":
        return "(no default)"
    return f"= {code_span(value) or 'unknown'}"


def _codes(texts: tuple[str, ...]) -> str:
    return ", ".join(map(code_span, texts))


# The closing lists


def _all_findings(entries: list[Entry]) -> Iterator[str]:
    yield "## All findings"
    if not entries:
        yield "None."
        return
    yield table(
        ("§", "severity", "code", "finding", "where", "confidence", "verdict"),
        [
            (
                entry.link,
                entry.finding.severity.value,
                inline(entry.finding.code),
                inline(entry.finding.message),
                where(entry.finding),
                entry.finding.confidence.value,
                entry.finding.verdict.value,
            )
            for entry in entries
        ],
    )


def _recommendations(entries: list[Entry]) -> Iterator[str]:
    """One step per cure, most pressing first; findings that share a cure share a step."""
    yield "## Recommendations in order of priority"
    if not entries:
        yield "None."
        return
    steps: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: words.priority(entry.finding)):
        steps.setdefault((entry.finding.code, entry.finding.help), []).append(entry)
    yield "\n".join(f"{number}. {_step(step)}" for number, step in enumerate(steps.values(), 1))


def _step(step: list[Entry]) -> str:
    finding = step[0].finding
    prose = [block for block in help_blocks(finding.help) if not is_code(block)]
    cure = " ".join(prose).replace("\n", " ") or inline(finding.message)
    confirmed = ", confirmed" if finding.verdict is Verdict.CONFIRMED else ""
    links = ", ".join(entry.link for entry in step)
    return f"**{inline(finding.code)}** ({finding.severity.value}{confirmed}; {links}): {cure}"


def _positive(report: AuditReport) -> Iterator[str]:
    yield "## Positive highlights"
    if not report.highlights:
        yield "None."
        return
    order = list(Category)
    yield table(
        ("section", "what is good", "where", "code"),
        [
            (TITLES[item.category], inline(item.message), code_span(f"{item.path}:{item.line}"), inline(item.code))
            for item in sorted(report.highlights, key=lambda item: (order.index(item.category), item.sort_key))
        ],
    )


def _conformance(report: AuditReport) -> Iterator[str]:
    """Every claim, what was measured on the reference implementation, and what on each network of the audit."""
    if not report.probes:
        return
    yield "## Conformance"
    yield "What is claimed of a right network, measured on the reference implementation and on this one."
    for subject in dict.fromkeys(probe.subject for probe in report.probes):
        results = [probe for probe in report.probes if probe.subject == subject]
        holding = [probe for probe in results if probe.verdict is Verdict.CONFIRMED]
        rest = [probe for probe in results if probe.verdict is not Verdict.CONFIRMED]
        yield f"### Experiments on {code_span(subject)}"
        open_ = sum(probe.verdict is Verdict.INCONCLUSIVE for probe in rest)
        yield f"Claims that hold: {len(holding)} of {len(results)}" + (f"; undecided: {open_}." if open_ else ".")
        if rest:
            yield table(("experiment", "claim", "reference", "this network", ""), map(_probe_row, rest))
        if holding:
            yield "<details><summary>what holds, and what was measured</summary>"
            yield table(
                ("experiment", "claim", "reference", "this network"), (_probe_row(each)[:4] for each in holding)
            )
            yield "</details>"
        for result in results:
            if result.table:
                head, *rows = (tuple(map(inline, row)) for row in result.table)
                yield f"{code_span(result.id)}, {head[0]} by {head[0]}:"
                yield table(head, rows)


def _probe_row(probe: ProbeResult) -> tuple[str, ...]:
    """Without the seconds it took: they differ from run to run, and a report should not."""
    measured = inline(probe.measured or probe.error)
    fails = "**does not hold**" if probe.decisive else "does not hold, no fault by itself"
    holds = {Verdict.CONFIRMED: "holds", Verdict.REFUTED: fails}.get(probe.verdict, "undecided")
    return (code_span(probe.id), inline(probe.claim), inline(probe.reference), measured, holds)


def _refuted(report: AuditReport) -> Iterator[str]:
    yield "## Refuted by experiment"
    if not report.refuted:
        yield "None."
        return
    yield "Reading alone would have reported these; an experiment says otherwise, and they do not count as findings."
    yield table(
        ("code", "suspicion", "where", "measured"),
        [(*_short(finding), inline(finding.evidence) or "no number given") for finding in report.refuted],
    )


def _set_aside(report: AuditReport) -> Iterator[str]:
    yield "## Suppressed and baselined"
    if not (report.suppressed or report.baselined):
        yield "None."
        return
    rows = [
        (how, *_short(finding), inline(finding.reason) or "no reason given")
        for how, findings in (("suppressed", report.suppressed), ("baselined", report.baselined))
        for finding in findings
    ]
    yield table(("how", "code", "finding", "where", "reason"), rows)


def _short(finding: Finding) -> tuple[str, str, str]:
    return (inline(finding.code), inline(finding.message), where(finding))


# Method


def _method(report: AuditReport) -> Iterator[str]:
    yield "## Method and limits"
    yield bullets(_limits(report))


_READING = (
    "read the source without running it. A fact that the source does not tell is unknown, and a rule that meets an "
    "unknown fact stays silent, so that silence is no proof of correctness."
)
_EXPERIMENTS = (
    "Experiments ran the network on the CPU with fixed seeds and small made-up inputs. They decide the claim that they "
    "test and no other; the hardware and the data of a real training run may differ."
)
_NO_EXPERIMENTS = "No experiment was run: every finding rests on reading the source."
_CONSULTED = "of the project answered questions about the audited ones and got no audit."


def _limits(report: AuditReport) -> Iterator[str]:
    yield f"{words.count(len(report.rules), 'rule') if report.rules else 'The rules'} {_READING}"
    yield _EXPERIMENTS if report.probes else _NO_EXPERIMENTS
    if consulted := sum(file.status == "consulted" for file in report.files):
        yield f"{words.count(consulted, 'more file')} {_CONSULTED}"
    yield from map(inline, report.notes)
