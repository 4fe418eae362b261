"""`--fix` and `--diff`: fixes are made in memory, judged by another audit, and written once all of them stand.

A round makes the fixes that do not overlap; what overlaps waits for the next. A fix stays only when the file still
compiles, the finding is gone and no other has come: else it is taken back and told.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from esper_audit.collect import Target
from esper_audit.console import system_reason, write_bytes
from esper_audit.core.edits import EditError, apply, compatible
from esper_audit.core.findings import Finding
from esper_audit.core.report import AuditReport
from esper_audit.engine import AuditorMaker, Plan, audit, make_auditor, read_standard_input
from esper_audit.reporters.escape import visible
from esper_audit.reporters.words import count
from esper_audit.semantics.source import Source, read_bytes

ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Change:
    """One file, as it was and as the fixes leave it."""

    target: Target
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the fixes came to. `report` is the audit of what they leave; `more` fixes wait for `--unsafe-fixes`."""

    report: AuditReport
    changes: tuple[Change, ...] = ()
    fixed: int = 0
    more: int = 0
    notes: tuple[str, ...] = ()


def fix(
    plan: Plan,
    report: AuditReport,
    *,
    unsafe: bool = False,
    auditor: AuditorMaker = make_auditor,
    stdin: Callable[[], bytes] = read_standard_input,
) -> Outcome:
    """Make the fixes of a report in memory; nothing is written. `stdin` gives what standard input held, each time."""
    run = _Fixing(plan, unsafe, auditor, stdin)
    left = run.rounds(report)
    changes = [Change(each.target, each.before, each.now) for each in run.files.values() if each.now != each.before]
    more = sum(1 for finding in left.active if run.may_fix(finding, unsafe=True) and not unsafe)
    return Outcome(left, tuple(changes), run.fixed, more, tuple(run.notes))


def write(changes: Iterable[Change]) -> list[str]:
    """Write each changed file all at once; what could not be written, in words.

    A file that is not what the audit read is left alone: somebody else is at work there.
    """
    problems = []
    for change in changes:
        if change.target.stdin:
            continue
        name, path = change.target.display, change.target.path
        try:
            if read_bytes(path) != change.before:
                problems.append(f"{name}: not fixed, it has changed since it was audited")
                continue
            if not os.access(path, os.W_OK):
                problems.append(f"{name}: cannot be fixed: permission denied")
                continue
            write_bytes(path, change.after)
        except OSError as error:
            problems.append(f"{name}: cannot be fixed: {system_reason(error)}")
    return problems


def unified_diff(change: Change) -> bytes:
    """The change as a patch, in the bytes of the file."""
    import difflib

    name = visible(change.target.display).encode("utf-8", "backslashreplace")
    before, after = (data.split(b"\n") for data in (change.before, change.after))
    pieces = [[*(line + b"\n" for line in part[:-1]), *(part[-1:] if part[-1] else [])] for part in (before, after)]
    return b"".join(
        line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
        for line in difflib.diff_bytes(difflib.unified_diff, pieces[0], pieces[1], name, name)
    )


def summary(outcome: Outcome, *, written: bool) -> str:
    """`fixed 3 findings in 2 files, 1 more with --unsafe-fixes`; empty when there is nothing to say."""
    told = []
    if outcome.fixed:
        verb = "fixed" if written else "would fix"
        told.append(f"{verb} {count(outcome.fixed, 'finding')} in {count(len(outcome.changes), 'file')}")
    elif outcome.more:
        told.append("nothing to fix safely")
    if outcome.more:
        told.append(f"{outcome.more} more with --unsafe-fixes")
    return ", ".join(told)


@dataclass(slots=True)
class _File:
    target: Target
    before: bytes
    now: bytes


@dataclass
class _Fixing:
    """The state of one run of fixes."""

    plan: Plan
    unsafe: bool
    make_auditor: AuditorMaker
    stdin: Callable[[], bytes]
    files: dict[str, _File] = field(default_factory=dict)
    fixed: int = 0
    notes: list[str] = field(default_factory=list)
    given_up: set[tuple[str, str, str, str]] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)  # files that are not edited

    def rounds(self, report: AuditReport) -> AuditReport:
        """Make fixes until none is left; the audit of what they leave."""
        # Experiments ran on the files as they are; rounds are judged by reading alone.
        self.plan = replace(self.plan, request=replace(self.plan.request, probe=False))
        self.given_up.update(_key(finding) for finding in report.refuted)
        named = {target.display: target for target in self.plan.collection.targets}
        for _ in range(ROUNDS):
            wanted = [finding for finding in report.active if self.may_fix(finding, unsafe=self.unsafe)]
            for path in {finding.span.path for finding in wanted} - self.files.keys():
                self._open(named[path], report)
            chosen = self._together([finding for finding in wanted if finding.span.path in self.files])
            if not chosen:
                break
            report = self._round(report, chosen)
        else:
            if any(self.may_fix(finding, unsafe=self.unsafe) for finding in report.active):
                self.notes.append(f"some fixes are left after {ROUNDS} rounds: run it again")
        return report

    def may_fix(self, finding: Finding, *, unsafe: bool) -> bool:
        """Whether a finding has a fix that may be made, in a file that was asked for."""
        return (
            finding.fix is not None
            and bool(finding.fix.edits)
            and (finding.fix.safe or unsafe)
            and all(edit.span.path == finding.span.path for edit in finding.fix.edits)
            and finding.span.path not in self.closed
            and any(finding.span.path == target.display for target in self.plan.collection.targets)
            and _key(finding) not in self.given_up
        )

    def _open(self, target: Target, report: AuditReport) -> None:
        """Read a file that is to be edited, unless that is not ours to do."""
        refusal = ""
        data = b""
        if target.stdin:
            data = self.stdin()
        else:
            real = Path(os.path.realpath(target.path))
            walked = [Path(os.path.realpath(folder)) for folder in self.plan.collection.walked]
            if not target.explicit and not any(folder in real.parents for folder in walked):
                refusal = "it is a link that leads out of the folder"
            if any(Path(os.path.realpath(each.target.path)) == real for each in self.files.values()):
                refusal = "it is fixed under its other name"
            try:
                data = read_bytes(target.path)
            except OSError as error:
                refusal = f"it cannot be read: {system_reason(error)}"
        if not refusal and Source(target.path, data).lines != report.sources.get(target.display):
            refusal = "it has changed since it was audited"
        if refusal:
            self.closed.add(target.display)
            self.notes.append(f"{target.display}: not fixed, {refusal}")
        else:
            self.files[target.display] = _File(target, data, data)

    def _together(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings whose fixes do not overlap."""
        chosen = []
        for path in sorted({finding.span.path for finding in findings}):
            here = [finding for finding in findings if finding.span.path == path]
            try:
                numbers = compatible(self.files[path].now, [each.fix.edits for each in here if each.fix])
            except EditError as error:
                self.closed.add(path)
                self.notes.append(f"{path}: not fixed, {error}")
                continue
            chosen += [here[number] for number in numbers]
        return chosen

    def _round(self, report: AuditReport, findings: Sequence[Finding]) -> AuditReport:
        """Make fixes, all at once if that goes well, else by halves until those that do harm are found."""
        base = {path: each.now for path, each in self.files.items()}
        accepted: list[Finding] = []
        left = report
        waiting = [list(findings)]
        while waiting:
            part = waiting.pop()
            attempt = [*accepted, *part]
            try:
                contents = _edited(base, attempt)
                after = self._audit(contents)
                fault = self._fault(report, after, attempt, base, contents)
            except EditError as error:
                fault = str(error)
            if not fault:
                accepted, left = attempt, after
                for path, data in contents.items():
                    self.files[path].now = data
            elif len(part) == 1:
                self.given_up.add(_key(part[0]))
                place = f"{part[0].span.path}:{part[0].span.line}"
                self.notes.append(f"{place}: the fix of {part[0].code} was taken back: {fault}")
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
        self.fixed += len(report.findings) - len(left.findings)  # one fix may cure two findings
        return left

    def _audit(self, contents: Mapping[str, bytes]) -> AuditReport:
        overlay: dict[Path, bytes] = {}
        for path, data in contents.items():
            target = self.files[path].target
            overlay[target.path] = overlay[Path(os.path.realpath(target.path))] = data
        piped = next((contents[path] for path, each in self.files.items() if each.target.stdin), None)
        stdin = self.stdin if piped is None else lambda: piped
        return audit(self.plan, auditor=self.make_auditor, stdin=stdin, overlay=overlay)

    @staticmethod
    def _fault(
        before: AuditReport,
        after: AuditReport,
        made: Sequence[Finding],
        old: Mapping[str, bytes],
        new: Mapping[str, bytes],
    ) -> str:
        """What is wrong with a round, in a few words; empty when nothing is."""
        for path, data in new.items():
            if data != old[path] and _compiles(old[path], path) and not _compiles(data, path):
                return "the file would not compile"
        failed = {file.path for file in before.files if file.error}
        for file in after.files:
            if file.error and file.path not in failed:
                return f"the audit of {file.path} would fail"
        allowed = Counter(map(_group, before.findings))
        cured = Counter(map(_group, made))
        for group, number in Counter(map(_group, after.findings)).items():
            if number > allowed[group] - cured[group]:
                path, code, _ = group
                return f"{code} would still be there" if cured[group] else f"{code} would come up in {path}"
        return ""


def _edited(base: Mapping[str, bytes], findings: Sequence[Finding]) -> dict[str, bytes]:
    contents = dict(base)
    for path in {finding.span.path for finding in findings}:
        edits = [edit for each in findings if each.span.path == path and each.fix for edit in each.fix.edits]
        contents[path] = apply(base[path], edits)
    return contents


def _compiles(data: bytes, path: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _group(finding: Finding) -> tuple[str, str, str]:
    return finding.span.path, finding.code, finding.symbol


def _key(finding: Finding) -> tuple[str, str, str, str]:
    return finding.span.path, finding.code, finding.message, finding.fingerprint
