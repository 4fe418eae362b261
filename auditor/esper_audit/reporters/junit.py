"""JUnit XML: the audit as a test run, for CI servers that show nothing else. A file is a suite, a finding a failure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import TextIO

from esper_audit.core.findings import Finding
from esper_audit.core.report import AuditReport, FileReport
from esper_audit.reporters import words
from esper_audit.reporters.alerts import details
from esper_audit.reporters.escape import visible
from esper_audit.reporters.options import RenderOptions


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write the document, in pure ASCII: it is the same in every encoding."""
    del options
    root = ET.Element("testsuites", name="esper-audit")
    findings: dict[str, list[Finding]] = {}
    for finding in report.active:
        findings.setdefault(finding.span.path, []).append(finding)
    files = {file.path: file for file in report.files}
    looked_at = {file.path for file in (*words.examined_files(report), *words.failed_files(report))}
    for path in sorted({*findings, *looked_at}):
        root.append(_suite(path, findings.get(path, []), files.get(path)))
    if not len(root):  # servers take a run without any test for a broken one
        root.append(_counted(ET.Element("testsuite", name="esper-audit"), [_case("esper-audit", "nothing to audit")]))
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ET.indent(root)
    sink.write(f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="us-ascii").decode("ascii")}\n')


def _suite(path: str, findings: list[Finding], file: FileReport | None) -> ET.Element:
    shown = visible(path)
    cases = [_finding(shown, finding) for finding in findings]
    if file is not None and file.status in words.FAILED:
        case = _case(shown, "could not be audited")
        ET.SubElement(case, "error", type=file.status, message=visible(words.failure(file)))
        cases.append(case)
    suite = ET.Element("testsuite", name=shown, file=shown)
    return _counted(suite, cases or [_case(shown, "no findings")])


def _counted(suite: ET.Element, cases: Iterable[ET.Element]) -> ET.Element:
    suite.extend(cases)
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    return suite


def _case(path: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=path, name=name, time="0")


def _finding(path: str, finding: Finding) -> ET.Element:
    span = finding.span
    case = _case(path, visible(f"{finding.code} {finding.name} at {span.line}:{span.column}"))
    failure = ET.SubElement(case, "failure", type=finding.severity.value, message=visible(finding.message))
    where = f"{path}:{span.line}:{span.column}: {visible(finding.code)} {visible(finding.message)}"
    failure.text = "\n".join([where, *details(finding)])
    return case
