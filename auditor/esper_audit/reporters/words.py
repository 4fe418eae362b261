"""The sentences that several reports share, so that the same audit is summed up in the same words everywhere."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.core.findings import Finding, Verdict
from esper_audit.core.report import AuditReport, FileReport

_EXAMINED = ("audited", "cached")
FAILED = ("unparsable", "crashed")
OUTCOMES = {
    Verdict.CONFIRMED: "confirmed by experiment",
    Verdict.REFUTED: "refuted by experiment",
    Verdict.INCONCLUSIVE: "left undecided by experiment",
}


def count(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def failed_files(report: AuditReport) -> tuple[FileReport, ...]:
    """Files the audit could not read or look through."""
    return tuple(file for file in report.files if file.status in FAILED)


def examined_files(report: AuditReport) -> tuple[FileReport, ...]:
    """Files that were really looked at, now or by an earlier run whose result was kept."""
    return tuple(file for file in report.files if file.status in _EXAMINED)


def failure(file: FileReport) -> str:
    """What went wrong with a file, never empty."""
    return file.error or {"unparsable": "the file does not parse", "crashed": "the audit of this file failed"}.get(
        file.status, file.status
    )


def severities(report: AuditReport) -> str:
    """`1 high, 4 medium`, worst first, without zeros."""
    return ", ".join(f"{number} {name}" for name, number in report.severity_counts().items() if number)


def looked_at(report: AuditReport) -> str:
    """`3 files, 2 networks`."""
    return f"{count(len(examined_files(report)), 'file')}, {count(report.summary()['networks'], 'network')}"


def summary(report: AuditReport, *, pointer: bool = False) -> str:
    """What was found and what was looked at, in one line; `pointer` names the format that tells the good patterns."""
    extras = "; ".join(_extras(report, pointer=pointer and bool(report.active)))
    if report.active:
        found = f"{count(len(report.active), 'finding')} ({severities(report)}) in {looked_at(report)}"
        return f"{found}; {extras}" if extras else found
    return f"No findings in {looked_at(report)} ({extras})." if extras else f"No findings in {looked_at(report)}."


def _extras(report: AuditReport, *, pointer: bool) -> Iterable[str]:
    numbers = report.summary()
    if failed := len(failed_files(report)):
        yield f"{count(failed, 'file')} could not be audited"
    if numbers["refuted"]:
        yield f"{numbers['refuted']} refuted by experiment"
    if numbers["highlights"]:
        yield count(numbers["highlights"], "good pattern") + (" (--format markdown tells them)" if pointer else "")
    if report.hidden:
        yield f"{report.hidden} hidden by --min-severity or --min-confidence"
    if report.unchanged:
        yield f"{report.unchanged} on lines that did not change"
    if numbers["suppressed"]:
        yield f"{numbers['suppressed']} suppressed"
    if numbers["baselined"]:
        yield f"{numbers['baselined']} in the baseline"
    if skipped := numbers["statuses"].get("skipped", 0):
        yield f"{count(skipped, 'file')} skipped"


def priority(finding: Finding) -> tuple[int, bool, int, tuple[str, int, str, int, str]]:
    """Sort key, most pressing first: severity, then what an experiment confirmed, then confidence, then place."""
    unconfirmed = finding.verdict is not Verdict.CONFIRMED
    return (-finding.severity.rank, unconfirmed, -finding.confidence.rank, finding.sort_key)
